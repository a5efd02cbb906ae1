//! The agent in the DaemonSet's pod: follows its node's Report, and makes the host what it says.
//!
//! ```text
//! watch own Report ─► get revision and payload ─► lock ─► plan ─► permitted? ─► apply ─► verify ─► one status write
//!        │                                                  └ downloads: without the lock, then from there again
//!        └ also: every 30 s, and at once when inotify, systemd or the kernel tells that something of ours was touched
//! ```
//!
//! In mode Plan it ends with the plan, without the lock: the host is only looked at.
//!
//! In: the Report's spec. Out: the host, and the Report's status. While the API is away the loop goes on with what it
//! has in memory. No answer of the API, and no missing object, ever leads to a removal.

mod cluster;
pub mod probe;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use crds::NodeBootstrapReport;
use crds::names::REVERT;
use crds::nodebootstrap::DriftPolicy;
use crds::report::{
    ChangeSummary, Disruption, Leave, NodeBootstrapReportSpec, NodeBootstrapReportStatus, ReportPhase,
    RunMode,
};
use crds::revision::{Resource, Revision};
use kube::Client;
use sha2::Digest;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::drift::{self, Damping};
use crate::engine::{self, Change, Failure, Observer, Payload, Plan, Problem, Request};
use crate::host::accounts;
use crate::host::digest::BELIEVED;
use crate::host::kernel_events::{KernelEvents, Wanted};
use crate::host::kubelet::Kubelet;
use crate::host::notify::Notify;
use crate::host::state::{LastResult, Lock, PAUSED};
use crate::host::systemd::STABLE;
use crate::host::{Host, HostError, timestamp};
use crate::preset::{self, Findings};
use crate::report::{self, Fetched, Outcome};
use crate::resource::{self, kernel, unit};
use crate::switch::{self, Stage, Switch, process};

use cluster::{Cluster, FetchError, Seen};
use probe::Pulse;

/// How often the host is compared without a reason. inotify tells of files at once, systemd of units, the kernel of swap and
/// modules; this is for what lies below recursive directories, for settings, and for what they may have missed.
const INTERVAL: Duration = Duration::from_secs(30);
/// How long changes of files are gathered before they are looked at.
const GATHER: Duration = Duration::from_millis(100);
/// The least time between two passes because of inotify.
const CALM: Duration = Duration::from_secs(1);
/// How soon it is looked again whether another NodeBootstrap is done with what only one may do at a time.
const OTHERS: Duration = Duration::from_secs(2);
/// An apply that takes longer than this says so in the Report before it ends.
const SLOW: Duration = Duration::from_secs(1);
/// What goes on for longer says how far it is, so often at most.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// Others hold the host's lock for moments; who waits longer for it says so.
const LOCKED: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// With jitter, at most twice this: five minutes.
const LAST_RETRY: Duration = Duration::from_secs(150);
/// While the API is away it is asked this often at least: it shall be told soon after it is back.
const AWAY_RETRY: Duration = Duration::from_secs(10);
/// So many times in a row the API must refuse the revision before the Report says so: rights may come a moment later.
const REFUSALS: u32 = 3;

/// Files whose change may change users and groups.
const ACCOUNT_FILES: [&str; 4] = ["/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"];

/// What the pod is told by its arguments and environment.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the host's root is mounted.
    pub root: String,
    /// The Node that it runs on.
    pub node_name: String,
    /// The NodeBootstrap that it serves.
    pub node_bootstrap: String,
    /// Where its probe finds it.
    pub socket: String,
}

/// Logs as JSON lines on standard error; `RUST_LOG` says what.
pub fn init_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| "warn,node_agent=info".into());
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
}

/// Runs in a pod until `stop` is called.
///
/// # Errors
/// If it cannot start, or a part of it ended.
pub async fn run(settings: Settings, stop: CancellationToken) -> Result<(), String> {
    let host = Host::open(&settings.root, true).map_err(|error| error.to_string())?;
    let client = Client::try_default().await.map_err(|error| {
        format!("no way to the API server: {error}: is this a pod with a ServiceAccount token?")
    })?;
    serve(host, client, settings, stop).await
}

/// Serves a host. Whatever of it ends before `stop` is called ends the process, so that the kubelet starts it anew.
///
/// # Errors
/// If a part of it ended.
pub async fn serve(
    host: Host,
    client: Client,
    settings: Settings,
    stop: CancellationToken,
) -> Result<(), String> {
    let cluster = Cluster::new(client, &settings.node_bootstrap, &settings.node_name, stop.clone());
    let pulse = Pulse::default();
    let (seen, word) = watch::channel(Seen::Unknown);
    info!(node = settings.node_name, report = cluster.report(), arch = host.facts.arch, "agent started");
    let mut agent = Agent::new(host, cluster.clone(), settings.clone(), word, &pulse, stop);
    tokio::select! {
        () = agent.run() => {
            info!("agent stopped");
            Ok(())
        }
        () = cluster.watch(seen) => Err("the watch of the Report ended".to_owned()),
        ended = probe::answer(&settings.socket, &pulse) => ended,
    }
}

/// The state of the loop.
struct Agent<'a> {
    host: Host,
    cluster: Cluster,
    settings: Settings,
    word: watch::Receiver<Seen>,
    pulse: &'a Pulse,
    stop: CancellationToken,
    notify: Option<Notify>,
    kernel: KernelEvents,
    /// The units that are listened to, and whether each shall run.
    units: BTreeMap<String, bool>,
    /// The Report's uid and spec, as last acted on.
    report: Option<(String, NodeBootstrapReportSpec)>,
    /// What is to be had: the last revision that could be read.
    target: Option<Request>,
    /// What is to be said, and what the API is known to have.
    said: NodeBootstrapReportStatus,
    known: Option<NodeBootstrapReportStatus>,
    /// When that is tried again, if the API does not have what is to be said.
    tell: Option<Instant>,
    tell_retry: Retry,
    retry: Retry,
    refusals: u32,
    /// The revision for whose downloads this node has drawn its moment.
    drawn: String,
    /// What is listened to may not be all of it any more.
    listen: bool,
    /// What was changed while units were waited for is being put right.
    again: bool,
    /// How often drift was repaired lately.
    damping: Damping,
    /// What the host itself has repaired, and nobody was told of yet.
    by_host: Vec<Change>,
    /// Since when the damping counts.
    begun: Instant,
    /// Every change is stopped: only the end of that matters.
    paused: bool,
    /// The last pass failed; only time or a new word leads to the next.
    failed: bool,
    /// Something was touched since the last pass: the next one is due, and until then there is no more to learn from it.
    touched: bool,
    due: Instant,
    last_pass: Instant,
}

/// Growing pauses.
struct Retry(ExponentialBackoff);

impl Retry {
    fn new() -> Self {
        let builder = ExponentialBuilder::default()
            .with_min_delay(FIRST_RETRY)
            .with_max_delay(LAST_RETRY)
            .without_max_times()
            .with_jitter();
        Self(builder.build())
    }

    fn pause(&mut self) -> Duration {
        self.0.next().unwrap_or(LAST_RETRY)
    }
}

