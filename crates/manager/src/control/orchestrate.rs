//! What the swarm's users ask of the planners themselves: even things out, explain, renew.

use super::{Control, find_config, find_secret, find_service, resolve};
use skep_cluster::edit as decide;
use skep_cluster::plan;
use skep_model::secret::{ConfigSpec, SecretSpec};
use skep_model::service::Service;
use skep_model::task::Task;
use skep_model::{Error, Result};
use std::sync::Arc;

pub use skep_cluster::plan::{Move, TaskReason, Why};

/// What evens a service out, and what is left as it is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Moves {
    pub moves: Vec<Move>,
    /// Services that are not touched now, and why.
    pub skipped: Vec<String>,
}

impl Control {
    /// Moves as few tasks as even out a service, or with `None` all services and nodes.
    /// `dry_run` only says what would be moved.
    pub async fn rebalance(&self, name: Option<&str>, dry_run: bool) -> Result<Moves> {
        self.edit(|store, now, ids| {
            let service = name.map(|name| find_service(store, name)).transpose()?;
            let found = plan::rebalance(store, service.map(|service| &service.id), now, ids);
            let writes = if dry_run { Vec::new() } else { found.writes };
            Ok((Moves { moves: found.moves, skipped: found.skipped }, writes))
        })
        .await
    }

    /// Why a service is not as it should be.
    pub fn why(&self, name: &str) -> Result<Why> {
        let store = self.store();
        let service = find_service(&store, name)?;
        Ok(plan::why(&store, service, crate::raft::now()))
    }

    /// Why one task is not as it should be: what is waited for in its service, and its own
    /// reason alone.
    pub fn why_task(&self, name: &str) -> Result<Why> {
        let store = self.store();
        let named = |task: &Arc<Task>, name: &str| task.slot_name() == name && task.is_wanted();
        let task = resolve("task", name, store.tasks(), |task| task.id.as_str(), named)?;
        let owner: Option<&Arc<Service>> = store.service(task.service_id.as_str());
        let Some(service) = owner else {
            return Err(Error::not_found(format!("service {} not found", task.service_id)));
        };
        let mut told = plan::why(&store, service, crate::raft::now());
        told.tasks.retain(|reason| *reason.task == *task.id.as_str());
        Ok(told)
    }

    /// New labels and, unless `spec.data` is empty, new content under the same name and
    /// id; the services that use it are started anew.
    pub async fn update_secret(&self, name: &str, version: u64, spec: SecretSpec) -> Result<()> {
        self.edit(|store, _, _| {
            let id = find_secret(store, name)?.id.clone();
            Ok(((), decide::update_secret(store, &id, version, spec.clone())?))
        })
        .await
    }

    /// As [`Control::update_secret`].
    pub async fn update_config(&self, name: &str, version: u64, spec: ConfigSpec) -> Result<()> {
        self.edit(|store, _, _| {
            let id = find_config(store, name)?.id.clone();
            Ok(((), decide::update_config(store, &id, version, spec.clone())?))
        })
        .await
    }
}
