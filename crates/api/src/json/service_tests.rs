use super::*;
use serde_json::{Value, json};
use skep_model::{ErrorKind, Result};

fn read(value: Value) -> Result<model::ServiceSpec> {
    serde_json::from_value::<ServiceSpec>(value).unwrap().into_model()
}

fn with_container(field: &str, value: Value) -> Value {
    json!({"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "i", field: value}}})
}

/// Every field skep has, set to something else than its default.
pub(crate) fn full() -> Value {
    let text = r#"{
        "Name": "web", "Labels": {"com.docker.stack.namespace": "s"},
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "whoami@sha256:1", "Labels": {"a": "b"}, "Command": ["c"], "Args": ["d"], "Hostname": "h",
                "Env": ["A=1"], "Dir": "/w", "User": "1", "Groups": ["2"], "Init": false, "StopSignal": "SIGINT",
                "TTY": true, "OpenStdin": true, "ReadOnly": true,
                "Mounts": [{"Type": "volume", "Source": "v", "Target": "/v"}], "StopGracePeriod": 3000000000,
                "Healthcheck": {"Test": ["CMD", "x"], "Interval": 1000000000, "Retries": 2}, "Hosts": ["1.2.3.4 h"],
                "DNSConfig": {"Nameservers": ["1.1.1.1"], "Search": ["s"], "Options": ["o"]},
                "Secrets": [{"File": {"Name": "f", "UID": "0", "GID": "0", "Mode": 292}, "SecretID": "i", "SecretName": "n"}],
                "Configs": [{"File": {"Name": "/f", "UID": "0", "GID": "0", "Mode": 292}, "ConfigID": "i", "ConfigName": "n"}],
                "Isolation": "default", "Sysctls": {"k": "v"}, "CapabilityAdd": ["CAP_A"], "CapabilityDrop": ["CAP_B"],
                "Ulimits": [{"Name": "nofile", "Hard": 2, "Soft": 1}], "OomScoreAdj": 5
            },
            "Resources": {
                "Limits": {"NanoCPUs": 1, "MemoryBytes": 2, "Pids": 3},
                "Reservations": {"NanoCPUs": 4, "MemoryBytes": 5,
                    "GenericResources": [{"DiscreteResourceSpec": {"Kind": "ssd", "Value": 1}}]}
            },
            "RestartPolicy": {"Condition": "on-failure", "Delay": 1, "MaxAttempts": 3, "Window": 7},
            "Placement": {"Constraints": ["node.role == worker"], "MaxReplicas": 2,
                "Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}],
                "Platforms": [{"Architecture": "amd64", "OS": "linux"}]},
            "Networks": [{"Target": "n1", "Aliases": ["a"], "DriverOpts": {"k": "v"}}],
            "LogDriver": {"Name": "json-file", "Options": {"max-size": "1m"}}, "ForceUpdate": 4, "Runtime": "container"
        },
        "Mode": {"Replicated": {"Replicas": 3}},
        "UpdateConfig": {"Parallelism": 2, "Delay": 5, "FailureAction": "rollback", "Monitor": 6, "MaxFailureRatio": 0.5,
            "Order": "start-first"},
        "RollbackConfig": {"Parallelism": 0, "FailureAction": "continue", "Monitor": 6, "MaxFailureRatio": 0.0,
            "Order": "stop-first"},
        "EndpointSpec": {"Mode": "vip", "Ports": [{"Name": "p", "Protocol": "udp", "TargetPort": 53, "PublishedPort": 5353,
            "PublishMode": "host"}]}
    }"#;
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_spec_comes_back_as_it_went_in() {
    let spec = read(full()).unwrap();
    let wire = serde_json::to_value(ServiceSpec::of(&spec)).unwrap();
    assert_eq!(wire, full());
    assert_eq!(read(wire).unwrap(), spec);
}

