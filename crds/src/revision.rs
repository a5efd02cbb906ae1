//! A revision: one spec rendered with everything that it refers to, defaults applied, and named by its hash.
//!
//! In: a spec, who it belongs to, and the values that it refers to. Out: the [`Revision`] that agents read, the payload
//! with its secret values, and the name of both. The same function serves the operator and the agent's command line.
//!
//! Secret values stand in the payload only. In the revision, and so in the hash, each has its HMAC under a key that only
//! the operator reads, so that nobody who sees a revision can test a guess.

use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit, Mac};
use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};
use sha2::Digest;
use thiserror::Error;

use crate::component::{ContainerRuntime, Kubelet};
use crate::names;
use crate::nodebootstrap::{self, NodeBootstrapSpec, Proxy, SwapPolicy};
use crate::validate;
use crate::value::{
    AccountComment, AccountName, AccountPath, AccountRef, ArchiveName, DropInName, HostPath, LinkTarget,
    Mode, ModuleName, NoProxy, PartName, Sha256, SysctlName, SysctlValue, UnitName, Url,
};

/// The format of revisions that this build writes and reads. An agent refuses any other.
pub const FORMAT: u32 = 1;
/// The version of what presets expand to; pinned in each revision, so that a new operator changes no host.
pub const PRESET_VERSION: u32 = 1;
/// The largest revision, in bytes of JSON: what etcd takes, with room for the object around it.
pub const MAX_BYTES: usize = 1 << 20;

/// Whom a revision belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The NodeBootstrap's name.
    pub node_bootstrap: String,
    /// The NodeBootstrap's uid; empty on a bare machine.
    pub uid: String,
    /// The cluster's id: the uid of the namespace kube-system; empty on a bare machine.
    pub cluster: String,
}

/// What an agent reads: the data of a ControllerRevision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revision {
    /// See [`FORMAT`].
    pub format: u32,
    /// See [`PRESET_VERSION`].
    pub preset_version: u32,
    /// The NodeBootstrap's name.
    pub node_bootstrap: String,
    /// The NodeBootstrap's uid.
    pub uid: String,
    /// The cluster's id.
    pub cluster: String,
    /// How downloads reach their servers.
    #[serde(default, skip_serializing_if = "Trust::is_empty")]
    pub trust: Trust,
    /// What each node expands to resources by what it is.
    #[serde(default, skip_serializing_if = "Presets::is_empty")]
    pub presets: Presets,
    /// Sorted by kind, then by path or name: the order of lists in a spec means nothing.
    pub resources: Vec<Resource>,
}

/// What each node expands to resources by what it is: as the spec has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Presets {
    /// The kernel, where it has a preset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<nodebootstrap::Kernel>,
    /// The kubelet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubelet: Option<Kubelet>,
    /// The container runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_runtime: Option<ContainerRuntime>,
    /// Checks whose findings are left out, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored_checks: Vec<String>,
}

impl Presets {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is claimed on every node, each with the resource that has it as users know it. Of what it expands to on a node
    /// nobody knows here: so one NodeBootstrap alone has a node's kubelet, and one its container runtime.
    pub fn claims(&self, node_bootstrap: &str) -> Vec<((&'static str, String), String)> {
        let Self { kernel, kubelet, container_runtime, ignored_checks: _ } = self;
        let whole = |name: &'static str| ((PRESET, name.to_owned()), name.to_owned());
        let of_kernel = kernel.iter().flat_map(|kernel| render_kernel(node_bootstrap, kernel));
        let of_kernel = of_kernel.flat_map(|resource| {
            let shown = resource.to_string();
            resource.claims().into_iter().map(move |claim| (claim, shown.clone()))
        });
        let program = kubelet.as_ref().filter(|kubelet| kubelet.version.is_some()).map(|kubelet| {
            let path = kubelet.program_path().to_owned();
            ((PATH, path), KUBELET_NAME.to_owned())
        });
        of_kernel
            .chain(program)
            .chain(kubelet.as_ref().map(|_| whole(KUBELET_NAME)))
            .chain(container_runtime.as_ref().map(|_| whole("containerRuntime")))
            .collect()
    }

    fn of(spec: &NodeBootstrapSpec) -> Self {
        let kernel = spec.kernel.clone().filter(|kernel| kernel.preset.is_some());
        let (kubelet, container_runtime) = (spec.kubelet.clone(), spec.container_runtime.clone());
        let mut ignored_checks =
            spec.preflight.as_ref().map(|preflight| preflight.ignore.clone()).unwrap_or_default();
        ignored_checks.sort();
        ignored_checks.dedup();
        let presets = Self { kernel, kubelet, container_runtime, ignored_checks: Vec::new() };
        // Without a preset there is nothing to check.
        if presets.is_empty() { presets } else { Self { ignored_checks, ..presets } }
    }
}

/// How downloads reach their servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trust {
    /// The proxy; `None`: what the agent's environment says, and that is nothing in a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// Certificates besides the host's own, sorted by name. Those that the host itself shall trust are a resource.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ca_bundles: Vec<CaBundle>,
}

