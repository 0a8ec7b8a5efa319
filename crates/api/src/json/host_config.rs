//! `HostConfig`: the half of a container that depends on the machine.

use super::config::parse_port;
use super::mount::Mount;
use super::{refuse, unsupported, wire, zero};
use serde_json::Value;
use skep_model::container::{
    DeviceMapping, HostConfig as Model, LogConfig as ModelLog, Resources, RestartMode, RestartPolicy as ModelRestart,
    Ulimit as ModelUlimit,
};
use skep_model::network::{PortBinding as ModelBinding, PortKey};
use skep_model::{Error, Result};
use std::collections::BTreeMap;

/// Bytes of /dev/shm when none are asked for, as `inspect` shows it.
const SHM_SIZE_DEFAULT: i64 = 64 << 20;
/// The least memory a container can be limited to.
const MEMORY_MIN: i64 = 6 << 20;

/// What create, update and inspect carry.
type List = Option<Vec<String>>;
type Device = Option<Vec<Value>>;

wire!(
    HostConfig {
        binds: List,
        #[serde(rename = "ContainerIDFile")]
        container_id_file: String,
        log_config: LogConfig,
        network_mode: String,
        port_bindings: BTreeMap<String, Option<Vec<PortBinding>>>,
        restart_policy: RestartPolicy,
        auto_remove: bool,
        volume_driver: String,
        volumes_from: List,
        console_size: Option<(u16, u16)>,
        #[serde(skip_serializing_if = "zero")]
        annotations: BTreeMap<String, String>,
        cap_add: List,
        cap_drop: List,
        cgroupns_mode: String,
        dns: Vec<String>,
        dns_options: Vec<String>,
        dns_search: Vec<String>,
        extra_hosts: List,
        group_add: List,
        ipc_mode: String,
        cgroup: String,
        links: List,
        oom_score_adj: i32,
        pid_mode: String,
        privileged: bool,
        publish_all_ports: bool,
        readonly_rootfs: bool,
        security_opt: List,
        #[serde(skip_serializing_if = "zero")]
        storage_opt: BTreeMap<String, String>,
        #[serde(skip_serializing_if = "zero")]
        tmpfs: BTreeMap<String, String>,
        #[serde(rename = "UTSMode")]
        uts_mode: String,
        userns_mode: String,
        shm_size: i64,
        #[serde(skip_serializing_if = "zero")]
        sysctls: BTreeMap<String, String>,
        runtime: String,
        isolation: String,
        cpu_shares: i64,
        memory: i64,
        nano_cpus: i64,
        cgroup_parent: String,
        blkio_weight: u16,
        blkio_weight_device: Device,
        blkio_device_read_bps: Device,
        blkio_device_write_bps: Device,
        #[serde(rename = "BlkioDeviceReadIOps")]
        blkio_device_read_iops: Device,
        #[serde(rename = "BlkioDeviceWriteIOps")]
        blkio_device_write_iops: Device,
        cpu_period: i64,
        cpu_quota: i64,
        cpu_realtime_period: i64,
        cpu_realtime_runtime: i64,
        cpuset_cpus: String,
        cpuset_mems: String,
        devices: Vec<DeviceJson>,
        device_cgroup_rules: List,
        device_requests: Device,
        #[serde(skip_serializing_if = "zero")]
        kernel_memory: i64,
        #[serde(rename = "KernelMemoryTCP", skip_serializing_if = "zero")]
        kernel_memory_tcp: i64,
        memory_reservation: i64,
        memory_swap: i64,
        memory_swappiness: Option<i64>,
        oom_kill_disable: Option<bool>,
        pids_limit: Option<i64>,
        ulimits: Vec<Ulimit>,
        cpu_count: i64,
        cpu_percent: i64,
        #[serde(rename = "IOMaximumIOps")]
        io_maximum_iops: u64,
        #[serde(rename = "IOMaximumBandwidth")]
        io_maximum_bandwidth: u64,
        #[serde(skip_serializing_if = "zero")]
        mounts: Vec<Mount>,
        masked_paths: List,
        readonly_paths: List,
        #[serde(skip_serializing_if = "zero")]
        init: Option<bool>,
    }
);

