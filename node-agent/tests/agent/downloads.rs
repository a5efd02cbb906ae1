//! Downloads, from servers with a choice of mischief.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::Redirect;
use axum::routing::get;
use serde_json::{Value, json};
use sha2::Digest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Machine, request};

const PROGRAM: &[u8] = b"\x7fELF not really, but long enough to come in more than one piece";

struct Server {
    address: String,
    requests: Arc<AtomicUsize>,
}

async fn serve() -> Server {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let count = move || counted.fetch_add(1, Ordering::SeqCst);
    let router = Router::new()
        .route("/good", get(|| async { PROGRAM }))
        .route("/good-amd64", get(|| async { PROGRAM }))
        .route("/good-arm64", get(|| async { PROGRAM }))
        .route("/redirect", get(|| async { Redirect::temporary("/good") }))
        .route("/loop", get(|| async { Redirect::temporary("/loop") }))
        .route("/wrong", get(|| async { "something else" }))
        .route(
            "/html",
            get(|| async { ([(header::CONTENT_TYPE, "text/html")], "<!DOCTYPE html>\n<p>Log in") }),
        )
        .route(
            "/missing",
            get(move || async move {
                count();
                StatusCode::NOT_FOUND
            }),
        );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    Server { address, requests }
}

/// A server below HTTP that answers requests with these texts in turn, the last for ever, and hangs up.
async fn serve_raw(answers: Vec<String>) -> Server {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let count = counted.fetch_add(1, Ordering::SeqCst);
            let mut asked = [0; 1024];
            assert!(stream.read(&mut asked).await.unwrap() > 0);
            stream.write_all(answers[count.min(answers.len() - 1)].as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    Server { address, requests }
}

/// Promises more than it sends.
fn short() -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n\x7fELF", PROGRAM.len())
}

fn binary(url: &str, mirrors: &[String]) -> Value {
    let digest = hex::encode(sha2::Sha256::digest(PROGRAM));
    json!({"path": "/usr/local/sbin/kubelet", "url": url, "mirrors": mirrors, "sha256": {"amd64": digest, "arm64": digest}})
}

async fn fails(machine: &Machine, binary: Value) -> (String, String) {
    let before = machine.tree();
    let spec = request(json!({"binaries": [binary], "files": [{"path": "/etc/f", "content": ""}]}));
    let failure = machine.apply(&spec).await.unwrap_err();
    assert_eq!(machine.tree(), before, "nothing is half done, and files wait for the downloads");
    assert_eq!(machine.leftovers(), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(machine.path("/var/lib/nodebootstrap/.cache")).unwrap().count(), 0);
    (failure.reason, failure.message)
}

