//! The swarm's root certificate and what it signs.

use crate::csr::parse_request;
use crate::error::{IdentityError, Result};
use crate::token::RootDigest;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SubjectPublicKeyInfo,
};
use skep_model::Timestamp;
use skep_model::id::{ClusterId, NodeId};
use skep_model::node::Role;
use std::fmt;
use std::time::Duration;
use zeroize::Zeroizing;

/// Common name of the root, and a name every manager's certificate carries.
pub(crate) const ROOT_NAME: &str = "swarm-ca";
const ROOT_VALIDITY: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// How long a node's certificate lives unless the swarm says otherwise.
pub const NODE_CERT_VALIDITY_DEFAULT: Duration = Duration::from_secs(90 * 24 * 3600);
/// No certificate is made for a shorter life: its owner could not renew in time.
pub const NODE_CERT_VALIDITY_MIN: Duration = Duration::from_secs(3600);
/// A root given by a user must hold for so long.
const USER_ROOT_VALIDITY_MIN: Duration = Duration::from_secs(365 * 24 * 3600);
/// Nodes' clocks may be this far behind the signer's.
const BACKDATE: Duration = Duration::from_secs(3600);

/// Whom a certificate names. Decided by the signer, never taken from a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSubject {
    pub node_id: NodeId,
    pub role: Role,
    pub cluster_id: ClusterId,
}

impl NodeSubject {
    /// Host names that the certificate holds for.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names = vec![self.role.certificate_unit().to_owned(), self.node_id.0.clone()];
        if self.role == Role::Manager {
            names.push(ROOT_NAME.to_owned());
        }
        names
    }
}

/// The root certificate with its key. Only managers hold one.
pub struct CertificateAuthority {
    cert_pem: String,
    key_pem: Zeroizing<String>,
    issuer: Issuer<'static, KeyPair>,
}

impl CertificateAuthority {
    /// Makes a new root: ECDSA P-256, 20 years.
    ///
    /// # Errors
    /// When the random source fails.
    pub fn create(now: Timestamp) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, ROOT_NAME);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, now, ROOT_VALIDITY);
        let cert_pem = params.self_signed(&key)?.pem();
        let key_pem = Zeroizing::new(key.serialize_pem());
        Ok(Self { cert_pem, key_pem, issuer: Issuer::new(params, key) })
    }

    /// A stored root.
    ///
    /// # Errors
    /// When either PEM is malformed or the key is not the certificate's.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self> {
        let key = KeyPair::from_pem(key_pem).map_err(|_| IdentityError::Key)?;
        let der = crate::tls::first_certificate(cert_pem)?;
        crate::peer::check_key_matches(&der, &key)?;
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        Ok(Self { cert_pem: cert_pem.to_owned(), key_pem: Zeroizing::new(key_pem.to_owned()), issuer })
    }

    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// PKCS#8. To be stored among managers only.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// What join tokens pin.
    ///
    /// # Errors
    /// When the root's PEM is malformed.
    pub fn digest(&self) -> Result<RootDigest> {
        RootDigest::of_pem(&self.cert_pem)
    }

    /// A root that a user made elsewhere, to become the swarm's.
    ///
    /// # Errors
    /// When a part is malformed, they do not belong together, it is no CA, or it holds for
    /// less than a year from now.
    pub fn adopt(cert_pem: &str, key_pem: &str, now: Timestamp) -> Result<Self> {
        check_root(cert_pem, now)?;
        Self::from_pem(cert_pem, key_pem)
    }

    /// Certifies the name and key of `new`, so that who trusts this root trusts what `new` signs.
    ///
    /// # Errors
    /// When the new root's name cannot be copied.
    pub fn cross_sign(&self, new: &Self, now: Timestamp) -> Result<String> {
        let cross_signed = self.cross_sign_root(&new.cert_pem, now)?;
        new.check_cross_signed(&cross_signed, &self.cert_pem, now)?;
        Ok(cross_signed)
    }

    /// The same for a root whose key is not here.
    ///
    /// # Errors
    /// When the new root's name or key cannot be copied.
    pub fn cross_sign_root(&self, cert_pem: &str, now: Timestamp) -> Result<String> {
        let der = crate::tls::first_certificate(cert_pem)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = crate::peer::subject_of(&der)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now, ROOT_VALIDITY);
        let key = SubjectPublicKeyInfo::from_der(&crate::peer::public_key_of(&der)?)?;
        Ok(params.signed_by(&key, &self.issuer)?.pem())
    }

    /// Signs for nobody and looks whether the old root's followers would take it.
    fn check_cross_signed(&self, cross_signed_pem: &str, old_root_pem: &str, now: Timestamp) -> Result<()> {
        let request = crate::CertificateRequest::create()?;
        let subject = NodeSubject { node_id: "nobody".into(), role: Role::Worker, cluster_id: "none".into() };
        let leaf = self.sign(request.pem(), &subject, now, NODE_CERT_VALIDITY_MIN)?;
        crate::tls::check_trusted(&format!("{leaf}{cross_signed_pem}"), old_root_pem)
    }

    /// Signs a request, overriding its subject, names and usages. Answers the PEM chain
    /// (leaf only: the root itself is the issuer).
    ///
    /// # Errors
    /// When the request is malformed or not signed by its own key.
    pub fn sign(&self, csr_pem: &str, subject: &NodeSubject, now: Timestamp, validity: Duration) -> Result<String> {
        let mut request = parse_request(csr_pem)?;
        request.params = node_params(subject, now, validity)?;
        Ok(request.signed_by(&self.issuer)?.pem())
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CertificateAuthority { .. }")
    }
}

