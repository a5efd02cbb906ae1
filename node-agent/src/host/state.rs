//! What the agent keeps on the host below /var/lib/nodebootstrap, root's alone:
//!
//! | file | what is in it |
//! |---|---|
//! | `.lock` | held by whoever changes the host: the pod or the command line |
//! | `.cache/` | what was fetched: [`super::cache`] |
//! | `<nb>/revision.json` | the revision that was begun last: what this NodeBootstrap claims on this host |
//! | `<nb>/owed.json` | what a run that was killed still owes: restarts, and files to clear away |
//! | `<nb>/result.json` | what came of the last run |
//!
//! Each is written as every other file: whole, or not at all.

use std::collections::BTreeSet;
use std::fs::File;
use std::time::Duration;

use crds::names::STATE_DIR;
use crds::report::ChangeSummary;
use crds::revision::Revision;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::write::Ids;
use super::{HostError, Root};

/// The largest state file that is read: a revision and what JSON adds to it.
const MAX_FILE: u64 = 8 << 20;
/// How often a lock that is held is tried again.
const LOCK_STEP: Duration = Duration::from_millis(100);

/// A revision as it was begun on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// The revision's name.
    pub name: String,
    /// When its NodeBootstrap was created, RFC 3339; empty: by hand, on this host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created: String,
    /// What it holds; secret values are not in it.
    pub revision: Revision,
}

/// What is still to be done after a run that was killed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Owed {
    /// Units whose restart follows from changes that were made.
    pub restarts: BTreeSet<String>,
    /// Paths beside which a half-written file may lie.
    pub written: BTreeSet<String>,
}

impl Owed {
    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.restarts.is_empty() && self.written.is_empty()
    }
}

/// What came of the last run that had something to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastResult {
    /// The revision's name.
    pub revision: String,
    /// Whether all of it was done and verified.
    pub done: bool,
    /// When, RFC 3339.
    pub at: String,
    /// The cause in one word, if it was not done.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// In words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The changes that were made.
    pub changes: Vec<ChangeSummary>,
}

/// The lock of the host. Released when dropped, or when the process ends however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// The agent's files on the host.
#[derive(Debug, Clone)]
pub struct State {
    root: Root,
}

impl State {
    /// The state of this host. Makes nothing.
    pub fn of(root: &Root) -> Self {
        Self { root: root.clone() }
    }

    /// Takes the lock, if it is free.
    ///
    /// # Errors
    /// If the state directory cannot be made.
    pub fn try_lock(&self) -> Result<Option<Lock>, HostError> {
        self.root.make_own_directory(STATE_DIR)?;
        let place = self.root.locate(&format!("{STATE_DIR}/.lock"))?;
        Ok(self.root.lock_file(&place, "open")?.map(|file| Lock { _file: file }))
    }

    /// Waits for the lock; `waiting` is called once, if it is not free.
    ///
    /// # Errors
    /// See [`State::try_lock`].
    pub async fn lock(&self, waiting: impl FnOnce()) -> Result<Lock, HostError> {
        if let Some(lock) = self.try_lock()? {
            return Ok(lock);
        }
        waiting();
        loop {
            // A blocking wait would need a thread that nobody can end on SIGTERM.
            tokio::time::sleep(LOCK_STEP).await;
            if let Some(lock) = self.try_lock()? {
                return Ok(lock);
            }
        }
    }

    /// The revision that was begun last.
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn begun(&self, node_bootstrap: &str) -> Result<Option<Begun>, HostError> {
        self.read(node_bootstrap, "revision.json")
    }

    /// Writes down the revision that is begun now, and what is owed until it is done. Nothing is written that is so
    /// already.
    ///
    /// # Errors
    /// If it does not get to the disk.
    pub fn begin(&self, node_bootstrap: &str, begun: &Begun, owed: &Owed) -> Result<(), HostError> {
        self.root.make_own_directory(&format!("{STATE_DIR}/{node_bootstrap}"))?;
        self.write(node_bootstrap, "owed.json", owed)?;
        self.write(node_bootstrap, "revision.json", begun)
    }

    /// What is owed by an earlier run.
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn owed(&self, node_bootstrap: &str) -> Result<Owed, HostError> {
        Ok(self.read(node_bootstrap, "owed.json")?.unwrap_or_default())
    }

    /// Writes down that nothing is owed any more, unless another run has begun something else meanwhile.
    ///
    /// # Errors
    /// If it does not get to the disk.
    pub fn settle(&self, node_bootstrap: &str, revision: &str) -> Result<(), HostError> {
        if self.begun(node_bootstrap)?.is_none_or(|begun| begun.name != revision) {
            return Ok(());
        }
        self.write(node_bootstrap, "owed.json", &Owed::default())
    }

    /// What came of the last run.
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn result(&self, node_bootstrap: &str) -> Result<Option<LastResult>, HostError> {
        self.read(node_bootstrap, "result.json")
    }

    /// Writes down what came of a run.
    ///
    /// # Errors
    /// If it does not get to the disk.
    pub fn conclude(&self, node_bootstrap: &str, result: &LastResult) -> Result<(), HostError> {
        self.root.make_own_directory(&format!("{STATE_DIR}/{node_bootstrap}"))?;
        self.write(node_bootstrap, "result.json", result)
    }

    /// Gives up what a NodeBootstrap claims here, and clears away what a killed run left half written. What was made
    /// stays.
    ///
    /// # Errors
    /// If the files cannot be removed.
    pub fn forget(&self, node_bootstrap: &str) -> Result<(), HostError> {
        for path in self.owed(node_bootstrap).unwrap_or_default().written {
            self.root.remove_leftover(&path)?;
        }
        let directory = format!("{STATE_DIR}/{node_bootstrap}");
        for name in self.root.names_in(&directory)? {
            let place = self.root.locate(&format!("{directory}/{name}"))?;
            self.root.remove_file(&place)?;
        }
        self.root.remove_own_directory(&directory)
    }

    /// The revisions of all other NodeBootstraps on this host, and the names of those that cannot be read.
    ///
    /// # Errors
    /// If the state directory cannot be listed.
    pub fn others(&self, node_bootstrap: &str) -> Result<(Vec<Begun>, Vec<String>), HostError> {
        let (mut others, mut unreadable) = (Vec::new(), Vec::new());
        for name in self.root.directories_in(STATE_DIR)? {
            if name == node_bootstrap {
                continue;
            }
            match self.begun(&name) {
                Ok(Some(begun)) => others.push(begun),
                Ok(None) => {}
                Err(_) => unreadable.push(name),
            }
        }
        Ok((others, unreadable))
    }

    fn read<T: DeserializeOwned>(&self, node_bootstrap: &str, file: &str) -> Result<Option<T>, HostError> {
        let path = format!("{STATE_DIR}/{node_bootstrap}/{file}");
        let Some(bytes) = self.root.read(&path, MAX_FILE)? else { return Ok(None) };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| HostError::State { path, cause: error.to_string() })
    }

    fn write<T: Serialize>(&self, node_bootstrap: &str, file: &str, value: &T) -> Result<(), HostError> {
        let path = format!("{STATE_DIR}/{node_bootstrap}/{file}");
        let json = serde_json::to_vec(value)
            .map_err(|error| HostError::State { path: path.clone(), cause: error.to_string() })?;
        let place = self.root.locate(&path)?;
        if place.read(MAX_FILE).is_ok_and(|old| old.is_some_and(|(old, _)| old == json)) {
            return Ok(());
        }
        self.root.write(&place, &json, Ids::root(0o600)).map(drop)
    }
}
