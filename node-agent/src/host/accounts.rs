//! The host's users and groups: read from and written to /etc/passwd, /etc/group and their shadows.
//!
//! In: the files' text. Out: [`Accounts`], on which planned accounts are put too, so that a plan knows their numbers;
//! and the files written anew with one line added or changed. All other lines stay as they are, byte for byte. Where one
//! is a symbolic link, the file that it leads to is written anew, and the link stays.
//! Why not useradd: docs/decisions/0001-accounts-written-by-the-agent.md.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Flock, FlockType};
use serde::{Deserialize, Serialize};

use super::write::Ids;
use super::{HostError, Place, Root};

const PASSWD: &str = "/etc/passwd";
const SHADOW: &str = "/etc/shadow";
const GROUP: &str = "/etc/group";
const GSHADOW: &str = "/etc/gshadow";
const LOGIN_DEFS: &str = "/etc/login.defs";
const LOCK: &str = "/etc/.pwd.lock";

/// The largest account file that is read.
const MAX_FILE: u64 = 64 << 20;
/// As long as lckpwdf(3) waits.
const LOCK_WAIT: Duration = Duration::from_secs(15);

/// One line of /etc/passwd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The name.
    pub name: String,
    /// The number.
    pub uid: u32,
    /// The primary group's number.
    pub gid: u32,
    /// The home directory.
    pub home: String,
    /// The login shell.
    pub shell: String,
}

/// The users and groups of a host.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    users: BTreeMap<String, User>,
    user_names: BTreeMap<u32, String>,
    comments: BTreeMap<String, String>,
    /// Of those that have a line in the shadow.
    locked: BTreeMap<String, bool>,
    groups: BTreeMap<String, u32>,
    /// The users in each group besides those whose primary group it is.
    members: BTreeMap<String, BTreeSet<String>>,
    group_names: BTreeMap<u32, String>,
    /// Users whose line is no line of passwd(5).
    damaged: BTreeSet<String>,
    ranges: Ranges,
}

/// Where free numbers are taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ranges {
    user: (u32, u32),
    system_user: (u32, u32),
    group: (u32, u32),
    system_group: (u32, u32),
}

impl Default for Ranges {
    fn default() -> Self {
        Self::parse("")
    }
}

impl Ranges {
    /// Reads login.defs; what it does not say is as shadow-utils has it.
    fn parse(text: &str) -> Self {
        let values: BTreeMap<&str, u32> = text
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                Some((words.next()?, number(words.next()?)?))
            })
            .collect();
        let value = |key: &str, default: u32| values.get(key).copied().unwrap_or(default);
        let range = |kind: &str| {
            let least = value(&format!("{kind}_MIN"), 1000);
            let most = value(&format!("{kind}_MAX"), 60_000);
            let system_least = value(&format!("SYS_{kind}_MIN"), 101);
            let system_most = value(&format!("SYS_{kind}_MAX"), least.saturating_sub(1));
            ((least, most), (system_least, system_most))
        };
        let (user, system_user) = range("UID");
        let (group, system_group) = range("GID");
        Self { user, system_user, group, system_group }
    }
}

/// A number as login.defs has it: decimal, octal with 0, hexadecimal with 0x.
fn number(text: &str) -> Option<u32> {
    if let Some(digits) = text.strip_prefix("0x") {
        return u32::from_str_radix(digits, 16).ok();
    }
    match text.strip_prefix('0') {
        Some(digits) if !digits.is_empty() => u32::from_str_radix(digits, 8).ok(),
        _ => text.parse().ok(),
    }
}

