//! plan ► apply ► verify.
//!
//! In: a host and a [`Request`] (a revision and its payload). Out: a [`Plan`], which changes nothing; the changes that
//! were made; or a [`Failure`]. A plan with problems is not begun. After the changes a second plan must be empty.
//!
//! Killed at any point, the next run finishes: every step leaves the host whole, what is done is found done, and what
//! cannot be seen on the host (restarts, files half written, what was there before) stands in the state directory before
//! the first change.
//!
//! The host's lock is held while changes are made, and for nothing that may take long: downloads come before, and what
//! systemd was asked to start is waited for after.

mod book;
pub mod rollback;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::rc::Rc;

use crds::Sha256;
use crds::names::REVERT;
use crds::report::{ChangeSummary, Disruption};
use crds::revision::{Content, FORMAT, PRESET_VERSION, Presets, Resource, Revision, Trust};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use crate::resource::{Change, Payload, Problem, Step};

use crate::anchor;
use crate::host::archive::{Target, index_aside};
use crate::host::error::HARD_LINKED;
use crate::host::root::shown;
use crate::host::state::{Begun, LastResult, Lock, Owed};
use crate::host::systemd::{Answer, Job};
use crate::host::trust::Store;
use crate::host::write::{Ids, Staged, leftover_of};
use crate::host::{Host, HostError, Kind, Place, Root, timestamp};
use crate::host::{accounts, write};
use crate::ledger::{Item, Ledger};
use crate::preset::Findings;
use crate::resource::{
    Action, PARENT_MODE, Planner, archive, binary, directory, disk, file, group, kernel, part, removal,
    symlink, trust, unit, user,
};

use book::Notes;

/// Downloads that run at once.
const MAX_DOWNLOADS: usize = 4;
/// The most changes that the last result keeps.
pub(crate) const MAX_KEPT: usize = 1000;

/// What a host shall have.
#[derive(Debug, Clone)]
pub struct Request {
    /// The revision's name.
    pub name: String,
    /// When its NodeBootstrap was created, RFC 3339: the older one keeps what two claim. Empty: by hand, so that all
    /// others count as older.
    pub created: String,
    /// The revision.
    pub revision: Revision,
    /// Its secret values.
    pub payload: Payload,
    /// Whether it is applied by a pod: what that runs under is never stopped to take something back.
    pub from_pod: bool,
    /// Resources, as in `file /etc/motd`, whose differences are left as they are. By hand: none.
    pub leave: BTreeSet<String>,
    /// What its presets found on the host, once they are expanded.
    pub findings: Findings,
}

impl From<&Request> for Begun {
    fn from(request: &Request) -> Self {
        Self {
            name: request.name.clone(),
            created: request.created.clone(),
            revision: request.revision.clone(),
        }
    }
}

/// What lies between a host and a revision.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// In the order in which they are made.
    pub steps: Vec<Step>,
    /// Why the revision cannot be had here; all of them. With one, nothing is begun.
    pub problems: Vec<Problem>,
    /// What would be changed besides, but is not because of the problems.
    pub held_back: Vec<Change>,
    /// What should be looked at but stops nothing.
    pub warnings: Vec<String>,
    /// What differs and is left as it is.
    pub left: Vec<Change>,
    /// Whether what it makes stays open until it is confirmed, so that it can be rolled back.
    pub held: bool,
    /// How its downloads reach their servers.
    trust: Trust,
    owed: Owed,
    notes: Notes,
}

impl Plan {
    /// Whether the host is as it shall be.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.problems.is_empty()
    }

    /// The highest disruption of its changes.
    pub fn disruption(&self) -> Disruption {
        self.changes().map(|change| change.disruption).max().unwrap_or_default()
    }

    /// Its changes.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.steps.iter().map(|step| &step.change)
    }

    /// Whether something is to be fetched that the host does not have yet. After that it is to be planned again: what is in
    /// an archive is known only then.
    ///
    /// # Errors
    /// If what was fetched before cannot be read.
    pub fn has_downloads(&self, host: &Host) -> Result<bool, HostError> {
        for Download { digest, is_archive, .. } in self.downloads() {
            if !host.cache.has(digest)? || (is_archive && host.cache.index(digest).is_none()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The archives of which nobody on this host has read yet what is in them: to fetch them changes nothing, and tells
    /// what there is to change.
    pub fn unread(&self) -> BTreeSet<&str> {
        let is_unread = |step: &&Step| matches!(step.action, Action::Unpack { parts: None, .. });
        self.steps.iter().filter(is_unread).map(|step| step.change.resource.as_str()).collect()
    }

    /// Whether it starts or restarts units: they may end soon after.
    pub fn has_starts(&self) -> bool {
        self.steps.iter().any(|step| step.action.starts())
    }

    /// Whether it has systemd start, stop or restart units, which is waited for with the host's lock free.
    pub fn waits_for_units(&self) -> bool {
        self.steps.iter().any(|step| step.unit().is_some())
    }

    /// Whether it changes users or groups.
    pub fn changes_accounts(&self) -> bool {
        self.steps.iter().any(|step| step.action.is_of_accounts())
    }

    /// What of it may be made while another run of the same revision waits for units: neither what that run changes, nor
    /// what takes something back.
    #[must_use]
    pub fn besides(mut self, other: &Plan) -> Self {
        let of_other: BTreeSet<&str> = other.changes().map(|change| change.resource.as_str()).collect();
        self.steps.retain(|step| step.undoes.is_none() && !of_other.contains(step.change.resource.as_str()));
        self
    }

    /// What of it is more than that something was left by the run that made these changes, as long as that is not confirmed.
    pub fn besides_left<'p>(&'p self, made: &'p [Change]) -> impl Iterator<Item = &'p Change> {
        let left = || made.iter().filter(|change| change.is_left() || change.is_until_boot());
        let is_known = move |step: &&Step| match &step.action {
            // By what would be done to that.
            Action::Reload => left().next().is_some(),
            _ => step.undoes.is_some() && left().any(|change| change.resource == step.change.resource),
        };
        self.steps.iter().filter(move |step| !is_known(step)).map(|step| &step.change)
    }

    /// What is downloaded.
    fn downloads(&self) -> impl Iterator<Item = Download<'_>> {
        self.steps.iter().filter_map(|step| {
            let (urls, digest, is_archive) = match &step.action {
                Action::Download { urls, digest, .. } => (urls, *digest, false),
                // Owners and modes need no content.
                Action::Unpack { parts: Some(parts), .. } if !parts.iter().any(Action::is_unpacked) => {
                    return None;
                }
                Action::Unpack { urls, digest, .. } => (urls, *digest, true),
                _ => return None,
            };
            Some(Download { change: &step.change, urls, digest, is_archive })
        })
    }

    /// The resources that differ or have a problem.
    pub fn differing(&self) -> impl Iterator<Item = &str> {
        let changes = self.changes().chain(&self.held_back).chain(&self.left);
        changes
            .map(|change| change.resource.as_str())
            .chain(self.problems.iter().map(|problem| problem.resource.as_str()))
    }

    /// Whether a resource was made before, all of it: then what differs was changed since.
    pub fn was_made(&self, resource: &str) -> bool {
        self.owed.is_empty() && self.notes.made.contains(resource)
    }

    /// Whether an earlier run left something to do, or to write down, though no change may follow from it any more.
    pub fn is_owed(&self) -> bool {
        !self.owed.is_empty() || !self.notes.is_complete()
    }
}

/// What a change needs to be downloaded.
struct Download<'p> {
    change: &'p Change,
    urls: &'p [String],
    digest: Sha256,
    is_archive: bool,
}

