//! The convergence display: one bar a task, until all run and stayed up for a while.

use crate::client::{filters, query, segment};
use crate::format::text;
use crate::{Client, Outcome, terminal};
use anyhow::anyhow;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// More bars than this say nothing more than the overall line.
const BARS_MAX: usize = 20;
const POLL: Duration = Duration::from_millis(100);
const MONITOR_DEFAULT: Duration = Duration::from_secs(5);

/// What one look at a service says.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    wanted: usize,
    running: usize,
    /// Slot to (bar position, state or error).
    slots: BTreeMap<String, (u64, String)>,
    /// Tasks of a job that are under way; `None` for other services, which have to stay up.
    active: Option<usize>,
    /// An update that paused or rolled back: nothing more to wait for.
    ended: Option<String>,
}

/// Waits until the service has converged, and shows how far it is.
///
/// # Errors
/// The update paused or rolled back, or the daemon's error.
pub(crate) async fn converge(client: &Client, id: &str, quiet: bool) -> Outcome {
    let live = !quiet && terminal::output_is_terminal();
    let display = live.then(Display::new);
    let mut stable_since: Option<Instant> = None;
    let mut told = String::new();
    loop {
        let service = client.get(&format!("/services/{}", segment(id))).await?;
        let tasks = client
            .get(&format!(
                "/tasks{}",
                query(&[("filters", &filters(&[format!("service={id}"), "_up-to-date=true".to_owned()])?)])
            ))
            .await?;
        let nodes =
            if service["Spec"]["Mode"]["Global"].is_object() { active_nodes(&client.get("/nodes").await?) } else { 0 };
        let look = look(&service, &tasks, nodes);
        if let Some(message) = &look.ended {
            return Err(anyhow!("service {}: {message}", text(&service["Spec"]["Name"])).into());
        }
        let line = look.line();
        match &display {
            Some(display) => display.show(&line, &look),
            None if !quiet && line != told => println!("{line}"),
            None => {}
        }
        told = line;
        // What is done stays done: a job needs no time to prove itself.
        if look.active.is_some() && look.wanted > 0 && look.running >= look.wanted {
            match &display {
                Some(display) => display.verify("job complete"),
                None if !quiet => println!("job complete"),
                None => {}
            }
            return Ok(());
        }
        if look.running < look.wanted || look.active.is_some() {
            stable_since = None;
        } else {
            let since = *stable_since.get_or_insert_with(Instant::now);
            let monitor =
                service["Spec"]["UpdateConfig"]["Monitor"].as_u64().map_or(MONITOR_DEFAULT, Duration::from_nanos);
            if since.elapsed() >= monitor {
                if let Some(display) = &display {
                    display.verify("verify: Service converged");
                } else if !quiet {
                    println!("verify: Service converged");
                }
                return Ok(());
            }
            if let Some(display) = &display {
                let left = (monitor - since.elapsed()).as_secs() + 1;
                display.verify(&format!("verify: Waiting {left} seconds to verify that tasks are stable..."));
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

fn active_nodes(nodes: &Value) -> usize {
    nodes
        .as_array()
        .into_iter()
        .flatten()
        .filter(|n| n["Status"]["State"] == "ready" && n["Spec"]["Availability"] == "active")
        .count()
}

impl Look {
    fn line(&self) -> String {
        match self.active {
            None => format!("overall progress: {} out of {} tasks", self.running, self.wanted),
            Some(_) if self.wanted == 0 => "job progress: waiting for tasks".into(),
            Some(active) => {
                format!("job progress: {} out of {} complete, {active} active", self.running, self.wanted)
            }
        }
    }
}

/// Each slot's task of a job's present run. `running` counts those that are complete.
fn look_at_job(service: &Value, tasks: &Value) -> Look {
    let index = |of: &Value| of["JobIteration"]["Index"].as_u64().unwrap_or(0);
    let run = index(&service["JobStatus"]);
    let total = service["Spec"]["Mode"]["ReplicatedJob"]["TotalCompletions"].as_u64();
    let mut slots: BTreeMap<String, (u64, String)> = BTreeMap::new();
    for task in tasks.as_array().into_iter().flatten() {
        if task["JobIteration"].is_null() || index(task) != run {
            continue;
        }
        let slot = match total {
            Some(_) => format!("{:09}", task["Slot"].as_u64().unwrap_or(0)),
            None => text(&task["NodeID"]),
        };
        let state = task["Status"]["State"].as_str().unwrap_or_default();
        let complete = slots.get(&slot).is_some_and(|(_, state)| state == "complete");
        let present = matches!(task["DesiredState"].as_str(), Some("complete" | "ready" | "accepted" | "running"));
        if state == "complete" || (present && !complete) {
            let error = text(&task["Status"]["Err"]);
            slots.insert(slot, (position(state), if error.is_empty() { state.to_owned() } else { error }));
        }
    }
    let completed = slots.values().filter(|(_, state)| state == "complete").count();
    let wanted = total.map_or(slots.len(), |total| usize::try_from(total).unwrap_or(usize::MAX));
    Look { wanted, running: completed, active: Some(slots.len() - completed), slots, ended: None }
}

fn look(service: &Value, tasks: &Value, active_nodes: usize) -> Look {
    if service["JobStatus"].is_object() {
        return look_at_job(service, tasks);
    }
    let update = &service["UpdateStatus"];
    let ended =
        matches!(update["State"].as_str(), Some("paused" | "rollback_paused")).then(|| text(&update["Message"]));
    let global = service["Spec"]["Mode"]["Global"].is_object();
    let mut slots: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let mut running = 0;
    for task in tasks.as_array().into_iter().flatten() {
        let desired = task["DesiredState"].as_str().unwrap_or_default();
        if !matches!(desired, "running" | "ready" | "accepted") {
            continue;
        }
        let state = task["Status"]["State"].as_str().unwrap_or_default();
        let slot = if global { text(&task["NodeID"]) } else { format!("{:09}", task["Slot"].as_u64().unwrap_or(0)) };
        if state == "running" && desired == "running" {
            running += 1;
        }
        let error = text(&task["Status"]["Err"]);
        slots.insert(slot, (position(state), if error.is_empty() { state.to_owned() } else { error }));
    }
    let wanted = match service["Spec"]["Mode"]["Replicated"]["Replicas"].as_u64() {
        Some(replicas) => usize::try_from(replicas).unwrap_or(usize::MAX),
        None if global => active_nodes.max(slots.len()),
        None => slots.len(),
    };
    Look { wanted, running, active: None, slots, ended }
}

/// Nine steps from new to running, and one more for a job's task.
fn position(state: &str) -> u64 {
    let order = [
        "new",
        "allocated",
        "pending",
        "assigned",
        "accepted",
        "preparing",
        "ready",
        "starting",
        "running",
        "complete",
    ];
    order.iter().position(|name| *name == state).map_or(0, |at| at as u64 + 1)
}

struct Display {
    bars: MultiProgress,
    overall: ProgressBar,
    verify: ProgressBar,
    slots: std::cell::RefCell<BTreeMap<String, ProgressBar>>,
}

impl Display {
    fn new() -> Self {
        let bars = MultiProgress::new();
        let line = || {
            let bar = ProgressBar::no_length();
            bar.set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar
        };
        let overall = bars.add(line());
        let verify = bars.add(line());
        Self { bars, overall, verify, slots: Default::default() }
    }

    fn show(&self, line: &str, look: &Look) {
        self.overall.set_message(line.to_owned());
        let mut slots = self.slots.borrow_mut();
        if look.wanted > BARS_MAX {
            return;
        }
        for (number, (slot, (position, state))) in look.slots.iter().enumerate() {
            let bar = slots.entry(slot.clone()).or_insert_with(|| {
                let steps = if look.active.is_some() { 10 } else { 9 };
                let bar = self.bars.insert_before(&self.verify, ProgressBar::new(steps));
                let style = ProgressStyle::with_template("{prefix}: {msg:9} [{bar:50}]");
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
                bar
            });
            bar.set_prefix(format!("{}/{}", number + 1, look.wanted));
            bar.set_position(*position);
            bar.set_message(state.clone());
        }
    }

    fn verify(&self, line: &str) {
        self.verify.set_message(line.to_owned());
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.overall.abandon();
        self.verify.abandon();
        for bar in self.slots.borrow().values() {
            bar.abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_look_counts_wanted_and_running() {
        let service = json!({"Spec": {"Mode": {"Replicated": {"Replicas": 2}}}});
        let tasks = json!([
            {"Slot": 1, "DesiredState": "running", "Status": {"State": "running"}},
            {"Slot": 2, "DesiredState": "running", "Status": {"State": "pending", "Err": "no suitable node"}},
            {"Slot": 1, "DesiredState": "shutdown", "Status": {"State": "failed"}},
        ]);
        let look = look(&service, &tasks, 0);
        assert_eq!((look.wanted, look.running), (2, 1));
        assert_eq!(look.slots["000000002"], (3, "no suitable node".into()));
    }

    #[test]
    fn a_look_at_a_job_counts_what_is_complete_in_this_run() {
        let service = json!({"Spec": {"Mode": {"ReplicatedJob": {"TotalCompletions": 3, "MaxConcurrent": 2}}},
            "JobStatus": {"JobIteration": {"Index": 1}}});
        let tasks = json!([
            {"JobIteration": {"Index": 0}, "Slot": 2, "DesiredState": "shutdown", "Status": {"State": "complete"}},
            {"JobIteration": {"Index": 1}, "DesiredState": "complete", "Status": {"State": "complete"}},
            {"JobIteration": {"Index": 1}, "Slot": 1, "DesiredState": "shutdown", "Status": {"State": "failed"}},
            {"JobIteration": {"Index": 1}, "Slot": 1, "DesiredState": "complete", "Status": {"State": "running"}},
        ]);
        let look = look(&service, &tasks, 0);
        assert_eq!((look.wanted, look.running, look.active), (3, 1, Some(1)));
        assert_eq!(look.line(), "job progress: 1 out of 3 complete, 1 active");
    }

    #[test]
    fn a_paused_update_ends_the_wait() {
        let service = json!({"Spec": {"Mode": {"Global": {}}}, "UpdateStatus": {"State": "paused", "Message": "why"}});
        assert_eq!(look(&service, &json!([]), 1).ended, Some("why".into()));
    }
}
