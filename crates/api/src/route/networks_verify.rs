//! Our own addition: what differs between the wanted network and the kernel's, on this
//! node or on all.

use crate::backend::Backend;
use crate::error::{Reply, ok};
use crate::reach;
use crate::request::Query;
use crate::version::API_VERSION;
use axum::extract::State;
use futures_util::StreamExt;
use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};
use skep_manager::Control;
use skep_model::node::Node;
use skep_model::{Error, Result};
use std::time::Duration;

pub(crate) const PATH: &str = "/skep/networks/verify";

/// A node that takes longer is said not to answer.
const NODE_MAX: Duration = Duration::from_secs(10);
/// Nodes that are asked at the same time.
const NODES_AT_ONCE: usize = 16;
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// `?all=1` asks every node.
pub(crate) async fn verify(state: State<Backend>, query: Query) -> Reply {
    if !query.flag("all") {
        return verify_here(state).await;
    }
    let answers = ask_all(&state.0.swarm.control()?, PATH).await;
    ok(&json!({ "Nodes": answers }))
}

/// What every node answers on a path, with its id and name; in the order of the store.
pub(super) async fn ask_all(control: &Control, path: &str) -> Vec<Value> {
    let asked = control.nodes().into_iter().map(|node| {
        let control = control.clone();
        async move {
            let answer = tokio::time::timeout(NODE_MAX, ask(&control, &node, path)).await;
            let late = || Err(Error::unavailable("it did not answer in time"));
            let mut facts = answer.unwrap_or_else(|_| late()).unwrap_or_else(|error| json!({ "Error": error.message }));
            facts["ID"] = json!(node.id);
            facts["Hostname"] = json!(node.description.hostname);
            facts
        }
    });
    futures_util::stream::iter(asked).buffered(NODES_AT_ONCE).collect().await
}

/// This node alone.
pub(crate) async fn verify_here(State(backend): State<Backend>) -> Reply {
    let lines = backend.network.verify().await?;
    let status = backend.network.status().await?;
    ok(&json!({
        "Balancer": status.balancer,
        "Generation": status.cluster_generation,
        "Repairs": status.repairs,
        "Failing": status.failing,
        "Counters": {
            "DNSQueries": status.counters.dns_queries,
            "DNSMalformed": status.counters.dns_malformed,
            "DNSDropped": status.counters.dns_dropped,
            "ForgedFrames": status.counters.forged_frames,
        },
        "Differences": lines,
    }))
}

async fn ask(control: &Control, node: &Node, path: &str) -> Result<Value> {
    let response = reach::get(control, &node.id, &format!("/v{API_VERSION}{path}")).await?;
    let status = response.status();
    let malformed = || Error::internal("its answer is malformed");
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|_| malformed())?;
    let answer: Value = serde_json::from_slice(&body.to_bytes()).map_err(|_| malformed())?;
    match (status, &answer) {
        (StatusCode::OK, Value::Object(_)) => Ok(answer),
        (StatusCode::OK, _) => Err(malformed()),
        _ => Err(Error::internal(answer["message"].as_str().unwrap_or("it refuses to answer").to_owned())),
    }
}
