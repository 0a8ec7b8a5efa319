//! The system calls that have no safe wrapper, each small enough to check by eye.
#![allow(unsafe_code)]

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask};
use nix::unistd::{ForkResult, Pid};
use std::io::Write;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Says something on standard error.
pub(crate) fn complain(text: &str) {
    // There is nobody left to tell if this fails.
    let _ = writeln!(std::io::stderr(), "skep shim: {text}");
}

/// Moves the start channel away from standard input and puts `/dev/null` there, and
/// closes everything else that was inherited.
pub(crate) fn take_start_channel() -> std::io::Result<OwnedFd> {
    // SAFETY: closes descriptors nobody in this process has opened yet.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    // SAFETY: standard input is open (the engine made it a socket) and lives to the end of the call.
    let channel = nix::fcntl::fcntl(unsafe { BorrowedFd::borrow_raw(0) }, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(10))?;
    // SAFETY: `fcntl` returned a new descriptor that nothing else owns.
    let channel = unsafe { OwnedFd::from_raw_fd(channel) };
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    // SAFETY: both descriptors are open; standard input is replaced as a whole.
    if unsafe { libc::dup2(null.as_raw_fd(), 0) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(channel)
}

/// Forks. The caller promises to be single-threaded.
pub(crate) fn fork_single_threaded() -> nix::Result<ForkResult> {
    // SAFETY: the shim has exactly one thread, so the child may do anything.
    unsafe { nix::unistd::fork() }
}

/// Ends this process at once, without running destructors or exit handlers that
/// belong to the parent it was forked from.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit` does not return and touches no memory of ours.
    unsafe { libc::_exit(status) }
}

/// Makes the descriptor the process's standard input, output or error.
pub(crate) fn replace_standard(fd: RawFd, standard: RawFd) -> nix::Result<()> {
    // SAFETY: `dup2` only changes the table of descriptors.
    nix::errno::Errno::result(unsafe { libc::dup2(fd, standard) }).map(drop)
}

/// Every descriptor above the standard ones is closed by the next `execve`.
pub(crate) fn close_others_on_exec() -> nix::Result<()> {
    // SAFETY: changes flags of descriptors, no memory.
    let result = unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) };
    nix::errno::Errno::result(result).map(drop)
}

/// Makes the terminal the controlling one of this new session.
pub(crate) fn take_controlling_terminal(fd: RawFd) -> nix::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    nix::errno::Errno::result(unsafe { libc::ioctl(fd, libc::TIOCSCTTY, 0) }).map(drop)
}

/// Opens the slave that belongs to a terminal's master, whatever is mounted on `/dev/pts`.
pub(crate) fn open_terminal_peer(master: RawFd) -> nix::Result<OwnedFd> {
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int, which lives to the end of the call.
    nix::errno::Errno::result(unsafe { libc::ioctl(master, libc::TIOCSPTLCK, &unlock) })?;
    // SAFETY: TIOCGPTPEER takes open flags and returns a new descriptor.
    let fd = unsafe { libc::ioctl(master, libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY) };
    nix::errno::Errno::result(fd)?;
    // SAFETY: the descriptor is new and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets the terminal's size in characters.
pub(crate) fn set_window_size(master: RawFd, height: u16, width: u16) -> nix::Result<()> {
    let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads a `winsize`, which lives to the end of the call.
    nix::errno::Errno::result(unsafe { libc::ioctl(master, libc::TIOCSWINSZ, &size) }).map(drop)
}

/// Takes ownership of a descriptor received over a socket.
pub(crate) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: SCM_RIGHTS made the descriptor for this process; no one else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Gives the process about to be executed the signal state it expects: nothing
/// blocked, nothing ignored. (Rust ignores SIGPIPE, and an ignored signal stays
/// ignored over `execve`.)
pub(crate) fn reset_signals() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator() {
        if !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) {
            // SAFETY: sets the default action; no handler function is involved.
            let _ = unsafe { sigaction(signal, &default) };
        }
    }
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// Sends any signal number, also the real-time ones nix has no name for.
pub(crate) fn send_signal(process: Pid, number: i32) -> nix::Result<()> {
    // SAFETY: `kill` touches no memory.
    nix::errno::Errno::result(unsafe { libc::kill(process.as_raw(), number) }).map(drop)
}

/// Sets user, groups and supplementary groups, keeping permitted capabilities for the
/// steps that follow.
pub(crate) fn become_user(uid: u32, gid: u32, groups: &[u32]) -> std::io::Result<()> {
    let check = |result: libc::c_int| if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) };
    // SAFETY: the slice lives to the end of the call, and its length is passed with it.
    check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
    // SAFETY: prctl with plain integers.
    check(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) })?;
    // SAFETY: plain integers.
    check(unsafe { libc::setresgid(gid, gid, gid) })?;
    // SAFETY: plain integers.
    check(unsafe { libc::setresuid(uid, uid, uid) })?;
    // SAFETY: prctl with plain integers.
    check(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 0, 0, 0, 0) })
}

