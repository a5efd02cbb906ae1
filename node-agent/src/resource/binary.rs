//! Programs that are downloaded and verified.

use crds::UnitName;
use crds::report::Disruption;
use crds::revision::Binary;

use super::file::{missing_parent, occupied};
use super::{Action, Change, Differences, Planner};
use crate::host::Kind;
use crate::host::download::MAX_BYTES;
use crate::host::write::check_links;

pub(crate) fn plan(binary: &Binary, planner: &mut Planner<'_>) {
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
    let meta = match place.look() {
        Ok(Some(meta)) => meta,
        Ok(None) => {
            let change = Change {
                resource: resource.clone(),
                change: format!("download {from}, {}", planner.shown(ids)),
                found: "was missing".to_owned(),
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
        return planner.problem(resource, "PathOccupied", occupied(meta.kind));
    }
    // Of another size it is another program, however long it would take to read: whoever owns its directory may have put
    // anything there.
    let size = planner.host.cache.size(digest);
    let is_other = size.is_some_and(|size| size != meta.size) || meta.size > MAX_BYTES;
    let found = match is_other {
        true => Ok(None),
        false => planner.host.digests.of_seen(&place, &meta),
    };
    let found = match found {
        Ok(found) => found,
        Err(error) => return planner.refused(resource, &error),
    };
    let access = planner.differences(&meta, ids);
    if found != Some(digest) {
        let mut differences = Differences::default();
        differences.add(format!("download {from}"), "had another digest".to_owned());
        differences.changes.extend(access.changes);
        differences.found.extend(access.found);
        if planner.step(differences.change(&resource), download) {
            restart(&resource, &binary.restart, planner);
        }
    } else if !access.is_empty() {
        match check_links(&place, &meta) {
            Ok(()) => {
                let action = Action::SetAccess { path: place.real.clone(), kind: Kind::File, ids };
                planner.step(access.change(resource), action);
            }
            Err(error) => planner.refused(resource, &error),
        }
    }
}

fn restart(resource: &str, units: &[UnitName], planner: &mut Planner<'_>) {
    for unit in units {
        planner.restarts.entry(unit.to_string()).or_default().push(resource.to_owned());
    }
}
