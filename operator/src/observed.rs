//! What is kept of the objects that are watched: what a decision needs and nothing else, so that 5,000 nodes fit.
//!
//! In: objects as the API server sends them, of which serde reads only the fields named here. Out: small plain values.
//! Two values are equal if no decision could tell them apart; so an event that changes nothing wakes nobody.

use std::collections::BTreeMap;

use crds::names;
use crds::nodebootstrap::{Drift, Health};
use crds::report::{Conflict, Disruption, Leave, Permit, ReportPhase, RunMode};
use crds::{
    NodeBootstrapReport, NodeBootstrapReportSpec, NodeBootstrapReportStatus, NodeBootstrapSpec,
    NodeBootstrapStatus,
};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use kube::core::PartialObjectMeta;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::selection;
use crate::store::{Entry, version};

/// Annotation of a Report: since when its node has been leaving. It stands on the object so that the time goes on
/// through a restart of the operator.
pub const LEAVING_SINCE: &str = "nodebootstrap.io/leaving-since";
/// Annotation of a revision: its number, since only the metadata of revisions is watched.
pub const REVISION_NUMBER: &str = "nodebootstrap.io/revision";

/// A NodeBootstrap.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeBootstrap {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its `metadata.generation`.
    pub generation: i64,
    /// When it was created.
    pub created: Timestamp,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Its resourceVersion, for writes that must not undo somebody else's.
    pub resource_version: String,
    /// All its finalizers.
    pub finalizers: Vec<String>,
    /// Its spec, or why it cannot be read.
    pub spec: Result<NodeBootstrapSpec, String>,
    /// Its status; empty if it has none.
    pub status: NodeBootstrapStatus,
}

/// A part of an object, or why it cannot be read: one malformed object must not stop the watch of all others.
#[derive(Debug, Clone)]
struct Guarded<T>(Result<T, String>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Guarded<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Value::deserialize(deserializer)?;
        Ok(Self(T::deserialize(json).map_err(|error| error.to_string())))
    }
}

impl<T> Default for Guarded<T> {
    fn default() -> Self {
        Self(Err("it is missing".to_owned()))
    }
}

/// The fields of a NodeBootstrap that are read.
#[derive(Debug, Clone, Deserialize, Resource)]
#[resource(inherit = crds::NodeBootstrap)]
pub struct WatchedNodeBootstrap {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Guarded<NodeBootstrapSpec>,
    #[serde(default)]
    status: Guarded<NodeBootstrapStatus>,
}

impl NodeBootstrap {
    /// Reads one, good or malformed.
    pub fn read(object: WatchedNodeBootstrap) -> Seen<Self> {
        let WatchedNodeBootstrap { metadata: meta, spec, status } = object;
        seen(
            &meta,
            Self {
                name: meta.name.clone().unwrap_or_default(),
                uid: meta.uid.clone().unwrap_or_default(),
                generation: meta.generation.unwrap_or_default(),
                created: timestamp(meta.creation_timestamp.as_ref()),
                deleting: meta.deletion_timestamp.is_some(),
                resource_version: meta.resource_version.clone().unwrap_or_default(),
                finalizers: meta.finalizers.clone().unwrap_or_default(),
                spec: spec.0,
                status: status.0.unwrap_or_default(),
            },
        )
    }

    /// Whether our finalizer holds it.
    pub fn is_held(&self) -> bool {
        self.finalizers.iter().any(|finalizer| finalizer == names::FINALIZER)
    }
}

/// A Node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether a label says that it is leaving some NodeBootstrap.
    pub has_leaving_label: bool,
    /// Whether its labels say that it runs linux.
    pub is_linux: bool,
    /// Whether its labels say that it runs the control plane.
    pub is_control_plane: bool,
    /// Whether its condition Ready is True.
    pub ready: bool,
    /// The machine's id, as the kubelet says it; empty until it has.
    pub machine_id: String,
    /// Whether new pods are kept from it.
    pub is_cordoned: bool,
    /// Whether its annotation stops every change there.
    pub is_paused: bool,
    /// What asks for another attempt of what was rolled back.
    pub retry: String,
}