/// Gives a system-call filter to the kernel, for this thread and its children.
pub(crate) fn install_filter(flags: u32, instructions: &[libc::sock_filter]) -> std::io::Result<()> {
    let count = u16::try_from(instructions.len()).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: count, filter: instructions.as_ptr().cast_mut() };
    // SAFETY: the kernel only reads the program and as many instructions as it says, and both
    // live to the end of the call.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets a resource limit by its kernel number.
pub(crate) fn set_limit(resource: u32, soft: u64, hard: u64) -> std::io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: reads one `rlimit`, which lives to the end of the call.
    if unsafe { libc::setrlimit(resource, &limit) } < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// Brings the loopback interface of the present network namespace up.
pub(crate) fn bring_loopback_up() -> std::io::Result<()> {
    // SAFETY: creates a descriptor.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(std::io::Error::last_os_error());
    }
    let socket = own(socket);
    // SAFETY: an all-zero `ifreq` is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`, which lives to the end of the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// Gives freed memory back to the kernel: a shim waits for most of its life.
pub(crate) fn trim_heap() {
    // SAFETY: `malloc_trim` is callable at any time.
    unsafe { libc::malloc_trim(0) };
}

/// The process's standard input.
// SAFETY: descriptor 0 is open for the whole life of a shim and of an init.
pub(crate) const STDIN: BorrowedFd<'static> = unsafe { BorrowedFd::borrow_raw(0) };
/// The process's standard output.
// SAFETY: as for [`STDIN`].
pub(crate) const STDOUT: BorrowedFd<'static> = unsafe { BorrowedFd::borrow_raw(1) };
/// The process's standard error.
// SAFETY: as for [`STDIN`].
pub(crate) const STDERR: BorrowedFd<'static> = unsafe { BorrowedFd::borrow_raw(2) };

/// Closes everything above the standard streams, for a process that will own nothing else.
pub(crate) fn close_others() -> nix::Result<()> {
    // SAFETY: the caller gives up every object that owns one of them and never drops it.
    nix::errno::Errno::result(unsafe { libc::close_range(3, libc::c_uint::MAX, 0) }).map(drop)
}

/// Writes to a descriptor known only by number (it came through a fork).
pub(crate) fn write_raw(fd: RawFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        // SAFETY: the pointer and the length describe one live slice.
        let written = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
        match usize::try_from(written) {
            Ok(count) if count > 0 => bytes = &bytes[count.min(bytes.len())..],
            _ => return,
        }
    }
}

/// Borrows a descriptor by number for one `poll`.
pub(crate) fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: called only with numbers of descriptors owned by the server, which is
    // borrowed for as long as the result is used.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Loads a BPF program (in the kernel's encoding) that decides about devices, and
/// attaches it to a control group; it lives as long as the group.
pub(crate) fn attach_device_program(group: &std::fs::File, instructions: &[u8]) -> std::io::Result<()> {
    const LOAD: libc::c_long = 5;
    const ATTACH: libc::c_long = 8;
    const TYPE_CGROUP_DEVICE: u32 = 15;
    const ATTACH_CGROUP_DEVICE: u32 = 6;
    /// Beside programs of groups above.
    const ALLOW_MULTI: u32 = 2;
    const INSTRUCTION_BYTES: usize = 8;

    #[repr(C)]
    #[derive(Default)]
    struct Load {
        program_type: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log: [u32; 4],
        rest: [u64; 6],
    }

    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }

    let license = c"Apache-2.0";
    let load = Load {
        program_type: TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(instructions.len() / INSTRUCTION_BYTES).unwrap_or(u32::MAX),
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: the structure has the kernel's layout with zeros at its end, its size is
    // passed with it, and what it points to lives to the end of the call.
    let program = unsafe { libc::syscall(libc::SYS_bpf, LOAD, &load, size_of::<Load>()) };
    let Ok(program) = RawFd::try_from(program).map_err(drop).and_then(|fd| if fd < 0 { Err(()) } else { Ok(fd) })
    else {
        return Err(std::io::Error::last_os_error());
    };
    // SAFETY: the descriptor is new and owned by no one else.
    let program = unsafe { OwnedFd::from_raw_fd(program) };
    let number = |fd: RawFd| u32::try_from(fd).unwrap_or(u32::MAX);
    let attach = Attach {
        target: number(group.as_raw_fd()),
        program: number(program.as_raw_fd()),
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: as above; both descriptors are open.
    let result = unsafe { libc::syscall(libc::SYS_bpf, ATTACH, &attach, size_of::<Attach>()) };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
