//! Listeners and connections.

use crate::backend::Backend;
use crate::router::router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use skep_model::{Error, Result};
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Connections at a time, over all listeners. Each attach, log follow and event stream
/// holds one, so this is far above what a busy machine uses.
const CONNECTIONS_MAX: usize = 4096;
/// A client that sends its request line and headers slower than this is dropped.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Request line and headers together; credentials travel in headers.
const HEADER_BYTES_MAX: usize = 256 << 10;
/// How long requests under way may go on after shutdown was asked for. Streams that
/// follow (logs, events, attach) never end by themselves and are cut then.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause after `accept` failed, which mostly means that descriptors ran out.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Where clients come in.
#[derive(Debug)]
pub enum Listener {
    Unix(UnixListener),
    /// Without TLS: for loopback and tests.
    Tcp(TcpListener),
}

impl Listener {
    /// Binds a unix socket of mode 0660, over a stale file of the same name.
    ///
    /// # Errors
    /// The path is in use by a living daemon, or cannot be made.
    pub fn bind_unix(path: &Path) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let what = |e: std::io::Error| Error::from(e).context(format!("cannot listen on {}", path.display()));
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(Error::conflict(format!("cannot listen on {}: another daemon serves it", path.display())));
        }
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(what(e)),
            _ => {}
        }
        // Bound under another name first, so that the socket is never reachable with
        // wider permissions than it ends up with.
        let hidden = path.with_extension(format!("{}.new", std::process::id()));
        let _ = std::fs::remove_file(&hidden);
        let listener = UnixListener::bind(&hidden).map_err(what)?;
        std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o660)).map_err(what)?;
        std::fs::rename(&hidden, path).map_err(what)?;
        Ok(Self::Unix(listener))
    }
}

/// Serves until `shutdown` resolves, then lets requests under way finish.
///
/// # Errors
/// None at present: a listener that fails is retried.
pub async fn serve<F: Future>(backend: Backend, listeners: Vec<Listener>, shutdown: F) -> Result<()> {
    let app = router(backend);
    let (stop, stopped) = watch::channel(false);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut tasks = JoinSet::new();
    for listener in listeners {
        tasks.spawn(accept_all(listener, app.clone(), Arc::clone(&slots), stopped.clone()));
    }
    shutdown.await;
    let _ = stop.send(true);
    while tasks.join_next().await.is_some() {}
    Ok(())
}

async fn accept_all(listener: Listener, app: axum::Router, slots: Arc<Semaphore>, mut stopped: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let slot = tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => break,
            slot = Arc::clone(&slots).acquire_owned() => slot.expect("the semaphore is never closed"),
        };
        let accepted = tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => break,
            accepted = accept(&listener) => accepted,
        };
        // Reap what has ended, so that the set stays as small as the number of live connections.
        while connections.try_join_next().is_some() {}
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let connection = serve_connection(stream, app.clone(), stopped.clone());
        connections.spawn(async move {
            let _slot = slot;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended early");
            }
        });
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
        tracing::info!(open = connections.len(), "cutting requests that did not end in time");
    }
    connections.shutdown().await;
}

async fn serve_connection(
    stream: Box<dyn Stream>,
    app: axum::Router,
    mut stopped: watch::Receiver<bool>,
) -> hyper::Result<()> {
    let connection =
        connection_builder().serve_connection(TokioIo::new(stream), TowerToHyperService::new(app)).with_upgrades();
    let mut connection = pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return result,
        _ = stopped.wait_for(|stop| *stop) => {}
    }
    // Idle ones close at once, others after the answer they are at.
    connection.as_mut().graceful_shutdown();
    connection.await
}

/// How a connection is served, whoever made it.
pub(crate) fn connection_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new());
    builder.header_read_timeout(HEADER_TIMEOUT);
    builder.max_buf_size(HEADER_BYTES_MAX);
    // A client that closes has given up: its stream must end even if nothing happens on it.
    builder.half_close(false);
    builder
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn accept(listener: &Listener) -> std::io::Result<Box<dyn Stream>> {
    Ok(match listener {
        Listener::Unix(unix) => Box::new(unix.accept().await?.0),
        Listener::Tcp(tcp) => {
            let stream = tcp.accept().await?.0;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn the_socket_is_for_owner_and_group_and_replaces_a_stale_one() {
        let path = std::env::temp_dir().join(format!("skep-api-{}.sock", std::process::id()));
        let first = Listener::bind_unix(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(Listener::bind_unix(&path).is_err(), "a living daemon keeps its socket");
        drop(first);
        let second = Listener::bind_unix(&path);
        std::fs::remove_file(&path).unwrap();
        assert!(second.is_ok());
    }
}
