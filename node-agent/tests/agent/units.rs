//! Units, and the restarts that changes ask for.

use crds::report::Disruption;
use serde_json::json;

use crate::support::{Machine, lines, reasons, request};

const HELLO: &str = "[Service]\nExecStart=/opt/hello\n[Install]\nWantedBy=multi-user.target\n";

#[tokio::test]
async fn a_unit_is_written_enabled_and_started_and_then_left() {
    let machine = Machine::new();
    let request = request(
        json!({"units": [{"name": "hello.service", "content": HELLO, "enabled": true, "active": true}]}),
    );
    let plan = machine.plan(&request).await;
    assert_eq!(plan.disruption(), Disruption::None);
    machine.apply(&request).await.unwrap();
    assert_eq!(machine.systemd.take_asked(), ["reload", "enable hello.service", "start hello.service"]);
    assert_eq!(machine.access("/etc/systemd/system/hello.service"), (0, 0, 0o644));
    assert!(machine.is_there("/etc/systemd/system/multi-user.target.wants/hello.service"));
    assert_eq!(machine.apply(&request).await.unwrap(), []);
    assert_eq!(machine.systemd.take_asked(), Vec::<String>::new());
}

#[tokio::test]
async fn a_comment_in_the_file_of_a_unit_is_repaired_and_nothing_is_restarted() {
    let machine = Machine::new();
    let spec = |note: &str| {
        let drop_in =
            json!({"name": "10-a.conf", "content": format!("# {note}\n[Service]\nLimitNOFILE=1024\n")});
        request(json!({"units": [
            {"name": "hello.service", "content": HELLO, "active": true, "dropIns": [drop_in]},
        ]}))
    };
    machine.apply(&spec("ours")).await.unwrap();
    machine.systemd.take_asked();
    let path = "/etc/systemd/system/hello.service.d/10-a.conf";
    let ours = machine.read(path);
    machine.write(path, &ours.replace("ours", "theirs"));
    machine.apply(&spec("ours")).await.unwrap();
    assert_eq!((machine.read(path), machine.systemd.take_asked()), (ours.clone(), vec!["reload".to_owned()]));
    // Nor for another one in the spec; but for whatever has a meaning.
    assert_eq!(machine.plan(&spec("another")).await.disruption(), Disruption::None);
    machine.write(path, &ours.replace("1024", "1025"));
    assert_eq!(machine.plan(&spec("ours")).await.disruption(), Disruption::Restart);
}

#[tokio::test]
async fn a_unit_whose_file_or_own_content_changed_is_restarted_once_and_last() {
    let machine = Machine::new();
    let spec = |content: &str, unit: &str| {
        request(json!({
            "files": [
                {"path": "/etc/a", "content": content, "onChange": {"restart": ["hello.service", "idle.service", "gone.service"]}},
                {"path": "/etc/b", "content": content, "onChange": {"restart": ["hello.service"]}},
            ],
            "units": [{"name": "hello.service", "content": unit, "active": true}],
        }))
    };
    machine.systemd.set("idle.service", "inactive");
    machine.apply(&spec("1", HELLO)).await.unwrap();
    assert_eq!(machine.systemd.take_asked(), ["reload", "start hello.service"], "started, so not restarted");

    let edited = spec("2", &HELLO.replace("hello\n", "hello -v\n"));
    let plan = machine.plan(&edited).await;
    assert_eq!(plan.disruption(), Disruption::Restart);
    assert_eq!(
        lines(plan.changes()).last().unwrap(),
        "unit hello.service: restart, because of file /etc/a and 2 more"
    );
    // As presets say of a unit, or of why it is restarted.
    for needs in ["unit hello.service", "file /etc/b"] {
        let mut edited = edited.clone();
        edited.findings.drains.insert(needs.to_owned(), "another version".to_owned());
        let plan = machine.plan(&edited).await;
        assert_eq!(plan.disruption(), Disruption::Drain, "{needs}");
        assert_eq!(
            lines(plan.changes()).last().unwrap(),
            "unit hello.service: restart on a drained node, because of file /etc/a and 2 more: another version"
        );
    }
    machine.apply(&edited).await.unwrap();
    assert_eq!(machine.systemd.take_asked(), ["reload", "restart hello.service"]);
    assert_eq!(machine.apply(&edited).await.unwrap(), []);

    // Another owner is no other content.
    std::os::unix::fs::chown(machine.path("/etc/a"), Some(1), None).unwrap();
    machine.apply(&edited).await.unwrap();
    assert_eq!(machine.systemd.take_asked(), Vec::<String>::new());
}

