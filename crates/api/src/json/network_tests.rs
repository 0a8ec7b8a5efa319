use super::*;
use skep_model::ErrorKind;
use skep_model::network::NetworkContainer;

fn create(value: Value) -> Result<(NetworkSpec, NetworkScope)> {
    serde_json::from_value::<CreateBody>(value).unwrap().into_model()
}

#[test]
fn overlays_go_to_the_swarm() {
    assert_eq!(create(json!({"Name": "n1", "Driver": "overlay"})).unwrap().1, NetworkScope::Swarm);
    let (spec, scope) = create(json!({
        "Name": "n1", "CheckDuplicate": true, "Driver": "", "EnableIPv6": null, "Options": null, "Labels": null,
        "IPAM": {"Driver": "default", "Options": null, "Config": [{"Subnet": "10.1.0.0/24", "Gateway": "10.1.0.9",
            "IPRange": "10.1.0.128/25", "AuxiliaryAddresses": {"a": "10.1.0.5"}}]}
    }))
    .unwrap();
    assert_eq!((scope, spec.driver.as_str()), (NetworkScope::Local, "bridge"));
    assert_eq!(spec.ipam[0].gateway, Some("10.1.0.9".parse().unwrap()));
}

#[test]
fn what_cannot_be_is_refused() {
    let check = |value: Value, kind: ErrorKind| assert_eq!(create(value.clone()).unwrap_err().kind, kind, "{value}");
    check(json!({"Name": ""}), ErrorKind::InvalidArgument);
    check(json!({"Name": "é".repeat(10_000)}), ErrorKind::InvalidArgument);
    check(json!({"Name": "host"}), ErrorKind::Forbidden);
    check(json!({"Name": "n1", "Driver": "weave"}), ErrorKind::NotFound);
    check(json!({"Name": "n1", "Driver": "macvlan"}), ErrorKind::NotImplemented);
    check(json!({"Name": "n1", "Driver": "host"}), ErrorKind::Forbidden);
    check(json!({"Name": "n1", "ConfigOnly": true}), ErrorKind::NotImplemented);
    check(json!({"Name": "n1", "EnableIPv4": false}), ErrorKind::NotImplemented);
    check(json!({"Name": "n1", "Driver": "overlay", "Options": {"encrypted": ""}}), ErrorKind::NotImplemented);
    check(json!({"Name": "n1", "Driver": "overlay", "Scope": "local"}), ErrorKind::InvalidArgument);
    check(json!({"Name": "n1", "Scope": "swarm"}), ErrorKind::NotImplemented);
    check(json!({"Name": "n1", "IPAM": {"Config": [{"Subnet": "10.1.0.0"}]}}), ErrorKind::InvalidArgument);
    let outside = json!({"Name": "n1", "IPAM": {"Config": [{"Subnet": "10.1.0.0/24", "Gateway": "10.2.0.1"}]}});
    check(outside, ErrorKind::InvalidArgument);
}

fn bridge() -> NetworkInfo {
    let mut info = NetworkInfo { id: "a82b".into(), ..NetworkInfo::default() };
    info.spec = create(json!({"Name": "mine", "IPAM": {"Config": [{"Subnet": "172.17.0.0/16"}]}})).unwrap().0;
    info.containers.insert(
        "c1".into(),
        NetworkContainer { name: "web".into(), ipv4: Some("172.17.0.2/16".parse().unwrap()), ..Default::default() },
    );
    info
}

#[test]
fn a_bridge_prints_like_dockers() {
    let wire = serde_json::to_value(Network::of_local(&bridge())).unwrap();
    assert_eq!(wire["IPAM"], json!({"Driver": "default", "Options": null, "Config": [{"Subnet": "172.17.0.0/16"}]}));
    assert_eq!(wire["Containers"]["c1"]["IPv4Address"], "172.17.0.2/16");
    assert_eq!((&wire["Scope"], &wire["ConfigFrom"]), (&json!("local"), &json!({"Network": ""})));
    let listed = serde_json::to_value(Network::of_local(&bridge()).without_containers()).unwrap();
    assert_eq!(listed["Containers"], json!({}));
}

fn overlay() -> ClusterNetwork {
    let mut network = ClusterNetwork { id: "lsgk".into(), vni: 4097, ..ClusterNetwork::default() };
    network.spec.name = "gnet".into();
    network.spec.driver = "overlay".into();
    network.spec.attachable = true;
    network
}

#[test]
fn an_overlay_shows_its_identifier_and_local_containers() {
    let wire = serde_json::to_value(Network::of_swarm(&overlay()).without_containers()).unwrap();
    assert_eq!(wire["Options"], json!({"com.docker.network.driver.overlay.vxlanid_list": "4097"}));
    assert_eq!((&wire["Scope"], &wire["Containers"]), (&json!("swarm"), &json!(null)));
    let both = serde_json::to_value(Network::of_both(&overlay(), &bridge())).unwrap();
    assert_eq!((&both["Name"], &both["Containers"]["c1"]["Name"]), (&json!("gnet"), &json!("web")));
    let in_task = serde_json::to_value(TaskNetwork::of(&overlay())).unwrap();
    assert_eq!(in_task["DriverState"]["Name"], "overlay");
    assert_eq!(in_task["Spec"]["Attachable"], true);
}

#[test]
fn filters_choose() {
    let check = |text: &str| Network::of_local(&bridge()).matches(&Filters::parse(text).unwrap(), true).unwrap();
    assert!(check(r#"{"name":["min"],"driver":["bridge"],"type":["custom"],"scope":["local"]}"#));
    assert!(check(r#"{"name":["^mine$"]}"#) && !check(r#"{"name":["^min$"]}"#));
    assert!(!check(r#"{"type":["builtin"]}"#) && !check(r#"{"dangling":["true"]}"#));
    assert!(Network::of_local(&bridge()).matches(&Filters::parse(r#"{"type":["x"]}"#).unwrap(), true).is_err());
}
