//! The seed's page as declared state, applied, applied again, edited, and disturbed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crds::report::ReportPhase;

use crate::lab::{Lab, message};

const NODES: [&str; 3] = ["cp1", "worker1", "worker2"];

/// Whether a write was one of the operator or an agent.
pub(crate) fn is_ours(event: &testbed::AuditEvent) -> bool {
    event.is_write() && event.user.starts_with("system:serviceaccount:nodebootstrap-system:")
}

/// Each step of the page, and what the machines say of it.
pub(crate) async fn the_seed_page_as_declared_state(lab: &Lab) -> Result<()> {
    lab.apply(&lab.seed_example().await?).await?;
    let nb = lab.ready("seed").await?;
    let counts = nb.status.as_ref().context("a status")?.nodes;
    ensure!(
        counts.selected == 3 && counts.ready == 3 && counts.updated == 3 && counts.failed == 0,
        "{counts:?}"
    );
    let digest = testbed::artifacts::sha256_of(&lab.kubelet()?).await?;
    for node in NODES {
        let passwd = lab.host(node, &["getent", "passwd", "kubernetes"]).await?;
        let fields: Vec<_> = passwd.split(':').collect();
        ensure!(fields[5] == "/etc/kubernetes" && fields[6] == "/usr/sbin/nologin", "{passwd}");
        let uid: u32 = fields[2].parse()?;
        ensure!((100..1000).contains(&uid), "no system user: {passwd}");
        let group = lab.host(node, &["getent", "group", "kubernetes"]).await?;
        ensure!(group.split(':').nth(2) == Some(fields[3]), "{passwd} {group}");
        let shadow = lab.host(node, &["getent", "shadow", "kubernetes"]).await?;
        ensure!(shadow.split(':').nth(1).is_some_and(|hash| hash.starts_with('!')), "not locked");
        lab.host(node, &["pwck", "-r", "-q"]).await.or_else(|error| {
            // Accounts of the image itself have homes that are not there; ours must not be among what it tells.
            if error.to_string().contains("kubernetes") { Err(error) } else { Ok(String::new()) }
        })?;
        ensure!(lab.stat(node, "/etc/kubernetes").await? == "kubernetes:kubernetes 755 directory");
        ensure!(lab.stat(node, "/etc/kubernetes/pki").await? == "kubernetes:kubernetes 700 directory");
        // The machine's own files in there came before; chown -R reaches them too.
        ensure!(lab.stat(node, "/etc/kubernetes/kubelet.conf").await?.starts_with("kubernetes:kubernetes "));
        ensure!(lab.stat(node, "/usr/local/sbin/kubelet").await? == "root:root 755 regular file");
        let sum = lab.host(node, &["sha256sum", "/usr/local/sbin/kubelet"]).await?;
        ensure!(sum.starts_with(&digest), "{sum}");
        ensure!(lab.host(node, &["systemctl", "is-active", "kubelet-version"]).await? == "active");
        ensure!(lab.host(node, &["systemctl", "is-enabled", "kubelet-version"]).await? == "enabled");
        let said = lab.host(node, &["journalctl", "-u", "kubelet-version", "-o", "cat"]).await?;
        ensure!(said.contains("Kubernetes v1.36"), "{said}");
        let status = lab.report("seed", node).await?.status.context("a status")?;
        ensure!(
            status.warnings.iter().any(|w| w.contains("/bin/nologin") && w.contains("/usr/sbin/nologin")),
            "{status:?}"
        );
        ensure!(status.changes_total >= 6, "{status:?}");
        let left = lab.host(node, &["find", "/etc", "/usr/local", "-name", ".*nodebootstrap*"]).await?;
        ensure!(left.is_empty(), "left behind: {left}");
    }
    let table = lab.kubectl(&["get", "nb"]).await?;
    for column in ["SELECTED", "UPDATED", "READY", "FAILED", "AGE", "MESSAGE"] {
        ensure!(table.contains(column), "{table}");
    }
    let table = lab.kubectl(&["get", "nbr"]).await?;
    for word in ["NODE", "PHASE", "REVISION", "MESSAGE", "worker1", "Ready"] {
        ensure!(table.contains(word), "{table}");
    }
    Ok(())
}

