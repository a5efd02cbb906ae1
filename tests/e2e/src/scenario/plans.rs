//! Mode Plan: what would be changed is told, nothing is, and Apply then makes just that.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use crds::report::{ChangeSummary, Disruption, ReportPhase};

use crate::lab::{Lab, is, is_current, message, reason};

fn yaml(mode: &str, version: u32, more: &str) -> String {
    format!(
        "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: planned}}\nspec:\n  mode: {mode}\n  allNodes: true\n  \
         files:\n  - path: /etc/planned.conf\n    content: \"VERSION={version}\\n\"\n    onChange: {{restart: [planned.service]}}\n  \
         units:\n  - name: planned.service\n    active: true\n    content: |\n      [Service]\n      \
         ExecStart=/usr/bin/sleep infinity\n{more}"
    )
}

/// All that a plan could have touched on a machine, with the times of last change, and which process runs.
async fn snapshot(lab: &Lab, node: &str) -> Result<String> {
    let format = "%p %y %U:%G %m %s %i %T@ %C@\n";
    let files = ["find", "/etc", "/opt", "/var/lib/nodebootstrap", "-xdev", "-printf", format];
    let runs = ["systemctl", "show", "-P", "InvocationID", "planned.service"];
    let mut lines: Vec<_> = lab.host(node, &files).await?.lines().map(str::to_owned).collect();
    lines.sort();
    Ok(format!("{}\n{}", lines.join("\n"), lab.host(node, &runs).await?))
}

async fn snapshots(lab: &Lab) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for node in lab.nodes()? {
        all.insert(node.clone(), snapshot(lab, &node).await?);
    }
    Ok(all)
}

/// The changes in each node's Report.
async fn listed(lab: &Lab) -> Result<BTreeMap<String, Vec<ChangeSummary>>> {
    let mut all = BTreeMap::new();
    for node in lab.nodes()? {
        let status = lab.report("planned", &node).await?.status.context("a status")?;
        ensure!(status.changes.len() == status.changes_total as usize, "{status:?}");
        all.insert(node, status.changes);
    }
    Ok(all)
}

pub(crate) async fn a_plan_changes_nothing_and_apply_makes_just_that(lab: &Lab) -> Result<()> {
    lab.apply(&yaml("Apply", 1, "")).await?;
    lab.ready("planned").await?;
    let before = snapshots(lab).await?;

    let more = "  groups: [{name: planned}]\n  directories: [{path: /opt/planned/inner, group: planned}]\n";
    lab.apply(&yaml("Plan", 2, more)).await?;
    let is_planned = |nb: &crds::NodeBootstrap| is_current(nb) && reason(nb, "Ready") == "Planned";
    let nb = lab.wait("planned", "planned", is_planned).await?;
    let status = nb.status.as_ref().context("a status")?;
    ensure!(is(&nb, "Ready") && !is(&nb, "Reconciling") && status.nodes.planned == 3, "{nb:?}");
    let told = "3 of 3 nodes planned: cp1, worker1 and worker2 would be changed, with disruption Restart";
    ensure!(message(&nb, "Ready") == told, "{}", message(&nb, "Ready"));
    ensure!(lab.kubectl(&["get", "nb"]).await?.contains(told));
    ensure!(lab.kubectl(&["get", "nbr"]).await?.matches("Planned").count() == 3);
    let plans = listed(lab).await?;
    for (node, changes) in &plans {
        let resources: Vec<_> = changes.iter().map(|change| change.resource.as_str()).collect();
        let expected = [
            "group planned",
            "directory /opt/planned",
            "directory /opt/planned/inner",
            "file /etc/planned.conf",
            "unit planned.service",
        ];
        ensure!(resources == expected, "{node}: {changes:?}");
        ensure!(changes[4].disruption == Disruption::Restart && changes[3].disruption == Disruption::None);
    }
    ensure!(snapshots(lab).await? == before, "a plan has changed something");

    // What is changed by hand is told, and not repaired.
    lab.host("worker1", &["rm", "/etc/planned.conf"]).await?;
    lab.wait_report("planned", "worker1", "told of the drift", |report| {
        let changes = report.status.iter().flat_map(|status| &status.changes);
        let mut file = changes.filter(|change| change.resource == "file /etc/planned.conf");
        file.any(|change| change.change.starts_with("create"))
    })
    .await?;
    ensure!(!lab.host_succeeds("worker1", &["test", "-e", "/etc/planned.conf"]).await?, "repaired");
    let plans = listed(lab).await?;

    let apply = r#"{"spec":{"mode":"Apply"}}"#;
    lab.kubectl(&["patch", "nb", "planned", "--type=merge", "-p", apply]).await?;
    let applied = lab.ready("planned").await?.status.context("a status")?;
    ensure!(applied.update_revision == status.update_revision, "switching the mode is no new revision");
    ensure!(applied.nodes.ready == 3 && applied.nodes.planned == 0, "{applied:?}");
    ensure!(
        listed(lab).await? == plans,
        "what was planned: {plans:?}\nwhat was made: {:?}",
        listed(lab).await?
    );
    for node in lab.nodes()? {
        ensure!(lab.host(&node, &["cat", "/etc/planned.conf"]).await? == "VERSION=2");
    }

    let plan = r#"{"spec":{"mode":"Plan"}}"#;
    lab.kubectl(&["patch", "nb", "planned", "--type=merge", "-p", plan]).await?;
    let nb = lab.wait("planned", "planned again", is_planned).await?;
    ensure!(message(&nb, "Ready").ends_with("nothing would be changed"), "{}", message(&nb, "Ready"));
    lab.delete("planned").await
}

/// Neither the first reason alone, nor a change.
pub(crate) async fn a_host_says_every_reason_at_once(lab: &Lab) -> Result<()> {
    lab.apply(
        "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {name: impossible}\nspec:\n  mode: Plan\n  allNodes: true\n  \
         groups: [{name: fine}, {name: clash, gid: 1}]\n  \
         files: [{path: /nowhere/f, content: x}, {path: /etc/owned, content: x, owner: stranger}]\n  \
         units: [{name: unheard-of.service, active: true}]\n",
    )
    .await?;
    let nb = lab.wait("impossible", "failed", |nb| reason(nb, "Ready") == "NodesFailed").await?;
    ensure!(!is(&nb, "Ready"), "{nb:?}");
    for node in lab.nodes()? {
        let is_failed = |report: &crds::NodeBootstrapReport| {
            report.status.as_ref().is_some_and(|status| status.phase == ReportPhase::Failed)
        };
        let report = lab.wait_report("impossible", &node, "failed", is_failed).await?;
        let problems = report.status.context("a status")?.problems;
        let about = ["group clash", "file /etc/owned", "file /nowhere/f", "unit unheard-of.service"];
        let is_told = |what: &&str| problems.iter().any(|problem| problem.starts_with(*what));
        ensure!(problems.len() == 4 && about.iter().all(is_told), "{node}: {problems:?}");
        ensure!(
            !lab.host_succeeds(&node, &["getent", "group", "fine"]).await?,
            "{node}: something was begun"
        );
    }
    Ok(())
}
