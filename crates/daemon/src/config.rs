//! The daemon's configuration: command line and file become one checked value.

use crate::options::{self, OPTIONS, Support, Values};
use anyhow::{Context, Result, anyhow, bail};
use ipnet::IpNet;
use skep_netd::BalancerChoice;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tracing::Level;

const CONFIG_FILE: &str = "/etc/skep/daemon.json";
const DATA_ROOT: &str = "/var/lib/skep";
const EXEC_ROOT: &str = "/run/skep";
const CGROUP_PARENT: &str = "/skep";
/// The group that may use the socket, as people know it.
pub(crate) const DEFAULT_GROUP: &str = "docker";
/// dockerd's.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(15);

/// Where clients come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) data_root: PathBuf,
    pub(crate) exec_root: PathBuf,
    pub(crate) pidfile: PathBuf,
    pub(crate) hosts: Vec<Host>,
    /// `None`: [`DEFAULT_GROUP`] if it exists.
    pub(crate) group: Option<String>,
    pub(crate) debug: bool,
    pub(crate) log_level: Level,
    pub(crate) log_format: LogFormat,
    pub(crate) insecure_registries: Vec<String>,
    pub(crate) registry_mirrors: Vec<String>,
    pub(crate) labels: BTreeMap<String, String>,
    /// What tasks may reserve besides CPU and memory, by kind.
    pub(crate) counted_resources: BTreeMap<String, i64>,
    pub(crate) named_resources: BTreeMap<String, BTreeSet<String>>,
    pub(crate) swarm_default_advertise_addr: String,
    pub(crate) bridge_address: Option<IpNet>,
    pub(crate) dns: Vec<IpAddr>,
    pub(crate) dns_search: Vec<String>,
    pub(crate) dns_options: Vec<String>,
    pub(crate) cgroup_parent: String,
    pub(crate) balancer: BalancerChoice,
    pub(crate) shutdown_timeout: Duration,
    /// Only check the configuration.
    pub(crate) validate: bool,
    /// To be logged once logging is up.
    pub(crate) warnings: Vec<String>,
}

/// Reads the command line (without the program's and the role's name) and the file it
/// names or the usual one.
///
/// # Errors
/// What the user must change; clap's own errors (help too) inside.
pub(crate) fn load(args: Vec<OsString>) -> Result<Config> {
    let matches = options::command().try_get_matches_from(args)?;
    let flags = options::from_matches(&matches);
    let path = flags.get("config-file").and_then(|values| values.last());
    let file = match path {
        Some(path) => read_file(Path::new(path)).with_context(|| format!("configuration file {path}"))?,
        None if Path::new(CONFIG_FILE).exists() => {
            read_file(Path::new(CONFIG_FILE)).with_context(|| format!("configuration file {CONFIG_FILE}"))?
        }
        None => Values::new(),
    };
    build(merge(flags, file)?)
}

fn read_file(path: &Path) -> Result<Values> {
    let text = std::fs::read_to_string(path)?;
    if text.trim().is_empty() {
        return Ok(Values::new());
    }
    options::from_json(&text).map_err(|e| anyhow!(e))
}

/// Like dockerd: an option is given in one place, not in both.
fn merge(mut flags: Values, file: Values) -> Result<Values> {
    let twice: Vec<String> = file
        .iter()
        .filter_map(|(name, value)| {
            flags.get(name).map(|flag| format!("{name}: (from flag: {flag:?}, from file: {value:?})"))
        })
        .collect();
    if !twice.is_empty() {
        bail!(
            "the following directives are specified both as a flag and in the configuration file: {}",
            twice.join(", ")
        );
    }
    flags.extend(file);
    Ok(flags)
}

