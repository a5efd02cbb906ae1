//! Which NodeBootstrap is looked at next. In: names, from any number of watches. Out: one name at a time, each at most
//! ten times a second however many events name it, and after a failure only when its backoff is over.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::Notify;
use tokio::time::Instant;

/// What comes together within this time is looked at together.
const GATHER: Duration = Duration::from_millis(10);
/// The least time between the end of one look and the begin of the next at the same NodeBootstrap.
const PAUSE: Duration = Duration::from_millis(100);
/// The first and the longest time after failures.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Everything is looked at again after this time, should ever an event be lost. At rest that writes nothing.
const SAFETY_NET: Duration = Duration::from_secs(600);

/// See the module.
#[derive(Default)]
pub struct Queue {
    inner: Mutex<Inner>,
    wake: Notify,
}

#[derive(Default)]
struct Inner {
    due: BTreeMap<String, Due>,
    finished: HashMap<String, Instant>,
    failing: HashMap<String, Failing>,
}

#[derive(Clone, Copy)]
struct Due {
    at: Instant,
    /// A person changed something: no backoff holds it.
    is_urgent: bool,
}

struct Failing {
    backoff: ExponentialBackoff,
    until: Instant,
}

impl Queue {
    /// Asks for a look at a NodeBootstrap because something that it depends on has changed.
    pub fn add(&self, name: &str) {
        self.schedule(name, false);
    }

    /// Asks for a look because a person changed it: what failed before need not fail again.
    pub fn add_urgent(&self, name: &str) {
        self.schedule(name, true);
    }

    fn schedule(&self, name: &str, is_urgent: bool) {
        let now = Instant::now();
        let mut inner = self.lock();
        let mut at = now + GATHER;
        if let Some(finished) = inner.finished.get(name) {
            at = at.max(*finished + PAUSE);
        }
        if is_urgent {
            inner.failing.remove(name);
        } else if let Some(failing) = inner.failing.get(name) {
            at = at.max(failing.until);
        }
        inner
            .due
            .entry(name.to_owned())
            .and_modify(|due| {
                *due = Due { at: due.at.min(at), is_urgent: due.is_urgent || is_urgent };
            })
            .or_insert(Due { at, is_urgent });
        drop(inner);
        self.wake.notify_one();
    }

