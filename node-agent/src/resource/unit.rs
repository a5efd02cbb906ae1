//! systemd units: their files, whether they start at boot, whether they run; and the restarts that changes ask for.

use std::collections::{BTreeMap, BTreeSet};

use crds::UnitName;
use crds::report::Disruption;
use crds::revision::{Content, File, Resource, Unit};

use super::file::plan_content;
use super::{Action, Change, Planner, Step, is_below};
use crate::host::install::{self, Link, UNIT_DIRECTORY, UNIT_PATH};
use crate::host::systemd::UnitState;
use crate::host::write::Ids;
use crate::host::{Kind, Root};
use crate::ledger::Item;
use crate::preset::owner::KUBELET_UNIT;
use crate::switch::{NODE_UNITS, is_node_unit};

/// The largest file of a unit that is read, in bytes.
pub(crate) const MAX_UNIT: u64 = 1 << 20;

fn units(resources: &[Resource]) -> impl Iterator<Item = &Unit> {
    resources.iter().filter_map(|resource| match resource {
        Resource::Unit(unit) => Some(unit),
        _ => None,
    })
}

/// Plans the units' own files; those without a problem, and whether the content of each changes.
pub(crate) fn plan_files<'r>(resources: &'r [Resource], planner: &mut Planner<'_>) -> Vec<(&'r Unit, bool)> {
    units(resources).filter_map(|unit| Some((unit, plan_file(unit, planner)?))).collect()
}

/// Plans all else about units. `ready`: those whose files are planned; `owed`: units whose restart an earlier run did not
/// get to.
pub(crate) fn plan(
    resources: &[Resource],
    ready: Vec<(&Unit, bool)>,
    owed: &BTreeSet<String>,
    planner: &mut Planner<'_>,
) {
    let written = unit_files(resources);
    warn_of_unknown(resources, &written, planner);
    // systemd reads all files before anything follows from them.
    plan_reload(planner);
    let runs = planner.host.systemd.is_running();
    let mut later = Vec::new();
    let templates: BTreeSet<String> = ready
        .iter()
        .filter(|(unit, changed)| *changed && unit.name.is_template())
        .map(|(unit, _)| unit.name.to_string())
        // For a drop-in of theirs.
        .chain(planner.restarts.keys().filter(|unit| unit.contains("@.")).cloned())
        .collect();
    for (unit, changed) in ready {
        // An instance runs what its template says.
        let changed = changed || templates.contains(&install::file_name(unit.name.as_str()));
        let state = planner.units.get(unit.name.as_str()).cloned().unwrap_or_default();
        if unit.masked == Some(false) {
            plan_masked(unit, &state, planner);
        }
        let is_good = check(unit, &state, &written, planner);
        if is_good {
            plan_enabled(unit, &state, planner);
        }
        if unit.masked == Some(true) {
            plan_masked(unit, &state, planner);
        }
        if !is_good {
            continue;
        }
        if unit.active.is_some() && !runs {
            planner.warn(format!(
                "unit {}: the system below this root does not run, so it is neither started nor stopped",
                unit.name
            ));
        } else {
            later.extend(plan_active(unit, &state, changed, planner));
        }
    }
    // What stops comes before what starts: it may hold what the other needs.
    later.sort_by_key(|(change, _)| change.disruption == Disruption::None);
    let decided: BTreeSet<String> = later
        .iter()
        .filter_map(|(_, action)| match action {
            Action::Stop { unit } | Action::Start { unit, .. } => Some(unit.clone()),
            _ => None,
        })
        // What shall not run needs no restart.
        .chain(units(resources).filter(|unit| unit.active == Some(false)).map(|unit| unit.name.to_string()))
        .collect();
    let first = planner.steps.len();
    for (change, action) in later {
        planner.step(change, action);
    }
    if runs {
        plan_restarts(owed, &decided, planner);
    }
    // A kubelet that is just starting ends if the container runtime goes away.
    let is_runtime = |unit: &str| is_node_unit(unit) && unit != KUBELET_UNIT;
    planner.steps[first..].sort_by_key(|step| match &step.action {
        Action::Stop { .. } => 0,
        Action::Restart { unit } if is_runtime(unit) => 1,
        _ => 2,
    });
}

