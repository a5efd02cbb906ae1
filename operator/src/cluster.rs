//! The only code that writes to the API server. In: what shall be. Out: an answer, which goes into the store at once, or
//! an error that says what was being done. Every request has an end.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crds::nodebootstrap::{Drift, Health};
use crds::report::Leave;
use crds::{NodeBootstrapReport, NodeBootstrapStatus, names};
use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::enrolment::{Edit, Write};
use crate::error::Error;
use crate::events::Notice;
use crate::objects;
use crate::observed::{
    LEAVING_SINCE, Meta, Node, NodeBootstrap, Owned, Report, WatchedNode, WatchedNodeBootstrap, WatchedReport,
};
use crate::skew::ServerVersion;
use crate::store::Store;
use crate::telemetry::Metrics;
use crate::world::World;

/// The longest time that a request may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long what the API server says of its version is believed.
pub const VERSION_AGE: Duration = Duration::from_secs(300);
/// Annotation of a pod that a kubelet has from a file of its own.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// How many writes go at once.
const AT_ONCE: usize = 32;

const REPORT: &str = "NodeBootstrapReport";
const NODE_BOOTSTRAP: &str = "NodeBootstrap";

/// See the module.
pub struct Cluster {
    client: Client,
    world: Arc<World>,
    metrics: Arc<Metrics>,
    /// Reports whose permit was written without an answer: it may stand there or not.
    in_doubt: Mutex<BTreeSet<String>>,
    /// The API server's version, and when it said so.
    version: Mutex<Option<(Instant, ServerVersion)>>,
}

impl Cluster {
    /// Writes with this client, and into this world.
    pub fn new(client: Client, world: Arc<World>, metrics: Arc<Metrics>) -> Self {
        Self { client, world, metrics, in_doubt: Mutex::default(), version: Mutex::default() }
    }

    /// Makes these writes, many at once. What is refused for one node does not keep the others; an API server that does
    /// not answer is not asked a thousand times. The first error is returned.
    ///
    /// # Errors
    /// If one or more could not be made.
    pub async fn enrol(&self, node_bootstrap: &str, writes: &[Write]) -> Result<(), Error> {
        let requests: Vec<_> = writes.iter().map(|write| self.enrol_one(node_bootstrap, write)).collect();
        let mut answers = futures::stream::iter(requests).buffer_unordered(AT_ONCE);
        let mut result = Ok(());
        while let Some(answer) = answers.next().await {
            let is_away = answer.as_ref().is_err_and(Error::is_outage);
            result = result.and(answer);
            if is_away {
                break;
            }
        }
        result
    }

    /// Looks up the Reports whose permits are in doubt, of all NodeBootstraps. No permit may be given before: it could be
    /// a second one.
    ///
    /// # Errors
    /// If the API server refuses or cannot be reached.
    pub async fn settle_doubts(&self) -> Result<(), Error> {
        let names: Vec<_> = self.doubts().iter().cloned().collect();
        let api: Api<WatchedReport> = Api::all(self.client.clone());
        for name in names {
            let found = end(PATIENCE, || format!("cannot read {REPORT} {name}"), api.get_opt(&name)).await?;
            if let Some(report) = found {
                self.world.reports.put(Report::read(report));
            }
            self.doubts().remove(&name);
        }
        Ok(())
    }

