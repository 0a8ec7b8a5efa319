//! The deterministic brain of the swarm: what is ([`store`]), what a user's request
//! turns into ([`edit`]), what should change next ([`plan`]), and what each node must
//! be told ([`assign`]).
//!
//! Invariants: no IO, no clock, no randomness, no hash maps; the same commands in the
//! same order give the same bytes on every manager.

pub mod assign;
pub mod audience;
pub mod command;
pub mod edit;
pub mod ids;
pub mod plan;
pub mod store;

#[cfg(test)]
mod testing;

pub use command::{Command, Object, Write};
pub use store::Store;
