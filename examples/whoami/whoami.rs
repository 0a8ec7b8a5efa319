//! A small web server that tells who answered: host name, addresses, the client and its request.
//!
//! `/` and any other path: the answer above. `/health`: 200. `/bench`: one byte.
//! `WHOAMI_PORT` (80) is the port, `WHOAMI_NAME` a name to show. SIGTERM ends it with status 0.
//!
//! Standard library only. A few threads, each with a poll loop over its own connections,
//! so that hundreds of idle keep-alive connections cost no thread.

use std::ffi::{c_int, c_short, c_ulong};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs, io, process, thread};

const THREADS_MAX: usize = 4;
const CONNECTIONS_PER_THREAD_MAX: usize = 1024;
const REQUEST_HEAD_BYTES_MAX: usize = 16 * 1024;
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
const POLL_TIMEOUT_MS: c_int = 5_000;
const STACK_BYTES: usize = 256 * 1024;

#[repr(C)]
struct PollFd {
    fd: c_int,
    events: c_short,
    revents: c_short,
}

const POLLIN: c_short = 1;
const POLLOUT: c_short = 4;
const SIGINT: c_int = 2;
const SIGTERM: c_int = 15;

unsafe extern "C" {
    fn poll(fds: *mut PollFd, count: c_ulong, timeout_ms: c_int) -> c_int;
    fn signal(number: c_int, handler: extern "C" fn(c_int)) -> usize;
    fn _exit(status: c_int) -> !;
}

/// What does not change while the program runs.
struct Identity {
    hostname: String,
    name: Option<String>,
}

fn main() {
    for number in [SIGINT, SIGTERM] {
        // SAFETY: the handler only calls _exit, which is allowed in a signal handler.
        unsafe { signal(number, stop) };
    }
    let port = match env::var("WHOAMI_PORT").ok().as_deref().unwrap_or("80").parse::<u16>() {
        Ok(port) => port,
        Err(error) => fail(format!("WHOAMI_PORT is not a port number: {error}")),
    };
    let listener = match listen(port) {
        Ok(listener) => Arc::new(listener),
        Err(error) => fail(format!("cannot listen on port {port}: {error}")),
    };
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let identity = Arc::new(Identity { hostname, name: env::var("WHOAMI_NAME").ok() });
    println!("Starting up on port {port}");
    let count = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let threads: Vec<_> = (0..count)
        .filter_map(|_| {
            let (listener, identity) = (Arc::clone(&listener), Arc::clone(&identity));
            thread::Builder::new().stack_size(STACK_BYTES).spawn(move || serve(&listener, &identity)).ok()
        })
        .collect();
    if threads.is_empty() {
        fail("cannot start a thread".to_owned());
    }
    for thread in threads {
        let _ = thread.join();
    }
}

/// Needed as process 1 of a container: it gets no default actions for signals.
extern "C" fn stop(_: c_int) {
    // SAFETY: _exit has no preconditions.
    unsafe { _exit(0) }
}

fn fail(message: String) -> ! {
    eprintln!("whoami: {message}");
    process::exit(1)
}

