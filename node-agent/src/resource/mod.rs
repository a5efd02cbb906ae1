//! The kinds of host things, one file each. Each compares what is with what shall be and adds the steps between.
//!
//! In: the resources of a revision, and a [`Planner`] that knows the host as it will be after the steps so far: a group
//! that a step makes has its number already, a directory that a step makes can hold files. Out: [`Step`]s, warnings and
//! problems in the planner. Nothing here changes the host; [`crate::engine`] does the steps.

pub(crate) mod archive;
pub(crate) mod binary;
pub(crate) mod directory;
pub(crate) mod disk;
pub(crate) mod elf;
pub(crate) mod file;
pub(crate) mod group;
pub(crate) mod kernel;
pub(crate) mod part;
pub(crate) mod removal;
pub(crate) mod symlink;
pub(crate) mod trust;
pub(crate) mod unit;
pub(crate) mod user;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;

use crds::names::STATE_DIR;
use crds::report::{ChangeSummary, Disruption};
use crds::revision::{Access, Anchor, PATH, Part, Resource, Revision};
use crds::{AccountRef, HostPath, Sha256};
use serde::{Deserialize, Serialize};

use crate::engine::Request;
use crate::host::accounts::{self, Accounts};
use crate::host::install::UNIT_DIRECTORY;
use crate::host::root::Finder;
use crate::host::state::Begun;
use crate::host::systemd::UnitState;
use crate::host::trust::{ANCHORS, Store};
use crate::host::write::{Ids, Inside, Skip};
use crate::host::{Host, HostError, Kind, Meta, Place, items};
use crate::ledger::{Before, Entry, Item, Ledger};
use crate::preset::Findings;
use crate::preset::kubelet::CONFIG_DIR;

use archive::Located;

/// One change to the host, in words. No content is ever in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The resource: its kind and its path or name.
    pub resource: String,
    /// What changes.
    pub change: String,
    /// How the host was found, for a message about drift: `was missing`.
    #[serde(default)]
    pub found: String,
    /// How much it disturbs.
    pub disruption: Disruption,
}

/// The mode of directories that are made above an entry.
pub(crate) const PARENT_MODE: u32 = 0o755;

/// What to do about something in the way that was made by an earlier revision.
const MADE_EARLIER: &str =
    "an earlier revision made it so: apply the spec once without this entry, and then with it";

/// Folders that systemd reads at boot.
const READ_AT_BOOT: [&str; 3] = [UNIT_DIRECTORY, "/etc/modules-load.d", "/etc/sysctl.d"];

/// How a change begins that leaves a thing of an earlier revision as it is.
const LEFT: &str = "left as it is: ";
/// As that, of what is as before once the machine has booted.
const UNTIL_BOOT: &str = "stays until the next boot: ";

/// Whether a change, in words, leaves a thing of an earlier revision as it is, for ever or until a boot.
pub(crate) fn stays(change: &str) -> bool {
    change.starts_with(LEFT) || change.starts_with(UNTIL_BOOT)
}

impl Change {
    /// That a thing which an earlier revision made is left as it is.
    pub(crate) fn left(resource: &str, why: &str) -> Self {
        Self {
            resource: resource.to_owned(),
            change: format!("{LEFT}{why}"),
            found: "is no longer named".to_owned(),
            disruption: Disruption::None,
        }
    }

    /// That nothing of a thing which an earlier revision made can be put back now, and nothing need be: it goes at a boot.
    pub(crate) fn until_boot(resource: &str, why: &str) -> Self {
        Self { change: format!("{UNTIL_BOOT}{why}"), ..Self::left(resource, why) }
    }

    /// Whether a thing of an earlier revision stays, but only until the machine boots.
    pub fn is_until_boot(&self) -> bool {
        self.change.starts_with(UNTIL_BOOT)
    }

    /// Whether it leaves a thing of an earlier revision as it is.
    pub fn is_left(&self) -> bool {
        self.change.starts_with(LEFT)
    }
}

impl From<&Change> for ChangeSummary {
    fn from(change: &Change) -> Self {
        Self {
            resource: change.resource.clone(),
            change: change.change.clone(),
            disruption: change.disruption,
        }
    }
}

/// Why a revision cannot be had on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The resource that it is about.
    pub resource: String,
    /// The cause in one word.
    pub reason: &'static str,
    /// In words, with the remedy.
    pub message: String,
}

/// A change, and how it is made.
#[derive(Debug, Clone)]
pub struct Step {
    /// What it changes.
    pub change: Change,
    /// How.
    pub(crate) action: Action,
    /// The entry of the ledger that is done with after it; `None`: it makes what the revision names.
    pub(crate) undoes: Option<Item>,
}

impl Step {
    /// The unit that it starts, stops or restarts.
    pub(crate) fn unit(&self) -> Option<&str> {
        match &self.action {
            Action::Start { unit, .. } | Action::Stop { unit } | Action::Restart { unit } => Some(unit),
            _ => None,
        }
    }
}

