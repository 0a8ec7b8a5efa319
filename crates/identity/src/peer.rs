//! What a certificate says about its owner.

use crate::error::{IdentityError, Result};
use rcgen::{DistinguishedName, DnType, DnValue, KeyPair, PublicKeyData};
use sha2::{Digest, Sha256};
use skep_model::Timestamp;
use skep_model::id::{ClusterId, NodeId};
use skep_model::node::Role;
use x509_parser::prelude::{GeneralName, X509Certificate};
use x509_parser::x509::AttributeTypeAndValue;

/// ASN.1 tags of the string types that names are made of.
const TAG_UTF8: u32 = 12;
const TAG_PRINTABLE: u32 = 19;
const TAG_IA5: u32 = 22;

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

/// Reads the life span of the first certificate of a chain.
///
/// # Errors
/// When there is none or it is malformed.
pub fn chain_validity(chain_pem: &str) -> Result<Validity> {
    certificate_validity(&crate::tls::first_certificate(chain_pem)?)
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
    /// Who signed the first certificate of a chain: the next one, or one of the roots.
    ///
    /// # Errors
    /// When a part is malformed or the signer is not among them.
    pub fn of_chain(chain_pem: &str, root_pem: &str) -> Result<Self> {
        let chain = crate::tls::certificates(chain_pem)?;
        let Some((leaf, rest)) = chain.split_first() else { return Err(IdentityError::Key) };
        let candidates = [rest, &crate::tls::certificates(root_pem)?].concat();
        let signer = crate::tls::signer_of(leaf, &candidates)
            .ok_or_else(|| IdentityError::Certificate("nothing here signed it".into()))?;
        Self::of_der(signer)
    }

    /// Reads the first certificate of a root bundle.
    ///
    /// # Errors
    /// When there is none or it is malformed.
    pub fn of_root(root_pem: &str) -> Result<Self> {
        Self::of_der(&crate::tls::first_certificate(root_pem)?)
    }

    fn of_der(der: &[u8]) -> Result<Self> {
        let cert = parse(der)?;
        Ok(Self { subject_der: cert.subject().as_raw().to_vec(), public_key_der: cert.public_key().raw.to_vec() })
    }
}

/// Whether a certificate may become the swarm's root, and holds until `until` at least.
pub(crate) fn check_root(der: &[u8], until: Timestamp) -> Result<()> {
    let cert = parse(der)?;
    let is_ca = cert.basic_constraints().ok().flatten().is_some_and(|constraints| constraints.value.ca);
    if !is_ca {
        return Err(IdentityError::Root("it is not a CA certificate".into()));
    }
    subject_of(der)?;
    if certificate_validity(der)?.not_after < until {
        return Err(IdentityError::Root("it expires too soon: it must be valid for at least one year".into()));
    }
    Ok(())
}

/// The subject of a certificate, to be put into another one byte for byte.
pub(crate) fn subject_of(der: &[u8]) -> Result<DistinguishedName> {
    let unsupported = || IdentityError::Root("its subject has an attribute of an unsupported kind".into());
    let cert = parse(der)?;
    let mut name = DistinguishedName::new();
    for attribute in cert.subject().iter_attributes() {
        let oid: Vec<u64> = attribute.attr_type().iter().ok_or_else(unsupported)?.collect();
        // Others cannot be written, and the writer panics at them.
        if !matches!(oid[..], [0 | 1, 0..40, ..] | [2, _, ..]) {
            return Err(unsupported());
        }
        let value = attribute.as_str().map_err(|_| unsupported())?;
        let value = match attribute.attr_value().tag().0 {
            TAG_UTF8 => DnValue::Utf8String(value.to_owned()),
            TAG_PRINTABLE => DnValue::PrintableString(value.try_into().map_err(|_| unsupported())?),
            TAG_IA5 => DnValue::Ia5String(value.try_into().map_err(|_| unsupported())?),
            _ => return Err(unsupported()),
        };
        name.push(DnType::from_oid(&oid), value);
    }
    Ok(name)
}

/// SHA-256 of the public key of a certificate, in hex.
///
/// # Errors
/// When the certificate is malformed.
pub fn public_key_digest(chain_pem: &str) -> Result<String> {
    let der = crate::tls::first_certificate(chain_pem)?;
    Ok(hex::encode(Sha256::digest(parse(&der)?.public_key().raw)))
}

/// SubjectPublicKeyInfo of a certificate, in DER.
pub(crate) fn public_key_of(der: &[u8]) -> Result<Vec<u8>> {
    Ok(parse(der)?.public_key().raw.to_vec())
}

/// Host names that a certificate holds for.
pub(crate) fn names_of(der: &[u8]) -> Result<Vec<String>> {
    let cert = parse(der)?;
    let malformed = |e: x509_parser::error::X509Error| IdentityError::Certificate(e.to_string());
    let names = cert.subject_alternative_name().map_err(malformed)?;
    let names = names.into_iter().flat_map(|names| &names.value.general_names);
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    Ok(names.collect())
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
