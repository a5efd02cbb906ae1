//! What is changed behind the agent's back: noticed at once, repaired, told or left as the policy says, not fought over with
//! somebody who changes it again and again, and not touched on a node that is paused.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crds::NodeBootstrapReport;
use crds::report::ReportPhase;
use testbed::wait_for;

use crate::lab::{Lab, PATIENCE, is, message, reason};

/// Far less than the interval, and than the time after which what was started is looked at once more.
const AT_ONCE: Duration = Duration::from_secs(6);

fn is_in(phase: ReportPhase) -> impl Fn(&NodeBootstrapReport) -> bool {
    move |report| report.status.as_ref().is_some_and(|status| status.phase == phase)
}

/// By what systemd tells of itself, also after the bus was away.
pub(crate) async fn a_unit_that_stops_or_is_disabled_is_put_right_at_once(lab: &Lab) -> Result<()> {
    let unit = "watched.service";
    lab.apply(
        "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {name: watched}\nspec:\n  allNodes: true\n  \
         drift: {interval: 1h}\n  units:\n  - name: watched.service\n    enabled: true\n    active: true\n    content: |\n      [Service]\n      \
         ExecStart=/bin/sleep infinity\n      [Install]\n      WantedBy=multi-user.target\n",
    )
    .await?;
    lab.ready("watched").await?;
    let put_right = async |words: &[&str], state: &str, expected: &str| -> Result<()> {
        let begin = Instant::now();
        lab.host("worker1", words).await?;
        lab.wait_host("worker1", &["systemctl", state, unit], expected).await?;
        ensure!(begin.elapsed() < AT_ONCE, "{words:?}: put right after {:?}", begin.elapsed());
        Ok(())
    };
    put_right(&["systemctl", "stop", unit], "is-active", "active").await?;
    lab.wait_report("watched", "worker1", "told of the unit", |report| {
        let status = report.status.as_ref();
        status.is_some_and(|status| status.message == "repaired: unit watched.service did not run")
    })
    .await?;
    put_right(&["systemctl", "disable", unit], "is-enabled", "enabled").await?;
    // A bus that was away is found again; until the interval, in an hour, nothing else would tell.
    lab.host("worker1", &["systemctl", "kill", "--signal=KILL", "dbus.service"]).await?;
    lab.host("worker1", &["systemctl", "stop", unit]).await?;
    lab.wait_host("worker1", &["systemctl", "is-active", unit], "active").await
}

/// Everybody else's changes are told once, and answered ever more slowly.
pub(crate) async fn a_tug_of_war_is_told_and_not_fought(lab: &Lab) -> Result<()> {
    lab.apply(
        "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {name: tug}\nspec:\n  allNodes: true\n  \
         files: [{path: /etc/tug, content: ours}]\n",
    )
    .await?;
    lab.ready("tug").await?;
    let another = "while :; do echo theirs > /etc/tug; sleep 0.2; done";
    lab.host("worker1", &["systemd-run", "--unit=another-tool", "/bin/sh", "-c", another]).await?;
    let nb = lab.wait("tug", "told", |nb| reason(nb, "Ready") == "NodesFailed").await?;
    let said = message(&nb, "Ready").to_owned();
    ensure!(said.contains("worker1: file /etc/tug had other content, again after 3 repairs"), "{said}");
    let version = async || -> Result<Option<String>> {
        Ok(lab.report("tug", "worker1").await?.metadata.resource_version)
    };
    let before = version().await?;
    // Twenty of their rounds.
    tokio::time::sleep(Duration::from_secs(4)).await;
    ensure!(version().await? == before, "a write for a round");
    ensure!(lab.host("worker1", &["cat", "/etc/tug"]).await? == "theirs", "fought at full speed");
    lab.host("worker1", &["systemctl", "stop", "another-tool"]).await?;
    lab.wait_host("worker1", &["cat", "/etc/tug"], "ours").await
}