/// How a change is made: everything that is needed, so that nothing is decided while it is made.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    AddGroup {
        name: String,
        gid: u32,
    },
    AddUser(accounts::User),
    ChangeUser(accounts::User),
    SetMember {
        user: String,
        group: String,
        is_member: bool,
    },
    SetComment {
        user: String,
        comment: String,
    },
    SetLocked {
        user: String,
        locked: bool,
    },
    MakeDirectory {
        path: String,
        ids: Ids,
    },
    SetAccess {
        path: String,
        kind: Kind,
        ids: Ids,
    },
    OwnBelow {
        path: String,
        inside: Inside,
        skip: SkipList,
    },
    WriteFile {
        path: String,
        content: Hidden<[u8]>,
        ids: Ids,
    },
    Download {
        path: String,
        urls: Vec<String>,
        digest: Sha256,
        ids: Ids,
    },
    /// `into`: the directory; `parts`: what is made of it, each a change of the host by itself; `None`: what is in it is
    /// known only when it was fetched.
    Unpack {
        into: String,
        urls: Vec<String>,
        digest: Sha256,
        parts: Option<Vec<Action>>,
    },
    /// Part of the one above. `from`: its path in the archive.
    UnpackFile {
        from: String,
        path: String,
        size: u64,
        digest: Sha256,
        ids: Ids,
    },
    Link {
        path: String,
        target: String,
        owner: (u32, u32),
        /// What it takes the place of, besides another link.
        replaces: Kind,
    },
    /// `text`: what the part shall be; `None`: it is taken out.
    EditPart {
        path: String,
        anchor: Anchor,
        text: Option<Hidden<str>>,
    },
    LoadModules,
    SetSysctl {
        name: String,
        value: String,
    },
    /// `renew`: something has gone from it.
    UpdateTrustStore {
        store: &'static Store,
        renew: bool,
    },
    Reload,
    Enable {
        unit: String,
        again: bool,
    },
    Disable {
        unit: String,
    },
    Mask {
        unit: String,
        masked: bool,
    },
    Start {
        unit: String,
        /// Its files are written before, so that one that was started meanwhile is restarted.
        anew: bool,
    },
    Stop {
        unit: String,
    },
    Restart {
        unit: String,
    },
    RemoveGroup {
        name: String,
        gid: u32,
    },
    RemoveUser(accounts::User),
    RemoveFile {
        path: String,
    },
    /// `otherwise`: what it gets if something is in it.
    RemoveDirectory {
        path: String,
        otherwise: Option<Inside>,
    },
    /// `content`: the digest of what was there before, if that is not there now.
    PutBack {
        path: String,
        content: Option<Sha256>,
        ids: Ids,
        attributes: BTreeMap<String, String>,
    },
    GiveBack {
        entry: Box<Entry>,
        owners: BTreeMap<String, Before>,
    },
    Leave,
}

impl Action {
    /// What it does to the host, one thing after the other.
    pub(crate) fn parts(&self) -> &[Action] {
        match self {
            Self::Unpack { parts, .. } => parts.as_deref().unwrap_or_default(),
            other => std::slice::from_ref(other),
        }
    }
}

/// Content that no log shows.
pub(crate) struct Hidden<T: ?Sized>(pub(crate) Rc<T>);

impl<T: ?Sized> Clone for Hidden<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T: ?Sized> fmt::Debug for Hidden<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(content)")
    }
}

/// Paths that a recursive change leaves alone, because they have an entry of their own.
#[derive(Debug, Clone, Default)]
pub(crate) struct SkipList(Rc<BTreeMap<String, Skip>>);

impl SkipList {
    pub(crate) fn of(&self, path: &str) -> Skip {
        self.0.get(path).copied().unwrap_or(Skip::Nothing)
    }
}

/// Secret values by key. Shown nowhere.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Payload(BTreeMap<String, Vec<u8>>);

impl From<BTreeMap<String, Vec<u8>>> for Payload {
    fn from(values: BTreeMap<String, Vec<u8>>) -> Self {
        Self(values)
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} values)", self.0.len())
    }
}

impl Payload {
    pub(crate) fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice)
    }

    /// What another program says, without what is secret of it: no part of a value that is this long, and no whole value that
    /// is shorter, down to four characters. What the revision itself has, such as a path, is no secret.
    pub(crate) fn hide(&self, text: &str, revision: &Revision) -> String {
        let public = serde_json::to_string(revision).unwrap_or_default();
        const PART: usize = 8;
        let values: Vec<&str> = self.0.values().filter_map(|value| std::str::from_utf8(value).ok()).collect();
        let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let mut secret = vec![false; starts.len()];
        let parts = starts.windows(PART + 1).enumerate().filter(|(_, part)| {
            let part = &text[part[0]..part[PART]];
            !part.trim().is_empty()
                && values.iter().any(|value| value.contains(part))
                && !public.contains(part)
        });
        parts.for_each(|(at, _)| secret[at..at + PART].fill(true));
        let short = values.iter().flat_map(|value| value.lines()).map(str::trim);
        for value in short.filter(|value| (4..PART).contains(&value.chars().count())) {
            for (from, found) in text.match_indices(value) {
                let ends = from + found.len();
                starts
                    .iter()
                    .zip(&mut secret)
                    .filter(|(at, _)| (from..ends).contains(at))
                    .for_each(|(_, is)| *is = true);
            }
        }
        let mut shown = String::new();
        for (at, character) in text.chars().enumerate() {
            match secret[at] {
                false => shown.push(character),
                true if at == 0 || !secret[at - 1] => shown.push_str("(secret)"),
                true => {}
            }
        }
        shown
    }
}

