//! A cgroup subtree for each machine, in every hierarchy there is.

use crate::wait;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";
/// Mount options that say nothing of which hierarchy it is.
const PLAIN_OPTIONS: [&str; 6] = ["rw", "ro", "relatime", "noatime", "nosuid", "nodev"];

/// One mounted hierarchy.
#[derive(Debug, Clone)]
pub(crate) struct Hierarchy {
    pub(crate) path: PathBuf,
    /// How mount(8) is told to mount the same again.
    pub(crate) mount: String,
}

/// All of them, of version 1 and 2.
pub(crate) fn hierarchies() -> Vec<Hierarchy> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts.lines().filter_map(hierarchy).collect()
}

fn hierarchy(line: &str) -> Option<Hierarchy> {
    let mut words = line.split(' ').skip(1);
    let (path, kind, options) = (words.next()?, words.next()?, words.next()?);
    let mount = match kind {
        "cgroup2" => "-t cgroup2 cgroup2".to_owned(),
        "cgroup" => {
            let which: Vec<&str> = options
                .split(',')
                .filter(|word| !PLAIN_OPTIONS.contains(word) && *word != "noexec" && !word.contains("release_agent"))
                .collect();
            let prefix = if which.iter().any(|word| word.starts_with("name=")) { "none," } else { "" };
            format!("-t cgroup -o {prefix}{} cgroup", which.join(","))
        }
        _ => return None,
    };
    (path == ROOT || path.starts_with("/sys/fs/cgroup/")).then(|| Hierarchy { path: path.into(), mount })
}

/// Makes the group in every hierarchy, its parents included.
pub(crate) fn make(group: &str) -> Result<()> {
    for Hierarchy { path, .. } in hierarchies() {
        let mut folder = path.clone();
        for part in group.split('/') {
            let parent = folder.clone();
            folder.push(part);
            fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
            // Version 1: a cpuset without processors takes no process.
            for name in ["cpuset.cpus", "cpuset.mems"] {
                if path.ends_with("cpuset") && fs::read_to_string(folder.join(name))?.trim().is_empty() {
                    fs::write(folder.join(name), fs::read_to_string(parent.join(name))?)?;
                }
            }
        }
    }
    Ok(())
}

/// Stops every process of the group where it stands, or lets them go on.
pub(crate) fn freeze(group: &str, frozen: bool) -> Result<()> {
    let version_1 = Path::new(ROOT).join("freezer").join(group).join("freezer.state");
    if version_1.exists() {
        let state = if frozen { "FROZEN" } else { "THAWED" };
        fs::write(&version_1, state)?;
        return wait::until("the freezer", || {
            let seen = fs::read_to_string(&version_1)?;
            ensure!(seen.trim() == state, "{seen}");
            Ok(())
        });
    }
    let folder = Path::new(ROOT).join(group);
    fs::write(folder.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
    wait::until("the freezer", || {
        let seen = fs::read_to_string(folder.join("cgroup.events"))?;
        ensure!(seen.contains(if frozen { "frozen 1" } else { "frozen 0" }), "{seen}");
        Ok(())
    })
}

/// Every process in the group and below it.
pub(crate) fn processes(group: &str) -> Vec<u32> {
    let mut pids: Vec<u32> = Vec::new();
    for folder in every_folder(group) {
        let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid != 0));
    }
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// The group's folders in every hierarchy and all below them, the deepest first.
fn every_folder(group: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for Hierarchy { path, .. } in hierarchies() {
        let top = path.join(group.trim_start_matches('/'));
        if top.is_dir() {
            collect(&top, &mut found);
        }
    }
    found
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for child in folders(folder) {
        collect(&child, found);
    }
    found.push(folder.to_owned());
}

/// Folders of groups right below `group`, in every hierarchy.
#[must_use]
pub fn below(group: &str) -> Vec<PathBuf> {
    let tops = hierarchies().into_iter().map(|hierarchy| hierarchy.path.join(group.trim_start_matches('/')));
    tops.flat_map(|top| folders(&top)).collect()
}

/// Removes the group and all below it where nothing lives in them any more.
pub(crate) fn remove(group: &str) {
    for folder in every_folder(group) {
        // One that is still in use stays, and is found by whoever looks for leftovers.
        let _ = fs::remove_dir(folder);
    }
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hierarchy_is_mounted_again_as_it_was() {
        let check = |line: &str, expect: Option<&str>| {
            assert_eq!(hierarchy(line).map(|h| h.mount).as_deref(), expect, "{line}");
        };
        check(
            "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,noexec,cpu,cpuacct 0 0",
            Some("-t cgroup -o cpu,cpuacct cgroup"),
        );
        check(
            "cgroup /sys/fs/cgroup/systemd cgroup rw,xattr,name=systemd 0 0",
            Some("-t cgroup -o none,xattr,name=systemd cgroup"),
        );
        check("cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0", Some("-t cgroup2 cgroup2"));
        check("tmpfs /sys/fs/cgroup tmpfs rw 0 0", None);
        check("cgroup2 /elsewhere cgroup2 rw 0 0", None);
    }
}
