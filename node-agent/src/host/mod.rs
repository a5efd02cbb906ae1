//! The only code that touches the machine: its files, accounts, units, and what is fetched for it.
//!
//! | module | in ► out |
//! |---|---|
//! | [`root`] | a path of the host ► where it really lies, held open |
//! | [`write`] | a place and what shall be there ► it is there, whole or not at all |
//! | [`accounts`] | users and groups |
//! | [`systemd`], [`offline`], [`install`] | units of a system that runs, of one that does not, and what enables them |
//! | [`kernel`] | names of modules and settings ► whether they are loaded, what their values are |
//! | [`kubelet`], [`runtime`], [`journal`] | the kubelet, the container runtime ► how the node is; a unit ► the last lines that it wrote |
//! | [`trial`] | what is about to be put in place ► what the host's own programs say of it |
//! | [`trust`] | the host's files ► what its distribution trusts, and how that is changed |
//! | [`download`], [`cache`] | URLs and a digest ► a verified file, fetched once |
//! | [`archive`] | the bytes of an archive ► what is in it, or why it is refused |
//! | [`disk`] | a place ► whether its disk takes more, and what is locked on it |
//! | [`digest`] | a place ► the SHA-256 of what is there |
//! | [`items`] | a thing of the ledger ► how it is now |
//! | `kept` | a file of the agent's own ► what was read of it, once |
//! | [`state`] | what the agent itself keeps on the host |
//! | [`notify`], `signals`, [`kernel_events`] | paths, units, swap and modules ► a signal when one was touched |
//! | [`facts`] | what the machine is |
//! | [`node`] | what presets ask of it |
//! | [`failpoint`] | where tests kill the agent |
//! | [`local`] | files of the place where a command is run |

pub mod accounts;
pub mod archive;
pub mod cache;
pub mod digest;
pub mod disk;
pub mod download;
pub(crate) mod error;
pub mod facts;
pub mod failpoint;
pub mod install;
pub mod items;
pub mod journal;
mod kept;
pub mod kernel;
pub mod kernel_events;
pub mod kubelet;
pub mod local;
pub mod node;
pub mod notify;
pub mod offline;
pub mod root;
pub mod runtime;
mod signals;
pub mod state;
pub mod systemd;
pub mod trial;
pub mod trust;
pub mod write;

pub use error::HostError;
pub use root::{Kind, Meta, Place, Root};

use std::time::Duration;

use cache::Cache;
use digest::Digests;
use download::Downloads;
use facts::Facts;
use node::Versions;
use state::State;
use systemd::Systemd;

/// A machine.
pub struct Host {
    /// Its files.
    pub root: Root,
    /// Its units.
    pub systemd: Box<dyn Systemd>,
    /// What it is.
    pub facts: Facts,
    /// Digests of its files.
    pub digests: Digests,
    /// What is fetched for it.
    pub downloads: Downloads,
    /// What was.
    pub cache: Cache,
    /// What the agent keeps on it.
    pub state: State,
    /// What its programs told of their versions.
    pub(crate) versions: Versions,
}

impl Host {
    /// The machine whose root lies at a path. `runs`: whether it is the one that this program runs on.
    ///
    /// # Errors
    /// If it cannot be opened, or is none that is supported.
    pub fn open(path: &str, runs: bool) -> Result<Self, HostError> {
        let root = Root::open(path)?;
        let systemd: Box<dyn Systemd> =
            if runs { Box::new(systemd::Bus::of(&root)) } else { Box::new(offline::Offline::of(&root)) };
        Self::with(root, systemd)
    }

    /// A machine with another way to its units.
    ///
    /// # Errors
    /// If it is none that is supported.
    pub fn with(root: Root, systemd: Box<dyn Systemd>) -> Result<Self, HostError> {
        Ok(Self {
            facts: Facts::gather(&root)?,
            digests: Digests::default(),
            downloads: Downloads::of(&root),
            cache: Cache::of(&root),
            state: State::of(&root),
            versions: Versions::default(),
            systemd,
            root,
        })
    }
}

/// Lets this process have as many files open as it may: a plan holds the directories of all its paths open.
pub fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // If it is refused, what there is may still do.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// The time as a person reads it, RFC 3339.
pub fn timestamp() -> String {
    jiff::Timestamp::now().strftime("%FT%TZ").to_string()
}

/// How long the machine runs: by a clock that nobody sets, the same for all processes, and not stopped by sleep.
pub fn uptime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0))
}

/// When that was by the clock as it is set now: what is compared with times that others write must not break when
/// somebody sets the clock. `then`: an [`uptime`].
pub fn clock_at(then: Duration) -> jiff::Timestamp {
    let (now, up) = (jiff::Timestamp::now(), uptime());
    let past = now.checked_sub(up.saturating_sub(then));
    past.and_then(|past| past.checked_add(then.saturating_sub(up))).unwrap_or(now)
}

/// Whether this process may change a machine.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
