//! kill -9 of every role while work goes on, and hands in the kernel.

use crate::Scenario;
use anyhow::{Context, Result, ensure};
use skep_conformance::host::HOST_ADDRESS;
use skep_conformance::{Host, wait};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("a_killed_daemon_stops_nothing", a_killed_daemon_stops_nothing),
    ("a_killed_netd_changes_nothing", a_killed_netd_changes_nothing),
    ("what_hands_delete_comes_back", what_hands_delete_comes_back),
];

/// Calls a list of URLs round and round and notes each failure, until stopped.
struct CurlLoop {
    child: Child,
    stop: PathBuf,
    failures: PathBuf,
    rounds: PathBuf,
}

/// Rounds before and after what is done to the host.
const ROUNDS: u64 = 3;

impl CurlLoop {
    /// Starts and waits for the first rounds.
    fn start(host: &Host, urls: &[String]) -> Result<Self> {
        let at = |name: &str| host.scratch().join(name);
        let (stop, failures, rounds) = (at("stop"), at("failures"), at("rounds"));
        fs::write(&failures, "")?;
        fs::write(&rounds, "")?;
        let script = format!(
            "while [ ! -e {} ]; do for u in {}; do curl -sS --max-time 5 -o /dev/null $u 2>>{failures} || echo \"$u failed\" >>{failures}; done; echo >> {}; done",
            stop.display(),
            urls.join(" "),
            rounds.display(),
            failures = failures.display(),
        );
        let child = host.inside(&["sh", "-c", &script]).stdin(Stdio::null()).spawn()?;
        let load = Self { child, stop, failures, rounds };
        load.wait_for_rounds(ROUNDS)?;
        Ok(load)
    }

    /// Lets a few more rounds pass, then ends and demands that no request failed.
    fn finish(mut self) -> Result<()> {
        self.wait_for_rounds(fs::metadata(&self.rounds)?.len() + ROUNDS)?;
        fs::write(&self.stop, "")?;
        self.child.wait()?;
        let failures = fs::read_to_string(&self.failures)?;
        ensure!(failures.is_empty(), "requests failed: {failures}");
        Ok(())
    }

    fn wait_for_rounds(&self, count: u64) -> Result<()> {
        wait::until("the load", || {
            let rounds = fs::metadata(&self.rounds)?.len();
            ensure!(rounds >= count, "{rounds} of {count} rounds");
            Ok(())
        })
    }
}

fn a_killed_daemon_stops_nothing(host: &mut Host) -> Result<()> {
    host.build_whoami()?;
    host.import_busybox()?;
    host.ok(&["swarm", "init", "--advertise-addr", HOST_ADDRESS])?;
    let mut urls = Vec::new();
    for n in 1..=3 {
        let (name, port) = (format!("svc{n}"), format!("{}:80", 8080 + n));
        host.ok(&["service", "create", "--name", &name, "--replicas", "2", "-p", &port, "whoami"])?;
        urls.push(format!("http://127.0.0.1:{}/", 8080 + n));
    }
    for n in 1..=2 {
        host.ok(&["run", "-d", "--name", &format!("plain{n}"), "-p", &format!("{}:80", 9080 + n), "whoami"])?;
        urls.push(format!("http://127.0.0.1:{}/", 9080 + n));
    }
    let gate = host.scratch().join("gate");
    let bind = format!("{}:/gate", host.scratch().display());
    let script = "echo before; until [ -e /gate/gate ]; do usleep 20000; done; echo after; exit 7";
    host.ok(&["run", "-d", "--name", "mortal", "-v", &bind, "busybox", "sh", "-c", script])?;
    let mortal = host.inspect(&["inspect", "mortal"])?["State"]["Pid"].as_u64().context("pid")?;
    for url in &urls {
        wait::until(url, || host.who_answers(url))?;
    }
    let running_before = host.ok(&["ps", "-q", "--no-trunc"])?;

    let load = CurlLoop::start(host, &urls)?;
    host.kill_daemon()?;
    fs::write(&gate, "")?;
    wait::until("the container to end while no daemon runs", || {
        ensure!(!PathBuf::from(format!("/proc/{mortal}")).exists());
        Ok(())
    })?;
    for url in &urls {
        host.who_answers(url)?;
    }
    host.start_daemon()?;
    wait::until("the swarm to be up again", || {
        let rows = host.ok(&["service", "ls", "--format", "{{.Replicas}}"])?;
        ensure!(rows == "2/2\n2/2\n2/2", "{rows}");
        Ok(())
    })?;
    load.finish()?;

    ensure!(host.ok(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "mortal"])? == "exited 7");
    ensure!(host.ok(&["logs", "mortal"])? == "before\nafter");
    let mut before: Vec<&str> = running_before.lines().collect();
    let after = host.ok(&["ps", "-q", "--no-trunc"])?;
    let mut after: Vec<&str> = after.lines().collect();
    let gone = host.ok(&["inspect", "-f", "{{.Id}}", "mortal"])?;
    before.retain(|id| *id != gone);
    before.sort_unstable();
    after.sort_unstable();
    ensure!(before == after, "containers changed: {before:?} {after:?}");
    let history = host.ok(&["service", "ps", "svc1", "--format", "{{.CurrentState}}"])?;
    ensure!(history.lines().count() == 2, "a task was restarted: {history}");
    Ok(())
}

