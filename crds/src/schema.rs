//! The CRDs as Kubernetes takes them. In: the types. Out: the two objects, and the YAML files beside this crate.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use crate::{NodeBootstrap, NodeBootstrapReport};

/// The CRD of `NodeBootstrap`.
pub fn node_bootstrap() -> CustomResourceDefinition {
    NodeBootstrap::crd()
}

/// The CRD of `NodeBootstrapReport`.
pub fn report() -> CustomResourceDefinition {
    NodeBootstrapReport::crd()
}
