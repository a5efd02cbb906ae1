//! What a node is found to be: who has set its kubelet up, how it runs, and what the NodeBootstrap itself made left out.
//!
//! The layouts are those that each project's own units, scripts and documentation describe.

use node_agent::host::node;
use node_agent::preset::facts::CgroupVersion;
use node_agent::preset::owner::Owner;
use node_agent::preset::{Facts, expand, expanded};
use serde_json::json;

use crate::support::{Machine, reasons, request, try_request};

/// A machine with these files.
fn machine(files: &[(&str, &str)]) -> Machine {
    let machine = Machine::new();
    lay(&machine, files);
    machine
}

fn lay(machine: &Machine, files: &[(&str, &str)]) {
    for (path, text) in files {
        let (folder, _) = path.rsplit_once('/').expect("a path");
        machine.directory(folder);
        machine.write(path, text);
    }
}

/// What it is found to be for a NodeBootstrap that has made nothing there.
async fn look(machine: &Machine) -> Facts {
    node::look(&machine.host(), &request(json!({"kubelet": {}})).revision).await.expect("facts")
}

/// Who is found to have set the kubelet up, and the file that tells.
async fn owner(files: &[(&str, &str)]) -> (Option<Owner>, String) {
    let facts = look(&machine(files)).await;
    (facts.owner, facts.owner_file)
}

const UNIT: &str = "/usr/lib/systemd/system/kubelet.service";
const PLAIN: &str = "[Unit]\nDescription=kubelet\n[Service]\nExecStart=/usr/bin/kubelet\nRestart=always\n[Install]\nWantedBy=multi-user.target\n";
const KUBEADM: &str = "/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf";
const KUBEADM_TEXT: &str = "# Only works with kubeadm\n[Service]\nEnvironment=\"KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf\"\n\
Environment=\"KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml\"\nEnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env\nEnvironmentFile=-/etc/default/kubelet\n\
ExecStart=\nExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS\n";

#[tokio::test]
async fn a_node_without_a_kubelet_is_nobody_s() {
    assert_eq!(owner(&[]).await, (None, String::new()));
    let facts = look(&machine(&[("/usr/bin/kubelet", "")])).await;
    assert_eq!((facts.kubelet, facts.kubelet_program.as_deref()), (None, Some("/usr/bin/kubelet")));
}

#[tokio::test]
async fn kubeadm_is_known_by_its_drop_in() {
    let files = [(UNIT, PLAIN), (KUBEADM, KUBEADM_TEXT)];
    assert_eq!(owner(&files).await, (Some(Owner::Kubeadm), KUBEADM.to_owned()));
    // Where somebody has written the unit anew, what it leaves beside the configuration tells.
    let flags = "/var/lib/kubelet/kubeadm-flags.env";
    let files = [(UNIT, PLAIN), (flags, "KUBELET_KUBEADM_ARGS=\"\"\n")];
    assert_eq!(owner(&files).await, (Some(Owner::Kubeadm), flags.to_owned()));
}

#[tokio::test]
async fn k3s_is_known_by_its_units() {
    for name in ["k3s", "k3s-agent"] {
        let path = format!("/etc/systemd/system/{name}.service");
        let text = "[Service]\nType=exec\nEnvironmentFile=-/etc/systemd/system/k3s.service.env\nExecStart=/usr/local/bin/k3s \\\n    agent \\\n\n[Install]\nWantedBy=multi-user.target\n";
        // Also beside a kubelet that somebody has installed and does not use.
        assert_eq!(owner(&[(&path, text), (UNIT, PLAIN)]).await, (Some(Owner::K3s), path));
    }
}

#[tokio::test]
async fn rke2_is_known_by_its_units_from_tarball_and_package() {
    for path in
        ["/usr/local/lib/systemd/system/rke2-server.service", "/usr/lib/systemd/system/rke2-agent.service"]
    {
        let text = "[Service]\nType=notify\nEnvironmentFile=-/etc/default/rke2-agent\nExecStart=/usr/local/bin/rke2 agent\n";
        assert_eq!(owner(&[(path, text)]).await, (Some(Owner::Rke2), path.to_owned()));
    }
}

