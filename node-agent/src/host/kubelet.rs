//! The kubelet of this host: how it runs, and how the node is by its own word and by the API server's.
//!
//! In: the host's processes, and the kubelet's own credential, by which it may read its own Node and Lease and nothing else of
//! other nodes. Out: a [`Health`].

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::node::is_there;
use super::{Root, runtime};

/// Where kubelets answer their health check, unless their configuration has another port.
pub const HEALTHZ_PORT: u16 = 10248;
/// How long each question may take.
const ANSWER: Duration = Duration::from_secs(3);
/// The largest command line or configuration that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Where the kubelet finds its container runtime, unless it is told (KubeletConfiguration v1beta1).
const RUNTIME: &str = "unix:///run/containerd/containerd.sock";
/// Where kubelets keep their leases.
const LEASES: &str = "kube-node-lease";

/// How a node is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Health {
    /// Why the kubelet does not answer its health check; `None`: it does.
    pub kubelet: Option<String>,
    /// Why the container runtime cannot run pods, by its own word; `None`: it can.
    pub runtime: Option<String>,
    /// Why the API server cannot be asked with the kubelet's credential; `None`: it can.
    pub api: Option<String>,
    /// Whether it has given no answer at all, so that nothing is known.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_away: bool,
    /// Why the Node is not Ready, `Some(None)`: it is. `None`: it is not known.
    pub not_ready: Option<Option<String>>,
    /// When the kubelet renewed its Lease last.
    pub lease: Option<Timestamp>,
    /// The Node's internal addresses.
    pub addresses: BTreeSet<String>,
    /// The addresses that the kubelet is told to have by its flags; empty: it chooses.
    pub node_ips: BTreeSet<String>,
}

impl Health {
    /// Takes as good what the API server could not be asked about: it is away, and a kubelet that it does not take any more
    /// would else be as good as one that it took.
    pub fn assume(&mut self) {
        (self.api, self.is_away) = (None, false);
        self.not_ready.get_or_insert(None);
        self.lease.get_or_insert(Timestamp::UNIX_EPOCH);
    }
}

/// Where a kubelet has what it was given when it joined a cluster: kubeadm and the seed's page, EKS and GKE, and any that rotates
/// its certificate.
const JOINED: [&str; 3] = [
    "/etc/kubernetes/kubelet.conf",
    "/var/lib/kubelet/kubeconfig",
    "/var/lib/kubelet/pki/kubelet-client-current.pem",
];

/// Whether this host is a node, though no kubelet may run at the moment.
pub fn has_joined(root: &Root) -> bool {
    JOINED.iter().any(|path| is_there(root, path))
}

/// How the kubelet runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubelet {
    flags: Vec<String>,
}

