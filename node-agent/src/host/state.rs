//! What the agent keeps on the host below /var/lib/nodebootstrap, root's alone:
//!
//! | file | what is in it |
//! |---|---|
//! | `.lock` | held by whoever changes the host: the pod or the command line |
//! | `.paused` | since when nothing is changed on this host, RFC 3339; not there: it is not paused |
//! | `.cache/` | what was fetched: [`super::cache`] |
//! | `<nb>/revision.json` | the revision that was begun last: what this NodeBootstrap claims on this host |
//! | `<nb>/ledger.json` | what this NodeBootstrap made here, and what was there before: [`crate::ledger`] |
//! | `<nb>/priors/` | contents of files that were there before, by digest |
//! | `<nb>/owed.json` | what a run that was killed still owes: restarts, and files to clear away |
//! | `<nb>/result.json` | what came of the last run |
//! | `<nb>/switch.json` | the last attempt to change what the node's pods run under: [`crate::switch`] |
//! | `<nb>/payload.json` | the secret values for that, as long as it is not over |
//! | `.agent/` | the copy of this program that carries it out |
//!
//! Each is written as every other file: whole, or not at all.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::rc::Rc;
use std::time::Duration;

use crds::Sha256;
use crds::names::STATE_DIR;
use crds::report::ChangeSummary;
use crds::revision::Revision;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::cache::CACHE;
use super::digest::{Digests, read_through};
use super::kept::Kept;
use super::root::{Kind, Place};
use super::write::{Ids, Staged};
use super::{HostError, Root};
use crate::ledger::{Ledger, unusable};
use crate::resource::Payload;
use crate::switch::Switch;

/// The largest state file that is read: the paths of all that a ledger may have, with less to say of each.
const MAX_FILE: u64 = MAX_LEDGER;
/// The largest ledger: owners of a hundred thousand entries in each of a few directories.
const MAX_LEDGER: u64 = 64 << 20;
const PROGRAM_DIR: &str = "/var/lib/nodebootstrap/.agent";
/// Where a copy of this program lies, for what a pod cannot do.
pub const PROGRAM: &str = "/var/lib/nodebootstrap/.agent/nodebootstrap-agent";
/// The file that whoever changes the host holds.
const LOCK: &str = "/var/lib/nodebootstrap/.lock";
/// The file that pauses the host.
pub const PAUSED: &str = "/var/lib/nodebootstrap/.paused";
/// The most of it that is read.
const MAX_PAUSED: u64 = 64;
/// The most that is kept of contents that were there before, of all NodeBootstraps together.
pub const MAX_PRIORS: u64 = 2 << 30;
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
    /// Whether certificates went from where they were put, and the trust store was not made anew since.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub trust_store: bool,
}

impl Owed {
    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.restarts.is_empty() && self.written.is_empty() && !self.trust_store
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

fn ledger_path(node_bootstrap: &str) -> String {
    format!("{STATE_DIR}/{node_bootstrap}/ledger.json")
}

fn priors(node_bootstrap: &str) -> String {
    format!("{STATE_DIR}/{node_bootstrap}/priors")
}

fn prior(node_bootstrap: &str, digest: Sha256) -> String {
    format!("{}/{digest}", priors(node_bootstrap))
}

/// The agent's files on the host.
#[derive(Debug, Clone)]
pub struct State {
    root: Root,
    ledgers: Rc<Kept<Ledger>>,
    begun: Rc<Kept<Begun>>,
    switches: Rc<Kept<Switch>>,
}

impl State {
    /// The state of this host. Makes nothing.
    pub fn of(root: &Root) -> Self {
        Self { root: root.clone(), ledgers: Rc::default(), begun: Rc::default(), switches: Rc::default() }
    }

