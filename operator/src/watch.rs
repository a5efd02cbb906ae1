//! Keeps a store at what the API server has. In: a kind of object. Out: its store, and a word for each change. It goes
//! on through every error, and never ends by itself.

use std::fmt::Debug;
use std::time::Duration;

use backon::ExponentialBuilder;
use futures::{StreamExt, pin_mut};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, ExponentialBackoff, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::health::Health;
use crate::observed::Seen;
use crate::store::{Change, Entry, Store};
use crate::telemetry::Metrics;

/// Objects of one page of a list: what is held at once before it is cut down to what is kept. Lists by watch would hold
/// less, but the oldest API server that is supported may refuse them.
const PAGE: u32 = 250;
/// The first and the longest time between tries, to which chance adds as much again: an API server that is back is
/// noticed within seconds, and a dozen watches once a second are no load for one that is not.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// How often a watch complains in the log while it has no answer; metrics count each time.
const COMPLAINT: Duration = Duration::from_secs(60);

/// What every watch tells of itself.
#[derive(Clone, Copy)]
pub struct Watched<'a> {
    /// The kind, as metrics and messages name it.
    pub kind: &'static str,
    /// Is told whether the API server answers.
    pub health: &'a Health,
    /// Counts errors.
    pub metrics: &'a Metrics,
}

/// Follows one kind of object for ever.
pub async fn follow<K, T>(
    watched: Watched<'_>,
    api: Api<K>,
    labels: &str,
    store: &Store<T>,
    read: impl Fn(K) -> Seen<T>,
    changed: impl Fn(&Change<T>),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    T: Entry,
{
    let Watched { kind, health, metrics } = watched;
    let mut config = watcher::Config::default().page_size(PAGE);
    if !labels.is_empty() {
        config = config.labels(labels);
    }
    let backoff = ExponentialBuilder::default()
        .with_min_delay(BACKOFF.0)
        .with_max_delay(BACKOFF.1)
        .with_factor(2.0)
        .with_jitter()
        .without_max_times();
    let stream = watcher(api, config).backoff(ExponentialBackoff::from(backoff));
    pin_mut!(stream);
    let mut listed = Vec::new();
    let mut complained: Option<Instant> = None;
    while let Some(event) = stream.next().await {
        match &event {
            Ok(_) => health.watch_answered(kind),
            Err(error) => {
                metrics.watch_error(kind);
                if is_an_answer(error) {
                    health.watch_answered(kind);
                } else {
                    health.watch_unreachable(kind);
                }
                if complained.is_none_or(|last| last.elapsed() > COMPLAINT) {
                    tracing::warn!(kind, %error, "the watch is taken up again");
                    complained = Some(Instant::now());
                }
            }
        }
        match event {
            Ok(Event::Init) => listed = Vec::new(),
            Ok(Event::InitApply(object)) => listed.push(read(object)),
            Ok(Event::InitDone) => store.replace(std::mem::take(&mut listed)).iter().for_each(&changed),
            Ok(Event::Apply(object)) => store.put(read(object)).iter().for_each(&changed),
            Ok(Event::Delete(object)) => store.remove(&read(object)).iter().for_each(&changed),
            Err(_) => {}
        }
    }
}

/// Whether the API server is there and says no, as it does while a CRD is missing.
fn is_an_answer(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => matches!(error, kube::Error::Api(_)),
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => true,
    }
}
