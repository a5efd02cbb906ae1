//! What a node is, as far as presets ask: see [`crate::preset::facts`].
//!
//! In: the host's files, its systemd, and the ledger of the NodeBootstrap that asks. Out: [`Facts`], as if that had made
//! nothing: of what it made only what was there before is looked at. What cannot be read, or is no text of its kind, counts
//! as not there: whether that matters is for the plan to say.
//!
//! A pass reads some small files. What a program says of its version is asked once, and again when the program is another.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crds::component::Kubelet;
use crds::revision::{Resource, Revision};
use serde_json::Value;

use super::digest::{Key, key_of};
use super::disk::Disk;
use super::install::UNIT_PATH;
use super::kernel::{self, Module};
use super::kubelet::flag;
use super::root::Finder;
use super::systemd::UnitState;
use super::{Host, HostError, Kind, Place, Root};
use crate::anchor;
use crate::ledger::{Item, Ledger, Provenance, Shape};
use crate::preset::facts::{CgroupVersion, FoundContainerd, FoundKubelet, OsRelease, System};
use crate::preset::kubelet::{DROP_IN, over};
use crate::preset::owner::{self, KUBELET_UNIT, Marks};
use crate::preset::service::Service;
use crate::preset::{self, Facts, containerd, preflight};

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// The most files of one folder that are read.
const MAX_FILES: usize = 100;
/// Where programs lie.
const PROGRAMS: [&str; 4] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];
/// Services that keep the time.
const TIMEKEEPERS: [&str; 7] = [
    "chrony.service",
    "chronyd.service",
    "systemd-timesyncd.service",
    "ntp.service",
    "ntpd.service",
    "ntpsec.service",
    "openntpd.service",
];
/// What fills disks on a node.
const DISKS: [&str; 2] = ["/var/lib/kubelet", "/var/lib/containerd"];
/// The longest list of connections that is read, in bytes.
const MAX_SOCKETS: u64 = 16 << 20;
/// After this time a program that did not tell its version is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(600);

/// The versions that programs told, by path.
#[derive(Debug, Default)]
pub struct Versions(RefCell<BTreeMap<String, Told>>);

#[derive(Debug)]
struct Told {
    key: Key,
    version: Option<String>,
    at: Instant,
}

/// A host without what one NodeBootstrap made on it.
struct Before<'a> {
    host: &'a Host,
    node_bootstrap: &'a str,
    ledger: Rc<Ledger>,
    /// Knows the folders that were looked into: most units are nowhere.
    finder: RefCell<Finder<'a>>,
}

/// The files of a unit.
struct UnitFiles {
    /// Path and text: the unit's own first, then its drop-ins in their order.
    files: Vec<(String, String)>,
}

impl UnitFiles {
    fn service(&self) -> Service {
        Service::of(self.files.iter().map(|(_, text)| text.as_str()))
    }

    fn path(&self) -> &str {
        self.files.first().map(|(path, _)| path.as_str()).unwrap_or_default()
    }
}

/// Looks at the node. What the revision's own NodeBootstrap has made is left out.
///
/// # Errors
/// If the agent's own files, or systemd, cannot be asked.
pub async fn look(host: &Host, revision: &Revision) -> Result<Facts, HostError> {
    let node_bootstrap = &revision.node_bootstrap;
    let ledger = host.state.ledger(node_bootstrap, Some(&revision.cluster))?;
    let before = Before::of(host, node_bootstrap, ledger);
    let unit = before.unit(KUBELET_UNIT);
    let (owner, owner_file) = owner::of(&before.marks(unit.as_ref())?).unzip();
    let kubelet = match &unit {
        Some(unit) => Some(before.kubelet(unit).await),
        None => None,
    };
    let containerd = match before.unit(containerd::UNIT) {
        Some(unit) => Some(before.containerd(&unit).await),
        None => None,
    };
    let mut programs = PROGRAMS.iter().map(|folder| format!("{folder}/kubelet"));
    let mut facts = Facts {
        arch: host.facts.arch.to_owned(),
        os: os_release(&host.root),
        kernel: kernel_version(&host.root),
        cgroups: cgroups(&host.root),
        kubelet,
        owner,
        owner_file: owner_file.unwrap_or_default(),
        kubelet_program: programs.find(|path| before.file(path).is_some()),
        containerd,
        ..Facts::default()
    };
    if let Some(runtime) = &revision.presets.container_runtime {
        let folders = containerd::network_folders(runtime, &facts);
        facts.folders = folders.into_iter().filter(|path| before.had(path)).collect();
    }
    if revision.presets.kernel.is_some() {
        facts.modules = before.modules();
        facts.settings = before.settings();
    }
    facts.system = system(host, revision, &facts).await?;
    Ok(facts)
}

