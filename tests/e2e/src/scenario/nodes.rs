//! Nodes that come, go, change their labels, and come back as others.

use anyhow::{Context, Result, ensure};
use crds::names;
use crds::report::ReportPhase;

use crate::lab::{Lab, PATIENCE, is};
use crate::programs;

const LABELLED: &str = "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {name: labelled}\nspec:\n  \
    nodeSelector: {matchLabels: {e2e: \"yes\"}}\n  files: [{path: /etc/labelled, content: made}]\n";
const ALL: &str = "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {name: everywhere}\nspec:\n  \
    allNodes: true\n  files: [{path: /etc/everywhere, content: made}]\n";

async fn selected(lab: &Lab, name: &str, count: u32) -> Result<()> {
    lab.wait(name, &format!("selecting {count} nodes"), |nb| {
        nb.status.as_ref().is_some_and(|status| status.nodes.selected == count && status.nodes.ready == count)
    })
    .await
    .map(drop)
}

pub(crate) async fn a_node_that_loses_its_label_leaves(lab: &Lab) -> Result<()> {
    lab.apply(LABELLED).await?;
    let nb = lab.ready("labelled").await?;
    ensure!(crate::lab::reason(&nb, "Ready") == "NoNodes", "{nb:?}");
    lab.kubectl(&["label", "node", "worker1", "worker2", "e2e=yes"]).await?;
    selected(lab, "labelled", 2).await?;
    ensure!(lab.host("worker1", &["cat", "/etc/labelled"]).await? == "made");
    lab.kubectl(&["label", "node", "worker1", "e2e-"]).await?;
    selected(lab, "labelled", 1).await?;
    // Nothing of ours keeps running there, and nothing is left on the Node; what was made stays.
    let report = names::report("labelled", "worker1");
    testbed::wait_for("the Report to go", PATIENCE, || async {
        Ok(lab.reports().get_opt(&report).await?.is_none().then_some(()))
    })
    .await?;
    testbed::wait_for("the agent to go", PATIENCE, || async {
        Ok(lab.agent_pod("labelled", "worker1").await.is_err().then_some(()))
    })
    .await?;
    let labels = lab.kubectl(&["get", "node", "worker1", "-o", "jsonpath={.metadata.labels}"]).await?;
    ensure!(!labels.contains("nodebootstrap"), "{labels}");
    ensure!(lab.host("worker1", &["cat", "/etc/labelled"]).await? == "made");
    // And back again.
    lab.kubectl(&["label", "node", "worker1", "e2e=yes"]).await?;
    selected(lab, "labelled", 2).await?;
    lab.kubectl(&["label", "node", "worker1", "worker2", "e2e-"]).await?;
    selected(lab, "labelled", 0).await
}

pub(crate) async fn a_node_that_joins_later_is_enrolled(lab: &Lab) -> Result<()> {
    lab.apply(ALL).await?;
    lab.ready("everywhere").await?;
    lab.testbed.add_bare_machine("worker4").await?;
    programs::import(&lab.testbed, &["worker4"]).await?;
    // Ready must stay while the newcomer is being set up.
    let joined = async {
        lab.testbed.join("worker4").await?;
        selected(lab, "everywhere", 4).await
    };
    let unready = lab.wait("everywhere", "not Ready", |nb| !is(nb, "Ready"));
    tokio::select! {
        joined = joined => joined?,
        nb = unready => anyhow::bail!("not Ready since a node joined: {:?}", nb?.status),
    }
    ensure!(lab.host("worker4", &["cat", "/etc/everywhere"]).await? == "made");
    lab.testbed.remove_machine("worker4").await?;
    lab.kubectl(&["delete", "node", "worker4"]).await?;
    selected(lab, "everywhere", 3).await
}

pub(crate) async fn a_machine_made_anew_under_the_same_name_is_set_up_again(lab: &Lab) -> Result<()> {
    lab.apply(ALL).await?;
    lab.ready("everywhere").await?;
    let worker = lab.expendable_worker().await?;
    let before = lab.report("everywhere", worker).await?.status.context("a status")?.machine_id;
    let machine = lab.testbed.recreate_machine(worker).await?;
    ensure!(!machine.root().join("etc/everywhere").exists());
    programs::import(&lab.testbed, &[worker]).await?;
    let report = lab
        .wait_report("everywhere", worker, "of the new machine", |report| {
            report.status.as_ref().is_some_and(|status| {
                status.machine_id == machine.machine_id() && status.phase == ReportPhase::Ready
            })
        })
        .await?;
    ensure!(report.status.context("a status")?.machine_id != before);
    ensure!(lab.host(worker, &["cat", "/etc/everywhere"]).await? == "made");
    lab.ready("everywhere").await.map(drop)
}

pub(crate) async fn a_node_that_goes_is_forgotten(lab: &Lab) -> Result<()> {
    lab.apply(ALL).await?;
    lab.ready("everywhere").await?;
    let worker = lab.expendable_worker().await?;
    lab.testbed.remove_machine(worker).await?;
    lab.kubectl(&["delete", "node", worker]).await?;
    selected(lab, "everywhere", 2).await?;
    let report = names::report("everywhere", worker);
    testbed::wait_for("the Report to go", PATIENCE, || async {
        Ok(lab.reports().get_opt(&report).await?.is_none().then_some(()))
    })
    .await?;
    lab.ready("everywhere").await?;
    // Kubernetes itself forgets the pods of a node that is gone after a minute; the DaemonSet makes none there before.
    let orphans = ["-A", &format!("--field-selector=spec.nodeName={worker}"), "--force", "--grace-period=0"];
    lab.kubectl(&[&["delete", "pods"], &orphans[..]].concat()).await?;
    // The other scenarios want it back.
    lab.testbed.add_bare_machine(worker).await?;
    programs::import(&lab.testbed, &[worker]).await?;
    lab.testbed.join(worker).await?;
    selected(lab, "everywhere", 3).await
}
