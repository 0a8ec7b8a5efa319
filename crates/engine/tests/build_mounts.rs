//! `RUN --mount`, stages side by side, cache sources and pruning, with a shell borrowed from this machine.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod build_lab;

use build_lab::{Lab, context, input, options};
use skep_engine::build::{BuildEvent, BuildOptions, Given, PruneOptions, Style, build, prune};
use skep_engine::progress::Progress;
use std::process::{Command, Stdio};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

#[tokio::test]
async fn a_cache_mount_is_kept_between_builds_and_daemons_and_is_in_no_image() {
    let lab = Lab::with_shell().await;
    let dockerfile = |n: u32| {
        format!(
            "FROM shell\nRUN --mount=type=cache,target=/var/deep/cache,mode=0700 echo {n} >> /var/deep/cache/log; read a < /var/deep/cache/log; echo \"first $a\"\n"
        )
    };
    lab.build(&[("Dockerfile", &dockerfile(1))], options("a")).await.unwrap();
    let lab = lab.restart().await;
    let (id, output) = lab.build(&[("Dockerfile", &dockerfile(2))], options("a")).await.unwrap();
    assert!(output.contains("first 1\n"), "{output}");
    assert!(!lab.exists(&id, "var"), "a mount point is no change");
    let caches = lab.engine.builds().list().await.unwrap();
    assert_eq!((caches.len(), caches[0].uses, caches[0].in_use), (1, 2, false));
    let pruned = prune(&lab.engine, PruneOptions::default()).await.unwrap();
    assert_eq!(pruned.ids, [caches[0].id.clone()]);
    assert!(pruned.bytes > 0 && lab.engine.builds().list().await.unwrap().is_empty());
    lab.assert_clean();
}

#[tokio::test]
async fn a_secret_is_seen_by_its_step_and_is_in_no_layer_history_or_key() {
    let lab = Lab::with_shell().await;
    let dockerfile = "FROM shell\nRUN --mount=type=secret,id=token,uid=12,mode=0440 read t < /run/secrets/token; echo \"length ${#t}\"\nRUN --mount=type=secret,id=none test ! -e /run/secrets/none\n";
    let given =
        |text: &str| Given { secrets: [("token".to_owned(), text.as_bytes().to_vec())].into(), ..Given::default() };
    let tar = context(&[("Dockerfile", dockerfile.as_bytes().to_vec())]);
    let (id, output) = lab.build_given(tar.clone(), options("a"), given("s3cr3t-one\n")).await.unwrap();
    assert!(output.contains("length 10\n"), "{output}");
    assert!(!lab.exists(&id, "run"), "a mount point is no change");
    let (again, output) = lab.build_given(tar, options("a"), given("other\n")).await.unwrap();
    assert!(again == id && output.contains("Using cache"), "the content of a secret is in no key: {output}");
    assert!(!lab.holds("s3cr3t-one"), "the secret is in a file of the data root");
    let needs = "FROM shell\nRUN --mount=type=secret,id=token,required true\n";
    let (error, _) = lab.build(&[("Dockerfile", needs)], options("b")).await.unwrap_err();
    assert_eq!(error.message, "secret token: not found");
    lab.assert_clean();
}

#[tokio::test]
async fn binds_show_the_context_and_other_stages_and_lose_what_is_written() {
    let lab = Lab::with_shell().await;
    let dockerfile = "\
FROM shell AS made
RUN mkdir() { :; }; echo one > /file
WORKDIR /sub
RUN echo two > /sub/file
FROM shell
RUN --mount=target=/ctx,source=dir read a < /ctx/x && echo \"context $a\" && ! echo no > /ctx/y
RUN --mount=target=/ctx,source=dir,rw echo lost > /ctx/y && read a < /ctx/y && echo \"$a\"
RUN --mount=from=made,target=/m read a < /m/file && read b < /m/sub/file && echo \"stage $a $b\"
RUN --mount=from=made,source=/sub,target=/m,rw echo lost > /m/y && read b < /m/file && echo \"sub $b\"
RUN --mount=from=made,source=/file,target=/f read a < /f && echo \"single $a\"
RUN --mount=type=tmpfs,target=/t,size=1m echo x > /t/x
";
    let files = [("Dockerfile", dockerfile), ("dir/x", "here\n")];
    let (id, output) = lab.build(&files, options("a")).await.unwrap();
    for line in ["context here\n", "lost\n", "stage one two\n", "sub two\n", "single one\n"] {
        assert!(output.contains(line), "{line}: {output}");
    }
    for gone in ["ctx", "m", "f", "t"] {
        assert!(!lab.exists(&id, gone), "{gone}");
    }
    let (again, output) = lab.build(&files, options("a")).await.unwrap();
    assert!(again == id && !output.contains("Running in"), "{output}");
    let changed = [("Dockerfile", dockerfile), ("dir/x", "there\n")];
    let (_, output) = lab.build(&changed, options("a")).await.unwrap();
    assert!(output.contains("context there\n"), "the content of a bind decides: {output}");
    lab.assert_clean();
}

