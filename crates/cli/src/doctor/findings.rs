//! What the facts mean. Pure.

use super::facts::{Cgroups, Facts};
use super::kernel::{FEATURES, Presence};
use crate::format::text;
use crate::human;
use chrono::{TimeZone, Utc};

/// Less memory is not enough for a daemon and its containers.
const MEMORY_BYTES_MIN: u64 = 256 << 20;
/// Below this much free disk images cannot be pulled.
const DISK_BYTES_MIN: u64 = 1 << 30;
/// Below this share of free disk or inodes it is time to clean up.
const FREE_SHARE_MIN: f64 = 0.1;
/// Each container takes some files of its shim's and of the daemon's.
const OPEN_FILES_MIN: u64 = 1024;
/// `logs -f` and health checks watch files.
const WATCHES_MIN: u64 = 128;
/// No clock that is right shows an earlier year.
const YEAR_MIN: i32 = 2025;
/// File systems on which overlayfs can write.
const GOOD_FILE_SYSTEMS: [&str; 6] = ["ext4", "xfs", "btrfs", "tmpfs", "f2fs", "ext3"];
/// Programs that keep the clock right.
const TIME_PROGRAMS: [&str; 5] = ["chronyd", "ntpd", "systemd-timesyn", "openntpd", "ntpsec"];
/// Ports of a swarm: what for, and what it costs when another has them.
const SWARM_PORTS: [(u16, &str, &str); 2] = [
    (
        2377,
        "tcp",
        "no swarm can be made or joined here with the default address; choose --listen-addr with another port",
    ),
    (4789, "udp", "overlay networks reach no other node; choose --data-path-port"),
];
/// Controllers of cgroups and what each limits.
const CONTROLLERS: [(&str, &str, &str); 6] = [
    ("memory", "memory", "--memory limits nothing, stats shows no memory"),
    ("cpu", "cpu", "--cpus and --cpu-shares have no effect"),
    ("pids", "pids", "--pids-limit limits nothing: one container can use up all processes"),
    ("cpuset", "cpuset", "--cpuset-cpus has no effect"),
    ("blkio", "io", "no limits of disk traffic, no BLOCK I/O in stats"),
    ("devices", "", "containers may open every device"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Ok,
    /// Something does not work or will not for long.
    Warning,
    /// Containers cannot be run.
    Problem,
}

impl Level {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) level: Level,
    pub(super) subject: String,
    pub(super) found: String,
    /// What does not work; empty when all is well.
    pub(super) cost: String,
    /// What helps, where anything does.
    pub(super) remedy: String,
}

impl Finding {
    pub(super) fn ok(subject: &str, found: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            subject: subject.into(),
            found: found.into(),
            cost: String::new(),
            remedy: String::new(),
        }
    }

    fn bad(level: Level, subject: &str, found: impl Into<String>, cost: &str, remedy: impl Into<String>) -> Self {
        Self { level, subject: subject.into(), found: found.into(), cost: cost.into(), remedy: remedy.into() }
    }
}

/// All findings, in the order in which a person would look.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![user(facts), daemon(facts)];
    found.extend(kernel(facts));
    found.extend(cgroups(facts));
    found.extend(ports(facts));
    found.push(clock(facts));
    found.extend(disk(facts));
    found.extend(room(facts));
    found.extend(neighbours(facts));
    found
}

fn user(facts: &Facts) -> Finding {
    if facts.is_root {
        return Finding::ok("user", "root");
    }
    let cost = "the daemon needs root; this look at the machine may miss things";
    Finding::bad(Level::Warning, "user", "not root", cost, "run it as root")
}

fn daemon(facts: &Facts) -> Finding {
    match &facts.daemon {
        Ok(info) => {
            let own = env!("CARGO_PKG_VERSION");
            // Behind the version of Docker whose clients it serves.
            let shown = text(&info["ServerVersion"]);
            let theirs = shown.rsplit_once("skep-").map_or(shown.as_str(), |(_, version)| version);
            if theirs == own {
                return Finding::ok("daemon", format!("answers, version {theirs}"));
            }
            let found = format!("answers, version {theirs}; this command line is {own}");
            let cost = "what only one of both knows does not work";
            Finding::bad(Level::Warning, "daemon", found, cost, "install both from one release and restart the daemon")
        }
        Err(reason) => {
            let found = format!("no answer: {reason}");
            Finding::bad(Level::Problem, "daemon", found, "nothing can be run", "skep daemon, or systemctl start skep")
        }
    }
}

