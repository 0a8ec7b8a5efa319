//! Removing every trace of a lab, or of a machine that stands alone, by its name: also of one
//! whose process was killed.

use crate::cgroups;
use crate::node::signal;
use crate::wait;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where labs are entered while they are there. Sockets want short paths.
const RUN: &str = "/run";
const PREFIX: &str = "skl";
const HOME_FILE: &str = "home";
const OWNER_FILE: &str = "owner";

/// Where a lab has its sockets and run directories.
pub fn run_root(name: &str) -> PathBuf {
    Path::new(RUN).join(name)
}

/// Enters a new lab: from here on [`remove`] finds all of it, the folder `home` included.
///
/// # Errors
/// The name is none of ours, or the folder for its sockets cannot be written.
pub fn enter(name: &str, home: &Path, ends_with_process: bool) -> Result<()> {
    ensure!(name.starts_with(PREFIX) && !name.contains(['/', ' ']), "a lab's name begins with {PREFIX}: {name}");
    let root = run_root(name);
    fs::create_dir_all(&root)?;
    fs::write(root.join(HOME_FILE), home.to_string_lossy().as_bytes())?;
    if ends_with_process {
        let pid = std::process::id();
        fs::write(root.join(OWNER_FILE), format!("{pid} {}", start_ticks(pid).unwrap_or_default()))?;
    }
    Ok(())
}

/// Removes labs whose processes are gone without having done so.
pub fn abandoned() {
    let Ok(entries) = fs::read_dir(RUN) else { return };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        if !name.starts_with(PREFIX) {
            continue;
        }
        let Ok(owner) = fs::read_to_string(run_root(&name).join(OWNER_FILE)) else { continue };
        let Some((pid, ticks)) = owner.split_once(' ') else { continue };
        let alive = pid.parse().ok().and_then(start_ticks).is_some_and(|seen| seen == ticks);
        if !alive {
            end_processes(&name);
            // Whoever looks next tries again.
            let _ = remove(&name);
        }
    }
}

/// Kills everything that runs on the lab's machines.
pub(crate) fn end_processes(name: &str) {
    for folder in cgroups::below(name) {
        if let Some(machine) = folder.file_name().and_then(|name| name.to_str()) {
            // A frozen process does not die.
            let _ = cgroups::freeze(&format!("{name}/{machine}"), false);
        }
    }
    let inside = namespaces(name).into_iter().flat_map(|namespace| processes_in(&namespace));
    for pid in cgroups::processes(name).into_iter().chain(inside) {
        // One that has ended meanwhile is as good.
        let _ = signal(pid, Signal::SIGKILL);
    }
}

/// Removes a lab, its machines and all they made. One that is not there is no error.
///
/// # Errors
/// When something stays.
pub fn remove(name: &str) -> Result<()> {
    let root = run_root(name);
    let home = fs::read_to_string(root.join(HOME_FILE)).ok().map(PathBuf::from);
    wait::until("the lab's processes to end", || {
        end_processes(name);
        let left = cgroups::processes(name);
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    for namespace in namespaces(name) {
        quiet("ip", &["netns", "del", &namespace])?;
    }
    wait::until("the lab's control groups to go", || {
        cgroups::remove(name);
        let left = cgroups::below(name);
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    if let Some(home) = home.filter(|home| home.exists()) {
        fs::remove_dir_all(&home).with_context(|| home.display().to_string())?;
    }
    if root.exists() {
        if is_mounted(&root)? {
            quiet("umount", &["--lazy", &root.to_string_lossy()])?;
        }
        fs::remove_dir_all(&root).with_context(|| root.display().to_string())?;
    }
    Ok(())
}

/// Network namespaces of the lab: its switch and its machines.
fn namespaces(name: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/run/netns") else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|found| found.strip_prefix(name).is_some_and(is_part)).collect()
}

/// `sw` or `h` and a number; the lab `x-1` has nothing to do with the lab `x-10`.
fn is_part(rest: &str) -> bool {
    let number = rest.strip_prefix('h').unwrap_or_default();
    rest == crate::network::SWITCH_SUFFIX || (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_mounted(folder: &Path) -> Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    Ok(mounts.lines().any(|line| line.split(' ').nth(1).is_some_and(|place| Path::new(place) == folder)))
}

fn processes_in(namespace: &str) -> Vec<u32> {
    let output = Command::new("ip").args(["netns", "pids", namespace]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn quiet(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output()?;
    crate::client::success(&output).map(drop).with_context(|| format!("{program} {}", args.join(" ")))
}

/// When the process began, which tells it from a later one of the same number.
fn start_ticks(pid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.split_ascii_whitespace().nth(19).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_has_only_its_own_parts() {
        for (rest, expect) in [("sw", true), ("h1", true), ("h12", true), ("0h1", false), ("h", false), ("hx", false)] {
            assert_eq!(is_part(rest), expect, "{rest}");
        }
    }
}
