//! The status of a NodeBootstrap. In: its nodes with what their agents answered, what stands in the way, and the status
//! before. Out: the status now, bounded however many nodes there are, the same in whatever order they come, and
//! without a "now" in it: a second pass over the same facts gives the same status.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crds::names::{RETRY, REVERT};
use crds::nodebootstrap::{MAX_RESULTS, NodeCounts, NodePhase, NodeResult};
use crds::report::{Disruption, ReportPhase, RunMode};
use crds::text::clip;
use crds::{NodeBootstrapStatus, Timeout};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use crate::observed::{AgentState, Answer, Node, Report};
use crate::rollout::{Hold, Taken};

/// Condition: every selected node that can be reached has the target revision, proven.
pub const READY: &str = "Ready";
/// Condition: something is under way.
pub const RECONCILING: &str = "Reconciling";
/// Condition: nothing moves until a person does something.
pub const STALLED: &str = "Stalled";

/// Condition: something is no longer as it was made, and is left so.
pub const DRIFTED: &str = "Drifted";

/// Reason: an older NodeBootstrap has what this one wants too.
pub const CONFLICT: &str = "Conflict";

/// Reason: the agent's pod has not started yet.
const AGENT_STARTING: &str = "AgentStarting";
/// Reason: the agent runs, and has said nothing yet.
const NOT_REPORTED: &str = "NotReported";
/// Reason: the node needs a permit, and another has it.
const WAITS_FOR_TURN: &str = "WaitsForTurn";
/// Reason: the node must be drained, by a person, before its changes are made.
const NEEDS_DRAIN: &str = "NeedsDrain";
/// Reason: the changes disturb more than rollout.allow.
const NOT_ALLOWED: &str = "NotAllowed";
/// Reason: enough others are at the new revision.
const QUEUED: &str = "Queued";
/// Reason: what would be changed is known.
pub const PLANNED: &str = "Planned";
/// Reason: the agent has yet to say what it would change.
const PLANNING: &str = "Planning";
/// Reason: every change on a node is stopped.
const PAUSED: &str = "Paused";
/// Reason: nodes are to leave.
pub const LEAVING: &str = "Leaving";
/// Reason: the spec has never been good.
const NO_REVISION: &str = "NoRevision";

/// How many nodes may be unreachable without Ready becoming False, until a budget can be given.
const MAX_UNREACHABLE: usize = 1;
/// The most characters of a message.
pub const MAX_MESSAGE: usize = 512;
/// The most characters of a reason in a node's result; conditions take up to 1024.
const MAX_REASON: usize = 64;
/// The most characters of a revision's name: those of a NodeBootstrap's, a dash and the hash.
const MAX_REVISION: usize = 80;
/// How many nodes a message names.
const NAMED: usize = 3;
/// The most characters of an agent's own words within a message about several nodes.
const MAX_QUOTE: usize = 200;

/// One node that is selected, or leaves.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// The Node.
    pub node: &'a Node,
    /// Its Report, if there is one for this very Node.
    pub report: Option<&'a Report>,
    /// Its agent's pod.
    pub agent: &'a AgentState,
}

/// Something that keeps the operator itself from doing its part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The cause in one word.
    pub reason: String,
    /// The cause in one line, with the remedy.
    pub message: String,
    /// Whether only a person can help; else it is tried again.
    pub is_stalled: bool,
}

/// What a status is made from.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// The generation that was looked at.
    pub generation: i64,
    /// The revision that the nodes shall have; `None` if there has never been a good one.
    pub target: Option<&'a str>,
    /// Whether nodes are changed, or only planned for.
    pub mode: RunMode,
    /// Every selected node, in any order.
    pub members: &'a [Member<'a>],
    /// What keeps the operator from doing its part.
    pub problem: Option<Problem>,
    /// What keeps the rollout.
    pub hold: Option<&'a Hold>,
    /// The highest disruption that a permit may be for.
    pub allowed: Disruption,
    /// Pods that are left on nodes that need a drain and are cordoned.
    pub left: &'a BTreeMap<String, Vec<String>>,
    /// Nodes that are not told of the target yet, since enough others are at it.
    pub queued: &'a BTreeSet<String>,
    /// Nodes that are to leave and have not yet, in any order.
    pub leaving: &'a [Member<'a>],
    /// The status before.
    pub before: &'a NodeBootstrapStatus,
    /// Used only where a condition changes.
    pub now: Timestamp,
}

/// What is said in a condition.
struct Word {
    is_true: bool,
    reason: String,
    message: String,
}

impl Word {
    fn new(is_true: bool, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { is_true, reason: reason.into(), message: message.into() }
    }
}

/// What is found of one node: a [`NodeResult`] that has not been cut to size, as most of them never are told.
struct Verdict<'a> {
    node: &'a str,
    phase: NodePhase,
    /// What its agent answered, for this or another revision.
    answer: Option<&'a Answer>,
    reason: Cow<'a, str>,
    message: Cow<'a, str>,
    /// What its agent says that it does, if it does something.
    doing: &'a str,
    /// Whether it came when all others had been proven.
    joined_later: bool,
}

impl Verdict<'_> {
    fn is_undone(&self) -> bool {
        matches!(self.phase, NodePhase::Pending | NodePhase::Updating)
    }

    fn result(&self) -> NodeResult {
        NodeResult {
            node: self.node.to_owned(),
            phase: self.phase,
            revision: self
                .answer
                .map(|answer| clip(&answer.revision, MAX_REVISION))
                .filter(|name| !name.is_empty()),
            reason: clip(&self.reason, MAX_REASON),
            message: clip(&self.message, MAX_MESSAGE),
        }
    }
}

/// Folds the facts into a status.
pub fn fold(facts: &Facts<'_>) -> NodeBootstrapStatus {
    let failed_before: BTreeMap<&str, &NodeResult> = facts
        .before
        .results
        .iter()
        .filter(|one| {
            one.phase == NodePhase::Failed
                && one.reason != CONFLICT
                && one.revision.as_deref() == facts.target
        })
        .map(|one| (one.node.as_str(), one))
        .collect();
    let mut verdicts: Vec<_> =
        facts.members.iter().map(|member| verdict(member, facts, &failed_before)).collect();
    verdicts.sort_by(|a, b| (a.phase, a.node).cmp(&(b.phase, b.node)));
    let counts = count(&verdicts, facts);
    let is_proven = facts.target.is_some()
        && disturbed(facts).is_none()
        && counts.ready > 0
        && counts.ready + counts.unreachable == counts.selected
        && counts.unreachable as usize <= MAX_UNREACHABLE;
    let ready = ready(facts, &verdicts, counts);
    let stalled = stalled(facts, &verdicts);
    let reconciling = reconciling(facts, &verdicts, counts, &stalled);
    let condition =
        |type_: &str, word: Word| condition(type_, word, facts.generation, facts.before, facts.now);
    NodeBootstrapStatus {
        observed_generation: Some(facts.generation),
        update_revision: facts.target.map(ToOwned::to_owned),
        current_revision: if is_proven {
            facts.target.map(ToOwned::to_owned)
        } else {
            facts.before.current_revision.clone()
        },
        nodes: counts,
        conditions: vec![
            condition(READY, ready),
            condition(RECONCILING, reconciling),
            condition(STALLED, stalled),
            condition(DRIFTED, drifted(&verdicts)),
        ],
        results: verdicts.iter().take(MAX_RESULTS).map(Verdict::result).collect(),
    }
}

