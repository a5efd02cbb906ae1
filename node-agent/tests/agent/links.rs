//! Symbolic links.

use serde_json::{Value, json};

use crate::support::{Machine, lines, reasons, request};

fn link(path: &str, target: &str) -> Value {
    json!({"symlinks": [{"path": path, "target": target}]})
}

fn target(machine: &Machine, path: &str) -> String {
    std::fs::read_link(machine.path(path)).expect("a link").to_string_lossy().into_owned()
}

#[tokio::test]
async fn a_link_is_made_as_it_is_written_and_repaired() {
    let machine = Machine::new();
    let before = machine.tree();
    let spec = request(link("/opt/app", "../usr/sbin/not-there"));
    assert_eq!(
        lines(&machine.apply(&spec).await.unwrap()),
        ["symlink /opt/app: create, to ../usr/sbin/not-there"]
    );
    assert_eq!(target(&machine, "/opt/app"), "../usr/sbin/not-there");
    assert!(machine.plan(&spec).await.is_empty());

    std::fs::remove_file(machine.path("/opt/app")).unwrap();
    machine.link("/opt/app", "/elsewhere");
    std::os::unix::fs::lchown(machine.path("/opt/app"), Some(1), None).unwrap();
    let made = machine.apply(&spec).await.unwrap();
    assert_eq!(made[0].found, "led to /elsewhere, belonged to daemon:root");
    assert_eq!(target(&machine, "/opt/app"), "../usr/sbin/not-there");
    assert_eq!(machine.access("/opt/app").0, 0);

    machine.revert("workers").await.unwrap();
    assert_eq!(machine.tree(), before);
}

#[tokio::test]
async fn a_link_that_was_there_is_replaced_and_put_back_with_its_owner() {
    let machine = Machine::new();
    machine.link("/opt/app", "v1");
    std::os::unix::fs::lchown(machine.path("/opt/app"), Some(1), Some(50)).unwrap();
    let before = machine.tree();
    machine.apply(&request(link("/opt/app", "v2"))).await.unwrap();
    machine.apply(&request(link("/opt/app", "v3"))).await.unwrap();
    assert_eq!((target(&machine, "/opt/app").as_str(), machine.access("/opt/app").0), ("v3", 0));
    assert_eq!(machine.leftovers(), Vec::<String>::new());
    let made = machine.revert("workers").await.unwrap();
    assert_eq!(lines(&made), ["symlink /opt/app: target v1 as before"]);
    assert_eq!(machine.tree(), before);
}

#[tokio::test]
async fn a_link_that_was_there_and_is_given_away_when_its_entry_goes_gets_its_owner_back() {
    let machine = Machine::new();
    machine.directory("/opt/d");
    machine.link("/opt/d/app", "v1");
    machine.write("/opt/d/file", "theirs");
    let before = machine.tree();
    let directory = json!([{"path": "/opt/d", "owner": "daemon", "recursive": true}]);
    let mut spec = link("/opt/d/app", "v1");
    spec["directories"] = directory.clone();
    spec["files"] = json!([{"path": "/opt/d/file", "content": "theirs"}]);
    machine.apply(&request(spec)).await.unwrap();
    machine.apply(&request(json!({"directories": directory}))).await.unwrap();
    assert_eq!((machine.access("/opt/d/app").0, machine.access("/opt/d/file").0), (1, 1));
    machine.revert("workers").await.unwrap();
    assert_eq!(machine.tree(), before);
}

#[tokio::test]
async fn what_is_no_link_is_left_and_so_is_a_link_that_somebody_made_lead_elsewhere() {
    let machine = Machine::new();
    machine.write("/opt/file", "theirs");
    machine.directory("/opt/folder");
    for path in ["/opt/file", "/opt/folder"] {
        assert_eq!(
            reasons(&machine.plan(&request(link(path, "x"))).await),
            [format!("symlink {path}: PathOccupied")]
        );
    }
    assert_eq!(
        reasons(&machine.plan(&request(link("/no/such/app", "x"))).await),
        ["symlink /no/such/app: NoDirectory"]
    );

    machine.apply(&request(link("/opt/app", "ours"))).await.unwrap();
    std::fs::remove_file(machine.path("/opt/app")).unwrap();
    machine.link("/opt/app", "theirs");
    let made = machine.revert("workers").await.unwrap();
    assert!(made.len() == 1 && made[0].is_left(), "{made:?}");
    assert_eq!(target(&machine, "/opt/app"), "theirs");
}
