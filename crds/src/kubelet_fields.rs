//! The fields of KubeletConfiguration, by minor version. In: what a spec sets. Out: what of it a kubelet would not take.
//!
//! A kubelet that finds a field that it does not know goes on without it, and says so in its journal alone; one that
//! finds a value of another type ends. Both are told here, before any node has it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

/// Made by tests/kubelet-fields from upstream's types: minors, path, type.
const TABLE: &str = include_str!("../kubelet-fields.txt");

/// The minor versions of Kubernetes 1 whose kubelets are known.
pub const MINORS: RangeInclusive<u32> = 34..=37;

/// How unlike a name may be to the one that is meant, in letters for each three that it has.
const LETTERS_EACH: usize = 3;

/// A field, as some minor versions have it.
struct Field {
    minors: RangeInclusive<u32>,
    kind: &'static str,
}

/// By path: what is in a list has `[]` behind the list's path, what is in a map `{}`.
static FIELDS: LazyLock<BTreeMap<&'static str, Vec<Field>>> = LazyLock::new(|| {
    let mut fields: BTreeMap<&str, Vec<Field>> = BTreeMap::new();
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        // A test reads every line: none is left out.
        if let Some((path, field)) = parse(line) {
            fields.entry(path).or_default().push(field);
        }
    }
    fields
});

static DURATION: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"^[+-]?(0|(([0-9]+([.][0-9]*)?|[.][0-9]+)(ns|us|µs|ms|s|m|h))+)$").ok());
static QUANTITY: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"^[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]+|[KMGTPE]i|[numkMGTPE])?$").ok()
});

fn parse(line: &'static str) -> Option<(&'static str, Field)> {
    let mut words = line.split(' ');
    let (minors, path, kind) = (words.next()?, words.next()?, words.next()?);
    let (first, last) = minors.split_once('-')?;
    let minor = |text: &str| text.strip_prefix("1.")?.parse().ok();
    words.next().is_none().then_some((path, Field { minors: minor(first)?..=minor(last)?, kind }))
}

/// The minor version of a version such as `v1.36.3`.
pub fn minor_of(version: &str) -> Option<u32> {
    let mut numbers = version.strip_prefix("v1.")?.split('.');
    numbers.next()?.parse().ok()
}

/// What is wrong with fields of KubeletConfiguration, each with what to write instead. Without a minor version a field
/// is good that any of them has.
pub fn problems(minor: Option<u32>, config: &Map<String, Value>) -> Vec<String> {
    let mut checker =
        Checker { minors: minor.map_or(MINORS, |minor| minor..=minor), minor, problems: Vec::new() };
    for key in ["apiVersion", "kind"].into_iter().filter(|key| config.contains_key(*key)) {
        checker.problems.push(format!(
            "kubelet.config.{key}: it is written by itself (kubelet.config.k8s.io/v1beta1, KubeletConfiguration): leave it out"
        ));
    }
    for (key, value) in config.iter().filter(|(key, _)| !matches!(key.as_str(), "apiVersion" | "kind")) {
        checker.field("", "", key, value);
    }
    checker.problems
}

struct Checker {
    minor: Option<u32>,
    minors: RangeInclusive<u32>,
    problems: Vec<String>,
}

impl Checker {
    /// A field of an object: `parent` is the object's path in the table, `shown` the same as users know it.
    fn field(&mut self, parent: &str, shown: &str, name: &str, value: &Value) {
        let (path, shown) = (join(parent, name), join(shown, name));
        if self.kinds(&path).is_empty() {
            let message = self.unknown(parent, &path, name);
            self.problems.push(format!("kubelet.config.{shown}: {message}"));
        } else {
            self.value(&path, &shown, value);
        }
    }

    fn value(&mut self, path: &str, shown: &str, value: &Value) {
        let kinds = self.kinds(path);
        let Some(kind) = kinds.iter().find(|kind| fits(kind, value)) else {
            let expected = kinds.iter().map(|kind| words(kind)).collect::<Vec<_>>().join(" or ");
            self.problems
                .push(format!("kubelet.config.{shown}: expected {expected}, found {}", found(value)));
            return;
        };
        match (*kind, value) {
            ("object", Value::Object(fields)) => {
                fields.iter().for_each(|(name, value)| self.field(path, shown, name, value));
            }
            ("list", Value::Array(items)) => {
                let inside = format!("{path}[]");
                for (number, item) in items.iter().enumerate() {
                    self.value(&inside, &format!("{shown}[{number}]"), item);
                }
            }
            ("map", Value::Object(entries)) => {
                let inside = format!("{path}{{}}");
                entries.iter().for_each(|(key, value)| self.value(&inside, &join(shown, key), value));
            }
            _ => {}
        }
    }

