//! Verbs on networks and volumes.

use super::{for_each, inspect_kind};
use crate::client::{filters, query, segment};
use crate::flags::network::{Connect, Network, NetworkCreate, VerifyFlags, Volume, VolumeCreate};
use crate::flags::{ListFlags, RemoveFlags};
use crate::format::{Listing, text};
use crate::{Client, Outcome, human, parse};
use anyhow::anyhow;
use serde_json::{Map, Value, json};

pub(crate) async fn networks(client: &Client, verb: Network) -> Outcome {
    match verb {
        Network::Connect(flags) => connect(client, &flags).await,
        Network::Create(flags) => create_network(client, &flags).await,
        Network::Disconnect(flags) => {
            let body = json!({"Container": flags.container, "Force": flags.force});
            client.post(&format!("/networks/{}/disconnect", segment(&flags.network)), body).await.map(drop)
        }
        Network::Inspect(flags) => inspect_kind(client, &flags.names, &flags.format, "/networks/{}").await,
        Network::Ls(flags) => list_networks(client, &flags).await,
        Network::Prune(flags) => {
            super::system::prune_kind(
                client,
                "networks",
                &flags,
                "This will remove all custom networks not used by at least one container.",
            )
            .await
        }
        Network::Rm(flags) => remove(client, &flags, "networks").await,
        Network::Trace(flags) => super::network_trace::trace(client, &flags).await,
        Network::Verify(flags) => verify(client, &flags).await,
    }
}

/// Every difference on a line; none is success.
async fn verify(client: &Client, flags: &VerifyFlags) -> Outcome {
    let options = query(&[("all", if flags.all_nodes { "1" } else { "" })]);
    let answer = client.get(&format!("/skep/networks/verify{options}")).await?;
    let lines = verified(&answer);
    if flags.format == "json" {
        println!("{answer}");
    } else {
        lines.iter().for_each(|(line, _)| println!("{line}"));
    }
    match lines.iter().filter(|(_, is_fine)| !is_fine).count() {
        0 => Ok(()),
        1 => Err(anyhow!("1 difference").into()),
        count => Err(anyhow!("{count} differences").into()),
    }
}

/// What to print of one node or all, and whether each line is good news.
fn verified(answer: &Value) -> Vec<(String, bool)> {
    let Some(nodes) = answer["Nodes"].as_array() else { return verified_node(answer, "") };
    nodes.iter().flat_map(|node| verified_node(node, &format!("{}: ", text(&node["Hostname"])))).collect()
}

fn verified_node(node: &Value, prefix: &str) -> Vec<(String, bool)> {
    if let Some(error) = node["Error"].as_str() {
        return vec![(format!("{prefix}{error}"), false)];
    }
    let list = |field: &str| node[field].as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
    let mut lines: Vec<(String, bool)> =
        list("Differences").into_iter().map(|line| (format!("{prefix}{line}"), false)).collect();
    lines.extend(list("Failing").into_iter().map(|line| (format!("{prefix}failing: {line}"), false)));
    if lines.is_empty() {
        let (generation, repairs) = (&node["Generation"], &node["Repairs"]);
        lines.push((format!("{prefix}as wanted (generation {generation}, {repairs} repairs)"), true));
    }
    lines
}

async fn list_networks(client: &Client, flags: &ListFlags) -> Outcome {
    let answer = client.get(&format!("/networks{}", query(&[("filters", &filters(&flags.filter)?)]))).await?;
    let mut rows: Vec<Value> = answer
        .as_array()
        .into_iter()
        .flatten()
        .map(|network| {
            let id = text(&network["Id"]);
            json!({
                "ID": if flags.no_trunc { id } else { human::short_id(&id) },
                "Name": network["Name"], "Driver": network["Driver"], "Scope": network["Scope"],
                "Internal": network["Internal"], "IPv6": network["EnableIPv6"], "CreatedAt": network["Created"],
            })
        })
        .collect();
    rows.sort_by_key(|row| text(&row["Name"]));
    let columns = [("ID", "NETWORK ID"), ("Name", "NAME"), ("Driver", "DRIVER"), ("Scope", "SCOPE")];
    Listing { columns: &columns, rows, id: "ID" }.print(&flags.format, flags.quiet)
}

async fn create_network(client: &Client, flags: &NetworkCreate) -> Outcome {
    let body = network_body(flags)?;
    let answer = client.post("/networks/create", body).await?;
    if let Some(warning) = answer["Warning"].as_str().filter(|w| !w.is_empty()) {
        eprintln!("WARNING: {warning}");
    }
    println!("{}", text(&answer["Id"]));
    Ok(())
}