/// When a pass shall be repeated.
enum Next {
    /// At the interval.
    Rest,
    /// After this time, if that is before the interval.
    Within(Duration),
    /// When what was started has had the time to end again.
    Stable,
    /// After a pause that grows.
    Retry,
    /// As that, but soon: the API is away.
    Away,
    /// At once: the word has changed meanwhile.
    Now,
}

impl<'a> Agent<'a> {
    fn new(
        host: Host,
        cluster: Cluster,
        settings: Settings,
        word: watch::Receiver<Seen>,
        pulse: &'a Pulse,
        stop: CancellationToken,
    ) -> Self {
        let notify = match Notify::new() {
            Ok(notify) => Some(notify),
            Err(error) => {
                warn!(%error, "drift is noticed at the interval only");
                None
            }
        };
        let now = Instant::now();
        Self {
            host,
            cluster,
            settings,
            word,
            pulse,
            stop,
            notify,
            kernel: KernelEvents::default(),
            units: BTreeMap::new(),
            report: None,
            target: None,
            said: NodeBootstrapReportStatus::default(),
            known: None,
            tell: None,
            tell_retry: Retry::new(),
            retry: Retry::new(),
            refusals: 0,
            drawn: String::new(),
            listen: true,
            again: false,
            damping: Damping::default(),
            by_host: Vec::new(),
            begun: now,
            paused: false,
            failed: false,
            touched: false,
            due: now,
            last_pass: now,
        }
    }

