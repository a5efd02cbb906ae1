//! systemd, over its own D-Bus interface; the agent itself runs no program.
//!
//! In: names of units and what shall become of them. Out: their states; jobs that systemd has begun, and what came of
//! them in words.
//! [`Systemd`] is the interface; [`Bus`] is the running systemd, [`super::offline::Offline`] the files of a system that
//! does not run.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::LocalBoxFuture;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::Mutex;
use zbus_systemd::systemd1::{JobRemovedStream, ManagerProxy, ServiceProxy, UnitProxy};
use zbus_systemd::zbus::{self, Connection, OwnedObjectPath, OwnedVariant, Variant};

use super::failpoint::reach;
use super::signals::Signals;
use super::{HostError, Root};

/// Where the system bus listens.
const SOCKET: &str = "/run/dbus/system_bus_socket";
/// A program that systemd runs is ended after this time.
const LONGEST_RUN: Duration = Duration::from_secs(120);
/// A program that is asked for something is ended after this time.
const LONGEST_ANSWER: Duration = Duration::from_secs(20);
/// The most that such a program may write, in bytes: what a pipe holds.
pub const MAX_OUTPUT: usize = 64 << 10;
/// The unit that loads kernel modules.
const MODULES_LOAD: &str = "systemd-modules-load.service";
/// How long systemd may take to answer one question.
pub(super) const ANSWER: Duration = Duration::from_secs(30);
/// How long a job is waited for; systemd itself goes on with it.
const LONGEST_JOB: Duration = Duration::from_secs(300);
/// How long a service that says it has started is watched for ending at once: a program that cannot be executed ends
/// within milliseconds.
const SETTLE: Duration = Duration::from_millis(300);
/// How long one is watched that ran before, or has failed before: whether it may be counted on decides about others.
/// That of DESIGN's `health.stableFor`.
pub const STABLE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A bus that is gone is looked for after this time, and after twice as long each time, up to the next.
const FIRST_SEARCH: Duration = Duration::from_secs(1);
const LAST_SEARCH: Duration = Duration::from_secs(30);

/// What systemd answers, some time.
pub type Answer<'a, T> = LocalBoxFuture<'a, Result<T, HostError>>;
/// What systemd has begun to do; it resolves when that is done and can be counted on, or has failed.
pub type Job<'a> = Answer<'a, ()>;

/// The state of one unit, in systemd's own words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitState {
    /// Its own name, where another one leads to it; empty if it is not known.
    pub id: String,
    /// loaded, not-found, masked, …
    pub load: String,
    /// active, inactive, failed, activating, …
    pub active: String,
    /// running, dead, auto-restart, …
    pub sub: String,
    /// enabled, disabled, static, masked, …; empty if there is no file.
    pub file: String,
    /// Whether its file changed since systemd read it.
    pub need_reload: bool,
    /// Whether its program ends again and again, and systemd starts it anew each time.
    pub loops: bool,
    /// Whether a folder for a link that enables it is there with nothing in it: a run was killed there. Told of a system
    /// that does not run; systemd itself is not killed with us.
    pub has_empty_folder: bool,
}

impl UnitState {
    /// Whether systemd knows it.
    pub fn is_known(&self) -> bool {
        !self.load.is_empty() && self.load != "not-found"
    }

    /// Whether something of it runs, or is about to: what a restart would disturb or renew.
    pub fn is_running(&self) -> bool {
        matches!(self.active.as_str(), "active" | "reloading" | "activating" | "refreshing")
    }

    /// Whether nothing of it runs any more.
    pub fn has_stopped(&self) -> bool {
        matches!(self.active.as_str(), "" | "inactive" | "failed")
    }

    /// Whether it runs, has finished starting, and goes on running.
    pub fn is_active(&self) -> bool {
        !self.loops && matches!(self.active.as_str(), "active" | "reloading" | "refreshing")
    }

    /// Whether somebody forbade it to run.
    pub fn is_masked(&self) -> bool {
        self.load == "masked" || self.file.starts_with("masked")
    }