impl Accounts {
    /// Reads the host's accounts. Missing files count as empty.
    ///
    /// # Errors
    /// If a file cannot be read, or is a link that leads nowhere: that is no host without accounts.
    pub fn load(root: &Root) -> Result<Self, HostError> {
        let read = |path: &str| -> Result<String, HostError> {
            let bytes = match root.read(path, MAX_FILE)? {
                None if root.locate(path)?.look()?.is_some() => {
                    let target = root.locate_through_links(path)?.real;
                    return Err(HostError::LeadsNowhere { link: path.to_owned(), target });
                }
                bytes => bytes.unwrap_or_default(),
            };
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let mut accounts = Self::parse(&read(PASSWD)?, &read(GROUP)?, &read(LOGIN_DEFS)?);
        accounts.read_shadow(&read(SHADOW)?);
        Ok(accounts)
    }

    /// Reads from the text of shadow whose password is locked.
    pub fn read_shadow(&mut self, shadow: &str) {
        for line in shadow.lines() {
            let mut fields = line.split(':');
            if let (Some(name), Some(password)) = (fields.next(), fields.next()) {
                self.locked.entry(name.to_owned()).or_insert(password.starts_with('!'));
            }
        }
    }

    /// Reads accounts from the text of passwd, group and login.defs. Lines that are none are passed over.
    pub fn parse(passwd: &str, group: &str, login_defs: &str) -> Self {
        let mut accounts = Self { ranges: Ranges::parse(login_defs), ..Self::default() };
        for line in passwd.lines() {
            let fields: Vec<_> = line.split(':').collect();
            let &[name, _, uid, gid, comment, home, shell] = fields.as_slice() else {
                accounts.damaged.extend(fields.first().map(|name| (*name).to_owned()));
                continue;
            };
            let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse()) else {
                accounts.damaged.insert(name.to_owned());
                continue;
            };
            accounts.comments.entry(name.to_owned()).or_insert_with(|| comment.to_owned());
            accounts.put_user(User {
                name: name.to_owned(),
                uid,
                gid,
                home: home.to_owned(),
                shell: shell.to_owned(),
            });
        }
        for line in group.lines() {
            let mut fields = line.split(':');
            let (Some(name), Some(_), Some(gid)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            let Ok(gid) = gid.parse() else { continue };
            accounts.put_group(name, gid);
            let members = fields.next().unwrap_or_default().split(',').filter(|member| !member.is_empty());
            accounts.members.entry(name.to_owned()).or_insert_with(|| members.map(str::to_owned).collect());
        }
        accounts
    }

    /// A user by name.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// Whether there is a line for a user that cannot be understood.
    pub fn is_damaged(&self, name: &str) -> bool {
        self.damaged.contains(name) && !self.users.contains_key(name)
    }

    /// A group's number by name.
    pub fn group(&self, name: &str) -> Option<u32> {
        self.groups.get(name).copied()
    }

    /// Whether a user is listed as a member of a group.
    pub fn is_member(&self, user: &str, group: &str) -> bool {
        self.members.get(group).is_some_and(|members| members.contains(user))
    }

    /// A user's comment.
    pub fn comment(&self, user: &str) -> &str {
        self.comments.get(user).map(String::as_str).unwrap_or_default()
    }

    /// Whether nobody can log in with a user's password; so it is too with one that has no line in the shadow.
    pub fn is_locked(&self, user: &str) -> bool {
        self.locked.get(user).copied().unwrap_or(true)
    }

    /// The name of a user's number, or the number.
    pub fn user_name(&self, uid: u32) -> String {
        self.user_names.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }

    /// The name of a group's number, or the number.
    pub fn group_name(&self, gid: u32) -> String {
        self.group_names.get(&gid).cloned().unwrap_or_else(|| gid.to_string())
    }

    /// Who has a user's number.
    pub fn uid_taken(&self, uid: u32) -> Option<&str> {
        self.user_names.get(&uid).map(String::as_str)
    }

    /// Who has a group's number.
    pub fn gid_taken(&self, gid: u32) -> Option<&str> {
        self.group_names.get(&gid).map(String::as_str)
    }

    /// Adds or replaces a user. Of two lines with one name or number the first counts, as for the C library.
    pub fn put_user(&mut self, user: User) {
        self.user_names.entry(user.uid).or_insert_with(|| user.name.clone());
        self.users.entry(user.name.clone()).or_insert(user);
    }

    /// Replaces a user by itself with other fields.
    pub fn change_user(&mut self, user: User) {
        self.users.insert(user.name.clone(), user);
    }

    /// Makes a user a member of a group.
    pub fn put_member(&mut self, user: &str, group: &str) {
        self.members.entry(group.to_owned()).or_default().insert(user.to_owned());
    }

    /// Adds a group.
    pub fn put_group(&mut self, name: &str, gid: u32) {
        self.group_names.entry(gid).or_insert_with(|| name.to_owned());
        self.groups.entry(name.to_owned()).or_insert(gid);
    }

    /// A free number for a user, not one of `reserved`; `None` if the range is full.
    pub fn free_uid(&self, system: bool, reserved: &BTreeSet<u32>) -> Option<u32> {
        let taken = |id: &u32| self.user_names.contains_key(id) || reserved.contains(id);
        if system {
            from_the_top(self.ranges.system_user, taken)
        } else {
            above_the_highest(self.ranges.user, self.user_names.keys(), taken)
        }
    }

    /// A free number for a group, not one of `reserved`; `None` if the range is full.
    pub fn free_gid(&self, system: bool, reserved: &BTreeSet<u32>) -> Option<u32> {
        let taken = |id: &u32| self.group_names.contains_key(id) || reserved.contains(id);
        if system {
            from_the_top(self.ranges.system_group, taken)
        } else {
            above_the_highest(self.ranges.group, self.group_names.keys(), taken)
        }
    }
}

/// As `useradd -r`: downward from the top.
fn from_the_top((least, most): (u32, u32), taken: impl Fn(&u32) -> bool) -> Option<u32> {
    (least..=most).rev().find(|id| !taken(id))
}

/// As `useradd`: above the highest in use, so that a number that was in use once is not given to another soon.
fn above_the_highest<'a>(
    (least, most): (u32, u32),
    used: impl Iterator<Item = &'a u32>,
    taken: impl Fn(&u32) -> bool,
) -> Option<u32> {
    let highest = used.filter(|id| (least..=most).contains(*id)).max();
    let start = highest.map_or(least, |id| id.saturating_add(1));
    (start..=most).chain(least..start.min(most)).find(|id| !taken(id))
}

