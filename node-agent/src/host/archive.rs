//! Archives: what is in them, and their content piece by piece.
//!
//! In: the bytes of a tar archive, plain or compressed, which is told by how they begin. Out: an [`Index`], or in words
//! why the archive is refused; later the content of single entries. Nothing is believed of the bytes, though their digest
//! was right: every name, link and size is judged before anything is written anywhere, and memory is bounded by what
//! stands here, whatever they say.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use crds::Sha256;
use lzma_rust2::XzReader;
use ruzstd::decoding::FrameDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use serde::{Deserialize, Serialize};
use sha2::Digest;
use tar::EntryType;
use thiserror::Error;
use tokio::sync::mpsc;

use super::write::{Ids, Staged};
use super::{Host, HostError};

/// The most that comes out of an archive, in bytes: of the tar itself, and of all its files.
pub const MAX_BYTES: u64 = 4 << 30;
/// The most files, links and directories of an archive.
pub const MAX_ENTRIES: usize = 10_000;
/// The longest path in an archive, in bytes.
const MAX_PATH: usize = 1024;
/// The largest header beside an entry's own: a long name, or extended attributes, which nobody reads.
const MAX_HEADER: u64 = 1 << 20;
/// The most memory that a decoder may take for what it looks back to, in KiB: as much as the strongest levels of `xz`
/// and `zstd` ask for.
const MAX_WINDOW_KIB: u32 = 128 << 10;
/// How much is read at once.
const PIECE: usize = 128 << 10;
/// Pieces that are read ahead of what is written.
const AHEAD: usize = 4;

/// Why an archive is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// What is in an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// By path, which is relative, without `.` and `..`.
    pub entries: BTreeMap<String, Entry>,
}

/// One thing in an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Entry {
    /// A directory.
    Directory {
        /// Permission bits.
        mode: u32,
    },
    /// A file. One that is a hard link to another there is a file of its own here: what is unpacked is kept path by path.
    File {
        /// Permission bits.
        mode: u32,
        /// Bytes of content.
        size: u64,
        /// The digest of its content.
        sha256: Sha256,
        /// The path in the archive at which the content stands.
        from: String,
    },
    /// A symbolic link.
    Link {
        /// What it leads to, as it is written.
        target: String,
    },
}

/// Reads through an archive to see what is in it.
///
/// # Errors
/// If it is none that can be unpacked, or has something in it that must not be.
pub fn index(bytes: impl Read) -> Result<Index, Refused> {
    let mut entries = BTreeMap::new();
    let mut left = MAX_BYTES;
    walk(bytes, &mut |path, found, content| {
        let mut count = |size: u64| {
            left = left.checked_sub(size).ok_or_else(too_much)?;
            Ok(())
        };
        let entry = match found {
            Found::Directory { mode } => Entry::Directory { mode },
            Found::Link { target } => Entry::Link { target },
            Found::File { mode, size } => {
                count(size)?;
                let sha256 = read_all(path, size, content, &mut |_| Ok(()))?;
                Entry::File { mode, size, sha256, from: path.to_owned() }
            }
            Found::HardLink { to } => match entries.get(&to) {
                Some(file @ Entry::File { size, .. }) => {
                    count(*size)?;
                    file.clone()
                }
                _ => {
                    let what = format!("is a hard link to {to}, which is no file before it");
                    return Err(refused(path, &what));
                }
            },
        };
        let is_directory = matches!(entry, Entry::Directory { .. });
        let before = entries.insert(path.to_owned(), entry);
        if before.is_some_and(|before| !(is_directory && matches!(before, Entry::Directory { .. }))) {
            return Err(refused(path, "is there twice"));
        }
        if entries.len() > MAX_ENTRIES {
            return Err(Refused(format!("it has more than {MAX_ENTRIES} entries")));
        }
        Ok(())
    })?;
    Ok(Index { entries })
}

/// As [`index`], with nobody waiting for it: it may take long.
///
/// # Errors
/// See [`index`].
pub async fn index_aside(bytes: impl Read + Send + 'static) -> Result<Index, Refused> {
    let work = tokio::task::spawn_blocking(move || index(bytes));
    work.await.unwrap_or_else(|_| Err(Refused("it cannot be read: its decoder gave up".to_owned())))
}

