//! The files that tell a container about names: `hosts` and `resolv.conf`.

use skep_model::container::HostConfig;
use std::net::IpAddr;

/// Our resolver inside a container's namespace.
const EMBEDDED_RESOLVER: &str = "127.0.0.11";
/// Used where the host has no server a container could reach.
const PUBLIC_RESOLVERS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// `/etc/hosts`: the fixed part, extra hosts, then own addresses with the host name.
pub(crate) fn hosts(extra: &[(String, String)], own: &[IpAddr], hostname: &str, domainname: &str) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
         ff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    for (name, address) in extra {
        text.push_str(&format!("{address}\t{name}\n"));
    }
    let names = if domainname.is_empty() { hostname.to_owned() } else { format!("{hostname}.{domainname} {hostname}") };
    for address in own {
        text.push_str(&format!("{address}\t{names}\n"));
    }
    text
}

/// `name:ip` pairs with `host-gateway` filled in.
pub(crate) fn extra_hosts(host: &HostConfig, gateway: Option<IpAddr>) -> Vec<(String, String)> {
    let parse = |entry: &String| {
        let (name, address) = entry.split_once([':', '='])?;
        let address = match (address, gateway) {
            ("host-gateway", Some(gateway)) => gateway.to_string(),
            ("host-gateway", None) => return None,
            (address, _) => address.trim_matches(['[', ']']).to_owned(),
        };
        Some((name.to_owned(), address))
    };
    host.extra_hosts.iter().filter_map(parse).collect()
}

/// What the user or the daemon's configuration asks of name resolution.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Wishes {
    pub(crate) servers: Vec<IpAddr>,
    pub(crate) search: Vec<String>,
    pub(crate) options: Vec<String>,
}

/// `resolv.conf` of a container that resolves through us.
pub(crate) fn resolv_conf_embedded(host_file: &str, wishes: &Wishes) -> String {
    let mut options = wishes.options.clone();
    if !options.iter().any(|option| option.starts_with("ndots:")) {
        options.push("ndots:0".into());
    }
    render(&[EMBEDDED_RESOLVER.to_owned()], &search_of(host_file, wishes), &options)
}

/// `resolv.conf` of a container that asks the host's servers itself. `own_namespace`:
/// servers on the host's loopback are out of reach.
pub(crate) fn resolv_conf_of_host(host_file: &str, wishes: &Wishes, own_namespace: bool) -> String {
    let mut servers: Vec<String> = wishes.servers.iter().map(IpAddr::to_string).collect();
    if servers.is_empty() {
        servers = servers_of(host_file, own_namespace);
    }
    if servers.is_empty() {
        servers = PUBLIC_RESOLVERS.iter().map(|&server| server.to_owned()).collect();
    }
    let options = if wishes.options.is_empty() { words(host_file, "options") } else { wishes.options.clone() };
    render(&servers, &search_of(host_file, wishes), &options)
}

fn servers_of(host_file: &str, own_namespace: bool) -> Vec<String> {
    let lines = host_file.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let servers = lines.map(|rest| rest.trim().to_owned()).filter(|server| {
        let address = server.split('%').next().unwrap_or_default().parse::<IpAddr>();
        address.is_ok_and(|address| !(own_namespace && address.is_loopback()))
    });
    servers.collect()
}

fn search_of(host_file: &str, wishes: &Wishes) -> Vec<String> {
    match wishes.search.as_slice() {
        [] => words(host_file, "search"),
        // A lone dot stands for "no search list".
        [only] if only == "." => Vec::new(),
        own => own.to_vec(),
    }
}

fn words(host_file: &str, key: &str) -> Vec<String> {
    let mut lines = host_file.lines().filter_map(|line| line.trim().strip_prefix(key));
    lines.next_back().map(|rest| rest.split_ascii_whitespace().map(str::to_owned).collect()).unwrap_or_default()
}

fn render(servers: &[String], search: &[String], options: &[String]) -> String {
    let mut text = String::new();
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    for (key, list) in [("search", search), ("options", options)] {
        if !list.is_empty() {
            text.push_str(&format!("{key} {}\n", list.join(" ")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "# x\nnameserver 127.0.0.53\nnameserver 10.0.0.2\nsearch corp.example\noptions edns0\n";

    #[test]
    fn user_networks_ask_us() {
        let text = resolv_conf_embedded(HOST, &Wishes::default());
        assert_eq!(text, "nameserver 127.0.0.11\nsearch corp.example\noptions ndots:0\n");
    }

    #[test]
    fn the_default_bridge_asks_the_hosts_servers_it_can_reach() {
        let text = resolv_conf_of_host(HOST, &Wishes::default(), true);
        assert_eq!(text, "nameserver 10.0.0.2\nsearch corp.example\noptions edns0\n");
        let text = resolv_conf_of_host("nameserver 127.0.0.1\n", &Wishes::default(), true);
        assert_eq!(text, "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
        let wishes = Wishes { servers: vec!["1.1.1.1".parse().unwrap()], search: vec![".".into()], options: vec![] };
        assert_eq!(resolv_conf_of_host(HOST, &wishes, true), "nameserver 1.1.1.1\noptions edns0\n");
        assert!(resolv_conf_of_host(HOST, &Wishes::default(), false).starts_with("nameserver 127.0.0.53\n"));
    }

    #[test]
    fn hosts_has_own_addresses_last() {
        let host =
            HostConfig { extra_hosts: vec!["db:10.1.1.1".into(), "up:host-gateway".into()], ..Default::default() };
        let extra = extra_hosts(&host, "172.17.0.1".parse().ok());
        let text = hosts(&extra, &["172.17.0.2".parse().unwrap()], "abc", "");
        assert!(text.ends_with("10.1.1.1\tdb\n172.17.0.1\tup\n172.17.0.2\tabc\n"));
    }
}
