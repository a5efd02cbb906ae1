//! The checks of a node before presets are applied. Pure.
//!
//! In: what is asked for, and the [`Facts`]. Out: a problem for what is sure to fail, a warning for what may; each named, so
//! that whoever knows better overrides it by its name. That a path lies on a file system which is read-only, or has no room,
//! is found for all resources alike, and not here.

use crds::component::Kubelet;
use crds::kubelet_fields::minor_of;
use crds::nodebootstrap::SwapPolicy;
use crds::revision::Presets;
use serde_json::Value;

use super::facts::{CgroupVersion, FoundKubelet};
use super::kubelet::refusal;
use super::{Expansion, Facts};
use crate::host::kubelet::HEALTHZ_PORT;

/// Where kubelets answer: the field, the flag, and the port without either.
const PORTS: [(&str, &str, u16); 2] =
    [("port", "port", 10250), ("healthzPort", "healthz-port", HEALTHZ_PORT)];
/// What pods' name resolution is made of, unless the configuration names another file.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The first minor version of the kubelet that does not start on cgroups of version 1.
const NO_CGROUP_V1: u32 = 35;
/// The numbers of a version.
type Version = (u32, u32, u32);
/// For each minor version of the kubelet: the releases of containerd that its project supports with it, each with the first
/// patch version; a later one is as good.
const CONTAINERD: [(u32, &[Version]); 3] = [
    (34, &[(1, 7, 28), (2, 0, 6), (2, 1, 3)]),
    (35, &[(1, 7, 28), (2, 1, 5), (2, 2, 0)]),
    (36, &[(2, 2, 0), (2, 3, 0)]),
];

/// What a check found.
enum Found {
    /// It is sure to fail.
    Fails(String),
    /// It may fail.
    Warns(String),
}

use Found::{Fails, Warns};

type Check = fn(&Asked<'_>) -> Option<Found>;

/// All checks, by name.
const CHECKS: [(&str, Check); 13] = [
    ("CgroupDriver", cgroup_driver),
    ("CgroupV1", cgroup_v1),
    ("ContainerdVersion", containerd_version),
    ("DiskSpace", disk_space),
    ("HostName", host_name),
    ("KernelVersion", kernel_version),
    ("MachineId", machine_id),
    ("Ports", ports),
    ("ResolvConf", resolv_conf),
    ("SELinux", selinux),
    ("Swap", swap),
    ("Systemd", systemd),
    ("TimeSync", time_sync),
];

/// Adds a problem for what is sure to fail, and a warning for what may.
pub fn check(presets: &Presets, facts: &Facts, out: &mut Expansion) {
    let is_ignored = |name: &str| presets.ignored_checks.iter().any(|ignored| ignored == name);
    for name in &presets.ignored_checks {
        if !CHECKS.iter().any(|(known, _)| known == name) {
            let known: Vec<&str> = CHECKS.iter().map(|(known, _)| *known).collect();
            out.warn(format!("preflight.ignore: there is no check {name}: there are {}", known.join(", ")));
        }
    }
    let asked = Asked { presets, facts };
    for (name, check) in CHECKS {
        if is_ignored(name) {
            continue;
        }
        match check(&asked) {
            Some(Fails(message)) => {
                // A Report cuts what is long: the name stands first.
                let message = format!("{message} (preflight.ignore: [{name}] overrides)");
                out.problem(&format!("preflight {name}"), name, message);
            }
            Some(Warns(message)) => out.warn(format!("preflight {name}: {message}")),
            None => {}
        }
    }
}

/// The driver of cgroups that the kubelet will have; `None`: nothing says.
pub fn driver_of_cgroups(presets: &Presets, facts: &Facts) -> Option<String> {
    let asked = Asked { presets, facts };
    // A kubelet that is set up anew gets systemd's.
    let of_new = || asked.kubelet().filter(|_| asked.found().is_none()).map(|_| "systemd".to_owned());
    asked.value("cgroupDriver", "cgroup-driver").or_else(of_new)
}

/// The files that a kubelet needs and that no preset makes.
pub fn needed_files(presets: &Presets, facts: &Facts) -> Vec<String> {
    let asked = Asked { presets, facts };
    asked.kubelet().and_then(|_| asked.resolv_conf()).into_iter().collect()
}

/// The ports that a kubelet needs.
pub fn needed_ports(presets: &Presets, facts: &Facts) -> Vec<u16> {
    let asked = Asked { presets, facts };
    if asked.kubelet().is_none() {
        return Vec::new();
    }
    let port = |(field, flag, default): &(&str, &str, u16)| {
        let given = asked.value(field, flag).map(|value| value.parse().unwrap_or(0));
        given.unwrap_or(*default)
    };
    // 0: it does not listen.
    PORTS.iter().map(port).filter(|port| *port != 0).collect()
}

/// What is asked of a node.
struct Asked<'a> {
    presets: &'a Presets,
    facts: &'a Facts,
}

