//! What an earlier revision made and this one does not name any more: it is put back as it was before.
//!
//! In: the ledger, and what the revision claims. Out: steps that put back, each for one entry. What was there before
//! stays, what something else has changed since is left and said, and what the revision itself still needs is kept.
//! A whole NodeBootstrap is taken off a host in the same way: by a revision that claims nothing.

use std::collections::{BTreeMap, BTreeSet};

use crds::report::Disruption;
use crds::revision::Resource;

use super::unit::has_file;
use super::{Action, Change, PARENT_MODE, Planner, Step, is_below};
use crate::host::install::{UNIT_DIRECTORY, UNIT_PATH};
use crate::host::systemd::UnitState;
use crate::host::write::Ids;
use crate::host::{Meta, items};
use crate::ledger::{Before, Entry, Item, Ledger, Provenance, Shape};

/// The programs that the agent's own pod runs under: from the pod they are never stopped.
const NODE_UNITS: &[&str] = &[
    "kubelet",
    "containerd",
    "crio",
    "cri-o",
    "docker",
    "cri-docker",
    "k3s",
    "k3s-agent",
    "rke2-server",
    "rke2-agent",
];
/// The largest unit file that is searched for what it needs.
const MAX_UNIT: u64 = 1 << 20;

/// What is put back, in the order in which that is done.
#[derive(Debug, Default)]
pub(crate) struct Removal {
    /// Units that stop, files and directories: before new files are written.
    pub(crate) first: Vec<Step>,
    /// Units that start, and users and groups, when nothing of theirs is left.
    pub(crate) last: Vec<Step>,
    /// Directories that no entry names any more, though what one names lies below.
    pub(crate) kept: Vec<Item>,
    /// Entries that are done with: what they speak of is as it was before.
    pub(crate) settled: Vec<Item>,
    /// Owners that a recursive directory of the revision is answerable for from now on: directory, path, before.
    pub(crate) handed: Vec<(String, String, Before)>,
    /// Paths that lie elsewhere now, with what the revision names: from, to.
    pub(crate) moved: Vec<(String, String)>,
}

/// The items of a revision's resources. `real`: where a path really lies.
pub(crate) fn claims(resources: &[Resource], real: impl Fn(&str) -> Option<String>) -> BTreeSet<Item> {
    let mut claims = BTreeSet::new();
    for resource in resources {
        let path = super::path_of(resource).and_then(|path| real(&path));
        claims.extend(path.clone().map(Item::Path));
        match resource {
            Resource::Group(group) => _ = claims.insert(Item::Group(group.name.to_string())),
            Resource::User(user) => {
                let name = || user.name.to_string();
                claims.insert(Item::User(name()));
                claims.extend(user.groups.iter().map(|group| Item::Member(name(), group.to_string())));
                claims.extend(user.comment.as_ref().map(|_| Item::Comment(name())));
                claims.extend(user.locked.map(|_| Item::Locked(name())));
            }
            Resource::Directory(directory) if directory.recursive => claims.extend(path.map(Item::Inside)),
            Resource::Unit(unit) => {
                // What the entry leaves out is left as it is, also where it named it before.
                claims.extend(
                    [Item::Masked, Item::Enabled, Item::Active].map(|item| item(unit.name.to_string())),
                );
            }
            Resource::Sysctl(sysctl) => _ = claims.insert(Item::Sysctl(sysctl.name.to_string())),
            Resource::Directory(_)
            | Resource::File(_)
            | Resource::Binary(_)
            | Resource::Symlink(_)
            | Resource::Module(_) => {}
        }
    }
    claims
}

/// The units whose state is needed.
pub(crate) fn to_observe(ledger: &Ledger) -> impl Iterator<Item = String> {
    let restarts = ledger.entries().flat_map(|(_, entry)| entry.restart.iter().cloned());
    let files = ledger.entries().filter_map(|(item, _)| unit_of(item)).map(str::to_owned);
    items::units(ledger.entries().map(|(item, _)| item)).chain(restarts).chain(files)
}

/// The unit whose file it is.
fn unit_of(item: &Item) -> Option<&str> {
    let Item::Path(path) = item else { return None };
    let (directory, name) = path.rsplit_once('/')?;
    (directory == UNIT_DIRECTORY && name.contains('.')).then_some(name)
}

