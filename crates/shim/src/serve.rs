//! The loop of a shim: process output to log and clients, client input to the process,
//! requests, and the process's end.

use crate::clients::{Client, Role};
use crate::error::ShimError;
use crate::files::now;
use crate::log::{LogFile, OutputStream};
use crate::stdio::ShimEnds;
use crate::sys;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use skep_model::Timestamp;
use skep_model::shim::{ExitRecord, ShimReply, ShimRequest};
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

/// Connections at one time; more are closed at once.
const CLIENTS_MAX: usize = 256;
/// Input waiting for the process; clients wait beyond it.
const INPUT_QUEUE_MAX: usize = 64 * 1024;
const READ_LENGTH: usize = 32 * 1024;
/// A client that takes nothing for so long while its buffer is full is dropped, so that
/// it cannot hold up the container for ever.
const STALL_MAX: Duration = Duration::from_secs(30);
/// After the process ended, how long its output may be held open by others.
pub(crate) const DRAIN_MAX: Duration = Duration::from_millis(250);

/// Where the process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Process {
    NotStarted,
    Running(Pid),
    Ended { exit_code: i32, at: Timestamp, seen: Instant },
}

/// All state of a shim's loop.
pub(crate) struct Server {
    listener: UnixListener,
    signals: SignalFd,
    clients: Vec<Client>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    /// Input for the process; before it starts, too.
    input: VecDeque<u8>,
    /// Close stdin once `input` is written.
    input_ended: bool,
    terminal: bool,
    stdin_once: bool,
    log: Option<LogFile>,
    process: Process,
    record: Option<ExitRecord>,
}

/// What a round of the loop was about.
#[derive(Default)]
pub(crate) struct Round {
    /// The extra descriptor is readable or closed.
    pub(crate) extra_ready: bool,
}

impl Server {
    /// Before the process exists. SIGCHLD is blocked from here on.
    pub(crate) fn new(
        listener: UnixListener,
        log: Option<LogFile>,
        terminal: bool,
        stdin_once: bool,
    ) -> Result<Self, ShimError> {
        let mut mask = nix::sys::signal::SigSet::empty();
        mask.add(nix::sys::signal::Signal::SIGCHLD);
        mask.thread_block().map_err(ShimError::at("block SIGCHLD"))?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(ShimError::at("make signal descriptor"))?;
        listener.set_nonblocking(true).map_err(ShimError::at("set up socket"))?;
        Ok(Self {
            listener,
            signals,
            clients: Vec::new(),
            stdout: None,
            stderr: None,
            stdin: None,
            input: VecDeque::new(),
            input_ended: false,
            terminal,
            stdin_once,
            log,
            process: Process::NotStarted,
            record: None,
        })
    }

    /// The process runs from now on.
    pub(crate) fn started(&mut self, pid: Pid, ends: ShimEnds) {
        self.process = Process::Running(pid);
        self.stdin = ends.stdin;
        self.stdout = ends.stdout;
        self.stderr = ends.stderr;
        if self.stdin.is_none() {
            self.input = VecDeque::new();
        }
    }

    /// Serves until the process has ended and its output is complete in the log.
    pub(crate) fn run_to_exit(&mut self) -> Result<(i32, Timestamp), ShimError> {
        loop {
            self.step(None)?;
            self.reap();
            if let Process::Ended { exit_code, at, seen } = self.process {
                let drained = self.stdout.is_none() && self.stderr.is_none();
                let held_up = self.clients.iter().any(Client::is_full);
                if drained || (!held_up && seen.elapsed() >= DRAIN_MAX) {
                    if let Some(log) = &mut self.log {
                        log.finish(now());
                    }
                    return Ok((exit_code, at));
                }
            }
        }
    }

    /// Answers those who wait, then gives attached clients their last output.
    pub(crate) fn finish(&mut self, record: ExitRecord) -> Result<(), ShimError> {
        self.stdin = None;
        self.stdout = None;
        self.stderr = None;
        for client in &mut self.clients {
            if client.role == Role::Waiting {
                client.reply(&ShimReply::Exited(record.clone()));
            }
            client.closing |= client.role != Role::Requesting;
        }
        self.record = Some(record);
        self.clients.retain(|client| !client.is_done());
        while self.clients.iter().any(Client::has_output) {
            self.step(None)?;
        }
        Ok(())
    }

    /// One round. `extra` is a descriptor the caller wants to know about.
    pub(crate) fn step(&mut self, extra: Option<BorrowedFd<'_>>) -> Result<Round, ShimError> {
        let ready = self.wait(extra)?;
        if ready.signal {
            while matches!(self.signals.read_signal(), Ok(Some(_))) {}
        }
        if ready.listener {
            self.accept();
        }
        if ready.stdin {
            self.write_input();
        }
        for (index, ready) in ready.clients.iter().enumerate() {
            if ready.writable {
                self.clients[index].flush();
            }
            if ready.readable {
                self.serve_client(index);
            }
        }
        if ready.stdout {
            self.read_output(OutputStream::Stdout);
        }
        if ready.stderr {
            self.read_output(OutputStream::Stderr);
        }
        self.drop_finished_clients();
        Ok(Round { extra_ready: ready.extra })
    }