#[tokio::test]
async fn a_good_one_is_installed_whole_with_its_mode_and_not_fetched_again() {
    let server = serve().await;
    for path in ["/good", "/redirect", "/good-{arch}"] {
        let machine = Machine::new();
        let spec = request(json!({"binaries": [binary(&format!("{}{path}", server.address), &[])]}));
        machine.apply(&spec).await.unwrap();
        assert_eq!(std::fs::read(machine.path("/usr/local/sbin/kubelet")).unwrap(), PROGRAM);
        assert_eq!(machine.access("/usr/local/sbin/kubelet"), (0, 0, 0o755));
        assert!(machine.plan(&spec).await.is_empty());
        assert_eq!(machine.leftovers(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn another_content_under_the_same_size_and_time_is_seen() {
    let (machine, server) = (Machine::new(), serve().await);
    let spec = request(json!({"binaries": [binary(&format!("{}/good", server.address), &[])]}));
    let host = machine.host();
    machine.apply(&spec).await.unwrap();
    assert!(node_agent::engine::plan(&host, &spec).await.unwrap().is_empty());
    let path = machine.path("/usr/local/sbin/kubelet");
    let time = path.metadata().unwrap().modified().unwrap();
    let mut other = PROGRAM.to_vec();
    other[10] ^= 1;
    std::fs::write(&path, other).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    let plan = node_agent::engine::plan(&host, &spec).await.unwrap();
    assert_eq!(plan.changes().count(), 1, "the change time gives it away");
}

#[tokio::test]
async fn what_went_wrong_is_told_in_words() {
    let (machine, server) = (Machine::new(), serve().await);
    let url = |path: &str| format!("{}{path}", server.address);
    let digest = hex::encode(sha2::Sha256::digest(PROGRAM));

    let (reason, message) = fails(&machine, binary(&url("/missing"), &[])).await;
    assert_eq!(reason, "DownloadFailed");
    assert_eq!(message, format!("binary /usr/local/sbin/kubelet: GET {}: 404 Not Found", url("/missing")));
    assert_eq!(server.requests.load(Ordering::SeqCst), 1, "a 404 stays one: it is not tried again");

    let (reason, message) = fails(&machine, binary(&url("/html"), &[])).await;
    assert_eq!(reason, "NotAProgram");
    assert!(
        message.contains(
            "the server sent a web page (text/html, starts with <!DOCTYPE html>) instead of the program"
        ),
        "{message}"
    );

    let (reason, message) = fails(&machine, binary(&url("/wrong"), &[])).await;
    assert_eq!(reason, "DigestMismatch");
    assert!(
        message.contains(&format!("expected sha256:{digest}")) && message.contains("digest is sha256:"),
        "{message}"
    );

    let (reason, message) = fails(&machine, binary(&url("/loop"), &[])).await;
    assert_eq!(reason, "DownloadFailed");
    assert!(message.contains("more than 10 redirects"), "{message}");

    let (reason, message) = fails(&machine, binary("http://127.0.0.1:1/x", &[])).await;
    assert_eq!(reason, "DownloadFailed");
    assert!(message.contains("GET http://127.0.0.1:1/x: Connection refused"), "{message}");

    let (reason, message) = fails(&machine, binary("https://127.0.0.1:1/x", &[])).await;
    assert_eq!(reason, "NoCertificates");
    assert!(message.contains("ca-certificates"), "{message}");
}

#[tokio::test]
async fn a_truncated_body_is_tried_three_times_and_told() {
    let (machine, server) = (Machine::new(), serve_raw(vec![short()]).await);
    let (reason, message) = fails(&machine, binary(&format!("{}/truncated", server.address), &[])).await;
    assert_eq!(reason, "DownloadFailed");
    assert!(message.contains(&format!("ended after 4 of {} bytes", PROGRAM.len())), "{message}");
    assert_eq!(server.requests.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_server_that_recovers_is_tried_again() {
    let program = String::from_utf8_lossy(PROGRAM);
    let whole = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{program}", PROGRAM.len());
    let away = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_owned();
    let (machine, server) = (Machine::new(), serve_raw(vec![away, short(), whole]).await);
    let spec = request(json!({"binaries": [binary(&format!("{}/flaky", server.address), &[])]}));
    machine.apply(&spec).await.unwrap();
    assert_eq!(server.requests.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn mirrors_are_tried_in_order_and_all_are_told() {
    let (machine, server) = (Machine::new(), serve().await);
    let url = |path: &str| format!("{}{path}", server.address);
    let (reason, message) = fails(&machine, binary(&url("/wrong"), &[url("/missing"), url("/html")])).await;
    assert_eq!(reason, "DigestMismatch", "that of the first URL");
    for said in ["/wrong: digest is", "/missing: 404 Not Found", "/html: the server sent a web page"] {
        assert!(message.contains(said), "{message}");
    }
    let spec = request(json!({"binaries": [binary(&url("/missing"), &[url("/good")])]}));
    machine.apply(&spec).await.unwrap();
    assert_eq!(std::fs::read(machine.path("/usr/local/sbin/kubelet")).unwrap(), PROGRAM);
}

#[tokio::test]
async fn an_old_program_stays_until_the_new_one_is_verified() {
    let (machine, server) = (Machine::new(), serve().await);
    machine.write("/usr/local/sbin/kubelet", "the old one");
    fails(&machine, binary(&format!("{}/wrong", server.address), &[])).await;
    assert_eq!(machine.read("/usr/local/sbin/kubelet"), "the old one");
}

#[tokio::test]
async fn one_that_fails_among_several_leaves_none() {
    let (machine, server) = (Machine::new(), serve().await);
    let mut good = binary(&format!("{}/good", server.address), &[]);
    good["path"] = json!("/opt/good");
    let mut missing = binary(&format!("{}/missing", server.address), &[]);
    missing["sha256"] = json!({"amd64": "ab".repeat(32), "arm64": "ab".repeat(32)});
    let spec = request(json!({"binaries": [good, missing]}));
    let before = machine.tree();
    machine.apply(&spec).await.unwrap_err();
    assert_eq!(machine.tree(), before);
}

#[tokio::test]
async fn what_was_fetched_once_is_not_fetched_again_and_kept_while_it_is_asked_for() {
    let whole = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}",
        PROGRAM.len(),
        String::from_utf8_lossy(PROGRAM)
    );
    let (machine, server) = (Machine::new(), serve_raw(vec![whole]).await);
    let one = binary(&format!("{}/once", server.address), &[]);
    let mut two = one.clone();
    two["path"] = json!("/opt/two");
    machine.apply(&request(json!({"binaries": [one]}))).await.unwrap();
    let both = request(json!({"binaries": [one, two]}));
    machine.apply(&both).await.unwrap();
    std::fs::write(machine.path("/opt/two"), "changed in place").unwrap();
    std::fs::remove_file(machine.path("/usr/local/sbin/kubelet")).unwrap();
    machine.apply(&both).await.unwrap();
    for path in ["/opt/two", "/usr/local/sbin/kubelet"] {
        assert_eq!(std::fs::read(machine.path(path)).unwrap(), PROGRAM);
    }
    assert_eq!(server.requests.load(Ordering::SeqCst), 1);

    // What is damaged there is not believed.
    let cached = || std::fs::read_dir(machine.path("/var/lib/nodebootstrap/.cache")).unwrap().next();
    std::fs::write(cached().unwrap().unwrap().path(), "damaged").unwrap();
    std::fs::remove_file(machine.path("/opt/two")).unwrap();
    machine.apply(&both).await.unwrap();
    assert_eq!(std::fs::read(machine.path("/opt/two")).unwrap(), PROGRAM);
    assert_eq!(server.requests.load(Ordering::SeqCst), 2);

    machine.apply(&request(json!({"groups": [{"name": "k"}]}))).await.unwrap();
    assert!(cached().is_none(), "nobody asks for it any more");
}

#[tokio::test]
async fn progress_is_told() {
    struct Told(RefCell<Vec<(u64, Option<u64>)>>);
    impl node_agent::engine::Observer for Told {
        fn downloaded(&self, _path: &str, bytes: u64, total: Option<u64>) {
            self.0.borrow_mut().push((bytes, total));
        }
    }
    let (machine, server) = (Machine::new(), serve().await);
    let spec = request(json!({"binaries": [binary(&format!("{}/good", server.address), &[])]}));
    let (host, told) = (machine.host(), Told(RefCell::default()));
    let plan = node_agent::engine::plan(&host, &spec).await.unwrap();
    node_agent::engine::fetch(&host, &plan, &told, &Default::default()).await.unwrap();
    let total = PROGRAM.len() as u64;
    assert_eq!(told.0.borrow().last(), Some(&(total, Some(total))));
}

#[tokio::test]
async fn what_is_far_too_large_is_not_read() {
    let (machine, server) = (Machine::new(), serve().await);
    let spec = request(json!({"binaries": [binary(&format!("{}/good", server.address), &[])]}));
    machine.apply(&spec).await.unwrap();
    let program = machine.path("/usr/local/sbin/kubelet");
    // Sparse: to read it would take hours.
    std::fs::File::options().write(true).open(&program).unwrap().set_len(8 << 40).unwrap();
    machine.apply(&spec).await.unwrap();
    assert_eq!(std::fs::read(&program).unwrap(), PROGRAM);

    // There before us, it could not be put back, so it is not replaced.
    let machine = Machine::new();
    let program = machine.path("/usr/local/sbin/kubelet");
    std::fs::File::create(&program).unwrap().set_len(8 << 40).unwrap();
    let failure = machine.apply(&spec).await.unwrap_err();
    assert_eq!(failure.reason, "PriorsFull");
    assert_eq!(program.metadata().unwrap().len(), 8 << 40);
}
