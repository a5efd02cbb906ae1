//! One look at one NodeBootstrap, as named steps, data one way: observe (from the stores) ► render ► decide (pure) ►
//! apply ► status. In: its name. Out: the cluster nearer to what it says, its status, and when to look again.
//!
//! Looks come one at a time, so that what one has written the next one knows: a conflict is written before what
//! it is about, and NodeBootstraps that share nodes never decide on each other's half-written state. What takes time is
//! sent many at once within a look.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use crds::nodebootstrap::DeletionPolicy;
use crds::report::{Conflict, Disruption, Leave, ReportPhase, RunMode};
use crds::{NodeBootstrapSpec, NodeBootstrapStatus, Timeout, names};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use crate::cluster::{Cluster, VERSION_AGE};
use crate::conflict::{self, Claims, Contender};
use crate::enrolment::{self, Candidate, Enrolment, Write};
use crate::error::Error;
use crate::events::{self, Notice};
use crate::history;
use crate::objects::{self, AgentSettings, Owner};
use crate::observed::{AgentState, Node, NodeBootstrap, Owned, Report};
use crate::render::{Renderer, Rendering};
use crate::rollout::{Hold, Taken};
use crate::selection;
use crate::skew::VERSION_SKEW;
use crate::status::{self, Member, Problem};
use crate::telemetry::Metrics;
use crate::world::{World, agents};

/// How long a node that leaves may take to answer, if the spec does not say.
const LEAVE_TIMEOUT: Timeout = Timeout::from_secs(600);
/// A status in which only numbers and results have changed is written this often at most.
const STATUS_PAUSE: Duration = Duration::from_secs(1);
/// How soon to look again at what is not finished by this look.
const SOON: Duration = Duration::from_millis(100);
/// How soon to look again at what is left on a node that is being drained.
const DRAIN_PAUSE: Duration = Duration::from_secs(5);
/// Of how many nodes that are being drained one look asks what is left.
const DRAINS: usize = 10;
/// How many Reports one look changes at most, so that the other NodeBootstraps get their turn.
const AT_MOST: usize = 1000;

/// What a look works with.
pub struct Context {
    /// What is known.
    pub world: Arc<World>,
    /// What writes.
    pub cluster: Cluster,
    /// What renders.
    pub renderer: Renderer,
    /// How agents are run.
    pub agent: AgentSettings,
    /// What counts.
    pub metrics: Arc<Metrics>,
    /// When a status was last written, by NodeBootstrap.
    pub written: Mutex<HashMap<String, Instant>>,
    /// NodeBootstraps for which the API server refused something at the last look.
    pub refused: Mutex<BTreeSet<String>>,
}

/// What comes after a look.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// Look again after this time, even if nothing happens.
    pub again: Option<Duration>,
    /// NodeBootstraps that may go on now.
    pub others: BTreeSet<String>,
    /// Nothing is there by this name any more.
    pub is_gone: bool,
}

impl Next {
    fn again_within(&mut self, time: Duration) {
        self.again = Some(self.again.map_or(time, |other| other.min(time)));
    }
}

/// Looks at one NodeBootstrap.
///
/// # Errors
/// If the API server refuses something or cannot be reached; everything is tried again.
pub async fn reconcile(context: &Context, name: &str) -> Result<Next, Error> {
    let Some(node_bootstrap) = context.world.node_bootstraps.get(name) else {
        return clear_away(context, name).await;
    };
    match &node_bootstrap.spec {
        _ if node_bootstrap.deleting => end(context, &node_bootstrap).await,
        Ok(spec) => keep(context, &node_bootstrap, spec).await,
        Err(error) => malformed(context, &node_bootstrap, error).await,
    }
}

/// What a look at a NodeBootstrap has come to.
#[derive(Default)]
struct Look {
    nodes: Vec<Candidate>,
    next: Next,
    rendering: Rendering,
    refusal: Option<Problem>,
    hold: Option<Hold>,
    queued: BTreeSet<String>,
    /// Pods that are left on nodes that need a drain and are cordoned.
    left: BTreeMap<String, Vec<String>>,
    leaving: BTreeSet<String>,
    notices: Vec<Notice>,
}

