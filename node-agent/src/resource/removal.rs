//! What an earlier revision made and this one does not name any more: it is put back as it was before.
//!
//! In: the ledger, and what the revision claims. Out: steps that put back, each for one entry. What was there before
//! stays, what something else has changed since is left and said, and what the revision itself still needs is kept.
//! A whole NodeBootstrap is taken off a host in the same way: by a revision that claims nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crds::UnitName;
use crds::report::Disruption;
use crds::revision::{Anchor, Resource};

use super::unit::{has_file, is_linked_otherwise};
use super::{Action, Change, Hidden, PARENT_MODE, Planner, Step, is_below};
use crate::anchor;
use crate::host::install::{UNIT_DIRECTORY, UNIT_PATH};
use crate::host::root::shown;
use crate::host::state::MAX_PRIORS;
use crate::host::systemd::UnitState;
use crate::host::write::{CAPABILITY, Ids};
use crate::host::{Kind, Meta, items};
use crate::ledger::{Before, Entry, Item, Ledger, Provenance, Shape};
use crate::switch;

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
    /// Directories that another NodeBootstrap removes when it is taken off.
    pub(crate) passed_on: Vec<Item>,
    /// Owners that a recursive directory of the revision is answerable for from now on: directory, path, before.
    pub(crate) handed: Vec<(String, String, Before)>,
    /// What lies elsewhere now, with what the revision names: from, to.
    pub(crate) moved: Vec<(Item, Item)>,
}

/// The items of a revision's resources. `real`: where a path really lies.
pub(crate) fn claims(resources: &[Resource], real: impl Fn(&str) -> Option<String>) -> BTreeSet<Item> {
    let mut claims = BTreeSet::new();
    for resource in resources {
        let path = super::path_of(resource).and_then(|path| real(&path));
        match (resource, path.clone()) {
            (Resource::Part(part), path) => {
                claims.extend(path.map(|path| Item::Part(path, part.anchor.clone())));
            }
            (_, path) => claims.extend(path.map(Item::Path)),
        }
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
            | Resource::Module(_)
            | Resource::CaBundle(_)
            | Resource::NoSwap(_)
            | Resource::Part(_)
            // What is in one is known to the planner.
            | Resource::Archive(_) => {}
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
    // The folder of a unit's drop-ins is none.
    (directory == UNIT_DIRECTORY && name.parse::<UnitName>().is_ok()).then_some(name)
}

/// Whether it is a program that stays beside each container: containerd remembers from where it has started it.
fn is_shim(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.starts_with("containerd-shim"))
}

/// Whether it is a drop-in of a unit.
fn is_drop_in(path: &str) -> bool {
    let below = path.strip_prefix(UNIT_DIRECTORY).and_then(|rest| rest.strip_prefix('/'));
    below.and_then(|rest| rest.split_once('/')).is_some_and(|(folder, _)| folder.ends_with(".d"))
}

/// What becomes of one entry that the revision does not claim.
enum Fate {
    /// It is done with: as it was before.
    Settled,
    /// It lies elsewhere now, where the revision claims it.
    Moved(Item),
    /// A directory that the revision needs: it stays, as those are that are made without an entry of their own.
    Kept(Option<(Change, Action)>),
    /// It is put back, or left and told, for ever or until a boot.
    Undone(When, Change, Action),
}

