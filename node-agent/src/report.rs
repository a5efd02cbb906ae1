//! The agent's word about its node: pure.
//!
//! In: what was said before, and what came of a pass. Out: what is to be said now. The same outcome gives the same word,
//! so that nothing is written when nothing happened; every part is bounded, and no content is ever in it.

use crds::names::AGENT;
use crds::report::{
    ChangeSummary, Conflict, Disruption, MAX_CHANGES, MAX_DRIFTED, MAX_PROBLEMS, MAX_WARNINGS,
    NodeBootstrapReportSpec, NodeBootstrapReportStatus, ReportPhase,
};
use crds::text::clip;

use crate::engine::{Change, Failure, Problem};
use crate::host::facts::Facts;

/// The longest message.
pub const MAX_MESSAGE: usize = 512;
/// The longest text of one change or warning.
const MAX_TEXT: usize = 256;
/// The longest id.
const MAX_ID: usize = 64;
/// All changes together: a Report stays below 16 KiB.
const MAX_CHANGES_BYTES: usize = 8 << 10;
/// Said at the end of a plan: what happens next.
const PLAN: &str = "; the mode is Plan, so nothing is changed";
/// Said at the end of what was rolled back: what happens next.
const ASK: &str = " (tried again only when the spec or the Node's annotation nodebootstrap.io/retry changes)";
/// The same of a node that leaves.
const ASK_LEAVING: &str = " (tried again only when the Node's annotation nodebootstrap.io/retry changes, or by nodebootstrap-agent revert on the host)";
/// Said at the end of a failure: what happens next.
const RETRY: &str = " (tried again by itself)";

