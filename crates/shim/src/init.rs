//! A minimal PID 1: runs the command as its child, forwards every signal to it, reaps
//! orphans, and ends as the child ended.
//!
//! It runs in the forked shim itself rather than as a program mounted into the
//! container, so it needs nothing from the image and no statically linked binary.

use crate::sys;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, setpgid};
use std::os::fd::BorrowedFd;

/// Becomes init. `execute` runs in the child and returns only if it failed, with the
/// status to end with.
pub(crate) fn become_init(execute: impl FnOnce() -> i32) -> i32 {
    let _ = nix::sys::prctl::set_name(c"skep-init");
    let all = SigSet::all();
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), None);
    let child = match sys::fork_single_threaded() {
        Ok(ForkResult::Child) => {
            take_foreground();
            sys::reset_signals();
            sys::exit_now(execute())
        }
        Ok(ForkResult::Parent { child }) => child,
        Err(_) => return crate::error::EXIT_NOT_STARTED,
    };
    // The pipes and the status channel belong to the child alone from here on.
    let _ = close_all_above_standard();
    wait_and_forward(&all, child)
}

fn take_foreground() {
    if setpgid(Pid::from_raw(0), Pid::from_raw(0)).is_err() {
        return;
    }
    for number in 0..=2 {
        // SIGTTOU is blocked here, so that a background group may do this. Failure
        // means there is no terminal.
        let _ = nix::unistd::tcsetpgrp(standard(number), nix::unistd::getpid());
    }
}

fn standard(number: i32) -> BorrowedFd<'static> {
    match number {
        0 => sys::STDIN,
        1 => sys::STDOUT,
        _ => sys::STDERR,
    }
}

fn close_all_above_standard() -> nix::Result<()> {
    sys::close_others()
}

fn wait_and_forward(signals: &SigSet, child: Pid) -> i32 {
    let mut status = None;
    loop {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == child => status = Some(code),
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => status = Some(128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(_) => break,
                Ok(_) => {}
            }
        }
        if let Some(status) = status {
            return status;
        }
        match signals.wait() {
            Ok(Signal::SIGCHLD) | Err(_) => {}
            Ok(signal) => {
                let _ = nix::sys::signal::kill(child, signal);
            }
        }
    }
}
