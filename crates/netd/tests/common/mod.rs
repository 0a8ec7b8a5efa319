//! A laboratory in network namespaces: an outside machine, a host on which netd runs
//! as a process of its own, and containers. Everything ends with the value.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test helper, each test uses a part"
)]

pub mod swarm;

use skep_model::id::{ContainerId, EndpointId, NetworkId};
use skep_model::netstate::{
    AttachRequest, DesiredEndpoint, DesiredNetwork, DesiredPort, NetworkKind, ResolverConfig, Subnet,
};
use skep_model::network::{Protocol, mac_of};
use skep_netd::client::NetdClient;
use skep_netd::{BalancerChoice, NetdConfig};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longer than a retransmission of the first segment, so that one may be lost.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);
const WAIT_MAX: Duration = Duration::from_secs(20);
const STATE_VARIABLE: &str = "SKEP_TEST_NETD_DIRECTORY";

pub const OUTSIDE: &str = "10.99.0.254";
pub const HOST: &str = "10.99.0.1";

/// A network namespace kept by a sleeping process.
pub struct Namespace {
    process: Child,
}

impl Namespace {
    pub fn new() -> Self {
        let process = Command::new("unshare")
            .args(["--net", "--kill-child", "sleep", "1000"])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare is part of every Debian");
        let namespace = Self { process };
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        wait_for("a namespace", || std::fs::read_link(namespace.path()).is_ok_and(|path| path != own));
        namespace
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.pid()))
    }

    /// Runs a program inside and returns what it printed.
    pub fn run(&self, line: &str) -> String {
        let (output, ok) = self.try_run(line);
        assert!(ok, "{line}: {output}");
        output
    }

    pub fn try_run(&self, line: &str) -> (String, bool) {
        let output = Command::new("nsenter")
            .arg(format!("--net={}", self.path().display()))
            .args(["sh", "-c", line])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (text, output.status.success())
    }

    /// Runs code on a thread inside.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(self.path()).unwrap();
        std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                    work()
                })
                .join()
                .unwrap()
        })
    }

    /// A TCP server that answers each connection with a word and the client's address.
    pub fn serve_tcp(&self, port: u16, word: &str) {
        let listener = self.enter(|| TcpListener::bind(("0.0.0.0", port)).unwrap());
        let word = word.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let client = stream.peer_addr().map(|address| address.ip().to_string()).unwrap_or_default();
                let _ = stream.write_all(format!("{word} {client}").as_bytes());
                let _ = stream.shutdown(Shutdown::Write);
            }
        });
    }

    /// A TCP server that answers every byte with a word, as long as the client wants.
    pub fn serve_tcp_echo(&self, port: u16, word: &str) {
        let listener = self.enter(|| TcpListener::bind(("0.0.0.0", port)).unwrap());
        let word = word.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let word = word.clone();
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).is_ok() && stream.write_all(word.as_bytes()).is_ok() {}
                });
            }
        });
    }

    pub fn serve_udp(&self, port: u16, word: &str) {
        let socket = self.enter(|| UdpSocket::bind(("0.0.0.0", port)).unwrap());
        let word = word.to_owned();
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((_, client)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(format!("{word} {}", client.ip()).as_bytes(), client);
            }
        });
    }

    /// What a TCP server says.
    pub fn get(&self, address: &str, port: u16) -> io::Result<String> {
        let address: IpAddr = address.parse().unwrap();
        self.enter(|| {
            let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), CONNECT_TIMEOUT)?;
            stream.set_read_timeout(Some(Duration::from_secs(3)))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })
    }

    /// Whether an address answers an ICMP echo.
    pub fn pings(&self, address: &str) -> bool {
        use nix::sys::socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt, socket,
            sockopt,
        };
        use nix::sys::time::{TimeVal, TimeValLike};
        use std::os::fd::AsRawFd;
        // Type 8, code 0, checksum, identifier 0, sequence 1.
        const ECHO: [u8; 8] = [8, 0, 0xf7, 0xfe, 0, 0, 0, 1];
        let target = SockaddrIn::from(std::net::SocketAddrV4::new(address.parse().unwrap(), 0));
        self.enter(|| {
            let fd = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), Some(SockProtocol::Icmp)).unwrap();
            setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(2)).unwrap();
            sendto(fd.as_raw_fd(), &ECHO, &target, MsgFlags::empty()).unwrap();
            let mut buffer = [0; 256];
            while let Ok(length) = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                // Behind the IP header; 0 is an echo's reply.
                if length >= 28 && buffer[20] == 0 && buffer[12..16] == target.ip().octets() {
                    return true;
                }
            }
            false
        })
    }

    pub fn get_udp(&self, address: &str, port: u16) -> io::Result<String> {
        let address: IpAddr = address.parse().unwrap();
        self.enter(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            ask_udp(&socket, SocketAddr::new(address, port))
        })
    }
}