/// A file that is unpacked: where, what it shall be, and whose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The real path.
    pub path: String,
    /// The digest of its content.
    pub digest: Sha256,
    /// Owner, group, mode.
    pub ids: Ids,
}

/// Unpacks files of an archive that was fetched, each whole or not at all. `wanted`: by path in the archive; `may`: asked
/// at the last moment whether what is at a path may be replaced.
///
/// # Errors
/// If the archive is not there, has something else in it than was wanted, or a file cannot be written.
pub async fn unpack(
    host: &Host,
    archive: Sha256,
    mut wanted: BTreeMap<String, Vec<Target>>,
    may: &dyn Fn(&str) -> Result<(), HostError>,
) -> Result<(), HostError> {
    let changed = |path: &str, found: &str| HostError::Changed {
        path: path.to_owned(),
        found: found.to_owned(),
        expected: "as it was when the archive was read first".to_owned(),
    };
    let file = host.cache.open(archive)?;
    let mut pieces = read_aside(file, wanted.keys().cloned().collect());
    let (mut staged, mut hasher) = (Vec::new(), sha2::Sha256::new());
    while let Some(piece) = pieces.recv().await {
        match piece.map_err(|Refused(cause)| HostError::Archive(cause))? {
            Piece::Begin(path) => {
                hasher = sha2::Sha256::new();
                for target in wanted.remove(&path).unwrap_or_default() {
                    let place = host.root.locate(&target.path)?;
                    staged.push((Staged::begin(&place)?, target));
                }
            }
            Piece::More(bytes) => {
                hasher.update(&bytes);
                for (file, _) in &mut staged {
                    file.append(&bytes)?;
                }
            }
            Piece::End => {
                let digest = Sha256::from_bytes(hasher.finalize_reset().into());
                for (file, target) in staged.drain(..) {
                    if target.digest != digest {
                        return Err(changed(&target.path, "other content"));
                    }
                    let meta = file.install_if(target.ids, &BTreeMap::new(), may)?;
                    host.digests.remember(&target.path, &meta, digest);
                }
            }
        }
    }
    match wanted.values().flatten().next() {
        Some(target) => Err(changed(&target.path, "missing in the archive")),
        None => Ok(()),
    }
}

/// The content of entries, as it comes.
enum Piece {
    Begin(String),
    More(Vec<u8>),
    End,
}

/// Reads entries in a thread of its own, so that decoding blocks nobody; it ends when nobody wants more.
fn read_aside(
    bytes: impl Read + Send + 'static,
    mut wanted: BTreeSet<String>,
) -> mpsc::Receiver<Result<Piece, Refused>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let gone = |_| Refused("nobody wants it any more".to_owned());
        let read = walk(bytes, &mut |path, found, content| {
            let (Found::File { size, .. }, true) = (found, wanted.remove(path)) else { return Ok(()) };
            sender.blocking_send(Ok(Piece::Begin(path.to_owned()))).map_err(gone)?;
            read_all(path, size, content, &mut |piece| {
                sender.blocking_send(Ok(Piece::More(piece.to_vec()))).map_err(gone)
            })?;
            sender.blocking_send(Ok(Piece::End)).map_err(gone)
        });
        if let Err(refused) = read {
            let _ = sender.blocking_send(Err(refused));
        }
    });
    receiver
}

/// What stands in an archive at one place.
enum Found {
    Directory { mode: u32 },
    File { mode: u32, size: u64 },
    Link { target: String },
    HardLink { to: String },
}

type Visit<'v> = dyn FnMut(&str, Found, &mut dyn Read) -> Result<(), Refused> + 'v;

