//! Who does what of an attempt. [`ask`] and [`wait`] are called by the pod or the command line; [`carry_out`],
//! [`roll_back`] and [`guard`] are processes of the host's systemd. They share `switch.json` and the host's lock.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use crds::nodebootstrap::Health;
use crds::report::Disruption;
use tokio_util::sync::CancellationToken;

use super::{Cause, INTERRUPTED, NOT_AS_BEFORE, Stage, Switch, is_node_unit, staged, units, worse};
use crate::engine::{self, Failure, Observer, Payload, Plan, Request, rollback};
use crate::host::kubelet::{self, Kubelet, Looker, has_joined};
use crate::host::state::{Begun, Lock};
use crate::host::{Host, HostError, clock_at, journal, uptime};
use crate::preset::Findings;
use crate::preset::owner::KUBELET_UNIT;
use crate::report::is_permitted;
use crate::resource::{Action, Change, Step};

/// How often the node is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// For how long the node is looked at before an attempt, until its kubelet, its runtime and the API server answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often whoever waits for an attempt looks how far it is.
const WAIT_STEP: Duration = Duration::from_millis(500);
/// How much later than the dead-man whoever waits starts the roll-back, in seconds.
const LATE: u64 = 5;
/// How much later than now a time may be that another clock of this machine gives.
const SKEW: Duration = Duration::from_secs(1);
/// The cause of one that was judged by an API server that could not be asked.
const API_AWAY: &str = "ApiAway";
/// How long after a roll-back that could not put everything back the next one comes: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// What is said while something keeps from being put back.
const NOT_YET: &str = "; not put back yet, and tried again until it is";
/// Lines of a unit's journal that are told.
const LINES: usize = 3;
/// So many are read for them.
const READ: usize = 50;
/// The longest of them, in characters.
const MAX_LINE: usize = 160;

struct Logged;

impl Observer for Logged {
    fn done(&self, change: &Change) {
        tracing::info!(resource = change.resource, change = change.change, "changed");
    }
}

/// Has the host's systemd carry out what is asked for, which gets the lock after that.
///
/// # Errors
/// If something does not get to the disk, or systemd does not start it.
pub async fn ask(host: &Host, request: &Request, mut switch: Switch, _lock: Lock) -> Result<(), HostError> {
    let node_bootstrap = &request.revision.node_bootstrap;
    let before = host.state.switch(node_bootstrap)?;
    switch.interruptions = before.map_or(0, |before| before.interruptions_of(&request.name));
    host.state.keep_program()?;
    host.state.put_payload(node_bootstrap, &request.payload)?;
    // Before anything is open: a boot in the middle finds the guard.
    units::guard(host)?;
    host.state.put_switch(node_bootstrap, &switch)?;
    units::prepare(host, node_bootstrap).await?;
    let unit = units::switch(node_bootstrap);
    // One of an earlier attempt counts as running until it is stopped.
    host.systemd.stop(&unit).await?.await?;
    host.systemd.start(&unit).await?.await
}

/// An attempt as asked for: nothing is known of it yet. `kubelet`: the one that runs now, as far as one does. `retry`: see [`Switch::retry`].
pub fn asked(
    request: &Request,
    node: String,
    kubelet: Option<Kubelet>,
    permit: Disruption,
    health: Option<&Health>,
    retry: &str,
) -> Switch {
    Switch {
        revision: Begun::from(request),
        previous: None,
        node,
        permit,
        from_pod: request.from_pod,
        leave: request.leave.clone(),
        timeout: Health::timeout(health).duration().as_secs(),
        stable_for: Health::stable_for(health).duration().as_secs(),
        retry: retry.to_owned(),
        stage: Stage::Asked,
        begun: 0,
        starts_kubelet: false,
        restarts: BTreeSet::new(),
        kubelet,
        before: kubelet::Health::default(),
        interruptions: 0,
        cause: None,
        changes: Vec::new(),
    }
}

