//! Looks at the machine: files below `/proc`, `/sys` and `/run`, two system calls, nothing else.

use super::kernel::{self, Kernel};
use anyhow::Context;
use chrono::{DateTime, Utc};
use flate2::read::GzDecoder;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A kernel's configuration is some 300 KiB.
const CONFIG_BYTES_MAX: u64 = 16 << 20;
/// Bytes of one file below `/proc`.
const FILE_BYTES_MAX: u64 = 8 << 20;
/// State of a listening socket in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// Which hierarchies of cgroups are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cgroups {
    None,
    V1,
    /// v1 for controllers, v2 beside it without.
    Hybrid,
    V2,
}

/// Everything the judgement rests on.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) is_root: bool,
    pub(super) kernel: Kernel,
    pub(super) cgroups: Cgroups,
    pub(super) controllers: BTreeSet<String>,
    /// The answer of `/info`, or why there is none.
    pub(super) daemon: Result<Value, String>,
    /// Ports in use with their protocol: `(2377, "tcp")`.
    pub(super) ports: BTreeSet<(u16, &'static str)>,
    pub(super) now: DateTime<Utc>,
    /// Names of running programs that set or steer what we depend on.
    pub(super) programs: BTreeSet<String>,
    /// A time service has said that the clock is right.
    pub(super) clock_is_synchronised: bool,
    pub(super) data_root: PathBuf,
    /// Kind of the file system that holds the data root.
    pub(super) file_system: String,
    /// Bytes of that file system, and how many are free.
    pub(super) disk_bytes: u64,
    pub(super) disk_free_bytes: u64,
    /// Files that it can hold, and how many more; 0 and 0 where it has no such limit.
    pub(super) inodes: u64,
    pub(super) inodes_free: u64,
    pub(super) memory_bytes: u64,
    /// Open files that this process may have at most.
    pub(super) open_files_max: u64,
    pub(super) watches_max: u64,
    pub(super) docker_socket: bool,
}

/// `root` is `/`, but for tests.
///
/// # Errors
/// The data root's file system cannot be asked.
pub(super) fn probe(root: &Path, data_root: &Path, daemon: Result<Value, String>) -> anyhow::Result<Facts> {
    let read = |path: &str| text(&root.join(path));
    let existing = data_root.ancestors().find(|folder| folder.exists()).unwrap_or_else(|| Path::new("/"));
    let disk = nix::sys::statvfs::statvfs(existing).with_context(|| existing.display().to_string())?;
    let fragment = disk.fragment_size();
    let mounts = read("proc/self/mountinfo");
    Ok(Facts {
        is_root: nix::unistd::geteuid().is_root(),
        kernel: kernel_of(root),
        cgroups: cgroups(&mounts),
        controllers: controllers(root, &mounts),
        daemon,
        ports: ports(root),
        now: Utc::now(),
        programs: programs(root),
        clock_is_synchronised: root.join("run/systemd/timesync/synchronized").exists(),
        data_root: data_root.to_owned(),
        file_system: file_system(&mounts, existing),
        disk_bytes: disk.blocks() * fragment,
        disk_free_bytes: disk.blocks_available() * fragment,
        inodes: disk.files(),
        inodes_free: disk.files_available(),
        memory_bytes: field(&read("proc/meminfo"), "MemTotal:") * 1024,
        open_files_max: limit(&read("proc/self/limits"), "Max open files"),
        watches_max: read("proc/sys/fs/inotify/max_user_instances").trim().parse().unwrap_or(0),
        docker_socket: ["run/docker.sock", "var/run/docker.sock"]
            .iter()
            .any(|path| fs::symlink_metadata(root.join(path)).is_ok_and(|seen| !seen.is_symlink())),
    })
}

/// A file's text; empty where it cannot be read, which the judgement takes for missing.
fn text(path: &Path) -> String {
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
    if read.is_ok() { text } else { String::new() }
}

fn kernel_of(root: &Path) -> Kernel {
    let release = text(&root.join("proc/sys/kernel/osrelease")).trim().to_owned();
    let folder = root.join("lib/modules").join(&release);
    let mut available = kernel::modules(&text(&folder.join("modules.dep")));
    available.extend(kernel::modules(&text(&folder.join("modules.builtin"))));
    let listed = text(&root.join("proc/modules"));
    let mut loaded: BTreeSet<String> =
        listed.lines().filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect();
    loaded.extend(kernel::modules(&text(&folder.join("modules.builtin"))));
    Kernel { options: options(root, &release), loaded, available, release }
}

fn options(root: &Path, release: &str) -> Option<BTreeMap<String, String>> {
    let mut packed = String::new();
    let archive = fs::File::open(root.join("proc/config.gz")).ok();
    let unpacked =
        archive.and_then(|file| GzDecoder::new(file).take(CONFIG_BYTES_MAX).read_to_string(&mut packed).ok());
    if unpacked.is_none() {
        packed = text(&root.join(format!("boot/config-{release}")));
    }
    (!packed.is_empty()).then(|| kernel::options(&packed))
}

/// `(mount point, kind)` of each line.
fn mounted(mounts: &str) -> impl Iterator<Item = (&str, &str)> {
    mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        Some((before.split(' ').nth(4)?, after.split(' ').next()?))
    })
}

