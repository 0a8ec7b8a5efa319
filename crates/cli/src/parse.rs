//! Flag values with a syntax of their own: sizes, durations, ports, mounts. Pure.

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value, json};

/// `64m`, `1.5g`, `512` bytes; binary units as in docker.
pub(crate) fn bytes(text: &str) -> Result<i64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &lower[digits.len()..];
    let power = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => bail!("invalid size: '{text}'"),
    };
    let number: f64 = digits.parse().map_err(|_| anyhow!("invalid size: '{text}'"))?;
    if number < 0.0 {
        bail!("invalid size: '{text}'");
    }
    Ok((number * 1024_f64.powi(power)) as i64)
}

/// Memory plus swap: a size, or `-1` for no limit.
pub(crate) fn swap_bytes(text: &str) -> Result<i64> {
    if text.trim() == "-1" { Ok(-1) } else { bytes(text) }
}

/// Go's durations, `1h2m3.5s`, `100ms`; nanoseconds.
pub(crate) fn duration_ns(text: &str) -> Result<i64> {
    let bad = || anyhow!("time: invalid duration \"{text}\"");
    if text == "0" {
        return Ok(0);
    }
    let mut rest = text;
    let mut total = 0.0;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..end].parse().map_err(|_| bad())?;
        rest = &rest[end..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += number
            * match &rest[..unit_end] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return Err(bad()),
            };
        rest = &rest[unit_end..];
    }
    Ok(total as i64)
}

/// `0.5` CPUs in billionths.
pub(crate) fn nano_cpus(text: &str) -> Result<i64> {
    let cpus: f64 = text.parse().map_err(|_| anyhow!("failed to parse {text} as a rational number"))?;
    Ok((cpus * 1e9).round() as i64)
}

/// One `-p` of `run`: what is exposed and where it is bound, port by port.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) host_ip: String,
    /// Empty lets the daemon choose; may be a range when the container side is one port.
    pub(crate) host_port: String,
    /// `80/tcp`
    pub(crate) container: String,
}

/// `[[ip:]host:]container[/protocol]` with ranges.
pub(crate) fn publish(text: &str) -> Result<Vec<Published>> {
    let bad = || {
        anyhow!("invalid publish opts format (should be name=value but got '{text}')")
            .context(format!("Invalid containerPort: {text}"))
    };
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (head, container) = ports.rsplit_once(':').unwrap_or(("", ports));
    let (host_ip, host) = match head.rsplit_once(':') {
        Some((ip, host)) => (ip.trim_start_matches('[').trim_end_matches(']'), host),
        None if head.contains('.') => (head, ""),
        None => ("", head),
    };
    let (first, last) = range(container).with_context(|| format!("Invalid containerPort: {container}"))?;
    let host_range =
        if host.is_empty() { None } else { Some(range(host).with_context(|| format!("Invalid hostPort: {host}"))?) };
    if let Some((from, to)) = host_range
        && to - from != last - first
        && first != last
    {
        bail!("invalid ranges specified for container and host Ports: {container} and {host}");
    }
    if !matches!(protocol.to_ascii_lowercase().as_str(), "tcp" | "udp" | "sctp") {
        return Err(bad().context(format!("Invalid proto: {protocol}")));
    }
    let entry = |offset: u16| Published {
        host_ip: host_ip.to_owned(),
        host_port: match host_range {
            None => String::new(),
            Some((from, to)) if first == last && from != to => format!("{from}-{to}"),
            Some((from, _)) => (from + offset).to_string(),
        },
        container: format!("{}/{}", first + offset, protocol.to_ascii_lowercase()),
    };
    Ok((0..=last - first).map(entry).collect())
}

fn range(text: &str) -> Result<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| text.parse::<u16>().map_err(|_| anyhow!("{text} is not a port"));
    let (first, last) = (port(first)?, port(last)?);
    if last < first {
        bail!("{text} runs backwards");
    }
    Ok((first, last))
}

/// One `-p` of `service create`, short or long form, as PortConfig objects.
pub(crate) fn service_publish(text: &str) -> Result<Vec<Value>> {
    if !text.contains('=') {
        let list = publish(text)?;
        if list.iter().any(|p| !p.host_ip.is_empty()) {
            bail!("hostip is not supported");
        }
        return list
            .into_iter()
            .map(|p| {
                let (port, protocol) = p.container.split_once('/').context("publish always gives a protocol")?;
                let published: u16 = if p.host_port.is_empty() { 0 } else { p.host_port.parse().context("a single port")? };
                Ok(json!({"Protocol": protocol, "TargetPort": port.parse::<u16>()?, "PublishedPort": published, "PublishMode": "ingress"}))
            })
            .collect();
    }
    let (mut target, mut published, mut protocol, mut mode) = (None, 0_u16, "tcp".to_owned(), "ingress".to_owned());
    for (key, value) in fields(text)? {
        match key.as_str() {
            "target" => target = Some(value.parse::<u16>().map_err(|_| anyhow!("invalid target port ({value})"))?),
            "published" => published = value.parse().map_err(|_| anyhow!("invalid published port ({value})"))?,
            "protocol" if matches!(value.as_str(), "tcp" | "udp" | "sctp") => protocol = value,
            "mode" if matches!(value.as_str(), "ingress" | "host") => mode = value,
            "protocol" => bail!("invalid protocol value {value}"),
            "mode" => bail!("invalid publish mode value ({value}): must be either 'ingress' or 'host'"),
            _ => bail!("invalid field key {key}"),
        }
    }
    let target = target.ok_or_else(|| anyhow!("missing mandatory field \"target\""))?;
    Ok(vec![json!({"Protocol": protocol, "TargetPort": target, "PublishedPort": published, "PublishMode": mode})])
}