/// The fields of a Node that are read.
#[derive(Debug, Clone, Deserialize, Resource)]
#[resource(inherit = core::Node)]
pub struct WatchedNode {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: WatchedNodeSpec,
    #[serde(default)]
    status: WatchedNodeStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct WatchedNodeSpec {
    #[serde(default)]
    unschedulable: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WatchedNodeStatus {
    #[serde(default)]
    conditions: Vec<WatchedCondition>,
    #[serde(default)]
    node_info: WatchedNodeInfo,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct WatchedNodeInfo {
    #[serde(default, rename = "machineID")]
    machine_id: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WatchedCondition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
    #[serde(default)]
    last_transition_time: Option<Time>,
}

impl Node {
    /// Reads one.
    pub fn read(node: WatchedNode) -> Seen<Self> {
        let WatchedNode { metadata, spec, status } = node;
        let annotations = metadata.annotations.as_ref();
        let value = Self {
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            is_cordoned: spec.unschedulable,
            is_paused: annotations
                .and_then(|all| all.get(names::PAUSED))
                .is_some_and(|value| value != "false"),
            retry: annotations
                .and_then(|all| all.get(names::RETRY))
                .map(|value| value.chars().take(names::MAX_RETRY).collect())
                .unwrap_or_default(),
            ready: status.conditions.iter().any(|one| one.type_ == "Ready" && one.status == "True"),
            machine_id: status.node_info.machine_id,
            ..Self::default()
        };
        seen(&metadata, value.labelled(metadata.labels.clone().unwrap_or_default()))
    }

    /// The same with these labels. What every decision asks of them is answered once, here.
    #[must_use]
    pub fn labelled(self, labels: BTreeMap<String, String>) -> Self {
        Self {
            has_leaving_label: labels.keys().any(|key| key.starts_with(names::LEAVING_LABEL_PREFIX)),
            is_linux: labels.get(selection::OS_LABEL).is_some_and(|os| os == "linux"),
            is_control_plane: labels.contains_key(selection::CONTROL_PLANE_LABEL),
            labels,
            ..self
        }
    }
}

/// A Report.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// When it was created.
    pub created: Timestamp,
    /// The NodeBootstrap's name.
    pub node_bootstrap: String,
    /// When the NodeBootstrap was created, as the Report tells the agent; `None` if it does not.
    pub node_bootstrap_created: Option<Timestamp>,
    /// The Node's name.
    pub node: String,
    /// The uid of the Node that it was made for.
    pub node_uid: String,
    /// The revision that the node shall have.
    pub revision: String,
    /// Whether the agent makes changes or only plans them.
    pub mode: RunMode,
    /// What the agent may do.
    pub permit: Permit,
    /// What the node must leave alone.
    pub conflicts: Vec<Conflict>,
    /// What becomes of drift, as the agent is told.
    pub drift: Option<Drift>,
    /// How the node is judged, as the agent is told.
    pub health: Option<Health>,
    /// What asks for another attempt, as the agent is told.
    pub retry: String,
    /// Whether the agent is told to change nothing at all.
    pub paused: bool,
    /// Whether the node is told to leave.
    pub leave: Option<Leave>,
    /// Since when it has been told so.
    pub leaving_since: Option<Timestamp>,
    /// What the agent answered, whichever machine it ran on; see [`Report::answer_for`].
    pub answer: Option<Answer>,
}

/// What an agent answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The state that the node is in.
    pub phase: ReportPhase,
    /// The revision that it speaks of.
    pub revision: String,
    /// The last permit that it acted on.
    pub permit_id: i64,
    /// How much the pending or planned changes disturb.
    pub disruption: Disruption,
    /// How many changes are pending or planned, or were made last.
    pub changes: u32,
    /// The first thing that has drifted and is left so; empty if nothing has.
    pub drifted: String,
    /// One word for the cause.
    pub reason: String,
    /// One line.
    pub message: String,
    /// The machine that it runs on.
    pub machine_id: String,
    /// The Node that it answered for.
    pub node_uid: String,
}

/// The fields of a Report that are read.
#[derive(Debug, Clone, Deserialize, Resource)]
#[resource(inherit = NodeBootstrapReport)]
pub struct WatchedReport {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Guarded<NodeBootstrapReportSpec>,
    #[serde(default)]
    status: Option<Guarded<NodeBootstrapReportStatus>>,
}

impl From<NodeBootstrapReport> for WatchedReport {
    fn from(report: NodeBootstrapReport) -> Self {
        Self {
            metadata: report.metadata,
            spec: Guarded(Ok(report.spec)),
            status: report.status.map(|status| Guarded(Ok(status))),
        }
    }
}

impl Report {
    /// Reads one, good or malformed. A malformed spec fits no Node's uid, and so its Report is replaced like any other
    /// that was made for another machine; a malformed status counts as none.
    pub fn read(report: WatchedReport) -> Seen<Self> {
        let WatchedReport { metadata: meta, spec, status } = report;
        let name = meta.name.as_deref().unwrap_or_default();
        let spec = spec.0.unwrap_or_else(|error| {
            tracing::warn!(report = name, error, "the Report's spec is malformed: it is replaced");
            NodeBootstrapReportSpec::default()
        });
        let status = status.and_then(|status| {
            status.0.inspect_err(|error| tracing::warn!(report = name, error, "malformed status")).ok()
        });
        let annotation = |key: &str| meta.annotations.as_ref().and_then(|all| all.get(key));
        let value = Self {
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            created: timestamp(meta.creation_timestamp.as_ref()),
            node_bootstrap: spec.node_bootstrap,
            node_bootstrap_created: spec.node_bootstrap_created.parse().ok(),
            node: spec.node_name,
            node_uid: spec.node_uid,
            revision: spec.revision,
            mode: spec.mode,
            permit: spec.permit,
            conflicts: spec.conflicts,
            drift: spec.drift,
            health: spec.health,
            retry: spec.retry,
            paused: spec.paused,
            leave: spec.leave,
            leaving_since: annotation(LEAVING_SINCE).and_then(|text| text.parse().ok()),
            answer: status.map(|status| Answer {
                phase: status.phase,
                revision: status.revision,
                permit_id: status.permit_id,
                disruption: status.disruption,
                changes: status.changes_total,
                drifted: status.drifted.into_iter().next().unwrap_or_default(),
                reason: status.reason,
                message: status.message,
                machine_id: status.machine_id,
                node_uid: status.node_uid,
            }),
        };
        seen(&meta, value)
    }

