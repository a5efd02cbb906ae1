//! A testbed with the operator on it, and what scenarios do with it. In goes YAML as a user would write it, out comes
//! what the API and the machines say.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use crds::names::NAMESPACE;
use crds::{NodeBootstrap, NodeBootstrapReport, names};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client};
use testbed::{Testbed, wait_for};

use crate::programs::{self, workspace};

/// How long a condition may take: far more than it should, so that only what never comes fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A testbed with the operator on it.
pub(crate) struct Lab {
    pub(crate) testbed: Testbed,
    pub(crate) client: Client,
    applied: AtomicU32,
}

/// Waits until the API server serves what a CRD says. Not by `kubectl wait`: it fails where the CRD has no status yet.
pub(crate) async fn established(client: &Client, crd: &str) -> Result<()> {
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let is_established = await_condition(crds, crd, conditions::is_crd_established());
    let waited = tokio::time::timeout(Duration::from_secs(30), is_established).await;
    waited.with_context(|| format!("the CRD {crd} is not established after 30 s"))??;
    Ok(())
}

impl Lab {
    pub(crate) async fn new(testbed: Testbed) -> Result<Lab> {
        let client = testbed.client().await?;
        Ok(Lab { testbed, client, applied: AtomicU32::new(0) })
    }

    /// Installs the operator as the README says, and waits until it is there.
    pub(crate) async fn install(&self) -> Result<()> {
        let deploy = workspace().join("deploy");
        self.kubectl(&["apply", "-k", &deploy.display().to_string()]).await?;
        established(&self.client, "nodebootstraps.nodebootstrap.io").await?;
        self.operator_available().await
    }

    pub(crate) async fn operator_available(&self) -> Result<()> {
        let place = ["-n", NAMESPACE, "deployment/nodebootstrap-operator", "--timeout=90s"];
        self.kubectl(&[&["rollout", "status"], &place[..]].concat()).await.map(drop)
    }

    /// kubectl's output; an error if it fails.
    pub(crate) async fn kubectl(&self, words: &[&str]) -> Result<String> {
        let output = self.testbed.kubectl(words).await?.ok();
        output.with_context(|| format!("kubectl {}", words.join(" ")))
    }

    /// `kubectl apply -f` of a text; what it printed, warnings included, or why it was refused.
    pub(crate) async fn apply(&self, yaml: &str) -> Result<String> {
        let number = self.applied.fetch_add(1, Ordering::Relaxed);
        let file = self.testbed.dir().join(format!("applied-{number}.yaml"));
        std::fs::write(&file, yaml).with_context(|| format!("cannot write {}", file.display()))?;
        let output = self.testbed.kubectl(&["apply", "-f", &file.display().to_string()]).await?;
        let warnings = output.stderr.clone();
        Ok(output.ok()? + &warnings)
    }

    /// `kubectl apply` that must be refused; what the user reads.
    pub(crate) async fn refused(&self, yaml: &str) -> Result<String> {
        match self.apply(yaml).await {
            Ok(_) => bail!("was accepted:\n{yaml}"),
            Err(error) => Ok(format!("{error:#}")),
        }
    }

    pub(crate) async fn delete(&self, name: &str) -> Result<()> {
        self.kubectl(&["delete", "nb", name, "--timeout=90s"]).await.map(drop)
    }

    pub(crate) fn node_bootstraps(&self) -> Api<NodeBootstrap> {
        Api::all(self.client.clone())
    }

