//! Runs the end-to-end scenarios, one after the other on one testbed: in go names, out come counts, and the logs of
//! what failed.

use std::ops::AddAssign;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use testbed::{Testbed, UpOptions};

use crate::lab::Lab;
use crate::scenario::{self, Scenario};
use crate::{checks, programs};

/// The testbed's id: a demo may stand beside it.
pub(crate) const ID: &str = "e2e";
/// What no scenario may take: one that hangs must not hang the others.
const LONGEST: Duration = Duration::from_secs(300);

/// How many tests ended in which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// `make test`: every check and scenario; with names, only the scenarios that contain one of them.
pub(crate) async fn run(only: &[String], keep: bool) -> Result<ExitCode> {
    let begin = Instant::now();
    let mut counts = Counts::default();
    let chosen: Vec<&Scenario> = scenario::ALL
        .iter()
        .filter(|scenario| only.is_empty() || only.iter().any(|name| scenario.name.contains(name.as_str())))
        .collect();
    if only.is_empty() {
        counts += checks::tests().await?;
        let (lints, scenarios) = tokio::join!(checks::lints(), scenarios(&chosen, keep));
        counts += lints?;
        counts += scenarios?;
    } else {
        counts += scenarios(&chosen, keep).await?;
    }
    println!("{:7.1} s  in all", begin.elapsed().as_secs_f32());
    println!("{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.skipped);
    Ok(if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn scenarios(chosen: &[&Scenario], keep: bool) -> Result<Counts> {
    if !keep {
        Testbed::down_id(ID).await?;
    }
    let testbed = Testbed::up(UpOptions::new(ID)).await?;
    let outcome = on_testbed(&testbed, chosen).await;
    if keep {
        println!("left up: export KUBECONFIG={}", testbed.kubeconfig().display());
    } else {
        testbed.down().await?;
    }
    outcome
}

async fn on_testbed(testbed: &Testbed, chosen: &[&Scenario]) -> Result<Counts> {
    programs::import(testbed, &[]).await?;
    let lab = Lab::new(testbed.clone()).await?;
    lab.install().await?;
    let mut counts = Counts::default();
    for scenario in chosen {
        let begin = Instant::now();
        let limited = tokio::time::timeout(LONGEST, (scenario.run)(&lab)).await;
        let outcome =
            limited.unwrap_or_else(|_| Err(anyhow::anyhow!("not done after {} s", LONGEST.as_secs())));
        let took = begin.elapsed().as_secs_f32();
        match outcome {
            Ok(()) => {
                counts.passed += 1;
                println!("{took:7.1} s  passed {}", scenario.name);
            }
            Err(error) => {
                counts.failed += 1;
                println!("{took:7.1} s  FAILED {}: {error:#}", scenario.name);
                match keep_logs(&lab, scenario.name).await {
                    Ok(folder) => println!("            logs: {}", folder.display()),
                    Err(error) => println!("            no logs: {error:#}"),
                }
            }
        }
        lab.reset().await.with_context(|| format!("cannot clean up after {}", scenario.name))?;
    }
    Ok(counts)
}

async fn keep_logs(lab: &Lab, scenario: &str) -> Result<PathBuf> {
    let folder = std::env::temp_dir().join("nodebootstrap-e2e").join(scenario);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    lab.testbed.collect_logs(&folder).await?;
    for (file, words) in [
        ("objects.yaml", "get nb,nbr -o yaml"),
        ("namespace.txt", "get all,controllerrevisions -n nodebootstrap-system -o wide"),
        ("events.txt", "get events -A"),
        ("operator.log", "logs -n nodebootstrap-system deployment/nodebootstrap-operator --tail=-1"),
        ("agents.log", "logs -n nodebootstrap-system -l nodebootstrap.io/component=agent --prefix --tail=-1"),
    ] {
        let output = lab.testbed.kubectl(&words.split(' ').collect::<Vec<_>>()).await?;
        std::fs::write(folder.join(file), output.stdout + &output.stderr)
            .with_context(|| format!("cannot write {file}"))?;
    }
    Ok(folder)
}
