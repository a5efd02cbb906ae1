//! A virtual machine that is a node of a cluster, with a kernel, cgroups and a clock of its own.
//!
//! Its kernel gets what `kernel.preset` has, keeps it over a boot, and has after a revert what it had before. An agent in
//! a pod puts right at once what the kernel tells of: swap that is turned on, a module that is unloaded.
//!
//! While its kubelet is changed its power is cut at drawn instants, it is rebooted, and its clock is set: after each of it
//! the node runs what it ran before, or what is new and confirmed, and never something in between. The boot after one cut is
//! the start of the next round.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use crds::names::NAMESPACE;
use crds::report::{NodeBootstrapReportSpec, ReportPhase};
use crds::revision::{Identity, Values, render};
use crds::{NodeBootstrap, NodeBootstrapReport};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use serde_json::json;
use testbed::vm::{self, Disk, Running};
use testbed::{Testbed, UpOptions, image, wait_for};

use crate::lab::established;
use crate::outcome::Outcomes;
use crate::power::{LONGEST, find_line};
use crate::programs::{self, workspace};

/// The testbed of its control plane.
pub(crate) const ID: &str = "vm";
/// How often the power is cut.
pub(crate) const CUTS: u32 = 10;
const NODE: &str = "vm";
const STATE: &str = "/var/lib/nodebootstrap/switch/switch.json";

/// What a switch says while it goes on, in this order. The power is cut somewhere before one of them.
const MARKS: [&str; 4] = ["\"armed\"", "\"made\"", "\"confirmed\"", "APPLIED"];

const KERNEL: &str = "apiVersion: nodebootstrap.io/v1alpha1
kind: NodeBootstrap
metadata: {name: kernel}
spec: {allNodes: true, kernel: {preset: kubernetes}}
";
/// The table of docs/presets.md, below /proc/sys; this kernel has all of it.
const PRESET: [(&str, &str); 12] = [
    ("fs/inotify/max_user_instances", "8192"),
    ("fs/inotify/max_user_watches", "524288"),
    ("kernel/keys/root_maxbytes", "25000000"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("net/bridge/bridge-nf-call-ip6tables", "1"),
    ("net/bridge/bridge-nf-call-iptables", "1"),
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/ip_local_reserved_ports", "30000-32767"),
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
];
/// The settings that come with a module.
const OF_BRIDGE: &str = "net/bridge/";
/// The kubelet makes these as well, unasked: so they get other values first.
const BY_HAND: &str = "cd /proc/sys; echo 0 > vm/overcommit_memory; echo 5 > kernel/panic; echo 0 > kernel/panic_on_oops; \
                       echo 300000 > kernel/keys/root_maxkeys; echo 20000000 > kernel/keys/root_maxbytes";
const MODULES: &str = "ls -d /sys/module/br_netfilter /sys/module/nf_conntrack /sys/module/overlay";

/// What the agent in a pod keeps. Nothing is found by the interval while the test runs.
const WATCHED: &str = "apiVersion: nodebootstrap.io/v1alpha1
kind: NodeBootstrap
metadata: {name: watched}
spec:
  allNodes: true
  drift: {interval: 24h}
  kernel: {modules: [ip_vs], swap: Disabled}
";
const SWAP_FILE: &str =
    "dd if=/dev/zero of=/swapfile bs=1M count=8 conv=fsync; chmod 600 /swapfile; mkswap /swapfile";
/// What is changed behind its back, how it is seen to be right again, and what the Report then says. Swap comes last: the agent
/// looks once more when it hears of what it has itself turned off, and would find the module by that.
const DRIFT: [(&str, &str, &str); 2] = [
    ("rmmod ip_vs", "[ -e /sys/module/ip_vs ]", "repaired: module ip_vs was not loaded"),
    ("swapon /swapfile", "! grep -q ^/swapfile /proc/swaps", "repaired: swap /swapfile was in use"),
];
/// Where the kubelet finds pods of its own.
const AGENT_POD: &str = "/etc/kubernetes/manifests/agent.json";

/// Everything that shows which of two states the node has: its files, what systemd has read, and what the kubelet was
/// started with.
const LOOK: &str = r#"#!/bin/sh
{
  cat /etc/switch/* /etc/systemd/system/kubelet.service.d/20-switch.conf /var/lib/kubelet/config.yaml
  systemctl show -P Environment kubelet.service
  cat "/proc/$(pidof kubelet)/environ"
} | grep -ao 'state-[ab]' | sort | uniq -c
"#;
const FILES: usize = 4;
/// So many things show it.
const THINGS: usize = FILES + 4;
/// What stays of an attempt that is not over, and what systemd counts as failed.
const LEFT: &str = "ls /run/systemd/system/nodebootstrap-* /etc/systemd/system/multi-user.target.wants/nodebootstrap-* \
                    /var/lib/nodebootstrap/*/payload.json 2> /dev/null; systemctl list-units --failed --plain --no-legend 'nodebootstrap-*'";

/// The seed draws the instants.
pub(crate) async fn run(cuts: u32, seed: Option<u64>) -> Result<Outcomes> {
    let begin = Instant::now();
    let name = "the kubelet of a virtual machine is changed";
    if let Some(why) = vm::cannot().await? {
        return Ok(Outcomes::skipped(name, &why));
    }
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    let options = UpOptions { machines: Vec::new(), ..UpOptions::new(ID) };
    let testbed = Testbed::up(options).await?;
    let outcome = rounds(&testbed, cuts, seed).await;
    testbed.down().await?;
    let outcome = outcome.map(|()| format!("{cuts} cuts"));
    Ok(Outcomes::of(&format!("{name}, seed {seed}"), begin, outcome))
}

/// Which of the two states it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    A,
    B,
}

impl Is {
    fn word(self) -> &'static str {
        match self {
            Is::A => "state-a",
            Is::B => "state-b",
        }
    }

    fn other(self) -> Is {
        match self {
            Is::A => Is::B,
            Is::B => Is::A,
        }
    }

    /// How many pods the kubelet then takes, by which the API knows what it runs with.
    fn pods(self) -> u32 {
        match self {
            Is::A => 101,
            Is::B => 102,
        }
    }
}

