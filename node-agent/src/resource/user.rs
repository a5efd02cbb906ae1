//! Users. New ones are locked. Groups, home, shell, comment and lock follow the spec where it names them; another number is a
//! problem, never changed.

use std::collections::BTreeSet;

use crds::report::Disruption;
use crds::revision::User;
use crds::{AccountPath, AccountRef};

use super::{Action, Change, Differences, Planner};
use crate::host::accounts;

/// Shells that let nobody in, the one that hosts prefer first.
const NO_LOGIN: &[&str] = &["/usr/sbin/nologin", "/sbin/nologin", "/usr/bin/false", "/bin/false"];

/// As Debian has it: a home that no host has.
const NO_HOME: &str = "/nonexistent";

pub(crate) fn plan(users: &[&User], planner: &mut Planner<'_>) {
    // No free number is taken that another entry asks for.
    let reserved: BTreeSet<u32> = users.iter().filter_map(|user| user.uid).collect();
    let (asked, free): (Vec<&User>, Vec<&User>) = users.iter().partition(|user| user.uid.is_some());
    for user in asked.into_iter().chain(free) {
        if plan_one(user, &reserved, planner) {
            plan_more(user, planner);
        }
    }
}

/// Plans what has its own place in the account files: memberships, comment, lock.
fn plan_more(user: &User, planner: &mut Planner<'_>) {
    let name = user.name.to_string();
    let change = |change: String, found: String| Change {
        resource: format!("user {name}"),
        change,
        found,
        disruption: Disruption::None,
    };
    for group in user.groups.iter().map(ToString::to_string) {
        if planner.accounts.group(&group).is_none() {
            let message = format!(
                "its supplementary group {group} is neither on this host nor in groups: add it there, or leave it out"
            );
            planner.problem(format!("user {name}"), "NoSuchGroup", message);
        } else if !planner.accounts.is_member(&name, &group) {
            planner.accounts.put_member(&name, &group);
            let change = change(format!("join the group {group}"), format!("was not in the group {group}"));
            planner.step(change, Action::SetMember { user: name.clone(), group, is_member: true });
        }
    }
    if let Some(comment) = user.comment.as_ref().map(ToString::to_string) {
        let old = planner.accounts.comment(&name).to_owned();
        if old.contains(char::REPLACEMENT_CHARACTER) {
            let message =
                "its comment in /etc/passwd is no UTF-8, and could not be put back: correct it with usermod --comment"
                    .to_owned();
            planner.problem(format!("user {name}"), "AccountDamaged", message);
        } else if old != comment {
            let change =
                change(format!("comment {old:?} to {comment:?}"), format!("had the comment {old:?}"));
            planner.step(change, Action::SetComment { user: name.clone(), comment });
        }
    }
    if let Some(locked) = user.locked.filter(|locked| *locked != planner.accounts.is_locked(&name)) {
        let (word, found) = if locked { ("lock", "was not locked") } else { ("unlock", "was locked") };
        let change = change(word.to_owned(), found.to_owned());
        planner.step(change, Action::SetLocked { user: name.clone(), locked });
    }
}