/// Where the files of groups really lie, which are links on some hosts.
pub fn group_files(root: &Root) -> [String; 2] {
    [GROUP, GSHADOW].map(|path| real(root, path))
}

/// Where the files of users really lie.
pub fn user_files(root: &Root) -> [String; 2] {
    [PASSWD, SHADOW].map(|path| real(root, path))
}

fn real(root: &Root, path: &str) -> String {
    root.locate_through_links(path).map_or_else(|_| path.to_owned(), |place| place.real)
}

/// The lock that useradd, passwd and systemd-sysusers take too. Released when dropped.
#[derive(Debug)]
struct Lock {
    _file: OwnedFd,
}

impl Lock {
    fn take(root: &Root) -> Result<Self, HostError> {
        let place = root.locate(LOCK)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(place.fd(), place.name.as_str(), flags, Mode::from_raw_mode(0o600))
            .map_err(HostError::io(LOCK, "open"))?;
        // The kernel has no wait with a limit for this kind of lock.
        let step = Duration::from_millis(50);
        let mut waited = Duration::ZERO;
        loop {
            match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(Errno::ACCESS | Errno::AGAIN) if waited < LOCK_WAIT => {
                    std::thread::sleep(step);
                    waited += step;
                }
                Err(Errno::ACCESS | Errno::AGAIN) => {
                    return Err(HostError::AccountsLocked { seconds: LOCK_WAIT.as_secs() });
                }
                Err(errno) => return Err(HostError::io(LOCK, "lock")(errno)),
            }
        }
    }
}

/// Whether another program holds the lock of the account files now. Takes and makes nothing.
pub fn are_locked(root: &Root) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let open = |place: Place| {
        let file = rustix::fs::openat(place.fd(), place.name.as_str(), flags, Mode::empty()).ok()?;
        rustix::process::fcntl_getlk(&file, &Flock::from(FlockType::WriteLock)).ok()?
    };
    root.locate(LOCK).ok().and_then(open).is_some()
}

