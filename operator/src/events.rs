//! What a person is told when something changed. In: the status before and after. Out: Events, only upon transitions:
//! the same status twice gives none.

use std::collections::BTreeSet;

use crds::NodeBootstrapStatus;
use crds::names::STATE_DIR;
use crds::nodebootstrap::{NodePhase, NodeResult};
use crds::text::clip;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::status::{self, CONFLICT, LEAVING, PLANNED, READY, STALLED};

/// The most Events about single nodes in one pass; the status has the rest.
const MAX_NODES: usize = 10;
/// The most characters of an Event's note.
const MAX_NOTE: usize = 1000;

/// One Event about a NodeBootstrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Whether it is something to look at.
    pub is_warning: bool,
    /// One word for what happened.
    pub reason: String,
    /// One line.
    pub note: String,
    /// The node that it is about.
    pub node: Option<String>,
}

impl Notice {
    /// Something to look at.
    pub fn warning(reason: &str, note: &str, node: Option<&str>) -> Self {
        Self {
            is_warning: true,
            reason: reason.to_owned(),
            note: clip(note, MAX_NOTE),
            node: node.map(ToOwned::to_owned),
        }
    }

    fn normal(reason: &str, note: &str) -> Self {
        Self { is_warning: false, ..Self::warning(reason, note, None) }
    }

    /// A node that did not answer in time while it was leaving.
    pub fn given_up(node: &str, node_bootstrap: &str) -> Self {
        let note = format!(
            "{node} has not answered and is given up: what was made on it stays, and so does the claim to it; `rm -r {STATE_DIR}/{node_bootstrap}` on the node gives the claim up"
        );
        Self::warning("NodeGivenUp", &note, Some(node))
    }
}

/// What changed between two statuses. `is_open_with_secrets`: the spec has secrets and any kubelet may select itself.
pub fn between(
    before: &NodeBootstrapStatus,
    after: &NodeBootstrapStatus,
    is_open_with_secrets: bool,
) -> Vec<Notice> {
    let mut notices = Vec::new();
    let flipped = status::find(after, READY).filter(|now| {
        let old = status::find(before, READY).map(|old| old.status.as_str());
        // The first status of all says that it has begun; that it is not ready yet is no news.
        old != Some(now.status.as_str()) && (old.is_some() || now.status == "True")
    });
    if let Some(ready) = flipped {
        notices.push(match (ready.status.as_str(), ready.reason.as_str()) {
            ("True", PLANNED) => Notice::normal(PLANNED, &ready.message),
            ("True", _) => Notice::normal("Ready", &ready.message),
            (_, reason @ ("Progressing" | LEAVING)) => Notice::normal(reason, &ready.message),
            (_, reason) => Notice::warning(reason, &ready.message, None),
        });
    }
    let stalled = status::find(after, STALLED).filter(|now| {
        let is_same = |old: &&Condition| old.status == now.status && old.reason == now.reason;
        // A conflict is told with the node that has it.
        now.status == "True"
            && now.reason != CONFLICT
            && status::find(before, STALLED).filter(is_same).is_none()
    });
    if let Some(stalled) = stalled {
        notices.push(Notice::warning(&stalled.reason, &stalled.message, None));
    }
    let failed_before: BTreeSet<_> = failed(before).map(|one| &one.node).collect();
    notices.extend(failed(after).filter(|one| !failed_before.contains(&one.node)).take(MAX_NODES).map(
        |one| {
            let reason = if one.reason == CONFLICT { CONFLICT } else { "NodeFailed" };
            let note = format!("{}: {}", one.node, one.message);
            Notice::warning(reason, &note, Some(&one.node))
        },
    ));
    if is_open_with_secrets && before.observed_generation != after.observed_generation {
        notices.push(Notice::warning(
            "SecretsOnOpenSelector",
            "files have secretRef, and the nodeSelector uses no label under node-role.kubernetes.io/ or node-restriction.kubernetes.io/: whoever has one node's kubelet can label it and read the secrets; select by such a label",
            None,
        ));
    }
    // A reason twice in one pass says the same thing twice.
    let mut said = BTreeSet::new();
    notices.retain(|notice| said.insert((notice.reason.clone(), notice.node.clone())));
    notices
}

fn failed(status: &NodeBootstrapStatus) -> impl Iterator<Item = &NodeResult> {
    status.results.iter().filter(|result| result.phase == NodePhase::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    fn condition(type_: &str, status: &str, reason: &str) -> Condition {
        Condition {
            type_: type_.into(),
            status: status.into(),
            reason: reason.into(),
            message: format!("{reason} it is"),
            observed_generation: Some(1),
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        }
    }

    fn status(ready: (&str, &str), stalled: (&str, &str), failed: &[&str]) -> NodeBootstrapStatus {
        NodeBootstrapStatus {
            observed_generation: Some(1),
            conditions: vec![condition(READY, ready.0, ready.1), condition(STALLED, stalled.0, stalled.1)],
            results: failed
                .iter()
                .map(|node| NodeResult {
                    node: (*node).into(),
                    phase: NodePhase::Failed,
                    revision: None,
                    reason: "DigestMismatch".into(),
                    message: "binary /x".into(),
                })
                .collect(),
            ..NodeBootstrapStatus::default()
        }
    }

    fn reasons(before: &NodeBootstrapStatus, after: &NodeBootstrapStatus) -> Vec<String> {
        between(before, after, true).into_iter().map(|notice| notice.reason).collect()
    }

    #[test]
    fn only_a_transition_is_told_and_once() {
        let start = NodeBootstrapStatus::default();
        let working = status(("False", "Progressing"), ("False", "Moving"), &[]);
        let failing = status(("False", "NodesFailed"), ("False", "Moving"), &["a", "b"]);
        let ready = status(("True", "NodesReady"), ("False", "Moving"), &[]);
        assert_eq!(reasons(&start, &working), ["SecretsOnOpenSelector"]);
        assert_eq!(reasons(&working, &failing), ["NodeFailed", "NodeFailed"]);
        assert_eq!(reasons(&failing, &ready), ["Ready"]);
        assert_eq!(reasons(&ready, &working), ["Progressing"]);
        let planned = status(("True", "Planned"), ("False", "Moving"), &[]);
        assert_eq!(reasons(&working, &planned), ["Planned"], "nobody takes it for Ready");
        for one in [&working, &failing, &ready] {
            assert_eq!(reasons(one, one), [""; 0]);
        }
    }

    #[test]
    fn a_stall_is_told_with_its_reason_and_not_twice() {
        let ready = status(("True", "NodesReady"), ("False", "Moving"), &[]);
        let stalled = status(("False", "ReferenceMissing"), ("True", "ReferenceMissing"), &[]);
        assert_eq!(reasons(&ready, &stalled), ["ReferenceMissing"]);
        assert_eq!(reasons(&stalled, &stalled), [""; 0]);
        let start = NodeBootstrapStatus::default();
        assert_eq!(reasons(&start, &stalled), ["ReferenceMissing", "SecretsOnOpenSelector"]);
    }

    #[test]
    fn many_failing_nodes_give_a_few_events() {
        let names: Vec<_> = (0..50).map(|number| format!("n{number:02}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let ready = status(("True", "NodesReady"), ("False", "Moving"), &[]);
        let failing = status(("False", "NodesFailed"), ("False", "Moving"), &names);
        let told = between(&ready, &failing, false);
        assert_eq!(told.len(), 1 + MAX_NODES);
    }
}
