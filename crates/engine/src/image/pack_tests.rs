use super::super::unpack::unpack;
use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

fn entries(tar: &[u8]) -> Vec<(String, EntryType)> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        (String::from_utf8_lossy(&entry.path_bytes()).into_owned(), entry.header().entry_type())
    });
    entries.collect()
}

fn packed(directory: &Path) -> Vec<u8> {
    pack(directory, Marks::ToWhiteouts, Vec::new()).unwrap()
}

fn unpacked(tar: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    unpack(tar, dir.path()).unwrap();
    dir
}

fn whiteout_at(path: &Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
}

/// A directory with one of everything.
fn zoo() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir_all(at("d/opaque")).unwrap();
    std::fs::write(at("d/file"), "content").unwrap();
    std::fs::set_permissions(at("d/file"), std::fs::Permissions::from_mode(0o6751)).unwrap();
    std::os::unix::fs::chown(at("d/file"), Some(3_000_000), Some(7)).unwrap();
    std::fs::set_permissions(at("d/file"), std::fs::Permissions::from_mode(0o6751)).unwrap();
    std::fs::hard_link(at("d/file"), at("a-second-name")).unwrap();
    xattr::set(at("d/file"), "user.binary", b"\n\0=x\n").unwrap();
    xattr::set(at("d/file"), "user.a", b"").unwrap();
    symlink("../odd//target/.", at("d/link")).unwrap();
    symlink("t".repeat(300), at(&"l".repeat(200))).unwrap();
    std::fs::write(at(&format!("d/{}\n", "n".repeat(150))), "long").unwrap();
    whiteout_at(&at("d/gone"));
    // user::rwx, user 1001: r-x, group::r-x, mask::r-x, other::---, for all that is made in it.
    let entry = |tag: u16, permissions: u16, id: u32| {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let none = u32::MAX;
    let list = [(1, 7, none), (2, 5, 1001), (4, 5, none), (16, 5, none), (32, 0, none)];
    let list: Vec<u8> = list.iter().flat_map(|(tag, permissions, id)| entry(*tag, *permissions, *id)).collect();
    xattr::set(at("d"), "system.posix_acl_default", &[&2_u32.to_le_bytes()[..], &list].concat()).unwrap();
    xattr::set(at("d/opaque"), whiteout::OPAQUE_XATTR, b"y").unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    dir
}

#[test]
fn packing_the_unpacked_gives_the_same_bytes() {
    let zoo = zoo();
    let first = packed(zoo.path());
    let copy = unpacked(&first);
    // A mark of deletion is older in one copy than in the other.
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 5, tv_nsec: 0 },
        last_modification: rustix::fs::Timespec { tv_sec: 5, tv_nsec: 0 },
    };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, copy.path().join("d/gone"), &times, flags).unwrap();
    assert_eq!(packed(copy.path()), first);
    let file = copy.path().join("d/file").metadata().unwrap();
    assert_eq!((file.mode() & 0o7777, file.uid(), file.gid(), file.nlink()), (0o6751, 3_000_000, 7, 2));
    assert_eq!(xattr::get(copy.path().join("d/file"), "user.binary").unwrap().as_deref(), Some(&b"\n\0=x\n"[..]));
    assert_eq!(std::fs::read_link(copy.path().join("d/link")).unwrap().as_os_str(), "../odd//target/.");
}

#[test]
fn deletions_become_whiteout_names_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("d")).unwrap();
    whiteout_at(&dir.path().join("d/gone"));
    xattr::set(dir.path().join("d"), whiteout::OPAQUE_XATTR, b"y").unwrap();
    let tar = packed(dir.path());
    let names: Vec<String> = entries(&tar).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["d/", "d/.wh..wh..opq", "d/.wh.gone"]);
    let copy = unpacked(&tar);
    assert_eq!(copy.path().join("d/gone").symlink_metadata().unwrap().rdev(), 0);
    assert_eq!(xattr::get(copy.path().join("d"), whiteout::OPAQUE_XATTR).unwrap().as_deref(), Some(&b"y"[..]));
}

#[test]
fn the_first_name_is_the_file_and_others_are_links() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("b"), "x").unwrap();
    std::fs::hard_link(dir.path().join("b"), dir.path().join("a")).unwrap();
    let expect = [("a".to_owned(), EntryType::Regular), ("b".to_owned(), EntryType::Link)];
    assert_eq!(entries(&packed(dir.path())), expect);
}

#[test]
fn names_that_would_mean_deletion_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(".wh.x"), "").unwrap();
    let error = pack(dir.path(), Marks::ToWhiteouts, Vec::new()).unwrap_err().to_string();
    assert!(error.contains(".wh.x"), "{error}");
    assert_eq!(entries(&pack(dir.path(), Marks::None, Vec::new()).unwrap()).len(), 1);
}

#[test]
fn half_directories_of_overlayfs_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("renamed")).unwrap();
    xattr::set(dir.path().join("renamed"), "trusted.overlay.redirect", b"/old").unwrap();
    assert!(pack(dir.path(), Marks::ToWhiteouts, Vec::new()).is_err());
}

#[test]
fn sockets_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
    assert_eq!(entries(&packed(dir.path())), []);
}
