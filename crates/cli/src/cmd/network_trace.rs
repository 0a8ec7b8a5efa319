//! `skep network trace`: the path of a service's packets, for people who look for one.

use crate::client::query;
use crate::flags::network::TraceFlags;
use crate::format::text;
use crate::{Client, Outcome};
use serde_json::Value;
use std::fmt::Write as _;

pub(crate) async fn trace(client: &Client, flags: &TraceFlags) -> Outcome {
    let all = if flags.all_nodes { "1" } else { "" };
    let options = query(&[("service", flags.service.as_str()), ("all", all)]);
    let answer = client.get(&format!("/skep/networks/trace{options}")).await?;
    if flags.format == "json" {
        println!("{answer}");
    } else {
        print!("{}", shown(&answer));
    }
    Ok(())
}

/// A block a node, a line a hop.
fn shown(answer: &Value) -> String {
    let mut out = format!("service {} ({})\n", text(&answer["Name"]), text(&answer["ID"]));
    match answer["Nodes"].as_array() {
        Some(nodes) => nodes.iter().for_each(|node| show_node(node, &mut out)),
        None => show_paths(answer, &mut out),
    }
    out
}

/// Writing to a string cannot fail.
macro_rules! line {
    ($out:expr, $($part:tt)*) => { let _ = writeln!($out, $($part)*); };
}

fn show_node(node: &Value, out: &mut String) {
    match node["Error"].as_str() {
        Some(error) => {
            line!(out, "node {}: {error}", text(&node["Hostname"]));
        }
        None => {
            line!(out, "node {}", text(&node["Hostname"]));
            show_paths(node, out);
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn show_paths(node: &Value, out: &mut String) {
    if list(&node["Networks"]).is_empty() && list(&node["Ports"]).is_empty() {
        line!(out, "  no path here: neither its networks nor a port of it are on this node");
    }
    let balancer = text(&node["Balancer"]);
    for network in list(&node["Networks"]) {
        let target = match network["VirtualIP"].as_str() {
            Some(address) => format!("{address} balanced by {balancer}"),
            None => "names lead to the tasks themselves".to_owned(),
        };
        line!(out, "  network {}: {target} in {}", text(&network["Name"]), text(&network["Namespace"]));
        if let Some(own) = network["BalancerIP"].as_str() {
            line!(out, "    tasks see balanced connections come from {own}");
        }
        show_hops(network, out);
        if network["ForgedFrames"].as_u64().unwrap_or(0) > 0 {
            line!(out, "    {} frames of tasks here posed as another and were dropped", network["ForgedFrames"]);
        }
    }
    for port in list(&node["Ports"]) {
        let (from, to) = (&port["PublishedPort"], &port["TargetPort"]);
        line!(out, "  port {from}/{} to {to}: balanced by {balancer} on the host", text(&port["Protocol"]));
        show_hops(port, out);
    }
}

fn show_hops(path: &Value, out: &mut String) {
    for (name, counters) in path["Links"].as_object().into_iter().flatten() {
        line!(out, "    link {name}: {}", carried(counters));
    }
    if list(&path["Tasks"]).is_empty() {
        line!(out, "    no task takes connections");
    }
    for task in list(&path["Tasks"]) {
        let name = match text(&task["Name"]) {
            name if name.is_empty() => text(&task["ID"]),
            name => name,
        };
        let way = &task["Way"];
        let way = match way["Kind"].as_str() {
            Some("here") => format!("here by {}: {}", text(&way["Link"]), carried(&way["Counters"])),
            Some("tunnel") => format!("by the tunnel to {}", text(&way["Node"])),
            _ => "NOWHERE: this node does not know where it is".to_owned(),
        };
        let draining = if task["Draining"] == true { ", draining" } else { "" };
        let tracked = &task["Connections"];
        line!(out, "    to {} ({name}) {way}, {tracked} tracked{draining}", text(&task["Target"]));
    }
    for problem in list(&path["Problems"]) {
        line!(out, "    PROBLEM: {}", text(problem));
    }
}

fn carried(counters: &Value) -> String {
    let number = |field: &str| counters[field].as_u64().unwrap_or(0);
    let (received, sent, dropped) = (number("ReceivedPackets"), number("SentPackets"), number("DroppedPackets"));
    format!("{received} packets in, {sent} out, {dropped} dropped")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn counters(received: u64) -> Value {
        json!({"ReceivedPackets": received, "SentPackets": 2, "DroppedPackets": 0})
    }

    fn task(target: &str, way: Value) -> Value {
        json!({"ID": "t1", "Name": "web.1.t1", "Target": target, "Draining": false, "Way": way, "Connections": 3})
    }

    #[test]
    fn every_hop_and_every_problem_has_a_line() {
        let nodes = json!([
            {
                "Hostname": "a", "Balancer": "nftables",
                "Networks": [{
                    "Name": "back", "Namespace": "lb_0123", "VirtualIP": "10.0.1.5", "BalancerIP": "10.0.1.4",
                    "Links": {"vxlan0": counters(1)}, "ForgedFrames": 9,
                    "Tasks": [
                        task("10.0.1.6", json!({"Kind": "here", "Link": "veth1", "Counters": counters(7)})),
                        task("10.0.1.7", json!({"Kind": "nowhere"})),
                    ],
                    "Problems": ["overlay n: link vxlan0 differs"],
                }],
                "Ports": [{
                    "PublishedPort": 8080, "TargetPort": 80, "Protocol": "tcp", "Links": {},
                    "Tasks": [task("198.18.0.3:8080", json!({"Kind": "tunnel", "Node": "192.0.2.3"}))],
                    "Problems": [],
                }],
            },
            {"Hostname": "b", "Balancer": "nftables", "Networks": [], "Ports": []},
            {"Hostname": "c", "Error": "it did not answer in time"},
        ]);
        let expect = "service web (s1)
node a
  network back: 10.0.1.5 balanced by nftables in lb_0123
    tasks see balanced connections come from 10.0.1.4
    link vxlan0: 1 packets in, 2 out, 0 dropped
    to 10.0.1.6 (web.1.t1) here by veth1: 7 packets in, 2 out, 0 dropped, 3 tracked
    to 10.0.1.7 (web.1.t1) NOWHERE: this node does not know where it is, 3 tracked
    PROBLEM: overlay n: link vxlan0 differs
    9 frames of tasks here posed as another and were dropped
  port 8080/tcp to 80: balanced by nftables on the host
    to 198.18.0.3:8080 (web.1.t1) by the tunnel to 192.0.2.3, 3 tracked
node b
  no path here: neither its networks nor a port of it are on this node
node c: it did not answer in time
";
        assert_eq!(shown(&json!({"ID": "s1", "Name": "web", "Nodes": nodes})), expect);
    }
}
