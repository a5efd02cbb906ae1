//! plan ∘ apply is idempotent, for generated specs on generated hosts; a plan changes nothing; a run that is stopped
//! anywhere is finished by the next.

use node_agent::ledger::{Entry, Item, Provenance};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use sha2::Digest;
use std::collections::BTreeSet;

use crate::archives::Tar;
use crate::support::{Machine, lines, try_request};

/// Few paths, so that they meet: in one spec, and on the host. Those of directories and of files mostly fit together;
/// now and then any path is anything.
const DIRECTORIES: &[&str] = &["/d", "/d/a", "/d/a/b", "/d/a/b/c", "/e/x/y", "/e", "/u", "/l/a"];
const FILES: &[&str] = &["/d/f", "/d/g", "/opt/z", "/d/a/h", "/u/k", "/e/i"];
const LINKS: &[&str] = &["/d/s", "/d/a/s", "/opt/s"];
const PATHS: &[&str] =
    &["/d", "/d/a", "/d/a/b", "/d/a/b/c", "/d/f", "/e/x/y", "/e", "/l/a", "/opt/z", "/u/k", "/u"];
const OWNERS: &[&str] = &["root", "daemon", "k", "m", "77"];
const MODES: &[&str] = &["0755", "0700", "1777", "0640", "4711"];

fn pick(from: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    proptest::sample::select(from)
}

fn mostly(
    usual: &'static [&'static str],
    odd: &'static [&'static str],
) -> impl Strategy<Value = &'static str> {
    prop_oneof![19 => pick(usual), 1 => pick(odd)]
}

fn some_of(strategy: impl Strategy<Value = Value>, most: usize) -> impl Strategy<Value = Vec<Value>> {
    proptest::collection::vec(strategy, 0..=most)
}

fn without_doubles(mut entries: Vec<Value>, key: &str) -> Vec<Value> {
    entries.sort_by_key(|entry| entry[key].to_string());
    entries.dedup_by_key(|entry| entry[key].to_string());
    entries
}

prop_compose! {
    fn group(name: &'static str)(gid in prop_oneof![8 => Just(None), 4 => Just(Some(300)), 1 => Just(Some(1))]) -> Value {
        match gid {
            Some(gid) => json!({"name": name, "gid": gid}),
            None => json!({"name": name}),
        }
    }
}

prop_compose! {
    fn more_of_a_user()(
        groups in proptest::sample::subsequence(vec!["k", "m", "staff"], 0..3), comment in any::<Option<bool>>(),
        locked in any::<Option<bool>>(),
    ) -> Value {
        let mut more = json!({"groups": groups});
        if let Some(comment) = comment {
            more["comment"] = json!(if comment { "a comment" } else { "" });
        }
        if let Some(locked) = locked {
            more["locked"] = json!(locked);
        }
        more
    }
}

prop_compose! {
    fn user(name: &'static str)(group in mostly(&["k", "m", "daemon"], OWNERS), home in pick(PATHS), system in any::<bool>(), more in more_of_a_user()) -> Value {
        let mut user = json!({"name": name, "group": group, "home": home, "system": system});
        if let (Some(user), Value::Object(more)) = (user.as_object_mut(), more) {
            user.extend(more);
        }
        user
    }
}

prop_compose! {
    fn directory()(
        path in mostly(DIRECTORIES, PATHS), owner in mostly(OWNERS, &["x"]), group in pick(OWNERS), mode in pick(MODES),
        recursive in any::<bool>(), inside in proptest::option::weighted(0.3, (pick(&["0640", "0755"]), pick(&["0750", "2775"]))),
    ) -> Value {
        let mut directory = json!({"path": path, "owner": owner, "group": group, "mode": mode, "recursive": recursive});
        if let (true, Some((file, folder))) = (recursive, inside) {
            directory["inside"] = json!({"fileMode": file, "directoryMode": folder});
        }
        directory
    }
}

prop_compose! {
    fn part()(
        name in pick(&["a", "b"]), kind in 0..3, text in "[ab]{1,2}", path in mostly(&["/etc/hosts"], &["/opt/z"]),
        restart in any::<bool>(),
    ) -> Value {
        let mut part = json!({"path": path, "name": name});
        match kind {
            0 => part["block"] = json!(format!("{text}\n{text}\n")),
            1 => part["line"] = json!(format!("{name}-{text}")),
            _ => {
                part["line"] = json!(format!("{name}={text}"));
                part["replaces"] = json!(format!("{name}="));
            }
        }
        if restart {
            part["onChange"] = json!({"restart": ["run.service"]});
        }
        part
    }
}

