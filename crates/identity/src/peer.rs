//! What a certificate says about its owner.

use crate::error::{IdentityError, Result};
use rcgen::{KeyPair, PublicKeyData};
use skep_model::Timestamp;
use skep_model::id::{ClusterId, NodeId};
use skep_model::node::Role;
use x509_parser::prelude::X509Certificate;
use x509_parser::x509::AttributeTypeAndValue;

/// The other side of a connection, as its verified certificate names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub node_id: NodeId,
    pub role: Role,
    pub cluster_id: ClusterId,
}

/// From when until when a certificate holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl Peer {
    /// Reads a leaf certificate. Says nothing about trust: TLS has verified the chain.
    ///
    /// # Errors
    /// When the certificate is malformed or names no node and role.
    pub fn from_der(der: &[u8]) -> Result<Self> {
        let cert = parse(der)?;
        let subject = cert.subject();
        let unit = text(subject.iter_organizational_unit().next(), "organisational unit")?;
        let role = [Role::Worker, Role::Manager]
            .into_iter()
            .find(|role| role.certificate_unit() == unit)
            .ok_or_else(|| IdentityError::Certificate(format!("unknown role {unit:?}")))?;
        Ok(Self {
            node_id: text(subject.iter_common_name().next(), "common name")?.into(),
            role,
            cluster_id: text(subject.iter_organization().next(), "organisation")?.into(),
        })
    }
}

/// Reads the life span of a certificate.
///
/// # Errors
/// When the certificate is malformed.
pub fn certificate_validity(der: &[u8]) -> Result<Validity> {
    let cert = parse(der)?;
    let at = |seconds: i64| Timestamp(seconds.saturating_mul(1_000_000_000));
    Ok(Validity {
        not_before: at(cert.validity().not_before.timestamp()),
        not_after: at(cert.validity().not_after.timestamp()),
    })
}

/// Who signs the swarm's certificates, as nodes tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// The distinguished name in DER.
    pub subject_der: Vec<u8>,
    /// The SubjectPublicKeyInfo in DER.
    pub public_key_der: Vec<u8>,
}

impl Issuer {
    /// Reads the first certificate of a root bundle.
    ///
    /// # Errors
    /// When there is none or it is malformed.
    pub fn of_root(root_pem: &str) -> Result<Self> {
        let der = crate::tls::first_certificate(root_pem)?;
        let cert = parse(&der)?;
        Ok(Self { subject_der: cert.subject().as_raw().to_vec(), public_key_der: cert.public_key().raw.to_vec() })
    }
}

/// Whether the certificate is for this key.
pub(crate) fn check_key_matches(der: &[u8], key: &KeyPair) -> Result<()> {
    let cert = parse(der)?;
    if cert.public_key().raw == key.subject_public_key_info() { Ok(()) } else { Err(IdentityError::Key) }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>> {
    let (_, cert) = x509_parser::parse_x509_certificate(der).map_err(|e| IdentityError::Certificate(e.to_string()))?;
    Ok(cert)
}

fn text<'a>(attribute: Option<&'a AttributeTypeAndValue<'a>>, what: &str) -> Result<&'a str> {
    let value = attribute.and_then(|a| a.as_str().ok()).filter(|text| !text.is_empty());
    value.ok_or_else(|| IdentityError::Certificate(format!("no {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CertificateAuthority;

    #[test]
    fn the_issuer_is_the_roots_name_and_key() {
        let authority = CertificateAuthority::create(Timestamp(1_800_000_000_000_000_000)).unwrap();
        let issuer = Issuer::of_root(authority.cert_pem()).unwrap();
        let has_name = issuer.subject_der.windows(8).any(|part| part == b"swarm-ca");
        assert!(has_name && !issuer.public_key_der.is_empty());
        assert!(Issuer::of_root("no certificate").is_err());
    }
}
