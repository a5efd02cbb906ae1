//! Parts of files that others own, and the modes of what is inside a directory.

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::support::{Machine, lines, reasons, request, try_request};

const HOSTS: &str = "127.0.0.1 localhost\r\n# theirs";

fn hosts(block: &str) -> Value {
    json!({"fileParts": [{"path": "/etc/hosts", "name": "registry", "block": block}]})
}

fn no_proxy(line: &str) -> Value {
    json!({"fileParts": [
        {"path": "/etc/env", "name": "no-proxy", "line": line, "replaces": "NO_PROXY=", "onChange": {"restart": ["run.service"]}},
    ]})
}

fn machine() -> Machine {
    let machine = Machine::new();
    machine.write("/etc/hosts", HOSTS);
    machine.set("/etc/hosts", 1, 50, 0o640);
    machine.write("/etc/env", "A=1\n NO_PROXY=theirs\nB=2\n");
    machine
}

fn of(name: &str, spec: Value) -> node_agent::engine::Request {
    try_request(name, spec, &Default::default()).unwrap()
}

#[tokio::test]
async fn a_block_is_made_changed_and_taken_out_and_all_else_stays() {
    let machine = machine();
    let attribute = "user.theirs";
    rustix::fs::setxattr(machine.path("/etc/hosts"), attribute, b"x", rustix::fs::XattrFlags::empty())
        .unwrap();
    let before = machine.tree();
    let made = machine.apply(&request(hosts("10.0.0.1 a\n10.0.0.2 b\n"))).await.unwrap();
    assert_eq!(lines(&made), ["part /etc/hosts#registry: add at the end of the file"]);
    let block = "# BEGIN nodebootstrap registry\r\n10.0.0.1 a\r\n10.0.0.2 b\r\n# END nodebootstrap registry";
    assert_eq!(
        machine.read("/etc/hosts"),
        format!("{HOSTS}\r\n{block}"),
        "the file's own way of ending lines"
    );
    assert_eq!(machine.access("/etc/hosts"), (1, 50, 0o640));
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(machine.path("/etc/hosts"), attribute, &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"x");
    assert_eq!(machine.leftovers(), Vec::<String>::new());

    // What is before and behind it is theirs, and no drift.
    let theirs = format!("new\r\n{HOSTS}\r\n{block}\r\nmore");
    machine.write("/etc/hosts", &theirs);
    machine.set("/etc/hosts", 1, 50, 0o640);
    assert!(machine.plan(&request(hosts("10.0.0.1 a\n10.0.0.2 b"))).await.is_empty());
    machine.write("/etc/hosts", &theirs.replace("10.0.0.2 b", "10.0.0.9 b"));
    let plan = machine.plan(&request(hosts("10.0.0.1 a\n10.0.0.2 b"))).await;
    assert_eq!(lines(plan.changes()), ["part /etc/hosts#registry: content of lines 4 to 7"]);
    assert_eq!(plan.changes().next().unwrap().found, "had other content");
    machine.apply(&request(hosts("10.0.0.1 a\n10.0.0.2 b"))).await.unwrap();
    assert_eq!(machine.read("/etc/hosts"), theirs);

    let made = machine.revert("workers").await.unwrap();
    assert_eq!(lines(&made), ["part /etc/hosts#registry: remove"]);
    assert_eq!(machine.read("/etc/hosts"), format!("new\r\n{HOSTS}\r\nmore"));

    // Not touched by anybody else, the file is byte for byte as before.
    machine.write("/etc/hosts", HOSTS);
    machine.set("/etc/hosts", 1, 50, 0o640);
    machine.apply(&request(hosts("x"))).await.unwrap();
    machine.revert("workers").await.unwrap();
    assert_eq!(machine.tree(), before);
}

