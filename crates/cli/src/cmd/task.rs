//! Task tables, shared by `service ps` and `node ps`.

use crate::flags::ListFlags;
use crate::format::{Listing, text};
use crate::{Client, Outcome, human};
use chrono::Utc;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const COLUMNS: [(&str, &str); 8] = [
    ("ID", "ID"),
    ("Name", "NAME"),
    ("Image", "IMAGE"),
    ("Node", "NODE"),
    ("DesiredState", "DESIRED STATE"),
    ("CurrentState", "CURRENT STATE"),
    ("Error", "ERROR"),
    ("Ports", "PORTS"),
];

/// Prints tasks grouped by slot, the newest of each first.
///
/// # Errors
/// The daemon's, or a malformed template.
pub(crate) async fn print(client: &Client, mut tasks: Vec<Value>, flags: &ListFlags, resolve: bool) -> Outcome {
    let names = if resolve { Names::fetch(client).await? } else { Names::default() };
    tasks.sort_by(|a, b| {
        let key = |task: &Value| (names.task(task), std::cmp::Reverse(text(&task["CreatedAt"])));
        natural(&key(a).0, &key(b).0).then_with(|| key(a).1.cmp(&key(b).1))
    });
    let mut previous = String::new();
    let mut rows = Vec::new();
    for task in &tasks {
        let name = names.task(task);
        let indent = !flags.quiet && name == previous;
        rows.push(row(task, &names, flags.no_trunc, indent));
        previous = name;
    }
    Listing { columns: &COLUMNS, rows, id: "ID" }.print(&flags.format, flags.quiet)
}

fn row(task: &Value, names: &Names, whole: bool, indent: bool) -> Value {
    let id = text(&task["ID"]);
    let status = &task["Status"];
    let mut image = text(&task["Spec"]["ContainerSpec"]["Image"]);
    if !whole && let Some((name, _)) = image.split_once('@') {
        image = name.to_owned();
    }
    let error = text(&status["Err"]);
    let error = match (error.is_empty(), whole) {
        (true, _) => String::new(),
        (false, true) => format!("\"{error}\""),
        (false, false) => format!("\"{}\"", human::ellipsis(&error, 30)),
    };
    let name = names.task(task);
    json!({
        "ID": if whole { id } else { human::short_id(&id) },
        "Name": if indent { format!(" \\_ {name}") } else { name },
        "Image": image,
        "Node": names.node(&text(&task["NodeID"])),
        "DesiredState": capital(&text(&task["DesiredState"])),
        "CurrentState": format!("{} {}", capital(&text(&status["State"])), human::ago(&text(&status["Timestamp"]), Utc::now()).replace("Less", "less")),
        "Error": error,
        "Ports": ports(&status["PortStatus"]["Ports"]),
    })
}

fn ports(list: &Value) -> String {
    let show =
        |port: &Value| format!("*:{}->{}/{}", port["PublishedPort"], port["TargetPort"], text(&port["Protocol"]));
    list.as_array().into_iter().flatten().map(show).collect::<Vec<_>>().join(",")
}

pub(crate) fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().collect::<String>() + letters.as_str()).unwrap_or_default()
}

/// Names of services and nodes by id.
#[derive(Default)]
struct Names {
    services: BTreeMap<String, String>,
    nodes: BTreeMap<String, String>,
}

impl Names {
    async fn fetch(client: &Client) -> Outcome<Self> {
        let map = |list: &Value, name: fn(&Value) -> String| {
            list.as_array().into_iter().flatten().map(|o| (text(&o["ID"]), name(o))).collect()
        };
        let services = client.get("/services").await?;
        let nodes = client.get("/nodes").await?;
        Ok(Self {
            services: map(&services, |s| text(&s["Spec"]["Name"])),
            nodes: map(&nodes, |n| {
                let name = text(&n["Spec"]["Name"]);
                if name.is_empty() { text(&n["Description"]["Hostname"]) } else { name }
            }),
        })
    }

    /// `web.1`, or `agent.<node id>` for a global service.
    fn task(&self, task: &Value) -> String {
        let service = text(&task["ServiceID"]);
        let service = self.services.get(&service).cloned().unwrap_or(service);
        match task["Slot"].as_u64() {
            Some(slot) if slot > 0 => format!("{service}.{slot}"),
            _ => format!("{service}.{}", text(&task["NodeID"])),
        }
    }

    fn node(&self, id: &str) -> String {
        self.nodes.get(id).cloned().unwrap_or_else(|| id.to_owned())
    }
}

/// Orders `web.2` before `web.10`.
pub(crate) fn natural(a: &str, b: &str) -> std::cmp::Ordering {
    fn key(text: &str) -> Vec<(u64, String)> {
        let mut parts = Vec::new();
        let (mut digits, mut letters) = (String::new(), String::new());
        for c in text.chars() {
            if c.is_ascii_digit() {
                digits.push(c);
            } else {
                if !digits.is_empty() {
                    parts.push((digits.parse().unwrap_or(u64::MAX), std::mem::take(&mut letters)));
                    digits.clear();
                }
                letters.push(c);
            }
        }
        parts.push((digits.parse().unwrap_or(0), letters));
        parts
    }
    let swap =
        |parts: Vec<(u64, String)>| parts.into_iter().map(|(number, letters)| (letters, number)).collect::<Vec<_>>();
    swap(key(a)).cmp(&swap(key(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_sort_by_number() {
        let mut names = vec!["web.10", "web.2", "db.1", "web.1"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["db.1", "web.1", "web.2", "web.10"]);
    }

    #[test]
    fn a_row_names_the_error_in_quotes() {
        let task = json!({"ID": "0123456789abcdef", "Slot": 1, "ServiceID": "s", "DesiredState": "shutdown",
            "Status": {"State": "rejected", "Err": "No such image: busybox:nosuchtagatall"}, "Spec": {"ContainerSpec": {"Image": "a@sha256:1"}}});
        let row = row(&task, &Names::default(), false, true);
        assert_eq!(row["Error"], "\"No such image: busybox:nosuch…\"");
        assert_eq!(
            (&row["Name"], &row["Image"], &row["DesiredState"]),
            (&json!(" \\_ s.1"), &json!("a"), &json!("Shutdown"))
        );
    }
}
