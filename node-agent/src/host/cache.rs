//! What was fetched for this host, by digest, below /var/lib/nodebootstrap/.cache: each file is fetched once, whatever
//! needs it, and a download disturbs nobody, since it changes nothing that anybody sees.
//!
//! In: a digest. Out: a [`Part`] to write to, which only one run has at a time; then a file that is whole. A file is
//! believed only after it was hashed, by this process.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Seek, Write};
use std::time::Duration;

use crds::Sha256;
use crds::names::STATE_DIR;
use rustix::fs::{AtFlags, FallocateFlags, FlockOperation};
use rustix::io::Errno;

use super::digest::Digests;
use super::root::{Kind, Place, errno_of};
use super::{HostError, Root};

const PART: &str = ".part";
/// How often a part that another run writes is looked at again.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The files that were fetched for a host.
#[derive(Debug)]
pub struct Cache {
    root: Root,
    digests: Digests,
}

/// A file that is being fetched. Dropped before [`Part::finish`], it is removed.
#[derive(Debug)]
pub struct Part {
    place: Place,
    file: File,
    finished: bool,
}

/// What there is of a file.
#[derive(Debug)]
pub enum Entry {
    /// All of it.
    Whole,
    /// Nothing yet: it is this run's to fetch.
    Part(Part),
}

// No NodeBootstrap has a dot in its name.
fn directory() -> String {
    format!("{STATE_DIR}/.cache")
}

impl Cache {
    /// The cache of this host. Makes nothing.
    pub fn of(root: &Root) -> Self {
        Self { root: root.clone(), digests: Digests::default() }
    }

    fn place(&self, digest: Sha256, ending: &str) -> Result<Place, HostError> {
        self.root.locate(&format!("{}/{digest}{ending}", directory()))
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

    /// Begins to fetch a file; while another run does, `waiting` is called again and again.
    ///
    /// # Errors
    /// If the disk takes no file.
    pub async fn begin(&self, digest: Sha256, waiting: &dyn Fn()) -> Result<Entry, HostError> {
        self.root.make_own_directory(&directory())?;
        loop {
            if self.has(digest)? {
                return Ok(Entry::Whole);
            }
            let place = self.place(digest, PART)?;
            match self.root.lock_file(&place, "write a file")? {
                Some(file) if is_still(&place, &file) => {
                    return Ok(Entry::Part(Part { place, file, finished: false }));
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
        let wanted: BTreeSet<String> = wanted.iter().map(ToString::to_string).collect();
        for name in self.root.names_in(&directory())? {
            if wanted.contains(name.strip_suffix(PART).unwrap_or(&name)) {
                continue;
            }
            let place = self.root.locate(&format!("{}/{name}", directory()))?;
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
        self.file.write_all(bytes).map_err(|error| HostError::io(&self.place.real, "write")(errno_of(&error)))
    }

    /// Throws away what was written so far.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn restart(&mut self) -> Result<(), HostError> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .map_err(|error| HostError::io(&self.place.real, "begin again")(errno_of(&error)))
    }

    /// It has the content that its digest says: from now on it is found under that name.
    ///
    /// # Errors
    /// If it cannot be renamed.
    pub fn finish(mut self, cache: &Cache, digest: Sha256) -> Result<(), HostError> {
        let place = cache.place(digest, "")?;
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
        if !self.finished {
            // What is left is thrown away by the next run that fetches it.
            let _ = rustix::fs::unlinkat(self.place.fd(), self.place.name.as_str(), AtFlags::empty());
        }
    }
}