/// Adds a group with no members. The shadow comes first, so that a group that is seen is complete.
///
/// # Errors
/// If name or number were taken since the plan was made, or a file cannot be written.
pub fn add_group(root: &Root, name: &str, gid: u32) -> Result<(), HostError> {
    let _lock = Lock::take(root)?;
    let now = Accounts::load(root)?;
    if let Some(found) = now.group(name) {
        return Err(changed(format!("group {name}"), format!("there with gid {found}")));
    }
    if let Some(other) = now.gid_taken(gid) {
        return Err(changed(format!("gid {gid}"), format!("taken by the group {other}")));
    }
    edit(root, GSHADOW, None, |text| put_line(text, name, format!("{name}:!::").as_bytes()))?;
    edit(root, GROUP, Some(0o644), |text| put_line(text, name, format!("{name}:x:{gid}:").as_bytes()))
}

/// Adds a user whose account is locked. The shadow comes first, so that a user that is seen is locked.
///
/// # Errors
/// If name or number were taken since the plan was made, or a file cannot be written.
pub fn add_user(root: &Root, user: &User, days: u64) -> Result<(), HostError> {
    let _lock = Lock::take(root)?;
    let now = Accounts::load(root)?;
    if let Some(found) = now.user(&user.name) {
        return Err(changed(format!("user {}", user.name), format!("there with uid {}", found.uid)));
    }
    if let Some(other) = now.uid_taken(user.uid) {
        return Err(changed(format!("uid {}", user.uid), format!("taken by the user {other}")));
    }
    let name = &user.name;
    edit(root, SHADOW, None, |text| put_line(text, name, format!("{name}:!:{days}::::::").as_bytes()))?;
    edit(root, PASSWD, Some(0o644), |text| put_line(text, name, &passwd_line(user, b"x", b"")))
}

/// Changes primary group, home and shell of a user; name, number, password and comment stay.
///
/// # Errors
/// If the user has gone, or a file cannot be written.
pub fn change_user(root: &Root, user: &User) -> Result<(), HostError> {
    let _lock = Lock::take(root)?;
    if Accounts::load(root)?.user(&user.name).is_none_or(|now| now.uid != user.uid) {
        return Err(changed(format!("user {}", user.name), "missing".to_owned()));
    }
    edit(root, PASSWD, None, |text| {
        let old = find_line(text, &user.name).map(|(_, line)| line).unwrap_or_default();
        put_line(text, &user.name, &passwd_line(user, field(old, 1), field(old, 4)))
    })
}

/// Makes a user a member of a group, or no longer one. The shadow comes first.
///
/// # Errors
/// If the group that one becomes a member of has gone, or a file cannot be written.
pub fn set_member(root: &Root, user: &str, group: &str, is_member: bool) -> Result<(), HostError> {
    let _lock = Lock::take(root)?;
    // Nobody is a member of a group that is not there; in its shadow a killed run may have left one.
    if is_member && Accounts::load(root)?.group(group).is_none() {
        return Err(changed(format!("group {group}"), "missing".to_owned()));
    }
    let change = |text: &[u8]| {
        let (_, line) = find_line(text, group)?;
        put_line(text, group, &with_field(line, 3, &with_member(field(line, 3), user.as_bytes(), is_member)))
    };
    edit(root, GSHADOW, None, change)?;
    edit(root, GROUP, None, change)
}

/// Changes the comment of a user.
///
/// # Errors
/// If the user has gone, or the file cannot be written.
pub fn set_comment(root: &Root, user: &str, comment: &str) -> Result<(), HostError> {
    let _lock = Lock::take(root)?;
    if Accounts::load(root)?.user(user).is_none() {
        return Err(changed(format!("user {user}"), "missing".to_owned()));
    }
    edit(root, PASSWD, None, |text| {
        let (_, line) = find_line(text, user)?;
        put_line(text, user, &with_field(line, 4, comment.as_bytes()))
    })
}

