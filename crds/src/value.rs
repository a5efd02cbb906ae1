//! The small types that parse once, so that the inside never re-checks.
//!
//! In: text as a user wrote it. Out: a value that keeps its type's rules, or the message that says what to write.
//! A rule is one regular expression in the RE2 dialect, which CEL and the `regex` crate share, or a list of texts: the
//! same rule refuses a value in the API server (as `x-kubernetes-validations`), in the operator and on the agent's
//! command line.

use std::{borrow::Cow, collections::BTreeMap, fmt, str::FromStr, sync::LazyLock, time::Duration};

use regex::Regex;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::json;
use thiserror::Error;

/// A text that a type refuses, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{value:?}: {message}")]
pub struct Refused {
    /// What was given, cut to 300 characters.
    pub value: String,
    /// What to write instead.
    pub message: String,
}

/// One rule of a type, and what to write where it is broken.
struct Rule {
    test: Test,
    message: &'static str,
}

/// What a good value is like.
enum Test {
    /// It matches this pattern.
    Matches(&'static str),
    /// It does not match this pattern.
    MatchesNot(&'static str),
    /// It is none of these. A pattern that says the same costs the API server ten times as much.
    NoneOf(&'static [&'static str]),
}

const fn must(pattern: &'static str, message: &'static str) -> Rule {
    Rule { test: Test::Matches(pattern), message }
}

const fn must_not(pattern: &'static str, message: &'static str) -> Rule {
    Rule { test: Test::MatchesNot(pattern), message }
}

const fn none_of(texts: &'static [&'static str], message: &'static str) -> Rule {
    Rule { test: Test::NoneOf(texts), message }
}

impl Rule {
    fn pattern(&self) -> Option<&'static str> {
        match self.test {
            Test::Matches(pattern) | Test::MatchesNot(pattern) => Some(pattern),
            Test::NoneOf(_) => None,
        }
    }

    fn holds(&self, text: &str) -> bool {
        // A pattern that does not compile refuses everything; a test compiles them all.
        let is_match = |pattern: &str| COMPILED.get(pattern).map(|regex| regex.is_match(text));
        match self.test {
            Test::Matches(pattern) => is_match(pattern) == Some(true),
            Test::MatchesNot(pattern) => is_match(pattern) == Some(false),
            Test::NoneOf(texts) => !texts.contains(&text),
        }
    }

    /// The same as CEL. Its raw strings know no escapes; no pattern or text has a quote in it (a test holds that).
    fn cel(&self) -> String {
        match self.test {
            Test::Matches(pattern) => format!("self.matches(r'{pattern}')"),
            Test::MatchesNot(pattern) => format!("!self.matches(r'{pattern}')"),
            Test::NoneOf(texts) => format!("!(self in ['{}'])", texts.join("', '")),
        }
    }
}

/// Compiled once a pattern: every value of a spec passes here.
static COMPILED: LazyLock<BTreeMap<&'static str, Regex>> = LazyLock::new(|| {
    ALL_RULES
        .iter()
        .flat_map(|rules| rules.iter())
        .filter_map(Rule::pattern)
        .filter_map(|pattern| Some((pattern, Regex::new(pattern).ok()?)))
        .collect()
});

fn check(text: &str, max: usize, rules: &[Rule]) -> Result<(), Refused> {
    let refused = |message: String| Refused { value: text.chars().take(300).collect(), message };
    if text.chars().count() > max {
        return Err(refused(format!("at most {max} characters")));
    }
    match rules.iter().find(|rule| !rule.holds(text)) {
        Some(rule) => Err(refused(rule.message.to_owned())),
        None => Ok(()),
    }
}

fn schema(description: &str, max: usize, rules: &[Rule]) -> Schema {
    let validations: Vec<_> =
        rules.iter().map(|rule| json!({"rule": rule.cel(), "message": rule.message})).collect();
    json_schema!({
        "type": "string",
        "description": description,
        "maxLength": max,
        "x-kubernetes-validations": validations,
    })
}