impl Kubelet {
    /// The kubelet that runs on this host as a service of root's; `None`: none does.
    ///
    /// Any user may start a process of that name, and what its kubeconfig names is run as root. So it must be one that only
    /// the host's systemd can have started, and not one of a node in a container.
    pub fn find(root: &Root) -> Option<Self> {
        let processes = root.directories_in("/proc").ok()?;
        let host = namespace(root, "1");
        processes.iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).find_map(|process| {
            let read = |file: &str| {
                let bytes = root.read(&format!("/proc/{process}/{file}"), MAX_FILE).ok().flatten()?;
                Some(String::from_utf8_lossy(&bytes).into_owned())
            };
            let kubelet = Self::of(read("cmdline")?.as_bytes())?;
            let status = read("status")?;
            // The kubelet itself may have gone into another cgroup (kubeletCgroups).
            let is_service = is_in_service(&read("cgroup")?) || line_of(&status, "PPid:") == Some("1");
            (is_of_root(&status) && is_service && namespace(root, process) == host).then_some(kubelet)
        })
    }

    /// From a command line as /proc has it.
    fn of(line: &[u8]) -> Option<Self> {
        let words: Vec<String> =
            line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let (program, flags) = words.split_first()?;
        let is_kubelet = program.rsplit('/').next() == Some("kubelet");
        is_kubelet.then(|| Self { flags: flags.to_vec() })
    }

    /// The name of its Node: as it is told, or the host's own.
    pub fn node_name(&self, root: &Root) -> String {
        let own = || {
            let name = root.read("/proc/sys/kernel/hostname", MAX_FILE).ok().flatten().unwrap_or_default();
            String::from_utf8_lossy(&name).trim().to_lowercase()
        };
        self.flag("hostname-override").map_or_else(own, str::to_owned)
    }

    /// The addresses of `--node-ip`; one as 0.0.0.0 only chooses a family.
    fn node_ips(&self) -> BTreeSet<String> {
        let addresses = self.flag("node-ip").unwrap_or_default().split(',');
        let addresses = addresses.filter_map(|address| address.trim().parse::<IpAddr>().ok());
        addresses.filter(|address| !address.is_unspecified()).map(|address| address.to_string()).collect()
    }

    /// The value of a flag; see [`flag`].
    pub fn flag(&self, name: &str) -> Option<&str> {
        flag(&self.flags, name)
    }

    /// Where its health check answers.
    fn healthz_port(&self, root: &Root) -> u16 {
        let configured = || u16::try_from(self.configured(root, "healthzPort")?.as_u64()?).ok();
        let flag = self.flag("healthz-port").and_then(|port| port.parse().ok());
        flag.or_else(configured).unwrap_or(HEALTHZ_PORT)
    }

    /// Where its container runtime listens.
    fn runtime_socket(&self, root: &Root) -> String {
        let configured = || Some(self.configured(root, "containerRuntimeEndpoint")?.as_str()?.to_owned());
        let flag = self.flag("container-runtime-endpoint").map(str::to_owned);
        let endpoint = flag.or_else(configured).unwrap_or_else(|| RUNTIME.to_owned());
        endpoint.strip_prefix("unix://").unwrap_or(&endpoint).to_owned()
    }

    /// A field of its configuration: of drop-ins the last that has it counts.
    fn configured(&self, root: &Root, field: &str) -> Option<Value> {
        let value = |path: &str| {
            let text = root.read(path, MAX_FILE).ok()??;
            let mut values: Value = serde_saphyr::from_str(&String::from_utf8_lossy(&text)).ok()?;
            values.get_mut(field).map(Value::take)
        };
        let drop_ins = self.flag("config-dir").and_then(|folder| {
            let names = root.names_in(folder).ok()?;
            let mut drop_ins = names.iter().filter(|name| name.ends_with(".conf")).collect::<Vec<_>>();
            drop_ins.sort();
            drop_ins.into_iter().rev().find_map(|name| value(&format!("{folder}/{name}")))
        });
        drop_ins.or_else(|| value(self.flag("config")?))
    }
}

/// Whether a process is root's by each of its user ids (proc_pid_status(5)): one that is root's by its program's set-uid bit
/// has arguments of somebody else's.
fn is_of_root(status: &str) -> bool {
    line_of(status, "Uid:").is_some_and(|ids| ids.split_whitespace().all(|id| id == "0"))
}

/// What a line of a process's status says.
fn line_of<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
}

/// Whether a process belongs to a service of systemd's, by the cgroup that systemd has put it into (cgroups(7)).
fn is_in_service(cgroups: &str) -> bool {
    let of = |controllers: &str| {
        let mut lines = cgroups.lines().filter_map(|line| line.split_once(':').map(|(_, rest)| rest));
        lines.find_map(|rest| rest.strip_prefix(controllers)?.strip_prefix(':'))
    };
    of("name=systemd").or_else(|| of("")).is_some_and(|path| path.ends_with(".service"))
}

/// The processes that a process sees.
fn namespace(root: &Root, process: &str) -> Option<String> {
    let place = root.locate(&format!("/proc/{process}/ns/pid")).ok()?;
    root.read_link(&place).ok().flatten()
}

/// The value of a flag among the words that a kubelet gets, written with = or as the next word; the last counts. One without
/// a value is "true".
pub fn flag<'a>(words: &'a [String], name: &str) -> Option<&'a str> {
    let mut words = words.iter().map(String::as_str).peekable();
    let mut found = None;
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else { continue };
        found = match flag.split_once('=') {
            Some((this, value)) if this == name => Some(value),
            None if flag == name => Some(words.next_if(|next| !next.starts_with('-')).unwrap_or("true")),
            _ => found,
        };
    }
    found
}

/// Looks at a node again and again: what the clients are made of is read each time, and they are made anew only when it is
/// another.
#[derive(Default)]
pub struct Looker {
    last: Option<Kubelet>,
    local: Option<reqwest::Client>,
    api: Option<(Credential, Client)>,
}