fn cgroups(mounts: &str) -> Cgroups {
    let below = |kind: &str| mounted(mounts).any(|(at, seen)| seen == kind && at.starts_with("/sys/fs/cgroup"));
    match (below("cgroup"), below("cgroup2")) {
        (false, false) => Cgroups::None,
        (true, false) => Cgroups::V1,
        (true, true) => Cgroups::Hybrid,
        (false, true) => Cgroups::V2,
    }
}

fn controllers(root: &Path, mounts: &str) -> BTreeSet<String> {
    if cgroups(mounts) == Cgroups::V2 {
        let listed = text(&root.join("sys/fs/cgroup/cgroup.controllers"));
        return listed.split_whitespace().map(str::to_owned).collect();
    }
    let enabled = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [name, hierarchy, _, "1"] if *hierarchy != "0" => Some((*name).to_owned()),
            _ => None,
        }
    };
    let listed = text(&root.join("proc/cgroups"));
    // A controller without a hierarchy of its own may still be one of v2's.
    let of_v2 = text(&root.join("sys/fs/cgroup/unified/cgroup.controllers"));
    listed.lines().filter_map(enabled).chain(of_v2.split_whitespace().map(str::to_owned)).collect()
}

fn ports(root: &Path) -> BTreeSet<(u16, &'static str)> {
    let mut all = BTreeSet::new();
    for (file, protocol) in [("tcp", "tcp"), ("tcp6", "tcp"), ("udp", "udp"), ("udp6", "udp")] {
        for line in text(&root.join("proc/net").join(file)).lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(state)) = (words.get(1), words.get(3)) else { continue };
            let port = local.rsplit(':').next().and_then(|port| u16::from_str_radix(port, 16).ok());
            if let Some(port) = port.filter(|_| protocol == "udp" || *state == LISTENING) {
                all.insert((port, protocol));
            }
        }
    }
    all
}

/// Names of all that runs, as the kernel has them: 15 letters at most.
fn programs(root: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(root.join("proc")).into_iter().flatten().flatten();
    let processes =
        entries.filter(|entry| entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()));
    processes.map(|entry| text(&entry.path().join("comm")).trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

/// Kind of the file system below which a folder lies: that of the longest mount point above.
fn file_system(mounts: &str, folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let above = mounted(mounts).filter(|(at, _)| folder.starts_with(at));
    // Of two on one point the later hides the earlier.
    above.max_by_key(|(at, _)| at.len()).map(|(_, kind)| kind.to_owned()).unwrap_or_default()
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The soft limit; all there is where it says `unlimited`.
fn limit(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let soft = line.and_then(|line| line.split_whitespace().next()).unwrap_or_default();
    if soft == "unlimited" { u64::MAX } else { soft.parse().unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "25 1 8:1 / / rw - ext4 /dev/sda rw\n30 25 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n31 25 0:2 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n40 25 0:3 / /var/lib rw - xfs /dev/sdb rw\n";

    #[test]
    fn mounts_tell_cgroups_and_file_systems() {
        assert_eq!(cgroups(HYBRID), Cgroups::Hybrid);
        assert_eq!(cgroups("30 25 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw"), Cgroups::V2);
        assert_eq!(cgroups(""), Cgroups::None);
        assert_eq!(file_system(HYBRID, Path::new("/var/lib")), "xfs");
        assert_eq!(file_system(HYBRID, Path::new("/usr")), "ext4");
    }

    #[test]
    fn a_machine_is_read_from_its_files() {
        let root = std::env::temp_dir().join(format!("skep-doctor-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/cgroups", "#subsys_name hierarchy num enabled\nmemory 4 9 1\npids 0 9 1\ncpu 3 9 0\n");
        let header = "  sl  local_address rem_address   st\n";
        write(
            "proc/net/tcp",
            &format!("{header}   0: 0100007F:0949 00000000:0000 0A\n   1: 0100007F:1F90 00000000:0000 01\n"),
        );
        write("proc/net/udp6", &format!("{header}   0: 0:12B5 0:0000 07\n"));
        write("proc/7/comm", "dockerd\n");
        write("proc/sys/kernel/osrelease", "6.1.0\n");
        write("lib/modules/6.1.0/modules.dep", "kernel/vxlan.ko:\n");
        write("boot/config-6.1.0", "CONFIG_VXLAN=m\n");
        assert_eq!(controllers(&root, HYBRID).into_iter().collect::<Vec<_>>(), ["memory"]);
        assert_eq!(ports(&root), BTreeSet::from([(2377, "tcp"), (4789, "udp")]));
        assert_eq!(programs(&root), BTreeSet::from(["dockerd".to_owned()]));
        let kernel = kernel_of(&root);
        assert!(kernel.available.contains("vxlan") && kernel.options.unwrap()["VXLAN"] == "m");
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn numbers_behind_names() {
        assert_eq!(field("MemFree: 1 kB\nMemTotal:   24105 kB\n", "MemTotal:"), 24105);
        assert_eq!(
            limit("Max open files            1024                 4096                 files\n", "Max open files"),
            1024
        );
        assert_eq!(limit("Max open files   unlimited  unlimited files\n", "Max open files"), u64::MAX);
    }
}
