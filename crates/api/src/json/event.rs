//! Events: what they look like, which are asked for, and the swarm's, which are found by
//! comparing two looks at the store.

use crate::filters::Filters;
use crate::json::node::{availability_word, state_word};
use serde::Serialize;
use skep_engine::events::Event;
use skep_model::Timestamp;
use skep_model::node::Node;
use skep_model::service::{Service, ServiceMode, UpdateState};
use std::collections::BTreeMap;

pub(crate) const FILTERS: [&str; 14] = [
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

/// Where an event comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Local,
    Swarm,
}

impl Scope {
    fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Swarm => "swarm",
        }
    }
}

/// One event as a line. `status`, `id` and `from` are what clients of version 1.21 read.
#[derive(Debug, Serialize)]
pub(crate) struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    #[serde(rename = "Type")]
    kind: &'a str,
    #[serde(rename = "Action")]
    action: &'a str,
    #[serde(rename = "Actor")]
    actor: Actor<'a>,
    scope: &'static str,
    time: i64,
    #[serde(rename = "timeNano")]
    time_nano: i64,
}

#[derive(Debug, Serialize)]
struct Actor<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    #[serde(rename = "Attributes")]
    attributes: &'a BTreeMap<String, String>,
}

impl<'a> Line<'a> {
    pub(crate) fn of(event: &'a Event, scope: Scope) -> Self {
        let legacy = matches!(event.kind, "container" | "image");
        let from = (event.kind == "container").then(|| event.attributes.get("image").map(String::as_str)).flatten();
        Self {
            status: legacy.then_some(&event.action),
            id: legacy.then_some(&event.id),
            from,
            kind: event.kind,
            action: &event.action,
            actor: Actor { id: &event.id, attributes: &event.attributes },
            scope: scope.as_str(),
            time: event.at.as_secs(),
            time_nano: event.at.0,
        }
    }
}

/// Whether a subscriber asked for this event.
pub(crate) fn matches(event: &Event, scope: Scope, filters: &Filters) -> bool {
    let name = event.attributes.get("name").map(String::as_str);
    let is_object =
        |kind: &str, wanted: &str| event.kind == kind && (event.id.starts_with(wanted) || name == Some(wanted));
    // Containers' and images' own names also choose what happened to them elsewhere.
    let image = |wanted: &str| {
        is_object("image", wanted)
            || (event.kind == "container"
                && event.attributes.get("image").is_some_and(|i| i == wanted || i.split(':').next() == Some(wanted)))
    };
    let container = |wanted: &str| {
        is_object("container", wanted)
            || event.attributes.get("container").is_some_and(|id| event.kind != "container" && id.starts_with(wanted))
    };
    let plain = ["config", "daemon", "network", "node", "plugin", "secret", "service", "volume"];
    filters.exact("type", event.kind)
        && filters.exact("scope", scope.as_str())
        && filters.any("event", |wanted| event.action == wanted || event.action.split(':').next() == Some(wanted))
        && filters.labels("label", &event.attributes)
        && filters.any("image", image)
        && filters.any("container", container)
        && plain.iter().all(|kind| filters.any(kind, |wanted| is_object(kind, wanted)))
}

/// One swarm object as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) version: u64,
    pub(crate) name: String,
    /// Facts whose change is worth telling, e.g. `replicas`.
    pub(crate) facts: BTreeMap<&'static str, String>,
}

