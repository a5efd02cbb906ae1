//! Kubernetes' own programs: in go the go.mod and go.sum beside this crate, out comes a folder in the cache with
//! kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kube-proxy, kubectl and etcd; and, only where it is
//! asked for, another with the kubelet of an older version.
//!
//! A folder's name holds a hash of all that goes in, so that tests and demo share it and an edit makes a new one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use tokio::process::Command;

use crate::{paths, prerequisites, process};

/// The version of Kubernetes that is built.
pub const KUBERNETES_VERSION: &str = "v1.36.3";

/// The version of the older kubelet.
pub const OLDER_KUBELET_VERSION: &str = "v1.36.1";

const CLUSTER: Source = Source {
    name: "kubernetes",
    version: KUBERNETES_VERSION,
    go_mod: include_str!("../go/go.mod"),
    go_sum: include_str!("../go/go.sum"),
};
const OLDER_KUBELET: Source = Source {
    name: "kubelet",
    version: OLDER_KUBELET_VERSION,
    go_mod: include_str!("../go/kubelet-1.36.1/go.mod"),
    go_sum: include_str!("../go/kubelet-1.36.1/go.sum"),
};
const COMMANDS: &[&str] =
    &["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"];
/// Go names this program after its folder, `server`.
const ETCD: &str = "go.etcd.io/etcd/server/v3";

/// The built programs.
#[derive(Debug, Clone)]
pub(crate) struct Binaries {
    dir: PathBuf,
}

impl Binaries {
    /// The path of a program.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The programs of a node at their place, as one layer of a machine's overlay: no machine needs a copy.
    pub(crate) fn layer(&self) -> PathBuf {
        self.dir.join("layer")
    }

    /// What is in the cache already.
    pub(crate) fn cached() -> Result<Option<Binaries>> {
        Ok(CLUSTER.cached()?.map(|dir| Binaries { dir }))
    }

    /// Gives what the cache has, or builds it: 5 minutes on two cores with an empty Go cache, half a minute with a
    /// warm one.
    pub(crate) async fn ensure() -> Result<Binaries> {
        let dir = CLUSTER.ensure("Kubernetes and etcd", 5, Self::build).await?;
        Ok(Binaries { dir })
    }

    async fn build(module: PathBuf, out: PathBuf) -> Result<()> {
        let packages: Vec<String> = COMMANDS.iter().map(|c| format!("k8s.io/kubernetes/cmd/{c}")).collect();
        process::run(CLUSTER.go_build(&module, "0").arg(out.join("etcd")).arg(ETCD)).await?;
        // A trailing slash tells Go that many programs go into a folder. One call, so that it sees to the order.
        let folder = format!("{}/", out.display());
        process::run(CLUSTER.go_build(&module, "0").arg(folder).args(packages)).await?;
        for name in COMMANDS {
            write_digest(&out.join(name))?;
        }
        let layer = out.join("layer/usr/bin");
        std::fs::create_dir_all(&layer).with_context(|| format!("cannot make {}", layer.display()))?;
        for name in ["kubelet", "kube-proxy"] {
            std::fs::hard_link(out.join(name), layer.join(name))
                .with_context(|| format!("cannot link {name}"))?;
        }
        Ok(())
    }
}

/// The kubelet of [`OLDER_KUBELET_VERSION`], if the cache has it.
pub(crate) fn cached_older_kubelet() -> Result<Option<PathBuf>> {
    Ok(OLDER_KUBELET.cached()?.map(|dir| dir.join("kubelet")))
}

/// The kubelet of [`OLDER_KUBELET_VERSION`]: what the cache has, or built now, which takes 2 minutes on two cores that
/// nothing else wants.
///
/// # Errors
/// If it cannot be built.
pub async fn older_kubelet() -> Result<PathBuf> {
    if let Some(kubelet) = cached_older_kubelet()? {
        return Ok(kubelet);
    }
    // Most of what it is made of is built then, and nobody waits for the one while the other has the processor.
    Binaries::ensure().await?;
    let build = async |module: PathBuf, out: PathBuf| {
        let kubelet = out.join("kubelet");
        // Whoever needs it waits anyway; whoever does not shall not notice.
        process::run(
            OLDER_KUBELET.go_build(&module, "19").arg(&kubelet).arg("k8s.io/kubernetes/cmd/kubelet"),
        )
        .await?;
        write_digest(&kubelet)
    };
    Ok(OLDER_KUBELET.ensure("a second kubelet", 2, build).await?.join("kubelet"))
}

