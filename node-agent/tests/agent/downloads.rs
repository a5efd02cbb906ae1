//! Downloads, from servers with a choice of mischief.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::Redirect;
use axum::routing::get;
use futures::StreamExt;
use node_agent::host::Host;
use node_agent::host::download::Limits;
use serde_json::{Value, json};
use sha2::Digest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Machine, request};

const PROGRAM: &[u8] = b"\x7fELF not really, but long enough to come in more than one piece";
const CACHE: &str = "/var/lib/nodebootstrap/.cache";

#[derive(Debug)]
struct Server {
    address: String,
    /// What it was asked.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn requests(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// What of the file each request asked for.
    fn ranges(&self) -> Vec<Option<String>> {
        let range = |line: &str| line.to_ascii_lowercase().strip_prefix("range: ").map(str::to_owned);
        self.requests().iter().map(|request| request.lines().find_map(range)).collect()
    }
}

/// Says the same thing every 20 ms for ever.
fn for_ever(piece: &'static [u8]) -> Body {
    let pieces = futures::stream::repeat(piece).then(async |piece| {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok::<_, Infallible>(Bytes::from_static(piece))
    });
    Body::from_stream(pieces)
}

async fn serve() -> Server {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    let router = Router::new()
        .route("/good", get(|| async { PROGRAM }))
        .route("/good-amd64", get(|| async { PROGRAM }))
        .route("/good-arm64", get(|| async { PROGRAM }))
        .route("/redirect", get(|| async { Redirect::temporary("/good") }))
        .route("/loop", get(|| async { Redirect::temporary("/loop") }))
        .route("/wrong", get(|| async { "something else" }))
        .route("/trickle", get(|| async { for_ever(b"x") }))
        .route("/endless", get(|| async { for_ever(&[b'x'; 64 << 10]) }))
        .route(
            "/silent",
            get(|| async {
                Body::from_stream(for_ever(b"x").into_data_stream().take(1).chain(futures::stream::pending()))
            }),
        )
        .route(
            "/html",
            get(|| async { ([(header::CONTENT_TYPE, "text/html")], "<!DOCTYPE html>\n<p>Log in") }),
        )
        .route(
            "/missing",
            get(move || async move {
                noted.lock().unwrap().push("/missing".to_owned());
                StatusCode::NOT_FOUND
            }),
        );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    Server { address, asked }
}

/// A server below HTTP that answers requests with these texts in turn, the last for ever, and hangs up.
async fn serve_raw(answers: Vec<String>) -> Server {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            let count = {
                let mut noted = noted.lock().unwrap();
                noted.push(String::from_utf8_lossy(&request[..length]).into_owned());
                noted.len()
            };
            // Whoever has heard enough may have gone.
            let _ = stream.write_all(answers[count.min(answers.len()) - 1].as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    Server { address, asked }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Promises more than it sends, which is so many bytes.
fn short(bytes: usize) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{}",
        PROGRAM.len(),
        text(&PROGRAM[..bytes])
    )
}

fn whole() -> String {
    short(PROGRAM.len())
}

/// The rest from a byte on, which is said to begin at another.
fn rest(from: usize, said: usize) -> String {
    let (total, body) = (PROGRAM.len(), text(&PROGRAM[from..]));
    format!(
        "HTTP/1.1 206 Partial Content\r\nconnection: close\r\ncontent-range: bytes {said}-{}/{total}\r\ncontent-length: {}\r\n\r\n{body}",
        total - 1,
        body.len(),
    )
}

fn digest() -> String {
    hex::encode(sha2::Sha256::digest(PROGRAM))
}

fn binary(url: &str, mirrors: &[String]) -> Value {
    let digest = digest();
    json!({"path": "/usr/local/sbin/kubelet", "url": url, "mirrors": mirrors, "sha256": {"amd64": digest, "arm64": digest}})
}

/// What is in the cache: names and sizes.
fn cached(machine: &Machine) -> Vec<(String, u64)> {
    let entries = std::fs::read_dir(machine.path(CACHE)).unwrap().map(Result::unwrap);
    entries.map(|one| (one.file_name().into_string().unwrap(), one.metadata().unwrap().len())).collect()
}

/// What a killed run leaves.
fn leave_part(machine: &Machine, content: &[u8]) {
    machine.directory(CACHE);
    std::fs::write(machine.path(&format!("{CACHE}/{}.part", digest())), content).unwrap();
}

fn installed(machine: &Machine) -> Vec<u8> {
    std::fs::read(machine.path("/usr/local/sbin/kubelet")).unwrap()
}