/// Whether it is a drop-in of a unit.
fn is_drop_in(path: &str) -> bool {
    let below = path.strip_prefix(UNIT_DIRECTORY).and_then(|rest| rest.strip_prefix('/'));
    below.and_then(|rest| rest.split_once('/')).is_some_and(|(folder, _)| folder.ends_with(".d"))
}

/// Plans what becomes of the entries that the revision does not claim. `named`: accounts that it still speaks of.
pub(crate) fn plan(
    ledger: &Ledger,
    claimed: &BTreeSet<Item>,
    named: &BTreeSet<String>,
    from_pod: bool,
    planner: &mut Planner<'_>,
) -> Removal {
    let mut removal = Removal::default();
    let unclaimed: Vec<(&Item, &Entry)> = ledger
        .entries()
        .filter(|(item, entry)| !entry.given_up && !claimed.contains(*item))
        .filter(|(item, _)| !matches!(item, Item::Group(name) | Item::User(name) if named.contains(name)))
        .collect();
    let spared = spared(&unclaimed, from_pod, planner);
    let (mut links, mut stops, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    let mut stopped = BTreeSet::new();
    let (mut files, mut insides, mut directories) = (Vec::new(), Vec::new(), Vec::new());
    let (mut users, mut groups, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    let mut of_users = Vec::new();
    for (item, entry) in unclaimed {
        if let Item::Inside(directory) = item {
            match inside(directory, entry, claimed, planner, &mut removal.handed) {
                Some((change, action)) => insides.push((item, change, action)),
                None => removal.settled.push(item.clone()),
            }
            continue;
        }
        let Some(prior) = entry.prior() else {
            removal.settled.push(item.clone());
            continue;
        };
        if let Some(real) = elsewhere(item, planner)
            && claimed.contains(&Item::Path(real.clone()))
        {
            if let Item::Path(path) = item {
                removal.moved.push((path.clone(), real));
            }
            continue;
        }
        let found = items::look(planner.host, &planner.accounts, planner.units, item);
        let name = name_of(item, &entry.made);
        let left = |why: &str| (item, Change::left(&name, why), Action::Leave);
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                files.push(left(&error.to_string()));
                continue;
            }
        };
        // Of an account that was not wholly made there may be a line in the shadow already.
        let is_half = !entry.done && matches!(item, Item::Group(_) | Item::User(_));
        if found == *prior && !is_half {
            removal.settled.push(item.clone());
            continue;
        }
        if !entry.is_ours(&found) || elsewhere(item, planner).is_some() {
            files.push(left("something else has changed it since"));
            continue;
        }
        if let Item::Path(path) = item
            && planner.is_of_others(path)
        {
            files.push(left("another NodeBootstrap on this host names it"));
            continue;
        }
        if let Some(unit) = spared.iter().find_map(|(unit, text)| needs(item, unit, text).then_some(unit)) {
            files.push(left(&format!(
                "the agent's own pod runs under {unit}, which needs it: run nodebootstrap-agent revert on the host"
            )));
            continue;
        }
        match (item, prior) {
            (Item::Path(path), Shape::Absent) => match entry.made {
                Shape::Directory(made) if is_above(path, claimed) => {
                    // It stays as those are that are made for what lies below, without an entry of their own.
                    let (uid, gid) = planner.inherited(path).unwrap_or_default();
                    let ids = Ids { uid, gid, mode: PARENT_MODE };
                    if made != ids {
                        let kind = crate::host::Kind::Directory;
                        let action = Action::SetAccess { path: path.clone(), kind, ids };
                        kept.push((change(&name, planner.shown(ids), "is no longer named"), action));
                    }
                    removal.kept.push(item.clone());
                }
                Shape::Directory(_) => {
                    let otherwise = planner.inherited(path);
                    let action = Action::RemoveDirectory { path: path.clone(), otherwise };
                    directories.push((item, change(&name, "remove, if nothing else is in it", MADE), action));
                }
                _ => {
                    let action = Action::RemoveFile { path: path.clone() };
                    files.push((item, change(&name, "remove", MADE), action));
                    // Below it lies the distribution's own, from here on.
                    if is_drop_in(path) || unit_of(item).is_some_and(|unit| has_another_file(unit, planner)) {
                        restart(item, entry, &name, planner);
                    }
                }
            },
            (Item::Path(path), Shape::Directory(ids)) if matches!(entry.made, Shape::Directory(_)) => {
                let ids = handed_down(path, *ids, planner, &mut removal.handed);
                let what = format!("{} again", planner.shown(ids));
                let kind = crate::host::Kind::Directory;
                let action = Action::SetAccess { path: path.clone(), kind, ids };
                directories.push((item, change(&name, what, MADE), action));
            }
            (Item::Path(path), Shape::File { ids, digest, attributes })
                if matches!(entry.made, Shape::File { .. }) =>
            {
                let same = matches!(found, Shape::File { digest: now, .. } if now == *digest);
                let kept = same || planner.has_prior(*digest);
                if !kept {
                    files.push(left("what was there before was not kept"));
                    continue;
                }
                let ids = handed_down(path, *ids, planner, &mut removal.handed);
                let content = (!same).then_some(*digest);
                let what = if same { "" } else { "content, " };
                let what = format!("{what}{} as before", planner.shown(ids));
                let action =
                    Action::PutBack { path: path.clone(), content, ids, attributes: attributes.clone() };
                files.push((item, change(&name, what, MADE), action));
                if !same {
                    restart(item, entry, &name, planner);
                }
            }
            (Item::Path(path), Shape::Link { target, owner: (uid, gid) }) => {
                let ids = Ids { uid: *uid, gid: *gid, mode: 0 };
                let Ids { uid, gid, .. } = handed_down(path, ids, planner, &mut removal.handed);
                let action = Action::Link { path: path.clone(), target: target.clone(), owner: (uid, gid) };
                files.push((item, change(&name, format!("target {target} as before"), MADE), action));
            }
            (Item::Group(group), Shape::Absent) => {
                if let Shape::Group(gid) = entry.made {
                    let action = Action::RemoveGroup { name: group.clone(), gid };
                    let step = change(&name, "remove, unless something else needs it", MADE);
                    groups.push((item, step, action));
                }
            }
            (Item::User(_), Shape::Absent) => {
                if let Shape::User(user) = &entry.made {
                    let step = change(&name, "remove, unless something else needs it", MADE);
                    users.push((item, step, Action::RemoveUser(user.clone())));
                }
            }
            (Item::User(_), Shape::User(user)) => {
                let what = format!("home {}, shell {} as before", user.home, user.shell);
                users.push((item, change(&name, what, MADE), Action::ChangeUser(user.clone())));
            }
            (Item::Member(user, group), Shape::Is(is_member)) => {
                let what = if *is_member { "join" } else { "leave" };
                let what = format!("{what} the group {group}, as before");
                let (user, group) = (user.clone(), group.clone());
                let action = Action::SetMember { user, group, is_member: *is_member };
                of_users.push((item, change(&name, what, MADE), action));
            }
            (Item::Comment(user), Shape::Text(comment)) => {
                let action = Action::SetComment { user: user.clone(), comment: comment.clone() };
                of_users.push((item, change(&name, format!("comment {comment:?} as before"), MADE), action));
            }
            (Item::Locked(user), Shape::Is(locked)) => {
                let what = if *locked { "lock, as before" } else { "unlock, as before" };
                let action = Action::SetLocked { user: user.clone(), locked: *locked };
                of_users.push((item, change(&name, what, MADE), action));
            }
            (Item::Enabled(unit), Shape::Is(before)) => {
                let (word, action) = match before {
                    true => ("enable", Action::Enable { unit: unit.clone(), again: false }),
                    false => ("disable", Action::Disable { unit: unit.clone() }),
                };
                links.push((item, change(&name, format!("{word}, as before"), MADE), action));
            }
            (Item::Sysctl(setting), Shape::Text(value)) => {
                let action = Action::SetSysctl { name: setting.clone(), value: value.clone() };
                files.push((item, change(&name, format!("{value} as before"), MADE), action));
            }
            (Item::Sysctl(_), Shape::Absent) => {
                files.push(left("it came with a kernel module, and goes with it at a boot"));
            }
            (Item::Masked(unit), Shape::Is(before)) => {
                let what = if *before { "mask, as before" } else { "unmask, as before" };
                links.push((
                    item,
                    change(&name, what, MADE),
                    Action::Mask { unit: unit.clone(), masked: *before },
                ));
            }
            (Item::Active(unit), Shape::Is(false)) => {
                let step =
                    Change { disruption: Disruption::Restart, ..change(&name, "stop, as before", MADE) };
                stops.push((item, step, Action::Stop { unit: unit.clone() }));
                stopped.insert(unit.clone());
            }
            (Item::Active(unit), Shape::Is(true)) => {
                starts.push((
                    item,
                    change(&name, "start, as before", MADE),
                    Action::Start { unit: unit.clone() },
                ));
            }
            _ => files.push(left("it is of another kind than before")),
        }
    }
    // What stops has no need to run with what was put back.
    planner.restarts.retain(|unit, _| !stopped.contains(unit));
    // What is inside goes before what it is in.
    directories.sort_by(|(a, ..), (b, ..)| b.cmp(a));
    let mut undo = |(item, change, action)| planner.undo(item, change, action);
    let steps = links.into_iter().chain(stops).chain(files).chain(insides).chain(directories);
    removal.first = steps.map(&mut undo).collect();
    removal.first.extend(kept.into_iter().map(|(change, action)| Step { change, action, undoes: None }));
    // A user goes before its group.
    removal.last = starts.into_iter().chain(of_users).chain(users).chain(groups).map(undo).collect();
    removal
}

