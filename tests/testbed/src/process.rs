//! Other programs: in goes a command line, out comes its output or an error that says what failed.
//!
//! Two kinds: [`run`] waits for a short command; [`spawn_detached`] starts one that outlives us, in a session of
//! its own, so that neither a closed terminal nor Ctrl-C at the command line ends the cluster.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::process::Command;

/// What a finished command left: its exit status and all that it wrote.
#[derive(Debug, Clone)]
pub struct ExecOutput {
    /// The exit code; `None` if a signal ended it.
    pub status: Option<i32>,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl ExecOutput {
    /// Whether it ended with exit code 0.
    pub fn success(&self) -> bool {
        self.status == Some(0)
    }

    /// The standard output, or an error with the standard error if the command failed.
    pub fn ok(self) -> Result<String> {
        if self.success() {
            return Ok(self.stdout);
        }
        bail!(
            "exit {}: {}",
            self.status.map_or("by signal".to_owned(), |s| s.to_string()),
            if self.stderr.trim().is_empty() { self.stdout.trim() } else { self.stderr.trim() }
        )
    }
}

impl From<std::process::Output> for ExecOutput {
    fn from(output: std::process::Output) -> Self {
        ExecOutput {
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a command to its end, whatever its exit code.
pub(crate) async fn output(command: &mut Command) -> Result<ExecOutput> {
    let shown = shown(command);
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("cannot start `{shown}`"))?;
    Ok(output.into())
}

/// Runs a command that must succeed; gives its standard output.
pub(crate) async fn run(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    output(command).await?.ok().with_context(|| format!("`{shown}` failed"))
}

/// Runs `program` with `args`, which must succeed.
pub(crate) async fn run_args(program: &str, args: &[&str]) -> Result<String> {
    run(Command::new(program).args(args)).await
}

/// Runs a command that must succeed, with `input` as its standard input.
pub(crate) async fn run_with_input(command: &mut Command, input: &[u8]) -> Result<String> {
    use tokio::io::AsyncWriteExt;
    let shown = shown(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start `{shown}`"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that ended early says why on its standard error, which is the better message.
        let _ = stdin.write_all(input).await;
    }
    let output = child.wait_with_output().await.with_context(|| format!("cannot wait for `{shown}`"))?;
    ExecOutput::from(output).ok().with_context(|| format!("`{shown}` failed"))
}

fn shown(command: &Command) -> String {
    let command = command.as_std();
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    let line = words.join(" ");
    if line.len() > 300 { line.chars().take(300).chain("…".chars()).collect() } else { line }
}

/// A shell's program: the number of cgroup folders, the folders, and the command that then runs there.
pub(crate) const ENTER: &str = r#"n=$1; shift
while [ "$n" -gt 0 ]; do echo $$ > "$1/cgroup.procs" || exit 70; shift; n=$((n - 1)); done
exec "$@""#;

/// Starts `argv` in its own session with its output appended to `log`; gives the process id.
///
/// `enter` are the folders of the cgroups that it starts in. A shell writes itself there and then becomes the
/// program, since code between fork and exec is `unsafe` in Rust.
pub(crate) fn spawn_detached(
    argv: &[String],
    environment: &[(&str, &str)],
    enter: &[PathBuf],
    log: &Path,
) -> Result<u32> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot open the log {}", log.display()))?;
    // tokio's child and not std's: dropped unwaited, it is still reaped, so that it leaves no zombie in a long test.
    let child = Command::new("setsid")
        .args(["sh", "-c", ENTER, "testbed"])
        .arg(enter.len().to_string())
        .args(enter)
        .args(argv)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(file.try_clone().context("cannot share the log's descriptor")?)
        .stderr(file)
        .current_dir("/")
        .spawn()
        .with_context(|| format!("cannot start `{}`", argv.join(" ")))?;
    child.id().with_context(|| format!("`{}` ended at once; see {}", argv.join(" "), log.display()))
}

/// Whether a process is there and is more than a zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    state_and_parent(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// Whether `pid` is alive and its command line has `word` in it: a number alone may have been given to another.
pub(crate) fn is_running(pid: u32, word: &str) -> bool {
    is_alive(pid)
        && std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(word))
}

/// The name of a process's program, cut to 15 characters by the kernel.
pub(crate) fn program(pid: u32) -> Option<String> {
    Some(std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned())
}

/// The children of a process.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|child| state_and_parent(*child).is_some_and(|(state, parent)| parent == pid && state != 'Z'))
        .collect()
}

fn state_and_parent(pid: u32) -> Option<(char, u32)> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The state and the parent in a line of `/proc/PID/stat`. The name stands in brackets and may hold brackets.
fn parse_stat(line: &str) -> Option<(char, u32)> {
    let mut words = line.get(line.rfind(')')? + 1..)?.split_whitespace();
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

/// Sends a signal (`TERM`, `KILL`) to processes; those already gone are no error.
pub(crate) async fn signal(name: &str, pids: &[u32]) {
    if !pids.is_empty() {
        // In one call, through sh's own kill: no package more is needed.
        let list = pids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        let _ = output(Command::new("sh").args(["-c", &format!("kill -{name} {list} 2>/dev/null")])).await;
    }
}

/// Asks a process to end, and kills it after `patience`.
pub(crate) async fn terminate(pid: u32, patience: Duration) {
    signal("TERM", &[pid]).await;
    let gone =
        wait_for("the process to end", patience, || async { Ok((!is_alive(pid)).then_some(())) }).await;
    if gone.is_err() {
        signal("KILL", &[pid]).await;
        let _ =
            wait_for("the process to end", patience, || async { Ok((!is_alive(pid)).then_some(())) }).await;
    }
}

/// Asks `condition` every 50 ms until it gives a value, at most for `patience`; `what` is for the error.
pub async fn wait_for<T, F: Future<Output = Result<Option<T>>>>(
    what: &str,
    patience: Duration,
    mut condition: impl FnMut() -> F,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await? {
            return Ok(value);
        }
        if start.elapsed() > patience {
            bail!("waited {} s in vain for {what}", patience.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields_of_stat() {
        assert_eq!(parse_stat("12 (a) b (c)) S 7 12 12 0"), Some(('S', 7)));
        assert_eq!(parse_stat("12 (sd-pam"), None);
    }

    #[tokio::test]
    async fn a_failed_command_tells_its_words_and_its_standard_error() {
        let error = run_args("sh", &["-c", "echo why >&2; exit 3"]).await.expect_err("exit 3");
        let text = format!("{error:#}");
        assert!(text.contains("exit 3: why") && text.contains("sh -c"), "{text}");
    }
}
