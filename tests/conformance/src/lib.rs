//! A lab for stock clients: a "host" in a network namespace of its own with a skep
//! daemon on it, an outside machine beside it, and clients that nobody here wrote. Several
//! machines at once are a [`Lab`].
//!
//! Assertions are made on what clients print and on what the kernel holds, never on
//! our own logs. Dropping a [`Host`] removes whatever it made.

mod ending;
pub mod host;
pub mod leftovers;
mod second_try;
pub mod terminal;

pub use ending::Ending;
pub use host::Host;
pub use second_try::with_second_try;
pub use skep_lab::{Cli, Client, Lab, Node, Options, client, wait};
