//! The one setting of the developer's kernel that is touched: in goes nothing, out comes room for the watches of
//! several machines, and when the last testbed is down the old value again.
//!
//! 128 instances are for all of root's processes together; six machines use 109, and the next watcher fails as
//! "too many open files", far from the cause. Callers hold the lock over what all ids share.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::paths;

const SETTING: &str = "/proc/sys/fs/inotify/max_user_instances";
const ENOUGH: u32 = 1024;

fn remembered() -> PathBuf {
    Path::new(paths::STATE_ROOT).join(".max_user_instances")
}

/// Raises the setting if it is low, tells so, and remembers what it was.
pub(crate) fn raise() -> Result<()> {
    let now: u32 = read(Path::new(SETTING))?;
    if now >= ENOUGH {
        return Ok(());
    }
    paths::write(&remembered(), now.to_string())?;
    eprintln!("raising fs.inotify.max_user_instances from {now} to {ENOUGH} (put back by `down`)");
    std::fs::write(SETTING, ENOUGH.to_string()).with_context(|| format!("cannot write {SETTING}"))
}

/// Puts the setting back, unless somebody has set it to something else since.
pub(crate) fn restore() -> Result<()> {
    let file = remembered();
    if !file.exists() {
        return Ok(());
    }
    let before = read(&file)?;
    if read(Path::new(SETTING))? == ENOUGH {
        eprintln!("putting fs.inotify.max_user_instances back to {before}");
        std::fs::write(SETTING, before.to_string()).with_context(|| format!("cannot write {SETTING}"))?;
    }
    std::fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))
}

fn read(path: &Path) -> Result<u32> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.trim().parse().with_context(|| format!("{} is no number: {text:?}", path.display()))
}
