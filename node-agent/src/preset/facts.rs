//! What presets ask of a node: plain values, so that expanding is pure. [`crate::host::node`] gathers them.
//!
//! All of it is without what the NodeBootstrap that asks has made itself.

use super::owner::Owner;

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
    /// Who has set that up; `None`: nobody, or the NodeBootstrap itself.
    pub owner: Option<Owner>,
    /// The containerd that the node has; `None`: none.
    pub containerd: Option<FoundContainerd>,
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
    /// Its unit's `ExecStart`, as it is written in the unit's files but ours, in words; variables are not expanded.
    pub command: Vec<String>,
    /// Its KubeletConfiguration, the file of `--config`, if it has one that can be read.
    pub config: Option<serde_json::Value>,
    /// Its program's version, as in v1.36.3, if it can be told.
    pub version: Option<String>,
}

/// A containerd that a node has.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FoundContainerd {
    /// Its version, as in 1.6.20, if it can be told.
    pub version: Option<String>,
    /// Its configuration's path. Example: /etc/containerd/config.toml.
    pub config_path: String,
    /// What is in that; `None`: there is no such file.
    pub config: Option<String>,
}