    /// Whether it is linked into the boot, itself or by way of what it names in `Also=`.
    pub fn is_enabled(&self) -> bool {
        matches!(self.file.as_str(), "enabled" | "alias" | "indirect")
    }
}

/// What is asked of systemd.
pub trait Systemd {
    /// Whether units can be started here, and not only written and enabled.
    fn is_running(&self) -> bool;
    /// What restarts from now on is not watched for [`STABLE`]: somebody else judges it.
    fn watch_briefly(&self) {}
    /// The states of units; one that is not known has an entry that says so. No templates.
    fn observe<'a>(&'a self, units: &'a [String]) -> Answer<'a, BTreeMap<String, UnitState>>;
    /// How long this systemd runs, by the clock of its timers.
    fn age(&self) -> Answer<'_, Duration> {
        Box::pin(std::future::ready(Ok(super::uptime())))
    }
    /// Reads all unit files again.
    fn reload(&self) -> Answer<'_, ()>;
    /// Links a unit into the boot; `again` removes the links that it has first.
    fn enable<'a>(&'a self, unit: &'a str, again: bool) -> Answer<'a, ()>;
    /// Removes a unit's links.
    fn disable<'a>(&'a self, unit: &'a str) -> Answer<'a, ()>;
    /// Links a unit to /dev/null, so that nothing can start it; or takes such links away.
    fn mask<'a>(&'a self, unit: &'a str, masked: bool) -> Answer<'a, ()>;
    /// Begins to load the kernel modules that files in modules-load.d name.
    fn load_modules(&self) -> Answer<'_, Job<'_>>;
    /// Begins to run a program of the host once, as a unit of this name. While one of that name runs, it waits.
    fn run<'a>(&'a self, unit: &'a str, command: &'a [&'a str]) -> Answer<'a, Job<'a>>;
    /// Runs a program of the host, as a unit of this name, and waits for it; what it wrote to its standard output, as far as
    /// [`MAX_OUTPUT`]. While a unit of that name runs, it waits.
    fn output<'a>(&'a self, unit: &'a str, command: &'a [&'a str]) -> Answer<'a, String>;
    /// Begins to start a unit. One whose program ends again and again is not touched, and an error.
    fn start<'a>(&'a self, unit: &'a str) -> Answer<'a, Job<'a>>;
    /// As [`Systemd::start`], where its files were written just now: one that somebody else has started meanwhile is
    /// restarted, since it may run with what was there before.
    fn renew<'a>(&'a self, unit: &'a str) -> Answer<'a, Job<'a>>;
    /// Forgets that a unit has failed.
    fn forget<'a>(&'a self, _unit: &'a str) -> LocalBoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }
    /// Begins to stop a unit.
    fn stop<'a>(&'a self, unit: &'a str) -> Answer<'a, Job<'a>>;
    /// Begins to restart a unit, if it runs.
    fn restart<'a>(&'a self, unit: &'a str) -> Answer<'a, Job<'a>>;
    /// Waits until one of these units ends although it shall run, or runs although it shall not; for ever, where nobody
    /// tells. What it heard before it was dropped is not lost.
    fn touched<'a>(&'a self, _units: &'a BTreeMap<String, bool>) -> LocalBoxFuture<'a, ()> {
        Box::pin(std::future::pending())
    }
}

/// The running systemd of a host.
#[derive(Debug)]
pub struct Bus {
    address: String,
    // Kept between passes; nothing is subscribed on it at rest, so it wakes nobody.
    connection: Mutex<Option<Connection>>,
    // What is listened to at rest.
    signals: Mutex<Option<Signals>>,
    /// See [`Systemd::watch_briefly`].
    briefly: AtomicBool,
}

/// How many units are asked about at once.
const AT_ONCE: usize = 32;

/// What a job does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Start,
    /// Start, or restart if it runs.
    Renew,
    Stop,
    Restart,
    /// Restart, or start if it does not run.
    Load,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Self::Start | Self::Renew => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Load => "load modules",
        }
    }
}

