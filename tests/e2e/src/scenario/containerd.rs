//! The container runtime by its preset: keys of its own configuration, under pods that run on.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::rollout::{Seen, seen_during};
use super::switches::{bystanders, processes};
use crate::lab::Lab;

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
