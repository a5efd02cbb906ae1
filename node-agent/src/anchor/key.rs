//! A key of a TOML file, found by its path and edited where it stands. Pure.
//!
//! Only the bytes of its value, or of its line, are touched. A table that a new key needs is put at the end, marked as ours,
//! and goes with its last key. What was edited is read once more, so that no file is written that is no TOML.

use std::ops::Range;

use toml_edit::{Document, Item, Key, Table, TomlError, Value};

use super::{Found, Unclear, end_of, without_end};

/// What stands behind the header of a table that was added.
const ADDED: &str = " # added by nodebootstrap";

/// Where a key is, or would be.
enum Spot<'a> {
    /// It has a value.
    There {
        value: Range<usize>,
        /// The table that it is in, by whose lines; `None`: one on a single line.
        table: Option<&'a Table>,
    },
    /// It would be a line of a table that is there.
    Line { at: usize, key: String, indent: &'a str },
    /// It would be in a table that is not there.
    Section { header: String, key: String },
}

/// Where a key is.
pub(super) fn find(bytes: &[u8], path: &[String]) -> Result<Option<Found>, Unclear> {
    let text = text(bytes)?;
    let document = parse(text)?;
    Ok(match spot(text, document.as_table(), path)? {
        Spot::There { value, .. } => Some(Found {
            text: text[value.clone()].to_owned(),
            lines: (line(text, value.start), line(text, value.end)),
            whole: whole(text, &value),
            inner: value,
        }),
        Spot::Line { .. } | Spot::Section { .. } => None,
    })
}

/// The file with another value, or without the key.
pub(super) fn edit(bytes: &[u8], path: &[String], value: Option<&str>) -> Result<Vec<u8>, Unclear> {
    let text = text(bytes)?;
    let document = parse(text)?;
    let edited = match (spot(text, document.as_table(), path)?, value) {
        (Spot::There { value: old, .. }, Some(new)) => {
            format!("{}{new}{}", &text[..old.start], &text[old.end..])
        }
        (Spot::There { value, table: Some(table) }, None) => without(text, table, &value),
        (Spot::There { value, table: None }, None) => {
            return Err(other_shape(text, path, value.start, "a table on one line"));
        }
        (Spot::Line { at, key, indent }, Some(new)) => with(text, at, &[format!("{indent}{key} = {new}")]),
        (Spot::Section { header, key }, Some(new)) => {
            with(text, text.len(), &[format!("[{header}]{ADDED}"), format!("{key} = {new}")])
        }
        (Spot::Line { .. } | Spot::Section { .. }, None) => return Ok(bytes.to_vec()),
    };
    let document = parse(&edited)?;
    match (spot(&edited, document.as_table(), path)?, value) {
        (Spot::There { .. }, Some(_)) | (Spot::Line { .. } | Spot::Section { .. }, None) => {}
        (spot, _) => {
            let at = if let Spot::There { value, .. } = spot { value.start } else { 0 };
            return Err(other_shape(&edited, path, at, "not where it was put"));
        }
    }
    Ok(edited.into_bytes())
}

/// Whether two values are the same, however they are written.
pub(super) fn is_same(one: &str, other: &str) -> bool {
    match (one.parse::<Value>(), other.parse::<Value>()) {
        (Ok(one), Ok(other)) => same(&one, &other),
        _ => one == other,
    }
}

fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::String(one), Value::String(other)) => one.value() == other.value(),
        (Value::Integer(one), Value::Integer(other)) => one.value() == other.value(),
        (Value::Float(one), Value::Float(other)) => one.value().to_bits() == other.value().to_bits(),
        (Value::Boolean(one), Value::Boolean(other)) => one.value() == other.value(),
        (Value::Datetime(one), Value::Datetime(other)) => one.value() == other.value(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::InlineTable(one), Value::InlineTable(other)) => {
            let is_in = |(key, value): (&str, &Value)| other.get(key).is_some_and(|other| same(value, other));
            one.len() == other.len() && one.iter().all(is_in)
        }
        _ => false,
    }
}

/// A path as it stands in a header.
pub fn shown(path: &[String]) -> String {
    path.iter().map(|key| Key::new(key).to_string()).collect::<Vec<_>>().join(".")
}

fn text(bytes: &[u8]) -> Result<&str, Unclear> {
    std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        Unclear::NotText { line: before + 1 }
    })
}

fn parse(text: &str) -> Result<Document<&str>, Unclear> {
    Document::parse(text).map_err(|error: TomlError| Unclear::NotToml {
        line: line(text, error.span().map_or(0, |span| span.start)),
        why: error.message().trim().to_owned(),
    })
}

