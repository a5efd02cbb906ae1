//! How long it takes from a change behind the agent's back until it is put right, for each kind of thing.
//!
//! The change is made and its end awaited inside of the machine, so that the way there does not count.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{Row, row};
use crate::lab::Lab;

const MACHINE: &str = "worker1";
/// Fewer than what would count as a tug of war.
const ROUNDS: usize = 2;
/// After a repair its own signals are looked at once more.
const REST: Duration = Duration::from_secs(3);

/// Each kind has a thing of its own, so that nothing is repaired more than twice.
const SPEC: &str = r#"apiVersion: nodebootstrap.io/v1alpha1
kind: NodeBootstrap
metadata: {name: drifting}
spec:
  allNodes: true
  drift: {interval: 10s}
  groups: [{name: drifting}]
  users: [{name: drifting, group: drifting, home: /opt/drifting}]
  directories:
  - {path: /opt/drifting, owner: drifting}
  - {path: /opt/recursive, owner: drifting, recursive: true}
  files:
  - {path: /etc/drifting-content, content: ours}
  - {path: /etc/drifting-mode, content: ours}
  - {path: /etc/drifting-missing, content: ours}
  symlinks:
  - {path: /opt/drifting-link, target: drifting}
  kernel:
    sysctls: {net.ipv4.ip_default_ttl: "63"}
  units:
  - name: stopped.service
    active: true
    content: |
      [Service]
      ExecStart=/bin/sleep infinity
  - name: disabled.service
    enabled: true
    content: |
      [Service]
      ExecStart=/bin/sleep infinity
      [Install]
      WantedBy=multi-user.target
"#;

/// What is changed, how, and how it is told that it was put right.
const KINDS: &[(&str, &str, &str)] = &[
    (
        "a file's content",
        "echo theirs > /etc/drifting-content",
        "[ \"$(cat /etc/drifting-content)\" = ours ]",
    ),
    ("a file's mode", "chmod 600 /etc/drifting-mode", "[ \"$(stat -c %a /etc/drifting-mode)\" = 644 ]"),
    ("a file that is missing", "rm /etc/drifting-missing", "[ -e /etc/drifting-missing ]"),
    ("a directory's owner", "chown root /opt/drifting", "[ \"$(stat -c %U /opt/drifting)\" = drifting ]"),
    ("a link", "ln -sfn elsewhere /opt/drifting-link", "[ \"$(readlink /opt/drifting-link)\" = drifting ]"),
    (
        "a user's home",
        "sed -i 's|:/opt/drifting:|:/:|' /etc/passwd",
        "grep -q ^drifting:.*:/opt/drifting: /etc/passwd",
    ),
    ("a unit that was stopped", "systemctl stop stopped", "systemctl is-active -q stopped"),
    ("a unit that was disabled", "systemctl disable -q disabled", "systemctl is-enabled -q disabled"),
    (
        "below a recursive directory, by an interval of 10 s",
        "touch /opt/recursive/inside; chown root /opt/recursive/inside",
        "[ \"$(stat -c %U /opt/recursive/inside)\" = drifting ]",
    ),
    (
        "a kernel setting, by an interval of 10 s",
        "sysctl -qw net.ipv4.ip_default_ttl=62",
        "[ \"$(cat /proc/sys/net/ipv4/ip_default_ttl)\" = 63 ]",
    ),
];

/// Measures all kinds.
pub(super) async fn measure(lab: &Lab) -> Result<Vec<Row>> {
    lab.apply(SPEC).await?;
    lab.ready("drifting").await?;
    let mut rows = Vec::new();
    for (what, change, is_right) in KINDS {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            tokio::time::sleep(REST).await;
            let script = format!(
                "{change}; s=$(date +%s%N); until {is_right}; do sleep 0.005; done; e=$(date +%s%N); echo $((e - s))"
            );
            let said = lab.host(MACHINE, &["timeout", "60", "sh", "-c", &script]).await?;
            times.push(Duration::from_nanos(said.parse().with_context(|| format!("no time: {said}"))?));
        }
        let hold = if what.contains("interval") { "" } else { "< 2 s" };
        rows.push(row(&format!("drift: {what}"), &times, hold));
    }
    lab.delete("drifting").await?;
    Ok(rows)
}
