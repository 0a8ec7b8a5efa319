//! The parent process of one container or one exec.
//!
//! Owns the process, its standard streams, its log file and its exit record, and the
//! mount and network namespace the container lives in; see [`skep_model::shim`] for the
//! contract with the engine. Single-threaded, one `poll` loop, no async runtime:
//! libcontainer forks without exec and changes process-wide state, which is safe only
//! where there is exactly one thread.
//!
//! Never: knows networks beyond "make a namespace", reads the engine's records, or
//! outlives its process by more than it takes to hand over the last output.

mod cgroup;
mod clients;
mod confine;
mod devices;
mod error;
mod exec;
mod files;
mod filter;
mod forward;
mod init;
mod launch;
mod log;
mod lookup;
mod rootfs;
mod serve;
mod start;
mod stdio;
mod sys;
mod workdir;

use std::path::Path;

/// Runs `skep shim <run directory>` and returns the exit status of the shim itself,
/// which is 0 even if the process failed: the engine reads that from the records.
pub fn main(run_dir: &Path) -> i32 {
    match start::run(run_dir) {
        Ok(()) => 0,
        Err(error) => {
            // Standard error is a file in the run directory, read only when a shim
            // ends without leaving an exit record.
            sys::complain(&error.to_string());
            1
        }
    }
}