/// How the system is now.
async fn system(host: &Host, revision: &Revision, facts: &Facts) -> Result<System, HostError> {
    let root = &host.root;
    let is_there = |path: &str| is_there(root, path);
    let of_spec: BTreeSet<String> =
        revision.resources.iter().flat_map(Resource::claims).map(|(_, path)| path).collect();
    let missing = preflight::needed_files(&revision.presets, facts);
    let missing = missing.into_iter().filter(|path| !is_there(path) && !of_spec.contains(path)).collect();
    let machine_id = line(root, "/etc/machine-id");
    if !host.systemd.is_running() {
        return Ok(System { missing, machine_id, ..System::default() });
    }
    // With all that was made: the kubelet that runs.
    let now = Before::of(host, "", Rc::default());
    let unit = now.unit(KUBELET_UNIT);
    let kubelet = match &unit {
        Some(unit) => now.kubelet(unit).await,
        None => FoundKubelet::default(),
    };
    let credential = kubelet.flag("kubeconfig").unwrap_or_default();
    let timekeepers = TIMEKEEPERS.iter().filter(|name| now.unit(name).is_some());
    let units: Vec<String> =
        timekeepers.chain(unit.as_ref().map(|_| &KUBELET_UNIT)).map(|name| (*name).to_owned()).collect();
    let states = host.systemd.observe(&units).await?;
    let runs = |name: &str| states.get(name).is_some_and(UnitState::is_running);
    let ports = match preflight::needed_ports(&revision.presets, facts) {
        needed if !needed.is_empty() && !runs(KUBELET_UNIT) => taken(root, &needed),
        _ => BTreeMap::new(),
    };
    let turns_swap_off = revision.resources.iter().any(|resource| matches!(resource, Resource::NoSwap(_)));
    let swap = if turns_swap_off { Vec::new() } else { kernel::swaps(root)? };
    let crowded = DISKS.iter().filter(|folder| root.locate(folder).is_ok_and(|place| is_crowded(&place)));
    let cgroup_driver = kubelet.flag("cgroup-driver");
    let cgroup_driver = cgroup_driver.or_else(|| kubelet.config.as_ref()?.get("cgroupDriver")?.as_str());
    Ok(System {
        cgroup_driver: cgroup_driver.map(str::to_owned),
        init: line(root, "/proc/1/comm"),
        host_name: line(root, "/proc/sys/kernel/hostname"),
        machine_id,
        swap: swap.into_iter().map(|swap| swap.path).collect(),
        ports,
        missing,
        crowded: crowded.map(|folder| (*folder).to_owned()).collect(),
        keeps_time: Some(TIMEKEEPERS.iter().any(|name| runs(name))),
        selinux: match line(root, "/sys/fs/selinux/enforce").as_str() {
            "" => None,
            mode => Some(mode == "1"),
        },
        has_joined: !credential.is_empty() && is_there(credential),
        kubelet_version: kubelet.version,
        in_place: match &revision.presets.kubelet {
            Some(asked) => now.in_place(asked).await,
            None => None,
        },
    })
}