/// Visits all entries of an archive, in its own order.
fn walk(bytes: impl Read, visit: &mut Visit<'_>) -> Result<(), Refused> {
    let mut archive = tar::Archive::new(Bounded { inner: decoded(bytes)?, left: MAX_BYTES });
    let mut extra = Extra::default();
    // As they stand there: what is known to the library besides is without bounds.
    for entry in archive.entries().map_err(unreadable)?.raw(true) {
        let mut entry = entry.map_err(unreadable)?;
        let header = entry.header().clone();
        let kind = header.entry_type();
        if extra.take(kind, &mut entry)? {
            continue;
        }
        let Extra { path, link, size } = std::mem::take(&mut extra);
        let own_size = header.entry_size().map_err(unreadable)?;
        let raw = path.unwrap_or_else(|| header.path_bytes().into_owned());
        let is_folder = raw.ends_with(b"/");
        let Some(path) = path_of(&raw)? else { continue };
        if size.is_some_and(|size| size != own_size) {
            return Err(refused(&path, "has two sizes"));
        }
        let mode = header.mode().map_err(unreadable)? & 0o7777;
        let link = || match &link {
            Some(link) => link.clone(),
            None => header.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default(),
        };
        let found = match kind {
            EntryType::Directory => Found::Directory { mode },
            // Of old, a name that ends so is a directory's.
            EntryType::Regular | EntryType::Continuous if is_folder => Found::Directory { mode },
            EntryType::Regular | EntryType::Continuous => Found::File { mode, size: own_size },
            EntryType::Symlink => Found::Link { target: target_of(&path, link())? },
            EntryType::Link => match path_of(&link())? {
                Some(to) => Found::HardLink { to },
                None => return Err(refused(&path, "is a hard link to a directory")),
            },
            EntryType::Char | EntryType::Block => return Err(refused(&path, "is a device")),
            EntryType::Fifo => return Err(refused(&path, "is a pipe")),
            EntryType::GNUSparse => return Err(refused(&path, "is a sparse file: pack it without --sparse")),
            other => {
                let kind = char::from(other.as_byte()).escape_default();
                return Err(refused(&path, &format!("is of the kind {kind}, which is not unpacked")));
            }
        };
        visit(&path, found, &mut entry)?;
    }
    Ok(())
}

