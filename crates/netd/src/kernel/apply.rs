//! Carries out operations; a failure is returned, never hidden, and the rest goes on.

use crate::balance::ipvs::table::SeenBalancing;
use crate::diff::Op;
use crate::kernel::netlink::Request;
use crate::kernel::netns::Namespace;
use crate::kernel::place::Place;
use crate::kernel::{ipvs, neighbour, nft, observe, policy, route, sysctl};
use crate::nft::table::TableFamily;
use crate::plan::{FORWARDING_IPV6, Link, LinkKind, OVERLAY_TUNNEL, PlaceId, Seen, Wanted, WantedPlace};
use skep_model::id::NetworkId;
use skep_model::net_trace::LinkCounters;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

/// The kernel as netd reaches it.
pub struct Kernel {
    host: Place,
    /// Where the namespaces of overlays are mounted.
    overlay_directory: PathBuf,
    /// Open for the length of one call only, lest a dead container's namespace lives on.
    others: BTreeMap<PlaceId, Place>,
}

/// What passes through a place.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    pub flows: Vec<crate::kernel::conntrack::Flow>,
    pub links: BTreeMap<String, LinkCounters>,
}

impl Kernel {
    /// # Errors
    /// When netlink sockets cannot be opened.
    pub fn open(overlay_directory: PathBuf) -> io::Result<Self> {
        Ok(Self { host: Place::host()?, overlay_directory, others: BTreeMap::new() })
    }

    /// Reads every place that is wanted.
    ///
    /// # Errors
    /// When a place can be opened but not read.
    pub fn observe(&mut self, wanted: &Wanted) -> io::Result<Seen> {
        let seen = self.observe_places(wanted, wanted.places.keys().cloned());
        self.others.clear();
        seen
    }

    /// Reads every place that is wanted, the host, and every overlay namespace that exists.
    ///
    /// # Errors
    /// When a place can be opened but not read.
    pub fn observe_all(&mut self, wanted: &Wanted) -> io::Result<Seen> {
        let mut ids: BTreeSet<PlaceId> = wanted.places.keys().cloned().collect();
        ids.insert(PlaceId::Host);
        ids.extend(self.existing_overlays()?);
        let seen = self.observe_places(wanted, ids.into_iter());
        self.others.clear();
        seen
    }

    fn observe_places(&mut self, wanted: &Wanted, ids: impl Iterator<Item = PlaceId>) -> io::Result<Seen> {
        let nothing = WantedPlace::default();
        let mut seen = Seen::default();
        for id in ids {
            let want = wanted.places.get(&id).unwrap_or(&nothing);
            let observed = match self.place(&id) {
                Ok(Some(place)) => observe::place(place, want).and_then(|mut seen| {
                    if matches!(id, PlaceId::Overlay(_)) {
                        seen.guard = nft::read_table(&mut place.netfilter, TableFamily::Bridge)?;
                    }
                    if !matches!(id, PlaceId::Container(_)) {
                        seen.balanced = ipvs::read(place, want.balanced.is_some())?;
                    }
                    Ok(Some(seen))
                }),
                Ok(None) => Ok(None),
                Err(error) => Err(error),
            };
            if id != PlaceId::Host {
                // One open container at a time: a thousand would be three thousand descriptors.
                self.others.remove(&id);
            }
            match observed {
                Ok(observed) => seen.places.extend(observed.map(|place| (id, place))),
                // One container must not keep the others from being looked after.
                Err(error) if matches!(id, PlaceId::Container(_)) => seen.unreadable.push(format!("{id}: {error}")),
                Err(error) => return Err(error),
            }
        }
        Ok(seen)
    }

    /// Does all operations in order and returns those that failed.
    pub fn apply(&mut self, ops: &[Op]) -> Vec<(Op, io::Error)> {
        let failed = ops.iter().filter_map(|op| self.apply_one(op).err().map(|error| (op.clone(), error))).collect();
        self.others.clear();
        self.host.forget();
        failed
    }

