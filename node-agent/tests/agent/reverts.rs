//! What is taken out of a spec, and what is left when all of it is: as it was before, and nothing of others is touched.

use serde_json::{Value, json};
use sha2::Digest;

use crate::support::{Machine, lines, request};

const UNIT: &str = "[Service]\nExecStart=/x\n[Install]\nWantedBy=a.target\n";

fn everything() -> Value {
    json!({
        "groups": [{"name": "k"}],
        "users": [{"name": "k", "home": "/etc/k"}],
        "directories": [
            {"path": "/etc/k", "owner": "k", "group": "k", "recursive": true},
            {"path": "/etc/k/deep", "owner": "k", "group": "k", "mode": "0700"},
        ],
        "files": [
            {"path": "/etc/k/deep/f", "content": "x", "owner": "k", "mode": "0600"},
            {"path": "/etc/motd", "content": "ours"},
        ],
        "units": [{"name": "k.service", "content": UNIT, "enabled": true, "active": true}],
    })
}

/// A machine on which some of it is there already, and different.
fn used() -> Machine {
    let machine = Machine::new();
    machine.write("/etc/motd", "theirs");
    machine.set("/etc/motd", 1, 50, 0o640);
    machine.directory("/etc/k/old");
    machine.write("/etc/k/old/data", "data");
    machine.set("/etc/k/old/data", 77, 77, 0o4755);
    machine.link("/etc/k/link", "/etc/passwd");
    machine
}

#[tokio::test]
async fn reverted_the_host_is_as_it_was_before() {
    let machine = used();
    let before = machine.tree();
    machine.apply(&request(everything())).await.unwrap();
    assert_ne!(machine.tree(), before);
    assert_eq!(machine.read("/etc/motd"), "ours");
    let made = machine.revert("workers").await.unwrap();
    assert_eq!(machine.tree(), before, "{made:?}");
    assert!(made.iter().all(|change| !change.is_left()), "{made:?}");
    let asked = machine.systemd.take_asked();
    assert!(
        asked.ends_with(&["disable k.service", "stop k.service", "reload"].map(str::to_owned)),
        "{asked:?}"
    );
    let state = machine.untouched().into_keys().filter(|path| path.contains("lib/nodebootstrap/workers"));
    assert_eq!(state.count(), 0, "nothing is kept of it");
}

#[tokio::test]
async fn killed_at_any_change_of_a_revert_the_next_one_finishes() {
    let machine = used();
    let before = machine.tree();
    machine.apply(&request(everything())).await.unwrap();
    let all = machine.revert("workers").await.unwrap().len();
    assert!(all > 8, "{all}");
    for killed_after in 0..all {
        let machine = used();
        machine.apply(&request(everything())).await.unwrap();
        assert!(machine.revert_until("workers", killed_after).await.unwrap_err().is_stop());
        machine.revert("workers").await.unwrap();
        assert_eq!(machine.tree(), before, "after {killed_after}");
    }
}

#[tokio::test]
async fn a_mode_inside_a_directory_goes_with_its_entry_though_the_one_above_keeps_the_owners() {
    let machine = Machine::new();
    machine.directory("/d/a/b");
    let above = json!({"path": "/d", "owner": "1000", "recursive": true});
    let below = json!({"path": "/d/a", "recursive": true, "inside": {"directoryMode": "0750"}});
    machine.apply(&request(json!({"directories": [above, below]}))).await.unwrap();
    machine.apply(&request(json!({"directories": [above]}))).await.unwrap();
    let gone = machine.tree();
    let other = Machine::new();
    other.directory("/d/a/b");
    other.apply(&request(json!({"directories": [above]}))).await.unwrap();
    assert_eq!(gone, other.tree());
}

