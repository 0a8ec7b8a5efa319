//! What founding, joining and leaving a swarm ask of a node, and the texts that clients of
//! the reference know.

use ipnet::IpNet;
use skep_api::backend::InitRequest;
use skep_manager::Control;
use skep_model::{Error, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

const SUBNET_SIZE_MAX: u8 = 29;
/// Of subnets that are taken from the pools.
const SUBNET_SIZE_DEFAULT: u8 = 24;
const DATA_PATH_PORTS: std::ops::RangeInclusive<u16> = 1024..=49151;
const NOT_A_MANAGER: &str = "This node is not a swarm manager.";
pub(crate) const ALREADY_MEMBER: &str = "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm \
     and join another one.";
pub(crate) const NO_MEMBER: &str = "This node is not part of a swarm";
pub(crate) const JOIN_TIMEOUT: &str = "Timeout was reached before node joined. The attempt to join the swarm will continue in \
     the background. Use the \"docker info\" command to see the current swarm status of your node.";
const LEAVING_MANAGER: &str = "You are attempting to leave the swarm on a node that is participating as a manager. ";

pub(crate) const LOCKED: &str = "Swarm is encrypted and needs to be unlocked before it can be used. Please use \
     \"docker swarm unlock\" to unlock it.";
pub(crate) const LEAVING_LOCKED: &str = "Swarm is encrypted and locked. Please unlock it first or use `--force` to \
     ignore this message.";

/// A node that is in no swarm was asked for one.
pub(crate) fn outside() -> Error {
    Error::unavailable(format!(
        "{NOT_A_MANAGER} Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again."
    ))
}

/// A worker was asked for what only managers know.
pub(crate) fn worker() -> Error {
    Error::unavailable(format!(
        "{NOT_A_MANAGER} Worker nodes can't be used to view or modify cluster state. Please run this command on a \
         manager node or promote the current node to a manager."
    ))
}

pub(crate) fn not_ready() -> Error {
    Error::unavailable(format!("{NOT_A_MANAGER} Manager is being prepared or has trouble connecting to the cluster."))
}

/// A manager leaves only with `--force`.
pub(crate) fn check_leave(control: Option<Control>) -> Result<()> {
    let reinitialize = "The only way to restore a swarm that has lost consensus is to reinitialize it with \
                        `--force-new-cluster`. Use `--force` to suppress this message.";
    let Some(control) = control else {
        return Err(Error::unavailable(format!(
            "{LEAVING_MANAGER}Doing so may lose the consensus of your cluster. {reinitialize}"
        )));
    };
    let reachable = |node: &skep_model::node::Node| node.manager_status.as_ref().map(|status| status.reachable);
    let managers: Vec<bool> = control.nodes().iter().filter_map(|node| reachable(node)).collect();
    let (total, up) = (managers.len(), managers.iter().filter(|up| **up).count());
    if total <= 1 {
        return Err(Error::unavailable(format!(
            "{LEAVING_MANAGER}Removing the last manager erases all current state of the swarm. Use `--force` to \
             ignore this message. "
        )));
    }
    let left = up.saturating_sub(1);
    let quorum = if left < total / 2 + 1 {
        format!(
            "Removing this node leaves {left} managers out of {total}. Without a Raft quorum your swarm will be \
             inaccessible. "
        )
    } else {
        String::new()
    };
    Err(Error::unavailable(format!("{LEAVING_MANAGER}{quorum}{reinitialize}")))
}

pub(crate) fn check_init(request: &InitRequest) -> Result<()> {
    if request.subnet_size > SUBNET_SIZE_MAX {
        return Err(Error::invalid(format!("subnet size is out of range: {}", request.subnet_size)));
    }
    let port = request.data_path_port;
    if port != 0 && !DATA_PATH_PORTS.contains(&port) {
        return Err(Error::invalid(format!("VXLAN UDP port number is not in valid range (1024-49151): {port}")));
    }
    let pools = &request.default_addr_pool;
    let subnet_size = if request.subnet_size == 0 { SUBNET_SIZE_DEFAULT } else { request.subnet_size };
    for (position, pool) in pools.iter().enumerate() {
        if pool.addr().is_ipv6() {
            return Err(Error::not_implemented(format!("IPv6 address pools are not supported yet: {pool}")));
        }
        if pool.prefix_len() > subnet_size {
            return Err(Error::invalid(format!(
                "default address pool {pool} is too small for a subnet of size {subnet_size}"
            )));
        }
        let overlaps = |other: &&IpNet| other.contains(pool) || pool.contains(*other);
        if let Some(other) = pools[..position].iter().find(overlaps) {
            return Err(Error::invalid(format!("default address pools {other} and {pool} overlap")));
        }
    }
    Ok(())
}

/// Where the agent of this node reaches the manager of this node.
pub(crate) fn own_listener(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// The address that packets to `manager` leave from. Connecting a UDP socket sends nothing.
pub(crate) fn source_address_towards(manager: &str) -> Option<IpAddr> {
    let manager: SocketAddr = manager.parse().ok()?;
    let any = if manager.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(manager).ok()?;
    let source = socket.local_addr().ok()?.ip();
    (!source.is_unspecified()).then_some(source)
}

/// `host` of `host:port`.
pub(crate) fn host_of(address: &str) -> String {
    address.parse::<SocketAddr>().map_or_else(|_| address.to_owned(), |address| address.ip().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_reaches_its_own_manager() {
        let check = |listen: &str, expect: &str| {
            assert_eq!(own_listener(listen.parse().unwrap()).to_string(), expect);
        };
        check("0.0.0.0:2377", "127.0.0.1:2377");
        check("[::]:2377", "[::1]:2377");
        check("10.0.0.1:2377", "10.0.0.1:2377");
    }

    #[test]
    fn the_way_to_loopback_starts_at_loopback() {
        assert_eq!(source_address_towards("127.0.0.1:2377"), Some(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        assert_eq!(source_address_towards("not an address"), None);
    }

    #[test]
    fn init_requests_are_checked() {
        let check = |request: InitRequest, expect: &str| {
            assert_eq!(check_init(&request).unwrap_err().message, expect);
        };
        check_init(&InitRequest::default()).unwrap();
        check(InitRequest { subnet_size: 30, ..InitRequest::default() }, "subnet size is out of range: 30");
        check(
            InitRequest { data_path_port: 80, ..InitRequest::default() },
            "VXLAN UDP port number is not in valid range (1024-49151): 80",
        );
        let pools = ["10.0.0.0/8", "10.1.0.0/16"].map(|text| text.parse().unwrap()).to_vec();
        check(
            InitRequest { default_addr_pool: pools, ..InitRequest::default() },
            "default address pools 10.0.0.0/8 and 10.1.0.0/16 overlap",
        );
        let pools = vec!["10.0.0.0/25".parse().unwrap()];
        check(
            InitRequest { default_addr_pool: pools.clone(), ..InitRequest::default() },
            "default address pool 10.0.0.0/25 is too small for a subnet of size 24",
        );
        check_init(&InitRequest { default_addr_pool: pools, subnet_size: 26, ..InitRequest::default() }).unwrap();
        let pools = vec!["fd00::/48".parse().unwrap()];
        check(
            InitRequest { default_addr_pool: pools, ..InitRequest::default() },
            "IPv6 address pools are not supported yet: fd00::/48",
        );
    }
}
