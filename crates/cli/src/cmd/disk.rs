//! `system df`: what takes space, and how much of it could be freed.

use crate::format::Listing;
use crate::{Client, Outcome, human};
use serde_json::{Value, json};

const COLUMNS: [(&str, &str); 5] =
    [("Type", "TYPE"), ("TotalCount", "TOTAL"), ("Active", "ACTIVE"), ("Size", "SIZE"), ("Reclaimable", "RECLAIMABLE")];

pub(crate) async fn usage(client: &Client, format: &str) -> Outcome {
    let usage = client.get("/system/df").await?;
    Listing { columns: &COLUMNS, rows: rows(&usage), id: "Type" }.print(format, false)
}

/// Pure. Sizes that are not known are negative and count nothing.
fn rows(usage: &Value) -> Vec<Value> {
    let list = |name: &str| usage[name].as_array().map_or(&[][..], Vec::as_slice);
    let size = |value: &Value| value.as_f64().filter(|size| *size > 0.0).unwrap_or(0.0);
    let used = |image: &Value| image["Containers"].as_i64().unwrap_or(0) > 0;
    let layers = size(&usage["LayersSize"]);
    // What other images share stays when one goes.
    let needed = total(list("Images").iter().filter(|i| used(i)).map(|i| size(&i["Size"]) - size(&i["SharedSize"])));
    let runs = |container: &Value| matches!(container["State"].as_str(), Some("running" | "paused" | "restarting"));
    let written = |wanted: bool| -> f64 {
        total(list("Containers").iter().filter(|c| wanted || !runs(c)).map(|c| size(&c["SizeRw"])))
    };
    let mounted = |volume: &Value| volume["UsageData"]["RefCount"].as_i64().unwrap_or(0) > 0;
    let stored = |wanted: bool| -> f64 {
        total(list("Volumes").iter().filter(|v| wanted || !mounted(v)).map(|v| size(&v["UsageData"]["Size"])))
    };
    let cached = |wanted: bool| -> f64 {
        total(list("BuildCache").iter().filter(|c| wanted || c["InUse"] != true).map(|c| size(&c["Size"])))
    };
    let row = |kind: &str, list: &[Value], active: usize, size: f64, free: f64| {
        let share = if size > 0.0 && kind != "Build Cache" {
            format!(" ({}%)", (free * 100.0 / size) as i64)
        } else {
            String::new()
        };
        json!({"Type": kind, "TotalCount": list.len().to_string(), "Active": active.to_string(), "Size": human::size(size),
            "Reclaimable": format!("{}{share}", human::size(free))})
    };
    let count = |name: &str, active: &dyn Fn(&Value) -> bool| list(name).iter().filter(|object| active(object)).count();
    vec![
        row("Images", list("Images"), count("Images", &used), layers, (layers - needed).max(0.0)),
        row("Containers", list("Containers"), count("Containers", &runs), written(true), written(false)),
        row("Local Volumes", list("Volumes"), count("Volumes", &mounted), stored(true), stored(false)),
        row(
            "Build Cache",
            list("BuildCache"),
            count("BuildCache", &|c| c["InUse"] == true),
            cached(true),
            cached(false),
        ),
    ]
}

/// The standard sum of nothing is minus zero, which shows.
fn total(sizes: impl Iterator<Item = f64>) -> f64 {
    sizes.fold(0.0, |sum, size| sum + size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unused_could_be_freed() {
        let usage = json!({
            "LayersSize": 1000,
            "Images": [{"Size": 400, "SharedSize": 100, "Containers": 1}, {"Size": 700, "SharedSize": 100, "Containers": 0}],
            "Containers": [{"State": "running", "SizeRw": 10}, {"State": "exited", "SizeRw": 30}],
            "Volumes": [{"UsageData": {"RefCount": 0, "Size": 5}}, {"UsageData": {"RefCount": 1, "Size": -1}}],
            "BuildCache": [],
        });
        let shown: Vec<String> = rows(&usage)
            .iter()
            .map(|row| {
                format!("{} {} {} {}", row["TotalCount"], row["Active"], row["Size"], row["Reclaimable"])
                    .replace('"', "")
            })
            .collect();
        assert_eq!(shown, ["2 1 1kB 700B (70%)", "2 1 40B 30B (75%)", "2 1 5B 5B (100%)", "0 0 0B 0B"]);
    }
}