impl Bus {
    /// The systemd whose bus lies below this root. Nothing is connected yet.
    pub fn of(root: &Root) -> Self {
        Self {
            address: root.outside(SOCKET),
            connection: Mutex::new(None),
            signals: Mutex::new(None),
            briefly: AtomicBool::new(false),
        }
    }

    async fn manager(&self) -> Result<ManagerProxy<'static>, HostError> {
        if let Some(manager) = self.kept().await
            // The bus may have been restarted since.
            && manager.version().await.is_ok()
        {
            return Ok(manager);
        }
        let address = format!("unix:path={}", self.address);
        let open = zbus::connection::Builder::address(address.as_str())
            .method_timeout(ANSWER)
            .build()
            .await
            .map_err(|error| self.unreachable(&error))?;
        let manager = manager_on(&open).await.map_err(|error| self.unreachable(&error))?;
        *self.connection.lock().await = Some(open);
        Ok(manager)
    }

    /// That of the connection that is open, whether or not it still leads anywhere.
    async fn kept(&self) -> Option<ManagerProxy<'static>> {
        let open = self.connection.lock().await.clone()?;
        manager_on(&open).await.ok()
    }

    fn unreachable(&self, error: &zbus::Error) -> HostError {
        HostError::Systemd(format!(
            "systemd cannot be asked over {}: {}: is this a systemd host with dbus?",
            self.address,
            words(error)
        ))
    }

    async fn unit(
        &self,
        manager: &ManagerProxy<'static>,
        unit: &str,
    ) -> Result<UnitProxy<'static>, HostError> {
        let path = manager.load_unit(unit.to_owned()).await.map_err(refused(unit, "load"))?;
        UnitProxy::builder(manager.inner().connection())
            .cache_properties(zbus::proxy::CacheProperties::No)
            .path(path)
            .build()
            .await
            .map_err(refused(unit, "look"))
    }

    async fn begin<'a>(&self, unit: &'a str, verb: Verb) -> Result<Job<'a>, HostError> {
        let manager = self.manager().await?;
        // Before the job is made, so that its end cannot be missed. Already subscribed is as good.
        let _ = manager.subscribe().await;
        let mut ended = manager.receive_job_removed().await.map_err(refused(unit, "watch"))?;
        let proxy = self.unit(&manager, unit).await?;
        let before = state_of(unit, &proxy).await?;
        let waits_for_restart = before.sub.starts_with("auto-restart");
        let (name, mode) = (unit.to_owned(), "replace".to_owned());
        if verb == Verb::Start
            && before.is_running()
            && starts_again(unit, &proxy, &before).await.map_err(refused(unit, "look"))?
        {
            return Err(HostError::Systemd(format!(
                "{unit} ends again and again, and systemd starts it anew each time: see journalctl -u {unit}"
            )));
        }
        reach();
        if verb != Verb::Stop {
            // What it did before does not count: else systemd refuses a unit that failed too often lately.
            let _ = manager.reset_failed_unit(unit.to_owned()).await;
        }
        let made = match verb {
            // systemd refuses to start what waits for its own restart.
            Verb::Start if waits_for_restart => manager.restart_unit(name, mode).await,
            Verb::Start => manager.start_unit(name, mode).await,
            Verb::Stop => manager.stop_unit(name, mode).await,
            Verb::Restart => manager.try_restart_unit(name, mode).await,
            Verb::Renew | Verb::Load => manager.restart_unit(name, mode).await,
        };
        let path = made.map_err(refused(unit, verb.word()))?;
        let watch = match verb {
            // It ends when its work is done.
            Verb::Load => Duration::ZERO,
            _ if self.briefly.load(Ordering::Relaxed) => SETTLE,
            Verb::Restart => STABLE,
            _ if before.active == "failed" || waits_for_restart => STABLE,
            _ => SETTLE,
        };
        Ok(Box::pin(async move {
            let outcome = result_of(&path, &mut ended, unit, verb.word()).await?;
            match (verb, outcome.as_str()) {
                (Verb::Stop, "done") => Ok(()),
                // It did not run any more, so there was nothing to restart.
                (Verb::Restart, "done" | "skipped") if !before.is_running() => Ok(()),
                (Verb::Start | Verb::Renew | Verb::Restart | Verb::Load, "done" | "skipped") => {
                    settled(unit, &proxy, verb, watch).await
                }
                (_, outcome) => Err(failure(unit, &proxy, verb.word(), outcome).await),
            }
        }))
    }
    /// Begins to run a program once, as a unit of this name.
    async fn begin_run<'a>(
        &self,
        unit: &'a str,
        command: &'a [&'a str],
        longest: Duration,
        output: Option<OwnedFd>,
    ) -> Result<Job<'a>, HostError> {
        let manager = self.manager().await?;
        let _ = manager.subscribe().await;
        let mut ended = manager.receive_job_removed().await.map_err(refused(unit, "watch"))?;
        let asked = Instant::now();
        let job = loop {
            let properties = properties(command, longest, output.as_ref()).map_err(refused(unit, "start"))?;
            let mode = "fail".to_owned();
            let made = manager.start_transient_unit(unit.to_owned(), mode, properties, Vec::new()).await;
            match made {
                Err(error) if is_there_already(&error) && asked.elapsed() < LONGEST_RUN => {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                made => break made.map_err(refused(unit, "start"))?,
            }
        };
        Ok(Box::pin(async move {
            match result_of(&job, &mut ended, unit, "run").await?.as_str() {
                "done" => Ok(()),
                outcome => Err(HostError::Systemd(format!(
                    "{} did not end well: job {outcome}: see journalctl -u {unit}",
                    command.join(" ")
                ))),
            }
        }))
    }
}