/// The host as it will be after the steps so far.
pub(crate) struct Planner<'a> {
    pub(crate) host: &'a Host,
    pub(crate) payload: &'a Payload,
    /// The NodeBootstrap's name.
    node_bootstrap: &'a str,
    /// What it has made here so far.
    ledger: &'a Ledger,
    /// The states of all units that the revision or an earlier run speaks of.
    pub(crate) units: &'a BTreeMap<String, UnitState>,
    /// With those that steps add.
    pub(crate) accounts: Accounts,
    pub(crate) steps: Vec<Step>,
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<String>,
    /// Resources whose differences are left as they are, and what was left.
    leave: &'a BTreeSet<String>,
    pub(crate) left: Vec<Change>,
    /// Directories that are missing and left so, by real path.
    missing: Vec<String>,
    /// Units and other resources for which a restart needs a drained node, and why.
    pub(crate) drains: BTreeMap<String, String>,
    /// Units to restart at the end, if they run, and why.
    pub(crate) restarts: BTreeMap<String, Vec<String>>,
    /// Where the revision's paths really lie, by path as written.
    places: BTreeMap<String, Place>,
    /// Where its archives go, by name.
    archives: BTreeMap<String, Rc<Located>>,
    /// Directories of archives of which nobody knows what is in them.
    unread: Vec<String>,
    skip: SkipList,
    /// The parts of files that other NodeBootstraps have on this host.
    parts_of_others: BTreeSet<Item>,
    /// Directories that steps make, by real path.
    made: BTreeSet<String>,
    /// What directories will have that have an entry of their own, by real path.
    owners: BTreeMap<String, Ids>,
    /// What recursive directories give to new entries below, by real path.
    pub(crate) recursive: BTreeMap<String, Inside>,
    /// Directories that a user owns, with what of root's lies below.
    exposed: BTreeMap<String, (u32, Vec<String>)>,
}

impl<'a> Planner<'a> {
    pub(crate) fn new(
        host: &'a Host,
        request: &'a Request,
        ledger: &'a Ledger,
        units: &'a BTreeMap<String, UnitState>,
    ) -> Result<Self, HostError> {
        Ok(Self {
            host,
            payload: &request.payload,
            node_bootstrap: &request.revision.node_bootstrap,
            ledger,
            units,
            accounts: Accounts::load(&host.root)?,
            steps: Vec::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
            leave: &request.leave,
            left: Vec::new(),
            missing: Vec::new(),
            drains: BTreeMap::new(),
            restarts: BTreeMap::new(),
            places: BTreeMap::new(),
            archives: BTreeMap::new(),
            unread: Vec::new(),
            skip: SkipList::default(),
            parts_of_others: BTreeSet::new(),
            made: BTreeSet::new(),
            owners: BTreeMap::new(),
            recursive: BTreeMap::new(),
            exposed: BTreeMap::new(),
        })
    }

    /// Takes over what presets found.
    pub(crate) fn take_in(&mut self, findings: &Findings) {
        let Findings { problems, warnings, drains } = findings;
        self.drains = drains.clone();
        self.problems.extend(problems.iter().cloned());
        warnings.iter().cloned().for_each(|warning| self.warn(warning));
    }

    /// Whether what differs of a resource is left as it is.
    pub(crate) fn leaves(&self, resource: &str) -> bool {
        self.leave.contains(resource)
    }

