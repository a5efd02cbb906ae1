//! What a spec as a whole must keep, beyond what its single values do by their types.
//!
//! In: a spec. Out: all that is wrong with it, each with what to write instead. The API server refuses the same by the
//! CRD's rules and by the input policy; this serves what never passed there, such as the command line's `--file`.

mod component;

use std::collections::{BTreeMap, BTreeSet};

use crate::names::HMAC_KEY_SECRET;
use crate::nodebootstrap::{
    Directory, Health, LabelOperator, MAX_ARCHIVES, MAX_BINARIES, MAX_CA_BUNDLES, MAX_DROP_INS, MAX_ENTRIES,
    MAX_FILE_PARTS, MAX_GROUPS, MAX_MODULES, MAX_PATTERN, MAX_PATTERNS, MAX_PROXY_UNITS, MAX_STRIP,
    MAX_SYMLINKS, MAX_SYSCTLS, MIN_FULL_INTERVAL, MIN_INTERVAL, NodeBootstrapSpec, SwapPolicy,
};
use crate::revision::{Part, SWAP_TARGET, Unit, references, render_part, shown_part};
use crate::value::{SysctlName, Timeout, UnitName};

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
    parts(spec, &mut problems);
    drift(spec, &mut problems);
    health(spec, &mut problems);
    trust(spec, &mut problems);
    component::problems(spec, &mut problems);
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

/// The units that are told of the proxy.
fn proxy_units(spec: &NodeBootstrapSpec) -> &[UnitName] {
    let proxy = spec.trust.as_ref().and_then(|trust| trust.proxy.as_ref());
    proxy.map(|proxy| proxy.units.as_slice()).unwrap_or_default()
}

fn trust(spec: &NodeBootstrapSpec, problems: &mut Vec<String>) {
    let Some(trust) = &spec.trust else { return };
    for unit in proxy_units(spec) {
        if !unit.as_str().ends_with(".service") || unit.is_template() {
            problems.push(format!(
                "trust.proxy.units, {unit}: only a service has a program that can be told of a proxy, and a template (name@.service) does not run: name services, as containerd.service, or name@one.service"
            ));
        }
        if Unit::proxy_drop_in(unit).is_none() {
            problems.push(format!(
                "trust.proxy.units, {unit}: its drop-in's path would be longer than 256 characters: give the unit a shorter name"
            ));
        }
    }
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
        if bundle.install == Some(true) && !is_part_of_a_file_name(&bundle.name) {
            problems.push(format!(
                "trust.caBundles, {}: the name of a CA bundle that is installed is a part of its files' names: use letters, digits and . _ - only, as in: corporate",
                bundle.name
            ));
        }
        if let Some(problem) = bundle.pem.as_deref().and_then(pem_problem) {
            problems.push(format!("trust.caBundles, {}: {problem}", bundle.name));
        }
    }
}

