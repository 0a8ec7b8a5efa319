//! What all connections share, and the two kinds of connections.

use crate::control::ControlService;
use crate::gateway::{Bridge, Gateways};
use crate::proto::control::control_server::ControlServer;
use crate::proto::gateway::llb_bridge_server::LlbBridgeServer;
use crate::session::{Announced, Connection, Sessions};
use crate::solve::{Upload, Uploads};
use crate::status::Board;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::service::TowerToHyperService;
use skep_engine::Engine;
use skep_model::Result;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often a silent gRPC connection is looked after.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Calls at a time on one connection.
const CALLS_MAX: u32 = 256;

/// BuildKit's side of one engine. Cheap to clone.
#[derive(Clone)]
pub struct BuildKit(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) sessions: Sessions,
    pub(crate) uploads: Uploads,
    pub(crate) board: Board,
    pub(crate) gateways: Gateways,
    /// Builds that `POST /build/cancel` can end, by name.
    running: Mutex<HashMap<String, CancellationToken>>,
}

impl std::fmt::Debug for BuildKit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BuildKit").finish_non_exhaustive()
    }
}

impl BuildKit {
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self(Arc::new(Shared {
            engine,
            sessions: Sessions::default(),
            uploads: Uploads::default(),
            board: Board::default(),
            gateways: Gateways::default(),
            running: Mutex::default(),
        }))
    }

    /// Keeps a session for as long as its connection lives.
    ///
    /// # Errors
    /// Its id is taken, there are too many, or the client does not speak HTTP/2.
    pub async fn serve_session(&self, announced: Announced, connection: impl Connection) -> Result<()> {
        self.0.sessions.serve(announced, connection).await
    }

    /// Answers gRPC calls on a connection until it ends.
    pub async fn serve_calls(&self, connection: impl Connection) {
        let routes = tonic::service::Routes::new(ControlServer::new(ControlService(self.clone())))
            .add_service(LlbBridgeServer::new(Bridge(self.clone())));
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE).max_concurrent_streams(CALLS_MAX);
        if let Err(error) = builder.serve_connection(connection, TowerToHyperService::new(routes)).await {
            tracing::debug!(%error, "a gRPC connection ended early");
        }
    }

    /// Leaves a context for the build of that name.
    ///
    /// # Errors
    /// It has one already.
    pub fn upload(&self, build: &str, context: Upload) -> Result<()> {
        self.0.uploads.give(build, context)
    }

    /// A token that [`BuildKit::cancel`] ends the build of that name by.
    #[must_use]
    pub fn begin(&self, build: &str) -> Running {
        let token = CancellationToken::new();
        if !build.is_empty() {
            self.running().insert(build.to_owned(), token.clone());
        }
        Running { buildkit: self.clone(), name: build.to_owned(), token }
    }

    /// Ends the build of that name; one that is over already is no error.
    pub fn cancel(&self, build: &str) {
        if let Some(token) = self.running().get(build) {
            token.cancel();
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<String, CancellationToken>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A build that can be cancelled by name while this lives.
#[derive(Debug)]
pub struct Running {
    buildkit: BuildKit,
    name: String,
    token: CancellationToken,
}

impl Running {
    /// Resolves when the build was cancelled.
    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.buildkit.running().remove(&self.name);
        self.buildkit.0.uploads.forget(&self.name);
    }
}
