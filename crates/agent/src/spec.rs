//! What a task's container is to be: a pure mapping from the task to the engine's words.

use crate::template::{NodeFacts, expand};
use skep_model::container::{
    ContainerConfig, ContainerSpec, EndpointConfig, HostConfig, InjectedFile, LogConfig, Mount, Resources,
};
use skep_model::network::{PortBinding, PortKey};
use skep_model::service::{PublishMode, TaskContainer, TaskResources};
use skep_model::task::{AssignedResource, Task};
use skep_model::{Error, Result};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// Marks a container of the swarm; its value is empty.
pub const TASK_LABEL: &str = "com.docker.swarm.task";
/// Names the task a container belongs to.
pub const TASK_ID_LABEL: &str = "com.docker.swarm.task.id";

/// The task needs the bridge between its node and the swarm's networks: for a way out of
/// an overlay, or for published ports coming in.
pub(crate) fn needs_gateway(task: &Task) -> bool {
    if local_network(task).is_some() {
        return false;
    }
    !task.attachments.is_empty() || task.endpoint.ports.iter().any(|port| port.publish_mode == PublishMode::Ingress)
}

/// The network of the node itself (`host`, `bridge`, `none`) that the task is to use.
pub(crate) fn local_network(task: &Task) -> Option<&str> {
    let local = task.attachments.iter().find(|leg| leg.addresses.is_empty() && !leg.network_name.is_empty());
    local.map(|leg| leg.network_name.as_str())
}

/// The container of `task`. `gateway` is the name of the gateway network, for tasks that need it.
///
/// # Errors
/// When the task's spec holds something malformed.
pub(crate) fn container_spec(
    task: &Task,
    node: &NodeFacts,
    gateway: Option<&str>,
    files: Vec<InjectedFile>,
) -> Result<ContainerSpec> {
    let networks = legs(task, gateway);
    let network_mode = match local_network(task) {
        Some(name) => name.to_owned(),
        None => networks.keys().next().cloned().unwrap_or_else(|| "default".to_owned()),
    };
    Ok(ContainerSpec {
        name: task.container_name(),
        config: config(task, node)?,
        host: HostConfig { network_mode, ..host(task, node)? },
        networks,
        files,
    })
}

/// One leg per attachment, with the address the swarm chose, and one on the gateway.
fn legs(task: &Task, gateway: Option<&str>) -> BTreeMap<String, EndpointConfig> {
    let mut legs = BTreeMap::new();
    for attachment in task.attachments.iter().filter(|leg| !leg.addresses.is_empty()) {
        let address = |v4: bool| attachment.addresses.iter().map(ipnet::IpNet::addr).find(|ip| ip.is_ipv4() == v4);
        let leg = EndpointConfig {
            ipv4_address: address(true),
            ipv6_address: address(false),
            driver_opts: driver_options(task, attachment.network.as_str()),
            ..EndpointConfig::default()
        };
        legs.insert(attachment.network.to_string(), leg);
    }
    if let Some(gateway) = gateway {
        legs.insert(gateway.to_owned(), EndpointConfig::default());
    }
    legs
}

fn driver_options(task: &Task, network: &str) -> BTreeMap<String, String> {
    let wanted = task.spec.networks.iter().find(|wanted| wanted.target == network);
    wanted.map(|wanted| wanted.driver_opts.clone()).unwrap_or_default()
}

fn config(task: &Task, node: &NodeFacts) -> Result<ContainerConfig> {
    let wish = &task.spec.container;
    let env = wish.env.iter().map(|pair| expand(pair, task, node).map_err(|e| e.context("expanding env failed")));
    let (entrypoint, cmd) = command(wish);
    Ok(ContainerConfig {
        hostname: expand(&wish.hostname, task, node).map_err(|e| e.context("expanding hostname failed"))?,
        user: wish.user.clone(),
        tty: wish.tty,
        open_stdin: wish.open_stdin,
        env: env.chain(resource_env(task).map(Ok)).collect::<Result<_>>()?,
        entrypoint,
        cmd,
        image: wish.image.clone(),
        working_dir: wish.dir.clone(),
        labels: labels(task, node),
        stop_signal: wish.stop_signal.clone(),
        stop_timeout_s: wish.stop_grace_period.map(whole_seconds),
        healthcheck: wish.healthcheck.clone(),
        exposed_ports: host_ports(task).map(|(key, _)| key).collect(),
        ..ContainerConfig::default()
    })
}

