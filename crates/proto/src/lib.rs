//! Where wire meets model: the generated gRPC code, the one codec that turns model
//! values into bytes and back, and byte streams inside gRPC calls. Nothing else lives here.

pub mod codec;
pub mod tunnel;

/// Header of a refusal by a manager that does not lead: `host:port` of the one that does.
pub const LEADER_METADATA: &str = "skep-leader";

/// Agents and managers.
pub mod dispatcher {
    #![allow(clippy::all, unreachable_pub)]
    tonic::include_proto!("skep.dispatcher.v1");
}

/// Joining and certificates.
pub mod ca {
    #![allow(clippy::all, unreachable_pub)]
    tonic::include_proto!("skep.ca.v1");
}

/// Between managers.
pub mod raft {
    #![allow(clippy::all, unreachable_pub)]
    tonic::include_proto!("skep.raft.v1");
}

/// Daemon and netd.
pub mod netd {
    #![allow(clippy::all, unreachable_pub)]
    tonic::include_proto!("skep.netd.v1");
}
