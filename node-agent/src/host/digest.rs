//! The SHA-256 of files, and what they give others, remembered while the program runs: a converged host is not read again
//! on each pass.
//!
//! In: a place. Out: the digest of what is there, and its extended attributes that give somebody more than its mode says. What
//! is remembered holds as long as inode, size and both times are the same; the change time, which extended attributes
//! change too, cannot be set back by anybody. What changes a disk below its file system leaves no such
//! trace, so that after some time each file is read again whatever they say.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::Read;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crds::Sha256;
use sha2::Digest;

use super::HostError;
use super::root::{Kind, Meta, Place, errno_of};
use super::write::grants_of;

/// File times are only as fine as the kernel's tick (4 or 10 ms), so a file that changed just now may change again
/// with the same time.
const TICK: Duration = Duration::from_millis(50);

/// How long a digest is believed that was made from a file that had just changed: long enough for the verification that
/// follows a download, and then the file is read once more, with nobody waiting for it.
const FRESH: Duration = Duration::from_millis(500);

/// How long a digest is believed unless it is said otherwise.
pub const BELIEVED: Duration = Duration::from_secs(3600);

/// By which a file is known as the one that was read.
pub(super) type Key = ((u64, u64), u64, (i64, i64), (i64, i64));

/// Remembers digests.
#[derive(Debug)]
pub struct Digests {
    known: RefCell<BTreeMap<String, Known>>,
    believed: Cell<Duration>,
}

impl Default for Digests {
    fn default() -> Self {
        Self { known: RefCell::default(), believed: Cell::new(BELIEVED) }
    }
}

/// What was seen of a file.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The digest of its content.
    pub digest: Sha256,
    /// Its extended attributes that give somebody more than owner, group and mode say.
    pub grants: Vec<&'static str>,
}

#[derive(Debug)]
struct Known {
    key: Key,
    seen: Seen,
    read: Instant,
    /// Whether the file could not have changed again under the same time.
    is_settled: bool,
}

impl Digests {
    /// How long a digest is believed from now on, those that are remembered already too. Default: [`BELIEVED`].
    pub fn believe_for(&self, time: Duration) {
        self.believed.set(time);
    }

    /// The digest of the regular file at a place; `None` if nothing is there.
    ///
    /// # Errors
    /// If it is something else, or cannot be read.
    pub fn of(&self, place: &Place) -> Result<Option<Sha256>, HostError> {
        match place.look()? {
            Some(meta) => self.of_seen(place, &meta),
            None => Ok(None),
        }
    }

    /// As [`Digests::of`], of what was just looked at.
    ///
    /// # Errors
    /// See [`Digests::of`].
    pub fn of_seen(&self, place: &Place, meta: &Meta) -> Result<Option<Sha256>, HostError> {
        Ok(self.see(place, meta)?.map(|seen| seen.digest))
    }

    /// As [`Digests::of_seen`], with what it gives others: the file is not even opened if that is known.
    ///
    /// # Errors
    /// See [`Digests::of`].
    pub fn see(&self, place: &Place, meta: &Meta) -> Result<Option<Seen>, HostError> {
        if let Some(known) = self.known.borrow().get(&place.real)
            && known.key == key_of(meta)
            && known.read.elapsed() < if known.is_settled { self.believed.get() } else { FRESH }
        {
            return Ok(Some(known.seen.clone()));
        }
        let Some((fd, meta)) = place.open(Kind::File)? else { return Ok(None) };
        let grants = grants_of(&fd);
        // One byte more than it has: what somebody writes to meanwhile is another file, and need not be read to its end.
        let file = std::fs::File::from(fd).take(meta.size.saturating_add(1));
        let digest = read_through(file, &place.real, &mut |_| Ok(()))?;
        let seen = Seen { digest, grants };
        self.keep(&place.real, &meta, seen.clone());
        Ok(Some(seen))
    }

    /// Remembers a digest that was computed while the file was written, which gives nobody more than its mode says.
    pub fn remember(&self, real: &str, meta: &Meta, digest: Sha256) {
        self.keep(real, meta, Seen { digest, grants: Vec::new() });
    }

    fn keep(&self, real: &str, meta: &Meta, seen: Seen) {
        let is_settled = is_settled(meta, SystemTime::now());
        let known = Known { key: key_of(meta), seen, read: Instant::now(), is_settled };
        self.known.borrow_mut().insert(real.to_owned(), known);
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

pub(super) fn key_of(meta: &Meta) -> Key {
    (meta.inode, meta.size, meta.mtime, meta.ctime)
}

/// Whether a file cannot change again under the same time: it is another time by now. One that changed in the future did
/// so before the clock was set back.
pub(super) fn is_settled(meta: &Meta, now: SystemTime) -> bool {
    is_another_time(meta.ctime, now)
}

fn is_another_time(changed: (i64, i64), now: SystemTime) -> bool {
    let changed = Duration::new(changed.0.try_into().unwrap_or(0), changed.1.try_into().unwrap_or(0));
    now.duration_since(UNIX_EPOCH).is_ok_and(|now| now.abs_diff(changed) > TICK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_settled_once_it_is_another_time_whichever_way_the_clock_was_set() {
        let at = |milliseconds: u64| UNIX_EPOCH + Duration::from_millis(milliseconds);
        let changed = (1000, 5_000_000);
        for (now, expected) in [
            (1_000_005, false),
            (1_000_050, false),
            (1_000_056, true),
            // A moment before: the clock may come to the same time again.
            (999_960, false),
            (999_900, true),
            (0, true),
            (10_000_000, true),
        ] {
            assert_eq!(is_another_time(changed, at(now)), expected, "{now}");
        }
    }
}