fn is_part_of_a_file_name(name: &str) -> bool {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    name.starts_with(|first: char| first.is_ascii_alphanumeric()) && name.chars().all(is_plain)
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

fn health(spec: &NodeBootstrapSpec, problems: &mut Vec<String>) {
    let health = spec.health.as_ref();
    let (timeout, stable_for) = (Health::timeout(health), Health::stable_for(health));
    if timeout < Timeout::from_secs(10) || timeout > Timeout::from_secs(3600) {
        problems.push("health.timeout: from 10s to 1h".to_owned());
    }
    if stable_for >= timeout {
        problems.push(
            "health.stableFor (10s if left out) must be shorter than health.timeout (180s if left out)"
                .to_owned(),
        );
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
    let parts: Vec<String> = spec.file_parts.iter().map(|part| shown_part(&part.path, &part.name)).collect();
    let names: [(&str, Vec<&str>); 11] = [
        ("groups", spec.groups.iter().map(|group| group.name.as_str()).collect()),
        ("users", spec.users.iter().map(|user| user.name.as_str()).collect()),
        ("directories", spec.directories.iter().map(|directory| directory.path.as_str()).collect()),
        ("files", spec.files.iter().map(|file| file.path.as_str()).collect()),
        ("binaries", spec.binaries.iter().map(|binary| binary.path.as_str()).collect()),
        ("archives", spec.archives.iter().map(|archive| archive.name.as_str()).collect()),
        ("symlinks", spec.symlinks.iter().map(|symlink| symlink.path.as_str()).collect()),
        ("fileParts", parts.iter().map(String::as_str).collect()),
        ("units", spec.units.iter().map(|unit| unit.name.as_str()).collect()),
        ("trust.caBundles", bundles.map(|bundle| bundle.name.as_str()).collect()),
        ("trust.proxy.units", proxy_units(spec).iter().map(UnitName::as_str).collect()),
    ];
    for (list, names) in names {
        let most = match list {
            "binaries" => MAX_BINARIES,
            "archives" => MAX_ARCHIVES,
            "symlinks" => MAX_SYMLINKS,
            "fileParts" => MAX_FILE_PARTS,
            "trust.caBundles" => MAX_CA_BUNDLES,
            "trust.proxy.units" => MAX_PROXY_UNITS,
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
        .chain(drop_ins.map(|path| (path.to_string(), "units")))
        .chain(spec.file_parts.iter().map(|part| (part.path.to_string(), "fileParts")))
        .chain(
            proxy_units(spec)
                .iter()
                .filter_map(Unit::proxy_drop_in)
                .map(|path| (path.to_string(), "trust.proxy.units")),
        );
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
    for archive in &spec.archives {
        if let Some(list) = files.get(archive.into.as_str()) {
            problems.push(format!(
                "archive {}: it is unpacked into {}, which is in {list} and no directory: name another one",
                archive.name, archive.into
            ));
        }
    }
    let below = files
        .keys()
        .map(String::as_str)
        .chain(spec.directories.iter().map(|directory| directory.path.as_str()))
        .chain(spec.archives.iter().map(|archive| archive.into.as_str()));
    for path in below {
        if let Some(file) = parents(path).find(|parent| files.contains_key(*parent)) {
            problems.push(format!("{path} lies below {file}, which is no directory: move one of them"));
        }
    }
}

fn parts(spec: &NodeBootstrapSpec, problems: &mut Vec<String>) {
    let mut before: Vec<Part> = Vec::new();
    for part in &spec.file_parts {
        let shown = shown_part(&part.path, &part.name);
        if part.block.is_some() == part.line.is_some() {
            problems.push(format!("{shown}: a part of a file is a block or a line: give one of them"));
            continue;
        }
        if part.comment.is_some() && part.block.is_none() {
            problems.push(format!(
                "{shown}: comment begins the lines that mark a block; a line has none: leave it out"
            ));
        }
        let begins_so = |start: &str| part.line.as_ref().is_some_and(|line| line.as_str().starts_with(start));
        if let Some(start) = part.replaces.as_ref().filter(|start| !begins_so(start.as_str())) {
            problems.push(format!(
                "{shown}: replaces is how line itself begins, or it would be added again and again, and {:?} is not: write both alike",
                start.as_str()
            ));
        }
        let part = render_part(part);
        if let Some(other) = before
            .iter()
            .find(|other| other.path == part.path && other.shown != shown && other.touches(&part))
        {
            problems.push(format!(
                "{shown}: it and {} would take each other's place in the file: leave one of them, or write a longer replaces",
                other.shown
            ));
        }
        before.push(part);
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
    for Directory { path, recursive, inside, .. } in &spec.directories {
        let Some(inside) = inside else { continue };
        if !recursive.unwrap_or(false) {
            problems.push(format!(
                "{path}: inside is for what is inside a directory that is recursive: write recursive: true too, or leave it out"
            ));
        }
        if inside.file_mode.is_none() && inside.directory_mode.is_none() {
            problems.push(format!("{path}: inside: give fileMode, directoryMode or both"));
        }
        if inside.file_mode.is_some_and(|mode| mode.bits() & 0o7000 != 0) {
            problems.push(format!(
                "{path}: inside.fileMode has no set-uid, set-gid or sticky bit, which whoever puts a file there would get too: write three digits, as in: \"0640\""
            ));
        }
        if inside.directory_mode.is_some_and(|mode| mode.bits() & 0o4000 != 0) {
            problems.push(format!(
                "{path}: inside.directoryMode has no set-uid bit, which means nothing: write \"0750\", or \"2750\" for set-gid"
            ));
        }
    }
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
    let digests = spec.binaries.iter().map(|binary| (binary.path.to_string(), &binary.sha256));
    let of_archives =
        spec.archives.iter().map(|archive| (format!("archive {}", archive.name), &archive.sha256));
    for (what, sha256) in digests.chain(of_archives) {
        if sha256.is_empty() {
            problems.push(format!(
                "{what}: sha256 is missing: give the digest for each architecture, as in sha256: {{amd64: \"<64 hex digits>\"}}"
            ));
        }
        if let Some(other) = sha256.keys().find(|arch| !matches!(arch.as_str(), "amd64" | "arm64")) {
            problems.push(format!(
                "{what}: sha256 is given for each architecture: the keys are amd64 and arm64, not {other}"
            ));
        }
    }
    for archive in &spec.archives {
        let name = &archive.name;
        if archive.strip.is_some_and(|strip| !(0..=MAX_STRIP).contains(&strip)) {
            problems.push(format!("archive {name}: strip is a number from 0 to {MAX_STRIP}"));
        }
        if archive.include.len() > MAX_PATTERNS {
            problems.push(format!(
                "archive {name}: include has {} entries, at most {MAX_PATTERNS} are possible",
                archive.include.len()
            ));
        }
        let is_good =
            |pattern: &str| (1..=MAX_PATTERN).contains(&pattern.chars().count()) && !pattern.starts_with('/');
        if let Some(bad) = archive.include.iter().find(|pattern| !is_good(pattern)) {
            problems.push(format!(
                "archive {name}: include, {bad:?}: a pattern is that of a path in the archive, without a / in front, as in: bin/*"
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
    let changes = changes.chain(spec.file_parts.iter().map(|part| (part.path.as_str(), &part.on_change)));
    let changes = changes.chain(spec.archives.iter().map(|one| (one.name.as_str(), &one.on_change)));
    for (path, on_change) in changes {
        let mut units = on_change.iter().flat_map(|on_change| &on_change.restart);
        if let Some(unit) = units.find(|unit| unit.is_template()) {
            problems.push(format!(
                "{path}: {unit} is a template, which does not run: name the instances, as name@one.service"
            ));
        }
    }
    if let Some(kernel) = &spec.kernel {
        let mut units = spec.units.iter();
        if kernel.swap == Some(SwapPolicy::Disabled) && units.any(|unit| unit.name.as_str() == SWAP_TARGET) {
            problems.push(format!(
                "{SWAP_TARGET} is in units, and kernel.swap Disabled masks it: leave it in one of them"
            ));
        }
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

    /// Archives of one name, with these fields besides.
    fn archives(fields: &[&str]) -> String {
        let digest = "0".repeat(64);
        let one = |field: &&str| {
            format!("{{name: a, url: 'http://a', into: /a/b, sha256: {{amd64: '{digest}'}}, {field}}}")
        };
        format!("archives: [{}]", fields.iter().map(one).collect::<Vec<_>>().join(", "))
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
                "files: [{path: /a, content: ''}]\nfileParts: [{path: /a, name: p, block: x}]",
                "/a is in both files and fileParts",
            ),
            (
                "units: [{name: a.service, content: x}]\nfileParts: [{path: /etc/systemd/system/a.service, name: p, line: x}]",
                "in both units and fileParts",
            ),
            (
                "directories: [{path: /a}]\nfileParts: [{path: /a, name: p, block: x}]",
                "/a is in both directories and fileParts",
            ),
            (
                "fileParts: [{path: /a, name: p, block: x}, {path: /a, name: p, line: y}]",
                "fileParts: /a#p is there twice",
            ),
            ("fileParts: [{path: /a, name: p}]", "/a#p: a part of a file is a block or a line"),
            ("fileParts: [{path: /a, name: p, line: x, block: x}]", "/a#p: a part of a file is a block or"),
            ("fileParts: [{path: /a, name: p, line: x, comment: ;}]", "/a#p: comment begins the lines"),
            (
                "fileParts: [{path: /a, name: p, line: x=1, replaces: y=}]",
                "/a#p: replaces is how line itself",
            ),
            (
                "fileParts: [{path: /a, name: p, block: x=1, replaces: x=}]",
                "/a#p: replaces is how line itself",
            ),
            (
                "fileParts: [{path: /a, name: p, line: x=1, replaces: x}, {path: /a, name: q, line: x=2, replaces: x=}]",
                "/a#q: it and /a#p would take each other's place",
            ),
            (
                "fileParts: [{path: /a, name: p, line: x=1, replaces: x=}, {path: /a, name: q, line: x=2}]",
                "/a#q: it and /a#p would take each other's place",
            ),
            (
                "fileParts: [{path: /a, name: p, line: x, onChange: {restart: [t@.service]}}]",
                "/a: t@.service is a template",
            ),
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
            ("kernel: {swap: Disabled}\nunits: [{name: swap.target}]", "swap.target is in units"),
            ("units: [{name: a@.service, masked: true}]", "a@.service: a template"),
            (
                "files: [{path: /etc/systemd/system/a.service.d/b.conf, content: ''}]\nunits: [{name: a.service, dropIns: [{name: b.conf, content: x}]}]",
                "in both files and units",
            ),
            ("directories: [{path: /etc, recursive: true}]", "/etc: recursive"),
            ("directories: [{path: /a, inside: {fileMode: '0640'}}]", "/a: inside is for what is inside"),
            ("directories: [{path: /a, recursive: true, inside: {}}]", "/a: inside: give fileMode"),
            (
                "directories: [{path: /a, recursive: true, inside: {fileMode: '4755'}}]",
                "/a: inside.fileMode has no set-uid",
            ),
            (
                "directories: [{path: /a, recursive: true, inside: {directoryMode: '4755'}}]",
                "/a: inside.directoryMode has no set-uid",
            ),
            ("binaries: [{path: /a, url: 'http://a'}]", "/a: sha256 is missing"),
            ("archives: [{name: a, url: 'http://a', into: /a}]", "archive a: sha256 is missing"),
            (&archives(&["", ""]), "archives: a is there twice"),
            (&archives(&["strip: 17"]), "archive a: strip is a number from 0 to 16"),
            (&archives(&["include: [/bin/a]"]), "archive a: include, \"/bin/a\": a pattern"),
            (&archives(&["onChange: {restart: [t@.service]}"]), "is a template"),
            (&format!("files: [{{path: /a, content: ''}}]\n{}", archives(&[""])), "/a/b lies below /a"),
            (&format!("files: [{{path: /a/b, content: ''}}]\n{}", archives(&[""])), "unpacked into /a/b"),
            ("units: [{name: a@.service, active: true}]", "a@.service: a template"),
            ("groups: [{name: a, gid: 0}]", "group a: the number 0"),
            ("drift: {interval: 9s}", "drift.interval: at least 10s"),
            ("health: {timeout: 9s, stableFor: 1s}", "health.timeout: from 10s to 1h"),
            ("health: {timeout: 10s}", "health.stableFor (10s if left out) must be shorter"),
            ("drift: {fullInterval: 59s}", "drift.fullInterval: at least 1m"),
            ("drift: {ignore: [etc/motd]}", "\"etc/motd\": a pattern"),
            ("drift: {overrides: [{pattern: etc/motd, policy: Report}]}", "\"etc/motd\": a pattern"),
            ("trust: {proxy: {noProxy: [a]}}", "trust.proxy: a proxy is for http, https or both"),
            ("trust: {proxy: {http: 'http://a', units: [a.socket]}}", "units, a.socket: only a service"),
            ("trust: {proxy: {http: 'http://a', units: [a@.service]}}", "units, a@.service: only a service"),
            ("trust: {proxy: {http: 'http://a', units: [a.service, a.service]}}", "a.service is there twice"),
            (
                "files: [{path: /etc/systemd/system/a.service.d/50-nodebootstrap-proxy.conf, content: ''}]\ntrust: {proxy: {http: 'http://a', units: [a.service]}}",
                "in both files and trust.proxy.units",
            ),
            (
                "units: [{name: a.service, dropIns: [{name: 50-nodebootstrap-proxy.conf, content: ''}]}]\ntrust: {proxy: {http: 'http://a', units: [a.service]}}",
                "in both units and trust.proxy.units",
            ),
            (
                "trust: {caBundles: [{name: ../c, pem: '-----BEGIN CERTIFICATE-----', install: true}]}",
                "caBundles, ../c: the name of a CA bundle that is installed",
            ),
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
