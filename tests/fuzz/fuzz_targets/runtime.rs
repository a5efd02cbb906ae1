//! What a container runtime answers when it is asked whether it can run pods, whatever it is.

#![no_main]

use libfuzzer_sys::fuzz_target;
use node_agent::host::runtime::not_ready;

fuzz_target!(|data: &[u8]| {
    if not_ready(data).is_none() {
        // Only who says both is believed.
        for needed in [&b"RuntimeReady"[..], b"NetworkReady"] {
            assert!(data.windows(needed.len()).any(|part| part == needed));
        }
    }
});
