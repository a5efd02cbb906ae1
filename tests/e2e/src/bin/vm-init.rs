//! The first process of the virtual machine whose power is cut: makes and takes back what NodeBootstraps say, in turns
//! and without end, and looks at every managed file before and after.
//!
//! In: `/vm`, as `power` makes it: what each file is before, and with each of the two specs. Out, on the console:
//! `WHOLE` when every file is one of those after a boot, `BEGIN x` and `DONE x` around each turn, and `BAD …`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::mount::{MountFlags, mount};

/// What is done in turns: its name, which is also that of the folder with what must be there after it.
const TURNS: &[(&str, &[&str])] = &[
    ("first", &["apply", "--file", "/vm/first.yaml"]),
    ("second", &["apply", "--file", "/vm/second.yaml"]),
    ("before", &["revert", "workers"]),
];
/// Where managed files lie, and what is written beside them.
const PLACES: &[&str] = &["/etc", "/opt", "/usr", "/var/lib/nodebootstrap"];

fn main() {
    if let Err(error) = run() {
        println!("BAD {error:#}");
    }
    // The kernel must not lose its first process; the host ends all this.
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn run() -> Result<()> {
    for (what, place) in [("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/run")] {
        mount(what, place, what, MountFlags::empty(), None)
            .with_context(|| format!("cannot mount {place}"))?;
    }
    for file in managed()? {
        let now = std::fs::read(&file).ok();
        let known = TURNS.iter().any(|(state, _)| std::fs::read(inside(state, &file)).ok() == now);
        ensure!(known, "{} is neither old nor new: {:?} bytes", file.display(), now.map(|now| now.len()));
    }
    println!("WHOLE");
    loop {
        for (state, arguments) in TURNS {
            println!("BEGIN {state}");
            let output = Command::new("/nodebootstrap-agent")
                .args(*arguments)
                .output()
                .context("cannot run the agent")?;
            let said = String::from_utf8_lossy(&output.stderr).replace('\n', " ");
            ensure!(output.status.success(), "{state}: {said}");
            for file in managed()? {
                let (now, wanted) = (std::fs::read(&file).ok(), std::fs::read(inside(state, &file)).ok());
                ensure!(now == wanted, "{state}: {} is not what it shall be", file.display());
            }
            for place in PLACES {
                no_temporary_file(Path::new(place))?;
            }
            println!("DONE {state}");
        }
    }
}

/// All files that a turn may change: `/vm/files` has one in each line.
fn managed() -> Result<Vec<PathBuf>> {
    let list = std::fs::read_to_string("/vm/files").context("cannot read /vm/files")?;
    Ok(list.lines().map(PathBuf::from).collect())
}

fn inside(state: &str, file: &Path) -> PathBuf {
    Path::new("/vm").join(state).join(file.strip_prefix("/").unwrap_or(file))
}

fn no_temporary_file(place: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(place) else { return Ok(()) };
    for entry in entries.flatten() {
        let path = entry.path();
        ensure!(!path.to_string_lossy().contains("nodebootstrap-tmp"), "{} was left", path.display());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            no_temporary_file(&path)?;
        }
    }
    Ok(())
}
