//! What happens when a process ends: record, network, restart or removal.

use crate::container::inner::Inner;
use crate::container::registry::{Container, Owned};
use crate::container::{record, shim};
use skep_model::container::{ContainerInfo, ContainerStatus, HealthStatus, RestartMode};
use skep_model::shim::{ExitRecord, Started};
use std::sync::Arc;
use std::time::Duration;

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// A run this long makes the next restart quick again.
const STABLE_RUN: Duration = Duration::from_secs(10);

/// Whether a policy wants a process started again.
pub(crate) fn wants_restart(info: &ContainerInfo, exit_code: i32) -> bool {
    let policy = &info.host.restart_policy;
    let within = policy.maximum_retry_count == 0 || info.restart_count < policy.maximum_retry_count;
    match policy.mode {
        RestartMode::No => false,
        RestartMode::Always | RestartMode::UnlessStopped => !info.manually_stopped,
        RestartMode::OnFailure => !info.manually_stopped && exit_code != 0 && within,
    }
}

/// The pause before the next restart: doubling, quick again after a stable run.
pub(crate) fn next_backoff(last: Option<Duration>, ran: Duration) -> Duration {
    match last {
        Some(last) if ran < STABLE_RUN => (last * 2).min(BACKOFF_MAX),
        _ => BACKOFF_MIN,
    }
}

impl Inner {
    /// Watches a process to its end, and what comes of it.
    pub(crate) fn watch_process(self: &Arc<Self>, container: Arc<Container>, started: Started) {
        let inner = self.clone();
        self.watch(async move {
            let id = container.info().id.clone();
            let record = shim::wait_exit(&inner.run_dir(&id), &started).await;
            // From here on it must not be torn: a shutdown waits for it.
            let handle = inner.clone();
            handle.verbs.spawn(async move { inner.process_ended(container, started, record).await });
        });
    }

    async fn process_ended(self: Arc<Self>, container: Arc<Container>, started: Started, exit: ExitRecord) {
        let mut owned = container.lock().await;
        if owned.running.as_ref() != Some(&started) {
            return;
        }
        owned.running = None;
        owned.run_ended.cancel();
        let ran = exit.at.since(started.at);
        let restart = wants_restart(&container.info(), exit.exit_code) && !self.closing.is_cancelled();
        self.settle(&container, &exit, restart).await;
        let info = container.info();
        if restart {
            let backoff = next_backoff(owned.backoff, ran);
            owned.backoff = Some(backoff);
            drop(owned);
            self.restart_later(container, backoff);
        } else if info.host.auto_remove {
            drop(owned);
            self.remove_after_exit(&container).await;
        }
    }

    /// Takes the network away, writes the exit down and tells everybody.
    pub(crate) async fn settle(self: &Arc<Self>, container: &Container, exit: &ExitRecord, restart: bool) {
        let info = container.info();
        self.release_network(&info).await;
        self.forget_execs(&info.id);
        self.clear_run_dir(&self.run_dir(&info.id));
        if !restart && info.host.restart_policy.mode == RestartMode::No {
            container.forget_files();
        }
        if exit.oom_killed {
            self.emit(&info, "oom", &[]);
        }
        self.emit(&info, "die", &[("exitCode", &exit.exit_code.to_string())]);
        for point in info.mounts.iter().filter(|point| !point.name.is_empty()) {
            self.emit_object("volume", "unmount", &point.name, &[("container", &info.id.0), ("driver", "local")]);
        }
        let edit = |info: &mut ContainerInfo| {
            let state = &mut info.state;
            state.status = if restart { ContainerStatus::Restarting } else { ContainerStatus::Exited };
            state.pid = 0;
            state.exit_code = exit.exit_code;
            state.oom_killed = exit.oom_killed;
            state.error.clone_from(&exit.error);
            state.finished_at = exit.at;
            if let Some(health) = &mut state.health {
                health.status = HealthStatus::Unhealthy;
            }
            info.exec_ids.clear();
            info.ports.clear();
            info.sandbox_key.clear();
            for leg in info.endpoints.values_mut() {
                crate::network::endpoints::clear_leg(leg);
            }
        };
        // Before the waiters hear of it: who asks after a wait finds it written.
        let mut after = (*info).clone();
        edit(&mut after);
        if let Err(error) = record::save(&self.container_dir(&info.id), &after, false) {
            tracing::error!(id = %info.id, %error, "cannot record an exit");
        }
        container.change_at_exit(edit);
    }

    fn restart_later(self: &Arc<Self>, container: Arc<Container>, backoff: Duration) {
        let inner = self.clone();
        let cancelled = container.restart_token();
        self.watch(async move {
            tokio::select! {
                () = cancelled.cancelled() => {}
                () = tokio::time::sleep(backoff) => {
                    let handle = inner.clone();
                    handle.verbs.spawn(async move { inner.restart_now(container).await });
                }
            }
        });
    }

    async fn restart_now(self: Arc<Self>, container: Arc<Container>) {
        let mut owned: tokio::sync::OwnedMutexGuard<Owned> = container.lock().await;
        if container.info().state.status != ContainerStatus::Restarting {
            return;
        }
        container.change(|info| info.restart_count += 1);
        let Err(error) = self.start_locked(&container, &mut owned).await else { return };
        let info = container.info();
        tracing::warn!(id = %info.id, %error, "restart failed");
        if wants_restart(&info, info.state.exit_code.max(1)) && !self.closing.is_cancelled() {
            let backoff = next_backoff(owned.backoff, Duration::ZERO);
            owned.backoff = Some(backoff);
            container.change(|info| info.state.status = ContainerStatus::Restarting);
            drop(owned);
            self.restart_later(container, backoff);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::container::{HostConfig, RestartPolicy};

    fn check(mode: RestartMode, maximum: u32, count: u32, stopped: bool, exit_code: i32, expect: bool) {
        let info = ContainerInfo {
            host: HostConfig {
                restart_policy: RestartPolicy { mode, maximum_retry_count: maximum },
                ..Default::default()
            },
            restart_count: count,
            manually_stopped: stopped,
            ..Default::default()
        };
        assert_eq!(wants_restart(&info, exit_code), expect);
    }

    #[test]
    fn policies_decide_about_restarts() {
        check(RestartMode::No, 0, 0, false, 1, false);
        check(RestartMode::Always, 0, 99, false, 0, true);
        check(RestartMode::Always, 0, 0, true, 0, false);
        check(RestartMode::OnFailure, 0, 50, false, 1, true);
        check(RestartMode::OnFailure, 3, 3, false, 1, false);
        check(RestartMode::OnFailure, 3, 0, false, 0, false);
    }

    #[test]
    fn backoff_doubles_and_resets_after_a_stable_run() {
        let short = Duration::from_secs(1);
        assert_eq!(next_backoff(None, short), Duration::from_millis(100));
        assert_eq!(next_backoff(Some(Duration::from_millis(100)), short), Duration::from_millis(200));
        assert_eq!(next_backoff(Some(Duration::from_secs(50)), short), Duration::from_secs(60));
        assert_eq!(next_backoff(Some(Duration::from_secs(50)), Duration::from_secs(11)), Duration::from_millis(100));
    }
}
