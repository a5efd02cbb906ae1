//! Groups. An existing one with another number is a problem, never changed: files of its members would be lost to them.

use std::collections::BTreeSet;

use crds::report::Disruption;
use crds::revision::Group;

use super::{Action, Change, Planner};

pub(crate) fn plan(groups: &[&Group], planner: &mut Planner<'_>) {
    // No free number is taken that another entry asks for.
    let reserved: BTreeSet<u32> = groups.iter().filter_map(|group| group.gid).collect();
    let (asked, free): (Vec<&Group>, Vec<&Group>) = groups.iter().partition(|group| group.gid.is_some());
    for group in asked.into_iter().chain(free) {
        plan_one(group, &reserved, planner);
    }
}

fn plan_one(group: &Group, reserved: &BTreeSet<u32>, planner: &mut Planner<'_>) {
    let name = group.name.as_str();
    let resource = format!("group {name}");
    if let Some(found) = planner.accounts.group(name) {
        if let Some(gid) = group.gid.filter(|gid| *gid != found) {
            let message = format!(
                "exists with gid {found}, not {gid}: write gid: {found}, or leave gid out, or change it on the host and the owner of its files with it"
            );
            planner.problem(resource, "IdMismatch", message);
        }
        return;
    }
    let gid = match group.gid {
        Some(gid) => match planner.accounts.gid_taken(gid) {
            Some(other) => {
                let message =
                    format!("gid {gid} belongs to the group {other}: write another gid, or leave it out");
                planner.problem(resource, "IdTaken", message);
                return;
            }
            None => gid,
        },
        None => match planner.accounts.free_gid(group.system, reserved) {
            Some(gid) => gid,
            None => {
                let range = if group.system { "SYS_GID_MIN to SYS_GID_MAX" } else { "GID_MIN to GID_MAX" };
                let message =
                    format!("no gid is free ({range} in /etc/login.defs): write one, or widen the range");
                planner.problem(resource, "NoFreeId", message);
                return;
            }
        },
    };
    planner.accounts.put_group(name, gid);
    let change = Change {
        resource,
        change: format!("create with gid {gid}"),
        found: "was missing".to_owned(),
        disruption: Disruption::None,
    };
    planner.step(change, Action::AddGroup { name: name.to_owned(), gid });
}
