//! What presets are asked for: what of it no node could have.

use std::net::IpAddr;
use std::sync::LazyLock;

use regex::Regex;

use crate::component::{ContainerRuntime, Kubelet, Manage, Taint};
use crate::kubelet_fields::{self, MINORS};
use crate::nodebootstrap::NodeBootstrapSpec;
use crate::value::Url;

/// Flags of the kubelet that have a field, and that field.
const OWN_FLAGS: &[(&str, &str)] = &[
    ("bootstrap-kubeconfig", "kubelet.bootstrapKubeconfig"),
    ("kubeconfig", "kubelet.kubeconfig"),
    ("node-ip", "kubelet.nodeIp"),
    ("node-labels", "kubelet.nodeLabels"),
    ("register-with-taints", "kubelet.taints"),
];
/// The longest value of a flag.
const MAX_FLAG: usize = 1024;

/// Labels of Kubernetes' own that a kubelet may give its Node; it ends at others.
const LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];
/// Domains of Kubernetes' own of which, and below which, a kubelet may give any label.
const LABEL_DOMAINS: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

static VERSION: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"^v1[.][0-9]{1,3}[.][0-9]{1,3}$").ok());
static FLAG: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$").ok());
static NAME: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$").ok());
static DOMAIN: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*$").ok());

fn is(pattern: &LazyLock<Option<Regex>>, text: &str) -> bool {
    pattern.as_ref().is_some_and(|pattern| pattern.is_match(text))
}

pub(super) fn problems(spec: &NodeBootstrapSpec, problems: &mut Vec<String>) {
    if let Some(kubelet) = &spec.kubelet {
        program(kubelet, problems);
        flags(kubelet, problems);
        labels(kubelet, problems);
        taints(kubelet, problems);
        addresses(kubelet, problems);
        let minor = kubelet.version.as_deref().and_then(kubelet_fields::minor_of);
        // Of a version that is not known no field is either; that is told already.
        if let Some(config) = &kubelet.config
            && minor.is_none_or(|minor| MINORS.contains(&minor))
        {
            problems.extend(kubelet_fields::problems(minor, config));
        }
    }
    if let Some(runtime) = &spec.container_runtime {
        container_runtime(runtime, problems);
    }
}

fn program(kubelet: &Kubelet, problems: &mut Vec<String>) {
    let Kubelet { version, url, mirrors, sha256, .. } = kubelet;
    match version {
        Some(version) if !is(&VERSION, version) => {
            problems.push(format!("kubelet.version {version}: a version is written as v1.36.3"));
        }
        Some(version) if kubelet_fields::minor_of(version).is_none_or(|minor| !MINORS.contains(&minor)) => {
            problems.push(format!(
                "kubelet.version {version}: kubelets of 1.{} to 1.{} are known: take one of them, or write its files, binaries and units yourself",
                MINORS.start(),
                MINORS.end()
            ));
        }
        Some(_) if sha256.is_empty() => problems.push(
            "kubelet.version needs kubelet.sha256, the digest of that version's program for each architecture, as in: {amd64: \"<64 hexadecimal digits>\"}"
                .to_owned(),
        ),
        None if url.is_some() || !mirrors.is_empty() || !sha256.is_empty() => problems.push(
            "kubelet.sha256, url and mirrors are of a version that is downloaded: give kubelet.version, or leave them out"
                .to_owned(),
        ),
        Some(_) | None => {}
    }
    placeholders("kubelet", url.iter().chain(mirrors), &["{version}", "{arch}"], problems);
}

/// A URL whose placeholders nobody replaces is asked for as it is, and not found.
fn placeholders<'a>(
    what: &str,
    urls: impl Iterator<Item = &'a Url>,
    known: &[&str],
    problems: &mut Vec<String>,
) {
    for url in urls {
        let rest = known.iter().fold(url.as_str().to_owned(), |rest, one| rest.replace(one, ""));
        if rest.contains(['{', '}']) {
            problems.push(format!(
                "{what}, {}: in this URL only {} is replaced",
                url.as_str(),
                known.join(" and ")
            ));
        }
    }
}

fn flags(kubelet: &Kubelet, problems: &mut Vec<String>) {
    for (flag, value) in &kubelet.extra_args {
        let own = OWN_FLAGS.iter().find(|(name, _)| name == flag);
        if let Some((_, field)) = own {
            problems.push(format!("kubelet.extraArgs, {flag}: write it in {field}"));
        } else if !is(&FLAG, flag) {
            problems.push(format!(
                "kubelet.extraArgs, {flag:?}: a flag is written without its dashes and value, as in: {{v: \"2\"}}"
            ));
        }
        if value.len() > MAX_FLAG || value.contains(char::is_control) {
            problems.push(format!(
                "kubelet.extraArgs, {flag}: its value is one line of at most {MAX_FLAG} bytes: write it so"
            ));
        }
    }
}

