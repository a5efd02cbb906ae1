//! What a network does to downloads; each has its words in the status, and leaves nothing on the host.

use anyhow::{Context, Result, ensure};
use crds::NodeBootstrap;
use crds::report::ReportPhase;

use crate::lab::{Lab, is, message};

fn yaml(name: &str, urls: &[&str], digest: &str) -> String {
    let mirrors = urls[1..].join(", ");
    format!(
        "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: {name}}}\nspec:\n  \
         nodeSelector: {{matchLabels: {{kubernetes.io/hostname: worker1}}}}\n  binaries:\n  - path: /usr/local/bin/{name}\n    \
         url: {}\n    mirrors: [{mirrors}]\n    sha256: {{amd64: {digest}, arm64: {digest}}}\n",
        urls[0]
    )
}

/// Applies it, waits for the failure, and sees that all of `words` are in the Report and in the NodeBootstrap.
async fn fails(lab: &Lab, name: &str, url: &str, digest: &str, reason: &str, words: &[&str]) -> Result<()> {
    lab.apply(&yaml(name, &[url], digest)).await?;
    let report = lab
        .wait_report(name, "worker1", "Failed", |report| {
            report.status.as_ref().is_some_and(|status| status.phase == ReportPhase::Failed)
        })
        .await?;
    let status = report.status.context("a status")?;
    ensure!(status.reason == reason, "{}: {}", status.reason, status.message);
    let has_failed = |nb: &NodeBootstrap| nb.status.as_ref().is_some_and(|status| status.nodes.failed == 1);
    let nb = lab.wait(name, "failed", has_failed).await?;
    ensure!(!is(&nb, "Ready") && message(&nb, "Ready").contains("worker1"), "{}", message(&nb, "Ready"));
    for word in words {
        ensure!(status.message.contains(word), "no {word:?} in {:?}", status.message);
        ensure!(message(&nb, "Ready").contains(word), "no {word:?} in {:?}", message(&nb, "Ready"));
    }
    let left = lab.host("worker1", &["find", "/usr/local/bin", "-type", "f"]).await?;
    ensure!(!left.contains(name), "left on the host: {left}");
    let events = lab
        .kubectl(&[
            "get",
            "events",
            "-A",
            "-o",
            "custom-columns=N:.regarding.name,M:.note,O:.involvedObject.name,E:.message",
        ])
        .await?;
    ensure!(
        events.lines().any(|line| line.contains(name) && line.contains("worker1")),
        "no Event:\n{events}"
    );
    Ok(())
}

pub(crate) async fn a_wrong_digest_is_told_and_nothing_is_left(lab: &Lab) -> Result<()> {
    let (url, digest) = lab.publish("tool", b"\x7fELF this is the tool")?;
    let wrong = "0123456789abcdef".repeat(4);
    fails(
        lab,
        "digest",
        &url,
        &wrong,
        "DigestMismatch",
        &["/usr/local/bin/digest", &wrong[..12], &digest[..12]],
    )
    .await?;
    // The digest mended is all that it takes.
    lab.apply(&yaml("digest", &[&url], &digest)).await?;
    lab.ready("digest").await?;
    ensure!(lab.stat("worker1", "/usr/local/bin/digest").await? == "root:root 755 regular file");
    Ok(())
}

pub(crate) async fn a_missing_file_is_told(lab: &Lab) -> Result<()> {
    let url = format!("{}/404/tool", lab.testbed.artifacts_url()?);
    fails(lab, "missing", &url, &"a".repeat(64), "DownloadFailed", &["404", "/404/tool"]).await
}

pub(crate) async fn a_web_page_in_place_of_a_program_is_told(lab: &Lab) -> Result<()> {
    let url = format!("{}/html/tool", lab.testbed.artifacts_url()?);
    fails(lab, "page", &url, &"a".repeat(64), "NotAProgram", &["web page", "/html/tool"]).await
}

pub(crate) async fn a_redirect_is_followed(lab: &Lab) -> Result<()> {
    let (_, digest) = lab.publish("redirected", b"\x7fELF redirected")?;
    let url = format!("{}/redirect/3/files/redirected", lab.testbed.artifacts_url()?);
    lab.apply(&yaml("redirect", &[&url], &digest)).await?;
    lab.ready("redirect").await?;
    let sum = lab.host("worker1", &["sha256sum", "/usr/local/bin/redirect"]).await?;
    ensure!(sum.starts_with(&digest), "{sum}");
    Ok(())
}

pub(crate) async fn a_mirror_stands_in(lab: &Lab) -> Result<()> {
    let (url, digest) = lab.publish("mirrored", &[b"\x7fELF".as_slice(), &[7; 100_000]].concat())?;
    let base = lab.testbed.artifacts_url()?;
    let (cut, flaky) =
        (format!("{base}/truncated/files/mirrored"), format!("{base}/flaky/1/mirror/files/mirrored"));
    lab.apply(&yaml("mirror", &[&cut, &flaky, &url], &digest)).await?;
    lab.ready("mirror").await?;
    let sum = lab.host("worker1", &["sha256sum", "/usr/local/bin/mirror"]).await?;
    ensure!(sum.starts_with(&digest), "{sum}");
    Ok(())
}
