//! What a spec as a whole must keep, beyond what its single values do by their types.
//!
//! In: a spec. Out: all that is wrong with it, each with what to write instead. The API server refuses the same by the
//! CRD's rules and by the input policy; this serves what never passed there, such as the command line's `--file`.

use std::collections::{BTreeMap, BTreeSet};

use crate::names::HMAC_KEY_SECRET;
use crate::nodebootstrap::{
    Directory, LabelOperator, MAX_BINARIES, MAX_CA_BUNDLES, MAX_DROP_INS, MAX_ENTRIES, MAX_GROUPS,
    MAX_MODULES, MAX_PATTERN, MAX_PATTERNS, MAX_SYMLINKS, MAX_SYSCTLS, MIN_FULL_INTERVAL, MIN_INTERVAL,
    NodeBootstrapSpec,
};
use crate::revision::{Unit, references};
use crate::value::SysctlName;

/// Folders of the system whose inside is never changed recursively. The CRD has the same list as a pattern.
const TOP_LEVEL: &[&str] = &[
    "/bin",
    "/boot",
    "/etc",
    "/home",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/lost+found",
    "/media",
    "/mnt",
    "/opt",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/tmp",
    "/usr",
    "/var",
    "/usr/bin",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/libx32",
    "/usr/local",
    "/usr/sbin",
    "/usr/share",
    "/usr/local/bin",
    "/usr/local/lib",
    "/usr/local/sbin",
    "/var/cache",
    "/var/lib",
    "/var/log",
    "/var/run",
    "/var/spool",
    "/var/tmp",
    "/etc/systemd",
    "/etc/systemd/system",
];

/// All that is wrong with a spec; empty if nothing is.
pub fn problems(spec: &NodeBootstrapSpec) -> Vec<String> {
    let mut problems = Vec::new();
    selection(spec, &mut problems);
    lists(spec, &mut problems);
    paths(spec, &mut problems);
    entries(spec, &mut problems);
    drift(spec, &mut problems);
    trust(spec, &mut problems);
    problems
}

/// What is wrong with the text of a CA bundle.
pub(crate) fn pem_problem(pem: &str) -> Option<&'static str> {
    if !pem.contains("-----BEGIN CERTIFICATE-----") {
        Some(
            "a CA bundle is one or more certificates as PEM: -----BEGIN CERTIFICATE-----, lines of base64, -----END CERTIFICATE-----",
        )
    } else if pem.contains("PRIVATE KEY") {
        Some(
            "a CA bundle has a private key in it, which anybody who may read this object sees: give the certificates alone",
        )
    } else {
        None
    }
}

fn trust(spec: &NodeBootstrapSpec, problems: &mut Vec<String>) {
    let Some(trust) = &spec.trust else { return };
    if trust.proxy.as_ref().is_some_and(|proxy| proxy.http.is_none() && proxy.https.is_none()) {
        problems.push("trust.proxy: a proxy is for http, https or both: give one of them".to_owned());
    }
    for bundle in &trust.ca_bundles {
        if bundle.pem.is_some() == bundle.config_map_ref.is_some() {
            problems.push(format!(
                "trust.caBundles, {}: a CA bundle has exactly one source: give one of pem and configMapRef",
                bundle.name
            ));
        }
        if let Some(problem) = bundle.pem.as_deref().and_then(pem_problem) {
            problems.push(format!("trust.caBundles, {}: {problem}", bundle.name));
        }
    }
}

fn selection(spec: &NodeBootstrapSpec, problems: &mut Vec<String>) {
    if spec.node_selector.is_some() == spec.all_nodes.unwrap_or(false) {
        problems.push("give exactly one of nodeSelector and allNodes: true".to_owned());
    }
    let Some(selector) = &spec.node_selector else { return };
    if selector.match_labels.is_empty() && selector.match_expressions.is_empty() {
        problems.push(
            "an empty nodeSelector selects nothing on purpose: name a label, or leave it out and write allNodes: true for every node"
                .to_owned(),
        );
    }
    for requirement in &selector.match_expressions {
        let wants_values = matches!(requirement.operator, LabelOperator::In | LabelOperator::NotIn);
        if wants_values == requirement.values.is_empty() {
            problems.push(format!(
                "nodeSelector, {}: operators In and NotIn need values; Exists and DoesNotExist take none",
                requirement.key
            ));
        }
    }
}

