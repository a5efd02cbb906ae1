//! Every change of the machine's files, in few functions: whole files, directories, owner and mode, links.
//!
//! In: a [`Place`] and what shall be there. Out: it is there, on the disk, or an error and nothing half done: content
//! is written to a file beside the target and renamed over it when content, owner and mode are right.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FlockOperation, Gid, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, Uid, XattrFlags,
};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crds::names::STATE_DIR;

use super::root::{Kind, Meta, Place, errno_of};
use super::{HostError, Root};

/// Owner, group and mode as the kernel takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

impl Ids {
    /// What belongs to root alone to change.
    pub const fn root(mode: u32) -> Self {
        Self { uid: 0, gid: 0, mode }
    }
}

/// The most entries that a recursive change looks at.
pub const MAX_ENTRIES: usize = 100_000;

/// The longest file name that Linux takes.
const MAX_NAME: usize = 255;
const TEMPORARY_SUFFIX: &str = ".nodebootstrap-tmp";
const SELINUX: &str = "security.selinux";

/// The name of the file beside a target in which its next content is written: always the same for one target, so that
/// the next run finds what a killed one left.
pub fn temporary_name(name: &str) -> String {
    let plain = format!(".{name}{TEMPORARY_SUFFIX}");
    if plain.len() <= MAX_NAME {
        return plain;
    }
    format!(".{}{TEMPORARY_SUFFIX}", &hex::encode(Sha256::digest(name.as_bytes()))[..32])
}

/// A file that is being written beside its target. Dropped before [`Staged::install`], it is removed.
#[derive(Debug)]
pub struct Staged {
    place: Place,
    name: String,
    file: File,
    installed: bool,
}

impl Staged {
    /// Begins a file beside its target, readable by root alone. What a killed run left there is removed.
    ///
    /// # Errors
    /// If the directory takes no new file.
    pub fn begin(place: &Place) -> Result<Self, HostError> {
        let name = temporary_name(&place.name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(place.fd(), name.as_str(), flags, Mode::from_raw_mode(0o600));
        let fd = match open() {
            Err(Errno::EXIST) => {
                remove_entry(place, &name)?;
                open()
            }
            other => other,
        }
        .map_err(HostError::io(&place.real, "write a file beside it"))?;
        let staged = Self { place: place.clone(), name, file: File::from(fd), installed: false };
        staged.keep_label()?;
        Ok(staged)
    }

    /// Takes over the SELinux label of the file that will be replaced; a new file has that of its directory.
    fn keep_label(&self) -> Result<(), HostError> {
        let Ok(Some((old, _))) = self.place.open(Kind::File) else { return Ok(()) };
        let mut label = [0_u8; 1024];
        let Ok(length) = rustix::fs::fgetxattr(&old, SELINUX, &mut label[..]) else { return Ok(()) };
        match rustix::fs::fsetxattr(&self.file, SELINUX, &label[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(HostError::io(&self.place.real, "keep the SELinux label")(errno)),
        }
    }

    /// Appends content.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), HostError> {
        self.file.write_all(bytes).map_err(|error| HostError::io(&self.place.real, "write")(errno_of(&error)))
    }

    /// Appends all that is in a file; where the file system can, without a copy.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub fn append_file(&mut self, mut from: File) -> Result<(), HostError> {
        std::io::copy(&mut from, &mut self.file)
            .map(drop)
            .map_err(|error| HostError::io(&self.place.real, "write")(errno_of(&error)))
    }

