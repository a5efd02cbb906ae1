//! A part of a file that others own: lines of ours between two that mark them, one line, or the value of a key. Pure.
//!
//! In: the bytes of a file, and how the part is found in it. Out: where it is; or the file with another text in its
//! place, at its end, or without it. All other bytes stay as they are, whatever they are. What is added is written with
//! the line ends of the file, and a file whose last line has no end stays one: what is taken out again leaves no trace.

pub(crate) mod key;

use std::collections::BTreeMap;
use std::ops::Range;

use crds::revision::{Anchor, BEGIN, END};
use thiserror::Error;

/// The largest file that parts are kept in, in bytes.
pub const MAX_FILE: u64 = 1 << 20;

/// A part as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its lines, without the end of the last.
    pub text: String,
    /// The numbers of its lines, from 1, with those that mark it.
    pub lines: (usize, usize),
    /// The bytes that the text takes.
    inner: Range<usize>,
    /// The bytes that go with it, the end of its last line too.
    whole: Range<usize>,
}

/// Why nobody can tell where a part is, or how it would be written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unclear {
    /// Several lines could be it.
    #[error(
        "lines {first} and {second} both begin with {start:?}, and only the program that reads them knows which counts: remove one of them, or give a longer replaces"
    )]
    Several {
        /// How they begin.
        start: String,
        /// The number of the first, from 1.
        first: usize,
        /// That of the second.
        second: usize,
    },
    /// A line that marks a block has no counterpart.
    #[error(
        "line {line} is {marker:?}, which has no line that belongs to it: remove it, with what is left of the block"
    )]
    Unpaired {
        /// Its number, from 1.
        line: usize,
        /// What it is.
        marker: String,
    },
    /// It would not be put back as it was.
    #[error("line {line} is no UTF-8, and could not be put back as it was: correct or remove it")]
    NotText {
        /// Its number, from 1.
        line: usize,
    },
    /// What has a key in it is no TOML, or would be none.
    #[error("line {line} is no TOML: {why}: correct it")]
    NotToml {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// A key cannot be kept there.
    #[error(
        "{key}, in line {line}, is {found}, in which a key cannot be kept: write it as a table of its own, [{key}], or leave it out"
    )]
    OtherShape {
        /// What is in the way, as in a header.
        key: String,
        /// The number of its line, from 1.
        line: usize,
        /// What it is.
        found: &'static str,
    },
    /// With it the file would be too large.
    #[error("it would have more than {MAX_FILE} bytes: take parts out of it")]
    TooLarge,
}

impl Unclear {
    /// The cause in one word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Several { .. } => "SeveralLines",
            Self::Unpaired { .. } | Self::NotText { .. } => "PartDamaged",
            Self::NotToml { .. } => "NotToml",
            Self::OtherShape { .. } => "OtherShape",
            Self::TooLarge => "TooLarge",
        }
    }
}

/// One line of a file.
#[derive(Clone, Copy)]
struct Line<'a> {
    /// From 1.
    number: usize,
    start: usize,
    content: &'a [u8],
    /// Where the next line starts.
    next: usize,
}

impl Line<'_> {
    /// The bytes of its content.
    fn inner(&self) -> Range<usize> {
        self.start..self.start + self.content.len()
    }
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let mut start = 0;
    bytes.split_inclusive(|byte| *byte == b'\n').zip(1..).map(move |(line, number)| {
        // Whatever ends it stays when its content is replaced.
        let mut content = line.strip_suffix(b"\n").unwrap_or(line);
        while let Some(shorter) = content.strip_suffix(b"\r") {
            content = shorter;
        }
        let this = Line { number, start, content, next: start + line.len() };
        start = this.next;
        this
    })
}

/// Where a part is.
///
/// # Errors
/// If that is not clear.
pub fn find(bytes: &[u8], anchor: &Anchor) -> Result<Option<Found>, Unclear> {
    match anchor {
        Anchor::Block { comment, name } => find_block(bytes, comment, name),
        Anchor::Begins(_) | Anchor::Is(_) => find_line(bytes, anchor),
        Anchor::Key(path) => key::find(bytes, path),
    }
}

