//! What must not remain, read from the kernel.

use crate::Host;
use anyhow::{Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// Everything of a host's that is still in the kernel, a line each.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn find(host: &Host) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let roots = [host.exec_root().to_string_lossy().into_owned(), host.scratch().to_string_lossy().into_owned()];
    for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
        if roots.iter().any(|root| line.contains(root.as_str())) {
            found.push(format!("mount: {line}"));
        }
    }
    for role in ["shim", "netd"] {
        found.extend(host.role_pids(role)?.iter().map(|pid| format!("process: skep {role} {pid}")));
    }
    for folder in cgroups(host.cgroup_parent()) {
        found.push(format!("cgroup: {}", folder.display()));
    }
    for line in host.inside_ok(&["ip", "-o", "link"])?.lines() {
        let name = line.split(": ").nth(1).unwrap_or_default();
        if name != "lo" && !name.starts_with("eth0") {
            found.push(format!("link: {line}"));
        }
    }
    for line in host.inside_ok(&["nft", "list", "tables"])?.lines() {
        found.push(format!("nft: {line}"));
    }
    Ok(found)
}

/// Fails with the list of what remains.
///
/// # Errors
/// When anything does.
pub fn none(host: &Host) -> Result<()> {
    let found = find(host)?;
    ensure!(found.is_empty(), "left behind:\n{}", found.join("\n"));
    Ok(())
}

/// cgroup folders of containers below `parent`, in every hierarchy, the parent itself excepted.
#[must_use]
pub fn cgroups(parent: &str) -> Vec<PathBuf> {
    hierarchies().into_iter().flat_map(|top| folders(&top.join(parent.trim_start_matches('/')))).collect()
}

/// Removes empty cgroups of a finished host, the parent included.
pub fn remove_cgroups(parent: &str) {
    for top in hierarchies() {
        let parent = top.join(parent.trim_start_matches('/'));
        for folder in folders(&parent) {
            let _ = fs::remove_dir(folder);
        }
        let _ = fs::remove_dir(parent);
    }
}

fn hierarchies() -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/sys/fs/cgroup")];
    found.extend(folders(Path::new("/sys/fs/cgroup")));
    found
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}