#[tokio::test]
async fn microk8s_is_known_by_its_snap_s_unit() {
    let path = "/etc/systemd/system/snap.microk8s.daemon-kubelite.service";
    let text = "[Service]\nEnvironmentFile=-/etc/environment\nExecStart=/usr/bin/snap run microk8s.daemon-kubelite\nSyslogIdentifier=microk8s.daemon-kubelite\n";
    assert_eq!(owner(&[(path, text)]).await, (Some(Owner::MicroK8s), path.to_owned()));
}

#[tokio::test]
async fn eks_is_known_on_amazon_linux_2_by_its_script() {
    let unit = "[Service]\nExecStart=/usr/bin/kubelet \\\n    --config /etc/kubernetes/kubelet/kubelet-config.json \\\n    --kubeconfig /var/lib/kubelet/kubeconfig \\\n    $KUBELET_ARGS \\\n    $KUBELET_EXTRA_ARGS\n";
    let files = [
        ("/etc/systemd/system/kubelet.service", unit),
        ("/etc/eks/bootstrap.sh", "#!/usr/bin/env bash\n"),
        (
            "/etc/systemd/system/kubelet.service.d/10-kubelet-args.conf",
            "[Service]\nEnvironment='KUBELET_ARGS=--node-ip=10.0.0.7 --v=2'\n",
        ),
        (
            "/etc/kubernetes/kubelet/kubelet-config.json",
            "{\"kind\": \"KubeletConfiguration\", \"maxPods\": 29}",
        ),
    ];
    assert_eq!(owner(&files).await, (Some(Owner::Eks), "/etc/eks/bootstrap.sh".to_owned()));
    let kubelet = look(&machine(&files)).await.kubelet.unwrap();
    assert_eq!(kubelet.flag("node-ip"), Some("10.0.0.7"));
    assert_eq!(kubelet.flag("kubeconfig"), Some("/var/lib/kubelet/kubeconfig"));
    assert_eq!(kubelet.config.unwrap()["maxPods"], 29);
}

#[tokio::test]
async fn eks_is_known_on_amazon_linux_2023_by_nodeadm() {
    let unit = "/etc/systemd/system/kubelet.service";
    let files = [
        (
            unit,
            "[Service]\nEnvironmentFile=/etc/eks/kubelet/environment\nExecStart=/usr/bin/kubelet $NODEADM_KUBELET_ARGS\n",
        ),
        (
            "/etc/systemd/system/nodeadm-run.service",
            "[Service]\nExecStart=/usr/bin/nodeadm init --skip config\n",
        ),
        (
            "/etc/eks/kubelet/environment",
            "NODEADM_KUBELET_ARGS=--config=/etc/kubernetes/kubelet/config.json --config-dir=/etc/kubernetes/kubelet/config.json.d --node-ip=10.0.0.8\n",
        ),
        (
            "/etc/kubernetes/kubelet/config.json",
            "{\"maxPods\": 29, \"kubeReserved\": {\"cpu\": \"70m\", \"memory\": \"1Gi\"}}",
        ),
        (
            "/etc/kubernetes/kubelet/config.json.d/40-nodeadm.conf",
            "{\"maxPods\": 58, \"kubeReserved\": {\"cpu\": \"80m\"}}",
        ),
    ];
    assert_eq!(owner(&files).await, (Some(Owner::Eks), unit.to_owned()));
    let kubelet = look(&machine(&files)).await.kubelet.unwrap();
    assert_eq!(kubelet.command, ["/usr/bin/kubelet", "$NODEADM_KUBELET_ARGS"]);
    let expected = json!({"maxPods": 58, "kubeReserved": {"cpu": "80m", "memory": "1Gi"}});
    assert_eq!((kubelet.config, kubelet.arguments.len()), (Some(expected), 3));
}