fn drift(spec: &NodeBootstrapSpec, problems: &mut Vec<String>) {
    let Some(drift) = &spec.drift else { return };
    if drift.interval.is_some_and(|interval| interval < MIN_INTERVAL) {
        problems.push(format!("drift.interval: at least {MIN_INTERVAL}"));
    }
    if drift.full_interval.is_some_and(|interval| interval < MIN_FULL_INTERVAL) {
        problems.push(format!("drift.fullInterval: at least {MIN_FULL_INTERVAL}"));
    }
    let is_good = |pattern: &str| {
        let is_name = !pattern.contains('/');
        (1..=MAX_PATTERN).contains(&pattern.chars().count()) && (is_name || pattern.starts_with('/'))
    };
    if let Some(bad) = drift.patterns().find(|pattern| !is_good(pattern)) {
        problems.push(format!(
            "drift, {bad:?}: a pattern is that of an absolute path or of a name, as in: /etc/motd, /etc/cni/**, *.timer"
        ));
    }
    for (list, entries) in [("ignore", drift.ignore.len()), ("overrides", drift.overrides.len())] {
        if entries > MAX_PATTERNS {
            problems.push(format!("drift.{list} has {entries} entries, at most {MAX_PATTERNS} are possible"));
        }
    }
}

fn lists(spec: &NodeBootstrapSpec, problems: &mut Vec<String>) {
    let bundles = spec.trust.iter().flat_map(|trust| &trust.ca_bundles);
    let names: [(&str, Vec<&str>); 8] = [
        ("groups", spec.groups.iter().map(|group| group.name.as_str()).collect()),
        ("users", spec.users.iter().map(|user| user.name.as_str()).collect()),
        ("directories", spec.directories.iter().map(|directory| directory.path.as_str()).collect()),
        ("files", spec.files.iter().map(|file| file.path.as_str()).collect()),
        ("binaries", spec.binaries.iter().map(|binary| binary.path.as_str()).collect()),
        ("symlinks", spec.symlinks.iter().map(|symlink| symlink.path.as_str()).collect()),
        ("units", spec.units.iter().map(|unit| unit.name.as_str()).collect()),
        ("trust.caBundles", bundles.map(|bundle| bundle.name.as_str()).collect()),
    ];
    for (list, names) in names {
        let most = match list {
            "binaries" => MAX_BINARIES,
            "symlinks" => MAX_SYMLINKS,
            "trust.caBundles" => MAX_CA_BUNDLES,
            _ => MAX_ENTRIES,
        };
        if names.len() > most {
            problems.push(format!(
                "{list} has {} entries, at most {most} are possible: make a second NodeBootstrap",
                names.len()
            ));
        }
        let mut seen = BTreeSet::new();
        for name in names {
            if !seen.insert(name) {
                problems.push(format!("{list}: {name} is there twice: leave one of them"));
            }
        }
    }
}

