//! Logs and metrics. In: what happens. Out: JSON lines on standard error, and the text that `/metrics` serves. Labels
//! come from closed lists, and from the names of NodeBootstraps that are there.

use std::sync::atomic::AtomicI64;
use std::time::Duration;

use crds::nodebootstrap::NodeCounts;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// What is logged unless `RUST_LOG` says otherwise. The client's own complaints are left out: ours say the same once,
/// with what was being done.
const DEFAULT_LOG: &str = "info,kube_client=off,kube_runtime=off";

/// Starts logging: JSON lines on standard error, at the level of `RUST_LOG`.
///
/// # Errors
/// If logging has been started already.
pub fn start_logging() -> Result<(), tracing_subscriber::util::TryInitError> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG));
    let layer = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr);
    tracing_subscriber::registry().with(filter).with(layer).try_init()
}

/// What is counted.
pub struct Metrics {
    registry: Registry,
    passes: Family<Outcome, Counter>,
    duration: Histogram,
    writes: Family<WriteLabels, Counter>,
    watch_errors: Family<Kind, Counter>,
    nodes: Family<NodeLabels, Gauge<i64, AtomicI64>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    verb: &'static str,
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NodeLabels {
    nodebootstrap: String,
    phase: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("nodebootstrap_operator"),
            passes: Family::default(),
            duration: Histogram::new(exponential_buckets(0.001, 4.0, 8)),
            writes: Family::default(),
            watch_errors: Family::default(),
            nodes: Family::default(),
        };
        let Self { mut registry, passes, duration, writes, watch_errors, nodes } = metrics;
        registry.register("reconciles", "Looks at a NodeBootstrap, by how they ended", passes.clone());
        registry.register_with_unit(
            "reconcile_duration",
            "How long a look at a NodeBootstrap took",
            Unit::Seconds,
            duration.clone(),
        );
        registry.register("api_writes", "Writes to the API server, by how they ended", writes.clone());
        registry.register(
            "watch_errors",
            "Errors of watches, each followed by another try",
            watch_errors.clone(),
        );
        registry.register("nodes", "Selected nodes, by NodeBootstrap and phase", nodes.clone());
        Self { registry, passes, duration, writes, watch_errors, nodes }
    }
}

impl Metrics {
    /// A look at a NodeBootstrap has ended; `outcome` is `ok` or an error's category.
    pub fn pass(&self, outcome: &'static str, took: Duration) {
        self.passes.get_or_create(&Outcome { outcome }).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// A write has ended; `outcome` is `ok` or an error's category.
    pub fn write(&self, verb: &'static str, kind: &'static str, outcome: &'static str) {
        self.writes.get_or_create(&WriteLabels { verb, kind, outcome }).inc();
    }

    /// A watch had an error.
    pub fn watch_error(&self, kind: &'static str) {
        self.watch_errors.get_or_create(&Kind { kind }).inc();
    }

    /// How many nodes of a NodeBootstrap are in which phase; `None`: it is gone.
    pub fn nodes(&self, node_bootstrap: &str, counts: Option<NodeCounts>) {
        let NodeCounts {
            selected: _,
            updated: _,
            updating,
            pending,
            planned,
            ready,
            failed,
            unreachable,
            paused,
            drifted: _,
        } = counts.unwrap_or_default();
        for (phase, count) in [
            ("updating", updating),
            ("pending", pending),
            ("planned", planned),
            ("ready", ready),
            ("failed", failed),
            ("unreachable", unreachable),
            ("paused", paused),
        ] {
            let labels = NodeLabels { nodebootstrap: node_bootstrap.to_owned(), phase };
            if counts.is_some() {
                self.nodes.get_or_create(&labels).set(i64::from(count));
            } else {
                self.nodes.remove(&labels);
            }
        }
    }

    /// All of it as text.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_can_be_read_and_what_is_gone_is_gone() {
        let metrics = Metrics::default();
        metrics.pass("ok", Duration::from_millis(3));
        metrics.write("patch", "NodeBootstrapReport", "conflict");
        metrics.nodes("workers", Some(NodeCounts { ready: 3, ..NodeCounts::default() }));
        let text = metrics.text().unwrap();
        for line in [
            r#"nodebootstrap_operator_reconciles_total{outcome="ok"} 1"#,
            r#"nodebootstrap_operator_api_writes_total{verb="patch",kind="NodeBootstrapReport",outcome="conflict"} 1"#,
            r#"nodebootstrap_operator_nodes{nodebootstrap="workers",phase="ready"} 3"#,
            "nodebootstrap_operator_reconcile_duration_seconds_count 1",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
        metrics.nodes("workers", None);
        assert!(!metrics.text().unwrap().contains("workers"));
    }
}
