//! Links, parts of files, modes inside directories, drop-ins, masks, memberships, comments, locks and kernel settings: made,
//! repaired, and put back, on a real systemd and a real kernel. The machines share one kernel, so that only a setting of
//! their own network namespaces is touched.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::reverts::{looks, same};
use crate::lab::Lab;

const SETTING: &str = "/proc/sys/net/ipv4/conf/all/log_martians";

const TIMER: &str = "systemd-tmpfiles-clean.timer";

const YAML: &str = r#"
apiVersion: nodebootstrap.io/v1alpha1
kind: NodeBootstrap
metadata: {name: kinds}
spec:
  allNodes: true
  deletionPolicy: Revert
  drift: {interval: 10s}
  groups: [{name: extra}]
  users: [{name: games, groups: [extra], comment: ours, locked: true}]
  symlinks: [{path: /opt/kinds, target: ../etc/issue}]
  fileParts:
  - {path: /etc/hosts, name: kinds, block: "10.96.0.50 registry.kinds\n"}
  - {path: /etc/kinds/theirs, name: kinds, line: "A=ours", replaces: "A="}
  directories:
  - {path: /etc/kinds, group: games, recursive: true, inside: {fileMode: "0640", directoryMode: "0750"}}
  units:
  - name: kinds.service
    content: |
      [Service]
      ExecStart=/usr/bin/sleep infinity
    active: true
    dropIns: [{name: 10-nice.conf, content: "[Service]\nNice=7\n"}]
  - {name: systemd-tmpfiles-clean.timer, active: false, masked: true}
  kernel: {sysctls: {net.ipv4.conf.all.log_martians: "1"}}
"#;

/// What of them a machine shows, in one line.
const SHOWN: &str = "readlink /opt/kinds; getent group extra | cut -d: -f4; getent passwd games | cut -d: -f5; \
    grep -c '^games:!' /etc/shadow; systemctl show -P Nice kinds.service; \
    tail -1 /etc/systemd/system/kinds.service.d/10-nice.conf; systemctl is-active kinds.service; \
    systemctl is-enabled systemd-tmpfiles-clean.timer; getent hosts registry.kinds; paste -s -d, /etc/kinds/theirs; \
    stat -c '%G %a' /etc/kinds/theirs /etc/kinds/folder | paste -s -d,; cat /proc/sys/net/ipv4/conf/all/log_martians";

/// What is done by hand to each kind. Kernel settings give no signal: those who change them wait for the interval.
const DRIFTS: &[(&str, &str)] = &[
    ("a symbolic link", "ln -sfn /nowhere /opt/kinds"),
    ("a membership", "sed -i '/^extra:/s/games//' /etc/group"),
    ("a user's comment", "sed -i 's/:ours:/:theirs:/' /etc/passwd"),
    ("a user's lock", "sed -i 's/^games:!/games:/' /etc/shadow"),
    ("a block in a file", "sed -i s/registry.kinds/other.kinds/ /etc/hosts"),
    ("a line of a file", "sed -i s/A=ours/A=theirs/ /etc/kinds/theirs"),
    ("a mode inside a directory", "chmod 0666 /etc/kinds/theirs"),
    ("a mask", "systemctl unmask systemd-tmpfiles-clean.timer"),
    ("a service", "systemctl stop kinds.service"),
    ("a kernel setting", "echo 0 > /proc/sys/net/ipv4/conf/all/log_martians"),
    // The last: for ten seconds the service that it restarts is watched, and nothing else.
    ("a drop-in", "rm /etc/systemd/system/kinds.service.d/10-nice.conf"),
];

pub(crate) async fn each_kind_is_made_repaired_and_put_back(lab: &Lab) -> Result<()> {
    let theirs = "mkdir -p -m 0711 /etc/kinds/folder; printf 'A=theirs\\nB=theirs\\n' > /etc/kinds/theirs; \
                  chmod 0604 /etc/kinds/theirs";
    for node in lab.nodes()? {
        lab.host(&node, &["sh", "-c", theirs]).await?;
    }
    let before = looks(lab).await?;
    let mut settings = Vec::new();
    for node in lab.nodes()? {
        settings.push(lab.host(&node, &["cat", SETTING]).await?);
    }
    let timer = lab.host("worker1", &["systemctl", "show", "-P", "ActiveState", TIMER]).await?;

    lab.apply(YAML).await?;
    lab.ready("kinds").await?;
    let made = "../etc/issue\ngames\nours\n1\n7\nNice=7\nactive\nmasked\n10.96.0.50      registry.kinds\nA=ours,B=theirs\n\
                games 640,games 750\n1";
    for node in lab.nodes()? {
        lab.wait_host(&node, &["sh", "-c", SHOWN], made).await?;
    }

    for (what, drift) in DRIFTS {
        let begin = Instant::now();
        lab.host("worker1", &["sh", "-c", drift]).await?;
        lab.wait_host("worker1", &["sh", "-c", SHOWN], made).await.with_context(|| what.to_string())?;
        println!("{:11.2} s  until what was done to {what} was put right", begin.elapsed().as_secs_f32());
    }
    lab.ready("kinds").await?;

    lab.delete("kinds").await?;
    same(&before, &looks(lab).await?)?;
    for (node, setting) in lab.nodes()?.iter().zip(settings) {
        ensure!(lab.host(node, &["cat", SETTING]).await? == setting, "{node}");
    }
    for node in lab.nodes()? {
        lab.host(&node, &["rm", "-r", "/etc/kinds"]).await?;
    }
    let now = lab.host("worker1", &["systemctl", "show", "-P", "ActiveState", TIMER]).await?;
    ensure!(now == timer, "{now}, before: {timer}");
    Ok(())
}