/// What is wrong with a key as labels and taints have it.
fn key_problem(key: &str) -> Option<&'static str> {
    let (domain, name) = match key.split_once('/') {
        Some((domain, name)) => (Some(domain), name),
        None => (None, key),
    };
    let is_good = is(&NAME, name) && domain.is_none_or(|it| it.len() <= 253 && is(&DOMAIN, it));
    (!is_good).then_some(
        "a key is a name of letters, digits, - _ . with at most 63 characters, after a domain and a / where it has one, as in: example.com/rack",
    )
}

fn value_problem(value: &str) -> Option<&'static str> {
    (!value.is_empty() && !is(&NAME, value)).then_some(
        "a value has letters, digits, - _ . only, begins and ends with a letter or digit, and has at most 63 characters",
    )
}

fn labels(kubelet: &Kubelet, problems: &mut Vec<String>) {
    for (key, value) in &kubelet.node_labels {
        let wrong = key_problem(key).or_else(|| value_problem(value)).or_else(|| {
            (!may_be_given(key)).then_some(
                "a kubelet may not give its own Node this label, and ends: give it by kubectl label, or take a domain of your own, as in: example.com/role",
            )
        });
        if let Some(wrong) = wrong {
            problems.push(format!("kubelet.nodeLabels, {key}={value}: {wrong}"));
        }
    }
}

/// Whether a kubelet may give its own Node this label.
fn may_be_given(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return true };
    let is_of =
        |known: &str| domain == known || domain.strip_suffix(known).is_some_and(|rest| rest.ends_with('.'));
    let is_own = is_of("kubernetes.io") || is_of("k8s.io");
    !is_own || LABELS.contains(&key) || LABEL_DOMAINS.iter().any(|known| is_of(known))
}

fn taints(kubelet: &Kubelet, problems: &mut Vec<String>) {
    for (number, taint) in kubelet.taints.iter().enumerate() {
        let value = taint.value.as_deref().unwrap_or_default();
        let shown = format!("{}={value}:{:?}", taint.key, taint.effect);
        if let Some(wrong) = key_problem(&taint.key).or_else(|| value_problem(value)) {
            problems.push(format!("kubelet.taints, {shown}: {wrong}"));
        }
        let is_same = |other: &Taint| other.key == taint.key && other.effect == taint.effect;
        if kubelet.taints[..number].iter().any(is_same) {
            problems.push(format!(
                "kubelet.taints, {shown}: this key and effect is there twice: leave one of them"
            ));
        }
    }
    let in_config = kubelet.config.as_ref().is_some_and(|config| config.contains_key("registerWithTaints"));
    if in_config && !kubelet.taints.is_empty() {
        problems.push(
            "kubelet.config.registerWithTaints is what kubelet.taints becomes: leave them in one of both"
                .to_owned(),
        );
    }
}

fn addresses(kubelet: &Kubelet, problems: &mut Vec<String>) {
    let Some(text) = &kubelet.node_ip else { return };
    let addresses: Result<Vec<IpAddr>, _> = text.split(',').map(str::parse).collect();
    let is_good = addresses.is_ok_and(|all| match all[..] {
        [_] => true,
        [one, other] => one.is_ipv4() != other.is_ipv4(),
        _ => false,
    });
    if !is_good {
        problems.push(format!(
            "kubelet.nodeIp {text}: one address, or one of IPv4 and one of IPv6 with a comma between, as in: 10.0.0.7,fd00::7"
        ));
    }
}