#[tokio::test]
async fn a_restart_that_a_killed_run_owed_is_made_by_the_next() {
    let machine = Machine::new();
    machine.systemd.set("app.service", "active");
    let spec = |content: &str| {
        request(
            json!({"files": [{"path": "/etc/a", "content": content, "onChange": {"restart": ["app.service"]}}]}),
        )
    };
    machine.apply(&spec("1")).await.unwrap();
    machine.systemd.take_asked();
    // Killed between the file and the restart.
    let stopped = machine.apply_until(&spec("2"), 1).await.unwrap_err();
    assert!(stopped.is_stop());
    assert_eq!((machine.read("/etc/a").as_str(), machine.systemd.take_asked().len()), ("2", 0));

    let plan = machine.plan(&spec("2")).await;
    assert_eq!(lines(plan.changes()), ["unit app.service: restart, because of a run that did not end well"]);
    assert_eq!(plan.disruption(), Disruption::Restart);
    machine.apply(&spec("2")).await.unwrap();
    assert_eq!(machine.systemd.take_asked(), ["restart app.service"]);
    assert!(machine.plan(&spec("2")).await.is_empty() && !machine.plan(&spec("2")).await.is_owed());

    // Also if what the next run shall have is something else.
    machine.apply_until(&spec("3"), 1).await.unwrap_err();
    machine.apply(&request(json!({"groups": [{"name": "k"}]}))).await.unwrap();
    assert_eq!(machine.systemd.take_asked(), ["restart app.service"]);
}

#[tokio::test]
async fn a_restart_that_fails_is_owed_until_the_unit_runs_again() {
    let machine = Machine::new();
    machine.systemd.set("app.service", "active");
    let spec = |content: &str| {
        request(json!({
            "files": [{"path": "/etc/a", "content": content, "onChange": {"restart": ["app.service"]}}],
            "units": [{"name": "own.service", "content": format!("{HELLO}Alias={content}\n")}],
        }))
    };
    machine.systemd.set("own.service", "active");
    machine.apply(&spec("1")).await.unwrap();
    for unit in ["app.service", "own.service"] {
        for unit in ["app.service", "own.service"] {
            machine.systemd.set(unit, "active");
        }
        *machine.systemd.broken.borrow_mut() = Some(unit.to_owned());
        let bad = spec(&format!("bad for {unit}"));
        let failure = machine.apply(&bad).await.unwrap_err();
        assert_eq!(failure.message, format!("unit {unit}: {unit} failed to restart"));
        for _ in 0..2 {
            let plan = machine.plan(&bad).await;
            let planned = lines(plan.changes());
            let start = format!("unit {unit}: start, since it did not survive its restart");
            assert!(plan.is_owed() && planned.contains(&start), "{planned:?}");
            let failure = machine.apply(&bad).await.unwrap_err();
            assert_eq!(failure.message, format!("unit {unit}: {unit} failed to start"));
        }
        // What shall not run, or cannot, needs no restart.
        let stopped = request(json!({"units": [{"name": unit, "active": false}]}));
        assert!(!lines(machine.plan(&stopped).await.changes()).join(" ").contains(&format!("{unit}: start")));

        *machine.systemd.broken.borrow_mut() = None;
        machine.systemd.take_asked();
        machine.apply(&spec("good")).await.unwrap();
        assert!(machine.systemd.take_asked().contains(&format!("start anew {unit}")));
        let plan = machine.plan(&spec("good")).await;
        assert!(plan.is_empty() && !plan.is_owed(), "{plan:?}");
    }
}

#[tokio::test]
async fn a_service_that_ends_again_and_again_does_not_count_as_running() {
    let machine = Machine::new();
    machine.write("/etc/systemd/system/app.service", HELLO);
    machine.systemd.set("app.service", "active");
    let spec = request(json!({"units": [{"name": "app.service", "active": true}]}));
    assert!(machine.plan(&spec).await.is_empty());
    machine.systemd.units.borrow_mut().get_mut("app.service").unwrap().loops = true;
    let plan = machine.plan(&spec).await;
    assert_eq!(
        plan.changes().map(|change| change.found.as_str()).collect::<Vec<_>>(),
        ["ended again and again"]
    );
    // New content is a reason to restart it, as for any that runs.
    let edited = request(
        json!({"units": [{"name": "app.service", "content": "[Service]\nExecStart=/y\n", "active": true}]}),
    );
    machine.apply(&edited).await.unwrap_err();
    assert_eq!(machine.systemd.take_asked(), ["reload", "restart app.service"]);
}

