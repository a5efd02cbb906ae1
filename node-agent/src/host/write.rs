//! Every change of the machine's files, in few functions: whole files, directories, owner and mode, links.
//!
//! In: a [`Place`] and what shall be there. Out: it is there, on the disk, or an error and nothing half done: content
//! is written to a file beside the target and renamed over it when content, owner and mode are right.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FlockOperation, Gid, Mode, OFlags, RenameFlags, ResolveFlags, StatxAttributes, Uid, XattrFlags,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::Digest;

use crds::Sha256;
use crds::names::STATE_DIR;

use super::digest::read_through;
use super::disk::{self, Locked};
use super::failpoint::reach;
use super::root::{Kind, Meta, Place, bytes_of, errno_of, shown, text_of};
use super::{HostError, Root};
use crate::ledger::Before;

/// Owner, group and mode as the kernel takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

impl From<Meta> for Ids {
    fn from(meta: Meta) -> Self {
        Self { uid: meta.uid, gid: meta.gid, mode: meta.mode }
    }
}

/// What all that is inside a directory gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inside {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Permission bits of regular files; `None`: they stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<u32>,
    /// Permission bits of directories; `None`: they stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory_mode: Option<u32>,
}

impl Inside {
    /// The user and the group.
    pub const fn owner(self) -> (u32, u32) {
        (self.uid, self.gid)
    }

    /// The permission bits of such an entry, if they are given.
    pub const fn mode(self, kind: Kind) -> Option<u32> {
        match kind {
            Kind::File => self.file_mode,
            Kind::Directory => self.directory_mode,
            Kind::Link | Kind::Special => None,
        }
    }

    /// What such an entry with these permission bits gets.
    pub fn ids(self, kind: Kind, mode: u32) -> Ids {
        Ids { uid: self.uid, gid: self.gid, mode: self.mode(kind).unwrap_or(mode) }
    }
}

/// The most entries that a recursive change looks at.
pub const MAX_ENTRIES: usize = 100_000;
/// Where nothing is searched for that belongs to an account: what is gone after a boot, what is the agent's own, and what
/// is the containers', whose numbers are their own.
const NOT_SEARCHED: &[&str] = &[
    "/proc",
    "/sys",
    "/dev",
    "/run",
    STATE_DIR,
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/docker",
    "/var/lib/kubelet",
];
/// The most entries that are looked at for what belongs to an account.
const MAX_SEARCHED: usize = 3_000_000;
/// File systems that lie on this machine's own disks or in its memory (`linux/magic.h`): ext, xfs, btrfs, f2fs, zfs,
/// overlay, tmpfs. A search of others may never end.
const LOCAL: [u64; 7] =
    [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x2fc1_2fc1, 0x794c_7630, 0x0102_1994];

/// How often an edit begins anew when somebody else writes to the file meanwhile.
const MAX_EDITS: usize = 5;

/// The longest file name that Linux takes.
const MAX_NAME: usize = 255;
const TEMPORARY_SUFFIX: &str = ".nodebootstrap-tmp";
const SELINUX: &str = "security.selinux";
/// The rights of others than owner and group: with it the mode does not say who may do what.
const ACL: &str = "system.posix_acl_access";
/// What a program may do that is not started by root.
pub const CAPABILITY: &str = "security.capability";
/// The extended attributes that give somebody more than owner, group and mode say.
pub const GRANTS: [&str; 2] = [CAPABILITY, ACL];

/// The name of the file beside a target in which its next content is written: always the same for one target, so that
/// the next run finds what a killed one left.
pub fn temporary_name(name: &str) -> String {
    let plain = format!(".{name}{TEMPORARY_SUFFIX}");
    if plain.len() <= MAX_NAME {
        return plain;
    }
    format!(".{}{TEMPORARY_SUFFIX}", &hex::encode(sha2::Sha256::digest(name.as_bytes()))[..32])
}