#[tokio::test]
async fn gke_is_known_by_where_its_programs_lie() {
    let unit = "/etc/systemd/system/kubelet.service";
    let text = "[Unit]\nDescription=Kubernetes kubelet\n[Service]\nRestart=always\nEnvironmentFile=/etc/default/kubelet\nExecStart=/home/kubernetes/bin/kubelet $KUBELET_OPTS\n";
    let files = [
        (unit, text),
        (
            "/etc/default/kubelet",
            "KUBELET_OPTS=\"--v=2 --cloud-provider=external --config /home/kubernetes/kubelet-config.yaml\"\nKUBE_COVERAGE_FILE=\"/var/log/kubelet.cov\"\n",
        ),
        ("/home/kubernetes/kubelet-config.yaml", "kind: KubeletConfiguration\ncgroupRoot: /\n"),
    ];
    assert_eq!(owner(&files).await, (Some(Owner::Gke), unit.to_owned()));
    assert_eq!(look(&machine(&files)).await.kubelet.unwrap().config.unwrap()["cgroupRoot"], "/");
    // An image with a packaged unit.
    let files = [(UNIT, PLAIN), ("/home/kubernetes/kube-env", "")];
    assert_eq!(owner(&files).await, (Some(Owner::Gke), "/home/kubernetes/kube-env".to_owned()));
}

#[tokio::test]
async fn a_package_and_somebody_are_told_apart_by_where_the_unit_lies() {
    assert_eq!(owner(&[(UNIT, PLAIN)]).await, (Some(Owner::Package), UNIT.to_owned()));
    let own = "/etc/systemd/system/kubelet.service";
    assert_eq!(owner(&[(UNIT, PLAIN), (own, PLAIN)]).await, (Some(Owner::Other), own.to_owned()));
    // One that is masked runs no kubelet.
    let machine = machine(&[(UNIT, PLAIN)]);
    machine.link(own, "/dev/null");
    assert_eq!(look(&machine).await.owner, None);
}

#[tokio::test]
async fn another_nodebootstrap_is_known_by_what_it_claims() {
    let machine = Machine::new();
    let unit = json!({"units": [{"name": "kubelet.service", "content": PLAIN}]});
    let other = try_request("seed", unit, &Default::default()).unwrap();
    machine.apply(&other).await.unwrap();
    let facts = look(&machine).await;
    assert_eq!(facts.owner, Some(Owner::NodeBootstrap("seed".to_owned())));
    assert_eq!(facts.owner_file, "/etc/systemd/system/kubelet.service");
    // For itself it is nobody's.
    let own = node::look(&machine.host(), &other.revision).await.unwrap();
    assert_eq!((own.owner, own.kubelet), (None, None));
    // A limit is no claim.
    let limits = json!({"units": [{"name": "kubelet.service", "dropIns": [{"name": "20-limits.conf", "content": "[Service]\nLimitNOFILE=1048576\n"}]}]});
    let machine = self::machine(&[(UNIT, PLAIN)]);
    machine.apply(&try_request("limits", limits, &Default::default()).unwrap()).await.unwrap();
    assert_eq!(look(&machine).await.owner, Some(Owner::Package));
}

/// A kubeadm node with all that tells how its kubelet runs.
fn kubeadm() -> Machine {
    machine(&[
        (UNIT, PLAIN),
        (KUBEADM, KUBEADM_TEXT),
        (
            "/var/lib/kubelet/kubeadm-flags.env",
            "KUBELET_KUBEADM_ARGS=\"--node-ip=10.0.0.7 --pod-infra-container-image=registry.k8s.io/pause:3.10\"\n",
        ),
        (
            "/var/lib/kubelet/config.yaml",
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: 110\ncgroupDriver: systemd\n",
        ),
        ("/usr/bin/kubelet", "\x7fELF the one of 1.36.1"),
        (
            "/etc/os-release",
            "PRETTY_NAME=\"Ubuntu 24.04\"\nID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"24.04\"\n",
        ),
        ("/proc/sys/kernel/osrelease", "6.8.0-31-generic\n"),
        ("/proc/sys/kernel/hostname", "Node7\n"),
        (
            "/usr/lib/systemd/system/containerd.service",
            "[Service]\nExecStart=/usr/bin/containerd -c /etc/containerd/own.toml\n",
        ),
        ("/usr/bin/containerd", "\x7fELF"),
        ("/etc/containerd/own.toml", "version = 2\n"),
    ])
}