    async fn run(&mut self) {
        loop {
            let watches = !self.failed && !self.touched && (self.target.is_some() || self.paused);
            let pass = tokio::select! {
                () = self.stop.cancelled() => return,
                changed = self.word.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.take_word()
                }
                () = tokio::time::sleep_until(self.due) => true,
                () = at(self.tell) => {
                    self.tell().await;
                    false
                }
                () = touched(self.notify.as_mut(), &self.kernel, &self.host, &self.units), if watches => {
                    // A directory may have been replaced by another that is the same to look at.
                    self.listen = true;
                    let soon = (Instant::now() + GATHER).max(self.last_pass + CALM);
                    self.due = self.due.min(soon);
                    self.touched = true;
                    false
                }
            };
            if !pass {
                continue;
            }
            self.touched = false;
            if let Some(notify) = &mut self.notify {
                // What happens from here on is seen by the pass, or heard after it.
                notify.drain();
            }
            self.pulse.set_busy(true);
            // Whatever takes its time is given up when the Report says something else; that is then heard above.
            let stop = self.stop.child_token();
            let outdated = self.outdated();
            let next = {
                let pass = self.pass(&stop);
                tokio::pin!(pass);
                tokio::select! {
                    next = &mut pass => next,
                    () = outdated => {
                        stop.cancel();
                        pass.await
                    }
                }
            };
            self.pulse.set_busy(false);
            if self.stop.is_cancelled() {
                return;
            }
            self.last_pass = Instant::now();
            self.due = self.last_pass
                + match next {
                    Next::Rest | Next::Within(_) => {
                        self.retry = Retry::new();
                        let interval = self.interval();
                        if let Next::Within(time) = next { time.min(interval) } else { interval }
                    }
                    Next::Stable => STABLE,
                    Next::Retry => self.retry.pause(),
                    Next::Away => self.retry.pause().min(AWAY_RETRY),
                    Next::Now => Duration::ZERO,
                };
        }
    }

    /// How often the host is compared without a reason.
    fn interval(&self) -> Duration {
        let drift = self.report.as_ref().and_then(|(_, spec)| spec.drift.as_ref());
        drift.and_then(|drift| drift.interval).map_or(INTERVAL, |interval| interval.duration())
    }

    /// The time by a clock that only goes on.
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Resolves when the watch says something else than what is acted on now.
    fn outdated(&self) -> impl Future<Output = ()> + use<> {
        let mut word = self.word.clone();
        let acted_on = self.report.clone();
        async move {
            while word.changed().await.is_ok() {
                let is_same = match (&*word.borrow_and_update(), &acted_on) {
                    (Seen::Unknown, _) | (Seen::Absent, None) => true,
                    (Seen::Report(now), Some((uid, spec))) => {
                        now.metadata.uid.as_ref() == Some(uid) && now.spec == *spec
                    }
                    (Seen::Absent, Some(_)) | (Seen::Report(_), None) => false,
                };
                if !is_same {
                    return;
                }
            }
        }
    }

    /// Takes over what the watch says; whether it is something new to act on. Our own status comes back this way too.
    fn take_word(&mut self) -> bool {
        let seen = self.word.borrow_and_update().clone();
        match seen {
            Seen::Unknown => false,
            Seen::Absent => {
                self.pulse.set_ready();
                if self.report.take().is_some() {
                    // No Report, no permit. What is there stays as it is.
                    info!("the Report is gone: nothing is changed until there is one again");
                    self.target = None;
                }
                false
            }
            Seen::Report(report) => {
                self.pulse.set_ready();
                self.take_report(&report)
            }
        }
    }

    fn take_report(&mut self, report: &NodeBootstrapReport) -> bool {
        let uid = report.metadata.uid.clone().unwrap_or_default();
        let spec = &report.spec;
        if spec.node_name != self.settings.node_name || spec.node_bootstrap != self.settings.node_bootstrap {
            warn!(
                node = spec.node_name,
                node_bootstrap = spec.node_bootstrap,
                "the Report is not ours: nothing is done"
            );
            self.report = None;
            self.target = None;
            return false;
        }
        match &self.report {
            Some((known_uid, known)) if *known_uid == uid && known == spec => return false,
            Some((known_uid, known)) if *known_uid == uid && known.node_uid == spec.node_uid => {}
            _ => {
                // The first word, or that of a new Report: what it says of an earlier machine counts for nothing.
                let status = report.status.clone();
                let ours = status.filter(|status| {
                    status.node_uid == spec.node_uid && status.machine_id == self.host.facts.machine_id
                });
                self.said = ours.clone().unwrap_or_default();
                self.known = ours;
            }
        }
        if self.report.as_ref().is_some_and(|(_, known)| known.drift != spec.drift) {
            // What was fought over may be left now.
            self.damping = Damping::default();
        }
        let full_interval = spec.drift.as_ref().and_then(|drift| drift.full_interval);
        self.host.digests.believe_for(full_interval.map_or(BELIEVED, |interval| interval.duration()));
        self.report = Some((uid, spec.clone()));
        self.retry = Retry::new();
        self.refusals = 0;
        self.failed = false;
        true
    }

    async fn pass(&mut self, stop: &CancellationToken) -> Next {
        let Some((_, spec)) = self.report.clone() else { return Next::Rest };
        self.failed = false;
        if let Some(why) = self.why_paused(&spec) {
            return self.rest_paused(&spec, &why).await;
        }
        self.paused = false;
        if spec.leave.is_some() {
            return self.leave(&spec, stop).await;
        }
        if !spec.conflicts.is_empty() {
            self.failed = true;
            self.target = None;
            self.say(&spec, &spec.revision, &Outcome::Conflict(&spec.conflicts), &[]).await;
            return Next::Rest;
        }
        if spec.revision.is_empty() {
            return Next::Rest;
        }
        let mut next = Next::Rest;
        if self.target.as_ref().is_none_or(|target| target.name != spec.revision) {
            match self.cluster.revision(&spec.revision).await {
                Ok(request) => {
                    self.refusals = 0;
                    self.target = Some(request);
                    self.listen = true;
                    self.damping = Damping::default();
                    self.by_host.clear();
                }
                Err(error) => next = self.not_fetched(&spec, &error).await,
            }
        }
        if let Some(target) = &mut self.target {
            target.created.clone_from(&spec.node_bootstrap_created);
        }
        // Also with the revision before, while the new one cannot be read: that is what the host has.
        match self.target.clone() {
            Some(target) if !self.failed => {
                let target = match preset::expanded(&self.host, &target).await {
                    Ok(target) => target,
                    Err(error) => return self.refused(&spec, &target, &error).await,
                };
                let done = match spec.mode {
                    RunMode::Apply => self.bring(&spec, &target, stop).await,
                    RunMode::Plan => self.plan_only(&spec, &target).await,
                };
                match done {
                    Next::Rest => next,
                    other => other,
                }
            }
            _ => next,
        }
    }

    /// What stops every change here, and what ends that.
    fn why_paused(&self, spec: &NodeBootstrapReportSpec) -> Option<String> {
        if spec.paused {
            return Some(format!(
                "the Node has the annotation {}: nothing is changed here until it is taken away",
                crds::names::PAUSED
            ));
        }
        match self.host.state.paused() {
            Ok(None) => None,
            Ok(Some(since)) => Some(format!(
                "paused on the host since {since}: nothing is changed here until nodebootstrap-agent resume is run there"
            )),
            Err(error) => {
                Some(format!("whether the host is paused cannot be told, so nothing is changed: {error}"))
            }
        }
    }

    /// Says that every change is stopped, and listens for the end of that.
    async fn rest_paused(&mut self, spec: &NodeBootstrapReportSpec, why: &str) -> Next {
        if !std::mem::replace(&mut self.paused, true) {
            info!(why, "paused");
            self.listen_to(BTreeMap::new(), BTreeSet::from([PAUSED.to_owned()]), Wanted::default());
        }
        // What the host had is listened to again afterwards.
        self.listen = true;
        self.say(spec, &spec.revision, &Outcome::Paused(why), &[]).await;
        Next::Rest
    }

    /// Compares the host with a revision. What has drifted and is to be left is so: it then stands in the plan's `left`,
    /// and in what is to be had as such.
    async fn look(
        &mut self,
        spec: &NodeBootstrapReportSpec,
        target: &Request,
    ) -> Result<(Plan, Request), HostError> {
        let plan = engine::plan(&self.host, target).await?;
        let now = self.now();
        self.damping.calm(now);
        if plan.differing().next().is_none() {
            return Ok((plan, target.clone()));
        }
        // Whatever differs from a revision that was made is drift.
        let is_made = !plan.is_owed() && self.is_begun(target);
        let begun = self.host.state.begun(&target.revision.node_bootstrap).ok().flatten();
        // Also of a new revision, what it does not change.
        let is_same = |resource: &str| {
            let of = |revision: &Revision| find(revision, resource).cloned();
            begun.as_ref().is_some_and(|begun| of(&begun.revision) == of(&target.revision))
        };
        let unread = plan.unread();
        let leave: BTreeSet<String> = plan
            .differing()
            .filter(|resource| !unread.contains(resource))
            .filter(|resource| match drift::policy_of(spec.drift.as_ref(), resource) {
                DriftPolicy::Enforce => is_made && self.damping.waits(resource, now).is_some(),
                DriftPolicy::Report => is_made,
                DriftPolicy::CreateOnly => is_made || (plan.was_made(resource) && is_same(resource)),
            })
            .map(str::to_owned)
            .collect();
        if leave.is_empty() {
            return Ok((plan, target.clone()));
        }
        let target = Request { leave, ..target.clone() };
        Ok((engine::plan(&self.host, &target).await?, target))
    }

    /// What a plan leaves and is told.
    fn drifted(spec: &NodeBootstrapReportSpec, plan: &Plan) -> Vec<Change> {
        let policy = |change: &&Change| drift::policy_of(spec.drift.as_ref(), &change.resource);
        plan.left.iter().filter(|change| policy(change) == DriftPolicy::Report).cloned().collect()
    }

    /// The revision could not be read.
    async fn not_fetched(&mut self, spec: &NodeBootstrapReportSpec, error: &FetchError) -> Next {
        warn!(revision = spec.revision, %error, "the revision cannot be read");
        match error {
            // The API is away: nobody could be told.
            FetchError::Away(_) => return Next::Away,
            FetchError::Refused(_) => {
                self.refusals += 1;
                if self.refusals < REFUSALS {
                    return Next::Retry;
                }
            }
            FetchError::Unreadable(_) => {}
        }
        let failure = Failure {
            reason: error.reason().to_owned(),
            message: format!("revision {}: {error}", spec.revision),
            made: Vec::new(),
        };
        self.fail(spec, &spec.revision, &failure, &[]).await
    }

    /// Says what would be changed, or every reason why it cannot be. Nothing is written to the host, so that not even its
    /// lock is taken.
    async fn plan_only(&mut self, spec: &NodeBootstrapReportSpec, target: &Request) -> Next {
        let plan = match self.look(spec, target).await {
            Ok((plan, _)) => plan,
            Err(error) => return self.refused(spec, target, &error).await,
        };
        if !plan.problems.is_empty() {
            return self.impossible(spec, target, &plan).await;
        }
        self.listen(target);
        let changes: Vec<Change> = plan.changes().cloned().collect();
        self.say(spec, &target.name, &Outcome::Planned(&changes), &plan.warnings).await;
        Next::Rest
    }

    /// Makes the host what a revision says, as far as the permit goes.
    async fn bring(
        &mut self,
        spec: &NodeBootstrapReportSpec,
        target: &Request,
        stop: &CancellationToken,
    ) -> Next {
        match self.host.state.switch(&target.revision.node_bootstrap) {
            Ok(Some(switch)) if switch.stage.is_open() => return self.await_switch(spec, stop).await,
            Ok(Some(switch)) if switch.forbids(&target.name, &spec.retry) => {
                return self.rolled_back(spec, &switch, stop).await;
            }
            Ok(_) => {}
            Err(error) => return self.refused(spec, target, &error).await,
        }
        // The permit is for the revision that the Report names.
        let permit = if target.name == spec.revision { spec.permit.disruption } else { Disruption::None };
        let (plan, target, changes, lock) = loop {
            let Some(lock) = self.lock(spec, &target.name, stop).await else { return Next::Rest };
            // From here on nobody can pause the host until the lock is free again.
            if let Some(why) = self.why_paused(spec) {
                return self.rest_paused(spec, &why).await;
            }
            if let Some(next) = self.others_switch(spec).await {
                return next;
            }
            let seen = match self.look(spec, target).await {
                Ok((plan, target)) => {
                    plan.has_downloads(&self.host).map(|has_downloads| (plan, target, has_downloads))
                }
                Err(error) => Err(error),
            };
            let (plan, looked, has_downloads) = match seen {
                Ok(seen) => seen,
                Err(error) => return self.refused(spec, target, &error).await,
            };
            if !plan.problems.is_empty() {
                drop(lock);
                return self.impossible(spec, target, &plan).await;
            }
            // Only now: a disk that takes no lock may be one of many reasons.
            let lock = match lock {
                Ok(lock) => lock,
                Err(error) => return self.refused(spec, target, &error).await,
            };
            let changes: Vec<Change> = plan.changes().cloned().collect();
            // What an archive disturbs is known only when it was fetched, and that needs no permit.
            let is_to_be_read = has_downloads && !plan.unread().is_empty();
            if !is_to_be_read && !report::is_permitted(plan.disruption(), permit) {
                drop(lock);
                self.listen(target);
                self.say(spec, &target.name, &Outcome::Waiting(&changes), &plan.warnings).await;
                return Next::Rest;
            }
            if !has_downloads {
                break (plan, looked, changes, lock);
            }
            drop(lock);
            if permit == Disruption::None && !self.spread(spec, target, &plan, &changes, stop).await {
                return Next::Rest;
            }
            let observer = Logged::new(self.pulse);
            let word = || Some(self.applying(spec, target, &plan, &changes, &observer));
            let work = engine::fetch(&self.host, &plan, &observer, stop);
            let (fetched, told) = telling(&self.cluster, word, SLOW, work).await;
            self.told(told);
            match fetched {
                // Then all is looked at again: it may have taken long.
                Ok(()) => {}
                Err(failure) if failure.is_stop() => return Next::Rest,
                Err(failure) => return self.fail(spec, &target.name, &failure, &plan.warnings).await,
            }
        };
        let target = &target;
        if plan.disruption() > Disruption::None {
            // A permit may have been taken back since the watch told of it.
            match self.confirm(spec, target, &changes, &plan.warnings).await {
                Ok(()) => {}
                Err(next) => return next,
            }
        }
        if switch::touches(&self.host, &plan) {
            let node = self.settings.node_name.clone();
            let kubelet = Kubelet::find(&self.host.root);
            let asked = process::asked(target, node, kubelet, permit, spec.health.as_ref(), &spec.retry);
            if let Err(error) = process::ask(&self.host, target, asked, lock).await {
                return self.refused(spec, target, &error).await;
            }
            return self.await_switch(spec, stop).await;
        }
        self.listen |= !changes.is_empty();
        let by_host = std::mem::take(&mut self.by_host);
        let is_drift = !changes.is_empty() && !plan.is_owed() && self.is_begun(target);
        let is_repair = !by_host.is_empty() || (is_drift && self.result_of(target).is_some());
        let (outcome, repaired) = self.apply(spec, target, &plan, &changes, lock, stop).await;
        self.listen(target);
        self.note_repairs(target, &repaired);
        match outcome {
            Ok(made) => {
                self.again = false;
                let mut made = [by_host, made].concat();
                if is_drift || is_repair {
                    self.note_repairs(target, &made);
                }
                made.extend(repaired);
                self.settled(spec, target, &plan, &made, is_repair).await
            }
            Err(failure) if failure.is_stop() => Next::Rest,
            // Whoever undoes a repair while it is verified pulls as one who does so later.
            Err(failure) if is_drift && failure.is_not_held() => {
                self.note_repairs(target, &failure.made);
                match self.damping.contest() {
                    None => Next::Now,
                    Some(_) => self.settled(spec, target, &plan, &[], false).await,
                }
            }
            // The first time it is put right at once; what is so again is told.
            Err(failure) if failure.is_meanwhile() && !std::mem::replace(&mut self.again, true) => Next::Now,
            Err(failure) => self.fail(spec, &target.name, &failure, &plan.warnings).await,
        }
    }

    /// Waits for another NodeBootstrap's change of what pods run under: a node is judged by one at a time.
    async fn others_switch(&mut self, spec: &NodeBootstrapReportSpec) -> Option<Next> {
        let name = process::under_way(&self.host).await.ok().flatten()?;
        self.say(spec, &spec.revision, &Outcome::OtherSwitches(&name), &[]).await;
        Some(Next::Within(OTHERS))
    }

    /// Waits until what the host itself does is over; what came of it. It goes on also if this pod ends. `None`: there is
    /// none, or something else is to be done now.
    async fn switched(
        &mut self,
        spec: &NodeBootstrapReportSpec,
        stop: &CancellationToken,
    ) -> Result<Option<Switch>, HostError> {
        self.pulse.set_busy(false);
        let node_bootstrap = self.settings.node_bootstrap.clone();
        let word = || {
            let switch = self.host.state.switch(&node_bootstrap).ok().flatten()?;
            let why = switch.cause.as_ref().map(|cause| cause.message.as_str());
            let outcome = Outcome::Switching(&switch.changes, switch.timeout, why);
            Some(self.word_of(spec, &switch.revision.name, &outcome, &[]))
        };
        let waiting = process::wait(&self.host, &node_bootstrap, stop);
        let (over, told) = telling(&self.cluster, word, SLOW, waiting).await;
        self.told(told);
        self.pulse.set_busy(true);
        self.listen = true;
        over
    }

    async fn await_switch(&mut self, spec: &NodeBootstrapReportSpec, stop: &CancellationToken) -> Next {
        let switch = match self.switched(spec, stop).await {
            Ok(Some(switch)) => switch,
            Ok(None) => return Next::Rest,
            Err(error) => return self.fail(spec, &spec.revision, &Failure::from(&error), &[]).await,
        };
        match (switch.stage, switch.failure()) {
            // What it made is found made; and what is to be had may be something else by now.
            (_, None) => {
                if switch.is_repair() {
                    self.by_host = switch.changes;
                }
                Next::Now
            }
            _ if wanted(spec) != Some(&switch.revision.name) => Next::Now,
            // Somebody has asked for another attempt meanwhile.
            (Stage::RolledBack, Some(_)) if switch.retry != spec.retry => Next::Now,
            (Stage::RolledBack, Some(_)) => self.rolled_back(spec, &switch, stop).await,
            (_, Some(failure)) => self.fail(spec, &switch.revision.name, &failure, &[]).await,
        }
    }

    /// Says that what is to be had was rolled back here. It is not tried again until somebody asks for it; what was there
    /// before is kept up.
    async fn rolled_back(
        &mut self,
        spec: &NodeBootstrapReportSpec,
        switch: &Switch,
        stop: &CancellationToken,
    ) -> Next {
        let held = match spec.leave {
            None => self.hold(spec, &switch.revision.name, stop).await,
            Some(_) => None,
        };
        // Else nothing is learnt from what is touched.
        self.failed = held.is_none();
        if let Some(failure) = switch.failure() {
            let failure = Failure { made: held.unwrap_or_default(), ..failure };
            self.say(spec, &switch.revision.name, &Outcome::RolledBack(&failure), &[]).await;
        }
        Next::Rest
    }

    /// Repairs what has drifted from the revision that the host had before `tried`, where that disturbs nothing and needs
    /// nothing that is not here: no download, and no secret value, since the agent may not read those any more. `None`:
    /// nothing can be kept up.
    async fn hold(
        &mut self,
        spec: &NodeBootstrapReportSpec,
        tried: &str,
        stop: &CancellationToken,
    ) -> Option<Vec<Change>> {
        let begun = self.host.state.begun(&self.settings.node_bootstrap).ok()??;
        let request = Request {
            name: begun.name.clone(),
            created: begun.created.clone(),
            revision: begun.revision.clone(),
            payload: Payload::default(),
            from_pod: true,
            leave: BTreeSet::new(),
            findings: Findings::default(),
        };
        let lock = self.lock(spec, tried, stop).await?.ok()?;
        // From here on nobody can pause the host, or change what pods run under, until the lock is free again.
        if self.why_paused(spec).is_some() || process::under_way(&self.host).await.ok()?.is_some() {
            return None;
        }
        let (plan, request) = self.look(spec, &request).await.ok()?;
        let is_here = plan.problems.is_empty() && !plan.has_downloads(&self.host).ok()?;
        if !is_here || plan.disruption() > Disruption::None || switch::touches(&self.host, &plan) {
            return None;
        }
        self.listen(&request);
        if plan.is_empty() {
            return Some(Vec::new());
        }
        let observer = Logged::new(self.pulse);
        match engine::apply(&self.host, &request, &plan, lock, &observer, stop).await {
            Ok(made) => {
                self.note_repairs(&request, &made);
                Some(made)
            }
            Err(failure) => {
                warn!(
                    revision = request.name,
                    message = failure.message,
                    "what was there before is not kept up"
                );
                None
            }
        }
    }

    /// Notes what was repaired, once however many changes it took: only what has a name in the revision, as a reload of
    /// systemd follows from that.
    fn note_repairs(&mut self, target: &Request, made: &[Change]) {
        let (now, time) = (self.now(), timestamp());
        let mut noted = BTreeSet::new();
        for Change { resource, found, .. } in made {
            if noted.insert(resource) && find(&target.revision, resource).is_some() {
                self.damping.repaired(resource, found, now, &time);
            }
        }
    }

    /// Says what a pass came to that made all that was to be made.
    async fn settled(
        &mut self,
        spec: &NodeBootstrapReportSpec,
        target: &Request,
        plan: &Plan,
        made: &[Change],
        is_repair: bool,
    ) -> Next {
        let drifted = Self::drifted(spec, plan);
        let before = self.made_before(target);
        let contest = self.damping.contest();
        let outcome = match &contest {
            Some(message) => Outcome::Contested { message, drifted: &drifted },
            None => Outcome::Ready { made, is_repair, before: &before, drifted: &drifted },
        };
        self.say(spec, &target.name, &outcome, &plan.warnings).await;
        let now = self.now();
        let waiting = plan.left.iter().filter_map(|change| self.damping.waits(&change.resource, now));
        match waiting.min() {
            Some(next) => Next::Within(next - now),
            None if plan.has_starts() => Next::Stable,
            None => Next::Rest,
        }
    }

    /// Waits until this node may begin its downloads, where many nodes have got a revision at once. Only once for each,
    /// and not for repairs. `false`: told to stop.
    async fn spread(
        &mut self,
        spec: &NodeBootstrapReportSpec,
        target: &Request,
        plan: &Plan,
        changes: &[Change],
        stop: &CancellationToken,
    ) -> bool {
        if spec.spread == 0
            || target.name != spec.revision
            || self.drawn == target.name
            || self.is_begun(target)
        {
            return true;
        }
        let delay = delay(spec);
        info!(seconds = delay.as_secs(), "many nodes have got this revision at once: downloads begin later");
        self.pulse.set_busy(false);
        let outcome = Outcome::Spread(changes, spec.spread);
        let word = || Some(self.word_of(spec, &target.name, &outcome, &plan.warnings));
        let waiting = async {
            tokio::select! {
                () = tokio::time::sleep(delay) => true,
                () = stop.cancelled() => false,
            }
        };
        let (waited, told) = telling(&self.cluster, word, SLOW, waiting).await;
        self.told(told);
        self.pulse.set_busy(true);
        if waited {
            self.drawn.clone_from(&target.name);
        }
        waited
    }

    /// Takes the host's lock; `None`: told to stop.
    async fn lock(
        &mut self,
        spec: &NodeBootstrapReportSpec,
        revision: &str,
        stop: &CancellationToken,
    ) -> Option<Result<Lock, HostError>> {
        // Whoever holds it may take long: that is no reason to end this pod.
        self.pulse.set_busy(false);
        let word = || Some(self.word_of(spec, revision, &Outcome::Locked, &[]));
        let locking =
            self.host.state.lock(|| info!("another run works on this host: waiting until it is done"));
        let locking = async {
            tokio::select! {
                lock = locking => Some(lock),
                () = stop.cancelled() => None,
            }
        };
        let (lock, told) = telling(&self.cluster, word, LOCKED, locking).await;
        self.told(told);
        self.pulse.set_busy(true);
        lock
    }

    /// Reads the Report afresh, and acknowledges the permit in it before anything is disturbed.
    async fn confirm(
        &mut self,
        spec: &NodeBootstrapReportSpec,
        target: &Request,
        changes: &[Change],
        warnings: &[String],
    ) -> Result<(), Next> {
        let fresh = match self.cluster.fresh().await {
            Ok(Some(fresh)) => fresh,
            // The watch will tell of it.
            Ok(None) => return Err(Next::Retry),
            Err(error) => {
                warn!(%error, "the permit cannot be confirmed: nothing is begun");
                return Err(Next::Away);
            }
        };
        if fresh.spec != *spec {
            self.take_report(&fresh);
            return Err(Next::Now);
        }
        if self
            .say(spec, &target.name, &Outcome::Applying { changes, now: None, fetched: None }, warnings)
            .await
        {
            Ok(())
        } else {
            Err(Next::Away)
        }
    }

    /// Makes a plan's changes; what was made, and what of other things was repaired while units were waited for.
    async fn apply(
        &mut self,
        spec: &NodeBootstrapReportSpec,
        target: &Request,
        plan: &Plan,
        changes: &[Change],
        lock: Lock,
        stop: &CancellationToken,
    ) -> (Result<Vec<Change>, Failure>, Vec<Change>) {
        if plan.is_empty() && !plan.is_owed() && self.is_begun(target) {
            return (Ok(Vec::new()), Vec::new());
        }
        let observer = Logged::new(self.pulse);
        let repaired = RefCell::default();
        // What tells of drift is heard here until this is done.
        let mut notify = self.notify.take();
        // What has failed is tried in silence, so that it does not say this and that in turns.
        let has_failed = self.said.phase == ReportPhase::Failed && self.said.revision == target.name;
        let word = || (!has_failed).then(|| self.applying(spec, target, plan, changes, &observer));
        let work = async {
            tokio::select! {
                biased;
                done = engine::apply(&self.host, target, plan, lock, &observer, stop) => done,
                never = self.meanwhile(spec, target, plan, notify.as_mut(), stop, &repaired) => match never {},
            }
        };
        let (done, told) = telling(&self.cluster, word, SLOW, work).await;
        self.notify = notify;
        self.told(told);
        (done, repaired.into_inner())
    }

    /// Repairs what drifts while a run waits for units: a service that was restarted is watched for long. What that run
    /// itself changes is its own to verify.
    async fn meanwhile(
        &self,
        spec: &NodeBootstrapReportSpec,
        target: &Request,
        plan: &Plan,
        mut notify: Option<&mut Notify>,
        stop: &CancellationToken,
        repaired: &RefCell<Vec<Change>>,
    ) -> Infallible {
        if !plan.waits_for_units() {
            return std::future::pending().await;
        }
        let (units, _) = self.to_listen(target);
        loop {
            tokio::time::sleep(CALM).await;
            match self.mend(spec, target, plan, notify.as_deref_mut(), stop).await {
                Ok(made) => repaired.borrow_mut().extend(made),
                Err(failure) => {
                    // That run finds what is left, and tells of it.
                    warn!(reason = failure.reason, message = failure.message, "not repaired meanwhile");
                    return std::future::pending().await;
                }
            }
            touched(notify.as_deref_mut(), &self.kernel, &self.host, &units).await;
        }
    }

    /// Repairs once what has drifted and is none of a run's that waits, as far as that disturbs nothing.
    async fn mend(
        &self,
        spec: &NodeBootstrapReportSpec,
        target: &Request,
        other: &Plan,
        notify: Option<&mut Notify>,
        stop: &CancellationToken,
    ) -> Result<Vec<Change>, Failure> {
        let refused = |error: HostError| Failure::from(&error);
        // Free while that run waits, and only then.
        let lock = self.host.state.lock(|| {}).await.map_err(refused)?;
        if self.why_paused(spec).is_some() || self.host.state.switching().map_err(refused)?.is_some() {
            return Ok(Vec::new());
        }
        if let Some(notify) = notify {
            // There may be directories by now that were not there when that run began.
            let _ = notify.watch(&self.host.root, &self.to_listen(target).1);
            notify.drain();
        }
        let mut plan = engine::plan(&self.host, target).await.map_err(refused)?;
        let now = self.now();
        let disturbing = plan.changes().filter(|change| change.disruption > Disruption::None);
        let named: BTreeSet<&str> =
            other.changes().chain(disturbing).map(|change| change.resource.as_str()).collect();
        let is_left = |resource: &&str| {
            named.contains(resource)
                || drift::policy_of(spec.drift.as_ref(), resource) != DriftPolicy::Enforce
                || self.damping.waits(resource, now).is_some()
                || find(&target.revision, resource).is_some_and(|resource| !resource.restart().is_empty())
        };
        let mut leave: BTreeSet<String> = plan.differing().filter(is_left).map(str::to_owned).collect();
        // What is left may be why something else differs.
        if !leave.is_empty() {
            leave.extend(target.leave.iter().cloned());
            let target = Request { leave, ..target.clone() };
            plan = engine::plan(&self.host, &target).await.map_err(refused)?;
        }
        let plan = plan.besides(other);
        if plan.steps.is_empty()
            || plan.disruption() > Disruption::None
            || switch::touches(&self.host, &plan)
            || plan.has_downloads(&self.host).map_err(refused)?
        {
            return Ok(Vec::new());
        }
        engine::mend(&self.host, target, &plan, lock, &Logged::new(self.pulse), stop).await
    }

    fn applying(
        &self,
        spec: &NodeBootstrapReportSpec,
        target: &Request,
        plan: &Plan,
        changes: &[Change],
        observer: &Logged<'_>,
    ) -> NodeBootstrapReportStatus {
        let fetched = observer.fetched(Instant::now());
        let open = observer.open.borrow();
        let now = open.first().map(|(change, _)| change);
        self.word_of(spec, &target.name, &Outcome::Applying { changes, now, fetched }, &plan.warnings)
    }

    /// The API has this word now.
    fn told(&mut self, word: Option<NodeBootstrapReportStatus>) {
        if let Some(word) = word {
            self.said = word.clone();
            self.known = Some(word);
        }
    }

    /// Whether this host has it in writing that this revision was begun: what is claimed here.
    fn is_begun(&self, target: &Request) -> bool {
        let begun = self.host.state.begun(&target.revision.node_bootstrap);
        begun.is_ok_and(|begun| {
            begun.is_some_and(|begun| {
                begun.name == target.name
                    && begun.created == target.created
                    && begun.revision == target.revision
            })
        })
    }

    /// What an earlier process changed for this revision.
    fn made_before(&self, target: &Request) -> Vec<ChangeSummary> {
        self.result_of(target).map(|result| result.changes).unwrap_or_default()
    }

    /// What came of the last run for this revision that had something to do, if that ended well.
    fn result_of(&self, target: &Request) -> Option<LastResult> {
        let result = self.host.state.result(&target.revision.node_bootstrap).ok().flatten();
        result.filter(|result| result.done && result.revision == target.name)
    }

    /// Listens to what the revision manages.
    fn listen(&mut self, target: &Request) {
        if !std::mem::take(&mut self.listen) {
            return;
        }
        let (units, paths) = self.to_listen(target);
        self.listen_to(units, paths, kernel::to_watch(&target.revision.resources));
    }

    /// The units and paths that tell of what the revision manages.
    fn to_listen(&self, target: &Request) -> (BTreeMap<String, bool>, BTreeSet<String>) {
        let resources = &target.revision.resources;
        let (units, links) = unit::to_watch(&self.host.root, resources);
        let own = ACCOUNT_FILES.iter().chain(&[PAUSED]).map(|path| (*path).to_owned());
        // Some of them may be links.
        let root = &self.host.root;
        let own = own.chain(accounts::user_files(root)).chain(accounts::group_files(root));
        let certificates = resource::trust::to_watch(&self.host.root, &target.revision);
        let watched = resources.iter().flat_map(|one| resource::watched(&self.host, one));
        (units, own.chain(watched).chain(links).chain(certificates).collect())
    }

    /// Listens to these and to nothing else.
    fn listen_to(&mut self, units: BTreeMap<String, bool>, paths: BTreeSet<String>, kernel: Wanted) {
        self.units = units;
        let files = self.notify.as_mut().map_or(Ok(()), |notify| notify.watch(&self.host.root, &paths));
        let kernel = self.kernel.watch(&self.host.root, kernel);
        for error in [files, kernel].into_iter().filter_map(Result::err) {
            warn!(%error, "some drift is noticed at the interval only");
        }
    }

    async fn leave(&mut self, spec: &NodeBootstrapReportSpec, stop: &CancellationToken) -> Next {
        let is_revert = spec.leave == Some(Leave::Revert);
        match self.host.state.switch(&self.settings.node_bootstrap).ok().flatten() {
            Some(switch) if switch.stage.is_open() => return self.await_switch(spec, stop).await,
            Some(switch) if is_revert && switch.forbids(REVERT, &spec.retry) => {
                return self.rolled_back(spec, &switch, stop).await;
            }
            _ => {}
        }
        self.target = None;
        let revision = if is_revert { REVERT.to_owned() } else { self.said.revision.clone() };
        let Some(lock) = self.lock(spec, &revision, stop).await else { return Next::Rest };
        if let Some(why) = self.why_paused(spec) {
            return self.rest_paused(spec, &why).await;
        }
        if let Some(next) = self.others_switch(spec).await {
            return next;
        }
        let put_back = match (lock, is_revert) {
            (Ok(lock), true) => match self.revert(spec, lock, stop).await {
                Ok(made) => Some(made),
                Err(next) => return next,
            },
            (lock, _) => {
                let given_up =
                    lock.and_then(|_lock| engine::give_up(&self.host, &self.settings.node_bootstrap));
                if let Err(error) = given_up {
                    // What is left says only that something was claimed; leaving goes on.
                    warn!(%error, "claims of this NodeBootstrap stay on the host");
                }
                None
            }
        };
        self.say(spec, &revision, &Outcome::Left(put_back.as_deref()), &[]).await;
        Next::Rest
    }

    /// Puts back what was there before, as far as the permit goes; what was done, or what comes next instead.
    async fn revert(
        &mut self,
        spec: &NodeBootstrapReportSpec,
        lock: Lock,
        stop: &CancellationToken,
    ) -> Result<Vec<Change>, Next> {
        let planned = match engine::revert(&self.host, &self.settings.node_bootstrap, true) {
            Ok(request) => engine::plan(&self.host, &request).await.map(|plan| (request, plan)),
            Err(error) => Err(error),
        };
        let (request, plan) = match planned {
            Ok(planned) => planned,
            Err(error) => return Err(self.not_put_back(spec, &Failure::from(&error)).await),
        };
        let changes: Vec<Change> = plan.changes().cloned().collect();
        if !report::is_permitted(plan.disruption(), spec.permit.disruption) {
            drop(lock);
            self.say(spec, REVERT, &Outcome::Waiting(&changes), &[]).await;
            return Err(Next::Rest);
        }
        if plan.disruption() > Disruption::None {
            self.confirm(spec, &request, &changes, &[]).await?;
        }
        let done = if switch::touches(&self.host, &plan) {
            let node = self.settings.node_name.clone();
            let permit = spec.permit.disruption;
            let kubelet = Kubelet::find(&self.host.root);
            let asked = process::asked(&request, node, kubelet, permit, spec.health.as_ref(), &spec.retry);
            let over = match process::ask(&self.host, &request, asked, lock).await {
                Ok(()) => self.switched(spec, stop).await,
                Err(error) => Err(error),
            };
            match over {
                Ok(None) => return Err(Next::Rest),
                Ok(Some(switch)) if switch.stage == Stage::RolledBack => {
                    return Err(self.rolled_back(spec, &switch, stop).await);
                }
                Ok(Some(switch)) => switch.failure().map_or(Ok(switch.changes), Err),
                Err(error) => Err(Failure::from(&error)),
            }
        } else {
            let observer = Logged::new(self.pulse);
            engine::apply(&self.host, &request, &plan, lock, &observer, stop).await
        };
        let done = match done {
            Ok(made) => self.give_up().await.map(|()| made).map_err(|error| Failure::from(&error)),
            Err(failure) => Err(failure),
        };
        match done {
            Ok(made) => Ok(made),
            Err(failure) => Err(self.not_put_back(spec, &failure).await),
        }
    }

    async fn give_up(&self) -> Result<(), HostError> {
        let _lock = self.host.state.lock(|| {}).await?;
        engine::give_up(&self.host, &self.settings.node_bootstrap)
    }

    async fn not_put_back(&mut self, spec: &NodeBootstrapReportSpec, failure: &Failure) -> Next {
        if failure.is_stop() {
            return Next::Rest;
        }
        self.fail(spec, REVERT, failure, &[]).await
    }

    async fn fail(
        &mut self,
        spec: &NodeBootstrapReportSpec,
        revision: &str,
        failure: &Failure,
        warnings: &[String],
    ) -> Next {
        self.failed = true;
        warn!(revision, reason = failure.reason, message = failure.message, "failed");
        self.say(spec, revision, &Outcome::Failed(failure), warnings).await;
        Next::Retry
    }

    /// The host cannot be looked at.
    async fn refused(&mut self, spec: &NodeBootstrapReportSpec, target: &Request, error: &HostError) -> Next {
        self.fail(spec, &target.name, &Failure::from(error), &[]).await
    }

    /// The plan has problems.
    async fn impossible(&mut self, spec: &NodeBootstrapReportSpec, target: &Request, plan: &Plan) -> Next {
        self.failed = true;
        for problem in &plan.problems {
            let Problem { resource, reason, message } = problem;
            warn!(revision = target.name, resource, reason, message, "cannot be had");
        }
        self.say(spec, &target.name, &Outcome::Impossible(&plan.problems), &plan.warnings).await;
        Next::Retry
    }

    fn word_of(
        &self,
        spec: &NodeBootstrapReportSpec,
        revision: &str,
        outcome: &Outcome<'_>,
        warnings: &[String],
    ) -> NodeBootstrapReportStatus {
        let word =
            report::status(&self.said, spec, revision, &self.host.facts, outcome, warnings, &timestamp());
        // What is under way was begun under the permit that was acknowledged for it, whatever the Report says by now.
        let switch = self.host.state.switch(&self.settings.node_bootstrap).ok().flatten();
        match switch.is_some_and(|switch| switch.stage.is_open()) {
            true => NodeBootstrapReportStatus { permit_id: self.said.permit_id, ..word },
            false => word,
        }
    }

    /// Says what came of a pass; whether the API has it.
    async fn say(
        &mut self,
        spec: &NodeBootstrapReportSpec,
        revision: &str,
        outcome: &Outcome<'_>,
        warnings: &[String],
    ) -> bool {
        self.said = self.word_of(spec, revision, outcome, warnings);
        self.tell().await
    }

    /// Writes the status, if the API has another one; whether it has this one now. If not, it is tried again.
    async fn tell(&mut self) -> bool {
        self.tell = None;
        if self.report.is_none() || self.known.as_ref() == Some(&self.said) {
            return true;
        }
        match self.cluster.say(&self.said).await {
            Ok(()) => {
                let NodeBootstrapReportStatus { phase, revision, message, .. } = &self.said;
                info!(?phase, revision, message, "reported");
                self.known = Some(self.said.clone());
                self.tell_retry = Retry::new();
                true
            }
            Err(error) => {
                warn!(%error, "the status could not be written");
                let pause = self.tell_retry.pause();
                let pause = if matches!(error, FetchError::Away(_)) { pause.min(AWAY_RETRY) } else { pause };
                self.tell = Some(Instant::now() + pause);
                false
            }
        }
    }
}