/// Locks or unlocks the password of a user.
///
/// # Errors
/// If the user has no line in the shadow, or that cannot be written.
pub fn set_locked(root: &Root, user: &str, locked: bool) -> Result<(), HostError> {
    let _lock = Lock::take(root)?;
    let text = root.read(SHADOW, MAX_FILE)?.unwrap_or_default();
    if find_line(&text, user).is_none() {
        return Err(changed(format!("the line of {user} in {SHADOW}"), "missing".to_owned()));
    }
    edit(root, SHADOW, None, |text| {
        let (_, line) = find_line(text, user)?;
        put_line(text, user, &with_field(line, 1, &locked_password(field(line, 1), locked)))
    })
}

/// Removes a user that nobody else has a hand in; if it stays, why.
///
/// # Errors
/// If a file cannot be read or written.
pub fn remove_user(root: &Root, user: &User) -> Result<Option<String>, HostError> {
    let _lock = Lock::take(root)?;
    let name = &user.name;
    match Accounts::load(root)?.user(name) {
        None => {}
        Some(now) if now == user => {}
        Some(_) => return Ok(Some("something else has changed it since".to_owned())),
    }
    let text = |path| Ok::<_, HostError>(root.read(path, MAX_FILE)?.unwrap_or_default());
    let password = find_line(&text(SHADOW)?, name).map(|(_, line)| field(line, 1).to_vec());
    if password.is_some_and(|password| !password.starts_with(b"!") && !password.starts_with(b"*")) {
        return Ok(Some("it has been given a password since".to_owned()));
    }
    let groups = text(GROUP)?;
    let of = groups
        .split(|byte| *byte == b'\n')
        .find(|line| field(line, 3).split(|byte| *byte == b',').any(|member| member == name.as_bytes()));
    if let Some(line) = of {
        let group = String::from_utf8_lossy(field(line, 0));
        return Ok(Some(format!("it has been made a member of the group {group} since")));
    }
    // The shadow comes first again: whoever is seen still is seen by the next run too.
    edit(root, SHADOW, None, |text| without_line(text, name))?;
    edit(root, PASSWD, None, |text| without_line(text, name))?;
    Ok(None)
}

/// Removes a group that nobody is in; if it stays, why.
///
/// # Errors
/// If a file cannot be read or written.
pub fn remove_group(root: &Root, name: &str, gid: u32) -> Result<Option<String>, HostError> {
    let _lock = Lock::take(root)?;
    let now = Accounts::load(root)?;
    if now.group(name).is_some_and(|found| found != gid) {
        return Ok(Some("something else has changed it since".to_owned()));
    }
    if let Some(user) = now.users.values().find(|user| user.gid == gid) {
        return Ok(Some(format!("it is the primary group of {}", user.name)));
    }
    let text = root.read(GROUP, MAX_FILE)?.unwrap_or_default();
    if find_line(&text, name).is_some_and(|(_, line)| !field(line, 3).is_empty()) {
        return Ok(Some("it has been given members since".to_owned()));
    }
    edit(root, GSHADOW, None, |text| without_line(text, name))?;
    edit(root, GROUP, None, |text| without_line(text, name))?;
    Ok(None)
}

/// The password field of the shadow, locked or not. Where there is no password, an unlocked one lets nobody in either
/// (`*`): it is never empty.
pub fn locked_password(old: &[u8], locked: bool) -> Vec<u8> {
    let start = old.iter().position(|byte| *byte != b'!').unwrap_or(old.len());
    match (locked, &old[start..]) {
        (true, _) if start > 0 => old.to_vec(),
        (true, b"*") => b"!".to_vec(),
        (true, _) => [b"!", old].concat(),
        (false, b"") if start > 0 => b"*".to_vec(),
        (false, password) => password.to_vec(),
    }
}

/// A list of members with a user in it, or without. All else in it stays, so that the one undoes the other.
pub fn with_member(members: &[u8], user: &[u8], is_member: bool) -> Vec<u8> {
    let mut all: Vec<&[u8]> = members.split(|byte| *byte == b',').collect();
    match (is_member, all.contains(&user)) {
        (true, false) if members.is_empty() => user.to_vec(),
        (true, false) => [members, b",", user].concat(),
        (false, true) => {
            all.retain(|member| *member != user);
            all.join(&b',')
        }
        _ => members.to_vec(),
    }
}

