//! What a service runs, from the text of its unit's files, by the rules of systemd.service(5) and systemd.syntax(7). Pure.
//!
//! In: the texts, the unit's own first and then its drop-ins in their order. Out: the words of its command as they are
//! written, and as the program gets them.

use std::collections::BTreeMap;

use crate::host::install::settings;

/// The longest command, in bytes: as the kernel takes no more, what is behind that is left out.
const MAX_COMMAND: usize = 2 << 20;

/// A service, as far as its files tell what it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// Its `ExecStart`, in words. Quotes and escapes are resolved; variables and specifiers stand as they are written.
    pub command: Vec<String>,
    /// Variables that its files give it.
    environment: BTreeMap<String, String>,
    /// Files with more of them, in their order; the last counts, and more than the above.
    pub environment_files: Vec<String>,
}

impl Service {
    /// From the text of its files.
    pub fn of<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut service = Self::default();
        for (key, value) in texts.into_iter().flat_map(|text| settings(text, "Service")) {
            let is_reset = value.is_empty();
            match key.as_str() {
                "ExecStart" if is_reset => service.command.clear(),
                // Of several commands, which only a oneshot may have, the first one.
                "ExecStart" if service.command.is_empty() => service.command = command(&value),
                "Environment" if is_reset => service.environment.clear(),
                "Environment" => {
                    let words = words(&value).unwrap_or_default();
                    let pairs = words.iter().filter_map(|word| word.split_once('='));
                    service
                        .environment
                        .extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
                }
                "EnvironmentFile" if is_reset => service.environment_files.clear(),
                "EnvironmentFile" => {
                    service.environment_files.push(value.trim_start_matches('-').to_owned());
                }
                _ => {}
            }
        }
        service
    }

    /// The words that the program gets, without its own name. `files`: the texts of the environment files.
    pub fn arguments<'a>(&self, files: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let mut environment = self.environment.clone();
        environment.extend(files.into_iter().flat_map(variables));
        let mut arguments: Vec<String> = Vec::new();
        let mut length = 0;
        for word in self.command.iter().skip(1) {
            if length > MAX_COMMAND {
                break;
            }
            let before = arguments.len();
            match word.strip_prefix('$').filter(|name| is_name(name)) {
                Some(name) => {
                    let value = environment.get(name).map(String::as_str).unwrap_or_default();
                    arguments.extend(words(value).unwrap_or_default());
                }
                None => arguments.push(filled_in(word, &environment)),
            }
            length += arguments[before..].iter().map(String::len).sum::<usize>();
        }
        arguments
    }
}

/// The words of a command, without what stands before the program to say how it is run.
fn command(value: &str) -> Vec<String> {
    let mut prefix = String::new();
    let mut rest = value;
    while let Some(sign) = rest.chars().next().filter(|sign| "@-:+!|".contains(*sign)) {
        prefix.push(sign);
        rest = &rest[1..];
    }
    let mut words: Vec<String> = words(rest).unwrap_or_default();
    // Another command may follow.
    if let Some(end) = words.iter().position(|word| word == ";") {
        words.truncate(end);
    }
    if prefix.contains('@') && words.len() > 1 {
        words.remove(1);
    }
    if prefix.contains(':') {
        words.iter_mut().skip(1).for_each(|word| *word = word.replace('$', "$$"));
    }
    words
}

