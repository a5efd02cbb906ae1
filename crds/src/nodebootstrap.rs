//! `NodeBootstrap` (`nb`): what a user wants of the nodes that it selects, and the status that the operator writes.
//!
//! Doc comments here are the CRD's field descriptions, so they speak to users: meaning, default, unit, example.
//! Defaults inside list items are applied when a revision is rendered ([`crate::revision`]), never by the schema:
//! a GitOps tool would else see a difference for ever.

// The derive puts its own copy of the types into a private module, and takes an attribute for each column.
#![allow(unreachable_pub, clippy::duplicated_attributes)]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::component::{ContainerRuntime, KernelPreset, Kubelet, Preflight};
use crate::report::{Disruption, RunMode};
use crate::value::{
    AccountComment, AccountName, AccountPath, AccountRef, ArchiveName, BlockText, CommentSign, DropInName,
    HostPath, LineStart, LineText, LinkTarget, Mode, ModuleName, NoProxy, PartName, ProxyUrl, Sha256, Share,
    SysctlValue, Timeout, UnitName, Url,
};

/// The most entries of each list of a spec but binaries, archives, symlinks and parts of files. What bounds it is how much the API server lets CEL cost.
pub const MAX_ENTRIES: usize = 1000;
/// The most binaries of a spec: their URLs are the longest texts that rules look at.
pub const MAX_BINARIES: usize = 100;
/// The most archives of a spec.
pub const MAX_ARCHIVES: usize = 32;
/// The most leading folders that are taken off what is in an archive.
pub const MAX_STRIP: i64 = 16;
/// The most CA bundles of a spec.
pub const MAX_CA_BUNDLES: usize = 8;
/// The most units that are told of the proxy.
pub const MAX_PROXY_UNITS: usize = 16;

/// The most kernel modules of a spec.
pub const MAX_MODULES: usize = 64;
/// The most kernel settings of a spec.
pub const MAX_SYSCTLS: usize = 128;
/// The most drop-ins of a unit.
pub const MAX_DROP_INS: usize = 8;
/// The most supplementary groups of a user.
pub const MAX_GROUPS: usize = 32;
/// The most symbolic links of a spec.
pub const MAX_SYMLINKS: usize = 100;
/// The most parts of files of a spec.
pub const MAX_FILE_PARTS: usize = 100;

/// The state that selected nodes shall have: groups, users, directories, files, parts of files, binaries, archives, symbolic links
/// and systemd units. When an entry leaves the spec, what was there before it is put back. Writing a NodeBootstrap is being root on the nodes it selects.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "nodebootstrap.io",
    version = "v1alpha1",
    kind = "NodeBootstrap",
    plural = "nodebootstraps",
    shortname = "nb",
    category = "nodebootstrap",
    status = "NodeBootstrapStatus",
    derive = "PartialEq",
    doc = "The state that selected nodes shall have, and what became of it.",
    printcolumn(name = "Selected", type_ = "integer", json_path = ".status.nodes.selected", description = "Nodes that the selector matches."),
    printcolumn(name = "Updated", type_ = "integer", json_path = ".status.nodes.updated", description = "Nodes that run the newest revision."),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.nodes.ready", description = "Nodes that run the newest revision, proven, and that answer."),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.nodes.failed", description = "Nodes that cannot take the newest revision."),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].message"#, description = "Why it is not ready, in one line."),
    validation = Rule::new("self.metadata.name.size() <= 50 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name: at most 50 characters, a-z, 0-9 and - only, as in: workers")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.nodeSelector) != (has(self.allNodes) && self.allNodes)").message("give exactly one of nodeSelector and allNodes: true"),
    validation = Rule::new("!has(self.files) || !has(self.directories) || [self.directories.transformMapEntry(i, d, {d.path: true})].all(m, self.files.all(f, !(f.path in m)))").message("a path is in both files and directories: leave it in one of them"),
    validation = Rule::new("!has(self.binaries) || !has(self.directories) || [self.directories.transformMapEntry(i, d, {d.path: true})].all(m, self.binaries.all(b, !(b.path in m)))").message("a path is in both binaries and directories: leave it in one of them"),
    validation = Rule::new("!has(self.binaries) || !has(self.files) || [self.files.transformMapEntry(i, f, {f.path: true})].all(m, self.binaries.all(b, !(b.path in m)))").message("a path is in both binaries and files: leave it in one of them"),
    validation = Rule::new("!has(self.symlinks) || !has(self.directories) || [self.directories.transformMapEntry(i, d, {d.path: true})].all(m, self.symlinks.all(l, !(l.path in m)))").message("a path is in both symlinks and directories: leave it in one of them"),
    validation = Rule::new("!has(self.symlinks) || !has(self.files) || [self.files.transformMapEntry(i, f, {f.path: true})].all(m, self.symlinks.all(l, !(l.path in m)))").message("a path is in both symlinks and files: leave it in one of them"),
    validation = Rule::new("!has(self.symlinks) || !has(self.binaries) || [self.binaries.transformMapEntry(i, b, {b.path: true})].all(m, self.symlinks.all(l, !(l.path in m)))").message("a path is in both symlinks and binaries: leave it in one of them"),
    validation = Rule::new("!has(self.fileParts) || !has(self.directories) || [self.directories.transformMapEntry(i, d, {d.path: true})].all(m, self.fileParts.all(p, !(p.path in m)))").message("a path is in both fileParts and directories: leave it in one of them"),
    validation = Rule::new("!has(self.fileParts) || !has(self.files) || [self.files.transformMapEntry(i, f, {f.path: true})].all(m, self.fileParts.all(p, !(p.path in m)))").message("a path is in both fileParts and files: leave it in files, with all that shall be in it"),
    validation = Rule::new("!has(self.fileParts) || !has(self.binaries) || [self.binaries.transformMapEntry(i, b, {b.path: true})].all(m, self.fileParts.all(p, !(p.path in m)))").message("a path is in both fileParts and binaries: leave it in one of them"),
    validation = Rule::new("!has(self.fileParts) || !has(self.symlinks) || [self.symlinks.transformMapEntry(i, l, {l.path: true})].all(m, self.fileParts.all(p, !(p.path in m)))").message("a path is in both fileParts and symlinks: name the path that the link leads to"),
    validation = Rule::new("!has(self.symlinks) || !has(self.units) || [self.symlinks.transformMapEntry(i, l, {l.path: true})].all(m, self.units.all(u, !(('/etc/systemd/system/' + u.name) in m)))").message("a unit's own file is in both units and symlinks: leave it in one of them"),
    validation = Rule::new("!has(self.units) || !has(self.files) || [self.files.transformMapEntry(i, f, {f.path: true})].all(m, self.units.all(u, !(('/etc/systemd/system/' + u.name) in m)))").message("a unit's own file is in both units and files: leave it in units")
)]
pub struct NodeBootstrapSpec {
    /// Apply: the nodes are brought to what the spec says, and kept so. Plan: nothing is changed on any node, neither
    /// what is new nor what was changed by hand; the status says how many nodes would be changed and how much would be
    /// disturbed, and each node's Report lists the changes in their order, or every reason why they cannot be made.
    /// Apply then makes those. Default: Apply. Example: Plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<RunMode>,

