//! The name of a revision changes when, and only when, what it is made from changes.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

use std::collections::BTreeMap;

use crds::NodeBootstrapSpec;
use crds::nodebootstrap::NodeSelector;
use crds::revision::{Content, File, Identity, Reference, Resource, Source, Values, references, render};
use proptest::prelude::*;
use serde_json::{Value, json};

const KEY: &[u8] = b"a key that only the operator reads";

fn identity() -> Identity {
    Identity { node_bootstrap: "workers".into(), uid: "uid-1".into(), cluster: "cluster-1".into() }
}

/// A spec with every kind of entry and every field.
fn full() -> Value {
    json!({
        "nodeSelector": {"matchLabels": {"kubernetes.io/os": "linux"}},
        "groups": [{"name": "kubernetes", "gid": 900, "system": true}, {"name": "others"}],
        "users": [{
            "name": "kubernetes", "uid": 900, "group": "kubernetes", "home": "/etc/kubernetes",
            "shell": "/usr/sbin/nologin", "system": true,
        }],
        "directories": [
            {"path": "/etc/kubernetes", "owner": "kubernetes", "group": "kubernetes", "mode": "0755", "recursive": true},
            {"path": "/etc/kubernetes/pki", "owner": "kubernetes", "group": "kubernetes", "mode": "0700", "recursive": false},
        ],
        "files": [
            {"path": "/etc/a", "content": "a", "owner": "root", "group": "root", "mode": "0644", "onChange": {"restart": ["a.service", "b.service"]}},
            {"path": "/etc/b", "configMapRef": {"name": "config", "key": "b"}},
            {"path": "/etc/c", "secretRef": {"name": "secret", "key": "c"}},
        ],
        "binaries": [{
            "path": "/usr/local/sbin/kubelet", "url": "https://a.example/kubelet", "mirrors": ["https://b.example/kubelet"],
            "sha256": {"amd64": "00".repeat(32)}, "owner": "root", "group": "root", "mode": "0755",
            "onChange": {"restart": ["kubelet.service"]},
        }],
        "units": [{"name": "hello.service", "content": "[Service]\n", "enabled": true, "active": true}],
    })
}

fn values() -> Values {
    BTreeMap::from([
        (Reference { source: Source::ConfigMap, name: "config".into(), key: "b".into() }, b"config".to_vec()),
        (Reference { source: Source::Secret, name: "secret".into(), key: "c".into() }, b"s3cr3t".to_vec()),
    ])
}

fn name_of(spec: &Value) -> String {
    let spec: NodeBootstrapSpec = serde_json::from_value(spec.clone()).unwrap();
    render(&identity(), &spec, &values(), KEY).unwrap().name
}

/// A spec with what came after the first golden name, and so is not in that.
fn fuller() -> Value {
    let mut spec = full();
    spec["symlinks"] = json!([{"path": "/usr/local/bin/a", "target": "/opt/a"}]);
    spec["units"][0]["dropIns"] = json!([{"name": "10-a.conf", "content": "[Service]\nNice=1\n"}]);
    spec["units"][0]["masked"] = json!(false);
    spec["kernel"] =
        json!({"modules": ["overlay"], "sysctls": {"net.ipv4.ip_forward": "1"}, "swap": "Disabled"});
    spec["users"][0]["groups"] = json!(["others"]);
    spec["archives"] = json!([{
        "name": "plugins", "url": "https://a.example/a.tgz", "mirrors": ["https://b.example/a.tgz"],
        "sha256": {"amd64": "00".repeat(32)}, "into": "/opt/cni/bin", "strip": 1, "include": ["bin/*"],
        "owner": "root", "group": "root", "setuid": true, "onChange": {"restart": ["kubelet.service"]},
    }]);
    spec["users"][0]["comment"] = json!("Kubernetes");
    spec["users"][0]["locked"] = json!(true);
    spec["directories"][1]["recursive"] = json!(true);
    spec["directories"][1]["inside"] = json!({"fileMode": "0640", "directoryMode": "0750"});
    spec["fileParts"] = json!([
        {"path": "/etc/hosts", "name": "a", "block": "1.1.1.1 a\n", "comment": ";", "onChange": {"restart": ["a.service"]}},
        {"path": "/etc/environment", "name": "b", "line": "x=1", "replaces": "x="},
    ]);
    spec
}

