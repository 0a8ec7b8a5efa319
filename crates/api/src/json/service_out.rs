//! A service from the model to the wire, so that what a client reads and sends back is
//! what it was.

use super::config::Healthcheck;
use super::event::update_word;
use super::host_config::Ulimit;
use super::mount::{Driver, Mount};
use super::service::{
    ConfigReference, ContainerSpec, DiscreteResource, DnsConfig, Endpoint, EndpointSpec, FileTarget, GenericResource,
    JobStatus, Limits, Mode, NetworkAttachment, Placement, Platform, PortConfig, Preference, Privileges, Replicated,
    ReplicatedJob, Reservations, Resources, RestartPolicy, SecretReference, Service, ServiceSpec, ServiceStatus,
    Spread, TaskSpec, UpdateConfig, UpdateStatus, VirtualIp,
};
use super::swarm::{Meta, Version};
use super::{Empty, nanos};
use skep_model::service as model;
use skep_model::task::{Task, TaskState};
use std::time::Duration;

/// Time between the stop signal and SIGKILL when a service names none.
const STOP_GRACE_DEFAULT: Duration = Duration::from_secs(10);

impl Service {
    /// `defaults` fills in what the specs leave to the swarm; `status` counts tasks.
    pub(crate) fn of(service: &model::Service, defaults: bool, status: Option<ServiceStatus>) -> Self {
        let write = |spec: &model::ServiceSpec| {
            let mut wire = ServiceSpec::of(spec);
            if defaults {
                wire.insert_defaults();
            }
            wire
        };
        Self {
            id: service.id.to_string(),
            meta: Meta::of(&service.meta),
            spec: write(&service.spec),
            previous_spec: service.previous_spec.as_deref().map(write),
            endpoint: Endpoint::of(&service.endpoint),
            update_status: service.update_status.as_ref().map(UpdateStatus::of),
            status,
            job_status: service.job_status.as_ref().map(JobStatus::of),
        }
    }
}

impl ServiceStatus {
    /// `tasks` are the service's own.
    pub(crate) fn of<'a>(service: &model::Service, tasks: impl Iterator<Item = &'a Task>) -> Self {
        let (mut running_tasks, mut wanted, mut completed_tasks) = (0, 0, 0);
        // Those of a job's earlier runs do not count.
        let iteration = service.job_status.map(|status| status.iteration);
        for task in tasks.filter(|task| iteration.is_none() || task.job_iteration == iteration) {
            let complete = task.status.state == TaskState::Complete;
            running_tasks += u64::from(task.status.state == TaskState::Running);
            completed_tasks += u64::from(complete);
            let counts = task.desired_state == TaskState::Running
                || (task.desired_state == TaskState::Complete && !complete)
                || (iteration.is_some() && task.is_wanted());
            wanted += u64::from(counts);
        }
        let desired_tasks = match service.spec.mode {
            model::ServiceMode::Replicated { replicas } => replicas,
            model::ServiceMode::Global | model::ServiceMode::GlobalJob => wanted,
            model::ServiceMode::ReplicatedJob { max_concurrent, .. } => max_concurrent,
        };
        let job = service.spec.mode.is_job();
        Self { running_tasks, desired_tasks, completed_tasks: if job { completed_tasks } else { 0 } }
    }
}

impl JobStatus {
    fn of(status: &model::JobStatus) -> Self {
        Self { job_iteration: Version { index: status.iteration }, last_execution: status.last_execution.to_rfc3339() }
    }
}

impl ServiceSpec {
    pub(crate) fn of(spec: &model::ServiceSpec) -> Self {
        Self {
            name: spec.name.clone(),
            labels: spec.labels.clone(),
            task_template: TaskSpec { runtime: "container".into(), ..TaskSpec::of(&spec.task) },
            mode: Mode::of(&spec.mode),
            update_config: spec.update.as_ref().map(UpdateConfig::of),
            rollback_config: spec.rollback.as_ref().map(UpdateConfig::of),
            networks: vec![],
            endpoint_spec: Some(EndpointSpec::of(&spec.endpoint)),
        }
    }