prop_compose! {
    fn file()(
        path in mostly(FILES, PATHS), owner in mostly(OWNERS, &["x"]), mode in pick(MODES), content in "[ab]{0,2}",
        restart in any::<bool>(),
    ) -> Value {
        let mut file = json!({"path": path, "owner": owner, "mode": mode, "content": content});
        if restart {
            file["onChange"] = json!({"restart": ["run.service"]});
        }
        file
    }
}

prop_compose! {
    fn symlink()(path in mostly(LINKS, PATHS), target in pick(&["/d", "../opt", "/nowhere"])) -> Value {
        json!({"path": path, "target": target})
    }
}

/// What is in the archive that specs may have; it meets their other paths.
fn packed() -> Vec<u8> {
    Tar::default()
        .file("f", "a")
        .file("new", "n")
        .directory("a", 0o700)
        .file("a/h", "ab")
        .file("a/b/deep", "d")
        .link("s", "a/h")
        .end()
}

prop_compose! {
    fn archive()(
        into in mostly(&["/d", "/opt", "/e"], DIRECTORIES), owner in mostly(OWNERS, &["x"]),
        include in prop_oneof![Just(vec![]), Just(vec!["a/**"]), Just(vec!["*"])], strip in prop_oneof![4 => Just(0), 1 => Just(1)],
        restart in any::<bool>(),
    ) -> Value {
        let digest = hex::encode(sha2::Sha256::digest(packed()));
        let mut archive = json!({
            "name": "packed", "url": "file:///var/lib/nodebootstrap-images/packed.tar", "sha256": {"amd64": digest, "arm64": digest},
            "into": into, "owner": owner, "include": include, "strip": strip,
        });
        if restart {
            archive["onChange"] = json!({"restart": ["run.service"]});
        }
        archive
    }
}

prop_compose! {
    fn unit()(name in pick(&["run.service", "new.service"]), content in "[ab]", enabled in any::<Option<bool>>(), active in any::<Option<bool>>(), drop_in in any::<bool>()) -> Value {
        let mut unit = json!({
            "name": name,
            "content": format!("[Service]\nExecStart=/{content}\n[Install]\nWantedBy=x.target\n"),
        });
        if drop_in {
            unit["dropIns"] = json!([{"name": "x.conf", "content": content}]);
        }
        if let Some(enabled) = enabled {
            unit["enabled"] = json!(enabled);
        }
        if let Some(active) = active {
            unit["active"] = json!(active);
        }
        unit
    }
}

prop_compose! {
    fn spec()(
        groups in (group("k"), group("m")), users in (user("k"), user("m")), directories in some_of(directory(), 6),
        files in some_of(file(), 3), symlinks in some_of(symlink(), 2), archives in some_of(archive(), 1), units in some_of(unit(), 2), root in any::<bool>(),
        parts in some_of(part(), 2),
    ) -> Value {
        let mut directories = directories;
        if root {
            directories.push(json!({"path": "/d", "owner": "k", "recursive": true}));
        }
        json!({
            "groups": [groups.0, groups.1],
            "users": [users.0, users.1],
            "directories": without_doubles(directories, "path"),
            "files": without_doubles(files, "path"),
            "symlinks": without_doubles(symlinks, "path"),
            "fileParts": without_doubles(parts, "name"),
            "archives": archives,
            "units": without_doubles(units, "name"),
        })
    }
}

