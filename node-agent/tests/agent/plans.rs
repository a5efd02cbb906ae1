//! What a plan says, and that it is what happens.

use crds::revision::Values;
use node_agent::engine;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use serde_json::json;

use crate::support::{Machine, lines, reasons, request, try_request};

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
        "directories": [{"path": "/opt/file"}, {"path": "/opt/x/y", "owner": "stranger", "group": "strangers"}],
        "files": [
            {"path": "/opt/directory", "content": ""},
            {"path": "/nowhere/f", "content": ""},
            // Its directory is listed, though it cannot be made: that is no reason of its own.
            {"path": "/opt/x/y/f", "content": ""},
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
            "directory /opt/x/y: NoSuchUser",
            "directory /opt/x/y: NoSuchGroup",
            "directory /opt/file: PathOccupied",
            "file /nowhere/f: NoDirectory",
            "file /opt/directory: PathOccupied",
            "unit unknown.service: UnitUnknown",
        ]
    );
    assert_eq!(plan.steps.len(), 0, "a plan with problems has no changes to begin with");
    assert_eq!(
        lines(&plan.held_back),
        ["group good: create with gid 999", "file /opt/x/y/f: create, root:root 0644"]
    );
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

/// That a plan has these problems, and that an apply changes nothing because of them.
async fn refused(machine: &Machine, spec: serde_json::Value, expected: &[&str]) -> Vec<String> {
    let request = request(spec);
    let before = machine.tree();
    let plan = machine.plan(&request).await;
    assert_eq!(reasons(&plan), expected);
    assert_eq!(plan.steps.len(), 0);
    machine.apply(&request).await.unwrap_err();
    assert_eq!(machine.tree(), before);
    plan.problems.into_iter().map(|problem| problem.message).collect()
}

#[tokio::test]
async fn a_read_only_disk_is_told_with_where_to_go_instead_beside_all_else() {
    let machine = Machine::new();
    let _usr = machine.mount("/usr", "ro");
    let spec = json!({
        "groups": [{"name": "clash", "gid": 1}],
        "directories": [{"path": "/usr/a/b"}, {"path": "/opt/c"}],
        "files": [{"path": "/usr/f", "content": "x"}, {"path": "/opt/f", "content": "x"}],
    });
    let expected = [
        "group clash: IdTaken",
        "directory /usr/a: ReadOnly",
        "directory /usr/a/b: ReadOnly",
        "file /usr/f: ReadOnly",
    ];
    let told = refused(&machine, spec, &expected).await;
    assert_eq!(
        told[3],
        "/usr/f lies on a file system that is read-only on this host: name a path below /opt, /etc or /var/lib"
    );
}

#[tokio::test]
async fn what_is_in_order_needs_no_disk_that_can_be_written_to() {
    let machine = Machine::new();
    let spec = json!({"directories": [{"path": "/usr/sbin"}]});
    let usr = machine.mount("/usr", "mode=755");
    machine.directory("/usr/sbin");
    let remount = ["-o", "remount,ro"];
    let path = machine.path("/usr");
    assert!(std::process::Command::new("mount").args(remount).arg(&path).status().unwrap().success());
    assert_eq!(machine.apply(&request(spec)).await.unwrap(), []);
    drop(usr);
}

#[tokio::test]
async fn a_disk_without_room_is_told_before_anything_is_begun() {
    let machine = Machine::new();
    let _small = machine.mount("/opt/small", "size=1500k");
    let _few = machine.mount("/opt/few", "size=4m,nr_inodes=3");
    let _unbounded = machine.mount("/opt/unbounded", "size=0,nr_inodes=0");
    let files = |folder: &str, count: usize, bytes: usize| {
        let file = |n| json!({"path": format!("{folder}/{n}"), "content": "x".repeat(bytes)});
        json!({"files": (0..count).map(file).collect::<Vec<_>>()})
    };
    let told = refused(&machine, files("/opt/small", 3, 200_000), &["file /opt/small/0: NoSpace"]).await;
    assert_eq!(
        told[0],
        "with all else that goes there its disk needs 1610 KiB, 1024 KiB of which stay free, and has 1500 KiB: free some space, or choose another path"
    );
    refused(&machine, files("/opt/few", 2, 1), &["file /opt/few/0: NoSpace"]).await;
    for spec in [files("/opt/small", 2, 200_000), files("/opt/few", 1, 1), files("/opt/unbounded", 3, 1)] {
        machine.apply(&request(spec)).await.unwrap();
    }
}