    /// The nodes that are meant, by their labels. Give this or allNodes. Only linux nodes are ever selected.
    /// Example: {matchLabels: {kubernetes.io/os: linux}}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<NodeSelector>,

    /// true: every linux node of the cluster, those that join later too. Default: false. An empty nodeSelector is
    /// refused, so that all nodes are never selected by mistake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_nodes: Option<bool>,

    /// Groups that shall exist. At most 1000. Example: [{name: kubernetes}].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub groups: Vec<Group>,

    /// Users that shall exist. At most 1000. Example: [{name: kubernetes, group: kubernetes, home: /etc/kubernetes}].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub users: Vec<User>,

    /// Directories that shall exist, with owner and mode. Parents that are missing are made with root:root 0755. At
    /// most 1000. Example: [{path: /etc/kubernetes/pki, owner: kubernetes, mode: "0700"}].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["path".into()]))]
    pub directories: Vec<Directory>,

    /// Files that shall exist, with content, owner and mode. Their directory must be there or be in directories. At
    /// most 1000. Example: [{path: /etc/motd, content: "hello\n"}].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["path".into()]))]
    pub files: Vec<File>,

    /// Parts of files that the host or others own: lines of yours between two marker lines, or one line. All else in such
    /// a file stays as it is, byte for byte, and so do its owner and mode. The file must be there. At most 100. Example:
    /// [{path: /etc/hosts, name: registry, block: "10.0.0.1 registry.local\n"}].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["path".into(), "name".into()]))]
    pub file_parts: Vec<FilePart>,

    /// Programs to download, each verified by its digest before it becomes executable. At most 100. Example:
    /// [{path: /usr/local/sbin/kubelet, url: "https://dl.k8s.io/release/v1.36.3/bin/linux/{arch}/kubelet",
    /// sha256: {amd64: "<64 hex>"}}].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["path".into()]))]
    pub binaries: Vec<Binary>,

    /// Archives to download and unpack, each verified by its digest before anything of it is looked at: tar, tar.gz,
    /// tar.xz and tar.zst. At most 32. Example: [{name: cni-plugins, into: /opt/cni/bin,
    /// url: "https://example.com/cni-plugins-linux-{arch}.tgz", sha256: {amd64: "<64 hex>"}}].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub archives: Vec<Archive>,

    /// Symbolic links that shall exist. What they lead to need not be there. Their directory must be there or be in
    /// directories. At most 100. Example: [{path: /usr/local/bin/kubectl, target: /opt/kubernetes/bin/kubectl}].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["path".into()]))]
    pub symlinks: Vec<Symlink>,

    /// systemd units: their content, whether they start at boot, whether they run now. At most 1000. Example:
    /// [{name: hello.service, content: "[Service]\nExecStart=/usr/local/bin/hello\n", active: true}].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub units: Vec<Unit>,

    /// The kernel's modules, settings and swap, now and at each boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Kernel>,

    /// The kubelet of the nodes: version, configuration, flags. Example: {version: v1.36.3, sha256: {amd64: "<64 hex>"},
    /// takeover: Adopt}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubelet: Option<Kubelet>,

