//! `make bench`: the figures of `docs/benchmarks.md`, each measured now, on a testbed of its own, and printed as one table.
//!
//! | module | what is measured in it |
//! |---|---|
//! | [`peers`] | a pass and a download on one machine, beside what others do for the same |
//! | [`drift`] | from a change behind the agent's back until it is put right |

mod drift;
mod peers;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use comfy_table::{Table, presets};
use crds::NodeBootstrap;
use crds::report::ReportPhase;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, watcher};
use testbed::{Testbed, UpOptions};

use crate::lab::{Lab, is, is_current};
use crate::programs;
use crate::scenario::is_ours;

/// The testbed's id.
pub(crate) const ID: &str = "bench";
const NODES: usize = 3;
const ROUNDS: usize = 3;
const REST: Duration = Duration::from_secs(60);

/// What can be measured alone.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Applies, edits, and what goes on at rest
    Cluster,
    /// From a change behind the agent's back until it is put right
    Drift,
    /// Passes and downloads, beside what others do for the same
    Peers,
}

/// Measures these parts, or all.
pub(crate) async fn run(only: &[Part]) -> Result<()> {
    Testbed::down_id(ID).await?;
    let testbed = Testbed::up(UpOptions::new(ID)).await?;
    let outcome = measure(&testbed, only).await;
    testbed.down().await?;
    println!("{}", outcome?);
    Ok(())
}

async fn measure(testbed: &Testbed, only: &[Part]) -> Result<Table> {
    programs::import(testbed, &[]).await?;
    let lab = Lab::new(testbed.clone()).await?;
    lab.install().await?;
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(["what", "median", "all", "to hold"]);
    for part in [Part::Cluster, Part::Drift, Part::Peers] {
        if !only.is_empty() && !only.contains(&part) {
            continue;
        }
        let rows = match part {
            Part::Cluster => cluster(&lab).await?,
            Part::Drift => drift::measure(&lab).await?,
            Part::Peers => peers::measure(&lab).await?,
        };
        table.add_rows(rows);
        lab.reset().await?;
    }
    Ok(table)
}

/// One line of the table: what, the median, each time, and what is promised.
type Row = [String; 4];

fn row(what: &str, values: &[Duration], hold: &str) -> Row {
    let all: Vec<_> = values.iter().map(|value| shown(*value)).collect();
    [what.to_owned(), shown(median(values)), all.join(" "), hold.to_owned()]
}

fn shown(value: Duration) -> String {
    match value.as_secs_f64() {
        short if short < 0.1 => format!("{:.2} ms", short * 1000.0),
        long => format!("{long:.2} s"),
    }
}

/// The moments of one apply.
struct Moments {
    agents_running: Duration,
    agents_done: Duration,
    ready: Duration,
    daemon_set: Duration,
}

async fn cluster(lab: &Lab) -> Result<Vec<Row>> {
    let seed = lab.seed_example().await?;

    let mut bare = Vec::new();
    let mut applies = Vec::new();
    for _ in 0..ROUNDS {
        bare.push(bare_daemon_set(lab).await?);
        wipe(lab).await?;
        applies.push(apply(lab, "seed", &seed).await?);
        if applies.len() < ROUNDS {
            lab.delete("seed").await?;
            lab.reset().await?;
        }
    }
    let mut edits = Vec::new();
    for round in 0..ROUNDS {
        edits.push(edit(lab, round).await?);
    }
    crate::scenario::settled(lab).await?;
    let cursor = lab.testbed.audit_cursor().await?;
    tokio::time::sleep(REST).await;
    let writes = lab.testbed.audit_since(cursor).await?.iter().filter(|event| is_ours(event)).count();

    let of = |part: fn(&Moments) -> Duration| applies.iter().map(part).collect::<Vec<_>>();
    let (with_kubectl, alone): (Vec<_>, Vec<_>) = edits.into_iter().unzip();
    let at_rest = |what: &str, value: String, hold: &str| [what, &value, "", hold].map(str::to_owned);
    Ok(vec![
        row("seed: kubectl apply to Ready, 3 machines", &of(|m| m.ready), "< 3 s"),
        row("  operator: apply to DaemonSet made", &of(|m| m.daemon_set), ""),
        row("  DaemonSet made to agents running", &of(|m| m.agents_running.saturating_sub(m.daemon_set)), ""),
        row("  a bare DaemonSet, made to running", &bare, ""),
        row(
            "  agents running to the last one done",
            &of(|m| m.agents_done.saturating_sub(m.agents_running)),
            "",
        ),
        row("  last agent done to Ready", &of(|m| m.ready.saturating_sub(m.agents_done)), ""),
        row("edit of one file: kubectl apply to Ready", &with_kubectl, ""),
        row("  of that, from the edit being stored", &alone, "< 0.5 s"),
        at_rest("agent at rest, resident", memory(lab, "nodebootstrap-agent run").await?, "< 15 MB"),
        at_rest("operator at rest, resident", memory(lab, "^/nodebootstrap-operator").await?, ""),
        at_rest("writes to the API at rest, in 60 s", writes.to_string(), "0"),
    ])
}

