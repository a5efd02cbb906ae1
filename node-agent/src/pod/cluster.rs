//! The API server, as far as the agent speaks to it: its own Report, the revision that this names, and its payload.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use backon::ExponentialBuilder;
use crds::NodeBootstrapReport;
use crds::names::{self, NAMESPACE};
use crds::report::NodeBootstrapReportStatus;
use crds::revision::{Revision, Unreadable};
use futures::StreamExt;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher::ExponentialBackoff;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::engine::{Payload, Request};
use crate::preset::Findings;
use crate::report::{FIELD_MANAGER, patch};

/// How long one request may take.
const ANSWER: Duration = Duration::from_secs(20);
/// How long one request may take once the agent was told to stop.
const LAST_WORD: Duration = Duration::from_secs(2);

/// The pauses before the Report is watched again: with jitter at most twice the second. Short, so that the end of an
/// outage is seen soon; long enough that thousands of agents do not all come at once.
const WATCH_RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// What is known of the Report.
#[derive(Debug, Clone)]
pub(super) enum Seen {
    /// Nothing was heard yet.
    Unknown,
    /// The API server says that there is none.
    Absent,
    /// The Report.
    Report(Rc<NodeBootstrapReport>),
}

/// Why a revision could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FetchError {
    /// The API server does not answer.
    Away(String),
    /// It answers, but with a refusal or a not found.
    Refused(String),
    /// The revision is not for this agent.
    Unreadable(Unreadable),
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away(error) | Self::Refused(error) => f.write_str(error),
            Self::Unreadable(error) => error.fmt(f),
        }
    }
}

impl FetchError {
    /// The cause in one word.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Away(_) => "ApiAway",
            Self::Refused(_) => "RevisionRefused",
            Self::Unreadable(Unreadable::Format(_) | Unreadable::PresetVersion(_)) => "RevisionFormat",
            Self::Unreadable(Unreadable::Damaged(_)) => "RevisionDamaged",
        }
    }
}

/// The cluster, seen by one agent.
#[derive(Clone)]
pub(super) struct Cluster {
    client: Client,
    node_bootstrap: String,
    report: String,
    stop: CancellationToken,
}

impl Cluster {
    /// What the agent of one NodeBootstrap on one node sees. After `stop` requests are given up soon.
    pub(super) fn new(client: Client, node_bootstrap: &str, node: &str, stop: CancellationToken) -> Self {
        let report = names::report(node_bootstrap, node);
        Self { client, node_bootstrap: node_bootstrap.to_owned(), report, stop }
    }

    /// The Report's name.
    pub(super) fn report(&self) -> &str {
        &self.report
    }

    fn reports(&self) -> Api<NodeBootstrapReport> {
        Api::all(self.client.clone())
    }

    /// Follows the Report for ever; errors are waited out with growing pauses.
    pub(super) async fn watch(&self, seen: watch::Sender<Seen>) {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(WATCH_RETRY.0)
            .with_max_delay(WATCH_RETRY.1)
            .with_jitter()
            .without_max_times();
        let reports =
            watcher::watch_object(self.reports(), &self.report).backoff(ExponentialBackoff::from(backoff));
        futures::pin_mut!(reports);
        while let Some(heard) = reports.next().await {
            let now = match heard {
                Ok(Some(mut report)) => {
                    report.metadata.managed_fields = None;
                    Seen::Report(Rc::new(report))
                }
                Ok(None) => Seen::Absent,
                Err(error) => {
                    warn!(%error, "the Report cannot be watched; trying again");
                    continue;
                }
            };
            if seen.send(now).is_err() {
                return;
            }
        }
    }

    /// The Report as it is now, not as the watch knows it.
    pub(super) async fn fresh(&self) -> Result<Option<NodeBootstrapReport>, FetchError> {
        let reports = self.reports();
        self.limited(reports.get_opt(&self.report)).await
    }

    /// Sets the Report's status.
    pub(super) async fn say(&self, word: &NodeBootstrapReportStatus) -> Result<(), FetchError> {
        let reports = self.reports();
        let patch = patch(&self.report, word);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        self.limited(reports.patch_status(&self.report, &params, &Patch::Apply(&patch))).await.map(drop)
    }

    /// Fetches a revision with its payload.
    pub(super) async fn revision(&self, name: &str) -> Result<Request, FetchError> {
        let revisions: Api<ControllerRevision> = Api::namespaced(self.client.clone(), NAMESPACE);
        let data = self.limited(revisions.get(name)).await?.data.0;
        let revision = Revision::read(&data).map_err(FetchError::Unreadable)?;
        if revision.node_bootstrap != self.node_bootstrap {
            return Err(FetchError::Refused(format!(
                "it belongs to the NodeBootstrap {}",
                revision.node_bootstrap
            )));
        }
        let mut payload = BTreeMap::new();
        if revision.has_payload() {
            let secrets: Api<Secret> = Api::namespaced(self.client.clone(), NAMESPACE);
            let secret = self.limited(secrets.get(name)).await.map_err(|error| match error {
                // Who reads Secrets is told by name, so that one that is gone looks like one that is not to be read.
                FetchError::Refused(_) => FetchError::Refused(format!(
                    "its payload, the Secret {NAMESPACE}/{name}, is missing or may not be read yet: is what the spec's secretRef names still there?"
                )),
                other => other,
            })?;
            payload =
                secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect();
        }
        let created = String::new();
        let payload = Payload::from(payload);
        Ok(Request {
            name: name.to_owned(),
            created,
            revision,
            payload,
            from_pod: true,
            leave: BTreeSet::new(),
            findings: Findings::default(),
        })
    }

    async fn limited<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, FetchError> {
        let last_word = async {
            self.stop.cancelled().await;
            tokio::time::sleep(LAST_WORD).await;
        };
        let answer = tokio::select! {
            answer = tokio::time::timeout(ANSWER, request) => answer,
            () = last_word => return Err(FetchError::Away("told to stop".to_owned())),
        };
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) if (400..500).contains(&status.code) && status.code != 429 => {
                Err(FetchError::Refused(status.message.clone()))
            }
            Ok(Err(error)) => Err(FetchError::Away(error.to_string())),
            Err(_) => Err(FetchError::Away(format!("no answer within {} s", ANSWER.as_secs()))),
        }
    }
}