/// A kubeconfig, and the files that it names, by which a renewed certificate is seen.
#[derive(PartialEq, Eq)]
struct Credential {
    path: String,
    text: Option<Vec<u8>>,
    files: Vec<Option<Vec<u8>>>,
}

impl Looker {
    /// `last`: the kubelet that ran before, whose credential is used while none runs.
    pub fn new(last: Option<Kubelet>) -> Self {
        Self { last, ..Self::default() }
    }

    /// The kubelet that ran last.
    pub fn kubelet(&self) -> Option<&Kubelet> {
        self.last.as_ref()
    }

    /// How the node is. `node`: its name. The kubelet is found anew each time: another one may run now.
    pub async fn look(&mut self, root: &Root, node: &str) -> Health {
        // While it is being started there is none; where its credential lies is known from before.
        if let Some(now) = Kubelet::find(root) {
            self.last = Some(now);
        }
        let Some(kubelet) = self.last.clone() else {
            let none = Some("no kubelet has run".to_owned());
            return Health { kubelet: none.clone(), runtime: none.clone(), api: none, ..Health::default() };
        };
        let (local, api) = (self.local(), self.api(root, &kubelet).await);
        let api = async { of_api(api.map_err(|cause| Unasked { cause, is_away: false })?, node).await };
        let socket = root.outside(&kubelet.runtime_socket(root));
        let healthz = healthz(kubelet.healthz_port(root), local);
        let (healthz, runtime, api) = tokio::join!(healthz, runtime::ready(&socket), api);
        let node_ips = kubelet.node_ips();
        let health = Health { kubelet: healthz.err(), runtime: runtime.err(), node_ips, ..Health::default() };
        match api {
            Ok(seen) => Health {
                not_ready: Some(seen.not_ready),
                lease: seen.lease,
                addresses: seen.addresses,
                ..health
            },
            Err(Unasked { cause, is_away }) => Health { api: Some(cause), is_away, ..health },
        }
    }

    /// A client for the kubelet itself.
    fn local(&mut self) -> Result<reqwest::Client, String> {
        if let Some(client) = &self.local {
            return Ok(client.clone());
        }
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWER).tls_certs_only([]).build();
        let client = client.map_err(|error| format!("it cannot be asked: {error}"))?;
        Ok(self.local.insert(client).clone())
    }

    /// A client with the kubelet's credential.
    async fn api(&mut self, root: &Root, kubelet: &Kubelet) -> Result<Client, String> {
        let path = kubelet.flag("kubeconfig").ok_or("the kubelet runs without --kubeconfig")?;
        let words = |error: &dyn std::fmt::Display| format!("{path}: {error}");
        let kubeconfig = Kubeconfig::read_from(root.outside(path)).map_err(|error| words(&error))?;
        let read = |file: &str| root.read(file, MAX_FILE).ok().flatten();
        let files = files_of(&kubeconfig).map(read).collect();
        let credential = Credential { path: path.to_owned(), text: read(path), files };
        if let Some((of, client)) = &self.api
            && *of == credential
        {
            return Ok(client.clone());
        }
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .map_err(|error| words(&error))?;
        (config.connect_timeout, config.read_timeout) = (Some(ANSWER), Some(ANSWER));
        // Each look asks once, and says what it was told.
        config.default_retry = false;
        let client = Client::try_from(config).map_err(|error| words(&error))?;
        Ok(self.api.insert((credential, client)).1.clone())
    }
}

/// The files that a kubeconfig names.
fn files_of(kubeconfig: &Kubeconfig) -> impl Iterator<Item = &str> {
    let authorities = kubeconfig.clusters.iter().filter_map(|named| named.cluster.as_ref());
    let users = kubeconfig.auth_infos.iter().filter_map(|named| named.auth_info.as_ref());
    let of_user = users.flat_map(|user| [&user.client_certificate, &user.client_key, &user.token_file]);
    authorities.map(|cluster| &cluster.certificate_authority).chain(of_user).filter_map(Option::as_deref)
}

/// Asks the kubelet itself.
async fn healthz(port: u16, client: Result<reqwest::Client, String>) -> Result<(), String> {
    let words = |error: reqwest::Error| match error.is_timeout() {
        true => format!("no answer within {} s", ANSWER.as_secs()),
        false => format!("nothing answers on 127.0.0.1:{port}"),
    };
    let answer = client?.get(format!("http://127.0.0.1:{port}/healthz")).send().await;
    let answer = answer.map_err(words)?;
    match answer.status().as_u16() {
        200 => Ok(()),
        status => Err(format!("it says {status}")),
    }
}