fn find_block(bytes: &[u8], comment: &str, name: &str) -> Result<Option<Found>, Unclear> {
    let (begin, end) = Anchor::markers(comment, name);
    let unpaired = |line: Line<'_>| Unclear::Unpaired {
        line: line.number,
        marker: String::from_utf8_lossy(line.content).into_owned(),
    };
    let (mut open, mut found) = (None::<Line<'_>>, None);
    for line in lines(bytes) {
        match open {
            None if line.content == begin.as_bytes() && found.is_none() => open = Some(line),
            Some(first) if line.content == end.as_bytes() => {
                let inner = first.next..line.start;
                let text = text(&bytes[inner.clone()], first.number + 1)?;
                let lines = (first.number, line.number);
                found = Some(Found { text, lines, inner, whole: first.start..line.next });
                open = None;
            }
            // A second one, or one half of one; and a block of somebody else's is never inside ours.
            None if [&begin, &end].iter().any(|marker| line.content == marker.as_bytes()) => {
                return Err(unpaired(line));
            }
            Some(first) if is_marker(line.content, BEGIN) || is_marker(line.content, END) => {
                return Err(unpaired(first));
            }
            _ => {}
        }
    }
    match open {
        Some(first) => Err(unpaired(first)),
        None => Ok(found),
    }
}

fn find_line(bytes: &[u8], anchor: &Anchor) -> Result<Option<Found>, Unclear> {
    let mut hits = Vec::new();
    // The ends that blocks which have begun would have, and how many hits there were before each: those in a block do not
    // count, if it has an end.
    let mut open: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for line in lines(bytes) {
        if let Some(before) = open.remove(line.content) {
            hits.truncate(before);
        } else if is_marker(line.content, BEGIN) {
            let end = String::from_utf8_lossy(line.content).replacen(BEGIN, END, 1);
            open.insert(end.into_bytes(), hits.len());
        } else if anchor.is_of(line.content) {
            hits.push(line);
        }
    }
    let line = match (anchor, hits.as_slice()) {
        (Anchor::Begins(start), [first, second, ..]) => {
            let (first, second) = (first.number, second.number);
            return Err(Unclear::Several { start: start.clone(), first, second });
        }
        // Of lines that are the same, the one that was added.
        (_, [.., line]) => *line,
        (_, []) => return Ok(None),
    };
    Ok(Some(Found {
        text: text(line.content, line.number)?,
        lines: (line.number, line.number),
        inner: line.inner(),
        whole: line.start..line.next,
    }))
}

/// Whether a line marks a block, of whatever name.
fn is_marker(line: &[u8], middle: &str) -> bool {
    let at = line.windows(middle.len()).position(|window| window == middle.as_bytes());
    at.is_some_and(|at| at > 0 && at + middle.len() < line.len())
}

/// The lines of a part, without the end of the last; `number`: that of the first.
fn text(bytes: &[u8], number: usize) -> Result<String, Unclear> {
    let not_text = |line: usize| Unclear::NotText { line: number + line };
    let is_text = |line: &[u8]| std::str::from_utf8(line).is_ok();
    if let Some(line) = bytes.split(|byte| *byte == b'\n').position(|line| !is_text(line)) {
        return Err(not_text(line));
    }
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_suffix('\n').map_or(&*text, |text| text.strip_suffix('\r').unwrap_or(text));
    Ok(text.replace("\r\n", "\n"))
}

/// The file with another text in a part; `None`: without it.
///
/// # Errors
/// If it is not clear where the part is, or the file would be too large.
pub fn edit(bytes: &[u8], anchor: &Anchor, text: Option<&str>) -> Result<Vec<u8>, Unclear> {
    let edited = match anchor {
        Anchor::Key(path) => key::edit(bytes, path, text)?,
        Anchor::Block { .. } | Anchor::Begins(_) | Anchor::Is(_) => edit_lines(bytes, anchor, text)?,
    };
    if edited.len() as u64 > MAX_FILE { Err(Unclear::TooLarge) } else { Ok(edited) }
}

/// Whether a part that was found is as it shall be. Of a key it does not matter how its value is written.
pub fn is_same(anchor: &Anchor, found: &str, shall: &str) -> bool {
    found == shall || matches!(anchor, Anchor::Key(_)) && key::is_same(found, shall)
}