    pub(crate) fn reports(&self) -> Api<NodeBootstrapReport> {
        Api::all(self.client.clone())
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    pub(crate) fn daemon_sets(&self) -> Api<DaemonSet> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    pub(crate) async fn node_bootstrap(&self, name: &str) -> Result<NodeBootstrap> {
        self.node_bootstraps().get(name).await.with_context(|| format!("NodeBootstrap {name}"))
    }

    pub(crate) async fn report(&self, name: &str, node: &str) -> Result<NodeBootstrapReport> {
        let report = names::report(name, node);
        self.reports().get(&report).await.with_context(|| format!("NodeBootstrapReport {report}"))
    }

    /// Waits until a NodeBootstrap is so; the error tells how it is instead.
    pub(crate) async fn wait(
        &self,
        name: &str,
        what: &str,
        is_so: impl Fn(&NodeBootstrap) -> bool,
    ) -> Result<NodeBootstrap> {
        let condition = |object: Option<&NodeBootstrap>| object.is_some_and(&is_so);
        let wait = await_condition(self.node_bootstraps(), name, condition);
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(found) => found.context("the watch failed")?.context("no such NodeBootstrap"),
            Err(_) => bail!("NodeBootstrap {name}: not {what} in {PATIENCE:?}:\n{}", self.told(name).await),
        }
    }

    /// Waits until a NodeBootstrap is Ready at its newest generation.
    pub(crate) async fn ready(&self, name: &str) -> Result<NodeBootstrap> {
        self.wait(name, "Ready", |nb| is_current(nb) && is(nb, "Ready") && !is(nb, "Reconciling")).await
    }

