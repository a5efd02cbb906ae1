//! containerd: its configuration, and where that is asked for its program and unit.
//!
//! In: what the spec asks, and the containerd that the node has. Out: of a configuration that is there the keys that are
//! ours, each a part of it, so that all others stay as they are; where there is none a file. Which keys these are depends on
//! the version of the configuration, which the file itself says.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crds::component::{ContainerRuntime, Manage};
use crds::revision::{
    Access, Anchor, Archive, Binary, Content, Directory, File, Part, Resource, Unit, headline,
};
use crds::{AccountRef, HostPath, UnitName};
use serde_json::Value as Json;
use toml_edit::{Array, Document, InlineTable, Item, Table, Value};

use super::facts::FoundContainerd;
use super::{Expansion, Facts};
use crate::anchor::key::shown;

/// What messages call it.
const NAME: &str = "containerRuntime";
/// Its unit.
pub const UNIT: &str = "containerd.service";
/// Its configuration, unless its unit names another file.
pub const CONFIG: &str = "/etc/containerd/config.toml";
/// Where containerd looks for what it shall know of registries, a folder for each.
const REGISTRIES: &str = "/etc/containerd/certs.d";
/// Where network plug-ins lie, unless the configuration says otherwise.
const CNI_PLUGINS: &str = "/opt/cni/bin";
/// Where their configuration lies, unless the other one says otherwise. containerd would make it for root alone.
const CNI_CONFIG: &str = "/etc/cni/net.d";
/// runc, where it comes with containerd.
const RUNC_PATH: &str = "/usr/local/sbin/runc";
/// The kind of runtime that is runc.
const RUNC: &str = "io.containerd.runc.v2";

/// With the program where upstream's archive has it.
const UNIT_FILE: &str = "\
[Unit]
Description=containerd container runtime
Documentation=https://containerd.io
After=network.target local-fs.target dbus.service

[Service]
ExecStartPre=-/sbin/modprobe overlay
ExecStart=/usr/local/bin/containerd
Type=notify
Delegate=yes
KillMode=process
Restart=always
RestartSec=5
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
OOMScoreAdjust=-999

[Install]
WantedBy=multi-user.target
";

const CRICTL: &str = "\
runtime-endpoint: unix:///run/containerd/containerd.sock
image-endpoint: unix:///run/containerd/containerd.sock
timeout: 30
";

/// Values by the keys that lead to them.
type Keys = BTreeMap<Vec<String>, Json>;

/// The versions of containerd's configuration that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// Of containerd 1; that of 2 reads it too.
    Two,
    /// Of containerd 2.
    Three,
}

impl Version {
    fn number(self) -> i64 {
        match self {
            Self::Two => 2,
            Self::Three => 3,
        }
    }

    /// The plugin that runs pods.
    fn runtime(self, keys: &[&str]) -> Vec<String> {
        let plugin = match self {
            Self::Two => "io.containerd.grpc.v1.cri",
            Self::Three => "io.containerd.cri.v1.runtime",
        };
        ["plugins", plugin].iter().chain(keys).map(|key| (*key).to_owned()).collect()
    }

    /// The plugin that has their images.
    fn images(self, keys: &[&str]) -> Vec<String> {
        let plugin = match self {
            Self::Two => "io.containerd.grpc.v1.cri",
            Self::Three => "io.containerd.cri.v1.images",
        };
        ["plugins", plugin].iter().chain(keys).map(|key| (*key).to_owned()).collect()
    }

    fn sandbox_image(self) -> Vec<String> {
        match self {
            Self::Two => self.images(&["sandbox_image"]),
            Self::Three => self.images(&["pinned_images", "sandbox"]),
        }
    }
}

/// Adds containerd's resources. `driver`: that of cgroups which the kubelet will have.
pub fn expand(
    node_bootstrap: &str,
    runtime: &ContainerRuntime,
    driver: Option<&str>,
    facts: &Facts,
    out: &mut Expansion,
) {
    let is_installed = runtime.manage == Some(Manage::Install);
    if facts.containerd.is_none() && !is_installed {
        let message = format!(
            "no {UNIT} was found on this node: install containerd, or give manage: Install with the archive of one"
        );
        return out.problem(NAME, "NoContainerd", message);
    }
    let found = found(facts);
    if is_installed {
        install(node_bootstrap, runtime, out);
    }
    let missing = network_folders(runtime, facts).into_iter().filter(|path| !facts.folders.contains(path));
    out.resources.extend(missing.filter_map(|path| folder(&path)));
    match configuration(node_bootstrap, runtime, driver, &found, out) {
        Ok(resources) => out.resources.extend(resources),
        Err((reason, message)) => out.problem(NAME, reason, format!("{}: {message}", found.config_path)),
    }
}

