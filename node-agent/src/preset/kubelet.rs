//! The kubelet: program, configuration, flags, unit. Pure.
//!
//! In: what is asked for, and the [`Facts`]. Out: of a kubelet that the node has, what differs: its unit stays as it is, and
//! a drop-in has the same command with another program, or with flags behind those that it has, of which the kubelet takes
//! the last; its configuration stays as it is, and a file in `--config-dir` lies over it. A node without a kubelet gets all of
//! it. Or a problem that says who has the kubelet of the node, and then nothing else.

use std::collections::{BTreeMap, BTreeSet};

use crds::component::{Kubelet, Takeover};
use crds::kubelet_fields::minor_of;
use crds::revision::{Access, Binary, Content, Directory, File, Resource, Unit, headline};
use crds::{HostPath, UnitName, Url};
use serde_json::{Map, Value, json};

use super::facts::FoundKubelet;
use super::owner::{KUBELET_UNIT, Owner};
use super::{Expansion, Facts, command};

/// Its unit's drop-in. Hardly a name that people give to theirs sorts behind it: the last command counts.
pub const DROP_IN: &str = "zz-nodebootstrap-kubelet.conf";
const URL: &str = "https://dl.k8s.io/release/{version}/bin/linux/{arch}/kubelet";
const KUBECONFIG: &str = "/etc/kubernetes/kubelet.conf";
/// Its configuration, on a node that has no kubelet.
pub const CONFIG: &str = "/var/lib/kubelet/config.yaml";
/// Where drop-ins of the configuration lie, where the kubelet has no folder for them.
pub const CONFIG_DIR: &str = "/etc/kubernetes/kubelet.conf.d";
/// The first minor version of the kubelet that reads such a folder without being told by more than its flag.
const READS_CONFIG_DIR: u32 = 30;
/// What its configuration says of itself.
pub const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
/// Likewise.
pub const KIND: &str = "KubeletConfiguration";
/// Flags of fields that lie in others.
const NESTED: [(&str, &str); 4] = [
    ("anonymous-auth", "authentication.anonymous.enabled"),
    ("authentication-token-webhook", "authentication.webhook.enabled"),
    ("authorization-mode", "authorization.mode"),
    ("client-ca-file", "authentication.x509.clientCAFile"),
];
/// What a node gets that has no kubelet; the seed's page has the same.
const DIRECTORIES: [(&str, u32); 4] = [
    ("/etc/kubernetes", 0o755),
    ("/etc/kubernetes/manifests", 0o755),
    ("/var/lib/kubelet", 0o750),
    ("/var/lib/kubelet/pki", 0o700),
];

/// Adds the kubelet's resources.
pub fn expand(node_bootstrap: &str, kubelet: &Kubelet, facts: &Facts, out: &mut Expansion) {
    if let Some((reason, message)) = refusal(kubelet, facts) {
        return out.problem("kubelet", reason, message);
    }
    let mut asked = Asked { node_bootstrap, kubelet, flags: BTreeMap::new(), out };
    match &facts.kubelet {
        Some(found) => asked.adopt(found),
        None => asked.set_up(facts),
    }
}

/// Why the node's kubelet is left alone.
pub(super) fn refusal(kubelet: &Kubelet, facts: &Facts) -> Option<(&'static str, String)> {
    let file = &facts.owner_file;
    let embedded = |tool: &Owner, place: &str| {
        let message = format!(
            "{tool} has set up this node, with the kubelet in its own program ({file}), so that it cannot be taken over: write its \
             arguments {place}, and leave spec.kubelet out for this node"
        );
        Some(("TakeoverRefused", message))
    };
    match facts.owner.as_ref() {
        Some(tool @ Owner::K3s) => embedded(tool, "under kubelet-arg in /etc/rancher/k3s/config.yaml"),
        Some(tool @ Owner::Rke2) => embedded(tool, "under kubelet-arg in /etc/rancher/rke2/config.yaml"),
        Some(tool @ Owner::MicroK8s) => embedded(tool, "in /var/snap/microk8s/current/args/kubelet"),
        Some(Owner::NodeBootstrap(name)) => {
            let message = format!(
                "the NodeBootstrap {name} has the kubelet of this node ({file}): take it out of one of them, or select other nodes"
            );
            Some(("TakeoverRefused", message))
        }
        Some(owner) if kubelet.takeover != Some(Takeover::Adopt) => {
            let message = format!(
                "{owner} has set it up ({file}), and nothing is changed: write kubelet.takeover: Adopt to take it over, which changes \
                 only what differs, or select other nodes"
            );
            Some(("TakeoverRefused", message))
        }
        Some(_) | None => None,
    }
}