/// A line with another value of a field; as it is, if it has no such field.
pub fn with_field(line: &[u8], index: usize, value: &[u8]) -> Vec<u8> {
    let mut fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
    if let Some(field) = fields.get_mut(index) {
        *field = value;
    }
    fields.join(&b':')
}

/// A field of a line.
pub fn field(line: &[u8], index: usize) -> &[u8] {
    line.split(|byte| *byte == b':').nth(index).unwrap_or_default()
}

/// The text without the line of this name; `None` if there is none. A last line with no end stays one.
pub fn without_line(text: &[u8], name: &str) -> Option<Vec<u8>> {
    let (start, line) = find_line(text, name)?;
    let (above, below) = (&text[..start], &text[start + line.len()..]);
    if let Some(below) = below.strip_prefix(b"\n") {
        return Some([above, below].concat());
    }
    let last = above.strip_suffix(b"\n").filter(|last| !last.is_empty() && !last.ends_with(b"\n"));
    Some(last.unwrap_or(above).to_vec())
}

fn passwd_line(user: &User, password: &[u8], comment: &[u8]) -> Vec<u8> {
    let User { name, uid, gid, home, shell } = user;
    [
        name.as_bytes(),
        password,
        uid.to_string().as_bytes(),
        gid.to_string().as_bytes(),
        comment,
        home.as_bytes(),
        shell.as_bytes(),
    ]
    .join(&b':')
}

fn changed(path: String, found: String) -> HostError {
    HostError::Changed { path, found, expected: "as it was planned".to_owned() }
}

/// Rewrites a file; one that is missing is made only if `new` says with which mode.
fn edit(
    root: &Root,
    path: &str,
    new: Option<u32>,
    change: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
) -> Result<(), HostError> {
    let place = root.locate_through_links(path)?;
    let (text, ids) = match (place.read(MAX_FILE)?, new) {
        (Some((text, meta)), _) => (text, Ids { uid: meta.uid, gid: meta.gid, mode: meta.mode }),
        (None, Some(mode)) => (Vec::new(), Ids::root(mode)),
        (None, None) => return Ok(()),
    };
    match change(&text) {
        Some(text) => root.write_if(&place, &text, ids, &root.attributes(&place)?, &|_| Ok(())).map(drop),
        None => Ok(()),
    }
}

/// The line of a name, and where it begins.
pub fn find_line<'a>(text: &'a [u8], name: &str) -> Option<(usize, &'a [u8])> {
    let mut start = 0;
    for line in text.split(|byte| *byte == b'\n') {
        if line.split(|byte| *byte == b':').next() == Some(name.as_bytes()) {
            return Some((start, line));
        }
        start += line.len() + 1;
    }
    None
}

