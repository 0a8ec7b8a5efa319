//! Whatever bytes come in: an error, never a panic.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use skep_identity::{
    CertStore, CertificateAuthority, CertificateRequest, Identity, Issuer, JoinToken, NodeSubject, Peer, RootDigest,
    StoredIdentity, UnlockKey, Vault, check_issued, check_root, read_answer,
};
use skep_model::Timestamp;
use skep_model::node::Role;
use std::sync::LazyLock;
use std::time::Duration;

const NOW: Timestamp = Timestamp(1_800_000_000_000_000_000);

static AUTHORITY: LazyLock<CertificateAuthority> = LazyLock::new(|| CertificateAuthority::create(NOW).unwrap());

fn sign(csr_pem: &str) -> bool {
    let subject = NodeSubject { node_id: "n".into(), role: Role::Worker, cluster_id: "c".into() };
    AUTHORITY.sign(csr_pem, &subject, NOW, Duration::from_secs(7200)).is_ok()
}

/// PEM around bytes that need not mean anything.
fn pem(label: &str, body: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(body);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

fn der_of(pem: &str) -> Vec<u8> {
    use base64::Engine;
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    base64::engine::general_purpose::STANDARD.decode(body).unwrap()
}

/// Every single byte of a root changed to a few others: found a panic in a library once.
#[test]
fn no_changed_byte_of_a_root_brings_anybody_down() {
    let root = der_of(AUTHORITY.cert_pem());
    for position in 0..root.len() {
        for change in [1, 0x20, 0x7f, 0x80, 0xff] {
            let mut der = root.clone();
            der[position] ^= change;
            let changed = pem("CERTIFICATE", &der);
            if let Ok(adopted) = CertificateAuthority::adopt(&changed, AUTHORITY.key_pem(), NOW) {
                let _ = AUTHORITY.cross_sign(&adopted, NOW);
            }
            if check_root(&changed, NOW).is_ok() {
                let _ = AUTHORITY.cross_sign_root(&changed, NOW);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn answers_of_an_external_ca_are_read_or_refused(body: Vec<u8>, chain in "\\PC{0,200}") {
        let quoted = serde_json::json!({"success": true, "result": {"certificate": chain}}).to_string();
        prop_assert_eq!(read_answer(quoted.as_bytes()).ok(), (!chain.is_empty()).then(|| chain.clone()));
        let _ = read_answer(&body);
        let request = CertificateRequest::create().unwrap();
        let subject = NodeSubject { node_id: "n".into(), role: Role::Worker, cluster_id: "c".into() };
        for chain in [chain, pem("CERTIFICATE", &body)] {
            prop_assert!(check_issued(&chain, request.pem(), &subject, AUTHORITY.cert_pem()).is_err());
        }
    }

    #[test]
    fn join_tokens_are_read_or_refused(text in "\\PC{0,120}") {
        if let Ok(token) = text.parse::<JoinToken>() {
            prop_assert_eq!(token.to_text(), text.trim());
        }
    }

    #[test]
    fn join_tokens_with_the_right_outline(digest in "[0-9a-z]{45,55}", secret in "[0-9a-zA-Z]{20,30}") {
        let text = format!("SWMTKN-1-{digest}-{secret}");
        let well_formed = digest.len() == 50 && secret.len() == 25 && !secret.bytes().any(|b| b.is_ascii_uppercase());
        prop_assert_eq!(text.parse::<JoinToken>().is_ok(), well_formed);
    }

    #[test]
    fn unlock_keys_are_read_or_refused(text in "(SWMKEY-1-)?[A-Za-z0-9+/=\\-]{0,60}") {
        if let Ok(key) = text.parse::<UnlockKey>() {
            prop_assert_eq!(key.to_text(), text);
        }
    }

    #[test]
    fn requests_of_any_bytes_are_refused(body in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(!sign(&pem("CERTIFICATE REQUEST", &body)));
        prop_assert!(!sign(&String::from_utf8_lossy(&body)));
    }

    #[test]
    fn a_request_with_changed_bytes_is_refused(position in 0usize..1000, change in 1u8..=255) {
        static REQUEST: LazyLock<Vec<u8>> = LazyLock::new(|| der_of(CertificateRequest::create().unwrap().pem()));
        let mut der = REQUEST.clone();
        let position = position % der.len();
        der[position] ^= change;
        // Nothing of a request is used but its key, which its own signature covers.
        sign(&pem("CERTIFICATE REQUEST", &der));
    }

    #[test]
    fn certificates_of_any_bytes_are_refused(body in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Peer::from_der(&body).is_err());
        let text = pem("CERTIFICATE", &body);
        prop_assert!(Issuer::of_root(&text).is_err());
        prop_assert!(CertificateAuthority::adopt(&text, AUTHORITY.key_pem(), NOW).is_err());
        // A digest is of bytes, whatever they are.
        let _ = RootDigest::of_pem(&text);
        let parts = StoredIdentity { root_pem: text.clone(), chain_pem: text, key_pem: AUTHORITY.key_pem().to_owned().into() };
        prop_assert!(Identity::new(&parts).is_err());
    }

    #[test]
    fn files_of_any_bytes_are_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let dir = tempfile::tempdir().unwrap();
        for name in ["swarm-root-ca.crt", "swarm-node.crt", "swarm-node.key", "data.key"] {
            std::fs::write(dir.path().join(name), &body).unwrap();
        }
        let vault = Vault::new(dir.path().join("data.key"));
        prop_assert!(CertStore::with_vault(dir.path(), vault.clone()).load().is_err());
        prop_assert_eq!(vault.data_key().is_ok(), body.len() == 32);
    }
}
