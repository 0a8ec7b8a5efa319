//! A byte stream inside a gRPC call: what is read on one side is written on the other,
//! each direction ends by itself, and a slow reader slows its writer down.

use crate::dispatcher::TunnelPiece;
use futures_util::{Stream, StreamExt};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Bytes in one piece.
const PIECE_BYTES_MAX: usize = 32 * 1024;
/// Pieces that wait for the connection. Together with [`BUFFER_BYTES`] and HTTP/2's own
/// window it bounds what a tunnel holds.
pub const PIECES_QUEUED_MAX: usize = 4;
/// How long the other end may take to end its half of a call that is over.
const CLOSE_MAX: Duration = Duration::from_secs(5);
/// Bytes between a tunnel and whoever uses it.
pub const BUFFER_BYTES: usize = 64 * 1024;

/// The user's and the tunnel's end of a buffer.
pub fn buffer() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(BUFFER_BYTES)
}

/// The piece that opens a tunnel to `target`.
pub fn opening(target: impl Into<String>) -> TunnelPiece {
    TunnelPiece { target: target.into(), ..TunnelPiece::default() }
}

/// Moves bytes between `io` and the call until both directions have ended. `wrap` makes a
/// piece what the call sends: itself for its caller, a result for its server.
///
/// # Errors
/// When the other end or `io` breaks off. Dropping `io` then tells its user.
pub async fn carry<O: Send>(
    io: impl AsyncRead + AsyncWrite,
    incoming: impl Stream<Item = Result<TunnelPiece, Status>>,
    outgoing: mpsc::Sender<O>,
    wrap: impl Fn(TunnelPiece) -> O,
) -> io::Result<()> {
    let (reader, writer) = tokio::io::split(io);
    let incoming = std::pin::pin!(incoming);
    let (inward_ended, outward_ended) = (CancellationToken::new(), CancellationToken::new());
    let outward = async {
        send(reader, &outgoing, wrap).await?;
        outward_ended.cancel();
        inward_ended.cancelled().await;
        // Ends our half of the call. Dropping the other end's at once would cancel the call,
        // and with it what is still on its way there.
        drop(outgoing);
        tokio::time::sleep(CLOSE_MAX).await;
        Ok(())
    };
    tokio::select! {
        // What has arrived goes before the news that the connection is gone.
        biased;
        received = receive(incoming, writer, &inward_ended) => {
            if inward_ended.is_cancelled() && outward_ended.is_cancelled() { Ok(()) } else { received }
        }
        sent = outward => sent,
    }
}

async fn send<O>(
    mut reader: impl AsyncRead + Unpin,
    outgoing: &mpsc::Sender<O>,
    wrap: impl Fn(TunnelPiece) -> O,
) -> io::Result<()> {
    loop {
        let mut data = Vec::with_capacity(PIECE_BYTES_MAX);
        let end = (&mut reader).take(PIECE_BYTES_MAX as u64).read_buf(&mut data).await? == 0;
        let piece = TunnelPiece { target: String::new(), data, end };
        outgoing.send(wrap(piece)).await.map_err(|_| broken())?;
        if end {
            return Ok(());
        }
    }
}

/// Ends only with the call, which is an error unless both directions had ended.
async fn receive(
    mut incoming: std::pin::Pin<&mut impl Stream<Item = Result<TunnelPiece, Status>>>,
    mut writer: impl AsyncWrite + Unpin,
    ended: &CancellationToken,
) -> io::Result<()> {
    while let Some(piece) = incoming.next().await {
        let piece = piece.map_err(io::Error::other)?;
        if ended.is_cancelled() {
            return Err(io::Error::other("data after the end of a tunnel"));
        }
        writer.write_all(&piece.data).await?;
        writer.flush().await?;
        if piece.end {
            writer.shutdown().await?;
            ended.cancel();
        }
    }
    Err(broken())
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the other end of the tunnel is gone")
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    /// Two users joined by a tunnel made of two channels.
    fn tunnel() -> (DuplexStream, DuplexStream) {
        let (near, far) = (buffer(), buffer());
        let (to_far, from_near) = mpsc::channel(PIECES_QUEUED_MAX);
        let (to_near, from_far) = mpsc::channel(PIECES_QUEUED_MAX);
        tokio::spawn(carry(near.1, received(from_far), to_far, |piece| piece));
        tokio::spawn(carry(far.1, received(from_near), to_near, |piece| piece));
        (near.0, far.0)
    }

    fn received(pieces: mpsc::Receiver<TunnelPiece>) -> impl Stream<Item = Result<TunnelPiece, Status>> + Send {
        stream::unfold(pieces, |mut pieces| async move { Some((Ok(pieces.recv().await?), pieces)) })
    }

    #[tokio::test]
    async fn each_direction_ends_by_itself() {
        let (mut near, mut far) = tunnel();
        near.write_all(b"question").await.unwrap();
        near.shutdown().await.unwrap();
        let mut heard = Vec::new();
        far.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"question");
        let answer = async move { far.write_all(&vec![7; 1 << 20]).await.unwrap() };
        heard.clear();
        let (_, read) = tokio::join!(answer, near.read_to_end(&mut heard));
        read.unwrap();
        assert_eq!(heard, vec![7; 1 << 20]);
    }

    #[tokio::test]
    async fn a_reader_that_stops_stops_its_writer() {
        let (mut near, _far) = tunnel();
        let endless = async {
            let mut written = 0_usize;
            loop {
                let Ok(wrote) = tokio::time::timeout(Duration::from_millis(200), near.write(&[0; 4096])).await else {
                    return written;
                };
                written += wrote.unwrap();
            }
        };
        let held = endless.await;
        assert!(held <= 2 * BUFFER_BYTES + (PIECES_QUEUED_MAX + 2) * PIECE_BYTES_MAX, "{held} bytes are held");
    }

    #[tokio::test]
    async fn a_broken_call_ends_both_users() {
        let (near, tunnels_end) = buffer();
        let (outgoing, _pieces) = mpsc::channel(1);
        let incoming = stream::iter([Err(Status::unavailable("gone"))]);
        assert!(carry(tunnels_end, incoming, outgoing, |piece| piece).await.is_err());
        let mut near = near;
        assert_eq!(near.read(&mut [0; 1]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn data_after_the_end_is_refused() {
        let (_near, tunnels_end) = buffer();
        let (outgoing, _pieces) = mpsc::channel(4);
        let piece = |end| Ok(TunnelPiece { data: b"x".to_vec(), end, ..TunnelPiece::default() });
        let incoming = stream::iter([piece(true), piece(false)]);
        let error = carry(tunnels_end, incoming, outgoing, |piece| piece).await.unwrap_err();
        assert!(error.to_string().contains("after the end"), "{error}");
    }
}
