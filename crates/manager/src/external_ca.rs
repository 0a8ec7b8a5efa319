//! Has certificates signed by CAs outside of the swarm: over HTTPS, one after the other until
//! one does. What they answer is checked like anything foreign.

use skep_identity::{
    ANSWER_BYTES_MAX, CertificateRequest, Identity, NodeSubject, RootDigest, check_issued, https_config,
    innermost_text, read_answer, sign_request,
};
use skep_model::cluster::{Cluster, ClusterSpec, ExternalCa};
use skep_model::node::Role;
use skep_model::{Error, Result};
use std::time::Duration;

/// For a connection, a signature and its answer.
const SIGN_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks as this manager, or as one that has no certificate yet.
#[derive(Clone)]
pub(crate) struct ExternalSigner {
    identity: Option<Identity>,
}

impl ExternalSigner {
    pub(crate) fn new(identity: Identity) -> Self {
        Self { identity: Some(identity) }
    }

    pub(crate) fn without_certificate() -> Self {
        Self { identity: None }
    }

    /// A chain that those take who trust `root_pem`, from the first that gives one.
    pub(crate) async fn sign(
        &self,
        externals: &[&ExternalCa],
        root_pem: &str,
        csr_pem: &str,
        subject: &NodeSubject,
    ) -> Result<String> {
        let body = sign_request(csr_pem, subject);
        let mut reasons = Vec::new();
        for external in externals {
            let asked = async {
                let config = match &self.identity {
                    Some(identity) => identity.https_config(&external.ca_cert)?,
                    None => https_config(root_pem)?,
                };
                let answer = post(&external.url, body.clone(), config).await?;
                let chain_pem = format!("{}\n", read_answer(&answer)?.trim_end());
                check_issued(&chain_pem, csr_pem, subject, root_pem)?;
                Ok::<_, Error>(chain_pem)
            };
            match asked.await {
                Ok(chain_pem) => return Ok(chain_pem),
                Err(error) => reasons.push(format!("{}: {error}", external.url)),
            }
        }
        Err(Error::unavailable(format!("no external CA has signed: {}", reasons.join("; "))))
    }

    /// Whether somebody will sign once `spec` holds: external CAs that are new must do so now,
    /// and a root whose key is not here needs one.
    pub(crate) async fn check_update(&self, cluster: &Cluster, spec: &ClusterSpec, key_is_given: bool) -> Result<()> {
        let root_ca = &cluster.root_ca;
        let is_forced = spec.signing_ca_cert.is_empty() && spec.ca_force_rotate != root_ca.last_forced_rotation;
        if is_forced {
            return Ok(());
        }
        let given = spec.signing_ca_cert.as_str();
        let root_pem = if given.is_empty() { root_ca.signing_pem() } else { given };
        let digest = RootDigest::of_pem(root_pem)?;
        let is_present = digest.as_str() == root_ca.signing_digest();
        let key_is_here = key_is_given || (is_present && !root_ca.signing_key_pem().is_empty());
        let asked = of_root(&spec.external_cas, digest.as_str(), &root_ca.digest);
        if asked.is_empty() && !key_is_here {
            return Err(Error::invalid(NOBODY_SIGNS));
        }
        for external in asked.into_iter().filter(|external| !cluster.spec.external_cas.contains(external)) {
            let request = CertificateRequest::create()?;
            let subject = NodeSubject { node_id: "nobody".into(), role: Role::Worker, cluster_id: cluster.id.clone() };
            let signed = self.sign(&[external], root_pem, request.pem(), &subject).await;
            signed.map_err(|error| Error::invalid(format!("{NOBODY_SIGNS}: {error}")))?;
        }
        Ok(())
    }
}

/// As the reference says it.
const NOBODY_SIGNS: &str =
    "there must be at least one valid, reachable external CA corresponding to the current CA certificate";

/// Those that sign for the root with that digest.
pub(crate) fn of_root<'a>(externals: &'a [ExternalCa], digest: &str, present_digest: &str) -> Vec<&'a ExternalCa> {
    let signs_for = |external: &&ExternalCa| match external.ca_cert.trim().is_empty() {
        true => digest == present_digest,
        false => RootDigest::of_pem(&external.ca_cert).is_ok_and(|signed| signed.as_str() == digest),
    };
    externals.iter().filter(signs_for).collect()
}

async fn post(url: &str, body: Vec<u8>, config: rustls::ClientConfig) -> Result<Vec<u8>> {
    let failed = |error: reqwest::Error| Error::unavailable(innermost_text(&error));
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .https_only(true)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(SIGN_TIMEOUT)
        .build()
        .map_err(failed)?;
    let request = client.post(url).header("content-type", "application/json").body(body);
    let mut response = request.send().await.map_err(failed)?;
    let mut answer = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(failed)? {
        if answer.len() + piece.len() > ANSWER_BYTES_MAX {
            return Err(Error::unavailable(format!("the answer is longer than {ANSWER_BYTES_MAX} bytes")));
        }
        answer.extend_from_slice(&piece);
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_identity::CertificateAuthority;

    #[test]
    fn one_without_a_root_signs_for_the_present_one() {
        let (old, new) = (root(), root());
        let external = |cert: &str| ExternalCa { ca_cert: cert.to_owned(), ..ExternalCa::default() };
        let externals = [external(""), external(new.cert_pem()), external("garbage")];
        let digest = |root: &CertificateAuthority| root.digest().unwrap().as_str().to_owned();
        let found = |wanted: &str| of_root(&externals, wanted, &digest(&old));
        assert_eq!(found(&digest(&old)), [&externals[0]]);
        assert_eq!(found(&digest(&new)), [&externals[1]]);
    }

    fn root() -> CertificateAuthority {
        CertificateAuthority::create(skep_model::Timestamp(1_800_000_000_000_000_000)).unwrap()
    }
}
