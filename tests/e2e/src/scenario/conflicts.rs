//! Two NodeBootstraps that want one thing on one node.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crds::report::ReportPhase;

use crate::lab::{Lab, is, is_current, message, reason};

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

/// Two that ask different things of it: what it becomes on a node is for one alone to say.
pub(crate) async fn a_node_s_kubelet_has_one_node_bootstrap(lab: &Lab) -> Result<()> {
    let with = |name: &str, config: &str| {
        format!(
            "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: {name}}}\nspec:\n  allNodes: true\n  \
             mode: Plan\n  kubelet: {{config: {{{config}}}}}\n"
        )
    };
    // In mode Plan the older takes nothing from the younger.
    let apply = |yaml: String| yaml.replace("mode: Plan", "mode: Apply");
    let untouched = lab.host("worker1", &["systemctl", "show", "-P", "InvocationID", "kubelet"]).await?;
    lab.apply(&apply(with("older", "maxPods: 100"))).await?;
    // Creation times have whole seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    lab.apply(&apply(with("younger", "podPidsLimit: 1000"))).await?;
    let told = "kubelet: NodeBootstraps older and younger both have it, and older is older";
    lab.wait("younger", "in conflict", |nb| {
        reason(nb, "Stalled") == "Conflict" && message(nb, "Ready").contains(told)
    })
    .await?;
    lab.apply(&with("older", "maxPods: 100")).await?;
    lab.wait("younger", "free", |nb| is_current(nb) && reason(nb, "Stalled") != "Conflict").await?;
    let now = lab.host("worker1", &["systemctl", "show", "-P", "InvocationID", "kubelet"]).await?;
    ensure!(now == untouched, "the kubelet was restarted, though nobody may take it over");
    Ok(())
}

/// What no comparison of texts finds: only the host knows that the two are one.
pub(crate) async fn two_paths_that_are_one_by_way_of_a_link_are_a_conflict(lab: &Lab) -> Result<()> {
    let with = |name: &str, files: &str| {
        format!(
            "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: {name}}}\nspec:\n  allNodes: true\n  \
             files: [{{path: /etc/only-{name}, content: x}}{files}]\n"
        )
    };
    let same = |round: u32| {
        let files = format!(
            ", {{path: /bin/nb-same, content: by younger}}, {{path: /etc/round, content: \"{round}\"}}"
        );
        with("younger", &files)
    };
    let nodes = lab.nodes()?;
    for node in &nodes {
        ensure!(lab.host(node, &["readlink", "/bin"]).await? == "usr/bin", "{node}: /bin is no link");
        // As an earlier run on the same machines may have left it.
        lab.host(node, &["rm", "-f", "/etc/only-younger"]).await?;
    }
    lab.apply(&with("older", ", {path: /usr/bin/nb-same, content: by older}")).await?;
    lab.ready("older").await?;
    let untouched = async || {
        let mut found = Vec::new();
        for node in &nodes {
            found.push(lab.host(node, &["stat", "-c", "%i %z", "/usr/bin/nb-same"]).await?);
        }
        anyhow::Ok(found)
    };
    let before = untouched().await?;
    // Creation times have whole seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    // Each round is a new revision for the younger one and something to repair for the older one: a pass of both. A third
    // repair within minutes would count as a tug of war.
    for round in 1..=2 {
        lab.apply(&same(round)).await?;
        let nb = lab
            .wait("younger", "in conflict on all nodes", |nb| {
                let counts = nb.status.as_ref().map(|status| status.nodes).unwrap_or_default();
                is_current(nb) && counts.failed == 3 && reason(nb, "Ready") == "Conflict"
            })
            .await?;
        ensure!(!is(&nb, "Ready"), "{nb:?}");
        for node in &nodes {
            let revision = nb.status.as_ref().and_then(|status| status.update_revision.clone());
            let report = lab
                .wait_report("younger", node, "in conflict at its newest revision", |report| {
                    report.status.as_ref().is_some_and(|status| {
                        status.phase == ReportPhase::Failed && Some(&status.revision) == revision.as_ref()
                    })
                })
                .await?;
            let status = report.status.context("a status")?;
            ensure!(status.reason == "Conflict", "{node}: {status:?}");
            ensure!(status.message.contains("older") && status.message.contains("nb-same"), "{status:?}");
            let gone = !lab.host_succeeds(node, &["test", "-e", "/etc/only-younger"]).await?;
            ensure!(gone, "{node}: changed in spite of a conflict");
            lab.host(node, &["rm", "/etc/only-older"]).await?;
            lab.wait_host(node, &["cat", "/etc/only-older"], "x").await?;
            ensure!(lab.host(node, &["cat", "/bin/nb-same"]).await? == "by older", "{node}");
        }
        ensure!(is(&lab.ready("older").await?, "Ready"));
    }
    // The younger lets go.
    lab.apply(&with("younger", "")).await?;
    lab.ready("younger").await?;
    ensure!(untouched().await? == before, "it was written again");
    Ok(())
}
