//! The container runtime by its preset: keys of its own configuration, under pods that run on.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::reverts::{looks, same};
use super::rollout::{Seen, seen_during};
use super::switches::{bystanders, processes};
use crate::lab::{Lab, is_current, message};

const CONFIG: &str = "/etc/containerd/config.toml";

fn yaml(name: &str, selector: &str, keys: &str) -> String {
    format!(
        "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: {name}}}\nspec:\n  {selector}\n  \
         deletionPolicy: Revert\n  health: {{timeout: 30s, stableFor: 2s}}\n  containerRuntime:\n    type: containerd\n    \
         config: {{plugins: {{io.containerd.grpc.v1.cri: {keys}}}}}\n"
    )
}

async fn started(lab: &Lab, node: &str) -> Result<String> {
    lab.host(node, &["systemctl", "show", "-P", "ExecMainStartTimestampMonotonic", "containerd.service"])
        .await
}

/// One key on three machines, one after the other; all that was in the file stays, and what a revert leaves is the file as it
/// was.
pub(crate) async fn a_key_of_containerd_is_changed_under_pods_that_run_on(lab: &Lab) -> Result<()> {
    let pods = bystanders(lab).await?;
    let mut before = Vec::new();
    for node in lab.nodes()? {
        let found = (
            lab.host(&node, &["cat", CONFIG]).await?,
            lab.host(&node, &["sha256sum", CONFIG]).await?,
            started(lab, &node).await?,
        );
        before.push((node, found));
    }
    let begin = Instant::now();
    let change = async {
        lab.apply(&yaml("runtime", "allNodes: true", "{max_concurrent_downloads: 5}")).await?;
        lab.ready("runtime").await
    };
    let (_, Seen { granted, most, .. }) = seen_during(lab, change).await?;
    println!("{:11.2} s  until three containerds had another key", begin.elapsed().as_secs_f32());
    ensure!(most == 1 && granted.len() == 3, "{most} at once, {granted:?} in all");
    for (node, (config, _, start)) in &before {
        let now = lab.host(node, &["cat", CONFIG]).await?;
        let mut lines = now.lines();
        ensure!(
            config.lines().all(|line| lines.any(|other| other == line)),
            "{node}: {now}\nbefore: {config}"
        );
        // It is what containerd itself takes from it.
        let taken = lab.host(node, &["containerd", "config", "dump"]).await?;
        for expected in
            ["max_concurrent_downloads = 5", "snapshotter = \"native\"", "/etc/containerd/certs.d"]
        {
            ensure!(taken.contains(expected), "{node}: no {expected} in {taken}");
        }
        ensure!(started(lab, node).await? != *start, "{node}: containerd was not restarted");
    }
    lab.delete("runtime").await?;
    let still = processes(lab).await?;
    ensure!(still == pods, "now {still}, before: {pods}");
    lab.kubectl(&["delete", "pod", "-l", "app=bystander", "--wait=false"]).await?;
    for (node, (_, digest, ..)) in &before {
        let now = lab.host(node, &["sha256sum", CONFIG]).await?;
        ensure!(now == *digest, "{node}: {}", lab.host(node, &["cat", CONFIG]).await?);
    }
    Ok(())
}

/// A value with which containerd has no plugin for pods: the host alone goes back, and the status has it.
pub(crate) async fn a_configuration_that_containerd_cannot_use_is_rolled_back(lab: &Lab) -> Result<()> {
    let node = lab.expendable_worker().await?;
    let digest = lab.host(node, &["sha256sum", CONFIG]).await?;
    let selector = format!("nodeSelector: {{matchLabels: {{kubernetes.io/hostname: {node}}}}}");
    let begin = Instant::now();
    lab.apply(&yaml("unusable", &selector, "{max_concurrent_downloads: many}")).await?;
    let report = lab
        .wait_report("unusable", node, "rolled back", |report| {
            report.status.as_ref().is_some_and(|status| status.reason == "RolledBack")
        })
        .await?;
    let message = report.status.context("a status")?.message;
    println!("{:11.2} s  {message}", begin.elapsed().as_secs_f32());
    ensure!(lab.host(node, &["sha256sum", CONFIG]).await? == digest, "{node}: not put back");
    lab.kubectl(&["wait", "--for=condition=Ready", &format!("node/{node}"), "--timeout=60s"]).await?;
    lab.delete("unusable").await
}

/// The program that a machine's containerd is, and those that its containers run under.
async fn programs(lab: &Lab, node: &str) -> Result<(String, String)> {
    let id = lab.host(node, &["systemctl", "show", "-P", "MainPID", "containerd.service"]).await?;
    let containerd = lab.host(node, &["readlink", &format!("/proc/{id}/exe")]).await?;
    let shims = "for id in $(pgrep containerd-shim); do readlink /proc/$id/exe; done | sort -u; true";
    Ok((containerd, lab.host(node, &["sh", "-c", shims]).await?))
}

