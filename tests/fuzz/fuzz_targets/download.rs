//! What a server sends: whatever that is, a download ends, and what is taken has the digest.
//!
//! An input is what each connection gets in turn, with a line of `===` between; those that come later are closed at once.

#![no_main]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::Read;
use std::rc::Rc;
use std::time::Duration;

use crds::Sha256;
use crds::nodebootstrap::Proxy;
use crds::revision::Trust;
use libfuzzer_sys::fuzz_target;
use node_agent::host::Root;
use node_agent::host::cache::Cache;
use node_agent::host::download::{Downloads, Limits};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

const PROGRAM: &[u8] = b"a program";
const SEPARATOR: &[u8] = b"\n===\n";

/// What is made once: a download itself makes little more than its connection.
struct World {
    runtime: Runtime,
    tasks: LocalSet,
    answers: Rc<RefCell<Vec<Vec<u8>>>>,
    downloads: Downloads,
    cache: Cache,
    trust: Trust,
    urls: [String; 2],
    _directory: TempDir,
}

thread_local! {
    static WORLD: World = World::new();
}

fuzz_target!(|data: &[u8]| WORLD.with(|world| world.download(data)));

impl World {
    fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(directory.path().join("var/lib")).expect("a directory");
        let root = Root::open(&directory.path().to_string_lossy()).expect("a root");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let answers: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
        let tasks = LocalSet::new();
        let next = Rc::clone(&answers);
        tasks.spawn_local(async move {
            loop {
                let Ok((mut stream, _)) = listener.accept().await else { continue };
                let answer = next.borrow_mut().pop().unwrap_or_default();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n")
                    && stream.read_buf(&mut request).await.is_ok_and(|n| n > 0)
                {}
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
            }
        });
        let mut downloads = Downloads::of(&root);
        downloads.limits = Limits {
            silence: Duration::from_millis(200),
            pause: Duration::ZERO,
            largest: 4096,
            ..Limits::default()
        };
        let url = |path: &str| format!("http://127.0.0.1:{port}/{path}");
        // Wherever a redirect leads, it leads here.
        let proxy = Some(url("").parse().expect("a URL"));
        let proxy = Proxy { http: proxy.clone(), https: proxy, no_proxy: Vec::new(), units: Vec::new() };
        Self {
            runtime,
            tasks,
            answers,
            downloads,
            cache: Cache::of(&root),
            trust: Trust { proxy: Some(proxy), ..Trust::default() },
            urls: ["program", "mirror"].map(url),
            _directory: directory,
        }
    }

    fn download(&self, data: &[u8]) {
        *self.answers.borrow_mut() = answers(data);
        let digest = Sha256::of(PROGRAM);
        let fetch = self.downloads.fetch(&self.cache, &self.urls, digest, &self.trust, &|_, _| {});
        let outcome = self.runtime.block_on(self.tasks.run_until(fetch));
        match outcome {
            Ok(()) => {
                let mut content = Vec::new();
                self.cache.open(digest).expect("a file").read_to_end(&mut content).expect("content");
                assert_eq!(content, PROGRAM);
            }
            Err(error) => {
                assert!(!error.reason.is_empty() && !error.message.is_empty());
                assert!(!self.cache.has(digest).expect("a look"));
            }
        }
        self.cache.prune(&BTreeSet::new()).expect("all goes");
    }
}

/// The last first.
fn answers(data: &[u8]) -> Vec<Vec<u8>> {
    let mut answers = Vec::new();
    let mut rest = data;
    while let Some(at) = rest.windows(SEPARATOR.len()).position(|window| window == SEPARATOR) {
        answers.push(rest[..at].to_vec());
        rest = &rest[at + SEPARATOR.len()..];
    }
    answers.push(rest.to_vec());
    answers.reverse();
    answers
}
