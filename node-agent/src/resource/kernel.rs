//! The kernel's modules, settings and swap, as they run. The files by which they are there after a boot are files as any, and
//! what keeps swap away then is the mask of a unit.

use crds::report::Disruption;
use crds::revision::{Resource, Sysctl};

use super::{Action, Change, Planner};
use crate::host::kernel::{self, Module, Swap};
use crate::host::kernel_events::Wanted;
use crate::host::{Host, HostError};
use crate::ledger::{Item, Ledger};

fn wants_no_swap(resources: &[Resource]) -> bool {
    resources.iter().any(|resource| matches!(resource, Resource::NoSwap(_)))
}

/// What the kernel tells of by itself. A setting gives no signal.
pub(crate) fn to_watch(resources: &[Resource]) -> Wanted {
    let modules = resources.iter().filter_map(|resource| match resource {
        // The kernel has no `-` in its names.
        Resource::Module(module) => Some(module.name.as_str().replace('-', "_")),
        _ => None,
    });
    Wanted { no_swap: wants_no_swap(resources), modules: modules.collect() }
}

/// The swap that is in use and shall not be.
pub(crate) fn swaps(host: &Host, resources: &[Resource]) -> Result<Vec<Swap>, HostError> {
    if wants_no_swap(resources) && host.systemd.is_running() {
        kernel::swaps(&host.root)
    } else {
        Ok(Vec::new())
    }
}

/// What no swap means for the ledger: that which is in use, and that which was.
pub(crate) fn swap_claims(resources: &[Resource], swaps: &[Swap], ledger: &Ledger) -> Vec<Item> {
    if !wants_no_swap(resources) {
        return Vec::new();
    }
    let known = ledger.entries().map(|(item, _)| item.clone());
    let known = known.filter(|item| matches!(item, Item::Active(unit) if unit.ends_with(".swap")));
    known.chain(swaps.iter().map(|swap| Item::Active(swap.unit.clone()))).collect()
}

/// Plans that swap is turned off; nothing of it, if its pages have no room elsewhere: a host that has no memory left ends programs.
fn plan_swaps(swaps: &[Swap], planner: &mut Planner<'_>) {
    let used: u64 = swaps.iter().map(|swap| swap.used).sum();
    match kernel::available(&planner.host.root) {
        Ok(available) if used >= available => {
            let message = format!(
                "{used} KiB of swap are in use, and {available} KiB of memory are available to take them: end or move something that runs here first"
            );
            return planner.problem("swap disabled", "NoMemory", message);
        }
        Ok(_) => {}
        Err(error) => return planner.refused("swap disabled", &error),
    }
    for swap in swaps {
        let change = Change {
            resource: format!("swap {}", swap.path),
            change: format!("turn off, {} KiB in use", swap.used),
            found: "was in use".to_owned(),
            disruption: Disruption::None,
        };
        planner.step(change, Action::Stop { unit: swap.unit.clone() });
    }
}

pub(crate) fn plan(resources: &[Resource], swaps: &[Swap], planner: &mut Planner<'_>) {
    if !swaps.is_empty() {
        plan_swaps(swaps, planner);
    }
    let (mut modules, mut sysctls) = (Vec::new(), Vec::new());
    for resource in resources {
        match resource {
            Resource::Module(module) => modules.push(module.name.as_str()),
            Resource::Sysctl(sysctl) => sysctls.push(sysctl),
            _ => {}
        }
    }
    if modules.is_empty() && sysctls.is_empty() {
        return;
    }
    if !planner.host.systemd.is_running() {
        planner.warn(
            "kernel: the system below this root does not run, so modules are loaded and settings made when it boots"
                .to_owned(),
        );
        return;
    }
    let loads = plan_modules(&modules, planner);
    for sysctl in sysctls {
        plan_sysctl(sysctl, loads, planner);
    }
}

/// Plans that what is missing is loaded; whether something is.
fn plan_modules(modules: &[&str], planner: &mut Planner<'_>) -> bool {
    let mut missing = Vec::new();
    for name in modules {
        match kernel::module(&planner.host.root, name) {
            Ok(Module::Loaded) => {}
            Ok(Module::Loadable) => missing.push(*name),
            Ok(Module::Unknown) => {
                let message =
                    "the kernel of this host has no such module: correct its name, or install the package that has it"
                        .to_owned();
                planner.problem(format!("module {name}"), "NoSuchModule", message);
            }
            Err(error) => planner.refused(format!("module {name}"), &error),
        }
    }
    if missing.is_empty() {
        return false;
    }
    let found = if missing.len() == 1 { "was not loaded" } else { "were not loaded" };
    let change = Change {
        resource: format!("module {}", missing.join(", ")),
        change: "load".to_owned(),
        found: found.to_owned(),
        disruption: Disruption::None,
    };
    planner.step(change, Action::LoadModules);
    true
}

/// `loads`: a module that is about to be loaded may bring the setting.
fn plan_sysctl(sysctl: &Sysctl, loads: bool, planner: &mut Planner<'_>) {
    let resource = format!("sysctl {}", sysctl.name);
    let name = sysctl.name.to_string();
    let value = kernel::words(sysctl.value.as_str());
    let (change, found) = match kernel::setting(&planner.host.root, &name) {
        Ok(Some(now)) if now == value => return,
        Ok(Some(now)) => (format!("{now} to {value}"), format!("was {now}")),
        Ok(None) if loads => (format!("set to {value}"), "was missing".to_owned()),
        Ok(None) => {
            let message =
                "the kernel of this host has no such setting: correct its name, or list the module that brings it"
                    .to_owned();
            return planner.problem(resource, "NoSuchSetting", message);
        }
        Err(error) => return planner.refused(resource, &error),
    };
    let change = Change { resource, change, found, disruption: Disruption::None };
    planner.step(change, Action::SetSysctl { name, value });
}
