//! `cargo xtask fuzz`: coverage-guided fuzzers over every parser of foreign bytes.

use crate::setup;
use crate::sh::{cmd, output, run, say, target};
use anyhow::{Result, bail};

const CARGO_FUZZ_VERSION: &str = "0.13.1";
/// No input that matters is larger.
const INPUT_BYTES_MAX: u32 = 16 * 1024;
/// A single input that takes longer is a bug of its own.
const INPUT_TIMEOUT_SECONDS: u32 = 10;

/// Runs one fuzzer, or each in turn, for so many seconds. What one finds is kept in
/// `fuzz/artifacts`, with the command that repeats it.
pub(crate) fn run_all(only: Option<&str>, seconds: u32) -> Result<()> {
    setup::packages()?;
    let program = cargo_fuzz()?;
    let mut command = cmd(&program, ["fuzz", "list"]);
    let names = output(&mut command)?;
    let names: Vec<&str> = names.lines().filter(|name| only.is_none_or(|only| only == *name)).collect();
    if names.is_empty() {
        bail!("no such fuzzer; there are:\n{}", output(&mut command)?);
    }
    for name in names {
        say(&format!("fuzzing {name}, {seconds} s"));
        let limits = [
            format!("-max_total_time={seconds}"),
            format!("-max_len={INPUT_BYTES_MAX}"),
            format!("-timeout={INPUT_TIMEOUT_SECONDS}"),
            "-print_final_stats=1".to_owned(),
            "-verbosity=0".to_owned(),
        ];
        let sanitizer = ["fuzz", "run", "--sanitizer=none", name, "--"];
        let args = sanitizer.into_iter().chain(limits.iter().map(String::as_str));
        // Its flags of the compiler are not stable ones; the project's own code stays on stable.
        run(cmd(&program, args).env("RUSTC_BOOTSTRAP", "1"))?;
    }
    Ok(())
}

/// cargo-fuzz, built once below the target folder.
fn cargo_fuzz() -> Result<String> {
    let folder = target().join("tools/cargo-fuzz");
    let program = folder.join("bin/cargo-fuzz");
    if !program.exists() {
        say("building cargo-fuzz");
        let version = format!("cargo-fuzz@{CARGO_FUZZ_VERSION}");
        run(cmd("cargo", ["install", "--locked", "--quiet", &version, "--root"]).arg(&folder))?;
    }
    Ok(program.to_string_lossy().into_owned())
}
