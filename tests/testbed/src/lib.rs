//! A real multi-node Kubernetes on one machine: in goes an id and names of machines, out come a control plane built
//! from source and machines with a systemd, containerd, kubelet and kube-proxy of their own.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use testbed::{Testbed, UpOptions};
//! let testbed = Testbed::up(UpOptions::new("e2e")).await?;
//! let os = testbed.machine("worker1")?.exec(&["cat", "/etc/os-release"]).await?.ok()?;
//! let pods = testbed.kubectl(&["get", "pods", "-A"]).await?.ok()?;
//! # let _ = (os, pods);
//! testbed.down().await
//! # }
//! ```
//!
//! Everything is kept on disk by id, so that another process finds it again with [`Testbed::attach`]. See
//! `docs/testbed.md` for what it touches on the machine that it runs on.

pub mod artifacts;
mod audit;
mod binaries;
mod cgroup;
mod controlplane;
pub mod image;
mod kernel;
mod machine;
mod network;
mod node;
pub mod paths;
mod pki;
mod prerequisites;
mod process;
mod root;
mod state;
pub mod vm;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;
use tokio::process::Command;

pub use audit::{AuditCursor, AuditEvent};
pub use binaries::{KUBERNETES_VERSION, OLDER_KUBELET_VERSION, older_kubelet};
pub use machine::Machine;
pub use process::{ExecOutput, wait_for};

use binaries::Binaries;
use controlplane::ControlPlane;
use node::Cluster;
use paths::Id;
use state::{MachineState, Ports, Slot, State};

/// What [`Testbed::up`] shall make.
#[derive(Debug, Clone)]
pub struct UpOptions {
    /// The testbed's own id: testbeds with different ids stand side by side.
    pub id: String,
    /// Machines that are nodes from the start; names that begin with `cp` are control-plane nodes.
    pub machines: Vec<String>,
    /// Machines with systemd and containerd, but neither kubelet nor kube-proxy.
    pub bare: Vec<String>,
}

impl UpOptions {
    /// One control-plane machine and two workers.
    pub fn new(id: &str) -> UpOptions {
        let machines = ["cp1", "worker1", "worker2"].map(str::to_owned).to_vec();
        UpOptions { id: id.to_owned(), machines, bare: Vec::new() }
    }
}

/// A testbed that is up. Dropping it leaves it up; [`Testbed::down`] ends it.
#[derive(Debug, Clone)]
pub struct Testbed {
    id: Id,
}

impl Testbed {
    /// Makes a testbed, or finds it up already. What a killed run of the same id left is cleared first.
    pub async fn up(options: UpOptions) -> Result<Testbed> {
        let id = Id::parse(&options.id)?;
        for name in options.machines.iter().chain(&options.bare) {
            paths::check_machine_name(name)?;
        }
        let mut stages = Stages::start();
        let warm = Binaries::cached()?.is_some() && root::cached()?.is_some();
        prerequisites::ensure(warm).await?;
        let _lock = paths::lock_id(&id).await?;
        let testbed = Testbed { id: id.clone() };
        if testbed.is_up().await {
            eprintln!("testbed {id} is up already");
            testbed.add_missing(&options).await?;
            return Ok(testbed);
        }
        let (binaries, root) = build_all(&mut stages).await?;
        clear(&id).await?;
        stages.done("cleared");
        testbed.create(&options, &binaries, &root, &mut stages).await.with_context(|| {
            format!("testbed {id} did not come up; `testbed down --id {id}` clears what is there")
        })?;
        Ok(testbed)
    }

    /// Finds a testbed that is up.
    pub async fn attach(id: &str) -> Result<Testbed> {
        let testbed = Testbed { id: Id::parse(id)? };
        if !testbed.is_up().await {
            bail!("testbed {id} is not up: `testbed up --id {id}`");
        }
        Ok(testbed)
    }

    /// A testbed as it is, running or broken: for commands that look or repair.
    pub fn open(id: &str) -> Result<Testbed> {
        let testbed = Testbed { id: Id::parse(id)? };
        testbed.state()?;
        Ok(testbed)
    }

