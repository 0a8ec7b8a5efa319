//! Networks: of this machine and of the swarm, in one shape.

use super::swarm::Meta;
use super::{map_or_null, refuse, wire, zero};
use crate::filters::Filters;
use crate::json::endpoint::EndpointSettings;
use crate::json::mount::Driver;
use serde::Serialize;
use serde_json::{Value, json};
use skep_model::network::{IpamConfig as ModelIpam, NetworkInfo, NetworkScope, NetworkSpec};
use skep_model::service::ClusterNetwork;
use skep_model::{Error, Result, Timestamp};
use std::collections::BTreeMap;

pub(crate) const FILTERS: [&str; 7] = ["dangling", "driver", "id", "label", "name", "scope", "type"];
pub(crate) const PRUNE_FILTERS: [&str; 3] = ["until", "label", "label!"];
/// Networks that always exist.
pub(crate) const PREDEFINED: [&str; 3] = ["bridge", "host", "none"];
/// Option by which the VXLAN identifiers of an overlay are shown.
const VXLAN_OPTION: &str = "com.docker.network.driver.overlay.vxlanid_list";

wire!(
    CreateBody {
        name: String,
        check_duplicate: Option<bool>,
        driver: String,
        scope: String,
        #[serde(rename = "EnableIPv4")]
        enable_ipv4: Option<bool>,
        #[serde(rename = "EnableIPv6")]
        enable_ipv6: Option<bool>,
        #[serde(rename = "IPAM")]
        ipam: Option<Ipam>,
        internal: bool,
        attachable: bool,
        ingress: bool,
        config_only: bool,
        config_from: Option<ConfigFrom>,
        options: BTreeMap<String, String>,
        labels: BTreeMap<String, String>,
    }
);
wire!(ConfigFrom { network: String });
wire!(
    Ipam {
        driver: String,
        options: Option<BTreeMap<String, String>>,
        config: Vec<IpamConfig>,
    }
);
wire!(
    IpamConfig {
        #[serde(skip_serializing_if = "zero")]
        subnet: String,
        #[serde(rename = "IPRange", skip_serializing_if = "zero")]
        ip_range: String,
        #[serde(skip_serializing_if = "zero")]
        gateway: String,
        #[serde(rename = "AuxiliaryAddresses", skip_serializing_if = "zero")]
        auxiliary: BTreeMap<String, String>,
    }
);

wire!(ConnectBody { container: String, endpoint_config: EndpointSettings });
wire!(DisconnectBody { container: String, force: bool });

impl CreateBody {
    /// The wish, and whether it goes to the swarm.
    ///
    /// # Errors
    /// What is malformed or unsupported.
    pub(crate) fn into_model(self) -> Result<(NetworkSpec, NetworkScope)> {
        self.check()?;
        let driver = if self.driver.is_empty() { "bridge".to_owned() } else { self.driver };
        let scope = match (self.scope.as_str(), driver.as_str()) {
            ("swarm", "overlay") | ("", "overlay") => NetworkScope::Swarm,
            ("local", "overlay") => {
                return Err(Error::invalid("an overlay network belongs to the swarm: scope local is not possible"));
            }
            ("" | "local", _) => NetworkScope::Local,
            ("swarm", other) => {
                return Err(Error::not_implemented(format!("driver {other:?} with scope swarm is not supported")));
            }
            (other, _) => return Err(Error::invalid(format!("invalid scope: {other:?}"))),
        };
        if scope == NetworkScope::Local && self.ingress {
            return Err(Error::invalid("Ingress network can only be of the overlay driver"));
        }
        let ipam = self.ipam.unwrap_or_default();
        let spec = NetworkSpec {
            name: self.name,
            labels: self.labels,
            driver,
            options: self.options,
            internal: self.internal,
            attachable: self.attachable,
            ingress: self.ingress,
            enable_ipv6: self.enable_ipv6.unwrap_or_default(),
            ipam_driver: ipam.driver,
            ipam_options: ipam.options.unwrap_or_default(),
            ipam: ipam.config.into_iter().map(IpamConfig::into_model).collect::<Result<_>>()?,
        };
        Ok((spec, scope))
    }