/// Why a revision is not, or not wholly, on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The cause in one word.
    pub reason: String,
    /// The step, and what went wrong, in one line.
    pub message: String,
    /// The changes that were made before.
    pub made: Vec<Change>,
}

impl From<&HostError> for Failure {
    fn from(error: &HostError) -> Self {
        Self { reason: error.reason().to_owned(), message: error.to_string(), made: Vec::new() }
    }
}

impl Failure {
    fn of(resource: &str, error: &HostError, made: &[Change]) -> Self {
        Self {
            reason: error.reason().to_owned(),
            message: format!("{resource}: {error}"),
            made: made.to_vec(),
        }
    }

    /// The failure of a plan with problems.
    pub fn of_problems(problems: &[Problem]) -> Option<Self> {
        let first = problems.first()?;
        let all: Vec<_> =
            problems.iter().map(|problem| format!("{}: {}", problem.resource, problem.message)).collect();
        let count = if all.len() > 1 { format!("{} problems: ", all.len()) } else { String::new() };
        Some(Self {
            reason: first.reason.to_owned(),
            message: format!("{count}{}", all.join("; ")),
            made: Vec::new(),
        })
    }

    /// Whether all was made, and something was changed while units were waited for: then the next run puts it right.
    pub fn is_meanwhile(&self) -> bool {
        self.reason == MEANWHILE
    }

    /// Whether all was made, and something else changed it back before it could be verified.
    pub fn is_not_held(&self) -> bool {
        self.reason == NOT_HELD
    }

    /// That it was told to stop.
    pub fn stopped() -> Self {
        Self {
            reason: STOPPED.to_owned(),
            message: "told to stop: the next run goes on from here".to_owned(),
            made: Vec::new(),
        }
    }

    /// Whether it only was told to stop.
    pub fn is_stop(&self) -> bool {
        self.reason == STOPPED
    }
}

const STOPPED: &str = "Stopped";
/// Of an archive.
const UNREAD: &str = "what is in it was not read yet: the next pass looks again";
/// Something was changed back at once.
const NOT_HELD: &str = "NotHeld";
/// Something changed while units were waited for.
const MEANWHILE: &str = "NotHeldMeanwhile";

/// Is told what happens while a plan is applied.
pub trait Observer {
    /// A change is about to be made.
    fn begins(&self, _change: &Change) {}
    /// A change was made.
    fn done(&self, _change: &Change) {}
    /// A download has got so far, in bytes; the first word may tell of what an earlier run left.
    fn downloaded(&self, _change: &Change, _bytes: u64, _total: Option<u64>) {}
    /// A download has ended, well or not.
    fn download_ended(&self, _change: &Change) {}
}

