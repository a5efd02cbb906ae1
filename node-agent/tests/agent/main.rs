//! What the agent promises, tried on roots in temporary directories. Owners are real, so these tests run as root.

// Test code as a whole; clippy's own exception is for test functions only.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod accounts;
mod api;
mod archives;
mod command_line;
mod crashes;
mod downloads;
mod kernel;
mod killed;
mod links;
mod nodes;
mod parts;
mod paths;
mod plans;
mod pods;
mod properties;
mod reverts;
mod rights;
mod rollbacks;
mod support;
mod switches;
mod trust;
mod units;
