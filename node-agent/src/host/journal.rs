//! What a unit wrote last: by the host's journalctl, which alone can read every journal's format.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// How long it may take.
const ANSWER: Duration = Duration::from_secs(5);
/// The most that is read, in bytes.
const MAX: u64 = 64 << 10;

/// The last lines that a unit of the system that this program runs on wrote since a time (seconds since 1970), the newest
/// last. Empty if they cannot be had: they only explain what is told anyway.
pub async fn last_lines(unit: &str, since: i64, lines: usize) -> Vec<String> {
    let read = async {
        // What was written a moment ago may be on its way still.
        let mut sync = Command::new("journalctl");
        let sync = sync.arg("--sync").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let _ = sync.kill_on_drop(true).status().await;
        let mut child = Command::new("journalctl")
            // With a time to begin at, --lines alone would be the first ones after it.
            .args(["--quiet", "--no-pager", "--output=cat", "--reverse"])
            .args([format!("--lines={lines}"), format!("--since=@{since}"), format!("--unit={unit}")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        let mut text = Vec::new();
        child.stdout.take()?.take(MAX).read_to_end(&mut text).await.ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    };
    let text = tokio::time::timeout(ANSWER, read).await.ok().flatten().unwrap_or_default();
    text.lines().rev().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}