/// The status of a NodeBootstrap that is being deleted: what was known of its nodes stays, and its conditions say whom
/// it waits for. `timeout`: how long a node is waited for that does not answer.
pub fn fold_leaving(facts: &Facts<'_>, timeout: Timeout) -> NodeBootstrapStatus {
    let leavers = leavers(facts);
    let mut nodes: Vec<_> = leavers.iter().map(|one| one.node).collect();
    nodes.sort_unstable();
    let message = match (&facts.problem, nodes.len()) {
        (Some(problem), _) => problem.message.clone(),
        (None, 0) => "all nodes have left".to_owned(),
        (None, count) => format!(
            "{}{}; one that does not answer for {timeout} is given up",
            named(&nodes, count, "has to leave", "have to leave"),
            kept(facts, &leavers)
        ),
    };
    let stalled = leaving_stalled(facts, &leavers).unwrap_or_else(|| Word::new(false, LEAVING, ""));
    let condition =
        |type_: &str, word: Word| condition(type_, word, facts.generation, facts.before, facts.now);
    NodeBootstrapStatus {
        observed_generation: Some(facts.generation),
        conditions: vec![
            condition(READY, Word::new(false, LEAVING, message.clone())),
            condition(RECONCILING, Word::new(!stalled.is_true, LEAVING, message)),
            condition(STALLED, stalled),
        ],
        ..facts.before.clone()
    }
}

/// What is found of the nodes that are to leave, the worst first. Of one that is at it, or has yet to answer, `reason` is
/// empty.
fn leavers<'a>(facts: &Facts<'a>) -> Vec<Verdict<'a>> {
    let mut leavers: Vec<_> = facts.leaving.iter().map(|member| leaver(member, facts)).collect();
    leavers.sort_by(|a, b| (a.phase, a.node).cmp(&(b.phase, b.node)));
    leavers
}

fn leaver<'a>(member: &Member<'a>, facts: &Facts<'a>) -> Verdict<'a> {
    let Member { node, report, .. } = *member;
    let answer = report.and_then(|report| report.answer_for(node));
    let is_permitted = report.is_some_and(|report| report.permit.disruption > Disruption::None);
    // What it said last may be of a revision still.
    let is_about_it = answer.is_some_and(|answer| answer.revision == REVERT);
    let (phase, reason, message) = match answer {
        Some(answer) if answer.phase == ReportPhase::Failed && is_about_it => {
            (NodePhase::Failed, answer.reason.as_str().into(), answer.message.as_str().into())
        }
        Some(answer) if answer.phase == ReportPhase::Waiting && is_about_it && !is_permitted => {
            let (reason, message) = waits(node, answer, facts);
            (NodePhase::Pending, reason.into(), message)
        }
        Some(answer) if answer.phase == ReportPhase::Paused => {
            (NodePhase::Paused, PAUSED.into(), answer.message.as_str().into())
        }
        _ => (NodePhase::Updating, "".into(), "".into()),
    };
    Verdict { node: &node.name, phase, answer, reason, message, doing: "", joined_later: false }
}

/// What keeps nodes from leaving, in words.
fn kept(facts: &Facts<'_>, leavers: &[Verdict<'_>]) -> String {
    let waiting: Vec<_> =
        leavers.iter().filter(|one| one.reason == WAITS_FOR_TURN).map(|one| one.node).collect();
    let turns = match waiting.len() {
        0 => String::new(),
        count => {
            let waiting = named(&waiting, count, "waits for its turn", "wait for their turn");
            format!("; {waiting}{}", held(facts))
        }
    };
    let others = leavers.iter().find(|one| !one.reason.is_empty() && one.reason != WAITS_FOR_TURN);
    let first = others.map(|one| format!("; {}: {}", one.node, clip(&one.message, MAX_QUOTE)));
    format!("{turns}{}", first.unwrap_or_default())
}

/// Why no node leaves before a person has done something.
fn leaving_stalled(facts: &Facts<'_>, leavers: &[Verdict<'_>]) -> Option<Word> {
    if let Some(Hold::Stopped { node }) = facts.hold
        && let Some(one) = leavers.iter().find(|one| one.node == node)
    {
        let message = format!(
            "{node} has a permit, and has failed to leave: no other node gets one until it has left: mend it, and set the Node's annotation {RETRY}; or write deletionPolicy: Retain, and all stay as they are; {}",
            one.message
        );
        return Some(Word::new(true, "RolloutStopped", message));
    }
    let first = leavers.first()?;
    let all = leavers.iter().all(|one| matches!(one.reason.as_ref(), NEEDS_DRAIN | NOT_ALLOWED));
    all.then(|| Word::new(true, first.reason.clone(), format!("{}: {}", first.node, first.message)))
}

/// The status of a NodeBootstrap that cannot be read: its nodes stay as they are, and so does what is known of them.
pub fn fold_malformed(
    generation: i64,
    before: &NodeBootstrapStatus,
    error: &str,
    now: Timestamp,
) -> NodeBootstrapStatus {
    let message = format!("the spec cannot be read: {error}: correct it; the nodes stay as they are");
    let condition = |type_: &str, word: Word| condition(type_, word, generation, before, now);
    let reason = "InvalidSpec";
    NodeBootstrapStatus {
        observed_generation: Some(generation),
        conditions: vec![
            condition(READY, Word::new(false, reason, message.clone())),
            condition(RECONCILING, Word::new(false, reason, "")),
            condition(STALLED, Word::new(true, reason, message)),
        ],
        ..before.clone()
    }
}

