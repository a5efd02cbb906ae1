//! What runs on each machine: it makes the machine what a revision says, keeps it so, and tells what it did.
//!
//! ```text
//! cli  (by hand) ─┐   ┌─ engine: plan ► apply ► verify ─┐
//!                 ├─► │                                  ├─► host: the only code that touches the machine
//! pod  (Report)  ─┘   └─ resource: what is ► what shall be
//! ```
//!
//! | module | in ► out |
//! |---|---|
//! | [`cli`] | arguments ► an exit code |
//! | [`pod`] | this node's Report ► the host, and the Report's status |
//! | [`engine`] | a host and a revision ► a plan, the changes that were made |
//! | [`anchor`] | the bytes of a file ► where a part of it is, and the file with another (pure) |
//! | [`ledger`] | what was found and what is made ► what can be put back (pure) |
//! | [`preset`] | what a kubelet, a runtime, a kernel need ► resources, by what the node is (pure) |
//! | [`resource`] | one file a kind: what is, what shall be ► the steps between |
//! | [`host`] | files, accounts, units, downloads |
//! | [`switch`] | a plan that touches what pods run under ► confirmed by the host itself, or rolled back |
//! | [`drift`] | policy, names, times ► what becomes of what was changed since (pure) |
//! | [`report`] | what came of a pass ► the words for the Report (pure) |
//! | [`diff`] | a plan ► how the content of files would change |
//! | [`output`] | plans and outcomes ► text or JSON (pure, but for printing) |

pub mod anchor;
pub mod cli;
pub mod diff;
pub mod drift;
pub mod engine;
pub mod host;
pub mod ledger;
pub mod output;
pub mod pod;
pub mod preset;
pub mod report;
pub mod resource;
pub mod switch;
