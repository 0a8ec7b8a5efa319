//! One connection to `shim.sock`: a request, then an answer or a stream.

use crate::log::OutputStream;
use serde::Serialize;
use skep_model::shim::ShimReply;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

/// A request is one short line.
const REQUEST_LENGTH_MAX: usize = 64 * 1024;
/// Output waiting for one client. Beyond it the process has to wait for that client,
/// as long as the client goes on taking something.
pub(crate) const OUTPUT_BUFFER_MAX: usize = 1024 * 1024;
const FRAME_HEADER_LENGTH: usize = 8;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It has not said yet.
    Requesting,
    Stream {
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    /// It wants the exit record.
    Waiting,
    /// It has its answer.
    Answered,
}

/// A connected client.
pub(crate) struct Client {
    socket: UnixStream,
    pub(crate) role: Role,
    request: Vec<u8>,
    output: VecDeque<u8>,
    /// When it last took something, or had nothing to take.
    pub(crate) last_progress: Instant,
    /// Close once the output is delivered.
    pub(crate) closing: bool,
    /// It has sent its last byte.
    pub(crate) input_ended: bool,
    pub(crate) broken: bool,
}

impl Client {
    /// A fresh connection.
    pub(crate) fn new(socket: UnixStream) -> std::io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            role: Role::Requesting,
            request: Vec::new(),
            output: VecDeque::new(),
            last_progress: Instant::now(),
            closing: false,
            input_ended: false,
            broken: false,
        })
    }

    pub(crate) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    pub(crate) fn wants(&self, stream: OutputStream) -> bool {
        match self.role {
            Role::Stream { stdout, stderr, .. } => match stream {
                OutputStream::Stdout => stdout,
                OutputStream::Stderr => stderr,
            },
            Role::Requesting | Role::Waiting | Role::Answered => false,
        }
    }

    pub(crate) fn gives_input(&self) -> bool {
        matches!(self.role, Role::Stream { stdin: true, .. })
    }

    pub(crate) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.output.len() >= OUTPUT_BUFFER_MAX
    }

    /// Nothing more will happen on it.
    pub(crate) fn is_done(&self) -> bool {
        self.broken || (self.closing && self.output.is_empty())
    }

    /// Queues a frame.
    pub(crate) fn push_output(&mut self, stream: OutputStream, bytes: &[u8]) {
        if self.output.is_empty() {
            self.last_progress = Instant::now();
        }
        let mut header = [0; FRAME_HEADER_LENGTH];
        header[0] = stream.number();
        // A read is far below 4 GiB.
        header[4..].copy_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.output.extend(header);
        self.output.extend(bytes);
        self.flush();
    }

    /// Queues an answer.
    pub(crate) fn reply(&mut self, reply: &ShimReply) {
        self.push_line(reply);
        self.flush();
    }

    fn push_line(&mut self, value: &impl Serialize) {
        // Our own types always serialise.
        let mut line = serde_json::to_vec(value).unwrap_or_default();
        line.push(b'\n');
        self.output.extend(line);
    }

    /// Writes what the socket takes.
    pub(crate) fn flush(&mut self) {
        while !self.output.is_empty() && !self.broken {
            match self.socket.write(self.output.as_slices().0) {
                Ok(0) => self.broken = true,
                Ok(count) => {
                    self.output.drain(..count);
                    self.last_progress = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.broken = true,
            }
        }
        if self.output.is_empty() && self.output.capacity() > REQUEST_LENGTH_MAX {
            self.output = VecDeque::new();
        }
    }

    /// Reads input into `buffer`; 0 is the end, `None` nothing now.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        loop {
            match self.socket.read(buffer) {
                Ok(count) => return Some(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.broken = true;
                    return Some(0);
                }
            }
        }
    }

    /// Collects the request line; returns it without its newline once complete. What
    /// follows it in the same read is input for the process, and returned as well.
    pub(crate) fn read_request(&mut self) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut buffer = [0; 4096];
        match self.read(&mut buffer) {
            None => None,
            Some(0) => {
                self.broken = true;
                None
            }
            Some(count) => {
                self.request.extend_from_slice(&buffer[..count]);
                let Some(end) = self.request.iter().position(|&byte| byte == b'\n') else {
                    self.broken = self.request.len() > REQUEST_LENGTH_MAX;
                    return None;
                };
                let rest = self.request.split_off(end + 1);
                let mut line = std::mem::take(&mut self.request);
                line.pop();
                Some((line, rest))
            }
        }
    }
}