    /// Waits until a Report is so.
    pub(crate) async fn wait_report(
        &self,
        name: &str,
        node: &str,
        what: &str,
        is_so: impl Fn(&NodeBootstrapReport) -> bool,
    ) -> Result<NodeBootstrapReport> {
        let report = names::report(name, node);
        let condition = |object: Option<&NodeBootstrapReport>| object.is_some_and(&is_so);
        let wait = await_condition(self.reports(), &report, condition);
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(found) => found.context("the watch failed")?.context("no such Report"),
            Err(_) => bail!("Report {report}: not {what} in {PATIENCE:?}:\n{}", self.told(name).await),
        }
    }

    /// Waits until objects of a kind are no longer there.
    pub(crate) async fn wait_gone(&self, kind: &str, words: &[&str]) -> Result<()> {
        wait_for(&format!("{kind} {words:?} to go"), PATIENCE, || async {
            let left = self.kubectl(&[&["get", kind, "-o", "name"], words].concat()).await?;
            Ok(left.trim().is_empty().then_some(()))
        })
        .await
    }

    /// What the API says of a NodeBootstrap, for an error.
    async fn told(&self, name: &str) -> String {
        let mut text = String::new();
        if let Ok(nb) = self.node_bootstrap(name).await {
            let _ = writeln!(text, "generation {:?}", nb.metadata.generation);
            let _ = writeln!(text, "{}", serde_saphyr::to_string(&nb.status).unwrap_or_default());
        }
        for report in self.reports().list(&ListParams::default()).await.into_iter().flatten() {
            let _ = writeln!(text, "{} {:?} {:?}", report.spec.node_name, report.spec, report.status);
        }
        text
    }

    /// The output of a command on a machine; an error if it fails.
    pub(crate) async fn host(&self, machine: &str, words: &[&str]) -> Result<String> {
        let output = self.testbed.machine(machine)?.exec(words).await?.ok();
        Ok(output.with_context(|| format!("{machine}: {}", words.join(" ")))?.trim_end().to_owned())
    }

    /// Whether a command on a machine succeeds.
    pub(crate) async fn host_succeeds(&self, machine: &str, words: &[&str]) -> Result<bool> {
        Ok(self.testbed.machine(machine)?.exec(words).await?.success())
    }

    /// Puts the agent's program onto a machine, for use by hand; where it lies there.
    pub(crate) fn put_agent(&self, machine: &str) -> Result<&'static str> {
        let agent = "/root/nodebootstrap-agent";
        let inside = self.testbed.machine(machine)?.root().join(agent.trim_start_matches('/'));
        std::fs::copy(programs::folder()?.join("nodebootstrap-agent"), &inside)
            .with_context(|| format!("cannot copy the agent to {}", inside.display()))?;
        Ok(agent)
    }

    /// Owner, group, mode and kind of a path on a machine, as in `kubernetes:kubernetes 755 directory`.
    pub(crate) async fn stat(&self, machine: &str, path: &str) -> Result<String> {
        self.host(machine, &["stat", "-c", "%U:%G %a %F", path]).await
    }

    /// Waits until a command on a machine prints this.
    pub(crate) async fn wait_host(&self, machine: &str, words: &[&str], expected: &str) -> Result<()> {
        wait_for(&format!("{machine}: {} to print {expected:?}", words.join(" ")), PATIENCE, || async {
            let output = self.testbed.machine(machine)?.exec(words).await?;
            Ok((output.stdout.trim_end() == expected).then_some(()))
        })
        .await
    }

    /// The agent's pod of a NodeBootstrap on a node.
    pub(crate) async fn agent_pod(&self, name: &str, node: &str) -> Result<Pod> {
        let params = ListParams::default()
            .labels(&format!("{}={name},{}=agent", names::LABEL_NODE_BOOTSTRAP, names::LABEL_COMPONENT))
            .fields(&format!("spec.nodeName={node}"));
        let pods = self.pods().list(&params).await.context("cannot list pods")?;
        let alive = pods.items.into_iter().find(|pod| pod.metadata.deletion_timestamp.is_none());
        alive.with_context(|| format!("no agent of {name} on {node}"))
    }

    /// A worker that the operator does not run on, so that taking it away takes only an agent.
    pub(crate) async fn expendable_worker(&self) -> Result<&'static str> {
        let operators = ListParams::default().labels("app.kubernetes.io/name=nodebootstrap-operator");
        let pods = self.pods().list(&operators).await.context("cannot list pods")?;
        let on = |node: &str| {
            pods.iter().any(|pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node))
        };
        Ok(if on("worker2") { "worker1" } else { "worker2" })
    }

    /// The names of the nodes that are machines of this testbed, sorted.
    pub(crate) fn nodes(&self) -> Result<Vec<String>> {
        let machines = self.testbed.machines()?;
        Ok(machines.iter().filter(|machine| !machine.is_bare()).map(|m| m.name().to_owned()).collect())
    }

    /// Takes away what a scenario left, so that the next one finds the cluster as the first did.
    pub(crate) async fn reset(&self) -> Result<()> {
        if !self.testbed.kubectl(&["get", "crd", "nodebootstraps.nodebootstrap.io"]).await?.success()
            || !self.testbed.kubectl(&["get", "namespace", NAMESPACE]).await?.success()
        {
            self.install().await?;
        }
        self.operator_available().await?;
        let gone = self.testbed.kubectl(&["delete", "nb", "--all", "--timeout=60s"]).await?;
        if !gone.success() {
            println!("            NodeBootstraps did not go by themselves: {}", gone.stderr.trim());
            self.strip_finalizers().await?;
        }
        self.wait_gone("nbr", &[]).await?;
        self.wait_gone("daemonsets", &["-n", NAMESPACE]).await?;
        self.wait_gone("pods", &["-n", NAMESPACE, "-l", "nodebootstrap.io/component=agent"]).await?;
        let ours = ["-n", NAMESPACE, "-l", "nodebootstrap-e2e=true"];
        self.kubectl(&[&["delete", "configmaps,secrets"], &ours[..]].concat()).await?;
        Ok(())
    }

    /// The README's line for NodeBootstraps whose operator is gone.
    pub(crate) async fn strip_finalizers(&self) -> Result<()> {
        for nb in self.node_bootstraps().list(&ListParams::default()).await.context("cannot list")? {
            let name = nb.metadata.name.unwrap_or_default();
            let patch = r#"{"metadata":{"finalizers":null}}"#;
            self.kubectl(&["patch", "nb", &name, "--type=merge", "-p", patch]).await?;
        }
        Ok(())
    }

    /// Publishes a file for download; its URL and its digest.
    pub(crate) fn publish(&self, name: &str, content: &[u8]) -> Result<(String, String)> {
        use sha2::Digest as _;
        Ok((self.testbed.publish(name, content)?, hex::encode(sha2::Sha256::digest(content))))
    }

    /// Publishes an archive of programs, each with its path and its content; its URL and its digest. By its name it is a
    /// tar.gz or a plain tar: to compress large ones takes long, as these programs are built.
    pub(crate) fn publish_archive(
        &self,
        name: &str,
        programs: &[(&str, impl AsRef<[u8]>)],
    ) -> Result<(String, String)> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, content) in programs {
            let content = content.as_ref();
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            archive.append_data(&mut header, path, content)?;
        }
        let archive = archive.into_inner()?;
        if name.ends_with(".tar") {
            return self.publish(name, &archive);
        }
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(&archive)?;
        self.publish(name, &gzip.finish()?)
    }

    /// `deploy/examples/archives.yaml` with small archives of the testbed's server in place of the true ones.
    pub(crate) fn archives_example(&self) -> Result<String> {
        let file = workspace().join("deploy/examples/archives.yaml");
        let text =
            std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let programs =
            [("./LICENSE", "free"), ("./example", "#!/bin/sh\n"), ("./crictl", "#!/bin/sh\necho crictl\n")];
        let (url, digest) = self.publish_archive("example.tgz", &programs)?;
        let ours = |line: &str| match line.split_once("url: ") {
            Some((before, _)) => format!("{before}url: {url}"),
            None => line.replace(&"0".repeat(64), &digest),
        };
        Ok(text.lines().map(ours).collect::<Vec<_>>().join("\n"))
    }

    /// `deploy/examples/seed.yaml` with the testbed's server in place of the internet, and the digest of what it serves.
    pub(crate) async fn seed_example(&self) -> Result<String> {
        self.example("seed", "kubelet").await
    }

    /// An example that downloads a program of Kubernetes, with the testbed's server in place of the internet and of
    /// every proxy, and the digest of what it serves.
    pub(crate) async fn example(&self, name: &str, program: &str) -> Result<String> {
        let file = workspace().join(format!("deploy/examples/{name}.yaml"));
        let text =
            std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let program = self.kubelet()?.with_file_name(program);
        let digest = testbed::artifacts::sha256_of(&program).await?;
        let server = self.testbed.artifacts_url()?;
        let own = text
            .replace("https://dl.k8s.io", &server)
            .replace("http://proxy.example.com:3128", &server)
            .replace(&format!("amd64: \"{}\"", "0".repeat(64)), &format!("amd64: \"{digest}\""))
            .replace(&format!("arm64: \"{}\"", "0".repeat(64)), &format!("arm64: \"{digest}\""));
        ensure!(own.contains(&digest) && !own.contains("dl.k8s.io/"), "the example has changed its form");
        Ok(own)
    }

    /// The true kubelet, as the testbed serves it.
    pub(crate) fn kubelet(&self) -> Result<std::path::PathBuf> {
        Ok(self.testbed.kubectl_path()?.with_file_name("kubelet"))
    }
}

/// Whether a condition of a NodeBootstrap is True.
pub(crate) fn is(nb: &NodeBootstrap, condition: &str) -> bool {
    find(nb, condition).is_some_and(|condition| condition.status == "True")
}

/// Whether the status speaks of the newest spec.
pub(crate) fn is_current(nb: &NodeBootstrap) -> bool {
    nb.status.as_ref().and_then(|status| status.observed_generation) == nb.metadata.generation
}

/// The message of a condition; empty if it is not there.
pub(crate) fn message<'a>(nb: &'a NodeBootstrap, condition: &str) -> &'a str {
    find(nb, condition).map_or("", |condition| condition.message.as_str())
}

/// The reason of a condition; empty if it is not there.
pub(crate) fn reason<'a>(nb: &'a NodeBootstrap, condition: &str) -> &'a str {
    find(nb, condition).map_or("", |condition| condition.reason.as_str())
}

fn find<'a>(
    nb: &'a NodeBootstrap,
    condition: &str,
) -> Option<&'a k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    nb.status.as_ref()?.conditions.iter().find(|found| found.type_ == condition)
}
