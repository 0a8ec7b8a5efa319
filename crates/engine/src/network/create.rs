//! `network create`, `rm`, and the networks made without being asked for.

use crate::container::inner::{Inner, new_id};
use crate::container::shim::now;
use crate::network::{
    GATEWAY_NETWORK, OPTION_BRIDGE_NAME, OPTION_INTER_CONTAINER, OPTION_MASQUERADE, OPTION_MTU, PREDEFINED, State,
    desired, ipam,
};
use ipnet::IpNet;
use skep_model::id::NetworkId;
use skep_model::network::{IpamConfig, NetworkInfo, NetworkScope, NetworkSpec};
use skep_model::{Error, Result, validate};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Kernel names of interfaces are at most this long.
const INTERFACE_NAME_LENGTH_MAX: usize = 15;
/// Digits of the id in a bridge's name.
const BRIDGE_ID_LENGTH: usize = 12;

impl Inner {
    pub(crate) async fn network_create(self: &Arc<Self>, spec: NetworkSpec) -> Result<NetworkId> {
        let spec = check(spec)?;
        let routes = host_routes();
        let id = NetworkId(new_id());
        let info = {
            let mut state = self.networks.lock();
            let info = complete(spec, id.clone(), &state, &routes)?;
            state.insert(info.clone());
            if let Err(error) = self.networks.save(&state) {
                state.remove(&id);
                return Err(error);
            }
            info
        };
        if let Some(network) = desired(&info)
            && let Err(error) = self.attach.put_network(network).await
        {
            self.forget_network(&id)?;
            return Err(error);
        }
        self.emit_object("network", "create", &id.0, &[("name", &info.spec.name), ("type", &info.spec.driver)]);
        Ok(id)
    }

    fn forget_network(&self, id: &NetworkId) -> Result<()> {
        let mut state = self.networks.lock();
        state.remove(id);
        self.networks.save(&state)
    }

    pub(crate) async fn network_remove(self: &Arc<Self>, name: &str) -> Result<()> {
        let info = self.networks.find(name)?;
        if PREDEFINED.contains(&info.spec.name.as_str()) {
            return Err(Error::forbidden(format!("{name} is a pre-defined network and cannot be removed")));
        }
        {
            let mut state = self.networks.lock();
            // Looked at again under the lock: a container may have come meanwhile.
            if state.legs.get(&info.id).is_some_and(|legs| !legs.is_empty()) {
                return Err(Error::forbidden(format!(
                    "error while removing network: network {} id {} has active endpoints",
                    info.spec.name, info.id
                )));
            }
            state.remove(&info.id);
            self.networks.save(&state)?;
        }
        if desired(&info).is_some() {
            self.attach.remove_network(&info.id).await?;
        }
        self.emit_object("network", "destroy", &info.id.0, &[("name", &info.spec.name), ("type", &info.spec.driver)]);
        Ok(())
    }

    pub(crate) fn network_adopt(&self, info: NetworkInfo) -> Result<()> {
        let mut state = self.networks.lock();
        let clash = state.records.values().find(|record| record.spec.name == info.spec.name && record.id != info.id);
        if let Some(other) = clash {
            return Err(Error::conflict(format!(
                "network with name {} already exists (id {})",
                info.spec.name, other.id
            )));
        }
        let known = state.records.get(&info.id).is_some_and(|record| record.spec.ipam == info.spec.ipam);
        if known {
            // Keep what is in use of its pools.
            state.records.insert(info.id.clone(), info);
        } else {
            state.insert(info);
        }
        Ok(())
    }

    pub(crate) async fn gateway_network(self: &Arc<Self>) -> Result<NetworkInfo> {
        if let Ok(info) = self.networks.find(GATEWAY_NETWORK) {
            return Ok(info);
        }
        let options =
            [(OPTION_BRIDGE_NAME, GATEWAY_NETWORK), (OPTION_INTER_CONTAINER, "false"), (OPTION_MASQUERADE, "true")];
        let spec = NetworkSpec {
            name: GATEWAY_NETWORK.into(),
            driver: "bridge".into(),
            options: options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            // Published ports lead here, and clients come over both.
            enable_ipv6: kernel_has_ipv6(),
            ..NetworkSpec::default()
        };
        match self.network_create(spec).await {
            Ok(_) => {}
            // Somebody else was faster.
            Err(error) if error.kind == skep_model::ErrorKind::Conflict => {}
            Err(error) => return Err(error),
        }
        self.networks.find(GATEWAY_NETWORK)
    }
}

/// From the smallest packet that every IPv4 host takes to the largest that there is.
const MTU_RANGE: std::ops::RangeInclusive<u32> = 68..=65_535;
/// On a link that takes less the kernel has no IPv6.
const MTU_MIN_IPV6: u32 = 1280;

