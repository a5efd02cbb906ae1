//! Files with content of ours.

use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;

use crds::Sha256;
use crds::report::Disruption;
use crds::revision::{Content, File};

use super::unit::{MAX_UNIT, means_the_same};
use super::{Action, Change, Differences, Hidden, Planner, is_below};
use crate::host::install::UNIT_DIRECTORY;
use crate::host::write::{CAPABILITY, Ids};
use crate::host::{Kind, Place};

/// How it is said that extended attributes go.
pub(crate) const WITHOUT: &str = "without extended attributes";

pub(crate) fn plan(file: &File, planner: &mut Planner<'_>) {
    let resource = format!("file {}", file.path);
    let ids = planner.ids(&resource, &file.access);
    let content = match &file.content {
        Content::Text(text) => Some(text.as_bytes()),
        Content::Bytes(bytes) => Some(bytes.0.0.as_slice()),
        Content::Secret { key, .. } => {
            let value = planner.payload.get(key);
            if value.is_none() {
                let message = format!(
                    "its secret value ({key}) is not in the revision's payload: the operator writes it anew when the NodeBootstrap changes"
                );
                planner.problem(&resource, "PayloadMissing", message);
            }
            value
        }
    };
    let (Some(place), Some(ids), Some(content)) = (planner.place(file.path.as_str()), ids, content) else {
        return;
    };
    if !planner.has_parent(&place) {
        planner.problem(resource, "NoDirectory", missing_parent(&place));
        return;
    }
    if plan_content(&resource, &place, content, ids, planner) {
        for unit in &file.restart {
            planner.restarts.entry(unit.to_string()).or_default().push(resource.clone());
        }
    }
}

pub(crate) fn missing_parent(place: &Place) -> String {
    format!("its directory {} is missing: list it in directories", place.parent())
}

/// Plans a file that shall hold exactly this; whether its content changes: what uses it has to be restarted.
pub(crate) fn plan_content(
    resource: &str,
    place: &Place,
    content: &[u8],
    ids: Ids,
    planner: &mut Planner<'_>,
) -> bool {
    planner.note_exposure(resource, place, ids);
    let write = |planner: &mut Planner<'_>, change: Change| {
        let content = Hidden(Rc::from(content));
        planner.step(change, Action::WriteFile { path: place.real.clone(), content, ids })
    };
    let meta = match place.look() {
        Ok(Some(meta)) => meta,
        Ok(None) => {
            let change = Change {
                resource: resource.to_owned(),
                change: format!("create, {}", planner.shown(ids)),
                found: "was missing".to_owned(),
                disruption: Disruption::None,
            };
            return write(planner, change);
        }
        Err(error) => {
            planner.refused(resource, &error);
            return false;
        }
    };
    if meta.kind != Kind::File {
        planner.problem(resource, "PathOccupied", occupied(meta.kind));
        return false;
    }
    let same = meta.size == content.len() as u64
        && match planner.host.digests.of_seen(place, &meta) {
            Ok(now) => now == Some(Sha256::of(content)),
            Err(error) => {
                planner.refused(resource, &error);
                return false;
            }
        };
    let mut differences = Differences::default();
    if !same {
        differences.add("content".to_owned(), "had other content".to_owned());
    }
    let access = planner.differences(&meta, ids);
    differences.changes.extend(access.changes);
    differences.found.extend(access.found);
    if differences.is_empty() {
        return false;
    }
    // A file with other hard links is written anew: to change it in place would change what they lead to.
    let is_made = if !same || meta.links > 1 {
        write(planner, differences.change(resource))
    } else {
        let action = Action::SetAccess { path: place.real.clone(), kind: Kind::File, ids };
        planner.step(differences.change(resource), action)
    };
    is_made && !same && !differs_in_comments(place, content)
}

/// Whether a file of a unit has other comments, and all else is the same.
fn differs_in_comments(place: &Place, content: &[u8]) -> bool {
    let now = is_below(&place.real, UNIT_DIRECTORY).then(|| place.read(MAX_UNIT).ok().flatten()).flatten();
    now.is_some_and(|(now, _)| {
        means_the_same(&String::from_utf8_lossy(&now), &String::from_utf8_lossy(content))
    })
}

/// Says of each change what it takes with it of a file's extended attributes: what is written anew has none, and another
/// owner takes capabilities away. They come back with what was there before.
pub(crate) fn tell_attributes(planner: &mut Planner<'_>) {
    let root = &planner.host.root;
    let lost = |action: &Action| {
        let (path, owner) = match action {
            Action::WriteFile { path, .. }
            | Action::Download { path, .. }
            | Action::UnpackFile { path, .. } => (path, None),
            Action::SetAccess { path, kind: Kind::File, ids } => (path, Some((ids.uid, ids.gid))),
            _ => return Vec::new(),
        };
        let place = root.locate(path).ok();
        let there = place.and_then(|place| Some((place.look().ok().flatten()?, place)));
        // What is in the way of a file is told elsewhere.
        let Some((meta, place)) = there.filter(|(meta, _)| meta.kind == Kind::File) else {
            return Vec::new();
        };
        let has_another = owner != Some((meta.uid, meta.gid));
        let goes = |name: &String| has_another && (owner.is_none() || name == CAPABILITY);
        root.attributes(&place).unwrap_or_default().into_keys().filter(goes).collect()
    };
    for step in planner.steps.iter_mut().filter(|step| step.undoes.is_none()) {
        let lost: BTreeSet<String> = step.action.parts().iter().flat_map(&lost).collect();
        if !lost.is_empty() {
            let lost: Vec<String> = lost.into_iter().collect();
            step.change.change.push_str(&format!(", {WITHOUT}: {}", lost.join(", ")));
        }
    }
}

/// What is said of a path that shall be a file and is something else.
pub(crate) fn occupied(kind: Kind) -> String {
    let remedy: &dyn fmt::Display = match kind {
        Kind::Link => &"remove the link, or name the path that it leads to",
        Kind::Directory | Kind::Special | Kind::File => &"move it away, or choose another path",
    };
    format!("is {}, expected a file: {remedy}; nothing is deleted", kind.words())
}
