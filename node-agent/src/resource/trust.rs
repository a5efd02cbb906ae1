//! Certificates that the host shall trust: a file for each, and the program of the distribution that makes them known.
//!
//! Where the files lie is the distribution's choice; from there on they are files as any, with ledger, conflicts and drift.
//! Whether the store has a certificate is read from the store itself: an update that was killed, or undone, is made again.

use std::borrow::Cow;

use crds::HostPath;
use crds::report::Disruption;
use crds::revision::{Access, CaBundle, Content, File, Resource, Revision};
use sha2::Digest;

use super::file::{missing_parent, plan_content};
use super::{Action, Change, Planner, is_below};
use crate::host::Root;
use crate::host::download::certificates_in;
use crate::host::trust::{ANCHORS, Store, certificates, pem};
use crate::host::write::Ids;
use crate::ledger::{Item, Ledger};

/// As which unit the store is made; while it runs for one NodeBootstrap, the others wait.
pub(crate) const UNIT: &str = "nodebootstrap-trust-store.service";
const MODE: u32 = 0o644;

fn bundles(resources: &[Resource]) -> impl Iterator<Item = &CaBundle> {
    resources.iter().filter_map(|resource| match resource {
        Resource::CaBundle(bundle) => Some(bundle),
        _ => None,
    })
}

/// Whether a plan has to know the host's store.
pub(crate) fn matters<'r>(
    mut resources: impl Iterator<Item = &'r Resource>,
    ledger: &Ledger,
    is_owed: bool,
) -> bool {
    is_owed
        || resources.any(|resource| matches!(resource, Resource::CaBundle(_)))
        || ledger.entries().any(|(item, _)| matches!(item, Item::Path(path) if is_anchor(path)))
}

fn is_anchor(path: &str) -> bool {
    ANCHORS.iter().any(|folder| is_below(path, folder))
}

/// The files of a bundle. A certificate is known by its digest, so that another one beside it changes no other file.
fn anchors(store: &Store, node_bootstrap: &str, bundle: &CaBundle) -> Vec<File> {
    let file = |der: &Vec<u8>| {
        let digest = hex::encode(&sha2::Sha256::digest(der)[..4]);
        let path = format!(
            "{}/nodebootstrap-{node_bootstrap}.{}.{digest}{}",
            store.anchors, bundle.name, store.suffix
        );
        let path: HostPath = path.parse().ok()?;
        Some(File {
            path,
            access: Access::of_root(MODE),
            content: Content::Text(pem(der)),
            restart: Vec::new(),
        })
    };
    certificates(bundle.pem.as_bytes()).iter().filter_map(file).collect()
}

/// The resources of a NodeBootstrap with the files of its bundles, as this host has them.
pub(crate) fn with_anchors<'r>(
    store: Option<&Store>,
    node_bootstrap: &str,
    resources: &'r [Resource],
) -> Cow<'r, [Resource]> {
    let Some(store) = store.filter(|_| bundles(resources).next().is_some()) else { return resources.into() };
    let files = bundles(resources).flat_map(|bundle| anchors(store, node_bootstrap, bundle));
    resources.iter().cloned().chain(files.map(Resource::File)).collect()
}

/// Plans the files, after all that is removed, and that the store is made.
pub(crate) fn plan(
    store: Option<&'static Store>,
    node_bootstrap: &str,
    resources: &[Resource],
    is_owed: bool,
    planner: &mut Planner<'_>,
) {
    let goes = planner.steps.iter().any(|step| match &step.action {
        Action::RemoveFile { path } | Action::PutBack { path, .. } => {
            step.undoes.is_some() && is_anchor(path)
        }
        _ => false,
    });
    let renew = goes || is_owed;
    let Some(store) = store else {
        for bundle in bundles(resources) {
            let message = "this host has no trust store that is known, by update-ca-certificates or update-ca-trust: install the package ca-certificates"
                .to_owned();
            planner.problem(resource_of(bundle), "NoTrustStore", message);
        }
        return;
    };
    if !renew && bundles(resources).next().is_none() {
        return;
    }
    let trusted = match store.trusted(&planner.host.root) {
        Ok(trusted) => trusted,
        Err(error) => return planner.refused("trust store", &error),
    };
    let mut missing = Vec::new();
    for bundle in bundles(resources) {
        let resource = resource_of(bundle);
        if let Err(cause) = certificates_in(&bundle.pem) {
            planner.problem(resource, "BadCertificates", format!("{cause}: correct it"));
            continue;
        }
        for file in anchors(store, node_bootstrap, bundle) {
            plan_anchor(&resource, &file, planner);
        }
        if !certificates(bundle.pem.as_bytes()).is_subset(&trusted) {
            missing.push(bundle);
        }
    }
    if missing.is_empty() && !renew {
        return;
    }
    if !planner.host.systemd.is_running() {
        planner.warn(format!(
            "trust store: the system below this root does not run, so it is not made anew: run {} there",
            store.renew.join(" ")
        ));
        return;
    }
    // It is one step for all; those that are left as they are, are so each by itself.
    let (left, missing): (Vec<_>, Vec<_>) =
        missing.into_iter().partition(|bundle| planner.leaves(&resource_of(bundle)));
    let update = Action::UpdateTrustStore { store, renew };
    for bundle in left {
        planner.step(brought(resource_of(bundle)), update.clone());
    }
    if !missing.is_empty() {
        let names: Vec<_> = missing.iter().map(|bundle| bundle.name.as_str()).collect();
        planner.step(brought(format!("caBundle {}", names.join(", "))), update);
    } else if renew {
        let change = Change {
            resource: "trust store".to_owned(),
            change: "make it anew, without what has gone".to_owned(),
            found: "had certificates that have gone".to_owned(),
            disruption: Disruption::None,
        };
        planner.step(change, update);
    }
}

fn resource_of(bundle: &CaBundle) -> String {
    format!("caBundle {}", bundle.name)
}

fn brought(resource: String) -> Change {
    Change {
        resource,
        change: "bring into the trust store".to_owned(),
        found: "was not in the trust store".to_owned(),
        disruption: Disruption::None,
    }
}

/// Plans one file, as a part of its bundle.
fn plan_anchor(resource: &str, file: &File, planner: &mut Planner<'_>) {
    let (Some(place), Content::Text(text)) = (planner.place(file.path.as_str()), &file.content) else {
        return;
    };
    if !planner.has_parent(&place) {
        planner.problem(resource, "NoDirectory", missing_parent(&place));
        return;
    }
    let (steps, left) = (planner.steps.len(), planner.left.len());
    plan_content(resource, &place, text.as_bytes(), Ids::root(MODE), planner);
    let steps = planner.steps[steps..].iter_mut().map(|step| &mut step.change);
    for change in steps.chain(&mut planner.left[left..]) {
        change.change = format!("{}: {}", file.path, change.change);
    }
}

/// The paths that tell when a certificate goes from the host's store.
pub(crate) fn to_watch(root: &Root, revision: &Revision) -> Vec<String> {
    let Revision { node_bootstrap, resources, .. } = revision;
    if bundles(resources).next().is_none() {
        return Vec::new();
    }
    // What cannot be looked at is a problem of the plan.
    let Ok(Some(store)) = Store::of(root) else { return Vec::new() };
    let files = bundles(resources).flat_map(|bundle| anchors(store, node_bootstrap, bundle));
    files.map(|file| file.path.to_string()).chain([store.bundle.to_owned()]).collect()
}
