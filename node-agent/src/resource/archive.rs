//! Archives that are downloaded, verified and unpacked.
//!
//! In: an archive's entry, what is in it, and what the ledger knows. Out: one change for all of it that differs. What is in
//! an archive is known once it was fetched; until then the plan says so, and nothing that an older version has left in its
//! directory is touched.
//!
//! Files and links of it are claimed as if each stood in the spec. A directory is only while it is missing, or if it was
//! made here: any other is somebody else's, and stays as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crds::report::Disruption;
use crds::revision::{Access, Archive};
use crds::{HostPath, Mode};

use super::file::{Loss, missing_parent};
use super::{Action, Change, Planner};
use crate::drift;
use crate::host::archive::{Entry, Index, Refused, refused};
use crate::host::write::{Ids, check_links};
use crate::host::{Host, HostError, Kind, Place};
use crate::ledger::{Item, Ledger, Provenance, Shape};

/// What modes keep: nobody besides the owner may write.
const KEPT: u32 = 0o755;
/// The bits of programs that run as somebody else.
const SET_ID: u32 = 0o6000;

/// Where an archive goes, and what of it.
#[derive(Debug)]
pub(crate) struct Located {
    /// A place in its directory.
    pub(crate) into: Place,
    /// What is unpacked, and where; `None`: nobody has read it yet.
    pub(crate) placed: Option<Vec<Placed>>,
}

/// One thing of an archive.
#[derive(Debug)]
pub(crate) struct Placed {
    /// Its path in the archive, after what is taken off.
    path: String,
    entry: Entry,
    /// Where it lies; of a directory a place in it.
    place: Place,
}

impl Located {
    /// The real path of its directory.
    pub(crate) fn directory(&self) -> &str {
        self.into.parent()
    }

    /// The things of the ledger that it claims.
    pub(crate) fn items(&self) -> impl Iterator<Item = Item> {
        self.placed.iter().flatten().map(|placed| Item::Path(placed.real().to_owned()))
    }

    /// The real paths of its files and links: what only one can have.
    pub(crate) fn own(&self) -> impl Iterator<Item = &str> {
        self.placed.iter().flatten().filter(|placed| !placed.is_directory()).map(Placed::real)
    }

    /// The real paths of its directories.
    pub(crate) fn directories(&self) -> impl Iterator<Item = &str> {
        self.placed.iter().flatten().filter(|placed| placed.is_directory()).map(Placed::real)
    }

    /// All places of it.
    pub(crate) fn places(&self) -> impl Iterator<Item = &Place> {
        std::iter::once(&self.into).chain(self.placed.iter().flatten().map(|placed| &placed.place))
    }
}

impl Placed {
    /// Where it really lies.
    fn real(&self) -> &str {
        if self.is_directory() { self.place.parent() } else { &self.place.real }
    }

    fn is_directory(&self) -> bool {
        matches!(self.entry, Entry::Directory { .. })
    }
}

