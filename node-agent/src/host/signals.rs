//! Tells when a unit that shall run has ended, or one that shall not run has begun to, without being asked.
//!
//! In: units, and whether each shall run. Out: a signal when one does not do as it shall. The bus itself passes on only
//! what is about these units, so that no other one wakes the agent. A connection of its own: what is asked of systemd is
//! not held up by signals that nobody has read yet.

use std::collections::BTreeMap;

use futures::StreamExt;
use zbus_systemd::systemd1::ManagerProxy;
use zbus_systemd::zbus::fdo::{DBusProxy, PropertiesChanged};
use zbus_systemd::zbus::message::Type;
use zbus_systemd::zbus::{self, Connection, MatchRule, MessageStream};

use super::systemd::{ANSWER, UnitState};

/// More units than this are left to the interval: a bus takes 512 rules of one client.
const MAX_UNITS: usize = 256;
/// The interface whose change tells of a unit's state.
const UNIT: &str = "org.freedesktop.systemd1.Unit";

/// Listens to some units of a running systemd.
#[derive(Debug)]
pub(super) struct Signals {
    stream: MessageStream,
    /// What it was asked for.
    units: BTreeMap<String, bool>,
    /// By the unit's object: whether it shall run, and its state as it was last told.
    objects: BTreeMap<String, (bool, String)>,
}

impl Signals {
    /// Begins to listen; and whether one of the units does not do as it shall already.
    pub(super) async fn open(address: &str, units: &BTreeMap<String, bool>) -> zbus::Result<(Self, bool)> {
        let connection: Connection =
            zbus::connection::Builder::address(address).method_timeout(ANSWER).build().await?;
        let manager = ManagerProxy::new(&connection).await?;
        // Else systemd tells nobody anything.
        manager.subscribe().await?;
        let names: Vec<String> = units.keys().take(MAX_UNITS).cloned().collect();
        let bus = DBusProxy::new(&connection).await?;
        for (_, _, _, _, _, _, path, _, _, _) in manager.list_units_by_names(names.clone()).await? {
            let rule = MatchRule::builder()
                .msg_type(Type::Signal)
                .path(path)
                .interface("org.freedesktop.DBus.Properties")
                .member("PropertiesChanged")
                .arg(0, UNIT)
                .build()?;
            bus.add_match_rule(rule).await?;
        }
        let stream = MessageStream::from(&connection);
        // Once more, now that nothing can be missed.
        let mut differs = false;
        let mut objects = BTreeMap::new();
        let listed = manager.list_units_by_names(names).await?;
        for (shall_run, (_, _, _, active, _, _, path, _, _, _)) in units.values().zip(listed) {
            differs |= is_wrong(*shall_run, &active);
            objects.insert(path.to_string(), (*shall_run, active));
        }
        Ok((Self { stream, units: units.clone(), objects }, differs))
    }

    /// Whether these are the units that it listens to.
    pub(super) fn is_of(&self, units: &BTreeMap<String, bool>) -> bool {
        self.units == *units
    }

    /// Waits until one of the units does not do as it shall; `false`: the bus is gone.
    pub(super) async fn wrong(&mut self) -> bool {
        while let Some(message) = self.stream.next().await {
            let Ok(message) = message else { return false };
            let Some((path, active)) = state_in(message) else { continue };
            if let Some((shall_run, last)) = self.objects.get_mut(&path)
                && *last != active
            {
                let is_wrong = is_wrong(*shall_run, &active);
                *last = active;
                if is_wrong {
                    return true;
                }
            }
        }
        false
    }
}

/// The unit that a signal is about, and the state that it tells.
fn state_in(message: zbus::Message) -> Option<(String, String)> {
    let path = message.header().path()?.to_string();
    let changed = PropertiesChanged::from_message(message)?;
    let args = changed.args().ok()?;
    let active: &str = args.changed_properties().get("ActiveState")?.try_into().ok()?;
    Some((path, active.to_owned()))
}

/// Whether a unit in this state does not do as it shall. One that is about to start, also by itself after it ended, is
/// let be until it has or has failed.
fn is_wrong(shall_run: bool, active: &str) -> bool {
    let state = UnitState { active: active.to_owned(), ..UnitState::default() };
    if shall_run { state.has_stopped() } else { state.is_running() }
}

#[cfg(test)]
mod tests {
    use super::is_wrong;

    #[test]
    fn what_starts_or_stops_is_waited_for() {
        for (active, running_is_wrong, stopped_is_wrong) in [
            ("active", true, false),
            ("reloading", true, false),
            ("activating", true, false),
            ("deactivating", false, false),
            ("inactive", false, true),
            ("failed", false, true),
        ] {
            assert_eq!(
                (is_wrong(false, active), is_wrong(true, active)),
                (running_is_wrong, stopped_is_wrong),
                "{active}"
            );
        }
    }
}
