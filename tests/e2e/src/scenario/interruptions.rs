//! What ends in the middle of its work, and what goes away for a while.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::{DeleteParams, ListParams};

use crate::lab::{Lab, established, is_current};

/// Kills every process of a name on a machine, at once and without a word.
async fn kill(lab: &Lab, machine: &str, program: &str) -> Result<()> {
    // Names of processes are cut to 15 characters.
    lab.host_succeeds(machine, &["pkill", "-KILL", &program[..15.min(program.len())]]).await.map(drop)
}

pub(crate) async fn operator_and_agents_killed_in_the_middle_come_back(lab: &Lab) -> Result<()> {
    // So slow that there is a middle: about six seconds.
    let (_, digest) = lab.publish("slow", &[7; 3_000_000])?;
    let url = format!("{}/slow/500000/files/slow", lab.testbed.artifacts_url()?);
    lab.apply(&format!(
        "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: killed}}\nspec:\n  allNodes: true\n  \
         files: [{{path: /etc/killed, content: x}}]\n  directories: [{{path: /opt/killed}}]\n  binaries: [{{path: /opt/killed/slow, url: \"{url}\", sha256: {{amd64: {digest}, arm64: {digest}}}}}]\n"
    ))
    .await?;
    let under_way = ["sh", "-c", "find /var/lib/nodebootstrap/.cache -name '*.part' -size +0 | grep -c ."];
    lab.wait_host("worker1", &under_way, "1").await?;
    for machine in lab.nodes()? {
        kill(lab, &machine, "nodebootstrap-agent").await?;
        kill(lab, &machine, "nodebootstrap-operator").await?;
    }
    ensure!(
        !lab.host_succeeds("worker1", &["test", "-e", "/opt/killed/slow"]).await?,
        "half a file is visible"
    );
    lab.ready("killed").await?;
    let counters = lab.testbed.artifact_counters().await?;
    ensure!(
        counters.get("range:/slow/500000/files/slow").is_some_and(|count| *count > 0),
        "fetched from the start, not gone on with: {counters:?}"
    );
    for machine in lab.nodes()? {
        let sum = lab.host(&machine, &["sha256sum", "/opt/killed/slow"]).await?;
        ensure!(sum.starts_with(&digest), "{machine}: {sum}");
        let files = lab.host(&machine, &["find", "/opt/killed", "-type", "f"]).await?;
        ensure!(files == "/opt/killed/slow", "{machine}: a stray file:\n{files}");
    }
    // Politely: the operator ends by itself at once, and the next one carries on.
    let operators = ListParams::default().labels("app.kubernetes.io/name=nodebootstrap-operator");
    let pod = lab.pods().list(&operators).await?.items.into_iter().next().context("an operator")?;
    let (name, uid) = (pod.metadata.name.context("a name")?, pod.metadata.uid.context("a uid")?);
    let begin = std::time::Instant::now();
    lab.pods().delete(&name, &DeleteParams::default()).await?;
    let gone =
        kube::runtime::wait::await_condition(lab.pods(), &name, kube::runtime::conditions::is_deleted(&uid));
    tokio::time::timeout(Duration::from_secs(30), gone).await.context("the operator ignores SIGTERM")??;
    ensure!(begin.elapsed() < Duration::from_secs(13), "killed, not ended: {:?}", begin.elapsed());
    lab.operator_available().await?;
    lab.apply(
        "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {name: after}\nspec:\n  allNodes: true\n  \
         files: [{path: /etc/after, content: x}]\n",
    )
    .await?;
    lab.ready("after").await.map(drop)
}

const INSTANTS: &str = r#"apiVersion: nodebootstrap.io/v1alpha1
kind: NodeBootstrap
metadata: {name: instants}
spec:
  allNodes: true
  symlinks: [{path: /etc/instants-link, target: /etc/instants}]
  files: [{path: /etc/instants, content: ours, onChange: {restart: [instants-there.timer]}}]
  units:
  - name: instants.service
    content: "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
    enabled: true
    active: true
    dropIns: [{name: 10-nice.conf, content: "[Service]\nNice=7\n"}]
  - {name: instants-there.timer, content: "[Timer]\nUnit=instants.service\nOnUnitActiveSec=2d\n", active: true}
  - {name: systemd-tmpfiles-clean.timer, active: false, masked: true}
  kernel: {sysctls: {net.ipv4.conf.all.log_martians: "1"}}
