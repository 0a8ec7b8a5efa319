//! What users and hostile files get wrong: the reference's text, nothing half-made,
//! and a daemon that still answers.

use crate::Scenario;
use anyhow::{Result, ensure};
use skep_conformance::Host;
use std::fs;
use std::process::Command;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("names_and_references", names_and_references),
    ("ports_in_use", ports_in_use),
    ("broken_tars", broken_tars),
    ("dockerfile_typo_has_its_line", dockerfile_typo_has_its_line),
    ("a_full_disk_breaks_only_what_needs_it", a_full_disk_breaks_only_what_needs_it),
];

fn still_answers(host: &Host) -> Result<()> {
    host.ok(&["version"])?;
    ensure!(host.ok(&["ps", "-aq"])?.is_empty(), "a container was left half-made");
    Ok(())
}

fn names_and_references(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    let said = host.refused(&["run", "--pull", "never", "nosuchimage", "true"])?;
    ensure!(said.contains("No such image: nosuchimage:latest"), "{said}");
    for name in ["ünïcode", &"x".repeat(10_000), "-dash", "a/b"] {
        let said = host.refused(&["create", "--name", name, "busybox"])?;
        ensure!(said.to_lowercase().contains("name") || said.contains("flag"), "{said}");
    }
    host.ok(&["create", "--name", "taken", "busybox"])?;
    let said = host.refused(&["create", "--name", "taken", "busybox"])?;
    ensure!(said.contains("The container name \"/taken\" is already in use by container"), "{said}");
    host.ok(&["rm", "taken"])?;
    let said = host.refused(&["run", "--memory", "1k", "busybox", "true"])?;
    ensure!(said.contains("Minimum memory limit allowed is"), "{said}");
    let said = host.refused(&["run", "--restart", "sometimes", "busybox", "true"])?;
    ensure!(said.contains("sometimes"), "{said}");
    let said = host.refused(&["inspect", "nosuch"])?;
    ensure!(said.contains("o such"), "{said}");
    still_answers(host)
}

fn ports_in_use(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    host.ok(&["run", "-d", "--name", "first", "-p", "8081:80", "busybox", "sleep", "1000"])?;
    let said = host.refused(&["run", "-d", "--name", "second", "-p", "8081:80", "busybox", "sleep", "1000"])?;
    ensure!(said.contains("Bind for 0.0.0.0:8081 failed: port is already allocated"), "{said}");
    ensure!(host.inspect(&["inspect", "second"])?["State"]["Running"] == false);
    host.ok(&["rm", "-f", "first", "second"])?;
    host.ok(&["run", "-d", "--name", "third", "-p", "8081:80", "busybox", "sleep", "1000"])?;
    host.ok(&["rm", "-f", "third"])?;
    still_answers(host)
}

fn broken_tars(host: &mut Host) -> Result<()> {
    let folder = host.scratch().join("hostile");
    fs::create_dir_all(&folder)?;
    let tar = folder.join("x.tar").to_string_lossy().into_owned();
    let outside = folder.join("outside").to_string_lossy().into_owned();
    fs::write(&tar, b"this is no tar file, however long it may be".repeat(100))?;
    host.refused(&["import", &tar, "broken"])?;
    host.refused(&["load", "-i", &tar])?;

    // One entry that climbs out of the root, made by renaming while archiving.
    fs::write(folder.join("payload"), "escaped")?;
    let climbing = format!("s,payload,../../../../../../../../..{outside},");
    let status = Command::new("tar")
        .args(["-C", &folder.to_string_lossy(), "--absolute-names", "--transform", &climbing, "-cf", &tar, "payload"])
        .status()?;
    ensure!(status.success());
    host.refused(&["import", &tar, "climber"])?;
    ensure!(!folder.join("outside").exists(), "an entry escaped");
    ensure!(host.ok(&["images", "-q"])?.is_empty(), "an image was left half-made");
    still_answers(host)
}

fn dockerfile_typo_has_its_line(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    let context = host.scratch().join("typo");
    fs::create_dir_all(&context)?;
    fs::write(context.join("Dockerfile"), "FROM busybox\nENV A=b\nRUNN echo hi\n")?;
    let said = host.refused(&["build", "-t", "typo", &context.to_string_lossy()])?;
    ensure!(said.contains("line 3: unknown instruction: RUNN"), "{said}");
    fs::write(context.join("Dockerfile"), "FROM busybox\nRUN exit 3\n")?;
    let said = host.refused(&["build", "-t", "typo", &context.to_string_lossy()])?;
    ensure!(said.contains("returned a non-zero code: 3"), "{said}");
    ensure!(host.ok(&["images", "-q", "typo"])?.is_empty());
    still_answers(host)
}

fn a_full_disk_breaks_only_what_needs_it(host: &mut Host) -> Result<()> {
    host.restart_on_small_disk("24m")?;
    host.import_busybox()?;
    let images = host.ok(&["images", "--all", "--no-trunc", "--quiet"])?;
    let context = host.scratch().join("large");
    fs::create_dir_all(&context)?;
    fs::write(context.join("payload"), vec![7; 40 << 20])?;
    fs::write(context.join("Dockerfile"), "FROM busybox\nCOPY payload /payload\n")?;
    let said = host.refused(&["build", "-t", "large", &context.to_string_lossy()])?;
    ensure!(said.to_lowercase().contains("no space left on device"), "{said}");
    let said = host.refused(&["run", "--rm", "busybox", "sh", "-c", "dd if=/dev/zero of=/f bs=1M count=40"])?;
    ensure!(said.to_lowercase().contains("no space left on device"), "{said}");

    ensure!(host.ok(&["images", "--all", "--no-trunc", "--quiet"])? == images, "an image was left half-made");
    for folder in ["image/tmp", "overlay", "containers"] {
        let left = host.files_in_data_root(folder)?;
        ensure!(left.is_empty(), "left in {folder}: {left}");
    }
    ensure!(host.ok(&["run", "--rm", "busybox", "echo", "fine"])? == "fine");
    still_answers(host)
}
