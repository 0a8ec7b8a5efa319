use super::super::create;
use super::*;
use skep_model::container::ContainerConfig;

pub(crate) fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, data.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn open(dir: &tempfile::TempDir) -> Arc<Store> {
    Arc::new(Store::open(dir.path().join("image")).unwrap())
}

fn import(store: &Arc<Store>, name: &str, content: &str) -> ImageResult<String> {
    let tar = tar_of(&[("file", content)]);
    let name = Some(create::tag_name(name).unwrap());
    create::import(store, &tar[..], name, "imported".into(), &ContainerConfig::default(), Timestamp(1), Timestamp(2))
}

fn names_in(dir: &tempfile::TempDir, below: &str) -> Vec<String> {
    let entries = std::fs::read_dir(dir.path().join("image").join(below)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn an_import_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let id = import(&open(&dir), "a:1", "content").unwrap();
    let index = open(&dir).index();
    let image = index.find("a:1").unwrap();
    assert_eq!(image.id.to_string(), id);
    let info = index.info(image);
    assert_eq!((info.size, info.comment.as_str(), info.repo_tags), (7, "imported", vec!["a:1".to_owned()]));
    let file = open(&dir).diff_path(&image.chain[0]).join("file");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "content");
}

#[test]
fn opening_drops_half_made_and_unused_things() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    import(&store, "a", "content").unwrap();
    let (unused, pin) = store.add_foreign_tar(&tar_of(&[("x", "y")])[..], None, None).unwrap();
    drop(pin);
    std::fs::create_dir_all(dir.path().join("image/tmp/7/diff")).unwrap();
    std::fs::create_dir_all(dir.path().join("image/layers/half/diff")).unwrap();
    std::fs::write(dir.path().join("image/blobs/sha256/half"), "x").unwrap();
    let store = open(&dir);
    assert!(store.index().layer(&unused.chain_id).is_none());
    assert_eq!(names_in(&dir, "layers").len(), 1);
    assert_eq!(names_in(&dir, "blobs/sha256").len(), 2);
    assert_eq!(names_in(&dir, "tmp").len(), 0);
}

#[test]
fn a_bad_tar_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let mut tar = tar_of(&[("file", "content")]);
    tar.truncate(515);
    let image =
        create::import(&store, &tar[..], None, String::new(), &ContainerConfig::default(), Timestamp(1), Timestamp(1));
    assert!(image.is_err());
    for place in ["layers", "tmp", "blobs/sha256"] {
        assert_eq!(names_in(&dir, place), Vec::<String>::new(), "{place}");
    }
}

#[test]
fn the_digest_of_a_layer_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let wrong = Digest::of(b"other");
    let error = store.add_foreign_tar(&tar_of(&[("x", "y")])[..], None, Some(&wrong)).unwrap_err();
    assert!(matches!(error, ImageError::DigestMismatch { .. }), "{error}");
    assert_eq!(names_in(&dir, "layers").len(), 0);
}

#[test]
fn a_damaged_image_is_left_out_and_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let bad = import(&store, "bad", "1").unwrap();
    import(&store, "good", "2").unwrap();
    std::fs::write(store.blob_path(&Digest::parse(&bad).unwrap()), "{}").unwrap();
    let index = open(&dir).index();
    assert!(index.find("bad").is_err());
    assert!(index.find("good").is_ok());
}

#[test]
fn an_unreadable_index_is_an_error_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    import(&open(&dir), "a", "content").unwrap();
    std::fs::write(dir.path().join("image/repositories.json"), "{").unwrap();
    assert!(Store::open(dir.path().join("image")).is_err());
    assert_eq!(names_in(&dir, "layers").len(), 1);
}

#[test]
fn pinned_layers_are_not_collected() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let (layer, pin) = store.add_foreign_tar(&tar_of(&[("x", "y")])[..], None, None).unwrap();
    assert_eq!(store.collect().unwrap(), []);
    drop(pin);
    assert_eq!(store.collect().unwrap(), std::slice::from_ref(&layer.chain_id));
    assert!(!store.diff_path(&layer.chain_id).exists());
    assert_eq!(names_in(&dir, "blobs/sha256").len(), 0);
    assert_eq!(names_in(&dir, "tmp").len(), 0);
}