fn edit_lines(bytes: &[u8], anchor: &Anchor, text: Option<&str>) -> Result<Vec<u8>, Unclear> {
    let found = find(bytes, anchor)?;
    Ok(match (found, text) {
        (None, None) => bytes.to_vec(),
        (None, Some(text)) => added(bytes, anchor, text),
        (Some(found), Some(text)) => {
            let mut new = text.to_owned();
            if matches!(anchor, Anchor::Block { .. }) {
                // The line that marks its begin has an end, since another comes behind it.
                let end = end_of(&bytes[found.whole.start..found.inner.start]);
                new = text.split('\n').map(|line| format!("{line}{end}")).collect();
            }
            [&bytes[..found.inner.start], new.as_bytes(), &bytes[found.inner.end..]].concat()
        }
        (Some(found), None) => {
            let (before, behind) = (&bytes[..found.whole.start], &bytes[found.whole.end..]);
            let is_unended = behind.is_empty() && !bytes.ends_with(b"\n");
            let before = if is_unended { without_end(before) } else { before };
            [before, behind].concat()
        }
    })
}

/// The file with a part at its end.
fn added(bytes: &[u8], anchor: &Anchor, text: &str) -> Vec<u8> {
    let mut new: Vec<String> = text.split('\n').map(str::to_owned).collect();
    if let Anchor::Block { comment, name } = anchor {
        let (first, last) = Anchor::markers(comment, name);
        new.insert(0, first);
        new.push(last);
    }
    let end = end_of(bytes);
    let is_unended = !bytes.is_empty() && !bytes.ends_with(b"\n");
    let new: String = match is_unended {
        true => new.iter().map(|line| format!("{end}{line}")).collect(),
        false => new.iter().map(|line| format!("{line}{end}")).collect(),
    };
    [bytes, new.as_bytes()].concat()
}

/// How lines end here: as the first does.
fn end_of(bytes: &[u8]) -> &'static str {
    let first = bytes.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
    // Of a single line without an end the last byte decides, so that what is added can be told from it again.
    if first.ends_with(b"\r\n") || first.ends_with(b"\r") { "\r\n" } else { "\n" }
}