fn verdict<'a>(
    member: &Member<'a>,
    facts: &Facts<'a>,
    failed_before: &BTreeMap<&str, &'a NodeResult>,
) -> Verdict<'a> {
    let Member { node, report, agent } = *member;
    let answer = report.and_then(|report| report.answer_for(node));
    let joined_later = joined_later(member, facts);
    let is_target = |answer: &Answer| facts.target == Some(answer.revision.as_str());
    let found = |phase: NodePhase, reason: Cow<'a, str>, message: Cow<'a, str>| Verdict {
        node: &node.name,
        phase,
        answer,
        reason,
        message,
        doing: answer
            .filter(|answer| answer.phase == ReportPhase::Applying && is_target(answer))
            .map(|answer| answer.message.as_str())
            .unwrap_or_default(),
        joined_later,
    };
    let with = |phase, reason: &'a str, message: &'a str| found(phase, reason.into(), message.into());
    let is_queued = facts.queued.contains(&node.name);
    let queued = "waits for its turn (rollout.maxParallel)";

    if !node.ready {
        return with(NodePhase::Unreachable, "NodeNotReady", "the Node is not Ready; goes on when it is");
    }
    if let Some((report, conflict)) = report.and_then(|report| Some((report, report.conflicts.first()?))) {
        let more = match report.conflicts.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let message = format!(
            "{resource}: NodeBootstraps {with} and {own} both have it, and {with} is older{more}: take it out of one of them; {own} changes nothing here until then",
            resource = conflict.resource,
            with = conflict.with,
            own = report.node_bootstrap,
        );
        return found(NodePhase::Failed, CONFLICT.into(), message.into());
    }
    let Some((report, answer)) = report.zip(answer) else {
        if facts.target.is_none() {
            return with(NodePhase::Pending, NO_REVISION, "there is no revision for it yet");
        }
        return match agent {
            AgentState::Down(reason) => with(
                NodePhase::Pending,
                reason,
                "the agent's pod cannot start: look at it with kubectl describe",
            ),
            AgentState::Ready if is_queued => with(NodePhase::Pending, QUEUED, queued),
            AgentState::Ready => {
                with(NodePhase::Pending, NOT_REPORTED, "the agent runs and has not reported yet")
            }
            AgentState::Starting | AgentState::Absent => {
                with(NodePhase::Pending, AGENT_STARTING, "the agent starts")
            }
        };
    };
    match agent {
        AgentState::Down(reason) => {
            let message = format!("the agent's pod is not Ready ({reason}); goes on when it is");
            return found(NodePhase::Unreachable, "AgentNotReady".into(), message.into());
        }
        AgentState::Absent => {
            return with(
                NodePhase::Unreachable,
                "AgentNotReady",
                "the agent's pod is gone; goes on when it is back",
            );
        }
        AgentState::Ready | AgentState::Starting => {}
    }
    match (facts.mode, answer.phase) {
        (_, ReportPhase::Paused) => with(NodePhase::Paused, PAUSED, &answer.message),
        _ if is_queued => with(NodePhase::Pending, QUEUED, queued),
        (RunMode::Plan, ReportPhase::Planned) if is_target(answer) => {
            with(NodePhase::Planned, PLANNED, &answer.message)
        }
        (RunMode::Plan, ReportPhase::Failed) if is_target(answer) => {
            with(NodePhase::Failed, &answer.reason, &answer.message)
        }
        (RunMode::Plan, _) => with(NodePhase::Pending, PLANNING, "the agent is to say what it would change"),
        (RunMode::Apply, _) if !is_target(answer) => {
            with(NodePhase::Updating, "NewRevision", "the agent has the new revision to look at")
        }
        (RunMode::Apply, ReportPhase::Planned) => {
            with(NodePhase::Updating, "NewMode", "the agent is to make the changes that it planned")
        }
        (RunMode::Apply, ReportPhase::Ready) => with(NodePhase::Ready, &answer.reason, ""),
        (RunMode::Apply, ReportPhase::Failed) => with(NodePhase::Failed, &answer.reason, &answer.message),
        (RunMode::Apply, ReportPhase::Waiting) if report.permit.disruption > Disruption::None => {
            with(NodePhase::Updating, "Permitted", &answer.message)
        }
        (RunMode::Apply, ReportPhase::Waiting) => {
            let (reason, message) = waits(node, answer, facts);
            found(NodePhase::Pending, reason.into(), message)
        }
        // An agent that tries again has not succeeded yet: its failure stands until it has, or there is something new
        // to try. So neither conditions nor Events go back and forth with each attempt.
        (RunMode::Apply, ReportPhase::Applying) => match failed_before.get(node.name.as_str()) {
            Some(before) => with(NodePhase::Failed, &before.reason, &before.message),
            None => with(NodePhase::Updating, &answer.reason, &answer.message),
        },
        (RunMode::Apply, ReportPhase::Left) => {
            with(NodePhase::Updating, "Returned", "the node has come back")
        }
    }
}

/// What a node waits for whose plan is above its permit, in one word and in one line.
fn waits<'a>(node: &Node, answer: &'a Answer, facts: &Facts<'_>) -> (&'static str, Cow<'a, str>) {
    let Answer { disruption, message, .. } = answer;
    if *disruption > facts.allowed {
        let else_ = match answer.revision.as_str() {
            REVERT => "write deletionPolicy: Retain, and all stays as it is",
            _ => "take them out of the spec",
        };
        let message = format!(
            "its changes have disruption {disruption:?}, and rollout.allow is {:?}: raise it, or {else_}; {message}",
            facts.allowed
        );
        return (NOT_ALLOWED, message.into());
    }
    if *disruption < Disruption::Drain {
        return (WAITS_FOR_TURN, message.into());
    }
    let name = &node.name;
    match facts.left.get(name).map(Vec::as_slice) {
        Some([]) => (WAITS_FOR_TURN, message.into()),
        Some(left @ [first, ..]) => {
            let more = match left.len() - 1 {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let message =
                format!("it is cordoned, and goes on when these pods have left it: {first}{more}; {message}");
            (NEEDS_DRAIN, message.into())
        }
        None => {
            let message = format!(
                "drain it, and it goes on by itself: kubectl drain {name} --ignore-daemonsets --delete-emptydir-data; and when it is Ready again: kubectl uncordon {name}; {message}"
            );
            (NEEDS_DRAIN, message.into())
        }
    }
}

/// Whether a node came after all the others had been proven at this revision, and is not done yet. Its Report is then
/// younger than the condition.
fn joined_later(member: &Member<'_>, facts: &Facts<'_>) -> bool {
    let is_plan = facts.mode == RunMode::Plan;
    let was_ready = find(facts.before, READY)
        .filter(|condition| condition.status == "True" && (condition.reason == PLANNED) == is_plan);
    let before = if is_plan { &facts.before.update_revision } else { &facts.before.current_revision };
    let is_same_revision = facts.target.is_some() && before.as_deref() == facts.target;
    is_same_revision
        && was_ready.is_some_and(|condition| {
            member.report.is_none_or(|report| report.created > condition.last_transition_time.0)
        })
}