impl Trust {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Certificates that are trusted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CaBundle {
    /// What messages call it.
    pub name: String,
    /// PEM.
    pub pem: String,
}

/// One host thing, with every default filled in that is the same on every host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Resource {
    /// A group.
    Group(Group),
    /// A user.
    User(User),
    /// A directory.
    Directory(Directory),
    /// A file with content of ours.
    File(File),
    /// A downloaded program.
    Binary(Binary),
    /// A systemd unit.
    Unit(Unit),
    /// A symbolic link.
    Symlink(Symlink),
    /// A kernel module that shall be loaded.
    Module(Module),
    /// A setting of the running kernel.
    Sysctl(Sysctl),
    /// A part of a file that others own.
    Part(Part),
    /// A downloaded archive, unpacked.
    Archive(Archive),
    /// Certificates that the host shall trust. Where they are put is known on the host only.
    CaBundle(CaBundle),
    /// No swap shall be in use. That none is after a boot is a unit of its own.
    NoSwap(NoSwap),
}

/// A group that shall exist.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// Its name.
    pub name: AccountName,
    /// Its number; `None`: a free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Whether a free number comes from the system range.
    pub system: bool,
}

/// A user that shall exist.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// Its name.
    pub name: AccountName,
    /// Its number; `None`: a free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The primary group; `None`: left as it is, and that of its own name for a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<AccountRef>,
    /// The home directory, not made; `None`: left as it is, and /nonexistent for a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<AccountPath>,
    /// The shell; `None`: left as it is, and the host's nologin for a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<AccountPath>,
    /// Whether a free number comes from the system range.
    pub system: bool,
    /// Groups that it is a member of, besides those that it is in anyway. Sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<AccountName>,
    /// The comment; `None`: left as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<AccountComment>,
    /// Whether its password is locked; `None`: left as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked: Option<bool>,
}

/// Who may do what with a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// The user that owns it.
    pub owner: AccountRef,
    /// The group that owns it.
    pub group: AccountRef,
    /// Permission bits.
    pub mode: Mode,
}

impl Access {
    /// Root's, with these permission bits.
    pub fn of_root(mode: u32) -> Self {
        Self { owner: AccountRef::root(), group: AccountRef::root(), mode: Mode::from_bits(mode) }
    }
}

/// A directory that shall exist.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Directory {
    /// Where it is.
    pub path: HostPath,
    /// Owner, group, mode.
    #[serde(flatten)]
    pub access: Access,
    /// Whether owner and group are also those of what is inside.
    pub recursive: bool,
    /// The modes of what is inside; `None`: they stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<Inside>,
}

/// The modes of what is inside a recursive directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inside {
    /// That of regular files; `None`: it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<Mode>,
    /// That of directories; `None`: it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory_mode: Option<Mode>,
}

/// A file that shall exist.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct File {
    /// Where it is.
    pub path: HostPath,
    /// Owner, group, mode.
    #[serde(flatten)]
    pub access: Access,
    /// What is in it.
    pub content: Content,
    /// Units to restart, if they run, after the content changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restart: Vec<UnitName>,
}

/// What is in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Content {
    /// The text itself.
    Text(String),
    /// Bytes that are no text, as base64.
    Bytes(Base64),
    /// A value of the payload.
    Secret {
        /// The payload's key.
        key: String,
        /// The value's HMAC, so that a change of it is a new revision.
        hmac: String,
    },
}

/// Bytes, written as base64.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Base64(pub ByteString);

/// A program that is downloaded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Binary {
    /// Where it is put.
    pub path: HostPath,
    /// Owner, group, mode.
    #[serde(flatten)]
    pub access: Access,
    /// Where it comes from, in the order in which they are tried.
    pub urls: Vec<Url>,
    /// Its digest for each architecture.
    pub sha256: BTreeMap<String, Sha256>,
    /// The version that it says it is when it is run with --version; `None`: it is not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Units to restart, if they run, after the content changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restart: Vec<UnitName>,
}

/// A symbolic link that shall exist.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Symlink {
    /// Where it is.
    pub path: HostPath,
    /// What it leads to.
    pub target: LinkTarget,
}

/// A kernel module that shall be loaded. That it is loaded at boot too is a file of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Module {
    /// Its name.
    pub name: ModuleName,
}

/// A setting of the running kernel. That it is set at boot too is a file of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sysctl {
    /// Its name.
    pub name: SysctlName,
    /// Its value.
    pub value: SysctlValue,
}