macro_rules! text_type {
    ($(#[doc = $doc:literal])+ $name:ident, max $max:expr, $rules:ident = [$($rule:expr),+ $(,)?]) => {
        const $rules: &[Rule] = &[$($rule),+];

        $(#[doc = $doc])+
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text as it was written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Refused;

            fn from_str(text: &str) -> Result<Self, Refused> {
                check(text, $max, $rules)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = Refused;

            fn try_from(text: String) -> Result<Self, Refused> {
                check(&text, $max, $rules)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                schema(concat!($($doc),+).trim(), $max, $rules)
            }
        }
    };
}

/// Files that a spec never has as a whole: what is in them comes from `users` and `groups`, line by line.
const ACCOUNT_FILES: &[&str] =
    &["/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow", "/etc/subuid", "/etc/subgid"];

text_type! {
    /// An absolute path on the host, at most 256 characters, without `.`, `..` or empty steps. Example: `/etc/kubernetes/pki`.
    HostPath, max 256, PATH_RULES = [
        must(r"^/", "paths are absolute: write /etc/example, not etc/example"),
        must_not(r"(^|/)\.\.?(/|$)", "write the path that is meant, without . or .. steps"),
        must_not(r"//|/$", "write the path without an empty step or a / at its end, and not / itself"),
        must_not(r"[\x00-\x1f\x7f]", "a path has no control characters in it"),
        must_not(r"^/(proc|sys|dev)(/|$)", "/proc, /sys and /dev belong to the kernel: write a path on a disk, as /etc/example"),
        must_not(r"^/var/lib/nodebootstrap(/|$)", "/var/lib/nodebootstrap is the agent's own state: write another path"),
        none_of(ACCOUNT_FILES, "this file has all accounts of the host in it: name those that you want in users and groups instead"),
    ]
}

text_type! {
    /// A home or shell as it stands in /etc/passwd: an absolute path of at most 256 characters, without `:`. Example: `/usr/sbin/nologin`.
    AccountPath, max 256, ACCOUNT_PATH_RULES = [
        must(r"^/", "paths are absolute: write /etc/example, not etc/example"),
        must_not(r"(^|/)\.\.?(/|$)", "write the path that is meant, without . or .. steps"),
        must_not(r"[:\x00-\x1f\x7f]", "a line of /etc/passwd ends its fields with a colon: choose a path without one, and without control characters"),
    ]
}

text_type! {
    /// What a symbolic link leads to, as it is written into the link: absolute, or relative to the folder of the link; at most 256 characters. Example: `../lib/app`.
    LinkTarget, max 256, LINK_TARGET_RULES = [
        must(r"^[^\x00-\x1f\x7f]+$", "a link leads to a path without control characters, as in: /usr/lib/app"),
    ]
}

text_type! {
    /// A user's comment as it stands in /etc/passwd: at most 256 characters, without `:`. Example: `Kubernetes`.
    AccountComment, max 256, ACCOUNT_COMMENT_RULES = [
        must_not(r"[:\x00-\x1f\x7f]", "a line of /etc/passwd ends its fields with a colon: write a comment without one, and without control characters"),
    ]
}

text_type! {
    /// Name of a user or group to make, as useradd takes it: a-z or `_` first, then a-z, 0-9, `_` or `-`, at most 32 characters, and not root. Example: `kubernetes`.
    AccountName, max 32, ACCOUNT_RULES = [
        must(r"^[a-z_][a-z0-9_-]*$", "a user or group name starts with a-z or _ and goes on with a-z, 0-9, _ or -, as in: kubernetes"),
        must_not(r"^root$", "root is not managed: leave it out, it is always there"),
    ]
}

text_type! {
    /// A user or group that owns something: its name or its number. Example: `kubernetes`, `"65534"`.
    AccountRef, max 32, ACCOUNT_REF_RULES = [
        must(r"^([a-z_][a-z0-9_-]*|[0-9]{1,9}|[1-3][0-9]{9})$", "name an owner as useradd would (a-z or _ first, then a-z, 0-9, _ or -) or give its number in quotes, as in: kubernetes, or \"998\""),
    ]
}

text_type! {
    /// Name of a systemd unit with its suffix, as systemd takes it. Example: `kubelet.service`.
    UnitName, max 255, UNIT_RULES = [
        must(r"^[A-Za-z0-9:_.\\@-]+$", "a unit's name has letters, digits and : - _ . @ \\ only, as in: kubelet.service"),
        must(r"^[^.@].*\.(service|socket|mount|automount|swap|target|path|timer|slice)$", "a unit's name ends in .service, .socket, .mount, .automount, .swap, .target, .path, .timer or .slice, as in: kubelet.service"),
        must_not(r"^[^@]*@[^@]*@", "a unit's name has one @ at most, as in: getty@tty1.service"),
    ]
}

text_type! {
    /// Name of a unit's drop-in, with its ending. Example: `10-limits.conf`.
    DropInName, max 64, DROP_IN_RULES = [
        must(r"^[A-Za-z0-9_-][A-Za-z0-9_.@-]*\.conf$", "a drop-in's name has letters, digits and - _ . @ only and ends in .conf, as in: 10-limits.conf"),
    ]
}

text_type! {
    /// Name of a part of a file: a-z, 0-9 and `-`, at most 63 characters. Example: `registry`.
    PartName, max 63, PART_NAME_RULES = [
        must(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "a part's name has a-z, 0-9 and - only, as in: registry"),
    ]
}

text_type! {
    /// What begins a line that a program passes over, at most 8 characters. Example: `#`.
    CommentSign, max 8, COMMENT_SIGN_RULES = [
        must(r"^[^\x00-\x20\x7f][^\x00-\x1f\x7f]*$", "a comment sign is what begins a comment in this file, without a space before it, as in: \"#\""),
    ]
}

text_type! {
    /// One or more lines of a file, at most 4096 characters and 50 lines. Example: `"10.0.0.1 registry.local\n"`.
    BlockText, max 4096, BLOCK_RULES = [
        must(r"^[^\x00-\x08\x0b-\x1f\x7f]+$", "a block has lines of text in it, without control characters"),
        must_not(r"(BEGIN|END) nodebootstrap ", "the lines that mark a block are written for you: give those between them"),
        must(r"^([^\n]*\n){0,49}[^\n]*\n?$", "a block has at most 50 lines: put what is longer into a file of its own"),
    ]
}

text_type! {
    /// One line of a file, at most 1024 characters. Example: `NO_PROXY=10.0.0.0/8`.
    LineText, max 1024, LINE_RULES = [
        must(r"^[^\x00-\x08\x0a-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x08\x0a-\x1f\x7f]*$", "a line is one line of text, without control characters; several are a block"),
        must_not(r"(BEGIN|END) nodebootstrap ", "the lines that mark a block are written for you: give those between them as a block"),
    ]
}

text_type! {
    /// How a line begins, without the spaces before it, at most 256 characters. Example: `NO_PROXY=`.
    LineStart, max 256, LINE_START_RULES = [
        must(r"^[^\x00-\x20\x7f][^\x00-\x08\x0a-\x1f\x7f]*$", "write how the line begins, without a space before it, as in: NO_PROXY="),
    ]
}

text_type! {
    /// Name of a kernel module, no alias. Example: `br_netfilter`.
    ModuleName, max 64, MODULE_RULES = [
        must(r"^[A-Za-z0-9_][A-Za-z0-9_-]*$", "a module's name has letters, digits, _ and - only, as in: br_netfilter"),
    ]
}

text_type! {
    /// Name of a kernel setting, as sysctl takes it: with dots; a dot in a name is written `/`. Example: `net.ipv4.ip_forward`.
    SysctlName, max 128, SYSCTL_RULES = [
        must(r"^[a-z0-9_]+([.][A-Za-z0-9_-][A-Za-z0-9_:/-]*)+$", "a setting is named as sysctl does, with dots, as in: net.ipv4.ip_forward"),
        must_not(r"^(kernel[.](hostname|domainname|msg|sem|shm|auto_msgmni)|fs[.]mqueue[.])", "each pod has this setting for itself, the agent's too, so that it cannot be set here: write a file in /etc/sysctl.d"),
    ]
}

text_type! {
    /// Value of a kernel setting, in one line. Example: `"1"`.
    SysctlValue, max 256, SYSCTL_VALUE_RULES = [
        must(r"^[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*$", "a setting has a value in one line, in quotes, as in: \"1\""),
    ]
}

text_type! {
    /// Name of an archive, for messages and `drift`: a-z, 0-9, `-` and `.`, at most 63 characters. Example: `cni-plugins`.
    ArchiveName, max 63, ARCHIVE_RULES = [
        must(r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", "an archive's name has a-z, 0-9, - and . only, and begins and ends with a letter or digit, as in: cni-plugins"),
    ]
}

text_type! {
    /// Where a download lies: http or https, no credentials; or file:// and the path of a file that is on the node already. `{arch}` stands for amd64 or arm64. Example: `https://dl.k8s.io/release/v1.36.3/bin/linux/{arch}/kubelet`, `file:///opt/images/kubelet`.
    Url, max 1024, URL_RULES = [
        must(r"^(https?|file)://", "a URL starts with https:// or http://, or with file:/// for a file that is on the node already"),
        must_not(r"^[a-z]+://[^/?#]*@", "write the URL without user and password in it: anybody who may read this object would see them"),
        must_not(r"[\x00-\x20\x7f]", "a URL has no spaces or control characters: write %20 for a space"),
        must(r"^(file:///|https?://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?(/|$))", "after http:// or https:// comes a host name, as in: https://dl.k8s.io/release; after file:// the path of a file, as in: file:///opt/images/kubelet"),
        must_not(r"^file://.*(//|/\.\.?(/|$)|/$|[?%])", "after file:// comes the path of one file as it is on the node, without . or .. or empty steps, ? or %, as in: file:///opt/images/kubelet"),
        must_not(r"#", "write the URL without a # part: servers never see it"),
    ]
}

text_type! {
    /// Where a proxy listens: http or https, host and port, no credentials. Example: `http://proxy.example.com:3128`.
    ProxyUrl, max 512, PROXY_URL_RULES = [
        must_not(r"^[a-z]+://[^/?#]*@", "write the proxy without user and password in it: anybody who may read this object would see them"),
        must(r"^https?://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?/?$", "a proxy is http:// or https://, a host and a port, as in: http://proxy.example.com:3128"),
    ]
}

text_type! {
    /// What is reached without the proxy: a host or domain with all that is below it, an address, or a range of addresses. Example: `example.com`, `10.0.0.0/8`.
    NoProxy, max 253, NO_PROXY_RULES = [
        must(r"^[A-Za-z0-9.:_/-]+$", "name a host, a domain, an address or a range of addresses, as in: example.com (it stands for all hosts below it too) or 10.0.0.0/8"),
        must_not(r"^[^:]*:[^:]*$", "name the host without a port: it is reached without the proxy on all of them"),
    ]
}

impl AccountRef {
    /// The superuser and its group.
    pub fn root() -> Self {
        Self("root".to_owned())
    }
}

impl From<&AccountName> for AccountRef {
    fn from(name: &AccountName) -> Self {
        Self(name.0.clone())
    }
}

impl Url {
    /// What comes before the path of a file of the host.
    pub const FILE: &str = "file://";

    /// The URL for one machine: `{arch}` replaced by `arch` (amd64, arm64).
    pub fn for_arch(&self, arch: &str) -> String {
        self.0.replace("{arch}", arch)
    }

    /// This one, and then those that are asked after it.
    pub fn with_mirrors(&self, mirrors: &[Self]) -> Vec<Self> {
        [std::slice::from_ref(self), mirrors].concat()
    }
}

impl UnitName {
    /// Whether this is a template (`name@.service`), which can be written but neither enabled nor started.
    pub fn is_template(&self) -> bool {
        self.0.contains("@.")
    }
}

const MODE_RULES: &[Rule] =
    &[must(r"^[0-7]{3,4}$", "a mode is three or four octal digits in quotes, as in: \"0755\"")];

/// Permission bits, written as three or four octal digits in quotes. Example: `"0755"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mode(u32);

impl Mode {
    /// A mode from its bits; what is above 07777 is cut off.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & 0o7777)
    }

    /// The twelve permission bits.
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl FromStr for Mode {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        check(text, 4, MODE_RULES)?;
        u32::from_str_radix(text, 8)
            .map(Self)
            .map_err(|_| Refused { value: text.to_owned(), message: MODE_RULES[0].message.to_owned() })
    }
}

impl TryFrom<String> for Mode {
    type Error = Refused;

    fn try_from(text: String) -> Result<Self, Refused> {
        text.parse()
    }
}

impl From<Mode> for String {
    fn from(mode: Mode) -> String {
        mode.to_string()
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl JsonSchema for Mode {
    fn schema_name() -> Cow<'static, str> {
        "Mode".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema("Permission bits, three or four octal digits in quotes. Example: `\"0755\"`.", 4, MODE_RULES)
    }
}

const SHA256_RULES: &[Rule] = &[must(
    r"^[0-9a-fA-F]{64}$",
    "a sha256 digest is 64 hexadecimal digits: take it from the publisher's .sha256 file or from sha256sum",
)];

/// A SHA-256 digest, 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// The digest's 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest of a content.
    pub fn of(content: &[u8]) -> Self {
        Self(<sha2::Sha256 as sha2::Digest>::digest(content).into())
    }
}

impl FromStr for Sha256 {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        check(text, 64, SHA256_RULES)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| Refused { value: text.to_owned(), message: SHA256_RULES[0].message.to_owned() })?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Sha256 {
    type Error = Refused;

    fn try_from(text: String) -> Result<Self, Refused> {
        text.parse()
    }
}

impl From<Sha256> for String {
    fn from(digest: Sha256) -> String {
        digest.to_string()
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256({self})")
    }
}

impl JsonSchema for Sha256 {
    fn schema_name() -> Cow<'static, str> {
        "Sha256".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema("A SHA-256 digest: 64 hexadecimal digits.", 64, SHA256_RULES)
    }
}

const TIMEOUT_RULES: &[Rule] =
    &[must(r"^[0-9]{1,6}(s|m|h)$", "a time is a whole number with s, m or h behind it, as in: 90s, 10m, 1h")];

/// A length of time: a whole number of seconds, minutes or hours. Example: `10m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timeout(u64);

impl Timeout {
    /// A time of whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds)
    }

    /// The time as the standard library has it.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl FromStr for Timeout {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        check(text, 7, TIMEOUT_RULES)?;
        let (number, unit) = text.split_at(text.len() - 1);
        let factor = match unit {
            "h" => 3600,
            "m" => 60,
            _ => 1,
        };
        number
            .parse::<u64>()
            .map(|n| Self(n * factor))
            .map_err(|_| Refused { value: text.to_owned(), message: TIMEOUT_RULES[0].message.to_owned() })
    }
}