/// systemd's own object. Without a cache: filling one takes a question for each of its hundred properties.
async fn manager_on(open: &Connection) -> zbus::Result<ManagerProxy<'static>> {
    ManagerProxy::builder(open).cache_properties(zbus::proxy::CacheProperties::No).build().await
}

/// Waits for a job's end; its result in systemd's own word.
async fn result_of(
    job: &OwnedObjectPath,
    ended: &mut JobRemovedStream,
    unit: &str,
    word: &str,
) -> Result<String, HostError> {
    let outcome = async {
        loop {
            let Some(signal) = ended.next().await else {
                return Err(HostError::Systemd(format!(
                    "{unit}: systemd went away while it was to {word} it"
                )));
            };
            let args = signal.args().map_err(refused(unit, "watch"))?;
            if args.job == *job {
                return Ok(args.result.clone());
            }
        }
    };
    match tokio::time::timeout(LONGEST_JOB, outcome).await {
        Ok(outcome) => outcome,
        Err(_) => Err(HostError::Systemd(format!(
            "{unit} has not finished to {word} after {} s: is its Type= right? see journalctl -u {unit}",
            LONGEST_JOB.as_secs()
        ))),
    }
}

/// What a unit is that runs a program once, for so long at most. `output`: where what it writes goes; `None`: to the journal.
fn properties(
    command: &[&str],
    longest: Duration,
    output: Option<&OwnedFd>,
) -> zbus::Result<Vec<(String, OwnedVariant)>> {
    let words: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
    let program = words.first().cloned().unwrap_or_default();
    let timeout = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
    let mut properties = vec![
        ("Description", Variant::from(format!("{program}, for nodebootstrap-agent"))),
        ("Type", Variant::from("oneshot")),
        // Of one that failed nothing stays that keeps the next from running.
        ("CollectMode", Variant::from("inactive-or-failed")),
        ("TimeoutStartUSec", Variant::from(timeout)),
        ("ExecStart", Variant::from(vec![(program, words, false)])),
    ];
    properties.extend(output.map(|fd| ("StandardOutputFileDescriptor", Variant::Fd(fd.as_fd().into()))));
    properties.into_iter().map(|(name, value)| Ok((name.to_owned(), value.try_into_owned()?))).collect()
}

/// Whether systemd said that there is such a unit already.
fn is_there_already(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::MethodError(name, ..) if name.as_str() == "org.freedesktop.systemd1.UnitExists")
}