/// Waits until an attempt is over; what came of it. `None`: there is none, or `stop` was called, which ends only the wait.
///
/// # Errors
/// If its file cannot be read.
pub async fn wait(
    host: &Host,
    node_bootstrap: &str,
    stop: &CancellationToken,
) -> Result<Option<Switch>, HostError> {
    loop {
        let Some(switch) = host.state.switch(node_bootstrap)? else { return Ok(None) };
        if !switch.stage.is_open() {
            return Ok(Some(Rc::unwrap_or_clone(switch)));
        }
        let late = switch.begun.saturating_add(switch.timeout).saturating_add(units::GRACE + LATE);
        // Its dead-man is dead too.
        if switch.stage == Stage::Armed && uptime().as_secs() > late {
            let unit = units::rollback(node_bootstrap);
            if has_ended(host, &units::switch(node_bootstrap)).await && has_ended(host, &unit).await {
                drop(host.systemd.start(&unit).await);
            }
        }
        if switch.stage == Stage::Asked && has_ended(host, &units::switch(node_bootstrap)).await {
            let lock = host.state.lock(|| {}).await?;
            under_way(host).await?;
            drop(lock);
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(WAIT_STEP) => {}
            () = stop.cancelled() => return Ok(None),
        }
    }
}

/// The NodeBootstrap for which what the node's pods run under is being changed now. What was asked for, was never begun and
/// is not under way never will be, and is closed. The host's lock must be held.
///
/// # Errors
/// If a file is damaged, or does not get to the disk.
pub async fn under_way(host: &Host) -> Result<Option<String>, HostError> {
    let mut under_way = None;
    for name in host.state.known()? {
        let Some(switch) = host.state.switch(&name)?.filter(|switch| switch.stage.is_open()) else {
            continue;
        };
        let unit = units::switch(&name);
        if switch.stage != Stage::Asked || !has_ended(host, &unit).await {
            under_way.get_or_insert(name);
            continue;
        }
        let mut switch = Rc::unwrap_or_clone(switch);
        switch.stage = Stage::Refused;
        switch.cause = Some(Cause {
            reason: "NotBegun".to_owned(),
            message: format!("{unit} ended before it began: see journalctl -u {unit} on the host"),
        });
        host.state.put_switch(&name, &switch)?;
        // What is left of it disturbs nothing, and the next one takes it away.
        let _ = disarm(host, &name).await;
    }
    Ok(under_way)
}

/// Whether the process of a unit has ended, also of one that counts as active still for `RemainAfterExit=yes`. If that cannot
/// be told it has not.
async fn has_ended(host: &Host, unit: &str) -> bool {
    let units = [unit.to_owned()];
    let states = host.systemd.observe(&units).await;
    states
        .is_ok_and(|states| states.get(unit).is_none_or(|state| !state.is_running() || state.sub == "exited"))
}

/// Carries out what is asked for: on the host, in a process of its own.
///
/// # Errors
/// In words, if it cannot be told how it ended in `switch.json`.
pub async fn carry_out(host: &Host, node_bootstrap: &str, stop: &CancellationToken) -> Result<(), String> {
    let words = |error: HostError| error.to_string();
    host.systemd.watch_briefly();
    let lock = host.state.lock(|| {}).await.map_err(words)?;
    let Some(switch) = host.state.switch(node_bootstrap).map_err(words)? else {
        return Err(format!("nothing was asked for the NodeBootstrap {node_bootstrap}"));
    };
    let mut switch = Rc::unwrap_or_clone(switch);
    if switch.stage != Stage::Asked {
        return Ok(());
    }
    let request = Request {
        name: switch.revision.name.clone(),
        created: switch.revision.created.clone(),
        revision: switch.revision.revision.clone(),
        payload: host.state.payload(node_bootstrap).map_err(words)?,
        from_pod: switch.from_pod,
        leave: switch.leave.clone(),
        findings: Findings::default(),
    };
    let plan = match begin(host, &request, &mut switch).await {
        Ok(plan) => plan,
        Err(failure) => {
            switch.stage = Stage::Refused;
            let message = request.payload.hide(&failure.message, &request.revision);
            switch.cause = Some(Cause { reason: failure.reason, message });
            let _ = disarm(host, node_bootstrap).await;
            return host.state.put_switch(node_bootstrap, &switch).map_err(words);
        }
    };
    let begun = std::time::Instant::now();
    let made = engine::apply(host, &request, &plan, lock, &Logged, stop);
    // A unit that never says that it is up keeps systemd's job open for longer.
    let outcome = tokio::time::timeout(switch.timeout(), made).await.unwrap_or_else(|_| {
        let message =
            format!("not all of it was made within {} s: a unit does not say that it is up", switch.timeout);
        Err(Failure { reason: "NotStarted".to_owned(), message, made: Vec::new() })
    });
    if stop.is_cancelled() {
        // Whoever stops this rolls back.
        return Ok(());
    }
    let proven = match outcome {
        Ok(made) => {
            tracing::info!(changes = made.len(), "made");
            switch.changes = made.iter().take(engine::MAX_KEPT).cloned().collect();
            // Since before the restart: the kubelet renews its Lease at once when it starts, and then seldom.
            let judge = Judge {
                expected: switch.expected(),
                since: Duration::from_secs(switch.begun),
                stable_for: switch.stable_for,
                within: switch.timeout().saturating_sub(begun.elapsed()),
            };
            match judge.healthy(host, &switch, &mut false, stop).await {
                Ok(()) => in_place(host, &request, &made).await.map(|()| made),
                Err(cause) => Err(cause),
            }
        }
        Err(failure) => Err(Cause { reason: failure.reason, message: failure.message }),
    };
    if stop.is_cancelled() {
        return Ok(());
    }
    match proven {
        Ok(made) => {
            let lock = host.state.lock(|| {}).await.map_err(words)?;
            // First this: from here on it is not rolled back, whatever happens.
            switch.stage = Stage::Confirmed;
            host.state.put_switch(node_bootstrap, &switch).map_err(words)?;
            rollback::confirm(host, &request, &plan, &made).map_err(words)?;
            tracing::info!(revision = switch.revision.name, "confirmed");
            let disarmed = disarm(host, node_bootstrap).await;
            drop(lock);
            disarmed
        }
        Err(cause) => {
            tracing::warn!(reason = cause.reason, cause.message, "rolled back");
            switch.cause = Some(with_journal(cause, &switch, &request.payload).await);
            let _ = host.state.put_switch(node_bootstrap, &switch);
            // It starts when this process has ended, so that is not waited for.
            host.systemd.start(&units::rollback(node_bootstrap)).await.map(drop).map_err(words)
        }
    }
}