/// Waits for work. If it takes longer than `patience`, a word is said while it goes on, and every other one that comes
/// of it later; given back is the one that the API has. If it could not be told, what is said at the end will be.
async fn telling<T>(
    cluster: &Cluster,
    word: impl Fn() -> Option<NodeBootstrapReportStatus>,
    patience: Duration,
    work: impl Future<Output = T>,
) -> (T, Option<NodeBootstrapReportStatus>) {
    tokio::pin!(work);
    let mut pause = patience;
    let mut told: Option<NodeBootstrapReportStatus> = None;
    loop {
        tokio::select! {
            done = &mut work => return (done, told),
            () = tokio::time::sleep(pause) => pause = SAY_EVERY,
        }
        let Some(mut word) = word() else { continue };
        if let Some(told) = &told {
            // It is one piece of work, since the first word.
            word.since.clone_from(&told.since);
            if *told == word {
                continue;
            }
        }
        let (said, done) = {
            let saying = cluster.say(&word);
            tokio::pin!(saying);
            tokio::select! {
                said = &mut saying => (said, None),
                done = &mut work => (saying.await, Some(done)),
            }
        };
        told = said.is_ok().then_some(word).or(told);
        if let Some(done) = done {
            return (done, told);
        }
    }
}

/// How long this node waits before it begins downloads: a time within the spread that is its own, and another one for
/// each revision.
fn delay(spec: &NodeBootstrapReportSpec) -> Duration {
    let digest = sha2::Sha256::digest(format!("{} {}", spec.node_uid, spec.revision));
    let draw = digest.iter().take(2).fold(0, |draw, byte| (draw << 8) | u64::from(*byte));
    // The draw is a part of 2 to the 16th.
    Duration::from_millis((u64::from(spec.spread) * 1000 * draw) >> 16)
}

