//! Resource limits in OCI form, less what the kernel cannot do.

use crate::sys::kernel::Kernel;
use serde_json::{Map, Value, json};
use skep_model::container::{HostConfig, Resources, Ulimit};
use skep_model::{Error, Result};

/// Below this, even an empty process does not fit.
const MEMORY_MIN_BYTES: i64 = 6 * 1024 * 1024;
const CPU_PERIOD_US: i64 = 100_000;
const NANO_PER_CPU: i64 = 1_000_000_000;

/// Refuses what can never work, with Docker's texts.
///
/// # Errors
/// 400 with the rule that is broken.
pub(crate) fn validate(resources: &Resources, kernel: &Kernel) -> Result<()> {
    let cpus = i64::try_from(kernel.cpus).unwrap_or(i64::MAX);
    if resources.memory_bytes != 0 && resources.memory_bytes < MEMORY_MIN_BYTES {
        return Err(Error::invalid("Minimum memory limit allowed is 6MB"));
    }
    if resources.memory_bytes > 0
        && resources.memory_swap_bytes > 0
        && resources.memory_swap_bytes < resources.memory_bytes
    {
        return Err(Error::invalid("Minimum memoryswap limit should be larger than memory limit, see usage"));
    }
    if resources.memory_bytes == 0 && resources.memory_swap_bytes > 0 {
        return Err(Error::invalid("You should always set the Memory limit when using Memoryswap limit, see usage"));
    }
    if resources.memory_bytes > 0 && resources.memory_reservation_bytes > resources.memory_bytes {
        return Err(Error::invalid("Minimum memory limit can not be less than memory reservation limit, see usage"));
    }
    if resources.nano_cpus < 0 || resources.nano_cpus > cpus.saturating_mul(NANO_PER_CPU) {
        return Err(Error::invalid(format!(
            "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        )));
    }
    if resources.nano_cpus > 0 && (resources.cpu_period_us > 0 || resources.cpu_quota_us > 0) {
        return Err(Error::invalid("Conflicting options: Nano CPUs and CPU Period/Quota cannot both be set"));
    }
    if resources.cpu_quota_us > 0 && resources.cpu_quota_us < 1000 {
        return Err(Error::invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)"));
    }
    if resources.blkio_weight > 0 && !(10..=1000).contains(&resources.blkio_weight) {
        return Err(Error::invalid("range of blkio weight is from 10 to 1000"));
    }
    validate_cpu_set(&resources.cpuset_cpus, kernel.cpus)
}

fn validate_cpu_set(set: &str, cpus: usize) -> Result<()> {
    let number = |text: &str| text.trim().parse::<usize>().ok();
    for part in set.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => {
                if last >= cpus {
                    return Err(Error::invalid(format!(
                        "Requested CPUs are not available - requested {set}, available: 0-{}",
                        cpus.saturating_sub(1)
                    )));
                }
            }
            _ => return Err(Error::invalid(format!("Invalid value {set} for cpuset cpus"))),
        }
    }
    Ok(())
}

/// `linux.resources`, and a warning for each wish that cannot be fulfilled here.
pub(crate) fn oci(host: &HostConfig, devices: Vec<Value>, kernel: &Kernel) -> (Value, Vec<String>) {
    let mut warnings = Vec::new();
    let resources = &host.resources;
    let mut out = Map::new();
    if has(kernel, "devices") || kernel.cgroup_v2 {
        out.insert("devices".into(), devices.into());
    }
    let mut put = |controller: &str, wish: &str, name: &str, value: Option<Value>| {
        let Some(value) = value else { return };
        if has(kernel, controller) {
            out.insert(name.into(), value);
        } else {
            warnings.push(format!("Your kernel does not support {wish}. Limitation discarded."));
        }
    };
    put("memory", "memory limit capabilities", "memory", memory(resources, kernel));
    // What libcontainer leaves alone when it is zero.
    let no_swap = kernel.cgroup_v2 && resources.memory_bytes > 0 && swap(resources) == resources.memory_bytes;
    put("memory", "swap limit capabilities", "unified", no_swap.then(|| json!({"memory.swap.max": "0"})));
    put("cpu", "CPU limits", "cpu", cpu(resources, kernel));
    put("pids", "pids limit capabilities", "pids", pids(resources));
    let weight = (resources.blkio_weight > 0).then(|| json!({"weight": resources.blkio_weight}));
    put(if kernel.cgroup_v2 { "io" } else { "blkio" }, "Block I/O weight", "blockIO", weight);
    let set = !resources.cpuset_cpus.is_empty() || !resources.cpuset_mems.is_empty();
    if set && !has(kernel, "cpuset") {
        warnings.push("Your kernel does not support cpuset. Cpuset discarded.".into());
    }
    if resources.memory_bytes > 0 && resources.memory_swap_bytes != -1 && !kernel.swap_limit {
        warnings.push(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap."
                .into(),
        );
    }
    (Value::Object(out), warnings)
}

fn has(kernel: &Kernel, controller: &str) -> bool {
    kernel.controllers.contains(controller)
}

fn memory(resources: &Resources, kernel: &Kernel) -> Option<Value> {
    let mut out = Map::new();
    if resources.memory_bytes > 0 {
        out.insert("limit".into(), resources.memory_bytes.into());
        if kernel.swap_limit {
            out.insert("swap".into(), swap(resources).into());
        }
    }
    if resources.memory_reservation_bytes > 0 {
        out.insert("reservation".into(), resources.memory_reservation_bytes.into());
    }
    if resources.oom_kill_disable && !kernel.cgroup_v2 {
        out.insert("disableOOMKiller".into(), true.into());
    }
    (!out.is_empty()).then_some(Value::Object(out))
}

/// Memory plus swap; twice the memory unless set.
pub(crate) fn swap(resources: &Resources) -> i64 {
    match resources.memory_swap_bytes {
        0 => resources.memory_bytes.saturating_mul(2),
        set => set,
    }
}

/// Quota and period in microseconds, if limited.
pub(crate) fn cpu_quota(resources: &Resources) -> Option<(i64, i64)> {
    if resources.nano_cpus > 0 {
        return Some((resources.nano_cpus.saturating_mul(CPU_PERIOD_US) / NANO_PER_CPU, CPU_PERIOD_US));
    }
    let period = if resources.cpu_period_us > 0 { resources.cpu_period_us } else { CPU_PERIOD_US };
    (resources.cpu_quota_us != 0 || resources.cpu_period_us != 0).then(|| {
        let quota = if resources.cpu_quota_us == 0 { -1 } else { resources.cpu_quota_us };
        (quota, period)
    })
}

fn cpu(resources: &Resources, kernel: &Kernel) -> Option<Value> {
    let mut out = Map::new();
    if resources.cpu_shares > 0 {
        out.insert("shares".into(), resources.cpu_shares.max(2).into());
    }
    if let Some((quota, period)) = cpu_quota(resources) {
        out.insert("quota".into(), quota.into());
        out.insert("period".into(), period.into());
    }
    if has(kernel, "cpuset") {
        for (name, set) in [("cpus", &resources.cpuset_cpus), ("mems", &resources.cpuset_mems)] {
            if !set.is_empty() {
                out.insert(name.into(), set.clone().into());
            }
        }
    }
    (!out.is_empty()).then_some(Value::Object(out))
}

fn pids(resources: &Resources) -> Option<Value> {
    (resources.pids_limit > 0).then(|| json!({"limit": resources.pids_limit}))
}

const OPEN_FILES: &str = "nofile";

/// `process.rlimits`, clamped to what we may set, with a warning for each clamped one.
///
/// # Errors
/// A name that is no limit, or soft above hard.
pub(crate) fn rlimits(ulimits: &[Ulimit], kernel: &Kernel) -> Result<(Vec<Value>, Vec<String>)> {
    let mut warnings = Vec::new();
    let mut out = Vec::new();
    for ulimit in ulimits {
        let number = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
        let (soft, hard) = (number(ulimit.soft), number(ulimit.hard));
        if !kernel.hard_limits.iter().any(|(name, _)| *name == ulimit.name) {
            return Err(Error::invalid(format!("invalid ulimit type: {}", ulimit.name)));
        }
        if soft > hard {
            return Err(Error::invalid(format!(
                "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                ulimit.soft, ulimit.hard
            )));
        }
        let most = kernel.hard_limit(&ulimit.name);
        if hard > most {
            warnings.push(format!(
                "This machine does not allow raising the {} limit to {}. Limited to {most}.",
                ulimit.name, ulimit.hard
            ));
        }
        out.push(json!({
            "type": format!("RLIMIT_{}", ulimit.name.to_ascii_uppercase()),
            "soft": soft.min(most),
            "hard": hard.min(most),
        }));
    }
    // The daemon raises its own limit, which is not meant for containers.
    if !ulimits.iter().any(|ulimit| ulimit.name == OPEN_FILES) {
        let most = kernel.hard_limits.iter().find(|(name, _)| name == OPEN_FILES).map_or(u64::MAX, |(_, hard)| *hard);
        out.push(json!({ "type": "RLIMIT_NOFILE", "soft": kernel.open_files.min(most), "hard": most }));
    }
    Ok((out, warnings))
}

/// The score, not below what we may set.
pub(crate) fn oom_score_adj(wanted: i32, kernel: &Kernel) -> (i32, Option<String>) {
    if wanted >= kernel.oom_score_adj || kernel.sys_resource {
        return (wanted, None);
    }
    let warning = format!("This machine does not allow an OOM score of {wanted}. Using {}.", kernel.oom_score_adj);
    (kernel.oom_score_adj, Some(warning))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn kernel() -> Kernel {
        Kernel {
            capabilities: ["CAP_CHOWN", "CAP_KILL"].iter().map(|&name| name.to_owned()).collect(),
            sys_resource: false,
            hard_limits: vec![("nofile".into(), 20_000), ("core".into(), u64::MAX)],
            open_files: 1024,
            oom_score_adj: 0,
            cgroup_v2: false,
            controllers: ["memory", "cpu", "devices"].iter().map(|&name| name.to_owned()).collect(),
            swap_limit: true,
            cpus: 2,
            memory_bytes: 1 << 30,
        }
    }

    #[test]
    fn impossible_limits_are_refused_in_docker_words() {
        let check = |resources: Resources, text: &str| {
            assert_eq!(validate(&resources, &kernel()).unwrap_err().message, text);
        };
        check(Resources { memory_bytes: 1024, ..Default::default() }, "Minimum memory limit allowed is 6MB");
        check(
            Resources { nano_cpus: 3_000_000_000, ..Default::default() },
            "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available",
        );
        check(
            Resources { cpuset_cpus: "0-7".into(), ..Default::default() },
            "Requested CPUs are not available - requested 0-7, available: 0-1",
        );
    }

    #[test]
    fn cpus_become_a_quota_and_missing_controllers_a_warning() {
        let host = HostConfig {
            resources: Resources { nano_cpus: 1_500_000_000, pids_limit: 10, ..Default::default() },
            ..Default::default()
        };
        let (value, warnings) = oci(&host, Vec::new(), &kernel());
        assert_eq!(value["cpu"]["quota"], 150_000);
        assert!(value.get("pids").is_none());
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn memory_without_swap_is_said_in_full_on_cgroup_v2() {
        let check = |cgroup_v2: bool, memory_swap_bytes: i64, expect: Option<&str>| {
            let kernel = Kernel { cgroup_v2, ..kernel() };
            let resources = Resources { memory_bytes: 1 << 24, memory_swap_bytes, ..Default::default() };
            let (value, _) = oci(&HostConfig { resources, ..Default::default() }, Vec::new(), &kernel);
            assert_eq!(value.pointer("/unified/memory.swap.max").and_then(Value::as_str), expect);
        };
        check(true, 1 << 24, Some("0"));
        check(true, 0, None);
        check(true, -1, None);
        check(false, 1 << 24, None);
    }

    #[test]
    fn limits_are_clamped_to_the_hard_limit() {
        let ulimit = Ulimit { name: "nofile".into(), soft: 65_536, hard: 65_536 };
        let (limits, warnings) = rlimits(&[ulimit], &kernel()).unwrap();
        assert_eq!(limits[0]["soft"], 20_000);
        assert_eq!((limits.len(), warnings.len()), (1, 1));
        let (limits, _) = rlimits(&[], &kernel()).unwrap();
        assert_eq!(limits, [json!({ "type": "RLIMIT_NOFILE", "soft": 1024, "hard": 20_000 })]);
        assert_eq!(oom_score_adj(-500, &kernel()).0, 0);
        assert_eq!(oom_score_adj(500, &kernel()), (500, None));
    }
}