/// What is asked for, and what comes of it.
struct Asked<'a> {
    node_bootstrap: &'a str,
    kubelet: &'a Kubelet,
    /// Flags that the kubelet shall have, without their dashes.
    flags: BTreeMap<String, String>,
    out: &'a mut Expansion,
}

impl Asked<'_> {
    /// Changes a kubelet that the node has, where it differs.
    fn adopt(&mut self, found: &FoundKubelet) {
        let Ok(unit) = found.unit.parse::<UnitName>() else { return };
        if found.command.is_empty() {
            let message = format!(
                "{} has no ExecStart that can be read, so nothing is known of how the kubelet runs: correct {}",
                found.unit, found.unit_file
            );
            return self.out.problem("kubelet", "NoCommand", message);
        }
        let program = self.program(&unit);
        self.asked_flags();
        self.configure(found, &unit);
        self.flags.extend(self.kubelet.extra_args.clone());
        self.check_fields(found);

        let flags: BTreeMap<&str, String> = self
            .flags
            .iter()
            .filter_map(|(name, value)| Some((name.as_str(), differing(found, name, value)?)))
            .collect();
        let is_other = |program: &String| !found.command.contains(&command::literal(program));
        let program = program.filter(is_other);
        if program.is_none() && flags.is_empty() {
            return;
        }
        if let Some(path) = &found.last_word {
            let message = format!(
                "{path} sorts behind {DROP_IN} and has an ExecStart, which would count more than what is asked for: rename it, or take \
                 the ExecStart out of it"
            );
            return self.out.problem("kubelet", "OtherCommandCounts", message);
        }
        // As in `nice -n -5 /usr/bin/kubelet`.
        let is_kubelet =
            |word: &String| word.rsplit('/').next() == Some("kubelet") && !word.contains(char::is_whitespace);
        let Some(place) = found.command.iter().position(is_kubelet) else {
            let message = format!(
                "{} starts {}, and it cannot be told what of its own words that hands on to a kubelet: let it start a program of the \
                 name kubelet, in {}",
                found.unit,
                found.command.first().map_or("", String::as_str),
                found.unit_file
            );
            return self.out.problem("kubelet", "NoKubeletCommand", message);
        };
        let mut command = found.command.clone();
        if let Some(program) = program {
            command[place] = command::literal(&program);
        }
        command.extend(words(flags));
        let text = format!(
            "{}# The command of {}, with what differs at its end.\n[Service]\nExecStart=\nExecStart={}\n",
            headline(self.node_bootstrap),
            found.unit_file,
            command::line(command.iter().map(String::as_str))
        );
        let path = DROP_IN.parse().ok().and_then(|drop_in| Unit::drop_in(&unit, &drop_in));
        self.file(path, text, &unit);
    }

    /// Makes a kubelet where there is none.
    fn set_up(&mut self, facts: &Facts) {
        let Ok(unit) = KUBELET_UNIT.parse::<UnitName>() else { return };
        let Some(program) = self.program(&unit).or_else(|| facts.kubelet_program.clone()) else {
            let message = "this node has no kubelet: give kubelet.version and kubelet.sha256, or kubelet.binaryPath, a program that \
                           is there or that binaries has"
                .to_owned();
            return self.out.problem("kubelet", "NoKubelet", message);
        };
        for (path, mode) in DIRECTORIES {
            let Ok(path) = path.parse() else { continue };
            self.out.resources.push(Resource::Directory(Directory {
                path,
                access: Access::of_root(mode),
                recursive: false,
                inside: None,
            }));
        }
        self.flags.insert("kubeconfig".to_owned(), KUBECONFIG.to_owned());
        self.asked_flags();
        let path = self.kubelet.config_path.clone().or_else(|| CONFIG.parse().ok());
        self.whole_file(path, defaults(), &unit);
        self.flags.extend(self.kubelet.extra_args.clone());

        let flags = self.flags.iter().map(|(name, value)| (name.as_str(), value.clone()));
        let line: Vec<String> = std::iter::once(command::literal(&program)).chain(words(flags)).collect();
        let content = format!(
            "{}[Unit]\nDescription=Kubernetes kubelet\nDocumentation=https://kubernetes.io/docs/\n\
             After=containerd.service network-online.target\nWants=containerd.service network-online.target\n\n\
             [Service]\nExecStart={}\nRestart=always\nRestartSec=5\nKillMode=process\n\n\
             [Install]\nWantedBy=multi-user.target\n",
            headline(self.node_bootstrap),
            command::line(line.iter().map(String::as_str))
        );
        self.out.resources.push(Resource::Unit(Unit {
            name: unit,
            content: Some(content),
            enabled: Some(true),
            active: Some(true),
            masked: None,
        }));
    }

    /// Where its program shall lie; that of a version is downloaded. `None`: it stays.
    fn program(&mut self, unit: &UnitName) -> Option<String> {
        let kubelet = self.kubelet;
        let Some(version) = &kubelet.version else {
            return kubelet.binary_path.clone().map(String::from);
        };
        let path: HostPath = kubelet.program_path().parse().ok()?;
        let own = kubelet.url.iter().map(Url::as_str).next().unwrap_or(URL);
        let urls: Vec<Url> = std::iter::once(own)
            .chain(kubelet.mirrors.iter().map(Url::as_str))
            .filter_map(|url| url.replace("{version}", version).parse().ok())
            .collect();
        self.out.resources.push(Resource::Binary(Binary {
            path: path.clone(),
            access: Access::of_root(0o755),
            urls,
            sha256: kubelet.sha256.clone(),
            version: Some(version.clone()),
            restart: vec![unit.clone()],
        }));
        Some(path.into())
    }

    /// Flags that have a field of their own.
    fn asked_flags(&mut self) {
        let Kubelet { kubeconfig, bootstrap_kubeconfig, node_ip, node_labels, .. } = self.kubelet;
        let labels: Vec<String> = node_labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let given = [
            ("kubeconfig", kubeconfig.as_ref().map(ToString::to_string)),
            ("bootstrap-kubeconfig", bootstrap_kubeconfig.as_ref().map(ToString::to_string)),
            ("node-ip", node_ip.clone()),
            ("node-labels", Some(labels.join(",")).filter(|labels| !labels.is_empty())),
        ];
        let given = given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        self.flags.extend(given);
    }

    /// Gives a kubelet that the node has the fields that it shall have.
    fn configure(&mut self, found: &FoundKubelet, unit: &UnitName) {
        let asked = Value::Object(fields(self.kubelet));
        let has = found.config.clone().unwrap_or_else(|| json!({}));
        if let Some(path) = self.kubelet.config_path.clone() {
            if let Some(unreadable) = &found.unreadable {
                let message = format!(
                    "the kubelet's configuration is to be kept in {path}, and {unreadable}: correct it, or leave kubelet.configPath out, \
                     so that what is asked for lies over it"
                );
                return self.out.problem("kubelet", "ConfigUnreadable", message);
            }
            return self.whole_file(Some(path), has, unit);
        }
        if over(has.clone(), &asked) == has {
            return;
        }
        let version = self.kubelet.version.as_deref().or(found.version.as_deref());
        if let Some(version) =
            version.filter(|version| minor_of(version).is_some_and(|minor| minor < READS_CONFIG_DIR))
        {
            let message = format!(
                "the kubelet {version} reads no folder of drop-ins, into which kubelet.config would be put: give kubelet.version v1.{READS_CONFIG_DIR}.0 \
                 or newer, or kubelet.configPath, a file for all of its configuration"
            );
            return self.out.problem("kubelet", "KubeletTooOld", message);
        }
        let given = self.kubelet.extra_args.get("config-dir").map(String::as_str);
        let folder = given.or_else(|| found.flag("config-dir")).unwrap_or(CONFIG_DIR);
        let path = format!("{folder}/{}", drop_in_of(self.node_bootstrap)).parse();
        let Ok(path) = path else {
            let message = format!(
                "its --config-dir={folder} is no folder that a file can be put into: correct it, or give kubelet.configPath"
            );
            return self.out.problem("kubelet", "NoConfigDir", message);
        };
        self.flags.insert("config-dir".to_owned(), folder.to_owned());
        let text = self.document(asked);
        self.file(Some(path), text, unit);
    }

    /// A configuration with all in it, and the flag that names it.
    fn whole_file(&mut self, path: Option<HostPath>, below: Value, unit: &UnitName) {
        let whole = over(below, &Value::Object(fields(self.kubelet)));
        if let Some(path) = &path {
            self.flags.insert("config".to_owned(), path.to_string());
        }
        let text = self.document(whole);
        self.file(path, text, unit);
    }

    /// Fields that have no effect, since the kubelet has a flag for the same: that counts more.
    fn check_fields(&mut self, found: &FoundKubelet) {
        let asked = fields(self.kubelet);
        let mut pairs: Vec<(String, String, Value)> = Vec::new();
        for (flag, field) in NESTED {
            let value = field
                .split('.')
                .try_fold(&Value::Object(asked.clone()), |value, key| value.get(key))
                .cloned();
            pairs.extend(value.map(|value| (flag.to_owned(), field.to_owned(), value)));
        }
        pairs.extend(asked.into_iter().map(|(field, value)| (flag_of(&field), field, value)));
        for (flag, field, value) in pairs {
            let Some(given) = found.flag(&flag).filter(|_| !self.flags.contains_key(&flag)) else { continue };
            if !is_said_by(given, &value) {
                let message = format!(
                    "kubelet.config.{field} has no effect: the kubelet is started with --{flag}={given}, which counts more: give \
                     kubelet.extraArgs {flag} instead, or take the flag out of {}",
                    found.unit_file
                );
                self.out.problem("kubelet", "FlagCounts", message);
            }
        }
    }

    fn document(&self, fields: Value) -> String {
        let head = json!({"apiVersion": API_VERSION, "kind": KIND});
        let whole = over(fields, &head);
        // JSON is YAML too, should the other way not be had.
        let text = serde_saphyr::to_string(&whole).unwrap_or_else(|_| whole.to_string());
        format!("{}{}\n", headline(self.node_bootstrap), text.trim_end())
    }

    fn file(&mut self, path: Option<HostPath>, text: String, unit: &UnitName) {
        let Some(path) = path else { return };
        self.out.resources.push(Resource::File(File {
            path,
            access: Access::of_root(0o644),
            content: Content::Text(text),
            restart: vec![unit.clone()],
        }));
    }
}

