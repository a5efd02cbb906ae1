//! Whether the disks take what the steps bring: file systems that are read-only, files that are locked or mounted, room; also
//! for what was there before.
//!
//! In: the planner with all steps, and the ledger. Out: problems beside the others. What nobody can tell in advance (a quota, a download
//! that was not fetched yet) is an error when it comes, with every file whole.

use std::collections::{BTreeMap, BTreeSet};

use crds::Sha256;
use crds::names::STATE_DIR;

use super::{Action, Planner, Step, is_below};
use crate::host::accounts;
use crate::host::cache::Cache;
use crate::host::disk::{Disk, Locked};
use crate::host::install::UNIT_DIRECTORY;
use crate::host::root::Finder;
use crate::host::state::MAX_PRIORS;
use crate::host::{HostError, Kind, Place, Root};
use crate::ledger::{Item, Ledger, Provenance, Shape};

/// What stays free of each disk, in bytes: for directories, and for what the agent writes down itself.
const RESERVE: u64 = 1 << 20;
/// Where a path may go instead of a read-only file system, as far as the host can write there.
const ELSEWHERE: [&str; 4] = ["/usr/local", "/opt", "/etc", "/var/lib"];

/// What the agent writes down itself.
const STATE: &str = "state";

/// How a step touches a path.
#[derive(Clone, Copy)]
enum Touch {
    /// A new file comes in its place, of so many bytes.
    Replace(u64),
    /// A directory is made.
    Make,
    /// It stays, with another owner or mode.
    Set,
    /// What is inside gets another owner.
    Own,
    /// Something is made or removed inside.
    Inside,
}

