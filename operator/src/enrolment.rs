//! Which Reports there shall be and what they say; who joins and who leaves. In: nodes, the Reports of one
//! NodeBootstrap, its target revision, conflicts. Out: writes in the order in which they must be made, and nothing
//! where all is as it shall be.
//!
//! The order: what takes away (a conflict, a permit, an invitation to stay) before what changes, and that before what
//! gives; a leaving node's label goes last, since it is what keeps its agent there.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crds::names::REVERT;
use crds::nodebootstrap::{Drift, Health};
use crds::report::{Conflict, Disruption, Leave, Permit, ReportPhase, RunMode};
use crds::{NodeBootstrapReportSpec, Share, names};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::observed::{AgentState, Answer, Node, Report};
use crate::rollout::{self, Hold, Seat, Taken, Turn, Use};

/// A node of the cluster.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The Node.
    pub node: Arc<Node>,
    /// Whether the NodeBootstrap selects it.
    pub is_selected: bool,
}

/// What is known of one NodeBootstrap and its nodes.
pub struct Facts<'a> {
    /// The NodeBootstrap's name.
    pub name: &'a str,
    /// When it was created: an agent is told, so that it knows which of two is the older.
    pub created: Timestamp,
    /// Whether every node shall leave.
    pub is_ending: bool,
    /// What becomes of what was made on a node that leaves.
    pub leave: Leave,
    /// How long a node that leaves may take to answer, and then, once it is its turn, to leave.
    pub leave_timeout: Duration,
    /// The revision that nodes shall have; `None` if there has never been a good one.
    pub target: Option<&'a str>,
    /// Whether nodes are changed, or only planned for.
    pub mode: RunMode,
    /// How many may be at a new revision at once; `None`: all.
    pub max_parallel: Option<Share>,
    /// The highest disruption that a permit may be for.
    pub allowed: Disruption,
    /// Nodes on which nothing is left that a drain would take away.
    pub drained: &'a BTreeSet<String>,
    /// Nodes that other NodeBootstraps may disrupt.
    pub taken: &'a [Taken],
    /// What becomes of drift.
    pub drift: Option<&'a Drift>,
    /// How nodes are judged.
    pub health: Option<&'a Health>,
    /// All nodes of the cluster.
    pub nodes: &'a [Candidate],
    /// The Reports whose names start with the NodeBootstrap's.
    pub reports: &'a [Arc<Report>],
    /// Whether there is a DaemonSet, so that an agent may come to a node that has none.
    pub has_daemon_set: bool,
    /// The agents' pods, by node.
    pub agents: &'a HashMap<&'a str, &'a AgentState>,
    /// What nodes must leave alone, by node.
    pub conflicts: &'a BTreeMap<String, Vec<Conflict>>,
    /// The time, by a clock that nobody sets while the operator runs.
    pub now: Timestamp,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// Make a Report.
    Create {
        /// The Node that owns it.
        node: String,
        /// The Node's uid.
        node_uid: String,
        /// What it says.
        spec: NodeBootstrapReportSpec,
    },
    /// Change a Report.
    Change {
        /// The Report's name.
        name: String,
        /// The Report's uid: another Report by this name is not changed.
        uid: String,
        /// What changes.
        edit: Edit,
    },
    /// Delete a Report.
    Delete {
        /// The Report's name.
        name: String,
        /// The Report's uid: another Report by this name stays.
        uid: String,
    },
    /// Set or take the leaving label.
    Label {
        /// The Node's name.
        node: String,
        /// The Node's uid: another Node by this name is not changed.
        uid: String,
        /// Whether it shall have the label.
        is_leaving: bool,
    },
}

/// The fields of a Report that change.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Edit {
    /// When the NodeBootstrap was created.
    pub node_bootstrap_created: Option<Timestamp>,
    /// The revision that the node shall have, and over how many seconds downloads for it begin.
    pub revision: Option<(String, u32)>,
    /// Whether the agent makes changes or only plans them.
    pub mode: Option<RunMode>,
    /// What the agent may do.
    pub permit: Option<Permit>,
    /// What the node must leave alone.
    pub conflicts: Option<Vec<Conflict>>,
    /// What becomes of drift; `Some(None)`: the default.
    pub drift: Option<Option<Drift>>,
    /// How the node is judged; `Some(None)`: by default.
    pub health: Option<Option<Health>>,
    /// What asks for another attempt.
    pub retry: Option<String>,
    /// Whether nothing at all is changed on the node.
    pub paused: Option<bool>,
    /// Told to leave, and since when it has been waited for, unless it waits itself; or (`Some(None)`) told to stay.
    pub leave: Option<Option<(Leave, Option<Timestamp>)>>,
}

/// What is decided for one NodeBootstrap.
#[derive(Debug, Default)]
pub struct Enrolment {
    /// Writes by step: those of one step may go at once, the steps one after the other.
    pub steps: [Vec<Write>; 4],
    /// Nodes that are given up.
    pub given_up: Vec<String>,
    /// When to look again although nothing has changed: a node's time to leave will be over.
    pub look_again: Option<Duration>,
    /// Nodes that are still leaving.
    pub leaving: BTreeSet<String>,
    /// What keeps the rollout.
    pub hold: Option<Hold>,
    /// Nodes that are not told of the revision yet, since enough others are at it.
    pub queued: BTreeSet<String>,
}

/// So many nodes may begin downloads in one second, and as many at once.
const STARTS: usize = 20;
/// The longest that a node waits before it begins downloads, in seconds.
const MAX_SPREAD: u32 = 300;

const TAKE: usize = 0;
const CHANGE: usize = 1;
const GIVE: usize = 2;
const UNLABEL: usize = 3;

/// A node that leaves.
struct Leaver<'a> {
    node: &'a Node,
    report: &'a Report,
    /// Since when it is waited for; `None`: it waits itself.
    since: Option<Timestamp>,
}

