//! The host's account files: whatever is in them, no other line than ours is ever touched.
//!
//! An input is passwd, group, login.defs and shadow, with a line of `===` between.

#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use node_agent::host::accounts::{
    Accounts, field, find_line, locked_password, put_line, with_field, with_member, without_line,
};

const NAME: &str = "kubernetes";

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.split("\n===\n");
    let mut next = || parts.next().unwrap_or_default();
    let (passwd, group, login_defs, shadow) = (next(), next(), next(), next());
    let mut accounts = Accounts::parse(passwd, group, login_defs);
    accounts.read_shadow(shadow);
    for line in passwd.lines() {
        let name = line.split(':').next().unwrap_or_default();
        match accounts.user(name) {
            Some(user) => assert!(user.name == name && accounts.uid_taken(user.uid).is_some()),
            None => assert!(accounts.is_damaged(name)),
        }
        let _ = (accounts.comment(name), accounts.is_locked(name), accounts.is_member(name, NAME));
    }
    for system in [true, false] {
        let free = accounts.free_uid(system, &BTreeSet::new());
        assert!(free.is_none_or(|uid| accounts.uid_taken(uid).is_none()));
        let free = accounts.free_gid(system, &BTreeSet::new());
        assert!(free.is_none_or(|gid| accounts.gid_taken(gid).is_none()));
    }
    edit(data);
});

/// All lines but the first of our name, and whatever ends the last.
fn others(text: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    if let Some(at) = lines.iter().position(|line| field(line, 0) == NAME.as_bytes()) {
        lines.remove(at);
    }
    lines
}

fn edit(text: &[u8]) {
    let line = b"kubernetes:x:999:999::/etc/kubernetes:/usr/sbin/nologin";
    if let Some(put) = put_line(text, NAME, line) {
        assert_eq!(find_line(&put, NAME).map(|(_, line)| line), Some(&line[..]));
        assert_eq!(others(&put), others(text));
        assert_eq!(put_line(&put, NAME, line), None, "it is there");
        if find_line(text, NAME).is_none() {
            assert_eq!(without_line(&put, NAME).as_deref(), Some(text), "byte for byte");
        }
    }
    if let Some(without) = without_line(text, NAME) {
        assert_eq!(others(text), {
            let mut lines: Vec<&[u8]> = without.split(|byte| *byte == b'\n').collect();
            if lines.last().is_some_and(|last| last.is_empty()) {
                lines.pop();
            }
            lines
        });
    }
    let Some((_, line)) = find_line(text, NAME) else { return };
    let password = field(line, 1);
    let (locked, open) = (locked_password(password, true), locked_password(password, false));
    assert!(locked.starts_with(b"!") && !open.starts_with(b"!"));
    assert!(!open.is_empty() || password.is_empty(), "nobody is let in without a password");
    assert_eq!(locked_password(&locked, true), locked);
    let members = field(line, 3);
    let joined = with_member(members, b"me", true);
    assert!(joined.split(|byte| *byte == b',').any(|member| member == b"me"));
    let left = with_member(&joined, b"me", false);
    assert!(!left.split(|byte| *byte == b',').any(|member| member == b"me"));
    assert!(joined == members || left == members, "byte for byte");
    let with = with_field(line, 3, &joined);
    assert!(field(&with, 0) == field(line, 0) && field(&with, 1) == password);
}