impl<'a> Before<'a> {
    fn of(host: &'a Host, node_bootstrap: &'a str, ledger: Rc<Ledger>) -> Self {
        Self { host, node_bootstrap, ledger, finder: RefCell::new(host.root.finder()) }
    }

    /// Whether something is at a path.
    fn has(&self, path: &str) -> bool {
        let place = self.finder.borrow_mut().locate(path);
        place.and_then(|place| place.look()).is_ok_and(|meta| meta.is_some())
    }

    /// Whether something was at a path before.
    fn had(&self, path: &str) -> bool {
        let Ok(place) = self.host.root.locate(path) else { return false };
        let made = self.ledger.get(&Item::Path(place.real.clone()));
        let is_made = made.is_some_and(|entry| entry.provenance == Provenance::Created);
        !is_made && place.look().is_ok_and(|meta| meta.is_some())
    }

    /// The regular file at a path, or that which was there before.
    fn file(&self, path: &str) -> Option<Place> {
        let root = &self.host.root;
        let place = root.locate_through_links(path).ok()?;
        let made = self.ledger.get(&Item::Path(place.real.clone()));
        let is_file =
            |place: &Place| place.look().is_ok_and(|meta| meta.is_some_and(|meta| meta.kind == Kind::File));
        match made.map(|entry| &entry.provenance) {
            Some(Provenance::Created) => None,
            Some(Provenance::Modified(Shape::File { digest, .. })) => {
                // It is not kept yet where a run was killed before its first change.
                let prior = self.host.state.prior(self.node_bootstrap, *digest).ok().filter(is_file);
                Some(prior.unwrap_or(place)).filter(is_file)
            }
            Some(Provenance::Modified(_)) => None,
            Some(Provenance::Adopted) | None => Some(place).filter(is_file),
        }
    }

    /// The text at a path, with the parts of it that were made as they were before.
    fn text(&self, path: &str) -> Option<String> {
        let place = self.file(path)?;
        let (mut bytes, _) = place.read(MAX_FILE).ok()??;
        for (item, entry) in self.ledger.entries() {
            let Item::Part(of, part) = item else { continue };
            if *of != place.real || !anchor::find(&bytes, part).is_ok_and(|found| found.is_some()) {
                continue;
            }
            let before = match entry.prior() {
                Some(Shape::Absent) => anchor::edit(&bytes, part, None),
                Some(Shape::Text(text)) => anchor::edit(&bytes, part, Some(text)),
                _ => continue,
            };
            bytes = before.ok()?;
        }
        String::from_utf8(bytes).ok()
    }

    /// Of what the preset of the kernel may load, what there is.
    fn modules(&self) -> BTreeSet<String> {
        let root = &self.host.root;
        let has = |name: &&str| {
            !self.host.systemd.is_running()
                || kernel::module(root, name).is_ok_and(|module| module != Module::Unknown)
        };
        preset::kernel::MODULES.into_iter().filter(has).map(str::to_owned).collect()
    }

    /// Of what the preset of the kernel may set, what there is, with what it was.
    fn settings(&self) -> BTreeMap<String, String> {
        let value = |name: &str| {
            if !self.host.systemd.is_running() {
                return Some(String::new());
            }
            let now = kernel::setting(&self.host.root, name).ok()??;
            let made = self.ledger.get(&Item::Sysctl(name.to_owned()));
            match made.map(|entry| &entry.provenance) {
                Some(Provenance::Modified(Shape::Text(before))) => Some(before.clone()),
                _ => Some(now),
            }
        };
        preset::kernel::settings().filter_map(|name| Some((name.to_owned(), value(name)?))).collect()
    }

    /// The names in a folder that end so.
    fn names(&self, folder: &str, ending: &str) -> Vec<String> {
        let names = self.host.root.names_in(folder).unwrap_or_default();
        names.into_iter().filter(|name| name.ends_with(ending)).take(MAX_FILES).collect()
    }

