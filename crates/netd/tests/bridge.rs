//! Bridge networks, containers' legs and published ports, judged by the kernel.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod common;

use common::{HOST, Lab, Namespace, OUTSIDE, attach, bridge_network, endpoint, network_id, port};
use skep_model::ErrorKind;
use skep_model::netstate::Subnet;
use skep_model::network::Protocol;
use std::io::Write;
use std::net::TcpListener;
use std::time::Instant;

#[test]
#[ignore = "is netd itself, started by the laboratory"]
fn netd_process() {
    common::netd_process();
}

#[tokio::test]
async fn a_published_port_answers_from_everywhere() {
    let lab = Lab::new();
    let (web, other) = (Namespace::new(), Namespace::new());
    web.serve_tcp(80, "web");
    web.serve_udp(53, "udp");
    lab.client.put_network(bridge_network(1)).await.unwrap();
    let mut leg = endpoint(1, 2, &web.path());
    leg.ports = vec![
        port(None, 8080, 80, Protocol::Tcp),
        port(None, 5353, 53, Protocol::Udp),
        port(Some("127.0.0.1"), 8081, 80, Protocol::Tcp),
    ];
    lab.client.attach(attach(vec![leg])).await.unwrap();
    lab.client.attach(attach(vec![endpoint(1, 3, &other.path())])).await.unwrap();
    lab.assert_converged().await;

    assert_eq!(lab.outside.get(HOST, 8080).unwrap(), format!("web {OUTSIDE}"));
    assert_eq!(lab.outside.get_udp(HOST, 5353).unwrap(), format!("udp {OUTSIDE}"));
    assert_eq!(lab.host.get(HOST, 8080).unwrap(), format!("web {HOST}"));
    assert_eq!(lab.host.get("127.0.0.1", 8080).unwrap(), "web 172.30.1.1");
    assert_eq!(lab.host.get("127.0.0.1", 8081).unwrap(), "web 172.30.1.1");
    assert_eq!(web.get(HOST, 8080).unwrap(), "web 172.30.1.1");
    assert_eq!(other.get(HOST, 8080).unwrap(), "web 172.30.1.1");
    assert_eq!(other.get("172.30.1.2", 80).unwrap(), "web 172.30.1.3");
    assert!(lab.host.get(HOST, 8081).is_err(), "a host address must not be widened");
    assert!(lab.outside.get(HOST, 8081).is_err());

    let outside_listener = lab.outside.enter(|| TcpListener::bind((OUTSIDE, 9000)).unwrap());
    let client = other.enter(|| std::net::TcpStream::connect((OUTSIDE, 9000)).unwrap());
    let (_, seen) = outside_listener.accept().unwrap();
    assert_eq!(seen.ip().to_string(), HOST, "outgoing traffic is masqueraded");
    drop(client);
}

#[tokio::test]
async fn networks_are_isolated_from_each_other_and_internal_ones_from_the_world() {
    check_isolation(&Lab::new()).await;
}

#[tokio::test]
async fn isolation_needs_no_filtering_of_bridged_frames() {
    let lab = Lab::new();
    lab.host.run("for f in /proc/sys/net/bridge/bridge-nf-call-*; do echo 0 > $f; done");
    check_isolation(&lab).await;
}

async fn check_isolation(lab: &Lab) {
    let containers: Vec<Namespace> = (0..5).map(|_| Namespace::new()).collect();
    let mut closed = bridge_network(2);
    if let skep_model::netstate::NetworkKind::Bridge { inter_container, .. } = &mut closed.kind {
        *inter_container = false;
    }
    let mut internal = bridge_network(3);
    internal.internal = true;
    for network in [bridge_network(1), closed, internal] {
        lab.client.put_network(network).await.unwrap();
    }
    for (index, network) in [1, 2, 2, 3, 3].into_iter().enumerate() {
        let last = u8::try_from(index).unwrap() + 2;
        lab.client.attach(attach(vec![endpoint(network, last, &containers[index].path())])).await.unwrap();
        containers[index].serve_tcp(80, &format!("c{last}"));
    }
    lab.outside.serve_tcp(80, "outside");

    assert_eq!(containers[0].get(OUTSIDE, 80).unwrap(), format!("outside {HOST}"));
    assert!(containers[0].get("172.30.2.3", 80).is_err(), "another bridge");
    assert!(containers[1].get("172.30.2.4", 80).is_err(), "no traffic between containers");
    assert_eq!(containers[1].get(OUTSIDE, 80).unwrap(), format!("outside {HOST}"));
    assert_eq!(containers[3].get("172.30.3.6", 80).unwrap(), "c6 172.30.3.5");
    assert!(containers[3].get(OUTSIDE, 80).is_err(), "internal");
    lab.outside.run(&format!("ip route add 172.30.1.0/24 via {HOST}"));
    assert!(lab.outside.get("172.30.1.2", 80).is_err(), "only published ports are reachable");
}

