//! The ledger: what one NodeBootstrap made on this host, and what was there before. Pure.
//!
//! In: what was found, and what is about to be made. Out: for each thing its [`Provenance`], from which a removal knows
//! what to put back. An entry is written down before the first change of a run and settled after the last; of a run that
//! was killed between, the host itself tells how far it came: each thing is as it was found, or as it was to be made.

use std::collections::{BTreeMap, BTreeSet};

use crds::Sha256;
use crds::revision::Anchor;
use serde::{Deserialize, Serialize};

use crate::host::Kind;
use crate::host::accounts::User;
use crate::host::write::{CAPABILITY, GRANTS, Ids, Inside};
use crate::resource::is_below;

/// The format that this build writes. One with a higher number is refused, not misread.
pub const FORMAT: u32 = 1;

/// One thing on the host that can be put back by itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Item {
    /// A group, by name.
    Group(String),
    /// A user, by name.
    User(String),
    /// Whether a user is a member of a group: both by name.
    Member(String, String),
    /// The comment of a user.
    Comment(String),
    /// Whether the password of a user is locked.
    Locked(String),
    /// The value of a setting of the running kernel.
    Sysctl(String),
    /// What lies at a path, links resolved.
    Path(String),
    /// A part of the file at a path, links resolved.
    Part(String, Anchor),
    /// Owner, group and mode of all that is inside a directory.
    Inside(String),
    /// Whether nothing can start a unit. Comes before the next: a unit that is masked cannot be enabled.
    Masked(String),
    /// Whether a unit starts at boot.
    Enabled(String),
    /// Whether a unit runs.
    Active(String),
}

/// How a thing is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Shape {
    /// Not there.
    Absent,
    /// A group with this number.
    Group(u32),
    /// A user.
    User(User),
    /// A directory.
    Directory(Ids),
    /// A file; of its content only the digest, the content itself is kept as a prior.
    File {
        /// Owner, group, mode.
        ids: Ids,
        /// The digest of its content.
        digest: Sha256,
        /// Its extended attributes, as hexadecimal digits.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        attributes: BTreeMap<String, String>,
    },
    /// A symbolic link.
    Link {
        /// What it leads to.
        target: String,
        /// The user and the group that own it.
        owner: (u32, u32),
    },
    /// What is inside a directory has this owner and group.
    Owned(u32, u32),
    /// What is inside a directory has this owner, group and modes.
    Given(Inside),
    /// What was inside a directory, by real path, as it was before each got another owner or mode.
    Owners(BTreeMap<String, Before>),
    /// A comment, the value of a setting, or the lines of a part of a file.
    Text(String),
    /// Whether it is so.
    Is(bool),
    /// Something that is never made or replaced: a device.
    Other,
}

/// How an entry inside a directory was before it got another owner or mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Before {
    /// Owner, group, mode.
    #[serde(flatten)]
    pub ids: Ids,
    /// Of a file with set-uid or set-gid bits, or capabilities, the digest of its content: only with that content it gets
    /// them back, since its owner between may have written anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Sha256>,
    /// Its capabilities, as hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capability: Option<String>,
}

/// The bits by which a program runs as another user or group than the one that starts it.
const SET_IDS: u32 = 0o6000;

impl Before {
    /// As something was that is found so.
    pub fn of(ids: Ids, shape: &Shape) -> Self {
        let Shape::File { digest, attributes, .. } = shape else {
            return Self { ids, digest: None, capability: None };
        };
        let capability = attributes.get(CAPABILITY).cloned();
        let loses = capability.is_some() || ids.mode & SET_IDS != 0;
        Self { ids, digest: loses.then_some(*digest), capability }
    }

    /// Another one knows more of it: how it was `first`. What rights it has that the other does not know are its own.
    pub fn was(&mut self, first: Self) {
        self.ids = first.ids;
        if first.digest.is_some() {
            (self.digest, self.capability) = (first.digest, first.capability);
        }
    }

    /// What it has inside a recursive directory: with another owner no more than chown leaves it.
    #[must_use]
    pub fn inside(self, kind: Kind, inside: Inside) -> Self {
        let same_owner = (self.ids.uid, self.ids.gid) == inside.owner();
        let given = Self { ids: inside.ids(kind, self.ids.mode), ..self };
        if same_owner { given } else { given.without_rights(kind) }
    }

