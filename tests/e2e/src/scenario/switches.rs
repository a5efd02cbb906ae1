//! Changing the kubelet and the container runtime under the agent's own feet: confirmed by the host, or rolled back by it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crds::report::ReportPhase;
use kube::api::ListParams;
use testbed::wait_for;

use super::rollout::{Seen, seen_during};
use crate::lab::{Lab, PATIENCE};

const SWITCH: &str = "/var/lib/nodebootstrap/NAME/switch.json";

/// A NodeBootstrap that changes a unit by a drop-in; `more` comes behind it in the spec.
fn yaml(name: &str, node: Option<&str>, unit: &str, drop_in: &str, more: &str) -> String {
    let selector = match node {
        Some(node) => format!("nodeSelector: {{matchLabels: {{kubernetes.io/hostname: {node}}}}}"),
        None => "allNodes: true".to_owned(),
    };
    let drop_in: String = drop_in.lines().map(|line| format!("        {line}\n")).collect();
    format!(
        "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: {name}}}\nspec:\n  {selector}\n  \
         deletionPolicy: Revert\n  health: {{timeout: 15s, stableFor: 2s}}\n  units:\n  - name: {unit}\n    active: true\n    \
         dropIns:\n    - name: 20-switch.conf\n      content: |\n{drop_in}{more}"
    )
}

/// How far an attempt on a machine is.
async fn stage(lab: &Lab, node: &str, name: &str) -> Result<String> {
    let text = lab.host(node, &["cat", &SWITCH.replace("NAME", name)]).await?;
    let switch: serde_json::Value = serde_json::from_str(&text)?;
    Ok(switch["stage"].as_str().unwrap_or_default().to_owned())
}

/// That nothing of an attempt is armed, or left, on a machine.
async fn disarmed(lab: &Lab, node: &str) -> Result<()> {
    let find = "find /run/systemd/system /etc/systemd/system -name 'nodebootstrap-*'; ls /var/lib/nodebootstrap/*/payload.json 2>/dev/null; \
                systemctl list-units --failed --plain --no-legend 'nodebootstrap-*'";
    wait_for(&format!("{node} to be disarmed"), PATIENCE, || async {
        Ok(lab.host(node, &["sh", "-c", &format!("{find}; true")]).await?.is_empty().then_some(()))
    })
    .await
}

/// The restarts of all containers on the cluster.
async fn restarts(lab: &Lab) -> Result<i32> {
    let pods = lab.pods().list(&ListParams::default()).await?;
    let statuses = pods.items.into_iter().filter_map(|pod| pod.status?.container_statuses);
    Ok(statuses.flatten().map(|container| container.restart_count).sum())
}

/// Waits until an attempt may be rolled back.
async fn armed(lab: &Lab, node: &str, name: &str) -> Result<()> {
    wait_for("the attempt to be begun", PATIENCE, || async {
        Ok((stage(lab, node, name).await.unwrap_or_default() == "Armed").then_some(()))
    })
    .await
}

/// Kills the agents' pods of a machine; those of other NodeBootstraps, too.
async fn kill_agents(lab: &Lab, node: &str) -> Result<()> {
    lab.host_succeeds(node, &["pkill", "-KILL", "-f", "nodebootstrap-agent run"]).await.map(drop)
}

/// Starts a pod on each machine that has nothing to do with any of this; its processes, as `NODE PID`.
pub(super) async fn bystanders(lab: &Lab) -> Result<String> {
    let nodes = lab.nodes()?;
    let pods: String = nodes
        .iter()
        .map(|node| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: bystander-{node}, labels: {{app: bystander}}}}\nspec:\n  nodeName: {node}\n  \
                 terminationGracePeriodSeconds: 1\n  hostNetwork: true\n  tolerations: [{{operator: Exists}}]\n  \
                 containers: [{{name: pause, image: \"nodebootstrap/pause:1\", imagePullPolicy: Never}}]\n---\n"
            )
        })
        .collect();
    lab.apply(&pods).await?;
    lab.kubectl(&["wait", "--for=condition=Ready", "pod", "-l", "app=bystander", "--timeout=60s"]).await?;
    processes(lab).await
}