    /// Finds where all paths really lie. `own`: of the revision, `store`: where its certificates are put. Two that are one
    /// place by way of a link are a problem: neither would ever be in order; and so is what an older NodeBootstrap has on
    /// this host.
    pub(crate) fn locate(
        &mut self,
        request: &Request,
        own: &[Resource],
        others: &[Rc<Begun>],
        ledger: &Ledger,
        store: Option<&Store>,
    ) {
        let mut skip = BTreeMap::new();
        let mut taken: BTreeMap<(&str, String), String> = BTreeMap::new();
        let mut parts: Vec<(String, &Part)> = Vec::new();
        let mut finder = self.host.root.finder();
        for resource in own {
            for claim in self.names(resource) {
                if let Some(other) = taken.insert(claim, resource.to_string()) {
                    self.problem(
                        resource,
                        "SameUnit",
                        format!("is the same unit as {other}: leave one of them"),
                    );
                }
            }
            let Some(path) = path_of(resource) else { continue };
            match finder.locate(&path) {
                Ok(place) if let Err(refused) = place.real.parse::<HostPath>() => {
                    let message =
                        format!("leads to {}, by way of a link on this host: {refused}", place.real);
                    self.problem(resource, "PathRefused", message);
                }
                Ok(place) if let Resource::Part(part) = resource => {
                    if let Some(other) = part_at(&parts, &place.real, resource) {
                        let message = format!(
                            "would take the place of {other} in {}, by way of a link: leave one of them",
                            place.real
                        );
                        self.problem(resource, "SamePath", message);
                    }
                    parts.push((place.real.clone(), part));
                    self.places.insert(path, place);
                }
                Ok(place) => {
                    if let Some(other) = taken.insert((PATH, place.real.clone()), resource.to_string()) {
                        let message = format!(
                            "is the same place as {other}, {}, by way of a link: leave one of them",
                            place.real
                        );
                        self.problem(resource, "SamePath", message);
                    }
                    skip.insert(place.real.clone(), skip_of(resource));
                    self.places.insert(path, place);
                }
                Err(error) => self.refused(resource, &error),
            }
        }
        self.locate_archives(own, others, ledger, &mut finder, &mut taken, &mut skip);
        for (real, part) in &parts {
            let Some(whole) = taken.get(&(PATH, real.clone())) else { continue };
            let message = if whole.starts_with(ARCHIVE) {
                format!(
                    "{real} is a file of {whole}: leave one of them, or have include leave that entry out"
                )
            } else {
                format!("would take the place of {whole} in {real}, by way of a link: leave one of them")
            };
            self.problem(part, "SamePath", message);
        }
        for other in others {
            let keeps = is_older(other, request);
            let Revision { node_bootstrap, resources, .. } = &other.revision;
            for resource in trust::with_anchors(store, node_bootstrap, resources).iter() {
                let paths = self.paths(resource, &mut finder);
                let claims = self.names(resource).into_iter();
                let claims = claims.chain(paths.own.iter().map(|path| (PATH, path.clone())));
                let whole =
                    claims.filter(|_| keeps).find_map(|claim| Some((taken.get(&claim)?.clone(), claim.1)));
                let part = || {
                    let mut own = paths.own.iter().filter(|_| keeps);
                    own.find_map(|path| Some((part_at(&parts, path, resource)?.to_string(), path.clone())))
                };
                if let Some((mine, claim)) = whole.or_else(part) {
                    let with = &other.revision.node_bootstrap;
                    let what =
                        if mine.starts_with(ARCHIVE) { format!("{claim} in it ") } else { String::new() };
                    let message = format!(
                        "{what}belongs to the NodeBootstrap {with} on this host: take it out of one of them; if {with} is gone, run nodebootstrap-agent revert {with} here, or remove {STATE_DIR}/{with} if all shall stay"
                    );
                    self.problem(mine, "Conflict", message);
                }
                if let Resource::Part(part) = resource {
                    let own = paths.own.into_iter();
                    self.parts_of_others.extend(own.map(|path| Item::Part(path, part.anchor.clone())));
                    continue;
                }
                for path in paths.own.into_iter().chain(paths.directories) {
                    skip.entry(path).or_insert(skip_of(resource));
                }
            }
        }
        self.skip = SkipList(Rc::new(skip));
    }

    /// Finds where the archives go, and what of them each path is.
    fn locate_archives(
        &mut self,
        own: &[Resource],
        others: &[Rc<Begun>],
        ledger: &Ledger,
        finder: &mut Finder<'_>,
        taken: &mut BTreeMap<(&str, String), String>,
        skip: &mut BTreeMap<String, Skip>,
    ) {
        if !own.iter().any(|resource| matches!(resource, Resource::Archive(_))) {
            return;
        }
        let mut directories = |resources: &mut dyn Iterator<Item = &Resource>| -> BTreeSet<String> {
            let paths = resources.filter(|resource| matches!(resource, Resource::Directory(_)));
            paths.filter_map(|one| finder.locate(one.name()).ok()).map(|place| place.real).collect()
        };
        let mut named = directories(&mut own.iter());
        let of_others = directories(&mut others.iter().flat_map(|other| &other.revision.resources));
        for resource in own {
            let Resource::Archive(archive) = resource else { continue };
            let mut located = match archive::locate(self.host, archive, |path| finder.locate(path)) {
                Ok(located) => located,
                Err((reason, message)) => {
                    // Also where its directory can be found, and something in it not.
                    let real = archive::directory(archive, |path| finder.locate(path)).ok();
                    let written = archive.into.to_string();
                    self.unread
                        .extend(real.map(|into| into.parent().to_owned()).into_iter().chain([written]));
                    self.problem(resource, reason, message);
                    continue;
                }
            };
            for real in located.directories().filter(|real| !named.contains(*real)) {
                // What has no entry as a directory is to be something else there.
                let Some(other) = taken.get(&(PATH, real.to_owned())) else { continue };
                let message = format!(
                    "{real} in it is a directory, and {other} is to be there: leave one of them, or have include leave that entry out"
                );
                self.problem(resource, "SamePath", message);
            }
            located.keep_own_directories(ledger, &named, &of_others);
            if located.placed.is_none() {
                self.unread.push(located.directory().to_owned());
            }
            let mut told = BTreeSet::new();
            for real in located.own() {
                let before = taken.insert((PATH, real.to_owned()), resource.to_string());
                let before = before
                    .or_else(|| named.contains(real).then(|| "a directory of another archive".to_owned()));
                if let Some(other) = before.filter(|other| told.insert(other.clone())) {
                    let message = format!(
                        "{real} in it is the same place as {other}: leave one of them, or have include leave that entry out"
                    );
                    self.problem(resource, "SamePath", message);
                }
                skip.insert(real.to_owned(), Skip::Entry);
            }
            for real in located.directories() {
                named.insert(real.to_owned());
                skip.insert(real.to_owned(), Skip::Entry);
            }
            self.archives.insert(archive.name.to_string(), Rc::new(located));
        }
    }

