//! Addresses: pure bookkeeping of pools, nothing of the kernel.

use ipnet::{IpNet, Ipv4Net};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses scanned at most for a free one (a full IPv6 pool would take for ever).
const SCAN_MAX: u128 = 1 << 20;

/// The addresses of one subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pool {
    net: IpNet,
    /// Where addresses are chosen from; within `net`.
    range: IpNet,
    used: BTreeSet<IpAddr>,
    /// The last one chosen: the next search starts behind it, so that an address is not
    /// reused while neighbours may remember its last owner.
    last: Option<IpAddr>,
}

impl Pool {
    /// A pool with some addresses (gateway, auxiliary ones) never given out.
    pub(crate) fn new(net: IpNet, range: Option<IpNet>, reserved: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut used: BTreeSet<IpAddr> = reserved.into_iter().collect();
        used.insert(net.network());
        if let IpNet::V4(v4) = net
            && v4.prefix_len() < 31
        {
            used.insert(v4.broadcast().into());
        }
        Self { net, range: range.unwrap_or(net), used, last: None }
    }

    pub(crate) fn net(&self) -> IpNet {
        self.net
    }

    /// The next free address.
    pub(crate) fn allocate(&mut self) -> Option<IpAddr> {
        let first = number(self.range.network());
        let size = number(self.range.broadcast()).saturating_sub(first).saturating_add(1);
        let start = self.last.map_or(0, |last| number(last).saturating_sub(first).saturating_add(1));
        for step in 0..size.min(SCAN_MAX) {
            let candidate = address(first + (start + step) % size, self.net);
            if self.used.insert(candidate) {
                self.last = Some(candidate);
                return Some(candidate);
            }
        }
        None
    }

    /// Takes this very address; `false` if it is taken or not of this subnet.
    pub(crate) fn claim(&mut self, address: IpAddr) -> bool {
        self.net.contains(&address) && self.used.insert(address)
    }

    pub(crate) fn release(&mut self, address: IpAddr) {
        self.used.remove(&address);
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn address(number: u128, like: IpNet) -> IpAddr {
    match like {
        // A number of a 32-bit pool fits.
        IpNet::V4(_) => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        IpNet::V6(_) => Ipv6Addr::from(number).into(),
    }
}

/// The first subnet of Docker's default pools that overlaps nothing in `taken`.
pub(crate) fn choose_subnet(taken: &[IpNet]) -> Option<IpNet> {
    let large = (18..=31).map(|second| (Ipv4Addr::new(172, second, 0, 0), 16));
    let small = (0..16).map(|third| (Ipv4Addr::new(192, 168, third * 16, 0), 20));
    large
        .chain(small)
        .filter_map(|(network, prefix)| Ipv4Net::new(network, prefix).ok().map(IpNet::V4))
        .find(|candidate| !taken.iter().any(|other| overlaps(*candidate, *other)))
}

/// Whether two subnets share an address.
pub(crate) fn overlaps(a: IpNet, b: IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// The first address, where Docker puts the gateway.
pub(crate) fn default_gateway(net: IpNet) -> IpAddr {
    address(number(net.network()) + 1, net)
}

/// Destinations of the host's routes from `/proc/net/route`; the default route is none.
pub(crate) fn parse_routes(text: &str) -> Vec<IpNet> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let part = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok().map(u32::swap_bytes);
        let (destination, mask) = (part(1)?, part(7)?);
        let net = Ipv4Net::with_netmask(Ipv4Addr::from(destination), Ipv4Addr::from(mask)).ok()?;
        (net.prefix_len() > 0).then_some(IpNet::V4(net))
    };
    text.lines().skip(1).filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_given_in_turn_and_not_reused_at_once() {
        let mut pool = Pool::new(net("10.0.0.0/29"), None, [ip("10.0.0.1")]);
        assert_eq!(pool.allocate(), Some(ip("10.0.0.2")));
        assert_eq!(pool.allocate(), Some(ip("10.0.0.3")));
        pool.release(ip("10.0.0.2"));
        assert_eq!(pool.allocate(), Some(ip("10.0.0.4")));
        assert_eq!(pool.allocate(), Some(ip("10.0.0.5")));
        assert_eq!(pool.allocate(), Some(ip("10.0.0.6")));
        assert_eq!(pool.allocate(), Some(ip("10.0.0.2")));
        assert_eq!(pool.allocate(), None);
    }

    #[test]
    fn a_claimed_address_is_nobody_elses() {
        let mut pool = Pool::new(net("10.0.0.0/24"), Some(net("10.0.0.128/25")), [ip("10.0.0.1")]);
        assert!(!pool.claim(ip("10.0.0.1")) && !pool.claim(ip("10.0.1.2")) && pool.claim(ip("10.0.0.128")));
        assert_eq!(pool.allocate(), Some(ip("10.0.0.129")));
    }

    #[test]
    fn subnets_are_chosen_around_what_exists() {
        assert_eq!(choose_subnet(&[]), Some(net("172.18.0.0/16")));
        assert_eq!(choose_subnet(&[net("172.16.0.0/14")]), Some(net("172.20.0.0/16")));
        assert_eq!(choose_subnet(&[net("172.16.0.0/12"), net("192.168.0.0/24")]), Some(net("192.168.16.0/20")));
        assert_eq!(choose_subnet(&[net("0.0.0.0/0")]), None);
    }

    #[test]
    fn routes_of_the_host_are_read() {
        let text = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                    eth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                    eth0\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\nbroken\n";
        assert_eq!(parse_routes(text), [net("192.168.2.0/24")]);
    }
}