    fn insert_defaults(&mut self) {
        let update = || Some(UpdateConfig::of(&model::UpdateConfig::default()));
        // A job has neither.
        if self.mode.replicated_job.is_none() && self.mode.global_job.is_none() {
            self.update_config = self.update_config.take().or_else(update);
            self.rollback_config = self.rollback_config.take().or_else(update);
        }
        if let Some(container) = &mut self.task_template.container_spec {
            container.stop_grace_period.get_or_insert_with(|| nanos(STOP_GRACE_DEFAULT));
        }
    }
}

impl Mode {
    fn of(mode: &model::ServiceMode) -> Self {
        match *mode {
            model::ServiceMode::Replicated { replicas } => {
                Self { replicated: Some(Replicated { replicas: Some(replicas) }), ..Self::default() }
            }
            model::ServiceMode::Global => Self { global: Some(Empty), ..Self::default() },
            model::ServiceMode::ReplicatedJob { max_concurrent, total_completions } => {
                let job =
                    ReplicatedJob { max_concurrent: Some(max_concurrent), total_completions: Some(total_completions) };
                Self { replicated_job: Some(job), ..Self::default() }
            }
            model::ServiceMode::GlobalJob => Self { global_job: Some(Empty), ..Self::default() },
        }
    }
}

impl UpdateConfig {
    fn of(config: &model::UpdateConfig) -> Self {
        let failure_action = match config.failure_action {
            model::FailureAction::Pause => "pause",
            model::FailureAction::Continue => "continue",
            model::FailureAction::Rollback => "rollback",
        };
        let order = match config.order {
            model::UpdateOrder::StopFirst => "stop-first",
            model::UpdateOrder::StartFirst => "start-first",
        };
        Self {
            parallelism: config.parallelism,
            delay: nanos(config.delay),
            failure_action: failure_action.into(),
            monitor: nanos(config.monitor),
            max_failure_ratio: config.max_failure_ratio,
            order: order.into(),
        }
    }
}

impl UpdateStatus {
    fn of(status: &model::UpdateStatus) -> Self {
        let time = |at: skep_model::Timestamp| at.is_set().then(|| at.to_rfc3339());
        Self {
            state: update_word(status.state),
            started_at: time(status.started_at),
            completed_at: time(status.completed_at),
            message: status.message.clone(),
        }
    }
}

impl EndpointSpec {
    pub(crate) fn of(spec: &model::EndpointSpec) -> Self {
        let mode = match spec.mode {
            model::EndpointMode::Vip => "vip",
            model::EndpointMode::DnsRr => "dnsrr",
        };
        Self { mode: mode.into(), ports: spec.ports.iter().map(PortConfig::of).collect() }
    }
}

impl PortConfig {
    pub(crate) fn of(port: &model::PortConfig) -> Self {
        let publish_mode = match port.publish_mode {
            model::PublishMode::Ingress => "ingress",
            model::PublishMode::Host => "host",
        };
        Self {
            name: port.name.clone(),
            protocol: port.protocol.as_str().into(),
            target_port: port.target_port.into(),
            published_port: port.published_port.into(),
            publish_mode: publish_mode.into(),
        }
    }
}

impl Endpoint {
    fn of(endpoint: &model::ServiceEndpoint) -> Self {
        let allocated = !endpoint.ports.is_empty() || !endpoint.virtual_ips.is_empty();
        Self {
            spec: if allocated { EndpointSpec::of(&endpoint.spec) } else { EndpointSpec::default() },
            ports: endpoint.ports.iter().map(PortConfig::of).collect(),
            virtual_ips: endpoint
                .virtual_ips
                .iter()
                .map(|vip| VirtualIp { network_id: vip.network.to_string(), addr: vip.address.to_string() })
                .collect(),
        }
    }
}

impl TaskSpec {
    pub(crate) fn of(task: &model::TaskSpec) -> Self {
        Self {
            container_spec: Some(ContainerSpec::of(&task.container)),
            plugin_spec: None,
            network_attachment_spec: None,
            resources: Some(Resources::of(&task.resources)),
            restart_policy: Some(RestartPolicy::of(&task.restart)),
            placement: Some(Placement::of(&task.placement)),
            networks: task.networks.iter().map(NetworkAttachment::of).collect(),
            log_driver: task.log_driver.clone().map(|(name, options)| Driver { name, options }),
            force_update: task.force_update,
            runtime: String::new(),
        }
    }
}

