//! One HTTP request through a tunnel, with connections that are taken over.

use crate::error::ApiError;
use crate::stream::{LINGER, wants_upgrade};
use crate::version::{API_VERSION, ApiVersion};
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use skep_manager::Control;
use skep_model::id::NodeId;
use skep_model::{Error, Result};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// Lets `node` answer a request, whose path is without its version.
pub(crate) async fn forward(control: &Control, node: &NodeId, mut request: Request) -> Result<Response, ApiError> {
    let version = request.extensions().get::<ApiVersion>().copied().unwrap_or(API_VERSION);
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = format!("/v{version}{path}").parse().map_err(|_| Error::invalid("malformed request path"))?;
    let upgrade = request.extensions_mut().remove::<OnUpgrade>().filter(|_| wants_upgrade(request.headers()));
    request.headers_mut().insert(header::HOST, HeaderValue::from_static("node"));
    let mut response = send(control, node, request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let there = hyper::upgrade::on(&mut response);
        let here = upgrade.ok_or_else(|| Error::internal("the node took over a connection that is none"))?;
        tokio::spawn(async move {
            match tokio::try_join!(here, there) {
                Ok((here, there)) => splice(TokioIo::new(here), TokioIo::new(there)).await,
                Err(error) => tracing::debug!(%error, "a side left before the upgrade"),
            }
        });
    }
    Ok(response)
}

/// A request of our own to `node`, with `path` from its version on.
pub(crate) async fn get(control: &Control, node: &NodeId, path: &str) -> Result<Response> {
    let request = Request::get(path).header(header::HOST, "node").body(Body::empty());
    send(control, node, request.map_err(|_| Error::invalid("malformed request path"))?).await
}

async fn send(control: &Control, node: &NodeId, request: Request) -> Result<Response> {
    let broken = |error: hyper::Error| Error::unavailable(format!("the stream to node {node} broke off: {error}"));
    let tunnel = control.reach(node).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tunnel)).await.map_err(broken)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a request to another node ended early");
        }
    });
    Ok(sender.send_request(request).await.map_err(broken)?.map(Body::new))
}

/// Moves bytes both ways until the node's output has ended. The end of the client's input
/// ends the node's and no more.
async fn splice(here: impl AsyncRead + AsyncWrite, there: impl AsyncRead + AsyncWrite) {
    let (mut from_client, mut to_client) = tokio::io::split(here);
    let (mut from_node, mut to_node) = tokio::io::split(there);
    let outward = async {
        if tokio::io::copy(&mut from_node, &mut to_client).await.is_err() {
            return;
        }
        let _ = to_client.shutdown().await;
        // Closed with input unread, the kernel would reset the connection under the client.
        tokio::time::sleep(LINGER).await;
    };
    let inward = async {
        if tokio::io::copy(&mut from_client, &mut to_node).await.is_ok() {
            let _ = to_node.shutdown().await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = outward => {}
        () = inward => {}
    }
}
