//! What `RUN --mount` shows to a command, and how the cache knows it.

use super::State;
use super::stage::StageBuilder;
use crate::build::cache_mounts::{CacheMount, CacheWish};
use crate::build::client::SECRET_BYTES_MAX;
use crate::build::copy::{self, Origin};
use crate::build::error::{BuildError, BuildResult};
use crate::build::forward::AgentSocket;
use crate::build::ignore::clean;
use crate::build::parse::{Run, RunMount, RunMountKind, Sharing};
use crate::build::{expand, layered};
use skep_model::container::{HostConfig, InjectedFile, Mount, MountKind, OverlayPoint};
use skep_model::shim::takes_layers_one_by_one;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where secrets without a target are.
const SECRETS_DIRECTORY: &str = "/run/secrets";
/// Where agents without a target are, with their number.
const AGENT_PREFIX: &str = "/run/buildkit/ssh_agent.";
const AGENT_VARIABLE: &str = "SSH_AUTH_SOCK";
const CACHE_MODE: u32 = 0o755;
const SECRET_MODE: u32 = 0o400;
const AGENT_MODE: u32 = 0o600;
/// Bytes the kernel takes for the path of one layer.
const OPTION_LENGTH_MAX: usize = 255;
const DEFAULT_ID: &str = "default";

/// A mount with all names resolved.
pub(super) struct Resolved {
    mount: RunMount,
    /// Absolute and clean.
    target: String,
    /// What a bind or the beginning of a cache is made of.
    source: Option<Found>,
}

enum Found {
    /// Of the context.
    Path(PathBuf),
    /// Of an image or a stage.
    Layers(Vec<PathBuf>),
}

/// What a step's container gets. Caches and sockets are given back when it is dropped.
#[derive(Default)]
pub(super) struct Shown {
    binds: Vec<Mount>,
    overlays: Vec<OverlayPoint>,
    pub(super) files: Vec<InjectedFile>,
    /// Variables for the command alone.
    pub(super) env: Vec<(String, String)>,
    caches: Vec<CacheMount>,
    sockets: Vec<AgentSocket>,
}

impl Shown {
    pub(super) fn add_to(&self, host: &mut HostConfig) {
        host.mounts.extend(self.binds.iter().cloned());
        host.overlays.extend(self.overlays.iter().cloned());
    }

    /// Shows a file of ours.
    pub(super) fn bind(&mut self, source: &Path, target: &str, readonly: bool) {
        self.binds.push(Mount {
            kind: MountKind::Bind,
            source: source.to_string_lossy().into_owned(),
            target: target.to_owned(),
            readonly,
            ..Mount::default()
        });
    }

    /// Every place something is mounted at.
    pub(super) fn targets(&self) -> Vec<String> {
        let binds = self.binds.iter().map(|mount| &mount.target);
        let overlays = self.overlays.iter().map(|overlay| &overlay.target);
        binds.chain(overlays).chain(self.files.iter().map(|file| &file.target)).cloned().collect()
    }
}

