//! `stop`, `kill`, `restart`, `pause`, `unpause`.

use crate::container::create::stop_timeout_s;
use crate::container::inner::Inner;
use crate::container::registry::Container;
use crate::container::{freezer, record, shim};
use skep_model::container::{ContainerInfo, ContainerStatus};
use skep_model::shim::{ShimReply, ShimRequest};
use skep_model::{Error, Result};
use std::sync::Arc;
use std::time::Duration;

/// After SIGKILL the kernel needs a moment to take a process apart.
const KILL_MAX: Duration = Duration::from_secs(10);
const SIGNAL_MAX: i32 = 64;
const SIGKILL: i32 = libc::SIGKILL;

/// `SIGTERM`, `term`, `15`, `RTMIN+3`.
///
/// # Errors
/// `invalid signal: x`
pub(crate) fn signal_number(text: &str) -> Result<i32> {
    let bad = || Error::invalid(format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return (1..=SIGNAL_MAX).contains(&number).then_some(number).ok_or_else(bad);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |first: i32, rest: &str, sign: i32| match rest {
        "" => Some(first),
        rest => rest.trim_start_matches(['+', '-']).parse::<i32>().ok().map(|offset| first + sign * offset),
    };
    let number = match name {
        "CLD" => Some(libc::SIGCHLD),
        "POLL" => Some(libc::SIGIO),
        "IOT" => Some(libc::SIGABRT),
        name if name.starts_with("RTMIN") => real_time(libc::SIGRTMIN(), &name[5..], 1),
        name if name.starts_with("RTMAX") => real_time(libc::SIGRTMAX(), &name[5..], -1),
        name => format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32),
    };
    number.filter(|number| (1..=SIGNAL_MAX).contains(number)).ok_or_else(bad)
}

fn stop_signal(info: &ContainerInfo) -> i32 {
    signal_number(&info.config.stop_signal).unwrap_or(libc::SIGTERM)
}

impl Inner {
    pub(crate) async fn stop(self: &Arc<Self>, name: &str, timeout_s: Option<i64>, signal: Option<&str>) -> Result<()> {
        let signal = signal.filter(|text| !text.is_empty()).map(signal_number).transpose()?;
        let container = self.registry.find(name)?;
        if !container.info().state.status.is_running() {
            return Err(Error::not_modified("container already stopped"));
        }
        self.stop_container(&container, timeout_s, signal).await?;
        self.emit(&container.info(), "stop", &[]);
        Ok(())
    }

    /// Stops without telling; nothing to do if it does not run.
    pub(crate) async fn stop_container(
        self: &Arc<Self>,
        container: &Arc<Container>,
        timeout_s: Option<i64>,
        signal: Option<i32>,
    ) -> Result<()> {
        self.mark_stopped(container);
        if self.end_waiting_restart(container).await {
            return Ok(());
        }
        let info = container.info();
        let timeout_s = timeout_s.unwrap_or_else(|| stop_timeout_s(&info.config));
        let mut ended = container.subscribe();
        let ended = async move {
            // An error means that the container is gone, which is ended enough.
            let _ = ended.wait_for(|snapshot| !snapshot.info.state.status.is_running()).await;
        };
        tokio::pin!(ended);
        self.send_signal(&info, signal.unwrap_or_else(|| stop_signal(&info))).await?;
        if info.state.status == ContainerStatus::Paused {
            self.thaw(container).await?;
        }
        match u64::try_from(timeout_s) {
            Err(_) => {
                ended.await;
                return Ok(());
            }
            Ok(seconds) => {
                if tokio::time::timeout(Duration::from_secs(seconds), &mut ended).await.is_ok() {
                    return Ok(());
                }
            }
        }
        self.send_signal(&container.info(), SIGKILL).await?;
        tokio::time::timeout(KILL_MAX, ended).await.map_err(|_| {
            Error::internal(format!(
                "cannot stop container: {}: tried to kill container, but did not receive an exit event",
                info.id
            ))
        })
    }

    /// No automatic restart until a user starts it again.
    fn mark_stopped(&self, container: &Container) {
        let info = container.change(|info| info.manually_stopped = true);
        container.cancel_restart();
        if let Err(error) = record::save(&self.container_dir(&info.id), &info, false) {
            tracing::error!(id = %info.id, %error, "cannot record a stop");
        }
    }

    /// Whether it was between two runs, and now is not any more.
    async fn end_waiting_restart(&self, container: &Container) -> bool {
        let owned = container.lock().await;
        if owned.running.is_some() {
            return false;
        }
        let waiting = container.info().state.status == ContainerStatus::Restarting;
        if waiting {
            let info = container.change(|info| info.state.status = ContainerStatus::Exited);
            let _ = record::save(&self.container_dir(&info.id), &info, false);
        }
        drop(owned);
        true
    }