fn container_runtime(runtime: &ContainerRuntime, problems: &mut Vec<String>) {
    let installs = runtime.manage == Some(Manage::Install);
    match &runtime.archive {
        Some(_) if !installs => {
            problems.push("containerRuntime.archive is for manage: Install".to_owned());
        }
        None if installs => problems.push(
            "manage: Install needs containerRuntime.archive, the runtime's programs and where they come from"
                .to_owned(),
        ),
        Some(archive) => {
            let urls = archive.url.with_mirrors(&archive.mirrors);
            placeholders("containerRuntime.archive", urls.iter(), &["{arch}"], problems);
            if archive.sha256.is_empty() {
                problems.push(
                    "containerRuntime.archive: sha256 is missing: give the digest for each architecture, as in sha256: {amd64: \"<64 hex digits>\"}"
                        .to_owned(),
                );
            }
        }
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(yaml: &str) -> Vec<String> {
        let spec: NodeBootstrapSpec = serde_saphyr::from_str(yaml).expect("a spec");
        let mut found = Vec::new();
        problems(&spec, &mut found);
        found
    }

    #[test]
    fn what_no_kubelet_takes_is_told_with_what_to_write_instead() {
        let digest = format!("sha256: {{amd64: '{}'}}", "0".repeat(64));
        let version = |version: &str, more: &str| format!("kubelet: {{version: {version}, {digest}{more}}}");
        for (yaml, told_as) in [
            (version("1.36.3", ""), "kubelet.version 1.36.3: a version is written as v1.36.3"),
            (version("v1.33.5", ", config: {nothing: 1}"), "kubelets of 1.34 to 1.37 are known"),
            (version("v1.38.0", ""), "kubelets of 1.34 to 1.37 are known"),
            ("kubelet: {version: v1.36.3}".to_owned(), "kubelet.version needs kubelet.sha256"),
            (format!("kubelet: {{{digest}}}"), "give kubelet.version, or leave them out"),
            (version("v1.36.3", ", url: 'http://a/{version}/{os}'"), "only {version} and {arch} is replaced"),
            (
                version("v1.36.3", ", config: {maxPod: 1}"),
                "KubeletConfiguration of 1.36 has no such field: did you mean maxPods",
            ),
            (
                "kubelet: {config: {maxPod: 1}}".to_owned(),
                "KubeletConfiguration of 1.34 to 1.37 has no such field",
            ),
            ("kubelet: {extraArgs: {--v: '2'}}".to_owned(), "\"--v\": a flag is written without its dashes"),
            ("kubelet: {extraArgs: {v: \"2\\n\"}}".to_owned(), "v: its value is one line"),
            ("kubelet: {extraArgs: {node-ip: 10.0.0.7}}".to_owned(), "node-ip: write it in kubelet.nodeIp"),
            ("kubelet: {nodeLabels: {a b: c}}".to_owned(), "a b=c: a key is a name of letters"),
            ("kubelet: {nodeLabels: {A.com/b: c}}".to_owned(), "A.com/b=c: a key is"),
            ("kubelet: {nodeLabels: {a: b c}}".to_owned(), "a=b c: a value has letters"),
            (
                "kubelet: {nodeLabels: {node-role.kubernetes.io/worker: ''}}".to_owned(),
                "may not give its own Node this label",
            ),
            ("kubelet: {nodeLabels: {node-restriction.kubernetes.io/a: b}}".to_owned(), "may not give"),
            (
                "kubelet: {taints: [{key: a/b/c, effect: NoSchedule}]}".to_owned(),
                "a/b/c=:NoSchedule: a key is",
            ),
            (
                "kubelet: {taints: [{key: a, effect: NoSchedule}, {key: a, value: b, effect: NoSchedule}]}"
                    .to_owned(),
                "a=b:NoSchedule: this key and effect is there twice",
            ),
            (
                "kubelet: {taints: [{key: a, effect: NoSchedule}], config: {registerWithTaints: []}}"
                    .to_owned(),
                "in one of both",
            ),
            (
                "kubelet: {nodeIp: '10.0.0.7,10.0.0.8'}".to_owned(),
                "kubelet.nodeIp 10.0.0.7,10.0.0.8: one address",
            ),
            ("containerRuntime: {type: containerd, manage: Install}".to_owned(), "manage: Install needs"),
            (
                format!("containerRuntime: {{type: containerd, archive: {{url: 'http://a', {digest}}}}}"),
                "is for manage: Install",
            ),
            (
                format!(
                    "containerRuntime: {{type: containerd, manage: Install, archive: {{url: 'http://a/{{version}}', {digest}}}}}"
                ),
                "only {arch} is replaced",
            ),
        ] {
            let found = told(&yaml);
            assert!(found.len() == 1 && found[0].contains(told_as), "{yaml}: {found:?}");
        }
    }

    #[test]
    fn what_a_kubelet_takes_is_no_problem() {
        let digest = "0".repeat(64);
        let yaml = format!(
            "kubelet: {{version: v1.34.0, sha256: {{amd64: '{digest}'}}, url: 'http://a/{{version}}/{{arch}}', \
             extraArgs: {{v: '2', image-credential-provider-config: /a b}}, nodeIp: '10.0.0.7,fd00::7', \
             nodeLabels: {{rack: '7', example.com/a: '', topology.kubernetes.io/zone: z, x.node.kubernetes.io/a: b, notkubernetes.io/a: b}}, \
             taints: [{{key: a, effect: NoSchedule}}, {{key: a, effect: NoExecute}}], config: {{maxPods: 200}}}}"
        );
        assert_eq!(told(&yaml), Vec::<String>::new());
    }
}
