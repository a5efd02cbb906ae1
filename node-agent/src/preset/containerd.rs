//! containerd: its configuration, and where that is asked for its program and unit.

use crds::component::ContainerRuntime;

use super::{Expansion, Facts};

/// Adds containerd's resources.
pub fn expand(_node_bootstrap: &str, _runtime: &ContainerRuntime, _facts: &Facts, _out: &mut Expansion) {}