/// `a=b,c,d=e` with quotes around values that hold commas.
pub(crate) fn fields(text: &str) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut field = String::new();
    let mut quoted = false;
    for c in text.chars().chain(std::iter::once(',')) {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => {
                let (key, value) = field.split_once('=').unwrap_or((&field, ""));
                if key.trim().is_empty() {
                    bail!("invalid argument \"{text}\": an empty field");
                }
                found.push((key.trim().to_ascii_lowercase(), value.to_owned()));
                field.clear();
            }
            _ => field.push(c),
        }
    }
    if quoted {
        bail!("invalid argument \"{text}\": a quote is not closed");
    }
    Ok(found)
}

/// `--mount type=...,source=...,target=...` as a Mount object.
pub(crate) fn mount(text: &str) -> Result<Value> {
    let flag = |value: &str| matches!(value, "" | "1" | "true");
    let mut object = Map::new();
    object.insert("Type".into(), "volume".into());
    let (mut bind, mut volume, mut tmpfs) = (Map::new(), Map::new(), Map::new());
    for (key, value) in fields(text)? {
        match key.as_str() {
            "type" => drop(object.insert("Type".into(), value.to_ascii_lowercase().into())),
            "source" | "src" => drop(object.insert("Source".into(), value.into())),
            "target" | "dst" | "destination" => drop(object.insert("Target".into(), value.into())),
            "readonly" | "ro" => drop(object.insert("ReadOnly".into(), flag(&value).into())),
            "consistency" => {}
            "bind-propagation" => drop(bind.insert("Propagation".into(), value.into())),
            "bind-nonrecursive" => drop(bind.insert("NonRecursive".into(), flag(&value).into())),
            "volume-nocopy" => drop(volume.insert("NoCopy".into(), flag(&value).into())),
            "volume-subpath" => drop(volume.insert("Subpath".into(), value.into())),
            "volume-driver" => drop(driver(&mut volume).insert("Name".into(), value.into())),
            "volume-opt" => pair(driver(&mut volume), "Options", &value)?,
            "volume-label" => pair(&mut volume, "Labels", &value)?,
            "tmpfs-size" => drop(tmpfs.insert("SizeBytes".into(), bytes(&value)?.into())),
            "tmpfs-mode" => {
                let mode =
                    u32::from_str_radix(&value, 8).map_err(|_| anyhow!("invalid value for tmpfs-mode: {value}"))?;
                tmpfs.insert("Mode".into(), mode.into());
            }
            _ => bail!("invalid argument \"{text}\" for \"--mount\" flag: unexpected key '{key}' in '{key}={value}'"),
        }
    }
    if !object.contains_key("Target") {
        bail!("invalid argument \"{text}\" for \"--mount\" flag: target is required");
    }
    for (name, options) in [("BindOptions", bind), ("VolumeOptions", volume), ("TmpfsOptions", tmpfs)] {
        if !options.is_empty() {
            object.insert(name.into(), Value::Object(options));
        }
    }
    Ok(Value::Object(object))
}

fn driver(volume: &mut Map<String, Value>) -> &mut Map<String, Value> {
    let entry = volume.entry("DriverConfig").or_insert_with(|| Value::Object(Map::new()));
    entry.as_object_mut().expect("it is only ever made an object")
}

fn pair(map: &mut Map<String, Value>, name: &str, text: &str) -> Result<()> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    let entry = map.entry(name).or_insert_with(|| Value::Object(Map::new()));
    entry.as_object_mut().context("options are an object")?.insert(key.into(), value.into());
    Ok(())
}

/// `KEY=value` flags as a map; a bare key has an empty value.
pub(crate) fn labels(given: &[String]) -> Value {
    Value::Object(
        given
            .iter()
            .map(|text| text.split_once('=').unwrap_or((text, "")))
            .map(|(k, v)| (k.to_owned(), v.into()))
            .collect(),
    )
}

/// `-e` flags: a bare key takes the value of our own environment, if it is set.
pub(crate) fn environment(given: &[String], files: &[String]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(path).with_context(|| path.clone())?;
        let lines = text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
        found.extend(lines.filter_map(own_value));
    }
    found.extend(given.iter().filter_map(|text| own_value(text)));
    Ok(found)
}

