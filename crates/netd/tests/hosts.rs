//! The swarm's networks across hosts: tunnels, virtual addresses, the routing mesh. Each
//! host is a network namespace with a netd of its own.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod common;

use common::swarm::{container, gateway_bridge, legs, overlay, overlay_id, spread};
use common::{Lab, Namespace, OUTSIDE, ask_udp, attach, wait_for};
use skep_model::id::{NetworkId, ServiceId, TaskId};
use skep_model::net_trace::Way;
use skep_model::netstate::{
    Backend, ClusterNetState, DesiredIngress, DesiredNetwork, DesiredService, IngressBackend, NetworkKind,
    RemoteEndpoint, Subnet,
};
use skep_model::network::{Protocol, mac_of};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};

const VIP: &str = "10.0.1.100";

#[test]
#[ignore = "is netd itself, started by the laboratory"]
fn netd_process() {
    common::netd_process();
}

/// A task: its last address byte, the host it is on, and whether it drains.
#[derive(Clone, Copy)]
struct Task {
    last: u8,
    host: u8,
    draining: bool,
}

fn task(last: u8, host: u8) -> Task {
    Task { last, host, draining: false }
}

fn mesh_id() -> NetworkId {
    NetworkId("ingressnetworkidoflength25".into())
}

fn mesh() -> DesiredNetwork {
    DesiredNetwork {
        id: mesh_id(),
        name: "ingress".into(),
        kind: NetworkKind::Mesh { vni: 4096, vxlan_port: 4789 },
        // The hosts' own range, as happens in practice.
        subnets: vec![Subnet { net: "10.99.0.0/24".parse().unwrap(), gateway: Some("10.99.0.1".parse().unwrap()) }],
        ..overlay()
    }
}

fn host_address(host: u8) -> IpAddr {
    format!("10.99.0.{host}").parse().unwrap()
}

/// The host's own balancer on the overlay.
fn balancer_address(host: u8) -> IpAddr {
    format!("10.0.1.{}", 200 + host).parse().unwrap()
}

fn remote(address: IpAddr, host: u8) -> RemoteEndpoint {
    RemoteEndpoint { addresses: vec![address], mac: mac_of(address), tunnel: host_address(host) }
}

/// What the managers would tell one of the hosts.
fn state(generation: u64, own: u8, hosts: u8, tasks: &[Task]) -> ClusterNetState {
    let others: Vec<u8> = (1..=hosts).filter(|host| *host != own).collect();
    let address = |task: &Task| -> IpAddr { format!("10.0.1.{}", task.last).parse().unwrap() };
    let mut on_overlay: Vec<_> = others.iter().map(|host| remote(balancer_address(*host), *host)).collect();
    let elsewhere = tasks.iter().filter(|task| task.host != own);
    on_overlay.extend(elsewhere.map(|task| remote(address(task), task.host)));
    let on_mesh = others.iter().map(|host| remote(mesh_address(*host), *host));
    let ingress = |port: u16, target: u16, protocol| DesiredIngress {
        service: ServiceId("service1".into()),
        published_port: port,
        target_port: target,
        protocol,
        backends: tasks.iter().filter_map(|task| ingress_backend(task, own)).collect(),
    };
    ClusterNetState {
        generation,
        data_path_address: Some(host_address(own)),
        networks: vec![overlay(), mesh()],
        remotes: BTreeMap::from([(overlay_id(), on_overlay), (mesh_id(), on_mesh.collect())]),
        load_balancer_addresses: BTreeMap::from([
            (overlay_id(), format!("{}/24", balancer_address(own)).parse().unwrap()),
            (mesh_id(), format!("{}/24", mesh_address(own)).parse().unwrap()),
        ]),
        services: vec![DesiredService {
            id: ServiceId("service1".into()),
            name: "web".into(),
            aliases: Vec::new(),
            network: overlay_id(),
            vip: Some(VIP.parse().unwrap()),
            vip_ipv6: None,
            backends: tasks
                .iter()
                .map(|task| Backend {
                    task: TaskId(format!("task{}", task.last)),
                    address: address(task),
                    name: format!("web.{0}.task{0}", task.last),
                    weight: u16::from(!task.draining),
                })
                .collect(),
        }],
        ingress: vec![
            ingress(8080, 80, Protocol::Tcp),
            ingress(9090, 90, Protocol::Tcp),
            ingress(5353, 53, Protocol::Udp),
        ],
        ..ClusterNetState::default()
    }
}