    /// The container runtime of the nodes. Example: {type: containerd}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_runtime: Option<ContainerRuntime>,

    /// The checks of a node before kernel.preset, kubelet and containerRuntime are applied. Example: {ignore: [CgroupV1]}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preflight: Option<Preflight>,

    /// What becomes of what differs on a node from what was made there. Default: it is put right at once. Example:
    /// {policy: Report}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<Drift>,

    /// How a node is judged after a change of what its pods run under, as its kubelet or container runtime, and how long that
    /// may take; after that the node itself puts back what was there before. Default: as good as before within 180s, and so
    /// for 10s. Example: {timeout: 300s}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,

    /// In which steps a new revision comes to the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,

    /// What becomes of what was made on a node that leaves (label lost, NodeBootstrap deleted). Retain: it stays. Revert:
    /// what was there before is put back, and what was not there is removed; what something else has changed since is
    /// left, and listed in the node's Report. Nodes on which that restarts or stops something have their turn one after the
    /// other, within rollout.allow. An edit counts for nodes that are leaving, too. Default: Retain. Example: Revert.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,

    /// How servers are reached: by way of a proxy, and trusting more certificates than the node does by itself. It is for
    /// the agent's downloads, and, where it says so, for programs of the node. Default: directly, and the node's own
    /// certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<Trust>,

    /// How long a node that leaves (label lost, NodeBootstrap deleted) may take to answer before it is given up and
    /// stays as it is; from its turn on, where it has to wait for one, health.timeout more. The time of one that says that it
    /// waits for its turn, or that in its turn it failed, stands. A whole number with s, m or h. Default: 10m. Example: 90s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leave_timeout: Option<Timeout>,
}

/// In which steps a new revision comes to the nodes. A change of this field is no new revision.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rollout {
    /// How many nodes may be at a new revision at once: a number, or a percentage of the selected nodes, rounded down, one at
    /// least. It is for changes that disturb nothing; those that restart something come to one node at a time in any case.
    /// The next node gets the revision when one has said that it is ready, that it failed (it goes on trying) or that it
    /// waits for a permit. A node that does not answer gets it when it is back. Default: "100%", all at once. Example: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallel: Option<Share>,
    /// The highest disruption that a node may have. None: nothing that runs is disturbed. Restart: services are restarted.
    /// Drain: also the kubelet's minor version or the container runtime's version is changed, on nodes that you have
    /// drained. A plan that needs more is not begun, and the status says so; also one that puts back what was there before.
    /// Default: Drain. Example: Restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Disruption>,
}

/// What becomes of drift: something on a node is no longer as it was made there for the revision that the node has. A
/// change of this field is no new revision.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!has(self.interval) || duration(self.interval) >= duration('10s')").message("drift.interval: at least 10s"),
    validation = Rule::new("!has(self.fullInterval) || duration(self.fullInterval) >= duration('1m')").message("drift.fullInterval: at least 1m"),
    validation = Rule::new("!has(self.ignore) || self.ignore.all(p, p.contains('/') == p.startsWith('/'))").message("drift.ignore: a pattern is that of an absolute path or of a name, as in: /etc/motd, /etc/cni/**, *.timer"),
    validation = Rule::new("!has(self.overrides) || self.overrides.all(o, o.pattern.contains('/') == o.pattern.startsWith('/'))").message("drift.overrides: a pattern is that of an absolute path or of a name, as in: /etc/motd, /etc/cni/**, *.timer")
)]
pub struct Drift {
    /// Enforce: it is put right at once; where something else changes it again and again, ever more slowly, and the
    /// status says so. Report: it is left, told in the status and counted in nodes.drifted. CreateOnly: it is left, also
    /// by a new revision as long as the entry's own text is the same, and not told. Default: Enforce. Example: Report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<DriftPolicy>,
    /// How often a node is compared in full. Files, accounts, units, kernel modules and swap tell by themselves within a second;
    /// this is for what lies below recursive directories, and for kernel settings. At least 10s. Default: 30s. Example: 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Timeout>,
    /// How often the content of each file is read again though its inode, size and times say that it is the same. Less often
    /// than interval. At least 1m. Default: 1h. Example: 24h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_interval: Option<Timeout>,
    /// Paths, parts of files as /etc/hosts#registry, and names of units, users and groups, that are treated as by CreateOnly
    /// whatever the policy. * stands for
    /// anything but a slash, ** for anything, ? for one character. At most 32. Example: [/etc/motd, "*.timer"].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 256)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub ignore: Vec<String>,
    /// Other policies for some of the resources: the first whose pattern fits counts, before policy and after ignore. At most
    /// 32. Example: [{pattern: /etc/cni/**, policy: Report}].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub overrides: Vec<DriftOverride>,
}

impl Drift {
    /// All patterns.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        let overrides = self.overrides.iter().map(|one| one.pattern.as_str());
        self.ignore.iter().map(String::as_str).chain(overrides)
    }
}

/// A policy for some of the resources.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DriftOverride {
    /// A pattern as in ignore. Example: "kubelet.service".
    #[schemars(length(min = 1, max = 256))]
    pub pattern: String,
    /// What becomes of the drift of what fits. Example: Report.
    pub policy: DriftPolicy,
}