/// Whether a flag says the same as a field: lists and maps are written with commas there, and thresholds without a colon.
fn is_said_by(flag: &str, field: &Value) -> bool {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let said: BTreeSet<&str> = flag.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    match field {
        Value::Array(list) => list.iter().map(text).eq(flag.split(',').map(str::to_owned)),
        Value::Object(map) => {
            let has = |(key, value): (&String, &Value)| {
                let parts = ['=', '<'].map(|sign| format!("{key}{sign}{}", text(value)));
                parts.iter().any(|part| said.contains(part.as_str()))
            };
            map.len() == said.len() && map.iter().all(has)
        }
        other => text(other) == flag,
    }
}

/// The name of the drop-in with what a NodeBootstrap asks of the kubelet's configuration.
fn drop_in_of(node_bootstrap: &str) -> String {
    format!("50-nodebootstrap-{node_bootstrap}.conf")
}

/// Whether a file is that.
pub(super) fn is_drop_in_of(node_bootstrap: &str, path: &str) -> bool {
    path.rsplit('/').next() == Some(drop_in_of(node_bootstrap).as_str())
}

/// Flags as words of a command.
fn words<'a>(flags: impl IntoIterator<Item = (&'a str, String)>) -> impl Iterator<Item = String> {
    flags.into_iter().map(|(name, value)| command::literal(&format!("--{name}={value}")))
}