impl Resources {
    fn of(resources: &model::TaskResources) -> Self {
        let generic = resources.reserve_generic.iter().map(|(kind, value)| GenericResource {
            named_resource_spec: None,
            discrete_resource_spec: Some(DiscreteResource { kind: kind.clone(), value: *value }),
        });
        Self {
            limits: Some(Limits {
                nano_cpus: resources.limit_nano_cpus,
                memory_bytes: resources.limit_memory_bytes,
                pids: resources.limit_pids,
            }),
            reservations: Some(Reservations {
                nano_cpus: resources.reserve_nano_cpus,
                memory_bytes: resources.reserve_memory_bytes,
                generic_resources: generic.collect(),
            }),
            swap_bytes: None,
            memory_swappiness: None,
        }
    }
}

impl RestartPolicy {
    fn of(restart: &model::RestartConfig) -> Self {
        let condition = match restart.condition {
            model::RestartCondition::Any => "any",
            model::RestartCondition::OnFailure => "on-failure",
            model::RestartCondition::None => "none",
        };
        Self {
            condition: condition.into(),
            delay: Some(nanos(restart.delay)),
            max_attempts: Some(restart.max_attempts),
            window: (!restart.window.is_zero()).then(|| nanos(restart.window)),
        }
    }
}

impl Placement {
    fn of(placement: &model::Placement) -> Self {
        let spread = |label: &String| Preference { spread: Some(Spread { spread_descriptor: label.clone() }) };
        let platforms = placement.platforms.iter();
        Self {
            constraints: placement.constraints.clone(),
            preferences: placement.spread.iter().map(spread).collect(),
            max_replicas: placement.max_replicas_per_node,
            platforms: platforms.map(|p| Platform { architecture: p.architecture.clone(), os: p.os.clone() }).collect(),
        }
    }
}

impl NetworkAttachment {
    fn of(network: &model::NetworkAttachmentConfig) -> Self {
        Self {
            target: network.target.clone(),
            aliases: network.aliases.clone(),
            driver_opts: network.driver_opts.clone(),
        }
    }
}

impl ContainerSpec {
    fn of(container: &model::TaskContainer) -> Self {
        Self {
            image: container.image.clone(),
            labels: container.labels.clone(),
            command: container.command.clone(),
            args: container.args.clone(),
            hostname: container.hostname.clone(),
            env: container.env.clone(),
            dir: container.dir.clone(),
            user: container.user.clone(),
            groups: container.groups.clone(),
            privileges: Privileges::of(&container.security_opt),
            init: container.init,
            stop_signal: container.stop_signal.clone(),
            tty: container.tty,
            open_stdin: container.open_stdin,
            read_only: container.read_only,
            mounts: container.mounts.iter().map(Mount::of).collect(),
            stop_grace_period: container.stop_grace_period.map(nanos),
            healthcheck: container.healthcheck.as_ref().map(Healthcheck::of),
            hosts: container.hosts.clone(),
            dns_config: Some(DnsConfig {
                nameservers: container.dns_nameservers.clone(),
                search: container.dns_search.clone(),
                options: container.dns_options.clone(),
            }),
            secrets: container.secrets.iter().map(SecretReference::of).collect(),
            configs: container.configs.iter().map(ConfigReference::of).collect(),
            isolation: "default".into(),
            sysctls: container.sysctls.clone(),
            capability_add: container.capability_add.clone(),
            capability_drop: container.capability_drop.clone(),
            ulimits: container.ulimits.iter().map(Ulimit::of).collect(),
            oom_score_adj: container.oom_score_adj,
        }
    }
}

impl SecretReference {
    fn of(secret: &model::SecretReference) -> Self {
        Self {
            file: Some(FileTarget::of(&secret.file)),
            secret_id: secret.secret_id.to_string(),
            secret_name: secret.secret_name.clone(),
        }
    }
}

impl ConfigReference {
    fn of(config: &model::ConfigReference) -> Self {
        Self {
            file: Some(FileTarget::of(&config.file)),
            runtime: None,
            config_id: config.config_id.to_string(),
            config_name: config.config_name.clone(),
        }
    }
}

impl FileTarget {
    fn of(file: &model::FileTarget) -> Self {
        Self { name: file.name.clone(), uid: file.uid.clone(), gid: file.gid.clone(), mode: file.mode }
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
pub(crate) mod tests;