/// The revision that a Report asks for: what puts back what was there before is one, too.
fn wanted(spec: &NodeBootstrapReportSpec) -> Option<&str> {
    match spec.leave {
        None => Some(&spec.revision),
        Some(Leave::Revert) => Some(REVERT),
        Some(Leave::Retain) => None,
    }
}

/// An entry of a revision, by how changes name it.
fn find<'r>(revision: &'r Revision, resource: &str) -> Option<&'r Resource> {
    let name = resource.split_once(' ')?;
    revision.resources.iter().find(|one| (one.kind(), one.name()) == name)
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Waits until a file, a unit, swap or a module was touched.
async fn touched(
    notify: Option<&mut Notify>,
    kernel: &KernelEvents,
    host: &Host,
    units: &BTreeMap<String, bool>,
) {
    let files = async {
        match notify {
            Some(notify) => notify.touched().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = files => {}
        () = kernel.touched() => {}
        () = host.systemd.touched(units) => {}
    }
}

/// Logs each change, shows that there is progress, and knows how far downloads are.
struct Logged<'a> {
    pulse: &'a Pulse,
    /// What was begun and is not done, and since when.
    open: RefCell<Vec<(Change, Instant)>>,
    /// Bytes that are there and bytes in all, of each download.
    downloads: RefCell<BTreeMap<String, (u64, Option<u64>)>>,
    /// When it was last told how far they are, and how far that was.
    told: Cell<(Instant, u64)>,
}