    /// What the agent on this very Node and machine answered. An answer from another Node of the same name, or from
    /// another machine under the same Node, counts as none.
    pub fn answer_for(&self, node: &Node) -> Option<&Answer> {
        self.answer.as_ref().filter(|answer| {
            answer.node_uid == node.uid
                && (node.machine_id.is_empty() || answer.machine_id == node.machine_id)
        })
    }
}

/// The pod of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentPod {
    /// Its name.
    pub name: String,
    /// The NodeBootstrap's name.
    pub node_bootstrap: String,
    /// The node that it runs on; empty until it is scheduled.
    pub node: String,
    /// The state that it is in.
    pub state: AgentState,
}

/// Whether an agent can answer. The best of several pods on a node counts, hence the order.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum AgentState {
    /// It runs and answers.
    Ready,
    /// It starts, or is being replaced: not ready yet, and nothing is wrong.
    Starting,
    /// It does not run; in one word, why.
    Down(String),
    /// There is no pod.
    #[default]
    Absent,
}

/// The fields of a pod that are read.
#[derive(Debug, Clone, Deserialize, Resource)]
#[resource(inherit = core::Pod)]
pub struct WatchedPod {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: WatchedPodSpec,
    #[serde(default)]
    status: WatchedPodStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WatchedPodSpec {
    #[serde(default)]
    node_name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WatchedPodStatus {
    #[serde(default)]
    phase: String,
    #[serde(default)]
    conditions: Vec<WatchedCondition>,
    #[serde(default)]
    container_statuses: Vec<WatchedContainer>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WatchedContainer {
    #[serde(default)]
    restart_count: i32,
    #[serde(default)]
    state: core::ContainerState,
}

impl AgentPod {
    /// Reads one.
    pub fn read(pod: WatchedPod) -> Seen<Self> {
        let WatchedPod { metadata, spec, status } = pod;
        let value = Self {
            name: metadata.name.clone().unwrap_or_default(),
            node_bootstrap: label(&metadata, names::LABEL_NODE_BOOTSTRAP),
            node: spec.node_name,
            state: agent_state(metadata.deletion_timestamp.is_some(), &status),
        };
        seen(&metadata, value)
    }
}

fn agent_state(deleting: bool, status: &WatchedPodStatus) -> AgentState {
    let ready = status.conditions.iter().find(|one| one.type_ == "Ready");
    if ready.is_some_and(|ready| ready.status == "True") {
        return AgentState::Ready;
    }
    if deleting {
        return AgentState::Starting;
    }
    if status.phase == "Failed" || status.phase == "Succeeded" {
        return AgentState::Down(format!("Pod{}", status.phase));
    }
    let Some(container) = status.container_statuses.first() else { return AgentState::Starting };
    if let Some(reason) = container.state.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref()) {
        return match reason {
            "ContainerCreating" | "PodInitializing" => AgentState::Starting,
            other => AgentState::Down(other.to_owned()),
        };
    }
    if container.restart_count > 0 || container.state.terminated.is_some() {
        return AgentState::Down("Restarting".to_owned());
    }
    // It runs and is not ready: not yet, or not any more? A change of the condition after the container's start tells.
    let since = ready.and_then(|ready| ready.last_transition_time.as_ref()).map(|time| time.0);
    let started =
        container.state.running.as_ref().and_then(|running| running.started_at.as_ref()).map(|time| time.0);
    if since.zip(started).is_some_and(|(since, started)| since > started) {
        return AgentState::Down("NotReady".to_owned());
    }
    AgentState::Starting
}

impl AgentState {
    /// Whether its image is not to be had, so that nothing of it can have run.
    pub fn lacks_image(&self) -> bool {
        let reasons = ["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"];
        matches!(self, Self::Down(reason) if reasons.contains(&reason.as_str()))
    }
}

/// An object that was made for the agents of a NodeBootstrap: a DaemonSet, its ServiceAccount, Role or RoleBinding.
#[derive(Debug, Clone, PartialEq)]
pub struct Owned {
    /// [`Owned::key`] of its kind and name.
    pub key: String,
    /// The NodeBootstrap's name.
    pub node_bootstrap: String,
    /// The object, without its status and what counts changes.
    pub object: Value,
}

impl Owned {
    /// What finds it: its kind and name.
    pub fn key(kind: &str, name: &str) -> String {
        format!("{kind}/{name}")
    }

    /// Reads one of this kind.
    pub fn read<K: Resource + serde::Serialize>(kind: &str, mut object: K) -> Seen<Self> {
        let meta = object.meta().clone();
        // What counts a change of the status would wake us for nothing.
        let kept = object.meta_mut();
        kept.managed_fields = None;
        kept.resource_version = None;
        kept.generation = None;
        let mut json = serde_json::to_value(&object).unwrap_or_default();
        if let Some(fields) = json.as_object_mut() {
            fields.remove("status");
        }
        let value = Self {
            key: Self::key(kind, meta.name.as_deref().unwrap_or_default()),
            node_bootstrap: label(&meta, names::LABEL_NODE_BOOTSTRAP),
            object: json,
        };
        seen(&meta, value)
    }
}

/// The metadata of a revision, Secret or ConfigMap. Their values are fetched when one is needed, and not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its resourceVersion: another one means that its values may have changed.
    pub resource_version: String,
    /// The NodeBootstrap that it was made for; empty if it was made by somebody else.
    pub node_bootstrap: String,
    /// Its number, if it is a revision.
    pub number: i64,
}

impl Meta {
    /// Reads one.
    pub fn read<K>(object: PartialObjectMeta<K>) -> Seen<Self> {
        Self::of(&object.metadata)
    }

