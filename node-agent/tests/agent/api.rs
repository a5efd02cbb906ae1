//! An API server with one Report, as far as an agent sees one: list and watch, get, status patches, revisions, payloads.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::support::Machine;

pub(crate) const REPORT: &str = "workers.node1";
/// A test that waits longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(crate) struct Objects {
    pub(crate) report: Option<Value>,
    /// ControllerRevisions and Secrets, by the end of their path.
    pub(crate) others: BTreeMap<String, Value>,
    /// All requests, as `GET /path`; watches are not among them.
    pub(crate) requests: Vec<String>,
    /// All statuses that were written, the newest last.
    pub(crate) statuses: Vec<Value>,
    /// The permit that a get sees, while list and watch lag behind.
    pub(crate) fresh: Option<Value>,
    /// Nothing is answered.
    pub(crate) broken: bool,
    version: u64,
}

#[derive(Clone)]
pub(crate) struct Api {
    objects: Arc<Mutex<Objects>>,
    changed: Arc<watch::Sender<u64>>,
    address: String,
}

impl Api {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = Self {
            objects: Arc::default(),
            changed: Arc::new(watch::channel(0).0),
            address: format!("http://{}", listener.local_addr().unwrap()),
        };
        let router = Router::new().fallback(answer).with_state(api.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        api
    }

    pub(crate) fn client(&self) -> kube::Client {
        let config = kube::Config::new(self.address.parse().unwrap());
        kube::Client::try_from(config).unwrap()
    }

    pub(crate) fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap()
    }

    fn bump(&self) {
        let version = {
            let mut objects = self.objects();
            objects.version += 1;
            let version = objects.version;
            if let Some(report) = &mut objects.report {
                report["metadata"]["resourceVersion"] = json!(version.to_string());
            }
            version
        };
        self.changed.send_replace(version);
    }

    /// Sets the Report's spec, keeping its status; other fields are as for a node that was just enrolled.
    pub(crate) fn tell(&self, spec: Value) {
        {
            let mut objects = self.objects();
            let mut all = json!({
                "nodeBootstrap": "workers", "nodeName": "node1", "nodeUid": "node-uid",
                "permit": {"id": 0, "disruption": "None"},
            });
            all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            let status = objects.report.as_ref().and_then(|report| report.get("status")).cloned();
            let mut report = json!({
                "apiVersion": "nodebootstrap.io/v1alpha1",
                "kind": "NodeBootstrapReport",
                "metadata": {"name": REPORT, "uid": "report-uid"},
                "spec": all,
            });
            if let Some(status) = status {
                report["status"] = status;
            }
            objects.report = Some(report);
        }
        self.bump();
    }

    pub(crate) fn delete_report(&self) {
        self.objects().report = None;
        self.bump();
    }

    pub(crate) fn break_down(&self, broken: bool) {
        self.objects().broken = broken;
        // Watches are cut too.
        self.bump();
    }

    /// Puts a revision, with its payload.
    pub(crate) fn put(&self, request: &node_agent::engine::Request, payload: Option<Value>) -> String {
        let revision = json!({
            "apiVersion": "apps/v1", "kind": "ControllerRevision", "revision": 1,
            "metadata": {"name": request.name, "namespace": "nodebootstrap-system"},
            "data": request.revision,
        });
        let mut objects = self.objects();
        objects.others.insert(format!("controllerrevisions/{}", request.name), revision);
        if let Some(data) = payload {
            let secret = json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": request.name}, "data": data,
            });
            objects.others.insert(format!("secrets/{}", request.name), secret);
        }
        request.name.clone()
    }

    /// Waits until the objects are so.
    pub(crate) async fn until(&self, what: &str, mut is: impl FnMut(&Objects) -> bool) {
        let mut changed = self.changed.subscribe();
        let wait = async {
            while !is(&self.objects()) {
                changed.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            let objects = self.objects();
            panic!("not seen: {what}; statuses {:#?}, requests {:#?}", objects.statuses, objects.requests);
        }
    }

    /// Waits for a status that says this; gives it.
    pub(crate) async fn until_status(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        self.until(what, |objects| objects.statuses.last().is_some_and(&is)).await;
        self.objects().statuses.last().cloned().unwrap()
    }

    pub(crate) async fn until_phase(&self, phase: &str) -> Value {
        self.until_status(phase, |status| status["phase"] == phase).await
    }
}