fn network_body(flags: &NetworkCreate) -> anyhow::Result<Value> {
    let contains = |subnet: &str, address: &str| {
        let address = address.split('/').next().unwrap_or_default();
        match (subnet.parse::<ipnet::IpNet>(), address.parse::<std::net::IpAddr>()) {
            (Ok(net), Ok(address)) => net.contains(&address),
            _ => false,
        }
    };
    let mut config: Vec<Map<String, Value>> =
        flags.subnet.iter().map(|s| Map::from_iter([("Subnet".to_owned(), s.clone().into())])).collect();
    if config.is_empty() && (!flags.gateway.is_empty() || !flags.ip_range.is_empty()) {
        return Err(anyhow!("every ip-range or gateway must have a corresponding subnet"));
    }
    for (field, values) in [("IPRange", &flags.ip_range), ("Gateway", &flags.gateway)] {
        for value in values {
            let fits = |entry: &&mut Map<String, Value>| contains(entry["Subnet"].as_str().unwrap_or_default(), value);
            let entry = config.iter_mut().find(fits).ok_or_else(|| {
                anyhow!("no matching subnet for {} {value}", if field == "Gateway" { "gateway" } else { "range" })
            })?;
            entry.insert(field.into(), value.clone().into());
        }
    }
    for text in &flags.aux_address {
        let (name, address) = text.split_once('=').ok_or_else(|| anyhow!("invalid aux-address: {text}"))?;
        let entry = config
            .iter_mut()
            .find(|e| contains(e["Subnet"].as_str().unwrap_or_default(), address))
            .ok_or_else(|| anyhow!("no matching subnet for aux-address {address}"))?;
        entry.entry("AuxiliaryAddresses").or_insert_with(|| json!({}))[name] = address.into();
    }
    let mut body = json!({
        "Name": flags.name, "Driver": flags.driver, "Internal": flags.internal, "Attachable": flags.attachable,
        "Ingress": flags.ingress, "EnableIPv6": flags.ipv6, "Labels": parse::labels(&flags.label), "Options": parse::labels(&flags.opt),
        "IPAM": {"Driver": flags.ipam_driver, "Options": parse::labels(&flags.ipam_opt), "Config": config},
    });
    if !flags.scope.is_empty() {
        body["Scope"] = flags.scope.clone().into();
    }
    Ok(body)
}

async fn connect(client: &Client, flags: &Connect) -> Outcome {
    let mut ipam = json!({});
    if !flags.ip.is_empty() {
        ipam["IPv4Address"] = flags.ip.clone().into();
    }
    if !flags.ip6.is_empty() {
        ipam["IPv6Address"] = flags.ip6.clone().into();
    }
    let body = json!({"Container": flags.container, "EndpointConfig": {"Aliases": flags.alias, "IPAMConfig": ipam}});
    client.post(&format!("/networks/{}/connect", segment(&flags.network)), body).await.map(drop)
}

async fn remove(client: &Client, flags: &RemoveFlags, kind: &str) -> Outcome {
    let options = query(&[("force", if flags.force { "1" } else { "" })]);
    let options = &options;
    for_each(&flags.names, |name| async move {
        client.delete(&format!("/{kind}/{}{options}", segment(name))).await?;
        Ok(Some(name.to_owned()))
    })
    .await
}

pub(crate) async fn volumes(client: &Client, verb: Volume) -> Outcome {
    match verb {
        Volume::Create(flags) => create_volume(client, &flags).await,
        Volume::Inspect(flags) => inspect_kind(client, &flags.names, &flags.format, "/volumes/{}").await,
        Volume::Ls(flags) => list_volumes(client, &flags).await,
        Volume::Prune(flags) => {
            super::system::prune_kind(
                client,
                "volumes",
                &flags,
                "This will remove anonymous local volumes not used by at least one container.",
            )
            .await
        }
        Volume::Rm(flags) => remove(client, &flags, "volumes").await,
    }
}

async fn create_volume(client: &Client, flags: &VolumeCreate) -> Outcome {
    let body = json!({"Name": flags.name, "Driver": flags.driver, "DriverOpts": parse::labels(&flags.opt), "Labels": parse::labels(&flags.label)});
    println!("{}", text(&client.post("/volumes/create", body).await?["Name"]));
    Ok(())
}

async fn list_volumes(client: &Client, flags: &ListFlags) -> Outcome {
    let answer = client.get(&format!("/volumes{}", query(&[("filters", &filters(&flags.filter)?)]))).await?;
    let mut rows: Vec<Value> = answer["Volumes"].as_array().into_iter().flatten().map(|volume| {
        json!({"Driver": volume["Driver"], "Name": volume["Name"], "Mountpoint": volume["Mountpoint"], "Scope": volume["Scope"]})
    }).collect();
    rows.sort_by_key(|row| text(&row["Name"]));
    Listing { columns: &[("Driver", "DRIVER"), ("Name", "VOLUME NAME")], rows, id: "Name" }
        .print(&flags.format, flags.quiet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answer: &Value, expect: &[(&str, bool)]) {
        let lines = verified(answer);
        let lines: Vec<(&str, bool)> = lines.iter().map(|(line, fine)| (line.as_str(), *fine)).collect();
        assert_eq!(lines, expect);
    }

    #[test]
    fn every_node_says_what_differs_or_that_nothing_does() {
        let fine = json!({"Generation": 7, "Repairs": 1, "Differences": [], "Failing": []});
        check(&fine, &[("as wanted (generation 7, 1 repairs)", true)]);
        let nodes = json!({"Nodes": [
            {"Hostname": "a", "Generation": 7, "Repairs": 0, "Differences": ["host: link br0 is missing"], "Failing": []},
            {"Hostname": "b", "Error": "it did not answer in time"},
        ]});
        check(&nodes, &[("a: host: link br0 is missing", false), ("b: it did not answer in time", false)]);
    }
}