fn count(verdicts: &[Verdict<'_>], facts: &Facts<'_>) -> NodeCounts {
    let of = |phase: NodePhase| verdicts.iter().filter(|one| one.phase == phase).count() as u32;
    let updated = facts
        .members
        .iter()
        .filter(|member| {
            let answer = member.report.and_then(|report| report.answer_for(member.node));
            answer.is_some_and(|answer| {
                let has_it = answer.phase == ReportPhase::Ready
                    || (answer.phase == ReportPhase::Planned && answer.changes == 0);
                has_it && facts.target == Some(answer.revision.as_str())
            })
        })
        .count() as u32;
    NodeCounts {
        selected: verdicts.len() as u32,
        updated,
        updating: of(NodePhase::Updating),
        pending: of(NodePhase::Pending),
        planned: of(NodePhase::Planned),
        ready: of(NodePhase::Ready),
        failed: of(NodePhase::Failed),
        unreachable: of(NodePhase::Unreachable),
        paused: of(NodePhase::Paused),
        drifted: has_drifted(verdicts).count() as u32,
    }
}

fn ready(facts: &Facts<'_>, verdicts: &[Verdict<'_>], counts: NodeCounts) -> Word {
    if let Some(problem) = &facts.problem {
        return Word::new(false, problem.reason.clone(), problem.message.clone());
    }
    let NodeCounts { selected, ready, planned, failed, unreachable, .. } = counts;
    if selected == 0 {
        return Word::new(true, "NoNodes", "no node matches the selector");
    }
    let Some(target) = facts.target else {
        return Word::new(false, "Progressing", "the first revision is being made");
    };
    let so_far = match facts.mode {
        RunMode::Apply => format!("{ready} of {selected} nodes ready"),
        RunMode::Plan => format!("{planned} of {selected} nodes planned"),
    };
    let of = |phase: NodePhase| -> Vec<&str> {
        verdicts.iter().filter(|one| one.phase == phase).map(|one| one.node).collect()
    };
    if let Some(worst) = verdicts.first().filter(|worst| worst.phase == NodePhase::Failed) {
        let reason = if worst.reason == CONFLICT { CONFLICT } else { "NodesFailed" };
        let message = if worst.message.is_empty() { &worst.reason } else { &worst.message };
        let message = format!("{}: {message} ({failed} of {selected} nodes failed)", worst.node);
        return Word::new(false, reason, message);
    }
    let silent = of(NodePhase::Unreachable);
    if silent.len() > MAX_UNREACHABLE {
        let message =
            format!("{so_far}; {}", named(&silent, unreachable as usize, "does not answer", "do not answer"));
        return Word::new(false, "NodesUnreachable", message);
    }
    let paused = of(NodePhase::Paused);
    if let Some(first) = verdicts.iter().find(|one| one.phase == NodePhase::Paused) {
        let names = named(&paused, paused.len(), "is paused", "are paused");
        return Word::new(false, PAUSED, format!("{so_far}; {names} ({}: {})", first.node, first.message));
    }
    // What is not done yet; of these, only nodes that were there when Ready became True make it False.
    let undone: Vec<_> = verdicts.iter().filter(|one| one.is_undone()).collect();
    let disturbed = disturbed(facts);
    let also_silent = if silent.is_empty() || disturbed.is_some() {
        String::new()
    } else {
        format!("; {}", named(&silent, silent.len(), "does not answer", "do not answer"))
    };
    if undone.iter().all(|one| one.joined_later) && disturbed.is_none() {
        if undone.is_empty() && ready + planned == 0 {
            return Word::new(false, "NodesUnreachable", format!("no node is ready{also_silent}"));
        }
        let names: Vec<_> = undone.iter().map(|one| one.node).collect();
        let joined = if names.is_empty() {
            String::new()
        } else {
            format!(
                "; {}",
                match facts.mode {
                    RunMode::Apply => named(
                        &names,
                        names.len(),
                        "has joined and is being set up",
                        "have joined and are being set up"
                    ),
                    RunMode::Plan => named(&names, names.len(), "has joined", "have joined"),
                }
            )
        };
        let (reason, done) = match facts.mode {
            RunMode::Apply => ("NodesReady", format!("{ready} of {selected} nodes run {target}")),
            RunMode::Plan => (PLANNED, format!("{so_far}: {}", outlook(verdicts))),
        };
        return Word::new(true, reason, format!("{done}{joined}{also_silent}"));
    }
    let held = held(facts);
    if let Some(one) = all_wait_for_a_person(verdicts) {
        let message = format!("{so_far}; {}{also_silent}; {}: {}", activity(&undone), one.node, one.message);
        return Word::new(false, one.reason.clone(), message);
    }
    let what = if undone.is_empty() { String::new() } else { format!("; {}", activity(&undone)) };
    Word::new(false, "Progressing", format!("{so_far}{what}{also_silent}{held}"))
}

/// Whom those wait for that wait for their turn, in words.
fn held(facts: &Facts<'_>) -> String {
    match facts.hold {
        Some(Hold::Silent { node }) => {
            format!("; {node} may be restarting something and does not answer: the others wait for it")
        }
        Some(Hold::Elsewhere(Taken { node, by, has_failed: true })) => format!(
            "; the NodeBootstrap {by} failed on {node}, and may disturb it again: no other node is disturbed until it is ready there or its spec changes"
        ),
        Some(Hold::Elsewhere(Taken { node, by, has_failed: false })) => {
            format!("; the NodeBootstrap {by} may disturb {node} now: one node at a time")
        }
        Some(Hold::Stopped { .. } | Hold::Busy { .. }) | None => String::new(),
    }
}

/// A node that does not answer while it has a permit to restart something: it may be in the middle of that, as when its
/// kubelet is restarted, and is not done before it says so.
fn disturbed<'a>(facts: &Facts<'a>) -> Option<&'a str> {
    match facts.hold {
        Some(Hold::Silent { node }) => Some(node),
        _ => None,
    }
}

/// Nodes that are ready but for what has drifted and is left so, and the first of it.
fn has_drifted<'a>(verdicts: &'a [Verdict<'_>]) -> impl Iterator<Item = (&'a str, &'a str)> {
    verdicts
        .iter()
        .filter(|one| one.phase == NodePhase::Ready)
        .filter_map(|one| Some((one.node, one.answer?.drifted.as_str())))
        .filter(|(_, drifted)| !drifted.is_empty())
}

