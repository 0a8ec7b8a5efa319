//! The shim as a program of its own, for this crate's tests: `shim shim <run directory>`.

fn main() -> std::process::ExitCode {
    let run_dir = std::env::args_os().nth(2).unwrap_or_default();
    let status = skep_shim::main(std::path::Path::new(&run_dir));
    std::process::ExitCode::from(u8::try_from(status).unwrap_or(1))
}