/// A NodeBootstrap that is to be kept up.
async fn keep(
    context: &Context,
    node_bootstrap: &NodeBootstrap,
    spec: &NodeBootstrapSpec,
) -> Result<Next, Error> {
    let mut look = Look { nodes: candidates(&context.world, Some(spec)), ..Look::default() };
    let result = bring_about(context, node_bootstrap, spec, &mut look).await;
    look.refusal = context.repeated_refusal(&node_bootstrap.name, result.as_ref().err());
    // The status is told in any case: it is then that it is needed most.
    let told = tell(context, node_bootstrap, spec, &mut look).await;
    result.and(told)?;
    Ok(look.next)
}

async fn bring_about(
    context: &Context,
    node_bootstrap: &NodeBootstrap,
    spec: &NodeBootstrapSpec,
    look: &mut Look,
) -> Result<(), Error> {
    let Context { world, cluster, renderer, .. } = context;
    // Before anything is made, or it could outlive a NodeBootstrap that is deleted right now.
    if !node_bootstrap.is_held() {
        let mut finalizers = node_bootstrap.finalizers.clone();
        finalizers.push(names::FINALIZER.to_owned());
        cluster.set_finalizers(node_bootstrap, &finalizers).await?;
    }
    look.rendering = renderer.render(cluster, world, node_bootstrap, spec).await?;
    if look.rendering.problem.as_ref().is_some_and(|problem| problem.reason == VERSION_SKEW) {
        // The API server may be upgraded.
        look.next.again_within(VERSION_AGE);
    }
    if look.rendering.target.is_some() {
        prune(context, node_bootstrap, &look.rendering).await?;
        let (agent, revision) = tokio::join!(
            apply_agent(context, node_bootstrap, spec, &look.rendering),
            ensure_revision(context, node_bootstrap, &look.rendering, &mut look.next),
        );
        // In this order, so that the same trouble is told in the same words each time.
        agent.and(revision)?;
    }
    enrol(context, node_bootstrap, spec, look).await
}

/// Deletes revisions that are old and that nothing names.
async fn prune(
    context: &Context,
    node_bootstrap: &NodeBootstrap,
    rendering: &Rendering,
) -> Result<(), Error> {
    let Context { world, cluster, renderer, .. } = context;
    let revisions = world.revisions_of(&node_bootstrap.name);
    let payloads = world.payloads_of(&node_bootstrap.name);
    let reports = world.reports_of(&node_bootstrap.name);
    let named = named(node_bootstrap, rendering, &reports);
    for revision in history::to_prune(&revisions, &named) {
        cluster.delete_revision(&revision.name).await?;
    }
    // Of a revision that was never made, as we died in between.
    for payload in payloads {
        if world.revisions.get(&payload.name).is_none() && !named.contains(payload.name.as_str()) {
            cluster.delete_revision(&payload.name).await?;
        }
    }
    let of_any = |name: &str| world.revisions.get(name).is_some() || named.contains(name);
    renderer.keep_claims(of_any);
    Ok(())
}

/// The revisions that something names.
fn named<'a>(
    node_bootstrap: &'a NodeBootstrap,
    rendering: &'a Rendering,
    reports: &'a [Arc<Report>],
) -> BTreeSet<&'a str> {
    let status = &node_bootstrap.status;
    let by_status = [&status.update_revision, &status.current_revision].into_iter().flatten();
    let by_reports = reports.iter().flat_map(|report| {
        [&report.revision].into_iter().chain(report.answer.as_ref().map(|one| &one.revision))
    });
    let by_target = rendering.target.as_ref().map(|target| &target.name);
    by_status.chain(by_reports).chain(by_target).map(String::as_str).collect()
}

/// The agents and what they may do.
async fn apply_agent(
    context: &Context,
    node_bootstrap: &NodeBootstrap,
    spec: &NodeBootstrapSpec,
    rendering: &Rendering,
) -> Result<(), Error> {
    let Context { world, cluster, agent, .. } = context;
    let owner = owner(node_bootstrap);
    let mut payloads: BTreeSet<String> =
        world.payloads_of(&node_bootstrap.name).iter().map(|payload| payload.name.clone()).collect();
    payloads.extend(
        rendering.target.as_ref().filter(|target| target.has_payload).map(|target| target.name.clone()),
    );
    let payloads: Vec<_> = payloads.into_iter().collect();
    let (account, role) = (objects::service_account(owner), objects::role(owner, &payloads));
    let (binding, daemon_set) = (objects::role_binding(owner), objects::daemon_set(owner, spec, agent));
    // The account before its pods, and the Role before what refers to it; pods start while the rest is written.
    cluster.apply(&world.service_accounts, "ServiceAccount", &account).await?;
    let rights = async {
        cluster.apply(&world.roles, "Role", &role).await?;
        cluster.apply(&world.role_bindings, "RoleBinding", &binding).await
    };
    let (agents, rights) = tokio::join!(cluster.apply(&world.daemon_sets, "DaemonSet", &daemon_set), rights);
    agents.and(rights)
}

