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
pub(crate) fn shown(path: &[String]) -> String {
    path.iter().map(|key| Key::new(key).to_string()).collect::<Vec<_>>().join(".")
}

fn text(bytes: &[u8]) -> Result<&str, Unclear> {
    std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        Unclear::NotText { line: before + 1 }
    })
}

fn parse(text: &str) -> Result<Document<&str>, Unclear> {
    // The places that are told would be those behind it.
    if text.starts_with('\u{feff}') {
        let why = "it begins with a byte order mark: take that away".to_owned();
        return Err(Unclear::NotToml { line: 1, why });
    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;
    use proptest::sample::{select, subsequence};

    fn path(dotted: &str) -> Vec<String> {
        dotted.split('.').map(str::to_owned).collect()
    }

    fn edited(file: &str, key: &str, value: Option<&str>) -> String {
        String::from_utf8(edit(file.as_bytes(), &path(key), value).unwrap()).unwrap()
    }

    #[test]
    fn a_key_is_put_where_its_table_is() {
        let file = "version = 2 # two\n\n[a]\n  x = 'old' # why\n[a.b]\nd.e = 1\n";
        assert_eq!(edited(file, "a.x", Some("\"new\"")), file.replace("'old'", "\"new\""));
        assert_eq!(edited(file, "a.y", Some("1")), file.replace("[a]\n", "[a]\n  y = 1\n"));
        assert_eq!(edited(file, "root", Some("1")), file.replace("two\n", "two\nroot = 1\n"));
        assert_eq!(edited(file, "a.b.d.f", Some("2")), file.replace("[a.b]\n", "[a.b]\nd.f = 2\n"));
        let added = edited(file, "c.d e.x", Some("[1]"));
        assert_eq!(added, format!("{file}[c.\"d e\"] # added by nodebootstrap\nx = [1]\n"));
        assert_eq!(edited(&added, "c.d e.x", None), file);
        // Others use the table by now.
        let used = format!("{added}y = 1\n");
        assert_eq!(edited(&used, "c.d e.x", None), used.replace("x = [1]\n", ""));
    }

    #[test]
    fn what_has_no_place_for_a_key_is_told_with_its_line() {
        let line_and_reason = |file: &str, key: &str| {
            let unclear = edit(file.as_bytes(), &path(key), Some("1")).unwrap_err();
            let line = match unclear {
                Unclear::OtherShape { line, .. } | Unclear::NotToml { line, .. } => line,
                ref other => panic!("{other}"),
            };
            (line, unclear.reason())
        };
        assert_eq!(line_and_reason("\na = {x = 1}\n", "a.y"), (2, "OtherShape"));
        assert_eq!(line_and_reason("\na = 1\n", "a.y"), (2, "OtherShape"));
        assert_eq!(line_and_reason("\n[[a]]\nx = 1\n", "a.y"), (2, "OtherShape"));
        assert_eq!(line_and_reason("\n[a]\nx = 1\n", "a"), (2, "OtherShape"));
        assert_eq!(line_and_reason("x = 1\n[a\n", "b"), (2, "NotToml"));
        assert_eq!(edited("a = {x = 1, y = 2}\n", "a.x", Some("3")), "a = {x = 3, y = 2}\n");
    }

    #[test]
    fn how_a_value_is_written_does_not_matter() {
        assert!(is_same("'x'", "\"x\"") && is_same("[ 1,\n2 ]", "[1, 2]") && is_same("0x10", "16"));
        assert!(is_same("{a = 1, b = 'c'}", "{b = \"c\", a = 1}"));
        assert!(!is_same("1", "\"1\"") && !is_same("[1, 2]", "[2, 1]") && !is_same("true", "false"));
    }

    /// The values by the keys that lead to them.
    fn leaves(bytes: &[u8]) -> BTreeMap<Vec<String>, String> {
        fn add(
            table: &dyn toml_edit::TableLike,
            path: &mut Vec<String>,
            all: &mut BTreeMap<Vec<String>, String>,
        ) {
            for (key, item) in table.iter() {
                path.push(key.to_owned());
                match item {
                    Item::Table(table) => add(table, path, all),
                    other => _ = all.insert(path.clone(), other.to_string().trim().to_owned()),
                }
                path.pop();
            }
        }
        let text = std::str::from_utf8(bytes).unwrap();
        let document: toml_edit::DocumentMut = text.parse().unwrap();
        let mut all = BTreeMap::new();
        add(document.as_table(), &mut Vec::new(), &mut all);
        all
    }

    /// A file as people write them; not all of them are TOML.
    fn file() -> impl Strategy<Value = String> {
        let line = select(vec![
            "x = 1",
            "  y = 'text' # why",
            "z = [\n  1, # one\n  2,\n]",
            "d.e = true",
            "d.f.g = 0x10",
            "# x = 2",
            "",
            "s = \"\"\"\n[a]\nx = 1\n\"\"\"",
            "t = {x = 1}",
            "q=\"1\"",
            "[[list]]\nx = 1",
        ]);
        let headers = vec![
            "[a]",
            "  [a.b] # a comment",
            "[a.b.c]",
            "[plugins.\"io.containerd.grpc.v1.cri\"]",
            "[ d ]",
            "[plugins.'io.containerd.cri.v1.images'.registry]",
        ];
        let lines = |line| proptest::collection::vec(line, 0..4);
        let sections = subsequence(headers, 0..5).prop_shuffle();
        let sections = sections.prop_flat_map(move |headers| {
            headers.into_iter().map(|header| (Just(header), lines(line.clone()))).collect::<Vec<_>>()
        });
        let line = select(vec!["version = 2", "x = 1 # one", "d.e = 1", "", "# text", "z = [1]"]);
        let root = proptest::collection::vec(line, 0..4);
        (root, sections, any::<bool>(), any::<bool>()).prop_map(|(root, sections, is_ended, has_returns)| {
            let below = sections.into_iter().flat_map(|(header, lines)| std::iter::once(header).chain(lines));
            let mut text = root.into_iter().chain(below).collect::<Vec<_>>().join("\n");
            if is_ended {
                text.push('\n');
            }
            if has_returns { text.replace('\n', "\r\n") } else { text }
        })
    }

    fn keys() -> impl Strategy<Value = Vec<(Vec<String>, &'static str)>> {
        let deep = |plugin: &str, rest: &[&str]| {
            ["plugins", plugin].iter().chain(rest).map(|key| (*key).to_owned()).collect::<Vec<_>>()
        };
        let all = vec![
            (path("x"), "7"),
            (path("version"), "3"),
            (path("a.x"), "\"new\""),
            (path("a.new"), "[1, 2]"),
            (path("a.b.y"), "true"),
            (path("a.b.c.d.e"), "1"),
            (path("d.e"), "2"),
            (path("d.new"), "2"),
            (path("n.o.p"), "{a = 1}"),
            (path("n.o.q"), "1"),
            (path("n.r"), "1"),
            (deep("io.containerd.grpc.v1.cri", &["sandbox_image"]), "\"pause\""),
            (
                deep(
                    "io.containerd.grpc.v1.cri",
                    &["containerd", "runtimes", "runc", "options", "SystemdCgroup"],
                ),
                "true",
            ),
            (deep("io.containerd.cri.v1.images", &["registry", "config_path"]), "\"/etc\""),
        ];
        subsequence(all, 1..6).prop_shuffle()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn what_is_made_is_found_all_else_stays_and_what_is_put_back_leaves_no_trace(
            file in file(), keys in keys(), order in any::<u64>(),
        ) {
            prop_assume!(parse(&file).is_ok());
            let (mut now, mut made) = (file.clone().into_bytes(), Vec::new());
            for (key, value) in &keys {
                let before = leaves(&now);
                let (Ok(found), Ok(edited)) = (find(&now, key), edit(&now, key, Some(value))) else { continue };
                prop_assert_eq!(&find(&edited, key).unwrap().unwrap().text, value);
                prop_assert_eq!(&edit(&edited, key, Some(value)).unwrap(), &edited, "the second time nothing changes");
                let mut all = leaves(&edited);
                let mut rest = before;
                all.remove(key);
                rest.remove(key);
                prop_assert_eq!(all, rest, "other keys stay");
                if found.is_none() {
                    let text = String::from_utf8(edited.clone()).unwrap();
                    let mut lines = text.lines();
                    let was = std::str::from_utf8(&now).unwrap();
                    prop_assert!(was.lines().all(|line| lines.any(|other| other == line)), "no line is touched");
                }
                now = edited;
                made.push((key, found.map(|found| found.text)));
            }
            let mut order = order;
            while !made.is_empty() {
                let (key, was) = made.remove(usize::try_from(order).unwrap() % made.len());
                order /= 7;
                now = edit(&now, key, was.as_deref()).unwrap();
            }
            prop_assert_eq!(String::from_utf8(now).unwrap(), file);
        }

        #[test]
        fn bytes_of_any_kind_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(edited) = edit(&bytes, &path("a.b"), Some("1")) {
                prop_assert!(find(&edited, &path("a.b")).unwrap().is_some());
            }
        }
    }
}
