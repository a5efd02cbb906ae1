//! What the agent does again and again on one machine, beside what others do for the same: a careful script, Ansible, curl.
//!
//! All of it runs on a machine of the testbed that has nothing else to do: systemd and its bus, no kubelet. Times are taken
//! inside, so that the way into the machine does not count.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testbed::Machine;
use tokio::process::Command;

use super::{Row, row};
use crate::lab::Lab;
use crate::programs;

const MACHINE: &str = "quiet";
const ROUNDS: usize = 5;
const SCRIPT: &str = include_str!("../../peers/seed.sh");
const PLAYBOOK: &str = include_str!("../../peers/seed.yaml");
/// Debian's own packages, which the machine needs to do the same with.
const PACKAGES: [&str; 2] = ["ansible-core", "curl"];

/// The machine, and the seed's program.
struct Bench {
    machine: Machine,
    url: String,
    digest: String,
}

/// Measures all; what cannot be had to compare with is said, and left out.
pub(super) async fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let machine = lab.testbed.add_bare_machine(MACHINE).await?;
    let seed = lab.seed_example().await?;
    let of = |key: &str| -> Result<String> {
        let value = seed.lines().find_map(|line| line.trim_start_matches([' ', '-']).strip_prefix(key));
        Ok(value.with_context(|| format!("the seed has no {key}"))?.trim_matches('"').to_owned())
    };
    let url = of("url: ")?.replace("{arch}", testbed::architecture());
    let bench = Bench { machine, url, digest: of("amd64: ")? };
    for program in ["nodebootstrap-agent", "measure"] {
        let inside = bench.machine.root().join("root").join(program);
        std::fs::copy(programs::folder()?.join(program), &inside)
            .with_context(|| format!("cannot copy {program}"))?;
        std::fs::set_permissions(&inside, PermissionsExt::from_mode(0o755))
            .with_context(|| format!("cannot set the mode of {program}"))?;
    }
    bench.put("seed.nb.yaml", &seed)?;
    bench.put("many.nb.yaml", &many()?)?;
    let peers = bench.bring_peers().await;
    if let Err(error) = &peers {
        println!("            nothing to compare with: {error:#}");
    }
    let mut rows = bench.passes(peers.is_ok()).await?;
    rows.extend(bench.downloads(peers.is_ok()).await?);
    lab.testbed.remove_machine(MACHINE).await?;
    Ok(rows)
}

impl Bench {
    /// Writes a file into root's home.
    fn put(&self, name: &str, text: &str) -> Result<()> {
        let inside = self.machine.root().join("root").join(name);
        std::fs::write(&inside, text).with_context(|| format!("cannot write {}", inside.display()))
    }

    /// Runs a line of shell in root's home; what it prints.
    async fn run(&self, line: &str) -> Result<String> {
        let line = format!("cd; export URL={} DIGEST={}; {line}", self.url, self.digest);
        self.machine.exec(&["sh", "-ec", &line]).await?.ok().with_context(|| line.clone())
    }

    /// How long a line of shell takes.
    async fn time(&self, line: &str) -> Result<Duration> {
        let said = self
            .run(&format!("s=$(date +%s%N); {{ {line}; }} >said; e=$(date +%s%N); echo $((e - s))"))
            .await?;
        Ok(Duration::from_nanos(said.trim().parse().with_context(|| format!("no time: {said}"))?))
    }