/// A host that soon loses its patience.
fn impatient(machine: &Machine) -> Host {
    let mut host = machine.host();
    host.downloads.limits = Limits {
        silence: Duration::from_secs(1),
        window: Duration::from_millis(200),
        slowest: 1000,
        largest: 300_000,
        pause: Duration::from_millis(1),
    };
    host
}

/// Fails, and changes nothing on the machine.
async fn fails_on(machine: &Machine, host: &Host, spec: Value) -> (String, String) {
    let before = machine.tree();
    let failure = machine.apply_on(host, &request(spec)).await.unwrap_err();
    assert_eq!(machine.tree(), before, "nothing is half done, and files wait for the downloads");
    assert_eq!(machine.leftovers(), Vec::<String>::new());
    (failure.reason, failure.message)
}

/// As that, and leaves nothing to go on with.
async fn fails(machine: &Machine, binary: Value) -> (String, String) {
    let spec = json!({"binaries": [binary], "files": [{"path": "/etc/f", "content": ""}]});
    let failed = fails_on(machine, &machine.host(), spec).await;
    assert_eq!(cached(machine), []);
    failed
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
    let digest = digest();

    let (reason, message) = fails(&machine, binary(&url("/missing"), &[])).await;
    assert_eq!(reason, "DownloadFailed");
    assert_eq!(message, format!("binary /usr/local/sbin/kubelet: GET {}: 404 Not Found", url("/missing")));
    assert_eq!(server.requests(), ["/missing"], "a 404 stays one: it is not tried again");

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
async fn a_truncated_body_is_tried_three_times_and_told_and_what_came_of_it_is_kept() {
    let (machine, server) = (Machine::new(), serve_raw(vec![short(4)]).await);
    let spec = json!({"binaries": [binary(&format!("{}/truncated", server.address), &[])]});
    let (reason, message) = fails_on(&machine, &impatient(&machine), spec).await;
    assert_eq!(reason, "DownloadFailed");
    assert!(message.contains(&format!("ended after 4 of {} bytes", PROGRAM.len())), "{message}");
    assert_eq!(server.ranges(), [None, Some("bytes=4-".to_owned()), Some("bytes=4-".to_owned())]);
    assert_eq!(cached(&machine), [(format!("{}.part", digest()), 4)]);
}

#[tokio::test]
async fn a_server_that_recovers_is_tried_again() {
    let away =
        "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_owned();
    let (machine, server) = (Machine::new(), serve_raw(vec![away, short(4), whole()]).await);
    let spec = request(json!({"binaries": [binary(&format!("{}/flaky", server.address), &[])]}));
    machine.apply(&spec).await.unwrap();
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn what_broke_off_is_gone_on_with() {
    let (machine, server) = (Machine::new(), serve_raw(vec![short(20), rest(20, 20)]).await);
    let spec = request(json!({"binaries": [binary(&format!("{}/x", server.address), &[])]}));
    machine.apply_on(&impatient(&machine), &spec).await.unwrap();
    assert_eq!(server.ranges(), [None, Some("bytes=20-".to_owned())]);
    assert_eq!(installed(&machine), PROGRAM);
}

#[tokio::test]
async fn what_a_killed_run_left_is_gone_on_with_also_by_a_mirror() {
    let (machine, server) = (Machine::new(), serve_raw(vec![rest(30, 30)]).await);
    leave_part(&machine, &PROGRAM[..30]);
    let mirrors = [format!("{}/x", server.address)];
    let spec =
        request(json!({"binaries": [binary(&format!("{}/missing", serve().await.address), &mirrors)]}));
    machine.apply(&spec).await.unwrap();
    assert_eq!(server.ranges(), [Some("bytes=30-".to_owned())]);
    assert_eq!(installed(&machine), PROGRAM);
}

#[tokio::test]
async fn what_was_whole_when_the_run_was_killed_is_not_asked_for_again() {
    let machine = Machine::new();
    leave_part(&machine, PROGRAM);
    let spec = request(json!({"binaries": [binary("http://127.0.0.1:1/x", &[])]}));
    machine.apply(&spec).await.unwrap();
    assert_eq!(installed(&machine), PROGRAM);
    assert_eq!(cached(&machine), [(digest(), PROGRAM.len() as u64)]);
}

#[tokio::test]
async fn what_cannot_be_gone_on_with_is_fetched_from_the_start_at_once() {
    let not_so_far =
        "HTTP/1.1 416 Range Not Satisfiable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_owned();
    let other = b"quite another file".as_slice();
    for (what, part, answers) in [
        ("a server without ranges", &PROGRAM[..20], vec![whole()]),
        ("more than there is", &[0; 1000], vec![not_so_far, whole()]),
        ("another range than was asked for", &PROGRAM[..20], vec![rest(10, 10), whole()]),
        ("the start of another file", other, vec![rest(other.len(), other.len()), whole()]),
    ] {
        let count = answers.len();
        let (machine, server) = (Machine::new(), serve_raw(answers).await);
        leave_part(&machine, part);
        let spec = request(json!({"binaries": [binary(&format!("{}/x", server.address), &[])]}));
        machine.apply(&spec).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert_eq!(installed(&machine), PROGRAM, "{what}");
        assert_eq!(server.requests().len(), count, "{what}: no pause, and no mirror needed");
        assert_eq!(server.ranges()[0], Some(format!("bytes={}-", part.len())), "{what}");
    }
}

#[tokio::test]
async fn a_server_is_blamed_only_for_what_it_sent_itself() {
    // What it adds to a part of another file says nothing; the whole that it sends then is wrong too.
    let wrong = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nwrong".to_owned();
    let (machine, server) = (Machine::new(), serve_raw(vec![rest(20, 20), wrong]).await);
    leave_part(&machine, &[b'x'; 20]);
    let (reason, message) = fails(&machine, binary(&format!("{}/x", server.address), &[])).await;
    assert_eq!(reason, "DigestMismatch");
    assert!(message.contains(&hex::encode(sha2::Sha256::digest("wrong"))), "{message}");
    assert_eq!(server.ranges(), [Some("bytes=20-".to_owned()), None]);
}

#[tokio::test]
async fn a_server_that_breaks_off_again_and_again_is_asked_as_long_as_it_gets_on() {
    const MEGABYTE: usize = 1 << 20;
    let program = "x".repeat(5 * MEGABYTE);
    let mut answers = vec![format!(
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{}",
        program.len(),
        &program[..MEGABYTE]
    )];
    answers.extend((1..5).map(|part| {
        let from = part * MEGABYTE;
        let (last, rest) = (program.len() - 1, program.len() - from);
        let piece = &program[from..from + MEGABYTE];
        let range = format!("bytes {from}-{last}/{}", program.len());
        format!(
            "HTTP/1.1 206 Partial Content\r\nconnection: close\r\ncontent-range: {range}\r\ncontent-length: {rest}\r\n\r\n{piece}"
        )
    }));
    let (machine, server) = (Machine::new(), serve_raw(answers).await);
    let digest = hex::encode(sha2::Sha256::digest(&program));
    let mut binary = binary(&format!("{}/x", server.address), &[]);
    binary["sha256"] = json!({"amd64": digest, "arm64": digest});
    let mut host = machine.host();
    host.downloads.limits.pause = Duration::from_millis(1);
    machine.apply_on(&host, &request(json!({"binaries": [binary]}))).await.unwrap();
    assert_eq!(server.requests().len(), 5);
}

#[tokio::test]
async fn what_is_left_of_a_download_goes_when_nothing_names_it_any_more() {
    let machine = Machine::new();
    leave_part(&machine, &PROGRAM[..20]);
    let with = json!({"groups": [{"name": "k"}], "binaries": [binary("http://127.0.0.1:1/x", &[])]});
    machine.apply(&request(with)).await.unwrap_err();
    assert_eq!(cached(&machine).len(), 1, "it is still asked for");
    // One revision with something to change, and one without.
    for _ in 0..2 {
        machine.apply(&request(json!({"groups": [{"name": "k"}]}))).await.unwrap();
        assert_eq!(cached(&machine), []);
        leave_part(&machine, &PROGRAM[..20]);
    }
}

#[tokio::test]
async fn a_server_that_trickles_is_given_up_for_the_next() {
    let (machine, server) = (Machine::new(), serve().await);
    let url = |path: &str| format!("{}{path}", server.address);
    let host = impatient(&machine);
    let spec = json!({"binaries": [binary(&url("/trickle"), &[])]});
    let (reason, message) = fails_on(&machine, &host, spec).await;
    assert_eq!(reason, "TooSlow");
    assert!(message.contains("bytes a second over 0.2 s, at least 1000 are needed, after "), "{message}");
    let spec = request(json!({"binaries": [binary(&url("/trickle"), &[url("/good")])]}));
    machine.apply_on(&host, &spec).await.unwrap();
    assert_eq!(installed(&machine), PROGRAM);
}

#[tokio::test]
async fn a_server_that_falls_silent_is_told() {
    let (machine, server) = (Machine::new(), serve().await);
    let spec = json!({"binaries": [binary(&format!("{}/silent", server.address), &[])]});
    let (reason, message) = fails_on(&machine, &impatient(&machine), spec).await;
    assert_eq!(reason, "DownloadFailed");
    assert!(message.contains("nothing came for 1 s, after 1 bytes"), "{message}");
}

#[tokio::test]
async fn a_body_without_end_or_too_large_is_given_up_and_nothing_of_it_kept() {
    let (machine, server) = (Machine::new(), serve().await);
    let large =
        serve_raw(vec!["HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 300001\r\n\r\n".to_owned()])
            .await;
    for address in [format!("{}/endless", server.address), large.address] {
        let spec = json!({"binaries": [binary(&address, &[])]});
        let (reason, message) = fails_on(&machine, &impatient(&machine), spec).await;
        assert_eq!(reason, "TooLarge");
        assert!(message.contains("more than 300000 bytes"), "{message}");
        assert_eq!(cached(&machine), []);
    }
}

#[tokio::test]
async fn without_room_on_the_disk_no_other_server_is_asked_and_what_was_there_makes_room() {
    let huge = 1_u64 << 60;
    let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {huge}\r\n\r\n");
    let (machine, server) = (Machine::new(), serve_raw(vec![answer]).await);
    leave_part(&machine, &PROGRAM[..20]);
    let mut host = machine.host();
    host.downloads.limits.largest = u64::MAX;
    let url = format!("{}/x", server.address);
    let spec = json!({"binaries": [binary(&url, &[url.clone(), url.clone()])]});
    let (_, message) = fails_on(&machine, &host, spec).await;
    assert!(message.contains("make room"), "{message}");
    assert_eq!(server.requests().len(), 1);
    assert_eq!(cached(&machine), []);
}

#[tokio::test]
async fn a_file_that_is_on_the_host_is_taken_and_verified_as_any_other() {
    let (machine, server) = (Machine::new(), serve().await);
    std::fs::write(machine.path("/opt/program-amd64"), PROGRAM).unwrap();
    std::fs::write(machine.path("/opt/program-arm64"), PROGRAM).unwrap();
    let spec = request(json!({"binaries": [binary("file:///opt/program-{arch}", &[])]}));
    machine.apply(&spec).await.unwrap();
    assert_eq!(installed(&machine), PROGRAM);
    assert_eq!(machine.access("/usr/local/sbin/kubelet"), (0, 0, 0o755));
    assert_eq!(cached(&machine), [(digest(), PROGRAM.len() as u64)], "it may go now");

    // As a mirror, after what broke off; also by way of a link that is root's.
    let machine = Machine::new();
    machine.link("/opt/program", "program-1.36");
    std::fs::write(machine.path("/opt/program-1.36"), PROGRAM).unwrap();
    leave_part(&machine, &PROGRAM[..20]);
    let missing = format!("{}/missing", server.address);
    let spec = request(json!({"binaries": [binary(&missing, &["file:///opt/program".to_owned()])]}));
    machine.apply(&spec).await.unwrap();
    assert_eq!(installed(&machine), PROGRAM);
}

#[tokio::test]
async fn a_file_that_cannot_be_taken_is_told_and_not_what_is_in_it() {
    let machine = Machine::new();
    machine.write("/opt/other", "not the program");
    machine.directory("/opt/users");
    machine.set("/opt/users", 1000, 1000, 0o755);
    machine.link("/opt/users/link", "../other");
    for (path, reason, says) in [
        (
            "/opt/missing",
            "DownloadFailed",
            "there is no such file on this node: put it there, or name a mirror",
        ),
        ("/opt/missing/too", "DownloadFailed", "there is no such file"),
        ("/opt", "DownloadFailed", "it is a directory, not a file"),
        ("/opt/other", "DigestMismatch", "compare with sha256sum /opt/other on the node"),
        ("/opt/users/link", "UnsafeLink", "/opt/users/link is a symbolic link in a directory that"),
    ] {
        let (found, message) = fails(&machine, binary(&format!("file://{path}"), &[])).await;
        assert_eq!(found, reason, "{message}");
        assert!(message.contains(&format!("file://{path}: ")) && message.contains(says), "{message}");
        let secret = hex::encode(sha2::Sha256::digest("not the program"));
        assert!(!message.contains(&secret), "{message}");
    }
}

fn with_trust(url: &str, trust: Value) -> Value {
    json!({"binaries": [binary(url, &[])], "trust": trust})
}

#[tokio::test]
async fn a_proxy_is_asked_but_for_what_no_proxy_names() {
    let proxy = serve_raw(vec![whole()]).await;
    let direct = serve().await;
    let by_proxy = |url: &str, no_proxy: &[&str]| {
        request(with_trust(url, json!({"proxy": {"http": proxy.address, "noProxy": no_proxy}})))
    };
    let machine = Machine::new();
    machine.apply(&by_proxy("http://files.example.invalid/x", &[])).await.unwrap();
    assert!(proxy.requests()[0].starts_with("GET http://files.example.invalid/x HTTP/1.1"), "{proxy:?}");
    for no_proxy in ["127.0.0.1", "127.0.0.0/8"] {
        let machine = Machine::new();
        machine.apply(&by_proxy(&format!("{}/good", direct.address), &[no_proxy])).await.unwrap();
    }
    assert_eq!(proxy.requests().len(), 1, "the others went directly");
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named() {
    let forbids = serve_raw(vec![
        "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_owned(),
    ])
    .await;
    let machine = Machine::new();
    let authority = authority("files.example.invalid");
    let trust =
        json!({"proxy": {"https": forbids.address}, "caBundles": [{"name": "c", "pem": authority.pem}]});
    let spec = with_trust("https://files.example.invalid/x", trust);
    let (reason, message) = fails_on(&machine, &impatient(&machine), spec).await;
    assert_eq!(reason, "DownloadFailed");
    assert!(message.contains(&format!("trust.proxy is {}", forbids.address)), "{message}");
    assert!(forbids.requests()[0].starts_with("CONNECT files.example.invalid:443 HTTP/1.1"), "{forbids:?}");
}

/// Who has signed itself a server's certificate.
struct Authority {
    pem: String,
    key: rcgen::KeyPair,
    certificate: rcgen::Certificate,
}

fn authority(name: &str) -> Authority {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    Authority { pem: cert.pem(), key: signing_key, certificate: cert }
}

/// A server with TLS, on localhost.
fn serve_tls(authority: &Authority) -> String {
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(authority.key.serialize_der());
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![authority.certificate.der().clone()], key.into())
        .unwrap();
    let config = Arc::new(config);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let session = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = rustls::StreamOwned::new(session, stream.unwrap());
            // A client that trusts nobody hangs up.
            if stream.read(&mut [0; 1024]).is_ok_and(|read| read > 0) {
                stream.write_all(whole().as_bytes()).unwrap();
                stream.conn.send_close_notify();
                stream.flush().unwrap();
            }
        }
    });
    address
}

