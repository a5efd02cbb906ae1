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
             - {{path: /etc/token, mode: \"0644\", {token}}}\n  \
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
    let (code, text, error) = run("plan", "text");
    assert_eq!(code, 2, "{text}{error}");
    for shown in [
        "  + file /etc/conf: content\n      --- /etc/conf\n      +++ /etc/conf\n      @@ -1,2 +1,2 @@\n       a\n      -old\n      +new\n",
        "file /etc/private: content, mode 0600 to 0644\n      (what is there is not for everybody to read: not shown)\n",
        "file /etc/token: create, root:root 0644\n      (secret: not shown)\n",
        "      --- /dev/null\n      +++ /etc/systemd/system/x.service\n      @@ -0,0 +1,2 @@\n      +[Service]\n",
    ] {
        assert!(text.contains(shown), "no {shown:?} in:\n{text}");
    }
    assert!(!text.contains("pass phrase") && !text.contains("hunter2"), "{text}");
    let (_, text, _) = run("plan", "json");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let diffs: Vec<_> = json["changes"].as_array().unwrap().iter().map(|change| &change["diff"]).collect();
    assert_eq!(diffs[0], "--- /etc/conf\n+++ /etc/conf\n@@ -1,2 +1,2 @@\n a\n-old\n+new");
    assert!(diffs[2] == "(secret: not shown)" && !text.contains("hunter2"), "{text}");

    // What was a secret is none to be shown when something else takes its place.
    assert_eq!(run("apply", "text").0, 0);
    std::fs::write(at("nb.yaml"), spec("content: public")).unwrap();
    let (_, text, _) = run("plan", "text");
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