fn mesh_address(host: u8) -> IpAddr {
    format!("10.99.0.{}", 100 + host).parse().unwrap()
}

fn ingress_backend(task: &Task, own: u8) -> Option<IngressBackend> {
    let id = TaskId(format!("task{}", task.last));
    if task.host == own {
        return Some(IngressBackend::Local { task: id, container: container(task.last), draining: task.draining });
    }
    (!task.draining).then(|| IngressBackend::Remote { task: id, node_address: mesh_address(task.host), ipv6: true })
}

/// Hosts with tasks that answer with their number by TCP 80 and 90, and by UDP 53.
struct Cluster {
    hosts: Vec<Lab>,
    tasks: BTreeMap<u8, Namespace>,
    generation: u64,
}

impl Cluster {
    async fn start(hosts: u8, tasks: &[Task]) -> Self {
        let mut cluster = Self { hosts: Lab::several(hosts), tasks: BTreeMap::new(), generation: 0 };
        for host in &cluster.hosts {
            host.client.put_network(gateway_bridge()).await.unwrap();
        }
        cluster.tell(&[]).await;
        for task in tasks {
            let namespace = Namespace::new();
            cluster.host(task.host).client.attach(attach(legs(task.last, &namespace))).await.unwrap();
            namespace.serve_tcp(80, &task.last.to_string());
            namespace.serve_tcp_echo(90, &task.last.to_string());
            namespace.serve_udp(53, &task.last.to_string());
            cluster.tasks.insert(task.last, namespace);
        }
        cluster.tell(tasks).await;
        for host in &cluster.hosts {
            host.assert_converged().await;
        }
        cluster
    }

    async fn tell(&mut self, tasks: &[Task]) {
        self.generation += 1;
        for host in 1..=self.count() {
            self.tell_one(host, tasks).await;
        }
    }

    async fn tell_one(&self, host: u8, tasks: &[Task]) {
        let state = state(self.generation, host, self.count(), tasks);
        self.host(host).client.set_cluster(state).await.unwrap();
    }

    fn count(&self) -> u8 {
        u8::try_from(self.hosts.len()).unwrap()
    }

    fn host(&self, number: u8) -> &Lab {
        &self.hosts[usize::from(number) - 1]
    }

    fn outside(&self) -> &Namespace {
        &self.hosts[0].outside
    }
}

fn even(tasks: &[Task], count: usize) -> BTreeMap<String, usize> {
    tasks.iter().map(|task| (task.last.to_string(), count)).collect()
}

/// The fixed entries of the overlay's tunnel: (MAC, node) and (address, MAC).
fn entries(host: &Lab) -> (BTreeSet<String>, BTreeSet<String>) {
    let fdb = host.run_in_overlay(&overlay_id(), "bridge fdb show dev vxlan0 | grep dst | awk '{print $1, $3}'");
    let neighbours =
        host.run_in_overlay(&overlay_id(), "ip neigh show dev vxlan0 nud permanent | awk '{print $1, $3}'");
    let lines = |text: String| text.lines().map(str::to_owned).collect();
    (lines(fdb), lines(neighbours))
}

fn packets_sent(host: &Lab) -> u64 {
    host.run_in_overlay(&overlay_id(), "cat /sys/class/net/vxlan0/statistics/tx_packets 2>/dev/null || ip -s link show vxlan0 | tail -1 | awk '{print $2}'")
        .trim()
        .parse()
        .unwrap()
}