fn may_run(machine: &Machine, answers: &[(&str, &str)]) {
    for (program, answer) in answers {
        machine.set(program, 0, 0, 0o755);
        machine.systemd.answers.borrow_mut().insert((*program).to_owned(), (*answer).to_owned());
    }
}

#[tokio::test]
async fn all_that_presets_ask_is_found() {
    let machine = kubeadm();
    let answers = [
        ("/usr/bin/kubelet", "Kubernetes v1.36.1\n"),
        (
            "/usr/bin/containerd",
            "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u1\n",
        ),
    ];
    may_run(&machine, &answers);
    let facts = look(&machine).await;
    let kubelet = facts.kubelet.unwrap();
    assert_eq!(kubelet.version.as_deref(), Some("v1.36.1"));
    assert_eq!(kubelet.unit_file, UNIT);
    assert_eq!(kubelet.command.len(), 5, "{:?}", kubelet.command);
    assert_eq!(kubelet.flag("node-ip"), Some("10.0.0.7"));
    assert_eq!(kubelet.config.as_ref().unwrap()["maxPods"], 110);
    let containerd = facts.containerd.unwrap();
    assert_eq!(containerd.version.as_deref(), Some("1.6.20~ds1"));
    assert_eq!(
        (containerd.config_path.as_str(), containerd.config.as_deref()),
        ("/etc/containerd/own.toml", Some("version = 2\n"))
    );
    assert_eq!((facts.os.id.as_str(), facts.os.version.as_str()), ("ubuntu", "24.04"));
    assert_eq!((facts.os.id_like, facts.kernel), (vec!["debian".to_owned()], (6, 8)));
    assert_eq!(facts.system.host_name, "Node7");
}

#[tokio::test]
async fn a_program_is_asked_once_and_again_when_it_is_another() {
    let machine = kubeadm();
    may_run(&machine, &[("/usr/bin/kubelet", "Kubernetes v1.36.1\n")]);
    let (host, revision) = (machine.host(), request(json!({"kubelet": {}})).revision);
    let version = async || node::look(&host, &revision).await.unwrap().kubelet.unwrap().version;
    for _ in 0..3 {
        assert_eq!(version().await.as_deref(), Some("v1.36.1"));
    }
    assert_eq!(machine.systemd.take_asked(), ["ask /usr/bin/kubelet --version"]);
    machine.write("/usr/bin/kubelet", "\x7fELF the one of 1.36.3");
    may_run(&machine, &[("/usr/bin/kubelet", "Kubernetes v1.36.3\n")]);
    assert_eq!(version().await.as_deref(), Some("v1.36.3"));
    // A script may do anything.
    machine.write("/usr/bin/kubelet", "#!/bin/sh\nexec reboot\n");
    may_run(&machine, &[]);
    machine.set("/usr/bin/kubelet", 0, 0, 0o755);
    machine.systemd.take_asked();
    assert_eq!(version().await, None);
    assert!(machine.systemd.take_asked().is_empty());
}

