//! The ways of the engine and the API to the network, over netd's socket.

use async_trait::async_trait;
use skep_api::backend::NodeNetwork;
use skep_engine::Attach;
use skep_model::Result;
use skep_model::id::{ContainerId, EndpointId, NetworkId};
use skep_model::net_trace::ServiceTrace;
use skep_model::netstate::{AttachRequest, DesiredNetwork, LocalNetState, NetdStatus};
use skep_netd::client::NetdClient;

/// [`Attach`] and [`NodeNetwork`] over [`NetdClient`].
pub(crate) struct NetdAttach(pub(crate) NetdClient);

#[async_trait]
impl Attach for NetdAttach {
    async fn sync(&self, state: LocalNetState) -> Result<()> {
        self.0.sync_local(state).await
    }

    async fn put_network(&self, network: DesiredNetwork) -> Result<()> {
        self.0.put_network(network).await
    }

    async fn remove_network(&self, id: &NetworkId) -> Result<()> {
        self.0.remove_network(id).await
    }

    async fn attach(&self, request: AttachRequest) -> Result<()> {
        self.0.attach(request).await
    }

    async fn detach(&self, container: &ContainerId) -> Result<()> {
        self.0.detach(container).await
    }

    async fn detach_endpoint(&self, endpoint: &EndpointId) -> Result<()> {
        self.0.detach_endpoint(endpoint).await
    }
}

#[async_trait]
impl NodeNetwork for NetdAttach {
    async fn status(&self) -> Result<NetdStatus> {
        self.0.status().await
    }

    async fn verify(&self) -> Result<Vec<String>> {
        self.0.verify().await
    }

    async fn trace(&self, service: &str) -> Result<ServiceTrace> {
        self.0.trace(service).await
    }
}
