//! What a disk says of itself before anything is written to it.
//!
//! In: a place. Out: whether its file system can be written to and how much room it has, what is locked against changes,
//! and what something is mounted on.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Mode, OFlags, StatVfsMountFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::HostError;
use super::root::Place;

/// A file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Its device: the same for the same file system.
    pub device: u64,
    /// Whether nothing on it can be changed.
    pub is_read_only: bool,
    /// Bytes that it holds.
    pub size: u64,
    /// Bytes that root can still write; `None` if it has no bound of its own, as in memory.
    pub free: Option<u64>,
    /// New files and directories that it has room for; `None` if it does not count them.
    pub free_entries: Option<u64>,
}

/// Why root cannot change something on a disk that can be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locked {
    /// Nothing of it can be changed.
    Immutable,
    /// It can only grow.
    AppendOnly,
}

impl Locked {
    /// What an entry's attributes say; `None`: nothing keeps root from changing it.
    pub(super) fn by(attributes: StatxAttributes) -> Option<Self> {
        if attributes.contains(StatxAttributes::IMMUTABLE) {
            Some(Self::Immutable)
        } else {
            attributes.contains(StatxAttributes::APPEND).then_some(Self::AppendOnly)
        }
    }

    /// In words, and what takes it away.
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Immutable => ("is immutable", "chattr -i"),
            Self::AppendOnly => ("can only be appended to", "chattr -a"),
        }
    }
}

impl Disk {
    /// The file system that a place lies on: that of the entry itself if it is a directory, else that of the nearest
    /// directory above it.
    ///
    /// # Errors
    /// If the kernel refuses to tell.
    #[allow(clippy::unnecessary_cast, reason = "the fields' types differ between architectures")]
    pub fn of(place: &Place) -> Result<Self, HostError> {
        let at = || HostError::io(&place.real, "look at its file system");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let own = match place.has_directory() {
            true => rustix::fs::openat(place.fd(), place.name.as_str(), flags, Mode::empty()),
            false => Err(Errno::NOENT),
        };
        let (stat, disk) = match &own {
            Ok(own) => (rustix::fs::fstat(own), rustix::fs::fstatvfs(own)),
            Err(_) => (rustix::fs::fstat(place.fd()), rustix::fs::fstatvfs(place.fd())),
        };
        let (stat, disk) = (stat.map_err(at())?, disk.map_err(at())?);
        Ok(Self {
            device: stat.st_dev as u64,
            is_read_only: disk.f_flag.contains(StatVfsMountFlags::RDONLY),
            size: disk.f_blocks.saturating_mul(disk.f_frsize),
            free: (disk.f_blocks > 0).then_some(disk.f_bfree.saturating_mul(disk.f_frsize)),
            free_entries: (disk.f_files > 0).then_some(disk.f_ffree),
        })
    }
}

impl Place {
    /// What keeps root from changing the entry; `None` if nothing does, or nothing is there.
    pub fn locked(&self) -> Option<Locked> {
        self.has_directory().then(|| Locked::by(attributes(self.fd(), self.name.as_str()))).flatten()
    }

    /// Whether something is mounted on the entry itself: then nothing can take its place, and nobody can remove it.
    pub fn is_mount_point(&self) -> bool {
        self.has_directory()
            && attributes(self.fd(), self.name.as_str()).contains(StatxAttributes::MOUNT_ROOT)
    }

    /// What keeps root from changing the entries of the directory that it lies in; of the nearest that exists, if that is
    /// missing.
    pub fn directory_locked(&self) -> Option<Locked> {
        Locked::by(attributes(self.fd(), ""))
    }
}

/// What the kernel says besides of an entry, or without a name of what is open. A kernel or file system that cannot tell (of
/// mounts: below 5.8) is asked by the change itself, or the device of the entry has to do.
pub(super) fn attributes(fd: impl AsFd, name: &str) -> StatxAttributes {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::statx(fd, name, flags, StatxFlags::empty())
        .map_or(StatxAttributes::empty(), |stat| stat.stx_attributes)
}