#[tokio::test]
async fn tasks_on_three_hosts_share_an_overlay() {
    let tasks = [task(10, 1), task(11, 1), task(12, 2), task(13, 3)];
    let mut cluster = Cluster::start(3, &tasks).await;
    for (from, namespace) in &cluster.tasks {
        for to in tasks.map(|task| task.last) {
            assert_eq!(namespace.get(&format!("10.0.1.{to}"), 80).unwrap(), format!("{to} 10.0.1.{from}"));
        }
        assert!(namespace.pings(VIP) && namespace.pings("10.0.1.12"));
        assert_eq!(spread((0..20).map(|_| namespace.get(VIP, 80).unwrap())), even(&tasks, 5), "from {from}");
        assert_eq!(spread((0..8).map(|_| namespace.get_udp(VIP, 53).unwrap())), even(&tasks, 2), "from {from}");
        assert!(namespace.run("ip link show eth0").contains("mtu 1450"));
    }
    let first = cluster.host(1);
    let tunnel = first.run_in_overlay(&overlay_id(), "ip -d link show vxlan0");
    for part in ["id 4097", "local 10.99.0.1", "dstport 4789", "nolearning", "proxy", "mtu 1450"] {
        assert!(tunnel.contains(part), "{part} in {tunnel}");
    }
    // Exactly two tasks and two balancers, nothing learned.
    let (stations, neighbours) = entries(first);
    let station = |last: u8, host: u8| format!("02:42:0a:00:01:{last:02x} 10.99.0.{host}");
    assert_eq!(stations, BTreeSet::from([station(12, 2), station(13, 3), station(202, 2), station(203, 3)]));
    let neighbour = |last: u8| format!("10.0.1.{last} 02:42:0a:00:01:{last:02x}");
    assert_eq!(neighbours, [12, 13, 202, 203].map(neighbour).into());
    // Nobody is asked for an address that nobody has.
    let before = packets_sent(first);
    assert!(cluster.tasks[&10].get("10.0.1.99", 80).is_err());
    assert_eq!(packets_sent(first), before, "frames for unknown stations go nowhere");

    // A removed task's entries go, and its VIP no longer leads there.
    let rest = [task(10, 1), task(11, 1), task(13, 3)];
    cluster.tell(&rest).await;
    let (stations, neighbours) = entries(cluster.host(1));
    assert_eq!(stations, BTreeSet::from([station(13, 3), station(202, 2), station(203, 3)]));
    assert_eq!(neighbours, [13, 202, 203].map(neighbour).into());
    assert!(cluster.tasks[&10].get("10.0.1.12", 80).is_err());
    assert_eq!(spread((0..9).map(|_| cluster.tasks[&10].get(VIP, 80).unwrap())), even(&rest, 3));
    for host in &cluster.hosts {
        host.assert_converged().await;
    }
}

