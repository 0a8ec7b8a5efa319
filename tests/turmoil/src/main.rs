//! Real managers, with real Raft, gRPC and TLS, on a simulated network with a simulated clock,
//! where links break and machines lose power. A seed decides everything that happens.
//!
//! Hosts: managers ([`manager`]) with the clients that write through them ([`writer`]), and
//! agents that run nothing ([`agent`]). The world ([`world`]) steps them, does harm
//! ([`faults`]), looks whether all rules hold ([`check`], [`logs`]), heals everything and
//! waits until the swarm is at rest. One process runs one seed ([`runner`]).
//!
//! All that is in a build of its own (`--cfg skep_simulated`). Without it, this program only
//! makes that build and starts it.

#![allow(clippy::print_stdout, reason = "this is a program for people")]

#[cfg(all(skep_simulated, not(tokio_unstable)))]
compile_error!("without --cfg tokio_unstable a seed does not decide what tokio does first");

#[cfg(skep_simulated)]
mod agent;
#[cfg(skep_simulated)]
mod check;
#[cfg(skep_simulated)]
mod disk;
#[cfg(skep_simulated)]
mod faults;
#[cfg(not(skep_simulated))]
mod launch;
#[cfg(skep_simulated)]
mod logs;
#[cfg(skep_simulated)]
mod manager;
#[cfg(skep_simulated)]
mod oracle;
#[cfg(skep_simulated)]
mod os;
#[cfg(skep_simulated)]
mod runner;
#[cfg(skep_simulated)]
mod shared;
#[cfg(skep_simulated)]
mod world;
#[cfg(skep_simulated)]
mod writer;

#[cfg(not(skep_simulated))]
fn main() -> std::process::ExitCode {
    launch::run()
}

#[cfg(skep_simulated)]
fn main() -> anyhow::Result<()> {
    runner::run()
}
