//! The compose specification's keys.

use crate::schema::{Key, Shape, Use};

const fn yes(name: &'static str, shape: Shape) -> Key {
    Key { name, shape, used: Use::Both }
}

/// A swarm has no use for it.
const fn no(name: &'static str, shape: Shape) -> Key {
    Key { name, shape, used: Use::Local }
}

const fn never(name: &'static str, shape: Shape) -> Key {
    Key { name, shape, used: Use::Nobody }
}

const SCALARS: Shape = Shape::List(&Shape::Scalar);

pub(crate) const ROOT: Shape = Shape::Table(&[
    yes("version", Shape::Scalar),
    yes("name", Shape::Scalar),
    yes("include", Shape::List(&Shape::Either(&[Shape::Scalar, Shape::Table(INCLUDE)]))),
    yes("services", Shape::Names(&Shape::Table(SERVICE))),
    yes("networks", Shape::Names(&Shape::Table(NETWORK))),
    yes("volumes", Shape::Names(&Shape::Table(VOLUME))),
    yes("secrets", Shape::Names(&Shape::Table(SECRET))),
    yes("configs", Shape::Names(&Shape::Table(CONFIG))),
    never("models", Shape::Any),
]);

const INCLUDE: &[Key] =
    &[yes("path", Shape::Words), yes("env_file", Shape::Words), yes("project_directory", Shape::Scalar)];

const EXTERNAL: Shape = Shape::Either(&[Shape::Scalar, Shape::Table(&[yes("name", Shape::Scalar)])]);

const SERVICE: &[Key] = &[
    no("annotations", Shape::Pairs),
    no("attach", Shape::Scalar),
    never("blkio_config", Shape::Any),
    no("build", Shape::Either(&[Shape::Scalar, Shape::Table(BUILD)])),
    yes("cap_add", SCALARS),
    yes("cap_drop", SCALARS),
    no("cgroup", Shape::Scalar),
    no("cgroup_parent", Shape::Scalar),
    no("cgroupns_mode", Shape::Scalar),
    yes("command", Shape::Words),
    yes("configs", Shape::List(&Shape::Either(&[Shape::Scalar, Shape::Table(FILE_REFERENCE)]))),
    no("container_name", Shape::Scalar),
    never("cpu_count", Shape::Scalar),
    never("cpu_percent", Shape::Scalar),
    no("cpu_period", Shape::Scalar),
    no("cpu_quota", Shape::Scalar),
    never("cpu_rt_period", Shape::Scalar),
    never("cpu_rt_runtime", Shape::Scalar),
    no("cpu_shares", Shape::Scalar),
    yes("cpus", Shape::Scalar),
    no("cpuset", Shape::Scalar),
    never("credential_spec", Shape::Any),
    yes("depends_on", Shape::Either(&[SCALARS, Shape::Names(&Shape::Table(DEPENDENCY))])),
    yes("deploy", Shape::Table(DEPLOY)),
    no("develop", Shape::Any),
    no("device_cgroup_rules", SCALARS),
    no("devices", Shape::List(&Shape::Any)),
    yes("dns", Shape::Words),
    yes("dns_opt", SCALARS),
    yes("dns_search", Shape::Words),
    no("domainname", Shape::Scalar),
    yes("entrypoint", Shape::Words),
    yes(
        "env_file",
        Shape::Either(&[Shape::Scalar, Shape::List(&Shape::Either(&[Shape::Scalar, Shape::Table(ENV_FILE)]))]),
    ),
    yes("environment", Shape::Pairs),
    no("expose", SCALARS),
    yes("extends", Shape::Either(&[Shape::Scalar, Shape::Table(EXTENDS)])),
    never("external_links", SCALARS),
    yes("extra_hosts", Shape::Either(&[SCALARS, Shape::Names(&Shape::Words)])),
    no("gpus", Shape::Any),
    yes("group_add", SCALARS),
    yes("healthcheck", Shape::Table(HEALTHCHECK)),
    yes("hostname", Shape::Scalar),
    yes("image", Shape::Scalar),
    yes("init", Shape::Scalar),
    no("ipc", Shape::Scalar),
    yes("isolation", Shape::Scalar),
    no("label_file", Shape::Words),
    yes("labels", Shape::Pairs),
    no("links", SCALARS),
    yes("logging", Shape::Table(LOGGING)),
    no("mac_address", Shape::Scalar),
    yes("mem_limit", Shape::Scalar),
    yes("mem_reservation", Shape::Scalar),
    no("mem_swappiness", Shape::Scalar),
    no("memswap_limit", Shape::Scalar),
    never("models", Shape::Any),
    no("network_mode", Shape::Scalar),
    yes("networks", Shape::Either(&[SCALARS, Shape::Names(&Shape::Table(SERVICE_NETWORK))])),
    no("oom_kill_disable", Shape::Scalar),
    yes("oom_score_adj", Shape::Scalar),
    no("pid", Shape::Scalar),
    yes("pids_limit", Shape::Scalar),
    no("platform", Shape::Scalar),
    yes("ports", Shape::List(&Shape::Either(&[Shape::Scalar, Shape::Table(PORT)]))),
    never("post_start", Shape::List(&Shape::Any)),
    never("pre_stop", Shape::List(&Shape::Any)),
    no("privileged", Shape::Scalar),
    yes("profiles", SCALARS),
    never("provider", Shape::Any),
    no("pull_policy", Shape::Scalar),
    never("pull_refresh_after", Shape::Scalar),
    yes("read_only", Shape::Scalar),
    yes("restart", Shape::Scalar),
    no("runtime", Shape::Scalar),
    yes("scale", Shape::Scalar),
    yes("secrets", Shape::List(&Shape::Either(&[Shape::Scalar, Shape::Table(FILE_REFERENCE)]))),
    no("security_opt", SCALARS),
    no("shm_size", Shape::Scalar),
    yes("stdin_open", Shape::Scalar),
    yes("stop_grace_period", Shape::Scalar),
    yes("stop_signal", Shape::Scalar),
    never("storage_opt", Shape::Any),
    yes("sysctls", Shape::Pairs),
    yes("tmpfs", Shape::Words),
    yes("tty", Shape::Scalar),
    yes("ulimits", Shape::Names(&Shape::Either(&[Shape::Scalar, Shape::Table(ULIMIT)]))),
    never("use_api_socket", Shape::Scalar),
    yes("user", Shape::Scalar),
    no("userns_mode", Shape::Scalar),
    no("uts", Shape::Scalar),
    never("volume_driver", Shape::Scalar),
    yes("volumes", Shape::List(&Shape::Either(&[Shape::Scalar, Shape::Table(MOUNT)]))),
    no("volumes_from", SCALARS),
    yes("working_dir", Shape::Scalar),
];

