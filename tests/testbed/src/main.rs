//! The command line of the testbed: in go words, out come a running cluster, a path, or what a machine said.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use testbed::{Testbed, UpOptions};

#[derive(Parser)]
#[command(about = "A real multi-node Kubernetes on one machine", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Which {
    /// Which testbed: those with different ids stand side by side
    #[arg(long, default_value = "demo")]
    id: String,
}

#[derive(Subcommand)]
enum Command {
    /// Start a testbed; takes seconds if it is up already
    Up {
        #[command(flatten)]
        which: Which,
        /// Machines that join as nodes; cp… become control-plane nodes
        #[arg(long, value_delimiter = ',', default_value = "cp1,worker1,worker2")]
        machines: Vec<String>,
        /// Machines with systemd and containerd, but no kubelet
        #[arg(long, value_delimiter = ',')]
        bare: Vec<String>,
    },
    /// End a testbed and clear all that it made, also what a killed run left
    Down(Which),
    /// Print the path of the administrator's kubeconfig
    Kubeconfig(Which),
    /// Run a command on a machine
    Exec {
        #[command(flatten)]
        which: Which,
        /// The machine's name
        machine: String,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Import an image archive into the containerd of machines
    Import {
        #[command(flatten)]
        which: Which,
        /// The archive, as `docker save` or the testbed's library writes it
        archive: std::path::PathBuf,
        /// On these machines only
        #[arg(long, value_delimiter = ',')]
        machines: Vec<String>,
    },
    /// Show a testbed's machines and addresses
    Status(Which),
    /// Copy all logs of a testbed into a folder
    Logs {
        #[command(flatten)]
        which: Which,
        /// The folder
        to: std::path::PathBuf,
    },
    /// Only build what the cache lacks: Kubernetes' programs, the second kubelet, the machines' root
    Build,
    /// Serve downloads to the machines (started by `up`)
    #[command(hide = true)]
    Serve(Which),
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse().command).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up { which, machines, bare } => {
            let testbed = Testbed::up(UpOptions { id: which.id, machines, bare }).await?;
            eprintln!("export KUBECONFIG={}", testbed.kubeconfig().display());
        }
        Command::Down(which) => Testbed::down_id(&which.id).await?,
        Command::Kubeconfig(which) => {
            println!("{}", Testbed::attach(&which.id).await?.kubeconfig().display());
        }
        Command::Exec { which, machine, command } => {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            let machine = Testbed::open(&which.id)?.machine(&machine)?;
            let status = machine.command(&words)?.status().await?;
            return Ok(status
                .code()
                .and_then(|code| u8::try_from(code).ok())
                .map_or(ExitCode::FAILURE, ExitCode::from));
        }
        Command::Import { which, archive, machines } => {
            let machines: Vec<&str> = machines.iter().map(String::as_str).collect();
            Testbed::open(&which.id)?.import_image(&archive, &machines).await?;
        }
        Command::Status(which) => print!("{}", Testbed::open(&which.id)?.status().await?),
        Command::Logs { which, to } => Testbed::open(&which.id)?.collect_logs(&to).await?,
        Command::Build => testbed::build().await?,
        Command::Serve(which) => Testbed::serve_artifacts(&which.id).await?,
    }
    Ok(ExitCode::SUCCESS)
}
