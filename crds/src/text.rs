//! Texts that stand in a status: in one line, and never longer than there is room for.

/// Cuts to one line of at most `max` characters, and of at most `max` bytes as JSON writes them. What is cut is the middle:
/// at the beginning stands what it is about, and in the last quarter what to do.
pub fn clip(text: &str, max: usize) -> String {
    let signs: Vec<char> = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if fitting(signs.iter(), max).0 == signs.len() {
        return signs.into_iter().collect();
    }
    let room = max.saturating_sub('…'.len_utf8());
    let (last, bytes) = fitting(signs.iter().rev(), room / 4);
    let (first, _) = fitting(signs.iter(), room - bytes);
    let [begin, end] =
        [&signs[..first], &signs[signs.len() - last..]].map(|part| part.iter().collect::<String>());
    format!("{begin}…{end}")
}

/// How many signs there is room for, and the bytes that these take.
fn fitting<'a>(signs: impl Iterator<Item = &'a char>, room: usize) -> (usize, usize) {
    let mut fitting = (0, 0);
    for sign in signs {
        let written = match sign {
            '"' | '\\' => 2,
            other => other.len_utf8(),
        };
        if fitting.1 + written > room {
            break;
        }
        fitting = (fitting.0 + 1, fitting.1 + written);
    }
    fitting
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_cut_is_the_middle() {
        let text = format!("worker1: it failed: {} (do this)", "x".repeat(100));
        let cut = clip(&text, 60);
        assert!(cut.starts_with("worker1: it failed: xx") && cut.ends_with("xx (do this)"), "{cut}");
        assert_eq!((cut.len(), cut.matches('…').count()), (60, 1));
    }

    proptest! {
        #[test]
        fn clipping_keeps_what_fits_and_never_exceeds(text in "(.|\"|\\\\|é|漢){0,80}", max in 3..60usize) {
            let clipped = clip(&text, max);
            prop_assert!(clipped.chars().count() <= max);
            prop_assert!(serde_json::to_string(&clipped).unwrap().len() <= max + 2);
            if serde_json::to_string(&text).unwrap().len() <= max + 2 && !text.chars().any(char::is_control) {
                prop_assert_eq!(clipped, text.trim());
            }
        }
    }
}
