//! The small verbs on containers: files in and out, changes, counters, limits.

use crate::Scenario;
use anyhow::{Context, Result, ensure};
use skep_conformance::Host;
use skep_conformance::client::success;
use std::fs;
use std::process::Stdio;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("copying_in_and_out", copying_in_and_out),
    ("changes_export_and_commit", changes_export_and_commit),
    ("counters_and_disk_usage", counters_and_disk_usage),
];

fn begin(host: &Host) -> Result<()> {
    host.import_busybox()?;
    host.ok(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).map(drop)
}

fn copying_in_and_out(host: &mut Host) -> Result<()> {
    begin(host)?;
    let folder = host.scratch().join("copy");
    fs::create_dir_all(folder.join("dir/sub"))?;
    fs::write(folder.join("file"), "hello\n")?;
    fs::write(folder.join("dir/sub/inner"), "inner\n")?;
    std::os::unix::fs::symlink("inner", folder.join("dir/sub/link"))?;
    let at = |name: &str| folder.join(name).to_string_lossy().into_owned();
    for (from, to) in [
        (at("file"), "box:/tmp/"),
        (at("file"), "box:/tmp/renamed"),
        (at("dir"), "box:/tmp"),
        (at("dir"), "box:/tmp/new"),
        (at("dir") + "/.", "box:/tmp/renamed-dir"),
        (at("dir") + "/.", "box:/opt"),
    ] {
        host.ok(&["exec", "box", "mkdir", "-p", "/opt"])?;
        host.ok(&["cp", &from, to])?;
    }
    let listing = host.ok(&["exec", "box", "sh", "-c", "find /tmp /opt | sort"])?;
    let expect = [
        "/opt",
        "/opt/sub",
        "/opt/sub/inner",
        "/opt/sub/link",
        "/tmp",
        "/tmp/dir",
        "/tmp/dir/sub",
        "/tmp/dir/sub/inner",
        "/tmp/dir/sub/link",
        "/tmp/file",
        "/tmp/new",
        "/tmp/new/sub",
        "/tmp/new/sub/inner",
        "/tmp/new/sub/link",
        "/tmp/renamed",
        "/tmp/renamed-dir",
        "/tmp/renamed-dir/sub",
        "/tmp/renamed-dir/sub/inner",
        "/tmp/renamed-dir/sub/link",
    ];
    ensure!(listing.lines().collect::<Vec<_>>() == expect, "{listing}");

    host.ok(&["cp", "box:/tmp/new", &at("out")])?;
    host.ok(&["cp", "box:/tmp/new", &at("out")])?;
    host.ok(&["cp", "box:/tmp/new/.", &at("out")])?;
    host.ok(&["cp", "box:/tmp/renamed", &at("out/single")])?;
    ensure!(
        fs::read_to_string(at("out/sub/inner"))? == "inner\n"
            && fs::read_to_string(at("out/new/sub/inner"))? == "inner\n"
    );
    ensure!(fs::read_link(at("out/sub/link"))?.to_string_lossy() == "inner");
    ensure!(fs::read_to_string(at("out/single"))? == "hello\n");

    let tar = host.command(&["cp", "box:/tmp/dir", "-"]).output()?;
    success(&tar)?;
    fs::write(at("dir.tar"), &tar.stdout)?;
    let input = fs::File::open(at("dir.tar"))?;
    success(&host.command(&["cp", "-", "box:/opt"]).stdin(Stdio::from(input)).output()?)?;
    ensure!(host.ok(&["exec", "box", "cat", "/opt/dir/sub/inner"])? == "inner");

    for (args, text) in [
        (["cp", "box:/nosuch", "."], "nosuch"),
        (["cp", "nobox:/x", "."], "nobox"),
        (["cp", &at("nosuch"), "box:/tmp"], "nosuch"),
        (["cp", &at("dir"), "box:/tmp/renamed"], "cannot copy directory"),
        (["cp", "box:/tmp", &at("file")], "cannot copy directory"),
        (["cp", "box:/a", "box:/b"], "copying between containers is not supported"),
    ] {
        let said = host.refused(&args)?;
        ensure!(said.contains(text), "{args:?}: {said}");
    }
    Ok(())
}

fn changes_export_and_commit(host: &mut Host) -> Result<()> {
    begin(host)?;
    host.ok(&["exec", "box", "sh", "-c", "echo x > /new; rm /etc/group; echo y >> /etc/passwd"])?;
    let changes = host.ok(&["diff", "box"])?;
    for line in ["A /new", "D /etc/group", "C /etc/passwd", "C /etc"] {
        ensure!(changes.lines().any(|shown| shown == line), "{changes}");
    }
    let tar = host.scratch().join("box.tar").to_string_lossy().into_owned();
    host.ok(&["export", "-o", &tar, "box"])?;
    let names = host.inside_ok(&["tar", "-tf", &tar])?;
    ensure!(names.lines().any(|name| name.trim_start_matches("./") == "new"), "{names}");
    let id = host.ok(&["commit", "-a", "me", "-m", "why", "-c", "ENV A=1", "box", "made:1"])?;
    ensure!(id.starts_with("sha256:"), "{id}");
    ensure!(host.ok(&["run", "--rm", "made:1", "sh", "-c", "cat /new; echo $A"])? == "x\n1");
    let seen = host.inspect(&["image", "inspect", "made:1"])?;
    ensure!(seen["Author"] == "me" && seen["Comment"] == "why", "{seen}");
    Ok(())
}

fn counters_and_disk_usage(host: &mut Host) -> Result<()> {
    begin(host)?;
    let table = host.ok(&["stats", "--no-stream", "box"])?;
    let head = table.lines().next().context("a header")?;
    for column in ["CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS"] {
        ensure!(head.contains(column), "{table}");
    }
    let row = host.ok(&["stats", "--no-stream", "--format", "{{.Name}}|{{.PIDs}}|{{.CPUPerc}}|{{.MemUsage}}"])?;
    let fields: Vec<&str> = row.split('|').collect();
    ensure!(fields.len() == 4 && fields[0] == "box" && fields[1] == "1", "{row}");
    ensure!(fields[2].ends_with('%') && fields[3].contains("iB / "), "{row}");

    ensure!(
        host.ok(&["update", "--memory", "64m", "--pids-limit", "20", "--restart", "always", "box"])?.starts_with("box")
    );
    let seen = host.inspect(&["inspect", "box"])?;
    ensure!(seen["HostConfig"]["Memory"] == 64 << 20, "{seen}");
    ensure!(seen["HostConfig"]["PidsLimit"] == 20 && seen["HostConfig"]["RestartPolicy"]["Name"] == "always", "{seen}");

    let table = host.ok(&["system", "df"])?;
    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.split("  ").filter(|w| !w.is_empty()).map(str::trim).collect()).collect();
    ensure!(rows[0] == ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"], "{table}");
    ensure!(rows[1][..3] == ["Images", "1", "1"] && rows[2][..3] == ["Containers", "1", "1"], "{table}");
    host.ok(&["rm", "-f", "box"])?;
    ensure!(host.ok(&["system", "prune", "--all", "--force"])?.contains("Total reclaimed space: "));
    ensure!(host.ok(&["images", "-q"])?.is_empty());
    Ok(())
}