fn kernel(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![Finding::ok("kernel", facts.kernel.release.clone())];
    let mut well = Vec::new();
    let mut unknown = Vec::new();
    for feature in FEATURES {
        let name = feature.option.to_lowercase();
        match facts.kernel.presence(feature) {
            Presence::There | Presence::OnDemand => well.push(name),
            Presence::Unknown => unknown.push(name),
            Presence::Missing => {
                let level = if feature.required { Level::Problem } else { Level::Warning };
                let remedy = format!("a kernel with CONFIG_{}", feature.option);
                found.push(Finding::bad(level, &name, "missing", feature.cost, remedy));
            }
        }
    }
    if !well.is_empty() {
        found.push(Finding::ok("features", well.join(", ")));
    }
    if !unknown.is_empty() {
        let cost = "this kernel does not say whether it has them";
        found.push(Finding::bad(
            Level::Warning,
            "unknown",
            unknown.join(", "),
            cost,
            "try: run a container and publish a port",
        ));
    }
    found
}

fn cgroups(facts: &Facts) -> Vec<Finding> {
    let which = match facts.cgroups {
        Cgroups::None => {
            let cost = "no container can be made";
            let remedy = "mount -t cgroup2 none /sys/fs/cgroup";
            return vec![Finding::bad(Level::Problem, "cgroups", "not mounted", cost, remedy)];
        }
        Cgroups::V1 => "v1",
        Cgroups::Hybrid => "v1, with v2 beside it",
        Cgroups::V2 => "v2",
    };
    let controllers: Vec<&str> = facts.controllers.iter().map(String::as_str).collect();
    let mut found = vec![Finding::ok("cgroups", format!("{which}: {}", controllers.join(", ")))];
    for (v1, v2, cost) in CONTROLLERS {
        let name = if facts.cgroups == Cgroups::V2 { v2 } else { v1 };
        if !name.is_empty() && !facts.controllers.contains(name) {
            let remedy = if name == "memory" { "boot with cgroup_enable=memory" } else { "" };
            found.push(Finding::bad(Level::Warning, &format!("cgroup {name}"), "missing", cost, remedy));
        }
    }
    found
}

fn ports(facts: &Facts) -> Vec<Finding> {
    let swarm = facts.daemon.as_ref().map(|info| text(&info["Swarm"]["LocalNodeState"])).unwrap_or_default();
    // A swarm that is up holds them itself.
    if matches!(swarm.as_str(), "active" | "locked" | "pending") {
        return vec![Finding::ok("ports", "this node's swarm has its ports")];
    }
    let taken = SWARM_PORTS.iter().filter(|(port, protocol, _)| facts.ports.contains(&(*port, *protocol)));
    let mut found: Vec<Finding> = taken
        .map(|(port, protocol, cost)| {
            let subject = format!("port {port}/{protocol}");
            Finding::bad(
                Level::Warning,
                &subject,
                "in use by another program",
                cost,
                format!("ss -lnp 'sport = :{port}'"),
            )
        })
        .collect();
    if found.is_empty() {
        let all: Vec<String> = SWARM_PORTS.iter().map(|(port, protocol, _)| format!("{port}/{protocol}")).collect();
        found.push(Finding::ok("ports", format!("{} are free for a swarm", all.join(" and "))));
    }
    found
}

fn clock(facts: &Facts) -> Finding {
    let shown = facts.now.format("%Y-%m-%d %H:%M:%S UTC").to_string();
    let early = Utc.with_ymd_and_hms(YEAR_MIN, 1, 1, 0, 0, 0).single().is_some_and(|begin| facts.now < begin);
    if early {
        let cost = "every certificate is refused as not yet valid: no pull over TLS, no swarm";
        return Finding::bad(Level::Problem, "clock", shown, cost, "set it, and let a time service keep it");
    }
    let keeper = TIME_PROGRAMS.iter().find(|name| facts.programs.contains(**name));
    match (facts.clock_is_synchronised, keeper) {
        (true, _) => Finding::ok("clock", format!("{shown}, synchronised")),
        (false, Some(keeper)) => Finding::ok("clock", format!("{shown}, kept by {keeper}")),
        (false, None) => {
            let cost = "nodes whose clocks drift apart refuse each other's certificates";
            let found = format!("{shown}, nothing keeps it");
            Finding::bad(
                Level::Warning,
                "clock",
                found,
                cost,
                "apt-get install systemd-timesyncd or chrony, unless the host sets it",
            )
        }
    }
}

