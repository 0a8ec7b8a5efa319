//! What must not remain, read from the kernel.

use crate::Host;
use anyhow::{Result, ensure};
use std::fs;

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
    for folder in skep_lab::below(host.cgroup_parent()) {
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
