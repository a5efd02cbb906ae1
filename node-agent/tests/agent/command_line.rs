//! The program as a user runs it.

use std::process::{Command, Output, Stdio};

use node_agent::switch::{Stage, Switch};

use crate::support::{Machine, request};
use crate::switches::asked;

const SPEC: &str = "apiVersion: nodebootstrap.io/v1alpha1
kind: NodeBootstrap
metadata: {name: workers}
spec:
  allNodes: true
  groups: [{name: kubernetes}]
  files: [{path: /etc/motd, configMapRef: {name: texts, key: motd}}]
  units: [{name: hello.service, content: \"[Service]\\nExecStart=/x\\n[Install]\\nWantedBy=a.target\\n\", enabled: true, active: true}]
";

fn agent(machine: &Machine, arguments: &[&str]) -> (i32, String, String) {
    let output: Output = Command::new(env!("CARGO_BIN_EXE_nodebootstrap-agent"))
        .args(arguments)
        .args(["--root", &machine.root_path()])
        .stdin(Stdio::null())
        .output()
        .expect("the program");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("a code"), text(output.stdout), text(output.stderr))
}

#[test]
fn a_user_plans_applies_and_looks() {
    let machine = Machine::new();
    let files = tempfile::tempdir().unwrap();
    let at = |name: &str| files.path().join(name).to_string_lossy().into_owned();
    std::fs::write(at("nb.yaml"), SPEC).unwrap();
    let (file, refs) = (at("nb.yaml"), at(""));

    let (code, _, error) = agent(&machine, &["plan", "--file", &file]);
    assert_eq!(code, 1);
    assert_eq!(
        error,
        "error: the spec refers to ConfigMap texts, key motd: put its value into DIR/texts/motd and give --refs DIR\n"
    );
    std::fs::create_dir(at("texts")).unwrap();
    std::fs::write(at("texts/motd"), "hello\n").unwrap();

    let with = |command: &'static str| vec![command, "--file", file.as_str(), "--refs", refs.as_str()];
    let json = |command| [with(command), vec!["--output", "json"]].concat();
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("one JSON object");

    let (code, text, _) = agent(&machine, &with("plan"));
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("group kubernetes: create with gid 999") && !text.contains('\u{1b}'), "{text}");
    let (code, text, _) = agent(&machine, &json("plan"));
    let plan = parse(&text);
    assert_eq!((code, plan["changes"].as_array().unwrap().len()), (2, 4));
    assert_eq!((&plan["disruption"], &plan["errors"]), (&"None".into(), &serde_json::json!([])));

    let (code, text, _) = agent(&machine, &with("status"));
    assert_eq!(code, 2);
    assert!(
        text.contains("nothing was applied on this host yet") && text.contains("differs group kubernetes"),
        "{text}"
    );

    let (code, text, error) = agent(&machine, &with("apply"));
    assert_eq!(code, 0, "{text}{error}");
    assert!(text.contains("done: 4 changes made and verified"), "{text}");
    assert!(text.contains("units were written and enabled, none was started"), "{text}");
    assert_eq!(machine.read("/etc/motd"), "hello\n");

    for (command, says) in
        [("plan", "nothing to do"), ("apply", "nothing to do"), ("status", "ok      file /etc/motd")]
    {
        let (code, text, _) = agent(&machine, &with(command));
        assert_eq!(code, 0);
        assert!(text.contains(says), "{text}");
    }
    let (_, text, _) = agent(&machine, &json("status"));
    let status = parse(&text);
    assert_eq!(status["last"]["done"], true);
    assert!(status["resources"].as_array().unwrap().iter().all(|resource| resource["state"] == "ok"));

    machine.write("/etc/systemd/system/hello.service", "drifted");
    let (code, text, _) = agent(&machine, &with("status"));
    assert_eq!(code, 2);
    assert!(text.contains("differs unit hello.service: content"), "{text}");
}