impl<'a> Asked<'a> {
    /// The kubelet that is asked for; `None`: none, or one that the node will not get.
    fn kubelet(&self) -> Option<&'a Kubelet> {
        self.presets.kubelet.as_ref().filter(|kubelet| refusal(kubelet, self.facts).is_none())
    }

    fn found(&self) -> Option<&'a FoundKubelet> {
        self.facts.kubelet.as_ref()
    }

    /// What the kubelet's configuration will say of a field: what is asked for, else what the node has.
    fn field(&self, name: &str) -> Option<&'a Value> {
        let asked = self.kubelet().and_then(|kubelet| kubelet.config.as_ref()?.get(name));
        asked.or_else(|| self.found()?.config.as_ref()?.get(name))
    }

    /// The value of a flag that a kubelet will have, which counts more than a field.
    fn flag(&self, name: &str) -> Option<&'a str> {
        let asked = self.kubelet().and_then(|kubelet| kubelet.extra_args.get(name));
        asked.map(String::as_str).or_else(|| self.found()?.flag(name))
    }

    /// The value of a field, or of the flag that is for the same, as text.
    fn value(&self, field: &str, flag: &str) -> Option<String> {
        let as_text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        self.flag(flag).map(str::to_owned).or_else(|| self.field(field).map(as_text))
    }

    /// Whether a field is true, or what it is by default.
    fn is(&self, field: &str, flag: &str, default: bool) -> bool {
        self.value(field, flag).map_or(default, |value| value == "true")
    }

    /// The kubelet's minor version, of the one that will run.
    fn minor(&self) -> Option<u32> {
        let asked = self.kubelet().and_then(|kubelet| kubelet.version.as_deref());
        minor_of(asked.or_else(|| self.found()?.version.as_deref())?)
    }

    fn resolv_conf(&self) -> Option<String> {
        let path = self.value("resolvConf", "resolv-conf").unwrap_or_else(|| RESOLV_CONF.to_owned());
        (!path.is_empty()).then_some(path)
    }
}

/// The numbers of containerd's version, as 1.6.20~ds1.
fn numbers(version: &str) -> Option<Version> {
    let mut parts = version.splitn(3, '.');
    let mut next = || {
        let digits = parts.next()?;
        let end = digits.find(|sign: char| !sign.is_ascii_digit()).unwrap_or(digits.len());
        digits[..end].parse().ok()
    };
    Some((next()?, next()?, next()?))
}

fn cgroup_driver(asked: &Asked<'_>) -> Option<Found> {
    asked.kubelet()?;
    // Newer ones of containerd tell the kubelet theirs (KEP-4033); else it is this if nothing says (KubeletConfiguration).
    let of_older =
        || asked.facts.containerd.as_ref()?.version.as_deref()?.starts_with("1.").then_some("cgroupfs");
    let now = asked.facts.system.cgroup_driver.as_deref().or_else(of_older);
    let now = now.filter(|_| asked.facts.system.has_joined)?;
    let then = asked.value("cgroupDriver", "cgroup-driver").filter(|then| then != now)?;
    Some(Fails(format!(
        "the kubelet's cgroupDriver is {now} and shall be {then}, on a node that has joined, whose pods keep their cgroups and would be lost: join it anew, or leave it as it is"
    )))
}

fn cgroup_v1(asked: &Asked<'_>) -> Option<Found> {
    asked.kubelet()?;
    if asked.facts.cgroups == CgroupVersion::V2 {
        return None;
    }
    let is_refused = asked.is("failCgroupV1", "fail-cgroupv1", true);
    match asked.minor() {
        Some(minor) if minor >= NO_CGROUP_V1 && is_refused => Some(Fails(format!(
            "cgroups here are version 1, on which kubelet 1.{minor} does not start: boot with systemd.unified_cgroup_hierarchy=1, or write kubelet.config.failCgroupV1: false"
        ))),
        _ => Some(Warns(
            "cgroups here are version 1, which kubelets will give up: plan for systemd.unified_cgroup_hierarchy=1 on the kernel's command line"
                .to_owned(),
        )),
    }
}

fn containerd_version(asked: &Asked<'_>) -> Option<Found> {
    let minor = asked.minor()?;
    let version = asked.facts.containerd.as_ref()?.version.as_deref()?;
    let (_, supported) = CONTAINERD.iter().rev().find(|(first, _)| *first <= minor)?;
    let (major, release, patch) = numbers(version)?;
    let newest = supported.iter().max()?;
    let is_supported = (major, release) > (newest.0, newest.1)
        || supported.iter().any(|first| (first.0, first.1) == (major, release) && patch >= first.2);
    let list: Vec<String> = supported.iter().map(|(a, b, c)| format!("{a}.{b}.{c}")).collect();
    (!is_supported).then(|| {
        Warns(format!(
            "containerd {version} is not among those that its project supports with a kubelet 1.{minor} ({} or later patches of these): upgrade containerd",
            list.join(", ")
        ))
    })
}

