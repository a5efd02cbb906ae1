//! Nobody but root can lead the agent to another place than the one that was named.

use std::os::unix::fs::MetadataExt;

use serde_json::json;

use crate::support::{Machine, lines, reasons, request};

const USER: u32 = 4242;

#[tokio::test]
async fn links_of_root_lead_and_stay_inside_the_root() {
    let machine = Machine::new();
    machine.directory("/data/real");
    machine.link("/opt/a", "/data/real");
    machine.link("/opt/b", "../../../../data/real");
    machine.link("/opt/c", "b");
    let request = request(json!({"files": [
        {"path": "/opt/a/1", "content": "x"},
        {"path": "/opt/b/2", "content": "x"},
        {"path": "/opt/c/3", "content": "x"},
    ]}));
    machine.apply(&request).await.unwrap();
    for name in ["1", "2", "3"] {
        assert_eq!(machine.read(&format!("/data/real/{name}")), "x");
    }
}

#[tokio::test]
async fn links_that_a_user_could_have_made_are_not_followed() {
    for (uid, gid, mode) in [(USER, USER, 0o755), (0, 0, 0o777), (0, USER, 0o775)] {
        let machine = Machine::new();
        machine.directory("/home/eve");
        machine.set("/home/eve", uid, gid, mode);
        machine.link("/home/eve/x", "/etc");
        let request = request(json!({
            "directories": [{"path": "/home/eve/x/d"}],
            "files": [{"path": "/home/eve/x/passwd", "content": "owned"}],
        }));
        let before = machine.tree();
        let plan = machine.plan(&request).await;
        assert_eq!(
            reasons(&plan),
            ["directory /home/eve/x/d: UnsafeLink", "file /home/eve/x/passwd: UnsafeLink"],
            "{uid} {gid} {mode:o}"
        );
        let message = &plan.problems[0].message;
        assert!(
            message.contains("/home/eve/x is a symbolic link") && message.contains("name the path"),
            "{message}"
        );
        machine.apply(&request).await.unwrap_err();
        assert_eq!(machine.tree(), before);
    }
}

#[tokio::test]
async fn in_a_sticky_directory_the_link_s_owner_counts() {
    let machine = Machine::new();
    machine.directory("/tmp");
    machine.set("/tmp", 0, 0, 0o1777);
    machine.directory("/data");
    machine.link("/tmp/root", "/data");
    machine.link("/tmp/eve", "/data");
    std::os::unix::fs::lchown(machine.path("/tmp/eve"), Some(USER), Some(USER)).unwrap();
    let request = request(json!({"files": [
        {"path": "/tmp/root/f", "content": ""},
        {"path": "/tmp/eve/f", "content": ""},
    ]}));
    assert_eq!(reasons(&machine.plan(&request).await), ["file /tmp/eve/f: UnsafeLink"]);
}

#[tokio::test]
async fn what_stands_in_the_way_is_told_and_left() {
    let machine = Machine::new();
    machine.write("/opt/file", "mine");
    machine.link("/opt/link", "/opt/file");
    machine.link("/opt/loop1", "loop2");
    machine.link("/opt/loop2", "loop1");
    rustix::fs::mkfifoat(rustix::fs::CWD, machine.path("/opt/pipe"), rustix::fs::Mode::from_raw_mode(0o600))
        .unwrap();
    let request = request(json!({
        "directories": [{"path": "/opt/file/below"}, {"path": "/opt/loop1/x"}],
        "files": [{"path": "/opt/link", "content": "x"}, {"path": "/opt/pipe", "content": "x"}],
    }));
    let before = machine.tree();
    assert_eq!(
        reasons(&machine.plan(&request).await),
        [
            "directory /opt/file/below: PathOccupied",
            "directory /opt/loop1/x: PathOccupied",
            "file /opt/link: PathOccupied",
            "file /opt/pipe: PathOccupied",
        ]
    );
    machine.apply(&request).await.unwrap_err();
    assert_eq!(machine.tree(), before);
}

