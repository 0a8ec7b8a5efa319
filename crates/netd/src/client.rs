//! The daemon's side of netd's socket.

use skep_model::Result;
use skep_model::id::{ContainerId, EndpointId, NetworkId};
use skep_model::netstate::{AttachRequest, ClusterNetState, DesiredNetwork, LocalNetState, NetdStatus};
use std::path::Path;

/// Speaks to netd; reconnects by itself, with a deadline on every call. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NetdClient {}

impl NetdClient {
    /// A client for the socket at `path`; connects at first use.
    pub fn new(path: &Path) -> Self {
        let _ = path;
        todo!()
    }

    pub async fn sync_local(&self, state: LocalNetState) -> Result<()> {
        let _ = state;
        todo!()
    }

    pub async fn put_network(&self, network: DesiredNetwork) -> Result<()> {
        let _ = network;
        todo!()
    }

    pub async fn remove_network(&self, id: &NetworkId) -> Result<()> {
        let _ = id;
        todo!()
    }

    pub async fn attach(&self, request: AttachRequest) -> Result<()> {
        let _ = request;
        todo!()
    }

    pub async fn detach(&self, container: &ContainerId) -> Result<()> {
        let _ = container;
        todo!()
    }

    pub async fn detach_endpoint(&self, endpoint: &EndpointId) -> Result<()> {
        let _ = endpoint;
        todo!()
    }

    /// Replaces the swarm's section; answers once the kernel has it.
    pub async fn set_cluster(&self, state: ClusterNetState) -> Result<()> {
        let _ = state;
        todo!()
    }

    pub async fn clear_cluster(&self) -> Result<()> {
        todo!()
    }

    pub async fn status(&self) -> Result<NetdStatus> {
        todo!()
    }

    /// Desired against actual, a line a difference.
    pub async fn verify(&self) -> Result<Vec<String>> {
        todo!()
    }
}
