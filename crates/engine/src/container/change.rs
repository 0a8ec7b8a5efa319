//! `rename`, `update`, `commit`, image removal: changes that start nothing.

use crate::container::inner::Inner;
use crate::container::registry::Container;
use crate::container::spec::resources;
use crate::container::{freezer, record};
use crate::image::{NewImage, Removed};
use skep_model::container::{ContainerInfo, ContainerStatus, Resources, RestartMode, RestartPolicy};
use skep_model::{Error, Result, validate};
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl Inner {
    pub(crate) async fn rename(self: &Arc<Self>, name: &str, new_name: &str) -> Result<()> {
        let new_name = new_name.trim_start_matches('/');
        if new_name.is_empty() {
            return Err(Error::invalid("New name cannot be empty"));
        }
        validate::object_name("container", new_name)?;
        let container = self.registry.find(name)?;
        let _owned = container.lock().await;
        let before = container.info();
        if before.name == new_name {
            return Err(Error::invalid("Renaming a container with the same name as its current name"));
        }
        let reservation = self.registry.reserve(new_name, &before.id)?;
        let mut after = (*before).clone();
        after.name = new_name.to_owned();
        record::save(&self.container_dir(&before.id), &after, true)?;
        reservation.keep();
        self.registry.forget_name(&before.name);
        let info = container.change(|info| info.name = new_name.to_owned());
        self.emit(&info, "rename", &[("oldName", &format!("/{}", before.name))]);
        Ok(())
    }

    pub(crate) async fn update(
        self: &Arc<Self>,
        name: &str,
        resources: Resources,
        restart: Option<RestartPolicy>,
    ) -> Result<Vec<String>> {
        let container = self.registry.find(name)?;
        let _owned = container.lock().await;
        let info = container.info();
        if matches!(info.state.status, ContainerStatus::Removing | ContainerStatus::Dead) {
            return Err(Error::conflict(format!(
                "Cannot update container {}: Container is marked for removal and cannot be \"update\".",
                info.id
            )));
        }
        let merged = merge(&info.host.resources, &resources);
        resources::validate(&merged, &self.kernel)?;
        if let Some(policy) = &restart
            && info.host.auto_remove
            && policy.mode != RestartMode::No
        {
            return Err(Error::invalid(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            ));
        }
        let mut after = (*info).clone();
        after.host.resources = merged;
        if let Some(policy) = restart {
            after.host.restart_policy = policy;
        }
        let warnings = if info.state.status.is_running() && info.state.pid != 0 {
            self.apply_limits(&info, &after)
                .map_err(|error| error.context(format!("Cannot update container {}", info.id)))?
        } else {
            Vec::new()
        };
        record::save(&self.container_dir(&info.id), &after, true)?;
        let info = container.change(|info| {
            info.host.resources = after.host.resources;
            info.host.restart_policy = after.host.restart_policy;
        });
        self.emit(&info, "update", &[]);
        Ok(warnings)
    }

    /// Writes the limits that changed into the live control groups.
    fn apply_limits(&self, before: &ContainerInfo, after: &ContainerInfo) -> Result<Vec<String>> {
        let path = self.cgroup_path(after);
        let mut warnings = Vec::new();
        for (controller, writes) in limit_files(&before.host.resources, &after.host.resources, self.kernel.cgroup_v2) {
            if !self.kernel.controllers.contains(controller) {
                warnings
                    .push(format!("Your kernel does not support the {controller} controller. Limitation discarded."));
                continue;
            }
            let dir = self.kernel.cgroup_dir(controller, &path);
            for (file, value) in writes {
                write_limit(&dir, file, &value)?;
            }
        }
        Ok(warnings)
    }

    pub(crate) fn image_remove(&self, name: &str, force: bool) -> Result<Vec<Removed>> {
        let all: Vec<Arc<ContainerInfo>> = self.registry.all().iter().map(|container| container.info()).collect();
        let in_use = |image_id: &str| {
            all.iter()
                .filter(|info| info.image_id == image_id)
                .map(|info| (info.id.0.clone(), info.state.status.is_running()))
                .collect()
        };
        self.images.remove(name, force, &in_use)
    }

    pub(crate) async fn commit(
        self: &Arc<Self>,
        name: &str,
        mut image: NewImage,
        reference: Option<&str>,
        pause: bool,
    ) -> Result<String> {
        let container = self.registry.find(name)?;
        let _owned = container.lock().await;
        let info = container.info();
        if matches!(info.state.status, ContainerStatus::Removing | ContainerStatus::Dead) {
            return Err(Error::conflict(format!(
                "You cannot commit container {} which is {}",
                info.id,
                info.state.status.as_str()
            )));
        }
        let frozen = pause && info.state.status == ContainerStatus::Running;
        let path = self.cgroup_path(&info);
        if frozen {
            freezer::set(&self.kernel, &path, true).await?;
        }
        let stored = self.store_layer(&info, &mut image).await;
        if frozen {
            freezer::set(&self.kernel, &path, false).await?;
        }
        stored?;
        let id = self.images.commit_image(image).await?;
        if let Some(reference) = reference {
            self.images.tag(&id, reference)?;
        }
        self.emit(&info, "commit", &[("imageID", &id), ("imageRef", reference.unwrap_or_default())]);
        Ok(id)
    }

    async fn store_layer(&self, info: &ContainerInfo, image: &mut NewImage) -> Result<()> {
        let upper = self.overlay_dir(&info.id).join("diff");
        image.parent = Some(info.image_id.clone());
        image.layer = Some(self.images.commit_dir(Some(&info.image_id), &upper).await?);
        Ok(())
    }

    pub(crate) async fn size(&self, name: &str) -> Result<(u64, u64)> {
        let info = self.registry.find(name)?.info();
        let upper = self.overlay_dir(&info.id).join("diff");
        let written =
            tokio::task::spawn_blocking(move || size_of(&upper)).await.map_err(|e| Error::internal(e.to_string()))?;
        let image = self.images.resolve(&info.image_id).map_or(0, |image| image.size);
        Ok((written, written + image))
    }
}

