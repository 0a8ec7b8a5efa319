//! `EndpointSettings`: one network leg, as wished and as it is.

use super::{list_or_null, map_or_null, refuse, wire, zero};
use skep_model::container::{EndpointConfig, EndpointInfo};
use skep_model::{Error, Result};
use std::collections::BTreeMap;
use std::net::IpAddr;

wire!(
    EndpointSettings {
        #[serde(rename = "IPAMConfig")]
        ipam_config: Option<EndpointIpam>,
        links: Option<Vec<String>>,
        aliases: Option<Vec<String>>,
        mac_address: String,
        driver_opts: Option<BTreeMap<String, String>>,
        gw_priority: i64,
        #[serde(rename = "NetworkID")]
        network_id: String,
        #[serde(rename = "EndpointID")]
        endpoint_id: String,
        gateway: String,
        #[serde(rename = "IPAddress")]
        ip_address: String,
        #[serde(rename = "IPPrefixLen")]
        ip_prefix_len: u8,
        #[serde(rename = "IPv6Gateway")]
        ipv6_gateway: String,
        #[serde(rename = "GlobalIPv6Address")]
        global_ipv6_address: String,
        #[serde(rename = "GlobalIPv6PrefixLen")]
        global_ipv6_prefix_len: u8,
        #[serde(rename = "DNSNames")]
        dns_names: Option<Vec<String>>,
    }
);

wire!(
    EndpointIpam {
        #[serde(rename = "IPv4Address", skip_serializing_if = "zero")]
        ipv4_address: String,
        #[serde(rename = "IPv6Address", skip_serializing_if = "zero")]
        ipv6_address: String,
        #[serde(rename = "LinkLocalIPs", skip_serializing_if = "zero")]
        link_local_ips: Vec<String>,
    }
);

impl EndpointSettings {
    /// The wish. Addresses of a leg as it was are ignored, as clients send them back.
    ///
    /// # Errors
    /// Malformed addresses, unsupported wishes.
    pub(crate) fn into_model(self) -> Result<EndpointConfig> {
        let ipam = self.ipam_config.unwrap_or_default();
        refuse(&[("LinkLocalIPs", !ipam.link_local_ips.is_empty()), ("GwPriority", self.gw_priority != 0)])?;
        let ipv4_address = parse_address(&ipam.ipv4_address, "IPv4", IpAddr::is_ipv4)?;
        let ipv6_address = parse_address(&ipam.ipv6_address, "IPv6", IpAddr::is_ipv6)?;
        check_mac(&self.mac_address)?;
        Ok(EndpointConfig {
            aliases: self.aliases.unwrap_or_default(),
            links: self.links.unwrap_or_default(),
            ipv4_address,
            ipv6_address,
            mac_address: self.mac_address,
            driver_opts: self.driver_opts.unwrap_or_default(),
        })
    }

    pub(crate) fn of(leg: &EndpointInfo) -> Self {
        let text = |address: Option<IpAddr>| address.map(|a| a.to_string()).unwrap_or_default();
        let ipam = EndpointIpam {
            ipv4_address: text(leg.config.ipv4_address),
            ipv6_address: text(leg.config.ipv6_address),
            link_local_ips: vec![],
        };
        Self {
            ipam_config: (ipam != EndpointIpam::default()).then_some(ipam),
            links: list_or_null(leg.config.links.clone()),
            aliases: list_or_null(leg.config.aliases.clone()),
            mac_address: leg.mac_address.clone(),
            driver_opts: map_or_null(leg.config.driver_opts.clone()),
            gw_priority: 0,
            network_id: leg.network_id.to_string(),
            endpoint_id: leg.endpoint_id.to_string(),
            gateway: text(leg.gateway),
            ip_address: text(leg.ip_address),
            ip_prefix_len: leg.ip_prefix_len,
            ipv6_gateway: text(leg.ipv6_gateway),
            global_ipv6_address: text(leg.ipv6_address),
            global_ipv6_prefix_len: leg.ipv6_prefix_len,
            dns_names: list_or_null(leg.dns_names.clone()),
        }
    }
}

fn parse_address(text: &str, family: &str, belongs: fn(&IpAddr) -> bool) -> Result<Option<IpAddr>> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse() {
        Ok(address) if belongs(&address) => Ok(Some(address)),
        _ => Err(Error::invalid(format!("invalid {family} address: {text}"))),
    }
}

/// Six pairs of hexadecimal digits, or nothing.
pub(crate) fn check_mac(text: &str) -> Result<()> {
    let pair = |part: &str| part.len() == 2 && part.chars().all(|c| c.is_ascii_hexdigit());
    let shaped = text.split([':', '-']).count() == 6 && text.split([':', '-']).all(pair);
    if text.is_empty() || shaped {
        return Ok(());
    }
    Err(Error::invalid(format!("invalid MAC address: {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: serde_json::Value) -> Result<EndpointConfig> {
        serde_json::from_value::<EndpointSettings>(value).unwrap().into_model()
    }

    #[test]
    fn wishes_are_read_and_facts_ignored() {
        let config = read(json!({
            "IPAMConfig": {"IPv4Address": "10.0.0.5"}, "Aliases": ["a"], "Links": ["x:y"],
            "MacAddress": "02:42:ac:11:00:02", "DriverOpts": {"k": "v"}, "IPAddress": "1.2.3.4", "NetworkID": "n"
        }))
        .unwrap();
        assert_eq!(config.ipv4_address, Some("10.0.0.5".parse().unwrap()));
        assert_eq!((config.aliases, config.links), (vec!["a".to_owned()], vec!["x:y".to_owned()]));
        let leg = EndpointInfo { config: read(json!({"Aliases": ["a"]})).unwrap(), ..EndpointInfo::default() };
        assert_eq!(EndpointSettings::of(&leg).aliases, Some(vec!["a".to_owned()]));
    }

    #[test]
    fn malformed_wishes_are_refused() {
        for bad in [
            json!({"IPAMConfig": {"IPv4Address": "10.0.0"}}),
            json!({"IPAMConfig": {"IPv4Address": "::1"}}),
            json!({"IPAMConfig": {"LinkLocalIPs": ["169.254.1.1"]}}),
            json!({"MacAddress": "02:42"}),
            json!({"GwPriority": 1}),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }
}