    /// Ends it and clears all that it made.
    pub async fn down(&self) -> Result<()> {
        Self::down_id(self.id.as_str()).await
    }

    /// Ends the testbed of an id, whatever state it is in; it is no error if there is none.
    pub async fn down_id(id: &str) -> Result<()> {
        let id = Id::parse(id)?;
        let _lock = paths::lock_id(&id).await?;
        clear(&id).await?;
        let _shared = paths::lock_shared().await?;
        if paths::known_ids().is_empty() {
            kernel::restore()?;
            // Only if it is empty: what somebody else put there is not ours.
            let _ = std::fs::remove_dir(paths::STATE_ROOT);
        }
        Ok(())
    }

    /// Its id.
    pub fn id(&self) -> &str {
        self.id.as_str()
    }

    /// Its folder: kubeconfigs, logs, pki, machines.
    pub fn dir(&self) -> PathBuf {
        self.id.state_dir()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir().join("admin.kubeconfig")
    }

    /// A client with the administrator's rights.
    pub async fn client(&self) -> Result<kube::Client> {
        let path = self.kubeconfig();
        let kubeconfig =
            Kubeconfig::read_from(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .with_context(|| format!("cannot use {}", path.display()))?;
        kube::Client::try_from(config).context("cannot make a client")
    }

    /// Runs the kubectl that was built, with the administrator's kubeconfig, to its end.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<ExecOutput> {
        let binaries = self.binaries()?;
        let mut command = Command::new(binaries.path("kubectl"));
        command.env("KUBECONFIG", self.kubeconfig()).args(arguments);
        process::output(&mut command).await
    }

    /// The kubectl that was built.
    pub fn kubectl_path(&self) -> Result<PathBuf> {
        Ok(self.binaries()?.path("kubectl"))
    }

    /// A machine by its name.
    pub fn machine(&self, name: &str) -> Result<Machine> {
        let state = self.state()?;
        let known = state.machines.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = state.machines.iter().find(|machine| machine.name == name);
        let machine = found.with_context(|| format!("no machine {name}; there are {known}"))?;
        Ok(Machine::new(&self.id, state.slot, machine))
    }

    /// All machines.
    pub fn machines(&self) -> Result<Vec<Machine>> {
        let state = self.state()?;
        Ok(state.machines.iter().map(|machine| Machine::new(&self.id, state.slot, machine)).collect())
    }

    /// URL of the server of [`artifacts`] as seen from the host and from the machines.
    pub fn artifacts_url(&self) -> Result<String> {
        let state = self.state()?;
        Ok(format!("http://{}:{}", state.slot.gateway(), state.ports.artifacts))
    }

    /// How often each path was asked from the server of [`artifacts`].
    pub async fn artifact_counters(&self) -> Result<BTreeMap<String, u64>> {
        let state = self.state()?;
        let text = http_get(state.slot.gateway(), state.ports.artifacts, "/_counters").await?;
        serde_json::from_str(&text).with_context(|| format!("not counters: {text:?}"))
    }

    /// Puts a file on the server of [`artifacts`]; gives its URL.
    pub fn publish(&self, name: &str, content: &[u8]) -> Result<String> {
        paths::write(&self.dir().join("files").join(name), content)?;
        Ok(format!("{}/files/{name}", self.artifacts_url()?))
    }

    /// URL of the API server as seen from the machines.
    pub fn server_for_machines(&self) -> Result<String> {
        Ok(self.control_plane()?.server_for_machines())
    }

    /// Stops the API server, as an outage would.
    pub async fn stop_apiserver(&self) -> Result<()> {
        self.control_plane()?.stop_apiserver().await
    }

    /// Starts the API server again, and waits until it is ready.
    pub async fn start_apiserver(&self) -> Result<()> {
        let control_plane = self.control_plane()?;
        // Only one of them can have the port, and a second start must do no harm.
        control_plane.stop_apiserver().await?;
        control_plane.start_apiserver()?;
        control_plane.wait_ready(&self.client().await?).await
    }