impl Inner {
    /// `info` is needed by those who hold only a name.
    pub(crate) fn container_of(&self, name: &str) -> Result<(Arc<Container>, Arc<ContainerInfo>)> {
        let container = self.registry.find(name)?;
        let info = container.info();
        Ok((container, info))
    }
}

/// Zero means "as it was".
fn merge(before: &Resources, wanted: &Resources) -> Resources {
    let number = |wanted: i64, before: i64| if wanted == 0 { before } else { wanted };
    let text = |wanted: &String, before: &String| if wanted.is_empty() { before.clone() } else { wanted.clone() };
    let mut out = Resources {
        memory_bytes: number(wanted.memory_bytes, before.memory_bytes),
        memory_swap_bytes: number(wanted.memory_swap_bytes, before.memory_swap_bytes),
        memory_reservation_bytes: number(wanted.memory_reservation_bytes, before.memory_reservation_bytes),
        nano_cpus: number(wanted.nano_cpus, before.nano_cpus),
        cpu_shares: number(wanted.cpu_shares, before.cpu_shares),
        cpu_period_us: number(wanted.cpu_period_us, before.cpu_period_us),
        cpu_quota_us: number(wanted.cpu_quota_us, before.cpu_quota_us),
        cpuset_cpus: text(&wanted.cpuset_cpus, &before.cpuset_cpus),
        cpuset_mems: text(&wanted.cpuset_mems, &before.cpuset_mems),
        pids_limit: number(wanted.pids_limit, before.pids_limit),
        oom_kill_disable: before.oom_kill_disable,
        blkio_weight: if wanted.blkio_weight == 0 { before.blkio_weight } else { wanted.blkio_weight },
    };
    // Two ways to say the same; the newer wish is meant.
    if wanted.nano_cpus != 0 {
        (out.cpu_period_us, out.cpu_quota_us) = (0, 0);
    } else if wanted.cpu_quota_us != 0 || wanted.cpu_period_us != 0 {
        out.nano_cpus = 0;
    }
    out
}

