//! One machine: in goes its remembered state, out comes a running systemd of its own with containerd, on an overlay
//! over the shared root, in a network namespace, and a way to run commands in it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::paths::{self, Id};
use crate::process::{self, ExecOutput};
use crate::state::{MachineState, Slot};
use crate::{cgroup, network};

/// A machine of a testbed. Cheap to make and to clone; what it tells is looked up anew each time.
#[derive(Debug, Clone)]
pub struct Machine {
    id: Id,
    slot: Slot,
    state: MachineState,
    dir: PathBuf,
    root: PathBuf,
}

impl Machine {
    pub(crate) fn new(id: &Id, slot: Slot, state: &MachineState) -> Machine {
        let dir = id.state_dir().join("machines").join(&state.name);
        Machine { id: id.clone(), slot, state: state.clone(), root: dir.join("root"), dir }
    }

    /// Its name, which is also its host name and its node's name.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// Its address on the testbed's bridge.
    pub fn ip(&self) -> Ipv4Addr {
        self.slot.address(self.state.suffix)
    }

    /// Its root file system as seen from the host. `/tmp`, `/run` and other mounts inside are not seen here.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Its own `/etc/machine-id`.
    pub fn machine_id(&self) -> &str {
        &self.state.machine_id
    }

    /// Whether it has not joined the cluster by the testbed's own doing.
    pub fn is_bare(&self) -> bool {
        self.state.bare
    }

    /// What its systemd wrote to the console.
    pub fn console_log(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// The process id, on the host, of its systemd. Looked up each time: a reboot of the machine changes it.
    pub fn leader(&self) -> Result<u32> {
        let own = std::fs::read_link("/proc/self/ns/pid").context("cannot see our own namespace")?;
        // While it starts, nspawn has a child that is still in our namespaces: a command sent there would run on the
        // host, and systemctl would ask the host's systemd.
        let is_inside = |pid: &u32| {
            std::fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|theirs| theirs != own)
                && process::program(*pid).is_some_and(|name| name == "systemd" || name == "init")
        };
        process::children(self.supervisor()?)
            .into_iter()
            .filter(|pid| process::program(*pid).is_some_and(|name| name == "systemd-nspawn"))
            .flat_map(process::children)
            .find(is_inside)
            .with_context(|| {
                format!("machine {} is not running; see {}", self.name(), self.console_log().display())
            })
    }

    /// Runs a command in it to its end, as root, with an empty standard input.
    pub async fn exec(&self, argv: &[&str]) -> Result<ExecOutput> {
        let mut command = self.command(argv)?;
        process::output(&mut command).await.with_context(|| format!("on machine {}", self.name()))
    }

