//! `stats` and `update`.

use super::for_each;
use crate::client::segment;
use crate::flags::container_tune::{Stats, Update};
use crate::format::{Listing, text};
use crate::{Client, Failure, Outcome, human, parse, terminal};
use anyhow::anyhow;
use futures_util::future::join_all;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Time before a list that was empty is asked for again.
const EMPTY_PERIOD: Duration = Duration::from_secs(1);
/// Clears the terminal and goes to its first column.
const CLEAR: &str = "\x1b[2J\x1b[H";

const COLUMNS: [(&str, &str); 8] = [
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];

pub(crate) async fn stats(client: &Client, flags: &Stats) -> Outcome {
    loop {
        let names =
            if flags.containers.is_empty() { running(client, flags.all).await? } else { flags.containers.clone() };
        // Each reading takes a second at the daemon, so all are asked for at once.
        let readings = join_all(names.iter().map(|name| reading(client, name))).await;
        let mut rows = Vec::new();
        for (name, reading) in names.iter().zip(readings) {
            match reading {
                Ok(value) => rows.push(row(name, &value, flags.no_trunc)),
                // One that was listed and went is no failure; one that was named is.
                Err(Failure::Api(error)) if flags.containers.is_empty() && error.status == 404 => {}
                Err(failure) => return Err(failure),
            }
        }
        if !flags.no_stream && terminal::output_is_terminal() {
            print!("{CLEAR}");
        }
        let nothing = rows.is_empty();
        Listing { columns: &COLUMNS, rows, id: "ID" }.print(&flags.format, false)?;
        if flags.no_stream {
            return Ok(());
        }
        if nothing {
            tokio::time::sleep(EMPTY_PERIOD).await;
        }
    }
}

async fn running(client: &Client, all: bool) -> Outcome<Vec<String>> {
    let answer = client.get(if all { "/containers/json?all=1" } else { "/containers/json" }).await?;
    Ok(answer.as_array().into_iter().flatten().map(|container| text(&container["Id"])).collect())
}

async fn reading(client: &Client, name: &str) -> Outcome<Value> {
    client.get(&format!("/containers/{}/stats?stream=false", segment(name))).await
}

fn row(container: &str, reading: &Value, whole: bool) -> Value {
    let id = text(&reading["id"]);
    let (used, limit) = memory(&reading["memory_stats"]);
    let share = if limit > 0.0 { used / limit * 100.0 } else { 0.0 };
    let (received, sent) = network(&reading["networks"]);
    let block = |op: &str| {
        let entries = reading["blkio_stats"]["io_service_bytes_recursive"].as_array().into_iter().flatten();
        entries.filter(|e| text(&e["op"]).eq_ignore_ascii_case(op)).filter_map(|e| e["value"].as_f64()).sum::<f64>()
    };
    json!({
        "Container": container,
        "ID": if whole { id } else { human::short_id(&id) },
        "Name": text(&reading["name"]).trim_start_matches('/'),
        "CPUPerc": format!("{:.2}%", cpu(reading)),
        "MemUsage": format!("{} / {}", human::binary_size(used), human::binary_size(limit)),
        "MemPerc": format!("{share:.2}%"),
        "NetIO": format!("{} / {}", human::size(received), human::size(sent)),
        "BlockIO": format!("{} / {}", human::size(block("read")), human::size(block("write"))),
        "PIDs": reading["pids_stats"]["current"].as_u64().unwrap_or(0).to_string(),
    })
}

/// Share of one CPU between two readings, in percent.
fn cpu(reading: &Value) -> f64 {
    let number = |which: &str, path: &str| reading[which].pointer(path).and_then(Value::as_f64).unwrap_or(0.0);
    let used = number("cpu_stats", "/cpu_usage/total_usage") - number("precpu_stats", "/cpu_usage/total_usage");
    let machine = number("cpu_stats", "/system_cpu_usage") - number("precpu_stats", "/system_cpu_usage");
    let cpus = number("cpu_stats", "/online_cpus").max(1.0);
    if used > 0.0 && machine > 0.0 { used / machine * cpus * 100.0 } else { 0.0 }
}