/// A part of a file that others own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// The file.
    pub path: HostPath,
    /// The path and its name, as `/etc/hosts#registry`: how users know it.
    pub shown: String,
    /// How it is found in the file.
    pub anchor: Anchor,
    /// Its lines, without the end of the last; of a key its value, as in TOML.
    pub text: String,
    /// Units to restart, if they run, after it changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restart: Vec<UnitName>,
}

/// How a part of a file is found in it. It stands in ledgers too, and so is plain text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Anchor {
    /// The lines between two that mark them.
    Block {
        /// What the marker lines begin with.
        comment: String,
        /// The name in them.
        name: String,
    },
    /// The one line that begins so, spaces before it aside.
    Begins(String),
    /// The line that is so.
    Is(String),
    /// The value of a key of TOML: the keys that lead to it.
    Key(Vec<String>),
}

impl Anchor {
    /// Whether a line is the part, or would be taken for it.
    pub fn is_of(&self, line: &[u8]) -> bool {
        match self {
            Self::Block { .. } | Self::Key(_) => false,
            Self::Begins(start) => line.trim_ascii_start().starts_with(start.as_bytes()),
            Self::Is(text) => line == text.as_bytes(),
        }
    }

    /// The two lines that mark a block.
    pub fn markers(comment: &str, name: &str) -> (String, String) {
        (format!("{comment}{BEGIN}{name}"), format!("{comment}{END}{name}"))
    }
}

/// What stands in the line before a block, between the comment sign and the name.
pub const BEGIN: &str = " BEGIN nodebootstrap ";
/// What stands in the line behind a block.
pub const END: &str = " END nodebootstrap ";

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "part {}", self.shown)
    }
}

impl Part {
    /// Whether two parts of one file would take each other's place.
    pub fn touches(&self, other: &Self) -> bool {
        let is_within = match (&self.anchor, &other.anchor) {
            // One of them would be a value, and the same a table for the other.
            (Anchor::Key(mine), Anchor::Key(theirs)) => mine.starts_with(theirs) || theirs.starts_with(mine),
            _ => self.anchor == other.anchor,
        };
        is_within || self.anchor.is_of(other.text.as_bytes()) || other.anchor.is_of(self.text.as_bytes())
    }
}

/// An archive that is downloaded and unpacked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Archive {
    /// What messages call it.
    pub name: ArchiveName,
    /// The directory that it is unpacked into.
    pub into: HostPath,
    /// The user that owns what is unpacked.
    pub owner: AccountRef,
    /// The group that owns it.
    pub group: AccountRef,
    /// Where it comes from, in the order in which they are tried.
    pub urls: Vec<Url>,
    /// Its digest for each architecture.
    pub sha256: BTreeMap<String, Sha256>,
    /// How many leading folders are taken off.
    #[serde(default, skip_serializing_if = "is_default")]
    pub strip: u32,
    /// Patterns of what is unpacked, sorted; none: all of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// Whether set-uid and set-gid bits are kept.
    #[serde(default, skip_serializing_if = "is_default")]
    pub setuid: bool,
    /// Units to restart, if they run, after content of it changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restart: Vec<UnitName>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// No swap shall be in use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NoSwap {}

/// A systemd unit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unit {
    /// Its name.
    pub name: UnitName,
    /// Its file's content; `None`: the host's own is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Whether it starts at boot; `None`: left as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Whether it runs; `None`: left as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<bool>,
    /// Whether nothing can start it; `None`: left as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masked: Option<bool>,
}

/// The unit that brings all swap at boot.
pub(crate) const SWAP_TARGET: &str = "swap.target";

/// The kind of claims by which paths are claimed, whatever lies there.
pub const PATH: &str = "path";
/// The kind of claims by which what presets keep is claimed.
const PRESET: &str = "preset";
/// What users know a node's kubelet by.
const KUBELET_NAME: &str = "kubelet";

/// The kind of claims by which parts of files are claimed, as [`Part::shown`].
const PART: &str = "part";

