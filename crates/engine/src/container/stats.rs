//! What the kernel counted of a container.

use crate::container::inner::Inner;
use crate::container::shim::now;
use skep_model::{Result, Timestamp};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Counters at one moment; all since the start of the container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stats {
    pub at: Timestamp,
    pub cpu: CpuCounters,
    pub memory: MemoryCounters,
    pub pids: u64,
    /// 0 for no limit.
    pub pids_limit: u64,
    pub block: BlockCounters,
    /// By name inside the container.
    pub interfaces: BTreeMap<String, InterfaceCounters>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CpuCounters {
    pub total_ns: u64,
    pub user_ns: u64,
    pub system_ns: u64,
    /// Of the whole machine, over all processors.
    pub machine_ns: u64,
    pub online: u32,
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_ns: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemoryCounters {
    pub usage_bytes: u64,
    /// Page cache that could go at once; clients subtract it.
    pub inactive_file_bytes: u64,
    pub limit_bytes: u64,
    pub max_usage_bytes: u64,
    /// `memory.stat` as the kernel has it.
    pub detail: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockCounters {
    pub read_bytes: u64,
    pub write_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InterfaceCounters {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

const NANOSECONDS_PER_TICK: u64 = 10_000_000;

impl Inner {
    pub(crate) fn stats(&self, name: &str) -> Result<Stats> {
        let (_, info) = self.container_of(name)?;
        let mut stats = Stats { at: now(), ..Stats::default() };
        if !info.state.status.is_running() || info.state.pid == 0 {
            return Ok(stats);
        }
        let path = self.cgroup_path(&info);
        let dir = |controller: &str| self.kernel.cgroup_dir(controller, &path);
        if self.kernel.cgroup_v2 {
            read_v2(&dir("cpu"), &mut stats);
        } else {
            read_v1(&dir, &mut stats);
        }
        let machine = self.kernel.memory_bytes;
        if stats.memory.limit_bytes == 0 || stats.memory.limit_bytes > machine {
            stats.memory.limit_bytes = machine;
        }
        stats.cpu.machine_ns = machine_cpu_ns(&text(Path::new("/proc/stat")));
        stats.cpu.online = u32::try_from(self.kernel.cpus).unwrap_or(u32::MAX);
        stats.interfaces = parse_interfaces(&text(Path::new(&format!("/proc/{}/net/dev", info.state.pid))));
        Ok(stats)
    }
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// A file with one number; `max` and nonsense are 0.
fn number(path: &Path) -> u64 {
    text(path).trim().parse().unwrap_or(0)
}

/// Lines of a name and a number.
fn table(path: &Path) -> BTreeMap<String, u64> {
    let parse = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    text(path).lines().filter_map(parse).collect()
}

fn field(table: &BTreeMap<String, u64>, name: &str) -> u64 {
    table.get(name).copied().unwrap_or(0)
}

fn read_v1(dir: &dyn Fn(&str) -> std::path::PathBuf, stats: &mut Stats) {
    let accounting = dir("cpuacct");
    stats.cpu.total_ns = number(&accounting.join("cpuacct.usage"));
    let split = table(&accounting.join("cpuacct.stat"));
    stats.cpu.user_ns = field(&split, "user") * NANOSECONDS_PER_TICK;
    stats.cpu.system_ns = field(&split, "system") * NANOSECONDS_PER_TICK;
    let throttle = table(&dir("cpu").join("cpu.stat"));
    stats.cpu.periods = field(&throttle, "nr_periods");
    stats.cpu.throttled_periods = field(&throttle, "nr_throttled");
    stats.cpu.throttled_ns = field(&throttle, "throttled_time");
    let memory = dir("memory");
    stats.memory.usage_bytes = number(&memory.join("memory.usage_in_bytes"));
    stats.memory.max_usage_bytes = number(&memory.join("memory.max_usage_in_bytes"));
    stats.memory.limit_bytes = number(&memory.join("memory.limit_in_bytes"));
    stats.memory.detail = table(&memory.join("memory.stat"));
    stats.memory.inactive_file_bytes = field(&stats.memory.detail, "total_inactive_file");
    stats.pids = number(&dir("pids").join("pids.current"));
    stats.pids_limit = number(&dir("pids").join("pids.max"));
    for line in text(&dir("blkio").join("blkio.throttle.io_service_bytes")).lines() {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        if let [_, kind, bytes] = fields[..] {
            let bytes = bytes.parse().unwrap_or(0);
            match kind {
                "Read" => stats.block.read_bytes += bytes,
                "Write" => stats.block.write_bytes += bytes,
                _ => {}
            }
        }
    }
}

fn read_v2(dir: &Path, stats: &mut Stats) {
    let cpu = table(&dir.join("cpu.stat"));
    stats.cpu.total_ns = field(&cpu, "usage_usec") * 1000;
    stats.cpu.user_ns = field(&cpu, "user_usec") * 1000;
    stats.cpu.system_ns = field(&cpu, "system_usec") * 1000;
    stats.cpu.periods = field(&cpu, "nr_periods");
    stats.cpu.throttled_periods = field(&cpu, "nr_throttled");
    stats.cpu.throttled_ns = field(&cpu, "throttled_usec") * 1000;
    stats.memory.usage_bytes = number(&dir.join("memory.current"));
    stats.memory.max_usage_bytes = number(&dir.join("memory.peak"));
    stats.memory.limit_bytes = number(&dir.join("memory.max"));
    stats.memory.detail = table(&dir.join("memory.stat"));
    stats.memory.inactive_file_bytes = field(&stats.memory.detail, "inactive_file");
    stats.pids = number(&dir.join("pids.current"));
    stats.pids_limit = number(&dir.join("pids.max"));
    for word in text(&dir.join("io.stat")).split_ascii_whitespace() {
        match word.split_once('=') {
            Some(("rbytes", bytes)) => stats.block.read_bytes += bytes.parse::<u64>().unwrap_or(0),
            Some(("wbytes", bytes)) => stats.block.write_bytes += bytes.parse::<u64>().unwrap_or(0),
            _ => {}
        }
    }
}

/// Busy and idle time of all processors: what Docker's clients divide by.
fn machine_cpu_ns(stat: &str) -> u64 {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let ticks = line.into_iter().flat_map(str::split_ascii_whitespace).take(8);
    ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * NANOSECONDS_PER_TICK
}

fn parse_interfaces(text: &str) -> BTreeMap<String, InterfaceCounters> {
    let parse = |line: &str| {
        let (name, rest) = line.trim().split_once(':')?;
        let fields: Vec<u64> = rest.split_ascii_whitespace().filter_map(|field| field.parse().ok()).collect();
        if name == "lo" || fields.len() < 16 {
            return None;
        }
        let counters = InterfaceCounters {
            rx_bytes: fields[0],
            rx_packets: fields[1],
            rx_errors: fields[2],
            rx_dropped: fields[3],
            tx_bytes: fields[8],
            tx_packets: fields[9],
            tx_errors: fields[10],
            tx_dropped: fields[11],
        };
        Some((name.to_owned(), counters))
    };
    text.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_interfaces_and_processors_are_read() {
        let text = "Inter-| Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\n";
        let interfaces = parse_interfaces(text);
        assert_eq!(interfaces.len(), 1);
        assert_eq!((interfaces["eth0"].rx_bytes, interfaces["eth0"].tx_dropped), (10, 8));
        assert_eq!(machine_cpu_ns("cpu  1 2 3 4 5 6 7 8 9 9\ncpu0 1\n"), 36 * NANOSECONDS_PER_TICK);
    }
}