/// How a node is judged after a change of what its pods run under. A change of this field is no new revision.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!has(self.timeout) || (duration(self.timeout) >= duration('10s') && duration(self.timeout) <= duration('1h'))").message("health.timeout: from 10s to 1h"),
    validation = Rule::new("duration(has(self.stableFor) ? self.stableFor : '10s') < duration(has(self.timeout) ? self.timeout : '180s')").message("health.stableFor (10s if left out) must be shorter than health.timeout (180s if left out)")
)]
pub struct Health {
    /// How long the node may take to be as good as before: its kubelet answers its health check, renews its Lease and
    /// reaches the API server, and the Node is Ready, each if it was so before. After that what was there before is put
    /// back. From 10s to 1h. Default: 180s. Example: 300s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Timeout>,
    /// How long it must stay as good as before until it counts. Shorter than timeout. Default: 10s. Example: 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable_for: Option<Timeout>,
}

impl Health {
    /// The timeout that is in force.
    pub fn timeout(health: Option<&Self>) -> Timeout {
        health.and_then(|health| health.timeout).unwrap_or(Timeout::from_secs(180))
    }

    /// How long it must stay so.
    pub fn stable_for(health: Option<&Self>) -> Timeout {
        health.and_then(|health| health.stable_for).unwrap_or(Timeout::from_secs(10))
    }
}

/// The most entries of [`Drift::ignore`], and of [`Drift::overrides`].
pub const MAX_PATTERNS: usize = 32;
/// The longest pattern of [`Drift`], in characters.
pub const MAX_PATTERN: usize = 256;
/// The shortest [`Drift::interval`].
pub const MIN_INTERVAL: Timeout = Timeout::from_secs(10);
/// The shortest [`Drift::full_interval`].
pub const MIN_FULL_INTERVAL: Timeout = Timeout::from_secs(60);

/// What becomes of drift.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum DriftPolicy {
    /// It is put right.
    #[default]
    Enforce,
    /// It is told and left.
    Report,
    /// It is left.
    CreateOnly,
}

/// What becomes of what was made on a node that leaves.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum DeletionPolicy {
    /// It stays.
    #[default]
    Retain,
    /// What was there before is put back.
    Revert,
}

/// Selects nodes by label; matchLabels and matchExpressions must both hold.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)").message("an empty nodeSelector selects nothing on purpose: name a label, or leave it out and write allNodes: true for every node"))]
pub struct NodeSelector {
    /// Labels that a node must have, each with this value. Example: {kubernetes.io/os: linux}.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub match_labels: BTreeMap<String, String>,

    /// Conditions on labels that must all hold. Example: [{key: node-role.kubernetes.io/control-plane, operator: DoesNotExist}].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub match_expressions: Vec<LabelRequirement>,
}

/// One condition on a label.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)").message("operators In and NotIn need values; Exists and DoesNotExist take none"))]
pub struct LabelRequirement {
    /// The label's key. Example: node-role.kubernetes.io/control-plane.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// How the label's value is compared.
    pub operator: LabelOperator,
    /// The values for In and NotIn. Example: [a, b].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub values: Vec<String>,
}

/// How a label's value is compared.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub enum LabelOperator {
    /// The label is there with one of the values.
    In,
    /// The label is missing or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is missing.
    DoesNotExist,
}

/// A group that shall exist.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Group {
    /// The group's name, as groupadd takes it. Example: kubernetes.
    pub name: AccountName,
    /// The group's number. Default: a free one of the host, from its system range if system. An existing group with
    /// another number is an error on that node, never changed. Example: 998.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4294967294u32))]
    pub gid: Option<i64>,
    /// Whether a free number is taken from the host's system range. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<bool>,
}

/// A user that shall exist. No password is ever set: a new account is locked. Of a user that exists, what is omitted
/// here is left as it is.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct User {
    /// The user's name, as useradd takes it. Example: kubernetes.
    pub name: AccountName,
    /// The user's number. Default: a free one of the host, from its system range if system. An existing user with
    /// another number is an error on that node, never changed. Example: 998.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4294967294u32))]
    pub uid: Option<i64>,
    /// The primary group: one in groups or one that the host has. Default: a user that exists keeps its own; a new one
    /// gets the group of its own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<AccountRef>,
    /// The home directory as it stands in the host's user list; it is not made (list it in directories). Default: a
    /// user that exists keeps its own; a new one gets /nonexistent. Example: /etc/kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<AccountPath>,
    /// The login shell. Default: a user that exists keeps its own; a new one gets the host's own nologin. A shell that
    /// the host lacks is a warning that names the right one, and the host's nologin is used where a nologin was asked
    /// for. Example: /usr/sbin/nologin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<AccountPath>,
    /// Whether a free number is taken from the host's system range. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<bool>,
    /// Supplementary groups: ones in groups or that the host has. The user is made a member of them, and stays in those
    /// that it is in besides. At most 32. Example: [docker].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub groups: Vec<AccountName>,
    /// The comment (the full name) in the host's user list. Default: a user that exists keeps its own; a new one has
    /// none. Example: Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<AccountComment>,
    /// true: nobody logs in with the user's password, as after `usermod --lock`. false: it is unlocked; a user that has
    /// no password gets none by that. Default: a user that exists is left as it is; a new one is locked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked: Option<bool>,
}

