//! What can go wrong on the machine. Each says where, what was found, and what to do about it.

use rustix::io::Errno;
use thiserror::Error;

use crate::anchor::Unclear;

/// Why the machine refused something.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HostError {
    /// A system call failed.
    #[error("{path}: {action}: {errno}{}", remedy(*.errno))]
    Io {
        /// The path it was for.
        path: String,
        /// What was tried, in words.
        action: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
    /// Somebody other than root can put a symbolic link here, so it leads wherever they like.
    #[error(
        "{link} is a symbolic link in a directory that {who} can write to ({directory}), so it is not followed: name the path that it leads to, or give {directory} to root with mode 0755"
    )]
    UnsafeLink {
        /// The link.
        link: String,
        /// The directory that it lies in.
        directory: String,
        /// Who can change it.
        who: String,
    },
    /// Links lead to each other.
    #[error("{path}: more than 40 symbolic links on the way: they lead to each other; remove one of them")]
    TooManyLinks {
        /// Where the walk began.
        path: String,
    },
    /// A step of the path is no directory.
    #[error("{step} is {found}, but {path} needs a directory there: move it away, or choose another path")]
    NotADirectory {
        /// The path that was asked for.
        path: String,
        /// Its step that is something else.
        step: String,
        /// What it is.
        found: &'static str,
    },
    /// The path has something else than what was there when the plan was made.
    #[error(
        "{path} is {found}, expected {expected}: it changed while it was worked on; the next pass looks again"
    )]
    Changed {
        /// The path.
        path: String,
        /// What is there.
        found: String,
        /// What was there before.
        expected: String,
    },
    /// A file that the host needs is a link, and what it leads to is not there.
    #[error(
        "{link} is a symbolic link to {target}, which is missing: mount or restore what it leads to, or put a file in its place"
    )]
    LeadsNowhere {
        /// The link.
        link: String,
        /// What it leads to.
        target: String,
    },
    /// A file has more content than is sensible for it.
    #[error("{path} has {size} bytes, at most {max} are read: is it the right file?")]
    TooLarge {
        /// The path.
        path: String,
        /// Its size.
        size: u64,
        /// The limit.
        max: u64,
    },
    /// A directory has too much in it for a recursive change.
    #[error(
        "{path} has more than {max} entries, too many for recursive: name the folders below it that are meant"
    )]
    TooManyEntries {
        /// The directory.
        path: String,
        /// The limit.
        max: usize,
    },
    /// Another name of the file lies where we cannot see it, and its directory belongs to a user.
    #[error(
        "{path} has {links} hard links and lies in a directory that {who} can write to, so that a change of its owner or mode may hit another file: remove it"
    )]
    HardLinked {
        /// The file.
        path: String,
        /// How many names it has.
        links: u64,
        /// Who can change the directory.
        who: String,
    },
    /// Somebody put a directory where the next content of a file is written.
    #[error(
        "{path} is a directory, and has the name under which the next content of {target} is written: whoever made it must remove it"
    )]
    NameTaken {
        /// The directory.
        path: String,
        /// The file.
        target: String,
    },
    /// Something holds the lock of the account files for too long.
    #[error("/etc/.pwd.lock is held by another program for {seconds} s: see whether useradd or passwd hangs")]
    AccountsLocked {
        /// How long was waited.
        seconds: u64,
    },
    /// systemd refused, or cannot be asked.
    #[error("{0}")]
    Systemd(String),
    /// A state file of ours cannot be understood.
    #[error("{path} is damaged: {cause}: remove it, the next run writes it anew")]
    State {
        /// The file.
        path: String,
        /// Why.
        cause: String,
    },
    /// Others can write to a directory of ours: whoever did could have us take back what we never made.
    #[error(
        "{path} belongs to the user {uid}, with mode {mode:04o}: see that nobody has changed what is in it, then chown root:root and chmod 0700 it; removed, what was there before can never be put back"
    )]
    Exposed {
        /// The directory.
        path: String,
        /// Its owner.
        uid: u32,
        /// Its mode.
        mode: u32,
    },
    /// The ledger cannot be understood: without it nobody knows what was there before.
    #[error("{path} cannot be used: {cause}")]
    Ledger {
        /// The file.
        path: String,
        /// Why.
        cause: String,
    },
    /// There would be more to write down than is ever read again.
    #[error(
        "{path} would have {size} bytes, at most {max} are possible: name fewer or smaller directories as recursive, or leave more out of archives"
    )]
    LedgerFull {
        /// The ledger.
        path: String,
        /// Its size.
        size: u64,
        /// The limit.
        max: u64,
    },
    /// What is to be replaced cannot be kept, so that nobody could put it back.
    #[error(
        "{path} has {size} bytes that would have to be kept, to be put back one day; {kept} are kept already, at most 2 GiB are: move it away, if nobody needs it"
    )]
    PriorsFull {
        /// The file.
        path: String,
        /// Its size.
        size: u64,
        /// What is kept already.
        kept: u64,
    },
    /// Nobody can tell where in a file a part of it is.
    #[error("{path}: {unclear}")]
    Part {
        /// The file.
        path: String,
        /// Why.
        unclear: Unclear,
    },
    /// An archive is not unpacked.
    #[error("{0}")]
    Archive(String),
    /// The machine is none that we know.
    #[error("{0}")]
    Unsupported(String),
}

/// The reason of [`HostError::Archive`].
pub(crate) const ARCHIVE_REFUSED: &str = "ArchiveRefused";
/// The reason of [`HostError::HardLinked`].
pub(crate) const HARD_LINKED: &str = "HardLinked";

impl HostError {
    /// Makes the error of a system call.
    pub(crate) fn io(path: impl Into<String>, action: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Io { path: path.into(), action, errno }
    }

    /// The cause in one word, for Reports.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Io { errno, .. } if *errno == Errno::NOSPC || *errno == Errno::DQUOT => "NoSpace",
            Self::Io { errno, .. } if *errno == Errno::ROFS => "ReadOnly",
            Self::Io { .. } => "HostError",
            Self::UnsafeLink { .. } => "UnsafeLink",
            Self::TooManyLinks { .. } | Self::NotADirectory { .. } => "PathOccupied",
            Self::LeadsNowhere { .. } => "LeadsNowhere",
            Self::Changed { .. } => "HostChanged",
            Self::TooLarge { .. } | Self::TooManyEntries { .. } => "TooLarge",
            Self::HardLinked { .. } => HARD_LINKED,
            Self::NameTaken { .. } => "PathOccupied",
            Self::AccountsLocked { .. } => "AccountsLocked",
            Self::Systemd(_) => "Systemd",
            Self::State { .. } | Self::Exposed { .. } => "StateDamaged",
            Self::Ledger { .. } => "LedgerDamaged",
            Self::PriorsFull { .. } => "PriorsFull",
            Self::LedgerFull { .. } => "TooLarge",
            Self::Part { unclear, .. } => unclear.reason(),
            Self::Archive(_) => ARCHIVE_REFUSED,
            Self::Unsupported(_) => "Unsupported",
        }
    }
}

/// What can be done about the errors that users meet.
fn remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::NOSPC => ": free some space",
        Errno::DQUOT => ": raise the quota",
        Errno::ROFS => ": choose a path on a disk that can be written to",
        Errno::PERM => ": is it immutable (lsattr), or the agent not root?",
        Errno::ACCESS => ": run as root",
        Errno::BUSY => ": is something mounted on it?",
        _ => "",
    }
}
