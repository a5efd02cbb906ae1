//! What becomes of drift: repaired, told or left, and repaired ever more slowly where something else changes it back each
//! time. Pure.
//!
//! In: the policy, names of resources, and times as values. Out: the policy of one resource; whether its repair has to
//! wait, and what is said of that.

use std::collections::BTreeMap;
use std::time::Duration;

use crds::nodebootstrap::{Drift, DriftPolicy};

/// So many repairs of one thing, with no calm time between, are no accident.
const ROUNDS: u32 = 3;
/// How long the next repair waits then; twice as long each time, up to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LAST_PAUSE: Duration = Duration::from_secs(300);
/// A thing that stays as it was made for so long beyond its pause is at rest: all is forgotten.
const CALM: Duration = Duration::from_secs(300);

/// What becomes of the drift of a resource, as in `file /etc/motd`.
pub fn policy_of(drift: Option<&Drift>, resource: &str) -> DriftPolicy {
    let Some(drift) = drift else { return DriftPolicy::default() };
    let name = resource.split_once(' ').map_or(resource, |(_, name)| name);
    if drift.ignore.iter().any(|pattern| matches(pattern, name)) {
        return DriftPolicy::CreateOnly;
    }
    let other = drift.overrides.iter().find(|other| matches(&other.pattern, name));
    other.map(|other| other.policy).or(drift.policy).unwrap_or_default()
}

/// Whether a name fits a pattern: `*` stands for anything but a slash, `**` for anything, `?` for one character.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // Which beginnings of the name fit the pattern so far: a pattern of stars costs no more than any other.
    let mut fits = vec![false; name.len() + 1];
    fits[0] = true;
    let mut rest = &pattern[..];
    while let Some((&first, mut after)) = rest.split_first() {
        let mut next = vec![false; name.len() + 1];
        if first == '*' {
            let is_any = after.first() == Some(&'*');
            if is_any {
                after = &after[1..];
            }
            next[0] = fits[0];
            for at in 0..name.len() {
                next[at + 1] = fits[at + 1] || (next[at] && (is_any || name[at] != '/'));
            }
        } else {
            for at in 0..name.len() {
                next[at + 1] = fits[at] && (first == name[at] || (first == '?' && name[at] != '/'));
            }
        }
        (fits, rest) = (next, after);
    }
    fits[name.len()]
}

/// How often things were repaired lately.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Damping {
    things: BTreeMap<String, Thing>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Thing {
    repairs: u32,
    last: Duration,
    /// When it was repaired first, as a person reads it.
    since: String,
    /// How it was found when it was recognised.
    found: String,
}

impl Thing {
    /// How long the next repair waits.
    fn pause(&self) -> Duration {
        match self.repairs.checked_sub(ROUNDS) {
            None => Duration::ZERO,
            Some(more) => FIRST_PAUSE.saturating_mul(1 << more.min(16)).min(LAST_PAUSE),
        }
    }

    fn next(&self) -> Duration {
        self.last + self.pause()
    }
}

impl Damping {
    /// Notes that a thing was repaired. `now`: by a clock that only goes on; `time`: as a person reads it.
    pub fn repaired(&mut self, resource: &str, found: &str, now: Duration, time: &str) {
        self.calm(now);
        let thing = self.things.entry(resource.to_owned()).or_insert_with(|| Thing {
            repairs: 0,
            last: now,
            since: time.to_owned(),
            found: String::new(),
        });
        thing.repairs = thing.repairs.saturating_add(1);
        thing.last = now;
        if thing.repairs <= ROUNDS {
            found.clone_into(&mut thing.found);
        }
    }

    /// Forgets what has been at rest.
    pub fn calm(&mut self, now: Duration) {
        self.things.retain(|_, thing| now < thing.next() + CALM);
    }

    /// When a thing may be repaired again, if it may not now.
    pub fn waits(&self, resource: &str, now: Duration) -> Option<Duration> {
        self.things.get(resource).map(Thing::next).filter(|next| now < *next)
    }