/// Waits until a unit that has started can be counted on.
async fn settled(
    unit: &str,
    proxy: &UnitProxy<'static>,
    verb: Verb,
    watch: Duration,
) -> Result<(), HostError> {
    let service = service_of(unit, proxy).await;
    let begun = Instant::now();
    loop {
        let now = state_of(unit, proxy).await?;
        match now.active.as_str() {
            "active" | "reloading" | "refreshing" => {}
            "activating" if !now.sub.starts_with("auto-restart") => {}
            "inactive" => {
                // A oneshot that did its work, restarted: all that there is to it.
                let is_oneshot = match &service {
                    Some(service) => service.type_property().await.is_ok_and(|kind| kind == "oneshot"),
                    None => false,
                };
                if !matches!(verb, Verb::Start | Verb::Renew) && is_oneshot {
                    return Ok(());
                }
                return Err(HostError::Systemd(format!(
                    "{unit} started and ended by itself: for a oneshot that shall count as active write RemainAfterExit=yes; else see journalctl -u {unit}"
                )));
            }
            _ => return Err(failure(unit, proxy, verb.word(), "").await),
        }
        // Only services end by themselves.
        let Some(service) = &service else { return Ok(()) };
        // Counted from zero since it was asked for.
        if service.n_restarts().await.is_ok_and(|restarts| restarts > 0) {
            return Err(failure(unit, proxy, verb.word(), "").await);
        }
        let waited = begun.elapsed();
        if waited >= watch {
            return Ok(());
        }
        // What ends at once is told at once; later a few looks do.
        tokio::time::sleep(if waited < SETTLE { LOOK_EVERY } else { 10 * LOOK_EVERY }).await;
    }
}

/// Whether a service that runs is started anew by systemd again and again: its program ended lately, not for the first time.
/// `restarts`: how often it was, `since`: when it last was, in microseconds of the monotonic clock.
fn loops(state: &UnitState, restarts: u32, since: u64) -> bool {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0));
    let is_new = || now.saturating_sub(Duration::from_micros(since)) < STABLE;
    restarts > 0 && (state.active == "activating" || is_new())
}

/// As [`loops`], asked now.
async fn starts_again(unit: &str, proxy: &UnitProxy<'static>, state: &UnitState) -> zbus::Result<bool> {
    let Some(service) = service_of(unit, proxy).await else { return Ok(false) };
    Ok(loops(state, service.n_restarts().await?, proxy.active_enter_timestamp_monotonic().await?))
}

fn is_service(unit: &str) -> bool {
    unit.ends_with(".service")
}

async fn service_at(connection: &Connection, path: OwnedObjectPath) -> zbus::Result<ServiceProxy<'static>> {
    ServiceProxy::builder(connection)
        .cache_properties(zbus::proxy::CacheProperties::No)
        .path(path)
        .build()
        .await
}