    /// The next name, when its time has come.
    pub async fn next(&self) -> String {
        loop {
            let first = {
                let mut inner = self.lock();
                let first =
                    inner.due.iter().min_by_key(|(_, due)| due.at).map(|(name, due)| (name.clone(), due.at));
                if let Some((name, at)) = &first
                    && *at <= Instant::now()
                {
                    inner.due.remove(name);
                    return name.clone();
                }
                first.map(|(_, at)| at)
            };
            match first {
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until(at) => {}
                    () = self.wake.notified() => {}
                },
                None => self.wake.notified().await,
            }
        }
    }

    /// A look went well; `again`: look again after this time even if nothing happens.
    pub fn succeeded(&self, name: &str, again: Option<Duration>) {
        let now = Instant::now();
        let mut inner = self.lock();
        inner.failing.remove(name);
        inner.finished.insert(name.to_owned(), now);
        let at = now + again.unwrap_or(SAFETY_NET).max(PAUSE);
        later(&mut inner, name, at, now + PAUSE);
    }

    /// A look failed: the next one comes after a time that grows with each failure, with some chance in it.
    pub fn failed(&self, name: &str) -> Duration {
        let now = Instant::now();
        let mut inner = self.lock();
        inner.finished.insert(name.to_owned(), now);
        let failing = inner.failing.entry(name.to_owned()).or_insert_with(|| Failing {
            backoff: ExponentialBuilder::default()
                .with_min_delay(BACKOFF.0)
                .with_max_delay(BACKOFF.1)
                .with_factor(2.0)
                .with_jitter()
                .without_max_times()
                .build(),
            until: now,
        });
        let delay = failing.backoff.next().unwrap_or(BACKOFF.1);
        failing.until = now + delay;
        let until = failing.until;
        later(&mut inner, name, until, until);
        delay
    }

    /// Nothing is there by that name any more.
    pub fn forget(&self, name: &str) {
        let mut inner = self.lock();
        inner.due.remove(name);
        inner.finished.remove(name);
        inner.failing.remove(name);
    }

    /// For how long the first in the queue has been waiting beyond its time.
    pub fn overdue(&self) -> Duration {
        let inner = self.lock();
        let first = inner.due.values().map(|due| due.at).min();
        first.map(|at| Instant::now().saturating_duration_since(at)).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The maps are whole after each of these few lines, whoever panicked elsewhere.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Schedules the next look for `at`. One that was asked for meanwhile comes earlier, but not before `earliest`, unless a
/// person asked.
fn later(inner: &mut Inner, name: &str, at: Instant, earliest: Instant) {
    match inner.due.get_mut(name) {
        Some(due) if due.is_urgent => {}
        Some(due) => due.at = due.at.max(earliest),
        None => {
            inner.due.insert(name.to_owned(), Due { at, is_urgent: false });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn next_within(queue: &Queue, time: Duration) -> Option<String> {
        tokio::time::timeout(time, queue.next()).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn many_events_are_one_look_and_those_that_come_meanwhile_one_more() {
        let queue = Queue::default();
        for _ in 0..1000 {
            queue.add("a");
        }
        assert_eq!(next_within(&queue, GATHER).await.as_deref(), Some("a"));
        for _ in 0..1000 {
            queue.add("a");
        }
        queue.succeeded("a", None);
        assert_eq!(next_within(&queue, PAUSE / 2).await, None);
        assert_eq!(next_within(&queue, PAUSE).await.as_deref(), Some("a"));
        queue.succeeded("a", None);
        assert_eq!(next_within(&queue, SAFETY_NET / 2).await, None);
        assert_eq!(next_within(&queue, SAFETY_NET).await.as_deref(), Some("a"), "the safety net");
    }

    #[tokio::test(start_paused = true)]
    async fn events_without_end_do_not_starve_a_look() {
        let queue = Queue::default();
        queue.add("a");
        let begin = Instant::now();
        let mut looks = 0;
        while begin.elapsed() < Duration::from_secs(1) {
            queue.add("a");
            tokio::time::advance(Duration::from_millis(1)).await;
            if next_within(&queue, Duration::ZERO).await.is_some() {
                looks += 1;
                queue.succeeded("a", None);
            }
        }
        assert!((8..=11).contains(&looks), "{looks}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_waits_longer_each_time_also_for_events_but_not_for_a_person() {
        let queue = Queue::default();
        queue.add("a");
        let mut delays = Vec::new();
        for _ in 0..8 {
            assert!(next_within(&queue, BACKOFF.1 * 3).await.is_some());
            let delay = queue.failed("a");
            delays.push(delay);
            queue.add("a");
            assert_eq!(next_within(&queue, delay / 2).await, None, "an event does not help");
        }
        assert!(delays[0] >= BACKOFF.0 && delays[0] < BACKOFF.0 * 3, "{delays:?}");
        assert!(delays[7] >= BACKOFF.1 && delays[7] <= BACKOFF.1 * 2, "{delays:?}");
        queue.add_urgent("a");
        assert!(next_within(&queue, PAUSE).await.is_some());
        queue.add_urgent("a");
        let delay = queue.failed("a");
        assert!(delay < BACKOFF.0 * 3, "it began anew");
        assert!(next_within(&queue, PAUSE * 2).await.is_some(), "asked for while the look was under way");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_does_not_hold_the_others() {
        let queue = Queue::default();
        queue.add("bad");
        queue.add("good");
        for _ in 0..2 {
            match next_within(&queue, PAUSE).await.as_deref() {
                Some("bad") => drop(queue.failed("bad")),
                Some("good") => queue.succeeded("good", None),
                other => panic!("{other:?}"),
            }
        }
        queue.add("good");
        assert_eq!(next_within(&queue, PAUSE * 2).await.as_deref(), Some("good"));
        assert_eq!(queue.overdue(), Duration::ZERO);
    }
}