    /// Whether a run could write here: nobody but root has a hand in it, and what is only written is no directory or link.
    /// Makes nothing.
    ///
    /// # Errors
    /// If it could not.
    pub fn check(&self, node_bootstrap: &str) -> Result<(), HostError> {
        let own = format!("{STATE_DIR}/{node_bootstrap}");
        self.root.check_own_directory(STATE_DIR)?;
        self.root.own_file(LOCK)?;
        self.root.check_own_directory(CACHE)?;
        self.root.check_own_directory(&own)?;
        self.root.check_own_directory(&priors(node_bootstrap))?;
        for file in ["revision.json", "result.json"] {
            self.root.own_file(&format!("{own}/{file}"))?;
        }
        Ok(())
    }

    /// Takes the lock, if it is free.
    ///
    /// # Errors
    /// If the state directory cannot be made.
    pub fn try_lock(&self) -> Result<Option<Lock>, HostError> {
        self.root.make_own_directory(STATE_DIR)?;
        let (place, _) = self.root.own_file(LOCK)?;
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

    /// Since when nothing is to be changed on this host; `None`: it is not paused. Ask with the lock held.
    ///
    /// # Errors
    /// If the kernel refuses to tell.
    pub fn paused(&self) -> Result<Option<String>, HostError> {
        let place = self.root.locate(PAUSED)?;
        // Whatever lies there pauses: somebody may have made it by hand.
        let Some(meta) = place.look()? else { return Ok(None) };
        if meta.kind != Kind::File || meta.size > MAX_PAUSED {
            return Ok(Some("an unknown time".to_owned()));
        }
        let text = place.read(MAX_PAUSED)?.map(|(text, _)| text).unwrap_or_default();
        // Whoever wrote it by hand writes nothing to the terminal of who reads it.
        let text = String::from_utf8_lossy(&text).trim().escape_debug().to_string();
        Ok(Some(if text.is_empty() { "an unknown time".to_owned() } else { text }))
    }

    /// Pauses the host, if it is not paused; since when it is.
    ///
    /// # Errors
    /// If it does not get to the disk.
    pub fn pause(&self, now: &str) -> Result<String, HostError> {
        if let Some(since) = self.paused()? {
            return Ok(since);
        }
        self.root.make_own_directory(STATE_DIR)?;
        self.root.write(&self.root.locate(PAUSED)?, now.as_bytes(), Ids::root(0o600))?;
        Ok(now.to_owned())
    }

    /// Ends a pause; whether there was one.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub fn resume(&self) -> Result<bool, HostError> {
        let place = self.root.locate(PAUSED)?;
        let was_paused = place.look()?.is_some();
        if was_paused {
            self.root.remove_file(&place)?;
        }
        Ok(was_paused)
    }

    /// The revision that was begun last.
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn begun(&self, node_bootstrap: &str) -> Result<Option<Rc<Begun>>, HostError> {
        let path = format!("{STATE_DIR}/{node_bootstrap}/revision.json");
        self.begun.of(&self.root, &path, MAX_FILE, |bytes| from_json(bytes, &path))
    }

    /// Writes down the revision that is begun now, and what is owed until it is done. Nothing is written that is so
    /// already.
    ///
    /// # Errors
    /// If it does not get to the disk.
    pub fn begin(&self, node_bootstrap: &str, begun: &Begun, owed: &Owed) -> Result<(), HostError> {
        let directory = format!("{STATE_DIR}/{node_bootstrap}");
        self.root.make_own_directory(&directory)?;
        // What a run that was killed was writing for itself.
        for file in ["ledger.json", "owed.json", "revision.json", "result.json", "priors"] {
            self.root.remove_leftover(&format!("{directory}/{file}"))?;
        }
        self.write(node_bootstrap, "owed.json", owed)?;
        self.write(node_bootstrap, "revision.json", begun)
    }

    /// Writes down what is owed until a run is done.
    ///
    /// # Errors
    /// If it does not get to the disk.
    pub fn owe(&self, node_bootstrap: &str, owed: &Owed) -> Result<(), HostError> {
        self.write(node_bootstrap, "owed.json", owed)
    }