/// Looks whether it can be begun, and arms the dead-man.
async fn begin(host: &Host, request: &Request, switch: &mut Switch) -> Result<Plan, Failure> {
    let node_bootstrap = &request.revision.node_bootstrap;
    let failure = |error: HostError| Failure::from(&error);
    let refused =
        |reason: &str, message: String| Failure { reason: reason.to_owned(), message, made: Vec::new() };
    // First of all: what is down for a moment, for somebody restarts it, is not how the node is.
    let mut looker = Looker::new(switch.kubelet.take());
    let patience = tokio::time::Instant::now() + PATIENCE;
    switch.before = loop {
        let now = looker.look(&host.root, &switch.node).await;
        let answers = now.kubelet.is_none() && now.runtime.is_none() && !now.is_away;
        if answers || looker.kubelet().is_none() || tokio::time::Instant::now() > patience {
            break now;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    let is_down = Kubelet::find(&host.root).is_none() && has_joined(&host.root);
    switch.kubelet = looker.kubelet().cloned();
    if switch.before.is_away || is_down {
        switch.before.assume();
    }
    let mut plan = engine::plan(host, request).await.map_err(failure)?;
    if let Some(failure) = Failure::of_problems(&plan.problems) {
        return Err(failure);
    }
    if !is_permitted(plan.disruption(), switch.permit) {
        let message = format!("the changes need a permit for {:?} by now", plan.disruption());
        return Err(refused("NeedsPermit", message));
    }
    if plan.has_downloads(host).map_err(failure)? {
        return Err(refused("NotFetched", "what was fetched is gone from the cache".to_owned()));
    }
    staged::check(host, &request.revision, &plan).await?;
    plan.held = true;
    switch.restarts = plan.steps.iter().filter_map(Step::unit).map(str::to_owned).collect();
    let is_kubelet = |step: &Step| match &step.action {
        Action::Start { unit, .. } => unit == KUBELET_UNIT,
        Action::Restart { unit } => unit == KUBELET_UNIT && is_down,
        _ => false,
    };
    switch.starts_kubelet = plan.steps.iter().any(is_kubelet);
    switch.previous = host.state.begun(node_bootstrap).map_err(failure)?.map(Rc::unwrap_or_clone);
    units::arm(host, node_bootstrap, switch.timeout).await.map_err(failure)?;
    (switch.stage, switch.begun) = (Stage::Armed, uptime().as_secs());
    host.state.put_switch(node_bootstrap, switch).map_err(failure)?;
    tracing::info!(seconds = switch.timeout, "armed");
    Ok(plan)
}

/// Whether what was made is in place still: a node that is well again because somebody put it back proves nothing.
async fn in_place(host: &Host, request: &Request, made: &[Change]) -> Result<(), Cause> {
    let plan = engine::plan(host, request).await.map_err(|error| Failure::from(&error));
    let left = match plan {
        Ok(plan) => {
            plan.besides_left(made).map(|change| format!("{} {}", change.resource, change.found)).collect()
        }
        Err(failure) => vec![failure.message],
    };
    let changed = || Cause {
        reason: "NotHeld".to_owned(),
        message: format!(
            "while the node was looked at, something else has changed what was made: {}",
            left.join("; ")
        ),
    };
    if left.is_empty() { Ok(()) } else { Err(changed()) }
}

/// By what a node is judged.
struct Judge {
    /// How it is to be at least.
    expected: kubelet::Health,
    /// An [`uptime`]: when the change began.
    since: Duration,
    /// In seconds: how long it must be so.
    stable_for: u64,
    /// Within what time.
    within: Duration,
}

impl Judge {
    /// Waits until the node is as good for long enough. `was_away`: whether the API server could not be asked meanwhile.
    async fn healthy(
        &self,
        host: &Host,
        switch: &Switch,
        was_away: &mut bool,
        stop: &CancellationToken,
    ) -> Result<(), Cause> {
        let deadline = tokio::time::Instant::now() + self.within;
        let stable = Duration::from_secs(self.stable_for);
        let mut good_since = None;
        let mut looker = Looker::new(switch.kubelet.clone());
        loop {
            let now = looker.look(&host.root, &switch.node).await;
            let since = clock_at(self.since)..=clock_at(uptime() + SKEW);
            let worse = worse(&self.expected, &now, &since);
            let is_away = self.expected.api.is_none() && now.is_away;
            *was_away |= is_away;
            let at = tokio::time::Instant::now();
            if worse.is_empty() {
                if at.duration_since(*good_since.get_or_insert(at)) >= stable {
                    return Ok(());
                }
            } else {
                good_since = None;
            }
            if at >= deadline {
                let (reason, message) = match worse.as_slice() {
                    [] => {
                        ("NotStable", format!("the node was not as good as before for {} s", self.stable_for))
                    }
                    worse if is_away => (API_AWAY, worse.join("; ")),
                    worse => ("Unhealthy", worse.join("; ")),
                };
                let message = format!("within {} s: {message}", switch.timeout);
                return Err(Cause { reason: reason.to_owned(), message });
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }
}

/// The last lines that tell of an error, without the end of a stack or what systemd says of the end; else the last.
fn telling(lines: Vec<String>) -> Vec<String> {
    // E1126 05:47:56.426372 (klog), level=error (logrus), panic: (Go).
    let is_klog = |line: &str| {
        line.starts_with(['E', 'F'])
            && line.get(1..5).is_some_and(|day| day.bytes().all(|sign| sign.is_ascii_digit()))
    };
    let tells = |line: &&String| {
        is_klog(line) || ["level=error", "level=fatal", "panic: "].iter().any(|word| line.contains(word))
    };
    let errors: Vec<String> = lines.iter().filter(tells).cloned().collect();
    let mut lines = if errors.is_empty() { lines } else { errors };
    lines.drain(..lines.len().saturating_sub(LINES));
    lines
}

/// The cause, with what the units wrote last, but for what is secret.
async fn with_journal(cause: Cause, switch: &Switch, payload: &Payload) -> Cause {
    let mut message = payload.hide(&cause.message, &switch.revision.revision);
    for unit in switch.restarts.iter().filter(|unit| is_node_unit(unit)) {
        let since = clock_at(Duration::from_secs(switch.begun)).as_second();
        let lines = telling(journal::last_lines(unit, since, READ).await);
        if !lines.is_empty() {
            let lines = lines
                .iter()
                .map(|line| payload.hide(line, &switch.revision.revision).chars().take(MAX_LINE).collect());
            let lines: Vec<String> = lines.collect();
            // There is little room for what was wrong.
            message = message.replace(&format!(": see journalctl -u {unit}"), "");
            message = format!("{message}; {unit} wrote: {}", lines.join(" | "));
        }
    }
    Cause { message, ..cause }
}

/// Puts back what was not confirmed, and sees whether the node is as before with that: on the host, in a process of its own.
///
/// # Errors
/// In words; it is tried again by systemd.
pub async fn roll_back(host: &Host, node_bootstrap: &str, stop: &CancellationToken) -> Result<(), String> {
    let words = |error: HostError| error.to_string();
    host.systemd.watch_briefly();
    let lock = host.state.lock(|| {}).await.map_err(words)?;
    let Some(switch) = host.state.switch(node_bootstrap).map_err(words)? else { return Ok(()) };
    let mut switch = Rc::unwrap_or_clone(switch);
    match switch.stage {
        Stage::Armed => {}
        Stage::Confirmed => {
            rollback::finish(host, node_bootstrap).map_err(words)?;
            return disarm(host, node_bootstrap).await;
        }
        Stage::Asked | Stage::RolledBack | Stage::Unproven | Stage::Refused => {
            return disarm(host, node_bootstrap).await;
        }
    }
    let is_first = switch.cause.is_none();
    // None: the process that was to judge did not.
    let mut cause = match switch.cause.clone() {
        Some(cause) => cause,
        None => {
            let message = format!("nothing confirmed it within {} s", switch.timeout);
            let cause = Cause { reason: "NotConfirmed".to_owned(), message };
            // What waits for a unit that never says that it is up is ended before it could tell.
            with_journal(cause, &switch, &host.state.payload(node_bootstrap).unwrap_or_default()).await
        }
    };
    // Of a roll-back that was ended.
    cause.message.truncate(cause.message.find(NOT_YET).unwrap_or(cause.message.len()));
    let Some((since, back)) = until_put_back(host, &mut switch, &cause, lock, stop).await? else {
        return Ok(());
    };
    switch.was_left(&back.left);
    if is_first && !back.was_made {
        let _lock = host.state.lock(|| {}).await.map_err(words)?;
        switch.stage = Stage::Unproven;
        switch.cause = Some(Cause {
            reason: "NotBegun".to_owned(),
            message: "it was ended before anything was changed".to_owned(),
        });
        host.state.put_switch(node_bootstrap, &switch).map_err(words)?;
        return disarm(host, node_bootstrap).await;
    }
    // With what was there before it must be as before; else the node cannot tell what was wrong.
    let judge = Judge { expected: switch.before.clone(), since, stable_for: 0, within: switch.timeout() };
    let mut was_away = false;
    let back = judge.healthy(host, &switch, &mut was_away, stop).await;
    if stop.is_cancelled() {
        return Ok(());
    }
    let is_blamed = is_first || cause.reason == API_AWAY;
    match (&mut switch.cause, &back) {
        (Some(cause), Err(still)) => {
            cause.message = format!("{}{NOT_AS_BEFORE}{}", cause.message, still.message);
        }
        (Some(cause), Ok(())) if is_blamed && was_away => {
            cause.message = format!(
                "{}; with what was there before it could not be asked either, and came back later",
                cause.message
            );
        }
        _ => {}
    }
    let _lock = host.state.lock(|| {}).await.map_err(words)?;
    match back {
        Err(still) if still.reason == API_AWAY => switch.stage = Stage::Unproven,
        // It may have been an outage; one that comes with every attempt is none.
        Ok(()) if is_blamed && was_away => switch.not_judged(),
        _ if cause.reason == INTERRUPTED => switch.not_judged(),
        _ => switch.stage = Stage::RolledBack,
    }
    host.state.put_switch(node_bootstrap, &switch).map_err(words)?;
    disarm(host, node_bootstrap).await
}

/// Puts back what was not confirmed, again and again until all of it is back; since when it was, the last time. `None`: it was
/// told to stop.
async fn until_put_back(
    host: &Host,
    switch: &mut Switch,
    cause: &Cause,
    lock: Lock,
    stop: &CancellationToken,
) -> Result<Option<(Duration, PutBack)>, String> {
    let tell = |switch: &mut Switch, message: String| {
        switch.cause = Some(Cause { message, ..cause.clone() });
        // Putting back does not wait for a disk that is full.
        let _ = host.state.put_switch(&switch.revision.revision.node_bootstrap, switch);
    };
    tell(switch, cause.message.clone());
    let (mut lock, mut pause) = (Some(lock), None);
    loop {
        let since = uptime();
        let held = match lock.take() {
            Some(lock) => lock,
            None => host.state.lock(|| {}).await.map_err(|error| error.to_string())?,
        };
        let back = put_back(host, switch, false, pause.is_some(), held, stop).await;
        if stop.is_cancelled() {
            return Ok(None);
        }
        let why = match back {
            Ok(back) => {
                tell(switch, cause.message.clone());
                return Ok(Some((since, back)));
            }
            Err(why) => why,
        };
        tracing::warn!(why, "not put back yet");
        tell(switch, format!("{}{NOT_YET}: {why}", cause.message));
        let wait = pause.map_or(FIRST_PAUSE, |last: Duration| (last * 2).min(LONGEST_PAUSE));
        pause = Some(wait);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return Ok(None),
        }
    }
}

/// Puts back all that is open on this host, as [`roll_back`].
///
/// # Errors
/// In words; it is tried again by systemd.
pub async fn roll_back_all(host: &Host, stop: &CancellationToken) -> Result<(), String> {
    for node_bootstrap in host.state.known().map_err(|error| error.to_string())? {
        roll_back(host, &node_bootstrap, stop).await?;
    }
    Ok(())
}

/// Puts back the files of all that a boot interrupted, before the kubelet starts; units are systemd's to start.
///
/// # Errors
/// In words, if something could not be put back. The kubelet starts then with what is there, so it is for [`roll_back_all`],
/// which systemd starts after it.
pub async fn guard(host: &Host, stop: &CancellationToken) -> Result<(), String> {
    let words = |error: HostError| error.to_string();
    let mut open = Vec::new();
    for node_bootstrap in host.state.known().map_err(words)? {
        let lock = host.state.lock(|| {}).await.map_err(words)?;
        let Some(switch) = host.state.switch(&node_bootstrap).map_err(words)? else { continue };
        let mut switch = Rc::unwrap_or_clone(switch);
        match switch.stage {
            Stage::Armed => match put_back(host, &switch, true, false, lock, stop).await {
                Ok(back) => {
                    switch.interrupted();
                    switch.was_left(&back.left);
                }
                Err(why) => {
                    _ = switch.cause_of_boot();
                    open.push(why);
                }
            },
            // What asked for it asks again.
            Stage::Asked => switch.stage = Stage::Unproven,
            Stage::Confirmed => rollback::finish(host, &node_bootstrap).map_err(words)?,
            Stage::RolledBack | Stage::Unproven | Stage::Refused => {}
        }
        host.state.put_switch(&node_bootstrap, &switch).map_err(words)?;
    }
    if open.is_empty() { units::disarm(host, "", true).await.map_err(words) } else { Err(open.join("; ")) }
}

/// What came of putting back.
struct PutBack {
    /// Whether there was anything.
    was_made: bool,
    /// What stays as it is, and why.
    left: Vec<String>,
}

/// Puts back what was not confirmed. `again`: see [`rollback::run`].
async fn put_back(
    host: &Host,
    switch: &Switch,
    at_boot: bool,
    again: bool,
    lock: Lock,
    stop: &CancellationToken,
) -> Result<PutBack, String> {
    let node_bootstrap = &switch.revision.revision.node_bootstrap;
    let words = |error: HostError| error.to_string();
    let plan = rollback::plan(host, node_bootstrap, &switch.restarts, at_boot).await.map_err(words)?;
    let previous = switch.previous.as_ref();
    let made = rollback::run(host, node_bootstrap, &plan, previous, again, lock, &Logged, stop).await;
    let made = made.map_err(|failure| failure.message)?;
    let left = made.iter().filter(|change| change.is_left());
    let left = left.map(|change| format!("{} {}", change.resource, change.change)).collect();
    Ok(PutBack { was_made: !plan.steps.is_empty(), left })
}

/// Takes away what an attempt was armed with; the guard only with the last one on this host. The host's lock must be held:
/// another may be asked for.
async fn disarm(host: &Host, node_bootstrap: &str) -> Result<(), String> {
    let disarmed = units::disarm(host, node_bootstrap, is_last(host, node_bootstrap)).await;
    disarmed.map_err(|error| error.to_string())
}

/// Whether no other NodeBootstrap has an attempt under way here.
fn is_last(host: &Host, node_bootstrap: &str) -> bool {
    let others = host.state.known().unwrap_or_default();
    let is_open =
        |name: &String| host.state.switch(name).ok().flatten().is_some_and(|switch| switch.stage.is_open());
    !others.iter().filter(|name| *name != node_bootstrap).any(is_open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_unit_s_journal_those_lines_are_told_that_tell_something() {
        let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        let wrote = lines(&[
            "E1126 05:47:56.426372    6779 run.go:72] \"command failed\" err=\"no\"",
            "panic: unrecognized feature gate: NoSuchGate",
            "goroutine 1 [running]:",
            "main.main()",
            "kubelet.go:37 +0x2a",
            "kubelet.service: Failed with result 'exit-code'.",
        ]);
        assert_eq!(telling(wrote.clone()), wrote[..2]);
        assert_eq!(telling(lines(&["a", "b", "c", "d"])), ["b", "c", "d"]);
        assert!(telling(Vec::new()).is_empty());
    }
}