    /// Reads it from an object's metadata.
    pub fn of(meta: &ObjectMeta) -> Seen<Self> {
        let is_ours = label(meta, names::LABEL_COMPONENT) == crate::objects::COMPONENT_REVISION;
        let number = meta.annotations.as_ref().and_then(|all| all.get(REVISION_NUMBER));
        let value = Self {
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            node_bootstrap: if is_ours { label(meta, names::LABEL_NODE_BOOTSTRAP) } else { String::new() },
            number: number.and_then(|number| number.parse().ok()).unwrap_or_default(),
        };
        seen(meta, value)
    }
}

/// A value and the version of the object that it was read from.
pub struct Seen<T> {
    /// What was read.
    pub value: T,
    /// The object's version.
    pub version: u64,
}

fn seen<T>(meta: &ObjectMeta, value: T) -> Seen<T> {
    Seen { value, version: version(meta.resource_version.as_deref()) }
}

fn label(meta: &ObjectMeta, key: &str) -> String {
    meta.labels.as_ref().and_then(|labels| labels.get(key)).cloned().unwrap_or_default()
}

fn timestamp(time: Option<&Time>) -> Timestamp {
    time.map(|time| time.0).unwrap_or_default()
}

impl Entry for NodeBootstrap {
    fn key(&self) -> &str {
        &self.name
    }
    fn uid(&self) -> &str {
        &self.uid
    }
}

impl Entry for Node {
    fn key(&self) -> &str {
        &self.name
    }
    fn uid(&self) -> &str {
        &self.uid
    }
}

impl Entry for Report {
    fn key(&self) -> &str {
        &self.name
    }
    fn uid(&self) -> &str {
        &self.uid
    }
}

impl Entry for AgentPod {
    fn key(&self) -> &str {
        &self.name
    }
    fn uid(&self) -> &str {
        ""
    }
}

impl Entry for Owned {
    fn key(&self) -> &str {
        &self.key
    }
    fn uid(&self) -> &str {
        self.object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default()
    }
}

impl Entry for Meta {
    fn key(&self) -> &str {
        &self.name
    }
    fn uid(&self) -> &str {
        &self.uid
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(status: Value, deleting: bool) -> AgentState {
        let mut object = json!({
            "metadata": {"name": "a", "labels": {names::LABEL_NODE_BOOTSTRAP: "workers"}},
            "spec": {"nodeName": "n"},
            "status": status,
        });
        if deleting {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        AgentPod::read(serde_json::from_value(object).unwrap()).value.state
    }

    fn running(ready: &str, since: &str, restarts: i32) -> Value {
        json!({
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since}],
            "containerStatuses": [{
                "restartCount": restarts,
                "state": {"running": {"startedAt": "2026-01-01T00:00:10Z"}},
            }],
        })
    }

