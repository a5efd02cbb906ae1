//! What users copy: each file of `deploy/examples` is applied as it is, but for where downloads come from.

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;
use crate::programs::workspace;

pub(crate) async fn each_example_works(lab: &Lab) -> Result<()> {
    let folder = workspace().join("deploy/examples");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("no {}", folder.display()))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    ensure!(names.len() >= 5, "examples are missing: {names:?}");
    names.sort();
    for file in names {
        // By convention the NodeBootstrap has the file's name.
        let name = file.strip_suffix(".yaml").context("an example is a .yaml file")?;
        let text = match name {
            "seed" => lab.seed_example().await?,
            "archives" => lab.archives_example()?,
            "downloads" => lab.example("downloads", "kubectl").await?,
            "kubelet" => lab.example("kubelet", "kubelet").await?,
            _ => std::fs::read_to_string(folder.join(&file))?,
        };
        // How long a node is looked at is no matter of these.
        let text = if ["kubelet", "containerd"].contains(&name) {
            text + "  health: {stableFor: 1s}\n"
        } else {
            text
        };
        lab.apply(&text).await.with_context(|| file.clone())?;
        let nb = lab.ready(name).await.with_context(|| file.clone())?;
        let counts = nb.status.context("a status")?.nodes;
        ensure!(counts.selected > 0 && counts.ready == counts.selected, "{file}: {counts:?}");
        lab.delete(name).await?;
    }
    for (node, path, expected) in [
        ("worker1", "/etc/motd", "root:root 644 regular file"),
        ("worker2", "/etc/crictl.yaml", "root:root 644 regular file"),
        ("cp1", "/var/lib/registry-auth/config.json", "root:root 600 regular file"),
        ("worker1", "/usr/local/bin/kubectl", "root:root 755 regular file"),
        ("worker1", "/opt/cni/bin/example", "root:root 755 regular file"),
        ("worker2", "/usr/local/bin/crictl", "root:root 755 regular file"),
        ("worker1", "/etc/heartbeat.conf", "heartbeat:heartbeat 640 regular file"),
    ] {
        // Retain: what was made stays.
        ensure!(lab.stat(node, path).await? == expected, "{node} {path}: {}", lab.stat(node, path).await?);
    }
    ensure!(lab.host("worker2", &["systemctl", "is-active", "heartbeat"]).await? == "active");
    ensure!(
        !lab.host_succeeds("worker1", &["test", "-e", "/var/lib/registry-auth"]).await?,
        "on a worker too"
    );
    lab.kubectl(&[
        "delete",
        "-n",
        "nodebootstrap-system",
        "configmap/motd",
        "configmap/corporate-ca",
        "secret/registry",
    ])
    .await
    .map(drop)
}
