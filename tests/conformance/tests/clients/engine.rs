//! Containers on one machine.

use crate::Scenario;
use anyhow::{Context, Result, ensure};
use skep_conformance::{Host, wait};
use std::io::{Read, Write};
use std::process::Stdio;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("version_and_info", version_and_info),
    ("run_prints_and_removes", run_prints_and_removes),
    ("run_passes_exit_codes_on", run_passes_exit_codes_on),
    ("run_reads_standard_input", run_reads_standard_input),
    ("run_on_a_terminal_has_its_size", run_on_a_terminal_has_its_size),
    ("lifecycle_and_ps", lifecycle_and_ps),
    ("logs_follow", logs_follow),
    ("exec", exec),
    ("inspect_tells_the_truth", inspect_tells_the_truth),
    ("limits_reach_the_kernel", limits_reach_the_kernel),
    ("confinement", confinement),
    ("volumes_keep_data", volumes_keep_data),
];

fn version_and_info(host: &mut Host) -> Result<()> {
    let version =
        host.ok(&["version", "--format", "{{.Server.APIVersion}} {{.Server.MinAPIVersion}} {{.Server.Os}}"])?;
    ensure!(version == "1.50 1.24 linux", "{version}");
    let info = host.ok(&["info"])?;
    ensure!(info.contains("nftables") || info.contains("ipvs"), "info does not name the balancer: {info}");
    ensure!(info.contains("Swarm: inactive"), "{info}");
    Ok(())
}

fn run_prints_and_removes(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    ensure!(host.ok(&["run", "--rm", "busybox", "echo", "hi"])? == "hi");
    ensure!(host.ok(&["ps", "-aq"])?.is_empty(), "--rm left a container");
    Ok(())
}

fn run_passes_exit_codes_on(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    for (args, code) in [
        (["run", "--rm", "busybox", "sh", "-c", "exit 3"].as_slice(), 3),
        (&["run", "--rm", "busybox", "nosuchcommand"], 127),
        (&["run", "--rm", "busybox", "/etc"], 126),
    ] {
        let status = host.command(args).stderr(Stdio::null()).status()?;
        ensure!(status.code() == Some(code), "{args:?}: {status}");
    }
    Ok(())
}

