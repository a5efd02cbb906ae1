//! An HTTP server for downloads, good ones and bad: in goes a request path, out comes the true kubelet under the
//! layout of its upstream, a published file, or one of the mischiefs that a real network plays.
//!
//! | path | answer |
//! |---|---|
//! | `/release/VERSION/bin/linux/ARCH/PROGRAM` | the program that the testbed was built with, or the older kubelet once it is built; `.sha256` its digest |
//! | `/files/NAME` | a file from the folder `files` of the testbed's state; `.sha256` its digest, unless it is there |
//! | `/404/PATH`, `/500/PATH`, … | that status, whatever the path |
//! | `/redirect/N/PATH` | N redirects, then the path |
//! | `/html/PATH` | 200 with a page of text, as a captive portal answers |
//! | `/truncated/PATH` | the right Content-Length, half of the body, then the connection ends |
//! | `/corrupt/PATH` | the right length, one byte changed |
//! | `/slow/BYTES/PATH` | the body at so many bytes a second |
//! | `/stall/PATH` | half of the body, then silence |
//! | `/flaky/N/KEY/PATH` | 503 for the first N requests with that key, then the path |
//! | `/_counters` | how often each path was asked, as a JSON object; `range:` before a path, how often for its end alone |
//!
//! Of a file the end alone is sent where `Range: bytes=N-` asks for it. PATH may be a mischief again: `/redirect/2/truncated/release/…`.

use std::collections::BTreeMap;
use std::io::SeekFrom;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use crate::binaries::{self, Binaries, KUBERNETES_VERSION, OLDER_KUBELET_VERSION};

const PAGE: &str = "<!DOCTYPE html><html><body><h1>Please log in</h1></body></html>\n";

/// What one path asks for, mischief by mischief from the outside in.
#[derive(Debug, PartialEq, Eq)]
enum Wish<'a> {
    Status(u16),
    Redirect { hops: u32, path: &'a str },
    Html,
    Flaky { failures: u64, key: &'a str, path: &'a str },
    Body { path: &'a str, how: How },
}

/// How a body is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Whole,
    Truncated,
    Corrupt,
    Slow(u64),
    Stall,
}

impl Wish<'_> {
    /// Reads a path without its leading slash; `None` if it has no meaning.
    fn parse(path: &str) -> Option<Wish<'_>> {
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        Some(match first {
            "release" | "files" => Wish::Body { path, how: How::Whole },
            "html" => Wish::Html,
            "redirect" => {
                let (hops, path) = rest.split_once('/')?;
                match hops.parse().ok()? {
                    0 => return Wish::parse(path),
                    hops => Wish::Redirect { hops, path },
                }
            }
            "flaky" => {
                let (failures, rest) = rest.split_once('/')?;
                let (key, path) = rest.split_once('/')?;
                Wish::Flaky { failures: failures.parse().ok()?, key, path }
            }
            "truncated" => Wish::Body { path: rest, how: How::Truncated },
            "corrupt" => Wish::Body { path: rest, how: How::Corrupt },
            "stall" => Wish::Body { path: rest, how: How::Stall },
            "slow" => {
                let (speed, path) = rest.split_once('/')?;
                Wish::Body { path, how: How::Slow(speed.parse().ok().filter(|speed| *speed > 0)?) }
            }
            status => Wish::Status(status.parse().ok().filter(|status| (400..600).contains(status))?),
        })
    }
}

