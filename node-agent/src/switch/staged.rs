//! What is about to be put in place, tried before anything is changed: whether the program says that it is the version which
//! was asked for, whether the kubelet's configuration is one, and what systemd makes of the units. That a program is one for
//! this architecture is a matter of the plan.
//!
//! In: a plan that waits for no download, and the host's own programs. Out: the first that is wrong, or nothing.

use std::collections::{BTreeMap, BTreeSet};

use crds::revision::{Binary, Resource, Revision};
use serde_json::Value;

use super::is_node_unit;
use crate::engine::{Failure, Plan};
use crate::host::install::{UNIT_DIRECTORY, UNIT_PATH};
use crate::host::kubelet::Kubelet;
use crate::host::trial::{self, Folder, Said};
use crate::host::{Host, HostError};
use crate::preset::kubelet::{API_VERSION, CONFIG, CONFIG_DIR, KIND};
use crate::resource::unit::is_of_path;
use crate::resource::{Action, is_below};

/// Where units are tried: systemd does not read it.
const FOLDER: &str = "/run/nodebootstrap";
/// The largest file of a unit that is read, in bytes.
const MAX_UNIT: u64 = 1 << 20;
/// How many lines are told of what a program says.
const LINES: usize = 3;

/// Tries all of it, in a process of the host.
///
/// # Errors
/// With what is wrong; nothing was changed.
pub async fn check(host: &Host, revision: &Revision, plan: &Plan) -> Result<(), Failure> {
    configurations(plan, Kubelet::find(&host.root).as_ref())?;
    let programs = programs(host, revision, plan).map_err(|error| Failure::from(&error))?;
    for (binary, program) in &programs {
        version(binary, program).await?;
    }
    for (unit, files) in units(host, plan, &programs) {
        verify(host, &revision.node_bootstrap, plan, &unit, &files).await?;
    }
    Ok(())
}

fn refused(reason: &str, message: String) -> Failure {
    Failure { reason: reason.to_owned(), message, made: Vec::new() }
}

/// Whether each configuration of the kubelet that is written is one.
fn configurations(plan: &Plan, kubelet: Option<&Kubelet>) -> Result<(), Failure> {
    let flag = |name: &str| kubelet.and_then(|kubelet| kubelet.flag(name));
    let files = [Some(CONFIG), flag("config")];
    let folders = [Some(CONFIG_DIR), flag("config-dir")];
    for step in &plan.steps {
        let Action::WriteFile { path, content, .. } = &step.action else { continue };
        let is_named = files.contains(&Some(path.as_str()))
            || path.ends_with(".conf") && folders.iter().flatten().any(|folder| is_below(path, folder));
        let text = String::from_utf8_lossy(&content.0);
        if !is_named && !text.contains(KIND) {
            continue;
        }
        if let Some(problem) = configuration_problem(&text) {
            let message = format!("{}: {problem}: nothing was changed", step.change.resource);
            return Err(refused("BadConfiguration", message));
        }
    }
    Ok(())
}

/// Why a text is no configuration of the kubelet.
fn configuration_problem(text: &str) -> Option<String> {
    let value: Value = match serde_saphyr::from_str(text) {
        Ok(value) => value,
        Err(error) => {
            let error = error.to_string();
            return Some(format!("it is no YAML: {}", error.lines().next().unwrap_or_default()));
        }
    };
    for (key, expected) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        let found = value.get(key).and_then(Value::as_str);
        if found != Some(expected) {
            return Some(format!("its {key} is {}, expected {expected}", found.unwrap_or("missing")));
        }
    }
    None
}

/// The programs that are put in place, each with where it lies now.
fn programs<'r>(
    host: &Host,
    revision: &'r Revision,
    plan: &Plan,
) -> Result<Vec<(&'r Binary, String)>, HostError> {
    let fetched: BTreeSet<_> = plan
        .steps
        .iter()
        .filter_map(|step| match &step.action {
            Action::Download { digest, .. } => Some(*digest),
            _ => None,
        })
        .collect();
    let mut programs = Vec::new();
    for resource in &revision.resources {
        let Resource::Binary(binary) = resource else { continue };
        let digest = binary.sha256.get(host.facts.arch).filter(|digest| fetched.contains(digest));
        if let Some(digest) = digest {
            programs.push((binary, host.cache.runnable(*digest)?));
        }
    }
    Ok(programs)
}

/// Whether a program says that it is the version that it shall be.
async fn version(binary: &Binary, program: &str) -> Result<(), Failure> {
    let Some(expected) = &binary.version else { return Ok(()) };
    let path = &binary.path;
    let wrong = |found: String| {
        let message = format!(
            "binary {path}: {found}, expected {expected}: correct the version, or url and sha256; nothing was changed"
        );
        refused("WrongVersion", message)
    };
    let said = trial::run(program, &["--version"])
        .await
        .map_err(|error| wrong(format!("what was fetched: {error}")))?;
    match said_other(&said, expected) {
        None => Ok(()),
        Some(found) => Err(wrong(found)),
    }
}

/// What a program says that is not of this version. Of one that is something else the first line tells, and the last ones
/// are of its help.
fn said_other(said: &Said, expected: &str) -> Option<String> {
    let first = said.text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("nothing");
    if !said.is_good {
        return Some(format!("what was fetched does not say its version, but: {first}"));
    }
    let is_it = said.text.split_whitespace().any(|word| word == expected);
    (!is_it).then(|| format!("what was fetched says that it is {first}"))
}

