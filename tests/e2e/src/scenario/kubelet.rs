//! The kubelet as declared state: left alone until it is adopted, run from another place, upgraded and downgraded under pods
//! that live on, and put back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crds::report::ReportPhase;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use serde_json::{Value, json};
use testbed::wait_for;

use super::reverts::{looks, same};
use super::rollout::{Seen, seen_during};
use crate::lab::{Lab, PATIENCE, is, is_current, message};
use crate::programs;

const PROGRAM: &str = "/usr/local/sbin/kubelet";

/// A NodeBootstrap with a kubelet; `kubelet`: lines of that.
fn yaml(name: &str, node: Option<&str>, kubelet: &str) -> String {
    let selector = match node {
        Some(node) => format!("nodeSelector: {{matchLabels: {{kubernetes.io/hostname: {node}}}}}"),
        None => "allNodes: true".to_owned(),
    };
    let kubelet: String = kubelet.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: {name}}}\nspec:\n  {selector}\n  \
         deletionPolicy: Revert\n  health: {{timeout: 30s, stableFor: 2s}}\n  kubelet:\n{kubelet}"
    )
}

/// Where the testbed's server has a program.
fn url(lab: &Lab, program: &str) -> Result<String> {
    Ok(format!("{}/release/{{version}}/bin/linux/{{arch}}/{program}", lab.testbed.artifacts_url()?))
}

/// The lines of a kubelet that is downloaded from the testbed's server.
async fn of_version(lab: &Lab, version: &str) -> Result<String> {
    let program = match version {
        testbed::OLDER_KUBELET_VERSION => testbed::older_kubelet().await?,
        _ => lab.kubelet()?,
    };
    let digest = testbed::artifacts::sha256_of(&program).await?;
    let url = url(lab, "kubelet")?;
    Ok(format!("version: {version}\nurl: \"{url}\"\nsha256: {{amd64: {digest}, arm64: {digest}}}\n"))
}

/// Which process the kubelet of a machine is, and what that runs.
async fn process(lab: &Lab, node: &str) -> Result<(String, String)> {
    let id = lab.host(node, &["systemctl", "show", "-P", "MainPID", "kubelet.service"]).await?;
    let program = lab.host(node, &["readlink", &format!("/proc/{id}/exe")]).await?;
    Ok((id, program))
}

/// A pod that counts, with the machine's own shell.
struct Ticks {
    pod: &'static str,
    node: String,
    process: String,
}

impl Ticks {
    async fn start(lab: &Lab, node: &str) -> Result<Self> {
        let pod = "ticks";
        lab.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}, namespace: default}}\nspec:\n  nodeName: {node}\n  \
             terminationGracePeriodSeconds: 0\n  tolerations: [{{operator: Exists}}]\n  containers:\n  - name: ticks\n    \
             image: nodebootstrap/pause:1\n    imagePullPolicy: Never\n    \
             command: [/usr/bin/sh, -c, \"i=0; while :; do i=$((i+1)); echo $i; /usr/bin/sleep 0.2; done\"]\n    \
             volumeMounts:\n    - {{name: usr, mountPath: /usr, readOnly: true}}\n    - {{name: lib, mountPath: /lib, readOnly: true}}\n    \
             - {{name: lib64, mountPath: /lib64, readOnly: true}}\n  volumes:\n  - {{name: usr, hostPath: {{path: /usr}}}}\n  \
             - {{name: lib, hostPath: {{path: /usr/lib}}}}\n  - {{name: lib64, hostPath: {{path: /usr/lib64}}}}\n"
        ))
        .await?;
        lab.kubectl(&["wait", "-n", "default", "--for=condition=Ready", "pod/ticks", "--timeout=60s"])
            .await?;
        let process = Self::process(lab, node).await?;
        Ok(Self { pod, node: node.to_owned(), process })
    }

    /// The process that counts, with the time of its start.
    async fn process(lab: &Lab, node: &str) -> Result<String> {
        lab.host(node, &["sh", "-c", "ps -o pid=,lstart= -p $(pgrep -of 'i=0; while')"]).await
    }

    async fn count(&self, lab: &Lab) -> Result<u32> {
        let line = lab.kubectl(&["logs", "-n", "default", self.pod, "--tail=1"]).await?;
        line.trim().parse().with_context(|| format!("no number: {line}"))
    }

    /// It is the same process, in the same container, and goes on counting from where it was.
    async fn lived_on(&self, lab: &Lab, before: u32) -> Result<u32> {
        let process = Self::process(lab, &self.node).await?;
        ensure!(process == self.process, "another process: {process}, before: {}", self.process);
        let pods: Api<Pod> = Api::namespaced(lab.client.clone(), "default");
        let statuses = pods.get(self.pod).await?.status.and_then(|status| status.container_statuses);
        ensure!(statuses.iter().flatten().all(|container| container.restart_count == 0), "{statuses:?}");
        let now = self.count(lab).await?;
        ensure!(now > before, "{now} ticks, {before} before");
        Ok(now)
    }

    async fn end(self, lab: &Lab) -> Result<()> {
        lab.kubectl(&["delete", "pod", "-n", "default", self.pod, "--timeout=60s"]).await.map(drop)
    }
}

