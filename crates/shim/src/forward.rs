//! Lines on their way to a log service of the machine. A service that does not take them
//! loses lines, never holds the container up; the log file has them all.

use crate::error::ShimError;
use crate::log::OutputStream;
use skep_model::Timestamp;
use skep_model::shim::{LogAddress, LogForward, SyslogFormat};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

/// Severities of syslog: what a process writes to its standard error is an error.
const ERROR: u8 = 3;
const INFORMATION: u8 = 6;
/// Longer names are cut, as RFC 5424 has it.
const APP_NAME_LENGTH_MAX: usize = 48;

/// A socket that never waits.
pub(crate) struct Forwarder {
    socket: Socket,
    wish: LogForward,
}

enum Socket {
    Unix(UnixDatagram, PathBuf),
    Udp(UdpSocket, SocketAddr),
}

impl Forwarder {
    /// # Errors
    /// No socket can be made.
    pub(crate) fn open(wish: &LogForward) -> Result<Self, ShimError> {
        let at = ShimError::at::<std::io::Error>;
        let socket = match wish {
            LogForward::Journal { socket: path, .. } | LogForward::Syslog { to: LogAddress::Unix(path), .. } => {
                let socket = UnixDatagram::unbound().map_err(at("make a socket for the log"))?;
                socket.set_nonblocking(true).map_err(at("make the log's socket not wait"))?;
                Socket::Unix(socket, path.clone())
            }
            LogForward::Syslog { to: LogAddress::Udp(address), .. } => {
                let any: IpAddr = match address {
                    SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                let socket = UdpSocket::bind((any, 0)).map_err(at("make a socket for the log"))?;
                socket.set_nonblocking(true).map_err(at("make the log's socket not wait"))?;
                Socket::Udp(socket, *address)
            }
        };
        Ok(Self { socket, wish: wish.clone() })
    }

    /// Sends one line.
    pub(crate) fn send(&self, stream: OutputStream, line: &[u8], at: Timestamp) {
        let message = encode(&self.wish, stream, line, at);
        // Lost, as every datagram may be.
        let _ = match &self.socket {
            Socket::Unix(socket, path) => socket.send_to(&message, path),
            Socket::Udp(socket, address) => socket.send_to(&message, address),
        };
    }
}

fn encode(wish: &LogForward, stream: OutputStream, line: &[u8], at: Timestamp) -> Vec<u8> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let severity = if stream == OutputStream::Stderr { ERROR } else { INFORMATION };
    match wish {
        LogForward::Syslog { format, facility, hostname, tag, .. } => {
            let head = syslog_head(*format, facility * 8 + severity, hostname, tag, at);
            [head.as_bytes(), line].concat()
        }
        LogForward::Journal { fields, .. } => {
            let mut message = Vec::new();
            field(&mut message, "PRIORITY", severity.to_string().as_bytes());
            field(&mut message, "MESSAGE", line);
            for (name, value) in fields {
                field(&mut message, name, value.as_bytes());
            }
            message
        }
    }
}

fn syslog_head(format: SyslogFormat, priority: u8, hostname: &str, tag: &str, at: Timestamp) -> String {
    let moment = chrono::DateTime::from_timestamp_nanos(at.0);
    let pid = std::process::id();
    match format {
        SyslogFormat::Local => format!("<{priority}>{} {tag}[{pid}]: ", moment.format("%b %e %H:%M:%S")),
        SyslogFormat::Rfc3164 => {
            format!("<{priority}>{} {hostname} {tag}[{pid}]: ", moment.format("%b %e %H:%M:%S"))
        }
        SyslogFormat::Rfc5424 => {
            let name: String = tag.chars().take(APP_NAME_LENGTH_MAX).collect();
            let moment = moment.format("%Y-%m-%dT%H:%M:%S%.6fZ");
            format!("<{priority}>1 {moment} {hostname} {name} {pid} {name} - ")
        }
    }
}

/// A value with a newline in it goes with its length.
fn field(message: &mut Vec<u8>, name: &str, value: &[u8]) {
    message.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        message.push(b'\n');
        message.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        message.push(b'=');
    }
    message.extend_from_slice(value);
    message.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const AT: Timestamp = Timestamp(1_500_000_000_000_000_000);

    fn syslog(to: LogAddress, format: SyslogFormat) -> LogForward {
        LogForward::Syslog { to, format, facility: 3, hostname: "host".into(), tag: "0123".into() }
    }

    #[test]
    fn syslog_lines_begin_as_their_format_says() {
        let pid = std::process::id();
        let check = |format, stream, expect: String| {
            let wish = syslog(LogAddress::Unix("/dev/log".into()), format);
            let found = encode(&wish, stream, b"hello\n", AT);
            assert_eq!(String::from_utf8(found).unwrap(), expect);
        };
        check(SyslogFormat::Local, OutputStream::Stdout, format!("<30>Jul 14 02:40:00 0123[{pid}]: hello"));
        check(SyslogFormat::Rfc3164, OutputStream::Stderr, format!("<27>Jul 14 02:40:00 host 0123[{pid}]: hello"));
        check(
            SyslogFormat::Rfc5424,
            OutputStream::Stdout,
            format!("<30>1 2017-07-14T02:40:00.000000Z host 0123 {pid} 0123 - hello"),
        );
    }

    #[test]
    fn the_journal_gets_fields() {
        let fields = BTreeMap::from([("CONTAINER_NAME".to_owned(), "a\nb".to_owned())]);
        let wish = LogForward::Journal { socket: "/x".into(), fields };
        let found = encode(&wish, OutputStream::Stdout, b"line\n", AT);
        let expect = b"PRIORITY=6\nMESSAGE=line\nCONTAINER_NAME\n\x03\0\0\0\0\0\0\0a\nb\n";
        assert_eq!(found, expect);
    }

    #[test]
    fn datagrams_arrive_and_nobody_waits_for_who_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let service = UnixDatagram::bind(&path).unwrap();
        let forwarder = Forwarder::open(&syslog(LogAddress::Unix(path.clone()), SyslogFormat::Local)).unwrap();
        forwarder.send(OutputStream::Stdout, b"one\n", AT);
        let mut buffer = [0; 100];
        let count = service.recv(&mut buffer).unwrap();
        assert!(buffer[..count].ends_with(b"one"));
        drop(service);
        std::fs::remove_file(&path).unwrap();
        forwarder.send(OutputStream::Stdout, b"lost\n", AT);
        let service = UnixDatagram::bind(&path).unwrap();
        forwarder.send(OutputStream::Stdout, b"two\n", AT);
        let count = service.recv(&mut buffer).unwrap();
        assert!(buffer[..count].ends_with(b"two"));

        let service = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = LogAddress::Udp(service.local_addr().unwrap());
        Forwarder::open(&syslog(to, SyslogFormat::Rfc5424)).unwrap().send(OutputStream::Stderr, b"three", AT);
        let count = service.recv(&mut buffer).unwrap();
        assert!(buffer[..count].ends_with(b"three"));
    }
}
