//! What `kubectl apply` refuses, with a message that says what to write instead; and the most that it takes.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::lab::{Lab, is_current, message, reason};

const DIGEST: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn node_bootstrap(name: &str, spec: &Value) -> String {
    json!({"apiVersion": "nodebootstrap.io/v1alpha1", "kind": "NodeBootstrap", "metadata": {"name": name}, "spec": spec})
        .to_string()
}

/// Lists in a spec that selects nothing that is there, so that an acceptance by mistake changes no machine.
fn spec(lists: Value) -> Value {
    let mut spec = json!({"nodeSelector": {"matchLabels": {"no": "such"}}});
    if let (Some(spec), Value::Object(lists)) = (spec.as_object_mut(), lists) {
        spec.extend(lists);
    }
    spec
}

fn binary(change: Value) -> Value {
    let mut binary = json!({"path": "/usr/local/bin/x", "url": "https://a/x", "sha256": {"amd64": DIGEST}});
    if let (Some(binary), Value::Object(change)) = (binary.as_object_mut(), change) {
        binary.extend(change);
        binary.retain(|_, value| !value.is_null());
    }
    spec(json!({"binaries": [binary]}))
}

fn part(change: Value) -> Value {
    let mut part = json!({"path": "/a", "name": "p"});
    if let (Some(part), Value::Object(change)) = (part.as_object_mut(), change) {
        part.extend(change);
    }
    part
}

fn parts(change: Value) -> Value {
    spec(json!({"fileParts": [part(change)]}))
}

fn archive(change: Value) -> Value {
    let mut archive =
        json!({"name": "x", "url": "https://a/x", "sha256": {"amd64": DIGEST}, "into": "/opt/x"});
    if let (Some(archive), Value::Object(change)) = (archive.as_object_mut(), change) {
        archive.extend(change);
        archive.retain(|_, value| !value.is_null());
    }
    spec(json!({"archives": [archive]}))
}

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

fn trust(trust: Value) -> Value {
    spec(json!({"trust": trust}))
}

fn kubelet(kubelet: Value) -> Value {
    spec(json!({"kubelet": kubelet}))
}

fn runtime(change: Value) -> Value {
    let mut runtime = json!({"type": "containerd"});
    if let (Some(runtime), Value::Object(change)) = (runtime.as_object_mut(), change) {
        runtime.extend(change);
    }
    spec(json!({"containerRuntime": runtime}))
}

fn file(path: &str) -> Value {
    json!({"path": path, "content": ""})
}