/// The processes of these pods.
pub(super) async fn processes(lab: &Lab) -> Result<String> {
    let of_each =
        r#"jsonpath={range .items[*]}{.spec.nodeName} {.status.containerStatuses[0].containerID}{"\n"}{end}"#;
    let told = lab.kubectl(&["get", "pods", "-l", "app=bystander", "-o", of_each]).await?;
    let mut processes = String::new();
    for line in told.lines() {
        let (node, id) =
            line.split_once(" containerd://").with_context(|| format!("no container: {line:?}"))?;
        // By the runtime's own word: what the API tells may be late.
        let tasks = lab.host(node, &["ctr", "-n", "k8s.io", "tasks", "ls"]).await?;
        let task = tasks.lines().find(|task| task.starts_with(id)).unwrap_or("no process");
        // How far apart its columns are is a matter of the others.
        let task: Vec<&str> = task.split_whitespace().collect();
        processes += &format!("{node}: {}\n", task.join(" "));
    }
    Ok(processes)
}

pub(crate) async fn the_kubelet_is_changed_on_one_node_after_the_other(lab: &Lab) -> Result<()> {
    let with = |value: u32| {
        let drop_in = format!("[Service]\nEnvironment=SWITCH={value}\n");
        yaml("switch", None, "kubelet.service", &drop_in, "")
    };
    let begin = Instant::now();
    let change = async {
        lab.apply(&with(1)).await?;
        lab.ready("switch").await
    };
    let (_, Seen { granted, most, .. }) = seen_during(lab, change).await?;
    println!("{:11.2} s  until three kubelets ran with another unit", begin.elapsed().as_secs_f32());
    ensure!(most == 1 && granted.len() == 3, "{most} at once, {granted:?} in all");
    for node in lab.nodes()? {
        let environment =
            lab.host(&node, &["systemctl", "show", "-P", "Environment", "kubelet.service"]).await?;
        ensure!(environment == "SWITCH=1", "{node}: {environment}");
        ensure!(stage(lab, &node, "switch").await? == "Confirmed", "{node}");
        disarmed(lab, &node).await?;
    }
    ensure!(restarts(lab).await? == 0, "a container was restarted");
    // The agent's pod that asked is killed in the middle: who confirms is the host.
    let node = lab.expendable_worker().await?;
    let single =
        yaml("switch-killed", Some(node), "containerd.service", "[Service]\nEnvironment=SWITCH=3\n", "");
    lab.apply(&single).await?;
    armed(lab, node, "switch-killed").await?;
    kill_agents(lab, node).await?;
    lab.ready("switch-killed").await?;
    ensure!(stage(lab, node, "switch-killed").await? == "Confirmed", "{node}");
    disarmed(lab, node).await
}