/// (kind, id) to what was seen.
pub(crate) type Sight = BTreeMap<(&'static str, String), Seen>;

/// What happened between two looks.
pub(crate) fn swarm_events(before: &Sight, after: &Sight, at: Timestamp) -> Vec<Event> {
    let event =
        |kind, id: &str, action: &str, attributes| Event { kind, action: action.into(), id: id.into(), attributes, at };
    let named = |seen: &Seen| BTreeMap::from([("name".to_owned(), seen.name.clone())]);
    let mut events = Vec::new();
    for ((kind, id), new) in after {
        match before.get(&(*kind, id.clone())) {
            None => events.push(event(kind, id, "create", named(new))),
            Some(old) if old.version != new.version => {
                let mut attributes = named(new);
                attributes.extend(changed_facts(old, new));
                events.push(event(kind, id, "update", attributes));
            }
            Some(_) => {}
        }
    }
    for ((kind, id), old) in before {
        if !after.contains_key(&(*kind, id.clone())) {
            events.push(event(kind, id, "remove", named(old)));
        }
    }
    events
}

fn changed_facts(old: &Seen, new: &Seen) -> BTreeMap<String, String> {
    let mut changed = BTreeMap::new();
    for (fact, value) in &new.facts {
        let was = old.facts.get(fact).cloned().unwrap_or_default();
        if was != *value {
            changed.insert(format!("{fact}.old"), was);
            changed.insert(format!("{fact}.new"), value.clone());
        }
    }
    changed.retain(|_, value| !value.is_empty());
    changed
}

pub(crate) fn see_service(service: &Service) -> Seen {
    let mut facts = BTreeMap::from([("image", service.spec.task.container.image.clone())]);
    if let ServiceMode::Replicated { replicas } = service.spec.mode {
        facts.insert("replicas", replicas.to_string());
    }
    let state = service.update_status.as_ref().map(|status| update_word(status.state));
    facts.insert("updatestate", state.unwrap_or_default().to_owned());
    Seen { version: service.meta.version, name: service.spec.name.clone(), facts }
}

pub(crate) fn see_node(node: &Node) -> Seen {
    let manager = node.manager_status.as_ref();
    let reachability = manager.map(|m| if m.reachable { "reachable" } else { "unreachable" });
    let facts = BTreeMap::from([
        ("availability", availability_word(node.spec.availability).to_owned()),
        ("role", node.spec.role.as_str().to_owned()),
        ("state", state_word(node.status.state).to_owned()),
        ("leader", manager.map(|m| m.leader.to_string()).unwrap_or_default()),
        ("reachability", reachability.unwrap_or_default().to_owned()),
    ]);
    Seen { version: node.meta.version, name: node.description.hostname.clone(), facts }
}

pub(crate) fn see_plain(version: u64, name: &str) -> Seen {
    Seen { version, name: name.into(), facts: BTreeMap::new() }
}

pub(crate) fn update_word(state: UpdateState) -> &'static str {
    match state {
        UpdateState::Updating => "updating",
        UpdateState::Paused => "paused",
        UpdateState::Completed => "completed",
        UpdateState::RollbackStarted => "rollback_started",
        UpdateState::RollbackPaused => "rollback_paused",
        UpdateState::RollbackCompleted => "rollback_completed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &'static str, action: &str, id: &str, attributes: &[(&str, &str)]) -> Event {
        let attributes = attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Event { kind, action: action.into(), id: id.into(), attributes, at: Timestamp(1_500_000_000_000_000_007) }
    }

    #[test]
    fn a_line_has_dockers_fields() {
        let die = event("container", "die", "c0ffee", &[("image", "redis:6"), ("name", "r"), ("exitCode", "137")]);
        assert_eq!(
            serde_json::to_string(&Line::of(&die, Scope::Local)).unwrap(),
            r#"{"status":"die","id":"c0ffee","from":"redis:6","Type":"container","Action":"die","Actor":{"ID":"c0ffee","Attributes":{"exitCode":"137","image":"redis:6","name":"r"}},"scope":"local","time":1500000000,"timeNano":1500000000000000007}"#
        );
    }

    #[test]
    fn filters_choose() {
        let die = event("container", "die", "c0ffee", &[("image", "redis:6"), ("name", "r"), ("tier", "db")]);
        let exec = event("container", "exec_create: sh", "c0ffee", &[]);
        let connect = event("network", "connect", "abc", &[("name", "net1"), ("container", "c0ffee")]);
        let check = |event: &Event, text: &str| matches(event, Scope::Local, &Filters::parse(text).unwrap());
        assert!(check(&die, "") && check(&die, r#"{"type":["container"],"event":["die"]}"#));
        assert!(check(&die, r#"{"container":["r"]}"#) && check(&die, r#"{"container":["c0f"]}"#));
        assert!(check(&die, r#"{"image":["redis"]}"#) && check(&die, r#"{"label":["tier=db"]}"#));
        assert!(!check(&die, r#"{"network":["net1"]}"#) && !check(&die, r#"{"scope":["swarm"]}"#));
        assert!(check(&exec, r#"{"event":["exec_create"]}"#));
        assert!(check(&connect, r#"{"network":["net1"]}"#) && check(&connect, r#"{"container":["c0ffee"]}"#));
    }

    #[test]
    fn two_looks_make_events() {
        let key = |kind, id: &str| (kind, id.to_owned());
        let seen = |version, replicas: &str| Seen {
            version,
            name: "web".into(),
            facts: BTreeMap::from([("replicas", replicas.to_owned()), ("updatestate", String::new())]),
        };
        let before = Sight::from([(key("service", "s1"), seen(1, "1")), (key("secret", "x"), see_plain(1, "gone"))]);
        let after = Sight::from([(key("service", "s1"), seen(2, "3")), (key("node", "n"), see_plain(1, "node1"))]);
        let events = swarm_events(&before, &after, Timestamp(1));
        let told: Vec<_> = events.iter().map(|e| (e.kind, e.action.as_str())).collect();
        assert_eq!(told, [("node", "create"), ("service", "update"), ("secret", "remove")]);
        assert_eq!(events[1].attributes["replicas.old"], "1");
        assert_eq!(events[1].attributes["replicas.new"], "3");
        assert!(swarm_events(&after, &after, Timestamp(1)).is_empty());
    }
}
