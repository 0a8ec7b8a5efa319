//! Foreign JSON never panics a conversion: random values below the names that matter,
//! and known bodies with one part replaced by something else.

use super::feed::feed_all;
use super::image;
use crate::filters::Filters;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};

const ROUNDS: u64 = 3000;
const NAMES: &str = "Name Labels TaskTemplate ContainerSpec Image Env Mounts Mode Replicated Replicas Global UpdateConfig \
    Parallelism Delay Monitor EndpointSpec Ports TargetPort PublishedPort Protocol Resources Limits NanoCPUs Placement \
    Constraints Preferences Spread HostConfig Binds PortBindings 80/tcp HostPort HostIp Memory RestartPolicy Condition \
    MaximumRetryCount NetworkingConfig EndpointsConfig IPAMConfig IPv4Address Cmd Entrypoint ExposedPorts Healthcheck \
    Test Interval Retries Type Source Target VolumeOptions TmpfsOptions SizeBytes Dns Ulimits Devices Data IPAM Config \
    Subnet Gateway Raft CAConfig DataPathPort SubnetSize DefaultAddrPool Role Availability LogConfig ShmSize Secrets File \
    Mode StopGracePeriod StopTimeout DriverConfig Options ConsoleSize Annotations";
const TEXTS: [&str; 14] = [
    "",
    "a",
    "80/tcp",
    "0/tcp",
    "é\u{0}\u{1f600}",
    "-1",
    "99999999999999999999",
    "10.0.0.0/8",
    "::1",
    "bind",
    "volume",
    "=",
    "always",
    "\u{202e}x",
];

fn random(rng: &mut StdRng, names: &[&str], depth: u32) -> Value {
    match rng.random_range(0..if depth == 0 { 7 } else { 11 }) {
        0 => Value::Null,
        1 => json!(rng.random::<bool>()),
        2 => json!(rng.random::<i64>()),
        3 => json!(rng.random::<u64>()),
        4 => json!(rng.random_range(-3.0..3.0)),
        5 => json!(*[0, 1, -1, i64::MAX, i64::MIN, 65_536].choose(rng).unwrap()),
        6 => json!(TEXTS.choose(rng).unwrap()),
        7 => json!("x".repeat(rng.random_range(0..20_000))),
        8 => Value::Array((0..rng.random_range(0..4)).map(|_| random(rng, names, depth - 1)).collect()),
        _ => {
            let mut map = Map::new();
            for _ in 0..rng.random_range(0..8) {
                let name = if rng.random_bool(0.9) { names.choose(rng).unwrap() } else { TEXTS.choose(rng).unwrap() };
                map.insert((*name).to_owned(), random(rng, names, depth - 1));
            }
            map.into()
        }
    }
}

/// Replaces one value somewhere.
fn mutate(value: &mut Value, rng: &mut StdRng, names: &[&str]) {
    let children = match value {
        Value::Array(list) => list.len(),
        Value::Object(map) => map.len(),
        _ => 0,
    };
    if children == 0 || rng.random_bool(0.2) {
        *value = random(rng, names, 3);
        return;
    }
    let index = rng.random_range(0..children);
    match value {
        Value::Array(list) => mutate(&mut list[index], rng, names),
        Value::Object(map) => mutate(map.values_mut().nth(index).unwrap(), rng, names),
        _ => unreachable!("only lists and maps have children"),
    }
}

#[test]
fn random_bodies_never_panic() {
    let names: Vec<&str> = NAMES.split_whitespace().collect();
    for seed in 0..ROUNDS {
        let mut rng = StdRng::seed_from_u64(seed);
        feed_all(&random(&mut rng, &names, 6));
    }
}

#[test]
fn known_bodies_with_one_odd_part_never_panic() {
    let names: Vec<&str> = NAMES.split_whitespace().collect();
    let known = [
        super::service_out::tests::full(),
        json!({"Image": "i", "Cmd": ["a"], "ExposedPorts": {"80/tcp": {}}, "Healthcheck": {"Test": ["NONE"]},
            "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "1.2.3.4", "HostPort": "80-90"}]},
                "Mounts": [{"Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": {"CreateMountpoint": true}}],
                "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}, "Dns": ["1.1.1.1"], "Memory": 9_000_000},
            "NetworkingConfig": {"EndpointsConfig": {"n": {"IPAMConfig": {"IPv4Address": "10.0.0.2"}, "Aliases": ["x"]}}}}),
        json!({"Name": "n1", "Driver": "bridge", "IPAM": {"Config": [{"Subnet": "10.0.0.0/24", "Gateway": "10.0.0.1",
            "AuxiliaryAddresses": {"a": "10.0.0.3"}}]}, "Data": "YQ==", "Role": "worker", "RemoteAddrs": ["a"],
            "Spec": {"Raft": {"ElectionTick": 3}, "CAConfig": {"NodeCertExpiry": 5}}, "DefaultAddrPool": ["10.0.0.0/8"]}),
    ];
    for seed in 0..ROUNDS {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut body = known.choose(&mut rng).unwrap().clone();
        mutate(&mut body, &mut rng, &names);
        feed_all(&body);
    }
}

#[test]
fn random_filters_never_panic() {
    let names = ["name", "label", "until", "status", "id", "reference", "dangling"];
    for seed in 0..ROUNDS {
        let mut rng = StdRng::seed_from_u64(seed);
        let Ok(filters) = Filters::parse(&random(&mut rng, &names, 3).to_string()) else { continue };
        for key in names {
            let _ = (filters.boolean(key), filters.pattern(key, "text"), filters.prefix(key, "text"));
        }
        let _ = image::select(vec![], true, &filters, None, |_| Err(skep_model::Error::not_found("")));
    }
}