#[tokio::test]
async fn a_line_takes_the_place_of_another_which_comes_back() {
    let machine = machine();
    machine.systemd.set("run.service", "active");
    let before = machine.tree();
    let made = machine.apply(&request(no_proxy("NO_PROXY=10.0.0.0/8"))).await.unwrap();
    assert_eq!(
        lines(&made),
        [
            "part /etc/env#no-proxy: content of line 2",
            "unit run.service: restart, because of part /etc/env#no-proxy",
        ]
    );
    assert_eq!(machine.read("/etc/env"), "A=1\nNO_PROXY=10.0.0.0/8\nB=2\n");
    // Edited, it is still theirs that comes back.
    machine.apply(&request(no_proxy("NO_PROXY=x"))).await.unwrap();
    machine.systemd.take_asked();
    let made = machine.revert("workers").await.unwrap();
    assert_eq!(lines(&made)[0], "part /etc/env#NO_PROXY=: content, as before");
    assert_eq!(machine.systemd.take_asked(), ["restart run.service"]);
    assert_eq!(machine.tree(), before);

    // Changed by somebody else since, it is left and said.
    machine.apply(&request(no_proxy("NO_PROXY=x"))).await.unwrap();
    machine.write("/etc/env", "NO_PROXY=other\n");
    let made = machine.revert("workers").await.unwrap();
    assert_eq!(lines(&made), ["part /etc/env#NO_PROXY=: left as it is: something else has changed it since"]);
    assert_eq!(machine.read("/etc/env"), "NO_PROXY=other\n");
}

#[tokio::test]
async fn what_is_not_clear_is_a_problem_and_nothing_is_touched() {
    let machine = Machine::new();
    machine.write("/etc/two", "NO_PROXY=a\nx\nNO_PROXY=b\n");
    machine.write("/etc/half", "# BEGIN nodebootstrap p\nx\n");
    machine.write("/etc/linked", "x\n");
    std::fs::hard_link(machine.path("/etc/linked"), machine.path("/etc/other-name")).unwrap();
    machine.link("/etc/link", "half");
    machine.directory("/etc/folder");
    std::fs::write(machine.path("/etc/large"), vec![b'\n'; (1 << 20) + 1]).unwrap();
    std::fs::write(machine.path("/etc/bytes"), b"NO_PROXY=\xff\n").unwrap();
    let block = |path: &str| json!({"path": path, "name": "p", "block": "ours"});
    let line = |path: &str| json!({"path": path, "name": "p", "line": "NO_PROXY=c", "replaces": "NO_PROXY="});
    let spec = request(json!({"fileParts": [
        line("/etc/two"), block("/etc/half"), block("/etc/linked"), block("/etc/link"), block("/etc/folder"),
        block("/etc/large"), line("/etc/bytes"), block("/etc/missing"), block("/no/such/file"),
    ]}));
    let before = machine.tree();
    let plan = machine.plan(&spec).await;
    assert_eq!(
        reasons(&plan),
        [
            "part /etc/bytes#p: PartDamaged",
            "part /etc/folder#p: PathOccupied",
            "part /etc/half#p: PartDamaged",
            "part /etc/large#p: TooLarge",
            "part /etc/link#p: PathOccupied",
            "part /etc/linked#p: HardLinked",
            "part /etc/missing#p: NoSuchFile",
            "part /etc/two#p: SeveralLines",
            "part /no/such/file#p: NoSuchFile",
        ]
    );
    assert!(plan.problems[7].message.contains("lines 1 and 3"), "{:?}", plan.problems[7]);
    assert!(plan.problems[2].message.contains("line 1 is"), "{:?}", plan.problems[2]);
    machine.apply(&spec).await.unwrap_err();
    assert!(machine.tree() == before);
}

