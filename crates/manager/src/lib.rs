//! The body around `skep_cluster`: replicates its commands through Raft, runs its
//! planners on the leader, hands out assignments, signs certificates.

pub mod control;
mod ids;
mod raft;
mod store_handle;

pub use control::Control;
