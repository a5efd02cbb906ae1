//! The one handle through which the machine's files are reached: `/` on a bare machine, `/host` in the pod, or any
//! directory that holds a root.
//!
//! In: a path of the host. Out: a [`Place`]: the real directory that the path lies in, held open, and the name in it.
//! Everything after that works on the open directory, so that nobody can swap a step of the path under our feet.
//!
//! The walk goes one step at a time. The kernel follows no symbolic link for us: each is read and judged here. One that
//! somebody other than root could have put there is an error, and absolute ones start again at the handle, never above.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::HostError;
use super::install::{MASK, UNIT_DIRECTORY};

/// How many symbolic links one path may have, as in the kernel.
const MAX_LINKS: usize = 40;

/// A machine's root directory.
#[derive(Debug, Clone)]
pub struct Root {
    fd: Rc<OwnedFd>,
    shown: String,
}

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, socket or pipe.
    Special,
}

impl Kind {
    /// In words, with an article.
    pub fn words(self) -> &'static str {
        match self {
            Self::File => "a file",
            Self::Directory => "a directory",
            Self::Link => "a symbolic link",
            Self::Special => "a device, socket or pipe",
        }
    }
}

/// What is known of an entry without opening it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// What it is.
    pub kind: Kind,
    /// The user that owns it.
    pub uid: u32,
    /// The group that owns it.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// Bytes of content.
    pub size: u64,
    /// How many names it has.
    pub links: u64,
    /// Device and inode: the same for the same file.
    pub inode: (u64, u64),
    /// When the content changed, seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// When anything of it changed; nobody can set it back.
    pub ctime: (i64, i64),
}

impl From<Stat> for Meta {
    // The fields' types differ between architectures.
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    fn from(stat: Stat) -> Self {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Link,
            _ => Kind::Special,
        };
        Self {
            kind,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & 0o7777,
            size: stat.st_size as u64,
            links: stat.st_nlink as u64,
            inode: (stat.st_dev as u64, stat.st_ino as u64),
            mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            ctime: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }
}

impl Meta {
    /// Who, other than root, can put an entry into this directory; `None` if nobody can.
    ///
    /// In a directory with the sticky bit everybody may add entries but not replace those of others, so there it is the
    /// entry's own owner who counts.
    pub fn writer(&self, entry: Option<&Meta>) -> Option<Writer> {
        if self.uid != 0 {
            return Some(Writer::User(self.uid));
        }
        let open = self.mode & 0o002 != 0;
        if self.mode & 0o1000 != 0 && (open || self.mode & 0o020 != 0) {
            return entry.filter(|entry| entry.uid != 0).map(|entry| Writer::User(entry.uid));
        }
        if open {
            return Some(Writer::Everybody);
        }
        (self.mode & 0o020 != 0 && self.gid != 0).then_some(Writer::Group(self.gid))
    }
}

/// Somebody other than root who can change a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// The user with this number.
    User(u32),
    /// The members of this group.
    Group(u32),
    /// All users.
    Everybody,
}

impl std::fmt::Display for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(uid) => write!(f, "the user {uid}"),
            Self::Group(gid) => write!(f, "the group {gid}"),
            Self::Everybody => f.write_str("everybody"),
        }
    }
}

/// A symbolic link on the way to a place.
#[derive(Debug, Clone)]
pub struct Followed {
    /// The link's real path.
    pub path: String,
    /// The link.
    pub link: Meta,
    /// The real path of the directory that it lies in.
    pub directory: String,
    /// That directory.
    pub directory_meta: Meta,
}

/// Where a path really lies: a directory held open, and a name in it.
#[derive(Debug, Clone)]
pub struct Place {
    /// The path with all links resolved; never ends in `/`.
    pub real: String,
    /// The name in the directory.
    pub name: String,
    way: Rc<Way>,
}

impl Place {
    /// The real path of the directory that the name lies in, or will lie in.
    pub fn parent(&self) -> &str {
        match self.real.rfind('/') {
            Some(0) | None => "/",
            Some(end) => &self.real[..end],
        }
    }

    /// Another name in the same directory.
    pub(super) fn beside(&self, name: &str) -> Place {
        self.way.place(name)
    }