    /// Makes it the target: owner, mode and content are on the disk before it is seen under the target's name.
    ///
    /// # Errors
    /// If any step fails; the target is then as before.
    pub fn install(mut self, ids: Ids) -> Result<Meta, HostError> {
        let at = |action| HostError::io(&self.place.real, action);
        // chown clears set-uid bits, so it comes first.
        rustix::fs::fchown(&self.file, uid(ids.uid), gid(ids.gid)).map_err(at("set the owner"))?;
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(ids.mode)).map_err(at("set the mode"))?;
        rustix::fs::fsync(&self.file).map_err(at("write to the disk"))?;
        rustix::fs::renameat(self.place.fd(), self.name.as_str(), self.place.fd(), self.place.name.as_str())
            .map_err(at("put it in place"))?;
        self.installed = true;
        sync_directory(&self.place)?;
        Ok(rustix::fs::fstat(&self.file).map_err(HostError::io(&self.place.real, "look"))?.into())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.installed {
            // The next run would remove it too.
            let _ = rustix::fs::unlinkat(self.place.fd(), self.name.as_str(), AtFlags::empty());
        }
    }
}

impl Root {
    /// Writes a whole file, atomically.
    ///
    /// # Errors
    /// If any step fails; what was there before is then untouched.
    pub fn write(&self, place: &Place, content: &[u8], ids: Ids) -> Result<Meta, HostError> {
        let mut staged = Staged::begin(place)?;
        staged.append(content)?;
        staged.install(ids)
    }

    /// Makes one directory. Until its owner and mode are right nobody but root can enter it.
    ///
    /// # Errors
    /// If something is there already, or the parent is missing.
    pub fn make_directory(&self, place: &Place, ids: Ids) -> Result<(), HostError> {
        let at = |action| HostError::io(&place.real, action);
        if !place.has_directory() {
            return Err(at("make the directory")(Errno::NOENT));
        }
        rustix::fs::mkdirat(place.fd(), place.name.as_str(), Mode::from_raw_mode(0o700))
            .map_err(at("make the directory"))?;
        self.set_access(place, Kind::Directory, ids)?;
        sync_directory(place)
    }

