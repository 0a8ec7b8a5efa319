//! Load balancers: two ways to spread a virtual address over backends, chosen once at
//! start by what the kernel has.

pub mod ipvs;
pub mod nftables;

use crate::BalancerChoice;
use crate::kernel::netlink::{Attrs, Request, Socket};
use crate::nft::table::Table;
use netlink_sys::protocols::NETLINK_GENERIC;
use skep_model::error::{Error, Result};
use skep_model::netstate::DesiredService;
use std::io;
use std::net::IpAddr;

const GENERIC_CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_NAME: u16 = 2;

/// Spreads connections to virtual addresses inside an overlay's namespace.
pub trait Balancer: Send + Sync {
    /// As `status` shows it.
    fn name(&self) -> &'static str;

    /// The namespace's packet rules for these services; `own` are the balancer's own
    /// addresses, at most one of each family.
    fn rules(&self, services: &[&DesiredService], own: &[IpAddr]) -> Table;
}

/// The balancer to use.
///
/// # Errors
/// When one is demanded that cannot be had.
pub fn choose(choice: BalancerChoice) -> Result<Box<dyn Balancer>> {
    match choice {
        BalancerChoice::Nftables | BalancerChoice::Auto => Ok(Box::new(nftables::Nftables)),
        BalancerChoice::Ipvs => match kernel_has_ipvs() {
            Ok(true) => Err(Error::not_implemented("the IPVS balancer is not supported yet: use --balancer nftables")),
            Ok(false) => {
                Err(Error::unavailable("the kernel has no IPVS: load the ip_vs module or use --balancer nftables"))
            }
            Err(error) => Err(Error::internal(format!("cannot ask the kernel for IPVS: {error}"))),
        },
    }
}

/// Whether the kernel knows IPVS' netlink family (loading the module when it may).
///
/// # Errors
/// When generic netlink cannot be asked.
pub fn kernel_has_ipvs() -> io::Result<bool> {
    let mut socket = Socket::open(NETLINK_GENERIC)?;
    let mut a = Attrs::new();
    a.text(FAMILY_NAME, "IPVS");
    match socket.ask(&Request::new(GENERIC_CONTROL, 0, &[GET_FAMILY, 1, 0, 0], &a)) {
        Ok(answer) => Ok(answer.is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
