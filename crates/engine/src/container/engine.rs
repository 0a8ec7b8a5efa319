//! The engine's public face: each verb finds its container, network or volume, and
//! runs to its end even if the caller goes away.

use crate::attach::Attach;
use crate::build::Builds;
use crate::config::EngineConfig;
use crate::container::inner::Inner;
use crate::container::{
    ArchiveStream, AttachOptions, Attached, Change, LogLine, LogOptions, PathStat, RemoveOptions, Stats, WaitCondition,
    WaitResult,
};
use crate::events::Events;
use crate::image::{ImageStore, NewImage, Removed};
use crate::sys::kernel::Kernel;
use skep_model::Result;
use skep_model::container::{
    ContainerInfo, ContainerSpec, EndpointConfig, ExecConfig, ExecInfo, Resources, RestartPolicy,
};
use skep_model::id::{ContainerId, NetworkId};
use skep_model::network::{NetworkInfo, NetworkSpec};
use skep_model::volume::VolumeInfo;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;

/// Everything of this machine. Cheap to clone; all clones are one engine.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

impl Engine {
    /// Reads the data root, adopts the containers whose shims live, records the exits
    /// of those that ended meanwhile, tells [`Attach`] the resulting local state,
    /// removes what nothing refers to, and applies restart policies.
    pub async fn open(config: EngineConfig, attach: Arc<dyn Attach>) -> Result<Self> {
        let engine = Self { inner: Inner::open(config, attach).await? };
        crate::build::remove_leftovers(&engine).await;
        Ok(engine)
    }

    pub fn images(&self) -> &ImageStore {
        &self.inner.images
    }

    /// What builds keep besides images.
    pub fn builds(&self) -> &Builds {
        &self.inner.builds
    }

    pub fn events(&self) -> &Events {
        &self.inner.events
    }

    /// What this machine can do.
    pub fn kernel(&self) -> &Kernel {
        &self.inner.kernel
    }

    /// Stops accepting work and waits for what is under way. Containers go on.
    pub async fn shutdown(&self) {
        self.inner.closing.cancel();
        self.inner.verbs.close();
        self.inner.verbs.wait().await;
        self.inner.tasks.close();
    }

    // --- containers; `name` is an id, a unique id prefix or a name with or without slash ---

    /// Returns the id and warnings. 404 `No such image: x:latest`; 409 `Conflict. The
    /// container name "/x" is already in use by container "ID". ...`
    pub async fn create(&self, spec: ContainerSpec) -> Result<(ContainerId, Vec<String>)> {
        let inner = self.inner.clone();
        self.inner.run(async move { inner.create(spec).await }).await
    }

    /// `NotModified` when it runs already.
    pub async fn start(&self, name: &str) -> Result<()> {
        let inner = self.inner.clone();
        let name = name.to_owned();
        self.inner.run(async move { inner.start(&name).await }).await
    }

    /// Signal, wait, SIGKILL. `timeout_s`: `None` is the container's own, -1 waits for ever.
    pub async fn stop(&self, name: &str, timeout_s: Option<i64>, signal: Option<&str>) -> Result<()> {
        let inner = self.inner.clone();
        let name = name.to_owned();
        let signal = signal.map(str::to_owned);
        self.inner.run(async move { inner.stop(&name, timeout_s, signal.as_deref()).await }).await
    }

    pub async fn restart(&self, name: &str, timeout_s: Option<i64>, signal: Option<&str>) -> Result<()> {
        let inner = self.inner.clone();
        let name = name.to_owned();
        let signal = signal.map(str::to_owned);
        self.inner.run(async move { inner.restart(&name, timeout_s, signal.as_deref()).await }).await
    }

    /// `signal`: name with or without SIG, or number.
    pub async fn kill(&self, name: &str, signal: &str) -> Result<()> {
        let inner = self.inner.clone();
        let (name, signal) = (name.to_owned(), signal.to_owned());
        self.inner.run(async move { inner.kill(&name, &signal).await }).await
    }

