//! `make demo`: a cluster on this machine, the operator installed as a user would, the seed's example applied, and what
//! came of it beside what the machines themselves say. It stays up.

use std::time::Instant;

use anyhow::{Context, Result};
use comfy_table::{Table, presets};
use crds::NodeBootstrap;
use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use testbed::{Testbed, UpOptions};

use crate::lab::{Lab, is, is_current, message};
use crate::programs;

/// The testbed's id.
pub(crate) const ID: &str = "demo";
const NODES: [&str; 3] = ["cp1", "worker1", "worker2"];

pub(crate) async fn run() -> Result<()> {
    println!("== A cluster: cp1, worker1, worker2, and worker3, a bare machine");
    println!("(the first time, Kubernetes is built from source: about 10 min; later runs take seconds)");
    let bare = vec!["worker3".to_owned()];
    let testbed = Testbed::up(UpOptions { bare, ..UpOptions::new(ID) }).await?;
    println!("== Operator and agent, as images on the machines");
    programs::import(&testbed, &[]).await?;
    let lab = Lab::new(testbed).await?;
    println!("$ kubectl apply -k deploy");
    lab.install().await?;

    let file = lab.testbed.dir().join("seed.yaml");
    std::fs::write(&file, lab.seed_example().await?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    println!("== The seed's page as declared state: deploy/examples/seed.yaml, downloads from this machine");
    println!("$ kubectl apply -f {}", file.display());
    let begin = Instant::now();
    print!("{}", lab.kubectl(&["apply", "-f", &file.display().to_string()]).await?);
    follow(&lab, "seed", begin).await?;
    println!("\n$ kubectl get nb,nbr");
    print!("{}", lab.kubectl(&["get", "nb,nbr"]).await?);
    println!("\n== What the machines say");
    println!("{}", truth(&lab).await?);
    drift(&lab).await?;

    let kubectl = lab.testbed.kubectl_path()?;
    println!("\n== Look around");
    println!("export KUBECONFIG={}", lab.testbed.kubeconfig().display());
    println!("export PATH=$PATH:{}", kubectl.parent().unwrap_or(&kubectl).display());
    println!("kubectl get nb,nbr; kubectl explain nodebootstrap.spec; kubectl describe nb seed");
    println!("{}/testbed exec worker1 -- bash     # a shell on a machine", programs::folder()?.display());
    println!("make clean-demo                     # end it");
    Ok(())
}

/// Prints each new state of a NodeBootstrap until it is Ready.
async fn follow(lab: &Lab, name: &str, begin: Instant) -> Result<()> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut states = watcher(lab.node_bootstraps(), config).applied_objects().boxed();
    let mut last = String::new();
    let done = async {
        while let Some(state) = states.next().await {
            let nb = state.context("the watch failed")?;
            let line = line(&nb);
            if line != last {
                println!("{:6.2} s  {line}", begin.elapsed().as_secs_f32());
                last = line;
            }
            if is_current(&nb) && is(&nb, "Ready") && !is(&nb, "Reconciling") {
                return Ok(());
            }
        }
        anyhow::bail!("the watch ended")
    };
    tokio::time::timeout(crate::lab::PATIENCE, done).await.context("it does not become Ready")?
}

fn line(nb: &NodeBootstrap) -> String {
    let nodes = nb.status.as_ref().map(|status| status.nodes).unwrap_or_default();
    format!(
        "selected {}, updating {}, ready {}, failed {}: {}",
        nodes.selected,
        nodes.updating,
        nodes.ready,
        nodes.failed,
        message(nb, "Ready")
    )
}

/// What the machines' own programs say of what was declared.
async fn truth(lab: &Lab) -> Result<Table> {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(["", NODES[0], NODES[1], NODES[2]]);
    let asked: [(&str, &[&str]); 6] = [
        ("getent passwd kubernetes", &["getent", "passwd", "kubernetes"]),
        ("stat /etc/kubernetes", &["stat", "-c", "%U:%G %a", "/etc/kubernetes"]),
        ("stat /etc/kubernetes/pki", &["stat", "-c", "%U:%G %a", "/etc/kubernetes/pki"]),
        ("stat kubelet", &["stat", "-c", "%U:%G %a %s bytes", "/usr/local/sbin/kubelet"]),
        ("sha256sum kubelet", &["sha256sum", "/usr/local/sbin/kubelet"]),
        ("systemctl is-active kubelet-version", &["systemctl", "is-active", "kubelet-version"]),
    ];
    for (what, words) in asked {
        let mut row = vec![what.to_owned()];
        for node in NODES {
            let said = lab.host(node, words).await?;
            row.push(if what.starts_with("sha256sum") {
                format!("{}…", &said[..16.min(said.len())])
            } else {
                said
            });
        }
        table.add_row(row);
    }
    let digest = testbed::artifacts::sha256_of(&lab.kubelet()?).await?;
    table.add_row(["what the server has".to_owned(), format!("{}…", &digest[..16])]);
    Ok(table)
}

/// Somebody deletes a directory: it is noticed, repaired, and told.
async fn drift(lab: &Lab) -> Result<()> {
    println!("\n== Somebody deletes a directory on worker1");
    println!("$ rm -r /etc/kubernetes/pki");
    let begin = Instant::now();
    lab.host("worker1", &["rm", "-r", "/etc/kubernetes/pki"]).await?;
    let report = lab
        .wait_report("seed", "worker1", "told of the directory", |report| {
            report.status.as_ref().is_some_and(|status| status.message.contains("/etc/kubernetes/pki"))
        })
        .await?;
    let message = report.status.map(|status| status.message).unwrap_or_default();
    println!("{:6.2} s  worker1: {message}", begin.elapsed().as_secs_f32());
    println!("         stat: {}", lab.stat("worker1", "/etc/kubernetes/pki").await?);
    Ok(())
}