fn build(values: Values) -> Result<Config> {
    let warnings = check_support(&values)?;
    let text = |name: &str| values.get(name).and_then(|given| given.last()).map(String::as_str);
    let list = |name: &str| values.get(name).cloned().unwrap_or_default();
    let flag = |name: &str| text(name) == Some("true");
    let exec_root = absolute("exec-root", text("exec-root").unwrap_or(EXEC_ROOT))?;
    let hosts = match values.get("host") {
        Some(hosts) if !hosts.is_empty() => {
            hosts.iter().map(|host| parse_host(host, &exec_root)).collect::<Result<_>>()?
        }
        Some(_) | None => vec![Host::Unix(exec_root.join("skep.sock"))],
    };
    let debug = flag("debug");
    let resources = parse_resources(&list("node-generic-resource"))?;
    let config = Config {
        data_root: absolute("data-root", text("data-root").unwrap_or(DATA_ROOT))?,
        pidfile: match text("pidfile") {
            Some(path) => absolute("pidfile", path)?,
            None => exec_root.join("skep.pid"),
        },
        exec_root,
        hosts,
        group: text("group").map(str::to_owned),
        debug,
        log_level: if debug { Level::DEBUG } else { parse_level(text("log-level").unwrap_or("info"))? },
        log_format: parse_format(text("log-format").unwrap_or("text"))?,
        insecure_registries: list("insecure-registry"),
        registry_mirrors: list("registry-mirror"),
        counted_resources: resources.0,
        named_resources: resources.1,
        labels: list("label").iter().map(|label| parse_label(label)).collect::<Result<_>>()?,
        swarm_default_advertise_addr: text("swarm-default-advertise-addr").unwrap_or_default().to_owned(),
        bridge_address: text("bip")
            .map(|bip| bip.parse().with_context(|| format!("invalid bip \"{bip}\"")))
            .transpose()?,
        dns: list("dns")
            .iter()
            .map(|ip| ip.parse().with_context(|| format!("{ip} is not an ip address")))
            .collect::<Result<_>>()?,
        dns_search: list("dns-search"),
        dns_options: list("dns-opt"),
        cgroup_parent: text("cgroup-parent").unwrap_or(CGROUP_PARENT).to_owned(),
        balancer: text("balancer").map_or(Ok(BalancerChoice::Auto), str::parse)?,
        shutdown_timeout: text("shutdown-timeout").map_or(Ok(SHUTDOWN_TIMEOUT), parse_seconds)?,
        validate: flag("validate"),
        warnings,
    };
    Ok(config)
}

/// Warnings for options without effect; an error for those that must have one.
fn check_support(values: &Values) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for option in OPTIONS.iter().filter(|option| values.contains_key(option.name)) {
        let is_off = values[option.name].iter().all(|value| value == "false");
        match option.support {
            Support::Full => {}
            // Switching off what is never on asks for nothing.
            Support::Refused if is_off => {}
            Support::Refused => {
                bail!("--{} is not supported yet, and starting without it would be unsafe", option.name)
            }
            Support::None => warnings.push(format!("--{} is not supported yet and has no effect", option.name)),
        }
    }
    if values.get("live-restore").is_some_and(|given| given.iter().any(|value| value == "false")) {
        warnings.push("--live-restore=false has no effect: containers always outlive the daemon".into());
    }
    Ok(warnings)
}

fn absolute(option: &str, path: &str) -> Result<PathBuf> {
    if path.is_empty() {
        bail!("--{option} must not be empty");
    }
    std::path::absolute(path).with_context(|| format!("--{option} {path}"))
}

/// Without TLS everybody who reaches the port is root on this machine, so only loopback is served.
fn parse_host(text: &str, exec_root: &Path) -> Result<Host> {
    if let Some(path) = text.strip_prefix("unix://") {
        let path = if path.is_empty() { exec_root.join("skep.sock") } else { absolute("host", path)? };
        return Ok(Host::Unix(path));
    }
    if let Some(address) = text.strip_prefix("tcp://") {
        let address = address.replacen("localhost", "127.0.0.1", 1);
        let address: SocketAddr =
            address.parse().with_context(|| format!("unable to parse host {text}: want tcp://ADDRESS:PORT"))?;
        if !address.ip().is_loopback() {
            bail!("{text}: TLS on the API is not supported yet, so TCP is served on loopback addresses only");
        }
        return Ok(Host::Tcp(address));
    }
    bail!("unable to parse host {text}: only unix:// and tcp:// are supported")
}

pub(crate) fn parse_level(text: &str) -> Result<Level> {
    Ok(match text {
        "trace" => Level::TRACE,
        "debug" => Level::DEBUG,
        "info" => Level::INFO,
        "warn" | "warning" => Level::WARN,
        "error" | "fatal" | "panic" => Level::ERROR,
        _ => bail!("invalid logging level: {text}"),
    })
}

pub(crate) fn parse_format(text: &str) -> Result<LogFormat> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => bail!("invalid log format: {text}"),
    }
}

fn parse_label(text: &str) -> Result<(String, String)> {
    let (key, value) = text.split_once('=').with_context(|| format!("bad attribute format: {text}"))?;
    Ok((key.to_owned(), value.to_owned()))
}

type Resources = (BTreeMap<String, i64>, BTreeMap<String, BTreeSet<String>>);

