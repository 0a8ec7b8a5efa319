//! Who am I, whom do I trust: the swarm's certificate authority, node certificates and
//! their renewal, join tokens, the files that hold them, and the TLS both sides speak.
//!
//! Owns no task and no channel but the change signal of [`Identity`]. Knows nothing of
//! Raft, gRPC services or the store. Never logs a key or a token.

mod authority;
mod csr;
mod error;
mod external;
mod identity;
pub mod net;
mod passphrase;
mod peer;
mod renew;
mod store;
mod tls;
mod token;
mod unlock_key;
mod vault;

pub use authority::{
    CertificateAuthority, NODE_CERT_VALIDITY_DEFAULT, NODE_CERT_VALIDITY_MIN, NodeSubject, check_root,
};
pub use csr::CertificateRequest;
pub use error::IdentityError;
pub use external::{ANSWER_BYTES_MAX, check_issued, read_answer, sign_request};
pub use identity::Identity;
pub use passphrase::key_of_passphrase;
pub use peer::{Issuer, Peer, Validity, certificate_validity, chain_validity, public_key_digest};
pub use renew::{renew_at, renew_in};
pub use store::{CertStore, StoredIdentity};
pub use tls::{SERVER_NAME, connect_for_join, https_config, innermost_text};
pub use token::{JoinToken, RootDigest};
pub use unlock_key::UnlockKey;
pub use vault::{Vault, open_sealed, seal};