#[tokio::test]
async fn foreign_changes_of_the_tunnel_are_repaired() {
    let tasks = [task(10, 1), task(12, 2)];
    let cluster = Cluster::start(2, &tasks).await;
    let first = cluster.host(1);
    let before = entries(first);
    let mac = "02:42:0a:00:01:0c";
    let damages = [
        format!("bridge fdb del {mac} dev vxlan0 self"),
        format!("bridge fdb del {mac} dev vxlan0 master"),
        "ip neigh del 10.0.1.12 dev vxlan0".to_owned(),
        format!("bridge fdb replace {mac} dev vxlan0 dst 10.99.0.77 self permanent"),
        "bridge fdb append 02:42:0a:00:01:63 dev vxlan0 dst 10.99.0.77 self permanent".to_owned(),
        "ip neigh replace 10.0.1.12 lladdr 02:42:0a:00:01:63 dev vxlan0 nud permanent".to_owned(),
        "bridge link set dev vxlan0 learning on".to_owned(),
        "ip link del vxlan0".to_owned(),
    ];
    for damage in damages {
        let repairs = first.client.status().await.unwrap().repairs;
        first.run_in_overlay(&overlay_id(), &damage);
        // By the kernel's word alone: the regular check is half a minute away.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while first.client.status().await.unwrap().repairs == repairs {
            assert!(std::time::Instant::now() < deadline, "not repaired: {damage}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        first.wait_converged().await;
        assert_eq!(entries(first), before, "{damage}");
        assert_eq!(cluster.tasks[&10].get("10.0.1.12", 80).unwrap(), "12 10.0.1.10", "{damage}");
    }
}

#[tokio::test]
async fn a_task_that_poses_as_another_takes_nothing_away() {
    let tasks = [task(10, 1), task(11, 1), task(12, 2)];
    let cluster = Cluster::start(2, &tasks).await;
    // The neighbour claims the remote task's station, and sends from it.
    cluster.tasks[&11].run("ip link set eth0 down; ip link set eth0 address 02:42:0a:00:01:0c; ip link set eth0 up");
    let _ = cluster.tasks[&11].get("10.0.1.10", 80);
    for _ in 0..5 {
        assert_eq!(cluster.tasks[&10].get("10.0.1.12", 80).unwrap(), "12 10.0.1.10");
    }
}

#[tokio::test]
async fn forged_frames_are_dropped_and_counted() {
    let tasks = [task(10, 1), task(11, 1), task(12, 2)];
    let mut cluster = Cluster::start(2, &tasks).await;
    let client = cluster.host(1).client.clone();
    let forged = async || {
        client.verify().await.unwrap();
        let counters = client.status().await.unwrap().counters;
        counters.forged_frames.get(&overlay_id()).copied().unwrap_or_default()
    };
    assert_eq!(forged().await, 0);
    let hostile = &cluster.tasks[&11];
    // The addresses of a neighbour, of a remote task and of the service, by its own station.
    for (number, victim) in [(1, "10.0.1.10"), (2, "10.0.1.12"), (3, VIP)] {
        hostile.run(&format!(
            "ip address add {victim}/24 dev eth0; busybox arping -U -c 2 -I eth0 -s {victim} {victim} >/dev/null; \
             busybox ping -c 1 -W 1 -I {victim} 10.0.1.1 >/dev/null; ip address del {victim}/24 dev eth0; true"
        ));
        assert!(forged().await >= number * 2, "{victim}: {}", forged().await);
    }
    // The others' caches lead where they did.
    for (from, target, expect) in [(10, "10.0.1.12", "12 10.0.1.10"), (12, "10.0.1.10", "10 10.0.1.12")] {
        assert_eq!(cluster.tasks[&from].get(target, 80).unwrap(), expect);
    }
    assert_eq!(spread((0..6).map(|_| cluster.tasks[&10].get(VIP, 80).unwrap())), even(&tasks, 2));
    for damage in ["nft delete table bridge skep", "nft flush chain bridge skep from_tasks"] {
        cluster.host(1).run_in_overlay(&overlay_id(), damage);
        cluster.host(1).wait_converged().await;
    }
    // A task that goes takes its place with it.
    cluster.tell(&[tasks[0], tasks[2]]).await;
    cluster.host(1).client.detach(&container(11)).await.unwrap();
    cluster.host(1).assert_converged().await;
    let rules = cluster.host(1).run_in_overlay(&overlay_id(), "nft list table bridge skep");
    assert!(rules.contains("10.0.1.10") && !rules.contains("10.0.1.11"), "{rules}");
}

#[tokio::test]
async fn a_trace_shows_every_hop_and_what_is_missing() {
    let tasks = [task(10, 1), task(12, 2)];
    let cluster = Cluster::start(2, &tasks).await;
    for _ in 0..4 {
        cluster.tasks[&10].get(VIP, 80).unwrap();
        cluster.outside().get("10.99.0.1", 8080).unwrap();
    }
    let first = cluster.host(1);
    let trace = first.client.trace("web").await.unwrap();
    assert_eq!((trace.id.as_str(), trace.networks.len(), trace.ports.len()), ("service1", 1, 3));
    let network = &trace.networks[0];
    assert_eq!((network.namespace.as_str(), network.vip), ("lb_overlayne", Some(VIP.parse().unwrap())));
    assert!(network.problems.is_empty() && network.links["vxlan0"].sent_packets > 0, "{network:?}");
    let ways: Vec<&Way> = network.backends.iter().map(|backend| &backend.way).collect();
    assert!(matches!(ways[0], Way::Here { counters, .. } if counters.sent_packets > 0), "{ways:?}");
    assert_eq!(*ways[1], Way::Tunnel { node: host_address(2) });
    assert!(network.backends.iter().all(|backend| backend.connections >= 1), "{network:?}");
    let port = trace.ports.iter().find(|port| port.published_port == 8080).unwrap();
    assert!(port.backends.iter().all(|backend| backend.connections >= 1), "{port:?}");
    assert!(matches!(port.backends[0].way, Way::Here { .. }), "{port:?}");
    assert_eq!(port.backends[1].way, Way::Tunnel { node: host_address(2) });
    assert_eq!(first.client.trace("service1").await.unwrap().name, "web");
    assert_eq!(first.client.trace("nosuch").await.unwrap().id.as_str(), "");
    // The same on a host that is told of a task which nobody told where it is.
    let mut lost = state(100, 1, 2, &tasks);
    lost.remotes.clear();
    first.client.set_cluster(lost).await.unwrap();
    let trace = first.client.trace("web").await.unwrap();
    assert_eq!(trace.networks[0].backends[1].way, Way::Nowhere);
}

#[tokio::test]
async fn every_node_leads_to_every_task_and_keeps_the_client() {
    // Two tasks on the first node, one on the second, none on the third.
    let tasks = [task(10, 1), task(11, 1), task(12, 2)];
    let cluster = Cluster::start(3, &tasks).await;
    for host in ["10.99.0.1", "10.99.0.2", "10.99.0.3"] {
        let answers: Vec<String> = (0..12).map(|_| cluster.outside().get(host, 8080).unwrap()).collect();
        assert!(answers.iter().all(|answer| answer.ends_with(OUTSIDE)), "{host}: {answers:?}");
        assert_eq!(spread(answers.into_iter()), even(&tasks, 4), "by {host}");
        let answers: Vec<String> = (0..6).map(|_| cluster.outside().get_udp(host, 5353).unwrap()).collect();
        assert!(answers.iter().all(|answer| answer.ends_with(OUTSIDE)), "{host}: {answers:?}");
        assert_eq!(spread(answers.into_iter()), even(&tasks, 2), "UDP by {host}");
    }
    for from in &cluster.hosts {
        for target in ["10.99.0.1", "10.99.0.2", "10.99.0.3", "127.0.0.1"] {
            let answers = (0..6).map(|_| from.host.get(target, 8080).unwrap());
            assert_eq!(spread(answers), even(&tasks, 2), "to {target}");
            assert_eq!(spread((0..3).map(|_| from.host.get_udp(target, 5353).unwrap())), even(&tasks, 1));
        }
    }
    for (last, namespace) in &cluster.tasks {
        for target in ["10.99.0.1", "10.99.0.2", "10.99.0.3"] {
            let answers = (0..6).map(|_| namespace.get(target, 8080).unwrap());
            assert_eq!(spread(answers), even(&tasks, 2), "task {last} to {target}");
        }
    }
    // The hosts' network has the mesh's range and still works.
    assert!(cluster.host(1).host.pings("10.99.0.3") && cluster.host(1).host.pings(OUTSIDE));
}

/// A client's port is its own for each destination, so it may meet itself on the task's node.
#[tokio::test]
async fn one_port_of_a_client_leads_through_several_nodes_at_once() {
    let cluster = Cluster::start(3, &[task(12, 2)]).await;
    let entries = ["10.99.0.1", "10.99.0.3"];
    let mut streams: Vec<TcpStream> = Vec::new();
    for entry in entries {
        streams.push(cluster.outside().enter(|| connect_from(40_000, &format!("{entry}:9090"))));
    }
    for _ in 0..3 {
        for stream in &mut streams {
            stream.set_read_timeout(Some(std::time::Duration::from_secs(3))).unwrap();
            stream.write_all(b"x").unwrap();
            let mut answer = [0; 2];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"12");
        }
    }
    let socket = cluster.outside().enter(|| UdpSocket::bind("0.0.0.0:40000").unwrap());
    socket.set_read_timeout(Some(std::time::Duration::from_secs(3))).unwrap();
    for entry in entries.into_iter().cycle().take(6) {
        let target: SocketAddr = format!("{entry}:5353").parse().unwrap();
        socket.send_to(b"x", target).unwrap();
        let mut answer = [0; 100];
        let (length, from) = socket.recv_from(&mut answer).unwrap();
        assert_eq!((String::from_utf8_lossy(&answer[..length]).into_owned(), from), (format!("12 {OUTSIDE}"), target));
    }
}

