//! From create to exit: output, exit codes, users, limits, and what is refused.
#![allow(clippy::unwrap_used)]

mod machine;

use machine::{Machine, PATIENCE, shell, spec};
use skep_engine::container::{AttachOptions, WaitCondition};
use skep_model::ErrorKind;
use skep_model::container::{ContainerStatus, Resources};

#[tokio::test(flavor = "multi_thread")]
async fn output_log_and_exit_code_are_kept() {
    let machine = Machine::new().await;
    let (code, stdout, stderr) = machine.run(shell("echo out; echo err >&2; exit 7")).await;
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (7, "out\n", "err\n"));
    let info = machine.engine.list()[0].clone();
    assert_eq!((info.state.status, info.state.exit_code, info.state.pid), (ContainerStatus::Exited, 7, 0));
    assert!(info.state.finished_at >= info.state.started_at);
    let mut lines: Vec<String> = machine.log_of(&info.id).await.lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["err", "out"]);
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_can_be_started_again() {
    let machine = Machine::new().await;
    let (code, _, _) = machine.run(shell("echo x >> /file; exit $(wc -l < /file)")).await;
    assert_eq!(code, 1);
    let id = machine.engine.list()[0].id.clone();
    machine.engine.start(&id.0).await.unwrap();
    assert_eq!(machine.exit_of(&id).await, 2);
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn much_output_arrives_whole() {
    let machine = Machine::new().await;
    let (code, stdout, _) = machine.run(shell("head -c 20000000 /dev/zero | busybox tr '\\0' x")).await;
    assert_eq!((code, stdout.len()), (0, 20_000_000));
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stdin_reaches_the_process_and_its_end_too() {
    let machine = Machine::new().await;
    let mut spec = spec(&["cat"]);
    spec.config.open_stdin = true;
    spec.config.stdin_once = true;
    let (id, _) = machine.engine.create(spec).await.unwrap();
    let options = AttachOptions { stdin: true, stdout: true, stream: true, ..Default::default() };
    let mut attached = machine.engine.attach(&id.0, options).await.unwrap();
    machine.engine.start(&id.0).await.unwrap();
    let input = attached.input.take().unwrap();
    input.send("hello".into()).await.unwrap();
    drop(input);
    let mut text = Vec::new();
    while let Some(chunk) = attached.output.recv().await {
        text.extend_from_slice(&chunk.data);
    }
    assert_eq!(text, b"hello");
    assert_eq!(machine.exit_of(&id).await, 0);
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_one_and_has_a_size() {
    let machine = Machine::new().await;
    let mut spec = shell("tty && stty size; read line; stty size; echo got $line");
    spec.config.tty = true;
    spec.config.open_stdin = true;
    spec.host.console_size = (33, 111);
    let (id, _) = machine.engine.create(spec).await.unwrap();
    let options = AttachOptions { stdin: true, stdout: true, stream: true, ..Default::default() };
    let mut attached = machine.engine.attach(&id.0, options).await.unwrap();
    machine.engine.start(&id.0).await.unwrap();
    let mut text = String::new();
    while !text.contains("33 111") {
        text.push_str(&String::from_utf8_lossy(&attached.output.recv().await.unwrap().data));
    }
    assert!(text.contains("/dev/pts/0"), "{text}");
    machine.engine.resize(&id.0, 40, 90).await.unwrap();
    attached.input.as_ref().unwrap().send("word\n".into()).await.unwrap();
    while let Some(chunk) = attached.output.recv().await {
        text.push_str(&String::from_utf8_lossy(&chunk.data));
    }
    assert!(text.contains("40 90") && text.contains("got word"), "{text}");
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_executed_is_told_in_docker_words() {
    let machine = Machine::new().await;
    let check = async |cmd: &[&str], exit_code: i32, text: &str| {
        let (id, _) = machine.engine.create(spec(cmd)).await.unwrap();
        let error = machine.engine.start(&id.0).await.unwrap_err();
        assert_eq!(error.message, text);
        let state = machine.engine.inspect(&id.0).unwrap().state.clone();
        assert_eq!((state.status, state.exit_code), (ContainerStatus::Created, exit_code));
        assert!(!machine.run_dir(&id).exists());
    };
    let prefix =
        "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process";
    check(&["nosuchcmd"], 127, &format!("{prefix}: exec: \"nosuchcmd\": executable file not found in $PATH: unknown"))
        .await;
    check(&["/etc"], 126, &format!("{prefix}: exec: \"/etc\": permission denied: unknown")).await;
    check(&["/nosuch"], 127, &format!("{prefix}: exec: \"/nosuch\": stat /nosuch: no such file or directory: unknown"))
        .await;
    check(&["/bin/broken"], 126, &format!("{prefix}: exec /bin/broken: exec format error: unknown")).await;
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_images_and_nonsense_are_refused_without_a_trace() {
    let machine = Machine::new().await;
    let mut named = spec(&["true"]);
    named.name = "web2".into();
    let (id, _) = machine.engine.create(named.clone()).await.unwrap();
    let error = machine.engine.create(named).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert_eq!(
        error.message,
        format!(
            "Conflict. The container name \"/web2\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name."
        )
    );
    let mut missing = spec(&["true"]);
    missing.config.image = "nosuch:1".into();
    assert_eq!(machine.engine.create(missing).await.unwrap_err().kind, ErrorKind::NotFound);
    let mut bad = spec(&["true"]);
    bad.host.resources = Resources { memory_bytes: 1, ..Default::default() };
    assert_eq!(machine.engine.create(bad).await.unwrap_err().kind, ErrorKind::InvalidArgument);
    assert_eq!(machine.engine.list().len(), 1);
    let overlays = std::fs::read_dir(machine.config.data_root.join("overlay")).unwrap().count();
    assert_eq!(overlays, 1);
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_environment_are_those_asked_for() {
    let machine = Machine::new().await;
    let mut wanted = shell("id; pwd; echo $HOME $A; echo ok > /dev/stdout; hostname");
    wanted.config.user = "web".into();
    wanted.config.working_dir = "/some/dir".into();
    wanted.config.env = vec!["A=1".into()];
    wanted.config.hostname = "box".into();
    let (code, stdout, stderr) = machine.run(wanted).await;
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(stdout, "uid=33(web) gid=34(www) groups=34(www)\n/some/dir\n/home 1\nok\nbox\n");
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_in_force() {
    let machine = Machine::new().await;
    let mut eater = shell("head -c 200m /dev/zero | tail | wc -c; exit 3");
    eater.config.cmd = Some(vec!["tail".into(), "/dev/zero".into()]);
    eater.host.resources = Resources { memory_bytes: 32 << 20, memory_swap_bytes: 32 << 20, ..Default::default() };
    let (code, _, _) = machine.run(eater).await;
    let info = machine.engine.list()[0].clone();
    assert_eq!((code, info.state.oom_killed), (137, true));
    let mut forks = shell("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 5 & done; wait");
    forks.host.resources = Resources { pids_limit: 4, ..Default::default() };
    let (code, _, stderr) = machine.run(forks).await;
    assert!(code != 0 && stderr.contains("can't fork"), "{code} {stderr}");
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_are_limited_unless_given() {
    let machine = Machine::new().await;
    let line = "mount -t tmpfs x /tmp; echo mount=$?; unshare -m true; echo unshare=$?; chown 1 /tmp; echo chown=$?; sleep 0 & wait; echo fork=$?; touch /file; echo touch=$?";
    let (_, stdout, _) = machine.run(shell(line)).await;
    assert_eq!(stdout, "mount=1\nunshare=1\nchown=0\nfork=0\ntouch=0\n");
    let mut weak = shell(line);
    weak.host.cap_drop = vec!["ALL".into()];
    weak.host.readonly_rootfs = true;
    weak.host.security_opt = vec!["no-new-privileges".into()];
    let (_, stdout, _) = machine.run(weak).await;
    assert_eq!(stdout, "mount=1\nunshare=1\nchown=1\nfork=0\ntouch=1\n");
    let mut strong = shell(line);
    strong.host.privileged = true;
    let (_, stdout, stderr) = machine.run(strong).await;
    assert_eq!(stdout, "mount=0\nunshare=0\nchown=0\nfork=0\ntouch=0\n", "{stderr}");
    machine.close().await;
}

/// What the kernel says of the reading process.
const RIGHTS: &str =
    "grep -E '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t\\n'";
const DEFAULT_RIGHTS: &str = "CapInh:0000000000000000CapPrm:00000000a80425fbCapEff:00000000a80425fb\
    CapBnd:00000000a80425fbCapAmb:0000000000000000NoNewPrivs:0Seccomp:2";

#[tokio::test(flavor = "multi_thread")]
async fn a_process_has_the_rights_docker_gives_it() {
    let machine = Machine::new().await;
    assert_eq!(machine.run(shell(RIGHTS)).await.1, DEFAULT_RIGHTS);
    let mut user = shell(RIGHTS);
    user.config.user = "web".into();
    // The kernel empties the sets of one who is not root when the program starts.
    let powerless = DEFAULT_RIGHTS.replace("CapPrm:00000000a80425fb", "CapPrm:0000000000000000");
    let powerless = powerless.replace("CapEff:00000000a80425fb", "CapEff:0000000000000000");
    assert_eq!(machine.run(user).await.1, powerless);
    let mut promised = shell(RIGHTS);
    promised.host.security_opt = vec!["no-new-privileges".into()];
    assert_eq!(machine.run(promised).await.1, DEFAULT_RIGHTS.replace("NoNewPrivs:0", "NoNewPrivs:1"));
    let mut free = shell(RIGHTS);
    free.host.security_opt = vec!["seccomp=unconfined".into()];
    assert_eq!(machine.run(free).await.1, DEFAULT_RIGHTS.replace("Seccomp:2", "Seccomp:0"));
    let id = machine.start(shell("sleep 100")).await;
    assert_eq!(machine.exec(&id, &["sh", "-c", RIGHTS]).await, (0, DEFAULT_RIGHTS.to_owned()));
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_of_ones_own_is_followed() {
    let machine = Machine::new().await;
    let mut wanted = shell("chown 1 /tmp; echo chown=$?; chmod 700 /tmp; echo chmod=$?");
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["chown", "fchownat", "lchown"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}"#;
    wanted.host.security_opt = vec![format!("seccomp={profile}")];
    let (_, stdout, stderr) = machine.run(wanted).await;
    assert_eq!(stdout, "chown=1\nchmod=0\n", "{stderr}");
    assert!(stderr.contains("Permission denied"), "{stderr}");
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_reaps_and_forwards() {
    let machine = Machine::new().await;
    let mut wanted = shell("ps -o pid,comm; trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done");
    wanted.host.init = Some(true);
    let (id, _) = machine.engine.create(wanted).await.unwrap();
    let options = AttachOptions { stdout: true, stream: true, ..Default::default() };
    let mut attached = machine.engine.attach(&id.0, options).await.unwrap();
    machine.engine.start(&id.0).await.unwrap();
    let mut text = String::new();
    while !text.contains("ready") {
        text.push_str(&String::from_utf8_lossy(&attached.output.recv().await.unwrap().data));
    }
    assert!(text.contains("1 skep-init"), "{text}");
    machine.engine.stop(&id.0, Some(20), None).await.unwrap();
    assert_eq!(machine.engine.inspect(&id.0).unwrap().state.exit_code, 9);
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_removes_itself() {
    let machine = Machine::new().await;
    let mut wanted = spec(&["true"]);
    wanted.host.auto_remove = true;
    wanted.config.volumes = ["/anonymous".to_owned()].into();
    let (id, _) = machine.engine.create(wanted).await.unwrap();
    assert_eq!(machine.engine.volume_list().len(), 1);
    let wait = machine.engine.wait(&id.0, WaitCondition::Removed).unwrap();
    machine.engine.start(&id.0).await.unwrap();
    let result = tokio::time::timeout(PATIENCE, wait).await.unwrap();
    assert_eq!(result.exit_code, 0);
    assert!(machine.engine.list().is_empty() && machine.engine.volume_list().is_empty());
    machine.nothing_remains(&id).await;
    machine.close().await;
}