/// `DOCKER_RESOURCE_GPU=u1,u2`: which of the node's resources the task was given.
fn resource_env(task: &Task) -> impl Iterator<Item = String> + '_ {
    task.resources.iter().map(|(kind, given)| {
        let value = match given {
            AssignedResource::Count(count) => count.to_string(),
            AssignedResource::Named(names) => names.iter().map(String::as_str).collect::<Vec<_>>().join(","),
        };
        format!("DOCKER_RESOURCE_{}={value}", kind.to_uppercase())
    })
}

/// A command replaces the image's entrypoint, arguments alone only its command.
fn command(wish: &TaskContainer) -> (Option<Vec<String>>, Option<Vec<String>>) {
    let given = |words: &Vec<String>| (!words.is_empty()).then(|| words.clone());
    (given(&wish.command), given(&wish.args))
}

fn whole_seconds(time: Duration) -> i64 {
    let rounded_up = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    i64::try_from(rounded_up).unwrap_or(i64::MAX)
}

/// The service's container labels under the swarm's own, which win.
fn labels(task: &Task, node: &NodeFacts) -> BTreeMap<String, String> {
    let mut labels = task.spec.container.labels.clone();
    let own = [
        (TASK_LABEL, String::new()),
        (TASK_ID_LABEL, task.id.to_string()),
        ("com.docker.swarm.task.name", task.container_name()),
        ("com.docker.swarm.node.id", node.id.to_string()),
        ("com.docker.swarm.service.id", task.service_id.to_string()),
        ("com.docker.swarm.service.name", task.service_name.clone()),
    ];
    labels.extend(own.map(|(key, value)| (key.to_owned(), value)));
    labels
}

fn host(task: &Task, node: &NodeFacts) -> Result<HostConfig> {
    let wish = &task.spec.container;
    let mut port_bindings: BTreeMap<PortKey, Vec<PortBinding>> = BTreeMap::new();
    for (key, binding) in host_ports(task) {
        port_bindings.entry(key).or_default().push(binding);
    }
    Ok(HostConfig {
        mounts: wish.mounts.iter().map(|mount| expanded_mount(mount, task, node)).collect::<Result<_>>()?,
        port_bindings,
        readonly_rootfs: wish.read_only,
        cap_add: wish.capability_add.clone(),
        cap_drop: wish.capability_drop.clone(),
        group_add: wish.groups.clone(),
        dns: wish.dns_nameservers.iter().map(|text| name_server(text)).collect::<Result<_>>()?,
        dns_search: wish.dns_search.clone(),
        dns_options: wish.dns_options.clone(),
        extra_hosts: wish.hosts.iter().flat_map(|line| extra_hosts(line)).collect(),
        sysctls: wish.sysctls.clone(),
        ulimits: wish.ulimits.clone(),
        init: wish.init,
        resources: resources(&task.spec.resources),
        oom_score_adj: wish.oom_score_adj,
        security_opt: wish.security_opt.clone(),
        log_config: log_config(task),
        ..HostConfig::default()
    })
}

fn host_ports(task: &Task) -> impl Iterator<Item = (PortKey, PortBinding)> + '_ {
    let published = task.endpoint.ports.iter().filter(|port| port.publish_mode == PublishMode::Host);
    published.map(|port| {
        let key = PortKey { port: port.target_port, protocol: port.protocol };
        (key, PortBinding { host_ip: None, host_port: port.published_port, host_port_end: 0 })
    })
}

fn expanded_mount(mount: &Mount, task: &Task, node: &NodeFacts) -> Result<Mount> {
    let text = |text: &str| expand(text, task, node).map_err(|e| e.context("expanding mount failed"));
    Ok(Mount { source: text(&mount.source)?, target: text(&mount.target)?, ..mount.clone() })
}