const MADE: &str = "was made by an earlier revision";

fn change(resource: &str, change: impl Into<String>, found: &str) -> Change {
    Change {
        resource: resource.to_owned(),
        change: change.into(),
        found: found.to_owned(),
        disruption: Disruption::None,
    }
}

fn name_of(item: &Item, made: &Shape) -> String {
    match (item, made) {
        (Item::Group(name), _) => format!("group {name}"),
        (Item::User(name) | Item::Member(name, _) | Item::Comment(name) | Item::Locked(name), _) => {
            format!("user {name}")
        }
        (Item::Sysctl(name), _) => format!("sysctl {name}"),
        (Item::Path(path), Shape::Directory(_)) | (Item::Inside(path), _) => format!("directory {path}"),
        (Item::Path(path), Shape::Link { .. }) => format!("symlink {path}"),
        (Item::Path(path), _) => format!("file {path}"),
        (Item::Masked(name) | Item::Enabled(name) | Item::Active(name), _) => format!("unit {name}"),
    }
}

/// Whether something that the revision claims lies below a path.
fn is_above(path: &str, claimed: &BTreeSet<Item>) -> bool {
    let next = claimed.range(Item::Path(format!("{path}/"))..).next();
    next.is_some_and(|next| matches!(next, Item::Path(next) if is_below(next, path)))
}