#[tokio::test]
async fn an_entry_that_leaves_the_spec_takes_only_its_own_with_it() {
    let machine = used();
    machine.apply(&request(everything())).await.unwrap();
    let mut less = everything();
    less["files"] = json!([]);
    let made = machine.apply(&request(less.clone())).await.unwrap();
    assert_eq!(
        lines(&made),
        ["file /etc/k/deep/f: remove", "file /etc/motd: content, daemon:staff 0640 as before"]
    );
    assert_eq!((machine.read("/etc/motd").as_str(), machine.access("/etc/motd")), ("theirs", (1, 50, 0o640)));
    assert!(machine.is_there("/etc/k/deep") && machine.plan(&request(less)).await.is_empty());

    // Named again, it is theirs that is known still.
    machine.apply(&request(everything())).await.unwrap();
    machine.revert("workers").await.unwrap();
    assert_eq!(machine.tree(), used().tree());
}

#[tokio::test]
async fn what_others_have_changed_since_is_left_and_said() {
    let machine = used();
    machine.apply(&request(everything())).await.unwrap();
    machine.write("/etc/motd", "changed by hand");
    machine.write("/etc/k/deep/theirs", "put there by hand");
    machine.set("/etc/k/deep/theirs", 0, 0, 0o644);
    let passwd = machine.read("/etc/passwd").replace("k:x", "ann:x:1000:1000::/home/ann:/bin/sh\nk:x");
    machine.write("/etc/passwd", &passwd);
    machine.write("/etc/elsewhere", "of k");
    let uid = machine.uid("k");
    machine.set("/etc/elsewhere", uid, 0, 0o644);
    let made = machine.revert("workers").await.unwrap();
    let left: Vec<_> = lines(made.iter().filter(|change| change.is_left()));
    assert_eq!(
        left,
        [
            "file /etc/motd: left as it is: something else has changed it since",
            "directory /etc/k/deep: left as it is: something else is in it",
            "user k: left as it is: /etc/elsewhere belongs to it",
            "group k: left as it is: /etc/k/deep belongs to it",
        ]
    );
    assert_eq!(machine.read("/etc/motd"), "changed by hand");
    assert!(
        machine.read("/etc/passwd").contains("ann:x:1000") && machine.read("/etc/passwd").contains("k:x")
    );
}

#[tokio::test]
async fn what_was_there_as_it_shall_be_stays() {
    let machine = Machine::new();
    machine.write("/etc/motd", "ours");
    let spec = |content: &str| {
        request(json!({"files": [{"path": "/etc/motd", "content": content}], "groups": [{"name": "staff"}]}))
    };
    let before = machine.tree();
    assert!(machine.apply(&spec("ours")).await.unwrap().is_empty());
    // Somebody removes it, and we make it again: it is theirs still.
    std::fs::remove_file(machine.path("/etc/motd")).unwrap();
    machine.apply(&spec("ours")).await.unwrap();
    assert!(machine.revert("workers").await.unwrap().is_empty());
    assert_eq!(machine.tree(), before);
    // Changed by an edit of the spec, it is put back.
    machine.apply(&spec("ours")).await.unwrap();
    machine.apply(&spec("new")).await.unwrap();
    assert_eq!(
        lines(&machine.revert("workers").await.unwrap()),
        ["file /etc/motd: content, root:root 0644 as before"]
    );
    assert_eq!(machine.tree(), before);
}

#[tokio::test]
async fn deleted_with_retain_it_still_knows_what_it_made() {
    let machine = used();
    let before = machine.tree();
    machine.apply(&request(everything())).await.unwrap();
    let after = machine.tree();
    node_agent::engine::give_up(&machine.host(), "workers").unwrap();
    // One of the same name that claims less takes nothing away that was left on purpose.
    let less = request(json!({"groups": [{"name": "k"}]}));
    assert!(machine.apply(&less).await.unwrap().is_empty());
    assert_eq!(machine.tree(), after);
    // By hand all of it is put back.
    machine.revert_by_hand("workers").await.unwrap();
    assert_eq!(machine.tree(), before);
}

