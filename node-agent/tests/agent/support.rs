//! A machine to try things on: a root in a temporary directory, with a systemd that only remembers.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use crds::revision::{Identity, Values, render};
use futures::future::LocalBoxFuture;
use node_agent::engine::{self, Change, Failure, Observer, Payload, Plan, Request, rollback};
use node_agent::host::offline::Offline;
use node_agent::host::state::Begun;
use node_agent::host::systemd::{Answer, Job, Systemd, UnitState};
use node_agent::host::{Host, HostError, Root};
use node_agent::preset::Findings;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// A machine.
pub(crate) struct Machine {
    directory: TempDir,
    pub(crate) systemd: Rc<Fake>,
}

/// Has units as they are set, and remembers what it was asked to do.
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) units: RefCell<BTreeMap<String, UnitState>>,
    pub(crate) asked: RefCell<Vec<String>>,
    /// Whether it gives no answer when it is asked for units.
    pub(crate) silent: Cell<bool>,
    /// A unit that does not start.
    pub(crate) broken: RefCell<Option<String>>,
    /// A unit whose jobs end when [`Fake::end_job`] says so.
    pub(crate) watched: RefCell<Option<String>>,
    job_ends: tokio::sync::Notify,
    /// Whoever waits for units is told through this.
    told: tokio::sync::Notify,
    /// What programs of the machine answer, by path.
    pub(crate) answers: RefCell<BTreeMap<String, String>>,
    /// A setting's file that comes with a module.
    pub(crate) brings: RefCell<Option<String>>,
    files: RefCell<Option<Offline>>,
}

struct Handle(Rc<Fake>);

impl Fake {
    fn files<T>(&self, work: impl FnOnce(&Offline) -> T) -> T {
        work(self.files.borrow().as_ref().expect("the machine sets it"))
    }

    /// What was asked since the last call.
    pub(crate) fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.borrow_mut())
    }

    pub(crate) fn set(&self, unit: &str, active: &str) {
        let state = UnitState {
            load: "loaded".to_owned(),
            active: active.to_owned(),
            file: "disabled".to_owned(),
            ..UnitState::default()
        };
        self.units.borrow_mut().insert(unit.to_owned(), state);
    }

    /// A unit that ends by itself.
    pub(crate) fn ends(&self, unit: &str) {
        self.set(unit, "inactive");
        self.told.notify_one();
    }

    /// Has the job of the unit that is watched end, and no other one after it wait.
    pub(crate) fn end_job(&self) {
        *self.watched.borrow_mut() = None;
        self.job_ends.notify_one();
    }

    fn note(&self, word: &str, unit: &str, active: &str) -> Answer<'_, Job<'_>> {
        let is_watched = self.watched.borrow().as_deref() == Some(unit);
        self.asked.borrow_mut().push(format!("{word} {unit}"));
        let result = if self.broken.borrow().as_deref() == Some(unit) {
            self.units.borrow_mut().entry(unit.to_owned()).or_default().active = "failed".to_owned();
            Err(HostError::Systemd(format!("{unit} failed to {word}")))
        } else {
            self.units.borrow_mut().entry(unit.to_owned()).or_default().active = active.to_owned();
            Ok(())
        };
        Box::pin(async move {
            Ok::<Job<'_>, _>(Box::pin(async move {
                if is_watched {
                    self.job_ends.notified().await;
                }
                result
            }))
        })
    }
}

impl Systemd for Handle {
    fn is_running(&self) -> bool {
        true
    }

    fn observe<'a>(&'a self, units: &'a [String]) -> Answer<'a, BTreeMap<String, UnitState>> {
        Box::pin(async move {
            if self.0.silent.get() && !units.is_empty() {
                return Err(HostError::Systemd("systemd cannot be asked".to_owned()));
            }
            // systemd passes over what is no name of a unit.
            assert!(units.iter().all(|unit| unit.parse::<crds::UnitName>().is_ok()), "{units:?}");
            let on_disk = {
                let files = Offline::of(&self.0.files(Offline::root));
                files.observe(units).await?
            };
            let set = self.0.units.borrow();
            Ok(units
                .iter()
                .map(|unit| {
                    let mut state = set.get(unit).cloned().unwrap_or_default();
                    let file = on_disk[unit].clone();
                    if file.is_known() {
                        state.load = file.load;
                        state.file = file.file;
                    }
                    (unit.clone(), state)
                })
                .collect())
        })
    }

