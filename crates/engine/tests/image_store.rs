//! The image store through its facade: import, commit, names, archives.
#![allow(clippy::unwrap_used, reason = "a failed test is what a panic is for")]

mod store_support;

use skep_engine::image::{ImageStore, NewImage};
use skep_engine::rootfs::Rootfs;
use skep_model::Timestamp;
use skep_model::container::ContainerConfig;
use store_support::{config, import, tar_of};

fn new_image(parent: &str) -> NewImage {
    NewImage {
        parent: Some(parent.to_owned()),
        layer: None,
        config: ContainerConfig { cmd: Some(vec!["sh".into()]), ..Default::default() },
        created: Timestamp(5_000_000_000),
        created_by: "/bin/sh".into(),
        comment: "a comment".into(),
        author: "me".into(),
    }
}

#[tokio::test]
async fn a_container_change_becomes_an_image_that_shows_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&config(dir.path())).await.unwrap();
    let base = import(&store, tar_of(&[("etc/keep", "1"), ("etc/gone", "2")]), "base:1").await;
    let rootfs = Rootfs::create(dir.path(), "c").unwrap();
    rootfs
        .with_mounted(&store.layer_dirs("base:1").unwrap(), |root| {
            std::fs::remove_file(root.join("etc/gone")).unwrap();
            std::fs::write(root.join("etc/new"), "new").unwrap();
            Ok(())
        })
        .unwrap();

    let layer = store.commit_dir(Some(&base), &rootfs.upper).await.unwrap();
    assert_eq!(layer.size, 3);
    let id = store.commit_image(NewImage { layer: Some(layer.clone()), ..new_image(&base) }).await.unwrap();
    store.tag(&id, "child").unwrap();

    // Opened again: nothing of it was only in memory.
    let store = ImageStore::open(&config(dir.path())).await.unwrap();
    let image = store.resolve("child").unwrap();
    assert_eq!((image.id.as_str(), image.parent.as_str()), (id.as_str(), base.as_str()));
    assert_eq!((image.author.as_str(), image.comment.as_str(), image.size), ("me", "a comment", 5));
    assert_eq!(image.diff_ids.last(), Some(&layer.diff_id));
    let second = Rootfs::create(dir.path(), "d").unwrap();
    let names = second.with_mounted(&store.layer_dirs("child").unwrap(), |root| {
        let names = std::fs::read_dir(root.join("etc")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        Ok(names)
    });
    assert_eq!(names.unwrap(), ["keep", "new"]);
    // The same change again is the same layer.
    assert_eq!(store.commit_dir(Some(&base), &rootfs.upper).await.unwrap(), layer);
}

#[tokio::test]
async fn an_image_without_layers_still_has_a_root() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&config(dir.path())).await.unwrap();
    let image = NewImage { parent: None, ..new_image("") };
    let id = store.commit_image(image).await.unwrap();
    let dirs = store.layer_dirs(&id).unwrap();
    assert_eq!(std::fs::read_dir(&dirs[0]).unwrap().count(), 0);
    assert_eq!(store.list().len(), 1);
}

#[tokio::test]
async fn compressed_tars_are_imported_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&config(dir.path())).await.unwrap();
    let tar = tar_of(&[("a", "b")]);
    let plain = import(&store, tar.clone(), "plain").await;
    let zstd = import(&store, zstd::encode_all(&tar[..], 1).unwrap(), "zstd").await;
    assert_eq!(plain, zstd);
    assert_eq!(store.resolve("plain").unwrap().repo_tags, ["plain:latest", "zstd:latest"]);
    let bad =
        store.import(std::io::Cursor::new(b"garbage".repeat(200)), None, "", ContainerConfig::default(), Timestamp(1));
    assert!(bad.await.unwrap_err().message.starts_with("invalid tar"));
}

#[tokio::test]
async fn tags_with_digests_and_unknown_images_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&config(dir.path())).await.unwrap();
    import(&store, tar_of(&[]), "a").await;
    let digest = format!("x@sha256:{}", "0".repeat(64));
    assert_eq!(store.tag("a", &digest).unwrap_err().message, "refusing to create a tag with a digest reference");
    assert_eq!(store.tag("b", "c").unwrap_err().message, "No such image: b");
    assert_eq!(store.layer_dirs("b:1").unwrap_err().message, "No such image: b:1");
}

/// Takes the other format's index out of an archive, so that the reader must use the one left.
fn without(archive: &[u8], name: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let entry = entry.unwrap();
        if entry.path().unwrap().as_os_str() != name {
            let header = entry.header().clone();
            builder.append(&header, entry).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

#[tokio::test]
async fn saved_images_load_elsewhere_in_both_formats() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&config(dir.path())).await.unwrap();
    let base = import(&store, tar_of(&[("etc/gone", "2")]), "base:1").await;
    let rootfs = Rootfs::create(dir.path(), "c").unwrap();
    let lower = store.layer_dirs("base:1").unwrap();
    rootfs.with_mounted(&lower, |root| Ok(std::fs::remove_file(root.join("etc/gone"))?)).unwrap();
    let layer = store.commit_dir(Some(&base), &rootfs.upper).await.unwrap();
    let id = store.commit_image(NewImage { layer: Some(layer), ..new_image(&base) }).await.unwrap();
    store.tag(&id, "localhost:5000/child:2").unwrap();
    store.tag(&id, "localhost:5000/child:3").unwrap();

    let mut archive = Vec::new();
    let names = ["base".to_owned(), "localhost:5000/child".to_owned()];
    let mut reader = store.save(&names).await.unwrap();
    tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut archive).await.unwrap();
    assert!(store.save(&["nosuch".to_owned()]).await.is_err_and(|e| e.message == "No such image: nosuch"));

    for other in ["index.json", "manifest.json"] {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&config(dir.path())).await.unwrap();
        let (progress, mut lines) = tokio::sync::mpsc::channel(100);
        let archive = std::io::Cursor::new(without(&archive, other));
        let mut loaded = store.load(archive, progress).await.unwrap();
        loaded.sort();
        assert_eq!(loaded, ["base:1", "localhost:5000/child:2", "localhost:5000/child:3"], "without {other}");
        assert_eq!(store.resolve("localhost:5000/child:3").unwrap().id, id);
        assert_eq!(store.resolve("base:1").unwrap().id, base);
        let mut told = Vec::new();
        while let Some(line) = lines.recv().await {
            told.push(line);
        }
        let line = skep_engine::progress::Progress::Stream("Loaded image: base:1\n".into());
        assert!(told.contains(&line), "{told:?}");
        let rootfs = Rootfs::create(dir.path(), "c").unwrap();
        let exists = rootfs.with_mounted(&store.layer_dirs(&id).unwrap(), |root| Ok(root.join("etc/gone").exists()));
        assert!(!exists.unwrap());
    }
}
