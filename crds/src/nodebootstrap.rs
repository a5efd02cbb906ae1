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

use crate::report::RunMode;
use crate::value::{
    AccountComment, AccountName, AccountPath, AccountRef, DropInName, HostPath, LinkTarget, Mode, ModuleName,
    NoProxy, ProxyUrl, Sha256, SysctlValue, Timeout, UnitName, Url,
};

/// The most entries of each list of a spec but binaries and symlinks. What bounds it is how much the API server lets CEL cost.
pub const MAX_ENTRIES: usize = 1000;
/// The most binaries of a spec: their URLs are the longest texts that rules look at.
pub const MAX_BINARIES: usize = 100;
/// The most CA bundles of a spec.
pub const MAX_CA_BUNDLES: usize = 8;

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

/// The state that selected nodes shall have: groups, users, directories, files, binaries, symbolic links and systemd
/// units. When an entry leaves the spec, what was there before it is put back. Writing a NodeBootstrap is being root on the nodes it selects.
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

    /// Programs to download, each verified by its digest before it becomes executable. At most 100. Example:
    /// [{path: /usr/local/sbin/kubelet, url: "https://dl.k8s.io/release/v1.36.3/bin/linux/{arch}/kubelet",
    /// sha256: {amd64: "<64 hex>"}}].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["path".into()]))]
    pub binaries: Vec<Binary>,

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

    /// The kernel's modules and settings, now and at each boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Kernel>,

    /// What becomes of what differs on a node from what was made there. Default: it is put right at once. Example:
    /// {policy: Report}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<Drift>,

    /// What becomes of what was made on a node that leaves (label lost, NodeBootstrap deleted). Retain: it stays. Revert:
    /// what was there before is put back, and what was not there is removed; what something else has changed since is
    /// left, and listed in the node's Report. Default: Retain. Example: Revert.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,

    /// How downloads reach their servers: by way of a proxy, and trusting more certificates than the node does by
    /// itself. Default: directly, and the node's own certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<Trust>,

    /// How long a node that leaves (label lost, NodeBootstrap deleted) may take to answer before it is given up and
    /// stays as it is. A whole number with s, m or h. Default: 10m. Example: 90s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leave_timeout: Option<Timeout>,
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
    /// How often a node is compared in full. Files, accounts and units tell by themselves within a second; this is for
    /// what lies below recursive directories. At least 10s. Default: 30s. Example: 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Timeout>,
    /// How often the content of each file is read again though its inode, size and times say that it is the same. Less often
    /// than interval. At least 1m. Default: 1h. Example: 24h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_interval: Option<Timeout>,
    /// Paths, and names of units, users and groups, that are treated as by CreateOnly whatever the policy. * stands for
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
    /// systems not entered, and an entry of its own in this spec wins. Modes of what is inside stay. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recursive: Option<bool>,
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

/// How downloads reach their servers.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Trust {
    /// The proxy that downloads go through. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// Certificates that servers of downloads may have besides those that the node trusts by itself. At most 8.
    /// Example: [{name: corporate, configMapRef: {name: corporate-ca, key: ca.crt}}].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub ca_bundles: Vec<CaBundle>,
}

/// The proxy that downloads go through.
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
}

/// Certificates that servers of downloads may have.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.pem) != has(self.configMapRef)").message("a CA bundle has exactly one source: give one of pem and configMapRef"),
    validation = Rule::new("!has(self.pem) || self.pem.contains('-----BEGIN CERTIFICATE-----')").message("a CA bundle is one or more certificates as PEM: -----BEGIN CERTIFICATE-----, lines of base64, -----END CERTIFICATE-----"),
    validation = Rule::new("!has(self.pem) || !self.pem.contains('PRIVATE KEY')").message("a CA bundle has a private key in it, which anybody who may read this object sees: give the certificates alone")
)]
pub struct CaBundle {
    /// What messages call it. Example: corporate.
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

/// The kernel's modules and settings.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!has(self.sysctls) || self.sysctls.all(k, size(k) <= 128 && k.matches(r'^[a-z0-9_]+([.][A-Za-z0-9_-][A-Za-z0-9_:/-]*)+$'))").message("sysctls: a setting is named as sysctl does, with dots, as in: net.ipv4.ip_forward"),
    validation = Rule::new("!has(self.sysctls) || self.sysctls.all(k, !k.matches(r'^(kernel[.](hostname|domainname|msg|sem|shm|auto_msgmni)|fs[.]mqueue[.])'))").message("sysctls: each pod has such a setting for itself, the agent's too, so that it cannot be set here: write a file in /etc/sysctl.d")
)]
pub struct Kernel {
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
    /// Nodes that wait: for the first word of their agent, for its plan, or for their turn to be disrupted.
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