/// Whether a root that a user made elsewhere may become the swarm's.
///
/// # Errors
/// When it is malformed, no CA, not alone, or holds for less than a year from now.
pub fn check_root(cert_pem: &str, now: Timestamp) -> Result<()> {
    if crate::tls::certificates(cert_pem)?.len() != 1 {
        return Err(IdentityError::Root("it must be a single certificate".into()));
    }
    crate::peer::check_root(&crate::tls::first_certificate(cert_pem)?, now.plus(USER_ROOT_VALIDITY_MIN))
}

fn node_params(subject: &NodeSubject, now: Timestamp, validity: Duration) -> Result<CertificateParams> {
    let unit = subject.role.certificate_unit();
    let mut params = CertificateParams::new(subject.names())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, subject.cluster_id.as_str());
    params.distinguished_name.push(DnType::OrganizationalUnitName, unit);
    params.distinguished_name.push(DnType::CommonName, subject.node_id.as_str());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, now, validity.max(NODE_CERT_VALIDITY_MIN));
    Ok(params)
}

/// X.509 times have whole seconds.
fn set_validity(params: &mut CertificateParams, now: Timestamp, validity: Duration) {
    let now_secs = u64::try_from(now.as_secs()).unwrap_or(0);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now_secs.saturating_sub(BACKDATE.as_secs()));
    params.not_after = epoch + Duration::from_secs(now_secs) + Duration::from_secs(validity.as_secs());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CertificateRequest, Peer, certificate_validity};

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000_000);

    fn subject(role: Role) -> NodeSubject {
        NodeSubject { node_id: "node1".into(), role, cluster_id: "cluster1".into() }
    }

    fn signed(role: Role) -> (CertificateAuthority, String) {
        let authority = CertificateAuthority::create(NOW).unwrap();
        let request = CertificateRequest::create().unwrap();
        let pem = authority.sign(request.pem(), &subject(role), NOW, NODE_CERT_VALIDITY_DEFAULT).unwrap();
        (authority, pem)
    }

    fn names_of(pem: &str) -> Vec<String> {
        let der = crate::tls::first_certificate(pem).unwrap();
        let (_, cert) = x509_parser::parse_x509_certificate(&der).unwrap();
        let names = cert.subject_alternative_name().unwrap().unwrap().value.general_names.iter();
        names.map(|name| name.to_string().trim_start_matches("DNSName(").trim_end_matches(')').to_owned()).collect()
    }

    #[test]
    fn the_subject_is_the_signers_decision() {
        let (_, pem) = signed(Role::Worker);
        let der = crate::tls::first_certificate(&pem).unwrap();
        let peer = Peer::from_der(&der).unwrap();
        assert_eq!(peer, Peer { node_id: "node1".into(), role: Role::Worker, cluster_id: "cluster1".into() });
        assert_eq!(names_of(&pem), ["swarm-worker", "node1"]);
        assert_eq!(names_of(&signed(Role::Manager).1), ["swarm-manager", "node1", "swarm-ca"]);
    }

    #[test]
    fn certificates_start_an_hour_early_and_live_90_days() {
        let (_, pem) = signed(Role::Worker);
        let validity = certificate_validity(&crate::tls::first_certificate(&pem).unwrap()).unwrap();
        assert_eq!(NOW.as_secs() - validity.not_before.as_secs(), 3600);
        assert_eq!(validity.not_after.as_secs() - NOW.as_secs(), 90 * 24 * 3600);
    }

    #[test]
    fn a_stored_authority_signs_like_the_first() {
        let (authority, _) = signed(Role::Worker);
        let again = CertificateAuthority::from_pem(authority.cert_pem(), authority.key_pem()).unwrap();
        assert_eq!(again.digest().unwrap(), authority.digest().unwrap());
        let request = CertificateRequest::create().unwrap();
        again.sign(request.pem(), &subject(Role::Manager), NOW, NODE_CERT_VALIDITY_DEFAULT).unwrap();
        let other = CertificateAuthority::create(NOW).unwrap();
        assert!(CertificateAuthority::from_pem(authority.cert_pem(), other.key_pem()).is_err());
    }

    #[test]
    fn malformed_requests_are_refused() {
        let (authority, _) = signed(Role::Worker);
        for text in ["", "garbage", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"] {
            let result = authority.sign(text, &subject(Role::Worker), NOW, NODE_CERT_VALIDITY_DEFAULT);
            assert!(matches!(result, Err(IdentityError::Request(_))), "{text}");
        }
    }

    #[test]
    fn what_a_cross_signed_root_signs_is_trusted_by_followers_of_either() {
        let (old, new) = (CertificateAuthority::create(NOW).unwrap(), CertificateAuthority::create(NOW).unwrap());
        let cross_signed = old.cross_sign(&new, NOW).unwrap();
        let request = CertificateRequest::create().unwrap();
        let leaf = new.sign(request.pem(), &subject(Role::Worker), NOW, NODE_CERT_VALIDITY_DEFAULT).unwrap();
        let chain = format!("{leaf}{cross_signed}");
        crate::tls::check_trusted(&chain, old.cert_pem()).unwrap();
        crate::tls::check_trusted(&chain, new.cert_pem()).unwrap();
        assert!(crate::tls::check_trusted(&leaf, old.cert_pem()).is_err());
        let third = CertificateAuthority::create(NOW).unwrap();
        assert!(crate::tls::check_trusted(&chain, third.cert_pem()).is_err());

        // All roots have the same name: the key tells who signed.
        let bundle = format!("{}{}", old.cert_pem(), new.cert_pem());
        let by_new = crate::Issuer::of_root(new.cert_pem()).unwrap();
        assert_eq!(crate::Issuer::of_chain(&leaf, &bundle).unwrap(), by_new);
        assert_eq!(crate::Issuer::of_chain(&chain, old.cert_pem()).unwrap(), by_new);
        assert!(crate::Issuer::of_chain(&leaf, old.cert_pem()).is_err());
    }

    fn user_root(change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CountryName, "CH");
        params.distinguished_name.push(DnType::OrganizationName, "Example Ltd");
        params.distinguished_name.push(DnType::CommonName, "Example Root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        set_validity(&mut params, NOW, ROOT_VALIDITY);
        change(&mut params);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_root_of_the_users_own_is_taken_when_it_is_one() {
        let (cert, key) = user_root(|_| {});
        let adopted = CertificateAuthority::adopt(&cert, &key, NOW).unwrap();
        CertificateAuthority::create(NOW).unwrap().cross_sign(&adopted, NOW).unwrap();
        let check = |cert: &str, key: &str, expect: &str| {
            let error = CertificateAuthority::adopt(cert, key, NOW).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        check("garbage", &key, "no certificate in the PEM text");
        check(&cert, "garbage", "invalid private key");
        check(&cert, &user_root(|_| {}).1, "invalid private key");
        check(&format!("{cert}{cert}"), &key, "it must be a single certificate");
        let (leaf, leaf_key) = user_root(|params| params.is_ca = IsCa::ExplicitNoCa);
        check(&leaf, &leaf_key, "it is not a CA certificate");
        let (short, short_key) = user_root(|params| set_validity(params, NOW, Duration::from_secs(30 * 24 * 3600)));
        check(&short, &short_key, "it expires too soon");
    }
}