#[test]
fn a_plan_shows_how_content_changes_and_never_a_secret() {
    let machine = Machine::new();
    let files = tempfile::tempdir().unwrap();
    let at = |name: &str| files.path().join(name).to_string_lossy().into_owned();
    std::fs::create_dir(at("s")).unwrap();
    let spec = |token: &str| {
        format!(
            "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: workers}}\nspec:\n  allNodes: true\n  \
             files:\n  - {{path: /etc/conf, content: \"a\\nnew\\n\"}}\n  - {{path: /etc/private, content: \"shown\\n\"}}\n  \
             - {{path: /etc/token, mode: \"0644\", {token}}}\n  - {{path: /root/open, mode: \"0600\", content: first}}\n  \
             units: [{{name: x.service, content: \"[Service]\\nExecStart=/x\\n\"}}]\n"
        )
    };
    let secret = "secretRef: {name: s, key: k}";
    std::fs::write(at("s/k"), "hunter2").unwrap();
    std::fs::write(at("nb.yaml"), spec(secret)).unwrap();
    let run = |command, output| {
        agent(&machine, &[command, "--file", &at("nb.yaml"), "--refs", &at(""), "--output", output])
    };
    machine.write("/etc/conf", "a\nold\n");
    machine.write("/etc/private", "pass phrase\n");
    machine.set("/etc/private", 0, 0, 0o600);
    machine.directory("/root");
    machine.set("/root", 0, 0, 0o700);
    machine.write("/root/open", "pass phrase\n");
    let (code, text, error) = run("plan", "text");
    assert_eq!(code, 2, "{text}{error}");
    for shown in [
        "  + file /etc/conf: content\n      --- /etc/conf\n      +++ /etc/conf\n      @@ -1,2 +1,2 @@\n       a\n      -old\n      +new\n",
        "file /etc/private: content, mode 0600 to 0644\n      (what is there is not for everybody to read: not shown)\n",
        "file /root/open: content, mode 0644 to 0600\n      (what is there is not for everybody to read: not shown)\n",
        "file /etc/token: create, root:root 0644\n      (secret: not shown)\n",
        "      --- /dev/null\n      +++ /etc/systemd/system/x.service\n      @@ -0,0 +1,2 @@\n      +[Service]\n",
    ] {
        assert!(text.contains(shown), "no {shown:?} in:\n{text}");
    }
    assert!(["pass phrase", "hunter2"].iter().all(|secret| !text.contains(secret)), "{text}");
    let (_, text, _) = run("plan", "json");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let diffs: Vec<_> = json["changes"].as_array().unwrap().iter().map(|change| &change["diff"]).collect();
    assert_eq!(diffs[0], "--- /etc/conf\n+++ /etc/conf\n@@ -1,2 +1,2 @@\n a\n-old\n+new");
    assert!(diffs[2] == "(secret: not shown)" && !text.contains("hunter2"), "{text}");

    // What was a secret is none to be shown when something else takes its place.
    assert_eq!(run("apply", "text").0, 0);
    std::fs::write(at("nb.yaml"), spec("content: public").replace("first", "second")).unwrap();
    let (_, text, _) = run("plan", "text");
    assert!(text.contains("-first") && text.contains("+second"), "a spec had it: {text}");
    assert!(text.contains("file /etc/token: content\n      (secret: not shown)\n"), "{text}");
    // Nothing of it stays on the host.
    let state = machine.untouched();
    let state: Vec<_> = state.iter().filter(|(path, _)| path.contains("result.json")).collect();
    assert!(!state.is_empty() && !format!("{state:?}").contains("+new"), "{state:?}");
}

