//! Images: import, build, history, save and load, a registry.

use crate::Scenario;
use anyhow::{Context, Result, ensure};
use skep_conformance::{Ending, Host, wait};
use std::fs;
use std::process::Stdio;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("import_build_history", import_build_history),
    ("build_in_stages_with_cache", build_in_stages_with_cache),
    ("save_and_load", save_and_load),
    ("push_and_pull", push_and_pull),
];

fn import_build_history(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    let shown = host.build_whoami()?;
    ensure!(
        shown.contains("Step 1/4 : FROM scratch") && shown.contains("Successfully tagged whoami:latest"),
        "{shown}"
    );
    let list = host.ok(&["images", "--format", "{{.Repository}}:{{.Tag}}"])?;
    ensure!(list.lines().any(|l| l == "busybox:latest") && list.lines().any(|l| l == "whoami:latest"), "{list}");
    let history = host.ok(&["history", "--no-trunc", "--format", "{{.CreatedBy}}", "whoami"])?;
    ensure!(history.lines().next().is_some_and(|line| line.contains("ENTRYPOINT [\"/whoami\"]")), "{history}");
    ensure!(history.contains("EXPOSE"), "{history}");
    host.ok(&["tag", "whoami", "other:1"])?;
    ensure!(host.ok(&["rmi", "other:1"])?.contains("Untagged: other:1"));
    let gone = host.ok(&["rmi", "whoami"])?;
    ensure!(gone.contains("Untagged: whoami:latest") && gone.contains("Deleted: sha256:"), "{gone}");
    Ok(())
}

fn build_in_stages_with_cache(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    let context = host.scratch().join("context");
    fs::create_dir_all(context.join("sub"))?;
    fs::write(context.join("sub/file"), "one\n")?;
    fs::write(context.join("ignored"), "x")?;
    fs::write(context.join(".dockerignore"), "ignored\n")?;
    fs::write(
        context.join("Dockerfile"),
        "ARG BASE=busybox\nFROM ${BASE} AS maker\nARG WHO=nobody\nRUN echo \"made for $WHO\" > /made\n\
         FROM busybox\nENV GREETING=hello\nLABEL a=b\nWORKDIR /work\nCOPY . .\nCOPY --from=maker /made made\n\
         RUN test ! -e ignored\nUSER nobody\nCMD [\"sh\", \"-c\", \"echo $GREETING; cat made sub/file; id -u; pwd\"]\n",
    )?;
    let path = context.to_string_lossy().into_owned();
    let build = ["build", "-t", "staged", "--build-arg", "WHO=me", &path];
    host.ok(&build)?;
    ensure!(host.ok(&["run", "--rm", "staged"])? == "hello\nmade for me\none\n65534\n/work");
    let again = host.ok(&build)?;
    ensure!(again.matches("Using cache").count() >= 9, "{again}");
    fs::write(context.join("sub/file"), "two\n")?;
    host.ok(&build)?;
    ensure!(host.ok(&["run", "--rm", "staged"])?.contains("two"));
    ensure!(host.ok(&["ps", "-aq"])?.is_empty(), "a build left a container");
    Ok(())
}

fn save_and_load(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    let id = host.ok(&["images", "-q", "--no-trunc", "busybox"])?;
    let tar = host.scratch().join("saved.tar").to_string_lossy().into_owned();
    host.ok(&["save", "-o", &tar, "busybox"])?;
    let inside = host.inside_ok(&["tar", "-tf", &tar])?;
    ensure!(inside.contains("manifest.json") && inside.contains("oci-layout"), "{inside}");
    host.ok(&["rmi", "busybox"])?;
    ensure!(host.ok(&["load", "-i", &tar])?.contains("Loaded image: busybox:latest"));
    ensure!(host.ok(&["images", "-q", "--no-trunc", "busybox"])? == id);
    ensure!(host.ok(&["run", "--rm", "busybox", "echo", "ok"])? == "ok");
    Ok(())
}

/// Starts Debian's registry on the host's loopback and waits for its answer, `more` being lines
/// of its configuration.
pub(crate) fn start_registry(host: &Host, port: u16, more: &str) -> Result<Ending> {
    let folder = host.scratch().join(format!("registry-{port}"));
    fs::create_dir_all(&folder)?;
    let (config, data) = (folder.join("config.yml"), folder.join("data"));
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
         http: {{addr: 127.0.0.1:{port}}}\n{more}",
        data.display()
    );
    fs::write(&config, text)?;
    let child = host
        .inside(&["docker-registry", "serve", &config.to_string_lossy()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("docker-registry")?;
    let registry = Ending(child);
    // One that wants a password answers too.
    let url = format!("http://127.0.0.1:{port}/v2/");
    wait::until("the registry", || host.inside_ok(&["curl", "--silent", &url]))?;
    Ok(registry)
}

fn push_and_pull(host: &mut Host) -> Result<()> {
    let _registry = start_registry(host, 5000, "")?;
    host.import_busybox()?;
    let name = "127.0.0.1:5000/team/busybox:1";
    host.ok(&["tag", "busybox", name])?;
    let pushed = host.ok(&["push", name])?;
    ensure!(pushed.contains("digest: sha256:"), "{pushed}");
    host.ok(&["rmi", name, "busybox"])?;
    let pulled = host.ok(&["pull", name])?;
    ensure!(pulled.contains(&format!("Status: Downloaded newer image for {name}")), "{pulled}");
    ensure!(host.ok(&["pull", name])?.contains("Image is up to date"));
    ensure!(host.ok(&["run", "--rm", name, "echo", "pulled"])? == "pulled");
    let refusal = host.refused(&["pull", "127.0.0.1:5000/team/busybox:nosuch"])?;
    ensure!(refusal.contains("manifest unknown") || refusal.contains("not found"), "{refusal}");
    Ok(())
}