"#;

/// What the machine has before.
const INSTANTS_BEFORE: &str = "printf '[Timer]\nUnit=systemd-tmpfiles-clean.service\nOnUnitActiveSec=9d\n' > /etc/systemd/system/instants-there.timer; \
    echo theirs > /etc/instants; ln -sfn /nowhere /etc/instants-link; systemctl daemon-reload; \
    systemctl start instants-there.timer";

/// How files, units and the kernel are. Of the timer that with which it runs.
const INSTANTS_SHOWN: &str = "cat /etc/instants; readlink /etc/instants-link; cat /proc/sys/net/ipv4/conf/all/log_martians; \
    for unit in instants.service instants-there.timer systemd-tmpfiles-clean.timer; do \
    systemctl show -P ActiveState -P UnitFileState -P LoadState -P NeedDaemonReload -P TimersMonotonic -P Nice $unit | sed 's/ ;.*//'; done; \
    ls -A /var/lib/nodebootstrap/instants | grep -v result.json; \
    find /etc/systemd /etc/instants* /var/lib/nodebootstrap -path '*/instants/*' -prune -o -printf '%p %y %m %u:%g %l\n' | sort; \
    find /etc/systemd /etc/instants* -type f -print0 | sort -z | xargs -0 sha256sum";

/// As the agent's test of the same name does it on a folder, here with a systemd that runs: it ends, as by SIGKILL,
/// before each change in turn, of applying and of reverting, and the next run finishes.
pub(crate) async fn killed_before_any_change_the_next_run_finishes(lab: &Lab) -> Result<()> {
    let file = "/root/instants.yaml";
    let next = AtomicUsize::new(1);
    let points = lab.nodes()?.into_iter().map(|node| {
        let next = &next;
        async move {
            let machine = lab.testbed.machine(&node)?;
            let agent = lab.put_agent(&node)?;
            std::fs::write(machine.root().join(&file[1..]), INSTANTS)?;
            let shown = || lab.host(&node, &["sh", "-c", INSTANTS_SHOWN]);
            let run = |command: &'static [&'static str], kill_at: Option<usize>| {
                let kill = kill_at.map(|at| format!("NODEBOOTSTRAP_KILL_AT={at}"));
                let node = &node;
                async move {
                    let words: Vec<&str> = ["env"]
                        .into_iter()
                        .chain(kill.as_deref())
                        .chain([agent])
                        .chain(command.iter().copied())
                        .collect();
                    let output = lab.testbed.machine(node)?.exec(&words).await?;
                    let was_killed =
                        !output.success() && kill_at.is_some() && !output.stderr.contains("error");
                    ensure!(
                        output.success() || was_killed,
                        "{node}, {kill_at:?}: {command:?}: {}",
                        output.stderr
                    );
                    anyhow::Ok(output.success())
                }
            };
            let (apply, revert): (&[&str], &[&str]) =
                (&["apply", "--file", "/root/instants.yaml"], &["revert", "instants"]);
            lab.host(&node, &["sh", "-c", INSTANTS_BEFORE]).await?;
            run(apply, None).await?;
            let after = shown().await?;
            run(revert, None).await?;
            let before = shown().await?;
            ensure!(after != before && !before.contains("ours"), "{before}");
            let (mut applying, mut reverting) = (0, 0);
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let applied = run(apply, Some(at)).await?;
                if !applied {
                    applying = at;
                    run(apply, None).await?;
                }
                let now = shown().await?;
                ensure!(
                    now == after,
                    "{node}: applying was killed before change {at}; it shall be\n{after}\nand is\n{now}"
                );
                let reverted = run(revert, Some(at)).await?;
                if !reverted {
                    reverting = at;
                    if lab.host_succeeds(&node, &["test", "-e", "/var/lib/nodebootstrap/instants"]).await? {
                        run(revert, None).await?;
                    }
                }
                let now = shown().await?;
                ensure!(
                    now == before,
                    "{node}: reverting was killed before change {at}; it shall be\n{before}\nand is\n{now}"
                );
                if applied && reverted {
                    return anyhow::Ok((applying, reverting));
                }
            }
        }
    });
    let points = futures::future::try_join_all(points).await?;
    let applying = points.iter().map(|(applying, _)| applying).max().context("no machines")?;
    let reverting = points.iter().map(|(_, reverting)| reverting).max().context("no machines")?;
    println!("            killed at {applying} points of applying, {reverting} of reverting");
    ensure!(*applying > 20 && *reverting > 20, "{applying} {reverting}");
    Ok(())
}

