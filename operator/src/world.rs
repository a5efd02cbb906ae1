//! All that is known of the cluster, and who must look when something of it changes. In: changes of the stores. Out:
//! names in the queue.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crds::revision::{Source, references};
use crds::{NodeBootstrapSpec, names};

use crate::enrolment;
use crate::observed::{AgentPod, AgentState, Meta, Node, NodeBootstrap, Owned, Report};
use crate::queue::Queue;
use crate::rollout::{Taken, Use};
use crate::selection;
use crate::store::{Change, Store};

/// What is known of the cluster.
#[derive(Default)]
pub struct World {
    /// NodeBootstraps.
    pub node_bootstraps: Store<NodeBootstrap>,
    /// Nodes.
    pub nodes: Store<Node>,
    /// Reports.
    pub reports: Store<Report>,
    /// The agents' pods.
    pub pods: Store<AgentPod>,
    /// DaemonSets of agents.
    pub daemon_sets: Store<Owned>,
    /// ServiceAccounts of agents.
    pub service_accounts: Store<Owned>,
    /// Roles of agents.
    pub roles: Store<Owned>,
    /// RoleBindings of agents.
    pub role_bindings: Store<Owned>,
    /// Revisions.
    pub revisions: Store<Meta>,
    /// Secrets of the namespace.
    pub secrets: Store<Meta>,
    /// ConfigMaps of the namespace.
    pub config_maps: Store<Meta>,
}