/// Whether two texts of a unit's file differ in comments alone: what runs by the one runs by the other.
pub(crate) fn means_the_same(one: &str, other: &str) -> bool {
    fn settings(text: &str) -> impl Iterator<Item = &str> {
        text.lines().filter(|line| !line.trim_start().starts_with(['#', ';']))
    }
    settings(one).eq(settings(other))
}

/// The names of units whose files the revision writes, as units or as plain files.
fn unit_files(resources: &[Resource]) -> BTreeSet<String> {
    resources
        .iter()
        .filter_map(super::path_of)
        .filter_map(|path| {
            let (directory, name) = path.rsplit_once('/')?;
            UNIT_PATH.contains(&directory).then(|| name.to_owned())
        })
        .collect()
}

/// Says which units shall be restarted that are not there: one that is installed later is none, a typing error is.
fn warn_of_unknown(resources: &[Resource], written: &BTreeSet<String>, planner: &mut Planner<'_>) {
    for resource in resources {
        for unit in resource.restart() {
            let name = unit.as_str();
            if unit.is_template() {
                continue;
            }
            let is_known = planner.units.get(name).is_some_and(UnitState::is_known);
            if !is_known && !written.contains(name) && !written.contains(&install::file_name(name)) {
                planner.warn(format!(
                    "{resource}: onChange names {name}, which this host does not have: nothing is restarted; is it the right name?"
                ));
            }
        }
    }
}

/// Plans the unit's own file. `None`: there is a problem with it; else whether its content changes.
fn plan_file(unit: &Unit, planner: &mut Planner<'_>) -> Option<bool> {
    let Some(content) = &unit.content else { return Some(false) };
    let resource = format!("unit {}", unit.name);
    let path = Unit::path_of(&unit.name);
    let place = planner.place(&path)?;
    // An empty file masks a unit too; that is no more than a file with other content.
    let is_file = place.look().is_ok_and(|meta| meta.is_some_and(|meta| meta.kind == Kind::File));
    if !is_file && planner.units.get(unit.name.as_str()).is_some_and(UnitState::is_masked) {
        planner.problem(resource, "UnitMasked", masked(&unit.name));
        return None;
    }
    // systemd's own folder is no folder of the user's: nobody has to list it.
    planner.make_parents(&place, &path);
    let problems = planner.problems.len();
    let changed = plan_content(&resource, &place, content.as_bytes(), Ids::root(0o644), planner);
    (planner.problems.len() == problems).then_some(changed)
}

/// systemd reads its files again once, when one of them changes or has changed unnoticed.
fn plan_reload(planner: &mut Planner<'_>) {
    if !planner.host.systemd.is_running() {
        return;
    }
    let writes = planner.steps.iter().flat_map(|step| step.action.parts()).any(|action| match action {
        Action::WriteFile { path, .. }
        | Action::UnpackFile { path, .. }
        | Action::Link { path, .. }
        | Action::EditPart { path, .. }
        | Action::RemoveFile { path }
        | Action::PutBack { path, .. } => UNIT_PATH.iter().any(|directory| is_below(path, directory)),
        _ => false,
    });
    let stale = planner.units.iter().find(|(_, state)| state.need_reload).map(|(name, _)| name);
    let found = match (writes, stale) {
        (true, _) => "had new unit files".to_owned(),
        (false, Some(unit)) => format!("had not read the file of {unit}"),
        (false, None) => return,
    };
    let change = Change {
        resource: "systemd".to_owned(),
        change: "read unit files again (daemon-reload)".to_owned(),
        found,
        disruption: Disruption::None,
    };
    planner.step(change, Action::Reload);
}