#[test]
fn a_file_in_mode_plan_is_not_applied() {
    let machine = Machine::new();
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("nb.yaml").to_string_lossy().into_owned();
    let spec = "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {name: w}\nspec: {allNodes: true, mode: Plan, groups: [{name: k}]}\n";
    std::fs::write(&file, spec).unwrap();
    let before = machine.untouched();
    let (code, _, error) = agent(&machine, &["apply", "--file", &file]);
    assert_eq!(code, 1);
    assert!(
        error.contains("its mode is Plan, so nothing is applied: run plan, or write mode: Apply"),
        "{error}"
    );
    assert_eq!(agent(&machine, &["plan", "--file", &file]).0, 2);
    assert_eq!(machine.untouched(), before);
}

#[test]
fn what_cannot_be_is_told_in_one_line() {
    let machine = Machine::new();
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("nb.yaml").to_string_lossy().into_owned();
    let (code, _, error) = agent(&machine, &["plan", "--file", &file]);
    assert_eq!((code, error.lines().count()), (1, 1), "{error}");
    std::fs::write(&file, SPEC.replace("/etc/motd", "etc/motd")).unwrap();
    let (code, _, error) = agent(&machine, &["plan", "--file", &file]);
    assert_eq!(code, 1);
    assert!(error.contains("paths are absolute"), "{error}");

    std::fs::write(&file, "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {name: w}\nspec: {allNodes: true, groups: [{name: root2, gid: 1}]}\n").unwrap();
    let (code, text, _) = agent(&machine, &["apply", "--file", &file, "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (code, &json["outcome"], &json["errors"][0]["reason"]),
        (1, &"failed".into(), &"IdTaken".into())
    );
}

#[test]
fn a_paused_host_is_planned_for_and_not_changed() {
    let machine = Machine::new();
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("nb.yaml").to_string_lossy().into_owned();
    let spec = SPEC.lines().filter(|line| !line.contains("configMapRef")).collect::<Vec<_>>().join("\n");
    std::fs::write(&file, spec).unwrap();
    let (code, text, _) = agent(&machine, &["pause"]);
    assert!(code == 0 && text.starts_with("paused since 20"), "{text}");
    let again = agent(&machine, &["pause"]);
    assert_eq!((again.0, again.1), (0, text), "since when it was paused first");
    let before = machine.tree();
    // Whoever writes the reason by hand has no hold on the terminal of who reads it.
    let since = machine.read("/var/lib/nodebootstrap/.paused");
    machine.write("/var/lib/nodebootstrap/.paused", "\u{1b}[31mlunch");
    let (_, text, _) = agent(&machine, &["pause"]);
    assert!(text.starts_with("paused since \\u{1b}[31mlunch: "), "{text}");
    machine.write("/var/lib/nodebootstrap/.paused", &since);
    machine.set("/var/lib/nodebootstrap/.paused", 0, 0, 0o600);
    for command in [&["apply", "--file", &file][..], &["revert", "workers"]] {
        std::fs::create_dir_all(machine.path("/var/lib/nodebootstrap/workers")).unwrap();
        let (code, _, error) = agent(&machine, command);
        assert!(code == 1 && error.contains("run nodebootstrap-agent resume first"), "{command:?}: {error}");
    }
    assert_eq!(agent(&machine, &["plan", "--file", &file]).0, 2);
    assert_eq!(machine.tree(), before);
    assert_eq!(agent(&machine, &["resume"]).0, 0);
    let (code, text, error) = agent(&machine, &["apply", "--file", &file]);
    assert!(code == 0 && text.contains("done"), "{text}{error}");
}

#[test]
fn what_the_host_itself_changes_just_now_is_told() {
    let machine = Machine::new();
    let file = machine.path("/nb.yaml");
    std::fs::write(&file, SPEC.replace("configMapRef: {name: texts, key: motd}", "content: x")).unwrap();
    let file = file.to_string_lossy().into_owned();
    let open = Switch { stage: Stage::Armed, ..asked(&request(serde_json::json!({}))) };
    machine.host().state.put_switch("other", &open).unwrap();
    let says = "is being changed for the NodeBootstrap other";
    for command in ["plan", "status"] {
        let (_, text, _) = agent(&machine, &[command, "--file", &file]);
        assert!(text.contains(says), "{command}: {text}");
    }
    let (code, _, error) = agent(&machine, &["apply", "--file", &file]);
    assert!(code == 1 && error.contains(says), "{error}");
    let (code, text, note) = agent(&machine, &["pause"]);
    assert!(code == 0 && text.contains("paused since") && note.contains(says), "{text} {note}");
}

#[test]
fn a_value_that_is_no_file_is_refused_and_not_waited_for() {
    let machine = Machine::new();
    let files = tempfile::tempdir().unwrap();
    let at = |name: &str| files.path().join(name).to_string_lossy().into_owned();
    std::fs::write(at("nb.yaml"), SPEC).unwrap();
    std::fs::create_dir(at("texts")).unwrap();
    assert!(Command::new("mkfifo").arg(at("texts/motd")).status().unwrap().success());
    let (code, _, error) = agent(&machine, &["plan", "--file", &at("nb.yaml"), "--refs", &at("")]);
    assert!(
        code == 1 && error.contains("/texts/motd is a device, socket or pipe, expected a file"),
        "{error}"
    );
}

#[test]
fn what_is_left_is_told_apart_from_what_was_changed() {
    let machine = Machine::new();
    let file = machine.path("/nb.yaml").to_string_lossy().into_owned();
    let spec = |paths: &[&str]| {
        let files: Vec<_> = paths.iter().map(|path| format!("{{path: {path}, content: x}}")).collect();
        let head = SPEC.lines().take(5).collect::<Vec<_>>().join("\n");
        std::fs::write(&file, format!("{head}\n  files: [{}]\n", files.join(", "))).unwrap();
    };
    spec(&["/etc/a", "/etc/b", "/etc/c"]);
    assert_eq!(agent(&machine, &["apply", "--file", &file]).0, 0);
    machine.write("/etc/a", "somebody's");
    spec(&["/etc/c"]);
    let (_, text, _) = agent(&machine, &["plan", "--file", &file]);
    assert!(text.contains("\n1 change, nothing"), "{text}");
    let (code, text, _) = agent(&machine, &["apply", "--file", &file]);
    let end =
        "done: 1 change made and verified\nfile /etc/a left as it is: something else has changed it since\n";
    assert!(code == 0 && text.ends_with(end), "{text}");
    let (_, text, _) = agent(&machine, &["status", "--file", &file]);
    assert!(text.contains(": 1 change made for"), "{text}");
}

#[test]
fn a_plan_says_what_would_stop_an_apply() {
    let machine = Machine::new();
    let file = machine.path("/nb.yaml").to_string_lossy().into_owned();
    let spec = SPEC.lines().take(6).collect::<Vec<_>>().join("\n");
    std::fs::write(&file, spec).unwrap();
    let run = |command: &str| agent(&machine, &[command, "--file", &file]);
    // A lock of this kind does not count for who holds it: this process, and not the program.
    let lock = std::fs::File::create(machine.path("/etc/.pwd.lock")).unwrap();
    rustix::fs::fcntl_lock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let before = machine.tree();
    let (code, text, _) = run("plan");
    assert!(code == 2 && text.contains("warning: /etc/.pwd.lock is held by another program"), "{text}");
    assert_eq!(machine.tree(), before);
    drop(lock);
    let (code, text, _) = run("plan");
    assert!(code == 2 && !text.contains("warning"), "{text}");

    assert_eq!(run("apply").0, 0);
    for (path, mode) in [("/var/lib/nodebootstrap", 0o777), ("/var/lib/nodebootstrap/workers", 0o702)] {
        machine.set(path, 0, 0, mode);
        for command in ["plan", "status", "apply"] {
            let (code, text, _) = run(command);
            let says = format!("{path} belongs to the user 0, with mode {mode:04o}: see that");
            assert!(code == 1 && text.contains(&says), "{command}: {text}");
        }
        machine.set(path, 0, 0, 0o700);
    }
    assert_eq!(run("plan").0, 0);
}