/// A connection from a chosen port, which others of the same machine may use elsewhere.
fn connect_from(port: u16, target: &str) -> TcpStream {
    use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn, sockopt};
    use std::os::fd::AsRawFd;
    let SocketAddr::V4(target) = target.parse().unwrap() else { panic!("{target}") };
    let socket = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    socket::setsockopt(&socket, sockopt::ReuseAddr, &true).unwrap();
    socket::bind(socket.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, port)).unwrap();
    socket::connect(socket.as_raw_fd(), &SockaddrIn::from(target)).unwrap();
    TcpStream::from(socket)
}

#[tokio::test]
async fn long_transfers_pass_the_mesh_both_ways() {
    let cluster = Cluster::start(2, &[task(12, 2)]).await;
    let listener = cluster.tasks[&12].enter(|| std::net::TcpListener::bind("0.0.0.0:91").unwrap());
    // Port 90 echoes one byte at a time; here the stream itself matters.
    drop(listener);
    for entry in ["10.99.0.1", "127.0.0.1"] {
        let from = if entry == "127.0.0.1" { &cluster.host(1).host } else { cluster.outside() };
        let mut stream = from.enter(|| TcpStream::connect((entry, 9090)).unwrap());
        stream.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        const BYTES: usize = 200_000;
        let mut reader = stream.try_clone().unwrap();
        let writer = std::thread::spawn(move || stream.write_all(&vec![b'x'; BYTES]).map(|()| stream));
        let mut answer = vec![0; 2 * BYTES];
        reader.read_exact(&mut answer).unwrap();
        assert!(answer.chunks(2).all(|word| word == b"12"));
        writer.join().unwrap().unwrap();
    }
    let large = "10.99.0.1:5353".parse::<SocketAddr>().unwrap();
    let answer = cluster.outside().enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
        socket.send_to(&[0; 1400], large).unwrap();
        let mut buffer = [0; 100];
        let (length, _) = socket.recv_from(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    });
    assert_eq!(answer, format!("12 {OUTSIDE}"));
}

