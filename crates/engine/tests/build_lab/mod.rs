//! What the build tests share: an engine on a data root of its own, and contexts as tars.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // Not every test program uses all of it.

use skep_engine::attach::NoNetwork;
use skep_engine::build::{BuildInput, BuildOptions, Given, build};
use skep_engine::progress::Progress;
use skep_engine::{Engine, EngineConfig};
use skep_model::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::sync::mpsc;

/// Image id and output, or the error and the output until then.
pub type Built = std::result::Result<(String, String), (Error, String)>;

pub struct Lab {
    pub engine: Engine,
    dir: TempDir,
    program: PathBuf,
}

pub fn options(tag: &str) -> BuildOptions {
    BuildOptions { tags: vec![tag.to_owned()], network_mode: "none".into(), ..BuildOptions::default() }
}

/// The output with every short id replaced.
pub fn normal(output: &str) -> String {
    let is_id = |word: &str| word.len() == 12 && word.chars().all(|c| c.is_ascii_hexdigit());
    let line = |line: &str| line.split(' ').map(|w| if is_id(w) { "ID" } else { w }).collect::<Vec<_>>().join(" ");
    output.lines().map(|text| line(text) + "\n").collect()
}

/// What `build` takes.
pub fn input(tar: Vec<u8>, given: Given) -> BuildInput {
    BuildInput { context: Box::new(std::io::Cursor::new(tar)), dockerfile: None, client: Arc::new(given) }
}

/// The tar of a context.
pub fn context(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        archive.append_data(&mut header, name, content.as_slice()).unwrap();
    }
    archive.into_inner().unwrap()
}

/// `sh` and the libraries it needs, as an image called `shell`.
async fn shell_image(lab: &Lab) {
    let listed = Command::new("ldd").arg("/bin/sh").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    let mut files = vec![("Dockerfile", b"FROM scratch\nCOPY root /\n".to_vec())];
    let names: Vec<_> = std::iter::once("/bin/sh").chain(libraries).map(|path| (path, format!("root{path}"))).collect();
    for (path, name) in &names {
        files.push((name, std::fs::read(path).unwrap()));
    }
    files.push(("root/etc/passwd", b"root:x:0:0::/:/bin/sh\napp:x:12:34::/:/bin/sh\n".to_vec()));
    lab.build_tar(context(&files), options("shell")).await.unwrap();
}

impl Lab {
    /// For builds that only copy files.
    pub async fn open() -> Self {
        Self::with_program(PathBuf::from("/proc/self/exe")).await
    }

    /// For builds that run containers.
    pub async fn with_shim() -> Self {
        let tests = std::env::current_exe().unwrap();
        let shim = tests.parent().unwrap().parent().unwrap().join("examples/shim");
        assert!(shim.exists(), "{} is not built: `cargo build -p skep-engine --examples`", shim.display());
        Self::with_program(shim).await
    }

    /// With a shim and the image `shell`.
    pub async fn with_shell() -> Self {
        let lab = Self::with_shim().await;
        shell_image(&lab).await;
        lab
    }

    async fn with_program(program: PathBuf) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine = Self::engine(dir.path(), &program).await;
        Self { engine, dir, program }
    }

    /// A new engine on the same data root.
    pub async fn restart(mut self) -> Self {
        self.engine.shutdown().await;
        self.engine = Self::engine(self.dir.path(), &self.program).await;
        self
    }

    async fn engine(dir: &Path, program: &Path) -> Engine {
        let config = EngineConfig {
            data_root: dir.join("data"),
            exec_root: dir.join("exec"),
            program: program.to_owned(),
            insecure_registries: Vec::new(),
            registry_mirrors: Vec::new(),
            cgroup_parent: format!("/{}", cgroup_parent(dir)),
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_options: Vec::new(),
            bridge_address: None,
        };
        Engine::open(config, Arc::new(NoNetwork)).await.unwrap()
    }

    pub async fn build(&self, files: &[(&str, &str)], options: BuildOptions) -> Built {
        let files: Vec<_> = files.iter().map(|(name, content)| (*name, content.as_bytes().to_vec())).collect();
        self.build_tar(context(&files), options).await
    }

    pub async fn build_tar(&self, tar: Vec<u8>, options: BuildOptions) -> Built {
        self.build_given(tar, options, Given::default()).await
    }

    /// With secrets and agents.
    pub async fn build_given(&self, tar: Vec<u8>, options: BuildOptions, given: Given) -> Built {
        let (progress, mut seen) = mpsc::channel(16);
        let collect = async {
            let mut output = String::new();
            while let Some(progress) = seen.recv().await {
                if let Progress::Stream(text) = progress {
                    output.push_str(&text);
                }
            }
            output
        };
        let (built, output) = tokio::join!(build(&self.engine, input(tar, given), options, progress), collect);
        match built {
            Ok(id) => Ok((id, output)),
            Err(error) => Err((error, output)),
        }
    }

    /// A file's text in an image, searched from the top layer down.
    pub fn read(&self, image: &str, path: &str) -> String {
        fs::read_to_string(self.find(image, path).unwrap_or_else(|| panic!("{path} is not in {image}"))).unwrap()
    }

    /// Whether any file of the data root contains the text.
    pub fn holds(&self, text: &str) -> bool {
        let files = walk(&self.dir.path().join("data"));
        files.iter().any(|path| {
            let content = fs::read(path).unwrap_or_default();
            content.windows(text.len()).any(|window| window == text.as_bytes())
        })
    }

    /// As if no build had been before.
    pub fn forget_steps(&self) {
        fs::remove_file(self.dir.path().join("data/image/build-cache.json")).unwrap();
    }

    pub fn exists(&self, image: &str, path: &str) -> bool {
        self.find(image, path).is_some()
    }

    fn find(&self, image: &str, path: &str) -> Option<PathBuf> {
        let layers = self.engine.images().layer_dirs(image).unwrap();
        layers.into_iter().map(|layer| layer.join(path)).find(|path| path.symlink_metadata().is_ok())
    }

    /// No container, mount or temporary file of a build is left.
    pub fn assert_clean(&self) {
        assert!(self.engine.list().is_empty(), "a container is left");
        let temporary = fs::read_dir(self.dir.path().join("data/image/tmp")).unwrap();
        let left: Vec<_> = temporary.map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "a mount is left");
    }
}

impl Drop for Lab {
    // Also after a failed assertion: no process and no control group outlives its test.
    fn drop(&mut self) {
        for container in self.engine.list() {
            if let Some(pid) = i32::try_from(container.state.pid).ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        for root in self.engine.kernel().cgroup_roots() {
            let _ = fs::remove_dir(root.join(cgroup_parent(self.dir.path())));
        }
    }
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => files.extend(walk(&entry.path())),
            kind if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    files
}

fn cgroup_parent(dir: &Path) -> String {
    let name = dir.file_name().unwrap().to_string_lossy();
    format!("skep-build-test-{}", name.trim_start_matches('.'))
}