/// A directory that shall exist.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new(r"!has(self.recursive) || !self.recursive || !self.path.matches(r'^/(bin|boot|etc|home|lib|lib32|lib64|libx32|lost\+found|media|mnt|opt|root|run|sbin|srv|tmp|usr|var)$|^/usr/(bin|lib|lib32|lib64|libexec|libx32|local|sbin|share)$|^/usr/local/(bin|lib|sbin)$|^/var/(cache|lib|log|run|spool|tmp)$|^/etc/systemd(/system)?$')").message("recursive would change a top-level folder of the system: name the folder below it that is yours, as /etc/kubernetes"))]
#[x_kube(validation = Rule::new("!has(self.inside) || (has(self.recursive) && self.recursive)").message("inside is for what is inside a directory that is recursive: write recursive: true too, or leave it out"))]
pub struct Directory {
    /// Where it is: an absolute path. Example: /etc/kubernetes.
    pub path: HostPath,
    /// The user that owns it, by name or number. Default: root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<AccountRef>,
    /// The group that owns it, by name or number. Default: root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<AccountRef>,
    /// Permission bits, octal, in quotes. Default: "0755".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// true: owner and group also of everything inside, as chown -R does; links are not followed, other file
    /// systems not entered, and an entry of its own in this spec wins. Modes of what is inside stay, unless inside gives
    /// others; but a file that gets another owner loses its set-uid and set-gid bits and its capabilities. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recursive: Option<bool>,
    /// The modes of what is inside, if recursive. Default: they stay. Example: {fileMode: "0640", directoryMode: "0750"}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<Inside>,
}

/// The modes of all that is inside a recursive directory and has no entry of its own. A mode that leaves the spec stays
/// where it was given, until the directory's entry leaves it too.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.fileMode) || has(self.directoryMode)").message("give fileMode, directoryMode or both"),
    validation = Rule::new("!has(self.fileMode) || self.fileMode.matches(r'^0?[0-7]{3}$')").message("inside.fileMode has no set-uid, set-gid or sticky bit, which whoever puts a file there would get too: write three digits, as in: \"0640\""),
    validation = Rule::new("!has(self.directoryMode) || self.directoryMode.matches(r'^[0-3]?[0-7]{3}$')").message("inside.directoryMode has no set-uid bit, which means nothing: write \"0750\", or \"2750\" for set-gid")
)]
pub struct Inside {
    /// Permission bits of each regular file, octal, in quotes; programs too, so that 0640 takes their right to be
    /// executed. Default: they stay. Example: "0640".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<Mode>,
    /// Permission bits of each directory, octal, in quotes. Default: they stay. Example: "0750".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory_mode: Option<Mode>,
}

/// A file that shall exist with this content.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("[has(self.content), has(self.configMapRef), has(self.secretRef)].filter(x, x).size() == 1").message("a file has exactly one source: give one of content, configMapRef and secretRef (content: \"\" for an empty file)"))]
pub struct File {
    /// Where it is: an absolute path. Example: /etc/crictl.yaml.
    pub path: HostPath,
    /// The user that owns it, by name or number. Default: root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<AccountRef>,
    /// The group that owns it, by name or number. Default: root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<AccountRef>,
    /// Permission bits, octal, in quotes. Default: "0644", or "0600" for a secretRef.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The content itself, at most 524288 characters. Example: "runtime-endpoint: unix:///run/containerd/containerd.sock\n".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 524288))]
    pub content: Option<String>,
    /// A key of a ConfigMap in the namespace nodebootstrap-system. When it changes, the nodes follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<KeyRef>,
    /// A key of a Secret in the namespace nodebootstrap-system. When it changes, the nodes follow. Its value appears
    /// in no status, event or log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<KeyRef>,
    /// What happens after the content changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_change: Option<OnChange>,
}

/// A part of a file that the host or others own. No secret belongs in it: its text stands in the revision.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.block) != has(self.line)").message("a part of a file is a block or a line: give one of them"),
    validation = Rule::new("!has(self.comment) || has(self.block)").message("comment begins the lines that mark a block; a line has none: leave it out"),
    validation = Rule::new("!has(self.replaces) || (has(self.line) && self.line.startsWith(self.replaces))").message("replaces is how line itself begins, or it would be added again and again, as in: {line: NO_PROXY=10.0.0.0/8, replaces: NO_PROXY=}")
)]
pub struct FilePart {
    /// The file: an absolute path. It must be there, and be a file of at most 1 MiB; one that shall be made is listed in
    /// files. Example: /etc/hosts.
    pub path: HostPath,
    /// What tells it from other parts of the same file. It stands in the lines that mark a block. Example: registry.
    pub name: PartName,
    /// Lines, added at the end of the file between two marker lines, as # BEGIN nodebootstrap registry and # END
    /// nodebootstrap registry. Wherever somebody moves all of them to, they stay there. At most 50 lines, together at
    /// most 4096 characters. Example: "10.0.0.1 registry.local\n".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<BlockText>,
    /// Exactly one line, without marker lines. If the file has no such line it is added at the end. At most 1024
    /// characters. Example: NO_PROXY=10.0.0.0/8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<LineText>,
    /// How the line begins that line takes the place of, literally; spaces before it do not count. If no line begins so, line
    /// is added at the end; two that do are an error on that node, since only the program that reads them knows which
    /// counts. Lines of blocks do not count. Default: line is added unless the very same is there. Example: NO_PROXY=.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<LineStart>,
    /// What begins a comment in this file: with that the marker lines of a block begin. Default: "#". Example: ";".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<CommentSign>,
    /// What happens after the part changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_change: Option<OnChange>,
}