    /// Gives a file or directory that exists its owner, group and mode.
    ///
    /// # Errors
    /// If it is of another kind, or a file that another name in a foreign directory leads to.
    pub fn set_access(&self, place: &Place, kind: Kind, ids: Ids) -> Result<(), HostError> {
        let at = |action| HostError::io(&place.real, action);
        let (fd, meta) = place.open(kind)?.ok_or_else(|| HostError::Changed {
            path: place.real.clone(),
            found: "missing".to_owned(),
            expected: kind.words().to_owned(),
        })?;
        check_links(place, &meta)?;
        if (meta.uid, meta.gid) != (ids.uid, ids.gid) {
            rustix::fs::fchown(&fd, uid(ids.uid), gid(ids.gid)).map_err(at("set the owner"))?;
        }
        let now: Meta = rustix::fs::fstat(&fd).map_err(at("look"))?.into();
        if now.mode != ids.mode {
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(ids.mode)).map_err(at("set the mode"))?;
        }
        rustix::fs::fsync(&fd).map_err(at("write to the disk"))
    }

    /// Removes what a killed run left beside a target.
    ///
    /// # Errors
    /// If it is there and cannot be removed.
    pub fn remove_leftover(&self, path: &str) -> Result<(), HostError> {
        let place = self.locate(path)?;
        if place.has_directory() { remove_entry(&place, &temporary_name(&place.name)) } else { Ok(()) }
    }

    /// Makes a symbolic link, if nothing is there.
    ///
    /// # Errors
    /// If something else is there.
    pub fn link(&self, place: &Place, target: &str) -> Result<(), HostError> {
        rustix::fs::symlinkat(target, place.fd(), place.name.as_str())
            .map_err(HostError::io(&place.real, "make the link"))?;
        sync_directory(place)
    }

    /// Removes a symbolic link; nothing else.
    ///
    /// # Errors
    /// If it is no link.
    pub fn unlink(&self, place: &Place) -> Result<(), HostError> {
        match place.look()? {
            None => Ok(()),
            Some(meta) if meta.kind == Kind::Link => {
                remove_entry(place, &place.name)?;
                sync_directory(place)
            }
            Some(meta) => Err(HostError::Changed {
                path: place.real.clone(),
                found: meta.kind.words().to_owned(),
                expected: Kind::Link.words().to_owned(),
            }),
        }
    }

    /// Opens a file of the agent's own, made if it is missing, and locks it: until it is closed no other run has it.
    /// `None`: another one has. `action`: what it is for, in words.
    ///
    /// # Errors
    /// If it cannot be opened or locked.
    pub(super) fn lock_file(&self, place: &Place, action: &'static str) -> Result<Option<File>, HostError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(place.fd(), place.name.as_str(), flags, Mode::from_raw_mode(0o600))
            .map_err(HostError::io(&place.real, action))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(File::from(file))),
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(HostError::io(&place.real, "lock")(errno)),
        }
    }

    /// Makes a directory of the agent's own with its parents; it is root's alone.
    ///
    /// # Errors
    /// If something else is there.
    pub(super) fn make_own_directory(&self, path: &str) -> Result<(), HostError> {
        let place = self.locate(path)?;
        match place.look()? {
            Some(meta) if meta.kind == Kind::Directory => return Ok(()),
            Some(meta) => {
                return Err(HostError::NotADirectory {
                    path: path.to_owned(),
                    step: path.to_owned(),
                    found: meta.kind.words(),
                });
            }
            None => {}
        }
        for parent in place.missing_paths() {
            let mode = if parent.starts_with(STATE_DIR) { 0o700 } else { 0o755 };
            self.make_directory(&self.locate(&parent)?, Ids::root(mode))?;
        }
        self.make_directory(&self.locate(path)?, Ids::root(0o700))
    }

    /// Removes a directory of the agent's own, if nothing is in it.
    ///
    /// # Errors
    /// If something is in it.
    pub(super) fn remove_own_directory(&self, path: &str) -> Result<(), HostError> {
        let place = self.locate(path)?;
        if place.look()?.is_none() {
            return Ok(());
        }
        rustix::fs::unlinkat(place.fd(), place.name.as_str(), AtFlags::REMOVEDIR)
            .map_err(HostError::io(path, "remove the directory"))?;
        sync_directory(&place)
    }

    /// Removes a file of the agent's own.
    ///
    /// # Errors
    /// If it is there and cannot be removed.
    pub(super) fn remove_file(&self, place: &Place) -> Result<(), HostError> {
        if !place.has_directory() {
            return Ok(());
        }
        remove_entry(place, &place.name)?;
        sync_directory(place)
    }

    /// Looks at everything inside a directory, and, if `change`, gives it the owner and group.
    ///
    /// `skip` is asked for each real path. Other file systems are not entered.
    ///
    /// # Errors
    /// If there is too much in it, or the kernel refuses.
    pub fn sweep(
        &self,
        place: &Place,
        owner: (u32, u32),
        skip: &dyn Fn(&str) -> Skip,
        change: bool,
    ) -> Result<Swept, HostError> {
        let mut swept = Swept::default();
        let Some((top, top_meta)) = place.open(Kind::Directory)? else { return Ok(swept) };
        // Directories still to be looked into. Each is opened when its turn comes, by way of its parent, so that few
        // are open at once however many there are.
        let top = Rc::new(top);
        let mut ahead = vec![(place.real.clone(), Rc::clone(&top), c".".to_owned(), top_meta)];
        // As it was before this sweep gave it away: that is who could have put entries there.
        while let Some((path, parent, name, directory_meta)) = ahead.pop() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let same_disk = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            let opened = match rustix::fs::openat2(&*parent, &*name, flags, Mode::empty(), same_disk) {
                Err(Errno::NOSYS) => rustix::fs::openat(&*parent, &*name, flags, Mode::empty()),
                other => other,
            };
            let directory = match opened {
                Ok(fd) => Rc::new(fd),
                // Gone since, swapped for something else, or a mount.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => continue,
                Err(errno) => return Err(HostError::io(&path, "open")(errno)),
            };
            let entries = rustix::fs::Dir::read_from(&*directory)
                .map_err(HostError::io(&path, "list the directory"))?;
            for entry in entries {
                let entry = entry.map_err(HostError::io(&path, "list the directory"))?;
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                swept.seen += 1;
                if swept.seen > MAX_ENTRIES {
                    return Err(HostError::TooManyEntries { path: place.real.clone(), max: MAX_ENTRIES });
                }
                let below = format!("{path}/{}", name.to_string_lossy());
                let skip = skip(&below);
                if skip == Skip::All {
                    continue;
                }
                let at = |action| HostError::io(&below, action);
                let fd = match rustix::fs::openat(
                    &*directory,
                    name,
                    OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                ) {
                    Ok(fd) => fd,
                    // Gone since the list was read.
                    Err(Errno::NOENT) => continue,
                    Err(errno) => return Err(at("open")(errno)),
                };
                let meta: Meta = rustix::fs::fstat(&fd).map_err(at("look"))?.into();
                if meta.inode.0 != top_meta.inode.0 || is_mount(&fd) {
                    continue;
                }
                if skip == Skip::Nothing && (meta.uid, meta.gid) != owner {
                    if meta.kind == Kind::File && meta.links > 1 && directory_meta.writer(None).is_some() {
                        // Its other name may lie anywhere: a user could so be given any file of the disk.
                        swept.left.push(below.clone());
                    } else {
                        swept.differ += 1;
                        if change {
                            rustix::fs::chownat(&fd, "", uid(owner.0), gid(owner.1), AtFlags::EMPTY_PATH)
                                .map_err(at("set the owner"))?;
                        }
                    }
                }
                if meta.kind == Kind::Directory {
                    ahead.push((below, Rc::clone(&directory), name.to_owned(), meta));
                }
            }
            if change {
                rustix::fs::fsync(&*directory).map_err(HostError::io(&path, "write to the disk"))?;
            }
        }
        Ok(swept)
    }
}