#[tokio::test]
async fn from_the_pod_nothing_is_taken_that_the_pod_runs_under() {
    let machine = Machine::new();
    let spec = || {
        request(json!({
            "files": [{"path": "/usr/local/sbin/kubelet", "content": "program"}, {"path": "/etc/other", "content": "x"}],
            "units": [{"name": "kubelet.service", "content": "[Service]\nExecStart=/usr/local/sbin/kubelet --v=2\n", "active": true}],
        }))
    };
    let before = machine.tree();
    machine.apply(&spec()).await.unwrap();
    let made = machine.revert("workers").await.unwrap();
    let left: Vec<_> =
        made.iter().filter(|change| change.is_left()).map(|change| change.resource.as_str()).collect();
    assert_eq!(
        left,
        ["file /etc/systemd/system/kubelet.service", "file /usr/local/sbin/kubelet", "unit kubelet.service"]
    );
    assert!(machine.is_there("/usr/local/sbin/kubelet") && !machine.is_there("/etc/other"));
    assert!(!machine.systemd.take_asked().iter().any(|asked| asked.starts_with("stop")));

    machine.apply(&spec()).await.unwrap();
    // What was left counts as having been there before; only a fresh machine shows the rest.
    let machine = Machine::new();
    machine.apply(&spec()).await.unwrap();
    machine.revert_by_hand("workers").await.unwrap();
    assert_eq!(machine.tree(), before);
    assert!(machine.systemd.take_asked().contains(&"stop kubelet.service".to_owned()));
}

#[tokio::test]
async fn from_the_pod_a_runtime_stays_with_all_of_it_and_one_that_lies_over_another_goes() {
    let spec = || {
        let file = |path: &str| json!({"path": path, "content": "root = '/etc/key'", "onChange": {"restart": ["containerd.service"]}});
        let unit = "# It starts containers by /usr/local/sbin/runc.\n[Service]\nExecStart=/usr/local/sbin/containerd\n";
        request(json!({
            "files": [
                file("/usr/local/sbin/containerd"), file("/usr/local/sbin/containerd-shim-runc-v2"), file("/etc/config.toml"),
                {"path": "/usr/local/sbin/runc", "content": "runc"}, {"path": "/etc/other", "content": "x"},
                // Its configuration names it.
                {"path": "/etc/key", "content": "x"},
            ],
            "units": [{"name": "containerd.service", "content": unit, "active": true}],
        }))
    };
    let machine = Machine::new();
    machine.apply(&spec()).await.unwrap();
    let made = machine.revert("workers").await.unwrap();
    let gone: Vec<_> =
        made.iter().filter(|change| !change.is_left()).map(|change| change.resource.as_str()).collect();
    assert_eq!(gone, ["file /etc/other"]);

    // The distribution's own ran before, and runs again.
    let machine = Machine::new();
    let vendor = "/usr/lib/systemd/system/containerd.service";
    machine.directory("/usr/lib/systemd/system");
    machine.write(vendor, "[Service]\nExecStart=/usr/bin/containerd\n");
    machine.systemd.set("containerd.service", "active");
    let before = machine.tree();
    machine.apply(&spec()).await.unwrap();
    machine.systemd.take_asked();
    let made = machine.revert("workers").await.unwrap();
    assert!(made.iter().all(|change| !change.is_left()), "{made:?}");
    assert_eq!(machine.tree(), before);
    let asked = machine.systemd.take_asked();
    assert_eq!(asked, ["reload", "restart containerd.service"]);
}

#[tokio::test]
async fn units_run_with_what_was_put_back() {
    let machine = Machine::new();
    machine.write("/etc/app.conf", "theirs");
    machine.systemd.set("app.service", "active");
    machine.write("/etc/systemd/system/app.service", UNIT);
    let spec = json!({"files": [{"path": "/etc/app.conf", "content": "ours", "onChange": {"restart": ["app.service"]}}]});
    machine.apply(&request(spec)).await.unwrap();
    assert_eq!(machine.systemd.take_asked(), ["restart app.service"]);
    let made = machine.revert("workers").await.unwrap();
    assert_eq!(machine.systemd.take_asked(), ["restart app.service"]);
    assert_eq!(made.iter().map(|change| change.disruption).max(), Some(crds::report::Disruption::Restart));
    assert_eq!(machine.read("/etc/app.conf"), "theirs");
}

