//! An accepted connection that knows who is at the other end and when it must end.

use super::connections::Entry;
use crate::access::Caller;
use skep_identity::Peer;
use skep_identity::net::TcpStream;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// A joining node asks for the root and for a certificate, which takes a write.
const ANONYMOUS_STAY_MAX: Duration = Duration::from_secs(30);

/// Resolves when the connection must end.
type End = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a connection holds while it is open, and who uses it.
pub(crate) struct Limits {
    caller: Caller,
    end: End,
    _entry: Option<Entry>,
    _anonymous: Option<OwnedSemaphorePermit>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Limits {
    pub(super) fn member(address: SocketAddr, peer: Peer, entry: Entry) -> Self {
        let caller = Caller { peer: Some(peer), address };
        let end = Box::pin(entry.cut.clone().cancelled_owned());
        Self { caller, end, _entry: Some(entry), _anonymous: None, _permit: None }
    }

    pub(super) fn anonymous(address: SocketAddr, place: OwnedSemaphorePermit) -> Self {
        let caller = Caller { peer: None, address };
        let end = Box::pin(tokio::time::sleep(ANONYMOUS_STAY_MAX));
        Self { caller, end, _entry: None, _anonymous: Some(place), _permit: None }
    }

    pub(super) fn with_permit(self, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self { _permit: permit, ..self }
    }
}

/// See the module.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    limits: Limits,
    over: bool,
}

impl Connection {
    pub(super) fn new(stream: TlsStream<TcpStream>, limits: Limits) -> Self {
        Self { stream, limits, over: false }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        self.over = self.over || self.limits.end.as_mut().poll(context).is_ready();
        if self.over { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.limits.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
