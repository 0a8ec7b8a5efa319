use super::*;
use crate::version::API_VERSION;

const OLD: ApiVersion = ApiVersion { major: 1, minor: 41 };

fn image(id: &str, created: i64, tags: &[&str], parent: &str) -> ImageInfo {
    ImageInfo {
        id: id.into(),
        created: Timestamp(created * 1_000_000_000),
        repo_tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        parent: parent.into(),
        ..ImageInfo::default()
    }
}

/// `app` built on an unnamed step, `redis` elsewhere, and one dangling image.
fn some() -> Vec<ImageInfo> {
    let mut app = image("sha256:app", 30, &["app:latest", "r.io:5000/team/app:1"], "sha256:step");
    app.config.labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
    vec![
        image("sha256:step", 20, &[], ""),
        image("sha256:redis", 10, &["redis:6"], ""),
        app,
        image("sha256:dangling", 40, &[], ""),
    ]
}

fn check(filters: &str, all: bool, expect: &[&str]) {
    let filters = Filters::parse(filters).unwrap();
    filters.check(&FILTERS).unwrap();
    let find = |name: &str| {
        some().into_iter().find(|i| i.id == name).ok_or_else(|| Error::not_found(format!("No such image: {name}")))
    };
    let chosen = select(some(), all, &filters, None, find).unwrap();
    let ids: Vec<_> = chosen.iter().map(|image| image.id.trim_start_matches("sha256:")).collect();
    assert_eq!(ids, expect, "{filters:?}");
}

#[test]
fn filters_choose() {
    check("", false, &["dangling", "app", "redis"]);
    check("", true, &["dangling", "app", "step", "redis"]);
    check(r#"{"dangling":["true"]}"#, false, &["dangling"]);
    check(r#"{"dangling":["false"]}"#, false, &["app", "redis"]);
    check(r#"{"label":["a=1"]}"#, false, &["app"]);
    check(r#"{"reference":["redis"]}"#, false, &["redis"]);
    check(r#"{"reference":["re*:6"]}"#, false, &["redis"]);
    check(r#"{"reference":["re*:7"]}"#, false, &[]);
    check(r#"{"reference":["r.io:5000/*/app"]}"#, false, &["app"]);
    check(r#"{"reference":["*/app"]}"#, false, &[]);
    check(r#"{"before":["sha256:app"]}"#, false, &["redis"]);
    check(r#"{"since":["sha256:redis"]}"#, false, &["dangling", "app"]);
}

#[test]
fn a_reference_filter_hides_other_names() {
    let filters = Filters::parse(r#"{"reference":["app"]}"#).unwrap();
    let chosen = select(some(), false, &filters, None, |_| unreachable!()).unwrap();
    assert_eq!(chosen[0].repo_tags, ["app:latest"]);
}

#[test]
fn unnamed_images_have_a_placeholder_in_old_versions() {
    let image = &some()[0];
    assert_eq!(serde_json::to_value(Summary::of(image, OLD)).unwrap()["RepoTags"], json!(["<none>:<none>"]));
    let wire = serde_json::to_value(Summary::of(image, API_VERSION)).unwrap();
    assert_eq!(wire["RepoTags"], json!([]));
    assert!(wire.get("VirtualSize").is_none());
    assert_eq!((&wire["Labels"], &wire["Containers"]), (&json!(null), &json!(-1)));
}

#[test]
fn inspect_has_dockers_fields() {
    let layers = [PathBuf::from("/top"), PathBuf::from("/low")];
    let wire = serde_json::to_value(Inspect::of(&some()[2], &layers, API_VERSION)).unwrap();
    assert_eq!(wire["RootFS"], json!({"Type": "layers", "Layers": []}));
    assert_eq!(wire["GraphDriver"]["Data"], json!({"UpperDir": "/top", "LowerDir": "/low"}));
    assert_eq!(wire["Created"], "1970-01-01T00:00:30Z");
    assert_eq!(wire["Metadata"]["LastTagTime"], "0001-01-01T00:00:00Z");
}

#[test]
fn history_prints_like_dockers() {
    let wire = serde_json::to_value(History::of(&HistoryEntry::default())).unwrap();
    assert_eq!((&wire["Id"], &wire["Tags"]), (&json!("<missing>"), &json!(null)));
}

#[test]
fn shared_layers_count_once() {
    let with = |layers: &[&str], sizes: &[u64]| {
        let diff_ids = layers.iter().map(|layer| (*layer).to_owned()).collect();
        let image = ImageInfo { diff_ids, ..ImageInfo::default() };
        (image, sizes.to_vec())
    };
    let usage = layer_usage(&[with(&["base", "a"], &[10, 1]), with(&["base", "b"], &[10, 2]), with(&["b"], &[2])]);
    assert_eq!(usage, LayerUsage { total: 15, shared: vec![10, 10, 0] });
}