    fn doubts(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // The set is whole after each single call, whoever panicked elsewhere.
        self.in_doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn enrol_one(&self, node_bootstrap: &str, write: &Write) -> Result<(), Error> {
        match write {
            Write::Create { node, node_uid, spec } => {
                let report = new_report(node_bootstrap, node, node_uid, spec.clone());
                let api: Api<NodeBootstrapReport> = Api::all(self.client.clone());
                let made = self
                    .ask(
                        "create",
                        REPORT,
                        report.metadata.name.as_deref().unwrap_or_default(),
                        api.create(&post(), &report),
                    )
                    .await?;
                self.world.reports.put(Report::read(made.into()));
                Ok(())
            }
            Write::Change { name, uid, edit } => {
                let api: Api<WatchedReport> = Api::all(self.client.clone());
                let patch = Patch::Merge(edit_as_json(uid, edit));
                if edit.permit.is_some() {
                    // Before it is sent: we may not live to hear the answer, as when another write finds nobody there.
                    self.doubts().insert(name.clone());
                }
                let answer = self.ask("patch", REPORT, name, api.patch(name, &params(), &patch)).await;
                if !answer.as_ref().is_err_and(Error::is_outage) {
                    self.doubts().remove(name);
                }
                match answer {
                    Ok(report) => {
                        self.world.reports.put(Report::read(report));
                        Ok(())
                    }
                    // Gone, as when its Node went: the next look sees what is there.
                    Err(error) if error.is_not_found() => {
                        self.world.reports.forget(name, uid);
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            }
            Write::Delete { name, uid } => {
                let api: Api<WatchedReport> = Api::all(self.client.clone());
                self.delete(REPORT, api, name, uid).await?;
                self.world.reports.forget(name, uid);
                Ok(())
            }
            Write::Label { node, uid, is_leaving } => {
                let api: Api<WatchedNode> = Api::all(self.client.clone());
                let value = if *is_leaving { json!("") } else { Value::Null };
                let labels = json!({(names::leaving_label(node_bootstrap)): value});
                let patch = Patch::Merge(json!({"metadata": {"uid": uid, "labels": labels}}));
                match self.ask("patch", "Node", node, api.patch(node, &params(), &patch)).await {
                    Ok(node) => {
                        self.world.nodes.put(Node::read(node));
                        Ok(())
                    }
                    Err(error) if error.is_not_found() => Ok(()),
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// Makes an object as it shall be, unless it is so already.
    ///
    /// # Errors
    /// If the API server refuses or cannot be reached.
    pub async fn apply<K>(&self, store: &Store<Owned>, kind: &'static str, wanted: &K) -> Result<(), Error>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let name = wanted.meta().name.clone().unwrap_or_default();
        let json = serde_json::to_value(wanted)?;
        if store.get(&Owned::key(kind, &name)).is_some_and(|found| objects::covers(&json, &found.object)) {
            return Ok(());
        }
        let api: Api<K> = Api::namespaced(self.client.clone(), names::NAMESPACE);
        let params = PatchParams::apply(names::OPERATOR).force();
        let patch = Patch::Apply(wanted);
        let made = self.ask("apply", kind, &name, api.patch(&name, &params, &patch)).await?;
        store.put(Owned::read(kind, made));
        Ok(())
    }

    /// Makes an object that never changes. One that is there already is as good.
    ///
    /// # Errors
    /// If the API server refuses or cannot be reached.
    pub async fn create<K>(&self, store: &Store<Meta>, kind: &'static str, wanted: &K) -> Result<(), Error>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let name = wanted.meta().name.clone().unwrap_or_default();
        let api: Api<K> = Api::namespaced(self.client.clone(), names::NAMESPACE);
        match self.ask("create", kind, &name, api.create(&post(), wanted)).await {
            Ok(made) => {
                store.put(Meta::of(made.meta()));
                Ok(())
            }
            Err(error) if error.is_already_there() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deletes what an entry of a store was read from, and its entry.
    ///
    /// # Errors
    /// If the API server refuses or cannot be reached.
    pub async fn delete_owned<K>(
        &self,
        store: &Store<Owned>,
        kind: &'static str,
        name: &str,
    ) -> Result<(), Error>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Clone + Debug,
    {
        use crate::store::Entry;
        let key = Owned::key(kind, name);
        let Some(found) = store.get(&key) else { return Ok(()) };
        let api: Api<K> = Api::namespaced(self.client.clone(), names::NAMESPACE);
        self.delete(kind, api, name, found.uid()).await?;
        store.forget(&key, found.uid());
        Ok(())
    }

    /// Deletes a revision and its payload, in this order: a payload is never missing while its revision is there.
    ///
    /// # Errors
    /// If the API server refuses or cannot be reached.
    pub async fn delete_revision(&self, name: &str) -> Result<(), Error> {
        if let Some(revision) = self.world.revisions.get(name) {
            let api: Api<ControllerRevision> = Api::namespaced(self.client.clone(), names::NAMESPACE);
            self.delete("ControllerRevision", api, name, &revision.uid).await?;
            self.world.revisions.forget(name, &revision.uid);
        }
        if let Some(payload) = self.world.secrets.get(name) {
            let api: Api<core::Secret> = Api::namespaced(self.client.clone(), names::NAMESPACE);
            self.delete("Secret", api, name, &payload.uid).await?;
            self.world.secrets.forget(name, &payload.uid);
        }
        Ok(())
    }

    async fn delete<K>(&self, kind: &'static str, api: Api<K>, name: &str, uid: &str) -> Result<(), Error>
    where
        K: Clone + DeserializeOwned + Debug,
    {
        let only_this = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams::background().preconditions(only_this);
        match self.ask("delete", kind, name, api.delete(name, &params)).await {
            Ok(_) => Ok(()),
            // Gone, or another one has come under that name.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sets the finalizers of a NodeBootstrap, if nobody has changed it since it was seen.
    ///
    /// # Errors
    /// If the API server refuses or cannot be reached.
    pub async fn set_finalizers(&self, seen: &NodeBootstrap, finalizers: &[String]) -> Result<(), Error> {
        let api: Api<WatchedNodeBootstrap> = Api::all(self.client.clone());
        let metadata = json!({
            "uid": seen.uid,
            "resourceVersion": seen.resource_version,
            "finalizers": finalizers,
        });
        let patch = Patch::Merge(json!({"metadata": metadata}));
        match self.ask("patch", NODE_BOOTSTRAP, &seen.name, api.patch(&seen.name, &params(), &patch)).await {
            Ok(object) => {
                self.world.node_bootstraps.put(NodeBootstrap::read(object));
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes a status.
    ///
    /// # Errors
    /// If the API server refuses or cannot be reached.
    pub async fn set_status(&self, seen: &NodeBootstrap, status: &NodeBootstrapStatus) -> Result<(), Error> {
        let mut json = serde_json::to_value(status)?;
        if let Some(fields) = json.as_object_mut() {
            // What is left out of a merge patch would stay as it was.
            for key in ["observedGeneration", "updateRevision", "currentRevision", "results", "conditions"] {
                fields.entry(key).or_insert(Value::Null);
            }
        }
        let api: Api<WatchedNodeBootstrap> = Api::all(self.client.clone());
        let patch = Patch::Merge(json!({"metadata": {"uid": seen.uid}, "status": json}));
        let params = params();
        let answer = api.patch_status(&seen.name, &params, &patch);
        match self.ask("patch", "NodeBootstrapStatus", &seen.name, answer).await {
            Ok(object) => {
                self.world.node_bootstraps.put(NodeBootstrap::read(object));
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Publishes Events. One that cannot be published is only logged: nothing depends on it.
    pub async fn publish(&self, about: &NodeBootstrap, notices: &[Notice]) {
        // A recorder of its own for each pass: one that lives on would send a later note as the first one repeated.
        let recorder = Recorder::new(self.client.clone(), Reporter::from(names::OPERATOR));
        let regarding = ObjectReference {
            api_version: Some(format!("{}/{}", names::GROUP, names::VERSION)),
            kind: Some(NODE_BOOTSTRAP.to_owned()),
            name: Some(about.name.clone()),
            uid: Some(about.uid.clone()),
            ..ObjectReference::default()
        };
        for notice in notices {
            let Notice { is_warning, reason, note, node } = notice;
            tracing::info!(node_bootstrap = about.name, reason, node, "{note}");
            let event = Event {
                type_: if *is_warning { EventType::Warning } else { EventType::Normal },
                reason: reason.clone(),
                note: Some(note.clone()),
                action: "Reconcile".to_owned(),
                secondary: node.as_ref().map(|node| ObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Node".to_owned()),
                    name: Some(node.clone()),
                    ..ObjectReference::default()
                }),
            };
            let published = self.ask("create", "Event", reason, recorder.publish(&event, &regarding)).await;
            if let Err(error) = published {
                tracing::warn!(%error, "the Event is lost");
            }
        }
    }

    /// Reads one object of the namespace; `None` if it is not there.
    ///
    /// # Errors
    /// If the API server refuses or cannot be reached.
    pub async fn get<K>(&self, kind: &'static str, name: &str) -> Result<Option<K>, Error>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), names::NAMESPACE);
        let what = || format!("cannot read {kind} {name}");
        match end(PATIENCE, what, api.get_opt(name)).await {
            Ok(found) => Ok(found),
            Err(error) => Err(error),
        }
    }

    /// The cluster's id: the uid of the namespace kube-system.
    ///
    /// # Errors
    /// If the API server refuses or cannot be reached.
    pub async fn id(&self) -> Result<String, Error> {
        let api: Api<core::Namespace> = Api::all(self.client.clone());
        let what = || "cannot read the namespace kube-system, whose uid is the cluster's id".to_owned();
        let namespace = end(PATIENCE, what, api.get_metadata("kube-system")).await?;
        Ok(namespace.metadata.uid.unwrap_or_default())
    }

    /// The API server's version, as it said within the last minutes; `None` if it says nothing that is one.
    ///
    /// # Errors
    /// If the API server refuses or cannot be reached.
    pub async fn server_version(&self) -> Result<Option<ServerVersion>, Error> {
        let known = || self.version.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((when, version)) = known().as_ref()
            && when.elapsed() < VERSION_AGE
        {
            return Ok(Some(version.clone()));
        }
        let what = || "cannot read the API server's version".to_owned();
        let info = end(PATIENCE, what, self.client.apiserver_version()).await?;
        let version = ServerVersion::parse(&info.git_version);
        *known() = version.clone().map(|version| (Instant::now(), version));
        Ok(version)
    }

    /// The pods on a node that a drain would take away, as namespace/name: all but those that are over, that a DaemonSet
    /// has there, and that the kubelet has from a file.
    ///
    /// # Errors
    /// If the API server refuses or cannot be reached.
    pub async fn pods_to_drain(&self, node: &str) -> Result<Vec<String>, Error> {
        let api: Api<core::Pod> = Api::all(self.client.clone());
        let params = ListParams::default()
            .fields(&format!("spec.nodeName={node},status.phase!=Succeeded,status.phase!=Failed"));
        let what = || format!("cannot list the pods of {node}");
        let pods = end(PATIENCE, what, api.list_metadata(&params)).await?;
        let stays = |meta: &ObjectMeta| {
            let owners = meta.owner_references.iter().flatten();
            let is_of_daemon_set = owners.into_iter().any(|owner| owner.kind == "DaemonSet");
            is_of_daemon_set || meta.annotations.as_ref().is_some_and(|all| all.contains_key(MIRROR))
        };
        let mut left: Vec<_> = pods
            .iter()
            .map(|pod| &pod.metadata)
            .filter(|meta| !stays(meta))
            .map(|meta| {
                let part = |part: &Option<String>| part.clone().unwrap_or_default();
                format!("{}/{}", part(&meta.namespace), part(&meta.name))
            })
            .collect();
        left.sort_unstable();
        Ok(left)
    }

    /// Sends one write, counts it, and gives it an end.
    async fn ask<T>(
        &self,
        verb: &'static str,
        kind: &'static str,
        name: &str,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Error> {
        let answer = end(PATIENCE, || format!("cannot {verb} {kind} {name}"), request).await;
        self.metrics.write(verb, kind, answer.as_ref().map_or_else(Error::category, |_| "ok"));
        tracing::debug!(verb, kind, name, ok = answer.is_ok(), "write");
        answer
    }
}

async fn end<T>(
    patience: Duration,
    what: impl Fn() -> String,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(patience, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(Error::Api { what: what(), source: Box::new(source) }),
        Err(_) => Err(Error::Timeout { what: what() }),
    }
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some(names::OPERATOR.to_owned()), ..PatchParams::default() }
}

fn post() -> PostParams {
    PostParams { field_manager: Some(names::OPERATOR.to_owned()), ..PostParams::default() }
}

fn new_report(
    node_bootstrap: &str,
    node: &str,
    node_uid: &str,
    spec: crds::NodeBootstrapReportSpec,
) -> NodeBootstrapReport {
    let mut report = NodeBootstrapReport::new(&names::report(node_bootstrap, node), spec);
    report.metadata = ObjectMeta {
        labels: Some([(names::LABEL_NODE_BOOTSTRAP.to_owned(), node_bootstrap.to_owned())].into()),
        // So it goes with its Node, also while no operator runs.
        owner_references: Some(vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: node.to_owned(),
            uid: node_uid.to_owned(),
            ..OwnerReference::default()
        }]),
        ..report.metadata
    };
    report
}

/// The merge patch of an edit. The uid in it makes the API server refuse it for another Report of that name.
fn edit_as_json(uid: &str, edit: &Edit) -> Value {
    let Edit {
        node_bootstrap_created,
        revision,
        mode,
        permit,
        conflicts,
        drift,
        health,
        retry,
        paused,
        leave,
    } = edit;
    let mut metadata = json!({"uid": uid});
    let mut spec = serde_json::Map::new();
    if let Some(created) = node_bootstrap_created {
        spec.insert("nodeBootstrapCreated".to_owned(), json!(created.to_string()));
    }
    if let Some((revision, spread)) = revision {
        spec.insert("revision".to_owned(), json!(revision));
        spec.insert("spread".to_owned(), json!(spread));
    }
    if let Some(mode) = mode {
        spec.insert("mode".to_owned(), json!(mode));
    }
    if let Some(permit) = permit {
        spec.insert("permit".to_owned(), json!(permit));
    }
    if let Some(conflicts) = conflicts {
        spec.insert("conflicts".to_owned(), json!(conflicts));
    }
    if let Some(drift) = drift {
        // What is left out must not stay from before.
        let drift = drift.as_ref().map(|Drift { policy, interval, full_interval, ignore, overrides }| {
            json!({
                "policy": policy,
                "interval": interval,
                "fullInterval": full_interval,
                "ignore": ignore,
                "overrides": overrides,
            })
        });
        spec.insert("drift".to_owned(), json!(drift));
    }
    if let Some(health) = health {
        let health = health
            .as_ref()
            .map(|Health { timeout, stable_for }| json!({"timeout": timeout, "stableFor": stable_for}));
        spec.insert("health".to_owned(), json!(health));
    }
    if let Some(retry) = retry {
        spec.insert("retry".to_owned(), json!(retry));
    }
    if let Some(paused) = paused {
        spec.insert("paused".to_owned(), json!(paused));
    }
    if let Some(leave) = leave {
        let (word, since): (Option<Leave>, Option<String>) = match leave {
            Some((word, since)) => (Some(*word), since.map(|since| since.to_string())),
            None => (None, None),
        };
        spec.insert("leave".to_owned(), json!(word));
        metadata["annotations"] = json!({(LEAVING_SINCE): since});
    }
    json!({"metadata": metadata, "spec": spec})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::report::{Conflict, Disruption, Permit, RunMode};
    use k8s_openapi::jiff::Timestamp;

    #[test]
    fn an_edit_says_what_changes_and_nothing_else() {
        let nothing = edit_as_json("u", &Edit::default());
        assert_eq!(nothing, json!({"metadata": {"uid": "u"}, "spec": {}}));
        let all = Edit {
            node_bootstrap_created: Some(Timestamp::UNIX_EPOCH),
            revision: Some(("r".into(), 3)),
            mode: Some(RunMode::Plan),
            permit: Some(Permit { id: 2, disruption: Disruption::Restart }),
            conflicts: Some(vec![Conflict { resource: "file /x".into(), with: "o".into() }]),
            drift: Some(Some(Drift { interval: Some(crds::Timeout::from_secs(60)), ..Drift::default() })),
            health: Some(Some(Health { timeout: Some(crds::Timeout::from_secs(60)), stable_for: None })),
            retry: Some("2".into()),
            paused: Some(true),
            leave: Some(Some((Leave::Retain, Some(Timestamp::from_second(1).unwrap())))),
        };
        assert_eq!(
            edit_as_json("u", &all),
            json!({
                "metadata": {"uid": "u", "annotations": {LEAVING_SINCE: "1970-01-01T00:00:01Z"}},
                "spec": {
                    "nodeBootstrapCreated": "1970-01-01T00:00:00Z",
                    "revision": "r",
                    "spread": 3,
                    "mode": "Plan",
                    "permit": {"id": 2, "disruption": "Restart"},
                    "conflicts": [{"resource": "file /x", "with": "o"}],
                    "drift": {
                        "policy": null,
                        "interval": "1m",
                        "fullInterval": null,
                        "ignore": [],
                        "overrides": [],
                    },
                    "health": {"timeout": "1m", "stableFor": null},
                    "retry": "2",
                    "paused": true,
                    "leave": "Retain",
                },
            })
        );
        let stay = edit_as_json("u", &Edit { leave: Some(None), ..Edit::default() });
        assert_eq!(
            stay,
            json!({"metadata": {"uid": "u", "annotations": {LEAVING_SINCE: null}}, "spec": {"leave": null}})
        );
    }
}