/// The containerd that the node has, or will have.
fn found(facts: &Facts) -> Cow<'_, FoundContainerd> {
    let of_new = || FoundContainerd {
        unit: UNIT.to_owned(),
        config_path: CONFIG.to_owned(),
        ..FoundContainerd::default()
    };
    facts.containerd.as_ref().map_or_else(|| Cow::Owned(of_new()), Cow::Borrowed)
}

/// The folders of network plug-ins and of their configuration, as containerd's will name them; none if that cannot be had.
pub fn network_folders(runtime: &ContainerRuntime, facts: &Facts) -> Vec<String> {
    let (found, asked) = (found(facts), asked(runtime));
    let Ok(document) = Document::parse(found.config.as_deref().unwrap_or_default()) else {
        return Vec::new();
    };
    let Ok(version) = version(document.as_table(), &asked, &found) else { return Vec::new() };
    let now = Now { file: document.as_table(), asked: &asked };
    // Version 3 has a list of folders, and the other key still.
    let plugins = ["bin_dir", "bin_dirs"].map(|key| now.texts(&version.runtime(&["cni", key]))).concat();
    let config = now.texts(&version.runtime(&["cni", "conf_dir"]));
    let or = |named: Vec<String>, default: &str| {
        if named.is_empty() { vec![default.to_owned()] } else { named }
    };
    [or(plugins, CNI_PLUGINS), or(config, CNI_CONFIG)].concat()
}

fn folder(path: &str) -> Option<Resource> {
    let (path, access) = (path.parse().ok()?, Access::of_root(0o755));
    Some(Resource::Directory(Directory { path, access, recursive: false, inside: None }))
}

/// Why a configuration cannot be kept: in a word, and in words.
type Refused = (&'static str, String);

fn configuration(
    node_bootstrap: &str,
    runtime: &ContainerRuntime,
    driver: Option<&str>,
    found: &FoundContainerd,
    out: &mut Expansion,
) -> Result<Vec<Resource>, Refused> {
    let path: HostPath = found.config_path.parse().map_err(|why| ("PathRefused", format!("{why}")))?;
    let text = found.config.as_deref().unwrap_or_default();
    let document = Document::parse(text).map_err(|error| {
        ("NotToml", format!("is no TOML, containerd would not start with it: correct it: {error}"))
    })?;
    let asked = asked(runtime);
    let version = version(document.as_table(), &asked, found)?;
    let mut keys =
        generated(version, runtime, driver, &Now { file: document.as_table(), asked: &asked }, out);
    // What is asked for wins, also where it is a table and the other would be a value.
    keys.retain(|key, _| !asked.keys().any(|other| key.starts_with(other) || other.starts_with(key)));
    for (key, value) in &asked {
        let is_other =
            value.as_bool().is_some_and(|is| driver.is_some_and(|driver| is != (driver == "systemd")));
        if is_other && key.last().is_some_and(|last| last == "SystemdCgroup") {
            out.warn(format!(
                "{NAME}: containerRuntime.config says {} = {value}, and the kubelet's cgroupDriver is {}: pods do not start where the two differ; take it out, and it is as the kubelet has it",
                shown(key),
                driver.unwrap_or_default()
            ));
        }
    }
    let has_registries = keys.values().any(|value| value == REGISTRIES);
    keys.extend(asked);
    if document.is_empty() {
        keys.insert(vec!["version".to_owned()], version.number().into());
    }
    let mut written = BTreeMap::new();
    for (key, value) in keys {
        let value = toml(&value).map_err(|why| ("BadConfig", format!("{}: {why}", shown(&key))))?;
        written.insert(key, value.to_string().trim().to_owned());
    }
    let restart: Vec<UnitName> = found.unit.parse().into_iter().collect();
    let mut resources = match found.config {
        None => vec![file(path, &whole(node_bootstrap, &written), restart)],
        Some(_) => written
            .into_iter()
            .map(|(key, text)| {
                let shown = format!("{path}#{}", shown(&key));
                let (path, restart) = (path.clone(), restart.clone());
                Resource::Part(Part { path, shown, anchor: Anchor::Key(key), text, restart })
            })
            .collect(),
    };
    resources.extend(folder(REGISTRIES).filter(|_| has_registries));
    Ok(resources)
}

/// The version of the configuration that there is, or will be.
fn version(file: &Table, asked: &Keys, found: &FoundContainerd) -> Result<Version, Refused> {
    let asked = asked.get(["version".to_owned()].as_slice()).and_then(Json::as_i64);
    let in_file = file.get("version").and_then(Item::as_integer);
    if file.is_empty() {
        // Unless it is known to be newer: that of version 2 is read by all.
        let is_new = found.version.as_deref().and_then(major).is_some_and(|major| major >= 2);
        return match asked {
            None => Ok(if is_new { Version::Three } else { Version::Two }),
            Some(number) => known(number),
        };
    }
    let in_file = in_file.unwrap_or(1);
    if let Some(asked) = asked.filter(|asked| *asked != in_file) {
        let message = format!(
            "is a configuration of version {in_file}, and containerRuntime.config asks for version {asked}: write it as one of that version (containerd config migrate), or leave version out"
        );
        return Err(("OtherVersion", message));
    }
    known(in_file)
}

fn known(number: i64) -> Result<Version, Refused> {
    match number {
        2 => Ok(Version::Two),
        3 => Ok(Version::Three),
        number => Err((
            "OtherVersion",
            format!(
                "is a configuration of version {number} (without a version it counts as 1), and only 2 and 3 are known here: move it away, so that one is made, or write it anew by containerd config migrate or containerd config default"
            ),
        )),
    }
}

fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

/// What a configuration says, before anything is generated.
struct Now<'a> {
    file: &'a Table,
    asked: &'a Keys,
}

