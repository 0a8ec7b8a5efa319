//! Several machines on one: each a set of namespaces (network, mount, process, host name,
//! IPC, cgroup) with a disk, a `/run`, an address and a `skep daemon` of its own, on one
//! switch, with an outside machine beside them.
//!
//! [`Lab`] brings them up and takes every trace away again, also those of a lab whose
//! process was killed. Faults are methods: cutting the network in every shape
//! ([`Lab::cut`], [`Lab::part`]), kill -9 of a daemon, a frozen machine, a power cut that
//! drops what was not synced ([`Node::power_off`]).
//!
//! What is said about the lab is said by the kernel and by clients nobody here wrote.

mod cgroups;
pub mod cli;
pub mod client;
mod disk;
mod inside;
mod lab;
mod network;
mod node;
pub mod sweep;
pub mod wait;

pub use cgroups::below;
pub use cli::Cli;
pub use client::Client;
pub use disk::Disk;
pub use lab::{Lab, Options};
pub use network::{OUTSIDE_ADDRESS, OUTSIDE_ADDRESS_IPV6, SWITCH_SUFFIX, address, address_ipv6};
pub use node::Node;
