//! Presets: what kernel, kubelet and container runtime need on this very node, as resources.
//!
//! ```text
//! revision.presets ─┐
//! Facts of the node ─┴► expand (pure) ─► a revision of resources alone, and findings: problems, warnings
//! ```
//!
//! What is generated is resources as any: shown by `plan`, kept, put back, and overridden by an entry of the spec with the same
//! path or name. The facts are of the node without what the NodeBootstrap itself has made, so that expanding again after an
//! apply gives the same.

pub mod containerd;
pub mod facts;
pub mod kernel;
pub mod kubelet;
pub mod owner;
pub mod preflight;
pub mod service;

use std::collections::{BTreeMap, BTreeSet};

use crds::revision::{Presets, Resource, Revision};

use crate::engine::Request;
use crate::host::{Host, HostError, node};
use crate::resource::Problem;

pub use facts::Facts;

/// What presets found on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Why they cannot be had here.
    pub problems: Vec<Problem>,
    /// What should be looked at but stops nothing.
    pub warnings: Vec<String>,
    /// Resources, as in `binary /usr/local/sbin/kubelet`, whose change needs a drained node, each with why.
    pub drains: BTreeMap<String, String>,
}

/// What a revision's presets are on a node.
#[derive(Debug, Default)]
pub struct Expansion {
    /// What is generated.
    pub resources: Vec<Resource>,
    /// What was found.
    pub findings: Findings,
}

impl Expansion {
    /// Notes why a preset cannot be had.
    pub(crate) fn problem(&mut self, resource: &str, reason: &'static str, message: String) {
        self.findings.problems.push(Problem { resource: resource.to_owned(), reason, message });
    }

    /// Notes that a change of a resource needs a drained node; why, in a few words.
    pub(crate) fn needs_drain(&mut self, resource: &Resource, why: String) {
        self.findings.drains.insert(resource.to_string(), why);
    }

    /// Notes what should be looked at.
    pub(crate) fn warn(&mut self, warning: String) {
        self.findings.warnings.push(warning);
    }
}

/// Expands a revision's presets.
pub fn expand(revision: &Revision, facts: &Facts) -> (Revision, Findings) {
    let Revision { node_bootstrap, presets, resources, .. } = revision;
    let mut expansion = Expansion::default();
    if let Some(kernel) = &presets.kernel {
        kernel::expand(node_bootstrap, kernel, facts, &mut expansion);
    }
    if let Some(kubelet) = &presets.kubelet {
        kubelet::expand(node_bootstrap, kubelet, facts, &mut expansion);
    }
    if let Some(runtime) = &presets.container_runtime {
        containerd::expand(node_bootstrap, runtime, facts, &mut expansion);
    }
    preflight::check(presets, facts, &mut expansion);
    let Expansion { resources: generated, findings } = expansion;
    let own: BTreeSet<_> = resources.iter().flat_map(Resource::claims).collect();
    let is_free = |resource: &Resource| !resource.claims().iter().any(|claim| own.contains(claim));
    let mut all: Vec<Resource> =
        resources.iter().cloned().chain(generated.into_iter().filter(is_free)).collect();
    all.sort();
    (Revision { presets: Presets::default(), resources: all, ..revision.clone() }, findings)
}

/// A request with its presets expanded, as this host is now.
///
/// # Errors
/// If the host cannot be looked at.
pub async fn expanded(host: &Host, request: &Request) -> Result<Request, HostError> {
    if request.revision.presets.is_empty() {
        return Ok(request.clone());
    }
    let facts = node::look(host, &request.revision).await?;
    let (revision, findings) = expand(&request.revision, &facts);
    Ok(Request { revision, findings, ..request.clone() })
}