#[tokio::test]
async fn a_draining_task_keeps_what_it_has_and_serves_late_comers_from_other_nodes() {
    let live = [task(11, 1), task(12, 2)];
    let mut cluster = Cluster::start(3, &live).await;
    let mut open: Vec<TcpStream> =
        cluster.outside().enter(|| (0..2).map(|_| TcpStream::connect(("10.99.0.3", 9090)).unwrap()).collect());
    let socket = cluster.outside().enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let udp: SocketAddr = "10.99.0.3:5353".parse().unwrap();
    ask_udp(&socket, udp).unwrap();

    // The task's own node knows, the others do not yet.
    let draining = [task(11, 1), Task { draining: true, ..task(12, 2) }];
    cluster.generation += 1;
    cluster.tell_one(2, &draining).await;
    for _ in 0..8 {
        cluster.outside().get("10.99.0.3", 8080).unwrap();
    }
    let answers = spread((0..8).map(|_| cluster.outside().get("10.99.0.2", 8080).unwrap()));
    assert_eq!(answers, even(&live[..1], 8), "its own node gives it nothing new");
    // Now all know.
    cluster.tell(&draining).await;
    for node in ["10.99.0.1", "10.99.0.2", "10.99.0.3"] {
        let answers = spread((0..8).map(|_| cluster.outside().get(node, 8080).unwrap()));
        assert_eq!(answers, even(&live[..1], 8), "{node}");
    }
    let mut words = BTreeSet::new();
    for stream in &mut open {
        stream.set_read_timeout(Some(std::time::Duration::from_secs(3))).unwrap();
        stream.write_all(b"x").unwrap();
        let mut word = [0; 2];
        stream.read_exact(&mut word).unwrap();
        words.insert(word);
    }
    assert_eq!(words, BTreeSet::from([*b"11", *b"12"]), "open connections live on");
    // Gone: clients of UDP, which knows no end, go elsewhere.
    cluster.tell(&live[..1]).await;
    assert!(ask_udp(&socket, udp).unwrap().starts_with("11 "));
}