/// The path of the file in which the next content of a path is written.
pub fn leftover_of(path: &str) -> String {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    format!("{directory}/{}", temporary_name(name))
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
        if !place.has_directory() {
            return Err(HostError::io(&place.real, "write a file beside it")(Errno::NOENT));
        }
        let name = temporary_name(&place.name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        reach();
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
        reach();
        self.file.write_all(bytes).map_err(|error| HostError::io(&self.place.real, "write")(errno_of(&error)))
    }

    /// Appends all that is in a file; where the file system can, without a copy.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub fn append_file(&mut self, mut from: File) -> Result<(), HostError> {
        reach();
        std::io::copy(&mut from, &mut self.file)
            .map(drop)
            .map_err(|error| HostError::io(&self.place.real, "write")(errno_of(&error)))
    }

    /// Makes it the target: owner, mode and content are on the disk before it is seen under the target's name.
    ///
    /// # Errors
    /// If any step fails; the target is then as before.
    pub fn install(self, ids: Ids) -> Result<Meta, HostError> {
        self.install_if(ids, &BTreeMap::new(), &|_| Ok(()))
    }

    /// As [`Staged::install`], with extended attributes, and if `may` does not refuse it when all else is done: it is given
    /// the target's real path.
    ///
    /// # Errors
    /// See [`Staged::install`], and what `may` says.
    pub fn install_if(
        self,
        ids: Ids,
        attributes: &BTreeMap<String, String>,
        may: &dyn Fn(&str) -> Result<(), HostError>,
    ) -> Result<Meta, HostError> {
        self.finish(ids, attributes)?;
        may(&self.place.real)?;
        self.put()
    }

    /// Gives it owner, mode and extended attributes, and sees all of it to the disk.
    fn finish(&self, ids: Ids, attributes: &BTreeMap<String, String>) -> Result<(), HostError> {
        let at = |action| HostError::io(&self.place.real, action);
        // chown clears set-uid bits and capabilities, so it comes first.
        reach();
        rustix::fs::fchown(&self.file, uid(ids.uid), gid(ids.gid)).map_err(at("set the owner"))?;
        take_away(&self.file, &self.place.real, [ACL])?;
        set_attributes(&self.file, &self.place.real, attributes)?;
        reach();
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(ids.mode)).map_err(at("set the mode"))?;
        reach();
        rustix::fs::fsync(&self.file).map_err(at("write to the disk"))
    }

    /// Puts what is finished in the place of the target.
    fn put(mut self) -> Result<Meta, HostError> {
        reach();
        rustix::fs::renameat(self.place.fd(), self.name.as_str(), self.place.fd(), self.place.name.as_str())
            .map_err(HostError::io(&self.place.real, "put it in place"))?;
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
        self.write_if(place, content, ids, &BTreeMap::new(), &|_| Ok(()))
    }

    /// As [`Root::write`], with extended attributes, and if `may` does not refuse it (see [`Staged::install_if`]).
    ///
    /// # Errors
    /// See [`Root::write`], and what `may` says.
    pub fn write_if(
        &self,
        place: &Place,
        content: &[u8],
        ids: Ids,
        attributes: &BTreeMap<String, String>,
        may: &dyn Fn(&str) -> Result<(), HostError>,
    ) -> Result<Meta, HostError> {
        let mut staged = Staged::begin(place)?;
        staged.append(content)?;
        staged.install_if(ids, attributes, may)
    }

    /// Writes a file that others own anew, atomically, with what `edit` makes of its content. Owner, group, mode and extended
    /// attributes stay.
    ///
    /// # Errors
    /// If `edit` refuses, the file has other names, or somebody writes to it all the time: what they wrote is then untouched.
    pub fn edit(
        &self,
        place: &Place,
        max: u64,
        edit: impl Fn(&[u8]) -> Result<Vec<u8>, HostError>,
    ) -> Result<(), HostError> {
        let changed = |found: &str, expected: &str| HostError::Changed {
            path: place.real.clone(),
            found: found.to_owned(),
            expected: expected.to_owned(),
        };
        for _ in 0..MAX_EDITS {
            let (old, meta) = place.read(max)?.ok_or_else(|| changed("missing", Kind::File.words()))?;
            let new = edit(&old)?;
            if new == old {
                return Ok(());
            }
            if meta.links > 1 {
                return Err(changed("a file with other names", "a file with one"));
            }
            let attributes = self.attributes(place)?;
            let mut staged = Staged::begin(place)?;
            staged.append(&new)?;
            staged.finish(meta.into(), &attributes)?;
            // At the last moment: who writes after it can only have the old file open, or the new one. The times of files are
            // coarse, so that the content is looked at too.
            if place.read(max)?.is_some_and(|now| now == (old, meta)) {
                return staged.put().map(drop);
            }
        }
        Err(changed("written to by something else", "at rest for a moment"))
    }

    /// Makes one directory. It is seen under its name only when its owner and mode are right.
    ///
    /// # Errors
    /// If something is there already, or the parent is missing.
    pub fn make_directory(&self, place: &Place, ids: Ids) -> Result<(), HostError> {
        let at = |action| HostError::io(&place.real, action);
        if !place.has_directory() {
            return Err(at("make the directory")(Errno::NOENT));
        }
        let name = temporary_name(&place.name);
        remove_entry(place, &name)?;
        reach();
        rustix::fs::mkdirat(place.fd(), name.as_str(), Mode::from_raw_mode(0o700))
            .map_err(at("make the directory"))?;
        let made = place.beside(&name);
        if let Some((fd, _)) = made.open(Kind::Directory)? {
            take_away(&fd, &place.real, [ACL])?;
        }
        self.set_access(&made, Kind::Directory, ids)?;
        reach();
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(place.fd(), name.as_str(), place.fd(), place.name.as_str(), flags) {
            Ok(()) => {}
            // A file system that cannot promise it; what came there since the plan was made is replaced only if it is empty.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::renameat(place.fd(), name.as_str(), place.fd(), place.name.as_str())
                    .map_err(at("put the directory in place"))?;
            }
            Err(errno) => {
                remove_entry(place, &name)?;
                return Err(at("make the directory")(errno));
            }
        }
        sync_directory(place)
    }

    /// Makes a directory for links to units, in one step: as `systemctl enable` would.
    ///
    /// # Errors
    /// If something is there already, or the parent is missing.
    pub(super) fn make_plain_directory(&self, place: &Place) -> Result<(), HostError> {
        reach();
        rustix::fs::mkdirat(place.fd(), place.name.as_str(), Mode::from_raw_mode(0o755))
            .map_err(HostError::io(&place.real, "make the directory"))?;
        sync_directory(place)
    }

    /// Gives a file or directory that exists its owner, group and mode.
    ///
    /// # Errors
    /// If it is of another kind, or a file that another name in a foreign directory leads to.
    pub fn set_access(&self, place: &Place, kind: Kind, ids: Ids) -> Result<(), HostError> {
        let fd = change_access(place, kind, ids)?;
        reach();
        rustix::fs::fsync(&fd).map_err(HostError::io(&place.real, "write to the disk"))
    }

    /// Gives a file that exists its owner, group and mode, and these extended attributes: no other one gives anybody more.
    ///
    /// # Errors
    /// See [`Root::set_access`].
    pub fn set_file_access(
        &self,
        place: &Place,
        ids: Ids,
        attributes: &BTreeMap<String, String>,
    ) -> Result<(), HostError> {
        let fd = change_access(place, Kind::File, ids)?;
        // After the mode: its bits for the group are the most that an ACL gives, so that at no moment anybody has more.
        take_away(&fd, &place.real, GRANTS.into_iter().filter(|name| !attributes.contains_key(*name)))?;
        let mut attributes = attributes.clone();
        if let Some(acl) = attributes.get_mut(ACL) {
            // It has a mode in it, that of the moment when it was read.
            *acl = acl_with_mode(acl, ids.mode);
        }
        set_attributes(&fd, &place.real, &attributes)?;
        reach();
        rustix::fs::fsync(&fd).map_err(HostError::io(&place.real, "write to the disk"))
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
        reach();
        rustix::fs::symlinkat(target, place.fd(), place.name.as_str())
            .map_err(HostError::io(&place.real, "make the link"))?;
        sync_directory(place)
    }

    /// Puts a symbolic link in the place of another, or of a file if `replaces` says so, or where nothing is, atomically.
    ///
    /// # Errors
    /// If something else is there, or any step fails; what was there before is then untouched.
    pub fn replace_link(
        &self,
        place: &Place,
        target: &str,
        owner: (u32, u32),
        replaces: Kind,
    ) -> Result<(), HostError> {
        if let Some(meta) = place.look()?.filter(|meta| ![Kind::Link, replaces].contains(&meta.kind)) {
            return Err(HostError::Changed {
                path: place.real.clone(),
                found: meta.kind.words().to_owned(),
                expected: Kind::Link.words().to_owned(),
            });
        }
        let at = |action| HostError::io(&place.real, action);
        let name = temporary_name(&place.name);
        remove_entry(place, &name)?;
        reach();
        rustix::fs::symlinkat(target, place.fd(), name.as_str()).map_err(at("make a link beside it"))?;
        reach();
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let put = rustix::fs::chownat(place.fd(), name.as_str(), uid(owner.0), gid(owner.1), flags)
            .map_err(at("set the owner"))
            .and_then(|()| {
                reach();
                rustix::fs::renameat(place.fd(), name.as_str(), place.fd(), place.name.as_str())
                    .map_err(at("put it in place"))
            });
        if put.is_err() {
            // The next run would remove it too.
            let _ = remove_entry(place, &name);
        }
        put?;
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

    /// Removes a directory, if nothing is in it and nothing is mounted on it; whether it is gone.
    ///
    /// # Errors
    /// If the kernel refuses for another reason.
    pub fn remove_directory(&self, place: &Place) -> Result<bool, HostError> {
        if !place.has_directory() {
            return Ok(true);
        }
        reach();
        match rustix::fs::unlinkat(place.fd(), place.name.as_str(), AtFlags::REMOVEDIR) {
            Ok(()) => sync_directory(place).map(|()| true),
            Err(Errno::NOENT) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) => Ok(false),
            Err(errno) => Err(HostError::io(&place.real, "remove the directory")(errno)),
        }
    }

    /// The extended attributes of a file, by name, as hexadecimal digits; not its SELinux label, which follows the path.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn attributes(&self, place: &Place) -> Result<BTreeMap<String, String>, HostError> {
        let at = |action| HostError::io(&place.real, action);
        let mut attributes = BTreeMap::new();
        let Some((fd, _)) = place.open(Kind::File)? else { return Ok(attributes) };
        let mut names = vec![0; 64 << 10];
        let length = match rustix::fs::flistxattr(&fd, &mut names[..]) {
            Ok(length) => length,
            Err(Errno::OPNOTSUPP) => return Ok(attributes),
            Err(errno) => return Err(at("list extended attributes")(errno)),
        };
        for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            if name == SELINUX.as_bytes() {
                continue;
            }
            let mut value = vec![0; 64 << 10];
            let length = match rustix::fs::fgetxattr(&fd, name, &mut value[..]) {
                Ok(length) => length,
                // Gone since the list was read.
                Err(Errno::NODATA) => continue,
                Err(errno) => return Err(at("read extended attributes")(errno)),
            };
            attributes.insert(String::from_utf8_lossy(name).into_owned(), hex::encode(&value[..length]));
        }
        Ok(attributes)
    }

    /// Gives an entry of whatever kind back its owner and its mode, if nobody has changed them since they were given; whether
    /// it has both now, and what the change of owner had taken with it. `gave` and `gave_mode` tell what was given; this says `None` if no mode was.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn give_back(
        &self,
        place: &Place,
        gave: &dyn Fn((u32, u32)) -> bool,
        gave_mode: &dyn Fn(Kind, u32) -> Option<bool>,
        before: &Before,
    ) -> Result<bool, HostError> {
        let ids = before.ids;
        let Some(meta) = place.look()? else { return Ok(true) };
        let (now, then) = ((meta.uid, meta.gid), (ids.uid, ids.gid));
        let mode_is_given = gave_mode(meta.kind, meta.mode);
        if (now != then || mode_is_given == Some(true)) && check_links(place, &meta).is_err() {
            return Ok(false);
        }
        if now != then {
            if !gave(now) {
                return Ok(false);
            }
            let at = |action| HostError::io(&place.real, action);
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(place.fd(), &*bytes_of(&place.name), flags, Mode::empty())
                .map_err(at("open"))?;
            reach();
            rustix::fs::chownat(&fd, "", uid(ids.uid), gid(ids.gid), AtFlags::EMPTY_PATH)
                .map_err(at("set the owner"))?;
        }
        let now = place.look()?.map_or(meta.mode, |meta| meta.mode);
        let lost = meta.kind == Kind::File && now & !0o6000 == ids.mode & !0o6000;
        if now != ids.mode && (lost || mode_is_given == Some(true)) {
            // First without set-uid bits: the mode that was given may let others write to it.
            let plain = if meta.kind == Kind::File { ids.mode & !0o6000 } else { ids.mode };
            if now != plain {
                self.set_access(place, meta.kind, Ids { mode: plain, ..ids })?;
            }
        }
        let has_rights = match (meta.kind, before.digest) {
            (Kind::File, Some(digest)) => give_rights_back(place, before, digest)?,
            _ => true,
        };
        sync_directory(place)?;
        Ok(has_rights && (mode_is_given != Some(false) || now == ids.mode || lost))
    }

    /// The first path found that belongs to a user, or, without one, to a group; `None` if nothing does. Only file
    /// systems of this machine are searched, and none of the folders in `skip`.
    ///
    /// # Errors
    /// If there is too much to look at, or a directory cannot be read.
    pub fn find_owned(
        &self,
        user: Option<u32>,
        group: Option<u32>,
        skip: &[&str],
    ) -> Result<Option<String>, HostError> {
        let top = self.open_directory("/")?.ok_or_else(|| HostError::io("/", "open")(Errno::NOENT))?;
        let device = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| Meta::from(stat).inode.0);
        let top_device = device(&top).map_err(HostError::io("/", "look"))?;
        let mut ahead = vec![(String::new(), Rc::new(top), c".".to_owned(), top_device)];
        let mut seen = 0;
        while let Some((path, parent, name, parent_device)) = ahead.pop() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Ok(directory) = rustix::fs::openat(&*parent, &*name, flags, Mode::empty()) else { continue };
            let Ok(own_device) = device(&directory) else { continue };
            if own_device != parent_device && !is_local(&directory) {
                continue;
            }
            let directory = Rc::new(directory);
            let at = || HostError::io(&path, "list the directory");
            for entry in rustix::fs::Dir::read_from(&*directory).map_err(at())? {
                let entry = entry.map_err(at())?;
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                seen += 1;
                if seen > MAX_SEARCHED {
                    return Err(HostError::TooManyEntries { path: "/".to_owned(), max: MAX_SEARCHED });
                }
                let below = format!("{path}/{}", name.to_string_lossy());
                if skip.contains(&below.as_str()) {
                    continue;
                }
                let Ok(stat) = rustix::fs::statat(&*directory, name, AtFlags::SYMLINK_NOFOLLOW) else {
                    continue;
                };
                let meta = Meta::from(stat);
                let belongs = match (user, group) {
                    (Some(user), _) => meta.uid == user,
                    (None, group) => group == Some(meta.gid),
                };
                if belongs {
                    return Ok(Some(below));
                }
                if meta.kind == Kind::Directory {
                    ahead.push((below, Rc::clone(&directory), name.to_owned(), own_device));
                }
            }
        }
        Ok(None)
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
        for parent in place.missing_paths() {
            let place = self.locate(&parent)?;
            if parent.starts_with(STATE_DIR) {
                self.make_own_directory(&parent)?;
            } else if place.look()?.is_none() {
                self.make_directory(&place, Ids::root(0o755))?;
            }
        }
        let place = self.locate(path)?;
        reach();
        // In one step, since the lock that orders all else lies in there.
        match rustix::fs::mkdirat(place.fd(), place.name.as_str(), Mode::from_raw_mode(0o700)) {
            Ok(()) => sync_directory(&place),
            Err(Errno::EXIST) => self.check_own_directory(path),
            Err(errno) => Err(HostError::io(path, "make the directory")(errno)),
        }
    }

    /// Refuses what is no directory where one of the agent's own is or will be, and one that others can write to: with the
    /// sticky bit they can add to it still.
    pub(super) fn check_own_directory(&self, path: &str) -> Result<(), HostError> {
        match self.locate(path)?.look()? {
            Some(meta) if meta.kind != Kind::Directory => Err(HostError::State {
                path: path.to_owned(),
                cause: format!("it is {}, expected a directory", meta.kind.words()),
            }),
            Some(meta) if meta.uid != 0 || meta.mode & 0o022 != 0 => {
                Err(HostError::Exposed { path: path.to_owned(), uid: meta.uid, mode: meta.mode })
            }
            _ => Ok(()),
        }
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
        reach();
        rustix::fs::unlinkat(place.fd(), place.name.as_str(), AtFlags::REMOVEDIR)
            .map_err(HostError::io(path, "remove the directory"))?;
        sync_directory(&place)
    }

    /// Removes a file of the agent's own, or one that it made.
    ///
    /// # Errors
    /// If it is there and cannot be removed.
    pub fn remove_file(&self, place: &Place) -> Result<(), HostError> {
        if !place.has_directory() {
            return Ok(());
        }
        remove_entry(place, &place.name)?;
        sync_directory(place)
    }

    /// Looks at everything inside a directory, and, if `change`, gives it owner, group and modes.
    ///
    /// `skip` is asked for each real path. Other file systems are not entered.
    ///
    /// # Errors
    /// If there is too much in it, or the kernel refuses.
    pub fn sweep(
        &self,
        place: &Place,
        inside: Inside,
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
                Err(errno) => return Err(HostError::io(shown(&path), "open")(errno)),
            };
            let listed = || HostError::io(shown(&path), "list the directory");
            for entry in rustix::fs::Dir::read_from(&*directory).map_err(listed())? {
                let entry = entry.map_err(listed())?;
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                swept.seen += 1;
                if swept.seen > MAX_ENTRIES {
                    return Err(HostError::TooManyEntries { path: place.real.clone(), max: MAX_ENTRIES });
                }
                let below = format!("{path}/{}", text_of(name.to_bytes()));
                let skip = skip(&below);
                if skip == Skip::All {
                    continue;
                }
                let at = |action| HostError::io(shown(&below), action);
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
                let attributes = disk::attributes(&fd, "");
                if meta.inode.0 != top_meta.inode.0 || attributes.contains(StatxAttributes::MOUNT_ROOT) {
                    continue;
                }
                if skip == Skip::Nothing && Ids::from(meta) != inside.ids(meta.kind, meta.mode) {
                    if meta.kind == Kind::File && meta.links > 1 && directory_meta.writer(None).is_some() {
                        // Its other name may lie anywhere: a user could so be given any file of the disk.
                        swept.left.push(shown(&below));
                    } else {
                        if meta.kind == Kind::File && (meta.uid, meta.gid) != inside.owner() && !change {
                            let capability = capability_of(&fd).map(|value| (below.clone(), value));
                            swept.capabilities.extend(capability);
                        }
                        swept.differ.insert(below.clone(), meta);
                        swept.locked.extend(Locked::by(attributes).map(|locked| (shown(&below), locked)));
                        if change {
                            give(&fd, &meta, inside, &shown(&below))?;
                        }
                    }
                }
                if meta.kind == Kind::Directory {
                    ahead.push((below, Rc::clone(&directory), name.to_owned(), meta));
                }
            }
            if change {
                rustix::fs::fsync(&*directory).map_err(HostError::io(shown(&path), "write to the disk"))?;
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
    /// Entries that had another owner or mode, by real path.
    pub differ: BTreeMap<String, Meta>,
    /// Of a sweep that changes nothing: what capabilities those of them lose that get another owner, as hexadecimal digits.
    pub capabilities: BTreeMap<String, String>,
    /// Files that were left because of their hard links.
    pub left: Vec<String>,
    /// Those of the entries that differ which nobody can change.
    pub locked: Vec<(String, Locked)>,
}