/// What a sweep leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// Nothing: it is swept.
    Nothing,
    /// The entry itself, not what is inside.
    Entry,
    /// The entry and all that is inside.
    All,
}

/// What a sweep found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Swept {
    /// Entries looked at.
    pub seen: usize,
    /// Entries that had another owner.
    pub differ: usize,
    /// Files that were left because of their hard links.
    pub left: Vec<String>,
}

/// Refuses files that another name may lead to from anywhere.
pub(crate) fn check_links(place: &Place, meta: &Meta) -> Result<(), HostError> {
    match place.directory().writer(None) {
        Some(writer) if meta.kind == Kind::File && meta.links > 1 => Err(HostError::HardLinked {
            path: place.real.clone(),
            links: meta.links,
            who: writer.to_string(),
        }),
        _ => Ok(()),
    }
}

fn is_mount(fd: impl AsFd) -> bool {
    // Where the kernel cannot tell (below 5.8), the device of the entry has to do.
    rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::empty())
        .is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn remove_entry(place: &Place, name: &str) -> Result<(), HostError> {
    match rustix::fs::unlinkat(place.fd(), name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Err(HostError::NameTaken {
            path: format!("{}/{name}", place.parent().trim_end_matches('/')),
            target: place.real.clone(),
        }),
        Err(errno) => Err(HostError::io(
            format!("{}/{name}", place.parent().trim_end_matches('/')),
            "remove what an earlier run left",
        )(errno)),
    }
}

fn sync_directory(place: &Place) -> Result<(), HostError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(place.fd(), ".", flags, Mode::empty())
        .and_then(rustix::fs::fsync)
        .map_err(HostError::io(place.parent(), "write to the disk"))
}

fn uid(id: u32) -> Option<Uid> {
    Some(Uid::from_raw(id))
}

fn gid(id: u32) -> Option<Gid> {
    Some(Gid::from_raw(id))
}