    /// The files of a unit, if it has one of its own that is not masked.
    fn unit(&self, unit: &str) -> Option<UnitFiles> {
        let own = UNIT_PATH.iter().map(|folder| format!("{folder}/{unit}"));
        let own = own.filter(|path| self.has(path)).find_map(|path| Some((self.text(&path)?, path)));
        let (text, path) = own.filter(|_| !self.host.root.is_masked(unit).unwrap_or(true))?;
        let mut drop_ins: BTreeMap<String, (String, String)> = BTreeMap::new();
        // Of two with one name that counts which comes first on the path.
        for folder in UNIT_PATH.iter().rev().map(|folder| format!("{folder}/{unit}.d")) {
            for name in self.names(&folder, ".conf") {
                let path = format!("{folder}/{name}");
                match self.text(&path) {
                    Some(text) => _ = drop_ins.insert(name, (path, text)),
                    // A link to /dev/null takes away what others have of that name.
                    None if self.is_link(&path) => _ = drop_ins.remove(&name),
                    None => {}
                }
            }
        }
        Some(UnitFiles { files: std::iter::once((path, text)).chain(drop_ins.into_values()).collect() })
    }

    fn is_link(&self, path: &str) -> bool {
        let look = self.host.root.locate(path).and_then(|place| place.look());
        look.is_ok_and(|meta| meta.is_some_and(|meta| meta.kind == Kind::Link))
    }

    /// What those who set kubelets up have left.
    fn marks(&self, unit: Option<&UnitFiles>) -> Result<Marks, HostError> {
        let (others, _) = self.host.state.others(self.node_bootstrap)?;
        let other = others.iter().find_map(|other| {
            Some((other.revision.node_bootstrap.clone(), owner::claimed_by(&other.revision)?))
        });
        let embedded = owner::EMBEDDED
            .iter()
            .filter_map(|(unit, _)| Some(((*unit).to_owned(), self.unit(unit)?.path().to_owned())));
        let paths = owner::PATHS.iter().map(|(path, _)| *path);
        let paths = paths.filter(|path| is_there(&self.host.root, path)).map(str::to_owned);
        Ok(Marks {
            other,
            embedded: embedded.collect(),
            unit: unit.map(|unit| unit.files.clone()).unwrap_or_default(),
            paths: paths.collect(),
        })
    }

    /// The words of a service's command, and those that its program gets behind its name.
    fn words(&self, service: Service) -> (Vec<String>, Vec<String>) {
        let files: Vec<String> =
            service.environment_files.iter().take(MAX_FILES).filter_map(|path| self.text(path)).collect();
        let arguments = service.arguments(files.iter().map(String::as_str));
        (service.command, arguments)
    }

    /// The kubelet that a unit runs, as its files say.
    fn configured(&self, unit: &UnitFiles) -> FoundKubelet {
        let (command, arguments) = self.words(unit.service());
        let mut kubelet = FoundKubelet {
            unit: KUBELET_UNIT.to_owned(),
            unit_file: unit.path().to_owned(),
            version: None,
            config: None,
            unreadable: None,
            last_word: None,
            command,
            arguments,
        };
        let last = unit
            .files
            .iter()
            .skip(1)
            .rev()
            .find(|(_, text)| !Service::of([text.as_str()]).command.is_empty());
        let sorts_behind = |path: &&String| path.rsplit('/').next().is_some_and(|name| name > DROP_IN);
        kubelet.last_word = last.map(|(path, _)| path).filter(sorts_behind).cloned();
        let in_folder = kubelet.flag("config-dir").map(|folder| {
            let names = self.names(folder, ".conf").into_iter();
            names.map(|name| format!("{folder}/{name}")).collect::<Vec<String>>()
        });
        let files =
            kubelet.flag("config").map(str::to_owned).into_iter().chain(in_folder.into_iter().flatten());
        for path in files.collect::<Vec<String>>() {
            match self.yaml(&path) {
                Ok(Some(above)) => {
                    kubelet.config = Some(over(kubelet.config.take().unwrap_or_default(), &above));
                }
                Ok(None) => {}
                Err(why) => kubelet.unreadable = Some(format!("{path} {why}")),
            }
        }
        kubelet
    }

