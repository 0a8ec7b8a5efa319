//! Containers from wish to exit record, and the [`Engine`] that owns them all.

use crate::attach::Attach;
use crate::config::EngineConfig;
use crate::events::Events;
use crate::image::{ImageStore, NewImage, Removed};
use bytes::Bytes;
use skep_model::container::{
    ContainerInfo, ContainerSpec, EndpointConfig, ExecConfig, ExecInfo, Resources, RestartPolicy,
};
use skep_model::id::{ContainerId, NetworkId};
use skep_model::network::{NetworkInfo, NetworkSpec};
use skep_model::volume::VolumeInfo;
use skep_model::{Result, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Which of a process's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    pub stream: Stream,
    pub data: Bytes,
}

/// Both directions of an attached process. Dropping `input` half-closes stdin; `output`
/// ends when the process's output does.
#[derive(Debug)]
pub struct Attached {
    pub tty: bool,
    pub output: mpsc::Receiver<Chunk>,
    /// `None` when stdin was not asked for or is not open.
    pub input: Option<mpsc::Sender<Bytes>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttachOptions {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Replay the log first.
    pub logs: bool,
    /// Follow the live output.
    pub stream: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogOptions {
    pub stdout: bool,
    pub stderr: bool,
    pub follow: bool,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    /// Last so many lines; `None` is all.
    pub tail: Option<u64>,
}

/// One log line (or part of one) with its time; the newline is part of `data`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub stream: Stream,
    pub at: Timestamp,
    pub data: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WaitCondition {
    #[default]
    NotRunning,
    NextExit,
    Removed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitResult {
    pub exit_code: i32,
    pub error: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RemoveOptions {
    pub force: bool,
    /// Anonymous volumes too.
    pub volumes: bool,
}

/// Everything of this machine. Cheap to clone; all clones are one engine.
#[derive(Clone)]
pub struct Engine {
    images: ImageStore,
    events: Arc<Events>,
}

impl Engine {
    /// Reads the data root, adopts the containers whose shims live, records the exits
    /// of those that ended meanwhile, tells [`Attach`] the resulting local state,
    /// removes what nothing refers to, and applies restart policies.
    pub async fn open(config: EngineConfig, attach: Arc<dyn Attach>) -> Result<Self> {
        let _ = (config, attach);
        todo!()
    }

    pub fn images(&self) -> &ImageStore {
        &self.images
    }

    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Stops accepting work and waits for what is under way. Containers go on.
    pub async fn shutdown(&self) {
        todo!()
    }

    // --- containers; `name` is an id, a unique id prefix or a name with or without slash ---

    /// Returns the id and warnings. 404 `No such image: x:latest`; 409 `Conflict. The
    /// container name "/x" is already in use by container "ID". ...`
    pub async fn create(&self, spec: ContainerSpec) -> Result<(ContainerId, Vec<String>)> {
        let _ = spec;
        todo!()
    }

    /// `NotModified` when it runs already.
    pub async fn start(&self, name: &str) -> Result<()> {
        let _ = name;
        todo!()
    }

    /// Signal, wait, SIGKILL. `timeout_s`: `None` is the container's own, -1 waits for ever.
    pub async fn stop(&self, name: &str, timeout_s: Option<i64>, signal: Option<&str>) -> Result<()> {
        let _ = (name, timeout_s, signal);
        todo!()
    }

    pub async fn restart(&self, name: &str, timeout_s: Option<i64>, signal: Option<&str>) -> Result<()> {
        let _ = (name, timeout_s, signal);
        todo!()
    }

    /// `signal`: name with or without SIG, or number.
    pub async fn kill(&self, name: &str, signal: &str) -> Result<()> {
        let _ = (name, signal);
        todo!()
    }

    pub async fn pause(&self, name: &str) -> Result<()> {
        let _ = name;
        todo!()
    }

    pub async fn unpause(&self, name: &str) -> Result<()> {
        let _ = name;
        todo!()
    }

    pub async fn remove(&self, name: &str, options: RemoveOptions) -> Result<()> {
        let _ = (name, options);
        todo!()
    }

    pub async fn rename(&self, name: &str, new_name: &str) -> Result<()> {
        let _ = (name, new_name);
        todo!()
    }

    /// Changes limits and restart policy of a live container; returns warnings.
    pub async fn update(
        &self,
        name: &str,
        resources: Resources,
        restart: Option<RestartPolicy>,
    ) -> Result<Vec<String>> {
        let _ = (name, resources, restart);
        todo!()
    }

    /// `No such container: x`
    pub fn inspect(&self, name: &str) -> Result<Arc<ContainerInfo>> {
        let _ = name;
        todo!()
    }

    /// All containers, newest first.
    pub fn list(&self) -> Vec<Arc<ContainerInfo>> {
        todo!()
    }

    /// Bytes of the writable layer, and of the whole root filesystem.
    pub async fn size(&self, name: &str) -> Result<(u64, u64)> {
        let _ = name;
        todo!()
    }

    /// Registers at once (so that nothing between is missed), resolves at the event.
    pub fn wait(
        &self,
        name: &str,
        condition: WaitCondition,
    ) -> Result<impl Future<Output = WaitResult> + Send + 'static> {
        let _ = (name, condition);
        Ok(async { todo!() })
    }

    /// Before start too: the clients are connected before the process runs.
    pub async fn attach(&self, name: &str, options: AttachOptions) -> Result<Attached> {
        let _ = (name, options);
        todo!()
    }

    pub async fn resize(&self, name: &str, height: u16, width: u16) -> Result<()> {
        let _ = (name, height, width);
        todo!()
    }

    pub async fn logs(&self, name: &str, options: LogOptions) -> Result<mpsc::Receiver<LogLine>> {
        let _ = (name, options);
        todo!()
    }

    /// `ps` titles and rows.
    pub async fn top(&self, name: &str, ps_args: &str) -> Result<(Vec<String>, Vec<Vec<String>>)> {
        let _ = (name, ps_args);
        todo!()
    }

    // --- exec ---

    pub async fn exec_create(&self, name: &str, config: ExecConfig) -> Result<String> {
        let _ = (name, config);
        todo!()
    }

    /// `None` when detached.
    pub async fn exec_start(&self, id: &str, detach: bool, console_size: (u16, u16)) -> Result<Option<Attached>> {
        let _ = (id, detach, console_size);
        todo!()
    }

    pub async fn exec_resize(&self, id: &str, height: u16, width: u16) -> Result<()> {
        let _ = (id, height, width);
        todo!()
    }

    pub fn exec_inspect(&self, id: &str) -> Result<ExecInfo> {
        let _ = id;
        todo!()
    }

    // --- images that need to know about containers ---

    pub fn image_remove(&self, name: &str, force: bool) -> Result<Vec<Removed>> {
        let _ = (name, force);
        todo!()
    }

    /// `docker commit`. Returns the image id.
    pub async fn commit(&self, name: &str, image: NewImage, reference: Option<&str>, pause: bool) -> Result<String> {
        let _ = (name, image, reference, pause);
        todo!()
    }

    // --- networks; `name` is a name, an id or a unique id prefix ---

    /// `network with name x already exists` is 409.
    pub async fn network_create(&self, spec: NetworkSpec) -> Result<NetworkId> {
        let _ = spec;
        todo!()
    }

    pub async fn network_remove(&self, name: &str) -> Result<()> {
        let _ = name;
        todo!()
    }

    /// `network x not found`
    pub fn network_inspect(&self, name: &str) -> Result<NetworkInfo> {
        let _ = name;
        todo!()
    }

    pub fn network_list(&self) -> Vec<NetworkInfo> {
        todo!()
    }

    pub async fn network_connect(&self, network: &str, container: &str, config: EndpointConfig) -> Result<()> {
        let _ = (network, container, config);
        todo!()
    }

    pub async fn network_disconnect(&self, network: &str, container: &str, force: bool) -> Result<()> {
        let _ = (network, container, force);
        todo!()
    }

    /// Makes a network of the swarm known, so that containers may be created on it with
    /// the addresses the swarm chose. netd learns of it from the agent, not from here.
    pub async fn network_adopt(&self, info: NetworkInfo) -> Result<()> {
        let _ = info;
        todo!()
    }

    /// The bridge that gives swarm tasks a way out and takes published ports in
    /// (`docker_gwbridge`), made at first need.
    pub async fn gateway_network(&self) -> Result<NetworkInfo> {
        todo!()
    }

    // --- volumes ---

    pub async fn volume_create(
        &self,
        name: &str,
        driver: &str,
        options: BTreeMap<String, String>,
        labels: BTreeMap<String, String>,
    ) -> Result<VolumeInfo> {
        let _ = (name, driver, options, labels);
        todo!()
    }

    pub fn volume_inspect(&self, name: &str) -> Result<VolumeInfo> {
        let _ = name;
        todo!()
    }

    pub fn volume_list(&self) -> Vec<VolumeInfo> {
        todo!()
    }

    pub async fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
        let _ = (name, force);
        todo!()
    }
}
