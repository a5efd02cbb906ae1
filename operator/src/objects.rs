//! The objects that are made for a NodeBootstrap. In: its name and uid, and a few settings. Out: objects as they shall
//! be, and whether one that is there is as it shall be. No client is in reach.

use std::collections::BTreeMap;

use crds::nodebootstrap::{LabelOperator, LabelRequirement};
use crds::revision::Rendered;
use crds::{NodeBootstrapSpec, names};
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet,
};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;
use serde_json::Value;

use crate::observed::REVISION_NUMBER;
use crate::selection;

/// Value of [`names::LABEL_COMPONENT`] on what runs the agents.
pub const COMPONENT_AGENT: &str = "agent";
/// Value of [`names::LABEL_COMPONENT`] on revisions and payloads; the DaemonSet's selector must not match it.
pub const COMPONENT_REVISION: &str = "revision";
/// The agent's program in its image.
const AGENT_PROGRAM: &str = "/nodebootstrap-agent";

/// Who owns what is made here.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// The NodeBootstrap's name.
    pub name: &'a str,
    /// The NodeBootstrap's uid.
    pub uid: &'a str,
}

/// How agents are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSettings {
    /// The image.
    pub image: String,
    /// What the agent logs, as `RUST_LOG` has it; `None`: the agent's default.
    pub log: Option<String>,
}

/// The agents' ServiceAccount.
pub fn service_account(owner: Owner<'_>) -> core::ServiceAccount {
    core::ServiceAccount { metadata: agent_meta(owner), ..core::ServiceAccount::default() }
}

/// What the agents of this NodeBootstrap may do in the namespace: read revisions, and of all Secrets only its payloads.
/// What all agents may do with Reports is part of the installation.
pub fn role(owner: Owner<'_>, payloads: &[String]) -> Role {
    let rule = |group: &str, resource: &str, only: Option<Vec<String>>| PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        resource_names: only,
        verbs: vec!["get".to_owned()],
        ..PolicyRule::default()
    };
    let mut rules = vec![rule("apps", "controllerrevisions", None)];
    // No resourceNames would mean every Secret.
    if !payloads.is_empty() {
        rules.push(rule("", "secrets", Some(payloads.to_vec())));
    }
    Role { metadata: agent_meta(owner), rules: Some(rules) }
}

/// Gives the agents' ServiceAccount their Role.
pub fn role_binding(owner: Owner<'_>) -> RoleBinding {
    let name = names::agent(owner.name);
    RoleBinding {
        metadata: agent_meta(owner),
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: "Role".to_owned(),
            name: name.clone(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name,
            namespace: Some(names::NAMESPACE.to_owned()),
            ..Subject::default()
        }]),
    }
}

/// The agents of one NodeBootstrap.
pub fn daemon_set(owner: Owner<'_>, spec: &NodeBootstrapSpec, settings: &AgentSettings) -> DaemonSet {
    let labels = labels(owner, COMPONENT_AGENT);
    DaemonSet {
        metadata: agent_meta(owner),
        spec: DaemonSetSpec {
            selector: LabelSelector { match_labels: Some(labels.clone()), ..LabelSelector::default() },
            template: core::PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
                spec: Some(pod(owner, spec, settings)),
            },
            update_strategy: Some(DaemonSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDaemonSet {
                    max_unavailable: Some(IntOrString::String("10%".to_owned())),
                    ..RollingUpdateDaemonSet::default()
                }),
            }),
            ..DaemonSetSpec::default()
        },
        ..DaemonSet::default()
    }
}