#[tokio::test]
async fn a_unit_that_the_host_lacks_neither_runs_nor_is_enabled() {
    let machine = Machine::new();
    let spec = request(json!({"units": [{"name": "ghost.service", "active": false, "enabled": false}]}));
    assert!(machine.plan(&spec).await.is_empty());
}

#[tokio::test]
async fn stopping_is_a_disruption_and_disabling_is_none() {
    let machine = Machine::new();
    machine.write("/etc/systemd/system/old.service", HELLO);
    machine.directory("/etc/systemd/system/multi-user.target.wants");
    machine
        .link("/etc/systemd/system/multi-user.target.wants/old.service", "/etc/systemd/system/old.service");
    machine.systemd.set("old.service", "active");
    let spec = request(json!({"units": [{"name": "old.service", "enabled": false, "active": false}]}));
    let plan = machine.plan(&spec).await;
    assert_eq!(lines(plan.changes()), ["unit old.service: disable", "unit old.service: stop"]);
    assert_eq!(plan.disruption(), Disruption::Restart);
    machine.apply(&spec).await.unwrap();
    assert!(!machine.is_there("/etc/systemd/system/multi-user.target.wants/old.service"));
    assert!(machine.plan(&spec).await.is_empty());
}

#[tokio::test]
async fn units_that_cannot_be_had_are_problems() {
    let machine = Machine::new();
    machine.link("/etc/systemd/system/masked.service", "/dev/null");
    machine.systemd.set("masked.service", "inactive");
    machine.systemd.units.borrow_mut().get_mut("masked.service").unwrap().load = "masked".to_owned();
    let spec = request(json!({"units": [
        {"name": "ghost.service", "active": true},
        {"name": "plain.service", "content": "[Service]\nExecStart=/x\n", "enabled": true},
        {"name": "masked.service", "content": HELLO},
        {"name": "t@.service"},
    ]}));
    let plan = machine.plan(&spec).await;
    let mut found = reasons(&plan);
    found.sort();
    assert_eq!(
        found,
        [
            "unit ghost.service: UnitUnknown",
            "unit masked.service: UnitMasked",
            "unit plain.service: NoInstallSection",
            "unit t@.service: UnitUnknown",
        ]
    );
}

#[tokio::test]
async fn a_unit_may_come_from_a_plain_file_and_instances_from_their_template() {
    let machine = Machine::new();
    let spec = request(json!({
        "files": [{"path": "/etc/systemd/system/plain.service", "content": HELLO}],
        "units": [
            {"name": "plain.service", "enabled": true},
            {"name": "t@.service", "content": HELLO},
            {"name": "t@one.service", "enabled": true, "active": true},
        ],
    }));
    machine.apply(&spec).await.unwrap();
    assert_eq!(
        machine.systemd.take_asked(),
        ["reload", "enable plain.service", "enable t@one.service", "start t@one.service"]
    );
    assert!(machine.plan(&spec).await.is_empty());
}

#[tokio::test]
async fn an_edit_of_the_install_section_is_followed() {
    let machine = Machine::new();
    let before = machine.tree();
    let spec = |target: &str| {
        let content = HELLO.replace("multi-user.target", target);
        request(json!({"units": [{"name": "hello.service", "content": content, "enabled": true}]}))
    };
    machine.apply(&spec("a.target")).await.unwrap();
    machine.apply(&spec("a.target b.target")).await.unwrap();
    assert!(machine.is_there("/etc/systemd/system/b.target.wants/hello.service"));
    assert!(machine.systemd.take_asked().contains(&"reenable hello.service".to_owned()));
    assert!(machine.plan(&spec("a.target b.target")).await.is_empty());
    // Also where a target was taken out, and the run ends when the file is written.
    let again = "unit hello.service: enable again, as [Install] says now".to_owned();
    assert!(lines(machine.plan(&spec("b.target")).await.changes()).contains(&again));
    machine.apply_until(&spec("b.target"), 1).await.unwrap_err();
    assert!(lines(machine.plan(&spec("b.target")).await.changes()).contains(&again));
    machine.apply(&spec("b.target")).await.unwrap();
    assert!(!machine.is_there("/etc/systemd/system/a.target.wants"), "nothing is in it any more");
    machine.revert("workers").await.unwrap();
    assert_eq!(machine.tree(), before);
}