fn median(values: &[Duration]) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Applies a NodeBootstrap and notes when what happened.
async fn apply(lab: &Lab, name: &str, yaml: &str) -> Result<Moments> {
    let mut pods = watcher(lab.pods(), watcher::Config::default()).applied_objects().boxed();
    let mut sets = watcher(lab.daemon_sets(), watcher::Config::default()).applied_objects().boxed();
    let mut reports = watcher(lab.reports(), watcher::Config::default()).applied_objects().boxed();
    let begin = Instant::now();
    lab.apply(yaml).await?;
    let daemon_set = async {
        sets.next().await.context("no DaemonSet")??;
        anyhow::Ok(begin.elapsed())
    };
    let agents_running = async {
        let mut seen = BTreeSet::new();
        while seen.len() < NODES {
            let pod = pods.next().await.context("no pod")??;
            if is_running(&pod) && pod.metadata.name.as_deref().is_some_and(|pod| pod.contains(name)) {
                seen.insert(pod.metadata.name);
            }
        }
        anyhow::Ok(begin.elapsed())
    };
    let agents_done = async {
        let mut seen = BTreeSet::new();
        while seen.len() < NODES {
            let report = reports.next().await.context("no Report")??;
            if report.status.is_some_and(|status| status.phase == ReportPhase::Ready) {
                seen.insert(report.spec.node_name);
            }
        }
        anyhow::Ok(begin.elapsed())
    };
    let ready = async {
        lab.ready(name).await?;
        anyhow::Ok(begin.elapsed())
    };
    let (daemon_set, agents_running, agents_done, ready) =
        tokio::try_join!(daemon_set, agents_running, agents_done, ready)?;
    Ok(Moments { daemon_set, agents_running, agents_done, ready })
}

fn is_running(pod: &Pod) -> bool {
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    containers.is_some_and(|all| {
        !all.is_empty() && all.iter().all(|c| c.state.as_ref().is_some_and(|s| s.running.is_some()))
    })
}

/// A DaemonSet that does nothing, from its making until its pods run: Kubernetes' own part.
async fn bare_daemon_set(lab: &Lab) -> Result<Duration> {
    let mut pods = watcher(lab.pods(), watcher::Config::default()).applied_objects().boxed();
    let begin = Instant::now();
    lab.apply(
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: bare, namespace: nodebootstrap-system}\nspec:\n  \
         selector: {matchLabels: {app: bare}}\n  template:\n    metadata: {labels: {app: bare}}\n    spec:\n      \
         hostNetwork: true\n      tolerations: [{operator: Exists}]\n      containers:\n      - name: bare\n        \
         image: nodebootstrap/pause:1\n        imagePullPolicy: IfNotPresent\n",
    )
    .await?;
    let mut seen = BTreeSet::new();
    while seen.len() < NODES {
        let pod = pods.next().await.context("no pod")??;
        if is_running(&pod) && pod.metadata.name.as_deref().is_some_and(|pod| pod.starts_with("bare-")) {
            seen.insert(pod.metadata.name);
        }
    }
    let took = begin.elapsed();
    let place = ["-n", "nodebootstrap-system"];
    lab.kubectl(&[&["delete", "daemonset", "bare"], &place[..]].concat()).await?;
    lab.wait_gone("pods", &["-n", "nodebootstrap-system", "-l", "app=bare"]).await?;
    Ok(took)
}

/// Takes from the machines what the seed puts there, so that each round does all of it.
async fn wipe(lab: &Lab) -> Result<()> {
    let script = "systemctl disable --now -q kubelet-version.service 2>/dev/null; \
        rm -f /usr/local/sbin/kubelet /etc/systemd/system/kubelet-version.service; rm -rf /etc/kubernetes/pki; \
        chown -R root:root /etc/kubernetes; userdel kubernetes 2>/dev/null; groupdel kubernetes 2>/dev/null; systemctl daemon-reload";
    for node in lab.nodes()? {
        lab.host(&node, &["sh", "-c", script]).await?;
    }
    Ok(())
}

/// An edit, from the start of kubectl and from when the API server has it: kubectl itself reads schemas in between.
async fn edit(lab: &Lab, round: usize) -> Result<(Duration, Duration)> {
    let yaml = |content: usize| {
        format!(
            "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: edit}}\nspec:\n  allNodes: true\n  \
             files: [{{path: /etc/edit, content: \"{content}\"}}]\n"
        )
    };
    if round == 0 {
        lab.apply(&yaml(0)).await?;
        lab.ready("edit").await?;
    }
    // Opened before, so that what is measured is not how long a new watch takes.
    let mut states = watcher(lab.node_bootstraps(), watcher::Config::default()).applied_objects().boxed();
    let is_done = |nb: &NodeBootstrap| is_current(nb) && is(nb, "Ready") && !is(nb, "Reconciling");
    let is_edit = |nb: &NodeBootstrap| nb.metadata.name.as_deref() == Some("edit");
    let first = loop {
        let nb = states.next().await.context("the watch ended")??;
        if is_edit(&nb) {
            break nb.metadata.generation;
        }
    };
    let begin = Instant::now();
    let followed = async {
        let mut stored = None;
        loop {
            let nb = states.next().await.context("the watch ended")??;
            if !is_edit(&nb) || nb.metadata.generation <= first {
                continue;
            }
            let stored = stored.get_or_insert_with(Instant::now);
            if is_done(&nb) {
                return anyhow::Ok((begin.elapsed(), stored.elapsed()));
            }
        }
    };
    let yaml = yaml(round + 1);
    let (applied, followed) = tokio::join!(lab.apply(&yaml), followed);
    applied?;
    followed
}

/// Resident memory of the processes of a command line, on all machines: the largest.
async fn memory(lab: &Lab, pattern: &str) -> Result<String> {
    let mut most = 0;
    for node in lab.nodes()? {
        let script = format!("for p in $(pgrep -f '{pattern}'); do grep VmRSS /proc/$p/status; done; true");
        let said = lab.host(&node, &["sh", "-c", &script]).await?;
        let sizes = said.lines().filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        most = most.max(sizes.max().unwrap_or_default());
    }
    Ok(format!("{:.1} MB", most as f64 / 1024.0))
}