struct Rounds {
    disk: Disk,
    nodes: Api<Node>,
    /// What the node has, or had before what was cut.
    is: Is,
}

async fn rounds(testbed: &Testbed, cuts: u32, seed: u64) -> Result<()> {
    let folder = testbed::paths::cache_dir()?.join("vm.node");
    let _ = std::fs::remove_dir_all(&folder);
    let root = folder.join("root");
    std::fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    vm::debian(&root).await?;
    make_root(testbed, &root).await.context("cannot make the virtual machine's root")?;
    let disk = Disk::make(&root, &folder.join("image"), 2500).await?;
    std::fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    let mut rounds = Rounds { disk, nodes: Api::all(testbed.client().await?), is: Is::A };

    let mut machine = rounds.boot().await?;
    let before = settings(&mut machine).await?;
    let by_hand = rounds.tuned(&mut machine).await?;
    rounds.drift_is_noticed(testbed, &mut machine).await.context("drift that the kernel tells of")?;
    let times = rounds.undisturbed(&mut machine).await?;
    rounds.clock_is_set(&mut machine).await?;
    let mut machine = rounds.reboot_in_the_middle(machine).await.context("a reboot in the middle")?;
    ensure_tuned(&mut machine).await.context("after a boot")?;
    put_back(&mut machine, &by_hand).await.context("kernel.preset is taken back")?;

    let mut random = fastrand::Rng::with_seed(seed);
    for cut in 1..=cuts {
        let part = random.usize(..MARKS.len());
        let pause = times[part].mul_f64(random.f64());
        let after = if part == 0 { "it was asked for" } else { MARKS[part - 1] };
        let when = format!("cut {cut}, {} ms after {after}", pause.as_millis());
        println!("            {when}");
        rounds.begin(&mut machine).await?;
        if part > 0 {
            find_line(&mut machine, |line| line.contains(after)).await.with_context(|| when.clone())?;
        }
        tokio::time::sleep(pause).await;
        machine.cut().await?;
        machine = rounds.boot().await.with_context(|| when.clone())?;
        rounds.whole(&mut machine).await.context(when)?;
        if cut == 1 {
            let now = settings(&mut machine).await?;
            ensure!(
                now == before,
                "kernel.preset is gone, and a boot later there is {now:?}, before: {before:?}"
            );
        }
    }
    rounds.undisturbed(&mut machine).await.context("after the last cut")?;
    machine.cut().await?;
    std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))
}

