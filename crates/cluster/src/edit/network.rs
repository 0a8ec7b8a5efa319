//! Overlay networks.

use super::{not_found, precondition};
use crate::command::{Key, Kind, Object, Write};
use crate::ids::IdSource;
use crate::plan::overlaps;
use crate::store::Store;
use ipnet::IpNet;
use skep_model::cluster::Meta;
use skep_model::id::NetworkId;
use skep_model::network::{IpamConfig, NetworkSpec};
use skep_model::service::ClusterNetwork;
use skep_model::task::TaskState;
use skep_model::{Error, Result, Timestamp, validate};

/// A subnet with fewer addresses has no room for a gateway and a task.
const SUBNET_PREFIX_MAX: u8 = 29;

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
    if spec.enable_ipv6 {
        return Err(Error::not_implemented("IPv6 on overlay networks is not supported yet"));
    }
    if spec.options.contains_key("encrypted") {
        return Err(Error::not_implemented("encrypted overlay networks are not supported yet"));
    }
    if !matches!(spec.ipam_driver.as_str(), "" | "default") {
        return Err(Error::not_implemented(format!("IPAM driver \"{}\" is not supported", spec.ipam_driver)));
    }
    for (at, config) in spec.ipam.iter().enumerate() {
        check_subnet(store, spec, config, &spec.ipam[..at])?;
    }
    Ok(())
}

fn check_subnet(store: &Store, spec: &NetworkSpec, config: &IpamConfig, before: &[IpamConfig]) -> Result<()> {
    let Some(subnet) = config.subnet else {
        let stray = config.gateway.is_some() || config.ip_range.is_some() || !config.aux_addresses.is_empty();
        let text = "invalid network config: a gateway, range or auxiliary address needs a subnet";
        return if stray { Err(Error::invalid(text)) } else { Ok(()) };
    };
    let IpNet::V4(net) = subnet else {
        return Err(Error::not_implemented("IPv6 subnets on overlay networks are not supported yet"));
    };
    if net.addr() != net.network() {
        return Err(Error::invalid(format!("invalid network config: subnet {net} has host bits set")));
    }
    if net.prefix_len() > SUBNET_PREFIX_MAX {
        return Err(Error::invalid(format!("invalid network config: subnet {net} is too small")));
    }
    let addresses = config.gateway.iter().chain(config.aux_addresses.values());
    if let Some(outside) = addresses.into_iter().find(|address| !subnet.contains(*address)) {
        return Err(Error::invalid(format!("invalid network config: no subnet contains address {outside}")));
    }
    if config.ip_range.is_some_and(|range| !subnet.contains(&range)) {
        return Err(Error::invalid("invalid network config: the IP range is not within the subnet"));
    }
    let own = NetworkSpec { ipam: before.to_vec(), ..spec.clone() };
    if overlaps(&own, &subnet) || store.networks().any(|network| overlaps(&network.spec, &subnet)) {
        return Err(Error::forbidden("invalid pool request: Pool overlaps with other one on this address space"));
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
