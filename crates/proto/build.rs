//! Generates the gRPC code from `proto/` with a compiler written in Rust, so that
//! building needs no `protoc`.

use std::error::Error;
use std::path::Path;

const FILES: [&str; 4] = ["dispatcher.proto", "ca.proto", "raft.proto", "netd.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(FILES, [&root])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