/// The server: what it serves, and what it was asked.
#[derive(Debug, Clone)]
pub struct Server {
    binaries: Binaries,
    files: PathBuf,
    counters: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Server {
    pub(crate) fn new(binaries: Binaries, files: PathBuf) -> Server {
        Server { binaries, files, counters: Arc::default() }
    }

    /// Answers requests until the process ends.
    pub(crate) async fn serve(self, address: Ipv4Addr, port: u16) -> Result<()> {
        let listener = tokio::net::TcpListener::bind((address, port))
            .await
            .with_context(|| format!("cannot listen on {address}:{port}"))?;
        axum::serve(listener, Router::new().fallback(answer).with_state(self))
            .await
            .context("the server ended")
    }

    fn count(&self, path: &str) -> u64 {
        let mut counters = self.counters.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let counter = counters.entry(path.to_owned()).or_default();
        *counter += 1;
        *counter
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        self.counters.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// The file behind a plain path, or the text of its digest.
    async fn find(&self, path: &str) -> Result<Option<Found>> {
        // Before all else: nobody climbs out of the folder.
        if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
            return Ok(None);
        }
        let (plain, digest) = match path.strip_suffix(".sha256") {
            Some(plain) => (plain, true),
            None => (path, false),
        };
        if let Some(name) = path.strip_prefix("files/") {
            if self.files.join(name).is_file() {
                return Ok(Some(Found::File(self.files.join(name))));
            }
            let Some(name) =
                plain.strip_prefix("files/").filter(|name| digest && self.files.join(name).is_file())
            else {
                return Ok(None);
            };
            return Ok(Some(Found::Text(sha256_of(&self.files.join(name)).await?)));
        }
        let folder = |version: &str| format!("release/{version}/bin/linux/{}/", crate::architecture());
        let of_version = |version: &str| plain.strip_prefix(&folder(version));
        let program = match (of_version(KUBERNETES_VERSION), of_version(OLDER_KUBELET_VERSION)) {
            (Some(name @ ("kubelet" | "kube-proxy" | "kubectl")), _) => Some(self.binaries.path(name)),
            (_, Some("kubelet")) => binaries::cached_older_kubelet()?,
            _ => None,
        };
        let Some(program) = program else { return Ok(None) };
        Ok(Some(if digest { Found::Text(binaries::sha256(&program)?) } else { Found::File(program) }))
    }

    async fn send(&self, path: &str, how: How, method: &Method, from: u64) -> Result<Response> {
        let (length, body): (u64, futures::stream::BoxStream<'static, std::io::Result<Bytes>>) =
            match self.find(path).await? {
                None => return Ok((StatusCode::NOT_FOUND, "no such file\n").into_response()),
                Some(Found::Text(text)) => {
                    (text.len() as u64, futures::stream::once(async move { Ok(Bytes::from(text)) }).boxed())
                }
                Some(Found::File(file)) => {
                    let mut open = tokio::fs::File::open(&file)
                        .await
                        .with_context(|| format!("cannot open {}", file.display()))?;
                    let whole = open.metadata().await.context("cannot see the file's length")?.len();
                    if from > 0 && from >= whole {
                        return Ok(StatusCode::RANGE_NOT_SATISFIABLE.into_response());
                    }
                    open.seek(SeekFrom::Start(from)).await.context("cannot go to where the range begins")?;
                    let length = whole - from;
                    let whole = match how {
                        How::Truncated | How::Stall => {
                            ReaderStream::with_capacity(open.take(length / 2), 1 << 16).boxed()
                        }
                        // A tenth of a second's worth at a time.
                        How::Slow(speed) => {
                            let piece = usize::try_from(speed / 10).unwrap_or(usize::MAX).clamp(1, 1 << 20);
                            ReaderStream::with_capacity(open, piece)
                                .then(|piece| async {
                                    tokio::time::sleep(Duration::from_millis(100)).await;
                                    piece
                                })
                                .boxed()
                        }
                        How::Whole | How::Corrupt => ReaderStream::with_capacity(open, 1 << 18).boxed(),
                    };
                    (length, whole)
                }
            };
        let body = match how {
            How::Whole | How::Slow(_) => Body::from_stream(body),
            How::Truncated => Body::from_stream(body.chain(futures::stream::once(async {
                Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
            }))),
            How::Stall => Body::from_stream(body.chain(futures::stream::pending())),
            How::Corrupt => {
                let mut first = true;
                Body::from_stream(body.map(move |piece| {
                    let mut piece = piece?.to_vec();
                    if std::mem::take(&mut first)
                        && let Some(byte) = piece.last_mut()
                    {
                        *byte ^= 1;
                    }
                    std::io::Result::Ok(Bytes::from(piece))
                }))
            }
        };
        let body = if method == Method::HEAD { Body::empty() } else { body };
        let mut response = Response::builder();
        if from > 0 {
            let whole = from + length;
            response = response
                .status(StatusCode::PARTIAL_CONTENT)
                .header(header::CONTENT_RANGE, format!("bytes {from}-{}/{whole}", whole - 1));
        }
        response
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, length)
            .body(body)
            .context("cannot make the answer")
    }
}

enum Found {
    File(PathBuf),
    Text(String),
}

async fn answer(State(server): State<Server>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    if path == "/_counters" {
        let text = serde_json::to_string(&server.counters()).unwrap_or_default();
        return ([(header::CONTENT_TYPE, "application/json")], text).into_response();
    }
    server.count(&path);
    let from = start_of(request.headers());
    if from > 0 {
        server.count(&format!("range:{path}"));
    }
    let mut rest = path.trim_start_matches('/');
    loop {
        match Wish::parse(rest) {
            None => return (StatusCode::NOT_FOUND, "no such path\n").into_response(),
            Some(Wish::Status(status)) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::NOT_FOUND);
                return (status, "as you wished\n").into_response();
            }
            Some(Wish::Html) => {
                return ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], PAGE).into_response();
            }
            Some(Wish::Redirect { hops, path }) => {
                let place =
                    if hops == 1 { format!("/{path}") } else { format!("/redirect/{}/{path}", hops - 1) };
                return (StatusCode::FOUND, [(header::LOCATION, place)]).into_response();
            }
            Some(Wish::Flaky { failures, key, path }) => {
                if server.count(&format!("flaky:{key}")) <= failures {
                    return (StatusCode::SERVICE_UNAVAILABLE, "not now\n").into_response();
                }
                rest = path;
            }
            Some(Wish::Body { path, how }) => {
                return server.send(path, how, request.method(), from).await.unwrap_or_else(|error| {
                    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response()
                });
            }
        }
    }
}