    /// Like [`Machine::exec`] with the content of a file as standard input.
    pub async fn exec_with_file(&self, argv: &[&str], input: &Path) -> Result<ExecOutput> {
        let file = std::fs::File::open(input).with_context(|| format!("cannot read {}", input.display()))?;
        let output = self
            .command(argv)?
            .stdin(file)
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("cannot run {argv:?} on machine {}", self.name()))?;
        Ok(output.into())
    }

    /// The command line that runs `argv` in it, for those who want its standard input and output for themselves.
    pub fn command(&self, argv: &[&str]) -> Result<Command> {
        let leader = self.leader()?.to_string();
        // In the machine's cgroups, as a login there would be: else it sees its own as "/../..".
        let folders = cgroup::folders_to_join(&self.id, &self.leaf());
        let mut command = Command::new("sh");
        command.args(["-c", process::ENTER, "testbed", &folders.len().to_string()]).args(folders);
        command.args(["nsenter", "-t", &leader, "-a", "--"]);
        // nsenter waits outside of the machine; without this, killing it would leave the command running inside.
        command.args(["setpriv", "--pdeathsig", "KILL", "--"]).args(argv);
        command.env_clear();
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs([("HOME", "/root"), ("LANG", "C.UTF-8"), ("TERM", "linux"), ("SYSTEMD_PAGER", "")]);
        Ok(command)
    }

    /// Reboots it: its processes end and its systemd starts anew, on the same root and with a new boot id.
    pub async fn reboot(&self) -> Result<()> {
        let before = self.leader()?;
        // The command is cut off by the reboot, so that its exit code says nothing.
        let _ = self.exec(&["systemctl", "reboot"]).await;
        let name = self.name();
        process::wait_for(&format!("machine {name} to go down"), Duration::from_secs(120), || async {
            Ok((!process::is_alive(before)).then_some(()))
        })
        .await?;
        self.wait_running().await
    }

    /// The process id of the shell that starts systemd-nspawn, again after each reboot.
    fn supervisor(&self) -> Result<u32> {
        let file = self.dir.join("supervisor.pid");
        std::fs::read_to_string(&file)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .with_context(|| format!("machine {} was never started ({})", self.name(), file.display()))
    }

    /// Whether its systemd is there.
    pub fn is_running(&self) -> bool {
        self.supervisor().is_ok_and(|pid| process::is_running(pid, "systemd-nspawn")) && self.leader().is_ok()
    }

    fn leaf(&self) -> String {
        format!("machine-{}", self.name())
    }

    /// Mounts its root over `layers` (the uppermost first) and writes what makes it this machine.
    pub(crate) async fn prepare(&self, layers: &[&Path]) -> Result<()> {
        let (upper, work) = (self.dir.join("upper"), self.dir.join("work"));
        for folder in [&upper, &work, &self.root] {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let lower = layers.iter().map(|layer| layer.display().to_string()).collect::<Vec<_>>().join(":");
        let options = format!("lowerdir={lower},upperdir={},workdir={}", upper.display(), work.display());
        let mut mount = Command::new("mount");
        mount.args(["-t", "overlay", "overlay", "-o", &options]).arg(&self.root);
        process::run(&mut mount)
            .await
            .with_context(|| format!("cannot mount the root of {}", self.name()))?;

        let name = self.name();
        paths::write(&self.root.join("etc/hostname"), format!("{name}\n"))?;
        // Without its own name here, whoever looks it up waits ten seconds for a nameserver.
        paths::write(
            &self.root.join("etc/hosts"),
            format!("127.0.0.1 localhost\n{} {name}\n::1 localhost ip6-localhost\n", self.ip()),
        )?;
        paths::write(&self.root.join("etc/machine-id"), format!("{}\n", self.machine_id()))?;
        paths::write(&self.root.join("etc/cni/net.d/10-bridge.conflist"), self.cni_config())?;
        // The seed's kubelet goes there, and nothing may lie there before.
        std::fs::create_dir_all(self.root.join("usr/local/sbin")).context("cannot make usr/local/sbin")
    }

    fn cni_config(&self) -> String {
        let config = serde_json::json!({
            "cniVersion": "1.0.0",
            "name": "bridge",
            "plugins": [{
                "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": self.slot.pod_subnet(self.state.suffix)}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }, {"type": "portmap", "capabilities": {"portMappings": true}}],
        });
        format!("{config:#}\n")
    }

    /// Starts it, and waits until its systemd says that all is started.
    pub(crate) async fn boot(&self) -> Result<()> {
        network::create_namespace(&self.id, self.slot, self.name(), self.state.suffix).await?;
        let entry = cgroup::enter(&self.id, &self.leaf())?;
        let mut argv = entry.prefix;
        argv.extend(["sh", "-c", SUPERVISE, "testbed"].map(str::to_owned));
        argv.push(entry.folders.len().to_string());
        argv.extend(entry.folders.iter().map(|folder| folder.display().to_string()));
        argv.extend(self.nspawn_words());
        let environment = [
            // Kubelets and kube-proxy write below /proc/sys and /sys.
            ("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "yes"),
            ("SYSTEMD_NSPAWN_USE_CGNS", "1"),
            // runc sets filters of its own for pods, and the machine's must not forbid what a real one allows.
            ("SYSTEMD_SECCOMP", "0"),
        ];
        let pid = process::spawn_detached(&argv, &environment, &entry.folders, &self.console_log())?;
        paths::write(&self.dir.join("supervisor.pid"), pid.to_string())?;
        self.wait_running().await
    }

    fn nspawn_words(&self) -> Vec<String> {
        let mut words: Vec<String> = [
            "systemd-nspawn",
            "--quiet",
            "--boot",
            "--register=no",
            "--keep-unit",
            "--private-users=no",
            "--capability=all",
            "--bind=/dev/kmsg",
            "--console=read-only",
            "--resolv-conf=off",
            "--timezone=off",
            "--link-journal=no",
        ]
        .map(str::to_owned)
        .to_vec();
        words.extend([
            format!("--directory={}", self.root.display()),
            // nspawn keeps folders in /run by this name, so that two testbeds' cp1 must differ in it.
            format!("--machine={}", self.id.namespace(self.name())),
            format!("--hostname={}", self.name()),
            format!("--uuid={}", self.machine_id()),
            format!("--network-namespace-path=/run/netns/{}", self.id.namespace(self.name())),
        ]);
        words
    }

    async fn wait_running(&self) -> Result<()> {
        let name = self.name();
        let what = format!("systemd on machine {name} (see {})", self.console_log().display());
        process::wait_for(&what, Duration::from_secs(120), || async {
            if !self.supervisor().is_ok_and(process::is_alive) {
                anyhow::bail!("systemd-nspawn ended:\n{}", crate::tail(&self.console_log()));
            }
            let Ok(mut command) = self.command(&["systemctl", "is-system-running"]) else { return Ok(None) };
            let state = process::output(command.stderr(Stdio::null())).await?.stdout;
            // Degraded: a unit failed, as in any container; what matters is awaited by name.
            Ok(matches!(state.trim(), "running" | "degraded").then_some(()))
        })
        .await
        .with_context(|| format!("machine {name} did not start"))
    }

    /// Ends all of its processes at once, as a power cut does, and removes its network. Its root stays.
    pub(crate) async fn stop(&self) -> Result<()> {
        cgroup::clear(&self.id, Some(&self.leaf())).await?;
        network::remove_namespace(&self.id, self.slot, self.name(), self.state.suffix).await?;
        let _ = std::fs::remove_file(self.dir.join("supervisor.pid"));
        let _ = std::fs::remove_dir(Path::new(PROPAGATE).join(self.id.namespace(self.name())));
        Ok(())
    }

    /// Removes its root too.
    pub(crate) async fn remove(&self) -> Result<()> {
        self.stop().await?;
        unmount_below(&self.dir).await?;
        if self.dir.exists() {
            std::fs::remove_dir_all(&self.dir)
                .with_context(|| format!("cannot remove {}", self.dir.display()))?;
        }
        Ok(())
    }

    /// Imports an image archive into containerd.
    pub(crate) async fn import_image(&self, archive: &Path) -> Result<()> {
        // By standard input: no copy into the machine's root.
        let argv = ["ctr", "-n", "k8s.io", "images", "import", "--snapshotter", "native", "-"];
        self.exec_with_file(&argv, archive)
            .await?
            .ok()
            .map(drop)
            .with_context(|| format!("cannot import {} on machine {}", archive.display(), self.name()))
    }
}

