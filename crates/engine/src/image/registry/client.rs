//! One repository of one registry, over HTTP.

use super::super::RegistryAuth;
use super::super::digest::Digest;
use super::super::error::ImageError;
use super::super::manifest::{ACCEPTED_MANIFESTS, Descriptor};
use super::super::store::JSON_BYTES_MAX;
use super::auth::{self, Authorization};
use super::endpoint::Endpoint;
use super::failure::{Attempt, Failure};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION, RANGE, WWW_AUTHENTICATE};
use reqwest::{RequestBuilder, Response, StatusCode};
use skep_model::image::Reference;
use std::error::Error as _;
use std::time::Duration;
use tokio::sync::Mutex;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Without a single byte for so long, a transfer is dead.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const USER_AGENT: &str = concat!("skep/", env!("CARGO_PKG_VERSION"));
/// A registry's explanation of an error.
const ERROR_BODY_BYTES_MAX: u64 = 64 * 1024;

/// What we may want to do with the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Pull,
    Push,
    /// Nothing: only whether the registry knows us.
    Login,
}

/// A manifest as the registry sent it; its digest is computed here.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) body: Vec<u8>,
}

pub(crate) struct Client {
    http: reqwest::Client,
    endpoint: Endpoint,
    repository: String,
    scope: String,
    auth: Option<RegistryAuth>,
    authorization: Mutex<Option<Authorization>>,
}

impl Client {
    pub(crate) fn new(
        endpoint: &Endpoint,
        reference: &Reference,
        auth: Option<&RegistryAuth>,
        access: Access,
    ) -> Attempt<Self> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Lost a race: then another thread installed one, which is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(IDLE_TIMEOUT)
            .user_agent(USER_AGENT)
            // Where nothing is encrypted there is nothing to verify, and a machine without
            // certificate authorities can still use its own registry.
            .tls_danger_accept_invalid_certs(endpoint.is_plain());
        if endpoint.is_loopback {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|e| {
            Failure::Other(skep_model::Error::internal(format!(
                "cannot set up TLS (are certificate authorities installed?): {}",
                causes(&e)
            )))
        })?;
        let scope = match access {
            Access::Pull => format!("repository:{}:pull", reference.repository),
            Access::Push => format!("repository:{}:pull,push", reference.repository),
            Access::Login => String::new(),
        };
        Ok(Self {
            http,
            endpoint: endpoint.clone(),
            repository: reference.repository.clone(),
            scope,
            auth: auth.cloned(),
            authorization: Mutex::new(None),
        })
    }

    /// Whether the registry answers us.
    pub(crate) async fn ping(&self) -> Attempt<()> {
        let url = format!("{}/v2/", self.endpoint.base);
        self.exchange(&url, || self.http.get(&url)).await.map(drop)
    }

    /// By tag or digest.
    pub(crate) async fn manifest(&self, wanted: &str) -> Attempt<Found> {
        let url = self.url(&format!("manifests/{wanted}"));
        let response =
            self.exchange(&url, || self.http.get(&url).header(ACCEPT, ACCEPTED_MANIFESTS.join(", "))).await?;
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_owned();
        if media_type == "text/html" {
            let why = format!("{url} answers with a web page, not with a manifest: is there a registry?");
            return Err(Failure::Other(skep_model::Error::invalid(why)));
        }
        let body = body(response, JSON_BYTES_MAX, &url).await?;
        check_type(&media_type, &body, &url)?;
        let digest = Digest::of(&body);
        if let Ok(expected) = Digest::parse(wanted)
            && expected != digest
        {
            return Err(ImageError::DigestMismatch { expected, actual: digest }.into());
        }
        Ok(Found { media_type, digest, body })
    }

    /// A blob that fits into memory, checked.
    pub(crate) async fn small_blob(&self, descriptor: &Descriptor) -> Attempt<Vec<u8>> {
        let url = self.url(&format!("blobs/{}", descriptor.digest));
        let response = self.exchange(&url, || self.http.get(&url)).await?;
        let body = body(response, JSON_BYTES_MAX, &url).await?;
        let actual = Digest::of(&body);
        if actual != descriptor.digest {
            return Err(ImageError::DigestMismatch { expected: descriptor.digest.clone(), actual }.into());
        }
        Ok(body)
    }

    /// A blob's content from an offset on; the answer may begin at zero nevertheless (200 instead of 206).
    pub(crate) async fn blob(&self, digest: &Digest, offset: u64) -> Attempt<Response> {
        let url = self.url(&format!("blobs/{digest}"));
        self.exchange(&url, || match offset {
            0 => self.http.get(&url),
            _ => self.http.get(&url).header(RANGE, format!("bytes={offset}-")),
        })
        .await
    }

    pub(crate) async fn has_blob(&self, digest: &Digest) -> Attempt<bool> {
        let url = self.url(&format!("blobs/{digest}"));
        match self.exchange(&url, || self.http.head(&url)).await {
            Ok(_) => Ok(true),
            Err(Failure::NotFound { .. }) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Starts an upload; gives the address to send to.
    pub(crate) async fn start_upload(&self) -> Attempt<String> {
        let url = self.url("blobs/uploads/");
        let response = self.exchange(&url, || self.http.post(&url)).await?;
        let bad = || Failure::Other(skep_model::Error::internal("the registry did not say where to upload to"));
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).ok_or_else(bad)?;
        response.url().join(location).map(String::from).map_err(|_| bad())
    }

    /// Sends all of a blob to an address of [`Client::start_upload`]. The body can be sent
    /// only once, so the authorization must be there already, as it is after the start.
    pub(crate) async fn finish_upload(
        &self,
        location: &str,
        digest: &Digest,
        size: u64,
        body: reqwest::Body,
    ) -> Attempt<()> {
        let bad = |e| Failure::Other(skep_model::Error::internal(format!("bad upload address: {e}")));
        let mut url = url::Url::parse(location).map_err(bad)?;
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let request = self
            .http
            .put(url.clone())
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(reqwest::header::CONTENT_LENGTH, size)
            .body(body);
        // Only to the registry itself: the address may lead to a storage that wants none.
        let same_host = url::Url::parse(&self.endpoint.base).is_ok_and(|base| base.origin() == url.origin());
        let request = if same_host { self.authorized(request).await } else { request };
        succeeded(send(request, location).await?, location).await.map(drop)
    }

    pub(crate) async fn put_manifest(&self, tag: &str, media_type: &str, body: &[u8]) -> Attempt<()> {
        let url = self.url(&format!("manifests/{tag}"));
        let put = || self.http.put(&url).header(CONTENT_TYPE, media_type).body(body.to_vec());
        self.exchange(&url, put).await.map(drop)
    }

    fn url(&self, rest: &str) -> String {
        format!("{}/v2/{}/{rest}", self.endpoint.base, self.repository)
    }

    /// Sends, answers a challenge once, and gives only successes.
    async fn exchange(&self, url: &str, request: impl Fn() -> RequestBuilder) -> Attempt<Response> {
        // Every client asks here first, so this is the address users know from error texts.
        let first = format!("{}/v2/", self.endpoint.base);
        let response = send(self.authorized(request()).await, &first).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return succeeded(response, url).await;
        }
        let headers = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenge = headers.filter_map(|value| auth::parse_challenge(value.to_str().ok()?)).next();
        let Some(challenge) = challenge else { return succeeded(response, url).await };
        let plain = self.endpoint.is_plain();
        let authorization = auth::answer(&self.http, &challenge, &self.scope, self.auth.as_ref(), plain).await?;
        *self.authorization.lock().await = Some(authorization);
        let response = send(self.authorized(request()).await, url).await?;
        let gave_password = challenge == auth::Challenge::Basic && response.status() == StatusCode::UNAUTHORIZED;
        match succeeded(response, url).await {
            Err(Failure::Denied(text)) if gave_password => Err(Failure::BadCredentials(text)),
            outcome => outcome,
        }
    }

    async fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match &*self.authorization.lock().await {
            Some(authorization) => request.header(AUTHORIZATION, &authorization.0),
            None => request,
        }
    }
}

