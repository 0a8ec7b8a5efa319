//! Builds that run containers, with a shell borrowed from this machine.

mod build_lab;

use build_lab::{Lab, context, normal, options};
use skep_engine::build::{BuildOptions, build};
use skep_engine::progress::Progress;
use skep_model::container::{ContainerConfig, ContainerSpec, HostConfig};
use std::process::Command;
use tokio::sync::mpsc;

/// `sh` and the libraries it needs, as an image called `shell`.
async fn shell_image(lab: &Lab) {
    let listed = Command::new("ldd").arg("/bin/sh").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    let mut files = vec![("Dockerfile", b"FROM scratch\nCOPY root /\n".to_vec())];
    let names: Vec<_> = std::iter::once("/bin/sh").chain(libraries).map(|path| (path, format!("root{path}"))).collect();
    for (path, name) in &names {
        files.push((name, std::fs::read(path).unwrap()));
    }
    files.push(("root/etc/passwd", b"root:x:0:0::/:/bin/sh\napp:x:12:34::/:/bin/sh\n".to_vec()));
    lab.build_tar(context(&files), options("shell")).await.unwrap();
}

async fn lab() -> Lab {
    let lab = Lab::with_shim().await;
    shell_image(&lab).await;
    lab
}

#[tokio::test]
async fn run_changes_become_a_layer_and_its_output_is_shown() {
    let lab = lab().await;
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
    let lab = lab().await;
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
    let lab = lab().await;
    let dockerfile =
        "FROM shell\nRUN <<EOF\nset -e\necho one > /one\nEOF\nRUN read x <<A && echo \"$x\" > /two\ntwo\nA\n";
    let (id, _) = lab.build(&[("Dockerfile", dockerfile)], options("a")).await.unwrap();
    assert_eq!((lab.read(&id, "one"), lab.read(&id, "two")), ("one\n".into(), "two\n".into()));
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_build() {
    let lab = lab().await;
    let files = [("Dockerfile", b"FROM shell\nRUN echo started; while :; do :; done\n".to_vec())];
    let (progress, mut seen) = mpsc::channel(16);
    let options = BuildOptions { network_mode: "none".into(), ..BuildOptions::default() };
    let building = build(&lab.engine, std::io::Cursor::new(context(&files)), options, progress);
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
    let lab = lab().await;
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
