//! Shared by the image tests.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test binary uses its own part")]

use skep_engine::config::EngineConfig;
use skep_engine::image::ImageStore;
use skep_engine::progress::{Progress, ProgressSender};
use skep_model::Timestamp;
use skep_model::container::ContainerConfig;
use std::path::Path;
use tokio::task::JoinHandle;

pub fn config(data_root: &Path) -> EngineConfig {
    EngineConfig {
        data_root: data_root.to_owned(),
        exec_root: data_root.join("exec"),
        program: "/proc/self/exe".into(),
        insecure_registries: Vec::new(),
        registry_mirrors: Vec::new(),
        cgroup_parent: "/skep".into(),
        dns: Vec::new(),
        dns_search: Vec::new(),
        dns_options: Vec::new(),
        bridge_address: None,
    }
}

pub async fn open(data_root: &Path) -> ImageStore {
    ImageStore::open(&config(data_root)).await.unwrap()
}

pub fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, data.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

pub async fn import(store: &ImageStore, tar: Vec<u8>, name: &str) -> String {
    let tar = std::io::Cursor::new(tar);
    store.import(tar, Some(name), "Imported from -", ContainerConfig::default(), Timestamp(1)).await.unwrap()
}

/// Takes progress as text lines; ends when the sender is gone.
pub fn listen() -> (ProgressSender, JoinHandle<Vec<String>>) {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1024);
    let lines = tokio::spawn(async move {
        let mut lines = Vec::new();
        while let Some(progress) = receiver.recv().await {
            lines.push(match progress {
                Progress::Stream(text) => text.trim_end().to_owned(),
                Progress::Status { id: Some(id), status, .. } => format!("{id}: {status}"),
                Progress::Status { id: None, status, .. } => status,
                Progress::ImageId(id) => id,
                Progress::Pushed { tag, digest, .. } => format!("pushed {tag} {digest}"),
                Progress::Build(event) => format!("{event:?}"),
            });
        }
        lines
    });
    (sender, lines)
}