impl TryFrom<String> for Timeout {
    type Error = Refused;

    fn try_from(text: String) -> Result<Self, Refused> {
        text.parse()
    }
}

impl From<Timeout> for String {
    fn from(timeout: Timeout) -> String {
        timeout.to_string()
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            s if s > 0 && s.is_multiple_of(3600) => write!(f, "{}h", s / 3600),
            s if s > 0 && s.is_multiple_of(60) => write!(f, "{}m", s / 60),
            s => write!(f, "{s}s"),
        }
    }
}

impl JsonSchema for Timeout {
    fn schema_name() -> Cow<'static, str> {
        "Timeout".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema("A length of time: a whole number of s, m or h. Example: `10m`.", 7, TIMEOUT_RULES)
    }
}

/// How a share is written as text; as a number it is one from 1.
const SHARE_RULES: &[Rule] = &[must(
    r"^([1-9][0-9]?|100)%$",
    "write a number of nodes, from 1, or in quotes a percentage from 1% to 100%, as in: 10, or \"25%\"",
)];

/// Some of the nodes: a number, or a part of all in percent. Example: `10`, `"25%"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenShare", into = "WrittenShare")]
pub enum Share {
    /// So many.
    Nodes(u32),
    /// So many of a hundred.
    Percent(u32),
}