/// Without Adopt nothing is changed, and what is no program of that version is not put in place with it either.
pub(crate) async fn a_kubelet_that_others_set_up_is_left_alone(lab: &Lab) -> Result<()> {
    let before = looks(lab).await?;
    let mut processes = Vec::new();
    for node in lab.nodes()? {
        processes.push(process(lab, &node).await?);
    }
    let version = of_version(lab, "v1.36.3").await?;
    lab.apply(&yaml("taken", None, &format!("{version}config: {{maxPods: 120}}\n"))).await?;
    let told = "a package of the distribution has set it up (/usr/lib/systemd/system/kubelet.service)";
    let is_told = |nb: &crds::NodeBootstrap| {
        let failed = nb.status.as_ref().map(|status| status.nodes.failed);
        is_current(nb) && failed == Some(3) && message(nb, "Ready").contains(told)
    };
    let nb = lab.wait("taken", told, is_told).await?;
    ensure!(message(&nb, "Ready").contains("takeover: Adopt"), "{}", message(&nb, "Ready"));
    let report = lab.report("taken", "worker1").await?.status.context("a status")?;
    ensure!(report.reason == "TakeoverRefused", "{report:?}");

    // One that is adopted is not changed either while what was downloaded is something else.
    let script = "#!/bin/sh\necho Kubernetes v1.36.3\n";
    let (of_script, script) = lab.publish("kubelet-script", script.as_bytes())?;
    let kubectl = lab.testbed.kubectl_path()?;
    let other = testbed::artifacts::sha256_of(&kubectl).await?;
    let of_other = url(lab, "kubectl")?;
    for (url, digest, reason) in [(of_script, script, "NotAProgram"), (of_other, other, "WrongVersion")] {
        let kubelet = format!(
            "takeover: Adopt\nversion: v1.36.3\nurl: \"{url}\"\nsha256: {{amd64: {digest}, arm64: {digest}}}\n"
        );
        lab.apply(&yaml("taken", None, &kubelet)).await?;
        let nb = lab.node_bootstrap("taken").await?;
        let generation = nb.metadata.generation;
        let is_told = |nb: &crds::NodeBootstrap| {
            let results = nb.status.as_ref().map(|status| status.results.as_slice()).unwrap_or_default();
            nb.metadata.generation == generation
                && is_current(nb)
                && results.iter().any(|one| one.reason == reason)
        };
        let nb = lab.wait("taken", reason, is_told).await?;
        println!("            {}", message(&nb, "Ready"));
    }
    lab.delete("taken").await?;
    same(&before, &looks(lab).await?)?;
    for (node, before) in lab.nodes()?.iter().zip(processes) {
        ensure!(process(lab, node).await? == before, "{node}: the kubelet was restarted");
    }
    Ok(())
}

