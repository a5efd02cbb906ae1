//! The kernel of a node of Kubernetes: modules and settings.

use crds::nodebootstrap::Kernel;
use crds::revision::render_kernel;

use super::{Expansion, Facts};

/// The modules that it needs: pods' file systems, what is filtered between pods on one bridge, and connections that are kept
/// track of.
pub const MODULES: [&str; 3] = ["br_netfilter", "nf_conntrack", "overlay"];

/// The module that brings the settings of bridges.
const BRIDGE: &str = "br_netfilter";
/// One of those: a kernel may have them without a module.
const OF_BRIDGE: &str = "net.bridge.bridge-nf-call-iptables";

/// When a setting is made.
#[derive(Clone, Copy)]
enum When {
    /// Always.
    Always,
    /// If its value is less: nothing is taken from a host that allows more.
    IfLess,
    /// If it has no value: somebody may have had a reason.
    IfNone,
    /// Always; it comes with [`BRIDGE`].
    OfBridge,
}

/// The settings that it needs, and those that are commonly found to be too low. The middle part is what the kubelet asks for
/// with `protectKernelDefaults`. Forwarding of IPv6 is not among them: it ends the router advertisements by which a host may
/// have its own address.
const SETTINGS: [(&str, &str, When); 12] = [
    ("net.ipv4.ip_forward", "1", When::Always),
    (OF_BRIDGE, "1", When::OfBridge),
    ("net.bridge.bridge-nf-call-ip6tables", "1", When::OfBridge),
    ("vm.overcommit_memory", "1", When::Always),
    ("vm.panic_on_oom", "0", When::Always),
    ("kernel.panic", "10", When::Always),
    ("kernel.panic_on_oops", "1", When::Always),
    ("kernel.keys.root_maxkeys", "1000000", When::Always),
    ("kernel.keys.root_maxbytes", "25000000", When::Always),
    ("fs.inotify.max_user_instances", "8192", When::IfLess),
    ("fs.inotify.max_user_watches", "524288", When::IfLess),
    // Those of services, so that no connection of the host itself gets one of them.
    ("net.ipv4.ip_local_reserved_ports", "30000-32767", When::IfNone),
];

/// The names of the settings.
pub fn settings() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().map(|(name, _, _)| *name)
}

/// Adds what the preset has, under what the spec gives beside it. What the kernel of this node does not have is left out.
pub fn expand(node_bootstrap: &str, kernel: &Kernel, facts: &Facts, out: &mut Expansion) {
    let mut all = kernel.clone();
    for name in MODULES {
        match name.parse() {
            Ok(module) if facts.modules.contains(name) => all.modules.push(module),
            _ if name == BRIDGE && facts.settings.contains_key(OF_BRIDGE) => {}
            _ => out.warn(format!(
                "kernel: its preset wants the module {name}, which this kernel does not have: install the package that has it, if pods need it"
            )),
        }
    }
    let has_bridge = all.modules.iter().any(|module| module.as_str().replace('-', "_") == BRIDGE);
    for (name, value, when) in SETTINGS {
        let now = facts.settings.get(name).map(String::as_str);
        let is_wanted = match (when, now) {
            (When::Always, now) => now.is_some(),
            (When::OfBridge, now) => now.is_some() || has_bridge,
            (When::IfNone, now) => now == Some(""),
            (When::IfLess, None) => false,
            (When::IfLess, Some(now)) => match (now.parse::<u64>(), value.parse::<u64>()) {
                (Ok(now), Ok(value)) => now < value,
                _ => now.is_empty(),
            },
        };
        if let Ok(value) = value.parse()
            && is_wanted
        {
            all.sysctls.entry(name.to_owned()).or_insert(value);
        }
    }
    out.resources.extend(render_kernel(node_bootstrap, &all));
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use crds::revision::Resource;

    use super::*;

    fn facts(modules: &[&str], settings: &[(&str, &str)]) -> Facts {
        Facts {
            modules: modules.iter().map(|name| (*name).to_owned()).collect(),
            settings: settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..Facts::default()
        }
    }

    /// Modules and settings that are asked for, and what is warned of.
    fn expanded(kernel: &Kernel, facts: &Facts) -> (BTreeSet<String>, BTreeMap<String, String>, Vec<String>) {
        let mut out = Expansion::default();
        expand("workers", kernel, facts, &mut out);
        let (mut modules, mut settings) = (BTreeSet::new(), BTreeMap::new());
        for resource in out.resources {
            match resource {
                Resource::Module(module) => _ = modules.insert(module.name.to_string()),
                Resource::Sysctl(sysctl) => {
                    settings.insert(sysctl.name.to_string(), sysctl.value.to_string());
                }
                _ => {}
            }
        }
        (modules, settings, out.findings.warnings)
    }

    #[test]
    fn what_the_kernel_does_not_have_is_left_out() {
        let (modules, settings, warnings) = expanded(
            &Kernel::default(),
            &facts(&["overlay"], &[("net.ipv4.ip_forward", "1"), ("kernel.panic", "0")]),
        );
        assert_eq!(modules.iter().collect::<Vec<_>>(), ["overlay"]);
        assert_eq!(settings.keys().collect::<Vec<_>>(), ["kernel.panic", "net.ipv4.ip_forward"]);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        // One that a kernel has without a module.
        let (_, settings, warnings) = expanded(&Kernel::default(), &facts(&[], &[(OF_BRIDGE, "0")]));
        assert_eq!((settings.len(), warnings.len()), (1, 2), "{warnings:?}");
    }

    #[test]
    fn a_module_s_settings_come_with_it() {
        let (_, settings, warnings) = expanded(&Kernel::default(), &facts(&MODULES, &[]));
        assert!(
            settings.keys().all(|name| name.starts_with("net.bridge.")) && settings.len() == 2,
            "{settings:?}"
        );
        assert!(warnings.is_empty());
    }

    #[test]
    fn nothing_is_taken_from_a_host_that_allows_more() {
        let of = |instances, watches, ports| {
            let settings = [
                ("fs.inotify.max_user_instances", instances),
                ("fs.inotify.max_user_watches", watches),
                ("net.ipv4.ip_local_reserved_ports", ports),
            ];
            expanded(&Kernel::default(), &facts(&MODULES, &settings)).1
        };
        let settings = of("128", "1048576", "8080");
        assert_eq!(settings["fs.inotify.max_user_instances"], "8192");
        assert!(!settings.contains_key("fs.inotify.max_user_watches"));
        assert!(!settings.contains_key("net.ipv4.ip_local_reserved_ports"));
        // Of a system that does not run no value is known.
        assert_eq!(of("", "", "").len(), 5);
    }

    #[test]
    fn what_is_given_beside_it_wins() {
        let kernel = Kernel {
            modules: vec!["br-netfilter".parse().unwrap(), "ip_vs".parse().unwrap()],
            sysctls: [("kernel.panic".to_owned(), "60".parse().unwrap())].into(),
            ..Kernel::default()
        };
        let (modules, settings, _) = expanded(&kernel, &facts(&[], &[("kernel.panic", "0")]));
        assert_eq!(modules.iter().collect::<Vec<_>>(), ["br-netfilter", "ip_vs"]);
        assert_eq!(settings["kernel.panic"], "60");
        assert!(settings.contains_key("net.bridge.bridge-nf-call-iptables"));
    }
}
