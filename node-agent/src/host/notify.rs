//! Tells when something that we manage was touched, so that drift is noticed at once and not at the next interval.
//!
//! In: paths. Out: a signal when the entry of one of them, or of a directory above it, was made, removed, replaced,
//! written or given another owner or mode. Only names that matter count: a busy directory wakes nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::kernel_events::listen;
use super::{HostError, Root};

/// More directories than this are left to the interval.
const MAX_DIRECTORIES: usize = 4096;

/// Watches directories.
#[derive(Debug)]
pub struct Notify {
    fd: AsyncFd<OwnedFd>,
    // The names that matter, by the kernel's number of their directory's watch.
    names: BTreeMap<i32, BTreeSet<Vec<u8>>>,
}

impl Notify {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// If the kernel gives no inotify instance.
    pub fn new() -> Result<Self, HostError> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .map_err(HostError::io("inotify", "make an instance (see fs.inotify.max_user_instances)"))?;
        Ok(Self { fd: listen(fd, Interest::READABLE, "inotify")?, names: BTreeMap::new() })
    }

    /// Watches these paths; what was watched before is not any more.
    ///
    /// # Errors
    /// If the kernel takes no more watches; those that it took stay.
    pub fn watch(&mut self, root: &Root, paths: &BTreeSet<String>) -> Result<(), HostError> {
        let mut wanted: BTreeMap<String, BTreeSet<Vec<u8>>> = BTreeMap::new();
        let mut finder = root.finder();
        for path in paths {
            let Ok(place) = finder.locate(path) else { continue };
            // Of what is missing, the topmost directory tells when it comes.
            let first = place.missing_paths().first().unwrap_or(&place.real).clone();
            let (directory, name) = first.rsplit_once('/').unwrap_or_default();
            let mut directory = if directory.is_empty() { "/" } else { directory }.to_owned();
            let mut name = name.to_owned();
            loop {
                wanted.entry(directory.clone()).or_default().insert(name.into_bytes());
                if directory == "/" || wanted.len() >= MAX_DIRECTORIES {
                    break;
                }
                let (parent, own) = directory.rsplit_once('/').unwrap_or_default();
                name = own.to_owned();
                directory = if parent.is_empty() { "/".to_owned() } else { parent.to_owned() };
            }
        }
        let mut names: BTreeMap<i32, BTreeSet<Vec<u8>>> = BTreeMap::new();
        let mut failed = None;
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR;
        for (directory, entries) in &wanted {
            // By way of the open directory: a path could lead elsewhere by now.
            let Ok(Some(open)) = root.open_directory(directory) else { continue };
            let open = format!("/proc/self/fd/{}", open.as_raw_fd());
            match inotify::add_watch(self.fd.get_ref(), open.as_str(), flags) {
                Ok(watch) => names.entry(watch).or_default().extend(entries.iter().cloned()),
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(errno) => {
                    failed = Some(HostError::io(directory, "watch (see fs.inotify.max_user_watches)")(errno));
                    break;
                }
            }
        }
        for watch in self.names.keys().filter(|watch| !names.contains_key(watch)) {
            // Gone by itself with its directory, perhaps.
            let _ = inotify::remove_watch(self.fd.get_ref(), *watch);
        }
        self.names = names;
        failed.map_or(Ok(()), Err)
    }

    /// Waits until something that matters was touched.
    pub async fn touched(&mut self) {
        loop {
            let Ok(mut ready) = self.fd.readable().await else {
                // Without it the interval does the work.
                return std::future::pending().await;
            };
            ready.clear_ready();
            drop(ready);
            if self.drain() {
                return;
            }
        }
    }

    /// Reads all events there are; whether one matters.
    pub fn drain(&mut self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut matters = false;
        let mut reader = inotify::Reader::new(self.fd.get_ref(), &mut buffer);
        // Ends with AGAIN when there are none left.
        while let Ok(event) = reader.next() {
            let lost = event.events().contains(ReadFlags::QUEUE_OVERFLOW);
            let named = event.file_name().is_some_and(|name| {
                self.names.get(&event.wd()).is_some_and(|names| names.contains(name.to_bytes()))
            });
            matters |= lost || named;
        }
        matters
    }
}