/// A share as it is written.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum WrittenShare {
    Number(i64),
    Text(String),
}

impl Share {
    /// How many nodes that is, of so many: rounded down, but one at least.
    pub fn of(self, all: usize) -> usize {
        let nodes = match self {
            Self::Nodes(nodes) => nodes as usize,
            Self::Percent(percent) => all.saturating_mul(percent as usize) / 100,
        };
        nodes.max(1)
    }
}

impl TryFrom<WrittenShare> for Share {
    type Error = Refused;

    fn try_from(written: WrittenShare) -> Result<Self, Refused> {
        let refused = |value: String| Refused { value, message: SHARE_RULES[0].message.to_owned() };
        match written {
            WrittenShare::Number(number) => match u32::try_from(number) {
                Ok(nodes @ 1..) => Ok(Self::Nodes(nodes)),
                _ => Err(refused(number.to_string())),
            },
            WrittenShare::Text(text) => {
                check(&text, 4, SHARE_RULES)?;
                let percent = text.trim_end_matches('%').parse();
                percent.map(Self::Percent).map_err(|_| refused(text))
            }
        }
    }
}

impl From<Share> for WrittenShare {
    fn from(share: Share) -> Self {
        match share {
            Share::Nodes(nodes) => Self::Number(nodes.into()),
            Share::Percent(percent) => Self::Text(format!("{percent}%")),
        }
    }
}