impl Now<'_> {
    fn in_file(&self, key: &[String]) -> Option<&Item> {
        let (first, rest) = key.split_first()?;
        rest.iter().try_fold(self.file.get(first)?, |item, key| item.get(key))
    }

    /// Whether there is something at or below a key.
    fn has(&self, key: &[String]) -> bool {
        let in_file = self.in_file(key).is_some_and(|item| match item.as_table_like() {
            Some(table) => !table.is_empty(),
            None => true,
        });
        in_file || self.asked.keys().any(|asked| asked.starts_with(key))
    }

    /// The text, or the texts of the list, that a key will have; those that say nothing left out.
    fn texts(&self, key: &[String]) -> Vec<String> {
        let in_file = || self.in_file(key)?.as_value().cloned();
        let value = self.asked.get(key).and_then(|value| toml(value).ok()).or_else(in_file);
        let value: Vec<Value> = match value {
            Some(Value::Array(list)) => list.into_iter().collect(),
            value => value.into_iter().collect(),
        };
        let texts = value.iter().filter_map(Value::as_str).filter(|text| !text.is_empty());
        texts.map(str::to_owned).collect()
    }

    /// The names of the runtimes that are runc: under some of these others have it do more, as with graphics cards.
    fn runtimes(&self, version: Version) -> Vec<String> {
        let all = self.in_file(&version.runtime(&["containerd", "runtimes"])).and_then(Item::as_table_like);
        let is_runc = |item: &Item| item.get("runtime_type").and_then(Item::as_str) == Some(RUNC);
        let others = all.iter().flat_map(|all| all.iter()).filter(|(_, item)| is_runc(item));
        let mut names: Vec<String> = others.map(|(name, _)| name.to_owned()).collect();
        names.push("runc".to_owned());
        names.sort();
        names.dedup();
        names
    }
}

