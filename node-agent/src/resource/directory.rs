//! Directories: owner, group and mode, and, if recursive, owner and group of all that is inside.

use crds::report::Disruption;
use crds::revision::Directory;

use super::{Action, Change, Planner};
use crate::host::write::Ids;
use crate::host::{Kind, Place};

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
            planner.announce(&place.real, ids, directory.recursive);
        }
    }
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
            if directory.recursive {
                // Before its own owner changes: until then nobody else can put anything there.
                plan_inside(&resource, place, ids, planner);
            }
            let differences = planner.differences(&meta, ids);
            if !differences.is_empty() {
                let action = Action::SetAccess { path: place.real.clone(), kind: Kind::Directory, ids };
                planner.step(differences.change(resource), action);
            }
        }
        Ok(Some(meta)) => {
            let message = format!(
                "is {}, expected a directory: move it away, or name the path that is meant; nothing is deleted",
                meta.kind.words()
            );
            planner.problem(resource, "PathOccupied", message);
        }
        Err(error) => planner.refused(resource, &error),
    }
}

fn plan_inside(resource: &str, place: &Place, ids: Ids, planner: &mut Planner<'_>) {
    let owner = (ids.uid, ids.gid);
    let skip = planner.skip();
    let swept = match planner.host.root.sweep(place, owner, &|path| skip.of(path), false) {
        Ok(swept) => swept,
        Err(error) => return planner.refused(resource, &error),
    };
    if let Some(first) = swept.left.first() {
        planner.warn(format!(
            "{resource}: {} files in it keep their owner, because other hard links lead to them, as {first}: remove them if they do not belong there",
            swept.left.len()
        ));
    }
    if !swept.differ.is_empty() {
        let entries = match swept.differ.len() {
            1 => "1 entry".to_owned(),
            more => format!("{more} entries"),
        };
        let change = Change {
            resource: resource.to_owned(),
            change: format!("owner of {entries} inside to {}", planner.shown_owner(owner)),
            found: format!("had {entries} inside with another owner"),
            disruption: Disruption::None,
        };
        planner.step(change, Action::OwnBelow { path: place.real.clone(), owner, skip });
    }
}