#[tokio::test]
async fn two_names_of_one_place_are_a_problem() {
    let machine = Machine::new();
    machine.link("/link", "opt");
    let request = request(json!({"files": [
        {"path": "/link/f", "content": "a"},
        {"path": "/opt/f", "content": "b"},
    ]}));
    assert_eq!(reasons(&machine.plan(&request).await), ["file /opt/f: SamePath"]);
}

#[tokio::test]
async fn recursion_gives_owners_but_follows_no_link_and_spares_entries_of_their_own() {
    let machine = Machine::new();
    machine.directory("/data/top/own/deep");
    machine.directory("/data/top/other/deep");
    machine.directory("/outside");
    machine.write("/outside/f", "");
    machine.write("/data/top/plain", "");
    machine.write("/data/top/listed", "listed");
    machine.write("/data/top/own/deep/f", "");
    machine.write("/data/top/other/deep/f", "");
    machine.write("/data/top/claimed", "claimed");
    machine.link("/data/top/link", "/outside");
    machine.set("/data/top/plain", 7, 7, 0o4640);

    let other = crate::support::try_request(
        "other",
        json!({"files": [{"path": "/data/top/claimed", "content": "claimed"}]}),
        &Default::default(),
    );
    machine.apply(&other.unwrap()).await.unwrap();

    let request = request(json!({
        "directories": [
            {"path": "/data/top", "owner": "daemon", "group": "daemon", "recursive": true},
            {"path": "/data/top/own", "owner": "root", "group": "staff", "recursive": true},
            {"path": "/data/top/other"},
            {"path": "/data/top/new/deeper", "owner": "root"},
        ],
        "files": [{"path": "/data/top/listed", "content": "listed"}],
    }));
    let made = lines(&machine.apply(&request).await.unwrap());
    // plain, link, other/deep and other/deep/f.
    assert!(
        made.contains(&"directory /data/top: owner of 4 entries inside to daemon:daemon".to_owned()),
        "{made:#?}"
    );
    let owner = |path: &str| {
        let meta = machine.path(path).symlink_metadata().unwrap();
        (meta.uid(), meta.gid())
    };
    for (path, expected) in [
        ("/data/top", (1, 1)),
        ("/data/top/plain", (1, 1)),
        ("/data/top/link", (1, 1)),
        ("/data/top/other", (0, 0)),
        ("/data/top/other/deep", (1, 1)),
        ("/data/top/other/deep/f", (1, 1)),
        ("/data/top/own", (0, 50)),
        ("/data/top/own/deep/f", (0, 50)),
        ("/data/top/listed", (0, 0)),
        ("/data/top/claimed", (0, 0)),
        ("/data/top/new", (1, 1)),
        ("/data/top/new/deeper", (0, 0)),
        ("/outside", (0, 0)),
        ("/outside/f", (0, 0)),
    ] {
        assert_eq!(owner(path), expected, "{path}");
    }
    assert!(machine.plan(&request).await.is_empty());
}

#[tokio::test]
async fn hard_links_in_a_user_s_directory_are_left_alone() {
    let machine = Machine::new();
    machine.write("/etc/precious", "precious");
    machine.directory("/home/eve/inside");
    std::fs::hard_link(machine.path("/etc/precious"), machine.path("/home/eve/inside/x")).unwrap();
    machine.set("/home/eve/inside", USER, USER, 0o755);
    machine.set("/home/eve", USER, USER, 0o755);
    let recursive = request(json!({
        "directories": [{"path": "/home/eve", "owner": USER.to_string(), "group": USER.to_string(), "recursive": true}],
    }));
    let plan = machine.plan(&recursive).await;
    assert!(plan.is_empty() && plan.warnings[0].contains("/home/eve/inside/x"), "{plan:?}");
    machine.apply(&recursive).await.unwrap();
    assert_eq!(machine.access("/etc/precious"), (0, 0, 0o644));

    // A file of ours there is written anew, so that the other name keeps what it has.
    let file = request(json!({"files": [
        {"path": "/home/eve/inside/x", "content": "precious", "owner": USER.to_string(), "mode": "0666"},
    ]}));
    machine.apply(&file).await.unwrap();
    assert_eq!(machine.access("/etc/precious"), (0, 0, 0o644));
    assert_eq!(machine.access("/home/eve/inside/x"), (USER, 0, 0o666));
}

