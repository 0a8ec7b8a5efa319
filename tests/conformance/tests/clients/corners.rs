//! Flags of `run` that few use: log services, namespaces of others, addresses.

use crate::Scenario;
use anyhow::{Context, Result, ensure};
use skep_conformance::Host;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("log_services", log_services),
    ("namespaces_of_others", namespaces_of_others),
    ("addresses_and_ports", addresses_and_ports),
];

fn log_services(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    let path = host.scratch().join("syslog");
    let service = UnixDatagram::bind(&path)?;
    service.set_read_timeout(Some(Duration::from_secs(10)))?;
    let address = format!("syslog-address=unixgram://{}", path.display());
    let script = "echo out; echo err >&2";
    let run =
        ["run", "--name", "talker", "--log-driver", "syslog", "--log-opt", &address, "--log-opt", "tag={{.Name}}"];
    host.ok(&[&run[..], &["busybox", "sh", "-c", script]].concat())?;
    let mut lines = Vec::new();
    for _ in 0..2 {
        let mut buffer = [0; 1024];
        let count = service.recv(&mut buffer).context("a line for syslog")?;
        lines.push(String::from_utf8_lossy(&buffer[..count]).into_owned());
    }
    lines.sort();
    ensure!(lines[0].starts_with("<27>") && lines[0].ends_with(": err") && lines[0].contains(" talker["), "{lines:?}");
    ensure!(lines[1].starts_with("<30>") && lines[1].ends_with(": out"), "{lines:?}");
    ensure!(host.ok(&["logs", "talker"])?.contains("out"), "a log service hides nothing from logs");
    drop(service);
    let refusal = host.refused(&["run", "--rm", "--log-driver", "syslog", "--log-opt", &address, "busybox", "true"])?;
    ensure!(refusal.contains("Unix syslog delivery error"), "{refusal}");
    if !Path::new("/run/systemd/journal/socket").exists() {
        let refusal = host.refused(&["run", "--rm", "--log-driver", "journald", "busybox", "true"])?;
        ensure!(refusal.contains("journald is not enabled on this host"), "{refusal}");
    }
    let refusal = host.refused(&["run", "--rm", "--log-driver", "fluentd", "busybox", "true"])?;
    ensure!(refusal.contains("no log driver named 'fluentd' is registered"), "{refusal}");
    ensure!(host.ok(&["run", "--name", "rotated", "--log-driver", "local", "busybox", "echo", "kept"])? == "kept");
    ensure!(host.ok(&["logs", "rotated"])? == "kept");
    Ok(())
}

fn namespaces_of_others(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    host.ok(&["run", "-d", "--name", "closed", "busybox", "sleep", "1000"])?;
    host.ok(&["run", "-d", "--name", "open", "--ipc", "shareable", "busybox", "sleep", "1000"])?;
    let refusal = host.refused(&["run", "--rm", "--ipc", "container:closed", "busybox", "true"])?;
    ensure!(refusal.contains("non-shareable IPC"), "{refusal}");
    let space = |args: &[&str]| host.ok(&[args, &["readlink", "/proc/self/ns/ipc"]].concat());
    let shared = space(&["run", "--rm", "--ipc", "container:open", "busybox"])?;
    ensure!(shared == space(&["exec", "open"])?, "{shared}");
    let processes = host.ok(&["run", "--rm", "--pid", "container:closed", "busybox", "ps"])?;
    ensure!(processes.contains("sleep 1000"), "{processes}");
    let own = host.ok(&["run", "--rm", "--uts", "host", "busybox", "hostname"])?;
    ensure!(own == nix_hostname()?, "{own}");
    let first = host.ok(&["run", "--rm", "--init", "busybox", "sh", "-c", "echo $$"])?;
    ensure!(first != "1", "--init keeps number 1 for itself");
    let limits =
        host.ok(&["run", "--rm", "--ulimit", "nofile=100:200", "busybox", "sh", "-c", "ulimit -Sn; ulimit -Hn"])?;
    ensure!(limits == "100\n200", "{limits}");
    let value = host.ok(&[
        "run",
        "--rm",
        "--sysctl",
        "net.core.somaxconn=77",
        "busybox",
        "cat",
        "/proc/sys/net/core/somaxconn",
    ])?;
    ensure!(value == "77", "{value}");
    let device = host.ok(&["run", "--rm", "--device", "/dev/null:/dev/mine:r", "busybox", "ls", "-l", "/dev/mine"])?;
    ensure!(device.contains("1,   3"), "{device}");
    Ok(())
}

fn nix_hostname() -> Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned())
}

fn addresses_and_ports(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    host.build_whoami()?;
    let refusal = host.refused(&["run", "--rm", "--network", "nosuch", "busybox", "true"])?;
    ensure!(refusal.contains("network nosuch not found") && !refusal.contains("Unable to find image"), "{refusal}");
    host.ok(&["network", "create", "--subnet", "10.77.0.0/24", "mine"])?;
    let hardware = "02:42:ac:11:00:99";
    let seen = host.ok(&[
        "run",
        "--rm",
        "--network",
        "mine",
        "--ip",
        "10.77.0.77",
        "--mac-address",
        hardware,
        "busybox",
        "ip",
        "addr",
        "show",
        "eth0",
    ])?;
    ensure!(seen.contains(hardware) && seen.contains("10.77.0.77/24"), "{seen}");
    let refusal = host.refused(&["run", "--rm", "--network", "mine", "--ip", "10.78.0.1", "busybox", "true"])?;
    ensure!(refusal.contains("no configured subnet contains IP address 10.78.0.1"), "{refusal}");
    host.ok(&["run", "-d", "--name", "first", "-p", "127.0.0.1:8090:80", "-p", "9100-9101:80", "whoami"])?;
    host.ok(&["run", "-d", "--name", "second", "-p", "9100-9101:80", "whoami"])?;
    let ports = (host.ok(&["port", "first", "80"])?, host.ok(&["port", "second", "80/tcp"])?);
    ensure!(
        ports.0.contains("127.0.0.1:8090") && ports.0.contains("0.0.0.0:9100") && ports.1.contains("0.0.0.0:9101"),
        "{ports:?}"
    );
    let refusal = host.refused(&["port", "first", "99"])?;
    ensure!(refusal.to_lowercase().contains("no public port '99"), "{refusal}");
    let refusal = host.refused(&["run", "-d", "-p", "127.0.0.1:8090:80", "whoami"])?;
    ensure!(refusal.contains("port is already allocated"), "{refusal}");
    let refusal = host.refused(&["network", "create", "-d", "macvlan", "-o", "parent=eth0", "other"])?;
    ensure!(refusal.contains("macvlan"), "{refusal}");
    Ok(())
}
