//! Measures what the agent does again and again: `make bench` runs it on a machine of the testbed.
//!
//! `measure pass FILE [ROOT] [TIMES]`: passes over a host that has what FILE says. Prints microseconds: of the first, which
//! reads every file, and the median of the others, which are those of an agent that runs.
//!
//! `measure fetch URL SHA256 ROOT`: a download into the cache of an empty root, verified. Prints microseconds.

// A program to measure with, not one to run: what is wrong ends it.
#![allow(clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crds::NodeBootstrap;
use crds::revision::{Identity, Trust, Values, render};
use node_agent::engine::{self, Payload, Request};
use node_agent::host::{Host, raise_open_files};
use node_agent::preset::Findings;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    raise_open_files();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["pass", file, rest @ ..] => {
            let times = rest.get(1).map_or(200, |times| times.parse().expect("a number"));
            pass(file, rest.first().unwrap_or(&"/"), times).await;
        }
        ["fetch", url, digest, root] => fetch(url, digest, root).await,
        _ => eprintln!("usage: measure pass FILE [ROOT] [TIMES] | measure fetch URL SHA256 ROOT"),
    }
}

async fn pass(file: &str, root: &str, times: usize) {
    let host = Host::open(root, root == "/").expect("a host");
    let text = std::fs::read_to_string(file).expect("a file");
    let node_bootstrap: NodeBootstrap = serde_saphyr::from_str(&text).expect("a NodeBootstrap");
    let name = node_bootstrap.metadata.name.clone().expect("a name");
    let identity = Identity { node_bootstrap: name, uid: String::new(), cluster: String::new() };
    // As the command line has it, so that what that applied is what is looked at.
    let key = host.facts.machine_id.as_bytes();
    let rendered = render(&identity, &node_bootstrap.spec, &Values::new(), key).expect("a spec");
    let request = Request {
        name: rendered.name,
        created: String::new(),
        revision: rendered.revision,
        payload: Payload::from(BTreeMap::new()),
        from_pod: true,
        leave: BTreeSet::new(),
        findings: Findings::default(),
    };
    let mut took = Vec::new();
    for _ in 0..=times {
        let begun = Instant::now();
        let plan = engine::plan(&host, &request).await.expect("a plan");
        took.push(begun.elapsed().as_micros());
        assert!(plan.is_empty() && !plan.is_owed(), "apply it first: {:?}, {:?}", plan.steps, plan.problems);
    }
    let first = took.remove(0);
    took.sort_unstable();
    println!("{first} {}", took[took.len() / 2]);
}

async fn fetch(url: &str, digest: &str, root: &str) {
    let host = Host::open(root, false).expect("a host");
    let digest = digest.parse().expect("a digest");
    let begun = Instant::now();
    let fetched =
        host.downloads.fetch(&host.cache, &[url.to_owned()], digest, &Trust::default(), &|_, _| {}).await;
    let took = begun.elapsed().as_micros();
    fetched.expect("a download");
    println!("{took}");
}