impl World {
    /// The kinds that have not been listed yet.
    pub fn unsynced(&self) -> Vec<&'static str> {
        let Self {
            node_bootstraps,
            nodes,
            reports,
            pods,
            daemon_sets,
            service_accounts,
            roles,
            role_bindings,
            revisions,
            secrets,
            config_maps,
        } = self;
        [
            ("NodeBootstraps", node_bootstraps.is_synced()),
            ("Nodes", nodes.is_synced()),
            ("NodeBootstrapReports", reports.is_synced()),
            ("Pods", pods.is_synced()),
            ("DaemonSets", daemon_sets.is_synced()),
            ("ServiceAccounts", service_accounts.is_synced()),
            ("Roles", roles.is_synced()),
            ("RoleBindings", role_bindings.is_synced()),
            ("ControllerRevisions", revisions.is_synced()),
            ("Secrets", secrets.is_synced()),
            ("ConfigMaps", config_maps.is_synced()),
        ]
        .into_iter()
        .filter_map(|(kind, is_synced)| (!is_synced).then_some(kind))
        .collect()
    }

    /// The Reports of a NodeBootstrap, by their names: no NodeBootstrap's name has a dot in it.
    pub fn reports_of(&self, node_bootstrap: &str) -> Vec<Arc<Report>> {
        self.reports.with_prefix(&format!("{node_bootstrap}."))
    }

    /// The nodes that other NodeBootstraps than this one may disrupt, sorted.
    pub fn taken_beside(&self, node_bootstrap: &str) -> Vec<Taken> {
        let is_other =
            |report: &Arc<Report>| report.permit.id != 0 && report.node_bootstrap != node_bootstrap;
        let mut taken: Vec<_> = self
            .reports
            .all()
            .into_iter()
            .filter(is_other)
            .filter_map(|report| {
                let found = enrolment::use_of(&report, self.nodes.get(&report.node).as_deref());
                (found != Use::Over).then(|| Taken {
                    node: report.node.clone(),
                    by: report.node_bootstrap.clone(),
                    has_failed: found == Use::Failed,
                })
            })
            .collect();
        taken.sort_unstable();
        taken
    }

    /// The pods of a NodeBootstrap's agents.
    pub fn pods_of(&self, node_bootstrap: &str) -> Vec<Arc<AgentPod>> {
        let mut pods = self.pods.with_prefix(&format!("{}-", names::agent(node_bootstrap)));
        // Another NodeBootstrap's name may go on where this one's ends.
        pods.retain(|pod| pod.node_bootstrap == node_bootstrap);
        pods
    }

    /// The revisions made for a NodeBootstrap.
    pub fn revisions_of(&self, node_bootstrap: &str) -> Vec<Arc<Meta>> {
        of(&self.revisions, node_bootstrap)
    }

    /// The payloads made for a NodeBootstrap.
    pub fn payloads_of(&self, node_bootstrap: &str) -> Vec<Arc<Meta>> {
        of(&self.secrets, node_bootstrap)
    }

    /// Every name by which something is known that belongs to a NodeBootstrap, also one that is not there any more.
    pub fn known_names(&self) -> BTreeSet<String> {
        let mut known: BTreeSet<String> =
            self.node_bootstraps.all().iter().map(|one| one.name.clone()).collect();
        known
            .extend(self.reports.all().iter().filter_map(|one| Some(one.name.split_once('.')?.0.to_owned())));
        for owned in [&self.daemon_sets, &self.service_accounts, &self.roles, &self.role_bindings] {
            known.extend(owned.all().iter().map(|one| one.node_bootstrap.clone()));
        }
        for made in [&self.revisions, &self.secrets] {
            known.extend(made.all().iter().map(|one| one.node_bootstrap.clone()));
        }
        known.extend(self.nodes.all().iter().flat_map(|node| leaving_labels(node)));
        known.remove("");
        known
    }

    /// A NodeBootstrap has changed.
    pub fn node_bootstrap_changed(&self, queue: &Queue, change: &Change<NodeBootstrap>) {
        let Change { old, new } = change;
        let Some(either) = new.as_ref().or(old.as_ref()) else { return };
        let is_by_person = match (old, new) {
            (Some(old), Some(new)) => {
                old.generation != new.generation || old.uid != new.uid || old.deleting != new.deleting
            }
            _ => true,
        };
        if !is_by_person {
            queue.add(&either.name);
            return;
        }
        queue.add_urgent(&either.name);
        // What it claims or selects may matter to others.
        for other in self.node_bootstraps.all().iter().filter(|other| other.name != either.name) {
            queue.add(&other.name);
        }
    }

    /// A Node has changed.
    pub fn node_changed(&self, queue: &Queue, change: &Change<Node>) {
        let sides = [change.old.as_deref(), change.new.as_deref()];
        let sides = sides.into_iter().flatten();
        for one in self.node_bootstraps.all() {
            let is_meant =
                |spec: &NodeBootstrapSpec| sides.clone().any(|node| selection::selects(spec, node));
            if one.spec.as_ref().is_ok_and(is_meant) {
                queue.add(&one.name);
            }
        }
        for name in sides.flat_map(leaving_labels) {
            queue.add(&name);
        }
        // Reports of a node that is gone, or was made anew, under whatever NodeBootstrap.
        let (Some(old), new) = (&change.old, &change.new) else { return };
        if new.as_ref().is_none_or(|new| new.uid != old.uid) {
            for one in self.node_bootstraps.all() {
                if self.reports.get(&names::report(&one.name, &old.name)).is_some() {
                    queue.add(&one.name);
                }
            }
        }
    }

    /// A Report has changed.
    pub fn report_changed(&self, queue: &Queue, change: &Change<Report>) {
        let Change { old, new } = change;
        let Some(either) = new.as_ref().or(old.as_ref()) else { return };
        let own = either.name.split_once('.').map(|(own, _)| own).unwrap_or_default();
        queue.add(own);
        // Somebody may be waiting for this node to be done.
        let use_of = |report: &Option<Arc<Report>>| {
            let report = report.as_ref()?;
            Some(enrolment::use_of(report, self.nodes.get(&report.node).as_deref()))
        };
        let (before, now) = (use_of(old).unwrap_or(Use::Over), use_of(new).unwrap_or(Use::Over));
        if before != Use::Over && before != now {
            for other in self.node_bootstraps.all().iter().filter(|other| other.name != own) {
                queue.add(&other.name);
            }
        }
        let revision = |report: &Option<Arc<Report>>| report.as_ref().map(|one| one.revision.clone());
        if revision(old) == revision(new) {
            return;
        }
        // It claims something else now, or nothing any more: others on that node may go on.
        let Some(node) = self.nodes.get(&either.node) else { return };
        for one in self.node_bootstraps.all() {
            let is_there = one.spec.as_ref().is_ok_and(|spec| selection::selects(spec, &node));
            if is_there && one.name != own {
                queue.add(&one.name);
            }
        }
    }

    /// A pod of an agent has changed.
    pub fn pod_changed(&self, queue: &Queue, change: &Change<AgentPod>) {
        if let Some(pod) = change.new.as_ref().or(change.old.as_ref()) {
            queue.add(&pod.node_bootstrap);
        }
    }

    /// Something that we made for a NodeBootstrap has changed.
    pub fn owned_changed(&self, queue: &Queue, change: &Change<Owned>) {
        if let Some(owned) = change.new.as_ref().or(change.old.as_ref()) {
            queue.add(&owned.node_bootstrap);
        }
    }

    /// A revision has changed.
    pub fn revision_changed(&self, queue: &Queue, change: &Change<Meta>) {
        if let Some(revision) = change.new.as_ref().or(change.old.as_ref()) {
            queue.add(&revision.node_bootstrap);
        }
    }

    /// A Secret or ConfigMap has changed: one that we made, or one that specs refer to.
    pub fn referenced_changed(&self, queue: &Queue, source: Source, change: &Change<Meta>) {
        let Some(either) = change.new.as_ref().or(change.old.as_ref()) else { return };
        if !either.node_bootstrap.is_empty() {
            queue.add(&either.node_bootstrap);
        }
        for one in self.node_bootstraps.all() {
            let refers = |spec: &NodeBootstrapSpec| {
                references(spec).iter().any(|it| it.source == source && it.name == either.name)
            };
            if one.spec.as_ref().is_ok_and(refers) {
                // Somebody has changed what a spec refers to: that is as good as an edit of it.
                queue.add_urgent(&one.name);
            }
        }
    }
}

/// The state of agents by node: that of the best pod there.
pub fn agents(pods: &[Arc<AgentPod>]) -> HashMap<&str, &AgentState> {
    let mut agents: HashMap<&str, &AgentState> = HashMap::with_capacity(pods.len());
    for pod in pods {
        let best = agents.entry(pod.node.as_str()).or_insert(&pod.state);
        *best = (*best).min(&pod.state);
    }
    agents
}

fn of(store: &Store<Meta>, node_bootstrap: &str) -> Vec<Arc<Meta>> {
    store.all().into_iter().filter(|one| one.node_bootstrap == node_bootstrap).collect()
}

fn leaving_labels(node: &Node) -> Vec<String> {
    node.labels
        .keys()
        .filter_map(|key| key.strip_prefix(names::LEAVING_LABEL_PREFIX))
        .map(ToOwned::to_owned)
        .collect()
}