impl JsonSchema for Share {
    fn schema_name() -> Cow<'static, str> {
        "Share".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let text = SHARE_RULES.iter().map(Rule::cel).collect::<Vec<_>>().join(" && ");
        let rule = format!("type(self) == int ? self >= 1 : {text}");
        json_schema!({
            "description": "A number of nodes, or in quotes a percentage of them. Example: `10`, `\"25%\"`.",
            "x-kubernetes-int-or-string": true,
            "x-kubernetes-validations": [{"rule": rule, "message": SHARE_RULES[0].message}],
        })
    }
}

const ALL_RULES: &[&[Rule]] = &[
    ACCOUNT_PATH_RULES,
    ACCOUNT_COMMENT_RULES,
    PATH_RULES,
    LINK_TARGET_RULES,
    ACCOUNT_RULES,
    ACCOUNT_REF_RULES,
    UNIT_RULES,
    DROP_IN_RULES,
    PART_NAME_RULES,
    COMMENT_SIGN_RULES,
    BLOCK_RULES,
    LINE_RULES,
    LINE_START_RULES,
    MODULE_RULES,
    SYSCTL_RULES,
    SYSCTL_VALUE_RULES,
    ARCHIVE_RULES,
    URL_RULES,
    PROXY_URL_RULES,
    NO_PROXY_RULES,
    MODE_RULES,
    SHA256_RULES,
    TIMEOUT_RULES,
    SHARE_RULES,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_compiles_and_can_stand_in_a_cel_string() {
        for rule in ALL_RULES.iter().flat_map(|rules| rules.iter()) {
            let texts = match rule.test {
                Test::Matches(pattern) | Test::MatchesNot(pattern) => {
                    assert!(Regex::new(pattern).is_ok(), "{pattern}");
                    vec![pattern]
                }
                // These stand in a string that does know escapes.
                Test::NoneOf(texts) => {
                    assert!(texts.iter().all(|text| !text.contains('\\')), "{texts:?}");
                    texts.to_vec()
                }
            };
            assert!(texts.iter().all(|text| !text.contains('\'')), "{texts:?}");
        }
    }

    #[test]
    fn paths() {
        for good in [
            "/etc",
            "/etc/kubernetes/pki",
            "/opt/a b",
            "/etc/..data",
            "/etc/.hidden",
            "/system",
            "/etc/ä",
            "/etc/passwd.conf",
            "/opt/etc/passwd",
            "/etc/group.d/a",
            "/var/lib/nodebootstraps",
        ] {
            assert!(good.parse::<HostPath>().is_ok(), "{good}");
        }
        let long = format!("/{}", "a".repeat(256));
        for bad in [
            "",
            "/",
            "etc",
            "./etc",
            "/etc/",
            "/etc//x",
            "/etc/../x",
            "/..",
            "/etc/.",
            "/etc/\n",
            "/proc",
            "/sys/x",
            "/dev/null",
            "/var/lib/nodebootstrap",
            "/var/lib/nodebootstrap/x",
            "/etc/passwd",
            "/etc/shadow",
            "/etc/group",
            "/etc/gshadow",
            "/etc/subuid",
            "/etc/subgid",
            &long,
        ] {
            assert!(bad.parse::<HostPath>().is_err(), "{bad:?}");
        }
        assert!("/usr/sbin/nologin".parse::<AccountPath>().is_ok() && "/".parse::<AccountPath>().is_ok());
        assert!("/opt/a:b".parse::<AccountPath>().is_err() && "/opt/a\nb".parse::<AccountPath>().is_err());
        let told = "/etc/shadow".parse::<HostPath>().map_err(|refused| refused.to_string());
        assert!(told.is_err_and(|told| told.contains("users and groups")));
    }

    #[test]
    fn shares_of_nodes() {
        for (json, of_200, of_3) in
            [("1", 1, 1), ("250", 250, 250), ("\"1%\"", 2, 1), ("\"50%\"", 100, 1), ("\"100%\"", 200, 3)]
        {
            let share: Share = serde_json::from_str(json).expect(json);
            assert_eq!((share.of(200), share.of(3)), (of_200, of_3), "{json}");
            assert_eq!(serde_json::to_string(&share).expect("JSON"), json);
        }
        for bad in ["0", "-1", "4294967296", "\"0%\"", "\"101%\"", "\"10\"", "\"%\"", "1.5", "true"] {
            assert!(serde_json::from_str::<Share>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_modes_digests_urls_and_times() {
        for good in ["kubernetes", "_x", "a-b_9"] {
            assert!(good.parse::<AccountName>().is_ok(), "{good}");
        }
        for bad in ["", "Kube", "9a", "-a", "a b", "a:b", "root", "a$", "a\n", &"a".repeat(33)] {
            assert!(bad.parse::<AccountName>().is_err(), "{bad:?}");
        }
        for good in ["root", "0", "65534"] {
            assert!(good.parse::<AccountRef>().is_ok(), "{good}");
        }
        for good in ["kubelet.service", "a@.service", "a@b.timer", "dev-disk\\x2d.swap", "var-lib.mount"] {
            assert!(good.parse::<UnitName>().is_ok(), "{good}");
        }
        for bad in
            ["", "kubelet", "a/b.service", ".service", "@.service", "a b.service", "a.conf", "a@b@c.service"]
        {
            assert!(bad.parse::<UnitName>().is_err(), "{bad:?}");
        }
        assert_eq!("755".parse::<Mode>().map(|m| m.to_string()), Ok("0755".to_owned()));
        for bad in ["", "75", "0888", "07555", "rwx", "0o755"] {
            assert!(bad.parse::<Mode>().is_err(), "{bad:?}");
        }
        assert!("ab".repeat(32).parse::<Sha256>().is_ok());
        for bad in ["".to_owned(), "ab".repeat(31), "zz".repeat(32)] {
            assert!(bad.parse::<Sha256>().is_err(), "{bad:?}");
        }
        for good in [
            "http://a",
            "https://dl.k8s.io/x/{arch}/y?z=1",
            "http://10.0.0.1:8080/x",
            "http://[::1]:80/",
            "http://a/b@c",
            "file:///opt/images/kubelet",
            "file:///opt/{arch}/.hidden/..a/kubelet@1.36",
        ] {
            assert!(good.parse::<Url>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "ftp://a/b",
            "http://",
            "https://u:p@h/x",
            "http://u@h",
            "http://a b",
            "/x",
            "http://a/#b",
            "file:/x",
            "file://",
            "file:///",
            "file://host/x",
            "file:////x",
            "file:///x/",
            "file:///x//y",
            "file:///x/../y",
            "file:///./x",
            "file:///x/.",
            "file:///a%20b",
            "file:///a?b",
            "file:///a b",
            "file:///a#b",
        ] {
            assert!(bad.parse::<Url>().is_err(), "{bad:?}");
        }
        let told = "file://images/kubelet".parse::<Url>().map_err(|refused| refused.to_string());
        assert!(told.is_err_and(|told| told.contains("file:///opt/images/kubelet")));
        for good in ["http://proxy:3128", "https://10.0.0.1", "http://[fd00::1]:3128/"] {
            assert!(good.parse::<ProxyUrl>().is_ok(), "{good}");
        }
        for bad in
            ["", "proxy:3128", "socks5://proxy", "http://u:p@proxy", "http://proxy/path", "http://proxy:x"]
        {
            assert!(bad.parse::<ProxyUrl>().is_err(), "{bad:?}");
        }
        for good in ["example.com", ".example.com", "10.0.0.1", "10.0.0.0/8", "::1", "fd00::/8"] {
            assert!(good.parse::<NoProxy>().is_ok(), "{good}");
        }
        for bad in ["", "*", "*.example.com", "a,b", "example.com:80", "a b", "http:"] {
            assert!(bad.parse::<NoProxy>().is_err(), "{bad:?}");
        }
        for good in ["a", "a\n", "a\tb\n\nc", &"a\n".repeat(50), " # BEGIN", "\n"] {
            assert!(good.parse::<BlockText>().is_ok(), "{good:?}");
        }
        for bad in
            ["", "a\r\n", "a\0", "# BEGIN nodebootstrap x\n", "; END nodebootstrap x", &"a\n".repeat(51)]
        {
            assert!(bad.parse::<BlockText>().is_err(), "{bad:?}");
        }
        for good in ["a", " a", "a\tb ", "NO_PROXY=10.0.0.0/8"] {
            assert!(good.parse::<LineText>().is_ok(), "{good:?}");
        }
        for bad in ["", "  ", "a\nb", "a\n", "a\r", "# END nodebootstrap x"] {
            assert!(bad.parse::<LineText>().is_err(), "{bad:?}");
        }
        assert!(["", " a", "\ta", "a\n"].iter().all(|bad| bad.parse::<LineStart>().is_err()));
        assert!(["#", "//", "--", "rem "].iter().all(|good| good.parse::<CommentSign>().is_ok()));
        assert!(["", " #", "#\n"].iter().all(|bad| bad.parse::<CommentSign>().is_err()));
        assert!(["a", "a-1"].iter().all(|good| good.parse::<PartName>().is_ok()));
        assert!(["", "-a", "a-", "A", "a b", "a#b"].iter().all(|bad| bad.parse::<PartName>().is_err()));
        for (text, seconds) in [("90s", 90), ("10m", 600), ("2h", 7200)] {
            assert_eq!(
                text.parse::<Timeout>().map(|t| (t.duration().as_secs(), t.to_string())),
                Ok((seconds, text.to_owned()))
            );
        }
    }
}