/// No write to the API and no change on a host: the audit log and the hosts' times of change say so.
pub(crate) async fn a_second_apply_changes_nothing(lab: &Lab) -> Result<()> {
    let yaml = lab.seed_example().await?;
    lab.apply(&yaml).await?;
    lab.ready("seed").await?;
    // What follows the last status: Events, the pods' readiness, the agents' own second look.
    settled(lab).await?;
    let times = async || {
        let words = [
            "sh",
            "-c",
            "stat -c '%n %z' /etc/passwd /etc/group /etc/shadow /etc/kubernetes /etc/kubernetes/pki \
            /usr/local/sbin /usr/local/sbin/kubelet /etc/systemd/system/kubelet-version.service",
        ];
        lab.host("worker1", &words).await
    };
    let before = times().await?;
    let cursor = lab.testbed.audit_cursor().await?;
    lab.apply(&yaml).await?;
    // As it would come from a GitOps tool: another field manager, the same content.
    lab.kubectl(&["annotate", "nb", "seed", "example.com/touched=yes"]).await?;
    lab.host("worker1", &["touch", "/etc/kubernetes/kubelet.conf"]).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let writes: Vec<_> = lab.testbed.audit_since(cursor).await?.into_iter().filter(is_ours).collect();
    ensure!(writes.is_empty(), "written: {writes:#?}");
    ensure!(times().await? == before, "the host was changed");
    Ok(())
}

/// Waits until neither operator nor agents have written anything for three seconds.
pub(crate) async fn settled(lab: &Lab) -> Result<()> {
    testbed::wait_for("the operator and the agents to come to rest", Duration::from_secs(60), || async {
        let cursor = lab.testbed.audit_cursor().await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        Ok((!lab.testbed.audit_since(cursor).await?.iter().any(is_ours)).then_some(()))
    })
    .await
}

pub(crate) async fn an_edit_of_one_file_reaches_all_nodes(lab: &Lab) -> Result<()> {
    let with = |content: &str| {
        format!(
            "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: edit}}\nspec:\n  allNodes: true\n  \
             files:\n  - {{path: /etc/edit-one, content: \"{content}\"}}\n  - {{path: /etc/edit-two, content: same}}\n"
        )
    };
    lab.apply(&with("first")).await?;
    let first = lab.ready("edit").await?;
    let inode = async |node: &str| lab.host(node, &["stat", "-c", "%i %z", "/etc/edit-two"]).await;
    let untouched = inode("worker2").await?;
    lab.apply(&with("second")).await?;
    let second = lab.ready("edit").await?;
    for node in NODES {
        ensure!(lab.host(node, &["cat", "/etc/edit-one"]).await? == "second", "{node}");
        let status = lab.report("edit", node).await?.status.context("a status")?;
        ensure!(
            status.changes_total == 1 && status.changes[0].resource.contains("/etc/edit-one"),
            "{status:?}"
        );
    }
    ensure!(inode("worker2").await? == untouched, "the other file was written again");
    let (first, second) = (first.status.context("a status")?, second.status.context("a status")?);
    ensure!(
        first.update_revision != second.update_revision && second.current_revision == second.update_revision
    );
    // Back to what it was is the revision that it was.
    lab.apply(&with("first")).await?;
    ensure!(lab.ready("edit").await?.status.context("a status")?.update_revision == first.update_revision);
    Ok(())
}

/// The standing permit repairs what disturbs nothing; the Report says what it was.
pub(crate) async fn what_is_changed_by_hand_is_noticed(lab: &Lab) -> Result<()> {
    lab.apply(
        "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {name: drift}\nspec:\n  allNodes: true\n  \
         directories: [{path: /opt/drift/inner, mode: \"0750\"}]\n  files: [{path: /opt/drift/file, content: ours}]\n",
    )
    .await?;
    lab.ready("drift").await?;
    lab.host("worker1", &["rm", "-r", "/opt/drift/inner"]).await?;
    lab.wait_report("drift", "worker1", "told of the directory", |report| {
        report.status.as_ref().is_some_and(|status| {
            status.phase == ReportPhase::Ready && status.message.contains("/opt/drift/inner")
        })
    })
    .await?;
    ensure!(lab.stat("worker1", "/opt/drift/inner").await? == "root:root 750 directory");
    lab.host("worker1", &["sh", "-c", "echo theirs > /opt/drift/file; chmod 0666 /opt/drift/file"]).await?;
    lab.wait_host("worker1", &["sh", "-c", "cat /opt/drift/file; stat -c %a /opt/drift/file"], "ours644")
        .await?;
    let nb = lab.ready("drift").await?;
    ensure!(message(&nb, "Ready").contains("3 of 3"), "{}", message(&nb, "Ready"));
    Ok(())
}
