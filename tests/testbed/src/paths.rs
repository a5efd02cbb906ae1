//! Where things lie: in goes a testbed's id, out come the folders and names that belong to it and to no other.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process;

/// The folder above the state folders of all ids. Not under the cache: an overlay's upper layer must lie on a real
/// file system, and home folders often do not.
pub const STATE_ROOT: &str = "/var/lib/nodebootstrap-testbed";

/// Lock files, outside of the folders that they guard, so that these can be removed. Never removed themselves (two
/// could then hold "the" lock), but gone with the next boot.
const LOCKS: &str = "/run/lock/nodebootstrap-testbed";

/// A checked testbed id: 1 to 32 lower-case letters, digits and inner dashes, so that it fits into names everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Id(String);

impl Id {
    /// Checks an id.
    pub fn parse(id: &str) -> Result<Id> {
        check_label(id, 32).with_context(|| format!("testbed id {id:?}"))?;
        Ok(Id(id.to_owned()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folder of this testbed: pki, kubeconfigs, logs, machines.
    pub fn state_dir(&self) -> PathBuf {
        Path::new(STATE_ROOT).join(&self.0)
    }

    /// The cgroup that holds all processes of this testbed.
    pub(crate) fn cgroup(&self) -> String {
        format!("nodebootstrap-testbed.{}", self.0)
    }

    /// The network namespace of a machine. A dot separates, since it is in neither name: the namespaces of `a` are
    /// then never a prefix of those of `a-b`.
    pub(crate) fn namespace(&self, machine: &str) -> String {
        format!("nbt.{}.{machine}", self.0)
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks the name of a machine: a DNS label that a node may bear, short enough for a host name.
pub(crate) fn check_machine_name(name: &str) -> Result<()> {
    check_label(name, 30).with_context(|| format!("machine name {name:?}"))
}

fn check_label(text: &str, longest: usize) -> Result<()> {
    let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if text.is_empty() || text.len() > longest || !plain || text.starts_with('-') || text.ends_with('-') {
        bail!("must be 1 to {longest} of a-z, 0-9 and inner dashes");
    }
    Ok(())
}

/// The cache that all ids share: `${XDG_CACHE_HOME:-~/.cache}/nodebootstrap`.
pub fn cache_dir() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
            .join(".cache"),
    };
    Ok(base.join("nodebootstrap"))
}

/// The ids that have a state folder, so that may be up.
pub(crate) fn known_ids() -> Vec<Id> {
    let Ok(entries) = std::fs::read_dir(STATE_ROOT) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| Id::parse(entry.file_name().to_str()?).ok())
        .collect()
}

/// Takes an exclusive lock on a file, waiting for others; it ends with the value or with the process.
pub(crate) async fn lock(path: &Path) -> Result<File> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    let file = File::create(path).with_context(|| format!("cannot open the lock {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("waiting for another testbed command (lock {})", path.display());
        // A cold build holds the cache's lock for minutes.
        process::wait_for("the lock", Duration::from_secs(1800), || async { Ok(file.try_lock().ok()) })
            .await?;
    }
    Ok(file)
}

/// The lock over what all ids share: choice of subnet, kernel settings.
pub(crate) async fn lock_shared() -> Result<File> {
    lock(&Path::new(LOCKS).join(".shared")).await
}

/// The lock over one id: one command at a time makes or ends it.
pub(crate) async fn lock_id(id: &Id) -> Result<File> {
    lock(&Path::new(LOCKS).join(id.as_str())).await
}

/// Writes a file and makes the folders above it; the error names it.
pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    std::fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_would_not_fit_into_names_are_refused() {
        for good in ["a", "demo", "e2e-17"] {
            assert!(Id::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "../x", "a_b", &"a".repeat(33)] {
            assert!(Id::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn namespaces_of_one_id_are_no_prefix_of_anothers() {
        let (a, ab) = (Id::parse("a").expect("good"), Id::parse("a-b").expect("good"));
        assert!(!ab.namespace("c").starts_with(&a.namespace("")));
    }
}
