//! Killed at any point, the next run finishes.

use serde_json::json;

use crate::support::{Machine, lines, reasons, request};

#[tokio::test]
async fn stopped_after_any_change_the_next_run_ends_in_the_same_state() {
    let spec = request(json!({
        "groups": [{"name": "k"}],
        "users": [{"name": "k"}],
        "directories": [
            {"path": "/etc/k/deep", "owner": "k", "group": "k", "mode": "0700"},
            {"path": "/etc/k", "owner": "k", "group": "k", "recursive": true},
        ],
        "files": [{"path": "/etc/k/deep/f", "content": "x", "owner": "k", "mode": "0600"}],
        "units": [{"name": "k.service", "content": "[Service]\nExecStart=/x\n[Install]\nWantedBy=a.target\n", "enabled": true, "active": true}],
    }));
    let whole = Machine::new();
    let all = whole.apply(&spec).await.unwrap();
    assert!(all.len() > 6, "{all:?}");
    for stopped_after in 0..all.len() {
        let machine = Machine::new();
        let failure = machine.apply_until(&spec, stopped_after).await.unwrap_err();
        assert!(failure.is_stop() && failure.made.len() == stopped_after, "{failure:?}");
        let made = machine.apply(&spec).await.unwrap();
        // Whether systemd must read its files is what systemd says; the one here never does.
        let left = all[stopped_after..].iter().filter(|change| change.resource != "systemd");
        let made = made.iter().filter(|change| change.resource != "systemd");
        assert_eq!(lines(made), lines(left), "only what was left is done");
        assert_eq!(machine.tree(), whole.tree(), "after {stopped_after}");
    }
}

#[tokio::test]
async fn what_a_killed_run_wrote_beside_a_target_is_cleared_away() {
    use node_agent::host::write::{Staged, temporary_name};
    let machine = Machine::new();
    let spec = |path: &str| request(json!({"files": [{"path": path, "content": "x"}]}));
    machine.apply_until(&spec("/etc/a"), 0).await.unwrap_err();
    // As after SIGKILL: the file is begun, and nobody removes it.
    let place = machine.root().locate("/etc/a").unwrap();
    let mut staged = Staged::begin(&place).unwrap();
    staged.append(b"half").unwrap();
    std::mem::forget(staged);
    let leftover = format!("/etc/{}", temporary_name("a"));
    assert_eq!(machine.access(&leftover), (0, 0, 0o600), "nobody else can read what is half written");

    // The spec may be another by now.
    machine.apply(&spec("/etc/b")).await.unwrap();
    assert_eq!(machine.leftovers(), Vec::<String>::new());

    // Without any memory of it, writing the same target clears it too; nothing is followed or kept of it.
    machine.link(&leftover, "/etc/passwd");
    machine.apply(&spec("/etc/a")).await.unwrap();
    assert_eq!(machine.leftovers(), Vec::<String>::new());
    assert_eq!(machine.read("/etc/passwd"), crate::support::PASSWD);
}

#[tokio::test]
async fn one_lock_orders_all_runs_on_a_host() {
    let machine = Machine::new();
    let (host, other) = (machine.host(), machine.host());
    let lock = host.state.try_lock().unwrap().expect("free");
    assert!(other.state.try_lock().unwrap().is_none());
    let waiting = std::cell::Cell::new(false);
    let taken = async {
        let _lock = other.state.lock(|| waiting.set(true)).await.unwrap();
    };
    let released = async {
        while !waiting.get() {
            tokio::task::yield_now().await;
        }
        drop(lock);
    };
    futures::join!(taken, released);
}

#[tokio::test]
async fn a_damaged_state_file_says_what_to_do() {
    let machine = Machine::new();
    let spec = request(json!({"groups": [{"name": "k"}]}));
    machine.apply(&spec).await.unwrap();
    machine.write("/var/lib/nodebootstrap/workers/owed.json", "{");
    let plan = machine.plan(&spec).await;
    assert_eq!(reasons(&plan), ["state: StateDamaged"]);
    let message = &plan.problems[0].message;
    assert!(message.contains("owed.json is damaged") && message.contains("remove it"), "{message}");
    machine.write("/var/lib/nodebootstrap/workers/owed.json", "{}");
    for file in ["revision.json", "result.json", "owed.json"] {
        let path = machine.path(&format!("/var/lib/nodebootstrap/workers/{file}"));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let plan = machine.plan(&spec).await;
        assert_eq!(reasons(&plan), ["state: StateDamaged"]);
        let message = &plan.problems[0].message;
        assert!(
            message.contains(&format!("{file} is damaged: it is a directory, expected a file")),
            "{message}"
        );
        std::fs::remove_dir(&path).unwrap();
    }
}

#[tokio::test]
async fn what_lies_in_the_place_of_the_agent_s_own_is_told_by_the_plan() {
    let machine = Machine::new();
    let spec = request(json!({"groups": [{"name": "k"}]}));
    machine.apply(&spec).await.unwrap();
    for (name, expected) in [
        (".lock", "a file"),
        (".cache", "a directory"),
        ("workers/priors", "a directory"),
        ("workers", "a directory"),
    ] {
        let path = machine.path(&format!("/var/lib/nodebootstrap/{name}"));
        let aside = path.with_extension("aside");
        let was_there = std::fs::rename(&path, &aside).is_ok();
        std::os::unix::fs::symlink("/nowhere", &path).unwrap();
        let message = format!(
            "/var/lib/nodebootstrap/{name} is damaged: it is a symbolic link, expected {expected}: remove it, the next run writes it anew"
        );
        let plan = machine.plan(&spec).await;
        assert!(plan.problems.iter().any(|problem| problem.message == message), "{:?}", plan.problems);
        std::fs::remove_file(&path).unwrap();
        if was_there {
            std::fs::rename(&aside, &path).unwrap();
        }
    }
    assert!(machine.plan(&spec).await.is_empty());
}

#[tokio::test]
async fn whoever_is_not_root_has_no_word_in_the_state() {
    let machine = Machine::new();
    let spec = request(json!({"files": [{"path": "/etc/a", "content": "a"}]}));
    machine.apply(&spec).await.unwrap();
    let state = "/var/lib/nodebootstrap";
    for mode in [0o777, 0o1777, 0o1770, 0o720] {
        machine.set(state, 0, 50, mode);
        assert_eq!(reasons(&machine.plan(&spec).await), ["state: StateDamaged"], "{mode:o}");
        assert!(machine.host().state.try_lock().is_err(), "{mode:o}");
    }
    machine.set(state, 0, 0, 0o700);
    // What came there meanwhile claims nothing.
    let other = crate::support::try_request(
        "evil",
        json!({"files": [{"path": "/etc/b", "content": "evil"}]}),
        &Default::default(),
    )
    .unwrap();
    machine.apply(&other).await.unwrap();
    machine.set(&format!("{state}/evil"), 7, 7, 0o700);
    let mine = request(json!({"files": [{"path": "/etc/b", "content": "mine"}]}));
    let plan = machine.plan(&mine).await;
    assert_eq!(reasons(&plan), Vec::<String>::new());
    assert!(plan.warnings.iter().any(|warning| warning.contains("evil")), "{:?}", plan.warnings);
}
