//! Waits until a deployed stack runs, and shows how far it is.

use super::objects;
use crate::format::text;
use crate::{Client, Outcome};
use anyhow::anyhow;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(200);
/// How long tasks must stay up, where a service does not say.
const MONITOR_DEFAULT: Duration = Duration::from_secs(5);

/// Waits until every service has all its tasks and kept them for its monitor period.
///
/// # Errors
/// An update that paused or rolled back, or the daemon's error.
pub(super) async fn stack(client: &Client, stack: &str, quiet: bool) -> Outcome {
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    let mut stable_since: Option<Instant> = None;
    loop {
        let services = objects::list(client, "services", stack, &[]).await?;
        let waiting = services.iter().any(|service| !state(service).done);
        let tasks = if waiting { objects::list(client, "tasks", stack, &[]).await? } else { Vec::new() };
        let mut monitor = Duration::ZERO;
        for service in &services {
            let (name, state) = (text(&service["Spec"]["Name"]), state(service));
            if let Some(message) = state.ended {
                return Err(anyhow!("service {name}: {message}").into());
            }
            let error = if state.done { String::new() } else { newest_error(&tasks, &service["ID"]) };
            let line = format!("{name}: {}{error}", state.line);
            if !quiet && told.get(&name) != Some(&line) {
                println!("{line}");
            }
            told.insert(name, line);
            monitor = monitor.max(state.monitor);
        }
        if waiting {
            stable_since = None;
        } else if stable_since.get_or_insert_with(Instant::now).elapsed() >= monitor {
            if !quiet {
                println!("verify: Stack {stack} converged");
            }
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

struct State {
    done: bool,
    line: String,
    ended: Option<String>,
    monitor: Duration,
}

fn state(service: &Value) -> State {
    let (spec, status, update) = (&service["Spec"], &service["ServiceStatus"], &service["UpdateStatus"]);
    let count = |field: &str| status[field].as_u64().unwrap_or(0);
    let total = spec["Mode"]["ReplicatedJob"]["TotalCompletions"].as_u64();
    let is_job = spec["Mode"]["ReplicatedJob"].is_object() || spec["Mode"]["GlobalJob"].is_object();
    let (have, want, what) = if is_job {
        (count("CompletedTasks"), total.unwrap_or_else(|| count("DesiredTasks").max(1)), "tasks completed")
    } else {
        (count("RunningTasks"), count("DesiredTasks"), "tasks")
    };
    let updating = matches!(update["State"].as_str(), Some("updating" | "rollback_started"));
    let ended = matches!(update["State"].as_str(), Some("paused" | "rollback_paused" | "rollback_completed"));
    let monitor = spec["UpdateConfig"]["Monitor"].as_u64().filter(|ns| *ns > 0);
    State {
        done: have >= want && !updating,
        line: format!("{have} out of {want} {what}{}", if updating { ", updating" } else { "" }),
        ended: ended.then(|| text(&update["Message"])),
        monitor: if is_job { Duration::ZERO } else { monitor.map_or(MONITOR_DEFAULT, Duration::from_nanos) },
    }
}

fn newest_error(tasks: &[Value], service: &Value) -> String {
    let ours = tasks.iter().filter(|task| task["ServiceID"] == *service);
    let newest = ours.max_by_key(|task| text(&task["CreatedAt"]));
    let error = newest.map(|task| text(&task["Status"]["Err"])).unwrap_or_default();
    if error.is_empty() { error } else { format!(" ({error})") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_service_is_done_when_all_run_and_no_update_is_under_way() {
        let service = |running: u64, update: &str| {
            json!({"Spec": {"Mode": {"Replicated": {"Replicas": 2}}}, "UpdateStatus": {"State": update, "Message": "why"},
                "ServiceStatus": {"RunningTasks": running, "DesiredTasks": 2}})
        };
        assert!(state(&service(2, "completed")).done && !state(&service(1, "")).done);
        assert!(!state(&service(2, "updating")).done);
        assert_eq!(state(&service(1, "paused")).ended.as_deref(), Some("why"));
        assert_eq!(state(&service(1, "")).line, "1 out of 2 tasks");
    }
}
