//! The swarm's section: overlays on one node, virtual addresses, the routing mesh.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod common;

use common::swarm::{container, gateway_bridge, legs, overlay, overlay_id, spread};
use common::{HOST, Lab, Namespace, OUTSIDE, ask_udp, attach, bridge_network, endpoint, port};
use skep_model::ErrorKind;
use skep_model::id::{ServiceId, TaskId};
use skep_model::netstate::{Backend, ClusterNetState, DesiredIngress, DesiredService, IngressBackend};
use skep_model::network::Protocol;
use skep_netd::BalancerChoice;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

const VIP: &str = "10.0.1.100";

#[test]
#[ignore = "is netd itself, started by the laboratory"]
fn netd_process() {
    common::netd_process();
}

fn state(generation: u64, backends: &[(u8, u16)]) -> ClusterNetState {
    let backend = |(last, weight): &(u8, u16)| Backend {
        task: TaskId(format!("task{last}")),
        address: format!("10.0.1.{last}").parse().unwrap(),
        name: format!("web.{last}.task{last}"),
        weight: *weight,
    };
    let live = backends.iter().filter(|(_, weight)| *weight > 0);
    let local = live.map(|(last, _)| IngressBackend::Local {
        task: TaskId(format!("task{last}")),
        container: container(*last),
        draining: false,
    });
    ClusterNetState {
        generation,
        networks: vec![overlay()],
        load_balancer_addresses: BTreeMap::from([(overlay_id(), "10.0.1.2/24".parse().unwrap())]),
        services: vec![DesiredService {
            id: ServiceId("service1".into()),
            name: "web".into(),
            aliases: Vec::new(),
            network: overlay_id(),
            vip: Some(VIP.parse().unwrap()),
            vip_ipv6: None,
            backends: backends.iter().map(backend).collect(),
        }],
        ingress: vec![DesiredIngress {
            service: ServiceId("service1".into()),
            published_port: 8080,
            target_port: 80,
            protocol: Protocol::Tcp,
            backends: local.collect(),
        }],
        ..ClusterNetState::default()
    }
}

/// Three tasks that answer with their number by TCP 80 and 90, and by UDP 53.
async fn tasks(lab: &Lab, generation: u64) -> Vec<Namespace> {
    lab.client.put_network(gateway_bridge()).await.unwrap();
    lab.client.set_cluster(state(generation, &[])).await.unwrap();
    let tasks: Vec<Namespace> = (0..3).map(|_| Namespace::new()).collect();
    for (task, last) in tasks.iter().zip(10..) {
        lab.client.attach(attach(legs(last, task))).await.unwrap();
        task.serve_tcp(80, &last.to_string());
        task.serve_tcp_echo(90, &last.to_string());
        task.serve_udp(53, &last.to_string());
    }
    tasks
}

fn even(count: usize) -> BTreeMap<String, usize> {
    ["10", "11", "12"].iter().map(|name| ((*name).to_owned(), count)).collect()
}

#[tokio::test]
async fn a_virtual_address_spreads_evenly_drains_and_forgets() {
    let lab = Lab::new();
    let tasks = tasks(&lab, 1).await;
    assert!(tasks[0].get(VIP, 80).is_err(), "no backend yet");
    lab.client.set_cluster(state(2, &[(10, 1), (11, 1), (12, 1)])).await.unwrap();
    lab.assert_converged().await;

    assert_eq!(spread((0..30).map(|_| tasks[0].get(VIP, 80).unwrap())), even(10));
    assert_eq!(tasks[0].get("10.0.1.11", 80).unwrap(), "11 10.0.1.10", "tasks reach each other directly");
    assert!(tasks[1].pings(VIP));

    let mut open: Vec<TcpStream> = tasks[0].enter(|| (0..3).map(|_| TcpStream::connect((VIP, 90)).unwrap()).collect());
    let socket = tasks[0].enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let service: SocketAddr = format!("{VIP}:53").parse().unwrap();
    let first = ask_udp(&socket, service).unwrap();
    assert_eq!(ask_udp(&socket, service).unwrap(), first, "a flow stays where it is");
    let stuck: u8 = first.split(' ').next().unwrap().parse().unwrap();

    // Drained: open connections live on, new ones go elsewhere.
    let weights: Vec<(u8, u16)> = (10..13).map(|last| (last, u16::from(last != stuck))).collect();
    lab.client.set_cluster(state(3, &weights)).await.unwrap();
    let answers = spread((0..20).map(|_| tasks[0].get(VIP, 80).unwrap()));
    assert_eq!(answers.len(), 2);
    assert!(!answers.contains_key(&stuck.to_string()) && answers.values().all(|count| *count == 10), "{answers:?}");
    for stream in &mut open {
        stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0; 2]).unwrap();
    }
    assert_eq!(ask_udp(&socket, service).unwrap(), first);

    // Removed: its UDP flows are forgotten.
    let rest: Vec<(u8, u16)> = weights.into_iter().filter(|(last, _)| *last != stuck).collect();
    lab.client.set_cluster(state(4, &rest)).await.unwrap();
    assert_ne!(ask_udp(&socket, service).unwrap(), first);
    lab.assert_converged().await;
}

