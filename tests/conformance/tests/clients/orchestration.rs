//! Jobs, reasons, moves and renewed secrets, on a swarm of one node.

use crate::Scenario;
use anyhow::{Result, ensure};
use skep_conformance::host::HOST_ADDRESS;
use skep_conformance::{Host, wait};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("a_replicated_job_runs_to_its_end_and_again", a_replicated_job_runs_to_its_end_and_again),
    ("a_global_job_runs_once", a_global_job_runs_once),
    ("a_task_that_fits_nowhere_says_why", a_task_that_fits_nowhere_says_why),
    ("values_out_of_range_are_refused", values_out_of_range_are_refused),
];

/// What only our own command line has.
pub(crate) const OWN: &[Scenario] = &[("why_rebalance_and_renew", why_rebalance_and_renew)];

fn start(host: &Host) -> Result<()> {
    host.import_busybox()?;
    host.ok(&["swarm", "init", "--advertise-addr", HOST_ADDRESS])?;
    Ok(())
}

fn replicas(host: &Host, name: &str) -> Result<String> {
    host.ok(&["service", "ls", "--filter", &format!("name={name}"), "--format", "{{.Mode}} {{.Replicas}}"])
}

fn a_replicated_job_runs_to_its_end_and_again(host: &mut Host) -> Result<()> {
    start(host)?;
    let job = ["service", "create", "--name", "work", "--mode", "replicated-job", "--replicas", "4"];
    let shown = host.ok(&[&job[..], &["--max-concurrent", "2", "busybox", "true"]].concat())?;
    ensure!(shown.contains("job complete"), "{shown}");
    let row = replicas(host, "work")?;
    ensure!(row == "replicated job 0/2 (4/4 completed)", "{row}");
    let tasks = host.ok(&["service", "ps", "work", "--format", "{{.DesiredState}} {{.CurrentState}}"])?;
    ensure!(tasks.lines().count() == 4 && tasks.lines().all(|line| line.starts_with("Complete Complete")), "{tasks}");
    host.ok(&["service", "update", "--detach", "--force", "work"])?;
    wait::until("the second run to end", || {
        let row = replicas(host, "work")?;
        let run = host.inspect(&["service", "inspect", "work"])?["JobStatus"]["JobIteration"]["Index"].clone();
        ensure!(row.ends_with("(4/4 completed)") && run == 1, "{row}, run {run}");
        Ok(())
    })?;
    ensure!(host.ok(&["service", "rm", "work"])? == "work");
    Ok(())
}

fn a_global_job_runs_once(host: &mut Host) -> Result<()> {
    start(host)?;
    let shown = host.ok(&["service", "create", "--name", "each", "--mode", "global-job", "busybox", "true"])?;
    ensure!(shown.contains("job complete"), "{shown}");
    let row = replicas(host, "each")?;
    ensure!(row == "global job 0/0 (1/1 completed)", "{row}");
    let refusal = host.refused(&["service", "scale", "each=2"])?;
    ensure!(refusal.contains("scale can only be used with replicated"), "{refusal}");
    Ok(())
}

fn a_task_that_fits_nowhere_says_why(host: &mut Host) -> Result<()> {
    start(host)?;
    let reserve = ["service", "create", "--detach", "--name", "huge", "--generic-resource", "card=1", "busybox"];
    host.ok(&reserve)?;
    wait::until("the reason", || {
        let error = host.ok(&["service", "ps", "huge", "--no-trunc", "--format", "{{.CurrentState}}|{{.Error}}"])?;
        ensure!(error.starts_with("Pending"), "{error}");
        ensure!(error.contains("no suitable node (insufficient resources on 1 node)"), "{error}");
        Ok(())
    })
}

fn values_out_of_range_are_refused(host: &mut Host) -> Result<()> {
    start(host)?;
    let refused = |flags: &[&str], text: &str| -> Result<()> {
        let words = [&["service", "create", "--detach", "--name", "bad"][..], flags, &["busybox"]].concat();
        let refusal = host.refused(&words)?;
        ensure!(refusal.contains(text), "{flags:?}: {refusal}");
        Ok(())
    };
    refused(&["--limit-memory", "1k"], "invalid memory value 1024: Must be at least 4MiB")?;
    refused(&["--reserve-cpu", "0.0001"], "invalid cpu value 0.0001: Must be at least 0.001")?;
    refused(&["--constraint", "node.role"], "constraint expected one operator from ==, !=")?;
    refused(&["--update-max-failure-ratio", "1.5"], "update-maxfailureratio cannot be less than 0 or bigger than 1")?;
    refused(&["--mode", "replicated-job", "--update-parallelism", "2"], "configuration is not supported for jobs")?;
    refused(&["--secret", "nosuch"], "nosuch")?;
    refused(&["--network", "nosuch"], "nosuch")
}

fn why_rebalance_and_renew(host: &mut Host) -> Result<()> {
    start(host)?;
    let secret = host.scratch().join("secret");
    std::fs::write(&secret, "old")?;
    let path = secret.to_string_lossy().into_owned();
    host.ok(&["secret", "create", "pass", &path])?;
    let shell = "cat /run/secrets/pass; exec sleep 10000";
    host.ok(&["service", "create", "--name", "db", "--secret", "pass", "busybox", "sh", "-c", shell])?;
    let told = host.ok(&["service", "why", "db"])?;
    ensure!(told.contains("db: 1 of 1 tasks run") && told.contains("nothing is waited for"), "{told}");
    ensure!(host.ok(&["service", "rebalance", "--dry-run", "--all"])? == "nothing to move");
    let before = host.ok(&["ps", "-q", "--filter", "name=db.1"])?;
    std::fs::write(&secret, "new")?;
    ensure!(host.ok(&["secret", "update", "pass", &path])? == "pass");
    wait::until("the new content in a new task", || {
        let id = host.ok(&["ps", "-q", "--filter", "name=db.1"])?;
        ensure!(!id.is_empty() && id != before, "{id}");
        let content = host.ok(&["exec", &id, "cat", "/run/secrets/pass"])?;
        ensure!(content == "new", "{content}");
        Ok(())
    })?;
    let names = host.ok(&["secret", "ls", "--format", "{{.Name}}"])?;
    ensure!(names == "pass", "{names}");
    host.ok(&["service", "create", "--detach", "--name", "huge", "--reserve-memory", "1000g", "busybox"])?;
    wait::until("the reason", || {
        let told = host.ok(&["service", "why", "huge"])?;
        ensure!(told.contains("huge.1 (pending): no suitable node (insufficient resources on 1 node)"), "{told}");
        Ok(())
    })
}
