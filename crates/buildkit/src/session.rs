//! Clients that wait to be asked: each has a connection on which it serves gRPC to us.

use http::HeaderMap;
use hyper::rt::{Read, ReadBufCursor, Write};
use skep_model::{Error, Result};
use std::collections::{HashMap, HashSet};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint};

/// Sessions at a time.
const SESSIONS_MAX: usize = 256;
/// How long a build waits for the session it names: both come at the same time.
const SESSION_WAIT_MAX: Duration = Duration::from_secs(10);
/// Methods one session may announce.
const METHODS_MAX: usize = 128;
/// Headers of the upgrade.
const ID_HEADER: &str = "x-docker-expose-session-uuid";
const METHOD_HEADER: &str = "x-docker-expose-session-grpc-method";

/// A connection that was upgraded to HTTP/2.
pub trait Connection: Read + Write + Send + Unpin + 'static {}
impl<T: Read + Write + Send + Unpin + 'static> Connection for T {}

/// What a client says of its session when it opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    pub id: String,
    /// `/package.Service/Method`
    pub methods: HashSet<String>,
}

impl Announced {
    /// # Errors
    /// No id, or far too much.
    pub fn of(headers: &HeaderMap) -> Result<Self> {
        let id = headers.get(ID_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if id.is_empty() {
            return Err(Error::invalid("the session has no id"));
        }
        let methods: HashSet<String> = headers
            .get_all(METHOD_HEADER)
            .iter()
            .take(METHODS_MAX)
            .filter_map(|value| value.to_str().ok())
            .map(str::to_owned)
            .collect();
        Ok(Self { id: id.to_owned(), methods })
    }
}

/// An open session.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) channel: Channel,
    methods: Arc<HashSet<String>>,
    /// The connection is gone.
    pub(crate) closed: CancellationToken,
}

impl Session {
    pub(crate) fn serves(&self, method: &str) -> bool {
        self.methods.contains(method)
    }
}

/// All open sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    open: Mutex<HashMap<String, Session>>,
    changes: watch::Sender<u64>,
}

impl Sessions {
    /// Keeps the session for as long as its connection lives.
    pub(crate) async fn serve(&self, announced: Announced, connection: impl Connection) -> Result<()> {
        let closed = CancellationToken::new();
        let watched = Watched { connection, _closed: closed.clone().drop_guard() };
        // There is one connection: a second call means that the first one broke.
        let slot = Arc::new(Mutex::new(Some(watched)));
        let connector = tower::service_fn(move |_: http::Uri| {
            let taken = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            async move { taken.ok_or_else(|| io::Error::other("the client's session is closed")) }
        });
        let channel = Endpoint::from_static("http://session").connect_with_connector(connector).await;
        let channel = channel.map_err(|error| Error::internal(format!("the session does not begin: {error}")))?;
        let session = Session { channel, methods: Arc::new(announced.methods), closed: closed.clone() };
        {
            let mut open = self.open();
            if open.len() >= SESSIONS_MAX {
                return Err(Error::unavailable("too many build sessions are open"));
            }
            if open.contains_key(&announced.id) {
                return Err(Error::conflict(format!("session {} is open already", announced.id)));
            }
            open.insert(announced.id.clone(), session);
        }
        self.changes.send_modify(|count| *count += 1);
        closed.cancelled().await;
        self.open().remove(&announced.id);
        Ok(())
    }

    /// The session of that id, which may be about to open.
    pub(crate) async fn wait(&self, id: &str) -> Result<Session> {
        let mut changes = self.changes.subscribe();
        let found = async {
            loop {
                if let Some(session) = self.open().get(id).cloned() {
                    return session;
                }
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(SESSION_WAIT_MAX, found)
            .await
            .map_err(|_| Error::invalid(format!("no active session for {id}: the client must open one")))
    }

    fn open(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        // Entries are added and taken whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that says when it goes.
struct Watched<C> {
    connection: C,
    _closed: DropGuard,
}

impl<C: Connection> Read for Watched<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_read(context, buffer)
    }
}

impl<C: Connection> Write for Watched<C> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_says_who_it_is_and_what_it_serves() {
        let mut headers = HeaderMap::new();
        assert!(Announced::of(&headers).is_err());
        headers.insert(ID_HEADER, "abc".parse().unwrap());
        headers.append(METHOD_HEADER, "/a.B/C".parse().unwrap());
        headers.append(METHOD_HEADER, "/a.B/D".parse().unwrap());
        let announced = Announced::of(&headers).unwrap();
        assert_eq!((announced.id.as_str(), announced.methods.len()), ("abc", 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_never_opens_is_said() {
        let error = Sessions::default().wait("nope").await.unwrap_err();
        assert_eq!(error.message, "no active session for nope: the client must open one");
    }
}