fn disk(facts: &Facts) -> Vec<Finding> {
    let root = facts.data_root.display();
    let (free, all) = (human::binary_size(facts.disk_free_bytes as f64), human::binary_size(facts.disk_bytes as f64));
    let shown = format!("{root}: {free} of {all} free, {}", facts.file_system);
    let share = |free: u64, all: u64| if all == 0 { 1.0 } else { free as f64 / all as f64 };
    let mut found = Vec::new();
    let clean = "skep system df, then skep system prune";
    if facts.disk_free_bytes < DISK_BYTES_MIN {
        found.push(Finding::bad(
            Level::Problem,
            "disk",
            shown,
            "images cannot be pulled, logs cannot be written",
            clean,
        ));
    } else if share(facts.disk_free_bytes, facts.disk_bytes) < FREE_SHARE_MIN {
        found.push(Finding::bad(Level::Warning, "disk", shown, "it is full soon", clean));
    } else {
        found.push(Finding::ok("disk", shown));
    }
    if facts.inodes > 0 && share(facts.inodes_free, facts.inodes) < FREE_SHARE_MIN {
        let shown = format!("{} of {} files left", facts.inodes_free, facts.inodes);
        found.push(Finding::bad(
            Level::Warning,
            "inodes",
            shown,
            "no more files can be made although there is room",
            clean,
        ));
    }
    if !GOOD_FILE_SYSTEMS.contains(&facts.file_system.as_str()) {
        let (level, cost) = match facts.file_system.as_str() {
            "overlay" | "nfs" | "nfs4" | "9p" | "fuse" | "vfat" | "ecryptfs" | "aufs" => {
                (Level::Problem, "overlayfs cannot write there: no container gets a file system")
            }
            _ => (Level::Warning, "overlayfs may not work there"),
        };
        let remedy = "a data root on ext4 or xfs: skep daemon --data-root PATH";
        found.push(Finding::bad(level, "file system", facts.file_system.clone(), cost, remedy));
    }
    found
}

fn room(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    let memory = human::binary_size(facts.memory_bytes as f64);
    found.push(if facts.memory_bytes < MEMORY_BYTES_MIN {
        Finding::bad(Level::Warning, "memory", memory, "the daemon may be killed for want of memory", "")
    } else {
        Finding::ok("memory", memory)
    });
    for (subject, value, least, cost, remedy) in [
        (
            "open files",
            facts.open_files_max,
            OPEN_FILES_MIN,
            "a few hundred containers use them up",
            "LimitNOFILE=1048576 in the unit, or ulimit -n",
        ),
        (
            "inotify instances",
            facts.watches_max,
            WATCHES_MIN,
            "programs that watch files fail, and so does logs -f with many followers",
            "sysctl fs.inotify.max_user_instances=512",
        ),
    ] {
        if value < least {
            found.push(Finding::bad(Level::Warning, subject, value.to_string(), cost, remedy));
        }
    }
    found
}

