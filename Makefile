# What users and developers run. All of the work is done by the program in tests/e2e.

CACHE   := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/nodebootstrap
TRIPLE  := $(shell uname -m)-unknown-linux-gnu
PROFILE := testbed

# Beside the testbed's other caches, so that a fresh clone need not compile everything again.
export CARGO_TARGET_DIR ?= $(CACHE)/target
# Images are built from scratch, so that programs must be static. For the target only: proc macros cannot be.
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS  := -C target-feature=+crt-static
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS := -C target-feature=+crt-static

# One selection of packages and targets for everything: with another one cargo chooses other features, and compiles all
# dependencies once more.
CARGO_ALL := --workspace --all-targets --locked --target $(TRIPLE)
FOLDER    := $(CARGO_TARGET_DIR)/$(TRIPLE)
export E2E_CARGO := $(CARGO_ALL) --profile $(PROFILE)
# What compiles this workspace lints it too; cargo clippy would check all dependencies once more.
build test test-vm fuzz demo clean-demo generate: export RUSTC_WORKSPACE_WRAPPER := clippy-driver

.PHONY: help build demo clean-demo test test-vm fuzz bench generate image-programs

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build all programs and tests, as the testbed runs them
	@# The first time Kubernetes is built after this: its sources come meanwhile.
	@test -d $(CACHE)/kubernetes-* || (cd tests/testbed/go && (go mod download; cd kubelet-1.36.1 && go mod download) >/dev/null 2>&1 &)
	cargo build $(CARGO_ALL) --profile $(PROFILE)

demo: build ## A cluster on this machine, the operator on it, and the seed's example applied; stays up
	@$(FOLDER)/$(PROFILE)/e2e demo

clean-demo: build ## End the demo and all that it made
	@$(FOLDER)/$(PROFILE)/e2e clean-demo

test: build ## Every check and test there is
	@$(FOLDER)/$(PROFILE)/e2e test

test-vm: build ## Cut a virtual machine's power thirty times while the agent works; turn swap off; cut a node's while its kubelet is changed
	@$(FOLDER)/$(PROFILE)/e2e test-vm

fuzz: build ## Feed the parsers what nobody thought of: TIME=60 seconds for each of TARGETS, or one INPUT that was found; then other cases for the property tests
	@$(FOLDER)/$(PROFILE)/e2e fuzz --time $(or $(TIME),60) $(if $(INPUT),--input $(INPUT)) $(TARGETS)

bench: build ## The figures of docs/benchmarks.md, measured now, with programs as for the images; PARTS=peers: only some
	cargo build --locked --release --target $(TRIPLE) --package operator --package node-agent --package measure
	@E2E_PROGRAMS=$(FOLDER)/release $(FOLDER)/$(PROFILE)/e2e bench $(PARTS)

generate: ## Write anew what is made from the types: crds/*.yaml, docs/api.md
	UPDATE_GENERATED=1 cargo test --quiet $(CARGO_ALL) --profile $(PROFILE) generated

image-programs: ## Build the static programs of the images, and say where they are
	cargo build --locked --release --target $(TRIPLE) --package operator --package node-agent
	@echo $(FOLDER)/release
