//! This node's end of tunnels: managers are answered by the API's own handlers.

use async_trait::async_trait;
use skep_agent::TaskApi;
use skep_api::TaskService;
use skep_engine::Engine;
use tokio::io::DuplexStream;

pub(crate) struct TunnelEnd(TaskService);

impl TunnelEnd {
    pub(crate) fn new(engine: Engine) -> Self {
        Self(TaskService::new(engine))
    }
}

#[async_trait]
impl TaskApi for TunnelEnd {
    async fn serve(&self, connection: DuplexStream) {
        self.0.serve(connection).await;
    }
}
