//! Who judges a node: processes of the host, with a kubelet of which there are a command line, a health check and what the
//! API server knows.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use crds::Timeout;
use crds::nodebootstrap::Health;
use crds::report::Disruption;
use node_agent::engine::{self, Change};
use node_agent::host::kubelet::{Kubelet, Looker};
use node_agent::host::state::Begun;
use node_agent::switch::{self, Cause, Stage, Switch, process};
use rustix::fs::IFlags;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::api::{Api, with_agent};
use crate::plans::Locked;
use crate::pods::until;
use crate::support::{Machine, request};

const SWITCH: &str = "nodebootstrap-switch-workers.service";
const ROLL_BACK: &str = "nodebootstrap-rollback-workers.service";

/// What a node says of itself, and the API server of it.
#[derive(Default)]
struct Words {
    /// The API server gives so many wrong answers, and then right ones.
    wrong: usize,
    /// The kubelet does not answer its health check.
    is_silent: bool,
    /// From where it was asked.
    from: BTreeSet<SocketAddr>,
}

#[derive(Clone, Default)]
struct Node {
    words: Arc<Mutex<Words>>,
}

impl Node {
    /// A machine on which a kubelet seems to run, and what it answers.
    async fn start() -> (Machine, Self) {
        Self::start_on(Machine::new()).await
    }

    async fn start_on(machine: Machine) -> (Machine, Self) {
        let node = Self::default();
        let port = node.listen().await;
        machine.directory("/proc/42");
        machine.directory("/etc/kubernetes");
        machine.write(
            "/proc/42/cmdline",
            "/usr/bin/kubelet\0--config=/etc/kubelet\0--kubeconfig=/etc/kubernetes/k\0",
        );
        machine.write("/proc/42/cgroup", "0::/system.slice/kubelet.service\n");
        machine.write("/proc/42/status", "Name:\tkubelet\nUid:\t0\t0\t0\t0\n");
        machine.write("/etc/kubelet", &format!("healthzPort: {port}\n"));
        kubeconfig(&machine, port);
        (machine, node)
    }

    async fn listen(&self) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().fallback(answer).with_state(self.clone());
        let router = router.into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, router).await });
        port
    }

    fn words(&self) -> MutexGuard<'_, Words> {
        self.words.lock().unwrap()
    }
}

/// How the kubelet finds its API server.
fn kubeconfig(machine: &Machine, port: u16) {
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://127.0.0.1:{port}")}}],
        "users": [{"name": "c", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    });
    machine.write("/etc/kubernetes/k", &kubeconfig.to_string());
}

