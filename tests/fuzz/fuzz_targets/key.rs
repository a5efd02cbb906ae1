//! A key of a TOML file that the host has, whatever is in that: what is put there is found, and taken out leaves no trace.
//!
//! An input is the keys that lead to it in one line, with a dot between them, and then the file.

#![no_main]

use crds::revision::Anchor;
use libfuzzer_sys::fuzz_target;
use node_agent::anchor::{edit, find};

fuzz_target!(|data: &[u8]| {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (keys, file) = (String::from_utf8_lossy(&data[..end]), data.get(end + 1..).unwrap_or_default());
    let anchor = Anchor::Key(keys.split('.').map(str::to_owned).collect());
    let Ok(found) = find(file, &anchor) else { return };
    let Ok(edited) = edit(file, &anchor, Some("[1, 2]")) else { return };
    let now = find(&edited, &anchor).expect("still TOML").expect("what was put there");
    assert_eq!(now.text, "[1, 2]");
    let before = found.map(|found| found.text);
    let back = edit(&edited, &anchor, before.as_deref()).expect("it was there before");
    assert_eq!(String::from_utf8_lossy(&back), String::from_utf8_lossy(file));
});