/// The files that are rendered of a spec, with what is in them and whom they restart.
fn files_of(spec: &Value) -> Vec<(String, String, Vec<String>)> {
    let spec: NodeBootstrapSpec = serde_json::from_value(spec.clone()).unwrap();
    let rendered = render(&identity(), &spec, &values(), KEY).unwrap();
    let file = |resource: Resource| match resource {
        Resource::File(File { path, content: Content::Text(text), restart, .. }) => {
            Some((path.to_string(), text, restart.iter().map(ToString::to_string).collect()))
        }
        _ => None,
    };
    rendered.revision.resources.into_iter().filter_map(file).collect()
}

/// What stands in a spec that has been rendered stays named as it is in every later version, or an upgrade of the
/// operator would change hosts. If this fails, the format has changed: do not adjust the name, raise
/// `crds::revision::FORMAT` and keep rendering the old one.
#[test]
fn the_name_of_a_known_spec_is_for_ever() {
    assert_eq!(name_of(&full()), "workers-0914fc02c50f3922");
}

#[test]
fn every_input_is_in_the_name() {
    let base = name_of(&fuller());
    let edits = [
        ("/groups/0/name", json!("kube")),
        ("/groups/0/gid", json!(901)),
        ("/groups/0/system", json!(false)),
        ("/users/0/name", json!("kube")),
        ("/users/0/uid", json!(901)),
        ("/users/0/group", json!("others")),
        ("/users/0/home", json!("/srv")),
        ("/users/0/shell", json!("/bin/false")),
        ("/users/0/system", json!(false)),
        // Left out is no default: of a user that exists it means to leave that alone.
        ("/users/0/group", Value::Null),
        ("/users/0/home", Value::Null),
        ("/users/0/shell", Value::Null),
        ("/directories/0/path", json!("/etc/kube")),
        ("/directories/0/owner", json!("root")),
        ("/directories/0/group", json!("root")),
        ("/directories/0/mode", json!("0750")),
        ("/directories/0/recursive", json!(false)),
        ("/files/0/path", json!("/etc/aa")),
        ("/files/0/content", json!("aa")),
        ("/files/0/owner", json!("kubernetes")),
        ("/files/0/group", json!("kubernetes")),
        ("/files/0/mode", json!("0600")),
        ("/files/0/onChange/restart", json!(["a.service"])),
        ("/files/1/path", json!("/etc/bb")),
        ("/files/2/path", json!("/etc/cc")),
        ("/binaries/0/path", json!("/usr/local/sbin/kubelet2")),
        ("/binaries/0/url", json!("https://c.example/kubelet")),
        ("/binaries/0/mirrors", json!([])),
        ("/binaries/0/sha256/amd64", json!("01".repeat(32))),
        ("/binaries/0/owner", json!("kubernetes")),
        ("/binaries/0/group", json!("kubernetes")),
        ("/binaries/0/mode", json!("0700")),
        ("/binaries/0/onChange/restart", json!([])),
        ("/units/0/name", json!("hi.service")),
        ("/units/0/content", json!("[Service]\nType=oneshot\n")),
        ("/units/0/enabled", json!(false)),
        ("/units/0/active", json!(false)),
        ("/symlinks/0/path", json!("/usr/local/bin/b")),
        ("/symlinks/0/target", json!("../opt/a")),
        ("/symlinks", json!([])),
        ("/units/0/dropIns/0/name", json!("20-a.conf")),
        ("/units/0/dropIns/0/content", json!("[Service]\nNice=2\n")),
        ("/units/0/masked", Value::Null),
        ("/users/0/groups", json!([])),
        ("/kernel", Value::Null),
        ("/kernel/modules", json!(["br_netfilter"])),
        ("/kernel/swap", json!("Keep")),
        ("/kernel/sysctls", json!({"net.ipv4.ip_forward": "0"})),
        ("/kernel/sysctls", json!({"net.ipv6.conf.all.forwarding": "1"})),
        ("/archives/0/name", json!("others")),
        ("/archives/0/url", json!("https://c.example/a.tgz")),
        ("/archives/0/mirrors", json!([])),
        ("/archives/0/sha256/amd64", json!("01".repeat(32))),
        ("/archives/0/into", json!("/opt/cni")),
        ("/archives/0/strip", json!(2)),
        ("/archives/0/include", json!([])),
        ("/archives/0/owner", json!("kubernetes")),
        ("/archives/0/group", json!("kubernetes")),
        ("/archives/0/setuid", json!(false)),
        ("/archives/0/onChange/restart", json!([])),
        ("/archives", json!([])),
        ("/users/0/comment", json!("")),
        ("/users/0/comment", Value::Null),
        ("/users/0/locked", Value::Null),
        ("/directories/1/inside", Value::Null),
        ("/directories/1/inside/fileMode", json!("0600")),
        ("/directories/1/inside/directoryMode", Value::Null),
        ("/fileParts/0/path", json!("/etc/hosts.allow")),
        ("/fileParts/0/name", json!("c")),
        ("/fileParts/0/block", json!("1.1.1.1 b\n")),
        ("/fileParts/0/comment", Value::Null),
        ("/fileParts/0/onChange", Value::Null),
        ("/fileParts/1/line", json!("x=2")),
        ("/fileParts/1/replaces", Value::Null),
        ("/fileParts/1/replaces", json!("x")),
        ("/groups", json!([])),
        ("/units", json!([])),
    ];
    for (path, value) in edits {
        let mut spec = fuller();
        *spec.pointer_mut(path).unwrap() = value;
        assert_ne!(name_of(&spec), base, "{path}");
    }
}