#[tokio::test]
async fn root_s_things_below_a_user_s_directory_are_a_warning() {
    let machine = Machine::new();
    let request = request(json!({
        "directories": [
            {"path": "/etc/kubernetes", "owner": "daemon"},
            {"path": "/etc/kubernetes/ours", "owner": "root"},
        ],
        "files": [{"path": "/etc/kubernetes/f", "content": ""}],
    }));
    let expected = "directory /etc/kubernetes/ours and 1 more belong to root but lie below /etc/kubernetes, which belongs to daemon: daemon can put something else there";
    assert_eq!(machine.plan(&request).await.warnings, [expected]);
    machine.apply(&request).await.unwrap();
    assert_eq!(machine.plan(&request).await.warnings, [expected], "the same before and after");
}

#[tokio::test]
async fn long_names_and_odd_names_can_be_written() {
    let machine = Machine::new();
    let long = format!("/opt/{}", "n".repeat(250));
    let request = request(json!({"files": [
        {"path": long, "content": "x"},
        {"path": "/opt/a b\u{e4}", "content": "x"},
        {"path": "/opt/-rf", "content": "x"},
    ]}));
    machine.apply(&request).await.unwrap();
    assert_eq!(machine.read(&long), "x");
    assert_eq!(machine.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_link_that_the_spec_itself_gives_to_a_user_is_not_followed_even_once() {
    let machine = Machine::new();
    machine.directory("/data/app");
    machine.link("/data/app/link", "/etc");
    for directories in [
        json!([{"path": "/data/app", "owner": "daemon"}]),
        json!([{"path": "/data/app", "mode": "0777"}]),
        json!([{"path": "/data", "owner": "daemon", "recursive": true}]),
    ] {
        let request = request(json!({
            "directories": directories,
            "files": [{"path": "/data/app/link/f", "content": ""}],
        }));
        let before = machine.tree();
        assert_eq!(reasons(&machine.plan(&request).await), ["file /data/app/link/f: UnsafeLink"]);
        machine.apply(&request).await.unwrap_err();
        assert_eq!(machine.tree(), before);
    }
}

#[tokio::test]
async fn a_link_leads_nowhere_that_the_api_refuses() {
    let machine = Machine::new();
    machine.link("/opt/rl", "/");
    machine.directory("/proc/sys");
    machine.directory("/var/lib/nodebootstrap/other");
    let spec = request(json!({"files": [
        {"path": "/opt/rl/etc/shadow", "content": ""},
        {"path": "/opt/rl/proc/sys/x", "content": ""},
        {"path": "/opt/rl/var/lib/nodebootstrap/other/revision.json", "content": ""},
    ]}));
    let plan = machine.plan(&spec).await;
    assert_eq!(plan.problems.iter().filter(|problem| problem.reason == "PathRefused").count(), 3, "{plan:?}");
    assert!(plan.problems[0].message.contains("leads to /etc/shadow"), "{plan:?}");
}

#[tokio::test]
async fn a_directory_under_the_name_of_the_next_content_is_named() {
    let machine = Machine::new();
    let spec = request(json!({"files": [{"path": "/opt/f", "content": "x"}]}));
    let taken = format!("/opt/{}", node_agent::host::write::temporary_name("f"));
    machine.directory(&format!("{taken}/theirs"));
    let failure = machine.apply(&spec).await.unwrap_err();
    assert_eq!(failure.reason, "PathOccupied");
    assert!(failure.message.contains(&taken) && failure.message.contains("must remove it"), "{failure:?}");
}
