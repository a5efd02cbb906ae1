//! Services that do not do what they shall: one that keeps ending, and one that never finishes starting.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crds::NodeBootstrap;

use super::rollout::{ends_with_3, seen_during};
use crate::lab::{Lab, PATIENCE, is, is_current, message};

/// systemd starts it anew each time, so that it runs whenever one looks; it counts for nothing.
pub(crate) async fn a_service_that_keeps_ending_is_not_ready(lab: &Lab) -> Result<()> {
    let with = |program: &str| {
        format!(
            "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: ending}}\nspec:\n  allNodes: true\n  \
             units:\n  - name: ending.service\n    active: true\n    content: |\n      [Service]\n      \
             Restart=always\n      RestartSec=1\n      ExecStart=/bin/sh -c '{program}'\n"
        )
    };
    let all_failed = |nb: &NodeBootstrap| {
        is_current(nb) && nb.status.as_ref().is_some_and(|status| status.nodes.failed == 3)
    };
    let begin = Instant::now();
    lab.apply(&with("sleep 1; exit 3")).await?;
    let nb = lab.wait("ending", "failed on all nodes", all_failed).await?;
    ensure!(begin.elapsed() < Duration::from_secs(40), "told after {:?}", begin.elapsed());
    let status = nb.status.as_ref().context("a status")?;
    for result in &status.results {
        ensure!(result.message.contains("ending.service"), "{result:?}");
    }
    ensure!(message(&nb, "Ready").contains("ending.service"), "{}", message(&nb, "Ready"));

    let while_it_ends = async {
        let nodes = lab.nodes()?;
        let ends = nodes.iter().map(|node| async move {
            let begun = ends_with_3(lab, node, "ending.service").await?;
            testbed::wait_for(&format!("ending.service to end five times on {node}"), PATIENCE, || async {
                Ok((ends_with_3(lab, node, "ending.service").await? >= begun + 5).then_some(()))
            })
            .await
        });
        futures::future::try_join_all(ends).await.map(drop)
    };
    let ((), seen) = seen_during(lab, while_it_ends).await?;
    ensure!(seen.ready.is_empty(), "Ready in between: {:?}", seen.ready);
    let still = lab.node_bootstrap("ending").await?;
    ensure!(all_failed(&still) && !is(&still, "Ready"), "{still:?}");

    lab.apply(&with("exec sleep infinity")).await?;
    lab.ready("ending").await?;
    for node in lab.nodes()? {
        ensure!(lab.host(&node, &["systemctl", "is-active", "ending.service"]).await? == "active", "{node}");
    }
    Ok(())
}

/// What systemd takes its time for keeps neither another NodeBootstrap, nor an edit, nor the end from going on.
pub(crate) async fn a_step_that_does_not_end_holds_up_nothing_else(lab: &Lab) -> Result<()> {
    let slow = |units: &str| {
        format!(
            "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: slow}}\nspec:\n  allNodes: true\n  \
             files: [{{path: /etc/slow, content: x}}]\n{units}"
        )
    };
    let endless = slow(
        "  units:\n  - name: endless.service\n    active: true\n    content: |\n      [Service]\n      \
         Type=oneshot\n      ExecStart=/bin/sleep infinity\n",
    );
    let starts = async || {
        lab.apply(&endless).await?;
        let nb = lab
            .wait("slow", "starting endless.service", |nb| {
                is_current(nb) && message(nb, "Ready").contains("endless.service")
            })
            .await?;
        ensure!(!is(&nb, "Ready"), "{nb:?}");
        for node in lab.nodes()? {
            let state = ["systemctl", "show", "-P", "ActiveState", "endless.service"];
            lab.wait_host(&node, &state, "activating").await?;
        }
        Ok(())
    };
    let within = |what: &str, begin: Instant, seconds: u64| {
        ensure!(begin.elapsed() < Duration::from_secs(seconds), "{what} took {:?}", begin.elapsed());
        Ok(())
    };
    starts().await?;

    let begin = Instant::now();
    lab.apply(
        "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {name: other}\nspec:\n  allNodes: true\n  \
         directories: [{path: /opt/other}]\n",
    )
    .await?;
    lab.ready("other").await?;
    within("another NodeBootstrap", begin, 10)?;
    let begin = Instant::now();
    lab.host("worker1", &["rmdir", "/opt/other"]).await?;
    lab.wait_host("worker1", &["stat", "-c", "%U:%G %a", "/opt/other"], "root:root 755").await?;
    within("the repair of its directory", begin, 10)?;

    let begin = Instant::now();
    lab.apply(&slow("")).await?;
    lab.ready("slow").await?;
    within("an edit", begin, 15)?;

    starts().await?;
    let begin = Instant::now();
    lab.delete("slow").await?;
    within("the end of it", begin, 30)?;
    // It stays on the machines as all that was made, and would wait for ever.
    for node in lab.nodes()? {
        lab.host(&node, &["systemctl", "stop", "endless.service"]).await?;
    }
    Ok(())
}