    #[test]
    fn an_agent_that_has_not_been_ready_yet_starts_and_one_that_was_is_down() {
        assert_eq!(pod(json!({"phase": "Pending"}), false), AgentState::Starting);
        assert_eq!(pod(running("False", "2026-01-01T00:00:09Z", 0), false), AgentState::Starting);
        assert_eq!(pod(running("True", "2026-01-01T00:00:12Z", 0), false), AgentState::Ready);
        assert_eq!(
            pod(running("False", "2026-01-01T00:01:00Z", 0), false),
            AgentState::Down("NotReady".into())
        );
        assert_eq!(
            pod(running("False", "2026-01-01T00:00:09Z", 1), false),
            AgentState::Down("Restarting".into())
        );
        assert_eq!(pod(running("False", "2026-01-01T00:01:00Z", 0), true), AgentState::Starting);
    }

    #[test]
    fn a_pod_that_cannot_start_says_why() {
        let waiting = |reason: &str| {
            pod(
                json!({"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": reason}}}]}),
                false,
            )
        };
        assert_eq!(waiting("ContainerCreating"), AgentState::Starting);
        assert_eq!(waiting("ImagePullBackOff"), AgentState::Down("ImagePullBackOff".into()));
    }

    #[test]
    fn a_malformed_object_is_seen_by_its_name_and_its_error() {
        let object = json!({
            "apiVersion": "nodebootstrap.io/v1alpha1",
            "kind": "NodeBootstrap",
            "metadata": {"name": "bad", "uid": "u", "resourceVersion": "7", "generation": 3},
            "spec": {"groups": "none"},
            "status": {"observedGeneration": 2},
        });
        let seen = NodeBootstrap::read(serde_json::from_value(object).unwrap());
        assert_eq!((seen.value.name.as_str(), seen.version), ("bad", 7));
        assert!(seen.value.spec.unwrap_err().contains("sequence"));
        assert_eq!(seen.value.status.observed_generation, Some(2));
    }

    #[test]
    fn an_answer_from_another_node_or_machine_counts_as_none() {
        let object = json!({
            "metadata": {"name": "workers.n"},
            "spec": {"nodeBootstrap": "workers", "nodeName": "n", "nodeUid": "u1"},
            "status": {"phase": "Ready", "nodeUid": "u1", "machineId": "m1"},
        });
        let report = Report::read(serde_json::from_value(object).unwrap()).value;
        let node = |uid: &str, machine: &str| Node {
            name: "n".into(),
            uid: uid.into(),
            machine_id: machine.into(),
            ..Node::default()
        };
        assert!(report.answer_for(&node("u1", "m1")).is_some());
        assert!(report.answer_for(&node("u1", "")).is_some());
        assert!(report.answer_for(&node("u2", "m1")).is_none());
        assert!(report.answer_for(&node("u1", "m2")).is_none());
    }
}
