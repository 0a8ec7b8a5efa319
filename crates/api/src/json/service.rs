//! Services' wire shapes. The conversions are in `service_in` and `service_out`.

use super::config::Healthcheck;
use super::host_config::Ulimit;
use super::mount::{Driver, Mount};
use super::swarm::{Meta, Version};
use super::{Empty, wire, zero};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

wire!(
    ServiceSpec {
        #[serde(skip_serializing_if = "zero")]
        name: String,
        labels: BTreeMap<String, String>,
        task_template: TaskSpec,
        mode: Mode,
        #[serde(skip_serializing_if = "zero")]
        update_config: Option<UpdateConfig>,
        #[serde(skip_serializing_if = "zero")]
        rollback_config: Option<UpdateConfig>,
        // Where clients before API 1.25 named the networks.
        #[serde(skip_serializing)]
        networks: Vec<NetworkAttachment>,
        #[serde(skip_serializing_if = "zero")]
        endpoint_spec: Option<EndpointSpec>,
    }
);

wire!(
    Mode {
        #[serde(skip_serializing_if = "zero")]
        replicated: Option<Replicated>,
        #[serde(skip_serializing_if = "zero")]
        global: Option<Empty>,
        #[serde(skip_serializing_if = "zero")]
        replicated_job: Option<ReplicatedJob>,
        #[serde(skip_serializing_if = "zero")]
        global_job: Option<Empty>,
    }
);
wire!(Replicated { #[serde(skip_serializing_if = "zero")] replicas: Option<u64> });
wire!(
    ReplicatedJob {
        #[serde(skip_serializing_if = "zero")]
        max_concurrent: Option<u64>,
        #[serde(skip_serializing_if = "zero")]
        total_completions: Option<u64>,
    }
);

wire!(UpdateConfig {
    parallelism: u64,
    #[serde(skip_serializing_if = "zero")]
    delay: i64,
    #[serde(skip_serializing_if = "zero")]
    failure_action: String,
    #[serde(skip_serializing_if = "zero")]
    monitor: i64,
    max_failure_ratio: f32,
    order: String,
});

wire!(
    EndpointSpec {
        #[serde(skip_serializing_if = "zero")]
        mode: String,
        #[serde(skip_serializing_if = "zero")]
        ports: Vec<PortConfig>,
    }
);
wire!(PortConfig {
    #[serde(skip_serializing_if = "zero")]
    name: String,
    #[serde(skip_serializing_if = "zero")]
    protocol: String,
    #[serde(skip_serializing_if = "zero")]
    target_port: u32,
    #[serde(skip_serializing_if = "zero")]
    published_port: u32,
    #[serde(skip_serializing_if = "zero")]
    publish_mode: String,
});

wire!(
    TaskSpec {
        #[serde(skip_serializing_if = "zero")]
        container_spec: Option<ContainerSpec>,
        #[serde(skip_serializing_if = "zero")]
        plugin_spec: Option<Value>,
        #[serde(skip_serializing_if = "zero")]
        network_attachment_spec: Option<Value>,
        #[serde(skip_serializing_if = "zero")]
        resources: Option<Resources>,
        #[serde(skip_serializing_if = "zero")]
        restart_policy: Option<RestartPolicy>,
        #[serde(skip_serializing_if = "zero")]
        placement: Option<Placement>,
        #[serde(skip_serializing_if = "zero")]
        networks: Vec<NetworkAttachment>,
        #[serde(skip_serializing_if = "zero")]
        log_driver: Option<Driver>,
        force_update: u64,
        #[serde(skip_serializing_if = "zero")]
        runtime: String,
    }
);

wire!(
    Resources {
        #[serde(skip_serializing_if = "zero")]
        limits: Option<Limits>,
        #[serde(skip_serializing_if = "zero")]
        reservations: Option<Reservations>,
        #[serde(skip_serializing_if = "zero")]
        swap_bytes: Option<i64>,
        #[serde(skip_serializing_if = "zero")]
        memory_swappiness: Option<i64>,
    }
);
wire!(Limits {
    #[serde(rename = "NanoCPUs", skip_serializing_if = "zero")]
    nano_cpus: i64,
    #[serde(skip_serializing_if = "zero")]
    memory_bytes: i64,
    #[serde(skip_serializing_if = "zero")]
    pids: i64,
});
wire!(
    Reservations {
        #[serde(rename = "NanoCPUs", skip_serializing_if = "zero")]
        nano_cpus: i64,
        #[serde(skip_serializing_if = "zero")]
        memory_bytes: i64,
        #[serde(skip_serializing_if = "zero")]
        generic_resources: Vec<GenericResource>,
    }
);
wire!(
    GenericResource {
        #[serde(skip_serializing_if = "zero")]
        named_resource_spec: Option<Value>,
        #[serde(skip_serializing_if = "zero")]
        discrete_resource_spec: Option<DiscreteResource>,
    }
);
wire!(DiscreteResource { kind: String, value: i64 });

wire!(
    RestartPolicy {
        #[serde(skip_serializing_if = "zero")]
        condition: String,
        #[serde(skip_serializing_if = "zero")]
        delay: Option<i64>,
        #[serde(skip_serializing_if = "zero")]
        max_attempts: Option<u64>,
        #[serde(skip_serializing_if = "zero")]
        window: Option<i64>,
    }
);

wire!(
    Placement {
        #[serde(skip_serializing_if = "zero")]
        constraints: Vec<String>,
        #[serde(skip_serializing_if = "zero")]
        preferences: Vec<Preference>,
        #[serde(skip_serializing_if = "zero")]
        max_replicas: u64,
        #[serde(skip_serializing_if = "zero")]
        platforms: Vec<Platform>,
    }
);
wire!(Preference { #[serde(skip_serializing_if = "zero")] spread: Option<Spread> });
wire!(Spread { spread_descriptor: String });
wire!(Platform {
    #[serde(skip_serializing_if = "zero")]
    architecture: String,
    #[serde(rename = "OS", skip_serializing_if = "zero")]
    os: String,
});
wire!(
    NetworkAttachment {
        #[serde(skip_serializing_if = "zero")]
        target: String,
        #[serde(skip_serializing_if = "zero")]
        aliases: Vec<String>,
        #[serde(skip_serializing_if = "zero")]
        driver_opts: BTreeMap<String, String>,
    }
);

wire!(
    ContainerSpec {
        #[serde(skip_serializing_if = "zero")]
        image: String,
        #[serde(skip_serializing_if = "zero")]
        labels: BTreeMap<String, String>,
        #[serde(skip_serializing_if = "zero")]
        command: Vec<String>,
        #[serde(skip_serializing_if = "zero")]
        args: Vec<String>,
        #[serde(skip_serializing_if = "zero")]
        hostname: String,
        #[serde(skip_serializing_if = "zero")]
        env: Vec<String>,
        #[serde(skip_serializing_if = "zero")]
        dir: String,
        #[serde(skip_serializing_if = "zero")]
        user: String,
        #[serde(skip_serializing_if = "zero")]
        groups: Vec<String>,
        #[serde(skip_serializing_if = "zero")]
        privileges: Option<Privileges>,
        #[serde(skip_serializing_if = "zero")]
        init: Option<bool>,
        #[serde(skip_serializing_if = "zero")]
        stop_signal: String,
        #[serde(rename = "TTY", skip_serializing_if = "zero")]
        tty: bool,
        #[serde(skip_serializing_if = "zero")]
        open_stdin: bool,
        #[serde(skip_serializing_if = "zero")]
        read_only: bool,
        #[serde(skip_serializing_if = "zero")]
        mounts: Vec<Mount>,
        #[serde(skip_serializing_if = "zero")]
        stop_grace_period: Option<i64>,
        #[serde(skip_serializing_if = "zero")]
        healthcheck: Option<Healthcheck>,
        #[serde(skip_serializing_if = "zero")]
        hosts: Vec<String>,
        #[serde(rename = "DNSConfig", skip_serializing_if = "zero")]
        dns_config: Option<DnsConfig>,
        #[serde(skip_serializing_if = "zero")]
        secrets: Vec<SecretReference>,
        #[serde(skip_serializing_if = "zero")]
        configs: Vec<ConfigReference>,
        #[serde(skip_serializing_if = "zero")]
        isolation: String,
        #[serde(skip_serializing_if = "zero")]
        sysctls: BTreeMap<String, String>,
        #[serde(skip_serializing_if = "zero")]
        capability_add: Vec<String>,
        #[serde(skip_serializing_if = "zero")]
        capability_drop: Vec<String>,
        #[serde(skip_serializing_if = "zero")]
        ulimits: Vec<Ulimit>,
        #[serde(skip_serializing_if = "zero")]
        oom_score_adj: i32,
    }
);
wire!(
    Privileges {
        #[serde(skip_serializing_if = "zero")]
        credential_spec: Option<Value>,
        #[serde(rename = "SELinuxContext", skip_serializing_if = "zero")]
        selinux_context: Option<Value>,
        #[serde(skip_serializing_if = "zero")]
        seccomp: Option<PrivilegeMode>,
        #[serde(skip_serializing_if = "zero")]
        app_armor: Option<PrivilegeMode>,
        #[serde(skip_serializing_if = "zero")]
        no_new_privileges: bool,
    }
);
wire!(PrivilegeMode { mode: String, #[serde(skip_serializing_if = "zero")] profile: Option<Value> });
wire!(
    DnsConfig {
        #[serde(skip_serializing_if = "zero")]
        nameservers: Vec<String>,
        #[serde(skip_serializing_if = "zero")]
        search: Vec<String>,
        #[serde(skip_serializing_if = "zero")]
        options: Vec<String>,
    }
);
wire!(FileTarget {
    name: String,
    #[serde(rename = "UID")]
    uid: String,
    #[serde(rename = "GID")]
    gid: String,
    mode: u32
});
wire!(
    SecretReference {
        file: Option<FileTarget>,
        #[serde(rename = "SecretID")]
        secret_id: String,
        secret_name: String,
    }
);
wire!(
    ConfigReference {
        #[serde(skip_serializing_if = "zero")]
        file: Option<FileTarget>,
        #[serde(skip_serializing_if = "zero")]
        runtime: Option<Value>,
        #[serde(rename = "ConfigID")]
        config_id: String,
        config_name: String,
    }
);

/// A service as stored.
#[derive(Debug, Serialize)]
pub(crate) struct Service {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    #[serde(flatten)]
    pub(crate) meta: Meta,
    #[serde(rename = "Spec")]
    pub(crate) spec: ServiceSpec,
    #[serde(rename = "PreviousSpec", skip_serializing_if = "Option::is_none")]
    pub(crate) previous_spec: Option<ServiceSpec>,
    #[serde(rename = "Endpoint")]
    pub(crate) endpoint: Endpoint,
    #[serde(rename = "UpdateStatus", skip_serializing_if = "Option::is_none")]
    pub(crate) update_status: Option<UpdateStatus>,
    #[serde(rename = "ServiceStatus", skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<ServiceStatus>,
    #[serde(rename = "JobStatus", skip_serializing_if = "Option::is_none")]
    pub(crate) job_status: Option<JobStatus>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Endpoint {
    pub(crate) spec: EndpointSpec,
    #[serde(skip_serializing_if = "zero")]
    pub(crate) ports: Vec<PortConfig>,
    #[serde(rename = "VirtualIPs", skip_serializing_if = "zero")]
    pub(crate) virtual_ips: Vec<VirtualIp>,
}

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct VirtualIp {
    #[serde(rename = "NetworkID")]
    pub(crate) network_id: String,
    #[serde(rename = "Addr")]
    pub(crate) addr: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct UpdateStatus {
    pub(crate) state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) completed_at: Option<String>,
    #[serde(skip_serializing_if = "zero")]
    pub(crate) message: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct JobStatus {
    pub(crate) job_iteration: Version,
    pub(crate) last_execution: String,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ServiceStatus {
    pub(crate) running_tasks: u64,
    pub(crate) desired_tasks: u64,
    pub(crate) completed_tasks: u64,
}