/// Compares a host with what it shall have. Changes nothing.
///
/// # Errors
/// If the host's accounts cannot be read; all else that is wrong stands in [`Plan::problems`].
pub async fn plan(host: &Host, request: &Request) -> Result<Plan, HostError> {
    let revision = &request.revision;
    // What cannot be seen is told beside what else is wrong.
    let mut unseen = Vec::new();
    or_none("state", host.state.check(&revision.node_bootstrap), &mut unseen);
    let owed = or_none("state", host.state.owed(&revision.node_bootstrap), &mut unseen);
    let resources = &revision.resources;
    let others = host.state.others(&revision.node_bootstrap);
    let (others, unreadable) = or_none("state", others, &mut unseen);
    let all = || resources.iter().chain(others.iter().flat_map(|other| &other.revision.resources));
    let ledger = host.state.ledger(&revision.node_bootstrap, Some(&revision.cluster));
    let ledger = or_none("state", ledger, &mut unseen);
    let store = if trust::matters(all(), &ledger, owed.trust_store) {
        or_none("trust store", Store::of(&host.root), &mut unseen)
    } else {
        None
    };
    // What of it has a path.
    let placed = trust::with_anchors(store, &revision.node_bootstrap, resources);
    // Also the units of others: two names may lead to one.
    let swaps = or_none("swap", kernel::swaps(host, resources), &mut unseen);
    let of_swaps = swaps.iter().map(|swap| swap.unit.clone());
    let to_observe = unit::to_observe(all(), &owed.restarts, removal::to_observe(&ledger).chain(of_swaps));
    let units = host.systemd.observe(&to_observe).await;
    let answers = units.is_ok();
    let units = or_none("systemd", units, &mut unseen);
    let mut planner = Planner::new(host, request, &ledger, &units)?;
    planner.take_in(&request.findings);
    for name in unreadable {
        planner.warn(format!(
            "what the NodeBootstrap {name} claims on this host cannot be read, or is not root's alone to write, so it is not spared: bring its agent to this version, or remove {}/{name}",
            crds::names::STATE_DIR
        ));
    }
    planner.locate(request, &placed, &others, &ledger, store);
    for path in &owed.written {
        planner.pass_over(leftover_of(path));
    }

    let (mut groups, mut users, mut directories) = (Vec::new(), Vec::new(), Vec::new());
    for resource in resources {
        match resource {
            Resource::Group(group) => groups.push(group),
            Resource::User(user) => users.push(user),
            Resource::Directory(directory) => directories.push(directory),
            Resource::File(_)
            | Resource::Binary(_)
            | Resource::Unit(_)
            | Resource::Symlink(_)
            | Resource::Module(_)
            | Resource::Sysctl(_)
            | Resource::Part(_)
            | Resource::Archive(_)
            | Resource::CaBundle(_)
            | Resource::NoSwap(_) => {}
        }
    }
    group::plan(&groups, &mut planner);
    user::plan(&users, &mut planner);
    directory::announce(&directories, &mut planner);
    planner.check_links(&placed);
    let mut claimed = removal::claims(&placed, |path| planner.real(path));
    claimed.extend(planner.archive_items());
    claimed.extend(kernel::swap_claims(resources, &swaps, &ledger));
    let removal =
        removal::plan(&ledger, &claimed, &removal::named(resources), request.from_pod, &mut planner);
    directory::plan(&directories, &mut planner);
    planner.steps.extend(removal.first);
    for resource in resources {
        if let Resource::File(file) = resource {
            file::plan(file, &mut planner);
        }
    }
    for resource in resources {
        if let Resource::Binary(binary) = resource {
            binary::plan(binary, resources, &mut planner);
        }
    }
    for resource in resources {
        if let Resource::Archive(archive) = resource {
            archive::plan(archive, &ledger, &mut planner);
        }
    }
    for resource in resources {
        if let Resource::Symlink(symlink) = resource {
            symlink::plan(symlink, &mut planner);
        }
    }
    trust::plan(store, &revision.node_bootstrap, resources, owed.trust_store, &mut planner);
    part::plan(resources, &mut planner);
    kernel::plan(resources, &swaps, &mut planner);
    let written = unit::plan_files(resources, &mut planner);
    if answers {
        unit::plan(resources, written, &owed.restarts, &mut planner);
    }
    planner.steps.extend(removal.last);
    disk::check(&ledger, &mut planner);
    for (what, error) in &unseen {
        planner.refused(what, error);
    }
    planner.warn_of_exposure();
    let restarts = resources.iter().flat_map(|resource| {
        let units: Vec<String> = resource.restart().iter().map(ToString::to_string).collect();
        if units.is_empty() {
            return Vec::new();
        }
        planner.items(resource).unwrap_or_default().into_iter().map(|item| (item, units.clone())).collect()
    });
    let secrets = resources.iter().filter_map(|resource| match resource {
        Resource::File(file) if matches!(file.content, Content::Secret { .. }) => {
            planner.real(file.path.as_str()).map(Item::Path)
        }
        _ => None,
    });
    let (restarts, secrets) = (restarts.collect(), secrets.collect());
    let is_made = |resource: &&Resource| {
        let own = std::slice::from_ref(*resource);
        let own = trust::with_anchors(store, &revision.node_bootstrap, own);
        let is_done = |item: &Item| ledger.get(item).is_some_and(|entry| entry.done);
        own.iter().all(|one| planner.items(one).is_some_and(|items| items.iter().all(is_done)))
    };
    // It is asked for what differs only, and most passes find nothing.
    let differs = !(planner.steps.is_empty() && planner.problems.is_empty() && planner.left.is_empty());
    let made = resources.iter().filter(|_| differs).filter(is_made).map(ToString::to_string).collect();
    let Planner { steps, problems, warnings, left, recursive, .. } = planner;
    let notes = Notes {
        restarts,
        recursive,
        settled: removal.settled,
        passed_on: removal.passed_on,
        handed: removal.handed,
        moved: removal.moved,
        secrets,
        units,
        ledger,
        made,
        claimed: claimed.into_iter().chain(removal.kept).collect(),
    };
    let (steps, held_back) = if problems.is_empty() {
        (steps, Vec::new())
    } else {
        (Vec::new(), steps.into_iter().map(|step| step.change).collect())
    };
    let trust = revision.trust_of_downloads();
    Ok(Plan { steps, problems, held_back, warnings, left, held: false, trust, owed, notes })
}