#[test]
fn what_a_spec_refers_to_and_whose_it_is_are_in_the_name() {
    let spec: NodeBootstrapSpec = serde_json::from_value(full()).unwrap();
    let base = render(&identity(), &spec, &values(), KEY).unwrap();
    for reference in references(&spec) {
        let mut changed = values();
        changed.insert(reference.clone(), b"other".to_vec());
        assert_ne!(render(&identity(), &spec, &changed, KEY).unwrap().name, base.name, "{reference}");
    }
    let made_anew = Identity { uid: "uid-2".into(), ..identity() };
    assert_ne!(render(&made_anew, &spec, &values(), KEY).unwrap().name, base.name);
    let elsewhere = Identity { cluster: "cluster-2".into(), ..identity() };
    assert_ne!(render(&elsewhere, &spec, &values(), KEY).unwrap().name, base.name);
    // Without the key a guess at a secret cannot be tested.
    assert_ne!(render(&identity(), &spec, &values(), b"another key").unwrap().name, base.name);
    let text = serde_json::to_string(&base.revision).unwrap();
    assert!(!text.contains("s3cr3t"), "{text}");
    assert!(text.contains("\"presetVersion\":1"), "the preset version is in what the hash is over");
}

#[test]
fn what_is_no_input_of_a_host_is_not_in_the_name() {
    let base = name_of(&full());
    let mut spec = full();
    spec["nodeSelector"] = json!({"matchLabels": {"pool": "blue"}});
    spec["leaveTimeout"] = json!("1h");
    spec["mode"] = json!("Plan");
    spec["drift"] = json!({"policy": "Report", "interval": "1m", "ignore": ["/etc/*"]});
    spec["rollout"] = json!({"maxParallel": "10%"});
    assert_eq!(
        name_of(&spec),
        base,
        "whom it selects, how long it waits, planning, drift, and whose turn it is change no host"
    );
    // A default that is written out is the default.
    let mut spec = full();
    spec["groups"][1]["system"] = json!(true);
    spec["files"][1]["mode"] = json!("0644");
    spec["files"][2]["mode"] = json!("0600");
    assert_eq!(name_of(&spec), base);
    // So is how the last line of a block ends.
    let mut spec = fuller();
    spec["fileParts"][0]["block"] = json!("1.1.1.1 a");
    assert_eq!(name_of(&spec), name_of(&fuller()));
}

#[test]
fn how_downloads_reach_their_servers_is_in_the_name_and_the_order_of_it_means_nothing() {
    const PEM: &str = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";
    let ca = Reference { source: Source::ConfigMap, name: "corporate-ca".into(), key: "ca.crt".into() };
    let name = |trust: &Value, ca_pem: &str| {
        let mut spec = full();
        spec["trust"] = trust.clone();
        let spec: NodeBootstrapSpec = serde_json::from_value(spec).unwrap();
        let mut values = values();
        values.insert(ca.clone(), ca_pem.as_bytes().to_vec());
        render(&identity(), &spec, &values, KEY).map(|rendered| rendered.name)
    };
    let by_ref = json!({"name": "a", "configMapRef": {"name": "corporate-ca", "key": "ca.crt"}});
    let by_text = json!({"name": "b", "pem": PEM, "install": false});
    let trust = json!({
        "proxy": {"http": "http://proxy:3128", "https": "http://proxy:3129", "noProxy": ["a", "b"]},
        "caBundles": [by_ref, by_text],
    });
    let base = name(&trust, PEM);
    assert!(base.is_ok());
    for (path, value) in [
        ("/proxy/http", json!("http://other:3128")),
        ("/proxy/https", Value::Null),
        ("/proxy/noProxy", json!(["a"])),
        ("/proxy", Value::Null),
        ("/caBundles/0/name", json!("c")),
        ("/caBundles/1/pem", json!(format!("{PEM}{PEM}"))),
        ("/caBundles/1/install", json!(true)),
        ("/caBundles", json!([])),
    ] {
        let mut changed = trust.clone();
        *changed.pointer_mut(path).unwrap() = value;
        assert_ne!(name(&changed, PEM), base, "{path}");
    }
    assert_ne!(name(&trust, &format!("{PEM}{PEM}")), base, "what the ConfigMap has");
    let mut other_order = trust.clone();
    other_order["proxy"]["noProxy"] = json!(["b", "a"]);
    other_order["caBundles"] = json!([by_text, by_ref]);
    assert_eq!(name(&other_order, PEM), base);
    assert_eq!(name(&json!({}), PEM), Ok(name_of(&full())), "saying nothing is as leaving it out");
    for (pem, says) in
        [("no PEM", "one or more certificates as PEM"), ("", "one or more certificates as PEM")]
    {
        let told = name(&trust, pem).unwrap_err().to_string();
        assert!(
            told.contains("trust.caBundles, a, ConfigMap corporate-ca, key ca.crt: ") && told.contains(says)
        );
    }
    let secret = format!("{PEM}-----BEGIN PRIVATE KEY-----\ns3cr3t");
    let told = name(&trust, &secret).unwrap_err().to_string();
    assert!(told.contains("a private key") && !told.contains("s3cr3t"), "{told}");
}

