//! The switch: changing what this node's pods, and so the agent itself, run under, without ever losing the node.
//!
//! ```text
//! pod or command line      host process (nodebootstrap-switch-NB.service)         host, whatever happens
//! plan touches kubelet ─► ask: switch.json ─► arm the dead-man ─► apply, held ─► healthy for stableFor? ─► confirmed
//! or runtime               waits, and reads what came of it        └ no, or not in time, or dead ─► roll back ─► RolledBack
//!                                                                  └ reboot ─► guard, before the kubelet ─► roll back
//! ```
//!
//! The work is done by a process of the host's systemd, outside of the pod's cgroup, by a copy of this program on the host's
//! disk. The dead-man is a systemd timer, and after a reboot an enabled unit that comes before the kubelet. Neither needs
//! the API or a pod. Who judges is the host, with the kubelet's own credential.
//!
//! In: what was asked for, how the node was before and is now. Out here, pure: whether it is as good as before.

pub mod process;
pub mod staged;
mod units;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use crds::report::Disruption;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::engine::{Failure, Plan};
use crate::host::kubelet::{Health, Kubelet, has_joined};
use crate::host::state::Begun;
use crate::host::systemd::UnitState;
use crate::host::{Host, HostError};
use crate::preset::owner::KUBELET_UNIT;
use crate::resource::{Change, Step};

/// The units that a node's pods, and so the agent, run under.
pub const NODE_UNITS: &[&str] = &[
    "kubelet",
    "containerd",
    "crio",
    "cri-o",
    "docker",
    "cri-docker",
    "k3s",
    "k3s-agent",
    "rke2-server",
    "rke2-agent",
];

/// How it is told in a cause that the node is not as before with what was there before.
const NOT_AS_BEFORE: &str = "; with what was there before, ";
/// How it is told there that something was not put back.
const LEFT: &str = "; not put back: ";
/// The cause of one that a boot has interrupted.
const INTERRUPTED: &str = "Interrupted";
/// A boot or an outage in the middle says nothing of a revision; after so many of them it is not tried again.
const MAX_INTERRUPTIONS: u32 = 2;

/// One attempt to change what the node runs under: `<nb>/switch.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Switch {
    /// The revision that is tried.
    pub revision: Begun,
    /// The one that was there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Begun>,
    /// The Node's name.
    pub node: String,
    /// The highest disruption that is permitted.
    pub permit: Disruption,
    /// Whether a pod asks: what that runs under is never stopped to take something back.
    #[serde(default)]
    pub from_pod: bool,
    /// Resources whose differences are left as they are.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub leave: BTreeSet<String>,
    /// In seconds: how long it may take to be as good as before.
    pub timeout: u64,
    /// In seconds: how long it must stay so.
    pub stable_for: u64,
    /// What asked for a new attempt, as the Report had it then: another word is another attempt.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub retry: String,
    /// How far it is.
    pub stage: Stage,
    /// When it was begun, in seconds since the machine was started: nobody sets that clock.
    #[serde(default)]
    pub begun: u64,
    /// Whether it starts a kubelet, which then must answer, though none did before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub starts_kubelet: bool,
    /// Units that run with what was made.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub restarts: BTreeSet<String>,
    /// How the kubelet ran before: its credential is used also while none runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubelet: Option<Kubelet>,
    /// How the node was before.
    #[serde(default)]
    pub before: Health,
    /// How often this revision could not be judged, for a boot or an outage in the middle.
    #[serde(default)]
    pub interruptions: u32,
    /// Why it is, or is to be, rolled back, or was not begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// The changes that were made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
}

/// How far an attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Asked for; nothing was changed.
    Asked,
    /// The dead-man is armed: whatever happens now is confirmed, or rolled back.
    Armed,
    /// It was as good as before for long enough: it stays.
    Confirmed,
    /// What was there before is there again.
    RolledBack,
    /// What was there before is there again, but nothing was proven: the API server is away with that too, or the machine
    /// was restarted in the middle. It may be tried again.
    Unproven,
    /// It was not begun.
    Refused,
}

impl Stage {
    /// Whether it is not over yet.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Asked | Self::Armed)
    }
}

/// Why an attempt did not succeed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// In one word.
    pub reason: String,
    /// In words.
    pub message: String,
}

impl Switch {
    /// Whether a revision was tried here, did not succeed, and nobody has asked for another attempt since.
    pub fn forbids(&self, revision: &str, retry: &str) -> bool {
        let asks = !retry.is_empty() && self.retry != retry;
        self.stage == Stage::RolledBack && self.revision.name == revision && !asks
    }

    /// Whether it puts right what has drifted from a revision that was there already.
    pub fn is_repair(&self) -> bool {
        self.previous.as_ref() == Some(&self.revision)
    }

    /// How often this revision could not be judged, for the next attempt.
    pub fn interruptions_of(&self, revision: &str) -> u32 {
        if self.revision.name == revision { self.interruptions } else { 0 }
    }

