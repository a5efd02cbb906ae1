//! What gives somebody more than owner, group and mode say: ACLs and capabilities; and hard links.

use std::time::Duration;

use node_agent::engine;
use node_agent::host::notify::Notify;
use serde_json::{Value, json};

use crate::archives::Tar;
use crate::support::{ACL, CAPABILITY, Machine, PASSWD, lines, request};

#[tokio::test]
async fn extended_attributes_of_a_file_that_is_replaced_are_told_and_come_back() {
    let machine = Machine::on_disk();
    let all = [CAPABILITY, ACL, "user.note"];
    for path in ["/etc/f", "/etc/g", "/etc/passwd"] {
        machine.write(path, if path == "/etc/passwd" { PASSWD } else { "theirs" });
        all.iter().for_each(|name| machine.grant(path, name));
    }
    let before = machine.tree();
    let spec = request(json!({
        "groups": [{"name": "k"}],
        "users": [{"name": "k"}],
        "files": [{"path": "/etc/f", "content": "ours"}, {"path": "/etc/g", "content": "theirs", "owner": "daemon"}],
    }));
    let made = machine.apply(&spec).await.unwrap();
    assert_eq!(
        lines(&made)[2..],
        [
            "file /etc/f: content, without extended attributes: security.capability, system.posix_acl_access, user.note",
            "file /etc/g: owner root to daemon, without extended attributes: security.capability, system.posix_acl_access",
        ]
    );
    assert!(machine.granted("/etc/f").is_empty());
    assert_eq!(machine.granted("/etc/passwd"), all, "accounts are the host's own");
    assert_eq!(machine.granted("/etc/g"), ["user.note"], "that gives nobody anything");
    machine.revert("workers").await.unwrap();
    assert_eq!(machine.tree(), before);
}

#[tokio::test]
async fn a_default_acl_of_a_directory_gives_nobody_more_than_the_mode_says() {
    let machine = Machine::on_disk();
    machine.directory("/opt/d");
    machine.grant("/opt/d", "system.posix_acl_default");
    machine.write("/opt/d/hosts", "theirs\n");
    std::fs::write(machine.path("/opt/d/kept"), "theirs\n").unwrap();
    let has_acl = |path: &str| rustix::fs::getxattr(machine.path(path), ACL, &mut [0; 64][..]).is_ok();
    // One that was made with the ACL of its directory, and one that has none.
    assert_eq!(["/opt/d/hosts", "/opt/d/kept"].map(has_acl), [true, true]);
    rustix::fs::removexattr(machine.path("/opt/d/hosts"), ACL).unwrap();
    let part = |path: &str| json!({"path": path, "name": "a", "block": "ours"});
    let spec = request(json!({
        "directories": [{"path": "/opt/d/new", "mode": "0750"}],
        "files": [{"path": "/opt/d/secret", "content": "x", "mode": "0640"}],
        "fileParts": [part("/opt/d/hosts"), part("/opt/d/kept")],
    }));
    machine.apply(&spec).await.unwrap();
    assert_eq!((machine.access("/opt/d/new").2, machine.access("/opt/d/secret").2), (0o750, 0o640));
    assert_eq!(["/opt/d/new", "/opt/d/secret", "/opt/d/hosts"].map(has_acl), [false; 3]);
    assert!(has_acl("/opt/d/kept"), "what a file that others own has is kept");
    assert!(machine.plan(&spec).await.is_empty());
}

/// A file, a program and an archive with a file.
fn files(machine: &Machine) -> Value {
    use sha2::Digest;
    machine.directory("/srv");
    let tar = Tar::default().file("tool", "t").end();
    let digest = |bytes: &[u8]| {
        let digest = hex::encode(sha2::Sha256::digest(bytes));
        json!({"amd64": digest, "arm64": digest})
    };
    std::fs::write(machine.path("/srv/a.tar"), &tar).unwrap();
    machine.write("/srv/program", "p");
    json!({
        "directories": [{"path": "/opt/d"}],
        "files": [{"path": "/etc/f", "content": "ours"}],
        "binaries": [{"path": "/opt/program", "url": "file:///srv/program", "sha256": digest(b"p"), "mode": "0644"}],
        "archives": [{"name": "a", "url": "file:///srv/a.tar", "sha256": digest(&tar), "into": "/opt/d"}],
    })
}

