//! A lab for stock clients: a "host" in a network namespace of its own with a skep
//! daemon on it, an outside machine beside it, and clients that nobody here wrote.
//!
//! Assertions are made on what clients print and on what the kernel holds, never on
//! our own logs. Dropping a [`Host`] removes whatever it made.

pub mod client;
pub mod host;
pub mod leftovers;
pub mod terminal;
pub mod wait;

pub use client::Client;
pub use host::Host;
