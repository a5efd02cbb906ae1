//! What must be on this machine: in goes nothing, out comes either nothing or one clear text that lists all that is
//! missing, before anything was done. What apt can bring is told and then installed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::{paths, process};

/// Free space that a cold start needs: Go's own cache 4 GB, the binaries and the machines' root 1.5 GB, and room.
const COLD_GIB: u64 = 8;
/// Free space that a start with warm caches needs.
const WARM_GIB: u64 = 2;
const GO: (u32, u32) = (1, 26);

/// A file that must be there, and the Debian package that brings it.
const NEEDED: &[(&str, &str)] = &[
    ("debootstrap", "debootstrap"),
    ("systemd-nspawn", "systemd-container"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
    ("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring"),
    ("/etc/ssl/certs/ca-certificates.crt", "ca-certificates"),
];

/// Checks the machine, then installs by apt what is missing. `warm` says that nothing is to be built.
pub(crate) async fn ensure(warm: bool) -> Result<()> {
    let mut lacks = Vec::new();
    if effective_uid()? != 0 {
        lacks
            .push("root: mounts, network namespaces and systemd-nspawn need it; run it with sudo".to_owned());
    }
    let need = if warm { WARM_GIB } else { COLD_GIB };
    for place in [paths::cache_dir()?, PathBuf::from(paths::STATE_ROOT)] {
        let free = free_gib(&place).await?;
        if free < need {
            lacks.push(format!("disk: {need} GiB free at {}, there are {free}", place.display()));
        }
    }
    if !warm {
        match go_version(&go()).await {
            Some(version) if version >= GO => {}
            Some((major, minor)) => {
                lacks.push(format!("Go {}.{} or newer, this is {major}.{minor}", GO.0, GO.1))
            }
            None => lacks.push(format!("Go {}.{} or newer (`go` in PATH or /usr/local/go/bin)", GO.0, GO.1)),
        }
        if find("gcc").is_none() {
            lacks.push("gcc".to_owned());
        }
    }
    let packages = missing(NEEDED);
    if !packages.is_empty() && find("apt-get").is_none() {
        lacks.push(format!(
            "what the Debian packages {} bring, and there is no apt-get here",
            packages.join(", ")
        ));
    }
    if !lacks.is_empty() {
        bail!("the testbed cannot start here; missing:\n  - {}", lacks.join("\n  - "));
    }
    bring(NEEDED).await
}

/// The packages that bring those of these files which are not there.
fn missing<'a>(files: &[(&str, &'a str)]) -> Vec<&'a str> {
    files.iter().filter(|(file, _)| find(file).is_none()).map(|(_, package)| *package).collect()
}

/// Installs by apt what of these files is missing.
pub(crate) async fn bring(files: &[(&str, &str)]) -> Result<()> {
    if missing(files).is_empty() {
        return Ok(());
    }
    // Two testbeds may begin at once; who came second finds that all is there.
    let _lock = paths::lock(&paths::cache_dir()?.join("apt.lock")).await?;
    let packages = missing(files);
    if packages.is_empty() {
        return Ok(());
    }
    eprintln!("installing by apt: {}", packages.join(" "));
    install(&packages).await
}

async fn install(packages: &[&str]) -> Result<()> {
    let apt = || {
        let mut command = Command::new("apt-get");
        // Somebody else's apt is waited for, as the one that a fresh machine runs by itself.
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-qy", "-oDPkg::Lock::Timeout=600"]);
        command
    };
    let install = || {
        let mut command = apt();
        command.args(["install", "--no-install-recommends"]).args(packages);
        command
    };
    // The lists may be there already; only if they are not, or are too old, do they have to be fetched.
    if process::output(&mut install()).await?.success() {
        return Ok(());
    }
    process::run(apt().arg("update")).await?;
    process::run(&mut install()).await.map(drop).context("apt could not install what is missing")
}

/// Go's command: from PATH, or where its own archive unpacks to, which sudo's PATH often lacks.
pub(crate) fn go() -> PathBuf {
    find("go").unwrap_or_else(|| PathBuf::from("/usr/local/go/bin/go"))
}

async fn go_version(go: &Path) -> Option<(u32, u32)> {
    let text = process::run(Command::new(go).args(["env", "GOVERSION"])).await.ok()?;
    parse_go_version(text.trim())
}

fn parse_go_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("go")?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

pub(crate) fn find(file: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        // root's PATH under `su` lacks the sbin folders, where debootstrap lies.
        .chain(["/usr/sbin", "/sbin"])
        .map(|dir| Path::new(dir).join(file))
        .find(|candidate| candidate.is_file())
}

/// The effective user id, from /proc, since asking the kernel directly would need one crate more.
fn effective_uid() -> Result<u32> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1)?.parse().ok())
        .context("/proc/self/status names no user")
}

/// Free space of the file system that a folder lies on, or will lie on.
async fn free_gib(place: &Path) -> Result<u64> {
    let there = place.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let text = process::run(Command::new("df").args(["--output=avail", "-B1"]).arg(there)).await?;
    let bytes: u64 = text
        .lines()
        .nth(1)
        .and_then(|line| line.trim().parse().ok())
        .with_context(|| format!("df says nothing about {}", there.display()))?;
    Ok(bytes >> 30)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_candidates_and_patch_releases_of_go_are_understood() {
        assert_eq!(parse_go_version("go1.26.8"), Some((1, 26)));
        assert_eq!(parse_go_version("go1.27rc1"), Some((1, 27)));
        assert_eq!(parse_go_version("devel"), None);
    }
}
