//! Generates the gRPC code from `proto/buildkit/`, as `skep-proto` does from `proto/`.

use std::error::Error;
use std::path::PathBuf;

const FILES: [&str; 5] = ["control.proto", "gateway.proto", "filesync.proto", "secrets.proto", "ssh.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    // Asked for now, not when this was compiled: the folder may have moved since.
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto/buildkit");
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(FILES, [&root])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
