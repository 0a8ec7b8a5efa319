//! A container's life on cgroup v2, seen in the kernel's files.

use anyhow::{Context, Result, ensure};
use skep_conformance::host::HOST_ADDRESS;
use skep_conformance::{Host, leftovers, wait};
use std::fs;
use std::path::{Path, PathBuf};

/// The group of a running container.
struct Group(PathBuf);

impl Group {
    fn of(host: &Host, name: &str) -> Result<Self> {
        let pid = host.inspect(&["inspect", name])?["State"]["Pid"].as_u64().context("pid")?;
        let membership = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let path = membership.trim().strip_prefix("0::").with_context(|| membership.clone())?;
        ensure!(path.starts_with(host.cgroup_parent()), "not below the daemon's parent: {path}");
        Ok(Self(Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'))))
    }

    fn check(&self, file: &str, expect: &str) -> Result<()> {
        let text = fs::read_to_string(self.0.join(file)).with_context(|| file.to_owned())?;
        ensure!(text.trim() == expect, "{file}: {text}, not {expect}");
        Ok(())
    }

    fn number(&self, file: &str, name: &str) -> Result<u64> {
        let text = fs::read_to_string(self.0.join(file))?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("no {name} in {file}: {text}"))?.parse()?)
    }
}

pub(crate) fn run(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    ensure!(host.ok(&["info", "--format", "{{.CgroupVersion}}"])? == "2");
    limits(host)?;
    devices(host)?;
    too_much_memory(host)?;
    build_and_publish(host)?;
    a_killed_daemon_stops_nothing(host)?;
    host.ok(&["rm", "-f", "limited", "web"])?;
    host.stop_daemon()?;
    leftovers::none(host)
}

fn limits(host: &Host) -> Result<()> {
    let limits =
        ["--memory", "32m", "--memory-swap", "32m", "--cpus", "0.5", "--pids-limit", "20", "--cpu-shares", "512"];
    let run = ["run", "-d", "--name", "limited"];
    host.ok(&[&run[..], &limits, &["--device", "/dev/fuse", "busybox", "sleep", "10000"]].concat())?;
    let group = Group::of(host, "limited")?;
    group.check("memory.max", "33554432")?;
    group.check("memory.swap.max", "0")?;
    group.check("cpu.max", "50000 100000")?;
    // As other runtimes translate shares: 1024 would be 100.
    group.check("cpu.weight", "59")?;
    group.check("pids.max", "20")?;

    // A joined process is in the same group, and sees it as the root.
    ensure!(host.ok(&["exec", "limited", "cat", "/proc/self/cgroup"])? == "0::/");
    let forks = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22; do sleep 3 & done; wait";
    let text = host.refused(&["exec", "limited", "sh", "-c", forks])?;
    ensure!(text.contains("can't fork"), "{text}");
    ensure!(group.number("pids.events", "max")? > 0);

    let stats = host.ok(&["stats", "--no-stream", "--format", "{{.Name}}|{{.MemUsage}}|{{.PIDs}}", "limited"])?;
    ensure!(stats.starts_with("limited|") && stats.contains(" / 32MiB|") && !stats.contains("|0B"), "{stats}");

    host.ok(&["update", "--memory", "40m", "--memory-swap", "40m", "--pids-limit", "30", "limited"])?;
    group.check("memory.max", "41943040")?;
    group.check("pids.max", "30")?;
    host.ok(&["pause", "limited"])?;
    ensure!(group.number("cgroup.events", "frozen")? == 1);
    host.ok(&["unpause", "limited"])?;
    ensure!(group.number("cgroup.events", "frozen")? == 0);
    ensure!(host.ok(&["top", "limited"])?.contains("sleep 10000"));
    Ok(())
}

/// The first console could be opened by root without any capability.
fn devices(host: &Host) -> Result<()> {
    let open = "mknod /tmp/tty c 4 0 && true <>/tmp/tty";
    let text = host.refused(&["exec", "limited", "sh", "-c", open])?;
    ensure!(text.contains("Operation not permitted"), "{text}");
    host.ok(&["exec", "limited", "sh", "-c", "true <>/dev/null && true <>/dev/fuse"]).map(drop)
}

fn too_much_memory(host: &Host) -> Result<()> {
    let eat = ["--memory", "16m", "--memory-swap", "16m", "busybox", "tail", "/dev/zero"];
    let status = host.command(&[&["run", "--name", "hungry"][..], &eat].concat()).output()?.status;
    ensure!(status.code() == Some(137), "{status}");
    let state = host.ok(&["inspect", "--format", "{{.State.OOMKilled}} {{.State.ExitCode}}", "hungry"])?;
    ensure!(state == "true 137", "{state}");
    host.ok(&["rm", "hungry"]).map(drop)
}

/// A step that runs something on several layers, as the old kernel mounts them, and a
/// published port.
fn build_and_publish(host: &Host) -> Result<()> {
    let context = host.scratch().join("context");
    fs::create_dir_all(&context)?;
    let steps = "FROM busybox\nCOPY Dockerfile /a\nRUN mkdir /www && cp /a /www/b && rm /a\n";
    fs::write(context.join("Dockerfile"), steps)?;
    host.ok(&["build", "-t", "layered", &context.to_string_lossy()])?;
    host.ok(&["run", "-d", "--name", "web", "-p", "8081:80", "layered", "httpd", "-f", "-h", "/www"])?;
    let seen = wait::until("an answer", || answer(host))?;
    ensure!(seen == steps.trim_end(), "{seen}");
    let seen = host.ok(&["exec", "web", "sh", "-c", "ls -d /a /www; id -un"])?;
    ensure!(seen == "/www\nroot", "{seen}");
    Ok(())
}

fn answer(host: &Host) -> Result<String> {
    let url = format!("http://{HOST_ADDRESS}:8081/b");
    host.outside_ok(&["curl", "--silent", "--show-error", "--fail", "--max-time", "5", &url])
}

fn a_killed_daemon_stops_nothing(host: &mut Host) -> Result<()> {
    let pid = host.ok(&["inspect", "--format", "{{.State.Pid}}", "limited"])?;
    host.kill_daemon()?;
    answer(host)?;
    host.start_daemon()?;
    ensure!(host.ok(&["inspect", "--format", "{{.State.Pid}}", "limited"])? == pid, "another process");
    host.ok(&["stop", "--time", "1", "limited"])?;
    let state = host.ok(&["inspect", "--format", "{{.State.OOMKilled}} {{.State.ExitCode}}", "limited"])?;
    ensure!(state == "false 137", "{state}");
    Ok(())
}
