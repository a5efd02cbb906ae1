//! What is put back: when an entry leaves the spec, when a NodeBootstrap is deleted with `deletionPolicy: Revert`, and by
//! hand on a node that was away then.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use testbed::wait_for;

use crate::lab::{Lab, PATIENCE};

/// What a NodeBootstrap may touch on a machine: each path with kind, owner, mode, size and target; accounts; units.
const LOOK: &str = "find /etc /usr/local /opt -xdev ! -path '/etc/kubernetes/*.lock' ! -name .pwd.lock \
    -printf '%p %y %u:%g %m %s %l\\n' | sort; \
    find /etc /usr/local -xdev -type f ! -name .pwd.lock -print0 | sort -z | xargs -0 sha256sum; \
    systemctl list-unit-files --no-legend --no-pager | sort; systemctl list-units --no-legend --no-pager --plain 'kubelet-version*'";

pub(super) async fn looks(lab: &Lab) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for node in lab.nodes()? {
        all.push(lab.host(&node, &["sh", "-c", LOOK]).await?);
    }
    Ok(all)
}

/// An error with the lines that differ.
pub(super) fn same(before: &[String], after: &[String]) -> Result<()> {
    for (before, after) in before.iter().zip(after) {
        let (before, after): (BTreeSet<_>, BTreeSet<_>) = (before.lines().collect(), after.lines().collect());
        let gone: Vec<_> = before.difference(&after).collect();
        let come: Vec<_> = after.difference(&before).collect();
        ensure!(gone.is_empty() && come.is_empty(), "gone: {gone:#?}\ncome: {come:#?}");
    }
    Ok(())
}

/// The seed's page, and an edit of what the machines have already, on three machines; then all of it deleted.
pub(crate) async fn reverted_three_machines_are_as_before(lab: &Lab) -> Result<()> {
    let extra = "  deletionPolicy: Revert\n  files:\n  - {path: /etc/issue, content: ours, mode: \"0600\"}\n  \
                 - {path: /etc/new/deep/file, content: new}\n  directories:\n  - {path: /etc/new/deep}\n";
    let seed = lab.seed_example().await?;
    // The example's own lists come after these.
    let yaml = seed.replace("  directories:\n", extra);
    ensure!(yaml.contains("deletionPolicy") && yaml.matches("directories:").count() == 1, "{yaml}");
    // What an earlier one of this name left here with Retain is its own again, and goes too: only then is it "before".
    lab.apply(&yaml).await?;
    lab.ready("seed").await?;
    lab.delete("seed").await?;
    let before = looks(lab).await?;
    ensure!(before.iter().all(|look| !look.contains("kubelet-version")), "{before:?}");

    lab.apply(&yaml).await?;
    lab.ready("seed").await?;
    ensure!(lab.host("worker1", &["cat", "/etc/issue"]).await? == "ours");
    ensure!(looks(lab).await? != before);

    lab.delete("seed").await?;
    same(&before, &looks(lab).await?)?;
    for node in lab.nodes()? {
        let kept = lab.host(&node, &["ls", "-A", "/var/lib/nodebootstrap"]).await?;
        ensure!(!kept.contains("seed"), "{kept}");
    }
    Ok(())
}

/// Only what left goes; what somebody changed meanwhile is left, and the Report says so.
pub(crate) async fn an_entry_that_leaves_the_spec_is_put_back(lab: &Lab) -> Result<()> {
    let with = |files: &str| {
        format!(
            "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: less}}\nspec:\n  allNodes: true\n  \
             files: [{{path: /etc/stays, content: stays}}{files}]\n"
        )
    };
    let issue = lab.host("worker1", &["cat", "/etc/issue"]).await?;
    lab.apply(&with(", {path: /etc/issue, content: ours}, {path: /etc/goes, content: goes}")).await?;
    lab.ready("less").await?;
    ensure!(lab.host("worker1", &["cat", "/etc/issue"]).await? == "ours");
    lab.apply(&with("")).await?;
    lab.ready("less").await?;
    for node in lab.nodes()? {
        ensure!(lab.host(&node, &["cat", "/etc/issue"]).await? == issue, "{node}");
        ensure!(!lab.host_succeeds(&node, &["test", "-e", "/etc/goes"]).await?, "{node}");
        ensure!(lab.host_succeeds(&node, &["test", "-e", "/etc/stays"]).await?, "{node}");
    }
    let status = lab.report("less", "worker1").await?.status.context("a status")?;
    let lines: Vec<_> = status.changes.iter().map(|c| format!("{}: {}", c.resource, c.change)).collect();
    ensure!(
        lines.iter().any(|line| line == "file /etc/goes: remove")
            && lines.iter().any(|line| line.starts_with("file /etc/issue: content, ")),
        "{lines:?}"
    );
    Ok(())
}

/// Away while the NodeBootstrap was deleted, a machine keeps what it has, until somebody says so on it.
pub(crate) async fn a_machine_that_was_away_is_reverted_by_hand(lab: &Lab) -> Result<()> {
    let yaml = "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {name: away}\nspec:\n  allNodes: true\n  \
                deletionPolicy: Revert\n  leaveTimeout: 5s\n  files: [{path: /etc/issue, content: ours}]\n";
    let away = lab.expendable_worker().await?;
    let issue = lab.host(away, &["cat", "/etc/issue"]).await?;
    lab.apply(yaml).await?;
    lab.ready("away").await?;
    lab.testbed.stop_machine(away).await?;
    let deleted = lab.delete("away").await;
    lab.testbed.start_machine(away).await?;
    lab.kubectl(&["wait", "--for=condition=Ready", &format!("node/{away}"), "--timeout=90s"]).await?;
    deleted?;
    wait_for("the agent to end", PATIENCE, || async {
        Ok((!lab.host_succeeds(away, &["pgrep", "-f", "nodebootstrap-agent run"]).await?).then_some(()))
    })
    .await?;
    // No 404 of the API has taken anything away.
    ensure!(lab.host(away, &["cat", "/etc/issue"]).await? == "ours");
    let agent = lab.put_agent(away)?;
    let said = lab.host(away, &[agent, "revert", "away"]).await?;
    ensure!(said.contains("1 change put back"), "{said}");
    ensure!(lab.host(away, &["cat", "/etc/issue"]).await? == issue);
    let again = lab.testbed.machine(away)?.exec(&[agent, "revert", "away"]).await?;
    ensure!(again.stderr.contains("nothing is known of a NodeBootstrap \"away\""), "{}", again.stderr);
    Ok(())
}
