//! Certificate requests: made by a node, read by the signer.

use crate::error::{IdentityError, Result};
use rcgen::{CertificateParams, CertificateSigningRequestParams, DnType, KeyPair};
use std::fmt;
use zeroize::Zeroizing;

/// Longest request taken from a node.
const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// A fresh key and the request to certify it. The key never leaves the node.
pub struct CertificateRequest {
    pem: String,
    key_pem: Zeroizing<String>,
}

impl CertificateRequest {
    /// Makes an ECDSA P-256 key and a request with an empty identity: the signer fills it in.
    ///
    /// # Errors
    /// When the random source fails.
    pub fn create() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "swarm-node");
        let pem = params.serialize_request(&key)?.pem()?;
        Ok(Self { pem, key_pem: Zeroizing::new(key.serialize_pem()) })
    }

    /// To be sent to a manager.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// PKCS#8, to be stored beside the certificate.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }
}

impl fmt::Debug for CertificateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CertificateRequest { .. }")
    }
}

/// Parses a request and checks that it is signed by the key it names.
pub(crate) fn parse_request(pem: &str) -> Result<CertificateSigningRequestParams> {
    if pem.len() > REQUEST_BYTES_MAX {
        return Err(IdentityError::Request(format!("longer than {REQUEST_BYTES_MAX} bytes")));
    }
    CertificateSigningRequestParams::from_pem(pem).map_err(|e| IdentityError::Request(e.to_string()))
}