#[tokio::test]
async fn what_the_nodebootstrap_made_is_left_out() {
    let machine = kubeadm();
    may_run(&machine, &[("/usr/bin/kubelet", "Kubernetes v1.36.1\n")]);
    let spec = request(json!({
        "kubelet": {},
        "kernel": {"sysctls": {"net.ipv4.ip_forward": "1"}},
        "units": [{"name": "kubelet.service", "dropIns": [
            {"name": "10-kubeadm.conf", "content": "[Service]\nExecStart=\nExecStart=/shadowed\n"},
            {"name": "90-own.conf", "content": "[Service]\nExecStart=\nExecStart=/usr/local/sbin/kubelet --config-dir=/etc/kubernetes/kubelet.conf.d\n"},
        ]}],
        "files": [
            {"path": "/usr/local/sbin/kubelet", "content": "ours"},
            {"path": "/etc/kubernetes/kubelet.conf.d/50-own.conf", "content": "maxPods: 200\n"},
            {"path": "/var/lib/kubelet/config.yaml", "content": "maxPods: 7\n"},
            {"path": "/etc/default/kubelet", "content": "KUBELET_EXTRA_ARGS=--v=9\n"},
        ],
        "fileParts": [{"path": "/etc/containerd/own.toml", "name": "own", "block": "# ours\n"}],
    }));
    lay(
        &machine,
        &[
            ("/proc/sys/net/ipv4/ip_forward", "0\n"),
            ("/etc/kubernetes/kubelet.conf.d/10-x.conf", "maxPods: 111\n"),
        ],
    );
    machine.directory("/etc/default");
    let host = machine.host();
    let before = node::look(&host, &spec.revision).await.unwrap();
    machine.apply(&spec).await.unwrap();
    let after = node::look(&machine.host(), &spec.revision).await.unwrap();
    assert!(machine.read("/etc/containerd/own.toml").contains("# ours"));
    assert_eq!(after, Facts { system: after.system.clone(), ..before.clone() });
    // Another sees it.
    assert_eq!(look_as(&machine, "other").await.kubelet.unwrap().command[0], "/usr/local/sbin/kubelet");
    // What is taken back is no matter of the ledger any more.
    machine.revert("workers").await.unwrap();
    assert_eq!(node::look(&machine.host(), &spec.revision).await.unwrap(), before);
}

#[tokio::test]
async fn a_configuration_that_is_there_and_cannot_be_read_is_not_none() {
    let unit = |arguments: &str| format!("[Service]\nExecStart=/usr/bin/kubelet {arguments}\n");
    let unreadable = async |files: &[(&str, &str)]| {
        let machine = machine(&[]);
        lay(&machine, files);
        look(&machine).await.kubelet.unwrap().unreadable
    };
    let of = async |config: &str| {
        unreadable(&[(UNIT, &unit("--config=/etc/k.yaml")), ("/etc/k.yaml", config)]).await
    };
    assert_eq!(of("maxPods: 1\n").await, None);
    for text in ["maxPods: 1\nmaxPods: 2\n", "maxPods: 1\n---\nmaxPods: 2\n", "- a\n"] {
        assert!(of(text).await.is_some_and(|why| why.starts_with("/etc/k.yaml ")), "{text}");
    }
    assert_eq!(unreadable(&[(UNIT, &unit("--config=/etc/k.yaml"))]).await, None, "there is none");
    let specifier = unreadable(&[(UNIT, &unit("--config=%S/kubelet/config.yaml"))]).await;
    assert!(specifier.is_some_and(|why| why.contains("%S")));

    let machine = machine(&[(UNIT, &unit(""))]);
    lay(
        &machine,
        &[("/etc/systemd/system/kubelet.service.d/zzz.conf", "[Service]\nExecStart=\nExecStart=/x\n")],
    );
    let found = look(&machine).await.kubelet.unwrap();
    assert_eq!(found.last_word.as_deref(), Some("/etc/systemd/system/kubelet.service.d/zzz.conf"));
    lay(&machine, &[("/etc/systemd/system/kubelet.service.d/zzz.conf", "[Service]\nNice=1\n")]);
    assert_eq!(look(&machine).await.kubelet.unwrap().last_word, None);
}

async fn look_as(machine: &Machine, name: &str) -> Facts {
    let revision = try_request(name, json!({"kubelet": {}}), &Default::default()).unwrap().revision;
    node::look(&machine.host(), &revision).await.expect("facts")
}

