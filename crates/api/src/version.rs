//! API versions: the `/vX.Y` prefix, its limits, and the headers on every answer.

use crate::error::{ApiError, json_reply};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, Uri};
use skep_model::Error;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tower::{Service, ServiceExt};

/// A version of the API, `1.50`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    pub major: u32,
    pub minor: u32,
}

/// The newest version we speak, and what an unversioned request gets.
pub const API_VERSION: ApiVersion = ApiVersion { major: 1, minor: 50 };
/// The oldest.
pub const API_VERSION_MIN: ApiVersion = ApiVersion { major: 1, minor: 24 };
/// The engine version we tell. Clients compare its number with Docker's releases to
/// decide what a daemon can do, so it names the release whose behaviour we match.
pub const SERVER_VERSION: &str = concat!("28.2.2+skep-", env!("CARGO_PKG_VERSION"));

const SERVER_HEADER: &str = concat!("Docker/28.2.2+skep-", env!("CARGO_PKG_VERSION"), " (linux)");

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl ApiVersion {
    /// Whether the client knows what came with `1.minor`.
    pub(crate) fn at_least(self, minor: u32) -> bool {
        self >= Self { major: 1, minor }
    }

    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }

    fn check(self) -> Result<Self, Error> {
        if self > API_VERSION {
            return Err(Error::invalid(format!(
                "client version {self} is too new. Maximum supported API version is {API_VERSION}"
            )));
        }
        if self < API_VERSION_MIN {
            return Err(Error::invalid(format!(
                "client version {self} is too old. Minimum supported API version is {API_VERSION_MIN}, please upgrade \
                 your client to a newer version"
            )));
        }
        Ok(self)
    }
}

/// Takes the version off the path before routing and puts the common headers on every answer.
#[derive(Clone)]
pub(crate) struct Versioned {
    inner: Router,
}

impl Versioned {
    pub(crate) fn new(inner: Router) -> Self {
        Self { inner }
    }
}

impl Service<Request> for Versioned {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // A router is always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let inner = self.inner.clone();
        Box::pin(async move {
            let mut response = match split_version(request.uri()) {
                Ok((version, uri)) => {
                    *request.uri_mut() = uri;
                    request.extensions_mut().insert(version);
                    inner.oneshot(request).await?
                }
                Err(error) => ApiError(error).into_response(),
            };
            put_common_headers(&mut response);
            Ok(response)
        })
    }
}

/// The version a path asks for and the rest of it. Doubled slashes, which clients
/// produce from names such as `/web`, become one.
fn split_version(uri: &Uri) -> Result<(ApiVersion, Uri), Error> {
    let path = uri.path();
    let mut version = API_VERSION;
    let mut rest = path;
    if let Some(tail) = path.strip_prefix("/v") {
        let (word, after) = tail.split_at(tail.find('/').unwrap_or(tail.len()));
        if let Some(asked) = ApiVersion::parse(word) {
            version = asked.check()?;
            rest = if after.is_empty() { "/" } else { after };
        }
    }
    let mut cleaned = rest.to_owned();
    while cleaned.contains("//") {
        cleaned = cleaned.replace("//", "/");
    }
    if let Some(query) = uri.query() {
        cleaned.push('?');
        cleaned.push_str(query);
    }
    let uri = cleaned.parse().map_err(|_| Error::invalid("malformed request path"))?;
    Ok((version, uri))
}

fn put_common_headers(response: &mut Response<Body>) {
    let headers = response.headers_mut();
    headers.insert("Api-Version", HeaderValue::from_static("1.50"));
    headers.insert("Docker-Experimental", HeaderValue::from_static("false"));
    headers.insert("Ostype", HeaderValue::from_static("linux"));
    headers.insert("Server", HeaderValue::from_static(SERVER_HEADER));
}

/// The answer to a path nobody serves.
pub(crate) async fn page_not_found() -> Response {
    json_reply(StatusCode::NOT_FOUND, &serde_json::json!({ "message": "page not found" }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::extract::Extension;
    use axum::routing::get;
    use http_body_util::BodyExt;

    async fn ask(path: &str) -> (StatusCode, http::HeaderMap, String) {
        let inner = Router::new()
            .route("/x/{*rest}", get(|Extension(v): Extension<ApiVersion>| async move { v.to_string() }))
            .fallback(page_not_found);
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let response = Versioned::new(inner).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn the_prefix_is_optional_and_its_version_reaches_the_handler() {
        assert_eq!(ask("/v1.41/x/a").await.2, "1.41");
        assert_eq!(ask("/x/a").await.2, "1.50");
        assert_eq!(ask("/v1.24/x//a").await.2, "1.24");
    }

    #[tokio::test]
    async fn versions_outside_the_range_are_refused_with_dockers_text() {
        let (status, _, body) = ask("/v1.60/x/a").await;
        assert_eq!(status, 400);
        assert_eq!(body, "{\"message\":\"client version 1.60 is too new. Maximum supported API version is 1.50\"}\n");
        let (status, _, body) = ask("/v1.10/x/a").await;
        assert_eq!(status, 400);
        assert!(body.contains("client version 1.10 is too old. Minimum supported API version is 1.24"), "{body}");
    }

    #[tokio::test]
    async fn unknown_paths_answer_404_with_the_common_headers() {
        let (status, headers, body) = ask("/v1.41/nosuchpath").await;
        assert_eq!(status, 404);
        assert_eq!(body, "{\"message\":\"page not found\"}\n");
        assert_eq!(headers["api-version"], API_VERSION.to_string());
        assert_eq!(headers["ostype"], "linux");
        assert!(headers["server"].to_str().unwrap().starts_with("Docker/28.2.2"));
        for odd in ["/v", "/v1", "/v1.x/y", "/v99999999999.1/x", "/volumesx", "/v1.41"] {
            assert_eq!(ask(odd).await.0, 404, "{odd}");
        }
    }
}
