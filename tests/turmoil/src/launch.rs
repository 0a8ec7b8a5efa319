//! Builds this program again, simulated, in a folder of its own, and starts it with the same
//! arguments.

use std::path::Path;
use std::process::{Command, ExitCode};

/// What makes a build simulated: our own network, disk and threads; a seed for what tokio does
/// first; chance from the C library, where the program can answer.
const FLAGS: [&str; 6] =
    ["--cfg", "tokio_unstable", "--cfg", "skep_simulated", "--cfg", "getrandom_backend=\"linux_getrandom\""];
/// Between flags in cargo's variable.
const FLAG_SEPARATOR: &str = "\x1f";

pub(crate) fn run() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let status = Command::new(cargo)
        .args(["run", "--quiet", "--locked", "--profile", "turmoil", "--package", "skep-turmoil", "--"])
        .args(std::env::args_os().skip(1))
        .current_dir(&root)
        .env("CARGO_TARGET_DIR", target.join("turmoil"))
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join(FLAG_SEPARATOR))
        .status();
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            println!("cannot run cargo: {error}");
            ExitCode::FAILURE
        }
    }
}