impl Rounds {
    /// Switches the machine on, and waits until its node is Ready by the word of the kubelet of this very boot.
    async fn boot(&self) -> Result<Running> {
        let mut machine = self.disk.boot_node()?;
        let up = find_line(&mut machine, |line| line.starts_with("UP ")).await?;
        let boot = up.trim_start_matches("UP ").to_owned();
        // It takes its time to begin, and so does the node.
        exec(&mut machine, FOLLOW).await?;
        wait_for("the node to be Ready", LONGEST, || async {
            let Some(node) = self.nodes.get_opt(NODE).await? else { return Ok(None) };
            let status = node.status.unwrap_or_default();
            let is_ready =
                status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
            Ok((is_ready && status.node_info.is_some_and(|info| info.boot_id == boot)).then_some(()))
        })
        .await?;
        Ok(machine)
    }

    /// Modules and settings; and that the kubelet's pod lies where systemd makes its cgroups. Gives the settings that were
    /// there just before.
    async fn tuned(&self, machine: &mut Running) -> Result<BTreeMap<String, String>> {
        exec(machine, BY_HAND).await?;
        let by_hand = settings(machine).await?;
        exec(machine, "nodebootstrap-agent apply --file /kernel.yaml").await?;
        ensure_tuned(machine).await?;
        wait_for_line(machine, "pidof pause | wc -w", "2").await?;
        let cgroups = exec(machine, "for p in $(pidof pause); do cat /proc/$p/cgroup; done").await?;
        let is_systemds = |line: &str| line.starts_with("0::/kubepods.slice/") && line.contains(".scope");
        ensure!(!cgroups.is_empty() && cgroups.lines().all(is_systemds), "{cgroups}");
        Ok(by_hand)
    }

    /// An agent in a pod, told as the operator would, puts right what the kernel tells of.
    async fn drift_is_noticed(&self, testbed: &Testbed, machine: &mut Running) -> Result<()> {
        let reports = self.tell(testbed).await?;
        let name = crds::names::report("watched", NODE);
        let last = RefCell::default();
        let until =
            async |what: &'static str, is_so: fn(ReportPhase, &str, &str) -> bool, said: &'static str| {
                let (reports, name, last) = (&reports, &name, &last);
                let waited = wait_for(what, LONGEST, move || async move {
                    let status = reports.get(name).await?.status.unwrap_or_default();
                    let is_so = is_so(status.phase, &status.message, said);
                    *last.borrow_mut() = format!("{:?} {:?}", status.phase, status.message);
                    Ok(is_so.then_some(()))
                });
                waited.await.with_context(|| format!("it says {}", last.borrow()))
            };
        exec(machine, SWAP_FILE).await?;
        exec(machine, &format!("cp /agent.json {AGENT_POD}")).await?;
        until("the agent to be done", |phase, _, _| phase == ReportPhase::Ready, "").await?;
        for (change, is_right, said) in DRIFT {
            let timed = format!(
                "{change} && s=$(date +%s%N) && until {is_right}; do sleep 0.1; done; e=$(date +%s%N); echo $(((e - s) / 1000000))"
            );
            let took = exec(machine, &timed).await?;
            println!("            {change}: put right after {took} ms");
            until("the Report to tell of it", |_, message, said| message == said, said).await?;
        }
        exec(machine, &format!("rm {AGENT_POD}")).await?;
        wait_for_line(machine, "pidof nodebootstrap-agent pause | wc -w", "2").await
    }