#[tokio::test]
async fn several_have_parts_of_one_file_but_not_the_same_and_not_beside_the_whole() {
    let machine = machine();
    let before = machine.tree();
    let part =
        |name: &str, line: &str| json!({"fileParts": [{"path": "/etc/hosts", "name": name, "line": line}]});
    machine.apply(&of("a", hosts("10.0.0.1 a"))).await.unwrap();
    machine.apply(&of("b", part("b", "10.0.0.2 b"))).await.unwrap();
    for (spec, resource) in [
        (hosts("other"), "part /etc/hosts#registry"),
        (part("c", "10.0.0.2 b"), "part /etc/hosts#c"),
        (json!({"files": [{"path": "/etc/hosts", "content": "x"}]}), "file /etc/hosts"),
    ] {
        let plan = machine.plan(&of("c", spec)).await;
        let mut told = reasons(&plan);
        told.dedup();
        assert_eq!(told, [format!("{resource}: Conflict")]);
    }
    let whole = json!({"files": [{"path": "/etc/env", "content": "x"}]});
    machine.apply(&of("d", whole)).await.unwrap();
    let plan = machine.plan(&of("e", no_proxy("NO_PROXY=x"))).await;
    assert_eq!(reasons(&plan), ["part /etc/env#no-proxy: Conflict"]);
    machine.revert("d").await.unwrap();
    for name in ["a", "b"] {
        machine.revert(name).await.unwrap();
    }
    assert_eq!(machine.tree(), before);

    // Given up by one and named by another, it stays.
    machine.apply(&of("a", hosts("10.0.0.1 a"))).await.unwrap();
    node_agent::engine::give_up(&machine.host(), "a").unwrap();
    machine.apply(&of("b", hosts("10.0.0.1 a"))).await.unwrap();
    let made = machine.revert_by_hand("a").await.unwrap();
    assert_eq!(
        lines(&made),
        ["part /etc/hosts#registry: left as it is: another NodeBootstrap on this host names it"]
    );
}

#[tokio::test]
async fn a_part_that_becomes_the_whole_file_leaves_no_trace_in_what_is_put_back() {
    let whole = || request(json!({"files": [{"path": "/etc/hosts", "content": "ours\n"}]}));
    for (killed_after, goes_on) in [(0, true), (1, true), (0, false), (1, false), (2, false)] {
        let machine = machine();
        let before = machine.tree();
        machine.apply(&request(hosts("10.0.0.1 a"))).await.unwrap();
        let _ = machine.apply_until(&whole(), killed_after).await;
        if goes_on {
            machine.apply(&whole()).await.unwrap();
            assert_eq!(machine.read("/etc/hosts"), "ours\n");
        }
        let made = machine.revert("workers").await.unwrap();
        assert!(!made.iter().any(|change| change.is_left()), "{killed_after}: {made:?}");
        assert_eq!(machine.tree(), before, "{killed_after}");
    }
    // The other way round it takes two steps, and says so.
    let machine = machine();
    machine.apply(&whole()).await.unwrap();
    assert_eq!(reasons(&machine.plan(&request(hosts("x"))).await), ["part /etc/hosts#registry: FileLeaves"]);
    machine.apply(&request(json!({}))).await.unwrap();
    machine.apply(&request(hosts("x"))).await.unwrap();
}

#[tokio::test]
async fn an_edit_of_its_name_comment_or_kind_leaves_nothing_of_it_behind() {
    let machine = machine();
    let before = machine.tree();
    for part in [
        json!({"path": "/etc/hosts", "name": "a", "block": "x"}),
        json!({"path": "/etc/hosts", "name": "b", "block": "x"}),
        json!({"path": "/etc/hosts", "name": "b", "block": "x", "comment": ";"}),
        json!({"path": "/etc/hosts", "name": "b", "line": "x"}),
        json!({"path": "/etc/hosts", "name": "c", "line": "x"}),
        json!({"path": "/etc/hosts", "name": "c", "line": "x=1", "replaces": "x="}),
        json!({"path": "/etc/hosts", "name": "c", "line": "x=1", "replaces": "x"}),
    ] {
        let spec = request(json!({"fileParts": [part]}));
        machine.apply(&spec).await.unwrap();
        assert!(machine.plan(&spec).await.is_empty());
        let ours = machine.read("/etc/hosts").replace(HOSTS, "");
        assert!(ours.matches('x').count() == 1, "{ours:?}");
    }
    machine.revert("workers").await.unwrap();
    assert_eq!(machine.tree(), before);

    // A line that comes back, and is wanted so from then on, was never ours.
    machine.apply(&request(no_proxy("NO_PROXY=x"))).await.unwrap();
    let theirs = json!({"fileParts": [{"path": "/etc/env", "name": "a", "line": " NO_PROXY=theirs"}]});
    machine.apply(&request(theirs)).await.unwrap();
    machine.revert("workers").await.unwrap();
    assert_eq!(machine.tree(), before);
}

