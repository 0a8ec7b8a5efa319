use super::super::store::tests::tar_of;
use super::*;
use tokio::sync::mpsc;

struct Place {
    dir: tempfile::TempDir,
    store: Arc<Store>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path().join("image")).unwrap());
        Self { dir, store }
    }

    fn load(&self, files: &[(&str, &[u8])]) -> Result<Vec<String>, String> {
        self.load_bytes(&archive(files))
    }

    fn load_bytes(&self, bytes: &[u8]) -> Result<Vec<String>, String> {
        let (progress, _receiver) = mpsc::channel(100);
        let loaded = load(&self.store, bytes, &progress, Timestamp(1)).map_err(|e| e.to_string());
        let left = std::fs::read_dir(self.dir.path().join("image/tmp")).unwrap().count();
        assert_eq!(left, 0, "temporary files stay");
        loaded
    }

    fn count(&self, below: &str) -> usize {
        std::fs::read_dir(self.dir.path().join("image").join(below)).unwrap().count()
    }
}

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        builder.append_data(&mut header, name, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn config_of(layers: &[&[u8]]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    format!(
        r#"{{"os":"linux","architecture":"amd64","config":{{}},"rootfs":{{"type":"layers","diff_ids":{diff_ids:?}}}}}"#
    )
    .into_bytes()
}

const DOCKER: &[u8] = br#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["1/layer.tar","2/layer.tar"]}]"#;

#[test]
fn a_docker_archive_in_any_order_with_plain_and_gzip_layers() {
    let (one, two) = (tar_of(&[("one", "1")]), tar_of(&[("two", "2")]));
    let (config, zipped) = (config_of(&[&one, &two]), gzip(&two));
    let files: [(&str, &[u8]); 4] =
        [("2/layer.tar", &zipped), ("manifest.json", DOCKER), ("./1/layer.tar", &one), ("c.json", &config)];
    let place = Place::new();
    assert_eq!(place.load(&files).unwrap(), ["a:1"]);
    assert_eq!(place.load_bytes(&gzip(&archive(&files))).unwrap(), ["a:1"]);
    let index = place.store.index();
    let image = index.find("a:1").unwrap();
    assert_eq!(image.id, Digest::of(&config));
    assert!(place.store.diff_path(&image.chain[1]).join("two").exists());
    // The gzip layer is kept as it came.
    assert!(place.store.has_blob(&Digest::of(&zipped)));
}

#[test]
fn an_oci_layout_with_an_index_inside_the_index() {
    let layer = tar_of(&[("one", "1")]);
    let (config, zipped) = (config_of(&[&layer]), gzip(&layer));
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
    let describe =
        |bytes: &[u8], more: &str| format!(r#"{{"digest":"{}","size":{}{more}}}"#, Digest::of(bytes), bytes.len());
    let manifest =
        format!(r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#, describe(&config, ""), describe(&zipped, ""));
    let platform =
        format!(r#","platform":{{"os":"linux","architecture":"{}"}}"#, skep_model::image::host_architecture());
    let inner = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, describe(manifest.as_bytes(), &platform));
    let name = r#","annotations":{"io.containerd.image.name":"docker.io/library/oci:2"}"#;
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, describe(inner.as_bytes(), name));
    let files: [(&str, &[u8]); 6] = [
        ("oci-layout", b"{}"),
        ("index.json", index.as_bytes()),
        (&blob(inner.as_bytes()), inner.as_bytes()),
        (&blob(manifest.as_bytes()), manifest.as_bytes()),
        (&blob(&config), &config),
        (&blob(&zipped), &zipped),
    ];
    let place = Place::new();
    assert_eq!(place.load(&files).unwrap(), ["oci:2"]);
}

fn check_refused(files: &[(&str, &[u8])], text: &str) {
    let place = Place::new();
    let error = place.load(files).unwrap_err();
    assert!(error.contains(text), "{error}");
    assert_eq!((place.count("layers"), place.count("blobs/sha256")), (0, 0), "{text}");
}

#[test]
fn bad_archives_are_refused_and_leave_nothing() {
    let (one, two) = (tar_of(&[("one", "1")]), tar_of(&[("two", "2")]));
    let config = config_of(&[&one, &two]);
    check_refused(&[("x", b"")], "neither a manifest.json nor an index.json");
    check_refused(&[("manifest.json", b"{")], "manifest.json");
    check_refused(&[("manifest.json", DOCKER)], "\"c.json\" is missing");
    check_refused(
        &[("manifest.json", DOCKER), ("c.json", &config), ("1/layer.tar", &one)],
        "\"2/layer.tar\" is missing",
    );
    let wrong: [(&str, &[u8]); 4] =
        [("manifest.json", DOCKER), ("c.json", &config), ("1/layer.tar", &one), ("2/layer.tar", &one)];
    check_refused(&wrong, "does not match its digest");
    let garbage = gzip(b"garbage");
    let wrong: [(&str, &[u8]); 4] =
        [("manifest.json", DOCKER), ("c.json", &config), ("1/layer.tar", &one), ("2/layer.tar", &garbage)];
    check_refused(&wrong, "invalid tar");
    let short = config_of(&[&one]);
    check_refused(&[("manifest.json", DOCKER), ("c.json", &short)], "layers length mismatch: expected 1, got 2");
    check_refused(&[("manifest.json", br#"[{"Config":"../../etc/passwd","Layers":[]}]"#)], "outside");
}

#[test]
fn links_in_an_archive_never_leave_it() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "c.json", "/etc/passwd").unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(DOCKER.len() as u64);
    builder.append_data(&mut header, "manifest.json", DOCKER).unwrap();
    let error = Place::new().load_bytes(&builder.into_inner().unwrap()).unwrap_err();
    assert!(error.contains("\"c.json\" is missing"), "{error}");
}

#[test]
fn a_cut_archive_is_an_error() {
    let one = tar_of(&[("one", "1")]);
    let whole = archive(&[("1/layer.tar", &one), ("manifest.json", DOCKER)]);
    for length in [0, 100, 600, 1000, 2000] {
        assert!(Place::new().load_bytes(&whole[..length]).is_err(), "{length}");
    }
    let zipped = gzip(&whole);
    assert!(Place::new().load_bytes(&zipped[..zipped.len() / 2]).is_err());
}

mod random {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        #[test]
        fn random_archives_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..2048),
            manifest in "[\\[\\]{}\":,a-zA-Z0-9./]{0,200}",
        ) {
            let place = Place::new();
            let _ = place.load_bytes(&bytes);
            let _ = place.load(&[("manifest.json", manifest.as_bytes()), ("index.json", &bytes)]);
            let _ = place.load(&[("index.json", manifest.as_bytes())]);
            let config: [(&str, &[u8]); 3] = [("manifest.json", DOCKER), ("c.json", &bytes), ("1/layer.tar", &bytes)];
            prop_assert!(place.load(&config).is_err());
            prop_assert_eq!(place.count("layers"), 0);
        }
    }
}
