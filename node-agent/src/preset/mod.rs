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

pub mod command;
pub mod containerd;
pub mod facts;
pub mod kernel;
pub mod kubelet;
pub mod owner;
pub mod preflight;
pub mod service;

use std::collections::{BTreeMap, BTreeSet};

use crds::component::Kubelet;
use crds::kubelet_fields::minor_of;
use crds::revision::{Presets, Resource, Revision, whole_of};

use crate::engine::Request;
use crate::host::{Host, HostError, node};
use crate::resource::Problem;

pub use facts::Facts;
use owner::KUBELET_UNIT;

/// What presets found on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Why they cannot be had here.
    pub problems: Vec<Problem>,
    /// What should be looked at but stops nothing.
    pub warnings: Vec<String>,
    /// What needs a drained node, each with why: a unit, as in `unit kubelet.service`, whose restart does; another resource, as
    /// in `archive containerd`, because of which a unit is restarted.
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
        expansion.findings.drains.extend(other_minor(kubelet, facts));
        if let Some((path, message)) = other_version(kubelet, facts) {
            expansion.problem(&format!("binary {path}"), "WrongVersion", message);
        }
    }
    if let Some(runtime) = &presets.container_runtime {
        let before = expansion.resources.len();
        let driver = preflight::driver_of_cgroups(presets, facts);
        containerd::expand(node_bootstrap, runtime, driver.as_deref(), facts, &mut expansion);
        let programs = expansion.resources[before..].iter().filter(|one| matches!(one, Resource::Archive(_)));
        let why = "pods of one version of a container runtime may not go on under another".to_owned();
        let drains: Vec<_> = programs.map(|archive| (archive.to_string(), why.clone())).collect();
        expansion.findings.drains.extend(drains);
    }
    preflight::check(presets, facts, &mut expansion);
    let Expansion { resources: generated, findings } = expansion;
    let own: BTreeSet<_> = resources.iter().flat_map(Resource::claims).collect();
    // Who has a file as a whole has nothing left for parts of it.
    let is_taken = |claim: &(&'static str, String)| {
        own.contains(claim) || whole_of(claim).is_some_and(|whole| own.contains(&whole))
    };
    let is_free = |resource: &Resource| !resource.claims().iter().any(is_taken);
    let mut all: Vec<Resource> =
        resources.iter().cloned().chain(generated.into_iter().filter(is_free)).collect();
    all.sort();
    (Revision { presets: Presets::default(), resources: all, ..revision.clone() }, findings)
}

/// Upstream supports no kubelet of another minor version in place: its restart needs a drained node. Without a version in the
/// spec that of before runs. Where one does not tell its version, a change of the program may be such.
fn other_minor(kubelet: &Kubelet, facts: &Facts) -> Option<(String, String)> {
    let found = facts.kubelet.as_ref();
    let to = kubelet.version.as_ref().or_else(|| found?.version.as_ref());
    let from = facts.system.kubelet_version.as_ref();
    let unit = found.map_or(KUBELET_UNIT, |found| &found.unit);
    match (from, to) {
        (Some(from), Some(to)) => {
            let why = format!("the kubelet goes from {from} to {to}, another minor version");
            (minor_of(from) != minor_of(to)).then(|| (format!("unit {unit}"), why))
        }
        (None, Some(to)) if found.is_some() => {
            let why = format!("the kubelet does not tell its version, and {to} may be another minor one");
            Some((format!("binary {}", kubelet.program_path()), why))
        }
        _ => None,
    }
}

/// The program of another version that is in place: somebody gave a version the digest of another.
fn other_version(kubelet: &Kubelet, facts: &Facts) -> Option<(String, String)> {
    let (asked, found) = (kubelet.version.as_ref()?, facts.system.in_place.as_ref()?);
    let message = format!(
        "the program with the digest of kubelet.sha256 is there already and says that it is {found}, expected {asked}: correct the version, or sha256; nothing was changed"
    );
    (found != asked).then(|| (kubelet.program_path().to_owned(), message))
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

#[cfg(test)]
mod tests {
    use super::facts::{FoundKubelet, System};
    use super::*;

    #[test]
    fn a_version_with_the_digest_of_another_is_told_where_that_is_in_place() {
        let kubelet = Kubelet { version: Some("v1.36.3".to_owned()), ..Kubelet::default() };
        let facts = |version: Option<&str>| Facts {
            system: System { in_place: version.map(str::to_owned), ..System::default() },
            ..Facts::default()
        };
        assert_eq!(other_version(&kubelet, &facts(None)), None);
        assert_eq!(other_version(&kubelet, &facts(Some("v1.36.3"))), None);
        let (path, message) = other_version(&kubelet, &facts(Some("v1.36.1"))).unwrap();
        assert_eq!(path, "/usr/local/sbin/kubelet");
        assert!(message.contains("says that it is v1.36.1, expected v1.36.3"), "{message}");
    }

    #[test]
    fn another_minor_version_of_the_kubelet_needs_a_drain_and_another_patch_version_does_not() {
        let kubelet = |version: &str| Kubelet { version: Some(version.to_owned()), ..Kubelet::default() };
        let system = |version: Option<&str>| System {
            kubelet_version: version.map(str::to_owned),
            ..System::default()
        };
        let facts = |version: Option<&str>| Facts { system: system(version), ..Facts::default() };
        let now = facts(Some("v1.36.1"));
        assert_eq!(other_minor(&kubelet("v1.36.3"), &now), None);
        assert_eq!(other_minor(&Kubelet::default(), &now), None);
        assert_eq!(other_minor(&kubelet("v1.36.3"), &facts(None)), None, "none runs");
        let found = |now: Option<&str>, before: Option<&str>| Facts {
            kubelet: Some(FoundKubelet { version: before.map(str::to_owned), ..FoundKubelet::default() }),
            ..facts(now)
        };
        // Without a version that of before runs again.
        let back = |before| other_minor(&Kubelet::default(), &found(Some("v1.36.1"), before));
        assert_eq!(back(Some("v1.36.3")), None);
        assert!(back(Some("v1.35.4")).unwrap().1.contains("from v1.36.1 to v1.35.4"));
        // A program that tells nothing is not a restart of a patch version only.
        let (what, why) = other_minor(&kubelet("v1.36.3"), &found(None, None)).unwrap();
        assert_eq!(what, "binary /usr/local/sbin/kubelet");
        assert!(why.contains("does not tell its version"), "{why}");
        for to in ["v1.35.4", "v1.37.2"] {
            let (unit, why) = other_minor(&kubelet(to), &now).unwrap();
            assert_eq!(unit, "unit kubelet.service");
            assert!(why.contains(&format!("from v1.36.1 to {to}")), "{why}");
        }
    }
}
