//! Several NodeBootstraps on one node. In: what each claims, where it is, and which is older. Out: what the younger
//! ones must leave alone, by node.
//!
//! Two claims are compared once a pair of NodeBootstraps, not once a node: the nodes are looked at only where the pair
//! has something in common.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use crds::report::{Conflict, MAX_CONFLICTS};
use crds::revision::{Resource, Revision, whole_of};
use k8s_openapi::jiff::Timestamp;

use crate::observed::Node;

/// What a set of resources claims: the claim, and the resource that has it as users know it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims(BTreeMap<(&'static str, String), String>);

impl Claims {
    /// What these resources claim.
    pub fn of(resources: &[Resource]) -> Self {
        Self(
            resources
                .iter()
                .flat_map(|resource| {
                    resource.claims().into_iter().map(move |claim| (claim, resource.to_string()))
                })
                .collect(),
        )
    }

    /// What a revision claims.
    pub fn of_revision(revision: &Revision) -> Self {
        let mut claims = Self::of(&revision.resources);
        claims.0.extend(revision.presets.claims(&revision.node_bootstrap));
        claims
    }

    /// Adds what `other` claims.
    pub fn extend(&mut self, other: &Self) {
        self.0.extend(other.0.iter().map(|(claim, resource)| (claim.clone(), resource.clone())));
    }

    /// The resources of `self` that claim what `other` claims too.
    fn shared_with(&self, other: &Self) -> BTreeSet<&str> {
        let in_parts: BTreeSet<_> = other.0.keys().filter_map(whole_of).collect();
        let is_shared = |claim: &(&'static str, String)| {
            other.0.contains_key(claim)
                || in_parts.contains(claim)
                || whole_of(claim).is_some_and(|whole| other.0.contains_key(&whole))
        };
        self.0.iter().filter(|(claim, _)| is_shared(claim)).map(|(_, resource)| resource.as_str()).collect()
    }
}

/// One NodeBootstrap among those that may share nodes.
pub struct Contender {
    /// Its name.
    pub name: String,
    /// Its `creationTimestamp`.
    pub created: Timestamp,
    /// What it claims: by the revision that it wants, and by any that its Reports still name. So a thing is free only
    /// when the last Report of the older one has left it, and no agent is told to take what another still writes. Of
    /// another one in mode Plan: nothing, since it changes nothing.
    pub claims: Claims,
    /// Whether it is, or is about to be, on a node.
    pub is_on: Box<dyn Fn(&Node) -> bool + Send + Sync>,
}

impl Contender {
    /// The older one keeps what both claim. Neither flips, since neither time of creation nor name ever change.
    fn age(&self, other: &Self) -> Ordering {
        (self.created, &self.name).cmp(&(other.created, &other.name))
    }

    /// Whether this one came before `other`.
    pub fn is_older_than(&self, other: &Self) -> bool {
        self.age(other) == Ordering::Less
    }
}

