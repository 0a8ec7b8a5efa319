//! The engine's state, shared by all its handles and tasks.

use crate::attach::Attach;
use crate::build::Builds;
use crate::config::EngineConfig;
use crate::container::exec::Execs;
use crate::container::registry::Registry;
use crate::container::shim::now;
use crate::events::{Event, Events};
use crate::image::ImageStore;
use crate::network::Networks;
use crate::sys::kernel::Kernel;
use crate::sys::process::Program;
use crate::volume::Volumes;
use skep_model::container::ContainerInfo;
use skep_model::id::ContainerId;
use skep_model::{Error, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Characters of an id in the name of its run directory: socket paths are short.
const RUN_DIR_ID_LENGTH: usize = 16;

/// Everything of this machine.
pub(crate) struct Inner {
    pub(crate) config: EngineConfig,
    pub(crate) program: Program,
    pub(crate) kernel: Kernel,
    pub(crate) images: ImageStore,
    pub(crate) events: Arc<Events>,
    pub(crate) attach: Arc<dyn Attach>,
    pub(crate) registry: Registry,
    pub(crate) execs: Execs,
    pub(crate) networks: Networks,
    pub(crate) volumes: Volumes,
    pub(crate) builds: Builds,
    /// Verbs under way; the engine waits for them when it shuts down.
    pub(crate) verbs: TaskTracker,
    /// Streams, health probes and watchers: dropped at shutdown, found again at start.
    pub(crate) tasks: TaskTracker,
    pub(crate) closing: CancellationToken,
}

impl Inner {
    /// Runs a verb to its end even if its caller goes away: a half-started container
    /// is worse than one nobody waits for.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        verb: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        if self.closing.is_cancelled() {
            return Err(Error::unavailable("the engine is shutting down"));
        }
        match self.verbs.spawn(verb).await {
            Ok(result) => result,
            Err(error) => Err(Error::internal(format!("engine task failed: {error}"))),
        }
    }

    /// Spawns a task that lives until it ends or the engine closes.
    pub(crate) fn watch(&self, task: impl Future<Output = ()> + Send + 'static) {
        let closing = self.closing.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = task => {}
            }
        });
    }

    pub(crate) fn container_dir(&self, id: &ContainerId) -> PathBuf {
        self.config.data_root.join("containers").join(&id.0)
    }

    pub(crate) fn overlay_dir(&self, id: &ContainerId) -> PathBuf {
        self.config.data_root.join("overlay").join(&id.0)
    }

    pub(crate) fn run_root(&self) -> PathBuf {
        self.config.exec_root.join("c")
    }

    pub(crate) fn run_dir(&self, id: &ContainerId) -> PathBuf {
        self.run_root().join(id.0.get(..RUN_DIR_ID_LENGTH).unwrap_or(&id.0))
    }

    pub(crate) fn exec_run_dir(&self, container: &ContainerId, exec: &str) -> PathBuf {
        self.run_dir(container).join("exec").join(exec.get(..RUN_DIR_ID_LENGTH).unwrap_or(exec))
    }

    /// Where libcontainer keeps what it knows.
    pub(crate) fn runtime_root(&self) -> PathBuf {
        self.config.exec_root.join("runtime")
    }

    pub(crate) fn cgroup_path(&self, info: &ContainerInfo) -> String {
        let parent = match info.host.cgroup_parent.as_str() {
            "" => self.config.cgroup_parent.as_str(),
            own => own,
        };
        format!("/{}/{}", parent.trim_matches('/'), info.id)
    }

    /// Tells about a container, with its name, image and labels.
    pub(crate) fn emit(&self, info: &ContainerInfo, action: &str, extra: &[(&str, &str)]) {
        let mut attributes: BTreeMap<String, String> = info.config.labels.clone();
        attributes.insert("image".into(), info.config.image.clone());
        attributes.insert("name".into(), info.name.clone());
        for (key, value) in extra {
            attributes.insert((*key).to_owned(), (*value).to_owned());
        }
        self.events.emit(Event {
            kind: "container",
            action: action.to_owned(),
            id: info.id.0.clone(),
            attributes,
            at: now(),
        });
    }

    /// Tells about a network or a volume.
    pub(crate) fn emit_object(&self, kind: &'static str, action: &str, id: &str, attributes: &[(&str, &str)]) {
        let attributes = attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.events.emit(Event { kind, action: action.to_owned(), id: id.to_owned(), attributes, at: now() });
    }
}

/// 64 random hexadecimal digits. Never only decimal ones in the short form, which a
/// client could take for a number.
pub(crate) fn new_id() -> String {
    loop {
        let id = hex::encode(rand::random::<[u8; 32]>());
        if id[..12].chars().any(|c| c.is_ascii_alphabetic()) {
            return id;
        }
    }
}