fn disk_space(asked: &Asked<'_>) -> Option<Found> {
    let crowded = &asked.facts.system.crowded;
    (!crowded.is_empty()).then(|| {
        Warns(format!(
            "less than a tenth of the disk of {} is free, where kubelets begin to evict pods: free some space",
            crowded.join(" and ")
        ))
    })
}

fn host_name(asked: &Asked<'_>) -> Option<Found> {
    asked.kubelet()?;
    let own = asked.facts.system.host_name.to_lowercase();
    let name = asked.flag("hostname-override").map_or(own, str::to_owned);
    // What only systemd fills in is not known here.
    if name.is_empty() || name.contains(['%', '$']) {
        return None;
    }
    let is_label = |label: &str| {
        let is_plain = |sign: u8| sign.is_ascii_lowercase() || sign.is_ascii_digit();
        let (first, last) = (label.bytes().next(), label.bytes().last());
        first.is_some_and(is_plain)
            && last.is_some_and(is_plain)
            && label.bytes().all(|sign| is_plain(sign) || sign == b'-')
    };
    if name.len() > 253 || !name.split('.').all(is_label) {
        return Some(Fails(format!(
            "the Node would be called {name}, which the API server refuses (a-z, 0-9, - and . between letters or digits): set it by hostnamectl, or kubelet.extraArgs.hostname-override"
        )));
    }
    name.starts_with("localhost").then(|| {
        Warns(format!(
            "the Node would be called {name}, as every host without a name of its own: set it by hostnamectl"
        ))
    })
}

fn kernel_version(asked: &Asked<'_>) -> Option<Found> {
    let (major, minor) = asked.facts.kernel;
    let is_old = major > 0 && (major, minor) < (5, 13);
    is_old.then(|| {
        Warns(format!(
            "the kernel is {major}.{minor}; kube-proxy with nftables needs 5.13: upgrade it, or use iptables"
        ))
    })
}

fn machine_id(asked: &Asked<'_>) -> Option<Found> {
    asked.kubelet()?;
    let id = &asked.facts.system.machine_id;
    let is_one = id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
    let found = if id.is_empty() { "nothing" } else { "no id" };
    (!is_one).then(|| {
        Warns(format!(
            "/etc/machine-id has {found} in it, by which nodes are told apart: run systemd-machine-id-setup"
        ))
    })
}

fn ports(asked: &Asked<'_>) -> Option<Found> {
    asked.kubelet()?;
    let (port, who) = asked.facts.system.ports.first_key_value()?;
    Some(Fails(format!(
        "the kubelet's port {port} is taken by {who}: stop that, or give the kubelet another port in kubelet.config"
    )))
}

fn resolv_conf(asked: &Asked<'_>) -> Option<Found> {
    asked.kubelet()?;
    let path = asked.resolv_conf().filter(|path| asked.facts.system.missing.contains(path))?;
    Some(Fails(format!(
        "{path}, of which pods' resolv.conf is made, is not there: write kubelet.config.resolvConf, as /run/systemd/resolve/resolv.conf with systemd-resolved, or \"\" for none"
    )))
}

fn selinux(asked: &Asked<'_>) -> Option<Found> {
    let mode = if asked.facts.system.selinux? { "enforcing" } else { "permissive" };
    Some(Warns(format!(
        "SELinux is {mode}; presets were not yet seen on a real system with it: look at what it denies (ausearch -m avc) after the first node"
    )))
}

fn swap(asked: &Asked<'_>) -> Option<Found> {
    asked.kubelet()?;
    let swap = &asked.facts.system.swap;
    let is_off =
        asked.presets.kernel.as_ref().is_some_and(|kernel| kernel.swap == Some(SwapPolicy::Disabled));
    if swap.is_empty() || is_off || !asked.is("failSwapOn", "fail-swap-on", true) {
        return None;
    }
    Some(Fails(format!(
        "swap is in use ({}), with which the kubelet does not start: write kernel.swap: Disabled, or kubelet.config.failSwapOn: false",
        swap.join(", ")
    )))
}

fn systemd(asked: &Asked<'_>) -> Option<Found> {
    let init = &asked.facts.system.init;
    (!init.is_empty() && init != "systemd").then(|| {
        Fails(format!("process 1 of this host is {init}, not systemd, which runs all that presets make: use another host"))
    })
}

fn time_sync(asked: &Asked<'_>) -> Option<Found> {
    (asked.facts.system.keeps_time == Some(false)).then(|| {
        Warns(
            "no service keeps this host's time (chrony, systemd-timesyncd, ntpd, ntpsec), and certificates have times: install chrony, unless what this host runs on keeps its time"
                .to_owned(),
        )
    })
}
