//! `service logs`: each line behind the name of the task that wrote it.

use crate::client::{query, segment};
use crate::flags::service::Logs;
use crate::format::text;
use crate::{Client, Failure, Outcome, stream};
use chrono::Utc;
use serde_json::Value;
use std::collections::BTreeMap;

/// Characters of an id that are shown.
const SHORT_ID: usize = 12;
/// Number of the stream on which the daemon tells of its own trouble.
const TROUBLE: u8 = 3;
const TASK: &str = "com.docker.swarm.task.id";
const NODE: &str = "com.docker.swarm.node.id";
const SERVICE: &str = "com.docker.swarm.service.id";

pub(crate) async fn logs(client: &Client, flags: &Logs) -> Outcome {
    let one = |on: bool| if on { "1" } else { "" };
    let since = super::system::point_in_time(&flags.since, Utc::now())?;
    let options = query(&[
        ("stdout", "1"),
        ("stderr", "1"),
        ("follow", one(flags.follow)),
        ("timestamps", one(flags.timestamps)),
        ("details", one(!flags.raw)),
        ("tail", &flags.tail),
        ("since", &since),
    ]);
    let name = segment(&flags.name);
    let found = client.get(&format!("/services/{name}")).await;
    let (kind, tty) = match found {
        Err(Failure::Api(error)) if error.status == 404 => {
            ("tasks", tty(&client.get(&format!("/tasks/{name}")).await?["Spec"]))
        }
        service => ("services", tty(&service?["Spec"]["TaskTemplate"])),
    };
    let answer = stream::get_stream(client, &format!("/{kind}/{name}/logs{options}")).await?;
    let reader = stream::body_reader(answer);
    if flags.raw || tty {
        return stream::copy_output(reader, !tty).await;
    }
    let mut names = Names { client, flags, services: BTreeMap::new(), tasks: BTreeMap::new(), nodes: BTreeMap::new() };
    let mut frames = stream::Frames::new(reader);
    while let Some((number, line)) = frames.next().await? {
        if number == TROUBLE {
            // What could be read was printed; why the rest could not is told beside it.
            stream::emit(number, &[&line[..], b"\n"].concat())?;
            continue;
        }
        let line = names.line(&line).await?;
        stream::emit(number, &line)?;
    }
    Ok(())
}

fn tty(task: &Value) -> bool {
    task["ContainerSpec"]["TTY"].as_bool().unwrap_or_default()
}

/// What ids are called, asked once each.
struct Names<'a> {
    client: &'a Client,
    flags: &'a Logs,
    services: BTreeMap<String, String>,
    tasks: BTreeMap<String, String>,
    nodes: BTreeMap<String, String>,
}

impl Names<'_> {
    /// `[time ]details text` becomes `[time ]web.1.id@node    | text`.
    async fn line(&mut self, line: &[u8]) -> Outcome<Vec<u8>> {
        let mut rest = line;
        let mut out = Vec::with_capacity(line.len() + 64);
        if self.flags.timestamps {
            let (time, after) = word(rest);
            out.extend_from_slice(time);
            out.push(b' ');
            rest = after;
        }
        let (details, written) = word(rest);
        let details = String::from_utf8_lossy(details);
        let details = details_of(&details);
        let detail = |key: &str| details.get(key).map_or("", String::as_str);
        let prefix = self.prefix(detail(TASK), detail(NODE), detail(SERVICE)).await?;
        out.extend_from_slice(format!("{prefix}    | ").as_bytes());
        out.extend_from_slice(written);
        Ok(out)
    }

    async fn prefix(&mut self, task: &str, node: &str, service: &str) -> Outcome<String> {
        let id = if self.flags.no_trunc { task } else { task.get(..SHORT_ID).unwrap_or(task) };
        let id = if self.flags.no_task_ids { String::new() } else { format!(".{id}") };
        let slot = self.slot(task).await?;
        let (service, node) = if self.flags.no_resolve {
            (service.to_owned(), node.to_owned())
        } else {
            (self.service(service).await?, self.node(node).await?)
        };
        Ok(format!("{service}.{slot}{id}@{node}"))
    }

    async fn slot(&mut self, task: &str) -> Outcome<String> {
        let name = |task: &Value| match task["Slot"].as_u64() {
            Some(slot) if slot > 0 => slot.to_string(),
            _ => text(&task["NodeID"]),
        };
        ask(self.client, &mut self.tasks, "tasks", task, name).await
    }

    async fn service(&mut self, service: &str) -> Outcome<String> {
        ask(self.client, &mut self.services, "services", service, |service| text(&service["Spec"]["Name"])).await
    }

    async fn node(&mut self, node: &str) -> Outcome<String> {
        ask(self.client, &mut self.nodes, "nodes", node, |node| text(&node["Description"]["Hostname"])).await
    }
}

async fn ask(
    client: &Client,
    known: &mut BTreeMap<String, String>,
    kind: &str,
    id: &str,
    name: impl Fn(&Value) -> String,
) -> Outcome<String> {
    if let Some(name) = known.get(id) {
        return Ok(name.clone());
    }
    // What is gone by now keeps its id for a name.
    let name = match client.get(&format!("/{kind}/{}", segment(id))).await {
        Ok(object) => name(&object),
        Err(Failure::Api(error)) if error.status == 404 => id.to_owned(),
        Err(failure) => return Err(failure),
    };
    known.insert(id.to_owned(), name.clone());
    Ok(name)
}

/// The bytes before the first space, and those behind it.
fn word(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|byte| *byte == b' ') {
        Some(space) => (&line[..space], &line[space + 1..]),
        None => (line, &[]),
    }
}

fn details_of(text: &str) -> BTreeMap<&str, String> {
    text.split(',').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key, value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        assert_eq!(word(b"a=b,c=d two words\n"), (&b"a=b,c=d"[..], &b"two words\n"[..]));
        assert_eq!(word(b"alone"), (&b"alone"[..], &b""[..]));
        assert_eq!(details_of("a=b,c=d")["c"], "d");
        assert!(details_of("").is_empty());
    }
}