/// Whether there is such a unit, and it can be what it shall be.
fn check(unit: &Unit, state: &UnitState, written: &BTreeSet<String>, planner: &mut Planner<'_>) -> bool {
    let resource = format!("unit {}", unit.name);
    let name = unit.name.as_str();
    let is_written = written.contains(name) || written.contains(&install::file_name(name));
    if unit.name.is_template() {
        if !is_written && !has_file(unit.name.as_str(), UNIT_PATH, planner) {
            let message = "neither this host nor the spec has this template: give its content".to_owned();
            planner.problem(resource, "UnitUnknown", message);
        }
        return false;
    }
    if unit.masked == Some(true) && !state.is_known() {
        // It is masked before it is there.
        return false;
    }
    let is_unwanted = unit.enabled != Some(true) && unit.active != Some(true);
    if !state.is_known() && !is_written {
        if is_unwanted && (unit.enabled, unit.active) != (None, None) {
            // It shall neither run nor be enabled, and does not.
            return false;
        }
        let message = "systemd does not know it, and nothing here writes its file: give its content, or correct its name"
            .to_owned();
        planner.problem(resource, "UnitUnknown", message);
        return false;
    }
    if !is_unwanted && state.is_masked() && !is_written && unit.masked != Some(false) {
        planner.problem(resource, "UnitMasked", masked(&unit.name));
        return false;
    }
    true
}

fn masked(name: &UnitName) -> String {
    format!(
        "it is masked: write masked: false without content first, or run systemctl unmask {name} on the host"
    )
}

/// Whether a unit that the node's pods run under names a path, by the revision or by the host's own files.
pub(crate) fn of_pods_names(path: &str, resources: &[Resource], planner: &Planner<'_>) -> bool {
    let names =
        |text: &str| text.split(|sign| !is_of_path(sign)).any(|word| word.trim_start_matches('-') == path);
    let units: Vec<String> = NODE_UNITS.iter().map(|name| format!("{name}.service")).collect();
    let in_revision = resources.iter().any(|resource| match resource {
        Resource::Unit(unit) if is_node_unit(unit.name.as_str()) => {
            unit.content.as_deref().is_some_and(names)
        }
        Resource::File(File { path, content: Content::Text(text), .. }) => {
            units.iter().any(|unit| is_below(path.as_str(), &format!("{UNIT_DIRECTORY}/{unit}.d")))
                && names(text)
        }
        _ => false,
    });
    let root = &planner.host.root;
    let of_host =
        || UNIT_PATH.iter().flat_map(|folder| units.iter().map(move |unit| format!("{folder}/{unit}")));
    in_revision
        || of_host().any(|file| {
            let text = root.read(&file, MAX_UNIT).ok().flatten().unwrap_or_default();
            names(&String::from_utf8_lossy(&text))
        })
}

/// Whether a sign may stand in the path of a program.
pub(crate) fn is_of_path(sign: char) -> bool {
    sign.is_alphanumeric() || matches!(sign, '/' | '.' | '_' | '-')
}

/// Whether a unit has a file in one of these directories.
pub(crate) fn has_file(unit: &str, directories: &[&str], planner: &Planner<'_>) -> bool {
    directories.iter().any(|directory| {
        let place = planner.host.root.locate_through_links(&format!("{directory}/{unit}"));
        place.and_then(|place| place.look()).is_ok_and(|meta| meta.is_some())
    })
}

/// Plans that nothing can start the unit, or that it can be started again.
fn plan_masked(unit: &Unit, state: &UnitState, planner: &mut Planner<'_>) {
    let resource = format!("unit {}", unit.name);
    // By its link, which is what is made, and not by what systemd says of the unit.
    let is_masked = match planner.host.root.is_masked(unit.name.as_str()) {
        Ok(is_masked) => is_masked,
        Err(error) => return planner.refused(resource, &error),
    };
    let (word, found) = match unit.masked {
        Some(true) if !is_masked => ("mask", "was not masked"),
        Some(false) if is_masked || state.is_masked() => ("unmask", "was masked"),
        _ => return,
    };
    let masked = word == "mask";
    let path = Unit::path_of(&unit.name);
    if masked {
        let goes = planner
            .steps
            .iter()
            .any(|step| matches!(&step.action, Action::RemoveFile { path: gone } if *gone == path));
        let is_there = planner.host.root.locate(&path).and_then(|place| place.look());
        match is_there {
            Ok(Some(meta)) if !goes => {
                let message = format!(
                    "{path} is {}, where the mask would lie: move it away; nothing is deleted",
                    meta.kind.words()
                );
                return planner.problem(resource, "PathOccupied", message);
            }
            Ok(_) => {}
            Err(error) => return planner.refused(resource, &error),
        }
    }
    let change =
        Change { resource, change: word.to_owned(), found: found.to_owned(), disruption: Disruption::None };
    planner.step(change, Action::Mask { unit: unit.name.to_string(), masked });
}

