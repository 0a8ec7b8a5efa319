//! Our own addition: what differs between the wanted network and the kernel's.

use crate::backend::Backend;
use crate::error::{Reply, ok};
use axum::extract::State;
use serde_json::json;

pub(crate) async fn verify(State(backend): State<Backend>) -> Reply {
    let lines = backend.swarm.verify_network().await?;
    let status = backend.swarm.netd_status().await?;
    ok(&json!({
        "Balancer": status.balancer,
        "Generation": status.cluster_generation,
        "Repairs": status.repairs,
        "Failing": status.failing,
        "Differences": lines,
    }))
}
