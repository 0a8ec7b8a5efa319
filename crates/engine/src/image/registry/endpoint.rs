//! Where a registry is, and whether it is spoken to in the clear. Pure.

use skep_model::image::Reference;
use std::net::IpAddr;

const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// What the daemon was told about registries.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registries {
    /// `host[:port]` or CIDR.
    pub(crate) insecure: Vec<String>,
    /// URLs tried before docker.io.
    pub(crate) mirrors: Vec<String>,
}

/// The base of a registry's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Scheme, host and port, without a slash at the end.
    pub(crate) base: String,
    /// This machine: no proxy leads there.
    pub(crate) is_loopback: bool,
}

impl Endpoint {
    pub(crate) fn is_plain(&self) -> bool {
        self.base.starts_with("http://")
    }
}

impl Registries {
    /// The registry a reference names.
    pub(crate) fn origin(&self, reference: &Reference) -> Endpoint {
        if reference.registry == DOCKER_HUB {
            return Endpoint { base: format!("https://{DOCKER_HUB_HOST}"), is_loopback: false };
        }
        let is_loopback = is_loopback(&reference.registry);
        let plain = is_loopback || self.insecure.iter().any(|entry| covers(entry, &reference.registry));
        let scheme = if plain { "http" } else { "https" };
        Endpoint { base: format!("{scheme}://{}", reference.registry), is_loopback }
    }

    /// Mirrors first, the registry itself last.
    pub(crate) fn for_pull(&self, reference: &Reference) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        if reference.registry == DOCKER_HUB {
            for mirror in &self.mirrors {
                let base = mirror.trim_end_matches('/');
                let host = base.split_once("://").map_or(base, |(_, host)| host);
                endpoints.push(Endpoint { base: base.to_owned(), is_loopback: is_loopback(host) });
            }
        }
        endpoints.push(self.origin(reference));
        endpoints
    }
}

/// `host[:port]` without the port.
fn host_of(registry: &str) -> &str {
    match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host.trim_matches(['[', ']']),
        _ => registry.trim_matches(['[', ']']),
    }
}

fn is_loopback(registry: &str) -> bool {
    let host = host_of(registry);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether an entry of the insecure list means this registry.
fn covers(entry: &str, registry: &str) -> bool {
    let by_name = entry == registry || (!entry.contains(':') && entry == host_of(registry));
    let network = entry.parse::<ipnet::IpNet>().ok();
    let address = host_of(registry).parse::<IpAddr>().ok();
    by_name || network.zip(address).is_some_and(|(network, address)| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(reference: &str, expect: &str) {
        let registries = Registries {
            insecure: vec!["10.0.0.0/8".into(), "cache.lan:5000".into(), "plain.lan".into()],
            mirrors: vec!["http://127.0.0.1:1/".into()],
        };
        let endpoints = registries.for_pull(&Reference::parse(reference).unwrap());
        let bases: Vec<&str> = endpoints.iter().map(|endpoint| endpoint.base.as_str()).collect();
        assert_eq!(bases.join(" "), expect, "{reference}");
    }

    #[test]
    fn loopback_and_listed_registries_are_spoken_to_in_the_clear() {
        check("busybox", "http://127.0.0.1:1 https://registry-1.docker.io");
        check("127.0.0.1:5000/a", "http://127.0.0.1:5000");
        check("127.9.9.9:80/a", "http://127.9.9.9:80");
        check("localhost/a", "http://localhost");
        check("10.1.2.3:5000/a", "http://10.1.2.3:5000");
        check("11.1.2.3:5000/a", "https://11.1.2.3:5000");
        check("cache.lan:5000/a", "http://cache.lan:5000");
        check("cache.lan:5001/a", "https://cache.lan:5001");
        check("plain.lan:9/a", "http://plain.lan:9");
        check("quay.io/a/b", "https://quay.io");
        check("localhost.evil.com/a", "https://localhost.evil.com");
    }
}
