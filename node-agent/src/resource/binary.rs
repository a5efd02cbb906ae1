//! Programs that are downloaded and verified.

use crds::report::Disruption;
use crds::revision::{Binary, Resource};
use crds::{Sha256, UnitName};

use super::file::{Loss, missing_parent};
use super::{Action, Change, Differences, Planner, elf, unit};
use crate::host::download::MAX_BYTES;
use crate::host::write::check_links;
use crate::host::{Kind, Meta};
use crate::switch::is_node_unit;

pub(crate) fn plan(binary: &Binary, resources: &[Resource], planner: &mut Planner<'_>) {
    let resource = format!("binary {}", binary.path);
    let arch = planner.host.facts.arch;
    let ids = planner.ids(&resource, &binary.access);
    let digest = binary.sha256.get(arch).copied();
    if digest.is_none() {
        let message = format!("sha256 has no digest for {arch}, this node's architecture: add it");
        planner.problem(&resource, "NoDigest", message);
    }
    let (Some(place), Some(ids), Some(digest)) = (planner.place(binary.path.as_str()), ids, digest) else {
        return;
    };
    if !planner.has_parent(&place) {
        planner.problem(resource, "NoDirectory", missing_parent(&place));
        return;
    }
    planner.note_exposure(&resource, &place, ids);
    let urls: Vec<String> = binary.urls.iter().map(|url| url.for_arch(arch)).collect();
    let from = urls.first().cloned().unwrap_or_default();
    let download = Action::Download { path: place.real.clone(), urls, digest, ids };
    let is_new = |meta: &Meta, planner: &Planner<'_>| meta.kind == Kind::Link && planner.is_own(&place);
    let meta = match place.look() {
        Ok(Some(meta)) if !is_new(&meta, planner) => meta,
        Ok(there) => {
            if is_unfit(binary, resources, digest, planner) {
                return;
            }
            let found = if there.is_some() { "was a symbolic link" } else { "was missing" };
            let change = Change {
                resource: resource.clone(),
                change: format!("download {from}, {}", planner.shown(ids)),
                found: found.to_owned(),
                disruption: Disruption::None,
            };
            if planner.step(change, download) {
                restart(&resource, &binary.restart, planner);
            }
            return;
        }
        Err(error) => return planner.refused(resource, &error),
    };
    if meta.kind != Kind::File {
        let message = planner.occupied(&place, meta.kind, Kind::File);
        return planner.problem(resource, "PathOccupied", message);
    }
    // Of another size it is another program, however long it would take to read: whoever owns its directory may have put
    // anything there.
    let size = planner.host.cache.size(digest);
    let is_other = size.is_some_and(|size| size != meta.size) || meta.size > MAX_BYTES;
    let found = match is_other {
        true => Ok(None),
        false => planner.host.digests.see(&place, &meta),
    };
    let found = match found {
        Ok(found) => found.filter(|found| found.digest == digest),
        Err(error) => return planner.refused(resource, &error),
    };
    let mut access = planner.differences(&meta, ids);
    let Some(found) = found else {
        if is_unfit(binary, resources, digest, planner) {
            return;
        }
        let mut differences = Differences::default();
        differences.add(format!("download {from}"), "had another digest".to_owned());
        differences.extend(access);
        differences.lose(&Loss::anew(planner, &place, &meta));
        if planner.step(differences.change(&resource), download) {
            restart(&resource, &binary.restart, planner);
        }
        return;
    };
    access.find_grants(&found.grants);
    access.lose(&Loss::in_place(&found.grants));
    if !access.is_empty() {
        match check_links(&place, &meta) {
            Ok(()) => {
                let action = Action::SetAccess { path: place.real.clone(), kind: Kind::File, ids };
                planner.step(access.change(resource), action);
            }
            Err(error) => planner.refused(resource, &error),
        }
    }
}

/// Whether what was fetched is no program that this node runs, though a unit shall run it that its pods run under; then it is
/// a problem. Before it was fetched nothing is known of it.
fn is_unfit(binary: &Binary, resources: &[Resource], digest: Sha256, planner: &mut Planner<'_>) -> bool {
    let Some(head) = planner.host.cache.head::<{ elf::HEADER }>(digest) else { return false };
    let arch = planner.host.facts.arch;
    let is = elf::architecture(&head);
    if is.as_deref() == Some(arch) || !runs_pods(binary, resources, planner) {
        return false;
    }
    let resource = format!("binary {}", binary.path);
    match is {
        Some(other) => {
            let message = format!(
                "what was fetched is a program for {other}, and this node is {arch}: correct the url, and sha256 for {arch}"
            );
            planner.problem(resource, "WrongArchitecture", message);
        }
        None => {
            let message = "what was fetched is no program (it has no ELF header), and a unit that pods run under shall run it: \
                           correct the url and sha256"
                .to_owned();
            planner.problem(resource, "NotAProgram", message);
        }
    }
    true
}

/// Whether a unit that the node's pods run under runs this program, by the revision or by the host's files.
fn runs_pods(binary: &Binary, resources: &[Resource], planner: &Planner<'_>) -> bool {
    let path = binary.path.as_str();
    binary.restart.iter().any(|unit| is_node_unit(unit.as_str()))
        || unit::of_pods_names(path, resources, planner)
}

fn restart(resource: &str, units: &[UnitName], planner: &mut Planner<'_>) {
    for unit in units {
        planner.restarts.entry(unit.to_string()).or_default().push(resource.to_owned());
    }
}