    /// What is said of a thing that does not stay as it was made, if there is one: the same for many rounds, so that not
    /// each of them is told.
    pub fn contest(&self) -> Option<String> {
        let contested = || self.things.iter().filter(|(_, thing)| thing.repairs >= ROUNDS);
        // Of equals the first: what is restarted for the sake of a file comes after it.
        let (resource, thing) = contested().rev().max_by_key(|(_, thing)| thing.repairs)?;
        // Three, four, eight, sixteen, …
        let repairs = if thing.repairs == ROUNDS { ROUNDS } else { 1 << thing.repairs.ilog2() };
        let more = match contested().count() - 1 {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        Some(format!(
            "{resource} {}, again after {repairs} repairs or more since {}{more}: something else seems to work on it; stop that, or list it in drift.ignore; repaired ever more slowly until then",
            thing.found, thing.since
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::nodebootstrap::DriftOverride;
    use proptest::prelude::*;

    #[test]
    fn patterns_are_of_whole_names() {
        for (pattern, name, fits) in [
            ("/etc/motd", "/etc/motd", true),
            ("/etc/motd", "/etc/motd2", false),
            ("/etc/*", "/etc/motd", true),
            ("/etc/*", "/etc/a/b", false),
            ("/etc/**", "/etc/a/b", true),
            ("/etc/**/b", "/etc/a/c/b", true),
            ("/etc/*.conf", "/etc/a.conf", true),
            ("*.timer", "a.timer", true),
            ("*.timer", "a.service", false),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("**", "/", true),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
        // Exponential, if it were tried star by star.
        assert!(!matches(&"*a".repeat(100), &"a".repeat(99)));
    }

    #[test]
    fn what_is_ignored_is_left_and_an_override_goes_before_the_policy() {
        let drift = Drift {
            policy: Some(DriftPolicy::Report),
            ignore: vec!["/etc/m*".to_owned()],
            overrides: ["/etc/m*", "*.service", "a.*"]
                .map(|pattern| DriftOverride { pattern: pattern.to_owned(), policy: DriftPolicy::Enforce })
                .into(),
            ..Drift::default()
        };
        assert_eq!(policy_of(Some(&drift), "unit a.service"), DriftPolicy::Enforce);
        assert_eq!(policy_of(Some(&drift), "file /etc/motd"), DriftPolicy::CreateOnly);
        assert_eq!(policy_of(Some(&drift), "file /etc/issue"), DriftPolicy::Report);
        assert_eq!(policy_of(None, "file /etc/issue"), DriftPolicy::Enforce);
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_tug_of_war_is_told_after_three_repairs_and_forgotten_after_a_calm_time() {
        let mut damping = Damping::default();
        for second in 0..3 {
            assert_eq!((damping.waits("file /a", seconds(second)), damping.contest()), (None, None));
            damping.repaired("file /a", "had other content", seconds(second), &format!("T{second}"));
        }
        assert_eq!(damping.waits("file /a", seconds(3)), Some(seconds(12)));
        assert_eq!(damping.waits("file /b", seconds(3)), None, "others are repaired at once");
        assert_eq!(
            damping.contest().unwrap(),
            "file /a had other content, again after 3 repairs or more since T0: something else seems to work on it; stop that, or list it in drift.ignore; repaired ever more slowly until then"
        );
        damping.repaired("file /a", "was missing", seconds(12), "T12");
        assert_eq!(damping.waits("file /a", seconds(13)), Some(seconds(32)), "twice as long");
        damping.calm(seconds(331));
        assert!(damping.contest().is_some());
        damping.calm(seconds(332));
        assert_eq!(damping, Damping::default());
    }

    proptest! {
        #[test]
        fn whoever_changes_it_how_often_repairs_get_rare_and_words_rarer(
            gaps in prop::collection::vec(0_u64..20, 1..2000),
        ) {
            let mut damping = Damping::default();
            let (mut now, mut repairs, mut words) = (0, 0_u32, Vec::new());
            for gap in gaps {
                now += gap;
                if damping.waits("file /a", seconds(now)).is_some() {
                    continue;
                }
                damping.repaired("file /a", "differed", seconds(now), "T");
                repairs += 1;
                words.push(damping.contest());
                let next = damping.waits("file /a", seconds(now));
                prop_assert_eq!(next.is_some(), repairs >= ROUNDS);
                prop_assert!(next.is_none_or(|next| next <= seconds(now) + LAST_PAUSE));
            }
            // Ten, twenty, … seconds, and then one in five minutes.
            prop_assert!(u64::from(repairs) <= u64::from(ROUNDS) + 6 + now / LAST_PAUSE.as_secs());
            words.dedup();
            prop_assert!(words.len() <= 3 + repairs.ilog2() as usize, "{:?}", words);
        }

        #[test]
        fn what_happens_now_and_then_is_never_held_up(
            gaps in prop::collection::vec(300_u64..100_000, 1..100),
        ) {
            let mut damping = Damping::default();
            let mut now = 0;
            for gap in gaps {
                now += gap;
                damping.calm(seconds(now));
                prop_assert_eq!(damping.waits("file /a", seconds(now)), None);
                damping.repaired("file /a", "differed", seconds(now), "T");
                prop_assert_eq!(damping.contest(), None);
            }
        }
    }
}