    fn check(&self) -> Result<()> {
        if self.name.trim().is_empty() {
            return Err(Error::invalid("name is required"));
        }
        // One letter is enough for a network, other than for containers and volumes.
        if self.name.len() != 1 || !self.name.chars().all(|c| c.is_ascii_alphanumeric()) {
            super::check_name("network", &self.name)?;
        }
        if PREDEFINED.contains(&self.name.as_str()) {
            return Err(Error::forbidden(format!("operation is not permitted on predefined {} network", self.name)));
        }
        if matches!(self.driver.as_str(), "macvlan" | "ipvlan") {
            return Err(Error::not_implemented(format!("{} networks are not supported yet", self.driver)));
        }
        if !matches!(self.driver.as_str(), "" | "bridge" | "overlay" | "host" | "null" | "none") {
            return Err(Error::not_found(format!(
                "could not find plugin {} in v2 plugin registry: plugin not found",
                self.driver
            )));
        }
        if matches!(self.driver.as_str(), "host" | "null" | "none") {
            return Err(Error::forbidden(format!("only one instance of \"{}\" network is allowed", self.driver)));
        }
        let ipam_driver = self.ipam.as_ref().map_or("", |ipam| ipam.driver.as_str());
        refuse(&[
            ("ConfigOnly", self.config_only),
            ("ConfigFrom", self.config_from.as_ref().is_some_and(|from| !from.network.is_empty())),
            ("a network without IPv4", self.enable_ipv4 == Some(false)),
            ("another IPAM driver than \"default\"", !matches!(ipam_driver, "" | "default")),
            ("an encrypted overlay", self.driver == "overlay" && self.options.contains_key("encrypted")),
        ])
    }
}

impl IpamConfig {
    fn into_model(self) -> Result<ModelIpam> {
        fn optional<T: std::str::FromStr>(text: &str, what: &str) -> Result<Option<T>> {
            if text.is_empty() {
                return Ok(None);
            }
            match text.parse() {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(Error::invalid(format!("invalid network config:\ninvalid {what} {text}"))),
            }
        }
        let mut aux_addresses = BTreeMap::new();
        for (name, text) in self.auxiliary {
            let address = optional(&text, "auxiliary address")?;
            aux_addresses.insert(name, address.ok_or_else(|| Error::invalid("invalid auxiliary address: empty"))?);
        }
        let config = ModelIpam {
            subnet: optional(&self.subnet, "subnet")?,
            ip_range: optional(&self.ip_range, "ip-range")?,
            gateway: optional(&self.gateway, "gateway address")?,
            aux_addresses,
        };
        let outside =
            |address: &std::net::IpAddr| config.subnet.is_some_and(|subnet: ipnet::IpNet| !subnet.contains(address));
        if config.gateway.as_ref().is_some_and(outside) || config.aux_addresses.values().any(outside) {
            return Err(Error::invalid(format!(
                "invalid network config:\nan address is not in the subnet {}",
                self.subnet
            )));
        }
        Ok(config)
    }

    fn of(config: &ModelIpam) -> Self {
        fn text<T: ToString>(value: Option<T>) -> String {
            value.map(|v| v.to_string()).unwrap_or_default()
        }
        Self {
            subnet: text(config.subnet),
            ip_range: text(config.ip_range),
            gateway: text(config.gateway),
            auxiliary: config.aux_addresses.iter().map(|(name, ip)| (name.clone(), ip.to_string())).collect(),
        }
    }
}

