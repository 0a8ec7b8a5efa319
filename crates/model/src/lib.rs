//! The words of the domain: what containers, networks, services, tasks and
//! nodes *are*, and which transitions are legal.
//!
//! Invariants: nothing here does IO, reads a clock or draws a random number;
//! time and ids are always arguments. Every crate may use this one, and this
//! one uses none of ours.

pub mod cluster;
pub mod container;
pub mod error;
pub mod hash;
pub mod id;
pub mod image;
pub mod net_trace;
pub mod netstate;
pub mod network;
pub mod node;
pub mod secret;
pub mod service;
pub mod shim;
pub mod task;
pub mod time;
pub mod validate;
pub mod volume;

pub use error::{Error, ErrorKind, Result};
pub use time::Timestamp;