/// What of an archive is unpacked, by path below its directory.
///
/// # Errors
/// If that must not be, or is nothing.
pub(crate) fn choose(archive: &Archive, index: &Index) -> Result<BTreeMap<String, Entry>, Refused> {
    let strip = usize::try_from(archive.strip).unwrap_or(usize::MAX);
    let stripped = |path: &str| {
        let rest = path.splitn(strip.saturating_add(1), '/').nth(strip)?;
        Some(rest.to_owned())
    };
    let is_included = |path: &str| {
        archive.include.is_empty() || archive.include.iter().any(|pattern| drift::matches(pattern, path))
    };
    let mut chosen: BTreeMap<String, Entry> = BTreeMap::new();
    for (full, entry) in &index.entries {
        let Some(path) = stripped(full).filter(|path| is_included(path)) else { continue };
        let entry = match entry {
            Entry::Directory { mode } => Entry::Directory { mode: mode & KEPT },
            Entry::File { mode, .. } if mode & SET_ID != 0 && !archive.setuid => {
                return Err(refused(
                    full,
                    &format!(
                        "has mode {mode:04o}, so that it runs as its owner: write setuid: true if that is wanted"
                    ),
                ));
            }
            Entry::File { mode, size, sha256, from } => {
                Entry::File { mode: mode & (KEPT | SET_ID), size: *size, sha256: *sha256, from: from.clone() }
            }
            Entry::Link { target } => {
                if !stays(&path, target) {
                    return Err(refused(full, &format!("is a link to {target}, out of its folder")));
                }
                entry.clone()
            }
        };
        // The folders above it, as the archive has them.
        let above = |path: &str| path.match_indices('/').map(|(at, _)| at).collect::<Vec<_>>();
        for at in above(&path) {
            let mode = match index.entries.get(&full[..full.len() - path.len() + at]) {
                Some(Entry::Directory { mode }) => mode & KEPT,
                _ => KEPT,
            };
            let folder = chosen.entry(path[..at].to_owned()).or_insert(Entry::Directory { mode });
            if !matches!(folder, Entry::Directory { .. }) {
                return Err(refused(full, &format!("lies below {}, which is no directory", &path[..at])));
            }
        }
        let is_directory = matches!(entry, Entry::Directory { .. });
        match chosen.get(&path) {
            Some(Entry::Directory { .. }) if is_directory => {}
            Some(_) => return Err(refused(full, &format!("is the second {path} that it has"))),
            None => _ = chosen.insert(path, entry),
        }
    }
    if chosen.values().all(|entry| matches!(entry, Entry::Directory { .. })) {
        return Err(Refused("strip and include leave no file of it".to_owned()));
    }
    Ok(chosen)
}

/// Whether a link leads to a place in its folder. A `..` behind a name may lead anywhere, since that name may be a link.
fn stays(path: &str, target: &str) -> bool {
    let steps: Vec<&str> = target.split('/').filter(|step| !matches!(*step, "" | ".")).collect();
    let up = steps.iter().take_while(|step| **step == "..").count();
    !target.starts_with('/') && up <= path.matches('/').count() && !steps[up..].contains(&"..")
}

/// What this host has in writing of an archive; `None`: nobody has read it yet.
fn index(host: &Host, archive: &Archive) -> Option<Rc<Index>> {
    host.cache.index(*archive.sha256.get(host.facts.arch)?)
}

/// The paths that tell of drift.
pub(crate) fn watched(host: &Host, archive: &Archive) -> Vec<String> {
    let chosen = index(host, archive).and_then(|index| choose(archive, &index).ok()).unwrap_or_default();
    let inside = chosen.into_keys().map(|path| format!("{}/{path}", archive.into));
    std::iter::once(archive.into.to_string()).chain(inside).collect()
}

/// A place in the directory that an archive goes to. Whatever its name: what counts is where it lies.
pub(crate) fn directory(
    archive: &Archive,
    mut place: impl FnMut(&str) -> Result<Place, HostError>,
) -> Result<Place, HostError> {
    place(&format!("{}/.", archive.into))
}

/// Finds where an archive goes, and all that is unpacked of it.
///
/// # Errors
/// The reason and the message of a problem.
pub(crate) fn locate(
    host: &Host,
    archive: &Archive,
    mut place: impl FnMut(&str) -> Result<Place, HostError>,
) -> Result<Located, (&'static str, String)> {
    let told = |error: &HostError| (error.reason(), error.to_string());
    let into = directory(archive, &mut place).map_err(|error| told(&error))?;
    let Some(index) = index(host, archive) else { return Ok(Located { into, placed: None }) };
    let chosen = choose(archive, &index).map_err(|refused| told(&HostError::Archive(refused.to_string())))?;
    let mut placed = Vec::new();
    for (path, entry) in chosen {
        let inside = if matches!(entry, Entry::Directory { .. }) { "/." } else { "" };
        let found = place(&format!("{}/{path}{inside}", archive.into));
        let place = found.map_err(|error| (error.reason(), format!("its entry {path}: {error}")))?;
        let one = Placed { path, entry, place };
        if let Err(refused) = one.real().parse::<HostPath>() {
            let message = format!("its entry {} leads to {}: {}", one.path, one.real(), refused.message);
            return Err(("PathRefused", message));
        }
        placed.push(one);
    }
    Ok(Located { into, placed: Some(placed) })
}

