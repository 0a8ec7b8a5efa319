//! Our own additions to `/services` and `/tasks`: even out, explain.

use crate::backend::Backend;
use crate::error::{Reply, ok};
use crate::json::orchestrate::{Moves, Why};
use crate::request::{Name, Query};
use axum::extract::State;

/// Stands for all services, since none can be called so.
const ALL: &str = "*";

pub(crate) async fn rebalance(State(backend): State<Backend>, Name(name): Name, query: Query) -> Reply {
    let control = backend.swarm.control()?;
    let dry_run = query.flag("dryRun");
    let only = (name != ALL).then_some(name.as_str());
    let moves = control.rebalance(only, dry_run).await?;
    ok(&Moves::of(&moves, &control.nodes(), dry_run))
}

pub(crate) async fn why_service(State(backend): State<Backend>, Name(name): Name) -> Reply {
    ok(&Why::of(&backend.swarm.control()?.why(&name)?))
}

pub(crate) async fn why_task(State(backend): State<Backend>, Name(name): Name) -> Reply {
    ok(&Why::of(&backend.swarm.control()?.why_task(&name)?))
}