/// What the API server knows of a node.
struct SeenByApi {
    not_ready: Option<String>,
    lease: Option<Timestamp>,
    addresses: BTreeSet<String>,
}

/// Why nothing is known by it.
struct Unasked {
    cause: String,
    /// It has given no answer.
    is_away: bool,
}

/// Asks the API server.
async fn of_api(client: Client, node: &str) -> Result<SeenByApi, Unasked> {
    let words = |error: kube::Error| match error {
        // What stands before it may answer for it.
        kube::Error::Api(status) => Unasked { is_away: status.code >= 500, cause: status.message },
        other => Unasked { cause: other.to_string(), is_away: true },
    };
    let nodes: Api<Node> = Api::all(client.clone());
    let leases: Api<Lease> = Api::namespaced(client, LEASES);
    let both = async { tokio::try_join!(nodes.get_opt(node), leases.get_opt(node)) };
    let both = tokio::time::timeout(ANSWER, both).await;
    let late = |_| Unasked { cause: format!("no answer within {} s", ANSWER.as_secs()), is_away: true };
    let (found, lease) = both.map_err(late)?.map_err(words)?;
    let Some(found) = found else {
        let not_ready = Some(format!("there is no Node {node}"));
        return Ok(SeenByApi { not_ready, lease: None, addresses: BTreeSet::new() });
    };
    let status = found.status.unwrap_or_default();
    let ready = status.conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
    let not_ready = match ready {
        Some(ready) if ready.status == "True" => None,
        Some(ready) => Some(ready.message.filter(|message| !message.is_empty()).unwrap_or(ready.status)),
        None => Some("it has no condition Ready".to_owned()),
    };
    let addresses = status.addresses.into_iter().flatten();
    let addresses = addresses.filter(|address| address.type_ == "InternalIP").map(|address| address.address);
    let renewed = lease.and_then(|lease| lease.spec?.renew_time);
    // The same time, as the crate of another version has it.
    let renewed = renewed.and_then(|time| Timestamp::from_microsecond(time.0.as_microsecond()).ok());
    Ok(SeenByApi { not_ready, lease: renewed, addresses: addresses.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_any_user_is_no_kubelet() {
        assert!(is_of_root("Name:\tkubelet\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\n"));
        // A program with a set-uid bit, which anybody may start under another name.
        assert!(!is_of_root("Uid:\t1000\t0\t0\t0\n"));
        assert!(!is_of_root(""));
        assert!(is_in_service("0::/system.slice/kubelet.service\n"));
        assert!(is_in_service("0::/../../../podruntime.slice/kubelet.service\n"));
        assert!(is_in_service("4:memory:/\n1:name=systemd:/system.slice/kubelet.service\n0::/\n"));
        for other in [
            "0::/user.slice/user-0.slice/session-1.scope\n",
            "0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-2.scope\n",
            "4:memory:/system.slice/x.service\n1:name=systemd:/docker/3\n",
            "",
        ] {
            assert!(!is_in_service(other), "{other}");
        }
    }

    #[test]
    fn a_kubelet_is_known_by_its_program_and_read_by_its_flags() {
        let kubelet =
            Kubelet::of(b"/usr/local/sbin/kubelet\0--config=/a\0--kubeconfig\0/b\0--v=2\0").expect("one");
        assert_eq!(kubelet.flag("config"), Some("/a"));
        assert_eq!(kubelet.flag("kubeconfig"), Some("/b"));
        assert_eq!(kubelet.flag("node-ip"), None);
        assert!(kubelet.node_ips().is_empty());
        let two = Kubelet::of(b"kubelet\0--node-ip=10.0.0.1, fd00::1\0").expect("one");
        assert_eq!(two.node_ips(), ["10.0.0.1", "fd00::1"].map(str::to_owned).into());
        assert!(Kubelet::of(b"kubelet\0--node-ip=::\0").expect("one").node_ips().is_empty());
        let twice = Kubelet::of(b"kubelet\0--config=/a\0--config=/b\0").expect("one");
        assert_eq!(twice.flag("config"), Some("/b"), "as the kubelet takes it");
        assert_eq!(Kubelet::of(b"/usr/bin/kubeletx\0"), None);
        assert_eq!(Kubelet::of(b""), None);
    }
}
