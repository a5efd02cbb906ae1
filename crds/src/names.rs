//! Names that two parts must agree on. In: the name of a NodeBootstrap or Node. Out: the name of what belongs to it.

use sha2::{Digest, Sha256};

/// API group of both kinds.
pub const GROUP: &str = "nodebootstrap.io";
/// API version of both kinds.
pub const VERSION: &str = "v1alpha1";
/// Where the operator, its agents, revisions and everything that a spec refers to live.
pub const NAMESPACE: &str = "nodebootstrap-system";
/// Field manager of the operator's writes.
pub const OPERATOR: &str = "nodebootstrap-operator";
/// Field manager of the agent's writes; also the prefix of its objects' names.
pub const AGENT: &str = "nodebootstrap-agent";
/// State of the agent on the host: ledger, lock, plans.
pub const STATE_DIR: &str = "/var/lib/nodebootstrap";

/// The revision that takes everything back: a Report with `leave: Revert` names it to its agent, which answers by it. No
/// NodeBootstrap's revision has this name: those end with a hash.
pub const REVERT: &str = "revert";

/// Finalizer of a NodeBootstrap: held until every node has left.
pub const FINALIZER: &str = "nodebootstrap.io/leave";
/// Label that carries the NodeBootstrap's name on each object made for it, agents' pods included.
pub const LABEL_NODE_BOOTSTRAP: &str = "nodebootstrap.io/name";
/// Label that tells what an object made for a NodeBootstrap is: `agent`, `revision`.
///
/// Revisions must not carry what the DaemonSet's selector matches, or the DaemonSet controller adopts and prunes
/// them; hence the value differs.
pub const LABEL_COMPONENT: &str = "nodebootstrap.io/component";
/// Label of every Report: the NodeBootstrap's name, for `kubectl get nbr -l`.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Prefix of the label that keeps an agent on a node that is leaving. No kubelet can set it on its own Node:
/// NodeRestriction refuses labels under `node-restriction.kubernetes.io/`.
pub const LEAVING_LABEL_PREFIX: &str = "nodebootstrap.node-restriction.kubernetes.io/leaving-";

/// Annotation of a Node that stops every change there, whatever its value is but "false".
pub const PAUSED: &str = "nodebootstrap.io/paused";

/// Annotation of a Node by which somebody asks for another attempt of what was rolled back there: any value that it did not
/// have before.
pub const RETRY: &str = "nodebootstrap.io/retry";
/// The most of its value that counts, in characters.
pub const MAX_RETRY: usize = 64;

/// The longest name of a NodeBootstrap: a DNS label that leaves room for what is made from it.
pub const MAX_NAME: usize = 50;

/// The longest name of a Kubernetes object.
const MAX_OBJECT_NAME: usize = 253;

/// Name of the DaemonSet, ServiceAccount, Role and RoleBinding of one NodeBootstrap's agents.
pub fn agent(node_bootstrap: &str) -> String {
    format!("{AGENT}-{node_bootstrap}")
}

/// Key of the label that keeps an agent on a node that is leaving.
pub fn leaving_label(node_bootstrap: &str) -> String {
    format!("{LEAVING_LABEL_PREFIX}{node_bootstrap}")
}

/// Name of the Report of one NodeBootstrap on one node: `<nb>.<node>`, cut and made unique by a hash above 253
/// characters.
pub fn report(node_bootstrap: &str, node: &str) -> String {
    let name = format!("{node_bootstrap}.{node}");
    if name.len() <= MAX_OBJECT_NAME {
        return name;
    }
    let hash = hex::encode(Sha256::digest(name.as_bytes()));
    let kept: String = name.chars().take(MAX_OBJECT_NAME - 11).collect();
    // What is kept may end in a character that no name may have before the hash's dash.
    format!("{}-{}", kept.trim_end_matches(['.', '-']), &hash[..10])
}

/// The Secret with the key that hides secret values in revisions; nobody but the operator reads it.
pub const HMAC_KEY_SECRET: &str = "nodebootstrap-hmac-key";

/// Name of a revision and of its payload Secret: `<nb>-<hash>`.
pub fn revision(node_bootstrap: &str, hash: &str) -> String {
    format!("{node_bootstrap}-{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_s_name_is_an_object_s_name_however_long_the_node_s_is() {
        assert_eq!(report("workers", "worker1"), "workers.worker1");
        let (a, b) = ("a".repeat(252), "a".repeat(251) + "b");
        assert!(report("workers", &a).len() <= MAX_OBJECT_NAME);
        assert_ne!(report("workers", &a), report("workers", &b));
        let dotted = format!("{}.{}", "a".repeat(233), "b".repeat(19));
        assert!(!report("workers", &dotted).contains(".-"));
    }
}