    /// The types that a path has in the versions that are meant.
    fn kinds(&self, path: &str) -> Vec<&'static str> {
        let fields = FIELDS.get(path).map(Vec::as_slice).unwrap_or_default();
        fields.iter().filter(|field| self.is_meant(field)).map(|field| field.kind).collect()
    }

    fn is_meant(&self, field: &Field) -> bool {
        field.minors.start() <= self.minors.end() && self.minors.start() <= field.minors.end()
    }

    fn unknown(&self, parent: &str, path: &str, name: &str) -> String {
        let who = match self.minor {
            Some(minor) => format!("KubeletConfiguration of 1.{minor}"),
            None => format!("KubeletConfiguration of 1.{} to 1.{}", MINORS.start(), MINORS.end()),
        };
        if let Some(field) = FIELDS.get(path).and_then(|fields| fields.first()) {
            let (first, last) = (field.minors.start(), field.minors.end());
            return format!(
                "{who} has no such field, only that of 1.{first} to 1.{last}: leave it out, or take such a kubelet.version"
            );
        }
        match self.nearest(parent, name) {
            Some(meant) => format!("{who} has no such field: did you mean {meant}"),
            None => format!("{who} has no such field: leave it out"),
        }
    }

    /// The field that is meant: one beside it whose name is much the same, or one of this very name elsewhere.
    fn nearest(&self, parent: &str, name: &str) -> Option<&'static str> {
        let known = || FIELDS.iter().filter(|(_, fields)| fields.iter().any(|field| self.is_meant(field)));
        let split = |path: &'static str| path.rsplit_once('.').unwrap_or(("", path));
        let beside = known().map(|(path, _)| *path).filter(|path| {
            let (above, own) = split(path);
            above == parent && !own.ends_with(['}', ']'])
        });
        let distance = |path: &'static str| {
            strsim::damerau_levenshtein(&split(path).1.to_lowercase(), &name.to_lowercase())
        };
        let near = beside.map(|path| (distance(path), path)).min();
        let near = near.filter(|(distance, _)| *distance <= name.chars().count().div_ceil(LETTERS_EACH));
        near.map(|(_, path)| path)
            .or_else(|| known().map(|(path, _)| *path).find(|path| split(path).1.eq_ignore_ascii_case(name)))
    }
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") }
}

fn fits(kind: &str, value: &Value) -> bool {
    let matches = |pattern: &Option<Regex>, text: &str| pattern.as_ref().is_some_and(|it| it.is_match(text));
    match (kind, value) {
        ("object" | "map", Value::Object(_))
        | ("list", Value::Array(_))
        | ("string" | "time", Value::String(_))
        | ("boolean", Value::Bool(_))
        | ("number" | "quantity", Value::Number(_)) => true,
        ("duration", Value::String(text)) => matches(&DURATION, text),
        ("quantity", Value::String(text)) => matches(&QUANTITY, text),
        ("int32", Value::Number(number)) => number.as_i64().is_some_and(|it| i32::try_from(it).is_ok()),
        ("int64", Value::Number(number)) => number.as_i64().is_some(),
        ("uint32", Value::Number(number)) => number.as_i64().is_some_and(|it| u32::try_from(it).is_ok()),
        _ => false,
    }
}

/// A type as a person writes it.
fn words(kind: &str) -> &str {
    match kind {
        "string" => "text (in quotes where it looks like a number)",
        "boolean" => "true or false",
        "int32" => "a whole number from -2147483648 to 2147483647",
        "int64" => "a whole number",
        "uint32" => "a whole number from 0 to 4294967295",
        "number" => "a number",
        "duration" => "a duration, as in: 1m30s",
        "quantity" => "an amount, as in: 500Mi",
        "time" => "a time, as in: \"2026-01-31T12:00:00Z\"",
        "list" => "a list",
        "map" | "object" => "an object",
        other => other,
    }
}

