//! A virtual machine with a kernel and a disk of its own, whose power can be cut: in goes a folder that becomes its root
//! file system, out comes what it writes to its console.
//!
//! The kernel is Debian's for virtual machines, which has ext4 and NVMe built in, so that no initial RAM disk is needed;
//! qemu emulates the processor, since hardware virtualisation is not to be had everywhere.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::{paths, prerequisites, process, root};

const QEMU: &str = "qemu-system-x86_64";
/// Depends on the newest kernel of the distribution.
const KERNEL: &str = "linux-image-cloud-amd64";

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
    Ok(paths::cache_dir()?.join("vm"))
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
    let new = paths::cache_dir()?.join("vm.new");
    let _ = std::fs::remove_dir_all(&new);
    std::fs::create_dir_all(&new).with_context(|| format!("cannot make {}", new.display()))?;
    process::run(Command::new("apt-get").current_dir(&new).args(["-qq", "download", package])).await?;
    let entries = std::fs::read_dir(&new).with_context(|| format!("cannot read {}", new.display()))?;
    let archive = entries.flatten().map(|entry| entry.path()).next().context("apt downloaded nothing")?;
    process::run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&new)).await?;
    // Of the package only the kernel is needed.
    for part in ["lib", "usr"] {
        let _ = std::fs::remove_dir_all(new.join(part));
    }
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
        let drive = format!("file={},if=none,id=disk,format=raw,cache=writeback", self.image.display());
        let mut child = Command::new("nice")
            .args(["-n", "19", QEMU, "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "512"])
            .args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-net", "none", "-no-reboot"])
            .args(["-drive", &drive, "-device", "nvme,drive=disk,serial=disk", "-kernel"])
            .arg(&self.kernel)
            .args(["-append", "root=/dev/nvme0n1 rootwait rw init=/init console=ttyS0 quiet panic=-1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {QEMU}"))?;
        let stdout = child.stdout.take().context("no console")?;
        Ok(Running { child, console: BufReader::new(stdout).lines() })
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

    /// Cuts its power: what it had not brought to its disk is gone.
    pub async fn cut(mut self) -> Result<()> {
        self.child.kill().await.context("cannot kill the virtual machine")
    }
}
