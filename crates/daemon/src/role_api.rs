//! The API's view of this node's part in a swarm.

use crate::role::{Member, Roles, State};
use crate::role_rules::{LOCKED, host_of, not_ready, outside, worker};
use async_trait::async_trait;
use skep_api::backend::{InitRequest, JoinRequest, LocalNodeState, Swarm, SwarmStatus};
use skep_manager::Control;
use skep_model::id::NodeId;
use skep_model::{Error, Result};

#[async_trait]
impl Swarm for Roles {
    async fn init(&self, request: InitRequest) -> Result<NodeId> {
        self.detached(|shared| async move {
            let _changing = shared.changing.lock().await;
            shared.found(request).await
        })
        .await
    }

    async fn join(&self, request: JoinRequest) -> Result<()> {
        self.detached(|shared| async move {
            let _changing = shared.changing.lock().await;
            shared.join(request).await
        })
        .await
    }

    async fn leave(&self, force: bool) -> Result<()> {
        self.detached(|shared| async move {
            let _changing = shared.changing.lock().await;
            shared.leave(force).await
        })
        .await
    }

    async fn unlock(&self, key: String) -> Result<()> {
        self.detached(|shared| async move {
            let _changing = shared.changing.lock().await;
            shared.unlock(&key).await
        })
        .await
    }

    fn control(&self) -> Result<Control> {
        let member = match self.shared.state() {
            State::Member(member) => member,
            State::Outside => return Err(outside()),
            State::Locked(_) => return Err(Error::unavailable(LOCKED)),
            State::Pending | State::Broken(_) => return Err(not_ready()),
        };
        if !member.is_manager() {
            return Err(worker());
        }
        member.control().ok_or_else(not_ready)
    }

    fn status(&self) -> SwarmStatus {
        match self.shared.state() {
            State::Outside => SwarmStatus::default(),
            State::Pending => SwarmStatus { state: LocalNodeState::Pending, ..SwarmStatus::default() },
            State::Locked(membership) => SwarmStatus {
                state: LocalNodeState::Locked,
                node_addr: host_of(&membership.advertise_addr),
                error: LOCKED.to_owned(),
                ..SwarmStatus::default()
            },
            State::Broken(error) => SwarmStatus { state: LocalNodeState::Error, error, ..SwarmStatus::default() },
            State::Member(member) => member_status(&member),
        }
    }
}

fn member_status(member: &Member) -> SwarmStatus {
    let view = member.view.borrow();
    let manager = member.manager.borrow().clone();
    let advertised = host_of(&member.membership.advertise_addr);
    let seen = view.node.as_ref().map(|node| node.status.address.clone()).unwrap_or_default();
    let leaderless = manager.control.as_ref().and_then(|control| control.check_leader().err());
    let error = match leaderless {
        _ if !manager.error.is_empty() => manager.error,
        Some(error) => error.message,
        None => view.error.clone(),
    };
    SwarmStatus {
        state: LocalNodeState::Active,
        node_id: member.node_id.clone(),
        node_addr: if advertised.is_empty() { seen } else { advertised },
        control_available: manager.control.is_some(),
        error,
        remote_managers: view.managers.clone(),
    }
}
