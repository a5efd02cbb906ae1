//! A NodeBootstrap, as `plan --file` reads it, and what is rendered from it: what is accepted can be read by an agent, and
//! the order of its lists means nothing.

#![no_main]

use crds::NodeBootstrapSpec;
use crds::revision::{Identity, Revision, Values, references, render};
use libfuzzer_sys::fuzz_target;
use node_agent::cli::parse;

fuzz_target!(|data: &[u8]| {
    let Ok(node_bootstrap) = parse(data) else { return };
    let identity = Identity {
        node_bootstrap: node_bootstrap.metadata.name.clone().expect("checked"),
        uid: "u".to_owned(),
        cluster: "c".to_owned(),
    };
    let spec = node_bootstrap.spec;
    let values: Values = references(&spec).into_iter().map(|one| (one, b"value".to_vec())).collect();
    let Ok(rendered) = render(&identity, &spec, &values, b"key") else { return };
    let json = serde_json::to_value(&rendered.revision).expect("JSON");
    assert_eq!(Revision::read(&json).as_ref(), Ok(&rendered.revision));
    let again = render(&identity, &reversed(spec), &values, b"key").expect("the same entries");
    assert_eq!((again.name, again.payload), (rendered.name, rendered.payload));
});

fn reversed(mut spec: NodeBootstrapSpec) -> NodeBootstrapSpec {
    spec.groups.reverse();
    spec.users.reverse();
    spec.directories.reverse();
    spec.files.reverse();
    spec.binaries.reverse();
    spec.symlinks.reverse();
    for unit in &mut spec.units {
        unit.drop_ins.reverse();
    }
    spec.units.reverse();
    spec
}