fn pod(owner: Owner<'_>, spec: &NodeBootstrapSpec, settings: &AgentSettings) -> core::PodSpec {
    core::PodSpec {
        service_account_name: Some(names::agent(owner.name)),
        automount_service_account_token: Some(true),
        // The agent runs before any network of pods does, and resolves names as the host does. It needs no view of the
        // host's processes: it speaks to systemd over the socket below the host's root.
        host_network: Some(true),
        dns_policy: Some("Default".to_owned()),
        priority_class_name: Some("system-node-critical".to_owned()),
        tolerations: Some(vec![core::Toleration {
            operator: Some("Exists".to_owned()),
            ..core::Toleration::default()
        }]),
        affinity: Some(core::Affinity {
            node_affinity: Some(core::NodeAffinity {
                required_during_scheduling_ignored_during_execution: Some(node_selector(owner, spec)),
                ..core::NodeAffinity::default()
            }),
            ..core::Affinity::default()
        }),
        termination_grace_period_seconds: Some(30),
        containers: vec![container(owner, settings)],
        volumes: Some(vec![
            core::Volume {
                name: "host".to_owned(),
                host_path: Some(core::HostPathVolumeSource { path: "/".to_owned(), type_: None }),
                ..core::Volume::default()
            },
            core::Volume {
                name: "tmp".to_owned(),
                empty_dir: Some(core::EmptyDirVolumeSource::default()),
                ..core::Volume::default()
            },
        ]),
        ..core::PodSpec::default()
    }
}

fn container(owner: Owner<'_>, settings: &AgentSettings) -> core::Container {
    let env = |name: &str, value: &str| core::EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        ..core::EnvVar::default()
    };
    let node_name = core::EnvVar {
        name: "NODE_NAME".to_owned(),
        value_from: Some(core::EnvVarSource {
            field_ref: Some(core::ObjectFieldSelector {
                field_path: "spec.nodeName".to_owned(),
                ..core::ObjectFieldSelector::default()
            }),
            ..core::EnvVarSource::default()
        }),
        ..core::EnvVar::default()
    };
    let probe = |words: &[&str], period: i32, failures: i32| core::Probe {
        exec: Some(core::ExecAction {
            command: Some([AGENT_PROGRAM].iter().chain(words).map(|word| (*word).to_owned()).collect()),
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
        ..core::Probe::default()
    };
    let requests = [("cpu", "10m"), ("memory", "32Mi")];
    core::Container {
        name: COMPONENT_AGENT.to_owned(),
        image: Some(settings.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: Some(["run", "--root", "/host"].map(ToOwned::to_owned).to_vec()),
        env: Some(
            [node_name, env("NODE_BOOTSTRAP", owner.name)]
                .into_iter()
                .chain(settings.log.as_deref().map(|log| env("RUST_LOG", log)))
                .collect(),
        ),
        // No limit: an agent that is killed in the middle of a change is worse than one that takes more for a while.
        resources: Some(core::ResourceRequirements {
            requests: Some(
                requests
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), Quantity((*value).to_owned())))
                    .collect(),
            ),
            ..core::ResourceRequirements::default()
        }),
        readiness_probe: Some(probe(&["probe", "--ready"], 2, 3)),
        liveness_probe: Some(probe(&["probe"], 10, 6)),
        security_context: Some(core::SecurityContext {
            privileged: Some(true),
            read_only_root_filesystem: Some(true),
            run_as_user: Some(0),
            ..core::SecurityContext::default()
        }),
        volume_mounts: Some(vec![
            core::VolumeMount {
                name: "host".to_owned(),
                mount_path: "/host".to_owned(),
                // What is mounted on the host later is seen; what the agent mounts stays in its pod.
                mount_propagation: Some("HostToContainer".to_owned()),
                ..core::VolumeMount::default()
            },
            core::VolumeMount {
                name: "tmp".to_owned(),
                mount_path: "/tmp".to_owned(),
                ..core::VolumeMount::default()
            },
        ]),
        ..core::Container::default()
    }
}

/// The nodes that the spec selects, or those that are leaving. Terms are ORed, and what is in a term is ANDed.
fn node_selector(owner: Owner<'_>, spec: &NodeBootstrapSpec) -> core::NodeSelector {
    let linux = core::NodeSelectorRequirement {
        key: selection::OS_LABEL.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec!["linux".to_owned()]),
    };
    let leaving = core::NodeSelectorRequirement {
        key: names::leaving_label(owner.name),
        operator: "Exists".to_owned(),
        values: None,
    };
    let selected =
        selection::requirements(spec).into_iter().map(requirement).chain([linux.clone()]).collect();
    let term = |all| core::NodeSelectorTerm { match_expressions: Some(all), match_fields: None };
    core::NodeSelector { node_selector_terms: vec![term(selected), term(vec![leaving, linux])] }
}

