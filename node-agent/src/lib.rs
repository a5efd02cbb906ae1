//! What runs on each machine: it makes the machine what a revision says, keeps it so, and tells what it did.
//!
//! ```text
//! cli (by hand)  ─┐                      ┌► host/   the only code that touches the machine
//!                 ├► engine: plan ► apply ► verify
//! pod (Report)   ─┘    └► resource/  what is ► what shall be = changes
//! ```

pub mod host;
pub mod resource;
pub mod engine;
