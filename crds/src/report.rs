//! `NodeBootstrapReport` (`nbr`): one per NodeBootstrap and node. `spec` is the operator's word to the agent,
//! `status` the agent's word back; the admission policy in `deploy/` lets an agent write only its own node's.

// The derive puts its own copy of the types into a private module, and takes an attribute for each column.
#![allow(unreachable_pub, clippy::duplicated_attributes)]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nodebootstrap::{Drift, Health};

/// The most changes that a Report lists; the full plan stays on the host.
pub const MAX_CHANGES: usize = 50;
/// The most warnings that a Report lists.
pub const MAX_WARNINGS: usize = 10;
/// The most problems that a Report lists.
pub const MAX_PROBLEMS: usize = 20;
/// The most drifted resources that a Report lists.
pub const MAX_DRIFTED: usize = 10;
/// The most conflicts that a Report lists.
pub const MAX_CONFLICTS: usize = 10;

/// What the operator tells one node, and the agent's answer.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "nodebootstrap.io",
    version = "v1alpha1",
    kind = "NodeBootstrapReport",
    plural = "nodebootstrapreports",
    shortname = "nbr",
    category = "nodebootstrap",
    status = "NodeBootstrapReportStatus",
    derive = "PartialEq",
    doc = "What one node has of one NodeBootstrap. Written by the operator (spec) and that node's agent (status); read by people.",
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.nodeName"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.revision"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct NodeBootstrapReportSpec {
    /// The NodeBootstrap's name.
    pub node_bootstrap: String,
    /// When the NodeBootstrap was created, RFC 3339. The older one keeps what two claim on a node, also where only the
    /// host can tell that they do: two paths that are one by way of a link.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub node_bootstrap_created: String,
    /// The Node's name.
    pub node_name: String,
    /// The Node's uid; another one means another machine, and the status counts as absent.
    pub node_uid: String,
    /// Name of the ControllerRevision that the node shall have. Empty: none yet.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub revision: String,
    /// Plan: the agent says what it would change, and changes nothing, whatever the permit. Default: Apply.
    #[serde(default, skip_serializing_if = "RunMode::is_apply")]
    pub mode: RunMode,
    /// Over how many seconds the nodes that were given this revision at once spread the beginning of their downloads;
    /// each draws its own moment. Written together with the revision. Default: 0, at once.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub spread: u32,
    /// What the agent may do now. Default: the standing permit, id 0 and disruption None.
    #[serde(default)]
    pub permit: Permit,
    /// What an older NodeBootstrap has already claimed on this node. While there is one, the agent changes nothing.
    /// At most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub conflicts: Vec<Conflict>,
    /// What becomes of drift, as the NodeBootstrap has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<Drift>,
    /// How the node is judged after a change of what its pods run under, as the NodeBootstrap has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// The value of the Node's annotation nodebootstrap.io/retry: what was rolled back is tried again when it changes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub retry: String,
    /// true: nothing at all is changed on the node, not even to leave; its Node has the annotation nodebootstrap.io/paused.
    /// Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// Set when the node leaves the NodeBootstrap: what shall become of what was made on it, as far as the permit goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leave: Option<Leave>,
}

/// Whether changes are made or only planned.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum RunMode {
    /// The nodes are brought to what the spec says, and kept so.
    #[default]
    Apply,
    /// Nothing is changed on any node; what would be is told.
    Plan,
}

impl RunMode {
    /// Whether changes are made.
    pub fn is_apply(&self) -> bool {
        *self == Self::Apply
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What the operator lets one node do.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Permit {
    /// Rises with each permit that the operator gives this node; the agent says in its status which it has seen.
    #[serde(default)]
    pub id: i64,
    /// The highest disruption that the agent may cause. Default: None.
    #[serde(default)]
    pub disruption: Disruption,
}

/// How much a change disturbs what runs on the node, the least first.
#[derive(
    JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
#[schemars(inline)]
pub enum Disruption {
    /// Nothing that runs is disturbed.
    #[default]
    None,
    /// A running service is restarted or stopped.
    Restart,
    /// A service is replaced by one under which pods that run may not go on: the node is drained first.
    Drain,
}

/// A path or name that two NodeBootstraps want on one node; the older one keeps it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct Conflict {
    /// The resource: its kind and its path or name. Example: file /etc/motd.
    pub resource: String,
    /// The older NodeBootstrap, which keeps it.
    pub with: String,
}

/// What becomes of what was made on a node that leaves.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub enum Leave {
    /// It stays.
    Retain,
    /// What was there before is put back.
    Revert,
}

// Every text is bounded: a broken-into node may write this.
/// What the agent says of its node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeBootstrapReportStatus {
    /// The state the node is in.
    pub phase: ReportPhase,
    /// The revision that phase speaks of: the one that runs, was tried, or waits; "revert": what was there before.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub revision: String,
    /// The id of the permit that the agent last acted on, from a fresh read.
    #[serde(default)]
    pub permit_id: i64,
    /// The disruption of the changes that are listed.
    #[serde(default)]
    pub disruption: Disruption,
    /// One word for the cause. Example: DigestMismatch.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub reason: String,
    /// One line: step, cause, what happens next. At most 512 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub message: String,
    /// The changes that are pending or planned, in the order in which they are made, or that were made last: at most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub changes: Vec<ChangeSummary>,
    /// How many changes there are in all.
    #[serde(default)]
    pub changes_total: u32,
    /// Why the revision cannot be had on this host, every reason at once: at most 20. While there is one, nothing is
    /// begun.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), inner(length(max = 512)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub problems: Vec<String>,
    /// What is no longer as it was made and is left so, by drift.policy Report: at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), inner(length(max = 512)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub drifted: Vec<String>,
    /// What should be looked at but stops nothing: at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), inner(length(max = 512)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub warnings: Vec<String>,
    /// The machine's id, as /etc/machine-id has it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub machine_id: String,
    /// The id of the boot that the agent runs in.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub boot_id: String,
    /// The uid of the Node that the agent answered for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub node_uid: String,
    /// The agent's version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub agent_version: String,
    /// When the phase or revision last changed, RFC 3339.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub since: String,
}

/// The state of the node as its agent sees it.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum ReportPhase {
    /// Changes are being made, or a download is under way.
    #[default]
    Applying,
    /// The plan needs more than the permit allows; nothing was begun.
    Waiting,
    /// The mode is Plan: what would be changed is listed, and nothing was begun.
    Planned,
    /// Every change on this host is stopped.
    Paused,
    /// The host has the revision, verified.
    Ready,
    /// The revision cannot be had on this host; see reason and message. Tried again by itself.
    Failed,
    /// The agent is done with this node; nothing of it will run any more.
    Left,
}

/// One change to a host, without content.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ChangeSummary {
    /// The resource: its kind and its path or name. Example: directory /etc/kubernetes.
    #[schemars(length(max = 300))]
    pub resource: String,
    /// What changes, in a few words. Example: mode 0755 to 0700.
    #[schemars(length(max = 300))]
    pub change: String,
    /// How much it disturbs.
    #[serde(default)]
    pub disruption: Disruption,
}