    /// Where a resource of another NodeBootstrap really lies. What cannot be found is not there to be left alone.
    fn paths(&self, resource: &Resource, finder: &mut Finder<'_>) -> Paths {
        if let Resource::Archive(archive) = resource {
            let located = archive::locate(self.host, archive, |path| finder.locate(path)).ok();
            let paths = |located: Located| Paths {
                own: located.own().map(str::to_owned).collect(),
                directories: located.directories().map(str::to_owned).collect(),
            };
            return located.map(paths).unwrap_or_default();
        }
        let place = path_of(resource).and_then(|path| finder.locate(&path).ok());
        Paths { own: place.into_iter().map(|place| place.real).collect(), directories: Vec::new() }
    }

    /// Where an archive goes; `None`: there is a problem with it.
    pub(crate) fn archive(&self, archive: &crds::revision::Archive) -> Option<Rc<Located>> {
        self.archives.get(archive.name.as_str()).cloned()
    }

    /// The things of the ledger that a resource claims; `None`: they are not known yet.
    pub(crate) fn items(&self, resource: &Resource) -> Option<BTreeSet<Item>> {
        match resource {
            Resource::Archive(archive) => self
                .archive(archive)
                .filter(|located| located.placed.is_some())
                .map(|one| one.items().collect()),
            other => Some(removal::claims(std::slice::from_ref(other), |path| self.real(path))),
        }
    }

    /// What the archives claim.
    pub(crate) fn archive_items(&self) -> impl Iterator<Item = Item> {
        self.archives.values().flat_map(|located| located.items())
    }

    /// Whether something may be part of an archive that nobody has read yet.
    pub(crate) fn is_unread(&self, item: &Item) -> bool {
        let Item::Path(path) = item else { return false };
        self.unread.iter().any(|directory| is_below(path, directory))
    }

    /// What a resource claims by name; of a unit its own name, where it was named by an alias.
    fn names(&self, resource: &Resource) -> Vec<(&'static str, String)> {
        let claims = resource.claims().into_iter().filter(|(kind, _)| *kind != PATH);
        let own = |(kind, name): (&'static str, String)| match (resource, self.units.get(&name)) {
            (Resource::Unit(_), Some(state)) if !state.id.is_empty() => (kind, state.id.clone()),
            _ => (kind, name),
        };
        claims.map(own).collect()
    }

    pub(crate) fn place(&self, path: &str) -> Option<Place> {
        self.places.get(path).cloned()
    }

    pub(crate) fn skip(&self) -> SkipList {
        self.skip.clone()
    }

    /// Adds a step, or leaves what it would change; whether it was added.
    pub(crate) fn step(&mut self, change: Change, action: Action) -> bool {
        // What lies below a directory that is missing, and is left so, is left with it.
        let below = action.parts().iter().any(|part| match part {
            Action::MakeDirectory { path, .. }
            | Action::WriteFile { path, .. }
            | Action::Link { path, .. }
            | Action::UnpackFile { path, .. }
            | Action::Download { path, .. } => self.missing.iter().any(|missing| is_below(path, missing)),
            _ => false,
        });
        if below || self.leave.contains(&change.resource) {
            if let Action::MakeDirectory { path, .. } = action {
                self.missing.push(path);
            }
            self.left.push(change);
            return false;
        }
        self.steps.push(Step { change, action, undoes: None });
        true
    }

    /// Has recursive changes leave a path alone.
    pub(crate) fn pass_over(&mut self, path: String) {
        Rc::make_mut(&mut self.skip.0).entry(path).or_insert(Skip::Entry);
    }

    /// A step after which an entry of the ledger is done with. Recursive changes leave what it is about alone.
    pub(crate) fn undo(&mut self, item: &Item, change: Change, action: Action) -> Step {
        if let (Item::Path(path), false) = (item, matches!(action, Action::Leave)) {
            self.pass_over(path.clone());
        }
        Step { change, action, undoes: Some(item.clone()) }
    }

    /// Whether recursive changes of this NodeBootstrap reach a path.
    pub(crate) fn is_swept(&self, path: &str) -> bool {
        let mut skips = self.skip.0.iter();
        !skips.any(|(other, skip)| path == other || (*skip == Skip::All && is_below(path, other)))
    }

    /// Whether another NodeBootstrap has a thing that this one does not name.
    pub(crate) fn is_of_others(&self, item: &Item) -> bool {
        match item {
            Item::Path(path) => self.skip.0.contains_key(path),
            part => self.parts_of_others.contains(part),
        }
    }

    /// Whether what was at a path before is kept, unharmed.
    pub(crate) fn has_prior(&self, digest: Sha256) -> bool {
        self.host.state.has_prior(self.node_bootstrap, digest).unwrap_or(false)
    }

    /// Where a path of the revision really lies.
    pub(crate) fn real(&self, path: &str) -> Option<String> {
        self.places.get(path).map(|place| place.real.clone())
    }

    /// Notes why something cannot be had. Of what is left as it is, that is one more way in which it differs.
    pub(crate) fn problem(&mut self, resource: impl fmt::Display, reason: &'static str, message: String) {
        let resource = resource.to_string();
        if self.leave.contains(&resource) {
            self.left.push(Change {
                change: message.clone(),
                found: message,
                resource,
                disruption: Disruption::None,
            });
            return;
        }
        self.problems.push(Problem { resource, reason, message });
    }

