//! Whether the operator is alive and ready. In: what its tasks say of themselves. Out: a yes, or the reason why not.
//!
//! Alive means that a restart would not help: watches that get answers, even a no, and a loop that comes around. An API
//! server that is away for a while is nothing to be restarted for; one that cannot be reached for minutes may be reached
//! again with a fresh start (another address, another certificate).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::queue::Queue;

/// For how long a watch may get no answer, or a look may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// Watches try again after seconds; an error that is older than this has been got over.
const OVER: Duration = Duration::from_secs(90);

/// See the module.
#[derive(Default)]
pub struct Health {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    unreachable: BTreeMap<&'static str, Outage>,
    pass_since: Option<Instant>,
}

struct Outage {
    first: Instant,
    last: Instant,
}

impl Health {
    /// A watch got something from the API server.
    pub fn watch_answered(&self, kind: &'static str) {
        self.lock().unreachable.remove(kind);
    }

    /// A watch could not reach the API server.
    pub fn watch_unreachable(&self, kind: &'static str) {
        let now = Instant::now();
        let mut inner = self.lock();
        let outage = inner.unreachable.entry(kind).or_insert(Outage { first: now, last: now });
        // A watch that works says nothing while nothing happens, so that only further errors tell that it does not.
        if now.duration_since(outage.last) > OVER {
            outage.first = now;
        }
        outage.last = now;
    }

    /// A look at a NodeBootstrap begins.
    pub fn pass_begins(&self) {
        self.lock().pass_since = Some(Instant::now());
    }

    /// It has ended.
    pub fn pass_ends(&self) {
        self.lock().pass_since = None;
    }

    /// Why a restart would help, if it would.
    pub fn trouble(&self, queue: &Queue) -> Option<String> {
        let now = Instant::now();
        let inner = self.lock();
        for (kind, outage) in &inner.unreachable {
            if now.duration_since(outage.last) < OVER && outage.last.duration_since(outage.first) > PATIENCE {
                return Some(format!("the watch of {kind} has not reached the API server for minutes"));
            }
        }
        if inner.pass_since.is_some_and(|since| now.duration_since(since) > PATIENCE) {
            return Some("a look at a NodeBootstrap does not end".to_owned());
        }
        let is_idle = inner.pass_since.is_none();
        (is_idle && queue.overdue() > PATIENCE).then(|| "the queue is not worked on".to_owned())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_an_outage_of_minutes_is_trouble_and_an_answer_ends_it() {
        let (health, queue) = (Health::default(), Queue::default());
        for _ in 0..10 {
            health.watch_unreachable("Node");
            assert_eq!(health.trouble(&queue), None);
            tokio::time::advance(Duration::from_secs(3)).await;
        }
        // It works again, and says nothing; an error much later begins a new count.
        tokio::time::advance(PATIENCE * 2).await;
        health.watch_unreachable("Node");
        assert_eq!(health.trouble(&queue), None);
        for _ in 0..30 {
            tokio::time::advance(Duration::from_secs(30)).await;
            health.watch_unreachable("Node");
        }
        assert!(health.trouble(&queue).unwrap().contains("Node"));
        health.watch_answered("Node");
        assert_eq!(health.trouble(&queue), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_stands_still_is_trouble() {
        let (health, queue) = (Health::default(), Queue::default());
        health.pass_begins();
        tokio::time::advance(PATIENCE * 2).await;
        assert!(health.trouble(&queue).is_some());
        health.pass_ends();
        assert_eq!(health.trouble(&queue), None);
        queue.add("a");
        tokio::time::advance(PATIENCE * 2).await;
        assert!(health.trouble(&queue).is_some());
    }
}
