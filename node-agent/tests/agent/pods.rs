//! The agent in its pod, against an API server that remembers what it was asked.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::Digest;

use crate::api::{Api, with_agent};
use crate::support::{ACL, Machine, request};

const HELLO: &str = "[Service]\nExecStart=/opt/hello\n[Install]\nWantedBy=multi-user.target\n";

async fn until_there(path: &Path) {
    let there = async {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), there)
        .await
        .unwrap_or_else(|_| panic!("{path:?} never came"));
}

fn seed() -> node_agent::engine::Request {
    request(json!({
        "groups": [{"name": "kubernetes"}],
        "directories": [{"path": "/etc/kubernetes", "group": "kubernetes"}, {"path": "/etc/kubernetes/pki", "mode": "0700"}],
        "files": [{"path": "/etc/kubernetes/f", "content": "x"}],
    }))
}

#[tokio::test]
async fn a_revision_takes_one_status_write_and_then_there_are_none() {
    let (machine, api) = (Machine::new(), Api::start().await);
    machine.write("/etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    let name = api.put(&seed(), None);
    api.tell(json!({"revision": name}));
    with_agent(&machine, &api, async {
        let status = api.until_phase("Ready").await;
        assert_eq!((&status["revision"], &status["message"]), (&json!(name), &json!("4 changes made")));
        assert_eq!(
            (&status["changesTotal"], &status["changes"][0]["resource"]),
            (&json!(4), &json!("group kubernetes"))
        );
        assert_eq!(
            (&status["nodeUid"], &status["machineId"]),
            (&json!("node-uid"), &json!("0123456789abcdef0123456789abcdef"))
        );
        assert!(
            status["bootId"].as_str().unwrap().len() == 36
                && status["since"].as_str().unwrap().ends_with('Z')
        );
        assert_eq!(machine.access("/etc/kubernetes/pki"), (0, 0, 0o700));

        // Its own write comes back by the watch, inotify tells of its own files: neither leads to a write. What does
        // is a new permit, which is acknowledged.
        api.tell(json!({"revision": name, "permit": {"id": 3, "disruption": "None"}}));
        let status = api.until_status("permit 3", |status| status["permitId"] == 3).await;
        assert_eq!(api.objects().statuses.len(), 2);
        assert_eq!(status["message"], "4 changes made", "what was done stays to be read");
    })
    .await;
    // A new process finds all in place and has nothing to say.
    let untouched = machine.untouched();
    api.objects().requests.clear();
    with_agent(&machine, &api, async {
        api.until("the revision was read", |objects| {
            objects.requests.iter().any(|r| r.contains("controllerrevisions"))
        })
        .await;
        api.tell(json!({"revision": name, "permit": {"id": 4, "disruption": "None"}}));
        api.until_status("permit 4", |status| status["permitId"] == 4).await;
        assert_eq!(api.objects().statuses.len(), 3);
    })
    .await;
    assert_eq!(machine.untouched(), untouched);
}

#[tokio::test]
async fn where_many_begin_at_once_downloads_wait_and_a_new_word_is_heard_meanwhile() {
    let (machine, api) = (Machine::new(), Api::start().await);
    std::fs::write(machine.path("/opt/image"), "a program").unwrap();
    let digest = hex::encode(sha2::Sha256::digest("a program"));
    let spec = json!({
        "binaries": [{"path": "/opt/program", "url": "file:///opt/image", "sha256": {"amd64": digest, "arm64": digest}}],
    });
    let name = api.put(&request(spec), None);
    // Hours: the moment that is drawn does not come while the test runs.
    api.tell(json!({"revision": name, "spread": 1_000_000}));
    with_agent(&machine, &api, async {
        let status = api.until_phase("Applying").await;
        let message = status["message"].as_str().unwrap();
        assert!(message.contains("1 change to make; downloads begin within 1000000 s"), "{message}");
        assert!(!machine.is_there("/opt/program"));
        // Whoever has a permit is alone, and waits for nobody.
        api.tell(
            json!({"revision": name, "spread": 1_000_000, "permit": {"id": 1, "disruption": "Restart"}}),
        );
        api.until_phase("Ready").await;
        assert!(machine.is_there("/opt/program"));
        // Nor does a repair, though the cache has lost it.
        std::fs::remove_file(machine.path(&format!("/var/lib/nodebootstrap/.cache/{digest}"))).unwrap();
        api.tell(json!({"revision": name, "spread": 1_000_000, "permit": {"id": 1, "disruption": "None"}}));
        std::fs::remove_file(machine.path("/opt/program")).unwrap();
        until_there(&machine.path("/opt/program")).await;
    })
    .await;
}

#[tokio::test]
async fn drift_is_noticed_at_once_repaired_and_told() {
    let (machine, api) = (Machine::new(), Api::start().await);
    let name = api.put(&seed(), None);
    api.tell(json!({"revision": name}));
    with_agent(&machine, &api, async {
        api.until_phase("Ready").await;
        std::fs::remove_dir(machine.path("/etc/kubernetes/pki")).unwrap();
        let status =
            api.until_status("a repair", |s| s["message"].as_str().unwrap().contains("repaired")).await;
        assert_eq!(status["message"], "repaired: directory /etc/kubernetes/pki was missing");
        assert_eq!((&status["phase"], &status["changesTotal"]), (&json!("Ready"), &json!(1)));
        std::fs::write(machine.path("/etc/group"), crate::support::GROUP).unwrap();
        api.until_status("another repair", |s| {
            s["message"].as_str().unwrap().contains("group kubernetes was missing")
        })
        .await;
        machine.grant("/etc/kubernetes/f", ACL);
        api.until_status("a third repair", |s| {
            let told = "file /etc/kubernetes/f had extended attributes: system.posix_acl_access";
            s["message"].as_str().unwrap().contains(told)
        })
        .await;
        assert_eq!(api.objects().statuses.len(), 4, "one write each");
    })
    .await;
}

#[tokio::test]
async fn a_disruption_waits_for_its_permit_which_is_read_afresh_and_acknowledged_first() {
    let (machine, api) = (Machine::new(), Api::start().await);
    machine.systemd.set("app.service", "active");
    let spec =
        json!({"files": [{"path": "/etc/a", "content": "x", "onChange": {"restart": ["app.service"]}}]});
    let name = api.put(&request(spec), None);
    api.tell(json!({"revision": name}));
    with_agent(&machine, &api, async {
        let status = api.until_phase("Waiting").await;
        assert_eq!((&status["disruption"], &status["changesTotal"]), (&json!("Restart"), &json!(2)));
        assert!(
            status["message"].as_str().unwrap().contains("unit app.service: restart, because of file /etc/a"),
            "{status}"
        );
        assert!(!machine.is_there("/etc/a"), "nothing is begun");
        api.objects().requests.clear();
        api.tell(json!({"revision": name, "permit": {"id": 7, "disruption": "Restart"}}));
        let status = api.until_phase("Ready").await;
        assert_eq!(status["permitId"], 7);
        let objects = api.objects();
        assert_eq!(
            (&objects.statuses[1]["phase"], &objects.statuses[1]["permitId"]),
            (&json!("Applying"), &json!(7))
        );
        assert_eq!(objects.statuses.len(), 3);
        let asked: Vec<_> = objects.requests.iter().map(|r| r.rsplit('/').next().unwrap()).collect();
        assert_eq!(asked, ["workers.node1", "status", "status"], "read, acknowledged, reported");
    })
    .await;
    assert_eq!(machine.systemd.take_asked(), ["restart app.service"]);
}

#[tokio::test]
async fn a_permit_that_was_taken_back_meanwhile_counts_for_nothing() {
    let (machine, api) = (Machine::new(), Api::start().await);
    machine.systemd.set("app.service", "active");
    let spec =
        json!({"files": [{"path": "/etc/a", "content": "x", "onChange": {"restart": ["app.service"]}}]});
    let name = api.put(&request(spec), None);
    // The watch has told of a permit; a fresh read says something else.
    api.objects().fresh = Some(json!({"id": 8, "disruption": "None"}));
    api.tell(json!({"revision": name, "permit": {"id": 7, "disruption": "Restart"}}));
    with_agent(&machine, &api, async {
        let status = api.until_phase("Waiting").await;
        assert_eq!(status["permitId"], 8);
        assert_eq!(api.objects().statuses.len(), 1, "the old permit is not acknowledged");
    })
    .await;
    assert!(!machine.is_there("/etc/a"));
    assert_eq!(machine.systemd.take_asked(), Vec::<String>::new());
}

#[tokio::test]
async fn nothing_is_changed_where_an_older_node_bootstrap_has_claims() {
    let (machine, api) = (Machine::new(), Api::start().await);
    let name = api.put(&seed(), None);
    let before = machine.tree();
    api.tell(json!({"revision": name, "conflicts": [{"resource": "file /etc/motd", "with": "older"}]}));
    with_agent(&machine, &api, async {
        let status = api.until_phase("Failed").await;
        assert_eq!(status["reason"], "Conflict");
        assert_eq!(
            status["message"],
            "file /etc/motd belongs to the NodeBootstrap older: take it out of one of them; nothing was changed"
        );
        assert_eq!(machine.tree(), before);
        api.tell(json!({"revision": name}));
        api.until_phase("Ready").await;
    })
    .await;
}

#[tokio::test]
async fn mode_plan_lists_what_apply_then_makes_and_writes_nothing_at_all() {
    let (machine, api) = (Machine::new(), Api::start().await);
    let name = api.put(&seed(), None);
    let before = machine.untouched();
    api.tell(json!({"revision": name, "mode": "Plan"}));
    with_agent(&machine, &api, async {
        let planned = api.until_phase("Planned").await;
        assert_eq!(
            planned["message"],
            "4 changes planned, none disturbs anything; the mode is Plan, so nothing is changed"
        );
        assert_eq!((&planned["changesTotal"], &planned["disruption"]), (&json!(4), &json!("None")));
        // A permit is acknowledged and not used.
        api.tell(json!({"revision": name, "mode": "Plan", "permit": {"id": 5, "disruption": "Restart"}}));
        api.until_status("permit 5", |status| status["permitId"] == 5).await;
        assert_eq!(machine.untouched(), before, "neither a lock nor a claim of its own");

        api.tell(json!({"revision": name, "mode": "Apply"}));
        let made = api.until_phase("Ready").await;
        assert_eq!((&made["message"], &made["changes"]), (&json!("4 changes made"), &planned["changes"]));

        // Back in mode Plan drift is seen and told, and not repaired.
        api.tell(json!({"revision": name, "mode": "Plan"}));
        let status = api.until_phase("Planned").await;
        assert_eq!(status["message"], "nothing to change; the mode is Plan, so nothing is changed");
        std::fs::remove_dir(machine.path("/etc/kubernetes/pki")).unwrap();
        let status = api.until_status("the drift", |status| status["changesTotal"] == 1).await;
        assert_eq!(status["changes"][0]["resource"], "directory /etc/kubernetes/pki");
        let writes = api.objects().statuses.len();
        std::fs::create_dir(machine.path("/etc/kubernetes/pki")).unwrap();
        machine.set("/etc/kubernetes/pki", 0, 0, 0o700);
        api.until_status("no drift", |status| status["changesTotal"] == 0).await;
        assert_eq!(api.objects().statuses.len(), writes + 1, "nothing is written twice");

        api.tell(json!({"revision": name, "mode": "Plan", "leave": "Retain"}));
        api.until_phase("Left").await;
        assert!(!machine.is_there("/var/lib/nodebootstrap/workers/revision.json"), "its claims are given up");
    })
    .await;
}

#[tokio::test]
async fn a_host_that_cannot_have_it_says_every_reason_in_either_mode() {
    let (machine, api) = (Machine::new(), Api::start().await);
    // Not even the lock can be made.
    let _var = machine.mount("/var", "ro");
    let spec = json!({
        "groups": [{"name": "k"}, {"name": "clash", "gid": 1}],
        "files": [{"path": "/none/f", "content": ""}, {"path": "/var/f", "content": ""}],
    });
    let name = api.put(&request(spec), None);
    let before = machine.untouched();
    let expected = [
        "group clash: gid 1 belongs to the group daemon: write another gid, or leave it out",
        "file /none/f: its directory /none is missing: list it in directories",
        "file /var/f: /var/f lies on a file system that is read-only on this host: name a path below /usr/local, /opt or /etc",
        "state: /var/lib/nodebootstrap lies on a file system that is read-only on this host: mount it writable",
    ];
    api.tell(json!({"revision": name}));
    with_agent(&machine, &api, async {
        let status = api.until_phase("Failed").await;
        assert_eq!((&status["problems"], &status["reason"]), (&json!(expected), &json!("IdTaken")));
        assert!(status["message"].as_str().unwrap().starts_with("4 problems: group clash"), "{status}");
        api.tell(json!({"revision": name, "mode": "Plan", "permit": {"id": 1, "disruption": "None"}}));
        let status = api.until_status("the word", |status| status["permitId"] == 1).await;
        assert_eq!((&status["phase"], &status["problems"]), (&json!("Failed"), &json!(expected)));
    })
    .await;
    assert_eq!(machine.untouched(), before);
}

#[tokio::test]
async fn a_revision_that_cannot_be_read_is_asked_for_again_and_takes_nothing_away() {
    let (machine, api) = (Machine::new(), Api::start().await);
    let name = api.put(&seed(), None);
    api.tell(json!({"revision": name}));
    with_agent(&machine, &api, async {
        api.until_phase("Ready").await;
        let before = machine.tree();
        let next = request(json!({"groups": [{"name": "next"}]}));
        api.tell(json!({"revision": next.name}));
        let status = api.until_phase("Failed").await;
        assert_eq!((&status["reason"], &status["revision"]), (&json!("RevisionRefused"), &json!(next.name)));
        let asked = api.objects().requests.iter().filter(|r| r.ends_with(&next.name)).count();
        assert_eq!(asked, 3, "rights may come a moment later, so it is not told at once");
        assert_eq!(machine.tree(), before);
        api.put(&next, None);
        api.until_phase("Ready").await;
        assert!(!machine.is_there("/etc/kubernetes"), "only a revision takes away what an earlier one made");
    })
    .await;
}

#[tokio::test]
async fn a_revision_of_another_format_is_refused() {
    let (machine, api) = (Machine::new(), Api::start().await);
    let name = api.put(&seed(), None);
    for revision in api.objects().others.values_mut() {
        revision["data"]["format"] = json!(99);
    }
    api.tell(json!({"revision": name}));
    with_agent(&machine, &api, async {
        let status = api.until_phase("Failed").await;
        assert_eq!(status["reason"], "RevisionFormat");
        assert!(
            status["message"].as_str().unwrap().contains("bring operator and agent to the same version"),
            "{status}"
        );
    })
    .await;
    assert!(!machine.is_there("/etc/kubernetes"));
}

#[tokio::test]
async fn secret_values_come_from_the_payload_and_only_if_there_are_any() {
    let (machine, api) = (Machine::new(), Api::start().await);
    let reference = crds::revision::Reference {
        source: crds::revision::Source::Secret,
        name: "s".to_owned(),
        key: "k".to_owned(),
    };
    let values = crds::revision::Values::from([(reference, b"hunter2".to_vec())]);
    let spec = json!({"files": [{"path": "/etc/secret", "secretRef": {"name": "s", "key": "k"}}]});
    let with_secret = crate::support::try_request("workers", spec, &values).unwrap();
    let key = with_secret
        .revision
        .resources
        .iter()
        .find_map(|resource| {
            serde_json::to_value(resource).unwrap()["content"]["secret"]["key"].as_str().map(str::to_owned)
        })
        .unwrap();
    // hunter2
    let name = api.put(&with_secret, Some(json!({key: "aHVudGVyMg=="})));
    let plain = api.put(&seed(), None);
    api.tell(json!({"revision": plain}));
    with_agent(&machine, &api, async {
        api.until_phase("Ready").await;
        assert!(!api.objects().requests.iter().any(|r| r.contains("secrets")));
        api.tell(json!({"revision": name}));
        api.until_status("the secret", |status| status["revision"] == json!(name)).await;
        assert_eq!(machine.read("/etc/secret"), "hunter2");
        assert!(!format!("{:?}", api.objects().statuses).contains("hunter2"));
    })
    .await;
}

#[tokio::test]
async fn a_node_that_leaves_keeps_all_and_the_agent_rests() {
    let (machine, api) = (Machine::new(), Api::start().await);
    let name = api.put(&seed(), None);
    api.tell(json!({"revision": name}));
    with_agent(&machine, &api, async {
        api.until_phase("Ready").await;
        api.tell(json!({"revision": name, "leave": "Retain"}));
        let status = api.until_phase("Left").await;
        assert_eq!(status["revision"], json!(name));
        assert!(machine.is_there("/etc/kubernetes/pki"));
        assert!(!machine.is_there("/var/lib/nodebootstrap/workers/revision.json"), "its claims are given up");
        // Nothing is repaired any more; and coming back works.
        std::fs::remove_dir(machine.path("/etc/kubernetes/pki")).unwrap();
        api.tell(json!({"revision": name, "leave": "Retain", "permit": {"id": 9, "disruption": "None"}}));
        api.until_status("permit 9", |status| status["permitId"] == 9).await;
        assert!(!machine.is_there("/etc/kubernetes/pki"));
        api.tell(json!({"revision": name}));
        api.until_phase("Ready").await;
        assert!(machine.is_there("/etc/kubernetes/pki"));
    })
    .await;
}

#[tokio::test]
async fn what_disturbs_to_be_put_back_waits_for_its_permit_unless_it_stays_or_is_put_back_by_hand() {
    let (machine, api) = (Machine::new(), Api::start().await);
    machine.systemd.set("app.service", "active");
    machine.write("/etc/a", "theirs");
    let file = |content: &str| json!({"files": [{"path": "/etc/a", "content": content, "onChange": {"restart": ["app.service"]}}]});
    let name = api.put(&request(file("ours")), None);
    let permit = |id: i64, disruption: &str| json!({"id": id, "disruption": disruption});
    api.tell(json!({"revision": name, "permit": permit(1, "Restart")}));
    with_agent(&machine, &api, async {
        api.until_phase("Ready").await;
        assert_eq!(machine.systemd.take_asked(), ["restart app.service"]);
        // The permit was for the revision, and is taken back with the word.
        let tell = |permit: Value| {
            api.tell(json!({"revision": name, "leave": "Revert", "permit": permit}));
        };
        tell(permit(1, "None"));
        let status = api.until_phase("Waiting").await;
        assert_eq!((&status["revision"], &status["disruption"]), (&json!("revert"), &json!("Restart")));
        let message = status["message"].as_str().unwrap();
        assert!(message.contains("unit app.service: restart, because of file /etc/a"), "{message}");
        assert_eq!(machine.read("/etc/a"), "ours", "nothing is begun");

        // A fresh read says something else than the watch.
        api.objects().fresh = Some(permit(3, "None"));
        tell(permit(2, "Restart"));
        let status = api.until_status("permit 3", |status| status["permitId"] == 3).await;
        assert_eq!((&status["phase"], machine.read("/etc/a").as_str()), (&json!("Waiting"), "ours"));
        api.objects().fresh = None;
        api.objects().statuses.clear();
        tell(permit(4, "Restart"));
        let status = api.until_phase("Left").await;
        assert_eq!((&status["revision"], &status["permitId"]), (&json!("revert"), &json!(4)));
        let begun = api.objects().statuses[0].clone();
        assert_eq!((&begun["phase"], &begun["permitId"]), (&json!("Applying"), &json!(4)), "acknowledged");
        assert_eq!(machine.read("/etc/a"), "theirs");
        assert_eq!(machine.systemd.take_asked(), ["restart app.service"]);
        // Told otherwise while it waits, it keeps all.
        api.tell(json!({"revision": name, "permit": permit(5, "Restart")}));
        api.until_phase("Ready").await;
        tell(permit(5, "None"));
        api.until_phase("Waiting").await;
        api.tell(json!({"revision": name, "leave": "Retain", "permit": permit(5, "None")}));
        api.until_phase("Left").await;
        assert_eq!(machine.read("/etc/a"), "ours");
        api.tell(json!({"revision": name, "permit": permit(5, "Restart")}));
        api.until_phase("Ready").await;
        tell(permit(6, "None"));
        api.until_status("permit 6", |status| status["phase"] == "Waiting").await;
        machine.revert_by_hand("workers").await.unwrap();
        // As the next pass does, which comes later.
        tell(permit(7, "None"));
        api.until_phase("Left").await;
        assert_eq!(machine.read("/etc/a"), "theirs");
    })
    .await;
}

#[tokio::test]
async fn without_a_report_of_its_own_the_agent_does_nothing() {
    let (machine, api) = (Machine::new(), Api::start().await);
    let name = api.put(&seed(), None);
    let before = machine.untouched();
    api.tell(json!({"revision": name, "nodeName": "node2"}));
    with_agent(&machine, &api, async {
        api.until("the list", |objects| !objects.requests.is_empty()).await;
        api.delete_report();
        api.tell(json!({"revision": "", "nodeName": "node1"}));
        assert_eq!(machine.untouched(), before);
        api.tell(json!({"revision": name}));
        api.until_phase("Ready").await;
    })
    .await;
}

#[tokio::test]
async fn a_problem_is_told_and_a_new_revision_is_taken_at_once() {
    let (machine, api) = (Machine::new(), Api::start().await);
    let bad = api.put(
        &request(json!({"groups": [{"name": "k"}], "files": [{"path": "/none/f", "content": ""}]})),
        None,
    );
    let good = api.put(&seed(), None);
    let before = machine.tree();
    api.tell(json!({"revision": bad}));
    with_agent(&machine, &api, async {
        let status = api.until_phase("Failed").await;
        assert_eq!((&status["reason"], &status["revision"]), (&json!("NoDirectory"), &json!(bad)));
        assert_eq!(
            status["message"],
            "file /none/f: its directory /none is missing: list it in directories (tried again by itself)"
        );
        assert_eq!(machine.tree(), before);
        // It is tried again, and found mended, with no word from anybody.
        std::fs::create_dir(machine.path("/none")).unwrap();
        api.until_phase("Ready").await;
        assert_eq!(api.objects().statuses.len(), 2, "no write for a try that fails as before");
        api.tell(json!({"revision": good}));
        api.until_status("the next", |status| status["revision"] == json!(good)).await;
    })
    .await;
}

#[tokio::test]
async fn while_the_api_is_away_drift_is_repaired_and_told_later() {
    let (machine, api) = (Machine::new(), Api::start().await);
    let name = api.put(&seed(), None);
    api.tell(json!({"revision": name}));
    with_agent(&machine, &api, async {
        api.until_phase("Ready").await;
        api.break_down(true);
        std::fs::remove_dir(machine.path("/etc/kubernetes/pki")).unwrap();
        until_there(&machine.path("/etc/kubernetes/pki")).await;
        api.break_down(false);
        let status =
            api.until_status("the repair", |s| s["message"].as_str().unwrap().contains("repaired")).await;
        assert_eq!(status["message"], "repaired: directory /etc/kubernetes/pki was missing");
    })
    .await;
}

#[tokio::test]
async fn a_unit_that_does_not_start_is_told_and_tried_again() {
    let (machine, api) = (Machine::new(), Api::start().await);
    *machine.systemd.broken.borrow_mut() = Some("hello.service".to_owned());
    let spec = json!({"units": [{"name": "hello.service", "content": HELLO, "active": true}]});
    let name = api.put(&request(spec), None);
    api.tell(json!({"revision": name}));
    with_agent(&machine, &api, async {
        let status = api.until_phase("Failed").await;
        assert_eq!(status["reason"], "Systemd");
        let changes: Vec<&Value> = status["changes"].as_array().unwrap().iter().collect();
        assert_eq!(changes.len(), 2, "what was made before is listed: {changes:?}");
        *machine.systemd.broken.borrow_mut() = None;
        api.until_phase("Ready").await;
    })
    .await;
}

#[tokio::test]
async fn a_download_that_does_not_end_holds_up_neither_a_new_word_nor_other_runs() {
    let (machine, api) = (Machine::new(), Api::start().await);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/kubelet", listener.local_addr().unwrap());
    let digest = "ab".repeat(32);
    let spec = json!({"binaries": [{"path": "/opt/kubelet", "url": url, "sha256": {"amd64": digest, "arm64": digest}}]});
    let slow = api.put(&request(spec), None);
    let next = api.put(&request(json!({"groups": [{"name": "next"}]})), None);
    api.tell(json!({"revision": slow}));
    with_agent(&machine, &api, async {
        // It asks, and gets no answer.
        let (_held, _) = listener.accept().await.unwrap();
        let status = api.until_phase("Applying").await;
        let message = status["message"].as_str().unwrap();
        assert!(
            message.starts_with("1 change under way, now binary /opt/kubelet: download http"),
            "{message}"
        );
        assert!(machine.host().state.try_lock().unwrap().is_some(), "others may work meanwhile");
        api.tell(json!({"revision": next}));
        let status = api.until_phase("Ready").await;
        assert_eq!(status["revision"], json!(next));
        assert_eq!(std::fs::read_dir(machine.path("/var/lib/nodebootstrap/.cache")).unwrap().count(), 0);

        api.tell(json!({"revision": slow}));
        let (_held, _) = listener.accept().await.unwrap();
        api.tell(json!({"revision": slow, "leave": "Retain"}));
        api.until_phase("Left").await;
    })
    .await;
}

#[tokio::test]
async fn a_lock_that_another_run_holds_is_told() {
    let (machine, api) = (Machine::new(), Api::start().await);
    let name = api.put(&seed(), None);
    let lock = machine.host().state.try_lock().unwrap().unwrap();
    api.tell(json!({"revision": name}));
    with_agent(&machine, &api, async {
        let status = api.until_phase("Applying").await;
        assert_eq!(
            status["message"],
            "waits until another run on this host is done: somebody holds /var/lib/nodebootstrap/.lock"
        );
        drop(lock);
        api.until_phase("Ready").await;
    })
    .await;
}

#[tokio::test]
async fn a_unit_that_ends_by_itself_is_started_at_once_and_no_other_one_wakes_the_agent() {
    let (machine, api) = (Machine::new(), Api::start().await);
    let spec = json!({"units": [{"name": "hello.service", "content": HELLO, "active": true}]});
    let name = api.put(&request(spec), None);
    api.tell(json!({"revision": name}));
    with_agent(&machine, &api, async {
        api.until_phase("Ready").await;
        machine.systemd.take_asked();
        let begun = std::time::Instant::now();
        machine.systemd.ends("other.service");
        machine.systemd.ends("hello.service");
        let status =
            api.until_status("the repair", |s| s["message"].as_str().unwrap().contains("repaired")).await;
        assert_eq!(status["message"], "repaired: unit hello.service did not run");
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "long before the interval");
        assert_eq!(machine.systemd.take_asked(), ["start hello.service"]);
    })
    .await;
}