/// A network, in Docker's order.
#[derive(Debug, Serialize)]
pub(crate) struct Network {
    #[serde(rename = "Name")]
    pub(crate) name: String,
    #[serde(rename = "Id")]
    pub(crate) id: String,
    #[serde(rename = "Created")]
    created: String,
    #[serde(rename = "Scope")]
    scope: &'static str,
    #[serde(rename = "Driver")]
    driver: String,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: bool,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    ipam: Ipam,
    #[serde(rename = "Internal")]
    internal: bool,
    #[serde(rename = "Attachable")]
    attachable: bool,
    #[serde(rename = "Ingress")]
    ingress: bool,
    #[serde(rename = "ConfigFrom")]
    config_from: ConfigFrom,
    #[serde(rename = "ConfigOnly")]
    config_only: bool,
    #[serde(rename = "Containers")]
    containers: Option<BTreeMap<String, Member>>,
    #[serde(rename = "Options")]
    options: Option<BTreeMap<String, String>>,
    #[serde(rename = "Labels")]
    labels: Option<BTreeMap<String, String>>,
    #[serde(rename = "Peers", skip_serializing_if = "Option::is_none")]
    peers: Option<Vec<Value>>,
    #[serde(rename = "Services", skip_serializing_if = "Option::is_none")]
    pub(crate) services: Option<Value>,
    #[serde(skip)]
    created_at: Timestamp,
}

#[derive(Debug, Serialize)]
struct Member {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    #[serde(rename = "MacAddress")]
    mac_address: String,
    #[serde(rename = "IPv4Address")]
    ipv4_address: String,
    #[serde(rename = "IPv6Address")]
    ipv6_address: String,
}

impl Network {
    pub(crate) fn of_local(info: &NetworkInfo) -> Self {
        let swarm = info.scope == NetworkScope::Swarm;
        let mut network = Self::of_spec(&info.spec, info.id.to_string(), info.created, info.vni);
        network.scope = if swarm { "swarm" } else { "local" };
        let member = |(id, leg): (&skep_model::id::ContainerId, &skep_model::network::NetworkContainer)| {
            (id.to_string(), Member::of(leg))
        };
        let mut members: BTreeMap<String, Member> = info.containers.iter().map(member).collect();
        if let Some(leg) = &info.balancer {
            let key = if info.spec.ingress { "ingress-sbox".to_owned() } else { format!("lb-{}", info.spec.name) };
            members.insert(key, Member::of(leg));
        }
        network.containers = Some(members);
        if swarm {
            let peer = |address: &std::net::IpAddr| json!({ "Name": address.to_string(), "IP": address.to_string() });
            network.peers = Some(info.peers.iter().map(peer).collect());
        }
        network
    }

    pub(crate) fn of_swarm(stored: &ClusterNetwork) -> Self {
        Self::of_spec(&stored.spec, stored.id.to_string(), stored.meta.created_at, stored.vni)
    }

    /// One network known both ways: the swarm's facts with this machine's containers.
    pub(crate) fn of_both(stored: &ClusterNetwork, local: &NetworkInfo) -> Self {
        let Self { containers, peers, .. } = Self::of_local(local);
        Self { containers, peers, ..Self::of_swarm(stored) }
    }

    fn of_spec(spec: &NetworkSpec, id: String, created: Timestamp, vni: u32) -> Self {
        let mut options = spec.options.clone();
        if vni != 0 {
            options.insert(VXLAN_OPTION.into(), vni.to_string());
        }
        Self {
            name: spec.name.clone(),
            id,
            created: created.to_rfc3339(),
            scope: "swarm",
            driver: spec.driver.clone(),
            enable_ipv4: true,
            enable_ipv6: spec.enable_ipv6,
            ipam: Ipam {
                driver: if spec.ipam_driver.is_empty() { "default".into() } else { spec.ipam_driver.clone() },
                options: map_or_null(spec.ipam_options.clone()),
                config: spec.ipam.iter().map(IpamConfig::of).collect(),
            },
            internal: spec.internal,
            attachable: spec.attachable,
            ingress: spec.ingress,
            config_from: ConfigFrom::default(),
            config_only: false,
            containers: None,
            options: Some(options),
            labels: Some(spec.labels.clone()),
            peers: None,
            services: None,
            created_at: created,
        }
    }

