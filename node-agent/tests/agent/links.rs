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

#[tokio::test]
async fn a_link_and_a_file_take_each_other_s_place_where_an_earlier_revision_made_it() {
    let file = json!({"files": [{"path": "/opt/x", "content": "ours"}]});
    let (file, link) = (request(file), request(link("/opt/x", "/etc/passwd")));
    for theirs in [false, true] {
        for (first, second, change) in [
            (&file, &link, "symlink /opt/x: create in place of the file, to /etc/passwd"),
            (&link, &file, "file /opt/x: create in place of the symbolic link, root:root 0644"),
        ] {
            let machine = Machine::new();
            match theirs {
                true if first.name == file.name => machine.write("/opt/x", "theirs"),
                true => machine.link("/opt/x", "theirs"),
                false => {}
            }
            let before = machine.tree();
            assert_eq!(machine.plan(second).await.problems.len(), usize::from(theirs));
            machine.apply(first).await.unwrap();
            // What is not confirmed is rolled back.
            let (made, previous) = (machine.tree(), machine.host().state.begun("workers").unwrap());
            machine.apply_held(second, usize::MAX).await.unwrap();
            machine.roll_back("workers", previous.as_deref(), usize::MAX).await.unwrap();
            assert_eq!(machine.tree(), made);
            // Nor does a run that was stopped before it, or a way back, make it somebody else's.
            machine.apply_until(second, 0).await.unwrap_err();
            assert_eq!(lines(&machine.apply(second).await.unwrap()), [change]);
            machine.apply(first).await.unwrap();
            machine.apply(second).await.unwrap();
            assert_eq!(machine.leftovers(), Vec::<String>::new());
            machine.revert("workers").await.unwrap();
            assert_eq!(machine.tree(), before, "{change}, {theirs}");

            // What somebody has changed since is theirs.
            machine.apply(first).await.unwrap();
            std::fs::remove_file(machine.path("/opt/x")).unwrap();
            match first.name == file.name {
                true => machine.write("/opt/x", "changed"),
                false => machine.link("/opt/x", "changed"),
            }
            let plan = machine.plan(second).await;
            assert!(plan.problems[0].message.ends_with("nothing is deleted"), "{plan:?}");
        }
    }
}

#[tokio::test]
async fn a_directory_in_place_of_what_an_earlier_revision_made_is_had_in_two_steps_as_it_says() {
    let directory = request(
        json!({"directories": [{"path": "/opt/x"}], "files": [{"path": "/opt/x/f", "content": "ours"}]}),
    );
    let file = request(json!({"files": [{"path": "/opt/x", "content": "ours"}]}));
    let (link, none) = (request(link("/opt/x", "/etc")), request(json!({"groups": [{"name": "k"}]})));
    for (first, second) in
        [(&file, &directory), (&directory, &file), (&link, &directory), (&directory, &link)]
    {
        let machine = Machine::new();
        let before = machine.tree();
        machine.apply(first).await.unwrap();
        let plan = machine.plan(second).await;
        assert!(!plan.problems.is_empty());
        for problem in &plan.problems {
            assert!(
                problem.message.ends_with(
                    "an earlier revision made it so: apply the spec once without this entry, and then with it"
                ),
                "{problem:?}"
            );
        }
        machine.apply(&none).await.unwrap();
        machine.apply(second).await.unwrap();
        machine.revert("workers").await.unwrap();
        assert_eq!(machine.tree(), before);
    }
}