/// What on the host belongs to a user, or else to a group: one path of it, or one process.
///
/// # Errors
/// See [`Root::find_owned`].
pub fn belongs(root: &Root, user: Option<u32>, group: Option<u32>) -> Result<Option<String>, HostError> {
    let is_process = |name: &&String| name.bytes().all(|byte| byte.is_ascii_digit());
    for process in root.directories_in("/proc")?.iter().filter(is_process) {
        // It may end at any moment.
        let status =
            root.read(&format!("/proc/{process}/status"), 64 << 10).ok().flatten().unwrap_or_default();
        let status = String::from_utf8_lossy(&status).into_owned();
        let has = |key: &str, wanted: Option<u32>| {
            let ids =
                status.lines().filter_map(|line| line.strip_prefix(key)).flat_map(str::split_whitespace);
            ids.filter_map(|id| id.parse().ok()).any(|id: u32| Some(id) == wanted)
        };
        if has("Uid:", user) || has("Gid:", group) || has("Groups:", group) {
            return Ok(Some(format!("/proc/{process}")));
        }
    }
    root.find_owned(user, group, NOT_SEARCHED)
}

/// Gives a file or directory its owner, group and mode; it is not seen to the disk yet.
fn change_access(place: &Place, kind: Kind, ids: Ids) -> Result<OwnedFd, HostError> {
    let at = |action| HostError::io(&place.real, action);
    let (fd, meta) = place.open(kind)?.ok_or_else(|| HostError::Changed {
        path: place.real.clone(),
        found: "missing".to_owned(),
        expected: kind.words().to_owned(),
    })?;
    check_links(place, &meta)?;
    if (meta.uid, meta.gid) != (ids.uid, ids.gid) {
        reach();
        rustix::fs::fchown(&fd, uid(ids.uid), gid(ids.gid)).map_err(at("set the owner"))?;
    }
    let now: Meta = rustix::fs::fstat(&fd).map_err(at("look"))?.into();
    if now.mode != ids.mode {
        reach();
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(ids.mode)).map_err(at("set the mode"))?;
    }
    Ok(fd)
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

