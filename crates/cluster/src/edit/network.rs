//! Overlay networks.

use super::{not_found, precondition};
use crate::assign::MTU_OPTION;
use crate::command::{Key, Kind, Object, Write};
use crate::ids::IdSource;
use crate::plan::{Family, VNI_OPTION, free_subnet, free_subnet_ipv6, has_family, overlapping, wanted_vni};
use crate::store::Store;
use ipnet::{IpNet, Ipv6Net};
use skep_model::cluster::Meta;
use skep_model::id::NetworkId;
use skep_model::network::{IpamConfig, NetworkSpec};
use skep_model::service::ClusterNetwork;
use skep_model::task::TaskState;
use skep_model::{Error, Result, Timestamp, validate};

/// A subnet with fewer addresses has no room for a gateway and a task.
const SUBNET_BITS_MIN: u8 = 3;
/// The smallest packet that every IPv4 host takes.
const MTU_MIN: u32 = 68;
/// The same of IPv6; on a link that takes less the kernel has none.
const MTU_MIN_IPV6: u32 = 1280;
/// The largest IP packet without what the tunnel puts around it.
const MTU_MAX: u32 = 65_535 - 50;

/// A new network; its subnet and identifier are chosen by the leader's next plan unless given.
///
/// # Errors
/// The name is taken or illegal, a subnet overlaps another network's, or an option is not supported.
pub fn create_network(
    store: &Store,
    spec: NetworkSpec,
    now: Timestamp,
    ids: &mut dyn IdSource,
) -> Result<(NetworkId, Vec<Write>)> {
    let mut spec = spec;
    validate::service_name(&spec.name)?;
    if store.network_by_name(&spec.name).is_some() {
        return Err(Error::conflict(format!("network with name {} already exists", spec.name)));
    }
    if spec.ingress
        && let Some(present) = store.ingress_network()
    {
        return Err(super::exists(format!("ingress network ({}) is already present", present.spec.name)));
    }
    if spec.driver.is_empty() {
        spec.driver = "overlay".into();
    }
    let node_local = match spec.driver.as_str() {
        "overlay" => false,
        "host" | "bridge" => true,
        other => return Err(Error::not_found(format!("plugin \"{other}\" not found"))),
    };
    check_options(store, &spec)?;
    if spec.ipam_driver.is_empty() {
        spec.ipam_driver = "default".into();
    }
    let id = NetworkId(ids.swarm_id());
    let meta = Meta { version: 0, created_at: now, updated_at: now };
    let network = ClusterNetwork { id: id.clone(), meta, spec, node_local, ..ClusterNetwork::default() };
    Ok((id, vec![Write::put(Object::Network(network))]))
}

fn check_options(store: &Store, spec: &NetworkSpec) -> Result<()> {
    if spec.options.contains_key("encrypted") {
        return Err(Error::not_implemented("encrypted overlay networks are not supported yet"));
    }
    if !matches!(spec.ipam_driver.as_str(), "" | "default") {
        return Err(Error::not_implemented(format!("IPAM driver \"{}\" is not supported", spec.ipam_driver)));
    }
    check_mtu(spec)?;
    if let Some(wanted) = spec.options.get(VNI_OPTION) {
        wanted_vni(store, wanted).map_err(|reason| Error::invalid(format!("invalid network config: {reason}")))?;
    }
    for (at, config) in spec.ipam.iter().enumerate() {
        check_subnet(store, spec, config, &spec.ipam[..at])?;
    }
    let overlay = matches!(spec.driver.as_str(), "" | "overlay");
    // Before there is a cluster object there are no networks that could have taken it all.
    if overlay && store.cluster().is_some() { check_room(store, spec) } else { Ok(()) }
}

/// Families without a subnet need one in the pools.
fn check_room(store: &Store, spec: &NetworkSpec) -> Result<()> {
    let any_open = spec.ipam.iter().any(|config| config.subnet.is_none());
    if (any_open || !has_family(spec, Family::V4)) && free_subnet(store).is_err() {
        let text = "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to \
                    the network";
        return Err(Error::forbidden(text));
    }
    if spec.enable_ipv6 && !has_family(spec, Family::V6) {
        free_subnet_ipv6(store).map_err(Error::forbidden)?;
    }
    Ok(())
}

/// A packet must hold the smallest that the protocol allows, and a tunnel adds to it.
fn check_mtu(spec: &NetworkSpec) -> Result<()> {
    let Some(text) = spec.options.get(MTU_OPTION) else { return Ok(()) };
    // 0 is the default.
    let least = if spec.enable_ipv6 { MTU_MIN_IPV6 } else { MTU_MIN };
    let is_fine = |mtu: &u32| *mtu == 0 || (least..=MTU_MAX).contains(mtu);
    match text.parse().ok().filter(is_fine) {
        Some(_) => Ok(()),
        None => Err(Error::invalid(format!(
            "invalid network config: MTU \"{text}\" is not a number between {least} and {MTU_MAX}"
        ))),
    }
}