/// The revision and its payload, if they are not there.
async fn ensure_revision(
    context: &Context,
    node_bootstrap: &NodeBootstrap,
    rendering: &Rendering,
    next: &mut Next,
) -> Result<(), Error> {
    let Context { world, cluster, renderer, .. } = context;
    let Some(target) = &rendering.target else { return Ok(()) };
    let has_payload = !target.has_payload || world.secrets.get(&target.name).is_some();
    if world.revisions.get(&target.name).is_some() && has_payload {
        return Ok(());
    }
    let Some(rendered) = &rendering.fresh else {
        // Somebody has deleted it, or making it failed: its values are not kept, so it is rendered anew.
        renderer.forget(&node_bootstrap.name);
        next.again_within(SOON);
        return Ok(());
    };
    let owner = owner(node_bootstrap);
    // The payload first, so that whoever finds a revision finds its payload too.
    if target.has_payload {
        cluster.create(&world.secrets, "Secret", &objects::payload(owner, rendered)).await?;
    }
    let number = history::next_number(&world.revisions_of(&node_bootstrap.name));
    let revision = objects::revision(owner, rendered, number)?;
    cluster.create(&world.revisions, "ControllerRevision", &revision).await
}

/// Reports and labels.
async fn enrol(
    context: &Context,
    node_bootstrap: &NodeBootstrap,
    spec: &NodeBootstrapSpec,
    look: &mut Look,
) -> Result<(), Error> {
    let Context { world, cluster, .. } = context;
    let name = node_bootstrap.name.as_str();
    cluster.settle_doubts().await?;

    let all = contenders(context, node_bootstrap, &look.rendering).await?;
    let me = all.iter().find(|one| one.name == name);
    let Look { nodes: candidates, next, .. } = &mut *look;
    let nodes = || candidates.iter().map(|candidate| candidate.node.as_ref());
    let conflicts = me.map(|me| conflict::by_node(me, &all, nodes())).unwrap_or_default();
    if let Some(me) = me.filter(|_| mode(Some(spec)) == RunMode::Apply) {
        // What the younger ones must leave alone is written before we claim it. They see the same when they look
        // themselves, whether they looked before us or do so after.
        for younger in all.iter().filter(|one| me.is_older_than(one)) {
            let told = conflict::by_node(younger, &all, nodes());
            let report_of = |report: &str| world.reports.get(report);
            let writes = enrolment::warn_younger(&younger.name, &told, report_of);
            if !writes.is_empty() {
                cluster.enrol(&younger.name, &writes).await?;
                next.others.insert(younger.name.clone());
            }
        }
    }

    let bounds = bounds(context, node_bootstrap, look, conflicts).await?;
    let enrolment = decide(
        world,
        node_bootstrap,
        Some(spec),
        look.rendering.target.as_ref().map(|it| it.name.as_str()),
        &bounds,
        &look.nodes,
    );
    look.hold = enrolment.hold.clone();
    look.queued.clone_from(&enrolment.queued);
    look.leaving = enrolment.leaving.clone();
    carry_out(context, name, &enrolment, look).await
}

/// Asks what is left on nodes that wait for a drain and are cordoned.
async fn look_for_drained(
    context: &Context,
    node_bootstrap: &NodeBootstrap,
    look: &mut Look,
) -> Result<(), Error> {
    let Context { world, cluster, .. } = context;
    let waits = |node: &Node| {
        let report = world.reports.get(&names::report(&node_bootstrap.name, &node.name));
        report.is_some_and(|report| {
            report.answer_for(node).is_some_and(|answer| {
                answer.phase == ReportPhase::Waiting && answer.disruption >= Disruption::Drain
            })
        })
    };
    // Also of those that leave.
    let nodes = look.nodes.iter().filter(|one| one.node.is_cordoned);
    let names = nodes.filter(|one| waits(&one.node)).map(|one| one.node.name.clone());
    for name in names.take(DRAINS) {
        let left = cluster.pods_to_drain(&name).await?;
        if !left.is_empty() {
            look.next.again_within(DRAIN_PAUSE);
        }
        look.left.insert(name, left);
    }
    Ok(())
}

