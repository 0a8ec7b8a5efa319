//! BuildKit's side of the Docker API: sessions, in which the client serves its files, secrets
//! and agents, and the gRPC calls that ask for a build. The Dockerfile is built by the
//! engine's own builder; here is only what goes over the wire.
//!
//! Two connections come in by an upgrade to HTTP/2: `/session`, where the client is the
//! server ([`session`]), and `/grpc`, where we are ([`control`], [`gateway`]). Older clients
//! ask for the build by `POST /build?version=2` instead ([`solve`] serves both).
//! [`files`] turns the client's folder into a tar, [`trace`] tells of steps as BuildKit does.

mod attrs;
mod client;
mod control;
mod files;
mod gateway;
mod services;
pub mod session;
mod solve;
mod status;
pub mod trace;

pub use attrs::Request;
pub use services::{BuildKit, Running};
pub use solve::Upload;

/// The generated messages.
pub mod proto {
    /// Building and telling about it.
    pub mod control {
        #![allow(clippy::all, unreachable_pub)]
        tonic::include_proto!("moby.buildkit.v1");
    }
    /// Clients that steer a build themselves.
    pub mod gateway {
        #![allow(clippy::all, unreachable_pub)]
        tonic::include_proto!("moby.buildkit.v1.frontend");
    }
    /// Files and credentials of a client.
    pub mod filesync {
        #![allow(clippy::all, unreachable_pub)]
        tonic::include_proto!("moby.filesync.v1");
    }
    /// Secrets of a client.
    pub mod secrets {
        #![allow(clippy::all, unreachable_pub)]
        tonic::include_proto!("moby.buildkit.secrets.v1");
    }
    /// SSH agents of a client.
    pub mod ssh {
        #![allow(clippy::all, unreachable_pub)]
        tonic::include_proto!("moby.sshforward.v1");
    }
}
