//! What gives somebody more than owner, group and mode say: ACLs and capabilities; and hard links.

use serde_json::json;

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
            "file /etc/g: owner root to daemon, without extended attributes: security.capability",
        ]
    );
    assert!(machine.granted("/etc/f").is_empty());
    assert_eq!(machine.granted("/etc/passwd"), all, "accounts are the host's own");
    assert_eq!(machine.granted("/etc/g"), [ACL, "user.note"]);
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
