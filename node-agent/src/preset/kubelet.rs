//! The kubelet: program, configuration, flags, unit.

use crds::component::Kubelet;

use super::{Expansion, Facts};

/// Adds the kubelet's resources.
pub fn expand(_node_bootstrap: &str, _kubelet: &Kubelet, _facts: &Facts, _out: &mut Expansion) {}
