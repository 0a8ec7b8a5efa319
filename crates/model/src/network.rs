//! Networks and ports as users speak of them.

use crate::error::{Error, Result};
use crate::id::{ContainerId, EndpointId, NetworkId};
use crate::time::Timestamp;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl FromStr for Protocol {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "" | "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(Error::invalid(format!("invalid proto: {text}"))),
        }
    }
}

/// A container port, written `80/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortKey {
    pub port: u16,
    pub protocol: Protocol,
}

impl fmt::Display for PortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol.as_str())
    }
}

impl FromStr for PortKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let port = port.parse().map_err(|_| Error::invalid(format!("invalid port specification: \"{text}\"")))?;
        Ok(Self { port, protocol: protocol.parse()? })
    }
}

impl TryFrom<String> for PortKey {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<PortKey> for String {
    fn from(key: PortKey) -> Self {
        key.to_string()
    }
}

/// Where on the host a container port is published.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PortBinding {
    /// `None` is every address.
    pub host_ip: Option<IpAddr>,
    /// 0 lets the engine choose.
    pub host_port: u16,
    /// Last port of a range to choose from; 0 when a single port was given.
    pub host_port_end: u16,
}

/// One address range of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamConfig {
    pub subnet: Option<IpNet>,
    pub ip_range: Option<IpNet>,
    pub gateway: Option<IpAddr>,
    /// Name to reserved address.
    #[serde(default)]
    pub aux_addresses: BTreeMap<String, IpAddr>,
}

/// What the user wants of a network, local or of the swarm.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkSpec {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// `bridge`, `overlay`, ...
    pub driver: String,
    pub options: BTreeMap<String, String>,
    pub internal: bool,
    pub attachable: bool,
    pub ingress: bool,
    pub enable_ipv6: bool,
    pub ipam_driver: String,
    pub ipam_options: BTreeMap<String, String>,
    pub ipam: Vec<IpamConfig>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkScope {
    #[default]
    Local,
    Swarm,
}

/// A network on this machine, as `inspect` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkInfo {
    pub id: NetworkId,
    pub created: Timestamp,
    pub scope: NetworkScope,
    /// With the addresses that were chosen filled in.
    pub spec: NetworkSpec,
    /// Kernel name of the bridge, empty where there is none.
    pub bridge: String,
    /// VXLAN identifier of an overlay, else 0.
    pub vni: u32,
    /// Legs of the containers that run on it.
    pub containers: BTreeMap<ContainerId, NetworkContainer>,
    /// This node's own leg on a network of the swarm, where its balancer answers.
    pub balancer: Option<NetworkContainer>,
    /// Nodes that take part in a network of the swarm, by their data-path address.
    pub peers: Vec<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkContainer {
    pub name: String,
    pub endpoint_id: EndpointId,
    pub mac_address: String,
    pub ipv4: Option<IpNet>,
    pub ipv6: Option<IpNet>,
}

/// The locally administered MAC address Docker derives from an IPv4 address.
pub fn mac_of(address: IpAddr) -> [u8; 6] {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [0x02, 0x42, a, b, c, d]
        }
        IpAddr::V6(v6) => {
            let o = v6.octets();
            [0x02, 0x42, o[12], o[13], o[14], o[15]]
        }
    }
}

/// `02:42:ac:11:00:02`
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_keys_round_trip() {
        let key: PortKey = "53/udp".parse().unwrap();
        assert_eq!(key.to_string(), "53/udp");
        assert_eq!("80".parse::<PortKey>().unwrap().to_string(), "80/tcp");
        assert!("x/tcp".parse::<PortKey>().is_err());
        assert!("80/icmp".parse::<PortKey>().is_err());
    }
}
