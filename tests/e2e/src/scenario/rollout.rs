//! Order across nodes, and what a spec refers to.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crds::NodeBootstrap;
use crds::nodebootstrap::NodePhase;
use crds::report::{Disruption, ReportPhase};
use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use testbed::wait_for;

use crate::lab::{Lab, PATIENCE, is, is_current, message, reason};

/// What was seen in all Reports while something went on.
#[derive(Default)]
pub(super) struct Seen {
    /// The nodes that were permitted a restart.
    pub(super) granted: BTreeSet<String>,
    /// How many permits were in use at once, at most.
    pub(super) most: usize,
    /// The nodes whose agents said Ready, each with the revision that they spoke of.
    pub(super) ready: BTreeSet<(String, String)>,
    /// How many had been given a revision and had not said Ready for it, at once and at most.
    pub(super) most_at_it: usize,
}

/// Watches all Reports from before something begins until it has ended.
pub(super) async fn seen_during<T>(
    lab: &Lab,
    work: impl Future<Output = Result<T>> + Send,
) -> Result<(T, Seen)> {
    let mut stream = watcher(lab.reports(), watcher::Config::default()).applied_objects().boxed();
    let (mut seen, mut permits, mut at_it) = (Seen::default(), BTreeMap::new(), BTreeSet::new());
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok((done?, seen)),
            event = stream.next() => {
                let report = event.context("the watch ended")?.context("the watch failed")?;
                let node = report.spec.node_name.clone();
                let is_permitted = report.spec.permit.disruption > Disruption::None;
                if is_permitted {
                    seen.granted.insert(node.clone());
                }
                // One whose end was told is used up, also before it is taken back.
                let is_over = report.status.as_ref().is_some_and(|status| {
                    status.permit_id == report.spec.permit.id
                        && matches!(status.phase, ReportPhase::Ready | ReportPhase::Left)
                });
                let one = (report.spec.node_bootstrap.clone(), node.clone());
                permits.insert(one, is_permitted && !is_over);
                seen.most = seen.most.max(permits.values().filter(|permitted| **permitted).count());
                let ready = report.status.filter(|status| status.phase == ReportPhase::Ready);
                let ready = ready.map(|status| status.revision);
                if ready.as_ref() == Some(&report.spec.revision) {
                    at_it.remove(&node);
                } else {
                    at_it.insert(node.clone());
                }
                seen.most_at_it = seen.most_at_it.max(at_it.len());
                seen.ready.extend(ready.map(|revision| (node, revision)));
            }
        }
    }
}

/// How often a unit's program has ended with status 3 on a machine.
pub(super) async fn ends_with_3(lab: &Lab, node: &str, unit: &str) -> Result<usize> {
    let journal = lab.host(node, &["journalctl", "-u", unit, "-o", "cat"]).await?;
    Ok(journal.matches("status=3").count())
}

