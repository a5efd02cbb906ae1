//! Directories: owner, group and mode, and, if recursive, those of all that is inside.

use std::collections::BTreeMap;

use crds::Mode;
use crds::report::Disruption;
use crds::revision::Directory;

use super::file::WITHOUT;
use super::{Action, Change, Planner};
use crate::host::root::shown;
use crate::host::write::{CAPABILITY, Ids, Inside};
use crate::host::{Kind, Place};

/// The most files that a change names.
const MAX_TOLD: usize = 3;

pub(crate) fn plan(directories: &[&Directory], planner: &mut Planner<'_>) {
    // By real path, so that each comes after those above it.
    let mut placed: Vec<(Place, &Directory)> = directories
        .iter()
        .filter_map(|directory| Some((planner.place(directory.path.as_str())?, *directory)))
        .collect();
    placed.sort_by(|(a, _), (b, _)| a.real.cmp(&b.real));
    for (place, directory) in placed {
        match planner.announced(&place.real) {
            Some(ids) => plan_one(directory, &place, ids, planner),
            // The problem with its owner was told when it was announced; what lies in it is judged as if it had none.
            None => place
                .missing_paths()
                .iter()
                .chain([&place.real])
                .for_each(|path| planner.will_have_directory(path)),
        }
    }
}

/// Tells the planner what directories will have: entries below or behind one depend on it.
pub(crate) fn announce(directories: &[&Directory], planner: &mut Planner<'_>) {
    for directory in directories {
        let Some(place) = planner.place(directory.path.as_str()) else { continue };
        if let Some(ids) = planner.ids(format_args!("directory {}", directory.path), &directory.access) {
            planner.announce(&place.real, ids, inside_of(directory, ids));
        }
    }
}

/// What all gets that is inside a directory with this owner; `None`: nothing.
fn inside_of(directory: &Directory, Ids { uid, gid, .. }: Ids) -> Option<Inside> {
    let modes = directory.inside.unwrap_or_default();
    let bits = |mode: Option<Mode>| mode.map(Mode::bits);
    directory.recursive.then(|| Inside {
        uid,
        gid,
        file_mode: bits(modes.file_mode),
        directory_mode: bits(modes.directory_mode),
    })
}

fn plan_one(directory: &Directory, place: &Place, ids: Ids, planner: &mut Planner<'_>) {
    let resource = format!("directory {}", directory.path);
    planner.note_exposure(&resource, place, ids);
    match place.look() {
        Ok(None) => {
            planner.make_parents(place, directory.path.as_str());
            planner.will_have_directory(&place.real);
            let change = Change {
                resource,
                change: format!("create, {}", planner.shown(ids)),
                found: "was missing".to_owned(),
                disruption: Disruption::None,
            };
            planner.step(change, Action::MakeDirectory { path: place.real.clone(), ids });
        }
        Ok(Some(meta)) if meta.kind == Kind::Directory => {
            planner.will_have_directory(&place.real);
            if let Some(inside) = inside_of(directory, ids) {
                // Before its own owner changes: until then nobody else can put anything there.
                plan_inside(&resource, place, inside, planner);
            }
            let differences = planner.differences(&meta, ids);
            if !differences.is_empty() {
                let action = Action::SetAccess { path: place.real.clone(), kind: Kind::Directory, ids };
                planner.step(differences.change(resource), action);
            }
        }
        Ok(Some(meta)) => {
            let message = planner.occupied(place, meta.kind, Kind::Directory);
            planner.problem(resource, "PathOccupied", message);
        }
        Err(error) => planner.refused(resource, &error),
    }
}

/// That files lose their capabilities with another owner: the first few of them, and how many more.
fn lost_capabilities(files: &BTreeMap<String, String>) -> String {
    if files.is_empty() {
        return String::new();
    }
    let told: Vec<String> = files.keys().take(MAX_TOLD).map(|path| shown(path)).collect();
    let more = match files.len() - told.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(", {WITHOUT}: {CAPABILITY} of {}{more}", told.join(", "))
}

fn plan_inside(resource: &str, place: &Place, inside: Inside, planner: &mut Planner<'_>) {
    let skip = planner.skip();
    let swept = match planner.host.root.sweep(place, inside, &|path| skip.of(path), false) {
        Ok(swept) => swept,
        Err(error) => return planner.refused(resource, &error),
    };
    if let Some(first) = swept.left.first() {
        planner.warn(format!(
            "{resource}: {} files in it keep their owner and mode, because other hard links lead to them, as {first}: remove them if they do not belong there",
            swept.left.len()
        ));
    }
    if let Some((first, locked)) = swept.locked.first() {
        let (what, remedy) = locked.words();
        let more = match swept.locked.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more in it are locked too"),
        };
        let message = format!(
            "{first} {what}{more}: run {remedy} {first} on the host, or take recursive out of the spec"
        );
        return planner.problem(resource, "Locked", message);
    }
    if !swept.differ.is_empty() {
        let entries = match swept.differ.len() {
            1 => "1 entry".to_owned(),
            more => format!("{more} entries"),
        };
        let modes: String = [("files", inside.file_mode), ("directories", inside.directory_mode)]
            .into_iter()
            .filter_map(|(what, mode)| Some(format!(", {what} {:04o}", mode?)))
            .collect();
        let what = if modes.is_empty() { "owner" } else { "owner or mode" };
        let owner = planner.shown_owner(inside.owner());
        let lost = lost_capabilities(&swept.capabilities);
        let change = Change {
            resource: resource.to_owned(),
            change: format!("{what} of {entries} inside to {owner}{modes}{lost}"),
            found: format!("had {entries} inside with another {what}"),
            disruption: Disruption::None,
        };
        planner.step(change, Action::OwnBelow { path: place.real.clone(), inside, skip });
    }
}
