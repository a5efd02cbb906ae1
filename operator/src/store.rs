//! What was last seen of one kind of object. In: events of a watch, and the answers to our own writes. Out: values by
//! name.
//!
//! The answer to a write goes into the store at once, and an older event that comes later does not undo it. So the next
//! decision knows what the last one wrote, however late the watch is: two nodes never get the one permit.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::observed::Seen;

/// A value that a [`Store`] keeps.
pub trait Entry: PartialEq {
    /// What finds it.
    fn key(&self) -> &str;
    /// The uid of its object; empty if it does not matter.
    fn uid(&self) -> &str;
}

/// An object's version as a number. Kubernetes promises since 1.35 that they compare as such, and has always kept it.
pub fn version(resource_version: Option<&str>) -> u64 {
    resource_version.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// A value before and after; equal values make no change.
#[derive(Debug)]
pub struct Change<T> {
    /// What was known before.
    pub old: Option<Arc<T>>,
    /// What is known now; `None` if it is gone.
    pub new: Option<Arc<T>>,
}

struct Versioned<T> {
    version: u64,
    value: Arc<T>,
}

/// See the module.
pub struct Store<T> {
    entries: RwLock<BTreeMap<String, Versioned<T>>>,
    is_synced: AtomicBool,
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self { entries: RwLock::default(), is_synced: AtomicBool::new(false) }
    }
}

impl<T: Entry> Store<T> {
    /// Takes what was seen, unless something newer is known already.
    pub fn put(&self, seen: Seen<T>) -> Option<Change<T>> {
        put(&mut self.write(), seen)
    }

    /// Takes that an object is gone, unless a newer one by that name is known already.
    pub fn remove(&self, seen: &Seen<T>) -> Option<Change<T>> {
        let mut entries = self.write();
        if entries.get(seen.value.key())?.version > seen.version {
            return None;
        }
        let old = entries.remove(seen.value.key())?.value;
        Some(Change { old: Some(old), new: None })
    }

    /// Takes that we deleted an object.
    pub fn forget(&self, key: &str, uid: &str) {
        let mut entries = self.write();
        if entries.get(key).is_some_and(|entry| entry.value.uid() == uid) {
            entries.remove(key);
        }
    }

    /// Takes a full list: what is not on it is gone.
    pub fn replace(&self, all: Vec<Seen<T>>) -> Vec<Change<T>> {
        let mut entries = self.write();
        let mut before = std::mem::take(&mut *entries);
        let mut changes = Vec::new();
        for seen in all {
            if let Some((key, known)) = before.remove_entry(seen.value.key()) {
                entries.insert(key, known);
            }
            changes.extend(put(&mut entries, seen));
        }
        drop(entries);
        changes.extend(before.into_values().map(|gone| Change { old: Some(gone.value), new: None }));
        self.is_synced.store(true, Ordering::Release);
        changes
    }

    /// Whether a full list has been taken.
    pub fn is_synced(&self) -> bool {
        self.is_synced.load(Ordering::Acquire)
    }

    /// One value.
    pub fn get(&self, key: &str) -> Option<Arc<T>> {
        self.read().get(key).map(|entry| Arc::clone(&entry.value))
    }

    /// All values, by key.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.read().values().map(|entry| Arc::clone(&entry.value)).collect()
    }

    /// All values whose key starts so, by key.
    pub fn with_prefix(&self, prefix: &str) -> Vec<Arc<T>> {
        self.read()
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, entry)| Arc::clone(&entry.value))
            .collect()
    }

    // A poisoned lock means that a reader or writer panicked; the map itself is whole after each of these few lines.
    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Versioned<T>>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Versioned<T>>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn put<T: Entry>(entries: &mut BTreeMap<String, Versioned<T>>, seen: Seen<T>) -> Option<Change<T>> {
    let Seen { value, version } = seen;
    match entries.get_mut(value.key()) {
        Some(known) if known.version > version => None,
        Some(known) if *known.value == value => {
            known.version = version;
            None
        }
        Some(known) => {
            let new = Arc::new(value);
            let old = std::mem::replace(&mut known.value, Arc::clone(&new));
            known.version = version;
            Some(Change { old: Some(old), new: Some(new) })
        }
        None => {
            let key = value.key().to_owned();
            let new = Arc::new(value);
            entries.insert(key, Versioned { version, value: Arc::clone(&new) });
            Some(Change { old: None, new: Some(new) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Thing(&'static str, u8);

    impl Entry for Thing {
        fn key(&self) -> &str {
            self.0
        }
        fn uid(&self) -> &str {
            "uid"
        }
    }

    fn seen(key: &'static str, value: u8, version: u64) -> Seen<Thing> {
        Seen { value: Thing(key, value), version }
    }

    #[test]
    fn a_late_event_does_not_undo_what_we_wrote() {
        let store = Store::default();
        store.put(seen("a", 1, 10));
        assert!(store.put(seen("a", 2, 12)).is_some(), "the answer to our write");
        assert!(store.put(seen("a", 1, 11)).is_none(), "an older event");
        assert_eq!(store.get("a").unwrap().1, 2);
        assert!(store.put(seen("a", 2, 12)).is_none(), "the event of our own write wakes nobody");
        assert!(store.remove(&seen("a", 1, 11)).is_none());
        assert!(store.remove(&seen("a", 2, 13)).is_some());
    }

    #[test]
    fn a_full_list_tells_what_came_changed_and_went_and_keeps_what_is_newer() {
        let store = Store::default();
        store.put(seen("gone", 1, 1));
        store.put(seen("same", 1, 2));
        store.put(seen("newer", 2, 9));
        assert!(!store.is_synced());
        let changes = store.replace(vec![seen("came", 1, 5), seen("same", 1, 2), seen("newer", 1, 3)]);
        assert!(store.is_synced());
        let mut keys: Vec<_> =
            changes.iter().map(|change| change.new.as_ref().or(change.old.as_ref()).unwrap().0).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["came", "gone"]);
        assert_eq!(store.get("newer").unwrap().1, 2);
        assert!(store.get("gone").is_none());
    }

    #[test]
    fn a_prefix_ends_where_it_ends() {
        let store = Store::default();
        for key in ["a.1", "a.2", "a1.1", "b.1"] {
            store.put(seen(key, 0, 1));
        }
        let keys: Vec<_> = store.with_prefix("a.").iter().map(|thing| thing.0).collect();
        assert_eq!(keys, ["a.1", "a.2"]);
    }
}