/// systemd is told to enable it again when its file is back, also by a run after one that was killed.
#[tokio::test]
async fn a_unit_that_was_enabled_is_enabled_as_before_when_its_file_comes_back() {
    let own = "/etc/systemd/system/hello.service";
    for at in [own, "/usr/lib/systemd/system/hello.service"] {
        for by in ["revision", "revert", "killed revert", "roll-back"] {
            let machine = Machine::new();
            machine.directory("/usr/lib/systemd/system");
            machine.directory("/etc/systemd/system/multi-user.target.wants");
            machine.write(at, HELLO);
            machine.link("/etc/systemd/system/multi-user.target.wants/hello.service", at);
            let before = machine.tree();
            let content = HELLO.replace("multi-user.target", "graphical.target\nAlias=z.service");
            let spec = request(json!({"units": [
                {"name": "hello.service", "enabled": true, "content": content},
            ]}));
            if by == "roll-back" {
                machine.apply_held(&spec, usize::MAX).await.unwrap();
            } else {
                machine.apply(&spec).await.unwrap();
            }
            assert!(!machine.is_there("/etc/systemd/system/multi-user.target.wants"));
            assert!(machine.is_there("/etc/systemd/system/z.service"));
            match by {
                "revision" => {
                    // Enabled as before, or as that file says now: the same.
                    let enabled = request(json!({"units": [{"name": "hello.service", "enabled": true}]}));
                    machine.apply(&enabled).await.unwrap();
                    assert!(machine.plan(&enabled).await.is_empty());
                }
                "killed revert" => _ = machine.revert_until("workers", 1).await.unwrap_err(),
                "roll-back" => _ = machine.roll_back("workers", None, usize::MAX).await.unwrap(),
                _ => {}
            }
            machine.revert("workers").await.unwrap();
            assert_eq!(machine.tree(), before, "{at} {by}");
        }
    }
}

#[tokio::test]
async fn a_name_that_a_unit_had_goes_with_it() {
    let machine = Machine::new();
    let before = machine.tree();
    let spec = |alias: &str| {
        let content = format!("[Service]\nExecStart=/x\n[Install]\nAlias={alias}.service\n");
        request(json!({"units": [{"name": "hello.service", "content": content, "enabled": true}]}))
    };
    machine.apply(&spec("z1")).await.unwrap();
    machine.apply(&spec("z2")).await.unwrap();
    assert!(!machine.is_there("/etc/systemd/system/z1.service"));
    assert!(machine.is_there("/etc/systemd/system/z2.service"));
    machine.revert("workers").await.unwrap();
    assert_eq!(machine.tree(), before);
}

#[tokio::test]
async fn a_name_of_another_unit_enables_none_and_stays() {
    let machine = Machine::new();
    machine.directory("/usr/lib/systemd/system");
    machine.write("/usr/lib/systemd/system/own.service", "[Install]\nAlias=dns.service\n");
    machine.write("/usr/lib/systemd/system/foo.service", &format!("{HELLO}Alias=dns.service\n"));
    machine.link("/etc/systemd/system/dns.service", "/usr/lib/systemd/system/own.service");
    let spec = |unit: &str, enabled: bool| json!({"name": unit, "enabled": enabled});
    let disabled = request(json!({"units": [spec("foo.service", false)]}));
    assert!(machine.plan(&disabled).await.is_empty());
    let plan = machine.plan(&request(json!({"units": [spec("foo.service", true)]}))).await;
    assert_eq!(reasons(&plan), ["unit foo.service: PathOccupied"]);
    assert_eq!(
        plan.problems[0].message,
        "[Install] gives it the name /etc/systemd/system/dns.service, which is a link to /usr/lib/systemd/system/own.service: take that name out of [Install], or away from the other"
    );
    // A name by somebody's own hand is none of [Install]'s: it neither enables the unit nor is it in the way.
    machine.link("/etc/systemd/system/a.service", "/usr/lib/systemd/system/foo.service");
    std::fs::remove_file(machine.path("/etc/systemd/system/dns.service")).unwrap();
    let enabled = request(json!({"units": [spec("foo.service", true)]}));
    assert_eq!(lines(machine.plan(&enabled).await.changes()), ["unit foo.service: enable"]);
    machine.apply(&enabled).await.unwrap();
    assert!(machine.is_there("/etc/systemd/system/multi-user.target.wants/foo.service"));
    assert!(machine.is_there("/etc/systemd/system/a.service"));
}

