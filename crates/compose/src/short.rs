//! The short forms of ports, mounts and hosts, turned into the long ones.

use crate::error::{Place, Result};
use crate::schema::Purpose;
use crate::tree::{Entry, Map, Node, Value};

/// Ports that one short form may stand for.
const PORTS_MAX: u32 = 65_536;

/// `[[ip:]published:]target[/protocol]`, with ranges on both sides.
///
/// # Errors
/// Not a port.
pub(crate) fn ports(node: &Node, purpose: Purpose) -> Result<Vec<Node>> {
    let text = node.as_text().unwrap_or_default();
    let invalid = |why: &str| node.wrong(&format!("invalid port \"{text}\": {why}"));
    let (ports, protocol) = text.split_once('/').unwrap_or((&text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(invalid(&format!("Invalid proto: {protocol}")));
    }
    let (head, target) = ports.rsplit_once(':').unwrap_or(("", ports));
    // What stands before the last colon of the head is an address, which a service has no use for.
    let (address, published) = head.rsplit_once(':').unwrap_or(("", head));
    let (first, last) = range(target).ok_or_else(|| invalid("Invalid containerPort"))?;
    let published = match published {
        "" => None,
        text => Some(range(text).ok_or_else(|| invalid("Invalid hostPort"))?),
    };
    let mut pairs = Vec::new();
    let mut free_choice = None;
    match published {
        None => pairs.extend((first..=last).map(|target| (target, 0))),
        // One of them, whichever is free when the container starts.
        Some((from, to)) if first == last && from < to && purpose == Purpose::Local => {
            pairs.push((first, 0));
            free_choice = Some(format!("{from}-{to}"));
        }
        Some((from, to)) if first == last => pairs.extend((from..=to).map(|published| (first, published))),
        Some((from, to)) if to - from == last - first => {
            pairs.extend((0..=last - first).map(|step| (first + step, from + step)));
        }
        Some(_) => return Err(invalid("the ranges differ in length")),
    }
    let long = |(target, published): (u32, u32)| {
        let mut fields = vec![
            ("target", Value::Int(target.into())),
            ("protocol", Value::Text(protocol.clone())),
            ("mode", Value::Text("ingress".into())),
        ];
        match &free_choice {
            Some(range) => fields.push(("published", Value::Text(range.clone()))),
            None if published > 0 => fields.push(("published", Value::Int(published.into()))),
            None => {}
        }
        if !address.is_empty() {
            fields.push(("host_ip", Value::Text(address.trim_matches(['[', ']']).to_owned())));
        }
        table(&node.at, fields)
    };
    Ok(pairs.into_iter().map(long).collect())
}

fn range(text: &str) -> Option<(u32, u32)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| text.parse::<u32>().ok().filter(|port| *port > 0 && *port < PORTS_MAX);
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some((first, last))
}

/// A port in the long form, once for each port of a published range.
///
/// # Errors
/// Not a port or a range.
pub(crate) fn published_range(node: &Node) -> Result<Vec<Node>> {
    let Some(published) = node.get("published") else { return Ok(vec![node.clone()]) };
    let text = published.as_text().unwrap_or_default();
    let Some((from, to)) = range(text.trim()).filter(|_| text.contains('-')) else { return Ok(vec![node.clone()]) };
    let one = |port: u32| {
        let mut node = node.clone();
        if let Some(entry) = node.map_mut().and_then(|map| map.get_mut("published")) {
            entry.node.value = Value::Int(port.into());
        }
        node
    };
    Ok((from..=to).map(one).collect())
}

/// `[source:]target[:options]`.
///
/// # Errors
/// Empty parts or too many of them.
pub(crate) fn mount(node: &Node) -> Result<Node> {
    let text = node.as_text().unwrap_or_default();
    let invalid = |why: &str| node.wrong(&format!("invalid spec: {text}: {why}"));
    let parts: Vec<&str> = text.split(':').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(invalid("empty section between colons"));
    }
    let (source, target, options) = match parts.as_slice() {
        [target] => ("", *target, ""),
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => return Err(invalid("too many colons")),
    };
    let is_path = source.starts_with(['.', '/', '~']);
    let mut fields = vec![
        ("type", Value::Text(if is_path { "bind" } else { "volume" }.into())),
        ("target", Value::Text(target.into())),
    ];
    if !source.is_empty() {
        fields.push(("source", Value::Text(source.into())));
    }
    for option in options.split(',') {
        match option {
            "ro" => fields.push(("read_only", Value::Bool(true))),
            "nocopy" => fields.push(("volume", table(&node.at, vec![("nocopy", Value::Bool(true))]).value)),
            "shared" | "rshared" | "slave" | "rslave" | "private" | "rprivate" => {
                fields.push(("bind", table(&node.at, vec![("propagation", Value::Text(option.into()))]).value));
            }
            // The reference lets all others pass too, `rw`, `z` and `cached` among them.
            _ => {}
        }
    }
    Ok(table(&node.at, fields))
}