#[tokio::test]
async fn a_dual_stack_network_publishes_and_leaves_by_both() {
    const HOST6: &str = "fd99::1";
    const OUTSIDE6: &str = "fd99::254";
    let lab = Lab::new();
    lab.outside.run(&format!("ip addr add {OUTSIDE6}/64 dev p1 nodad"));
    lab.host.run(&format!("ip addr add {HOST6}/64 dev eth0 nodad"));
    let web = Namespace::new();
    let mut network = bridge_network(1);
    network.subnets.push(Subnet { net: "fd30::/64".parse().unwrap(), gateway: Some("fd30::1".parse().unwrap()) });
    lab.client.put_network(network).await.unwrap();
    let mut leg = endpoint(1, 2, &web.path());
    leg.addresses.push("fd30::2/64".parse().unwrap());
    leg.ports = vec![port(None, 8080, 80, Protocol::Tcp)];
    lab.client.attach(attach(vec![leg])).await.unwrap();
    lab.assert_converged().await;
    let listener = web.enter(|| TcpListener::bind("[::]:80").unwrap());
    std::thread::spawn(move || {
        while let Ok((mut stream, client)) = listener.accept() {
            let _ = write!(stream, "six {}", client.ip());
        }
    });
    assert_eq!(lab.outside.get(HOST6, 8080).unwrap(), format!("six {OUTSIDE6}"));
    assert_eq!(lab.host.get(HOST6, 8080).unwrap(), format!("six {HOST6}"));
    assert_eq!(web.get(HOST6, 8080).unwrap(), "six fd30::1");
    assert_eq!(lab.outside.get(HOST, 8080).unwrap(), format!("six ::ffff:{OUTSIDE}"));

    let listener = lab.outside.enter(|| TcpListener::bind((OUTSIDE6, 9000)).unwrap());
    let _client = web.enter(|| std::net::TcpStream::connect((OUTSIDE6, 9000)).unwrap());
    assert_eq!(listener.accept().unwrap().1.ip().to_string(), HOST6, "outgoing traffic is masqueraded");
    assert!(lab.host.enter(|| TcpListener::bind((HOST6, 8080))).is_err(), "the port is held in both families");
}

#[tokio::test]
async fn a_taken_port_is_a_conflict_and_undoes_the_whole_attachment() {
    let lab = Lab::new();
    let (first, second) = (Namespace::new(), Namespace::new());
    let foreign = lab.host.enter(|| TcpListener::bind("0.0.0.0:9090").unwrap());
    lab.client.put_network(bridge_network(1)).await.unwrap();
    let mut leg = endpoint(1, 2, &first.path());
    leg.ports = vec![port(None, 8080, 80, Protocol::Tcp)];
    lab.client.attach(attach(vec![leg.clone()])).await.unwrap();
    // Again: nothing changes.
    lab.client.attach(attach(vec![leg])).await.unwrap();

    let mut leg = endpoint(1, 3, &second.path());
    leg.ports = vec![port(None, 8080, 80, Protocol::Tcp)];
    let error = lab.client.attach(attach(vec![leg.clone()])).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert_eq!(error.message, "Bind for 0.0.0.0:8080 failed: port is already allocated");
    leg.ports = vec![port(None, 8082, 80, Protocol::Tcp), port(None, 9090, 80, Protocol::Tcp)];
    let error = lab.client.attach(attach(vec![leg.clone()])).await.unwrap_err();
    assert!(error.message.ends_with("listen tcp4 0.0.0.0:9090: bind: address already in use"), "{}", error.message);
    let mut bad = endpoint(1, 4, &second.path());
    bad.interface = "eth1".into();
    bad.sysctls.insert("net.ipv4.no_such_key".into(), "1".into());
    assert!(lab.client.attach(attach(vec![endpoint(1, 3, &second.path()), bad])).await.is_err());
    assert_eq!(second.run("ip -o link | grep -v lo: || true"), "", "no leg may be left");
    assert!(lab.host.enter(|| TcpListener::bind("0.0.0.0:8082")).is_ok(), "the port is free again");
    assert!(lab.host.enter(|| TcpListener::bind("0.0.0.0:8080")).is_err(), "a published port is held");
    lab.assert_converged().await;
    drop(foreign);
    // A program that another test starts at this moment may hold it until it has begun.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while let Err(error) = lab.client.attach(attach(vec![leg.clone()])).await {
        assert!(std::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    lab.assert_converged().await;
}

#[tokio::test]
async fn detaching_and_removing_leave_nothing() {
    let lab = Lab::new();
    let before = lab.kernel_state();
    let container = Namespace::new();
    lab.client.put_network(bridge_network(1)).await.unwrap();
    let mut leg = endpoint(1, 2, &container.path());
    leg.ports = vec![port(None, 8080, 80, Protocol::Tcp)];
    lab.client.attach(attach(vec![leg.clone()])).await.unwrap();
    assert_eq!(lab.client.remove_network(&network_id(1)).await.unwrap_err().kind, ErrorKind::Forbidden);
    lab.client.detach(&leg.container).await.unwrap();
    assert_eq!(container.run("ip -o link | grep -v lo: || true"), "");
    lab.assert_converged().await;
    lab.client.remove_network(&network_id(1)).await.unwrap();
    assert_eq!(lab.kernel_state(), before);
    lab.assert_converged().await;
}

#[tokio::test]
async fn many_containers_attach_quickly() {
    const COUNT: u8 = 100;
    let lab = Lab::new();
    let containers: Vec<Namespace> = (0..COUNT).map(|_| Namespace::new()).collect();
    lab.client.put_network(bridge_network(1)).await.unwrap();
    let (started, cpu_ms) = (Instant::now(), lab.netd_cpu_ms());
    for (container, last) in containers.iter().zip(2..) {
        let mut leg = endpoint(1, last, &container.path());
        leg.ports = vec![port(None, 8000 + u16::from(last), 80, Protocol::Tcp)];
        lab.client.attach(attach(vec![leg])).await.unwrap();
    }
    let took = started.elapsed();
    let cpu_ms = lab.netd_cpu_ms() - cpu_ms;
    println!("{COUNT} attachments took {took:?}, {:?} each, {cpu_ms} ms of processor", took / u32::from(COUNT));
    println!("with {COUNT} containers {}", lab.netd_memory());
    lab.assert_converged().await;
    let started = Instant::now();
    for last in 2..2 + COUNT {
        lab.client.detach(&endpoint(1, last, std::path::Path::new("/")).container).await.unwrap();
    }
    println!("{COUNT} detachments took {:?}", started.elapsed());
    lab.wait_converged().await;
}