const BUILD: &[Key] = &[
    no("additional_contexts", Shape::Pairs),
    no("args", Shape::Pairs),
    no("cache_from", SCALARS),
    never("cache_to", SCALARS),
    no("context", Shape::Scalar),
    no("dockerfile", Shape::Scalar),
    no("dockerfile_inline", Shape::Scalar),
    never("entitlements", SCALARS),
    no("extra_hosts", Shape::Either(&[SCALARS, Shape::Names(&Shape::Words)])),
    never("isolation", Shape::Scalar),
    no("labels", Shape::Pairs),
    no("network", Shape::Scalar),
    no("no_cache", Shape::Scalar),
    no("platforms", SCALARS),
    never("privileged", Shape::Scalar),
    never("provenance", Shape::Scalar),
    no("pull", Shape::Scalar),
    never("sbom", Shape::Scalar),
    never("secrets", Shape::List(&Shape::Any)),
    no("shm_size", Shape::Scalar),
    never("ssh", Shape::Any),
    no("tags", SCALARS),
    no("target", Shape::Scalar),
    never("ulimits", Shape::Any),
];

const FILE_REFERENCE: &[Key] = &[
    yes("source", Shape::Scalar),
    yes("target", Shape::Scalar),
    yes("uid", Shape::Scalar),
    yes("gid", Shape::Scalar),
    yes("mode", Shape::Scalar),
];

const DEPENDENCY: &[Key] =
    &[yes("condition", Shape::Scalar), no("restart", Shape::Scalar), yes("required", Shape::Scalar)];

const ENV_FILE: &[Key] = &[yes("path", Shape::Scalar), yes("required", Shape::Scalar), yes("format", Shape::Scalar)];

const EXTENDS: &[Key] = &[yes("service", Shape::Scalar), yes("file", Shape::Scalar)];

const HEALTHCHECK: &[Key] = &[
    yes("disable", Shape::Scalar),
    yes("interval", Shape::Scalar),
    yes("retries", Shape::Scalar),
    yes("start_interval", Shape::Scalar),
    yes("start_period", Shape::Scalar),
    yes("test", Shape::Words),
    yes("timeout", Shape::Scalar),
];

const LOGGING: &[Key] = &[yes("driver", Shape::Scalar), yes("options", Shape::Names(&Shape::Scalar))];

const SERVICE_NETWORK: &[Key] = &[
    yes("aliases", SCALARS),
    yes("driver_opts", Shape::Names(&Shape::Scalar)),
    never("gw_priority", Shape::Scalar),
    never("interface_name", Shape::Scalar),
    no("ipv4_address", Shape::Scalar),
    no("ipv6_address", Shape::Scalar),
    never("link_local_ips", SCALARS),
    no("mac_address", Shape::Scalar),
    no("priority", Shape::Scalar),
];

const PORT: &[Key] = &[
    never("app_protocol", Shape::Scalar),
    no("host_ip", Shape::Scalar),
    yes("mode", Shape::Scalar),
    yes("name", Shape::Scalar),
    yes("protocol", Shape::Scalar),
    yes("published", Shape::Scalar),
    yes("target", Shape::Scalar),
];

const ULIMIT: &[Key] = &[yes("hard", Shape::Scalar), yes("soft", Shape::Scalar)];