wire!(LogConfig { #[serde(rename = "Type")] kind: String, config: BTreeMap<String, String> });
wire!(RestartPolicy { name: String, maximum_retry_count: i64 });
wire!(PortBinding { host_ip: String, host_port: String });
wire!(Ulimit { name: String, hard: i64, soft: i64 });
wire!(DeviceJson { path_on_host: String, path_in_container: String, cgroup_permissions: String });

impl HostConfig {
    /// The model's form. Adds to `warnings` what is dropped on purpose. `links` are
    /// the caller's to place on the leg of the network mode.
    ///
    /// # Errors
    /// 400 for what is malformed or contradictory, 501 for what skep does not have.
    pub(crate) fn into_model(self, warnings: &mut Vec<String>) -> Result<Model> {
        self.refuse_unsupported()?;
        if self.memory_swappiness.is_some_and(|value| value != -1) {
            warnings.push("Memory swappiness is not supported and was discarded.".into());
        }
        if self.kernel_memory != 0 || self.kernel_memory_tcp != 0 {
            warnings.push("Kernel memory limits are obsolete and were discarded.".into());
        }
        let resources = self.resources()?;
        let restart_policy = self.restart_policy.into_model()?;
        if self.auto_remove && restart_policy.mode != RestartMode::No {
            return Err(Error::invalid("can't create 'AutoRemove' container with restart policy"));
        }
        let (mut binds, mut mounts) = (self.binds.unwrap_or_default(), Vec::new());
        for mount in self.mounts {
            if mount.creates_source() {
                binds.push(mount.into_bind()?);
            } else {
                mounts.push(mount.into_model()?);
            }
        }
        let Ok(shm_size) = u64::try_from(self.shm_size) else {
            return Err(Error::invalid("SHM size can not be less than 0"));
        };
        Ok(Model {
            binds,
            mounts,
            overlays: Vec::new(),
            tmpfs: self.tmpfs,
            network_mode: self.network_mode,
            port_bindings: read_bindings(self.port_bindings)?,
            publish_all_ports: self.publish_all_ports,
            restart_policy,
            auto_remove: self.auto_remove,
            privileged: self.privileged,
            readonly_rootfs: self.readonly_rootfs,
            cap_add: self.cap_add.unwrap_or_default(),
            cap_drop: self.cap_drop.unwrap_or_default(),
            group_add: self.group_add.unwrap_or_default(),
            dns: read_dns(&self.dns)?,
            dns_search: self.dns_search,
            dns_options: self.dns_options,
            extra_hosts: self.extra_hosts.unwrap_or_default(),
            security_opt: self.security_opt.unwrap_or_default(),
            shm_size,
            sysctls: self.sysctls,
            ulimits: self.ulimits.into_iter().map(Ulimit::into_model).collect(),
            init: self.init,
            resources,
            oom_score_adj: self.oom_score_adj,
            pid_mode: self.pid_mode,
            ipc_mode: self.ipc_mode,
            uts_mode: self.uts_mode,
            cgroupns_mode: self.cgroupns_mode,
            userns_mode: self.userns_mode,
            log_config: self.log_config.into_model(),
            devices: self.devices.into_iter().map(DeviceJson::into_model).collect(),
            device_cgroup_rules: self.device_cgroup_rules.unwrap_or_default(),
            cgroup_parent: self.cgroup_parent,
            volumes_from: self.volumes_from.unwrap_or_default(),
            masked_paths: self.masked_paths,
            readonly_paths: self.readonly_paths,
            annotations: self.annotations,
            runtime: self.runtime,
            console_size: self.console_size.unwrap_or_default(),
        })
    }

    fn refuse_unsupported(&self) -> Result<()> {
        let some = |list: &Device| list.as_ref().is_some_and(|items| !items.is_empty());
        if !matches!(self.isolation.as_str(), "" | "default") {
            return Err(Error::invalid(format!("invalid isolation ({}): linux does not support it", self.isolation)));
        }
        if !matches!(self.runtime.as_str(), "" | "skep" | "runc" | "io.containerd.runc.v2") {
            return Err(Error::invalid(format!("unknown or invalid runtime name: {}", self.runtime)));
        }
        if !matches!(self.volume_driver.as_str(), "" | "local") {
            return Err(unsupported(&format!("volume driver {:?}", self.volume_driver)));
        }
        if some(&self.device_requests) {
            return Err(Error::not_implemented("could not select device driver: device requests are not supported"));
        }
        refuse(&[
            ("Cgroup", !self.cgroup.is_empty()),
            ("StorageOpt", !self.storage_opt.is_empty()),
            ("BlkioWeightDevice", some(&self.blkio_weight_device)),
            ("BlkioDeviceReadBps", some(&self.blkio_device_read_bps)),
            ("BlkioDeviceWriteBps", some(&self.blkio_device_write_bps)),
            ("BlkioDeviceReadIOps", some(&self.blkio_device_read_iops)),
            ("BlkioDeviceWriteIOps", some(&self.blkio_device_write_iops)),
            ("CpuRealtimePeriod", self.cpu_realtime_period != 0),
            ("CpuRealtimeRuntime", self.cpu_realtime_runtime != 0),
            ("CpuCount", self.cpu_count != 0),
            ("CpuPercent", self.cpu_percent != 0),
            ("IOMaximumIOps", self.io_maximum_iops != 0),
            ("IOMaximumBandwidth", self.io_maximum_bandwidth != 0),
        ])
    }

    /// The limits alone, which `update` changes.
    ///
    /// # Errors
    /// Limits that contradict each other, with Docker's texts.
    pub(crate) fn resources(&self) -> Result<Resources> {
        let invalid = |why: &str| Err(Error::invalid(why));
        if self.memory != 0 && self.memory < MEMORY_MIN {
            return invalid("Minimum memory limit allowed is 6MB");
        }
        if self.memory > 0 && self.memory_swap > 0 && self.memory_swap < self.memory {
            return invalid("Minimum memoryswap limit should be larger than memory limit, see usage");
        }
        if self.memory == 0 && self.memory_swap > 0 {
            return invalid("You should always set the Memory limit when using Memoryswap limit, see usage");
        }
        if self.memory > 0 && self.memory_reservation > self.memory {
            return invalid("Minimum memory limit can not be less than memory reservation limit, see usage");
        }
        if self.nano_cpus < 0 {
            return invalid("invalid CPUs: NanoCPUs cannot be negative");
        }
        if self.nano_cpus > 0 && (self.cpu_period > 0 || self.cpu_quota > 0) {
            return invalid("Conflicting options: Nano CPUs and CPU Period or Quota cannot both be set.");
        }
        if self.cpu_period != 0 && !(1000..=1_000_000).contains(&self.cpu_period) {
            return invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)");
        }
        if self.cpu_quota > 0 && self.cpu_quota < 1000 {
            return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)");
        }
        if self.blkio_weight != 0 && !(10..=1000).contains(&self.blkio_weight) {
            return invalid("Range of blkio weight is from 10 to 1000");
        }
        if self.memory_reservation < 0 || self.cpu_shares < 0 {
            return invalid("invalid value: MemoryReservation and CpuShares cannot be negative");
        }
        Ok(Resources {
            memory_bytes: self.memory,
            memory_swap_bytes: self.memory_swap,
            memory_reservation_bytes: self.memory_reservation,
            nano_cpus: self.nano_cpus,
            cpu_shares: self.cpu_shares,
            cpu_period_us: self.cpu_period,
            cpu_quota_us: self.cpu_quota,
            cpuset_cpus: self.cpuset_cpus.clone(),
            cpuset_mems: self.cpuset_mems.clone(),
            pids_limit: self.pids_limit.unwrap_or_default(),
            oom_kill_disable: self.oom_kill_disable.unwrap_or_default(),
            blkio_weight: self.blkio_weight,
        })
    }

    /// The wire form for `inspect`.
    pub(crate) fn of(host: &Model) -> Self {
        let list = |items: &Vec<String>| (!items.is_empty()).then(|| items.clone());
        let resources = &host.resources;
        let shm_size = i64::try_from(host.shm_size).unwrap_or(i64::MAX);
        Self {
            binds: list(&host.binds),
            log_config: LogConfig { kind: host.log_config.driver.clone(), config: host.log_config.options.clone() },
            network_mode: if host.network_mode.is_empty() { "default".into() } else { host.network_mode.clone() },
            port_bindings: write_bindings(&host.port_bindings, "").into_iter().map(|(k, v)| (k, Some(v))).collect(),
            restart_policy: RestartPolicy::of(&host.restart_policy),
            auto_remove: host.auto_remove,
            volumes_from: list(&host.volumes_from),
            console_size: Some(host.console_size),
            annotations: host.annotations.clone(),
            cap_add: list(&host.cap_add),
            cap_drop: list(&host.cap_drop),
            cgroupns_mode: or(&host.cgroupns_mode, "host"),
            dns: host.dns.iter().map(ToString::to_string).collect(),
            dns_options: host.dns_options.clone(),
            dns_search: host.dns_search.clone(),
            extra_hosts: list(&host.extra_hosts),
            group_add: list(&host.group_add),
            ipc_mode: or(&host.ipc_mode, "private"),
            oom_score_adj: host.oom_score_adj,
            pid_mode: host.pid_mode.clone(),
            privileged: host.privileged,
            publish_all_ports: host.publish_all_ports,
            readonly_rootfs: host.readonly_rootfs,
            security_opt: list(&host.security_opt),
            tmpfs: host.tmpfs.clone(),
            uts_mode: host.uts_mode.clone(),
            userns_mode: host.userns_mode.clone(),
            shm_size: if shm_size == 0 { SHM_SIZE_DEFAULT } else { shm_size },
            sysctls: host.sysctls.clone(),
            runtime: or(&host.runtime, "skep"),
            cpu_shares: resources.cpu_shares,
            memory: resources.memory_bytes,
            nano_cpus: resources.nano_cpus,
            cgroup_parent: host.cgroup_parent.clone(),
            blkio_weight: resources.blkio_weight,
            blkio_weight_device: Some(vec![]),
            blkio_device_read_bps: Some(vec![]),
            blkio_device_write_bps: Some(vec![]),
            blkio_device_read_iops: Some(vec![]),
            blkio_device_write_iops: Some(vec![]),
            cpu_period: resources.cpu_period_us,
            cpu_quota: resources.cpu_quota_us,
            cpuset_cpus: resources.cpuset_cpus.clone(),
            cpuset_mems: resources.cpuset_mems.clone(),
            devices: host.devices.iter().map(DeviceJson::of).collect(),
            device_cgroup_rules: list(&host.device_cgroup_rules),
            memory_reservation: resources.memory_reservation_bytes,
            memory_swap: resources.memory_swap_bytes,
            oom_kill_disable: Some(resources.oom_kill_disable),
            pids_limit: (resources.pids_limit != 0).then_some(resources.pids_limit),
            ulimits: host.ulimits.iter().map(Ulimit::of).collect(),
            mounts: host.mounts.iter().map(Mount::of).collect(),
            masked_paths: host.masked_paths.clone(),
            readonly_paths: host.readonly_paths.clone(),
            init: host.init,
            ..Self::default()
        }
    }
}