fn own_value(text: &str) -> Option<String> {
    if text.contains('=') {
        return Some(text.to_owned());
    }
    std::env::var(text).ok().map(|value| format!("{text}={value}"))
}

/// `nofile=1024:2048` as a Ulimit object.
pub(crate) fn ulimit(text: &str) -> Result<Value> {
    let (name, values) = text.split_once('=').ok_or_else(|| anyhow!("invalid ulimit argument: {text}"))?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let number = |text: &str| text.parse::<i64>().map_err(|_| anyhow!("invalid ulimit argument: {text}"));
    Ok(json!({"Name": name, "Soft": number(soft)?, "Hard": number(hard)?}))
}

/// `/dev/a[:/dev/b[:rwm]]` as a DeviceMapping object.
pub(crate) fn device(text: &str) -> Value {
    let mut parts = text.split(':');
    let host = parts.next().unwrap_or_default();
    let second = parts.next();
    let (inside, permissions) = match (second, parts.next()) {
        (Some(inside), Some(permissions)) => (inside, permissions),
        (Some(word), None) if word.starts_with('/') => (word, "rwm"),
        (Some(permissions), None) => (host, permissions),
        (None, _) => (host, "rwm"),
    };
    json!({"PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": permissions})
}

/// `no`, `always`, `unless-stopped`, `on-failure[:N]`.
pub(crate) fn restart_policy(text: &str) -> Result<Value> {
    let (name, count) = text.split_once(':').unwrap_or((text, "0"));
    let count: u32 = count.parse().map_err(|_| anyhow!("maximum retry count must be an integer"))?;
    if count > 0 && name != "on-failure" {
        bail!("invalid restart policy: maximum retry count cannot be used with restart policy '{name}'");
    }
    Ok(json!({"Name": if name.is_empty() { "no" } else { name }, "MaximumRetryCount": count}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, value) in [("64m", 67_108_864), ("1g", 1 << 30), ("512", 512), ("1.5k", 1536), ("2MiB", 2 << 20)] {
            assert_eq!(bytes(text).unwrap(), value, "{text}");
        }
        assert!(bytes("lots").is_err() && bytes("-1").is_err() && bytes("").is_err());
        assert_eq!(swap_bytes("-1").unwrap(), -1);
    }

    #[test]
    fn durations() {
        for (text, value) in [
            ("5s", 5_000_000_000),
            ("100ms", 100_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("0", 0),
        ] {
            assert_eq!(duration_ns(text).unwrap(), value, "{text}");
        }
        assert!(duration_ns("5").is_err() && duration_ns("").is_err() && duration_ns("5x").is_err());
    }

    #[test]
    fn ports() {
        let one = |text: &str| {
            publish(text)
                .unwrap()
                .into_iter()
                .map(|p| format!("{}|{}|{}", p.host_ip, p.host_port, p.container))
                .collect::<Vec<_>>()
        };
        assert_eq!(one("8080:80"), ["|8080|80/tcp"]);
        assert_eq!(one("127.0.0.1:53:53/udp"), ["127.0.0.1|53|53/udp"]);
        assert_eq!(one("[::1]:80:80"), ["::1|80|80/tcp"]);
        assert_eq!(one("80"), ["||80/tcp"]);
        assert_eq!(one("127.0.0.1::80"), ["127.0.0.1||80/tcp"]);
        assert_eq!(one("8000-8001:80-81"), ["|8000|80/tcp", "|8001|81/tcp"]);
        assert_eq!(one("8000-8005:80"), ["|8000-8005|80/tcp"]);
        for bad in ["x:80", "80:x", "8000-8001:80-82", "80/icmp", "99999"] {
            assert!(publish(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn service_ports() {
        let short = service_publish("8080:80").unwrap();
        assert_eq!(short[0]["PublishedPort"], 8080);
        let long = service_publish("published=8080,target=80,mode=host,protocol=udp").unwrap();
        assert_eq!((&long[0]["PublishMode"], &long[0]["Protocol"]), (&json!("host"), &json!("udp")));
        assert!(service_publish("published=8080").is_err() && service_publish("127.0.0.1:80:80").is_err());
    }

    #[test]
    fn mounts() {
        let value = mount("type=bind,source=/a,target=/b,readonly").unwrap();
        assert_eq!(value, json!({"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true}));
        let value = mount("src=v,dst=/d,volume-opt=type=nfs,volume-opt=\"o=addr=1,rw\"").unwrap();
        assert_eq!(value["VolumeOptions"]["DriverConfig"]["Options"], json!({"type": "nfs", "o": "addr=1,rw"}));
        assert!(mount("type=bind").is_err() && mount("target=/a,what=x").is_err());
    }

    #[test]
    fn restart_policies() {
        assert_eq!(restart_policy("on-failure:3").unwrap(), json!({"Name": "on-failure", "MaximumRetryCount": 3}));
        assert!(restart_policy("always:3").is_err());
    }
}