    /// Writes down which revision claims what it claims here; `None`: none does.
    ///
    /// # Errors
    /// If it does not get to the disk.
    pub fn put_begun(&self, node_bootstrap: &str, begun: Option<&Begun>) -> Result<(), HostError> {
        match begun {
            Some(begun) => self.write(node_bootstrap, "revision.json", begun),
            None => self.remove(node_bootstrap, "revision.json"),
        }
    }

    fn remove(&self, node_bootstrap: &str, file: &str) -> Result<(), HostError> {
        let place = self.root.locate(&format!("{STATE_DIR}/{node_bootstrap}/{file}"))?;
        if place.look()?.is_some() {
            self.root.remove_file(&place)?;
        }
        Ok(())
    }

    /// The last attempt to change what the node's pods run under.
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn switch(&self, node_bootstrap: &str) -> Result<Option<Rc<Switch>>, HostError> {
        let path = format!("{STATE_DIR}/{node_bootstrap}/switch.json");
        self.switches.of(&self.root, &path, MAX_FILE, |bytes| from_json(bytes, &path))
    }

    /// The NodeBootstrap for which what the node's pods run under is being changed now. Ask with the lock held.
    ///
    /// # Errors
    /// If a file is damaged.
    pub fn switching(&self) -> Result<Option<String>, HostError> {
        for name in self.known()? {
            if self.switch(&name)?.is_some_and(|switch| switch.stage.is_open()) {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Writes down how far that is. What is over needs no secret values any more.
    ///
    /// # Errors
    /// If it does not get to the disk.
    pub fn put_switch(&self, node_bootstrap: &str, switch: &Switch) -> Result<(), HostError> {
        self.root.make_own_directory(&format!("{STATE_DIR}/{node_bootstrap}"))?;
        self.write(node_bootstrap, "switch.json", switch)?;
        if switch.stage.is_open() { Ok(()) } else { self.remove(node_bootstrap, "payload.json") }
    }

    /// Keeps the secret values for an attempt.
    ///
    /// # Errors
    /// If they do not get to the disk.
    pub fn put_payload(&self, node_bootstrap: &str, payload: &Payload) -> Result<(), HostError> {
        self.root.make_own_directory(&format!("{STATE_DIR}/{node_bootstrap}"))?;
        self.write(node_bootstrap, "payload.json", payload)
    }

    /// The secret values that were kept.
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn payload(&self, node_bootstrap: &str) -> Result<Payload, HostError> {
        Ok(self.read(node_bootstrap, "payload.json")?.unwrap_or_default())
    }

    /// Makes sure that a copy of this program lies at [`PROGRAM`].
    ///
    /// # Errors
    /// If it does not get to the disk.
    pub fn keep_program(&self) -> Result<(), HostError> {
        let own = "/proc/self/exe";
        let unreadable =
            |error: std::io::Error| HostError::State { path: own.to_owned(), cause: error.to_string() };
        let wanted = read_through(File::open(own).map_err(unreadable)?, own, &mut |_| Ok(()))?;
        self.root.make_own_directory(PROGRAM_DIR)?;
        let place = self.root.locate(PROGRAM)?;
        if Digests::default().of(&place)? != Some(wanted) {
            let mut staged = Staged::begin(&place)?;
            staged.append_file(File::open(own).map_err(unreadable)?)?;
            staged.install(Ids::root(0o700))?;
        }
        Ok(())
    }

    /// Removes that copy, if no NodeBootstrap claims anything on this host.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn drop_program(&self) -> Result<(), HostError> {
        if !self.others("")?.0.is_empty() {
            return Ok(());
        }
        self.clear(PROGRAM_DIR, |_| false)?;
        self.root.remove_own_directory(PROGRAM_DIR)
    }

    /// What is owed by an earlier run.
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn owed(&self, node_bootstrap: &str) -> Result<Owed, HostError> {
        Ok(self.read(node_bootstrap, "owed.json")?.unwrap_or_default())
    }

    /// Writes down that nothing is owed any more, unless another run has begun something else meanwhile; whether it did.
    ///
    /// # Errors
    /// If it does not get to the disk.
    pub fn settle(&self, node_bootstrap: &str, revision: &str) -> Result<bool, HostError> {
        if self.begun(node_bootstrap)?.is_none_or(|begun| begun.name != revision) {
            return Ok(false);
        }
        self.write(node_bootstrap, "owed.json", &Owed::default())?;
        Ok(true)
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

    /// What a NodeBootstrap made here, and what was there before; of another cluster's of the same name nothing.
    ///
    /// # Errors
    /// If it is damaged, or of a newer format.
    pub fn ledger(&self, node_bootstrap: &str, cluster: Option<&str>) -> Result<Rc<Ledger>, HostError> {
        let path = ledger_path(node_bootstrap);
        let refused = |cause| HostError::Ledger { path: path.clone(), cause };
        let decode = |bytes: &[u8]| Ledger::decode(bytes).map_err(refused);
        let found = self.ledgers.of(&self.root, &path, MAX_LEDGER, decode).map_err(|error| match error {
            HostError::State { cause, .. } => refused(unusable(&cause)),
            error => error,
        });
        let Some(mut ledger) = found? else {
            return Ok(Rc::new(Ledger::of(cluster.unwrap_or_default())));
        };
        match cluster {
            Some(cluster) if ledger.cluster == cluster => {}
            // What was made by hand before the machine joined a cluster is taken over.
            Some(cluster) if ledger.cluster.is_empty() => {
                cluster.clone_into(&mut Rc::make_mut(&mut ledger).cluster);
            }
            Some(cluster) if !cluster.is_empty() => ledger = Rc::new(Ledger::of(cluster)),
            _ => {}
        }
        Ok(ledger)
    }

    /// Writes a ledger, if it has changed, and removes contents that it does not name any more.
    ///
    /// # Errors
    /// If it does not get to the disk.
    pub fn write_ledger(&self, node_bootstrap: &str, ledger: &Ledger) -> Result<(), HostError> {
        self.root.make_own_directory(&format!("{STATE_DIR}/{node_bootstrap}"))?;
        let (place, _) = self.root.own_file(&ledger_path(node_bootstrap))?;
        let bytes = ledger.encode();
        if bytes.len() as u64 > MAX_LEDGER {
            let size = bytes.len() as u64;
            return Err(HostError::LedgerFull { path: place.real, size, max: MAX_LEDGER });
        }
        if place.read(MAX_LEDGER).is_ok_and(|old| old.is_some_and(|(old, _)| old == bytes)) {
            return Ok(());
        }
        self.root.write(&place, &bytes, Ids::root(0o600))?;
        let named = ledger.priors();
        let is_named = |name: &str| name.parse().is_ok_and(|digest: Sha256| named.contains(&digest));
        self.clear(&priors(node_bootstrap), is_named)
    }

    /// Removes the files in a directory of the agent's own but those that stay.
    fn clear(&self, directory: &str, stays: impl Fn(&str) -> bool) -> Result<(), HostError> {
        for name in self.root.names_in(directory)?.iter().filter(|name| !stays(name)) {
            self.root.remove_file(&self.root.locate(&format!("{directory}/{name}"))?)?;
        }
        Ok(())
    }

    /// Whether the content with this digest is kept, unharmed.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn has_prior(&self, node_bootstrap: &str, digest: Sha256) -> Result<bool, HostError> {
        let place = self.root.locate(&prior(node_bootstrap, digest))?;
        Ok(Digests::default().of(&place)? == Some(digest))
    }

    /// The ledgers of all NodeBootstraps on this host but one; those that cannot be read are passed over.
    ///
    /// # Errors
    /// If the state directory cannot be listed.
    pub fn other_ledgers(&self, node_bootstrap: &str) -> Result<Vec<Ledger>, HostError> {
        let names = self.known()?.into_iter().filter(|name| name != node_bootstrap);
        // Read for once: they are looked at only where something is changed.
        let read = |name: String| {
            self.root.check_own_directory(&format!("{STATE_DIR}/{name}")).ok()?;
            let bytes = self.root.read(&ledger_path(&name), MAX_LEDGER).ok().flatten()?;
            Ledger::decode(&bytes).ok()
        };
        Ok(names.filter_map(read).collect())
    }

    /// Keeps the content of a file, before it is replaced.
    ///
    /// # Errors
    /// If it is not what it was, or more than [`MAX_PRIORS`] would be kept.
    pub fn keep_prior(&self, node_bootstrap: &str, place: &Place, digest: Sha256) -> Result<(), HostError> {
        if self.has_prior(node_bootstrap, digest)? {
            return Ok(());
        }
        let changed = |found: &str| HostError::Changed {
            path: place.real.clone(),
            found: found.to_owned(),
            expected: "as it was when it was looked at".to_owned(),
        };
        let (fd, meta) = place.open(Kind::File)?.ok_or_else(|| changed("missing"))?;
        let mut staged = self.begin_prior(node_bootstrap, place, meta.size, digest)?;
        // Whoever owns the file may write to it meanwhile.
        let file = File::from(fd).take(meta.size.saturating_add(1));
        if read_through(file, &place.real, &mut |piece| staged.append(piece))? != digest {
            return Err(changed("different from a moment ago"));
        }
        staged.install(Ids::root(0o600)).map(drop)
    }

    /// Keeps a content that a file has when a part of it was taken out.
    ///
    /// # Errors
    /// If more than [`MAX_PRIORS`] would be kept.
    pub fn keep_prior_of(
        &self,
        node_bootstrap: &str,
        place: &Place,
        content: &[u8],
        digest: Sha256,
    ) -> Result<(), HostError> {
        if self.has_prior(node_bootstrap, digest)? {
            return Ok(());
        }
        let mut staged = self.begin_prior(node_bootstrap, place, content.len() as u64, digest)?;
        staged.append(content)?;
        staged.install(Ids::root(0o600)).map(drop)
    }

    /// Begins the file of a prior, if there is room for so many bytes.
    fn begin_prior(
        &self,
        node_bootstrap: &str,
        place: &Place,
        size: u64,
        digest: Sha256,
    ) -> Result<Staged, HostError> {
        let kept = self.kept()?;
        if kept.saturating_add(size) > MAX_PRIORS {
            return Err(HostError::PriorsFull { path: place.real.clone(), size, kept });
        }
        self.root.make_own_directory(&priors(node_bootstrap))?;
        Staged::begin(&self.root.locate(&prior(node_bootstrap, digest))?)
    }

    /// Where the content with this digest is kept.
    ///
    /// # Errors
    /// If the way there cannot be trusted.
    pub(crate) fn prior(&self, node_bootstrap: &str, digest: Sha256) -> Result<Place, HostError> {
        self.root.locate(&prior(node_bootstrap, digest))
    }

    /// Opens a content that was kept.
    ///
    /// # Errors
    /// If it is not there.
    pub fn open_prior(&self, node_bootstrap: &str, digest: Sha256) -> Result<File, HostError> {
        let place = self.root.locate(&prior(node_bootstrap, digest))?;
        let opened = place.open(Kind::File)?;
        opened.map(|(fd, _)| File::from(fd)).ok_or_else(|| HostError::Changed {
            path: place.real.clone(),
            found: "missing".to_owned(),
            expected: "what was there before".to_owned(),
        })
    }

    /// The bytes of all contents that are kept.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub(crate) fn kept(&self) -> Result<u64, HostError> {
        let mut bytes = 0_u64;
        for name in self.root.directories_in(STATE_DIR)? {
            let directory = priors(&name);
            for file in self.root.names_in(&directory)? {
                let meta = self.root.locate(&format!("{directory}/{file}"))?.look()?;
                bytes = bytes.saturating_add(meta.map_or(0, |meta| meta.size));
            }
        }
        Ok(bytes)
    }

    /// Gives up what a NodeBootstrap claims here, and clears away what a killed run left half written. What was made
    /// stays, and so does the ledger: one of the same name that is applied later still knows what it made.
    ///
    /// # Errors
    /// If the files cannot be removed.
    pub fn give_up(&self, node_bootstrap: &str) -> Result<(), HostError> {
        let mut ledger = Rc::unwrap_or_clone(self.ledger(node_bootstrap, None)?);
        ledger.give_up(true);
        if !ledger.is_empty() {
            self.write_ledger(node_bootstrap, &ledger)?;
        }
        for path in self.owed(node_bootstrap).unwrap_or_default().written {
            self.root.remove_leftover(&path)?;
        }
        let directory = format!("{STATE_DIR}/{node_bootstrap}");
        self.clear(&directory, |name| name == "ledger.json" && !ledger.is_empty())?;
        if !ledger.is_empty() {
            return Ok(());
        }
        let priors = priors(node_bootstrap);
        self.clear(&priors, |_| false)?;
        self.root.remove_leftover(&priors)?;
        self.root.remove_own_directory(&priors)?;
        self.root.remove_own_directory(&directory)
    }

    /// The NodeBootstraps that something is kept of.
    ///
    /// # Errors
    /// If the state directory cannot be listed.
    pub fn known(&self) -> Result<Vec<String>, HostError> {
        let names = self.root.directories_in(STATE_DIR)?;
        Ok(names.into_iter().filter(|name| !name.starts_with('.')).collect())
    }

    /// The revisions of all other NodeBootstraps on this host, and the names of those that cannot be read, or that others than
    /// root can write.
    ///
    /// # Errors
    /// If the state directory cannot be listed.
    pub fn others(&self, node_bootstrap: &str) -> Result<(Vec<Rc<Begun>>, Vec<String>), HostError> {
        let (mut others, mut unreadable) = (Vec::new(), Vec::new());
        for name in self.root.directories_in(STATE_DIR)? {
            if name == node_bootstrap {
                continue;
            }
            // Whoever can write there can say what they like.
            let is_own = self.root.check_own_directory(&format!("{STATE_DIR}/{name}"));
            match is_own.and_then(|()| self.begun(&name)) {
                Ok(Some(begun)) => others.push(begun),
                Ok(None) => {}
                Err(_) => unreadable.push(name),
            }
        }
        Ok((others, unreadable))
    }

    fn read<T: DeserializeOwned>(&self, node_bootstrap: &str, file: &str) -> Result<Option<T>, HostError> {
        let path = format!("{STATE_DIR}/{node_bootstrap}/{file}");
        let Some((bytes, _)) = self.root.own_file(&path)?.0.read(MAX_FILE)? else { return Ok(None) };
        from_json(&bytes, &path).map(Some)
    }

    fn write<T: Serialize>(&self, node_bootstrap: &str, file: &str, value: &T) -> Result<(), HostError> {
        let path = format!("{STATE_DIR}/{node_bootstrap}/{file}");
        let json = serde_json::to_vec(value)
            .map_err(|error| HostError::State { path: path.clone(), cause: error.to_string() })?;
        let (place, _) = self.root.own_file(&path)?;
        if place.read(MAX_FILE).is_ok_and(|old| old.is_some_and(|(old, _)| old == json)) {
            return Ok(());
        }
        self.root.write(&place, &json, Ids::root(0o600)).map(drop)
    }
}

fn from_json<T: DeserializeOwned>(bytes: &[u8], path: &str) -> Result<T, HostError> {
    serde_json::from_slice(bytes)
        .map_err(|error| HostError::State { path: path.to_owned(), cause: error.to_string() })
}