/// One module of Go that programs are built from.
#[derive(Debug)]
struct Source {
    /// What its folders in the cache are called.
    name: &'static str,
    /// The version that its programs say.
    version: &'static str,
    go_mod: &'static str,
    go_sum: &'static str,
}

impl Source {
    /// The folder in the cache, if it is there. It gets its name only when all is in it.
    fn cached(&self) -> Result<Option<PathBuf>> {
        let dir = self.dir()?;
        Ok(dir.is_dir().then_some(dir))
    }

    /// Gives what the cache has, or has it built from the module in the first folder into the second.
    async fn ensure(
        &self,
        what: &str,
        minutes: u32,
        build: impl AsyncFnOnce(PathBuf, PathBuf) -> Result<()>,
    ) -> Result<PathBuf> {
        if let Some(dir) = self.cached()? {
            return Ok(dir);
        }
        let Source { name, version, go_mod, go_sum } = self;
        let (dir, cache) = (self.dir()?, paths::cache_dir()?);
        let _lock = paths::lock(&cache.join(format!("{name}.lock"))).await?;
        if let Some(dir) = self.cached()? {
            return Ok(dir);
        }
        eprintln!("building {what} {version} from source, once (about {minutes} min)");
        let module = cache.join(format!("{name}.module"));
        paths::write(&module.join("go.mod"), go_mod)?;
        paths::write(&module.join("go.sum"), go_sum)?;
        let out = cache.join(format!("{name}.new"));
        let _ = std::fs::remove_dir_all(&out);
        std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
        build(module.clone(), out.clone()).await?;
        std::fs::rename(&out, &dir).with_context(|| format!("cannot rename {}", out.display()))?;
        let _ = std::fs::remove_dir_all(&module);
        Ok(dir)
    }

    /// `go build`, up to the word for where the program goes.
    fn go_build(&self, module: &Path, nice: &str) -> Command {
        let mut command = Command::new("nice");
        command.args(["-n", nice]).arg(prerequisites::go());
        // The compiler takes more memory (some 1 GB) and less time for its garbage.
        command.current_dir(module).env("GOGC", "400").env("CGO_ENABLED", "0").args([
            "build",
            "-trimpath",
            // Nobody debugs them.
            "-gcflags=all=-dwarf=false",
            "-ldflags",
            &self.link_flags(),
            "-o",
        ]);
        command
    }

    fn dir(&self) -> Result<PathBuf> {
        let mut hash = Sha256::new();
        for part in [self.go_mod, self.go_sum, &self.link_flags()] {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        let key = hex::encode(hash.finalize());
        Ok(paths::cache_dir()?.join(format!("{}-{}-{}", self.name, self.version, &key[..16])))
    }

    /// Without these the programs call themselves v0.0.0, and version skew rules cannot be tested.
    fn link_flags(&self) -> String {
        let mut numbers = self.version.trim_start_matches('v').split('.');
        let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
        let (package, version) = ("k8s.io/component-base/version", self.version);
        format!(
            "-s -w -X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
        )
    }
}

/// The SHA-256 of a program as hex, computed once when it was built.
pub(crate) fn sha256(program: &Path) -> Result<String> {
    let file = program.with_added_extension("sha256");
    std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
}

fn write_digest(program: &Path) -> Result<()> {
    let bytes = std::fs::read(program).with_context(|| format!("Go built no {}", program.display()))?;
    paths::write(&program.with_added_extension("sha256"), hex::encode(Sha256::digest(&bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_in_the_code_is_the_one_in_go_mod() {
        for source in [CLUSTER, OLDER_KUBELET] {
            let named =
                source.go_mod.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes v"));
            let version = named.and_then(|rest| rest.split_whitespace().next());
            assert_eq!(version, Some(source.version.trim_start_matches('v')));
            assert!(source.link_flags().ends_with("gitMinor=36"), "{}", source.link_flags());
        }
    }
}
