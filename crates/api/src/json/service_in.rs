//! A service from the wire to the model. What skep cannot honour is refused by name.

use super::service::{
    ConfigReference, ContainerSpec, EndpointSpec, FileTarget, Mode, NetworkAttachment, Placement, PortConfig,
    Resources, RestartPolicy, SecretReference, ServiceSpec, TaskSpec, UpdateConfig,
};
use super::{duration, refuse, unsupported};
use crate::json::config::{Healthcheck, check_env};
use crate::json::host_config::Ulimit;
use crate::json::mount::Mount;
use skep_model::node::Platform as ModelPlatform;
use skep_model::service as model;
use skep_model::{Error, Result};
use std::collections::BTreeMap;
use std::time::Duration;

fn invalid(text: &str) -> Error {
    Error::invalid(format!("rpc error: code = InvalidArgument desc = {text}"))
}

/// A duration of the task template, in the words of the swarm.
fn task_duration(what: &str, nanos: i64) -> Result<Duration> {
    duration(&format!("rpc error: code = InvalidArgument desc = TaskSpec: {what}"), nanos)
}

impl ServiceSpec {
    /// # Errors
    /// The first field that is malformed or unsupported.
    pub(crate) fn into_model(self) -> Result<model::ServiceSpec> {
        let mut task = self.task_template;
        if task.networks.is_empty() {
            task.networks = self.networks;
        }
        let rollback = self.rollback_config.map(|config| config.into_model("rollback")).transpose()?;
        if rollback.as_ref().is_some_and(|config| config.failure_action == model::FailureAction::Rollback) {
            return Err(Error::invalid("unrecognized rollback failure action rollback"));
        }
        Ok(model::ServiceSpec {
            name: self.name,
            labels: self.labels,
            task: task.into_model()?,
            mode: self.mode.into_model()?,
            update: self.update_config.map(|config| config.into_model("update")).transpose()?,
            rollback,
            endpoint: self.endpoint_spec.unwrap_or_default().into_model()?,
        })
    }
}

impl Mode {
    fn into_model(self) -> Result<model::ServiceMode> {
        match (self.replicated, self.global, self.replicated_job, self.global_job) {
            (None, None, None, None) => Ok(model::ServiceMode::default()),
            (Some(mode), None, None, None) => {
                Ok(model::ServiceMode::Replicated { replicas: mode.replicas.unwrap_or(1) })
            }
            (None, Some(_), None, None) => Ok(model::ServiceMode::Global),
            (None, None, Some(job), None) => {
                let max_concurrent = job.max_concurrent.unwrap_or(1);
                let total_completions = job.total_completions.unwrap_or(max_concurrent);
                Ok(model::ServiceMode::ReplicatedJob { max_concurrent, total_completions })
            }
            (None, None, None, Some(_)) => Ok(model::ServiceMode::GlobalJob),
            _ => Err(Error::invalid("must specify only one service mode")),
        }
    }
}

impl UpdateConfig {
    fn into_model(self, what: &str) -> Result<model::UpdateConfig> {
        let failure_action = match self.failure_action.as_str() {
            "" | "pause" => model::FailureAction::Pause,
            "continue" => model::FailureAction::Continue,
            "rollback" => model::FailureAction::Rollback,
            other => return Err(Error::invalid(format!("unrecognized {what} failure action {other}"))),
        };
        let order = match self.order.as_str() {
            "" | "stop-first" => model::UpdateOrder::StopFirst,
            "start-first" => model::UpdateOrder::StartFirst,
            other => return Err(Error::invalid(format!("unrecognized {what} order {other}"))),
        };
        // NaN is neither.
        if !(0.0..=1.0).contains(&self.max_failure_ratio) {
            let text = format!("TaskSpec: {what}-maxfailureratio cannot be less than 0 or bigger than 1");
            return Err(invalid(&text));
        }
        let monitor = task_duration(&format!("{what}-monitor"), self.monitor)?;
        Ok(model::UpdateConfig {
            parallelism: self.parallelism,
            delay: task_duration(&format!("{what}-delay"), self.delay)?,
            failure_action,
            monitor: if monitor.is_zero() { model::UpdateConfig::default().monitor } else { monitor },
            max_failure_ratio: self.max_failure_ratio,
            order,
        })
    }
}