/// What every node needs, by what there is.
fn generated(
    version: Version,
    runtime: &ContainerRuntime,
    driver: Option<&str>,
    now: &Now<'_>,
    out: &mut Expansion,
) -> Keys {
    let mut keys = Keys::new();
    if let Some(driver) = driver {
        for name in now.runtimes(version) {
            let of =
                |keys: &[&str]| version.runtime(&[&["containerd", "runtimes", name.as_str()], keys].concat());
            let is_systemd = driver == "systemd";
            // containerd's own default is the other, and nothing is restarted for what is so anyway.
            if !is_systemd && !now.has(&of(&["options", "SystemdCgroup"])) {
                continue;
            }
            // One that is named counts as a whole: without its kind containerd would not start.
            if !now.has(&of(&["runtime_type"])) {
                keys.insert(of(&["runtime_type"]), RUNC.into());
            }
            keys.insert(of(&["options", "SystemdCgroup"]), is_systemd.into());
        }
    }
    if let Some(image) = &runtime.sandbox_image {
        keys.insert(version.sandbox_image(), image.as_str().into());
    }
    let config_path = version.images(&["registry", "config_path"]);
    let old = ["mirrors", "configs"].map(|old| version.images(&["registry", old]));
    if let Some(old) = old.iter().find(|old| now.has(old)) {
        out.warn(format!(
            "{NAME}: registries stay as {} has them, which containerd takes only without {}: write them as folders of {REGISTRIES}, and take that out",
            shown(old),
            shown(&config_path)
        ));
    } else if !now.has(&config_path) {
        keys.insert(config_path, REGISTRIES.into());
    }
    let is_filled =
        |name: &str| now.file.get(name).and_then(Item::as_array).is_some_and(|list| !list.is_empty());
    if is_filled("imports") {
        out.warn(format!(
            "{NAME}: imports name other files, whose sections count in place of those of this one"
        ));
    }
    let disabled = now.texts(&["disabled_plugins".to_owned()]);
    let of_pods =
        ["cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images"];
    for plugin in disabled.iter().filter(|plugin| of_pods.contains(&plugin.as_str())) {
        out.problem(
            NAME,
            "CriDisabled",
            format!("disabled_plugins has {plugin}, without which no pod runs: take it out, or give config: {{disabled_plugins: []}}"),
        );
    }
    keys
}

/// The keys that are asked for.
fn asked(runtime: &ContainerRuntime) -> Keys {
    let mut asked = Keys::new();
    for (key, value) in runtime.config.iter().flatten() {
        flatten(&mut vec![key.clone()], value, &mut asked);
    }
    asked
}

/// The leaves of a tree. A list is one value, and so is what is in it.
fn flatten(path: &mut Vec<String>, value: &Json, keys: &mut Keys) {
    match value {
        Json::Object(tree) => {
            for (key, value) in tree {
                path.push(key.clone());
                flatten(path, value, keys);
                path.pop();
            }
        }
        leaf => _ = keys.insert(path.clone(), leaf.clone()),
    }
}

/// A value as TOML has it.
fn toml(value: &Json) -> Result<Value, String> {
    Ok(match value {
        Json::Null => return Err("null is no value of TOML: leave it out, or give one".to_owned()),
        Json::Bool(is) => (*is).into(),
        Json::String(text) => text.as_str().into(),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => number.into(),
            (None, Some(number)) if !value.is_u64() => number.into(),
            _ => return Err(format!("{number} is too large for TOML")),
        },
        Json::Array(list) => list.iter().map(toml).collect::<Result<Array, _>>()?.into(),
        Json::Object(tree) => {
            let pairs = tree.iter().map(|(key, value)| Ok((key.as_str(), toml(value)?)));
            pairs.collect::<Result<InlineTable, String>>()?.into()
        }
    })
}

/// A whole configuration of these keys: those of no table first.
fn whole(node_bootstrap: &str, keys: &BTreeMap<Vec<String>, String>) -> String {
    let mut tables: BTreeMap<&[String], Vec<String>> = BTreeMap::new();
    for (key, value) in keys {
        let Some((last, table)) = key.split_last() else { continue };
        let line = format!("{} = {value}\n", shown(std::slice::from_ref(last)));
        tables.entry(table).or_default().push(line);
    }
    let mut text = headline(node_bootstrap);
    for (table, lines) in tables {
        if !table.is_empty() {
            text.push_str(&format!("\n[{}]\n", shown(table)));
        }
        text.extend(lines);
    }
    text
}