fn requirement(requirement: LabelRequirement) -> core::NodeSelectorRequirement {
    let operator = match requirement.operator {
        LabelOperator::In => "In",
        LabelOperator::NotIn => "NotIn",
        LabelOperator::Exists => "Exists",
        LabelOperator::DoesNotExist => "DoesNotExist",
    };
    core::NodeSelectorRequirement {
        key: requirement.key,
        operator: operator.to_owned(),
        values: Some(requirement.values).filter(|values| !values.is_empty()),
    }
}

/// The revision as agents read it.
pub fn revision(
    owner: Owner<'_>,
    rendered: &Rendered,
    number: i64,
) -> serde_json::Result<ControllerRevision> {
    let mut metadata = meta(owner, &rendered.name, COMPONENT_REVISION);
    metadata.annotations = Some(BTreeMap::from([(REVISION_NUMBER.to_owned(), number.to_string())]));
    let data = serde_json::to_value(&rendered.revision)?;
    Ok(ControllerRevision { metadata, revision: Some(number), data: RawExtension(data) })
}

/// The secret values of a revision.
pub fn payload(owner: Owner<'_>, rendered: &Rendered) -> core::Secret {
    core::Secret {
        metadata: meta(owner, &rendered.name, COMPONENT_REVISION),
        immutable: Some(true),
        data: Some(
            rendered.payload.iter().map(|(key, value)| (key.clone(), ByteString(value.clone()))).collect(),
        ),
        ..core::Secret::default()
    }
}

fn agent_meta(owner: Owner<'_>) -> ObjectMeta {
    meta(owner, &names::agent(owner.name), COMPONENT_AGENT)
}

fn meta(owner: Owner<'_>, name: &str, component: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(names::NAMESPACE.to_owned()),
        labels: Some(labels(owner, component)),
        owner_references: Some(vec![OwnerReference {
            api_version: crds::NodeBootstrap::api_version(&()).into_owned(),
            kind: crds::NodeBootstrap::kind(&()).into_owned(),
            name: owner.name.to_owned(),
            uid: owner.uid.to_owned(),
            controller: Some(true),
            block_owner_deletion: None,
        }]),
        ..ObjectMeta::default()
    }
}

fn labels(owner: Owner<'_>, component: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (names::LABEL_NODE_BOOTSTRAP.to_owned(), owner.name.to_owned()),
        (names::LABEL_COMPONENT.to_owned(), component.to_owned()),
    ])
}

/// Whether an object that is there has all that we want of it. What the API server or others have added does not count,
/// and what it leaves out because it is empty or false is as good as there.
pub fn covers(wanted: &Value, found: &Value) -> bool {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            wanted.iter().all(|(key, wanted)| match found.get(key) {
                Some(found) => covers(wanted, found),
                None => is_empty(wanted),
            })
        }
        (Value::Array(wanted), Value::Array(found)) => match wanted.iter().map(name_of).collect() {
            // Lists of named things are merged by name, and others may add to them.
            Some::<Vec<_>>(names) => names.iter().zip(wanted).all(|(name, wanted)| {
                found.iter().any(|found| name_of(found) == Some(*name) && covers(wanted, found))
            }),
            None => {
                wanted.len() == found.len()
                    && wanted.iter().zip(found).all(|(wanted, found)| covers(wanted, found))
            }
        },
        (wanted, found) => wanted == found,
    }
}