#[tokio::test]
async fn what_cannot_be_kept_to_be_put_back_is_told_before_anything_is_begun() {
    let machine = Machine::new();
    let big = |path: &str, bytes: u64| {
        std::fs::File::create(machine.path(path)).unwrap().set_len(bytes).unwrap();
    };
    big("/opt/a", (2 << 30) + 1);
    big("/opt/b", 1 << 30);
    big("/opt/c", (1 << 30) + 1);
    let file = |path: &str| json!({"path": path, "content": "ours"});
    let spec = request(
        json!({"groups": [{"name": "k"}], "files": [file("/opt/a"), file("/opt/b"), file("/opt/c")]}),
    );
    let plan = machine.plan(&spec).await;
    assert_eq!(reasons(&plan), ["file /opt/a: PriorsFull", "file /opt/c: PriorsFull"]);
    let told: Vec<&str> = plan.problems.iter().map(|problem| problem.message.as_str()).collect();
    assert!(told[0].contains("/opt/a has 2147483649 bytes"), "{told:?}");
    assert!(told[1].contains("1073741824 are kept"), "{told:?}");
    machine.apply(&spec).await.unwrap_err();
    assert!(!machine.read("/etc/group").contains("k:"), "nothing is begun");
    for path in ["/opt/a", "/opt/c"] {
        std::fs::remove_file(machine.path(path)).unwrap();
    }

    let _state = machine.mount("/var/lib/nodebootstrap", "size=2m,mode=700");
    big("/opt/b", 3 << 20);
    let spec = |more: &str| json!({"groups": [{"name": "k"}], "files": [{"path": "/opt/b", "content": "ours"}, {"path": "/opt/d", "content": more}]});
    let told = refused(&machine, spec("x"), &["state: NoSpace"]).await;
    assert!(told[0].ends_with("and has 2048 KiB: free some space"), "{told:?}");
    // What is kept already, or was never theirs, needs no more room.
    big("/opt/b", 16 << 10);
    machine.apply(&request(spec("x"))).await.unwrap();
    big("/opt/b", 3 << 20);
    big("/opt/d", 3 << 20);
    machine.apply(&request(spec("y"))).await.unwrap();
    machine.revert("workers").await.unwrap();
    assert_eq!(machine.path("/opt/b").metadata().unwrap().len(), 16 << 10);
}

/// A file that root cannot change, until this is dropped.
pub(crate) struct Locked(std::fs::File, IFlags);

impl Locked {
    pub(crate) fn new(machine: &Machine, path: &str, flag: IFlags) -> Self {
        let locked = Self(std::fs::File::open(machine.path(path)).unwrap(), flag);
        locked.set(true);
        locked
    }

    fn set(&self, on: bool) {
        let mut flags = ioctl_getflags(&self.0).unwrap();
        flags.set(self.1, on);
        ioctl_setflags(&self.0, flags).unwrap();
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.set(false);
    }
}

#[tokio::test]
async fn what_is_locked_against_root_is_told_with_what_unlocks_it() {
    let machine = Machine::on_disk();
    machine.directory("/opt/log");
    machine.directory("/opt/fixed");
    machine.write("/opt/f", "old");
    let lock = |path: &str, flag: IFlags| Locked::new(&machine, path, flag);
    let locks = [
        lock("/etc/passwd", IFlags::IMMUTABLE),
        lock("/opt/fixed", IFlags::IMMUTABLE),
        lock("/opt/f", IFlags::IMMUTABLE),
        lock("/opt/log", IFlags::APPEND),
    ];
    let spec = json!({
        "users": [{"name": "new", "group": "daemon"}],
        "directories": [{"path": "/opt/log/d"}, {"path": "/opt/fixed/a/b"}],
        "files": [{"path": "/opt/f", "content": "new"}, {"path": "/opt/log/f", "content": "new"}],
    });
    let expected = [
        "user new: Locked",
        "directory /opt/fixed/a: Locked",
        "directory /opt/fixed/a/b: Locked",
        "file /opt/f: Locked",
        "file /opt/log/f: Locked",
    ];
    let told = refused(&machine, spec.clone(), &expected).await;
    assert_eq!(
        told[2..],
        [
            "/opt/fixed is immutable: run chattr -i /opt/fixed on the host, or take it out of the spec",
            "/opt/f is immutable: run chattr -i /opt/f on the host, or take it out of the spec",
            "/opt/log can only be appended to: run chattr -a /opt/log on the host, or take it out of the spec",
        ]
    );
    drop(locks);
    machine.apply(&request(spec)).await.unwrap();
}