    /// Whether the directory that the name lies in is there.
    pub fn has_directory(&self) -> bool {
        self.way.missing.is_empty()
    }

    /// The real paths of the directories that are missing above it, the topmost first.
    pub fn missing_paths(&self) -> Vec<String> {
        let mut path = self.way.here().path.clone();
        let add = |step: &String| {
            path.push('/');
            path.push_str(step);
            path.clone()
        };
        self.way.missing.iter().map(add).collect()
    }

    /// The directories above it that are there, the topmost first, with the users that own them; not the root.
    pub fn ancestors(&self) -> impl DoubleEndedIterator<Item = (&str, u32)> {
        self.way.below.iter().map(|step| (step.path.as_str(), step.meta.uid))
    }

    /// Whether a directory above it, not the root, keeps out everybody but its owner and group.
    pub fn is_closed(&self) -> bool {
        self.way.below.iter().any(|step| step.meta.mode & 0o001 == 0)
    }

    /// The links that were followed.
    pub fn links(&self) -> &[Followed] {
        &self.way.links
    }

    /// What is there; `None` if nothing is.
    ///
    /// # Errors
    /// If the kernel refuses to tell.
    pub fn look(&self) -> Result<Option<Meta>, HostError> {
        if !self.has_directory() {
            return Ok(None);
        }
        match rustix::fs::statat(self.fd(), &*bytes_of(&self.name), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(HostError::io(&self.real, "look")(errno)),
        }
    }

    /// What the directory that it lies in is; of the nearest that exists, if that is missing.
    pub fn directory(&self) -> Meta {
        self.way.here().meta
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.way.here().fd.as_fd()
    }

    /// Opens what is there for reading, if it is of this kind. Never waits on a pipe, never follows a link.
    pub(super) fn open(&self, kind: Kind) -> Result<Option<(OwnedFd, Meta)>, HostError> {
        if !self.has_directory() {
            return Ok(None);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = match rustix::fs::openat(self.fd(), &*bytes_of(&self.name), flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(HostError::io(&self.real, "open")(errno)),
        };
        let meta: Meta = rustix::fs::fstat(&fd).map_err(HostError::io(&self.real, "look"))?.into();
        if meta.kind != kind {
            return Err(HostError::Changed {
                path: self.real.clone(),
                found: meta.kind.words().to_owned(),
                expected: kind.words().to_owned(),
            });
        }
        Ok(Some((fd, meta)))
    }

    /// The content of a regular file, and what it was read from; `None` if nothing is there.
    ///
    /// # Errors
    /// If it is something else, or larger than `max`.
    pub fn read(&self, max: u64) -> Result<Option<(Vec<u8>, Meta)>, HostError> {
        let Some((fd, meta)) = self.open(Kind::File)? else { return Ok(None) };
        if meta.size > max {
            return Err(HostError::TooLarge { path: self.real.clone(), size: meta.size, max });
        }
        let mut content = Vec::with_capacity(usize::try_from(meta.size).unwrap_or_default());
        // One byte more than allowed, so that a file that grows while it is read is noticed.
        std::fs::File::from(fd)
            .take(max + 1)
            .read_to_end(&mut content)
            .map_err(|error| HostError::io(&self.real, "read")(errno_of(&error)))?;
        if content.len() as u64 > max {
            return Err(HostError::TooLarge { path: self.real.clone(), size: content.len() as u64, max });
        }
        Ok(Some((content, meta)))
    }
}

/// A name as text from which [`bytes_of`] makes the same bytes: one that is no UTF-8 has for each byte that is no text a
/// NUL, which no name has, and two hexadecimal digits.
pub(super) fn text_of(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\0{byte:02x}")));
    }
    text
}

/// The bytes of a name that [`text_of`] has made, or of any other.
pub(super) fn bytes_of(name: &str) -> Cow<'_, [u8]> {
    let Some((before, rest)) = name.split_once('\0') else { return Cow::Borrowed(name.as_bytes()) };
    let mut bytes = before.as_bytes().to_vec();
    for part in rest.split('\0') {
        match part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[2..]);
            }
            // Whoever wrote that, the kernel finds nothing under it.
            None => bytes.extend([b"\0", part.as_bytes()].concat()),
        }
    }
    Cow::Owned(bytes)
}

