//! Kubernetes' own programs: in go the go.mod and go.sum beside this crate, out comes a folder in the cache with
//! kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kube-proxy, kubectl and etcd.
//!
//! The folder's name holds a hash of all that goes in, so that tests and demo share it and an edit makes a new one.

use std::path::PathBuf;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use tokio::process::Command;

use crate::{paths, prerequisites, process};

/// The version of Kubernetes that is built.
pub const KUBERNETES_VERSION: &str = "v1.36.3";

const GO_MOD: &str = include_str!("../go/go.mod");
const GO_SUM: &str = include_str!("../go/go.sum");
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

    /// The SHA-256 of a program as hex, computed once when it was built.
    pub(crate) fn sha256(&self, name: &str) -> Result<String> {
        let file = self.dir.join(format!("{name}.sha256"));
        std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
    }

    /// The programs of a node at their place, as one layer of a machine's overlay: no machine needs a copy.
    pub(crate) fn layer(&self) -> PathBuf {
        self.dir.join("layer")
    }

    /// What is in the cache already.
    pub(crate) fn cached() -> Result<Option<Binaries>> {
        let dir = dir()?;
        // The folder gets its name only when all is in it.
        Ok(dir.is_dir().then_some(Binaries { dir }))
    }

    /// Gives what the cache has, or builds it: 5 minutes on two cores with an empty Go cache, half a minute with a
    /// warm one.
    pub(crate) async fn ensure() -> Result<Binaries> {
        if let Some(binaries) = Self::cached()? {
            return Ok(binaries);
        }
        let dir = dir()?;
        let cache = paths::cache_dir()?;
        let _lock = paths::lock(&cache.join("kubernetes.lock")).await?;
        if let Some(binaries) = Self::cached()? {
            return Ok(binaries);
        }
        eprintln!("building Kubernetes {KUBERNETES_VERSION} and etcd from source, once (about 5 min)");
        let module = cache.join("kubernetes.module");
        paths::write(&module.join("go.mod"), GO_MOD)?;
        paths::write(&module.join("go.sum"), GO_SUM)?;
        let out = cache.join("kubernetes.new");
        let _ = std::fs::remove_dir_all(&out);
        std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;

        let build = || {
            let mut command = Command::new(prerequisites::go());
            // The compiler takes more memory (some 1 GB) and less time for its garbage.
            command.current_dir(&module).env("GOGC", "400").env("CGO_ENABLED", "0").args([
                "build",
                "-trimpath",
                // Nobody debugs them.
                "-gcflags=all=-dwarf=false",
                "-ldflags",
                &link_flags(),
                "-o",
            ]);
            command
        };
        let packages: Vec<String> = COMMANDS.iter().map(|c| format!("k8s.io/kubernetes/cmd/{c}")).collect();
        process::run(build().arg(out.join("etcd")).arg(ETCD)).await?;
        // A trailing slash tells Go that many programs go into a folder. One call, so that it sees to the order.
        process::run(build().arg(format!("{}/", out.display())).args(packages)).await?;

        for name in COMMANDS {
            let bytes = std::fs::read(out.join(name)).with_context(|| format!("Go built no {name}"))?;
            paths::write(&out.join(format!("{name}.sha256")), hex::encode(Sha256::digest(&bytes)))?;
        }
        let layer = out.join("layer/usr/bin");
        std::fs::create_dir_all(&layer).with_context(|| format!("cannot make {}", layer.display()))?;
        for name in ["kubelet", "kube-proxy"] {
            std::fs::hard_link(out.join(name), layer.join(name))
                .with_context(|| format!("cannot link {name}"))?;
        }
        std::fs::rename(&out, &dir).with_context(|| format!("cannot rename {}", out.display()))?;
        let _ = std::fs::remove_dir_all(&module);
        Ok(Binaries { dir })
    }
}

fn dir() -> Result<PathBuf> {
    let mut hash = Sha256::new();
    for part in [GO_MOD, GO_SUM, &link_flags()] {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    let key = hex::encode(hash.finalize());
    Ok(paths::cache_dir()?.join(format!("kubernetes-{KUBERNETES_VERSION}-{}", &key[..16])))
}

/// Without these the programs call themselves v0.0.0, and version skew rules cannot be tested.
fn link_flags() -> String {
    let mut numbers = KUBERNETES_VERSION.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let package = "k8s.io/component-base/version";
    format!(
        "-s -w -X {package}.gitVersion={KUBERNETES_VERSION} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_in_the_code_is_the_one_in_go_mod() {
        let named = GO_MOD.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes v"));
        let version = named.and_then(|rest| rest.split_whitespace().next());
        assert_eq!(version, Some(KUBERNETES_VERSION.trim_start_matches('v')));
        assert!(link_flags().ends_with("gitMinor=36"), "{}", link_flags());
    }
}
