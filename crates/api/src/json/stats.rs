//! `GET /containers/ID/stats`.

use super::zero;
use serde::Serialize;
use serde_json::{Value, json};
use skep_engine::container::{CpuCounters, Stats as Counters};
use skep_model::container::ContainerInfo;
use std::collections::BTreeMap;

/// One reading with the one before it, from which clients compute rates.
#[derive(Debug, Serialize)]
pub(crate) struct Stats {
    name: String,
    id: String,
    read: String,
    preread: String,
    pids_stats: Value,
    blkio_stats: Value,
    num_procs: u32,
    storage_stats: Value,
    cpu_stats: Cpu,
    precpu_stats: Cpu,
    memory_stats: Value,
    #[serde(skip_serializing_if = "zero")]
    networks: BTreeMap<String, Value>,
}

#[derive(Debug, Serialize)]
struct Cpu {
    cpu_usage: Value,
    #[serde(skip_serializing_if = "zero")]
    system_cpu_usage: u64,
    #[serde(skip_serializing_if = "zero")]
    online_cpus: u32,
    throttling_data: Value,
}

impl Stats {
    /// `before` is `None` for the first reading.
    pub(crate) fn of(info: &ContainerInfo, before: Option<&Counters>, now: &Counters) -> Self {
        let running = info.state.status.is_running();
        let none = CpuCounters::default();
        let mut pids = serde_json::Map::new();
        if running {
            pids.insert("current".into(), now.pids.into());
            // The largest number stands for "no limit".
            let limit = if now.pids_limit == 0 { u64::MAX } else { now.pids_limit };
            pids.insert("limit".into(), limit.into());
        }
        Self {
            name: format!("/{}", info.name),
            id: info.id.to_string(),
            read: now.at.to_rfc3339(),
            preread: before.map(|before| before.at).unwrap_or_default().to_rfc3339(),
            pids_stats: pids.into(),
            blkio_stats: block(now, running),
            num_procs: 0,
            storage_stats: json!({}),
            cpu_stats: Cpu::of(&now.cpu),
            precpu_stats: Cpu::of(before.map_or(&none, |before| &before.cpu)),
            memory_stats: memory(now, running),
            networks: now.interfaces.iter().map(|(name, i)| (name.clone(), interface(i))).collect(),
        }
    }
}

impl Cpu {
    fn of(cpu: &CpuCounters) -> Self {
        Self {
            cpu_usage: json!({
                "total_usage": cpu.total_ns, "usage_in_kernelmode": cpu.system_ns, "usage_in_usermode": cpu.user_ns
            }),
            system_cpu_usage: cpu.machine_ns,
            online_cpus: cpu.online,
            throttling_data: json!({
                "periods": cpu.periods, "throttled_periods": cpu.throttled_periods, "throttled_time": cpu.throttled_ns
            }),
        }
    }
}

fn memory(now: &Counters, running: bool) -> Value {
    if !running {
        return json!({});
    }
    let memory = &now.memory;
    let mut detail = memory.detail.clone();
    // Clients subtract the one of the two names that their cgroup version has.
    for name in ["inactive_file", "total_inactive_file"] {
        detail.entry(name.into()).or_insert(memory.inactive_file_bytes);
    }
    json!({
        "usage": memory.usage_bytes, "max_usage": memory.max_usage_bytes, "stats": detail, "limit": memory.limit_bytes
    })
}

fn block(now: &Counters, running: bool) -> Value {
    let entry = |op: &str, value: u64| json!({ "major": 0, "minor": 0, "op": op, "value": value });
    let bytes = if running {
        json!([entry("read", now.block.read_bytes), entry("write", now.block.write_bytes)])
    } else {
        json!(null)
    };
    json!({
        "io_service_bytes_recursive": bytes, "io_serviced_recursive": null, "io_queue_recursive": null,
        "io_service_time_recursive": null, "io_wait_time_recursive": null, "io_merged_recursive": null,
        "io_time_recursive": null, "sectors_recursive": null
    })
}

fn interface(i: &skep_engine::container::InterfaceCounters) -> Value {
    json!({
        "rx_bytes": i.rx_bytes, "rx_packets": i.rx_packets, "rx_errors": i.rx_errors, "rx_dropped": i.rx_dropped,
        "tx_bytes": i.tx_bytes, "tx_packets": i.tx_packets, "tx_errors": i.tx_errors, "tx_dropped": i.tx_dropped
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_engine::container::{BlockCounters, InterfaceCounters};
    use skep_model::container::ContainerStatus;

    fn counters() -> Counters {
        let mut counters = Counters { pids: 3, ..Counters::default() };
        counters.cpu = CpuCounters { total_ns: 5, machine_ns: 100, online: 2, ..CpuCounters::default() };
        counters.memory.usage_bytes = 9;
        counters.memory.inactive_file_bytes = 4;
        counters.block = BlockCounters { read_bytes: 1, write_bytes: 2 };
        counters.interfaces.insert("eth0".into(), InterfaceCounters { rx_bytes: 7, ..InterfaceCounters::default() });
        counters
    }

    #[test]
    fn a_running_container_has_its_counters() {
        let mut info = ContainerInfo { name: "c1".into(), ..ContainerInfo::default() };
        info.state.status = ContainerStatus::Running;
        let wire = serde_json::to_value(Stats::of(&info, Some(&counters()), &counters())).unwrap();
        assert_eq!((&wire["name"], &wire["pids_stats"]["current"]), (&json!("/c1"), &json!(3)));
        assert_eq!(wire["cpu_stats"]["cpu_usage"]["total_usage"], wire["precpu_stats"]["cpu_usage"]["total_usage"]);
        assert_eq!(wire["memory_stats"]["stats"]["total_inactive_file"], 4);
        assert_eq!(wire["networks"]["eth0"]["rx_bytes"], 7);
        assert_eq!(wire["blkio_stats"]["io_service_bytes_recursive"][1]["value"], 2);
    }

    #[test]
    fn a_stopped_one_has_none() {
        let wire = serde_json::to_value(Stats::of(&ContainerInfo::default(), None, &Counters::default())).unwrap();
        assert_eq!((&wire["memory_stats"], &wire["pids_stats"]), (&json!({}), &json!({})));
        assert_eq!(wire["preread"], "0001-01-01T00:00:00Z");
        assert!(wire.get("networks").is_none());
    }
}
