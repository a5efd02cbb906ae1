//! The kernel of a node of Kubernetes: modules and settings.

use crds::nodebootstrap::Kernel;
use crds::revision::render_kernel;

use super::{Expansion, Facts};

/// Adds what the preset has, under what the spec gives beside it.
pub fn expand(node_bootstrap: &str, kernel: &Kernel, _facts: &Facts, out: &mut Expansion) {
    out.resources.extend(render_kernel(node_bootstrap, kernel));
}