fn set_attributes(fd: impl AsFd, path: &str, attributes: &BTreeMap<String, String>) -> Result<(), HostError> {
    for (name, value) in attributes {
        // They were written by us; what is no hexadecimal number was damaged, and noticed, before.
        let value = hex::decode(value).unwrap_or_default();
        reach();
        match rustix::fs::fsetxattr(&fd, name.as_str(), &value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(HostError::io(path, "set extended attributes")(errno)),
        }
    }
    Ok(())
}

/// An ACL, as hexadecimal digits, of a file with this mode: as chmod would make it of it (`linux/posix_acl_xattr.h`).
fn acl_with_mode(acl: &str, mode: u32) -> String {
    const OWNER: u8 = 0x01;
    const GROUP: u8 = 0x04;
    const MASK: u8 = 0x10;
    const OTHER: u8 = 0x20;
    let mut value = hex::decode(acl).unwrap_or_default();
    // After the version, entries of eight bytes: tag and rights, both of two bytes, and whom it is about.
    let entries = value.get_mut(4..).unwrap_or_default();
    let has_mask = entries.chunks(8).any(|entry| entry.first() == Some(&MASK));
    for entry in entries.chunks_exact_mut(8) {
        let shift = match entry[0] {
            OWNER => 6,
            MASK => 3,
            GROUP if !has_mask => 3,
            OTHER => 0,
            _ => continue,
        };
        entry[2] = (mode >> shift & 0o7) as u8;
    }
    hex::encode(value)
}

