//! Which nodes a NodeBootstrap means. In: its spec and a node. Out: yes or no.
//!
//! The rules are those of `nodeAffinity`, since the DaemonSet's affinity is made from the same selector
//! ([`requirements`]): agent and Report must come to the same nodes.

use std::collections::BTreeMap;

use crds::NodeBootstrapSpec;
use crds::nodebootstrap::{LabelOperator, LabelRequirement};

use crate::observed::Node;

/// The label that tells a node's operating system; kubelets always set it.
pub const OS_LABEL: &str = "kubernetes.io/os";
/// The label of nodes that run the control plane.
pub const CONTROL_PLANE_LABEL: &str = "node-role.kubernetes.io/control-plane";

/// Labels under these prefixes are refused to kubelets, so that no node can select itself by them.
const GUARDED_PREFIXES: &[&str] = &["node-role.kubernetes.io/", "node-restriction.kubernetes.io/"];

/// Whether the spec means this node.
pub fn selects(spec: &NodeBootstrapSpec, node: &Node) -> bool {
    // Evaluated without building the requirements: this runs for each node and NodeBootstrap of a pass.
    let Node { is_linux, labels, .. } = node;
    let Some(selector) = &spec.node_selector else {
        return *is_linux && spec.all_nodes == Some(true);
    };
    let is_empty = selector.match_labels.is_empty() && selector.match_expressions.is_empty();
    *is_linux
        && !is_empty
        && selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        && selector.match_expressions.iter().all(|requirement| holds(requirement, labels))
}

/// The selector as one list of requirements that must all hold, without the one on the operating system.
pub fn requirements(spec: &NodeBootstrapSpec) -> Vec<LabelRequirement> {
    let Some(selector) = &spec.node_selector else { return Vec::new() };
    selector
        .match_labels
        .iter()
        .map(|(key, value)| LabelRequirement {
            key: key.clone(),
            operator: LabelOperator::In,
            values: vec![value.clone()],
        })
        .chain(selector.match_expressions.iter().cloned())
        .collect()
}

/// Whether a kubelet could make its own node selected: the selector uses no label that is refused to kubelets.
pub fn is_open(spec: &NodeBootstrapSpec) -> bool {
    !requirements(spec).iter().any(|requirement| {
        // `NotIn` and `DoesNotExist` are met by nodes that nobody has labelled.
        matches!(requirement.operator, LabelOperator::In | LabelOperator::Exists)
            && GUARDED_PREFIXES.iter().any(|prefix| is_under(&requirement.key, prefix))
    })
}

/// `example.node-restriction.kubernetes.io/x` is as guarded as `node-restriction.kubernetes.io/x`.
fn is_under(key: &str, prefix: &str) -> bool {
    key.starts_with(prefix) || key.contains(&format!(".{prefix}"))
}

fn holds(requirement: &LabelRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&requirement.key);
    match requirement.operator {
        LabelOperator::In => value.is_some_and(|value| requirement.values.contains(value)),
        LabelOperator::NotIn => !value.is_some_and(|value| requirement.values.contains(value)),
        LabelOperator::Exists => value.is_some(),
        LabelOperator::DoesNotExist => value.is_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::nodebootstrap::NodeSelector;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn node(pairs: &[(&str, &str)]) -> Node {
        Node::default().labelled(labels(pairs))
    }

    fn spec(operator: LabelOperator, values: &[&str]) -> NodeBootstrapSpec {
        let requirement = LabelRequirement {
            key: "zone".to_owned(),
            operator,
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        };
        NodeBootstrapSpec {
            node_selector: Some(NodeSelector {
                match_expressions: vec![requirement],
                ..NodeSelector::default()
            }),
            ..NodeBootstrapSpec::default()
        }
    }

    #[test]
    fn operators_mean_what_they_mean_to_kubernetes() {
        let (a, c, none) = (
            node(&[(OS_LABEL, "linux"), ("zone", "a")]),
            node(&[(OS_LABEL, "linux"), ("zone", "c")]),
            node(&[(OS_LABEL, "linux")]),
        );
        for (operator, values, expected) in [
            (LabelOperator::In, &["a", "b"][..], [true, false, false]),
            (LabelOperator::NotIn, &["a", "b"][..], [false, true, true]),
            (LabelOperator::Exists, &[][..], [true, true, false]),
            (LabelOperator::DoesNotExist, &[][..], [false, false, true]),
        ] {
            let spec = spec(operator, values);
            let got = [&a, &c, &none].map(|node| selects(&spec, node));
            assert_eq!(got, expected, "{operator:?}");
        }
    }

    #[test]
    fn labels_and_expressions_must_both_hold_and_only_linux_counts() {
        let mut spec = spec(LabelOperator::Exists, &[]);
        spec.node_selector.as_mut().unwrap().match_labels = labels(&[("role", "worker")]);
        assert!(selects(&spec, &node(&[(OS_LABEL, "linux"), ("zone", "a"), ("role", "worker")])));
        assert!(!selects(&spec, &node(&[(OS_LABEL, "linux"), ("zone", "a"), ("role", "db")])));
        assert!(!selects(&spec, &node(&[(OS_LABEL, "linux"), ("role", "worker")])));
        assert!(!selects(&spec, &node(&[(OS_LABEL, "windows"), ("zone", "a"), ("role", "worker")])));
        assert!(!selects(&spec, &node(&[("zone", "a"), ("role", "worker")])));
    }

    #[test]
    fn an_empty_selector_selects_nothing_and_all_nodes_selects_linux() {
        let empty = NodeBootstrapSpec {
            node_selector: Some(NodeSelector::default()),
            ..NodeBootstrapSpec::default()
        };
        let all = NodeBootstrapSpec { all_nodes: Some(true), ..NodeBootstrapSpec::default() };
        let linux = node(&[(OS_LABEL, "linux")]);
        assert!(!selects(&empty, &linux));
        assert!(!selects(&NodeBootstrapSpec::default(), &linux));
        assert!(selects(&all, &linux));
        assert!(!selects(&all, &node(&[(OS_LABEL, "windows")])));
    }

    #[test]
    fn a_selector_is_closed_only_by_labels_that_kubelets_cannot_set() {
        let by = |key: &str, operator| {
            let mut spec = spec(operator, &["x"]);
            spec.node_selector.as_mut().unwrap().match_expressions[0].key = key.to_owned();
            is_open(&spec)
        };
        assert!(by("zone", LabelOperator::In));
        assert!(!by("node-role.kubernetes.io/worker", LabelOperator::Exists));
        assert!(!by("node-restriction.kubernetes.io/x", LabelOperator::In));
        assert!(!by("example.com.node-restriction.kubernetes.io/x", LabelOperator::In));
        assert!(by("node-role.kubernetes.io/control-plane", LabelOperator::DoesNotExist));
        assert!(is_open(&NodeBootstrapSpec { all_nodes: Some(true), ..NodeBootstrapSpec::default() }));
    }
}