/// The claim of a whole file, of that of a part: who has the one leaves nothing for the other.
pub fn whole_of((kind, part): &(&'static str, String)) -> Option<(&'static str, String)> {
    // A name has no `#` in it; a path may have.
    let (path, _) = part.rsplit_once('#').filter(|_| *kind == PART)?;
    Some((PATH, path.to_owned()))
}

impl Unit {
    /// Where the unit file of a name is written.
    pub fn path_of(name: &UnitName) -> String {
        format!("/etc/systemd/system/{name}")
    }

    /// Where a drop-in of a unit is written. `None`: names that are too long together to be a path.
    pub fn drop_in(name: &UnitName, drop_in: &DropInName) -> Option<HostPath> {
        format!("/etc/systemd/system/{name}.d/{drop_in}").parse().ok()
    }

    /// Where the drop-in lies that tells a unit of a proxy. It is one path for all NodeBootstraps: only one may tell a unit.
    pub fn proxy_drop_in(name: &UnitName) -> Option<HostPath> {
        Self::drop_in(name, &"50-nodebootstrap-proxy.conf".parse().ok()?)
    }
}

impl Resource {
    /// The kind in one word, as users write it in messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Group(_) => "group",
            Self::User(_) => "user",
            Self::Directory(_) => "directory",
            Self::File(_) => "file",
            Self::Binary(_) => "binary",
            Self::Unit(_) => "unit",
            Self::Symlink(_) => "symlink",
            Self::Module(_) => "module",
            Self::Sysctl(_) => "sysctl",
            Self::Part(_) => "part",
            Self::Archive(_) => "archive",
            Self::CaBundle(_) => "caBundle",
            Self::NoSwap(_) => "swap",
        }
    }

    /// The path or name.
    pub fn name(&self) -> &str {
        match self {
            Self::Group(group) => group.name.as_str(),
            Self::User(user) => user.name.as_str(),
            Self::Directory(directory) => directory.path.as_str(),
            Self::File(file) => file.path.as_str(),
            Self::Binary(binary) => binary.path.as_str(),
            Self::Unit(unit) => unit.name.as_str(),
            Self::Symlink(symlink) => symlink.path.as_str(),
            Self::Module(module) => module.name.as_str(),
            Self::Sysctl(sysctl) => sysctl.name.as_str(),
            Self::Part(part) => part.shown.as_str(),
            Self::Archive(archive) => archive.name.as_str(),
            Self::CaBundle(bundle) => &bundle.name,
            Self::NoSwap(_) => "disabled",
        }
    }

    /// Units to restart, if they run, after it changed.
    pub fn restart(&self) -> &[UnitName] {
        match self {
            Self::File(file) => &file.restart,
            Self::Binary(binary) => &binary.restart,
            Self::Part(part) => &part.restart,
            Self::Archive(archive) => &archive.restart,
            Self::Group(_)
            | Self::User(_)
            | Self::Directory(_)
            | Self::Unit(_)
            | Self::Symlink(_)
            | Self::Module(_)
            | Self::Sysctl(_)
            | Self::CaBundle(_)
            | Self::NoSwap(_) => &[],
        }
    }

    /// What only one NodeBootstrap may have on a node. Directories, files, binaries, links and the files of units share
    /// one space, that of paths.
    pub fn claims(&self) -> Vec<(&'static str, String)> {
        match self {
            // A module that two want is loaded for both. What is in an archive is known on the host alone. The files of a
            // bundle have the NodeBootstrap's own name in theirs. What two would want of swap is claimed by the unit that
            // comes with it.
            Self::Module(_) | Self::Archive(_) | Self::CaBundle(_) | Self::NoSwap(_) => Vec::new(),
            Self::Group(_) | Self::User(_) | Self::Sysctl(_) => vec![(self.kind(), self.name().to_owned())],
            Self::Directory(_) | Self::File(_) | Self::Binary(_) | Self::Symlink(_) => {
                vec![(PATH, self.name().to_owned())]
            }
            Self::Part(part) => {
                let named = (PART, part.shown.clone());
                // A line has a name for people only: what two fight for is the line.
                let line = match &part.anchor {
                    Anchor::Block { .. } | Anchor::Key(_) => None,
                    Anchor::Begins(start) => Some(("line", format!("{}#{start}", part.path))),
                    Anchor::Is(text) => Some(("line", format!("{}#{text}", part.path))),
                };
                std::iter::once(named).chain(line).collect()
            }
            Self::Unit(unit) => {
                let own = ("unit", unit.name.to_string());
                // A mask lies where the unit's own file would.
                let has_file = unit.content.is_some() || unit.masked == Some(true);
                let file = has_file.then(|| (PATH, Unit::path_of(&unit.name)));
                std::iter::once(own).chain(file).collect()
            }
        }
    }
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind(), self.name())
    }
}

impl Revision {
    /// Reads a revision, as an agent does.
    ///
    /// # Errors
    /// If its format is not [`FORMAT`], its presets are of a later version than [`PRESET_VERSION`], or it is damaged.
    pub fn read(data: &serde_json::Value) -> Result<Self, Unreadable> {
        let format = data.get("format").and_then(serde_json::Value::as_u64).unwrap_or_default();
        if format != u64::from(FORMAT) {
            return Err(Unreadable::Format(format));
        }
        let revision: Self =
            serde_json::from_value(data.clone()).map_err(|error| Unreadable::Damaged(error.to_string()))?;
        // What it would expand to here is not what its operator means.
        if revision.preset_version > PRESET_VERSION && !revision.presets.is_empty() {
            return Err(Unreadable::PresetVersion(revision.preset_version));
        }
        Ok(revision)
    }

