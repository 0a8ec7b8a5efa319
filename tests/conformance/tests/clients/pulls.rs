//! Pulls that are broken off.

use crate::Scenario;
use crate::images::start_registry;
use anyhow::{Result, ensure};
use skep_conformance::{Host, wait};
use std::fs;
use std::io::Read;
use std::process::Stdio;

pub(crate) const SCENARIOS: &[Scenario] = &[("a_pull_killed_with_its_daemon_goes_on", a_killed_pull_goes_on)];

const NAME: &str = "127.0.0.1:5000/large:1";
/// Bytes that cannot be compressed: long enough on their way to be met there.
const CONTENT_BYTES: u64 = 96 << 20;
/// A pull that was quicker than the kill is tried again.
const ATTEMPTS_MAX: usize = 5;

fn a_killed_pull_goes_on(host: &mut Host) -> Result<()> {
    let _registry = start_registry(host, 5000, "")?;
    let folder = host.scratch().join("large");
    fs::create_dir_all(&folder)?;
    let mut random = Vec::new();
    fs::File::open("/dev/urandom")?.take(CONTENT_BYTES).read_to_end(&mut random)?;
    fs::write(folder.join("content"), &random)?;
    drop(random);
    let (path, archive) = (folder.to_string_lossy().into_owned(), format!("{}.tar", folder.display()));
    host.inside_ok(&["tar", "-C", &path, "-cf", &archive, "content"])?;
    host.ok(&["import", &archive, NAME])?;
    host.ok(&["push", NAME])?;
    host.ok(&["rmi", NAME])?;
    ensure!(host.files_in_data_root("image/layers")?.is_empty(), "a layer was left");
    let mut kept = 0;
    for _ in 0..ATTEMPTS_MAX {
        kept = kill_in_the_middle(host)?;
        if kept > 0 {
            break;
        }
        host.ok(&["rmi", NAME])?;
    }
    ensure!(kept > 0, "no pull was met on its way");
    ensure!(host.ok(&["images", "-q"])?.is_empty(), "an image is there before its layer");
    let left = host.files_in_data_root("image/tmp")?;
    ensure!(left.is_empty(), "left half unpacked: {left}");
    host.ok(&["pull", NAME])?;
    let id = host.ok(&["create", NAME, "none"])?;
    let got = host.scratch().join("got");
    host.ok(&["cp", &format!("{id}:/content"), &got.to_string_lossy()])?;
    ensure!(fs::read(&got)? == fs::read(folder.join("content"))?, "the content is another");
    let left = host.files_in_data_root("image/partial")?;
    ensure!(left.is_empty(), "left of the download: {left}");
    host.ok(&["rm", &id]).map(drop)
}

/// Kills the daemon while a layer arrives; returns the bytes that a new one finds, 0 if the pull was quicker.
fn kill_in_the_middle(host: &mut Host) -> Result<u64> {
    let mut pull = host.command(&["pull", NAME]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let partial = host.scratch().join("lib/image/partial");
    let arrived = || -> u64 {
        let entries = fs::read_dir(&partial).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
    };
    wait::until("the layer to arrive", || {
        ensure!(arrived() >= 1 << 20 || pull.try_wait()?.is_some(), "nothing arrives");
        Ok(())
    })?;
    host.kill_daemon()?;
    pull.wait()?;
    host.start_daemon()?;
    Ok(arrived())
}