/// The host keeps what it has, and the status says what it has not.
pub(crate) async fn policy_report_tells_and_leaves(lab: &Lab) -> Result<()> {
    let with = |policy: &str| {
        format!(
            "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: told}}\nspec:\n  allNodes: true\n  \
             drift: {{policy: {policy}}}\n  files: [{{path: /etc/told, content: ours}}]\n"
        )
    };
    lab.apply(&with("Report")).await?;
    let revision = lab.ready("told").await?.status.context("a status")?.update_revision;
    lab.host("worker1", &["rm", "/etc/told"]).await?;
    let nb = lab.wait("told", "drifted", |nb| is(nb, "Drifted")).await?;
    ensure!(
        message(&nb, "Drifted")
            == "worker1 has drifted (worker1: file /etc/told was missing); left so by drift.policy Report",
        "{}",
        message(&nb, "Drifted")
    );
    let nodes = nb.status.as_ref().context("a status")?.nodes;
    ensure!(is(&nb, "Ready") && (nodes.ready, nodes.drifted) == (3, 1), "{nodes:?}");
    ensure!(!lab.host_succeeds("worker1", &["test", "-e", "/etc/told"]).await?, "repaired");
    lab.apply(&with("Enforce")).await?;
    let nb = lab.wait("told", "as it was made", |nb| is(nb, "Ready") && !is(nb, "Drifted")).await?;
    lab.wait_host("worker1", &["cat", "/etc/told"], "ours").await?;
    ensure!(nb.status.context("a status")?.update_revision == revision, "a policy is no revision");
    Ok(())
}

/// By its annotation, and by the command on the host.
pub(crate) async fn a_paused_node_is_left_as_it_is(lab: &Lab) -> Result<()> {
    let with = |content: &str| {
        format!(
            "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: paused}}\nspec:\n  allNodes: true\n  \
             files: [{{path: /etc/paused, content: {content}}}]\n"
        )
    };
    lab.apply(&with("first")).await?;
    lab.ready("paused").await?;
    lab.kubectl(&["annotate", "node", "worker1", "nodebootstrap.io/paused=maintenance"]).await?;
    let resumed = async {
        lab.wait_report("paused", "worker1", "paused", is_in(ReportPhase::Paused)).await?;
        lab.apply(&with("second")).await?;
        let nb = lab
            .wait("paused", "paused", |nb| {
                reason(nb, "Ready") == "Paused"
                    && nb.status.as_ref().is_some_and(|status| status.nodes.ready == 2)
            })
            .await?;
        let said = message(&nb, "Ready");
        ensure!(said.starts_with("2 of 3 nodes ready; worker1 is paused (worker1: the Node has"), "{said}");
        ensure!(lab.host("worker1", &["cat", "/etc/paused"]).await? == "first");
        Ok(())
    }
    .await;
    lab.kubectl(&["annotate", "node", "worker1", "nodebootstrap.io/paused-"]).await?;
    resumed?;
    lab.ready("paused").await?;
    ensure!(lab.host("worker1", &["cat", "/etc/paused"]).await? == "second");

    let agent = lab.put_agent("worker2")?;
    let said = lab.host("worker2", &[agent, "pause"]).await?;
    ensure!(said.starts_with("paused since 20"), "{said}");
    let resumed = async {
        lab.host("worker2", &["rm", "/etc/paused"]).await?;
        let report = lab.wait_report("paused", "worker2", "paused", is_in(ReportPhase::Paused)).await?;
        let said = report.status.context("a status")?.message;
        ensure!(said.contains("until nodebootstrap-agent resume is run there"), "{said}");
        ensure!(!lab.host_succeeds("worker2", &["test", "-e", "/etc/paused"]).await?, "repaired");
        Ok(())
    }
    .await;
    lab.host("worker2", &[agent, "resume"]).await?;
    resumed?;
    wait_for("the file to be back", PATIENCE, || async {
        Ok(lab.host_succeeds("worker2", &["test", "-e", "/etc/paused"]).await?.then_some(()))
    })
    .await?;
    lab.ready("paused").await.map(drop)
}
