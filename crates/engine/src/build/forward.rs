//! A socket that leads to the client's SSH agent, for as long as a step runs.

use super::client::BuildClient;
use super::error::{BuildError, BuildResult};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::task::{JoinHandle, JoinSet};

/// Connections to an agent at a time, per step.
const CONNECTIONS_MAX: usize = 64;
const NAME: &str = "agent.sock";

/// Closed, with all its connections, when it is dropped.
#[derive(Debug)]
pub(crate) struct AgentSocket {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl AgentSocket {
    /// Listens in a directory of its own.
    pub(crate) fn listen(directory: &Path, client: Arc<dyn BuildClient>, id: String) -> BuildResult<Self> {
        let doing = || "make a socket for an SSH agent";
        // A socket's address is short; the directory's path need not be.
        let open = std::fs::File::open(directory).map_err(BuildError::io(doing()))?;
        let address = crate::sys::mounts::fd_path(&open).join(NAME);
        let listener = UnixListener::bind(address).map_err(BuildError::io(doing()))?;
        let task = tokio::spawn(serve(listener, client, id));
        Ok(Self { path: directory.join(NAME), task })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for AgentSocket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: UnixListener, client: Arc<dyn BuildClient>, id: String) {
    let mut connections = JoinSet::new();
    loop {
        if connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        while connections.try_join_next().is_some() {}
        let Ok((mut stream, _)) = listener.accept().await else { return };
        let (client, id) = (Arc::clone(&client), id.clone());
        connections.spawn(async move {
            match client.connect_agent(&id).await {
                Ok(mut agent) => {
                    // Either side may hang up at any time.
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut agent).await;
                }
                Err(error) => tracing::warn!(%error, "the client's SSH agent does not answer"),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::client::Given;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    #[tokio::test]
    async fn bytes_go_to_the_agent_and_back() {
        let dir = tempfile::tempdir().unwrap();
        let agent = dir.path().join("agent");
        let real = UnixListener::bind(&agent).unwrap();
        let given = Given { agents: [("default".to_owned(), agent)].into(), ..Given::default() };
        let socket = AgentSocket::listen(dir.path(), Arc::new(given), "default".into()).unwrap();
        let mut command = UnixStream::connect(socket.path()).await.unwrap();
        let (mut answering, _) = real.accept().await.unwrap();
        command.write_all(b"ask").await.unwrap();
        let mut text = [0; 3];
        answering.read_exact(&mut text).await.unwrap();
        answering.write_all(b"yes").await.unwrap();
        command.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"yes");
        drop(socket);
        assert_eq!(command.read(&mut text).await.unwrap(), 0);
    }
}
