//! How content would change, for whoever stands before the host: no Report and no log has it.
//!
//! In: a plan and its host. Out: for each file that is written a unified diff, or why there is none; for an archive what is
//! made of it. A secret value is never shown, neither the new one nor one that may have been there before; nor is what
//! somebody else has written that not everybody may read: what a plan prints goes into logs. What a spec has inline everybody
//! may read who may read the spec.

use std::collections::BTreeSet;
use std::time::Duration;

use crds::Sha256;
use crds::revision::{Content, Resource, Revision};
use similar::TextDiff;

use crate::anchor;
use crate::engine::{Plan, Request, Step};
use crate::host::{Host, Kind};
use crate::ledger::{Entry, Item, Ledger, Provenance, Shape};
use crate::resource::Action;

/// The most lines that are shown of one file.
const MAX_LINES: usize = 100;
/// The most characters that are shown of one line.
const MAX_WIDTH: usize = 300;
/// The largest file that is compared, in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// What takes longer to compare is shown as less alike than it is.
const PATIENCE: Duration = Duration::from_millis(200);

/// One for each step of a plan; `None` where no content changes.
pub fn of_plan(host: &Host, request: &Request, plan: &Plan) -> Vec<Option<String>> {
    let secrets = secrets(host, request);
    let ledgers = host.state.other_ledgers("").unwrap_or_default();
    let known = known(&ledgers);
    let of_step = |step: &Step| {
        let is_secret =
            |path: &String| secrets.contains(&step.change.resource) || known.contains(path.as_str());
        match &step.action {
            Action::WriteFile { path, content, .. } => {
                of_file(host, &ledgers, path, &content.0, is_secret(path))
            }
            Action::EditPart { path, anchor, text } => {
                let (old, _) = host.root.locate(path).and_then(|place| place.read(MAX_BYTES)).ok()??;
                let new = anchor::edit(&old, anchor, text.as_ref().map(|text| &*text.0)).ok()?;
                of_file(host, &ledgers, path, &new, is_secret(path))
            }
            Action::Unpack { parts: Some(parts), .. } => Some(of_parts(parts)),
            _ => None,
        }
    };
    plan.steps.iter().map(of_step).collect()
}

/// The files that hold a secret value, or held one as far as this host has it in writing.
fn secrets(host: &Host, request: &Request) -> BTreeSet<String> {
    let node_bootstrap = &request.revision.node_bootstrap;
    let before = host.state.begun(node_bootstrap).ok().flatten();
    let (others, _) = host.state.others(node_bootstrap).unwrap_or_default();
    let revisions = before.iter().chain(&others).map(|begun| &begun.revision);
    let is_secret = |resource: &&Resource| matches!(resource, Resource::File(file) if matches!(file.content, Content::Secret { .. }));
    let all = revisions.chain([&request.revision]);
    all.flat_map(|Revision { resources, .. }| resources).filter(is_secret).map(ToString::to_string).collect()
}

/// The paths that hold a secret value, or held one, as far as any ledger of this host has it in writing.
fn known(ledgers: &[Ledger]) -> BTreeSet<String> {
    let entries = ledgers.iter().flat_map(|ledger| ledger.entries()).filter(|(_, entry)| entry.secret);
    let path = |item: &Item| if let Item::Path(path) = item { Some(path.clone()) } else { None };
    entries.filter_map(|(item, _)| path(item)).collect()
}

/// Whether a content is one that a spec had.
fn is_ours(ledgers: &[Ledger], path: &str, content: &[u8]) -> bool {
    let item = Item::Path(path.to_owned());
    let of_spec = |entry: &Entry| match (&entry.provenance, &entry.made) {
        (Provenance::Adopted, _) => false,
        (_, Shape::File { digest, .. }) => *digest == Sha256::of(content),
        _ => false,
    };
    ledgers.iter().filter_map(|ledger| ledger.get(&item)).any(of_spec)
}

/// What is made of an archive, each in a line.
fn of_parts(parts: &[Action]) -> String {
    let line = |part: &Action| match part {
        Action::MakeDirectory { path, .. } => Some(format!("directory {path}")),
        Action::UnpackFile { path, size, .. } => Some(format!("file {path}, {size} bytes")),
        Action::Link { path, target, .. } => Some(format!("symlink {path} to {target}")),
        Action::SetAccess { path, .. } => Some(format!("owner and mode of {path}")),
        _ => None,
    };
    let mut lines: Vec<String> = parts.iter().filter_map(line).collect();
    cut(&mut lines);
    lines.join("\n")
}

