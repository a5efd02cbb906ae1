//! Cuts the power of a virtual machine while the agent works on it, at drawn instants, again and again on one disk: after
//! each boot every managed file is old or new, and the work is finished.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use testbed::vm::{self, Disk, Running};

use crate::outcome::Outcomes;
use crate::programs;

/// How often `make test` cuts; `make test-vm` does it more often.
pub(crate) const FEW: u32 = 3;
pub(crate) const MANY: u32 = 30;
/// What no boot and no turn may take.
pub(crate) const LONGEST: Duration = Duration::from_secs(240);
const FILES: usize = 12;

/// Cuts the power so often; the seed draws the instants.
pub(crate) async fn run(cuts: u32, seed: Option<u64>) -> Result<Outcomes> {
    let begin = Instant::now();
    let name = "power cuts in a virtual machine";
    if let Some(why) = vm::cannot().await? {
        return Ok(Outcomes::skipped(name, &why));
    }
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    let outcome = cut_again_and_again(cuts, seed).await;
    let outcome = outcome.map(|turns| format!("{cuts} cuts within {turns}"));
    Ok(Outcomes::of(&format!("{name}, seed {seed}"), begin, outcome))
}

async fn cut_again_and_again(cuts: u32, seed: u64) -> Result<String> {
    let folder = testbed::paths::cache_dir()?.join("vm.disk");
    let _ = std::fs::remove_dir_all(&folder);
    let root = folder.join("root");
    make_root(&root).context("cannot make the virtual machine's root")?;
    let disk = Disk::make(&root, &folder.join("image"), 256).await?;
    let mut random = fastrand::Rng::with_seed(seed);

    // How long the three turns take on this machine.
    let mut machine = disk.boot()?;
    until(&mut machine, "BEGIN first").await?;
    let begun = Instant::now();
    until(&mut machine, "DONE before").await?;
    let turns = begun.elapsed();
    machine.cut().await?;
    for cut in 1..=cuts {
        let mut machine = disk.boot()?;
        let after = turns.mul_f64(random.f64());
        let when = || format!("cut {cut}, {} ms after the first change could begin", after.as_millis());
        until(&mut machine, "WHOLE").await.with_context(when)?;
        until(&mut machine, "BEGIN first").await.with_context(when)?;
        // Up to the cut all goes well, and nothing is waited for.
        if let Ok(bad) = tokio::time::timeout(after, until(&mut machine, "never")).await {
            bad.with_context(when)?;
        }
        machine.cut().await?;
    }
    let mut machine = disk.boot()?;
    for line in ["WHOLE", "DONE first", "DONE second", "DONE before"] {
        until(&mut machine, line).await.context("after the last cut")?;
    }
    machine.cut().await?;
    std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    Ok(format!("{} ms of applying twice and reverting", turns.as_millis()))
}

/// Waits for this line on the console.
pub(crate) async fn until(machine: &mut Running, wanted: &str) -> Result<()> {
    find_line(machine, |line| line == wanted).await.map(drop).with_context(|| format!("awaited: {wanted:?}"))
}

/// Waits for a line on the console.
pub(crate) async fn find_line(machine: &mut Running, is_it: impl Fn(&str) -> bool) -> Result<String> {
    let mut last = String::new();
    let wait = async {
        loop {
            let line = machine.line().await?;
            if is_it(&line) {
                return Ok(line);
            }
            ensure!(!line.starts_with("BAD") && !line.contains("Kernel panic"), "{line}");
            last = line;
        }
    };
    match tokio::time::timeout(LONGEST, wait).await {
        Ok(found) => found,
        Err(_) => bail!("not on the console within {} s; its last line: {last:?}", LONGEST.as_secs()),
    }
}

/// The root of the virtual machine, its two specs, and what each file is before and with each of them.
fn make_root(root: &Path) -> Result<()> {
    let write = |path: &str, content: &str| -> Result<()> {
        let path = root.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().context("a folder")?)?;
        std::fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    };
    for folder in
        ["dev", "proc", "sys", "run", "etc/systemd/system", "opt", "usr/sbin", "usr/local/sbin", "var/lib"]
    {
        std::fs::create_dir_all(root.join(folder))?;
    }
    for (device, minor) in [("console", "1"), ("null", "3")] {
        let major = if device == "null" { "1" } else { "5" };
        let made = std::process::Command::new("mknod")
            .arg(root.join("dev").join(device))
            .args(["c", major, minor])
            .status()
            .context("cannot run mknod")?;
        ensure!(made.success(), "mknod {device} failed");
    }
    for (program, place) in [("vm-init", "init"), ("nodebootstrap-agent", "nodebootstrap-agent")] {
        let place = root.join(place);
        std::fs::copy(programs::folder()?.join(program), &place)
            .with_context(|| format!("cannot copy {program}"))?;
        std::fs::set_permissions(&place, PermissionsExt::from_mode(0o755))?;
    }
    write("/etc/machine-id", "00000000000000000000000000000001\n")?;
    write("/etc/passwd", "root:x:0:0:root:/root:/bin/bash\n")?;
    write("/etc/group", "root:x:0:\n")?;
    write("/etc/shadow", "root:*:19000:0:99999:7:::\n")?;
    write("/etc/gshadow", "root:*::\n")?;
    write("/usr/sbin/nologin", "")?;

    let content = |word: &str, number: usize| format!("{word} {number}\n").repeat(200 * (number + 1));
    let mut states: BTreeMap<(&str, String), String> = BTreeMap::new();
    for number in 0..FILES {
        let path = format!("/etc/managed/{number}");
        // Every other file is there before; the second spec names fewer.
        if number % 2 == 0 {
            states.insert(("before", path.clone()), content("before", number));
            write(&path, &content("before", number))?;
        }
        states.insert(("first", path.clone()), content("first", number));
        if number % 3 != 0 {
            states.insert(("second", path.clone()), content("second", number));
        } else if number % 2 == 0 {
            states.insert(("second", path.clone()), content("before", number));
        }
    }
    for ((state, path), text) in &states {
        write(&format!("/vm/{state}{path}"), text)?;
    }
    let mut list = String::new();
    for number in 0..FILES {
        writeln!(list, "/etc/managed/{number}")?;
    }
    write("/vm/files", &list)?;
    for state in ["first", "second"] {
        let mut spec = String::from(
            "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {name: workers}\nspec:\n  allNodes: true\n  \
             groups: [{name: k}]\n  users: [{name: k, group: k, home: /opt/k}]\n  directories:\n  \
             - {path: /etc/managed, owner: k, group: k, recursive: true}\n  - {path: /opt/k, owner: k, mode: \"0700\"}\n  files:\n",
        );
        for ((_, path), text) in
            states.iter().filter(|((of, _), text)| *of == state && text.starts_with(state))
        {
            writeln!(spec, "  - {{path: {path}, content: {text:?}}}")?;
        }
        write(&format!("/vm/{state}.yaml"), &spec)?;
    }
    Ok(())
}
