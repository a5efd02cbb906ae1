//! Killed everywhere: the program ends, as by SIGKILL, before each single change of the machine; then it runs again.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use node_agent::host::failpoint::KILL_AT;
use sha2::Digest;

use crate::archives::Tar;
use crate::support::{ACL, CAPABILITY, Machine, Served};

const SPEC: &str = r#"apiVersion: nodebootstrap.io/v1alpha1
kind: NodeBootstrap
metadata: {name: workers}
spec:
  allNodes: true
  groups: [{name: k}, {name: staff}, {name: fresh}]
  users:
  - {name: k, home: /etc/k, groups: [staff, fresh], comment: ours}
  - {name: daemon, shell: /usr/sbin/nologin, home: /etc/k, comment: ours, locked: true}
  directories:
  - {path: /etc/k, owner: k, group: k, recursive: true, inside: {fileMode: "0640", directoryMode: "0750"}}
  - {path: /etc/k/deep, owner: k, group: k, mode: "0700"}
  - {path: /opt, mode: "0750"}
  files:
  - {path: /etc/k/deep/f, content: x, owner: k, mode: "0600"}
  - {path: /etc/motd, content: ours}
  - {path: /etc/issue, content: theirs, mode: "0600"}
  - {path: /etc/same, content: ours}
  fileParts:
  - {path: /etc/hosts, name: a, block: "10.0.0.1 a\n10.0.0.2 b\n"}
  - {path: /etc/environment, name: a, line: A=ours, replaces: A=}
  - {path: /etc/environment, name: b, line: B=ours, replaces: B=}
  binaries:
  - {path: /usr/local/sbin/kubelet, url: "URL", sha256: {amd64: "DIGEST", arm64: "DIGEST"}}
  archives:
  - {name: tools, url: "file:///srv/tools.tar", sha256: {amd64: "ARCHIVE", arm64: "ARCHIVE"}, into: /opt}
  symlinks: [{path: /opt/k, target: /etc/k}, {path: /etc/theirs, target: ours}]
  kernel: {modules: [br_netfilter], sysctls: {vm.swappiness: "1"}}
  units:
  - name: k.service
    dropIns: [{name: 10-k.conf, content: "[Service]\nNice=7\n"}]
    content: "[Service]\nExecStart=/x\n[Install]\nWantedBy=a.target\nAlias=other.service\n"
    enabled: true
  - {name: there.service, enabled: false}
  - {name: vendor.service, masked: true}
"#;

/// What is unpacked: a file that was there before and is another, one that is new in a folder that is new, and a link.
fn tools() -> Vec<u8> {
    Tar::default()
        .file("known", "ours")
        .directory("tools", 0o755)
        .file("tools/new", "n")
        .link("link", "known")
        .end()
}

/// A machine that has some of it already, and different.
fn used() -> Machine {
    let machine = Machine::new();
    machine.write("/etc/motd", "theirs");
    machine.set("/etc/motd", 1, 50, 0o640);
    machine.grant("/etc/motd", ACL);
    machine.write("/etc/issue", "theirs");
    machine.grant("/etc/issue", ACL);
    machine.write("/etc/same", "ours");
    machine.grant("/etc/same", CAPABILITY);
    machine.grant("/etc/same", ACL);
    machine.link("/etc/theirs", "theirs");
    machine.write("/etc/hosts", "127.0.0.1 localhost");
    machine.write("/etc/environment", "A=theirs\n");
    machine.set("/etc/environment", 1, 50, 0o640);
    machine.write("/opt/known", "theirs");
    machine.set("/opt/known", 1, 50, 0o600);
    machine.directory("/srv");
    std::fs::write(machine.path("/srv/tools.tar"), tools()).unwrap();
    machine.directory("/etc/k/old");
    machine.write("/etc/k/old/data", "data");
    machine.set("/etc/k/old/data", 77, 77, 0o4755);
    machine.grant("/etc/k/old/data", CAPABILITY);
    machine.write("/etc/k/old/tool", "tool");
    machine.set("/etc/k/old/tool", 0, 0, 0o640);
    machine.grant("/etc/k/old/tool", CAPABILITY);
    machine.write(
        "/etc/systemd/system/there.service",
        "[Service]\nExecStart=/x\n[Install]\nWantedBy=b.target\n",
    );
    machine.directory("/usr/lib/systemd/system");
    machine.write("/usr/lib/systemd/system/vendor.service", "[Service]\nExecStart=/x\n");
    machine.directory("/etc/systemd/system/b.target.wants");
    machine.link("/etc/systemd/system/b.target.wants/there.service", "/etc/systemd/system/there.service");
    machine
}

