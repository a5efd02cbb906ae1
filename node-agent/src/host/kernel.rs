//! The running kernel: its modules, and its settings below /proc/sys.
//!
//! In: a name. Out: whether a module is there, the value of a setting; a setting with another value.

use std::io::Write;

use rustix::fs::{Mode, OFlags};

use super::failpoint::reach;
use super::root::errno_of;
use super::{HostError, Root};

/// The longest value that is read, in bytes.
const MAX_VALUE: u64 = 64 << 10;
/// The largest list of modules that is read, in bytes.
const MAX_LIST: u64 = 16 << 20;

/// How a kernel module is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Module {
    /// It is loaded, or a part of the kernel.
    Loaded,
    /// It can be loaded.
    Loadable,
    /// This kernel has none of that name.
    Unknown,
}

/// How a module is. `-` and `_` in its name are one.
///
/// # Errors
/// If the lists of this kernel's modules cannot be read.
pub fn module(root: &Root, name: &str) -> Result<Module, HostError> {
    let name = name.replace('-', "_");
    if root.locate(&format!("/sys/module/{name}"))?.look()?.is_some() {
        return Ok(Module::Loaded);
    }
    let Some(release) = setting(root, "kernel.osrelease")? else { return Ok(Module::Unknown) };
    for (list, found) in [("modules.builtin", Module::Loaded), ("modules.dep", Module::Loadable)] {
        let text = root.read(&format!("/lib/modules/{release}/{list}"), MAX_LIST)?.unwrap_or_default();
        if String::from_utf8_lossy(&text).lines().any(|line| is_of(line, &name)) {
            return Ok(found);
        }
    }
    Ok(Module::Unknown)
}

/// Whether a line of a list, as `kernel/net/bridge/br_netfilter.ko.zst: …`, is that of a module.
fn is_of(line: &str, name: &str) -> bool {
    let path = line.split(':').next().unwrap_or_default();
    let file = path.rsplit('/').next().unwrap_or_default();
    file.split_once(".ko").is_some_and(|(stem, _)| stem.replace('-', "_") == name)
}

/// Where a setting lies. A dot in a name is written `/`.
fn path_of(name: &str) -> String {
    let swap = |character| match character {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    format!("/proc/sys/{}", name.chars().map(swap).collect::<String>())
}

/// The value of a setting, its words parted by single spaces; `None` if the kernel has no such setting.
///
/// # Errors
/// If it cannot be read.
pub fn setting(root: &Root, name: &str) -> Result<Option<String>, HostError> {
    let value = root.locate(&path_of(name))?.read(MAX_VALUE)?;
    Ok(value.map(|(value, _)| words(&String::from_utf8_lossy(&value))))
}

/// A value, its words parted by single spaces: the kernel writes tabs where people write spaces.
pub fn words(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Gives a setting another value.
///
/// # Errors
/// If the kernel has no such setting, or does not take the value.
pub fn set(root: &Root, name: &str, value: &str) -> Result<(), HostError> {
    let place = root.locate(&path_of(name))?;
    let at = |action| HostError::io(&place.real, action);
    let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file =
        rustix::fs::openat(place.fd(), place.name.as_str(), flags, Mode::empty()).map_err(at("open"))?;
    reach();
    // In one call: the kernel takes each for a whole value.
    std::fs::File::from(file)
        .write_all(format!("{value}\n").as_bytes())
        .map_err(|error| at("take the value that the spec has")(errno_of(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_their_files() {
        assert_eq!(path_of("net.ipv4.ip_forward"), "/proc/sys/net/ipv4/ip_forward");
        assert_eq!(path_of("net.ipv4.conf.eth0/100.rp_filter"), "/proc/sys/net/ipv4/conf/eth0.100/rp_filter");
        assert!(is_of(
            "kernel/net/bridge/br-netfilter.ko.zst: kernel/net/bridge/bridge.ko.zst",
            "br_netfilter"
        ));
        assert!(!is_of("kernel/net/bridge/br_netfilter.ko: kernel/net/bridge/bridge.ko", "bridge"));
    }
}
