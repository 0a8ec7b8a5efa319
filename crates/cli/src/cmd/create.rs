//! Flags of `run` and `create` as the API's create body. Pure but for environment files.

use crate::flags::container::{CreateFlags, HealthFlags};
use crate::parse;
use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

/// The body of `POST /containers/create`.
pub(crate) fn body(flags: &CreateFlags, attach: bool, auto_remove: bool) -> Result<Value> {
    let (exposed, bindings) = ports(flags)?;
    let (network_mode, endpoints) = networks(flags)?;
    let streams =
        |name: &str| attach && (flags.attach.is_empty() || flags.attach.iter().any(|a| a.eq_ignore_ascii_case(name)));
    let stdin = streams("stdin") && flags.interactive;
    let mut config = json!({
        "Image": flags.words[0],
        "Hostname": flags.hostname,
        "Domainname": flags.domainname,
        "User": flags.user,
        "AttachStdin": stdin,
        "AttachStdout": streams("stdout"),
        "AttachStderr": streams("stderr"),
        "OpenStdin": flags.interactive,
        "StdinOnce": stdin,
        "Tty": flags.tty,
        "Env": parse::environment(&flags.env, &flags.env_file)?,
        "WorkingDir": flags.workdir,
        "Labels": parse::labels(&flags.label),
        "ExposedPorts": exposed,
        "StopSignal": flags.stop_signal,
        "MacAddress": flags.mac_address,
        "HostConfig": host_config(flags, bindings, network_mode, auto_remove)?,
        "NetworkingConfig": {"EndpointsConfig": endpoints},
    });
    if flags.words.len() > 1 {
        config["Cmd"] = flags.words[1..].into();
    }
    if let Some(entrypoint) = &flags.entrypoint {
        // An empty one resets the image's.
        config["Entrypoint"] = json!([entrypoint]);
    }
    if let Some(timeout) = flags.stop_timeout {
        config["StopTimeout"] = timeout.into();
    }
    let anonymous: Vec<&String> = flags.volume.iter().filter(|v| !v.contains(':')).collect();
    if !anonymous.is_empty() {
        config["Volumes"] = anonymous.into_iter().map(|v| (v.clone(), json!({}))).collect::<Map<_, _>>().into();
    }
    if let Some(health) = health(&flags.health)? {
        config["Healthcheck"] = health;
    }
    Ok(config)
}

fn host_config(flags: &CreateFlags, bindings: Value, network_mode: String, auto_remove: bool) -> Result<Value> {
    let optional = |text: &Option<String>, parse: fn(&str) -> Result<i64>| text.as_deref().map_or(Ok(0), parse);
    let binds: Vec<&String> = flags.volume.iter().filter(|v| v.contains(':')).collect();
    let tmpfs: Map<String, Value> = flags
        .tmpfs
        .iter()
        .map(|t| t.split_once(':').unwrap_or((t, "")))
        .map(|(k, v)| (k.to_owned(), v.into()))
        .collect();
    let mut host = json!({
        "Binds": binds,
        "Mounts": flags.mount.iter().map(|m| parse::mount(m)).collect::<Result<Vec<_>>>()?,
        "Tmpfs": tmpfs,
        "NetworkMode": network_mode,
        "PortBindings": bindings,
        "PublishAllPorts": flags.publish_all,
        "RestartPolicy": parse::restart_policy(&flags.restart)?,
        "AutoRemove": auto_remove,
        "Privileged": flags.privileged,
        "ReadonlyRootfs": flags.read_only,
        "CapAdd": flags.cap_add,
        "CapDrop": flags.cap_drop,
        "GroupAdd": flags.group_add,
        "Dns": flags.dns,
        "DnsOptions": flags.dns_option,
        "DnsSearch": flags.dns_search,
        "ExtraHosts": flags.add_host,
        "SecurityOpt": security_options(&flags.security_opt)?,
        "ShmSize": optional(&flags.shm_size, parse::bytes)?,
        "Sysctls": parse::labels(&flags.sysctl),
        "Ulimits": flags.ulimit.iter().map(|u| parse::ulimit(u)).collect::<Result<Vec<_>>>()?,
        "OomScoreAdj": flags.oom_score_adj,
        "OomKillDisable": flags.oom_kill_disable,
        "PidMode": flags.pid,
        "IpcMode": flags.ipc,
        "UTSMode": flags.uts,
        "CgroupnsMode": flags.cgroupns,
        "UsernsMode": flags.userns,
        "CgroupParent": flags.cgroup_parent,
        "Runtime": flags.runtime,
        "VolumesFrom": flags.volumes_from,
        "Devices": flags.device.iter().map(|d| parse::device(d)).collect::<Vec<_>>(),
        "LogConfig": {"Type": flags.log_driver, "Config": parse::labels(&flags.log_opt)},
        "Annotations": parse::labels(&flags.annotation),
    });
    if let (Value::Object(host), Value::Object(limits)) = (&mut host, limits(flags)?) {
        host.extend(limits);
    }
    if flags.init {
        host["Init"] = true.into();
    }
    if let Some((height, width)) = crate::terminal::size() {
        host["ConsoleSize"] = json!([height, width]);
    }
    Ok(host)
}