    #[must_use]
    fn without_rights(mut self, kind: Kind) -> Self {
        if kind == Kind::File {
            self.ids.mode &= !SET_IDS;
        }
        Self { digest: None, capability: None, ..self }
    }
}

impl Shape {
    /// Owner, group and mode of a file or directory; of a link, which has no mode of its own, that which every link has.
    pub fn ids(&self) -> Option<Ids> {
        match self {
            Self::Directory(ids) | Self::File { ids, .. } => Some(*ids),
            Self::Link { owner: (uid, gid), .. } => Some(Ids { uid: *uid, gid: *gid, mode: 0o777 }),
            _ => None,
        }
    }

    /// What kind of entry it is; `None`: none of a file system, or one that is never made.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::Directory(_) => Some(Kind::Directory),
            Self::File { .. } => Some(Kind::File),
            Self::Link { .. } => Some(Kind::Link),
            _ => None,
        }
    }

    /// That what is inside a directory has this.
    fn given(inside: Inside) -> Self {
        match inside {
            Inside { uid, gid, file_mode: None, directory_mode: None } => Self::Owned(uid, gid),
            inside => Self::Given(inside),
        }
    }

    /// What all that is inside a directory has.
    fn inside(&self) -> Option<Inside> {
        match self {
            Self::Owned(uid, gid) => Some(Inside { uid: *uid, gid: *gid, ..Inside::default() }),
            Self::Given(inside) => Some(*inside),
            _ => None,
        }
    }

    /// Whether both are the same but for extended attributes, some of which a change of owner or mode takes with it.
    pub fn is_alike(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File { ids, digest, .. }, Self::File { ids: others, digest: of_other, .. }) => {
                (ids, digest) == (others, of_other)
            }
            _ => self == other,
        }
    }

    /// Whether both are alike, and give others the same.
    fn is_as(&self, other: &Self) -> bool {
        let grants = |shape: &Self, name| match shape {
            Self::File { attributes, .. } => attributes.get(name).cloned(),
            _ => None,
        };
        self.is_alike(other) && GRANTS.iter().all(|name| grants(self, *name) == grants(other, *name))
    }

    /// Whether it is what a run leaves that is killed while it makes one of another: owner, group and mode come one after
    /// the other, and a change of owner takes set-uid and set-gid bits with it.
    fn is_between(&self, one: &Self, other: &Self) -> bool {
        if self.is_alike(one) || self.is_alike(other) {
            return true;
        }
        let same_content = match (self, one, other) {
            (Self::Directory(_), Self::Directory(_), Self::Directory(_)) => true,
            (
                Self::File { digest, .. },
                Self::File { digest: first, .. },
                Self::File { digest: second, .. },
            ) => digest == first || digest == second,
            _ => false,
        };
        let (Some(now), Some(first), Some(last)) = (self.ids(), one.ids(), other.ids()) else {
            return false;
        };
        let mode = |mode: u32| now.mode == mode || now.mode == mode & !0o6000;
        same_content
            && (now.uid == first.uid || now.uid == last.uid)
            && (now.gid == first.gid || now.gid == last.gid)
            && (mode(first.mode) || mode(last.mode))
    }

    /// Makes it what it was before a recursive change: a file gets its set-uid and set-gid bits and its capabilities only
    /// with the content that had them.
    pub fn give_before(&mut self, before: Before) {
        let Some(kind) = self.kind() else { return };
        match self {
            Self::File { ids, digest, attributes } if before.digest == Some(*digest) => {
                *ids = before.ids;
                attributes.extend(before.capability.map(|value| (CAPABILITY.to_owned(), value)));
            }
            _ if before.digest.is_some() => self.give(before.without_rights(kind).ids),
            _ => self.give(before.ids),
        }
    }

    /// Gives a file or directory owner, group and mode; a link has no mode of its own.
    pub fn give(&mut self, new: Ids) {
        match self {
            Self::Directory(ids) | Self::File { ids, .. } => *ids = new,
            Self::Link { owner, .. } => *owner = (new.uid, new.gid),
            _ => {}
        }
    }
}

