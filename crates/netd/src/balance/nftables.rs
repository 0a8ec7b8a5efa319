//! Balancing by nftables maps; works on every kernel that skep runs on.

use super::Balancer;
use super::ipvs::table::Services;
use crate::nft::table::Table;
use crate::rules;
use crate::rules::ingress::IngressPort;
use skep_model::netstate::DesiredService;
use std::net::IpAddr;

pub struct Nftables;

impl Balancer for Nftables {
    fn name(&self) -> &'static str {
        "nftables"
    }

    fn rules(&self, services: &[&DesiredService], own: &[IpAddr]) -> Table {
        rules::overlay::table(services, own)
    }

    fn balanced(&self, _services: &[&DesiredService]) -> Option<Services> {
        None
    }

    fn mesh(&self, _ports: &[IngressPort], _hops: &[IpAddr]) -> Option<Services> {
        None
    }

    fn settings(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }
}
