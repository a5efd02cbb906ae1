//! The running kernel: its modules, its settings below /proc/sys, and the swap that it uses.
//!
//! In: a name. Out: whether a module is there, the value of a setting; a setting with another value; what swap is in use.

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

/// Swap that is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swap {
    /// The device or file.
    pub path: String,
    /// The unit by which systemd knows it.
    pub unit: String,
    /// How much of it holds something, in KiB.
    pub used: u64,
}

/// The swap that is in use.
///
/// # Errors
/// If the kernel does not tell.
pub fn swaps(root: &Root) -> Result<Vec<Swap>, HostError> {
    let text = root.read("/proc/swaps", MAX_VALUE)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&text).lines().skip(1).filter_map(swap).collect())
}

/// A line of /proc/swaps, as `/dev/sda2 partition 1048572 0 -2`.
fn swap(line: &str) -> Option<Swap> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let path = unescaped(fields.first()?);
    Some(Swap { unit: swap_unit(&path), used: fields.get(3)?.parse().ok()?, path })
}

/// A path as the kernel writes it in lists: three octal digits stand for what would end a field.
fn unescaped(field: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = field.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal =
            after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The name of the unit of a swap, as systemd.unit(5) says that paths become names.
fn swap_unit(path: &str) -> String {
    let mut name = String::new();
    for (index, byte) in path.trim_matches('/').bytes().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if index > 0 => name.push('.'),
            b':' | b'_' => name.push(byte.into()),
            plain if plain.is_ascii_alphanumeric() => name.push(plain.into()),
            other => name.push_str(&format!("\\x{other:02x}")),
        }
    }
    format!("{name}.swap")
}

/// How much memory can be had without swapping, in KiB.
///
/// # Errors
/// If the kernel does not tell.
pub fn available(root: &Root) -> Result<u64, HostError> {
    let text = root.read("/proc/meminfo", MAX_VALUE)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let value = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let number = value.and_then(|value| value.split_whitespace().next()?.parse().ok());
    number
        .ok_or_else(|| HostError::Unsupported("/proc/meminfo has no MemAvailable: is this Linux?".to_owned()))
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
    fn swap_is_known_by_its_unit() {
        let of = |line| swap(line).map(|swap| (swap.path, swap.unit, swap.used));
        for (line, path, unit, used) in [
            (
                "/dev/sda2                               partition\t1048572\t\t12\t\t-2",
                "/dev/sda2",
                "dev-sda2.swap",
                12,
            ),
            ("/swap\\040file file 1024 0 -3", "/swap file", "swap\\x20file.swap", 0),
            ("/.swap/a-b file 1024 0 -3", "/.swap/a-b", "\\x2eswap-a\\x2db.swap", 0),
        ] {
            assert_eq!(of(line), Some((path.to_owned(), unit.to_owned(), used)), "{line}");
        }
        assert_eq!(of(""), None);
    }

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