/// Runs the program, killed before a change; whether it came to its end.
fn run(machine: &Machine, arguments: &[&str], kill_at: Option<usize>) -> bool {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodebootstrap-agent"));
    command.args(arguments).args(["--root", &machine.root_path()]).stdin(Stdio::null());
    if let Some(at) = kill_at {
        command.env(KILL_AT, at.to_string());
    }
    let output = command.output().expect("the program");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || output.status.code().is_none(), "{kill_at:?}: {said}");
    output.status.success()
}

/// All but the agent's own.
fn tree(machine: &Machine) -> BTreeMap<String, String> {
    machine.tree().into_iter().filter(|(path, _)| !path.starts_with("var/lib/.nodebootstrap")).collect()
}

/// That two are the same, with the differences as an error.
fn same(now: &BTreeMap<String, String>, expected: &BTreeMap<String, String>, when: &str) {
    let differ: Vec<_> = now.iter().filter(|(path, is)| expected.get(*path) != Some(*is)).collect();
    let missing: Vec<_> = expected.keys().filter(|path| !now.contains_key(*path)).collect();
    assert!(differ.is_empty() && missing.is_empty(), "{when}: differ {differ:#?}, missing {missing:?}");
}

fn ledger(machine: &Machine) -> String {
    machine.read("/var/lib/nodebootstrap/workers/ledger.json")
}

/// Tries each point in turn, on as many threads as there are processors; how many there are.
fn each_point(attempt: impl Fn(usize) -> bool + Sync) -> usize {
    let (next, last) = (AtomicUsize::new(1), Mutex::new(0));
    let threads = std::thread::available_parallelism().map_or(1, Into::into);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if attempt(at) {
                        return;
                    }
                    let mut last = last.lock().expect("no panic");
                    *last = at.max(*last);
                }
            });
        }
    });
    last.into_inner().expect("no panic")
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_any_change_the_next_run_finishes() {
    let files = tempfile::tempdir().unwrap();
    let served = Served::start(b"\x7fELF program").await;
    let file = files.path().join("nb.yaml").to_string_lossy().into_owned();
    let archive = hex::encode(sha2::Sha256::digest(tools()));
    let spec = SPEC.replace("URL", &served.url).replace("DIGEST", &served.digest);
    std::fs::write(&file, spec.replace("ARCHIVE", &archive)).unwrap();
    let apply = ["apply", "--file", &file];
    let revert = ["revert", "workers"];

    let (whole, before) = (used(), tree(&used()));
    assert!(run(&whole, &apply, None));
    let (after, written) = (tree(&whole), ledger(&whole));
    let applied = each_point(|at| {
        let machine = used();
        let ended = run(&machine, &apply, Some(at));
        assert!(ended || run(&machine, &apply, None), "{at}");
        same(&tree(&machine), &after, &format!("killed before change {at}"));
        assert_eq!(machine.leftovers(), Vec::<String>::new(), "killed before change {at}");
        assert_eq!(ledger(&machine), written, "killed before change {at}");
        ended
    });
    let reverted = each_point(|at| {
        let machine = used();
        assert!(run(&machine, &apply, None));
        let ended = run(&machine, &revert, Some(at));
        let known = machine.is_there("/var/lib/nodebootstrap/workers");
        assert!(ended || !known || run(&machine, &revert, None), "{at}");
        same(&tree(&machine), &before, &format!("killed before change {at}"));
        assert_eq!(machine.leftovers(), Vec::<String>::new(), "killed before change {at}");
        ended
    });
    let half = each_point(|at| {
        let machine = used();
        let ended = run(&machine, &apply, Some(at));
        // Killed while it is made, it is taken off: as if it had never been begun.
        if machine.is_there("/var/lib/nodebootstrap/workers") {
            assert!(run(&machine, &revert, None), "{at}");
            assert_eq!(machine.leftovers(), Vec::<String>::new(), "killed before change {at}, then reverted");
        }
        same(&tree(&machine), &before, &format!("killed before change {at}, then reverted"));
        ended
    });
    println!(
        "killed at {applied} points of applying, {reverted} of reverting, {half} of applying and then reverted"
    );
    assert!(applied > 100 && reverted > 80, "{applied} {reverted}");
}