fn check(mut spec: NetworkSpec) -> Result<NetworkSpec> {
    if spec.name.trim().is_empty() {
        return Err(Error::invalid("network name cannot be empty"));
    }
    if PREDEFINED.contains(&spec.name.as_str()) {
        return Err(Error::forbidden(format!("operation is not permitted on predefined {} network ", spec.name)));
    }
    validate::object_name("network", &spec.name)?;
    match spec.driver.as_str() {
        "" | "bridge" => spec.driver = "bridge".into(),
        "host" | "null" => {
            return Err(Error::forbidden(format!("only one instance of \"{}\" network is allowed", spec.driver)));
        }
        "macvlan" | "ipvlan" => {
            return Err(Error::not_implemented(format!("network driver \"{}\" is not supported yet", spec.driver)));
        }
        other => return Err(Error::not_found(format!("plugin \"{other}\" not found"))),
    }
    if !matches!(spec.ipam_driver.as_str(), "" | "default") {
        return Err(Error::not_found(format!("plugin \"{}\" not found", spec.ipam_driver)));
    }
    spec.ipam_driver = "default".into();
    for config in &spec.ipam {
        check_ipam(config)?;
        if let Some(subnet) = config.subnet.filter(|subnet| subnet.addr().is_ipv6() && !spec.enable_ipv6) {
            return Err(Error::invalid(format!(
                "invalid network config:\ninvalid subnet {subnet}: IPv6 is not enabled for the network"
            )));
        }
    }
    let (low, high) = (if spec.enable_ipv6 { MTU_MIN_IPV6 } else { *MTU_RANGE.start() }, *MTU_RANGE.end());
    let is_mtu = |text: &String| text.parse::<u32>().is_ok_and(|mtu| mtu == 0 || (low..=high).contains(&mtu));
    if let Some(text) = spec.options.get(OPTION_MTU).filter(|text| !is_mtu(text)) {
        return Err(Error::invalid(format!("invalid MTU \"{text}\": it must be between {low} and {high}")));
    }
    Ok(spec)
}

fn check_ipam(config: &IpamConfig) -> Result<()> {
    let Some(subnet) = config.subnet else {
        let gateway = config.gateway.map(|address| address.to_string()).unwrap_or_default();
        return Err(Error::invalid(format!("no matching subnet for gateway {gateway}")));
    };
    if subnet.trunc() != subnet {
        return Err(Error::invalid(format!(
            "invalid network config:\ninvalid subnet {subnet}: it should be {}",
            subnet.trunc()
        )));
    }
    if let Some(range) = config.ip_range
        && !subnet.contains(&range)
    {
        return Err(Error::invalid(format!("no matching subnet for range {range}")));
    }
    let inside = config.gateway.into_iter().chain(config.aux_addresses.values().copied());
    for address in inside {
        if !subnet.contains(&address) {
            return Err(Error::invalid(format!("no matching subnet for gateway {address}")));
        }
    }
    Ok(())
}

/// Fills in what was left open: subnet, gateway, bridge.
fn complete(mut spec: NetworkSpec, id: NetworkId, state: &State, routes: &[IpNet]) -> Result<NetworkInfo> {
    if state.records.values().any(|record| record.spec.name == spec.name) {
        return Err(Error::conflict(format!("network with name {} already exists", spec.name)));
    }
    let taken = state.subnets();
    for config in &mut spec.ipam {
        let Some(subnet) = config.subnet else { continue };
        if let Some(other) = taken.iter().find(|other| ipam::overlaps(subnet, **other)) {
            return Err(Error::forbidden(format!(
                "Pool overlaps with other one on this address space: {subnet} with {other}"
            )));
        }
        config.gateway = config.gateway.or_else(|| Some(ipam::default_gateway(subnet)));
    }
    if !spec.ipam.iter().any(|config| matches!(config.subnet, Some(IpNet::V4(_)))) {
        let mut avoid = taken;
        avoid.extend_from_slice(routes);
        let subnet = ipam::choose_subnet(&avoid).ok_or_else(|| {
            Error::internal("could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network")
        })?;
        spec.ipam.insert(0, open_config(subnet));
    }
    if spec.enable_ipv6 && !spec.ipam.iter().any(|config| matches!(config.subnet, Some(IpNet::V6(_)))) {
        spec.ipam.push(open_config(local_ipv6(&id)));
    }
    let bridge = match spec.options.get(OPTION_BRIDGE_NAME) {
        Some(name) if name.is_empty() || name.len() > INTERFACE_NAME_LENGTH_MAX || name.contains('/') => {
            return Err(Error::invalid(format!("invalid bridge name: {name}")));
        }
        Some(name) => name.clone(),
        None => format!("br-{}", &id.0[..BRIDGE_ID_LENGTH]),
    };
    if state.records.values().any(|record| record.bridge == bridge) {
        return Err(Error::forbidden(format!("networks have same bridge name: {bridge}")));
    }
    Ok(NetworkInfo {
        id,
        created: now(),
        scope: NetworkScope::Local,
        spec,
        bridge,
        vni: 0,
        containers: BTreeMap::new(),
        ..NetworkInfo::default()
    })
}