/// The words of a line; `None`: it ends within quotes.
pub fn words(line: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None::<char>);
    let mut rest = line.chars();
    while let Some(sign) = rest.next() {
        match (sign, quote) {
            ('\\', _) => {
                let (text, behind) = escaped(rest.as_str());
                word.get_or_insert_default().push_str(&text);
                rest = behind.chars();
            }
            (sign, Some(open)) if sign == open => quote = None,
            (sign, Some(_)) => word.get_or_insert_default().push(sign),
            ('"' | '\'', None) => {
                quote = Some(sign);
                word.get_or_insert_default();
            }
            (sign, None) if sign.is_ascii_whitespace() => words.extend(word.take()),
            (sign, None) => word.get_or_insert_default().push(sign),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

/// What stands behind a backslash means, and what is left behind that.
fn escaped(rest: &str) -> (String, &str) {
    let Some(sign) = rest.chars().next() else { return ("\\".to_owned(), rest) };
    let behind = &rest[sign.len_utf8()..];
    let plain = match sign {
        'a' => Some('\x07'),
        'b' => Some('\x08'),
        'f' => Some('\x0c'),
        'n' => Some('\n'),
        'r' => Some('\r'),
        't' => Some('\t'),
        'v' => Some('\x0b'),
        's' => Some(' '),
        '\\' | '"' | '\'' | ';' => Some(sign),
        _ => None,
    };
    if let Some(plain) = plain {
        return (plain.to_string(), behind);
    }
    let (digits, radix, behind) = match sign {
        'x' => (2, 16, behind),
        'u' => (4, 16, behind),
        'U' => (8, 16, behind),
        '0'..='3' => (3, 8, rest),
        _ => return (format!("\\{sign}"), behind),
    };
    let number = behind.get(..digits).and_then(|digits| u32::from_str_radix(digits, radix).ok());
    match number.and_then(char::from_u32).filter(|character| *character != '\0') {
        Some(character) => (character.to_string(), &behind[digits..]),
        None => (format!("\\{sign}"), &rest[sign.len_utf8()..]),
    }
}

/// A word with the values of its `${NAME}`, and `$$` and `%%` as what they stand for.
fn filled_in(word: &str, environment: &BTreeMap<String, String>) -> String {
    let mut filled = String::new();
    let mut rest = word;
    while let Some(at) = rest.find(['$', '%']) {
        let (before, sign) = rest.split_at(at);
        filled.push_str(before);
        let braced = sign.strip_prefix("${").and_then(|inner| inner.split_once('}'));
        rest = match braced {
            Some((name, behind)) if is_name(name) && filled.len() <= MAX_COMMAND => {
                filled.push_str(environment.get(name).map(String::as_str).unwrap_or_default());
                behind
            }
            _ => {
                filled.push_str(&sign[..1]);
                let is_double = sign.starts_with("$$") || sign.starts_with("%%");
                &sign[if is_double { 2 } else { 1 }..]
            }
        };
    }
    filled.push_str(rest);
    filled
}

/// Whether this is the name of a variable.
fn is_name(name: &str) -> bool {
    let is_word = |sign: char| sign.is_ascii_alphanumeric() || sign == '_';
    !name.is_empty() && name.chars().all(is_word) && !name.starts_with(|sign: char| sign.is_ascii_digit())
}

/// The variables of an environment file: lines of `NAME=value`, quoted as in a shell or not at all.
fn variables(text: &str) -> Vec<(String, String)> {
    let is_comment = |line: &&str| line.trim_start().starts_with(['#', ';']);
    let joined = text.replace("\\\n", "");
    let pairs = joined.lines().filter(|line| !is_comment(line)).filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        let (name, value) = (name.trim(), value.trim());
        let unquoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
        is_name(name).then(|| (name.to_owned(), unquoted.unwrap_or(value).to_owned()))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_systemd_splits_them() {
        for (line, expected) in [
            ("/usr/bin/kubelet --a=1  --b\t2", vec!["/usr/bin/kubelet", "--a=1", "--b", "2"]),
            (r#"a "b c" 'd "e"' --f="g h" """#, vec!["a", "b c", "d \"e\"", "--f=g h", ""]),
            (r"a\x20b \x41 \101 \u00e4 \s \q \\", vec!["a b", "A", "A", "ä", " ", r"\q", r"\"]),
            (r"\xzz \9 \x0 tail\", vec![r"\xzz", r"\9", r"\x0", r"tail\"]),
            ("", vec![]),
        ] {
            assert_eq!(words(line).unwrap(), expected, "{line}");
        }
        assert_eq!(words("a \"b"), None);
    }

    #[test]
    fn the_last_command_counts_and_what_stands_before_it_is_no_part_of_it() {
        let of = |texts: &[&str]| Service::of(texts.iter().copied()).command;
        let unit = "[Unit]\nExecStart=/no\n[Service]\nExecStartPre=/no\nExecStart=/usr/bin/a \\\n# comment\n  --x \\\n  $Y\n";
        assert_eq!(of(&[unit]), ["/usr/bin/a", "--x", "$Y"]);
        assert_eq!(of(&[unit, "[Service]\nExecStart=\nExecStart=-/b %i\n"]), ["/b", "%i"]);
        assert_eq!(of(&["[Service]\nExecStart=@/a b c\n"]), ["/a", "c"]);
        assert_eq!(of(&["[Service]\nExecStart=:/a $b\n"]), ["/a", "$$b"]);
        assert_eq!(of(&["[Service]\nExecStart=/a b ; /c\n"]), ["/a", "b"]);
        assert!(of(&["[Service]\nExecStart=/a \"b\n", "junk", ""]).is_empty());
    }

    #[test]
    fn a_program_gets_its_variables_filled_in() {
        let service = Service::of([
            "[Service]\nEnvironment=\"A=--config=/a --b 'c d'\" B=2\nEnvironmentFile=-/etc/default/x\n\
             ExecStart=/k $A ${B}${C}x $D $$E 100%% $1 --m=${A\n",
        ]);
        assert_eq!(service.environment_files, ["/etc/default/x"]);
        let file = "# C=no\nC=\"5 6\"\nexport=1\nD=--d=\\\n1 -e\n";
        assert_eq!(
            service.arguments([file]),
            ["--config=/a", "--b", "c d", "25 6x", "--d=1", "-e", "$E", "100%", "$1", "--m=${A"]
        );
    }
}