fn install(node_bootstrap: &str, runtime: &ContainerRuntime, out: &mut Expansion) {
    let unit: Option<UnitName> = UNIT.parse().ok();
    let restart: Vec<UnitName> = unit.iter().cloned().collect();
    if let (Some(from), Ok(name), Ok(into)) = (&runtime.archive, "containerd".parse(), "/usr/local".parse()) {
        out.resources.push(Resource::Archive(Archive {
            name,
            into,
            owner: AccountRef::root(),
            group: AccountRef::root(),
            urls: from.url.with_mirrors(&from.mirrors),
            sha256: from.sha256.clone(),
            strip: 0,
            include: Vec::new(),
            setuid: false,
            restart,
        }));
    }
    if let (Some(from), Ok(path)) = (&runtime.runc, RUNC_PATH.parse()) {
        // Each container that is started from then on has it: nothing is to be restarted.
        let urls = from.url.with_mirrors(&from.mirrors);
        let (sha256, restart) = (from.sha256.clone(), Vec::new());
        let access = Access::of_root(0o755);
        out.resources.push(Resource::Binary(Binary { path, access, urls, sha256, restart, version: None }));
    }
    let kept = headline(node_bootstrap);
    // What stands in the unit is spared as long as that has to run on: see removal.
    let with_runc = runtime.runc.as_ref().map(|_| format!("# It starts containers by {RUNC_PATH}.\n"));
    out.resources.extend(unit.map(|name| {
        let content = Some(format!("{kept}{}{UNIT_FILE}", with_runc.unwrap_or_default()));
        Resource::Unit(Unit { name, content, enabled: Some(true), active: Some(true), masked: None })
    }));
    let crictl = "/etc/crictl.yaml".parse().ok();
    out.resources.extend(crictl.map(|path| file(path, &format!("{kept}{CRICTL}"), Vec::new())));
}