/// What `me` must leave alone, by node; nodes without a conflict are not listed.
pub fn by_node<'a>(
    me: &Contender,
    all: &[Contender],
    nodes: impl Iterator<Item = &'a Node> + Clone,
) -> BTreeMap<String, Vec<Conflict>> {
    let mut found: BTreeMap<String, Vec<Conflict>> = BTreeMap::new();
    for older in all.iter().filter(|other| other.is_older_than(me)) {
        let shared = me.claims.shared_with(&older.claims);
        if shared.is_empty() {
            continue;
        }
        for node in nodes.clone().filter(|node| (me.is_on)(node) && (older.is_on)(node)) {
            found.entry(node.name.clone()).or_default().extend(
                shared
                    .iter()
                    .map(|resource| Conflict { resource: (*resource).to_owned(), with: older.name.clone() }),
            );
        }
    }
    for conflicts in found.values_mut() {
        conflicts.sort();
        conflicts.dedup();
        conflicts.truncate(MAX_CONFLICTS);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::revision::{Group, Unit};
    use proptest::prelude::*;

    fn group(name: &str) -> Resource {
        Resource::Group(Group { name: name.parse().unwrap(), gid: None, system: true })
    }

    fn node(name: &str) -> Node {
        Node { name: name.to_owned(), ..Node::default() }
    }

    /// (seconds of creation, claimed groups, nodes) of the contender with the same index.
    type Drawn = (i64, BTreeSet<u8>, BTreeSet<u8>);

    fn contender(index: usize, (created, groups, on): &Drawn) -> Contender {
        let resources: Vec<_> = groups.iter().map(|number| group(&format!("g{number}"))).collect();
        let on = on.clone();
        Contender {
            name: ["a", "b", "c", "d"][index].to_owned(),
            created: Timestamp::from_second(*created).unwrap(),
            claims: Claims::of(&resources),
            is_on: Box::new(move |node| on.iter().any(|number| node.name == format!("n{number}"))),
        }
    }

    fn drawn() -> impl Strategy<Value = Vec<Drawn>> {
        prop::collection::vec(
            (0..3i64, prop::collection::btree_set(0..6u8, 0..5), prop::collection::btree_set(0..4u8, 0..4)),
            1..5,
        )
    }

    proptest! {
        #[test]
        fn of_those_that_claim_a_thing_on_a_node_the_oldest_is_free_of_it_and_the_others_are_told(drawn in drawn()) {
            let nodes: Vec<_> = (0..4).map(|number| node(&format!("n{number}"))).collect();
            let all: Vec<_> = drawn.iter().enumerate().map(|(index, one)| contender(index, one)).collect();
            let told: Vec<_> = all.iter().map(|me| by_node(me, &all, nodes.iter())).collect();
            for number in 0..6u8 {
                for node in &nodes {
                    let resource = format!("group g{number}");
                    let mut claiming: Vec<_> = (0..all.len())
                        .filter(|index| drawn[*index].1.contains(&number) && (all[*index].is_on)(node))
                        .collect();
                    claiming.sort_by_key(|index| (drawn[*index].0, all[*index].name.clone()));
                    let is_told = |index: usize| {
                        told[index].get(&node.name).is_some_and(|list| list.iter().any(|one| one.resource == resource))
                    };
                    for (place, index) in claiming.iter().enumerate() {
                        // With more than ten conflicts the list is cut, but the node still has some.
                        let has_any = told[*index].contains_key(&node.name);
                        if place == 0 {
                            prop_assert!(!is_told(*index));
                        } else {
                            prop_assert!(has_any);
                        }
                    }
                }
            }
        }

        #[test]
        fn the_order_in_which_they_are_seen_changes_nothing(drawn in drawn(), seed in any::<u64>()) {
            let nodes: Vec<_> = (0..4).map(|number| node(&format!("n{number}"))).collect();
            let all: Vec<_> = drawn.iter().enumerate().map(|(index, one)| contender(index, one)).collect();
            let mut shuffled: Vec<_> = drawn.iter().enumerate().map(|(index, one)| contender(index, one)).collect();
            shuffled.sort_by_key(|one| one.name.len() as u64 ^ seed.rotate_left(u32::from(one.name.as_bytes()[0])));
            for me in &all {
                prop_assert_eq!(
                    by_node(me, &all, nodes.iter()),
                    by_node(me, &shuffled, nodes.iter().rev())
                );
            }
        }
    }

    #[test]
    fn parts_of_one_file_are_for_many_but_not_beside_who_has_the_whole() {
        use crds::revision::{Anchor, Part};
        let part = |name: &str, anchor: Anchor| {
            Resource::Part(Part {
                path: "/etc/a#b".parse().unwrap(),
                shown: format!("/etc/a#b#{name}"),
                anchor,
                text: String::new(),
                restart: Vec::new(),
            })
        };
        let block = |name: &str| part(name, Anchor::Block { comment: "#".to_owned(), name: name.to_owned() });
        let line = |name: &str| part(name, Anchor::Begins("x=".to_owned()));
        let whole = |path: &str| {
            Resource::Symlink(crds::revision::Symlink {
                path: path.parse().unwrap(),
                target: "x".parse().unwrap(),
            })
        };
        for (one, other, clash) in [
            (block("p"), block("q"), false),
            (block("p"), block("p"), true),
            (line("p"), line("q"), true),
            (block("p"), line("q"), false),
            (block("p"), whole("/etc/a#b"), true),
            (line("p"), whole("/etc/a#b"), true),
            (line("p"), whole("/etc/a"), false),
        ] {
            let (one, other) = (Claims::of(&[one]), Claims::of(&[other]));
            assert_eq!(!one.shared_with(&other).is_empty(), clash, "{one:?} {other:?}");
            assert_eq!(!other.shared_with(&one).is_empty(), clash, "{other:?} {one:?}");
        }
    }

    #[test]
    fn a_node_s_kubelet_is_one_claim_whatever_is_asked_of_it() {
        let spec = |yaml: serde_json::Value| serde_json::from_value::<crds::NodeBootstrapSpec>(yaml).unwrap();
        let claims_of = |name: &str, yaml| {
            let identity = crds::revision::Identity {
                node_bootstrap: name.to_owned(),
                uid: String::new(),
                cluster: String::new(),
            };
            let rendered = crds::revision::render(&identity, &spec(yaml), &BTreeMap::new(), &[]).unwrap();
            Claims::of_revision(&rendered.revision)
        };
        let claims = |yaml| claims_of("nb", yaml);
        let digest = "0".repeat(64);
        let version = serde_json::json!({
            "allNodes": true,
            "kubelet": {"version": "v1.36.3", "sha256": {"amd64": digest}},
            "kernel": {"preset": "kubernetes", "sysctls": {"net.ipv4.ip_forward": "1"}},
        });
        let version = claims_of("older", version);
        let limits = claims(serde_json::json!({"allNodes": true, "kubelet": {"config": {"maxPods": 200}}}));
        assert_eq!(limits.shared_with(&version), BTreeSet::from(["kubelet"]));
        let runtime =
            claims(serde_json::json!({"allNodes": true, "containerRuntime": {"type": "containerd"}}));
        assert_eq!(runtime.shared_with(&version), BTreeSet::new());
        assert_eq!(runtime.shared_with(&runtime), BTreeSet::from(["containerRuntime"]));
        let binary = serde_json::json!({"path": "/usr/local/sbin/kubelet", "url": "http://a/b", "sha256": {"amd64": digest}});
        let by_hand = claims(serde_json::json!({"allNodes": true, "binaries": [binary]}));
        assert_eq!(by_hand.shared_with(&version), BTreeSet::from(["binary /usr/local/sbin/kubelet"]));
        let sysctl = claims(
            serde_json::json!({"allNodes": true, "kernel": {"sysctls": {"net.ipv4.ip_forward": "0"}}}),
        );
        assert_eq!(sysctl.shared_with(&version), BTreeSet::from(["sysctl net.ipv4.ip_forward"]));
    }

    #[test]
    fn a_unit_s_file_is_one_claim_with_the_file_of_that_path() {
        let unit = Resource::Unit(Unit {
            name: "hello.service".parse().unwrap(),
            content: Some(String::new()),
            enabled: None,
            active: None,
            masked: None,
        });
        let file = Resource::Binary(crds::revision::Binary {
            path: "/etc/systemd/system/hello.service".parse().unwrap(),
            access: crds::revision::Access {
                owner: crds::AccountRef::root(),
                group: crds::AccountRef::root(),
                mode: crds::Mode::from_bits(0o644),
            },
            urls: Vec::new(),
            sha256: BTreeMap::new(),
            version: None,
            restart: Vec::new(),
        });
        let on = |_: &Node| true;
        let older = Contender {
            name: "older".to_owned(),
            created: Timestamp::UNIX_EPOCH,
            claims: Claims::of(&[file]),
            is_on: Box::new(on),
        };
        let younger = Contender {
            name: "younger".to_owned(),
            created: Timestamp::from_second(1).unwrap(),
            claims: Claims::of(&[unit]),
            is_on: Box::new(on),
        };
        let all = [older, younger];
        let told = by_node(&all[1], &all, [node("n")].iter());
        assert_eq!(
            told["n"],
            [Conflict { resource: "unit hello.service".to_owned(), with: "older".to_owned() }]
        );
        assert_eq!(by_node(&all[0], &all, [node("n")].iter()), BTreeMap::new());
    }
}
