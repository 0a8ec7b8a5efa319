//! Generates the gRPC code from `proto/` with a compiler written in Rust, so that
//! building needs no `protoc`.

use std::error::Error;
use std::path::PathBuf;

const FILES: [&str; 4] = ["dispatcher.proto", "ca.proto", "raft.proto", "netd.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    // Asked for now, not when this was compiled: the folder may have moved since.
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(FILES, [&root])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