/// Decides. See the module.
pub fn decide(facts: &Facts<'_>) -> Enrolment {
    let mut enrolment = Enrolment::default();
    let leaving_label = names::leaving_label(facts.name);
    let mut staying: Vec<(&Node, &Report)> = Vec::new();
    let mut leaving: Vec<Leaver<'_>> = Vec::new();
    let mut keeps_label = HashSet::new();
    let mut has_report = HashSet::new();
    let by_name: HashMap<&str, &Candidate> =
        facts.nodes.iter().map(|candidate| (candidate.node.name.as_str(), candidate)).collect();

    for report in facts.reports.iter().map(Arc::as_ref) {
        let delete = || Write::Delete { name: report.name.clone(), uid: report.uid.clone() };
        let is_ours =
            report.node_bootstrap == facts.name && names::report(facts.name, &report.node) == report.name;
        let candidate =
            by_name.get(report.node.as_str()).filter(|one| is_ours && one.node.uid == report.node_uid);
        let Some(Candidate { node, is_selected }) = candidate else {
            // Of a Node that is gone or was made anew, or nothing that we made: there is nobody to wait for.
            enrolment.steps[TAKE].push(delete());
            continue;
        };
        let has_left = report.leave.is_some()
            && answer_of(node, report).is_some_and(|one| one.phase == ReportPhase::Left);
        // Nobody waits for an agent that never began: its image is not to be had, and it has never answered.
        let is_untouched = report.answer.is_none()
            && facts.agents.get(report.node.as_str()).is_some_and(|agent| agent.lacks_image());
        if has_left || (is_untouched && (facts.is_ending || !is_selected)) {
            // Also of a node that has left and came back meanwhile: it begins anew on the next pass.
            enrolment.steps[GIVE].push(delete());
            has_report.insert(report.node.as_str());
            continue;
        }
        if *is_selected && !facts.is_ending {
            has_report.insert(report.node.as_str());
            staying.push((node, report));
            continue;
        }
        // One that waits for its turn, or for a person, answers: its time stands.
        let stands = rollout::waits_to_leave(&seat(facts, node, report, true));
        // One that was told in the future, by a clock that was wrong then, is told anew: nobody is waited for that long.
        let told = report.leaving_since.filter(|since| report.leave.is_some() && *since <= facts.now);
        let since = told.unwrap_or(facts.now);
        // What the host has begun it confirms or takes back within that time, also where nobody answers for it.
        let begun = match report.permit.disruption {
            Disruption::None => Duration::ZERO,
            Disruption::Restart | Disruption::Drain => Health::timeout(facts.health).duration(),
        };
        let allowed = facts.leave_timeout.saturating_add(begun);
        let allowed = SignedDuration::try_from(allowed).unwrap_or(SignedDuration::MAX);
        let left = allowed - facts.now.duration_since(since);
        // As when the namespace was deleted first: there is no agent, none will come, and so nothing of ours runs.
        let is_deserted =
            facts.is_ending && !facts.has_daemon_set && !facts.agents.contains_key(report.node.as_str());
        if (left <= SignedDuration::ZERO && !stands) || is_deserted {
            // Of one that has left it was only waited for that it is Ready again.
            if report.answer_for(node).is_none_or(|one| one.phase != ReportPhase::Left) {
                enrolment.given_up.push(report.node.clone());
            }
            enrolment.steps[GIVE].push(delete());
            continue;
        }
        if !stands {
            let left = left.unsigned_abs();
            enrolment.look_again = Some(enrolment.look_again.map_or(left, |other: Duration| other.min(left)));
        }
        enrolment.leaving.insert(report.node.clone());
        keeps_label.insert(report.node.as_str());
        leaving.push(Leaver { node, report, since: (!stands).then_some(since) });
        // While the selector still matches, the DaemonSet keeps the agent there by itself.
        if !is_selected && !node.labels.contains_key(&leaving_label) {
            enrolment.steps[TAKE].push(label(node, true));
        }
    }

    let mut new = joining(facts, &has_report);
    let most = most(facts, staying.len() + new.len());
    if let Some(most) = most {
        enrolment.queued = queued(facts, most, &staying, &new);
        new.retain(|node| !enrolment.queued.contains(&node.name));
    }
    let spread = spread(facts.target, &staying, new.len(), most);
    permits(facts, &staying, &leaving, spread, &mut enrolment);
    join(facts, &new, spread, &mut enrolment);

    let labelled = facts.nodes.iter().map(|candidate| &candidate.node).filter(|node| {
        node.has_leaving_label
            && node.labels.contains_key(&leaving_label)
            && !keeps_label.contains(node.name.as_str())
    });
    enrolment.steps[UNLABEL].extend(labelled.map(|node| label(node, false)));
    enrolment
}

/// How many nodes may be at a new revision at once; `None`: all, and so it is where nothing is changed.
fn most(facts: &Facts<'_>, nodes: usize) -> Option<usize> {
    let most = facts.max_parallel.filter(|_| facts.mode == RunMode::Apply)?.of(nodes);
    (most < nodes).then_some(most)
}

/// Nodes that are not told of the revision yet. `most`: how many may be at it.
fn queued<'a>(
    facts: &Facts<'a>,
    most: usize,
    staying: &[(&'a Node, &'a Report)],
    new: &[&'a Node],
) -> BTreeSet<String> {
    let Some(target) = facts.target else { return BTreeSet::new() };
    let agent = |node: &Node| facts.agents.get(node.name.as_str()).copied();
    let turn = |node: &'a Node| Turn {
        node: &node.name,
        is_control_plane: node.is_control_plane,
        // One whose agent never started keeps no other from its turn.
        can_begin: node.ready && agent(node) == Some(&AgentState::Ready),
        is_told: false,
        is_at_it: false,
    };
    let staying = staying.iter().map(|(node, report)| Turn {
        is_told: report.revision == target && report.mode == facts.mode,
        // Who only plans is at nothing.
        is_at_it: report.mode == RunMode::Apply && rollout::is_at_it(&seat(facts, node, report, false)),
        ..turn(node)
    });
    let turns: Vec<_> = staying.chain(new.iter().map(|node| turn(node))).collect();
    rollout::waiting(most, &turns).into_iter().map(str::to_owned).collect()
}

