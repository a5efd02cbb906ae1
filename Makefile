# What users and developers run. All of the work is done by the program in tests/e2e.

CACHE   := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/nodebootstrap
TRIPLE  := $(shell uname -m)-unknown-linux-gnu
PROFILE := testbed

# Beside the testbed's other caches, so that a fresh clone need not compile everything again.
export CARGO_TARGET_DIR ?= $(CACHE)/target
# Images are built from scratch, so that programs must be static. For the target only: proc macros cannot be.
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS  := -C target-feature=+crt-static
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS := -C target-feature=+crt-static

CARGO_BUILD := --locked --profile $(PROFILE) --target $(TRIPLE)
E2E := cargo run --quiet $(CARGO_BUILD) --package e2e --

.PHONY: help demo clean-demo test bench generate programs programs-folder fmt

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## A cluster on this machine, the operator on it, and the seed's example applied; stays up
	@$(E2E) demo

clean-demo: ## End the demo and all that it made
	@$(E2E) clean-demo

test: ## Every check and test there is
	@$(E2E) test

bench: ## The figures of docs/benchmarks.md, measured now
	@$(E2E) bench

generate: ## Write anew what is made from the types: crds/*.yaml, docs/api.md
	UPDATE_GENERATED=1 cargo test --quiet $(CARGO_BUILD) --package crds schema

programs: ## Build the static programs that the images hold
	cargo build $(CARGO_BUILD) --package operator --package node-agent --package testbed

programs-folder:
	@echo $(CARGO_TARGET_DIR)/$(TRIPLE)/$(PROFILE)