/// What was seen; nothing, and the reason noted, if it could not be.
fn or_none<T: Default>(
    what: &'static str,
    seen: Result<T, HostError>,
    unseen: &mut Vec<(&'static str, HostError)>,
) -> T {
    seen.unwrap_or_else(|error| {
        unseen.push((what, error));
        T::default()
    })
}

/// Fetches all that a plan needs and the host does not have, a few at once. One that fails ends all. The host's lock
/// need not be held: nothing is changed but the cache.
///
/// # Errors
/// With what the servers said, or if `stop` was called.
pub async fn fetch(
    host: &Host,
    plan: &Plan,
    observer: &dyn Observer,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let slots = Semaphore::new(MAX_DOWNLOADS);
    let mut running: FuturesUnordered<_> = plan
        .downloads()
        .map(|download| {
            let slots = &slots;
            async move {
                let _slot = slots.acquire().await;
                let change = download.change;
                observer.begins(change);
                let progress = |bytes: u64, total: Option<u64>| observer.downloaded(change, bytes, total);
                let fetched = host
                    .downloads
                    .fetch(&host.cache, download.urls, download.digest, &plan.trust, &progress)
                    .await;
                let read = match fetched {
                    Ok(()) if download.is_archive => read_archive(host, download.digest)
                        .await
                        .map_err(|error| Failure::of(&change.resource, &error, &[])),
                    Ok(()) => Ok(()),
                    Err(error) => Err(Failure {
                        reason: error.reason.to_owned(),
                        message: format!("{}: {}", change.resource, error.message),
                        made: Vec::new(),
                    }),
                };
                observer.download_ended(change);
                read
            }
        })
        .collect();
    while let Some(fetched) = or_stop(stop, running.next()).await? {
        fetched?;
    }
    drop(running);
    host.downloads.rest().await;
    Ok(())
}

/// Reads an archive that was fetched, once: what is in it is kept beside it.
async fn read_archive(host: &Host, digest: Sha256) -> Result<(), HostError> {
    if host.cache.index(digest).is_some() {
        return Ok(());
    }
    let index = index_aside(host.cache.open(digest)?).await;
    host.cache.keep_index(digest, &index.map_err(|refused| HostError::Archive(refused.to_string()))?)
}

/// Makes a plan's changes, and verifies that nothing is left to change. What it downloads must have been fetched.
///
/// # Errors
/// If a step fails, something is left after all of them, or `stop` was called; the step that was under way is then done.
/// The next run goes on from there.
pub async fn apply(
    host: &Host,
    request: &Request,
    plan: &Plan,
    lock: Lock,
    observer: &dyn Observer,
    stop: &CancellationToken,
) -> Result<Vec<Change>, Failure> {
    let mut made = Vec::new();
    let outcome = match Failure::of_problems(&plan.problems) {
        Some(failure) => Err(failure),
        None => run(host, request, plan, lock, observer, stop, &mut made).await,
    };
    let node_bootstrap = &request.revision.node_bootstrap;
    let failure = outcome.err();
    if failure.is_some() || !made.is_empty() {
        let result = LastResult {
            revision: request.name.clone(),
            done: failure.is_none(),
            at: timestamp(),
            reason: failure.as_ref().map(|failure| failure.reason.clone()).unwrap_or_default(),
            message: failure.as_ref().map(|failure| failure.message.clone()).unwrap_or_default(),
            changes: made.iter().take(MAX_KEPT).map(ChangeSummary::from).collect(),
        };
        if let Err(error) = host.state.conclude(node_bootstrap, &result) {
            // What failed before says more.
            return Err(failure.unwrap_or_else(|| Failure::of("state", &error, &made)));
        }
    }
    match failure {
        Some(failure) => Err(Failure { made, ..failure }),
        None => Ok(made),
    }
}

/// Makes what [`Plan::besides`] has left of a plan, while another run of the same revision waits for units. It is that run
/// which verifies all and settles what is written down here.
///
/// # Errors
/// If a step fails, or `stop` was called.
pub async fn mend(
    host: &Host,
    request: &Request,
    plan: &Plan,
    lock: Lock,
    observer: &dyn Observer,
    stop: &CancellationToken,
) -> Result<Vec<Change>, Failure> {
    let node_bootstrap = &request.revision.node_bootstrap;
    let state = |error: HostError| Failure::of("state", &error, &[]);
    let mut made = Vec::new();
    book::open(host, request, plan).map_err(state)?;
    host.state.owe(node_bootstrap, &owed_by(&host.root, plan)).map_err(state)?;
    make(host, node_bootstrap, &plan.steps, lock, observer, stop, &mut made).await?;
    Ok(made)
}

async fn run(
    host: &Host,
    request: &Request,
    plan: &Plan,
    lock: Lock,
    observer: &dyn Observer,
    stop: &CancellationToken,
    made: &mut Vec<Change>,
) -> Result<(), Failure> {
    let node_bootstrap = &request.revision.node_bootstrap;
    let state = |error: HostError| Failure::of("state", &error, &[]);
    let begun = Begun::from(request);
    for path in &plan.owed.written {
        host.root.remove_leftover(path).map_err(|error| Failure::of("leftover", &error, &[]))?;
    }
    let owed = owed_by(&host.root, plan);
    book::open(host, request, plan).map_err(state)?;
    host.state.begin(node_bootstrap, &begun, &owed).map_err(state)?;

    let lock = make(host, node_bootstrap, &plan.steps, lock, observer, stop, made).await?;
    let waited = lock.is_none();
    let _lock = match lock {
        Some(lock) => lock,
        None => or_stop(stop, host.state.lock(|| {})).await?.map_err(state)?,
    };
    if host.state.settle(node_bootstrap, &request.name).map_err(state)? && !plan.held {
        book::close(host, request, plan, made).map_err(state)?;
    }

    if plan.steps.is_empty() {
        // What broke off for a revision before this one is of no use any more.
        return prune(host, node_bootstrap, Some(&request.revision)).map_err(state);
    }
    let again = self::plan(host, request).await.map_err(|error| Failure::of("verify", &error, &[]))?;
    if let Some(failure) = Failure::of_problems(&again.problems) {
        return Err(failure);
    }
    let left = again.besides_left(made).map(|change| format!("{} {}", change.resource, change.found));
    let left: Vec<String> = left.collect();
    if left.is_empty() && plan.held {
        // The revision before may come back.
        return Ok(());
    }
    if left.is_empty() {
        return prune(host, node_bootstrap, Some(&request.revision)).map_err(state);
    }
    let reason = if waited { MEANWHILE } else { NOT_HELD };
    Err(Failure {
        reason: reason.to_owned(),
        message: format!(
            "after all changes were made, {}: does something else on the host change it?",
            left.join("; ")
        ),
        made: Vec::new(),
    })
}

/// Makes changes, one after the other, and waits for what systemd was asked for. The lock is given back if it was held up
/// to the end: `None` if something was waited for, and others may have changed something meanwhile.
async fn make(
    host: &Host,
    node_bootstrap: &str,
    steps: &[Step],
    lock: Lock,
    observer: &dyn Observer,
    stop: &CancellationToken,
    made: &mut Vec<Change>,
) -> Result<Option<Lock>, Failure> {
    let state = |error: HostError| Failure::of("state", &error, &[]);
    // As it was written down just now.
    let ledger = host.state.ledger(node_bootstrap, None).map_err(state)?;
    let mut jobs = Vec::new();
    // Programs are brought beside their places before the first file is changed, so that a full disk leaves the files as
    // they were; but after the directories that they go to.
    let first = steps.iter().position(|step| !step.action.is_base()).unwrap_or(steps.len());
    let (base, rest) = steps.split_at(first);
    for step in base {
        step_by(host, node_bootstrap, &ledger, step, None, observer, stop, made, &mut jobs).await?;
    }
    let mut staged = stage(host, rest)?.into_iter();
    let (mut lock, mut waited) = (Some(lock), false);
    for step in rest {
        if step.action.waits() && !jobs.is_empty() {
            lock = None;
            waited = true;
            await_all(std::mem::take(&mut jobs), observer, stop, made).await?;
        }
        // What starts is systemd's; for all else the host is ours alone.
        if lock.is_none() && !step.action.starts() {
            lock = Some(or_stop(stop, host.state.lock(|| {})).await?.map_err(state)?);
        }
        let staged =
            matches!(step.action, Action::Download { .. }).then(|| staged.next()).flatten().flatten();
        match step_by(host, node_bootstrap, &ledger, step, staged, observer, stop, made, &mut jobs).await {
            // A user who links to a file of their own does not keep the rest from being put back.
            Err(failure) if step.undoes.is_some() && failure.reason == HARD_LINKED => {
                made.push(Change::left(&step.change.resource, &failure.message));
            }
            done => done?,
        }
    }
    if !jobs.is_empty() {
        lock = None;
        waited = true;
        await_all(jobs, observer, stop, made).await?;
    }
    Ok(lock.filter(|_| !waited))
}

/// Waits for what systemd has begun. One that fails is told at once.
async fn await_all(
    jobs: Vec<(&Step, Job<'_>)>,
    observer: &dyn Observer,
    stop: &CancellationToken,
    made: &mut Vec<Change>,
) -> Result<(), Failure> {
    let mut jobs: FuturesUnordered<_> =
        jobs.into_iter().map(|(step, job)| async move { (step, job.await) }).collect();
    while let Some((step, outcome)) = or_stop(stop, jobs.next()).await? {
        outcome.map_err(|error| Failure::of(&step.change.resource, &error, &[]))?;
        made.push(step.change.clone());
        observer.done(&step.change);
    }
    Ok(())
}

/// Gives up what a NodeBootstrap claims on this host, and all that was kept for it alone but the ledger. What was made
/// stays. The host's lock must be held.
///
/// # Errors
/// If the files cannot be removed.
pub fn give_up(host: &Host, node_bootstrap: &str) -> Result<(), HostError> {
    host.state.give_up(node_bootstrap)?;
    host.state.drop_program()?;
    prune(host, node_bootstrap, None)
}

/// What takes a NodeBootstrap off a host when it is applied: a revision that names nothing. [`give_up`] comes after it. By
/// hand also that is put back which an earlier deletion left. The host's lock must be held.
///
/// # Errors
/// If the ledger cannot be read, or not be written.
pub fn revert(host: &Host, node_bootstrap: &str, from_pod: bool) -> Result<Request, HostError> {
    let mut ledger = Rc::unwrap_or_clone(host.state.ledger(node_bootstrap, None)?);
    if !from_pod {
        ledger.give_up(false);
        host.state.write_ledger(node_bootstrap, &ledger)?;
    }
    Ok(Request { from_pod, ..nothing(REVERT, node_bootstrap, ledger.cluster) })
}

/// A request that names nothing.
fn nothing(name: &str, node_bootstrap: &str, cluster: String) -> Request {
    let revision = Revision {
        format: FORMAT,
        preset_version: PRESET_VERSION,
        node_bootstrap: node_bootstrap.to_owned(),
        uid: String::new(),
        cluster,
        trust: Trust::default(),
        presets: Presets::default(),
        resources: Vec::new(),
    };
    Request {
        name: name.to_owned(),
        created: String::new(),
        revision,
        payload: Payload::default(),
        from_pod: false,
        leave: BTreeSet::new(),
        findings: Findings::default(),
    }
}

/// Removes what was fetched once and no revision on this host names any more. `own`: what this NodeBootstrap has.
fn prune(host: &Host, node_bootstrap: &str, own: Option<&Revision>) -> Result<(), HostError> {
    let (others, unreadable) = host.state.others(node_bootstrap)?;
    if !unreadable.is_empty() {
        return Ok(());
    }
    let named = others
        .iter()
        .map(|begun| &begun.revision)
        .chain(own)
        .flat_map(|revision| &revision.resources)
        .filter_map(|resource| match resource {
            Resource::Binary(binary) => Some(&binary.sha256),
            Resource::Archive(archive) => Some(&archive.sha256),
            _ => None,
        })
        .flat_map(|sha256| sha256.values().copied())
        .collect();
    host.cache.prune(&named)
}

/// What the next run must know if this one is killed.
fn owed_by(root: &Root, plan: &Plan) -> Owed {
    let mut owed = plan.owed.clone();
    for action in plan.steps.iter().flat_map(|step| step.action.parts()) {
        match action {
            Action::MakeDirectory { path, .. }
            | Action::WriteFile { path, .. }
            | Action::Download { path, .. }
            | Action::UnpackFile { path, .. }
            | Action::Link { path, .. }
            | Action::EditPart { path, .. }
            | Action::PutBack { path, content: Some(_), .. } => _ = owed.written.insert(path.clone()),
            Action::Restart { unit } => _ = owed.restarts.insert(unit.clone()),
            Action::AddGroup { .. } | Action::RemoveGroup { .. } | Action::SetMember { .. } => {
                owed.written.extend(accounts::group_files(root));
            }
            Action::AddUser(_)
            | Action::ChangeUser(_)
            | Action::RemoveUser(_)
            | Action::SetComment { .. }
            | Action::SetLocked { .. } => owed.written.extend(accounts::user_files(root)),
            Action::UpdateTrustStore { renew, .. } => owed.trust_store |= renew,
            Action::SetAccess { .. }
            | Action::Unpack { .. }
            | Action::OwnBelow { .. }
            | Action::LoadModules
            | Action::SetSysctl { .. }
            | Action::Reload
            | Action::Enable { .. }
            | Action::Disable { .. }
            | Action::Mask { .. }
            | Action::Start { .. }
            | Action::Stop { .. }
            | Action::RemoveFile { .. }
            | Action::RemoveDirectory { .. }
            | Action::PutBack { .. }
            | Action::GiveBack { .. }
            | Action::Leave => {}
        }
    }
    owed
}

/// Brings what was fetched beside its places; in the order of the steps. `None`: a part is taken out of the file first, and what
/// that writes has the same name; such a one is brought at its own step.
fn stage(host: &Host, steps: &[Step]) -> Result<Vec<Option<Staged>>, Failure> {
    let (mut all, mut edited) = (Vec::new(), BTreeSet::new());
    for step in steps {
        match &step.action {
            Action::EditPart { path, .. } => _ = edited.insert(path),
            Action::Download { path, .. } if edited.contains(path) => all.push(None),
            Action::Download { path, digest, .. } => {
                let staged = stage_one(host, path, *digest);
                all.push(Some(staged.map_err(|error| Failure::of(&step.change.resource, &error, &[]))?));
            }
            _ => {}
        }
    }
    Ok(all)
}

fn stage_one(host: &Host, path: &str, digest: Sha256) -> Result<Staged, HostError> {
    let mut staged = Staged::begin(&host.root.locate(path)?)?;
    staged.append_file(host.cache.open(digest)?)?;
    Ok(staged)
}

/// Does one step. What systemd takes its time for is added to `jobs`.
#[allow(clippy::too_many_arguments)]
async fn step_by<'a>(
    host: &'a Host,
    node_bootstrap: &str,
    ledger: &Ledger,
    step: &'a Step,
    staged: Option<Staged>,
    observer: &dyn Observer,
    stop: &CancellationToken,
    made: &mut Vec<Change>,
    jobs: &mut Vec<(&'a Step, Job<'a>)>,
) -> Result<(), Failure> {
    if stop.is_cancelled() {
        return Err(Failure::stopped());
    }
    observer.begins(&step.change);
    let refused = |error: HostError| Failure::of(&step.change.resource, &error, &[]);
    let root = &host.root;
    let still = |path: &str| book::still(host, ledger, path);
    let mut left = None;
    match &step.action {
        Action::AddGroup { name, gid } => accounts::add_group(root, name, *gid).map_err(refused)?,
        Action::AddUser(account) => {
            let days = jiff::Timestamp::now().as_second() / 86_400;
            let days = u64::try_from(days).unwrap_or_default();
            accounts::add_user(root, account, days).map_err(refused)?;
        }
        Action::ChangeUser(account) => accounts::change_user(root, account).map_err(refused)?,
        Action::SetMember { user, group, is_member } => {
            accounts::set_member(root, user, group, *is_member).map_err(refused)?;
        }
        Action::SetComment { user, comment } => {
            accounts::set_comment(root, user, comment).map_err(refused)?;
        }
        Action::SetLocked { user, locked } => accounts::set_locked(root, user, *locked).map_err(refused)?,
        Action::MakeDirectory { path, ids } => {
            root.locate(path).and_then(|place| root.make_directory(&place, *ids)).map_err(refused)?;
        }
        Action::SetAccess { path, kind, ids } => {
            set_access(root, path, *kind, *ids).map_err(refused)?;
        }
        Action::OwnBelow { path, inside, skip } => {
            root.locate(path)
                .and_then(|place| root.sweep(&place, *inside, &|path| skip.of(path), true))
                .map_err(refused)?;
        }
        Action::WriteFile { path, content, ids } => {
            root.locate(path)
                .and_then(|place| root.write_if(&place, &content.0, *ids, &BTreeMap::new(), &still))
                .map_err(refused)?;
        }
        Action::Download { path, digest, ids, .. } => {
            let staged = staged.map_or_else(|| stage_one(host, path, *digest), Ok).map_err(refused)?;
            let meta = staged.install_if(*ids, &BTreeMap::new(), &still).map_err(refused)?;
            host.digests.remember(path, &meta, *digest);
        }
        Action::Unpack { digest, parts, .. } => {
            let parts =
                parts.as_deref().ok_or_else(|| HostError::Archive(UNREAD.to_owned())).map_err(refused)?;
            unpack(host, *digest, parts, &still).await.map_err(refused)?;
        }
        // Only as a part of the one above.
        Action::UnpackFile { .. } => {}
        Action::Link { path, target, owner, replaces } => {
            still(path)
                .and_then(|()| root.locate(path))
                .and_then(|place| root.replace_link(&place, target, *owner, *replaces))
                .map_err(refused)?;
        }
        Action::EditPart { path, anchor, text } => {
            let text = text.as_ref().map(|text| &*text.0);
            let edit = |old: &[u8]| {
                let edited = anchor::edit(old, anchor, text);
                edited.map_err(|unclear| HostError::Part { path: path.clone(), unclear })
            };
            root.locate(path).and_then(|place| root.edit(&place, anchor::MAX_FILE, edit)).map_err(refused)?;
        }
        Action::LoadModules => return put_off(step, host.systemd.load_modules(), stop, jobs).await,
        Action::UpdateTrustStore { store, renew } => {
            let command = if *renew { store.renew } else { store.update };
            return put_off(step, host.systemd.run(trust::UNIT, command), stop, jobs).await;
        }
        Action::SetSysctl { name, value } => crate::host::kernel::set(root, name, value).map_err(refused)?,
        Action::Reload => or_stop(stop, host.systemd.reload()).await?.map_err(refused)?,
        Action::Enable { unit, again } => {
            or_stop(stop, host.systemd.enable(unit, *again)).await?.map_err(refused)?;
        }
        Action::Disable { unit } => or_stop(stop, host.systemd.disable(unit)).await?.map_err(refused)?,
        Action::Mask { unit, masked } => {
            or_stop(stop, host.systemd.mask(unit, *masked)).await?.map_err(refused)?;
        }
        Action::Stop { unit } => return put_off(step, host.systemd.stop(unit), stop, jobs).await,
        Action::Start { unit, anew: false } => {
            return put_off(step, host.systemd.start(unit), stop, jobs).await;
        }
        Action::Start { unit, anew: true } => {
            return put_off(step, host.systemd.renew(unit), stop, jobs).await;
        }
        Action::Restart { unit } => return put_off(step, host.systemd.restart(unit), stop, jobs).await,
        Action::RemoveGroup { name, gid } => {
            left = match write::belongs(root, None, Some(*gid)).map_err(refused)? {
                Some(path) => Some(format!("{path} belongs to it")),
                None => accounts::remove_group(root, name, *gid).map_err(refused)?,
            };
        }
        Action::RemoveUser(user) => {
            left = match write::belongs(root, Some(user.uid), None).map_err(refused)? {
                Some(path) => Some(format!("{path} belongs to it")),
                None => accounts::remove_user(root, user).map_err(refused)?,
            };
        }
        Action::RemoveFile { path } => {
            still(path)
                .and_then(|()| root.locate(path))
                .and_then(|place| root.remove_file(&place))
                .map_err(refused)?;
        }
        Action::RemoveDirectory { path, otherwise } => {
            let place = root.locate(path).map_err(refused)?;
            if !root.remove_directory(&place).map_err(refused)? {
                left = Some("something else is in it".to_owned());
                if let (Some(inside), Ok(Some(meta))) = (otherwise, place.look()) {
                    let ids = inside.ids(meta.kind, meta.mode);
                    root.set_access(&place, Kind::Directory, ids).map_err(refused)?;
                }
            }
        }
        Action::PutBack { path, content, ids, attributes } => {
            let put = || {
                // Somebody may have taken away what was above it.
                for parent in root.locate(path)?.missing_paths() {
                    root.make_directory(&root.locate(&parent)?, write::Ids::root(PARENT_MODE))?;
                }
                let place = root.locate(path)?;
                let Some(digest) = content else {
                    // With set-uid bits or capabilities among them, that is for this content alone.
                    still(path)?;
                    return root.set_file_access(&place, *ids, attributes);
                };
                let mut staged = Staged::begin(&place)?;
                staged.append_file(host.state.open_prior(node_bootstrap, *digest)?)?;
                staged.install_if(*ids, attributes, &still).map(drop)
            };
            put().map_err(refused)?;
        }
        Action::GiveBack { entry, owners } => {
            let mut kept = Vec::new();
            for (path, before) in owners {
                let give = |place: Place| {
                    let gave_mode = |kind, mode| entry.gave_mode(kind, mode);
                    root.give_back(&place, &|owner| entry.gave(owner), &gave_mode, before)
                };
                if !root.locate(path).and_then(give).unwrap_or(false) {
                    kept.push(path.as_str());
                }
            }
            if let Some(first) = kept.first() {
                let of =
                    if kept.len() == 1 { String::new() } else { format!(" and {} more", kept.len() - 1) };
                left = Some(format!(
                    "{}{of} inside is not as before: other hard links lead to it, or something else has changed it since",
                    shown(first)
                ));
            }
        }
        Action::Leave => {}
    }
    let change = left.map_or_else(|| step.change.clone(), |why| Change::left(&step.change.resource, &why));
    observer.done(&change);
    made.push(change);
    Ok(())
}

/// Gives a file or directory what the revision says; a file gives nobody more than that. To a directory others may add rights:
/// systemd itself does.
fn set_access(root: &Root, path: &str, kind: Kind, ids: Ids) -> Result<(), HostError> {
    let place = root.locate(path)?;
    match kind {
        Kind::File => root.set_file_access(&place, ids, &BTreeMap::new()),
        _ => root.set_access(&place, kind, ids),
    }
}

/// Makes an archive's parts: folders first, and files as they come out of it.
async fn unpack(
    host: &Host,
    digest: Sha256,
    parts: &[Action],
    still: &dyn Fn(&str) -> Result<(), HostError>,
) -> Result<(), HostError> {
    let root = &host.root;
    let mut files: BTreeMap<String, Vec<Target>> = BTreeMap::new();
    for part in parts {
        match part {
            Action::MakeDirectory { path, ids } => root.make_directory(&root.locate(path)?, *ids)?,
            Action::SetAccess { path, kind, ids } => set_access(root, path, *kind, *ids)?,
            Action::Link { path, target, owner, replaces } => {
                still(path)?;
                root.replace_link(&root.locate(path)?, target, *owner, *replaces)?;
            }
            Action::UnpackFile { from, path, digest, ids, .. } => {
                let target = Target { path: path.clone(), digest: *digest, ids: *ids };
                files.entry(from.clone()).or_default().push(target);
            }
            _ => {}
        }
    }
    if files.is_empty() { Ok(()) } else { crate::host::archive::unpack(host, digest, files, still).await }
}

/// Has systemd begin a step, whose end is waited for later.
async fn put_off<'a>(
    step: &'a Step,
    work: Answer<'a, Job<'a>>,
    stop: &CancellationToken,
    jobs: &mut Vec<(&'a Step, Job<'a>)>,
) -> Result<(), Failure> {
    let job = or_stop(stop, work).await?;
    jobs.push((step, job.map_err(|error| Failure::of(&step.change.resource, &error, &[]))?));
    Ok(())
}

