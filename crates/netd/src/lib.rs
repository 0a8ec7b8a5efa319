//! The network daemon: makes the kernel equal to the desired network state, balances,
//! publishes ports and answers DNS, in a process of its own.

pub mod client;
