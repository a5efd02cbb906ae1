//! Where tests kill the agent: before each change of the machine, whatever it is.
//!
//! In builds for tests (`debug_assertions`) the environment variable [`KILL_AT`] names the change before which this
//! process ends as by SIGKILL. What is released has none of it.

/// The number of the change before which the process ends, the first is 1.
pub const KILL_AT: &str = "NODEBOOTSTRAP_KILL_AT";

/// A change of the machine is about to be made.
#[cfg(debug_assertions)]
pub(super) fn reach() {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicUsize, Ordering};
    static LEFT: LazyLock<Option<AtomicUsize>> =
        LazyLock::new(|| Some(AtomicUsize::new(std::env::var(KILL_AT).ok()?.parse().ok()?)));
    if let Some(left) = &*LEFT
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// A change of the machine is about to be made.
#[cfg(not(debug_assertions))]
pub(super) fn reach() {}