    /// Now, in the audit log: all requests answered before are before it.
    pub async fn audit_cursor(&self) -> Result<AuditCursor> {
        self.flush_audit_log().await?;
        audit::end(&controlplane::audit_log(&self.dir()))
    }

    /// All requests answered since. Of Kubernetes' own parts only the writes are there.
    pub async fn audit_since(&self, cursor: AuditCursor) -> Result<Vec<AuditEvent>> {
        self.flush_audit_log().await?;
        let mut events = audit::since(&controlplane::audit_log(&self.dir()), cursor)?;
        events.retain(|event| !event.uri.contains(MARKER));
        Ok(events)
    }

    /// Sends a request and waits until the log has it: the log is written just after the answer, not before.
    async fn flush_audit_log(&self) -> Result<()> {
        let log = controlplane::audit_log(&self.dir());
        let mark = format!("/version?{MARKER}={}", machine::new_machine_id()?);
        let start = audit::end(&log)?;
        let request = axum::http::Request::get(&mark).body(Vec::new()).context("cannot make a request")?;
        let client = self.client().await?;
        client.request_text(request).await.context("the API server does not answer")?;
        process::wait_for("the audit log to be written", Duration::from_secs(10), || async {
            Ok(audit::since(&log, start)?.iter().any(|event| event.uri == mark).then_some(()))
        })
        .await
    }

    /// Adds a machine that joins as a node, and waits until the node is Ready.
    pub async fn add_machine(&self, name: &str) -> Result<Machine> {
        let machine = self.boot_new(name, false).await?;
        self.wait_ready(&machine).await?;
        Ok(machine)
    }

    /// Adds a machine with systemd and containerd, but neither kubelet nor kube-proxy.
    pub async fn add_bare_machine(&self, name: &str) -> Result<Machine> {
        self.boot_new(name, true).await
    }

    /// Makes a bare machine a node by the testbed's own means, and waits until the node is Ready.
    pub async fn join(&self, name: &str) -> Result<Machine> {
        let machine = self.machine(name)?;
        let binaries = self.binaries()?;
        node::copy_programs(machine.root(), &binaries)?;
        self.configure_node(&machine)?;
        self.change(|state| {
            state.machines.iter_mut().filter(|m| m.name == name).for_each(|m| m.bare = false);
            Ok(())
        })
        .await?;
        machine.exec(&["systemctl", "daemon-reload"]).await?.ok()?;
        machine.exec(&["systemctl", "start", "kubelet", "kube-proxy"]).await?.ok()?;
        let machine = self.machine(name)?;
        self.wait_ready(&machine).await?;
        Ok(machine)
    }

    /// Ends a machine at once and removes it. Its Node object stays; deleting it is the caller's choice.
    pub async fn remove_machine(&self, name: &str) -> Result<()> {
        self.machine(name)?.remove().await?;
        self.change(|state| {
            state.machines.retain(|machine| machine.name != name);
            Ok(())
        })
        .await
    }

    /// Ends a machine at once, as a power cut does; its disk stays for [`Testbed::start_machine`].
    pub async fn stop_machine(&self, name: &str) -> Result<()> {
        self.machine(name)?.stop().await
    }

    /// Starts a machine again that was stopped.
    pub async fn start_machine(&self, name: &str) -> Result<()> {
        let machine = self.machine(name)?;
        // What a stop that was cut short left would be in the way.
        machine.stop().await?;
        machine.boot().await
    }

    /// Replaces a machine by a new one of the same name and address: a fresh disk, another machine id. A node is
    /// awaited Ready again.
    pub async fn recreate_machine(&self, name: &str) -> Result<Machine> {
        let old = self.machine(name)?;
        old.remove().await?;
        let machine_id = machine::new_machine_id()?;
        self.change(|state| {
            for machine in state.machines.iter_mut().filter(|machine| machine.name == name) {
                machine.machine_id.clone_from(&machine_id);
            }
            Ok(())
        })
        .await?;
        let machine = self.machine(name)?;
        self.boot_machine(&machine).await?;
        if !machine.is_bare() {
            self.wait_ready(&machine).await?;
        }
        Ok(machine)
    }