fn kernel_state(host: &Host) -> Result<String> {
    let links = host.inside_ok(&["ip", "-o", "link"])?;
    // IPv4 only: whether a link-local IPv6 address is still tentative is the kernel's own clock.
    let addresses = host.inside_ok(&["ip", "-o", "-4", "addr"])?;
    let routes = host.inside_ok(&["ip", "route"])?;
    let rules = host.inside_ok(&["nft", "list", "ruleset"])?;
    Ok(format!("{links}\n{addresses}\n{routes}\n{rules}"))
}

fn netd_pid(host: &Host) -> Result<u32> {
    host.role_pids("netd")?.first().copied().context("no netd")
}

fn a_killed_netd_changes_nothing(host: &mut Host) -> Result<()> {
    host.build_whoami()?;
    host.import_busybox()?;
    host.ok(&["swarm", "init", "--advertise-addr", HOST_ADDRESS])?;
    host.ok(&["network", "create", "-d", "overlay", "app"])?;
    host.ok(&["service", "create", "--name", "web", "--replicas", "2", "-p", "8080:80", "--network", "app", "whoami"])?;
    host.ok(&["run", "-d", "--name", "plain", "-p", "9080:80", "whoami"])?;
    let urls = ["http://127.0.0.1:8080/".to_owned(), "http://127.0.0.1:9080/".to_owned()];
    for url in &urls {
        wait::until(url, || host.who_answers(url))?;
    }
    let before = kernel_state(host)?;
    let load = CurlLoop::start(host, &urls)?;
    for _ in 0..3 {
        let pid = netd_pid(host)?;
        host.inside_ok(&["kill", "-9", &pid.to_string()])?;
        wait::until("another netd", || {
            ensure!(netd_pid(host)? != pid, "still {pid}");
            host.ok(&["info"]).map(drop)
        })?;
    }
    // A new network proves that it works again, and its removal that it still knows what is its own.
    host.ok(&["network", "create", "net1"])?;
    host.ok(&["network", "rm", "net1"])?;
    wait::until("the same kernel state", || {
        let after = kernel_state(host)?;
        ensure!(after == before, "before:\n{before}\nafter:\n{after}");
        Ok(())
    })?;
    load.finish()
}

fn what_hands_delete_comes_back(host: &mut Host) -> Result<()> {
    host.build_whoami()?;
    let network = host.ok(&["network", "create", "net1"])?;
    host.ok(&["run", "-d", "--name", "web", "--network", "net1", "-p", "8081:80", "whoami"])?;
    let url = format!("http://{HOST_ADDRESS}:8081/");
    wait::until("an answer", || host.who_answers_outside(&url))?;
    let bridge = format!("br-{}", &network[..12]);
    let table = host.inside_ok(&["nft", "list", "tables"])?;
    let table: Vec<&str> = table.lines().next().context("no nft table")?.split_whitespace().skip(1).collect();
    let container = host.inspect(&["inspect", "web"])?["State"]["Pid"].as_u64().context("pid")?.to_string();
    let damages: [Vec<String>; 3] = [
        vec!["ip".into(), "link".into(), "del".into(), bridge],
        ["nft", "delete", "table"].iter().chain(&table).map(|word| (*word).to_owned()).collect(),
        ["nsenter", "-t", &container, "-n", "ip", "route", "del", "default"].iter().map(|w| (*w).to_owned()).collect(),
    ];
    for damage in damages {
        let words: Vec<&str> = damage.iter().map(String::as_str).collect();
        host.inside_ok(&words)?;
        // A short limit for each request: one that was sent while the rules were gone hangs.
        let ask = ["curl", "--silent", "--show-error", "--max-time", "1", &url];
        wait::within(Duration::from_secs(5), &words.join(" "), || host.outside_ok(&ask))?;
    }
    let log = fs::read_to_string(host.exec_root().join("netd/netd.log"))?;
    ensure!(log.contains("repaired="), "no log line says what was repaired: {log}");
    Ok(())
}
