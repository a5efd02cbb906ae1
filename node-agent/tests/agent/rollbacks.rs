//! What a run made is confirmed, or put back as it was before that run: not before everything.

use std::collections::BTreeSet;

use node_agent::engine::rollback;
use serde_json::json;

use crate::archives::{Tar, archive};
use crate::support::{Machine, lines, request};

const UNIT: &str = "/etc/systemd/system/kubelet.service";

#[tokio::test]
async fn what_was_there_before_that_run_is_there_again_and_runs() {
    let machine = Machine::new();
    machine.write("/etc/motd", "theirs");
    let spec = |content: &str, extra: &str| {
        let text = format!("[Service]\nExecStart=/{content}\n");
        request(json!({
            "files": [{"path": "/etc/motd", "content": content}, {"path": extra, "content": content}],
            "units": [{"name": "kubelet.service", "content": text, "active": true}],
        }))
    };
    machine.apply(&spec("first", "/etc/gone")).await.expect("applied");
    machine.systemd.take_asked();
    let (tree, ledger) = (machine.tree(), machine.read("/var/lib/nodebootstrap/workers/ledger.json"));
    let previous = machine.host().state.begun("workers").expect("a file");

    machine.apply_held(&spec("second", "/etc/new"), usize::MAX).await.expect("applied");
    assert!(
        machine.read(UNIT).contains("second")
            && machine.is_there("/etc/new")
            && !machine.is_there("/etc/gone")
    );
    assert_eq!(machine.systemd.take_asked(), ["reload", "restart kubelet.service"]);

    let host = machine.host();
    let restarts = BTreeSet::from(["kubelet.service".to_owned()]);
    let plan = rollback::plan(&host, "workers", &restarts, false).await.expect("a plan");
    assert_eq!(
        lines(plan.changes()),
        [
            "file /etc/gone: content, root:root 0644 as before",
            "file /etc/motd: content, root:root 0644 as before",
            "file /etc/new: remove",
            "file /etc/systemd/system/kubelet.service: content, root:root 0644 as before",
            "systemd: read unit files again (daemon-reload)",
            "unit kubelet.service: restart, because of file /etc/systemd/system/kubelet.service, put back and 1 more",
        ]
    );
    // At a boot systemd starts units by itself.
    let at_boot = rollback::plan(&host, "workers", &restarts, true).await.expect("a plan");
    assert!(at_boot.changes().all(|change| !change.resource.starts_with("unit ")));
    drop(host);
    machine.roll_back("workers", previous.as_deref(), usize::MAX).await.expect("rolled back");
    assert_eq!(machine.systemd.take_asked(), ["reload", "restart kubelet.service"]);
    assert_eq!(machine.tree(), tree);
    assert_eq!(machine.read("/var/lib/nodebootstrap/workers/ledger.json"), ledger);
    machine.revert_by_hand("workers").await.expect("reverted");
    assert_eq!(machine.read("/etc/motd"), "theirs");
}

#[tokio::test]
async fn what_an_archive_brought_before_is_there_again_without_a_download() {
    let machine = Machine::new();
    machine.directory("/opt/cni");
    machine.write("/opt/cni/theirs", "theirs");
    let of = |name: &str, tar: Tar| {
        let archive = archive(&machine, name, &tar.end(), json!({}));
        request(json!({"directories": [{"path": "/opt/cni"}], "archives": [archive]}))
    };
    let first = Tar::default()
        .file("changed", "first")
        .file("becomes-link", "first")
        .link("becomes-file", "changed")
        .file("gone/file", "first")
        .file("theirs", "ours")
        .link("link", "changed");
    let second = Tar::default()
        .file("changed", "second")
        .link("becomes-link", "changed")
        .file("becomes-file", "second")
        .file("new/file", "second")
        .link("link", "new/file");
    let (first, second) = (of("first.tar", first), of("second.tar", second));
    machine.apply(&first).await.expect("applied");
    let (tree, ledger) = (machine.tree(), machine.read("/var/lib/nodebootstrap/workers/ledger.json"));
    let previous = machine.host().state.begun("workers").expect("a file");

    machine.apply_held(&second, usize::MAX).await.expect("applied");
    assert_eq!(machine.read("/opt/cni/theirs"), "theirs");
    assert_eq!(machine.read("/opt/cni/becomes-link"), "second");
    assert!(machine.is_there("/opt/cni/new/file") && !machine.is_there("/opt/cni/gone"));

    machine.roll_back("workers", previous.as_deref(), usize::MAX).await.expect("rolled back");
    assert!(machine.tree() == tree);
    assert_eq!(machine.read("/var/lib/nodebootstrap/workers/ledger.json"), ledger);
    assert!(machine.plan(&first).await.is_empty(), "what is in it is still known");
    machine.revert_by_hand("workers").await.expect("reverted");
    assert_eq!(machine.read("/opt/cni/theirs"), "theirs");
    assert!(!machine.is_there("/opt/cni/changed"));
}

#[tokio::test]
async fn what_is_put_back_gets_the_directories_above_it_again() {
    let machine = Machine::new();
    machine.directory("/opt/a/b");
    let of = |paths: &[&str]| {
        let files: Vec<_> = paths.iter().map(|path| json!({"path": path, "content": "ours"})).collect();
        request(json!({ "files": files }))
    };
    machine.apply(&of(&["/opt/a/b/f", "/etc/other"])).await.unwrap();
    let previous = machine.host().state.begun("workers").unwrap();
    machine.apply_held(&of(&["/etc/other"]), usize::MAX).await.unwrap();
    assert!(!machine.is_there("/opt/a/b/f"));
    std::fs::remove_dir_all(machine.path("/opt/a")).unwrap();
    machine.roll_back("workers", previous.as_deref(), usize::MAX).await.expect("rolled back");
    assert_eq!(machine.read("/opt/a/b/f"), "ours");
}

#[tokio::test]
async fn what_is_confirmed_is_not_rolled_back() {
    let machine = Machine::new();
    machine.write("/etc/motd", "theirs");
    machine
        .apply_held(&request(json!({"files": [{"path": "/etc/motd", "content": "ours"}]})), usize::MAX)
        .await
        .unwrap();
    rollback::finish(&machine.host(), "workers").expect("confirmed");
    assert_eq!(machine.roll_back("workers", None, usize::MAX).await.expect("nothing to do").len(), 0);
    assert_eq!(machine.read("/etc/motd"), "ours");
    machine.revert("workers").await.expect("reverted");
    assert_eq!(machine.read("/etc/motd"), "theirs");
}
