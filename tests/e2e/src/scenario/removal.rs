//! Deleting a NodeBootstrap, and uninstalling in the right order and in wrong ones.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use crds::names::NAMESPACE;

use crate::lab::{Lab, PATIENCE};
use crate::programs::workspace;

const YAML: &str = "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {name: removed}\nspec:\n  \
    allNodes: true\n  leaveTimeout: 5s\n  files: [{path: /etc/removed, content: made}]\n";

/// Nothing of a NodeBootstrap in the API, and no agent on a machine.
async fn nothing_is_left(lab: &Lab) -> Result<()> {
    for kind in
        ["daemonsets", "controllerrevisions", "serviceaccounts", "roles", "rolebindings", "secrets", "pods"]
    {
        lab.wait_gone(kind, &["-n", NAMESPACE, "-l", "nodebootstrap.io/name"]).await?;
    }
    for node in lab.nodes()? {
        let running = ["pgrep", "-f", "nodebootstrap-agent run"];
        testbed::wait_for("the agents to end", PATIENCE, || async {
            Ok((!lab.host_succeeds(&node, &running).await?).then_some(()))
        })
        .await?;
        let labels = lab
            .kubectl(&["get", "node", &node, "-o", "jsonpath={.metadata.labels}{.metadata.annotations}"])
            .await?;
        ensure!(!labels.contains("nodebootstrap"), "{labels}");
    }
    Ok(())
}

pub(crate) async fn a_deleted_node_bootstrap_leaves_no_object(lab: &Lab) -> Result<()> {
    lab.apply(YAML).await?;
    lab.ready("removed").await?;
    let begin = Instant::now();
    lab.delete("removed").await?;
    ensure!(begin.elapsed() < Duration::from_secs(5), "took {:?}: agents did not answer", begin.elapsed());
    lab.wait_gone("nbr", &[]).await?;
    nothing_is_left(lab).await?;
    // Retain: what was made stays.
    ensure!(lab.host("worker1", &["cat", "/etc/removed"]).await? == "made");
    // Made again, it finds all as it should be, and changes nothing.
    let inode = lab.host("worker1", &["stat", "-c", "%i %z", "/etc/removed"]).await?;
    lab.apply(YAML).await?;
    lab.ready("removed").await?;
    ensure!(lab.host("worker1", &["stat", "-c", "%i %z", "/etc/removed"]).await? == inode);
    Ok(())
}

pub(crate) async fn a_dead_node_holds_deletion_up_for_the_leave_timeout_only(lab: &Lab) -> Result<()> {
    lab.apply(YAML).await?;
    lab.ready("removed").await?;
    let dead = lab.expendable_worker().await?;
    lab.testbed.stop_machine(dead).await?;
    let begin = Instant::now();
    let deleted = lab.delete("removed").await;
    let took = begin.elapsed();
    lab.testbed.start_machine(dead).await?;
    lab.kubectl(&["wait", "--for=condition=Ready", &format!("node/{dead}"), "--timeout=90s"]).await?;
    deleted?;
    ensure!(
        (Duration::from_secs(5)..Duration::from_secs(30)).contains(&took),
        "took {took:?} with a timeout of 5 s"
    );
    let events = lab.kubectl(&["get", "events", "-A"]).await?;
    ensure!(
        events.lines().any(|line| line.contains(dead) && line.contains("removed")),
        "no Event:\n{events}"
    );
    nothing_is_left(lab).await
}

async fn nothing_is_installed(lab: &Lab) -> Result<()> {
    for (kind, words) in [
        ("crd", "nodebootstrap"),
        ("clusterroles", "nodebootstrap"),
        ("clusterrolebindings", "nodebootstrap"),
        ("validatingadmissionpolicies", "nodebootstrap"),
        ("validatingadmissionpolicybindings", "nodebootstrap"),
        ("namespaces", "nodebootstrap"),
    ] {
        testbed::wait_for(&format!("{kind} to go"), PATIENCE, || async {
            Ok((!lab.kubectl(&["get", kind, "-o", "name"]).await?.contains(words)).then_some(()))
        })
        .await?;
    }
    nothing_is_left_on_machines(lab).await
}

async fn nothing_is_left_on_machines(lab: &Lab) -> Result<()> {
    for node in lab.nodes()? {
        testbed::wait_for("agents and operator to end", PATIENCE, || async {
            Ok((!lab.host_succeeds(&node, &["pgrep", "-f", "/nodebootstrap-(agent|operator)"]).await?)
                .then_some(()))
        })
        .await?;
    }
    Ok(())
}

fn deploy() -> String {
    workspace().join("deploy").display().to_string()
}

pub(crate) async fn uninstalled_in_the_right_order_nothing_is_left(lab: &Lab) -> Result<()> {
    lab.apply(YAML).await?;
    lab.ready("removed").await?;
    lab.kubectl(&["delete", "nb", "--all", "--timeout=60s"]).await?;
    lab.kubectl(&["delete", "-k", &deploy(), "--timeout=60s"]).await?;
    nothing_is_installed(lab).await
}

/// `kubectl delete -k deploy` with NodeBootstraps still there: it ends by itself, or with the README's one line.
pub(crate) async fn uninstalled_with_node_bootstraps_there(lab: &Lab) -> Result<()> {
    lab.apply(YAML).await?;
    lab.ready("removed").await?;
    let gone = lab.testbed.kubectl(&["delete", "-k", &deploy(), "--timeout=20s"]).await?;
    if !gone.success() {
        lab.strip_finalizers().await?;
    }
    nothing_is_installed(lab).await
}

pub(crate) async fn uninstalled_with_the_namespace_first(lab: &Lab) -> Result<()> {
    lab.apply(YAML).await?;
    lab.ready("removed").await?;
    lab.kubectl(&["delete", "namespace", NAMESPACE, "--timeout=90s"]).await?;
    lab.testbed.kubectl(&["delete", "nb", "--all", "--timeout=5s"]).await?;
    lab.strip_finalizers().await?;
    lab.wait_gone("nb", &[]).await?;
    lab.kubectl(&["delete", "-k", &deploy(), "--ignore-not-found", "--timeout=60s"]).await?;
    nothing_is_installed(lab).await
}

pub(crate) async fn uninstalled_with_the_crds_first(lab: &Lab) -> Result<()> {
    lab.apply(YAML).await?;
    lab.ready("removed").await?;
    // The operator is there still, so that this needs no help.
    let crds = workspace().join("crds").display().to_string();
    lab.kubectl(&["delete", "-f", &crds, "--timeout=60s"]).await?;
    nothing_is_left(lab).await?;
    lab.kubectl(&["delete", "-k", &deploy(), "--ignore-not-found", "--timeout=60s"]).await?;
    nothing_is_installed(lab).await
}
