//! What a build asks of its client, asked through the client's session.

use crate::proto::filesync::CredentialsRequest;
use crate::proto::filesync::auth_client::AuthClient;
use crate::proto::secrets::GetSecretRequest;
use crate::proto::secrets::secrets_client::SecretsClient;
use crate::proto::ssh::ssh_client::SshClient;
use crate::proto::ssh::{BytesMessage, CheckAgentRequest};
use crate::session::Session;
use async_trait::async_trait;
use futures_util::StreamExt;
use skep_engine::build::{AgentStream, BuildClient, SECRET_BYTES_MAX};
use skep_engine::image::RegistryAuth;
use skep_model::{Error, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Request, Status};

const SECRET_METHOD: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
const AGENT_METHOD: &str = "/moby.sshforward.v1.SSH/CheckAgent";
const CREDENTIALS_METHOD: &str = "/moby.filesync.v1.Auth/Credentials";
/// Where a client is told which agent is meant.
const AGENT_KEY: &str = "buildkit.ssh.id";
/// Docker Hub, as the engine asks and as sessions know it.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";
/// Messages of an agent under way.
const AGENT_MESSAGES_MAX: usize = 16;
const AGENT_BYTES: usize = 32 << 10;
/// Room for a secret's message beside the secret.
const SECRET_MESSAGE_MAX: usize = SECRET_BYTES_MAX + 4096;

/// A client behind its session.
pub(crate) struct SessionClient(pub(crate) Session);

#[async_trait]
impl BuildClient for SessionClient {
    async fn secret(&self, id: &str) -> Result<Option<Vec<u8>>> {
        if !self.0.serves(SECRET_METHOD) {
            return Ok(None);
        }
        let mut client = SecretsClient::new(self.0.channel.clone()).max_decoding_message_size(SECRET_MESSAGE_MAX);
        match client.get_secret(GetSecretRequest { id: id.to_owned() }).await {
            Ok(answer) => Ok(Some(answer.into_inner().data)),
            Err(status) if matches!(status.code(), Code::NotFound | Code::Unimplemented) => Ok(None),
            Err(status) => Err(failed(&format!("secret {id}"), &status)),
        }
    }

    async fn has_agent(&self, id: &str) -> Result<bool> {
        if !self.0.serves(AGENT_METHOD) {
            return Ok(false);
        }
        match SshClient::new(self.0.channel.clone()).check_agent(CheckAgentRequest { id: id.to_owned() }).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::Unavailable => Err(failed("the SSH agent", &status)),
            Err(_) => Ok(false),
        }
    }

    async fn connect_agent(&self, id: &str) -> Result<Box<dyn AgentStream>> {
        let (to_agent, messages) = mpsc::channel(AGENT_MESSAGES_MAX);
        let mut request = Request::new(ReceiverStream::new(messages));
        let id = AsciiMetadataValue::try_from(id).map_err(|_| Error::invalid("a bad name of an SSH agent"))?;
        request.metadata_mut().insert(AGENT_KEY, id);
        let answer = SshClient::new(self.0.channel.clone()).forward_agent(request).await;
        let mut answers = answer.map_err(|status| failed("the SSH agent", &status))?.into_inner();
        let (ours, theirs) = tokio::io::duplex(AGENT_BYTES);
        let (mut read, mut write) = tokio::io::split(theirs);
        tokio::spawn(async move {
            let mut buffer = vec![0; AGENT_BYTES];
            while let Ok(count) = read.read(&mut buffer).await {
                let message = BytesMessage { data: buffer[..count].to_vec() };
                if count == 0 || to_agent.send(message).await.is_err() {
                    return;
                }
            }
        });
        tokio::spawn(async move {
            while let Some(Ok(message)) = answers.next().await {
                if write.write_all(&message.data).await.is_err() {
                    return;
                }
            }
        });
        Ok(Box::new(ours))
    }

    async fn credentials(&self, registry: &str) -> Result<Option<RegistryAuth>> {
        let host = match registry {
            DOCKER_HUB_KEY => DOCKER_HUB_HOST,
            // Asked for under its other name already.
            "docker.io" => return Ok(None),
            other => other,
        };
        if !self.0.serves(CREDENTIALS_METHOD) {
            return Ok(None);
        }
        let request = CredentialsRequest { host: host.to_owned() };
        let answer = match AuthClient::new(self.0.channel.clone()).credentials(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) if matches!(status.code(), Code::NotFound | Code::Unimplemented) => return Ok(None),
            Err(status) => return Err(failed(&format!("credentials for {registry}"), &status)),
        };
        Ok(match (answer.username.is_empty(), answer.secret.is_empty()) {
            (_, true) => None,
            // Without a user's name it is a token.
            (true, false) => Some(RegistryAuth { identity_token: answer.secret, ..RegistryAuth::default() }),
            (false, false) => {
                Some(RegistryAuth { username: answer.username, password: answer.secret, ..RegistryAuth::default() })
            }
        })
    }
}

fn failed(what: &str, status: &Status) -> Error {
    Error::invalid(format!("{what}: {}", status.message()))
}
