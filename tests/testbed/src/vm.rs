//! A virtual machine with a kernel and a disk of its own, whose power can be cut: in goes a folder that becomes its root
//! file system, out comes what it writes to its console.
//!
//! The kernel is Debian's for virtual machines, which has ext4 and NVMe built in, so that no initial RAM disk is needed;
//! qemu emulates the processor, since hardware virtualisation is not to be had everywhere.

use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::{paths, prerequisites, process, root};

const QEMU: &str = "qemu-system-x86_64";
/// Depends on the newest kernel of the distribution.
const KERNEL: &str = "linux-image-cloud-amd64";
/// The address of one that is a node. qemu itself answers for the network around it, and leads its connections on as this
/// machine's own: an API server on this machine is reached by any of this machine's addresses.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// What leads it there.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// Of the kernel's modules: there is no udev in the machines' root that would look for them.
const NETWORK_MODULES: &str = "virtio_pci\nvirtio_net\n";

/// Why there can be no virtual machine here; `None` if there can.
pub async fn cannot() -> Result<Option<String>> {
    if std::env::consts::ARCH != "x86_64" {
        return Ok(Some(format!(
            "this machine is {}, the virtual machine's kernel is for x86_64",
            std::env::consts::ARCH
        )));
    }
    if kernel_file()?.is_some() {
        return Ok(None);
    }
    let known = process::output(Command::new("apt-cache").args(["show", "--no-all-versions", KERNEL])).await;
    Ok(match known {
        Ok(output) if output.success() && !output.stdout.trim().is_empty() => None,
        _ => Some(format!("apt knows no package {KERNEL} here")),
    })
}

fn folder() -> Result<PathBuf> {
    Ok(paths::cache_dir()?.join("vm-kernel"))
}

fn kernel_file() -> Result<Option<PathBuf>> {
    let boot = folder()?.join("boot");
    let Ok(entries) = std::fs::read_dir(&boot) else { return Ok(None) };
    let mut files = entries.flatten().map(|entry| entry.path());
    Ok(files
        .find(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"vmlinuz"))))
}

/// The kernel, fetched once into the cache.
async fn kernel() -> Result<PathBuf> {
    if let Some(kernel) = kernel_file()? {
        return Ok(kernel);
    }
    let depends = process::run(Command::new("apt-cache").args(["depends", KERNEL])).await?;
    let package = depends
        .lines()
        .find_map(|line| {
            line.trim().strip_prefix("Depends: ").filter(|name| name.starts_with("linux-image-"))
        })
        .with_context(|| format!("{KERNEL} depends on no kernel:\n{depends}"))?;
    eprintln!("fetching the virtual machine's kernel, once: {package}");
    let new = paths::cache_dir()?.join("vm-kernel.new");
    let _ = std::fs::remove_dir_all(&new);
    std::fs::create_dir_all(&new).with_context(|| format!("cannot make {}", new.display()))?;
    process::run(Command::new("apt-get").current_dir(&new).args(["-qq", "download", package])).await?;
    let entries = std::fs::read_dir(&new).with_context(|| format!("cannot read {}", new.display()))?;
    let archive = entries.flatten().map(|entry| entry.path()).next().context("apt downloaded nothing")?;
    process::run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&new)).await?;
    let _ = std::fs::remove_file(&archive);
    let folder = folder()?;
    std::fs::rename(&new, &folder).with_context(|| format!("cannot rename {}", new.display()))?;
    kernel_file()?.with_context(|| format!("{package} has no vmlinuz"))
}

/// Copies the root of the testbed's machines, Debian with systemd, into a folder, to become that of a virtual machine.
pub async fn debian(to: &Path) -> Result<()> {
    prerequisites::bring(&[("debootstrap", "debootstrap")]).await?;
    let root = root::ensure().await?;
    process::run(Command::new("cp").arg("-a").arg(root.join(".")).arg(to)).await.map(drop)
}

/// Makes the machines' root that of a virtual machine that starts what it is asked for and nothing else: no unit is wanted
/// at boot, and none waits for devices, since there is no udev to tell of them.
pub fn bare(root: &Path) -> Result<()> {
    symlink("/lib/systemd/systemd", root.join("init")).context("cannot link /init")?;
    let units = root.join("etc/systemd/system");
    let wanted = units.join("multi-user.target.wants");
    std::fs::remove_dir_all(&wanted).context("cannot remove what starts at boot")?;
    std::fs::create_dir(&wanted).context("cannot make the folder of what starts at boot")?;
    for unit in ["serial-getty@ttyS0.service", "systemd-logind.service"] {
        symlink("/dev/null", units.join(unit)).with_context(|| format!("cannot mask {unit}"))?;
    }
    let default = units.join("default.target");
    let _ = std::fs::remove_file(&default);
    symlink("/lib/systemd/system/multi-user.target", default).context("cannot set the target of the boot")
}

