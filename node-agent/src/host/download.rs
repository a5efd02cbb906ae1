//! Fetches programs into the cache: streamed to a file, hashed on the way, and only kept when the digest is the
//! expected one.
//!
//! In: URLs in the order in which they are tried, and the digest. Out: the [`Cache`] has a file that holds exactly that,
//! or what each URL said, in words. What failed leaves nothing behind.

use std::error::Error;
use std::fmt::Write;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use crds::Sha256;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use sha2::Digest;
use tokio::sync::Mutex;

use super::cache::{Cache, Entry, Part};
use super::{HostError, Root};

const CONNECT: Duration = Duration::from_secs(10);
/// How long a server may send nothing.
const NO_PROGRESS: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 10;
/// Three tries for each URL.
const RETRIES: usize = 2;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// No program is larger; a body without end shall not fill the disk.
pub const MAX_BYTES: u64 = 4 << 30;
/// How much of a body is kept to see what it is.
const HEAD: usize = 512;
const MAX_BUNDLE: u64 = 16 << 20;

/// Where hosts have the certificates that they trust.
const BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why a download failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownloadError {
    /// The cause in one word, for Reports.
    pub reason: &'static str,
    /// In words, with each URL.
    pub message: String,
}

/// Why one try failed.
#[derive(Debug)]
struct TryError {
    reason: &'static str,
    message: String,
    /// Whether the same may work a moment later.
    passing: bool,
}

impl TryError {
    fn lasting(reason: &'static str, message: String) -> Self {
        Self { reason, message, passing: false }
    }

    fn passing(message: String) -> Self {
        Self { reason: "DownloadFailed", message, passing: true }
    }
}

impl From<HostError> for TryError {
    fn from(error: HostError) -> Self {
        Self::lasting(error.reason(), error.to_string())
    }
}

/// Fetches over HTTP.
#[derive(Debug)]
pub struct Downloads {
    root: Root,
    // Made with the first download: reading the host's certificates takes a moment and some memory.
    client: Mutex<Option<Client>>,
}

#[derive(Debug, Clone)]
struct Client {
    http: reqwest::Client,
    bundle: Option<&'static str>,
}

/// Is told how far a download is: bytes so far, and in all if the server says so.
pub type Progress<'a> = dyn Fn(u64, Option<u64>) + 'a;

impl Downloads {
    /// Downloads for this host, which trust what the host trusts.
    pub fn of(root: &Root) -> Self {
        Self { root: root.clone(), client: Mutex::new(None) }
    }

    /// Forgets the connections and certificates; the next download makes them anew, so that new ones are seen.
    pub async fn rest(&self) {
        *self.client.lock().await = None;
    }

    /// Fetches from the first URL that has the digest, unless the cache has it.
    ///
    /// # Errors
    /// With what every URL said.
    pub async fn fetch(
        &self,
        cache: &Cache,
        urls: &[String],
        digest: Sha256,
        progress: &Progress<'_>,
    ) -> Result<(), DownloadError> {
        let refused = |error: HostError| DownloadError { reason: error.reason(), message: error.to_string() };
        let part = match cache.begin(digest, &|| progress(0, None)).await.map_err(refused)? {
            Entry::Whole => return Ok(()),
            Entry::Part(part) => part,
        };
        let client = self.client().await.map_err(refused)?;
        let part = Mutex::new(part);
        let mut failures: Vec<TryError> = Vec::new();
        for url in urls {
            let pauses = ExponentialBuilder::default()
                .with_min_delay(FIRST_PAUSE)
                .with_max_times(RETRIES)
                .with_jitter();
            let tried = (|| async {
                let mut part = part.lock().await;
                attempt(&client, url, digest, &mut part, progress).await
            })
            .retry(pauses)
            .when(|error: &TryError| error.passing)
            .await;
            match tried {
                Ok(()) => return part.into_inner().finish(cache, digest).map_err(refused),
                Err(error) => failures.push(error),
            }
        }
        let message = failures.iter().map(|error| error.message.as_str()).collect::<Vec<_>>().join("; ");
        // The first URL is the one that was meant; mirrors are for when it is away.
        let reason = failures.first().map_or("DownloadFailed", |error| error.reason);
        Err(DownloadError { reason, message })
    }