    fn reload(&self) -> Answer<'_, ()> {
        self.0.asked.borrow_mut().push("reload".to_owned());
        for state in self.0.units.borrow_mut().values_mut() {
            state.need_reload = false;
        }
        Box::pin(async { Ok(()) })
    }

    fn enable<'a>(&'a self, unit: &'a str, again: bool) -> Answer<'a, ()> {
        Box::pin(async move {
            self.0.asked.borrow_mut().push(format!("{} {unit}", if again { "reenable" } else { "enable" }));
            let files = Offline::of(&self.0.files(Offline::root));
            files.enable(unit, again).await
        })
    }

    fn disable<'a>(&'a self, unit: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            self.0.asked.borrow_mut().push(format!("disable {unit}"));
            let files = Offline::of(&self.0.files(Offline::root));
            files.disable(unit).await
        })
    }

    fn mask<'a>(&'a self, unit: &'a str, masked: bool) -> Answer<'a, ()> {
        Box::pin(async move {
            self.0.asked.borrow_mut().push(format!("{} {unit}", if masked { "mask" } else { "unmask" }));
            let files = Offline::of(&self.0.files(Offline::root));
            files.mask(unit, masked).await
        })
    }

    fn load_modules(&self) -> Answer<'_, Job<'_>> {
        let root = self.0.files(Offline::root);
        for file in root.names_in("/etc/modules-load.d").expect("a folder") {
            let text = std::fs::read_to_string(root.outside(&format!("/etc/modules-load.d/{file}")));
            for name in text.expect("a file").lines().filter(|line| !line.starts_with('#')) {
                let path = root.outside(&format!("/sys/module/{}", name.replace('-', "_")));
                std::fs::create_dir_all(path).expect("a folder");
            }
        }
        self.0.asked.borrow_mut().push("load modules".to_owned());
        if let Some(setting) = self.0.brings.borrow().as_ref() {
            std::fs::write(root.outside(setting), "0\n").expect("a file");
        }
        Box::pin(async { Ok::<Job<'_>, _>(Box::pin(async { Ok(()) })) })
    }

    fn run<'a>(&'a self, unit: &'a str, command: &'a [&'a str]) -> Answer<'a, Job<'a>> {
        if self.0.broken.borrow().as_deref() != Some(unit) {
            make_trust_store(&self.0.files(Offline::root), command[0]);
        }
        self.0.note(&format!("run {} as", command.join(" ")), unit, "inactive")
    }

    fn output<'a>(&'a self, _unit: &'a str, command: &'a [&'a str]) -> Answer<'a, String> {
        self.0.asked.borrow_mut().push(format!("ask {}", command.join(" ")));
        let answer = self.0.answers.borrow().get(command[0]).cloned();
        Box::pin(async move { answer.ok_or_else(|| HostError::Systemd("no such program".to_owned())) })
    }

    fn start<'a>(&'a self, unit: &'a str) -> Answer<'a, Job<'a>> {
        self.0.note("start", unit, "active")
    }

    fn forget<'a>(&'a self, unit: &'a str) -> LocalBoxFuture<'a, ()> {
        self.0.asked.borrow_mut().push(format!("forget {unit}"));
        Box::pin(async {})
    }

    fn renew<'a>(&'a self, unit: &'a str) -> Answer<'a, Job<'a>> {
        self.0.note("start anew", unit, "active")
    }

    fn stop<'a>(&'a self, unit: &'a str) -> Answer<'a, Job<'a>> {
        if unit.ends_with(".swap") {
            let swaps = self.0.files(Offline::root).outside("/proc/swaps");
            std::fs::write(swaps, "Filename Type Size Used Priority\n").expect("a file");
        }
        self.0.note("stop", unit, "inactive")
    }

    fn restart<'a>(&'a self, unit: &'a str) -> Answer<'a, Job<'a>> {
        self.0.note("restart", unit, "active")
    }

    fn touched<'a>(&'a self, units: &'a BTreeMap<String, bool>) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            loop {
                self.0.told.notified().await;
                let set = self.0.units.borrow();
                let runs = |unit: &String| set.get(unit).is_some_and(UnitState::is_running);
                if units.iter().any(|(unit, shall_run)| runs(unit) != *shall_run) {
                    return;
                }
            }
        })
    }
}

