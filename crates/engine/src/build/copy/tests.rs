//! On real overlays, as root.

use super::super::context;
use super::super::space;
use super::*;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use tempfile::TempDir;

/// A context directory, image layers and a step.
struct Bench {
    dir: TempDir,
    layers: Vec<PathBuf>,
    steps: usize,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("context")).unwrap();
        Self { dir, layers: Vec::new(), steps: 0 }
    }

    fn context(&self, path: &str) -> PathBuf {
        self.dir.path().join("context").join(path)
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.context(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Puts a layer on top and returns it to be filled.
    fn layer(&mut self) -> PathBuf {
        let layer = self.dir.path().join(format!("layer{}", self.layers.len()));
        fs::create_dir(&layer).unwrap();
        fs::set_permissions(&layer, fs::Permissions::from_mode(0o755)).unwrap();
        self.layers.insert(0, layer.clone());
        layer
    }

    fn request(&self, keyword: &'static str, sources: &[&str], destination: &str) -> Request {
        Request {
            keyword,
            origin: Origin::Context(SourceTree::open(&self.context(""), true).unwrap()),
            wanted: sources.iter().map(|s| Wanted::Path((*s).to_owned())).collect(),
            destination: destination.to_owned(),
            chown: None,
            chmod: None,
            unpack: None,
            excludes: Vec::new(),
            layers: self.layers.clone(),
        }
    }

    /// The upper directory and the digest.
    async fn run(&mut self, request: Request) -> Result<(PathBuf, String), String> {
        self.steps += 1;
        let directory = self.dir.path().join(format!("step{}", self.steps));
        let upper = directory.join("upper");
        let outcome = space::run(move |space| {
            let make_dirs = || {
                fs::create_dir(&directory).unwrap();
                StepDirs::create(&directory)
            };
            super::run(space, &request, make_dirs, |_| None::<()>)
        })
        .await;
        match outcome {
            Ok(Outcome::Copied { digest }) => Ok((upper, digest)),
            Ok(Outcome::Known(())) => unreachable!("nothing is known"),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn copy(&mut self, sources: &[&str], destination: &str) -> Result<PathBuf, String> {
        let request = self.request("COPY", sources, destination);
        self.run(request).await.map(|(upper, _)| upper)
    }
}

fn text(path: PathBuf) -> String {
    fs::read_to_string(path).unwrap()
}

#[tokio::test]
async fn files_go_to_a_name_or_into_a_directory() {
    let mut bench = Bench::new();
    fs::create_dir(bench.layer().join("etc")).unwrap();
    bench.write("a", "A");
    assert_eq!(text(bench.copy(&["a"], "/new/name").await.unwrap().join("new/name")), "A");
    assert_eq!(text(bench.copy(&["a"], "/dir/").await.unwrap().join("dir/a")), "A");
    assert_eq!(text(bench.copy(&["/a"], "/etc").await.unwrap().join("etc/a")), "A");
    let upper = bench.copy(&["a"], "/x").await.unwrap();
    assert_eq!(fs::metadata(upper.join("x")).unwrap().uid(), 0);
}

#[tokio::test]
async fn directories_give_their_content_with_links_and_modes() {
    let mut bench = Bench::new();
    bench.write("d/f", "F");
    bench.write("d/sub/g", "G");
    symlink("f", bench.context("d/link")).unwrap();
    fs::set_permissions(bench.context("d/f"), fs::Permissions::from_mode(0o4711)).unwrap();
    let upper = bench.copy(&["d"], "/to").await.unwrap();
    assert_eq!(fs::metadata(upper.join("to/f")).unwrap().mode() & 0o7777, 0o4711);
    assert_eq!(text(upper.join("to/sub/g")), "G");
    assert_eq!(fs::read_link(upper.join("to/link")).unwrap(), Path::new("f"));
    let times = |path: PathBuf| fs::metadata(path).unwrap().modified().unwrap();
    assert_eq!(times(upper.join("to/sub")), times(bench.context("d/sub")));
}

#[tokio::test]
async fn patterns_and_lists_need_a_directory() {
    let mut bench = Bench::new();
    bench.write("a1.txt", "1");
    bench.write("a2.txt", "2");
    let upper = bench.copy(&["a?.txt"], "/d/").await.unwrap();
    assert_eq!((text(upper.join("d/a1.txt")), text(upper.join("d/a2.txt"))), ("1".into(), "2".into()));
    assert_eq!(
        bench.copy(&["a1.txt", "a2.txt"], "/d").await.unwrap_err(),
        "COPY failed: When using COPY with more than one source file, the destination must be a directory and end with a /"
    );
    assert_eq!(bench.copy(&["b*"], "/d/").await.unwrap_err(), "COPY failed: no source files were specified");
}

#[tokio::test]
async fn what_is_not_in_the_context_is_named() {
    let mut bench = Bench::new();
    symlink("/etc/passwd", bench.context("out")).unwrap();
    symlink("..", bench.context("up")).unwrap();
    let missing = |name: &str| {
        format!(
            "COPY failed: file not found in build context or excluded by .dockerignore: stat {name}: file does not exist"
        )
    };
    assert_eq!(bench.copy(&["nope"], "/x").await.unwrap_err(), missing("nope"));
    // A link never leads out of the context.
    assert_eq!(bench.copy(&["out"], "/x").await.unwrap_err(), missing("out"));
    assert_eq!(bench.copy(&["up/up/etc"], "/x").await.unwrap_err(), missing("up/up/etc"));
    let error = bench.copy(&["../x"], "/x").await.unwrap_err();
    assert_eq!(error, "COPY failed: forbidden path outside the build context: ../x ()");
}

#[tokio::test]
async fn links_of_the_image_do_not_lead_out_of_it() {
    let mut bench = Bench::new();
    let outside = bench.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let layer = bench.layer();
    symlink(&outside, layer.join("absolute")).unwrap();
    symlink("../../../..", layer.join("up")).unwrap();
    fs::create_dir_all(layer.join("real")).unwrap();
    symlink("/real", layer.join("inside")).unwrap();
    bench.write("f", "F");
    let upper = bench.copy(&["f"], "/absolute/").await.unwrap();
    assert!(fs::read_dir(&outside).unwrap().next().is_none());
    assert!(upper.join(outside.strip_prefix("/").unwrap()).join("f").exists());
    assert!(bench.copy(&["f"], "/up/f").await.unwrap().join("f").exists());
    assert!(bench.copy(&["f"], "/inside/").await.unwrap().join("real/f").exists());
}

#[tokio::test]
async fn directories_and_files_do_not_replace_each_other() {
    let mut bench = Bench::new();
    let layer = bench.layer();
    fs::write(layer.join("file"), "old").unwrap();
    fs::create_dir_all(layer.join("d/f")).unwrap();
    bench.write("f", "new");
    bench.write("s/x", "X");
    assert_eq!(text(bench.copy(&["f"], "/file").await.unwrap().join("file")), "new");
    assert_eq!(bench.copy(&["s"], "/file").await.unwrap_err(), "COPY failed: cannot copy to non-directory: /file");
    bench.write("t/f", "T");
    assert!(bench.copy(&["t"], "/d/").await.unwrap_err().contains("cannot overwrite directory /d/f"));
}

#[tokio::test]
async fn owners_are_looked_up_in_the_image() {
    let mut bench = Bench::new();
    let etc = bench.layer().join("etc");
    fs::create_dir(&etc).unwrap();
    fs::write(etc.join("passwd"), "app:x:1000:1001::/:\n").unwrap();
    fs::write(etc.join("group"), "web:x:33:\n").unwrap();
    bench.write("s/f", "F");
    let mut request = bench.request("COPY", &["s"], "/new/dir/");
    request.chown = Some("app:web".into());
    request.chmod = Some(0o640);
    let (upper, _) = bench.run(request.clone()).await.unwrap();
    let owner = |path: &str| fs::metadata(upper.join(path)).map(|m| (m.uid(), m.gid(), m.mode() & 0o777)).unwrap();
    assert_eq!(owner("new/dir/f"), (1000, 33, 0o640));
    assert_eq!(owner("new"), (1000, 33, 0o755));
    request.chown = Some("nobody".into());
    assert!(bench.run(request).await.unwrap_err().contains("no such user: nobody"));
}

#[tokio::test]
async fn the_digest_is_over_names_modes_and_content() {
    let mut bench = Bench::new();
    bench.write("s/f", "F");
    let mut digests = Vec::new();
    let mut next = async |bench: &mut Bench| {
        let request = bench.request("COPY", &["s"], "/x/");
        digests.push(bench.run(request).await.unwrap().1);
    };
    next(&mut bench).await;
    fs::File::open(bench.context("s/f")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    next(&mut bench).await;
    bench.write("s/f", "G");
    next(&mut bench).await;
    fs::set_permissions(bench.context("s/f"), fs::Permissions::from_mode(0o600)).unwrap();
    next(&mut bench).await;
    fs::rename(bench.context("s/f"), bench.context("s/g")).unwrap();
    next(&mut bench).await;
    assert!(digests[0].starts_with("dir:"));
    assert_eq!(digests[0], digests[1]);
    digests.dedup();
    assert_eq!(digests.len(), 4);
}

#[tokio::test]
async fn add_unpacks_archives_and_copy_does_not() {
    let mut bench = Bench::new();
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    header.set_uid(7);
    archive.append_data(&mut header, "in/f", &b"x"[..]).unwrap();
    fs::write(bench.context("a.tgz"), archive.into_inner().unwrap().finish().unwrap()).unwrap();
    bench.write("plain.gz", "no archive");
    let request = bench.request("ADD", &["a.tgz"], "/d");
    let (upper, _) = bench.run(request).await.unwrap();
    assert_eq!(fs::metadata(upper.join("d/in/f")).unwrap().uid(), 7);
    assert!(bench.copy(&["a.tgz"], "/d/").await.unwrap().join("d/a.tgz").exists());
    let request = bench.request("ADD", &["plain.gz"], "/d/");
    assert_eq!(text(bench.run(request).await.unwrap().0.join("d/plain.gz")), "no archive");
}

#[tokio::test]
async fn an_image_is_a_source_with_all_its_layers() {
    let mut bench = Bench::new();
    let below = bench.layer();
    fs::create_dir(below.join("d")).unwrap();
    fs::write(below.join("d/gone"), "").unwrap();
    fs::write(below.join("d/kept"), "kept").unwrap();
    let above = bench.layer();
    fs::create_dir(above.join("d")).unwrap();
    fs::write(above.join("d/new"), "new").unwrap();
    let whiteout = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(rustix::fs::CWD, above.join("d/gone"), whiteout, rustix::fs::Mode::empty(), 0).unwrap();
    symlink("/d/kept", above.join("link")).unwrap();
    let mut request = bench.request("COPY", &["/d", "/link"], "/to/");
    request.origin = Origin::Image(bench.layers.clone());
    request.layers = Vec::new();
    let (upper, digest) = bench.run(request.clone()).await.unwrap();
    assert!(digest.starts_with("multi:"));
    assert!(!upper.join("to/gone").exists());
    assert_eq!((text(upper.join("to/kept")), text(upper.join("to/link"))), ("kept".into(), "kept".into()));
    request.wanted = vec![Wanted::Path("/nope".into())];
    assert_eq!(bench.run(request).await.unwrap_err(), "COPY failed: stat nope: file does not exist");
}

#[tokio::test]
async fn no_mount_outlives_the_step() {
    let mut bench = Bench::new();
    bench.layer();
    bench.layer();
    bench.write("f", "F");
    bench.copy(&["f"], "/x").await.unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(bench.dir.path().to_str().unwrap()));
}

fn tar_of(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        // Written raw: the builder itself refuses hostile names.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        archive.append(&header, content.as_bytes()).unwrap();
    }
    archive.into_inner().unwrap()
}

#[tokio::test]
async fn a_context_is_unpacked_and_its_ignore_file_obeyed() {
    let bench = Bench::new();
    let entries = [("Dockerfile", "FROM a"), (".dockerignore", "*.log\n!keep.log\n"), ("x.log", ""), ("keep.log", "")];
    let tree = context::receive(std::io::Cursor::new(tar_of(&entries)), &bench.context("")).await.unwrap();
    assert_eq!(context::read_dockerfile(&tree, "Dockerfile").unwrap(), "FROM a");
    context::apply_ignore(&tree, "Dockerfile").unwrap();
    assert!(!bench.context("x.log").exists());
    assert!(bench.context("keep.log").exists());
    let error = context::read_dockerfile(&tree, "Nope").unwrap_err();
    assert_eq!(error.to_string(), "Cannot locate specified Dockerfile: Nope");
}

#[tokio::test]
async fn a_hostile_context_is_refused() {
    let bench = Bench::new();
    let stream = std::io::Cursor::new(tar_of(&[("../../evil", "x")]));
    let error = context::receive(stream, &bench.context("")).await.unwrap_err();
    assert!(error.to_string().starts_with("Error processing tar file"), "{error}");
    assert!(!bench.dir.path().join("evil").exists());
    let garbage = std::io::Cursor::new(vec![b'x'; 2048]);
    assert!(context::receive(garbage, &bench.context("")).await.is_err());
}
