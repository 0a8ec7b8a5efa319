//! `skep system doctor` on a machine whose state the test knows.

use crate::Scenario;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skep_conformance::client::environment;
use skep_conformance::{Ending, Host, wait};
use std::process::Stdio;

/// Scenarios of a verb that no other client has.
pub(crate) const OWN: &[Scenario] = &[("system_doctor", system_doctor)];

/// The findings, and whether there was no problem among them.
fn findings(host: &Host) -> Result<(Vec<Value>, bool)> {
    let skep = environment("SKEP_TEST_SKEP");
    let mut command = host.inside(&[&skep.to_string_lossy(), "system", "doctor", "--format", "json"]);
    let output = command.env("DOCKER_HOST", format!("unix://{}", host.socket())).output()?;
    let found: Value =
        serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((found.as_array().context("a list")?.clone(), output.status.success()))
}

fn one<'v>(found: &'v [Value], subject: &str) -> Result<&'v Value> {
    found.iter().find(|one| one["Subject"] == subject).with_context(|| format!("nothing on {subject}: {found:?}"))
}

fn system_doctor(host: &mut Host) -> Result<()> {
    let (found, well) = findings(host)?;
    ensure!(one(&found, "daemon")?["Level"] == "ok", "{found:?}");
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    ensure!(one(&found, "kernel")?["Found"] == release.trim(), "{found:?}");
    ensure!(one(&found, "cgroups")?["Level"] == "ok" && one(&found, "ports")?["Level"] == "ok", "{found:?}");
    let root = host.scratch().to_string_lossy().into_owned();
    ensure!(
        one(&found, "disk")?["Found"].as_str().is_some_and(|text| text.starts_with(&root)),
        "the daemon's data root"
    );
    let problems: Vec<&Value> = found.iter().filter(|one| one["Level"] == "problem").collect();
    ensure!(well == problems.is_empty(), "{problems:?}");
    for finding in found.iter().filter(|one| one["Level"] != "ok") {
        ensure!(finding["Cost"].as_str().is_some_and(|cost| !cost.is_empty()), "{finding}");
    }

    // A port that a swarm wants, in another's hands.
    let script = "import socket,time\ns=socket.socket()\ns.bind(('0.0.0.0',2377))\ns.listen()\ntime.sleep(1000)";
    let listener = Ending(host.inside(&["/usr/bin/python3", "-c", script]).stdin(Stdio::null()).spawn()?);
    wait::until("the finding", || {
        let (found, _) = findings(host)?;
        ensure!(one(&found, "port 2377/tcp")?["Level"] == "warning");
        Ok(())
    })?;
    drop(listener);
    host.ok(&["swarm", "init"])?;
    let (found, _) = findings(host)?;
    ensure!(one(&found, "ports")?["Level"] == "ok", "the swarm's own ports: {found:?}");

    host.stop_daemon()?;
    let (found, well) = findings(host)?;
    ensure!(!well && one(&found, "daemon")?["Level"] == "problem", "{found:?}");
    host.start_daemon()
}
