//! Swap, in a virtual machine with a kernel and a systemd of its own: that of the testbed's machines is the developer's.
//!
//! It is in use at boot, by /etc/fstab; it is turned off, and off after the next boot; turned on by hand, it is turned off
//! again; taken back, it is in use as before, and after one more boot.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use testbed::vm::{self, Disk};

use crate::outcome::Outcomes;
use crate::power::until;
use crate::programs;

const SPEC: &str = "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {name: workers}\nspec:\n  \
                    allNodes: true\n  kernel: {swap: Disabled}\n";

/// Run at the end of each boot; what it says is awaited.
const TURNS: &str = r#"#!/bin/sh
shall_be() {
  n=$(tail -n +2 /proc/swaps | wc -l)
  [ "$n" = "$1" ] && echo "$2" || echo "BAD $2: $n swaps are in use"
}
agent() {
  nodebootstrap-agent "$@" > /said 2>&1 || echo "BAD $*: $(tr '\n' ' ' < /said)"
}
boot=$(cat /boots)
case $boot in
1)
  shall_be 1 "as fstab says"
  agent apply --file /nb.yaml
  shall_be 0 "turned off"
  ;;
2)
  shall_be 0 "off after a boot"
  swapon /swapfile
  agent apply --file /nb.yaml
  shall_be 0 "turned off again"
  agent revert workers
  shall_be 1 "as before"
  ;;
3)
  shall_be 1 "as before, after a boot"
  ;;
esac
echo $((boot + 1)) > /boots
sync
echo "end"
"#;

const UNIT: &str = "[Unit]\nAfter=multi-user.target dbus.service\n[Service]\nType=idle\nExecStart=/turns\n\
                    StandardOutput=tty\nTTYPath=/dev/ttyS0\n";

pub(crate) async fn run() -> Result<Outcomes> {
    let begin = Instant::now();
    let name = "swap in a virtual machine";
    if let Some(why) = vm::cannot().await? {
        return Ok(Outcomes::skipped(name, &why));
    }
    let outcome = three_boots().await.map(|()| String::new());
    Ok(Outcomes::of(name, begin, outcome))
}

async fn three_boots() -> Result<()> {
    let folder = testbed::paths::cache_dir()?.join("vm.swap");
    let _ = std::fs::remove_dir_all(&folder);
    let root = folder.join("root");
    std::fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    vm::debian(&root).await?;
    make_root(&root).context("cannot make the virtual machine's root")?;
    let disk = Disk::make(&root, &folder.join("image"), 1000).await?;
    for (boot, lines) in [
        (1, &["as fstab says", "turned off", "end"][..]),
        (2, &["off after a boot", "turned off again", "as before", "end"]),
        (3, &["as before, after a boot", "end"]),
    ] {
        let mut machine = disk.boot()?;
        for line in lines {
            until(&mut machine, line).await.with_context(|| format!("boot {boot}"))?;
        }
        machine.cut().await?;
    }
    std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))
}

/// The machines' own root, with a swap file, and nothing of Kubernetes.
fn make_root(root: &Path) -> Result<()> {
    let write = |path: &str, content: &str| {
        let path = root.join(path);
        std::fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    };
    write("nb.yaml", SPEC)?;
    write("boots", "1\n")?;
    write("etc/fstab", "/swapfile none swap sw 0 0\n")?;
    write("etc/machine-id", "00000000000000000000000000000002\n")?;
    write("turns", TURNS)?;
    std::fs::set_permissions(root.join("turns"), PermissionsExt::from_mode(0o755))?;
    let agent = root.join("usr/local/bin/nodebootstrap-agent");
    std::fs::copy(programs::folder()?.join("nodebootstrap-agent"), &agent)
        .context("cannot copy the agent")?;
    std::fs::set_permissions(&agent, PermissionsExt::from_mode(0o755))?;

    // A swap file has no holes: mkfs would make one of each block of zeros.
    let swap: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(1..)).take(32 << 20).collect();
    std::fs::write(root.join("swapfile"), swap).context("cannot write the swap file")?;
    std::fs::set_permissions(root.join("swapfile"), PermissionsExt::from_mode(0o600))?;
    let made = Command::new("mkswap").arg(root.join("swapfile")).output().context("cannot run mkswap")?;
    ensure!(made.status.success(), "mkswap: {}", String::from_utf8_lossy(&made.stderr));

    vm::bare(root)?;
    write("etc/systemd/system/turns.service", UNIT)?;
    symlink(
        "/etc/systemd/system/turns.service",
        root.join("etc/systemd/system/multi-user.target.wants/turns.service"),
    )
    .context("cannot enable turns.service")
}