pub fn ask_udp(socket: &UdpSocket, address: SocketAddr) -> io::Result<String> {
    socket.set_read_timeout(Some(Duration::from_millis(1500)))?;
    socket.send_to(b"hello", address)?;
    let mut buffer = [0; 2048];
    let (length, _) = socket.recv_from(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A machine that is also the switch between hosts.
fn switch() -> Namespace {
    let outside = Namespace::new();
    outside.run(&format!(
        "ip link set lo up; ip link add p1 type bridge stp_state 0 forward_delay 0; \
         ip addr add {OUTSIDE}/24 dev p1; ip link set p1 up"
    ));
    outside
}

/// A host with netd, and an outside machine one hop away.
pub struct Lab {
    pub outside: Arc<Namespace>,
    pub host: Namespace,
    pub client: NetdClient,
    directory: PathBuf,
    netd: Option<Child>,
}

impl Lab {
    pub fn new() -> Self {
        Self::beside(Arc::new(switch()), 1)
    }

    /// Several hosts at one switch, `10.99.0.1` and on.
    pub fn several(count: u8) -> Vec<Self> {
        let outside = Arc::new(switch());
        (1..=count).map(|number| Self::beside(outside.clone(), number)).collect()
    }

    fn beside(outside: Arc<Namespace>, number: u8) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let serial = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("skep-netd-test-{}-{serial}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let host = Namespace::new();
        outside.run(&format!(
            "ip link add h{number} type veth peer name eth0 netns {}; ip link set h{number} master p1 up",
            host.pid()
        ));
        host.run(&format!(
            "ip link set lo up; ip addr add 10.99.0.{number}/24 dev eth0; ip link set eth0 up; \
             ip route add default via {OUTSIDE}"
        ));
        let client = NetdClient::new(&directory.join("netd.sock"));
        let mut lab = Self { outside, host, client, directory, netd: None };
        lab.start_netd();
        lab
    }

    pub fn names_directory(&self) -> PathBuf {
        self.directory.join("netns")
    }

    /// Runs a program in an overlay's namespace and returns what it printed.
    pub fn run_in_overlay(&self, id: &NetworkId, line: &str) -> String {
        Self::run_in(&self.directory.join("overlays").join(id.as_str()), line)
    }

    /// Runs a program in a namespace by its name.
    pub fn run_in_namespace(&self, name: &str, line: &str) -> String {
        Self::run_in(&self.names_directory().join(name), line)
    }

    fn run_in(path: &Path, line: &str) -> String {
        let output =
            Command::new("nsenter").arg(format!("--net={}", path.display())).args(["sh", "-c", line]).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn start_netd(&mut self) {
        let child = Command::new("nsenter")
            .arg(format!("--net={}", self.host.path().display()))
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "netd_process", "--ignored", "--nocapture", "--test-threads=1"])
            .env(STATE_VARIABLE, &self.directory)
            .stdin(Stdio::null())
            .stdout(File::create(self.directory.join("netd.out")).unwrap())
            .stderr(File::options().create(true).append(true).open(self.log_path()).unwrap())
            .spawn()
            .unwrap();
        self.netd = Some(child);
    }

    pub fn netd_pid(&self) -> u32 {
        self.netd.as_ref().map(Child::id).unwrap()
    }

    /// Processor time that netd has used, in milliseconds.
    pub fn netd_cpu_ms(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.netd_pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        // In hundredths of a second, user and system.
        (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10
    }

    /// Proportional memory of netd, as the kernel prints it.
    pub fn netd_memory(&self) -> String {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.netd_pid())).unwrap();
        rollup.lines().find(|line| line.starts_with("Pss:")).unwrap().to_owned()
    }

    /// Kills netd as a crash would.
    pub fn kill_netd(&mut self) {
        if let Some(mut netd) = self.netd.take() {
            netd.kill().unwrap();
            netd.wait().unwrap();
        }
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("netd.log")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// All kernel state of the host that a restart could disturb, without counters and ages.
    pub fn kernel_state(&self) -> String {
        self.host.run("nft -a list ruleset; ip -br link | awk '{print $1, $3}'; ip -o addr show scope global; ip route | sed 's/ linkdown//'")
    }

    pub async fn assert_converged(&self) {
        assert_eq!(self.client.verify().await.unwrap(), Vec::<String>::new());
        assert_eq!(self.client.status().await.unwrap().failing, Vec::<String>::new());
    }

    pub fn overlay_namespaces(&self) -> usize {
        std::fs::read_dir(self.directory.join("overlays")).map_or(0, Iterator::count)
    }

    pub async fn wait_not_failing(&self) {
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            let failing = self.client.status().await.unwrap().failing;
            if failing.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "still failing: {failing:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn wait_converged(&self) {
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            let lines = self.client.verify().await.unwrap();
            if lines.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "still different: {lines:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of netd\n{}", self.log());
            eprintln!(
                "--- output of netd\n{}",
                std::fs::read_to_string(self.directory.join("netd.out")).unwrap_or_default()
            );
            eprintln!("--- host\n{}", self.host.try_run("nft list ruleset; ip -d addr; ip route").0);
        }
        if let Some(mut netd) = self.netd.take() {
            let _ = netd.kill();
            let _ = netd.wait();
        }
        for folder in ["netns", "overlays"] {
            for entry in std::fs::read_dir(self.directory.join(folder)).into_iter().flatten().flatten() {
                let _ = nix::mount::umount2(&entry.path(), nix::mount::MntFlags::MNT_DETACH);
            }
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The body of the `netd_process` test, which is netd when a [`Lab`] starts it.
pub fn netd_process() {
    let Some(directory) = std::env::var_os(STATE_VARIABLE) else { return };
    let directory = PathBuf::from(directory);
    tracing_to_stderr();
    let config =
        NetdConfig { socket: directory.join("netd.sock"), state: directory.join("netd.state"), balancer: balancer() };
    skep_netd::main(config).unwrap();
}

/// The tests hold for each balancer; this variable chooses one.
pub fn balancer() -> BalancerChoice {
    std::env::var("SKEP_TEST_BALANCER").map_or(BalancerChoice::Nftables, |name| name.parse().unwrap())
}

fn tracing_to_stderr() {
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).init();
}

pub fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + WAIT_MAX;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn network_id(number: u8) -> NetworkId {
    NetworkId(format!("{number:064x}"))
}

/// Bridge network `number` with the subnet `172.30.<number>.0/24`.
pub fn bridge_network(number: u8) -> DesiredNetwork {
    DesiredNetwork {
        id: network_id(number),
        name: format!("net{number}"),
        kind: NetworkKind::Bridge { bridge: format!("br-{number}"), inter_container: true, masquerade: true },
        subnets: vec![Subnet {
            net: format!("172.30.{number}.0/24").parse().unwrap(),
            gateway: Some(format!("172.30.{number}.1").parse().unwrap()),
        }],
        internal: false,
        mtu: 0,
        dns: true,
    }
}

/// A leg of container `last` on a bridge network.
pub fn endpoint(network: u8, last: u8, namespace: &Path) -> DesiredEndpoint {
    let address: IpAddr = format!("172.30.{network}.{last}").parse().unwrap();
    DesiredEndpoint {
        id: EndpointId(format!("{network:032x}{last:032x}")),
        network: network_id(network),
        container: ContainerId(format!("{last:02x}{:062x}", 0)),
        netns: namespace.to_owned(),
        interface: "eth0".into(),
        addresses: vec![format!("{address}/24").parse().unwrap()],
        mac: mac_of(address),
        default_route: true,
        dns_names: vec![format!("c{last}")],
        ports: Vec::new(),
        sysctls: BTreeMap::new(),
    }
}

pub fn port(host_ip: Option<&str>, host_port: u16, container_port: u16, protocol: Protocol) -> DesiredPort {
    DesiredPort { host_ip: host_ip.map(|ip| ip.parse().unwrap()), host_port, container_port, protocol }
}

pub fn attach(endpoints: Vec<DesiredEndpoint>) -> AttachRequest {
    AttachRequest { endpoints, resolver: Some(ResolverConfig::default()) }
}
