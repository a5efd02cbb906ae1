//! Words of a command as a unit's file has them: the other way round than [`super::service`] reads them, by the rules of
//! systemd.service(5) and systemd.syntax(7). Pure.

/// A text as a word in which systemd replaces nothing: neither variables nor specifiers.
pub fn literal(text: &str) -> String {
    text.replace('%', "%%").replace('$', "$$")
}

/// Words as one line. Variables and specifiers in them mean what they mean.
pub fn line<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// A word, in quotes where it needs them.
fn quoted(word: &str) -> String {
    // Without quotes a ; by itself would end the command.
    let is_plain =
        |sign: char| !sign.is_whitespace() && !sign.is_ascii_control() && !matches!(sign, '"' | '\'' | '\\');
    if !word.is_empty() && word != ";" && word.chars().all(is_plain) {
        return word.to_owned();
    }
    let mut quoted = String::from('"');
    for sign in word.chars() {
        match sign {
            '"' | '\\' => quoted.extend(['\\', sign]),
            '\n' => quoted.push_str("\\n"),
            sign if sign.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(sign))),
            sign => quoted.push(sign),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::preset::service::{Service, words};

    #[test]
    fn words_stand_in_quotes_where_they_need_them() {
        for (word, expected) in [
            ("--v=2", "--v=2"),
            ("", "\"\""),
            (";", "\";\""),
            ("a b", "\"a b\""),
            ("--x=\"a\"", r#""--x=\"a\"""#),
            (r"a\b", r#""a\\b""#),
            ("two\nlines", r#""two\nlines""#),
            ("$KUBELET_ARGS", "$KUBELET_ARGS"),
            ("ä%i", "ä%i"),
        ] {
            assert_eq!(quoted(word), expected);
        }
        assert_eq!(line(["/usr/bin/kubelet", "--a=b c"]), "/usr/bin/kubelet \"--a=b c\"");
        assert_eq!(literal("50% of $HOME"), "50%% of $$HOME");
    }

    proptest! {
        #[test]
        fn words_are_read_as_they_were_written(all in vec("[^\0]{0,12}", 0..6)) {
            let line = line(all.iter().map(String::as_str));
            prop_assert_eq!(words(&line), Some(all), "{}", line);
            prop_assert!(!line.contains('\n'), "it is one line");
        }

        #[test]
        // A ; by itself is taken for the end of a command by who reads, in quotes too.
        fn a_literal_reaches_the_program_as_it_is(all in vec("[^\0;]{0,12}", 0..6)) {
            let own = std::iter::once("/k".to_owned()).chain(all.iter().map(|word| literal(word)));
            let own: Vec<String> = own.collect();
            let unit = format!("[Service]\nExecStart={}\n", line(own.iter().map(String::as_str)));
            let none: [&str; 0] = [];
            prop_assert_eq!(Service::of([unit.as_str()]).arguments(none), all, "{}", unit);
        }
    }
}
