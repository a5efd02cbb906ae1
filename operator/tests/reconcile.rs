//! Looks against an API server that is a map: which writes are made, in which order, and that at rest there are none.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests may fail as tests do"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crds::report::{Disruption, ReportPhase};
use crds::{NodeBootstrapStatus, names};
use http::{Method, Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use operator::cluster::Cluster;
use operator::objects::AgentSettings;
use operator::observed::{
    AgentPod, AgentState, Meta, Node, NodeBootstrap, Report, Seen, WatchedNode, WatchedNodeBootstrap,
    WatchedReport,
};
use operator::reconcile::{Context, Next, reconcile};
use operator::render::Renderer;
use operator::telemetry::Metrics;
use operator::world::World;
use serde_json::{Value, json};

const SECRET_VALUE: &str = "czNjcjN0"; // s3cr3t, as base64

/// The API server: objects by path, and the writes that were made.
#[derive(Default)]
struct Server {
    objects: BTreeMap<String, Value>,
    writes: Vec<(Method, String, Value)>,
    version: u64,
    refuses: Option<&'static str>,
    /// Writes to paths with this in them are made, but the answer is lost.
    loses_answers: Option<&'static str>,
}

impl Server {
    fn answer(&mut self, method: &Method, path: &str, body: Value) -> (StatusCode, Value) {
        let key = path.trim_end_matches("/status").to_owned();
        if *method == Method::GET {
            return self
                .objects
                .get(&key)
                .map_or_else(|| refusal(404, "NotFound"), |found| (StatusCode::OK, found.clone()));
        }
        self.writes.push((method.clone(), path.to_owned(), body.clone()));
        if self.refuses.is_some_and(|part| path.contains(part)) {
            return refusal(403, "Forbidden");
        }
        if *method == Method::DELETE {
            return self
                .objects
                .remove(&key)
                .map_or_else(|| refusal(404, "NotFound"), |gone| (StatusCode::OK, gone));
        }
        self.version += 1;
        let (key, mut object) = if *method == Method::POST {
            let name = body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("event");
            (
                format!("{key}/{name}"),
                json!({"metadata": {"uid": format!("uid-{}", self.version), "generation": 1}}),
            )
        } else {
            let made = json!({"metadata": {"uid": format!("uid-{}", self.version), "generation": 1}});
            (key.clone(), self.objects.get(&key).cloned().unwrap_or(made))
        };
        merge(&mut object, &body);
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(key, object.clone());
        if self.loses_answers.is_some_and(|part| path.contains(part)) {
            return refusal(503, "ServiceUnavailable");
        }
        (StatusCode::OK, object)
    }
}

fn refusal(code: u16, reason: &str) -> (StatusCode, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason});
    (StatusCode::from_u16(code).unwrap(), status)
}

fn merge(into: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) => {
            if !into.is_object() {
                *into = json!({});
            }
            for (key, value) in fields {
                if value.is_null() {
                    into.as_object_mut().unwrap().remove(key);
                } else {
                    merge(&mut into[key.as_str()], value);
                }
            }
        }
        other => *into = other.clone(),
    }
}

struct Lab {
    server: Arc<Mutex<Server>>,
    context: Context,
}

