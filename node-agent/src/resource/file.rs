//! Files with content of ours.

use std::collections::BTreeSet;
use std::rc::Rc;

use crds::Sha256;
use crds::report::Disruption;
use crds::revision::{Content, File};

use super::unit::{MAX_UNIT, means_the_same};
use super::{Action, Change, Differences, Hidden, Planner, is_below};
use crate::host::install::UNIT_DIRECTORY;
use crate::host::write::Ids;
use crate::host::{Kind, Meta, Place};

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
    if meta.kind == Kind::Link && planner.is_own(place) {
        let change = Change {
            resource: resource.to_owned(),
            change: format!("create in place of the symbolic link, {}", planner.shown(ids)),
            found: "was a symbolic link".to_owned(),
            disruption: Disruption::None,
        };
        return write(planner, change);
    }
    if meta.kind != Kind::File {
        planner.problem(resource, "PathOccupied", planner.occupied(place, meta.kind, Kind::File));
        return false;
    }
    let seen = match meta.size == content.len() as u64 {
        true => planner.host.digests.see(place, &meta),
        false => Ok(None),
    };
    let seen = match seen {
        Ok(seen) => seen.filter(|seen| seen.digest == Sha256::of(content)),
        Err(error) => {
            planner.refused(resource, &error);
            return false;
        }
    };
    let mut differences = Differences::default();
    if seen.is_none() {
        differences.add("content".to_owned(), "had other content".to_owned());
    }
    differences.extend(planner.differences(&meta, ids));
    let same = seen.is_some();
    let grants = seen.map(|seen| seen.grants).unwrap_or_default();
    differences.find_grants(&grants);
    if differences.is_empty() {
        return false;
    }
    // A file with other hard links is written anew: to change it in place would change what they lead to.
    let is_anew = !same || meta.links > 1;
    let loss = if is_anew { Loss::anew(planner, place, &meta) } else { Loss::in_place(&grants) };
    differences.lose(&loss);
    let is_made = if is_anew {
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

/// What goes with a file besides what is said of it. What is written anew has no extended attributes, and what stays in place
/// none that gives somebody more than its mode says; they come back with what was there before.
#[derive(Debug, Default)]
pub(crate) struct Loss {
    attributes: BTreeSet<String>,
    links: u64,
}

impl Loss {
    /// Of a file that is written anew.
    pub(crate) fn anew(planner: &Planner<'_>, place: &Place, meta: &Meta) -> Self {
        // What cannot be read now is an error when it is to be kept.
        let attributes = planner.host.root.attributes(place).unwrap_or_default();
        Self { attributes: attributes.into_keys().collect(), links: meta.links.saturating_sub(1) }
    }

    /// Of a file that stays where it is, with these extended attributes that give somebody more.
    pub(crate) fn in_place(grants: &[&str]) -> Self {
        Self { attributes: grants.iter().map(|name| (*name).to_owned()).collect(), links: 0 }
    }

    /// Adds that of another file.
    pub(crate) fn add(&mut self, other: Loss) {
        self.attributes.extend(other.attributes);
        self.links += other.links;
    }

    /// In words.
    pub(crate) fn words(&self) -> Vec<String> {
        let names: Vec<&str> = self.attributes.iter().map(String::as_str).collect();
        let attributes = (!names.is_empty()).then(|| format!("{WITHOUT}: {}", names.join(", ")));
        let links = match self.links {
            0 => None,
            1 => Some("its other hard link keeps what it was".to_owned()),
            more => Some(format!("{more} other hard links keep what they were")),
        };
        attributes.into_iter().chain(links).collect()
    }
}