fn paths(spec: &NodeBootstrapSpec, problems: &mut Vec<String>) {
    // What each path is; a directory may hold others, a file or link may not.
    let mut files: BTreeMap<String, &str> = BTreeMap::new();
    let of_units = spec.units.iter().filter(|unit| unit.content.is_some() || unit.masked == Some(true));
    let drop_ins = spec
        .units
        .iter()
        .flat_map(|unit| unit.drop_ins.iter().filter_map(|drop_in| Unit::drop_in(&unit.name, &drop_in.name)));
    let all = spec
        .files
        .iter()
        .map(|file| (file.path.to_string(), "files"))
        .chain(spec.binaries.iter().map(|binary| (binary.path.to_string(), "binaries")))
        .chain(spec.symlinks.iter().map(|symlink| (symlink.path.to_string(), "symlinks")))
        .chain(of_units.map(|unit| (Unit::path_of(&unit.name), "units")))
        .chain(drop_ins.map(|path| (path.to_string(), "units")));
    for (path, list) in all {
        match files.get(&path) {
            Some(other) if *other != list => {
                problems.push(format!("{path} is in both {other} and {list}: leave it in one of them"));
            }
            _ => _ = files.insert(path, list),
        }
    }
    for directory in &spec.directories {
        if let Some(list) = files.get(directory.path.as_str()) {
            problems.push(format!(
                "{} is in both directories and {list}: leave it in one of them",
                directory.path
            ));
        }
    }
    let below = files.keys().map(String::as_str).chain(spec.directories.iter().map(|d| d.path.as_str()));
    for path in below {
        if let Some(file) = parents(path).find(|parent| files.contains_key(*parent)) {
            problems.push(format!("{path} lies below {file}, which is no directory: move one of them"));
        }
    }
}

/// The folders above a path, the nearest first, without `/`.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(path.rsplit_once('/').map(|(parent, _)| parent), |path| {
        path.rsplit_once('/').map(|(parent, _)| parent)
    })
    .filter(|parent| !parent.is_empty())
}

