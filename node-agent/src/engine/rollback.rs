//! What was made and is not confirmed yet: it is confirmed, or put back as it was before that run.
//!
//! In: the ledger, whose open entries say what that run made and how it found each thing. Out: the host as it was before
//! the run, and the ledger as it was then. Killed at any point, the next roll-back finishes: what is back already is found
//! so. It needs neither the API nor a download.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::slice;

use tokio_util::sync::CancellationToken;

use super::{Change, Failure, Observer, Plan, Request, book, make, nothing, owed_by};
use crate::host::state::{Begun, Lock, Owed};
use crate::host::systemd::UnitState;
use crate::host::trust::Store;
use crate::host::{Host, HostError};
use crate::resource::{Action, Planner, removal, trust, unit};
use crate::switch::is_node_unit;

/// The name of what is made while something is rolled back.
const ROLL_BACK: &str = "roll-back";

/// What a run made stays: it was seen to be good.
///
/// # Errors
/// If the ledger does not get to the disk.
pub fn confirm(host: &Host, request: &Request, plan: &Plan, made: &[Change]) -> Result<(), HostError> {
    book::close(host, request, plan, made)
}

/// As [`confirm`], of a run that was killed in the middle of that: what it put back is no longer ours.
///
/// # Errors
/// If the ledger does not get to the disk.
pub fn finish(host: &Host, node_bootstrap: &str) -> Result<(), HostError> {
    let mut ledger = Rc::unwrap_or_clone(host.state.ledger(node_bootstrap, None)?);
    ledger.confirm();
    host.state.write_ledger(node_bootstrap, &ledger)
}

/// Plans what puts back what is not confirmed. `restarts`: units that ran with it, and run with what was there before only
/// after another restart. `at_boot`: units are systemd's to start, and nothing is stopped or started here.
///
/// # Errors
/// If ledger, accounts or units cannot be read.
pub async fn plan(
    host: &Host,
    node_bootstrap: &str,
    restarts: &BTreeSet<String>,
    at_boot: bool,
) -> Result<Plan, HostError> {
    let ledger = host.state.ledger(node_bootstrap, None)?.unconfirmed();
    let request = nothing(ROLL_BACK, node_bootstrap, ledger.cluster.clone());
    let mut owed = host.state.owed(node_bootstrap)?;
    let ran: BTreeSet<String> = owed.restarts.union(restarts).cloned().collect();
    let to_observe = unit::to_observe(std::iter::empty(), &ran, removal::to_observe(&ledger));
    let units = host.systemd.observe(&to_observe).await?;
    let store = if trust::matters(std::iter::empty(), &ledger, owed.trust_store) {
        // What cannot be looked at keeps nothing else from being put back.
        Store::of(&host.root).unwrap_or_default()
    } else {
        None
    };
    let mut planner = Planner::new(host, &request, &ledger, &units)?;
    let removal = removal::plan(&ledger, &BTreeSet::new(), &BTreeSet::new(), false, &mut planner);
    planner.steps.extend(removal.first);
    trust::plan(store, node_bootstrap, &[], owed.trust_store, &mut planner);
    if at_boot {
        planner.restarts.clear();
        owed.restarts.clear();
    } else if !planner.steps.is_empty() || !removal.last.is_empty() {
        // What was put back before a roll-back was killed stands in what is owed.
        owed.restarts = ran;
    }
    unit::plan(&[], Vec::new(), &owed.restarts, &mut planner);
    planner.steps.extend(removal.last);
    let Planner { mut steps, warnings, .. } = planner;
    // That one did not run for a moment is nothing to go back to, where a boot would start it.
    let would_start = |unit: &str| is_node_unit(unit) && units.get(unit).is_some_and(UnitState::is_enabled);
    steps.retain(|step| match &step.action {
        Action::Start { .. } => !at_boot,
        Action::Stop { unit } => !at_boot && !would_start(unit),
        _ => true,
    });
    Ok(Plan { steps, warnings, owed, ..Plan::default() })
}

/// Puts back what is not confirmed. `previous`: the revision that was there before, and claims what it claimed again. `again`:
/// another one has put back what could be put back, and restarted what ran with it.
///
/// One thing that cannot be put back keeps nothing else from it; and a unit that does not start with what was there before
/// does not start because the rest is kept open.
///
/// # Errors
/// If something cannot be put back yet, or `stop` was called. The next roll-back goes on from there.
#[allow(clippy::too_many_arguments)]
pub async fn run(
    host: &Host,
    node_bootstrap: &str,
    plan: &Plan,
    previous: Option<&Begun>,
    again: bool,
    mut lock: Lock,
    observer: &dyn Observer,
    stop: &CancellationToken,
) -> Result<Vec<Change>, Failure> {
    let state = |error: HostError| Failure::of("state", &error, &[]);
    for path in &plan.owed.written {
        host.root.remove_leftover(path).map_err(state)?;
    }
    // Putting back does not wait for a disk that is full; what is owed then is only not known after another crash.
    let _ = host.state.owe(node_bootstrap, &owed_by(&host.root, plan));
    let (mut made, mut failed) = (Vec::new(), Vec::new());
    let mut is_other = !again;
    for step in &plan.steps {
        if !is_other && matches!(step.action, Action::Restart { .. }) {
            continue;
        }
        let done = make(host, node_bootstrap, slice::from_ref(step), lock, observer, stop, &mut made).await;
        let is_put = step.undoes.is_some() && step.unit().is_none() && !matches!(step.action, Action::Leave);
        is_other |= done.is_ok() && is_put;
        lock = match done {
            Ok(Some(lock)) => lock,
            Err(failure) if failure.is_stop() => return Err(Failure { made, ..failure }),
            Err(failure) if step.unit().is_none() => {
                failed.push(failure);
                host.state.lock(|| {}).await.map_err(state)?
            }
            Err(failure) => {
                made.push(Change::left(&step.change.resource, &failure.message));
                host.state.lock(|| {}).await.map_err(state)?
            }
            Ok(None) => host.state.lock(|| {}).await.map_err(state)?,
        };
    }
    if let Some(first) = failed.first() {
        let all: Vec<&str> = failed.iter().map(|failure| failure.message.as_str()).collect();
        return Err(Failure { reason: first.reason.clone(), message: all.join("; "), made });
    }
    let mut ledger = Rc::unwrap_or_clone(host.state.ledger(node_bootstrap, None).map_err(state)?);
    ledger.roll_back();
    // First whose it is: what is owed keeps this from being forgotten.
    host.state.put_begun(node_bootstrap, previous).map_err(state)?;
    host.state.write_ledger(node_bootstrap, &ledger).map_err(state)?;
    host.state.owe(node_bootstrap, &Owed::default()).map_err(state)?;
    drop(lock);
    Ok(made)
}
