use super::*;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use tar::{Builder, Header};

/// A tar under construction, able to hold what `tar::Builder` refuses to write.
struct Tar(Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn raw(mut self, name: &[u8], kind: EntryType, link: &[u8], data: &[u8], change: impl Fn(&mut Header)) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1000);
        change(&mut header);
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    fn file(self, name: &str, data: &str) -> Self {
        self.raw(name.as_bytes(), EntryType::Regular, b"", data.as_bytes(), |_| {})
    }

    fn dir(self, name: &str) -> Self {
        self.raw(name.as_bytes(), EntryType::Directory, b"", b"", |h| h.set_mode(0o750))
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(name.as_bytes(), EntryType::Symlink, target.as_bytes(), b"", |_| {})
    }

    fn hard_link(self, name: &str, target: &str) -> Self {
        self.raw(name.as_bytes(), EntryType::Link, target.as_bytes(), b"", |_| {})
    }

    fn pax<'a>(mut self, pairs: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        self.0.append_pax_extensions(pairs).unwrap();
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A root with a neighbour that must never change.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::fs::write(dir.path().join("outside/secret"), "untouched").unwrap();
        Self { dir }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    fn unpack(&self, tar: Tar) -> ImageResult<Unpacked> {
        let result = unpack(&tar.bytes()[..], &self.at(""));
        let outside: Vec<_> = std::fs::read_dir(self.dir.path().join("outside")).unwrap().collect();
        assert_eq!(outside.len(), 1, "something was written outside of the root");
        assert_eq!(std::fs::read_to_string(self.dir.path().join("outside/secret")).unwrap(), "untouched");
        assert_eq!(std::fs::read_dir(self.dir.path()).unwrap().count(), 2);
        result
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.at(path)).unwrap()
    }
}

fn check_refused(tar: Tar, text: &str) {
    let place = Place::new();
    let error = place.unpack(tar).unwrap_err().to_string();
    assert!(error.contains(text), "{error}");
}

#[test]
fn names_that_climb_out_are_refused() {
    for name in ["../x", "../outside/secret", "a/../../x", "/../x", "./../x"] {
        check_refused(Tar::new().file(name, "evil"), "is outside of the archive's root");
    }
    check_refused(Tar::new().raw(b"..", EntryType::Directory, b"", b"", |_| {}), "is outside");
    check_refused(Tar::new().pax([("path", &b"../../x"[..])]).file("a", "evil"), "is outside");
}

#[test]
fn hard_links_that_climb_out_are_refused() {
    check_refused(Tar::new().hard_link("a", "../outside/secret"), "is outside");
    check_refused(Tar::new().hard_link("a", "b/../../outside/secret"), "is outside");
}

#[test]
fn absolute_names_and_hard_link_targets_are_inside_the_root() {
    let place = Place::new();
    place.unpack(Tar::new().file("/etc/passwd", "mine").hard_link("/b", "/etc/passwd")).unwrap();
    assert_eq!(place.read("etc/passwd"), "mine");
    assert_eq!(place.read("b"), "mine");
    assert_eq!(place.at("b").metadata().unwrap().nlink(), 2);
    check_refused(Tar::new().hard_link("a", "/etc/hostname"), "/");
}

#[test]
fn planted_symlinks_lead_nowhere_but_into_the_root() {
    let place = Place::new();
    let outside = place.dir.path().join("outside");
    let outside = outside.to_str().unwrap();
    // Through an absolute link: the same path below the root, made on the way if missing.
    let tar = Tar::new().symlink("l", outside).file("l/secret", "evil");
    assert!(place.unpack(tar).is_err());
    let place = Place::new();
    place.unpack(Tar::new().symlink("l", "../outside").dir("outside").file("l/secret", "evil")).unwrap();
    assert_eq!(place.read("outside/secret"), "evil");
    // A chain of links, and one that climbs many levels.
    let place = Place::new();
    let tar = Tar::new().symlink("a", "../../../../../../..").symlink("b", "a").file("b/x", "1");
    place.unpack(tar).unwrap();
    assert_eq!(place.read("x"), "1");
}

#[test]
fn writing_onto_a_symlink_replaces_the_link() {
    let place = Place::new();
    let target = place.dir.path().join("outside/secret");
    let tar = Tar::new().symlink("l", target.to_str().unwrap()).file("l", "evil");
    place.unpack(tar).unwrap();
    assert_eq!(place.read("l"), "evil");
    assert!(place.at("l").symlink_metadata().unwrap().is_file());
    // The same with a directory over a link, and attributes for it.
    let place = Place::new();
    place.unpack(Tar::new().symlink("l", "../outside").dir("l").file("l/new", "1")).unwrap();
    assert!(place.at("l").symlink_metadata().unwrap().is_dir());
}