    /// What a boot in the middle makes of it, once what was there before is there again.
    pub fn interrupted(&mut self) {
        // What failed before the boot has failed.
        match self.cause_of_boot().reason == INTERRUPTED {
            true => self.not_judged(),
            false => self.stage = Stage::RolledBack,
        }
    }

    /// Why it is put back at a boot: for the boot itself, if nothing else was wrong before.
    pub fn cause_of_boot(&mut self) -> &mut Cause {
        self.cause.get_or_insert_with(|| Cause {
            reason: INTERRUPTED.to_owned(),
            message: "the machine was restarted in the middle".to_owned(),
        })
    }

    /// What becomes of it when what was there before is there again, and nothing is proven.
    pub fn not_judged(&mut self) {
        self.interruptions += 1;
        let again = self.interruptions <= MAX_INTERRUPTIONS;
        self.stage = if again { Stage::Unproven } else { Stage::RolledBack };
    }

    /// Says in its cause what was not put back, each with the reason.
    pub fn was_left(&mut self, left: &[String]) {
        if let (false, Some(cause)) = (left.is_empty(), &mut self.cause) {
            cause.message = format!("{}{LEFT}{}", cause.message, left.join("; "));
        }
    }

    /// How the node was before, as it is to be with what was made.
    pub fn expected(&self) -> Health {
        let mut expected = self.before.clone();
        if self.starts_kubelet {
            expected.kubelet = None;
        }
        expected
    }

    /// Why it did not succeed; `None`: it did.
    pub fn failure(&self) -> Option<Failure> {
        let Cause { reason, message } = self.cause.clone().unwrap_or_default();
        let failure = |reason: String, message| Some(Failure { reason, message, made: Vec::new() });
        match self.stage {
            Stage::Confirmed => None,
            Stage::Asked | Stage::Armed => failure("NotOver".to_owned(), "it is under way still".to_owned()),
            Stage::Refused => failure(reason, message),
            Stage::RolledBack => failure(
                "RolledBack".to_owned(),
                match message.contains(NOT_AS_BEFORE) || message.contains(LEFT) {
                    true => format!("rolled back: {message}"),
                    false => format!("rolled back, and what was there before runs again: {message}"),
                },
            ),
            Stage::Unproven => failure(
                "Unproven".to_owned(),
                format!(
                    "put back, since nothing could be proven: {message}; the API server is away, or the machine was restarted"
                ),
            ),
        }
    }