#[tokio::test]
async fn a_unit_that_does_not_start_fails_with_what_was_made_before() {
    let machine = Machine::new();
    *machine.systemd.broken.borrow_mut() = Some("hello.service".to_owned());
    let spec = request(json!({"units": [{"name": "hello.service", "content": HELLO, "active": true}]}));
    let failure = machine.apply(&spec).await.unwrap_err();
    assert_eq!((failure.reason.as_str(), failure.made.len()), ("Systemd", 2));
    assert_eq!(failure.message, "unit hello.service: hello.service failed to start");
    let last = machine.host().state.result("workers").unwrap().unwrap();
    assert!(!last.done && last.message == failure.message);
}

#[tokio::test]
async fn a_file_that_systemd_has_not_read_is_read() {
    let machine = Machine::new();
    let spec = request(json!({"units": [{"name": "hello.service", "content": HELLO}]}));
    machine.apply(&spec).await.unwrap();
    machine.systemd.take_asked();
    machine.systemd.set("hello.service", "inactive");
    machine.systemd.units.borrow_mut().get_mut("hello.service").unwrap().need_reload = true;
    machine.apply(&spec).await.unwrap();
    assert_eq!(machine.systemd.take_asked(), ["reload"]);
}

#[tokio::test]
async fn a_unit_that_is_being_stopped_has_not_stopped() {
    let machine = Machine::new();
    machine.write("/etc/systemd/system/app.service", HELLO);
    machine.systemd.set("app.service", "deactivating");
    let spec = request(json!({"units": [{"name": "app.service", "active": false}]}));
    assert_eq!(lines(machine.plan(&spec).await.changes()), ["unit app.service: stop"]);
    machine.systemd.set("app.service", "failed");
    assert!(machine.plan(&spec).await.is_empty());
}

#[tokio::test]
async fn a_template_that_changed_restarts_the_instances_that_are_listed() {
    let machine = Machine::new();
    let spec = |program: &str| {
        request(json!({"units": [
            {"name": "t@.service", "content": format!("[Service]\nExecStart={program}\n")},
            {"name": "t@one.service", "active": true},
        ]}))
    };
    machine.apply(&spec("/a")).await.unwrap();
    machine.systemd.take_asked();
    let plan = machine.plan(&spec("/b")).await;
    assert_eq!(plan.disruption(), Disruption::Restart);
    machine.apply(&spec("/b")).await.unwrap();
    assert_eq!(machine.systemd.take_asked(), ["reload", "restart t@one.service"]);
}

#[tokio::test]
async fn a_unit_that_an_empty_file_masks_gets_its_content() {
    let machine = Machine::new();
    machine.write("/etc/systemd/system/hello.service", "");
    machine.systemd.set("hello.service", "inactive");
    machine.systemd.units.borrow_mut().get_mut("hello.service").unwrap().load = "masked".to_owned();
    let spec = request(json!({"units": [{"name": "hello.service", "content": HELLO}]}));
    assert_eq!(reasons(&machine.plan(&spec).await), Vec::<String>::new());
    machine.apply(&spec).await.unwrap();
    assert_eq!(machine.read("/etc/systemd/system/hello.service"), HELLO);
}

#[tokio::test]
async fn two_names_of_one_unit_are_one_unit() {
    let machine = Machine::new();
    let named = |name: &str, created: &str, unit: &str, active: bool| {
        let spec = json!({"units": [{"name": unit, "active": active}]});
        let request = crate::support::try_request(name, spec, &Default::default()).unwrap();
        node_agent::engine::Request { created: created.to_owned(), ..request }
    };
    machine.write("/etc/systemd/system/ssh.service", HELLO);
    machine.write("/etc/systemd/system/sshd.service", HELLO);
    for unit in ["ssh.service", "sshd.service"] {
        machine.systemd.set(unit, "active");
        machine.systemd.units.borrow_mut().get_mut(unit).unwrap().id = "ssh.service".to_owned();
    }
    machine.apply(&named("first", "2026-01-01T00:00:00Z", "ssh.service", true)).await.unwrap();
    let second = named("second", "2026-02-01T00:00:00Z", "sshd.service", false);
    assert_eq!(reasons(&machine.plan(&second).await), ["unit sshd.service: Conflict"]);
}