impl Located {
    /// Leaves out directories that are there and were not made here, and those that an entry of their own speaks for:
    /// of this spec (`named`), or of another's (`others`).
    pub(crate) fn keep_own_directories(
        &mut self,
        ledger: &Ledger,
        named: &BTreeSet<String>,
        others: &BTreeSet<String>,
    ) {
        let is_ours = |real: &str| {
            let entry = ledger.get(&Item::Path(real.to_owned()));
            entry.is_some_and(|entry| entry.provenance == Provenance::Created && !entry.shared)
                && !others.contains(real)
        };
        self.placed.iter_mut().for_each(|placed| {
            placed.retain(|one| {
                let is_wanted = !one.place.has_directory() || is_ours(one.real());
                !one.is_directory() || (is_wanted && !named.contains(one.real()))
            });
        });
    }
}

pub(crate) fn plan(archive: &Archive, ledger: &Ledger, planner: &mut Planner<'_>) {
    let resource = format!("archive {}", archive.name);
    let arch = planner.host.facts.arch;
    let access =
        Access { owner: archive.owner.clone(), group: archive.group.clone(), mode: Mode::from_bits(KEPT) };
    let ids = planner.ids(&resource, &access);
    let digest = archive.sha256.get(arch).copied();
    if digest.is_none() {
        let message = format!("sha256 has no digest for {arch}, this node's architecture: add it");
        planner.problem(&resource, "NoDigest", message);
    }
    let (Some(located), Some(ids), Some(digest)) = (planner.archive(archive), ids, digest) else { return };
    if !planner.has_parent(&located.into) {
        planner.problem(resource, "NoDirectory", missing_parent(&located.into));
        return;
    }
    planner.note_exposure(&resource, &located.into, ids);
    let urls: Vec<String> = archive.urls.iter().map(|url| url.for_arch(arch)).collect();
    let from = urls.first().cloned().unwrap_or_default();
    let into = located.directory().to_owned();
    let owner = planner.shown_owner((ids.uid, ids.gid));
    let Some(placed) = &located.placed else {
        planner.warn(format!(
            "{resource}: what is in it is known once it was fetched; what an older one has left in {into} stays until then"
        ));
        let change = Change {
            resource: resource.clone(),
            change: format!("download {from}, unpack into {into}, {owner}"),
            found: "was not read yet on this host".to_owned(),
            disruption: Disruption::None,
        };
        if planner.step(change, Action::Unpack { into, urls, digest, parts: None }) {
            restart(archive, &resource, planner);
        }
        return;
    };
    let mut found = Found::default();
    for one in placed {
        compare(one, ids, ledger, planner, &mut found);
    }
    for (reason, entries) in &found.in_the_way {
        let more = match entries.len() {
            1 => String::new(),
            more => format!(" (so are {} more of its entries)", more - 1),
        };
        planner.problem(&resource, reason, format!("{}{more}", entries[0]));
    }
    if found.parts.is_empty() || !found.in_the_way.is_empty() {
        return;
    }
    let changes = !found.missing.is_empty() || !found.other.is_empty();
    let change = Change {
        change: found.change(placed.len(), &into, &owner),
        found: found.words(placed.len()),
        resource: resource.clone(),
        disruption: Disruption::None,
    };
    let action = Action::Unpack { into, urls, digest, parts: Some(found.parts) };
    if planner.step(change, action) && changes {
        restart(archive, &resource, planner);
    }
}

