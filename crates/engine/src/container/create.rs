//! `create`: everything is checked before the first effect, and undone if a later one fails.

use crate::container::inner::{Inner, new_id};
use crate::container::mounts::{self, Wish};
use crate::container::registry::Container;
use crate::container::shim::now;
use crate::container::spec::confinement::security_options;
use crate::container::spec::{capabilities, devices, resources};
use crate::container::{merge, names, record};
use crate::network::endpoints::leg_wishes;
use crate::sys::mounts::{Tree, fd_path};
use crate::volume::Use;
use skep_model::container::{
    ContainerConfig, ContainerInfo, ContainerSpec, ContainerState, HostConfig, MountKind, MountPoint, RestartMode,
};
use skep_model::id::ContainerId;
use skep_model::image::ImageInfo;
use skep_model::image::Reference;
use skep_model::{Error, ErrorKind, Result, validate};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Length of an id as people see it, and of the default host name.
pub(crate) const SHORT_ID_LENGTH: usize = 12;
const STOP_TIMEOUT_DEFAULT_S: i64 = 10;
/// Attempts to find a generated name nobody has.
const NAME_ATTEMPTS_MAX: u32 = 20;

/// Clients that pull what is missing look for the name with its tag.
fn with_tag(error: Error, name: &str) -> Error {
    match Reference::parse(name) {
        Ok(reference) if error.kind == ErrorKind::NotFound => {
            Error::not_found(format!("No such image: {}", reference.with_default_tag().familiar()))
        }
        _ => error,
    }
}

impl Inner {
    pub(crate) async fn create(self: &Arc<Self>, spec: ContainerSpec) -> Result<(ContainerId, Vec<String>)> {
        let ContainerSpec { name, config, host, networks, files } = spec;
        let id = ContainerId(new_id());
        if !name.is_empty() {
            validate::object_name("container", name.trim_start_matches('/'))?;
        }
        let image = self.images.resolve(&config.image).map_err(|error| with_tag(error, &config.image))?;
        let config = merge::with_image(config, &image.config);
        let (path, args) = merge::command(&config)?;
        let host = self.complete_host(host)?;
        let warnings = self.check(&config, &host)?;
        let wishes = mounts::wishes(&config, &host)?;
        let endpoints = leg_wishes(&self.networks, &host.network_mode, networks, &config.mac_address);
        // Clients take "not found" for a missing image and fetch it.
        let endpoints = endpoints.map_err(|error| match error.kind {
            ErrorKind::NotFound => Error::invalid(error.message),
            _ => error,
        })?;
        self.check_volumes_from(&host)?;
        let reservation = self.reserve_name(&name, &id)?;
        let dir = self.container_dir(&id);
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let overlay = self.overlay_dir(&id);
        let layers = self.images.layer_dirs(&image.id)?;
        let mut info = ContainerInfo {
            id: id.clone(),
            name: reservation.1.clone(),
            created: now(),
            path,
            args,
            state: ContainerState::default(),
            image_id: image.id.clone(),
            log_path: if host.log_config.driver == "json-file" {
                text(dir.join(format!("{id}-json.log")))
            } else {
                String::new()
            },
            hostname_path: text(dir.join("hostname")),
            hosts_path: text(dir.join("hosts")),
            resolv_conf_path: text(dir.join("resolv.conf")),
            lower_dir: layers.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>().join(":"),
            merged_dir: text(overlay.join("merged")),
            upper_dir: text(overlay.join("diff")),
            work_dir: text(overlay.join("work")),
            endpoints,
            config: complete_config(config, &host, &id),
            host,
            ..ContainerInfo::default()
        };
        let made = self.make(&mut info, wishes, &image, layers).await;
        if let Err(error) = made {
            self.unmake(&info);
            return Err(error);
        }
        reservation.0.keep();
        self.registry.insert(Container::new(info.clone(), files));
        self.emit(&info, "create", &[]);
        Ok((id, warnings))
    }