impl Lab {
    fn new() -> Self {
        let server = Arc::new(Mutex::new(Server { version: 100, ..Server::default() }));
        let shared = Arc::clone(&server);
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = Arc::clone(&shared);
            async move {
                let (parts, body) = request.into_parts();
                let bytes = body.collect_bytes().await.unwrap();
                let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
                let (code, answer) = server.lock().unwrap().answer(&parts.method, parts.uri.path(), body);
                let bytes = serde_json::to_vec(&answer).unwrap();
                Ok::<_, std::convert::Infallible>(
                    Response::builder().status(code).body(Body::from(bytes)).unwrap(),
                )
            }
        });
        let (world, metrics) = (Arc::new(World::default()), Arc::new(Metrics::default()));
        let client = Client::new(service, names::NAMESPACE);
        let context = Context {
            world: Arc::clone(&world),
            cluster: Cluster::new(client, world, Arc::clone(&metrics)),
            renderer: Renderer::default(),
            agent: AgentSettings { image: "agent:1".into(), log: None },
            metrics,
            written: Mutex::default(),
            refused: Mutex::default(),
        };
        let lab = Self { server, context };
        lab.put(
            "/api/v1/namespaces/kube-system",
            json!({"metadata": {"name": "kube-system", "uid": "cluster-1"}}),
        );
        lab
    }

    /// Puts an object on the server, as somebody else would.
    fn put(&self, path: &str, mut object: Value) -> Value {
        let mut server = self.server.lock().unwrap();
        server.version += 1;
        object["metadata"]["resourceVersion"] = json!(server.version.to_string());
        server.objects.insert(path.to_owned(), object.clone());
        object
    }

    fn node(&self, name: &str, ready: &str) {
        self.node_with(name, ready, false);
    }

    fn node_with(&self, name: &str, ready: &str, unschedulable: bool) {
        let object = self.put(
            &format!("/api/v1/nodes/{name}"),
            json!({
                "metadata": {"name": name, "uid": format!("uid-{name}"), "labels": {"kubernetes.io/os": "linux"}},
                "spec": {"unschedulable": unschedulable},
                "status": {"conditions": [{"type": "Ready", "status": ready}], "nodeInfo": {"machineID": "m"}},
            }),
        );
        let node: WatchedNode = serde_json::from_value(object).unwrap();
        self.context.world.nodes.put(Node::read(node));
    }

    /// The API server's version.
    fn version(&self, version: &str) {
        self.put(
            "/version",
            json!({
                "major": "1", "minor": "36", "gitVersion": version, "gitCommit": "", "gitTreeState": "clean",
                "buildDate": "", "goVersion": "", "compiler": "gc", "platform": "linux/amd64",
            }),
        );
    }

    /// The pods of a node, each with the kind of its owner.
    fn pods(&self, pods: &[(&str, &str)]) {
        let item = |(name, owner): &(&str, &str)| {
            let owner = json!({"apiVersion": "apps/v1", "kind": owner, "name": "o", "uid": "u"});
            json!({"metadata": {"namespace": "default", "name": name, "ownerReferences": [owner]}})
        };
        let items: Vec<_> = pods.iter().map(item).collect();
        self.put(
            "/api/v1/pods",
            json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "items": items}),
        );
    }

    fn node_bootstrap(&self, name: &str, created: &str, generation: i64, spec: Value) {
        let path = format!("/apis/nodebootstrap.io/v1alpha1/nodebootstraps/{name}");
        let mut object = self.server.lock().unwrap().objects.get(&path).cloned().unwrap_or_else(|| {
            json!({"metadata": {"name": name, "uid": format!("uid-{name}"), "creationTimestamp": created}})
        });
        object["metadata"]["generation"] = json!(generation);
        object["spec"] = spec;
        self.see_node_bootstrap(self.put(&path, object));
    }

    fn delete_node_bootstrap(&self, name: &str) {
        let path = format!("/apis/nodebootstrap.io/v1alpha1/nodebootstraps/{name}");
        let mut object = self.server.lock().unwrap().objects[&path].clone();
        object["metadata"]["deletionTimestamp"] = json!("2026-01-02T00:00:00Z");
        self.see_node_bootstrap(self.put(&path, object));
    }

    fn see_node_bootstrap(&self, object: Value) {
        let object: WatchedNodeBootstrap = serde_json::from_value(object).unwrap();
        self.context.world.node_bootstraps.put(NodeBootstrap::read(object));
    }

    fn secret(&self, name: &str) {
        let object = self.put(
            &format!("/api/v1/namespaces/{}/secrets/{name}", names::NAMESPACE),
            json!({"metadata": {"name": name, "uid": format!("uid-{name}")}, "data": {"token": SECRET_VALUE}}),
        );
        let meta = serde_json::from_value(object["metadata"].clone()).unwrap();
        self.context.world.secrets.put(Meta::of(&meta));
    }

    /// A pod of an agent that is Ready.
    fn pod(&self, node_bootstrap: &str, node: &str) {
        let pod = AgentPod {
            name: format!("{}-{node}", names::agent(node_bootstrap)),
            node_bootstrap: node_bootstrap.into(),
            node: node.into(),
            state: AgentState::Ready,
        };
        self.context.world.pods.put(Seen { value: pod, version: 1 });
    }

    fn permit(&self, report: &str) -> Value {
        let path = format!("/apis/nodebootstrap.io/v1alpha1/nodebootstrapreports/{report}");
        self.server.lock().unwrap().objects[&path]["spec"]["permit"].clone()
    }

    /// An agent's answer; one that waits does so for a Restart.
    fn answer(&self, report: &str, phase: ReportPhase) {
        let waits = phase == ReportPhase::Waiting;
        self.answer_with(report, phase, if waits { Disruption::Restart } else { Disruption::None });
    }

    fn answer_with(&self, report: &str, phase: ReportPhase, disruption: Disruption) {
        let path = format!("/apis/nodebootstrap.io/v1alpha1/nodebootstrapreports/{report}");
        let mut object = self.server.lock().unwrap().objects[&path].clone();
        object["status"] = json!({
            "phase": phase,
            "revision": match object["spec"]["leave"].as_str() {
                Some("Revert") => json!(names::REVERT),
                _ => object["spec"]["revision"].clone(),
            },
            "permitId": object["spec"]["permit"]["id"],
            "disruption": disruption,
            "changesTotal": if phase == ReportPhase::Planned { 2 } else { 0 },
            "machineId": "m",
            "nodeUid": object["spec"]["nodeUid"],
        });
        let report: WatchedReport = serde_json::from_value(self.put(&path, object)).unwrap();
        self.context.world.reports.put(Report::read(report));
    }

    async fn look(&self, name: &str) -> Result<Next, operator::error::Error> {
        // Looks are far enough apart for a status to be written, if there were anything to write.
        tokio::time::advance(std::time::Duration::from_secs(2)).await;
        reconcile(&self.context, name).await
    }

    /// The writes since the last call, each as `METHOD last/parts/of/path`.
    fn writes(&self) -> Vec<(String, Value)> {
        let writes = std::mem::take(&mut self.server.lock().unwrap().writes);
        writes
            .into_iter()
            .map(|(method, path, body)| {
                let parts: Vec<_> = path.split('/').skip_while(|part| !is_kind(part)).collect();
                (format!("{method} {}", parts.join("/")), body)
            })
            .collect()
    }

    fn status(&self, name: &str) -> NodeBootstrapStatus {
        self.context.world.node_bootstraps.get(name).unwrap().status.clone()
    }
}

