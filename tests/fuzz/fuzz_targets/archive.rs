//! An archive, as it comes from a server: whatever it is, it is judged within bounds, and nothing in it leads out.

#![no_main]

use libfuzzer_sys::fuzz_target;
use node_agent::host::archive;

fuzz_target!(|data: &[u8]| {
    let Ok(index) = archive::index(data) else { return };
    for path in index.entries.keys() {
        assert!(!path.starts_with('/') && !path.split('/').any(|part| part == ".."));
    }
});