    /// What the operator would tell the agent: a revision, and a Report that names it.
    async fn tell(&self, testbed: &Testbed) -> Result<Api<NodeBootstrapReport>> {
        let crd = workspace().join("crds/nodebootstrapreports.yaml").display().to_string();
        let user = format!("--user=system:node:{NODE}");
        for words in [
            &["apply", "-f", &crd][..],
            &["create", "namespace", NAMESPACE],
            // Its own ServiceAccount's token is in no pod that the kubelet makes by itself.
            &["create", "clusterrolebinding", "agent", "--clusterrole=cluster-admin", &user],
        ] {
            testbed.kubectl(words).await?.ok().with_context(|| format!("kubectl {}", words.join(" ")))?;
        }
        let watched: NodeBootstrap = serde_saphyr::from_str(WATCHED).context("the spec")?;
        let node_bootstrap = watched.metadata.name.context("a name")?;
        let identity =
            Identity { node_bootstrap: node_bootstrap.clone(), uid: String::new(), cluster: String::new() };
        let rendered = render(&identity, &watched.spec, &Values::new(), b"").context("the spec")?;
        let client = testbed.client().await?;
        established(&client, "nodebootstrapreports.nodebootstrap.io").await?;
        let revision = ControllerRevision {
            metadata: ObjectMeta { name: Some(rendered.name.clone()), ..ObjectMeta::default() },
            data: RawExtension(serde_json::to_value(&rendered.revision).context("the revision")?),
            revision: Some(1),
        };
        let revisions: Api<ControllerRevision> = Api::namespaced(client.clone(), NAMESPACE);
        revisions.create(&PostParams::default(), &revision).await.context("cannot make the revision")?;
        let node = self.nodes.get(NODE).await.context("no node")?;
        let spec = NodeBootstrapReportSpec {
            node_bootstrap,
            node_name: NODE.to_owned(),
            node_uid: node.metadata.uid.unwrap_or_default(),
            revision: rendered.name,
            drift: watched.spec.drift,
            ..NodeBootstrapReportSpec::default()
        };
        let report = NodeBootstrapReport::new(&crds::names::report(&spec.node_bootstrap, NODE), spec);
        let reports: Api<NodeBootstrapReport> = Api::all(client);
        reports.create(&PostParams::default(), &report).await.context("cannot make the Report")?;
        Ok(reports)
    }

    /// Begins to bring the other state to the node; what comes of it is on the console.
    async fn begin(&self, machine: &mut Running) -> Result<()> {
        let file = format!("/{}.yaml", self.is.other().word());
        exec(machine, &format!("apply {file} > /dev/ttyS0 2>&1 &")).await.map(drop)
    }

    /// Changes it with nothing in between; how long each part takes.
    async fn undisturbed(&mut self, machine: &mut Running) -> Result<Vec<Duration>> {
        let pods = exec(machine, "pidof pause").await?;
        self.begin(machine).await?;
        let begin = Instant::now();
        let mut seen = [None; MARKS.len()];
        // The journal comes to the console a little late, so that one of them may come before the one that it follows.
        while seen.contains(&None) {
            let line = find_line(machine, |line| MARKS.iter().any(|mark| line.contains(mark)))
                .await
                .with_context(|| format!("a switch; of {MARKS:?} were said after {seen:?}"))?;
            for (mark, seen) in MARKS.iter().zip(&mut seen) {
                if line.contains(mark) {
                    *seen = Some(begin.elapsed());
                }
            }
        }
        let ends: Vec<Duration> = seen.into_iter().flatten().collect();
        let begins = std::iter::once(Duration::ZERO).chain(ends.iter().copied());
        let times = ends.iter().zip(begins).map(|(end, begin)| end.saturating_sub(begin)).collect();
        self.has_become_other(machine, &pods).await?;
        Ok(times)
    }