#[test]
fn a_hard_link_through_a_planted_symlink_stays_inside() {
    check_refused(Tar::new().symlink("l", "../outside").hard_link("x", "l/secret"), "l/secret");
    // To a link itself: links the link, not what it points at.
    let place = Place::new();
    place.unpack(Tar::new().symlink("l", "../outside/secret").hard_link("x", "l").file("x", "1")).unwrap();
    assert_eq!(place.read("x"), "1");
}

#[test]
fn magic_links_and_loops_are_errors() {
    check_refused(Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", "1"), "a/x");
    check_refused(Tar::new().symlink("p", "/proc/self/root/tmp").file("p/x", "1"), "p/x");
}

#[test]
fn overlay_attributes_in_a_tar_are_not_taken_over() {
    let place = Place::new();
    let pairs = [("SCHILY.xattr.trusted.overlay.redirect", &b"/etc"[..]), ("SCHILY.xattr.user.a", b"1\0\n=")];
    place.unpack(Tar::new().pax(pairs).dir("d")).unwrap();
    assert_eq!(xattr::get(place.at("d"), "trusted.overlay.redirect").unwrap(), None);
    assert_eq!(xattr::get(place.at("d"), "user.a").unwrap().as_deref(), Some(&b"1\0\n="[..]));
}

#[test]
fn truncated_and_garbage_tars_are_errors() {
    let whole = Tar::new().file("a", &"x".repeat(2000)).bytes();
    for length in [1, 100, 511, 513, 1000, 2511] {
        let place = Place::new();
        assert!(unpack(&whole[..length], &place.at("")).is_err(), "{length}");
    }
    let place = Place::new();
    assert!(unpack(&[7_u8; 4096][..], &place.at("")).is_err());
}

#[test]
fn oversized_metadata_is_refused_before_it_fills_memory() {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    let stream = io::Cursor::new(header.as_bytes().to_vec()).chain(io::repeat(b'a'));
    let place = Place::new();
    let error = unpack(stream, &place.at("")).unwrap_err().to_string();
    assert!(error.contains("metadata of one entry is too large"), "{error}");
}

#[test]
fn a_sparse_bomb_is_refused() {
    let tar = Tar::new().raw(b"bomb", EntryType::GNUSparse, b"", b"", |header| {
        let gnu = header.as_gnu_mut().unwrap();
        gnu.sparse[0].set_offset(1 << 50);
        gnu.sparse[0].set_length(0);
        gnu.set_real_size(1 << 50);
    });
    check_refused(tar, "larger than");
    let tar = Tar::new().raw(b"bomb", EntryType::GNUSparse, b"", b"", |header| {
        let gnu = header.as_gnu_mut().unwrap();
        gnu.sparse[0].set_offset(100 << 30);
        gnu.sparse[0].set_length(0);
        gnu.set_real_size(100 << 30);
    });
    check_refused(tar, "sparse files are larger than");
}

#[test]
fn sparse_files_keep_their_holes() {
    let tar = Tar::new().raw(b"holes", EntryType::GNUSparse, b"", &[1_u8; 512], |header| {
        let gnu = header.as_gnu_mut().unwrap();
        gnu.sparse[0].set_offset(64 << 20);
        gnu.sparse[0].set_length(512);
        gnu.set_real_size((64 << 20) + 512);
    });
    let place = Place::new();
    place.unpack(tar).unwrap();
    let metadata = place.at("holes").metadata().unwrap();
    assert_eq!(metadata.len(), (64 << 20) + 512);
    assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
}

#[test]
fn owners_modes_times_and_kinds_are_kept() {
    let tar = Tar::new()
        .raw(b"d", EntryType::Directory, b"", b"", |h| h.set_mode(0o1777))
        .pax([("mtime", &b"1234.5"[..])])
        .raw(b"d/suid", EntryType::Regular, b"", b"x", |h| {
            h.set_mode(0o6755);
            h.set_uid(1001);
            h.set_gid(1002);
        })
        .raw(b"d/null", EntryType::Char, b"", b"", |h| {
            h.set_device_major(1).unwrap();
            h.set_device_minor(3).unwrap();
            h.set_mode(0o666);
        })
        .raw(b"d/fifo", EntryType::Fifo, b"", b"", |h| h.set_mode(0o622))
        .symlink("d/l", "/nowhere");
    let place = Place::new();
    let unpacked = place.unpack(tar).unwrap();
    assert_eq!((unpacked.size, unpacked.entries), (1, 5));
    let suid = place.at("d/suid").metadata().unwrap();
    assert_eq!((suid.mode() & 0o7777, suid.uid(), suid.gid()), (0o6755, 1001, 1002));
    assert_eq!((suid.mtime(), suid.mtime_nsec()), (1234, 500_000_000));
    let null = place.at("d/null").metadata().unwrap();
    assert!(null.file_type().is_char_device());
    assert_eq!((null.rdev(), null.mode() & 0o777), (0x103, 0o666));
    assert!(place.at("d/fifo").metadata().unwrap().file_type().is_fifo());
    assert_eq!(place.at("d/l").symlink_metadata().unwrap().mtime(), 1000);
    let d = place.at("d").metadata().unwrap();
    assert_eq!((d.permissions().mode() & 0o7777, d.mtime()), (0o1777, 1000));
}

#[test]
fn whiteouts_become_overlay_marks() {
    let tar = Tar::new().dir("d").file("d/.wh.gone", "").file("d/.wh..wh..opq", "").file(".wh..wh.plnk", "");
    let place = Place::new();
    place.unpack(tar).unwrap();
    let gone = place.at("d/gone").symlink_metadata().unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert_eq!(xattr::get(place.at("d"), whiteout::OPAQUE_XATTR).unwrap().as_deref(), Some(&b"y"[..]));
    assert_eq!(std::fs::read_dir(place.at("")).unwrap().count(), 1);
    check_refused(Tar::new().file(".wh...", ""), "not a legal whiteout");
}

#[test]
fn a_whiteout_hides_only_the_layers_below() {
    for tar in [
        Tar::new().file("f", "new").file(".wh.f", "").dir("d").file("d/x", "1").file(".wh.d", ""),
        Tar::new().file(".wh.f", "").file("f", "new").file(".wh.d", "").dir("d").file("d/x", "1"),
    ] {
        let place = Place::new();
        place.unpack(tar).unwrap();
        assert_eq!((place.read("f"), place.read("d/x")), ("new".into(), "1".into()));
        assert_eq!(xattr::get(place.at("d"), whiteout::OPAQUE_XATTR).unwrap().as_deref(), Some(&b"y"[..]));
    }
}

#[test]
fn later_entries_replace_earlier_ones() {
    let place = Place::new();
    place.unpack(Tar::new().dir("d").file("d/x", "1").file("d", "now a file").file("d", "again")).unwrap();
    assert_eq!(place.read("d"), "again");
    let place = Place::new();
    place.unpack(Tar::new().dir("d").file("d/x", "1").dir("d").file("d/y", "2")).unwrap();
    assert_eq!((place.read("d/x"), place.read("d/y")), ("1".into(), "2".into()));
}

#[test]
fn an_empty_archive_is_an_empty_layer() {
    let place = Place::new();
    assert_eq!(place.unpack(Tar::new()).unwrap(), Unpacked::default());
    assert_eq!(unpack(&b""[..], &place.at("")).unwrap(), Unpacked::default());
}

#[test]
fn times_of_pax_headers() {
    let check = |text: &str, expect: Option<(i64, i64)>| {
        let time = parse_time(text.as_bytes()).map(|t| (t.tv_sec, t.tv_nsec));
        assert_eq!(time, expect, "{text}");
    };
    check("1.5", Some((1, 500_000_000)));
    check("1.1234567891", Some((1, 123_456_789)));
    check("7", Some((7, 0)));
    check("-1.5", Some((-2, 500_000_000)));
    check("x", None);
    check("1.x", None);
}

mod random {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let place = Place::new();
            let _ = unpack(&bytes[..], &place.at(""));
        }

        #[test]
        fn damaged_tars_never_panic_nor_leave_the_root(
            changes in proptest::collection::vec((0_usize..4096, any::<u8>()), 1..12),
        ) {
            let tar = Tar::new().pax([("mtime", &b"1.5"[..])]).dir("d").symlink("d/l", "../outside").file("d/f", "x");
            let mut bytes = tar.hard_link("h", "d/f").file("d/.wh.x", "").bytes();
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
                // A right checksum lets the damage through to the parts behind it.
                let block = at / 512 * 512;
                let sum: u32 = bytes[block..block + 512]
                    .iter()
                    .enumerate()
                    .map(|(n, b)| if (148..156).contains(&n) { 32 } else { u32::from(*b) })
                    .sum();
                bytes[block + 148..block + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
            let place = Place::new();
            let _ = unpack(&bytes[..], &place.at(""));
            prop_assert_eq!(std::fs::read_dir(place.dir.path().join("outside")).unwrap().count(), 1);
            prop_assert_eq!(std::fs::read_dir(place.dir.path()).unwrap().count(), 2);
        }
    }
}
