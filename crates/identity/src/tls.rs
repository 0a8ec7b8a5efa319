//! TLS 1.3 with the ring provider, both sides, and gRPC channels over it.
//!
//! Sessions are never resumed: a resumed session would keep the identity of an older
//! certificate, and connections here live for days.

use crate::error::{IdentityError, Result};
use crate::net::TcpStream;
use crate::token::{JoinToken, RootDigest};
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

/// Every manager's certificate carries this name.
pub const SERVER_NAME: &str = "swarm-manager";
const ALPN_H2: &[u8] = b"h2";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Most certificates a chain may hold.
const CHAIN_LENGTH_MAX: usize = 8;

/// A certificate and its key, as both TLS sides show them.
pub(crate) struct Keys {
    /// Also shows the root, so that a joining node can check it against its token.
    server: Arc<CertifiedKey>,
    client: Arc<CertifiedKey>,
}

impl Keys {
    pub(crate) fn new(root_pem: &str, chain_pem: &str, key_pem: &str) -> Result<Self> {
        let client = certified_key(chain_pem, key_pem)?;
        let mut chain = client.cert.clone();
        chain.push(first_certificate(root_pem)?);
        let server = CertifiedKey::new(chain, client.key.clone());
        Ok(Self { server: Arc::new(server), client: Arc::new(client) })
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys { .. }")
    }
}

impl rustls::server::ResolvesServerCert for Keys {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.server.clone())
    }
}

impl rustls::client::ResolvesClientCert for Keys {
    fn resolve(&self, _roots: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.client.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

pub(crate) fn server_config(root_pem: &str, keys: Arc<Keys>) -> Result<Arc<ServerConfig>> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(root_pem)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|e| IdentityError::Certificate(e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(keys);
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

pub(crate) fn client_config(root_pem: &str, keys: Arc<Keys>) -> Result<Arc<ClientConfig>> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(root_pem)?)
        .with_client_cert_resolver(keys);
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// For requests by HTTP/1.1 without a certificate, to a server that shows one of these roots.
///
/// # Errors
/// When the roots are malformed.
pub fn https_config(root_pem: &str) -> Result<ClientConfig> {
    https_config_with(root_pem, None)
}

pub(crate) fn https_config_with(root_pem: &str, keys: Option<Arc<Keys>>) -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_root_certificates(roots(root_pem)?);
    let mut config = match keys {
        Some(keys) => builder.with_client_cert_resolver(keys),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Connects to a manager of the swarm that `token` is for, without a certificate of our own.
/// The manager is authenticated: its chain must end in a root with the token's digest. Good
/// for `Ca` and `NodeCa` only, everything else wants a certificate.
///
/// # Errors
/// When the address is malformed, nobody answers, or it is another swarm's manager.
pub async fn connect_for_join(address: &str, token: &JoinToken) -> Result<Channel> {
    let verifier = Arc::new(DigestVerifier { digest: token.digest().clone() });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    let config = Arc::new(config);
    connect(address, move || config.clone()).await
}

/// `config` is asked at each handshake, so that a connection made again shows the newest certificate.
pub(crate) async fn connect(
    address: &str,
    config: impl Fn() -> Arc<ClientConfig> + Send + Sync + 'static,
) -> Result<Channel> {
    let connector = connector(address, config);
    let failed =
        |e: tonic::transport::Error| IdentityError::Connect { address: address.to_owned(), reason: innermost_text(&e) };
    endpoint(address)?.connect_with_connector(connector).await.map_err(failed)
}

pub(crate) fn connect_lazy(
    address: &str,
    config: impl Fn() -> Arc<ClientConfig> + Send + Sync + 'static,
) -> Result<Channel> {
    Ok(endpoint(address)?.connect_with_connector_lazy(connector(address, config)))
}

fn endpoint(address: &str) -> Result<Endpoint> {
    let malformed = || IdentityError::Address(address.to_owned());
    let uri: Uri = format!("http://{address}").parse().map_err(|_| malformed())?;
    if uri.port_u16().is_none() || !matches!(uri.path(), "" | "/") {
        return Err(malformed());
    }
    let endpoint = Endpoint::from(uri)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    Ok(endpoint)
}

type ConnectFuture = std::pin::Pin<Box<dyn Future<Output = io::Result<TokioIo<TlsStream<TcpStream>>>> + Send>>;

fn connector(
    address: &str,
    config: impl Fn() -> Arc<ClientConfig> + Send + 'static,
) -> impl tower::Service<Uri, Response = TokioIo<TlsStream<TcpStream>>, Error = io::Error, Future = ConnectFuture>
+ Send
+ 'static {
    let address = address.to_owned();
    tower::service_fn(move |_: Uri| -> ConnectFuture {
        let (address, config) = (address.clone(), config());
        Box::pin(async move {
            let stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
            TlsConnector::from(config).connect(name, stream).await.map(TokioIo::new)
        })
    })
}

/// Trusts the one root that a join token names.
#[derive(Debug)]
struct DigestVerifier {
    digest: RootDigest,
}

impl ServerCertVerifier for DigestVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let root = intermediates.iter().take(CHAIN_LENGTH_MAX).find(|der| RootDigest::of_der(der) == self.digest);
        let Some(root) = root else {
            return Err(rustls::Error::General("remote CA does not match fingerprint".into()));
        };
        let mut store = RootCertStore::empty();
        store.add(root.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider())
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The one crypto provider of the process.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())).clone()
}

