//! Stops and continues all processes of a control group.

use crate::sys::kernel::Kernel;
use crate::sys::process;
use skep_model::{Error, Result};
use std::path::Path;
use std::time::Duration;
use tokio::io::Interest;

/// A process in an uninterruptible call can hold up a freeze.
const FREEZE_MAX: Duration = Duration::from_secs(10);
/// Version 1 has no event for "frozen"; the state is read again this often.
const STATE_INTERVAL: Duration = Duration::from_millis(1);

/// Returns when every process is in the wanted state.
pub(crate) async fn set(kernel: &Kernel, cgroup_path: &str, frozen: bool) -> Result<()> {
    let dir = kernel.cgroup_dir("freezer", cgroup_path);
    let done = async { if kernel.cgroup_v2 { set_v2(&dir, frozen).await } else { set_v1(&dir, frozen).await } };
    match tokio::time::timeout(FREEZE_MAX, done).await {
        Ok(result) => result.map_err(|error| Error::internal(format!("freeze {}: {error}", dir.display()))),
        Err(_) => Err(Error::internal("unable to freeze: the container's processes did not stop in time")),
    }
}

async fn set_v1(dir: &Path, frozen: bool) -> std::io::Result<()> {
    let path = dir.join("freezer.state");
    let wanted = if frozen { "FROZEN" } else { "THAWED" };
    loop {
        // Written again in each round: a process that forks meanwhile escapes the first.
        std::fs::write(&path, wanted)?;
        if std::fs::read_to_string(&path)?.trim() == wanted {
            return Ok(());
        }
        tokio::time::sleep(STATE_INTERVAL).await;
    }
}

async fn set_v2(dir: &Path, frozen: bool) -> std::io::Result<()> {
    let wanted = format!("frozen {}", u8::from(frozen));
    let events = std::fs::File::open(dir.join("cgroup.events"))?;
    let events = process::watch(events.into(), Interest::PRIORITY)?;
    std::fs::write(dir.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
    loop {
        if std::fs::read_to_string(dir.join("cgroup.events"))?.lines().any(|line| line == wanted) {
            return Ok(());
        }
        events.ready(Interest::PRIORITY).await?.clear_ready();
    }
}