fn name_server(text: &str) -> Result<IpAddr> {
    text.parse().map_err(|_| Error::invalid(format!("{text} is not an IP address")))
}

/// `ip name...` becomes `name:ip` for every name.
fn extra_hosts(line: &str) -> Vec<String> {
    let mut words = line.split_whitespace();
    let Some(address) = words.next() else { return Vec::new() };
    words.map(|name| format!("{name}:{address}")).collect()
}

/// Reservations matter to the scheduler only, but for the memory's soft limit.
fn resources(wish: &TaskResources) -> Resources {
    Resources {
        memory_bytes: wish.limit_memory_bytes,
        memory_reservation_bytes: wish.reserve_memory_bytes,
        nano_cpus: wish.limit_nano_cpus,
        pids_limit: wish.limit_pids,
        ..Resources::default()
    }
}

fn log_config(task: &Task) -> LogConfig {
    match &task.spec.log_driver {
        Some((driver, options)) if !driver.is_empty() => LogConfig { driver: driver.clone(), options: options.clone() },
        Some((_, options)) => LogConfig { options: options.clone(), ..LogConfig::default() },
        None => LogConfig::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::container::MountKind;
    use skep_model::service::PortConfig;
    use skep_model::task::TaskAttachment;
    use std::sync::Arc;

    fn task() -> Task {
        Task { id: "t1".into(), service_name: "web".into(), service_id: "s1".into(), slot: 1, ..Task::default() }
    }

    fn node() -> NodeFacts {
        NodeFacts { id: "n1".into(), hostname: "node1".into(), ..NodeFacts::default() }
    }

    fn check(task: &Task) -> ContainerSpec {
        container_spec(task, &node(), needs_gateway(task).then_some("docker_gwbridge"), Vec::new()).unwrap()
    }

    fn port(published_port: u16, publish_mode: PublishMode) -> PortConfig {
        PortConfig { target_port: 80, published_port, publish_mode, ..PortConfig::default() }
    }

    #[test]
    fn is_named_and_labelled_as_clients_expect() {
        let mut task = task();
        Arc::make_mut(&mut task.spec).container.labels =
            [(TASK_ID_LABEL.to_owned(), "forged".to_owned()), ("a".into(), "b".into())].into();
        let spec = check(&task);
        assert_eq!(spec.name, "web.1.t1");
        assert_eq!(spec.config.labels[TASK_ID_LABEL], "t1");
        assert_eq!(spec.config.labels["com.docker.swarm.task.name"], "web.1.t1");
        assert_eq!(spec.config.labels["com.docker.swarm.node.id"], "n1");
        assert_eq!(spec.config.labels["com.docker.swarm.service.name"], "web");
        assert_eq!(spec.config.labels["com.docker.swarm.task"], "");
        assert_eq!(spec.config.labels["a"], "b");
    }

    #[test]
    fn a_command_replaces_the_entrypoint_and_arguments_the_command() {
        let mut task = task();
        Arc::make_mut(&mut task.spec).container.args = vec!["top".into()];
        let spec = check(&task);
        assert_eq!((spec.config.entrypoint, spec.config.cmd), (None, Some(vec!["top".to_owned()])));
        Arc::make_mut(&mut task.spec).container.command = vec!["sh".into(), "-c".into()];
        assert_eq!(check(&task).config.entrypoint, Some(vec!["sh".to_owned(), "-c".to_owned()]));
    }

    #[test]
    fn an_overlay_leg_or_an_ingress_port_needs_the_gateway() {
        let plain = check(&task());
        assert_eq!((plain.host.network_mode.as_str(), plain.networks.len()), ("default", 0));

        let mut overlay = task();
        let address = "10.0.1.5/24".parse().unwrap();
        overlay.attachments =
            vec![TaskAttachment { network: "net1".into(), addresses: vec![address], ..TaskAttachment::default() }];
        let spec = check(&overlay);
        assert_eq!(spec.networks["net1"].ipv4_address, Some("10.0.1.5".parse().unwrap()));
        assert!(spec.networks.contains_key("docker_gwbridge"));

        let mut ingress = task();
        ingress.endpoint.ports = vec![port(8080, PublishMode::Ingress)];
        let spec = check(&ingress);
        assert_eq!(spec.host.network_mode, "docker_gwbridge");
        assert!(spec.host.port_bindings.is_empty(), "the mesh publishes it, not the engine");
    }

    #[test]
    fn host_ports_are_bound_by_the_engine() {
        let mut task = task();
        task.endpoint.ports = vec![port(8080, PublishMode::Host), port(0, PublishMode::Host)];
        let spec = check(&task);
        let bound: Vec<u16> =
            spec.host.port_bindings[&"80/tcp".parse().unwrap()].iter().map(|binding| binding.host_port).collect();
        assert_eq!(bound, [8080, 0]);
        assert_eq!(spec.host.network_mode, "default");
    }

    #[test]
    fn a_network_of_the_node_replaces_all_legs() {
        let mut task = task();
        task.attachments =
            vec![TaskAttachment { network: "n1".into(), network_name: "host".into(), ..TaskAttachment::default() }];
        task.endpoint.ports = vec![port(8080, PublishMode::Ingress)];
        let spec = check(&task);
        assert_eq!((spec.host.network_mode.as_str(), spec.networks.len()), ("host", 0));
    }

    #[test]
    fn templates_reach_host_name_environment_and_mounts() {
        let mut task = task();
        Arc::make_mut(&mut task.spec).container.hostname = "{{.Node.Hostname}}-{{.Task.Slot}}".into();
        Arc::make_mut(&mut task.spec).container.env = vec!["N={{.Service.Name}}".into()];
        Arc::make_mut(&mut task.spec).container.mounts = vec![Mount {
            kind: MountKind::Volume,
            source: "data-{{.Task.Slot}}".into(),
            target: "/data".into(),
            ..Mount::default()
        }];
        let spec = check(&task);
        assert_eq!(spec.config.hostname, "node1-1");
        assert_eq!(spec.config.env, ["N=web"]);
        assert_eq!(spec.host.mounts[0].source, "data-1");
        Arc::make_mut(&mut task.spec).container.env = vec!["N={{.Nope}}".into()];
        let error = container_spec(&task, &node(), None, Vec::new()).unwrap_err();
        assert!(error.message.starts_with("expanding env failed"), "{error}");
    }

    #[test]
    fn assigned_resources_are_told_in_the_environment() {
        let mut task = task();
        task.resources.insert("gpu".into(), AssignedResource::Named(["u1".to_owned(), "u2".to_owned()].into()));
        task.resources.insert("ssd".into(), AssignedResource::Count(3));
        let env = check(&task).config.env;
        assert!(
            env.ends_with(&["DOCKER_RESOURCE_GPU=u1,u2".to_owned(), "DOCKER_RESOURCE_SSD=3".to_owned()]),
            "{env:?}"
        );
    }

    #[test]
    fn limits_and_times_are_mapped() {
        let mut task = task();
        Arc::make_mut(&mut task.spec).resources =
            TaskResources { limit_nano_cpus: 5, limit_memory_bytes: 6, limit_pids: 7, ..TaskResources::default() };
        Arc::make_mut(&mut task.spec).container.stop_grace_period = Some(Duration::from_millis(1500));
        Arc::make_mut(&mut task.spec).container.hosts = vec!["1.2.3.4 a b".into()];
        let spec = check(&task);
        let resources = &spec.host.resources;
        assert_eq!((resources.nano_cpus, resources.memory_bytes, resources.pids_limit), (5, 6, 7));
        assert_eq!(spec.config.stop_timeout_s, Some(2));
        assert_eq!(spec.host.extra_hosts, ["a:1.2.3.4", "b:1.2.3.4"]);
        Arc::make_mut(&mut task.spec).container.dns_nameservers = vec!["dns.example".into()];
        assert!(container_spec(&task, &node(), None, Vec::new()).is_err());
    }
}