/// `ssd=3` counts, `gpu=UUID` names one; a kind is one or the other. Several may be given
/// with commas in between.
fn parse_resources(given: &[String]) -> Result<Resources> {
    let (mut counted, mut named) = Resources::default();
    for text in given.iter().flat_map(|text| text.split(',')) {
        let malformed = || format!("invalid node-generic-resource {text:?}: kind=count or kind=name is expected");
        let (kind, value) = text.split_once('=').with_context(malformed)?;
        if kind.is_empty() || value.is_empty() {
            bail!(malformed());
        }
        match value.parse::<i64>() {
            Ok(count) if count < 0 => bail!(malformed()),
            Ok(count) => drop(counted.insert(kind.to_owned(), count)),
            Err(_) => drop(named.entry(kind.to_owned()).or_insert_with(BTreeSet::new).insert(value.to_owned())),
        }
        if counted.contains_key(kind) && named.contains_key(kind) {
            bail!("mixed discrete and named resources in expression '{}'", given.join(","));
        }
    }
    Ok((counted, named))
}

fn parse_seconds(text: &str) -> Result<Duration> {
    let seconds: i64 = text.parse().with_context(|| format!("invalid shutdown-timeout \"{text}\""))?;
    // Negative is "for ever" in dockerd; a supervisor would not wait that long either.
    Ok(Duration::from_secs(u64::try_from(seconds).unwrap_or_else(|_| u64::from(u32::MAX))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Config> {
        let matches = options::command().try_get_matches_from(line.split_whitespace())?;
        build(options::from_matches(&matches))
    }

    fn refused(line: &str, expect: &str) {
        let error = format!("{:#}", parse(line).unwrap_err());
        assert!(error.contains(expect), "{line}: {error}");
    }

    #[test]
    fn defaults() {
        let config = parse("").unwrap();
        assert_eq!(config.data_root, Path::new("/var/lib/skep"));
        assert_eq!(config.hosts, [Host::Unix("/run/skep/skep.sock".into())]);
        assert_eq!(config.pidfile, Path::new("/run/skep/skep.pid"));
        assert_eq!(config.log_level, Level::INFO);
        assert!(config.warnings.is_empty());
    }

    #[test]
    fn resources_are_counted_or_named() {
        let config = parse("--node-generic-resource ssd=3 --node-generic-resource gpu=u1,gpu=u2").unwrap();
        assert_eq!(config.counted_resources["ssd"], 3);
        assert_eq!(config.named_resources["gpu"].iter().collect::<Vec<_>>(), ["u1", "u2"]);
        refused("--node-generic-resource gpu=1,gpu=u1", "mixed discrete and named resources");
        refused("--node-generic-resource gpu", "kind=count or kind=name is expected");
    }

    #[test]
    fn the_exec_root_moves_socket_and_pid_file() {
        let config = parse("--exec-root /tmp/x -H unix://").unwrap();
        assert_eq!(config.hosts, [Host::Unix("/tmp/x/skep.sock".into())]);
        assert_eq!(config.pidfile, Path::new("/tmp/x/skep.pid"));
    }

    #[test]
    fn tcp_is_for_loopback_only() {
        let config = parse("-H tcp://127.0.0.1:2375 -H tcp://[::1]:2375 -H tcp://localhost:1").unwrap();
        assert_eq!(config.hosts.len(), 3);
        refused("-H tcp://0.0.0.0:2375", "on loopback addresses only");
        refused("-H fd://", "only unix:// and tcp://");
        refused("-H tcp://127.0.0.1", "unable to parse host");
    }

    #[test]
    fn unsupported_options_warn_or_are_refused() {
        let config = parse("--mtu 1400 --icc=false --live-restore").unwrap();
        assert_eq!(config.warnings.len(), 2);
        assert_eq!(config.warnings[0], "--icc is not supported yet and has no effect");
        refused("--tlsverify", "unsafe");
        parse("--tls=false").unwrap();
        refused("--log-level loud", "invalid logging level: loud");
        refused("--label x", "bad attribute format");
        refused("--bip x", "invalid bip");
        refused("--dns x", "x is not an ip address");
    }

    #[test]
    fn an_option_is_given_in_one_place() {
        let file = options::from_json(r#"{"debug": true, "labels": ["a=b"]}"#).unwrap();
        let merged = merge(Values::new(), file.clone()).unwrap();
        assert!(build(merged).unwrap().debug);
        let flags = Values::from([("debug", vec!["true".to_owned()])]);
        let error = merge(flags, file).unwrap_err().to_string();
        assert!(error.contains("both as a flag and in the configuration file: debug"), "{error}");
    }
}