/// The number of the line of a place, from 1.
fn line(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

fn other_shape(text: &str, path: &[String], at: usize, found: &'static str) -> Unclear {
    Unclear::OtherShape { key: shown(path), line: line(text, at), found }
}

fn spot<'a>(text: &'a str, root: &'a Table, path: &[String]) -> Result<Spot<'a>, Unclear> {
    // The table whose lines these are, and how many keys lead there: those behind it stand in front of each line.
    let (mut table, mut body, mut depth) = (root, root, 0);
    for (index, key) in path.iter().enumerate() {
        let is_last = index + 1 == path.len();
        let here = &path[..=index];
        let at = || table.get(key).and_then(Item::span).unwrap_or_default().start;
        match table.get(key) {
            None | Some(Item::None) => return missing(text, (table, index), (body, depth), path),
            Some(Item::Table(next)) if !is_last => {
                table = next;
                if !next.is_dotted() {
                    (body, depth) = (next, index + 1);
                }
            }
            Some(Item::Value(Value::InlineTable(inline))) if !is_last => {
                return in_line(text, inline, path, index + 1);
            }
            Some(Item::Value(value)) if is_last && !value.is_inline_table() => {
                return Ok(Spot::There { value: value.span().unwrap_or_default(), table: Some(table) });
            }
            Some(Item::Value(Value::InlineTable(_)) | Item::Table(_)) => {
                return Err(other_shape(text, here, at(), "a table"));
            }
            Some(Item::Value(_)) => return Err(other_shape(text, here, at(), "a value")),
            Some(Item::ArrayOfTables(_)) => return Err(other_shape(text, here, at(), "a list of tables")),
        }
    }
    Err(other_shape(text, path, 0, "the whole file"))
}

/// What is in a table on one line can be changed; that it has another key would be another line.
fn in_line<'a>(
    text: &str,
    inline: &toml_edit::InlineTable,
    path: &[String],
    depth: usize,
) -> Result<Spot<'a>, Unclear> {
    let at = inline.span().unwrap_or_default().start;
    let mut value = inline.get(&path[depth]);
    for key in &path[depth + 1..] {
        value = value.and_then(|value| value.as_inline_table()?.get(key));
    }
    match value.filter(|value| !value.is_inline_table()).and_then(Value::span) {
        Some(value) => Ok(Spot::There { value, table: None }),
        None => Err(other_shape(text, &path[..depth], at, "a table on one line")),
    }
}

/// Where a key would be. `table`: the last of its tables that there is, `body`: that whose lines those are.
fn missing<'a>(
    text: &'a str,
    (table, index): (&Table, usize),
    (body, depth): (&Table, usize),
    path: &[String],
) -> Result<Spot<'a>, Unclear> {
    let is_root = depth == 0;
    let has_lines = is_root || !body.is_implicit();
    // Of a table that has no header keys stand behind its name, and only there.
    if has_lines && (table.is_dotted() || index + 1 == path.len()) {
        let first = body.iter().find_map(|(_, item)| item.as_value()?.span());
        let indent = first.map_or("", |value| indent(text, value.start));
        let at = if is_root {
            below_root(text, body)
        } else {
            next_line(text, body.span().unwrap_or_default().end)
        };
        return Ok(Spot::Line { at, key: shown(&path[depth..]), indent });
    }
    let (last, tables) = path.split_last().ok_or_else(|| other_shape(text, path, 0, "the whole file"))?;
    Ok(Spot::Section { header: shown(tables), key: shown(std::slice::from_ref(last)) })
}

/// Where a line of the whole file's own table can stand: behind those that there are.
fn below_root(text: &str, root: &Table) -> usize {
    let ends = root.iter().filter_map(|(_, item)| Some(item.as_value()?.span()?.end));
    let bom = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    ends.max().map_or(bom, |end| next_line(text, end))
}

/// Where the line behind a place begins.
fn next_line(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |end| at + end + 1)
}

/// Where the line of a place begins.
fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |end| end + 1)
}

/// The blanks that the line of a place begins with.
fn indent(text: &str, at: usize) -> &str {
    let line = &text[line_start(text, at)..at];
    &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
}

/// The lines of a value, with its key.
fn whole(text: &str, value: &Range<usize>) -> Range<usize> {
    line_start(text, value.start)..next_line(text, value.end)
}

/// The file with lines at a place where one begins.
fn with(text: &str, at: usize, lines: &[String]) -> String {
    let end = end_of(text.as_bytes());
    let is_unended = at == text.len() && !text.is_empty() && !text.ends_with('\n');
    let lines: String = match is_unended {
        true => lines.iter().map(|line| format!("{end}{line}")).collect(),
        false => lines.iter().map(|line| format!("{line}{end}")).collect(),
    };
    format!("{}{lines}{}", &text[..at], &text[at..])
}

/// The file without the lines of a value; and without the header above, if that was added and has nothing else.
fn without(text: &str, table: &Table, value: &Range<usize>) -> String {
    let lines = whole(text, value);
    let is_alone = table.iter().filter(|(_, item)| is_in_lines(item)).count() == 1;
    let header = table.span().filter(|_| is_alone && !table.is_dotted() && !table.is_implicit());
    let header = header.map(|header| whole(text, &header)).filter(|header| {
        header.end <= lines.start && text[header.clone()].trim_end_matches(['\r', '\n']).ends_with(ADDED)
    });
    let header = header.unwrap_or(lines.start..lines.start);
    let before = [&text[..header.start], &text[header.end..lines.start]].concat();
    let behind = &text[lines.end..];
    let is_unended = behind.is_empty() && !text.ends_with('\n');
    let before = if is_unended { without_end(before.as_bytes()) } else { before.as_bytes() };
    format!("{}{behind}", String::from_utf8_lossy(before))
}

/// Whether it stands in the lines below a table's header, and not under one of its own.
fn is_in_lines(item: &Item) -> bool {
    match item {
        Item::Value(_) => true,
        Item::Table(table) => table.is_dotted(),
        Item::ArrayOfTables(_) | Item::None => false,
    }
}
