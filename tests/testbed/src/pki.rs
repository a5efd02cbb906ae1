//! Certificates and kubeconfigs: in goes who somebody is, out come PEM files signed by the testbed's own authority.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use serde_json::json;

use crate::paths;

/// The testbed's certificate authority and the folder that holds what it signed.
pub(crate) struct Authority {
    dir: PathBuf,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, as PEM text.
pub(crate) struct Identity {
    certificate_pem: String,
    key_pem: String,
}

impl Authority {
    /// Makes a new authority and a key for service account tokens in `dir`.
    pub(crate) fn create(dir: &Path) -> Result<Authority> {
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate =
            authority_params().self_signed(&key).context("cannot sign the authority's certificate")?;
        write_secret(&dir.join("ca.key"), &key.serialize_pem())?;
        paths::write(&dir.join("ca.crt"), certificate.pem())?;

        let tokens = KeyPair::generate().context("cannot make a key")?;
        write_secret(&dir.join("sa.key"), &tokens.serialize_pem())?;
        paths::write(&dir.join("sa.pub"), tokens.public_key_pem())?;
        Self::open(dir)
    }

    /// Reads the authority that lies in `dir`.
    pub(crate) fn open(dir: &Path) -> Result<Authority> {
        let read = |name: &str| {
            std::fs::read_to_string(dir.join(name))
                .with_context(|| format!("cannot read {}", dir.join(name).display()))
        };
        let certificate_pem = read("ca.crt")?;
        let key = KeyPair::from_pem(&read("ca.key")?).context("ca.key is no key")?;
        let issuer = Issuer::new(authority_params(), key);
        Ok(Authority { dir: dir.to_owned(), certificate_pem, issuer })
    }

    /// Signs a certificate that proves to be `common_name` of the group `organization`, to clients for `hosts`.
    pub(crate) fn sign(
        &self,
        common_name: &str,
        organization: Option<&str>,
        hosts: &[String],
    ) -> Result<Identity> {
        let key = KeyPair::generate().context("cannot make a key")?;
        let mut params = CertificateParams::new(hosts).context("a host name is not valid")?;
        params.distinguished_name = name(common_name, organization);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if !hosts.is_empty() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let certificate =
            params.signed_by(&key, &self.issuer).with_context(|| format!("cannot sign for {common_name}"))?;
        Ok(Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// Signs and writes `NAME.crt` and `NAME.key`.
    pub(crate) fn sign_to_files(
        &self,
        file: &str,
        common_name: &str,
        organization: Option<&str>,
        hosts: &[String],
    ) -> Result<Identity> {
        let identity = self.sign(common_name, organization, hosts)?;
        paths::write(&self.dir.join(format!("{file}.crt")), &identity.certificate_pem)?;
        write_secret(&self.dir.join(format!("{file}.key")), &identity.key_pem)?;
        Ok(identity)
    }

    /// The authority's certificate.
    pub(crate) fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Writes a kubeconfig for `identity` at `server`, with everything inside, so that it can be carried elsewhere.
    pub(crate) fn write_kubeconfig(&self, path: &Path, server: &str, identity: &Identity) -> Result<()> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "testbed", "cluster": {
                "server": server, "certificate-authority-data": base64(self.certificate_pem.as_bytes()),
            }}],
            "users": [{"name": "user", "user": {
                "client-certificate-data": base64(identity.certificate_pem.as_bytes()),
                "client-key-data": base64(identity.key_pem.as_bytes()),
            }}],
            "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "user"}}],
            "current-context": "testbed",
        });
        write_secret(path, &format!("{config:#}\n"))
    }
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name("testbed-ca", None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn name(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

fn write_secret(path: &Path, content: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    paths::write(path, content)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

/// Standard base64 with padding: ten lines, for which no crate is needed.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let at = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for position in 0..4 {
            let index = (bits >> (18 - 6 * position)) as usize & 63;
            text.push(if position > chunk.len() { '=' } else { char::from(ALPHABET[index]) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_pads_as_the_standard_says() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn an_authority_read_again_signs_as_the_same() {
        let dir = tempfile::tempdir().expect("a folder");
        let made = Authority::create(dir.path()).expect("made");
        let read = Authority::open(dir.path()).expect("read");
        assert_eq!(made.certificate_pem(), read.certificate_pem());
        assert!(read.sign("cp1", Some("system:nodes"), &["127.0.0.1".to_owned()]).is_ok());
    }
}