    async fn times(&self, line: &str) -> Result<Vec<Duration>> {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            times.push(self.time(line).await?);
        }
        Ok(times)
    }

    /// Installs what is compared with: apt of this machine fetches what the other lacks, which has no way to a mirror.
    async fn bring_peers(&self) -> Result<()> {
        let cache = testbed::paths::cache_dir()?.join("peers");
        std::fs::create_dir_all(cache.join("partial")).context("cannot make a folder for packages")?;
        let status = self.machine.root().join("var/lib/dpkg/status");
        let fetched = Command::new("apt-get")
            .args(["-qy", "install", "--download-only", "--no-install-recommends"])
            .arg(format!("-oDir::State::status={}", status.display()))
            .arg(format!("-oDir::Cache::archives={}/", cache.display()))
            .args(PACKAGES)
            .output()
            .await
            .context("there is no apt here")?;
        let said = String::from_utf8_lossy(&fetched.stderr);
        ensure!(fetched.status.success(), "apt does not bring {}: {said}", PACKAGES.join(", "));
        let inside = self.machine.root().join("var/peers");
        std::fs::create_dir_all(&inside).context("cannot make a folder for packages")?;
        for package in std::fs::read_dir(&cache).context("cannot list the packages")?.flatten() {
            if package.path().extension().is_some_and(|ending| ending == "deb") {
                std::fs::copy(package.path(), inside.join(package.file_name()))
                    .context("cannot copy a package")?;
            }
        }
        // Each time those are set up that the next ones need before they can even be unpacked.
        let install = "dpkg --install /var/peers/*.deb";
        let said = self
            .run(&format!("export DEBIAN_FRONTEND=noninteractive; {install} || {install} || {install}"))
            .await;
        said.map(drop).context("dpkg does not install what apt has brought")
    }

    /// A host that has all is looked at.
    async fn passes(&self, peers: bool) -> Result<Vec<Row>> {
        self.run("./nodebootstrap-agent apply --file seed.nb.yaml").await?;
        let mut rows = self.pass("seed, converged", "seed.nb.yaml", "< 2 ms").await?;
        let command = self.times("./nodebootstrap-agent plan --file seed.nb.yaml").await?;
        rows.push(row("  nodebootstrap-agent plan, as a command", &command, ""));
        if peers {
            self.put("seed.sh", SCRIPT)?;
            self.put("seed.yaml", PLAYBOOK)?;
            self.run("cp /etc/systemd/system/kubelet-version.service .").await?;
            let playbook = "ansible-playbook -i localhost, -e url=$URL -e digest=$DIGEST seed.yaml";
            for (what, line) in [("  a careful shell script", "sh seed.sh"), ("  Ansible", playbook)] {
                self.run(line).await?;
                let times = self.times(line).await?;
                let said = self.run("cat said").await?;
                ensure!(said.contains("changed=0"), "{what} finds something to do each time: {said}");
                rows.push(row(what, &times, ""));
            }
        }
        self.run("./nodebootstrap-agent apply --file many.nb.yaml").await?;
        rows.extend(self.pass("2,000 resources, converged", "many.nb.yaml", "< 50 ms").await?);
        Ok(rows)
    }

    async fn pass(&self, what: &str, file: &str, hold: &str) -> Result<Vec<Row>> {
        let (mut first, mut median) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let said = self.run(&format!("./measure pass {file}")).await?;
            let (one, others) = said.trim().split_once(' ').context("two numbers")?;
            first.push(Duration::from_micros(one.parse().context("a number")?));
            median.push(Duration::from_micros(others.parse().context("a number")?));
        }
        Ok(vec![
            row(&format!("{what}: a pass of an agent that runs"), &median, hold),
            row("  its first pass, which reads all", &first, ""),
        ])
    }

    /// The same file is fetched and verified, each time anew; in turns, so that whatever else goes on meets all alike.
    async fn downloads(&self, peers: bool) -> Result<Vec<Row>> {
        let (mut fetched, mut streamed, mut stored) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let said = self
                .run("rm -rf empty file; mkdir -p empty/var/lib; ./measure fetch $URL $DIGEST empty")
                .await?;
            fetched.push(Duration::from_micros(said.trim().parse().context("a number")?));
            if peers {
                streamed.push(self.time("curl --silent $URL | sha256sum").await?);
                stored.push(self.time("curl --silent --output file $URL; sha256sum file").await?);
            }
        }
        let mut rows = vec![row("download of 84 MB, verified and kept", &fetched, "")];
        if peers {
            rows.push(row("  curl | sha256sum, which keeps nothing", &streamed, ""));
            rows.push(row("  curl to a file, then sha256sum", &stored, ""));
        }
        Ok(rows)
    }
}

/// A spec of 2,000 resources.
fn many() -> Result<String> {
    let mut spec = String::from(
        "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {name: many}\nspec:\n  allNodes: true\n",
    );
    let mut list = |name: &str, count: usize, entry: &dyn Fn(usize) -> String| -> std::fmt::Result {
        writeln!(spec, "  {name}:")?;
        (0..count).try_for_each(|number| writeln!(spec, "  - {{{}}}", entry(number)))
    };
    list("groups", 20, &|n| format!("name: g{n}"))?;
    list("users", 20, &|n| format!("name: u{n}, group: g{n}, home: /opt/many"))?;
    list("directories", 880, &|n| match n {
        0 => "path: /opt/many".to_owned(),
        n => format!("path: /opt/many/{}, owner: u{}, mode: \"0750\"", n, n % 20),
    })?;
    list("files", 1000, &|n| {
        let content = format!("setting {n} = {}", "value ".repeat(20));
        format!("path: /opt/many/{}/file-{n}, owner: u{}, content: \"{content}\"", 1 + n % 800, n % 20)
    })?;
    list("symlinks", 60, &|n| format!("path: /opt/many/link-{n}, target: file-{n}"))?;
    list("units", 20, &|n| {
        let content = "[Service]\\nType=oneshot\\nRemainAfterExit=yes\\nExecStart=/bin/true\\n[Install]\\nWantedBy=multi-user.target\\n";
        format!("name: many-{n}.service, enabled: true, active: true, content: \"{content}\"")
    })?;
    Ok(spec)
}