/// A path with such names as a person reads it.
pub fn shown(path: &str) -> String {
    path.replace('\0', "\\x")
}

/// What the kernel said, of an error of the standard library.
pub(super) fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// One directory of the walk.
#[derive(Debug)]
struct Step {
    fd: OwnedFd,
    /// Its real path; empty for the root.
    path: String,
    meta: Meta,
}

/// The directories walked so far. Those of siblings share their steps.
#[derive(Debug, Clone)]
struct Way {
    top: Rc<Step>,
    below: Vec<Rc<Step>>,
    /// Steps that are not there, below the last that is.
    missing: Vec<String>,
    links: Vec<Followed>,
}

impl Way {
    fn here(&self) -> &Step {
        self.below.last().unwrap_or(&self.top)
    }

    /// The real path of an entry here.
    fn path(&self, name: &str) -> String {
        let mut path = self.here().path.clone();
        for step in self.missing.iter().map(String::as_str).chain([name]) {
            path.push('/');
            path.push_str(step);
        }
        path
    }

    fn place(self: &Rc<Self>, name: &str) -> Place {
        Place { real: self.path(name), name: name.to_owned(), way: Rc::clone(self) }
    }

    /// Walks on. Links are followed, as long as nobody but root could have made them. Gives the name of the last step
    /// if that is there and no directory; only `through_links` may end so.
    fn walk(&mut self, path: &str, steps: &str, through_links: bool) -> Result<Option<String>, HostError> {
        // What is still to be walked, the next step last.
        let mut ahead = split(steps);
        while let Some(step) = ahead.pop() {
            match step.as_str() {
                "." => continue,
                ".." if !self.missing.is_empty() => {
                    return Err(HostError::io(self.path(&step), "follow the link")(Errno::NOENT));
                }
                // Above the root is the root.
                ".." => {
                    self.below.pop();
                    continue;
                }
                _ => {}
            }
            if !self.missing.is_empty() {
                self.missing.push(step);
                continue;
            }
            let here = self.here();
            let fd = match open_step(&here.fd, &step) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => {
                    self.missing.push(step);
                    continue;
                }
                Err(errno) => return Err(HostError::io(self.path(&step), "open")(errno)),
            };
            let meta: Meta = rustix::fs::fstat(&fd).map_err(HostError::io(self.path(&step), "look"))?.into();
            match meta.kind {
                Kind::Directory => {
                    let path = self.path(&step);
                    self.below.push(Rc::new(Step { fd, path, meta }));
                }
                Kind::Link => {
                    let followed = Followed {
                        path: self.path(&step),
                        link: meta,
                        directory: if here.path.is_empty() { "/".to_owned() } else { here.path.clone() },
                        directory_meta: here.meta,
                    };
                    if let Some(writer) = here.meta.writer(Some(&meta)) {
                        let Followed { path: link, directory, .. } = followed;
                        return Err(HostError::UnsafeLink { link, directory, who: writer.to_string() });
                    }
                    let target = rustix::fs::readlinkat(&fd, "", Vec::new())
                        .map_err(HostError::io(&followed.path, "read the link"))?;
                    self.links.push(followed);
                    if self.links.len() > MAX_LINKS {
                        return Err(HostError::TooManyLinks { path: path.to_owned() });
                    }
                    let target = OsStr::from_bytes(target.as_bytes()).to_string_lossy().into_owned();
                    if target.starts_with('/') {
                        self.below.clear();
                    }
                    ahead.extend(split(&target));
                }
                _ if through_links && ahead.is_empty() => return Ok(Some(step)),
                Kind::File | Kind::Special => {
                    let step = self.path(&step);
                    return Err(HostError::NotADirectory {
                        path: path.to_owned(),
                        step,
                        found: meta.kind.words(),
                    });
                }
            }
        }
        Ok(None)
    }
}

/// The steps of a path, the first last.
fn split(path: &str) -> Vec<String> {
    path.rsplit('/').filter(|step| !step.is_empty()).map(str::to_owned).collect()
}

