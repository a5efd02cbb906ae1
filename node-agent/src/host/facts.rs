//! What a machine is: its architecture and its ids.

use super::{HostError, Root};

/// What is known of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// As Kubernetes names architectures: amd64, arm64.
    pub arch: &'static str,
    /// From /etc/machine-id; empty if there is none.
    pub machine_id: String,
    /// The id of this boot.
    pub boot_id: String,
}

impl Facts {
    /// Looks at the machine.
    ///
    /// # Errors
    /// If it is none that is supported.
    pub fn gather(root: &Root) -> Result<Self, HostError> {
        Ok(Self {
            arch: arch()?,
            machine_id: line(root.read("/etc/machine-id", 4096).ok().flatten()),
            // Of the kernel, which pod and host share; /proc is no file of the host's disk.
            boot_id: line(std::fs::read("/proc/sys/kernel/random/boot_id").ok()),
        })
    }
}

/// The architecture that this program was built for is that of the machine it runs on.
fn arch() -> Result<&'static str, HostError> {
    match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => Ok("amd64"),
        ("linux", "aarch64") => Ok("arm64"),
        (os, arch) => Err(HostError::Unsupported(format!(
            "{os} on {arch} is not supported: linux on amd64 or arm64 is"
        ))),
    }
}

fn line(bytes: Option<Vec<u8>>) -> String {
    String::from_utf8_lossy(&bytes.unwrap_or_default()).trim().to_owned()
}
