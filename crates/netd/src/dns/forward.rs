//! Asking upstream servers, with limits: a time for each server, a number of them, and
//! a number of questions that may be under way on this machine.

use super::message::{Transport, server_failure};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

const SERVER_TIMEOUT: Duration = Duration::from_secs(2);
const SERVERS_MAX: usize = 3;
const PORT: u16 = 53;
const HOST_CONFIGURATION: &str = "/etc/resolv.conf";
const REPLY_CODE_MASK: u8 = 0x0f;
const SERVER_FAILURE: u8 = 2;
const REFUSED: u8 = 5;

/// Questions under way on the whole machine; more are refused.
static UNDER_WAY: Semaphore = Semaphore::const_new(1024);

/// Upstream's answer, or a failure message.
pub async fn forward(query: &[u8], upstream: &[IpAddr], transport: Transport) -> Vec<u8> {
    let Ok(_permit) = UNDER_WAY.try_acquire() else { return server_failure(query) };
    let host_servers;
    let servers = if upstream.is_empty() {
        host_servers = host_servers_of(&std::fs::read_to_string(HOST_CONFIGURATION).unwrap_or_default());
        &host_servers
    } else {
        upstream
    };
    let mut last = None;
    for server in servers.iter().take(SERVERS_MAX) {
        let server = SocketAddr::new(*server, PORT);
        let attempt = async {
            match transport {
                Transport::Udp => ask_udp(query, server).await,
                Transport::Tcp => ask_tcp(query, server).await,
            }
        };
        match timeout(SERVER_TIMEOUT, attempt).await {
            // Another server may know better.
            Ok(Ok(reply)) if is_refusal(&reply) => last = Some(reply),
            Ok(Ok(reply)) => return reply,
            Ok(Err(error)) => tracing::debug!(%server, %error, "upstream name server failed"),
            Err(_) => tracing::debug!(%server, "upstream name server did not answer"),
        }
    }
    last.unwrap_or_else(|| server_failure(query))
}

fn is_refusal(reply: &[u8]) -> bool {
    matches!(reply.get(3).map(|byte| byte & REPLY_CODE_MASK), Some(SERVER_FAILURE | REFUSED))
}

/// The servers of a `resolv.conf`.
pub fn host_servers_of(text: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next()?.parse().ok())?
    };
    text.lines().filter_map(server).take(SERVERS_MAX).collect()
}

/// A socket of its own for each question: its random port guards against forged answers.
async fn ask_udp(query: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let any = if server.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let reply = &buffer[..length];
        if reply.len() >= 12 && reply.get(..2) == query.get(..2) {
            return Ok(reply.to_vec());
        }
    }
}

async fn ask_tcp(query: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let mut reply = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut reply).await?;
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_servers_are_read_and_limited() {
        let text = "# x\nnameserver 1.1.1.1\nsearch a b\nnameserver fe80::1%eth0\nnameserver ::1\n\
                    nameserver\nnameserver 2.2.2.2 \nnameserver 3.3.3.3\n";
        let servers: Vec<_> = host_servers_of(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["1.1.1.1", "::1", "2.2.2.2"]);
    }
}