type Writes = Vec<(&'static str, String)>;

/// Files to write, per controller, in an order the kernel accepts.
fn limit_files(before: &Resources, after: &Resources, v2: bool) -> Vec<(&'static str, Writes)> {
    let mut out = Vec::new();
    if (after.memory_bytes, after.memory_swap_bytes) != (before.memory_bytes, before.memory_swap_bytes) {
        out.push(("memory", memory_files(before, after, v2)));
    }
    if after.memory_reservation_bytes != before.memory_reservation_bytes {
        let file = if v2 { "memory.low" } else { "memory.soft_limit_in_bytes" };
        out.push(("memory", vec![(file, after.memory_reservation_bytes.to_string())]));
    }
    if let Some((quota, period)) = resources::cpu_quota(after)
        && resources::cpu_quota(before) != Some((quota, period))
    {
        let limit = if quota < 0 { "max".to_owned() } else { quota.to_string() };
        let writes: Writes = if v2 {
            vec![("cpu.max", format!("{limit} {period}"))]
        } else {
            vec![("cpu.cfs_period_us", period.to_string()), ("cpu.cfs_quota_us", quota.to_string())]
        };
        out.push(("cpu", writes));
    }
    if after.cpu_shares != before.cpu_shares {
        let writes: Writes = if v2 {
            vec![("cpu.weight", weight_of(after.cpu_shares).to_string())]
        } else {
            vec![("cpu.shares", after.cpu_shares.to_string())]
        };
        out.push(("cpu", writes));
    }
    for (file, new, old) in [
        ("cpuset.cpus", &after.cpuset_cpus, &before.cpuset_cpus),
        ("cpuset.mems", &after.cpuset_mems, &before.cpuset_mems),
    ] {
        if new != old {
            out.push(("cpuset", vec![(file, new.clone())]));
        }
    }
    if after.pids_limit != before.pids_limit {
        let limit = if after.pids_limit > 0 { after.pids_limit.to_string() } else { "max".to_owned() };
        out.push(("pids", vec![("pids.max", limit)]));
    }
    out
}

fn memory_files(before: &Resources, after: &Resources, v2: bool) -> Writes {
    let swap = resources::swap(after);
    if v2 {
        let swap = if swap < 0 { "max".to_owned() } else { (swap - after.memory_bytes).max(0).to_string() };
        return vec![("memory.max", after.memory_bytes.to_string()), ("memory.swap.max", swap)];
    }
    let memory = ("memory.limit_in_bytes", after.memory_bytes.to_string());
    let swap = ("memory.memsw.limit_in_bytes", swap.to_string());
    // The kernel wants memory to stay below memory plus swap at every step. No limit is the largest.
    let grows = before.memory_bytes > 0 && after.memory_bytes > before.memory_bytes;
    if grows { vec![swap, memory] } else { vec![memory, swap] }
}

/// The weight of version 2 that stands for shares of version 1: the formula of the OCI
/// runtimes, which libcontainer applies at the start, too. It takes the defaults of both
/// (1024 and 100) for the same.
fn weight_of(shares: i64) -> i64 {
    const SHARES_MIN: i64 = 2;
    const SHARES_MAX: i64 = 262_144;
    const WEIGHT_MAX: i64 = 10_000;
    if shares <= SHARES_MIN {
        return 1;
    }
    // Exact: the number has 18 bits.
    let logarithm = (shares.min(SHARES_MAX) as f64).log2();
    let exponent = (logarithm * logarithm + 125.0 * logarithm) / 612.0 - 7.0 / 34.0;
    (10_f64.powf(exponent).ceil() as i64).clamp(1, WEIGHT_MAX)
}

fn write_limit(dir: &Path, file: &str, value: &str) -> Result<()> {
    let path: PathBuf = dir.join(file);
    match std::fs::write(&path, value) {
        // A kernel that does not account for swap has no such file.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && file.contains("sw") => Ok(()),
        Err(error) => Err(Error::internal(format!("failed to write {value} to {}: {error}", path.display()))),
        Ok(()) => Ok(()),
    }
}

fn size_of(dir: &Path) -> u64 {
    let entries = walkdir::WalkDir::new(dir).into_iter().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).filter(std::fs::Metadata::is_file).map(|m| m.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_changes_only_what_is_named() {
        let before = Resources { memory_bytes: 100, nano_cpus: 5, ..Default::default() };
        let after = merge(&before, &Resources { cpu_quota_us: 5000, ..Default::default() });
        assert_eq!((after.memory_bytes, after.nano_cpus, after.cpu_quota_us), (100, 0, 5000));
        assert!(limit_files(&before, &before, false).is_empty());
    }

    #[test]
    fn memory_grows_from_the_outside_in() {
        let small = Resources { memory_bytes: 100, ..Default::default() };
        let large = Resources { memory_bytes: 200, ..Default::default() };
        assert_eq!(memory_files(&small, &large, false)[0].0, "memory.memsw.limit_in_bytes");
        assert_eq!(memory_files(&large, &small, false)[0].0, "memory.limit_in_bytes");
        assert_eq!(memory_files(&Resources::default(), &small, false)[0].0, "memory.limit_in_bytes");
        assert_eq!((weight_of(2), weight_of(1024), weight_of(262_144)), (1, 100, 10_000));
    }
}