    pub(crate) fn refused(&mut self, resource: impl fmt::Display, error: &HostError) {
        let message = match error {
            HostError::NotADirectory { path, step, found }
                if self.host.root.locate(step).is_ok_and(|place| self.is_own(&place)) =>
            {
                format!("{step} is {found}, but {path} needs a directory there: {MADE_EARLIER}")
            }
            error => error.to_string(),
        };
        self.problem(resource, error.reason(), message);
    }

    /// Whether this NodeBootstrap has once made a thing other than it was.
    pub(crate) fn has_changed(&self, item: &Item) -> bool {
        self.ledger.get(item).is_some_and(|entry| entry.prior().is_some())
    }

    /// Whether an earlier revision put there what lies at a place, and nobody has changed it since.
    pub(crate) fn is_own(&self, place: &Place) -> bool {
        let item = Item::Path(place.real.clone());
        let Some(entry) = self.ledger.get(&item).filter(|entry| !entry.given_up && !entry.shared) else {
            return false;
        };
        let found = items::look(self.host, &self.accounts, self.units, &item);
        found.is_ok_and(|now| entry.is_ours(&now) && entry.prior().is_some_and(|prior| !prior.is_alike(&now)))
    }

    /// What is said of a place that has something else than what shall be there.
    pub(crate) fn occupied(&self, place: &Place, found: Kind, wanted: Kind) -> String {
        let remedy = match (found, wanted) {
            _ if self.is_own(place) => MADE_EARLIER,
            (Kind::Link, Kind::File) => {
                "remove the link, or name the path that it leads to; nothing is deleted"
            }
            (_, Kind::Directory) => "move it away, or name the path that is meant; nothing is deleted",
            _ => "move it away, or choose another path; nothing is deleted",
        };
        format!("is {}, expected {}: {remedy}", found.words(), wanted.words())
    }

    pub(crate) fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// The numbers behind an access; a problem if a name has none.
    pub(crate) fn ids(&mut self, resource: impl fmt::Display, access: &Access) -> Option<Ids> {
        let uid = self.uid(&access.owner);
        let gid = self.gid(&access.group);
        if uid.is_none() {
            let message =
                format!("its owner {} is neither on this host nor in users: add it there", access.owner);
            self.problem(&resource, "NoSuchUser", message);
        }
        if gid.is_none() {
            let message =
                format!("its group {} is neither on this host nor in groups: add it there", access.group);
            self.problem(&resource, "NoSuchGroup", message);
        }
        Some(Ids { uid: uid?, gid: gid?, mode: access.mode.bits() })
    }

    fn uid(&self, owner: &AccountRef) -> Option<u32> {
        match owner.as_str() {
            // True on every host, also where its root has no account files.
            "root" => Some(0),
            name => name.parse().ok().or_else(|| self.accounts.user(name).map(|user| user.uid)),
        }
    }

    pub(crate) fn gid(&self, group: &AccountRef) -> Option<u32> {
        match group.as_str() {
            "root" => Some(0),
            name => name.parse().ok().or_else(|| self.accounts.group(name)),
        }
    }

    /// `owner:group mode`, by name.
    pub(crate) fn shown(&self, ids: Ids) -> String {
        format!("{} {:04o}", self.shown_owner((ids.uid, ids.gid)), ids.mode)
    }

    pub(crate) fn shown_owner(&self, (uid, gid): (u32, u32)) -> String {
        format!("{}:{}", self.accounts.user_name(uid), self.accounts.group_name(gid))
    }

    /// How owner, group and mode differ: the changes, and what was found. Empty if they do not.
    pub(crate) fn differences(&self, is: &Meta, ids: Ids) -> Differences {
        let mut differences = Differences::default();
        if is.uid != ids.uid {
            let (old, new) = (self.accounts.user_name(is.uid), self.accounts.user_name(ids.uid));
            differences.add(format!("owner {old} to {new}"), format!("belonged to {old}"));
        }
        if is.gid != ids.gid {
            let (old, new) = (self.accounts.group_name(is.gid), self.accounts.group_name(ids.gid));
            differences.add(format!("group {old} to {new}"), format!("belonged to the group {old}"));
        }
        if is.mode != ids.mode {
            differences.add(
                format!("mode {:04o} to {:04o}", is.mode, ids.mode),
                format!("had mode {:04o}", is.mode),
            );
        }
        differences
    }

    /// Whether the directory that a place lies in is there, or will be. Folders that systemd reads are nobody's to list:
    /// steps are added for them. So are those of the trust store, and of the kubelet's drop-ins.
    pub(crate) fn has_parent(&mut self, place: &Place) -> bool {
        if READ_AT_BOOT
            .iter()
            .chain(&ANCHORS)
            .chain([&CONFIG_DIR])
            .any(|folder| is_below(&place.real, folder))
        {
            self.make_parents(place, &place.real);
        }
        self.will_have_parent(place)
    }

    /// The same, with nothing added.
    pub(crate) fn will_have_parent(&self, place: &Place) -> bool {
        place.missing_paths().iter().all(|path| self.made.contains(path))
    }