/// One key of a ConfigMap or Secret in the namespace nodebootstrap-system.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("self.name != 'nodebootstrap-hmac-key'").message("nodebootstrap-hmac-key is the operator's own: name an object of yours"))]
pub struct KeyRef {
    /// The object's name. Example: registry-hosts.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in it. Example: hosts.toml.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// What happens after content changed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OnChange {
    /// Units to restart once, after all changes, if they run. This makes the change a disruption of class Restart:
    /// nodes take it one at a time. At most 5. Example: [containerd.service].
    #[schemars(length(max = 5))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("!self.exists(unit, unit.contains('@.'))").message("a template (name@.service) does not run: name the instances, as name@one.service")
    )]
    pub restart: Vec<UnitName>,
}

/// A program that is downloaded and verified.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.sha256) && size(self.sha256) > 0").message("sha256 is missing: give the digest for each architecture, as in sha256: {amd64: \"<64 hex digits>\"}"),
    validation = Rule::new("!has(self.sha256) || self.sha256.all(a, a in ['amd64', 'arm64'])").message("sha256 is given for each architecture: the keys are amd64 and arm64")
)]
pub struct Binary {
    /// Where it is put: an absolute path. Example: /usr/local/sbin/kubelet.
    pub path: HostPath,
    /// Where it is fetched from. {arch} stands for the node's architecture, amd64 or arm64; redirects are followed. A
    /// file that is on the node already is taken with file:// and its path. Example: file:///opt/images/kubelet.
    pub url: Url,
    /// Other places with the same file, tried in this order when url fails. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub mirrors: Vec<Url>,
    /// The SHA-256 digest for each architecture that is among the selected nodes, 64 hexadecimal digits. A node
    /// whose architecture is not listed reports an error. Example: {amd64: "<64 hex>", arm64: "<64 hex>"}.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8))]
    pub sha256: BTreeMap<String, Sha256>,
    /// The user that owns it, by name or number. Default: root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<AccountRef>,
    /// The group that owns it, by name or number. Default: root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<AccountRef>,
    /// Permission bits, octal, in quotes. Default: "0755".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// What happens after the content changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_change: Option<OnChange>,
}

/// An archive that is downloaded, verified and unpacked. Each file and link of it is then kept as if it stood in the spec:
/// repaired, and removed when the archive leaves the spec or a new version of it has no such file. Directories that are
/// missing are made; those that are there stay as they are. An archive that holds a device, a path or link that leads out
/// of its folder, one name twice, more than 10000 entries or more than 4 GiB is refused, and so is a zip.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.sha256) && size(self.sha256) > 0").message("sha256 is missing: give the digest for each architecture, as in sha256: {amd64: \"<64 hex digits>\"}"),
    validation = Rule::new("!has(self.sha256) || self.sha256.all(a, a in ['amd64', 'arm64'])").message("sha256 is given for each architecture: the keys are amd64 and arm64"),
    validation = Rule::new("!has(self.include) || !self.include.exists(p, p.startsWith('/'))").message("include: a pattern is that of a path in the archive, without a / in front, as in: bin/*")
)]
pub struct Archive {
    /// What messages call it. Example: cni-plugins.
    pub name: ArchiveName,
    /// Where it is fetched from. {arch} stands for the node's architecture, amd64 or arm64; redirects are followed. A
    /// file that is on the node already is taken with file:// and its path. Example: file:///opt/images/cni.tgz.
    pub url: Url,
    /// Other places with the same file, tried in this order when url fails. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub mirrors: Vec<Url>,
    /// The SHA-256 digest of the archive for each architecture that is among the selected nodes, 64 hexadecimal digits. A
    /// node whose architecture is not listed reports an error. Example: {amd64: "<64 hex>", arm64: "<64 hex>"}.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8))]
    pub sha256: BTreeMap<String, Sha256>,
    /// The directory that it is unpacked into. It must be there or be in directories. Example: /opt/cni/bin.
    pub into: HostPath,
    /// How many leading folders are taken off each path in the archive; what has no more of them is left out. 0 to 16.
    /// Default: 0. Example: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 16))]
    pub strip: Option<i64>,
    /// What of it is unpacked: patterns of whole paths in it, after strip. * stands for anything but a slash, ** for
    /// anything, ? for one character. At most 32. Default: all of it. Example: ["bin/*"].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 256)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub include: Vec<String>,
    /// The user that owns what is unpacked, by name or number. Default: root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<AccountRef>,
    /// The group that owns what is unpacked, by name or number. Default: root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<AccountRef>,
    /// Whether programs in it keep their set-uid and set-gid bits. Modes are else those of the archive, but nobody besides
    /// the owner may write. Default: false, and an archive that has such a program is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setuid: Option<bool>,
    /// What happens after content of it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_change: Option<OnChange>,
}

