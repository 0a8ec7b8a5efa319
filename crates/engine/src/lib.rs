//! The single-node engine: images, containers, builds, volumes and local networks of
//! this machine, with or without a swarm.
//!
//! Owns everything below the data root and the exec root. Spawns one shim process per
//! running container or exec ([`skep_model::shim`]), and per container one task that
//! waits for its shim. Knows no HTTP and no swarm; reaches the network only through
//! [`Attach`].

pub mod attach;
pub mod build;
pub mod config;
pub mod container;
pub mod events;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod image;
pub mod network;
pub mod progress;
pub mod rootfs;
pub mod sys;
pub mod volume;

pub use attach::Attach;
pub use config::EngineConfig;
pub use container::Engine;
