//! The SHA-256 of files, remembered while the program runs: a converged host is not read again on each pass.
//!
//! In: a place. Out: the digest of what is there. A remembered digest holds as long as inode, size and both times are
//! the same; the change time cannot be set back by anybody.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Read;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crds::Sha256;
use sha2::Digest;

use super::HostError;
use super::root::{Kind, Meta, Place, errno_of};

/// File times are only as fine as the kernel's tick (4 or 10 ms), so a file that changed just now may change again
/// with the same time.
const TICK: Duration = Duration::from_millis(50);

/// How long a digest is believed that was made from a file that had just changed: long enough for the verification that
/// follows a download, and then the file is read once more, with nobody waiting for it.
const FRESH: Duration = Duration::from_millis(500);

/// What a digest was made from.
type Key = ((u64, u64), u64, (i64, i64), (i64, i64));

/// Remembers digests.
#[derive(Debug, Default)]
pub struct Digests {
    known: RefCell<BTreeMap<String, Known>>,
}

#[derive(Debug)]
struct Known {
    key: Key,
    digest: Sha256,
    /// Until when it is believed; for ever, if the file could not have changed again under the same time.
    until: Option<Instant>,
}

impl Digests {
    /// The digest of the regular file at a place; `None` if nothing is there.
    ///
    /// # Errors
    /// If it is something else, or cannot be read.
    pub fn of(&self, place: &Place) -> Result<Option<Sha256>, HostError> {
        let Some((fd, meta)) = place.open(Kind::File)? else { return Ok(None) };
        if let Some(known) = self.known.borrow().get(&place.real)
            && known.key == key_of(&meta)
            && known.until.is_none_or(|until| Instant::now() < until)
        {
            return Ok(Some(known.digest));
        }
        let digest = read_through(std::fs::File::from(fd), &place.real, &mut |_| Ok(()))?;
        self.remember(&place.real, &meta, digest);
        Ok(Some(digest))
    }

    /// Remembers a digest that was computed while the file was written.
    pub fn remember(&self, real: &str, meta: &Meta, digest: Sha256) {
        let until = (!is_settled(meta, SystemTime::now())).then(|| Instant::now() + FRESH);
        self.known.borrow_mut().insert(real.to_owned(), Known { key: key_of(meta), digest, until });
    }
}

/// Reads a file to its end; the digest of what was read. `each` is given every piece of it.
pub(super) fn read_through(
    mut file: impl Read,
    path: &str,
    each: &mut dyn FnMut(&[u8]) -> Result<(), HostError>,
) -> Result<Sha256, HostError> {
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        let length = match file.read(&mut buffer) {
            Ok(0) => return Ok(Sha256::from_bytes(hasher.finalize().into())),
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(HostError::io(path, "read")(errno_of(&error))),
        };
        hasher.update(&buffer[..length]);
        each(&buffer[..length])?;
    }
}

fn key_of(meta: &Meta) -> Key {
    (meta.inode, meta.size, meta.mtime, meta.ctime)
}

fn is_settled(meta: &Meta, now: SystemTime) -> bool {
    let changed = Duration::new(meta.ctime.0.try_into().unwrap_or(0), meta.ctime.1.try_into().unwrap_or(0));
    now.duration_since(UNIX_EPOCH).is_ok_and(|now| now > changed + TICK)
}