#[test]
fn who_writes_to_the_file_meanwhile_loses_nothing() {
    let machine = machine();
    let path = machine.path("/etc/hosts");
    let (stop, other) = (AtomicBool::new(false), path.clone());
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut written = 0;
            while !stop.load(Ordering::Relaxed) && written < 2000 {
                // As any careful program: a new file, renamed over the old one.
                let content = std::fs::read_to_string(&other).unwrap();
                let next = other.with_extension("theirs");
                std::fs::write(&next, format!("{written}\n{content}")).unwrap();
                if std::fs::read_to_string(&other).unwrap() == content {
                    std::fs::rename(&next, &other).unwrap();
                    written += 1;
                }
                std::thread::sleep(std::time::Duration::from_micros(300));
            }
            written
        });
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            for round in 0..20 {
                // Given up after a few tries, the next pass goes on.
                let _ = machine.apply(&request(hosts(&format!("10.0.0.1 a{round}")))).await;
            }
        });
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    });
    let content = std::fs::read_to_string(&path).unwrap();
    assert!(content.contains(HOSTS), "{content}");
    assert_eq!(machine.leftovers(), Vec::<String>::new());
}

fn inside(modes: Value) -> Value {
    json!({"directories": [{"path": "/srv/app", "owner": "daemon", "recursive": true, "inside": modes}]})
}

fn app() -> Machine {
    let machine = Machine::new();
    machine.directory("/srv/app/sub");
    machine.set("/srv/app/sub", 0, 0, 0o2777);
    for (file, mode) in [("f", 0o644), ("program", 0o4755), ("sub/g", 0o600)] {
        let path = format!("/srv/app/{file}");
        machine.write(&path, "x");
        machine.set(&path, 0, 0, mode);
    }
    machine.link("/srv/app/link", "/etc/passwd");
    machine
}

#[tokio::test]
async fn what_is_inside_gets_modes_and_gets_back_its_own() {
    let machine = app();
    let before = machine.tree();
    let spec = request(inside(json!({"fileMode": "0640", "directoryMode": "0750"})));
    let made = machine.apply(&spec).await.unwrap();
    assert_eq!(
        lines(&made)[0],
        "directory /srv/app: owner or mode of 5 entries inside to daemon:root, files 0640, directories 0750"
    );
    for (path, mode) in [("f", 0o640), ("program", 0o640), ("sub", 0o750), ("sub/g", 0o640)] {
        assert_eq!(machine.access(&format!("/srv/app/{path}")), (1, 0, mode), "{path}");
    }
    assert_eq!(machine.access("/etc/passwd"), (0, 0, 0o644), "no link is followed");
    assert!(machine.plan(&spec).await.is_empty());

    // Drift, and what comes later.
    machine.set("/srv/app/f", 1, 0, 0o666);
    machine.write("/srv/app/new", "x");
    let made = machine.apply(&spec).await.unwrap();
    assert_eq!(made[0].found, "had 2 entries inside with another owner or mode");
    assert_eq!(machine.access("/srv/app/f"), (1, 0, 0o640));
    std::fs::remove_file(machine.path("/srv/app/new")).unwrap();

    let made = machine.revert("workers").await.unwrap();
    assert!(made.iter().all(|change| !change.is_left()), "{made:?}");
    assert_eq!(machine.tree(), before, "set-uid bits and all");
}