    /// Imports an image archive (see [`image::build`]) into the containerd of the named machines, side by side; into
    /// all if none is named.
    pub async fn import_image(&self, archive: &Path, machines: &[&str]) -> Result<()> {
        let mut chosen = self.machines()?;
        if !machines.is_empty() {
            chosen = machines.iter().map(|name| self.machine(name)).collect::<Result<_>>()?;
        }
        futures::future::try_join_all(chosen.iter().map(|machine| machine.import_image(archive)))
            .await
            .map(drop)
    }

    /// Copies all logs, with the journals of the machines that run, into a folder. Call it before [`Testbed::down`],
    /// which removes them.
    pub async fn collect_logs(&self, to: &Path) -> Result<()> {
        let logs = self.dir().join("logs");
        for entry in std::fs::read_dir(&logs).with_context(|| format!("no logs in {}", logs.display()))? {
            let entry = entry.context("cannot read the folder of logs")?;
            let bytes = std::fs::read(entry.path())
                .with_context(|| format!("cannot read {}", entry.path().display()))?;
            paths::write(&to.join(entry.file_name()), bytes)?;
        }
        for machine in self.machines()? {
            let name = machine.name();
            // A machine that is broken is the one whose logs are wanted, so that nothing here may fail on it.
            if let Ok(bytes) = std::fs::read(machine.console_log()) {
                paths::write(&to.join(format!("{name}.console.log")), bytes)?;
            }
            let journal = machine.exec(&["journalctl", "--no-pager", "-b"]);
            if let Ok(Ok(journal)) = tokio::time::timeout(Duration::from_secs(30), journal).await {
                paths::write(&to.join(format!("{name}.journal.log")), journal.stdout)?;
            }
        }
        Ok(())
    }

    /// One line on each part: the machines, whether they run, and where the API server and the files are.
    pub async fn status(&self) -> Result<String> {
        use std::fmt::Write as _;
        let state = self.state()?;
        let ready = controlplane::is_ready(&self.client().await?).await;
        let mut text = String::new();
        let _ = writeln!(text, "id          {}", self.id);
        let _ = writeln!(text, "folder      {}", self.dir().display());
        let _ = writeln!(text, "kubeconfig  {}", self.kubeconfig().display());
        let _ = writeln!(text, "bridge      {} {}/24", state.slot.bridge(), state.slot.gateway());
        let _ = writeln!(text, "artifacts   {}", self.artifacts_url()?);
        let _ = writeln!(text, "API server  {}", if ready { "ready" } else { "not ready" });
        for machine in self.machines()? {
            let running = if machine.is_running() { "running" } else { "stopped" };
            let kind = if machine.is_bare() { ", bare" } else { "" };
            let _ = writeln!(text, "machine     {} {} {running}{kind}", machine.name(), machine.ip());
        }
        Ok(text)
    }

    /// Answers requests to the server of [`artifacts`] until the process ends.
    pub async fn serve_artifacts(id: &str) -> Result<()> {
        let testbed = Testbed { id: Id::parse(id)? };
        let state = testbed.state()?;
        let server = artifacts::Server::new(testbed.binaries()?, testbed.dir().join("files"));
        server.serve(state.slot.gateway(), state.ports.artifacts).await
    }

    fn state(&self) -> Result<State> {
        State::load(&self.id)?.with_context(|| format!("there is no testbed {}", self.id))
    }

    /// Changes what is remembered, one at a time, though machines are made side by side.
    async fn change<T>(&self, change: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let _lock = paths::lock(&self.dir().join("state.lock")).await?;
        let mut state = self.state()?;
        let value = change(&mut state)?;
        state.save()?;
        Ok(value)
    }

    fn binaries(&self) -> Result<Binaries> {
        Binaries::cached()?.context("the Kubernetes programs are gone from the cache: `testbed build`")
    }

    fn control_plane(&self) -> Result<ControlPlane> {
        Ok(ControlPlane::new(&self.id, &self.state()?, &self.binaries()?))
    }