/// The value that a flag is to be given besides those that the kubelet has; `None`: it has it.
fn differing(found: &FoundKubelet, name: &str, value: &str) -> Option<String> {
    if name != "node-labels" {
        return (found.flag(name) != Some(value)).then(|| value.to_owned());
    }
    // Of labels each counts by itself: what is given before stays.
    let has: Vec<&str> = found.flag(name).unwrap_or_default().split(',').collect();
    let lacks: Vec<&str> = value.split(',').filter(|label| !has.contains(label)).collect();
    (!lacks.is_empty()).then(|| lacks.join(","))
}

/// The fields that are asked for.
fn fields(kubelet: &Kubelet) -> Map<String, Value> {
    let mut fields = kubelet.config.clone().unwrap_or_default();
    if !kubelet.taints.is_empty() {
        // What is no text, number, list or object of these cannot be in a taint.
        let taints = serde_json::to_value(&kubelet.taints).unwrap_or_default();
        fields.entry("registerWithTaints").or_insert(taints);
    }
    fields
}

/// What a kubelet gets on a node that has none: who asks must be known, what it may is asked of the API server.
fn defaults() -> Value {
    json!({
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": "/etc/kubernetes/pki/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "systemd",
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "readOnlyPort": 0,
        "rotateCertificates": true,
        "staticPodPath": "/etc/kubernetes/manifests",
    })
}

