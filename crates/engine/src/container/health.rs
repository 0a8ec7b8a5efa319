//! Health probes of a running container.

use crate::container::inner::Inner;
use crate::container::registry::Container;
use crate::container::shim::now;
use skep_model::container::{ContainerConfig, HealthProbe, HealthStatus};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const INTERVAL_DEFAULT: Duration = Duration::from_secs(30);
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
const START_INTERVAL_DEFAULT: Duration = Duration::from_secs(5);
const RETRIES_DEFAULT: u32 = 3;
const LOG_MAX: usize = 5;
const OUTPUT_MAX: usize = 4096;
/// What a probe that took too long ends with.
const EXIT_CODE_TIMEOUT: i32 = -1;

/// A probe with its defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Probe {
    command: Vec<String>,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
}

/// The probe a container wants; `None` for none.
pub(crate) fn probe_of(config: &ContainerConfig) -> Option<Probe> {
    let health = config.healthcheck.as_ref()?;
    let (kind, rest) = health.test.split_first()?;
    let command = match kind.as_str() {
        "CMD" => rest.to_vec(),
        "CMD-SHELL" => {
            let default = || vec!["/bin/sh".to_owned(), "-c".to_owned()];
            let mut shell = config.shell.clone().filter(|shell| !shell.is_empty()).unwrap_or_else(default);
            shell.push(rest.join(" "));
            shell
        }
        _ => return None,
    };
    let or = |value: Duration, default| if value.is_zero() { default } else { value };
    (!command.is_empty()).then(|| Probe {
        command,
        interval: or(health.interval, INTERVAL_DEFAULT),
        timeout: or(health.timeout, TIMEOUT_DEFAULT),
        start_period: health.start_period,
        start_interval: or(health.start_interval, START_INTERVAL_DEFAULT),
        retries: if health.retries == 0 { RETRIES_DEFAULT } else { health.retries },
    })
}

/// What a probe's result makes of the health.
pub(crate) fn judge(before: HealthStatus, streak: u32, ok: bool, starting: bool, retries: u32) -> (HealthStatus, u32) {
    match (ok, starting && before == HealthStatus::Starting) {
        (true, _) => (HealthStatus::Healthy, 0),
        // Failures do not count while it may still be starting.
        (false, true) => (before, streak),
        (false, false) if streak + 1 >= retries => (HealthStatus::Unhealthy, streak + 1),
        (false, false) => (before, streak + 1),
    }
}

impl Inner {
    /// Probes until the run ends.
    pub(crate) fn watch_health(self: &Arc<Self>, container: &Arc<Container>, run_ended: &CancellationToken) {
        let Some(probe) = probe_of(&container.info().config) else { return };
        let (inner, container, run_ended) = (self.clone(), container.clone(), run_ended.clone());
        self.watch(async move {
            tokio::select! {
                () = run_ended.cancelled() => {}
                () = inner.probe_for_ever(&container, &probe) => {}
            }
        });
    }

    async fn probe_for_ever(self: &Arc<Self>, container: &Arc<Container>, probe: &Probe) {
        loop {
            let info = container.info();
            let starting = now().since(info.state.started_at) < probe.start_period;
            let status = info.state.health.as_ref().map(|health| health.status);
            let early = starting && status == Some(HealthStatus::Starting);
            let pause = if early { probe.start_interval.min(probe.interval) } else { probe.interval };
            tokio::time::sleep(pause).await;
            if container.info().state.status != skep_model::container::ContainerStatus::Running {
                continue;
            }
            self.probe_once(container, probe).await;
        }
    }

    async fn probe_once(self: &Arc<Self>, container: &Arc<Container>, probe: &Probe) {
        let start = now();
        let run = self.exec_probe(container, probe.command.clone(), OUTPUT_MAX);
        let (exit_code, output) = match tokio::time::timeout(probe.timeout, run).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => (EXIT_CODE_TIMEOUT, error.message),
            Err(_) => (EXIT_CODE_TIMEOUT, format!("Health check exceeded timeout ({}s)", probe.timeout.as_secs_f64())),
        };
        let starting = start.since(container.info().state.started_at) < probe.start_period;
        let mut changed = None;
        let info = container.change(|info| {
            let Some(health) = &mut info.state.health else { return };
            let before = health.status;
            (health.status, health.failing_streak) =
                judge(before, health.failing_streak, exit_code == 0, starting, probe.retries);
            health.log.push(HealthProbe { start, end: now(), exit_code, output });
            if health.log.len() > LOG_MAX {
                health.log.remove(0);
            }
            changed = (before != health.status).then_some(health.status);
        });
        let word = match changed {
            Some(HealthStatus::Healthy) => "healthy",
            Some(HealthStatus::Unhealthy) => "unhealthy",
            Some(HealthStatus::Starting | HealthStatus::None) | None => return,
        };
        self.emit(&info, &format!("health_status: {word}"), &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::container::HealthConfig;

    #[test]
    fn probes_are_commands_or_shell_lines() {
        let probe = |test: &[&str]| {
            let test = test.iter().map(|&word| word.to_owned()).collect();
            let healthcheck = Some(HealthConfig { test, ..Default::default() });
            probe_of(&ContainerConfig { healthcheck, ..Default::default() })
        };
        assert_eq!(probe(&["CMD", "true"]).unwrap().command, ["true"]);
        assert_eq!(probe(&["CMD-SHELL", "exit 0"]).unwrap().command, ["/bin/sh", "-c", "exit 0"]);
        assert_eq!(probe(&["NONE"]), None);
        assert_eq!(probe(&[]), None);
    }

    #[test]
    fn failures_count_after_the_start_period_only() {
        use HealthStatus::{Healthy, Starting, Unhealthy};
        assert_eq!(judge(Starting, 0, false, true, 3), (Starting, 0));
        assert_eq!(judge(Starting, 0, true, true, 3), (Healthy, 0));
        assert_eq!(judge(Starting, 1, false, false, 3), (Starting, 2));
        assert_eq!(judge(Healthy, 2, false, false, 3), (Unhealthy, 3));
        assert_eq!(judge(Healthy, 0, false, true, 1), (Unhealthy, 1));
    }
}