    async fn is_up(&self) -> bool {
        let Ok(Some(state)) = State::load(&self.id) else { return false };
        let (Ok(control_plane), Ok(machines), Ok(client)) =
            (self.control_plane(), self.machines(), self.client().await)
        else {
            return false;
        };
        state.complete
            && control_plane.is_running()
            && machines.iter().all(Machine::is_running)
            && controlplane::is_ready(&client).await
            && self.artifact_counters().await.is_ok()
    }

    async fn add_missing(&self, options: &UpOptions) -> Result<()> {
        let there = self.machines()?;
        let missing = |name: &&String| there.iter().all(|machine| machine.name() != **name);
        for name in options.machines.iter().filter(missing) {
            self.add_machine(name).await?;
        }
        for name in options.bare.iter().filter(missing) {
            self.add_bare_machine(name).await?;
        }
        Ok(())
    }

    async fn create(
        &self,
        options: &UpOptions,
        binaries: &Binaries,
        root: &Path,
        stages: &mut Stages,
    ) -> Result<()> {
        let state = self.reserve().await?;
        network::create_bridge(&self.id, state.slot).await?;
        let control_plane = ControlPlane::new(&self.id, &state, binaries);
        control_plane.write_credentials()?;
        for folder in ["logs", "run", "files"] {
            let folder = self.dir().join(folder);
            std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        control_plane.start_etcd()?;
        control_plane.start_apiserver()?;
        self.start_artifacts().await?;
        stages.done("network, certificates, processes started");

        let mut made = Vec::new();
        for (name, bare) in
            options.machines.iter().map(|n| (n, false)).chain(options.bare.iter().map(|n| (n, true)))
        {
            made.push(self.remember_machine(name, bare).await?);
        }
        let client = self.client().await?;
        let controllers = async {
            control_plane.wait_ready(&client).await?;
            stages.note("API server ready");
            control_plane.start_controllers()
        };
        let machines = async {
            let boots = made.iter().map(|machine| self.boot_machine_over(machine, binaries, root));
            futures::future::try_join_all(boots).await?;
            stages.note("machines booted");
            Ok(())
        };
        tokio::try_join!(controllers, machines)?;
        let nodes = made.iter().filter(|machine| !machine.is_bare());
        futures::future::try_join_all(nodes.map(|machine| self.wait_ready(machine))).await?;
        stages.note("nodes Ready");
        self.wait_service_account().await?;
        stages.note("service account made");
        process::wait_for("the artifact server", Duration::from_secs(20), || async {
            Ok(self.artifact_counters().await.ok())
        })
        .await
        .with_context(|| crate::tail(&self.dir().join("logs/artifacts.log")))?;
        self.change(|state| {
            state.complete = true;
            Ok(())
        })
        .await?;
        stages.total();
        Ok(())
    }

    /// Chooses the numbers of a new testbed, raises the kernel's limit, and remembers both before anything is made.
    async fn reserve(&self) -> Result<State> {
        let _shared = paths::lock_shared().await?;
        kernel::raise()?;
        let mut others = Vec::new();
        for other in paths::known_ids() {
            // A damaged one is its own user's to clear; its interfaces are seen among the addresses.
            others.extend(State::load(&other).ok().flatten().map(|state| state.slot));
        }
        let taken = network::taken().await?;
        let slot = Slot::choose(self.id.as_str(), |slot| others.contains(&slot) || slot.collides(&taken))?;
        let state = State {
            id: self.id.to_string(),
            slot,
            ports: Ports::choose(slot)?,
            machines: Vec::new(),
            complete: false,
        };
        state.save()?;
        Ok(state)
    }

    async fn remember_machine(&self, name: &str, bare: bool) -> Result<Machine> {
        paths::check_machine_name(name)?;
        let machine_id = machine::new_machine_id()?;
        self.change(|state| {
            if state.machines.iter().any(|machine| machine.name == name) {
                bail!("there is a machine {name} already");
            }
            let suffix = state.free_suffix()?;
            state.machines.push(MachineState { name: name.to_owned(), suffix, bare, machine_id });
            Ok(())
        })
        .await?;
        self.machine(name)
    }

    async fn boot_new(&self, name: &str, bare: bool) -> Result<Machine> {
        let machine = self.remember_machine(name, bare).await?;
        self.boot_machine(&machine).await?;
        Ok(machine)
    }

    async fn boot_machine(&self, machine: &Machine) -> Result<()> {
        let root = root::cached()?.context("the machines' root is gone from the cache: `testbed build`")?;
        self.boot_machine_over(machine, &self.binaries()?, &root).await
    }

    async fn boot_machine_over(&self, machine: &Machine, binaries: &Binaries, root: &Path) -> Result<()> {
        if machine.is_bare() {
            machine.prepare(&[root]).await?;
        } else {
            machine.prepare(&[&binaries.layer(), root]).await?;
            self.configure_node(machine)?;
        }
        machine.boot().await
    }

    /// Writes into the root of a virtual machine what makes it a node of this cluster, and its kubelet.
    pub fn configure_virtual(&self, root: &Path, name: &str) -> Result<()> {
        let authority = pki::Authority::open(&self.dir().join("pki"))?;
        node::configure_virtual(root, name, vm::ADDRESS, &self.cluster(&authority)?)?;
        node::copy_programs(root, &self.binaries()?)
    }

    fn configure_node(&self, machine: &Machine) -> Result<()> {
        let authority = pki::Authority::open(&self.dir().join("pki"))?;
        node::configure(machine.root(), machine.name(), machine.ip(), &self.cluster(&authority)?)
    }

    fn cluster<'a>(&self, authority: &'a pki::Authority) -> Result<Cluster<'a>> {
        let (server, pod_range) = (self.server_for_machines()?, self.state()?.slot.pod_range());
        Ok(Cluster { server, pod_range, authority })
    }

    /// Waits until the node of this very machine is Ready, and not an earlier machine of the same name.
    async fn wait_ready(&self, machine: &Machine) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client().await?);
        let ready = |node: Option<&Node>| {
            let status = node.and_then(|node| node.status.as_ref());
            status.is_some_and(|status| {
                status.node_info.as_ref().is_some_and(|info| info.machine_id == machine.machine_id())
                    && !is_tainted(node)
                    && status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
            })
        };
        let name = machine.name();
        let wait = kube::runtime::wait::await_condition(nodes.clone(), name, ready);
        match tokio::time::timeout(Duration::from_secs(120), wait).await {
            Ok(outcome) => outcome.map(drop).with_context(|| format!("cannot watch node {name}"))?,
            Err(_) => {
                let journal = machine.exec(&["journalctl", "-u", "kubelet", "-n", "20", "--no-pager"]).await;
                bail!(
                    "node {name} is not Ready after 120 s:\n{}",
                    journal.map(|j| j.stdout).unwrap_or_default()
                );
            }
        }
        if node::is_control_plane(name) {
            // A kubelet may not put this label on itself.
            let label = json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}});
            nodes
                .patch(name, &PatchParams::default(), &Patch::Merge(&label))
                .await
                .with_context(|| format!("cannot label node {name}"))?;
        }
        Ok(())
    }

    /// Waits until pods can be made: not before each namespace has its service account.
    async fn wait_service_account(&self) -> Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await?, "default");
        let there = |account: Option<&ServiceAccount>| account.is_some();
        let wait = kube::runtime::wait::await_condition(accounts, "default", there);
        let outcome = tokio::time::timeout(Duration::from_secs(120), wait).await;
        outcome.context("no service account after 120 s; see logs/kube-controller-manager.log")?.map(drop)?;
        Ok(())
    }

    /// Starts the server of [`artifacts`] as a process that outlives this one.
    async fn start_artifacts(&self) -> Result<()> {
        let Some(program) = own_program() else {
            // A library's user without the program beside it: the server then lives as long as that process.
            let id = self.id.to_string();
            std::thread::Builder::new()
                .name("artifacts".to_owned())
                .spawn(move || {
                    let runtime = tokio::runtime::Runtime::new().context("cannot start a runtime");
                    if let Err(error) = runtime.and_then(|r| r.block_on(Testbed::serve_artifacts(&id))) {
                        eprintln!("artifact server: {error:#}");
                    }
                })
                .context("cannot start a thread")?;
            return Ok(());
        };
        let entry = cgroup::enter(&self.id, "artifacts")?;
        let mut argv = entry.prefix;
        argv.push(program.display().to_string());
        argv.extend(["serve", "--id", self.id.as_str()].map(str::to_owned));
        let log = self.dir().join("logs/artifacts.log");
        process::spawn_detached(&argv, &[], &entry.folders, &log).map(drop)
    }
}