/// A symbolic link that shall exist. It belongs to root. One that leads elsewhere is replaced; anything else at its path is
/// an error on that node, and left.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Symlink {
    /// Where the link is: an absolute path. Example: /usr/local/bin/kubectl.
    pub path: HostPath,
    /// What it leads to, written into the link as it stands here: an absolute path, or one that begins at the link's
    /// own directory. At most 256 characters. Example: /opt/kubernetes/bin/kubectl.
    pub target: LinkTarget,
}

/// How servers are reached.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Trust {
    /// The proxy that downloads go through, and that units are told of. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// Certificates that servers of downloads may have besides those that the node trusts by itself; and, with install, that
    /// the node itself trusts from then on. At most 8.
    /// Example: [{name: corporate, configMapRef: {name: corporate-ca, key: ca.crt}}].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub ca_bundles: Vec<CaBundle>,
}

/// The proxy that downloads go through, and that units are told of.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.http) || has(self.https)").message("a proxy is for http, https or both: give one of them"))]
pub struct Proxy {
    /// The proxy for URLs with http://. Default: none. Example: http://proxy.example.com:3128.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<ProxyUrl>,
    /// The proxy for URLs with https://; it is asked for a tunnel, and cannot look into it. Default: none. Example:
    /// http://proxy.example.com:3128.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub https: Option<ProxyUrl>,
    /// What is reached without the proxy: hosts and domains (each stands for all hosts below it too), addresses, ranges
    /// of addresses. At most 100. Example: [example.com, 10.0.0.0/8].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub no_proxy: Vec<NoProxy>,
    /// Services whose programs get these proxies as HTTP_PROXY, HTTPS_PROXY and NO_PROXY, in capitals and in small letters: each
    /// has a drop-in for it, /etc/systemd/system/UNIT.d/50-nodebootstrap-proxy.conf. When it changes and the unit runs, the
    /// unit is restarted once (disruption class Restart). At most 16. Example: [containerd.service].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(unit, unit.endsWith('.service') && !unit.contains('@.'))").message("only a service has a program that can be told of a proxy, and a template (name@.service) does not run: name services, as containerd.service, or name@one.service")
    )]
    pub units: Vec<UnitName>,
}

/// Certificates that servers of downloads may have.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!has(self.install) || !self.install || self.name.matches('^[A-Za-z0-9][A-Za-z0-9._-]*$')").message("the name of a CA bundle that is installed is a part of its files' names: use letters, digits and . _ - only, as in: corporate"),
    validation = Rule::new("has(self.pem) != has(self.configMapRef)").message("a CA bundle has exactly one source: give one of pem and configMapRef"),
    validation = Rule::new("!has(self.pem) || self.pem.contains('-----BEGIN CERTIFICATE-----')").message("a CA bundle is one or more certificates as PEM: -----BEGIN CERTIFICATE-----, lines of base64, -----END CERTIFICATE-----"),
    validation = Rule::new("!has(self.pem) || !self.pem.contains('PRIVATE KEY')").message("a CA bundle has a private key in it, which anybody who may read this object sees: give the certificates alone")
)]
pub struct CaBundle {
    /// What messages call it; with install, a part of its files' names. Example: corporate.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The certificates themselves, as PEM. At most 65536 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub pem: Option<String>,
    /// A key of a ConfigMap in the namespace nodebootstrap-system with certificates as PEM. When it changes, the nodes
    /// follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<KeyRef>,
    /// true: the certificates go into the trust store of the node's distribution (Debian, Red Hat and SUSE families), each as
    /// a file named nodebootstrap-NODEBOOTSTRAP.NAME.DIGEST, and the distribution's own program makes them known. Programs that
    /// run see them when they start the next time. Default: false, so that they are for downloads only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub install: Option<bool>,
}

/// A systemd unit.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!self.name.contains('@.') || (!has(self.enabled) && !has(self.active) && !has(self.masked))").message("a template (name@.service) can be neither enabled nor started nor masked: list an instance of it, as name@one.service"),
    validation = Rule::new("!has(self.masked) || !self.masked || !(has(self.content) || (has(self.enabled) && self.enabled) || (has(self.active) && self.active))").message("a unit that is masked can neither have content nor be enabled or started: leave out masked, or the others")
)]
pub struct Unit {
    /// The unit's name with its suffix. Example: hello.service.
    pub name: UnitName,
    /// The unit file, written to /etc/systemd/system. Default: none is written, the host's own is used. When it
    /// changes and the unit runs, the unit is restarted once (disruption class Restart). At most 65536 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65536))]
    pub content: Option<String>,
    /// Files beside the unit file, in /etc/systemd/system/NAME.d, that add to it or change it; they work for a unit of
    /// the host's own too. When one changes and the unit runs, the unit is restarted once (disruption class Restart). At
    /// most 8. Example: [{name: 10-limits.conf, content: "[Service]\nLimitNOFILE=1048576\n"}].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub drop_ins: Vec<DropIn>,
    /// true: nothing can start it, as after `systemctl mask`; one that runs goes on until active is false. false: it is
    /// unmasked. Default: left as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masked: Option<bool>,
    /// Whether it starts at boot. Default: left as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Whether it runs now. Default: left as it is. Starting is no disruption; stopping is one of class Restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<bool>,
}

