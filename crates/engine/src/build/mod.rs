//! The classic builder: a Dockerfile and a context become an image.

#[allow(dead_code)] // Used from the executor on.
mod expand;
#[allow(dead_code)]
mod ignore;
#[allow(dead_code)]
mod parse;
#[allow(dead_code)]
mod pattern;

use crate::Engine;
use crate::image::RegistryAuth;
use crate::progress::ProgressSender;
use skep_model::Result;
use std::collections::BTreeMap;
use tokio::io::AsyncRead;

/// Options of `POST /build`.
#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// Path of the Dockerfile inside the context; empty is `Dockerfile`.
    pub dockerfile: String,
    pub tags: Vec<String>,
    pub build_args: BTreeMap<String, Option<String>>,
    pub labels: BTreeMap<String, String>,
    pub target: String,
    pub no_cache: bool,
    pub pull: bool,
    pub quiet: bool,
    pub network_mode: String,
    pub extra_hosts: Vec<String>,
    pub platform: String,
    /// Registry host to its credentials.
    pub auth: BTreeMap<String, RegistryAuth>,
    pub memory_bytes: i64,
    pub cpu_shares: i64,
    pub shm_size: u64,
}

/// Builds; progress carries Docker's step lines. Returns the image id.
pub async fn build(
    engine: &Engine,
    context: impl AsyncRead + Send + Unpin + 'static,
    options: BuildOptions,
    progress: ProgressSender,
) -> Result<String> {
    let _ = (engine, context, options, progress);
    todo!()
}
