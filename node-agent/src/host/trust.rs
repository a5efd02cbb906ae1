//! The trust store of the host's distribution: the certificates that its programs trust.
//!
//! In: the host's files. Out: which store it has; what is in it; a certificate as a file of its own. The store itself is
//! made by the distribution's program, from certificates of its own and from those that lie in a folder for them.

use std::collections::BTreeSet;

use k8s_openapi::ByteString;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::{HostError, Root};

/// The largest store that is read, in bytes.
const MAX_STORE: u64 = 16 << 20;
/// How long a line of PEM is.
const WIDTH: usize = 64;

/// How a family of distributions keeps what it trusts.
#[derive(Debug, PartialEq, Eq)]
pub struct Store {
    /// The folder for certificates that are not the distribution's own, each a file.
    pub anchors: &'static str,
    /// How the names of these files end.
    pub suffix: &'static str,
    /// Where all that is trusted lies, as PEM.
    pub bundle: &'static str,
    /// What makes it, with its arguments.
    pub update: &'static [&'static str],
    /// What makes it anew, so that nothing is left of what is gone.
    pub renew: &'static [&'static str],
    /// A folder that only this family has.
    marker: &'static str,
}

/// The families, by their manuals: update-ca-certificates(8) of Debian and of SUSE, update-ca-trust(8).
const STORES: [Store; 3] = [
    // Without --fresh it leaves links to what is gone.
    Store {
        anchors: "/usr/local/share/ca-certificates",
        suffix: ".crt",
        bundle: "/etc/ssl/certs/ca-certificates.crt",
        update: &["/usr/sbin/update-ca-certificates"],
        renew: &["/usr/sbin/update-ca-certificates", "--fresh"],
        marker: "/usr/share/ca-certificates",
    },
    Store {
        anchors: "/etc/pki/ca-trust/source/anchors",
        suffix: ".pem",
        bundle: "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        update: &["/usr/bin/update-ca-trust", "extract"],
        renew: &["/usr/bin/update-ca-trust", "extract"],
        marker: "/etc/pki/ca-trust",
    },
    Store {
        anchors: "/etc/pki/trust/anchors",
        suffix: ".pem",
        bundle: "/var/lib/ca-certificates/ca-bundle.pem",
        update: &["/usr/sbin/update-ca-certificates"],
        renew: &["/usr/sbin/update-ca-certificates", "--fresh"],
        marker: "/etc/pki/trust",
    },
];

/// The folders for certificates of all families.
pub const ANCHORS: [&str; 3] = [STORES[0].anchors, STORES[1].anchors, STORES[2].anchors];

impl Store {
    /// The store that a host has.
    ///
    /// # Errors
    /// If the way to its program cannot be trusted.
    pub fn of(root: &Root) -> Result<Option<&'static Self>, HostError> {
        for store in &STORES {
            let program = store.update.first().copied().unwrap_or_default();
            let is_there = |path: &str| -> Result<bool, HostError> {
                Ok(root.locate_through_links(path)?.look()?.is_some())
            };
            if is_there(program)? && is_there(store.marker)? {
                return Ok(Some(store));
            }
        }
        Ok(None)
    }

    /// What is trusted now.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn trusted(&self, root: &Root) -> Result<BTreeSet<Vec<u8>>, HostError> {
        let pem = root.read(self.bundle, MAX_STORE)?.unwrap_or_default();
        Ok(certificates(&pem))
    }
}

/// The certificates of a text, as DER. What is none is left out.
pub fn certificates(pem: &[u8]) -> BTreeSet<Vec<u8>> {
    CertificateDer::pem_slice_iter(pem).flatten().map(|certificate| certificate.to_vec()).collect()
}

/// A certificate as a text.
pub fn pem(der: &[u8]) -> String {
    // So bytes stand in JSON.
    let base64 = serde_json::to_value(ByteString(der.to_vec())).unwrap_or_default();
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for (index, character) in base64.as_str().unwrap_or_default().chars().enumerate() {
        if index > 0 && index % WIDTH == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str("\n-----END CERTIFICATE-----\n");
    text
}