#[tokio::test]
async fn junk_is_nothing_and_no_error() {
    let machine = kubeadm();
    std::fs::write(machine.path(KUBEADM), b"[Service]\nExecStart=\xff\n").unwrap();
    std::fs::write(machine.path("/etc/containerd/own.toml"), vec![b'#'; 2 << 20]).unwrap();
    machine.write("/etc/os-release", "ID\n=\n\"");
    machine.write("/proc/sys/kernel/osrelease", "what.ever\n");
    machine.write(
        UNIT,
        "[Service]\nExecStart=/usr/bin/kubelet --config=/etc/kubernetes/a \"--config-dir=/dev\"\n",
    );
    lay(
        &machine,
        &[("/etc/kubernetes/a", "- [not: an: object\n"), ("/dev/x.conf", "{}"), ("/dev/y.conf", "7")],
    );
    rustix_fifo(&machine, "/etc/os-release");
    let facts = look(&machine).await;
    assert_eq!(facts.kubelet.unwrap().config, Some(json!({})));
    assert_eq!((facts.containerd.unwrap().config, facts.kernel), (None, (0, 0)));
    assert_eq!(facts.os.id, "");
}

fn rustix_fifo(machine: &Machine, path: &str) {
    std::fs::remove_file(machine.path(path)).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(machine.path(path)).status().unwrap().success());
}

#[tokio::test]
async fn cgroups_of_version_1_and_both_are_version_1() {
    for (paths, version) in [
        (&["/sys/fs/cgroup/cgroup.controllers"][..], CgroupVersion::V2),
        (&["/sys/fs/cgroup/memory/tasks"], CgroupVersion::V1),
        (&["/sys/fs/cgroup/unified/cgroup.controllers", "/sys/fs/cgroup/systemd/tasks"], CgroupVersion::V1),
        (&[], CgroupVersion::V2),
    ] {
        let files: Vec<_> = paths.iter().map(|path| (*path, "")).collect();
        assert_eq!(look(&machine(&files)).await.cgroups, version, "{paths:?}");
    }
}

/// The checks that stop a plan, and the warnings.
async fn found(machine: &Machine, spec: serde_json::Value) -> (Vec<&'static str>, Vec<String>) {
    let revision = request(spec).revision;
    let facts = node::look(&machine.host(), &revision).await.expect("facts");
    let (_, findings) = expand(&revision, &facts);
    let preflight = findings.problems.iter().filter(|problem| problem.resource.starts_with("preflight "));
    let told: Vec<_> = preflight
        .map(|problem| (problem.reason, format!("{}: {}", problem.resource, problem.message)))
        .collect();
    // Longer ones are cut in a Report, and what overrides them stands at their end.
    let warnings = findings.warnings.iter().filter(|warning| warning.starts_with("preflight "));
    let mut all = told.iter().map(|(_, line)| line).chain(warnings);
    assert!(all.all(|line| line.len() <= 256), "{told:?}");
    (told.into_iter().map(|(reason, _)| reason).collect(), findings.warnings)
}

const ADOPT: &str = "Adopt";

