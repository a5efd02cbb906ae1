//! What was fetched for this host, by digest, below /var/lib/nodebootstrap/.cache: each file is fetched once, whatever
//! needs it, and a download disturbs nobody, since it changes nothing that anybody sees. Beside an archive lies what is in it,
//! so that it is read through once.
//!
//! In: a digest. Out: a [`Part`] to write to, which only one run has at a time; then a file that is whole. A file is
//! believed only after it was hashed, by this process. What a run that broke off or was killed left of a part is gone on
//! with.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::time::Duration;

use crds::Sha256;
use rustix::fs::{AtFlags, FallocateFlags, FlockOperation};
use rustix::io::Errno;
use sha2::Digest;

use super::archive::Index;
use super::digest::Digests;
use super::failpoint::reach;
use super::root::{Kind, Place, errno_of};
use super::write::Ids;
use super::{HostError, Root};

/// Where they lie. No NodeBootstrap has a dot in its name.
pub(super) const CACHE: &str = "/var/lib/nodebootstrap/.cache";
const PART: &str = ".part";
/// What is in an archive. The number is that of the format, which a later version may have another of.
const INDEX: &str = ".index1";
/// The largest index: as many entries as there may be, with paths as long as they may be.
const MAX_INDEX: u64 = 64 << 20;
/// How often a part that another run writes is looked at again.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The files that were fetched for a host.
#[derive(Debug)]
pub struct Cache {
    root: Root,
    digests: Digests,
    /// Those that were read already.
    indexes: RefCell<BTreeMap<Sha256, Rc<Index>>>,
}

/// A file that is being fetched. Dropped before [`Part::finish`], it stays for the next run, unless nothing is in it.
#[derive(Debug)]
pub struct Part {
    place: Place,
    file: File,
    /// Of all that is in it.
    hasher: sha2::Sha256,
    length: u64,
    finished: bool,
}

/// What there is of a file.
#[derive(Debug)]
pub enum Entry {
    /// All of it.
    Whole,
    /// Not all: what is missing is this run's to fetch.
    Part(Part),
}

impl Cache {
    /// The cache of this host. Makes nothing.
    pub fn of(root: &Root) -> Self {
        Self { root: root.clone(), digests: Digests::default(), indexes: RefCell::default() }
    }

    fn place(&self, digest: Sha256, ending: &str) -> Result<Place, HostError> {
        self.root.locate(&format!("{CACHE}/{digest}{ending}"))
    }

    /// Whether a file is there and whole.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn has(&self, digest: Sha256) -> Result<bool, HostError> {
        Ok(self.digests.of(&self.place(digest, "")?)? == Some(digest))
    }

    /// The size of a file that was fetched; `None` if it is not there. A hint: what is there may be damaged.
    pub fn size(&self, digest: Sha256) -> Option<u64> {
        let meta = self.place(digest, "").and_then(|place| place.look()).ok().flatten()?;
        Some(meta.size)
    }

    /// A file that is there and whole, to be read.
    ///
    /// # Errors
    /// If it is not, or cannot be opened.
    pub fn open(&self, digest: Sha256) -> Result<File, HostError> {
        let place = self.place(digest, "")?;
        let is_whole = self.has(digest)?;
        let opened = place.open(Kind::File)?.filter(|_| is_whole);
        opened.map(|(file, _)| File::from(file)).ok_or_else(|| HostError::Changed {
            path: place.real,
            found: "missing".to_owned(),
            expected: "what was fetched".to_owned(),
        })
    }

    /// The first bytes of a file; `None` if it is not there and whole, or shorter.
    pub fn head<const LENGTH: usize>(&self, digest: Sha256) -> Option<[u8; LENGTH]> {
        let mut head = [0; LENGTH];
        self.open(digest).ok()?.read_exact_at(&mut head, 0).ok()?;
        Some(head)
    }

    /// Where a file lies that is there and whole, so that it can be run from there.
    ///
    /// # Errors
    /// If it is not, or cannot be made a program.
    pub fn runnable(&self, digest: Sha256) -> Result<String, HostError> {
        let place = self.place(digest, "")?;
        drop(self.open(digest)?);
        self.root.set_access(&place, Kind::File, Ids::root(0o700))?;
        Ok(place.real)
    }

    /// What is in the archive with this digest; `None` if nobody has read it through yet.
    pub fn index(&self, digest: Sha256) -> Option<Rc<Index>> {
        if let Some(index) = self.indexes.borrow().get(&digest) {
            return Some(Rc::clone(index));
        }
        let (bytes, _) = self.place(digest, INDEX).and_then(|place| place.read(MAX_INDEX)).ok().flatten()?;
        // What is damaged is read from the archive again.
        let index = Rc::new(serde_json::from_slice(&bytes).ok()?);
        self.indexes.borrow_mut().insert(digest, Rc::clone(&index));
        Some(index)
    }

    /// Keeps what is in the archive with this digest.
    ///
    /// # Errors
    /// If it does not get to the disk.
    pub fn keep_index(&self, digest: Sha256, index: &Index) -> Result<(), HostError> {
        let place = self.place(digest, INDEX)?;
        // Only maps with keys that are no text cannot be written.
        let bytes = serde_json::to_vec(index).unwrap_or_default();
        match self.root.write(&place, &bytes, Ids::root(0o600)) {
            // The agent of another NodeBootstrap may have written the same at the same moment.
            Err(error) if self.index(digest).is_none() => Err(error),
            _ => Ok(()),
        }
    }

    /// Begins to fetch a file; while another run does, `waiting` is called again and again.
    ///
    /// # Errors
    /// If the disk takes no file.
    pub async fn begin(&self, digest: Sha256, waiting: &dyn Fn()) -> Result<Entry, HostError> {
        self.root.make_own_directory(CACHE)?;
        loop {
            if self.has(digest)? {
                return Ok(Entry::Whole);
            }
            let place = self.place(digest, PART)?;
            match self.root.lock_file(&place, "write a file")? {
                Some(file) if is_still(&place, &file) => {
                    return Part::of(place, file).map(Entry::Part);
                }
                // Finished or given up between opening and locking.
                Some(_) => continue,
                None => {}
            }
            waiting();
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Removes all files that nobody on this host asks for any more.
    ///
    /// # Errors
    /// If one cannot be removed.
    pub fn prune(&self, wanted: &BTreeSet<Sha256>) -> Result<(), HostError> {
        self.indexes.borrow_mut().retain(|digest, _| wanted.contains(digest));
        let wanted: BTreeSet<String> = wanted.iter().map(ToString::to_string).collect();
        for name in self.root.names_in(CACHE)? {
            let of = [PART, INDEX].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name);
            if wanted.contains(of) {
                continue;
            }
            let place = self.root.locate(&format!("{CACHE}/{name}"))?;
            let is_being_written = place.open(Kind::File)?.is_some_and(|(file, _)| {
                rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::AGAIN)
            });
            if !is_being_written {
                self.root.remove_file(&place)?;
            }
        }
        Ok(())
    }
}