fn conflicts_of<'a>(facts: &Facts<'a>, node: &str) -> &'a [Conflict] {
    facts.conflicts.get(node).map(Vec::as_slice).unwrap_or_default()
}

fn seat<'a>(facts: &Facts<'a>, node: &'a Node, report: &'a Report, is_leaving: bool) -> Seat<'a> {
    // Mode Plan and conflicts are about what is to be had.
    let cannot_have = facts.mode == RunMode::Plan || !conflicts_of(facts, &report.node).is_empty();
    Seat {
        is_reachable: is_reachable(node, facts.agents.get(report.node.as_str()).copied()),
        is_blocked: is_paused(node, report) || (!is_leaving && (cannot_have || facts.target.is_none())),
        is_drained: facts.drained.contains(&report.node),
        target: if is_leaving { REVERT } else { facts.target.unwrap_or(&report.revision) },
        ..bare_seat(node, report)
    }
}

/// A seat with what Node and Report alone say.
fn bare_seat<'a>(node: &'a Node, report: &'a Report) -> Seat<'a> {
    let revision = if report.leave.is_some() { REVERT } else { report.revision.as_str() };
    Seat {
        node: &report.node,
        is_control_plane: node.is_control_plane,
        is_reachable: false,
        is_blocked: false,
        is_drained: false,
        target: revision,
        revision,
        permit: report.permit,
        answer: answer_of(node, report),
    }
}

/// What a node's agent answered. One that was disturbed to leave has left only when its Node is Ready again: until then it
/// counts.
fn answer_of<'a>(node: &Node, report: &'a Report) -> Option<&'a Answer> {
    let is_down = report.permit.disruption > Disruption::None && !node.ready;
    report.answer_for(node).filter(|answer| !(is_down && answer.phase == ReportPhase::Left))
}

/// How far a node is with its permit, by a Report of whatever NodeBootstrap; nobody uses that of a Node that is gone.
pub fn use_of(report: &Report, node: Option<&Node>) -> Use {
    match node.filter(|node| node.uid == report.node_uid) {
        Some(node) => rollout::use_of(&bare_seat(node, report)),
        None => Use::Over,
    }
}

/// What changes in the Reports that there are.
fn permits<'a>(
    facts: &Facts<'a>,
    staying: &[(&'a Node, &'a Report)],
    leaving: &[Leaver<'a>],
    spread: u32,
    enrolment: &mut Enrolment,
) {
    let seats: Vec<_> = staying
        .iter()
        .map(|(node, report)| seat(facts, node, report, false))
        .chain(leaving.iter().map(|one| seat(facts, one.node, one.report, true)))
        .collect();
    let mut rollout = rollout::decide(facts.allowed, &seats, facts.taken);
    enrolment.hold = rollout.hold.take();

    for Leaver { node, report, since } in leaving {
        let withdrawn = rollout.withdraw.remove(&report.node);
        let granted =
            rollout.grant.as_ref().filter(|(node, _)| *node == report.node).map(|(_, permit)| *permit);
        // Its turn has come: from now on it is waited for.
        let since = if granted.is_some() { Some(facts.now) } else { *since };
        let is_told = report.leave == Some(facts.leave) && report.leaving_since == since;
        let edit = Edit {
            leave: (!is_told).then_some(Some((facts.leave, since))),
            permit: withdrawn.or(granted),
            retry: retry(node, report),
            paused: paused(node, report),
            ..Edit::default()
        };
        if edit != Edit::default() {
            enrolment.steps[if granted.is_some() { GIVE } else { TAKE }].push(change(report, edit));
        }
    }
    let Some(target) = facts.target else { return };
    for (node, report) in staying {
        let conflicts = conflicts_of(facts, &report.node);
        let is_queued = enrolment.queued.contains(&report.node);
        let is_new_conflict = conflicts.iter().any(|conflict| !report.conflicts.contains(conflict));
        let withdrawn = rollout.withdraw.remove(&report.node);
        let granted =
            rollout.grant.as_ref().filter(|(node, _)| *node == report.node).map(|(_, permit)| *permit);
        let mode = (report.mode != facts.mode && !is_queued).then_some(facts.mode);
        let paused = paused(node, report);
        let takes =
            is_new_conflict || withdrawn.is_some() || mode == Some(RunMode::Plan) || paused == Some(true);
        // An agent without a conflict that is told of a revision and of one that it conflicts with learns of both in
        // one write; and never of a revision without the mode that it is meant for.
        let step = match (takes, granted.is_some()) {
            (true, _) => TAKE,
            (false, true) => GIVE,
            (false, false) => CHANGE,
        };
        let edit = Edit {
            node_bootstrap_created: (report.node_bootstrap_created != Some(facts.created))
                .then_some(facts.created),
            revision: (report.revision != target && !is_queued).then(|| (target.to_owned(), spread)),
            mode,
            permit: withdrawn.or(granted),
            conflicts: (report.conflicts != conflicts).then(|| conflicts.to_vec()),
            drift: (report.drift.as_ref() != facts.drift).then(|| facts.drift.cloned()),
            health: (report.health.as_ref() != facts.health).then(|| facts.health.cloned()),
            retry: retry(node, report),
            paused,
            leave: report.leave.is_some().then_some(None),
        };
        if edit != Edit::default() {
            enrolment.steps[step].push(change(report, edit));
        }
    }
}

/// Nodes that shall have a Report and have none.
fn joining<'a>(facts: &Facts<'a>, has_report: &HashSet<&str>) -> Vec<&'a Node> {
    if facts.target.is_none() || facts.is_ending {
        return Vec::new();
    }
    let is_new = |one: &&Candidate| one.is_selected && !has_report.contains(one.node.name.as_str());
    facts.nodes.iter().filter(is_new).map(|one| one.node.as_ref()).collect()
}

