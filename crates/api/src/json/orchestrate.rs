//! Moves that even services out, and the reasons why one waits.

use serde::Serialize;
use skep_manager::{Move as ModelMove, Moves as ModelMoves, TaskReason as ModelReason, Why as ModelWhy};
use skep_model::node::Node;
use std::sync::Arc;

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Moves {
    dry_run: bool,
    moves: Vec<Move>,
    skipped: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Move {
    #[serde(rename = "ServiceID")]
    service_id: String,
    service_name: String,
    slot: u64,
    #[serde(rename = "TaskID")]
    task_id: String,
    #[serde(rename = "FromNodeID")]
    from_node_id: String,
    from_node: String,
    #[serde(rename = "ToNodeID")]
    to_node_id: String,
    to_node: String,
}

impl Moves {
    pub(crate) fn of(moves: &ModelMoves, nodes: &[Arc<Node>], dry_run: bool) -> Self {
        let name = |id: &str| {
            let node = nodes.iter().find(|node| node.id.as_str() == id);
            node.map_or_else(|| id.to_owned(), |node| node.description.hostname.clone())
        };
        let write = |one: &ModelMove| Move {
            service_id: one.service.to_string(),
            service_name: one.service_name.clone(),
            slot: one.slot,
            task_id: one.task.to_string(),
            from_node_id: one.from.to_string(),
            from_node: name(one.from.as_str()),
            to_node_id: one.to.to_string(),
            to_node: name(one.to.as_str()),
        };
        Self { dry_run, moves: moves.moves.iter().map(write).collect(), skipped: moves.skipped.clone() }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Why {
    service: String,
    summary: String,
    waiting: Vec<String>,
    tasks: Vec<TaskReason>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct TaskReason {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    state: &'static str,
    desired_state: &'static str,
    node: String,
    reason: String,
}

impl Why {
    pub(crate) fn of(why: &ModelWhy) -> Self {
        let write = |task: &ModelReason| TaskReason {
            id: task.task.to_string(),
            name: task.name.clone(),
            state: task.state.as_str(),
            desired_state: task.desired_state.as_str(),
            node: task.node.clone(),
            reason: task.reason.clone(),
        };
        Self {
            service: why.service.clone(),
            summary: why.summary.clone(),
            waiting: why.waiting.clone(),
            tasks: why.tasks.iter().map(write).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nodes_go_by_their_host_names_where_they_are_known() {
        let mut node = Node { id: "n1".into(), ..Node::default() };
        node.description.hostname = "alpha".into();
        let one = ModelMove {
            service: "s".into(),
            service_name: "web".into(),
            slot: 3,
            task: "t".into(),
            from: "n1".into(),
            to: "n2".into(),
        };
        let moves = ModelMoves { moves: vec![one], skipped: vec!["service db: it is being updated".into()] };
        let wire = serde_json::to_value(Moves::of(&moves, &[Arc::new(node)], true)).unwrap();
        assert_eq!(
            wire,
            json!({"DryRun": true, "Skipped": ["service db: it is being updated"], "Moves": [
                {"ServiceID": "s", "ServiceName": "web", "Slot": 3, "TaskID": "t", "FromNodeID": "n1",
                 "FromNode": "alpha", "ToNodeID": "n2", "ToNode": "n2"}]})
        );
    }
}
