//! The testbed's own promises, tried on a true one. Needs root and, with warm caches, about a minute:
//! `cargo test -p testbed --test cluster -- --ignored`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testbed::{Testbed, UpOptions, image};

/// Two clusters side by side are a test of their own; any more would only slow each other down.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Ends the testbed whatever the test did, and passes on what it said.
async fn with_testbed(
    id: &str,
    machines: &[&str],
    bare: &[&str],
    test: impl AsyncFnOnce(&Testbed) -> Result<()>,
) -> Result<()> {
    let _one = ONE_AT_A_TIME.lock().await;
    let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Testbed::down_id(id).await?;
    let outcome =
        match Testbed::up(UpOptions { id: id.to_owned(), machines: own(machines), bare: own(bare) }).await {
            Ok(testbed) => test(&testbed).await,
            Err(error) => Err(error),
        };
    Testbed::down_id(id).await?;
    outcome
}

async fn connects(machine: &testbed::Machine, pid: &str, place: &str) -> Result<bool> {
    let script = format!("exec 3<>/dev/tcp/{place}");
    let output = machine.exec(&["nsenter", "-t", pid, "-n", "timeout", "5", "bash", "-c", &script]).await?;
    // "Refused" came from the other end, so it was reached too.
    Ok(output.success() || output.stderr.contains("refused"))
}

#[tokio::test]
#[ignore = "needs root and a minute"]
async fn machines_come_join_go_and_come_back_as_others() -> Result<()> {
    with_testbed("self-machines", &["cp1", "worker1"], &["worker3"], async |testbed| {
        let bare = testbed.machine("worker3")?;
        ensure!(!testbed.kubectl(&["get", "node", "worker3"]).await?.success(), "a bare machine is a node");
        ensure!(!bare.root().join("usr/bin/kubelet").exists(), "a bare machine has a kubelet");
        testbed.join("worker3").await?;
        testbed.kubectl(&["get", "node", "worker3"]).await?.ok()?;

        testbed.add_machine("worker2").await?;
        let before = testbed.machine("worker1")?;
        std::fs::write(before.root().join("etc/mark"), "x")?;
        let after = testbed.recreate_machine("worker1").await?;
        ensure!(before.machine_id() != after.machine_id(), "the same machine id");
        ensure!(!after.root().join("etc/mark").exists(), "the old disk");
        ensure!(before.ip() == after.ip(), "another address");

        // What a kubelet sets unasked must not reach the kernel that is the developer's.
        for setting in ["kernel/panic", "kernel/panic_on_oops", "vm/overcommit_memory"] {
            let kind =
                after.exec(&["stat", "-f", "-c", "%T", &format!("/proc/sys/{setting}")]).await?.ok()?;
            ensure!(kind.trim() == "tmpfs", "{setting} of the host is within reach: {kind}");
        }

        std::fs::write(after.root().join("etc/mark"), "x")?;
        let boot = async || after.exec(&["cat", "/proc/sys/kernel/random/boot_id"]).await?.ok();
        let first = boot().await?;
        after.reboot().await?;
        let second = boot().await?;
        ensure!(first != second, "the same boot id after a reboot");
        testbed.stop_machine("worker1").await?;
        ensure!(!after.is_running() && after.exec(&["true"]).await.is_err(), "a stopped machine runs");
        testbed.start_machine("worker1").await?;
        ensure!(after.root().join("etc/mark").exists(), "a restart lost the disk");

        testbed.remove_machine("worker2").await?;
        ensure!(testbed.machine("worker2").is_err() && testbed.machines()?.len() == 3);
        testbed
            .kubectl(&["get", "node", "worker2"])
            .await?
            .ok()
            .context("the Node object is the caller's")?;

        let again = Testbed::attach("self-machines").await?;
        ensure!(again.machine("worker1")?.machine_id() == after.machine_id());
        Ok(())
    })
    .await
}

