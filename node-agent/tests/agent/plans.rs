//! What a plan says, and that it is what happens.

use serde_json::json;

use crate::support::{Machine, lines, reasons, request};

#[tokio::test]
async fn the_seed_s_story() {
    let machine = Machine::new();
    let request = request(json!({
        "groups": [{"name": "kubernetes"}],
        "users": [{"name": "kubernetes", "group": "kubernetes", "home": "/etc/kubernetes", "shell": "/bin/nologin"}],
        "directories": [
            {"path": "/etc/kubernetes/pki", "owner": "kubernetes", "group": "kubernetes", "mode": "0700"},
            {"path": "/etc/kubernetes", "owner": "kubernetes", "group": "kubernetes", "mode": "0755", "recursive": true},
        ],
    }));
    let before = machine.untouched();
    let plan = machine.plan(&request).await;
    assert_eq!(
        lines(plan.changes()),
        [
            "group kubernetes: create with gid 999",
            "user kubernetes: create with uid 999, group kubernetes, home /etc/kubernetes, shell /usr/sbin/nologin",
            "directory /etc/kubernetes: create, kubernetes:kubernetes 0755",
            "directory /etc/kubernetes/pki: create, kubernetes:kubernetes 0700",
        ]
    );
    assert!(
        plan.warnings[0].contains("no shell /bin/nologin: /usr/sbin/nologin is used"),
        "{:?}",
        plan.warnings
    );
    assert_eq!(machine.untouched(), before, "a plan changes nothing");

    let made = machine.apply(&request).await.unwrap();
    assert_eq!(lines(&made), lines(plan.changes()), "what the plan says is what happens");
    assert_eq!(machine.access("/etc/kubernetes"), (999, 999, 0o755));
    assert_eq!(machine.access("/etc/kubernetes/pki"), (999, 999, 0o700));
    assert!(
        machine.read("/etc/passwd").ends_with("\nkubernetes:x:999:999::/etc/kubernetes:/usr/sbin/nologin\n")
    );

    let after = machine.untouched();
    assert_eq!(machine.apply(&request).await.unwrap(), []);
    assert_eq!(
        machine.untouched(),
        after,
        "the second time nothing is written, not even the agent's own state"
    );
}

#[tokio::test]
async fn all_problems_are_told_at_once_and_nothing_is_changed() {
    let machine = Machine::new();
    machine.write("/opt/file", "");
    machine.directory("/opt/directory");
    let request = request(json!({
        "groups": [{"name": "good"}, {"name": "clash", "gid": 1}, {"name": "staff", "gid": 51}],
        "users": [{"name": "lost", "group": "nobody-knows"}, {"name": "daemon", "group": "daemon", "uid": 7}],
        "directories": [{"path": "/opt/file"}, {"path": "/opt/x", "owner": "stranger", "group": "strangers"}],
        "files": [
            {"path": "/opt/directory", "content": ""},
            {"path": "/nowhere/f", "content": ""},
        ],
        "units": [{"name": "unknown.service", "active": true}],
    }));
    let before = machine.untouched();
    let plan = machine.plan(&request).await;
    assert_eq!(
        reasons(&plan),
        [
            "group clash: IdTaken",
            "group staff: IdMismatch",
            "user daemon: IdMismatch",
            "user lost: NoSuchGroup",
            "directory /opt/x: NoSuchUser",
            "directory /opt/x: NoSuchGroup",
            "directory /opt/file: PathOccupied",
            "file /nowhere/f: NoDirectory",
            "file /opt/directory: PathOccupied",
            "unit unknown.service: UnitUnknown",
        ]
    );
    assert_eq!(plan.steps.len(), 0, "a plan with problems has no changes to begin with");
    assert_eq!(lines(&plan.held_back), ["group good: create with gid 999"]);
    let failure = machine.apply(&request).await.unwrap_err();
    assert_eq!(failure.reason, "IdTaken");
    assert!(
        failure.message.starts_with("10 problems: group clash: gid 1 belongs to the group daemon"),
        "{failure:?}"
    );
    let mut after = machine.untouched();
    after.retain(|path, _| !path.starts_with("var/lib"));
    let mut before = before;
    before.retain(|path, _| !path.starts_with("var/lib"));
    assert_eq!(after, before);
}