/// The order in which things are put back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum When {
    /// Accounts and directories that come back: what else comes back needs them.
    Returns,
    /// Links to units that go: as the file says that made them.
    Links,
    /// Units that stop.
    Stops,
    /// Files, and what is left.
    Files,
    /// What is inside a recursive directory.
    Insides,
    /// Directories, those inside others first.
    Directories,
    /// Links to units that come back: as the file says that is there again.
    Enables,
    /// Units that start: when all else is made.
    Starts,
    /// What a user has.
    OfUsers,
    /// Users, when nothing is left that could belong to them.
    Users,
    /// Groups, when no user is in them any more.
    Groups,
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
        // It may be in an archive; that is known when this is planned again, before anything is changed.
        .filter(|(item, _)| !planner.is_unread(item))
        .filter(|(item, _)| !matches!(item, Item::Group(name) | Item::User(name) if named.contains(name)))
        // Another one made it, and says how it is.
        .filter(|(item, entry)| {
            !(entry.shared && matches!(item, Item::Path(path) if is_above(path, claimed)))
        })
        .collect();
    let held = held_by_others(&unclaimed, claimed, planner);
    let spared = spared(&unclaimed, from_pod, planner);
    let (mut undone, mut kept) = (Vec::new(), Vec::new());
    for (item, entry) in unclaimed {
        if held.contains(item) {
            removal.passed_on.push(item.clone());
            continue;
        }
        match fate(item, entry, claimed, &spared, planner, &mut removal.handed) {
            Fate::Settled => removal.settled.push(item.clone()),
            Fate::Moved(to) => removal.moved.push((item.clone(), to)),
            Fate::Kept(step) => {
                removal.kept.push(item.clone());
                kept.extend(step.map(|(change, action)| Step { change, action, undoes: None }));
            }
            Fate::Undone(when, change, action) => undone.push((when, item, change, action)),
        }
    }
    // A unit whose links were others, and whose file comes back, is enabled as that says.
    for (item, entry) in ledger.entries() {
        let Item::Enabled(unit) = item else { continue };
        let was_enabled = entry.prior() == Some(&Shape::Is(true)) && removal.settled.contains(item);
        let steps = undone.iter().map(|(_, _, _, action)| action);
        if was_enabled && is_linked_otherwise(unit, steps, planner) {
            removal.settled.retain(|settled| settled != item);
            let change = change(&name_of(item, entry.shape()), "enable again, as before", MADE);
            let action = Action::Enable { unit: unit.clone(), again: true };
            undone.push((When::Enables, item, change, action));
        }
    }
    // What stops has no need to run with what was put back.
    for (_, _, _, action) in &undone {
        if let Action::Stop { unit } = action {
            planner.restarts.remove(unit);
        }
    }
    undone.sort_by(|(when, item, ..), (other_when, other_item, ..)| {
        let by_item = item.cmp(other_item);
        // What is inside goes before what it is in.
        let by_item = if *when == When::Directories { by_item.reverse() } else { by_item };
        when.cmp(other_when).then(by_item)
    });
    for (when, item, change, action) in undone {
        let step = planner.undo(item, change, action);
        let steps = if when < When::Enables { &mut removal.first } else { &mut removal.last };
        steps.push(step);
    }
    removal.first.extend(kept);
    removal
}

/// The directories among these that another NodeBootstrap has made, or needs, too: it removes them when it is taken off.
fn held_by_others(
    unclaimed: &[(&Item, &Entry)],
    claimed: &BTreeSet<Item>,
    planner: &Planner<'_>,
) -> BTreeSet<Item> {
    let goes = |item: &Item| matches!(item, Item::Path(path) if !is_above(path, claimed));
    let going = unclaimed.iter().filter(|(item, entry)| entry.is_new_directory() && goes(item));
    let going: BTreeSet<&Item> = going.map(|(item, _)| *item).collect();
    if going.is_empty() {
        return BTreeSet::new();
    }
    let others = planner.host.state.other_ledgers(planner.node_bootstrap).unwrap_or_default();
    let of_others = others.iter().flat_map(Ledger::entries).filter(|(_, entry)| entry.is_new_directory());
    of_others.filter(|(item, _)| going.contains(item)).map(|(item, _)| item.clone()).collect()
}

