//! Users and groups in the host's own files.

use serde_json::json;

use crate::support::{GROUP, Machine, PASSWD, lines, reasons, request};

#[tokio::test]
async fn accounts_are_added_and_the_rest_stays_byte_for_byte() {
    let machine = Machine::new();
    let odd = "root:x:0:0:M\u{fc}ller:/root:/bin/bash\n# a comment\n\n+@admins::::::\n";
    machine.write("/etc/passwd", odd);
    machine.set("/etc/passwd", 0, 50, 0o600);
    let request = request(json!({
        "groups": [{"name": "k", "gid": 700}, {"name": "free"}, {"name": "people", "system": false}],
        "users": [
            {"name": "k", "uid": 701, "group": "k"},
            {"name": "p", "group": "people", "system": false, "shell": "/usr/sbin/nologin"},
        ],
    }));
    machine.apply(&request).await.unwrap();
    assert_eq!(
        machine.read("/etc/passwd"),
        odd.replace(
            "+@",
            "k:x:701:700::/nonexistent:/usr/sbin/nologin\np:x:1000:1000::/nonexistent:/usr/sbin/nologin\n+@"
        )
    );
    assert_eq!(machine.access("/etc/passwd"), (0, 50, 0o600), "owner and mode stay");
    assert_eq!(machine.access("/etc/shadow"), (0, 42, 0o640));
    assert_eq!(machine.read("/etc/group"), format!("{GROUP}k:x:700:\nfree:x:999:\npeople:x:1000:\n"));
    assert!(machine.read("/etc/gshadow").ends_with("k:!::\nfree:!::\npeople:!::\n"));
    let shadow = machine.read("/etc/shadow");
    assert!(
        shadow.lines().any(|line| line.starts_with("k:!:") && line.ends_with("::::::")),
        "locked: {shadow}"
    );
    assert!(machine.plan(&request).await.is_empty());
}

#[tokio::test]
async fn shadows_that_the_host_does_not_have_are_not_made() {
    let machine = Machine::new();
    for file in ["/etc/shadow", "/etc/gshadow"] {
        std::fs::remove_file(machine.path(file)).unwrap();
    }
    machine.apply(&request(json!({"groups": [{"name": "k"}], "users": [{"name": "k"}]}))).await.unwrap();
    assert!(!machine.is_there("/etc/shadow") && !machine.is_there("/etc/gshadow"));
}

#[tokio::test]
async fn an_existing_user_follows_in_what_the_spec_names_and_keeps_the_rest() {
    let machine = Machine::new();
    machine.write("/etc/passwd", &format!("{PASSWD}k:secret:300:50:The K:/home/k:/bin/bash\n"));
    let named = |more: serde_json::Value| {
        let mut user = json!({"name": "k"});
        user.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        request(json!({"groups": [{"name": "k"}], "users": [user, {"name": "daemon"}]}))
    };
    assert_eq!(lines(machine.plan(&named(json!({}))).await.changes()), ["group k: create with gid 999"]);
    let made = machine
        .apply(&named(json!({"group": "k", "home": "/srv/k", "shell": "/usr/sbin/nologin"})))
        .await
        .unwrap();
    assert_eq!(
        lines(&made)[1],
        "user k: primary group staff to k, home /home/k to /srv/k, shell /bin/bash to /usr/sbin/nologin"
    );
    assert_eq!(
        machine.read("/etc/passwd"),
        format!("{PASSWD}k:secret:300:999:The K:/srv/k:/usr/sbin/nologin\n")
    );
}

#[tokio::test]
async fn a_shell_that_the_host_lacks_is_a_warning_that_names_one() {
    let machine = Machine::new();
    let user = |shell: &str| request(json!({"users": [{"name": "k", "group": "staff", "shell": shell}]}));
    let plan = machine.plan(&user("/usr/bin/fish")).await;
    assert!(lines(plan.changes())[0].ends_with("shell /usr/bin/fish"), "{plan:?}");
    assert!(plan.warnings[0].contains("no shell /usr/bin/fish"), "{:?}", plan.warnings);
    let plan = machine.plan(&user("/bin/nologin")).await;
    assert!(lines(plan.changes())[0].ends_with("shell /usr/sbin/nologin"), "{plan:?}");
    assert!(plan.warnings[0].contains("/usr/sbin/nologin is used, write that"), "{:?}", plan.warnings);
}

#[tokio::test]
async fn a_line_that_cannot_be_understood_is_not_written_over() {
    let machine = Machine::new();
    let damaged = format!("{PASSWD}k:x:what:50::/home/k:/bin/bash\n");
    machine.write("/etc/passwd", &damaged);
    let plan = machine.plan(&request(json!({"users": [{"name": "k", "group": "staff"}]}))).await;
    assert_eq!(reasons(&plan), ["user k: AccountDamaged"]);
    assert_eq!(machine.read("/etc/passwd"), damaged);
}

