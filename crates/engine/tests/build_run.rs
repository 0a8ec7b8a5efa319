//! Builds that run containers, with a shell borrowed from this machine.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod build_lab;

use build_lab::{Lab, context, input, normal, options};
use skep_engine::build::{BuildOptions, Given, build};
use skep_engine::progress::Progress;
use skep_model::container::{ContainerConfig, ContainerSpec, HostConfig};
use std::process::Command;
use tokio::sync::mpsc;

#[tokio::test]
async fn run_changes_become_a_layer_and_its_output_is_shown() {
    let lab = Lab::with_shell().await;
    let dockerfile = "\
FROM shell
ARG who=you
ENV greet=hi
WORKDIR /w
RUN echo \"$greet $who\" | while read l; do echo \"$l\" > out; echo \"$l\"; done; echo error >&2
USER app
RUN [\"/bin/sh\", \"-c\", \"echo exec form\"]
";
    let (id, output) = lab.build(&[("Dockerfile", dockerfile)], options("a")).await.unwrap();
    let step = normal(&output);
    assert!(step.contains(" ---> Running in ID\nhi you\nerror\nRemoving intermediate container ID\n"), "{step}");
    assert!(step.contains("exec form\n"));
    assert_eq!(lab.read(&id, "w/out"), "hi you\n");
    let layers = lab.engine.images().layer_dirs(&id).unwrap();
    let names = |layer: &std::path::Path| {
        std::fs::read_dir(layer).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
    };
    assert_eq!(names(&layers[1]), ["w"], "mount points are no changes");
    let history = lab.engine.images().history(&id).unwrap();
    assert!(history[2].created_by.starts_with("|1 who=you /bin/sh -c echo"), "{}", history[2].created_by);
    let (again, output) = lab.build(&[("Dockerfile", dockerfile)], options("a")).await.unwrap();
    assert_eq!((again, output.contains("Running in")), (id, false));
    lab.assert_clean();
}

#[tokio::test]
async fn a_failing_run_leaves_nothing_and_moves_no_tag() {
    let lab = Lab::with_shell().await;
    let (good, _) = lab.build(&[("Dockerfile", "FROM shell\nENV a=1\n")], options("a")).await.unwrap();
    let failing = "FROM shell\nRUN echo before; exit 7\n";
    let (error, output) = lab.build(&[("Dockerfile", failing)], options("a")).await.unwrap_err();
    assert_eq!(error.message, "The command '/bin/sh -c echo before; exit 7' returned a non-zero code: 7");
    assert!(output.contains("before\n"));
    assert_eq!(lab.engine.images().resolve("a").unwrap().id, good);
    let (error, _) = lab.build(&[("Dockerfile", "FROM shell\nRUN [\"/nope\"]\n")], options("a")).await.unwrap_err();
    assert!(error.message.contains("/nope"), "{error}");
    lab.assert_clean();
}

#[tokio::test]
async fn heredocs_are_scripts() {
    let lab = Lab::with_shell().await;
    let dockerfile =
        "FROM shell\nRUN <<EOF\nset -e\necho one > /one\nEOF\nRUN read x <<A && echo \"$x\" > /two\ntwo\nA\n";
    let (id, _) = lab.build(&[("Dockerfile", dockerfile)], options("a")).await.unwrap();
    assert_eq!((lab.read(&id, "one"), lab.read(&id, "two")), ("one\n".into(), "two\n".into()));
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_build() {
    let lab = Lab::with_shell().await;
    let files = [("Dockerfile", b"FROM shell\nRUN echo started; while :; do :; done\n".to_vec())];
    let (progress, mut seen) = mpsc::channel(16);
    let options = BuildOptions { network_mode: "none".into(), ..BuildOptions::default() };
    let building = build(&lab.engine, input(context(&files), Given::default()), options, progress);
    let leaving = async {
        while let Some(progress) = seen.recv().await {
            if progress == Progress::Stream("started\n".into()) {
                break;
            }
        }
        drop(seen);
    };
    let (built, ()) = tokio::join!(building, leaving);
    assert_eq!(built.unwrap_err().message, "Build cancelled");
    lab.assert_clean();
}

#[tokio::test]
async fn a_build_killed_with_its_daemon_leaves_no_container() {
    let lab = Lab::with_shell().await;
    let host = HostConfig {
        network_mode: "none".into(),
        annotations: [("skep.build.step".to_owned(), String::new())].into(),
        ..HostConfig::default()
    };
    let config = ContainerConfig { image: "shell".into(), cmd: Some(vec!["/bin/sh".into()]), ..Default::default() };
    lab.engine.create(ContainerSpec { config, host, ..Default::default() }).await.unwrap();
    assert_eq!(lab.engine.list().len(), 1);
    lab.restart().await.assert_clean();
}

#[tokio::test]
async fn the_example_answers_and_ends_at_a_signal() {
    let lab = Lab::with_shim().await;
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/whoami");
    let program = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let flags = ["--edition=2024", "-Copt-level=s", "-Ctarget-feature=+crt-static", "-Cpanic=abort", "-Cstrip=symbols"];
    let mut compiler = Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into()));
    compiler.args(flags).arg("-o").arg(&program).arg(format!("{example}/whoami.rs"));
    assert!(compiler.status().unwrap().success());
    let file = |name: &str| std::fs::read(format!("{example}/{name}")).unwrap();
    let files = [
        ("Dockerfile", file("Dockerfile")),
        (".dockerignore", file(".dockerignore")),
        ("whoami", std::fs::read(&program).unwrap()),
    ];
    lab.build_tar(context(&files), options("whoami")).await.unwrap();

    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = ContainerConfig {
        image: "whoami".into(),
        env: vec![format!("WHOAMI_PORT={port}"), "WHOAMI_NAME=example".into()],
        ..Default::default()
    };
    let host = HostConfig { network_mode: "host".into(), ..HostConfig::default() };
    let (id, _) = lab.engine.create(ContainerSpec { config, host, ..Default::default() }).await.unwrap();
    let ended = lab.engine.wait(id.as_str(), skep_engine::container::WaitCondition::NextExit).unwrap();
    lab.engine.start(id.as_str()).await.unwrap();
    let answer = get(port, "/some/path").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    for part in
        ["\nName: example\nHostname: ", "\nIP: 127.0.0.1\n", "\nRemoteAddr: 127.0.0.1:", "\nGET /some/path HTTP/1.1\n"]
    {
        assert!(answer.replace("\r\n", "\n").contains(part), "{part} in {answer}");
    }
    assert!(get(port, "/bench").await.ends_with("\r\n\r\n1"));
    lab.engine.stop(id.as_str(), Some(10), None).await.unwrap();
    assert_eq!(ended.await.exit_code, 0);
    lab.engine.remove(id.as_str(), Default::default()).await.unwrap();
    lab.assert_clean();
}

/// One request; waits until the server listens.
async fn get(port: u16, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut stream = loop {
        match tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
            Ok(stream) => break stream,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