pub(crate) async fn an_outage_of_the_api_server_is_survived(lab: &Lab) -> Result<()> {
    let yaml = |content: &str| {
        format!(
            "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: outage}}\nspec:\n  allNodes: true\n  \
             files: [{{path: /etc/outage, content: {content}}}]\n"
        )
    };
    lab.apply(&yaml("before")).await?;
    lab.ready("outage").await?;
    lab.testbed.stop_apiserver().await?;
    // What disturbs nothing is repaired without the API too.
    lab.host("worker1", &["rm", "/etc/outage"]).await?;
    let repaired = lab.wait_host("worker1", &["cat", "/etc/outage"], "before").await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    lab.testbed.start_apiserver().await?;
    repaired?;
    lab.apply(&yaml("after")).await?;
    // One node that still counts as unreachable would not keep it from being Ready.
    lab.wait("outage", "ready on all nodes", |nb| {
        is_current(nb) && nb.status.as_ref().is_some_and(|status| status.nodes.ready == 3)
    })
    .await?;
    for machine in lab.nodes()? {
        ensure!(lab.host(&machine, &["cat", "/etc/outage"]).await? == "after");
    }
    Ok(())
}

/// Stored before a rule was there, or by an operator of another version: what the types cannot read.
pub(crate) async fn a_malformed_object_stops_no_other(lab: &Lab) -> Result<()> {
    let file = crate::programs::workspace().join("crds/nodebootstraps.yaml");
    let text = std::fs::read_to_string(&file)?;
    // The schema without its rules takes what the types refuse.
    let mut loose: serde_json::Value = serde_saphyr::from_str(&text)?;
    loose["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] =
        serde_json::json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let loose_file = lab.testbed.dir().join("loose-crd.json");
    std::fs::write(&loose_file, loose.to_string())?;
    lab.kubectl(&["apply", "-f", &loose_file.display().to_string()]).await?;
    let malformed = "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {name: malformed}\nspec:\n  \
        allNodes: 7\n  files: {no: list}\n";
    let taken = testbed::wait_for("the loose schema to hold", Duration::from_secs(20), || async {
        Ok(lab.apply(malformed).await.ok())
    })
    .await;
    lab.kubectl(&["apply", "-f", &file.display().to_string()]).await?;
    taken?;
    established(&lab.client, "nodebootstraps.nodebootstrap.io").await?;
    lab.apply(
        "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {name: wellformed}\nspec:\n  allNodes: true\n  \
         files: [{path: /etc/wellformed, content: x}]\n",
    )
    .await?;
    lab.ready("wellformed").await?;
    // An operator that starts with it there, too.
    for machine in lab.nodes()? {
        kill(lab, &machine, "nodebootstrap-operator").await?;
    }
    lab.apply(
        "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {name: wellformed}\nspec:\n  allNodes: true\n  \
         files: [{path: /etc/wellformed, content: \"y\"}]\n",
    )
    .await?;
    lab.ready("wellformed").await?;
    lab.kubectl(&["delete", "nb", "malformed", "--timeout=30s"]).await.map(drop)
}
