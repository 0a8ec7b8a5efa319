//! Reads what the kernel has, by dumps.

use crate::kernel::place::Place;
use crate::kernel::{nft, route, sysctl};
use crate::plan::{DefaultRoute, SeenPlace, WantedPlace};
use std::collections::BTreeMap;
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
    let routes = route::read_default_routes(&place.route.dump(&route::dump_routes())?)
        .into_iter()
        .filter_map(|(index, gateway)| Some(DefaultRoute { interface: (*names.get(&index)?).clone(), gateway }))
        .collect();
    let keys: Vec<&String> = want.sysctls.keys().chain(want.optional_sysctls.keys()).collect();
    let sysctls = if keys.is_empty() { BTreeMap::new() } else { place.run(|| Ok(read_sysctls(&keys)))? };
    let table = nft::read_table(&mut place.netfilter)?;
    Ok(SeenPlace { links, addresses, routes, sysctls, table, balanced: None })
}

fn read_sysctls(keys: &[&String]) -> BTreeMap<String, String> {
    keys.iter().filter_map(|key| Some(((*key).clone(), sysctl::read(key)?))).collect()
}
