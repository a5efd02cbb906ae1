//! What was read of files of the agent's own, remembered while the program runs: a pass that finds nothing reads none of
//! them again.
//!
//! In: a path, and how its file is read. Out: what that made of it, which holds as long as inode, size and both times are
//! the same: another process may have written it meanwhile.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::SystemTime;

use super::digest::{Key, is_settled, key_of};
use super::{HostError, Root};

/// Remembers what was read, by path.
#[derive(Debug)]
pub(super) struct Kept<T>(RefCell<BTreeMap<String, (Key, Rc<T>)>>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T> Kept<T> {
    /// What a file holds; `None` if it is not there.
    ///
    /// # Errors
    /// If it cannot be reached, is no file, is larger than `max`, or `parse` refuses it.
    pub(super) fn of(
        &self,
        root: &Root,
        path: &str,
        max: u64,
        parse: impl FnOnce(&[u8]) -> Result<T, HostError>,
    ) -> Result<Option<Rc<T>>, HostError> {
        let (place, meta) = root.own_file(path)?;
        if let Some(meta) = meta
            && let Some((key, value)) = self.0.borrow().get(path)
            && *key == key_of(&meta)
        {
            return Ok(Some(Rc::clone(value)));
        }
        self.0.borrow_mut().remove(path);
        let Some((bytes, meta)) = place.read(max)? else { return Ok(None) };
        let value = Rc::new(parse(&bytes)?);
        if is_settled(&meta, SystemTime::now()) {
            self.0.borrow_mut().insert(path.to_owned(), (key_of(&meta), Rc::clone(&value)));
        }
        Ok(Some(value))
    }
}
