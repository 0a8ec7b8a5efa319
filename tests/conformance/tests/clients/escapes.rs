//! What a hostile image or container tries: none of it reaches a file of the machine.

use crate::Scenario;
use anyhow::{Context, Result, ensure};
use skep_conformance::{Host, wait};
use std::fs;
use std::path::PathBuf;
use std::process::Output;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("no_working_directory_is_of_the_machine", no_working_directory_is_of_the_machine),
    ("links_that_change_under_cp_stay_inside", links_that_change_under_cp_stay_inside),
    ("links_of_images_stay_inside_in_builds", links_of_images_stay_inside_in_builds),
    ("devices_in_layers_are_out_of_reach", devices_in_layers_are_out_of_reach),
];

/// What is in the machine's file, and must never be seen.
const MARKER: &str = "a-file-of-the-machine";
/// Descriptors to be tried as working directories.
const DESCRIPTORS: std::ops::Range<u32> = 3..24;
/// Copies each way while the path changes.
const COPIES: usize = 30;

/// A file of the machine, and a folder that must stay empty.
fn bait(host: &Host) -> Result<(PathBuf, PathBuf)> {
    let (file, folder) = (host.scratch().join("bait/file"), host.scratch().join("bait/folder"));
    fs::create_dir_all(&folder)?;
    fs::write(&file, MARKER)?;
    Ok((file, folder))
}

fn ensure_nothing_seen(output: &Output) -> Result<()> {
    let shown = [&output.stdout[..], &output.stderr].concat();
    let shown = String::from_utf8_lossy(&shown);
    // The name of the folder may be told, its content not.
    ensure!(!shown.contains(MARKER), "the machine's file was read: {shown}");
    Ok(())
}

fn no_working_directory_is_of_the_machine(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    let (file, _) = bait(host)?;
    host.ok(&["run", "-d", "--name", "up", "busybox", "sleep", "1000"])?;
    let mut reads = 0;
    for descriptor in DESCRIPTORS {
        let folder = format!("/proc/self/fd/{descriptor}");
        // Relative, from wherever the working directory is.
        let up = "../".repeat(12);
        let script = format!("cat {up}{}; echo ran", file.display());
        let run = host.command(&["run", "--rm", "-w", &folder, "busybox", "sh", "-c", &script]).output()?;
        ensure_nothing_seen(&run)?;
        let exec = host.command(&["exec", "-w", &folder, "up", "sh", "-c", &script]).output()?;
        ensure_nothing_seen(&exec)?;
        reads += usize::from(!run.status.success()) + usize::from(!exec.status.success());
    }
    ensure!(reads > 0, "no such working directory was refused");
    let context = host.scratch().join("workdir");
    fs::create_dir_all(&context)?;
    let dockerfile = format!("FROM busybox\nWORKDIR /proc/self/fd/8\nRUN cat {}{}\n", "../".repeat(12), file.display());
    fs::write(context.join("Dockerfile"), dockerfile)?;
    let built = host.command(&["build", "-t", "never", &context.to_string_lossy()]).output()?;
    ensure!(!built.status.success());
    ensure_nothing_seen(&built)?;
    ensure!(host.ok(&["exec", "up", "echo", "fine"])? == "fine");
    Ok(())
}