    fn wait(&self, extra: Option<BorrowedFd<'_>>) -> Result<Ready, ShimError> {
        let blocked = self.clients.iter().any(|client| client.is_full());
        let room_for_input = self.input.len() < INPUT_QUEUE_MAX;
        let mut fds = Vec::with_capacity(self.clients.len() + 6);
        let mut add = |fd: Option<BorrowedFd<'_>>, flags: PollFlags| -> Option<usize> {
            // The descriptors outlive the call: they are borrowed from `self`.
            let fd = fd?;
            fds.push((fd.as_raw_fd(), flags));
            Some(fds.len() - 1)
        };
        let output = |fd: &Option<OwnedFd>| if blocked { None } else { fd.as_ref().map(|fd| fd.as_raw_fd()) };
        let borrow = sys::borrow;
        let signal = add(Some(self.signals.as_fd()), PollFlags::POLLIN);
        let listener = add(Some(self.listener.as_fd()), PollFlags::POLLIN);
        let extra = add(extra, PollFlags::POLLIN);
        let stdout = add(output(&self.stdout).map(borrow), PollFlags::POLLIN);
        let stderr = add(output(&self.stderr).map(borrow), PollFlags::POLLIN);
        let pending = !self.input.is_empty() || self.input_ended;
        let stdin = add(self.stdin.as_ref().filter(|_| pending).map(AsFd::as_fd), PollFlags::POLLOUT);
        let mut clients = Vec::with_capacity(self.clients.len());
        for client in &self.clients {
            let mut flags = PollFlags::empty();
            let reads = client.role != Role::Answered && !client.input_ended && !client.closing;
            if reads && (room_for_input || !client.gives_input()) {
                flags |= PollFlags::POLLIN;
            }
            if client.has_output() {
                flags |= PollFlags::POLLOUT;
            }
            clients.push(add(Some(client.socket().as_fd()), flags));
        }
        let mut polled: Vec<PollFd<'_>> = fds.iter().map(|&(fd, flags)| PollFd::new(borrow(fd), flags)).collect();
        match poll(&mut polled, self.timeout()) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(ShimError::System { step: "poll", source: errno.into() }),
        }
        let events =
            |index: Option<usize>| index.and_then(|index| polled[index].revents()).unwrap_or_else(PollFlags::empty);
        let any = |index| !events(index).is_empty();
        let readable = PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR;
        Ok(Ready {
            signal: any(signal),
            listener: any(listener),
            extra: any(extra),
            stdout: any(stdout),
            stderr: any(stderr),
            stdin: any(stdin),
            clients: clients
                .into_iter()
                .map(|index| ClientReady {
                    readable: events(index).intersects(readable),
                    writable: events(index).intersects(PollFlags::POLLOUT),
                })
                .collect(),
        })
    }

    /// Only stalled clients and the drain after the end need a clock.
    fn timeout(&self) -> PollTimeout {
        let stall = self
            .clients
            .iter()
            .filter(|client| client.is_full() || (client.has_output() && self.record.is_some()))
            .map(|client| STALL_MAX.saturating_sub(client.last_progress.elapsed()))
            .min();
        let drain = match self.process {
            Process::Ended { seen, .. } if self.record.is_none() => Some(DRAIN_MAX.saturating_sub(seen.elapsed())),
            Process::NotStarted | Process::Running(_) | Process::Ended { .. } => None,
        };
        match stall.into_iter().chain(drain).min() {
            // A millisecond more, so that the deadline has passed when it fires.
            Some(wait) => PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        }
    }

    fn accept(&mut self) {
        while let Ok((socket, _)) = self.listener.accept() {
            if self.clients.len() >= CLIENTS_MAX {
                continue;
            }
            if let Ok(client) = Client::new(socket) {
                self.clients.push(client);
            }
        }
    }

    fn serve_client(&mut self, index: usize) {
        match self.clients[index].role {
            Role::Requesting => {
                if let Some((line, rest)) = self.clients[index].read_request() {
                    self.answer(index, &line);
                    if self.clients[index].gives_input() {
                        self.take_input(&rest);
                    }
                }
            }
            Role::Stream { stdin, .. } => {
                let mut buffer = [0; READ_LENGTH];
                match self.clients[index].read(&mut buffer) {
                    None => {}
                    Some(0) => self.client_input_ended(index),
                    Some(count) if stdin => self.take_input(&buffer[..count]),
                    // It has nothing to say on a stream it did not ask for.
                    Some(_) => {}
                }
            }
            Role::Waiting | Role::Answered => {
                let mut buffer = [0; 64];
                if self.clients[index].read(&mut buffer) == Some(0) {
                    self.clients[index].broken = true;
                }
            }
        }
    }

    fn answer(&mut self, index: usize, line: &[u8]) {
        let request = match serde_json::from_slice(line) {
            Ok(request) => request,
            Err(error) => {
                self.reply_and_close(index, &ShimReply::Error { message: format!("malformed request: {error}") });
                return;
            }
        };
        match request {
            ShimRequest::Attach { stdin, stdout, stderr } => {
                self.clients[index].role = Role::Stream { stdin, stdout, stderr };
                self.clients[index].reply(&ShimReply::Ok);
                self.clients[index].closing |= self.record.is_some();
            }
            ShimRequest::Wait => match self.record.clone() {
                Some(record) => self.reply_and_close(index, &ShimReply::Exited(record)),
                None => self.clients[index].role = Role::Waiting,
            },
            ShimRequest::Resize { height, width } => {
                let reply = self.resize(height, width);
                self.reply_and_close(index, &reply);
            }
            ShimRequest::Signal { number } => {
                let reply = self.signal(number);
                self.reply_and_close(index, &reply);
            }
            ShimRequest::CloseStdin => {
                self.input_ended = true;
                self.reply_and_close(index, &ShimReply::Ok);
            }
        }
    }

    fn reply_and_close(&mut self, index: usize, reply: &ShimReply) {
        self.clients[index].role = Role::Answered;
        self.clients[index].reply(reply);
        self.clients[index].closing = true;
    }

    fn resize(&self, height: u16, width: u16) -> ShimReply {
        let Some(master) = self.stdout.as_ref().filter(|_| self.terminal) else {
            return ShimReply::Error { message: "the process has no terminal".into() };
        };
        match sys::set_window_size(master.as_raw_fd(), height, width) {
            Ok(()) => ShimReply::Ok,
            Err(errno) => ShimReply::Error { message: format!("resize terminal: {}", errno.desc()) },
        }
    }

    /// The process cannot have been reaped by anyone else, so its pid is still its own.
    fn signal(&self, number: i32) -> ShimReply {
        let Process::Running(pid) = self.process else {
            return ShimReply::Error { message: "the process is not running".into() };
        };
        match sys::send_signal(pid, number) {
            Ok(()) => ShimReply::Ok,
            Err(errno) => ShimReply::Error { message: errno.desc().to_owned() },
        }
    }

    fn take_input(&mut self, bytes: &[u8]) {
        let open = self.stdin.is_some() || self.process == Process::NotStarted;
        if open && !self.input_ended {
            self.input.extend(bytes);
            self.write_input();
        }
    }

    /// Half-close, or the whole connection went: either way no more input comes from it.
    fn client_input_ended(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.input_ended = true;
        if client.gives_input() && self.stdin_once && !self.terminal {
            self.input_ended = true;
            self.write_input();
        }
    }

    fn write_input(&mut self) {
        let Some(stdin) = &self.stdin else { return };
        while !self.input.is_empty() {
            match nix::unistd::write(stdin, self.input.as_slices().0) {
                Ok(count) => drop(self.input.drain(..count)),
                Err(nix::Error::EAGAIN) => return,
                Err(nix::Error::EINTR) => {}
                // The process closed its end: what is left is for nobody.
                Err(_) => {
                    self.input.clear();
                    self.stdin = None;
                    return;
                }
            }
        }
        if self.input_ended {
            self.stdin = None;
        }
    }

    fn read_output(&mut self, stream: OutputStream) {
        let source = match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        let Some(fd) = source else { return };
        let mut buffer = [0; READ_LENGTH];
        match nix::unistd::read(fd.as_fd(), &mut buffer) {
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => {}
            // A terminal whose last slave closed answers EIO.
            Ok(0) | Err(_) => *source = None,
            Ok(count) => {
                let bytes = &buffer[..count];
                if let Some(log) = &mut self.log {
                    log.append(stream, bytes, now());
                }
                for client in self.clients.iter_mut().filter(|client| client.wants(stream)) {
                    client.push_output(stream, bytes);
                }
            }
        }
    }

    fn drop_finished_clients(&mut self) {
        let finishing = self.record.is_some();
        self.clients.retain(|client| {
            let stalled =
                (client.is_full() || (finishing && client.has_output())) && client.last_progress.elapsed() >= STALL_MAX;
            !client.is_done() && !stalled
        });
    }

    /// Reaps whatever ended: the process itself, and orphans that came to us as the
    /// nearest reaper.
    fn reap(&mut self) {
        loop {
            let ended = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            if self.process == Process::Running(ended.0) {
                self.process = Process::Ended { exit_code: ended.1, at: now(), seen: Instant::now() };
            }
        }
    }
}

/// What `poll` found.
struct Ready {
    signal: bool,
    listener: bool,
    extra: bool,
    stdout: bool,
    stderr: bool,
    stdin: bool,
    clients: Vec<ClientReady>,
}

struct ClientReady {
    readable: bool,
    writable: bool,
}