/// The units that pods run under and whose files change: those files, and the unit's own. Names are as below the folder of units.
fn units(
    host: &Host,
    plan: &Plan,
    programs: &[(&Binary, String)],
) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut units: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut gone = BTreeSet::new();
    for step in &plan.steps {
        let (path, text) = match &step.action {
            Action::WriteFile { path, content, .. } => {
                (path, String::from_utf8_lossy(&content.0).into_owned())
            }
            // An empty drop-in has the other one of its name not read.
            Action::RemoveFile { path } => (path, String::new()),
            _ => continue,
        };
        let Some(name) = path.strip_prefix(UNIT_DIRECTORY).and_then(|name| name.strip_prefix('/')) else {
            continue;
        };
        let unit = name.split('/').next().unwrap_or_default();
        let unit = unit.strip_suffix(".d").unwrap_or(unit);
        if !is_node_unit(unit) {
            continue;
        }
        let files = units.entry(unit.to_owned()).or_default();
        if name == unit && text.is_empty() {
            gone.insert(path.clone());
        } else {
            files.insert(name.to_owned(), text);
        }
    }
    units.retain(|unit, files| {
        if !files.contains_key(unit) {
            let own =
                UNIT_PATH.iter().map(|folder| format!("{folder}/{unit}")).filter(|path| !gone.contains(path));
            let mut texts = own.filter_map(|path| host.root.read(&path, MAX_UNIT).ok().flatten());
            files
                .extend(texts.next().map(|text| (unit.clone(), String::from_utf8_lossy(&text).into_owned())));
        }
        files.contains_key(unit)
    });
    for text in units.values_mut().flat_map(BTreeMap::values_mut) {
        for (binary, program) in programs {
            *text = with_path(text, binary.path.as_str(), program);
        }
    }
    units
}

/// A text with one path in the place of another, where that stands for itself.
fn with_path(text: &str, path: &str, by: &str) -> String {
    let mut replaced = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(path) {
        let (before, behind) = (&rest[..at], &rest[at + path.len()..]);
        let is_whole = !before.ends_with(is_of_path) && !behind.starts_with(is_of_path);
        replaced.push_str(before);
        replaced.push_str(if is_whole { by } else { path });
        rest = behind;
    }
    replaced + rest
}

/// Asks systemd whether it would run a unit that has these files besides those that it has.
async fn verify(
    host: &Host,
    node_bootstrap: &str,
    plan: &Plan,
    unit: &str,
    files: &BTreeMap<String, String>,
) -> Result<(), Failure> {
    let folder = format!("{FOLDER}/{node_bootstrap}");
    let staged = Folder::with(&host.root, &folder, files).map_err(|error| Failure::from(&error))?;
    let folder = host.root.outside(&folder);
    let said = trial::run("systemd-analyze", &["verify", "--man=no", &format!("{folder}/{unit}")]).await;
    drop(staged);
    // A host without that program is no reason to refuse.
    let Ok(said) = said else { return Ok(()) };
    if said.is_good || plan_makes_one_of(plan, &said.text) {
        return Ok(());
    }
    let message = format!(
        "unit {unit}: systemd would not run it as it is to be: {}; nothing was changed",
        last_lines(&said.text.replace(&format!("{folder}/"), ""))
    );
    Err(refused("BadUnit", message))
}

/// Whether a text names what the plan puts in place by other means than a download: it is not there yet.
fn plan_makes_one_of(plan: &Plan, text: &str) -> bool {
    plan.steps.iter().flat_map(|step| step.action.parts()).any(|action| match action {
        Action::UnpackFile { path, .. } | Action::Link { path, .. } | Action::WriteFile { path, .. } => {
            !is_below(path, UNIT_DIRECTORY) && text.contains(path.as_str())
        }
        _ => false,
    })
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_has_its_kind() {
        let good = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: 5\n";
        assert_eq!(configuration_problem(good), None);
        for (bad, cause) in [
            ("a: [1\n", "it is no YAML: "),
            ("maxPods: 5\n", "its apiVersion is missing, expected kubelet.config.k8s.io/v1beta1"),
            (&good.replace("KubeletC", "C"), "its kind is Configuration, expected KubeletConfiguration"),
            ("", "its apiVersion is missing"),
        ] {
            let problem = configuration_problem(bad).expect("one");
            assert!(problem.starts_with(cause), "{problem}");
        }
    }

    #[test]
    fn a_program_of_another_version_or_kind_is_told_by_its_first_line() {
        let other =
            |is_good: bool, text: &str| said_other(&Said { is_good, text: text.to_owned() }, "v1.36.3");
        assert_eq!(other(true, "Kubernetes v1.36.3\n"), None);
        assert_eq!(
            other(true, "Kubernetes v1.36.1\n").as_deref(),
            Some("what was fetched says that it is Kubernetes v1.36.1")
        );
        let help = "\nls (GNU coreutils) 9.1\nLicense GPLv3+\nThere is NO WARRANTY.\nWritten by somebody.\n";
        assert_eq!(
            other(true, help).as_deref(),
            Some("what was fetched says that it is ls (GNU coreutils) 9.1")
        );
        let usage = "error: unknown flag: --version\nSee 'kubectl --help' for usage.\n";
        assert_eq!(
            other(false, usage).as_deref(),
            Some("what was fetched does not say its version, but: error: unknown flag: --version")
        );
        assert!(other(true, "").is_some_and(|found| found.ends_with("it is nothing")));
    }

    #[test]
    fn a_path_is_replaced_where_it_stands_for_itself() {
        let text = "ExecStart=/a/kubelet --x=/a/kubelet.conf -/a/kubelet \"/a/kubelet\" /b/a/kubelet";
        let expected = "ExecStart=/c --x=/a/kubelet.conf -/a/kubelet \"/c\" /b/a/kubelet";
        assert_eq!(with_path(text, "/a/kubelet", "/c"), expected);
    }
}