/// A file that adds to a unit or changes it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DropIn {
    /// Its name; systemd reads them in the order of their names. Example: 10-limits.conf.
    pub name: DropInName,
    /// What is in it. At most 65536 characters. Example: "[Service]\nLimitNOFILE=1048576\n".
    #[schemars(length(max = 65536))]
    pub content: String,
}

/// The kernel's modules, settings and swap.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!has(self.sysctls) || self.sysctls.all(k, size(k) <= 128 && k.matches(r'^[a-z0-9_]+([.][A-Za-z0-9_-][A-Za-z0-9_:/-]*)+$'))").message("sysctls: a setting is named as sysctl does, with dots, as in: net.ipv4.ip_forward"),
    validation = Rule::new("!has(self.sysctls) || self.sysctls.all(k, !k.matches(r'^(kernel[.](hostname|domainname|msg|sem|shm|auto_msgmni)|fs[.]mqueue[.])'))").message("sysctls: each pod has such a setting for itself, the agent's too, so that it cannot be set here: write a file in /etc/sysctl.d")
)]
pub struct Kernel {
    /// kubernetes: the modules and settings that a node of Kubernetes needs, as docs/presets.md lists them; what is given
    /// beside it wins. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<KernelPreset>,
    /// Modules that are loaded, now and, by /etc/modules-load.d/nodebootstrap-NAME.conf, at boot. One that leaves the
    /// spec stays loaded until the next boot. At most 64. Example: [overlay, br_netfilter].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub modules: Vec<ModuleName>,
    /// Settings and their values, in quotes: set now and, by /etc/sysctl.d/90-nodebootstrap-NAME.conf, at boot. A value
    /// that something else changes is set again within the interval of the agent. At most 128. Example:
    /// {net.ipv4.ip_forward: "1"}.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 128))]
    pub sysctls: BTreeMap<String, SysctlValue>,
    /// Disabled: no swap is in use, now and, by a mask of swap.target, after a boot. What is in use is turned off, if its pages
    /// fit into the memory that is available; /etc/fstab stays as it is. Swap that something else turns on again is turned off
    /// at once. Keep: it is left as it is. Default: Keep. Example: Disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap: Option<SwapPolicy>,
}

/// What becomes of swap. It is not called Off, which YAML takes for a Boolean.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum SwapPolicy {
    /// It is left as it is.
    #[default]
    Keep,
    /// None is in use.
    Disabled,
}

/// What became of a NodeBootstrap: bounded, however many nodes there are.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeBootstrapStatus {
    /// The metadata.generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The revision that nodes are being brought to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_revision: Option<String>,
    /// The revision that was last proven on every selected, reachable node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_revision: Option<String>,
    /// How many nodes are in which state.
    #[serde(default)]
    pub nodes: NodeCounts,
    /// One entry a node, the worst first, at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["node".into()]))]
    pub results: Vec<NodeResult>,
    /// Ready, Reconciling and Stalled, as kstatus knows them; and Drifted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The most entries of [`NodeBootstrapStatus::results`].
pub const MAX_RESULTS: usize = 100;

/// How many nodes are in which state.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeCounts {
    /// Nodes that the selector matches.
    pub selected: u32,
    /// Nodes whose agent says that they run updateRevision, or that nothing of it would be changed.
    pub updated: u32,
    /// Nodes that are being changed now.
    pub updating: u32,
    /// Nodes that wait: for the first word of their agent, for its plan, or for their turn.
    pub pending: u32,
    /// Nodes whose changes are planned, in mode Plan.
    #[serde(default)]
    pub planned: u32,
    /// Nodes that run updateRevision, proven, and that answer.
    pub ready: u32,
    /// Nodes that cannot take updateRevision.
    pub failed: u32,
    /// Nodes that do not answer: the Node is NotReady or the agent's pod is.
    pub unreachable: u32,
    /// Nodes on which every change is stopped: by the annotation nodebootstrap.io/paused on the Node, or by
    /// nodebootstrap-agent pause on the host.
    #[serde(default)]
    pub paused: u32,
    /// Ready nodes on which something is no longer as it was made, and is left so by drift.policy Report.
    #[serde(default)]
    pub drifted: u32,
}

/// What became of one node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeResult {
    /// The Node's name.
    pub node: String,
    /// The state it is in.
    pub phase: NodePhase,
    /// The revision that it runs, or tried last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// One word for the cause. Example: DigestMismatch.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// One line: step, cause, what happens next. At most 512 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// The state of one node, the worst first.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[schemars(inline)]
pub enum NodePhase {
    /// It cannot take the revision.
    Failed,
    /// It does not answer.
    Unreachable,
    /// Every change on it is stopped.
    Paused,
    /// It waits for the first word of its agent, for its plan, or for its turn.
    Pending,
    /// It is being changed.
    Updating,
    /// What would be changed on it is known, and nothing is: the mode is Plan.
    Planned,
    /// It runs the revision, proven.
    Ready,
}
