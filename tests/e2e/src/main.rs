//! `make demo`, `make test` and `make bench`: the operator, installed as a user would, on a real cluster on this machine.
//!
//! | module | what is in it |
//! |---|---|
//! | [`checks`] | what `make test` runs before it has a cluster: formatter, lints, licenses, unit and property tests |
//! | [`programs`] | the static programs, and the images made of them |
//! | [`lab`] | a testbed with the operator on it, and what scenarios do with it: apply, await, look at a host |
//! | [`outcome`] | what passed and what failed, told in one way |
//! | [`suite`] | runs scenarios, side by side on two testbeds, keeps the logs of what failed |
//! | [`scenario`] | the end-to-end tests themselves |
//! | [`power`] | a virtual machine whose power is cut while the agent works |
//! | [`fuzz`] | parsers, fed with what nobody thought of |
//! | [`swap`] | a virtual machine whose swap is turned off |
//! | [`virtual_node`] | a virtual machine that is a node, whose kernel is tuned and whose kubelet is changed |
//! | [`demo`], [`bench`] | the other two commands |

mod bench;
mod checks;
mod demo;
mod fuzz;
mod lab;
mod outcome;
mod power;
mod programs;
mod scenario;
mod suite;
mod swap;
mod virtual_node;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use testbed::Testbed;

use outcome::Outcomes;

#[derive(Parser)]
#[command(about = "The operator on a real cluster on this machine")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show what the operator is for; the cluster stays up
    Demo,
    /// End the demo
    CleanDemo,
    /// Run every check and test
    Test {
        /// Only end-to-end scenarios whose name contains one of these
        only: Vec<String>,
        /// Leave the testbed up, to look at
        #[arg(long)]
        keep: bool,
    },
    /// Cut the power of a virtual machine while the agent works on it; turn the swap of another one off; and change the
    /// kubelet of a third while its power is cut
    TestVm {
        /// Only these parts
        only: Vec<VmPart>,
        /// How often the first one's power is cut
        #[arg(long, default_value_t = power::MANY)]
        cuts: u32,
        /// How often the third one's power is cut
        #[arg(long, default_value_t = virtual_node::CUTS)]
        node_cuts: u32,
        /// Draws the instants as a run before did, which printed it
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Feed the parsers what nobody thought of, and keep what leads to new branches; and run the property tests with other
    /// cases
    Fuzz {
        /// Only these targets
        only: Vec<String>,
        /// For how many seconds each
        #[arg(long, default_value_t = 60)]
        time: u64,
        /// An input that was found: only that, once
        #[arg(long)]
        input: Option<PathBuf>,
    },
    /// Measure
    Bench {
        /// Only these parts
        only: Vec<bench::Part>,
    },
}

/// A part of `test-vm`.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum VmPart {
    Power,
    Swap,
    Node,
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = tokio::select! {
        outcome = run(Cli::parse().command) => outcome,
        () = interrupted() => Err(anyhow::anyhow!("interrupted")),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Demo => demo::run().await?,
        Command::CleanDemo => Testbed::down_id(demo::ID).await?,
        Command::Test { only, keep } => return suite::run(&only, keep).await,
        Command::TestVm { only, cuts, node_cuts, seed } => {
            let mut outcomes = Outcomes::default();
            let is_chosen = |part| only.is_empty() || only.contains(&part);
            if is_chosen(VmPart::Power) {
                outcomes += power::run(cuts, seed).await?;
            }
            if is_chosen(VmPart::Swap) {
                outcomes += swap::run().await?;
            }
            if is_chosen(VmPart::Node) {
                outcomes += virtual_node::run(node_cuts, seed).await?;
            }
            return Ok(outcomes.conclude());
        }
        Command::Fuzz { input: Some(input), .. } => return Ok(fuzz::again(&input).await?.conclude()),
        Command::Fuzz { only, time, .. } => {
            let mut outcomes = fuzz::run(Duration::from_secs(time), &only, true).await?;
            if only.is_empty() {
                outcomes += checks::tests(fastrand::u64(..)).await?;
            }
            return Ok(outcomes.conclude());
        }
        Command::Bench { only } => bench::run(&only).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends with ctrl-c or a polite kill: what was under way is dropped, and a test's testbed cleared.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    for id in suite::IDS.iter().copied().chain([bench::ID, virtual_node::ID]) {
        if std::path::Path::new(testbed::paths::STATE_ROOT).join(id).exists() {
            eprintln!("clearing testbed {id}");
            let _ = Testbed::down_id(id).await;
        }
    }
}