/// Finds many places at one moment: each directory is walked once.
#[derive(Debug)]
pub struct Finder<'a> {
    root: &'a Root,
    /// By path as written.
    known: BTreeMap<String, Result<Rc<Way>, HostError>>,
}

impl Finder<'_> {
    /// As [`Root::locate`].
    ///
    /// # Errors
    /// See [`Root::locate`].
    pub fn locate(&mut self, path: &str) -> Result<Place, HostError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or_default();
        Ok(self.directory(parent, path)?.place(name))
    }

    fn directory(&mut self, directory: &str, path: &str) -> Result<Rc<Way>, HostError> {
        if let Some(known) = self.known.get(directory) {
            return known.clone();
        }
        let way = self.walk(directory, path);
        self.known.insert(directory.to_owned(), way.clone());
        way
    }

    fn walk(&mut self, directory: &str, path: &str) -> Result<Rc<Way>, HostError> {
        let Some((above, name)) = directory.rsplit_once('/') else { return Ok(Rc::new(self.root.top()?)) };
        let mut way = Way::clone(&*self.directory(above, path)?);
        way.walk(path, name, false)?;
        Ok(Rc::new(way))
    }
}

impl Root {
    /// Opens a root directory.
    ///
    /// # Errors
    /// If it is none, or cannot be opened.
    pub fn open(path: &str) -> Result<Self, HostError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(HostError::io(path, "open the machine's root directory"))?;
        Ok(Self { fd: Rc::new(fd), shown: path.trim_end_matches('/').to_owned() })
    }

    /// A host's path as a program outside of the root sees it, for what must be named to the kernel by path (sockets).
    pub fn outside(&self, path: &str) -> String {
        format!("{}{path}", self.shown)
    }

    /// Finds where a path really lies. The last step is not followed if it is a link.
    ///
    /// # Errors
    /// If the way there cannot be trusted, or has something else than directories on it.
    pub fn locate(&self, path: &str) -> Result<Place, HostError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or_default();
        let mut way = self.top()?;
        way.walk(path, parent, false)?;
        Ok(Rc::new(way).place(name))
    }

    /// As [`Root::locate`], and through the last step too.
    ///
    /// # Errors
    /// See [`Root::locate`].
    pub fn locate_through_links(&self, path: &str) -> Result<Place, HostError> {
        let mut way = self.top()?;
        let name = match way.walk(path, path, true)? {
            Some(name) => name,
            // It is missing, or a directory: its name in the one above.
            None => match way.missing.pop() {
                Some(name) => name,
                None => way.below.pop().map_or_else(
                    || ".".to_owned(),
                    |step| step.path.rsplit('/').next().unwrap_or_default().to_owned(),
                ),
            },
        };
        Ok(Rc::new(way).place(&name))
    }

    /// Finds many places at this moment.
    pub fn finder(&self) -> Finder<'_> {
        Finder { root: self, known: BTreeMap::new() }
    }

    fn top(&self) -> Result<Way, HostError> {
        let fd = rustix::io::dup(&*self.fd).map_err(HostError::io("/", "open"))?;
        let meta = rustix::fs::fstat(&fd).map_err(HostError::io("/", "look"))?.into();
        let top = Rc::new(Step { fd, path: String::new(), meta });
        Ok(Way { top, below: Vec::new(), missing: Vec::new(), links: Vec::new() })
    }

    /// The content of a file of the host, through links; `None` if it is not there.
    ///
    /// # Errors
    /// If it cannot be reached or read, or is larger than `max`.
    pub fn read(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>, HostError> {
        Ok(self.locate_through_links(path)?.read(max)?.map(|(content, _)| content))
    }

    /// Where a file of the agent's own lies, and what is there. It is never a link: one that leads nowhere must not pass for
    /// a file that is not there.
    ///
    /// # Errors
    /// If something else is there.
    pub(super) fn own_file(&self, path: &str) -> Result<(Place, Option<Meta>), HostError> {
        let place = self.locate(path)?;
        match place.look()? {
            Some(meta) if meta.kind != Kind::File => Err(HostError::State {
                path: path.to_owned(),
                cause: format!("it is {}, expected a file", meta.kind.words()),
            }),
            meta => Ok((place, meta)),
        }
    }

    /// What the symbolic link at a place leads to, as it is written into it; `None` if that is no text.
    ///
    /// # Errors
    /// If it is no link, or cannot be read.
    pub fn read_link(&self, place: &Place) -> Result<Option<String>, HostError> {
        let target = rustix::fs::readlinkat(place.fd(), place.name.as_str(), Vec::new())
            .map_err(HostError::io(&place.real, "read the link"))?;
        Ok(target.into_string().ok())
    }

    /// Whether a unit is masked for good: by a link to /dev/null among the administrator's units.
    ///
    /// # Errors
    /// If the kernel refuses to tell.
    pub fn is_masked(&self, unit: &str) -> Result<bool, HostError> {
        let place = self.locate(&format!("{UNIT_DIRECTORY}/{unit}"))?;
        let is_link = place.look()?.is_some_and(|meta| meta.kind == Kind::Link);
        Ok(is_link && self.read_link(&place)?.is_some_and(|target| target == MASK))
    }

    /// Opens a directory, as it is written, to be named to the kernel; `None` if it is missing.
    pub(super) fn open_directory(&self, path: &str) -> Result<Option<OwnedFd>, HostError> {
        let mut way = self.top()?;
        way.walk(path, path, false)?;
        if !way.missing.is_empty() {
            return Ok(None);
        }
        rustix::io::dup(&way.here().fd).map(Some).map_err(HostError::io(path, "open"))
    }

    /// Whether a process runs from the program at a path.
    pub fn is_run(&self, path: &str) -> bool {
        let target =
            |process: &str| self.read_link(&self.locate(&format!("/proc/{process}/exe")).ok()?).ok()?;
        let processes = self.directories_in("/proc").unwrap_or_default();
        let mut processes = processes.iter().filter(|name| name.bytes().all(|sign| sign.is_ascii_digit()));
        processes.any(|process| target(process).as_deref() == Some(path))
    }

    /// The names of the directories in a directory; none if it is missing.
    ///
    /// # Errors
    /// If it cannot be listed.
    pub fn directories_in(&self, path: &str) -> Result<Vec<String>, HostError> {
        self.entries(path, |kind| kind == FileType::Directory)
    }

    /// The names of all that is in a directory but of directories; none if it is missing.
    ///
    /// # Errors
    /// If it cannot be listed.
    pub fn names_in(&self, path: &str) -> Result<Vec<String>, HostError> {
        self.entries(path, |kind| kind != FileType::Directory)
    }

    fn entries(&self, path: &str, wanted: impl Fn(FileType) -> bool) -> Result<Vec<String>, HostError> {
        let Some(directory) = self.open_directory(path)? else { return Ok(Vec::new()) };
        let at = || HostError::io(path, "list the directory");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&directory, ".", flags, Mode::empty()).map_err(at())?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(directory).map_err(at())? {
            let entry = entry.map_err(at())?;
            let name = entry.file_name().to_string_lossy();
            if !matches!(&*name, "." | "..") && wanted(entry.file_type()) {
                names.push(name.into_owned());
            }
        }
        names.sort();
        Ok(names)
    }
}

/// Opens one step, whatever it is, without following it.
fn open_step(directory: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    let name = &*bytes_of(name);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(directory, name, flags, Mode::empty(), beneath) {
        // A kernel below 5.6: for a single step that is neither `..` nor has a `/` in it, this means the same.
        Err(Errno::NOSYS) => rustix::fs::openat(directory, name, flags, Mode::empty()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::{bytes_of, shown, text_of};
    use proptest::prelude::*;

    #[test]
    fn a_name_that_is_no_text_is_told_with_its_bytes() {
        assert_eq!(shown(&format!("/d/{}", text_of(b"a\xff\xc3b"))), "/d/a\\xff\\xc3b");
        assert_eq!(&*bytes_of("a\0zz\0"), b"a\0zz\0", "no such name");
    }

    proptest! {
        #[test]
        fn each_name_has_a_text_of_its_own(name in prop::collection::vec(1_u8.., 0..20)) {
            let text = text_of(&name);
            prop_assert_eq!(&*bytes_of(&text), &name[..]);
            prop_assert_eq!(std::str::from_utf8(&name).is_ok(), text.as_bytes() == name);
        }
    }
}