/// Where the end of a file begins that a request asks for; 0: all of it.
fn start_of(headers: &HeaderMap) -> u64 {
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok()).unwrap_or_default();
    let start = range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-'));
    start.and_then(|start| start.parse().ok()).unwrap_or_default()
}

/// The SHA-256 of a file as hex.
pub async fn sha256_of(path: &Path) -> Result<String> {
    let mut file =
        tokio::fs::File::open(path).await.with_context(|| format!("cannot open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let read = file.read(&mut buffer).await.with_context(|| format!("cannot read {}", path.display()))?;
        if read == 0 {
            return Ok(hex::encode(hash.finalize()));
        }
        hash.update(&buffer[..read]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_say_what_mischief_they_want() {
        assert_eq!(Wish::parse("404/x/y"), Some(Wish::Status(404)));
        assert_eq!(Wish::parse("redirect/2/files/a"), Some(Wish::Redirect { hops: 2, path: "files/a" }));
        assert_eq!(Wish::parse("redirect/0/html/a"), Some(Wish::Html));
        assert_eq!(
            Wish::parse("flaky/3/mine/files/a"),
            Some(Wish::Flaky { failures: 3, key: "mine", path: "files/a" })
        );
        assert_eq!(Wish::parse("slow/10/files/a"), Some(Wish::Body { path: "files/a", how: How::Slow(10) }));
        for bad in ["", "200/x", "slow/0/a", "slow/x/a", "flaky/3/a", "nothing"] {
            assert_eq!(Wish::parse(bad), None, "{bad}");
        }
    }
}
