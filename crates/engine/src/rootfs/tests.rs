use super::*;
use rustix::fs::Mode;

fn write(path: PathBuf, content: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path().join("low/etc/keep"), "low");
        write(dir.path().join("low/etc/gone"), "low");
        write(dir.path().join("low/dir/old"), "low");
        write(dir.path().join("high/etc/high"), "high");
        Self { dir }
    }

    fn lower(&self) -> Vec<PathBuf> {
        vec![self.dir.path().join("high"), self.dir.path().join("low")]
    }

    fn create(&self) -> Rootfs {
        Rootfs::create(self.dir.path(), "c1").unwrap()
    }
}

fn is_mounted(path: &Path) -> bool {
    let path = path.to_str().unwrap();
    std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(path)
}

#[test]
fn a_mount_shows_all_layers_and_writes_to_the_upper_one() {
    let place = Place::new();
    let rootfs = place.create();
    let seen = rootfs.with_mounted(&place.lower(), |root| {
        std::fs::write(root.join("etc/new"), "new").unwrap();
        assert!(!is_mounted(&rootfs.merged), "nobody else sees the mount");
        Ok(std::fs::read_to_string(root.join("etc/high")).unwrap()
            + &std::fs::read_to_string(root.join("etc/keep")).unwrap())
    });
    assert_eq!(seen.unwrap(), "highlow");
    assert_eq!(std::fs::read_to_string(rootfs.upper.join("etc/new")).unwrap(), "new");
    assert_eq!(rootfs.size().unwrap(), 3);
    let failed: Result<()> = rootfs.with_mounted(&place.lower(), |_| Err(Error::internal("no")));
    assert!(failed.is_err() && !is_mounted(&rootfs.merged));
    Rootfs::remove(place.dir.path(), "c1").unwrap();
    assert!(!rootfs.upper.exists());
    Rootfs::remove(place.dir.path(), "c1").unwrap();
}

#[test]
fn changes_are_listed_as_docker_does() {
    let place = Place::new();
    let rootfs = place.create();
    rootfs
        .with_mounted(&place.lower(), |root| {
            std::fs::remove_file(root.join("etc/gone")).unwrap();
            std::fs::write(root.join("etc/keep"), "changed").unwrap();
            std::fs::write(root.join("etc/new"), "new").unwrap();
            std::fs::remove_dir_all(root.join("dir")).unwrap();
            std::fs::create_dir(root.join("dir")).unwrap();
            std::fs::write(root.join("dir/fresh"), "").unwrap();
            Ok(())
        })
        .unwrap();
    let changes = rootfs.changes(&place.lower()).unwrap();
    let lines: Vec<String> = changes.iter().map(|c| format!("{:?} {}", c.kind, c.path)).collect();
    assert_eq!(
        lines,
        [
            "Modified /dir",
            "Added /dir/fresh",
            "Deleted /dir/old",
            "Modified /etc",
            "Deleted /etc/gone",
            "Modified /etc/keep",
            "Added /etc/new",
        ]
    );
}

#[test]
fn many_layers_can_be_mounted() {
    let dir = tempfile::tempdir().unwrap();
    let lower: Vec<PathBuf> = (0..120).map(|n| dir.path().join(format!("{n}-{}", "x".repeat(100)))).collect();
    for (n, path) in lower.iter().enumerate() {
        write(path.join(n.to_string()), "");
    }
    let at = dir.path().join("at");
    std::fs::create_dir(&at).unwrap();
    let mounted = mount_layers(&lower, &at).unwrap();
    assert_eq!(std::fs::read_dir(mounted.path()).unwrap().count(), 120);
    drop(mounted);
    assert!(!is_mounted(&at));
    assert_eq!(std::fs::read_dir(mount_layers(&lower[..1], &at).unwrap().path()).unwrap().count(), 1);
}

#[test]
fn paths_with_separators_are_mounted() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("a:b,c\\d");
    write(place.join("low/file"), "x");
    let rootfs = Rootfs::create(&place, "c1").unwrap();
    let entries = rootfs.with_mounted(&[place.join("low")], |root| Ok(std::fs::read_dir(root).unwrap().count()));
    assert_eq!(entries.unwrap(), 1);
}

#[test]
fn an_overlay_as_data_root_is_refused_with_a_reason() {
    let place = Place::new();
    let rootfs = place.create();
    let error = rootfs.with_mounted(&place.lower(), |root| Rootfs::create(root, "c2")).unwrap_err();
    assert!(error.message.contains("is on overlayfs"), "{error}");
}

#[test]
fn whiteouts_of_nothing_are_no_change() {
    let place = Place::new();
    let rootfs = place.create();
    let gone = rootfs.upper.join("never");
    rustix::fs::mknodat(rustix::fs::CWD, gone, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    assert_eq!(rootfs.changes(&place.lower()).unwrap(), []);
}
