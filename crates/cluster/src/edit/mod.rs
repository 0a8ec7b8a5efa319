//! A user's or a node's request becomes a command, or an error with the reference's
//! text. Pure: the caller proposes the writes.

mod cluster;
mod facts;
mod lock_out;
mod network;
mod node;
mod renew;
mod secret;
mod service;
mod service_check;

pub use cluster::{Bootstrap, bootstrap, update_cluster};
pub use facts::{join_node, node_ready, node_state, task_status};
pub use lock_out::{is_locked_out, lock_out};
pub use network::{create_network, remove_network};
pub use node::{admit_manager, demote_others, has_quorum, remove_node, update_node};
pub use renew::{update_config, update_secret};
pub use secret::{create_config, create_secret, remove_config, remove_secret};
pub use service::{create_service, remove_service, update_service};

use skep_model::{Error, Result};

/// Swarm's answers carry their gRPC code in the text, and scripts match it.
fn invalid(text: impl std::fmt::Display) -> Error {
    Error::invalid(format!("rpc error: code = InvalidArgument desc = {text}"))
}

fn precondition(text: impl std::fmt::Display) -> Error {
    Error::invalid(format!("rpc error: code = FailedPrecondition desc = {text}"))
}

fn exists(text: impl std::fmt::Display) -> Error {
    Error::conflict(format!("rpc error: code = AlreadyExists desc = {text}"))
}

fn not_found(kind: &str, id: &str) -> Error {
    Error::not_found(format!("{kind} {id} not found"))
}

/// The version a user's change was made from must be the present one.
fn check_version(present: u64, given: u64) -> Result<()> {
    if present == given {
        return Ok(());
    }
    Err(Error::internal("rpc error: code = Unknown desc = update out of sequence"))
}

#[cfg(test)]
mod tests;
