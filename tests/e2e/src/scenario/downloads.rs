//! What a network does to downloads; each has its words in the status, and leaves nothing on the host.

use anyhow::{Context, Result, ensure};
use crds::report::ReportPhase;
use crds::{NodeBootstrap, NodeBootstrapReport};

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

pub(crate) async fn a_download_that_takes_long_says_how_far_it_is(lab: &Lab) -> Result<()> {
    // About 14 seconds: there is a word after one second, and the next after eleven.
    let (_, digest) = lab.publish("long", &[7; 5_600_000])?;
    let url = format!("{}/slow/400000/files/long", lab.testbed.artifacts_url()?);
    lab.apply(&yaml("long", &[&url], &digest)).await?;
    let message = |report: &NodeBootstrapReport| report.status.clone().unwrap_or_default().message;
    let report = lab
        .wait_report("long", "worker1", "telling how far it is", |report| {
            message(report).contains("MB downloaded")
        })
        .await?;
    let told = message(&report);
    ensure!(
        told.starts_with("1 change under way, ") && told.contains(" of 5.60 MB downloaded, 0."),
        "{told}"
    );
    lab.ready("long").await.map(drop)
}

pub(crate) async fn a_file_that_is_on_the_node_is_taken(lab: &Lab) -> Result<()> {
    let place = "/opt/images/tool";
    lab.host("worker1", &["mkdir", "-p", "/opt/images"]).await?;
    lab.host("worker1", &["cp", "/usr/bin/env", place]).await?;
    let sum = lab.host("worker1", &["sha256sum", place]).await?;
    let digest = sum.split_whitespace().next().context("a digest")?;
    let missing = format!("{}/404/tool", lab.testbed.artifacts_url()?);
    lab.apply(&yaml("onnode", &[&missing, &format!("file://{place}")], digest)).await?;
    lab.ready("onnode").await?;
    let found = lab.host("worker1", &["sha256sum", "/usr/local/bin/onnode"]).await?;
    ensure!(found.starts_with(digest), "{found}");
    ensure!(lab.stat("worker1", "/usr/local/bin/onnode").await? == "root:root 755 regular file");
    Ok(())
}

pub(crate) async fn a_proxy_is_gone_through(lab: &Lab) -> Result<()> {
    let (_, digest) = lab.publish("proxied", b"\x7fELF proxied")?;
    // A host that nobody knows: only by way of the proxy, which the server of the testbed is too.
    let trust = format!("  trust: {{proxy: {{http: \"{}\"}}}}\n", lab.testbed.artifacts_url()?);
    let yaml = yaml("proxied", &["http://mirror.example.invalid/files/proxied"], &digest);
    lab.apply(&(yaml + &trust)).await?;
    lab.ready("proxied").await?;
    let found = lab.host("worker1", &["sha256sum", "/usr/local/bin/proxied"]).await?;
    ensure!(found.starts_with(&digest), "{found}");
    Ok(())
}
