//! Feeds what parses bytes from outside with bytes that nobody thought of: the programs of `tests/fuzz`.
//!
//! In: for how long. Out: counts; of what was found the input, and how it is run again.
//!
//! libFuzzer needs to know which branches an input takes. Only this workspace's crates are compiled so: what they depend on
//! is that which `make build` has built.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::outcome::Outcomes;
use crate::programs::workspace;

/// For how long `make test` feeds each target.
pub(crate) const SHORT: Duration = Duration::from_secs(4);
/// What one input may take, in seconds: it is far more than any needs, also on a machine with much else to do.
const LONGEST_INPUT: u32 = 25;
/// The memory that one target may take, in MB.
const MOST_MEMORY: u32 = 1024;
/// The longest input that is made, in bytes.
const LARGEST_INPUT: u32 = 16 << 10;

/// Feeds each target for so long; those that are named, or all. `keep`: what leads to new branches is added to the corpus.
pub(crate) async fn run(time: Duration, only: &[String], keep: bool) -> Result<Outcomes> {
    let targets = targets()?;
    if let Some(unknown) = only.iter().find(|name| !targets.contains(name)) {
        anyhow::bail!("there is no target {unknown}: there are {}", targets.join(", "));
    }
    let begin = Instant::now();
    build().await?;
    println!("{:7.1} s  built what is fed to the parsers", begin.elapsed().as_secs_f32());
    let mut outcomes = Outcomes::default();
    for target in targets.iter().filter(|name| only.is_empty() || only.contains(name)) {
        let begin = Instant::now();
        outcomes += Outcomes::of(&format!("fuzz {target}"), begin, feed(target, time, keep).await);
    }
    Ok(outcomes)
}

/// Runs a target with one input, as it was found.
pub(crate) async fn again(input: &Path) -> Result<Outcomes> {
    let input = input.canonicalize().with_context(|| format!("there is no {}", input.display()))?;
    let target = input.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default();
    ensure!(
        targets()?.iter().any(|name| name == target),
        "{}: its folder has the name of no target",
        input.display()
    );
    build().await?;
    let begin = Instant::now();
    let status =
        Command::new(program(target)?).arg(&input).status().await.context("cannot run the target")?;
    let outcome = status.success().then(String::new).with_context(|| status.to_string());
    Ok(Outcomes::of(&format!("fuzz {target}"), begin, outcome))
}

fn folder() -> PathBuf {
    workspace().join("tests/fuzz")
}

/// The names of all targets.
fn targets() -> Result<Vec<String>> {
    let place = folder().join("fuzz_targets");
    let files = std::fs::read_dir(&place).with_context(|| format!("cannot list {}", place.display()))?;
    let names = files.flatten().filter_map(|file| Some(file.path().file_stem()?.to_str()?.to_owned()));
    let mut names: Vec<String> = names.collect();
    names.sort();
    Ok(names)
}

fn program(target: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot see this program's own path")?;
    Ok(own.with_file_name(target))
}

async fn build() -> Result<()> {
    // With other packages and targets, and all else as the Makefile has it.
    let selection = std::env::var("E2E_CARGO").context("run this by `make test` or `make fuzz`")?;
    let rest = selection.split_whitespace().filter(|word| !matches!(*word, "--workspace" | "--all-targets"));
    let output = Command::new("nice")
        .args(["-n", "19", "cargo", "build", "--quiet", "--package", "fuzz", "--bins"])
        .args(rest)
        .current_dir(workspace())
        .env("RUSTC_WORKSPACE_WRAPPER", folder().join("instrumented"))
        .stdin(Stdio::null())
        .output()
        .await
        .context("cannot run cargo")?;
    ensure!(
        output.status.success(),
        "the targets do not build:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Feeds one target; what it says of how far it came.
async fn feed(target: &str, time: Duration, keep: bool) -> Result<String> {
    let make = |path: PathBuf| -> Result<PathBuf> {
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    };
    let corpus = make(folder().join("corpus").join(target))?;
    let found = make(folder().join("artifacts").join(target))?;
    let program = program(target)?;
    let own = program.parent().context("it lies in no folder")?.join("fuzz").join(target);
    if !keep {
        let _ = std::fs::remove_dir_all(&own);
    }
    let own = make(own)?;
    let mut run = Command::new("nice");
    run.args(["-n", "19"])
        .arg(&program)
        .arg(format!("-max_total_time={}", time.as_secs()))
        .arg(format!("-timeout={LONGEST_INPUT}"))
        .arg(format!("-rss_limit_mb={MOST_MEMORY}"))
        .arg(format!("-max_len={LARGEST_INPUT}"))
        .arg(format!("-artifact_prefix={}/", found.display()))
        .arg("-print_final_stats=1")
        // New ones go to the first folder; those of the second are only read.
        .args([&own, &corpus]);
    let output = run.kill_on_drop(true).stdin(Stdio::null()).output().await.context("cannot run it")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let input =
            said.lines().find_map(|line| line.split_once("Test unit written to ")).map(|(_, path)| path);
        let cause = said.lines().find(|line| line.contains("panicked at") || line.starts_with("SUMMARY"));
        let after = cause.and_then(|cause| said.lines().skip_while(|line| *line != cause).nth(1));
        anyhow::bail!(
            "{} {}\n            input: {input}\n            again: make fuzz INPUT={input}",
            cause.unwrap_or("it ended"),
            after.unwrap_or_default(),
            input = input.unwrap_or("none was written"),
        );
    }
    if keep {
        // Only what leads to branches that the corpus does not.
        let merged = Command::new(&program)
            .arg("-merge=1")
            .args([&corpus, &own])
            .stdin(Stdio::null())
            .output()
            .await
            .context("cannot run it")?;
        ensure!(
            merged.status.success(),
            "the corpus was not merged: {}",
            String::from_utf8_lossy(&merged.stderr)
        );
    }
    let stat = |name: &str| {
        said.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
    };
    let branches = said.lines().rev().find_map(|line| {
        let (_, rest) = line.split_once(" cov: ")?;
        rest.split(' ').next()
    });
    Ok(format!(
        "{} inputs, {} branches",
        stat("stat::number_of_executed_units:"),
        branches.unwrap_or_default()
    ))
}
