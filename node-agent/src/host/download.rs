//! Fetches programs into the cache: streamed to a file, hashed on the way, and only kept when the digest is the
//! expected one.
//!
//! In: URLs in the order in which they are tried, the digest, and how servers are reached. Out: the [`Cache`] has a file
//! that holds exactly that, or what each URL said, in words. What broke off is gone on with by the next try, be it of
//! another URL or of another process; what turned out to be wrong is thrown away, and so is everything when the disk is
//! full.

use std::error::Error;
use std::fmt::Write;
use std::io::Read;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use crds::nodebootstrap::Proxy;
use crds::revision::Trust;
use crds::{Sha256, Url};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, RANGE};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::Mutex;

use super::cache::{Cache, Entry, Part};
use super::root::{Kind, errno_of};
use super::{HostError, Root};

const CONNECT: Duration = Duration::from_secs(10);
const MAX_REDIRECTS: usize = 10;
/// Three tries for each URL, in a row that brought nothing worth mentioning.
const RETRIES: usize = 2;
/// A try that brought so much is worth another, however many there were.
const WORTH: u64 = 1 << 20;
/// No program is larger; a body without end shall not fill the disk.
pub const MAX_BYTES: u64 = 4 << 30;
/// How much of a body is looked at to see what it is.
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

/// What a server may do before it is given up.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long it may send nothing. Default: 30 s.
    pub silence: Duration,
    /// Over how long its pace is measured. Default: 60 s.
    pub window: Duration,
    /// The pace below which it is given up, in bytes a second. Default: 4096, so that what takes a day ends.
    pub slowest: u64,
    /// The largest file, in bytes. Default: [`MAX_BYTES`].
    pub largest: u64,
    /// The first pause before it is tried again; the next ones grow, and each is drawn from between itself and its
    /// double. Default: 500 ms.
    pub pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(30),
            window: Duration::from_secs(60),
            slowest: 4 << 10,
            largest: MAX_BYTES,
            pause: Duration::from_millis(500),
        }
    }
}

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
    again: Again,
}

/// What may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    /// The same a moment later.
    Later,
    /// The same from the start: what was gone on with may be of another file.
    Anew,
    /// Another URL.
    Elsewhere,
    /// Nothing: it is the host that is at fault.
    Nowhere,
}

impl TryError {
    fn lasting(reason: &'static str, message: String) -> Self {
        Self { reason, message, again: Again::Elsewhere }
    }

    fn passing(message: String) -> Self {
        Self { reason: "DownloadFailed", message, again: Again::Later }
    }
}

impl From<HostError> for TryError {
    fn from(error: HostError) -> Self {
        Self { reason: error.reason(), message: error.to_string(), again: Again::Nowhere }
    }
}

/// Fetches over HTTP, and from the host's own files.
#[derive(Debug)]
pub struct Downloads {
    /// What servers may do.
    pub limits: Limits,
    root: Root,
    // Made with the first download: reading the host's certificates takes a moment and some memory.
    client: Mutex<Option<Client>>,
}

#[derive(Debug, Clone)]
struct Client {
    http: reqwest::Client,
    trust: Trust,
    has_certificates: bool,
}

/// Is told how far a download is: bytes so far, and in all if the server says so.
pub type Progress<'a> = dyn Fn(u64, Option<u64>) + 'a;

/// One download: what is wanted, and what there is of it.
struct Download<'a> {
    digest: Sha256,
    trust: &'a Trust,
    part: Part,
    progress: &'a Progress<'a>,
}

impl Downloads {
    /// Downloads for this host, which trust what the host trusts.
    pub fn of(root: &Root) -> Self {
        Self { limits: Limits::default(), root: root.clone(), client: Mutex::new(None) }
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
        trust: &Trust,
        progress: &Progress<'_>,
    ) -> Result<(), DownloadError> {
        let refused = |error: HostError| DownloadError { reason: error.reason(), message: error.to_string() };
        let part = match cache.begin(digest, &|| progress(0, None)).await.map_err(refused)? {
            Entry::Whole => return Ok(()),
            Entry::Part(part) => part,
        };
        if part.digest() == digest {
            // Whoever fetched it was killed before it had its name.
            return part.finish(cache, digest).map_err(refused);
        }
        let mut download = Download { digest, trust, part, progress };
        let mut failures: Vec<TryError> = Vec::new();
        for url in urls {
            match self.insist(url, &mut download).await {
                Ok(()) => return download.part.finish(cache, digest).map_err(refused),
                Err(error) => failures.push(error),
            }
            if failures.last().is_some_and(|error| error.again == Again::Nowhere) {
                // Also what was there before takes room that somebody needs.
                let _ = download.part.restart();
                break;
            }
        }
        let message = failures.iter().map(|error| error.message.as_str()).collect::<Vec<_>>().join("; ");
        // The first URL is the one that was meant; mirrors are for when it is away.
        let reason = failures.first().map_or("DownloadFailed", |error| error.reason);
        Err(DownloadError { reason, message })
    }

