//! What presets are asked for: kernel, kubelet, container runtime, and the checks before them.
//!
//! Doc comments here are the CRD's field descriptions, as in [`crate::nodebootstrap`]. What a preset expands to is known on
//! the node alone; defaults that depend on a node are applied there.

// The derive puts its own copy of the types into a private module.
#![allow(unreachable_pub)]

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::value::{HostPath, Sha256, Url};

/// Where the kubelet's program is put, if the spec does not say.
pub const KUBELET_PATH: &str = "/usr/local/sbin/kubelet";
/// The most checks of a node that may be overridden.
pub const MAX_IGNORED_CHECKS: usize = 32;

/// A set of kernel modules and settings that is kept for users.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(inline)]
#[serde(rename_all = "camelCase")]
pub enum KernelPreset {
    /// What a node of Kubernetes needs.
    Kubernetes,
}

/// Whether a kubelet that something else has set up is taken over.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum Takeover {
    /// Nothing is changed on a node whose kubelet something else has set up; its plan names who.
    #[default]
    Refuse,
    /// It is taken over, and only what differs is changed.
    Adopt,
}

/// An object with whatever is in it. By schemars' own word for a map the API server would prune what lies deeper.
fn tree(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// The kubelet: its program, configuration, flags and unit. What is left out stays as the node has it; a node without a
/// kubelet gets a unit and defaults. Changes are made as by docs/switch.md: confirmed by the node, or rolled back.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!has(self.version) || (has(self.sha256) && size(self.sha256) > 0)").message("kubelet.version needs kubelet.sha256, the digest of that version's program for each architecture, as in: {amd64: \"<64 hexadecimal digits>\"}"),
    validation = Rule::new("has(self.version) || !(has(self.sha256) || has(self.url) || has(self.mirrors))").message("kubelet.sha256, url and mirrors are of a version that is downloaded: give kubelet.version, or leave them out")
)]
pub struct Kubelet {
    /// The version whose program is downloaded. Default: none is, and the node's own runs. Example: v1.36.3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^v1\.[0-9]{1,3}\.[0-9]{1,3}$"))]
    pub version: Option<String>,
    /// Where the program is downloaded from; {version} and {arch} stand for the version and the node's architecture.
    /// Default: https://dl.k8s.io/release/{version}/bin/linux/{arch}/kubelet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<Url>,
    /// Other places with the same file, tried in this order when url fails. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub mirrors: Vec<Url>,
    /// The SHA-256 digest of the program for each architecture that is among the selected nodes, 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8))]
    pub sha256: BTreeMap<String, Sha256>,
    /// Where the program is put, and run from. Default: /usr/local/sbin/kubelet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary_path: Option<HostPath>,
    /// Fields of KubeletConfiguration (kubelet.config.k8s.io/v1beta1), without apiVersion and kind. They are put into a
    /// drop-in of the kubelet's configuration, so that what the node has of other fields stays. Each is checked against
    /// the fields of the version. Example: {maxPods: 200, shutdownGracePeriod: 30s}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "tree")]
    pub config: Option<Map<String, Value>>,
    /// A whole file that config is put into, on the node: what the node's own configuration has, or where there is no
    /// kubelet what is safe, with config over it. Default: a drop-in where the kubelet has a configuration of its own;
    /// /var/lib/kubelet/config.yaml where there is no kubelet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_path: Option<HostPath>,
    /// Flags besides those that the kubelet has, without their dashes; a flag that it has gets this value. At most 64.
    /// Example: {v: "2"}.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub extra_args: BTreeMap<String, String>,
    /// Labels that the Node gets when it registers. At most 64. Example: {node.example.com/rack: "7"}.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub node_labels: BTreeMap<String, String>,
    /// Taints that the Node gets when it registers. At most 16. Example: [{key: dedicated, value: db, effect: NoSchedule}].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub taints: Vec<Taint>,
    /// The addresses of the Node, one or two with a comma. Default: the kubelet finds one. Example: 10.0.0.7.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128), regex(pattern = r"^[0-9a-fA-F.:,]+$"))]
    pub node_ip: Option<String>,
    /// The credential of the kubelet, a path on the node. Default: as the node has it; /etc/kubernetes/kubelet.conf where
    /// there is no kubelet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<HostPath>,
    /// The credential by which a kubelet without one asks for its own (TLS bootstrap), a path on the node; put the file
    /// there by files and secretRef. Default: none. Example: /etc/kubernetes/bootstrap-kubelet.conf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap_kubeconfig: Option<HostPath>,
    /// Whether a kubelet that something else has set up (kubeadm, a distribution's package, …) is taken over. Default:
    /// Refuse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takeover: Option<Takeover>,
}