/// systemd finishes what it was asked for by itself; it is only not waited for.
async fn or_stop<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::select! {
        // What is done already counts.
        biased;
        done = work => Ok(done),
        () = stop.cancelled() => Err(Failure::stopped()),
    }
}

impl Action {
    /// Whether it is a file of an archive.
    fn is_unpacked(&self) -> bool {
        matches!(self, Self::UnpackFile { .. })
    }

    /// Whether it has systemd start something.
    fn starts(&self) -> bool {
        matches!(self, Self::Start { .. } | Self::Restart { .. })
    }

    /// Whether it changes an account file.
    fn is_of_accounts(&self) -> bool {
        matches!(
            self,
            Self::AddGroup { .. }
                | Self::AddUser(_)
                | Self::ChangeUser(_)
                | Self::SetMember { .. }
                | Self::SetComment { .. }
                | Self::SetLocked { .. }
                | Self::RemoveGroup { .. }
                | Self::RemoveUser(_)
        )
    }

    /// Whether it makes what files need: accounts and directories.
    fn is_base(&self) -> bool {
        match self {
            Self::AddGroup { .. }
            | Self::AddUser(_)
            | Self::ChangeUser(_)
            | Self::SetMember { .. }
            | Self::SetComment { .. }
            | Self::SetLocked { .. }
            | Self::MakeDirectory { .. }
            | Self::OwnBelow { .. } => true,
            Self::SetAccess { kind, .. } => *kind == Kind::Directory,
            Self::WriteFile { .. }
            | Self::Download { .. }
            | Self::Unpack { .. }
            | Self::UnpackFile { .. }
            | Self::Link { .. }
            | Self::EditPart { .. }
            | Self::LoadModules
            | Self::SetSysctl { .. }
            | Self::UpdateTrustStore { .. }
            | Self::Reload
            | Self::Enable { .. }
            | Self::Disable { .. }
            | Self::Mask { .. }
            | Self::Start { .. }
            | Self::Stop { .. }
            | Self::Restart { .. }
            | Self::RemoveGroup { .. }
            | Self::RemoveUser(_)
            | Self::RemoveFile { .. }
            | Self::RemoveDirectory { .. }
            | Self::PutBack { .. }
            | Self::GiveBack { .. }
            | Self::Leave => false,
        }
    }

    /// Whether what was asked of systemd before must have ended: what starts may need what is being stopped, and what
    /// stops needs its files, its user and its group up to the end.
    fn waits(&self) -> bool {
        let takes_away = matches!(
            self,
            Self::RemoveFile { .. }
                | Self::PutBack { .. }
                | Self::Link { .. }
                | Self::EditPart { .. }
                | Self::RemoveGroup { .. }
                | Self::RemoveUser(_)
        );
        // A module that is being loaded may bring the setting.
        self.starts() || takes_away || matches!(self, Self::SetSysctl { .. })
    }
}