    async fn kubelet(&self, unit: &UnitFiles) -> FoundKubelet {
        let mut kubelet = self.configured(unit);
        if let Some(program) = kubelet.command.first() {
            // Kubernetes v1.36.3
            let said = self.version("kubelet", program).await;
            kubelet.version = said.and_then(|said| word(&said, |word| word.starts_with("v1.")));
        }
        kubelet
    }

    /// The version of the program that is there with the digest that is asked for: what is not fetched is tried by nobody else.
    async fn in_place(&self, asked: &Kubelet) -> Option<String> {
        asked.version.as_ref()?;
        let path = asked.program_path();
        let digest = self.host.digests.of(&self.file(path)?).ok()??;
        if asked.sha256.get(self.host.facts.arch) != Some(&digest) {
            return None;
        }
        word(&self.version("kubelet", path).await?, |word| word.starts_with("v1."))
    }

    async fn containerd(&self, unit: &UnitFiles) -> FoundContainerd {
        let (command, arguments) = self.words(unit.service());
        let given = |name: &str| flag(&arguments, name);
        let config_path = given("config").or(given("c")).unwrap_or(containerd::CONFIG).to_owned();
        let said = match command.first() {
            Some(program) => self.version("containerd", program).await,
            None => None,
        };
        // containerd github.com/containerd/containerd v2.1.3 0123abc; distributions leave the v out.
        let is_version =
            |word: &str| word.trim_start_matches('v').starts_with(|sign: char| sign.is_ascii_digit());
        let version = said.and_then(|said| word(&said, is_version));
        FoundContainerd {
            unit: containerd::UNIT.to_owned(),
            version: version.map(|version| version.trim_start_matches('v').to_owned()),
            config: self.text(&config_path),
            config_path,
        }
    }

    /// The YAML or JSON at a path, if something is there; why it cannot be read.
    fn yaml(&self, path: &str) -> Result<Option<Value>, String> {
        let Some(text) = self.text(path) else {
            let is_known = path.starts_with('/') && !path.contains(['%', '$']) && !self.had(path);
            return if is_known { Ok(None) } else { Err("is no path of a text".to_owned()) };
        };
        match serde_saphyr::from_str::<Value>(&text) {
            Ok(Value::Null) => Ok(None),
            Ok(value) if value.is_object() => Ok(Some(value)),
            Ok(_) => Err("has no fields".to_owned()),
            Err(error) => Err(format!("is not one document of YAML: {error}")),
        }
    }

    /// What a program of this name says when it is asked for its version. One of another name is not run, and no script:
    /// who knows what that starts.
    ///
    /// It is run, by systemd, since nothing else tells: what Kubernetes is built with (-trimpath, -s, -w) leaves no version
    /// in the program's build information, nor a symbol by which the text could be found.
    async fn version(&self, name: &str, program: &str) -> Option<String> {
        let host = self.host;
        let place = self.file(program).filter(|place| place.name == name)?;
        let meta = place.look().ok()??;
        let key = key_of(&meta);
        if let Some(told) = host.versions.0.borrow().get(&place.real)
            && told.key == key
            && (told.version.is_some() || told.at.elapsed() < ASK_AGAIN)
        {
            return told.version.clone();
        }
        if !host.systemd.is_running() || meta.mode & 0o111 == 0 || !is_elf(&place) {
            return None;
        }
        let unit = format!("nodebootstrap-version-{name}.service");
        let version = host.systemd.output(&unit, &[&place.real, "--version"]).await.ok();
        let told = Told { key, version: version.clone(), at: Instant::now() };
        host.versions.0.borrow_mut().insert(place.real, told);
        version
    }
}