impl<'a> Logged<'a> {
    fn new(pulse: &'a Pulse) -> Self {
        let told = Cell::new((Instant::now(), 0));
        Self { pulse, open: RefCell::default(), downloads: RefCell::default(), told }
    }

    /// How far downloads are; nothing, if this was told a moment ago or they have only begun.
    fn fetched(&self, now: Instant) -> Option<Fetched> {
        let downloads = self.downloads.borrow();
        let bytes = downloads.values().map(|(bytes, _)| bytes).sum();
        let (last, before) = self.told.get();
        let took = now.duration_since(last);
        if downloads.is_empty() || took < SAY_EVERY {
            return None;
        }
        self.told.set((now, bytes));
        let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = bytes.saturating_sub(before).saturating_mul(1000) / milliseconds;
        Some(Fetched { bytes, total: downloads.values().map(|(_, total)| *total).sum(), rate })
    }
}

impl Observer for Logged<'_> {
    fn begins(&self, change: &Change) {
        self.pulse.beat();
        self.open.borrow_mut().push((change.clone(), Instant::now()));
    }

    fn done(&self, change: &Change) {
        self.pulse.beat();
        let mut open = self.open.borrow_mut();
        let begun = open.iter().position(|(begun, _)| begun == change).map(|index| open.remove(index).1);
        let took = begun.map(|begun| begun.elapsed()).unwrap_or_default();
        let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        info!(resource = change.resource, change = change.change, milliseconds, "changed");
    }

    fn downloaded(&self, change: &Change, bytes: u64, total: Option<u64>) {
        self.pulse.beat();
        let mut downloads = self.downloads.borrow_mut();
        if downloads.insert(change.resource.clone(), (bytes, total)).is_none() {
            // What an earlier run left did not come now.
            let (at, before) = self.told.get();
            self.told.set((at, before + bytes));
        }
    }

    fn download_ended(&self, change: &Change) {
        self.open.borrow_mut().retain(|(begun, _)| begun != change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(spread: u32, node: usize, revision: &str) -> Duration {
        delay(&NodeBootstrapReportSpec {
            node_uid: format!("uid-{node}"),
            revision: revision.to_owned(),
            spread,
            ..NodeBootstrapReportSpec::default()
        })
    }

    #[test]
    fn nodes_begin_evenly_within_the_spread() {
        // As many as the operator tells to spread over so long: 20 a second.
        let mut seconds = [0; 50];
        for node in 0..1000 {
            let delay = told(50, node, "r1");
            assert_eq!(delay, told(50, node, "r1"), "asked again it is the same");
            seconds[usize::try_from(delay.as_secs()).unwrap()] += 1;
        }
        assert!(seconds.iter().all(|begun| (5..=40).contains(begun)), "{seconds:?}");
        assert_ne!(told(50, 1, "r1"), told(50, 1, "r2"), "nobody is the last each time");
        assert_eq!(told(0, 1, "r1"), Duration::ZERO);
        assert!((0..100_000).all(|node| told(u32::MAX, node, "r").as_secs() < u64::from(u32::MAX)));
    }

    #[test]
    fn how_far_downloads_are_is_told_of_long_ones_with_what_came_since_the_last_word() {
        let pulse = Pulse::default();
        let logged = Logged::new(&pulse);
        let (begun, _) = logged.told.get();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let download = |name: &str| Change {
            resource: format!("binary /{name}"),
            change: String::new(),
            found: String::new(),
            disruption: Disruption::None,
        };
        assert_eq!(logged.fetched(at(100)), None, "nothing is downloaded");
        // Of one an earlier run left a half.
        logged.downloaded(&download("a"), 500, Some(1000));
        logged.downloaded(&download("b"), 0, Some(3000));
        logged.downloaded(&download("b"), 100, Some(3000));
        assert_eq!(logged.fetched(at(1)), None, "most are done soon");
        logged.downloaded(&download("a"), 800, Some(1000));
        assert_eq!(logged.fetched(at(10)), Some(Fetched { bytes: 900, total: Some(4000), rate: 40 }));
        logged.downloaded(&download("b"), 300, Some(3000));
        assert_eq!(logged.fetched(at(15)), None, "at most every 10 s");
        logged.downloaded(&download("c"), 0, None);
        assert_eq!(logged.fetched(at(30)), Some(Fetched { bytes: 1100, total: None, rate: 10 }));
    }
}