#[tokio::test]
async fn while_a_restart_is_watched_other_drift_is_repaired_and_the_restart_still_decides() {
    let (machine, api) = (Machine::new(), Api::start().await);
    machine.systemd.set("app.service", "active");
    machine.systemd.set("side.service", "active");
    let spec = |content: &str| {
        request(json!({
            "groups": [{"name": "k"}],
            "directories": [{"path": "/opt/d"}],
            "files": [
                {"path": "/etc/a", "content": content, "onChange": {"restart": ["app.service"]}},
                {"path": "/etc/b", "content": "ours"},
                {"path": "/etc/c", "content": "ours"},
            ],
            "units": [{"name": "side.service", "content": HELLO, "active": true}],
        }))
    };
    let told = |name: &str| {
        let drift = json!({"policy": "Enforce", "overrides": [{"pattern": "/etc/c", "policy": "Report"}]});
        api.tell(json!({"revision": name, "drift": drift, "permit": {"id": 1, "disruption": "Restart"}}));
    };
    let owed = || machine.read("/var/lib/nodebootstrap/workers/owed.json");
    let restarts = || {
        let asked = machine.systemd.asked.borrow();
        asked.iter().filter(|asked| *asked == "restart app.service").count()
    };
    let (first, second, third) =
        (api.put(&spec("one"), None), api.put(&spec("two"), None), api.put(&spec("three"), None));
    told(&first);
    with_agent(&machine, &api, async {
        api.until_phase("Ready").await;
        machine.systemd.take_asked();
        *machine.systemd.watched.borrow_mut() = Some("app.service".to_owned());
        told(&second);
        until(|| restarts() == 1).await;
        machine.write("/etc/b", "theirs");
        std::fs::remove_dir(machine.path("/opt/d")).unwrap();
        std::fs::write(machine.path("/etc/group"), crate::support::GROUP).unwrap();
        until(|| machine.read("/etc/b") == "ours" && machine.is_there("/opt/d")).await;
        assert!(machine.read("/etc/group").contains("\nk:"), "{}", machine.read("/etc/group"));
        machine.systemd.ends("side.service");
        until(|| machine.systemd.asked.borrow().contains(&"start side.service".to_owned())).await;
        // What a restart would follow from waits for the one that is watched; what is only told is left.
        machine.write("/etc/a", "theirs");
        machine.write("/etc/c", "theirs");
        machine.write("/etc/b", "theirs");
        until(|| machine.read("/etc/b") == "ours").await;
        assert_eq!(
            (machine.read("/etc/a"), machine.read("/etc/c")),
            ("theirs".to_owned(), "theirs".to_owned())
        );
        assert_eq!(restarts(), 1);
        assert!(owed().contains("app.service"), "{}", owed());
        assert_eq!(api.objects().statuses.last().unwrap()["phase"], "Applying");
        machine.systemd.end_job();
        api.until_status("the second", |s| s["phase"] == "Ready" && s["revision"] == json!(second)).await;
        assert_eq!((machine.read("/etc/a").as_str(), restarts()), ("two", 2));

        *machine.systemd.watched.borrow_mut() = Some("app.service".to_owned());
        *machine.systemd.broken.borrow_mut() = Some("app.service".to_owned());
        told(&third);
        until(|| restarts() == 3).await;
        std::fs::remove_dir(machine.path("/opt/d")).unwrap();
        until_there(&machine.path("/opt/d")).await;
        machine.systemd.end_job();
        let status = api.until_phase("Failed").await;
        assert_eq!((&status["reason"], &status["revision"]), (&json!("Systemd"), &json!(third)));
        assert!(owed().contains("app.service"), "{}", owed());
    })
    .await;
}