/// Programs that want the same things as we do.
fn neighbours(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    if facts.programs.contains("dockerd") {
        let cost = "both want the bridge docker0 and its addresses";
        found.push(Finding::bad(Level::Warning, "docker", "runs here too", cost, "stop one of them"));
    } else if facts.docker_socket {
        let cost = "clients without DOCKER_HOST talk to whoever made it";
        found.push(Finding::bad(Level::Warning, "docker", "/run/docker.sock is not ours", cost, ""));
    }
    for (program, name) in [("firewalld", "firewalld"), ("ufw", "ufw")] {
        if facts.programs.contains(program) {
            let cost = "reloading its rules leaves ours alone, but its own may drop what containers forward";
            found.push(Finding::bad(
                Level::Warning,
                name,
                "runs here too",
                cost,
                "allow forwarding for skep's bridges",
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::kernel::{Kernel, options};
    use super::*;
    use serde_json::json;
    use std::collections::BTreeSet;

    fn healthy() -> Facts {
        let config: String = FEATURES.iter().map(|feature| format!("CONFIG_{}=y\n", feature.option)).collect();
        Facts {
            is_root: true,
            kernel: Kernel { release: "6.1.0".into(), options: Some(options(&config)), ..Kernel::default() },
            cgroups: Cgroups::V2,
            controllers: ["memory", "cpu", "pids", "cpuset", "io"].map(str::to_owned).into(),
            daemon: Ok(json!({"ServerVersion": env!("CARGO_PKG_VERSION"), "Swarm": {"LocalNodeState": "inactive"}})),
            ports: BTreeSet::new(),
            now: Utc.with_ymd_and_hms(2026, 11, 24, 12, 0, 0).unwrap(),
            programs: BTreeSet::from(["chronyd".to_owned()]),
            clock_is_synchronised: false,
            data_root: "/var/lib/skep".into(),
            file_system: "ext4".into(),
            disk_bytes: 100 << 30,
            disk_free_bytes: 50 << 30,
            inodes: 100,
            inodes_free: 50,
            memory_bytes: 4 << 30,
            open_files_max: 1 << 20,
            watches_max: 128,
            docker_socket: false,
        }
    }

    /// Subjects that are not well, as `level subject`.
    fn check(change: impl FnOnce(&mut Facts), expect: &[&str]) {
        let mut facts = healthy();
        change(&mut facts);
        let found = judge(&facts);
        let bad: Vec<String> = found
            .iter()
            .filter(|finding| finding.level != Level::Ok)
            .map(|finding| {
                assert!(!finding.cost.is_empty(), "{finding:?} says not what it costs");
                format!("{} {}", finding.level.word(), finding.subject)
            })
            .collect();
        assert_eq!(bad, expect);
    }

    #[test]
    fn a_good_machine_has_nothing_to_say() {
        check(|_| {}, &[]);
    }

    #[test]
    fn kernels_lack_things() {
        let without = |facts: &mut Facts, option: &str| {
            facts.kernel.options.as_mut().unwrap().remove(option);
        };
        check(|facts| without(facts, "OVERLAY_FS"), &["problem overlay_fs"]);
        check(|facts| without(facts, "IP_VS"), &["warning ip_vs"]);
        check(|facts| facts.kernel.options = None, &["warning unknown"]);
    }

    #[test]
    fn cgroups_lack_controllers() {
        check(|facts| facts.cgroups = Cgroups::None, &["problem cgroups"]);
        check(
            |facts| {
                facts.controllers.remove("memory");
            },
            &["warning cgroup memory"],
        );
        check(
            |facts| {
                facts.cgroups = Cgroups::Hybrid;
                facts.controllers.insert("blkio".into());
            },
            &["warning cgroup devices"],
        );
    }

    #[test]
    fn ports_count_unless_the_swarm_has_them() {
        let taken = |facts: &mut Facts| {
            facts.ports.extend([(2377, "tcp"), (4789, "udp"), (80, "tcp")]);
        };
        check(taken, &["warning port 2377/tcp", "warning port 4789/udp"]);
        check(
            |facts| {
                taken(facts);
                facts.daemon =
                    Ok(json!({"ServerVersion": env!("CARGO_PKG_VERSION"), "Swarm": {"LocalNodeState": "active"}}));
            },
            &[],
        );
    }

    #[test]
    fn clock_disk_and_neighbours() {
        check(|facts| facts.programs.clear(), &["warning clock"]);
        check(|facts| facts.now = Utc.timestamp_opt(0, 0).unwrap(), &["problem clock"]);
        check(|facts| facts.disk_free_bytes = 1 << 20, &["problem disk"]);
        check(|facts| facts.disk_free_bytes = 5 << 30, &["warning disk"]);
        check(|facts| facts.inodes_free = 1, &["warning inodes"]);
        check(|facts| facts.file_system = "overlay".into(), &["problem file system"]);
        check(|facts| facts.file_system = "zfs".into(), &["warning file system"]);
        check(
            |facts| {
                facts.programs.insert("dockerd".into());
            },
            &["warning docker"],
        );
        check(|facts| facts.daemon = Err("refused".into()), &["problem daemon"]);
        check(|facts| facts.is_root = false, &["warning user"]);
        check(|facts| facts.open_files_max = 256, &["warning open files"]);
    }
}