#[tokio::test]
async fn a_damaged_ledger_stops_everything_and_says_what_to_do() {
    let machine = used();
    let spec = request(everything());
    machine.apply(&spec).await.unwrap();
    let path = "/var/lib/nodebootstrap/workers/ledger.json";
    assert_eq!(machine.access(path), (0, 0, 0o600));
    let good = machine.read(path);
    let tree = machine.tree();
    for (bad, says) in [
        (good[..good.len() / 2].to_owned(), "it was cut or changed"),
        (good.replace("\"format\":1", "\"format\":2"), "format 2 is not 1"),
    ] {
        machine.write(path, &bad);
        let plan = machine.plan(&spec).await;
        assert_eq!(crate::support::reasons(&plan), ["state: LedgerDamaged"]);
        assert!(plan.problems[0].message.contains(says), "{:?}", plan.problems);
        assert!(node_agent::engine::revert(&machine.host(), "workers", true).is_err());
        assert_eq!(machine.tree(), tree);
    }
    // What is no file is not one that is not there.
    std::fs::remove_file(machine.path(path)).unwrap();
    for (make, says) in
        [("mkdir", "it is a directory"), ("mkfifo", "socket or pipe"), ("ln", "symbolic link")]
    {
        match make {
            "ln" => machine.link(path, "/nowhere"),
            make => {
                assert!(std::process::Command::new(make).arg(machine.path(path)).status().unwrap().success())
            }
        }
        let plan = machine.plan(&spec).await;
        assert_eq!(crate::support::reasons(&plan), ["state: LedgerDamaged"]);
        let message = &plan.problems[0].message;
        assert!(message.contains(says) && message.contains("restore it from a backup"), "{message}");
        assert!(node_agent::engine::revert(&machine.host(), "workers", true).is_err());
        assert!(
            std::process::Command::new("rm").arg("-d").arg(machine.path(path)).status().unwrap().success()
        );
    }
}

#[tokio::test]
async fn what_somebody_writes_while_a_run_is_under_way_is_not_lost() {
    let machine = Machine::new();
    machine.write("/opt/image", "program");
    let digest = hex::encode(sha2::Sha256::digest("program"));
    let archive = crate::archives::Tar::default().file("c", "ours").end();
    let packed = hex::encode(sha2::Sha256::digest(&archive));
    std::fs::write(machine.path("/opt/image.tar"), archive).unwrap();
    let of = |url: &str, digest: &str| json!({"url": url, "sha256": {"amd64": digest, "arm64": digest}});
    let with = |mut entry: Value, more: Value| {
        entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        entry
    };
    let begin = json!({"path": "/etc/a", "content": "begin"});
    for (path, spec) in [
        ("/etc/f", json!({"files": [begin, {"path": "/etc/f", "content": "ours"}]})),
        (
            "/opt/b",
            json!({"files": [begin], "binaries": [with(of("file:///opt/image", &digest), json!({"path": "/opt/b"}))]}),
        ),
        (
            "/opt/c",
            json!({
                "files": [begin],
                "archives": [with(of("file:///opt/image.tar", &packed), json!({"name": "c", "into": "/opt"}))],
            }),
        ),
    ] {
        let spec = request(spec);
        machine.fetch(&spec).await;
        machine.write(path, "theirs");
        let during = |change: &node_agent::engine::Change| {
            if change.resource == "file /etc/a" {
                machine.write(path, "written meanwhile");
            }
        };
        let failure = machine.apply_with(&spec, during).await.unwrap_err();
        assert_eq!(failure.reason, "HostChanged", "{failure:?}");
        assert!(failure.message.contains(&format!("{path} is different from a moment ago")), "{failure:?}");
        assert_eq!((machine.read(path).as_str(), machine.leftovers()), ("written meanwhile", Vec::new()));
        // The next run takes it as what was there before.
        machine.apply(&spec).await.unwrap();
        assert_ne!(machine.read(path), "written meanwhile");
        machine.revert("workers").await.unwrap();
        assert_eq!(machine.read(path), "written meanwhile");

        // Nor is it lost while what is ours is taken back.
        std::fs::remove_file(machine.path(path)).unwrap();
        machine.apply(&spec).await.unwrap();
        let revert = node_agent::engine::revert(&machine.host(), "workers", true).unwrap();
        let failure = machine.apply_with(&revert, during).await.unwrap_err();
        assert_eq!(failure.reason, "HostChanged", "{failure:?}");
        let made = machine.revert("workers").await.unwrap();
        assert!(made.iter().any(|change| change.is_left()), "{made:?}");
        assert_eq!(machine.read(path), "written meanwhile");
        std::fs::remove_file(machine.path(path)).unwrap();
    }
}

