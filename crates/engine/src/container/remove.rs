//! `rm`: nothing of a container remains.

use crate::container::RemoveOptions;
use crate::container::inner::Inner;
use crate::container::registry::Container;
use skep_model::container::{ContainerInfo, ContainerStatus, MountKind};
use skep_model::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl Inner {
    pub(crate) async fn remove(self: &Arc<Self>, name: &str, options: RemoveOptions) -> Result<()> {
        let container = self.registry.find(name)?;
        let info = container.info();
        if info.state.status.is_running() && !options.force {
            let hint = match info.state.status {
                ContainerStatus::Paused => {
                    "a paused container {id}. Unpause and then stop the container before attempting removal or force remove"
                }
                ContainerStatus::Restarting => {
                    "a restarting container {id}. Stop the container before attempting removal or force remove"
                }
                _ => "a running container {id}. Stop the container before attempting removal or force remove",
            };
            return Err(Error::conflict(format!("You cannot remove {}", hint.replace("{id}", &info.id.0))));
        }
        if info.state.status.is_running() {
            self.stop_container(&container, Some(0), Some(libc::SIGKILL)).await?;
        }
        self.remove_stopped(&container, options.volumes, options.force).await
    }

    /// `--rm`: with its anonymous volumes. A user's `rm` may be faster, which is fine.
    pub(crate) async fn remove_after_exit(self: &Arc<Self>, container: &Arc<Container>) {
        if let Err(error) = self.remove_stopped(container, true, false).await {
            tracing::debug!(id = %container.info().id, %error, "not removed after exit");
        }
    }

    async fn remove_stopped(self: &Arc<Self>, container: &Arc<Container>, volumes: bool, force: bool) -> Result<()> {
        let _owned = container.lock().await;
        let info = container.info();
        match info.state.status {
            ContainerStatus::Created | ContainerStatus::Exited | ContainerStatus::Dead => {}
            // `--rm` had the turn before: it is gone, which is what was asked for.
            ContainerStatus::Removing if force && info.host.auto_remove => return Ok(()),
            ContainerStatus::Removing => {
                return Err(Error::conflict(format!("removal of container {} is already in progress", info.id)));
            }
            // It was started again while we waited for our turn.
            _ if force => return Err(Error::conflict(format!("container {} was started again", info.id))),
            _ => {
                return Err(Error::conflict(format!(
                    "You cannot remove a running container {}. Stop the container before attempting removal or force remove",
                    info.id
                )));
            }
        }
        let before = info.state.status;
        container.change(|info| info.state.status = ContainerStatus::Removing);
        drop(container.take_pending());
        let removed = match self.keep_volumes(&info, volumes) {
            Ok(()) => self.delete_files(&info).await,
            failed => failed,
        };
        if let Err(error) = removed {
            // Docker's word for a container that could not be taken apart.
            container.change(|info| {
                info.state.status = if before == ContainerStatus::Created { before } else { ContainerStatus::Dead };
                info.state.error.clone_from(&error.message);
            });
            return Err(error.context(format!("container {}", info.id)));
        }
        self.registry.remove(&info.id);
        if volumes {
            for point in info.mounts.iter().filter(|point| point.kind == MountKind::Volume) {
                self.remove_if_anonymous(&point.name);
            }
        }
        self.emit(&info, "destroy", &[]);
        container.mark_removed();
        Ok(())
    }

    /// Without `-v` the container's anonymous volumes stay, and must survive a crash from now on.
    fn keep_volumes(&self, info: &ContainerInfo, remove: bool) -> Result<()> {
        let mut volumes = info.mounts.iter().filter(|point| point.kind == MountKind::Volume && !remove);
        volumes.try_for_each(|point| self.volumes.keep(&point.name))
    }

    /// The record goes first: after a crash in between, the rest belongs to nobody and is
    /// swept at the next start.
    async fn delete_files(&self, info: &ContainerInfo) -> Result<()> {
        self.clear_run_dir(&self.run_dir(&info.id));
        let dirs = [self.container_dir(&info.id), self.overlay_dir(&info.id)];
        let work = move || dirs.iter().try_for_each(|dir| delete_tree(dir));
        tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(e.to_string()))?
    }

    /// An anonymous volume nobody else uses goes with its container.
    pub(crate) fn remove_if_anonymous(&self, name: &str) {
        let anonymous = self.volumes.find(name).is_some_and(|volume| volume.anonymous);
        if anonymous && self.volume_users(name).is_empty() && self.volumes.delete(name).is_ok() {
            self.emit_object("volume", "destroy", name, &[("driver", "local")]);
        }
    }

    /// Ids of the containers that mount a volume.
    pub(crate) fn volume_users(&self, name: &str) -> Vec<String> {
        let all = self.registry.all();
        let using = all
            .iter()
            .map(|container| container.info())
            .filter(|info| info.mounts.iter().any(|point| point.kind == MountKind::Volume && point.name == name));
        using.map(|info| info.id.0.clone()).collect()
    }
}

/// Removes a directory; one that is not there is removed already.
pub(crate) fn delete_tree(dir: &Path) -> Result<()> {
    let gone = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    // Renamed first: a name that exists is whole, whatever happens meanwhile.
    let mut dying: PathBuf = dir.to_owned();
    dying.set_extension("removing");
    match std::fs::rename(dir, &dying) {
        Err(error) if gone(&error) => {}
        Err(error) => return Err(Error::internal(format!("{}: {error}", dir.display()))),
        Ok(()) => {}
    }
    match std::fs::remove_dir_all(&dying) {
        Err(error) if !gone(&error) => Err(Error::internal(format!("{}: {error}", dir.display()))),
        _ => Ok(()),
    }
}