#[tokio::test]
async fn no_free_number_is_taken_that_another_entry_asks_for() {
    let machine = Machine::new();
    let spec = request(json!({
        "groups": [{"name": "a"}, {"name": "b", "gid": 999}],
        "users": [{"name": "a", "group": "a"}, {"name": "b", "group": "b", "uid": 999}],
    }));
    assert_eq!(
        lines(machine.plan(&spec).await.changes())
            .iter()
            .map(|line| line.split(',').next().unwrap())
            .collect::<Vec<_>>(),
        [
            "group b: create with gid 999",
            "group a: create with gid 998",
            "user b: create with uid 999",
            "user a: create with uid 998",
        ]
    );
    machine.write("/etc/login.defs", "SYS_UID_MIN 999\nSYS_GID_MIN 999\n");
    assert_eq!(
        reasons(&machine.plan(&spec).await),
        ["group a: NoFreeId", "user a: NoSuchGroup", "user a: NoFreeId"]
    );
}

#[tokio::test]
async fn a_user_left_half_made_is_finished() {
    let machine = Machine::new();
    // The shadow is written first; an old line there may even hold a password.
    let shadow = machine.read("/etc/shadow");
    std::fs::write(machine.path("/etc/shadow"), format!("{shadow}k:$6$old:1::::::\n")).unwrap();
    machine.apply(&request(json!({"users": [{"name": "k", "group": "staff"}]}))).await.unwrap();
    let shadow = machine.read("/etc/shadow");
    assert_eq!(shadow.lines().filter(|line| line.starts_with("k:")).count(), 1);
    assert!(!shadow.contains("$6$old"), "a new account is locked: {shadow}");
}

#[tokio::test]
async fn account_files_that_are_links_stay_so_and_what_they_lead_to_is_written() {
    let machine = Machine::new();
    machine.directory("/data");
    let files = ["passwd", "shadow", "group", "gshadow"];
    for name in files {
        std::fs::rename(machine.path(&format!("/etc/{name}")), machine.path(&format!("/data/{name}")))
            .unwrap();
        machine.link(&format!("/etc/{name}"), &format!("../data/{name}"));
    }
    let before = machine.tree();
    let spec = request(json!({"groups": [{"name": "k"}], "users": [{"name": "k", "groups": ["staff"]}]}));
    // What a run that was killed was writing beside them goes with the next one.
    machine.apply_until(&spec, 1).await.unwrap_err();
    for name in files {
        machine.write(&node_agent::host::write::leftover_of(&format!("/data/{name}")), "half");
    }
    machine.apply(&spec).await.unwrap();
    assert_eq!(machine.leftovers(), Vec::<String>::new());
    let links = |files: [&str; 4]| files.map(|name| machine.path(&format!("/etc/{name}")).is_symlink());
    assert_eq!(links(files), [true; 4]);
    for name in files {
        assert!(machine.read(&format!("/data/{name}")).contains("\nk:"), "{name}");
    }
    machine.revert("workers").await.unwrap();
    assert_eq!(machine.tree(), before);

    // A disk that cannot be written to is told before anything is begun.
    let data: Vec<String> = files.iter().map(|name| machine.read(&format!("/data/{name}"))).collect();
    let mounted = machine.mount("/data", "mode=755");
    for (name, text) in files.iter().zip(data) {
        machine.write(&format!("/data/{name}"), &text);
    }
    let remount = ["-o", "remount,ro"];
    let path = machine.path("/data");
    assert!(std::process::Command::new("mount").args(remount).arg(&path).status().unwrap().success());
    assert_eq!(reasons(&machine.plan(&spec).await), ["group k: ReadOnly", "user k: ReadOnly"]);
    drop(mounted);

    std::fs::remove_file(machine.path("/data/passwd")).unwrap();
    let failure = node_agent::engine::plan(&machine.host(), &spec).await.unwrap_err();
    assert_eq!(
        failure.to_string(),
        "/etc/passwd is a symbolic link to /data/passwd, which is missing: mount or restore what it leads to, or put a file in its place"
    );
}

#[tokio::test]
async fn the_lock_of_other_programs_is_waited_for() {
    let machine = Machine::new();
    let path = machine.path("/etc/.pwd.lock");
    // Locks of this kind are a process's, so another one must hold it.
    let mut holder = std::process::Command::new("python3")
        .args(["-c", "import fcntl,sys,time; f=open(sys.argv[1],'w'); fcntl.lockf(f,fcntl.LOCK_EX); print('held',flush=True); sys.stdin.read()"])
        .arg(&path)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("python3");
    let mut held = [0; 5];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut held).unwrap();
    let release = std::thread::spawn({
        let input = holder.stdin.take();
        let group = machine.path("/etc/group");
        move || {
            std::thread::sleep(std::time::Duration::from_millis(200));
            let text = std::fs::read_to_string(group).unwrap();
            drop(input);
            text
        }
    });
    machine.apply(&request(json!({"groups": [{"name": "k"}]}))).await.unwrap();
    assert_eq!(release.join().unwrap(), GROUP, "nothing was written while another held the lock");
    assert!(machine.read("/etc/group").ends_with("k:x:999:\n"));
    holder.wait().unwrap();
}