pub(crate) async fn bad_input_is_refused_with_what_to_write(lab: &Lab) -> Result<()> {
    let many: Vec<_> = (0..1001).map(|i| json!({"name": format!("g{i}")})).collect();
    let cases: Vec<(Value, &str)> = vec![
        (spec(json!({"directories": [{"path": "etc/x"}]})), "write /etc/example, not etc/example"),
        (spec(json!({"directories": [{"path": "/etc/../x"}]})), "without . or .. steps"),
        (spec(json!({"directories": [{"path": "/etc/x/"}]})), "without an empty step or a / at its end"),
        (spec(json!({"directories": [{"path": "/"}]})), "not / itself"),
        (spec(json!({"directories": [{"path": "/a"}, {"path": "/a"}]})), "Duplicate value"),
        (spec(json!({"groups": [{"name": "a"}, {"name": "a"}]})), "Duplicate value"),
        (spec(json!({"users": [{"name": "a"}, {"name": "a"}]})), "Duplicate value"),
        (
            spec(json!({"directories": [{"path": "/a"}], "files": [file("/a")]})),
            "in both files and directories",
        ),
        (
            spec(
                json!({"directories": [{"path": "/a"}], "binaries": [{"path": "/a", "url": "http://a/", "sha256": {"amd64": DIGEST}}]}),
            ),
            "in both binaries and directories",
        ),
        (
            spec(
                json!({"files": [file("/a")], "binaries": [{"path": "/a", "url": "http://a/", "sha256": {"amd64": DIGEST}}]}),
            ),
            "in both binaries and files",
        ),
        (
            spec(
                json!({"files": [file("/etc/systemd/system/a.service")], "units": [{"name": "a.service", "content": ""}]}),
            ),
            "leave it in units",
        ),
        (
            spec(json!({"files": [file("/a")], "symlinks": [{"path": "/a", "target": "b"}]})),
            "in both symlinks and files",
        ),
        (
            spec(json!({"directories": [{"path": "/a"}], "symlinks": [{"path": "/a", "target": "b"}]})),
            "in both symlinks and directories",
        ),
        (spec(json!({"symlinks": [{"path": "/a", "target": ""}]})), "without control characters"),
        (
            spec(json!({"files": [file("/a")], "fileParts": [part(json!({"block": "x"}))]})),
            "in both fileParts and files",
        ),
        (
            spec(json!({"directories": [{"path": "/a"}], "fileParts": [part(json!({"block": "x"}))]})),
            "in both fileParts and directories",
        ),
        (
            spec(
                json!({"symlinks": [{"path": "/a", "target": "b"}], "fileParts": [part(json!({"block": "x"}))]}),
            ),
            "name the path that the link leads to",
        ),
        (parts(json!({})), "a part of a file is a block or a line"),
        (parts(json!({"block": "x", "line": "x"})), "a part of a file is a block or a line"),
        (parts(json!({"line": "x=1", "replaces": "y="})), "replaces is how line itself begins"),
        (parts(json!({"line": "x=1", "comment": ";"})), "comment begins the lines that mark a block"),
        (parts(json!({"line": "x\ny"})), "several are a block"),
        (parts(json!({"block": "x\n".repeat(51)})), "a block has at most 50 lines"),
        (parts(json!({"block": "x".repeat(4097)})), "4096"),
        (parts(json!({"block": "x\r\n"})), "without control characters"),
        (parts(json!({"block": "# END nodebootstrap p"})), "are written for you"),
        (parts(json!({"block": "x", "comment": " #"})), "a comment sign is what begins a comment"),
        (parts(json!({"block": "x", "name": "A b"})), "a part's name has a-z, 0-9 and - only"),
        (parts(json!({"block": "x", "path": "/etc/passwd"})), "in users and groups instead"),
        (
            spec(json!({"directories": [{"path": "/a", "inside": {"fileMode": "0640"}}]})),
            "inside is for what is inside a directory that is recursive",
        ),
        (
            spec(json!({"directories": [{"path": "/a", "recursive": true, "inside": {}}]})),
            "give fileMode, directoryMode or both",
        ),
        (
            spec(json!({"directories": [{"path": "/a", "recursive": true, "inside": {"fileMode": "4755"}}]})),
            "inside.fileMode has no set-uid",
        ),
        (spec(json!({"directories": [{"path": "/a", "mode": "0888"}]})), "octal digits in quotes"),
        (spec(json!({"directories": [{"path": "/a", "mode": "rwx"}]})), "octal digits in quotes"),
        (spec(json!({"directories": [{"path": "/a", "mode": 755}]})), "must be of type string"),
        (binary(json!({"sha256": null})), "sha256 is missing: give the digest"),
        (binary(json!({"sha256": {}})), "sha256 is missing: give the digest"),
        (binary(json!({"sha256": {"amd64": "abc"}})), "64 hexadecimal digits"),
        (binary(json!({"sha256": {"amd64": "z".repeat(64)}})), "64 hexadecimal digits"),
        (binary(json!({"sha256": {"x86_64": DIGEST}})), "the keys are amd64 and arm64"),
        (archive(json!({"sha256": null})), "sha256 is missing: give the digest"),
        (archive(json!({"sha256": {"x86_64": DIGEST}})), "the keys are amd64 and arm64"),
        (archive(json!({"name": "A b"})), "begins and ends with a letter or digit"),
        (archive(json!({"into": "opt"})), "write /etc/example, not etc/example"),
        (archive(json!({"strip": 17})), "less than or equal to 16"),
        (archive(json!({"include": ["/bin/x"]})), "without a / in front, as in: bin/*"),
        (archive(json!({"onChange": {"restart": ["a@.service"]}})), "name the instances"),
        (binary(json!({"url": "ftp://a/x"})), "starts with https:// or http://"),
        (binary(json!({"url": "file://x/y"})), "as in: file:///opt/images/kubelet"),
        (binary(json!({"url": "file:///x/../y"})), "the path of one file as it is on the node"),
        (binary(json!({"mirrors": ["file:///x/"]})), "the path of one file as it is on the node"),
        (trust(json!({"proxy": {"noProxy": ["a"]}})), "a proxy is for http, https or both"),
        (trust(json!({"proxy": {"http": "http://user:pass@a:1"}})), "without user and password"),
        (trust(json!({"proxy": {"http": "a:1"}})), "as in: http://proxy.example.com:3128"),
        (
            trust(json!({"proxy": {"http": "http://a", "noProxy": ["*.a"]}})),
            "it stands for all hosts below it too",
        ),
        (
            trust(json!({"proxy": {"http": "http://a", "units": ["a.socket"]}})),
            "only a service has a program",
        ),
        (
            trust(json!({"caBundles": [{"name": "a/b", "pem": CERTIFICATE, "install": true}]})),
            "a part of its files' names",
        ),
        (trust(json!({"caBundles": [{"name": "a"}]})), "a CA bundle has exactly one source"),
        (trust(json!({"caBundles": [{"name": "a", "pem": "x"}]})), "one or more certificates as PEM"),
        (
            trust(
                json!({"caBundles": [{"name": "a", "pem": format!("{CERTIFICATE}-----BEGIN PRIVATE KEY-----")}]}),
            ),
            "a CA bundle has a private key in it",
        ),
        (binary(json!({"url": "https://user:pass@a/x"})), "without user and password"),
        (binary(json!({"url": "https:///x"})), "comes a host name"),
        (binary(json!({"mirrors": ["https://user:pass@a/x"]})), "without user and password"),
        (binary(json!({"colour": "red"})), "unknown field \"spec.binaries[0].colour\""),
        (json!({"nodeSelector": {}}), "write allNodes: true for every node"),
        (json!({"nodeSelector": {"matchLabels": {}}}), "write allNodes: true for every node"),
        (json!({}), "exactly one of nodeSelector and allNodes"),
        (json!({"allNodes": false}), "exactly one of nodeSelector and allNodes"),
        (
            json!({"allNodes": true, "nodeSelector": {"matchLabels": {"a": "b"}}}),
            "exactly one of nodeSelector and allNodes",
        ),
        (
            json!({"nodeSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
            "operators In and NotIn need values",
        ),
        (spec(json!({"users": [{"name": "Kube"}]})), "starts with a-z or _"),
        (spec(json!({"users": [{"name": "a:b"}]})), "starts with a-z or _"),
        (spec(json!({"groups": [{"name": "9a"}]})), "starts with a-z or _"),
        (spec(json!({"groups": [{"name": "root"}]})), "root is not managed"),
        (spec(json!({"groups": [{"name": "a".repeat(33)}]})), "32"),
        (spec(json!({"users": [{"name": "a", "uid": 0}]})), "greater than or equal to 1"),
        (spec(json!({"directories": [{"path": "/a", "owner": "A B"}]})), "name an owner as useradd would"),
        (spec(json!({"units": [{"name": "a"}]})), "ends in .service"),
        (spec(json!({"units": [{"name": "a/b.service"}]})), "letters, digits and"),
        (spec(json!({"units": [{"name": "a@.service", "active": true}]})), "list an instance of it"),
        (
            spec(json!({"units": [{"name": "a.service", "content": "x", "masked": true}]})),
            "a unit that is masked",
        ),
        (
            spec(json!({"units": [{"name": "a.service", "dropIns": [{"name": "x", "content": "x"}]}]})),
            "ends in .conf",
        ),
        (spec(json!({"files": [file("/proc/sys/x")]})), "belong to the kernel"),
        (spec(json!({"files": [file("/sys/x")]})), "belong to the kernel"),
        (spec(json!({"directories": [{"path": "/dev/x"}]})), "belong to the kernel"),
        (spec(json!({"files": [file("/var/lib/nodebootstrap/x")]})), "the agent's own state"),
        (spec(json!({"directories": [{"path": "/var/lib/nodebootstrap"}]})), "the agent's own state"),
        (binary(json!({"path": "/var/lib/nodebootstrap/a/b"})), "the agent's own state"),
        (spec(json!({"files": [file("/etc/passwd")]})), "in users and groups instead"),
        (spec(json!({"files": [file("/etc/shadow")]})), "in users and groups instead"),
        (spec(json!({"files": [file("/etc/gshadow")]})), "in users and groups instead"),
        (spec(json!({"files": [file("/etc/subuid")]})), "in users and groups instead"),
        (spec(json!({"directories": [{"path": "/etc/group"}]})), "in users and groups instead"),
        (spec(json!({"users": [{"name": "k", "home": "/opt/a:b"}]})), "ends its fields with a colon"),
        (spec(json!({"kernel": {"sysctls": {"net/ipv4": "1"}}})), "named as sysctl does"),
        (spec(json!({"kernel": {"sysctls": {"kernel.hostname": "a"}}})), "each pod has such a setting"),
        (spec(json!({"kernel": {"modules": ["a b"]}})), "as in: br_netfilter"),
        (spec(json!({"users": [{"name": "k", "comment": "a:b"}]})), "write a comment without one"),
        (spec(json!({"users": [{"name": "k", "groups": ["A"]}]})), "starts with a-z or _"),
        (
            spec(
                json!({"files": [{"path": "/etc/a", "secretRef": {"name": "nodebootstrap-hmac-key", "key": "key"}}]}),
            ),
            "the operator's own",
        ),
        (
            spec(
                json!({"files": [{"path": "/etc/a", "content": "", "onChange": {"restart": ["t@.service"]}}]}),
            ),
            "name the instances",
        ),
        (spec(json!({"units": [{"name": "a.service", "content": ""}]})), "should be at least 1 chars long"),
        (binary(json!({"path": "/etc/subgid"})), "in users and groups instead"),
        (
            spec(json!({"directories": [{"path": "/etc", "recursive": true}]})),
            "name the folder below it that is yours",
        ),
        (
            spec(json!({"directories": [{"path": "/usr/local/sbin", "recursive": true}]})),
            "name the folder below it that is yours",
        ),
        (spec(json!({"files": [{"path": "/a"}]})), "a file has exactly one source"),
        (
            spec(json!({"files": [{"path": "/a", "content": "", "secretRef": {"name": "a", "key": "b"}}]})),
            "a file has exactly one source",
        ),
        (spec(json!({"files": [file("/etc/a"), file("/etc/a/b/c")]})), "below a path of files or binaries"),
        (
            spec(json!({"files": [file("/etc/a")], "directories": [{"path": "/etc/a/b"}]})),
            "below a path of files or binaries",
        ),
        (spec(json!({"groups": many})), "must have at most 1000 items"),
        (spec(json!({"directories": [{"path": format!("/{}", "a".repeat(256))}]})), "256"),
        (
            spec(json!({"files": [{"path": "/a", "content": "", "onChange": {"restart": ["x"]}}]})),
            "ends in .service",
        ),
        (spec(json!({"leaveTimeout": "soon"})), "as in: 90s, 10m, 1h"),
        (spec(json!({"rollout": {"maxParallel": 0}})), "a percentage from 1% to 100%"),
        (spec(json!({"rollout": {"maxParallel": "101%"}})), "a percentage from 1% to 100%"),
        (spec(json!({"drift": {"interval": "5s"}})), "drift.interval: at least 10s"),
        (spec(json!({"drift": {"fullInterval": "59s"}})), "drift.fullInterval: at least 1m"),
        (spec(json!({"drift": {"ignore": ["etc/motd"]}})), "an absolute path or of a name"),
        (
            spec(json!({"drift": {"overrides": [{"pattern": "a/b", "policy": "Report"}]}})),
            "an absolute path or of a name",
        ),
        (spec(json!({"rollout": {"allow": "Reboot"}})), "supported values: \"None\", \"Restart\", \"Drain\""),
        (kubelet(json!({"version": "v1.36.3"})), "kubelet.version needs kubelet.sha256"),
        (kubelet(json!({"version": "1.36.3", "sha256": {"amd64": DIGEST}})), "spec.kubelet.version"),
        (kubelet(json!({"url": "https://a/{version}"})), "give kubelet.version, or leave them out"),
        (kubelet(json!({"sha256": {"amd64": DIGEST}})), "give kubelet.version, or leave them out"),
        (kubelet(json!({"binaryPath": "bin/kubelet"})), "write /etc/example, not etc/example"),
        (kubelet(json!({"nodeIp": "node.example.com"})), "spec.kubelet.nodeIp"),
        (kubelet(json!({"takeover": "Yes"})), "supported values: \"Refuse\", \"Adopt\""),
        (kubelet(json!({"taints": [{"key": "a", "effect": "Never"}]})), "spec.kubelet.taints[0].effect"),
        (kubelet(json!({"config": ["maxPods"]})), "spec.kubelet.config"),
        (kubelet(json!({"maxPods": 200})), "unknown field \"spec.kubelet.maxPods\""),
        (runtime(json!({"manage": "Install"})), "manage: Install needs containerRuntime.archive"),
        (
            runtime(json!({"archive": {"url": "https://a/x", "sha256": {"amd64": DIGEST}}})),
            "containerRuntime.archive is for manage: Install",
        ),
        (runtime(json!({"type": "rkt"})), "spec.containerRuntime.type"),
        (spec(json!({"mode": "DryRun"})), "supported values: \"Apply\", \"Plan\""),
    ];
    let mut wrong = Vec::new();
    for (spec, words) in &cases {
        match lab.refused(&node_bootstrap("bad", spec)).await {
            Ok(told) if told.contains(words) => {}
            Ok(told) => wrong.push(format!("no {words:?} in: {told}")),
            Err(error) => wrong.push(format!("{words:?}: {:.300}", error.to_string())),
        }
    }
    for (name, words) in [("Bad_Name", "a-z"), (&*"a".repeat(51), "at most 50 characters")] {
        let told = lab.refused(&node_bootstrap(name, &spec(json!({})))).await?;
        if !told.contains(words) {
            wrong.push(format!("no {words:?} in: {told}"));
        }
    }
    ensure!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len() + 2, wrong.join("\n"));

    // Not refused, but warned of: a secret that a broken-into node could select itself into.
    let told = lab
        .apply(&node_bootstrap(
            "warned",
            &spec(json!({"files": [{"path": "/a", "secretRef": {"name": "a", "key": "b"}}]})),
        ))
        .await?;
    ensure!(told.contains("Warning") && told.contains("node-restriction.kubernetes.io/"), "{told}");
    lab.kubectl(&["explain", "nodebootstrap.spec.binaries"]).await.map(|text| {
        ensure_all(
            &text,
            &["verified by its digest", "Default: \"0755\"", "Example: /usr/local/sbin/kubelet"],
        )
    })?
}

/// What the API server cannot tell: the operator does, and rolls nothing out.
pub(crate) async fn what_no_kubelet_takes_is_told(lab: &Lab) -> Result<()> {
    let version = |version: &str| json!({"version": version, "sha256": {"amd64": DIGEST}});
    for (asked, told_as, words) in [
        (json!({"config": {"maxPod": 200}}), "InvalidSpec", "has no such field: did you mean maxPods"),
        (
            json!({"config": {"authentication": {"anonymous": {"enabled": "no"}}}}),
            "InvalidSpec",
            "kubelet.config.authentication.anonymous.enabled: expected true or false, found the text",
        ),
        (json!({"config": {"kind": "KubeletConfiguration"}}), "InvalidSpec", "it is written by itself"),
        (json!({"extraArgs": {"--v": "2"}}), "InvalidSpec", "without its dashes"),
        (
            json!({"nodeLabels": {"node-role.kubernetes.io/worker": ""}}),
            "InvalidSpec",
            "may not give its own Node this label",
        ),
        (version("v1.33.1"), "InvalidSpec", "kubelets of 1.34 to 1.37 are known"),
        (version("v1.37.0"), "VersionSkew", "is newer than the API server, which is v1.36.3"),
    ] {
        lab.apply(&node_bootstrap("unfit", &kubelet(asked))).await?;
        let is_told = |nb: &crds::NodeBootstrap| {
            is_current(nb) && reason(nb, "Stalled") == told_as && message(nb, "Ready").contains(words)
        };
        let nb = lab.wait("unfit", words, is_told).await?;
        let revision = nb.status.and_then(|status| status.update_revision);
        ensure!(revision.is_none(), "{words}: {revision:?} was made");
    }
    lab.apply(&node_bootstrap("unfit", &kubelet(version("v1.34.0")))).await?;
    lab.ready("unfit").await.map(drop)
}

fn ensure_all(text: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(text.contains(word), "no {word:?} in:\n{text}");
    }
    Ok(())
}