/// What keeps nodes from what they would do.
#[derive(Default)]
struct Bounds {
    /// What nodes must leave alone.
    conflicts: BTreeMap<String, Vec<Conflict>>,
    /// Nodes that were drained.
    drained: BTreeSet<String>,
    /// Nodes that other NodeBootstraps may disrupt.
    taken: Vec<Taken>,
}

async fn bounds(
    context: &Context,
    node_bootstrap: &NodeBootstrap,
    look: &mut Look,
    conflicts: BTreeMap<String, Vec<Conflict>>,
) -> Result<Bounds, Error> {
    look_for_drained(context, node_bootstrap, look).await?;
    let drained = look.left.iter().filter(|(_, left)| left.is_empty()).map(|(node, _)| node.clone());
    let taken = context.world.taken_beside(&node_bootstrap.name);
    Ok(Bounds { conflicts, drained: drained.collect(), taken })
}

fn decide(
    world: &World,
    node_bootstrap: &NodeBootstrap,
    spec: Option<&NodeBootstrapSpec>,
    target: Option<&str>,
    bounds: &Bounds,
    nodes: &[Candidate],
) -> Enrolment {
    let name = node_bootstrap.name.as_str();
    let pods = world.pods_of(name);
    enrolment::decide(&enrolment::Facts {
        name,
        created: node_bootstrap.created,
        is_ending: node_bootstrap.deleting,
        leave: leave(spec),
        leave_timeout: leave_timeout(spec).duration(),
        target,
        mode: mode(spec),
        max_parallel: spec.and_then(|spec| spec.rollout.as_ref()?.max_parallel),
        allowed: allowed(spec),
        drained: &bounds.drained,
        taken: &bounds.taken,
        drift: spec.and_then(|spec| spec.drift.as_ref()),
        health: spec.and_then(|spec| spec.health.as_ref()),
        nodes,
        reports: &world.reports_of(name),
        has_daemon_set: world.daemon_sets.get(&Owned::key("DaemonSet", &names::agent(name))).is_some(),
        agents: &agents(&pods),
        conflicts: &bounds.conflicts,
        now: steady_now(),
    })
}

/// The time by a clock that nobody sets while this process runs: how long a node has had to leave is no matter of a time
/// server.
fn steady_now() -> Timestamp {
    static BEGUN: LazyLock<(Timestamp, Instant)> = LazyLock::new(|| (Timestamp::now(), Instant::now()));
    let (time, begun) = *BEGUN;
    time.checked_add(begun.elapsed()).unwrap_or(Timestamp::MAX)
}

/// All nodes of the cluster, and whether the spec selects them.
fn candidates(world: &World, spec: Option<&NodeBootstrapSpec>) -> Vec<Candidate> {
    let is_selected = |node: &Node| spec.is_some_and(|spec| selection::selects(spec, node));
    let nodes = world.nodes.all().into_iter();
    nodes.map(|node| Candidate { is_selected: is_selected(&node), node }).collect()
}

fn leave(spec: Option<&NodeBootstrapSpec>) -> Leave {
    match spec.and_then(|spec| spec.deletion_policy).unwrap_or_default() {
        DeletionPolicy::Retain => Leave::Retain,
        DeletionPolicy::Revert => Leave::Revert,
    }
}

fn mode(spec: Option<&NodeBootstrapSpec>) -> RunMode {
    spec.and_then(|spec| spec.mode).unwrap_or_default()
}

fn allowed(spec: Option<&NodeBootstrapSpec>) -> Disruption {
    spec.and_then(|spec| spec.rollout.as_ref()?.allow).unwrap_or(Disruption::Drain)
}

fn leave_timeout(spec: Option<&NodeBootstrapSpec>) -> Timeout {
    spec.and_then(|spec| spec.leave_timeout).unwrap_or(LEAVE_TIMEOUT)
}

