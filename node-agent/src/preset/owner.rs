//! Who has set up the kubelet of a node. Pure.
//!
//! In: the [`Marks`] that the tools leave. Out: the owner, and the file that told.

use std::collections::BTreeSet;
use std::fmt;

use crds::revision::{Content, Resource, Revision};

use super::kubelet::is_drop_in_of;
use crate::host::install::UNIT_DIRECTORY;

/// The unit that a kubelet runs as, wherever it is a program of its own.
pub const KUBELET_UNIT: &str = "kubelet.service";

/// Units of programs that have the kubelet in them.
pub const EMBEDDED: [(&str, Owner); 6] = [
    ("k3s.service", Owner::K3s),
    ("k3s-agent.service", Owner::K3s),
    ("rke2-server.service", Owner::Rke2),
    ("rke2-agent.service", Owner::Rke2),
    ("snap.microk8s.daemon-kubelite.service", Owner::MicroK8s),
    ("snap.microk8s.daemon-kubelet.service", Owner::MicroK8s),
];

/// Files that a tool leaves on every node that it sets up.
pub const PATHS: [(&str, Owner); 6] = [
    ("/etc/eks/bootstrap.sh", Owner::Eks),
    ("/etc/systemd/system/nodeadm-run.service", Owner::Eks),
    ("/home/kubernetes/kube-env", Owner::Gke),
    ("/etc/systemd/system/kube-node-installation.service", Owner::Gke),
    ("/etc/systemd/system/kube-node-configuration.service", Owner::Gke),
    ("/var/lib/kubelet/kubeadm-flags.env", Owner::Kubeadm),
];

/// What stands in the files of a kubelet's unit that a tool has written.
const WORDS: [(&str, Owner); 4] = [
    ("/etc/eks/", Owner::Eks),
    ("NODEADM_KUBELET_ARGS", Owner::Eks),
    ("/home/kubernetes/bin/", Owner::Gke),
    ("kubeadm", Owner::Kubeadm),
];

/// Where packages put units.
const PACKAGED: [&str; 2] = ["/usr/lib/systemd/system/", "/lib/systemd/system/"];

/// Who has set up the kubelet of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// kubeadm.
    Kubeadm,
    /// k3s, which has the kubelet in its own program.
    K3s,
    /// RKE2, likewise.
    Rke2,
    /// MicroK8s, likewise.
    MicroK8s,
    /// Amazon's EKS.
    Eks,
    /// Google's GKE.
    Gke,
    /// A package of the distribution.
    Package,
    /// Another NodeBootstrap.
    NodeBootstrap(String),
    /// Somebody else, by hand or by a tool that is not known.
    Other,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kubeadm => "kubeadm",
            Self::K3s => "k3s",
            Self::Rke2 => "RKE2",
            Self::MicroK8s => "MicroK8s",
            Self::Eks => "EKS",
            Self::Gke => "GKE",
            Self::Package => "a package of the distribution",
            Self::NodeBootstrap(name) => return write!(f, "the NodeBootstrap {name}"),
            Self::Other => "somebody else",
        })
    }
}

/// What is found on a node of those who set kubelets up. What the NodeBootstrap that asks has made is not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// Another NodeBootstrap that has the kubelet, and the file by which.
    pub other: Option<(String, String)>,
    /// Those of [`EMBEDDED`] that are there, each with its file.
    pub embedded: Vec<(String, String)>,
    /// The files of [`KUBELET_UNIT`], path and text: the unit's own first; none if there is no such unit.
    pub unit: Vec<(String, String)>,
    /// Those of [`PATHS`] that are there.
    pub paths: BTreeSet<String>,
}

/// Who has set up the kubelet, and the file that told; `None`: the node has none.
pub fn of(marks: &Marks) -> Option<(Owner, String)> {
    if let Some((name, file)) = &marks.other {
        return Some((Owner::NodeBootstrap(name.clone()), file.clone()));
    }
    let is_there = |unit: &str| marks.embedded.iter().find(|(name, _)| name == unit);
    if let Some((file, owner)) = EMBEDDED.iter().find_map(|(unit, owner)| Some((&is_there(unit)?.1, owner))) {
        return Some((owner.clone(), file.clone()));
    }
    let (own, _) = marks.unit.first()?;
    let says = |(_, text): &&(String, String), word: &str| {
        text.lines().any(|line| !line.trim_start().starts_with(['#', ';']) && line.contains(word))
    };
    for owner in [Owner::Eks, Owner::Gke, Owner::Kubeadm] {
        let words = WORDS.iter().filter(|(_, of)| *of == owner);
        let by_unit = words
            .filter_map(|(word, _)| marks.unit.iter().find(|file| says(file, word)))
            .map(|(path, _)| path);
        let paths = PATHS.iter().filter(|(path, of)| *of == owner && marks.paths.contains(*path));
        let mut told = by_unit.cloned().chain(paths.map(|(path, _)| (*path).to_owned()));
        if let Some(file) = told.next() {
            return Some((owner, file));
        }
    }
    let is_packaged = PACKAGED.iter().any(|folder| own.starts_with(folder));
    Some((if is_packaged { Owner::Package } else { Owner::Other }, own.clone()))
}

/// The file by which a revision has a node's kubelet: its unit, a drop-in with another command, or one of its configuration;
/// `None`: it has it not.
pub fn claimed_by(revision: &Revision) -> Option<String> {
    let drop_ins = format!("{UNIT_DIRECTORY}/{KUBELET_UNIT}.d/");
    revision.resources.iter().find_map(|resource| match resource {
        Resource::Unit(unit) if unit.name.as_str() == KUBELET_UNIT && unit.content.is_some() => {
            Some(format!("{UNIT_DIRECTORY}/{KUBELET_UNIT}"))
        }
        Resource::File(file) if file.path.as_str().starts_with(&drop_ins) => match &file.content {
            Content::Text(text) if text.contains("ExecStart=") => Some(file.path.to_string()),
            _ => None,
        },
        Resource::File(file) if is_drop_in_of(&revision.node_bootstrap, file.path.as_str()) => {
            Some(file.path.to_string())
        }
        _ => None,
    })
}