/// Gives the root of a virtual machine its kernel's modules, a network, and a shell on its console: each line that
/// [`Running::run`] writes there is a command.
pub async fn with_network_and_shell(root: &Path) -> Result<()> {
    kernel().await?;
    let modules = folder()?.join("lib/modules");
    process::run(Command::new("cp").arg("-a").arg(&modules).arg(root.join("usr/lib"))).await?;
    for entry in std::fs::read_dir(&modules).with_context(|| format!("no {}", modules.display()))? {
        let version = entry.context("cannot read the kernel's modules")?.file_name();
        // The package would have its own script do this.
        process::run(Command::new("chroot").arg(root).args(["depmod", "-a"]).arg(version)).await?;
    }
    paths::write(&root.join("etc/modules-load.d/network.conf"), NETWORK_MODULES)?;
    let network = format!(
        "[Unit]\nBefore=multi-user.target\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
         ExecStart=ip address add {ADDRESS}/24 dev eth0\nExecStart=ip link set eth0 up\n\
         ExecStart=ip route add default via {GATEWAY}\n[Install]\nWantedBy=multi-user.target\n"
    );
    root::write_enabled_unit(root, "testbed-network", &network)?;
    let shell = root.join("usr/lib/testbed/shell");
    paths::write(&shell, SHELL)?;
    std::fs::set_permissions(&shell, PermissionsExt::from_mode(0o755)).context("cannot set a mode")?;
    root::write_enabled_unit(root, "testbed-shell", SHELL_UNIT)
}

/// Commands come line by line; what each wrote ends with a line that says how it ended.
const SHELL: &str = r#"#!/bin/sh
stty -echo
echo "UP $(cat /proc/sys/kernel/random/boot_id)"
while read -r command; do
  # Not to the console itself: what programs write to one they lay out for a person.
  sh -c "$command" < /dev/null > /run/said 2>&1
  code=$?
  sed '$a\' /run/said
  echo "END $code"
done
"#;
const SHELL_UNIT: &str = "[Unit]
Description=Shell on the console
[Service]
Type=idle
ExecStart=/usr/lib/testbed/shell
StandardInput=tty-force
StandardOutput=tty
TTYPath=/dev/ttyS0
[Install]
WantedBy=multi-user.target
";

/// A disk with what a virtual machine needs to boot from it.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    kernel: PathBuf,
}

/// A virtual machine that runs. Dropped, its power is cut.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdin: ChildStdin,
    console: Lines<BufReader<ChildStdout>>,
}

impl Disk {
    /// Makes a disk of so many MiB with an ext4 file system that holds a folder's content. `/init` in it is run at boot;
    /// `/dev` needs a `console`.
    pub async fn make(root: &Path, image: &Path, mebibytes: u32) -> Result<Disk> {
        prerequisites::bring(&[(QEMU, "qemu-system-x86"), ("mkfs.ext4", "e2fsprogs")]).await?;
        let kernel = kernel().await?;
        let _ = std::fs::remove_file(image);
        let size = format!("{mebibytes}M");
        let mut make = Command::new(prerequisites::find("mkfs.ext4").context("no mkfs.ext4")?);
        process::run(make.args(["-q", "-d"]).arg(root).arg(image).arg(size)).await?;
        Ok(Disk { image: image.to_owned(), kernel })
    }

    /// Switches a virtual machine on.
    pub fn boot(&self) -> Result<Running> {
        self.start("512", &["-net", "none"])
    }

    /// As [`Disk::boot`], with room for a kubelet, and a network.
    pub fn boot_node(&self) -> Result<Running> {
        self.start("1200", &["-nic", "user,model=virtio-net-pci"])
    }

    fn start(&self, mebibytes: &str, network: &[&str]) -> Result<Running> {
        let drive = format!("file={},if=none,id=disk,format=raw,cache=writeback", self.image.display());
        let mut child = Command::new("nice")
            .args([
                "-n",
                "19",
                QEMU,
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "max",
                "-smp",
                "2",
                "-m",
                mebibytes,
            ])
            .args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"])
            .args(network)
            .args(["-drive", &drive, "-device", "nvme,drive=disk,serial=disk", "-kernel"])
            .arg(&self.kernel)
            // Nothing that the kernel warns of may stand in the middle of a line that is awaited.
            .args([
                "-append",
                "root=/dev/nvme0n1 rootwait rw init=/init console=ttyS0 quiet loglevel=1 panic=-1",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {QEMU}"))?;
        let stdin = child.stdin.take().context("no console")?;
        let stdout = child.stdout.take().context("no console")?;
        Ok(Running { child, stdin, console: BufReader::new(stdout).lines() })
    }
}

impl Running {
    /// The next line on the console.
    pub async fn line(&mut self) -> Result<String> {
        match self.console.next_line().await {
            Ok(Some(line)) => Ok(line.trim().to_owned()),
            Ok(None) => bail!("the virtual machine ended by itself"),
            Err(error) => Err(error).context("cannot read the console"),
        }
    }

    /// Writes a line to the console.
    pub async fn write(&mut self, line: &str) -> Result<()> {
        self.stdin.write_all(format!("{line}\n").as_bytes()).await.context("cannot write to the console")
    }

    /// Runs a command by the shell of [`with_network_and_shell`]; what it wrote, or an error if it fails.
    pub async fn run(&mut self, command: &str) -> Result<String> {
        let mut said = String::new();
        self.write(command).await?;
        loop {
            let line = self.line().await?;
            match line.strip_prefix("END ") {
                Some("0") => return Ok(said.trim_end().to_owned()),
                Some(code) => bail!("{command}: ended with {code}: {said}"),
                None => said = said + &line + "\n",
            }
        }
    }

    /// Waits until it has switched itself off.
    pub async fn ended(&mut self) -> Result<()> {
        while let Ok(Some(_)) = self.console.next_line().await {}
        self.child.wait().await.map(drop).context("cannot wait for the virtual machine")
    }

    /// Cuts its power: what it had not brought to its disk is gone.
    pub async fn cut(mut self) -> Result<()> {
        self.child.kill().await.context("cannot kill the virtual machine")
    }
}