#[tokio::test]
async fn what_somebody_grants_on_a_file_of_ours_is_drift() {
    let machine = Machine::new();
    let spec = request(files(&machine));
    let host = machine.host();
    machine.apply_on(&host, &spec).await.unwrap();
    let made = machine.tree();
    let paths = ["/etc/f", "/opt/program", "/opt/d/tool"];
    // As the pod is: with all that it has seen so far in memory.
    assert!(engine::plan(&host, &spec).await.unwrap().is_empty());
    for path in paths {
        machine.grant(path, ACL);
        machine.grant(path, CAPABILITY);
    }
    machine.grant("/opt/d", ACL);
    machine.set("/opt/d", 0, 0, 0o755);
    let plan = engine::plan(&host, &spec).await.unwrap();
    let names = "security.capability, system.posix_acl_access";
    assert_eq!(
        lines(plan.changes()),
        [
            format!("file /etc/f: without extended attributes: {names}"),
            format!("binary /opt/program: without extended attributes: {names}"),
            format!("archive a: rights to tool in /opt/d, without extended attributes: {names}"),
        ]
    );
    let found: Vec<&str> = plan.changes().map(|change| change.found.as_str()).collect();
    let had = format!("had extended attributes: {names}");
    assert_eq!(found, [&had, &had, "had extended attributes on tool"]);
    machine.apply_on(&host, &spec).await.unwrap();
    assert!(paths.iter().all(|path| machine.granted(path).is_empty()));
    let on_directory = rustix::fs::getxattr(machine.path("/opt/d"), ACL, &mut [0; 64][..]);
    assert!(on_directory.is_ok(), "there others may grant something: systemd does");
    assert!(machine.plan(&spec).await.is_empty());
    rustix::fs::removexattr(machine.path("/opt/d"), ACL).unwrap();
    assert_eq!(machine.tree(), made);
}