impl EndpointSpec {
    fn into_model(self) -> Result<model::EndpointSpec> {
        let mode = match self.mode.as_str() {
            "" | "vip" => model::EndpointMode::Vip,
            "dnsrr" => model::EndpointMode::DnsRr,
            other => return Err(Error::invalid(format!("invalid ResolutionMode: {other:?}"))),
        };
        let ports = self.ports.into_iter().map(PortConfig::into_model).collect::<Result<_>>()?;
        Ok(model::EndpointSpec { mode, ports })
    }
}

impl PortConfig {
    fn into_model(self) -> Result<model::PortConfig> {
        let port = |number: u32| {
            u16::try_from(number).map_err(|_| Error::invalid(format!("invalid port {number}: 65535 is the largest")))
        };
        let publish_mode = match self.publish_mode.as_str() {
            "" | "ingress" => model::PublishMode::Ingress,
            "host" => model::PublishMode::Host,
            other => return Err(Error::invalid(format!("invalid PublishMode: {other:?}"))),
        };
        Ok(model::PortConfig {
            name: self.name,
            protocol: self.protocol.parse()?,
            target_port: port(self.target_port)?,
            published_port: port(self.published_port)?,
            publish_mode,
        })
    }
}

impl TaskSpec {
    fn into_model(self) -> Result<model::TaskSpec> {
        refuse(&[
            ("PluginSpec", self.plugin_spec.is_some()),
            ("NetworkAttachmentSpec", self.network_attachment_spec.is_some()),
        ])?;
        if !matches!(self.runtime.as_str(), "" | "container") {
            return Err(unsupported(&format!("runtime {:?}", self.runtime)));
        }
        let Some(container) = self.container_spec else {
            return Err(Error::invalid("rpc error: code = InvalidArgument desc = TaskSpec: missing runtime"));
        };
        Ok(model::TaskSpec {
            container: container.into_model()?,
            resources: self.resources.unwrap_or_default().into_model()?,
            restart: self.restart_policy.unwrap_or_default().into_model()?,
            placement: self.placement.unwrap_or_default().into_model()?,
            networks: self.networks.into_iter().map(NetworkAttachment::into_model).collect(),
            log_driver: self.log_driver.filter(|driver| !driver.name.is_empty()).map(|d| (d.name, d.options)),
            force_update: self.force_update,
        })
    }
}

impl Resources {
    fn into_model(self) -> Result<model::TaskResources> {
        refuse(&[
            ("Resources.SwapBytes", self.swap_bytes.is_some_and(|bytes| bytes != 0)),
            ("Resources.MemorySwappiness", self.memory_swappiness.is_some_and(|value| value != -1)),
        ])?;
        let limits = self.limits.unwrap_or_default();
        let reservations = self.reservations.unwrap_or_default();
        let mut reserve_generic = BTreeMap::new();
        for resource in reservations.generic_resources {
            if resource.named_resource_spec.is_some() {
                return Err(invalid("only discrete generic resources can be reserved"));
            }
            let discrete = resource.discrete_resource_spec.unwrap_or_default();
            if discrete.kind.is_empty() || discrete.value < 0 {
                return Err(invalid("a generic resource needs a kind and a count"));
            }
            if reserve_generic.insert(discrete.kind.clone(), discrete.value).is_some() {
                return Err(invalid(&format!("generic resource {} is reserved twice", discrete.kind)));
            }
        }
        Ok(model::TaskResources {
            limit_nano_cpus: limits.nano_cpus,
            limit_memory_bytes: limits.memory_bytes,
            limit_pids: limits.pids,
            reserve_nano_cpus: reservations.nano_cpus,
            reserve_memory_bytes: reservations.memory_bytes,
            reserve_generic,
        })
    }
}

impl RestartPolicy {
    fn into_model(self) -> Result<model::RestartConfig> {
        let condition = match self.condition.as_str() {
            "" | "any" => model::RestartCondition::Any,
            "on-failure" => model::RestartCondition::OnFailure,
            "none" => model::RestartCondition::None,
            other => return Err(Error::invalid(format!("invalid RestartCondition: {other:?}"))),
        };
        let default = model::RestartConfig::default();
        let or = |what: &str, nanos: Option<i64>, default: Duration| match nanos {
            None => Ok(default),
            Some(nanos) => task_duration(what, nanos),
        };
        Ok(model::RestartConfig {
            condition,
            delay: or("restart-delay", self.delay, default.delay)?,
            max_attempts: self.max_attempts.unwrap_or(default.max_attempts),
            window: or("restart-window", self.window, default.window)?,
        })
    }
}

