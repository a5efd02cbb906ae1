//! Order across nodes, and what a spec refers to.

use anyhow::{Context, Result, ensure};
use crds::report::Disruption;
use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};

use crate::lab::{Lab, is, message, reason};

/// The unit is restarted once on each node, and never are two nodes permitted at once.
pub(crate) async fn a_restart_takes_one_node_at_a_time(lab: &Lab) -> Result<()> {
    let with = |interval: u32| {
        format!(
            "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: restart}}\nspec:\n  allNodes: true\n  \
             files:\n  - path: /etc/pulse.conf\n    content: \"INTERVAL={interval}\\n\"\n    onChange: {{restart: [pulse.service]}}\n  \
             - path: /etc/pulse.extra\n    content: \"{interval}\"\n    onChange: {{restart: [pulse.service]}}\n  \
             units:\n  - name: pulse.service\n    active: true\n    content: |\n      [Service]\n      \
             ExecStart=/usr/bin/sleep infinity\n"
        )
    };
    lab.apply(&with(1)).await?;
    lab.ready("restart").await?;
    let started = async |node: &str| {
        let property = ["systemctl", "show", "-P", "InvocationID", "pulse.service"];
        lab.host(node, &property).await
    };
    let starts = async |node: &str| {
        let journal = lab.host(node, &["journalctl", "-u", "pulse.service", "-o", "cat"]).await?;
        anyhow::Ok(journal.matches("Started").count())
    };
    let mut before = Vec::new();
    for node in ["cp1", "worker1", "worker2"] {
        before.push((node, started(node).await?, starts(node).await?));
    }

    // Watches all Reports from before the edit on, and sees who is permitted at each moment.
    let mut stream = watcher(lab.reports(), watcher::Config::default()).applied_objects().boxed();
    let mut permits = std::collections::BTreeMap::new();
    let mut most = 0;
    let mut granted = std::collections::BTreeSet::new();
    lab.apply(&with(2)).await?;
    let ready = lab.ready("restart");
    tokio::pin!(ready);
    let nb = loop {
        tokio::select! {
            nb = &mut ready => break nb?,
            event = stream.next() => {
                let report = event.context("the watch ended")?.context("the watch failed")?;
                let node = report.spec.node_name.clone();
                let is_permitted = report.spec.permit.disruption > Disruption::None;
                if is_permitted {
                    granted.insert(node.clone());
                }
                permits.insert(node, is_permitted);
                most = most.max(permits.values().filter(|permitted| **permitted).count());
            }
        }
    };
    ensure!(most == 1 && granted.len() == 3, "{most} at once, {granted:?} in all");
    ensure!(nb.status.is_some_and(|status| status.nodes.ready == 3));
    for (node, before, before_starts) in before {
        ensure!(started(node).await? != before, "{node}: not restarted");
        ensure!(starts(node).await? == before_starts + 1, "{node}: restarted more than once");
    }
    Ok(())
}

pub(crate) async fn a_missing_reference_is_told_and_followed_when_it_comes(lab: &Lab) -> Result<()> {
    lab.apply(
        "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {name: reference}\nspec:\n  allNodes: true\n  \
         files: [{path: /etc/from-map, configMapRef: {name: map, key: k}}]\n",
    )
    .await?;
    let nb = lab.wait("reference", "Stalled", |nb| is(nb, "Stalled")).await?;
    ensure!(reason(&nb, "Stalled") == "ReferenceMissing", "{nb:?}");
    ensure!(message(&nb, "Ready").contains("ConfigMap map"), "{}", message(&nb, "Ready"));
    let map = |value: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: map, namespace: nodebootstrap-system, labels: {{nodebootstrap-e2e: \"true\"}}}}\n\
             data: {{k: \"{value}\"}}\n"
        )
    };
    lab.apply(&map("one")).await?;
    lab.ready("reference").await?;
    ensure!(lab.host("worker1", &["cat", "/etc/from-map"]).await? == "one");
    lab.apply(&map("two")).await?;
    for node in lab.nodes()? {
        lab.wait_host(&node, &["cat", "/etc/from-map"], "two").await?;
    }
    // Gone again: what is on the nodes stays, and the status says so.
    lab.kubectl(&["delete", "configmap", "-n", "nodebootstrap-system", "map"]).await?;
    lab.wait("reference", "Stalled again", |nb| is(nb, "Stalled")).await?;
    ensure!(lab.host("worker1", &["cat", "/etc/from-map"]).await? == "two");
    Ok(())
}