#[tokio::test]
#[ignore = "needs root and a minute"]
async fn pods_reach_each_other_and_the_api() -> Result<()> {
    with_testbed("self-pods", &["cp1", "worker1", "worker2"], &[], async |testbed| {
        for (pod, node) in [("a", "worker1"), ("b", "worker2"), ("c", "worker1")] {
            let on = format!(r#"{{"spec":{{"nodeName":"{node}"}}}}"#);
            let image = "--image=nodebootstrap/pause:1";
            testbed.kubectl(&["run", pod, image, "--overrides", &on]).await?.ok()?;
        }
        let wait = ["wait", "--for=condition=Ready", "pod/a", "pod/b", "pod/c", "--timeout=60s"];
        testbed.kubectl(&wait).await?.ok()?;
        let address = async |pod: &str| {
            testbed.kubectl(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"]).await?.ok()
        };
        let worker = testbed.machine("worker1")?;
        let find = "for p in $(pgrep -x pause); do n=$(readlink /proc/$p/ns/net); \
                    [ \"$n\" = \"$(readlink /proc/1/ns/net)\" ] || { echo $p; exit; }; done";
        let pid = worker.exec(&["sh", "-c", find]).await?.ok()?;
        let pid = pid.trim();
        ensure!(connects(&worker, pid, "10.96.0.1/443").await?, "no way to the API server's service");
        for pod in ["a", "b", "c"] {
            let place = format!("{}/1", address(pod).await?);
            ensure!(connects(&worker, pid, &place).await?, "no way to pod {pod}");
            let socket = place.replace('/', ":");
            let host =
                tokio::time::timeout(Duration::from_secs(5), tokio::net::TcpStream::connect(&socket)).await;
            let error = host.context("the host has no way to the pod")?.err().context("somebody listens")?;
            ensure!(error.kind() == std::io::ErrorKind::ConnectionRefused, "{error}");
        }
        ensure!(!connects(&worker, pid, "10.99.99.99/1").await?, "what cannot be reached was reached");
        testbed.kubectl(&["logs", "a"]).await?.ok()?;

        let folder = tempfile::tempdir()?;
        let archive = folder.path().join("image.tar");
        // Any static program does; the one of the pause image is at hand.
        let program = folder.path().join("program");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("pause/pause.c");
        let built = tokio::process::Command::new("gcc")
            .arg("-static")
            .arg("-o")
            .arg(&program)
            .arg(source)
            .status()
            .await?;
        ensure!(built.success());
        image::build("nodebootstrap/trial:1", &archive, "/program", &[("/program", &program)])?;
        testbed.import_image(&archive, &[]).await?;
        testbed.kubectl(&["run", "own", "--image=nodebootstrap/trial:1"]).await?.ok()?;
        testbed.kubectl(&["wait", "--for=condition=Ready", "pod/own", "--timeout=60s"]).await?.ok()?;

        worker.exec(&["systemctl", "restart", "kubelet"]).await?.ok()?;
        ensure!(worker.exec(&["kill", "-0", pid]).await?.success(), "a restart of the kubelet killed a pod");
        Ok(())
    })
    .await
}

#[tokio::test]
#[ignore = "needs root and a minute"]
async fn the_audit_log_has_every_write_and_outlives_an_outage() -> Result<()> {
    with_testbed("self-audit", &["cp1"], &[], async |testbed| {
        let cursor = testbed.audit_cursor().await?;
        testbed.kubectl(&["create", "configmap", "x"]).await?.ok()?;
        testbed.stop_apiserver().await?;
        ensure!(
            !testbed.kubectl(&["get", "nodes", "--request-timeout=2s"]).await?.success(),
            "it is not away"
        );
        testbed.start_apiserver().await?;
        testbed.kubectl(&["delete", "configmap", "x"]).await?.ok()?;
        let events = testbed.audit_since(cursor).await?;
        let verbs: Vec<&str> = events
            .iter()
            .filter(|event| event.user == "admin" && event.is_write() && event.resource == "configmaps")
            .map(|event| event.verb.as_str())
            .collect();
        ensure!(verbs == ["create", "delete"], "{verbs:?}");
        let later = testbed.audit_cursor().await?;
        ensure!(testbed.audit_since(later).await?.iter().all(|event| event.user != "admin"));
        Ok(())
    })
    .await
}

#[tokio::test]
#[ignore = "needs root and a minute"]
async fn a_killed_run_leaves_nothing_in_the_way_and_two_stand_side_by_side() -> Result<()> {
    with_testbed("self-one", &["cp1"], &[], async |one| {
        let other = tokio::spawn(Testbed::up(UpOptions {
            id: "self-one-two".to_owned(),
            machines: vec!["cp1".to_owned()],
            bare: Vec::new(),
        }));
        // Cut off in the middle: no destructor of ours runs to the end.
        tokio::time::sleep(Duration::from_secs(3)).await;
        other.abort();
        let _ = other.await;
        let options =
            UpOptions { id: "self-one-two".to_owned(), machines: vec!["cp1".to_owned()], bare: vec![] };
        let two = Testbed::up(options).await?;
        let names = |text: String| text.trim().to_owned();
        let cp1 = names(one.machine("cp1")?.exec(&["hostname"]).await?.ok()?);
        ensure!(cp1 == names(two.machine("cp1")?.exec(&["hostname"]).await?.ok()?), "host names differ");
        ensure!(one.machine("cp1")?.ip() != two.machine("cp1")?.ip(), "both have the same network");
        one.down().await?;
        two.kubectl(&["get", "node", "cp1"]).await?.ok().context("the end of one hurt the other")?;
        two.down().await?;
        for place in ["/run/netns", "/sys/fs/cgroup/pids", "/var/lib/nodebootstrap-testbed"] {
            for entry in std::fs::read_dir(place).into_iter().flatten() {
                let name = entry?.file_name().to_string_lossy().into_owned();
                ensure!(!name.contains("self-one"), "{place}/{name} was left");
            }
        }
        Ok(())
    })
    .await
}
