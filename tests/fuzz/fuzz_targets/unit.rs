//! A unit's file, as the host or the spec has it: the links that enable it lie among units, wherever it wants them, and what
//! it runs is read.
//!
//! An input is a unit's name in one line, and then the file.

#![no_main]

use crds::UnitName;
use libfuzzer_sys::fuzz_target;
use node_agent::host::install::{self, UNIT_DIRECTORY};
use node_agent::preset::service::Service;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let (name, text) = text.split_once('\n').unwrap_or((&text, ""));
    let service = Service::of([text]);
    assert!(service.arguments([text]).iter().all(|word| word.len() <= 8 << 20));
    let Ok(name) = name.parse::<UnitName>() else { return };
    let name = name.as_str();
    let file = format!("{UNIT_DIRECTORY}/{}", install::file_name(name));
    assert_eq!(install::file_name(&install::file_name(name)), install::file_name(name));
    let _ = install::has_also(text);
    for link in install::links(name, &file, text) {
        assert_eq!(link.target, file);
        let below = link.path.strip_prefix(UNIT_DIRECTORY).and_then(|rest| rest.strip_prefix('/'));
        let steps: Vec<&str> = below.expect("among the units").split('/').collect();
        assert!(steps.len() <= 2, "{}", link.path);
        assert!(steps.iter().all(|step| !matches!(*step, "" | "." | "..")), "{}", link.path);
        assert!(!link.path.contains('\0'), "{}", link.path);
    }
});