/// Hosts in any form as `name:address` texts.
pub(crate) fn hosts(node: &Node) -> Vec<Node> {
    match &node.value {
        Value::List(items) => items
            .iter()
            .map(|item| {
                let text = item.as_text().unwrap_or_default();
                let normal = match text.split_once('=') {
                    Some((name, address)) if !name.contains(':') => format!("{name}:{address}"),
                    _ => text,
                };
                Node::text(&item.at, normal)
            })
            .collect(),
        _ => node
            .entries()
            .flat_map(|(name, addresses)| {
                let list = if addresses.is_scalar() { std::slice::from_ref(addresses) } else { addresses.items() };
                let line = |address: &Node| format!("{name}:{}", address.as_text().unwrap_or_default());
                list.iter().map(|address| Node::text(&address.at, line(address))).collect::<Vec<_>>()
            })
            .collect(),
    }
}

/// A mapping of fixed keys.
pub(crate) fn table(at: &Place, fields: Vec<(&str, Value)>) -> Node {
    let entry = |value| Entry { key_at: at.clone(), node: Node::new(at, value) };
    let map: Map = fields.into_iter().map(|(key, value)| (key.to_owned(), entry(value))).collect();
    Node::new(at, Value::Map(map))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value as Json, json};

    fn node(text: &str) -> Node {
        Node::text(&Place { file: "f".into(), line: 1, column: 1 }, text)
    }

    #[test]
    fn ports_in_every_form() {
        let check = |text: &str, expect: &[(u32, u32)]| {
            let found: Vec<Json> = ports(&node(text), Purpose::Stack).unwrap().iter().map(Node::to_json).collect();
            let pairs: Vec<(u32, u32)> = found
                .iter()
                .map(|p| (p["published"].as_u64().unwrap_or(0) as u32, p["target"].as_u64().unwrap() as u32))
                .collect();
            assert_eq!(pairs, expect, "{text}");
        };
        check("80", &[(0, 80)]);
        check("8080:80", &[(8080, 80)]);
        check("127.0.0.1:8080:80/udp", &[(8080, 80)]);
        check("[::1]:8080:80", &[(8080, 80)]);
        check("3000-3002", &[(0, 3000), (0, 3001), (0, 3002)]);
        check("9000-9001:80-81", &[(9000, 80), (9001, 81)]);
        check("9000-9002:80", &[(9000, 80), (9001, 80), (9002, 80)]);
        for bad in ["", "x", "80:x", "0:80", "70000", "80/icmp", "1-2:1-3", "5-3", "::"] {
            assert!(ports(&node(bad), Purpose::Stack).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_of_a_range_is_chosen_on_one_machine() {
        let found: Vec<Json> =
            ports(&node("9000-9002:80"), Purpose::Local).unwrap().iter().map(Node::to_json).collect();
        assert_eq!((found.len(), &found[0]["published"]), (1, &json!("9000-9002")));
        assert_eq!(ports(&node("9000-9001:80-81"), Purpose::Local).unwrap().len(), 2);
    }

    #[test]
    fn mounts_in_every_form() {
        let check = |text: &str, expect: Json| assert_eq!(mount(&node(text)).unwrap().to_json(), expect, "{text}");
        check("/data", json!({"type": "volume", "target": "/data"}));
        check(
            "v:/data:ro,nocopy",
            json!({"type": "volume", "source": "v", "target": "/data", "read_only": true, "volume": {"nocopy": true}}),
        );
        check(
            "./a:/b:rslave",
            json!({"type": "bind", "source": "./a", "target": "/b", "bind": {"propagation": "rslave"}}),
        );
        for bad in ["", "a::b", ":a", "a:b:c:d"] {
            assert!(mount(&node(bad)).is_err(), "{bad}");
        }
    }
}