/// Values laid over others: those of objects one by one, all else as a whole, as the kubelet does with its drop-ins.
pub(crate) fn over(below: Value, above: &Value) -> Value {
    match (below, above) {
        (Value::Object(mut below), Value::Object(above)) => {
            for (key, value) in above {
                let was = below.remove(key).unwrap_or_default();
                below.insert(key.clone(), over(was, value));
            }
            Value::Object(below)
        }
        (_, above) => above.clone(),
    }
}

/// The flag for a field: maxPods is --max-pods, and clusterDNS is --cluster-dns.
fn flag_of(field: &str) -> String {
    let mut flag = String::new();
    let mut after_small = false;
    for sign in field.chars() {
        if sign.is_ascii_uppercase() && after_small {
            flag.push('-');
        }
        after_small = !sign.is_ascii_uppercase();
        flag.push(sign.to_ascii_lowercase());
    }
    flag
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::preset::Findings;

    /// The fields of its configuration that the kubelet will have, as far as it can be told: what the node has, or defaults where
    /// it has no kubelet, with what is asked for over it.
    fn configuration(kubelet: &Kubelet, facts: &Facts) -> Value {
        let below = match &facts.kubelet {
            Some(found) => found.config.clone().unwrap_or_else(|| json!({})),
            None => defaults(),
        };
        over(below, &Value::Object(fields(kubelet)))
    }

    fn asked(value: Value) -> Kubelet {
        serde_json::from_value(value).expect("a kubelet")
    }

    /// That of a distribution's package, as the testbed's machines have it.
    fn packaged() -> Facts {
        let arguments = [
            "--kubeconfig=/etc/kubernetes/kubelet.conf",
            "--config=/var/lib/kubelet/config.yaml",
            "--node-ip=10.0.0.7",
        ];
        facts(
            Owner::Package,
            "/usr/lib/systemd/system/kubelet.service",
            "/usr/bin/kubelet",
            &arguments,
            &arguments,
        )
    }

    /// kubeadm's unit with its drop-in: all that matters is in variables.
    fn kubeadm() -> Facts {
        let command = [
            "$KUBELET_KUBECONFIG_ARGS",
            "$KUBELET_CONFIG_ARGS",
            "$KUBELET_KUBEADM_ARGS",
            "$KUBELET_EXTRA_ARGS",
        ];
        let arguments = [
            "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf",
            "--kubeconfig=/etc/kubernetes/kubelet.conf",
            "--config=/var/lib/kubelet/config.yaml",
            "--container-runtime-endpoint=unix:///run/containerd/containerd.sock",
            "--node-labels=a=1,b=2",
        ];
        let mut facts = facts(
            Owner::Kubeadm,
            "/usr/lib/systemd/system/kubelet.service",
            "/usr/bin/kubelet",
            &command,
            &arguments,
        );
        facts.owner_file = "/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf".to_owned();
        facts
    }

    /// nodeadm's unit of Amazon Linux 2023, which has a folder of drop-ins already.
    fn eks() -> Facts {
        let arguments = [
            "--config=/etc/kubernetes/kubelet/config.json",
            "--config-dir=/etc/kubernetes/kubelet/config.json.d",
            "--kubeconfig=/var/lib/kubelet/kubeconfig",
            "--node-ip=10.0.0.9",
        ];
        facts(
            Owner::Eks,
            "/etc/systemd/system/kubelet.service",
            "/usr/bin/kubelet",
            &["$NODEADM_KUBELET_ARGS"],
            &arguments,
        )
    }

    fn facts(owner: Owner, file: &str, program: &str, command: &[&str], arguments: &[&str]) -> Facts {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        Facts {
            arch: "amd64".to_owned(),
            owner: Some(owner),
            owner_file: file.to_owned(),
            kubelet: Some(FoundKubelet {
                unit: KUBELET_UNIT.to_owned(),
                unit_file: file.to_owned(),
                command: std::iter::once(program.to_owned()).chain(words(command)).collect(),
                arguments: words(arguments),
                config: Some(json!({"maxPods": 110, "cgroupDriver": "systemd", "evictionHard": {"a": "1"}})),
                version: Some("v1.36.1".to_owned()),
                ..FoundKubelet::default()
            }),
            ..Facts::default()
        }
    }

    fn expanded(kubelet: &Kubelet, facts: &Facts) -> (Vec<Resource>, Findings) {
        let mut out = Expansion::default();
        expand("workers", kubelet, facts, &mut out);
        (out.resources, out.findings)
    }

    /// What it expands to, for a person.
    fn shown(kubelet: Value, facts: &Facts) -> String {
        let (resources, findings) = expanded(&asked(kubelet), facts);
        let mut lines = Vec::new();
        for resource in &resources {
            match resource {
                Resource::File(File { access, content: Content::Text(text), restart, .. }) => {
                    let restart: Vec<&str> = restart.iter().map(UnitName::as_str).collect();
                    lines.push(format!("{resource} {} restart {}\n{text}", access.mode, restart.join(",")));
                }
                Resource::Unit(unit) => lines.push(format!(
                    "{resource} enabled {:?} active {:?}\n{}",
                    unit.enabled,
                    unit.active,
                    unit.content.as_deref().unwrap_or_default()
                )),
                other => lines.push(serde_json::to_string(other).expect("JSON")),
            }
        }
        lines.extend(
            findings
                .problems
                .iter()
                .map(|problem| format!("problem {}: {}", problem.reason, problem.message)),
        );
        lines.join("\n")
    }

    fn version() -> Value {
        json!({"version": "v1.36.3", "sha256": {"amd64": "0".repeat(64)}})
    }

    fn with(mut below: Value, above: Value) -> Value {
        below = over(below, &above);
        below
    }

    fn adopt(above: Value) -> Value {
        with(json!({"takeover": "Adopt"}), above)
    }

    #[test]
    fn a_node_without_a_kubelet_gets_all_of_it() {
        let facts = Facts::default();
        insta::assert_snapshot!("none_version", shown(version(), &facts));
        let more = json!({
            "binaryPath": "/opt/k8s/kubelet", "configPath": "/etc/kubelet.yaml", "url": "https://mirror/{version}/{arch}",
            "mirrors": ["https://other/kubelet"], "kubeconfig": "/etc/k.conf", "bootstrapKubeconfig": "/etc/b.conf",
            "nodeIp": "10.0.0.8", "nodeLabels": {"rack": "7"}, "taints": [{"key": "d", "value": "on", "effect": "NoSchedule"}],
            "config": {"clusterDNS": ["10.96.0.10"], "authentication": {"anonymous": {"enabled": true}}},
            "extraArgs": {"v": "2", "hostname-override": "a b%c$d"},
        });
        insta::assert_snapshot!("none_all", shown(with(version(), more), &facts));
        let program = Facts { kubelet_program: Some("/usr/bin/kubelet".to_owned()), ..Facts::default() };
        assert!(shown(json!({}), &program).contains("ExecStart=/usr/bin/kubelet --config="));
        assert!(
            shown(json!({"binaryPath": "/opt/kubelet"}), &program)
                .contains("ExecStart=/opt/kubelet --config=")
        );
        assert!(shown(json!({}), &facts).starts_with("problem NoKubelet: "));
    }

    #[test]
    fn one_that_somebody_has_set_up_is_left_alone_until_it_is_adopted() {
        for facts in [packaged(), kubeadm(), eks()] {
            let (resources, findings) = expanded(&asked(version()), &facts);
            assert!(resources.is_empty());
            let [problem] = findings.problems.as_slice() else { panic!("{findings:?}") };
            assert_eq!(problem.reason, "TakeoverRefused");
            assert!(problem.message.contains(&facts.owner_file), "{}", problem.message);
        }
        for (owner, place) in [
            (Owner::K3s, "/etc/rancher/k3s/config.yaml"),
            (Owner::Rke2, "/etc/rancher/rke2/config.yaml"),
            (Owner::MicroK8s, "/var/snap/microk8s/current/args/kubelet"),
            (Owner::NodeBootstrap("other".to_owned()), "the NodeBootstrap other"),
        ] {
            let facts = Facts { owner: Some(owner), ..Facts::default() };
            let (resources, findings) = expanded(&asked(adopt(version())), &facts);
            assert!(resources.is_empty(), "not even if it is to be adopted");
            assert!(findings.problems[0].message.contains(place), "{findings:?}");
        }
    }

    #[test]
    fn of_one_that_is_adopted_only_what_differs_is_changed() {
        let same = json!({"config": {"maxPods": 110, "evictionHard": {"a": "1"}}, "nodeIp": "10.0.0.7",
            "kubeconfig": "/etc/kubernetes/kubelet.conf"});
        for nothing in [json!({}), same] {
            assert_eq!(expanded(&asked(adopt(nothing)), &packaged()), Default::default());
        }
        insta::assert_snapshot!("package_version", shown(adopt(version()), &packaged()));
        insta::assert_snapshot!(
            "package_config",
            shown(adopt(json!({"config": {"maxPods": 200, "clusterDomain": "off"}})), &packaged())
        );
        let flags = json!({"nodeIp": "10.0.0.8", "extraArgs": {"v": "2", "node-ip": "10.0.0.9", "x": "5% \"of\" $HOME\\"}});
        insta::assert_snapshot!("package_flags", shown(adopt(flags), &packaged()));
        insta::assert_snapshot!(
            "package_whole_file",
            shown(adopt(json!({"configPath": "/etc/k.yaml", "config": {"maxPods": 9}})), &packaged())
        );
        let all = with(
            version(),
            json!({"config": {"maxPods": 200}, "nodeLabels": {"b": "2", "c": "3"},
            "taints": [{"key": "d", "effect": "NoExecute"}]}),
        );
        insta::assert_snapshot!("kubeadm_all", shown(adopt(all.clone()), &kubeadm()));
        insta::assert_snapshot!("eks_all", shown(adopt(all), &eks()));
        insta::assert_snapshot!("eks_config", shown(adopt(json!({"config": {"maxPods": 200}})), &eks()));
    }

    #[test]
    fn what_could_have_no_effect_is_a_problem() {
        let mut old = packaged();
        old.kubelet.as_mut().expect("one").version = Some("v1.29.4".to_owned());
        let wanted = adopt(json!({"config": {"maxPods": 200}}));
        let reasons = |kubelet: &Value, facts: &Facts| -> Vec<&'static str> {
            expanded(&asked(kubelet.clone()), facts).1.problems.iter().map(|problem| problem.reason).collect()
        };
        assert_eq!(reasons(&wanted, &old), ["KubeletTooOld"]);
        assert!(
            reasons(&with(wanted.clone(), version()), &old).is_empty(),
            "by the version that it will have"
        );
        assert!(reasons(&with(wanted.clone(), json!({"configPath": "/etc/k.yaml"})), &old).is_empty());

        let mut flagged = packaged();
        flagged.kubelet.as_mut().expect("one").arguments.push("--max-pods=50".to_owned());
        assert_eq!(reasons(&wanted, &flagged), ["FlagCounts"]);
        assert!(reasons(&with(wanted, json!({"extraArgs": {"max-pods": "200"}})), &flagged).is_empty());
        assert!(reasons(&adopt(json!({"config": {"maxPods": 50}})), &flagged).is_empty(), "it is the same");

        let changed = |change: &dyn Fn(&mut FoundKubelet)| {
            let mut facts = packaged();
            change(facts.kubelet.as_mut().expect("one"));
            facts
        };
        let nested = json!({"authentication": {"anonymous": {"enabled": true}}});
        let nested = reasons(
            &adopt(json!({"config": nested})),
            &changed(&|found| found.arguments.push("--anonymous-auth=false".to_owned())),
        );
        assert_eq!(nested, ["FlagCounts"]);

        let unreadable = changed(&|found| found.command.clear());
        assert_eq!(reasons(&adopt(json!({})), &unreadable), ["NoCommand"]);
        let shell = changed(&|found| {
            found.command = ["/bin/sh", "-c", "exec /usr/bin/kubelet"].map(str::to_owned).into()
        });
        assert_eq!(reasons(&adopt(json!({"config": {"maxPods": 200}})), &shell), ["NoKubeletCommand"]);
        assert!(reasons(&adopt(json!({})), &shell).is_empty(), "nothing is added");
        let behind = changed(&|found| {
            found.last_word = Some("/etc/systemd/system/kubelet.service.d/zzz.conf".to_owned())
        });
        assert_eq!(reasons(&adopt(json!({"config": {"maxPods": 200}})), &behind), ["OtherCommandCounts"]);
        let two = changed(&|found| found.unreadable = Some("/a.yaml is not one document".to_owned()));
        let whole = adopt(json!({"configPath": "/etc/k.yaml", "config": {"maxPods": 200}}));
        assert_eq!(reasons(&whole, &two), ["ConfigUnreadable"]);
        assert!(reasons(&adopt(json!({"config": {"maxPods": 200}})), &two).is_empty(), "it lies over that");
    }

    #[test]
    fn a_program_is_put_in_the_place_of_the_kubelet_and_not_of_what_starts_it() {
        let mut facts = packaged();
        let found = facts.kubelet.as_mut().expect("one");
        found.command = ["/usr/bin/nice", "-n", "-5", "/usr/bin/kubelet", "--v=2"].map(str::to_owned).into();
        let text = shown(adopt(json!({"binaryPath": "/opt/kubelet"})), &facts);
        assert!(text.contains("ExecStart=/usr/bin/nice -n -5 /opt/kubelet --v=2\n"), "{text}");
    }

    #[test]
    fn a_flag_may_say_the_same_as_a_field_of_more_than_one_value() {
        for (flag, field) in [
            ("10.96.0.10,10.96.0.11", json!(["10.96.0.10", "10.96.0.11"])),
            ("cpu=1,memory=1Gi", json!({"memory": "1Gi", "cpu": "1"})),
            ("memory.available<100Mi", json!({"memory.available": "100Mi"})),
            ("A=true", json!({"A": true})),
            ("true", json!(true)),
        ] {
            assert!(is_said_by(flag, &field), "{flag}");
        }
        assert!(!is_said_by("cpu=1", &json!({"cpu": "1", "memory": "1Gi"})));
        assert!(!is_said_by("b,a", &json!(["a", "b"])));
    }

    #[test]
    fn fields_have_flags() {
        for (field, flag) in [
            ("maxPods", "max-pods"),
            ("clusterDNS", "cluster-dns"),
            ("registerWithTaints", "register-with-taints"),
        ] {
            assert_eq!(flag_of(field), flag);
        }
    }

    /// The words behind the program that a drop-in gives, of flags that have no space in them.
    fn flags_of(resources: &[Resource]) -> Option<Vec<String>> {
        resources.iter().find_map(|resource| match resource {
            Resource::File(File { path, content: Content::Text(text), .. })
                if path.as_str().ends_with(DROP_IN) =>
            {
                let line = text.lines().last()?.strip_prefix("ExecStart=")?;
                Some(line.split(' ').skip(1).map(str::to_owned).collect())
            }
            _ => None,
        })
    }

    proptest! {
        #[test]
        fn a_kubelet_that_has_what_is_asked_for_is_not_changed(
            given in prop::collection::btree_map("[a-f]", "[0-9]", 0..4),
            wanted in prop::collection::btree_map("[a-f]", "[0-9]", 0..4),
            labels in prop::collection::btree_map("[a-c]", "[0-9]", 0..3),
            pods in 1..5,
        ) {
            let mut facts = packaged();
            let arguments: Vec<String> = given.iter().map(|(name, value)| format!("--{name}={value}")).collect();
            let found = facts.kubelet.as_mut().expect("one");
            found.arguments.extend(arguments.clone());
            found.command.extend(arguments);
            let kubelet = asked(json!({"takeover": "Adopt", "extraArgs": wanted, "nodeLabels": labels, "config": {"maxPods": pods}}));
            let (first, findings) = expanded(&kubelet, &facts);
            prop_assert_eq!(findings, Findings::default());
            let kept = facts.kubelet.clone().expect("one");
            let found = facts.kubelet.as_mut().expect("one");
            if let Some(flags) = flags_of(&first) {
                prop_assert_eq!(&flags[..kept.arguments.len()], kept.arguments.as_slice(), "what it had stays");
                found.command.splice(1.., flags.clone());
                found.arguments = flags;
            }
            found.config = Some(configuration(&kubelet, &Facts { kubelet: Some(kept), ..Facts::default() }));
            for (name, value) in &wanted {
                prop_assert_eq!(found.flag(name), Some(value.as_str()));
            }
            prop_assert_eq!(expanded(&kubelet, &facts), Default::default());
        }
    }
}
