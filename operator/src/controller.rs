//! Puts the parts together: one task a watch, and one that looks at what they have changed. In: a client. Out: nothing,
//! until it is told to stop or a task ends that must not.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use crds::names;
use crds::revision::Source;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::core::PartialObjectMeta;
use kube::{Api, Client};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::health::Health;
use crate::objects::{AgentSettings, COMPONENT_AGENT, COMPONENT_REVISION};
use crate::observed::{
    AgentPod, Meta, Node, NodeBootstrap, Owned, Report, WatchedNode, WatchedNodeBootstrap, WatchedPod,
    WatchedReport,
};
use crate::queue::Queue;
use crate::reconcile::{Context, Next, reconcile};
use crate::render::Renderer;
use crate::telemetry::Metrics;
use crate::watch::{Watched, follow};
use crate::world::World;

/// How long what is under way may take once we are told to stop.
const FAREWELL: Duration = Duration::from_secs(5);

/// What all tasks share.
#[derive(Clone, Default)]
pub struct Shared {
    /// What is known of the cluster.
    pub world: Arc<World>,
    /// Who must be looked at.
    pub queue: Arc<Queue>,
    /// Whether we are alive.
    pub health: Arc<Health>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Starts the watches.
pub fn spawn_watches(tasks: &mut JoinSet<anyhow::Result<Infallible>>, client: &Client, shared: &Shared) {
    let agents = format!("{}={COMPONENT_AGENT}", names::LABEL_COMPONENT);
    let revisions = format!("{}={COMPONENT_REVISION}", names::LABEL_COMPONENT);

    /// One task for one kind: its API, a label selector, its store, how it is read, and whom a change concerns.
    macro_rules! watch {
        ($kind:literal, $api:expr, $labels:expr, $store:ident, $read:expr, $changed:expr) => {{
            let (shared, api, labels) = (shared.clone(), $api, String::from($labels));
            tasks.spawn(async move {
                let Shared { world, queue, health, metrics } = &shared;
                let watched = Watched { kind: $kind, health, metrics };
                follow(watched, api, &labels, &world.$store, $read, |change| $changed(world, queue, change))
                    .await;
                bail!("the watch of {} has ended", $kind)
            });
        }};
    }

    let all = || client.clone();
    let ns = names::NAMESPACE;
    watch!(
        "NodeBootstrap",
        Api::<WatchedNodeBootstrap>::all(all()),
        "",
        node_bootstraps,
        NodeBootstrap::read,
        World::node_bootstrap_changed
    );
    watch!("Node", Api::<WatchedNode>::all(all()), "", nodes, Node::read, World::node_changed);
    watch!(
        "NodeBootstrapReport",
        Api::<WatchedReport>::all(all()),
        "",
        reports,
        Report::read,
        World::report_changed
    );
    watch!(
        "Pod",
        Api::<WatchedPod>::namespaced(all(), ns),
        &agents,
        pods,
        AgentPod::read,
        World::pod_changed
    );
    watch!(
        "DaemonSet",
        Api::<DaemonSet>::namespaced(all(), ns),
        &agents,
        daemon_sets,
        |object| Owned::read("DaemonSet", object),
        World::owned_changed
    );
    watch!(
        "ServiceAccount",
        Api::<ServiceAccount>::namespaced(all(), ns),
        &agents,
        service_accounts,
        |object| Owned::read("ServiceAccount", object),
        World::owned_changed
    );
    watch!(
        "Role",
        Api::<Role>::namespaced(all(), ns),
        &agents,
        roles,
        |object| Owned::read("Role", object),
        World::owned_changed
    );
    watch!(
        "RoleBinding",
        Api::<RoleBinding>::namespaced(all(), ns),
        &agents,
        role_bindings,
        |object| Owned::read("RoleBinding", object),
        World::owned_changed
    );
    watch!(
        "ControllerRevision",
        Api::<PartialObjectMeta<ControllerRevision>>::namespaced(all(), ns),
        &revisions,
        revisions,
        Meta::read,
        World::revision_changed
    );
    watch!(
        "Secret",
        Api::<PartialObjectMeta<Secret>>::namespaced(all(), ns),
        "",
        secrets,
        Meta::read,
        |world: &World, queue: &Queue, change: &_| world.referenced_changed(queue, Source::Secret, change)
    );
    watch!(
        "ConfigMap",
        Api::<PartialObjectMeta<ConfigMap>>::namespaced(all(), ns),
        "",
        config_maps,
        Meta::read,
        |world: &World, queue: &Queue, change: &_| world.referenced_changed(queue, Source::ConfigMap, change)
    );
}

/// Looks at one NodeBootstrap after the other, until told to stop.
pub async fn work(client: Client, shared: Shared, agent: AgentSettings, stop: CancellationToken) {
    let Shared { world, queue, health, metrics } = &shared;
    let context = Context {
        world: Arc::clone(world),
        cluster: Cluster::new(client, Arc::clone(world), Arc::clone(metrics)),
        renderer: Renderer::default(),
        agent,
        metrics: Arc::clone(metrics),
        written: std::sync::Mutex::default(),
        refused: std::sync::Mutex::default(),
    };
    let all_known = async {
        // A decision on half of the facts would tell nodes to leave that are only not listed yet.
        while !world.unsynced().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if stop.run_until_cancelled(all_known).await.is_none() {
        return;
    }
    tracing::info!("all is known; the work begins");
    for name in world.known_names() {
        queue.add(&name);
    }
    while let Some(name) = stop.run_until_cancelled(queue.next()).await {
        health.pass_begins();
        let begin = Instant::now();
        let Some(result) = finish(&stop, reconcile(&context, &name)).await else { return };
        health.pass_ends();
        let outcome = result.as_ref().map_or_else(Error::category, |_| "ok");
        metrics.pass(outcome, begin.elapsed());
        tracing::debug!(node_bootstrap = name, outcome, took = ?begin.elapsed(), "looked");
        match result {
            Ok(Next { is_gone: true, .. }) => queue.forget(&name),
            Ok(Next { again, others, is_gone: false }) => {
                queue.succeeded(&name, again);
                others.iter().for_each(|other| queue.add(other));
            }
            Err(error) => {
                let delay = queue.failed(&name);
                tracing::warn!(node_bootstrap = name, %error, again_in = ?delay, "tried again");
            }
        }
    }
}

/// Lets what is under way end, but not for longer than a while once we are told to stop.
async fn finish<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    let enough = async {
        stop.cancelled().await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        biased;
        done = work => Some(done),
        () = enough => None,
    }
}
