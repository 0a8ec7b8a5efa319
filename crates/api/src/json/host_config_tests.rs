use super::*;
use serde_json::json;

fn read(value: Value) -> Result<(Model, Vec<String>)> {
    let mut warnings = vec![];
    let model = serde_json::from_value::<HostConfig>(value).unwrap().into_model(&mut warnings)?;
    Ok((model, warnings))
}

/// A body as the CLI sends it for `run -v gv:/data -p 8099:80`.
fn cli_body() -> Value {
    let text = r#"{
        "Binds": ["gv:/data"], "ContainerIDFile": "", "LogConfig": {"Type": "", "Config": {}}, "NetworkMode": "default",
        "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8099"}]},
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}, "AutoRemove": false, "VolumeDriver": "",
        "VolumesFrom": null, "ConsoleSize": [0, 0], "CapAdd": null, "CapDrop": null, "CgroupnsMode": "", "Dns": [],
        "DnsOptions": [], "DnsSearch": [], "ExtraHosts": null, "GroupAdd": null, "IpcMode": "", "Cgroup": "",
        "Links": null, "OomScoreAdj": 0, "PidMode": "", "Privileged": false, "PublishAllPorts": false,
        "ReadonlyRootfs": false, "SecurityOpt": null, "UTSMode": "", "UsernsMode": "", "ShmSize": 0, "Isolation": "",
        "CpuShares": 0, "Memory": 0, "NanoCpus": 0, "CgroupParent": "", "BlkioWeight": 0, "BlkioWeightDevice": [],
        "BlkioDeviceReadBps": [], "CpuPeriod": 0, "Devices": [], "DeviceCgroupRules": null, "DeviceRequests": null,
        "MemorySwappiness": -1, "OomKillDisable": false, "PidsLimit": 0, "Ulimits": null, "MaskedPaths": null
    }"#;
    serde_json::from_str(text).unwrap()
}

#[test]
fn what_the_cli_sends_is_accepted_without_warnings() {
    let (model, warnings) = read(cli_body()).unwrap();
    assert!(warnings.is_empty());
    assert_eq!(model.binds, ["gv:/data"]);
    assert_eq!(model.port_bindings[&"80/tcp".parse().unwrap()][0].host_port, 8099);
    assert_eq!(model.log_config.driver, "json-file");
}

#[test]
fn inspect_prints_like_docker() {
    let wire = serde_json::to_value(HostConfig::of(&read(cli_body()).unwrap().0)).unwrap();
    assert_eq!(wire["PortBindings"], json!({"80/tcp": [{"HostIp": "", "HostPort": "8099"}]}));
    assert_eq!(wire["RestartPolicy"], json!({"Name": "no", "MaximumRetryCount": 0}));
    assert_eq!((&wire["ShmSize"], &wire["PidsLimit"], &wire["Dns"]), (&json!(67_108_864), &json!(null), &json!([])));
    assert_eq!(wire["LogConfig"], json!({"Type": "json-file", "Config": {}}));
    assert_eq!(wire["IpcMode"], "private");
}

#[test]
fn what_is_set_comes_back() {
    let wire = json!({
        "Memory": 10_000_000, "MemorySwap": -1, "NanoCpus": 500_000_000, "PidsLimit": 7, "OomKillDisable": true,
        "CapAdd": ["NET_ADMIN"], "Sysctls": {"a": "b"}, "Tmpfs": {"/t": "size=1m"}, "Init": true, "Dns": ["1.1.1.1"],
        "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}], "MaskedPaths": [], "ExtraHosts": ["a:1.2.3.4"],
        "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/n", "CgroupPermissions": "r"}],
        "Mounts": [{"Type": "tmpfs", "Target": "/x"}], "Annotations": {"k": "v"}, "ConsoleSize": [24, 80],
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 4}, "SecurityOpt": ["no-new-privileges"]
    });
    let back = serde_json::to_value(HostConfig::of(&read(wire.clone()).unwrap().0)).unwrap();
    for (key, value) in wire.as_object().unwrap() {
        assert_eq!(&back[key], value, "{key}");
    }
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    for bad in [
        json!({"DeviceRequests": [{"Count": -1, "Capabilities": [["gpu"]]}]}),
        json!({"StorageOpt": {"size": "1G"}}),
        json!({"BlkioDeviceReadBps": [{"Path": "/dev/sda", "Rate": 1}]}),
        json!({"CpuRealtimePeriod": 5}),
        json!({"Isolation": "hyperv"}),
        json!({"Runtime": "kata"}),
        json!({"VolumeDriver": "nfs"}),
        json!({"Memory": 1}),
        json!({"Memory": 10_000_000, "MemorySwap": 9_000_000}),
        json!({"MemorySwap": 9_000_000}),
        json!({"NanoCpus": 1, "CpuQuota": 5000}),
        json!({"CpuPeriod": 1}),
        json!({"BlkioWeight": 5}),
        json!({"ShmSize": -1}),
        json!({"Dns": ["one.one"]}),
        json!({"PortBindings": {"80/tcp": [{"HostPort": "x"}]}}),
        json!({"PortBindings": {"80/tcp": [{"HostPort": "90-80"}]}}),
        json!({"PortBindings": {"80/tcp": [{"HostIp": "300.1.1.1"}]}}),
        json!({"RestartPolicy": {"Name": "sometimes"}}),
        json!({"RestartPolicy": {"Name": "always", "MaximumRetryCount": 3}}),
        json!({"RestartPolicy": {"Name": "always"}, "AutoRemove": true}),
    ] {
        assert!(read(bad.clone()).is_err(), "{bad}");
    }
}

#[test]
fn what_is_dropped_is_said() {
    assert_eq!(read(json!({"MemorySwappiness": 60})).unwrap().1.len(), 1);
}

#[test]
fn port_ranges() {
    let (model, _) = read(json!({"PortBindings": {"80/tcp": [{"HostPort": "8000-8010"}], "81/udp": null}})).unwrap();
    let binding = &model.port_bindings[&"80/tcp".parse().unwrap()][0];
    assert_eq!((binding.host_port, binding.host_port_end), (8000, 8010));
    assert_eq!(write_bindings(&model.port_bindings, "")["80/tcp"][0].host_port, "8000-8010");
    assert!(model.port_bindings[&"81/udp".parse().unwrap()].is_empty());
}
