//! Containers of tasks: what a service says reaches them, and users reach into them.

use crate::Scenario;
use crate::images::start_registry;
use anyhow::{Result, ensure};
use skep_conformance::client::{failure, success};
use skep_conformance::host::HOST_ADDRESS;
use skep_conformance::{Ending, Host, wait};
use std::fs;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("a_task_is_reached_by_its_slot_and_its_id", a_task_is_reached_by_its_slot_and_its_id),
    ("logs_of_a_service_follow_its_tasks", logs_of_a_service_follow_its_tasks),
    ("secrets_and_configs_become_files", secrets_and_configs_become_files),
    ("settings_of_a_service_reach_its_containers", settings_of_a_service_reach_its_containers),
    ("nodes_pull_with_the_credentials_of_a_service", nodes_pull_with_the_credentials_of_a_service),
];

fn init(host: &Host) -> Result<()> {
    host.import_busybox()?;
    host.ok(&["swarm", "init", "--advertise-addr", HOST_ADDRESS]).map(drop)
}

fn a_task_is_reached_by_its_slot_and_its_id(host: &mut Host) -> Result<()> {
    init(host)?;
    host.ok(&["service", "create", "--name", "web", "--hostname", "h{{.Task.Slot}}", "busybox", "sleep", "10000"])?;
    let task = host.ok(&["service", "ps", "-q", "--no-trunc", "web"])?;
    for name in ["web.1", task.as_str(), &task[..12]] {
        ensure!(host.ok(&["exec", name, "hostname"])? == "h1", "{name}");
        let name_of = host.ok(&["container", "inspect", "--format", "{{.Name}}", name])?;
        ensure!(name_of == format!("/web.1.{task}"), "{name}: {name_of}");
    }
    // Whoever means the task finds the task.
    let state = host.ok(&["inspect", "--format", "{{.Status.State}} {{.Slot}}", &task])?;
    ensure!(state == "running 1", "{state}");
    // A client may tell the size only after the start.
    let sized = "until stty size | grep -q '^33 101'; do usleep 20000; done; echo sized";
    let shown = host.on_terminal(&["exec", "-it", "web.1", "sh", "-c", sized])?.finish()?;
    ensure!(shown.contains("sized"), "{shown}");
    let file = host.scratch().join("note");
    fs::write(&file, "copied\n")?;
    host.ok(&["cp", &file.to_string_lossy(), "web.1:/tmp/note"])?;
    ensure!(host.ok(&["exec", "web.1", "cat", "/tmp/note"])? == "copied");
    ensure!(host.ok(&["top", "web.1"])?.contains("sleep 10000"));
    let refusal = host.refused(&["exec", "web.2", "true"])?;
    ensure!(refusal.contains("No such container: web.2"), "{refusal}");
    // What decides over a container's life is the service's business.
    let refusal = host.refused(&["kill", "web.1"])?;
    ensure!(refusal.contains("No such container: web.1"), "{refusal}");
    Ok(())
}

fn logs_of_a_service_follow_its_tasks(host: &mut Host) -> Result<()> {
    init(host)?;
    let talk = "echo hello from $(hostname); echo warn >&2; sleep 10000";
    let create = ["service", "create", "--name", "talk", "--hostname", "h{{.Task.Slot}}"];
    host.ok(&[&create[..], &["busybox", "sh", "-c", talk]].concat())?;
    let mut follower = host.command(&["service", "logs", "-f", "--raw", "talk"]);
    let log = host.scratch().join("followed");
    let output = fs::File::create(&log)?;
    let mut follower = Ending(follower.stdout(output.try_clone()?).stderr(output).spawn()?);
    let heard = |text: &str| {
        wait::until(text, || {
            let all = fs::read_to_string(&log)?;
            ensure!(all.contains(text), "{all}");
            Ok(())
        })
    };
    heard("hello from h1")?;
    host.ok(&["service", "scale", "talk=2"])?;
    heard("hello from h2")?;
    ensure!(follower.0.try_wait()?.is_none(), "following goes on");
    let all = host.ok(&["service", "logs", "--raw", "--tail", "1", "talk"])?;
    ensure!(all.lines().count() <= 2, "{all}");
    let task = host.ok(&["service", "logs", "--raw", "talk.2"])?;
    ensure!(task.contains("hello from h2") && !task.contains("h1"), "{task}");
    Ok(())
}