const MARKER: &str = "testbed-mark";

/// Builds what the cache lacks: the Kubernetes programs, the second kubelet and the machines' root.
pub async fn build() -> Result<()> {
    let warm = Binaries::cached()?.is_some() && root::cached()?.is_some();
    prerequisites::ensure(warm).await?;
    build_all(&mut Stages::start()).await?;
    older_kubelet().await.map(drop)
}

async fn build_all(stages: &mut Stages) -> Result<(Binaries, PathBuf)> {
    // Side by side: one waits for the compiler, the other for the network.
    let built = tokio::try_join!(Binaries::ensure(), root::ensure())?;
    stages.done("programs and root");
    Ok(built)
}

/// Ends and removes all that an id has on this machine, however it was left. The cgroups come first, since mounts
/// and namespaces are in use as long as their processes live.
async fn clear(id: &Id) -> Result<()> {
    cgroup::clear(id, None).await?;
    network::clear(id).await?;
    let dir = id.state_dir();
    machine::unmount_below(&dir).await?;
    machine::clear_leftovers(id);
    if dir.exists() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    Ok(())
}

/// Whether no pod may run on a node since it was not ready: the taint goes a moment after the condition has come.
fn is_tainted(node: Option<&Node>) -> bool {
    let taints = node.and_then(|node| node.spec.as_ref()).and_then(|spec| spec.taints.as_ref());
    taints.is_some_and(|taints| taints.iter().any(|taint| taint.key == "node.kubernetes.io/not-ready"))
}

