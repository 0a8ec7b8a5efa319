//! Large request bodies as bytes to read.

use axum::body::{Body, BodyDataStream, Bytes};
use futures_util::{Stream, StreamExt, TryStreamExt};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::runtime::Handle;
use tokio_util::io::StreamReader;

/// A client that goes on sending after a failure is listened to so long.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// A body that is read to its end even when its reader gave up half-way: stock clients
/// send all they have before they look at the answer, and would report a broken
/// connection instead of the reason.
struct Upload {
    /// `None` at the end.
    stream: Option<BodyDataStream>,
}

/// A request body as bytes to read.
pub(crate) fn reader(body: Body) -> impl AsyncRead + Send + Unpin + 'static {
    let upload = Upload { stream: Some(body.into_data_stream()) };
    StreamReader::new(upload.map_err(std::io::Error::other))
}

impl Stream for Upload {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        let next = stream.poll_next_unpin(context);
        if matches!(next, Poll::Ready(None | Some(Err(_)))) {
            self.stream = None;
        }
        next
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let (Some(mut rest), Ok(runtime)) = (self.stream.take(), Handle::try_current()) else { return };
        runtime.spawn(async move {
            let drain = async { while let Some(Ok(_)) = rest.next().await {} };
            // A client that sends for longer is cut off.
            let _ = tokio::time::timeout(DRAIN_MAX, drain).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::AsyncReadExt;

    fn counted(pieces: usize) -> (Body, Arc<AtomicUsize>) {
        let taken = Arc::new(AtomicUsize::new(0));
        let counter = taken.clone();
        let stream = futures_util::stream::iter(0..pieces).map(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(Bytes::from_static(b"piece"))
        });
        (Body::from_stream(stream), taken)
    }

    #[tokio::test]
    async fn a_reader_that_gives_up_does_not_stop_the_client() {
        let (body, taken) = counted(100);
        let mut first = [0; 3];
        reader(body).read_exact(&mut first).await.unwrap();
        while taken.load(Ordering::Relaxed) < 100 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_whole_body_is_read() {
        let (body, _) = counted(3);
        let mut text = String::new();
        reader(body).read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "piecepiecepiece");
    }
}