#[tokio::test]
async fn what_is_sure_to_fail_stops_the_plan_until_it_is_ignored_by_name() {
    let machine = kubeadm();
    lay(
        &machine,
        &[
            ("/proc/swaps", "Filename Type Size Used Priority\n/dev/sda2 partition 1000 0 -2\n"),
            ("/sys/fs/cgroup/memory/tasks", ""),
            // 10250 and 10248 of IPv4 and IPv6, and connections from and to them.
            (
                "/proc/1/net/tcp",
                "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   0: 0100007F:2808 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n   1: 0100007F:280A 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0\n",
            ),
            ("/proc/42/comm", "squatter\n"),
            ("/proc/1/comm", "systemd\n"),
            ("/proc/sys/kernel/hostname", "my_host\n"),
        ],
    );
    machine.directory("/proc/42/fd");
    machine.link("/proc/42/fd/3", "socket:[4711]");
    may_run(&machine, &[("/usr/bin/kubelet", "Kubernetes v1.36.1\n")]);
    let adopt = |ignore: serde_json::Value| json!({"kubelet": {"takeover": ADOPT, "config": {"cgroupDriver": "cgroupfs"}}, "preflight": {"ignore": ignore}});
    let all = ["CgroupV1", "HostName", "Ports", "ResolvConf", "Swap"];
    assert_eq!(found(&machine, adopt(json!([]))).await.0, all);
    // One that is none is told, and the others are as they were.
    let (stopping, warnings) = found(&machine, adopt(json!(["Swap", "Nothing"]))).await;
    assert_eq!(stopping, ["CgroupV1", "HostName", "Ports", "ResolvConf"]);
    assert!(
        warnings.iter().any(|warning| warning.contains("no check Nothing") && warning.contains("TimeSync")),
        "{warnings:?}"
    );
    let (stopping, warnings) = found(&machine, adopt(json!(all))).await;
    assert!(stopping.is_empty());
    assert!(warnings.iter().any(|warning| warning.starts_with("preflight TimeSync: ")), "{warnings:?}");

    // A node that has joined keeps its driver.
    lay(&machine, &[("/etc/kubernetes/kubelet.conf", "")]);
    assert!(found(&machine, adopt(json!([]))).await.0.contains(&"CgroupDriver"));

    // Each is mended as its message says.
    lay(&machine, &[("/etc/resolv.conf", ""), ("/proc/sys/kernel/hostname", "Node7\n")]);
    machine.systemd.set("kubelet.service", "active");
    let mended =
        json!({"kubelet": {"takeover": ADOPT, "config": {"failSwapOn": false, "failCgroupV1": false}}});
    assert!(found(&machine, mended).await.0.is_empty());
    let swap_off = json!({"kubelet": {"takeover": ADOPT}, "kernel": {"swap": "Disabled"}});
    assert_eq!(found(&machine, swap_off).await.0, ["CgroupV1"]);
    // Of a kubelet that is not taken over nothing is checked.
    assert!(found(&machine, json!({"kubelet": {}})).await.0.is_empty());
}

#[tokio::test]
async fn the_problem_says_what_is_and_what_to_do() {
    let machine = kubeadm();
    lay(
        &machine,
        &[
            ("/proc/swaps", "Filename Type Size Used Priority\n/dev/sda2 partition 1000 0 -2\n"),
            ("/etc/resolv.conf", ""),
        ],
    );
    let spec = request(json!({"kubelet": {"takeover": ADOPT}}));
    let request = expanded(&machine.host(), &spec).await.unwrap();
    let plan = machine.plan(&request).await;
    assert!(reasons(&plan).contains(&"preflight Swap: Swap".to_owned()), "{:?}", plan.problems);
    let problem = plan.problems.iter().find(|problem| problem.reason == "Swap").unwrap();
    assert_eq!(
        problem.message,
        "swap is in use (/dev/sda2), with which the kubelet does not start: write kernel.swap: Disabled, or kubelet.config.failSwapOn: false (preflight.ignore: [Swap] overrides)"
    );
}

#[tokio::test]
async fn containerd_is_compared_with_what_its_project_supports() {
    let machine = kubeadm();
    for (kubelet, containerd, is_supported) in [
        ("v1.36.1", "v1.7.28", false),
        ("v1.36.1", "v2.2.0", true),
        ("v1.36.1", "v2.4.0", true),
        ("v1.35.0", "v2.1.4", false),
        ("v1.35.0", "1.7.29~ds1", true),
        ("v1.34.2", "v2.0.6", true),
        ("v1.33.0", "v1.6.0", true),
        ("v1.40.0", "v2.1.9", false),
    ] {
        let answers = [
            ("/usr/bin/kubelet", format!("Kubernetes {kubelet}\n")),
            (
                "/usr/bin/containerd",
                format!("containerd github.com/containerd/containerd {containerd} 0a1b2c\n"),
            ),
        ];
        may_run(&machine, &answers.each_ref().map(|(program, answer)| (*program, answer.as_str())));
        let (_, warnings) = found(&machine, json!({"kubelet": {"takeover": ADOPT}})).await;
        let is_warned = warnings.iter().any(|warning| warning.starts_with("preflight ContainerdVersion: "));
        assert_eq!(!is_warned, is_supported, "{kubelet} {containerd}: {warnings:?}");
    }
}