impl Placement {
    fn into_model(self) -> Result<model::Placement> {
        let mut spread = Vec::new();
        for preference in self.preferences {
            match preference.spread {
                Some(by) if !by.spread_descriptor.is_empty() => spread.push(by.spread_descriptor),
                _ => return Err(Error::invalid("invalid placement preference: only spread over a label is known")),
            }
        }
        let platforms = self.platforms.into_iter();
        Ok(model::Placement {
            constraints: self.constraints,
            spread,
            max_replicas_per_node: self.max_replicas,
            platforms: platforms.map(|p| ModelPlatform { architecture: p.architecture, os: p.os }).collect(),
        })
    }
}

impl NetworkAttachment {
    fn into_model(self) -> model::NetworkAttachmentConfig {
        model::NetworkAttachmentConfig { target: self.target, aliases: self.aliases, driver_opts: self.driver_opts }
    }
}

impl ContainerSpec {
    fn into_model(self) -> Result<model::TaskContainer> {
        let security_opt = self.privileges.unwrap_or_default().into_options()?;
        if !matches!(self.isolation.as_str(), "" | "default") {
            return Err(Error::invalid(format!("invalid isolation mode: {}", self.isolation)));
        }
        check_env(&self.env)?;
        let grace = self.stop_grace_period.map(|nanos| duration("StopGracePeriod", nanos)).transpose()?;
        let dns = self.dns_config.unwrap_or_default();
        Ok(model::TaskContainer {
            image: self.image,
            labels: self.labels,
            command: self.command,
            args: self.args,
            hostname: self.hostname,
            env: self.env,
            dir: self.dir,
            user: self.user,
            groups: self.groups,
            init: self.init,
            stop_signal: self.stop_signal,
            stop_grace_period: grace,
            tty: self.tty,
            open_stdin: self.open_stdin,
            read_only: self.read_only,
            mounts: self.mounts.into_iter().map(Mount::into_model).collect::<Result<_>>()?,
            healthcheck: self.healthcheck.map(Healthcheck::into_model).transpose()?,
            hosts: self.hosts,
            dns_nameservers: dns.nameservers,
            dns_search: dns.search,
            dns_options: dns.options,
            secrets: self.secrets.into_iter().map(SecretReference::into_model).collect::<Result<_>>()?,
            configs: self.configs.into_iter().map(ConfigReference::into_model).collect::<Result<_>>()?,
            sysctls: self.sysctls,
            capability_add: self.capability_add,
            capability_drop: self.capability_drop,
            ulimits: self.ulimits.into_iter().map(Ulimit::into_model).collect(),
            oom_score_adj: self.oom_score_adj,
            security_opt,
            // Comes in a header.
            pull_auth: model::PullAuth::default(),
        })
    }
}

impl SecretReference {
    fn into_model(self) -> Result<model::SecretReference> {
        let Some(file) = self.file else {
            return Err(Error::invalid(format!(
                "invalid secret reference {:?}: a file target is needed",
                self.secret_name
            )));
        };
        Ok(model::SecretReference {
            secret_id: self.secret_id.into(),
            secret_name: self.secret_name,
            file: file.into_model(),
        })
    }
}

impl ConfigReference {
    fn into_model(self) -> Result<model::ConfigReference> {
        refuse(&[("a config as runtime target", self.runtime.is_some())])?;
        let Some(file) = self.file else {
            return Err(Error::invalid(format!(
                "invalid config reference {:?}: a file target is needed",
                self.config_name
            )));
        };
        Ok(model::ConfigReference {
            config_id: self.config_id.into(),
            config_name: self.config_name,
            file: file.into_model(),
        })
    }
}

impl FileTarget {
    fn into_model(self) -> model::FileTarget {
        model::FileTarget { name: self.name, uid: self.uid, gid: self.gid, mode: self.mode }
    }
}