/// The text with the line of this name replaced, or added: before lines of the name service (`+`, `-`), which end the
/// file. `None` if nothing changes. Bytes, not text: a comment may be in any encoding. Where the last line has no end, the
/// one that is added has none either: [`without_line`] undoes it.
pub fn put_line(text: &[u8], name: &str, line: &[u8]) -> Option<Vec<u8>> {
    if let Some((start, old)) = find_line(text, name) {
        return (old != line).then(|| [&text[..start], line, &text[start + old.len()..]].concat());
    }
    let mut end = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b"+") || line.starts_with(b"-") {
            break;
        }
        end += line.len();
    }
    let (above, below) = text.split_at(end);
    let has_end = above.is_empty() || above.ends_with(b"\n");
    Some(if has_end { [above, line, b"\n", below].concat() } else { [above, b"\n", line].concat() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_as_useradd_takes_them() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nsystemd-network:x:998:998::/:/usr/sbin/nologin\nann:x:1000:1000::/home/ann:/bin/sh\n";
        let accounts = Accounts::parse(passwd, "", "");
        assert_eq!(accounts.free_uid(true, &BTreeSet::new()), Some(999));
        assert_eq!(accounts.free_uid(true, &BTreeSet::from([999])), Some(997));
        assert_eq!(accounts.free_uid(false, &BTreeSet::new()), Some(1001));
        assert_eq!(accounts.free_gid(true, &BTreeSet::new()), Some(999));

        let narrow = "SYS_UID_MIN 998\nSYS_UID_MAX 0x3e6 # 998\nUID_MIN 1000\nUID_MAX\t01750\n";
        let accounts = Accounts::parse(passwd, "", narrow);
        assert_eq!(accounts.free_uid(true, &BTreeSet::new()), None, "998 is taken");
        assert_eq!(accounts.free_uid(false, &BTreeSet::new()), None, "1000 is taken");
    }

    #[test]
    fn lines_that_are_no_accounts_are_passed_over() {
        let accounts = Accounts::parse(
            "# comment\n\n+::::::\nx:y\nbad:x:one:2::/:/\nok:x:5:6::/:/bin/sh",
            "+:::\nok:x:6:\n",
            "",
        );
        assert_eq!(accounts.user("ok").map(|user| (user.uid, user.gid)), Some((5, 6)));
        assert_eq!((accounts.users.len(), accounts.groups.len()), (1, 1));
    }

    #[test]
    fn a_password_is_locked_and_unlocked_and_never_becomes_empty() {
        let of = |old: &[u8], locked| String::from_utf8(locked_password(old, locked)).unwrap();
        for (open, locked) in [("$6$x", "!$6$x"), ("*", "!")] {
            assert_eq!(
                (of(open.as_bytes(), true).as_str(), of(open.as_bytes(), false).as_str()),
                (locked, open)
            );
            assert_eq!(
                (of(locked.as_bytes(), true).as_str(), of(locked.as_bytes(), false).as_str()),
                (locked, open)
            );
        }
        assert_eq!(
            (of(b"!!", false).as_str(), of(b"!!", true).as_str(), of(b"", true).as_str()),
            ("*", "!!", "!")
        );
    }

    #[test]
    fn other_lines_stay_byte_for_byte() {
        let added = |text: &str| {
            put_line(text.as_bytes(), "kubernetes", b"kubernetes:x:1:")
                .map(|text| String::from_utf8(text).unwrap())
        };
        assert_eq!(added("").as_deref(), Some("kubernetes:x:1:\n"));
        assert_eq!(added("a:x:2:").as_deref(), Some("a:x:2:\nkubernetes:x:1:"));
        assert_eq!(
            added("a:x:2:\r\n# note\n\n+:::\nz\n").as_deref(),
            Some("a:x:2:\r\n# note\n\nkubernetes:x:1:\n+:::\nz\n")
        );
        assert_eq!(
            added("a:x:2:\nkubernetes:!:9:\nb:x:3:\n").as_deref(),
            Some("a:x:2:\nkubernetes:x:1:\nb:x:3:\n")
        );
        assert_eq!(added("kubernetes:x:1:\n"), None);
        let member = |text: &[u8], is_member| String::from_utf8(with_member(text, b"k", is_member)).unwrap();
        assert_eq!((member(b"", true), member(b"a,b", true)), ("k".to_owned(), "a,b,k".to_owned()));
        assert_eq!((member(b"k", false), member(b"a,k,kk", false)), (String::new(), "a,kk".to_owned()));
        assert_eq!((member(b"a,,k", true), member(b"kk", false)), ("a,,k".to_owned(), "kk".to_owned()));
        assert_eq!(
            (member(b"a,,a", true), member(b"a,,a,k", false)),
            ("a,,a,k".to_owned(), "a,,a".to_owned())
        );
        let without = |text: &[u8]| without_line(text, "b").map(|text| String::from_utf8(text).unwrap());
        assert_eq!(without(b"a:x:1:\nb:x:2:\nbb:x:3:\n").as_deref(), Some("a:x:1:\nbb:x:3:\n"));
        assert_eq!(without(b"a:x:1:\nb:x:2:").as_deref(), Some("a:x:1:"));
        assert_eq!(without(b"b:x:2:").as_deref(), Some(""));
        assert_eq!(without(b"a:x:1:\nbb:x:2:\n"), None);
        let latin = b"m:x:1:1:M\xfcller:/:/bin/sh\n";
        assert!(put_line(latin, "n", b"n").is_some_and(|text| text.starts_with(latin)));
    }
}
