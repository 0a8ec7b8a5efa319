//! A machine for one test: an engine below a directory of its own, an image of
//! busybox, and a network that only takes notes.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use async_trait::async_trait;
use skep_engine::container::{AttachOptions, RemoveOptions, WaitCondition};
use skep_engine::{Attach, Engine, EngineConfig};
use skep_model::container::{ContainerConfig, ContainerSpec, HostConfig};
use skep_model::id::{ContainerId, EndpointId, NetworkId};
use skep_model::netstate::{AttachRequest, DesiredNetwork, LocalNetState};
use skep_model::{Result, Timestamp};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const BUSYBOX: &str = "/bin/busybox";
/// Nothing in these tests may take longer; a hang is a failure.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Notes what the engine wants of the network.
#[derive(Debug, Default)]
pub struct Notebook {
    pub calls: Mutex<Vec<String>>,
    pub last_sync: Mutex<Option<LocalNetState>>,
    pub last_attach: Mutex<Option<AttachRequest>>,
    /// The next attach fails with this.
    pub refuse: Mutex<Option<skep_model::Error>>,
}

impl Notebook {
    fn note(&self, text: String) {
        self.calls.lock().unwrap().push(text);
    }
}

#[async_trait]
impl Attach for Notebook {
    async fn sync(&self, state: LocalNetState) -> Result<()> {
        self.note(format!("sync {} networks {} endpoints", state.networks.len(), state.endpoints.len()));
        *self.last_sync.lock().unwrap() = Some(state);
        Ok(())
    }

    async fn put_network(&self, network: DesiredNetwork) -> Result<()> {
        self.note(format!("put {}", network.name));
        Ok(())
    }

    async fn remove_network(&self, id: &NetworkId) -> Result<()> {
        self.note(format!("remove {id}"));
        Ok(())
    }

    async fn attach(&self, request: AttachRequest) -> Result<()> {
        self.note(format!("attach {}", request.endpoints.len()));
        for endpoint in &request.endpoints {
            assert!(endpoint.netns.exists(), "no namespace at {}", endpoint.netns.display());
        }
        *self.last_attach.lock().unwrap() = Some(request);
        match self.refuse.lock().unwrap().take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    async fn detach(&self, container: &ContainerId) -> Result<()> {
        self.note(format!("detach {}", &container.0[..12]));
        Ok(())
    }

    async fn detach_endpoint(&self, _: &EndpointId) -> Result<()> {
        self.note("detach endpoint".into());
        Ok(())
    }
}

pub struct Machine {
    pub engine: Engine,
    pub network: Arc<Notebook>,
    pub config: EngineConfig,
    root: Option<tempfile::TempDir>,
}

impl Machine {
    pub async fn new() -> Self {
        let root = tempfile::Builder::new().prefix("skep").tempdir().unwrap();
        let config = config(root.path());
        let network = Arc::new(Notebook::default());
        let engine = Engine::open(config.clone(), network.clone()).await.unwrap();
        import_busybox(&engine).await;
        Self { engine, network, config, root: Some(root) }
    }

    /// As if the engine had been killed and started again.
    pub async fn reopen(&mut self) {
        self.network = Arc::new(Notebook::default());
        self.engine = Engine::open(self.config.clone(), self.network.clone()).await.unwrap();
    }

    pub fn run_dir(&self, id: &ContainerId) -> PathBuf {
        self.config.exec_root.join("c").join(&id.0[..16])
    }

    /// Creates and starts, with the output collected in the background.
    pub async fn start(&self, spec: ContainerSpec) -> ContainerId {
        let (id, _) = self.engine.create(spec).await.unwrap();
        self.engine.start(&id.0).await.unwrap();
        id
    }

    /// Runs to its end: exit code, stdout, stderr.
    pub async fn run(&self, spec: ContainerSpec) -> (i32, String, String) {
        let (id, _) = self.engine.create(spec).await.unwrap();
        let (stdout, stderr) = self.output_of(&id).await;
        let wait = self.engine.wait(&id.0, WaitCondition::NextExit).unwrap();
        self.engine.start(&id.0).await.unwrap();
        let result = tokio::time::timeout(PATIENCE, wait).await.expect("the container does not end");
        (result.exit_code, stdout.await.unwrap(), stderr.await.unwrap())
    }

    /// Attaches before the start and collects both streams.
    pub async fn output_of(
        &self,
        id: &ContainerId,
    ) -> (tokio::task::JoinHandle<String>, tokio::task::JoinHandle<String>) {
        let mut handles = Vec::new();
        for stdout in [true, false] {
            let options = AttachOptions { stdout, stderr: !stdout, stream: true, ..AttachOptions::default() };
            let mut attached = self.engine.attach(&id.0, options).await.unwrap();
            handles.push(tokio::spawn(async move {
                let mut text = Vec::new();
                while let Some(chunk) = attached.output.recv().await {
                    text.extend_from_slice(&chunk.data);
                }
                String::from_utf8_lossy(&text).into_owned()
            }));
        }
        let stderr = handles.pop().unwrap();
        (handles.pop().unwrap(), stderr)
    }

    pub async fn exit_of(&self, id: &ContainerId) -> i32 {
        let wait = self.engine.wait(&id.0, WaitCondition::NotRunning).unwrap();
        tokio::time::timeout(PATIENCE, wait).await.expect("the container does not end").exit_code
    }