/// Both address families, or IPv4 alone where IPv6 is switched off.
fn listen(port: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// One thread's loop.
fn serve(listener: &TcpListener, identity: &Identity) {
    let mut connections: Vec<Connection> = Vec::new();
    let mut polled = Vec::new();
    loop {
        polled.clear();
        for connection in &connections {
            let events = if connection.output.is_empty() { POLLIN } else { POLLOUT };
            polled.push(PollFd { fd: connection.stream.as_raw_fd(), events, revents: 0 });
        }
        if connections.len() < CONNECTIONS_PER_THREAD_MAX {
            polled.push(PollFd { fd: listener.as_raw_fd(), events: POLLIN, revents: 0 });
        }
        // SAFETY: the pointer and the count describe the vector, which nobody else uses meanwhile.
        let ready = unsafe { poll(polled.as_mut_ptr(), polled.len() as c_ulong, POLL_TIMEOUT_MS) };
        let now = Instant::now();
        if ready < 0 && io::Error::last_os_error().kind() != ErrorKind::Interrupted {
            fail(format!("poll: {}", io::Error::last_os_error()));
        }
        let may_accept = polled.get(connections.len()).is_some_and(|listener| listener.revents != 0);
        let mut events = polled.iter();
        connections.retain_mut(|connection| {
            let is_ready = events.next().is_some_and(|polled| polled.revents != 0);
            if is_ready { connection.advance(identity, now) } else { now - connection.last_used < IDLE_TIMEOUT }
        });
        while may_accept && connections.len() < CONNECTIONS_PER_THREAD_MAX {
            let Ok((stream, peer)) = listener.accept() else { break };
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            let _ = stream.set_nodelay(true);
            let mut connection = Connection::new(stream, peer, now);
            // The request is often there already.
            if connection.advance(identity, now) {
                connections.push(connection);
            }
        }
    }
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Bytes of a request's body still to be skipped.
    body_left: u64,
    closes: bool,
    last_used: Instant,
}

impl Connection {
    fn new(stream: TcpStream, peer: SocketAddr, now: Instant) -> Self {
        Self { stream, peer, input: Vec::new(), output: Vec::new(), body_left: 0, closes: false, last_used: now }
    }

    /// Reads, answers and writes as far as it goes without waiting. False ends the connection.
    fn advance(&mut self, identity: &Identity, now: Instant) -> bool {
        self.last_used = now;
        loop {
            if !self.flush() {
                return false;
            }
            if !self.output.is_empty() {
                return true;
            }
            if self.closes {
                return false;
            }
            if self.answer_next(identity) {
                continue;
            }
            let mut buffer = [0; 8192];
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    fn flush(&mut self) -> bool {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return false,
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Answers one request of the input, if a whole head is there.
    fn answer_next(&mut self, identity: &Identity) -> bool {
        let skipped = self.body_left.min(self.input.len() as u64);
        self.input.drain(..skipped as usize);
        self.body_left -= skipped;
        if self.body_left > 0 {
            return false;
        }
        let Some(end) = self.input.windows(4).position(|window| window == b"\r\n\r\n") else {
            if self.input.len() > REQUEST_HEAD_BYTES_MAX {
                self.refuse("431 Request Header Fields Too Large");
                return true;
            }
            return false;
        };
        let head = String::from_utf8_lossy(&self.input[..end]).into_owned();
        self.input.drain(..end + 4);
        self.answer(&head, identity);
        true
    }

    fn answer(&mut self, head: &str, identity: &Identity) {
        let mut lines = head.split("\r\n");
        let request_line = lines.next().unwrap_or_default();
        let mut words = request_line.split(' ');
        let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
            return self.refuse("400 Bad Request");
        };
        if !version.starts_with("HTTP/1.") {
            return self.refuse("505 HTTP Version Not Supported");
        }
        let header = |name: &str| {
            head.split("\r\n").skip(1).find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        self.body_left = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let wish = header("connection").unwrap_or_default().to_ascii_lowercase();
        // A body of unknown length cannot be told from the next request.
        self.closes = wish.contains("close")
            || (version == "HTTP/1.0" && !wish.contains("keep-alive"))
            || header("transfer-encoding").is_some();
        let body = match target.split('?').next().unwrap_or_default() {
            "/bench" => "1".to_owned(),
            "/health" => String::new(),
            _ => self.describe(head, identity),
        };
        self.respond("200 OK", &body, method == "HEAD");
    }

    fn describe(&self, head: &str, identity: &Identity) -> String {
        let mut text = String::new();
        if let Some(name) = &identity.name {
            text.push_str(&format!("Name: {name}\n"));
        }
        text.push_str(&format!("Hostname: {}\n", identity.hostname));
        for address in addresses() {
            text.push_str(&format!("IP: {address}\n"));
        }
        let peer = SocketAddr::new(self.peer.ip().to_canonical(), self.peer.port());
        text.push_str(&format!("RemoteAddr: {peer}\n"));
        for line in head.split("\r\n") {
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    fn refuse(&mut self, status: &str) {
        self.closes = true;
        self.respond(status, "", false);
    }

    fn respond(&mut self, status: &str, body: &str, without_body: bool) {
        let connection = if self.closes { "close" } else { "keep-alive" };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
            body.len()
        );
        self.output.extend_from_slice(head.as_bytes());
        if !without_body {
            self.output.extend_from_slice(body.as_bytes());
        }
    }
}

/// This machine's addresses now, as the kernel lists them below /proc: networks come and go.
fn addresses() -> Vec<IpAddr> {
    let mut found = Vec::new();
    let mut last = None;
    // "  |-- 10.0.0.1" and on the next line "     /32 host LOCAL".
    for line in fs::read_to_string("/proc/net/fib_trie").unwrap_or_default().lines() {
        if let Some((_, address)) = line.split_once("-- ") {
            last = address.trim().parse::<IpAddr>().ok();
        } else if line.contains("/32 host LOCAL") {
            found.extend(last.take().filter(|address| !found.contains(address)));
        }
    }
    for line in fs::read_to_string("/proc/net/if_inet6").unwrap_or_default().lines() {
        let hex = line.split(' ').next().unwrap_or_default();
        found.extend(u128::from_str_radix(hex, 16).map(|bits| IpAddr::from(bits.to_be_bytes())));
    }
    found
}
