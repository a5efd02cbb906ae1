//! systemd, over its own D-Bus interface; no program is run.
//!
//! In: names of units and what shall become of them. Out: their states, or why one did not start, in words.
//! [`Systemd`] is the interface; [`Bus`] is the running systemd, [`super::offline::Offline`] the files of a system that
//! does not run.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use futures::future::LocalBoxFuture;
use tokio::sync::Mutex;
use zbus_systemd::systemd1::{ManagerProxy, ServiceProxy, UnitProxy};
use zbus_systemd::zbus::{self, Connection};

use super::{HostError, Root};

/// Where the system bus listens.
const SOCKET: &str = "/run/dbus/system_bus_socket";
/// How long systemd may take to answer one question; work (jobs) is waited for without this limit.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a service that says it has started is watched for ending at once: a program that cannot be executed ends
/// within milliseconds.
const SETTLE: Duration = Duration::from_millis(300);
const SETTLE_STEP: Duration = Duration::from_millis(50);

/// What systemd answers, some time.
pub type Answer<'a, T> = LocalBoxFuture<'a, Result<T, HostError>>;

/// The state of one unit, in systemd's own words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitState {
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

    /// Whether it runs and has finished starting.
    pub fn is_active(&self) -> bool {
        matches!(self.active.as_str(), "active" | "reloading" | "refreshing")
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
    /// The states of units; one that is not known has an entry that says so. No templates.
    fn observe<'a>(&'a self, units: &'a [String]) -> Answer<'a, BTreeMap<String, UnitState>>;
    /// Reads all unit files again.
    fn reload(&self) -> Answer<'_, ()>;
    /// Links a unit into the boot; `again` removes the links that it has first.
    fn enable<'a>(&'a self, unit: &'a str, again: bool) -> Answer<'a, ()>;
    /// Removes a unit's links.
    fn disable<'a>(&'a self, unit: &'a str) -> Answer<'a, ()>;
    /// Starts a unit and waits until it has.
    fn start<'a>(&'a self, unit: &'a str) -> Answer<'a, ()>;
    /// Stops a unit and waits until it has.
    fn stop<'a>(&'a self, unit: &'a str) -> Answer<'a, ()>;
    /// Restarts a unit if it runs, and waits until it has.
    fn restart<'a>(&'a self, unit: &'a str) -> Answer<'a, ()>;
}

/// The running systemd of a host.
#[derive(Debug)]
pub struct Bus {
    address: String,
    // Kept between passes; nothing is subscribed on it at rest, so it wakes nobody.
    connection: Mutex<Option<Connection>>,
}

/// A job that systemd does.
#[derive(Clone, Copy)]
enum Job {
    Start,
    Stop,
    Restart,
}

impl Bus {
    /// The systemd whose bus lies below this root. Nothing is connected yet.
    pub fn of(root: &Root) -> Self {
        Self { address: root.outside(SOCKET), connection: Mutex::new(None) }
    }

    async fn manager(&self) -> Result<ManagerProxy<'static>, HostError> {
        let mut connection = self.connection.lock().await;
        if let Some(open) = &*connection {
            let manager = ManagerProxy::new(open).await.map_err(|error| self.unreachable(&error))?;
            // The bus may have been restarted since.
            if manager.version().await.is_ok() {
                return Ok(manager);
            }
        }
        let address = format!("unix:path={}", self.address);
        let open = zbus::connection::Builder::address(address.as_str())
            .method_timeout(ANSWER)
            .build()
            .await
            .map_err(|error| self.unreachable(&error))?;
        let manager = ManagerProxy::new(&open).await.map_err(|error| self.unreachable(&error))?;
        *connection = Some(open);
        Ok(manager)
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

    async fn run(&self, unit: &str, job: Job) -> Result<(), HostError> {
        let manager = self.manager().await?;
        // Before the job is made, so that its end cannot be missed. Already subscribed is as good.
        let _ = manager.subscribe().await;
        let mut ended = manager.receive_job_removed().await.map_err(refused(unit, "watch"))?;
        let proxy = self.unit(&manager, unit).await?;
        let (active, sub) = state_of(unit, &proxy).await?;
        let (name, mode) = (unit.to_owned(), "replace".to_owned());
        let made = match job {
            Job::Start if active == "failed" => {
                // Else systemd refuses a unit that failed too often lately.
                let _ = manager.reset_failed_unit(unit.to_owned()).await;
                manager.start_unit(name, mode).await
            }
            // systemd refuses to start what waits for its own restart.
            Job::Start if sub.starts_with("auto-restart") => manager.restart_unit(name, mode).await,
            Job::Start => manager.start_unit(name, mode).await,
            Job::Stop => manager.stop_unit(name, mode).await,
            Job::Restart => manager.try_restart_unit(name, mode).await,
        };
        let action = match job {
            Job::Start => "start",
            Job::Stop => "stop",
            Job::Restart => "restart",
        };
        let path = made.map_err(refused(unit, action))?;
        let outcome = loop {
            let Some(signal) = ended.next().await else {
                return Err(HostError::Systemd(format!(
                    "{unit}: systemd went away while it was to {action} it"
                )));
            };
            let args = signal.args().map_err(refused(unit, "watch"))?;
            if args.job == path {
                break args.result.clone();
            }
        };
        match (job, outcome.as_str()) {
            (Job::Stop, "done") => Ok(()),
            (Job::Start | Job::Restart, "done" | "skipped") => self.settled(unit, &proxy, job).await,
            (_, outcome) => Err(self.failure(unit, &proxy, action, outcome).await),
        }
    }