fn plan_enabled(unit: &Unit, state: &UnitState, planner: &mut Planner<'_>) {
    let resource = format!("unit {}", unit.name);
    let change = |change: &str, found: &str| Change {
        resource: resource.clone(),
        change: change.to_owned(),
        found: found.to_owned(),
        disruption: Disruption::None,
    };
    let name = unit.name.to_string();
    match unit.enabled {
        Some(true) => {
            let links = match &unit.content {
                Some(content) => Some(install::links(&name, &Unit::path_of(&unit.name), content)),
                None => links_again(&name, steps(planner), false, planner),
            };
            let cannot = match (&unit.content, &links) {
                (Some(content), Some(links)) => links.is_empty() && !install::has_also(content),
                _ => matches!(state.file.as_str(), "static" | "generated" | "transient"),
            };
            if cannot {
                let message = "it has no [Install] section, so it cannot be enabled: add one with WantedBy=multi-user.target, or leave enabled out"
                    .to_owned();
                return planner.problem(resource, "NoInstallSection", message);
            }
            let names =
                if state.is_enabled() { None } else { links_again(&name, steps(planner), true, planner) };
            let names = links.as_ref().or(names.as_ref());
            if let Some(message) = names.and_then(|links| taken_name(links, &name, planner)) {
                return planner.problem(resource, "PathOccupied", message);
            }
            // After an edit of [Install] a unit counts as enabled by its old links.
            let (has_all, has_others) =
                links.map_or((true, false), |links| has_links(&links, &name, planner));
            if !state.is_enabled() {
                let action = Action::Enable { unit: name, again: has_others };
                planner.step(change("enable", "was not enabled"), action);
            } else if !has_all || has_others {
                planner.step(
                    change("enable again, as [Install] says now", "was enabled as [Install] said before"),
                    Action::Enable { unit: name, again: true },
                );
            }
        }
        Some(false) if state.file.starts_with("enabled") => {
            planner.step(change("disable", "was enabled"), Action::Disable { unit: name });
        }
        // Killed in the middle of that. An empty folder that is none of ours stays.
        Some(false) if state.has_empty_folder && planner.has_changed(&Item::Enabled(name.clone())) => {
            planner.step(change("disable", "was half disabled"), Action::Disable { unit: name });
        }
        Some(false) | None => {}
    }
}

/// What is planned so far.
fn steps<'p>(planner: &'p Planner<'_>) -> impl Iterator<Item = &'p Action> + Clone {
    planner.steps.iter().map(|step| &step.action)
}

/// The links that a unit has by the file that it is read from when these steps, of those that put back, are done. `settled`:
/// also where none of them is about its file.
fn links_again<'s>(
    unit: &str,
    steps: impl Iterator<Item = &'s Action> + Clone,
    settled: bool,
    planner: &Planner<'_>,
) -> Option<Vec<Link>> {
    let path_of = |action: &'s Action| match action {
        Action::RemoveFile { path } | Action::PutBack { path, .. } => Some(path.as_str()),
        _ => None,
    };
    let mut is_about = settled;
    for name in [unit.to_owned(), install::file_name(unit)] {
        for directory in UNIT_PATH {
            let file = format!("{directory}/{name}");
            let step = steps.clone().find(|action| path_of(action) == Some(&file));
            is_about |= step.is_some();
            let host = planner.host;
            let text = match step {
                Some(Action::RemoveFile { .. }) => continue,
                Some(Action::PutBack { content: Some(digest), .. }) => {
                    host.state.prior(planner.node_bootstrap, *digest).and_then(|place| place.read(MAX_UNIT))
                }
                _ => host.root.locate_through_links(&file).and_then(|place| place.read(MAX_UNIT)),
            };
            match text {
                Ok(Some((text, _))) => {
                    let links = install::links(unit, &file, &String::from_utf8_lossy(&text));
                    return Some(links).filter(|links| is_about && !links.is_empty());
                }
                Ok(None) => {}
                Err(_) => return None,
            }
        }
    }
    None
}

