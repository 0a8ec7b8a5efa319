use super::*;
use crate::version::API_VERSION;
use serde_json::json;
use skep_model::Timestamp;
use skep_model::container::EndpointInfo;
use skep_model::network::PortBinding as ModelBinding;

fn create(name: &str, body: serde_json::Value) -> Result<(ContainerSpec, Vec<String>)> {
    serde_json::from_value::<CreateBody>(body).unwrap().into_spec(name)
}

#[test]
fn a_body_becomes_a_spec() {
    let (spec, warnings) = create(
        "/web",
        json!({
            "Image": "busybox", "Cmd": ["sleep", "1"], "Env": null,
            "HostConfig": {"NetworkMode": "net1", "Links": null},
            "NetworkingConfig": {"EndpointsConfig": {"net1": null, "net2": {"Aliases": ["a"]}}}
        }),
    )
    .unwrap();
    assert!(warnings.is_empty());
    assert_eq!((spec.name.as_str(), spec.config.image.as_str()), ("web", "busybox"));
    assert_eq!(spec.networks.keys().collect::<Vec<_>>(), ["net1", "net2"]);
    assert_eq!(spec.networks["net2"].aliases, ["a"]);
}

#[test]
fn links_go_to_the_networks_leg() {
    let spec = create("", json!({"Image": "i", "HostConfig": {"Links": ["db:db"]}})).unwrap().0;
    assert_eq!(spec.networks["bridge"].links, ["db:db"]);
    assert!(create("", json!({"Image": "i", "HostConfig": {"Links": ["a"], "NetworkMode": "host"}})).is_err());
}

#[test]
fn odd_names_are_a_short_400() {
    for name in ["ünï", "a b", "-x", "x", &"n".repeat(10_000), &"é".repeat(10_000), "a/b", "\u{0}\u{1f600}"] {
        let error = create(name, json!({"Image": "i"})).unwrap_err();
        assert_eq!(error.kind, skep_model::ErrorKind::InvalidArgument);
        assert!(error.message.len() < 1000, "{}", error.message.len());
    }
    assert!(create("x", json!({})).is_err(), "an image is needed");
}

#[test]
fn update_keeps_the_policy_unless_one_is_named() {
    let read = |value| serde_json::from_value::<UpdateBody>(value).unwrap().into_model();
    assert_eq!(read(json!({"Memory": 10_000_000})).unwrap().1, None);
    assert_eq!(read(json!({"RestartPolicy": {"Name": ""}})).unwrap().1, None);
    assert!(read(json!({"RestartPolicy": {"Name": "always"}})).unwrap().1.is_some());
    assert!(read(json!({"RestartPolicy": {"Name": "x"}})).is_err());
}

fn running() -> ContainerInfo {
    let mut info = ContainerInfo {
        id: "6c34".into(),
        name: "c1".into(),
        created: Timestamp(1_500_000_000_000_000_000),
        sandbox_key: "/var/run/skep/netns/64ad".into(),
        ..ContainerInfo::default()
    };
    info.state.status = ContainerStatus::Running;
    info.config.exposed_ports = ["80/tcp".parse().unwrap(), "81/tcp".parse().unwrap()].into();
    info.ports.insert("80/tcp".parse().unwrap(), vec![ModelBinding { host_port: 8099, ..ModelBinding::default() }]);
    let leg = EndpointInfo {
        ip_address: Some("172.17.0.2".parse().unwrap()),
        ip_prefix_len: 16,
        dns_names: vec!["c1".into()],
        ..EndpointInfo::default()
    };
    info.endpoints.insert("bridge".into(), leg);
    info
}

#[test]
fn inspect_has_dockers_fields() {
    let wire = serde_json::to_value(Inspect::of(&running(), None, API_VERSION)).unwrap();
    let settings = &wire["NetworkSettings"];
    assert_eq!(wire["Name"], "/c1");
    assert_eq!(wire["State"]["FinishedAt"], "0001-01-01T00:00:00Z");
    assert_eq!(settings["Ports"], json!({"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8099"}], "81/tcp": null}));
    assert_eq!((&settings["IPAddress"], &settings["SandboxID"]), (&json!("172.17.0.2"), &json!("64ad")));
    assert_eq!(settings["Networks"]["bridge"]["IPAMConfig"], json!(null));
    assert_eq!(settings["Networks"]["bridge"]["DNSNames"], json!(["c1"]));
    assert!(wire.get("SizeRw").is_none());
    let fields = "Id Created Path Args State Image ResolvConfPath HostnamePath HostsPath LogPath Name RestartCount Driver \
                  Platform MountLabel ProcessLabel AppArmorProfile ExecIDs HostConfig GraphDriver Mounts Config \
                  NetworkSettings";
    for field in fields.split_whitespace() {
        assert!(wire.get(field).is_some(), "{field}");
    }
}

#[test]
fn a_stopped_container_has_no_ports() {
    let mut info = running();
    info.state.status = ContainerStatus::Exited;
    let old = ApiVersion { major: 1, minor: 41 };
    let wire = serde_json::to_value(Inspect::of(&info, Some((1, 2)), old)).unwrap();
    assert_eq!(wire["NetworkSettings"]["Ports"], json!({}));
    assert_eq!(wire["NetworkSettings"]["Networks"]["bridge"]["DNSNames"], json!(null));
    assert_eq!((&wire["SizeRw"], &wire["SizeRootFs"]), (&json!(1), &json!(2)));
}
