//! The program `nodebootstrap-operator`: reads its settings, starts its tasks, and ends when it is told to (0) or when a
//! task ends that must not (1).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use kube::{Client, Config};
use operator::controller::{Shared, spawn_watches, work};
use operator::objects::AgentSettings;
use operator::{http, telemetry};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Longer than a watch is silent before the API server ends it, so that a dead connection is noticed and a quiet one is
/// left alone.
const READ_TIMEOUT: Duration = Duration::from_secs(300);

/// Brings every selected node to what its NodeBootstraps say.
#[derive(Debug, Parser)]
#[command(name = "nodebootstrap-operator", version)]
struct Settings {
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// The agents' image.
    #[arg(long, env = "AGENT_IMAGE", default_value = concat!("nodebootstrap/agent:", env!("CARGO_PKG_VERSION")))]
    agent_image: String,
    /// What agents log, as RUST_LOG has it. Default: what they log by themselves.
    #[arg(long, env = "AGENT_LOG")]
    agent_log: Option<String>,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let Settings { listen, agent_image, agent_log } = Settings::parse();
    telemetry::start_logging()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let mut config = Config::infer()
        .await
        .context("no way to the API server is known: run in a pod, or set KUBECONFIG to a file")?;
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    // Watches and queue have a pace of their own; the client's would grow to minutes, and outlast an outage.
    config.default_retry = false;
    let client = Client::try_from(config)?;
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}: give another --listen"))?;

    let shared = Shared::default();
    let stop = CancellationToken::new();
    let mut tasks: JoinSet<anyhow::Result<Infallible>> = JoinSet::new();
    spawn_watches(&mut tasks, &client, &shared);
    let router = http::router(shared.clone());
    tasks.spawn(async move {
        axum::serve(listener, router).await?;
        anyhow::bail!("the HTTP server has ended")
    });
    let agent = AgentSettings { image: agent_image, log: agent_log };
    let mut worker = tokio::spawn(work(client, shared, agent, stop.clone()));

    tracing::info!(version = env!("CARGO_PKG_VERSION"), %listen, "started");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ended = tasks.join_next() => {
            return match ended {
                Some(Ok(Err(error))) => Err(error),
                Some(Err(panic)) => Err(panic.into()),
                Some(Ok(Ok(never))) => match never {},
                None => anyhow::bail!("there are no tasks"),
            };
        }
        ended = &mut worker => {
            ended?;
            anyhow::bail!("the work has ended by itself");
        }
    }
    tracing::info!("told to stop: what is under way is finished");
    stop.cancel();
    worker.await?;
    Ok(())
}