#[tokio::test]
async fn what_is_a_mount_point_by_itself_is_told_before_anything_is_begun() {
    let machine = Machine::new();
    machine.write("/etc/hosts", "127.0.0.1 localhost\n");
    machine.write("/etc/environment", "A=b\n");
    machine.write("/opt/mode", "ours");
    let mounted: Vec<_> = ["/etc/passwd", "/etc/hosts", "/etc/environment", "/opt/mode"]
        .iter()
        .map(|path| machine.bind(path))
        .collect();
    let spec = json!({
        "users": [{"name": "new", "group": "daemon"}],
        "files": [
            {"path": "/etc/hosts", "content": "ours"}, {"path": "/opt/f", "content": "x"},
            // What stays in its place is no matter.
            {"path": "/opt/mode", "content": "ours", "mode": "0600"},
        ],
        "fileParts": [{"path": "/etc/environment", "name": "c", "line": "C=d"}],
    });
    let expected =
        ["user new: MountPoint", "file /etc/hosts: MountPoint", "part /etc/environment#c: MountPoint"];
    let told = refused(&machine, spec.clone(), &expected).await;
    assert_eq!(
        told[1],
        "something is mounted on /etc/hosts itself, so that nothing can take its place: run umount /etc/hosts on the host, or take it out of the spec"
    );
    drop(mounted);
    machine.apply(&request(spec)).await.unwrap();
}

#[tokio::test]
async fn what_is_locked_inside_a_recursive_directory_is_told_before_anything_is_begun() {
    let machine = Machine::on_disk();
    machine.directory("/srv/app");
    for name in ["a", "b", "c"] {
        machine.write(&format!("/srv/app/{name}"), "");
    }
    machine.set("/srv/app/c", 1, 1, 0o644);
    let locks =
        ["a", "b", "c"].map(|name| Locked::new(&machine, &format!("/srv/app/{name}"), IFlags::IMMUTABLE));
    let directory = json!({"path": "/srv/app", "owner": "daemon", "group": "daemon", "recursive": true});
    let spec = json!({"groups": [{"name": "k"}], "directories": [directory]});
    let told = refused(&machine, spec.clone(), &["directory /srv/app: Locked"]).await;
    let first = told[0].split(' ').next().unwrap();
    assert_eq!(
        told[0],
        format!(
            "{first} is immutable, and 1 more in it are locked too: run chattr -i {first} on the host, or take recursive out of the spec"
        )
    );
    // One that has its owner already is in nobody's way.
    let [a, b, _c] = locks;
    drop((a, b));
    machine.apply(&request(spec)).await.unwrap();
    assert_eq!(machine.access("/srv/app/a"), (1, 1, 0o644));
}

#[tokio::test]
async fn a_systemd_that_gives_no_answer_is_one_reason_beside_the_others() {
    let machine = Machine::new();
    machine.systemd.silent.set(true);
    machine.directory("/etc/systemd/system/taken.service");
    machine.directory("/var/lib/nodebootstrap/workers");
    machine.write("/var/lib/nodebootstrap/workers/owed.json", "damaged");
    let spec = json!({
        "groups": [{"name": "clash", "gid": 1}],
        "units": [{"name": "a.service", "active": true}, {"name": "taken.service", "content": "[Service]\n"}],
    });
    let expected = [
        "group clash: IdTaken",
        "unit taken.service: PathOccupied",
        "state: StateDamaged",
        "systemd: Systemd",
    ];
    refused(&machine, spec, &expected).await;
    // Where no unit is spoken of it is not asked.
    machine.write("/var/lib/nodebootstrap/workers/owed.json", "{}");
    assert!(machine.plan(&request(json!({"groups": [{"name": "good"}]}))).await.problems.is_empty());
}

