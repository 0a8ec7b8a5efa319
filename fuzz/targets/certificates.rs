//! Join tokens, unlock keys, certificate requests and roots.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skep_identity::{CertificateAuthority, JoinToken, NodeSubject, UnlockKey};
use skep_model::Timestamp;
use skep_model::node::Role;
use std::sync::LazyLock;
use std::time::Duration;

const NOW: Timestamp = Timestamp(1_800_000_000_000_000_000);

static AUTHORITY: LazyLock<CertificateAuthority> =
    LazyLock::new(|| CertificateAuthority::create(NOW).expect("a new authority"));

fuzz_target!(|text: &str| {
    if let Ok(token) = text.parse::<JoinToken>() {
        assert_eq!(token.to_text(), text.trim());
    }
    if let Ok(key) = text.parse::<UnlockKey>() {
        assert_eq!(key.to_text(), text);
    }
    let subject = NodeSubject { node_id: "n".into(), role: Role::Worker, cluster_id: "c".into() };
    let _ = AUTHORITY.sign(text, &subject, NOW, Duration::from_secs(7200));
    let _ = CertificateAuthority::adopt(text, AUTHORITY.key_pem(), NOW);
});