/// The unit is restarted once on each node, and never are two nodes permitted at once. While the restart of one is watched,
/// drift of something else there does not wait.
pub(crate) async fn a_restart_takes_one_node_at_a_time(lab: &Lab) -> Result<()> {
    let with = |interval: u32| {
        format!(
            "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: restart}}\nspec:\n  allNodes: true\n  \
             directories: [{{path: /opt/pulse}}]\n  files:\n  - path: /etc/pulse.conf\n    content: \"INTERVAL={interval}\\n\"\n    onChange: {{restart: [pulse.service]}}\n  \
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

    let edit = async {
        lab.apply(&with(2)).await?;
        let first = wait_for("the first restart", PATIENCE, || async {
            for (node, before, _) in &before {
                let now = started(node).await?;
                if !now.is_empty() && now != *before {
                    return Ok(Some(*node));
                }
            }
            Ok(None)
        });
        let first = first.await?;
        let begin = Instant::now();
        lab.host(first, &["rmdir", "/opt/pulse"]).await?;
        lab.wait_host(first, &["stat", "-c", "%a", "/opt/pulse"], "755").await?;
        let took = begin.elapsed();
        let phase = lab.report("restart", first).await?.status.map(|status| status.phase);
        ensure!(phase == Some(ReportPhase::Applying), "{first}: {phase:?}, repaired only after the watch");
        ensure!(took < Duration::from_secs(6), "{first}: repaired after {took:?}");
        lab.ready("restart").await
    };
    let (nb, Seen { granted, most, .. }) = seen_during(lab, edit).await?;
    ensure!(most == 1 && granted.len() == 3, "{most} at once, {granted:?} in all");
    ensure!(nb.status.is_some_and(|status| status.nodes.ready == 3));
    for (node, before, before_starts) in before {
        ensure!(started(node).await? != before, "{node}: not restarted");
        ensure!(starts(node).await? == before_starts + 1, "{node}: restarted more than once");
    }
    Ok(())
}

/// Two NodeBootstraps that each restart something on a node of its own, applied together.
pub(crate) async fn two_node_bootstraps_take_one_node_at_a_time_together(lab: &Lab) -> Result<()> {
    let with = |(name, node): (&str, &str), interval: u32| {
        format!(
            "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: {name}}}\nspec:\n  \
             nodeSelector: {{matchLabels: {{kubernetes.io/hostname: {node}}}}}\n  \
             files:\n  - path: /etc/{name}.conf\n    content: \"INTERVAL={interval}\\n\"\n    onChange: {{restart: [{name}.service]}}\n  \
             units:\n  - name: {name}.service\n    active: true\n    content: |\n      [Service]\n      \
             ExecStart=/usr/bin/sleep infinity\n      # What is permitted lasts long enough to meet another.\n      \
             ExecStartPre=/usr/bin/sleep 1\n"
        )
    };
    for interval in [1, 2] {
        let apply = async {
            for one in [("one", "worker1"), ("other", "worker2")] {
                lab.apply(&with(one, interval)).await?;
            }
            lab.ready("one").await?;
            lab.ready("other").await
        };
        let (_, seen) = seen_during(lab, apply).await?;
        ensure!(seen.most <= 1, "{} at once", seen.most);
        let granted = if interval == 1 { 0 } else { 2 };
        ensure!(seen.granted.len() == granted, "{:?} were permitted", seen.granted);
    }
    Ok(())
}

/// A new revision is given to a node only when the one before has it, and the first time too; the status says who waits.
pub(crate) async fn with_max_parallel_one_node_after_the_other_gets_a_revision(lab: &Lab) -> Result<()> {
    let (_, digest) = lab.publish("turns", &[7; 800_000])?;
    let url = format!("{}/slow/400000/files/turns", lab.testbed.artifacts_url()?);
    let with = |number: u32, binaries: &str| {
        format!(
            "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: turns}}\nspec:\n  allNodes: true\n  \
             rollout: {{maxParallel: 1}}\n  files: [{{path: /etc/turns, content: \"{number}\"}}]\n{binaries}"
        )
    };
    let first = async {
        lab.apply(&with(1, "")).await?;
        lab.ready("turns").await
    };
    let (nb, seen) = seen_during(lab, first).await?;
    ensure!(seen.most_at_it == 1, "{} at once", seen.most_at_it);
    ensure!(nb.status.is_some_and(|status| status.nodes.ready == 3));

    let slow = format!(
        "  binaries: [{{path: /usr/local/bin/turns, url: \"{url}\", sha256: {{amd64: {digest}, arm64: {digest}}}}}]\n"
    );
    let edit = async {
        lab.apply(&with(2, &slow)).await?;
        let waits = "worker2 wait for their turn (rollout.maxParallel)";
        let nb = lab.wait("turns", waits, |nb| message(nb, "Reconciling").contains(waits)).await?;
        let status = nb.status.as_ref().context("a status")?;
        ensure!(status.nodes.pending == 2, "{status:?}");
        lab.ready("turns").await
    };
    let (nb, seen) = seen_during(lab, edit).await?;
    ensure!(seen.most_at_it == 1, "{} at once", seen.most_at_it);
    ensure!(nb.status.is_some_and(|status| status.nodes.ready == 3));
    Ok(())
}

/// The first node that fails is the last: the others run on with what they have, however often that one tries again.
pub(crate) async fn a_restart_that_fails_stops_the_rollout(lab: &Lab) -> Result<()> {
    let with = |mode: &str| {
        format!(
            "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: fragile}}\nspec:\n  allNodes: true\n  \
             files:\n  - path: /etc/fragile.conf\n    content: \"MODE={mode}\\n\"\n    onChange: {{restart: [fragile.service]}}\n  \
             units:\n  - name: fragile.service\n    enabled: true\n    active: true\n    content: |\n      [Service]\n      \
             EnvironmentFile=/etc/fragile.conf\n      \
             ExecStart=/bin/sh -c '[ $MODE = good ] && exec sleep infinity; exit 3'\n      \
             [Install]\n      WantedBy=multi-user.target\n"
        )
    };
    let invocation = async |node: &str| {
        let property = ["systemctl", "show", "-P", "InvocationID", "fragile.service"];
        lab.host(node, &property).await
    };
    lab.apply(&with("good")).await?;
    let good = lab.ready("fragile").await?.status.context("a status")?;
    let mut before = BTreeMap::new();
    for node in lab.nodes()? {
        before.insert(node.clone(), invocation(&node).await?);
    }

    let has_stopped = |nb: &NodeBootstrap| {
        let counts = nb.status.as_ref().map(|status| status.nodes).unwrap_or_default();
        is_current(nb) && is(nb, "Stalled") && counts.failed == 1 && counts.pending == 2
    };
    let edit = async {
        lab.apply(&with("bad")).await?;
        let nb = lab.wait("fragile", "stopped at one node", has_stopped).await?;
        let status = nb.status.as_ref().context("a status")?;
        let failed = status.results.first().context("a result")?.node.clone();
        let begun = ends_with_3(lab, &failed, "fragile.service").await?;
        testbed::wait_for(&format!("{failed} to try again three times"), PATIENCE, || async {
            Ok((ends_with_3(lab, &failed, "fragile.service").await? >= begun + 3).then_some(()))
        })
        .await?;
        Ok(nb)
    };
    let (nb, seen) = seen_during(lab, edit).await?;
    let status = nb.status.as_ref().context("a status")?;
    let failed = status.results.first().context("a result")?;
    ensure!(failed.phase == NodePhase::Failed, "{failed:?}");
    for told in [failed.message.as_str(), message(&nb, "Ready")] {
        ensure!(told.contains("fragile.service") && told.contains("status 3"), "{told}");
    }
    ensure!(message(&nb, "Ready").starts_with(&failed.node), "{}", message(&nb, "Ready"));
    ensure!(reason(&nb, "Stalled") == "RolloutStopped", "{nb:?}");
    ensure!(message(&nb, "Stalled").contains(&failed.node), "{}", message(&nb, "Stalled"));
    ensure!(!is(&nb, "Ready") && !is(&nb, "Reconciling"), "{nb:?}");
    ensure!(seen.granted.iter().eq([&failed.node]), "{:?} were permitted", seen.granted);
    let bad = status.update_revision.clone().context("a revision")?;
    ensure!(!seen.ready.iter().any(|(_, revision)| *revision == bad), "Ready: {:?}", seen.ready);
    let still = lab.node_bootstrap("fragile").await?;
    ensure!(has_stopped(&still) && !is(&still, "Ready"), "{still:?}");
    let others: Vec<_> = before.iter().filter(|(node, _)| **node != failed.node).collect();
    let undisturbed = async || {
        for (node, before) in &others {
            ensure!(lab.host(node, &["systemctl", "is-active", "fragile.service"]).await? == "active");
            ensure!(invocation(node).await? == **before, "{node}: restarted");
            ensure!(lab.host(node, &["cat", "/etc/fragile.conf"]).await? == "MODE=good", "{node}");
        }
        Ok(())
    };
    undisturbed().await?;

    lab.apply(&with("good")).await?;
    let nb = lab.ready("fragile").await?;
    let status = nb.status.context("a status")?;
    ensure!(status.nodes.ready == 3 && status.current_revision == good.current_revision, "{status:?}");
    ensure!(lab.host(&failed.node, &["systemctl", "is-active", "fragile.service"]).await? == "active");
    undisturbed().await
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