/// Whether a unit that is enabled is to be enabled again, since other links do it than those of the file that comes back by
/// these steps.
pub(crate) fn is_linked_otherwise<'s>(
    unit: &str,
    steps: impl Iterator<Item = &'s Action> + Clone,
    planner: &Planner<'_>,
) -> bool {
    let links = links_again(unit, steps, true, planner);
    links.is_some_and(|links| has_links(&links, unit, planner) != (true, false))
}

/// What is in the way of another name that a unit gets, in words.
fn taken_name(links: &[Link], unit: &str, planner: &Planner<'_>) -> Option<String> {
    let root = &planner.host.root;
    let is_name = |link: &&Link| link.path.rsplit_once('/').is_some_and(|(above, _)| above == UNIT_DIRECTORY);
    links.iter().filter(is_name).find_map(|link| {
        let place = root.locate(&link.path).ok()?;
        let kind = place.look().ok()??.kind;
        if install::is_link_of(root, &link.path, unit).ok()? {
            return None;
        }
        let target = if kind == Kind::Link { root.read_link(&place).ok()? } else { None };
        // Another unit's that loses it in this run.
        let loses = |step: &Step| {
            let (Action::Disable { unit } | Action::Enable { unit, again: true }) = &step.action else {
                return false;
            };
            install::is_link_of(root, &link.path, unit).unwrap_or(false)
        };
        let goes = |step: &Step| matches!(&step.action, Action::RemoveFile { path } if *path == link.path);
        if planner.steps.iter().any(|step| loses(step) || goes(step)) {
            return None;
        }
        let what = target.map_or_else(|| kind.words().to_owned(), |target| format!("a link to {target}"));
        Some(format!(
            "[Install] gives it the name {}, which is {what}: take that name out of [Install], or away from the other",
            link.path
        ))
    })
}

/// Whether all of these links enable the unit, and whether others do.
fn has_links(links: &[Link], unit: &str, planner: &Planner<'_>) -> (bool, bool) {
    let root = &planner.host.root;
    let is_link = |path: &str| install::is_link_of(root, path, unit).unwrap_or(false);
    // What systemd alone knows to fill in, as the host's name, cannot be looked for.
    let wanted: BTreeSet<&str> =
        links.iter().map(|link| link.path.as_str()).filter(|path| !path.contains('%')).collect();
    let mut others = install::link_paths(root, unit)
        .unwrap_or_default()
        .into_iter()
        .filter(|path| !wanted.contains(path.as_str()));
    let is_known = links.iter().all(|link| !link.path.contains('%'));
    (wanted.iter().all(|path| is_link(path)), is_known && others.any(|path| is_link(&path)))
}

/// Which units shall run or not; and the paths that tell when one is enabled, disabled or masked.
pub(crate) fn to_watch(root: &Root, resources: &[Resource]) -> (BTreeMap<String, bool>, Vec<String>) {
    let (mut runs, mut paths) = (BTreeMap::new(), Vec::new());
    for unit in units(resources) {
        let name = unit.name.as_str();
        runs.extend(unit.active.map(|shall_run| (name.to_owned(), shall_run)));
        if unit.enabled.is_some() {
            paths.push(Unit::path_of(&unit.name));
            paths.extend(install::link_paths(root, name).unwrap_or_default());
        }
    }
    (runs, paths)
}

