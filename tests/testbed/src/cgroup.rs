//! Control groups: in goes an id, out comes a place that holds all of its processes, so that they can be found and
//! killed even when the command that started them is long gone.
//!
//! Every machine gets a group of its own in every hierarchy. With cgroup v1 systemd-nspawn puts its payload below
//! the group that it was started in; two machines started from one shell would share it, and the systemd of one
//! would then sweep up the units of the other.
//!
//! Seen working: cgroup v1 (hybrid) without systemd as process 1. Written after the documentation and not yet seen:
//! cgroup v2 under systemd, where groups must be asked from systemd by `systemd-run --scope -p Delegate=yes`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::paths::Id;
use crate::process;

const MOUNT: &str = "/sys/fs/cgroup";

/// How a process is started so that it lands in its group.
pub(crate) struct Entry {
    /// Folders whose `cgroup.procs` it writes itself to.
    pub(crate) folders: Vec<PathBuf>,
    /// Words before its own command line.
    pub(crate) prefix: Vec<String>,
}

enum Flavour {
    /// We make folders in these hierarchies ourselves.
    Folders(Vec<PathBuf>),
    /// systemd owns the one hierarchy.
    Systemd,
}

impl Flavour {
    fn here() -> Result<Flavour> {
        if Path::new(MOUNT).join("cgroup.controllers").exists() {
            let systemd = Path::new("/run/systemd/system").exists();
            return Ok(if systemd { Flavour::Systemd } else { Flavour::Folders(vec![MOUNT.into()]) });
        }
        let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
        Ok(Flavour::Folders(hierarchies(&mounts)))
    }
}

/// The mount points of all cgroup hierarchies in the text of /proc/self/mounts.
fn hierarchies(mounts: &str) -> Vec<PathBuf> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (place, kind) = (words.next()?, words.next()?);
            (kind.starts_with("cgroup") && place.starts_with(MOUNT)).then(|| PathBuf::from(place))
        })
        .collect()
}

/// A slice has its parents in its name, separated by dashes, so the id's own dashes become underscores.
fn slice(id: &Id) -> String {
    format!("nodebootstrap-testbed-{}.slice", id.as_str().replace('-', "_"))
}

/// The unit of one group.
fn scope(id: &Id, leaf: &str) -> String {
    format!("{}-{leaf}.scope", slice(id).trim_end_matches(".slice"))
}

/// The folders that hold all groups of an id, whether or not they exist.
fn tops(id: &Id) -> Result<Vec<PathBuf>> {
    Ok(match Flavour::here()? {
        Flavour::Folders(hierarchies) => hierarchies.iter().map(|h| h.join(id.cgroup())).collect(),
        Flavour::Systemd => {
            vec![Path::new(MOUNT).join("nodebootstrap.slice/nodebootstrap-testbed.slice").join(slice(id))]
        }
    })
}

/// Makes the group `leaf` of an id.
pub(crate) fn enter(id: &Id, leaf: &str) -> Result<Entry> {
    match Flavour::here()? {
        Flavour::Systemd => {
            let words = ["systemd-run", "--scope", "--quiet", "--collect", "-p", "Delegate=yes"];
            let mut prefix: Vec<String> = words.map(str::to_owned).to_vec();
            prefix.extend([
                format!("--slice={}", slice(id)),
                format!("--unit={}", scope(id, leaf)),
                "--".to_owned(),
            ]);
            Ok(Entry { folders: Vec::new(), prefix })
        }
        Flavour::Folders(hierarchies) => {
            let mut folders = Vec::new();
            for hierarchy in hierarchies {
                let top = hierarchy.join(id.cgroup());
                make(&top)?;
                let folder = top.join(leaf);
                make(&folder)?;
                folders.push(folder);
            }
            Ok(Entry { folders, prefix: Vec::new() })
        }
    }
}