    /// That the other state is confirmed, and that the pod has not noticed.
    async fn has_become_other(&mut self, machine: &mut Running, pods: &str) -> Result<()> {
        let expected = self.is.other();
        let stage = self.whole(machine).await?;
        ensure!(stage == "Confirmed" && self.is == expected, "{stage}, {:?}", self.is);
        ensure!(exec(machine, "pidof pause").await? == pods, "a pod was ended by it");
        Ok(())
    }

    /// Nothing that is compared with a time breaks when the clock is set, back or forth.
    async fn clock_is_set(&mut self, machine: &mut Running) -> Result<()> {
        for step in ["-1 hour", "+2 hours"] {
            let pods = exec(machine, "pidof pause").await?;
            exec(machine, &CLOCK.replace("STEP", step)).await?;
            self.begin(machine).await?;
            find_line(machine, |line| line == "APPLIED")
                .await
                .with_context(|| format!("the clock was set, {step}"))?;
            self.has_become_other(machine, &pods)
                .await
                .with_context(|| format!("the clock was set, {step}"))?;
            // What somebody changes is found, and put right.
            exec(machine, "echo other > /etc/switch/0").await?;
            exec(machine, &format!("nodebootstrap-agent apply --file /{}.yaml", self.is.word())).await?;
            self.whole(machine).await.with_context(|| format!("drift after the clock was set, {step}"))?;
        }
        Ok(())
    }

    /// A reboot is no failure: the guard has put back what was there before when the kubelet starts.
    async fn reboot_in_the_middle(&mut self, mut machine: Running) -> Result<Running> {
        self.begin(&mut machine).await?;
        find_line(&mut machine, |line| line.contains("\"made\"")).await?;
        machine.write("systemctl reboot").await?;
        machine.ended().await?;
        let mut machine = self.boot().await?;
        let before = self.is;
        let stage = self.whole(&mut machine).await?;
        ensure!(stage == "Unproven" && self.is == before, "{stage}, {:?}, before: {before:?}", self.is);
        Ok(machine)
    }

    /// That the node is wholly in the state that it had, or that was confirmed, and nothing is open; how the last attempt
    /// ended.
    async fn whole(&mut self, machine: &mut Running) -> Result<String> {
        let switch = exec(machine, &format!("cat {STATE}")).await?;
        let switch: serde_json::Value = serde_json::from_str(&switch).context("switch.json")?;
        let stage = switch["stage"].as_str().unwrap_or_default().to_owned();
        let tried = if switch["revision"].to_string().contains(Is::A.word()) { Is::A } else { Is::B };
        let expected = match stage.as_str() {
            "Confirmed" => tried,
            "Unproven" | "RolledBack" | "Refused" if tried != self.is => self.is,
            _ => bail!("{stage} of {tried:?}, where {:?} was before: {}", self.is, switch["cause"]),
        };
        let seen = exec(machine, "look").await?;
        let wanted = format!("{THINGS} {}", expected.word());
        ensure!(seen.trim() == wanted, "{stage}: there is {seen:?}, expected {wanted:?}");
        let left = exec(machine, LEFT).await?;
        ensure!(left.is_empty(), "{stage}: {left}");
        let pods = wait_for("the node to tell how many pods it takes", LONGEST, || async {
            let status = self.nodes.get(NODE).await?.status.unwrap_or_default();
            let pods = status.capacity.unwrap_or_default().remove("pods").map(|pods| pods.0);
            Ok((pods == Some(expected.pods().to_string())).then_some(()))
        });
        pods.await?;
        self.is = expected;
        Ok(stage)
    }
}