fn or(text: &str, default: &str) -> String {
    if text.is_empty() { default.into() } else { text.into() }
}

fn read_dns(servers: &[String]) -> Result<Vec<std::net::IpAddr>> {
    let parse = |text: &String| text.parse().map_err(|_| Error::invalid(format!("invalid DNS server address: {text}")));
    servers.iter().map(parse).collect()
}

fn read_bindings(wire: BTreeMap<String, Option<Vec<PortBinding>>>) -> Result<BTreeMap<PortKey, Vec<ModelBinding>>> {
    let mut bindings = BTreeMap::new();
    for (key, wanted) in wire {
        let wanted = wanted.unwrap_or_default().into_iter().map(PortBinding::into_model).collect::<Result<Vec<_>>>()?;
        bindings.insert(parse_port(&key)?, wanted);
    }
    Ok(bindings)
}

/// Bindings on the wire; `any` stands for "every address".
pub(crate) fn write_bindings(
    bindings: &BTreeMap<PortKey, Vec<ModelBinding>>,
    any: &str,
) -> BTreeMap<String, Vec<PortBinding>> {
    let write = |binding: &ModelBinding| PortBinding {
        host_ip: binding.host_ip.map_or_else(|| any.to_owned(), |ip| ip.to_string()),
        host_port: match (binding.host_port, binding.host_port_end) {
            (0, _) => String::new(),
            (first, last) if last > first => format!("{first}-{last}"),
            (first, _) => first.to_string(),
        },
    };
    bindings.iter().map(|(key, list)| (key.to_string(), list.iter().map(write).collect())).collect()
}