fn is_kind(part: &str) -> bool {
    [
        "nodebootstraps",
        "nodebootstrapreports",
        "nodes",
        "secrets",
        "controllerrevisions",
        "serviceaccounts",
        "roles",
        "rolebindings",
        "daemonsets",
        "events",
    ]
    .contains(&part)
}

fn place(writes: &[(String, Value)], what: &str) -> usize {
    let found = writes.iter().position(|(write, _)| write.starts_with(what));
    found.unwrap_or_else(|| {
        panic!("no {what} in {:#?}", writes.iter().map(|(write, _)| write).collect::<Vec<_>>())
    })
}

fn message(status: &NodeBootstrapStatus) -> &str {
    &operator::status::find(status, operator::status::READY).unwrap().message
}

fn with_secret() -> Value {
    json!({"allNodes": true, "files": [{"path": "/etc/token", "secretRef": {"name": "registry", "key": "token"}}]})
}

/// The reason and message of a condition.
fn told(status: &NodeBootstrapStatus, condition: &str) -> (String, String) {
    let found = operator::status::find(status, condition).unwrap();
    (found.reason.clone(), found.message.clone())
}

fn motd(path: &str) -> Value {
    json!({"allNodes": true, "files": [{"path": path, "content": "x"}]})
}

#[tokio::test(start_paused = true)]
async fn what_others_rely_on_is_made_first_and_a_second_look_writes_nothing() {
    let lab = Lab::new();
    lab.node("n1", "True");
    lab.secret("registry");
    lab.node_bootstrap("workers", "2026-01-01T00:00:00Z", 1, with_secret());
    lab.look("workers").await.unwrap();
    let writes = lab.writes();
    let order = |what: &str| place(&writes, what);
    assert_eq!(order("PATCH nodebootstraps/workers"), 0, "the finalizer, before anything is made");
    assert!(order("PATCH serviceaccounts/") < order("PATCH daemonsets/"));
    assert!(order("PATCH roles/") < order("PATCH rolebindings/"));
    let payload = writes.iter().position(|(write, body)| {
        write == "POST secrets" && body["metadata"]["name"] != crds::names::HMAC_KEY_SECRET
    });
    assert!(payload.unwrap() < order("POST controllerrevisions"), "the payload before its revision");
    assert!(order("POST controllerrevisions") < order("POST nodebootstrapreports"));
    assert!(
        order("PATCH roles/") < order("POST nodebootstrapreports"),
        "the right to read it before the word"
    );
    for (write, body) in &writes {
        assert!(
            write == "POST secrets" || !body.to_string().contains(SECRET_VALUE),
            "{write} has the secret"
        );
        assert!(!body.to_string().contains("s3cr3t"), "{write} has the secret");
    }

    lab.look("workers").await.unwrap();
    assert_eq!(lab.writes(), []);
    lab.answer("workers.n1", ReportPhase::Ready);
    lab.look("workers").await.unwrap();
    let writes = lab.writes();
    assert!(
        writes.iter().all(|(write, _)| write.contains("status") || write.contains("events")),
        "{writes:?}"
    );
    lab.look("workers").await.unwrap();
    assert_eq!(lab.writes(), []);
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_changes_is_a_new_revision_and_the_role_names_both() {
    let lab = Lab::new();
    lab.node("n1", "True");
    lab.secret("registry");
    lab.node_bootstrap("workers", "2026-01-01T00:00:00Z", 1, with_secret());
    lab.look("workers").await.unwrap();
    lab.writes();
    let path = format!("/api/v1/namespaces/{}/secrets/registry", names::NAMESPACE);
    let object = lab.put(
        &path,
        json!({"metadata": {"name": "registry", "uid": "uid-registry"}, "data": {"token": "b3RoZXI="}}),
    );
    lab.context.world.secrets.put(Meta::of(&serde_json::from_value(object["metadata"].clone()).unwrap()));
    lab.look("workers").await.unwrap();
    let writes = lab.writes();
    let (_, role) = &writes[place(&writes, "PATCH roles/")];
    assert_eq!(role.pointer("/rules/1/resourceNames").unwrap().as_array().unwrap().len(), 2);
    let (_, word) = &writes[place(&writes, "PATCH nodebootstrapreports/workers.n1")];
    let revision = word.pointer("/spec/revision").unwrap();
    assert_eq!(lab.status("workers").update_revision.as_deref(), revision.as_str());
}

/// Two NodeBootstraps that are in nobody's way, with all written that they need; the younger has /etc/motd.
async fn two_at_rest() -> Lab {
    let lab = Lab::new();
    lab.node("n1", "True");
    lab.node_bootstrap("older", "2026-01-01T00:00:00Z", 1, motd("/etc/a"));
    lab.node_bootstrap("younger", "2026-01-02T00:00:00Z", 1, motd("/etc/motd"));
    for name in ["older", "younger", "older", "younger"] {
        lab.look(name).await.unwrap();
    }
    lab.writes();
    lab
}

#[tokio::test(start_paused = true)]
async fn the_younger_is_told_of_a_conflict_before_the_older_s_revision_goes_out() {
    let lab = two_at_rest().await;

    lab.node_bootstrap("older", "2026-01-01T00:00:00Z", 2, motd("/etc/motd"));
    let next = lab.look("older").await.unwrap();
    assert!(next.others.contains("younger"));
    let writes = lab.writes();
    let told = place(&writes, "PATCH nodebootstrapreports/younger.n1");
    assert!(told < place(&writes, "PATCH nodebootstrapreports/older.n1"));
    assert_eq!(
        writes[told].1["spec"],
        json!({"conflicts": [{"resource": "file /etc/motd", "with": "older"}]})
    );
    lab.look("younger").await.unwrap();
    assert!(
        message(&lab.status("younger")).contains("older and younger"),
        "{}",
        message(&lab.status("younger"))
    );
    lab.writes();
    for name in ["older", "younger", "older", "younger"] {
        lab.look(name).await.unwrap();
    }
    assert_eq!(lab.writes(), [], "neither flips");

    // The older one lets go; as long as one of its Reports names what claims the path, the younger one waits.
    lab.node_bootstrap("older", "2026-01-01T00:00:00Z", 3, motd("/etc/b"));
    lab.look("younger").await.unwrap();
    assert!(lab.writes().iter().all(|(write, _)| !write.contains("nodebootstrapreports")));
    lab.look("older").await.unwrap();
    lab.look("younger").await.unwrap();
    let writes = lab.writes();
    let freed = place(&writes, "PATCH nodebootstrapreports/younger.n1");
    assert!(place(&writes, "PATCH nodebootstrapreports/older.n1") < freed);
    assert_eq!(writes[freed].1["spec"], json!({"conflicts": []}));
}

fn in_mode(mode: &str, mut spec: Value) -> Value {
    spec["mode"] = json!(mode);
    spec
}

#[tokio::test(start_paused = true)]
async fn mode_plan_is_no_new_revision_and_there_and_back_each_take_one_write_a_node() {
    let lab = Lab::new();
    lab.node("n1", "True");
    lab.pod("workers", "n1");
    let created = "2026-01-01T00:00:00Z";
    lab.node_bootstrap("workers", created, 1, in_mode("Plan", motd("/etc/motd")));
    lab.look("workers").await.unwrap();
    let writes = lab.writes();
    let (_, report) = &writes[place(&writes, "POST nodebootstrapreports")];
    assert_eq!(report["spec"]["mode"], "Plan", "the first word of all");
    lab.answer("workers.n1", ReportPhase::Planned);
    lab.look("workers").await.unwrap();
    lab.writes();
    let status = lab.status("workers");
    assert_eq!(message(&status), "1 of 1 nodes planned: n1 would be changed, none disturbed");
    assert_eq!((status.nodes.planned, &status.current_revision), (1, &None));
    let planned = status.update_revision;
    for (generation, mode, other) in [(2, "Apply", ReportPhase::Ready), (3, "Plan", ReportPhase::Planned)] {
        lab.look("workers").await.unwrap();
        assert_eq!(lab.writes(), [], "at rest nothing is written");
        lab.node_bootstrap("workers", created, generation, in_mode(mode, motd("/etc/motd")));
        lab.look("workers").await.unwrap();
        let writes = lab.writes();
        let told: Vec<_> = writes.iter().filter(|(write, _)| !write.contains("nodebootstraps/")).collect();
        assert!(
            matches!(&told[..], [(write, _), (event, _)] if write == "PATCH nodebootstrapreports/workers.n1" && event == "POST events"),
            "{told:?}"
        );
        assert_eq!(told[0].1["spec"], json!({"mode": mode}));
        lab.answer("workers.n1", other);
        lab.look("workers").await.unwrap();
        lab.writes();
        assert_eq!(lab.status("workers").update_revision, planned);
    }
}

#[tokio::test(start_paused = true)]
async fn in_mode_plan_an_older_one_takes_nothing_from_a_younger_one() {
    let lab = two_at_rest().await;
    lab.node_bootstrap("older", "2026-01-01T00:00:00Z", 2, in_mode("Plan", motd("/etc/motd")));
    for name in ["older", "younger", "older", "younger"] {
        lab.look(name).await.unwrap();
    }
    let writes = lab.writes();
    assert!(writes.iter().all(|(write, _)| !write.contains("nodebootstrapreports/younger")), "{writes:?}");

    lab.node_bootstrap("older", "2026-01-01T00:00:00Z", 3, motd("/etc/motd"));
    lab.look("older").await.unwrap();
    let writes = lab.writes();
    let told = place(&writes, "PATCH nodebootstrapreports/younger.n1");
    assert!(told < place(&writes, "PATCH nodebootstrapreports/older.n1"), "as ever, before it is taken");

    // The younger one is told what Apply would tell it.
    lab.node_bootstrap("younger", "2026-01-02T00:00:00Z", 2, in_mode("Plan", motd("/etc/motd")));
    lab.look("younger").await.unwrap();
    assert!(message(&lab.status("younger")).contains("older and younger"));
}

#[tokio::test(start_paused = true)]
async fn at_the_end_the_nodes_leave_then_all_goes_and_the_finalizer_last() {
    let lab = Lab::new();
    lab.node("n1", "True");
    lab.node_bootstrap("workers", "2026-01-01T00:00:00Z", 1, motd("/etc/motd"));
    lab.look("workers").await.unwrap();
    lab.answer("workers.n1", ReportPhase::Ready);
    lab.writes();

    lab.delete_node_bootstrap("workers");
    lab.look("workers").await.unwrap();
    let writes = lab.writes();
    assert_eq!(writes[0].1.pointer("/spec/leave"), Some(&json!("Retain")));
    assert!(writes.iter().all(|(write, _)| !write.starts_with("DELETE")));
    assert!(message(&lab.status("workers")).contains("n1 has to leave"));

    lab.answer("workers.n1", ReportPhase::Left);
    lab.look("workers").await.unwrap();
    let writes = lab.writes();
    let deleted: Vec<_> = writes.iter().filter(|(write, _)| write.starts_with("DELETE")).collect();
    assert!(deleted[0].0.starts_with("DELETE nodebootstrapreports"));
    for kind in ["daemonsets", "roles", "rolebindings", "serviceaccounts", "controllerrevisions"] {
        place(&writes, &format!("DELETE {kind}"));
    }
    let (last, body) = writes.last().unwrap();
    assert_eq!(
        (last.as_str(), &body["metadata"]["finalizers"]),
        ("PATCH nodebootstraps/workers", &json!([]))
    );
}

#[tokio::test(start_paused = true)]
async fn at_the_end_one_node_after_the_other_is_put_back_and_what_it_waits_for_is_told() {
    let lab = Lab::new();
    let spec = |policy: &str, allow: &str| {
        let mut spec = motd("/etc/motd");
        (spec["deletionPolicy"], spec["rollout"]) = (json!(policy), json!({"allow": allow}));
        spec
    };
    lab.node_bootstrap("workers", "2026-01-01T00:00:00Z", 1, spec("Revert", "None"));
    for node in ["n1", "n2"] {
        lab.node(node, "True");
        lab.pod("workers", node);
    }
    lab.look("workers").await.unwrap();
    ["workers.n1", "workers.n2"].iter().for_each(|report| lab.answer(report, ReportPhase::Ready));
    lab.delete_node_bootstrap("workers");
    lab.look("workers").await.unwrap();
    ["workers.n1", "workers.n2"].iter().for_each(|report| lab.answer(report, ReportPhase::Waiting));

    // Above what is allowed: it waits for a person, however long that takes, and says so.
    lab.writes();
    let next = lab.look("workers").await.unwrap();
    assert_eq!(next.again, None);
    let (reason, words) = told(&lab.status("workers"), operator::status::STALLED);
    assert_eq!(reason, "NotAllowed");
    assert!(words.starts_with("n1: ") && words.contains("deletionPolicy: Retain"), "{words}");
    let writes = lab.writes();
    assert!(writes[place(&writes, "POST events")].1["note"].as_str().unwrap().contains("rollout.allow"));
    lab.look("workers").await.unwrap();
    assert_eq!(lab.writes(), [], "once");

    lab.node_bootstrap("workers", "2026-01-01T00:00:00Z", 2, spec("Revert", "Restart"));
    lab.delete_node_bootstrap("workers");
    lab.look("workers").await.unwrap();
    assert_eq!(lab.permit("workers.n1"), json!({"id": 1, "disruption": "Restart"}));
    assert_eq!(lab.permit("workers.n2")["disruption"], "None");
    let told_so = message(&lab.status("workers")).to_owned();
    assert!(told_so.starts_with("n1 and n2 have to leave; n2 waits for its turn; "), "{told_so}");

    // The first that fails is the last, until somebody says what shall become of it.
    lab.answer("workers.n1", ReportPhase::Failed);
    lab.look("workers").await.unwrap();
    assert_eq!(lab.permit("workers.n2")["disruption"], "None");
    let (reason, words) = told(&lab.status("workers"), operator::status::STALLED);
    assert_eq!(reason, "RolloutStopped");
    assert!(words.starts_with("n1 has a permit, and has failed to leave"), "{words}");
    lab.answer("workers.n1", ReportPhase::Left);
    lab.look("workers").await.unwrap();
    lab.look("workers").await.unwrap();
    assert_eq!(lab.permit("workers.n2"), json!({"id": 1, "disruption": "Restart"}));
    lab.answer("workers.n2", ReportPhase::Left);
    lab.look("workers").await.unwrap();
    let writes = lab.writes();
    assert_eq!(writes.last().unwrap().1["metadata"]["finalizers"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_be_read_is_told_so_and_hurts_neither_its_nodes_nor_the_others() {
    let lab = Lab::new();
    lab.node("n1", "True");
    lab.node_bootstrap("bad", "2026-01-01T00:00:00Z", 1, motd("/etc/a"));
    lab.look("bad").await.unwrap();
    lab.writes();
    lab.node_bootstrap("bad", "2026-01-01T00:00:00Z", 2, json!({"allNodes": "perhaps"}));
    lab.node_bootstrap("good", "2026-01-02T00:00:00Z", 1, motd("/etc/b"));
    lab.look("bad").await.unwrap();
    let writes = lab.writes();
    assert!(
        writes.iter().all(|(write, _)| write.contains("status") || write.contains("events")),
        "{writes:?}"
    );
    assert!(message(&lab.status("bad")).contains("cannot be read"));
    assert!(lab.status("bad").update_revision.is_some(), "what was known stays");
    lab.look("good").await.unwrap();
    place(&lab.writes(), "POST nodebootstrapreports");
    lab.look("bad").await.unwrap();
    assert_eq!(lab.writes(), []);
}

#[tokio::test(start_paused = true)]
async fn what_the_api_server_refuses_twice_is_in_the_status_once() {
    let lab = Lab::new();
    lab.node("n1", "True");
    lab.node_bootstrap("workers", "2026-01-01T00:00:00Z", 1, motd("/etc/motd"));
    lab.server.lock().unwrap().refuses = Some("/daemonsets/");
    lab.look("workers").await.unwrap_err();
    assert!(!message(&lab.status("workers")).contains("DaemonSet"), "a moment's refusal");
    lab.look("workers").await.unwrap_err();
    assert!(
        message(&lab.status("workers")).contains("cannot apply DaemonSet"),
        "{}",
        message(&lab.status("workers"))
    );
    lab.writes();
    lab.look("workers").await.unwrap_err();
    let writes = lab.writes();
    assert!(writes.iter().all(|(write, _)| write.contains("daemonsets")), "{writes:?}");
    lab.server.lock().unwrap().refuses = None;
    lab.look("workers").await.unwrap();
    assert!(!message(&lab.status("workers")).contains("DaemonSet"));
}

#[tokio::test(start_paused = true)]
async fn a_permit_whose_answer_was_lost_is_looked_up_before_another_is_given() {
    let lab = Lab::new();
    for node in ["n1", "n2"] {
        lab.node(node, "True");
        lab.pod("workers", node);
    }
    lab.node_bootstrap("workers", "2026-01-01T00:00:00Z", 1, motd("/etc/motd"));
    lab.look("workers").await.unwrap();
    for report in ["workers.n1", "workers.n2"] {
        lab.answer(report, ReportPhase::Waiting);
    }
    lab.server.lock().unwrap().loses_answers = Some("nodebootstrapreports/workers.n1");
    lab.look("workers").await.unwrap_err();
    assert_eq!(
        lab.permit("workers.n1"),
        json!({"id": 1, "disruption": "Restart"}),
        "it stands, but we were not told"
    );

    // Now the first node would be passed over, were it not for what it may be doing.
    lab.server.lock().unwrap().loses_answers = None;
    lab.node("n1", "False");
    lab.look("workers").await.unwrap();
    assert_eq!(lab.permit("workers.n2"), json!({"id": 0, "disruption": "None"}));
    let status = lab.status("workers");
    assert!(message(&status).contains("n1 may be restarting something"), "{}", message(&status));

    lab.node("n1", "True");
    lab.answer("workers.n1", ReportPhase::Ready);
    lab.look("workers").await.unwrap();
    lab.look("workers").await.unwrap();
    assert_eq!(lab.permit("workers.n1"), json!({"id": 1, "disruption": "None"}));
    assert_eq!(lab.permit("workers.n2"), json!({"id": 1, "disruption": "Restart"}));
}

#[tokio::test(start_paused = true)]
async fn one_node_at_a_time_is_disturbed_over_all_node_bootstraps() {
    let lab = Lab::new();
    lab.node("n1", "True");
    lab.node("n2", "True");
    for (name, path) in [("one", "/etc/one"), ("other", "/etc/other")] {
        lab.node_bootstrap(name, "2026-01-01T00:00:00Z", 1, motd(path));
        ["n1", "n2"].iter().for_each(|node| lab.pod(name, node));
        lab.look(name).await.unwrap();
        ["n1", "n2"].iter().for_each(|node| lab.answer(&format!("{name}.{node}"), ReportPhase::Waiting));
    }
    let restart = |id: i64| json!({"id": id, "disruption": "Restart"});
    lab.look("one").await.unwrap();
    assert_eq!(lab.permit("one.n1"), restart(1));
    lab.look("other").await.unwrap();
    for node in ["n1", "n2"] {
        assert_eq!(lab.permit(&format!("other.{node}"))["disruption"], "None", "{node}");
    }
    let status = lab.status("other");
    assert!(message(&status).contains("the NodeBootstrap one may disturb n1 now"), "{}", message(&status));

    // What failed may be disturbed again, and so may nobody else; that very node may.
    lab.answer("one.n1", ReportPhase::Failed);
    lab.answer("other.n1", ReportPhase::Ready);
    lab.look("other").await.unwrap();
    assert_eq!(lab.permit("other.n2")["disruption"], "None");
    assert!(message(&lab.status("other")).contains("the NodeBootstrap one failed on n1"));
    lab.answer("one.n1", ReportPhase::Ready);
    lab.look("other").await.unwrap();
    assert_eq!(lab.permit("other.n2"), restart(1));
    lab.look("one").await.unwrap();
    assert_eq!(lab.permit("one.n2")["disruption"], "None");
}

#[tokio::test(start_paused = true)]
async fn who_needs_a_drain_is_permitted_when_it_is_empty() {
    let lab = Lab::new();
    lab.node("n1", "True");
    lab.node_bootstrap("workers", "2026-01-01T00:00:00Z", 1, motd("/etc/motd"));
    lab.pod("workers", "n1");
    lab.look("workers").await.unwrap();
    lab.answer_with("workers.n1", ReportPhase::Waiting, Disruption::Drain);
    let next = lab.look("workers").await.unwrap();
    let (reason, words) = told(&lab.status("workers"), operator::status::STALLED);
    assert_eq!((reason.as_str(), next.again), ("NeedsDrain", None));
    assert!(words.contains("kubectl drain n1 --ignore-daemonsets"), "{words}");

    lab.pods(&[("web", "ReplicaSet"), ("agent", "DaemonSet")]);
    lab.node_with("n1", "True", true);
    let next = lab.look("workers").await.unwrap();
    assert!(next.again.is_some(), "nobody tells when the last pod has gone");
    assert_eq!(lab.permit("workers.n1")["disruption"], "None");
    let (_, words) = told(&lab.status("workers"), operator::status::STALLED);
    assert!(words.contains("default/web") && !words.contains("default/agent"), "{words}");

    lab.pods(&[("agent", "DaemonSet")]);
    lab.look("workers").await.unwrap();
    assert_eq!(lab.permit("workers.n1"), json!({"id": 1, "disruption": "Drain"}));

    // Less is allowed now: it may not be begun any more.
    let mut less = motd("/etc/motd");
    less["rollout"] = json!({"allow": "Restart"});
    lab.node_bootstrap("workers", "2026-01-01T00:00:00Z", 2, less);
    lab.look("workers").await.unwrap();
    assert_eq!(lab.permit("workers.n1"), json!({"id": 2, "disruption": "None"}));
    lab.answer_with("workers.n1", ReportPhase::Waiting, Disruption::Drain);
    lab.look("workers").await.unwrap();
    let (reason, words) = told(&lab.status("workers"), operator::status::STALLED);
    assert_eq!(reason, "NotAllowed");
    assert!(words.contains("rollout.allow is Restart"), "{words}");
}

#[tokio::test(start_paused = true)]
async fn a_kubelet_that_does_not_go_with_the_api_server_is_not_rolled_out() {
    let lab = Lab::new();
    lab.node("n1", "True");
    lab.version("v1.35.2");
    let kubelet = |version: &str| json!({"allNodes": true, "kubelet": {"version": version, "sha256": {"amd64": "a".repeat(64)}}});
    lab.node_bootstrap("workers", "2026-01-01T00:00:00Z", 1, kubelet("v1.35.0"));
    lab.look("workers").await.unwrap();
    let good = lab.status("workers").update_revision;
    lab.answer("workers.n1", ReportPhase::Ready);
    lab.node_bootstrap("workers", "2026-01-01T00:00:00Z", 2, kubelet("v1.36.3"));
    lab.writes();
    let next = lab.look("workers").await.unwrap();
    let (reason, words) = told(&lab.status("workers"), operator::status::STALLED);
    assert_eq!((reason.as_str(), lab.status("workers").update_revision), ("VersionSkew", good));
    assert!(words.contains("the API server, which is v1.35.2: write a version of 1.34 to 1.35"), "{words}");
    let writes = lab.writes();
    assert!(
        !writes.iter().any(|(write, _)| write.contains("revisions") || write.contains("reports")),
        "{writes:?}"
    );

    lab.version("v1.36.0");
    tokio::time::advance(next.again.expect("a time to look again")).await;
    lab.look("workers").await.unwrap();
    let (reason, _) = told(&lab.status("workers"), operator::status::STALLED);
    assert_eq!(reason, "Moving");
    place(&lab.writes(), "POST controllerrevisions");
}