/// Runs a command on the machine; others write to its console, too.
async fn exec(machine: &mut Running, command: &str) -> Result<String> {
    let Ok(said) = tokio::time::timeout(LONGEST, machine.run(command)).await else {
        bail!("{command}: not done within {} s", LONGEST.as_secs())
    };
    // What the agent logs comes to the console meanwhile.
    let said = said?;
    let own: Vec<&str> = said.lines().filter(|line| !line.starts_with("{\"timestamp\"")).collect();
    Ok(own.join("\n"))
}

async fn wait_for_line(machine: &mut Running, command: &str, expected: &str) -> Result<()> {
    let begin = Instant::now();
    loop {
        let said = exec(machine, command).await?;
        if said == expected {
            return Ok(());
        }
        ensure!(begin.elapsed() < LONGEST, "{command}: {said:?}, expected {expected:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// The settings of the preset that the kernel has, without those that are empty.
async fn settings(machine: &mut Running) -> Result<BTreeMap<String, String>> {
    let paths: Vec<&str> = PRESET.iter().map(|(path, _)| *path).collect();
    let said = exec(machine, &format!("cd /proc/sys; grep -s . {} || true", paths.join(" "))).await?;
    let pairs = said.lines().filter_map(|line| line.split_once(':'));
    Ok(pairs.map(|(path, value)| (path.to_owned(), value.to_owned())).collect())
}

/// That the kernel has what it was to get.
async fn ensure_tuned(machine: &mut Running) -> Result<()> {
    let now = settings(machine).await?;
    let wanted = PRESET.map(|(path, value)| (path.to_owned(), value.to_owned()));
    ensure!(now == BTreeMap::from(wanted), "the kernel has {now:?}");
    exec(machine, MODULES).await.map(drop)
}

/// A revert puts back all that can be, and says what stays until the next boot.
async fn put_back(machine: &mut Running, before: &BTreeMap<String, String>) -> Result<()> {
    let said = exec(machine, "nodebootstrap-agent revert kernel && sync").await?;
    let stays = said.matches("stays until the next boot").count();
    ensure!(stays == 4, "said once when it is done, and once at the end, of two: {said}");
    let mut wanted = before.clone();
    let of_bridge = PRESET.iter().filter(|(path, _)| path.starts_with(OF_BRIDGE));
    wanted.extend(of_bridge.map(|(path, value)| ((*path).to_owned(), (*value).to_owned())));
    let now = settings(machine).await?;
    ensure!(now == wanted, "the kernel has {now:?}, expected {wanted:?}");
    Ok(())
}

/// Says on the console from then on how far a switch is, as its unit logs it.
///
/// It follows from a line that is there: from an empty end `journalctl -f` goes to the last of several lines that come at once,
/// and passes over the others.
const FOLLOW: &str = "systemd-cat -t nodebootstrap-agent echo '{\"timestamp\"' && journalctl --sync && \
                      journalctl -b -f -n 1 -o cat -t nodebootstrap-agent > /dev/ttyS0 2> /dev/null &";

/// Sets the clock in the middle of the next switch.
const CLOCK: &str = "(until grep -q '\"stage\":\"Armed\"' /var/lib/nodebootstrap/switch/switch.json; do sleep 0.2; done; date -s 'STEP') > /dev/null 2>&1 &";

/// Says on the console what came of a switch.
const APPLY: &str = r#"#!/bin/sh
# What asks for it has had its answer when the first word of this comes.
sleep 0.5
if nodebootstrap-agent apply --file "$1" > /said 2>&1; then echo APPLIED; else echo "BAD $(tr '\n' ' ' < /said)"; fi
"#;

fn yaml(is: Is) -> String {
    let word = is.word();
    let config = format!(
        "# {word}\napiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
         containerRuntimeEndpoint: unix:///run/containerd/containerd.sock\ncgroupDriver: systemd\n\
         authentication: {{x509: {{clientCAFile: /etc/kubernetes/ca.crt}}}}\nstaticPodPath: /etc/kubernetes/manifests\n\
         resolvConf: \"\"\nmaxPods: {}\n",
        is.pods()
    );
    let files: String = (0..FILES)
        .map(|number| format!("  - {{path: /etc/switch/{number}, content: \"{word} {number}\\n\"}}\n"))
        .collect();
    format!(
        "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: switch}}\nspec:\n  allNodes: true\n  \
         health: {{timeout: 120s, stableFor: 2s}}\n  directories: [{{path: /etc/switch}}]\n  files:\n{files}  \
         - {{path: /var/lib/kubelet/config.yaml, content: {config:?}, onChange: {{restart: [kubelet.service]}}}}\n  units:\n  \
         - name: kubelet.service\n    active: true\n    dropIns:\n    \
         - {{name: 20-switch.conf, content: \"[Service]\\nEnvironment=SWITCH={word}\\n\"}}\n"
    )
}

fn agent_image() -> String {
    format!("nodebootstrap/agent:{}", programs::VERSION)
}

/// The agent as its DaemonSet has it, but made by the kubelet itself: there is no operator in this cluster, and no address of
/// a service leads anywhere.
fn agent_pod() -> String {
    let arguments = ["run", "--root", "/host", "--node-name", NODE, "--node-bootstrap", "watched"];
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "agent", "namespace": "default"},
        "spec": {
            "hostNetwork": true,
            "containers": [{
                "name": "agent",
                "image": agent_image(),
                "imagePullPolicy": "Never",
                "args": arguments,
                "env": [{"name": "KUBECONFIG", "value": "/host/etc/kubernetes/kubelet.conf"}],
                "securityContext": {"privileged": true, "runAsUser": 0},
                "volumeMounts": [{"name": "host", "mountPath": "/host", "mountPropagation": "HostToContainer"}],
            }],
            "volumes": [{"name": "host", "hostPath": {"path": "/"}}],
        },
    })
    .to_string()
}