fn limits(flags: &CreateFlags) -> Result<Value> {
    let optional = |text: &Option<String>, parse: fn(&str) -> Result<i64>| text.as_deref().map_or(Ok(0), parse);
    Ok(json!({
        "Memory": optional(&flags.memory, parse::bytes)?,
        "MemoryReservation": optional(&flags.memory_reservation, parse::bytes)?,
        "MemorySwap": optional(&flags.memory_swap, parse::swap_bytes)?,
        "NanoCpus": optional(&flags.cpus, parse::nano_cpus)?,
        "CpuShares": flags.cpu_shares,
        "CpuPeriod": flags.cpu_period,
        "CpuQuota": flags.cpu_quota,
        "CpusetCpus": flags.cpuset_cpus,
        "CpusetMems": flags.cpuset_mems,
        "PidsLimit": flags.pids_limit,
    }))
}

/// A seccomp profile is read here and sent by value, since the daemon may not see our files.
fn security_options(given: &[String]) -> Result<Vec<String>> {
    given
        .iter()
        .map(|option| match option.split_once(['=', ':']) {
            Some(("seccomp", path)) if path != "unconfined" && path != "builtin" => {
                let text = std::fs::read_to_string(path)
                    .map_err(|e| anyhow::anyhow!("opening seccomp profile ({path}) failed: {e}"))?;
                let profile: Value =
                    serde_json::from_str(&text).map_err(|e| anyhow::anyhow!("seccomp profile ({path}): {e}"))?;
                Ok(format!("seccomp={profile}"))
            }
            _ => Ok(option.clone()),
        })
        .collect()
}

fn ports(flags: &CreateFlags) -> Result<(Value, Value)> {
    let mut exposed = Map::new();
    let mut bindings: Map<String, Value> = Map::new();
    for text in &flags.publish {
        for port in parse::publish(text)? {
            exposed.insert(port.container.clone(), json!({}));
            let binding = json!({"HostIp": port.host_ip, "HostPort": port.host_port});
            let list = bindings.entry(port.container).or_insert_with(|| json!([]));
            if let Value::Array(list) = list {
                list.push(binding);
            }
        }
    }
    for text in &flags.expose {
        for port in parse::publish(text)? {
            exposed.insert(port.container, json!({}));
        }
    }
    Ok((exposed.into(), bindings.into()))
}

fn networks(flags: &CreateFlags) -> Result<(String, Value)> {
    let mut endpoints = Map::new();
    let mut mode = String::new();
    for (number, text) in flags.network.iter().enumerate() {
        let (name, mut endpoint) = network(text)?;
        if number == 0 {
            mode.clone_from(&name);
            let aliases = endpoint["Aliases"].as_array().cloned().unwrap_or_default();
            endpoint["Aliases"] =
                aliases.into_iter().chain(flags.network_alias.iter().map(|a| a.clone().into())).collect();
            if let Some(ip) = &flags.ip {
                endpoint["IPAMConfig"]["IPv4Address"] = ip.clone().into();
            }
            if let Some(ip) = &flags.ip6 {
                endpoint["IPAMConfig"]["IPv6Address"] = ip.clone().into();
            }
        }
        let special = matches!(name.as_str(), "host" | "none" | "bridge" | "default") || name.starts_with("container:");
        if !special {
            endpoints.insert(name, endpoint);
        }
    }
    if flags.network.is_empty() && (!flags.network_alias.is_empty() || flags.ip.is_some() || flags.ip6.is_some()) {
        bail!("--network-alias, --ip and --ip6 need a --network of your own");
    }
    Ok((if mode.is_empty() { "default".into() } else { mode }, endpoints.into()))
}

