//! Files in and out of containers, differences, exports, counters, commits.
#![allow(clippy::unwrap_used)]

mod machine;

use skep_engine::container::{Change, ChangeKind};
use skep_engine::image::NewImage;
use skep_model::{ErrorKind, Timestamp};
use std::collections::BTreeMap;
use std::time::Instant;
use machine::{Machine, shell, spec, until};
use tokio::io::{AsyncRead, AsyncReadExt};

async fn unpack(mut stream: impl AsyncRead + Unpin) -> BTreeMap<String, String> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let mut text = String::new();
        if entry.size() < 1000 {
            std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
        }
        found.insert(path, text);
    }
    found
}

fn pack(files: &[(&str, &str)]) -> std::io::Cursor<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o640);
        header.set_uid(33);
        header.set_gid(34);
        header.set_size(text.len() as u64);
        header.set_cksum();
        tar.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    std::io::Cursor::new(tar.into_inner().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_come_and_go_running_or_not() {
    let machine = Machine::new().await;
    let id = machine.start(shell("ln -s /etc /tmp/link; ln -s /../../.. /tmp/up; echo in > /tmp/f; sleep 1000")).await;
    let name = id.0.as_str();
    until(|| processes_ready(&machine, name)).await;
    for running in [true, false] {
        if !running {
            machine.engine.stop(name, Some(0), None).await.unwrap();
        }
        let (stat, stream) = machine.engine.archive_get(name, "/tmp/f").await.unwrap();
        assert_eq!((stat.name.as_str(), stat.size), ("f", 3));
        assert_eq!(unpack(stream).await, [("f".to_owned(), "in\n".to_owned())].into());
        // A link is told as one; a link before the last part is followed inside the container.
        assert_eq!(machine.engine.archive_stat(name, "/tmp/link").await.unwrap().link_target, "/etc");
        let (_, stream) = machine.engine.archive_get(name, "/tmp/link/passwd").await.unwrap();
        assert!(unpack(stream).await["passwd"].contains("web:x:33"));
        let (_, stream) = machine.engine.archive_get(name, "/tmp/up/etc/group").await.unwrap();
        assert!(unpack(stream).await["group"].contains("www"));
        let error = machine.engine.archive_stat(name, "/nosuch").await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
        let put = machine.engine.archive_put(name, "/tmp", pack(&[("sub/new", "x"), ("f", "in\n")]), false);
        put.await.unwrap();
        let stat = machine.engine.archive_stat(name, "/tmp/sub/new").await.unwrap();
        assert_eq!((stat.mode & 0o7777, stat.size), (0o640, 1));
        // The library that writes archives refuses such a name, so it is put in by hand.
        let mut bytes = pack(&[("xx/escape", "x")]).into_inner();
        bytes[..9].copy_from_slice(b"../escape");
        tar_checksum(&mut bytes[..512]);
        let error = machine.engine.archive_put(name, "/tmp", std::io::Cursor::new(bytes), false).await.unwrap_err();
        assert!(error.message.contains("invalid path in archive"), "{}", error.message);
    }
    assert!(machine.engine.archive_stat(name, "/escape").await.is_err());
    machine.close().await;
}

fn tar_checksum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn processes_ready(machine: &Machine, name: &str) -> bool {
    let info = machine.engine.inspect(name).unwrap();
    std::path::Path::new(&info.upper_dir).join("tmp/f").exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn differences_exports_and_commits() {
    let machine = Machine::new().await;
    let (code, _, _) = machine.run(shell("echo x > /new; rm /data/from-image; echo y >> /etc/group")).await;
    assert_eq!(code, 0);
    let id = machine.engine.list()[0].id.clone();
    let changes = machine.engine.changes(&id.0).await.unwrap();
    let change = |path: &str, kind| Change { path: path.into(), kind };
    for expected in [
        change("/data", ChangeKind::Modified),
        change("/data/from-image", ChangeKind::Deleted),
        change("/etc/group", ChangeKind::Modified),
        change("/new", ChangeKind::Added),
    ] {
        assert!(changes.contains(&expected), "{expected:?} in {changes:?}");
    }
    let files = unpack(machine.engine.export(&id.0).await.unwrap()).await;
    assert_eq!(files["new"], "x\n");
    assert!(!files.contains_key("data/from-image"));
    let change = NewImage {
        parent: None,
        layer: None,
        config: machine.engine.inspect(&id.0).unwrap().config.clone(),
        created: Timestamp(2),
        created_by: String::new(),
        comment: String::new(),
        author: String::new(),
    };
    machine.engine.commit(&id.0, change, Some("mine:1"), true).await.unwrap();
    let mut wanted = shell("cat /new; ls /data");
    wanted.config.image = "mine:1".into();
    let (_, stdout, _) = machine.run(wanted).await;
    assert_eq!(stdout, "x\n");
    let (written, all) = machine.engine.size(&id.0).await.unwrap();
    assert!(written > 0 && all > written);
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_of_a_running_container() {
    let machine = Machine::new().await;
    let id = machine.start(spec(&["sleep", "1000"])).await;
    let stats = machine.engine.stats(&id.0).await.unwrap();
    assert!(stats.pids >= 1 && stats.memory.limit_bytes > 0 && stats.cpu.machine_ns > 0, "{stats:?}");
    machine.close().await;
}

/// Not a test: prints what a run and an exec cost here. `cargo test -- --ignored measure --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints times, asserts nothing"]
#[allow(clippy::print_stderr)]
async fn measure() {
    let machine = Machine::new().await;
    let mut times = Vec::new();
    for _ in 0..20 {
        let begin = Instant::now();
        let mut wanted = spec(&["true"]);
        wanted.host.network_mode = "bridge".into();
        wanted.host.auto_remove = true;
        let (id, _) = machine.engine.create(wanted).await.unwrap();
        let created = begin.elapsed();
        let wait = machine.engine.wait(&id.0, skep_engine::container::WaitCondition::Removed).unwrap();
        machine.engine.start(&id.0).await.unwrap();
        let started = begin.elapsed();
        wait.await;
        times.push((begin.elapsed(), created, started));
    }
    times.sort();
    eprintln!("run --rm true (total, created, started): median {:?} worst {:?}", times[10], times[19]);
    let id = machine.start(spec(&["sleep", "1000"])).await;
    let mut times = Vec::new();
    for _ in 0..20 {
        let begin = Instant::now();
        machine.exec(&id, &["true"]).await;
        times.push(begin.elapsed());
    }
    times.sort();
    eprintln!("exec true: median {:?} worst {:?}", times[10], times[19]);
    for pid in machine::processes_with(&id.0[..16]) {
        let memory = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let lines: Vec<&str> =
            memory.lines().filter(|l| ["Rss", "Pss:", "Pss_Anon", "Private_Dirty"].iter().any(|k| l.starts_with(k))).collect();
        eprintln!("shim {pid}: {}", lines.join(" "));
    }
    machine.close().await;
}