fn links_that_change_under_cp_stay_inside(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    let (file, folder) = bait(host)?;
    let name = file.file_name().context("a name")?.to_string_lossy().into_owned();
    let outside = file.parent().context("a folder")?.display().to_string();
    // /x is a folder and a link to the machine's folder in turn, as fast as it goes.
    let script = format!(
        "mkdir /a; echo inside > /a/{name}; mkdir -p /a/folder; \
         while :; do mv /a /x; touch /started; mv /x /a; ln -s {outside} /x; rm /x; done"
    );
    host.ok(&["run", "-d", "--name", "racer", "busybox", "sh", "-c", &script])?;
    wait::until("the loop to begin", || host.ok(&["exec", "racer", "test", "-e", "/started"]))?;
    let payload = host.scratch().join("payload");
    fs::write(&payload, "sent")?;
    let got = host.scratch().join("got");
    for _ in 0..COPIES {
        // Either way may fail: the path may be missing just then.
        let _ = host.command(&["cp", &payload.to_string_lossy(), "racer:/x/folder/payload"]).output()?;
        let _ = host.command(&["cp", &format!("racer:/x/{name}"), &got.to_string_lossy()]).output()?;
        let text = fs::read_to_string(&got).unwrap_or_default();
        ensure!(!text.contains(MARKER), "cp gave out the machine's file");
    }
    ensure!(fs::read_dir(&folder)?.next().is_none(), "cp wrote into the machine's folder");
    ensure!(fs::read_to_string(&file)? == MARKER);
    host.ok(&["rm", "-f", "racer"]).map(drop)
}

fn links_of_images_stay_inside_in_builds(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    let (file, folder) = bait(host)?;
    let context = host.scratch().join("links");
    fs::create_dir_all(&context)?;
    fs::write(context.join("payload"), "sent")?;
    std::os::unix::fs::symlink(&file, context.join("leak"))?;
    let (file, folder_path) = (file.display(), folder.display());
    let build = |dockerfile: String| -> Result<Output> {
        fs::write(context.join("Dockerfile"), dockerfile)?;
        let output = host.command(&["build", "-t", "links", &context.to_string_lossy()]).output()?;
        ensure_nothing_seen(&output)?;
        Ok(output)
    };
    let into = build(format!("FROM busybox\nRUN ln -s {folder_path} /x\nCOPY payload /x/\nADD payload /x/added\n"))?;
    ensure!(into.status.success(), "{into:?}");
    ensure!(fs::read_dir(&folder)?.next().is_none(), "COPY wrote into the machine's folder");
    let inside = format!("{folder_path}/payload");
    ensure!(host.ok(&["run", "--rm", "links", "cat", &inside])? == "sent", "the link leads to the image's own folder");
    for leak in [
        format!(
            "FROM busybox AS one\nRUN ln -s {file} /leak\nFROM busybox\nCOPY --from=one /leak /got\nRUN cat /got\n"
        ),
        "FROM busybox\nCOPY leak /got\nRUN cat /got\n".to_owned(),
        "FROM busybox\nRUN --mount=type=bind,source=leak,target=/got cat /got\n".to_owned(),
        format!(
            "FROM busybox AS one\nRUN ln -s {file} /leak\nFROM busybox\nRUN --mount=type=bind,from=one,source=/leak,target=/got cat /got\n"
        ),
    ] {
        let output = build(leak.clone())?;
        ensure!(!output.status.success(), "{leak}: {output:?}");
    }
    ensure!(host.ok(&["ps", "-aq"])?.is_empty(), "a build left a container");
    Ok(())
}

fn devices_in_layers_are_out_of_reach(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    // The kernel's log and its memory, and one that every container may use.
    let script = "mknod /log c 1 11 && mknod /memory c 1 1 && mknod /null c 1 3";
    host.ok(&["run", "--name", "maker", "busybox", "sh", "-c", script])?;
    host.ok(&["commit", "maker", "nodes"])?;
    host.ok(&["rm", "maker"])?;
    let archive = host.scratch().join("nodes.tar").to_string_lossy().into_owned();
    host.ok(&["save", "-o", &archive, "nodes"])?;
    host.ok(&["rmi", "nodes"])?;
    host.ok(&["load", "-i", &archive])?;
    for node in ["/log", "/memory"] {
        let input = format!("if={node}");
        let said = host.refused(&["run", "--rm", "nodes", "dd", &input, "of=/dev/null", "bs=1", "count=1"])?;
        ensure!(said.contains("not permitted"), "{node}: {said}");
    }
    ensure!(host.ok(&["run", "--rm", "nodes", "sh", "-c", "echo x > /null && test -c /log && echo fine"])? == "fine");
    Ok(())
}