/// Something on the host before.
#[derive(Debug, Clone)]
enum Before {
    File(&'static str, u32, u32),
    Directory(&'static str, u32, u32),
    Link(&'static str, &'static str, u32),
    Running,
    /// What is in /etc/hosts.
    Hosts(String),
}

fn before() -> impl Strategy<Value = Vec<Before>> {
    let owner = prop_oneof![4 => Just(0_u32), 1 => Just(77_u32), 1 => Just(1_u32)];
    let mode = prop_oneof![Just(0o755_u32), Just(0o644), Just(0o777)];
    let entry = prop_oneof![
        2 => (mostly(FILES, PATHS), owner.clone(), mode.clone()).prop_map(|(path, owner, mode)| Before::File(path, owner, mode)),
        4 => (mostly(DIRECTORIES, PATHS), owner.clone(), mode).prop_map(|(path, owner, mode)| Before::Directory(path, owner, mode)),
        1 => (mostly(LINKS, PATHS), pick(&["/d", "/opt", "../opt", "/nowhere"]), owner.clone()).prop_map(|(path, target, owner)| Before::Link(path, target, owner)),
        1 => (pick(PATHS), pick(&["/d", "/opt", "../opt", "/nowhere"]), owner).prop_map(|(path, target, owner)| Before::Link(path, target, owner)),
        1 => Just(Before::Running),
        2 => "(a=[ab]|b=1|a-a|\r?\n|# BEGIN nodebootstrap c\n){0,5}".prop_map(Before::Hosts),
    ];
    proptest::collection::vec(entry, 0..6)
}

fn machine(before: &[Before]) -> Machine {
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};
    let machine = Machine::new();
    machine.write("/etc/hosts", "127.0.0.1 localhost\n");
    // The last is no part of what is compared.
    let images = "/var/lib/nodebootstrap-images";
    for directory in ["/d/a", "/e", "/u", images] {
        machine.directory(directory);
    }
    std::fs::write(machine.path(&format!("{images}/packed.tar")), packed()).expect("write");
    for entry in before {
        // What does not fit with what is there already is left out.
        match entry {
            Before::File(path, owner, mode) => {
                let path = machine.path(path);
                let _ = path.parent().map(std::fs::create_dir_all);
                if path.symlink_metadata().is_err() && std::fs::write(&path, "a").is_ok() {
                    let _ = lchown(&path, Some(*owner), Some(*owner));
                    let _ = std::fs::set_permissions(&path, PermissionsExt::from_mode(*mode));
                }
            }
            Before::Directory(path, owner, mode) => {
                let path = machine.path(path);
                if path.symlink_metadata().is_err() && std::fs::create_dir_all(&path).is_ok() {
                    let _ = lchown(&path, Some(*owner), Some(*owner));
                    let _ = std::fs::set_permissions(&path, PermissionsExt::from_mode(*mode));
                }
            }
            Before::Link(path, target, owner) => {
                // Its own root is not that of the test, so links are only made where the test does not follow them.
                let path = machine.path(path);
                let in_place = path.parent().is_some_and(|parent| parent.is_dir());
                if in_place && path.symlink_metadata().is_err() && symlink(target, &path).is_ok() {
                    let _ = lchown(&path, Some(*owner), Some(*owner));
                    break;
                }
            }
            Before::Running => machine.systemd.set("run.service", "active"),
            Before::Hosts(content) => {
                machine.write("/etc/hosts", content);
                machine.set("/etc/hosts", 1, 50, 0o640);
            }
        }
    }
    machine
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

const CASES: u32 = 192;
/// So many cases must get as far as being applied; the others have problems, or break rules of the API.
const LEAST_APPLIED: u32 = CASES / 16;

/// Tries generated cases; each says whether it got as far as being applied.
fn check<S: Strategy>(strategy: S, case: impl Fn(S::Value) -> Result<bool, TestCaseError>) {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(CASES) };
    let applied = std::cell::Cell::new(0);
    let outcome = TestRunner::new(config).run(&strategy, |value| {
        if case(value)? {
            applied.set(applied.get() + 1);
        }
        Ok(())
    });
    if let Err(failed) = outcome {
        panic!("{failed}");
    }
    assert!(applied.get() >= LEAST_APPLIED, "only {} of {CASES} cases were worth anything", applied.get());
}

#[test]
fn apply_does_what_plan_says_and_then_nothing_is_left() {
    check((spec(), before()), |(spec, before)| {
        let Ok(request) = try_request("workers", spec, &Default::default()) else { return Ok(false) };
        let machine = machine(&before);
        run(async {
            machine.fetch(&request).await;
            let untouched = machine.untouched();
            let plan = machine.plan(&request).await;
            prop_assert_eq!(machine.untouched(), untouched, "a plan changes nothing");
            let tree = machine.tree();
            let outcome = machine.apply(&request).await;
            if !plan.problems.is_empty() {
                prop_assert!(outcome.is_err());
                prop_assert_eq!(machine.tree(), tree, "with a problem nothing is begun");
                return Ok(false);
            }
            let made = outcome.map_err(|failure| TestCaseError::fail(format!("{failure:?}")))?;
            prop_assert_eq!(lines(&made), lines(plan.changes()));
            prop_assert_eq!(machine.leftovers(), Vec::<String>::new());
            machine.systemd.take_asked();
            let again = machine.plan(&request).await;
            prop_assert!(again.is_empty(), "{:?}", again);
            let done = machine.untouched();
            prop_assert_eq!(machine.apply(&request).await.map(|made| made.len()), Ok(0));
            prop_assert_eq!(machine.untouched(), done, "the second time nothing is written");
            prop_assert!(machine.systemd.take_asked().is_empty());
            Ok(!made.is_empty())
        })
    });
}

#[test]
fn a_run_stopped_anywhere_is_finished_by_the_next() {
    check((spec(), before(), 0_usize..12), |(spec, before, after)| {
        let Ok(request) = try_request("workers", spec, &Default::default()) else { return Ok(false) };
        let (whole, parts) = (machine(&before), machine(&before));
        run(async {
            // What is in an archive may be one of the problems.
            whole.fetch(&request).await;
            if !whole.plan(&request).await.problems.is_empty() {
                return Ok(false);
            }
            whole.apply(&request).await.map_err(|failure| TestCaseError::fail(format!("{failure:?}")))?;
            let first = parts.apply_until(&request, after).await;
            let second = parts.apply(&request).await;
            prop_assert!(second.is_ok(), "{:?} then {:?}", first, second);
            prop_assert_eq!(parts.tree(), whole.tree());
            let restarts = |machine: &Machine| {
                machine.systemd.take_asked().iter().filter(|asked| asked.starts_with("restart")).count()
            };
            prop_assert_eq!(restarts(&parts), restarts(&whole), "each restart once, whichever run makes it");
            Ok(first.is_err())
        })
    });
}

#[test]
fn apply_then_revert_leaves_the_host_as_it_was() {
    check((spec(), before()), |(spec, before)| {
        let Ok(request) = try_request("workers", spec, &Default::default()) else { return Ok(false) };
        let machine = machine(&before);
        run(async {
            let tree = machine.tree();
            if machine.apply(&request).await.is_err() {
                return Ok(false);
            }
            let is_changed = machine.tree() != tree;
            let made = machine.revert("workers").await;
            let made = made.map_err(|failure| TestCaseError::fail(format!("{failure:?}")))?;
            prop_assert!(!made.iter().any(|change| change.is_left()), "{:?}", made);
            prop_assert_eq!(machine.tree(), tree, "{:?}", made);
            Ok(is_changed)
        })
    });
}

#[test]
fn an_entry_that_leaves_the_spec_leaves_the_host_as_if_it_had_never_been_there() {
    let lists = ["directories", "files", "symlinks", "fileParts", "archives", "units"];
    check((spec(), before(), any::<proptest::sample::Index>()), |(spec, before, index)| {
        let all: Vec<(&str, usize)> = lists
            .iter()
            .flat_map(|list| (0..spec[list].as_array().map_or(0, Vec::len)).map(move |at| (*list, at)))
            .collect();
        if all.is_empty() {
            return Ok(false);
        }
        let (list, at) = all[index.index(all.len())];
        let mut less = spec.clone();
        less[list].as_array_mut().expect("a list").remove(at);
        let (Ok(more), Ok(less)) = (
            try_request("workers", spec, &Default::default()),
            try_request("workers", less, &Default::default()),
        ) else {
            return Ok(false);
        };
        let (with, without) = (machine(&before), machine(&before));
        run(async {
            if without.apply(&less).await.is_err() || with.apply(&more).await.is_err() {
                return Ok(false);
            }
            let plan = with.plan(&less).await;
            let made = with.apply(&less).await;
            let made = made.map_err(|failure| TestCaseError::fail(format!("{failure:?}")))?;
            prop_assert_eq!(lines(&made), lines(plan.changes()));
            prop_assert_eq!(with.tree(), without.tree(), "{:?}", made);
            with.revert("workers").await.map_err(|failure| TestCaseError::fail(format!("{failure:?}")))?;
            prop_assert_eq!(with.tree(), machine(&before).tree());
            Ok(!made.is_empty())
        })
    });
}

/// What comes back of a list stands behind the others: a block of lines in a file, or a member of a group. Of lines with CRLF
/// the last may be without.
fn unordered(text: &str) -> String {
    let of_line = |line: &str| {
        let Some((group, members)) = line.rsplit_once(':') else { return line.to_owned() };
        let members: BTreeSet<&str> = members.split(',').collect();
        format!("{group}:{}", members.into_iter().collect::<Vec<_>>().join(","))
    };
    let lines = text.split('"').flat_map(|part| part.split("\\n")).map(|line| line.trim_end_matches("\\r"));
    let mut lines: Vec<String> = lines.map(of_line).collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[test]
fn what_is_not_confirmed_is_rolled_back_from_anywhere() {
    check((spec(), spec(), before(), 0_usize..12, 1_usize..12), |(first, second, before, after, back)| {
        // Owners inside recursive directories stay as the run made them.
        let flat = |mut spec: Value| {
            for directory in spec["directories"].as_array_mut().into_iter().flatten() {
                directory["recursive"] = json!(false);
                directory.as_object_mut().map(|directory| directory.remove("inside"));
            }
            try_request("workers", spec, &Default::default())
        };
        let (Ok(first), Ok(second)) = (flat(first), flat(second)) else { return Ok(false) };
        let machine = machine(&before);
        run(async {
            let untouched = machine.tree();
            machine.fetch(&second).await;
            if machine.apply(&first).await.is_err() || !machine.plan(&second).await.problems.is_empty() {
                return Ok(false);
            }
            let state = |machine: &Machine| {
                // What is only found as it shall be is found so again.
                let ledger = machine.host().state.ledger("workers", None).expect("a ledger");
                let is_made = |entry: &Entry| entry.provenance != Provenance::Adopted;
                let made = ledger.entries().filter(|(_, entry)| is_made(entry));
                // Units that were once restarted for it are kept in mind.
                let known = |entry: &Entry| Entry { restart: BTreeSet::new(), ..entry.clone() };
                let made: Vec<(Item, Entry)> =
                    made.map(|(item, entry)| (item.clone(), known(entry))).collect();
                let mut tree = machine.tree();
                for list in ["etc/hosts", "etc/group", "etc/gshadow"] {
                    tree.entry(list.to_owned()).and_modify(|text| *text = unordered(text));
                }
                (tree, made, machine.host().state.begun("workers").expect("a file"))
            };
            let known = state(&machine);
            let previous = machine.host().state.begun("workers").expect("a file");
            let held = machine.apply_held(&second, if after == 0 { usize::MAX } else { after }).await;
            let is_changed = state(&machine).0 != known.0;
            let stopped = machine.roll_back("workers", previous.as_deref(), back).await;
            let made = machine.roll_back("workers", previous.as_deref(), usize::MAX).await;
            let made = made.map_err(|failure| TestCaseError::fail(format!("{failure:?}")))?;
            prop_assert_eq!(state(&machine), known, "{:?}, {:?}, {:?}", held, stopped, made);
            prop_assert_eq!(machine.leftovers(), Vec::<String>::new());
            machine.revert("workers").await.map_err(|failure| TestCaseError::fail(format!("{failure:?}")))?;
            prop_assert_eq!(machine.tree(), untouched);
            Ok(is_changed)
        })
    });
}

/// Paths of directories above each other, few of which are there.
const SHARED: &[&str] = &["/s", "/s/a", "/s/a/b", "/s/a/b/c", "/s/a/d", "/opt/t/a", "/opt/t/b/c"];

prop_compose! {
    /// Directories with a file in each; their names are one NodeBootstrap's own, unless it is the `first`: what another one
    /// names is left, and said.
    fn beside(own: &'static str, first: bool)(
        entries in proptest::collection::vec((pick(SHARED), any::<bool>(), pick(&["root", "daemon"]), pick(MODES)), 1..4),
    ) -> Value {
        let (mut directories, mut files) = (Vec::new(), Vec::new());
        for (path, is_named, owner, mode) in entries {
            let path = if first && is_named { path.to_owned() } else { format!("{path}/{own}") };
            files.push(json!({"path": format!("{path}/{own}.f"), "content": own}));
            directories.push(json!({"path": path, "owner": owner, "mode": mode}));
        }
        json!({"directories": without_doubles(directories, "path"), "files": without_doubles(files, "path")})
    }
}

#[test]
fn two_that_have_directories_in_common_leave_the_host_as_it_was_in_whatever_order_they_go() {
    let strategy = (
        beside("one", true),
        beside("two", false),
        beside("two", false),
        any::<bool>(),
        0_usize..6,
        0_usize..6,
    );
    check(strategy, |(one, two, edited, first, after, back)| {
        let of = |name, spec| try_request(name, spec, &Default::default());
        let (Ok(one), Ok(two), Ok(edited)) = (of("one", one), of("two", two), of("two", edited)) else {
            return Ok(false);
        };
        let machine = Machine::new();
        run(async {
            let tree = machine.tree();
            let failed = |failure| TestCaseError::fail(format!("{failure:?}"));
            machine.apply(&one).await.map_err(failed)?;
            machine.apply(&two).await.map_err(failed)?;
            let _ = machine.apply_until(&edited, after).await;
            let (first, last) = if first { ("one", "two") } else { ("two", "one") };
            let _ = machine.revert_until(first, back).await;
            let made = machine.revert(first).await.map_err(failed)?;
            prop_assert!(!made.iter().any(|change| change.is_left()), "{:?}", made);
            let _ = machine.revert_until(last, back).await;
            let made = machine.revert(last).await.map_err(failed)?;
            prop_assert!(!made.iter().any(|change| change.is_left()), "{:?}", made);
            prop_assert_eq!(machine.tree(), tree);
            Ok(true)
        })
    });
}