fn drifted(verdicts: &[Verdict<'_>]) -> Word {
    let nodes: Vec<_> = has_drifted(verdicts).map(|(node, _)| node).collect();
    let Some((node, what)) = has_drifted(verdicts).next() else { return Word::new(false, "AsMade", "") };
    let names = named(&nodes, nodes.len(), "has drifted", "have drifted");
    Word::new(
        true,
        DRIFTED,
        format!("{names} ({node}: {}); left so by drift.policy Report", clip(what, MAX_QUOTE)),
    )
}

/// What mode Apply would change on the nodes that are planned, in words.
fn outlook(verdicts: &[Verdict<'_>]) -> String {
    let would_change: Vec<_> = verdicts
        .iter()
        .filter(|one| one.phase == NodePhase::Planned)
        .filter_map(|one| Some((one.node, one.answer.filter(|answer| answer.changes > 0)?.disruption)))
        .collect();
    if would_change.is_empty() {
        return "nothing would be changed".to_owned();
    }
    let nodes: Vec<_> = would_change.iter().map(|(node, _)| *node).collect();
    let changed = named(&nodes, nodes.len(), "would be changed", "would be changed");
    let most = would_change.iter().map(|(_, disruption)| *disruption).max().unwrap_or_default();
    match would_change.iter().filter(|(_, disruption)| *disruption > Disruption::None).count() {
        0 => format!("{changed}, none disturbed"),
        count if count == nodes.len() => format!("{changed}, with disruption {most:?}"),
        count => format!("{changed}, {count} of them with disruption {most:?}"),
    }
}

/// What happens on nodes that are not done, in words.
fn activity(undone: &[&Verdict<'_>]) -> String {
    // For each group its nodes, and the first of them whose agent says what it does: mostly all do the same.
    type Group<'a> = (Vec<&'a str>, Option<(&'a str, &'a str)>);
    let mut groups: BTreeMap<(Cow<'_, str>, &str), Group<'_>> = BTreeMap::new();
    for one in undone {
        let (single, many) = match (one.phase, one.reason.as_ref()) {
            (NodePhase::Updating, _) => ("is being changed".into(), "are being changed"),
            (_, PLANNING) => ("is being planned for".into(), "are being planned for"),
            (_, WAITS_FOR_TURN) => ("waits for its turn".into(), "wait for their turn"),
            (_, NEEDS_DRAIN) => ("needs a drain".into(), "need a drain"),
            (_, NOT_ALLOWED) => ("needs more than rollout.allow".into(), "need more than rollout.allow"),
            (_, QUEUED) => (
                "waits for its turn (rollout.maxParallel)".into(),
                "wait for their turn (rollout.maxParallel)",
            ),
            (_, NO_REVISION) => ("waits for a revision".into(), "wait for a revision"),
            (_, AGENT_STARTING) => ("waits for its agent to start".into(), "wait for their agents to start"),
            (_, NOT_REPORTED) => ("has not reported yet".into(), "have not reported yet"),
            (_, reason) => (format!("cannot start its agent ({reason})").into(), "cannot start their agents"),
        };
        let (nodes, doing) = groups.entry((single, many)).or_default();
        nodes.push(one.node);
        if !one.doing.is_empty() {
            doing.get_or_insert((one.node, one.doing));
        }
    }
    let said = groups.iter().map(|((single, many), (nodes, doing))| {
        let what = named(nodes, nodes.len(), single, many);
        match doing {
            Some((_, doing)) if nodes.len() == 1 => format!("{what} ({})", clip(doing, MAX_QUOTE)),
            Some((node, doing)) => format!("{what} ({node}: {})", clip(doing, MAX_QUOTE)),
            None => what,
        }
    });
    said.collect::<Vec<_>>().join("; ")
}

fn stalled(facts: &Facts<'_>, verdicts: &[Verdict<'_>]) -> Word {
    if let Some(problem) = facts.problem.as_ref().filter(|problem| problem.is_stalled) {
        return Word::new(true, problem.reason.clone(), problem.message.clone());
    }
    let has_failed =
        |node: &str| verdicts.iter().any(|one| one.node == node && one.phase == NodePhase::Failed);
    let stopped_by = match facts.hold {
        Some(Hold::Stopped { node }) => Some(node),
        // It tries again under its permit.
        Some(Hold::Busy { node }) if has_failed(node) => Some(node),
        Some(Hold::Busy { .. } | Hold::Silent { .. } | Hold::Elsewhere(_)) | None => None,
    };
    let is_leaving = |node: &String| facts.leaving.iter().any(|one| one.node.name == *node);
    if let Some(node) = stopped_by.filter(|node| !is_leaving(node)) {
        // Not what it did: it may have failed before it disturbed anything, as at a download.
        let message = format!(
            "{node} has a permit, and has failed: no other node gets one until it is ready or the spec changes"
        );
        return Word::new(true, "RolloutStopped", message);
    }
    if let Some(one) = verdicts.iter().find(|one| one.reason == CONFLICT) {
        return Word::new(true, CONFLICT, format!("{}: {}", one.node, one.message));
    }
    if let Some(one) = all_wait_for_a_person(verdicts) {
        return Word::new(true, one.reason.clone(), format!("{}: {}", one.node, one.message));
    }
    let is_done = !verdicts.iter().any(Verdict::is_undone);
    let leaving = if is_done { leaving_stalled(facts, &leavers(facts)) } else { None };
    leaving.unwrap_or_else(|| Word::new(false, "Moving", ""))
}

/// The first of the nodes that are not done, if none of them goes on before a person has done something.
fn all_wait_for_a_person<'a, 'v>(verdicts: &'a [Verdict<'v>]) -> Option<&'a Verdict<'v>> {
    let mut undone = verdicts.iter().filter(|one| one.is_undone()).peekable();
    let first = *undone.peek()?;
    undone.all(|one| matches!(one.reason.as_ref(), NEEDS_DRAIN | NOT_ALLOWED)).then_some(first)
}

fn reconciling(facts: &Facts<'_>, verdicts: &[Verdict<'_>], counts: NodeCounts, stalled: &Word) -> Word {
    if let Some(problem) = facts.problem.as_ref().filter(|problem| !problem.is_stalled) {
        return Word::new(true, problem.reason.clone(), problem.message.clone());
    }
    if stalled.is_true {
        return Word::new(false, "Stalled", "");
    }
    let undone: Vec<_> = verdicts.iter().filter(|one| one.is_undone()).collect();
    if !undone.is_empty() {
        return Word::new(true, "Progressing", activity(&undone));
    }
    if let Some(node) = disturbed(facts) {
        return Word::new(true, "Progressing", format!("{node} may be restarting something"));
    }
    let leavers = leavers(facts);
    if !leavers.is_empty() {
        let mut nodes: Vec<_> = leavers.iter().map(|one| one.node).collect();
        nodes.sort_unstable();
        let who = named(&nodes, nodes.len(), "is leaving", "are leaving");
        return Word::new(true, LEAVING, format!("{who}{}", kept(facts, &leavers)));
    }
    if counts.paused > 0 {
        return Word::new(false, PAUSED, "");
    }
    if counts.failed > 0 {
        return Word::new(true, "Retrying", "the agents try again by themselves");
    }
    Word::new(false, "Done", "")
}

/// A condition; its time is that of its last change of status.
fn condition(
    type_: &str,
    word: Word,
    generation: i64,
    before: &NodeBootstrapStatus,
    now: Timestamp,
) -> Condition {
    let status = if word.is_true { "True" } else { "False" };
    let since = find(before, type_)
        .filter(|before| before.status == status)
        .map_or(Time(whole_seconds(now)), |before| before.last_transition_time.clone());
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: word.reason,
        message: clip(&word.message, MAX_MESSAGE),
        observed_generation: Some(generation),
        last_transition_time: since,
    }
}

/// The API server keeps whole seconds; more would look like a difference on the next pass.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// A condition by its type.
pub fn find<'a>(status: &'a NodeBootstrapStatus, type_: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == type_)
}