/// What becomes of one entry.
fn fate(
    item: &Item,
    entry: &Entry,
    claimed: &BTreeSet<Item>,
    spared: &[(String, String)],
    planner: &mut Planner<'_>,
    handed: &mut Vec<(String, String, Before)>,
) -> Fate {
    if let Item::Inside(directory) = item {
        let inside = inside(directory, entry, claimed, planner, handed);
        return inside.map_or(Fate::Settled, |(change, action)| Fate::Undone(When::Insides, change, action));
    }
    let Some(prior) = entry.prior() else { return Fate::Settled };
    if let Some(taken_over) = taken_over(item, &entry.made, claimed) {
        return Fate::Moved(taken_over);
    }
    let elsewhere = elsewhere(item, planner);
    if let Some(there) = &elsewhere
        && claimed.contains(there)
    {
        return Fate::Moved(there.clone());
    }
    let name = name_of(item, entry.shape());
    let left = |why: &str| Fate::Undone(When::Files, Change::left(&name, why), Action::Leave);
    let found = match items::look(planner.host, &planner.accounts, planner.units, item) {
        Ok(found) => found,
        Err(error) => return left(&error.to_string()),
    };
    let is_half = match item {
        // Of an account that was not wholly made there may be a line in the shadow already.
        Item::Group(_) | Item::User(_) | Item::Member(..) => !entry.done,
        Item::Enabled(unit) => {
            *prior == Shape::Is(false) && planner.units.get(unit).is_some_and(|state| state.has_empty_folder)
        }
        _ => false,
    };
    if found == *prior && !is_half {
        return Fate::Settled;
    }
    let is_ours = if entry.shared { found.kind() == Some(Kind::Directory) } else { entry.is_ours(&found) };
    if !is_ours || elsewhere.is_some() {
        return left("something else has changed it since");
    }
    if planner.is_of_others(item) {
        return left("another NodeBootstrap on this host names it");
    }
    if let Some((unit, _)) = spared.iter().find(|(unit, text)| needs(item, entry, unit, text)) {
        return left(&format!(
            "the agent's own pod runs under {unit}, which needs it: run nodebootstrap-agent revert on the host"
        ));
    }
    if let Item::Path(path) = item
        && is_shim(path)
        && planner.host.root.is_run(path)
    {
        return left(
            "containers run under it, and no containerd would find them again: drain the node, and run nodebootstrap-agent revert on the host",
        );
    }
    if let (Item::Path(path), Shape::Absent, Shape::Directory(made)) = (item, prior, &entry.made)
        && is_above(path, claimed)
    {
        let ids = planner.inherited(path).unwrap_or_default().ids(Kind::Directory, PARENT_MODE);
        return Fate::Kept((*made != ids).then(|| {
            let action = Action::SetAccess { path: path.clone(), kind: Kind::Directory, ids };
            (change(&name, planner.shown(ids), "is no longer named"), action)
        }));
    }
    if let (Item::Sysctl(_), Shape::Absent) = (item, prior) {
        let change = Change::until_boot(&name, "it came with a kernel module, and goes with it");
        return Fate::Undone(When::Files, change, Action::Leave);
    }
    if is_covered(item, prior, &found, planner) {
        return left("something is mounted on it");
    }
    match put_back(item, entry, prior, &found, planner, handed) {
        Ok((when, step, action)) => {
            let disruption = match action {
                Action::Stop { .. } => Disruption::Restart,
                _ => Disruption::None,
            };
            Fate::Undone(when, Change { disruption, ..change(&name, step, MADE) }, action)
        }
        Err(why) => left(why),
    }
}

/// Whether something is mounted on what would have to be removed or replaced.
fn is_covered(item: &Item, prior: &Shape, found: &Shape, planner: &Planner<'_>) -> bool {
    let (Item::Path(path) | Item::Part(path, _)) = item else { return false };
    let stays = match (prior, found) {
        (Shape::Directory(_), Shape::Directory(_)) => true,
        (Shape::File { digest, .. }, Shape::File { digest: now, .. }) => digest == now,
        _ => false,
    };
    !stays && planner.host.root.locate(path).is_ok_and(|place| place.is_mount_point())
}