fn restart(archive: &Archive, resource: &str, planner: &mut Planner<'_>) {
    for unit in &archive.restart {
        planner.restarts.entry(unit.to_string()).or_default().push(resource.to_owned());
    }
}

/// How what is there differs from an archive.
#[derive(Default)]
struct Found {
    parts: Vec<Action>,
    missing: Vec<String>,
    other: Vec<String>,
    access: Vec<String>,
    /// What has the right owner and mode, and gives somebody more than these say.
    grants: Vec<String>,
    loss: Loss,
    /// By reason.
    in_the_way: BTreeMap<&'static str, Vec<String>>,
}

impl Found {
    fn change(&self, total: usize, into: &str, owner: &str) -> String {
        let content = self.missing.len() + self.other.len();
        let mut changes = Vec::new();
        if content > 0 {
            let all: Vec<&String> = self.missing.iter().chain(&self.other).collect();
            changes.push(format!("unpack {} into {into}, {owner}", some_of(&all, total)));
        }
        if !self.access.is_empty() {
            let all: Vec<&String> = self.access.iter().collect();
            changes.push(format!("owner and mode of {} in {into}", some_of(&all, total)));
        }
        if !self.grants.is_empty() {
            let all: Vec<&String> = self.grants.iter().collect();
            changes.push(format!("rights to {} in {into}", some_of(&all, total)));
        }
        std::iter::once(changes.join("; ")).chain(self.loss.words()).collect::<Vec<_>>().join(", ")
    }

    fn words(&self, total: usize) -> String {
        if self.missing.len() == total {
            return "was missing".to_owned();
        }
        let kinds = [
            ("lacked", &self.missing),
            ("had other content in", &self.other),
            ("had another owner or mode of", &self.access),
            ("had extended attributes on", &self.grants),
        ];
        let words = kinds.into_iter().filter(|(_, entries)| !entries.is_empty()).map(|(words, entries)| {
            format!("{words} {}", some_of(&entries.iter().collect::<Vec<_>>(), total))
        });
        words.collect::<Vec<_>>().join(", ")
    }
}

/// Which entries, in few words.
fn some_of(entries: &[&String], total: usize) -> String {
    match entries {
        [one] => (*one).clone(),
        all if all.len() == total => format!("{total} entries"),
        more => format!("{} of {total} entries", more.len()),
    }
}

/// Compares one thing of an archive with what is there.
fn compare(one: &Placed, ids: Ids, ledger: &Ledger, planner: &mut Planner<'_>, found: &mut Found) {
    if let Err((reason, message)) = try_compare(one, ids, ledger, planner, found) {
        found.in_the_way.entry(reason).or_default().push(format!("its entry {}: {message}", one.path));
    }
}

