//! Archives, links, parts of files, modes inside directories, drop-ins, masks, memberships, comments, locks, kernel settings,
//! the proxy of a unit and the trust store: made, repaired, and put back, on a real systemd and a real kernel. The machines
//! share one kernel, so that only a setting of their own network namespaces is touched.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testbed::wait_for;

use super::reverts::{looks, same};
use crate::lab::{Lab, PATIENCE};
use crate::programs::workspace;

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
  - {path: /opt/tools}
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
  trust: {proxy: {http: "http://proxy.example.com:3128", noProxy: [10.0.0.0/8], units: [kinds.service]}}
"#;

/// What of them a machine shows, in one line.
const SHOWN: &str = "ls /opt/tools /opt/tools/bin; /opt/tools/bin/tool; readlink /opt/kinds; getent group extra | cut -d: -f4; getent passwd games | cut -d: -f5; \
    grep -c '^games:!' /etc/shadow; systemctl show -P Nice kinds.service; \
    tail -1 /etc/systemd/system/kinds.service.d/10-nice.conf; systemctl is-active kinds.service; \
    systemctl show -P Environment kinds.service; \
    systemctl is-enabled systemd-tmpfiles-clean.timer; getent hosts registry.kinds; paste -s -d, /etc/kinds/theirs; \
    stat -c '%G %a' /etc/kinds/theirs /etc/kinds/folder | paste -s -d,; cat /proc/sys/net/ipv4/conf/all/log_martians";

/// What is done by hand to each kind. Kernel settings give no signal: those who change them wait for the interval.
const DRIFTS: &[(&str, &str)] = &[
    ("a symbolic link", "ln -sfn /nowhere /opt/kinds"),
    ("a membership", "sed -i '/^extra:/s/games//' /etc/group"),
    // At once: a third repair of one user within minutes counts as a tug of war.
    (
        "a user's comment and lock",
        "sed -i 's/:ours:/:theirs:/' /etc/passwd; sed -i 's/^games:!/games:/' /etc/shadow",
    ),
    ("a file of an archive", "echo evil > /opt/tools/bin/tool"),
    ("a file that an archive brought", "rm /opt/tools/bin/new"),
    ("a block in a file", "sed -i s/registry.kinds/other.kinds/ /etc/hosts"),
    ("a line of a file", "sed -i s/A=ours/A=theirs/ /etc/kinds/theirs"),
    ("a mode inside a directory", "chmod 0666 /etc/kinds/theirs"),
    ("the proxy of a unit", "rm /etc/systemd/system/kinds.service.d/*proxy*.conf"),
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
    let made = "/opt/tools:\nbin\n\n/opt/tools/bin:\nnew\ntool\n2\n../etc/issue\ngames\nours\n1\n7\nNice=7\nactive\n\
         HTTP_PROXY=http://proxy.example.com:3128 http_proxy=http://proxy.example.com:3128 NO_PROXY=10.0.0.0/8 \
         no_proxy=10.0.0.0/8\nmasked\n\
         10.96.0.50      registry.kinds\nA=ours,B=theirs\ngames 640,games 750\n1";
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

/// A CA is trusted by the machine's own programs, stays trusted, and goes.
pub(crate) async fn a_ca_is_trusted_by_the_machine_and_goes(lab: &Lab) -> Result<()> {
    const ANCHORS: &str = "/usr/local/share/ca-certificates/nodebootstrap-trusting.";
    let example = std::fs::read_to_string(workspace().join("deploy/examples/trust.yaml"))?;
    let begin = example.find("-----BEGIN CERTIFICATE-----").context("the example has no certificate")?;
    let lines: Vec<_> = example[begin..].lines().map(str::trim).take_while(|line| line.len() > 3).collect();
    let pem = lines.join("\n");
    let body = lines.get(1).context("a line")?;
    // How large a folder is tells how full it was once.
    let looks = async || -> Result<Vec<String>> {
        let is_told = |line: &&str| !line.starts_with("/etc/ssl/certs d ");
        let told = |text: &String| text.lines().filter(is_told).collect::<Vec<_>>().join("\n");
        Ok(looks(lab).await?.iter().map(told).collect())
    };
    let before = looks().await?;
    // Its hash leads to it, for programs of OpenSSL; the bundle is for all others.
    let verify = format!(
        "openssl verify -CApath /etc/ssl/certs {ANCHORS}*.crt && grep -c {body} /etc/ssl/certs/ca-certificates.crt"
    );
    let is_trusted = async || {
        let said = lab.host("worker1", &["sh", "-c", &verify]).await?;
        ensure!(said.contains(": OK") && said.ends_with("\n1"), "{said}");
        Ok(())
    };

    let bundle = json!({"name": "corporate", "pem": pem, "install": true});
    let spec = json!({
        "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "worker1"}},
        "deletionPolicy": "Revert",
        "trust": {"caBundles": [bundle]},
    });
    let node_bootstrap = json!({
        "apiVersion": "nodebootstrap.io/v1alpha1",
        "kind": "NodeBootstrap",
        "metadata": {"name": "trusting"},
        "spec": spec,
    });
    lab.apply(&node_bootstrap.to_string()).await?;
    lab.ready("trusting").await?;
    is_trusted().await?;

    // Somebody takes it away as one does.
    let away = format!("rm {ANCHORS}* && update-ca-certificates --fresh");
    lab.host("worker1", &["sh", "-c", &away]).await?;
    wait_for("the CA to be trusted again", PATIENCE, || async {
        Ok(lab.host_succeeds("worker1", &["sh", "-c", &verify]).await?.then_some(()))
    })
    .await?;
    lab.ready("trusting").await?;
    is_trusted().await?;

    lab.delete("trusting").await?;
    same(&before, &looks().await?)
}