fn path(list: &str, number: usize) -> String {
    let path = format!("/srv/{list}/a/folder/in/a/folder/{number:04}");
    format!("{path:x<200}")
}

/// Each list full, for real; and all of them full at once, as far as judging them goes: etcd takes no object so large.
pub(crate) async fn every_list_at_its_maximum_is_accepted(lab: &Lab) -> Result<()> {
    let lists = [
        ("groups", (0..1000).map(|i| json!({"name": format!("g{i:04}{}", "x".repeat(27)), "gid": 10_000 + i})).collect::<Vec<_>>()),
        (
            "users",
            (0..1000)
                .map(|i| json!({"name": format!("u{i:04}{}", "x".repeat(27)), "group": "g".repeat(32), "home": path("home", i), "shell": "/usr/sbin/nologin"}))
                .collect(),
        ),
        (
            "directories",
            (0..1000).map(|i| json!({"path": path("directory", i), "owner": "o".repeat(32), "mode": "0755", "recursive": true, "inside": {"fileMode": "0640", "directoryMode": "0750"}})).collect(),
        ),
        ("files", (0..1000).map(|i| json!({"path": path("file", i), "content": "x", "mode": "0644", "onChange": {"restart": ["a.service"]}})).collect()),
        (
            "binaries",
            (0..100)
                .map(|i| {
                    let url = format!("https://example.com/{}", "u".repeat(300));
                    json!({"path": path("binary", i), "url": url, "mirrors": vec![url.clone(); 8], "sha256": {"amd64": DIGEST, "arm64": DIGEST}})
                })
                .collect(),
        ),
        (
            "fileParts",
            (0..100)
                .map(|i| match i % 2 {
                    0 => json!({"path": path("part", i), "name": "n".repeat(63), "block": "x".repeat(4096), "comment": "#".repeat(8)}),
                    _ => json!({"path": path("part", i), "name": "n".repeat(63), "line": "x".repeat(1024), "replaces": "x".repeat(256)}),
                })
                .collect(),
        ),
        (
            "archives",
            (0..32)
                .map(|i| {
                    let url = format!("https://example.com/{}", "u".repeat(300));
                    json!({
                        "name": format!("a{i:02}{}", "x".repeat(60)), "url": url, "mirrors": vec![url.clone(); 8],
                        "sha256": {"amd64": DIGEST, "arm64": DIGEST}, "into": path("archive", i), "strip": 16,
                        "include": (0..32).map(|p| format!("{p:02}{}", "p".repeat(254))).collect::<Vec<_>>(),
                        "owner": "o".repeat(32), "setuid": true, "onChange": {"restart": ["a.service"]},
                    })
                })
                .collect(),
        ),
        ("symlinks", (0..100).map(|i| json!({"path": path("symlink", i), "target": path("target", i)})).collect()),
        ("units", (0..1000).map(|i| json!({"name": format!("u{i:04}{}.service", "x".repeat(100)), "content": "[Unit]\n", "enabled": true})).collect()),
    ];
    let mut all = serde_json::Map::new();
    let pem = format!("{CERTIFICATE}{}", "x".repeat(65_536 - CERTIFICATE.len()));
    all.insert(
        "trust".to_owned(),
        json!({
            "caBundles": (0..8).map(|i| json!({"name": format!("c{i}"), "pem": pem, "install": true})).collect::<Vec<_>>(),
            "proxy": {
                "http": format!("http://{}", "p".repeat(500)),
                "noProxy": (0..100).map(|i| format!("{i}{}", "n".repeat(250))).collect::<Vec<_>>(),
                "units": (0..16).map(|i| format!("u{i:02}{}.service", "x".repeat(100))).collect::<Vec<_>>(),
            },
        }),
    );
    for (list, entries) in lists {
        all.insert(list.to_owned(), Value::Array(entries.clone()));
        let file = lab.testbed.dir().join("maximum.json");
        std::fs::write(&file, node_bootstrap("maximum", &spec(json!({list: entries}))))?;
        let file = file.display().to_string();
        lab.kubectl(&["apply", "--server-side", "-f", &file]).await.with_context(|| list.to_owned())?;
        lab.delete("maximum").await?;
    }
    let file = lab.testbed.dir().join("maximum.json");
    std::fs::write(&file, node_bootstrap("maximum", &spec(Value::Object(all))))?;
    let file = file.display().to_string();
    lab.kubectl(&["create", "--dry-run=server", "-f", &file]).await.context("all lists at once").map(drop)
}

/// Two tools each apply their own entries of one list; neither takes the other's away.
pub(crate) async fn lists_merge_by_key_in_server_side_apply(lab: &Lab) -> Result<()> {
    let apply = async |manager: &str, mode: &str| {
        let file = lab.testbed.dir().join("merge.json");
        let lists = json!({"directories": [{"path": format!("/srv/{manager}"), "mode": mode}]});
        std::fs::write(&file, node_bootstrap("merge", &spec(lists)))?;
        let file = file.display().to_string();
        let manager = format!("--field-manager={manager}");
        lab.kubectl(&["apply", "--server-side", &manager, "-f", &file]).await
    };
    apply("one", "0700").await?;
    apply("two", "0755").await?;
    apply("one", "0711").await?;
    let nb = lab.node_bootstrap("merge").await?;
    let mut found: Vec<_> = nb
        .spec
        .directories
        .iter()
        .map(|d| format!("{} {}", d.path, d.mode.map(|m| m.to_string()).unwrap_or_default()))
        .collect();
    found.sort();
    ensure!(found == ["/srv/one 0711", "/srv/two 0755"], "{found:?}");
    Ok(())
}