impl StageBuilder<'_> {
    /// Resolves the mounts, and says what of them decides about the result.
    pub(super) async fn resolve_mounts(&mut self, state: &State, run: &Run) -> BuildResult<(Vec<Resolved>, String)> {
        let mut resolved = Vec::new();
        let mut identity = String::new();
        for text in &run.mounts {
            let mount = {
                let lookup = self.lookup(state);
                let escape = self.build.escape;
                let word = |value: &str| expand::word(value, escape, &lookup).map_err(|error| error.to_string());
                text.expand(&word).map_err(BuildError::Instruction)?
            };
            let target = self.target(state, &mount, resolved.len());
            let (source, content) = self.mount_source(&mount).await?;
            // Neither the content of a cache nor that of a secret counts: only that there is one.
            let RunMount { kind, read_only, id, .. } = &mount;
            identity.push_str(&format!("{kind:?} {target:?} {read_only} {id:?} {content:?}\n"));
            resolved.push(Resolved { mount, target, source });
        }
        Ok((resolved, identity))
    }

    fn target(&self, state: &State, mount: &RunMount, number: usize) -> String {
        let wanted = match (mount.kind, mount.target.as_str()) {
            (RunMountKind::Secret, "") => {
                let name = mount.id.rsplit('/').next().unwrap_or(&mount.id);
                format!("{SECRETS_DIRECTORY}/{name}")
            }
            (RunMountKind::Ssh, "") => format!("{AGENT_PREFIX}{number}"),
            (_, target) if target.starts_with('/') => target.to_owned(),
            (_, target) => format!("/{}/{target}", state.config.working_dir),
        };
        crate::container::mounts::clean(&wanted)
    }

    /// What a bind shows or a cache begins with, and a digest or id of that.
    async fn mount_source(&mut self, mount: &RunMount) -> BuildResult<(Option<Found>, String)> {
        let is_cache = mount.kind == RunMountKind::Cache;
        if !matches!(mount.kind, RunMountKind::Bind | RunMountKind::Cache) || (is_cache && mount.from.is_none()) {
            return Ok((None, String::new()));
        }
        let source = self.source(mount.from.as_deref()).await?;
        match source.origin {
            Origin::Image(layers) => Ok((Some(Found::Layers(layers)), format!("{} {}", source.image, mount.source))),
            Origin::Context(tree) => {
                let path = mount.source.clone();
                let hashing = tokio::task::spawn_blocking(move || copy::digest_of(&tree, &path));
                let (digest, path) = hashing
                    .await
                    .map_err(|error| BuildError::io("hash the source of a mount")(std::io::Error::other(error)))??;
                Ok((Some(Found::Path(path)), digest))
            }
        }
    }

    /// Makes everything there for the command. `directory` exists and is the step's own.
    pub(super) async fn show(&mut self, mounts: Vec<Resolved>, directory: &Path) -> BuildResult<Shown> {
        let mut shown = Shown::default();
        for (number, resolved) in mounts.into_iter().enumerate() {
            let own = directory.join(format!("mount-{number}"));
            match resolved.mount.kind {
                RunMountKind::Bind => show_bind(&mut shown, resolved, own).await?,
                RunMountKind::Cache => self.show_cache(&mut shown, resolved).await?,
                RunMountKind::Tmpfs => shown.binds.push(Mount {
                    kind: MountKind::Tmpfs,
                    target: resolved.target,
                    tmpfs_size_bytes: resolved.mount.size,
                    ..Mount::default()
                }),
                RunMountKind::Secret => self.show_secret(&mut shown, resolved).await?,
                RunMountKind::Ssh => self.show_agent(&mut shown, resolved, &own).await?,
            }
        }
        Ok(shown)
    }

    async fn show_cache(&mut self, shown: &mut Shown, resolved: Resolved) -> BuildResult<()> {
        let Resolved { mount, target, source } = resolved;
        let id = if mount.id.is_empty() { target.clone() } else { clean(&mount.id) };
        let wish = CacheWish {
            // Two beginnings are two caches.
            id: mount.from.as_ref().map_or_else(|| id.clone(), |from| format!("{id} from {from}:{}", mount.source)),
            target: target.clone(),
            sharing: mount.sharing,
            mode: mount.mode.unwrap_or(CACHE_MODE),
            uid: mount.uid,
            gid: mount.gid,
        };
        let caches = self.build.engine.builds().caches();
        if mount.sharing == Sharing::Locked && caches.is_locked(&wish.id) {
            let text = format!("waiting for another build that has the cache {} locked\n", wish.id);
            self.output.log(text, false).await?;
        }
        let cache = tokio::select! {
            cache = caches.take(wish, source.map(|found| beginning(found, mount.source))) => cache?,
            () = self.output.ended() => return Err(BuildError::Cancelled),
        };
        shown.bind(cache.path(), &target, mount.read_only);
        shown.caches.push(cache);
        Ok(())
    }

    async fn show_secret(&mut self, shown: &mut Shown, resolved: Resolved) -> BuildResult<()> {
        let Resolved { mount, target, .. } = resolved;
        let name = target.rsplit('/').next().unwrap_or_default().to_owned();
        let id = if mount.id.is_empty() { name } else { mount.id };
        match self.build.client.secret(&id).await? {
            Some(data) if data.len() > SECRET_BYTES_MAX => {
                let message = format!("secret {id} has more than {SECRET_BYTES_MAX} bytes");
                Err(BuildError::Instruction(message))
            }
            Some(data) => {
                let mode = mount.mode.unwrap_or(SECRET_MODE);
                shown.files.push(InjectedFile { target, uid: mount.uid, gid: mount.gid, mode, data });
                Ok(())
            }
            None if mount.required => Err(BuildError::Instruction(format!("secret {id}: not found"))),
            None => Ok(()),
        }
    }

    async fn show_agent(&mut self, shown: &mut Shown, resolved: Resolved, own: &Path) -> BuildResult<()> {
        let Resolved { mount, target, .. } = resolved;
        let id = if mount.id.is_empty() { DEFAULT_ID.to_owned() } else { mount.id };
        if !self.build.client.has_agent(&id).await? {
            return match mount.required {
                true => Err(BuildError::Instruction(format!("no SSH key \"{id}\" forwarded from the client"))),
                false => Ok(()),
            };
        }
        std::fs::create_dir(own).map_err(BuildError::io("create a directory for an agent's socket"))?;
        let mode = mount.mode.unwrap_or(AGENT_MODE);
        let socket = AgentSocket::listen(own, std::sync::Arc::clone(&self.build.client), id)?;
        let given = std::os::unix::fs::chown(socket.path(), Some(mount.uid), Some(mount.gid));
        given.map_err(BuildError::io("give an agent's socket to its user"))?;
        std::fs::set_permissions(socket.path(), std::fs::Permissions::from_mode(mode))
            .map_err(BuildError::io("set the mode of an agent's socket"))?;
        shown.bind(socket.path(), &target, false);
        if !shown.env.iter().any(|(name, _)| name == AGENT_VARIABLE) {
            shown.env.push((AGENT_VARIABLE.to_owned(), target));
        }
        shown.sockets.push(socket);
        Ok(())
    }
}