/// What came of a pass.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// The changes are being made.
    Applying {
        /// All of them.
        changes: &'a [Change],
        /// What is being done at this moment.
        now: Option<&'a Change>,
        /// How far its downloads are, if they take long.
        fetched: Option<Fetched>,
    },
    /// The changes wait for downloads that begin within so many seconds.
    Spread(&'a [Change], u32),
    /// Another run works on the host.
    Locked,
    /// The changes need more than the permit allows.
    Waiting(&'a [Change]),
    /// The changes that would be made, in mode Plan.
    Planned(&'a [Change]),
    /// Why no plan can be made: every reason.
    Impossible(&'a [Problem]),
    /// The host itself makes the changes, and confirms them within so many seconds or rolls them back; why it does.
    Switching(&'a [Change], u64, Option<&'a str>),
    /// It does so for another NodeBootstrap, which is waited for.
    OtherSwitches(&'a str),
    /// It has rolled them back; why, and what of what was there before was repaired since.
    RolledBack(&'a Failure),
    /// Every change is stopped; by what, and what ends it.
    Paused(&'a str),
    /// The host has the revision.
    Ready {
        /// What this pass changed.
        made: &'a [Change],
        /// Whether that put right what had drifted, also where it had to wait for a permit in between.
        is_repair: bool,
        /// What was changed for this revision before, if this process does not know of it.
        before: &'a [ChangeSummary],
        /// What is no longer as it was made, and is left and told.
        drifted: &'a [Change],
    },
    /// Something does not stay as it was made.
    Contested {
        /// In words.
        message: &'a str,
        /// What is no longer as it was made, and is left and told.
        drifted: &'a [Change],
    },
    /// The host cannot have it.
    Failed(&'a Failure),
    /// An older NodeBootstrap has claims here.
    Conflict(&'a [Conflict]),
    /// The agent is done here; what was put back, if that was asked for.
    Left(Option<&'a [Change]>),
}

/// How far downloads are, all together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes that are there.
    pub bytes: u64,
    /// Bytes in all, if every server has said so.
    pub total: Option<u64>,
    /// Bytes a second.
    pub rate: u64,
}

impl std::fmt::Display for Fetched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", megabytes(self.bytes))?;
        if let Some(total) = self.total {
            write!(f, " of {}", megabytes(total))?;
        }
        write!(f, " MB downloaded, {} MB/s", megabytes(self.rate))
    }
}

/// With what a person can see change: two decimals for little, none for much.
fn megabytes(bytes: u64) -> String {
    let hundredths = bytes / 10_000;
    let (whole, part) = (hundredths / 100, hundredths % 100);
    match whole {
        0..10 => format!("{whole}.{part:02}"),
        10..100 => format!("{whole}.{}", part / 10),
        _ => whole.to_string(),
    }
}

/// The word about a pass.
///
/// `before` is what was said last, `revision` the revision that the pass was about, `permit` the id of the permit that
/// was in force, `now` the time in RFC 3339.
pub fn status(
    before: &NodeBootstrapReportStatus,
    spec: &NodeBootstrapReportSpec,
    revision: &str,
    facts: &Facts,
    outcome: &Outcome<'_>,
    warnings: &[String],
    now: &str,
) -> NodeBootstrapReportStatus {
    let same_revision = before.revision == revision;
    let was = |phase: ReportPhase| same_revision && before.phase == phase;
    let mut word = NodeBootstrapReportStatus {
        revision: revision.to_owned(),
        permit_id: spec.permit.id,
        warnings: warnings.iter().take(MAX_WARNINGS).map(|warning| clip(warning, MAX_TEXT)).collect(),
        machine_id: clip(&facts.machine_id, MAX_ID),
        boot_id: clip(&facts.boot_id, MAX_ID),
        node_uid: spec.node_uid.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        ..NodeBootstrapReportStatus::default()
    };
    let keep = |word: &mut NodeBootstrapReportStatus| {
        word.disruption = before.disruption;
        word.message.clone_from(&before.message);
        word.changes.clone_from(&before.changes);
        word.changes_total = before.changes_total;
    };
    match outcome {
        Outcome::Applying { changes, now, fetched } => {
            word.phase = ReportPhase::Applying;
            // First what is short and changes: the rest may be cut.
            let fetched = fetched.map(|fetched| format!(", {fetched}"));
            let now = now.map(|change| format!(", now {}: {}", change.resource, change.change));
            let [fetched, now] = [fetched, now].map(Option::unwrap_or_default);
            word.message = clip(&format!("{} under way{fetched}{now}", count(changes.len())), MAX_MESSAGE);
            list(&mut word, changes.iter().map(ChangeSummary::from));
        }
        Outcome::Spread(changes, seconds) => {
            word.phase = ReportPhase::Applying;
            word.message = format!(
                "{} to make; downloads begin within {seconds} s: many nodes have got this revision at once, and each draws its moment",
                count(changes.len())
            );
            list(&mut word, changes.iter().map(ChangeSummary::from));
        }
        Outcome::Locked => {
            word.phase = ReportPhase::Applying;
            word.message = format!(
                "waits until another run on this host is done: somebody holds {}/.lock",
                crds::names::STATE_DIR
            );
        }
        Outcome::Waiting(changes) => {
            word.phase = ReportPhase::Waiting;
            list(&mut word, changes.iter().map(ChangeSummary::from));
            word.reason = "NeedsPermit".to_owned();
            let first = changes.iter().find(|change| change.disruption == word.disruption);
            word.message = clip(
                &format!(
                    "waits for its turn: {} to make, of which {} needs a permit for {:?}; nothing was begun",
                    count(changes.len()),
                    first.map(|change| format!("{}: {}", change.resource, change.change)).unwrap_or_default(),
                    word.disruption,
                ),
                MAX_MESSAGE,
            );
        }
        Outcome::Planned(changes) => {
            word.phase = ReportPhase::Planned;
            list(&mut word, changes.iter().map(ChangeSummary::from));
            word.reason = "Planned".to_owned();
            let most = changes.iter().find(|change| change.disruption == word.disruption);
            let what = match (most, word.disruption) {
                (None, _) => "nothing to change".to_owned(),
                (Some(_), Disruption::None) => {
                    format!("{} planned, none disturbs anything", count(changes.len()))
                }
                (Some(Change { resource, change, .. }), disruption) => {
                    format!(
                        "{} planned, disruption {disruption:?} ({resource}: {change})",
                        count(changes.len())
                    )
                }
            };
            word.message = clip(&format!("{what}{PLAN}"), MAX_MESSAGE);
        }
        Outcome::Impossible(problems) => {
            word.phase = ReportPhase::Failed;
            let all = problems.iter().map(|problem| format!("{}: {}", problem.resource, problem.message));
            word.problems = all.take(MAX_PROBLEMS).map(|problem| clip(&problem, MAX_TEXT)).collect();
            if let Some(failure) = Failure::of_problems(problems) {
                word.reason = failure.reason;
                word.message = clip(&format!("{}{RETRY}", failure.message), MAX_MESSAGE);
            }
        }
        Outcome::Switching(changes, seconds, why) => {
            word.phase = ReportPhase::Applying;
            list(&mut word, changes.iter().map(ChangeSummary::from));
            let message = match why {
                None => format!("changed, by the host itself: confirmed within {seconds} s, or rolled back"),
                Some(why) => format!("rolled back, by the host itself: {why}"),
            };
            word.message = clip(&format!("what pods run under is {message}"), MAX_MESSAGE);
        }
        Outcome::OtherSwitches(name) => {
            word.phase = ReportPhase::Applying;
            word.message = format!(
                "waits: what pods run under is being changed for the NodeBootstrap {name}, and is confirmed or rolled back soon"
            );
        }
        Outcome::Paused(message) => {
            word.phase = ReportPhase::Paused;
            word.reason = "Paused".to_owned();
            word.message = clip(message, MAX_MESSAGE);
        }
        Outcome::Contested { message, drifted } => {
            word.phase = ReportPhase::Failed;
            word.reason = "Contested".to_owned();
            word.message = clip(message, MAX_MESSAGE);
            word.drifted = drifted_of(drifted);
        }
        Outcome::Ready { made: [], drifted: drifted @ [first, ..], .. } => {
            word.phase = ReportPhase::Ready;
            keep(&mut word);
            word.drifted = drifted_of(drifted);
            let more =
                if drifted.len() > 1 { format!(", and {} more", drifted.len() - 1) } else { String::new() };
            word.message = clip(
                &format!(
                    "drifted, and left so by drift.policy Report: {} {}{more}",
                    first.resource, first.found
                ),
                MAX_MESSAGE,
            );
        }
        Outcome::Ready { made: [], .. } if was(ReportPhase::Ready) && before.drifted.is_empty() => {
            word.phase = ReportPhase::Ready;
            keep(&mut word);
        }
        Outcome::Ready { made: [], before, .. } => {
            word.phase = ReportPhase::Ready;
            list(&mut word, before.iter().cloned());
            word.message = if before.is_empty() {
                "in place".to_owned()
            } else {
                format!("{} made", count(before.len()))
            };
        }
        Outcome::Ready { made: made @ [first, ..], is_repair, drifted, .. } => {
            word.phase = ReportPhase::Ready;
            word.drifted = drifted_of(drifted);
            list(&mut word, made.iter().map(ChangeSummary::from));
            word.message = if *is_repair || was(ReportPhase::Ready) {
                let more =
                    if made.len() > 1 { format!(", and {} more", made.len() - 1) } else { String::new() };
                clip(&format!("repaired: {} {}{more}", first.resource, first.found), MAX_MESSAGE)
            } else {
                format!("{} made", count(made.len()))
            };
        }
        Outcome::Failed(failure) | Outcome::RolledBack(failure) => {
            let next = match (outcome, spec.leave) {
                (Outcome::RolledBack(_), None) => ASK,
                (Outcome::RolledBack(_), Some(_)) => ASK_LEAVING,
                _ => RETRY,
            };
            word.phase = ReportPhase::Failed;
            if failure.made.is_empty() && was(ReportPhase::Failed) {
                keep(&mut word);
            } else {
                list(&mut word, failure.made.iter().map(ChangeSummary::from));
            }
            word.reason.clone_from(&failure.reason);
            word.message = clip(&format!("{}{next}", failure.message), MAX_MESSAGE);
        }
        Outcome::Conflict(conflicts) => {
            word.phase = ReportPhase::Failed;
            word.reason = "Conflict".to_owned();
            let all: Vec<_> = conflicts
                .iter()
                .map(|Conflict { resource, with }| format!("{resource} belongs to the NodeBootstrap {with}"))
                .collect();
            word.message = clip(
                &format!("{}: take it out of one of them; nothing was changed", all.join("; ")),
                MAX_MESSAGE,
            );
        }
        Outcome::Left(None) => {
            word.phase = ReportPhase::Left;
            word.message = "what was made here stays; nothing of the agent runs any more".to_owned();
        }
        Outcome::Left(Some(made)) => {
            word.phase = ReportPhase::Left;
            list(&mut word, made.iter().map(ChangeSummary::from));
            let left: Vec<_> = made
                .iter()
                .filter(|change| change.is_left())
                .map(|change| format!("{} {}", change.resource, change.change))
                .collect();
            let until_boot: Vec<_> = made
                .iter()
                .filter(|change| change.is_until_boot())
                .map(|change| change.resource.as_str())
                .collect();
            let mut message = match left.len() {
                0 => "all is as it was before; nothing of the agent runs any more".to_owned(),
                some => format!("all but {some} is as it was before: {}", left.join("; ")),
            };
            if !until_boot.is_empty() {
                message += &format!("; until the next boot these stay: {}", until_boot.join(", "));
            }
            word.message = clip(&message, MAX_MESSAGE);
        }
    }
    word.since = if same_revision && before.phase == word.phase && !before.since.is_empty() {
        before.since.clone()
    } else {
        now.to_owned()
    };
    word
}

/// The body of a server-side apply that sets the whole status.
pub fn patch(name: &str, word: &NodeBootstrapReportStatus) -> serde_json::Value {
    serde_json::json!({
        "apiVersion": format!("{}/{}", crds::names::GROUP, crds::names::VERSION),
        "kind": "NodeBootstrapReport",
        "metadata": {"name": name},
        "status": word,
    })
}

/// Who writes it.
pub const FIELD_MANAGER: &str = AGENT;

fn count(changes: usize) -> String {
    if changes == 1 { "1 change".to_owned() } else { format!("{changes} changes") }
}

/// What has drifted, in words: the first few.
fn drifted_of(drifted: &[Change]) -> Vec<String> {
    let all = drifted.iter().map(|change| clip(&format!("{} {}", change.resource, change.found), MAX_TEXT));
    all.take(MAX_DRIFTED).collect()
}

/// Puts changes into a word: the first few, the count of all, and the highest disruption of all.
fn list(word: &mut NodeBootstrapReportStatus, changes: impl Iterator<Item = ChangeSummary>) {
    let mut bytes = 0;
    for change in changes {
        word.changes_total = word.changes_total.saturating_add(1);
        word.disruption = word.disruption.max(change.disruption);
        let change = ChangeSummary {
            resource: clip(&change.resource, MAX_TEXT + 16),
            change: clip(&change.change, MAX_TEXT),
            disruption: change.disruption,
        };
        bytes += change.resource.len() + change.change.len();
        if word.changes.len() < MAX_CHANGES && bytes <= MAX_CHANGES_BYTES {
            word.changes.push(change);
        }
    }
}

/// Whether a plan may be begun under a permit.
pub fn is_permitted(plan: Disruption, permit: Disruption) -> bool {
    plan <= permit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(resource: &str) -> Change {
        Change {
            resource: resource.to_owned(),
            change: "create".to_owned(),
            found: "was missing".to_owned(),
            disruption: Disruption::None,
        }
    }

    fn say(
        before: &NodeBootstrapReportStatus,
        revision: &str,
        outcome: &Outcome<'_>,
        now: &str,
    ) -> NodeBootstrapReportStatus {
        let spec = NodeBootstrapReportSpec { node_uid: "u".to_owned(), ..NodeBootstrapReportSpec::default() };
        status(before, &spec, revision, &Facts::default(), outcome, &[], now)
    }

    #[test]
    fn a_pass_with_nothing_to_do_says_nothing_new() {
        let made = [change("file /a"), change("file /b")];
        let first = say(
            &Default::default(),
            "r1",
            &Outcome::Ready { made: &made, is_repair: false, before: &[], drifted: &[] },
            "t1",
        );
        assert_eq!(
            (first.message.as_str(), first.changes_total, first.since.as_str()),
            ("2 changes made", 2, "t1")
        );
        let idle = Outcome::Ready { made: &[], is_repair: false, before: &[], drifted: &[] };
        assert_eq!(say(&first, "r1", &idle, "t2"), first);
        // A new process, which knows of the changes from the host.
        let from_host: Vec<_> = made.iter().map(ChangeSummary::from).collect();
        let killed = say(
            &Default::default(),
            "r1",
            &Outcome::Applying { changes: &made, now: made.first(), fetched: None },
            "t0",
        );
        let after = say(
            &killed,
            "r1",
            &Outcome::Ready { made: &[], is_repair: false, before: &from_host, drifted: &[] },
            "t1",
        );
        assert_eq!(after, first);
        // The next revision starts anew.
        let next = say(&first, "r2", &idle, "t3");
        assert_eq!((next.message.as_str(), next.changes_total, next.since.as_str()), ("in place", 0, "t3"));
    }

    #[test]
    fn drift_is_told_as_such() {
        let ready = say(
            &Default::default(),
            "r1",
            &Outcome::Ready { made: &[], is_repair: false, before: &[], drifted: &[] },
            "t1",
        );
        let made = [change("directory /etc/kubernetes/pki")];
        let repaired = say(
            &ready,
            "r1",
            &Outcome::Ready { made: &made, is_repair: false, before: &[], drifted: &[] },
            "t2",
        );
        assert_eq!(repaired.message, "repaired: directory /etc/kubernetes/pki was missing");
        assert_eq!(repaired.since, "t1", "it was ready all the time, as far as the revision goes");
        let waits = say(&ready, "r1", &Outcome::Waiting(&made), "t2");
        let permitted = Outcome::Ready { made: &made, is_repair: true, before: &[], drifted: &[] };
        assert_eq!(say(&waits, "r1", &permitted, "t3").message, repaired.message);
        // A repair is none if the revision never was ready.
        let failed = say(&Default::default(), "r1", &Outcome::Failed(&failure("x", &[])), "t0");
        assert_eq!(
            say(
                &failed,
                "r1",
                &Outcome::Ready { made: &made, is_repair: false, before: &[], drifted: &[] },
                "t1"
            )
            .message,
            "1 change made"
        );
    }

    #[test]
    fn a_plan_is_told_in_its_order_with_what_it_disturbs_and_then_not_again() {
        let restart = Change { disruption: Disruption::Restart, ..change("unit x.service") };
        let changes = [change("file /a"), restart];
        let ready = say(
            &Default::default(),
            "r1",
            &Outcome::Ready { made: &[], is_repair: false, before: &[], drifted: &[] },
            "t0",
        );
        let word = say(&ready, "r1", &Outcome::Planned(&changes), "t1");
        assert_eq!(
            word.message,
            "2 changes planned, disruption Restart (unit x.service: create); the mode is Plan, so nothing is changed"
        );
        let listed: Vec<_> = word.changes.iter().map(|change| change.resource.as_str()).collect();
        assert_eq!((listed, word.disruption), (vec!["file /a", "unit x.service"], Disruption::Restart));
        assert_eq!((word.phase, word.since.as_str()), (ReportPhase::Planned, "t1"));
        assert_eq!(say(&word, "r1", &Outcome::Planned(&changes), "t2"), word);
        let none = say(&word, "r1", &Outcome::Planned(&[]), "t3");
        assert_eq!(none.message, "nothing to change; the mode is Plan, so nothing is changed");
        // What was planned is no drift once it is made.
        let made = say(
            &word,
            "r1",
            &Outcome::Ready { made: &changes, is_repair: false, before: &[], drifted: &[] },
            "t4",
        );
        assert_eq!((made.message.as_str(), &made.changes), ("2 changes made", &word.changes));
    }

    #[test]
    fn what_goes_at_the_next_boot_is_told_and_counts_as_put_back() {
        let until_boot = Change::until_boot("sysctl net.bridge.a", "it came with a kernel module");
        let told = |made: &[Change]| {
            say(&NodeBootstrapReportStatus::default(), "r", &Outcome::Left(Some(made)), "t").message
        };
        assert_eq!(
            told(&[change("file /a"), until_boot.clone()]),
            "all is as it was before; nothing of the agent runs any more; until the next boot these stay: sysctl net.bridge.a"
        );
        assert_eq!(
            told(&[Change::left("file /a", "why"), until_boot]),
            "all but 1 is as it was before: file /a left as it is: why; until the next boot these stay: sysctl net.bridge.a"
        );
    }

    #[test]
    fn what_has_drifted_and_is_left_is_told_until_it_is_as_it_was_made() {
        let made = [change("file /a"), change("file /b")];
        let ready = say(
            &Default::default(),
            "r1",
            &Outcome::Ready { made: &made, is_repair: false, before: &[], drifted: &[] },
            "t1",
        );
        let drifted = Outcome::Ready { made: &[], is_repair: false, before: &[], drifted: &made[..1] };
        let word = say(&ready, "r1", &drifted, "t2");
        assert_eq!(word.message, "drifted, and left so by drift.policy Report: file /a was missing");
        assert_eq!((word.phase, word.since.as_str(), word.drifted.len()), (ReportPhase::Ready, "t1", 1));
        assert_eq!(say(&word, "r1", &drifted, "t3"), word);
        let from_host: Vec<_> = made.iter().map(ChangeSummary::from).collect();
        let mended = Outcome::Ready { made: &[], is_repair: false, before: &from_host, drifted: &[] };
        assert_eq!(say(&word, "r1", &mended, "t4"), ready);
    }

    #[test]
    fn every_problem_is_told_also_where_one_line_cannot_hold_them() {
        let long = "x".repeat(200);
        let problems: Vec<_> = (0..5)
            .map(|n| Problem { resource: format!("file /{n}"), reason: "NoDirectory", message: long.clone() })
            .collect();
        let word = say(&Default::default(), "r1", &Outcome::Impossible(&problems), "t1");
        assert!(word.message.starts_with("5 problems: file /0") && !word.message.contains("/4"));
        assert_eq!(word.problems[4], format!("file /4: {long}"));
        assert_eq!((word.phase, word.reason.as_str()), (ReportPhase::Failed, "NoDirectory"));
    }

    fn failure(message: &str, made: &[Change]) -> Failure {
        Failure { reason: "DownloadFailed".to_owned(), message: message.to_owned(), made: made.to_vec() }
    }

    #[test]
    fn a_long_download_says_how_far_it_is() {
        let changes = [change("binary /usr/bin/a")];
        let told = |bytes, total, rate| {
            let fetched = Some(Fetched { bytes, total, rate });
            let outcome = Outcome::Applying { changes: &changes, now: changes.first(), fetched };
            say(&Default::default(), "r1", &outcome, "t").message
        };
        assert_eq!(
            told(12_345_678, Some(84_100_000), 1_234_567),
            "1 change under way, 12.3 of 84.1 MB downloaded, 1.23 MB/s, now binary /usr/bin/a: create"
        );
        assert!(
            told(1_234_000_000, None, 9_999).starts_with("1 change under way, 1234 MB downloaded, 0.00 MB/s")
        );
    }

    #[test]
    fn a_failure_that_repeats_is_told_once() {
        let made = [change("directory /a")];
        let first = say(&Default::default(), "r1", &Outcome::Failed(&failure("404", &made)), "t1");
        assert_eq!(say(&first, "r1", &Outcome::Failed(&failure("404", &[])), "t2"), first);
        assert_eq!(first.message, "404 (tried again by itself)");
    }

    #[test]
    fn every_part_is_bounded() {
        let long = "ä\n".repeat(500);
        let many: Vec<Change> = (0..100)
            .map(|n| Change {
                resource: format!("file /{n}{long}"),
                change: long.clone(),
                found: long.clone(),
                disruption: Disruption::Restart,
            })
            .collect();
        let conflicts = vec![Conflict { resource: long.clone(), with: long.clone() }; 10];
        let failed = failure(&long, &many);
        let warnings = vec![long.clone(); 100];
        let spec = NodeBootstrapReportSpec::default();
        let problem = Problem { resource: long.clone(), reason: "HostError", message: long.clone() };
        let problems = vec![problem; 100];
        let most = Fetched { bytes: u64::MAX, total: Some(u64::MAX), rate: u64::MAX };
        for outcome in [
            Outcome::Planned(&many),
            Outcome::Impossible(&problems),
            Outcome::Applying { changes: &many, now: many.last(), fetched: Some(most) },
            Outcome::Spread(&many, u32::MAX),
            Outcome::Waiting(&many),
            Outcome::Ready { made: &many, is_repair: false, before: &[], drifted: &[] },
            Outcome::Failed(&failed),
            Outcome::Paused(&long),
            Outcome::Contested { message: &long, drifted: &many },
            Outcome::Ready { made: &[], is_repair: false, before: &[], drifted: &many },
            Outcome::Conflict(&conflicts),
            Outcome::Left(None),
            Outcome::Left(Some(&many)),
        ] {
            let ready = NodeBootstrapReportStatus {
                revision: "r".to_owned(),
                phase: ReportPhase::Ready,
                ..NodeBootstrapReportStatus::default()
            };
            for before in [ready, NodeBootstrapReportStatus::default()] {
                let word = status(&before, &spec, "r", &Facts::default(), &outcome, &warnings, "t");
                let size = serde_json::to_vec(&word).unwrap().len();
                assert!(size < 15 << 10, "{size} bytes: {outcome:.30?}");
                assert!(word.message.len() <= MAX_MESSAGE && !word.message.contains('\n'));
                assert!(word.problems.len() <= MAX_PROBLEMS);
                assert!(word.drifted.len() <= MAX_DRIFTED);
                assert!(word.changes.len() <= MAX_CHANGES && word.warnings.len() <= MAX_WARNINGS);
            }
        }
    }
}