impl PortBinding {
    fn into_model(self) -> Result<ModelBinding> {
        let bad = || Error::invalid(format!("invalid port specification: \"{}\"", self.host_port));
        let (first, last) = self.host_port.split_once('-').unwrap_or((&self.host_port, ""));
        let port = |text: &str| if text.is_empty() { Ok(0) } else { text.parse::<u16>().map_err(|_| bad()) };
        let (host_port, host_port_end) = (port(first)?, port(last)?);
        if host_port_end != 0 && host_port_end < host_port {
            return Err(bad());
        }
        let host_ip = match self.host_ip.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| Error::invalid(format!("invalid IP address: {text}")))?),
        };
        Ok(ModelBinding { host_ip, host_port, host_port_end })
    }
}

impl RestartPolicy {
    /// # Errors
    /// An unknown mode, or a count that its mode does not have.
    pub(crate) fn into_model(self) -> Result<ModelRestart> {
        let mode = match self.name.as_str() {
            "" | "no" => RestartMode::No,
            "always" => RestartMode::Always,
            "unless-stopped" => RestartMode::UnlessStopped,
            "on-failure" => RestartMode::OnFailure,
            other => {
                return Err(Error::invalid(format!(
                    "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or \
                     'unless-stopped'"
                )));
            }
        };
        let Ok(maximum_retry_count) = u32::try_from(self.maximum_retry_count) else {
            return Err(Error::invalid("invalid restart policy: maximum retry count cannot be negative"));
        };
        if mode != RestartMode::OnFailure && maximum_retry_count != 0 {
            return Err(Error::invalid(
                "invalid restart policy: maximum retry count can only be used with 'on-failure'",
            ));
        }
        Ok(ModelRestart { mode, maximum_retry_count })
    }