/// The seed's kubelet on three machines, one after the other; another version, down and up; and what was there before.
pub(crate) async fn a_kubelet_is_adopted_upgraded_and_put_back(lab: &Lab) -> Result<()> {
    let before = looks(lab).await?;
    let node = lab.expendable_worker().await?;
    let ticks = Ticks::start(lab, node).await?;
    let mut count = ticks.count(lab).await?;
    let nodes: Api<Node> = Api::all(lab.client.clone());
    let steps = [("v1.36.3", 120), (testbed::OLDER_KUBELET_VERSION, 120), ("v1.36.3", 121)];
    for (version, pods) in steps {
        let kubelet =
            format!("takeover: Adopt\n{}config: {{maxPods: {pods}}}\n", of_version(lab, version).await?);
        let begin = Instant::now();
        let change = async {
            lab.apply(&yaml("kubelets", None, &kubelet)).await?;
            lab.ready("kubelets").await
        };
        let (_, Seen { granted, most, .. }) = seen_during(lab, change).await?;
        println!("{:11.2} s  until three kubelets were {version}", begin.elapsed().as_secs_f32());
        ensure!(most == 1 && granted.len() == 3, "{most} at once, {granted:?} in all");
        for node in lab.nodes()? {
            ensure!(process(lab, &node).await?.1 == PROGRAM, "{node}: {:?}", process(lab, &node).await?);
            wait_for(&format!("{node} to say what it has now"), PATIENCE, || async {
                let status = nodes.get(&node).await?.status.unwrap_or_default();
                let has = status.capacity.unwrap_or_default().get("pods").map(|pods| pods.0.clone());
                let says = status.node_info.map(|info| info.kubelet_version);
                Ok((has == Some(pods.to_string()) && says.as_deref() == Some(version)).then_some(()))
            })
            .await?;
        }
        count = ticks.lived_on(lab, count).await?;
    }
    // Nothing is left to do, by the drop-in's own word too.
    let drop_in = lab
        .host(node, &["cat", "/etc/systemd/system/kubelet.service.d/zz-nodebootstrap-kubelet.conf"])
        .await?;
    let command = format!(
        "ExecStart={PROGRAM} --kubeconfig=/etc/kubernetes/kubelet.conf --config=/var/lib/kubelet/config.yaml"
    );
    ensure!(drop_in.contains(&command), "{drop_in}");
    ensure!(drop_in.ends_with(" --config-dir=/etc/kubernetes/kubelet.conf.d"), "{drop_in}");

    // The way back disturbs no more of them at once.
    let begin = Instant::now();
    let (_, Seen { granted, most, .. }) = seen_during(lab, lab.delete("kubelets")).await?;
    println!("{:11.2} s  until three kubelets were put back", begin.elapsed().as_secs_f32());
    ensure!(most == 1 && granted.len() == 3, "{most} at once, {granted:?} in all");
    same(&before, &looks(lab).await?)?;
    for node in lab.nodes()? {
        ensure!(
            process(lab, &node).await?.1 == "/usr/bin/kubelet",
            "{node}: {:?}",
            process(lab, &node).await?
        );
    }
    ticks.lived_on(lab, count).await?;
    ticks.end(lab).await
}

/// Its fields are right, their values are not: only the kubelet itself says so.
pub(crate) async fn a_configuration_that_the_kubelet_refuses_is_rolled_back(lab: &Lab) -> Result<()> {
    let node = lab.expendable_worker().await?;
    let look = async || looks(lab).await;
    let before = look().await?;
    let config =
        "takeover: Adopt\nconfig: {imageGCHighThresholdPercent: 10, imageGCLowThresholdPercent: 90}\n";
    let begin = Instant::now();
    lab.apply(&yaml("refused", Some(node), config)).await?;
    let report = lab
        .wait_report("refused", node, "rolled back", |report| {
            report.status.as_ref().is_some_and(|status| status.reason == "RolledBack")
        })
        .await?;
    let status = report.status.context("a status")?;
    println!("{:11.2} s  {}", begin.elapsed().as_secs_f32(), status.message);
    ensure!(begin.elapsed() < Duration::from_secs(45), "{:?}", begin.elapsed());
    ensure!(status.phase == ReportPhase::Failed && status.message.contains("imageGC"), "{status:?}");
    let nb = lab.wait("refused", "failed", |nb| is_current(nb) && is(nb, "Stalled")).await?;
    ensure!(message(&nb, "Ready").starts_with(node), "{}", message(&nb, "Ready"));
    same(&before, &look().await?)?;
    ensure!(process(lab, node).await?.1 == "/usr/bin/kubelet");
    lab.kubectl(&["wait", "--for=condition=Ready", &format!("node/{node}"), "--timeout=60s"]).await.map(drop)
}