#[tokio::test]
async fn only_differences_are_changed() {
    let machine = Machine::new();
    machine.directory("/etc/kubernetes");
    machine.set("/etc/kubernetes", 1, 0, 0o700);
    machine.write("/etc/kubernetes/a", "same");
    machine.write("/etc/kubernetes/b", "other");
    let inode = std::os::unix::fs::MetadataExt::ino(&machine.path("/etc/kubernetes/a").metadata().unwrap());
    let request = request(json!({
        "directories": [{"path": "/etc/kubernetes", "group": "staff"}],
        "files": [
            {"path": "/etc/kubernetes/a", "content": "same", "mode": "4711", "owner": "daemon"},
            {"path": "/etc/kubernetes/b", "content": "new", "mode": "0600"},
        ],
    }));
    assert_eq!(
        lines(&machine.apply(&request).await.unwrap()),
        [
            "directory /etc/kubernetes: owner daemon to root, group root to staff, mode 0700 to 0755",
            "file /etc/kubernetes/a: owner root to daemon, mode 0644 to 4711",
            "file /etc/kubernetes/b: content, mode 0644 to 0600",
        ]
    );
    assert_eq!(machine.access("/etc/kubernetes/a"), (1, 0, 0o4711), "set-uid is kept though chown clears it");
    let now = std::os::unix::fs::MetadataExt::ino(&machine.path("/etc/kubernetes/a").metadata().unwrap());
    assert_eq!(inode, now, "the same file, changed in place");
    assert_eq!(machine.read("/etc/kubernetes/b"), "new");
}

#[tokio::test]
async fn secrets_are_written_and_shown_nowhere() {
    let machine = Machine::new();
    let reference = crds::revision::Reference {
        source: crds::revision::Source::Secret,
        name: "s".to_owned(),
        key: "k".to_owned(),
    };
    let values = crds::revision::Values::from([(reference, b"hunter2".to_vec())]);
    let spec = json!({"files": [{"path": "/etc/secret", "secretRef": {"name": "s", "key": "k"}}]});
    let mut request = crate::support::try_request("workers", spec, &values).unwrap();
    let plan = machine.plan(&request).await;
    assert!(!format!("{plan:?} {request:?}").contains("hunter2"));
    machine.apply(&request).await.unwrap();
    assert_eq!(machine.read("/etc/secret"), "hunter2");
    assert_eq!(machine.access("/etc/secret"), (0, 0, 0o600));
    let state = machine.untouched();
    let state: Vec<_> = state.iter().filter(|(path, _)| path.contains("nodebootstrap")).collect();
    assert!(state.len() > 3 && !format!("{state:?}").contains("hunter2"), "{state:?}");

    request.payload = Default::default();
    assert_eq!(reasons(&machine.plan(&request).await), ["file /etc/secret: PayloadMissing"]);
}

fn named(name: &str, created: &str, spec: serde_json::Value) -> node_agent::engine::Request {
    let request = crate::support::try_request(name, spec, &Default::default()).unwrap();
    node_agent::engine::Request { created: created.to_owned(), ..request }
}

#[tokio::test]
async fn what_an_older_node_bootstrap_has_on_this_host_stays_its_own() {
    let machine = Machine::new();
    machine.directory("/usr/bin");
    machine.link("/bin", "usr/bin");
    let (old, young, by_hand) = ("2026-01-01T00:00:00Z", "2026-02-02T00:00:00Z", "");
    let spec = |path: &str| json!({"files": [{"path": path, "content": path}], "groups": [{"name": "a"}]});
    let conflicts = ["group a: Conflict", "file /usr/bin/x: Conflict"];

    // By way of a link it is the same place, which nobody but the host can tell.
    machine.apply(&named("first", old, spec("/bin/x"))).await.unwrap();
    let plan = machine.plan(&named("second", young, spec("/usr/bin/x"))).await;
    assert_eq!(reasons(&plan), conflicts);
    assert_eq!(
        plan.problems[1].message,
        "belongs to the NodeBootstrap first on this host: take it out of one of them; if first is gone, remove /var/lib/nodebootstrap/first"
    );
    // The older one is not stopped by what a younger one began before it.
    let older = named("zeroth", "2025-01-01T00:00:00Z", spec("/usr/bin/x"));
    assert_eq!(reasons(&machine.plan(&older).await), Vec::<String>::new());
    // Of two that are as old as each other the name decides.
    assert_eq!(reasons(&machine.plan(&named("second", old, spec("/usr/bin/x"))).await), conflicts);
    assert!(machine.plan(&named("alpha", old, spec("/usr/bin/x"))).await.problems.is_empty());
    // By hand nothing is taken, and what is had by hand is kept.
    assert_eq!(reasons(&machine.plan(&named("hand", by_hand, spec("/usr/bin/x"))).await), conflicts);
    node_agent::engine::give_up(&machine.host(), "first").unwrap();
    machine.apply(&named("hand", by_hand, spec("/usr/bin/x"))).await.unwrap();
    assert_eq!(reasons(&machine.plan(&older).await), conflicts);

    node_agent::engine::give_up(&machine.host(), "hand").unwrap();
    assert!(machine.plan(&older).await.problems.is_empty());
    let mut left: Vec<_> =
        machine.untouched().into_keys().filter(|path| path.starts_with("var/lib/nodebootstrap/")).collect();
    left.retain(|path| machine.path(path).is_file());
    left.retain(|path| !path.contains("/priors/"));
    let ledgers = ["first", "hand"].map(|name| format!("var/lib/nodebootstrap/{name}/ledger.json"));
    assert_eq!(left, [&["var/lib/nodebootstrap/.lock".to_owned()], &ledgers[..]].concat());
}