#[tokio::test]
async fn the_mesh_spreads_keeps_the_client_and_refuses_without_backends() {
    let lab = Lab::new();
    let tasks = tasks(&lab, 1).await;
    let started = Instant::now();
    let error = lab.outside.get(HOST, 8080).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(lab.host.get("127.0.0.1", 8080).is_err() && tasks[0].get(HOST, 8080).is_err());
    assert!(started.elapsed() < Duration::from_secs(1), "a refusal must be quick");

    lab.client.set_cluster(state(2, &[(10, 1), (11, 1), (12, 1)])).await.unwrap();
    lab.assert_converged().await;
    let answers: Vec<String> = (0..30).map(|_| lab.outside.get(HOST, 8080).unwrap()).collect();
    assert!(answers.iter().all(|answer| answer.ends_with(OUTSIDE)), "{answers:?}");
    assert_eq!(spread(answers.into_iter()), even(10));
    assert_eq!(spread((0..6).map(|_| lab.host.get("127.0.0.1", 8080).unwrap())), even(2));
    assert_eq!(spread((0..6).map(|_| lab.host.get(HOST, 8080).unwrap())), even(2));
    assert_eq!(spread((0..6).map(|_| tasks[0].get(HOST, 8080).unwrap())), even(2));
    // Tasks have a way out by the gateway bridge.
    lab.outside.serve_tcp(7000, "outside");
    assert_eq!(tasks[0].get(OUTSIDE, 7000).unwrap(), format!("outside {HOST}"));
}

#[tokio::test]
async fn older_generations_are_refused_and_leaving_leaves_nothing() {
    let lab = Lab::new();
    let before = lab.kernel_state();
    lab.client.set_cluster(state(5, &[])).await.unwrap();
    let error = lab.client.set_cluster(state(4, &[])).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert_eq!(lab.client.status().await.unwrap().cluster_generation, 5);
    assert_ne!(lab.kernel_state(), before);

    lab.client.clear_cluster().await.unwrap();
    assert_eq!(lab.kernel_state(), before);
    assert_eq!(lab.overlay_namespaces(), 0);
    lab.client.set_cluster(state(1, &[])).await.unwrap();
    lab.client.clear_cluster().await.unwrap();
    lab.assert_converged().await;
}

#[tokio::test]
async fn a_backend_on_an_unknown_node_is_said_to_be_so() {
    let lab = Lab::new();
    let mut state = state(1, &[]);
    state.ingress[0].backends = vec![IngressBackend::Remote {
        task: TaskId("far".into()),
        node_address: "10.99.0.9".parse().unwrap(),
        ipv6: false,
    }];
    lab.client.set_cluster(state).await.unwrap();
    let failing = lab.client.status().await.unwrap().failing;
    assert_eq!(failing, ["ingress 8080: task far is on a node that this one does not know as 10.99.0.9"]);
    let status = lab.client.status().await.unwrap();
    let expect = if common::balancer() == BalancerChoice::Ipvs { "ipvs" } else { "nftables" };
    assert_eq!(status.balancer, expect);
    assert_ne!(status.pid, 0);
}

#[tokio::test]
async fn a_mesh_port_may_not_take_a_published_one() {
    let lab = Lab::new();
    let web = Namespace::new();
    lab.client.put_network(bridge_network(1)).await.unwrap();
    let mut leg = endpoint(1, 2, &web.path());
    leg.ports = vec![port(None, 8080, 80, Protocol::Tcp)];
    lab.client.attach(attach(vec![leg.clone()])).await.unwrap();
    lab.client.set_cluster(state(1, &[])).await.unwrap();
    let failing = lab.client.status().await.unwrap().failing;
    assert_eq!(failing, ["Bind for 0.0.0.0:8080 failed: port is already allocated"]);
    lab.client.detach(&leg.container).await.unwrap();
    lab.wait_not_failing().await;
}