const INSTALLED: &str = "installed";
const LODGER: &str = "deployment/lodger";

/// Debian's own containerd, from an archive: the node waits until somebody drains it, then pods run under it; and the one
/// that was there before runs again.
pub(crate) async fn a_containerd_is_installed_on_a_drained_node_and_gives_way_again(lab: &Lab) -> Result<()> {
    let node = lab.expendable_worker().await?;
    // A pod that a drain takes away, and that comes back.
    lab.apply(&format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: lodger}}\nspec:\n  selector: {{matchLabels: {{app: lodger}}}}\n  \
         template:\n    metadata: {{labels: {{app: lodger}}}}\n    spec:\n      nodeSelector: {{kubernetes.io/hostname: {node}}}\n      \
         terminationGracePeriodSeconds: 1\n      \
         containers: [{{name: pause, image: \"nodebootstrap/pause:1\", imagePullPolicy: Never}}]\n"
    ))
    .await?;
    let outcome = installed(lab, node).await;
    lab.kubectl(&["uncordon", node]).await?;
    lab.kubectl(&["delete", LODGER, "--wait=false"]).await?;
    outcome
}

async fn installed(lab: &Lab, node: &str) -> Result<()> {
    let rolled_out = ["rollout", "status", LODGER, "--timeout=60s"];
    lab.kubectl(&rolled_out).await?;
    let root = lab.testbed.machine(node)?.root().to_owned();
    let read = |path: &str| std::fs::read(root.join(path)).with_context(|| format!("cannot read {path}"));
    let mut archive = Vec::new();
    for program in ["bin/containerd", "bin/containerd-shim-runc-v2", "bin/ctr"] {
        archive.push((program, read(&format!("usr/{program}"))?));
    }
    let (archive, digest) = lab.publish_archive("containerd.tar", &archive)?;
    let (runc, digest_of_runc) = lab.publish("runc", &read("usr/sbin/runc")?)?;
    let before = (looks(lab).await?, programs(lab, node).await?, started(lab, node).await?);
    ensure!(before.1.0 == "/usr/bin/containerd", "{:?}", before.1);

    let begin = Instant::now();
    lab.apply(&format!(
        "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: {INSTALLED}}}\nspec:\n  \
         nodeSelector: {{matchLabels: {{kubernetes.io/hostname: {node}}}}}\n  deletionPolicy: Revert\n  \
         health: {{timeout: 30s, stableFor: 2s}}\n  containerRuntime:\n    type: containerd\n    manage: Install\n    \
         archive: {{url: \"{archive}\", sha256: {{amd64: {digest}, arm64: {digest}}}}}\n    \
         runc: {{url: \"{runc}\", sha256: {{amd64: {digest_of_runc}, arm64: {digest_of_runc}}}}}\n"
    ))
    .await?;
    let told = async |words: &str| {
        let is_told = |nb: &crds::NodeBootstrap| {
            let results = nb.status.as_ref().map(|status| status.results.as_slice()).unwrap_or_default();
            is_current(nb)
                && results.iter().any(|one| one.reason == "NeedsDrain" && one.message.contains(words))
        };
        let nb = lab.wait(INSTALLED, words, is_told).await?;
        println!("{:11.2} s  {}", begin.elapsed().as_secs_f32(), message(&nb, "Ready"));
        anyhow::Ok(())
    };
    told(&format!("kubectl drain {node} --ignore-daemonsets")).await?;
    lab.kubectl(&["cordon", node]).await?;
    told("goes on when these pods have left it: default/lodger").await?;
    // Until then nothing was changed.
    same(&before.0, &looks(lab).await?)?;
    ensure!((programs(lab, node).await?, started(lab, node).await?) == (before.1.clone(), before.2));
    let drain = ["drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s"];
    lab.kubectl(&drain).await?;
    lab.ready(INSTALLED).await?;
    println!("{:11.2} s  until another containerd ran", begin.elapsed().as_secs_f32());
    lab.kubectl(&["wait", "--for=condition=Ready", &format!("node/{node}"), "--timeout=60s"]).await?;
    lab.kubectl(&["uncordon", node]).await?;
    lab.kubectl(&rolled_out).await?;
    let (containerd, shims) = programs(lab, node).await?;
    ensure!(containerd == "/usr/local/bin/containerd", "{containerd}");
    ensure!(shims.contains("/usr/local/bin/containerd-shim-runc-v2"), "{shims}");

    // Back again, drained as before: no other containerd would find what it has started.
    lab.kubectl(&drain).await?;
    lab.delete(INSTALLED).await?;
    same(&before.0, &looks(lab).await?)?;
    lab.kubectl(&["uncordon", node]).await?;
    lab.kubectl(&rolled_out).await?;
    let now = programs(lab, node).await?;
    ensure!(now == before.1, "{now:?}, before: {:?}", before.1);
    println!("{:11.2} s  until the one before ran a pod again", begin.elapsed().as_secs_f32());
    Ok(())
}