    /// Deletes the UDP flows of one place that were led to addresses which are gone.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn flush_flows(&mut self, id: &PlaceId, targets: &[(std::net::IpAddr, Option<u16>)]) -> io::Result<usize> {
        let flushed = match self.place(id)? {
            Some(place) => crate::kernel::conntrack::flush_udp(&mut place.netfilter, targets),
            None => Ok(0),
        };
        self.others.clear();
        flushed
    }

    /// Translated connections, and what links have carried; nothing where the place is gone.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn traffic(&mut self, id: &PlaceId) -> io::Result<Traffic> {
        let traffic = match self.place(id)? {
            Some(place) => Traffic {
                flows: crate::kernel::conntrack::flows(&mut place.netfilter)?,
                links: crate::kernel::counters::read(&place.route.dump(&route::dump_links())?),
            },
            None => Traffic::default(),
        };
        self.others.clear();
        Ok(traffic)
    }

    /// The MTU of the host's link that has an address; `None` when none has it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn link_mtu_of(&mut self, address: std::net::IpAddr) -> io::Result<Option<u32>> {
        let addresses = route::read_addresses(&self.host.route.dump(&route::dump_addresses())?);
        let Some((index, _)) = addresses.iter().find(|(_, net)| net.addr() == address) else { return Ok(None) };
        let links = route::read_links(&self.host.route.dump(&route::dump_links())?);
        Ok(links.values().find(|link| link.index == *index).map(|link| link.mtu))
    }

    /// What tells a container's namespace from others; `None` when it is gone.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn namespace_inode(&self, path: &std::path::Path) -> io::Result<Option<u64>> {
        Namespace::open(path)?.map(|namespace| namespace.inode()).transpose()
    }

    /// What IPVS has in a place; `None` when there is none of either.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn balanced(&mut self, id: &PlaceId) -> io::Result<Option<SeenBalancing>> {
        let balanced = match self.place(id)? {
            Some(place) => ipvs::read(place, true),
            None => Ok(None),
        };
        self.others.clear();
        balanced
    }

    fn path(&self, id: &PlaceId) -> PathBuf {
        match id {
            PlaceId::Host => PathBuf::from("/proc/self/ns/net"),
            PlaceId::Overlay(network) => self.overlay_directory.join(network.as_str()),
            PlaceId::Container(path) => path.clone(),
        }
    }

    fn existing_overlays(&self) -> io::Result<Vec<PlaceId>> {
        let entries = match std::fs::read_dir(&self.overlay_directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let name = |entry: io::Result<std::fs::DirEntry>| Some(entry.ok()?.file_name().to_string_lossy().into_owned());
        Ok(entries.filter_map(name).map(|name| PlaceId::Overlay(NetworkId(name))).collect())
    }

    fn place(&mut self, id: &PlaceId) -> io::Result<Option<&mut Place>> {
        if *id == PlaceId::Host {
            return Ok(Some(&mut self.host));
        }
        if !self.others.contains_key(id) {
            let Some(place) = Place::open(&self.path(id))? else { return Ok(None) };
            self.others.insert(id.clone(), place);
        }
        Ok(self.others.get_mut(id))
    }

    fn required_place(&mut self, id: &PlaceId) -> io::Result<&mut Place> {
        self.place(id)?.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{id} is gone")))
    }

    fn apply_one(&mut self, op: &Op) -> io::Result<()> {
        match op {
            Op::CreateNamespace(network) => {
                let namespace = Namespace::create(&self.overlay_directory.join(network.as_str()))?;
                // The kernel tells of changes only in namespaces that it has a number for.
                present_is_fine(self.host.route.send_one(&route::number_namespace(namespace.raw_fd())))
            }
            Op::RemoveNamespace(network) => self.remove_overlay(network),
            Op::DeleteLink { place, name } => {
                let place = self.required_place(place)?;
                place.forget();
                absent_is_fine(place.route.send_one(&route::delete_link(name)))
            }
            Op::CreateLink { place, name, link } => self.create_link(place, name, link),
            Op::UpdateLink { place, name, link } => {
                let place = self.required_place(place)?;
                let requests = update_requests(place, name, link)?;
                all_ok(place.route.send_all(&requests)?)
            }
            Op::AddAddress { place, link, address } => {
                let place = self.required_place(place)?;
                let index = place.index(link)?;
                place.route.send_one(&route::add_address(index, *address))
            }
            Op::RemoveAddress { place, link, address } => {
                let place = self.required_place(place)?;
                let index = place.index(link)?;
                absent_is_fine(place.route.send_one(&route::delete_address(index, *address)))
            }
            Op::SetSysctl { place, key, value, optional } => {
                let write = || {
                    if key == FORWARDING_IPV6 {
                        sysctl::keep_learning_routers()?;
                    }
                    sysctl::write(key, value)
                };
                match self.required_place(place)?.run(write) {
                    Err(error) if *optional && error.kind() == io::ErrorKind::NotFound => Ok(()),
                    other => other,
                }
            }
            Op::SetDefaultRoute { place, route } => {
                let place = self.required_place(place)?;
                let index = place.index(&route.interface)?;
                place.route.send_one(&route::set_default_route(index, route.gateway))
            }
            Op::AddForwarding { place, entry } => {
                let place = self.required_place(place)?;
                let index = place.index(entry.link())?;
                place.route.send_one(&neighbour::add(entry, index))
            }
            Op::RemoveForwarding { place, entry } => {
                let place = self.required_place(place)?;
                let index = place.index(entry.link())?;
                absent_is_fine(place.route.send_one(&neighbour::delete(entry, index)))
            }
            Op::AddPolicyRule { place, rule } => {
                present_is_fine(self.required_place(place)?.route.send_one(&policy::add_rule(rule)))
            }
            Op::RemovePolicyRule { place, rule } => {
                absent_is_fine(self.required_place(place)?.route.send_one(&policy::delete_rule(rule)))
            }
            Op::SetTableRoute { place, route } => {
                let place = self.required_place(place)?;
                let index = place.index(&route.interface)?;
                place.route.send_one(&policy::set_route(route, index))
            }
            Op::RemoveTableRoute { place, route } => {
                absent_is_fine(self.required_place(place)?.route.send_one(&policy::delete_route(route)))
            }
            Op::SetLoopbackRoute { place, link } => {
                let place = self.required_place(place)?;
                let index = place.index(link)?;
                present_is_fine(place.route.send_one(&policy::set_loopback_route(index)))
            }
            Op::Rules { place, family, changes } => {
                nft::apply(&mut self.required_place(place)?.netfilter, *family, changes)
            }
            Op::Balance { place, changes } => ipvs::apply(self.required_place(place)?, changes),
        }
    }

    /// The kernel takes a namespace down some time after its last use, and the tunnel's
    /// identifier would be taken until then.
    fn remove_overlay(&mut self, network: &NetworkId) -> io::Result<()> {
        let id = PlaceId::Overlay(network.clone());
        if let Some(place) = self.place(&id)? {
            absent_is_fine(place.route.send_one(&route::delete_link(OVERLAY_TUNNEL)))?;
        }
        self.others.remove(&id);
        Namespace::remove(&self.overlay_directory.join(network.as_str()))
    }

    fn create_link(&mut self, id: &PlaceId, name: &str, link: &Link) -> io::Result<()> {
        if let LinkKind::Vxlan(_) = link.kind {
            return self.create_tunnel(id, name, link);
        }
        let target = match &link.kind {
            LinkKind::Port(port) => Some(
                Namespace::open(&port.namespace)?
                    .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the container's namespace is gone"))?,
            ),
            _ => None,
        };
        let place = self.required_place(id)?;
        place.forget();
        let bridge = bridge_index(place, link)?;
        let mut requests = vec![route::create_link(name, link, bridge, target.as_ref().map(Namespace::raw_fd))];
        // The bridge is set already; naming it again would unplug and plug.
        requests.push(route::update_link(name, link, None));
        requests.extend(link.port.as_ref().map(|port| route::update_port(name, port)));
        let mut outcome = all_ok(place.route.send_all(&requests)?);
        if is_existing(&outcome) && matches!(link.kind, LinkKind::Port(_)) {
            // The name belongs to this endpoint alone: it is the rest of an earlier leg.
            place.route.send_one(&route::delete_link(name))?;
            outcome = all_ok(place.route.send_all(&requests)?);
        }
        if outcome.is_err() && matches!(link.kind, LinkKind::Port(_)) {
            // Half a port would look finished to nobody and stay in the way.
            let created = place.index(name).is_ok();
            if created {
                place.route.send_one(&route::delete_link(name))?;
            }
        }
        outcome
    }

    /// A tunnel is made on the host, where its outer packets travel, and moved.
    fn create_tunnel(&mut self, id: &PlaceId, name: &str, link: &Link) -> io::Result<()> {
        let target = match id {
            PlaceId::Host => None,
            PlaceId::Overlay(_) | PlaceId::Container(_) => Some(
                Namespace::open(&self.path(id))?
                    .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the overlay's namespace is gone"))?,
            ),
        };
        let request = route::create_link(name, link, None, target.as_ref().map(Namespace::raw_fd));
        self.host.forget();
        self.host.route.send_one(&request)?;
        let place = self.required_place(id)?;
        let requests = update_requests(place, name, link)?;
        all_ok(place.route.send_all(&requests)?)
    }
}

fn bridge_index(place: &mut Place, link: &Link) -> io::Result<Option<u32>> {
    link.port.as_ref().map(|port| place.index(&port.bridge)).transpose()
}

fn update_requests(place: &mut Place, name: &str, link: &Link) -> io::Result<Vec<Request>> {
    let bridge = bridge_index(place, link)?;
    let mut requests = vec![route::update_link(name, link, bridge)];
    requests.extend(link.port.as_ref().map(|port| route::update_port(name, port)));
    Ok(requests)
}

fn all_ok(outcomes: Vec<io::Result<()>>) -> io::Result<()> {
    outcomes.into_iter().collect()
}

fn present_is_fine(outcome: io::Result<()>) -> io::Result<()> {
    if is_existing(&outcome) { Ok(()) } else { outcome }
}

fn is_existing(outcome: &io::Result<()>) -> bool {
    outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists)
}

fn absent_is_fine(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        // Routes that are gone are "no such process" to the kernel.
        Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => Ok(()),
        Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) || error.kind() == io::ErrorKind::NotFound => {
            Ok(())
        }
        Err(error) if error.raw_os_error() == Some(nix::libc::EADDRNOTAVAIL) => Ok(()),
        other => other,
    }
}
