//! Upstream's rule for versions: a kubelet is never newer than the API server, and at most three minor versions older. In:
//! the version that a spec asks for, and the API server's. Out: what to write instead.

use crds::kubelet_fields::{MINORS, minor_of};

/// Reason: kubelet.version does not go with the API server.
pub const VERSION_SKEW: &str = "VersionSkew";

/// How many minor versions a kubelet may be older.
const OLDER: u32 = 3;

/// The API server's version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerVersion {
    /// Of Kubernetes 1.
    pub minor: u32,
    /// As it says it itself. Example: v1.36.3.
    pub text: String,
}

impl ServerVersion {
    /// Reads what it says; some clouds put more behind the numbers, as in v1.36.3-gke.100.
    pub fn parse(text: &str) -> Option<Self> {
        Some(Self { minor: minor_of(text)?, text: text.to_owned() })
    }
}

/// What is wrong with a kubelet of this version, in one line. Patch versions mean nothing here, as upstream has it.
pub fn problem(kubelet: &str, server: &ServerVersion) -> Option<String> {
    let ServerVersion { minor, text } = server;
    let oldest = minor.saturating_sub(OLDER);
    // None is advised whose configuration nobody here knows.
    let (first, last) = (oldest.max(*MINORS.start()), (*minor).min(*MINORS.end()));
    match minor_of(kubelet)? {
        newer if newer > *minor => Some(format!(
            "kubelet.version {kubelet} is newer than the API server, which is {text}: write a version of 1.{first} to 1.{last}, or upgrade the API server first; nothing is changed until then"
        )),
        older if older < oldest => Some(format!(
            "kubelet.version {kubelet} is more than {OLDER} minor versions older than the API server, which is {text}: write a version of 1.{first} to 1.{last}; nothing is changed until then"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelet_goes_with_its_own_minor_version_and_three_before() {
        let server = ServerVersion::parse("v1.36.3-eks-1").unwrap();
        for (kubelet, told) in [
            (
                "v1.37.0",
                Some("is newer than the API server, which is v1.36.3-eks-1: write a version of 1.34 to 1.36"),
            ),
            ("v1.36.9", None),
            ("v1.36.0", None),
            ("v1.33.0", None),
            ("v1.32.9", Some("more than 3 minor versions older than the API server")),
        ] {
            let found = problem(kubelet, &server);
            assert_eq!(found.is_some(), told.is_some(), "{kubelet}");
            assert!(found.unwrap_or_default().contains(told.unwrap_or_default()), "{kubelet}");
        }
        assert_eq!(ServerVersion::parse("v2.0.0"), None);
    }
}