/// A document that says of itself to be another kind than the registry says is read by
/// different clients as different images.
fn check_type(told: &str, body: &[u8], url: &str) -> Attempt<()> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        #[serde(default)]
        media_type: String,
    }
    // What is no JSON is refused by its reader.
    let own = serde_json::from_slice::<Typed>(body).map(|typed| typed.media_type).unwrap_or_default();
    let is_manifest = |kind: &str| ACCEPTED_MANIFESTS.contains(&kind);
    if own.is_empty() || !is_manifest(told) || told == own {
        return Ok(());
    }
    let why = format!("{url}: the registry calls it {told}, it calls itself {own}");
    Err(Failure::Other(skep_model::Error::invalid(why)))
}

/// Sends a request; `url` is for the error text.
pub(crate) async fn send(request: RequestBuilder, url: &str) -> Attempt<Response> {
    request.send().await.map_err(|e| unreachable(url, &e))
}

/// Reads a whole body of limited size.
pub(crate) async fn body(mut response: Response, limit: u64, url: &str) -> Attempt<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| unreachable(url, &e))? {
        if (bytes.len() + chunk.len()) as u64 > limit {
            return Err(ImageError::Limit(format!("the answer of {url} is larger than {limit} bytes")).into());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

async fn succeeded(response: Response, url: &str) -> Attempt<Response> {
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status().as_u16();
    let body = body(response, ERROR_BODY_BYTES_MAX, url).await.unwrap_or_default();
    Err(Failure::from_answer(status, &body))
}

pub(crate) fn unreachable(url: &str, error: &reqwest::Error) -> Failure {
    if error.is_redirect() {
        let why = format!("Get \"{url}\": the registry redirects for ever");
        return Failure::Other(skep_model::Error::internal(why));
    }
    let causes = causes(error);
    if causes.contains("InvalidContentType") {
        return Failure::Unreachable(format!("Get \"{url}\": http: server gave HTTP response to HTTPS client"));
    }
    Failure::Unreachable(format!("Get \"{url}\": {causes}"))
}

/// The innermost cause is what a user can act on; the layers above only say "error sending request".
fn causes(error: &reqwest::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut at = error.source();
    while let Some(cause) = at {
        texts.push(cause.to_string());
        at = cause.source();
    }
    match texts.as_slice() {
        [] => error.to_string(),
        [only] => only.clone(),
        [.., before, last] if before.contains(last.as_str()) => before.clone(),
        [.., before, last] => format!("{before}: {last}"),
    }
}
