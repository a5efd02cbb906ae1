//! Two NodeBootstraps that want one thing on one node.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crds::report::ReportPhase;

use crate::lab::{Lab, is, message};

fn yaml(name: &str, path: &str) -> String {
    format!(
        "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: {name}}}\nspec:\n  allNodes: true\n  \
         files: [{{path: {path}, content: \"by {name}\"}}, {{path: /etc/only-{name}, content: x}}]\n"
    )
}

pub(crate) async fn the_older_keeps_a_path_and_the_younger_says_so(lab: &Lab) -> Result<()> {
    lab.apply(&yaml("older", "/etc/wanted")).await?;
    lab.ready("older").await?;
    // Creation times have whole seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    lab.apply(&yaml("younger", "/etc/wanted")).await?;
    let report = lab
        .wait_report("younger", "worker1", "in conflict", |report| {
            report.status.as_ref().is_some_and(|status| status.phase == ReportPhase::Failed)
        })
        .await?;
    let status = report.status.context("a status")?;
    ensure!(status.reason == "Conflict", "{status:?}");
    let nb = lab.wait("younger", "in conflict", |nb| message(nb, "Ready").contains("older")).await?;
    let told = message(&nb, "Ready");
    ensure!(told.contains("older") && told.contains("/etc/wanted") && !is(&nb, "Ready"), "{told}");
    let inode = lab.host("worker1", &["stat", "-c", "%i %z", "/etc/wanted"]).await?;
    ensure!(
        !lab.host_succeeds("worker1", &["test", "-e", "/etc/only-younger"]).await?,
        "changed in spite of a conflict"
    );
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(lab.host("worker1", &["stat", "-c", "%i %z", "/etc/wanted"]).await? == inode, "it flips");
    ensure!(is(&lab.node_bootstrap("older").await?, "Ready"));
    // The older lets go: the younger goes on by itself.
    lab.apply(&yaml("older", "/etc/another")).await?;
    lab.ready("younger").await?;
    ensure!(lab.host("worker2", &["cat", "/etc/wanted"]).await? == "by younger");
    // It wants it back, and is the older still.
    lab.apply(&yaml("older", "/etc/wanted")).await?;
    lab.ready("older").await?;
    lab.wait_host("worker2", &["cat", "/etc/wanted"], "by older").await?;
    lab.wait("younger", "in conflict again", |nb| message(nb, "Ready").contains("older")).await?;
    lab.delete("older").await?;
    lab.ready("younger").await?;
    lab.wait_host("worker2", &["cat", "/etc/wanted"], "by younger").await
}