    /// How long it may take.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// Whether a unit is one that the node's pods run under.
pub fn is_node_unit(unit: &str) -> bool {
    unit.strip_suffix(".service").is_some_and(|name| NODE_UNITS.contains(&name))
}

/// Whether a plan restarts, stops or starts what the node's pods run under.
pub fn touches(host: &Host, plan: &Plan) -> bool {
    host.systemd.is_running() && plan.steps.iter().filter_map(Step::unit).any(is_node_unit)
}

/// The kubelet whose node such a plan could lose; `None`: it is none, or there is nothing to lose yet. One that is down for a
/// moment, or not found among the processes, has a node to lose, too, where it has joined.
///
/// # Errors
/// If systemd cannot be asked.
pub async fn at_stake(host: &Host, plan: &Plan) -> Result<Option<Kubelet>, HostError> {
    if !touches(host, plan) {
        return Ok(None);
    }
    if let Some(kubelet) = Kubelet::find(&host.root) {
        return Ok(Some(kubelet));
    }
    let states = host.systemd.observe(&[KUBELET_UNIT.to_owned()]).await?;
    let is_node = states.get(KUBELET_UNIT).is_some_and(UnitState::is_running) && has_joined(&host.root);
    Ok(is_node.then(Kubelet::default))
}

/// Why a node is not as good as it was before; empty: it is. `since`: from when the changes were begun until now. A time
/// after that is one of a clock that was set back since.
pub fn worse(before: &Health, now: &Health, since: &RangeInclusive<Timestamp>) -> Vec<String> {
    let mut worse = Vec::new();
    if let (None, Some(cause)) = (&before.kubelet, &now.kubelet) {
        worse.push(format!("the kubelet does not answer its health check: {cause}"));
    }
    if let (None, Some(cause)) = (&before.runtime, &now.runtime) {
        worse.push(format!("the container runtime cannot run pods: {cause}"));
    }
    if let (None, Some(cause)) = (&before.api, &now.api) {
        worse.push(format!("the API server cannot be asked with the kubelet's credential: {cause}"));
        // The rest would be told by it.
        return worse;
    }
    if let (Some(None), Some(Some(cause))) = (&before.not_ready, &now.not_ready) {
        worse.push(format!("the Node is not Ready: {cause}"));
    }
    if before.lease.is_some() && now.lease.is_none_or(|renewed| !since.contains(&renewed)) {
        worse.push("the kubelet has not renewed its Lease since".to_owned());
    }
    // What the change asks for, or else what there was.
    let (wanted, asked) = if now.node_ips == before.node_ips {
        (&before.addresses, "")
    } else {
        (&now.node_ips, ", which --node-ip asks for: is it one of this host's?")
    };
    for address in wanted.difference(&now.addresses) {
        worse.push(format!("the Node does not have the address {address}{asked}"));
    }
    worse
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn good(lease: i64) -> Health {
        Health { not_ready: Some(None), lease: Some(at(lease)), ..Health::default() }
    }

    fn switch(stage: Stage) -> Switch {
        let json = serde_json::json!({
            "revision": {"name": "r1", "revision": {"format": 1, "presetVersion": 1, "nodeBootstrap": "n",
                "uid": "", "cluster": "", "resources": []}},
            "node": "n1", "permit": "Restart", "timeout": 10, "stableFor": 1, "stage": "Armed", "retry": "a"});
        Switch { stage, ..serde_json::from_value(json).expect("a switch") }
    }

    #[test]
    fn what_was_rolled_back_is_tried_again_only_when_somebody_asks() {
        let rolled_back = switch(Stage::RolledBack);
        assert!(rolled_back.forbids("r1", "a"));
        assert!(!rolled_back.forbids("r2", "a"), "another revision");
        assert!(!rolled_back.forbids("r1", "b"), "another word");
        assert!(rolled_back.forbids("r1", ""), "who takes the word away asks for nothing");
        assert!(!switch(Stage::Unproven).forbids("r1", "a"), "that was no failure");
    }

    #[test]
    fn a_boot_in_the_middle_is_no_failure_unless_it_always_is() {
        let mut next = switch(Stage::Armed);
        for expected in [Stage::Unproven, Stage::Unproven, Stage::RolledBack] {
            let interruptions = next.interruptions_of("r1");
            next = Switch { interruptions, ..switch(Stage::Armed) };
            next.interrupted();
            assert_eq!(next.stage, expected);
        }
        assert_eq!(next.interruptions_of("r2"), 0);
        let mut failed = Switch { cause: Some(Cause::default()), ..switch(Stage::Armed) };
        failed.interrupted();
        assert_eq!(failed.stage, Stage::RolledBack, "it had failed before");
    }

    #[test]
    fn a_node_must_be_as_good_as_before_and_not_better() {
        let worse = |before: &Health, now: &Health| worse(before, now, &(at(10)..=at(20)));
        assert!(worse(&good(1), &good(11)).is_empty());
        for other in [good(9), good(21)] {
            assert_eq!(worse(&good(1), &other), ["the kubelet has not renewed its Lease since"]);
        }
        let silent = Health { kubelet: Some("refused".to_owned()), ..good(11) };
        assert_eq!(worse(&good(1), &silent).len(), 1);
        assert!(worse(&silent, &silent).is_empty(), "it was so before");
        let starts = Switch { before: silent.clone(), starts_kubelet: true, ..switch(Stage::Armed) };
        assert_eq!(worse(&starts.expected(), &silent).len(), 1, "it is to run now");
        let not_ready = Health { not_ready: Some(Some("no network".to_owned())), ..good(11) };
        assert_eq!(worse(&good(1), &not_ready), ["the Node is not Ready: no network"]);
        assert!(worse(&not_ready, &good(11)).is_empty());
        let away =
            Health { api: Some("timeout".to_owned()), not_ready: None, lease: None, ..Health::default() };
        assert_eq!(worse(&good(1), &away).len(), 1, "one reason, not what follows from it");
        assert!(worse(&away, &away).is_empty());
        let podless = Health { runtime: Some("it is not RuntimeReady".to_owned()), ..good(11) };
        assert_eq!(worse(&good(1), &podless).len(), 1, "the Node is Ready for a while yet");
        assert!(worse(&podless, &podless).is_empty());
        let none = Health { kubelet: Some("there is no kubelet".to_owned()), ..away };
        assert!(worse(&none, &none).is_empty());
    }

    #[test]
    fn a_node_keeps_its_address_or_has_the_one_that_was_asked_for() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<BTreeSet<_>>();
        let node = |addresses: &[&str], node_ips: &[&str]| Health {
            addresses: words(addresses),
            node_ips: words(node_ips),
            ..good(11)
        };
        let is_good = |before: &Health, now: &Health| worse(before, now, &(at(10)..=at(20))).is_empty();
        let chosen = node(&["10.0.0.1"], &[]);
        assert!(is_good(&chosen, &chosen));
        assert!(!is_good(&chosen, &node(&["10.0.0.2"], &[])), "nobody asked for another");
        assert!(is_good(&chosen, &node(&["10.0.0.2"], &["10.0.0.2"])));
        // The kubelet only complains of an address that the host does not have.
        assert!(!is_good(&chosen, &node(&["10.0.0.1"], &["10.0.0.2"])));
        assert!(is_good(&node(&["10.0.0.1"], &["10.0.0.1"]), &node(&["10.0.0.2"], &[])), "it may choose now");
        assert!(
            is_good(&node(&["10.0.0.1"], &["10.0.0.3"]), &node(&["10.0.0.1"], &["10.0.0.3"])),
            "as before"
        );
    }
}