    /// Has a directory get this at once that a step makes for what lies below; whether there is one.
    pub(crate) fn makes_with(&mut self, real: &str, wanted: Ids) -> bool {
        let shown = self.shown(wanted);
        let made = self.steps.iter_mut().find_map(|step| match &mut step.action {
            Action::MakeDirectory { path, ids } if path == real => Some((ids, &mut step.change)),
            _ => None,
        });
        let Some((ids, change)) = made else { return false };
        *ids = wanted;
        let words = change.change.rsplit_once(", ").map_or(change.change.as_str(), |(words, _)| words);
        change.change = format!("{words}, {shown}");
        true
    }

    /// Adds steps for the directories above a place that are missing. They belong to root, or get, below a recursive
    /// directory, what that gives to its inside.
    pub(crate) fn make_parents(&mut self, place: &Place, wanted_by: &str) {
        for path in place.missing_paths() {
            if self.made.contains(&path) {
                continue;
            }
            let ids = self.inherited(&path).unwrap_or_default().ids(Kind::Directory, PARENT_MODE);
            let change = Change {
                resource: format!("directory {path}"),
                change: format!("create above {wanted_by}, {}", self.shown(ids)),
                found: "was missing".to_owned(),
                disruption: Disruption::None,
            };
            self.will_have_directory(&path);
            self.step(change, Action::MakeDirectory { path, ids });
        }
    }

    /// Notes what a directory will have, before anything is planned that depends on it.
    pub(crate) fn announce(&mut self, real: &str, ids: Ids, inside: Option<Inside>) {
        self.owners.insert(real.to_owned(), ids);
        if let Some(inside) = inside {
            self.recursive.insert(real.to_owned(), inside);
        }
    }

    pub(crate) fn announced(&self, real: &str) -> Option<Ids> {
        self.owners.get(real).copied()
    }

    /// Notes that a directory is there, or will be.
    pub(crate) fn will_have_directory(&mut self, real: &str) {
        self.made.insert(real.to_owned());
    }

    /// What an entry gets that is inside recursive directories: of the nearest above, as its entry says.
    pub(crate) fn inherited(&self, real: &str) -> Option<Inside> {
        self.recursion(real).map(|(_, inside)| inside)
    }

    /// The nearest recursive directory above, and what all gets that is inside.
    pub(crate) fn recursion(&self, real: &str) -> Option<(String, Inside)> {
        let nearest = self.recursive.iter().rev().find(|(top, _)| is_below(real, top));
        nearest.map(|(top, inside)| (top.clone(), *inside))
    }

    /// Takes out what is reached by a link that this very plan gives into a user's hands: it could never be verified.
    pub(crate) fn check_links(&mut self, resources: &[Resource]) {
        for resource in resources {
            if let Resource::Archive(archive) = resource {
                let Some(located) = self.archive(archive) else { continue };
                if let Some(error) = located.places().find_map(|place| self.unsafe_link(place)) {
                    self.archives.remove(archive.name.as_str());
                    self.unread.push(located.directory().to_owned());
                    self.refused(resource, &error);
                }
                continue;
            }
            let Some(path) = path_of(resource) else { continue };
            if let Some(error) = self.places.get(&path).and_then(|place| self.unsafe_link(place)) {
                self.places.remove(&path);
                self.refused(resource, &error);
            }
        }
    }

    /// A link on the way to a place that will be in a user's hands.
    fn unsafe_link(&self, place: &Place) -> Option<HostError> {
        place.links().iter().find_map(|followed| {
            let mut directory = followed.directory_meta;
            let mut link = followed.link;
            if let Some(inside) = self.inherited(&followed.path) {
                (link.uid, link.gid) = inside.owner();
            }
            if let Some(ids) = self.owners.get(&followed.directory) {
                (directory.uid, directory.gid, directory.mode) = (ids.uid, ids.gid, ids.mode);
            } else if let Some(inside) = self.inherited(&followed.directory) {
                let ids = inside.ids(Kind::Directory, directory.mode);
                (directory.uid, directory.gid, directory.mode) = (ids.uid, ids.gid, ids.mode);
            }
            let writer = directory.writer(Some(&link))?;
            Some(HostError::UnsafeLink {
                link: followed.path.clone(),
                directory: followed.directory.clone(),
                who: format!("{writer}, as this spec has it,"),
            })
        })
    }

    /// Notes that what is root's lies where a user can replace it.
    pub(crate) fn note_exposure(&mut self, resource: impl fmt::Display, place: &Place, ids: Ids) {
        if ids.uid != 0 {
            return;
        }
        let parent = place.parent().to_owned();
        let ancestors = place
            .ancestors()
            .map(|(path, uid)| (path.to_owned(), uid))
            .chain(place.missing_paths().into_iter().map(|path| (path, 0)));
        let mut owned = None;
        for (path, uid) in ancestors {
            let inherited = self.inherited(&path).map(|inside| inside.uid);
            let uid = self.owners.get(&path).map(|ids| ids.uid).or(inherited).unwrap_or(uid);
            if uid != 0 {
                owned = Some((path, uid));
            }
        }
        if let Some((path, uid)) = owned {
            debug_assert!(is_below(&parent, &path) || parent == path);
            self.exposed.entry(path).or_insert_with(|| (uid, Vec::new())).1.push(resource.to_string());
        }
    }