    /// Tries one URL until there is no more hope.
    async fn insist(&self, url: &str, download: &mut Download<'_>) -> Result<(), TryError> {
        let pauses = || {
            ExponentialBuilder::default()
                .with_min_delay(self.limits.pause)
                .with_max_times(RETRIES)
                .with_jitter()
                .build()
        };
        let mut left = pauses();
        loop {
            let before = download.part.length();
            let error = match self.attempt(url, download).await {
                Err(error) if error.again == Again::Later => error,
                other => return other,
            };
            if download.part.length() >= before + WORTH {
                left = pauses();
            }
            let Some(pause) = left.next() else { return Err(error) };
            tokio::time::sleep(pause).await;
        }
    }

    /// One try of one URL.
    async fn attempt(&self, url: &str, download: &mut Download<'_>) -> Result<(), TryError> {
        if let Some(path) = url.strip_prefix(Url::FILE) {
            return self.copy(url, path, download).await;
        }
        match self.receive(url, download).await {
            Err(error) if error.again == Again::Anew => {
                download.part.restart()?;
                self.receive(url, download).await
            }
            other => other,
        }
    }

    /// Takes a file that is on the host already.
    async fn copy(&self, url: &str, path: &str, download: &mut Download<'_>) -> Result<(), TryError> {
        let refused = |error: HostError| TryError::lasting(error.reason(), format!("{url}: {error}"));
        let place = self.root.locate_through_links(path).map_err(refused)?;
        let lasting = |what: &str| TryError::lasting("DownloadFailed", format!("{url}: {what}"));
        match place.look().map_err(refused)?.map(|meta| meta.kind) {
            Some(Kind::File) => {}
            Some(kind) => return Err(lasting(&format!("it is {}, not a file", kind.words()))),
            None => {
                return Err(lasting("there is no such file on this node: put it there, or name a mirror"));
            }
        }
        let Some((file, meta)) = place.open(Kind::File).map_err(refused)? else {
            return Err(lasting("it has just been removed"));
        };
        if meta.size > self.limits.largest {
            return Err(self.too_large(url));
        }
        let Download { digest, part, progress, .. } = download;
        part.restart()?;
        part.reserve(meta.size)?;
        let mut file = std::fs::File::from(file).take(self.limits.largest.saturating_add(1));
        let mut buffer = vec![0; 128 << 10];
        loop {
            let read = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(refused(HostError::io(&place.real, "read")(errno_of(&error)))),
            };
            part.append(&buffer[..read])?;
            progress(part.length(), Some(meta.size));
            // Others may have something to do meanwhile.
            tokio::task::yield_now().await;
        }
        if part.length() > self.limits.largest {
            part.restart()?;
            return Err(self.too_large(url));
        }
        if part.digest() == *digest {
            return Ok(());
        }
        part.restart()?;
        // Not which digest it has: the file may be anybody's, and a Report is read by many.
        Err(TryError::lasting(
            "DigestMismatch",
            format!(
                "{url}: its digest is not sha256:{digest}: compare with sha256sum {} on the node",
                place.real
            ),
        ))
    }

    /// Receives a body, or what is missing of it.
    async fn receive(&self, url: &str, download: &mut Download<'_>) -> Result<(), TryError> {
        let client = self.client(download.trust).await?;
        let Download { digest, part, progress, .. } = download;
        if url.starts_with("https://") && !client.has_certificates {
            return Err(TryError::lasting(
                "NoCertificates",
                format!(
                    "GET {url}: the host has no file of trusted certificates ({}): install ca-certificates, name some in trust.caBundles, or use an http:// mirror, the digest protects it too",
                    BUNDLES[0]
                ),
            ));
        }
        let mut request = client.http.get(url);
        let had = part.length();
        if had > 0 {
            request = request.header(RANGE, format!("bytes={had}-"));
        }
        let mut response = request.send().await.map_err(|error| self.not_sent(url, &client, &error))?;
        let status = response.status();
        let is_other = status == StatusCode::PARTIAL_CONTENT && start_of(response.headers()) != Some(had);
        if !status.is_success() || is_other {
            let message = format!("GET {}: {status}", place_of(url, &response));
            let again = if had > 0 && (is_other || status == StatusCode::RANGE_NOT_SATISFIABLE) {
                Again::Anew
            } else if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
                Again::Later
            } else {
                Again::Elsewhere
            };
            return Err(TryError { reason: "DownloadFailed", message, again });
        }
        if status != StatusCode::PARTIAL_CONTENT {
            part.restart()?;
        }
        let begun = part.length();
        let total = response.content_length().map(|rest| begun.saturating_add(rest));
        if let Some(total) = total {
            if total > self.limits.largest {
                return Err(self.too_large(url));
            }
            part.reserve(total)?;
        }
        progress(begun, total);
        let mut pace = Pace { since: Instant::now(), bytes: 0 };
        loop {
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) if error.is_timeout() => {
                    return Err(TryError::passing(format!(
                        "GET {url}: nothing came for {}, after {}",
                        seconds(self.limits.silence),
                        of(part.length(), total)
                    )));
                }
                Err(error) => {
                    return Err(TryError::passing(format!(
                        "GET {url}: ended after {} ({})",
                        of(part.length(), total),
                        chain(&error)
                    )));
                }
            };
            part.append(&chunk)?;
            if part.length() > self.limits.largest {
                part.restart()?;
                return Err(self.too_large(url));
            }
            progress(part.length(), total);
            if let Some(rate) = pace.too_slow(chunk.len() as u64, Instant::now(), &self.limits) {
                return Err(TryError::lasting(
                    "TooSlow",
                    format!(
                        "GET {url}: {rate} bytes a second over {}, at least {} are needed, after {}",
                        seconds(self.limits.window),
                        self.limits.slowest,
                        of(part.length(), total)
                    ),
                ));
            }
        }
        if total.is_some_and(|total| part.length() < total) {
            return Err(TryError::passing(format!("GET {url}: ended after {}", of(part.length(), total))));
        }
        let found = part.digest();
        if found == *digest {
            return Ok(());
        }
        let head = part.head(HEAD)?;
        part.restart()?;
        let again = if begun > 0 { Again::Anew } else { Again::Elsewhere };
        let from = place_of(url, &response);
        let (reason, message) = match web_page(response.headers(), &head) {
            Some(page) => (
                "NotAProgram",
                format!(
                    "GET {from}: the server sent a web page ({page}) instead of the program: a proxy or login page in between?"
                ),
            ),
            None => (
                "DigestMismatch",
                format!(
                    "GET {from}: digest is sha256:{found}, expected sha256:{digest}: check the digest in the spec, or the server"
                ),
            ),
        };
        Err(TryError { reason, message, again })
    }

    async fn client(&self, trust: &Trust) -> Result<Client, TryError> {
        let mut kept = self.client.lock().await;
        if let Some(client) = kept.as_ref().filter(|client| client.trust == *trust) {
            return Ok(client.clone());
        }
        let refused = |error: HostError| TryError::lasting(error.reason(), error.to_string());
        let unusable = |what: String, cause: String| {
            TryError::lasting("BadCertificates", format!("{what} cannot be used: {cause}: correct it"))
        };
        let mut certificates = Vec::new();
        for path in BUNDLES {
            let Some(pem) = self.root.read(path, MAX_BUNDLE).map_err(refused)? else { continue };
            certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|error| unusable((*path).to_owned(), chain(&error)))?;
            break;
        }
        for bundle in &trust.ca_bundles {
            certificates.extend(certificates_in(&bundle.pem).map_err(|cause| {
                unusable(format!("the CA bundle {} of trust.caBundles", bundle.name), cause)
            })?);
        }
        let has_certificates = !certificates.is_empty();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("nodebootstrap-agent/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(self.limits.silence)
            .redirect(reqwest::redirect::Policy::limited(MAX_REDIRECTS))
            .tls_certs_only(certificates);
        let failed = |error: reqwest::Error| {
            TryError::lasting("DownloadFailed", format!("downloads cannot be set up: {}", chain(&error)))
        };
        if let Some(Proxy { http, https, no_proxy, units: _ }) = &trust.proxy {
            let direct: Vec<_> = no_proxy.iter().map(crds::NoProxy::as_str).collect();
            let direct = reqwest::NoProxy::from_string(&direct.join(","));
            let http = http.as_ref().map(|proxy| reqwest::Proxy::http(proxy.as_str()));
            let https = https.as_ref().map(|proxy| reqwest::Proxy::https(proxy.as_str()));
            for proxy in http.into_iter().chain(https) {
                builder = builder.proxy(proxy.map_err(failed)?.no_proxy(direct.clone()));
            }
        }
        let http = builder.build().map_err(failed)?;
        let client = Client { http, trust: trust.clone(), has_certificates };
        *kept = Some(client.clone());
        Ok(client)
    }

    fn too_large(&self, url: &str) -> TryError {
        TryError::lasting(
            "TooLarge",
            format!(
                "{url}: more than {} bytes, the most there may be: is it the right file?",
                self.limits.largest
            ),
        )
    }

    fn not_sent(&self, url: &str, client: &Client, error: &reqwest::Error) -> TryError {
        if error.is_redirect() {
            return TryError::lasting(
                "DownloadFailed",
                format!("GET {url}: more than {MAX_REDIRECTS} redirects"),
            );
        }
        let cause = if error.is_timeout() && error.is_connect() {
            format!("no connection within {}", seconds(CONNECT))
        } else if error.is_timeout() {
            format!("no answer within {}", seconds(self.limits.silence))
        } else {
            chain(error)
        };
        // Which of the two was asked is not known: noProxy may take the host out.
        let proxy = client.trust.proxy.as_ref().and_then(|proxy| match url.starts_with("https://") {
            true => proxy.https.as_ref(),
            false => proxy.http.as_ref(),
        });
        let by_way = proxy.map(|proxy| format!(" (trust.proxy is {proxy}, unless noProxy names the host)"));
        TryError::passing(format!("GET {url}: {cause}{}", by_way.unwrap_or_default()))
    }
}