    /// How its downloads reach their servers: what the host shall trust, they trust before it does.
    pub fn trust_of_downloads(&self) -> Trust {
        let mut trust = self.trust.clone();
        trust.ca_bundles.extend(self.resources.iter().filter_map(|resource| match resource {
            Resource::CaBundle(bundle) => Some(bundle.clone()),
            _ => None,
        }));
        trust
    }

    /// Whether it has values in a payload.
    pub fn has_payload(&self) -> bool {
        self.resources
            .iter()
            .any(|resource| matches!(resource, Resource::File(File { content: Content::Secret { .. }, .. })))
    }
}

/// Why a revision cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unreadable {
    /// It was written by another version.
    #[error(
        "revision format {0} is not {FORMAT}, the one that this agent knows: bring operator and agent to the same version"
    )]
    Format(u64),
    /// It has presets of a later version.
    #[error(
        "the revision has presets of version {0}, later than {PRESET_VERSION}, the last that this agent knows: bring operator and agent to the same version"
    )]
    PresetVersion(u32),
    /// It is not what its format says.
    #[error("the revision is damaged: {0}")]
    Damaged(String),
}

/// The objects that a spec refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

/// One value that a spec refers to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// What kind of object.
    pub source: Source,
    /// The object's name.
    pub name: String,
    /// The key in it.
    pub key: String,
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.source {
            Source::ConfigMap => "ConfigMap",
            Source::Secret => "Secret",
        };
        write!(f, "{kind} {}, key {}", self.name, self.key)
    }
}

/// The values behind references.
pub type Values = BTreeMap<Reference, Vec<u8>>;

/// Everything that a spec refers to, once each.
pub fn references(spec: &NodeBootstrapSpec) -> Vec<Reference> {
    let of_bundles = spec.trust.iter().flat_map(|trust| &trust.ca_bundles).filter_map(bundle_reference);
    let mut found: Vec<_> = spec.files.iter().filter_map(reference).chain(of_bundles).collect();
    found.sort();
    found.dedup();
    found
}

fn reference(file: &nodebootstrap::File) -> Option<Reference> {
    let (source, key_ref) = match (&file.config_map_ref, &file.secret_ref) {
        (Some(key_ref), _) => (Source::ConfigMap, key_ref),
        (None, Some(key_ref)) => (Source::Secret, key_ref),
        (None, None) => return None,
    };
    Some(Reference { source, name: key_ref.name.clone(), key: key_ref.key.clone() })
}

fn bundle_reference(bundle: &nodebootstrap::CaBundle) -> Option<Reference> {
    let key_ref = bundle.config_map_ref.as_ref()?;
    Some(Reference { source: Source::ConfigMap, name: key_ref.name.clone(), key: key_ref.key.clone() })
}

/// A rendered spec.
#[derive(Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Name of the revision, and of its payload if it has one: `<nb>-<hash>`.
    pub name: String,
    /// What agents read.
    pub revision: Revision,
    /// Secret values by key; empty if there are none.
    pub payload: BTreeMap<String, Vec<u8>>,
}

impl std::fmt::Debug for Rendered {
    /// Without the payload's values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys: Vec<_> = self.payload.keys().collect();
        f.debug_struct("Rendered")
            .field("name", &self.name)
            .field("revision", &self.revision)
            .field("payload", &keys)
            .finish()
    }
}

/// Why a spec cannot be rendered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RenderError {
    /// The spec breaks rules.
    #[error("{}", .0.join("; "))]
    Invalid(Vec<String>),
    /// What the spec refers to is not there.
    #[error("not found: {}: create it, or take the reference out", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Missing(Vec<Reference>),
    /// The revision is above [`MAX_BYTES`].
    #[error("the revision has {bytes} bytes, at most {MAX_BYTES} are possible; the biggest entries: {}: make them smaller, or download them as binaries or archives", .biggest.join(", "))]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The biggest entries, with their sizes.
        biggest: Vec<String>,
    },
}

impl RenderError {
    /// The cause in one word, for conditions and events.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "InvalidSpec",
            Self::Missing(_) => "ReferenceMissing",
            Self::TooLarge { .. } => "TooLarge",
        }
    }
}