/// nspawn ends with 133 when its machine reboots, and wants to be started again. The cgroups of what ran before go, as
/// they would on a true machine.
const SUPERVISE: &str = r#"n=$1; shift; folders=
while [ "$n" -gt 0 ]; do folders="$folders $1"; shift; n=$((n - 1)); done
while :; do
  "$@"; code=$?
  [ "$code" = 133 ] || exit "$code"
  for folder in $folders; do find "$folder" -mindepth 1 -depth -type d -exec rmdir {} ';' 2>/dev/null; done
done"#;

/// Where systemd-nspawn makes a folder for each machine; killed, it leaves it.
const PROPAGATE: &str = "/run/systemd/nspawn/propagate";

/// Removes what systemd-nspawn left of the machines of an id.
pub(crate) fn clear_leftovers(id: &Id) {
    let prefix = id.namespace("");
    let Ok(entries) = std::fs::read_dir(PROPAGATE) else { return };
    for entry in entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(&prefix)) {
        // Empty, or a mount point that is somebody else's business: either way only an empty one may go.
        let _ = std::fs::remove_dir(entry.path());
    }
}

/// A new machine id, random as systemd's own.
pub(crate) fn new_machine_id() -> Result<String> {
    let uuid =
        std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("the kernel gives no random UUID")?;
    Ok(uuid.trim().replace('-', ""))
}

/// Unmounts all that is mounted below a folder, the deepest first.
pub(crate) async fn unmount_below(folder: &Path) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    let places: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|place| Path::new(place).starts_with(folder))
        .collect();
    for place in places.iter().rev() {
        if process::run_args("umount", &[place]).await.is_err() {
            // Somebody's shell stands in it: detached, it goes when that shell does.
            process::run_args("umount", &["--lazy", place]).await?;
        }
    }
    Ok(())
}