#[tokio::test]
async fn an_agent_is_reached_through_its_socket() {
    let lab = Lab::with_shell().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent");
    let agent = tokio::net::UnixListener::bind(&path).unwrap();
    let dockerfile = "FROM shell\nRUN --mount=type=ssh test -S \"$SSH_AUTH_SOCK\" && echo \"at $SSH_AUTH_SOCK\"\n";
    let tar = context(&[("Dockerfile", dockerfile.as_bytes().to_vec())]);
    let given = Given { agents: [("default".to_owned(), path)].into(), ..Given::default() };
    let (id, output) = lab.build_given(tar.clone(), options("a"), given).await.unwrap();
    assert!(output.contains("at /run/buildkit/ssh_agent.0\n"), "{output}");
    assert!(!lab.exists(&id, "run"));
    drop(agent);
    let required = "FROM shell\nRUN --mount=type=ssh,required true\n";
    let (error, _) = lab.build(&[("Dockerfile", required)], options("b")).await.unwrap_err();
    assert_eq!(error.message, "no SSH key \"default\" forwarded from the client");
}

#[tokio::test]
async fn a_script_may_name_its_own_interpreter() {
    let lab = Lab::with_shell().await;
    let dockerfile = "FROM shell\nRUN <<EOF\n#!/bin/sh -e\necho \"$0\"\necho made > /made\nEOF\n";
    let (id, output) = lab.build(&[("Dockerfile", dockerfile)], options("a")).await.unwrap();
    assert!(output.contains("/dev/pipes/EOF\n"), "{output}");
    assert_eq!(lab.read(&id, "made"), "made\n");
    assert!(!lab.exists(&id, "dev"));
}

/// Each of two stages waits for the other one's mark in a shared cache.
#[tokio::test]
async fn stages_that_do_not_need_each_other_run_side_by_side() {
    let lab = Lab::with_shell().await;
    let meet = |own: &str, other: &str| {
        format!(
            "RUN --mount=type=cache,target=/c : > /c/{own}; while [ ! -e /c/{other} ]; do :; done; echo {own} > /{own}\n"
        )
    };
    let dockerfile = format!(
        "FROM shell AS one\n{}FROM shell AS two\n{}FROM nope AS unused\nFROM scratch\nCOPY --from=one /one /\nCOPY --from=two /two /\n",
        meet("one", "two"),
        meet("two", "one")
    );
    let (id, output) = lab.build(&[("Dockerfile", &dockerfile)], options("a")).await.unwrap();
    assert_eq!((lab.read(&id, "one"), lab.read(&id, "two")), ("one\n".into(), "two\n".into()));
    let numbers: Vec<&str> = output.lines().filter_map(|line| line.strip_prefix("Step ")?.split('/').next()).collect();
    assert_eq!(numbers, ["1", "2", "3", "4", "5", "6", "7"], "{output}");
    lab.assert_clean();
}

#[tokio::test]
async fn a_stage_that_fails_ends_the_others() {
    let lab = Lab::with_shell().await;
    let dockerfile = "FROM shell AS slow\nRUN while :; do :; done\nFROM shell AS bad\nRUN exit 3\nFROM scratch\nCOPY --from=slow / /\nCOPY --from=bad / /\n";
    let (error, _) = lab.build(&[("Dockerfile", dockerfile)], options("a")).await.unwrap_err();
    assert_eq!(error.message, "The command '/bin/sh -c exit 3' returned a non-zero code: 3");
    lab.assert_clean();
}