fn beginning(found: Found, source: String) -> (Vec<PathBuf>, String) {
    match found {
        Found::Layers(layers) => (layers, source),
        Found::Path(path) => (vec![path], String::new()),
    }
}

async fn show_bind(shown: &mut Shown, resolved: Resolved, own: PathBuf) -> BuildResult<()> {
    let Resolved { mount, target, source } = resolved;
    let read_only = mount.read_only;
    let find = move || match source {
        Some(Found::Layers(layers)) => layered::find(&layers, &mount.source),
        Some(Found::Path(path)) if path.is_dir() => Ok(layered::Part::Directories(vec![path])),
        Some(Found::Path(path)) => Ok(layered::Part::File(path)),
        None => Ok(layered::Part::Directories(Vec::new())),
    };
    let part = tokio::task::spawn_blocking(find)
        .await
        .map_err(|error| BuildError::io("find the source of a mount")(std::io::Error::other(error)))??;
    let made = |path: &Path| std::fs::create_dir(path).map_err(BuildError::io("create a directory for a mount"));
    made(&own)?;
    match part {
        layered::Part::File(path) if read_only => shown.bind(&path, &target, true),
        layered::Part::File(path) => {
            // What is written to it is lost, so it is a copy.
            let copy = own.join("file");
            std::fs::copy(&path, &copy).map_err(BuildError::io(format!("copy {}", path.display())))?;
            shown.bind(&copy, &target, false);
        }
        layered::Part::Directories(lower) => match lower.as_slice() {
            [] => {
                let empty = own.join("empty");
                made(&empty)?;
                shown.bind(&empty, &target, read_only);
            }
            [only] if read_only => shown.bind(only, &target, true),
            _ if !can_be_stacked(&lower, &own) => {
                let copy = own.join("copy");
                copied(lower, copy.clone()).await?;
                shown.bind(&copy, &target, read_only);
            }
            _ => {
                let (upper, work) = (own.join("upper"), own.join("work"));
                made(&upper)?;
                made(&work)?;
                layered::like(&upper, &lower[0])?;
                shown.overlays.push(OverlayPoint { target, lower, writable: (!read_only).then_some((upper, work)) });
            }
        },
    }
    Ok(())
}

/// Whether the runtime can mount them as one: else they are copied.
fn can_be_stacked(lower: &[PathBuf], own: &Path) -> bool {
    let release = rustix::system::uname();
    let is_short = |path: &Path| path.as_os_str().len() <= OPTION_LENGTH_MAX;
    takes_layers_one_by_one(&release.release().to_string_lossy())
        && lower.iter().all(|path| is_short(path))
        && is_short(&own.join("upper"))
}

async fn copied(lower: Vec<PathBuf>, to: PathBuf) -> BuildResult<()> {
    let copying = tokio::task::spawn_blocking(move || {
        std::fs::create_dir(&to).map_err(BuildError::io("create a directory for a mount"))?;
        layered::like(&to, &lower[0])?;
        layered::copy(&lower, &to)
    });
    copying.await.map_err(|error| BuildError::io("copy the source of a mount")(std::io::Error::other(error)))?
}

/// The words of a script that names its own interpreter, and where it is shown.
pub(super) fn script(shown: &mut Shown, directory: &Path, name: &str, content: &str) -> BuildResult<String> {
    let path = directory.join("script");
    std::fs::write(&path, content).map_err(BuildError::io("write a here-document's script"))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
        .map_err(BuildError::io("write a here-document's script"))?;
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let target = format!("/dev/pipes/{name}");
    shown.bind(&path, &target, true);
    Ok(target)
}