fn motd() -> Value {
    json!({"files": [{"path": "/etc/motd", "content": "ours"}]})
}

#[tokio::test]
async fn a_tug_of_war_is_told_once_and_not_fought_at_full_speed() {
    let (machine, api) = (Machine::new(), Api::start().await);
    let name = api.put(&request(motd()), None);
    api.tell(json!({"revision": name}));
    with_agent(&machine, &api, async {
        api.until_phase("Ready").await;
        for _ in 0..3 {
            machine.write("/etc/motd", "theirs");
            until(|| machine.read("/etc/motd") == "ours").await;
        }
        let status = api.until_phase("Failed").await;
        assert_eq!(status["reason"], "Contested");
        let message = status["message"].as_str().unwrap();
        assert!(
            message.starts_with("file /etc/motd had other content, again after 3 repairs or more since 20"),
            "{message}"
        );
        let writes = api.objects().statuses.len();
        machine.write("/etc/motd", "theirs");
        // A word of the operator is answered after a look at the file.
        api.tell(json!({"revision": name, "permit": {"id": 7, "disruption": "None"}}));
        api.until_status("permit 7", |status| status["permitId"] == 7).await;
        assert_eq!(machine.read("/etc/motd"), "theirs", "it waits for its time");
        assert_eq!(api.objects().statuses.len(), writes + 1);
        assert_eq!(api.objects().statuses.last().unwrap()["message"], message);
        until(|| machine.read("/etc/motd") == "ours").await;
        // Left to whoever wants it, it is no matter any more.
        api.tell(json!({"revision": name, "drift": {"ignore": ["/etc/motd"]}}));
        api.until_phase("Ready").await;
    })
    .await;
}