/// What stands before an entry's own header and belongs to it.
#[derive(Default)]
struct Extra {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Extra {
    /// Takes over what an entry says of the next; whether it is such an entry.
    fn take(&mut self, kind: EntryType, entry: &mut impl Read) -> Result<bool, Refused> {
        match kind {
            EntryType::GNULongName => self.path = Some(text_of(entry)?),
            EntryType::GNULongLink => self.link = Some(text_of(entry)?),
            EntryType::XHeader => self.read_records(&bytes_of(entry)?)?,
            // Of all entries that follow: nothing that counts here.
            EntryType::XGlobalHeader => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn read_records(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        for record in tar::PaxExtensions::new(bytes) {
            let record = record.map_err(unreadable)?;
            let value = record.value_bytes();
            match record.key_bytes() {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|size| size.parse().ok());
                    let damaged = || Refused("it cannot be read: a size in it is no number".to_owned());
                    self.size = Some(size.ok_or_else(damaged)?);
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(Refused("it has sparse files in it: pack it without --sparse".to_owned()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn bytes_of(entry: &mut impl Read) -> Result<Vec<u8>, Refused> {
    let mut bytes = Vec::new();
    entry.take(MAX_HEADER + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_HEADER {
        return Err(Refused("it cannot be read: a header in it is longer than 1 MiB".to_owned()));
    }
    Ok(bytes)
}

/// The same without what fills it up.
fn text_of(entry: &mut impl Read) -> Result<Vec<u8>, Refused> {
    let mut bytes = bytes_of(entry)?;
    bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
    Ok(bytes)
}

/// Reads the content of an entry to its end; its digest.
fn read_all(
    path: &str,
    size: u64,
    content: &mut dyn Read,
    each: &mut dyn FnMut(&[u8]) -> Result<(), Refused>,
) -> Result<Sha256, Refused> {
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; PIECE.min(usize::try_from(size).unwrap_or(PIECE)).max(1)];
    let mut left = size;
    loop {
        let read = match content.read(&mut buffer) {
            Ok(0) if left == 0 => return Ok(Sha256::from_bytes(hasher.finalize().into())),
            Ok(0) => return Err(refused(path, "is cut off: the archive ends in the middle of it")),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unreadable(error)),
        };
        left = left.saturating_sub(read as u64);
        hasher.update(&buffer[..read]);
        each(&buffer[..read])?;
    }
}

/// The path of an entry, relative and plain; `None`: the folder itself.
fn path_of(raw: &[u8]) -> Result<Option<String>, Refused> {
    let shown = || String::from_utf8_lossy(raw).chars().take(100).collect::<String>();
    let shown = || shown().escape_debug().to_string();
    let Ok(text) = std::str::from_utf8(raw) else {
        return Err(refused(&shown(), "has a name that is no UTF-8"));
    };
    if text.len() > MAX_PATH {
        return Err(refused(&shown(), &format!("has a name of more than {MAX_PATH} bytes")));
    }
    if text.chars().any(char::is_control) {
        return Err(refused(&shown(), "has control characters in its name"));
    }
    let steps: Vec<&str> = text.split('/').filter(|step| !matches!(*step, "" | ".")).collect();
    if text.starts_with('/') || steps.contains(&"..") {
        return Err(refused(text, "leaves the folder that it is unpacked into"));
    }
    Ok((!steps.is_empty()).then(|| steps.join("/")))
}

/// What a symbolic link leads to. Where that is depends on what is taken off its path, so that it is judged later.
fn target_of(path: &str, raw: Vec<u8>) -> Result<String, Refused> {
    let target = String::from_utf8(raw).ok().filter(|target| !target.is_empty() && target.len() <= MAX_PATH);
    target
        .filter(|target| !target.chars().any(char::is_control))
        .ok_or_else(|| refused(path, "is a symbolic link whose target is no path"))
}

/// The refusal of one entry.
pub(crate) fn refused(path: &str, what: &str) -> Refused {
    Refused(format!("its entry {path} {what}"))
}

fn too_much() -> Refused {
    Refused(format!("more than {} GiB come out of it", MAX_BYTES >> 30))
}

fn unreadable(error: io::Error) -> Refused {
    match error.downcast::<Refused>() {
        Ok(refused) => refused,
        // It may quote the archive.
        Err(error) => {
            let words: String = error.to_string().chars().take(200).collect();
            Refused(format!("it cannot be read as a tar archive: {}", words.escape_debug()))
        }
    }
}

/// The bytes of the tar within.
fn decoded<'b>(mut bytes: impl Read + 'b) -> Result<Box<dyn Read + 'b>, Refused> {
    let mut head = Vec::new();
    bytes.by_ref().take(512).read_to_end(&mut head).map_err(unreadable)?;
    let is = |magic: &[u8]| head.starts_with(magic);
    let others: [(&[u8], &str); 3] = [(b"PK\x03\x04", "zip"), (b"BZh", "bzip2"), (b"7z\xbc\xaf", "7z")];
    if let Some((_, other)) = others.into_iter().find(|(magic, _)| is(magic)) {
        return Err(Refused(format!(
            "it is packed as {other}: take one of the publisher's that is tar, tar.gz, tar.xz or tar.zst"
        )));
    }
    let is_skipped = head.len() > 3 && head[0] & 0xf0 == 0x50 && head[1..4] == *b"\x2a\x4d\x18";
    let (is_gzip, is_xz, is_zstd) =
        (is(b"\x1f\x8b"), is(b"\xfd7zXZ\0"), is(b"\x28\xb5\x2f\xfd") || is_skipped);
    let all = io::Cursor::new(head).chain(bytes);
    Ok(if is_gzip {
        Box::new(flate2::read::MultiGzDecoder::new(all))
    } else if is_xz {
        Box::new(XzReader::new_mem_limit(all, true, MAX_WINDOW_KIB))
    } else if is_zstd {
        Box::new(Zstd::new(all))
    } else {
        Box::new(all)
    })
}

/// Gives so many bytes and no more.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| io::Error::other(too_much()))?;
        Ok(read)
    }
}

/// Decodes zstd: one frame after the other, without those that are to be skipped.
struct Zstd<R> {
    inner: R,
    decoder: FrameDecoder,
}

impl<R: Read> Zstd<R> {
    fn new(inner: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(u64::from(MAX_WINDOW_KIB) << 10);
        Self { inner, decoder }
    }
}

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use ruzstd::decoding::BlockDecodingStrategy::UptoBlocks;
        loop {
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            if !self.decoder.is_finished() {
                self.decoder.decode_blocks(&mut self.inner, UptoBlocks(1)).map_err(io::Error::other)?;
                continue;
            }
            match self.decoder.reset(&mut self.inner) {
                Ok(()) => {}
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    io::copy(&mut self.inner.by_ref().take(length.into()), &mut io::sink())?;
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::MagicNumberReadError(
                    error,
                ))) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}
