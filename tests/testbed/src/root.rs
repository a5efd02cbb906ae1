//! The machines' root file system: in go a list of Debian packages and the few files that all machines share, out
//! comes a folder in the cache that serves as the lowest layer of every machine's overlay.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use tokio::process::Command;

use crate::{image, paths, process};

const SUITE: &str = "bookworm";
const PACKAGES: &str = "systemd,systemd-sysv,dbus,containerd,runc,iproute2,iptables,nftables,kmod,procps,\
ca-certificates,util-linux,conntrack,containernetworking-plugins";
const CNI_PLUGINS: &[&str] = &["loopback", "bridge", "host-local", "portmap"];
const PAUSE_SOURCE: &str = include_str!("../pause/pause.c");
/// The image that holds a pod's namespaces.
pub(crate) const PAUSE_IMAGE: &str = "nodebootstrap/pause:1";

/// `native`: an overlay upon the machine's own overlay fails. `restrict_oom_score_adj`: without CAP_SYS_RESOURCE,
/// as in many containers and CI machines, nobody may lower a score.
const CONTAINERD: &str = r#"version = 2
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "PAUSE"
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "native"
  default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/opt/cni/bin"
"#;

/// At every boot, since a reboot undoes it. Pods need writable cgroups and mounts that propagate. Each machine's
/// pods have a group of their own (the kubelet's `cgroupRoot`), since kubelets delete groups that they do not know.
/// The settings that a kubelet changes unasked (overcommit, reboot on oops) are the developer's kernel's: it finds
/// files in their place.
const PREPARE: &str = r#"#!/bin/sh
mount --make-rshared /
mount -o remount,rw /sys/fs/cgroup
for h in /sys/fs/cgroup /sys/fs/cgroup/*; do
  mountpoint -q "$h" && mount -o remount,rw,bind "$h"
  own=$h/node-$(hostname)
  if [ -f "$h/cgroup.procs" ]; then
    mkdir -p "$own"
    for f in cpuset.cpus cpuset.mems; do
      [ -e "$own/$f" ] && cat "$h/$f" > "$own/$f"
    done
  fi
done
if [ -f /sys/fs/cgroup/cgroup.subtree_control ]; then
  for c in $(cat /sys/fs/cgroup/cgroup.controllers); do echo "+$c" > /sys/fs/cgroup/cgroup.subtree_control; done
fi
for s in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys \
  kernel/keys/root_maxbytes; do
  own=/run/testbed/sysctl/$s
  [ -e "/proc/sys/$s" ] && [ ! -e "$own" ] || continue
  mkdir -p "${own%/*}"
  cat "/proc/sys/$s" > "$own"
  mount --bind "$own" "/proc/sys/$s"
done
sysctl -q -w net.ipv4.ip_forward=1
exit 0
"#;
const PREPARE_UNIT: &str = "[Unit]
Description=Cgroups and mounts for pods
Before=containerd.service kubelet.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/lib/testbed/prepare
[Install]
WantedBy=multi-user.target
";
const IMAGES_UNIT: &str = "[Unit]
Description=Images that come with the machine
After=containerd.service
Requires=containerd.service
ConditionPathExists=!/var/lib/testbed-images-imported
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'for i in /usr/share/testbed/images/*.tar; do \
ctr -n k8s.io images import --snapshotter native $$i || exit 1; done; touch /var/lib/testbed-images-imported'
[Install]
WantedBy=multi-user.target
";

fn dir() -> Result<PathBuf> {
    let mut hash = Sha256::new();
    for part in [
        SUITE,
        PACKAGES,
        PAUSE_SOURCE,
        PAUSE_IMAGE,
        CONTAINERD,
        PREPARE,
        PREPARE_UNIT,
        IMAGES_UNIT,
        "layout 2",
    ] {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    Ok(paths::cache_dir()?.join(format!("root-{SUITE}-{}", &hex::encode(hash.finalize())[..16])))
}

fn debian_archive() -> Result<PathBuf> {
    let key = hex::encode(Sha256::digest(PACKAGES));
    Ok(paths::cache_dir()?.join(format!("debian-{SUITE}-{}.tar", &key[..16])))
}

/// What is in the cache already.
pub(crate) fn cached() -> Result<Option<PathBuf>> {
    let dir = dir()?;
    // The folder gets its name only when all is in it.
    Ok(dir.is_dir().then_some(dir))
}

/// Gives what the cache has, or makes it: 70 s with a quick mirror, once.
pub(crate) async fn ensure() -> Result<PathBuf> {
    if let Some(root) = cached()? {
        return Ok(root);
    }
    let dir = dir()?;
    let _lock = paths::lock(&paths::cache_dir()?.join("root.lock")).await?;
    if let Some(root) = cached()? {
        return Ok(root);
    }
    // The packages are kept apart from our own files, so that an edit of those does not fetch everything again.
    let debian = debian_archive()?;
    if !debian.is_file() {
        eprintln!("making the machines' root with debootstrap, once (about 70 s)");
        let fresh = debian.with_extension("new");
        let _ = std::fs::remove_dir_all(&fresh);
        // debootstrap mounts /proc and /sys into the root. In namespaces of their own its mounts and processes end
        // with it, and it ends with us, however we end: a later removal of the folder must not run into the host's.
        // No mirror is named: debootstrap's own default, or the user's configuration of it, holds.
        process::run(
            Command::new("setpriv")
                .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
                .args([
                    "--pdeathsig",
                    "KILL",
                    "unshare",
                    "--mount",
                    "--pid",
                    "--fork",
                    "--kill-child",
                    "--mount-proc",
                ])
                .args(["debootstrap", "--variant=minbase", &format!("--include={PACKAGES}"), SUITE])
                .arg(&fresh),
        )
        .await?;
        let packed = debian.with_extension("part");
        process::run(Command::new("tar").arg("-C").arg(&fresh).arg("-cf").arg(&packed).arg(".")).await?;
        std::fs::rename(&packed, &debian).with_context(|| format!("cannot rename {}", packed.display()))?;
        let _ = std::fs::remove_dir_all(&fresh);
    }
    let new = dir.with_extension("new");
    let _ = std::fs::remove_dir_all(&new);
    std::fs::create_dir_all(&new).with_context(|| format!("cannot make {}", new.display()))?;
    process::run(Command::new("tar").arg("-C").arg(&new).arg("-xpf").arg(&debian)).await?;
    finish(&new).await.with_context(|| format!("cannot finish the root in {}", new.display()))?;
    std::fs::rename(&new, &dir).with_context(|| format!("cannot rename {}", new.display()))?;
    Ok(dir)
}

async fn finish(root: &Path) -> Result<()> {
    let plugins = root.join("opt/cni/bin");
    std::fs::create_dir_all(&plugins).context("cannot make opt/cni/bin")?;
    for plugin in CNI_PLUGINS {
        std::fs::copy(root.join("usr/lib/cni").join(plugin), plugins.join(plugin))
            .with_context(|| format!("cannot copy the CNI plugin {plugin}"))?;
    }
    paths::write(&root.join("etc/containerd/config.toml"), CONTAINERD.replace("PAUSE", PAUSE_IMAGE))?;
    paths::write(
        &root.join("etc/systemd/system/containerd.service.d/testbed.conf"),
        "[Unit]\nWants=testbed-prepare.service\nAfter=testbed-prepare.service\n[Service]\nOOMScoreAdjust=0\n",
    )?;
    let prepare = root.join("usr/lib/testbed/prepare");
    paths::write(&prepare, PREPARE)?;
    std::fs::set_permissions(&prepare, std::fs::Permissions::from_mode(0o755))
        .context("cannot set a mode")?;
    write_enabled_unit(root, "testbed-prepare", PREPARE_UNIT)?;
    write_enabled_unit(root, "testbed-images", IMAGES_UNIT)?;
    // systemd-sysctl would set these in the kernel that the machines share with the host.
    for folder in ["usr/lib/sysctl.d", "etc/sysctl.d"] {
        for entry in std::fs::read_dir(root.join(folder)).with_context(|| format!("no {folder}"))? {
            let file = entry.with_context(|| format!("cannot read {folder}"))?.path();
            std::fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        }
    }
    // No nameserver: every look-up would wait for an answer that cannot come.
    let _ = std::fs::remove_file(root.join("etc/resolv.conf"));
    paths::write(&root.join("etc/resolv.conf"), "")?;
    // Each machine gets one of its own; two machines with the same one count as one machine.
    let _ = std::fs::remove_file(root.join("etc/machine-id"));
    let _ = std::fs::remove_file(root.join("var/lib/dbus/machine-id"));

    let images = root.join("usr/share/testbed/images");
    std::fs::create_dir_all(&images).context("cannot make the folder of images")?;
    let (source, program) = (root.join("tmp/pause.c"), root.join("tmp/pause"));
    paths::write(&source, PAUSE_SOURCE)?;
    process::run(Command::new("gcc").args(["-static", "-Os", "-s", "-o"]).arg(&program).arg(&source)).await?;
    image::build(PAUSE_IMAGE, &images.join("pause.tar"), "/pause", &[("/pause", &program)])?;
    for file in [source, program] {
        std::fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    }
    Ok(())
}

/// Writes a unit where a distribution has its own, and enables it.
pub(crate) fn write_enabled_unit(root: &Path, name: &str, text: &str) -> Result<()> {
    paths::write(&root.join(format!("usr/lib/systemd/system/{name}.service")), text)?;
    let wants = root.join("etc/systemd/system/multi-user.target.wants");
    std::fs::create_dir_all(&wants).with_context(|| format!("cannot make {}", wants.display()))?;
    let link = wants.join(format!("{name}.service"));
    let _ = std::fs::remove_file(&link);
    symlink(format!("/usr/lib/systemd/system/{name}.service"), &link)
        .with_context(|| format!("cannot enable {name}.service"))
}