#[tokio::test]
async fn what_systemd_alone_can_fill_in_is_not_looked_for() {
    let machine = Machine::new();
    let spec = |install: &str| {
        let content = format!("[Service]\nExecStart=/x\n[Install]\n{install}\n");
        request(json!({"units": [{"name": "hello.service", "content": content, "enabled": true}]}))
    };
    machine.apply(&spec("WantedBy=a.target\nAlias=hello-%H.service")).await.unwrap();
    assert!(machine.plan(&spec("WantedBy=a.target\nAlias=hello-%H.service")).await.is_empty());
    assert_eq!(reasons(&machine.plan(&spec("Also=other.service")).await), Vec::<String>::new());
}

#[tokio::test]
async fn a_drop_in_changes_a_unit_of_the_host_and_goes_with_its_folder() {
    let machine = Machine::new();
    machine.directory("/usr/lib/systemd/system");
    machine.write("/usr/lib/systemd/system/app.service", HELLO);
    machine.systemd.set("app.service", "active");
    let before = machine.tree();
    let spec = |content: &str| {
        request(
            json!({"units": [{"name": "app.service", "dropIns": [{"name": "10-x.conf", "content": content}]}]}),
        )
    };
    let plan = machine.plan(&spec("[Service]\nNice=1\n")).await;
    assert_eq!(plan.disruption(), Disruption::Restart);
    machine.apply(&spec("[Service]\nNice=1\n")).await.unwrap();
    assert_eq!(machine.systemd.take_asked(), ["reload", "restart app.service"]);
    assert_eq!(machine.read("/etc/systemd/system/app.service.d/10-x.conf"), "[Service]\nNice=1\n");
    assert!(machine.plan(&spec("[Service]\nNice=1\n")).await.is_empty());

    machine.apply(&spec("[Service]\nNice=2\n")).await.unwrap();
    assert_eq!(machine.systemd.take_asked(), ["reload", "restart app.service"]);
    machine.revert("workers").await.unwrap();
    assert_eq!(machine.tree(), before);
    assert_eq!(machine.systemd.take_asked(), ["reload", "restart app.service"]);
}

/// Somebody restarts the unit while its drop-in is put right: it is down for a moment, and may come up in the next one with
/// what they wrote.
#[tokio::test]
async fn a_unit_whose_drop_in_is_written_while_it_seems_down_never_runs_with_what_was_there() {
    let machine = Machine::new();
    machine.directory("/usr/lib/systemd/system");
    machine.write("/usr/lib/systemd/system/app.service", HELLO);
    machine.systemd.set("app.service", "active");
    let drop_in = json!([{"name": "10-x.conf", "content": "[Service]\nNice=1\n"}]);
    let shall_run = request(json!({"units": [{"name": "app.service", "active": true, "dropIns": drop_in}]}));
    let may_run = request(json!({"units": [{"name": "app.service", "dropIns": drop_in}]}));
    machine.apply(&shall_run).await.unwrap();
    for (request, state, asked) in [
        (&shall_run, "inactive", "start anew app.service"),
        (&shall_run, "deactivating", "start anew app.service"),
        (&may_run, "deactivating", "restart app.service"),
    ] {
        machine.write("/etc/systemd/system/app.service.d/10-x.conf", "[Service]\nNice=9\n");
        machine.systemd.set("app.service", state);
        machine.systemd.take_asked();
        machine.apply(request).await.unwrap();
        assert_eq!(machine.systemd.take_asked(), ["reload", asked], "{state}");
    }
    // One that is down for good is left so.
    machine.write("/etc/systemd/system/app.service.d/10-x.conf", "[Service]\nNice=9\n");
    machine.systemd.set("app.service", "inactive");
    machine.apply(&may_run).await.unwrap();
    assert_eq!(machine.systemd.take_asked(), ["reload"]);
}

#[tokio::test]
async fn a_folder_of_drop_ins_with_something_else_in_it_stays() {
    let machine = Machine::new();
    machine.write("/etc/systemd/system/app.service", HELLO);
    let spec = request(
        json!({"units": [{"name": "app.service", "dropIns": [{"name": "10-x.conf", "content": "x"}]}]}),
    );
    machine.apply(&spec).await.unwrap();
    machine.write("/etc/systemd/system/app.service.d/20-theirs.conf", "theirs");
    machine.revert("workers").await.unwrap();
    assert!(!machine.is_there("/etc/systemd/system/app.service.d/10-x.conf"));
    assert_eq!(machine.read("/etc/systemd/system/app.service.d/20-theirs.conf"), "theirs");
}