const MOUNT: &[Key] = &[
    yes(
        "bind",
        Shape::Table(&[
            no("create_host_path", Shape::Scalar),
            yes("propagation", Shape::Scalar),
            no("recursive", Shape::Scalar),
            never("selinux", Shape::Scalar),
        ]),
    ),
    yes("consistency", Shape::Scalar),
    yes("image", Shape::Table(&[yes("subpath", Shape::Scalar)])),
    yes("read_only", Shape::Scalar),
    yes("source", Shape::Scalar),
    yes("target", Shape::Scalar),
    yes("tmpfs", Shape::Table(&[yes("mode", Shape::Scalar), yes("size", Shape::Scalar)])),
    yes("type", Shape::Scalar),
    yes(
        "volume",
        Shape::Table(&[yes("labels", Shape::Pairs), yes("nocopy", Shape::Scalar), yes("subpath", Shape::Scalar)]),
    ),
];

const DEPLOY: &[Key] = &[
    yes("endpoint_mode", Shape::Scalar),
    yes("labels", Shape::Pairs),
    yes("mode", Shape::Scalar),
    yes(
        "placement",
        Shape::Table(&[
            yes("constraints", SCALARS),
            yes("max_replicas_per_node", Shape::Scalar),
            yes("preferences", Shape::List(&Shape::Table(&[yes("spread", Shape::Scalar)]))),
        ]),
    ),
    yes("replicas", Shape::Scalar),
    yes(
        "resources",
        Shape::Table(&[yes("limits", Shape::Table(LIMITS)), yes("reservations", Shape::Table(RESERVATIONS))]),
    ),
    yes(
        "restart_policy",
        Shape::Table(&[
            yes("condition", Shape::Scalar),
            yes("delay", Shape::Scalar),
            yes("max_attempts", Shape::Scalar),
            yes("window", Shape::Scalar),
        ]),
    ),
    yes("rollback_config", Shape::Table(UPDATE)),
    yes("update_config", Shape::Table(UPDATE)),
];

const LIMITS: &[Key] = &[yes("cpus", Shape::Scalar), yes("memory", Shape::Scalar), yes("pids", Shape::Scalar)];

const RESERVATIONS: &[Key] = &[
    yes("cpus", Shape::Scalar),
    no("devices", Shape::List(&Shape::Any)),
    yes(
        "generic_resources",
        Shape::List(&Shape::Table(&[yes(
            "discrete_resource_spec",
            Shape::Table(&[yes("kind", Shape::Scalar), yes("value", Shape::Scalar)]),
        )])),
    ),
    yes("memory", Shape::Scalar),
];

const UPDATE: &[Key] = &[
    yes("delay", Shape::Scalar),
    yes("failure_action", Shape::Scalar),
    yes("max_failure_ratio", Shape::Scalar),
    yes("monitor", Shape::Scalar),
    yes("order", Shape::Scalar),
    yes("parallelism", Shape::Scalar),
];

const NETWORK: &[Key] = &[
    yes("attachable", Shape::Scalar),
    yes("driver", Shape::Scalar),
    yes("driver_opts", Shape::Names(&Shape::Scalar)),
    no("enable_ipv4", Shape::Scalar),
    yes("enable_ipv6", Shape::Scalar),
    yes("external", EXTERNAL),
    yes("internal", Shape::Scalar),
    yes(
        "ipam",
        Shape::Table(&[
            yes(
                "config",
                Shape::List(&Shape::Table(&[
                    yes("aux_addresses", Shape::Names(&Shape::Scalar)),
                    yes("gateway", Shape::Scalar),
                    yes("ip_range", Shape::Scalar),
                    yes("subnet", Shape::Scalar),
                ])),
            ),
            yes("driver", Shape::Scalar),
            yes("options", Shape::Names(&Shape::Scalar)),
        ]),
    ),
    yes("labels", Shape::Pairs),
    yes("name", Shape::Scalar),
];

const VOLUME: &[Key] = &[
    yes("driver", Shape::Scalar),
    yes("driver_opts", Shape::Names(&Shape::Scalar)),
    yes("external", EXTERNAL),
    yes("labels", Shape::Pairs),
    yes("name", Shape::Scalar),
];

const SECRET: &[Key] = &[
    yes("driver", Shape::Scalar),
    yes("driver_opts", Shape::Names(&Shape::Scalar)),
    yes("environment", Shape::Scalar),
    yes("external", EXTERNAL),
    yes("file", Shape::Scalar),
    yes("labels", Shape::Pairs),
    yes("name", Shape::Scalar),
    yes("template_driver", Shape::Scalar),
];

const CONFIG: &[Key] = &[
    yes("content", Shape::Scalar),
    yes("environment", Shape::Scalar),
    yes("external", EXTERNAL),
    yes("file", Shape::Scalar),
    yes("labels", Shape::Pairs),
    yes("name", Shape::Scalar),
    yes("template_driver", Shape::Scalar),
];