#[tokio::test]
async fn policy_report_tells_drift_and_leaves_it_but_makes_a_new_revision() {
    let (machine, api) = (Machine::new(), Api::start().await);
    let name = api.put(&request(motd()), None);
    let drift = json!({"policy": "Report"});
    api.tell(json!({"revision": name, "drift": drift}));
    with_agent(&machine, &api, async {
        api.until_phase("Ready").await;
        machine.write("/etc/motd", "theirs");
        let status = api.until_status("the drift", |s| s["drifted"].is_array()).await;
        assert_eq!(status["phase"], "Ready");
        assert_eq!(status["drifted"], json!(["file /etc/motd had other content"]));
        assert_eq!(machine.read("/etc/motd"), "theirs");
        let next =
            request(json!({"files": [{"path": "/etc/motd", "content": "ours"}], "groups": [{"name": "k"}]}));
        let next = api.put(&next, None);
        api.tell(json!({"revision": next, "drift": drift}));
        let status = api.until_status("the next", |s| s["revision"] == json!(next)).await;
        assert_eq!((&status["phase"], &status["drifted"]), (&json!("Ready"), &Value::Null));
        assert_eq!(machine.read("/etc/motd"), "ours");
        machine.write("/etc/motd", "theirs");
        api.until_status("the drift", |s| s["drifted"].is_array()).await;
        api.tell(json!({"revision": next}));
        until(|| machine.read("/etc/motd") == "ours").await;
    })
    .await;
}