    pub(crate) async fn kill(self: &Arc<Self>, name: &str, signal: &str) -> Result<()> {
        let number = if signal.is_empty() { SIGKILL } else { signal_number(signal)? };
        let container = self.registry.find(name)?;
        let info = container.info();
        let not_running =
            || Error::conflict(format!("Cannot kill container: {name}: Container {} is not running", info.id));
        if !info.state.status.is_running() {
            return Err(not_running());
        }
        if number == SIGKILL || number == stop_signal(&info) {
            self.mark_stopped(&container);
            if self.end_waiting_restart(&container).await {
                return Ok(());
            }
        }
        if info.state.status == ContainerStatus::Restarting {
            return Err(not_running());
        }
        let mut ended = container.subscribe();
        self.send_signal(&info, number)
            .await
            .map_err(|error| error.context(format!("Cannot kill container: {name}")))?;
        self.emit(&info, "kill", &[("signal", &number.to_string())]);
        if number == SIGKILL {
            if info.state.status == ContainerStatus::Paused {
                self.thaw(&container).await?;
            }
            let _ = tokio::time::timeout(KILL_MAX, ended.wait_for(|snapshot| !snapshot.info.state.status.is_running()))
                .await;
        }
        Ok(())
    }

    pub(crate) async fn restart(
        self: &Arc<Self>,
        name: &str,
        timeout_s: Option<i64>,
        signal: Option<&str>,
    ) -> Result<()> {
        let signal = signal.filter(|text| !text.is_empty()).map(signal_number).transpose()?;
        let container = self.registry.find(name)?;
        // Between stop and start nobody may take it for one to remove.
        let auto_remove = container.info().host.auto_remove;
        container.change(|info| info.host.auto_remove = false);
        let stopped = if container.info().state.status.is_running() {
            self.stop_container(&container, timeout_s, signal).await
        } else {
            Ok(())
        };
        let started = match stopped {
            Ok(()) => self.start(&container.info().id.0).await,
            Err(error) => Err(error),
        };
        container.change(|info| info.host.auto_remove = auto_remove);
        started?;
        self.emit(&container.info(), "restart", &[]);
        Ok(())
    }

    /// Sends a signal to the container's process. One that just ended is no error.
    pub(crate) async fn send_signal(&self, info: &ContainerInfo, number: i32) -> Result<()> {
        match shim::request(&self.run_dir(&info.id), &ShimRequest::Signal { number }).await {
            Ok(ShimReply::Ok | ShimReply::Exited(_)) => Ok(()),
            Ok(ShimReply::Error { message }) if message.contains("not running") => Ok(()),
            Ok(ShimReply::Error { message }) => Err(Error::internal(message)),
            // The shim has left; its exit is on its way to us.
            Err(error) => {
                tracing::debug!(id = %info.id, %error, "signal not delivered");
                Ok(())
            }
        }
    }

    pub(crate) async fn pause(self: &Arc<Self>, name: &str) -> Result<()> {
        let container = self.registry.find(name)?;
        let _owned = container.lock().await;
        let info = container.info();
        match info.state.status {
            ContainerStatus::Running => {}
            ContainerStatus::Paused => {
                return Err(Error::conflict(format!("Container {} is already paused", info.id)));
            }
            ContainerStatus::Restarting => {
                return Err(Error::conflict(format!(
                    "Container {} is restarting, wait until the container is running",
                    info.id
                )));
            }
            _ => return Err(Error::conflict(format!("Container {} is not running", info.id))),
        }
        freezer::set(&self.kernel, &self.cgroup_path(&info), true).await?;
        let info = container.change(|info| info.state.status = ContainerStatus::Paused);
        record::save(&self.container_dir(&info.id), &info, false)?;
        self.emit(&info, "pause", &[]);
        Ok(())
    }

    pub(crate) async fn unpause(self: &Arc<Self>, name: &str) -> Result<()> {
        let container = self.registry.find(name)?;
        if container.info().state.status != ContainerStatus::Paused {
            return Err(Error::conflict(format!("Container {} is not paused", container.info().id)));
        }
        self.thaw(&container).await?;
        self.emit(&container.info(), "unpause", &[]);
        Ok(())
    }

    async fn thaw(&self, container: &Container) -> Result<()> {
        let _owned = container.lock().await;
        let info = container.info();
        if info.state.status != ContainerStatus::Paused {
            return Ok(());
        }
        freezer::set(&self.kernel, &self.cgroup_path(&info), false).await?;
        let info = container.change(|info| info.state.status = ContainerStatus::Running);
        record::save(&self.container_dir(&info.id), &info, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_names_or_numbers() {
        let number = |text: &str| signal_number(text).unwrap();
        assert_eq!((number("SIGTERM"), number("term"), number("9"), number("HUP")), (15, 15, 9, 1));
        assert_eq!(number("RTMIN+3"), libc::SIGRTMIN() + 3);
        for bad in ["", "0", "65", "NOSUCH", "-1"] {
            assert_eq!(signal_number(bad).unwrap_err().message, format!("invalid signal: {bad}"));
        }
    }
}
