//! The OCI runtime specification of a container: a pure function of what is wanted
//! and what the machine can do.

pub(crate) mod capabilities;
pub(crate) mod confinement;
pub(crate) mod devices;
pub(crate) mod resources;
pub(crate) mod seccomp;

use crate::container::user::User;
use crate::sys::kernel::Kernel;
use serde_json::{Value, json};
use skep_model::Result;
use skep_model::container::{ContainerInfo, ExecConfig, MountKind, OverlayPoint};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const DEFAULT_SHM_BYTES: u64 = 64 * 1024 * 1024;
const OCI_VERSION: &str = "1.0.2";

const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// How a container has a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Namespace {
    /// A new one.
    Own,
    /// That of the shim: for the network a new one too, for the others the host's.
    Inherited,
    /// That of another container, by path.
    Of(String),
}

/// All namespaces that can be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Namespaces {
    pub(crate) network: Namespace,
    pub(crate) pid: Namespace,
    pub(crate) ipc: Namespace,
    pub(crate) uts: Namespace,
    pub(crate) cgroup: Namespace,
}

/// A file or directory of the host to show in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BindFile {
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) readonly: bool,
}

/// Everything the specification depends on.
pub(crate) struct Input<'a> {
    pub(crate) info: &'a ContainerInfo,
    pub(crate) user: &'a User,
    pub(crate) kernel: &'a Kernel,
    pub(crate) namespaces: &'a Namespaces,
    /// `/etc/hosts` and its like, secrets, configs.
    pub(crate) files: &'a [BindFile],
    pub(crate) cgroup_path: &'a str,
    pub(crate) hostname: &'a str,
}

/// The specification, and warnings about wishes that cannot be fulfilled.
///
/// # Errors
/// Wishes that make no sense.
pub(crate) fn build(input: &Input<'_>) -> Result<(Value, Vec<String>)> {
    let host = &input.info.host;
    let security = confinement::security_options(&host.security_opt)?;
    let mut warnings = security.warnings.clone();
    let (devices, device_rules) = devices::oci(host)?;
    let (resources, more) = resources::oci(host, device_rules, input.kernel);
    warnings.extend(more);
    let (process, more) = process(input, &security)?;
    warnings.extend(more);
    // Without capabilities and system-call filter: the shim sets those itself.
    let mut linux = json!({
        "cgroupsPath": input.cgroup_path,
        "namespaces": namespaces(input.namespaces),
        "resources": resources,
        "devices": devices,
    });
    let paths = |list: &Option<Vec<String>>, default: &[&str]| -> Vec<String> {
        match list {
            Some(list) => list.clone(),
            None if host.privileged => Vec::new(),
            None => default.iter().map(|&path| path.to_owned()).collect(),
        }
    };
    linux["maskedPaths"] = paths(&host.masked_paths, &MASKED_PATHS).into();
    linux["readonlyPaths"] = paths(&host.readonly_paths, &READONLY_PATHS).into();
    let sysctls: serde_json::Map<String, Value> = host
        .sysctls
        .iter()
        .filter(|(name, _)| !name.starts_with("net."))
        .map(|(name, value)| (name.clone(), value.clone().into()))
        .collect();
    if !sysctls.is_empty() {
        linux["sysctl"] = sysctls.into();
    }
    let mut spec = json!({
        "ociVersion": OCI_VERSION,
        "process": process,
        "root": {"path": "rootfs", "readonly": host.readonly_rootfs},
        "mounts": mounts(input),
        "linux": linux,
    });
    if input.namespaces.uts == Namespace::Own {
        spec["hostname"] = input.hostname.into();
        if !input.info.config.domainname.is_empty() {
            spec["domainname"] = input.info.config.domainname.clone().into();
        }
    }
    Ok((spec, warnings))
}

fn process(input: &Input<'_>, security: &confinement::SecurityOptions) -> Result<(Value, Vec<String>)> {
    let ContainerInfo { path, args, config, host, .. } = input.info;
    let mut command = vec![path.clone()];
    command.extend(args.iter().cloned());
    let (limits, mut warnings) = resources::rlimits(&host.ulimits, input.kernel)?;
    let (score, warning) = resources::oom_score_adj(host.oom_score_adj, input.kernel);
    warnings.extend(warning);
    let mut process = json!({
        "terminal": config.tty,
        "user": user(input.user),
        "args": command,
        "env": environment(input.hostname, config.tty, &[], &config.env, &input.user.home),
        "cwd": if config.working_dir.is_empty() { "/" } else { &config.working_dir },
        "rlimits": limits,
    });
    // Only when it differs: writing the score costs a right, even if it stays the same.
    if score != input.kernel.oom_score_adj {
        process["oomScoreAdj"] = score.into();
    }
    if security.no_new_privileges {
        process["noNewPrivileges"] = true.into();
    }
    Ok((process, warnings))
}

