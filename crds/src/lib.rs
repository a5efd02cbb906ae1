//! The API of `nodebootstrap.io`: what users write, what operator and agent say to each other, and the names
//! of everything that either of them makes. Values in, values out: no I/O, no async, no client.
//!
//! | module | what is in it |
//! |---|---|
//! | [`names`] | every name, label and annotation that two parts must agree on |
//! | [`value`] | the small types that parse once: [`HostPath`], [`Mode`], [`Sha256`], … and the rules that refuse bad ones |
//! | [`component`] | what presets are asked for: the kubelet, the container runtime |
//! | [`kubelet_fields`] | the fields of KubeletConfiguration, by minor version |
//! | [`nodebootstrap`] | `NodeBootstrap`: the user's desired state, and its status |
//! | [`report`] | `NodeBootstrapReport`: the operator's word to one node, and the agent's word back |
//! | [`validate`] | what a spec as a whole must keep, beyond what its single values do |
//! | [`revision`] | a spec rendered with everything it refers to, and the hash that names it |
//! | [`schema`] | the CRDs as Kubernetes takes them |
//! | [`text`] | texts of a status, cut to size |

pub mod component;
pub mod kubelet_fields;
pub mod names;
pub mod nodebootstrap;
pub mod report;
pub mod revision;
pub mod schema;
pub mod text;
pub mod validate;
pub mod value;

pub use nodebootstrap::{NodeBootstrap, NodeBootstrapSpec, NodeBootstrapStatus};
pub use report::{NodeBootstrapReport, NodeBootstrapReportSpec, NodeBootstrapReportStatus};
pub use value::{
    AccountComment, AccountName, AccountPath, AccountRef, ArchiveName, BlockText, CommentSign, DropInName,
    HostPath, LineStart, LineText, LinkTarget, Mode, ModuleName, NoProxy, PartName, Sha256, Share,
    SysctlName, SysctlValue, Timeout, UnitName, Url,
};