#[test]
fn every_mode_comes_back() {
    for mode in [
        json!({"Replicated": {"Replicas": 0}}),
        json!({"Global": {}}),
        json!({"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 9}}),
        json!({"GlobalJob": {}}),
    ] {
        let mut wire = with_container("User", json!("1"));
        wire["Mode"] = mode.clone();
        let spec = read(wire).unwrap();
        assert_eq!(serde_json::to_value(ServiceSpec::of(&spec)).unwrap()["Mode"], mode);
    }
    let mut both = full();
    both["Mode"] = json!({"Global": {}, "Replicated": {}});
    assert!(read(both).is_err());
}

#[test]
fn absent_parts_have_the_swarms_defaults() {
    let spec = read(with_container("Init", json!(null))).unwrap();
    assert_eq!(spec.mode, model::ServiceMode::Replicated { replicas: 1 });
    assert_eq!(spec.task.restart, model::RestartConfig::default());
    assert_eq!((spec.update, spec.endpoint), (None, model::EndpointSpec::default()));
    let service = model::Service { spec: read(with_container("User", json!("1"))).unwrap(), ..Default::default() };
    let plain = serde_json::to_value(Service::of(&service, false, None)).unwrap();
    assert!(plain["Spec"].get("UpdateConfig").is_none());
    let filled = serde_json::to_value(Service::of(&service, true, None)).unwrap();
    assert_eq!(
        filled["Spec"]["UpdateConfig"],
        json!({"Parallelism": 1, "FailureAction": "pause", "Monitor": 5_000_000_000i64, "MaxFailureRatio": 0.0,
               "Order": "stop-first"})
    );
    assert_eq!(filled["Spec"]["TaskTemplate"]["ContainerSpec"]["StopGracePeriod"], 10_000_000_000i64);
}

#[test]
fn old_clients_name_networks_beside_the_template() {
    let mut wire = with_container("User", json!("1"));
    wire["Networks"] = json!([{"Target": "n1"}]);
    assert_eq!(read(wire).unwrap().task.networks[0].target, "n1");
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    let check = |value: Value, kind: ErrorKind| assert_eq!(read(value.clone()).unwrap_err().kind, kind, "{value}");
    check(with_container("Privileges", json!({"CredentialSpec": {"File": "f"}})), ErrorKind::NotImplemented);
    check(with_container("Mounts", json!([{"Type": "cluster", "Target": "/x"}])), ErrorKind::NotImplemented);
    check(with_container("Configs", json!([{"Runtime": {}, "ConfigID": "c"}])), ErrorKind::NotImplemented);
    check(with_container("Isolation", json!("hyperv")), ErrorKind::InvalidArgument);
    check(with_container("Env", json!(["=x"])), ErrorKind::InvalidArgument);
    check(with_container("StopGracePeriod", json!(-1)), ErrorKind::InvalidArgument);
    check(with_container("Secrets", json!([{"SecretID": "s"}])), ErrorKind::InvalidArgument);
    check(json!({"TaskTemplate": {}}), ErrorKind::InvalidArgument);
    check(json!({"TaskTemplate": {"PluginSpec": {"Name": "p"}}}), ErrorKind::NotImplemented);
    let with = |pointer: &str, value: Value| {
        let mut wire = full();
        *wire.pointer_mut(pointer).unwrap() = value;
        wire
    };
    check(with("/UpdateConfig/FailureAction", json!("explode")), ErrorKind::InvalidArgument);
    check(with("/UpdateConfig/MaxFailureRatio", json!(1.5)), ErrorKind::InvalidArgument);
    check(with("/RollbackConfig/FailureAction", json!("rollback")), ErrorKind::InvalidArgument);
    check(with("/EndpointSpec/Ports/0/PublishedPort", json!(65536)), ErrorKind::InvalidArgument);
    check(with("/EndpointSpec/Ports/0/Protocol", json!("icmp")), ErrorKind::InvalidArgument);
    check(with("/TaskTemplate/RestartPolicy/Condition", json!("maybe")), ErrorKind::InvalidArgument);
    check(with("/TaskTemplate/Resources", json!({"SwapBytes": 5})), ErrorKind::NotImplemented);
    let named = json!({"Reservations": {"GenericResources": [{"NamedResourceSpec": {"Kind": "gpu", "Value": "u1"}}]}});
    check(with("/TaskTemplate/Resources", named), ErrorKind::InvalidArgument);
    let text = |pointer: &str, value: Value| read(with(pointer, value)).unwrap_err().message;
    let prefix = "rpc error: code = InvalidArgument desc = TaskSpec:";
    assert_eq!(
        text("/TaskTemplate/RestartPolicy/Delay", json!(-1)),
        format!("{prefix} restart-delay cannot be negative")
    );
    assert_eq!(text("/UpdateConfig/Delay", json!(-1)), format!("{prefix} update-delay cannot be negative"));
    assert_eq!(text("/UpdateConfig/Monitor", json!(-1)), format!("{prefix} update-monitor cannot be negative"));
}

#[test]
fn an_unallocated_endpoint_is_empty() {
    let service = model::Service::default();
    let wire = serde_json::to_value(Service::of(&service, false, None)).unwrap();
    assert_eq!(wire["Endpoint"], json!({"Spec": {}}));
}

#[test]
fn tasks_are_counted_by_mode() {
    let task = |state, desired_state| {
        let mut task = Task { desired_state, ..Task::default() };
        task.status.state = state;
        task
    };
    let tasks = [
        task(TaskState::Running, TaskState::Running),
        task(TaskState::Preparing, TaskState::Running),
        task(TaskState::Failed, TaskState::Shutdown),
        task(TaskState::Complete, TaskState::Shutdown),
    ];
    let count = |mode| {
        let mut service = model::Service::default();
        service.spec.mode = mode;
        let status = ServiceStatus::of(&service, tasks.iter());
        (status.running_tasks, status.desired_tasks, status.completed_tasks)
    };
    assert_eq!(count(model::ServiceMode::Replicated { replicas: 5 }), (1, 5, 0));
    assert_eq!(count(model::ServiceMode::Global), (1, 2, 0));
    assert_eq!(count(model::ServiceMode::ReplicatedJob { max_concurrent: 2, total_completions: 3 }), (1, 2, 1));
}

#[test]
fn only_the_present_run_of_a_job_is_counted() {
    let task = |state, iteration| {
        let mut task = Task { desired_state: TaskState::Complete, job_iteration: Some(iteration), ..Task::default() };
        task.status.state = state;
        task
    };
    let tasks = [
        task(TaskState::Complete, 0),
        task(TaskState::Complete, 1),
        task(TaskState::Running, 1),
        task(TaskState::New, 1),
    ];
    let mut service = model::Service {
        job_status: Some(model::JobStatus { iteration: 1, ..Default::default() }),
        ..Default::default()
    };
    service.spec.mode = model::ServiceMode::GlobalJob;
    let status = ServiceStatus::of(&service, tasks.iter());
    assert_eq!((status.running_tasks, status.desired_tasks, status.completed_tasks), (1, 2, 1));
    let wire = serde_json::to_value(Service::of(&service, true, None)).unwrap();
    assert_eq!(wire["JobStatus"], json!({"JobIteration": {"Index": 1}, "LastExecution": "0001-01-01T00:00:00Z"}));
    assert!(wire["Spec"].get("UpdateConfig").is_none());
}