    async fn client(&self) -> Result<Client, HostError> {
        let mut kept = self.client.lock().await;
        if let Some(client) = &*kept {
            return Ok(client.clone());
        }
        let mut certificates = Vec::new();
        let mut bundle = None;
        for path in BUNDLES {
            let Some(pem) = self.root.read(path, MAX_BUNDLE)? else { continue };
            certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|error| HostError::State { path: (*path).to_owned(), cause: error.to_string() })?;
            bundle = Some(*path);
            break;
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("nodebootstrap-agent/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(NO_PROGRESS)
            .redirect(reqwest::redirect::Policy::limited(MAX_REDIRECTS))
            .tls_certs_only(certificates)
            .build()
            .map_err(|error| HostError::Unsupported(format!("downloads: {}", chain(&error))))?;
        let client = Client { http, bundle };
        *kept = Some(client.clone());
        Ok(client)
    }
}

/// One try of one URL.
async fn attempt(
    client: &Client,
    url: &str,
    digest: Sha256,
    part: &mut Part,
    progress: &Progress<'_>,
) -> Result<(), TryError> {
    if url.starts_with("https://") && client.bundle.is_none() {
        return Err(TryError::lasting(
            "NoCertificates",
            format!(
                "GET {url}: the host has no file of trusted certificates ({}): install ca-certificates, or use an http:// mirror, the digest protects it too",
                BUNDLES[0]
            ),
        ));
    }
    part.restart()?;
    let mut response = client.http.get(url).send().await.map_err(|error| not_sent(url, &error))?;
    let status = response.status();
    if !status.is_success() {
        let message = format!("GET {}: {status}", place_of(url, &response));
        let passing = status.is_server_error() || status.as_u16() == 429;
        return Err(TryError { reason: "DownloadFailed", message, passing });
    }
    let total = response.content_length();
    if let Some(total) = total {
        if total > MAX_BYTES {
            return Err(too_large(url));
        }
        part.reserve(total)?;
    }
    let mut hasher = sha2::Sha256::new();
    let mut head: Vec<u8> = Vec::with_capacity(HEAD);
    let mut got = 0_u64;
    progress(0, total);
    loop {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(error) if error.is_timeout() => {
                return Err(TryError::passing(format!(
                    "GET {url}: nothing came for {} s, after {}",
                    NO_PROGRESS.as_secs(),
                    of(got, total)
                )));
            }
            Err(error) => {
                return Err(TryError::passing(format!(
                    "GET {url}: ended after {} ({})",
                    of(got, total),
                    chain(&error)
                )));
            }
        };
        hasher.update(&chunk);
        head.extend_from_slice(&chunk[..chunk.len().min(HEAD - head.len())]);
        part.append(&chunk)?;
        got += chunk.len() as u64;
        if got > MAX_BYTES {
            return Err(too_large(url));
        }
        progress(got, total);
    }
    if total.is_some_and(|total| got < total) {
        return Err(TryError::passing(format!("GET {url}: ended after {}", of(got, total))));
    }
    let found = Sha256::from_bytes(hasher.finalize().into());
    if found == digest {
        return Ok(());
    }
    let from = place_of(url, &response);
    if let Some(page) = web_page(response.headers(), &head) {
        return Err(TryError::lasting(
            "NotAProgram",
            format!(
                "GET {from}: the server sent a web page ({page}) instead of the program: a proxy or login page in between?"
            ),
        ));
    }
    Err(TryError::lasting(
        "DigestMismatch",
        format!(
            "GET {from}: digest is sha256:{found}, expected sha256:{digest}: check the digest in the spec, or the server"
        ),
    ))
}

fn too_large(url: &str) -> TryError {
    TryError::lasting(
        "TooLarge",
        format!("GET {url}: more than {} GiB: is it the right file?", MAX_BYTES >> 30),
    )
}

fn not_sent(url: &str, error: &reqwest::Error) -> TryError {
    if error.is_redirect() {
        return TryError::lasting(
            "DownloadFailed",
            format!("GET {url}: more than {MAX_REDIRECTS} redirects"),
        );
    }
    if error.is_timeout() {
        let cause = if error.is_connect() {
            format!("no connection within {} s", CONNECT.as_secs())
        } else {
            format!("no answer within {} s", NO_PROGRESS.as_secs())
        };
        return TryError::passing(format!("GET {url}: {cause}"));
    }
    TryError::passing(format!("GET {url}: {}", chain(error)))
}

/// The URL, and the server that a redirect led to. Not the whole of where it led: that may hold a signature.
fn place_of(url: &str, response: &reqwest::Response) -> String {
    let host = |url: &reqwest::Url| url.host_str().map(str::to_owned);
    let led = host(response.url());
    match reqwest::Url::parse(url) {
        Ok(asked) if host(&asked) != led => {
            format!("{url} (redirected to {})", led.unwrap_or_default())
        }
        _ => url.to_owned(),
    }
}

fn of(got: u64, total: Option<u64>) -> String {
    match total {
        Some(total) => format!("{got} of {total} bytes"),
        None => format!("{got} bytes"),
    }
}

/// What shows that a body is a web page, in words.
fn web_page(headers: &HeaderMap, head: &[u8]) -> Option<String> {
    let media = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let start: String = String::from_utf8_lossy(head).trim_start().chars().take(40).collect();
    let lower = start.to_ascii_lowercase();
    let looks = lower.starts_with("<!doctype html") || lower.starts_with("<html");
    if !looks && !media.starts_with("text/html") {
        return None;
    }
    let line = start.lines().next().unwrap_or_default().trim_end();
    let mut shown = String::new();
    if !media.is_empty() {
        let _ = write!(shown, "{media}, ");
    }
    let _ = write!(shown, "starts with {line}");
    Some(shown)
}

/// An error with all its causes. The URL is left out: it is told beside.
fn chain(error: &reqwest::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !text.is_empty() && parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
        cause = error.source();
    }
    // The innermost says what happened; the layers above only that something did.
    parts.pop().unwrap_or_else(|| error.to_string())
}