#[tokio::test]
async fn a_unit_that_shall_be_restarted_and_is_not_there_is_asked_about_each_time() {
    let machine = Machine::new();
    machine.systemd.set("real.service", "inactive");
    let restart = json!({"restart": ["gone.service", "mine.service", "real.service"]});
    let request = request(json!({
        "files": [{"path": "/etc/a", "content": "x", "onChange": restart}],
        "units": [{"name": "mine.service", "content": "[Service]\n"}],
    }));
    let warnings = machine.plan(&request).await.warnings;
    assert_eq!(
        warnings,
        [
            "file /etc/a: onChange names gone.service, which this host does not have: nothing is restarted; is it the right name?"
        ]
    );
    machine.apply(&request).await.unwrap();
    assert_eq!(
        machine.plan(&request).await.warnings,
        warnings,
        "so that a Report does not change after it was made"
    );
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
        "belongs to the NodeBootstrap first on this host: take it out of one of them; if first is gone, run nodebootstrap-agent revert first here, or remove /var/lib/nodebootstrap/first if all shall stay"
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

#[tokio::test]
async fn what_is_left_takes_along_what_follows_from_it_and_nothing_else() {
    let machine = Machine::new();
    machine.systemd.set("a.service", "active");
    let spec = json!({
        "directories": [{"path": "/opt/d"}],
        "files": [
            {"path": "/opt/d/f", "content": "x"},
            {"path": "/etc/a.conf", "content": "x", "onChange": {"restart": ["a.service"]}},
            {"path": "/etc/b.conf", "content": "x"},
        ],
        "units": [{"name": "b.service", "content": "[Service]\nExecStart=/x\n"}],
    });
    let mut request = request(spec);
    request.leave =
        ["directory /opt/d", "file /etc/a.conf", "unit b.service"].map(str::to_owned).into_iter().collect();
    let plan = machine.plan(&request).await;
    assert_eq!(lines(plan.changes()), ["file /etc/b.conf: create, root:root 0644"]);
    let left: Vec<_> = plan.left.iter().map(|change| change.resource.as_str()).collect();
    assert_eq!(left, ["directory /opt/d", "file /etc/a.conf", "file /opt/d/f", "unit b.service"]);
    // What is left does not count when all is verified.
    machine.apply(&request).await.unwrap();
    assert!(machine.plan(&request).await.is_empty());
    // Neither does a reason why it cannot be had.
    machine.link("/etc/a.conf", "/etc/b.conf");
    assert_eq!(reasons(&machine.plan(&request).await), Vec::<String>::new());
    request.leave.clear();
    assert!(!reasons(&machine.plan(&request).await).is_empty());
}

/// Waits until a file's times are so old that one more change would show in them.
async fn is_settled(machine: &Machine, path: &str) {
    let age = || {
        std::time::SystemTime::now()
            .duration_since(machine.path(path).metadata().unwrap().modified().unwrap())
    };
    while age().is_ok_and(|age| age < std::time::Duration::from_millis(100)) {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_no_time_tells_of_is_found_when_all_is_read_again() {
    let machine = Machine::new();
    let request = request(json!({"files": [{"path": "/opt/a", "content": "good"}]}));
    machine.apply(&request).await.unwrap();
    let host = machine.host();
    machine.write("/opt/a", "evil");
    is_settled(&machine, "/opt/a").await;
    // As if it had been read before the disk lost it.
    let meta = machine.root().locate("/opt/a").unwrap().look().unwrap().unwrap();
    host.digests.remember("/opt/a", &meta, crds::Sha256::of(b"good"));
    assert!(engine::plan(&host, &request).await.unwrap().is_empty(), "not read");
    host.digests.believe_for(std::time::Duration::ZERO);
    let plan = engine::plan(&host, &request).await.unwrap();
    assert_eq!(lines(plan.changes()), ["file /opt/a: content"]);
}

#[tokio::test]
async fn what_another_process_writes_down_is_seen() {
    let machine = Machine::new();
    let mine = request(json!({"files": [{"path": "/opt/a", "content": "a"}]}));
    machine.apply(&mine).await.unwrap();
    for state in ["ledger", "revision"] {
        is_settled(&machine, &format!("/var/lib/nodebootstrap/workers/{state}.json")).await;
    }
    let host = machine.host();
    assert!(engine::plan(&host, &mine).await.unwrap().is_empty());
    // An older one claims the same.
    let mut other =
        try_request("other", json!({"files": [{"path": "/opt/a", "content": "a"}]}), &Values::new()).unwrap();
    "2025-01-01T00:00:00Z".clone_into(&mut other.created);
    machine.apply(&other).await.unwrap();
    is_settled(&machine, "/var/lib/nodebootstrap/other/revision.json").await;
    for _ in 0..2 {
        assert_eq!(reasons(&engine::plan(&host, &mine).await.unwrap()), ["file /opt/a: Conflict"]);
    }
    machine.revert("other").await.unwrap();
    assert!(engine::plan(&host, &mine).await.unwrap().is_empty(), "gone, and not only from the disk");
    // What is no longer in the ledger is not put back.
    machine.revert("workers").await.unwrap();
    let nothing = request(json!({}));
    assert!(engine::plan(&host, &nothing).await.unwrap().is_empty());
}