async fn answer(State(api): State<Api>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let is_watch = query.contains("watch=true");
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    if api.objects().broken {
        return (StatusCode::SERVICE_UNAVAILABLE, "away").into_response();
    }
    if !is_watch {
        api.objects().requests.push(format!("{} {path}", parts.method));
    }
    let reports = "/apis/nodebootstrap.io/v1alpha1/nodebootstrapreports";
    let found = match (&parts.method, path.strip_prefix(reports)) {
        (&Method::GET, Some("")) => {
            assert!(query.contains(&format!("fieldSelector=metadata.name%3D{REPORT}")), "{query}");
            return if is_watch { follow(api, &query) } else { list(&api) };
        }
        (&Method::GET, Some(_)) => {
            let objects = api.objects();
            let mut report = objects.report.clone();
            if let (Some(report), Some(permit)) = (&mut report, &objects.fresh) {
                report["spec"]["permit"] = permit.clone();
            }
            report
        }
        (&Method::PATCH, Some(rest)) => {
            assert_eq!(rest, format!("/{REPORT}/status"));
            let content = parts.headers["content-type"].to_str().unwrap();
            assert_eq!(content, "application/apply-patch+yaml");
            let patch: Value = serde_json::from_slice(&body).unwrap();
            let report = {
                let mut objects = api.objects();
                let status = patch["status"].clone();
                if let Some(report) = &mut objects.report {
                    report["status"] = status.clone();
                    objects.statuses.push(status);
                }
                objects.report.clone()
            };
            api.bump();
            report
        }
        (&Method::GET, None) => {
            let key: Vec<&str> = path.rsplit('/').take(2).collect();
            api.objects().others.get(&format!("{}/{}", key[1], key[0])).cloned()
        }
        other => panic!("an agent never asks for this: {other:?} {path}"),
    };
    // So that a wait for a request sees it too.
    api.changed.send_modify(|_| {});
    match found {
        Some(object) => json_response(StatusCode::OK, &object),
        None => {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound",
                "message": format!("{path} not found"),
            });
            json_response(StatusCode::NOT_FOUND, &status)
        }
    }
}

fn json_response(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

fn list(api: &Api) -> Response {
    api.changed.send_modify(|_| {});
    let objects = api.objects();
    let list = json!({
        "apiVersion": "nodebootstrap.io/v1alpha1", "kind": "NodeBootstrapReportList",
        "metadata": {"resourceVersion": objects.version.to_string()},
        "items": objects.report.iter().collect::<Vec<_>>(),
    });
    json_response(StatusCode::OK, &list)
}

/// Tells of each change after the version that is asked for.
fn follow(api: Api, query: &str) -> Response {
    let asked = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion="));
    let seen: u64 = asked.and_then(|version| version.parse().ok()).unwrap_or_default();
    let had = api.objects().report.is_some();
    let changed = api.changed.subscribe();
    let events = futures::stream::unfold(
        (api, changed, seen, had),
        |(api, mut changed, seen, had)| async move {
            loop {
                changed.borrow_and_update();
                {
                    let objects = api.objects();
                    if objects.broken {
                        return None;
                    }
                    if objects.version > seen {
                        let (kind, object) = match &objects.report {
                            Some(report) => ("MODIFIED", report.clone()),
                            None if had => {
                                let version = objects.version.to_string();
                                let object = json!({
                                    "apiVersion": "nodebootstrap.io/v1alpha1", "kind": "NodeBootstrapReport",
                                    "metadata": {"name": REPORT, "uid": "report-uid", "resourceVersion": version},
                                    "spec": {"nodeBootstrap": "workers", "nodeName": "node1", "nodeUid": "node-uid"},
                                });
                                ("DELETED", object)
                            }
                            None => ("BOOKMARK", Value::Null),
                        };
                        let (version, has) = (objects.version, objects.report.is_some());
                        drop(objects);
                        if kind != "BOOKMARK" {
                            let line = format!("{}\n", json!({"type": kind, "object": object}));
                            return Some((
                                Ok::<_, Infallible>(Bytes::from(line)),
                                (api, changed, version, has),
                            ));
                        }
                    }
                }
                if changed.changed().await.is_err() {
                    return None;
                }
            }
        },
    );
    Body::from_stream(events).into_response()
}

/// Runs an agent on a machine while a test goes on, and then stops it as SIGTERM does.
pub(crate) async fn with_agent(machine: &Machine, api: &Api, test: impl Future<Output = ()>) {
    let stop = tokio_util::sync::CancellationToken::new();
    let socket = tempfile::tempdir().unwrap();
    let settings = node_agent::pod::Settings {
        root: machine.root_path(),
        node_name: "node1".to_owned(),
        node_bootstrap: "workers".to_owned(),
        socket: socket.path().join("s").to_string_lossy().into_owned(),
    };
    let agent = node_agent::pod::serve(machine.host(), api.client(), settings, stop.clone());
    tokio::pin!(agent);
    tokio::select! {
        ended = &mut agent => panic!("the agent ended: {ended:?}"),
        () = test => {}
    }
    stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(5), agent).await;
    assert_eq!(ended, Ok(Ok(())), "it ends soon, and well");
}