    /// The list never says which containers are connected.
    pub(crate) fn without_containers(self) -> Self {
        let containers = (self.scope == "local").then(BTreeMap::new);
        Self { containers, peers: None, ..self }
    }

    pub(crate) fn predefined(&self) -> bool {
        PREDEFINED.contains(&self.name.as_str())
    }

    /// # Errors
    /// Filter values that mean nothing.
    pub(crate) fn matches(&self, filters: &Filters, in_use: bool) -> Result<bool> {
        for kind in filters.values("type") {
            if !matches!(kind, "builtin" | "custom") {
                return Err(Error::invalid(format!("invalid filter: 'type'='{kind}'")));
            }
        }
        let builtin = self.predefined() || self.ingress;
        let empty = BTreeMap::new();
        let dangling = filters.boolean("dangling")?;
        Ok(filters.exact("driver", &self.driver)
            && filters.exact("scope", self.scope)
            && filters.prefix("id", &self.id)
            && filters.pattern("name", &self.name)
            && filters.labels("label", self.labels.as_ref().unwrap_or(&empty))
            && filters.any("type", |kind| (kind == "builtin") == builtin)
            && dangling.is_none_or(|wanted| wanted == (!in_use && !builtin)))
    }

    /// `prune` may take it, as far as its own facts go.
    pub(crate) fn may_prune(&self, filters: &Filters, until: Option<Timestamp>) -> bool {
        let empty = BTreeMap::new();
        self.scope == "local"
            && !self.predefined()
            && until.is_none_or(|until| self.created_at < until)
            && filters.labels_and_not(self.labels.as_ref().unwrap_or(&empty))
    }
}

impl Member {
    fn of(leg: &skep_model::network::NetworkContainer) -> Self {
        let text = |address: Option<ipnet::IpNet>| address.map(|a| a.to_string()).unwrap_or_default();
        Self {
            name: leg.name.clone(),
            endpoint_id: leg.endpoint_id.to_string(),
            mac_address: leg.mac_address.clone(),
            ipv4_address: text(leg.ipv4),
            ipv6_address: text(leg.ipv6),
        }
    }
}

/// A swarm network inside a task.
#[derive(Debug, Serialize)]
pub(crate) struct TaskNetwork {
    #[serde(rename = "ID")]
    id: String,
    #[serde(flatten)]
    meta: Meta,
    #[serde(rename = "Spec")]
    spec: Value,
    #[serde(rename = "DriverState")]
    driver_state: Value,
    #[serde(rename = "IPAMOptions")]
    ipam_options: Value,
}

impl TaskNetwork {
    pub(crate) fn of(network: &ClusterNetwork) -> Self {
        let spec = &network.spec;
        let driver = Driver { name: spec.driver.clone(), options: spec.options.clone() };
        let mut wire = serde_json::Map::new();
        wire.insert("Name".into(), json!(spec.name));
        wire.insert("Labels".into(), json!(spec.labels));
        wire.insert("DriverConfiguration".into(), json!(driver));
        for (key, set) in [
            ("IPv6Enabled", spec.enable_ipv6),
            ("Internal", spec.internal),
            ("Attachable", spec.attachable),
            ("Ingress", spec.ingress),
        ] {
            if set {
                wire.insert(key.into(), json!(true));
            }
        }
        wire.insert("IPAMOptions".into(), json!({ "Driver": { "Name": "default" } }));
        wire.insert("Scope".into(), json!("swarm"));
        let configs: Vec<Value> = spec.ipam.iter().map(|config| json!(IpamConfig::of(config))).collect();
        let mut state = Driver { name: spec.driver.clone(), options: BTreeMap::new() };
        if network.vni != 0 {
            state.options.insert(VXLAN_OPTION.into(), network.vni.to_string());
        }
        Self {
            id: network.id.to_string(),
            meta: Meta::of(&network.meta),
            spec: wire.into(),
            driver_state: json!(state),
            ipam_options: json!({ "Driver": { "Name": "default" }, "Configs": configs }),
        }
    }
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