/// Renders a spec. `hmac_key` hides the secret values in the revision; any bytes do where nobody else sees it.
///
/// # Errors
/// See [`RenderError`]; each names all that is wrong of its kind, not the first.
pub fn render(
    identity: &Identity,
    spec: &NodeBootstrapSpec,
    values: &Values,
    hmac_key: &[u8],
) -> Result<Rendered, RenderError> {
    let problems = validate::problems(spec);
    if !problems.is_empty() {
        return Err(RenderError::Invalid(problems));
    }
    let missing: Vec<_> =
        references(spec).into_iter().filter(|reference| !values.contains_key(reference)).collect();
    if !missing.is_empty() {
        return Err(RenderError::Missing(missing));
    }

    let mut payload = BTreeMap::new();
    let mut resources = Vec::new();
    resources.extend(spec.groups.iter().map(|group| Resource::Group(render_group(group))));
    resources.extend(spec.users.iter().map(|user| Resource::User(render_user(user))));
    resources.extend(spec.directories.iter().map(|directory| {
        Resource::Directory(Directory {
            path: directory.path.clone(),
            access: access(&directory.owner, &directory.group, directory.mode, 0o755),
            recursive: directory.recursive.unwrap_or(false),
            inside: directory
                .inside
                .as_ref()
                .map(|inside| Inside { file_mode: inside.file_mode, directory_mode: inside.directory_mode }),
        })
    }));
    for file in &spec.files {
        let content = content(file, values, hmac_key, &mut payload);
        let mode = if file.secret_ref.is_some() { 0o600 } else { 0o644 };
        resources.push(Resource::File(File {
            path: file.path.clone(),
            access: access(&file.owner, &file.group, file.mode, mode),
            content,
            restart: restart(file.on_change.as_ref()),
        }));
    }
    resources.extend(spec.binaries.iter().map(|binary| {
        Resource::Binary(Binary {
            path: binary.path.clone(),
            access: access(&binary.owner, &binary.group, binary.mode, 0o755),
            urls: binary.url.with_mirrors(&binary.mirrors),
            sha256: binary.sha256.clone(),
            version: None,
            restart: restart(binary.on_change.as_ref()),
        })
    }));
    resources.extend(spec.archives.iter().map(|archive| Resource::Archive(render_archive(archive))));
    resources.extend(spec.units.iter().map(|unit| {
        Resource::Unit(Unit {
            name: unit.name.clone(),
            content: unit.content.clone(),
            enabled: unit.enabled,
            active: unit.active,
            masked: unit.masked,
        })
    }));
    resources.extend(spec.units.iter().flat_map(drop_ins).map(Resource::File));
    let proxy = spec.trust.as_ref().and_then(|trust| trust.proxy.as_ref());
    resources.extend(proxy.iter().flat_map(|proxy| proxy_drop_ins(&identity.node_bootstrap, proxy)));
    resources.extend(spec.symlinks.iter().map(|symlink| {
        Resource::Symlink(Symlink { path: symlink.path.clone(), target: symlink.target.clone() })
    }));
    resources.extend(spec.file_parts.iter().map(|part| Resource::Part(render_part(part))));
    if let Some(kernel) = spec.kernel.as_ref().filter(|kernel| kernel.preset.is_none()) {
        resources.extend(render_kernel(&identity.node_bootstrap, kernel));
    }
    let (trust, installed) = trust(spec, values)?;
    resources.extend(installed.into_iter().map(Resource::CaBundle));
    resources.sort();

    let revision = Revision {
        format: FORMAT,
        preset_version: PRESET_VERSION,
        node_bootstrap: identity.node_bootstrap.clone(),
        uid: identity.uid.clone(),
        cluster: identity.cluster.clone(),
        trust,
        presets: Presets::of(spec),
        resources,
    };
    let json = canonical(&revision);
    if json.len() > MAX_BYTES {
        return Err(RenderError::TooLarge { bytes: json.len(), biggest: biggest(&revision) });
    }
    let hash = hex::encode(sha2::Sha256::digest(&json));
    Ok(Rendered { name: names::revision(&identity.node_bootstrap, &hash[..16]), revision, payload })
}

/// The bytes that the hash is over: JSON in the order of the types' fields, which is part of [`FORMAT`].
fn canonical<T: Serialize>(value: &T) -> Vec<u8> {
    // Only maps with keys that are no strings, and types that refuse by themselves, cannot be written; none is here.
    serde_json::to_vec(value).unwrap_or_default()
}

fn biggest(revision: &Revision) -> Vec<String> {
    let resources = revision.resources.iter().map(|one| (canonical(one).len(), one.to_string()));
    let bundles =
        revision.trust.ca_bundles.iter().map(|one| (one.pem.len(), format!("CA bundle {}", one.name)));
    let mut sizes: Vec<_> = resources.chain(bundles).collect();
    sizes.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
    sizes.iter().take(3).map(|(size, entry)| format!("{entry} ({size} bytes)")).collect()
}