    pub async fn log_of(&self, id: &ContainerId) -> String {
        let options = skep_engine::container::LogOptions { stdout: true, stderr: true, ..Default::default() };
        let mut lines = self.engine.logs(&id.0, options).await.unwrap();
        let mut text = Vec::new();
        while let Some(line) = lines.recv().await {
            text.extend_from_slice(&line.data);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Runs a command inside and returns exit code and output.
    pub async fn exec(&self, id: &ContainerId, cmd: &[&str]) -> (i32, String) {
        let config = skep_model::container::ExecConfig {
            cmd: cmd.iter().map(|&word| word.to_owned()).collect(),
            attach_stdout: true,
            attach_stderr: true,
            ..Default::default()
        };
        let exec = self.engine.exec_create(&id.0, config).await.unwrap();
        let mut attached = self.engine.exec_start(&exec, false, (0, 0)).await.unwrap().unwrap();
        let mut text = Vec::new();
        while let Some(chunk) = attached.output.recv().await {
            text.extend_from_slice(&chunk.data);
        }
        until(|| self.engine.exec_inspect(&exec).unwrap().exit_code.is_some()).await;
        let exit_code = self.engine.exec_inspect(&exec).unwrap().exit_code.unwrap();
        (exit_code, String::from_utf8_lossy(&text).into_owned())
    }

    /// Removes every container and checks that nothing of them is left on the machine.
    pub async fn close(mut self) {
        let ids: Vec<ContainerId> = self.engine.list().iter().map(|info| info.id.clone()).collect();
        for id in &ids {
            let options = RemoveOptions { force: true, volumes: true };
            self.engine.remove(&id.0, options).await.unwrap();
        }
        for id in &ids {
            self.nothing_remains(id).await;
        }
        self.engine.shutdown().await;
        drop(self.root.take());
    }

    pub async fn nothing_remains(&self, id: &ContainerId) {
        assert!(!self.run_dir(id).exists(), "run directory");
        for dir in ["containers", "overlay"] {
            assert!(!self.config.data_root.join(dir).join(&id.0).exists(), "{dir}");
        }
        let short = id.0[..16].to_owned();
        // The shim delivers its last output after the exit is known.
        until(|| processes_with(&short).is_empty()).await;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&short), "mounts");
        for root in self.engine.kernel().cgroup_roots() {
            assert!(!root.join(self.config.cgroup_parent.trim_matches('/')).join(&id.0).exists(), "control group");
        }
    }
}

impl Drop for Machine {
    // After a failed assertion: no process outlives its test.
    fn drop(&mut self) {
        for info in self.engine.list() {
            if info.state.pid != 0 {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(i32::try_from(info.state.pid).unwrap()),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
        for root in self.engine.kernel().cgroup_roots() {
            let _ = std::fs::remove_dir(root.join(self.config.cgroup_parent.trim_matches('/')));
        }
    }
}

pub fn config(root: &Path) -> EngineConfig {
    let examples = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples/shim");
    assert!(
        examples.exists(),
        "{} is not built: run `cargo build -p skep-engine --examples`, which a plain `cargo test` does by itself",
        examples.display()
    );
    EngineConfig {
        data_root: root.join("data"),
        exec_root: root.join("run"),
        program: examples,
        insecure_registries: Vec::new(),
        registry_mirrors: Vec::new(),
        cgroup_parent: format!("/skep-test-{}", root.file_name().unwrap().to_string_lossy()),
        dns: Vec::new(),
        dns_search: Vec::new(),
        dns_options: Vec::new(),
        bridge_address: None,
    }
}

/// A root filesystem around the static busybox.
pub async fn import_busybox(engine: &Engine) {
    assert!(Path::new(BUSYBOX).exists(), "{BUSYBOX} is missing: install the package busybox-static");
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    for dir in ["bin", "etc", "tmp", "home", "data"] {
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(if dir == "tmp" { 0o1777 } else { 0o755 });
        header.set_size(0);
        header.set_cksum();
        tar.append_data(&mut header, dir, std::io::empty()).unwrap();
    }
    let mut file = |path: &str, mode: u32, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(data.len() as u64);
        header.set_cksum();
        tar.append_data(&mut header, path, data).unwrap();
    };
    file("bin/busybox", 0o755, &std::fs::read(BUSYBOX).unwrap());
    file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/home:/bin/sh\n");
    file("etc/group", 0o644, b"root:x:0:\nwheel:x:10:root\nwww:x:34:\n");
    file("data/from-image", 0o640, b"content\n");
    file("bin/broken", 0o755, b"\x7fnothing");
    let applets = "sh ls cat echo sleep true false id env pwd mkdir mount touch test head dd yes kill ps hostname tty stty tr chmod \
        rm grep wc nc ip chown unshare seq tail stat date trap";
    for applet in applets.split_whitespace() {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        header.set_cksum();
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    let bytes = tar.into_inner().unwrap();
    let config = ContainerConfig { cmd: Some(vec!["sh".into()]), ..Default::default() };
    engine
        .images()
        .import(std::io::Cursor::new(bytes), Some("busybox:latest"), "test", config, Timestamp(1))
        .await
        .unwrap();
}

/// `busybox` with a command, on no network.
pub fn spec(cmd: &[&str]) -> ContainerSpec {
    ContainerSpec {
        config: ContainerConfig {
            image: "busybox".into(),
            cmd: Some(cmd.iter().map(|&word| word.to_owned()).collect()),
            ..Default::default()
        },
        host: HostConfig { network_mode: "none".into(), ..Default::default() },
        ..Default::default()
    }
}

pub fn shell(line: &str) -> ContainerSpec {
    spec(&["sh", "-c", line])
}

/// Waits for a fact about the machine.
pub async fn until(fact: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !fact() {
        assert!(tokio::time::Instant::now() < deadline, "it did not become true in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Processes whose command line mentions `text`.
pub fn processes_with(text: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(text) {
            found.push(pid);
        }
    }
    found
}
