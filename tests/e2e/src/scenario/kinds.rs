//! Archives, links, drop-ins, masks, memberships, comments, locks and kernel settings: made, repaired, and put back, on a real systemd and
//! a real kernel. The machines share one kernel, so that only a setting of their own network namespaces is touched.

use anyhow::{Result, ensure};

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
  groups: [{name: extra}]
  users: [{name: games, groups: [extra], comment: ours, locked: true}]
  symlinks: [{path: /opt/kinds, target: ../etc/issue}]
  directories: [{path: /opt/tools}]
  archives:
  - {name: tools, url: "URL", sha256: {amd64: DIGEST, arm64: DIGEST}, into: /opt/tools, strip: 1, include: ["bin/*"]}
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
const SHOWN: &str = "ls /opt/tools /opt/tools/bin; /opt/tools/bin/tool; readlink /opt/kinds; getent group extra | cut -d: -f4; getent passwd games | cut -d: -f5; \
    grep -c '^games:!' /etc/shadow; systemctl show -P Nice kinds.service; \
    systemctl is-enabled systemd-tmpfiles-clean.timer; cat /proc/sys/net/ipv4/conf/all/log_martians";

pub(crate) async fn each_kind_is_made_repaired_and_put_back(lab: &Lab) -> Result<()> {
    let before = looks(lab).await?;
    let mut settings = Vec::new();
    for node in lab.nodes()? {
        settings.push(lab.host(&node, &["cat", SETTING]).await?);
    }
    let timer = lab.host("worker1", &["systemctl", "show", "-P", "ActiveState", TIMER]).await?;

    let archive = async |version: &str, name: &str| -> Result<()> {
        let tool = format!("#!/bin/sh\necho {version}\n");
        let programs = [("tools/bin/tool", &*tool), (name, "#!/bin/sh\n"), ("tools/README", "read me")];
        let (url, digest) = lab.publish_archive(&format!("tools-{version}.tgz"), &programs)?;
        lab.apply(&YAML.replace("URL", &url).replace("DIGEST", &digest)).await?;
        lab.ready("kinds").await.map(drop)
    };
    archive("1", "tools/bin/old").await?;
    for node in lab.nodes()? {
        lab.wait_host(&node, &["sh", "-c", "ls /opt/tools/bin; /opt/tools/bin/tool"], "old\ntool\n1").await?;
    }
    archive("2", "tools/bin/new").await?;
    let made =
        "/opt/tools:\nbin\n\n/opt/tools/bin:\nnew\ntool\n2\n../etc/issue\ngames\nours\n1\n7\nmasked\n1";
    for node in lab.nodes()? {
        lab.wait_host(&node, &["sh", "-c", SHOWN], made).await?;
    }

    // Kernel settings give no signal: what is touched last has the agent look at all of it.
    let drift = format!(
        "echo 0 > {SETTING}; systemctl unmask systemd-tmpfiles-clean.timer; sed -i 's/^games:!/games:/' /etc/shadow; \
         sed -i 's/:ours:/:theirs:/' /etc/passwd; sed -i '/^extra:/s/games//' /etc/group; \
         rm /etc/systemd/system/kinds.service.d/10-nice.conf; echo evil > /opt/tools/bin/tool; rm /opt/tools/bin/new; ln -sfn /nowhere /opt/kinds"
    );
    for node in lab.nodes()? {
        lab.host(&node, &["sh", "-c", &drift]).await?;
    }
    for node in lab.nodes()? {
        lab.wait_host(&node, &["sh", "-c", SHOWN], made).await?;
    }
    lab.ready("kinds").await?;

    lab.delete("kinds").await?;
    same(&before, &looks(lab).await?)?;
    for (node, setting) in lab.nodes()?.iter().zip(settings) {
        ensure!(lab.host(node, &["cat", SETTING]).await? == setting, "{node}");
    }
    let now = lab.host("worker1", &["systemctl", "show", "-P", "ActiveState", TIMER]).await?;
    ensure!(now == timer, "{now}, before: {timer}");
    Ok(())
}
