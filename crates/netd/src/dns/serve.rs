//! The resolver of one namespace: answers what is known, forwards the rest.

use super::Counters;
use super::forward::forward;
use super::message::{Outcome, Transport, answer};
use crate::desired::Desired;
use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Forwarded questions and TCP clients of one container at a time; more are dropped,
/// as an overrun socket would do.
const TASKS_MAX: usize = 256;
/// Of one container; a flood must not take the time that others need.
const QUERIES_PER_SECOND_MAX: u32 = 5000;
const DATAGRAM_LENGTH_MAX: usize = 4096;
const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// After an error that concerns the socket, so that it cannot spin.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// What a resolver knows of its place.
#[derive(Clone)]
pub(super) struct View {
    pub desired: Arc<RwLock<Desired>>,
    pub namespace: PathBuf,
    pub counters: Arc<Counters>,
}

impl View {
    fn answer(&self, query: &[u8], transport: Transport) -> Outcome {
        let desired = self.desired.read().unwrap_or_else(PoisonError::into_inner);
        let outcome = answer(&desired, &self.namespace, query, transport);
        self.counters.queries.fetch_add(1, Ordering::Relaxed);
        if outcome == Outcome::Ignore {
            self.counters.malformed.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }

    fn note_dropped(&self) {
        self.counters.dropped.fetch_add(1, Ordering::Relaxed);
    }

    fn upstream(&self) -> Vec<IpAddr> {
        let desired = self.desired.read().unwrap_or_else(PoisonError::into_inner);
        desired.local.resolvers.get(&self.namespace).map(|resolver| resolver.upstream.clone()).unwrap_or_default()
    }
}

/// Serves until aborted; everything it started ends with it.
pub(super) async fn serve(view: View, udp: std::net::UdpSocket, tcp: std::net::TcpListener) {
    let (udp, tcp) = match (UdpSocket::from_std(udp), TcpListener::from_std(tcp)) {
        (Ok(udp), Ok(tcp)) => (Arc::new(udp), tcp),
        (Err(error), _) | (_, Err(error)) => {
            tracing::warn!(%error, "a resolver cannot use its sockets");
            return;
        }
    };
    let mut tasks = JoinSet::new();
    let mut share = Share::full(Instant::now());
    loop {
        tokio::select! {
            received = receive(&udp) => match received {
                Ok((query, client)) if share.take(Instant::now()) => {
                    answer_datagram(&view, query, client, &udp, &mut tasks);
                }
                Ok(_) => view.note_dropped(),
                // ICMP errors for earlier answers arrive here as well.
                Err(error) => pause_after(&error).await,
            },
            accepted = tcp.accept() => match accepted {
                Ok((stream, _)) if tasks.len() < TASKS_MAX => {
                    tasks.spawn(serve_stream(view.clone(), stream));
                }
                Ok(_) => view.note_dropped(),
                Err(error) => pause_after(&error).await,
            },
            () = reap(&mut tasks) => {}
        }
    }
}

/// One container's share of netd's time: a bucket that fills up again with it.
#[derive(Debug)]
struct Share {
    left: u32,
    filled_up: Instant,
}

impl Share {
    fn full(now: Instant) -> Self {
        Self { left: QUERIES_PER_SECOND_MAX, filled_up: now }
    }

    /// Whether there is something left for one more query.
    fn take(&mut self, now: Instant) -> bool {
        let passed_ms = now.saturating_duration_since(self.filled_up).as_millis();
        let more = u32::try_from(passed_ms * u128::from(QUERIES_PER_SECOND_MAX) / 1000).unwrap_or(u32::MAX);
        if more > 0 {
            self.left = self.left.saturating_add(more).min(QUERIES_PER_SECOND_MAX);
            self.filled_up = now;
        }
        let has_some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        has_some
    }
}

/// Waits for the end of any task.
async fn reap(tasks: &mut JoinSet<()>) {
    if tasks.join_next().await.is_none() {
        pending::<()>().await;
    }
}

async fn pause_after(error: &io::Error) {
    tracing::debug!(%error, "a resolver's socket failed");
    tokio::time::sleep(ERROR_PAUSE).await;
}

/// No buffer is held while waiting: there is a resolver for every container.
async fn receive(udp: &UdpSocket) -> io::Result<(Vec<u8>, SocketAddr)> {
    loop {
        udp.readable().await?;
        let mut buffer = [0; DATAGRAM_LENGTH_MAX];
        match udp.try_recv_from(&mut buffer) {
            Ok((length, client)) => return Ok((buffer[..length].to_vec(), client)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

fn answer_datagram(view: &View, query: Vec<u8>, client: SocketAddr, udp: &Arc<UdpSocket>, tasks: &mut JoinSet<()>) {
    match view.answer(&query, Transport::Udp) {
        // A full send buffer drops the answer, as the network might.
        Outcome::Reply(reply) => drop(udp.try_send_to(&reply, client)),
        Outcome::Forward if tasks.len() < TASKS_MAX => {
            let (udp, upstream) = (udp.clone(), view.upstream());
            tasks.spawn(async move {
                let reply = forward(&query, &upstream, Transport::Udp).await;
                drop(udp.send_to(&reply, client).await);
            });
        }
        Outcome::Forward => view.note_dropped(),
        Outcome::Ignore => {}
    }
}

async fn serve_stream(view: View, mut stream: TcpStream) {
    // The client is gone or silent: nothing to tell anybody.
    while let Ok(Ok(true)) = timeout(TCP_IDLE_TIMEOUT, serve_one(&view, &mut stream)).await {}
}

/// Whether the client may ask again.
async fn serve_one(view: &View, stream: &mut TcpStream) -> io::Result<bool> {
    let mut query = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut query).await?;
    let reply = match view.answer(&query, Transport::Tcp) {
        Outcome::Reply(reply) => reply,
        Outcome::Forward => forward(&query, &view.upstream(), Transport::Tcp).await,
        Outcome::Ignore => return Ok(false),
    };
    let length = u16::try_from(reply.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    stream.write_all(&[&length.to_be_bytes(), reply.as_slice()].concat()).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_used_up_and_comes_back() {
        let start = Instant::now();
        let mut share = Share::full(start);
        let taken = |share: &mut Share, now: Instant| (0..20_000).filter(|_| share.take(now)).count();
        assert_eq!(taken(&mut share, start), 5000);
        assert_eq!(taken(&mut share, start + Duration::from_millis(100)), 500);
        assert_eq!(taken(&mut share, start + Duration::from_secs(60)), 5000);
        assert!(!share.take(start));
    }
}