impl Kubelet {
    /// Where its program lies, or shall lie.
    pub fn program_path(&self) -> &str {
        self.binary_path.as_ref().map_or(KUBELET_PATH, HostPath::as_str)
    }
}

/// A taint that the Node gets when it registers.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Taint {
    /// Its key. Example: dedicated.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// Its value. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
    /// What it does to pods that do not tolerate it.
    pub effect: TaintEffect,
}

/// What a taint does.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub enum TaintEffect {
    /// New pods do not come.
    NoSchedule,
    /// New pods come only where nothing else is left.
    PreferNoSchedule,
    /// Pods that run go.
    NoExecute,
}

/// Which container runtime.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(inline)]
#[serde(rename_all = "camelCase")]
pub enum RuntimeType {
    /// containerd.
    Containerd,
}

/// How much of the container runtime is kept.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum Manage {
    /// Its configuration: keys are merged into what the node has.
    #[default]
    Config,
    /// The program, its unit, and its configuration.
    Install,
}

/// The container runtime. Changes are made as by docs/switch.md: confirmed by the node, or rolled back.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!has(self.archive) || (has(self.manage) && self.manage == 'Install')").message("containerRuntime.archive is for manage: Install"),
    validation = Rule::new("!has(self.runc) || (has(self.manage) && self.manage == 'Install')").message("containerRuntime.runc is for manage: Install"),
    validation = Rule::new("!has(self.manage) || self.manage != 'Install' || has(self.archive)").message("manage: Install needs containerRuntime.archive, the runtime's programs and where they come from")
)]
pub struct ContainerRuntime {
    /// Which one.
    #[serde(rename = "type")]
    pub type_: RuntimeType,
    /// How much of it is kept. Default: Config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manage: Option<Manage>,
    /// The programs of the runtime, unpacked into /usr/local, for manage: Install.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<RuntimeArchive>,
    /// runc, by which the runtime starts containers: a program that is put at /usr/local/sbin/runc, for manage: Install.
    /// Default: the node's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runc: Option<RuntimeArchive>,
    /// Keys of its configuration, as a tree; they are merged into what the node has, and win over what is generated.
    /// Example: {plugins: {io.containerd.grpc.v1.cri: {max_concurrent_downloads: 5}}}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "tree")]
    pub config: Option<Map<String, Value>>,
    /// The image of the container that holds a pod's namespaces. Default: left as it is. Example: registry.k8s.io/pause:3.10.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub sandbox_image: Option<String>,
}

/// Where programs of a container runtime come from.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuntimeArchive {
    /// Where it is downloaded from; {arch} stands for the node's architecture.
    pub url: Url,
    /// Other places with the same file, tried in this order when url fails. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub mirrors: Vec<Url>,
    /// The SHA-256 digest of the file for each architecture that is among the selected nodes, 64 hexadecimal digits.
    #[schemars(extend("maxProperties" = 8))]
    pub sha256: BTreeMap<String, Sha256>,
}

/// The checks of a node before presets are applied. Those that find what is sure to fail keep the plan from being made;
/// the others warn.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Preflight {
    /// Checks by name whose findings are left out. At most 32. Example: [CgroupV1].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub ignore: Vec<String>,
}