/// An exec's process, with the limits of the container's own.
pub(crate) fn exec_process(
    info: &ContainerInfo,
    exec: &ExecConfig,
    user_of_exec: &User,
    hostname: &str,
    kernel: &Kernel,
) -> Result<Value> {
    let security = confinement::security_options(&info.host.security_opt)?;
    let cwd = [exec.working_dir.as_str(), info.config.working_dir.as_str(), "/"];
    let (limits, _) = resources::rlimits(&info.host.ulimits, kernel)?;
    let (score, _) = resources::oom_score_adj(info.host.oom_score_adj, kernel);
    let mut process = json!({
        "terminal": exec.tty,
        "user": user(user_of_exec),
        "args": exec.cmd,
        "env": environment(hostname, exec.tty, &info.config.env, &exec.env, &user_of_exec.home),
        "cwd": cwd.iter().find(|path| !path.is_empty()),
        "rlimits": limits,
    });
    if score != kernel.oom_score_adj {
        process["oomScoreAdj"] = score.into();
    }
    if security.no_new_privileges {
        process["noNewPrivileges"] = true.into();
    }
    Ok(process)
}

/// The main group is among the supplementary ones, so that dropping it as the main one
/// gives no way around "not for this group" permissions.
fn user(user: &User) -> Value {
    let mut groups = vec![user.gid];
    groups.extend(user.groups.iter().filter(|&&gid| gid != user.gid));
    json!({"uid": user.uid, "gid": user.gid, "additionalGids": groups})
}

/// The defaults, then `layers` in order, each replacing entries of the same key in place.
fn environment(hostname: &str, tty: bool, base: &[String], own: &[String], home: &str) -> Vec<String> {
    let mut out = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if tty {
        out.push("TERM=xterm".into());
    }
    let key = |entry: &str| entry.split_once('=').map_or(entry, |(key, _)| key).to_owned();
    for entry in base.iter().chain(own) {
        let position = out.iter().position(|known| key(known) == key(entry));
        match (position, entry.contains('=')) {
            (Some(index), true) => out[index].clone_from(entry),
            (Some(index), false) => drop(out.remove(index)),
            (None, true) => out.push(entry.clone()),
            (None, false) => {}
        }
    }
    if !out.iter().any(|entry| entry.starts_with("HOME=")) {
        out.push(format!("HOME={home}"));
    }
    out
}

fn namespaces(wanted: &Namespaces) -> Vec<Value> {
    let mut out = vec![json!({"type": "mount"})];
    let mut add = |kind: &str, namespace: &Namespace| match namespace {
        Namespace::Own => out.push(json!({"type": kind})),
        Namespace::Of(path) => out.push(json!({"type": kind, "path": path})),
        Namespace::Inherited => {}
    };
    add("network", &wanted.network);
    add("pid", &wanted.pid);
    add("ipc", &wanted.ipc);
    add("uts", &wanted.uts);
    add("cgroup", &wanted.cgroup);
    out
}

fn mounts(input: &Input<'_>) -> Vec<Value> {
    let host = &input.info.host;
    let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": source, "options": options});
    let access = if host.privileged { "rw" } else { "ro" };
    let mut out = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &[access, "nosuid", "noexec", "nodev"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ];
    let size = if host.shm_size == 0 { DEFAULT_SHM_BYTES } else { host.shm_size };
    let shm_size = format!("size={size}");
    if host.ipc_mode == "host" {
        out.push(mount("/dev/shm", "bind", "/dev/shm", &["rbind"]));
    } else if host.ipc_mode != "none" {
        out.push(mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm_size]));
    }
    let mut own = file_mounts(input);
    own.extend(user_mounts(input.info));
    // Parents first, so that nothing is covered; a mount of the user's replaces ours.
    own.sort_by_key(|mount| {
        mount["destination"].as_str().map_or(0, |path| path.trim_end_matches('/').matches('/').count())
    });
    out.retain(|default| !own.iter().any(|mount| mount["destination"] == default["destination"]));
    out.extend(own);
    out
}

fn file_mounts(input: &Input<'_>) -> Vec<Value> {
    let taken = |target: &str| input.info.mounts.iter().any(|mount| mount.destination == target);
    let files = input.files.iter().filter(|file| !taken(&file.target));
    files
        .map(|file| {
            let access = if file.readonly { "ro" } else { "rw" };
            json!({
                "destination": file.target, "type": "bind", "source": file.source,
                "options": ["rbind", "rprivate", access],
            })
        })
        .collect()
}