#[tokio::test]
async fn modes_follow_edits_and_what_others_set_stays_theirs() {
    let machine = app();
    let before = machine.tree();
    let edits = [
        inside(json!({"fileMode": "0640"})),
        inside(json!({"fileMode": "0600", "directoryMode": "0700"})),
        json!({"directories": [{"path": "/srv/app", "owner": "daemon", "recursive": true}]}),
        inside(json!({"directoryMode": "0755"})),
    ];
    for (edit, killed_after) in edits.iter().zip([0, 1, 0, 1]) {
        let _ = machine.apply_until(&request(edit.clone()), killed_after).await;
        machine.apply(&request(edit.clone())).await.unwrap();
    }
    assert_eq!(machine.access("/srv/app/f"), (1, 0, 0o600), "a mode that left the spec stays");
    machine.revert("workers").await.unwrap();
    assert_eq!(machine.tree(), before);

    // With an entry of its own, and without it again.
    let mut both = inside(json!({"fileMode": "0640", "directoryMode": "0750"}));
    both["files"] = json!([{"path": "/srv/app/f", "content": "ours"}, {"path": "/srv/app/sub/deep/h", "content": "ours"}]);
    both["directories"].as_array_mut().unwrap().push(json!({"path": "/srv/app/sub/deep/er"}));
    let alone = inside(json!({"fileMode": "0640", "directoryMode": "0750"}));
    for edit in [&alone, &both, &alone, &both] {
        machine.apply(&request(edit.clone())).await.unwrap();
        assert!(machine.plan(&request(edit.clone())).await.is_empty());
    }
    assert_eq!(machine.access("/srv/app/sub/deep"), (1, 0, 0o750), "made above an entry");
    machine.revert("workers").await.unwrap();
    assert_eq!(machine.tree(), before);

    // Whoever changed it since keeps it so.
    machine.apply(&request(inside(json!({"fileMode": "0640"})))).await.unwrap();
    machine.set("/srv/app/f", 1, 0, 0o444);
    let made = machine.revert("workers").await.unwrap();
    assert!(lines(&made).iter().any(|line| line.contains("/srv/app/f inside is not as before")), "{made:?}");
    assert_eq!(machine.access("/srv/app/f"), (0, 0, 0o444));
}

#[tokio::test]
async fn a_file_with_other_names_in_a_user_s_directory_keeps_its_mode() {
    let machine = app();
    machine.set("/srv/app", 1, 0, 0o755);
    machine.write("/etc/secret", "x");
    machine.set("/etc/secret", 1, 0, 0o600);
    std::fs::hard_link(machine.path("/etc/secret"), machine.path("/srv/app/theirs")).unwrap();
    let spec = request(inside(json!({"fileMode": "0644"})));
    machine.apply(&spec).await.unwrap();
    assert_eq!(machine.access("/etc/secret"), (1, 0, 0o600));
    assert_eq!(machine.path("/srv/app/f").metadata().unwrap().mode() & 0o777, 0o644);
    assert!(machine.plan(&spec).await.warnings.iter().any(|warning| warning.contains("owner and mode")));
}

#[tokio::test]
async fn a_program_takes_the_place_of_a_file_with_a_part_of_ours() {
    let machine = Machine::new();
    machine.write("/etc/motd", "theirs\n");
    machine.write("/opt/program", "program");
    let before = machine.tree();
    let part = request(json!({"fileParts": [{"path": "/etc/motd", "name": "n", "line": "ours"}]}));
    machine.apply(&part).await.unwrap();
    let sha256 = crds::Sha256::of(b"program").to_string();
    let digests = json!({"amd64": sha256, "arm64": sha256});
    let binary = json!({"path": "/etc/motd", "url": "file:///opt/program", "sha256": digests});
    let binary = request(json!({"binaries": [binary]}));
    let planned = machine.plan(&binary).await;
    let made = machine.apply(&binary).await.unwrap();
    assert_eq!(lines(&made), lines(planned.changes()));
    assert_eq!((machine.read("/etc/motd").as_str(), machine.leftovers().len()), ("program", 0));
    machine.revert("workers").await.unwrap();
    assert_eq!(machine.tree(), before);
}