#[tokio::test]
async fn events_name_the_steps_and_say_how_they_ended() {
    let lab = Lab::with_shell().await;
    let dockerfile = "FROM shell AS base\nENV a=b\nRUN echo out; echo err >&2\nFROM base\nRUN exit 1\n";
    let (progress, mut seen) = mpsc::channel(16);
    let options = BuildOptions { style: Style::Events, network_mode: "none".into(), ..BuildOptions::default() };
    let tar = context(&[("Dockerfile", dockerfile.as_bytes().to_vec())]);
    let told = async {
        let mut told = Vec::new();
        while let Some(Progress::Build(event)) = seen.recv().await {
            told.push(match event {
                BuildEvent::Started { step, name, .. } => format!("{step} {name}"),
                BuildEvent::Log { step, is_error, data, .. } => {
                    format!("{step} {is_error} {}", String::from_utf8(data).unwrap().trim())
                }
                BuildEvent::Transfer { .. } => "transfer".to_owned(),
                BuildEvent::Finished { step, cached, error, .. } => format!("{step} done {cached} {error}"),
            });
        }
        told
    };
    let (built, told) = tokio::join!(build(&lab.engine, input(tar, Given::default()), options, progress), told);
    assert!(built.is_err());
    for expect in [
        "1 [base 1/2] FROM shell",
        "1 done false ",
        "2 [base 2/2] RUN echo out; echo err >&2",
        "2 false out",
        "2 true err",
        "3 [stage-1 1/2] FROM base",
        "4 [stage-1 2/2] RUN exit 1",
        "4 done false The command '/bin/sh -c exit 1' returned a non-zero code: 1",
    ] {
        assert!(told.iter().any(|line| line == expect), "{expect}: {told:#?}");
    }
}

#[tokio::test]
async fn the_steps_of_an_image_named_as_cache_are_taken_over() {
    let lab = Lab::with_shell().await;
    let dockerfile = "FROM shell\nENV a=b\nRUN echo ran > /ran\nCOPY x /x\nWORKDIR /w\nCMD [\"c\"]\n";
    let files = [("Dockerfile", dockerfile), ("x", "1")];
    let (first, _) = lab.build(&files, options("kept")).await.unwrap();
    lab.forget_steps();
    let from = |name: &str| BuildOptions { cache_from: vec![name.to_owned()], ..options("a") };
    let (second, output) = lab.build(&files, from("kept")).await.unwrap();
    assert!(!output.contains("Running in"), "{output}");
    let layers = |id: &str| lab.engine.images().resolve(id).unwrap().diff_ids;
    assert_eq!(layers(&first), layers(&second));
    lab.forget_steps();
    let (_, output) = lab.build(&[("Dockerfile", dockerfile), ("x", "2")], from("kept")).await.unwrap();
    assert_eq!(output.matches("Using cache").count(), 2, "{output}");
    lab.forget_steps();
    let (_, output) = lab.build(&files, from("127.0.0.1:1/nope")).await.unwrap();
    assert!(output.contains("[Warning] cannot use 127.0.0.1:1/nope as a cache"), "{output}");
}

#[tokio::test]
async fn pruning_all_forgets_steps_and_spares_what_has_a_name() {
    let lab = Lab::with_shell().await;
    let dockerfile =
        "FROM shell AS one\nRUN echo 1 > /one\nFROM shell\nCOPY --from=one /one /copied\nRUN echo 2 > /two\n";
    let (id, _) = lab.build(&[("Dockerfile", dockerfile)], options("kept")).await.unwrap();
    let before = lab.engine.images().list().len();
    let pruned = prune(&lab.engine, PruneOptions { all: true, ..PruneOptions::default() }).await.unwrap();
    assert!(!pruned.ids.is_empty() && pruned.bytes > 0, "{pruned:?}");
    assert!(lab.engine.images().list().len() < before);
    assert_eq!(lab.engine.images().resolve("kept").unwrap().id, id);
    let (_, output) = lab.build(&[("Dockerfile", dockerfile)], options("kept")).await.unwrap();
    assert!(output.contains("Running in"), "{output}");
    lab.assert_clean();
}

