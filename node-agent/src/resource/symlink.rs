//! Symbolic links. They belong to root; one that leads elsewhere is replaced, as is a file that an earlier revision has put
//! there. Anything else at the path is a problem.

use crds::report::Disruption;
use crds::revision::Symlink;

use super::file::missing_parent;
use super::{Action, Change, Differences, Planner};
use crate::host::Kind;
use crate::host::write::Ids;

pub(crate) fn plan(symlink: &Symlink, planner: &mut Planner<'_>) {
    let resource = format!("symlink {}", symlink.path);
    let Some(place) = planner.place(symlink.path.as_str()) else { return };
    if !planner.has_parent(&place) {
        planner.problem(resource, "NoDirectory", missing_parent(&place));
        return;
    }
    planner.note_exposure(&resource, &place, Ids::root(0o777));
    let target = symlink.target.as_str();
    let action = |replaces| Action::Link {
        path: place.real.clone(),
        target: target.to_owned(),
        owner: (0, 0),
        replaces,
    };
    let meta = match place.look() {
        Ok(Some(meta)) => meta,
        Ok(None) => {
            let change = Change {
                resource,
                change: format!("create, to {target}"),
                found: "was missing".to_owned(),
                disruption: Disruption::None,
            };
            planner.step(change, action(Kind::Link));
            return;
        }
        Err(error) => return planner.refused(resource, &error),
    };
    if meta.kind == Kind::File && planner.is_own(&place) {
        let change = Change {
            resource,
            change: format!("create in place of the file, to {target}"),
            found: "was a file".to_owned(),
            disruption: Disruption::None,
        };
        planner.step(change, action(Kind::File));
        return;
    }
    if meta.kind != Kind::Link {
        let message = planner.occupied(&place, meta.kind, Kind::Link);
        return planner.problem(resource, "PathOccupied", message);
    }
    let old = match planner.host.root.read_link(&place) {
        Ok(Some(old)) => old,
        Ok(None) => {
            let message =
                "is a symbolic link whose target is no UTF-8, which could not be put back: remove it"
                    .to_owned();
            return planner.problem(resource, "PathOccupied", message);
        }
        Err(error) => return planner.refused(resource, &error),
    };
    let mut differences = Differences::default();
    if old != target {
        differences.add(format!("target {old} to {target}"), format!("led to {old}"));
    }
    if (meta.uid, meta.gid) != (0, 0) {
        let owner = planner.shown_owner((meta.uid, meta.gid));
        differences.add(format!("owner {owner} to root:root"), format!("belonged to {owner}"));
    }
    if !differences.is_empty() {
        planner.step(differences.change(resource), action(Kind::Link));
    }
}
