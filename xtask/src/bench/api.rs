//! The Docker API on an engine's socket, without a command line in between.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

/// An API version that both engines speak.
const VERSION: &str = "v1.41";
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Engines close a connection that was idle for a while; one idle for less is still there.
const KEPT_FOR: Duration = Duration::from_secs(2);

/// One connection, kept between calls that follow each other and made again after a failure.
pub(crate) struct Api {
    runtime: Runtime,
    socket: PathBuf,
    sender: Option<(SendRequest<Full<Bytes>>, Instant)>,
}

impl Api {
    pub(crate) fn new(socket: &Path) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, socket: socket.to_owned(), sender: None })
    }

    /// Status and body of the answer.
    pub(crate) fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Bytes)> {
        let socket = self.socket.clone();
        let kept = self.sender.take().filter(|(_, used_at)| used_at.elapsed() < KEPT_FOR);
        let body = Full::new(body.map(|body| Bytes::from(body.to_string())).unwrap_or_default());
        let request = Request::builder()
            .method(method)
            .uri(format!("/{VERSION}{path}"))
            .header(HOST, "engine")
            .header(CONTENT_TYPE, "application/json")
            .body(body)?;
        let call = async {
            let mut sender = match kept {
                Some((sender, _)) => sender,
                None => {
                    let stream = UnixStream::connect(&socket).await?;
                    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
                    tokio::spawn(connection);
                    sender
                }
            };
            sender.ready().await?;
            let answer = sender.send_request(request).await?;
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await?.to_bytes();
            anyhow::Ok((sender, status, body))
        };
        let answer = self.runtime.block_on(async { tokio::time::timeout(ANSWER_TIMEOUT, call).await });
        let (sender, status, body) = answer.context("no answer in time")??;
        self.sender = Some((sender, Instant::now()));
        Ok((status, body))
    }

    /// A GET whose answer is JSON.
    pub(crate) fn get(&mut self, path: &str) -> Result<Value> {
        let (status, body) = self.call("GET", path, None)?;
        ensure!(status == 200, "GET {path}: {status} {}", String::from_utf8_lossy(&body));
        Ok(serde_json::from_slice(&body)?)
    }

    /// Creates a service that no node runs.
    pub(crate) fn create_idle_service(&mut self, name: &str) -> Result<()> {
        let (status, body) = self.call("POST", "/services/create", Some(&service(name, 0)))?;
        ensure!(status == 201, "create {name}: {status} {}", String::from_utf8_lossy(&body));
        Ok(())
    }
}

/// A replicated service of an image that need not exist.
pub(crate) fn service(name: &str, replicas: u64) -> Value {
    serde_json::json!({
        "Name": name,
        "TaskTemplate": { "ContainerSpec": { "Image": "example/app:1" } },
        "Mode": { "Replicated": { "Replicas": replicas } },
    })
}