/// The folders by which a command joins a group that is there already. Only under v1: with v2 a group that hands
/// controllers down holds no processes itself, so that such a command stays in its caller's group.
pub(crate) fn folders_to_join(id: &Id, leaf: &str) -> Vec<PathBuf> {
    match Flavour::here() {
        Ok(Flavour::Folders(hierarchies)) if hierarchies.len() > 1 => {
            let group = |hierarchy: &PathBuf| {
                let group = hierarchy.join(id.cgroup()).join(leaf);
                // systemd-nspawn moves its machine one level down where systemd itself manages groups.
                let payload = group.join("payload");
                if payload.is_dir() { payload } else { group }
            };
            hierarchies.iter().map(group).collect()
        }
        _ => Vec::new(),
    }
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make the cgroup {}", folder.display()))?;
    let Some(parent) = folder.parent() else { return Ok(()) };
    // A new cpuset (v1) is empty, and no process may enter it before it has processors and memory.
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (own, above) = (folder.join(file), parent.join(file));
        if own.exists() && fs::read_to_string(&own).unwrap_or_default().trim().is_empty() {
            let value = fs::read(&above).with_context(|| format!("cannot read {}", above.display()))?;
            // Under v2 an empty cpuset means "as above", and the file may be refused.
            let _ = fs::write(&own, value);
        }
    }
    // Under v2 a group has only the controllers that the one above hands down.
    let hand_down = parent.join("cgroup.subtree_control");
    if hand_down.exists() {
        for controller in fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default().split(' ')
        {
            let _ = fs::write(&hand_down, format!("+{}", controller.trim()));
        }
    }
    Ok(())
}

/// Kills all processes of an id, or of one of its groups, and removes the groups.
pub(crate) async fn clear(id: &Id, leaf: Option<&str>) -> Result<()> {
    let folders: Vec<PathBuf> = match leaf {
        None => tops(id)?,
        Some(leaf) => match Flavour::here()? {
            Flavour::Folders(_) => tops(id)?.iter().map(|top| top.join(leaf)).collect(),
            Flavour::Systemd => tops(id)?.iter().map(|top| top.join(scope(id, leaf))).collect(),
        },
    };
    process::wait_for("the processes of the testbed to end", Duration::from_secs(20), || async {
        let pids: Vec<u32> = folders
            .iter()
            .flat_map(|folder| processes(folder))
            .filter(|pid| process::is_alive(*pid))
            .collect();
        process::signal("KILL", &pids).await;
        Ok(pids.is_empty().then_some(()))
    })
    .await?;
    if matches!(Flavour::here()?, Flavour::Systemd) {
        // Groups that systemd made must be taken down by it; an unknown unit is one that is gone already.
        let unit = match leaf {
            None => slice(id),
            Some(leaf) => scope(id, leaf),
        };
        let _ = process::run_args("systemctl", &["stop", &unit]).await;
    }
    // A group whose last process is still being taken apart by the kernel is busy for a moment.
    process::wait_for("the cgroups to be removed", Duration::from_secs(20), || async {
        folders.iter().for_each(|folder| remove(folder));
        Ok(folders.iter().all(|folder| !folder.exists()).then_some(()))
    })
    .await
}

/// The processes in a group and in all below it.
fn processes(folder: &Path) -> Vec<u32> {
    let mut pids: Vec<u32> = fs::read_to_string(folder.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    for below in subfolders(folder) {
        pids.extend(processes(&below));
    }
    // 0 stands for a process of a namespace that we cannot see; a signal to 0 would hit ourselves.
    pids.retain(|pid| *pid > 1);
    pids.sort_unstable();
    pids.dedup();
    pids
}

fn remove(folder: &Path) {
    for below in subfolders(folder) {
        remove(&below);
    }
    let _ = fs::remove_dir(folder);
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_hierarchies_are_found_and_nothing_else() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
            cgroup /some/root/sys/fs/cgroup/pids cgroup rw,pids 0 0\n";
        assert_eq!(
            hierarchies(mounts),
            [PathBuf::from("/sys/fs/cgroup/pids"), PathBuf::from("/sys/fs/cgroup/unified")]
        );
    }

    #[test]
    fn an_id_with_dashes_is_one_level_of_slices() {
        assert_eq!(slice(&Id::parse("a-b").expect("good")), "nodebootstrap-testbed-a_b.slice");
    }
}
