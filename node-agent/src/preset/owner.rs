//! Who has set up the kubelet of a node.

/// Who has set up the kubelet of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// kubeadm.
    Kubeadm,
    /// k3s, which has the kubelet in its own program.
    K3s,
    /// RKE2, likewise.
    Rke2,
    /// MicroK8s, likewise.
    MicroK8s,
    /// Amazon's EKS.
    Eks,
    /// Google's GKE.
    Gke,
    /// A package of the distribution.
    Package,
    /// Another NodeBootstrap.
    NodeBootstrap(String),
    /// Somebody else, by hand or by a tool that is not known.
    Other,
}