/// Makes the writes step by step, and says what follows from them.
async fn carry_out(
    context: &Context,
    name: &str,
    enrolment: &Enrolment,
    look: &mut Look,
) -> Result<(), Error> {
    let mut left = AT_MOST;
    let mut has_deleted = false;
    for step in &enrolment.steps {
        let now = &step[..step.len().min(left)];
        context.cluster.enrol(name, now).await?;
        has_deleted |= now.iter().any(|write| matches!(write, Write::Delete { .. }));
        left -= now.len();
        if now.len() < step.len() {
            // What comes after needs all of this step.
            look.next.again_within(SOON);
            return Ok(());
        }
    }
    // Only now, or it would be told again after a failure.
    look.notices.extend(enrolment.given_up.iter().map(|node| Notice::given_up(node, name)));
    if let Some(time) = enrolment.look_again {
        look.next.again_within(time);
    }
    if has_deleted {
        // A node whose Report was deleted may have come back, and begins anew.
        look.next.again_within(SOON);
    }
    if left < AT_MOST {
        let all = context.world.node_bootstraps.all();
        look.next.others.extend(all.iter().filter(|one| one.name != name).map(|one| one.name.clone()));
    }
    Ok(())
}

/// All NodeBootstraps that may share nodes, with what they claim. Empty if there is only one.
async fn contenders(
    context: &Context,
    node_bootstrap: &NodeBootstrap,
    rendering: &Rendering,
) -> Result<Vec<Contender>, Error> {
    let Context { world, cluster, renderer, .. } = context;
    let all = world.node_bootstraps.all();
    if all.len() < 2 {
        return Ok(Vec::new());
    }
    let mut contenders = Vec::new();
    for one in all {
        let mut claims = Claims::default();
        if one.name != node_bootstrap.name && mode(one.spec.as_ref().ok()) == RunMode::Plan {
            // It takes nothing from others. What its agents have on a host stays its own: it stands there in writing.
            contenders.push(contender(world, &one, claims));
            continue;
        }
        let rendering = match &one.spec {
            _ if one.name == node_bootstrap.name => rendering.clone(),
            Ok(spec) if !one.deleting => {
                // What keeps another's spec from being rendered must not keep us; its Reports still count.
                renderer.render(cluster, world, &one, spec).await.unwrap_or_else(|error| {
                    tracing::warn!(other = one.name, %error, "what its spec claims is not known");
                    Rendering::default()
                })
            }
            Ok(_) | Err(_) => Rendering::default(),
        };
        if rendering.fresh.is_some() && one.name != node_bootstrap.name {
            // Its own look needs the values, which are not kept.
            renderer.forget(&one.name);
        }
        if let Some(target) = &rendering.target {
            claims.extend(&target.claims);
        }
        let reports = world.reports_of(&one.name);
        let revisions: BTreeSet<&str> = reports.iter().map(|report| report.revision.as_str()).collect();
        for revision in revisions.into_iter().filter(|revision| !revision.is_empty()) {
            claims.extend(renderer.claims_of(cluster, revision).await?.as_ref());
        }
        contenders.push(contender(world, &one, claims));
    }
    Ok(contenders)
}

fn contender(world: &Arc<World>, one: &Arc<NodeBootstrap>, claims: Claims) -> Contender {
    let (world, this) = (Arc::clone(world), Arc::clone(one));
    Contender {
        name: one.name.clone(),
        created: one.created,
        claims,
        is_on: Box::new(move |node| {
            let is_coming =
                !this.deleting && this.spec.as_ref().is_ok_and(|spec| selection::selects(spec, node));
            // Until its agent there has said that it has left, it may still write.
            is_coming || world.reports.get(&names::report(&this.name, &node.name)).is_some()
        }),
    }
}

/// Nodes with their Reports and agents, for the status.
fn members<'a>(
    look: &'a Look,
    reports: &'a [Arc<Report>],
    agents: &HashMap<&str, &'a AgentState>,
    is_meant: impl Fn(&Candidate) -> bool,
) -> Vec<Member<'a>> {
    let reports: HashMap<&str, &Report> =
        reports.iter().map(|report| (report.node.as_str(), report.as_ref())).collect();
    let nodes = look.nodes.iter().filter(|one| is_meant(one)).map(|one| one.node.as_ref());
    nodes
        .map(|node| Member {
            node,
            report: reports.get(node.name.as_str()).copied().filter(|report| report.node_uid == node.uid),
            agent: agents.get(node.name.as_str()).copied().unwrap_or(&AgentState::Absent),
        })
        .collect()
}