/// Over how many seconds downloads for a revision begin: many nodes that ask one server at the same moment would find
/// it away. All count that are given the revision now, or were and do not have it yet.
/// `most`: no more are at it at once.
fn spread(target: Option<&str>, staying: &[(&Node, &Report)], new: usize, most: Option<usize>) -> u32 {
    let has_it = |node: &Node, report: &Report| {
        report.answer_for(node).is_some_and(|answer| {
            answer.phase == ReportPhase::Ready && Some(answer.revision.as_str()) == target
        })
    };
    let starting = new + staying.iter().filter(|(node, report)| !has_it(node, report)).count();
    match starting.min(most.unwrap_or(starting)) {
        0..=STARTS => 0,
        _ => u32::try_from(starting.div_ceil(STARTS)).unwrap_or(MAX_SPREAD).min(MAX_SPREAD),
    }
}

/// Reports for nodes that have none.
fn join(facts: &Facts<'_>, new: &[&Node], spread: u32, enrolment: &mut Enrolment) {
    let Some(target) = facts.target else { return };
    enrolment.steps[CHANGE].extend(new.iter().map(|node| Write::Create {
        node: node.name.clone(),
        node_uid: node.uid.clone(),
        spec: NodeBootstrapReportSpec {
            node_bootstrap: facts.name.to_owned(),
            node_bootstrap_created: facts.created.to_string(),
            node_name: node.name.clone(),
            node_uid: node.uid.clone(),
            revision: target.to_owned(),
            mode: facts.mode,
            spread,
            permit: Permit::default(),
            conflicts: facts.conflicts.get(&node.name).cloned().unwrap_or_default(),
            drift: facts.drift.cloned(),
            health: facts.health.cloned(),
            retry: node.retry.clone(),
            paused: node.is_paused,
            leave: None,
        },
    }));
}

/// Conflicts that are new to the Reports of a younger NodeBootstrap: an older one writes them before its own new
/// revision goes out. The younger one's own pass takes away those that are over.
pub fn warn_younger<'a>(
    younger: &str,
    conflicts: &BTreeMap<String, Vec<Conflict>>,
    report_of: impl Fn(&str) -> Option<Arc<Report>> + 'a,
) -> Vec<Write> {
    conflicts
        .iter()
        .filter_map(|(node, conflicts)| {
            let report = report_of(&names::report(younger, node))?;
            let is_new = conflicts.iter().any(|conflict| !report.conflicts.contains(conflict));
            let edit = Edit { conflicts: Some(conflicts.clone()), ..Edit::default() };
            is_new.then(|| change(&report, edit))
        })
        .collect()
}

/// What is to be told of the annotation that asks for another attempt.
fn retry(node: &Node, report: &Report) -> Option<String> {
    (report.retry != node.retry).then(|| node.retry.clone())
}

/// What is to be told of the annotation that pauses a node.
fn paused(node: &Node, report: &Report) -> Option<bool> {
    (node.is_paused != report.paused).then_some(node.is_paused)
}

/// Whether nothing is changed on a node, by its annotation or on its host: it needs no permit.
fn is_paused(node: &Node, report: &Report) -> bool {
    node.is_paused || report.answer_for(node).is_some_and(|answer| answer.phase == ReportPhase::Paused)
}

/// Whether a node can answer.
fn is_reachable(node: &Node, agent: Option<&AgentState>) -> bool {
    node.ready && matches!(agent, Some(AgentState::Ready | AgentState::Starting))
}

fn change(report: &Report, edit: Edit) -> Write {
    Write::Change { name: report.name.clone(), uid: report.uid.clone(), edit }
}