#[tokio::test]
async fn an_address_may_name_a_repository() {
    let lab = Lab::open().await;
    let server = GitServer::start();
    let dockerfile = format!(
        "FROM scratch\nADD {0} /all/\nADD --keep-git-dir=true {0}#v1:sub /sub/\nADD --checksum={1} {0} /checked/\n",
        server.address, server.commit
    );
    let (id, _) = lab.build(&[("Dockerfile", &dockerfile)], options("a")).await.unwrap();
    assert_eq!((lab.read(&id, "all/file"), lab.read(&id, "sub/inner")), ("second\n".into(), "x\n".into()));
    assert!(!lab.exists(&id, "all/.git") && lab.exists(&id, "checked/file"));
    let dockerfile = format!("FROM scratch\nADD --checksum={} {} /\n", "0".repeat(40), server.address);
    let (error, _) = lab.build(&[("Dockerfile", &dockerfile)], options("a")).await.unwrap_err();
    assert!(error.message.contains("expected checksum to match 0000"), "{error}");
    lab.assert_clean();
}

/// A repository behind `git daemon` on loopback.
struct GitServer {
    address: String,
    commit: String,
    process: std::process::Child,
    _dir: tempfile::TempDir,
}

impl GitServer {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("repo");
        std::fs::create_dir_all(repository.join("sub")).unwrap();
        let git = |words: &[&str]| {
            let output = Command::new("git")
                .args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"])
                .args(words)
                .current_dir(&repository)
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        git(&["init", "-q", "."]);
        std::fs::write(repository.join("file"), "first\n").unwrap();
        std::fs::write(repository.join("sub/inner"), "x\n").unwrap();
        git(&["add", "."]);
        git(&["commit", "-q", "-m", "one"]);
        git(&["tag", "v1"]);
        std::fs::write(repository.join("file"), "second\n").unwrap();
        git(&["commit", "-q", "-a", "-m", "two"]);
        let commit = git(&["rev-parse", "HEAD"]).trim().to_owned();
        // Free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new("git")
            .args(["daemon", "--export-all", "--listen=127.0.0.1", &format!("--port={port}"), "--reuseaddr"])
            .arg(format!("--base-path={}", dir.path().display()))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(std::time::Instant::now() < deadline, "git daemon does not answer");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Self { address: format!("git://127.0.0.1:{port}/repo"), commit, process, _dir: dir }
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        // `git` runs the daemon as a child of its own.
        let children = format!("/proc/{0}/task/{0}/children", self.process.id());
        for child in std::fs::read_to_string(children).unwrap_or_default().split_whitespace() {
            if let Some(pid) = child.parse().ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn what_an_address_gives_is_checked_and_patterns_leave_files_out() {
    let lab = Lab::open().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = [0; 1024];
            let _ = stream.read(&mut asked).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\ndata").await;
        }
    });
    let good = "sha256:3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7";
    let dockerfile = format!(
        "FROM scratch\nADD --checksum={good} http://{address}/f /f\nCOPY --exclude=*.md --exclude=sub/no dir /dir/\nARG M=600\nCOPY --chmod=$M dir/a.md /m\n"
    );
    let files = [("Dockerfile", dockerfile.as_str()), ("dir/a.md", ""), ("dir/sub/no", ""), ("dir/sub/yes", "")];
    let (id, _) = lab.build(&files, options("a")).await.unwrap();
    assert_eq!(lab.read(&id, "f"), "data");
    assert!(lab.exists(&id, "dir/sub/yes") && !lab.exists(&id, "dir/a.md") && !lab.exists(&id, "dir/sub/no"));
    for (checksum, text) in [(good.replace('3', "4"), "digest mismatch"), ("md5:1".into(), "only sha256")] {
        let dockerfile = format!("FROM scratch\nADD --checksum={checksum} http://{address}/f /f\n");
        let (error, _) = lab.build(&[("Dockerfile", &dockerfile)], options("a")).await.unwrap_err();
        assert!(error.message.contains(text), "{error}");
    }
    server.abort();
}
