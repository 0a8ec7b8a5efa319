//! HTTP over the daemon's socket.

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::path::PathBuf;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::io::ReaderStream;

const API_VERSION: &str = "v1.50";
const DEFAULT_HOST: &str = "unix:///run/skep/skep.sock";

/// What the daemon refused, in its own words.
#[derive(Debug, thiserror::Error)]
#[error("Error response from daemon: {message}")]
pub struct ApiError {
    pub status: u16,
    pub message: String,
}

#[derive(Debug, Clone)]
enum Address {
    Unix(PathBuf),
    Tcp(String),
}

/// A daemon's address; every request has a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    address: Address,
    host: String,
}

/// Body of a request.
pub(crate) enum Payload {
    Empty,
    Json(Value),
    Stream { reader: Box<dyn AsyncRead + Send + Sync + Unpin>, content_type: &'static str },
}

trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

type Body = BoxBody<Bytes, std::io::Error>;

impl Client {
    /// From `--host`, else `SKEP_HOST`, else `DOCKER_HOST`, else the default socket.
    pub(crate) fn new(host: Option<&str>) -> anyhow::Result<Self> {
        let from_environment = || {
            ["SKEP_HOST", "DOCKER_HOST"].into_iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()))
        };
        let host = host.map(str::to_owned).or_else(from_environment).unwrap_or_else(|| DEFAULT_HOST.to_owned());
        let address = match host.split_once("://") {
            Some(("unix", path)) => Address::Unix(path.into()),
            Some(("tcp" | "http", rest)) => Address::Tcp(rest.trim_end_matches('/').to_owned()),
            _ => return Err(anyhow!("unable to parse docker host `{host}`: use unix:///path or tcp://address:port")),
        };
        Ok(Self { address, host })
    }

    /// The daemon's address as given.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    async fn connect(&self) -> anyhow::Result<Box<dyn Transport>> {
        let hint = || format!("Cannot connect to the skep daemon at {}. Is the skep daemon running?", self.host);
        Ok(match &self.address {
            Address::Unix(path) => Box::new(UnixStream::connect(path).await.with_context(hint)?),
            Address::Tcp(address) => Box::new(TcpStream::connect(address).await.with_context(hint)?),
        })
    }

    /// Sends a request; a status of 400 or more is an [`ApiError`].
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        payload: Payload,
    ) -> crate::Outcome<Response<Incoming>> {
        let transport = self.connect().await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(transport)).await.map_err(anyhow::Error::from)?;
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder().method(method).uri(format!("/{API_VERSION}{path}")).header("Host", "skep");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let body: Body = match payload {
            Payload::Empty => {
                request = request.header("Content-Length", "0");
                full(Bytes::new())
            }
            Payload::Json(value) => {
                request = request.header("Content-Type", "application/json");
                full(serde_json::to_vec(&value)?.into())
            }
            Payload::Stream { reader, content_type } => {
                request = request.header("Content-Type", content_type);
                let frames = futures_util::StreamExt::map(ReaderStream::new(reader), |chunk| chunk.map(Frame::data));
                BodyExt::boxed(StreamBody::new(frames))
            }
        };
        let request = request.body(body).map_err(anyhow::Error::from)?;
        let response = sender.send_request(request).await.context("the daemon closed the connection")?;
        if response.status().as_u16() < 400 {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.map_err(anyhow::Error::from)?.to_bytes();
        let message = serde_json::from_slice::<Value>(&bytes)
            .ok()
            .and_then(|value| value["message"].as_str().map(str::to_owned))
            .unwrap_or_else(|| String::from_utf8_lossy(&bytes).trim().to_owned());
        Err(ApiError { status, message }.into())
    }

    async fn value(&self, method: Method, path: &str, payload: Payload) -> crate::Outcome<Value> {
        self.value_with(method, path, &[], payload).await
    }

    /// An answer's JSON, to a request with headers.
    pub(crate) async fn value_with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        payload: Payload,
    ) -> crate::Outcome<Value> {
        let response = self.send(method, path, headers, payload).await?;
        let bytes = response.into_body().collect().await.map_err(anyhow::Error::from)?.to_bytes();
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        Ok(serde_json::from_slice(&bytes).context("the daemon's answer is not JSON")?)
    }

    pub(crate) async fn get(&self, path: &str) -> crate::Outcome<Value> {
        self.value(Method::GET, path, Payload::Empty).await
    }

    /// The answer's bytes as they are, for `inspect`.
    pub(crate) async fn get_raw(&self, path: &str) -> crate::Outcome<Bytes> {
        let response = self.send(Method::GET, path, &[], Payload::Empty).await?;
        Ok(response.into_body().collect().await.map_err(anyhow::Error::from)?.to_bytes())
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> crate::Outcome<Value> {
        let payload = if body.is_null() { Payload::Empty } else { Payload::Json(body) };
        self.value(Method::POST, path, payload).await
    }

    pub(crate) async fn delete(&self, path: &str) -> crate::Outcome<Value> {
        self.value(Method::DELETE, path, Payload::Empty).await
    }

    /// A request that turns into a two-way stream.
    pub(crate) async fn hijack(
        &self,
        path: &str,
        body: Value,
    ) -> crate::Outcome<(TokioIo<hyper::upgrade::Upgraded>, bool)> {
        let payload = if body.is_null() { Payload::Empty } else { Payload::Json(body) };
        let headers = [("Connection", "Upgrade".to_owned()), ("Upgrade", "tcp".to_owned())];
        let response = self.send(Method::POST, path, &headers, payload).await?;
        let multiplexed =
            response.headers().get("Content-Type").is_some_and(|t| t.as_bytes().ends_with(b"multiplexed-stream"));
        let upgraded = hyper::upgrade::on(response).await.context("the daemon did not switch to a stream")?;
        Ok((TokioIo::new(upgraded), multiplexed))
    }
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

/// `a=b&c=d`, percent-encoded; empty values are left out.
pub(crate) fn query(pairs: &[(&str, &str)]) -> String {
    let mut serializer = url::form_urlencoded::Serializer::new(String::new());
    for (key, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        serializer.append_pair(key, value);
    }
    let text = serializer.finish();
    if text.is_empty() { text } else { format!("?{text}") }
}

/// `--filter key=value` flags as the API wants them: a JSON map of lists.
///
/// # Errors
/// A filter without `=`.
pub(crate) fn filters(given: &[String]) -> anyhow::Result<String> {
    if given.is_empty() {
        return Ok(String::new());
    }
    let mut map = serde_json::Map::new();
    for filter in given {
        let (key, value) = filter.split_once('=').ok_or_else(|| {
            anyhow!(
                "invalid argument \"{filter}\" for \"-f, --filter\" flag: bad format of filter (expected name=value)"
            )
        })?;
        let list = map.entry(key.trim().to_lowercase()).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(list) = list {
            list.push(value.trim().into());
        }
    }
    Ok(Value::Object(map).to_string())
}

/// Percent-encodes one path segment.
pub(crate) fn segment(text: &str) -> String {
    // A form encoder writes a space as `+`, which is a plus in a path.
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_become_a_map_of_lists() {
        let given = ["name=a".to_owned(), "name=b".into(), "label=x=y".into()];
        assert_eq!(filters(&given).unwrap(), r#"{"label":["x=y"],"name":["a","b"]}"#);
        assert!(filters(&["name".to_owned()]).is_err());
        assert_eq!(filters(&[]).unwrap(), "");
    }

    #[test]
    fn queries_leave_empty_values_out() {
        assert_eq!(query(&[("a", "1 2"), ("b", "")]), "?a=1+2");
        assert_eq!(query(&[("a", "")]), "");
        assert_eq!(segment("a/b c"), "a%2Fb%20c");
    }
}
