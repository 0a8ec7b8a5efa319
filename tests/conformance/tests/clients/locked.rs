//! A swarm whose manager is locked, whose root is replaced, and that comes back from a backup.

use crate::Scenario;
use anyhow::{Context, Result, ensure};
use skep_conformance::host::HOST_ADDRESS;
use skep_conformance::{Client, Host, wait};
use std::io::Write;
use std::process::Stdio;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("a_locked_manager_waits_for_its_key", a_locked_manager_waits_for_its_key),
    ("autolock_is_turned_on_and_off", autolock_is_turned_on_and_off),
    ("the_root_certificate_is_replaced", the_root_certificate_is_replaced),
];

/// Verbs that only skep has.
pub(crate) const SKEP_SCENARIOS: &[Scenario] = &[("backup_restore_and_dump", backup_restore_and_dump)];

fn state(host: &Host) -> Result<String> {
    host.ok(&["info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}"])
}

/// Runs a verb with `input` on standard input; its output if it succeeds, else what it says.
fn with_input(host: &Host, args: &[&str], input: &str) -> Result<Result<String, String>> {
    let mut command = host.command(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("stdin")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Ok(if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) })
}

fn unlock(host: &Host, key: &str) -> Result<()> {
    with_input(host, &["swarm", "unlock"], &format!("{key}\n"))?.map(drop).map_err(anyhow::Error::msg)?;
    wait::until("the manager to be back", || {
        ensure!(state(host)? == "active true");
        host.ok(&["node", "ls", "-q"])
    })
    .map(drop)
}

fn key_in(text: &str) -> Result<String> {
    let key = text.split_whitespace().find(|word| word.starts_with("SWMKEY-1-"));
    key.map(str::to_owned).with_context(|| format!("no unlock key in: {text}"))
}

fn a_locked_manager_waits_for_its_key(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    let shown = host.ok(&["swarm", "init", "--autolock", "--advertise-addr", HOST_ADDRESS])?;
    ensure!(shown.contains("To unlock a swarm manager after it restarts, run the `"), "{shown}");
    let key = key_in(&shown)?;
    ensure!(host.ok(&["swarm", "unlock-key", "-q"])? == key);
    let refusal = with_input(host, &["swarm", "unlock"], "x\n")?.unwrap_err();
    ensure!(refusal.contains("swarm is not locked"), "{refusal}");
    host.ok(&["service", "create", "--detach", "--name", "web", "busybox", "sleep", "10000"])?;
    let task = wait::until("the task", || {
        let id = host.ok(&["ps", "-q"])?;
        ensure!(!id.is_empty());
        Ok(id)
    })?;

    host.kill_daemon()?;
    host.start_daemon()?;
    wait::until("the lock to show", || {
        ensure!(state(host)? == "locked false");
        Ok(())
    })?;
    let text = "Swarm is encrypted and needs to be unlocked before it can be used.";
    for verb in
        [&["node", "ls"][..], &["service", "ls"], &["swarm", "unlock-key", "-q"], &["swarm", "join-token", "worker"]]
    {
        let refusal = host.refused(verb)?;
        // The stock client says for some verbs itself that the node is no manager.
        ensure!(refusal.contains(text) || refusal.contains("locked"), "{verb:?}: {refusal}");
    }
    let refusal = host.refused(&["swarm", "leave"])?;
    ensure!(refusal.contains("Swarm is encrypted and locked."), "{refusal}");
    ensure!(host.ok(&["ps", "-q"])? == task, "containers go on while the manager is locked");

    let wrong = "SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8";
    let refusal = with_input(host, &["swarm", "unlock"], &format!("{wrong}\n"))?.unwrap_err();
    ensure!(refusal.contains("swarm could not be unlocked: invalid key provided"), "{refusal}");
    let refusal = with_input(host, &["swarm", "unlock"], "nonsense\n")?.unwrap_err();
    ensure!(refusal.contains("invalid key string"), "{refusal}");
    unlock(host, &key)?;
    wait::until("the same task", || {
        ensure!(host.ok(&["service", "ls", "--format", "{{.Name}} {{.Replicas}}"])? == "web 1/1");
        ensure!(host.ok(&["ps", "-q"])? == task);
        Ok(())
    })
}