/// How a thing is put back: when, in words, and how; or why it cannot be.
fn put_back(
    item: &Item,
    entry: &Entry,
    prior: &Shape,
    found: &Shape,
    planner: &mut Planner<'_>,
    handed: &mut Vec<(String, String, Before)>,
) -> Result<(When, String, Action), &'static str> {
    let name = name_of(item, entry.shape());
    let unless = || "remove, unless something else needs it".to_owned();
    Ok(match (item, prior, &entry.made) {
        (Item::Group(group), Shape::Group(gid), Shape::Absent) => {
            let action = Action::AddGroup { name: group.clone(), gid: *gid };
            (When::Returns, format!("gid {gid} as before"), action)
        }
        (Item::User(_), Shape::User(user), Shape::Absent) => {
            (When::Returns, format!("uid {} as before", user.uid), Action::AddUser(user.clone()))
        }
        (Item::Path(path), Shape::Directory(ids), Shape::Absent) => {
            let action = Action::MakeDirectory { path: path.clone(), ids: *ids };
            (When::Returns, format!("{} again", planner.shown(*ids)), action)
        }
        (Item::Path(path), Shape::Absent, Shape::Directory(_)) => {
            let action = Action::RemoveDirectory { path: path.clone(), otherwise: planner.inherited(path) };
            (When::Directories, "remove, if nothing else is in it".to_owned(), action)
        }
        (Item::Path(path), Shape::Absent, _) => {
            // Below it lies the distribution's own, from here on.
            if is_drop_in(path) || unit_of(item).is_some_and(|unit| has_another_file(unit, planner)) {
                restart(item, entry, &name, planner);
            }
            (When::Files, "remove".to_owned(), Action::RemoveFile { path: path.clone() })
        }
        (Item::Path(path), Shape::Directory(ids), Shape::Directory(_)) => {
            let Before { ids, .. } =
                handed_down(path, Kind::Directory, Before::of(*ids, prior), planner, handed);
            let action = Action::SetAccess { path: path.clone(), kind: Kind::Directory, ids };
            (When::Directories, format!("{} again", planner.shown(ids)), action)
        }
        (
            Item::Path(path),
            Shape::File { ids, digest, attributes },
            Shape::File { .. } | Shape::Link { .. } | Shape::Absent,
        ) => {
            let same = matches!(found, Shape::File { digest: now, .. } if now == digest);
            if !same && !planner.has_prior(*digest) {
                return Err("what was there before was not kept");
            }
            let before = handed_down(path, Kind::File, Before::of(*ids, prior), planner, handed);
            let (ids, mut attributes) = (before.ids, attributes.clone());
            if before.capability.is_none() {
                attributes.remove(CAPABILITY);
            }
            if !same {
                restart(item, entry, &name, planner);
            }
            let content = (!same).then_some(*digest);
            let what = if same { "" } else { "content, " };
            let action = Action::PutBack { path: path.clone(), content, ids, attributes };
            (When::Files, format!("{what}{} as before", planner.shown(ids)), action)
        }
        (
            Item::Path(path),
            Shape::Link { target, owner: (uid, gid) },
            Shape::Link { .. } | Shape::File { .. } | Shape::Absent,
        ) => {
            let ids = Ids { uid: *uid, gid: *gid, mode: 0 };
            let before = handed_down(path, Kind::Link, Before::of(ids, prior), planner, handed);
            let Ids { uid, gid, .. } = before.ids;
            let replaces = found.kind().unwrap_or(Kind::Link);
            let owner = (uid, gid);
            let action = Action::Link { path: path.clone(), target: target.clone(), owner, replaces };
            (When::Files, format!("target {target} as before"), action)
        }
        (Item::Part(path, anchor), Shape::Absent, _) => {
            restart(item, entry, &name, planner);
            let action = Action::EditPart { path: path.clone(), anchor: anchor.clone(), text: None };
            (When::Files, "remove".to_owned(), action)
        }
        (Item::Part(path, anchor), Shape::Text(text), _) => {
            restart(item, entry, &name, planner);
            let text = Some(Hidden(Rc::from(text.as_str())));
            let action = Action::EditPart { path: path.clone(), anchor: anchor.clone(), text };
            (When::Files, "content, as before".to_owned(), action)
        }
        (Item::Group(group), Shape::Absent, Shape::Group(gid)) => {
            (When::Groups, unless(), Action::RemoveGroup { name: group.clone(), gid: *gid })
        }
        (Item::User(_), Shape::Absent, Shape::User(user)) => {
            (When::Users, unless(), Action::RemoveUser(user.clone()))
        }
        (Item::User(_), Shape::User(user), _) => {
            let what = format!("home {}, shell {} as before", user.home, user.shell);
            (When::Users, what, Action::ChangeUser(user.clone()))
        }
        (Item::Member(user, group), Shape::Is(is_member), _) => {
            let what = if *is_member { "join" } else { "leave" };
            let what = format!("{what} the group {group}, as before");
            let (user, group) = (user.clone(), group.clone());
            (When::OfUsers, what, Action::SetMember { user, group, is_member: *is_member })
        }
        (Item::Comment(user), Shape::Text(comment), _) => {
            let action = Action::SetComment { user: user.clone(), comment: comment.clone() };
            (When::OfUsers, format!("comment {comment:?} as before"), action)
        }
        (Item::Locked(user), Shape::Is(locked), _) => {
            let what = if *locked { "lock, as before" } else { "unlock, as before" };
            (When::OfUsers, what.to_owned(), Action::SetLocked { user: user.clone(), locked: *locked })
        }
        (Item::Sysctl(setting), Shape::Text(value), _) => {
            let action = Action::SetSysctl { name: setting.clone(), value: value.clone() };
            (When::Files, format!("{value} as before"), action)
        }
        (Item::Masked(unit), Shape::Is(masked), _) => {
            let (when, what) =
                if *masked { (When::Enables, "mask, as before") } else { (When::Links, "unmask, as before") };
            (when, what.to_owned(), Action::Mask { unit: unit.clone(), masked: *masked })
        }
        (Item::Enabled(unit), Shape::Is(true), _) => {
            let action = Action::Enable { unit: unit.clone(), again: false };
            (When::Enables, "enable, as before".to_owned(), action)
        }
        (Item::Enabled(unit), Shape::Is(false), _) => {
            (When::Links, "disable, as before".to_owned(), Action::Disable { unit: unit.clone() })
        }
        (Item::Active(unit), Shape::Is(false), _) => {
            (When::Stops, "stop, as before".to_owned(), Action::Stop { unit: unit.clone() })
        }
        // Swap that no file of the host names has a unit only while it is in use.
        (Item::Active(unit), Shape::Is(true), _)
            if unit.ends_with(".swap") && !planner.units.get(unit).is_some_and(UnitState::is_known) =>
        {
            return Err("nothing on this host says any more how it is turned on");
        }
        (Item::Active(unit), Shape::Is(true), _) => {
            (When::Starts, "start, as before".to_owned(), Action::Start { unit: unit.clone(), anew: false })
        }
        _ => return Err("it is of another kind than before"),
    })
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
        (Item::Part(path, Anchor::Block { name, .. }), _) => format!("part {path}#{name}"),
        (Item::Part(path, Anchor::Begins(line) | Anchor::Is(line)), _) => format!("part {path}#{line}"),
        (Item::Part(path, Anchor::Key(key)), _) => format!("part {path}#{}", anchor::key::shown(key)),
        (Item::Masked(name) | Item::Enabled(name) | Item::Active(name), _) => format!("unit {name}"),
    }
}