#[tokio::test]
async fn what_a_file_granted_that_was_there_as_it_shall_be_comes_back() {
    for wait in [false, true] {
        let machine = Machine::new();
        machine.write("/etc/f", "ours");
        machine.grant("/etc/f", ACL);
        machine.grant("/etc/f", CAPABILITY);
        let before = machine.tree();
        let mut spec = request(json!({"files": [{"path": "/etc/f", "content": "ours"}]}));
        if wait {
            // At first it is left as it is.
            spec.leave.insert("file /etc/f".to_owned());
            assert!(machine.apply(&spec).await.unwrap().is_empty());
            assert_eq!(machine.tree(), before);
            spec.leave.clear();
        }
        machine.apply(&spec).await.unwrap();
        assert!(machine.granted("/etc/f").is_empty());
        // What is granted later is drift, and not what was there before.
        rustix::fs::setxattr(
            machine.path("/etc/f"),
            CAPABILITY,
            b"\x01\0\0\x02\xff\xff\xff\xff\0\0\0\0\0\0\0\0\0\0\0\0",
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
        machine.apply(&spec).await.unwrap();
        machine.revert("workers").await.unwrap();
        assert_eq!(machine.tree(), before, "{wait}");
    }
}

#[tokio::test]
async fn what_is_granted_is_noticed_as_any_change_of_a_file() {
    let machine = Machine::new();
    machine.write("/etc/f", "ours");
    let mut notify = Notify::new().unwrap();
    notify.watch(&machine.root(), &["/etc/f".to_owned()].into()).unwrap();
    for name in [ACL, CAPABILITY] {
        assert!(!notify.drain());
        machine.grant("/etc/f", name);
        tokio::time::timeout(Duration::from_secs(1), notify.touched()).await.expect("it is told");
    }
}

#[tokio::test]
async fn capabilities_that_go_with_another_owner_are_told_and_come_back_with_the_same_content() {
    let machine = Machine::new();
    machine.directory("/srv/app/bin");
    for name in ["a", "b", "c", "d", "e"] {
        let path = format!("/srv/app/bin/{name}");
        machine.write(&path, "good");
        machine.grant(&path, ACL);
        if name != "e" {
            machine.set(&path, 0, 0, 0o4644);
            machine.grant(&path, CAPABILITY);
        }
    }
    let mut before = machine.tree();
    let spec = request(json!({
        "groups": [{"name": "k"}],
        "users": [{"name": "k"}],
        "directories": [{"path": "/srv/app", "owner": "k", "group": "k", "recursive": true}],
    }));
    let made = machine.apply(&spec).await.unwrap();
    assert_eq!(
        lines(&made)[2],
        "directory /srv/app: owner of 6 entries inside to k:k, without extended attributes: security.capability of \
         /srv/app/bin/a, /srv/app/bin/b, /srv/app/bin/c and 1 more"
    );
    assert_eq!(machine.granted("/srv/app/bin/a"), [ACL], "as chown has it");
    std::fs::write(machine.path("/srv/app/bin/b"), "evil").unwrap();
    machine.revert("workers").await.unwrap();
    let changed = before.get_mut("srv/app/bin/b").unwrap();
    *changed =
        changed.replace("good", "evil").replace("\"security.capability\", ", "").replace("104644", "100644");
    assert_eq!(machine.tree(), before);
}

#[tokio::test]
async fn a_program_gets_its_rights_back_also_after_an_entry_of_its_own() {
    use crate::support::try_request;

    let program = || {
        let machine = Machine::new();
        machine.directory("/srv/app");
        machine.write("/srv/app/p", "theirs");
        machine.set("/srv/app/p", 0, 0, 0o4755);
        machine.grant("/srv/app/p", CAPABILITY);
        machine
    };
    let alone = json!({"directories": [{"path": "/srv/app", "owner": "daemon", "recursive": true}]});
    let file = |content: &str| json!([{"path": "/srv/app/p", "content": content, "owner": "daemon", "mode": "0755"}]);
    let entry = |content: &str| json!({"files": file(content)});
    let both = |content: &str| {
        let mut both = alone.clone();
        both["files"] = file(content);
        both
    };
    for edits in [
        vec![alone.clone(), both("ours")],
        vec![alone.clone(), both("theirs")],
        vec![alone.clone(), both("ours"), alone.clone()],
        vec![alone.clone(), both("theirs"), alone.clone()],
        vec![both("ours"), alone.clone(), both("ours"), entry("ours")],
        vec![alone.clone(), entry("ours")],
        vec![alone.clone(), entry("theirs"), alone.clone()],
    ] {
        let machine = program();
        let before = machine.tree();
        for edit in &edits {
            machine.apply(&request(edit.clone())).await.unwrap();
            let now = machine.access("/srv/app/p");
            assert_eq!(now, (1, 0, 0o755), "another's it has none: {edits:?}");
        }
        machine.revert("workers").await.unwrap();
        assert_eq!(machine.tree(), before, "{edits:?}");
    }
    // The entry is another NodeBootstrap's.
    let machine = program();
    let before = machine.tree();
    for (name, spec) in [("a", alone.clone()), ("b", entry("ours"))] {
        machine.apply(&try_request(name, spec, &Default::default()).unwrap()).await.unwrap();
    }
    for name in ["a", "b"] {
        let made = machine.revert(name).await.unwrap();
        assert!(!made.iter().any(|change| change.is_left()), "{made:?}");
    }
    assert_eq!(machine.tree(), before);
    // What the owner between wrote, and bits of its own, are not root's afterwards.
    for content in ["theirs", "evil"] {
        let machine = program();
        machine.apply(&request(alone.clone())).await.unwrap();
        std::fs::write(machine.path("/srv/app/p"), "evil").unwrap();
        machine.set("/srv/app/p", 1, 0, 0o4755);
        machine.apply(&request(both(content))).await.unwrap();
        machine.revert("workers").await.unwrap();
        assert_eq!(machine.access("/srv/app/p"), (0, 0, 0o755));
        assert!(machine.granted("/srv/app/p").is_empty());
    }
}

#[tokio::test]
async fn the_mode_of_a_file_with_an_acl_comes_back_as_it_was_before_a_recursive_directory() {
    let machine = Machine::on_disk();
    machine.directory("/srv/app");
    machine.write("/srv/app/f", "theirs");
    machine.grant("/srv/app/f", ACL);
    machine.set("/srv/app/f", 1, 1, 0o670);
    let before = machine.tree();
    let mut spec = json!({"directories": [
        {"path": "/srv/app", "owner": "daemon", "group": "daemon", "recursive": true, "inside": {"fileMode": "0600"}},
    ]});
    machine.apply(&request(spec.clone())).await.unwrap();
    spec["files"] = json!([
        {"path": "/srv/app/f", "content": "theirs", "owner": "daemon", "group": "daemon", "mode": "0644"},
    ]);
    machine.apply(&request(spec.clone())).await.unwrap();
    machine.revert("workers").await.unwrap();
    assert_eq!(machine.access("/srv/app/f"), (1, 1, 0o670));
    assert_eq!(machine.tree(), before);
}

#[tokio::test]
async fn what_a_recursive_directory_does_not_give_back_is_said() {
    let machine = Machine::new();
    machine.directory("/srv/app");
    for name in ["a", "b", "c", "d"] {
        machine.write(&format!("/srv/app/{name}"), "theirs");
    }
    machine.set("/srv/app/a", 0, 0, 0o4755);
    let spec = json!({"directories": [{"path": "/srv/app", "owner": "daemon", "recursive": true}]});
    machine.apply(&request(spec)).await.unwrap();
    std::fs::write(machine.path("/srv/app/a"), "another's").unwrap();
    machine.set("/srv/app/b", 7, 7, 0o644);
    // Of modes it said nothing.
    machine.set("/srv/app/c", 1, 0, 0o600);
    let none = request(json!({}));
    assert_eq!(
        lines(machine.plan(&none).await.changes())[0],
        "directory /srv/app: owner of 3 entries inside as before, but for /srv/app/a and 1 more, which something else \
         has changed since"
    );
    let made = machine.revert("workers").await.unwrap();
    assert_eq!(
        lines(made.iter().filter(|change| change.is_left())),
        [
            "directory /srv/app: left as it is: /srv/app/a and 1 more inside is not as before: other hard links lead to it, \
             or something else has changed it since"
        ]
    );
    assert_eq!(
        ["a", "b", "c", "d"].map(|name| machine.access(&format!("/srv/app/{name}"))),
        [(0, 0, 0o755), (7, 7, 0o644), (0, 0, 0o600), (0, 0, 0o644)]
    );
    // It is known still, until it is as before, or its state is removed.
    let made = machine.revert_by_hand("workers").await.unwrap();
    assert_eq!(
        lines(&made),
        ["directory /srv/app: left as it is: something else has changed /srv/app/a and 1 more inside since"]
    );
    machine.set("/srv/app/b", 0, 0, 0o644);
    std::fs::write(machine.path("/srv/app/a"), "theirs").unwrap();
    machine.revert_by_hand("workers").await.unwrap();
    assert_eq!(machine.access("/srv/app/a"), (0, 0, 0o4755));
}

#[tokio::test]
async fn other_names_of_a_file_that_is_written_anew_keep_what_it_was_and_that_is_told() {
    let machine = Machine::new();
    let mut spec = files(&machine);
    spec["files"]
        .as_array_mut()
        .unwrap()
        .push(json!({"path": "/etc/g", "content": "theirs", "mode": "0600"}));
    for (path, others) in [("/etc/f", 2), ("/etc/g", 1), ("/opt/program", 1)] {
        machine.write(path, "theirs");
        for other in 0..others {
            std::fs::hard_link(machine.path(path), machine.path(&format!("{path}.{other}"))).unwrap();
        }
    }
    machine.grant("/etc/g", ACL);
    let made = machine.apply(&request(spec)).await.unwrap();
    assert_eq!(
        lines(&made)[1..4],
        [
            "file /etc/f: content, 2 other hard links keep what they were",
            "file /etc/g: mode 0644 to 0600, without extended attributes: system.posix_acl_access, its other hard link keeps what it was",
            "binary /opt/program: download file:///srv/program, its other hard link keeps what it was",
        ]
    );
    assert_eq!(machine.read("/etc/f.1"), "theirs");
    assert_eq!((machine.access("/etc/g.0").2, machine.granted("/etc/g.0")), (0o644, vec![ACL]));
}
