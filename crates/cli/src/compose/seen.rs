//! What of a project there is: its containers, as the daemon lists them.

use super::labels;
use crate::client::query;
use crate::format::text;
use crate::{Client, Outcome};
use serde_json::{Value, json};

/// A container of a project.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Seen {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) service: String,
    /// 0 where the label is missing.
    pub(super) number: u64,
    pub(super) hash: String,
    pub(super) image_id: String,
    /// `created`, `running`, `exited`, ...
    pub(super) state: String,
    /// Made by `run`.
    pub(super) one_off: bool,
    /// Keys of the services it was made to depend on.
    pub(super) needs: Vec<String>,
    /// The whole row.
    pub(super) row: Value,
}

impl Seen {
    pub(super) fn runs(&self) -> bool {
        matches!(self.state.as_str(), "running" | "paused" | "restarting")
    }
}

/// All containers of a project, also stopped ones, by service and number.
pub(super) async fn containers(client: &Client, project: &str) -> Outcome<Vec<Seen>> {
    let filters = json!({"label": [format!("{}={project}", labels::PROJECT)]}).to_string();
    let rows = client.get(&format!("/containers/json{}", query(&[("all", "1"), ("filters", &filters)]))).await?;
    Ok(sorted(&rows))
}

fn sorted(rows: &Value) -> Vec<Seen> {
    let mut all: Vec<Seen> = rows.as_array().into_iter().flatten().map(of).collect();
    all.sort_by(|a, b| (&a.service, a.one_off, a.number, &a.name).cmp(&(&b.service, b.one_off, b.number, &b.name)));
    all
}

fn of(row: &Value) -> Seen {
    let label = |name: &str| text(&row["Labels"][name]);
    let names = row["Names"].as_array().into_iter().flatten().filter_map(Value::as_str);
    // A name with a second slash is a link's, not the container's own.
    let own = names.map(|name| name.trim_start_matches('/')).find(|name| !name.contains('/'));
    Seen {
        id: text(&row["Id"]),
        name: own.unwrap_or_default().to_owned(),
        service: label(labels::SERVICE),
        number: label(labels::NUMBER).parse().unwrap_or(0),
        hash: label(labels::HASH),
        image_id: text(&row["ImageID"]),
        state: text(&row["State"]),
        one_off: label(labels::ONE_OFF).eq_ignore_ascii_case("true"),
        needs: labels::needed(&label(labels::DEPENDS_ON)),
        row: row.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_either_tool_are_read() {
        let row = |name: &str, number: &str, one_off: &str| {
            json!({"Id": "1", "Names": ["/other/link", format!("/{name}")], "State": "running", "ImageID": "sha256:1",
                "Labels": {labels::SERVICE: "web", labels::NUMBER: number, labels::ONE_OFF: one_off,
                    labels::DEPENDS_ON: "db:service_started:false"}})
        };
        let seen =
            sorted(&json!([row("p-web-run-1", "1", "True"), row("p_web_10", "10", "False"), row("p-web-2", "2", "")]));
        let names: Vec<&str> = seen.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["p-web-2", "p_web_10", "p-web-run-1"]);
        assert!(seen[2].one_off && seen[0].runs() && seen[0].needs == ["db"]);
    }
}
