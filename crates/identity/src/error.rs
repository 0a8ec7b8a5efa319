//! What can go wrong with certificates, keys, tokens and connections.

use std::path::PathBuf;

/// An identity could not be made, read, checked or used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("invalid join token: {0}")]
    Token(&'static str),
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("invalid certificate: {0}")]
    Certificate(String),
    #[error("invalid certificate request: {0}")]
    Request(String),
    #[error("invalid private key")]
    Key,
    #[error("unusable root certificate: {0}")]
    Root(String),
    #[error("invalid key string")]
    UnlockKey,
    #[error("the unlock key is not the one that this node is locked with")]
    WrongUnlockKey,
    #[error("this node's keys are locked")]
    Locked,
    #[error("the file is damaged")]
    Damaged,
    #[error("cannot encrypt")]
    Encrypt,
    #[error("certificate is for node {found}, not for {expected}")]
    OtherNode { expected: String, found: String },
    #[error("the external CA: {0}")]
    External(String),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("invalid address {0:?}")]
    Address(String),
    #[error("cannot connect to {address}: {reason}")]
    Connect { address: String, reason: String },
}

impl From<IdentityError> for skep_model::Error {
    fn from(error: IdentityError) -> Self {
        let text = error.to_string();
        match error {
            IdentityError::Token(_)
            | IdentityError::Request(_)
            | IdentityError::Address(_)
            | IdentityError::Root(_)
            | IdentityError::UnlockKey => Self::invalid(text),
            IdentityError::WrongUnlockKey => Self::unauthenticated(text),
            IdentityError::Connect { .. } | IdentityError::External(_) | IdentityError::Locked => {
                Self::unavailable(text)
            }
            IdentityError::Make(_)
            | IdentityError::Certificate(_)
            | IdentityError::Key
            | IdentityError::Damaged
            | IdentityError::Encrypt
            | IdentityError::OtherNode { .. }
            | IdentityError::Tls(_)
            | IdentityError::File { .. } => Self::internal(text),
        }
    }
}

/// Result of this crate.
pub(crate) type Result<T, E = IdentityError> = std::result::Result<T, E>;
