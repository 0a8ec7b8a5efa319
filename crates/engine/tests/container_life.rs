//! Signals, execs, restarts, pauses, health, volumes, and an engine that dies in between.
#![allow(clippy::unwrap_used)]

mod machine;

use machine::{Machine, PATIENCE, processes_with, shell, spec, until};
use skep_engine::container::{AttachOptions, LogOptions, RemoveOptions, WaitCondition};
use skep_model::container::{
    ContainerStatus, ExecConfig, HealthConfig, HealthStatus, InjectedFile, Resources, RestartMode, RestartPolicy,
};
use skep_model::id::ContainerId;
use skep_model::network::PortBinding;
use skep_model::{Error, ErrorKind};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn exec_runs_inside_with_the_containers_rights() {
    let machine = Machine::new().await;
    let mut wanted = spec(&["sleep", "1000"]);
    wanted.config.env = vec!["A=outer".into()];
    wanted.host.resources = Resources { pids_limit: 50, ..Default::default() };
    let id = machine.start(wanted).await;
    assert_eq!(machine.exec(&id, &["sh", "-c", "echo $A $$ | head -c 6; exit 5"]).await.0, 5);
    let (_, text) =
        machine.exec(&id, &["sh", "-c", "ps; mount -t tmpfs x /tmp; echo mount=$?; cat /proc/self/cgroup"]).await;
    assert!(text.contains("sleep 1000") && text.contains("mount=1"), "{text}");
    assert!(text.lines().any(|line| line.contains(":pids:") && line.ends_with(&id.0)), "{text}");
    assert_eq!(machine.exec(&id, &["id", "-u"]).await.1, "0\n");
    assert!(machine.engine.inspect(&id.0).unwrap().exec_ids.is_empty());
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_failures_and_terminals() {
    let machine = Machine::new().await;
    let id = machine.start(spec(&["sleep", "1000"])).await;
    let config = |cmd: &[&str]| ExecConfig {
        cmd: cmd.iter().map(|&word| word.to_owned()).collect(),
        attach_stdout: true,
        attach_stdin: true,
        tty: true,
        user: "web".into(),
        ..Default::default()
    };
    let exec = machine.engine.exec_create(&id.0, config(&["nosuch"])).await.unwrap();
    let error = machine.engine.exec_start(&exec, false, (0, 0)).await.unwrap_err();
    assert_eq!(
        error.message,
        "OCI runtime exec failed: exec failed: unable to start container process: exec: \"nosuch\": executable file not found in $PATH: unknown"
    );
    assert_eq!(machine.engine.exec_inspect(&exec).unwrap().exit_code, Some(127));
    let exec = machine
        .engine
        .exec_create(&id.0, config(&["sh", "-c", "tty; stty size; id -un; read x; echo [$x]"]))
        .await
        .unwrap();
    let mut attached = machine.engine.exec_start(&exec, false, (20, 70)).await.unwrap().unwrap();
    attached.input.as_ref().unwrap().send("in\n".into()).await.unwrap();
    let mut text = String::new();
    while let Some(chunk) = attached.output.recv().await {
        text.push_str(&String::from_utf8_lossy(&chunk.data));
    }
    for part in ["/dev/pts/0", "20 70", "web", "[in]"] {
        assert!(text.contains(part), "{text}");
    }
    machine.engine.kill(&id.0, "KILL").await.unwrap();
    let error = machine.engine.exec_create(&id.0, config(&["true"])).await.unwrap_err();
    assert_eq!(error.message, format!("Container {id} is not running"));
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_asks_first_and_kills_after_the_timeout() {
    let machine = Machine::new().await;
    let id = start_trapping(&machine, "trap 'exit 3' TERM").await;
    machine.engine.stop(&id.0, None, None).await.unwrap();
    assert_eq!(machine.engine.inspect(&id.0).unwrap().state.exit_code, 3);
    assert_eq!(machine.engine.stop(&id.0, None, None).await.unwrap_err().kind, ErrorKind::NotModified);
    let deaf = start_trapping(&machine, "trap '' TERM").await;
    let before = Instant::now();
    machine.engine.stop(&deaf.0, Some(1), None).await.unwrap();
    assert!(before.elapsed() >= Duration::from_secs(1));
    assert_eq!(machine.engine.inspect(&deaf.0).unwrap().state.exit_code, 137);
    let error = machine.engine.kill(&deaf.0, "").await.unwrap_err();
    assert_eq!(error.message, format!("Cannot kill container: {}: Container {} is not running", deaf.0, deaf));
    machine.close().await;
}

/// Process 1 ignores what it has not asked for, so its trap must be set before it is tried.
async fn start_trapping(machine: &Machine, trap: &str) -> ContainerId {
    let id = machine.start(shell(&format!("{trap}; echo ready; while :; do sleep 0.05; done"))).await;
    let log = machine.engine.inspect(&id.0).unwrap().log_path.clone();
    until(|| std::fs::read_to_string(&log).is_ok_and(|text| text.contains("ready"))).await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_container_is_removed_only_by_force() {
    let machine = Machine::new().await;
    let id = machine.start(spec(&["sleep", "1000"])).await;
    let error = machine.engine.remove(&id.0, RemoveOptions::default()).await.unwrap_err();
    assert_eq!(
        error.message,
        format!(
            "You cannot remove a running container {id}. Stop the container before attempting removal or force remove"
        )
    );
    machine.engine.remove(&id.0, RemoveOptions { force: true, volumes: false }).await.unwrap();
    machine.nothing_remains(&id).await;
    assert_eq!(machine.engine.inspect(&id.0).unwrap_err().message, format!("No such container: {id}"));
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_and_unpause() {
    let machine = Machine::new().await;
    let id = machine.start(shell("while :; do echo x; sleep 0.02; done")).await;
    machine.engine.pause(&id.0).await.unwrap();
    assert_eq!(machine.engine.inspect(&id.0).unwrap().state.status, ContainerStatus::Paused);
    let length = machine.log_of(&id).await.len();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(machine.log_of(&id).await.len(), length);
    machine.engine.unpause(&id.0).await.unwrap();
    let log = machine.engine.inspect(&id.0).unwrap().log_path.clone();
    let before = std::fs::metadata(&log).unwrap().len();
    until(|| std::fs::metadata(&log).unwrap().len() > before).await;
    machine.engine.pause(&id.0).await.unwrap();
    machine.engine.stop(&id.0, Some(0), None).await.unwrap();
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_restart_and_a_stop_ends_that() {
    let machine = Machine::new().await;
    let mut wanted = shell("exit 4");
    wanted.host.restart_policy = RestartPolicy { mode: RestartMode::OnFailure, maximum_retry_count: 2 };
    let id = machine.start(wanted).await;
    until(|| machine.engine.inspect(&id.0).unwrap().state.status == ContainerStatus::Exited).await;
    assert_eq!(machine.engine.inspect(&id.0).unwrap().restart_count, 2);
    let mut wanted = shell("exit 0");
    wanted.host.restart_policy = RestartPolicy { mode: RestartMode::Always, maximum_retry_count: 0 };
    let id = machine.start(wanted).await;
    until(|| machine.engine.inspect(&id.0).unwrap().restart_count >= 1).await;
    machine.engine.stop(&id.0, None, None).await.unwrap();
    let count = machine.engine.inspect(&id.0).unwrap().restart_count;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let info = machine.engine.inspect(&id.0).unwrap();
    assert_eq!((info.restart_count, info.state.status), (count, ContainerStatus::Exited));
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_followed_to_the_end() {
    let machine = Machine::new().await;
    let (id, _) =
        machine.engine.create(shell("for i in 1 2 3 4 5; do echo $i; sleep 0.05; done; echo -n end")).await.unwrap();
    machine.engine.start(&id.0).await.unwrap();
    let options = LogOptions { stdout: true, stderr: true, follow: true, ..Default::default() };
    let mut lines = machine.engine.logs(&id.0, options).await.unwrap();
    let mut text = String::new();
    while let Some(line) = tokio::time::timeout(PATIENCE, lines.recv()).await.unwrap() {
        text.push_str(&String::from_utf8_lossy(&line.data));
    }
    assert_eq!(text, "1\n2\n3\n4\n5\nend");
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_was_killed_finds_its_containers() {
    let mut machine = Machine::new().await;
    let mut wanted = shell("echo before; read line; echo got $line; exit 6");
    wanted.config.open_stdin = true;
    let living = machine.start(wanted).await;
    let ended = machine.start(shell("echo bye; sleep 0.2; exit 8")).await;
    let lost = machine.start(spec(&["sleep", "1000"])).await;
    let lost_pid = machine.engine.inspect(&lost.0).unwrap().state.pid;
    // A second engine on the same directories stands for one that was started after a
    // kill: the first is never told to stop, and does nothing any more.
    let dead = machine.engine.clone();
    machine.engine.shutdown().await;
    let shim = processes_with(&lost.0[..16]).into_iter().find(|&pid| pid != lost_pid).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(shim).unwrap()), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    let exit = machine.run_dir(&ended).join("exit.json");
    until(|| exit.exists()).await;
    let garbage = machine.config.data_root.join("overlay").join("a".repeat(64));
    std::fs::create_dir_all(garbage.join("diff")).unwrap();
    machine.reopen().await;
    drop(dead);
    let state = |id: &skep_model::id::ContainerId| machine.engine.inspect(&id.0).unwrap().state.clone();
    assert_eq!(state(&living).status, ContainerStatus::Running);
    assert_eq!((state(&ended).status, state(&ended).exit_code), (ContainerStatus::Exited, 8));
    assert_eq!((state(&lost).status, state(&lost).exit_code), (ContainerStatus::Exited, 137));
    assert!(!garbage.exists());
    until(|| processes_with(&lost.0[..16]).is_empty()).await;
    let options = AttachOptions { stdin: true, stdout: true, stream: true, ..Default::default() };
    let mut attached = machine.engine.attach(&living.0, options).await.unwrap();
    attached.input.as_ref().unwrap().send("word\n".into()).await.unwrap();
    assert_eq!(&attached.output.recv().await.unwrap().data[..], b"got word\n");
    assert_eq!(machine.exit_of(&living).await, 6);
    assert_eq!(machine.log_of(&living).await, "before\ngot word\n");
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_engine_was_killed_before_recording_it_is_whole() {
    let mut machine = Machine::new().await;
    let mut wanted = spec(&["sleep", "1000"]);
    wanted.host.network_mode = "bridge".into();
    wanted.host.port_bindings = [("80/tcp".parse().unwrap(), vec![PortBinding::default()])].into();
    let (id, _) = machine.engine.create(wanted).await.unwrap();
    let record = machine.config.data_root.join("containers").join(&id.0).join("container.json");
    let before_the_start = std::fs::read(&record).unwrap();
    machine.engine.start(&id.0).await.unwrap();
    let started = machine.engine.inspect(&id.0).unwrap();
    let attached = machine.network.last_attach.lock().unwrap().clone().unwrap();
    machine.engine.shutdown().await;
    std::fs::write(&record, before_the_start).unwrap();
    machine.reopen().await;
    let found = machine.engine.inspect(&id.0).unwrap();
    assert_eq!(found.state, started.state);
    assert_eq!((&found.endpoints, &found.ports), (&started.endpoints, &started.ports));
    assert_eq!(found.sandbox_key, started.sandbox_key);
    let wanted_of_network = machine.network.last_sync.lock().unwrap().clone().unwrap();
    assert_eq!(wanted_of_network.endpoints, attached.endpoints);

    // What changed after a recorded start is newer than what it was given.
    machine.engine.network_disconnect("bridge", &id.0, false).await.unwrap();
    machine.engine.shutdown().await;
    machine.reopen().await;
    assert!(machine.engine.inspect(&id.0).unwrap().endpoints.is_empty());
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_becomes_known() {
    let machine = Machine::new().await;
    let mut wanted = spec(&["sleep", "1000"]);
    wanted.config.healthcheck = Some(HealthConfig {
        test: vec!["CMD-SHELL".into(), "test ! -e /sick || { echo ill; exit 1; }".into()],
        interval: Duration::from_millis(50),
        retries: 2,
        ..Default::default()
    });
    let (_, mut events) = machine.engine.events().subscribe(None);
    let id = machine.start(wanted).await;
    let status = || machine.engine.inspect(&id.0).unwrap().state.health.clone().unwrap();
    until(|| status().status == HealthStatus::Healthy).await;
    assert_eq!(machine.exec(&id, &["touch", "/sick"]).await.0, 0);
    until(|| status().status == HealthStatus::Unhealthy).await;
    assert_eq!(status().log.last().unwrap().output, "ill\n");
    let mut seen = Vec::new();
    while let Ok(event) = events.try_recv() {
        seen.push(event.action);
    }
    assert!(
        seen.contains(&"health_status: healthy".to_owned()) && seen.contains(&"health_status: unhealthy".to_owned())
    );
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_keep_data_and_start_with_the_images() {
    let machine = Machine::new().await;
    let mut wanted = shell("cat /data/from-image; echo more > /data/mine");
    wanted.host.binds = vec!["store:/data".into()];
    let (code, stdout, _) = machine.run(wanted).await;
    assert_eq!((code, stdout.as_str()), (0, "content\n"));
    let mut wanted = shell("cat /data/mine; touch /data/x; echo $?");
    wanted.host.binds = vec!["store:/data:ro".into()];
    let (_, stdout, _) = machine.run(wanted).await;
    assert_eq!(stdout, "more\n1\n");
    let error = machine.engine.volume_remove("store", false).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert!(error.message.starts_with("remove store: volume is in use - ["), "{}", error.message);
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_leaves_no_volume_of_a_container_that_never_was() {
    let mut machine = Machine::new().await;
    let with_volume = || {
        let mut wanted = spec(&["true"]);
        wanted.config.volumes = ["/data".to_owned()].into();
        wanted
    };
    let (kept, _) = machine.engine.create(with_volume()).await.unwrap();
    machine.engine.remove(&kept.0, RemoveOptions::default()).await.unwrap();
    let (lost, _) = machine.engine.create(with_volume()).await.unwrap();
    assert_eq!(machine.engine.volume_list().len(), 2);
    // What a crash between the volume and the record leaves.
    std::fs::remove_dir_all(machine.config.data_root.join("containers").join(&lost.0)).unwrap();
    machine.reopen().await;
    assert_eq!(machine.engine.volume_list().len(), 1, "only the volume that outlived its container");
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn injected_files_are_there_and_never_on_disk() {
    let machine = Machine::new().await;
    let mut wanted =
        shell("stat -c '%a %u %g' /run/secrets/key; cat /run/secrets/key; echo; while :; do sleep 0.05; done");
    wanted.files = vec![InjectedFile {
        target: "/run/secrets/key".into(),
        uid: 33,
        gid: 34,
        mode: 0o400,
        data: b"hush-hush".to_vec(),
    }];
    let id = machine.start(wanted).await;
    let log = machine.engine.inspect(&id.0).unwrap().log_path.clone();
    until(|| std::fs::read_to_string(&log).unwrap().contains("hush-hush")).await;
    assert!(std::fs::read_to_string(&log).unwrap().contains("400 33 34"));
    let on_disk = |dir: &std::path::Path| {
        let found = std::process::Command::new("grep")
            .args(["-rlsx", "hush-hush"])
            .arg("-e")
            .arg("hush-hush")
            .arg(dir)
            .output()
            .unwrap();
        String::from_utf8(found.stdout).unwrap()
    };
    assert_eq!(on_disk(&machine.config.data_root.join("overlay")), "");
    let mounts = || {
        let all = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let own = machine.config.exec_root.to_string_lossy().into_owned();
        all.lines().filter(|l| l.starts_with("skep-files ") && l.contains(&own)).map(str::to_owned).collect::<Vec<_>>()
    };
    let memory = mounts();
    assert!(memory.len() == 1 && (memory[0].contains("noswap") || memory[0].contains(" ramfs ")), "{memory:?}");

    machine.engine.stop(&id.0, Some(0), None).await.unwrap();
    assert_eq!(mounts(), Vec::<String>::new());
    let error = machine.engine.start(&id.0).await.unwrap_err();
    assert!(error.message.contains("are gone with it"), "{error}");
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_is_attached_before_and_detached_after() {
    let machine = Machine::new().await;
    let mut wanted = shell("cat /etc/hosts /etc/resolv.conf");
    wanted.host.network_mode = "bridge".into();
    wanted.host.port_bindings = [("80/tcp".parse().unwrap(), vec![])].into();
    let (code, stdout, _) = machine.run(wanted.clone()).await;
    assert_eq!(code, 0);
    assert!(stdout.contains("172.17.0.2\t"), "{stdout}");
    let request = machine.network.last_attach.lock().unwrap().clone().unwrap();
    let leg = &request.endpoints[0];
    assert_eq!((leg.interface.as_str(), leg.default_route, leg.ports.len()), ("eth0", true, 1));
    assert_eq!(leg.addresses[0].to_string(), "172.17.0.2/16");
    assert!(leg.ports[0].host_port >= 32768);
    assert!(request.resolver.is_none());
    let calls = machine.network.calls.lock().unwrap().clone();
    assert!(calls.iter().any(|call| call == "attach 1") && calls.last().unwrap().starts_with("detach"), "{calls:?}");
    *machine.network.refuse.lock().unwrap() =
        Some(Error::conflict("Bind for 0.0.0.0:1 failed: port is already allocated"));
    let (id, _) = machine.engine.create(wanted).await.unwrap();
    let error = machine.engine.start(&id.0).await.unwrap_err();
    assert!(
        error.message.starts_with("driver failed programming external connectivity on endpoint"),
        "{}",
        error.message
    );
    assert!(machine.engine.network_inspect("bridge").unwrap().containers.is_empty());
    assert!(
        processes_with(&id.0[..16]).is_empty() || {
            until(|| processes_with(&id.0[..16]).is_empty()).await;
            true
        }
    );
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn user_networks_resolve_names_and_connect_live() {
    let machine = Machine::new().await;
    let network = skep_model::network::NetworkSpec { name: "mine".into(), ..Default::default() };
    machine.engine.network_create(network.clone()).await.unwrap();
    assert_eq!(
        machine.engine.network_create(network).await.unwrap_err().message,
        "network with name mine already exists"
    );
    let mut wanted = spec(&["sleep", "1000"]);
    wanted.name = "web".into();
    wanted.host.network_mode = "mine".into();
    let id = machine.start(wanted).await;
    let request = machine.network.last_attach.lock().unwrap().clone().unwrap();
    assert_eq!(request.endpoints[0].dns_names, ["web".to_owned(), id.0[..12].to_owned()]);
    assert!(request.resolver.is_some());
    let (_, text) = machine.exec(&id, &["cat", "/etc/resolv.conf"]).await;
    assert!(text.starts_with("nameserver 127.0.0.11\n"), "{text}");
    let error = machine.engine.network_remove("mine").await.unwrap_err();
    assert!(error.message.contains("has active endpoints"), "{}", error.message);
    machine.engine.network_connect("bridge", "web", Default::default()).await.unwrap();
    assert_eq!(machine.engine.inspect("web").unwrap().endpoints.len(), 2);
    machine.engine.network_disconnect("bridge", "web", false).await.unwrap();
    machine.engine.remove("web", RemoveOptions { force: true, volumes: false }).await.unwrap();
    machine.engine.network_remove("mine").await.unwrap();
    assert_eq!(machine.engine.network_inspect("mine").unwrap_err().message, "network mine not found");
    machine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_limits_change_live() {
    let machine = Machine::new().await;
    let mut wanted = spec(&["sleep", "1000"]);
    wanted.host.resources = Resources { memory_bytes: 64 << 20, ..Default::default() };
    let id = machine.start(wanted).await;
    machine.engine.rename(&id.0, "other").await.unwrap();
    assert_eq!(machine.engine.inspect("other").unwrap().id, id);
    let resources = Resources { memory_bytes: 128 << 20, cpu_shares: 512, ..Default::default() };
    machine.engine.update("other", resources, None).await.unwrap();
    let (_, rows) = machine.engine.top("other", "").await.unwrap();
    assert!(rows.iter().any(|row| row.last().unwrap() == "sleep 1000"), "{rows:?}");
    if !machine.engine.kernel().cgroup_v2 {
        let dir = machine.engine.kernel().cgroup_dir("memory", &format!("{}/{id}", machine.config.cgroup_parent));
        assert_eq!(std::fs::read_to_string(dir.join("memory.limit_in_bytes")).unwrap().trim(), (128 << 20).to_string());
    }
    let wait = machine.engine.wait("other", WaitCondition::NextExit).unwrap();
    machine.engine.kill("other", "KILL").await.unwrap();
    assert_eq!(tokio::time::timeout(PATIENCE, wait).await.unwrap().exit_code, 137);
    machine.close().await;
}