#[tokio::test]
async fn leaving_leaves_nothing_and_a_killed_netd_disturbs_nothing() {
    let mut hosts = Lab::several(2);
    let before: Vec<String> = hosts.iter().map(all_state).collect();
    for (number, host) in (1..).zip(&hosts) {
        host.client.set_cluster(state(1, number, 2, &[])).await.unwrap();
        host.assert_converged().await;
    }
    let first = &mut hosts[0];
    let working = all_state(first);
    let inside = first.run_in_namespace("1-overlaynet", "ip addr show br0");
    assert!(inside.contains("10.0.1.201/24") && inside.contains("10.0.1.1/24"), "{inside}");
    assert_eq!(first.run_in_namespace("lb_overlayne", "ip addr show br0"), inside);
    assert!(first.run_in_namespace("ingress_sbox", "nft list table inet skep").contains("mesh_stations"));
    assert!(working.contains("skep-ingress") && working.contains("79460"), "{working}");
    first.kill_netd();
    first.start_netd();
    first.wait_converged().await;
    assert_eq!(all_state(first), working);
    for (host, before) in hosts.iter().zip(before) {
        host.client.clear_cluster().await.unwrap();
        assert_eq!(all_state(host), before);
        assert!(!host.names_directory().exists());
        host.assert_converged().await;
    }
}

/// `5: eth0 ...` without the link's number.
fn without_number(line: &str) -> &str {
    match line.split_once(": ") {
        Some((number, rest)) if number.parse::<u32>().is_ok() => rest,
        _ => line,
    }
}

/// Rules and routing tables as well.
fn all_state(host: &Lab) -> String {
    let text = host.kernel_state()
        + &host.host.run(
            "ip rule; ip -4 route show table all | grep -v '^local\\|^broadcast'; \
             bridge fdb | grep dst; ip neigh show nud permanent",
        );
    // Links that were made again have other numbers.
    let mut lines: Vec<&str> = text.lines().map(without_number).collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[tokio::test]
async fn the_meshes_own_damage_is_repaired() {
    let tasks = [task(12, 2)];
    let cluster = Cluster::start(2, &tasks).await;
    let first = cluster.host(1);
    let before = all_state(first);
    for damage in [
        "ip rule del pref 981",
        "ip rule del pref 980",
        "ip route flush table 79460102",
        "ip link del skep-ingress",
        "ip addr del 198.18.0.101/16 dev skep-ingress",
        "ip neigh del 198.18.0.102 dev skep-ingress",
    ] {
        first.host.run(damage);
        wait_for(damage, || all_state(first) == before);
        first.wait_converged().await;
        assert_eq!(cluster.outside().get("10.99.0.1", 8080).unwrap(), format!("12 {OUTSIDE}"), "{damage}");
    }
}
