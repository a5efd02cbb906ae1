//! The checks of a node before presets are applied.

use crds::revision::Presets;

use super::{Expansion, Facts};

/// Adds a problem for what is sure to fail, and a warning for what may.
pub fn check(_presets: &Presets, _facts: &Facts, _out: &mut Expansion) {}