/// What a path's owner shall be: that of a recursive directory which it lies in from now on, or the one before.
fn handed_down(
    path: &str,
    before: Ids,
    planner: &Planner<'_>,
    handed: &mut Vec<(String, String, Before)>,
) -> Ids {
    let Some((top, (uid, gid))) = planner.recursion(path) else { return before };
    handed.push((top, path.to_owned(), Before { ids: before, digest: None }));
    Ids { uid, gid, ..before }
}

/// Where a path really lies, if that is not where it lay: a directory above it was moved, and a link left in its place.
fn elsewhere(item: &Item, planner: &Planner<'_>) -> Option<String> {
    let Item::Path(path) = item else { return None };
    let real = planner.host.root.locate(path).ok()?.real;
    (real != *path).then_some(real)
}

/// Plans to give back what is inside a directory that is not recursive any more.
fn inside(
    directory: &str,
    entry: &Entry,
    claimed: &BTreeSet<Item>,
    planner: &Planner<'_>,
    handed: &mut Vec<(String, String, Before)>,
) -> Option<(Change, Action)> {
    let Provenance::Modified(Shape::Owners(owners)) = &entry.provenance else { return None };
    let mut back = BTreeMap::new();
    for (path, before) in owners {
        if claimed.contains(&Item::Path(path.clone())) {
            continue;
        }
        if let Some((top, _)) = planner.recursion(path) {
            handed.push((top, path.clone(), *before));
            continue;
        }
        let then = (before.ids.uid, before.ids.gid);
        let is_given = |meta: Meta| {
            // Killed between the two steps, it has its owner again, but not its set-uid bit.
            let lost = meta.mode != before.ids.mode && meta.mode & !0o6000 == before.ids.mode & !0o6000;
            let now = (meta.uid, meta.gid);
            (now != then && entry.gave(now)) || (now == then && lost && before.digest.is_some())
        };
        let meta = planner.host.root.locate(path).and_then(|place| place.look()).ok().flatten();
        if meta.is_some_and(is_given) {
            back.insert(path.clone(), *before);
        }
    }
    if back.is_empty() {
        return None;
    }
    let entries = if back.len() == 1 { "1 entry".to_owned() } else { format!("{} entries", back.len()) };
    let change =
        change(&format!("directory {directory}"), format!("owner of {entries} inside as before"), MADE);
    let entry = Box::new(Entry { provenance: Provenance::Adopted, ..entry.clone() });
    Some((change, Action::GiveBack { entry, owners: back }))
}