pub(crate) async fn what_would_lose_a_node_is_rolled_back_by_its_host(lab: &Lab) -> Result<()> {
    let bad_config = "  files:\n  - {path: /etc/switch.yaml, content: \"apiVersion: kubelet.config.k8s.io/v1beta1\\nkind: KubeletConfiguration\\nnoSuchField: 1\\n\"}\n";
    let kubelet = |flags: &str| {
        format!(
            "[Service]\nExecStart=\nExecStart=/usr/bin/kubelet --kubeconfig=/etc/kubernetes/kubelet.conf --hostname-override=%H {flags}\n"
        )
    };
    // Its pods have no network with it.
    let no_network = "  files:\n  - {path: /etc/cni/net.d/10-bridge.conflist, content: \"{}\"}\n";
    // It starts, and so the Node is Ready for half a minute yet.
    let no_pods = "  files:\n  - {path: /etc/switch.toml, content: \"version = 2\\ndisabled_plugins = ['io.containerd.grpc.v1.cri']\\n\"}\n";
    let cases: [(&str, &str, &str, String, &str); 7] = [
        (
            "silent",
            "worker1",
            "kubelet.service",
            "[Service]\nExecStart=\nExecStart=/bin/sleep infinity\n".to_owned(),
            "",
        ),
        ("refused", "worker2", "kubelet.service", kubelet("--config=/etc/switch.yaml"), bad_config),
        (
            "runtime",
            "cp1",
            "containerd.service",
            "[Service]\nExecStart=\nExecStart=/bin/false\n".to_owned(),
            "",
        ),
        (
            "podless",
            "worker2",
            "containerd.service",
            "[Service]\nExecStart=\nExecStart=/usr/bin/containerd --config /etc/switch.toml\n".to_owned(),
            no_pods,
        ),
        ("unready", "worker1", "kubelet.service", "[Service]\nEnvironment=SWITCH=4\n".to_owned(), no_network),
        (
            "address",
            "worker2",
            "kubelet.service",
            kubelet("--config=/var/lib/kubelet/config.yaml --node-ip=10.99.255.254"),
            "",
        ),
        ("exits", "cp1", "kubelet.service", "[Service]\nExecStart=\nExecStart=/bin/false\n".to_owned(), ""),
    ];
    let shown = async |node: &str| {
        let units = ["kubelet.service", "containerd.service"];
        lab.host(node, &[&["systemctl", "show", "-P", "ExecStart", "-P", "ActiveState"], &units[..]].concat())
            .await
    };
    let program = |shown: &str| -> Vec<String> {
        // Without the times and numbers of the process.
        shown.lines().map(|line| line.split(" ; ignore").next().unwrap_or_default().to_owned()).collect()
    };
    let pods = bystanders(lab).await?;
    // One after the other: where one has failed, no other node is disturbed. The last one is looked at below.
    for (index, (case, node, unit, drop_in, more)) in cases.iter().enumerate() {
        let name = format!("bad-{case}");
        let before = program(&shown(node).await?);
        let begin = Instant::now();
        lab.apply(&yaml(&name, Some(node), unit, drop_in, more)).await?;
        let report = lab
            .wait_report(&name, node, "rolled back", |report| {
                report.status.as_ref().is_some_and(|status| status.reason == "RolledBack")
            })
            .await?;
        let message = report.status.context("a status")?.message;
        println!("{:11.2} s  {case}: {message}", begin.elapsed().as_secs_f32());
        ensure!(begin.elapsed() < Duration::from_secs(60), "{case}: {:?}", begin.elapsed());
        ensure!(message.contains("annotation nodebootstrap.io/retry"), "{message}");
        let says = match *case {
            "unready" => "the Node is not Ready",
            "address" => "the Node does not have the address 10.99.255.254",
            "silent" => "does not answer its health check",
            "podless" => "the container runtime cannot run pods",
            _ => unit,
        };
        ensure!(message.contains(says), "{message}");
        lab.kubectl(&["wait", "--for=condition=Ready", &format!("node/{node}"), "--timeout=60s"]).await?;
        let now = program(&shown(node).await?);
        ensure!(now == before, "{case}: {now:?}, before: {before:?}");
        disarmed(lab, node).await?;
        if index + 1 < cases.len() {
            lab.delete(&name).await?;
        }
    }
    let now = processes(lab).await?;
    ensure!(now == pods, "pods were ended:\n{pods}\nnow:\n{now}");
    lab.kubectl(&["delete", "pods", "-l", "app=bystander", "--wait=false"]).await?;
    // It is not tried again until somebody asks; then it is.
    let attempts = async || {
        let journal = lab
            .host("cp1", &["journalctl", "-u", "nodebootstrap-switch-bad-exits.service", "-o", "cat"])
            .await?;
        anyhow::Ok(journal.matches("rolled back").count())
    };
    let first = attempts().await?;
    lab.kubectl(&["annotate", "node", "cp1", "nodebootstrap.io/retry=again"]).await?;
    wait_for("another attempt", PATIENCE, || async { Ok((attempts().await? > first).then_some(())) }).await?;
    lab.kubectl(&["annotate", "node", "cp1", "nodebootstrap.io/retry-"]).await.map(drop)
}

/// With the API server away nothing can be proven, neither of what is new nor of what was there before: that is no failure,
/// and it is tried again when the API server is back. So it is though the pod that has asked is killed as well.
pub(crate) async fn what_cannot_be_proven_is_put_back_and_tried_again(lab: &Lab) -> Result<()> {
    let (node, name) = (lab.expendable_worker().await?, "unproven");
    lab.apply(&yaml(name, Some(node), "kubelet.service", "[Service]\nEnvironment=SWITCH=2\n", "")).await?;
    armed(lab, node, name).await?;
    lab.testbed.stop_apiserver().await?;
    kill_agents(lab, node).await?;
    let put_back = async {
        wait_for("what was there before", PATIENCE, || async {
            Ok((stage(lab, node, name).await? == "Unproven").then_some(()))
        })
        .await?;
        lab.host(node, &["systemctl", "show", "-P", "Environment", "kubelet.service"]).await
    };
    let environment = put_back.await;
    lab.testbed.start_apiserver().await?;
    let environment = environment?;
    ensure!(environment.is_empty(), "not put back: {environment}");
    lab.ready(name).await?;
    ensure!(stage(lab, node, name).await? == "Confirmed");
    let report = lab.report(name, node).await?;
    ensure!(report.status.is_some_and(|status| status.phase == ReportPhase::Ready));
    disarmed(lab, node).await
}