fn check_subnet(store: &Store, spec: &NetworkSpec, config: &IpamConfig, before: &[IpamConfig]) -> Result<()> {
    let Some(subnet) = config.subnet else {
        let stray = config.gateway.is_some() || config.ip_range.is_some() || !config.aux_addresses.is_empty();
        let text = "invalid network config: a gateway, range or auxiliary address needs a subnet";
        return if stray { Err(Error::invalid(text)) } else { Ok(()) };
    };
    if subnet.addr() != subnet.network() {
        return Err(Error::invalid(format!("invalid network config: subnet {subnet} has host bits set")));
    }
    if subnet.max_prefix_len() - subnet.prefix_len() < SUBNET_BITS_MIN {
        return Err(Error::invalid(format!("invalid network config: subnet {subnet} is too small")));
    }
    if let IpNet::V6(subnet) = subnet {
        check_subnet_ipv6(spec, subnet, before)?;
    }
    let addresses = config.gateway.iter().chain(config.aux_addresses.values());
    if let Some(outside) = addresses.into_iter().find(|address| !subnet.contains(*address)) {
        return Err(Error::invalid(format!("invalid network config: no subnet contains address {outside}")));
    }
    if config.ip_range.is_some_and(|range| !subnet.contains(&range)) {
        return Err(Error::invalid("invalid network config: the IP range is not within the subnet"));
    }
    let own = NetworkSpec { ipam: before.to_vec(), ..spec.clone() };
    let others = store.networks().map(|network| &network.spec);
    let mut specs = std::iter::once(&own).chain(others);
    let other = specs.find_map(|other| Some((overlapping(other, &subnet)?, &other.name)));
    match other {
        Some((net, name)) => Err(Error::forbidden(format!(
            "invalid pool request: Pool overlaps with other one on this address space: {subnet} with {net} of \
             network {name}"
        ))),
        None => Ok(()),
    }
}

fn check_subnet_ipv6(spec: &NetworkSpec, subnet: Ipv6Net, before: &[IpamConfig]) -> Result<()> {
    if !spec.enable_ipv6 {
        return Err(Error::invalid(format!("invalid network config: subnet {subnet} needs IPv6 to be enabled")));
    }
    let first = subnet.addr();
    let is_special = first.is_multicast() || first.is_unicast_link_local() || first.is_unspecified();
    if is_special || first.to_ipv4_mapped().is_some() {
        return Err(Error::invalid(format!("invalid network config: subnet {subnet} is no range for hosts")));
    }
    if before.iter().any(|other| other.subnet.is_some_and(|other| other.addr().is_ipv6())) {
        return Err(Error::not_implemented("more than one IPv6 subnet on an overlay network is not supported"));
    }
    Ok(())
}

