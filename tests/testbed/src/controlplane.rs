//! The control plane: in go programs, ports and certificates, out come etcd, kube-apiserver, controller-manager and
//! scheduler as plain processes of this machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::binaries::Binaries;
use crate::paths::{self, Id};
use crate::pki::Authority;
use crate::state::State;
use crate::{audit, cgroup, process};

/// The first address of the services, where pods find the API server. The range is the same in all testbeds, since
/// it is known inside their machines only.
const SERVICE_RANGE: &str = "10.96.0.0/16";
const SERVICE_ADDRESS: &str = "10.96.0.1";

/// The control plane of one testbed.
pub(crate) struct ControlPlane {
    id: Id,
    state: State,
    dir: PathBuf,
    binaries: Binaries,
}

impl ControlPlane {
    pub(crate) fn new(id: &Id, state: &State, binaries: &Binaries) -> ControlPlane {
        ControlPlane { id: id.clone(), state: state.clone(), dir: id.state_dir(), binaries: binaries.clone() }
    }

    /// URL of the API server as seen from the machines.
    pub(crate) fn server_for_machines(&self) -> String {
        format!("https://{}:{}", self.state.slot.gateway(), self.state.ports.apiserver)
    }

    /// Makes the authority and writes certificates, kubeconfigs and the audit policy.
    pub(crate) fn write_credentials(&self) -> Result<Authority> {
        let pki = self.dir.join("pki");
        std::fs::create_dir_all(&pki).with_context(|| format!("cannot make {}", pki.display()))?;
        let authority = Authority::create(&pki)?;
        let gateway = self.state.slot.gateway().to_string();
        let hosts = [
            "127.0.0.1",
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            SERVICE_ADDRESS,
            &gateway,
        ]
        .map(str::to_owned);
        authority.sign_to_files("apiserver", "kube-apiserver", None, &hosts)?;
        authority.sign_to_files(
            "kubelet-client",
            "kube-apiserver-kubelet-client",
            Some("system:masters"),
            &[],
        )?;
        let server = format!("https://127.0.0.1:{}", self.state.ports.apiserver);
        for (file, name, group) in [
            ("admin", "admin", Some("system:masters")),
            ("controller-manager", "system:kube-controller-manager", None),
            ("scheduler", "system:kube-scheduler", None),
        ] {
            let identity = authority.sign(name, group, &[])?;
            authority.write_kubeconfig(&self.kubeconfig(file), &server, &identity)?;
        }
        paths::write(&self.dir.join("audit-policy.json"), format!("{:#}\n", audit::policy()))?;
        Ok(authority)
    }

    fn kubeconfig(&self, who: &str) -> PathBuf {
        self.dir.join(format!("{who}.kubeconfig"))
    }

    /// Starts etcd.
    pub(crate) fn start_etcd(&self) -> Result<()> {
        let client = format!("http://127.0.0.1:{}", self.state.ports.etcd);
        let peer = format!("http://127.0.0.1:{}", self.state.ports.etcd_peer);
        self.start(
            "etcd",
            &[
                format!("--data-dir={}", self.dir.join("etcd").display()),
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster=default={peer}"),
                // Nobody keeps this data across a power cut.
                "--unsafe-no-fsync".to_owned(),
                "--log-level=warn".to_owned(),
            ],
        )
    }

    /// Starts the API server.
    pub(crate) fn start_apiserver(&self) -> Result<()> {
        let pki = |file: &str| self.dir.join("pki").join(file).display().to_string();
        self.start(
            "kube-apiserver",
            &[
                format!("--etcd-servers=http://127.0.0.1:{}", self.state.ports.etcd),
                "--bind-address=0.0.0.0".to_owned(),
                format!("--secure-port={}", self.state.ports.apiserver),
                format!("--advertise-address={}", self.state.slot.gateway()),
                format!("--tls-cert-file={}", pki("apiserver.crt")),
                format!("--tls-private-key-file={}", pki("apiserver.key")),
                format!("--client-ca-file={}", pki("ca.crt")),
                format!("--service-account-key-file={}", pki("sa.pub")),
                format!("--service-account-signing-key-file={}", pki("sa.key")),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                format!("--service-cluster-ip-range={SERVICE_RANGE}"),
                "--authorization-mode=Node,RBAC".to_owned(),
                "--enable-admission-plugins=NodeRestriction".to_owned(),
                "--allow-privileged=true".to_owned(),
                "--enable-bootstrap-token-auth=true".to_owned(),
                // Else `kubectl logs` looks machine names up, which nobody here can answer.
                "--kubelet-preferred-address-types=InternalIP".to_owned(),
                format!("--kubelet-client-certificate={}", pki("kubelet-client.crt")),
                format!("--kubelet-client-key={}", pki("kubelet-client.key")),
                // No kube-proxy runs here: webhooks are called by their pods' addresses, to which there are routes.
                "--enable-aggregator-routing=true".to_owned(),
                format!("--audit-policy-file={}", self.dir.join("audit-policy.json").display()),
                format!("--audit-log-path={}", self.audit_log().display()),
                // Never rotated while a test holds a position in it.
                "--audit-log-maxsize=4096".to_owned(),
            ],
        )
    }