fn roots(root_pem: &str) -> Result<Arc<RootCertStore>> {
    let mut store = RootCertStore::empty();
    for der in certificates(root_pem)? {
        store.add(der)?;
    }
    Ok(Arc::new(store))
}

/// Whether those who trust these roots would take this chain, life spans left aside.
pub(crate) fn check_trusted(chain_pem: &str, root_pem: &str) -> Result<()> {
    let chain = certificates(chain_pem)?;
    let Some((leaf, rest)) = chain.split_first() else { return Err(IdentityError::Key) };
    verify_client(leaf, rest, roots(root_pem)?)
}

/// The certificate among `candidates` whose key signed `leaf`. Names do not tell: all roots
/// of a swarm may have the same.
pub(crate) fn signer_of<'a>(
    leaf: &CertificateDer<'_>,
    candidates: &'a [CertificateDer<'static>],
) -> Option<&'a CertificateDer<'static>> {
    candidates.iter().find(|candidate| {
        let mut store = RootCertStore::empty();
        store.add((*candidate).clone()).is_ok() && verify_client(leaf, &[], Arc::new(store)).is_ok()
    })
}

fn verify_client(leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], roots: Arc<RootCertStore>) -> Result<()> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|e| IdentityError::Certificate(e.to_string()))?;
    let validity = crate::peer::certificate_validity(leaf)?;
    // Within the leaf's own life: its end is the business of those who renew it.
    let at = UnixTime::since_unix_epoch(Duration::from_secs(
        u64::try_from(validity.not_after.as_secs().saturating_sub(1)).unwrap_or(0),
    ));
    verifier.verify_client_cert(leaf, rest, at).map_err(|e| IdentityError::Certificate(e.to_string()))?;
    Ok(())
}

/// Certificate chain and key as rustls wants them, checked to belong together.
pub(crate) fn certified_key(chain_pem: &str, key_pem: &str) -> Result<CertifiedKey> {
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| IdentityError::Key)?;
    Ok(CertifiedKey::from_der(certificates(chain_pem)?, key, &provider())?)
}

pub(crate) fn first_certificate(pem: &str) -> Result<CertificateDer<'static>> {
    Ok(certificates(pem)?.swap_remove(0))
}

/// At least one certificate.
pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    let chain: std::result::Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).take(CHAIN_LENGTH_MAX).collect();
    let chain = chain.map_err(|e| IdentityError::Certificate(e.to_string()))?;
    if chain.is_empty() { Err(IdentityError::Certificate("no certificate in the PEM text".into())) } else { Ok(chain) }
}

/// Connection errors come wrapped in "transport error"; the reason is at the bottom.
pub fn innermost_text(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