fn autolock_is_turned_on_and_off(host: &mut Host) -> Result<()> {
    host.ok(&["swarm", "init", "--advertise-addr", HOST_ADDRESS])?;
    let refusal = host.refused(&["swarm", "unlock-key"])?;
    ensure!(refusal.contains("no unlock key is set"), "{refusal}");
    let refusal = host.refused(&["swarm", "unlock-key", "--rotate"])?;
    ensure!(refusal.contains("cannot rotate because autolock is not turned on"), "{refusal}");
    let shown = host.ok(&["swarm", "update", "--autolock=true"])?;
    ensure!(shown.starts_with("Swarm updated."), "{shown}");
    let first = key_in(&shown)?;
    let shown = host.ok(&["swarm", "unlock-key", "--rotate"])?;
    ensure!(shown.contains("Successfully rotated manager unlock key."), "{shown}");
    let second = key_in(&shown)?;
    ensure!(first != second);

    host.stop_daemon()?;
    host.start_daemon()?;
    let refusal = with_input(host, &["swarm", "unlock"], &format!("{first}\n"))?.unwrap_err();
    ensure!(refusal.contains("invalid key provided"), "{refusal}");
    unlock(host, &second)?;
    ensure!(host.ok(&["swarm", "update", "--autolock=false"])? == "Swarm updated.");
    host.kill_daemon()?;
    host.start_daemon()?;
    wait::until("the manager without a key", || {
        ensure!(state(host)? == "active true");
        Ok(())
    })?;

    // A locked node can still be given up.
    host.ok(&["swarm", "update", "--autolock=true"])?;
    host.kill_daemon()?;
    host.start_daemon()?;
    wait::until("the lock to show", || {
        ensure!(state(host)? == "locked false");
        Ok(())
    })?;
    host.ok(&["swarm", "leave", "--force"])?;
    ensure!(state(host)? == "inactive false");
    host.ok(&["swarm", "init", "--advertise-addr", HOST_ADDRESS]).map(drop)
}