    pub async fn pause(&self, name: &str) -> Result<()> {
        let inner = self.inner.clone();
        let name = name.to_owned();
        self.inner.run(async move { inner.pause(&name).await }).await
    }

    pub async fn unpause(&self, name: &str) -> Result<()> {
        let inner = self.inner.clone();
        let name = name.to_owned();
        self.inner.run(async move { inner.unpause(&name).await }).await
    }

    pub async fn remove(&self, name: &str, options: RemoveOptions) -> Result<()> {
        let inner = self.inner.clone();
        let name = name.to_owned();
        self.inner.run(async move { inner.remove(&name, options).await }).await
    }

    pub async fn rename(&self, name: &str, new_name: &str) -> Result<()> {
        let inner = self.inner.clone();
        let (name, new_name) = (name.to_owned(), new_name.to_owned());
        self.inner.run(async move { inner.rename(&name, &new_name).await }).await
    }

    /// Changes limits and restart policy of a live container; returns warnings.
    pub async fn update(
        &self,
        name: &str,
        resources: Resources,
        restart: Option<RestartPolicy>,
    ) -> Result<Vec<String>> {
        let inner = self.inner.clone();
        let name = name.to_owned();
        self.inner.run(async move { inner.update(&name, resources, restart).await }).await
    }

    /// `No such container: x`
    pub fn inspect(&self, name: &str) -> Result<Arc<ContainerInfo>> {
        Ok(self.inner.registry.find(name)?.info())
    }

    /// All containers, newest first.
    pub fn list(&self) -> Vec<Arc<ContainerInfo>> {
        self.inner.registry.all().iter().map(|container| container.info()).collect()
    }

    /// Bytes of the writable layer, and of the whole root filesystem.
    pub async fn size(&self, name: &str) -> Result<(u64, u64)> {
        self.inner.size(name).await
    }