fn recursive(owner: &str) -> Value {
    json!({
        "groups": [{"name": "k"}],
        "users": [{"name": "k"}],
        "directories": [{"path": "/srv/app", "owner": owner, "group": "k", "recursive": true}],
    })
}

fn app() -> Machine {
    let machine = Machine::new();
    machine.directory("/srv/app");
    machine.write("/srv/app/f", "theirs");
    machine
}

#[tokio::test]
async fn a_set_uid_program_whose_owner_between_wrote_to_it_is_none_afterwards() {
    let machine = app();
    machine.write("/srv/app/helper", "good");
    machine.set("/srv/app/helper", 0, 0, 0o4755);
    machine.apply(&request(recursive("k"))).await.unwrap();
    std::fs::write(machine.path("/srv/app/helper"), "evil").unwrap();
    machine.revert("workers").await.unwrap();
    assert_eq!(machine.access("/srv/app/helper"), (0, 0, 0o755));
}

#[tokio::test]
async fn names_that_are_no_text_get_owner_and_mode_as_all_others_and_have_theirs_back() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

    let machine = app();
    let at = |name: &[u8]| machine.path("/srv/app").join(OsStr::from_bytes(name));
    std::fs::create_dir(at(b"d\xff")).unwrap();
    // Two of them look the same when they are shown as text.
    let before = [
        (&b"d\xff"[..], (7, 7, 0o711)),
        (b"d\xff/f\xfe", (8, 8, 0o4755)),
        (b"d\xff/f\xff", (9, 9, 0o600)),
        (b"g\xc3(", (10, 10, 0o644)),
    ];
    for (name, (uid, gid, mode)) in before {
        if !at(name).exists() {
            std::fs::write(at(name), name).unwrap();
        }
        chown(at(name), Some(uid), Some(gid)).unwrap();
        std::fs::set_permissions(at(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    let access = || {
        before.map(|(name, _)| {
            let meta = at(name).metadata().unwrap();
            (name, (meta.uid(), meta.gid(), meta.mode() & 0o7777))
        })
    };
    let mut spec = recursive("k");
    spec["directories"][0]["inside"] = json!({"fileMode": "0640", "directoryMode": "0750"});
    let spec = request(spec);
    machine.apply(&spec).await.unwrap();
    let k = machine.uid("k");
    assert_eq!(
        access().map(|(_, access)| access),
        [(k, k, 0o750), (k, k, 0o640), (k, k, 0o640), (k, k, 0o640)]
    );
    assert!(machine.plan(&spec).await.is_empty());
    // Somebody gives one of them to another.
    chown(at(b"g\xc3("), Some(11), Some(11)).unwrap();
    machine.apply(&spec).await.unwrap();
    assert!(machine.plan(&spec).await.is_empty(), "drift of it is repaired");
    let made = machine.revert("workers").await.unwrap();
    assert_eq!(access(), before, "{made:?}");
    assert!(!made.iter().any(|change| change.is_left()), "{made:?}");
}

#[tokio::test]
async fn an_edit_that_was_killed_or_failed_does_not_forget_what_was_there_first() {
    let with = |content: &str| {
        request(
            json!({"files": [{"path": "/etc/motd", "content": content}, {"path": "/etc/new", "content": content}]}),
        )
    };
    for finished_before in [false, true] {
        let machine = Machine::new();
        machine.write("/etc/motd", "theirs");
        let before = machine.tree();
        machine.apply(&with("one")).await.unwrap();
        machine.apply_until(&with("two"), 0).await.unwrap_err();
        machine.apply_until(&with("three"), 1).await.unwrap_err();
        if finished_before {
            machine.apply(&with("three")).await.unwrap();
        }
        let made = machine.revert("workers").await.unwrap();
        assert!(made.iter().all(|change| !change.is_left()), "{made:?}");
        assert_eq!(machine.tree(), before);
    }
}

#[tokio::test]
async fn what_a_recursive_directory_gave_away_goes_back_to_who_had_it_first() {
    let file = json!([{"path": "/srv/app/f", "content": "ours"}]);
    let entry = || json!({"files": file.clone()});
    let both = |owner| {
        let mut both = recursive(owner);
        both["files"] = file.clone();
        both
    };
    for edits in [
        vec![recursive("k"), entry()],
        vec![recursive("k"), entry(), recursive("k")],
        vec![both("k"), recursive("daemon"), both("k")],
        vec![both("k"), recursive("daemon"), entry()],
        vec![recursive("k"), recursive("daemon")],
    ] {
        let machine = app();
        let before = machine.tree();
        for edit in &edits {
            machine.apply(&request(edit.clone())).await.unwrap();
        }
        machine.revert("workers").await.unwrap();
        assert_eq!(machine.tree(), before, "{edits:?}");
    }
    // Nested directories, also where nothing changes when one comes or goes. The last number: how far the last edit comes.
    let rec = |path: &str, owner: &str| json!({"path": path, "owner": owner, "recursive": true});
    let nested = |outer, inner| json!([rec("/srv/app", outer), rec("/srv/app/b", inner)]);
    let alone = |owner| json!([rec("/srv/app", owner)]);
    let modes = |mode: &str| {
        let mut outer = rec("/srv/app", "daemon");
        outer["inside"] = json!({"fileMode": mode});
        outer
    };
    for (edits, changes) in [
        (vec![alone("daemon"), nested("7", "daemon")], usize::MAX),
        (vec![alone("daemon"), nested("7", "daemon")], 0),
        (vec![alone("daemon"), nested("7", "daemon"), alone("7")], usize::MAX),
        (vec![alone("daemon"), nested("7", "daemon"), alone("daemon")], usize::MAX),
        (vec![alone("daemon"), nested("7", "daemon"), nested("7", "root")], usize::MAX),
        (vec![alone("daemon"), nested("7", "root")], 0),
        (vec![alone("daemon"), nested("7", "root")], 1),
        (vec![alone("daemon"), nested("daemon", "daemon"), json!([rec("/srv/app/b", "daemon")])], usize::MAX),
        (vec![json!([modes("0640")]), json!([modes("0600"), rec("/srv/app/b", "daemon")])], usize::MAX),
    ] {
        let machine = app();
        machine.directory("/srv/app/b");
        machine.write("/srv/app/b/tool", "root's");
        let before = machine.tree();
        let (last, first) = edits.split_last().unwrap();
        for edit in first {
            machine.apply(&request(json!({"directories": edit}))).await.unwrap();
        }
        let _ = machine.apply_until(&request(json!({"directories": last})), changes).await;
        machine.revert("workers").await.unwrap();
        assert_eq!(machine.tree(), before, "{edits:?}, {changes}");
    }
    // Killed while the owner changes from one to another.
    let machine = app();
    let before = machine.tree();
    machine.apply(&request(recursive("k"))).await.unwrap();
    machine.apply_until(&request(recursive("daemon")), 0).await.unwrap_err();
    machine.revert("workers").await.unwrap();
    assert_eq!(machine.tree(), before);
}

#[tokio::test]
async fn two_node_bootstraps_put_back_what_each_made_in_either_order() {
    let of = |name: &str, spec: Value| crate::support::try_request(name, spec, &Default::default()).unwrap();
    for order in [["a", "b"], ["b", "a"]] {
        let machine = app();
        let before = machine.tree();
        machine.apply(&of("a", recursive("k"))).await.unwrap();
        machine.apply(&of("b", json!({"files": [{"path": "/srv/app/f", "content": "ours"}]}))).await.unwrap();
        for name in order {
            machine.revert(name).await.unwrap();
            if name == "b" && order[0] == "b" {
                // What a has is inside its directory again.
                machine.apply(&of("a", recursive("k"))).await.unwrap();
            }
        }
        assert_eq!(machine.tree(), before, "{order:?}");
    }
    // What another one names is not taken away from it.
    let machine = app();
    let one = json!({"files": [{"path": "/etc/shared", "content": "x"}]});
    machine.apply(&of("a", one.clone())).await.unwrap();
    node_agent::engine::give_up(&machine.host(), "a").unwrap();
    machine.apply(&of("b", one)).await.unwrap();
    let made = machine.revert_by_hand("a").await.unwrap();
    assert_eq!(
        lines(&made),
        ["file /etc/shared: left as it is: another NodeBootstrap on this host names it"]
    );
    assert!(machine.is_there("/etc/shared"));
}

#[tokio::test]
async fn a_kept_content_that_is_not_what_it_was_is_not_put_back() {
    let machine = Machine::new();
    machine.write("/etc/motd", "theirs");
    machine.apply(&request(json!({"files": [{"path": "/etc/motd", "content": "ours"}]}))).await.unwrap();
    let kept =
        std::fs::read_dir(machine.path("/var/lib/nodebootstrap/workers/priors")).unwrap().next().unwrap();
    std::fs::write(kept.unwrap().path(), "their").unwrap();
    let made = machine.revert("workers").await.unwrap();
    assert_eq!(lines(&made), ["file /etc/motd: left as it is: what was there before was not kept"]);
    assert_eq!(machine.read("/etc/motd"), "ours");
}

#[tokio::test]
async fn what_is_of_another_kind_by_now_is_left_and_the_rest_goes() {
    let machine = Machine::new();
    machine.write("/etc/x", "theirs");
    machine.apply(&request(json!({"files": [{"path": "/etc/x", "content": "ours"}]}))).await.unwrap();
    std::fs::remove_file(machine.path("/etc/x")).unwrap();
    let spec = json!({"directories": [{"path": "/etc/x"}], "files": [{"path": "/etc/y", "content": "y"}]});
    machine.apply(&request(spec)).await.unwrap();
    let made = machine.revert("workers").await.unwrap();
    let left = made.iter().filter(|change| change.is_left()).map(|change| change.resource.as_str());
    let left: Vec<_> = left.collect();
    assert_eq!((left, machine.is_there("/etc/y")), (vec!["directory /etc/x"], false));
}

#[tokio::test]
async fn what_was_left_can_be_put_back_by_hand_when_nothing_is_in_the_way_any_more() {
    let machine = Machine::new();
    let before = machine.tree();
    let spec =
        json!({"groups": [{"name": "k"}], "users": [{"name": "k"}], "directories": [{"path": "/srv/d"}]});
    machine.apply(&request(spec)).await.unwrap();
    machine.write("/srv/d/theirs", "x");
    machine.set("/srv/d/theirs", machine.uid("k"), 0, 0o644);
    let made = machine.revert("workers").await.unwrap();
    assert_eq!(made.iter().filter(|change| change.is_left()).count(), 4, "{made:?}");
    std::fs::remove_file(machine.path("/srv/d/theirs")).unwrap();
    machine.revert_by_hand("workers").await.unwrap();
    assert_eq!(machine.tree(), before);
}

#[tokio::test]
async fn a_directory_that_was_moved_behind_a_link_keeps_what_the_spec_names() {
    let machine = Machine::new();
    machine.directory("/srv/app");
    machine.directory("/data");
    machine.write("/srv/app/f", "theirs");
    let spec = request(json!({"files": [{"path": "/srv/app/f", "content": "ours"}]}));
    machine.apply(&spec).await.unwrap();
    std::fs::rename(machine.path("/srv/app"), machine.path("/data/app")).unwrap();
    machine.link("/srv/app", "/data/app");
    assert!(machine.apply(&spec).await.unwrap().is_empty());
    assert_eq!(machine.read("/data/app/f"), "ours");
    machine.revert("workers").await.unwrap();
    assert_eq!(machine.read("/data/app/f"), "theirs");
}

#[tokio::test]
async fn what_something_is_mounted_on_is_left_and_the_rest_goes() {
    let machine = Machine::new();
    machine.write("/etc/motd", "theirs");
    let before = machine.tree();
    let file = |path: &str| json!({"path": path, "content": "ours"});
    let spec = json!({
        "directories": [{"path": "/opt/d"}, {"path": "/opt/e"}],
        "files": [file("/etc/motd"), file("/opt/f"), file("/opt/e/g")],
    });
    machine.apply(&request(spec)).await.unwrap();
    let mounted = ["/etc/motd", "/opt/d", "/opt/f"].map(|path| machine.bind(path));
    let made = machine.revert("workers").await.unwrap();
    let mut left: Vec<String> = lines(made.iter().filter(|change| change.is_left()));
    left.sort();
    assert_eq!(
        left,
        [
            "directory /opt/d: left as it is: something is mounted on it",
            "file /etc/motd: left as it is: something is mounted on it",
            "file /opt/f: left as it is: something is mounted on it",
        ]
    );
    assert!(!machine.is_there("/opt/e"));
    drop(mounted);
    machine.revert_by_hand("workers").await.unwrap();
    assert_eq!(machine.tree(), before);
}

#[tokio::test]
async fn a_directory_that_one_made_and_another_needs_goes_with_whoever_is_taken_off_last() {
    let of = |name: &str, spec: Value| crate::support::try_request(name, spec, &Default::default()).unwrap();
    let unnamed = json!({"directories": [{"path": "/opt/x/y/a"}]});
    let named =
        json!({"directories": [{"path": "/opt/x", "owner": "daemon", "mode": "0700"}, {"path": "/opt/x/y"}]});
    let drop_in = |name: &str| json!([{"path": format!("/etc/systemd/system/u.service.d/{name}"), "content": "[Service]\n"}]);
    for (first, order) in
        [(&unnamed, ["a", "b"]), (&unnamed, ["b", "a"]), (&named, ["a", "b"]), (&named, ["b", "a"])]
    {
        let machine = Machine::new();
        machine.directory("/usr/lib/systemd/system");
        machine.write("/usr/lib/systemd/system/u.service", "[Service]\n");
        let before = machine.tree();
        let (mut a, mut b) = (first.clone(), json!({"directories": [{"path": "/opt/x/y/b/c"}]}));
        (a["files"], b["files"]) = (drop_in("a.conf"), drop_in("b.conf"));
        machine.apply(&of("a", a.clone())).await.unwrap();
        machine.apply(&of("b", b.clone())).await.unwrap();
        let tree = machine.tree();
        // Neither changes what the other one has.
        for spec in [of("a", a), of("b", b.clone())] {
            assert_eq!(lines(&machine.apply(&spec).await.unwrap()), Vec::<String>::new());
        }
        // One names it for a while: then it has what that says, and again what it had.
        let mut with = b.clone();
        with["directories"].as_array_mut().unwrap().push(json!({"path": "/opt/x/y", "mode": "0711"}));
        if *first == unnamed {
            machine.apply(&of("b", with)).await.unwrap();
            assert_eq!(machine.access("/opt/x/y").2, 0o711);
            machine.apply(&of("b", b)).await.unwrap();
        }
        assert_eq!(machine.tree(), tree);
        for name in order {
            let made = machine.revert(name).await.unwrap();
            assert!(!made.iter().any(|change| change.is_left()), "{order:?}: {made:?}");
            assert!(
                !machine.is_there(&format!("/var/lib/nodebootstrap/{name}")),
                "nothing more is known of it"
            );
        }
        assert_eq!(machine.tree(), before, "{order:?}");
    }
    // What somebody else has put there is left and said, by the last.
    let machine = Machine::new();
    machine.apply(&of("a", unnamed)).await.unwrap();
    machine.apply(&of("b", json!({"directories": [{"path": "/opt/x/b"}]}))).await.unwrap();
    machine.write("/opt/x/theirs", "x");
    assert!(!machine.revert("a").await.unwrap().iter().any(|change| change.is_left()));
    let made = machine.revert("b").await.unwrap();
    assert!(
        lines(&made).contains(&"directory /opt/x: left as it is: something else is in it".to_owned()),
        "{made:?}"
    );
}