async fn service_of(unit: &str, proxy: &UnitProxy<'static>) -> Option<ServiceProxy<'static>> {
    if !is_service(unit) {
        return None;
    }
    let proxy = proxy.inner();
    service_at(proxy.connection(), proxy.path().to_owned().into()).await.ok()
}

/// Why a unit is not what it was to become, in words.
async fn failure(unit: &str, proxy: &UnitProxy<'static>, action: &str, outcome: &str) -> HostError {
    let mut causes = Vec::new();
    if !matches!(outcome, "" | "failed" | "done") {
        causes.push(format!("job {outcome}"));
    }
    if let Some(service) = service_of(unit, proxy).await {
        if let Ok(result) = service.result().await {
            causes.push(format!("Result={result}"));
        }
        if let Ok(status @ 1..) = service.exec_main_status().await {
            causes.push(format!("status {}", status_words(status)));
        }
    }
    if let Ok(UnitState { active, sub, .. }) = state_of(unit, proxy).await
        && active != "failed"
    {
        causes.push(format!("now {active} ({sub})"));
    }
    HostError::Systemd(format!("{unit} failed to {action}: {}: see journalctl -u {unit}", causes.join(", ")))
}

/// What systemd says of units: of each that is listed its state, and the rest of all that were asked for.
type Looks = (Vec<UnitState>, Vec<Rest>);

/// Asks all that there is to ask of units. All questions are on their way at once: systemd answers one in less time than it
/// takes to come back.
async fn look(manager: &ManagerProxy<'static>, units: &[String]) -> zbus::Result<Looks> {
    let rest = futures::stream::iter(units).map(|unit| Rest::ask(manager, unit)).buffered(AT_ONCE);
    let (listed, rest) =
        futures::future::try_join(manager.list_units_by_names(units.to_vec()), rest.try_collect()).await?;
    let listed = listed.into_iter().map(|(id, _, load, active, sub, ..)| UnitState {
        id,
        load,
        active,
        sub,
        ..UnitState::default()
    });
    Ok((listed.collect(), rest))
}

/// Puts it together, unit by unit.
fn states(units: &[String], (listed, rest): Looks) -> Result<BTreeMap<String, UnitState>, HostError> {
    if listed.len() != units.len() {
        // It passes over what is no name of a unit, and whose state is whose would be a guess.
        return Err(HostError::Systemd(format!(
            "systemd tells the states of {} units, asked for {}: is each of them the name of a unit? {}",
            listed.len(),
            units.len(),
            units.join(", ")
        )));
    }
    let all = units.iter().zip(listed).zip(rest);
    all.map(|((unit, state), rest)| Ok((unit.clone(), rest.complete(unit, state)?))).collect()
}

/// What a list of units does not tell of one.
struct Rest {
    file: String,
    need_reload: zbus::Result<bool>,
    /// How often its program ended and was started anew by systemd, since it was last asked for.
    restarts: zbus::Result<u32>,
    /// When it was last started, in microseconds of the monotonic clock.
    since: zbus::Result<u64>,
}

impl Rest {
    /// Asks for all of it at once, also where there is no such unit: that the list tells, which is on its way too.
    async fn ask(manager: &ManagerProxy<'static>, unit: &str) -> zbus::Result<Self> {
        let connection = manager.inner().connection();
        let path = object_of(unit)?;
        let proxy = UnitProxy::builder(connection)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .path(path.clone())
            .build()
            .await?;
        let service = if is_service(unit) { Some(service_at(connection, path).await?) } else { None };
        let restarts = async {
            match &service {
                Some(service) => service.n_restarts().await,
                None => Ok(0),
            }
        };
        let file = async { manager.get_unit_file_state(unit.to_owned()).await.unwrap_or_default() };
        let (file, need_reload, restarts, since) = tokio::join!(
            file,
            proxy.need_daemon_reload(),
            restarts,
            proxy.active_enter_timestamp_monotonic()
        );
        Ok(Self { file, need_reload, restarts, since })
    }

    /// Adds it to what the list told.
    fn complete(self, unit: &str, mut state: UnitState) -> Result<UnitState, HostError> {
        state.file = self.file;
        if !state.is_known() {
            return Ok(state);
        }
        // It does not say so of a mask that it has not read.
        let mask_is_new = state.file.starts_with("masked") && state.load != "masked";
        state.need_reload = self.need_reload.map_err(refused(unit, "look"))? || mask_is_new;
        if state.is_running() {
            let restarts = self.restarts.map_err(refused(unit, "look"))?;
            state.loops = loops(&state, restarts, self.since.map_err(refused(unit, "look"))?);
        }
        Ok(state)
    }
}

/// The object of a unit, loaded or not: in its name each byte that is no letter or digit is written as `_` and two
/// hexadecimal digits, and so is a digit at its beginning (sd_bus_path_encode(3)).
fn object_of(unit: &str) -> zbus::Result<OwnedObjectPath> {
    let mut path = String::from("/org/freedesktop/systemd1/unit/");
    for (index, byte) in unit.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (index > 0 && byte.is_ascii_digit()) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    OwnedObjectPath::try_from(path)
}

async fn state_of(unit: &str, proxy: &UnitProxy<'static>) -> Result<UnitState, HostError> {
    let active = proxy.active_state().await.map_err(refused(unit, "look"))?;
    let sub = proxy.sub_state().await.map_err(refused(unit, "look"))?;
    Ok(UnitState { active, sub, ..UnitState::default() })
}

impl Systemd for Bus {
    fn is_running(&self) -> bool {
        true
    }

    fn watch_briefly(&self) {
        self.briefly.store(true, Ordering::Relaxed);
    }

    fn observe<'a>(&'a self, units: &'a [String]) -> Answer<'a, BTreeMap<String, UnitState>> {
        Box::pin(async move {
            if units.is_empty() {
                return Ok(BTreeMap::new());
            }
            // It is asked in every pass: whether the connection still leads anywhere is told by the answer.
            if let Some(manager) = self.kept().await
                && let Ok(looks) = look(&manager, units).await
            {
                return states(units, looks);
            }
            let manager = self.manager().await?;
            states(units, look(&manager, units).await.map_err(refused("units", "list"))?)
        })
    }

    fn age(&self) -> Answer<'_, Duration> {
        Box::pin(async move {
            let manager = self.manager().await?;
            let started =
                manager.userspace_timestamp_monotonic().await.map_err(refused("systemd", "look"))?;
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            let now = Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0));
            Ok(now.saturating_sub(Duration::from_micros(started)))
        })
    }

    fn reload(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            reach();
            self.manager().await?.reload().await.map_err(refused("systemd", "read all unit files again"))
        })
    }

    fn enable<'a>(&'a self, unit: &'a str, again: bool) -> Answer<'a, ()> {
        Box::pin(async move {
            let manager = self.manager().await?;
            let files = vec![unit.to_owned()];
            reach();
            if again {
                manager.reenable_unit_files(files, false, false).await.map_err(refused(unit, "enable"))?;
            } else {
                manager.enable_unit_files(files, false, false).await.map_err(refused(unit, "enable"))?;
            }
            self.reload().await
        })
    }

    fn disable<'a>(&'a self, unit: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let manager = self.manager().await?;
            reach();
            manager
                .disable_unit_files(vec![unit.to_owned()], false)
                .await
                .map_err(refused(unit, "disable"))?;
            self.reload().await
        })
    }

    fn mask<'a>(&'a self, unit: &'a str, masked: bool) -> Answer<'a, ()> {
        Box::pin(async move {
            let manager = self.manager().await?;
            let files = || vec![unit.to_owned()];
            reach();
            if masked {
                manager.mask_unit_files(files(), false, false).await.map_err(refused(unit, "mask"))?;
            } else {
                // Also a mask that lasts until the next boot.
                for runtime in [false, true] {
                    manager.unmask_unit_files(files(), runtime).await.map_err(refused(unit, "unmask"))?;
                }
            }
            self.reload().await
        })
    }

    fn load_modules(&self) -> Answer<'_, Job<'_>> {
        Box::pin(self.begin(MODULES_LOAD, Verb::Load))
    }

    fn run<'a>(&'a self, unit: &'a str, command: &'a [&'a str]) -> Answer<'a, Job<'a>> {
        Box::pin(self.begin_run(unit, command, LONGEST_RUN, None))
    }

    fn output<'a>(&'a self, unit: &'a str, command: &'a [&'a str]) -> Answer<'a, String> {
        Box::pin(async move {
            let no_pipe = |error: std::io::Error| HostError::Systemd(format!("{unit}: no pipe: {error}"));
            let (mut reader, writer) = std::io::pipe().map_err(no_pipe)?;
            rustix::io::ioctl_fionbio(&reader, true).map_err(|errno| no_pipe(errno.into()))?;
            self.begin_run(unit, command, LONGEST_ANSWER, Some(writer.into())).await?.await?;
            // All of it is in the pipe: the program has ended, and would have waited for room until it was ended. What is
            // behind it is the pipe's end, or, while systemd has it open still, nothing yet.
            let mut text = vec![0; MAX_OUTPUT];
            let mut length = 0;
            while let Ok(more @ 1..) = reader.read(&mut text[length..]) {
                length += more;
            }
            Ok(String::from_utf8_lossy(&text[..length]).into_owned())
        })
    }

    fn start<'a>(&'a self, unit: &'a str) -> Answer<'a, Job<'a>> {
        Box::pin(self.begin(unit, Verb::Start))
    }

    fn renew<'a>(&'a self, unit: &'a str) -> Answer<'a, Job<'a>> {
        Box::pin(self.begin(unit, Verb::Renew))
    }

    fn forget<'a>(&'a self, unit: &'a str) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            if let Ok(manager) = self.manager().await {
                // It is no error that it has not failed.
                let _ = manager.reset_failed_unit(unit.to_owned()).await;
            }
        })
    }

    fn stop<'a>(&'a self, unit: &'a str) -> Answer<'a, Job<'a>> {
        Box::pin(self.begin(unit, Verb::Stop))
    }

    fn restart<'a>(&'a self, unit: &'a str) -> Answer<'a, Job<'a>> {
        Box::pin(self.begin(unit, Verb::Restart))
    }

    fn touched<'a>(&'a self, units: &'a BTreeMap<String, bool>) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            let mut signals = self.signals.lock().await;
            if units.is_empty() {
                *signals = None;
                return std::future::pending().await;
            }
            let address = format!("unix:path={}", self.address);
            let mut pause = FIRST_SEARCH;
            loop {
                match signals.as_mut().filter(|signals| signals.is_of(units)) {
                    Some(open) => {
                        if open.wrong().await {
                            return;
                        }
                        *signals = None;
                    }
                    None => match Signals::open(&address, units).await {
                        Ok((open, is_wrong)) => {
                            *signals = Some(open);
                            if is_wrong {
                                return;
                            }
                        }
                        // Until it is back the interval does the work.
                        Err(_) => {
                            tokio::time::sleep(pause).await;
                            pause = (2 * pause).min(LAST_SEARCH);
                        }
                    },
                }
            }
        })
    }
}