    /// The effects: volumes, directories, the image's content of new volumes, the record.
    async fn make(
        self: &Arc<Self>,
        info: &mut ContainerInfo,
        wishes: Vec<Wish>,
        image: &ImageInfo,
        layers: Vec<PathBuf>,
    ) -> Result<()> {
        let mut fresh = Vec::new();
        for wish in wishes {
            let no_copy = wish.no_copy;
            let point = self.mount_point(&info.id, wish).await?;
            if point.kind == MountKind::Volume && !no_copy {
                fresh.push((PathBuf::from(&point.source), point.destination.clone()));
            }
            info.mounts.push(point);
        }
        let inherited = self.mounts_of_others(info)?;
        info.mounts.extend(inherited);
        let overlay = self.overlay_dir(&info.id);
        let dir = self.container_dir(&info.id);
        let record = info.clone();
        let empty = image.diff_ids.is_empty();
        let work = move || {
            make_overlay_dirs(&overlay, layers.first().map(PathBuf::as_path).filter(|_| !empty))?;
            std::fs::create_dir_all(&dir)?;
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o710))?;
            for (volume, target) in &fresh {
                populate(volume, target, &layers)?;
            }
            record::save(&dir, &record, true)
        };
        tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(e.to_string()))?
    }

    fn unmake(&self, info: &ContainerInfo) {
        let _ = std::fs::remove_dir_all(self.container_dir(&info.id));
        let _ = std::fs::remove_dir_all(self.overlay_dir(&info.id));
        for point in info.mounts.iter().filter(|point| point.kind == MountKind::Volume) {
            self.remove_if_anonymous(&point.name);
        }
    }

    fn complete_host(&self, mut host: HostConfig) -> Result<HostConfig> {
        if matches!(host.network_mode.as_str(), "" | "default") {
            host.network_mode = "bridge".into();
        }
        if host.log_config.driver.is_empty() {
            host.log_config.driver = "json-file".into();
        }
        if let Some(other) = host.network_mode.strip_prefix("container:") {
            // Stored by id: names change.
            host.network_mode = format!("container:{}", self.registry.find(other)?.info().id);
        }
        for mode in [&mut host.pid_mode, &mut host.ipc_mode] {
            if let Some(other) = mode.strip_prefix("container:") {
                *mode = format!("container:{}", self.registry.find(other)?.info().id);
            }
        }
        if host.cgroupns_mode.is_empty() {
            let private = self.kernel.cgroup_v2 && !host.privileged;
            host.cgroupns_mode = if private { "private" } else { "host" }.into();
        }
        if host.ipc_mode.is_empty() {
            host.ipc_mode = "private".into();
        }
        if host.shm_size == 0 {
            host.shm_size = 64 * 1024 * 1024;
        }
        Ok(host)
    }

    fn check(&self, config: &ContainerConfig, host: &HostConfig) -> Result<Vec<String>> {
        resources::validate(&host.resources, &self.kernel)?;
        capabilities::wanted(host, &self.kernel.capabilities)?;
        let (_, device_rules) = devices::oci(host)?;
        let mut warnings = security_options(&host.security_opt)?.warnings;
        warnings.extend(resources::oci(host, device_rules, &self.kernel).1);
        warnings.extend(resources::rlimits(&host.ulimits, &self.kernel)?.1);
        warnings.extend(resources::oom_score_adj(host.oom_score_adj, &self.kernel).1);
        if host.auto_remove && host.restart_policy.mode != RestartMode::No {
            return Err(Error::invalid("can't create 'AutoRemove' container with restart policy"));
        }
        if host.restart_policy.maximum_retry_count > 0 && host.restart_policy.mode != RestartMode::OnFailure {
            return Err(Error::invalid(
                "maximum retry count cannot be used with restart policy other than 'on-failure'",
            ));
        }
        if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
            return Err(Error::invalid(format!(
                "the working directory '{}' is invalid, it needs to be an absolute path",
                config.working_dir
            )));
        }
        super::log_driver::check(&host.log_config)?;
        if !config.stop_signal.is_empty() {
            super::stop::signal_number(&config.stop_signal)?;
        }
        if !matches!(host.userns_mode.as_str(), "" | "host") {
            return Err(Error::not_implemented("user namespaces are not supported yet"));
        }
        if !matches!(host.runtime.as_str(), "" | "runc" | "skep" | "io.containerd.runc.v2") {
            return Err(Error::invalid(format!("unknown or invalid runtime name: {}", host.runtime)));
        }
        Ok(warnings)
    }

    fn check_volumes_from(&self, host: &HostConfig) -> Result<()> {
        for other in &host.volumes_from {
            self.registry.find(other.split(':').next().unwrap_or_default())?;
        }
        Ok(())
    }

    /// Mounts of the containers in `--volumes-from`, unless the target is taken.
    fn mounts_of_others(&self, info: &ContainerInfo) -> Result<Vec<MountPoint>> {
        let mut out: Vec<MountPoint> = Vec::new();
        for other in &info.host.volumes_from {
            let (name, mode) = other.split_once(':').unwrap_or((other, ""));
            for point in &self.registry.find(name)?.info().mounts {
                let taken = info.mounts.iter().chain(&out).any(|own| own.destination == point.destination);
                if !taken {
                    out.push(MountPoint { rw: point.rw && mode != "ro", ..point.clone() });
                }
            }
        }
        Ok(out)
    }

    async fn mount_point(self: &Arc<Self>, id: &ContainerId, wish: Wish) -> Result<MountPoint> {
        if wish.kind == MountKind::Bind {
            if wish.create_source && !Path::new(&wish.source).exists() {
                std::fs::create_dir_all(&wish.source).map_err(|e| {
                    Error::internal(format!("error while creating mount source path '{}': {e}", wish.source))
                })?;
            }
            return Ok(MountPoint {
                kind: MountKind::Bind,
                source: wish.source,
                destination: wish.target,
                mode: wish.mode,
                rw: wish.rw,
                propagation: if wish.propagation.is_empty() { "rprivate".into() } else { wish.propagation },
                ..MountPoint::default()
            });
        }
        let use_for = if wish.source.is_empty() { Use::Container(id) } else { Use::Named };
        let name = if wish.source.is_empty() { new_id() } else { wish.source };
        let (volume, made) = self.volumes.ensure(&name, &wish.driver, wish.options, wish.labels, use_for, now())?;
        if made {
            self.emit_object("volume", "create", &name, &[("driver", "local")]);
        }
        let mut source = self.volumes.mount_source(&volume);
        if !wish.subpath.is_empty() {
            source = subpath(&source, &wish.subpath)?;
        }
        Ok(MountPoint {
            kind: MountKind::Volume,
            name: volume.name,
            source,
            destination: wish.target,
            driver: "local".into(),
            mode: if wish.mode.is_empty() { "z".into() } else { wish.mode },
            rw: wish.rw,
            propagation: String::new(),
        })
    }

    fn reserve_name(&self, name: &str, id: &ContainerId) -> Result<(super::registry::NameReservation<'_>, String)> {
        if !name.is_empty() {
            let name = name.trim_start_matches('/').to_owned();
            return Ok((self.registry.reserve(&name, id)?, name));
        }
        for attempt in 0..NAME_ATTEMPTS_MAX {
            let name = names::generate(rand::random(), attempt);
            if let Ok(reservation) = self.registry.reserve(&name, id) {
                return Ok((reservation, name));
            }
        }
        let name = id.0[..SHORT_ID_LENGTH].to_owned();
        Ok((self.registry.reserve(&name, id)?, name))
    }
}