/// The status, and the Events that follow from it.
async fn tell(
    context: &Context,
    node_bootstrap: &NodeBootstrap,
    spec: &NodeBootstrapSpec,
    look: &mut Look,
) -> Result<(), Error> {
    let Context { world, .. } = context;
    let pods = world.pods_of(&node_bootstrap.name);
    let agents = agents(&pods);
    let reports = world.reports_of(&node_bootstrap.name);
    let selected = members(look, &reports, &agents, |one| one.is_selected);
    let leaving = members(look, &reports, &agents, |one| look.leaving.contains(&one.node.name));
    let status = status::fold(&status::Facts {
        generation: node_bootstrap.generation,
        target: look.rendering.target.as_ref().map(|target| target.name.as_str()),
        mode: mode(Some(spec)),
        members: &selected,
        problem: look.rendering.problem.clone().or_else(|| look.refusal.clone()),
        hold: look.hold.as_ref(),
        allowed: allowed(Some(spec)),
        left: &look.left,
        queued: &look.queued,
        leaving: &leaving,
        before: &node_bootstrap.status,
        now: Timestamp::now(),
    });
    context.metrics.nodes(&node_bootstrap.name, Some(status.nodes));
    let has_secrets = spec.files.iter().any(|file| file.secret_ref.is_some());
    let is_open_with_secrets = has_secrets && selection::is_open(spec);
    look.notices.extend(events::between(&node_bootstrap.status, &status, is_open_with_secrets));
    write_status(context, node_bootstrap, &status, look).await
}

async fn write_status(
    context: &Context,
    node_bootstrap: &NodeBootstrap,
    status: &NodeBootstrapStatus,
    look: &mut Look,
) -> Result<(), Error> {
    let notices = std::mem::take(&mut look.notices);
    if *status == node_bootstrap.status {
        // Without a change of the status there may still be a node that was given up.
        context.cluster.publish(node_bootstrap, &notices).await;
        return Ok(());
    }
    let name = &node_bootstrap.name;
    let last = context.written().get(name).copied();
    if let Some(wait) = last.and_then(|last| STATUS_PAUSE.checked_sub(last.elapsed()))
        && notices.is_empty()
        && is_only_progress(&node_bootstrap.status, status)
    {
        look.next.again_within(wait);
        return Ok(());
    }
    context.cluster.set_status(node_bootstrap, status).await?;
    context.written().insert(name.clone(), Instant::now());
    // After the status, or a failure to write it would tell the same again.
    context.cluster.publish(node_bootstrap, &notices).await;
    Ok(())
}

/// Whether only numbers and results have changed, as they do many times a second while thousands of nodes change.
fn is_only_progress(before: &NodeBootstrapStatus, after: &NodeBootstrapStatus) -> bool {
    let gist = |status: &NodeBootstrapStatus| {
        let conditions =
            status.conditions.iter().map(|one| (one.type_.clone(), one.status.clone(), one.reason.clone()));
        (
            status.observed_generation,
            status.update_revision.clone(),
            status.current_revision.clone(),
            conditions.collect::<Vec<_>>(),
        )
    };
    gist(before) == gist(after)
}

/// A NodeBootstrap whose spec cannot be read. Whom it selects is not known, so that nothing is done to its nodes.
async fn malformed(context: &Context, node_bootstrap: &NodeBootstrap, error: &str) -> Result<Next, Error> {
    tracing::warn!(node_bootstrap = node_bootstrap.name, error, "its spec cannot be read");
    let mut look = Look::default();
    let (generation, before) = (node_bootstrap.generation, &node_bootstrap.status);
    let status = status::fold_malformed(generation, before, error, Timestamp::now());
    look.notices = events::between(before, &status, false);
    write_status(context, node_bootstrap, &status, &mut look).await?;
    Ok(look.next)
}