fn refused<'a>(unit: &'a str, action: &'a str) -> impl FnOnce(zbus::Error) -> HostError + 'a {
    move |error| HostError::Systemd(format!("{unit}: systemd does not {action}: {}", words(&error)))
}

/// The message that systemd sent, without the name of the D-Bus error.
fn words(error: &zbus::Error) -> String {
    match error {
        zbus::Error::MethodError(_, Some(message), _) => message.clone(),
        other => other.to_string(),
    }
}

/// An exit status with its name, for those that systemd itself gives (systemd.exec(5)).
fn status_words(status: i32) -> String {
    let name = match status {
        200 => "CHDIR",
        203 => "EXEC",
        204 => "MEMORY",
        205 => "LIMITS",
        208 => "STDIN",
        209 => "STDOUT",
        216 => "GROUP",
        217 => "USER",
        218 => "CAPABILITIES",
        219 => "CGROUP",
        226 => "NAMESPACE",
        233 => "RUNTIME_DIRECTORY",
        238 => "STATE_DIRECTORY",
        _ => return status.to_string(),
    };
    format!("{status}/{name}")
}

#[cfg(test)]
mod tests {
    use super::object_of;

    #[test]
    fn a_unit_s_object_is_named_as_systemd_names_it() {
        // As `busctl tree org.freedesktop.systemd1` has them.
        for (unit, object) in [
            ("kubelet.service", "kubelet_2eservice"),
            ("systemd-fsck@dev-sda1.service", "systemd_2dfsck_40dev_2dsda1_2eservice"),
            ("dev-disk-by\\x2dlabel-a.swap", "dev_2ddisk_2dby_5cx2dlabel_2da_2eswap"),
            ("9p.mount", "_39p_2emount"),
            ("-.mount", "_2d_2emount"),
        ] {
            let path = format!("/org/freedesktop/systemd1/unit/{object}");
            assert_eq!(object_of(unit).unwrap().as_str(), path);
        }
    }
}
