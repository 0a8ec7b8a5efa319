use super::super::create;
use super::super::store::tests::tar_of;
use super::super::{NewImage, NewLayer};
use super::*;
use skep_model::Timestamp;
use skep_model::container::ContainerConfig;

const RUNNING: &str = "aaaaaaaaaaaaaaaaaaaa";

struct Place {
    _dir: tempfile::TempDir,
    store: Arc<Store>,
    /// `one:latest`, and a child of it without a name.
    one: String,
}

impl Place {
    fn new() -> Self {
        // In memory: these tests are about decisions, and every change is synced to disk.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let store = Arc::new(Store::open(dir.path().join("image")).unwrap());
        let tar = tar_of(&[("file", "content")]);
        let name = Some(create::tag_name("one").unwrap());
        let config = ContainerConfig::default();
        let one = create::import(&store, &tar[..], name, String::new(), &config, Timestamp(1), Timestamp(1)).unwrap();
        Self { _dir: dir, store, one }
    }

    fn tag(&self, name: &str) {
        let id = Digest::parse(&self.one).unwrap();
        self.store
            .change(|index| {
                index.set_reference(stored_form(Reference::parse(name)?), &id, Timestamp(2));
                Ok::<_, Error>(())
            })
            .unwrap();
    }

    fn child(&self, layer: Option<NewLayer>) -> String {
        let image = NewImage {
            parent: Some(self.one.clone()),
            layer,
            config: ContainerConfig::default(),
            created: Timestamp(3),
            created_by: "CMD x".into(),
            comment: String::new(),
            author: String::new(),
        };
        create::commit(&self.store, &image).unwrap()
    }

    fn remove(&self, name: &str, force: bool) -> Result<Vec<String>, String> {
        self.remove_used(name, force, &[])
    }

    fn remove_used(&self, name: &str, force: bool, containers: &[(&str, bool)]) -> Result<Vec<String>, String> {
        let in_use = |id: &str| {
            let used = containers.iter().map(|(id, running)| ((*id).to_owned(), *running));
            if id == self.one { used.collect() } else { Vec::new() }
        };
        let removed = remove(&self.store, name, force, &in_use).map_err(|e| e.message)?;
        Ok(removed
            .into_iter()
            .map(|line| match line {
                Removed::Untagged(name) => format!("Untagged: {name}"),
                Removed::Deleted(id) => format!("Deleted: {id}"),
            })
            .collect())
    }

    fn short(&self) -> &str {
        &self.one[7..19]
    }
}

#[test]
fn the_last_name_takes_the_image_and_its_layers_with_it() {
    let place = Place::new();
    let layer = place.store.index().find("one").unwrap().chain[0].to_string();
    let lines = place.remove("one", false).unwrap();
    assert_eq!(
        lines,
        ["Untagged: one:latest".to_owned(), format!("Deleted: {}", place.one), format!("Deleted: {layer}")]
    );
    assert_eq!(place.remove("one", false), Err("No such image: one".into()));
}

#[test]
fn one_of_several_names_only_untags() {
    let place = Place::new();
    place.tag("two:1");
    assert_eq!(place.remove("one:latest", false).unwrap(), ["Untagged: one:latest"]);
    assert!(place.store.index().find("two:1").is_ok());
}

#[test]
fn digests_go_with_the_last_tag_of_their_repository() {
    let place = Place::new();
    let digest = format!("one@{}", Digest::of(b"manifest"));
    place.tag(&digest);
    place.tag("two");
    let lines = place.remove("one", false).unwrap();
    assert_eq!(lines, ["Untagged: one:latest".to_owned(), format!("Untagged: {digest}")]);
}

#[test]
fn an_id_with_names_in_several_repositories_must_be_forced() {
    let place = Place::new();
    place.tag("two");
    let refusal = format!(
        "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
        place.short()
    );
    assert_eq!(place.remove(place.short(), false), Err(refusal));
    let lines = place.remove(&place.one, true).unwrap();
    assert_eq!(lines[..2], ["Untagged: one:latest", "Untagged: two:latest"]);
    assert_eq!(lines.len(), 4);
}

#[test]
fn a_used_image_keeps_its_last_name() {
    let place = Place::new();
    let refusal = format!(
        "conflict: unable to remove repository reference \"one\" (must force) - \
         container aaaaaaaaaaaa is using its referenced image {}",
        place.short()
    );
    assert_eq!(place.remove_used("one", false, &[(RUNNING, false)]), Err(refusal));
    // By force the name goes, but the image of a running container stays.
    assert_eq!(place.remove_used("one", true, &[(RUNNING, true)]).unwrap(), ["Untagged: one:latest"]);
    assert!(place.store.index().find(&place.one).is_ok());
}

#[test]
fn a_running_container_cannot_be_overruled() {
    let place = Place::new();
    let refusal = format!(
        "conflict: unable to delete {} (cannot be forced) - image is being used by running container aaaaaaaaaaaa",
        place.short()
    );
    assert_eq!(place.remove_used(&place.one, true, &[(RUNNING, true)]), Err(refusal));
    let refusal = format!(
        "conflict: unable to delete {} (must be forced) - image is being used by stopped container aaaaaaaaaaaa",
        place.short()
    );
    assert_eq!(place.remove_used(&place.one, false, &[(RUNNING, false)]), Err(refusal));
    assert_eq!(place.remove_used(&place.one, true, &[(RUNNING, false)]).unwrap().len(), 3);
}

#[test]
fn parents_without_names_go_with_their_last_child() {
    let place = Place::new();
    let child = place.child(None);
    let refusal =
        format!("conflict: unable to delete {} (cannot be forced) - image has dependent child images", place.short());
    assert_eq!(place.remove(&place.one, true), Err(refusal));
    // The name of the parent may go; the parent itself is needed.
    assert_eq!(place.remove("one", false).unwrap(), ["Untagged: one:latest"]);
    let lines = place.remove(&child, false).unwrap();
    assert_eq!(lines[..2], [format!("Deleted: {child}"), format!("Deleted: {}", place.one)]);
    assert_eq!(lines.len(), 3);
}

#[test]
fn layers_that_others_use_stay() {
    let place = Place::new();
    let child = place.child(None);
    let lines = place.remove(&child, false).unwrap();
    assert_eq!(lines, [format!("Deleted: {child}")]);
    let index = place.store.index();
    let image = index.find("one").unwrap();
    assert!(place.store.diff_path(&image.chain[0]).join("file").exists());
}

#[test]
fn history_names_the_images_that_are_known() {
    let place = Place::new();
    let child = place.child(None);
    let index = place.store.index();
    let entries = super::super::history::history(&index, index.find(&child).unwrap());
    let lines: Vec<_> = entries.iter().map(|e| (e.id.as_str(), e.created_by.as_str(), e.size, e.tags.len())).collect();
    assert_eq!(lines, [(child.as_str(), "CMD x", 0, 0), (place.one.as_str(), "", 7, 1)]);
}
