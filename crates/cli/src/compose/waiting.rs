//! Waits until containers are as far as those that depend on them ask.

use super::Context;
use super::seen::Seen;
use crate::format::text;
use crate::{Client, Outcome};
use anyhow::anyhow;
use serde_json::Value;
use skep_compose::{Condition, Dependency};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(100);

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    Healthy,
    Completed,
    /// Healthy where there is a check, else running.
    Ready,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Reached,
    Wait,
    Failed(String),
}

/// Waits for all that a service depends on.
///
/// # Errors
/// A required one that cannot get there any more.
pub(super) async fn dependencies(context: &Context<'_>, dependencies: &[Dependency]) -> Outcome {
    for wish in dependencies {
        let goal = match wish.condition {
            // Its start was asked for before, and that is all there is to it.
            Condition::Started => continue,
            Condition::Healthy => Goal::Healthy,
            Condition::Completed => Goal::Completed,
        };
        let containers = context.chosen(std::slice::from_ref(&wish.service)).await?;
        let all = containers.iter().map(|one| container(context.client, one, goal, None));
        let reached = match futures_util::future::try_join_all(all).await {
            _ if containers.is_empty() => Err(anyhow!("service \"{}\" has no container", wish.service).into()),
            other => other.map(drop),
        };
        match reached {
            Ok(()) => {}
            Err(failure) if !wish.required => eprintln!("WARNING: optional dependency failed to start: {failure}"),
            Err(failure) => return Err(anyhow!("dependency failed to start: {failure}").into()),
        }
    }
    Ok(())
}

/// Waits for one container.
///
/// # Errors
/// It cannot get there any more, or the time is up.
pub(super) async fn container(client: &Client, one: &Seen, goal: Goal, until: Option<Instant>) -> Outcome {
    super::say("Container", &one.name, "Waiting");
    loop {
        let state = client.get(&format!("/containers/{}/json", one.id)).await?;
        match verdict(&state, &one.name, goal) {
            Verdict::Reached => break,
            Verdict::Failed(reason) => {
                super::say("Container", &one.name, "Error");
                return Err(anyhow!("{reason}").into());
            }
            Verdict::Wait if until.is_some_and(|until| Instant::now() >= until) => {
                return Err(anyhow!("timeout waiting for container {}", one.name).into());
            }
            Verdict::Wait => tokio::time::sleep(POLL).await,
        }
    }
    let reached = match goal {
        Goal::Completed => "Exited",
        Goal::Healthy | Goal::Ready => "Healthy",
    };
    super::say("Container", &one.name, reached);
    Ok(())
}

fn verdict(seen: &Value, name: &str, goal: Goal) -> Verdict {
    let state = &seen["State"];
    let code = state["ExitCode"].as_i64().unwrap_or(0);
    let ended = matches!(text(&state["Status"]).as_str(), "exited" | "dead") && state["Restarting"] != true;
    let health = text(&state["Health"]["Status"]);
    let has_health = !matches!(health.as_str(), "" | "none");
    match goal {
        Goal::Completed if ended && code == 0 => Verdict::Reached,
        Goal::Completed if ended => {
            Verdict::Failed(format!("container {name} didn't complete successfully: exit {code}"))
        }
        Goal::Completed => Verdict::Wait,
        Goal::Healthy | Goal::Ready if ended => Verdict::Failed(format!("container {name} exited ({code})")),
        _ if health == "healthy" => Verdict::Reached,
        _ if health == "unhealthy" => Verdict::Failed(format!("container {name} is unhealthy")),
        _ if has_health => Verdict::Wait,
        Goal::Healthy if state["Running"] == true => {
            Verdict::Failed(format!("container {name} has no healthcheck configured"))
        }
        Goal::Ready if state["Running"] == true => Verdict::Reached,
        Goal::Healthy | Goal::Ready => Verdict::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(state: Value, goal: Goal, expect: &str) {
        let found = match verdict(&json!({ "State": state }), "c", goal) {
            Verdict::Reached => "reached".into(),
            Verdict::Wait => "wait".into(),
            Verdict::Failed(reason) => reason,
        };
        assert_eq!(found, expect, "{goal:?}");
    }

    #[test]
    fn health_decides_where_there_is_a_check() {
        let state = |health: &str| json!({"Status": "running", "Running": true, "Health": {"Status": health}});
        check(state("starting"), Goal::Healthy, "wait");
        check(state("healthy"), Goal::Healthy, "reached");
        check(state("unhealthy"), Goal::Healthy, "container c is unhealthy");
        check(state("starting"), Goal::Ready, "wait");
        let plain = json!({"Status": "running", "Running": true});
        check(plain.clone(), Goal::Ready, "reached");
        check(plain, Goal::Healthy, "container c has no healthcheck configured");
        check(json!({"Status": "created"}), Goal::Healthy, "wait");
    }

    #[test]
    fn an_end_is_what_completion_waits_for_and_health_cannot_bear() {
        let ended = |code: i64| json!({"Status": "exited", "ExitCode": code});
        check(ended(0), Goal::Completed, "reached");
        check(ended(3), Goal::Completed, "container c didn't complete successfully: exit 3");
        check(ended(0), Goal::Healthy, "container c exited (0)");
        check(json!({"Status": "running", "Running": true}), Goal::Completed, "wait");
        check(json!({"Status": "exited", "Restarting": true}), Goal::Completed, "wait");
    }
}