fn found(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        // Long ones would hide the rest of the message.
        Value::String(text) => format!("the text {:?}", text.chars().take(40).collect::<String>()),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::process::Command;

    fn told(minor: Option<u32>, yaml: &str) -> Vec<String> {
        problems(minor, &serde_saphyr::from_str(yaml).expect("an object"))
    }

    #[test]
    fn a_configuration_as_people_have_it_is_good_for_every_version() {
        let yaml = "
authentication: {anonymous: {enabled: false}, webhook: {enabled: true, cacheTTL: 2m0s}, x509: {clientCAFile: /a}}
authorization: {mode: Webhook}
clusterDNS: [10.96.0.10]
cpuCFSQuotaPeriod: 100ms
evictionHard: {memory.available: 100Mi}
featureGates: {A: true}
imageGCHighThresholdPercent: 85
logging: {format: json, verbosity: 2, flushFrequency: 5s, vmodule: [{filePattern: a, verbosity: 4}], options: {json: {infoBufferSize: 64Ki}}}
memoryThrottlingFactor: 0.9
memorySwap: {swapBehavior: NoSwap}
podPidsLimit: -1
registerWithTaints: [{key: a, effect: NoSchedule}]
reservedMemory: [{numaNode: 0, limits: {memory: 1Gi, hugepages-2Mi: 0}}]
shutdownGracePeriodByPodPriority: [{priority: 100000, shutdownGracePeriodSeconds: 10}]
staticPodURLHeader: {A: [b]}
tracing: {samplingRatePerMillion: 1}
";
        for minor in MINORS.map(Some).chain([None]) {
            assert_eq!(told(minor, yaml), Vec::<String>::new(), "{minor:?}");
        }
    }

    #[test]
    fn what_a_kubelet_would_not_take_is_told_with_what_is_meant() {
        for (yaml, told_as) in [
            (
                "maxPod: 1",
                "kubelet.config.maxPod: KubeletConfiguration of 1.36 has no such field: did you mean maxPods",
            ),
            ("MaxPods: 1", "did you mean maxPods"),
            ("clientCAFile: /a", "did you mean authentication.x509.clientCAFile"),
            (
                "authentication: {anonymous: {enable: false}}",
                "kubelet.config.authentication.anonymous.enable: KubeletConfiguration of 1.36 has no such field: did you mean authentication.anonymous.enabled",
            ),
            ("nothingOfTheKind: 1", "has no such field: leave it out"),
            (
                "maxPods: '200'",
                "kubelet.config.maxPods: expected a whole number from -2147483648 to 2147483647, found the text \"200\"",
            ),
            ("maxPods: 3000000000", "found 3000000000"),
            ("maxPods: 1.5", "found 1.5"),
            ("maxPods:", "found nothing"),
            (
                "kubeReserved: {cpu: 1}",
                "kubelet.config.kubeReserved.cpu: expected text (in quotes where it looks like a number), found 1",
            ),
            ("syncFrequency: 60", "expected a duration, as in: 1m30s, found 60"),
            ("syncFrequency: 1 minute", "expected a duration"),
            ("clusterDNS: 10.96.0.10", "expected a list, found the text"),
            ("authorization: [a]", "expected an object, found a list"),
            (
                "shutdownGracePeriodByPodPriority: [{priority: 1, seconds: 1}]",
                "kubelet.config.shutdownGracePeriodByPodPriority[0].seconds: ",
            ),
            ("kind: KubeletConfiguration", "kubelet.config.kind: it is written by itself"),
            ("logging: {verbosity: -1}", "expected a whole number from 0 to 4294967295"),
        ] {
            let found = told(Some(36), yaml);
            assert!(found.len() == 1 && found[0].contains(told_as), "{yaml}: {found:?}");
        }
    }

    #[test]
    fn every_line_of_the_table_is_read_and_each_version_has_fields_of_its_own() {
        let lines: Vec<_> = TABLE.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(lines.iter().all(|line| parse(line).is_some()));
        let fields = || FIELDS.values().flatten();
        assert_eq!(fields().count(), lines.len());
        for minor in MINORS {
            assert!(fields().filter(|field| field.minors.contains(&minor)).count() > 150, "1.{minor}");
        }
        let kinds = |kind: &str| words(kind) != kind;
        assert!(fields().all(|field| kinds(field.kind)), "a type that has no words");
        assert_eq!(
            (fields().map(|it| *it.minors.start()).min(), fields().map(|it| *it.minors.end()).max()),
            (Some(*MINORS.start()), Some(*MINORS.end()))
        );
    }

    /// Reads upstream's sources, which Go fetches once.
    #[test]
    fn generated_table_of_fields_is_up_to_date() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let run = |go: &str| {
            Command::new(go)
                .args(["run", "."])
                .current_dir(here.join("../tests/kubelet-fields"))
                .output()
                .ok()
        };
        let output = run("go").or_else(|| run("/usr/local/go/bin/go"));
        let output = output.expect("Go 1.26 or newer in PATH or /usr/local/go");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "upstream's types cannot be read: {said}");
        let file = here.join("kubelet-fields.txt");
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::write(&file, &output.stdout).expect("written");
        }
        let there = std::fs::read(&file).unwrap_or_default();
        assert!(
            there == output.stdout,
            "{} is not what upstream's types say: run `make generate`",
            file.display()
        );
    }
}
