//! Reads what the kernel has, by dumps.

use crate::kernel::place::Place;
use crate::kernel::{neighbour, nft, policy, route, sysctl};
use crate::nft::table::TableFamily;
use crate::plan::{DefaultRoute, Forwarding, LinkKind, SeenPlace, WantedPlace};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// One namespace as it is; only the sysctls that `want` names are read.
///
/// # Errors
/// What the kernel says.
pub fn place(place: &mut Place, want: &WantedPlace) -> io::Result<SeenPlace> {
    let links = route::read_links(&place.route.dump(&route::dump_links())?);
    let names: BTreeMap<u32, &String> = links.iter().map(|(name, link)| (link.index, name)).collect();
    let addresses = route::read_addresses(&place.route.dump(&route::dump_addresses())?)
        .into_iter()
        .filter_map(|(index, address)| Some(((*names.get(&index)?).clone(), address)))
        .collect();
    let all_routes = place.route.dump(&route::dump_routes())?;
    let routes = route::read_default_routes(&all_routes)
        .into_iter()
        .filter_map(|(index, gateway)| Some(DefaultRoute { interface: (*names.get(&index)?).clone(), gateway }))
        .collect();
    let table_routes = policy::read_routes(&all_routes, &names).into_iter().collect();
    let loopback_routes = policy::read_loopback_routes(&all_routes, &names).into_iter().collect();
    let policy_rules = policy::read_rules(&place.route.dump(&policy::dump_rules())?).into_iter().collect();
    let is_tunnel = |name: &str| want.links.get(name).is_some_and(|link| matches!(link.kind, LinkKind::Vxlan(_)));
    let tunnels: BTreeMap<u32, &String> =
        names.iter().filter(|(_, name)| is_tunnel(name)).map(|(index, name)| (*index, *name)).collect();
    let forwarding = read_forwarding(place, &tunnels)?;
    let keys: Vec<&String> = want.sysctls.keys().chain(want.optional_sysctls.keys()).collect();
    let sysctls = if keys.is_empty() { BTreeMap::new() } else { place.run(|| Ok(read_sysctls(&keys)))? };
    let table = nft::read_table(&mut place.netfilter, TableFamily::Inet)?;
    Ok(SeenPlace {
        links,
        addresses,
        routes,
        forwarding,
        policy_rules,
        table_routes,
        loopback_routes,
        sysctls,
        table,
        guard: None,
        balanced: None,
    })
}

fn read_forwarding(place: &mut Place, tunnels: &BTreeMap<u32, &String>) -> io::Result<BTreeSet<Forwarding>> {
    let mut found = BTreeSet::new();
    if !tunnels.is_empty() {
        for request in [neighbour::dump_bridges(), neighbour::dump_neighbours()] {
            found.extend(neighbour::read(&place.route.dump(&request)?, tunnels));
        }
    }
    Ok(found)
}

fn read_sysctls(keys: &[&String]) -> BTreeMap<String, String> {
    keys.iter().filter_map(|key| Some(((*key).clone(), sysctl::read(key)?))).collect()
}