    /// Waits until a unit that has started can be taken as running.
    async fn settled(&self, unit: &str, proxy: &UnitProxy<'static>, job: Job) -> Result<(), HostError> {
        let mut waited = Duration::ZERO;
        loop {
            let (active, sub) = state_of(unit, proxy).await?;
            match active.as_str() {
                "active" | "reloading" | "refreshing" => {}
                "activating" if !sub.starts_with("auto-restart") => {}
                // A oneshot that did its work, restarted: all that there is to it.
                "inactive" if matches!(job, Job::Restart) => return Ok(()),
                "inactive" => {
                    return Err(HostError::Systemd(format!(
                        "{unit} started and ended by itself: for a oneshot that shall count as active write RemainAfterExit=yes; else see journalctl -u {unit}"
                    )));
                }
                _ => return Err(self.failure(unit, proxy, "start", "").await),
            }
            // Only services end by themselves.
            if waited >= SETTLE || !unit.ends_with(".service") {
                return Ok(());
            }
            tokio::time::sleep(SETTLE_STEP).await;
            waited += SETTLE_STEP;
        }
    }

    async fn failure(
        &self,
        unit: &str,
        proxy: &UnitProxy<'static>,
        action: &str,
        outcome: &str,
    ) -> HostError {
        let mut causes = Vec::new();
        if !matches!(outcome, "" | "failed") {
            causes.push(format!("job {outcome}"));
        }
        let service = ServiceProxy::builder(proxy.inner().connection())
            .cache_properties(zbus::proxy::CacheProperties::No)
            .path(proxy.inner().path().to_owned());
        if unit.ends_with(".service")
            && let Ok(service) = service.build().await
        {
            if let Ok(result) = service.result().await {
                causes.push(format!("Result={result}"));
            }
            if let Ok(status @ 1..) = service.exec_main_status().await {
                causes.push(format!("status {}", status_words(status)));
            }
        }
        if let Ok((active, sub)) = state_of(unit, proxy).await
            && active != "failed"
        {
            causes.push(format!("now {active} ({sub})"));
        }
        HostError::Systemd(format!(
            "{unit} failed to {action}: {}: see journalctl -u {unit}",
            causes.join(", ")
        ))
    }
}

async fn state_of(unit: &str, proxy: &UnitProxy<'static>) -> Result<(String, String), HostError> {
    let active = proxy.active_state().await.map_err(refused(unit, "look"))?;
    let sub = proxy.sub_state().await.map_err(refused(unit, "look"))?;
    Ok((active, sub))
}

impl Systemd for Bus {
    fn is_running(&self) -> bool {
        true
    }

    fn observe<'a>(&'a self, units: &'a [String]) -> Answer<'a, BTreeMap<String, UnitState>> {
        Box::pin(async move {
            let mut states = BTreeMap::new();
            if units.is_empty() {
                return Ok(states);
            }
            let manager = self.manager().await?;
            let listed =
                manager.list_units_by_names(units.to_vec()).await.map_err(refused("units", "list"))?;
            for (unit, (_, _, load, active, sub, _, path, _, _, _)) in units.iter().zip(listed) {
                let mut state = UnitState { load, active, sub, ..UnitState::default() };
                state.file = manager.get_unit_file_state(unit.clone()).await.unwrap_or_default();
                if state.is_known() {
                    let proxy = UnitProxy::builder(manager.inner().connection())
                        .cache_properties(zbus::proxy::CacheProperties::No)
                        .path(path)
                        .build()
                        .await
                        .map_err(refused(unit, "look"))?;
                    state.need_reload = proxy.need_daemon_reload().await.map_err(refused(unit, "look"))?;
                }
                states.insert(unit.clone(), state);
            }
            Ok(states)
        })
    }

    fn reload(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            self.manager().await?.reload().await.map_err(refused("systemd", "read all unit files again"))
        })
    }

    fn enable<'a>(&'a self, unit: &'a str, again: bool) -> Answer<'a, ()> {
        Box::pin(async move {
            let manager = self.manager().await?;
            let files = vec![unit.to_owned()];
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
            manager
                .disable_unit_files(vec![unit.to_owned()], false)
                .await
                .map_err(refused(unit, "disable"))?;
            self.reload().await
        })
    }

    fn start<'a>(&'a self, unit: &'a str) -> Answer<'a, ()> {
        Box::pin(self.run(unit, Job::Start))
    }

    fn stop<'a>(&'a self, unit: &'a str) -> Answer<'a, ()> {
        Box::pin(self.run(unit, Job::Stop))
    }

    fn restart<'a>(&'a self, unit: &'a str) -> Answer<'a, ()> {
        Box::pin(self.run(unit, Job::Restart))
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
