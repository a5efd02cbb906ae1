//! What a node is, as far as presets ask: see [`crate::preset::facts`].

use crds::revision::Revision;

use super::{Host, HostError};
use crate::preset::Facts;

/// Looks at the node. What the revision's own NodeBootstrap has made is left out.
///
/// # Errors
/// If it cannot be looked at.
#[allow(clippy::unused_async)] // It asks systemd.
pub async fn look(host: &Host, _revision: &Revision) -> Result<Facts, HostError> {
    Ok(Facts { arch: host.facts.arch.to_owned(), ..Facts::default() })
}
