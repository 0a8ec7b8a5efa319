//! The standard streams of the process: pipes, or one terminal.

use crate::error::ShimError;
use crate::sys;
use nix::cmsg_space;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::pipe2;
use std::fs::OpenOptions;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// The process's ends.
pub(crate) struct ChildEnds {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// The shim's ends, non-blocking. With a terminal, `stdin` and `stdout` are its master.
#[derive(Default)]
pub(crate) struct ShimEnds {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// Three pipes; without `open_stdin`, the process's input is `/dev/null`.
pub(crate) fn make_pipes(open_stdin: bool) -> Result<(ChildEnds, ShimEnds), ShimError> {
    let (stdin_read, stdin_write) = if open_stdin {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(ShimError::at("make stdin pipe"))?;
        (read, Some(write))
    } else {
        let null = OpenOptions::new().read(true).open("/dev/null").map_err(ShimError::at("open /dev/null"))?;
        (null.into(), None)
    };
    let (stdout_read, stdout_write) = pipe2(OFlag::O_CLOEXEC).map_err(ShimError::at("make stdout pipe"))?;
    let (stderr_read, stderr_write) = pipe2(OFlag::O_CLOEXEC).map_err(ShimError::at("make stderr pipe"))?;
    for fd in stdin_write.iter().chain([&stdout_read, &stderr_read]) {
        set_nonblocking(fd)?;
    }
    Ok((
        ChildEnds { stdin: stdin_read, stdout: stdout_write, stderr: stderr_write },
        ShimEnds { stdin: stdin_write, stdout: Some(stdout_read), stderr: Some(stderr_read) },
    ))
}

impl ChildEnds {
    /// Lets a process that is not root open `/dev/stdout` and its like.
    pub(crate) fn give_to(&self, uid: u32) {
        for fd in [&self.stdin, &self.stdout, &self.stderr] {
            // /dev/null stays root's: it is writable by all, and not ours alone.
            let is_pipe =
                nix::sys::stat::fstat(fd.as_fd()).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFIFO);
            if is_pipe {
                let _ = nix::unistd::fchown(fd.as_fd(), Some(uid.into()), None);
            }
        }
    }
}

impl ShimEnds {
    /// Both directions of a terminal.
    pub(crate) fn terminal(master: OwnedFd, open_stdin: bool) -> Result<Self, ShimError> {
        set_nonblocking(&master)?;
        let stdin =
            if open_stdin { Some(master.try_clone().map_err(ShimError::at("duplicate terminal"))?) } else { None };
        Ok(Self { stdin, stdout: Some(master), stderr: None })
    }
}

/// Takes the one descriptor that comes over `socket`.
pub(crate) fn receive_descriptor(socket: &UnixStream) -> Result<OwnedFd, ShimError> {
    let missing = || ShimError::System {
        step: "receive terminal",
        source: std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "no descriptor came"),
    };
    let mut byte = [0u8; 64];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    let mut space = cmsg_space!([std::os::fd::RawFd; 1]);
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut buffers, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
        .map_err(ShimError::at("receive terminal"))?;
    for control in message.cmsgs().map_err(ShimError::at("receive terminal"))? {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let Some(&fd) = fds.first()
        {
            return Ok(sys::own(fd));
        }
    }
    Err(missing())
}

/// Reads and writes on it return instead of waiting.
pub(crate) fn set_nonblocking(fd: &impl AsFd) -> Result<(), ShimError> {
    let flags = fcntl(fd.as_fd(), FcntlArg::F_GETFL).map_err(ShimError::at("read descriptor flags"))?;
    let flags = OFlag::from_bits_truncate(flags) | OFlag::O_NONBLOCK;
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags)).map(drop).map_err(ShimError::at("set descriptor flags"))
}