fn file(path: HostPath, content: &str, restart: Vec<UnitName>) -> Resource {
    let content = Content::Text(content.to_owned());
    Resource::File(File { path, access: Access::of_root(0o644), content, restart })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anchor;
    use serde_json::json;
    use std::collections::BTreeSet;

    /// As the distribution's package has it, and somebody has changed it.
    const TWO: &str = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n  snapshotter = \"native\"\n\
        [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n  runtime_type = \"io.containerd.runc.v2\"\n";
    const THREE: &str =
        "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '/srv/certs'\n";

    fn runtime(json: serde_json::Value) -> ContainerRuntime {
        let mut all = json!({"type": "containerd"});
        for (key, value) in json.as_object().unwrap() {
            all[key] = value.clone();
        }
        serde_json::from_value(all).unwrap()
    }

    fn found(version: &str, config: Option<&str>) -> Facts {
        let containerd = FoundContainerd {
            unit: UNIT.to_owned(),
            version: Some(version.to_owned()),
            config_path: CONFIG.to_owned(),
            config: config.map(str::to_owned),
        };
        Facts { containerd: Some(containerd), folders: folders(), ..Facts::default() }
    }

    /// The usual ones.
    fn folders() -> BTreeSet<String> {
        [CNI_PLUGINS, CNI_CONFIG].map(str::to_owned).into()
    }

    fn expanded(runtime: &ContainerRuntime, driver: Option<&str>, facts: &Facts) -> Expansion {
        let mut out = Expansion::default();
        expand("workers", runtime, driver, facts, &mut out);
        out
    }

    /// The parts of the configuration, as `key = value`.
    fn keys(out: &Expansion) -> Vec<String> {
        let key = |resource: &Resource| match resource {
            Resource::Part(part) => {
                assert_eq!(part.restart, [UNIT.parse().unwrap()], "{part}");
                Some(format!("{} = {}", part.shown.strip_prefix("/etc/containerd/config.toml#")?, part.text))
            }
            _ => None,
        };
        out.resources.iter().filter_map(key).collect()
    }

    fn reasons(out: &Expansion) -> Vec<&'static str> {
        out.findings.problems.iter().map(|problem| problem.reason).collect()
    }

    #[test]
    fn each_version_has_its_own_keys() {
        let all = runtime(json!({"sandboxImage": "pause:1"}));
        let of_two = expanded(&all, Some("systemd"), &found("1.6.20", Some(TWO)));
        let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
        assert_eq!(
            keys(&of_two),
            [
                format!("{cri}.containerd.runtimes.runc.options.SystemdCgroup = true"),
                format!("{cri}.registry.config_path = \"/etc/containerd/certs.d\""),
                format!("{cri}.sandbox_image = \"pause:1\""),
            ]
        );
        let has_folder = |out: &Expansion| out.resources.iter().any(|one| one.name() == REGISTRIES);
        assert!(has_folder(&of_two));
        let of_three = expanded(&all, Some("systemd"), &found("2.1.3", Some(THREE)));
        let run = "plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.runc";
        assert_eq!(
            keys(&of_three),
            [
                "plugins.\"io.containerd.cri.v1.images\".pinned_images.sandbox = \"pause:1\"".to_owned(),
                format!("{run}.options.SystemdCgroup = true"),
                format!("{run}.runtime_type = \"io.containerd.runc.v2\""),
            ]
        );
        assert!(!has_folder(&of_three), "registries are where they were");
        assert!(of_two.findings.warnings.is_empty() && of_three.findings.warnings.is_empty());
    }

    #[test]
    fn every_runtime_that_is_runc_has_the_kubelet_s_driver_and_nothing_else_is_said_of_it() {
        let more = format!(
            "{TWO}[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.nvidia]\nruntime_type = \"io.containerd.runc.v2\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.kata]\nruntime_type = \"io.containerd.kata.v2\"\n"
        );
        let of = |driver| {
            let out = expanded(&runtime(json!({})), driver, &found("1.6.20", Some(&more)));
            keys(&out).into_iter().filter(|key| key.contains("runtimes")).collect::<Vec<_>>()
        };
        let systemd = of(Some("systemd"));
        assert_eq!(systemd.len(), 2, "{systemd:?}");
        assert!(systemd[0].contains(".nvidia.") && systemd[1].contains(".runc."), "{systemd:?}");
        assert!(of(None).is_empty() && of(Some("cgroupfs")).is_empty());
        let on = more.replace("runtimes.nvidia]", "runtimes.nvidia]\noptions.SystemdCgroup = true");
        let out = expanded(&runtime(json!({})), Some("cgroupfs"), &found("1.6.20", Some(&on)));
        assert!(keys(&out).iter().any(|key| key.ends_with("nvidia.options.SystemdCgroup = false")));
    }

    #[test]
    fn what_is_asked_for_wins() {
        let config = json!({
            "plugins": {"io.containerd.grpc.v1.cri": {
                "sandbox_image": "mine:1", "max_concurrent_downloads": 5,
                "containerd": {"runtimes": {"runc": {"options": {"SystemdCgroup": false}}}},
                "registry": {"config_path": ""},
            }},
            "oom_score": -999, "imports": ["/etc/containerd/conf.d/*.toml"],
        });
        let out = expanded(
            &runtime(json!({"sandboxImage": "pause:1", "config": config})),
            Some("systemd"),
            &found("1.6.20", Some(TWO)),
        );
        let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
        assert_eq!(
            keys(&out),
            [
                "imports = [\"/etc/containerd/conf.d/*.toml\"]".to_owned(),
                "oom_score = -999".to_owned(),
                format!("{cri}.containerd.runtimes.runc.options.SystemdCgroup = false"),
                format!("{cri}.max_concurrent_downloads = 5"),
                format!("{cri}.registry.config_path = \"\""),
                format!("{cri}.sandbox_image = \"mine:1\""),
            ]
        );
        let null = expanded(&runtime(json!({"config": {"root": null}})), None, &found("1.6.20", Some(TWO)));
        assert_eq!(reasons(&null), ["BadConfig"]);
        let [warning] = out.findings.warnings.as_slice() else { panic!("{:?}", out.findings.warnings) };
        assert!(
            warning.contains("SystemdCgroup = false, and the kubelet's cgroupDriver is systemd"),
            "{warning}"
        );
    }

    #[test]
    fn a_configuration_that_is_not_there_is_made_and_is_toml() {
        for (containerd, plugin) in
            [("1.7.28", "io.containerd.grpc.v1.cri"), ("2.1.3", "io.containerd.cri.v1.runtime")]
        {
            let out = expanded(
                &runtime(json!({"config": {"oom_score": -1}})),
                Some("systemd"),
                &found(containerd, None),
            );
            let Some(Resource::File(file)) = out.resources.iter().find(|one| one.name() == CONFIG) else {
                panic!("{:?}", out.resources)
            };
            let Content::Text(text) = &file.content else { panic!() };
            let value = |key: &[&str]| {
                let key = Anchor::Key(key.iter().map(|key| (*key).to_owned()).collect());
                anchor::find(text.as_bytes(), &key).unwrap().unwrap().text
            };
            assert_eq!(value(&["version"]), if containerd.starts_with('1') { "2" } else { "3" });
            assert_eq!(value(&["oom_score"]), "-1");
            let runc = ["plugins", plugin, "containerd", "runtimes", "runc"];
            assert_eq!(value(&[&runc[..], &["runtime_type"]].concat()), "\"io.containerd.runc.v2\"");
            assert_eq!(value(&[&runc[..], &["options", "SystemdCgroup"]].concat()), "true");
            assert_eq!(file.restart, [UNIT.parse().unwrap()]);
        }
    }

    #[test]
    fn what_cannot_be_kept_is_a_problem_and_what_may_surprise_a_warning() {
        let of = |config: &str| expanded(&runtime(json!({})), None, &found("1.6.20", Some(config)));
        assert_eq!(reasons(&of("root = '/x'\n")), ["OtherVersion"], "version 1");
        assert_eq!(reasons(&of("version = 9\n")), ["OtherVersion"]);
        assert_eq!(reasons(&of("version = \n")), ["NotToml"]);
        assert_eq!(reasons(&of("version = 2\ndisabled_plugins = ['cri']\n")), ["CriDisabled"]);
        assert_eq!(reasons(&expanded(&runtime(json!({})), None, &Facts::default())), ["NoContainerd"]);
        let other = runtime(json!({"config": {"version": 3}}));
        assert_eq!(reasons(&expanded(&other, None, &found("2.1.3", Some(TWO)))), ["OtherVersion"]);
        let mirrors = of(
            "version = 2\nimports = ['/x']\n[plugins.'io.containerd.grpc.v1.cri'.registry.mirrors.x]\nendpoint = ['y']\n",
        );
        assert!(keys(&mirrors).is_empty() && reasons(&mirrors).is_empty());
        assert_eq!(mirrors.findings.warnings.len(), 2, "{:?}", mirrors.findings.warnings);
        // A file with nothing in it is no configuration of version 1.
        assert!(keys(&of("# nothing\n")).contains(&"version = 2".to_owned()));
    }

    #[test]
    fn a_runtime_is_installed_with_its_unit() {
        let digest = "0".repeat(64);
        let from = json!({"url": "https://example.com/c-{arch}.tar.gz", "sha256": {"amd64": digest}});
        let out = expanded(
            &runtime(json!({"manage": "Install", "archive": from, "runc": from})),
            Some("systemd"),
            &Facts::default(),
        );
        assert_eq!(reasons(&out), [""; 0]);
        let mut shown: Vec<String> = out.resources.iter().map(ToString::to_string).collect();
        shown.sort();
        assert_eq!(
            shown,
            [
                "archive containerd",
                "binary /usr/local/sbin/runc",
                "directory /etc/cni/net.d",
                "directory /etc/containerd/certs.d",
                "directory /opt/cni/bin",
                "file /etc/containerd/config.toml",
                "file /etc/crictl.yaml",
                "unit containerd.service",
            ]
        );
    }
    #[test]
    fn folders_of_the_network_are_made_where_they_are_missing_and_where_the_configuration_has_them() {
        let three = "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dirs = ['/a', '/b']\nconf_dir = ''\n";
        let two = "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.cni]\nbin_dir = '/usr/lib/cni'\n";
        let own = json!({"config": {"plugins": {"io.containerd.grpc.v1.cri": {"cni": {"conf_dir": "/etc/own.d"}}}}});
        for (spec, config, expected) in [
            (json!({}), Some(TWO), [CNI_PLUGINS, CNI_CONFIG].as_slice()),
            (json!({}), None, &[CNI_PLUGINS, CNI_CONFIG]),
            (json!({}), Some(three), &["/a", "/b", CNI_CONFIG]),
            (own, Some(two), &["/usr/lib/cni", "/etc/own.d"]),
            (json!({}), Some("version = "), &[]),
        ] {
            let (spec, mut facts) = (runtime(spec), found("1.6.20", config));
            assert_eq!(network_folders(&spec, &facts), expected, "{config:?}");
            let made = |facts: &Facts| {
                let out = expanded(&spec, None, facts);
                let folders = out.resources.into_iter().filter(|one| one.kind() == "directory");
                folders.map(|one| one.name().to_owned()).filter(|path| path != REGISTRIES).collect::<Vec<_>>()
            };
            facts.folders.clear();
            assert_eq!(made(&facts), expected, "{config:?}");
            facts.folders.extend(expected.iter().map(|path| (*path).to_owned()));
            assert_eq!(made(&facts), [""; 0]);
        }
    }
}