fn secrets_and_configs_become_files(host: &mut Host) -> Result<()> {
    init(host)?;
    let scratch = host.scratch().to_path_buf();
    let write = |name: &str, text: &str| -> Result<String> {
        let path = scratch.join(name);
        fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let password = format!("pass-{}-word", std::process::id());
    host.ok(&["secret", "create", "pw", &write("pw", &password)?])?;
    host.ok(&["config", "create", "plain", &write("plain", "{{not a template")?])?;
    let template = "{{.Service.Name}} {{.Task.Slot}} {{env \"ROLE\"}} {{secret \"key\"}}";
    host.ok(&["config", "create", "--template-driver", "golang", "filled", &write("filled", template)?])?;
    let files = [
        "--secret=source=pw,target=key,uid=33,gid=34,mode=0400",
        "--secret=pw",
        "--config=source=filled,target=/etc/app.conf",
        "--config=plain",
    ];
    let create = ["service", "create", "--name", "web", "-e", "ROLE=front-{{.Task.Slot}}"];
    host.ok(&[&create[..], &files, &["busybox", "sleep", "10000"]].concat())?;

    let read = |args: &[&str]| host.ok(&[&["exec", "web.1"], args].concat());
    ensure!(read(&["cat", "/run/secrets/pw"])? == password);
    ensure!(read(&["cat", "/run/secrets/key"])? == password);
    ensure!(read(&["stat", "-c", "%a %u %g", "/run/secrets/key"])? == "400 33 34");
    ensure!(read(&["stat", "-c", "%a %u %g", "/run/secrets/pw"])? == "444 0 0");
    ensure!(read(&["cat", "/etc/app.conf"])? == format!("web 1 front-1 {password}"));
    ensure!(read(&["cat", "/plain"])? == "{{not a template");
    let refusal = host.refused(&["exec", "web.1", "sh", "-c", "echo x > /plain"])?;
    ensure!(refusal.contains("Read-only file system"), "{refusal}");

    let leaks =
        |host: &Host| host.inside(&["grep", "-rl", &password, &host.scratch().join("lib").to_string_lossy()]).output();
    let found = leaks(host)?;
    ensure!(found.stdout.is_empty(), "the secret is on disk: {}", String::from_utf8_lossy(&found.stdout));
    // A daemon that comes back does without: the container has its files, and new tasks get theirs.
    host.kill_daemon()?;
    host.start_daemon()?;
    wait::until("the task to be reached again", || {
        ensure_text(&host.ok(&["exec", "web.1", "cat", "/run/secrets/pw"])?, &password)
    })?;
    host.ok(&["service", "update", "--force", "--detach", "web"])?;
    wait::until("a new task with its secret", || {
        let running = host.ok(&["service", "ps", "-q", "--filter", "desired-state=running", "web"])?;
        ensure!(running.lines().count() == 1 && host.ok(&["service", "ps", "-q", "web"])?.lines().count() == 2);
        ensure_text(&host.ok(&["exec", "web.1", "cat", "/run/secrets/pw"])?, &password)
    })?;
    ensure!(leaks(host)?.stdout.is_empty(), "the secret is on disk");

    host.ok(&[
        "config",
        "create",
        "--template-driver",
        "golang",
        "broken",
        &write("broken", "{{secret \"nosuch\"}}")?,
    ])?;
    host.ok(&["service", "create", "--detach", "--name", "bad", "--config", "broken", "busybox", "true"])?;
    wait::until("the rejection", || {
        let row = host.ok(&["service", "ps", "--no-trunc", "--format", "{{.CurrentState}} {{.Error}}", "bad"])?;
        ensure!(row.contains("Rejected") && row.contains("secret target nosuch not found"), "{row}");
        Ok(())
    })
}

fn ensure_text(got: &str, expect: &str) -> Result<()> {
    ensure!(got == expect, "{got}");
    Ok(())
}

fn settings_of_a_service_reach_its_containers(host: &mut Host) -> Result<()> {
    init(host)?;
    let bound = host.scratch().join("bound");
    fs::create_dir_all(&bound)?;
    fs::write(bound.join("file"), "bound\n")?;
    let bind = format!("--mount=type=bind,source={},target=/bound,readonly", bound.display());
    let script = "trap 'exit 3' USR1; while :; do sleep 0.1; done";
    host.ok(&[
        "service",
        "create",
        "--name",
        "web",
        "--hostname",
        "{{.Service.Name}}-{{.Task.Slot}}",
        "--env",
        "A=1",
        "--container-label",
        "l=v",
        "--user",
        "1000:1001",
        "--group",
        "1234",
        "--workdir",
        "/tmp",
        "--cap-drop",
        "ALL",
        "--cap-add",
        "NET_BIND_SERVICE",
        "--sysctl",
        "net.ipv4.ip_unprivileged_port_start=1",
        "--ulimit",
        "nofile=100:200",
        "--limit-memory",
        "64m",
        "--limit-pids",
        "50",
        "--limit-cpu",
        "0.5",
        "--init",
        "--tty",
        "--read-only",
        "--stop-signal",
        "USR1",
        "--stop-grace-period",
        "5s",
        "--host",
        "db:10.1.2.3",
        "--dns",
        "10.9.9.9",
        "--dns-search",
        "example.org",
        "--dns-option",
        "ndots:3",
        "--mount",
        "type=tmpfs,target=/scratch,tmpfs-size=1048576,tmpfs-mode=1777",
        "--mount",
        "type=volume,source=data-{{.Task.Slot}},target=/data",
        &bind,
        "--log-driver",
        "json-file",
        "--log-opt",
        "max-size=1m",
        "--health-cmd",
        "true",
        "--health-interval",
        "200ms",
        "--publish",
        "mode=host,published=9099,target=80",
        "busybox",
        "sh",
        "-c",
        script,
    ])?;
    let read = |line: &str| host.ok(&["exec", "web.1", "sh", "-c", line]);
    let check = |line: &str, expect: &str| {
        let got = read(line)?.replace('\r', "");
        ensure!(got == expect, "{line}: {got}, not {expect}");
        Ok(())
    };
    check("hostname; echo $A; pwd; id -u; id -g; id -G", "web-1\n1\n/tmp\n1000\n1001\n1001 1234")?;
    check("grep CapBnd /proc/1/status", "CapBnd:\t0000000000000400")?;
    check("cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "1")?;
    check("ulimit -Sn; ulimit -Hn", "100\n200")?;
    check("grep db /etc/hosts", "10.1.2.3\tdb")?;
    check("grep search /etc/resolv.conf", "search example.org")?;
    check("grep -o ndots:3 /etc/resolv.conf", "ndots:3")?;
    check("cat /bound/file; stat -f -c %T /scratch", "bound\ntmpfs")?;
    check("touch /x 2>/dev/null || echo denied; touch /scratch/x && echo done", "denied\ndone")?;
    let init = read("tr '\\0' ' ' < /proc/1/cmdline")?;
    ensure!(!init.starts_with("sh -c"), "an init is process 1: {init}");

    let seen = host.inspect(&["inspect", "web.1"])?;
    let config = &seen["HostConfig"];
    ensure!(config["Memory"] == 64 << 20 && config["PidsLimit"] == 50 && config["NanoCpus"] == 500_000_000, "{config}");
    ensure!(config["LogConfig"]["Config"]["max-size"] == "1m", "{config}");
    ensure!(config["Dns"][0] == "10.9.9.9", "{config}");
    ensure!(seen["Config"]["StopSignal"] == "USR1" && seen["Config"]["StopTimeout"] == 5, "{seen}");
    ensure!(seen["Config"]["Tty"] == true && seen["Config"]["Labels"]["l"] == "v", "{seen}");
    ensure!(seen["State"]["Health"]["Status"] == "healthy", "{seen}");
    ensure!(host.ok(&["volume", "ls", "-q"])?.lines().any(|name| name == "data-1"));
    let ports = host.ok(&["service", "ps", "--format", "{{.Ports}}", "web"])?;
    ensure!(ports == "*:9099->80/tcp", "{ports}");
    host.ok(&["service", "create", "--detach", "--name", "odd", "--log-driver", "nosuch", "busybox", "true"])?;
    wait::until("the reason why a task waits", || {
        let error = host.ok(&["service", "ps", "--no-trunc", "--format", "{{.Error}}", "odd"])?;
        ensure!(error.contains("missing plugin on 1 node"), "{error}");
        Ok(())
    })
}

/// bcrypt of `hush-hush`.
const REGISTRY_USERS: &str = "ann:$2b$04$AcbVOOsfo4wgQD/Jv2e0k.EqxZWBcPvn.FALGWwkyoWqnIte51zlS\n";

/// A registry that wants a password.
fn start_private_registry(host: &Host) -> Result<Ending> {
    let users = host.scratch().join("users");
    fs::write(&users, REGISTRY_USERS)?;
    let auth = format!("auth: {{htpasswd: {{realm: private, path: {}}}}}\n", users.display());
    start_registry(host, 5001, &auth)
}

fn nodes_pull_with_the_credentials_of_a_service(host: &mut Host) -> Result<()> {
    let _registry = start_private_registry(host)?;
    init(host)?;
    let login = host.scratch().join("login");
    fs::create_dir_all(&login)?;
    let with_login = |args: &[&str]| {
        let mut command = host.command(args);
        command.env("DOCKER_CONFIG", &login);
        command.output().map_err(anyhow::Error::from)
    };
    let server = "127.0.0.1:5001";
    let refusal = failure(&with_login(&["login", "-u", "ann", "-p", "wrong", server])?)?;
    ensure!(refusal.contains("401 Unauthorized"), "{refusal}");
    let said = success(&with_login(&["login", "-u", "ann", "-p", "hush-hush", server])?)?;
    ensure!(said.contains("Login Succeeded"), "{said}");

    let image = format!("{server}/team/app:1");
    host.ok(&["tag", "busybox", &image])?;
    success(&with_login(&["push", &image])?)?;
    host.ok(&["rmi", &image])?;
    let create = |name: &'static str, more: &[&str]| {
        let args = [&["service", "create", "--detach", "--name", name], more, &[&image, "sleep", "10000"]].concat();
        success(&with_login(&args)?)
    };
    create("without", &["--no-resolve-image", "--restart-condition", "none"])?;
    wait::until("a rejection without credentials", || {
        let row = host.ok(&["service", "ps", "--no-trunc", "--format", "{{.CurrentState}} {{.Error}}", "without"])?;
        ensure!(row.contains("Rejected") && row.contains("No such image"), "{row}");
        Ok(())
    })?;
    create("with", &["--with-registry-auth"])?;
    let runs = || {
        wait::until("the task to run", || {
            let row = host.ok(&["service", "ps", "--no-trunc", "--format", "{{.CurrentState}} {{.Image}}", "with"])?;
            ensure!(row.starts_with("Running") && row.contains("@sha256:"), "{row}");
            Ok(())
        })
    };
    runs()?;
    let shown = host.ok(&["service", "inspect", "with"])?;
    ensure!(!shown.contains("hush-hush") && !shown.contains("ann"), "{shown}");
    let all = host.scratch().join("lib");
    let found = host.inside(&["grep", "-rl", "hush-hush", &all.to_string_lossy()]).output()?;
    ensure!(found.stdout.is_empty(), "the password is on disk: {}", String::from_utf8_lossy(&found.stdout));
    // An update without credentials keeps those that the service has.
    host.ok(&["service", "scale", "--detach", "with=0"])?;
    wait::until("the task to go", || {
        ensure!(host.ok(&["ps", "-aq", "--filter", "name=with"])?.is_empty());
        Ok(())
    })?;
    host.ok(&["rmi", &image]).ok();
    host.ok(&["image", "prune", "-f"])?;
    host.ok(&["service", "scale", "--detach", "with=1"])?;
    runs()
}