fn open_config(subnet: IpNet) -> IpamConfig {
    let gateway = Some(ipam::default_gateway(subnet));
    IpamConfig { subnet: Some(subnet), ip_range: None, gateway, aux_addresses: BTreeMap::new() }
}

/// A unique local /64 made of the network's random id.
fn local_ipv6(id: &NetworkId) -> IpNet {
    let digits = u64::from_str_radix(&id.0[..14], 16).unwrap_or_default();
    let address = std::net::Ipv6Addr::from((0xfd00_0000_0000_0000_u128 | u128::from(digits)) << 64);
    IpNet::from(ipnet::Ipv6Net::new_assert(address, 64))
}

/// Whether new links of this host have IPv6.
fn kernel_has_ipv6() -> bool {
    let disabled = |which: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"));
    ["all", "default"].into_iter().all(|which| disabled(which).is_ok_and(|text| text.trim() == "0"))
}

fn host_routes() -> Vec<IpNet> {
    ipam::parse_routes(&std::fs::read_to_string("/proc/net/route").unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(subnet: &str, gateway: Option<&str>) -> IpamConfig {
        IpamConfig {
            subnet: subnet.parse().ok(),
            ip_range: None,
            gateway: gateway.map(|text| text.parse().unwrap()),
            aux_addresses: BTreeMap::new(),
        }
    }

    fn spec(name: &str, ipam: Vec<IpamConfig>) -> NetworkSpec {
        NetworkSpec { name: name.into(), ipam, ..Default::default() }
    }

    fn make(state: &mut State, spec: NetworkSpec) -> Result<NetworkInfo> {
        let info = complete(check(spec)?, NetworkId(new_id()), state, &[])?;
        state.insert(info.clone());
        Ok(info)
    }

    #[test]
    fn networks_get_a_subnet_a_gateway_and_a_bridge() {
        let mut state = State::default();
        let first = make(&mut state, spec("one", vec![])).unwrap();
        assert_eq!(first.spec.ipam[0].subnet.unwrap().to_string(), "172.18.0.0/16");
        assert_eq!(first.spec.ipam[0].gateway.unwrap().to_string(), "172.18.0.1");
        assert_eq!(first.bridge, format!("br-{}", &first.id.0[..12]));
        let second = make(&mut state, spec("two", vec![])).unwrap();
        assert_eq!(second.spec.ipam[0].subnet.unwrap().to_string(), "172.19.0.0/16");
    }

    #[test]
    fn a_network_with_ipv6_has_a_subnet_of_each_family() {
        let mut state = State::default();
        let dual = |name: &str, ipam| NetworkSpec { enable_ipv6: true, ..spec(name, ipam) };
        let own = make(&mut state, dual("own", vec![config("fd00:9::/64", None)])).unwrap();
        let subnets: Vec<String> = own.spec.ipam.iter().map(|c| c.subnet.unwrap().to_string()).collect();
        assert_eq!(subnets, ["172.18.0.0/16", "fd00:9::/64"]);
        assert_eq!(own.spec.ipam[1].gateway.unwrap().to_string(), "fd00:9::1");
        let chosen = make(&mut state, dual("chosen", vec![])).unwrap();
        assert!(chosen.spec.ipam[1].subnet.unwrap().to_string().starts_with("fd"), "{:?}", chosen.spec.ipam);
        let error = make(&mut state, dual("clash", vec![config("fd00:9::/80", None)])).unwrap_err().message;
        assert_eq!(error, "Pool overlaps with other one on this address space: fd00:9::/80 with fd00:9::/64");
        let mut small = dual("small", vec![]);
        small.options.insert(OPTION_MTU.into(), "1279".into());
        let error = make(&mut state, small).unwrap_err().message;
        assert_eq!(error, "invalid MTU \"1279\": it must be between 1280 and 65535");
    }

    #[test]
    fn clashes_are_refused_in_docker_words() {
        let mut state = State::default();
        make(&mut state, spec("one", vec![config("10.9.0.0/24", None)])).unwrap();
        let mut check = |spec, text: &str| assert_eq!(make(&mut state, spec).unwrap_err().message, text);
        check(spec("one", vec![]), "network with name one already exists");
        let text = "Pool overlaps with other one on this address space: 10.9.0.128/25 with 10.9.0.0/24";
        check(spec("two", vec![config("10.9.0.128/25", None)]), text);
        let text = "invalid network config:\ninvalid subnet fd00:9::/64: IPv6 is not enabled for the network";
        check(spec("two", vec![config("fd00:9::/64", None)]), text);
        check(spec("two", vec![config("10.8.0.0/24", Some("10.7.0.1"))]), "no matching subnet for gateway 10.7.0.1");
        check(spec("bridge", vec![]), "operation is not permitted on predefined bridge network ");
        check(NetworkSpec { driver: "weird".into(), ..spec("x1", vec![]) }, "plugin \"weird\" not found");
    }
}
