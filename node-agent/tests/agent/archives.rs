//! Archives: unpacked, kept as they were unpacked, put back; and those that must not be.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use node_agent::engine::Request;
use node_agent::host::archive::{MAX_ENTRIES, index};
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::Digest;
use tar::{EntryType, Header};

use crate::api::{Api, with_agent};
use crate::support::{Machine, lines, reasons, request, try_request};

/// A tar with whatever name and kind.
#[derive(Default)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    pub(crate) fn add(mut self, kind: u8, name: &str, mode: u32, content: &str) -> Self {
        let is_file = matches!(kind, b'0' | b'L' | b'K' | b'x' | b'g');
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(EntryType::new(kind));
        header.set_mode(mode);
        header.set_size(if is_file { content.len() as u64 } else { 0 });
        if !is_file {
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
        }
        header.set_cksum();
        self.0.extend(header.as_bytes());
        if is_file {
            self.0.extend(content.as_bytes());
            self.0.resize(self.0.len().next_multiple_of(512), 0);
        }
        self
    }

    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        self.add(b'0', name, 0o644, content)
    }

    fn program(self, name: &str, content: &str) -> Self {
        self.add(b'0', name, 0o777, content)
    }

    pub(crate) fn link(self, name: &str, target: &str) -> Self {
        self.add(b'2', name, 0o777, target)
    }

    pub(crate) fn directory(self, name: &str, mode: u32) -> Self {
        self.add(b'5', name, mode, "")
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A release as publishers pack it.
fn plugins() -> Tar {
    Tar::default()
        .directory("./", 0o777)
        .directory("./bin/", 0o775)
        .program("./bin/bridge", "\x7fELF bridge")
        .program("./bin/dhcp", "\x7fELF dhcp")
        .add(b'1', "./bin/vlan", 0o777, "./bin/bridge")
        .link("./bin/tuning", "bridge")
        .file("./share/doc/README", "read me")
}

/// Puts an archive on the machine; what a spec says of it.
pub(crate) fn archive(machine: &Machine, name: &str, bytes: &[u8], more: Value) -> Value {
    machine.directory("/opt/images");
    std::fs::write(machine.path(&format!("/opt/images/{name}")), bytes).unwrap();
    let digest = hex::encode(sha2::Sha256::digest(bytes));
    let mut archive = json!({
        "name": "plugins",
        "url": format!("file:///opt/images/{name}"),
        "sha256": {"amd64": digest, "arm64": digest},
        "into": "/opt/cni",
    });
    archive.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    archive
}

fn spec(archive: Value) -> Request {
    request(json!({"directories": [{"path": "/opt/cni"}], "archives": [archive]}))
}

fn is_executable(machine: &Machine, path: &str) -> bool {
    machine.path(path).metadata().unwrap().permissions().mode() & 0o111 == 0o111
}

#[tokio::test]
async fn an_archive_is_unpacked_kept_and_removed() {
    let machine = Machine::new();
    let spec = spec(archive(&machine, "a.tgz", &gzip(&plugins().end()), json!({"group": "staff"})));
    let before = machine.tree();
    let plan = machine.plan(&spec).await;
    assert_eq!(
        lines(plan.changes())[1..],
        ["archive plugins: download file:///opt/images/a.tgz, unpack into /opt/cni, root:staff"]
    );
    assert_eq!(
        plan.warnings,
        [
            "archive plugins: what is in it is known once it was fetched; what an older one has left in /opt/cni stays until then"
        ]
    );
    let made = machine.apply(&spec).await.unwrap();
    assert_eq!(lines(&made)[1..], ["archive plugins: unpack 8 entries into /opt/cni, root:staff"]);
    assert_eq!(machine.read("/opt/cni/bin/dhcp"), "\x7fELF dhcp");
    assert_eq!(machine.read("/opt/cni/bin/vlan"), "\x7fELF bridge", "a hard link is a file of its own");
    assert_eq!(machine.read("/opt/cni/bin/tuning"), "\x7fELF bridge", "by way of the link");
    assert_eq!(machine.access("/opt/cni/bin"), (0, 50, 0o755), "nobody else may write");
    assert_eq!(machine.access("/opt/cni/bin/dhcp"), (0, 50, 0o755));
    assert_eq!(machine.access("/opt/cni/share/doc/README"), (0, 50, 0o644));
    assert!(is_executable(&machine, "/opt/cni/bin/vlan"));
    assert_eq!(machine.leftovers(), Vec::<String>::new());
    let done = machine.untouched();
    assert_eq!(machine.apply(&spec).await.unwrap(), [], "nothing is left to do");
    assert_eq!(machine.untouched(), done, "and nothing is written");

    let made = machine.revert("workers").await.unwrap();
    assert!(made.iter().all(|change| !change.is_left()), "{made:?}");
    assert_eq!(machine.tree(), before);
    assert_eq!(machine.apply(&request(json!({}))).await.unwrap(), []);
    let cached = machine.untouched().into_keys().filter(|path| path.contains("nodebootstrap/.cache/"));
    assert_eq!(cached.collect::<Vec<_>>(), Vec::<String>::new(), "what nobody names is thrown away");
}

#[tokio::test]
async fn every_format_is_known_by_how_it_begins() {
    // Made by GNU tar, xz and zstd: once as one stream, once as two with, in zstd, a frame to be skipped between.
    for packed in [
        "fd377a585a000004e6d6b446020021011c00000010cf58cce009ff00555d00320bbc1ba78c3444e1c20775e8fce3c0928494b87097088776be1b4b2415af7fb281d4ff7f59c6881cc805958b7471dde218d1ecfd8632d4c66e399627c61d2621c14859a4fccd3bf5c43158f280d2e4d3ea06c90000000000ba2d67e321c503250001718014000000e37ab66db1c467fb020000000004595a",
        "fd377a585a000004e6d6b4460200210116000000742fe5a3e002bb00475d00320bbc1ba78c3444e1c20775e8fce3c0928494b87097088776be1b4b2415af7fb281d4ff7f59c6881cc805958b746f7000ca1308775c65de9fe343cd8d75c6d500e8aea590da0000000c382d60179bbe69000163bc050000000ebcdcafb1c467fb020000000004595afd377a585a000004e6d6b4460200210116000000742fe5a3e0074300295d00006e62bba7c8d5ba15a12bb394906b39374132d1475431a110733048aff2e4716fb9d6f489120d2a0000000000cfc72da9a44096d0000145c40e0000002a768a60b1c467fb020000000004595a",
        "28b52ffd6400099d020032c30a10b0b91864824af430faf6799b97393005ef39c59c2df42e24a21880ac76d16668a8b44efb50f5ced41b900e20602d2c9603f7f90b589565c6a11303a4fe346a63086e7f10537e9570c04101e61377038cd50c2c",
        "28b52ffd64bc01350300a403642f003030303037353530303000303037373430002035007573746172202000726f6f7400642f610036343430303000303130303736002030001100401cb7c207a1cd0a81f3a5c15e016830110d5030140e80f003900e56fc7c002b0038562ee31318020e8bd878502a4d1804000000736b697028b52ffd644406350100a800007573746172202000726f6f740068656c6c6f000500f781bf688082a17000841f508005741acc09",
    ] {
        let machine = Machine::new();
        let packed = hex::decode(packed).unwrap();
        machine.apply(&spec(archive(&machine, "any", &packed, json!({})))).await.unwrap();
        assert_eq!(machine.read("/opt/cni/d/a"), "hello");
        let cut = &packed[..packed.len() / 2];
        assert!(index(cut).is_err(), "cut in the middle");
    }
    let tar = plugins().end();
    let two = [gzip(&tar[..700]), gzip(&tar[700..])].concat();
    for packed in [tar.clone(), gzip(&tar), two] {
        let machine = Machine::new();
        machine.apply(&spec(archive(&machine, "any", &packed, json!({})))).await.unwrap();
        assert_eq!(machine.read("/opt/cni/share/doc/README"), "read me");
    }
    for (packed, told) in [
        (b"PK\x03\x04 and so on".as_slice(), "it is packed as zip: take one of the publisher's that is tar,"),
        (b"BZh9", "it is packed as bzip2"),
        (b"#!/bin/sh\n", "it cannot be read as a tar archive"),
        (&tar[..1000], "it cannot be read as a tar archive"),
        (&tar[..512 * 3 + 5], "its entry bin/bridge is cut off"),
    ] {
        let refused = index(packed).unwrap_err().to_string();
        assert!(refused.starts_with(told), "{refused}");
    }
}

#[tokio::test]
async fn what_is_taken_off_and_left_out() {
    let tar = Tar::default()
        .directory("v1.2/", 0o700)
        .directory("v1.2/bin", 0o700)
        .program("v1.2/bin/a", "a")
        .program("v1.2/bin/deep/b", "b")
        .file("v1.2/LICENSE", "x")
        .link("v1.2/bin/up", "../LICENSE")
        .file("top", "not in a folder");
    let tar = tar.end();
    let paths = |strip: u32, include: Value| {
        let tar = tar.clone();
        async move {
            let machine = Machine::new();
            let more = json!({"strip": strip, "include": include});
            machine.apply(&spec(archive(&machine, "a.tar", &tar, more))).await.unwrap();
            let inside = machine.tree().into_keys();
            let inside = inside.filter_map(|path| path.strip_prefix("opt/cni/").map(str::to_owned));
            (inside.collect::<Vec<_>>(), machine)
        }
    };
    let (all, machine) = paths(1, json!([])).await;
    assert_eq!(all, ["LICENSE", "bin", "bin/a", "bin/deep", "bin/deep/b", "bin/up"]);
    assert_eq!(machine.access("/opt/cni/bin").2, 0o700, "as the archive has it");
    assert_eq!(machine.access("/opt/cni/bin/deep").2, 0o755, "which it does not tell");
    assert_eq!(paths(1, json!(["bin/*"])).await.0, ["bin", "bin/a", "bin/up"]);
    assert_eq!(paths(2, json!(["**/b", "a"])).await.0, ["a", "deep", "deep/b"]);
    let machine = Machine::new();
    for (more, told) in [
        (json!({"include": ["lib/*"]}), "strip and include leave no file of it"),
        (json!({"strip": 2}), "its entry v1.2/bin/up is a link to ../LICENSE, out of its folder"),
    ] {
        let failure = machine.apply(&spec(archive(&machine, "a.tar", &tar, more))).await.unwrap_err();
        assert_eq!(
            (failure.reason.as_str(), failure.message),
            ("ArchiveRefused", format!("archive plugins: {told}"))
        );
        assert!(!machine.is_there("/opt/cni"));
    }
}

#[tokio::test]
async fn an_archive_that_must_not_be_unpacked_is_refused_before_anything_is_changed() {
    let long = "a/".repeat(600);
    for (tar, told) in [
        (Tar::default().file("../x", "x"), "its entry ../x leaves the folder"),
        (Tar::default().file("a/../../x", "x"), "its entry a/../../x leaves the folder"),
        (Tar::default().file("/etc/x", "x"), "its entry /etc/x leaves the folder"),
        (Tar::default().add(b'3', "null", 0o666, ""), "its entry null is a device"),
        (Tar::default().add(b'4', "sda", 0o666, ""), "its entry sda is a device"),
        (Tar::default().add(b'6', "pipe", 0o666, ""), "its entry pipe is a pipe"),
        (Tar::default().add(b'S', "sparse", 0o644, ""), "its entry sparse is a sparse file"),
        (Tar::default().add(b'V', "volume", 0o644, ""), "its entry volume is of the kind V"),
        (Tar::default().file("a", "1").file("./a", "2"), "its entry a is there twice"),
        (Tar::default().file("a", "1").directory("a", 0o755), "its entry a is there twice"),
        (Tar::default().file("a\tb", "x"), "its entry a\\tb has control characters"),
        (Tar::default().link("l", ""), "its entry l is a symbolic link whose target"),
        (Tar::default().link("l", "/etc/passwd"), "its entry l is a link to /etc/passwd, out of"),
        (Tar::default().link("a/l", "../../x"), "its entry a/l is a link to ../../x, out of"),
        (Tar::default().link("a/l", "b/../../.."), "its entry a/l is a link to b/../../.., out of"),
        (Tar::default().link("l", "d").file("l/x", "x"), "its entry l/x lies below l, which is no directory"),
        (Tar::default().file("f", "").file("f/x", "x"), "its entry f/x lies below f, which is no directory"),
        (Tar::default().add(b'1', "h", 0o644, "/etc/shadow"), "its entry /etc/shadow leaves the folder"),
        (Tar::default().add(b'1', "h", 0o644, "f").file("f", "x"), "its entry h is a hard link to f, which"),
        (
            Tar::default().add(b'0', "su", 0o4755, "x"),
            "its entry su has mode 4755, so that it runs as its owner",
        ),
        (
            Tar::default().add(b'0', "sg", 0o2755, "x"),
            "its entry sg has mode 2755, so that it runs as its owner",
        ),
        (Tar::default().add(b'L', "././@LongLink", 0, &long).file("short", "x"), "its entry a/a/a/"),
        (Tar::default().add(b'x', "x", 0, "12 size=100\n").file("f", "x"), "its entry f has two sizes"),
        (
            Tar::default().add(b'x', "x", 0, "22 GNU.sparse.major=1\n").file("f", "x"),
            "it has sparse files in it",
        ),
        (Tar::default().file(".nodebootstrap", "").directory("d", 0o755), ""),
    ] {
        let machine = Machine::new();
        let spec = spec(archive(&machine, "a.tar", &tar.file("good", "good").end(), json!({})));
        let before = machine.tree();
        let outcome = machine.apply(&spec).await;
        if told.is_empty() {
            outcome.unwrap();
            continue;
        }
        let failure = outcome.unwrap_err();
        assert_eq!(failure.reason, "ArchiveRefused", "{failure:?}");
        assert!(failure.message.starts_with(&format!("archive plugins: {told}")), "{}", failure.message);
        assert_eq!(machine.tree(), before, "{told}");
    }
    let many = (0..=MAX_ENTRIES).fold(Tar::default(), |tar, at| tar.file(&format!("f{at}"), ""));
    assert_eq!(index(&*many.end()).unwrap_err().to_string(), "it has more than 10000 entries");
    let not_text = {
        let mut tar = Tar::default().file("name", "x").end();
        tar[1] = 0xff;
        let mut header = Header::new_gnu();
        header.as_mut_bytes().copy_from_slice(&tar[..512]);
        header.set_cksum();
        tar[..512].copy_from_slice(header.as_bytes());
        tar
    };
    assert_eq!(
        index(&*not_text).unwrap_err().to_string(),
        "its entry n\u{fffd}me has a name that is no UTF-8"
    );
}

#[test]
fn more_than_is_allowed_comes_out_of_a_small_archive() {
    let of_size = |name: &str, size: u64| {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(size);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    // It is told before so much of it was read.
    let large = of_size("f", 5 << 30);
    assert_eq!(index(&*large).unwrap_err().to_string(), "more than 4 GiB come out of it");
    // Also where it is one content many times.
    let mut many = Tar(of_size("f", 1 << 20));
    many.0.resize(512 + (1 << 20), 0);
    let many = (0..5000).fold(many, |tar, at| tar.add(b'1', &format!("l{at}"), 0o644, "f")).end();
    assert_eq!(index(&*many).unwrap_err().to_string(), "more than 4 GiB come out of it");
}

#[tokio::test]
async fn set_uid_programs_only_if_they_are_asked_for() {
    let machine = Machine::new();
    let tar = Tar::default().add(b'0', "su", 0o4755, "x").end();
    let with = spec(archive(&machine, "a.tar", &tar, json!({"setuid": true, "owner": "daemon"})));
    machine.apply(&with).await.unwrap();
    assert_eq!(machine.access("/opt/cni/su"), (1, 0, 0o4755));
}

#[tokio::test]
async fn what_is_changed_of_it_is_repaired_and_told() {
    let machine = Machine::new();
    machine.systemd.set("containerd.service", "active");
    let more = json!({"onChange": {"restart": ["containerd.service"]}});
    let spec = spec(archive(&machine, "a.tgz", &gzip(&plugins().end()), more));
    machine.apply(&spec).await.unwrap();
    assert!(machine.systemd.take_asked().contains(&"restart containerd.service".to_owned()));
    let made = machine.tree();
    let repaired = async |found: &str, change: &str, restarts: bool| {
        let changes = machine.apply(&spec).await.unwrap();
        assert_eq!((changes[0].found.as_str(), changes[0].change.as_str()), (found, change));
        let asked = machine.systemd.take_asked();
        assert_eq!(asked.contains(&"restart containerd.service".to_owned()), restarts, "{asked:?}");
        assert_eq!(machine.tree(), made);
    };
    machine.write("/opt/cni/bin/dhcp", "\x7fELF evil");
    machine.set("/opt/cni/bin/dhcp", 0, 0, 0o755);
    repaired("had other content in bin/dhcp", "unpack bin/dhcp into /opt/cni, root:root", true).await;
    std::fs::remove_file(machine.path("/opt/cni/bin/vlan")).unwrap();
    std::fs::remove_file(machine.path("/opt/cni/bin/tuning")).unwrap();
    machine.link("/opt/cni/bin/tuning", "elsewhere");
    repaired(
        "lacked bin/vlan, had other content in bin/tuning",
        "unpack 2 of 8 entries into /opt/cni, root:root",
        true,
    )
    .await;
    // Owners and modes need neither the archive nor a restart.
    std::fs::remove_file(machine.path("/opt/images/a.tgz")).unwrap();
    let cache = machine.path("/var/lib/nodebootstrap/.cache");
    for entry in std::fs::read_dir(cache).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none() {
            std::fs::remove_file(path).unwrap();
        }
    }
    machine.set("/opt/cni/bin/dhcp", 1, 1, 0o4777);
    machine.set("/opt/cni/bin", 0, 0, 0o777);
    let changes = machine.apply(&spec).await.unwrap();
    assert_eq!(lines(&changes), ["archive plugins: owner and mode of 2 of 8 entries in /opt/cni"]);
    assert!(machine.systemd.take_asked().is_empty());
    std::fs::remove_dir_all(machine.path("/opt/cni/bin")).unwrap();
    let failure = machine.apply(&spec).await.unwrap_err();
    assert_eq!(failure.reason, "DownloadFailed", "{failure:?}");
}

#[tokio::test]
async fn a_new_version_takes_away_what_it_does_not_have_any_more() {
    let machine = Machine::new();
    machine.directory("/opt/cni");
    machine.write("/opt/cni/dhcp", "theirs");
    machine.set("/opt/cni/dhcp", 1, 50, 0o640);
    machine.write("/opt/cni/mine", "theirs");
    machine.write("/opt/cni/same", "same");
    let before = machine.tree();
    let old = Tar::default().file("old/gone", "1").file("dhcp", "1").file("kind", "1").file("same", "same");
    let new = Tar::default().file("dhcp", "2").link("kind", "dhcp").file("same", "same").file("other", "2");
    let (old, new) = (old.end(), new.end());
    let (one, two) = (archive(&machine, "1", &old, json!({})), archive(&machine, "2", &new, json!({})));
    let (one, two) = (request(json!({"archives": [one]})), request(json!({"archives": [two]})));
    machine.apply(&one).await.unwrap();
    // What is in the new one is not known: nothing of the old one is taken for something that is to go.
    let plan = machine.plan(&two).await;
    assert_eq!(plan.changes().count(), 1, "{:?}", lines(plan.changes()));
    let made = machine.apply(&two).await.unwrap();
    assert_eq!(
        lines(&made),
        [
            "file /opt/cni/old/gone: remove",
            "directory /opt/cni/old: remove, if nothing else is in it",
            "archive plugins: unpack 3 of 4 entries into /opt/cni, root:root",
        ]
    );
    assert_eq!(machine.read("/opt/cni/kind"), "2");
    assert!(!machine.is_there("/opt/cni/old") && machine.read("/opt/cni/mine") == "theirs");
    // And back: what was a link is a file again.
    machine.apply(&one).await.unwrap();
    assert_eq!(machine.read("/opt/cni/kind"), "1");
    machine.apply(&two).await.unwrap();
    machine.revert("workers").await.unwrap();
    let mut after = machine.tree();
    after.retain(|path, _| !path.starts_with("opt/images"));
    let mut before = before;
    before.retain(|path, _| !path.starts_with("opt/images"));
    assert_eq!(after, before, "what was there before is back");
}

#[tokio::test]
async fn what_is_no_file_of_ours_is_in_the_way() {
    let machine = Machine::new();
    machine.directory("/opt/cni/dhcp");
    machine.directory("/opt/cni/bridge");
    machine.write("/opt/cni/link", "theirs");
    let tar = Tar::default().file("dhcp", "1").file("bridge", "1").link("link", "dhcp").end();
    let archive = archive(&machine, "1", &tar, json!({}));
    let spec = request(json!({"archives": [archive]}));
    let failure = machine.apply(&spec).await.unwrap_err();
    assert_eq!(failure.reason, "PathOccupied");
    assert_eq!(
        failure.message,
        "archive plugins: its entry bridge: /opt/cni/bridge is a directory, expected a file: move it away, or choose another path; nothing is deleted (so are 2 more of its entries)"
    );
    let spec = |into: &str| {
        let mut archive = archive.clone();
        archive["into"] = json!(into);
        request(json!({"archives": [archive]}))
    };
    for (into, reason) in
        [("/srv/gone", "NoDirectory"), ("/opt/cni/link", "PathOccupied"), ("/etc/systemd/system", "")]
    {
        let found = reasons(&machine.plan(&spec(into)).await);
        let expected = if reason.is_empty() { vec![] } else { vec![format!("archive plugins: {reason}")] };
        assert_eq!(found, expected, "{into}");
    }
    let accounts = Tar::default().file("passwd", "root::0:0::/:/bin/sh\n").end();
    let spec =
        request(json!({"archives": [self::archive(&machine, "2", &accounts, json!({"into": "/etc"}))]}));
    let failure = machine.apply(&spec).await.unwrap_err();
    assert!(failure.reason == "PathRefused" && failure.message.contains("users and groups"), "{failure:?}");
}

#[tokio::test]
async fn two_that_have_one_path_are_told() {
    let machine = Machine::new();
    let tar = Tar::default().file("dhcp", "1").file("bridge", "1").directory("shared", 0o755).end();
    let mut first = archive(&machine, "1", &tar, json!({"include": ["dhcp", "shared"]}));
    first["name"] = json!("first");
    let second = archive(&machine, "1", &tar, json!({"owner": "daemon"}));
    let with = |archives: Value, files: Value| json!({"directories": [{"path": "/opt/cni"}], "archives": archives, "files": files});
    let failure = machine.apply(&request(with(json!([first, second]), json!([])))).await.unwrap_err();
    assert_eq!(
        failure.message,
        "archive plugins: /opt/cni/dhcp in it is the same place as archive first: leave one of them, or have include leave that entry out"
    );
    let file = json!([{"path": "/opt/cni/dhcp", "content": "mine"}]);
    let failure = machine.apply(&request(with(json!([first]), file.clone()))).await.unwrap_err();
    assert_eq!(failure.reason, "SamePath", "{failure:?}");
    // What is a folder in one is a file of the other, or of the spec.
    let as_file = archive(&machine, "2", &Tar::default().file("shared", "2").end(), json!({"name": "other"}));
    for archives in [json!([first, as_file]), json!([as_file, first])] {
        let failure = machine.apply(&request(with(archives, json!([])))).await.unwrap_err();
        assert_eq!(failure.reason, "SamePath", "{failure:?}");
    }
    let file_there = json!([{"path": "/opt/cni/shared", "content": "mine"}]);
    let failure = machine.apply(&request(with(json!([first]), file_there))).await.unwrap_err();
    assert_eq!(
        failure.message,
        "archive first: /opt/cni/shared in it is a directory, and file /opt/cni/shared is to be there: leave one of them, or have include leave that entry out"
    );
    // A folder that two have is no conflict: it is the first's.
    let mut second = second;
    second["include"] = json!(["bridge", "shared"]);
    let both = request(with(json!([first, second]), json!([])));
    machine.apply(&both).await.unwrap();
    assert!(machine.plan(&both).await.is_empty());
    assert_eq!(machine.access("/opt/cni/shared").0, 0);

    // And of two NodeBootstraps, in both directions.
    let named = |name: &str, created: &str, spec: Value| {
        let request = try_request(name, spec, &Default::default()).unwrap();
        Request { created: created.to_owned(), ..request }
    };
    let young = "2026-02-02T00:00:00Z";
    let plan = machine.plan(&named("young", young, json!({"files": file}))).await;
    assert_eq!(reasons(&plan), ["file /opt/cni/dhcp: Conflict"]);
    let plan = machine.plan(&named("young", young, json!({"archives": [first]}))).await;
    assert_eq!(reasons(&plan), ["archive first: Conflict"]);
    let message = &plan.problems[0].message;
    assert!(
        message.starts_with("/opt/cni/dhcp in it belongs to the NodeBootstrap workers on this host"),
        "{message}"
    );
    let part = json!([{"path": "/opt/cni/dhcp", "name": "p", "line": "mine"}]);
    let plan = machine.plan(&named("young", young, json!({"fileParts": part}))).await;
    assert_eq!(reasons(&plan), ["part /opt/cni/dhcp#p: Conflict"]);
    // Nor does an archive bring a file that the spec itself has a part of.
    let mut beside = with(json!([first, second]), json!([]));
    beside["fileParts"] = part;
    assert_eq!(reasons(&machine.plan(&request(beside)).await), ["part /opt/cni/dhcp#p: SamePath"]);
}

#[tokio::test]
async fn folders_that_are_there_stay_as_they_are_and_a_recursive_directory_leaves_it_alone() {
    let machine = Machine::new();
    machine.directory("/opt/cni/bin");
    machine.write("/opt/cni/theirs", "theirs");
    machine.set("/opt/cni/bin", 77, 77, 0o700);
    let before = machine.tree();
    let tar =
        Tar::default().directory("bin", 0o755).file("bin/a", "a").directory("new", 0o750).file("new/b", "b");
    let archive = archive(&machine, "1", &tar.end(), json!({}));
    let spec = request(json!({
        "directories": [{"path": "/opt/cni", "owner": "daemon", "recursive": true}],
        "archives": [archive],
    }));
    machine.apply(&spec).await.unwrap();
    assert!(machine.plan(&spec).await.is_empty());
    assert_eq!(machine.access("/opt/cni/bin"), (1, 0, 0o700), "of nobody's own: as all that is inside");
    assert_eq!(machine.access("/opt/cni/theirs").0, 1);
    assert_eq!(machine.access("/opt/cni/bin/a").0, 0);
    assert_eq!(machine.access("/opt/cni/new"), (0, 0, 0o750));
    machine.set("/opt/cni/new", 0, 0, 0o777);
    let made = machine.apply(&spec).await.unwrap();
    assert_eq!(lines(&made), ["archive plugins: owner and mode of new in /opt/cni"]);
    machine.revert("workers").await.unwrap();
    let mut after = machine.tree();
    after.retain(|path, _| !path.starts_with("opt/images"));
    let mut before = before;
    before.retain(|path, _| !path.starts_with("opt/images"));
    assert_eq!(after, before);
}

#[tokio::test]
async fn a_cache_that_was_lost_is_no_reason_to_touch_anything() {
    let machine = Machine::new();
    let spec = spec(archive(&machine, "a.tgz", &gzip(&plugins().end()), json!({})));
    machine.apply(&spec).await.unwrap();
    let before = machine.tree();
    std::fs::remove_dir_all(machine.path("/var/lib/nodebootstrap/.cache")).unwrap();
    let plan = machine.plan(&spec).await;
    assert_eq!(plan.changes().count(), 1, "fetched again: {:?}", lines(plan.changes()));
    assert_eq!(machine.apply(&spec).await.unwrap(), [], "and found as it shall be");
    assert_eq!(machine.tree(), before);
}

#[tokio::test]
async fn the_agent_fetches_before_it_asks_for_a_permit_and_watches_what_it_unpacked() {
    let (machine, api) = (Machine::new(), Api::start().await);
    machine.systemd.set("plugins.service", "active");
    let more = json!({"onChange": {"restart": ["plugins.service"]}});
    let archive = archive(&machine, "a.tgz", &gzip(&plugins().end()), more);
    let name = api.put(&spec(archive), None);
    // Nothing but inotify tells of drift.
    let tell = |drift: Value, permit: &str| {
        api.tell(json!({"revision": name, "drift": drift, "permit": {"id": 1, "disruption": permit}}));
    };
    let report = json!({"policy": "Report", "interval": "1h"});
    tell(report.clone(), "None");
    with_agent(&machine, &api, async {
        let status = api.until_status("its plan", |status| status["reason"] == "NeedsPermit").await;
        assert_eq!(status["changes"][1]["change"], "unpack 8 entries into /opt/cni, root:root");
        assert!(!machine.is_there("/opt/cni"));
        tell(report.clone(), "Restart");
        api.until_phase("Ready").await;
        std::fs::remove_file(machine.path("/opt/cni/bin/vlan")).unwrap();
        let status = api.until_status("the drift", |status| status["drifted"].is_array()).await;
        assert_eq!(status["drifted"], json!(["archive plugins lacked bin/vlan"]));
        tell(json!({"interval": "1h"}), "Restart");
        let is_made = |status: &Value, change: &str| {
            let changes = status["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
            status["phase"] == "Ready" && changes.iter().any(|one| one["change"] == change)
        };
        let one = "unpack bin/vlan into /opt/cni, root:root";
        api.until_status("the repair", |status| is_made(status, one)).await;
        assert_eq!(machine.read("/opt/cni/bin/vlan"), "\x7fELF bridge");
        std::fs::remove_dir_all(machine.path("/opt/cni")).unwrap();
        let all = "unpack 8 entries into /opt/cni, root:root";
        api.until_status("another", |status| is_made(status, all)).await;
    })
    .await;
    // A process that finds the cache gone tells of no drift that is none.
    std::fs::remove_dir_all(machine.path("/var/lib/nodebootstrap/.cache")).unwrap();
    let before = machine.tree();
    tell(report, "None");
    with_agent(&machine, &api, async {
        api.until("a look", |objects| objects.statuses.last().is_some_and(|s| s["permitId"] == 1)).await;
        api.tell(json!({"revision": name, "drift": {"policy": "Report"}, "permit": {"id": 9, "disruption": "None"}}));
        let status = api.until_status("the permit", |status| status["permitId"] == 9).await;
        assert_eq!((&status["phase"], &status["drifted"]), (&json!("Ready"), &Value::Null), "{status}");
    })
    .await;
    assert_eq!(machine.tree(), before);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    /// Whatever bytes come, the reader says what is in them or why not.
    #[test]
    fn no_bytes_harm_the_reader(
        which in 0_usize..4, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        length in any::<prop::sample::Index>(), is_cut in any::<bool>(),
    ) {
        let packed = |hex: &str| hex::decode(hex).unwrap();
        let tar = plugins().add(b'L', "././@LongLink", 0, "long").file("short", "x").end();
        let mut bytes = match which {
            0 => tar,
            1 => gzip(&tar),
            2 => packed("fd377a585a000004e6d6b446020021011c00000010cf58cce009ff00555d00320bbc1ba78c3444e1c20775e8fce3c0928494b87097088776be1b4b2415af7fb281d4ff7f59c6881cc805958b7471dde218d1ecfd8632d4c66e399627c61d2621c14859a4fccd3bf5c43158f280d2e4d3ea06c90000000000ba2d67e321c503250001718014000000e37ab66db1c467fb020000000004595a"),
            _ => packed("28b52ffd6400099d020032c30a10b0b91864824af430faf6799b97393005ef39c59c2df42e24a21880ac76d16668a8b44efb50f5ced41b900e20602d2c9603f7f90b589565c6a11303a4fe346a63086e7f10537e9570c04101e61377038cd50c2c"),
        };
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if is_cut {
            bytes.truncate(length.index(bytes.len()));
        }
        if let Ok(index) = index(&*bytes) {
            prop_assert!(index.entries.len() <= MAX_ENTRIES);
            for path in index.entries.keys() {
                let is_plain = path.split('/').all(|step| !matches!(step, "" | "." | ".."));
                prop_assert!(is_plain && !path.chars().any(char::is_control), "{:?}", path);
            }
        }
    }
}

#[test]
fn what_an_archive_has_for_a_number_does_not_reach_a_terminal() {
    let mut tar = plugins().end();
    tar[148..156].copy_from_slice(b"\x1b]0;PP\x07\0");
    let refused = index(std::io::Cursor::new(tar)).unwrap_err().to_string();
    assert!(refused.contains("\\u{1b}]0;P") && !refused.contains(char::is_control), "{refused}");
}