/// Where a thing comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Provenance {
    /// It was not there.
    Created,
    /// It was there as it shall be: it is never taken away.
    Adopted,
    /// It was there, and different.
    Modified(Shape),
}

/// What is known of one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Where it comes from.
    pub provenance: Provenance,
    /// What was, or is to be, made of it.
    pub made: Shape,
    /// Whether that was done. If not, the host tells.
    pub done: bool,
    /// How it was found before that, until it is done: what an earlier run made of it, if this one was killed or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<Shape>,
    /// Its content is, or was once, a secret value: it is never shown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secret: bool,
    /// Given up: what was made stays, unless it is claimed again or put back by hand.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub given_up: bool,
    /// A directory that another NodeBootstrap made, and something of this one lies below: whoever is taken off last removes
    /// it. All else about it is the other's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    /// Units that were restarted when its content changed; they run with what is put back only after another restart.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub restart: BTreeSet<String>,
}

impl Entry {
    /// How it was before; `None`: as it is now.
    pub fn prior(&self) -> Option<&Shape> {
        match &self.provenance {
            Provenance::Created => Some(&Shape::Absent),
            Provenance::Adopted => None,
            Provenance::Modified(prior) => Some(prior),
        }
    }

    /// As what it is known: what a run takes away is what it was.
    pub fn shape(&self) -> &Shape {
        let was = self.was.as_ref().filter(|_| self.made == Shape::Absent);
        was.unwrap_or(&self.made)
    }

    /// Whether it is a directory that was not there before.
    pub fn is_new_directory(&self) -> bool {
        self.provenance == Provenance::Created && matches!(self.made, Shape::Directory(_))
    }

    /// Whether what is found is what a run of ours left: as it was before, as it was made, or, where that takes more than
    /// one step, between the two.
    pub fn is_ours(&self, found: &Shape) -> bool {
        let mut before = self.prior().into_iter().chain(&self.was);
        found.is_alike(&self.made) || before.any(|before| found.is_between(before, &self.made))
    }

    /// Whether what is inside a directory was given to this owner, by this run or the one before.
    pub fn gave(&self, owner: (u32, u32)) -> bool {
        self.given().any(|inside| inside.owner() == owner)
    }

    /// Whether what is of this kind inside a directory was given this mode, by this run or the one before; `None`: it was
    /// given none.
    pub fn gave_mode(&self, kind: Kind, mode: u32) -> Option<bool> {
        let modes: Vec<u32> = self.given().filter_map(|inside| inside.mode(kind)).collect();
        (!modes.is_empty()).then(|| modes.contains(&mode))
    }

    /// Whether what is inside a directory was given a mode.
    pub fn gave_modes(&self) -> bool {
        self.given().any(|inside| inside.file_mode.is_some() || inside.directory_mode.is_some())
    }

    fn given(&self) -> impl Iterator<Item = Inside> {
        [Some(&self.made), self.was.as_ref()].into_iter().flatten().filter_map(Shape::inside)
    }

    /// What a path inside a directory had before this entry gave it what it has `now`: of owner and mode what nobody has
    /// changed since. Its set-uid bits and capabilities only if both are as before, and only with the content that it had:
    /// its owner between may have written anything, and given it bits of their own. `None`: as it is now.
    fn before(&self, path: &str, kind: Kind, now: Ids) -> Option<Before> {
        let Provenance::Modified(Shape::Owners(owners)) = &self.provenance else { return None };
        let before = owners.get(path)?;
        let mut first = now;
        if self.gave((now.uid, now.gid)) {
            (first.uid, first.gid) = (before.ids.uid, before.ids.gid);
        }
        if self.gave_mode(kind, now.mode) == Some(true) {
            first.mode = before.ids.mode;
        }
        let bits = if kind == Kind::File { SET_IDS } else { 0 };
        let plain = |ids: Ids| Ids { mode: ids.mode & !bits, ..ids };
        let has_all = now == before.ids && before.capability.is_none();
        if before.digest.is_some() && plain(first) == plain(before.ids) && !has_all {
            return Some(before.clone());
        }
        if first != now {
            first = plain(first);
        }
        (first != now).then_some(Before { ids: first, digest: None, capability: None })
    }
}