/// Plans starting or stopping; a restart for new content is noted with the others.
fn plan_active(
    unit: &Unit,
    state: &UnitState,
    changed: bool,
    planner: &mut Planner<'_>,
) -> Option<(Change, Action)> {
    let resource = format!("unit {}", unit.name);
    let name = unit.name.to_string();
    if unit.active == Some(false) {
        // One that is being stopped, and takes its time, has not stopped.
        return (!state.has_stopped()).then(|| {
            let change = Change {
                resource,
                change: "stop".to_owned(),
                found: "ran".to_owned(),
                disruption: Disruption::Restart,
            };
            (change, Action::Stop { unit: name })
        });
    }
    if changed {
        planner.restarts.entry(name.clone()).or_default().push("its new content".to_owned());
    }
    let is_new = planner.restarts.contains_key(&name);
    let restarts = state.is_running() && is_new;
    (unit.active == Some(true) && !state.is_active() && !restarts).then(|| {
        let found = if state.loops { "ended again and again" } else { "did not run" };
        let change = Change {
            resource,
            change: "start".to_owned(),
            found: found.to_owned(),
            disruption: Disruption::None,
        };
        // What is not there yet nobody can have started meanwhile.
        (change, Action::Start { unit: name, anew: is_new && state.is_known() })
    })
}

/// Whether a restart renews it: also one that is stopped just now may be on its way up again, with what was there before.
fn is_renewed(state: &UnitState) -> bool {
    state.is_running() || state.active == "deactivating"
}

/// Each unit that runs and has a reason is restarted once, last of all. One whose restart is owed ran before: if it does
/// not any more, that restart failed, and it is owed until the unit runs again.
fn plan_restarts(owed: &BTreeSet<String>, decided: &BTreeSet<String>, planner: &mut Planner<'_>) {
    let mut restarts: BTreeMap<String, Vec<String>> = std::mem::take(&mut planner.restarts);
    for unit in owed {
        restarts.entry(unit.clone()).or_default().push("a run that did not end well".to_owned());
    }
    for (unit, mut because) in restarts {
        let state = planner.units.get(&unit).cloned().unwrap_or_default();
        if decided.contains(&unit) || !state.is_known() || state.is_masked() {
            continue;
        }
        if is_renewed(&state) {
            because.dedup();
            let more =
                if because.len() > 1 { format!(" and {} more", because.len() - 1) } else { String::new() };
            let because_of = format!("{}{more}", because.first().cloned().unwrap_or_default());
            let resource = format!("unit {unit}");
            let drain = because.iter().chain([&resource]).find_map(|what| planner.drains.get(what));
            let change = Change {
                change: match drain {
                    Some(why) => format!("restart on a drained node, because of {because_of}: {why}"),
                    None => format!("restart, because of {because_of}"),
                },
                found: "ran with what was there before".to_owned(),
                disruption: if drain.is_some() { Disruption::Drain } else { Disruption::Restart },
                resource,
            };
            planner.step(change, Action::Restart { unit });
        } else if owed.contains(&unit) {
            let change = Change {
                resource: format!("unit {unit}"),
                change: "start, since it did not survive its restart".to_owned(),
                found: "did not survive its restart".to_owned(),
                disruption: Disruption::None,
            };
            // By more than that run.
            planner.step(change, Action::Start { unit, anew: because.len() > 1 });
        }
    }
}

/// All units whose state a plan needs.
pub(crate) fn to_observe<'a>(
    resources: impl Iterator<Item = &'a Resource>,
    owed: &BTreeSet<String>,
    more: impl Iterator<Item = String>,
) -> Vec<String> {
    let mut names = owed.clone();
    names.extend(more);
    for resource in resources {
        names.extend(resource.restart().iter().map(ToString::to_string));
        if let Resource::Unit(unit) = resource {
            names.insert(unit.name.to_string());
        }
    }
    // A template has no state of its own.
    names.into_iter().filter(|name| !name.contains("@.")).collect()
}