async fn answer(
    State(node): State<Node>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let mut words = node.words();
    let path = request.uri().path();
    if path == "/healthz" {
        let status = if words.is_silent { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
        return status.into_response();
    }
    words.from.insert(from);
    if words.wrong > 0 {
        words.wrong -= 1;
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let object = if path.contains("/leases/") {
        // As a kubelet that renews it all the time.
        let now = jiff::Timestamp::now().strftime("%FT%T.%6fZ").to_string();
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": {"renewTime": now}})
    } else {
        json!({"apiVersion": "v1", "kind": "Node", "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "n"}],
        }})
    };
    object.to_string().into_response()
}

/// An attempt for a revision, as it is asked for.
pub(crate) fn asked(request: &engine::Request) -> Switch {
    let second = Some(Timeout::from_secs(1));
    let health = Health { timeout: second, stable_for: second };
    process::asked(request, "n".to_owned(), None, Disruption::Restart, Some(&health), "")
}

fn of_unit(content: &str) -> engine::Request {
    request(json!({"units": [{"name": "kubelet.service", "content": content, "active": true}]}))
}

fn stage(machine: &Machine) -> Stage {
    machine.host().state.switch("workers").unwrap().expect("a switch").stage
}

fn cause(machine: &Machine) -> Cause {
    machine.host().state.switch("workers").unwrap().and_then(|switch| switch.cause.clone()).expect("a cause")
}

/// Puts an attempt as it stands, and has it rolled back.
async fn roll_back(machine: &Machine, node: &Node, reason: &str, interruptions: u32, wrong: usize) -> Stage {
    let host = machine.host();
    let before = Looker::default().look(&host.root, "n").await;
    let cause = Some(Cause { reason: reason.to_owned(), message: "m".to_owned() });
    let armed = Switch { stage: Stage::Armed, before, cause, interruptions, ..asked(&of_unit("x")) };
    host.state.put_switch("workers", &armed).unwrap();
    node.words().wrong = wrong;
    process::roll_back(&host, "workers", &CancellationToken::new()).await.expect("rolled back");
    stage(machine)
}

#[tokio::test]
async fn an_outage_that_ends_while_what_was_there_before_is_looked_at_proves_nothing() {
    let (machine, node) = Node::start().await;
    assert_eq!(roll_back(&machine, &node, "ApiAway", 0, 2).await, Stage::Unproven);
    assert!(cause(&machine).message.contains("it could not be asked either"), "{:?}", cause(&machine));
    assert!(
        machine.systemd.take_asked().contains(&format!("forget {SWITCH}")),
        "what was killed is not failed any more"
    );
    // One that comes with each attempt is no outage.
    assert_eq!(roll_back(&machine, &node, "ApiAway", 2, 2).await, Stage::RolledBack);
    // With what was there before it can be asked at once: so it was the change.
    assert_eq!(roll_back(&machine, &node, "ApiAway", 0, 0).await, Stage::RolledBack);
    // Nor does an outage excuse what failed for another reason.
    assert_eq!(roll_back(&machine, &node, "Systemd", 0, 2).await, Stage::RolledBack);
    // It is away still.
    assert_eq!(roll_back(&machine, &node, "ApiAway", 9, 1000).await, Stage::Unproven);
}

/// A machine on which an attempt was made, has failed, and is to be rolled back; with a file that root cannot change.
async fn failed_and_locked() -> (Machine, Node, Locked) {
    let (machine, node) = Node::start_on(Machine::on_disk()).await;
    let of = |word: &str| {
        request(json!({
            "files": [{"path": "/etc/motd", "content": word}],
            "units": [{"name": "kubelet.service", "content": format!("[Service]\nExecStart=/{word}\n"), "active": true}],
        }))
    };
    machine.apply(&of("first")).await.expect("applied");
    let host = machine.host();
    let previous = host.state.begun("workers").unwrap().map(|begun| Begun::clone(&begun));
    let before = Looker::default().look(&host.root, "n").await;
    machine.apply_held(&of("second"), usize::MAX).await.expect("applied");
    let restarts = BTreeSet::from(["kubelet.service".to_owned()]);
    let armed = Switch { stage: Stage::Armed, previous, before, restarts, ..asked(&of("second")) };
    host.state.put_switch("workers", &armed).unwrap();
    machine.systemd.take_asked();
    let locked = Locked::new(&machine, "/etc/motd", IFlags::IMMUTABLE);
    (machine, node, locked)
}

fn restarts(machine: &Machine) -> usize {
    machine.systemd.take_asked().iter().filter(|asked| *asked == "restart kubelet.service").count()
}

const UNIT: &str = "/etc/systemd/system/kubelet.service";

#[tokio::test]
async fn what_cannot_be_put_back_keeps_nothing_else_from_it_and_is_tried_until_it_can() {
    let (machine, _node, locked) = failed_and_locked().await;
    let host = machine.host();
    let stop = CancellationToken::new();
    let unlocked = async {
        let says = |word: &str| {
            let switch = machine.host().state.switch("workers").unwrap();
            switch
                .is_some_and(|switch| switch.cause.as_ref().is_some_and(|cause| cause.message.contains(word)))
        };
        until(|| says("not put back yet, and tried again until it is: file /etc/motd")).await;
        assert!(machine.read(UNIT).contains("first"), "the kubelet does not wait for it");
        assert_eq!((stage(&machine), restarts(&machine)), (Stage::Armed, 1));
        drop(locked);
    };
    let (rolled_back, ()) = tokio::join!(process::roll_back(&host, "workers", &stop), unlocked);
    rolled_back.expect("rolled back");
    assert_eq!((stage(&machine), machine.read("/etc/motd").as_str()), (Stage::RolledBack, "first"));
    let said = cause(&machine).message;
    assert!(said.starts_with("nothing confirmed it within 1 s") && !said.contains("not put back"), "{said}");
    assert_eq!(restarts(&machine), 1, "with what is back now");
}

#[tokio::test]
async fn what_a_boot_cannot_put_back_is_put_back_after_it() {
    let (machine, _node, locked) = failed_and_locked().await;
    let host = machine.host();
    let stop = CancellationToken::new();
    let refused = process::guard(&host, &stop).await.expect_err("it is locked");
    assert!(refused.contains("file /etc/motd"), "{refused}");
    assert!(machine.read(UNIT).contains("first"));
    assert_eq!((stage(&machine), restarts(&machine)), (Stage::Armed, 0), "systemd is about to start it");
    drop(locked);
    process::roll_back_all(&host, &stop).await.expect("rolled back");
    assert_eq!((stage(&machine), machine.read("/etc/motd").as_str()), (Stage::Unproven, "first"));
    assert_eq!(cause(&machine).message, "the machine was restarted in the middle");
    assert_eq!(restarts(&machine), 1);
}

#[tokio::test]
async fn what_does_not_start_with_what_was_there_before_is_told_and_not_restarted_for_ever() {
    let (machine, node, locked) = failed_and_locked().await;
    drop(locked);
    node.words().is_silent = true;
    *machine.systemd.broken.borrow_mut() = Some("kubelet.service".to_owned());
    process::roll_back(&machine.host(), "workers", &CancellationToken::new()).await.expect("an end");
    assert_eq!((stage(&machine), restarts(&machine)), (Stage::RolledBack, 1));
    let said = cause(&machine).message;
    assert!(said.contains("with what was there before") && said.contains("does not answer"), "{said}");
    assert!(machine.read(UNIT).contains("first"));
}

#[tokio::test]
async fn a_kubelet_that_was_down_for_a_moment_is_not_stopped_by_a_roll_back() {
    let (machine, _node) = Node::start().await;
    let unit = |word: &str| format!("[Service]\nExecStart=/{word}\n[Install]\nWantedBy=multi-user.target\n");
    machine.write(UNIT, &unit("first"));
    machine.directory("/etc/systemd/system/multi-user.target.wants");
    machine.link("/etc/systemd/system/multi-user.target.wants/kubelet.service", UNIT);
    machine.systemd.set("kubelet.service", "inactive");
    machine.systemd.units.borrow_mut().get_mut("kubelet.service").unwrap().file = "enabled".to_owned();
    let host = machine.host();
    let second = of_unit(&unit("second"));
    machine.apply_held(&second, usize::MAX).await.expect("applied");
    let restarts = BTreeSet::from(["kubelet.service".to_owned()]);
    let before = Looker::default().look(&host.root, "n").await;
    let armed = Switch { stage: Stage::Armed, before, restarts, ..asked(&second) };
    host.state.put_switch("workers", &armed).unwrap();
    machine.systemd.take_asked();
    process::roll_back(&host, "workers", &CancellationToken::new()).await.expect("an end");
    assert!(machine.read(UNIT).contains("first"));
    let asked = machine.systemd.take_asked();
    assert!(asked.contains(&"restart kubelet.service".to_owned()), "{asked:?}");
    assert!(!asked.contains(&"stop kubelet.service".to_owned()), "{asked:?}");
}

#[tokio::test]
async fn a_kubelet_that_is_down_when_it_begins_has_a_node_to_lose() {
    let (machine, node) = Node::start().await;
    let of = |word: &str| of_unit(&format!("[Service]\nExecStart=/bin/true\nEnvironment=A={word}\n"));
    machine.apply(&of("first")).await.expect("applied");
    // It is about to be started again.
    std::fs::remove_file(machine.path("/proc/42/cmdline")).unwrap();
    machine.systemd.set("kubelet.service", "activating");
    let host = machine.host();
    let plan = machine.plan(&of("second")).await;
    assert!(switch::at_stake(&host, &plan).await.unwrap().is_none(), "it never was a node");
    machine.write("/etc/kubernetes/kubelet.conf", "");
    assert!(switch::at_stake(&host, &plan).await.unwrap().is_some());
    host.state.put_switch("workers", &asked(&of("second"))).unwrap();
    node.words().is_silent = true;
    process::carry_out(&host, "workers", &CancellationToken::new()).await.expect("an end");
    assert_eq!((stage(&machine), cause(&machine).reason.as_str()), (Stage::Armed, "Unhealthy"));
}

#[tokio::test]
async fn what_the_api_server_could_not_be_asked_about_before_must_be_good_afterwards() {
    let (machine, node) = Node::start().await;
    machine.systemd.set("kubelet.service", "active");
    node.words().wrong = usize::MAX;
    let host = machine.host();
    host.state.put_switch("workers", &asked(&of_unit("[Service]\nExecStart=/bin/true\n"))).unwrap();
    process::carry_out(&host, "workers", &CancellationToken::new()).await.expect("an end");
    assert_eq!((stage(&machine), cause(&machine).reason.as_str()), (Stage::Armed, "ApiAway"));
    process::roll_back(&host, "workers", &CancellationToken::new()).await.expect("an end");
    assert_eq!(stage(&machine), Stage::Unproven, "it is away with that, too");
}

#[tokio::test]
async fn what_others_have_in_a_directory_of_ours_keeps_nothing_from_being_taken_back() {
    let (machine, _node) = Node::start().await;
    let drop_in = json!({"name": "20-ours.conf", "content": "[Service]\nNice=1\n"});
    let unit = json!({"name": "kubelet.service", "active": true, "dropIns": [drop_in]});
    machine.write(UNIT, "[Service]\nExecStart=/bin/true\n");
    machine.systemd.set("kubelet.service", "active");
    machine.apply(&request(json!({"units": [unit]}))).await.expect("applied");
    machine.write("/etc/systemd/system/kubelet.service.d/30-theirs.conf", "[Service]\nNice=2\n");
    let host = machine.host();
    let revert = engine::revert(&host, "workers", true).unwrap();
    host.state.put_switch("workers", &Switch { timeout: 30, ..asked(&revert) }).unwrap();
    process::carry_out(&host, "workers", &CancellationToken::new()).await.expect("an end");
    assert_eq!(stage(&machine), Stage::Confirmed, "{:?}", host.state.switch("workers"));
    assert!(!machine.is_there("/etc/systemd/system/kubelet.service.d/20-ours.conf"));
    assert!(machine.is_there("/etc/systemd/system/kubelet.service.d/30-theirs.conf"));
}

#[tokio::test]
async fn a_process_of_any_user_is_not_asked_for_its_kubeconfig() {
    let (machine, _node) = Node::start().await;
    let found = || Kubelet::find(&machine.root()).is_some();
    assert!(found());
    machine.write("/proc/42/status", "Name:\tkubelet\nUid:\t1000\t1000\t1000\t1000\n");
    assert!(!found());
    machine.write("/proc/42/status", "Name:\tkubelet\nUid:\t0\t0\t0\t0\n");
    machine.write("/proc/42/cgroup", "0::/kube.slice/kubelet\n");
    assert!(!found());
    machine.write("/proc/42/status", "Name:\tkubelet\nPPid:\t1\nUid:\t0\t0\t0\t0\n");
    assert!(found(), "it has gone there itself, as kubeletCgroups says");
    machine.directory("/proc/42/ns");
    machine.link("/proc/42/ns/pid", "pid:[2]");
    assert!(!found(), "it sees other processes than the host's first");
}

#[tokio::test]
async fn a_kubelet_that_is_started_must_answer_though_none_did_before() {
    let (machine, node) = Node::start().await;
    node.words().is_silent = true;
    machine.systemd.set("kubelet.service", "inactive");
    let host = machine.host();
    let request = of_unit("[Service]\nExecStart=/bin/true\n");
    host.state.put_switch("workers", &asked(&request)).unwrap();
    process::carry_out(&host, "workers", &CancellationToken::new()).await.expect("an end");
    let asked = machine.systemd.take_asked();
    assert_eq!((stage(&machine), cause(&machine).reason.as_str()), (Stage::Armed, "Unhealthy"));
    assert!(cause(&machine).message.contains("does not answer its health check: it says 500"));
    assert_eq!(asked.last(), Some(&format!("start {ROLL_BACK}")), "{asked:?}");
}

#[tokio::test]
async fn what_was_asked_for_and_never_begun_keeps_nobody_waiting() {
    let (machine, _node) = Node::start().await;
    let host = machine.host();
    host.state.put_switch("workers", &asked(&of_unit("x"))).unwrap();
    machine.systemd.set(SWITCH, "active");
    assert_eq!(process::under_way(&host).await.unwrap().as_deref(), Some("workers"), "it is about to begin");
    machine.systemd.set(SWITCH, "failed");
    assert_eq!(process::under_way(&host).await.unwrap(), None);
    assert_eq!((stage(&machine), cause(&machine).reason.as_str()), (Stage::Refused, "NotBegun"));
}

#[tokio::test]
async fn who_asks_for_another_attempt_while_one_is_open_gets_it_at_once() {
    let (machine, api) = (Machine::new(), Api::start().await);
    machine.systemd.set("kubelet.service", "active");
    machine.systemd.set(SWITCH, "active");
    let request = of_unit("[Service]\nExecStart=/bin/true\n");
    let name = api.put(&request, None);
    let open = Switch { stage: Stage::Armed, begun: u64::MAX, retry: "a".to_owned(), ..asked(&request) };
    machine.host().state.put_switch("workers", &open).unwrap();
    api.tell(json!({"revision": name, "retry": "b", "permit": {"id": 1, "disruption": "Restart"}}));
    with_agent(&machine, &api, async {
        api.until_status("the open one", |status| {
            status["message"].to_string().contains("by the host itself")
        })
        .await;
        let rolled_back = Switch { stage: Stage::RolledBack, cause: Some(Cause::default()), ..open };
        machine.host().state.put_switch("workers", &rolled_back).unwrap();
        let again = async {
            while stage(&machine) != Stage::Asked {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        // Long before the next pass is due.
        tokio::time::timeout(Duration::from_secs(15), again).await.expect("another attempt");
    })
    .await;
    let switch = machine.host().state.switch("workers").unwrap().expect("a switch");
    assert_eq!(switch.retry, "b");
}

#[tokio::test]
async fn a_node_that_leaves_counts_until_what_is_open_is_over_and_says_what_came_of_it() {
    let (machine, api) = (Machine::new(), Api::start().await);
    machine.systemd.set(SWITCH, "active");
    let name = api.put(&request(json!({"files": [{"path": "/etc/motd", "content": "ours"}]})), None);
    api.tell(json!({"revision": name, "permit": {"id": 1, "disruption": "Restart"}}));
    with_agent(&machine, &api, async {
        api.until_phase("Ready").await;
        let revert = engine::revert(&machine.host(), "workers", true).unwrap();
        let open = Switch { stage: Stage::Armed, begun: u64::MAX, ..asked(&revert) };
        machine.host().state.put_switch("workers", &open).unwrap();
        let leave = |leave: &str, retry: &str| {
            let permit = json!({"id": 2, "disruption": "None"});
            api.tell(json!({"revision": name, "leave": leave, "retry": retry, "permit": permit}));
        };
        leave("Revert", "");
        let told = "by the host itself";
        let is_told = |status: &serde_json::Value| status["message"].to_string().contains(told);
        let status = api.until_status(told, is_told).await;
        assert_eq!(status["permitId"], 1, "it was begun under that");

        let cause = Some(Cause { reason: "Worse".to_owned(), message: "why".to_owned() });
        let rolled_back = Switch { stage: Stage::RolledBack, cause, ..open };
        machine.host().state.put_switch("workers", &rolled_back).unwrap();
        let status = api.until_phase("Failed").await;
        assert_eq!((&status["revision"], &status["permitId"]), (&json!("revert"), &json!(2)));
        let message = status["message"].as_str().unwrap();
        assert!(message.contains("why (tried again only when the Node's annotation"), "{message}");
        assert_eq!(machine.read("/etc/motd"), "ours");
        // Somebody asks for another attempt.
        leave("Revert", "again");
        api.until_phase("Left").await;
        assert!(!machine.is_there("/etc/motd"));
        // What has failed once keeps nobody from leaving as it is.
        api.tell(json!({"revision": name, "retry": "again"}));
        api.until_phase("Ready").await;
        machine.host().state.put_switch("workers", &rolled_back).unwrap();
        leave("Revert", "");
        api.until_phase("Failed").await;
        leave("Retain", "");
        api.until_phase("Left").await;
        assert_eq!(machine.read("/etc/motd"), "ours");
    })
    .await;
}

#[tokio::test]
async fn what_the_host_itself_repairs_is_told_as_a_repair() {
    let (machine, api) = (Machine::new(), Api::start().await);
    let request = of_unit("[Service]\nExecStart=/bin/true\n");
    machine.apply(&request).await.unwrap();
    machine.systemd.set(SWITCH, "active");
    let made = Change {
        resource: "unit kubelet.service".to_owned(),
        change: "content".to_owned(),
        found: "had other content".to_owned(),
        disruption: Disruption::None,
    };
    let begun = Some(Begun::from(&request));
    let open = Switch { stage: Stage::Armed, begun: u64::MAX, previous: begun, ..asked(&request) };
    machine.host().state.put_switch("workers", &open).unwrap();
    let name = api.put(&request, None);
    let permit = json!({"id": 1, "disruption": "Restart"});
    api.tell(json!({"revision": name, "nodeBootstrapCreated": request.created, "permit": permit}));
    with_agent(&machine, &api, async {
        api.until_phase("Applying").await;
        let confirmed = Switch { stage: Stage::Confirmed, changes: vec![made], ..open };
        machine.host().state.put_switch("workers", &confirmed).unwrap();
        let status = api.until_phase("Ready").await;
        assert_eq!(status["message"], "repaired: unit kubelet.service had other content");
    })
    .await;
}

#[tokio::test]
async fn a_node_that_was_rolled_back_is_kept_as_it_was_before() {
    let (machine, api) = (Machine::new(), Api::start().await);
    let motd = |content: &str| request(json!({"files": [{"path": "/etc/motd", "content": content}]}));
    machine.apply(&motd("before")).await.unwrap();
    let tried = motd("tried");
    let rolled_back = Switch { stage: Stage::RolledBack, cause: Some(Cause::default()), ..asked(&tried) };
    machine.host().state.put_switch("workers", &rolled_back).unwrap();
    let name = api.put(&tried, None);
    api.tell(json!({"revision": name, "nodeBootstrapCreated": tried.created}));
    with_agent(&machine, &api, async {
        api.until_phase("Failed").await;
        machine.write("/etc/motd", "theirs");
        until(|| machine.read("/etc/motd") == "before").await;
        let status = api.until_status("the repair", |status| status["changesTotal"] == 1).await;
        assert_eq!((&status["reason"], &status["revision"]), (&json!("RolledBack"), &json!(name)));
        assert_eq!(status["changes"][0]["resource"], "file /etc/motd");
    })
    .await;
}

#[tokio::test]
async fn the_connection_is_kept_until_the_kubelet_has_another_credential() {
    let (machine, node) = Node::start().await;
    let root = machine.root();
    let mut looker = Looker::default();
    for _ in 0..3 {
        let now = looker.look(&root, "n").await;
        assert_eq!((now.kubelet, now.api, now.not_ready), (None, None, Some(None)));
        assert_eq!(now.addresses, BTreeSet::from(["10.0.0.1".to_owned()]));
    }
    // Node and Lease are asked for side by side.
    assert!(node.words().from.len() <= 2, "{:?}", node.words().from);
    let other = Node::default();
    kubeconfig(&machine, other.listen().await);
    assert_eq!(looker.look(&root, "n").await.api, None);
    assert!(!other.words().from.is_empty(), "the new server was not asked");
    tokio::time::timeout(Duration::from_secs(5), async {
        kubeconfig(&machine, 1);
        assert!(looker.look(&root, "n").await.api.is_some(), "nothing listens there");
    })
    .await
    .expect("an answer");
}