fn label(node: &Node, is_leaving: bool) -> Write {
    Write::Label { node: node.name.clone(), uid: node.uid.clone(), is_leaving }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const TARGET: &str = "nb-2";
    const NOW: i64 = 10_000;

    fn node(name: &str, labels: &[&str]) -> Node {
        Node {
            name: name.into(),
            uid: format!("uid-{name}"),
            ready: true,
            machine_id: "m".into(),
            ..Node::default()
        }
        .labelled(labels.iter().map(|key| ((*key).to_owned(), String::new())).collect())
    }

    fn created() -> Timestamp {
        Timestamp::from_second(7).unwrap()
    }

    fn report(node: &str, revision: &str) -> Report {
        Report {
            name: format!("nb.{node}"),
            uid: format!("report-{node}"),
            created: Timestamp::UNIX_EPOCH,
            node_bootstrap: "nb".into(),
            node_bootstrap_created: Some(created()),
            node: node.into(),
            node_uid: format!("uid-{node}"),
            revision: revision.into(),
            mode: RunMode::Apply,
            permit: Permit::default(),
            conflicts: Vec::new(),
            drift: None,
            health: None,
            retry: String::new(),
            paused: false,
            leave: None,
            leaving_since: None,
            answer: None,
        }
    }

    fn answer(node: &str, phase: ReportPhase) -> Option<Answer> {
        Some(Answer {
            phase,
            revision: TARGET.into(),
            permit_id: 0,
            disruption: Disruption::Restart,
            changes: 1,
            drifted: String::new(),
            reason: String::new(),
            message: String::new(),
            machine_id: "m".into(),
            node_uid: format!("uid-{node}"),
        })
    }

    struct World {
        has_daemon_set: bool,
        agent: AgentState,
        nodes: Vec<Node>,
        reports: Vec<Report>,
        is_ending: bool,
        leave: Leave,
        target: Option<&'static str>,
        mode: RunMode,
        max_parallel: Option<Share>,
        conflicts: BTreeMap<String, Vec<Conflict>>,
    }

    impl World {
        fn new(nodes: Vec<Node>, reports: Vec<Report>) -> Self {
            Self {
                has_daemon_set: true,
                agent: AgentState::Ready,
                nodes,
                reports,
                is_ending: false,
                leave: Leave::Retain,
                target: Some(TARGET),
                mode: RunMode::Apply,
                max_parallel: None,
                conflicts: BTreeMap::new(),
            }
        }

        fn decide(&self) -> Enrolment {
            let reports: Vec<_> = self.reports.iter().cloned().map(Arc::new).collect();
            let candidate = |node: &Node| Candidate {
                node: Arc::new(node.clone()),
                is_selected: node.labels.contains_key("pool"),
            };
            let running = self.nodes.iter().filter(|_| self.has_daemon_set);
            let agents = running.map(|node| (node.name.as_str(), &self.agent)).collect();
            decide(&Facts {
                name: "nb",
                created: created(),
                is_ending: self.is_ending,
                leave: self.leave,
                leave_timeout: Duration::from_secs(600),
                target: self.target,
                mode: self.mode,
                max_parallel: self.max_parallel,
                allowed: Disruption::Drain,
                drained: &BTreeSet::new(),
                taken: &[],
                drift: None,
                health: None,
                nodes: &self.nodes.iter().map(candidate).collect::<Vec<_>>(),
                reports: &reports,
                has_daemon_set: self.has_daemon_set,
                agents: &agents,
                conflicts: &self.conflicts,
                now: Timestamp::from_second(NOW).unwrap(),
            })
        }
    }

    fn leaving_label() -> String {
        names::leaving_label("nb")
    }

    fn delete(node: &str) -> Write {
        Write::Delete { name: format!("nb.{node}"), uid: format!("report-{node}") }
    }

    fn edit(node: &str, edit: Edit) -> Write {
        Write::Change { name: format!("nb.{node}"), uid: format!("report-{node}"), edit }
    }

    fn label_write(node: &str, is_leaving: bool) -> Write {
        Write::Label { node: node.into(), uid: format!("uid-{node}"), is_leaving }
    }

    #[test]
    fn a_selected_node_joins_and_then_nothing_more_is_written() {
        let mut world = World::new(vec![node("a", &["pool"]), node("b", &[])], Vec::new());
        let steps = world.decide().steps;
        let [take, changes, give, unlabel] = &steps;
        assert!(take.is_empty() && give.is_empty() && unlabel.is_empty());
        let [Write::Create { node, spec, .. }] = changes.as_slice() else { panic!("{changes:?}") };
        assert_eq!((node.as_str(), spec.revision.as_str(), spec.permit), ("a", TARGET, Permit::default()));
        assert_eq!(spec.node_bootstrap_created, "1970-01-01T00:00:07Z");

        world.reports = vec![report("a", TARGET)];
        assert_eq!(world.decide().steps, [const { Vec::new() }; 4]);
    }

    #[test]
    fn without_a_good_revision_nobody_joins_and_nothing_changes() {
        let mut world =
            World::new(vec![node("a", &["pool"]), node("b", &["pool"])], vec![report("a", "nb-1")]);
        world.target = None;
        assert_eq!(world.decide().steps, [const { Vec::new() }; 4]);
    }

    #[test]
    fn a_new_revision_is_one_write_a_node() {
        let world = World::new(vec![node("a", &["pool"])], vec![report("a", "nb-1")]);
        let expected = edit("a", Edit { revision: Some((TARGET.into(), 0)), ..Edit::default() });
        assert_eq!(world.decide().steps[CHANGE], [expected]);
    }

    #[test]
    fn downloads_are_spread_where_more_than_20_nodes_begin_at_once() {
        // How long nodes are told to spread, of so many that have a Report and so many that get one.
        let told = |reports: usize, new: usize| {
            let nodes = (0..reports + new).map(|n| node(&format!("n{n}"), &["pool"])).collect();
            let reports = (0..reports).map(|n| report(&format!("n{n}"), "nb-1")).collect();
            let [take, changes, give, unlabel] = World::new(nodes, reports).decide().steps;
            assert!(take.is_empty() && give.is_empty() && unlabel.is_empty(), "no write more");
            let spreads: Vec<_> = changes
                .iter()
                .map(|write| match write {
                    Write::Create { spec, .. } => spec.spread,
                    Write::Change { edit, .. } => edit.revision.as_ref().unwrap().1,
                    other => panic!("{other:?}"),
                })
                .collect();
            assert!(spreads.iter().all(|spread| *spread == spreads[0]));
            (spreads.len(), spreads[0])
        };
        assert_eq!(told(20, 0), (20, 0));
        assert_eq!(told(0, 20), (20, 0));
        assert_eq!(told(20, 1), (21, 2));
        assert_eq!(told(100, 100), (200, 10), "20 nodes a second");
        assert_eq!(told(7000, 0), (7000, 300), "and five minutes at most");
    }

    #[test]
    fn a_node_that_joins_is_spread_with_those_that_do_not_have_the_revision_yet() {
        let names: Vec<String> = (0..101).map(|n| format!("n{n}")).collect();
        let nodes = names.iter().map(|name| node(name, &["pool"])).collect();
        let reports = names[..100].iter().map(|name| report(name, TARGET)).collect();
        let mut world = World::new(nodes, reports);
        let told = |world: &World| match &world.decide().steps[CHANGE][..] {
            [Write::Create { spec, .. }] => spec.spread,
            other => panic!("{other:?}"),
        };
        assert_eq!(told(&world), 6, "100 are at it");
        for report in &mut world.reports {
            report.answer = answer(&report.node, ReportPhase::Ready);
        }
        assert_eq!(told(&world), 0, "they are done");
    }

    #[test]
    fn with_max_parallel_a_new_revision_goes_out_in_turns() {
        let nodes = || ["a", "b", "c", "d"].map(|name| node(name, &["pool"])).into();
        let mut world =
            World::new(nodes(), vec![report("a", "nb-1"), report("b", "nb-1"), report("c", TARGET)]);
        for report in &mut world.reports {
            report.answer = answer(&report.node, ReportPhase::Ready);
            report.answer.as_mut().unwrap().revision = report.revision.clone();
        }
        let all = world.decide();
        assert_eq!((all.steps[CHANGE].len(), all.queued.len()), (3, 0), "without it all at once");
        world.max_parallel = Some(Share::Percent(100));
        assert_eq!(world.decide().steps, all.steps);

        let told = |world: &World| -> (Vec<String>, Vec<String>) {
            let Enrolment { steps: [take, changes, give, unlabel], queued, .. } = world.decide();
            assert!(take.is_empty() && give.is_empty() && unlabel.is_empty());
            let name = |write: &Write| match write {
                Write::Create { node, .. } => node.clone(),
                Write::Change { name, .. } => name.clone(),
                other => panic!("{other:?}"),
            };
            (changes.iter().map(name).collect(), queued.into_iter().collect())
        };
        let is = |told: (Vec<String>, Vec<String>), changed: &[&str], queued: &[&str]| {
            assert_eq!(
                told,
                (
                    changed.iter().map(ToString::to_string).collect(),
                    queued.iter().map(ToString::to_string).collect()
                )
            );
        };
        world.max_parallel = Some(Share::Percent(50));
        is(told(&world), &["nb.a", "nb.b"], &["d"]);
        world.max_parallel = Some(Share::Nodes(1));
        is(told(&world), &["nb.a"], &["b", "d"]);
        world.reports[0].revision = TARGET.into();
        is(told(&world), &[], &["b", "d"]);
        // A failure is an end of it, or nobody else would ever have a turn.
        world.reports[0].answer = answer("a", ReportPhase::Failed);
        is(told(&world), &["nb.b"], &["d"]);
        world.reports[1].revision = TARGET.into();
        world.reports[1].answer = answer("b", ReportPhase::Ready);
        is(told(&world), &["d"], &[]);
        // Its agent has yet to start.
        world.agent = AgentState::Starting;
        is(told(&world), &[], &["d"]);
        world.agent = AgentState::Ready;
        world.nodes[3].ready = false;
        is(told(&world), &[], &["d"]);
    }

    #[test]
    fn what_was_planned_is_made_in_turns_too_and_a_plan_is_made_by_all_at_once() {
        let nodes = ["a", "b"].map(|name| node(name, &["pool"])).into();
        let mut world = World::new(nodes, vec![report("a", TARGET), report("b", TARGET)]);
        world.max_parallel = Some(Share::Nodes(1));
        for report in &mut world.reports {
            report.mode = RunMode::Plan;
            report.answer = answer(&report.node, ReportPhase::Planned);
        }
        // Nobody is at it: they have only planned.
        let told = |node: &str, mode| edit(node, Edit { mode: Some(mode), ..Edit::default() });
        assert_eq!(world.decide().steps, [vec![], vec![told("a", RunMode::Apply)], vec![], vec![]]);
        world.reports[0].mode = RunMode::Apply;
        assert_eq!(world.decide().steps, [const { Vec::new() }; 4]);
        world.reports[0].answer = answer("a", ReportPhase::Ready);
        assert_eq!(world.decide().steps, [vec![], vec![told("b", RunMode::Apply)], vec![], vec![]]);

        world.mode = RunMode::Plan;
        for report in &mut world.reports {
            report.mode = RunMode::Apply;
        }
        let all = vec![told("a", RunMode::Plan), told("b", RunMode::Plan)];
        assert_eq!(world.decide().steps, [all, vec![], vec![], vec![]]);
    }

    #[test]
    fn a_report_that_does_not_say_how_old_its_node_bootstrap_is_is_told_with_whatever_else_changes() {
        let mut world = World::new(
            vec![node("a", &["pool"]), node("b", &["pool"]), node("c", &["pool"])],
            vec![report("a", "nb-1"), report("b", TARGET), report("c", TARGET)],
        );
        world.reports[0].node_bootstrap_created = None;
        // As after the NodeBootstrap was made anew under the same name.
        world.reports[1].node_bootstrap_created = Some(Timestamp::UNIX_EPOCH);
        let told = Edit { node_bootstrap_created: Some(created()), ..Edit::default() };
        let both = Edit { revision: Some((TARGET.into(), 0)), ..told.clone() };
        assert_eq!(world.decide().steps, [vec![], vec![edit("a", both), edit("b", told)], vec![], vec![]]);
    }

    #[test]
    fn a_node_made_anew_gets_a_new_report_and_a_node_that_is_gone_none() {
        let mut stale = report("a", TARGET);
        stale.node_uid = "another".into();
        let world = World::new(vec![node("a", &["pool"])], vec![stale, report("gone", TARGET)]);
        let steps = world.decide().steps;
        assert_eq!(steps[TAKE], [delete("a"), delete("gone")]);
        assert!(matches!(steps[CHANGE].as_slice(), [Write::Create { node, .. }] if node == "a"));
    }

    #[test]
    fn a_node_that_lost_the_label_is_told_to_leave_then_forgotten_then_unlabelled() {
        let mut world = World::new(vec![node("a", &[])], vec![report("a", TARGET)]);
        let first = world.decide();
        let told = Edit {
            leave: Some(Some((Leave::Retain, Some(Timestamp::from_second(NOW).unwrap())))),
            ..Edit::default()
        };
        assert_eq!(first.steps[TAKE], [label_write("a", true), edit("a", told)]);
        assert_eq!(first.look_again, Some(Duration::from_secs(600)));

        world.nodes = vec![node("a", &[&leaving_label()])];
        world.reports[0].leave = Some(Leave::Retain);
        world.reports[0].leaving_since = Some(Timestamp::from_second(NOW - 100).unwrap());
        let second = world.decide();
        assert_eq!(second.steps, [const { Vec::new() }; 4], "it waits");
        assert_eq!(second.look_again, Some(Duration::from_secs(500)));

        world.reports[0].answer = answer("a", ReportPhase::Left);
        let third = world.decide();
        assert_eq!(third.steps[GIVE], [delete("a")]);
        assert_eq!(third.steps[UNLABEL], [label_write("a", false)]);
        assert!(third.leaving.is_empty() && third.given_up.is_empty());

        world.reports.clear();
        assert_eq!(world.decide().steps[UNLABEL], [label_write("a", false)], "if we died in between");
    }

    #[test]
    fn a_node_that_does_not_answer_in_time_is_given_up_also_over_a_restart_of_ours() {
        let mut silent = report("a", TARGET);
        silent.leave = Some(Leave::Retain);
        silent.leaving_since = Some(Timestamp::from_second(NOW - 600).unwrap());
        let enrolment = World::new(vec![node("a", &[&leaving_label()])], vec![silent]).decide();
        assert_eq!(enrolment.given_up, ["a"]);
        assert_eq!(enrolment.steps[GIVE], [delete("a")]);
        assert_eq!(enrolment.steps[UNLABEL], [label_write("a", false)]);
    }

    #[test]
    fn a_node_that_was_told_in_the_future_has_its_time_from_now_on() {
        let mut told = report("a", TARGET);
        told.leave = Some(Leave::Retain);
        told.leaving_since = Some(Timestamp::from_second(NOW + 3600).unwrap());
        let enrolment = World::new(vec![node("a", &[&leaving_label()])], vec![told]).decide();
        let again = Some(Some((Leave::Retain, Some(Timestamp::from_second(NOW).unwrap()))));
        assert_eq!(enrolment.steps[TAKE], [edit("a", Edit { leave: again, ..Edit::default() })]);
        assert_eq!(enrolment.look_again, Some(Duration::from_secs(600)));
    }

    #[test]
    fn the_word_of_another_machine_is_no_leaving() {
        let mut told = report("a", TARGET);
        told.leave = Some(Leave::Retain);
        told.leaving_since = Some(Timestamp::from_second(NOW).unwrap());
        told.answer = answer("another", ReportPhase::Left);
        let enrolment = World::new(vec![node("a", &[&leaving_label()])], vec![told]).decide();
        assert_eq!(enrolment.steps[GIVE], []);
        assert_eq!(enrolment.leaving.len(), 1);
    }

    #[test]
    fn a_node_that_comes_back_stays_and_its_label_goes() {
        let mut told = report("a", TARGET);
        told.leave = Some(Leave::Retain);
        told.leaving_since = Some(Timestamp::from_second(NOW - 5).unwrap());
        let steps = World::new(vec![node("a", &["pool", &leaving_label()])], vec![told]).decide().steps;
        assert_eq!(steps[CHANGE], [edit("a", Edit { leave: Some(None), ..Edit::default() })]);
        assert_eq!(steps[UNLABEL], [label_write("a", false)]);
    }

    #[test]
    fn at_the_end_all_leave_without_a_label_where_the_selector_still_keeps_the_agent() {
        let mut world =
            World::new(vec![node("a", &["pool"]), node("b", &["pool"])], vec![report("a", "nb-1")]);
        world.is_ending = true;
        let enrolment = world.decide();
        assert_eq!(enrolment.steps[TAKE].len(), 1);
        assert!(matches!(&enrolment.steps[TAKE][0], Write::Change { edit, .. } if edit.leave.is_some()));
        assert!(enrolment.steps[CHANGE].is_empty(), "neither a revision nor a Report is made any more");
        world.reports.clear();
        assert!(world.decide().leaving.is_empty());
    }

    /// Two nodes that are told to put back what was there before, and wait for their turn.
    fn two_that_wait_to_leave() -> World {
        let nodes = ["a", "b"].map(|name| node(name, &["pool"]));
        let mut world = World::new(nodes.into(), vec![report("a", TARGET), report("b", TARGET)]);
        (world.is_ending, world.target, world.leave) = (true, None, Leave::Revert);
        for report in &mut world.reports {
            report.leave = Some(Leave::Revert);
            report.answer = answer(&report.node, ReportPhase::Waiting);
            report.answer.as_mut().unwrap().revision = REVERT.into();
        }
        world
    }

    #[test]
    fn one_that_answers_and_waits_for_its_turn_to_leave_is_not_given_up() {
        let (now, long_ago) =
            (Timestamp::from_second(NOW).unwrap(), Timestamp::from_second(NOW - 3600).unwrap());
        let mut world = two_that_wait_to_leave();
        let leave = |since| Some(Some((Leave::Revert, since)));
        let restart = Permit { id: 1, disruption: Disruption::Restart };
        world.reports.iter_mut().for_each(|report| report.leaving_since = Some(long_ago));
        let enrolment = world.decide();
        assert!(enrolment.given_up.is_empty() && enrolment.look_again.is_none(), "{enrolment:?}");
        // Its time stands; that of the one whose turn has come begins.
        let stands = edit("b", Edit { leave: leave(None), ..Edit::default() });
        let turn = edit("a", Edit { leave: leave(Some(now)), permit: Some(restart), ..Edit::default() });
        assert_eq!(enrolment.steps, [vec![stands], vec![], vec![turn], vec![]]);

        (world.reports[0].permit, world.reports[0].leaving_since) = (restart, Some(now));
        world.reports[1].leaving_since = None;
        let enrolment = world.decide();
        assert_eq!(enrolment.steps, [const { Vec::new() }; 4], "one at a time");
        assert_eq!(enrolment.look_again, Some(Duration::from_secs(600 + 180)), "and health.timeout");
        // One that waited, and does not answer any more, has its time from now on.
        world.nodes[1].ready = false;
        let told = edit("b", Edit { leave: leave(Some(now)), ..Edit::default() });
        assert_eq!(world.decide().steps, [vec![told], vec![], vec![], vec![]]);
        world.nodes[1].ready = true;

        // It has left, and is not Ready yet: the other one waits for that.
        let left = world.reports[0].answer.as_mut().unwrap();
        (left.phase, left.permit_id) = (ReportPhase::Left, 1);
        world.nodes[0].ready = false;
        let enrolment = world.decide();
        assert_eq!(enrolment.steps, [const { Vec::new() }; 4]);
        assert_eq!(enrolment.hold, Some(Hold::Silent { node: "a".into() }));
        world.nodes[0].ready = true;
        assert_eq!(world.decide().steps[GIVE][0], delete("a"));
        world.reports.remove(0);
        assert!(matches!(&world.decide().steps[GIVE][..], [Write::Change { name, .. }] if name == "nb.b"));
    }

    #[test]
    fn a_failure_to_leave_stops_the_others_until_somebody_says_what_shall_become_of_it() {
        let mut world = two_that_wait_to_leave();
        world.reports[0].permit = Permit { id: 1, disruption: Disruption::Restart };
        let failed = world.reports[0].answer.as_mut().unwrap();
        (failed.phase, failed.permit_id) = (ReportPhase::Failed, 1);
        let enrolment = world.decide();
        assert_eq!(enrolment.hold, Some(Hold::Stopped { node: "a".into() }));
        assert_eq!((enrolment.steps, enrolment.given_up.len()), ([const { Vec::new() }; 4], 0));
        // Another attempt is asked for.
        world.nodes[0].retry = "again".into();
        let told = Edit { retry: Some("again".into()), ..Edit::default() };
        assert_eq!(world.decide().steps[TAKE], [edit("a", told)]);
        world.nodes[0].retry.clear();
        // Or all shall stay as it is.
        world.leave = Leave::Retain;
        let told = |node| edit(node, Edit { leave: Some(Some((Leave::Retain, None))), ..Edit::default() });
        assert_eq!(world.decide().steps, [vec![told("a"), told("b")], vec![], vec![], vec![]]);
    }

    #[test]
    fn at_the_end_nobody_waits_for_agents_that_are_gone_with_their_daemon_set() {
        let mut world = World::new(vec![node("a", &["pool"])], vec![report("a", TARGET)]);
        world.has_daemon_set = false;
        assert_eq!(world.decide().steps, [const { Vec::new() }; 4], "else it is made again");
        world.is_ending = true;
        let enrolment = world.decide();
        assert_eq!(enrolment.given_up, ["a"]);
        assert_eq!(enrolment.steps[GIVE], [delete("a")]);
    }

    #[test]
    fn nobody_waits_for_an_agent_that_never_began() {
        let mut world = World::new(vec![node("a", &["pool"])], vec![report("a", TARGET)]);
        world.reports[0].answer = None;
        world.agent = AgentState::Down("ImagePullBackOff".into());
        assert_eq!(world.decide().steps, [const { Vec::new() }; 4], "it stays while it is selected");
        world.is_ending = true;
        let enrolment = world.decide();
        assert!(enrolment.leaving.is_empty() && enrolment.given_up.is_empty());
        assert_eq!(enrolment.steps[GIVE], [delete("a")]);
        world.agent = AgentState::Down("CrashLoopBackOff".into());
        assert!(world.decide().leaving.contains("a"), "that one may have begun");
    }

    #[test]
    fn in_mode_plan_permits_are_taken_back_with_the_word_and_nobody_gets_one() {
        let mut world = World::new(
            vec![node("a", &["pool"]), node("b", &["pool"]), node("c", &["pool"])],
            vec![report("a", "nb-1"), report("b", TARGET)],
        );
        world.reports[0].permit = Permit { id: 3, disruption: Disruption::Restart };
        world.reports[1].answer = answer("b", ReportPhase::Waiting);
        world.mode = RunMode::Plan;
        let steps = world.decide().steps;
        // The revision never comes without the mode: the agent would begin it.
        let taken = Edit {
            revision: Some((TARGET.into(), 0)),
            mode: Some(RunMode::Plan),
            permit: Some(Permit { id: 4, disruption: Disruption::None }),
            ..Edit::default()
        };
        let told = Edit { mode: Some(RunMode::Plan), ..Edit::default() };
        assert_eq!(steps[TAKE], [edit("a", taken), edit("b", told)]);
        assert!(matches!(&steps[CHANGE][..], [Write::Create { spec, .. }] if spec.mode == RunMode::Plan));
        assert!(steps[GIVE].is_empty());

        world.reports = vec![report("a", TARGET), report("b", TARGET), report("c", TARGET)];
        for report in &mut world.reports {
            report.mode = RunMode::Plan;
            report.answer = answer(&report.node, ReportPhase::Planned);
        }
        assert_eq!(world.decide().steps, [const { Vec::new() }; 4], "at rest nothing is written");
        world.mode = RunMode::Apply;
        let told = |node: &str| edit(node, Edit { mode: Some(RunMode::Apply), ..Edit::default() });
        assert_eq!(world.decide().steps, [vec![], vec![told("a"), told("b"), told("c")], vec![], vec![]]);
    }

    #[test]
    fn a_node_that_is_paused_is_told_so_first_loses_its_permit_and_waits_to_leave() {
        let mut world = World::new(vec![node("a", &["pool"]), node("b", &["pool"])], vec![]);
        world.reports = vec![report("a", TARGET), report("b", TARGET)];
        world.reports[0].permit = Permit { id: 3, disruption: Disruption::Restart };
        world.reports[1].answer = answer("b", ReportPhase::Waiting);
        world.nodes[0].is_paused = true;
        let taken = Permit { id: 4, disruption: Disruption::None };
        let told = Edit { paused: Some(true), permit: Some(taken), ..Edit::default() };
        assert_eq!(world.decide().steps, [vec![edit("a", told)], vec![], vec![], vec![]]);
        // Once its agent has seen it another one may go on.
        world.reports[0].paused = true;
        world.reports[0].permit = taken;
        world.reports[0].answer = answer("a", ReportPhase::Paused);
        world.reports[0].answer.as_mut().unwrap().permit_id = 4;
        let steps = world.decide().steps;
        assert!(matches!(&steps[GIVE][..], [Write::Change { name, .. }] if name == "nb.b"), "{steps:?}");
        // It is told to leave, and of the end of its pause.
        world.nodes[0] = node("a", &[]);
        let left = Edit {
            leave: Some(Some((Leave::Retain, Some(Timestamp::from_second(NOW).unwrap())))),
            paused: Some(false),
            ..Edit::default()
        };
        assert!(world.decide().steps[TAKE].contains(&edit("a", left)));
    }

    #[test]
    fn a_conflict_is_written_before_anything_is_given() {
        let mut world = World::new(
            vec![node("a", &["pool"]), node("b", &["pool"])],
            vec![report("a", "nb-1"), report("b", TARGET)],
        );
        world.reports[1].answer = answer("b", ReportPhase::Waiting);
        let conflict = Conflict { resource: "file /etc/motd".into(), with: "older".into() };
        world.conflicts = BTreeMap::from([("a".to_owned(), vec![conflict])]);
        let steps = world.decide().steps;
        assert!(matches!(&steps[TAKE][..], [Write::Change { name, .. }] if name == "nb.a"));
        assert!(matches!(&steps[GIVE][..], [Write::Change { name, .. }] if name == "nb.b"));
        assert!(steps[CHANGE].is_empty());
    }
}