/// The program `testbed`: this one, the one that `TESTBED_BIN` names, or one beside a test of the same build.
fn own_program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("TESTBED_BIN").filter(|path| !path.is_empty()) {
        return Some(PathBuf::from(path));
    }
    let own = std::env::current_exe().ok()?;
    own.ancestors().skip(1).take(2).map(|folder| folder.join("testbed")).find(|program| program.is_file())
}

/// This machine's architecture as Kubernetes and container images call it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The last lines of a log, for an error.
pub(crate) fn tail(log: &Path) -> String {
    let text =
        std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// The body of a plain HTTP answer: what one request to our own server needs, and no client for more.
async fn http_get(address: std::net::Ipv4Addr, port: u16, path: &str) -> Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect((address, port)).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: testbed\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), exchange)
        .await
        .context("no answer in 5 s")?
        .with_context(|| format!("no answer from {address}:{port}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("not an HTTP answer")?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("{path}: {}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}

/// Tells how long each stage took.
struct Stages {
    begin: Instant,
    last: Instant,
}

impl Stages {
    fn start() -> Stages {
        Stages { begin: Instant::now(), last: Instant::now() }
    }

    /// A stage that ran alone since the last one.
    fn done(&mut self, what: &str) {
        eprintln!("{:7.1} s  {what}", self.last.elapsed().as_secs_f32());
        self.last = Instant::now();
    }

    /// One of several that run side by side since the last one.
    fn note(&self, what: &str) {
        eprintln!("{:7.1} s  {what}", self.last.elapsed().as_secs_f32());
    }

    fn total(&self) {
        eprintln!("{:7.1} s  in all", self.begin.elapsed().as_secs_f32());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compiles only if users may spawn these on other threads.
    #[test]
    fn futures_can_be_sent() {
        fn sendable<T: Send>(value: T) -> T {
            value
        }
        drop(sendable(Testbed::up(UpOptions::new("never"))));
        drop(sendable(Testbed::down_id("never")));
    }
}
