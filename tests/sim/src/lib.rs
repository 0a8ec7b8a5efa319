//! The swarm's brain in a world made of chance: real store, planners, edits and
//! assignments; stand-ins for Raft, the network, nodes and their kernels. A seed decides
//! everything that happens, so a failure is repeated by its number.

pub mod agent;
pub mod check;
pub mod dice;
pub mod faults;
pub mod kernel;
pub mod load;
pub mod manager;
pub mod net;
pub mod raft;
pub mod sabotage;
pub mod trace;
pub mod world;

pub use sabotage::Sabotage;
pub use world::{Outcome, run};