/// Whether a file or directory has an extended attribute.
fn has_attribute(fd: impl AsFd, name: &str) -> bool {
    rustix::fs::fgetxattr(fd, name, &mut [0_u8; 0][..]).is_ok()
}

/// What a file has that gives somebody more than its owner, group and mode say.
pub(super) fn grants_of(fd: impl AsFd) -> Vec<&'static str> {
    GRANTS.into_iter().filter(|name| has_attribute(&fd, name)).collect()
}

/// Takes away what a file or directory has of these extended attributes; a new one has a default ACL of its directory.
fn take_away<'n>(
    fd: impl AsFd,
    path: &str,
    names: impl IntoIterator<Item = &'n str>,
) -> Result<(), HostError> {
    for name in names.into_iter().filter(|name| has_attribute(&fd, name)) {
        reach();
        match rustix::fs::fremovexattr(&fd, name) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(errno) => return Err(HostError::io(path, "take ACL and capabilities away")(errno)),
        }
    }
    Ok(())
}

/// The capabilities of a file that is open by its path alone, as hexadecimal digits.
fn capability_of(fd: &OwnedFd) -> Option<String> {
    let mut value = [0_u8; 64];
    let length = rustix::fs::getxattr(by_descriptor(fd).as_str(), CAPABILITY, &mut value[..]).ok()?;
    Some(hex::encode(&value[..length]))
}

