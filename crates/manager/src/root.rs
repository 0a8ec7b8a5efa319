//! A root certificate that is to be the swarm's: made here, or the user's own.

use skep_identity::{CertificateAuthority, RootDigest, check_root};
use skep_model::{Error, Result, Timestamp};

pub(crate) enum Root {
    Here(Box<CertificateAuthority>),
    /// External CAs have the key.
    Outside(String),
}

impl Root {
    pub(crate) fn fresh(now: Timestamp) -> Result<Self> {
        Ok(Self::Here(Box::new(CertificateAuthority::create(now)?)))
    }

    /// The user's own, with its key or `signed_outside`.
    ///
    /// # Errors
    /// It is unusable, or nobody could sign for it.
    pub(crate) fn given(cert_pem: &str, key_pem: &str, signed_outside: bool, now: Timestamp) -> Result<Self> {
        if !key_pem.is_empty() {
            return Ok(Self::Here(Box::new(CertificateAuthority::adopt(cert_pem, key_pem, now)?)));
        }
        if !signed_outside {
            return Err(Error::invalid("a signing CA key must be given together with the signing CA certificate"));
        }
        check_root(cert_pem, now)?;
        Ok(Self::Outside(cert_pem.to_owned()))
    }

    pub(crate) fn cert_pem(&self) -> &str {
        match self {
            Self::Here(authority) => authority.cert_pem(),
            Self::Outside(cert_pem) => cert_pem,
        }
    }

    /// Empty if it is not here.
    pub(crate) fn key_pem(&self) -> &str {
        match self {
            Self::Here(authority) => authority.key_pem(),
            Self::Outside(_) => "",
        }
    }

    pub(crate) fn digest(&self) -> Result<String> {
        Ok(RootDigest::of_pem(self.cert_pem())?.as_str().to_owned())
    }
}

/// A key without a certificate is none of anything.
pub(crate) fn stray_key() -> Error {
    Error::invalid("a signing CA key was given without its certificate")
}