#[test]
fn units_are_told_of_the_proxy_by_a_drop_in_for_which_they_restart() {
    let mut spec = json!({"allNodes": true, "trust": {"proxy": {
        "http": "http://[fd00::1]:3128", "noProxy": ["b.example", "10.0.0.0/8", "a.example"],
        "units": ["containerd.service", "agent@one.service"],
    }}});
    let content = "# Kept by the NodeBootstrap workers.\n[Service]\n\
        Environment=\"HTTP_PROXY=http://[fd00::1]:3128\"\nEnvironment=\"http_proxy=http://[fd00::1]:3128\"\n\
        Environment=\"NO_PROXY=10.0.0.0/8,a.example,b.example\"\nEnvironment=\"no_proxy=10.0.0.0/8,a.example,b.example\"\n";
    let told = |unit: &str| {
        let path = format!("/etc/systemd/system/{unit}.d/50-nodebootstrap-proxy.conf");
        (path, content.to_owned(), vec![unit.to_owned()])
    };
    assert_eq!(files_of(&spec), [told("agent@one.service"), told("containerd.service")]);
    let base = name_of(&spec);
    spec["trust"]["proxy"]["units"] = json!(["agent@one.service", "containerd.service"]);
    assert_eq!(name_of(&spec), base);
    spec["trust"]["proxy"]["units"] = json!(["containerd.service"]);
    let fewer = name_of(&spec);
    assert_ne!(fewer, base);
    spec["trust"]["proxy"]["units"] = json!([]);
    assert!(files_of(&spec).is_empty() && name_of(&spec) != fewer);
}

fn shuffled(mut list: Vec<Value>, seed: &[usize]) -> Vec<Value> {
    for (index, pick) in seed.iter().enumerate().take(list.len()) {
        let other = pick % list.len();
        list.swap(index, other);
    }
    list
}

proptest! {
    #[test]
    fn the_order_of_entries_means_nothing(seed in prop::collection::vec(any::<usize>(), 12)) {
        let mut spec = full();
        for list in ["groups", "directories", "files"] {
            let entries = spec[list].as_array().unwrap().clone();
            spec[list] = Value::Array(shuffled(entries, &seed));
        }
        let restart = &mut spec["files"][0]["onChange"];
        if let Some(list) = restart.get("restart").and_then(Value::as_array).cloned() {
            restart["restart"] = Value::Array(shuffled(list, &seed));
        }
        prop_assert_eq!(name_of(&spec), name_of(&full()));
    }

    #[test]
    fn two_contents_have_one_name_only_if_they_are_one(a in ".{0,12}", b in ".{0,12}") {
        let named = |content: &str| {
            let spec = NodeBootstrapSpec {
                node_selector: Some(NodeSelector { match_labels: [("a".to_owned(), "b".to_owned())].into(), ..NodeSelector::default() }),
                files: vec![serde_json::from_value(json!({"path": "/etc/a", "content": content})).unwrap()],
                ..NodeBootstrapSpec::default()
            };
            render(&identity(), &spec, &Values::new(), KEY).unwrap().name
        };
        prop_assert_eq!(named(&a) == named(&b), a == b);
        prop_assert_eq!(named(&a), named(&a));
    }
}