#[tokio::test]
async fn memberships_comment_and_lock_follow_the_spec_and_are_put_back() {
    let machine = Machine::new();
    machine.write("/etc/passwd", &format!("{PASSWD}k:x:300:50:The K:/home/k:/bin/bash\n"));
    machine.write("/etc/group", &format!("{GROUP}docker:x:700:ann\nown:x:701:k\n"));
    machine.write("/etc/gshadow", "root:*::\ndaemon:*::\nstaff:*::\ndocker:!::ann\nown:!::k\n");
    machine.write("/etc/shadow", "root:*:19000:0:99999:7:::\nk:$6$salt$hash:19000:0:99999:7:::\n");
    let before = machine.tree();
    let user =
        |groups: &[&str]| json!({"name": "k", "groups": groups, "comment": "Kubernetes", "locked": true});
    let spec = |groups: &[&str]| request(json!({"groups": [{"name": "new"}], "users": [user(groups)]}));
    let made = machine.apply(&spec(&["docker", "own", "new"])).await.unwrap();
    assert_eq!(
        lines(&made)[1..],
        [
            "user k: join the group docker",
            "user k: join the group new",
            "user k: comment \"The K\" to \"Kubernetes\"",
            "user k: lock"
        ]
    );
    assert!(!format!("{made:?}").contains("hash"));
    assert!(machine.read("/etc/group").contains("docker:x:700:ann,k\n"));
    assert!(machine.read("/etc/gshadow").contains("docker:!::ann,k\n"));
    assert!(machine.read("/etc/shadow").contains("k:!$6$salt$hash:19000:"));
    assert!(machine.read("/etc/passwd").contains("k:x:300:50:Kubernetes:/home/k:/bin/bash\n"));
    assert!(machine.plan(&spec(&["docker", "own", "new"])).await.is_empty());

    // Drift, and a group that leaves the spec; that which was there before stays.
    machine
        .write("/etc/group", &machine.read("/etc/group").replace("docker:x:700:ann,k", "docker:x:700:ann"));
    assert_eq!(
        lines(&machine.apply(&spec(&["docker", "own", "new"])).await.unwrap()),
        ["user k: join the group docker"]
    );
    let made = machine.apply(&spec(&["new"])).await.unwrap();
    assert_eq!(lines(&made), ["user k: leave the group docker, as before"]);
    assert!(machine.read("/etc/group").contains("own:x:701:k\n"));

    let made = machine.revert("workers").await.unwrap();
    assert!(!made.iter().any(|change| change.is_left()), "{made:?}");
    assert_eq!(machine.tree(), before);
}

#[tokio::test]
async fn a_user_that_was_made_a_member_goes_with_its_memberships() {
    let machine = Machine::new();
    let before = machine.tree();
    let spec = request(json!({
        "groups": [{"name": "k"}],
        "users": [{"name": "k", "group": "k", "groups": ["staff"], "comment": "K", "locked": false}],
    }));
    machine.apply(&spec).await.unwrap();
    assert!(machine.plan(&spec).await.is_empty());
    assert!(machine.read("/etc/shadow").contains("k:*:"), "unlocked, and still without a password");
    machine.revert("workers").await.unwrap();
    assert_eq!(machine.tree(), before);

    let spec = request(json!({"users": [{"name": "daemon", "groups": ["ghosts"]}]}));
    assert_eq!(reasons(&machine.plan(&spec).await), ["user daemon: NoSuchGroup"]);
}

#[tokio::test]
async fn account_files_are_byte_for_byte_as_before_when_all_is_taken_back() {
    let machine = Machine::new();
    machine.write("/etc/passwd", PASSWD.trim_end());
    machine.write("/etc/shadow", machine.read("/etc/shadow").trim_end());
    machine.write("/etc/group", &format!("{GROUP}docker:x:700:ann,,ann"));
    machine.write("/etc/gshadow", "root:*::\ndocker:!:,:ann,");
    let before = machine.tree();
    let users =
        json!([{"name": "k", "group": "k", "groups": ["docker"]}, {"name": "daemon", "groups": ["docker"]}]);
    machine.apply(&request(json!({"groups": [{"name": "k"}, {"name": "l"}], "users": users}))).await.unwrap();
    assert!(machine.read("/etc/group").contains("\ndocker:x:700:ann,,ann,daemon,k\n"));
    machine.revert("workers").await.unwrap();
    assert_eq!(machine.tree(), before);
}
