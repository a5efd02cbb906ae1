//! What the host's own programs say of what is about to be put in place, before it is. For a process of the host, not of a
//! pod: they are its children.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::write::Ids;
use super::{HostError, Root};

/// How long a program may take.
const ANSWER: Duration = Duration::from_secs(30);
/// The most that is read of what it says, in bytes.
const MAX: u64 = 64 << 10;

/// What a program said, and whether it ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Whether its exit status was 0.
    pub is_good: bool,
    /// What it wrote to its standard output, and then what to its error output.
    pub text: String,
}

/// Runs a program with nothing of this process's environment but the path to programs.
///
/// # Errors
/// In words, if it cannot be run or does not end in time.
pub async fn run(program: &str, arguments: &[&str]) -> Result<Said, String> {
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = child.map_err(|error| format!("{program} cannot be run: {error}"))?;
    let (output, errors) = (child.stdout.take(), child.stderr.take());
    let answer = async {
        let (output, errors) = tokio::join!(all_of(output), all_of(errors));
        let is_good = child.wait().await.is_ok_and(|status| status.success());
        Said { is_good, text: output + &errors }
    };
    tokio::time::timeout(ANSWER, answer)
        .await
        .map_err(|_| format!("{program} has not ended after {} s", ANSWER.as_secs()))
}

async fn all_of(stream: Option<impl AsyncRead + Unpin>) -> String {
    let mut text = Vec::new();
    if let Some(stream) = stream {
        // What can be read of it tells enough.
        let _ = stream.take(MAX).read_to_end(&mut text).await;
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Files in a folder of our own, for as long as they are looked at.
#[derive(Debug)]
pub struct Folder<'a> {
    root: &'a Root,
    paths: Vec<String>,
    directories: Vec<String>,
}

impl<'a> Folder<'a> {
    /// Writes files into a folder; their names may have folders in them.
    ///
    /// # Errors
    /// If one does not get to the disk.
    pub fn with(root: &'a Root, folder: &str, files: &BTreeMap<String, String>) -> Result<Self, HostError> {
        let mut this = Self { root, paths: Vec::new(), directories: Vec::new() };
        for (name, text) in files {
            let path = format!("{folder}/{name}");
            for parent in root.locate(&path)?.missing_paths() {
                root.make_directory(&root.locate(&parent)?, Ids::root(0o755))?;
                this.directories.push(parent);
            }
            root.write(&root.locate(&path)?, text.as_bytes(), Ids::root(0o644))?;
            this.paths.push(path);
        }
        Ok(this)
    }
}

impl Drop for Folder<'_> {
    fn drop(&mut self) {
        // What stays lies in memory, and is written anew the next time.
        for path in &self.paths {
            let _ = self.root.locate(path).and_then(|place| self.root.remove_file(&place));
        }
        for directory in self.directories.iter().rev() {
            let _ = self.root.remove_own_directory(directory);
        }
    }
}
