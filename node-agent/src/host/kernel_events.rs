//! Tells when swap was turned on or off, or a kernel module was unloaded, so that this drift too is noticed at once.
//!
//! In: whether swap matters, and modules. Out: a signal when the kernel tells of them. Where nothing of it is managed
//! nothing is open, so that nothing wakes the agent.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::root::errno_of;
use super::{HostError, Root};

/// Where the kernel lists the swap that is in use.
const SWAPS: &str = "/proc/swaps";
/// What messages call the socket on which the kernel tells of its devices and modules.
const SOCKET: &str = "the kernel's uevents";
/// The group of those who hear what the kernel itself says there.
const OF_KERNEL: u32 = 1;
/// The kernel's messages are at most half as long.
const MAX_MESSAGE: usize = 4096;

/// What the kernel is listened to for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Whether no swap shall be in use.
    pub no_swap: bool,
    /// Modules that shall be loaded, as the kernel names them.
    pub modules: BTreeSet<String>,
}

/// Listens to the kernel.
#[derive(Debug, Default)]
pub struct KernelEvents {
    swaps: Option<AsyncFd<OwnedFd>>,
    uevents: Option<AsyncFd<OwnedFd>>,
    modules: BTreeSet<String>,
}

impl KernelEvents {
    /// Listens for this; for what it was listened to before it is not any more.
    ///
    /// # Errors
    /// If the kernel does not tell of one of them.
    pub fn watch(&mut self, root: &Root, wanted: Wanted) -> Result<(), HostError> {
        let Wanted { no_swap, modules } = wanted;
        let swaps = keep(&mut self.swaps, no_swap, || of_swaps(root));
        let uevents = keep(&mut self.uevents, !modules.is_empty(), of_uevents);
        self.modules = modules;
        swaps.and(uevents)
    }

    /// Waits until swap was turned on or off, or one of the modules was unloaded.
    pub async fn touched(&self) {
        tokio::select! {
            () = swaps_changed(self.swaps.as_ref()) => {}
            () = module_unloaded(self.uevents.as_ref(), &self.modules) => {}
        }
    }
}

/// Has a source open if it is wanted, and else closed.
fn keep(
    source: &mut Option<AsyncFd<OwnedFd>>,
    is_wanted: bool,
    open: impl FnOnce() -> Result<Option<AsyncFd<OwnedFd>>, HostError>,
) -> Result<(), HostError> {
    match (is_wanted, &source) {
        (true, Some(_)) => {}
        (true, None) => *source = open()?,
        (false, _) => *source = None,
    }
    Ok(())
}

/// The list of swap; `None`: this kernel knows none.
fn of_swaps(root: &Root) -> Result<Option<AsyncFd<OwnedFd>>, HostError> {
    let place = root.locate(SWAPS)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match rustix::fs::openat(place.fd(), place.name.as_str(), flags, Mode::empty()) {
        Ok(fd) => listen(fd, Interest::PRIORITY, SWAPS).map(Some),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(HostError::io(SWAPS, "open")(errno)),
    }
}

/// The socket on which the kernel tells of its modules, and of devices.
fn of_uevents() -> Result<Option<AsyncFd<OwnedFd>>, HostError> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let protocol = Some(netlink::KOBJECT_UEVENT);
    let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, protocol)
        .map_err(HostError::io(SOCKET, "open a socket of"))?;
    rustix::net::bind(&fd, &SocketAddrNetlink::new(0, OF_KERNEL))
        .map_err(HostError::io(SOCKET, "listen to"))?;
    listen(fd, Interest::READABLE, SOCKET).map(Some)
}

/// Has the runtime wait for a descriptor. `what`: what messages call it.
pub(super) fn listen(fd: OwnedFd, interest: Interest, what: &str) -> Result<AsyncFd<OwnedFd>, HostError> {
    // Its replacement needs `unsafe`, for types whose descriptor may change; an OwnedFd's never does.
    #[expect(deprecated)]
    let listening = AsyncFd::with_interest(fd, interest);
    listening.map_err(|error| HostError::io(what, "wait for")(errno_of(&error)))
}

/// Waits until the kernel says of its list that it has changed: once for each who has it open.
async fn swaps_changed(swaps: Option<&AsyncFd<OwnedFd>>) {
    let Some(swaps) = swaps else { return std::future::pending().await };
    match swaps.ready(Interest::PRIORITY).await {
        Ok(mut ready) => ready.clear_ready(),
        // Without it the interval does the work.
        Err(_) => std::future::pending().await,
    }
}

async fn module_unloaded(uevents: Option<&AsyncFd<OwnedFd>>, modules: &BTreeSet<String>) {
    let Some(uevents) = uevents else { return std::future::pending().await };
    loop {
        let Ok(mut ready) = uevents.readable().await else { return std::future::pending().await };
        let mut buffer = [0; MAX_MESSAGE];
        let is_ours = match rustix::net::recv(uevents.get_ref(), &mut buffer[..], RecvFlags::empty()) {
            Ok((length, _)) => unloaded(&buffer[..length]).is_some_and(|module| modules.contains(module)),
            Err(Errno::AGAIN) => {
                ready.clear_ready();
                false
            }
            // More was told than was read.
            Err(Errno::NOBUFS) => true,
            Err(Errno::INTR) => false,
            Err(_) => return std::future::pending().await,
        };
        if is_ours {
            return;
        }
    }
}

/// The module that a message is about, as `remove@/module/ip_vs`, with more behind a zero byte.
fn unloaded(message: &[u8]) -> Option<&str> {
    let head = message.split(|byte| *byte == 0).next()?;
    std::str::from_utf8(head).ok()?.strip_prefix("remove@/module/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_module_s_end_is_one() {
        for (message, module) in [
            ("remove@/module/ip_vs\0ACTION=remove\0DEVPATH=/module/ip_vs\0", Some("ip_vs")),
            ("add@/module/ip_vs\0ACTION=add\0", None),
            ("remove@/devices/virtual/net/veth0\0ACTION=remove\0", None),
            ("", None),
        ] {
            assert_eq!(unloaded(message.as_bytes()), module, "{message}");
        }
        assert_eq!(unloaded(b"remove@/module/\xff"), None);
    }
}
