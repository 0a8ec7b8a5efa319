//! Join tokens: `SWMTKN-1-<digest of the root>-<secret>`. The digest lets a new node
//! recognise its swarm, the secret lets the swarm recognise the node.

use crate::error::{IdentityError, Result};
use ring::rand::{SecureRandom, SystemRandom};
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

const PREFIX: &str = "SWMTKN";
const VERSION: &str = "1";
/// Digits of a SHA-256 in base 36.
const DIGEST_LENGTH: usize = 50;
/// Digits of 128 bits in base 36.
const SECRET_LENGTH: usize = 25;
const SECRET_BYTES: usize = 16;

/// Names a root certificate: base 36 of the SHA-256 of its DER form.
#[derive(Clone, PartialEq, Eq)]
pub struct RootDigest(String);

impl RootDigest {
    /// Digest of the first certificate in a PEM bundle.
    ///
    /// # Errors
    /// When there is none.
    pub fn of_pem(pem: &str) -> Result<Self> {
        Ok(Self::of_der(&crate::tls::first_certificate(pem)?))
    }

    pub(crate) fn of_der(der: &CertificateDer<'_>) -> Self {
        Self(base36(Sha256::digest(der.as_ref()).as_ref(), DIGEST_LENGTH))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RootDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A parsed or fresh join token.
#[derive(Clone)]
pub struct JoinToken {
    digest: RootDigest,
    secret: String,
}

impl JoinToken {
    /// A token with a fresh secret.
    ///
    /// # Errors
    /// When the random source fails.
    pub fn create(digest: RootDigest) -> Result<Self> {
        let mut secret = [0u8; SECRET_BYTES];
        SystemRandom::new().fill(&mut secret).map_err(|_| IdentityError::Token("no randomness"))?;
        Ok(Self { digest, secret: base36(&secret, SECRET_LENGTH) })
    }

    pub fn digest(&self) -> &RootDigest {
        &self.digest
    }

    /// Whether this is the token `expected`, in a time that does not depend on where they differ.
    pub fn matches(&self, expected: &str) -> bool {
        constant_time_eq(self.to_text().as_bytes(), expected.as_bytes())
    }

    /// The token as text. A secret: not to be logged.
    pub fn to_text(&self) -> String {
        format!("{PREFIX}-{VERSION}-{}-{}", self.digest.0, self.secret)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl FromStr for JoinToken {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.trim().split('-').collect();
        let [prefix, version, digest, secret] = parts[..] else {
            return Err(IdentityError::Token("it must have four parts joined by dashes"));
        };
        if prefix != PREFIX {
            return Err(IdentityError::Token("it must start with SWMTKN"));
        }
        if version != VERSION {
            return Err(IdentityError::Token("its version is not supported"));
        }
        if digest.len() != DIGEST_LENGTH || !is_base36(digest) {
            return Err(IdentityError::Token("its certificate digest is malformed"));
        }
        if secret.len() != SECRET_LENGTH || !is_base36(secret) {
            return Err(IdentityError::Token("its secret is malformed"));
        }
        Ok(Self { digest: RootDigest(digest.to_owned()), secret: secret.to_owned() })
    }
}

fn is_base36(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
}

/// `bytes` as one big-endian number in base 36, zero padded.
fn base36(bytes: &[u8], width: usize) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut number = bytes.to_vec();
    let mut digits = vec![0u8; width];
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0u32;
        for byte in &mut number {
            let value = remainder * 256 + u32::from(*byte);
            *byte = (value / 36) as u8;
            remainder = value % 36;
        }
        *digit = DIGITS[remainder as usize];
    }
    digits.into_iter().map(char::from).collect()
}

fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0u8, |difference, (x, y)| difference | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CertificateAuthority;
    use skep_model::Timestamp;

    fn fresh() -> JoinToken {
        let authority = CertificateAuthority::create(Timestamp(1_800_000_000_000_000_000)).unwrap();
        JoinToken::create(authority.digest().unwrap()).unwrap()
    }

    #[test]
    fn a_token_survives_its_text_form() {
        let token = fresh();
        let text = token.to_text();
        assert_eq!(text.len(), "SWMTKN-1-".len() + 50 + 1 + 25);
        let parsed: JoinToken = text.parse().unwrap();
        assert_eq!(parsed.digest(), token.digest());
        assert!(parsed.matches(&text));
        assert!(!fresh().matches(&text));
    }

    #[test]
    fn base36_agrees_with_the_ids_of_the_model() {
        for value in [0u128, 35, 36, 1 << 64, u128::MAX] {
            assert_eq!(base36(&value.to_be_bytes(), 25), skep_model::id::base36(value, 25));
        }
        assert_eq!(base36(&[0xff; 32], 50).len(), 50);
    }

    #[test]
    fn malformed_tokens_say_what_is_wrong() {
        let digest = "0".repeat(50);
        let secret = "1".repeat(25);
        let check = |text: String, expect: &str| {
            let error = text.parse::<JoinToken>().unwrap_err().to_string();
            assert_eq!(error, format!("invalid join token: {expect}"), "{text}");
        };
        check(String::new(), "it must have four parts joined by dashes");
        check(format!("SWMKEY-1-{digest}-{secret}"), "it must start with SWMTKN");
        check(format!("SWMTKN-9-{digest}-{secret}"), "its version is not supported");
        check(format!("SWMTKN-1-{}-{secret}", "0".repeat(49)), "its certificate digest is malformed");
        check(format!("SWMTKN-1-{digest}-{}", "A".repeat(25)), "its secret is malformed");
    }

    #[test]
    fn debug_hides_the_secret() {
        let token = fresh();
        assert!(!format!("{token:?}").contains(&token.secret));
    }
}