    fn of(policy: &ModelRestart) -> Self {
        let name = match policy.mode {
            RestartMode::No => "no",
            RestartMode::Always => "always",
            RestartMode::UnlessStopped => "unless-stopped",
            RestartMode::OnFailure => "on-failure",
        };
        Self { name: name.into(), maximum_retry_count: policy.maximum_retry_count.into() }
    }
}

impl LogConfig {
    fn into_model(self) -> ModelLog {
        let driver = if self.kind.is_empty() { ModelLog::default().driver } else { self.kind };
        ModelLog { driver, options: self.config }
    }
}

impl Ulimit {
    pub(crate) fn into_model(self) -> ModelUlimit {
        ModelUlimit { name: self.name, soft: self.soft, hard: self.hard }
    }

    pub(crate) fn of(limit: &ModelUlimit) -> Self {
        Self { name: limit.name.clone(), soft: limit.soft, hard: limit.hard }
    }
}

impl DeviceJson {
    fn into_model(self) -> DeviceMapping {
        let path_in_container = or(&self.path_in_container, &self.path_on_host);
        DeviceMapping {
            path_in_container,
            path_on_host: self.path_on_host,
            cgroup_permissions: or(&self.cgroup_permissions, "rwm"),
        }
    }

    fn of(device: &DeviceMapping) -> Self {
        Self {
            path_on_host: device.path_on_host.clone(),
            path_in_container: device.path_in_container.clone(),
            cgroup_permissions: device.cgroup_permissions.clone(),
        }
    }
}

#[cfg(test)]
#[path = "host_config_tests.rs"]
mod tests;
