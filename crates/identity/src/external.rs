//! What is asked of a CA outside of the swarm, and what is taken of its answer: the `sign` call
//! of CFSSL's HTTP API. Bytes in, bytes out; the request is made elsewhere.

use crate::authority::NodeSubject;
use crate::csr::parse_request;
use crate::error::{IdentityError, Result};
use crate::peer::{Peer, names_of, public_key_of};
use rcgen::PublicKeyData;
use serde::{Deserialize, Serialize};

/// Longest answer that is read.
pub const ANSWER_BYTES_MAX: usize = 256 * 1024;

#[derive(Serialize)]
struct SignRequest<'a> {
    hosts: Vec<String>,
    certificate_request: &'a str,
    subject: Subject<'a>,
}

#[derive(Serialize)]
struct Subject<'a> {
    #[serde(rename = "CN")]
    common_name: &'a str,
    names: [Name<'a>; 1],
}

#[derive(Serialize)]
struct Name<'a> {
    #[serde(rename = "O")]
    organization: &'a str,
    #[serde(rename = "OU")]
    unit: &'a str,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Answer {
    success: bool,
    result: Option<Signed>,
    errors: Vec<Message>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Signed {
    certificate: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Message {
    code: i64,
    message: String,
}

/// The body (JSON) that asks for a node's certificate.
pub fn sign_request(csr_pem: &str, subject: &NodeSubject) -> Vec<u8> {
    let request = SignRequest {
        hosts: subject.names(),
        certificate_request: csr_pem,
        subject: Subject {
            common_name: subject.node_id.as_str(),
            names: [Name { organization: subject.cluster_id.as_str(), unit: subject.role.certificate_unit() }],
        },
    };
    serde_json::to_vec(&request).expect("texts always serialise to memory")
}

/// The certificate chain (PEM) in an answer.
///
/// # Errors
/// The answer is malformed, or says why there is none.
pub fn read_answer(body: &[u8]) -> Result<String> {
    let refused = |reason: String| Err(IdentityError::External(reason));
    let answer: Answer = match serde_json::from_slice(body) {
        Ok(answer) => answer,
        Err(error) => return refused(format!("its answer is malformed: {error}")),
    };
    match answer.result {
        Some(signed) if answer.success && !signed.certificate.is_empty() => Ok(signed.certificate),
        _ => match answer.errors.first() {
            Some(Message { code, message }) => refused(format!("it refused: {message} (code {code})")),
            None => refused("it answered without a certificate".into()),
        },
    }
}

/// Whether a chain that came from outside is what was asked for: the key of the request, the
/// subject and its names, and a signature that those take who trust `root_pem`.
///
/// # Errors
/// It is not, and why.
pub fn check_issued(chain_pem: &str, csr_pem: &str, subject: &NodeSubject, root_pem: &str) -> Result<()> {
    let refused = |reason: &str| Err(IdentityError::External(reason.into()));
    let leaf = crate::tls::first_certificate(chain_pem)?;
    if public_key_of(&leaf)? != parse_request(csr_pem)?.public_key.subject_public_key_info() {
        return refused("its certificate is for another key");
    }
    let NodeSubject { node_id, role, cluster_id } = subject.clone();
    if Peer::from_der(&leaf)? != (Peer { node_id, role, cluster_id }) {
        return refused("its certificate is for another subject");
    }
    let named = names_of(&leaf)?;
    if let Some(missing) = subject.names().iter().find(|name| !named.contains(name)) {
        return refused(&format!("its certificate does not hold for the name {missing}"));
    }
    crate::tls::check_trusted(chain_pem, root_pem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CertificateAuthority, CertificateRequest, NODE_CERT_VALIDITY_DEFAULT};
    use skep_model::Timestamp;
    use skep_model::node::Role;

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000_000);

    fn subject(node: &str, role: Role) -> NodeSubject {
        NodeSubject { node_id: node.into(), role, cluster_id: "c".into() }
    }

    #[test]
    fn asks_as_cfssl_wants_it() {
        let body = sign_request("CSR", &subject("n1", Role::Manager));
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let wanted = serde_json::json!({
            "hosts": ["swarm-manager", "n1", "swarm-ca"],
            "certificate_request": "CSR",
            "subject": {"CN": "n1", "names": [{"O": "c", "OU": "swarm-manager"}]}
        });
        assert_eq!(body, wanted);
    }

    #[test]
    fn answers_are_taken_or_say_why_not() {
        let good = br#"{"success":true,"result":{"certificate":"PEM"},"errors":[],"messages":[]}"#;
        assert_eq!(read_answer(good).unwrap(), "PEM");
        let check = |body: &[u8], expect: &str| {
            let error = read_answer(body).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        check(b"<html>", "its answer is malformed");
        check(br#"{"success":false,"errors":[{"code":5300,"message":"policy"}]}"#, "it refused: policy (code 5300)");
        check(br#"{"success":true,"result":null}"#, "without a certificate");
        check(br#"{"success":false,"result":{"certificate":"PEM"}}"#, "without a certificate");
    }

    #[test]
    fn only_what_was_asked_for_is_taken() {
        let (root, other) = (CertificateAuthority::create(NOW).unwrap(), CertificateAuthority::create(NOW).unwrap());
        let (request, stranger) = (CertificateRequest::create().unwrap(), CertificateRequest::create().unwrap());
        let check = |by: &CertificateAuthority, csr: &str, named: NodeSubject, expect: &str| {
            let chain = by.sign(csr, &named, NOW, NODE_CERT_VALIDITY_DEFAULT).unwrap();
            let checked = check_issued(&chain, request.pem(), &subject("n1", Role::Worker), root.cert_pem());
            let got = checked.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(got.contains(expect) && got.is_empty() == expect.is_empty(), "{got}");
        };
        check(&root, request.pem(), subject("n1", Role::Worker), "");
        check(&root, stranger.pem(), subject("n1", Role::Worker), "another key");
        check(&root, request.pem(), subject("n2", Role::Worker), "another subject");
        check(&root, request.pem(), subject("n1", Role::Manager), "another subject");
        check(&other, request.pem(), subject("n1", Role::Worker), "invalid certificate");
    }
}
