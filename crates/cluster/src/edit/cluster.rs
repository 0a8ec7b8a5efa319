//! The swarm as a whole.

use super::{check_version, not_found};
use crate::command::{Object, Write};
use crate::ids::IdSource;
use crate::plan::VNI_MIN;
use crate::store::Store;
use ipnet::{IpNet, Ipv4Net};
use skep_model::cluster::{Cluster, ClusterSpec, Meta};
use skep_model::network::{IpamConfig, NetworkSpec};
use skep_model::node::Node;
use skep_model::service::ClusterNetwork;
use skep_model::{Error, Result, Timestamp};
use std::net::Ipv4Addr;
use std::time::Duration;

const DEFAULT_POOL: Ipv4Net = match Ipv4Net::new(Ipv4Addr::new(10, 0, 0, 0), 8) {
    Ok(net) => net,
    Err(_) => panic!("8 is a legal prefix length"),
};
const DEFAULT_SUBNET_SIZE: u8 = 24;
const DEFAULT_DATA_PATH_PORT: u16 = 4789;
const CERT_EXPIRY_MIN: Duration = Duration::from_secs(3600);

/// Facts a new swarm starts with. See [`bootstrap`].
#[derive(Debug, Clone)]
pub struct Bootstrap {
    pub cluster: Cluster,
    /// This node, already a manager.
    pub node: Node,
}

/// The first command of a swarm: cluster, first node, the `ingress` network. Pools,
/// subnet size and port that were not chosen get their defaults.
pub fn bootstrap(facts: Bootstrap, now: Timestamp, ids: &mut dyn IdSource) -> Vec<Write> {
    let Bootstrap { mut cluster, mut node } = facts;
    if cluster.id.is_empty() {
        cluster.id = ids.swarm_id().into();
    }
    if cluster.default_address_pools.is_empty() {
        cluster.default_address_pools = vec![IpNet::V4(DEFAULT_POOL)];
    }
    if cluster.subnet_size == 0 {
        cluster.subnet_size = DEFAULT_SUBNET_SIZE;
    }
    if cluster.data_path_port == 0 {
        cluster.data_path_port = DEFAULT_DATA_PATH_PORT;
    }
    cluster.meta = Meta { version: 0, created_at: now, updated_at: now };
    node.meta = cluster.meta.clone();
    let ingress = ingress_network(&cluster, ids.swarm_id());
    let objects = [Object::Cluster(cluster), Object::Node(Box::new(node)), Object::Network(ingress)];
    objects.into_iter().map(|object| Write::Put { object, expected: 0 }).collect()
}

/// The mesh takes the first subnet of the pools: 10.0.0.0/24 unless the user chose others.
fn ingress_network(cluster: &Cluster, id: String) -> ClusterNetwork {
    let first = cluster.default_address_pools.iter().find_map(|pool| match pool {
        IpNet::V4(pool) => pool.subnets(cluster.subnet_size.max(pool.prefix_len())).ok()?.next(),
        IpNet::V6(_) => None,
    });
    let config = first.map(|subnet| IpamConfig {
        subnet: Some(IpNet::V4(subnet)),
        ip_range: None,
        gateway: Some(crate::plan::first_host(&IpNet::V4(subnet))),
        aux_addresses: Default::default(),
    });
    let spec = NetworkSpec {
        name: "ingress".into(),
        driver: "overlay".into(),
        ipam_driver: "default".into(),
        ingress: true,
        ipam: config.into_iter().collect(),
        ..NetworkSpec::default()
    };
    ClusterNetwork { id: id.into(), spec, vni: VNI_MIN, ..ClusterNetwork::default() }
}

/// Changes the swarm's settings.
///
/// # Errors
/// A value is out of range, or the version is not the present one.
pub fn update_cluster(store: &Store, version: u64, spec: ClusterSpec) -> Result<Vec<Write>> {
    let Some(present) = store.cluster() else { return Err(not_found("cluster", "default")) };
    check_version(present.meta.version, version)?;
    if spec.name != present.spec.name {
        return Err(super::invalid("modification of cluster name is not allowed"));
    }
    if spec.heartbeat_period < Duration::from_secs(1) {
        return Err(Error::invalid("invalid DispatcherConfig: heartbeat period must be at least 1 second"));
    }
    if spec.node_cert_expiry < CERT_EXPIRY_MIN {
        return Err(super::invalid("minimum certificate expiry time is: 1h0m0s"));
    }
    if spec.election_tick <= spec.heartbeat_tick {
        return Err(super::invalid("election tick must be greater than heartbeat tick"));
    }
    let mut cluster = (**present).clone();
    cluster.spec = spec;
    Ok(vec![Write::put(Object::Cluster(cluster))])
}
