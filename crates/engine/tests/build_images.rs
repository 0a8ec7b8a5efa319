//! Whole builds on a real data root, as root. Those that run containers are in `build_run.rs`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod build_lab;

use build_lab::{Lab, normal, options};
use skep_engine::build::{BuildOptions, Style};
use skep_model::ErrorKind;

const WHOLE: &str = "\
FROM scratch
ARG greeting=hello
ENV WHAT=\"$greeting world\" EMPTY=
LABEL a.b=c
COPY file /dir/
WORKDIR /dir
EXPOSE 80 53/udp
ENTRYPOINT [\"/dir/file\"]
CMD [\"-x\"]
";

#[tokio::test]
async fn output_history_and_config_are_dockers() {
    let lab = Lab::open().await;
    let (id, output) = lab.build(&[("Dockerfile", WHOLE), ("file", "x")], options("one/two")).await.unwrap();
    let expect = "\
Step 1/9 : FROM scratch
 --->\x20
Step 2/9 : ARG greeting=hello
 ---> Running in ID
Removing intermediate container ID
 ---> ID
Step 3/9 : ENV WHAT=\"$greeting world\" EMPTY=
 ---> Running in ID
Removing intermediate container ID
 ---> ID
Step 4/9 : LABEL a.b=c
 ---> Running in ID
Removing intermediate container ID
 ---> ID
Step 5/9 : COPY file /dir/
 ---> ID
Step 6/9 : WORKDIR /dir
 ---> Running in ID
Removing intermediate container ID
 ---> ID
Step 7/9 : EXPOSE 80 53/udp
 ---> Running in ID
Removing intermediate container ID
 ---> ID
Step 8/9 : ENTRYPOINT [\"/dir/file\"]
 ---> Running in ID
Removing intermediate container ID
 ---> ID
Step 9/9 : CMD [\"-x\"]
 ---> Running in ID
Removing intermediate container ID
 ---> ID
Successfully built ID
Successfully tagged one/two:latest
";
    assert_eq!(normal(&output), expect);
    let image = lab.engine.images().resolve("one/two").unwrap();
    assert_eq!(image.id, id);
    let config = image.config;
    assert!(config.env.contains(&"WHAT=hello world".to_owned()) && config.env.contains(&"EMPTY=".to_owned()));
    assert!(config.env.iter().any(|entry| entry.starts_with("PATH=/usr/local/sbin")));
    assert_eq!((config.working_dir.as_str(), config.labels["a.b"].as_str()), ("/dir", "c"));
    assert_eq!(config.entrypoint.unwrap(), ["/dir/file"]);
    assert_eq!(config.cmd.unwrap(), ["-x"]);
    assert_eq!(config.exposed_ports.len(), 2);
    let history: Vec<_> = lab.engine.images().history(&id).unwrap().into_iter().map(|h| h.created_by).collect();
    assert_eq!(history[0], "/bin/sh -c #(nop)  CMD [\"-x\"]");
    assert_eq!(history[2], "/bin/sh -c #(nop)  EXPOSE 53/udp 80");
    assert_eq!(history[3], "/bin/sh -c #(nop) WORKDIR /dir");
    assert!(history[4].starts_with("/bin/sh -c #(nop) COPY file:") && history[4].ends_with(" in /dir/ "));
    assert_eq!(history.last().unwrap(), "/bin/sh -c #(nop)  ARG greeting=hello");
    lab.assert_clean();
}

#[tokio::test]
async fn the_cache_holds_until_the_content_changes_and_over_a_restart() {
    let lab = Lab::open().await;
    let files = [("Dockerfile", WHOLE), ("file", "x")];
    let started = std::time::Instant::now();
    let (first, _) = lab.build(&files, options("a")).await.unwrap();
    println!("a fresh build of 9 steps: {:?}", started.elapsed());
    let (again, output) = lab.build(&files, options("a")).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(output.matches(" ---> Using cache\n").count(), 8);

    let lab = lab.restart().await;
    let started = std::time::Instant::now();
    let (again, output) = lab.build(&files, options("a")).await.unwrap();
    println!("a cached build of 9 steps: {:?}", started.elapsed());
    assert_eq!(first, again);
    assert_eq!(output.matches("Using cache").count(), 8);

    let (changed, output) = lab.build(&[files[0], ("file", "y")], options("a")).await.unwrap();
    assert_ne!(first, changed);
    assert_eq!(output.matches("Using cache").count(), 3);

    // Arguments count where they are declared.
    let mut with_arg = options("a");
    with_arg.build_args.insert("greeting".into(), Some("bye".into()));
    let (_, output) = lab.build(&files, with_arg).await.unwrap();
    assert_eq!(output.matches("Using cache").count(), 1);

    let (fresh, output) = lab.build(&files, BuildOptions { no_cache: true, ..options("a") }).await.unwrap();
    assert_ne!(first, fresh);
    assert!(!output.contains("Using cache"));
    lab.assert_clean();
}

#[tokio::test]
async fn stages_are_copied_from_and_unneeded_ones_skipped() {
    let lab = Lab::open().await;
    let dockerfile = "\
ARG NAME=made
FROM scratch AS first
COPY a /made
FROM scratch AS never
COPY missing /x
FROM first AS Second
COPY b /other
FROM scratch
COPY --from=first /made /from-first
COPY --from=2 /made /other /both/
";
    let files = [("Dockerfile", dockerfile), ("a", "A"), ("b", "B")];
    let (id, output) = lab.build(&files, options("x")).await.unwrap();
    assert!(output.contains("Step 1/8 : ARG NAME=made\nStep 2/8 : FROM scratch AS first\n"), "{output}");
    assert!(!output.contains("missing"));
    assert_eq!(lab.read(&id, "from-first"), "A");
    assert_eq!((lab.read(&id, "both/made"), lab.read(&id, "both/other")), ("A".into(), "B".into()));

    let (_, output) = lab.build(&files, options("x")).await.unwrap();
    assert!(output.ends_with("Successfully tagged x:latest\n"));
    assert!(!output.contains("Running in"));

    let (id, _) = lab.build(&files, BuildOptions { target: "second".into(), ..options("y") }).await.unwrap();
    assert_eq!(lab.read(&id, "other"), "B");
    let failed = lab.build(&files, BuildOptions { target: "nope".into(), ..options("y") }).await.unwrap_err();
    assert_eq!(failed.0.message, "failed to reach build target nope in Dockerfile");
    lab.assert_clean();
}

#[tokio::test]
async fn wrong_files_are_refused_before_the_first_step() {
    let lab = Lab::open().await;
    for (dockerfile, expect) in [
        ("FROM scratch\n\nRUNN x\n", "dockerfile parse error line 3: unknown instruction: RUNN"),
        ("", "the Dockerfile (Dockerfile) cannot be empty"),
        ("COPY a b\n", "no build stage in current context"),
        ("FROM scratch\n", "No image was generated. Is your Dockerfile empty?"),
    ] {
        let (error, _) = lab.build(&[("Dockerfile", dockerfile)], options("a")).await.unwrap_err();
        assert_eq!(error.message, expect);
    }
    let (error, _) = lab.build(&[("x", "")], options("a")).await.unwrap_err();
    assert_eq!(error.message, "Cannot locate specified Dockerfile: Dockerfile");
    assert_eq!(error.kind, ErrorKind::InvalidArgument);
    let (error, _) = lab.build(&[("Dockerfile", "FROM scratch\nCOPY a /b\n")], options("a")).await.unwrap_err();
    assert!(error.message.starts_with("COPY failed: file not found in build context"), "{error}");
    let (error, _) = lab.build(&[("Dockerfile", WHOLE), ("file", "")], options("Bad")).await.unwrap_err();
    assert!(error.message.contains("must be lowercase"));
    assert!(lab.engine.images().resolve("a").is_err());
    lab.assert_clean();
}

#[tokio::test]
async fn a_hostile_context_leaves_nothing() {
    let lab = Lab::open().await;
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.as_old_mut().name[..11].copy_from_slice(b"../../evil\0");
    header.set_cksum();
    archive.append(&header, std::io::empty()).unwrap();
    let (error, _) = lab.build_tar(archive.into_inner().unwrap(), options("a")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidArgument);
    assert!(error.message.starts_with("Error processing tar file"), "{error}");
    lab.assert_clean();
}

#[tokio::test]
async fn quiet_builds_print_the_id_and_failures_everything() {
    let lab = Lab::open().await;
    let quiet = || BuildOptions { style: Style::Quiet, ..options("a") };
    let (id, output) = lab.build(&[("Dockerfile", WHOLE), ("file", "")], quiet()).await.unwrap();
    assert_eq!(output, format!("{id}\n"));
    let (_, output) = lab.build(&[("Dockerfile", WHOLE)], quiet()).await.unwrap_err();
    assert!(output.contains("Step 5/9 : COPY file /dir/\n"));
}

#[tokio::test]
async fn unused_arguments_are_warned_of_and_labels_are_a_step() {
    let lab = Lab::open().await;
    let mut options = options("a");
    options.build_args.insert("nope".into(), Some("1".into()));
    options.build_args.insert("http_proxy".into(), Some("p".into()));
    options.labels.insert("by".into(), "it's $me".into());
    let (id, output) = lab.build(&[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "")], options).await.unwrap();
    assert!(output.contains("[Warning] One or more build-args [nope] were not consumed\nSuccessfully built"));
    assert!(output.contains("Step 3/3 : LABEL by=it's $me\n"));
    assert_eq!(lab.engine.images().resolve(&id).unwrap().config.labels["by"], "it's $me");
}

#[tokio::test]
async fn triggers_of_the_base_run_once() {
    let lab = Lab::open().await;
    let base = "FROM scratch\nONBUILD COPY a /triggered\nONBUILD ENV T=1\n";
    lab.build(&[("Dockerfile", base)], options("base")).await.unwrap();
    let child = "FROM base\nCOPY b /b\n";
    let (id, output) = lab.build(&[("Dockerfile", child), ("a", "A"), ("b", "B")], options("child")).await.unwrap();
    assert!(output.contains("# Executing 2 build triggers\n"), "{output}");
    assert_eq!(lab.read(&id, "triggered"), "A");
    let config = lab.engine.images().resolve(&id).unwrap().config;
    assert!(config.on_build.is_empty() && config.env.contains(&"T=1".to_owned()));
}

#[tokio::test]
async fn heredocs_become_files_and_the_ignore_file_counts() {
    let lab = Lab::open().await;
    let dockerfile = "FROM scratch\nENV v=1\nCOPY <<one.txt <<'two.txt' /d/\n$v\none.txt\n$v\ntwo.txt\nCOPY . /all/\n";
    let files = [("Dockerfile", dockerfile), (".dockerignore", "*.log\nDockerfile\n"), ("a.log", ""), ("b", "B")];
    let (id, _) = lab.build(&files, options("a")).await.unwrap();
    assert_eq!((lab.read(&id, "d/one.txt"), lab.read(&id, "d/two.txt")), ("1\n".into(), "$v\n".into()));
    assert_eq!(lab.read(&id, "all/b"), "B");
    assert!(!lab.exists(&id, "all/a.log") && !lab.exists(&id, "all/Dockerfile"));
}

#[tokio::test]
async fn builds_at_the_same_time_do_not_disturb_each_other() {
    let lab = Lab::open().await;
    let builds = (0..4).map(|number| {
        let lab = &lab;
        async move {
            let dockerfile = format!("FROM scratch\nCOPY f /f\nENV n={number}\nCOPY f /g\n");
            let name = format!("n{number}");
            lab.build(&[("Dockerfile", dockerfile.as_str()), ("f", name.as_str())], options(&name)).await.unwrap()
        }
    });
    let built = futures_util::future::join_all(builds).await;
    for (number, (id, _)) in built.iter().enumerate() {
        assert_eq!(lab.read(id, "g"), format!("n{number}"));
    }
    lab.assert_clean();
}

#[tokio::test]
async fn add_fetches_urls() {
    let lab = Lab::open().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let found = "200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nweb!";
        for answer in [found, "404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await.unwrap();
        }
    };
    let builds = async {
        let dockerfile = format!("FROM scratch\nADD http://{address}/a/file.txt?x=1 /d/\n");
        let (id, _) = lab.build(&[("Dockerfile", &dockerfile)], options("a")).await.unwrap();
        assert_eq!(lab.read(&id, "d/file.txt"), "web!");
        let (error, _) = lab.build(&[("Dockerfile", &dockerfile)], options("a")).await.unwrap_err();
        assert!(error.message.ends_with("with status 404 Not Found"), "{error}");
    };
    tokio::join!(serve, builds);
    let dockerfile = "FROM scratch\nADD http://127.0.0.1:1/x /x\n";
    let (error, _) = lab.build(&[("Dockerfile", dockerfile)], options("a")).await.unwrap_err();
    assert!(error.message.starts_with("ADD failed: error sending request"), "{error}");
    lab.assert_clean();
}