#[tokio::test]
async fn what_is_ignored_is_made_once_and_left_also_by_a_revision_that_does_not_change_it() {
    let (machine, api) = (Machine::new(), Api::start().await);
    let name = api.put(&request(motd()), None);
    let drift = json!({"ignore": ["/etc/m*"]});
    api.tell(json!({"revision": name, "drift": drift}));
    with_agent(&machine, &api, async {
        api.until_phase("Ready").await;
        assert_eq!(machine.read("/etc/motd"), "ours");
        machine.write("/etc/motd", "theirs");
        let next =
            request(json!({"files": [{"path": "/etc/motd", "content": "ours"}], "groups": [{"name": "k"}]}));
        let next = api.put(&next, None);
        api.tell(json!({"revision": next, "drift": drift}));
        let status = api.until_status("the next", |s| s["revision"] == json!(next)).await;
        assert_eq!((&status["phase"], &status["drifted"]), (&json!("Ready"), &Value::Null));
        assert_eq!(machine.read("/etc/motd"), "theirs");
        let other = request(json!({"files": [{"path": "/etc/motd", "content": "new"}]}));
        let other = api.put(&other, None);
        api.tell(json!({"revision": other, "drift": drift}));
        api.until_status("another", |s| s["revision"] == json!(other)).await;
        assert_eq!(machine.read("/etc/motd"), "new", "what is written anew is made");
    })
    .await;
}