/// The file without the end of its last line, as it was before something was added behind.
fn without_end(bytes: &[u8]) -> &[u8] {
    bytes.strip_suffix(end_of(bytes).as_bytes()).or_else(|| bytes.strip_suffix(b"\n")).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(name: &str) -> Anchor {
        Anchor::Block { comment: "#".to_owned(), name: name.to_owned() }
    }

    fn begins(start: &str) -> Anchor {
        Anchor::Begins(start.to_owned())
    }

    fn edited(bytes: &str, anchor: &Anchor, text: Option<&str>) -> String {
        String::from_utf8(edit(bytes.as_bytes(), anchor, text).unwrap()).unwrap()
    }

    #[test]
    fn a_block_is_added_at_the_end_and_changed_where_it_is() {
        let added = edited("a\n", &block("p"), Some("x\ny"));
        assert_eq!(added, "a\n# BEGIN nodebootstrap p\nx\ny\n# END nodebootstrap p\n");
        // Moved by hand, it stays where it is.
        let moved = "# BEGIN nodebootstrap p\nx\n# END nodebootstrap p\na\n";
        let changed = edited(moved, &block("p"), Some("z"));
        assert_eq!(changed, "# BEGIN nodebootstrap p\nz\n# END nodebootstrap p\na\n");
        assert_eq!(edited(&changed, &block("p"), None), "a\n");
        let emptied = "# BEGIN nodebootstrap p\n# END nodebootstrap p\n";
        assert_eq!(find(emptied.as_bytes(), &block("p")).unwrap().unwrap().text, "");
        assert_eq!(
            edited(emptied, &block("p"), Some("x")),
            "# BEGIN nodebootstrap p\nx\n# END nodebootstrap p\n"
        );
    }

    #[test]
    fn a_line_takes_the_place_of_the_one_that_begins_so() {
        let file = "# x=0\n  x=1\r\nxy=2\n";
        assert_eq!(edited(file, &begins("x="), Some("x=3")), "# x=0\nx=3\r\nxy=2\n");
        assert_eq!(edited(file, &begins("z="), Some("z=3")), "# x=0\n  x=1\r\nxy=2\nz=3\n");
        assert_eq!(edited(file, &Anchor::Is("xy=2".to_owned()), Some("xy=2")), file);
        let two = find(b"x=1\ny\nx=2\n", &begins("x=")).unwrap_err();
        assert_eq!(two, Unclear::Several { start: "x=".to_owned(), first: 1, second: 3 });
        // Those of a block are somebody else's.
        let blocked = "# BEGIN nodebootstrap p\nx=1\n# END nodebootstrap p\nx=2\n";
        assert_eq!(find(blocked.as_bytes(), &begins("x=")).unwrap().unwrap().lines, (4, 4));
        // Of one that has no end they count: else the line would be added again and again.
        let nested = "# BEGIN nodebootstrap o\n# BEGIN nodebootstrap p\nx=1\n# END nodebootstrap p\n";
        assert_eq!(find(nested.as_bytes(), &begins("x=")), Ok(None));
        let half = edited("# BEGIN nodebootstrap p\n", &begins("x="), Some("x=1"));
        assert_eq!(edited(&half, &begins("x="), Some("x=1")), half);
    }

    #[test]
    fn half_a_block_is_nobody_s_to_guess_at() {
        for (file, line) in [
            ("# BEGIN nodebootstrap p\nx\n", 1),
            ("x\n# END nodebootstrap p\n", 2),
            ("# BEGIN nodebootstrap p\n# BEGIN nodebootstrap p\n# END nodebootstrap p\n", 1),
            (
                "# BEGIN nodebootstrap p\n; BEGIN nodebootstrap q\n; END nodebootstrap q\n# END nodebootstrap p\n",
                1,
            ),
            (
                "# BEGIN nodebootstrap p\n# END nodebootstrap p\n# BEGIN nodebootstrap p\n# END nodebootstrap p\n",
                3,
            ),
        ] {
            let unclear = find(file.as_bytes(), &block("p"));
            assert!(
                matches!(unclear, Err(Unclear::Unpaired { line: at, .. }) if at == line),
                "{file}: {unclear:?}"
            );
        }
        assert_eq!(find(b"a\nx=\xff\n", &begins("x=")), Err(Unclear::NotText { line: 2 }));
        let large = vec![b'a'; 1 << 20];
        assert_eq!(edit(&large, &block("p"), Some("x")), Err(Unclear::TooLarge));
    }

    /// A file of pieces that are likely to meet what is looked for.
    fn file() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => proptest::sample::select(vec![
                "\n", "\r\n", "\r", "x=1", " x=1", "y", "a", "# BEGIN nodebootstrap q", "# END nodebootstrap q", "",
            ])
            .prop_map(|text| text.as_bytes().to_vec()),
            1 => proptest::collection::vec(any::<u8>(), 0..4),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    fn part() -> impl Strategy<Value = (Anchor, &'static str)> {
        proptest::sample::select(vec![
            (block("p"), "one\ntwo"),
            (block("r"), ""),
            (block("q"), "x=1"),
            (begins("x="), "x=2"),
            (begins("w="), "w=1"),
            (Anchor::Is("y".to_owned()), "y"),
            (Anchor::Is("v".to_owned()), "v"),
        ])
    }

    proptest! {
        #[test]
        fn what_is_made_is_found_and_what_is_put_back_leaves_no_trace(
            file in file(), parts in proptest::collection::vec(part(), 1..4), order in any::<u64>(),
        ) {
            let mut parts = parts;
            parts.sort();
            parts.dedup();
            let (mut now, mut made) = (file.clone(), Vec::new());
            for (anchor, text) in &parts {
                let Ok(found) = find(&now, anchor) else { continue };
                let was = found.map(|found| found.text);
                // A block that was there before is ours, but for how its lines end.
                if was.is_some() && matches!(anchor, Anchor::Block { .. }) {
                    continue;
                }
                let edited = edit(&now, anchor, Some(text)).unwrap();
                prop_assert_eq!(find(&edited, anchor).unwrap().unwrap().text, *text);
                prop_assert_eq!(&edit(&edited, anchor, Some(text)).unwrap(), &edited, "the second time nothing changes");
                now = edited;
                made.push((anchor, was));
            }
            if order % 2 == 0 {
                made.reverse();
            }
            for (anchor, was) in made {
                now = edit(&now, anchor, was.as_deref()).unwrap();
            }
            prop_assert_eq!(now, file);
        }

        #[test]
        fn all_other_lines_stay(file in file(), (anchor, text) in part()) {
            let Ok(edited) = edit(&file, &anchor, Some(text)) else { return Ok(()) };
            // Both without the part: nothing else was touched.
            let without = |bytes: &[u8]| edit(bytes, &anchor, None).unwrap();
            prop_assert_eq!(without(&edited), without(&file));
        }
    }
}