    /// Registers at once (so that nothing between is missed), resolves at the event.
    pub fn wait(
        &self,
        name: &str,
        condition: WaitCondition,
    ) -> Result<impl Future<Output = WaitResult> + Send + 'static + use<>> {
        self.inner.wait(name, condition)
    }

    /// Before start too: the clients are connected before the process runs.
    pub async fn attach(&self, name: &str, options: AttachOptions) -> Result<Attached> {
        self.inner.attach(name, options).await
    }

    pub async fn resize(&self, name: &str, height: u16, width: u16) -> Result<()> {
        self.inner.resize(name, height, width).await
    }

    pub async fn logs(&self, name: &str, options: LogOptions) -> Result<mpsc::Receiver<LogLine>> {
        self.inner.logs(name, options).await
    }

    /// `ps` titles and rows.
    pub async fn top(&self, name: &str, ps_args: &str) -> Result<(Vec<String>, Vec<Vec<String>>)> {
        self.inner.top(name, ps_args)
    }

    /// What the kernel counted of a running container; zeros if it does not run.
    pub async fn stats(&self, name: &str) -> Result<Stats> {
        self.inner.stats(name)
    }

    // --- files ---

    /// What is at a path. `Could not find the file x in container y` is 404.
    pub async fn archive_stat(&self, name: &str, path: &str) -> Result<PathStat> {
        self.inner.archive_stat(name, path).await
    }

    /// A tar archive of a file or directory, named by its last component.
    pub async fn archive_get(&self, name: &str, path: &str) -> Result<(PathStat, ArchiveStream)> {
        self.inner.archive_get(name, path).await
    }

    /// Unpacks an (uncompressed) tar archive into an existing directory.
    /// `refuse_replacing_directories`: a directory never replaces a file, nor the reverse.
    pub async fn archive_put(
        &self,
        name: &str,
        path: &str,
        archive: impl AsyncRead + Send + Unpin + 'static,
        refuse_replacing_directories: bool,
    ) -> Result<()> {
        self.inner.archive_put(name, path, archive, refuse_replacing_directories).await
    }

    /// The whole root filesystem as a tar archive, without what is mounted into it.
    pub async fn export(&self, name: &str) -> Result<ArchiveStream> {
        self.inner.export(name).await
    }

    /// Differences to the image, by path.
    pub async fn changes(&self, name: &str) -> Result<Vec<Change>> {
        self.inner.changes(name).await
    }

    // --- exec ---

    pub async fn exec_create(&self, name: &str, config: ExecConfig) -> Result<String> {
        self.inner.exec_create(name, config)
    }

    /// `None` when detached.
    pub async fn exec_start(&self, id: &str, detach: bool, console_size: (u16, u16)) -> Result<Option<Attached>> {
        let inner = self.inner.clone();
        let id = id.to_owned();
        self.inner.run(async move { inner.exec_start(&id, detach, console_size).await }).await
    }

    pub async fn exec_resize(&self, id: &str, height: u16, width: u16) -> Result<()> {
        self.inner.exec_resize(id, height, width).await
    }

    pub fn exec_inspect(&self, id: &str) -> Result<ExecInfo> {
        self.inner.exec_inspect(id)
    }

    // --- images that need to know about containers ---

    pub fn image_remove(&self, name: &str, force: bool) -> Result<Vec<Removed>> {
        self.inner.image_remove(name, force)
    }

    /// `docker commit`. Returns the image id.
    pub async fn commit(&self, name: &str, image: NewImage, reference: Option<&str>, pause: bool) -> Result<String> {
        let inner = self.inner.clone();
        let name = name.to_owned();
        let reference = reference.map(str::to_owned);
        self.inner.run(async move { inner.commit(&name, image, reference.as_deref(), pause).await }).await
    }

    // --- networks; `name` is a name, an id or a unique id prefix ---

    /// `network with name x already exists` is 409.
    pub async fn network_create(&self, spec: NetworkSpec) -> Result<NetworkId> {
        let inner = self.inner.clone();
        self.inner.run(async move { inner.network_create(spec).await }).await
    }

    pub async fn network_remove(&self, name: &str) -> Result<()> {
        let inner = self.inner.clone();
        let name = name.to_owned();
        self.inner.run(async move { inner.network_remove(&name).await }).await
    }

    /// `network x not found`
    pub fn network_inspect(&self, name: &str) -> Result<NetworkInfo> {
        self.inner.networks.find(name)
    }

    pub fn network_list(&self) -> Vec<NetworkInfo> {
        self.inner.networks.list()
    }

    pub async fn network_connect(&self, network: &str, container: &str, config: EndpointConfig) -> Result<()> {
        let inner = self.inner.clone();
        let (network, container) = (network.to_owned(), container.to_owned());
        self.inner.run(async move { inner.network_connect(&network, &container, config).await }).await
    }

    pub async fn network_disconnect(&self, network: &str, container: &str, force: bool) -> Result<()> {
        let inner = self.inner.clone();
        let (network, container) = (network.to_owned(), container.to_owned());
        self.inner.run(async move { inner.network_disconnect(&network, &container, force).await }).await
    }

    /// Makes a network of the swarm known, so that containers may be created on it with
    /// the addresses the swarm chose. netd learns of it from the agent, not from here.
    pub async fn network_adopt(&self, info: NetworkInfo) -> Result<()> {
        self.inner.network_adopt(info)
    }

    /// The bridge that gives swarm tasks a way out and takes published ports in
    /// (`docker_gwbridge`), made at first need.
    pub async fn gateway_network(&self) -> Result<NetworkInfo> {
        let inner = self.inner.clone();
        self.inner.run(async move { inner.gateway_network().await }).await
    }

    // --- volumes ---

    pub async fn volume_create(
        &self,
        name: &str,
        driver: &str,
        options: BTreeMap<String, String>,
        labels: BTreeMap<String, String>,
    ) -> Result<VolumeInfo> {
        self.inner.volume_create(name, driver, options, labels)
    }

    pub fn volume_inspect(&self, name: &str) -> Result<VolumeInfo> {
        self.inner.volumes.get(name)
    }

    pub fn volume_list(&self) -> Vec<VolumeInfo> {
        self.inner.volumes.list()
    }

    pub async fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
        self.inner.volume_remove(name, force).await
    }
}