fn try_compare(
    one: &Placed,
    ids: Ids,
    ledger: &Ledger,
    planner: &mut Planner<'_>,
    found: &mut Found,
) -> Result<(), (&'static str, String)> {
    let told = |error: HostError| (error.reason(), error.to_string());
    let (place, path) = (&one.place, one.real().to_owned());
    let name = || one.path.clone();
    if let Entry::Directory { mode } = one.entry {
        let ids = Ids { mode, ..ids };
        if place.has_directory() {
            if !planner.differences(&place.directory(), ids).is_empty() {
                found.access.push(name());
                found.parts.push(Action::SetAccess { path, kind: Kind::Directory, ids });
            }
        } else {
            found.missing.push(name());
            // A directory below may have asked for it before.
            if !planner.makes_with(&path, ids) {
                planner.will_have_directory(&path);
                found.parts.push(Action::MakeDirectory { path, ids });
            }
        }
        return Ok(());
    }
    if !planner.will_have_parent(place) {
        return Err(("NoDirectory", missing_parent(place)));
    }
    let meta = place.look().map_err(told)?;
    let kind = meta.map(|meta| meta.kind);
    // What a version before had here, and nobody else: then it may be of another kind.
    let is_replaced = |there: &Shape| {
        ledger.get(&Item::Path(path.clone())).is_some_and(|entry| {
            entry.provenance == Provenance::Created && entry.made.is_alike(there) && !entry.given_up
        })
    };
    match &one.entry {
        Entry::Directory { .. } => {}
        Entry::File { mode, size, sha256, from } => {
            let ids = Ids { mode: *mode, ..ids };
            let (from, digest) = (from.clone(), *sha256);
            let unpack = Action::UnpackFile { from, size: *size, path: path.clone(), digest, ids };
            match (meta, kind) {
                (None, _) => {
                    found.missing.push(name());
                    found.parts.push(unpack);
                }
                (Some(meta), Some(Kind::File)) => {
                    let seen = match meta.size == *size {
                        true => planner.host.digests.see(place, &meta).map_err(told)?,
                        false => None,
                    };
                    let Some(seen) = seen.filter(|seen| seen.digest == *sha256) else {
                        found.loss.add(Loss::anew(planner, place, &meta));
                        found.other.push(name());
                        found.parts.push(unpack);
                        return Ok(());
                    };
                    let differs = !planner.differences(&meta, ids).is_empty();
                    if differs || !seen.grants.is_empty() {
                        check_links(place, &meta).map_err(told)?;
                        found.loss.add(Loss::in_place(&seen.grants));
                        if differs { &mut found.access } else { &mut found.grants }.push(name());
                        found.parts.push(Action::SetAccess { path, kind: Kind::File, ids });
                    }
                }
                (Some(meta), Some(Kind::Link))
                    if link_at(planner.host, place, meta).is_ok_and(|now| is_replaced(&now)) =>
                {
                    found.other.push(name());
                    found.parts.push(unpack);
                }
                (_, Some(kind)) => {
                    let message = format!("{path} {}", planner.occupied(place, kind, Kind::File));
                    return Err(("PathOccupied", message));
                }
                (_, None) => {}
            }
        }
        Entry::Link { target } => {
            let owner = (ids.uid, ids.gid);
            let link =
                |replaces| Action::Link { path: path.clone(), target: target.clone(), owner, replaces };
            match (meta, kind) {
                (None, _) => {
                    found.missing.push(name());
                    found.parts.push(link(Kind::Link));
                }
                (Some(meta), Some(Kind::Link)) => {
                    let now = link_at(planner.host, place, meta)?;
                    if now != (Shape::Link { target: target.clone(), owner }) {
                        found.other.push(name());
                        found.parts.push(link(Kind::Link));
                    }
                }
                (Some(meta), Some(Kind::File)) => {
                    let ids = Ids { uid: meta.uid, gid: meta.gid, mode: meta.mode };
                    let digest = planner.host.digests.of_seen(place, &meta).map_err(told)?;
                    let now = digest.map(|digest| Shape::File { ids, digest, attributes: BTreeMap::new() });
                    if !now.is_some_and(|now| is_replaced(&now)) {
                        return Err(is_no_link(&path, Kind::File));
                    }
                    found.other.push(name());
                    found.parts.push(link(Kind::File));
                }
                (_, Some(kind)) => return Err(is_no_link(&path, kind)),
                (_, None) => {}
            }
        }
    }
    Ok(())
}

fn is_no_link(path: &str, kind: Kind) -> (&'static str, String) {
    let message = format!(
        "{path} is {}, expected a symbolic link: move it away, or leave the entry out by include; nothing is deleted",
        kind.words()
    );
    ("PathOccupied", message)
}

fn link_at(host: &Host, place: &Place, meta: crate::host::Meta) -> Result<Shape, (&'static str, String)> {
    match host.root.read_link(place) {
        Ok(Some(target)) => Ok(Shape::Link { target, owner: (meta.uid, meta.gid) }),
        Ok(None) => {
            let message = format!(
                "{} is a symbolic link whose target is no UTF-8, which could not be put back: remove it",
                place.real
            );
            Err(("PathOccupied", message))
        }
        Err(error) => Err((error.reason(), error.to_string())),
    }
}
