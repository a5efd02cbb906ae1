//! What makes a machine a node: in go its name and address and the testbed's authority, out come kubelet and
//! kube-proxy with their configuration and units on its root.
//!
//! The programs lie in /usr/bin and the units in /usr/lib/systemd/system, where a distribution would have them.

use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::binaries::Binaries;
use crate::paths;
use crate::pki::Authority;
use crate::root::{PAUSE_IMAGE, write_enabled_unit};

/// What a node must know of its cluster.
pub(crate) struct Cluster<'a> {
    /// URL of the API server as seen from the machines.
    pub(crate) server: String,
    /// The range of all pods.
    pub(crate) pod_range: String,
    pub(crate) authority: &'a Authority,
}

/// Whether a machine is one of the control plane, as its name says.
pub(crate) fn is_control_plane(name: &str) -> bool {
    name.starts_with("cp")
}

/// Writes configuration, kubeconfigs and units; the programs must come with [`copy_programs`] or a layer below.
pub(crate) fn configure(root: &Path, name: &str, address: Ipv4Addr, cluster: &Cluster<'_>) -> Result<()> {
    let authority = cluster.authority;
    paths::write(&root.join("etc/kubernetes/ca.crt"), authority.certificate_pem())?;
    let kubelet = authority.sign(&format!("system:node:{name}"), Some("system:nodes"), &[])?;
    authority.write_kubeconfig(&root.join("etc/kubernetes/kubelet.conf"), &cluster.server, &kubelet)?;
    let proxy = authority.sign("system:kube-proxy", None, &[])?;
    authority.write_kubeconfig(&root.join("var/lib/kube-proxy/kubeconfig"), &cluster.server, &proxy)?;

    write_json(&root.join("var/lib/kubelet/config.yaml"), &kubelet_config(name))?;
    write_json(&root.join("var/lib/kube-proxy/config.yaml"), &proxy_config(name, &cluster.pod_range))?;
    write_enabled_unit(
        root,
        "kubelet",
        &unit(
            "Kubernetes kubelet",
            &format!(
                "/usr/bin/kubelet --kubeconfig=/etc/kubernetes/kubelet.conf --config=/var/lib/kubelet/config.yaml \
                 --hostname-override={name} --node-ip={address}"
            ),
        ),
    )?;
    write_enabled_unit(
        root,
        "kube-proxy",
        &unit("Kubernetes kube-proxy", "/usr/bin/kube-proxy --config=/var/lib/kube-proxy/config.yaml"),
    )
}

/// As [`configure`] for a virtual machine, whose kernel is its own: the kubelet has its own defaults, and systemd makes its
/// cgroups. It has no kube-proxy, and one pod.
pub(crate) fn configure_virtual(
    root: &Path,
    name: &str,
    address: Ipv4Addr,
    cluster: &Cluster<'_>,
) -> Result<()> {
    configure(root, name, address, cluster)?;
    let proxy = root.join("etc/systemd/system/multi-user.target.wants/kube-proxy.service");
    std::fs::remove_file(&proxy).with_context(|| format!("cannot remove {}", proxy.display()))?;
    // It is for machines that share a kernel, and puts files in the place of settings.
    symlink("/dev/null", root.join("etc/systemd/system/testbed-prepare.service"))
        .context("cannot mask testbed-prepare")?;
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "systemd",
        "authentication": {"x509": {"clientCAFile": "/etc/kubernetes/ca.crt"}},
        "staticPodPath": "/etc/kubernetes/manifests",
        "resolvConf": "",
    });
    write_json(&root.join("var/lib/kubelet/config.yaml"), &config)?;
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "bystander", "namespace": "default"},
        "spec": {
            "hostNetwork": true,
            "containers": [{"name": "pause", "image": PAUSE_IMAGE, "imagePullPolicy": "Never"}],
        },
    });
    write_json(&root.join("etc/kubernetes/manifests/bystander.json"), &pod)?;
    // Without one no node is Ready.
    let network = json!({"cniVersion": "1.0.0", "name": "lo", "plugins": [{"type": "loopback"}]});
    write_json(&root.join("etc/cni/net.d/10-lo.conflist"), &network)?;
    let containerd = root.join("etc/containerd/config.toml");
    let text = std::fs::read_to_string(&containerd).context("cannot read containerd's configuration")?;
    let options =
        "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\n  SystemdCgroup = true\n";
    paths::write(&containerd, text + options)
}

/// Copies kubelet and kube-proxy to a machine that was started without them.
pub(crate) fn copy_programs(root: &Path, binaries: &Binaries) -> Result<()> {
    for program in ["kubelet", "kube-proxy"] {
        // By rename: a running program cannot be written to ("Text file busy").
        let (fresh, place) =
            (root.join(format!("usr/bin/.{program}.new")), root.join("usr/bin").join(program));
        std::fs::copy(binaries.path(program), &fresh)
            .and_then(|_| std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755)))
            .and_then(|()| std::fs::rename(&fresh, &place))
            .with_context(|| format!("cannot copy {program} to {}", place.display()))?;
    }
    Ok(())
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    paths::write(path, format!("{value:#}\n"))
}

fn kubelet_config(name: &str) -> Value {
    let mut config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": "/etc/kubernetes/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        // What belongs to the developer's machine: its swap, its cgroup version, its limits.
        "failSwapOn": false,
        "failCgroupV1": false,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/node-{name}"),
        "enforceNodeAllocatable": [],
        "resolvConf": "",
        // The disk is the developer's too: a full one must not evict pods or delete images that no registry has.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
    });
    if is_control_plane(name) {
        // From the first moment on: set later, a pod could slip in before.
        config["registerWithTaints"] =
            json!([{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]);
    }
    config
}

fn proxy_config(name: &str, pod_range: &str) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "hostnameOverride": name,
        "clientConnection": {"kubeconfig": "/var/lib/kube-proxy/kubeconfig"},
        "clusterCIDR": pod_range,
        // Two pods on one bridge answer each other past the address translation unless all of it is masqueraded.
        "iptables": {"masqueradeAll": true},
        "nftables": {"masqueradeAll": true},
        // These sysctls are the host's.
        "conntrack": {
            "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
        },
    })
}

/// `KillMode=process`: what a service started in its group, as the kubelet's mounts, outlives its restart.
fn unit(description: &str, command: &str) -> String {
    format!(
        "[Unit]\nDescription={description}\nAfter=containerd.service testbed-prepare.service\n\
         [Service]\nExecStart={command}\nRestart=always\nRestartSec=1\nKillMode=process\n\
         [Install]\nWantedBy=multi-user.target\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_control_plane_machines_register_with_the_taint() {
        assert!(kubelet_config("worker1").get("registerWithTaints").is_none());
        assert_eq!(kubelet_config("cp1")["registerWithTaints"][0]["effect"], "NoSchedule");
    }
}