/// How much came since when.
struct Pace {
    since: Instant,
    bytes: u64,
}

impl Pace {
    /// Takes note of bytes that came. At the end of each window: its pace, in bytes a second, if that is too slow.
    fn too_slow(&mut self, bytes: u64, now: Instant, limits: &Limits) -> Option<u64> {
        self.bytes += bytes;
        let took = now.duration_since(self.since);
        if took < limits.window {
            return None;
        }
        let came = std::mem::replace(self, Self { since: now, bytes: 0 }).bytes;
        let rate = u128::from(came) * 1000 / took.as_millis().max(1);
        u64::try_from(rate).ok().filter(|rate| *rate < limits.slowest)
    }
}

/// The certificates of a bundle, each one that can be used; or what is wrong with the first that cannot.
pub(crate) fn certificates_in(pem: &str) -> Result<Vec<reqwest::Certificate>, String> {
    let mut store = RootCertStore::empty();
    let mut found = Vec::new();
    for (index, certificate) in CertificateDer::pem_slice_iter(pem.as_bytes()).enumerate() {
        let number = index + 1;
        let certificate = certificate
            .map_err(|_| format!("certificate {number} is no whole block of PEM: is a line missing?"))?;
        store.add(certificate.clone()).map_err(|error| format!("certificate {number} is none: {error}"))?;
        found.push(reqwest::Certificate::from_der(&certificate).map_err(|error| chain(&error))?);
    }
    if found.is_empty() { Err("no certificate is in it".to_owned()) } else { Ok(found) }
}