/// What is used without the page cache that can be dropped, and the limit.
fn memory(stats: &Value) -> (f64, f64) {
    let usage = stats["usage"].as_f64().unwrap_or(0.0);
    let cache = ["total_inactive_file", "inactive_file"].iter().find_map(|name| stats["stats"][*name].as_f64());
    let used = cache.filter(|cache| *cache < usage).map_or(usage, |cache| usage - cache);
    (used, stats["limit"].as_f64().unwrap_or(0.0))
}

fn network(interfaces: &Value) -> (f64, f64) {
    let sum = |field: &str| {
        let all = interfaces.as_object().into_iter().flatten();
        all.filter_map(|(_, interface)| interface[field].as_f64()).sum::<f64>()
    };
    (sum("rx_bytes"), sum("tx_bytes"))
}

pub(crate) async fn update(client: &Client, flags: &Update) -> Outcome {
    let body = &update_body(flags)?;
    for_each(&flags.containers, |name| async move {
        let answer = client.post(&format!("/containers/{}/update", segment(name)), body.clone()).await?;
        super::service::warn(&answer);
        Ok(Some(name.to_owned()))
    })
    .await
}

fn update_body(flags: &Update) -> anyhow::Result<Value> {
    let size = |text: &Option<String>| text.as_deref().map(parse::bytes).transpose();
    let fields: [(&str, Option<Value>); 12] = [
        ("BlkioWeight", flags.blkio_weight.map(Value::from)),
        ("CpuPeriod", flags.cpu_period.map(Value::from)),
        ("CpuQuota", flags.cpu_quota.map(Value::from)),
        ("CpuShares", flags.cpu_shares.map(Value::from)),
        ("NanoCpus", flags.cpus.as_deref().map(parse::nano_cpus).transpose()?.map(Value::from)),
        ("CpusetCpus", flags.cpuset_cpus.clone().map(Value::from)),
        ("CpusetMems", flags.cpuset_mems.clone().map(Value::from)),
        ("Memory", size(&flags.memory)?.map(Value::from)),
        ("MemoryReservation", size(&flags.memory_reservation)?.map(Value::from)),
        ("MemorySwap", flags.memory_swap.as_deref().map(parse::swap_bytes).transpose()?.map(Value::from)),
        ("PidsLimit", flags.pids_limit.map(Value::from)),
        ("RestartPolicy", flags.restart.as_deref().map(parse::restart_policy).transpose()?),
    ];
    let body: Map<String, Value> =
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    if body.is_empty() {
        return Err(anyhow!("you must provide one or more flags when using this command"));
    }
    Ok(Value::Object(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_becomes_a_row_as_docker_shows_it() {
        let reading = json!({
            "id": "8789c6c0bce9aaaa", "name": "/box1", "pids_stats": {"current": 2},
            "cpu_stats": {"cpu_usage": {"total_usage": 300}, "system_cpu_usage": 2000, "online_cpus": 2},
            "precpu_stats": {"cpu_usage": {"total_usage": 200}, "system_cpu_usage": 1000},
            "memory_stats": {"usage": 1_048_576, "limit": 10_485_760, "stats": {"inactive_file": 450_560}},
            "networks": {"eth0": {"rx_bytes": 400, "tx_bytes": 0}, "eth1": {"rx_bytes": 86}},
            "blkio_stats": {"io_service_bytes_recursive": [{"op": "Read", "value": 4096}, {"op": "write", "value": 0}]},
        });
        assert_eq!(
            row("box1", &reading, false),
            json!({"Container": "box1", "ID": "8789c6c0bce9", "Name": "box1", "CPUPerc": "20.00%", "MemUsage": "584KiB / 10MiB",
                "MemPerc": "5.70%", "NetIO": "486B / 0B", "BlockIO": "4.1kB / 0B", "PIDs": "2"})
        );
        let stopped =
            json!({"id": "1", "name": "/x", "memory_stats": {}, "blkio_stats": {"io_service_bytes_recursive": null}});
        assert_eq!(row("x", &stopped, false)["MemUsage"], "0B / 0B");
    }
}