fn network(text: &str) -> Result<(String, Value)> {
    let mut endpoint = json!({"Aliases": [], "IPAMConfig": {}});
    if !text.contains('=') {
        return Ok((text.to_owned(), endpoint));
    }
    let mut name = String::new();
    for (key, value) in parse::fields(text)? {
        match key.as_str() {
            "name" => name = value,
            "alias" => {
                if let Value::Array(list) = &mut endpoint["Aliases"] {
                    list.push(value.into());
                }
            }
            "ip" => endpoint["IPAMConfig"]["IPv4Address"] = value.into(),
            "ip6" => endpoint["IPAMConfig"]["IPv6Address"] = value.into(),
            "mac-address" => endpoint["MacAddress"] = value.into(),
            "driver-opt" => {
                let (key, value) = value.split_once('=').unwrap_or((&value, ""));
                endpoint["DriverOpts"][key] = value.into();
            }
            _ => bail!("invalid field key {key}"),
        }
    }
    if name.is_empty() {
        bail!("network name/id is not specified");
    }
    Ok((name, endpoint))
}

/// A Healthcheck object, if any health flag was given.
pub(crate) fn health(flags: &HealthFlags) -> Result<Option<Value>> {
    let durations = [
        ("Interval", &flags.health_interval),
        ("Timeout", &flags.health_timeout),
        ("StartPeriod", &flags.health_start_period),
        ("StartInterval", &flags.health_start_interval),
    ];
    let others =
        flags.health_cmd.is_some() || flags.health_retries.is_some() || durations.iter().any(|(_, d)| d.is_some());
    if flags.no_healthcheck {
        if others {
            bail!("--no-healthcheck conflicts with --health-* options");
        }
        return Ok(Some(json!({"Test": ["NONE"]})));
    }
    if !others {
        return Ok(None);
    }
    let mut health = json!({});
    if let Some(command) = &flags.health_cmd {
        health["Test"] = json!(["CMD-SHELL", command]);
    }
    if let Some(retries) = flags.health_retries {
        health["Retries"] = retries.into();
    }
    for (name, duration) in durations {
        if let Some(text) = duration {
            health[name] = parse::duration_ns(text)?.into();
        }
    }
    Ok(Some(health))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> CreateFlags {
        CreateFlags {
            words: vec!["busybox".into(), "echo".into(), "hi".into()],
            restart: "no".into(),
            ..CreateFlags::default()
        }
    }

    #[test]
    fn command_and_streams() {
        let body = body(&flags(), true, true).unwrap();
        assert_eq!(body["Cmd"], json!(["echo", "hi"]));
        assert_eq!((&body["AttachStdin"], &body["AttachStdout"]), (&json!(false), &json!(true)));
        assert_eq!(body["HostConfig"]["AutoRemove"], true);
    }

    #[test]
    fn ports_and_networks() {
        let flags = CreateFlags {
            publish: vec!["8080:80".into()],
            network: vec!["net1".into()],
            network_alias: vec!["www".into()],
            ..flags()
        };
        let body = body(&flags, false, false).unwrap();
        assert_eq!(body["HostConfig"]["PortBindings"]["80/tcp"][0]["HostPort"], "8080");
        assert_eq!(body["ExposedPorts"]["80/tcp"], json!({}));
        assert_eq!(body["NetworkingConfig"]["EndpointsConfig"]["net1"]["Aliases"], json!(["www"]));
        assert_eq!(body["HostConfig"]["NetworkMode"], "net1");
    }

    #[test]
    fn volumes_with_and_without_a_source() {
        let flags = CreateFlags { volume: vec!["/data".into(), "v:/d:ro".into()], ..flags() };
        let body = body(&flags, false, false).unwrap();
        assert_eq!(body["Volumes"], json!({"/data": {}}));
        assert_eq!(body["HostConfig"]["Binds"], json!(["v:/d:ro"]));
    }
}
