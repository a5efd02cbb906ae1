//! Runs the end-to-end scenarios, side by side on as many testbeds: in go names, out come outcomes, and the logs of
//! what failed.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::future::join_all;
use testbed::{Testbed, UpOptions};

use crate::lab::Lab;
use crate::outcome::Outcomes;
use crate::scenario::{self, Scenario};
use crate::{checks, fuzz, power, programs};

/// The testbeds' ids: a demo may stand beside them. There are two of them since scenarios mostly wait; more would share
/// two cores so closely that what is timed becomes slow.
pub(crate) const IDS: &[&str] = &["e2e", "e2e-b"];
/// What no scenario may take: one that hangs must not hang the others.
const LONGEST: Duration = Duration::from_secs(300);

/// `make test`: every check and scenario; with names, only the scenarios that contain one of them.
pub(crate) async fn run(only: &[String], keep: bool) -> Result<ExitCode> {
    let begin = Instant::now();
    let mut outcomes = Outcomes::default();
    let chosen: Vec<&Scenario> = scenario::ALL
        .iter()
        .filter(|scenario| only.is_empty() || only.iter().any(|name| scenario.name.contains(name.as_str())))
        .collect();
    if only.is_empty() {
        // A scenario needs it later on. Until then there is idle time enough, and where there was not, it waits.
        tokio::spawn(testbed::older_kubelet());
        outcomes += checks::format().await?;
        outcomes += checks::tests(checks::SEED).await?;
        // With what the scenarios leave of the machine, since those mostly wait.
        let beside = async {
            let mut outcomes = checks::lints().await?;
            outcomes += fuzz::run(fuzz::SHORT, &[], false).await?;
            outcomes += power::run(power::FEW, None).await?;
            anyhow::Ok(outcomes)
        };
        let (beside, scenarios) = tokio::join!(beside, scenarios(&chosen, false, keep));
        outcomes += beside?;
        outcomes += scenarios?;
    } else {
        outcomes += scenarios(&chosen, true, keep).await?;
    }
    println!("{:7.1} s  in all", begin.elapsed().as_secs_f32());
    Ok(outcomes.conclude())
}

/// Runs scenarios: each testbed takes the next one as soon as it is done with one. A few by name have one testbed to
/// themselves, which is quicker than two to make, and can be looked at afterwards.
async fn scenarios(chosen: &[&Scenario], by_name: bool, keep: bool) -> Result<Outcomes> {
    let queue = Mutex::new(chosen.iter().copied());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let ids = if by_name { &IDS[..1] } else { IDS };
    let mut outcomes = Outcomes::default();
    // All are awaited before an error of one is looked at: each clears its own testbed.
    for outcome in join_all(ids.iter().map(|id| on_own_testbed(id, &next, keep))).await {
        outcomes += outcome?;
    }
    Ok(outcomes)
}

async fn on_own_testbed<'a>(
    id: &str,
    next: &impl Fn() -> Option<&'a Scenario>,
    keep: bool,
) -> Result<Outcomes> {
    if !keep {
        Testbed::down_id(id).await?;
    }
    let testbed = Testbed::up(UpOptions::new(id)).await?;
    let outcome = on_testbed(&testbed, next).await;
    if keep {
        println!("left up: export KUBECONFIG={}", testbed.kubeconfig().display());
    } else {
        testbed.down().await?;
    }
    outcome
}

async fn on_testbed<'a>(testbed: &Testbed, next: &impl Fn() -> Option<&'a Scenario>) -> Result<Outcomes> {
    programs::import(testbed, &[]).await?;
    let lab = Lab::new(testbed.clone()).await?;
    lab.install().await?;
    let mut outcomes = Outcomes::default();
    while let Some(scenario) = next() {
        let begin = Instant::now();
        let limited = tokio::time::timeout(LONGEST, (scenario.run)(&lab)).await;
        let outcome =
            limited.unwrap_or_else(|_| Err(anyhow::anyhow!("not done after {} s", LONGEST.as_secs())));
        let name = format!("{} on {}", scenario.name, testbed.id());
        let outcome = Outcomes::of(&name, begin, outcome.map(|()| String::new()));
        if !outcome.is_good() {
            match keep_logs(&lab, scenario.name).await {
                Ok(folder) => println!("            logs: {}", folder.display()),
                Err(error) => println!("            no logs: {error:#}"),
            }
        }
        outcomes += outcome;
        lab.reset().await.with_context(|| format!("cannot clean up after {}", scenario.name))?;
    }
    Ok(outcomes)
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