fn subpath(source: &str, wanted: &str) -> Result<String> {
    let tree = Tree::of_directory(Path::new(source))?;
    let fd = tree
        .open(wanted, rustix::fs::OFlags::PATH)
        .map_err(|_| Error::invalid(format!("cannot access path {wanted}: no such file or directory")))?;
    Ok(std::fs::read_link(fd_path(&fd))?.to_string_lossy().into_owned())
}

fn complete_config(mut config: ContainerConfig, host: &HostConfig, id: &ContainerId) -> ContainerConfig {
    if host.network_mode == "host" || host.uts_mode == "host" {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        config.hostname = name.trim().to_owned();
    } else if config.hostname.is_empty() {
        config.hostname = id.0[..SHORT_ID_LENGTH].to_owned();
    } else if config.domainname.is_empty()
        && let Some((name, domain)) = config.hostname.clone().split_once('.')
    {
        config.hostname = name.to_owned();
        config.domainname = domain.to_owned();
    }
    config
}

/// The seconds between a stop signal and SIGKILL; negative is for ever.
pub(crate) fn stop_timeout_s(config: &ContainerConfig) -> i64 {
    config.stop_timeout_s.unwrap_or(STOP_TIMEOUT_DEFAULT_S)
}

/// The root of an overlay looks like its upper directory, so that one takes after the image's.
fn make_overlay_dirs(overlay: &Path, top_layer: Option<&Path>) -> Result<()> {
    let upper = overlay.join("diff");
    for dir in [&upper, &overlay.join("work"), &overlay.join("merged")] {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::set_permissions(overlay, std::fs::Permissions::from_mode(0o710))?;
    let (mode, uid, gid) = match top_layer.map(std::fs::metadata) {
        Some(Ok(metadata)) => (metadata.mode() & 0o7777, metadata.uid(), metadata.gid()),
        _ => (0o755, 0, 0),
    };
    std::fs::set_permissions(&upper, std::fs::Permissions::from_mode(mode))?;
    Ok(std::os::unix::fs::chown(&upper, Some(uid), Some(gid))?)
}

/// Gives an empty volume what the image has at its place.
fn populate(volume: &Path, target: &str, layers: &[PathBuf]) -> Result<()> {
    if std::fs::read_dir(volume)?.next().is_some() {
        return Ok(());
    }
    let Ok(tree) = Tree::of_layers(layers) else { return Ok(()) };
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
    match tree.open(target, flags) {
        Ok(directory) => Ok(crate::volume::copy::copy_tree(&fd_path(&directory), volume)?),
        // The image has nothing, or no directory, there.
        Err(_) => Ok(()),
    }
}