/// Makes the trust store of a root from the certificates of its distribution and those beside them, as the program of that
/// name does.
pub(crate) fn make_trust_store(root: &Root, program: &str) {
    let (own, anchors, bundle) = match program {
        "/usr/sbin/update-ca-certificates" => (
            "/usr/share/ca-certificates",
            "/usr/local/share/ca-certificates",
            "/etc/ssl/certs/ca-certificates.crt",
        ),
        _ => (
            "/usr/share/pki/ca-trust-source",
            "/etc/pki/ca-trust/source/anchors",
            "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        ),
    };
    let mut all = String::new();
    for folder in [own, anchors] {
        for name in root.names_in(folder).expect("a folder") {
            all += &std::fs::read_to_string(root.outside(&format!("{folder}/{name}"))).expect("a file");
        }
    }
    std::fs::write(root.outside(bundle), all).expect("the store");
}

/// Stops the work after some changes.
pub(crate) struct StopAfter {
    pub(crate) stop: CancellationToken,
    pub(crate) left: Cell<usize>,
}

impl Observer for StopAfter {
    fn done(&self, _change: &Change) {
        self.left.set(self.left.get().saturating_sub(1));
        if self.left.get() == 0 {
            self.stop.cancel();
        }
    }
}

/// Does something after each change.
pub(crate) struct After<F: Fn(&Change)>(pub(crate) F);

impl<F: Fn(&Change)> Observer for After<F> {
    fn done(&self, change: &Change) {
        self.0(change);
    }
}

/// A file system of its own, for as long as this lives.
pub(crate) struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Extended attributes that give somebody more than a mode says.
pub(crate) const ACL: &str = "system.posix_acl_access";
pub(crate) const CAPABILITY: &str = "security.capability";

/// Rights for user 7 besides those of owner, group and others, all to read, as the kernel takes them.
fn acl() -> Vec<u8> {
    let none = u32::MAX;
    let entries: [(u16, u16, u32); 5] = [(1, 6, none), (2, 4, 7), (4, 4, none), (16, 4, none), (32, 4, none)];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(rights.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// What an extended attribute has in these tests.
pub(crate) fn attribute(name: &str) -> Vec<u8> {
    match name {
        // The right to bind to low ports.
        CAPABILITY => vec![1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        name if name.starts_with("system.posix_acl") => acl(),
        _ => b"theirs".to_vec(),
    }
}

struct Quiet;

impl Observer for Quiet {}

pub(crate) const PASSWD: &str =
    "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n";
pub(crate) const GROUP: &str = "root:x:0:\ndaemon:x:1:\nstaff:x:50:\n";

impl Machine {
    /// A machine with account files, a nologin, and the usual top folders.
    pub(crate) fn new() -> Self {
        // In memory if there is such a place: each change is fsynced, thousands of times.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Self::within(directory.expect("a directory"))
    }

    /// One on a disk: older kernels lock no file that lies in memory.
    pub(crate) fn on_disk() -> Self {
        Self::within(tempfile::tempdir_in("/var/tmp").expect("a directory"))
    }

    fn within(directory: TempDir) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let machine = Self { directory, systemd: Rc::default() };
        std::fs::set_permissions(machine.path("/"), PermissionsExt::from_mode(0o755)).expect("chmod");
        for directory in ["/etc/systemd/system", "/usr/sbin", "/usr/local/sbin", "/var/lib", "/opt"] {
            std::fs::create_dir_all(machine.path(directory)).expect("a directory");
        }
        machine.write("/usr/sbin/nologin", "");
        machine.write("/etc/passwd", PASSWD);
        machine.write("/etc/group", GROUP);
        machine.write("/etc/shadow", "root:*:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n");
        machine.write("/etc/gshadow", "root:*::\ndaemon:*::\nstaff:*::\n");
        machine.set("/etc/shadow", 0, 42, 0o640);
        *machine.systemd.files.borrow_mut() = Some(Offline::of(&machine.root()));
        machine
    }

    pub(crate) fn root(&self) -> Root {
        Root::open(&self.root_path()).expect("a root")
    }

    pub(crate) fn root_path(&self) -> String {
        self.directory.path().to_string_lossy().into_owned()
    }

    /// A fresh process on this machine.
    pub(crate) fn host(&self) -> Host {
        Host::with(self.root(), Box::new(Handle(Rc::clone(&self.systemd)))).expect("a host")
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path.trim_start_matches('/'))
    }

    pub(crate) fn write(&self, path: &str, content: &str) {
        std::fs::write(self.path(path), content).expect("write");
        self.set(path, 0, 0, 0o644);
    }

    pub(crate) fn directory(&self, path: &str) {
        std::fs::create_dir_all(self.path(path)).expect("a directory");
    }

    /// Puts an empty file system at a directory.
    pub(crate) fn mount(&self, path: &str, options: &str) -> Mounted {
        self.directory(path);
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(self.path(path)).status();
        assert!(mount.expect("mount").success(), "{options}");
        Mounted(self.path(path))
    }

    /// Mounts something on itself, as container runtimes do it with single files.
    pub(crate) fn bind(&self, path: &str) -> Mounted {
        let path = self.path(path);
        let mount = Command::new("mount").arg("--bind").args([&path, &path]).status();
        assert!(mount.expect("mount").success(), "{path:?}");
        Mounted(path)
    }

    pub(crate) fn link(&self, path: &str, target: &str) {
        symlink(target, self.path(path)).expect("a link");
    }

    pub(crate) fn set(&self, path: &str, uid: u32, gid: u32, mode: u32) {
        chown(self.path(path), Some(uid), Some(gid)).expect("chown: run the tests as root");
        std::fs::set_permissions(self.path(path), PermissionsExt::from_mode(mode)).expect("chmod");
    }

    /// Gives a file or directory an extended attribute; a file that has an ACL has mode 0644 then.
    pub(crate) fn grant(&self, path: &str, name: &str) {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(self.path(path), name, &attribute(name), flags).expect("setxattr");
    }

    /// The extended attributes that something has, as it was given them.
    pub(crate) fn granted(&self, path: &str) -> Vec<&'static str> {
        let has = |name: &&str| {
            let mut value = [0; 64];
            let length = rustix::fs::getxattr(self.path(path), *name, &mut value[..]);
            length.is_ok_and(|length| value[..length] == attribute(name))
        };
        [CAPABILITY, ACL, "user.note"].into_iter().filter(has).collect()
    }

    pub(crate) fn read(&self, path: &str) -> String {
        String::from_utf8(std::fs::read(self.path(path)).expect("read")).expect("text")
    }

    pub(crate) fn is_there(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    /// uid, gid, mode.
    pub(crate) fn access(&self, path: &str) -> (u32, u32, u32) {
        let meta = self.path(path).symlink_metadata().expect("there");
        (meta.uid(), meta.gid(), meta.mode() & 0o7777)
    }

    pub(crate) async fn plan(&self, request: &Request) -> Plan {
        engine::plan(&self.host(), request).await.expect("a plan")
    }

    /// Fetches what a request needs, and changes nothing besides.
    pub(crate) async fn fetch(&self, request: &Request) {
        let host = self.host();
        let plan = engine::plan(&host, request).await.expect("a plan");
        // What fails here fails again where it is looked at.
        let _ = engine::fetch(&host, &plan, &Quiet, &CancellationToken::new()).await;
    }

    pub(crate) async fn apply(&self, request: &Request) -> Result<Vec<Change>, Failure> {
        self.apply_until(request, usize::MAX).await
    }

    /// Takes a NodeBootstrap off the machine, as the pod does.
    pub(crate) async fn revert(&self, name: &str) -> Result<Vec<Change>, Failure> {
        self.revert_until(name, usize::MAX).await
    }

    /// As [`Machine::revert`], until so many changes were made.
    pub(crate) async fn revert_until(&self, name: &str, changes: usize) -> Result<Vec<Change>, Failure> {
        self.take_off(name, true, changes).await
    }

    /// Takes a NodeBootstrap off the machine, as the command line does.
    pub(crate) async fn revert_by_hand(&self, name: &str) -> Result<Vec<Change>, Failure> {
        self.take_off(name, false, usize::MAX).await
    }

    async fn take_off(&self, name: &str, from_pod: bool, changes: usize) -> Result<Vec<Change>, Failure> {
        let request = engine::revert(&self.host(), name, from_pod).expect("a ledger");
        let made = self.apply_until(&request, changes).await?;
        engine::give_up(&self.host(), name).expect("given up");
        Ok(made)
    }

    /// Applies until so many changes were made, as a run that may be rolled back.
    pub(crate) async fn apply_held(&self, request: &Request, changes: usize) -> Result<Vec<Change>, Failure> {
        let host = self.host();
        let mut plan = engine::plan(&host, request).await.expect("a plan");
        plan.held = true;
        self.carry_out(&host, request, &plan, changes).await
    }

    /// Puts back what is not confirmed.
    pub(crate) async fn roll_back(
        &self,
        name: &str,
        previous: Option<&Begun>,
        changes: usize,
    ) -> Result<Vec<Change>, Failure> {
        let host = self.host();
        let plan = rollback::plan(&host, name, &BTreeSet::new(), false).await.expect("a plan");
        let lock = host.state.lock(|| {}).await.expect("a lock");
        let stop = CancellationToken::new();
        let observer = StopAfter { stop: stop.clone(), left: Cell::new(changes) };
        rollback::run(&host, name, &plan, previous, false, lock, &observer, &stop).await
    }

    /// A user's number.
    pub(crate) fn uid(&self, name: &str) -> u32 {
        let passwd = self.read("/etc/passwd");
        let line = passwd.lines().find(|line| line.starts_with(&format!("{name}:"))).expect("a user");
        line.split(':').nth(2).expect("a number").parse().expect("a number")
    }

    /// Applies until so many changes were made, and stops then.
    pub(crate) async fn apply_until(
        &self,
        request: &Request,
        changes: usize,
    ) -> Result<Vec<Change>, Failure> {
        self.apply_on_until(&self.host(), request, changes).await
    }

    /// Applies, with something done after each change.
    pub(crate) async fn apply_with(
        &self,
        request: &Request,
        after: impl Fn(&Change),
    ) -> Result<Vec<Change>, Failure> {
        let host = self.host();
        let plan = engine::plan(&host, request).await.expect("a plan");
        let lock = host.state.lock(|| {}).await.expect("a lock");
        engine::apply(&host, request, &plan, lock, &After(after), &CancellationToken::new()).await
    }

    /// Applies in this process.
    pub(crate) async fn apply_on(&self, host: &Host, request: &Request) -> Result<Vec<Change>, Failure> {
        self.apply_on_until(host, request, usize::MAX).await
    }

    async fn apply_on_until(
        &self,
        host: &Host,
        request: &Request,
        changes: usize,
    ) -> Result<Vec<Change>, Failure> {
        let plan = engine::plan(host, request).await.expect("a plan");
        self.carry_out(host, request, &plan, changes).await
    }

    async fn carry_out(
        &self,
        host: &Host,
        request: &Request,
        plan: &Plan,
        changes: usize,
    ) -> Result<Vec<Change>, Failure> {
        let stop = CancellationToken::new();
        let has_downloads = plan.has_downloads(host).expect("a cache");
        engine::fetch(host, plan, &Quiet, &stop).await?;
        // As whoever applies does: what is in an archive is known only now.
        let mut again = None;
        if has_downloads {
            let mut with_archives = engine::plan(host, request).await.expect("a plan");
            with_archives.held = plan.held;
            again = Some(with_archives);
        }
        let plan = again.as_ref().unwrap_or(plan);
        // A process that another test is just starting holds all locks of this one for a moment.
        let lock = host.state.lock(|| {}).await.expect("a lock");
        if changes == usize::MAX {
            return engine::apply(host, request, plan, lock, &Quiet, &stop).await;
        }
        let observer = StopAfter { stop: stop.clone(), left: Cell::new(changes) };
        if changes == 0 {
            stop.cancel();
        }
        engine::apply(host, request, plan, lock, &observer, &stop).await
    }

    /// Everything on the machine but the agent's own state: kind, owner, mode, content of each path.
    pub(crate) fn tree(&self) -> BTreeMap<String, String> {
        let mut tree = BTreeMap::new();
        self.walk(self.directory.path(), &mut tree, false);
        tree
    }

    /// As [`Machine::tree`], with the agent's state and the times of last change: equal only if nothing was written.
    pub(crate) fn untouched(&self) -> BTreeMap<String, String> {
        let mut tree = BTreeMap::new();
        self.walk(self.directory.path(), &mut tree, true);
        tree
    }

    fn walk(&self, directory: &Path, tree: &mut BTreeMap<String, String>, all: bool) {
        for entry in std::fs::read_dir(directory).expect("list") {
            let path = entry.expect("entry").path();
            let name =
                path.strip_prefix(self.directory.path()).expect("below").to_string_lossy().into_owned();
            if !all && (name.starts_with("var/lib/nodebootstrap") || name == "etc/.pwd.lock") {
                continue;
            }
            let meta = path.symlink_metadata().expect("there");
            let kind = meta.file_type();
            let content = if kind.is_symlink() {
                format!("link to {:?}", std::fs::read_link(&path).expect("link"))
            } else if kind.is_file() {
                format!("file {:?}", String::from_utf8_lossy(&std::fs::read(&path).expect("read")))
            } else {
                "other".to_owned()
            };
            let mut text = format!("{}:{} {:o} {content}", meta.uid(), meta.gid(), meta.mode());
            if !kind.is_symlink() {
                text.push_str(&format!(" {:?}", self.granted(&name)));
            }
            if all {
                text.push_str(&format!(" {} {}.{}", meta.ino(), meta.ctime(), meta.ctime_nsec()));
            }
            tree.insert(name, text);
            if kind.is_dir() {
                self.walk(&path, tree, all);
            }
        }
    }

    /// Files of ours that a finished run must not leave.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        self.untouched().into_keys().filter(|path| path.contains("nodebootstrap-tmp")).collect()
    }
}

/// Renders a spec; `allNodes` is added.
pub(crate) fn request(spec: Value) -> Request {
    try_request("workers", spec, &Values::new()).expect("a spec that keeps the rules")
}

pub(crate) fn try_request(name: &str, mut spec: Value, values: &Values) -> Result<Request, String> {
    spec["allNodes"] = json!(true);
    let spec = serde_json::from_value(spec).map_err(|error| error.to_string())?;
    let identity = Identity { node_bootstrap: name.to_owned(), uid: "u".to_owned(), cluster: "c".to_owned() };
    let rendered = render(&identity, &spec, values, b"key").map_err(|error| error.to_string())?;
    Ok(Request {
        name: rendered.name,
        created: "2026-01-01T00:00:00Z".to_owned(),
        revision: rendered.revision,
        payload: Payload::from(rendered.payload),
        from_pod: true,
        leave: BTreeSet::new(),
        findings: Findings::default(),
    })
}

/// The changes of a plan, each as `resource: change`.
pub(crate) fn lines<'a>(changes: impl IntoIterator<Item = &'a Change>) -> Vec<String> {
    changes.into_iter().map(|change| format!("{}: {}", change.resource, change.change)).collect()
}

/// The problems of a plan, each as `resource: reason`.
pub(crate) fn reasons(plan: &Plan) -> Vec<String> {
    plan.problems.iter().map(|problem| format!("{}: {}", problem.resource, problem.reason)).collect()
}

/// A program that a server has.
pub(crate) struct Served {
    pub(crate) url: String,
    pub(crate) digest: String,
}

impl Served {
    pub(crate) async fn start(program: &'static [u8]) -> Self {
        use sha2::Digest;
        let router =
            axum::Router::new().route("/program", axum::routing::get(move || async move { program }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/program", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, digest: hex::encode(sha2::Sha256::digest(program)) }
    }
}