/// Whether the name still leads to this file.
fn is_still(place: &Place, file: &File) -> bool {
    let named = place.look().ok().flatten().map(|meta| meta.inode);
    rustix::fs::fstat(file).is_ok_and(|stat| named == Some((stat.st_dev, stat.st_ino)))
}

impl Part {
    /// A file that is locked, with what is in it already.
    fn of(place: Place, file: File) -> Result<Self, HostError> {
        let mut part = Self { place, file, hasher: sha2::Sha256::new(), length: 0, finished: false };
        let mut buffer = vec![0; 128 << 10];
        loop {
            match part.read(&mut buffer, part.length)? {
                0 => return Ok(part),
                read => {
                    part.hasher.update(&buffer[..read]);
                    part.length += read as u64;
                }
            }
        }
    }

    fn read(&self, buffer: &mut [u8], from: u64) -> Result<usize, HostError> {
        loop {
            match self.file.read_at(buffer, from) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                read => return read.map_err(|error| self.refused("read", &error)),
            }
        }
    }

    fn refused(&self, action: &'static str, error: &std::io::Error) -> HostError {
        HostError::io(&self.place.real, action)(errno_of(error))
    }

    /// How much is in it, in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The digest of what is in it.
    pub fn digest(&self) -> Sha256 {
        Sha256::from_bytes(self.hasher.clone().finalize().into())
    }

    /// What it begins with: at most so many bytes.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn head(&self, most: usize) -> Result<Vec<u8>, HostError> {
        let mut head = vec![0; most];
        let read = self.read(&mut head, 0)?;
        head.truncate(read);
        Ok(head)
    }

    /// Reserves room, so that a full disk is noticed before the download and not at its end.
    ///
    /// # Errors
    /// If there is no room.
    pub fn reserve(&self, bytes: u64) -> Result<(), HostError> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, bytes.max(1)) {
            Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => {
                Err(HostError::io(&self.place.real, "make room")(errno))
            }
            // Not every file system can.
            _ => Ok(()),
        }
    }

    /// Appends content.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), HostError> {
        reach();
        self.file.write_all_at(bytes, self.length).map_err(|error| self.refused("write", &error))?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Throws away what was written so far.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn restart(&mut self) -> Result<(), HostError> {
        self.file.set_len(0).map_err(|error| self.refused("begin again", &error))?;
        self.hasher = sha2::Sha256::new();
        self.length = 0;
        Ok(())
    }

    /// It has the content that its digest says: from now on it is found under that name.
    ///
    /// # Errors
    /// If it cannot be renamed.
    pub fn finish(mut self, cache: &Cache, digest: Sha256) -> Result<(), HostError> {
        let place = cache.place(digest, "")?;
        reach();
        rustix::fs::renameat(self.place.fd(), self.place.name.as_str(), place.fd(), place.name.as_str())
            .map_err(HostError::io(&place.real, "put it in place"))?;
        self.finished = true;
        // Not brought to the disk: what a power cut leaves of it is hashed before it is believed.
        if let Some(meta) = place.look()? {
            cache.digests.remember(&place.real, &meta, digest);
        }
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // Room that was reserved and not used is given back.
        if self.length == 0 || self.file.set_len(self.length).is_err() {
            let _ = rustix::fs::unlinkat(self.place.fd(), self.place.name.as_str(), AtFlags::empty());
        }
    }
}
