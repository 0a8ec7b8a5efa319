//! What a build asks of the one who wants it: secrets, an SSH agent, credentials.

use crate::image::RegistryAuth;
use async_trait::async_trait;
use skep_model::{Error, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

/// Bytes a secret may have, as in BuildKit.
pub const SECRET_BYTES_MAX: usize = 500 * 1024;

/// A connection to an SSH agent.
pub trait AgentStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> AgentStream for T {}

/// The client's side of a build.
#[async_trait]
pub trait BuildClient: Send + Sync + 'static {
    /// A secret's content; `None` if the client has none of that id.
    async fn secret(&self, id: &str) -> Result<Option<Vec<u8>>>;
    /// Whether there is an SSH agent of that id.
    async fn has_agent(&self, id: &str) -> Result<bool>;
    /// A new connection to it.
    async fn connect_agent(&self, id: &str) -> Result<Box<dyn AgentStream>>;
    /// Credentials for a registry (`host[:port]`, for Docker Hub its old address).
    async fn credentials(&self, registry: &str) -> Result<Option<RegistryAuth>>;
}

/// A client that sent all it has with its request.
#[derive(Clone, Default)]
pub struct Given {
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// Sockets of agents on this machine.
    pub agents: BTreeMap<String, PathBuf>,
    /// Registry host to its credentials.
    pub auth: BTreeMap<String, RegistryAuth>,
}

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Given").field("agents", &self.agents).finish_non_exhaustive()
    }
}

#[async_trait]
impl BuildClient for Given {
    async fn secret(&self, id: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.secrets.get(id).cloned())
    }

    async fn has_agent(&self, id: &str) -> Result<bool> {
        Ok(self.agents.contains_key(id))
    }

    async fn connect_agent(&self, id: &str) -> Result<Box<dyn AgentStream>> {
        let path = self.agents.get(id).ok_or_else(|| Error::not_found(format!("no SSH agent {id} was given")))?;
        let stream = UnixStream::connect(path)
            .await
            .map_err(|error| Error::from(error).context(format!("connect to the SSH agent {}", path.display())))?;
        Ok(Box::new(stream))
    }

    async fn credentials(&self, registry: &str) -> Result<Option<RegistryAuth>> {
        Ok(self.auth.get(registry).cloned())
    }
}