fn entries(spec: &NodeBootstrapSpec, problems: &mut Vec<String>) {
    for Directory { path, recursive, .. } in &spec.directories {
        if recursive.unwrap_or(false) && TOP_LEVEL.contains(&path.as_str()) {
            problems.push(format!(
                "{path}: recursive would change a top-level folder of the system: name the folder below it that is yours, as /etc/kubernetes"
            ));
        }
    }
    for file in &spec.files {
        let sources = [file.content.is_some(), file.config_map_ref.is_some(), file.secret_ref.is_some()];
        if sources.iter().filter(|given| **given).count() != 1 {
            problems.push(format!(
                "{}: a file has exactly one source: give one of content, configMapRef and secretRef (content: \"\" for an empty file)",
                file.path
            ));
        }
    }
    for binary in &spec.binaries {
        if binary.sha256.is_empty() {
            problems.push(format!(
                "{}: sha256 is missing: give the digest for each architecture, as in sha256: {{amd64: \"<64 hex digits>\"}}",
                binary.path
            ));
        }
        if let Some(other) = binary.sha256.keys().find(|arch| !matches!(arch.as_str(), "amd64" | "arm64")) {
            problems.push(format!(
                "{}: sha256 is given for each architecture: the keys are amd64 and arm64, not {other}",
                binary.path
            ));
        }
    }
    for reference in references(spec) {
        if reference.name == HMAC_KEY_SECRET {
            problems.push(format!("{reference}: it is the operator's own: name an object of yours"));
        }
    }
    let changes = spec.files.iter().map(|file| (file.path.as_str(), &file.on_change));
    let changes = changes.chain(spec.binaries.iter().map(|binary| (binary.path.as_str(), &binary.on_change)));
    for (path, on_change) in changes {
        let mut units = on_change.iter().flat_map(|on_change| &on_change.restart);
        if let Some(unit) = units.find(|unit| unit.is_template()) {
            problems.push(format!(
                "{path}: {unit} is a template, which does not run: name the instances, as name@one.service"
            ));
        }
    }
    if let Some(kernel) = &spec.kernel {
        for (list, length, most) in
            [("modules", kernel.modules.len(), MAX_MODULES), ("sysctls", kernel.sysctls.len(), MAX_SYSCTLS)]
        {
            if length > most {
                problems.push(format!(
                    "kernel.{list} has {length} entries, at most {most} are possible: make a second NodeBootstrap"
                ));
            }
        }
        let refused = kernel.sysctls.keys().filter_map(|name| name.parse::<SysctlName>().err());
        problems.extend(refused.map(|refused| format!("kernel.sysctls: {refused}")));
    }
    for user in spec.users.iter().filter(|user| user.groups.len() > MAX_GROUPS) {
        problems.push(format!(
            "user {}: it has {} groups, at most {MAX_GROUPS} are possible: leave some out",
            user.name,
            user.groups.len()
        ));
    }
    for unit in &spec.units {
        if unit.content.as_ref().is_some_and(String::is_empty) {
            problems.push(format!(
                "{}: an empty unit file masks the unit: give its content, or leave content out",
                unit.name
            ));
        }
        let mut names = BTreeSet::new();
        for drop_in in &unit.drop_ins {
            if !names.insert(&drop_in.name) {
                problems.push(format!(
                    "{}: the drop-in {} is there twice: leave one of them",
                    unit.name, drop_in.name
                ));
            }
            if Unit::drop_in(&unit.name, &drop_in.name).is_none() {
                problems.push(format!(
                    "{}: with the drop-in {} its path is longer than 256 characters: shorten the drop-in's name",
                    unit.name, drop_in.name
                ));
            }
        }
        if unit.drop_ins.len() > MAX_DROP_INS {
            problems.push(format!(
                "{}: it has {} drop-ins, at most {MAX_DROP_INS} are possible: put several into one",
                unit.name,
                unit.drop_ins.len()
            ));
        }
        let shall_run = unit.enabled == Some(true) || unit.active == Some(true);
        if unit.masked == Some(true) && (unit.content.is_some() || shall_run) {
            problems.push(format!(
                "{}: a unit that is masked can neither have content nor be enabled or started: leave out masked, or the others",
                unit.name
            ));
        }
        let says_more = unit.enabled.is_some() || unit.active.is_some() || unit.masked.is_some();
        if unit.name.is_template() && says_more {
            problems.push(format!(
                "{}: a template can be neither enabled nor started nor masked: list an instance of it, as name@one.service",
                unit.name
            ));
        }
    }
    let ids = spec
        .groups
        .iter()
        .filter_map(|group| Some((format!("group {}", group.name), group.gid?)))
        .chain(spec.users.iter().filter_map(|user| Some((format!("user {}", user.name), user.uid?))));
    for (who, id) in ids {
        if !(1..=4_294_967_294).contains(&id) {
            problems.push(format!(
                "{who}: the number {id} is none that Linux takes: give one from 1 to 4294967294"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(yaml: &str) -> NodeBootstrapSpec {
        let mut spec: NodeBootstrapSpec = serde_saphyr::from_str(yaml).expect("a spec");
        spec.all_nodes.get_or_insert(true);
        spec
    }

    #[test]
    fn a_good_spec_has_no_problems() {
        let spec = spec(
            "directories: [{path: /etc/a}, {path: /etc/a/b, recursive: true}]\n\
             files: [{path: /etc/a/f, content: ''}, {path: /etc/ab, content: ''}]\n\
             units: [{name: a.service, content: x}, {name: b.service}]\n",
        );
        assert_eq!(problems(&spec), Vec::<String>::new());
    }

    #[test]
    fn each_problem_is_told_with_what_it_is_about() {
        for (yaml, told) in [
            ("allNodes: false", "exactly one of nodeSelector"),
            ("groups: [{name: a}, {name: a}]", "groups: a is there twice"),
            (
                "directories: [{path: /a}]\nfiles: [{path: /a, content: ''}]",
                "/a is in both directories and files",
            ),
            ("files: [{path: /a, content: ''}, {path: /a/b, content: ''}]", "/a/b lies below /a"),
            ("files: [{path: /a, content: ''}]\ndirectories: [{path: /a/b/c}]", "/a/b/c lies below /a"),
            (
                "files: [{path: /etc/systemd/system/a.service, content: ''}]\nunits: [{name: a.service, content: x}]",
                "in both files and units",
            ),
            (
                "files: [{path: /a, content: ''}]\nsymlinks: [{path: /a, target: b}]",
                "/a is in both files and symlinks",
            ),
            ("symlinks: [{path: /a, target: b}]\nfiles: [{path: /a/b, content: ''}]", "/a/b lies below /a"),
            ("files: [{path: /a}]", "/a: a file has exactly one source"),
            (
                "files: [{path: /etc/a, secretRef: {name: nodebootstrap-hmac-key, key: key}}]",
                "the operator's own",
            ),
            ("files: [{path: /etc/a, content: x, onChange: {restart: [t@.service]}}]", "is a template"),
            ("units: [{name: a.service, content: ''}]", "masks the unit"),
            ("kernel: {sysctls: {net/ipv4/ip_forward: '1'}}", "named as sysctl does"),
            ("kernel: {sysctls: {net.ipv4..ip_forward: '1'}}", "named as sysctl does"),
            ("kernel: {sysctls: {kernel.hostname: a}}", "each pod has this setting for itself"),
            ("units: [{name: a.service, content: x, masked: true}]", "a unit that is masked"),
            ("units: [{name: a@.service, masked: true}]", "a@.service: a template"),
            (
                "files: [{path: /etc/systemd/system/a.service.d/b.conf, content: ''}]\nunits: [{name: a.service, dropIns: [{name: b.conf, content: x}]}]",
                "in both files and units",
            ),
            ("directories: [{path: /etc, recursive: true}]", "/etc: recursive"),
            ("binaries: [{path: /a, url: 'http://a'}]", "/a: sha256 is missing"),
            ("units: [{name: a@.service, active: true}]", "a@.service: a template"),
            ("groups: [{name: a, gid: 0}]", "group a: the number 0"),
            ("drift: {interval: 9s}", "drift.interval: at least 10s"),
            ("drift: {fullInterval: 59s}", "drift.fullInterval: at least 1m"),
            ("drift: {ignore: [etc/motd]}", "\"etc/motd\": a pattern"),
            ("drift: {overrides: [{pattern: etc/motd, policy: Report}]}", "\"etc/motd\": a pattern"),
            ("trust: {proxy: {noProxy: [a]}}", "trust.proxy: a proxy is for http, https or both"),
            ("trust: {caBundles: [{name: c}]}", "caBundles, c: a CA bundle has exactly one source"),
            ("trust: {caBundles: [{name: c, pem: x}]}", "caBundles, c: a CA bundle is one or more"),
            (
                "trust: {caBundles: [{name: c, pem: '-----BEGIN CERTIFICATE-----, -----BEGIN PRIVATE KEY-----'}]}",
                "caBundles, c: a CA bundle has a private key in it",
            ),
        ] {
            let found = problems(&spec(yaml));
            assert_eq!(found.len(), 1, "{yaml}: {found:?}");
            assert!(found[0].contains(told), "{yaml}: {found:?}");
        }
    }

    #[test]
    fn the_list_of_top_level_folders_is_that_of_the_crd() {
        let crd = serde_json::to_value(crate::schema::node_bootstrap()).expect("JSON");
        let schema =
            &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
        let rule =
            schema["directories"]["items"]["x-kubernetes-validations"][0]["rule"].as_str().expect("a rule");
        let (_, pattern) = rule.split_once("matches(r'").expect("a pattern");
        let pattern = regex::Regex::new(pattern.trim_end_matches("')")).expect("RE2");
        for folder in TOP_LEVEL {
            assert!(pattern.is_match(folder), "{folder}");
        }
        // No alternative of the pattern is missing in the list; the optional step at its end makes one more.
        assert_eq!(pattern.as_str().matches('|').count() + 2, TOP_LEVEL.len(), "{rule}");
        for below in ["/etc/kubernetes", "/usr/local/share", "/var/lib/kubelet", "/etcetera"] {
            assert!(!pattern.is_match(below), "{below}");
        }
    }
}