/// Units that read what is put back run with it only after a restart.
fn restart(item: &Item, entry: &Entry, name: &str, planner: &mut Planner<'_>) {
    let units: Vec<String> =
        entry.restart.iter().map(String::as_str).chain(unit_of(item)).map(str::to_owned).collect();
    for unit in units {
        if planner.units.get(&unit).is_some_and(UnitState::is_running) {
            planner.restarts.entry(unit).or_default().push(format!("{name}, put back"));
        }
    }
}

/// Whether a unit has a file besides the one in /etc.
fn has_another_file(unit: &str, planner: &Planner<'_>) -> bool {
    let others: Vec<&str> =
        UNIT_PATH.iter().copied().filter(|directory| *directory != UNIT_DIRECTORY).collect();
    has_file(unit, &others, planner)
}

/// The units that this pod runs under and that an earlier revision started, with their files' text.
fn spared(unclaimed: &[(&Item, &Entry)], from_pod: bool, planner: &Planner<'_>) -> Vec<(String, String)> {
    if !from_pod {
        return Vec::new();
    }
    let units = unclaimed.iter().filter_map(|(item, _)| match item {
        Item::Active(unit) | Item::Enabled(unit) | Item::Masked(unit) => Some(unit.as_str()),
        other => unit_of(other),
    });
    let units: BTreeSet<&str> = units
        .filter(|unit| NODE_UNITS.iter().any(|known| unit.strip_suffix(".service") == Some(known)))
        .filter(|unit| planner.units.get(*unit).is_some_and(|state| !state.has_stopped()))
        .collect();
    let text = |unit: &str| {
        let path = format!("{UNIT_DIRECTORY}/{unit}");
        let text = planner.host.root.read(&path, MAX_UNIT).ok().flatten().unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    };
    units.into_iter().map(|unit| (unit.to_owned(), text(unit))).collect()
}

/// Whether a unit would not start again without this.
fn needs(item: &Item, unit: &str, text: &str) -> bool {
    match item {
        Item::Masked(name) | Item::Enabled(name) | Item::Active(name) => name == unit,
        Item::Path(path) => unit_of(item) == Some(unit) || text.contains(path.as_str()),
        Item::User(name) | Item::Group(name) => text.lines().any(|line| {
            line.split_once('=')
                .is_some_and(|(key, value)| matches!(key.trim(), "User" | "Group") && value.trim() == name)
        }),
        Item::Inside(_) | Item::Sysctl(_) | Item::Member(..) | Item::Comment(_) | Item::Locked(_) => false,
    }
}

/// Accounts that something of a revision belongs to.
pub(crate) fn named(resources: &[Resource]) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for resource in resources {
        let access = match resource {
            Resource::Directory(directory) => &directory.access,
            Resource::File(file) => &file.access,
            Resource::Binary(binary) => &binary.access,
            Resource::User(user) => {
                // Without one it has that of its own name.
                named.extend(user.groups.iter().map(ToString::to_string));
                named.insert(user.group.as_ref().map_or(user.name.to_string(), ToString::to_string));
                continue;
            }
            Resource::Group(_)
            | Resource::Unit(_)
            | Resource::Symlink(_)
            | Resource::Module(_)
            | Resource::Sysctl(_) => continue,
        };
        named.extend([access.owner.to_string(), access.group.to_string()]);
    }
    named
}