/// How downloads reach their servers; and the certificates that the host itself shall trust.
fn trust(spec: &NodeBootstrapSpec, values: &Values) -> Result<(Trust, Vec<CaBundle>), RenderError> {
    let Some(trust) = &spec.trust else { return Ok(Default::default()) };
    let mut problems = Vec::new();
    let (mut ca_bundles, mut installed) = (Vec::new(), Vec::new());
    for bundle in &trust.ca_bundles {
        let pem = match bundle_reference(bundle) {
            None => bundle.pem.clone().unwrap_or_default(),
            Some(reference) => {
                let value = values.get(&reference).cloned().unwrap_or_default();
                let pem = String::from_utf8_lossy(&value).into_owned();
                if let Some(problem) = validate::pem_problem(&pem) {
                    problems.push(format!("trust.caBundles, {}, {reference}: {problem}", bundle.name));
                }
                pem
            }
        };
        let list = if bundle.install == Some(true) { &mut installed } else { &mut ca_bundles };
        list.push(CaBundle { name: bundle.name.clone(), pem });
    }
    if !problems.is_empty() {
        return Err(RenderError::Invalid(problems));
    }
    ca_bundles.sort_by(|a, b| a.name.cmp(&b.name));
    let mut proxy = trust.proxy.clone();
    if let Some(proxy) = &mut proxy {
        proxy.no_proxy.sort();
        proxy.no_proxy.dedup();
        // What units are told stands in files of theirs.
        proxy.units.clear();
    }
    Ok((Trust { proxy, ca_bundles }, installed))
}

fn render_archive(archive: &nodebootstrap::Archive) -> Archive {
    let mut include = archive.include.clone();
    include.sort();
    include.dedup();
    Archive {
        name: archive.name.clone(),
        into: archive.into.clone(),
        owner: archive.owner.clone().unwrap_or_else(AccountRef::root),
        group: archive.group.clone().unwrap_or_else(AccountRef::root),
        urls: archive.url.with_mirrors(&archive.mirrors),
        sha256: archive.sha256.clone(),
        strip: number(archive.strip).unwrap_or_default(),
        include,
        setuid: archive.setuid.unwrap_or(false),
        restart: restart(archive.on_change.as_ref()),
    }
}

/// A unit's drop-ins: files for which the unit is restarted.
fn drop_ins(unit: &nodebootstrap::Unit) -> impl Iterator<Item = File> {
    unit.drop_ins.iter().filter_map(|drop_in| {
        Some(File {
            path: Unit::drop_in(&unit.name, &drop_in.name)?,
            access: Access::of_root(0o644),
            content: Content::Text(drop_in.content.clone()),
            restart: vec![unit.name.clone()],
        })
    })
}

/// A part of a file. That it has exactly one text was made sure of before.
pub(crate) fn render_part(part: &nodebootstrap::FilePart) -> Part {
    let line = part.line.as_ref().map(ToString::to_string);
    let anchor = match (&line, &part.replaces) {
        (Some(_), Some(start)) => Anchor::Begins(start.to_string()),
        (Some(line), None) => Anchor::Is(line.clone()),
        (None, _) => {
            let comment = part.comment.as_ref().map_or("#", |comment| comment.as_str()).to_owned();
            Anchor::Block { comment, name: part.name.to_string() }
        }
    };
    let block = || part.block.as_ref().map(|block| block.as_str()).unwrap_or_default();
    Part {
        path: part.path.clone(),
        shown: shown_part(&part.path, &part.name),
        anchor,
        text: line.unwrap_or_else(|| block().strip_suffix('\n').unwrap_or(block()).to_owned()),
        restart: restart(part.on_change.as_ref()),
    }
}

/// A part of a file, as users know it.
pub(crate) fn shown_part(path: &HostPath, name: &PartName) -> String {
    format!("{path}#{name}")
}

/// The first line of what is generated: whose it is.
pub fn headline(node_bootstrap: &str) -> String {
    format!("# Kept by the NodeBootstrap {node_bootstrap}.\n")
}

/// What tells units of a proxy: files for which they are restarted.
fn proxy_drop_ins(node_bootstrap: &str, proxy: &Proxy) -> Vec<Resource> {
    let mut direct: Vec<&str> = proxy.no_proxy.iter().map(NoProxy::as_str).collect();
    direct.sort_unstable();
    direct.dedup();
    let direct = Some(direct.join(",")).filter(|direct| !direct.is_empty());
    let named = [
        ("HTTP_PROXY", proxy.http.as_ref().map(ToString::to_string)),
        ("HTTPS_PROXY", proxy.https.as_ref().map(ToString::to_string)),
        ("NO_PROXY", direct),
    ];
    let mut content = format!("{}[Service]\n", headline(node_bootstrap));
    for (name, value) in named {
        let Some(value) = value else { continue };
        // Some programs read the one, some the other.
        for name in [name.to_owned(), name.to_lowercase()] {
            content.push_str(&format!("Environment=\"{name}={}\"\n", in_quotes(&value)));
        }
    }
    let drop_in = |unit: &UnitName| {
        Some(Resource::File(File {
            path: Unit::proxy_drop_in(unit)?,
            access: Access::of_root(0o644),
            content: Content::Text(content.clone()),
            restart: vec![unit.clone()],
        }))
    };
    let mut units = proxy.units.clone();
    units.sort();
    units.dedup();
    units.iter().filter_map(drop_in).collect()
}

