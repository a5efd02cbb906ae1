//! What presets ask of a node: plain values, so that expanding is pure. [`crate::host::node`] gathers them.
//!
//! All of it is without what the NodeBootstrap that asks has made itself.

use std::collections::{BTreeMap, BTreeSet};

use super::owner::Owner;
use crate::host::kubelet::flag;

/// A node, as far as presets ask.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// As Kubernetes names architectures: amd64, arm64.
    pub arch: String,
    /// From /etc/os-release.
    pub os: OsRelease,
    /// Major and minor of the running kernel.
    pub kernel: (u32, u32),
    /// Of the hierarchy that systemd uses; a hybrid one is version 1.
    pub cgroups: CgroupVersion,
    /// The kubelet that the node has; `None`: none.
    pub kubelet: Option<FoundKubelet>,
    /// Who has set up the node's kubelet, also one that is part of another program; `None`: nobody, or the NodeBootstrap
    /// itself.
    pub owner: Option<Owner>,
    /// The file that told who; empty: nobody.
    pub owner_file: String,
    /// A kubelet's program on the usual paths, whether a unit runs it or not. Example: /usr/bin/kubelet.
    pub kubelet_program: Option<String>,
    /// The containerd that the node has; `None`: none.
    pub containerd: Option<FoundContainerd>,
    /// Of the folders that the preset of the container runtime needs: those that the node has.
    pub folders: BTreeSet<String>,
    /// Of what the preset of the kernel may load: the modules that the kernel has.
    pub modules: BTreeSet<String>,
    /// Of what the preset of the kernel may set: the settings that the kernel has, with their values, as they were before
    /// the NodeBootstrap set them. Of a system that does not run: all, with no value.
    pub settings: BTreeMap<String, String>,
    /// How the system is now, for the checks before presets.
    pub system: System,
}

/// How a system is now, what the NodeBootstrap has made included, as far as checks ask. Of one that does not run little is
/// known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct System {
    /// The name of process 1; empty: not known.
    pub init: String,
    /// The host's name; empty: not known.
    pub host_name: String,
    /// What /etc/machine-id says; empty: there is none.
    pub machine_id: String,
    /// The swap that is in use, and that the spec does not turn off.
    pub swap: Vec<String>,
    /// Ports that a kubelet needs and something else has, with what that is; none where the node's kubelet runs.
    pub ports: BTreeMap<u16, String>,
    /// Files that presets name and that are not there.
    pub missing: BTreeSet<String>,
    /// Folders whose disk is almost full.
    pub crowded: Vec<String>,
    /// Whether a service keeps the time; `None`: not known.
    pub keeps_time: Option<bool>,
    /// Whether SELinux enforces its rules; `None`: it is off.
    pub selinux: Option<bool>,
    /// Whether the node has a credential of its cluster.
    pub has_joined: bool,
    /// The version of the kubelet's program, as in v1.36.3, if it can be told.
    pub kubelet_version: Option<String>,
    /// What the program says that it is which is in place already by the digest of `kubelet.version`, if it can be told.
    pub in_place: Option<String>,
    /// The driver of cgroups by the kubelet's configuration; `None`: it does not say.
    pub cgroup_driver: Option<String>,
}

/// The distribution.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OsRelease {
    /// `ID`, as in debian.
    pub id: String,
    /// `ID_LIKE`.
    pub id_like: Vec<String>,
    /// `VERSION_ID`.
    pub version: String,
}

/// The version of cgroups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CgroupVersion {
    /// Version 1, or both.
    V1,
    /// Version 2 alone.
    #[default]
    V2,
}

/// A kubelet that a node has.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FoundKubelet {
    /// The unit that it runs as. Example: kubelet.service.
    pub unit: String,
    /// The unit's file. Example: /usr/lib/systemd/system/kubelet.service.
    pub unit_file: String,
    /// Its unit's `ExecStart`, as it is written in the unit's files but ours, in words: quotes and escapes are resolved,
    /// variables and specifiers stand as they are, and signs before the program are left out.
    pub command: Vec<String>,
    /// The words that it gets behind its program's name, with variables filled in.
    pub arguments: Vec<String>,
    /// Its KubeletConfiguration, the file of `--config` with those of `--config-dir` over it, if it has one that can be read.
    pub config: Option<serde_json::Value>,
    /// Which of these files is there and cannot be read, and why: the kubelet may be able to.
    pub unreadable: Option<String>,
    /// A drop-in of its unit with a command that counts more than one of ours would.
    pub last_word: Option<String>,
    /// Its program's version, as in v1.36.3, if it can be told.
    pub version: Option<String>,
}

impl FoundKubelet {
    /// The value of a flag; see [`flag`].
    pub fn flag(&self, name: &str) -> Option<&str> {
        flag(&self.arguments, name)
    }
}

/// A containerd that a node has.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FoundContainerd {
    /// The unit that it runs as. Example: containerd.service.
    pub unit: String,
    /// Its version, as in 1.6.20, if it can be told.
    pub version: Option<String>,
    /// Its configuration's path. Example: /etc/containerd/config.toml.
    pub config_path: String,
    /// What is in that; `None`: there is no such file.
    pub config: Option<String>,
}