/// Whether a file begins as a program that the kernel itself runs.
fn is_elf(place: &Place) -> bool {
    let mut magic = [0; 4];
    let opened = place.open(Kind::File).ok().flatten();
    opened.is_some_and(|(fd, _)| File::from(fd).read_exact(&mut magic).is_ok()) && magic == *b"\x7fELF"
}

/// The first word that is so.
fn word(text: &str, is: impl Fn(&str) -> bool) -> Option<String> {
    text.split_whitespace().find(|word| is(word)).map(str::to_owned)
}

/// Whether something is at a path, by way of whatever links.
pub fn is_there(root: &Root, path: &str) -> bool {
    root.locate_through_links(path).and_then(|place| place.look()).is_ok_and(|meta| meta.is_some())
}

/// Whether less than a tenth of a place's disk is free.
fn is_crowded(place: &Place) -> bool {
    Disk::of(place).is_ok_and(|disk| disk.free.is_some_and(|free| free < disk.size / 10))
}

/// Which of these ports something listens on, and what.
fn taken(root: &Root, ports: &[u16]) -> BTreeMap<u16, String> {
    let mut taken = BTreeMap::new();
    // Those of process 1: the host's own network, wherever this program runs.
    for path in ["/proc/1/net/tcp", "/proc/1/net/tcp6"] {
        let list = root.read(path, MAX_SOCKETS).ok().flatten().unwrap_or_default();
        for (port, socket) in String::from_utf8_lossy(&list).lines().filter_map(listener) {
            if ports.contains(&port) {
                taken.entry(port).or_insert_with(|| holder(root, &socket));
            }
        }
    }
    taken
}

/// The port and the socket of a line of /proc/net/tcp, if something listens there.
fn listener(line: &str) -> Option<(u16, String)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    // 0A: LISTEN
    let (address, socket) = (fields.get(1)?, fields.get(9).filter(|_| fields[3] == "0A")?);
    let port = u16::from_str_radix(address.rsplit(':').next()?, 16).ok()?;
    Some((port, format!("socket:[{socket}]")))
}

/// The process that has a socket, in words.
fn holder(root: &Root, socket: &str) -> String {
    let processes = root.directories_in("/proc").unwrap_or_default();
    let has = |process: &&String| {
        let folder = format!("/proc/{process}/fd");
        let is_it = |name: &String| {
            let place = root.locate(&format!("{folder}/{name}"));
            place
                .and_then(|place| root.read_link(&place))
                .is_ok_and(|target| target.as_deref() == Some(socket))
        };
        process.bytes().all(|sign| sign.is_ascii_digit())
            && root.names_in(&folder).unwrap_or_default().iter().any(is_it)
    };
    match processes.iter().find(has) {
        Some(process) => format!("{}, process {process}", line(root, &format!("/proc/{process}/comm"))),
        None => "a process that cannot be found".to_owned(),
    }
}

fn line(root: &Root, path: &str) -> String {
    let bytes = root.read(path, MAX_FILE).ok().flatten().unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

fn os_release(root: &Root) -> OsRelease {
    let text = line(root, "/etc/os-release");
    let value = |name: &str| {
        let value = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_default().trim().trim_matches(['"', '\'']).to_owned()
    };
    OsRelease {
        id: value("ID"),
        id_like: value("ID_LIKE").split_whitespace().map(str::to_owned).collect(),
        version: value("VERSION_ID"),
    }
}

fn kernel_version(root: &Root) -> (u32, u32) {
    let release = line(root, "/proc/sys/kernel/osrelease");
    let mut numbers =
        release.split(|sign: char| !sign.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn cgroups(root: &Root) -> CgroupVersion {
    let is_there = |name: &str| is_there(root, &format!("/sys/fs/cgroup/{name}"));
    // A root that does not run has neither.
    match !is_there("cgroup.controllers") && ["memory", "cpu", "systemd"].into_iter().any(is_there) {
        true => CgroupVersion::V1,
        false => CgroupVersion::V2,
    }
}