#[tokio::test]
async fn a_drop_in_of_a_template_restarts_the_instances_that_are_listed() {
    let machine = Machine::new();
    machine.directory("/usr/lib/systemd/system");
    machine.write("/usr/lib/systemd/system/t@.service", HELLO);
    let spec = |nice: u8| {
        let content = format!("[Service]\nNice={nice}\n");
        request(json!({"units": [
            {"name": "t@.service", "dropIns": [{"name": "nice.conf", "content": content}]},
            {"name": "t@one.service", "active": true},
        ]}))
    };
    machine.apply(&spec(1)).await.unwrap();
    machine.systemd.take_asked();
    let plan = machine.plan(&spec(2)).await;
    assert_eq!((plan.warnings.len(), plan.disruption()), (0, Disruption::Restart));
    machine.apply(&spec(2)).await.unwrap();
    assert_eq!(machine.systemd.take_asked(), ["reload", "restart t@one.service"]);
}

#[tokio::test]
async fn a_unit_is_masked_and_unmasked_and_put_back() {
    let machine = Machine::new();
    machine.directory("/usr/lib/systemd/system");
    machine.write("/usr/lib/systemd/system/swap.service", HELLO);
    machine.link("/etc/systemd/system/old.service", "/dev/null");
    machine.write("/usr/lib/systemd/system/old.service", HELLO);
    machine.systemd.set("swap.service", "active");
    let before = machine.tree();
    let spec = request(json!({"units": [
        {"name": "swap.service", "masked": true, "active": false},
        {"name": "not-there.service", "masked": true},
        {"name": "old.service", "masked": false, "enabled": true},
    ]}));
    let plan = machine.plan(&spec).await;
    assert_eq!(
        lines(plan.changes()),
        [
            "unit not-there.service: mask",
            "unit old.service: unmask",
            "unit old.service: enable",
            "unit swap.service: mask",
            "unit swap.service: stop"
        ]
    );
    machine.apply(&spec).await.unwrap();
    for unit in ["swap.service", "not-there.service"] {
        let link = std::fs::read_link(machine.path(&format!("/etc/systemd/system/{unit}"))).unwrap();
        assert_eq!(link.to_str(), Some("/dev/null"));
    }
    assert!(machine.plan(&spec).await.is_empty());
    // Drift.
    std::fs::remove_file(machine.path("/etc/systemd/system/swap.service")).unwrap();
    assert_eq!(lines(&machine.apply(&spec).await.unwrap()), ["unit swap.service: mask"]);

    machine.revert("workers").await.unwrap();
    assert_eq!(machine.tree(), before);
}

#[tokio::test]
async fn a_unit_with_a_file_of_its_own_in_the_way_cannot_be_masked() {
    let machine = Machine::new();
    machine.write("/etc/systemd/system/app.service", HELLO);
    let spec = request(json!({"units": [{"name": "app.service", "masked": true}]}));
    assert_eq!(reasons(&machine.plan(&spec).await), ["unit app.service: PathOccupied"]);
    // Unless that is ours and goes.
    let machine = Machine::new();
    let content = request(json!({"units": [{"name": "app.service", "content": HELLO}]}));
    machine.apply(&content).await.unwrap();
    machine.apply(&spec).await.unwrap();
    assert!(machine.plan(&spec).await.is_empty());
    machine.revert("workers").await.unwrap();
    assert!(!machine.is_there("/etc/systemd/system/app.service"));
}

#[tokio::test]
async fn a_container_runtime_is_restarted_before_a_kubelet_is_started() {
    let machine = Machine::new();
    machine.write("/etc/systemd/system/containerd.service", "[Service]\nExecStart=/x\n");
    machine.systemd.set("containerd.service", "active");
    let spec = json!({
        "files": [{"path": "/etc/c.toml", "content": "x", "onChange": {"restart": ["containerd.service"]}}],
        "units": [{"name": "kubelet.service", "content": "[Service]\nExecStart=/x\n", "active": true}],
    });
    machine.apply(&request(spec)).await.unwrap();
    assert_eq!(
        machine.systemd.take_asked(),
        ["reload", "restart containerd.service", "start kubelet.service"]
    );
}