/// A NodeBootstrap that is being deleted: every node leaves, then goes what was made for it, then the finalizer.
async fn end(context: &Context, node_bootstrap: &NodeBootstrap) -> Result<Next, Error> {
    let Context { world, cluster, renderer, metrics, .. } = context;
    let spec = node_bootstrap.spec.as_ref().ok();
    let mut look = Look { nodes: candidates(world, spec), ..Look::default() };
    if !node_bootstrap.is_held() {
        return Ok(look.next);
    }
    cluster.settle_doubts().await?;
    let bounds = bounds(context, node_bootstrap, &mut look, BTreeMap::new()).await?;
    let enrolment = decide(world, node_bootstrap, spec, None, &bounds, &look.nodes);
    let mut result = carry_out(context, &node_bootstrap.name, &enrolment, &mut look).await;
    if result.is_ok() && world.reports_of(&node_bootstrap.name).is_empty() {
        result = remove_made(context, &node_bootstrap.name).await;
        if result.is_ok() {
            cluster.publish(node_bootstrap, &look.notices).await;
            let others = node_bootstrap.finalizers.iter().filter(|one| *one != names::FINALIZER).cloned();
            cluster.set_finalizers(node_bootstrap, &others.collect::<Vec<_>>()).await?;
            renderer.forget(&node_bootstrap.name);
            metrics.nodes(&node_bootstrap.name, None);
            return Ok(look.next);
        }
    }
    let refused = context.repeated_refusal(&node_bootstrap.name, result.as_ref().err());
    let pods = world.pods_of(&node_bootstrap.name);
    let reports = world.reports_of(&node_bootstrap.name);
    let leaving =
        members(&look, &reports, &agents(&pods), |node| enrolment.leaving.contains(&node.node.name));
    let status = status::fold_leaving(
        &status::Facts {
            generation: node_bootstrap.generation,
            target: None,
            mode: mode(spec),
            members: &[],
            problem: refused,
            hold: enrolment.hold.as_ref(),
            allowed: allowed(spec),
            left: &look.left,
            queued: &BTreeSet::new(),
            leaving: &leaving,
            before: &node_bootstrap.status,
            now: Timestamp::now(),
        },
        leave_timeout(spec),
    );
    look.notices.extend(events::between(&node_bootstrap.status, &status, false));
    let told = write_status(context, node_bootstrap, &status, &mut look).await;
    result.and(told)?;
    Ok(look.next)
}

/// What is left of a NodeBootstrap that is gone, as when its finalizer was taken off by hand.
async fn clear_away(context: &Context, name: &str) -> Result<Next, Error> {
    let Context { world, cluster, renderer, metrics, .. } = context;
    let reports = world.reports_of(name).into_iter();
    let deletes = reports.map(|report| Write::Delete { name: report.name.clone(), uid: report.uid.clone() });
    cluster.enrol(name, &deletes.collect::<Vec<_>>()).await?;
    let label = names::leaving_label(name);
    let nodes = world.nodes.all().into_iter().filter(|node| node.labels.contains_key(&label));
    let labels =
        nodes.map(|node| Write::Label { node: node.name.clone(), uid: node.uid.clone(), is_leaving: false });
    cluster.enrol(name, &labels.collect::<Vec<_>>()).await?;
    remove_made(context, name).await?;
    renderer.forget(name);
    metrics.nodes(name, None);
    context.written().remove(name);
    Ok(Next { is_gone: true, ..Next::default() })
}

/// Deletes all that was made for a NodeBootstrap in the namespace. The garbage collector would too, some time later.
async fn remove_made(context: &Context, node_bootstrap: &str) -> Result<(), Error> {
    let Context { world, cluster, .. } = context;
    let name = names::agent(node_bootstrap);
    cluster.delete_owned::<DaemonSet>(&world.daemon_sets, "DaemonSet", &name).await?;
    cluster.delete_owned::<RoleBinding>(&world.role_bindings, "RoleBinding", &name).await?;
    cluster.delete_owned::<Role>(&world.roles, "Role", &name).await?;
    cluster.delete_owned::<ServiceAccount>(&world.service_accounts, "ServiceAccount", &name).await?;
    let revisions = world.revisions_of(node_bootstrap);
    let payloads = world.payloads_of(node_bootstrap);
    for made in revisions.iter().chain(&payloads) {
        cluster.delete_revision(&made.name).await?;
    }
    Ok(())
}

fn owner(node_bootstrap: &NodeBootstrap) -> Owner<'_> {
    Owner { name: &node_bootstrap.name, uid: &node_bootstrap.uid }
}

impl Context {
    /// What an API server refuses twice is told in the status; one that has just started refuses for a moment.
    fn repeated_refusal(&self, node_bootstrap: &str, error: Option<&Error>) -> Option<Problem> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(error) = error.filter(|error| error.is_refusal()) else {
            refused.remove(node_bootstrap);
            return None;
        };
        let is_first = refused.insert(node_bootstrap.to_owned());
        (!is_first).then(|| Problem {
            reason: "WriteRefused".to_owned(),
            message: format!("{error}; tried again by itself"),
            is_stalled: false,
        })
    }

    fn written(&self) -> std::sync::MutexGuard<'_, HashMap<String, Instant>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
