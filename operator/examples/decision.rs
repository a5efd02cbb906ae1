//! Measures one decision over 5,000 nodes: selection, enrolment, rollout and status, as a look makes them from the stores.
//!
//! `cargo run --release -p operator --example decision [NODES]` prints the median of many in milliseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::nodebootstrap::NodeSelector;
use crds::report::{Disruption, Leave, Permit, ReportPhase, RunMode};
use crds::{NodeBootstrapSpec, NodeBootstrapStatus, names};
use k8s_openapi::jiff::Timestamp;
use operator::enrolment::{self, Candidate};
use operator::observed::{AgentPod, AgentState, Answer, Node, Report, Seen};
use operator::selection;
use operator::status::{self, Member};
use operator::world::{World, agents};

const TARGET: &str = "workers-0011223344556677";

fn fill(world: &World, nodes: u32) {
    for number in 0..nodes {
        // In no order, so that neither memory nor lists are kinder than real ones.
        let name = format!("node-{:08x}", number.wrapping_mul(2_654_435_761));
        let labels = (0..15).map(|label| (format!("example.com/label-{label}"), format!("value-{label}")));
        let own =
            [(selection::OS_LABEL, "linux"), ("pool", "blue"), ("kubernetes.io/hostname", name.as_str())]
                .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let (uid, machine_id) = (format!("{number:032x}"), format!("{number:032x}"));
        let node = Node {
            name: name.clone(),
            uid: uid.clone(),
            ready: true,
            machine_id: machine_id.clone(),
            ..Node::default()
        }
        .labelled(labels.chain(own).collect());
        let answer = Answer {
            phase: if number % 10 == 0 { ReportPhase::Waiting } else { ReportPhase::Ready },
            revision: TARGET.to_owned(),
            permit_id: 0,
            disruption: Disruption::Restart,
            changes: 50,
            drifted: String::new(),
            reason: String::new(),
            message: "50 changes made".to_owned(),
            machine_id,
            node_uid: uid.clone(),
        };
        let report = Report {
            name: names::report("workers", &name),
            uid: format!("{number:032}"),
            created: Timestamp::UNIX_EPOCH,
            node_bootstrap: "workers".to_owned(),
            node_bootstrap_created: Some(Timestamp::UNIX_EPOCH),
            node: name.clone(),
            node_uid: uid,
            revision: TARGET.to_owned(),
            mode: RunMode::Apply,
            permit: Permit::default(),
            conflicts: Vec::new(),
            drift: None,
            health: None,
            retry: String::new(),
            paused: false,
            leave: None,
            leaving_since: None,
            answer: Some(answer),
        };
        let pod = AgentPod {
            name: format!("{}-{number:05}", names::agent("workers")),
            node_bootstrap: "workers".to_owned(),
            node: name,
            state: AgentState::Ready,
        };
        world.nodes.put(Seen { value: node, version: 1 });
        world.reports.put(Seen { value: report, version: 1 });
        world.pods.put(Seen { value: pod, version: 1 });
    }
}

fn decide(world: &World, spec: &NodeBootstrapSpec) -> NodeBootstrapStatus {
    let nodes: Vec<_> = world
        .nodes
        .all()
        .into_iter()
        .map(|node| Candidate { is_selected: selection::selects(spec, &node), node })
        .collect();
    let (pods, reports) = (world.pods_of("workers"), world.reports_of("workers"));
    let agents = agents(&pods);
    let now = Timestamp::UNIX_EPOCH;
    let enrolment = enrolment::decide(&enrolment::Facts {
        name: "workers",
        created: Timestamp::UNIX_EPOCH,
        is_ending: false,
        leave: Leave::Retain,
        leave_timeout: Duration::from_secs(600),
        target: Some(TARGET),
        mode: RunMode::Apply,
        max_parallel: None,
        allowed: Disruption::Drain,
        drained: &BTreeSet::new(),
        taken: &world.taken_beside("workers"),
        drift: None,
        health: None,
        nodes: &nodes,
        reports: &reports,
        has_daemon_set: true,
        agents: &agents,
        conflicts: &BTreeMap::new(),
        now,
    });
    let by_node: std::collections::HashMap<&str, &Report> =
        reports.iter().map(|report| (report.node.as_str(), Arc::as_ref(report))).collect();
    let members: Vec<_> = nodes
        .iter()
        .filter(|candidate| candidate.is_selected)
        .map(|candidate| Member {
            node: &candidate.node,
            report: by_node.get(candidate.node.name.as_str()).copied(),
            agent: agents.get(candidate.node.name.as_str()).copied().unwrap_or(&AgentState::Absent),
        })
        .collect();
    status::fold(&status::Facts {
        generation: 1,
        target: Some(TARGET),
        mode: RunMode::Apply,
        members: &members,
        problem: None,
        hold: enrolment.hold.as_ref(),
        allowed: Disruption::Drain,
        left: &BTreeMap::new(),
        queued: &enrolment.queued,
        leaving: &[],
        before: &NodeBootstrapStatus::default(),
        now,
    })
}

fn main() {
    let nodes = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(5000);
    let world = World::default();
    fill(&world, nodes);
    let spec = NodeBootstrapSpec {
        node_selector: Some(NodeSelector {
            match_labels: BTreeMap::from([("pool".to_owned(), "blue".to_owned())]),
            ..NodeSelector::default()
        }),
        ..NodeBootstrapSpec::default()
    };
    let mut times: Vec<_> = (0..101)
        .map(|_| {
            let begin = Instant::now();
            let status = decide(&world, &spec);
            assert_eq!(status.nodes.selected, nodes);
            begin.elapsed()
        })
        .collect();
    times.sort();
    println!("{:.2}", times[times.len() / 2].as_secs_f64() * 1000.0);
}
