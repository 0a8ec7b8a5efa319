//! `depends_on`: a service is made only once those before it are as far as it asks.

use crate::client::{filters, query};
use crate::format::text;
use crate::{Client, Outcome};
use anyhow::anyhow;
use serde_json::Value;
use skep_compose::{Condition, Service};
use std::collections::BTreeMap;
use std::time::Duration;

const POLL: Duration = Duration::from_millis(100);

/// Waits for all that `service` depends on, and says so.
///
/// # Errors
/// A dependency that ended badly, or the daemon's error.
pub(super) async fn wait(client: &Client, service: &Service, all: &[Service], quiet: bool) -> Outcome {
    for dependency in &service.depends_on {
        let Some(needed) = all.iter().find(|other| other.key == dependency.service) else { continue };
        let goal = match dependency.condition {
            Condition::Completed => "to complete",
            Condition::Healthy => "to be healthy",
            Condition::Started if needed.has_health_check => "to be healthy",
            Condition::Started => "to run",
        };
        let mut told = String::new();
        loop {
            let stored = client.get(&format!("/services/{}", needed.name)).await?;
            let given = [format!("service={}", text(&stored["ID"])), "_up-to-date=true".to_owned()];
            let tasks = client.get(&format!("/tasks{}", query(&[("filters", &filters(&given)?)]))).await?;
            let nodes =
                if stored["Spec"]["Mode"]["Global"].is_object() { client.get("/nodes").await? } else { Value::Null };
            let state = progress(&stored, &tasks, active(&nodes), dependency.condition);
            if state.reached {
                break;
            }
            if let Some(reason) = state.failed {
                let text = format!("service {} waits for {} {goal}, which failed", service.name, needed.name);
                return Err(anyhow!("{text}: {reason}").into());
            }
            let line = format!("Waiting for service {} {goal}{}", needed.name, state.detail);
            if !quiet && line != told {
                println!("{line}");
            }
            told = line;
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(())
}

fn active(nodes: &Value) -> usize {
    let usable = |node: &&Value| node["Status"]["State"] == "ready" && node["Spec"]["Availability"] == "active";
    nodes.as_array().into_iter().flatten().filter(usable).count()
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Progress {
    reached: bool,
    failed: Option<String>,
    /// ` (1/2)`, with the newest error of what does not run.
    detail: String,
}

/// Pure: how far a service is. A task with a health check is RUNNING only once that passed.
fn progress(service: &Value, tasks: &Value, active_nodes: usize, condition: Condition) -> Progress {
    let mode = &service["Spec"]["Mode"];
    let wanted = match (mode["Replicated"]["Replicas"].as_u64(), mode["ReplicatedJob"]["TotalCompletions"].as_u64()) {
        (Some(count), _) | (None, Some(count)) => usize::try_from(count).unwrap_or(usize::MAX),
        (None, None) if mode["Global"].is_object() || mode["GlobalJob"].is_object() => active_nodes.max(1),
        (None, None) => 1,
    };
    let is_job = mode["ReplicatedJob"].is_object() || mode["GlobalJob"].is_object();
    let state = |task: &Value| text(&task["Status"]["State"]);
    // Of each slot the task that is farthest, which is what counts.
    let mut slots: BTreeMap<String, (bool, &Value)> = BTreeMap::new();
    for task in tasks.as_array().into_iter().flatten() {
        let slot =
            format!("{}/{}", task["Slot"], if task["Slot"].is_null() { text(&task["NodeID"]) } else { String::new() });
        let good = match condition {
            Condition::Completed => state(task) == "complete",
            _ => {
                (state(task) == "running" && task["DesiredState"] == "running") || (is_job && state(task) == "complete")
            }
        };
        let newest = |old: &Value| text(&task["CreatedAt"]) > text(&old["CreatedAt"]);
        match slots.get(&slot) {
            Some((true, _)) => {}
            Some((false, old)) if !good && !newest(old) => {}
            _ => {
                slots.insert(slot, (good, task));
            }
        }
    }
    let done = slots.values().filter(|(good, _)| *good).count();
    let worst = slots.values().find(|(good, _)| !good).map(|(_, task)| *task);
    // The task that replaces a failed one does not know why it had to.
    let complaints = tasks.as_array().into_iter().flatten().filter(|task| !text(&task["Status"]["Err"]).is_empty());
    let newest = complaints.max_by_key(|task| text(&task["CreatedAt"]));
    let error = newest.filter(|_| worst.is_some()).map(|task| text(&task["Status"]["Err"]));
    let never = service["Spec"]["TaskTemplate"]["RestartPolicy"]["Condition"] == "none";
    let over = worst.is_some_and(|task| matches!(state(task).as_str(), "failed" | "rejected"));
    let ended_well = worst.is_some_and(|task| state(task) == "complete");
    Progress {
        reached: done >= wanted,
        failed: match condition {
            _ if never && over => Some(error.clone().unwrap_or_else(|| "its task failed".into())),
            Condition::Started | Condition::Healthy if never && ended_well => Some("its task ended".into()),
            _ => None,
        },
        detail: format!(" ({done}/{wanted}){}", error.map(|error| format!(": {error}")).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn task(slot: u64, state: &str, created: &str, error: &str) -> Value {
        json!({"Slot": slot, "DesiredState": "running", "CreatedAt": created, "Status": {"State": state, "Err": error}})
    }

    fn check(service: Value, tasks: Value, condition: Condition) -> Progress {
        progress(&service, &tasks, 1, condition)
    }

    #[test]
    fn all_replicas_must_run() {
        let two = json!({"Spec": {"Mode": {"Replicated": {"Replicas": 2}}}});
        let half = json!([task(1, "running", "1", ""), task(2, "starting", "1", "")]);
        let state = check(two.clone(), half, Condition::Healthy);
        assert_eq!((state.reached, state.detail.as_str()), (false, " (1/2)"));
        let all = json!([task(1, "running", "1", ""), task(2, "failed", "1", "x"), task(2, "running", "2", "")]);
        assert!(check(two, all, Condition::Started).reached);
        let none = json!({"Spec": {"Mode": {"Replicated": {"Replicas": 0}}}});
        assert!(check(none, json!([]), Condition::Started).reached);
    }

    #[test]
    fn errors_show_and_failures_without_restart_end_the_wait() {
        let one = json!({"Spec": {"Mode": {"Replicated": {"Replicas": 1}}}});
        let bad = json!([task(1, "rejected", "1", "No such image: x")]);
        let state = check(one, bad.clone(), Condition::Started);
        assert_eq!((state.failed, state.detail.as_str()), (None, " (0/1): No such image: x"));
        let again = json!([task(1, "failed", "1", "unhealthy"), task(1, "ready", "2", "")]);
        let one = json!({"Spec": {"Mode": {"Replicated": {"Replicas": 1}}}});
        assert_eq!(check(one, again, Condition::Healthy).detail, " (0/1): unhealthy");
        let never = json!({"Spec": {"Mode": {"Replicated": {"Replicas": 1}}, "TaskTemplate": {"RestartPolicy": {"Condition": "none"}}}});
        assert_eq!(check(never.clone(), bad, Condition::Completed).failed.as_deref(), Some("No such image: x"));
        let ended = json!([task(1, "complete", "1", "")]);
        assert!(check(never.clone(), ended.clone(), Condition::Completed).reached);
        assert!(check(never, ended, Condition::Started).failed.is_some());
    }

    #[test]
    fn jobs_count_completions() {
        let job = json!({"Spec": {"Mode": {"ReplicatedJob": {"TotalCompletions": 2}}}});
        let tasks = json!([task(1, "complete", "1", ""), task(2, "complete", "1", "")]);
        assert!(check(job.clone(), tasks.clone(), Condition::Completed).reached);
        assert!(check(job, tasks, Condition::Started).reached);
    }
}
