//! What this machine lets us do, read once when the engine opens.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Facts about the kernel and our rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Capabilities a container can be given at most, `CAP_...`.
    pub capabilities: BTreeSet<String>,
    /// We may raise hard limits and lower OOM scores.
    pub sys_resource: bool,
    /// Hard limits by name (`nofile`), `u64::MAX` for none.
    pub hard_limits: Vec<(String, u64)>,
    /// Files that a process may open unless it is told otherwise.
    pub open_files: u64,
    pub oom_score_adj: i32,
    /// One unified hierarchy.
    pub cgroup_v2: bool,
    /// `memory`, `cpu`, `pids`, ...
    pub controllers: BTreeSet<String>,
    pub swap_limit: bool,
    pub cpus: usize,
    pub memory_bytes: u64,
}

impl Kernel {
    /// Asks the machine.
    pub fn probe() -> Self {
        let capabilities = bounding_capabilities();
        let cgroup_v2 = Path::new(CGROUP_ROOT).join("cgroup.controllers").exists();
        let controllers = controllers(cgroup_v2);
        let swap_limit = if cgroup_v2 {
            has_swap_limit(Path::new(CGROUP_ROOT))
        } else {
            Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
        };
        Self {
            sys_resource: capabilities.contains("CAP_SYS_RESOURCE"),
            capabilities,
            hard_limits: hard_limits(),
            open_files: rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX),
            oom_score_adj: read("/proc/self/oom_score_adj").trim().parse().unwrap_or(0),
            cgroup_v2,
            controllers,
            swap_limit,
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_bytes: memory_bytes(),
        }
    }

    /// The highest value a limit may get.
    pub fn hard_limit(&self, name: &str) -> u64 {
        if self.sys_resource {
            return u64::MAX;
        }
        self.hard_limits.iter().find(|(known, _)| known == name).map_or(u64::MAX, |(_, hard)| *hard)
    }

    /// Directory of a container's group in the hierarchy of `controller`.
    pub fn cgroup_dir(&self, controller: &str, path: &str) -> PathBuf {
        let root = Path::new(CGROUP_ROOT);
        let base = if self.cgroup_v2 { root.to_owned() } else { root.join(controller) };
        base.join(path.trim_start_matches('/'))
    }

    /// Mount points of all hierarchies.
    pub fn cgroup_roots(&self) -> Vec<PathBuf> {
        if self.cgroup_v2 {
            return vec![PathBuf::from(CGROUP_ROOT)];
        }
        let entries = fs::read_dir(CGROUP_ROOT).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }
}

/// On version 2 only groups below the root say it; without any that limits memory it is
/// taken for granted, as it is from 6.1 on.
fn has_swap_limit(root: &Path) -> bool {
    let groups = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut limited = groups.filter(|group| group.join("memory.max").exists()).peekable();
    limited.peek().is_none() || limited.any(|group| group.join("memory.swap.max").exists())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn bounding_capabilities() -> BTreeSet<String> {
    let set = caps::read(None, caps::CapSet::Bounding).unwrap_or_default();
    let effective = caps::read(None, caps::CapSet::Effective).unwrap_or_default();
    set.intersection(&effective).map(ToString::to_string).collect()
}

fn hard_limits() -> Vec<(String, u64)> {
    let text = read("/proc/self/limits");
    let rows = [
        ("cpu", "Max cpu time"),
        ("fsize", "Max file size"),
        ("data", "Max data size"),
        ("stack", "Max stack size"),
        ("core", "Max core file size"),
        ("rss", "Max resident set"),
        ("nproc", "Max processes"),
        ("nofile", "Max open files"),
        ("memlock", "Max locked memory"),
        ("as", "Max address space"),
        ("locks", "Max file locks"),
        ("sigpending", "Max pending signals"),
        ("msgqueue", "Max msgqueue size"),
        ("nice", "Max nice priority"),
        ("rtprio", "Max realtime priority"),
        ("rttime", "Max realtime timeout"),
    ];
    rows.iter()
        .filter_map(|(name, title)| {
            let rest = text.lines().find_map(|line| line.strip_prefix(title))?;
            let hard = rest.split_ascii_whitespace().nth(1)?;
            Some(((*name).to_owned(), hard.parse().unwrap_or(u64::MAX)))
        })
        .collect()
}

fn controllers(cgroup_v2: bool) -> BTreeSet<String> {
    if cgroup_v2 {
        return read("/sys/fs/cgroup/cgroup.controllers").split_ascii_whitespace().map(str::to_owned).collect();
    }
    read("/proc/self/cgroup")
        .lines()
        .filter_map(|line| line.split(':').nth(1))
        .flat_map(|names| names.split(','))
        .filter(|name| !name.is_empty() && Path::new(CGROUP_ROOT).join(name).is_dir())
        .map(str::to_owned)
        .collect()
}

fn memory_bytes() -> u64 {
    let text = read("/proc/meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_limits_memory_says_whether_swap_can_be_limited() {
        let root = tempfile::tempdir().unwrap();
        assert!(has_swap_limit(root.path()));
        let group = root.path().join("system.slice");
        fs::create_dir(&group).unwrap();
        fs::write(group.join("memory.max"), "max").unwrap();
        assert!(!has_swap_limit(root.path()));
        fs::write(group.join("memory.swap.max"), "max").unwrap();
        assert!(has_swap_limit(root.path()));
    }
}
