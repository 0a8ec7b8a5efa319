//! A host with a manager and the clients that write through it.

use crate::shared::Shared;
use crate::writer;
use skep_identity::{CertificateRequest, Identity, JoinToken, StoredIdentity, connect_for_join};
use skep_manager::{Manager, ManagerConfig, SwarmInit};
use skep_model::cluster::ClusterSpec;
use skep_model::{Error, Result};
use skep_proto::ca::IssueNodeCertificateRequest;
use skep_proto::ca::node_ca_client::NodeCaClient;
use std::rc::Rc;
use std::time::Duration;

/// Who founds the swarm.
const FOUNDER: usize = 0;
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Short, so that snapshots are made and sent in a run of seconds.
const SNAPSHOT_INTERVAL: u64 = 120;
const ENTRIES_KEPT: u64 = 20;

/// The software of the host. Ends at the end of the run, or when the manager has failed.
pub(crate) async fn run(shared: Rc<Shared>, number: usize) -> turmoil::Result {
    let manager = start(&shared, number).await?;
    shared.set_control(number, Some(manager.control()));
    for writer in writer::of_manager(number) {
        tokio::task::spawn_local(writer::run(shared.clone(), writer, manager.control()));
    }
    let mut over = shared.over.subscribe();
    tokio::select! {
        biased;
        error = manager.failed() => Err(error.into()),
        // The sender lives as long as the world.
        _ = over.wait_for(|over| *over) => {
            shared.set_control(number, None);
            manager.shutdown().await;
            Ok(())
        }
    }
}

async fn start(shared: &Shared, number: usize) -> Result<Manager> {
    let config = shared.config(number);
    let stored = config.certificates().load()?;
    match stored {
        Some(stored) if Manager::exists(&config) => Manager::open(config, Identity::new(&stored)?).await,
        None if number == FOUNDER => Manager::bootstrap(config, init()).await,
        stored => join(shared, config, stored).await,
    }
}

fn init() -> SwarmInit {
    let spec = ClusterSpec {
        heartbeat_period: Duration::from_secs(1),
        snapshot_interval: SNAPSHOT_INTERVAL,
        log_entries_for_slow_followers: ENTRIES_KEPT,
        ..ClusterSpec::default()
    };
    SwarmInit { spec, ..SwarmInit::default() }
}

async fn join(shared: &Shared, config: ManagerConfig, stored: Option<StoredIdentity>) -> Result<Manager> {
    let stored = match stored {
        Some(stored) => stored,
        None => {
            let stored = certificate(shared, true).await;
            config.certificates().save(&stored)?;
            stored
        }
    };
    let identity = Identity::new(&stored)?;
    let through = std::slice::from_ref(&shared.addresses[FOUNDER]);
    loop {
        match Manager::join_through(config.clone(), identity.clone(), through).await {
            Ok(manager) => return Ok(manager),
            Err(error) => tracing::info!(%error, "not a manager yet"),
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// Joins with a token, which somebody carries from the founder to here, until it has worked.
pub(crate) async fn certificate(shared: &Shared, as_manager: bool) -> StoredIdentity {
    loop {
        let tokens = shared.control(FOUNDER).and_then(|control| control.tokens().ok());
        if let Some(tokens) = tokens {
            let token = if as_manager { tokens.manager } else { tokens.worker };
            match tokio::time::timeout(CALL_TIMEOUT, ask(&shared.addresses[FOUNDER], &token)).await {
                Ok(Ok(stored)) => return stored,
                Ok(Err(error)) => tracing::info!(%error, "no certificate yet"),
                Err(_) => tracing::info!("no certificate in time"),
            }
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

async fn ask(address: &str, token: &str) -> Result<StoredIdentity> {
    let token: JoinToken = token.parse()?;
    let channel = connect_for_join(address, &token).await?;
    let request = CertificateRequest::create()?;
    let message = IssueNodeCertificateRequest {
        csr_pem: request.pem().to_owned(),
        token: token.to_text(),
        availability: String::new(),
    };
    let answer = NodeCaClient::new(channel).issue_node_certificate(message).await;
    let answer = answer.map_err(|status| Error::unavailable(status.message()))?.into_inner();
    Ok(StoredIdentity {
        root_pem: answer.root_ca_pem,
        chain_pem: answer.certificate_chain_pem,
        key_pem: request.key_pem().to_owned().into(),
    })
}