fn user_mounts(info: &ContainerInfo) -> Vec<Value> {
    let mut out = Vec::new();
    for point in &info.mounts {
        if point.kind == MountKind::Tmpfs {
            continue;
        }
        let propagation = if point.propagation.is_empty() { "rprivate" } else { &point.propagation };
        out.push(json!({
            "destination": point.destination, "type": "bind", "source": point.source,
            "options": ["rbind", propagation, if point.rw { "rw" } else { "ro" }],
        }));
    }
    out.extend(info.host.overlays.iter().map(overlay));
    for (target, options) in &info.host.tmpfs {
        let own = options.split(',').filter(|option| !option.is_empty()).map(str::to_owned);
        out.push(tmpfs(target, own.collect()));
    }
    for mount in info.host.mounts.iter().filter(|mount| mount.kind == MountKind::Tmpfs) {
        let mut options = Vec::new();
        if mount.tmpfs_size_bytes > 0 {
            options.push(format!("size={}", mount.tmpfs_size_bytes));
        }
        options.push(format!("mode={:o}", if mount.tmpfs_mode == 0 { 0o1777 } else { mount.tmpfs_mode }));
        if mount.readonly {
            options.push("ro".into());
        }
        out.push(tmpfs(&mount.target, options));
    }
    out
}

/// One option a layer: the runtime gives each to the kernel by itself, and each may be 255 bytes.
fn overlay(point: &OverlayPoint) -> Value {
    let mut options: Vec<String> = point.lower.iter().map(|path| format!("lowerdir+={}", path.display())).collect();
    match &point.writable {
        Some((upper, work)) => {
            options.push(format!("upperdir={}", upper.display()));
            options.push(format!("workdir={}", work.display()));
        }
        None => options.push("ro".into()),
    }
    json!({"destination": point.target, "type": "overlay", "source": "overlay", "options": options})
}

fn tmpfs(target: &str, own: Vec<String>) -> Value {
    let mut options: Vec<String> = ["noexec", "nosuid", "nodev"]
        .iter()
        .filter(|&&name| !own.iter().any(|option| option.as_str() == name.trim_start_matches("no")))
        .map(|&name| name.to_owned())
        .collect();
    options.extend(own);
    json!({"destination": target, "type": "tmpfs", "source": "tmpfs", "options": options})
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::container::{ContainerConfig, HostConfig, MountPoint};

    fn build_for(info: &ContainerInfo) -> Value {
        let namespaces = Namespaces {
            network: Namespace::Inherited,
            pid: Namespace::Own,
            ipc: Namespace::Own,
            uts: Namespace::Own,
            cgroup: Namespace::Inherited,
        };
        let input = Input {
            info,
            user: &User { home: "/root".into(), ..Default::default() },
            kernel: &resources::tests::kernel(),
            namespaces: &namespaces,
            files: &[],
            cgroup_path: "/skep/x",
            hostname: "abc",
        };
        build(&input).unwrap().0
    }

    #[test]
    fn environment_has_defaults_and_own_values_in_order() {
        let own = ["PATH=/x".to_owned(), "A=1".to_owned()];
        assert_eq!(
            environment("h", true, &[], &own, "/root"),
            ["PATH=/x", "HOSTNAME=h", "TERM=xterm", "A=1", "HOME=/root"]
        );
    }

    #[test]
    fn a_privileged_container_has_no_masks() {
        let info = ContainerInfo { host: HostConfig { privileged: true, ..Default::default() }, ..Default::default() };
        let spec = build_for(&info);
        assert_eq!(spec["linux"]["maskedPaths"], json!([]));
        let plain = build_for(&ContainerInfo::default());
        assert_ne!(plain["linux"]["maskedPaths"], json!([]));
        assert!(plain["process"].get("noNewPrivileges").is_none());
    }

    #[test]
    fn mounts_come_parents_first_and_replace_defaults() {
        let point = |destination: &str| MountPoint {
            destination: destination.into(),
            source: "/s".into(),
            rw: true,
            ..Default::default()
        };
        let info = ContainerInfo {
            mounts: vec![point("/a/b"), point("/a"), point("/dev/shm")],
            config: ContainerConfig::default(),
            ..Default::default()
        };
        let spec = build_for(&info);
        let targets: Vec<&str> =
            spec["mounts"].as_array().unwrap().iter().map(|m| m["destination"].as_str().unwrap()).collect();
        assert_eq!(targets.iter().filter(|&&target| target == "/dev/shm").count(), 1);
        let position = |target: &str| targets.iter().position(|&known| known == target).unwrap();
        assert!(position("/a") < position("/a/b"));
    }
}