/// Whether something that the revision claims lies below a path.
pub(crate) fn is_above(path: &str, claimed: &BTreeSet<Item>) -> bool {
    let next = claimed.range(Item::Path(format!("{path}/"))..).next();
    next.is_some_and(|next| matches!(next, Item::Path(next) if is_below(next, path)))
}

/// What a path shall have: what a recursive directory gives which it lies in from now on, or what it had before.
fn handed_down(
    path: &str,
    kind: Kind,
    before: Before,
    planner: &Planner<'_>,
    handed: &mut Vec<(String, String, Before)>,
) -> Before {
    let Some((top, inside)) = planner.recursion(path) else { return before };
    handed.push((top, path.to_owned(), before.clone()));
    before.inside(kind, inside)
}

/// The line that another line of the revision takes the place of: it is found in another way from now on.
fn taken_over(item: &Item, made: &Shape, claimed: &BTreeSet<Item>) -> Option<Item> {
    let (Item::Part(path, Anchor::Begins(_) | Anchor::Is(_)), Shape::Text(line)) = (item, made) else {
        return None;
    };
    let takes = |other: &&Item| matches!(other, Item::Part(there, anchor) if there == path && anchor.is_of(line.as_bytes()));
    claimed.iter().find(takes).cloned()
}

/// Where a thing really lies, if that is not where it lay: a directory above it was moved, and a link left in its place.
fn elsewhere(item: &Item, planner: &Planner<'_>) -> Option<Item> {
    let real = |path: &str| planner.host.root.locate(path).ok().map(|place| place.real);
    let there = match item {
        Item::Path(path) => Item::Path(real(path)?),
        Item::Part(path, anchor) => Item::Part(real(path)?, anchor.clone()),
        _ => return None,
    };
    (there != *item).then_some(there)
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
    // How many get something back, and what is not wholly as before then.
    let (mut given, mut kept) = (0, Vec::new());
    let others = planner.host.state.other_ledgers(planner.node_bootstrap).unwrap_or_default();
    for (path, before) in owners {
        let item = Item::Path(path.clone());
        // Another one that names it remembers itself what it was before.
        let remembers =
            |other: &Ledger| other.get(&item).is_some_and(|entry| !entry.shared && !entry.given_up);
        if claimed.contains(&item) || others.iter().any(remembers) {
            continue;
        }
        let root = &planner.host.root;
        let place = root.locate(path).ok();
        let meta = place.as_ref().and_then(|place| place.look().ok().flatten());
        if let Some((top, inside)) = planner.recursion(path) {
            handed.push((top, path.clone(), before.clone()));
            // Owners it gives by itself; a mode that it does not give would stay.
            let keeps = |meta: &Meta| {
                meta.mode != before.ids.mode
                    && inside.mode(meta.kind).is_none()
                    && entry.gave_mode(meta.kind, meta.mode) == Some(true)
            };
            if let Some(meta) = meta.filter(keeps) {
                back.insert(path.clone(), before.clone().inside(meta.kind, inside));
                given += 1;
            }
            continue;
        }
        let (Some(place), Some(meta)) = (place, meta) else { continue };
        let (now, then) = ((meta.uid, meta.gid), (before.ids.uid, before.ids.gid));
        let is_others = now != then && !entry.gave(now);
        let mode_differs = meta.mode != before.ids.mode;
        let mode_is_given = entry.gave_mode(meta.kind, meta.mode);
        let lacks_bits = mode_differs && meta.mode & !0o6000 == before.ids.mode & !0o6000;
        let lacks_capability = before.capability.is_some()
            && root.attributes(&place).is_ok_and(|now| !now.contains_key(CAPABILITY));
        // Killed between the steps, it has its owner again, but not its set-uid bit, its mode or its capabilities.
        let lacks_rights = before.digest.is_some() && (lacks_bits || lacks_capability);
        let loses_rights = before.digest.is_some() && (now != then || mode_differs || lacks_capability);
        let has_content = loses_rights
            && meta.size <= MAX_PRIORS
            && planner.host.digests.of_seen(&place, &meta).is_ok_and(|digest| digest == before.digest);
        let is_given =
            now != then || (mode_differs && mode_is_given == Some(true)) || (lacks_rights && has_content);
        // Who answers for owners alone leaves modes to others.
        let has_other_mode = mode_differs
            && !(lacks_rights || mode_is_given == Some(true))
            && (mode_is_given == Some(false) || loses_rights);
        let is_left = is_others || has_other_mode || (loses_rights && !has_content);
        if is_left && planner.is_swept(path) {
            kept.push(path);
        }
        given += usize::from(is_given && !is_others);
        if is_given || is_left {
            back.insert(path.clone(), before.clone());
        }
    }
    let name = format!("directory {directory}");
    let others = kept.first().map(|first| {
        let more = if kept.len() == 1 { String::new() } else { format!(" and {} more", kept.len() - 1) };
        format!("{}{more}", shown(first))
    });
    let step = match (given, others) {
        (0, None) => return None,
        (0, Some(others)) => {
            let why = format!("something else has changed {others} inside since");
            return Some((Change::left(&name, &why), Action::Leave));
        }
        (given, others) => {
            let entries = if given == 1 { "1 entry".to_owned() } else { format!("{given} entries") };
            let what = if entry.gave_modes() { "owner and mode" } else { "owner" };
            let but = others.map_or_else(String::new, |others| {
                format!(", but for {others}, which something else has changed since")
            });
            format!("{what} of {entries} inside as before{but}")
        }
    };
    let entry = Box::new(Entry { provenance: Provenance::Adopted, ..entry.clone() });
    Some((change(&name, step, MADE), Action::GiveBack { entry, owners: back }))
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

/// The units that this pod runs under and that the host has, or runs, only by what is put back: with the text of their files,
/// and of those that these name. One that ran before, by a file that comes to light again, is restarted with that instead.
fn spared(unclaimed: &[(&Item, &Entry)], from_pod: bool, planner: &Planner<'_>) -> Vec<(String, String)> {
    if !from_pod {
        return Vec::new();
    }
    let units = unclaimed.iter().filter_map(|(item, entry)| match item {
        Item::Active(unit) | Item::Enabled(unit) | Item::Masked(unit) => {
            entry.prior().is_some().then_some(unit.as_str())
        }
        other => unit_of(other)
            .filter(|unit| entry.prior() == Some(&Shape::Absent) && !has_another_file(unit, planner)),
    });
    let units: BTreeSet<&str> = units
        .filter(|unit| switch::is_node_unit(unit))
        .filter(|unit| planner.units.get(*unit).is_some_and(|state| !state.has_stopped()))
        .collect();
    let read = |path: &str| {
        let text = planner.host.root.read(path, MAX_UNIT).ok().flatten().unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    };
    let with_named = |unit: &str| {
        let mut text = read(&format!("{UNIT_DIRECTORY}/{unit}"));
        let named: String = unclaimed
            .iter()
            .filter(|(item, entry)| needs(item, entry, unit, &text))
            .filter_map(|(item, _)| if let Item::Path(path) = item { Some(read(path)) } else { None })
            .collect();
        text.push_str(&named);
        text
    };
    units.into_iter().map(|unit| (unit.to_owned(), with_named(unit))).collect()
}

/// Whether a unit would not start again, or not as it does, without this.
fn needs(item: &Item, entry: &Entry, unit: &str, text: &str) -> bool {
    if entry.restart.contains(unit) {
        return true;
    }
    match item {
        Item::Masked(name) | Item::Enabled(name) | Item::Active(name) => name == unit,
        Item::Path(path) => unit_of(item) == Some(unit) || text.contains(path.as_str()),
        Item::Part(path, _) => text.contains(path.as_str()),
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
            Resource::Archive(archive) => {
                named.extend([archive.owner.to_string(), archive.group.to_string()]);
                continue;
            }
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
            | Resource::Sysctl(_)
            | Resource::CaBundle(_)
            | Resource::NoSwap(_)
            | Resource::Part(_) => continue,
        };
        named.extend([access.owner.to_string(), access.group.to_string()]);
    }
    named
}
