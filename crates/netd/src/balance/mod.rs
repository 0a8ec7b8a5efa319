//! Load balancers: two ways to spread a virtual address over backends, chosen once at
//! start by what the kernel has.

pub mod ipvs;
pub mod nftables;

use crate::BalancerChoice;
use crate::kernel;
use crate::nft::table::Table;
use crate::rules::ingress::IngressPort;
use ipvs::table::Services;
use skep_model::error::{Error, Result};
use skep_model::netstate::DesiredService;
use std::net::IpAddr;

/// Spreads connections to virtual addresses inside an overlay's namespace.
pub trait Balancer: Send + Sync {
    /// As `status` shows it.
    fn name(&self) -> &'static str;

    /// The namespace's packet rules for these services; `own` are the balancer's own
    /// addresses, at most one of each family.
    fn rules(&self, services: &[&DesiredService], own: &[IpAddr]) -> Table;

    /// What IPVS is to have there; `None` when it is not used.
    fn balanced(&self, services: &[&DesiredService]) -> Option<Services>;

    /// What IPVS is to have on the host for the routing mesh's ports, of which `hops` lead
    /// to other nodes; `None` when the packet rules balance them.
    fn mesh(&self, ports: &[IngressPort], hops: &[IpAddr]) -> Option<Services>;

    /// Sysctls that must be so where it balances.
    fn settings(&self) -> &'static [(&'static str, &'static str)];
}

/// The balancer to use.
///
/// # Errors
/// When one is demanded that cannot be had.
pub fn choose(choice: BalancerChoice) -> Result<Box<dyn Balancer>> {
    let has_ipvs =
        || kernel::ipvs::is_usable().map_err(|e| Error::internal(format!("cannot ask the kernel for IPVS: {e}")));
    match choice {
        BalancerChoice::Nftables => Ok(Box::new(nftables::Nftables)),
        BalancerChoice::Auto if !has_ipvs()? => Ok(Box::new(nftables::Nftables)),
        BalancerChoice::Ipvs if !has_ipvs()? => {
            Err(Error::unavailable("the kernel has no IPVS: load the ip_vs module or use --balancer nftables"))
        }
        BalancerChoice::Auto | BalancerChoice::Ipvs => Ok(Box::new(ipvs::Ipvs)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demanded_balancer_that_cannot_be_had_is_a_clear_error() {
        let name = |choice| choose(choice).map(|balancer| balancer.name());
        assert_eq!(name(BalancerChoice::Nftables).unwrap(), "nftables");
        match name(BalancerChoice::Ipvs) {
            Ok(found) => assert_eq!((found, name(BalancerChoice::Auto).unwrap()), ("ipvs", "ipvs")),
            Err(error) => {
                assert!(error.message.contains("use --balancer nftables"), "{}", error.message);
                assert_eq!(name(BalancerChoice::Auto).unwrap(), "nftables");
            }
        }
    }
}