fn the_root_certificate_is_replaced(host: &mut Host) -> Result<()> {
    host.ok(&["swarm", "init", "--advertise-addr", HOST_ADDRESS])?;
    let before = host.ok(&["swarm", "ca"])?;
    ensure!(before.starts_with("-----BEGIN CERTIFICATE-----"), "{before}");
    let token = host.ok(&["swarm", "join-token", "-q", "worker"])?;
    let refusal = host.refused(&["swarm", "ca", "--cert-expiry", "5h"])?;
    ensure!(refusal.contains("requires the `--rotate` flag"), "{refusal}");

    let shown = host.ok(&["swarm", "ca", "--rotate", "--cert-expiry", "300h"])?;
    ensure!(shown.contains("desired root digest: sha256:"), "{shown}");
    let after = host.ok(&["swarm", "ca"])?;
    ensure!(after.starts_with("-----BEGIN CERTIFICATE-----") && after != before, "{after}");
    ensure!(shown.ends_with(&after), "{shown}");
    let info = host.ok(&["info", "--format", "{{.Swarm.Cluster.RootRotationInProgress}}"])?;
    ensure!(info == "false", "{info}");
    let new_token = host.ok(&["swarm", "join-token", "-q", "worker"])?;
    ensure!(token.split('-').nth(2) != new_token.split('-').nth(2), "the digest in the token");
    ensure!(host.ok(&["node", "ls", "--format", "{{.TLSStatus}}"])? == "Ready");
    let expiry = host.ok(&["info", "--format", "{{.Swarm.Cluster.Spec.CAConfig.NodeCertExpiry}}"])?;
    ensure!(expiry == "300h0m0s" || expiry == "1080000000000000", "{expiry}");

    // A root of the user's own, and bad ones.
    let file = |name: &str| host.scratch().join(name).to_string_lossy().into_owned();
    let (cert, key) = (file("own.crt"), file("own.key"));
    let subject = ["-subj", "/O=Example/CN=Example Root", "-days", "3650"];
    let mut make = vec!["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    make.extend(["-keyout", &key, "-out", &cert]);
    make.extend(subject);
    host.inside_ok(&make)?;
    let refusal = host.refused(&["swarm", "ca", "--rotate", "--ca-cert", &cert])?;
    ensure!(refusal.contains("flag requires that a --ca-key flag"), "{refusal}");
    let refusal = host.refused(&["swarm", "ca", "--rotate", "--ca-cert", &key, "--ca-key", &key])?;
    ensure!(refusal.contains("no certificate in the PEM text"), "{refusal}");
    host.ok(&["swarm", "ca", "--rotate", "--quiet", "--ca-cert", &cert, "--ca-key", &key])?;
    ensure!(host.ok(&["swarm", "ca"])? == std::fs::read_to_string(&cert)?.trim());
    // What the client sends back of the spec changes nothing.
    host.ok(&["swarm", "update", "--task-history-limit", "3"])?;
    ensure!(host.ok(&["swarm", "ca"])? == std::fs::read_to_string(&cert)?.trim());
    let refusal = host.refused(&["swarm", "update", "--external-ca", "protocol=cfssl,url=https://127.0.0.1:1/x"])?;
    ensure!(refusal.to_lowercase().contains("external"), "{refusal}");

    host.kill_daemon()?;
    host.start_daemon()?;
    wait::until("the manager with its new certificate", || {
        ensure!(host.ok(&["node", "ls", "--format", "{{.Status}} {{.TLSStatus}}"])? == "Ready Ready");
        Ok(())
    })
}

fn backup_restore_and_dump(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    host.ok(&["swarm", "init", "--advertise-addr", HOST_ADDRESS])?;
    host.ok(&["service", "create", "--detach", "--name", "web", "busybox", "sleep", "10000"])?;
    let file = |name: &str| host.scratch().join(name).to_string_lossy().into_owned();
    let (backup, passphrase) = (file("swarm.backup"), file("passphrase"));
    std::fs::write(&passphrase, "correct horse\n")?;
    let refusal = host.refused(&["swarm", "backup", &backup])?;
    ensure!(refusal.contains("nothing was given"), "{refusal}");
    host.ok(&["swarm", "backup", "--passphrase-file", &passphrase, &backup])?;
    host.ok(&["swarm", "leave", "--force"])?;
    wait::until("the tasks to go", || {
        ensure!(host.ok(&["ps", "-aq"])?.is_empty());
        Ok(())
    })?;

    let refusal = with_input(host, &["swarm", "restore", &backup], "wrong horse\n")?.unwrap_err();
    ensure!(refusal.contains("the passphrase is not the one of this backup"), "{refusal}");
    ensure!(state(host)? == "inactive false");
    let shown =
        host.ok(&["swarm", "restore", "--advertise-addr", HOST_ADDRESS, "--passphrase-file", &passphrase, &backup])?;
    ensure!(shown.starts_with("Swarm restored: current node ("), "{shown}");
    wait::until("the service of before", || {
        ensure!(host.ok(&["service", "ls", "--format", "{{.Name}} {{.Replicas}}"])? == "web 1/1");
        Ok(())
    })?;
    ensure!(host.ok(&["node", "ls", "--format", "{{.Status}} {{.ManagerStatus}}"])? == "Ready Leader");

    host.stop_daemon()?;
    let data_root = host.scratch().join("lib");
    let skep = Client::skep().program;
    let dump =
        host.inside_ok(&[&skep.to_string_lossy(), "raft", "dump", "--data-root", &data_root.to_string_lossy()])?;
    ensure!(dump.lines().any(|line| line.contains(r#""web""#)), "{dump}");
    ensure!(!dump.contains("PRIVATE KEY"));
    Ok(())
}