    /// Adds what was noted to the warnings, once for each directory.
    pub(crate) fn warn_of_exposure(&mut self) {
        for (path, (uid, resources)) in std::mem::take(&mut self.exposed) {
            let user = self.accounts.user_name(uid);
            let first = resources.first().cloned().unwrap_or_default();
            let what = match resources.len() {
                1 => format!("{first} belongs to root but lies"),
                more => format!("{first} and {} more belong to root but lie", more - 1),
            };
            self.warn(format!(
                "{what} below {path}, which belongs to {user}: {user} can put something else there"
            ));
        }
    }
}

/// How something differs from what it shall be.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Differences {
    changes: Vec<String>,
    found: Vec<String>,
}

impl Differences {
    pub(crate) fn add(&mut self, change: String, found: String) {
        self.changes.push(change);
        self.found.push(found);
    }

    pub(crate) fn extend(&mut self, other: Differences) {
        self.changes.extend(other.changes);
        self.found.extend(other.found);
    }

    /// Adds extended attributes that give somebody more than the mode says. What becomes of them is added by
    /// [`Differences::lose`].
    pub(crate) fn find_grants(&mut self, grants: &[&str]) {
        if !grants.is_empty() {
            self.found.push(format!("had extended attributes: {}", grants.join(", ")));
        }
    }

    /// Adds what goes with the change.
    pub(crate) fn lose(&mut self, loss: &file::Loss) {
        self.changes.extend(loss.words());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(crate) fn change(&self, resource: impl fmt::Display) -> Change {
        Change {
            resource: resource.to_string(),
            change: self.changes.join(", "),
            found: self.found.join(", "),
            disruption: Disruption::None,
        }
    }
}

/// The first of these parts that would get in the way of what a resource does with the file at a path.
fn part_at<'a>(parts: &[(String, &'a Part)], real: &str, resource: &Resource) -> Option<&'a Part> {
    let mut here = parts.iter().filter(|(path, _)| path == real).map(|(_, part)| *part);
    here.find(|part| !matches!(resource, Resource::Part(other) if !other.touches(part)))
}

/// The real paths of a resource of another NodeBootstrap: those that nobody else can have, and directories.
#[derive(Default)]
struct Paths {
    own: Vec<String>,
    directories: Vec<String>,
}

/// How the names of archives begin.
const ARCHIVE: &str = "archive ";

/// The paths by which drift of a resource is noticed.
pub(crate) fn watched(host: &Host, resource: &Resource) -> Vec<String> {
    match resource {
        Resource::Archive(archive) => archive::watched(host, archive),
        other => path_of(other).into_iter().collect(),
    }
}

/// The path that a resource manages, or a part of what lies there.
pub(crate) fn path_of(resource: &Resource) -> Option<String> {
    match resource {
        Resource::Group(_)
        | Resource::User(_)
        | Resource::Module(_)
        | Resource::Sysctl(_)
        | Resource::Archive(_)
        | Resource::CaBundle(_)
        | Resource::NoSwap(_) => None,
        Resource::Directory(_) | Resource::File(_) | Resource::Binary(_) | Resource::Symlink(_) => {
            Some(resource.name().to_owned())
        }
        Resource::Part(part) => Some(part.path.to_string()),
        Resource::Unit(unit) => unit.content.as_ref().map(|_| crds::revision::Unit::path_of(&unit.name)),
    }
}

/// Whether another NodeBootstrap keeps what both claim: the one that was created first, as the operator has it. What was
/// applied by hand, by whoever stands before the machine, has no age: it keeps what it has, and takes nothing.
fn is_older(other: &Begun, mine: &Request) -> bool {
    other.created.is_empty()
        || mine.created.is_empty()
        || (&other.created, &other.revision.node_bootstrap) < (&mine.created, &mine.revision.node_bootstrap)
}

fn skip_of(resource: &Resource) -> Skip {
    match resource {
        Resource::Directory(directory) if directory.recursive => Skip::All,
        _ => Skip::Entry,
    }
}

/// Whether a path lies below a directory.
pub(crate) fn is_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_programs_say_shows_no_secret() {
        let values = [
            ("a", "EXTRA=--v=hunter2-s3cr3t\n"),
            ("b", "tok1\n"),
            ("c", "ab/s3cr3t-is-public"),
            ("d", "pässword\n  täx\n"),
        ];
        let values = values.map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec()));
        let payload = Payload::from(BTreeMap::from(values));
        let revision = serde_json::from_value(serde_json::json!({
            "format": 1, "presetVersion": 1, "nodeBootstrap": "s3cr3t-is-public", "uid": "", "cluster": "", "resources": []
        }))
        .expect("a revision");
        for (said, shown) in [
            (
                "invalid argument \"hunter2-s3cr3t\" for \"-v\" flag",
                "invalid argument \"(secret)\" for \"-v\" flag",
            ),
            ("tok1, ab and hunter2", "(secret), ab and hunter2"),
            ("pässword or tok1tok1", "(secret) or (secret)"),
            ("", ""),
            ("short", "short"),
            ("of s3cr3t-is-public", "of s3cr3t-is-public"),
        ] {
            assert_eq!(payload.hide(said, &revision), shown);
        }
    }
}