fn name_of(value: &Value) -> Option<&str> {
    value.get("name").and_then(Value::as_str)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::nodebootstrap::NodeSelector;
    use crds::revision::Revision;
    use serde_json::json;

    const OWNER: Owner<'static> = Owner { name: "workers", uid: "0a1b" };

    fn spec() -> NodeBootstrapSpec {
        NodeBootstrapSpec {
            node_selector: Some(NodeSelector {
                match_labels: BTreeMap::from([("pool".to_owned(), "blue".to_owned())]),
                match_expressions: vec![LabelRequirement {
                    key: selection::CONTROL_PLANE_LABEL.to_owned(),
                    operator: LabelOperator::DoesNotExist,
                    values: Vec::new(),
                }],
            }),
            ..NodeBootstrapSpec::default()
        }
    }

    fn daemon_set_of(log: Option<&str>) -> DaemonSet {
        let settings =
            AgentSettings { image: "nodebootstrap/agent:1.2.3".to_owned(), log: log.map(ToOwned::to_owned) };
        daemon_set(OWNER, &spec(), &settings)
    }

    fn rendered() -> Rendered {
        Rendered {
            name: "workers-0011223344556677".to_owned(),
            revision: Revision {
                format: 1,
                preset_version: 1,
                node_bootstrap: "workers".to_owned(),
                uid: "0a1b".to_owned(),
                cluster: "c".to_owned(),
                trust: crds::revision::Trust::default(),
                presets: crds::revision::Presets::default(),
                resources: Vec::new(),
            },
            payload: BTreeMap::from([("key".to_owned(), b"value".to_vec())]),
        }
    }

    #[test]
    fn the_daemon_set_is_as_it_was_agreed() {
        insta::assert_yaml_snapshot!("daemon_set", daemon_set_of(None));
    }

    #[test]
    fn the_daemon_set_s_selector_matches_its_pods_and_neither_revision_nor_payload() {
        let set = daemon_set_of(None).spec;
        let selector = set.selector.match_labels.unwrap();
        let matches = |labels: Option<BTreeMap<String, String>>| {
            let labels = labels.unwrap();
            selector.iter().all(|(key, value)| labels.get(key) == Some(value))
        };
        assert!(matches(set.template.metadata.unwrap().labels));
        assert!(!matches(revision(OWNER, &rendered(), 1).unwrap().metadata.labels));
        assert!(!matches(payload(OWNER, &rendered()).metadata.labels));
    }

    #[test]
    fn the_role_names_payloads_and_without_any_gives_no_secret_at_all() {
        let none = role(OWNER, &[]).rules.unwrap();
        assert!(none.iter().all(|rule| rule.resources.as_ref().unwrap() != &["secrets"]));
        let some = role(OWNER, &["workers-1".to_owned()]).rules.unwrap();
        assert_eq!(some[1].resource_names.as_ref().unwrap(), &["workers-1"]);
        assert_eq!(some[1].verbs, ["get"]);
    }

    #[test]
    fn what_the_api_server_adds_is_no_difference_and_what_somebody_changes_is() {
        let wanted = serde_json::to_value(daemon_set_of(Some("debug"))).unwrap();
        let mut found = wanted.clone();
        found["metadata"]["annotations"] = json!({"deprecated.daemonset.template.generation": "1"});
        found["spec"]["revisionHistoryLimit"] = json!(10);
        let container = "/spec/template/spec/containers/0";
        found.pointer_mut(container).unwrap()["terminationMessagePath"] = json!("/dev/termination-log");
        // A webhook of somebody else.
        let env = found.pointer_mut(&format!("{container}/env")).unwrap().as_array_mut().unwrap();
        env.insert(0, json!({"name": "HTTP_PROXY", "value": "x"}));
        assert!(covers(&wanted, &found));

        for (path, value) in [
            ("/spec/template/spec/hostNetwork", json!(false)),
            ("/spec/template/spec/containers/0/image", json!("evil:1")),
            ("/spec/template/spec/containers/0/args", json!(["run"])),
            ("/spec/template/spec/tolerations", json!([])),
            ("/metadata/ownerReferences", json!([])),
            ("/spec/template/spec/containers/0/env", json!([])),
        ] {
            let mut changed = found.clone();
            *changed.pointer_mut(path).unwrap() = value;
            assert!(!covers(&wanted, &changed), "{path}");
        }
    }

    #[test]
    fn what_is_left_out_since_it_is_empty_is_no_difference() {
        assert!(covers(&json!({"a": false, "b": {}, "c": [], "d": null, "e": ""}), &json!({})));
        assert!(!covers(&json!({"a": 0}), &json!({})));
        assert!(!covers(&json!({"a": true}), &json!({})));
    }
}