/// A machine with nothing of Kubernetes but a containerd: by hand it gets all that makes it a node, asks for its own credential,
/// and runs a pod. What a cluster then has for it is there already.
pub(crate) async fn a_machine_without_a_kubelet_becomes_a_node(lab: &Lab) -> Result<()> {
    let (name, node) = ("joined", "bare1");
    let machine = lab.testbed.add_bare_machine(node).await?;
    let root = machine.root().to_owned();
    for objects in bootstrap_token() {
        lab.apply(&objects.to_string()).await?;
    }
    let of_worker = async |path: &str| lab.host("worker1", &["cat", path]).await;
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {
            "server": lab.testbed.server_for_machines()?, "certificate-authority": "/etc/kubernetes/pki/ca.crt",
        }}],
        "users": [{"name": "x", "user": {"token": TOKEN}}],
    });
    // What the spec refers to, for the host and for the cluster.
    let refs = [
        ("ConfigMap", "cluster", "ca.crt", of_worker("/etc/kubernetes/ca.crt").await?),
        ("Secret", "bootstrap", "kubeconfig", kubeconfig.to_string()),
        ("Secret", "kube-proxy", "kubeconfig", of_worker("/var/lib/kube-proxy/kubeconfig").await?),
    ];
    for (kind, object, key, value) in &refs {
        let folder = root.join("root/refs").join(object);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        std::fs::write(folder.join(key), value).with_context(|| format!("cannot write {key}"))?;
        let field = if *kind == "Secret" { "stringData" } else { "data" };
        let labels = json!({"nodebootstrap-e2e": "true"});
        let metadata = json!({"name": object, "namespace": crds::names::NAMESPACE, "labels": labels});
        lab.apply(
            &json!({"apiVersion": "v1", "kind": kind, "metadata": metadata, field: {*key: value}})
                .to_string(),
        )
        .await?;
    }
    // The machines share a kernel, and their kubelets have what that asks for; the rest is the preset's.
    let mut config: Value = serde_json::from_str(&of_worker("/var/lib/kubelet/config.yaml").await?)?;
    for own in ["apiVersion", "kind", "authentication", "authorization", "containerRuntimeEndpoint"] {
        config.as_object_mut().context("a configuration")?.remove(own);
    }
    config["cgroupRoot"] = format!("/node-{node}").into();
    let proxy = of_worker("/var/lib/kube-proxy/config.yaml").await?.replace("worker1", node);
    let network = std::fs::read_to_string(root.join("etc/cni/net.d/10-bridge.conflist"))?;
    let digest = async |program: &str| {
        let digest = testbed::artifacts::sha256_of(&lab.kubelet()?.with_file_name(program)).await?;
        anyhow::Ok(json!({"amd64": digest, "arm64": digest}))
    };
    let proxy_url = url(lab, "kube-proxy")?.replace("{version}", testbed::KUBERNETES_VERSION);
    let spec = json!({
        "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": node}},
        "directories": [{"path": "/etc/kubernetes/pki"}, {"path": "/var/lib/kube-proxy"}],
        "files": [
            {"path": "/etc/kubernetes/pki/ca.crt", "configMapRef": {"name": "cluster", "key": "ca.crt"}},
            {"path": "/etc/kubernetes/bootstrap-kubelet.conf", "mode": "0600",
                "secretRef": {"name": "bootstrap", "key": "kubeconfig"}},
            {"path": "/var/lib/kube-proxy/kubeconfig", "mode": "0600", "secretRef": {"name": "kube-proxy", "key": "kubeconfig"}},
            {"path": "/var/lib/kube-proxy/config.yaml", "content": proxy},
            // A folder that nobody has made.
            {"path": "/etc/cni/cluster.d/10-bridge.conflist", "content": network},
        ],
        "binaries": [{"path": "/usr/local/sbin/kube-proxy", "url": proxy_url, "sha256": digest("kube-proxy").await?}],
        "units": [{"name": "kube-proxy.service", "enabled": true, "active": true, "content":
            "[Service]\nExecStart=/usr/local/sbin/kube-proxy --config=/var/lib/kube-proxy/config.yaml\nRestart=always\n\
             [Install]\nWantedBy=multi-user.target\n"}],
        "containerRuntime": {"type": "containerd", "config": {
            "plugins": {"io.containerd.grpc.v1.cri": {"cni": {"conf_dir": "/etc/cni/cluster.d"}}},
        }},
        "kubelet": {
            "version": testbed::KUBERNETES_VERSION, "url": url(lab, "kubelet")?, "sha256": digest("kubelet").await?,
            "bootstrapKubeconfig": "/etc/kubernetes/bootstrap-kubelet.conf", "config": config,
        },
    });
    let yaml = json!({
        "apiVersion": "nodebootstrap.io/v1alpha1", "kind": "NodeBootstrap", "metadata": {"name": name}, "spec": spec,
    })
    .to_string();
    std::fs::write(root.join("root/joined.yaml"), &yaml).context("cannot write joined.yaml")?;

    let begin = Instant::now();
    let agent = lab.put_agent(node)?;
    let given = ["--file", "/root/joined.yaml", "--refs", "/root/refs"];
    let said = lab.host(node, &[&[agent, "apply"], &given[..]].concat()).await?;
    println!("{:11.2} s  {}", begin.elapsed().as_secs_f32(), said.lines().last().unwrap_or_default());
    let nodes: Api<Node> = Api::all(lab.client.clone());
    wait_for("the node to register", PATIENCE, || async { nodes.get_opt(node).await.context("no answer") })
        .await?;
    lab.kubectl(&["wait", "--for=condition=Ready", &format!("node/{node}"), "--timeout=60s"]).await?;
    lab.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: first}}\nspec:\n  nodeName: {node}\n  terminationGracePeriodSeconds: 1\n  \
         containers: [{{name: pause, image: \"nodebootstrap/pause:1\", imagePullPolicy: Never}}]\n"
    ))
    .await?;
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/first", "--timeout=60s"]).await?;
    println!("{:11.2} s  until a pod ran on a node that was none", begin.elapsed().as_secs_f32());
    ensure!(lab.stat(node, "/etc/cni/cluster.d").await? == "root:root 755 directory");
    ensure!(lab.stat(node, "/var/lib/kubelet/pki").await? == "root:root 700 directory");
    let kubelet = process(lab, node).await?;
    ensure!(kubelet.1 == PROGRAM, "{kubelet:?}");
    ensure!(lab.host(node, &["systemctl", "is-enabled", "kubelet.service"]).await? == "enabled");
    // By hand nothing is left to do either: plan ends with 0.
    lab.host(node, &[&[agent, "plan"], &given[..]].concat()).await?;

    programs::import(&lab.testbed, &[node]).await?;
    lab.apply(&yaml).await?;
    let nb = lab.ready(name).await?;
    ensure!(nb.status.as_ref().is_some_and(|status| status.nodes.selected == 1), "{:?}", nb.status);
    let status = lab.report(name, node).await?.status.context("a status")?;
    ensure!(status.phase == ReportPhase::Ready && status.changes.is_empty(), "{status:?}");
    ensure!(process(lab, node).await? == kubelet, "the kubelet was restarted");

    lab.kubectl(&["delete", "pod/first", "--wait=false"]).await?;
    lab.delete(name).await?;
    lab.testbed.remove_machine(node).await?;
    lab.kubectl(&["delete", "node", node]).await?;
    lab.kubectl(&["delete", "clusterrolebinding", "-l", "nodebootstrap-e2e=true"]).await?;
    lab.kubectl(&["delete", "secret", "-n", "kube-system", "-l", "nodebootstrap-e2e=true"]).await.map(drop)
}

/// A token by which a kubelet may ask for a credential of its own.
const TOKEN: &str = "abcdef.0123456789abcdef";

/// What makes the cluster know that token, as kubeadm has it.
fn bootstrap_token() -> Vec<Value> {
    let labels = json!({"nodebootstrap-e2e": "true"});
    let (id, secret) = TOKEN.split_once('.').unwrap_or_default();
    let binding = |role: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": format!("e2e:{role}"), "labels": labels},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:bootstrappers"}],
        })
    };
    vec![
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
            "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system", "labels": labels},
            "stringData": {"token-id": id, "token-secret": secret, "usage-bootstrap-authentication": "true"},
        }),
        binding("system:node-bootstrapper"),
        binding("system:certificates.k8s.io:certificatesigningrequests:nodeclient"),
    ]
}