/// A reason and its message.
type Why = (&'static str, String);

/// What shall be written to one disk.
#[derive(Default)]
struct Load<'a> {
    disk: Option<Disk>,
    bytes: u64,
    entries: u64,
    /// What brings the most.
    biggest: Option<(u64, &'a str)>,
}

/// Adds what is in the way.
pub(crate) fn check(ledger: &Ledger, planner: &mut Planner<'_>) {
    if planner.steps.is_empty() {
        return;
    }
    let priors = check_priors(ledger, planner);
    let (root, cache) = (&planner.host.root, &planner.host.cache);
    let mut finder = root.finder();
    let mut loads: BTreeMap<u64, Load<'_>> = BTreeMap::new();
    let mut found: Vec<(String, &'static str, String)> = Vec::new();
    let (mut told, mut counted) = (BTreeSet::new(), BTreeSet::new());
    let own = (STATE, STATE_DIR.to_owned(), Touch::Inside);
    let priors = priors.into_iter().enumerate();
    let priors = priors.map(|(at, size)| (STATE, format!("{STATE_DIR}/{at}"), Touch::Replace(size)));
    let touches = planner.steps.iter().flat_map(|step| touches(step, root, &mut finder, cache));
    let touches = touches.chain([own]).chain(priors);
    let touches: Vec<_> = touches.collect();
    for (resource, path, touch) in touches {
        // Where it lies was found before.
        let Ok(place) = finder.locate(&path) else { continue };
        let problem = match look(&place, touch) {
            Err(error) => Some((error.reason(), error.to_string())),
            Ok((disk, _)) if disk.is_read_only => Some(("ReadOnly", read_only(root, &place))),
            Ok((disk, in_the_way)) => {
                let load = loads.entry(disk.device).or_default();
                load.disk = Some(disk);
                // The account files are replaced again and again, and so is a file with several parts.
                if counted.insert(path) {
                    load.add(resource, touch, &place);
                }
                in_the_way
            }
        };
        if let Some((reason, message)) = problem
            && told.insert((resource, reason))
        {
            found.push((resource.to_owned(), reason, message));
        }
    }
    found.extend(loads.into_values().filter_map(|load| load.too_much()));
    for (resource, reason, message) in found {
        planner.problem(resource, reason, message);
    }
}

/// What is replaced for the first time is kept, up to a limit: the sizes of those contents.
fn check_priors(ledger: &Ledger, planner: &mut Planner<'_>) -> Vec<u64> {
    let host = planner.host;
    let steps = planner.steps.iter().filter(|step| step.undoes.is_none());
    let replaces = |action: &Action| {
        let path = match action {
            Action::WriteFile { path, .. }
            | Action::Download { path, .. }
            | Action::UnpackFile { path, .. } => path,
            _ => return None,
        };
        let entry = ledger.get(&Item::Path(path.clone()));
        // What was there as it was to be stays theirs: an edit of the spec replaces it.
        let is_first = entry.is_none_or(|entry| match (&entry.provenance, &entry.made) {
            (Provenance::Adopted, Shape::File { digest, .. }) => content_of(action) != Some(*digest),
            _ => false,
        });
        let place = host.root.locate(path).ok()?;
        let meta = place.look().ok().flatten().filter(|meta| meta.kind == Kind::File)?;
        // One with other hard links is written anew also for its owner or mode.
        let is_same = || {
            matches!(action, Action::WriteFile { content, .. } if content.0.len() as u64 == meta.size)
                && host.digests.of_seen(&place, &meta).is_ok_and(|now| now == content_of(action))
        };
        (is_first && !is_same()).then(|| (path.clone(), meta.size))
    };
    let replaced = steps.flat_map(|step| {
        let of_step = step.action.parts().iter().filter_map(&replaces);
        of_step.map(|(path, size)| (step.change.resource.clone(), path, size)).collect::<Vec<_>>()
    });
    let replaced: Vec<(String, String, u64)> = replaced.collect();
    let mut kept = if replaced.is_empty() { 0 } else { host.state.kept().unwrap_or_default() };
    let mut sizes = Vec::new();
    for (resource, path, size) in replaced {
        if kept.saturating_add(size) > MAX_PRIORS {
            planner.refused(resource, &HostError::PriorsFull { path, size, kept });
        } else {
            kept += size;
            sizes.push(size);
        }
    }
    sizes
}

/// The digest of what a file will have.
fn content_of(action: &Action) -> Option<Sha256> {
    match action {
        Action::WriteFile { content, .. } => Some(Sha256::of(&content.0)),
        Action::Download { digest, .. } | Action::UnpackFile { digest, .. } => Some(*digest),
        _ => None,
    }
}

/// What a step touches: its resource, the path, and how.
fn touches<'a>(
    step: &'a Step,
    root: &Root,
    finder: &mut Finder<'_>,
    cache: &Cache,
) -> Vec<(&'a str, String, Touch)> {
    let resource = step.change.resource.as_str();
    // Written anew, more or less as it is.
    let mut anew = |path: &str| {
        let size = finder.locate(path).and_then(|place| place.look()).ok().flatten().map(|meta| meta.size);
        (resource, path.to_owned(), Touch::Replace(size.unwrap_or_default()))
    };
    if let Action::Unpack { into, parts: None, .. } = &step.action {
        return vec![(resource, into.clone(), Touch::Inside)];
    }
    let mut touched = |action: &Action| match action {
        Action::AddGroup { .. } | Action::RemoveGroup { .. } | Action::SetMember { .. } => {
            accounts::group_files(root).iter().map(|path| anew(path)).collect()
        }
        Action::AddUser(_)
        | Action::ChangeUser(_)
        | Action::RemoveUser(_)
        | Action::SetComment { .. }
        | Action::SetLocked { .. } => accounts::user_files(root).iter().map(|path| anew(path)).collect(),
        Action::EditPart { path, .. } => vec![anew(path)],
        Action::MakeDirectory { path, .. } => vec![(resource, path.clone(), Touch::Make)],
        Action::SetAccess { path, .. } | Action::PutBack { path, content: None, .. } => {
            vec![(resource, path.clone(), Touch::Set)]
        }
        // That makes room.
        Action::RemoveFile { path } | Action::RemoveDirectory { path, .. } => {
            vec![(resource, path.clone(), Touch::Set)]
        }
        Action::Link { path, .. } | Action::PutBack { path, content: Some(_), .. } => {
            vec![(resource, path.clone(), Touch::Replace(0))]
        }
        Action::OwnBelow { path, .. } => vec![(resource, path.clone(), Touch::Own)],
        Action::WriteFile { path, content, .. } => {
            vec![(resource, path.clone(), Touch::Replace(content.0.len() as u64))]
        }
        // Known once it was fetched; until then the download itself makes sure of its room.
        Action::Download { path, digest, .. } => {
            vec![(resource, path.clone(), Touch::Replace(cache.size(*digest).unwrap_or_default()))]
        }
        Action::UpdateTrustStore { store, .. } => {
            vec![(resource, store.bundle.to_owned(), Touch::Replace(0))]
        }
        Action::Enable { .. } | Action::Disable { .. } | Action::Mask { .. } => {
            vec![(resource, UNIT_DIRECTORY.to_owned(), Touch::Inside)]
        }
        Action::UnpackFile { path, size, .. } => vec![(resource, path.clone(), Touch::Replace(*size))],
        Action::Reload
        | Action::Unpack { .. }
        | Action::LoadModules
        | Action::SetSysctl { .. }
        | Action::Start { .. }
        | Action::Stop { .. }
        | Action::Restart { .. }
        | Action::GiveBack { .. }
        | Action::Leave => Vec::new(),
    };
    step.action.parts().iter().flat_map(&mut touched).collect()
}

/// The disk of a place, and the reason and message of what is in the way of such a touch there.
fn look(place: &Place, touch: Touch) -> Result<(Disk, Option<Why>), HostError> {
    let disk = Disk::of(place)?;
    if matches!(touch, Touch::Replace(_)) && place.is_mount_point() {
        let path = place.real.as_str();
        let message = format!(
            "something is mounted on {path} itself, so that nothing can take its place: run umount {path} on the host, or take it out of the spec"
        );
        return Ok((disk, Some(("MountPoint", message))));
    }
    let entry = place.locked().map(|locked| (locked, place.real.as_str()));
    let nearest = place.ancestors().next_back().map_or("/", |(path, _)| path);
    let directory = place.directory_locked().map(|locked| (locked, nearest));
    let locked = match touch {
        Touch::Replace(_) => entry.or(directory),
        // A new entry is what an append-only directory takes.
        Touch::Make => directory.filter(|(locked, _)| *locked == Locked::Immutable),
        Touch::Set => entry,
        Touch::Own => None,
        Touch::Inside => entry.filter(|(locked, _)| *locked == Locked::Immutable),
    };
    let message = locked.map(|(locked, path)| {
        let (what, remedy) = locked.words();
        ("Locked", format!("{path} {what}: run {remedy} {path} on the host, or take it out of the spec"))
    });
    Ok((disk, message))
}

fn read_only(root: &Root, place: &Place) -> String {
    let path = place.real.as_str();
    let is_fixed = ["/etc", STATE_DIR].iter().any(|top| path == *top || is_below(path, top));
    let can_write = |top: &&str| {
        let there = root.locate_through_links(top).and_then(|place| Disk::of(&place));
        !is_below(path, top) && there.is_ok_and(|disk| !disk.is_read_only)
    };
    let elsewhere: Vec<&str> = ELSEWHERE.into_iter().filter(can_write).collect();
    let remedy = match elsewhere.as_slice() {
        _ if is_fixed => "mount it writable".to_owned(),
        [] => "mount it writable, or name another path".to_owned(),
        [only] => format!("name a path below {only}"),
        [first @ .., last] => format!("name a path below {} or {last}", first.join(", ")),
    };
    format!("{path} lies on a file system that is read-only on this host: {remedy}")
}

impl<'a> Load<'a> {
    fn add(&mut self, resource: &'a str, touch: Touch, place: &Place) {
        let is_there = place.look().is_ok_and(|meta| meta.is_some());
        let bytes = match touch {
            Touch::Replace(bytes) => bytes,
            Touch::Make | Touch::Inside => 0,
            Touch::Set | Touch::Own => return,
        };
        self.bytes += bytes;
        self.entries += u64::from(!is_there);
        if self.biggest.is_none_or(|(most, _)| most < bytes) {
            self.biggest = Some((bytes, resource));
        }
    }

    /// The problem of a disk that has no room for it.
    fn too_much(self) -> Option<(String, &'static str, String)> {
        let (disk, (_, biggest)) = (self.disk?, self.biggest?);
        // Each file is written beside its place, so that one more is there for a moment.
        if disk.free_entries.is_some_and(|free| free < self.entries + 1) {
            let message = format!(
                "with all else that goes there its disk needs room for {} more files, and has it for {}: remove files from it",
                self.entries + 1,
                disk.free_entries.unwrap_or_default()
            );
            return Some((biggest.to_owned(), "NoSpace", message));
        }
        let free = disk.free.filter(|free| *free < self.bytes + RESERVE)?;
        let elsewhere = if biggest == STATE { "" } else { ", or choose another path" };
        let message = format!(
            "with all else that goes there its disk needs {} KiB, {} KiB of which stay free, and has {} KiB: free some space{elsewhere}",
            (self.bytes + RESERVE).div_ceil(1024),
            RESERVE / 1024,
            free / 1024
        );
        Some((biggest.to_owned(), "NoSpace", message))
    }
}