/// The machines' own root as a node: kubelet and containerd, and cgroups made by systemd.
async fn make_root(testbed: &Testbed, root: &Path) -> Result<()> {
    let write = |path: &str, content: &str| {
        let path = root.join(path);
        std::fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    };
    vm::bare(root)?;
    vm::with_network_and_shell(root).await?;
    testbed.configure_virtual(root, NODE)?;
    let wanted = root.join("etc/systemd/system/multi-user.target.wants");
    for unit in ["containerd", "testbed-images"] {
        symlink(format!("/usr/lib/systemd/system/{unit}.service"), wanted.join(format!("{unit}.service")))
            .with_context(|| format!("cannot enable {unit}"))?;
    }
    write("etc/machine-id", "00000000000000000000000000000003\n")?;
    write("etc/hostname", &format!("{NODE}\n"))?;
    write("etc/hosts", &format!("127.0.0.1 localhost {NODE}\n"))?;
    write("kernel.yaml", KERNEL)?;
    write("agent.json", &agent_pod())?;
    let program = programs::folder()?.join("nodebootstrap-agent");
    let archive = root.join("usr/share/testbed/images/agent.tar");
    image::build(&agent_image(), &archive, "/nodebootstrap-agent", &[("/nodebootstrap-agent", &program)])?;
    for is in [Is::A, Is::B] {
        write(&format!("{}.yaml", is.word()), &yaml(is))?;
    }
    for (name, text) in [("look", LOOK), ("apply", APPLY)] {
        write(&format!("usr/local/bin/{name}"), text)?;
    }
    let agent = "usr/local/bin/nodebootstrap-agent";
    std::fs::copy(&program, root.join(agent)).context("cannot copy the agent")?;
    for program in ["usr/local/bin/look", "usr/local/bin/apply", agent] {
        std::fs::set_permissions(root.join(program), PermissionsExt::from_mode(0o755))?;
    }
    Ok(())
}