/// Where a range begins that a server sends.
fn start_of(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_trickles_is_found_out_and_who_pauses_is_not() {
        let limits = Limits { window: Duration::from_secs(60), slowest: 100, ..Limits::default() };
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        // What comes at which second, and what is told at the last.
        for (came, told) in [
            (vec![(1, 1), (30, 1), (59, 1)], None),
            (vec![(1, 1), (30, 1), (60, 1)], Some(0)),
            (vec![(59, 5_999), (60, 0)], Some(99)),
            (vec![(1, 6_000), (60, 0)], None),
            // Every window counts by itself, however quick the one before was.
            (vec![(1, 1 << 30), (60, 0), (119, 1), (120, 1)], Some(0)),
            // One that ends late is longer.
            (vec![(80, 8_000)], None),
            (vec![(80, 7_999)], Some(99)),
        ] {
            let mut pace = Pace { since: begun, bytes: 0 };
            let words: Vec<_> =
                came.iter().map(|(second, bytes)| pace.too_slow(*bytes, at(*second), &limits)).collect();
            let (last, before) = words.split_last().unwrap();
            assert_eq!(*last, told, "{came:?}");
            assert!(before.iter().all(Option::is_none), "{came:?}: {words:?}");
        }
    }

    #[test]
    fn where_a_range_begins_is_read() {
        let start = |text: &'static str| {
            start_of(&HeaderMap::from_iter([(
                CONTENT_RANGE,
                reqwest::header::HeaderValue::from_static(text),
            )]))
        };
        assert_eq!(start("bytes 10-19/20"), Some(10));
        assert_eq!(start("bytes 0-0/*"), Some(0));
        for bad in ["bytes */20", "10-19/20", "bytes -10/20", "bytes x-19/20", ""] {
            assert_eq!(start(bad), None, "{bad}");
        }
        assert_eq!(start_of(&HeaderMap::new()), None);
    }
}