#[tokio::test]
async fn a_ca_bundle_is_trusted_and_nobody_else() {
    let machine = Machine::new();
    let (ours, other) = (authority("localhost"), authority("localhost"));
    let url = format!("{}/x", serve_tls(&ours));
    let bundle = |pem: &str| with_trust(&url, json!({"caBundles": [{"name": "corporate", "pem": pem}]}));
    let host = impatient(&machine);

    let (_, message) = fails_on(&machine, &host, bundle(&other.pem)).await;
    assert!(message.to_lowercase().contains("certificate"), "{message}");
    for (pem, says) in [
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate 1 is none: "),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n", "certificate 1 is no whole block of PEM"),
        ("# -----BEGIN CERTIFICATE-----", "no certificate is in it"),
    ] {
        let (reason, message) = fails_on(&machine, &host, bundle(pem)).await;
        assert_eq!(reason, "BadCertificates");
        assert!(message.contains("the CA bundle corporate") && message.contains(says), "{message}");
    }
    machine.apply_on(&host, &request(bundle(&format!("{}{}", other.pem, ours.pem)))).await.unwrap();
    assert_eq!(installed(&machine), PROGRAM);
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
    let (machine, server) = (Machine::new(), serve_raw(vec![whole()]).await);
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
    assert_eq!(server.requests().len(), 1);

    // What is damaged there is not believed.
    let cached = || std::fs::read_dir(machine.path("/var/lib/nodebootstrap/.cache")).unwrap().next();
    std::fs::write(cached().unwrap().unwrap().path(), "damaged").unwrap();
    std::fs::remove_file(machine.path("/opt/two")).unwrap();
    machine.apply(&both).await.unwrap();
    assert_eq!(std::fs::read(machine.path("/opt/two")).unwrap(), PROGRAM);
    assert_eq!(server.requests().len(), 2);

    machine.apply(&request(json!({"groups": [{"name": "k"}]}))).await.unwrap();
    assert!(cached().is_none(), "nobody asks for it any more");
}

#[tokio::test]
async fn progress_is_told() {
    struct Told(RefCell<Vec<(u64, Option<u64>)>>);
    impl node_agent::engine::Observer for Told {
        fn downloaded(&self, _change: &node_agent::engine::Change, bytes: u64, total: Option<u64>) {
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
