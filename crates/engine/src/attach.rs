//! The engine's only way to the network.

use async_trait::async_trait;
use skep_model::Result;
use skep_model::id::{ContainerId, EndpointId, NetworkId};
use skep_model::netstate::{AttachRequest, DesiredNetwork, LocalNetState};

/// Makes desired networks and endpoints real. netd's client implements it; tests use a
/// recording one. Every call is idempotent and answers once the kernel agrees.
#[async_trait]
pub trait Attach: Send + Sync + 'static {
    /// Replaces all local networks and endpoints: what the engine knows after a start.
    async fn sync(&self, state: LocalNetState) -> Result<()>;

    /// Creates or changes a network.
    async fn put_network(&self, network: DesiredNetwork) -> Result<()>;

    /// Removes a network, its bridge and rules.
    async fn remove_network(&self, id: &NetworkId) -> Result<()>;

    /// Adds all legs of a container, or none. A port in use is `Conflict`.
    async fn attach(&self, request: AttachRequest) -> Result<()>;

    /// Removes every leg of a container.
    async fn detach(&self, container: &ContainerId) -> Result<()>;

    /// Removes one leg.
    async fn detach_endpoint(&self, endpoint: &EndpointId) -> Result<()>;
}

/// Agrees to everything and does nothing: for tests of an engine that needs no network.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoNetwork;

#[async_trait]
impl Attach for NoNetwork {
    async fn sync(&self, _: LocalNetState) -> Result<()> {
        Ok(())
    }

    async fn put_network(&self, _: DesiredNetwork) -> Result<()> {
        Ok(())
    }

    async fn remove_network(&self, _: &NetworkId) -> Result<()> {
        Ok(())
    }

    async fn attach(&self, _: AttachRequest) -> Result<()> {
        Ok(())
    }

    async fn detach(&self, _: &ContainerId) -> Result<()> {
        Ok(())
    }

    async fn detach_endpoint(&self, _: &EndpointId) -> Result<()> {
        Ok(())
    }
}