/// The path by which something is reached that is open by its path alone: it is the very entry, whatever lies at its path by
/// now. Such a descriptor takes no other way (for a mode: below Linux 6.6).
fn by_descriptor(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Gives a file back what a change of owner has taken with it, set-uid and set-gid bits and capabilities, if all else of it
/// is as it was before, also its content, which its owner between could write; whether it has them. What is looked at is
/// what gets them.
fn give_rights_back(place: &Place, before: &Before, digest: Sha256) -> Result<bool, HostError> {
    let at = |action| HostError::io(&place.real, action);
    let plain = |ids: Ids| Ids { mode: ids.mode & !0o6000, ..ids };
    let Some((fd, meta)) = place.open(Kind::File)? else { return Ok(true) };
    if plain(meta.into()) != plain(before.ids) {
        return Ok(false);
    }
    check_links(place, &meta)?;
    let file = File::from(fd);
    // One byte more than it has: what somebody writes to meanwhile is another file.
    let read = read_through((&file).take(meta.size.saturating_add(1)), &place.real, &mut |_| Ok(()))?;
    if read != digest {
        return Ok(false);
    }
    let capability = before.capability.iter().map(|value| (CAPABILITY.to_owned(), value.clone()));
    set_attributes(&file, &place.real, &capability.collect())?;
    if meta.mode != before.ids.mode {
        reach();
        rustix::fs::fchmod(&file, Mode::from_raw_mode(before.ids.mode)).map_err(at("set the mode"))?;
    }
    reach();
    rustix::fs::fsync(&file).map_err(at("write to the disk"))?;
    Ok(true)
}

// The number's type differs between architectures.
#[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)]
fn is_local(fd: impl AsFd) -> bool {
    rustix::fs::fstatfs(fd).is_ok_and(|stat| LOCAL.contains(&(stat.f_type as u64 & 0xffff_ffff)))
}

/// Gives an entry that is open by its path alone what all inside its directory gets.
fn give(fd: &OwnedFd, meta: &Meta, inside: Inside, path: &str) -> Result<(), HostError> {
    let ids = inside.ids(meta.kind, meta.mode);
    // A change of owner takes set-uid bits with it, so it comes first.
    if (meta.uid, meta.gid) != inside.owner() {
        reach();
        rustix::fs::chownat(fd, "", uid(ids.uid), gid(ids.gid), AtFlags::EMPTY_PATH)
            .map_err(HostError::io(path, "set the owner"))?;
    }
    if inside.mode(meta.kind).is_some() && ids.mode != meta.mode {
        reach();
        rustix::fs::chmod(by_descriptor(fd).as_str(), Mode::from_raw_mode(ids.mode))
            .map_err(HostError::io(path, "set the mode"))?;
    }
    Ok(())
}

/// Removes a file or an empty directory, if it is there.
fn remove_entry(place: &Place, name: &str) -> Result<(), HostError> {
    let path = || format!("{}/{name}", place.parent().trim_end_matches('/'));
    reach();
    match rustix::fs::unlinkat(place.fd(), name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => match rustix::fs::unlinkat(place.fd(), name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(_) => Err(HostError::NameTaken { path: path(), target: place.real.clone() }),
        },
        Err(errno) => Err(HostError::io(path(), "remove what an earlier run left")(errno)),
    }
}

fn sync_directory(place: &Place) -> Result<(), HostError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    reach();
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