    /// Stops the API server.
    pub(crate) async fn stop_apiserver(&self) -> Result<()> {
        let Some(pid) = self.pid("kube-apiserver") else { return Ok(()) };
        if process::is_running(pid, "kube-apiserver") {
            // Long watches would hold a polite end for a minute; who stops it wants it to be away.
            process::terminate(pid, Duration::from_secs(1)).await;
        }
        Ok(())
    }

    /// Starts controller-manager and scheduler; the API server should be ready.
    pub(crate) fn start_controllers(&self) -> Result<()> {
        let kubeconfigs = |who: &str| {
            let file = self.kubeconfig(who).display().to_string();
            [
                format!("--kubeconfig={file}"),
                format!("--authentication-kubeconfig={file}"),
                format!("--authorization-kubeconfig={file}"),
                "--bind-address=127.0.0.1".to_owned(),
                // With one of each there is nobody to lead, and they must not end when the API server is away.
                "--leader-elect=false".to_owned(),
            ]
        };
        let pki = |file: &str| self.dir.join("pki").join(file).display().to_string();
        let mut arguments = kubeconfigs("controller-manager").to_vec();
        arguments.extend([
            format!("--secure-port={}", self.state.ports.controller_manager),
            format!("--cluster-signing-cert-file={}", pki("ca.crt")),
            format!("--cluster-signing-key-file={}", pki("ca.key")),
            format!("--service-account-private-key-file={}", pki("sa.key")),
            format!("--root-ca-file={}", pki("ca.crt")),
            "--use-service-account-credentials=true".to_owned(),
            "--controllers=*,bootstrapsigner,tokencleaner".to_owned(),
        ]);
        self.start("kube-controller-manager", &arguments)?;
        let mut arguments = kubeconfigs("scheduler").to_vec();
        arguments.push(format!("--secure-port={}", self.state.ports.scheduler));
        self.start("kube-scheduler", &arguments)
    }

    fn start(&self, program: &str, arguments: &[String]) -> Result<()> {
        let entry = cgroup::enter(&self.id, program)?;
        let mut argv = entry.prefix;
        argv.push(self.binaries.path(program).display().to_string());
        argv.extend_from_slice(arguments);
        let pid = process::spawn_detached(&argv, &[], &entry.folders, &self.log(program))?;
        paths::write(&self.dir.join("run").join(program), pid.to_string())
    }

    fn pid(&self, program: &str) -> Option<u32> {
        std::fs::read_to_string(self.dir.join("run").join(program)).ok()?.trim().parse().ok()
    }

    fn log(&self, program: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{program}.log"))
    }

    /// The audit log.
    pub(crate) fn audit_log(&self) -> PathBuf {
        audit_log(&self.dir)
    }

    /// Waits until the API server says that it is ready.
    pub(crate) async fn wait_ready(&self, client: &kube::Client) -> Result<()> {
        process::wait_for("the API server to be ready", Duration::from_secs(180), || async {
            for program in ["etcd", "kube-apiserver"] {
                if !self.pid(program).is_some_and(process::is_alive) {
                    bail!("{program} ended:\n{}", crate::tail(&self.log(program)));
                }
            }
            Ok(is_ready(client).await.then_some(()))
        })
        .await
        .with_context(|| format!("see {}", self.log("kube-apiserver").display()))
    }

    /// Whether all four programs run.
    pub(crate) fn is_running(&self) -> bool {
        ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]
            .iter()
            .all(|program| self.pid(program).is_some_and(|pid| process::is_running(pid, program)))
    }
}

/// The audit log in a testbed's folder.
pub(crate) fn audit_log(dir: &Path) -> PathBuf {
    dir.join("logs/audit.log")
}

/// Whether the API server answers that it is ready.
pub(crate) async fn is_ready(client: &kube::Client) -> bool {
    let Ok(request) = axum::http::Request::get("/readyz").body(Vec::new()) else { return false };
    let answer = tokio::time::timeout(Duration::from_secs(5), client.request_text(request)).await;
    answer.is_ok_and(|text| text.is_ok_and(|text| text == "ok"))
}
