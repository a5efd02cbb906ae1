//! What needs no cluster: formatter, lints, licenses, unit and property tests.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::outcome::Outcomes;
use crate::programs::workspace;

/// What `make test` draws the cases of property tests with: each run has the same, so that it passes or fails by what was
/// changed. [`crate::fuzz`] draws others.
pub(crate) const SEED: u64 = 1;
/// The version that this workspace is checked with.
const CARGO_DENY: &str = "0.20.2";

/// The Makefile's selection, with which all is built already, by the compiler that lints.
fn selection() -> Result<String> {
    anyhow::ensure!(std::env::var("RUSTC_WORKSPACE_WRAPPER").is_ok(), "run this by `make test`");
    std::env::var("E2E_CARGO").context("run this by `make test`")
}

/// Whether all is formatted.
pub(crate) async fn format() -> Result<Outcomes> {
    check("formatter", "cargo", &["fmt", "--all", "--check"]).await
}

/// Runs the tests that need no cluster of their own, and tells how long they took. The seed draws the cases of property tests.
pub(crate) async fn tests(seed: u64) -> Result<Outcomes> {
    let selection = selection()?;
    let selection: Vec<&str> = selection.split_whitespace().collect();
    // The testbed's tests of itself are left out unless asked for, since they need root.
    // Not what is built to be fed by a fuzzer: all that has tests.
    let tested = selection.iter().map(|word| if *word == "--all-targets" { "--tests" } else { word });
    let selected: Vec<&str> = tested.collect();
    // All of them, so that one run tells all that fails.
    let tests = [&["test", "--no-fail-fast"], &selected[..], &["--", "--include-ignored"]].concat();
    let name = format!("unit and property tests, the testbed's tests of itself, seed {seed}");
    libtest(&name, command("cargo", &tests).env("PROPTEST_RNG_SEED", seed.to_string())).await
}

/// Looks at the source.
pub(crate) async fn lints() -> Result<Outcomes> {
    let mut outcomes = warnings().await?;
    let deny = deny().await?;
    outcomes += check("licenses and sources", &deny, &["check", "bans", "licenses", "sources"]).await?;
    Ok(outcomes)
}

/// The lints' warnings: clippy's driver has compiled all, and cargo says again what it said then.
async fn warnings() -> Result<Outcomes> {
    let begin = Instant::now();
    let selection = selection()?;
    let build = ["build", "--quiet", "--message-format=json-diagnostic-rendered-ansi"];
    let arguments: Vec<&str> = build.into_iter().chain(selection.split_whitespace()).collect();
    let output = command("cargo", &arguments).output().await.context("cannot run cargo")?;
    let mut warnings = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let said: serde_json::Value = serde_json::from_str(line).context("cargo says what is no JSON")?;
        if let Some(text) = said["message"]["rendered"].as_str() {
            warnings.push(text.to_owned());
        }
    }
    print!("{}", warnings.concat());
    let outcome = match warnings.len() {
        0 => success(output.status),
        count => Err(anyhow::anyhow!("{count} warnings")),
    };
    Ok(Outcomes::of("lints", begin, outcome))
}

/// One command that passes or fails.
async fn check(name: &str, program: &str, arguments: &[&str]) -> Result<Outcomes> {
    let begin = Instant::now();
    let status =
        command(program, arguments).status().await.with_context(|| format!("cannot run {program}"))?;
    Ok(Outcomes::of(name, begin, success(status)))
}

fn success(status: ExitStatus) -> Result<String> {
    status.success().then(String::new).with_context(|| status.to_string())
}

/// A `cargo test`, whose summaries are counted. What it prints is shown only where something failed.
async fn libtest(name: &str, cargo: &mut Command) -> Result<Outcomes> {
    let begin = Instant::now();
    let mut child = cargo.stdout(Stdio::piped()).kill_on_drop(true).spawn().context("cannot run cargo")?;
    let stdout = child.stdout.take().context("no output of cargo")?;
    let mut lines = BufReader::new(stdout).lines();
    let (mut outcomes, mut shown) = (Outcomes::default(), Vec::new());
    while let Some(line) = lines.next_line().await.context("cannot read what cargo says")? {
        if let Some(more) = summary(&line) {
            outcomes += more;
            continue;
        }
        if let Some(name) = failure(&line) {
            outcomes += Outcomes::counted(0, vec![name.to_owned()], 0);
        }
        shown.push(line);
    }
    let status = child.wait().await.context("cargo did not end")?;
    if !status.success() {
        println!("{}", shown.join("\n"));
        if outcomes.is_good() {
            // It did not build, or a test program died: no line tells of that.
            outcomes += Outcomes::counted(0, vec![format!("{name}: {status}")], 0);
        }
    }
    let word = if outcomes.is_good() { "passed" } else { "FAILED" };
    println!("{:7.1} s  {word} {name}: {}", begin.elapsed().as_secs_f32(), outcomes.summary());
    Ok(outcomes)
}

/// What a line such as `test result: ok. 7 passed; 0 failed; 1 ignored; …` counts, besides what failed.
fn summary(line: &str) -> Option<Outcomes> {
    let rest = line.strip_prefix("test result: ")?;
    let count = |what: &str| {
        rest.split([';', '.']).find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
    };
    Some(Outcomes::counted(count("passed")?, Vec::new(), count("ignored")?))
}

/// The name in a line such as `test module::name ... FAILED`.
fn failure(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

/// The program cargo-deny: that of the machine, or one built once into the cache.
async fn deny() -> Result<String> {
    let own = Command::new("cargo-deny").arg("--version").stdout(Stdio::null()).status().await;
    if own.is_ok_and(|status| status.success()) {
        return Ok("cargo-deny".to_owned());
    }
    let root: PathBuf = testbed::paths::cache_dir()?.join("tools");
    let program = root.join("bin/cargo-deny");
    if !program.exists() {
        println!("building cargo-deny {CARGO_DENY}, once (about 2 min)");
        let root = format!("--root={}", root.display());
        // Unoptimised it is built in a third of the time, and runs for seconds.
        let install = [
            "-n",
            "19",
            "cargo",
            "install",
            "--debug",
            "--quiet",
            "--locked",
            "--version",
            CARGO_DENY,
            &root,
            "cargo-deny",
        ];
        let mut install = command("nice", &install);
        // It is built for this machine as any program: the images' static linking would forbid its macros.
        let ours = |key: &str| key.ends_with("_RUSTFLAGS") || key == "RUSTC_WORKSPACE_WRAPPER";
        for (key, _) in std::env::vars().filter(|(key, _)| ours(key)) {
            install.env_remove(key);
        }
        let status = install.status().await.context("cannot run cargo")?;
        anyhow::ensure!(status.success(), "cargo-deny did not build");
    }
    Ok(program.display().to_string())
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(workspace()).stdin(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libtest_says_is_counted_and_named() {
        let line = "test result: FAILED. 12 passed; 1 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.41s";
        assert_eq!(summary(line), Some(Outcomes::counted(12, Vec::new(), 3)));
        assert_eq!(summary("running 7 tests"), None);
        assert_eq!(failure("test plans::a_plan ... FAILED"), Some("plans::a_plan"));
        assert_eq!(failure("test plans::a_plan ... ok"), None);
    }
}
