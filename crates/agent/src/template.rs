//! The placeholders a service may use in host names, environment and mounts:
//! `{{.Node.Hostname}}`, `{{.Service.Name}}`, `{{.Task.Slot}}`, `{{index .Service.Labels "x"}}`.

use skep_model::id::NodeId;
use skep_model::node::Platform;
use skep_model::task::Task;
use skep_model::{Error, Result};

/// What is known of the node a task runs on.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    pub id: NodeId,
    pub hostname: String,
    pub platform: Platform,
}

/// Replaces every placeholder of `text`.
///
/// # Errors
/// Names the placeholder that is not known. Only the fields above are, not the whole
/// template language.
pub(crate) fn expand(text: &str, task: &Task, node: &NodeFacts) -> Result<String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (expression, tail) =
            after.split_once("}}").ok_or_else(|| Error::invalid(format!("template \"{text}\": unclosed action")))?;
        expanded.push_str(before);
        expanded.push_str(&evaluate(expression.trim(), task, node)?);
        rest = tail;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

fn evaluate(expression: &str, task: &Task, node: &NodeFacts) -> Result<String> {
    if let Some(key) = expression.strip_prefix("index .Service.Labels ") {
        let key = key.trim().trim_matches('"');
        return Ok(task.service_labels.get(key).cloned().unwrap_or_default());
    }
    match expression {
        ".Service.ID" => Ok(task.service_id.to_string()),
        ".Service.Name" => Ok(task.service_name.clone()),
        ".Service.Labels" => Ok(labels_text(task)),
        ".Node.ID" => Ok(node.id.to_string()),
        ".Node.Hostname" => Ok(node.hostname.clone()),
        ".Node.Platform.Architecture" => Ok(node.platform.architecture.clone()),
        ".Node.Platform.OS" => Ok(node.platform.os.clone()),
        ".Task.ID" => Ok(task.id.to_string()),
        ".Task.Name" => Ok(task.container_name()),
        // Tasks of a global service have no number: the node takes its place.
        ".Task.Slot" if task.public_slot() == 0 => Ok(task.node_id.to_string()),
        ".Task.Slot" => Ok(task.public_slot().to_string()),
        _ => label_field(expression, task)
            .ok_or_else(|| Error::invalid(format!("template action \"{{{{{expression}}}}}\" is not supported"))),
    }
}

/// `.Service.Labels.key`
fn label_field(expression: &str, task: &Task) -> Option<String> {
    let key = expression.strip_prefix(".Service.Labels.")?;
    Some(task.service_labels.get(key).cloned().unwrap_or_else(|| "<no value>".to_owned()))
}

/// As Go prints a map: `map[a:1 b:2]`.
fn labels_text(task: &Task) -> String {
    let pairs: Vec<String> = task.service_labels.iter().map(|(key, value)| format!("{key}:{value}")).collect();
    format!("map[{}]", pairs.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Option<&str>) {
        let task = Task {
            id: "t1".into(),
            service_name: "web".into(),
            service_id: "s1".into(),
            service_labels: [("a".to_owned(), "1".to_owned())].into(),
            slot: 3,
            ..Task::default()
        };
        let node = NodeFacts { id: "n1".into(), hostname: "node1".into(), platform: Platform::default() };
        assert_eq!(expand(text, &task, &node).ok().as_deref(), expect, "{text}");
    }

    #[test]
    fn known_placeholders_are_replaced() {
        check("plain", Some("plain"));
        check("", Some(""));
        check("{{.Service.Name}}-{{ .Task.Slot }}-{{.Node.Hostname}}", Some("web-3-node1"));
        check("{{.Task.Name}}", Some("web.3.t1"));
        check("{{index .Service.Labels \"a\"}}{{.Service.Labels.a}}{{.Service.Labels}}", Some("11map[a:1]"));
    }

    #[test]
    fn others_are_refused_not_kept() {
        check("{{.Service.Nme}}", None);
        check("{{range .X}}", None);
        check("{{.Service.Name", None);
    }
}