/// Removes a network, at once if no address on it is in use, else when the last is free.
///
/// # Errors
/// A service or a task that is to run uses it.
pub fn remove_network(store: &Store, id: &NetworkId) -> Result<Vec<Write>> {
    let network = store.network(id.as_str()).filter(|network| !network.pending_delete);
    let Some(network) = network else { return Err(not_found("network", id.as_str())) };
    let users = store.services().filter(|service| !service.pending_delete);
    let uses =
        |networks: &[skep_model::service::NetworkAttachmentConfig]| networks.iter().any(|n| n.target == id.as_str());
    let published = |service: &skep_model::service::Service| {
        network.spec.ingress && super::service::publishes_ingress(&service.spec.endpoint)
    };
    for service in users {
        if published(service) {
            let text = format!("ingress network cannot be removed because service {} depends on it", service.id);
            return Err(precondition(text));
        }
        if uses(&service.spec.task.networks) {
            return Err(precondition(format!("network {id} is in use by service {}", service.id)));
        }
    }
    // Tasks of a service that is going are going too, though no planner may have said so yet:
    // `stack rm` removes both in one breath.
    let staying = |service: &skep_model::id::ServiceId| {
        service.as_str().is_empty() || store.service(service.as_str()).is_some_and(|service| !service.pending_delete)
    };
    let wanted = |task: &&std::sync::Arc<skep_model::task::Task>| {
        task.desired_state <= TaskState::Running && !task.status.state.is_terminal() && staying(&task.service_id)
    };
    if let Some(task) = store.tasks().filter(wanted).find(|task| uses(&task.spec.networks)) {
        return Err(precondition(format!("network {id} is in use by task {}", task.id)));
    }
    if store.addresses(id.as_str()).is_none() {
        let key = Key::new(Kind::Network, id.as_str());
        return Ok(vec![Write::Remove { key, expected: network.meta.version }]);
    }
    let mut leaving = (**network).clone();
    leaving.pending_delete = true;
    Ok(vec![Write::put(Object::Network(leaving))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    fn check(world: &mut World, change: impl FnOnce(&mut NetworkSpec), expect: Result<(), &str>) {
        let mut spec = NetworkSpec { name: "net".into(), ..NetworkSpec::default() };
        change(&mut spec);
        let outcome = create_network(&world.store, spec, world.now, &mut world.ids).map(drop);
        assert_eq!(outcome.map_err(|error| error.message), expect.map_err(str::to_owned));
    }

    fn option(key: &str, value: &str) -> impl FnOnce(&mut NetworkSpec) + use<> {
        let (key, value) = (key.to_owned(), value.to_owned());
        move |spec| drop(spec.options.insert(key, value))
    }

    #[test]
    fn options_that_cannot_work_are_refused() {
        let mut world = World::with_nodes(1);
        world.work();
        let text = |mtu| format!("invalid network config: MTU \"{mtu}\" is not a number between 68 and 65485");
        for mtu in ["67", "65486", "many", "-1", ""] {
            check(&mut world, option(MTU_OPTION, mtu), Err(&text(mtu)));
        }
        for mtu in ["0", "68", "1400", "65485"] {
            check(&mut world, option(MTU_OPTION, mtu), Ok(()));
        }
        let text = |vni| format!("invalid network config: {VNI_OPTION} {vni} is not a VXLAN identifier");
        for vni in ["0", "16777216", "x"] {
            check(&mut world, option(VNI_OPTION, vni), Err(&text(vni)));
        }
        check(&mut world, option(VNI_OPTION, "5000"), Ok(()));
    }

    fn subnets(texts: &[&str]) -> Vec<IpamConfig> {
        let config = |text: &&str| IpamConfig {
            subnet: Some(text.parse().unwrap()),
            ip_range: None,
            gateway: None,
            aux_addresses: Default::default(),
        };
        texts.iter().map(config).collect()
    }

    #[test]
    fn subnets_of_both_families_are_checked_and_named() {
        let mut world = World::with_nodes(1);
        world.work();
        let with = |ipv6, texts: &[&str]| {
            let ipam = subnets(texts);
            move |spec: &mut NetworkSpec| (spec.enable_ipv6, spec.ipam) = (ipv6, ipam)
        };
        let invalid = |text: &str| format!("invalid network config: subnet {text}");
        for (text, wrong) in [
            ("fd00::/126", "is too small"),
            ("fd00::1/64", "has host bits set"),
            ("fe80::/64", "is no range for hosts"),
            ("ff05::/64", "is no range for hosts"),
            ("::ffff:0.0.0.0/96", "is no range for hosts"),
        ] {
            check(&mut world, with(true, &[text]), Err(&invalid(&format!("{text} {wrong}"))));
        }
        check(&mut world, with(false, &["fd00::/64"]), Err(&invalid("fd00::/64 needs IPv6 to be enabled")));
        let text = "more than one IPv6 subnet on an overlay network is not supported";
        check(&mut world, with(true, &["fd00::/64", "fd01::/64"]), Err(text));
        check(&mut world, with(true, &["10.9.0.0/24", "fd00::/64"]), Ok(()));
        let mut spec = NetworkSpec { name: "first".into(), ..NetworkSpec::default() };
        with(true, &["fd00::/48"])(&mut spec);
        let (_, writes) = create_network(&world.store, spec, world.now, &mut world.ids).unwrap();
        world.apply(writes).unwrap();
        let text = "invalid pool request: Pool overlaps with other one on this address space: fd00:0:0:7::/64 with \
                    fd00::/48 of network first";
        check(&mut world, with(true, &["fd00:0:0:7::/64"]), Err(text));
    }

    #[test]
    fn a_network_without_a_subnet_needs_one_in_the_pools() {
        let mut world = World::with_nodes(1);
        let Some(cluster) = world.store.cluster() else { panic!("no cluster") };
        let mut cluster = (**cluster).clone();
        cluster.default_address_pools = vec!["10.20.0.0/23".parse().unwrap()];
        world.apply(vec![Write::put(Object::Cluster(cluster))]).unwrap();
        world.work();
        for number in 0..3 {
            let spec = NetworkSpec { name: format!("net{number}"), ..NetworkSpec::default() };
            match create_network(&world.store, spec, world.now, &mut world.ids) {
                Ok((_, writes)) if number < 2 => world.apply(writes).map(drop).unwrap(),
                Ok(_) => panic!("three networks in two subnets"),
                Err(error) => {
                    let text = "could not find an available, non-overlapping IPv4 address pool among the defaults to \
                                assign to the network";
                    assert_eq!((number, error.message.as_str()), (2, text));
                }
            }
            world.work();
        }
    }
}
