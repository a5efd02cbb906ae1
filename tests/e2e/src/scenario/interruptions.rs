//! What ends in the middle of its work, and what goes away for a while.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::{DeleteParams, ListParams};

use crate::lab::{Lab, is_current};

/// Kills every process of a name on a machine, at once and without a word.
async fn kill(lab: &Lab, machine: &str, program: &str) -> Result<()> {
    // Names of processes are cut to 15 characters.
    lab.host_succeeds(machine, &["pkill", "-KILL", &program[..15.min(program.len())]]).await.map(drop)
}

pub(crate) async fn operator_and_agents_killed_in_the_middle_come_back(lab: &Lab) -> Result<()> {
    // So slow that there is a middle: about six seconds.
    let (_, digest) = lab.publish("slow", &[7; 3_000_000])?;
    let url = format!("{}/slow/500000/files/slow", lab.testbed.artifacts_url()?);
    lab.apply(&format!(
        "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: killed}}\nspec:\n  allNodes: true\n  \
         files: [{{path: /etc/killed, content: x}}]\n  directories: [{{path: /opt/killed}}]\n  binaries: [{{path: /opt/killed/slow, url: \"{url}\", sha256: {{amd64: {digest}, arm64: {digest}}}}}]\n"
    ))
    .await?;
    let under_way = ["sh", "-c", "find /var/lib/nodebootstrap/.cache -name '*.part' -size +0 | grep -c ."];
    lab.wait_host("worker1", &under_way, "1").await?;
    for machine in lab.nodes()? {
        kill(lab, &machine, "nodebootstrap-agent").await?;
        kill(lab, &machine, "nodebootstrap-operator").await?;
    }
    ensure!(
        !lab.host_succeeds("worker1", &["test", "-e", "/opt/killed/slow"]).await?,
        "half a file is visible"
    );
    lab.ready("killed").await?;
    let counters = lab.testbed.artifact_counters().await?;
    ensure!(
        counters.get("range:/slow/500000/files/slow").is_some_and(|count| *count > 0),
        "fetched from the start, not gone on with: {counters:?}"
    );
    for machine in lab.nodes()? {
        let sum = lab.host(&machine, &["sha256sum", "/opt/killed/slow"]).await?;
        ensure!(sum.starts_with(&digest), "{machine}: {sum}");
        let files = lab.host(&machine, &["find", "/opt/killed", "-type", "f"]).await?;
        ensure!(files == "/opt/killed/slow", "{machine}: a stray file:\n{files}");
    }
    // Politely: the operator ends by itself at once, and the next one carries on.
    let operators = ListParams::default().labels("app.kubernetes.io/name=nodebootstrap-operator");
    let pod = lab.pods().list(&operators).await?.items.into_iter().next().context("an operator")?;
    let (name, uid) = (pod.metadata.name.context("a name")?, pod.metadata.uid.context("a uid")?);
    let begin = std::time::Instant::now();
    lab.pods().delete(&name, &DeleteParams::default()).await?;
    let gone =
        kube::runtime::wait::await_condition(lab.pods(), &name, kube::runtime::conditions::is_deleted(&uid));
    tokio::time::timeout(Duration::from_secs(30), gone).await.context("the operator ignores SIGTERM")??;
    ensure!(begin.elapsed() < Duration::from_secs(13), "killed, not ended: {:?}", begin.elapsed());
    lab.operator_available().await?;
    lab.apply(
        "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {name: after}\nspec:\n  allNodes: true\n  \
         files: [{path: /etc/after, content: x}]\n",
    )
    .await?;
    lab.ready("after").await.map(drop)
}

pub(crate) async fn an_outage_of_the_api_server_is_survived(lab: &Lab) -> Result<()> {
    let yaml = |content: &str| {
        format!(
            "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: outage}}\nspec:\n  allNodes: true\n  \
             files: [{{path: /etc/outage, content: {content}}}]\n"
        )
    };
    lab.apply(&yaml("before")).await?;
    lab.ready("outage").await?;
    lab.testbed.stop_apiserver().await?;
    // What disturbs nothing is repaired without the API too.
    lab.host("worker1", &["rm", "/etc/outage"]).await?;
    let repaired = lab.wait_host("worker1", &["cat", "/etc/outage"], "before").await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    lab.testbed.start_apiserver().await?;
    repaired?;
    lab.apply(&yaml("after")).await?;
    // One node that still counts as unreachable would not keep it from being Ready.
    lab.wait("outage", "ready on all nodes", |nb| {
        is_current(nb) && nb.status.as_ref().is_some_and(|status| status.nodes.ready == 3)
    })
    .await?;
    for machine in lab.nodes()? {
        ensure!(lab.host(&machine, &["cat", "/etc/outage"]).await? == "after");
    }
    Ok(())
}

/// Stored before a rule was there, or by an operator of another version: what the types cannot read.
pub(crate) async fn a_malformed_object_stops_no_other(lab: &Lab) -> Result<()> {
    let crd = "crd/nodebootstraps.nodebootstrap.io";
    let file = crate::programs::workspace().join("crds/nodebootstraps.yaml");
    let text = std::fs::read_to_string(&file)?;
    // The schema without its rules takes what the types refuse.
    let mut loose: serde_json::Value = serde_saphyr::from_str(&text)?;
    loose["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] =
        serde_json::json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let loose_file = lab.testbed.dir().join("loose-crd.json");
    std::fs::write(&loose_file, loose.to_string())?;
    lab.kubectl(&["apply", "-f", &loose_file.display().to_string()]).await?;
    let malformed = "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {name: malformed}\nspec:\n  \
        allNodes: 7\n  files: {no: list}\n";
    let taken = testbed::wait_for("the loose schema to hold", Duration::from_secs(20), || async {
        Ok(lab.apply(malformed).await.ok())
    })
    .await;
    lab.kubectl(&["apply", "-f", &file.display().to_string()]).await?;
    taken?;
    lab.kubectl(&["wait", "--for=condition=Established", crd]).await?;
    lab.apply(
        "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {name: wellformed}\nspec:\n  allNodes: true\n  \
         files: [{path: /etc/wellformed, content: x}]\n",
    )
    .await?;
    lab.ready("wellformed").await?;
    // An operator that starts with it there, too.
    for machine in lab.nodes()? {
        kill(lab, &machine, "nodebootstrap-operator").await?;
    }
    lab.apply(
        "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {name: wellformed}\nspec:\n  allNodes: true\n  \
         files: [{path: /etc/wellformed, content: \"y\"}]\n",
    )
    .await?;
    lab.ready("wellformed").await?;
    lab.kubectl(&["delete", "nb", "malformed", "--timeout=30s"]).await.map(drop)
}
