//! The body around `skep_cluster`: replicates its commands through Raft, runs its
//! planners on the leader, hands out assignments, signs certificates.
//!
//! Spawns per manager: openraft's core, the flush thread of the log, the leader loop, the
//! dispatcher loop, the listener, and a task per open agent stream. A loop that dies ends
//! the manager ([`Manager::failed`]). Only [`raft`] proposes; only committed commands
//! change the store. Never touches containers or the network of this node.

mod access;
mod backup;
mod blocking;
mod ca;
mod config;
pub mod control;
mod dispatch;
mod door;
mod edit;
mod external_ca;
mod founding;
mod ids;
mod leader;
mod lock;
mod manager;
mod managers;
mod own_certificate;
#[cfg(test)]
mod partition_tests;
mod raft;
mod restore;
mod root;
mod rotation;
#[cfg(skep_simulated)]
mod sabotage;
mod server;
mod store_handle;

pub use config::{ManagerConfig, SwarmInit};
pub use control::{Control, JoinTokens, Move, Moves, RotateFlags, TaskReason, Why};
pub use manager::Manager;
pub use raft::{DumpSummary, RaftState};
#[cfg(skep_simulated)]
pub use sabotage::Sabotage;