/// What IPVS itself says about an overlay, without counters.
fn ipvs_of_overlay(lab: &Lab) -> Vec<String> {
    lines_of_ipvs(&lab.run_in_overlay(&overlay_id(), "ipvsadm -L -n"))
}

fn lines_of_ipvs(text: &str) -> Vec<String> {
    let words = |line: &str| line.split_whitespace().take(4).collect::<Vec<_>>().join(" ");
    text.lines().filter(|line| line.starts_with("FWM") || line.contains("Masq")).map(words).collect()
}

#[tokio::test]
#[ignore = "needs a kernel with IPVS: cargo xtask stock-kernel"]
async fn ipvs_holds_what_is_desired_and_nothing_else() {
    let mut lab = Lab::new();
    let tasks = tasks(&lab, 1).await;
    lab.client.set_cluster(state(2, &[(10, 1), (11, 1), (12, 0)])).await.unwrap();
    lab.assert_converged().await;
    // The virtual address 10.0.1.100 as a number.
    let service = ["FWM 167772516 wrr", "-> 10.0.1.10:0 Masq 1", "-> 10.0.1.11:0 Masq 1", "-> 10.0.1.12:0 Masq 0"];
    assert_eq!(ipvs_of_overlay(&lab), service);
    let mesh = ["FWM 1558192016 wrr", "-> 172.30.9.10:80 Masq 1", "-> 172.30.9.11:80 Masq 1"];
    assert_eq!(lines_of_ipvs(&lab.host.run("ipvsadm -L -n")), mesh);
    let timeouts = lab.run_in_overlay(&overlay_id(), "ipvsadm -L --timeout");
    assert!(timeouts.contains("432000 120 300"), "{timeouts}");

    // A killed netd changes nothing, and what hands change is found by the next one.
    lab.kill_netd();
    assert_eq!(tasks[0].get(VIP, 80).unwrap().len(), "10 10.0.1.2".len());
    lab.run_in_overlay(&overlay_id(), "ipvsadm -d -f 167772516 -r 10.0.1.10; ipvsadm -A -f 7 -s rr");
    lab.host.run("ipvsadm -E -f 1558192016 -s rr; ipvsadm -A -t 10.99.0.1:999 -s rr; ipvsadm -A -f 9 -s rr");
    lab.start_netd();
    lab.wait_not_failing().await;
    lab.wait_converged().await;
    assert_eq!(ipvs_of_overlay(&lab), service);
    let host = lab.host.run("ipvsadm -L -n");
    assert!(host.contains("FWM  1558192016 wrr"), "{host}");
    assert!(host.contains("FWM  9 rr") && host.contains("10.99.0.1:999 rr"), "what others balance stays: {host}");
    assert!(lab.client.status().await.unwrap().repairs >= 2);

    lab.client.clear_cluster().await.unwrap();
    assert!(!lab.host.run("ipvsadm -L -n").contains("1558192016"));
}

#[tokio::test]
#[ignore = "needs a kernel with IPVS: cargo xtask stock-kernel"]
async fn ipvs_lets_open_connections_of_the_mesh_end_in_peace() {
    let lab = Lab::new();
    let _tasks = tasks(&lab, 1).await;
    let mut cluster = state(2, &[(10, 1)]);
    cluster.ingress[0].target_port = 90;
    lab.client.set_cluster(cluster.clone()).await.unwrap();
    let mut stream = lab.outside.enter(|| TcpStream::connect((HOST, 8080)).unwrap());
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let mut ask = || {
        let mut answer = [0; 2];
        stream.write_all(b"x").and_then(|()| stream.read_exact(&mut answer)).map(|()| answer)
    };
    assert_eq!(&ask().unwrap(), b"10");
    let mut drained = cluster;
    drained.generation = 3;
    drained.ingress[0].backends = state(3, &[(11, 1)]).ingress[0].backends.clone();
    drained.ingress[0].backends.push(IngressBackend::Local {
        task: TaskId("task10".into()),
        container: container(10),
        draining: true,
    });
    lab.client.set_cluster(drained).await.unwrap();
    assert_eq!(&ask().unwrap(), b"10", "the open connection stays");
    let mut other = lab.outside.enter(|| TcpStream::connect((HOST, 8080)).unwrap());
    let mut answer = [0; 2];
    other.write_all(b"x").and_then(|()| other.read_exact(&mut answer)).unwrap();
    assert_eq!(&answer, b"11", "a new one goes elsewhere");
}
