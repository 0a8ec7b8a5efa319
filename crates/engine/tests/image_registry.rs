//! Push and pull against a real registry: Debian's `docker-registry` on loopback.
#![allow(clippy::unwrap_used, reason = "a failed test is what a panic is for")]

mod store_support;

use skep_engine::image::{NewImage, Removed};
use skep_engine::rootfs::Rootfs;
use skep_model::container::ContainerConfig;
use skep_model::{ErrorKind, Timestamp};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use store_support::{import, listen, open, tar_of};

const PROGRAM: &str = "/usr/bin/docker-registry";
const START_DEADLINE: Duration = Duration::from_secs(20);

/// A registry that ends with the test.
struct Registry {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Registry {
    fn start() -> Self {
        assert!(
            std::path::Path::new(PROGRAM).exists(),
            "{PROGRAM} is missing: apt-get install -y --no-install-recommends docker-registry"
        );
        let dir = tempfile::tempdir().unwrap();
        // Freed just before the registry takes it; a collision fails the start loudly.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:{port}'}}\n",
            dir.path().join("data").display()
        );
        std::fs::write(dir.path().join("config.yml"), config).unwrap();
        let child = Command::new(PROGRAM)
            .arg("serve")
            .arg(dir.path().join("config.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self { child, port, _dir: dir };
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < START_DEADLINE, "the registry did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    fn name(&self, rest: &str) -> String {
        format!("127.0.0.1:{}/{rest}", self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn digest_line(lines: &[String]) -> &str {
    lines.iter().find_map(|line| line.strip_prefix("Digest: ")).expect("a digest was told")
}

#[tokio::test]
async fn pushed_images_come_back_the_same() {
    let registry = Registry::start();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let name = registry.name("team/app:1");
    // One imported layer and one committed here, which has no stored tar.
    let base = import(&store, tar_of(&[("etc/keep", "1"), ("etc/gone", "2")]), "base").await;
    let rootfs = Rootfs::create(dir.path(), "c").unwrap();
    let lower = store.layer_dirs(&base).unwrap();
    rootfs.with_mounted(&lower, |root| Ok(std::fs::remove_file(root.join("etc/gone"))?)).unwrap();
    let layer = store.commit_dir(Some(&base), &rootfs.upper).await.unwrap();
    let image = NewImage {
        parent: Some(base.clone()),
        layer: Some(layer.clone()),
        config: ContainerConfig { cmd: Some(vec!["sh".into()]), ..Default::default() },
        created: Timestamp(1),
        created_by: "sh".into(),
        comment: String::new(),
        author: String::new(),
    };
    let id = store.commit_image(image).await.unwrap();
    store.tag(&id, &name).unwrap();

    let (progress, lines) = listen();
    store.push(&name, None, progress).await.unwrap();
    let lines = lines.await.unwrap();
    let top = &layer.diff_id[7..19];
    assert_eq!(lines[0], format!("The push refers to repository [{}]", registry.name("team/app")));
    assert!(lines.contains(&format!("{top}: Preparing")) && lines.contains(&format!("{top}: Pushed")), "{lines:?}");
    let digest = lines.last().unwrap().strip_prefix("pushed 1 ").unwrap().to_owned();
    assert!(lines[lines.len() - 2].starts_with(&format!("1: digest: {digest} size: ")), "{lines:?}");
    assert_eq!(store.resolve(&id).unwrap().repo_digests, [format!("{}@{digest}", registry.name("team/app"))]);

    let (progress, lines) = listen();
    store.push(&name, None, progress).await.unwrap();
    let lines = lines.await.unwrap();
    assert!(lines.contains(&format!("{top}: Layer already exists")), "{lines:?}");
    assert_eq!(lines.last().unwrap(), &format!("pushed 1 {digest}"));

    let remote = store.remote_digest(&name, None).await.unwrap();
    assert_eq!((remote.digest.as_str(), remote.platforms.len()), (digest.as_str(), 1));

    // Into another store, from nothing.
    let elsewhere = tempfile::tempdir().unwrap();
    let other = open(elsewhere.path()).await;
    let (progress, lines) = listen();
    let pulled = other.pull(&name, None, None, progress).await.unwrap();
    let lines = lines.await.unwrap();
    assert_eq!(pulled.id, id);
    assert_eq!(lines[0], "1: Pulling from team/app");
    for status in ["Pulling fs layer", "Verifying Checksum", "Download complete", "Extracting", "Pull complete"] {
        assert!(lines.iter().any(|line| line.ends_with(&format!(": {status}"))), "{status}: {lines:?}");
    }
    assert_eq!(digest_line(&lines), digest);
    assert_eq!(lines.last().unwrap(), &format!("Status: Downloaded newer image for {name}"));
    let rootfs = Rootfs::create(elsewhere.path(), "c").unwrap();
    let names = rootfs.with_mounted(&other.layer_dirs(&name).unwrap(), |root| {
        Ok((root.join("etc/keep").exists(), root.join("etc/gone").exists()))
    });
    assert_eq!(names.unwrap(), (true, false));

    let (progress, lines) = listen();
    other.pull(&name, None, None, progress).await.unwrap();
    let lines = lines.await.unwrap();
    assert_eq!(lines.last().unwrap(), &format!("Status: Image is up to date for {name}"));

    // By digest, after everything local is gone.
    let removed = other.remove(&name, false, &|_| Vec::new()).unwrap();
    assert_eq!(removed.iter().filter(|line| matches!(line, Removed::Untagged(_))).count(), 2);
    assert_eq!(other.list().len(), 0);
    let by_digest = format!("{}@{digest}", registry.name("team/app"));
    let (progress, _lines) = listen();
    let pulled = other.pull(&by_digest, None, None, progress).await.unwrap();
    assert_eq!((pulled.id, pulled.repo_tags.len(), pulled.repo_digests), (id, 0, vec![by_digest.clone()]));
    assert!(other.resolve(&by_digest).is_ok());
}

#[tokio::test]
async fn what_is_not_there_is_said_in_dockers_words() {
    let registry = Registry::start();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let name = registry.name("nothere:1");
    let (progress, _lines) = listen();
    let error = store.pull(&name, None, None, progress).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert_eq!(error.message, format!("manifest for {name} not found: manifest unknown: manifest unknown"));
    assert_eq!(store.remote_digest(&name, None).await.unwrap_err(), error);
    let (progress, _lines) = listen();
    let error = store.push(&name, None, progress).await.unwrap_err();
    assert_eq!(error.message, format!("An image does not exist locally with the tag: {}", registry.name("nothere")));
}