fn run_reads_standard_input(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    let mut child = host
        .command(&["run", "--rm", "-i", "busybox", "sh", "-c", "cat; echo end >&2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let payload: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
    let mut input = child.stdin.take().context("stdin")?;
    let sent = payload.clone();
    let writer = std::thread::spawn(move || input.write_all(sent.as_bytes()));
    let output = child.wait_with_output()?;
    writer.join().expect("the writer does not panic")?;
    ensure!(output.stdout == payload.as_bytes(), "{} of {} bytes came back", output.stdout.len(), payload.len());
    ensure!(output.stderr == b"end\n");
    Ok(())
}

fn run_on_a_terminal_has_its_size(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    let until =
        |size: &str| format!("until stty size | grep -q '^{size}$'; do usleep 20000; done; echo size is {size};");
    let script = format!("{} {} read word; echo read $word", until("33 101"), until("44 120"));
    let mut terminal = host.on_terminal(&["run", "--rm", "-it", "busybox", "sh", "-c", &script])?;
    terminal.expect("size is 33 101")?;
    terminal.resize_until(44, 120, "size is 44 120")?;
    terminal.send("typed\n")?;
    let shown = terminal.finish()?;
    ensure!(shown.contains("read typed"), "{shown}");
    Ok(())
}

fn lifecycle_and_ps(host: &mut Host) -> Result<()> {
    host.build_whoami()?;
    host.import_busybox()?;
    let id = host.ok(&["run", "-d", "--name", "web", "-p", "8081:80", "whoami"])?;
    ensure!(id.len() == 64, "{id}");
    let row = host.ok(&["ps", "--format", "{{.Names}}|{{.Image}}|{{.Status}}|{{.Ports}}"])?;
    ensure!(row.starts_with("web|whoami|Up "), "{row}");
    ensure!(row.contains("0.0.0.0:8081->80/tcp"), "{row}");
    wait::until("an answer", || host.who_answers("http://127.0.0.1:8081/"))?;

    host.ok(&["stop", "web"])?;
    let row = host.ok(&["ps", "-a", "--format", "{{.Names}}|{{.Status}}"])?;
    ensure!(row.starts_with("web|Exited (0) "), "{row}");
    host.ok(&["start", "web"])?;
    wait::until("an answer after start", || host.who_answers("http://127.0.0.1:8081/"))?;
    host.ok(&["restart", "-t", "1", "web"])?;
    wait::until("an answer after restart", || host.who_answers("http://127.0.0.1:8081/"))?;
    host.ok(&["kill", "web"])?;
    wait::until("the kill", || {
        let state = host.ok(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "web"])?;
        ensure!(state == "exited 137", "{state}");
        Ok(())
    })?;
    host.ok(&["rm", "web"])?;

    host.ok(&["run", "-d", "--name", "sleeper", "busybox", "sleep", "1000"])?;
    let refusal = host.refused(&["rm", "sleeper"])?;
    ensure!(
        refusal.contains("cannot remove") || refusal.contains("You cannot remove a running container"),
        "{refusal}"
    );
    ensure!(host.ok(&["rm", "-f", "sleeper"])? == "sleeper");
    ensure!(host.ok(&["ps", "-aq"])?.is_empty());
    Ok(())
}

fn logs_follow(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    let script = "for n in 1 2 3; do echo out$n; echo err$n >&2; done; read wait; echo last";
    let mut run = host
        .command(&["run", "-i", "--name", "talker", "busybox", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    wait::until("the first lines", || {
        let text = host.ok(&["logs", "talker"])?;
        ensure!(text == "out1\nout2\nout3", "{text}");
        Ok(())
    })?;
    let mut follow =
        host.command(&["logs", "-f", "--tail", "1", "talker"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    run.stdin.take().context("stdin")?.write_all(b"go\n")?;
    let mut text = String::new();
    follow.stdout.take().context("stdout")?.read_to_string(&mut text)?;
    ensure!(follow.wait()?.success() && text.ends_with("last\n"), "{text}");
    ensure!(run.wait()?.success());
    Ok(())
}

fn exec(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    host.ok(&["run", "-d", "--name", "box", "-e", "COLOR=blue", "busybox", "sleep", "1000"])?;
    ensure!(host.ok(&["exec", "box", "sh", "-c", "echo $COLOR; hostname"])?.starts_with("blue\n"));
    ensure!(
        host.ok(&["exec", "-u", "nobody", "-w", "/tmp", "-e", "A=b", "box", "sh", "-c", "id -u; pwd; echo $A"])?
            == "65534\n/tmp\nb"
    );
    let status = host.command(&["exec", "box", "sh", "-c", "exit 5"]).status()?;
    ensure!(status.code() == Some(5), "{status}");
    let script =
        "tty; ls /proc/1/exe && echo there; until stty size | grep -q '^20 60$'; do usleep 20000; done; stty size";
    let mut terminal = host.on_terminal(&["exec", "-it", "box", "sh", "-c", script])?;
    terminal.expect("there")?;
    terminal.resize_until(20, 60, "20 60")?;
    let shown = terminal.finish()?;
    ensure!(shown.contains("/dev/pts/") && shown.contains("there"), "{shown}");
    let status = host.command(&["exec", "box", "nosuch"]).stderr(Stdio::null()).stdout(Stdio::null()).status()?;
    ensure!(matches!(status.code(), Some(126 | 127)), "{status}");
    let refusal = host.refused(&["exec", "nosuch", "ls"])?;
    ensure!(refusal.contains("No such container: nosuch"), "{refusal}");
    Ok(())
}

fn inspect_tells_the_truth(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    host.ok(&["run", "-d", "--name", "box", "--label", "a=b", "-e", "X=1", "busybox", "sleep", "1000"])?;
    let seen = host.inspect(&["inspect", "box"])?;
    ensure!(
        seen["Name"] == "/box" && seen["State"]["Running"] == true && seen["Config"]["Labels"]["a"] == "b",
        "{seen}"
    );
    let pid = seen["State"]["Pid"].as_u64().context("pid")?;
    let command_line = std::fs::read(format!("/proc/{pid}/cmdline"))?;
    ensure!(command_line == b"sleep\x001000\0", "{command_line:?}");
    let address = seen["NetworkSettings"]["Networks"]["bridge"]["IPAddress"].as_str().context("address")?.to_owned();
    ensure!(host.ok(&["exec", "box", "ip", "-4", "addr", "show", "eth0"])?.contains(&address));
    let by_format = host.ok(&["inspect", "--format", "{{.NetworkSettings.IPAddress}}", "box"])?;
    ensure!(by_format == address, "{by_format}");
    Ok(())
}

fn limits_reach_the_kernel(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    host.ok(&[
        "run",
        "-d",
        "--name",
        "lim",
        "--memory",
        "64m",
        "--cpus",
        "0.5",
        "--pids-limit",
        "50",
        "busybox",
        "sleep",
        "1000",
    ])?;
    let pid = host.inspect(&["inspect", "lim"])?["State"]["Pid"].as_u64().context("pid")?;
    let membership = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let read = |controller: &str, v1: &str, v2: &str| -> Result<String> {
        for line in membership.lines() {
            let mut parts = line.splitn(3, ':');
            let (_, names, path) = (parts.next(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            if names.split(',').any(|name| name == controller) {
                return Ok(std::fs::read_to_string(format!("/sys/fs/cgroup/{controller}{path}/{v1}"))?
                    .trim()
                    .to_owned());
            }
        }
        let path = membership.lines().find_map(|line| line.strip_prefix("0::")).context("no cgroup2 line")?;
        Ok(std::fs::read_to_string(format!("/sys/fs/cgroup{path}/{v2}"))?.trim().to_owned())
    };
    ensure!(read("memory", "memory.limit_in_bytes", "memory.max")? == "67108864");
    ensure!(read("pids", "pids.max", "pids.max")? == "50");
    let cpu = read("cpu", "cpu.cfs_quota_us", "cpu.max")?;
    ensure!(cpu == "50000" || cpu == "50000 100000", "{cpu}");
    Ok(())
}

fn confinement(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    let status = host.ok(&["run", "--rm", "busybox", "cat", "/proc/self/status"])?;
    // The reference's fourteen default capabilities, as a mask.
    ensure!(status.contains("CapEff:\t00000000a80425fb"), "{status}");
    ensure!(status.contains("Seccomp:\t2"), "{status}");
    let refused = host.refused(&["run", "--rm", "busybox", "sh", "-c", "echo 1 > /proc/sys/kernel/domainname"])?;
    ensure!(refused.contains("ead-only") || refused.contains("denied"), "{refused}");
    for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"] {
        if std::path::Path::new(path).exists() {
            let script = format!("cat {path} 2>/dev/null | wc -c; ls -A {path} | grep -v ^{path} | wc -l");
            let seen = host.ok(&["run", "--rm", "busybox", "sh", "-c", &script])?;
            ensure!(seen == "0\n0", "{path} is not masked: {seen}");
        }
    }
    ensure!(
        host.ok(&["run", "--rm", "--cap-drop", "ALL", "busybox", "grep", "CapEff", "/proc/self/status"])?
            .ends_with("0000000000000000")
    );
    Ok(())
}

fn volumes_keep_data(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    host.ok(&["run", "--rm", "-v", "data:/d", "busybox", "sh", "-c", "echo kept > /d/f"])?;
    ensure!(host.ok(&["run", "--rm", "-v", "data:/d:ro", "busybox", "cat", "/d/f"])? == "kept");
    ensure!(host.ok(&["volume", "ls", "-q"])?.lines().any(|line| line == "data"));
    let mountpoint =
        host.inspect(&["volume", "inspect", "data"])?["Mountpoint"].as_str().context("mountpoint")?.to_owned();
    ensure!(std::fs::read_to_string(format!("{mountpoint}/f"))? == "kept\n");
    host.ok(&["volume", "rm", "data"])?;
    ensure!(!std::path::Path::new(&mountpoint).exists());
    Ok(())
}
