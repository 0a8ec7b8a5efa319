//! The container's control groups, as far as its end is concerned: was it killed for
//! memory, is anything left, and away with them. Version 1 (also hybrid) and 2.

use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";
/// A group whose last process was just reaped may be busy for a moment.
const REMOVE_ATTEMPTS_MAX: u32 = 50;
const REMOVE_RETRY_MS: u64 = 2;
/// Rounds of killing; each sees what the one before could not yet (a fork in flight).
const KILL_ROUNDS_MAX: u32 = 20;

/// All directories of one group: one on version 2, one per hierarchy on version 1.
pub(crate) struct Groups {
    dirs: Vec<PathBuf>,
}

impl Groups {
    /// Of the group `path` (absolute within the hierarchies, from the OCI spec).
    pub(crate) fn of_path(path: &Path) -> Self {
        let relative = path.strip_prefix("/").unwrap_or(path);
        // A path that climbs, or the root itself, would name groups that are not ours.
        let safe = relative.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if !safe || relative.as_os_str().is_empty() {
            return Self { dirs: Vec::new() };
        }
        let dirs = hierarchies().into_iter().map(|root| root.join(relative)).filter(|dir| dir.is_dir()).collect();
        Self { dirs }
    }

    /// Of a living process.
    pub(crate) fn of_process(pid: u32) -> Self {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let dirs = text.lines().filter_map(directory_of_line).filter(|dir| dir.is_dir()).collect();
        Self { dirs }
    }

    /// Its one directory, where the machine has version 2 alone.
    pub(crate) fn unified(&self) -> Option<&Path> {
        self.dirs.first().map(PathBuf::as_path).filter(|_| is_unified())
    }

    /// The `cgroup.procs` files: writing `0` moves the writer in.
    pub(crate) fn member_files(&self) -> impl Iterator<Item = PathBuf> {
        self.dirs.iter().map(|dir| dir.join("cgroup.procs"))
    }

    /// How often the kernel killed a process in it for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        let counters = self.dirs.iter().flat_map(|dir| {
            ["memory.oom_control", "memory.events"].map(|name| fs::read_to_string(dir.join(name)).unwrap_or_default())
        });
        counters.filter_map(|text| field(&text, "oom_kill")).max().unwrap_or(0)
    }

    /// Kills every process left in it.
    pub(crate) fn kill_all(&self) {
        for _ in 0..KILL_ROUNDS_MAX {
            let members: Vec<i32> = self
                .member_files()
                .filter_map(|path| fs::read_to_string(path).ok())
                .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<i32>>())
                .collect();
            if members.is_empty() {
                return;
            }
            for pid in members {
                let _ = nix::sys::signal::kill(Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
            while nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG))
                .is_ok_and(|status| status.pid().is_some())
            {}
            std::thread::sleep(std::time::Duration::from_millis(REMOVE_RETRY_MS));
        }
    }

    /// Removes it. What cannot be removed is left for the engine's sweep at its next start.
    pub(crate) fn remove(&self) {
        for dir in &self.dirs {
            remove_tree(dir);
        }
    }
}

/// A privileged container may have made groups below its own.
fn remove_tree(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    for _ in 0..REMOVE_ATTEMPTS_MAX {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(std::time::Duration::from_millis(REMOVE_RETRY_MS));
            }
            _ => break,
        }
    }
}

fn is_unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// Mount points of all hierarchies, as the machine's init made them.
fn hierarchies() -> Vec<PathBuf> {
    if is_unified() {
        return vec![PathBuf::from(ROOT)];
    }
    let Ok(entries) = fs::read_dir(ROOT) else { return Vec::new() };
    let mut seen = Vec::new();
    for entry in entries.flatten() {
        // `cpu` may be a link to `cpu,cpuacct`: each hierarchy once.
        if let Ok(path) = fs::canonicalize(entry.path())
            && path.is_dir()
            && !seen.contains(&path)
        {
            seen.push(path);
        }
    }
    seen
}

/// `4:memory:/a/b` is `/sys/fs/cgroup/memory/a/b`.
fn directory_of_line(line: &str) -> Option<PathBuf> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let root = Path::new(ROOT);
    let hierarchy = if controllers.is_empty() {
        let unified = root.join("unified");
        if unified.is_dir() { unified } else { root.to_owned() }
    } else {
        root.join(controllers.strip_prefix("name=").unwrap_or(controllers))
    };
    Some(hierarchy.join(path.trim_start_matches('/')))
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_below_the_root_name_a_group() {
        for bad in ["/", "", "/../x", "/a/../../b"] {
            assert!(Groups::of_path(Path::new(bad)).dirs.is_empty(), "{bad}");
        }
    }

    #[test]
    fn counters_are_read_by_their_whole_name() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(field(text, "oom_kill"), Some(3));
    }

    #[test]
    fn lines_of_both_versions_name_a_directory() {
        assert_eq!(directory_of_line("4:memory:/a/b"), Some("/sys/fs/cgroup/memory/a/b".into()));
        assert_eq!(directory_of_line("9:name=systemd:/a"), Some("/sys/fs/cgroup/systemd/a".into()));
        assert_eq!(directory_of_line("garbage"), None);
    }
}