/// What one NodeBootstrap made on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The cluster's id; empty: a bare machine.
    pub cluster: String,
    entries: BTreeMap<Item, Entry>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
    sha256: Sha256,
}

#[derive(Serialize, Deserialize)]
struct Body {
    cluster: String,
    entries: Vec<(Item, Entry)>,
}

/// Why a ledger cannot be used, and what to do.
pub(crate) fn unusable(cause: &str) -> String {
    format!(
        "{cause}: restore it from a backup, or remove it, and all that is on this host now counts as having been there before"
    )
}

impl Ledger {
    /// One that knows nothing yet.
    pub fn of(cluster: &str) -> Self {
        Self { cluster: cluster.to_owned(), ..Self::default() }
    }

    /// Reads a ledger: a line with format and digest, then one with all entries.
    ///
    /// # Errors
    /// In words, if it is damaged or of a newer format.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        Self::parse(bytes).map_err(|(cause, is_newer)| match is_newer {
            true => format!("{cause}: use the agent that wrote it"),
            false => unusable(&cause),
        })
    }

    fn parse(bytes: &[u8]) -> Result<Self, (String, bool)> {
        let damaged = |error: serde_json::Error| (error.to_string(), false);
        let end = bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or(("its first line has no end".to_owned(), false))?;
        let (head, rest) = bytes.split_at(end);
        let format: serde_json::Value = serde_json::from_slice(head).map_err(damaged)?;
        match format.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if format == u64::from(FORMAT) => {}
            Some(format) => {
                return Err((
                    format!("format {format} is not {FORMAT}, the one that this agent knows"),
                    true,
                ));
            }
            None => return Err(("its first line names no format".to_owned(), false)),
        }
        let head: Head = serde_json::from_slice(head).map_err(damaged)?;
        let body = &rest[1..];
        if head.sha256 != Sha256::of(body) {
            return Err(("its digest is not that of its content: it was cut or changed".to_owned(), false));
        }
        let Body { cluster, entries } = serde_json::from_slice(body).map_err(damaged)?;
        Ok(Self { cluster, entries: entries.into_iter().collect() })
    }

    /// The bytes of a ledger.
    pub fn encode(&self) -> Vec<u8> {
        let entries = self.entries.iter().map(|(item, entry)| (item.clone(), entry.clone())).collect();
        let body = Body { cluster: self.cluster.clone(), entries };
        // Only maps with keys that are no strings cannot be written; there is none.
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let head = Head { format: FORMAT, sha256: Sha256::of(&body) };
        let mut bytes = serde_json::to_vec(&head).unwrap_or_default();
        bytes.push(b'\n');
        bytes.extend(body);
        bytes
    }

    /// All entries.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = (&Item, &Entry)> {
        self.entries.iter()
    }

    /// What is known of a thing.
    pub fn get(&self, item: &Item) -> Option<&Entry> {
        self.entries.get(item)
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The digests of the contents that were there before, and before a run that is not confirmed.
    pub fn priors(&self) -> BTreeSet<Sha256> {
        let digest = |shape: &Shape| match shape {
            Shape::File { digest, .. } => Some(*digest),
            _ => None,
        };
        let before = |entry: &'_ Entry| {
            entry.prior().into_iter().chain(&entry.was).filter_map(digest).collect::<Vec<_>>()
        };
        self.entries.values().flat_map(before).collect()
    }

    /// What a run made that is not confirmed, as a ledger of its own: what was found before that run is what was there
    /// first. Owners inside recursive directories are not in it: they stay as that run made them.
    #[must_use]
    pub fn unconfirmed(&self) -> Self {
        let entry_of = |(item, entry): (&Item, &Entry)| {
            let was = entry.was.clone().filter(|_| !entry.done && !matches!(item, Item::Inside(_)))?;
            let provenance = match was {
                Shape::Absent => Provenance::Created,
                was => Provenance::Modified(was),
            };
            Some((item.clone(), Entry { provenance, was: None, given_up: false, ..entry.clone() }))
        };
        Self { cluster: self.cluster.clone(), entries: self.entries.iter().filter_map(entry_of).collect() }
    }

    /// What is not confirmed was put back as it was before that run.
    pub fn roll_back(&mut self) {
        self.entries.retain(|item, entry| {
            let is_new = !std::mem::replace(&mut entry.done, true);
            let was = entry.was.take().filter(|_| is_new && !matches!(item, Item::Inside(_)));
            // What that run only found as it was to be is nothing of ours any more.
            let Some(was) = was else { return !is_new || entry.provenance != Provenance::Adopted };
            let is_as_before_all = entry.prior().is_some_and(|prior| prior.is_as(&was));
            entry.made = was;
            !is_as_before_all
        });
    }

    /// What a run made is confirmed; what it put back is no longer ours.
    pub fn confirm(&mut self) {
        self.entries.retain(|_, entry| entry.done || entry.prior() != Some(&entry.made));
        self.settle();
    }

    /// Notes that a thing which is `found` so will be put back, in a run that may be rolled back.
    pub fn intend_back(&mut self, item: &Item, found: Shape) {
        if let Some(entry) = self.entries.get_mut(item)
            && let Some(prior) = entry.prior().cloned()
        {
            (entry.made, entry.was, entry.done) = (prior, Some(found), false);
        }
    }

    /// Notes that a thing which is `found` so will be `made` so. What was there before it was ours stays known.
    pub fn intend(&mut self, item: Item, found: Shape, made: Shape) {
        let old = self.entries.remove(&item).filter(|old| old.done || old.is_ours(&found));
        let restart = old.as_ref().map(|old| old.restart.clone()).unwrap_or_default();
        let secret = old.as_ref().is_some_and(|old| old.secret);
        let was = (found != made).then(|| found.clone());
        let provenance = match old {
            Some(Entry { provenance: Provenance::Adopted, made: adopted, .. })
                if !adopted.is_as(&made) && found != Shape::Absent =>
            {
                Provenance::Modified(self.before_recursion(&item, found))
            }
            Some(old) => old.provenance,
            None => match self.before_recursion(&item, found.clone()) {
                Shape::Absent => Provenance::Created,
                // What it has now by a recursive change it would keep, if this run is killed.
                first if first.is_as(&made) && found.is_as(&made) => Provenance::Adopted,
                first => Provenance::Modified(first),
            },
        };
        self.entries.insert(
            item,
            Entry { provenance, made, done: false, was, secret, given_up: false, shared: false, restart },
        );
    }

    /// Notes that a thing was different before, though this tells no difference: a unit is enabled by other links.
    pub fn differed(&mut self, item: &Item, found: &Shape) {
        if let Some(entry) = self.entries.get_mut(item) {
            entry.was = Some(found.clone());
            if entry.provenance == Provenance::Adopted {
                entry.provenance = Provenance::Modified(found.clone());
            }
        }
    }

    /// What is found, with the owner and mode that it had before a recursive change gave it others; from here on it has an
    /// entry of its own.
    fn before_recursion(&mut self, item: &Item, mut found: Shape) -> Shape {
        if let (Item::Path(path), Some(kind), Some(ids)) = (item, found.kind(), found.ids())
            && let Some(before) = self.take_before(path, kind, ids)
        {
            found.give_before(before);
        }
        found
    }

    /// Forgets what a path had before recursive changes; tells it, as far as nobody has changed it since.
    fn take_before(&mut self, path: &str, kind: Kind, now: Ids) -> Option<Before> {
        let mut first = None;
        for entry in self.entries.values_mut() {
            let before = entry.before(path, kind, now);
            if let Provenance::Modified(Shape::Owners(owners)) = &mut entry.provenance {
                owners.remove(path);
            }
            first = before.or(first);
        }
        first
    }

    /// Notes that what is inside a directory will get an owner, and may be modes: `found` is what differs, by real path.
    /// What has an entry of its own is remembered there.
    pub fn intend_inside(
        &mut self,
        directory: &str,
        found: BTreeMap<String, (Kind, Before)>,
        inside: Inside,
    ) {
        let item = Item::Inside(directory.to_owned());
        let old = self.entries.remove(&item);
        // A mode that was given once, and is not any more, stays where it is.
        let before = old.as_ref().and_then(|old| old.made.inside()).unwrap_or_default();
        let made = Shape::given(Inside {
            file_mode: inside.file_mode.or(before.file_mode),
            directory_mode: inside.directory_mode.or(before.directory_mode),
            ..inside
        });
        // Of two edits the first of which was not done, what the host has is the first's.
        let was = old
            .as_ref()
            .and_then(|old| if old.made == made { old.was.clone() } else { Some(old.made.clone()) });
        let mut owners = match old.map(|old| old.provenance) {
            Some(Provenance::Modified(Shape::Owners(owners))) => owners,
            _ => BTreeMap::new(),
        };
        let had_no_mode = |kind| {
            let earlier = was.as_ref().and_then(Shape::inside);
            earlier.is_some_and(|earlier| earlier.mode(kind).is_none()) && inside.mode(kind).is_some()
        };
        for (path, (kind, mut before)) in found {
            match self.entries.get_mut(&Item::Path(path.clone())).filter(|entry| !entry.shared) {
                Some(entry) => {
                    entry.was = Some(entry.made.clone());
                    let mode = entry.made.ids().map_or(before.ids.mode, |ids| ids.mode);
                    entry.made.give(inside.ids(kind, mode));
                }
                None => {
                    if let Some(first) = self.take_before(&path, kind, before.ids) {
                        before.was(first);
                    }
                    let known = owners.entry(path).or_insert_with(|| before.clone());
                    // So far it was answered for its owner alone, and whoever changed its mode did so rightly.
                    let lost = before.ids.mode == known.ids.mode & !0o6000;
                    if had_no_mode(kind) && !lost {
                        known.ids.mode = before.ids.mode;
                        // That of its capabilities stays.
                        if known.capability.is_none() {
                            known.digest = before.digest;
                        }
                    }
                }
            }
        }
        let provenance = Provenance::Modified(Shape::Owners(owners));
        let entry = Entry {
            provenance,
            made,
            done: false,
            was,
            secret: false,
            given_up: false,
            shared: false,
            restart: BTreeSet::new(),
        };
        self.entries.insert(item, entry);
    }

    /// Notes a directory that another NodeBootstrap made, as its `entry` says, and that this one needs.
    pub fn share(&mut self, item: &Item, entry: &Entry) {
        let shared = Entry { done: true, was: None, shared: true, restart: BTreeSet::new(), ..entry.clone() };
        self.entries.entry(item.clone()).or_insert(shared);
    }

    /// What a path had before a recursive directory gave it what it has now; of owner and mode what nobody has changed
    /// since.
    pub fn before(&self, path: &str, kind: Kind, now: Ids) -> Option<Before> {
        self.entries.values().find_map(|entry| entry.before(path, kind, now))
    }

    /// What was inside a directory before is remembered by the nearest of the recursive directories, whose owner and modes it
    /// gets from now on: also what they find so already. `recursive`: all that the revision has.
    pub fn hand_over(&mut self, recursive: &BTreeMap<String, Inside>) {
        for top in recursive.keys() {
            let Some(entry) = self.entries.get_mut(&Item::Inside(top.clone())) else { continue };
            let Provenance::Modified(Shape::Owners(owners)) = &mut entry.provenance else { continue };
            let nearest = |path: &str| recursive.keys().rev().find(|top| is_below(path, top));
            let is_of_another =
                |path: &String, _: &mut Before| nearest(path).is_some_and(|other| other != top);
            let moved: Vec<_> = owners.extract_if(.., is_of_another).collect();
            // Until the first run with it, what it gives is what the other one gave.
            let mut as_new = entry.clone();
            as_new.provenance = Provenance::Modified(Shape::Owners(BTreeMap::new()));
            for (path, before) in moved {
                let Some(directory) = nearest(&path) else { continue };
                self.entries.entry(Item::Inside(directory.clone())).or_insert_with(|| as_new.clone());
                self.remember_inside(directory, &path, before);
            }
        }
    }

    /// Notes what a path had before, which a recursive directory is answerable for from now on.
    pub fn remember_inside(&mut self, directory: &str, path: &str, before: Before) {
        let above = self.entries.get_mut(&Item::Inside(directory.to_owned()));
        if let Some(Entry { provenance: Provenance::Modified(Shape::Owners(owners)), .. }) = above {
            owners.entry(path.to_owned()).or_insert(before);
        }
    }

    /// Notes how a thing is that will be made of another that this run makes first.
    pub fn found_as(&mut self, item: &Item, found: Shape) {
        if let Some(entry) = self.entries.get_mut(item) {
            entry.was = Some(found);
        }
    }

    /// Notes units that are restarted when the content of a thing changes.
    pub fn restarts(&mut self, item: &Item, units: impl Iterator<Item = String>) {
        if let Some(entry) = self.entries.get_mut(item) {
            entry.restart.extend(units);
        }
    }

    /// All that was intended is done.
    pub fn settle(&mut self) {
        for entry in self.entries.values_mut() {
            (entry.done, entry.was) = (true, None);
        }
    }

    /// The content of a thing is a secret value.
    pub fn keep_secret(&mut self, item: &Item) {
        if let Some(entry) = self.entries.get_mut(item) {
            entry.secret = true;
        }
    }

    /// A thing is left as it is, but known still: by hand it can be put back later.
    pub fn leave(&mut self, item: &Item) {
        if let Some(entry) = self.entries.get_mut(item) {
            entry.given_up = true;
        }
    }

    /// A thing lies at another path from now on.
    pub fn moved(&mut self, from: &Item, to: &Item) {
        if let Some(entry) = self.entries.remove(from) {
            self.entries.entry(to.clone()).or_insert(entry);
        }
    }

    /// A thing is no longer ours: it was put back, or is left.
    pub fn release(&mut self, item: &Item) {
        self.entries.remove(item);
    }

    /// What was made stays. It is put back neither when it is not claimed any more nor with what is claimed later, unless
    /// it is claimed again itself, or asked for by hand.
    pub fn give_up(&mut self, given_up: bool) {
        self.entries.values_mut().for_each(|entry| entry.given_up = given_up);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: u8, uid: u32) -> Shape {
        let ids = Ids { uid, gid: uid, mode: 0o644 };
        Shape::File { ids, digest: Sha256::from_bytes([content; 32]), attributes: BTreeMap::new() }
    }

    fn path(path: &str) -> Item {
        Item::Path(path.to_owned())
    }

    fn provenance(ledger: &Ledger, item: &Item) -> Provenance {
        ledger.get(item).expect("known").provenance.clone()
    }

    #[test]
    fn what_was_there_first_is_what_is_put_back() {
        let mut ledger = Ledger::default();
        ledger.intend(path("/new"), Shape::Absent, file(1, 0));
        ledger.intend(path("/same"), file(1, 0), file(1, 0));
        ledger.intend(path("/other"), file(9, 7), file(1, 0));
        ledger.settle();
        // A repair, and an edit of the spec.
        for (item, found) in [("/new", Shape::Absent), ("/same", file(8, 0)), ("/other", file(8, 0))] {
            ledger.intend(path(item), found, file(1, 0));
        }
        ledger.settle();
        assert_eq!(provenance(&ledger, &path("/new")), Provenance::Created);
        assert_eq!(provenance(&ledger, &path("/same")), Provenance::Adopted);
        ledger.intend(path("/same"), file(1, 0), file(2, 0));
        ledger.intend(path("/other"), file(1, 0), file(2, 0));
        assert_eq!(provenance(&ledger, &path("/same")), Provenance::Modified(file(1, 0)));
        assert_eq!(provenance(&ledger, &path("/other")), Provenance::Modified(file(9, 7)));
    }

    #[test]
    fn what_somebody_put_where_a_killed_run_was_to_make_something_is_theirs() {
        let mut ledger = Ledger::default();
        ledger.intend(path("/f"), Shape::Absent, file(1, 0));
        let mut killed = ledger.clone();
        killed.intend(path("/f"), file(1, 0), file(1, 0));
        assert_eq!(provenance(&killed, &path("/f")), Provenance::Created, "the killed run came so far");
        ledger.intend(path("/f"), file(9, 7), file(1, 0));
        assert_eq!(provenance(&ledger, &path("/f")), Provenance::Modified(file(9, 7)));
    }

    #[test]
    fn an_edit_that_was_not_done_does_not_forget_what_was_there_first() {
        let mut ledger = Ledger::default();
        ledger.intend(path("/f"), file(9, 7), file(1, 0));
        ledger.settle();
        // The edit is killed, so that the file is still the first's; then another edit, killed too.
        ledger.intend(path("/f"), file(1, 0), file(2, 0));
        assert!(ledger.get(&path("/f")).is_some_and(|entry| entry.is_ours(&file(1, 0))));
        ledger.intend(path("/f"), file(1, 0), file(3, 0));
        ledger.intend(path("/f"), file(3, 0), file(4, 0));
        assert_eq!(provenance(&ledger, &path("/f")), Provenance::Modified(file(9, 7)));
        assert!(!ledger.get(&path("/f")).is_some_and(|entry| entry.is_ours(&file(8, 0))), "somebody else's");
    }

    #[test]
    fn each_path_has_one_memory_of_its_owner() {
        let ids = |uid| Before { ids: Ids { uid, gid: uid, mode: 0o644 }, digest: None, capability: None };
        let owners = |ledger: &Ledger| match provenance(ledger, &Item::Inside("/d".to_owned())) {
            Provenance::Modified(Shape::Owners(owners)) => owners,
            other => panic!("{other:?}"),
        };
        let mut ledger = Ledger::default();
        let to = |id| Inside { uid: id, gid: id, ..Inside::default() };
        let file_of = |path: &str, id| BTreeMap::from([(path.to_owned(), (Kind::File, ids(id)))]);
        ledger.intend_inside("/d", file_of("/d/f", 7), to(5));
        ledger.settle();
        // An entry of its own takes it over, and gives it back.
        ledger.intend(path("/d/f"), file(1, 5), file(2, 0));
        assert_eq!(provenance(&ledger, &path("/d/f")), Provenance::Modified(file(1, 7)));
        assert!(owners(&ledger).is_empty());
        ledger.release(&path("/d/f"));
        ledger.remember_inside("/d", "/d/f", ids(7));
        assert_eq!(owners(&ledger), BTreeMap::from([("/d/f".to_owned(), ids(7))]));
        // What we made ourselves is ours with another owner too.
        ledger.intend(path("/d/g"), Shape::Absent, file(1, 5));
        ledger.intend_inside("/d", file_of("/d/g", 5), to(6));
        assert_eq!(ledger.get(&path("/d/g")).map(|entry| entry.made.clone()), Some(file(1, 6)));
        assert_eq!(owners(&ledger).len(), 1);
    }

    #[test]
    fn what_stands_in_older_ledgers_is_written_still_as_it_was() {
        let owner = Inside { uid: 5, gid: 6, ..Inside::default() };
        assert_eq!(serde_json::to_string(&Shape::given(owner)).unwrap(), "{\"owned\":[5,6]}");
        let modes: Shape =
            serde_json::from_str("{\"given\":{\"uid\":5,\"gid\":6,\"fileMode\":416}}").unwrap();
        assert_eq!(modes.inside().and_then(|inside| inside.mode(Kind::File)), Some(0o640));
    }

    #[test]
    fn a_ledger_that_cannot_be_trusted_is_refused() {
        let mut ledger = Ledger { cluster: "c".to_owned(), ..Ledger::default() };
        ledger.intend(path("/f"), file(9, 7), file(1, 0));
        ledger.intend_inside("/d", BTreeMap::new(), Inside { uid: 5, gid: 5, ..Inside::default() });
        let modes = Inside { file_mode: Some(0o640), ..Inside::default() };
        ledger.intend_inside("/e", BTreeMap::new(), modes);
        let bytes = ledger.encode();
        assert_eq!(Ledger::decode(&bytes), Ok(ledger));
        for length in 0..bytes.len() {
            assert!(Ledger::decode(&bytes[..length]).is_err(), "cut to {length}");
        }
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert!(Ledger::decode(&bytes).is_err(), "changed at {at}");
        }
        let newer = String::from_utf8(bytes).unwrap().replace("{\"format\":1,", "{\"format\":2,");
        let refused = Ledger::decode(newer.as_bytes()).unwrap_err();
        assert!(refused.starts_with("format 2 is not 1"), "{refused}");
    }
}