/// "a does", "a, b and c do", "a, b, c and 7 more do".
fn named(nodes: &[&str], total: usize, one: &str, many: &str) -> String {
    let shown = &nodes[..nodes.len().min(NAMED)];
    let names = match (shown, total.saturating_sub(shown.len())) {
        ([], _) => return format!("{total} {many}"),
        ([only], 0) => return format!("{only} {one}"),
        ([first @ .., last], 0) => format!("{} and {last}", first.join(", ")),
        (_, rest) => format!("{} and {rest} more", shown.join(", ")),
    };
    format!("{names} {many}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::report::{Conflict, Permit};
    use proptest::prelude::*;

    const TARGET: &str = "workers-1";

    fn time(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn node(name: &str) -> Node {
        Node { name: name.into(), uid: format!("uid-{name}"), ready: true, ..Node::default() }
    }

    fn report(node: &Node, phase: ReportPhase, message: &str) -> Report {
        Report {
            name: format!("workers.{}", node.name),
            uid: String::new(),
            created: time(100),
            node_bootstrap: "workers".into(),
            node_bootstrap_created: None,
            node: node.name.clone(),
            node_uid: node.uid.clone(),
            revision: TARGET.into(),
            mode: RunMode::Apply,
            permit: Permit::default(),
            conflicts: Vec::new(),
            drift: None,
            health: None,
            retry: String::new(),
            paused: false,
            leave: None,
            leaving_since: None,
            answer: Some(Answer {
                phase,
                revision: TARGET.into(),
                permit_id: 0,
                disruption: Disruption::None,
                changes: 0,
                drifted: String::new(),
                reason: String::new(),
                message: message.into(),
                machine_id: String::new(),
                node_uid: node.uid.clone(),
            }),
        }
    }

    /// One node of a small cluster: its name, and what its agent says.
    fn cluster(phases: &[(&str, ReportPhase, &str)]) -> Vec<(Node, Report, AgentState)> {
        phases
            .iter()
            .map(|(name, phase, message)| {
                let node = node(name);
                let report = report(&node, *phase, message);
                (node, report, AgentState::Ready)
            })
            .collect()
    }

    fn fold_of(
        cluster: &[(Node, Report, AgentState)],
        before: &NodeBootstrapStatus,
        now: i64,
    ) -> NodeBootstrapStatus {
        fold_in(RunMode::Apply, cluster, None, before, now)
    }

    fn fold_in(
        mode: RunMode,
        cluster: &[(Node, Report, AgentState)],
        hold: Option<&Hold>,
        before: &NodeBootstrapStatus,
        now: i64,
    ) -> NodeBootstrapStatus {
        let members: Vec<_> = cluster
            .iter()
            .map(|(node, report, agent)| Member { node, report: Some(report), agent })
            .collect();
        fold(&Facts {
            generation: 1,
            target: Some(TARGET),
            mode,
            members: &members,
            problem: None,
            hold,
            allowed: Disruption::Drain,
            left: &BTreeMap::new(),
            queued: &BTreeSet::new(),
            leaving: &[],
            before,
            now: time(now),
        })
    }

    fn ready_of(status: &NodeBootstrapStatus) -> (String, String, String) {
        let ready = find(status, READY).unwrap();
        (ready.status.clone(), ready.reason.clone(), ready.message.clone())
    }

    fn expect(status: &NodeBootstrapStatus, is: &str, reason: &str, message: &str) {
        assert_eq!(ready_of(status), (is.to_owned(), reason.to_owned(), message.to_owned()));
    }

    #[test]
    fn one_line_says_why_it_is_not_ready() {
        use ReportPhase::{Applying, Failed, Ready};
        let before = NodeBootstrapStatus::default();
        let failed = cluster(&[
            ("worker1", Ready, ""),
            ("worker2", Failed, "binary /usr/local/sbin/kubelet: digest differs; tried again in 1m"),
            ("worker3", Applying, ""),
        ]);
        expect(
            &fold_of(&failed, &before, 0),
            "False",
            "NodesFailed",
            "worker2: binary /usr/local/sbin/kubelet: digest differs; tried again in 1m (1 of 3 nodes failed)",
        );
        let working = cluster(&[("cp1", Ready, ""), ("worker1", Applying, ""), ("worker2", Ready, "")]);
        expect(
            &fold_of(&working, &before, 0),
            "False",
            "Progressing",
            "2 of 3 nodes ready; worker1 is being changed",
        );
        let starting = cluster(&[
            ("cp1", Applying, "unit slow.service: is being started"),
            ("worker1", Applying, ""),
            ("worker2", Ready, ""),
        ]);
        expect(
            &fold_of(&starting, &before, 0),
            "False",
            "Progressing",
            "1 of 3 nodes ready; cp1 and worker1 are being changed (cp1: unit slow.service: is being started)",
        );
        expect(
            &fold_of(&starting[..1], &before, 0),
            "False",
            "Progressing",
            "0 of 1 nodes ready; cp1 is being changed (unit slow.service: is being started)",
        );
        let done = cluster(&[("cp1", Ready, ""), ("worker1", Ready, "")]);
        let status = fold_of(&done, &before, 0);
        expect(&status, "True", "NodesReady", "2 of 2 nodes run workers-1");
        assert_eq!(status.current_revision.as_deref(), Some(TARGET));
        expect(&fold_of(&[], &before, 0), "True", "NoNodes", "no node matches the selector");
    }

    #[test]
    fn an_agent_that_runs_is_not_waited_for_to_start() {
        let mut nodes = cluster(&[
            ("a", ReportPhase::Ready, ""),
            ("b", ReportPhase::Ready, ""),
            ("c", ReportPhase::Ready, ""),
        ]);
        nodes[1].1.answer = None;
        nodes[2].1.answer = None;
        nodes[2].2 = AgentState::Starting;
        let before = NodeBootstrapStatus::default();
        expect(
            &fold_of(&nodes, &before, 0),
            "False",
            "Progressing",
            "1 of 3 nodes ready; b has not reported yet; c waits for its agent to start",
        );
        nodes[2].2 = AgentState::Ready;
        let status = fold_of(&nodes, &before, 0);
        expect(&status, "False", "Progressing", "1 of 3 nodes ready; b and c have not reported yet");
        assert_eq!(status.results[0].reason, NOT_REPORTED);
    }

    #[test]
    fn a_conflict_names_both_and_stalls() {
        let mut nodes = cluster(&[("worker1", ReportPhase::Failed, "")]);
        nodes[0].1.conflicts = vec![Conflict { resource: "file /etc/motd".into(), with: "older".into() }];
        let status = fold_of(&nodes, &NodeBootstrapStatus::default(), 0);
        let (is, reason, message) = ready_of(&status);
        assert_eq!((is.as_str(), reason.as_str()), ("False", "Conflict"));
        assert!(
            message.starts_with("worker1: file /etc/motd: NodeBootstraps older and workers both have it"),
            "{message}"
        );
        assert_eq!(find(&status, STALLED).unwrap().status, "True");
        assert_eq!(status.nodes.failed, 1);
    }

    #[test]
    fn one_silent_node_is_told_and_two_are_too_many() {
        let mut nodes = cluster(&[
            ("a", ReportPhase::Ready, ""),
            ("b", ReportPhase::Ready, ""),
            ("c", ReportPhase::Ready, ""),
        ]);
        nodes[0].0.ready = false;
        let status = fold_of(&nodes, &NodeBootstrapStatus::default(), 0);
        expect(&status, "True", "NodesReady", "2 of 3 nodes run workers-1; a does not answer");
        nodes[1].2 = AgentState::Down("CrashLoopBackOff".into());
        let status = fold_of(&nodes, &status, 0);
        expect(&status, "False", "NodesUnreachable", "1 of 3 nodes ready; a and b do not answer");
        assert_eq!(status.nodes.unreachable, 2);
        // A node that was never heard of is not silent: its agent has yet to start.
        nodes[1].1.answer = None;
        nodes[1].2 = AgentState::Absent;
        assert_eq!(fold_of(&nodes, &status, 0).nodes.pending, 1);
    }

    #[test]
    fn a_node_that_is_silent_in_the_middle_of_a_restart_is_not_done() {
        let mut nodes =
            cluster(&[("a", ReportPhase::Applying, "4 changes under way"), ("b", ReportPhase::Ready, "")]);
        // Its kubelet is restarted, and its pods are not Ready until that runs.
        nodes[0].2 = AgentState::Down("NotReady".into());
        let hold = Hold::Silent { node: "a".into() };
        let status = fold_in(RunMode::Apply, &nodes, Some(&hold), &NodeBootstrapStatus::default(), 0);
        let message =
            "1 of 2 nodes ready; a may be restarting something and does not answer: the others wait for it";
        expect(&status, "False", "Progressing", message);
        assert_eq!(find(&status, RECONCILING).unwrap().status, "True");
        assert_eq!(status.current_revision, None, "it is not proven everywhere");
    }

    #[test]
    fn a_node_that_joins_later_leaves_ready_alone_until_it_fails() {
        let mut nodes = cluster(&[("a", ReportPhase::Ready, "")]);
        let before = fold_of(&nodes, &NodeBootstrapStatus::default(), 200);
        let mut joined = cluster(&[("b", ReportPhase::Applying, "")]);
        joined[0].1.created = time(300);
        nodes.append(&mut joined);
        let status = fold_of(&nodes, &before, 301);
        expect(&status, "True", "NodesReady", "1 of 2 nodes run workers-1; b has joined and is being set up");
        assert_eq!(find(&status, RECONCILING).unwrap().status, "True");

        nodes[1].1.answer.as_mut().unwrap().phase = ReportPhase::Failed;
        assert_eq!(ready_of(&fold_of(&nodes, &status, 302)).0, "False");

        // The same from a node that was there before is not a joining.
        nodes[1].1.answer.as_mut().unwrap().phase = ReportPhase::Applying;
        nodes[1].1.created = time(100);
        assert_eq!(ready_of(&fold_of(&nodes, &status, 303)).0, "False");
    }

    #[test]
    fn a_second_pass_over_the_same_facts_changes_nothing_and_a_change_sets_the_time() {
        let mut nodes = cluster(&[("a", ReportPhase::Ready, "")]);
        let first = fold_of(&nodes, &NodeBootstrapStatus::default(), 10);
        assert_eq!(fold_of(&nodes, &first, 20), first);
        nodes[0].1.answer.as_mut().unwrap().phase = ReportPhase::Failed;
        let second = fold_of(&nodes, &first, 30);
        assert_eq!(find(&second, READY).unwrap().last_transition_time.0, time(30));
        assert_eq!(find(&second, STALLED).unwrap().last_transition_time.0, time(10));
    }

    #[test]
    fn of_a_long_failure_node_cause_and_remedy_are_told() {
        let remedy =
            "(tried again only when the spec or the Node's annotation nodebootstrap.io/retry changes)";
        let journal = "kubelet.service wrote: ".to_owned() + &"a long line | ".repeat(40);
        let nodes = cluster(&[(
            "worker1",
            ReportPhase::Failed,
            &clip(&format!("rolled back: unit kubelet.service: failed to restart; {journal} {remedy}"), 512),
        )]);
        let status = fold_of(&nodes, &NodeBootstrapStatus::default(), 1);
        let (_, _, message) = ready_of(&status);
        let begin = "worker1: rolled back: unit kubelet.service: failed to restart; kubelet.service wrote: ";
        assert!(message.starts_with(begin), "{message}");
        assert!(message.ends_with(&format!("{remedy} (1 of 1 nodes failed)")), "{message}");
    }

    #[test]
    fn a_failure_stands_while_the_agent_tries_again() {
        let mut nodes = cluster(&[("a", ReportPhase::Failed, "binary /x: 404")]);
        let failed = fold_of(&nodes, &NodeBootstrapStatus::default(), 10);
        let answer = nodes[0].1.answer.as_mut().unwrap();
        answer.phase = ReportPhase::Applying;
        answer.message = String::new();
        assert_eq!(fold_of(&nodes, &failed, 20), failed);
        nodes[0].1.answer.as_mut().unwrap().phase = ReportPhase::Ready;
        assert_eq!(ready_of(&fold_of(&nodes, &failed, 30)).0, "True");
    }

    /// An agent that planned so many changes.
    fn plans(entry: &mut (Node, Report, AgentState), changes: u32, disruption: Disruption) {
        let answer = entry.1.answer.as_mut().unwrap();
        *answer = Answer { phase: ReportPhase::Planned, changes, disruption, ..answer.clone() };
    }

    #[test]
    fn mode_plan_tells_what_would_be_changed_and_proves_nothing() {
        use ReportPhase::Ready;
        let mut nodes = cluster(&[("a", Ready, ""), ("b", Ready, ""), ("c", Ready, "")]);
        let applied = fold_of(&nodes, &NodeBootstrapStatus::default(), 10);
        // The word goes out: no agent has planned yet.
        let status = fold_in(RunMode::Plan, &nodes, None, &applied, 20);
        expect(&status, "False", "Progressing", "0 of 3 nodes planned; a, b and c are being planned for");
        assert_eq!((status.nodes.pending, status.nodes.ready), (3, 0));
        nodes.iter_mut().for_each(|entry| plans(entry, 0, Disruption::None));
        let status = fold_in(RunMode::Plan, &nodes, None, &status, 30);
        expect(&status, "True", "Planned", "3 of 3 nodes planned: nothing would be changed");
        plans(&mut nodes[1], 4, Disruption::None);
        let status = fold_in(RunMode::Plan, &nodes, None, &status, 40);
        expect(&status, "True", "Planned", "3 of 3 nodes planned: b would be changed, none disturbed");
        plans(&mut nodes[2], 2, Disruption::Restart);
        let status = fold_in(RunMode::Plan, &nodes, None, &status, 50);
        expect(
            &status,
            "True",
            "Planned",
            "3 of 3 nodes planned: b and c would be changed, 1 of them with disruption Restart",
        );
        assert_eq!((status.nodes.planned, status.nodes.updated), (3, 1), "a has it, as its agent says");
        assert_eq!(find(&status, RECONCILING).unwrap().status, "False");
        assert_eq!(fold_in(RunMode::Plan, &nodes, None, &status, 60), status, "at rest nothing is written");

        // One that joins does not make it False; one that cannot have it does.
        let mut joined = cluster(&[("d", ReportPhase::Applying, "")]);
        joined[0].1.created = time(70);
        nodes.append(&mut joined);
        let with_d = fold_in(RunMode::Plan, &nodes, None, &status, 71);
        let (is, _, message) = ready_of(&with_d);
        assert_eq!(is, "True");
        assert!(message.starts_with("3 of 4 nodes planned: b and c") && message.ends_with("; d has joined"));
        let answer = nodes[3].1.answer.as_mut().unwrap();
        (answer.phase, answer.message) = (ReportPhase::Failed, "2 problems: group k: x; file /y: z".into());
        expect(
            &fold_in(RunMode::Plan, &nodes, None, &with_d, 72),
            "False",
            "NodesFailed",
            "d: 2 problems: group k: x; file /y: z (1 of 4 nodes failed)",
        );

        // Nothing of it was proven; and Apply begins where the agents are.
        nodes.truncate(3);
        let other = NodeBootstrapStatus { current_revision: Some("before".into()), ..status.clone() };
        let planned = fold_in(RunMode::Plan, &nodes, None, &other, 80);
        assert_eq!(planned.current_revision.as_deref(), Some("before"));
        let status = fold_of(&nodes, &status, 90);
        expect(&status, "False", "Progressing", "0 of 3 nodes ready; a, b and c are being changed");
        assert_eq!(status.results[0].reason, "NewMode");
    }

    #[test]
    fn a_pause_is_told_with_what_ends_it_and_makes_ready_false() {
        let nodes =
            cluster(&[("a", ReportPhase::Ready, ""), ("b", ReportPhase::Paused, "since then: do this")]);
        let status = fold_of(&nodes, &NodeBootstrapStatus::default(), 1);
        expect(&status, "False", "Paused", "1 of 2 nodes ready; b is paused (b: since then: do this)");
        assert_eq!((status.nodes.paused, &status.current_revision), (1, &None));
        assert_eq!(find(&status, RECONCILING).unwrap().status, "False");
    }

    #[test]
    fn drift_that_is_left_is_a_condition_of_its_own_and_the_node_stays_ready() {
        let mut nodes = cluster(&[("a", ReportPhase::Ready, ""), ("b", ReportPhase::Ready, "")]);
        let as_made = fold_of(&nodes, &NodeBootstrapStatus::default(), 1);
        assert_eq!(find(&as_made, DRIFTED).unwrap().status, "False");
        nodes[1].1.answer.as_mut().unwrap().drifted = "file /etc/motd had other content".into();
        let status = fold_of(&nodes, &as_made, 2);
        assert_eq!((status.nodes.ready, status.nodes.drifted), (2, 1));
        assert_eq!(find(&status, READY).unwrap().status, "True");
        assert_eq!(
            find(&status, DRIFTED).unwrap().message,
            "b has drifted (b: file /etc/motd had other content); left so by drift.policy Report"
        );
    }

    fn phase() -> impl Strategy<Value = ReportPhase> {
        prop_oneof![
            Just(ReportPhase::Applying),
            Just(ReportPhase::Waiting),
            Just(ReportPhase::Planned),
            Just(ReportPhase::Paused),
            Just(ReportPhase::Ready),
            Just(ReportPhase::Failed),
            Just(ReportPhase::Left),
        ]
    }

    fn agent() -> impl Strategy<Value = AgentState> {
        prop_oneof![
            Just(AgentState::Ready),
            Just(AgentState::Starting),
            Just(AgentState::Absent),
            text().prop_map(AgentState::Down),
        ]
    }

    /// Texts that are long, take many bytes, or must be escaped.
    fn text() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec!["", "a", "\"", "\\", "\u{1}", "\n", "é", "漢", "😀", "word "]);
        (piece, 0..900usize).prop_map(|(piece, times)| piece.repeat(times))
    }

    fn any_node() -> impl Strategy<Value = (bool, ReportPhase, AgentState, String, String, bool)> {
        (any::<bool>(), phase(), agent(), text(), text(), any::<bool>())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_is_bounded_and_the_order_of_nodes_means_nothing(
            drawn in prop::collection::vec(any_node(), 0..150),
            is_plan in any::<bool>(),
            seed in any::<u64>(),
        ) {
            let mut nodes: Vec<_> = drawn
                .into_iter()
                .enumerate()
                .map(|(index, (ready, phase, agent, message, reason, has_conflict))| {
                    // Names as long as names can be.
                    let mut node = node(&format!("{index:0>253}"));
                    node.ready = ready;
                    let mut report = report(&node, phase, &message);
                    let answer = report.answer.as_mut().unwrap();
                    answer.reason = reason.clone();
                    if index % 3 == 0 {
                        answer.revision = message;
                    }
                    if has_conflict {
                        report.conflicts = vec![Conflict { resource: format!("file /{reason}"), with: "b".into() }; 10];
                    }
                    (node, report, agent)
                })
                .collect();
            let before = NodeBootstrapStatus::default();
            let mode = if is_plan { RunMode::Plan } else { RunMode::Apply };
            let status = fold_in(mode, &nodes, None, &before, 1);
            prop_assert!(status.results.len() <= MAX_RESULTS);
            prop_assert!(status.results.is_sorted_by_key(|one| one.phase));
            for result in &status.results {
                prop_assert!(result.message.chars().count() <= MAX_MESSAGE);
            }
            for condition in &status.conditions {
                prop_assert!(condition.message.chars().count() <= MAX_MESSAGE);
            }
            prop_assert!(serde_json::to_vec(&status).unwrap().len() < 112 * 1024);
            let counts = status.nodes;
            let NodeCounts { selected, updated: _, updating, pending, planned, ready, failed, unreachable, paused, drifted: _ } = counts;
            prop_assert_eq!(updating + pending + planned + ready + failed + unreachable + paused, selected);
            prop_assert_eq!(if is_plan { ready + updating } else { planned }, 0);
            prop_assert_eq!(counts.selected as usize, nodes.len());

            nodes.sort_by_key(|(node, _, _)| {
                let number: u64 = node.name.parse().unwrap();
                number.wrapping_mul(seed | 1)
            });
            prop_assert_eq!(fold_in(mode, &nodes, None, &before, 1), status);
        }
    }
}