/// A value as it stands between double quotes in a unit's file.
fn in_quotes(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%")
}

/// The kernel's modules and settings, and the files by which they are there after a boot.
pub fn render_kernel(node_bootstrap: &str, kernel: &nodebootstrap::Kernel) -> Vec<Resource> {
    let mut modules = kernel.modules.clone();
    modules.sort();
    modules.dedup();
    // A name that is none was refused before.
    let named = |(name, value): (&String, &SysctlValue)| {
        Some(Sysctl { name: name.parse().ok()?, value: value.clone() })
    };
    let sysctls: Vec<Sysctl> = kernel.sysctls.iter().filter_map(named).collect();
    let at_boot = |path: String, lines: Vec<String>| {
        let path = path.parse().ok().filter(|_| !lines.is_empty())?;
        let content = format!("{}{}\n", headline(node_bootstrap), lines.join("\n"));
        let access = Access::of_root(0o644);
        Some(Resource::File(File { path, access, content: Content::Text(content), restart: Vec::new() }))
    };
    let files = [
        at_boot(
            format!("/etc/modules-load.d/nodebootstrap-{node_bootstrap}.conf"),
            modules.iter().map(ToString::to_string).collect(),
        ),
        at_boot(
            format!("/etc/sysctl.d/90-nodebootstrap-{node_bootstrap}.conf"),
            sysctls.iter().map(|sysctl| format!("{} = {}", sysctl.name, sysctl.value)).collect(),
        ),
    ];
    let no_swap = kernel.swap == Some(SwapPolicy::Disabled);
    // All that is used at boot is wanted by this target.
    let target = SWAP_TARGET.parse().ok().filter(|_| no_swap).map(|name| {
        Resource::Unit(Unit { name, content: None, enabled: None, active: None, masked: Some(true) })
    });
    files
        .into_iter()
        .flatten()
        .chain(target)
        .chain(no_swap.then_some(Resource::NoSwap(NoSwap {})))
        .chain(modules.into_iter().map(|name| Resource::Module(Module { name })))
        .chain(sysctls.into_iter().map(Resource::Sysctl))
        .collect()
}

fn render_group(group: &nodebootstrap::Group) -> Group {
    Group { name: group.name.clone(), gid: number(group.gid), system: group.system.unwrap_or(true) }
}

fn render_user(user: &nodebootstrap::User) -> User {
    let mut groups = user.groups.clone();
    groups.sort();
    groups.dedup();
    User {
        name: user.name.clone(),
        uid: number(user.uid),
        group: user.group.clone(),
        home: user.home.clone(),
        shell: user.shell.clone(),
        system: user.system.unwrap_or(true),
        groups,
        comment: user.comment.clone(),
        locked: user.locked,
    }
}

/// The schema's ranges are narrower than this type, so that nothing is lost here.
fn number(number: Option<i64>) -> Option<u32> {
    number.and_then(|number| u32::try_from(number).ok())
}

fn access(
    owner: &Option<AccountRef>,
    group: &Option<AccountRef>,
    mode: Option<Mode>,
    default: u32,
) -> Access {
    Access {
        owner: owner.clone().unwrap_or_else(AccountRef::root),
        group: group.clone().unwrap_or_else(AccountRef::root),
        mode: mode.unwrap_or(Mode::from_bits(default)),
    }
}

fn restart(on_change: Option<&nodebootstrap::OnChange>) -> Vec<UnitName> {
    let mut units = on_change.map(|on_change| on_change.restart.clone()).unwrap_or_default();
    units.sort();
    units.dedup();
    units
}

fn content(
    file: &nodebootstrap::File,
    values: &Values,
    hmac_key: &[u8],
    payload: &mut BTreeMap<String, Vec<u8>>,
) -> Content {
    let Some(reference) = reference(file) else {
        return Content::Text(file.content.clone().unwrap_or_default());
    };
    let value = values.get(&reference).cloned().unwrap_or_default();
    match reference.source {
        Source::ConfigMap => match String::from_utf8(value) {
            Ok(text) => Content::Text(text),
            Err(error) => Content::Bytes(Base64(ByteString(error.into_bytes()))),
        },
        Source::Secret => {
            let place = format!("{}/{}", reference.name, reference.key);
            // A key of a Secret takes few characters; the digest of the reference is one.
            let key = hex::encode(&sha2::Sha256::digest(&place)[..16]);
            let hmac = hmac_of(hmac_key, &place, &value);
            payload.insert(key.clone(), value);
            Content::Secret { key, hmac }
        }
    }
}

fn hmac_of(key: &[u8], place: &str, value: &[u8]) -> String {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<sha2::Sha256>::new_from_slice(key) else { return String::new() };
    mac.update(place.as_bytes());
    mac.update(&[0]);
    mac.update(value);
    hex::encode(mac.finalize().into_bytes())
}