/// Leaves out what would be too much.
fn cut(lines: &mut Vec<String>) {
    if lines.len() > MAX_LINES {
        let more = lines.len() - MAX_LINES;
        lines.truncate(MAX_LINES);
        lines.push(format!("… and {more} more lines"));
    }
}

fn of_file(host: &Host, ledgers: &[Ledger], path: &str, new: &[u8], is_secret: bool) -> Option<String> {
    if is_secret {
        return Some("(secret: not shown)".to_owned());
    }
    let read = host.root.locate(path).and_then(|place| match place.look()? {
        // What it leads to stays.
        Some(meta) if meta.kind == Kind::Link => Ok((None, false)),
        _ => Ok((place.read(MAX_BYTES)?, place.is_closed())),
    });
    let (old, is_closed) = match read {
        Ok((old, is_closed)) => (old, is_closed),
        Err(error) => return Some(format!("(not shown: {error})")),
    };
    let is_private = |mode: u32| is_closed || mode & 0o004 == 0;
    match old {
        Some((old, _)) if old == new => None,
        Some((old, meta)) if is_private(meta.mode) && !is_ours(ledgers, path, &old) => {
            Some("(what is there is not for everybody to read: not shown)".to_owned())
        }
        old => Some(unified(path, old.as_ref().map(|(old, _)| old.as_slice()), new)),
    }
}

/// A unified diff; `old`: what is there, if anything is.
fn unified(path: &str, old: Option<&[u8]>, new: &[u8]) -> String {
    let text = |bytes| std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
    let was = old.unwrap_or_default();
    let (Some(was), Some(shall)) = (text(was), text(new)) else {
        return match old {
            Some(old) => format!("(binary content: {} bytes to {} bytes)", old.len(), new.len()),
            None => format!("(binary content: {} bytes)", new.len()),
        };
    };
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(was, shall);
    let from = if old.is_some() { path } else { "/dev/null" };
    let whole = diff.unified_diff().header(from, path).to_string();
    let mut lines: Vec<String> = whole.trim_end_matches('\n').split('\n').map(shown).collect();
    cut(&mut lines);
    lines.join("\n")
}

/// A line as a terminal may have it: whoever can write a file must not be able to write to the terminal of who looks at it.
fn shown(line: &str) -> String {
    let mut shown = String::new();
    for (index, character) in line.chars().enumerate() {
        match character {
            _ if index == MAX_WIDTH => {
                shown.push('…');
                break;
            }
            '\t' => shown.push('\t'),
            control if control.is_control() => shown.extend(control.escape_default()),
            other => shown.push(other),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_shown_with_what_is_around_it() {
        let old = "a\nb\nc\nd\ne\nf\n";
        let new = "a\nb\nc\nd\nE\nf\n";
        assert_eq!(
            unified("/etc/x", Some(old.as_bytes()), new.as_bytes()),
            "--- /etc/x\n+++ /etc/x\n@@ -2,5 +2,5 @@\n b\n c\n d\n-e\n+E\n f"
        );
        assert_eq!(
            unified("/etc/x", None, b"one"),
            "--- /dev/null\n+++ /etc/x\n@@ -0,0 +1 @@\n+one\n\\ No newline at end of file"
        );
    }

    #[test]
    fn it_is_bounded_and_says_what_is_left_out() {
        let long = "x".repeat(2000) + "\n";
        let shown = unified("/etc/x", None, long.repeat(250).as_bytes());
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!((lines.len(), lines[MAX_LINES]), (MAX_LINES + 1, "… and 153 more lines"));
        assert!(lines.iter().all(|line| line.chars().count() <= MAX_WIDTH + 1));
    }

    #[test]
    fn nothing_in_a_file_reaches_the_terminal_as_a_command() {
        let shown = unified("/etc/x", Some(b"\x1b[2Jgone\r\n"), b"\ttab\n");
        assert!(shown.contains("-\\u{1b}[2Jgone\\r\n+\ttab"), "{shown}");
        assert_eq!(unified("/etc/x", Some(b"\xff"), b"text"), "(binary content: 1 bytes to 4 bytes)");
        assert_eq!(unified("/etc/x", None, b"a\0b"), "(binary content: 3 bytes)");
    }
}
