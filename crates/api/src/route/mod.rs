//! One thin handler per path: read, convert, call, convert, write.

pub(crate) mod build;
pub(crate) mod buildkit;
pub(crate) mod containers;
pub(crate) mod disk;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod files;
pub(crate) mod images;
pub(crate) mod networks;
pub(crate) mod networks_trace;
pub(crate) mod networks_verify;
pub(crate) mod orchestrate;
pub(crate) mod secrets;
pub(crate) mod service_logs;
pub(crate) mod services;
pub(crate) mod streams;
pub(crate) mod swarm;
pub(crate) mod swarm_backup;
pub(crate) mod system;
pub(crate) mod volumes;