/// Plans the user itself; whether it is there then.
fn plan_one(user: &User, reserved: &BTreeSet<u32>, planner: &mut Planner<'_>) -> bool {
    let name = user.name.as_str();
    let resource = format!("user {name}");
    if planner.accounts.is_damaged(name) {
        let message = "its line in /etc/passwd cannot be understood: correct it with vipw".to_owned();
        planner.problem(resource, "AccountDamaged", message);
        return false;
    }
    let found = planner.accounts.user(name).cloned();
    // What the spec does not say stays as it is; of a new user it is what useradd would choose.
    let gid = match (&user.group, &found) {
        (None, Some(found)) => Some(found.gid),
        (asked, _) => {
            let group = asked.clone().unwrap_or_else(|| AccountRef::from(&user.name));
            group_of(&resource, &group, planner)
        }
    };
    let home = user.home.as_ref().map(ToString::to_string);
    let shell = match (&user.shell, &found) {
        (None, Some(found)) => found.shell.clone(),
        (asked, _) => shell(name, asked.as_ref(), planner),
    };
    let Some(found) = found else {
        let (Some(uid), Some(gid)) = (new_uid(user, reserved, planner), gid) else { return false };
        let home = home.unwrap_or_else(|| NO_HOME.to_owned());
        add(resource, accounts::User { name: name.to_owned(), uid, gid, home, shell }, planner);
        return true;
    };
    if let Some(uid) = user.uid.filter(|uid| *uid != found.uid) {
        let message = format!(
            "exists with uid {}, not {uid}: write uid: {}, or leave uid out, or change it on the host and the owner of its files with it",
            found.uid, found.uid
        );
        planner.problem(resource, "IdMismatch", message);
        return false;
    }
    let Some(gid) = gid else { return false };
    let home = home.unwrap_or_else(|| found.home.clone());
    let wanted = accounts::User { gid, home, shell, ..found.clone() };
    let mut differences = Differences::default();
    if wanted.gid != found.gid {
        let (old, new) = (planner.accounts.group_name(found.gid), planner.accounts.group_name(gid));
        differences.add(format!("primary group {old} to {new}"), format!("had the primary group {old}"));
    }
    if wanted.home != found.home {
        differences
            .add(format!("home {} to {}", found.home, wanted.home), format!("had home {}", found.home));
    }
    if wanted.shell != found.shell {
        differences
            .add(format!("shell {} to {}", found.shell, wanted.shell), format!("had shell {}", found.shell));
    }
    if !differences.is_empty() {
        planner.accounts.change_user(wanted.clone());
        planner.step(differences.change(resource), Action::ChangeUser(wanted));
    }
    true
}

/// The number of a primary group; a problem if there is none.
fn group_of(resource: &str, group: &AccountRef, planner: &mut Planner<'_>) -> Option<u32> {
    match planner.gid(group) {
        // A number without a group would leave the user in a group that has no name.
        Some(gid) if gid == 0 || planner.accounts.gid_taken(gid).is_some() => Some(gid),
        _ => {
            let message = format!(
                "its primary group {group} is neither on this host nor in groups: add it there, or name another"
            );
            planner.problem(resource, "NoSuchGroup", message);
            None
        }
    }
}

fn add(resource: String, account: accounts::User, planner: &mut Planner<'_>) {
    let accounts::User { uid, gid, home, shell, .. } = &account;
    let group = planner.accounts.group_name(*gid);
    let change = Change {
        resource,
        change: format!("create with uid {uid}, group {group}, home {home}, shell {shell}"),
        found: "was missing".to_owned(),
        disruption: Disruption::None,
    };
    planner.accounts.put_user(account.clone());
    planner.step(change, Action::AddUser(account));
}

fn new_uid(user: &User, reserved: &BTreeSet<u32>, planner: &mut Planner<'_>) -> Option<u32> {
    let resource = format!("user {}", user.name);
    match user.uid {
        Some(uid) => match planner.accounts.uid_taken(uid) {
            Some(other) => {
                let message =
                    format!("uid {uid} belongs to the user {other}: write another uid, or leave it out");
                planner.problem(resource, "IdTaken", message);
                None
            }
            None => Some(uid),
        },
        None => {
            let free = planner.accounts.free_uid(user.system, reserved);
            if free.is_none() {
                let range = if user.system { "SYS_UID_MIN to SYS_UID_MAX" } else { "UID_MIN to UID_MAX" };
                let message =
                    format!("no uid is free ({range} in /etc/login.defs): write one, or widen the range");
                planner.problem(resource, "NoFreeId", message);
            }
            free
        }
    }
}

/// The shell that a user gets: the one asked for if the host has it, else its own nologin where one was asked for.
fn shell(name: &str, asked: Option<&AccountPath>, planner: &mut Planner<'_>) -> String {
    let has = |path: &str| {
        planner
            .host
            .root
            .locate_through_links(path)
            .is_ok_and(|place| place.look().is_ok_and(|meta| meta.is_some()))
    };
    let own = NO_LOGIN.iter().copied().find(|path| has(path)).unwrap_or(NO_LOGIN[0]);
    let Some(asked) = asked.map(ToString::to_string) else { return own.to_owned() };
    if has(&asked) {
        return asked;
    }
    if is_no_login(&asked) {
        planner.warn(format!("user {name}: this host has no shell {asked}: {own} is used, write that"));
        return own.to_owned();
    }
    planner.warn(format!(
        "user {name}: this host has no shell {asked}: it is written as asked, but nobody can log in with it; {own} says so on purpose"
    ));
    asked
}

fn is_no_login(shell: &str) -> bool {
    matches!(shell.rsplit('/').next(), Some("nologin" | "false"))
}