#[tokio::test]
async fn nothing_is_changed_on_a_host_that_is_paused_not_even_to_leave() {
    let (machine, api) = (Machine::new(), Api::start().await);
    let name = api.put(&request(motd()), None);
    machine.host().state.pause("2026-11-25T00:00:00Z").unwrap();
    api.tell(json!({"revision": name}));
    with_agent(&machine, &api, async {
        let status = api.until_phase("Paused").await;
        assert_eq!(
            status["message"],
            "paused on the host since 2026-11-25T00:00:00Z: nothing is changed here until nodebootstrap-agent resume is run there"
        );
        assert!(!machine.is_there("/etc/motd"));
        assert!(machine.host().state.resume().unwrap());
        api.until_phase("Ready").await;

        api.tell(json!({"revision": name, "paused": true}));
        let status = api.until_phase("Paused").await;
        assert!(status["message"].as_str().unwrap().contains("annotation nodebootstrap.io/paused"), "{status}");
        machine.write("/etc/motd", "theirs");
        api.tell(json!({"revision": name, "paused": true, "leave": "Revert", "permit": {"id": 3, "disruption": "None"}}));
        api.until_status("permit 3", |status| status["permitId"] == 3).await;
        assert_eq!(machine.read("/etc/motd"), "theirs");
        api.tell(json!({"revision": name}));
        until(|| machine.read("/etc/motd") == "ours").await;
        // While it runs, too.
        machine.host().state.pause("2026-11-25T00:00:01Z").unwrap();
        api.until_phase("Paused").await;
        api.tell(json!({"revision": name, "leave": "Revert"}));
        machine.host().state.resume().unwrap();
        api.until_phase("Left").await;
        assert!(!machine.is_there("/etc/motd"));
    })
    .await;
}

/// Waits until something is so.
pub(crate) async fn until(so: impl Fn() -> bool) {
    let waiting = async {
        while !so() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), waiting).await.expect("it becomes so");
}
