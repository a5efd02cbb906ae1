//! A revision, as it comes from the API server: what is accepted is what was written.

#![no_main]

use crds::revision::Revision;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(data) else { return };
    let Ok(revision) = Revision::read(&json) else { return };
    let written = serde_json::to_value(&revision).expect("JSON");
    assert_eq!(Revision::read(&written).as_ref(), Ok(&revision));
    let _ = revision.has_payload();
    for resource in &revision.resources {
        assert!(resource.to_string().starts_with(resource.kind()));
        assert!(resource.claims().iter().all(|(_, name)| !name.is_empty()));
    }
});
