//! What others destroy is made again; a crash of netd is not noticed by the kernel.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod common;

use common::{HOST, Lab, Namespace, OUTSIDE, attach, bridge_network, endpoint, port};
use skep_model::network::Protocol;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// The promise to users.
const REPAIR_TIME_MAX: Duration = Duration::from_secs(5);

#[test]
#[ignore = "is netd itself, started by the laboratory"]
fn netd_process() {
    common::netd_process();
}

/// A lab with one web container that publishes port 8080.
async fn published(lab: &Lab) -> Namespace {
    let web = Namespace::new();
    web.serve_tcp(80, "web");
    web.serve_tcp_echo(90, "e");
    lab.client.put_network(bridge_network(1)).await.unwrap();
    let mut leg = endpoint(1, 2, &web.path());
    leg.ports = vec![port(None, 8080, 80, Protocol::Tcp), port(None, 9090, 90, Protocol::Tcp)];
    lab.client.attach(attach(vec![leg])).await.unwrap();
    assert_eq!(lab.outside.get(HOST, 8080).unwrap(), format!("web {OUTSIDE}"));
    web
}

/// Destroys something and waits until the container answers again and nothing differs.
async fn check_repair(destroy: impl FnOnce(&Lab, &Namespace)) {
    let lab = Lab::new();
    let web = published(&lab).await;
    lab.wait_converged().await;
    let repairs = lab.client.status().await.unwrap().repairs;
    destroy(&lab, &web);
    let destroyed = Instant::now();
    loop {
        // Only netd's own repairs count, so nothing here may trigger one.
        let repaired = lab.client.status().await.unwrap().repairs > repairs;
        if repaired && lab.client.verify().await.unwrap().is_empty() && lab.outside.get(HOST, 8080).is_ok() {
            break;
        }
        assert!(destroyed.elapsed() < REPAIR_TIME_MAX, "not repaired: {:?}", lab.client.verify().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("repaired after {:?}", destroyed.elapsed());
    assert!(lab.log().contains("WARN"), "a repair is worth a line in the log");
    lab.assert_converged().await;
}

#[tokio::test]
async fn a_deleted_bridge_is_back() {
    check_repair(|lab, _| drop(lab.host.run("ip link del br-1"))).await;
}

#[tokio::test]
async fn a_deleted_table_is_back() {
    check_repair(|lab, _| drop(lab.host.run("nft delete table inet skep"))).await;
}

#[tokio::test]
async fn a_changed_chain_and_map_are_as_before() {
    check_repair(|lab, _| {
        lab.host.run("nft flush chain inet skep publish; nft add rule inet skep forward drop; nft flush map inet skep published4");
    })
    .await;
}

#[tokio::test]
async fn a_deleted_port_is_back() {
    check_repair(|lab, _| drop(lab.host.run("ip link del $(ip -br link | grep -o '^veth[0-9a-f]*')"))).await;
}

#[tokio::test]
async fn a_deleted_route_inside_is_back() {
    check_repair(|_, web| drop(web.run("ip route del default"))).await;
}

#[tokio::test]
async fn a_bridge_that_was_set_down_and_emptied_is_as_before() {
    check_repair(|lab, _| {
        lab.host.run("ip link set br-1 down; ip addr flush dev br-1; ip addr add 172.30.1.77/24 dev br-1");
    })
    .await;
}

#[tokio::test]
async fn a_crash_is_not_noticed_by_the_kernel() {
    let mut lab = Lab::new();
    let _web = published(&lab).await;
    let mut open = lab.outside.enter(|| TcpStream::connect((HOST, 9090)).unwrap());
    open.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let before = lab.kernel_state();
    lab.kill_netd();
    assert_eq!(lab.kernel_state(), before);
    open.write_all(b"x").unwrap();
    open.read_exact(&mut [0]).unwrap();
    assert_eq!(lab.outside.get(HOST, 8080).unwrap(), format!("web {OUTSIDE}"), "traffic needs no netd");
    lab.start_netd();
    lab.assert_converged().await;
    assert_eq!(lab.kernel_state(), before);
    assert_eq!(lab.client.status().await.unwrap().repairs, 0);
    assert!(lab.host.enter(|| TcpListener::bind("0.0.0.0:8080")).is_err(), "the port is held again");
    open.write_all(b"x").unwrap();
    open.read_exact(&mut [0]).unwrap();
}

#[tokio::test]
async fn a_dead_container_is_no_failure_and_is_dropped_by_the_next_netd() {
    let mut lab = Lab::new();
    let web = published(&lab).await;
    drop(web);
    lab.wait_converged().await;
    lab.assert_converged().await;
    lab.kill_netd();
    lab.start_netd();
    lab.assert_converged().await;
    assert!(!lab.host.run("nft list ruleset").contains("172.30.1.2 ."), "its ports are gone");
}

#[tokio::test]
async fn a_sync_replaces_everything_and_is_idempotent() {
    let lab = Lab::new();
    let web = published(&lab).await;
    let mut leg = endpoint(1, 2, &web.path());
    leg.ports = vec![port(None, 8080, 80, Protocol::Tcp), port(None, 9090, 90, Protocol::Tcp)];
    let mut local = skep_model::netstate::LocalNetState {
        networks: vec![bridge_network(1)],
        endpoints: vec![leg],
        resolvers: [(web.path(), skep_model::netstate::ResolverConfig::default())].into(),
    };
    let before = lab.kernel_state();
    lab.client.sync_local(local.clone()).await.unwrap();
    assert_eq!(lab.kernel_state(), before);
    local.endpoints.clear();
    lab.client.sync_local(local).await.unwrap();
    lab.assert_converged().await;
    assert_eq!(web.run("ip -br link | grep -v lo || true"), "");
    lab.client.sync_local(skep_model::netstate::LocalNetState::default()).await.unwrap();
    lab.assert_converged().await;
    assert_eq!(lab.host.run("nft list ruleset"), "");
}

#[tokio::test]
async fn an_idle_netd_is_small() {
    let lab = Lab::new();
    lab.assert_converged().await;
    println!("idle {}", lab.netd_memory());
}
