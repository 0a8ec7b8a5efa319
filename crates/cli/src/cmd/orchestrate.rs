//! `service rebalance` and `service why`: what stock clients do not have.

use crate::client::{query, segment};
use crate::flags::service::{Rebalance, WhyFlags};
use crate::format::text;
use crate::{Client, Failure, Outcome};
use anyhow::anyhow;
use serde_json::{Value, json};

pub(crate) async fn rebalance(client: &Client, flags: &Rebalance) -> Outcome {
    let names = match (flags.all, flags.services.as_slice()) {
        (true, []) => vec!["*".to_owned()],
        (true, _) => return Err(anyhow!("name services or give --all, not both").into()),
        (false, []) => return Err(anyhow!("name at least one service, or give --all").into()),
        (false, names) => names.to_vec(),
    };
    let options = query(&[("dryRun", if flags.dry_run { "1" } else { "" })]);
    for name in names {
        let path = format!("/services/{}/rebalance{options}", segment(&name));
        for line in moves(&client.post(&path, json!({})).await?) {
            println!("{line}");
        }
    }
    Ok(())
}

/// A line for each move, then how many.
fn moves(answer: &Value) -> Vec<String> {
    let list = |field: &str| answer[field].as_array().into_iter().flatten();
    let mut lines: Vec<String> = list("Moves")
        .map(|one| {
            let name = format!("{}.{}", text(&one["ServiceName"]), one["Slot"]);
            format!("{name}: {} -> {}", text(&one["FromNode"]), text(&one["ToNode"]))
        })
        .collect();
    let count = lines.len();
    lines.extend(list("Skipped").map(|line| format!("left as it is: {}", text(line))));
    let tasks = if count == 1 { "task" } else { "tasks" };
    lines.push(match (count, answer["DryRun"] == true) {
        (0, _) => "nothing to move".into(),
        (_, true) => format!("{count} {tasks} would be moved"),
        (_, false) => format!("{count} {tasks} to be moved, each started before the old one stops"),
    });
    lines
}

pub(crate) async fn why(client: &Client, flags: &WhyFlags) -> Outcome {
    let name = segment(&flags.name);
    let answer = match client.get(&format!("/services/{name}/why")).await {
        Err(Failure::Api(error)) if error.status == 404 => match client.get(&format!("/tasks/{name}/why")).await {
            Err(Failure::Api(error)) if error.status == 404 => {
                return Err(anyhow!("no such service or task: {}", flags.name).into());
            }
            other => other?,
        },
        other => other?,
    };
    if flags.format == "json" {
        println!("{answer}");
        return Ok(());
    }
    reasons(&answer).iter().for_each(|line| println!("{line}"));
    Ok(())
}

/// The answer for people: how much runs, what is waited for, what each task says.
fn reasons(answer: &Value) -> Vec<String> {
    let list = |field: &str| answer[field].as_array().into_iter().flatten();
    let mut lines = vec![format!("{}: {}", text(&answer["Service"]), text(&answer["Summary"]))];
    // A line about a task that speaks for itself below says nothing more.
    let ids: Vec<String> = list("Tasks").map(|task| text(&task["ID"])).collect();
    let general = |line: &&Value| !ids.iter().any(|id| text(line).starts_with(&format!("task {id}")));
    lines.extend(list("Waiting").filter(general).map(|line| format!("  {}", text(line))));
    for task in list("Tasks") {
        let node = text(&task["Node"]);
        let place = if node.is_empty() { String::new() } else { format!(" on {node}") };
        let state = text(&task["State"]);
        lines.push(format!("  {} ({state}{place}): {}", text(&task["Name"]), text(&task["Reason"])));
    }
    if lines.len() == 1 {
        lines.push("  nothing is waited for".into());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_are_named_and_counted() {
        let answer = json!({"DryRun": true, "Skipped": ["service db: it is being updated"],
            "Moves": [{"ServiceName": "web", "Slot": 3, "FromNode": "a", "ToNode": "b"}]});
        assert_eq!(
            moves(&answer),
            ["web.3: a -> b", "left as it is: service db: it is being updated", "1 task would be moved"]
        );
        assert_eq!(moves(&json!({"DryRun": false, "Moves": []})), ["nothing to move"]);
    }

    #[test]
    fn reasons_are_said_once() {
        let answer = json!({"Service": "web", "Summary": "0 of 1 tasks run",
            "Waiting": ["task t1: no suitable node", "service web: 1 slots to update, 0 busy"],
            "Tasks": [{"ID": "t1", "Name": "web.1", "State": "pending", "Node": "", "Reason": "no suitable node"}]});
        assert_eq!(
            reasons(&answer),
            [
                "web: 0 of 1 tasks run",
                "  service web: 1 slots to update, 0 busy",
                "  web.1 (pending): no suitable node"
            ]
        );
        let calm = json!({"Service": "web", "Summary": "1 of 1 tasks run", "Waiting": [], "Tasks": []});
        assert_eq!(reasons(&calm)[1], "  nothing is waited for");
    }
}
