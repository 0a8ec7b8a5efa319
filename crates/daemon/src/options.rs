//! Every option of `skep daemon`, once: its names on the command line and in the
//! configuration file, its shape, and whether skep does anything with it. The names are
//! dockerd's, so that its unit files and `daemon.json` work here.

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::collections::{BTreeMap, BTreeSet};

/// The shape of an option's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Present or absent; `=true` and `=false` too.
    Flag,
    Text,
    /// Repeatable.
    List,
}

/// What skep does with an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Support {
    Full,
    /// Known from dockerd; accepted with a warning that says it has no effect.
    None,
    /// As `None`, but starting without its effect would be unsafe.
    Refused,
}

pub(crate) struct OptionSpec {
    pub(crate) name: &'static str,
    pub(crate) short: Option<char>,
    /// Key in the configuration file, where it differs from the name.
    key: Option<&'static str>,
    pub(crate) shape: Shape,
    pub(crate) support: Support,
    help: &'static str,
}

const fn full(name: &'static str, shape: Shape, help: &'static str) -> OptionSpec {
    OptionSpec { name, short: None, key: None, shape, support: Support::Full, help }
}

const fn none(name: &'static str, shape: Shape) -> OptionSpec {
    OptionSpec { name, short: None, key: None, shape, support: Support::None, help: "" }
}

const fn refused(name: &'static str, shape: Shape) -> OptionSpec {
    OptionSpec { support: Support::Refused, ..none(name, shape) }
}

impl OptionSpec {
    const fn keyed(self, key: &'static str) -> Self {
        Self { key: Some(key), ..self }
    }

    const fn short(self, short: char) -> Self {
        Self { short: Some(short), ..self }
    }

    pub(crate) fn file_key(&self) -> &'static str {
        self.key.unwrap_or(self.name)
    }
}

pub(crate) const OPTIONS: &[OptionSpec] = &[
    full("config-file", Shape::Text, "Daemon configuration file (default /etc/skep/daemon.json, if there)"),
    full("data-root", Shape::Text, "Root directory of persistent state (default /var/lib/skep)"),
    full("exec-root", Shape::Text, "Root directory of run-time state (default /run/skep)"),
    full("pidfile", Shape::Text, "Path of the PID file (default /run/skep/skep.pid)").short('p'),
    full(
        "host",
        Shape::List,
        "Socket to serve: unix://PATH or tcp://ADDRESS:PORT (default unix:///run/skep/skep.sock)",
    )
    .keyed("hosts")
    .short('H'),
    full("group", Shape::Text, "Group that owns the unix socket (default docker, if there)").short('G'),
    full("debug", Shape::Flag, "Debug logging").short('D'),
    full("log-level", Shape::Text, "debug, info, warn, error or fatal (default info)").short('l'),
    full("log-format", Shape::Text, "text or json (default text)"),
    full("insecure-registry", Shape::List, "Registry to reach over HTTP or without verified certificates")
        .keyed("insecure-registries"),
    full("registry-mirror", Shape::List, "Registry to try before docker.io").keyed("registry-mirrors"),
    full("node-generic-resource", Shape::List, "Resource that tasks may reserve (kind=count, or kind=name for each)")
        .keyed("node-generic-resources"),
    full("label", Shape::List, "key=value label of this engine").keyed("labels"),
    full("swarm-default-advertise-addr", Shape::Text, "Address or interface to advertise to a swarm by default"),
    full("bip", Shape::Text, "Address and prefix length of the default bridge"),
    full("dns", Shape::List, "Name server of containers"),
    full("dns-opt", Shape::List, "Resolver option of containers").keyed("dns-opts"),
    full("dns-search", Shape::List, "Search domain of containers"),
    full("cgroup-parent", Shape::Text, "cgroup of all containers (default /skep)"),
    full("balancer", Shape::Text, "Load balancer of services: auto, ipvs or nftables (default auto)"),
    full("live-restore", Shape::Flag, "Keep containers running while the daemon is away (always on)"),
    full("shutdown-timeout", Shape::Text, "Seconds each part of the daemon may take to end (default 15)"),
    full("validate", Shape::Flag, "Check the configuration and exit"),
    refused("tls", Shape::Flag),
    refused("tlsverify", Shape::Flag),
    refused("tlscacert", Shape::Text),
    refused("tlscert", Shape::Text),
    refused("tlskey", Shape::Text),
    refused("userns-remap", Shape::Text),
    refused("rootless", Shape::Flag),
    refused("authorization-plugin", Shape::List).keyed("authorization-plugins"),
    refused("selinux-enabled", Shape::Flag),
    refused("seccomp-profile", Shape::Text),
    none("default-address-pool", Shape::List).keyed("default-address-pools"),
    none("init", Shape::Flag),
    none("init-path", Shape::Text),
    none("add-runtime", Shape::List).keyed("runtimes"),
    none("allow-direct-routing", Shape::Flag),
    none("api-cors-header", Shape::Text),
    none("bip6", Shape::Text),
    none("bridge", Shape::Text).short('b'),
    none("bridge-accept-fwmark", Shape::Text),
    none("cdi-spec-dir", Shape::List).keyed("cdi-spec-dirs"),
    none("containerd", Shape::Text),
    none("containerd-namespace", Shape::Text),
    none("containerd-plugins-namespace", Shape::Text),
    none("cpu-rt-period", Shape::Text),
    none("cpu-rt-runtime", Shape::Text),
    none("cri-containerd", Shape::Flag),
    none("default-cgroupns-mode", Shape::Text),
    none("default-gateway", Shape::Text),
    none("default-gateway-v6", Shape::Text),
    none("default-ipc-mode", Shape::Text),
    none("default-network-opt", Shape::List).keyed("default-network-opts"),
    none("default-runtime", Shape::Text),
    none("default-shm-size", Shape::Text),
    none("default-ulimit", Shape::List).keyed("default-ulimits"),
    none("exec-opt", Shape::List).keyed("exec-opts"),
    none("experimental", Shape::Flag),
    none("feature", Shape::List).keyed("features"),
    none("firewall-backend", Shape::Text),
    none("fixed-cidr", Shape::Text),
    none("fixed-cidr-v6", Shape::Text),
    none("host-gateway-ip", Shape::List).keyed("host-gateway-ips"),
    none("http-proxy", Shape::Text),
    none("https-proxy", Shape::Text),
    none("icc", Shape::Flag),
    none("ip", Shape::Text),
    none("ip-forward", Shape::Flag),
    none("ip-forward-no-drop", Shape::Flag),
    none("ip-masq", Shape::Flag),
    none("ip6tables", Shape::Flag),
    none("iptables", Shape::Flag),
    none("ipv6", Shape::Flag),
    none("log-driver", Shape::Text),
    none("log-opt", Shape::List).keyed("log-opts"),
    none("max-concurrent-downloads", Shape::Text),
    none("max-concurrent-uploads", Shape::Text),
    none("max-download-attempts", Shape::Text),
    none("metrics-addr", Shape::Text),
    none("min-api-version", Shape::Text),
    none("mtu", Shape::Text),
    none("network-control-plane-mtu", Shape::Text),
    none("network-diagnostic-port", Shape::Text),
    none("no-new-privileges", Shape::Flag),
    none("no-proxy", Shape::Text),
    none("nri-opts", Shape::List),
    none("oom-score-adjust", Shape::Text),
    none("raw-logs", Shape::Flag),
    none("restart", Shape::Flag).short('r'),
    none("storage-driver", Shape::Text).short('s'),
    none("storage-opt", Shape::List).keyed("storage-opts"),
    none("userland-proxy", Shape::Flag),
    none("userland-proxy-path", Shape::Text),
];

/// Option name to its values, a flag's being `true` or `false`.
pub(crate) type Values = BTreeMap<&'static str, Vec<String>>;

/// The command line of `skep daemon`.
pub(crate) fn command() -> Command {
    let command = Command::new("skep daemon")
        .bin_name("skep daemon")
        .no_binary_name(true)
        .about("Runs the container engine and this node's part of the swarm");
    OPTIONS.iter().fold(command, |command, option| command.arg(arg(option)))
}

fn arg(option: &'static OptionSpec) -> Arg {
    let arg = Arg::new(option.name).long(option.name).help(option.help).hide(option.support != Support::Full);
    let arg = match option.short {
        Some(short) => arg.short(short),
        None => arg,
    };
    match option.shape {
        Shape::Flag => {
            arg.num_args(0..=1).require_equals(true).default_missing_value("true").value_parser(["true", "false"])
        }
        Shape::Text => arg.num_args(1).action(ArgAction::Set).overrides_with(option.name),
        Shape::List => arg.num_args(1).action(ArgAction::Append),
    }
}

/// What was given on the command line.
pub(crate) fn from_matches(matches: &ArgMatches) -> Values {
    let given = OPTIONS.iter().filter(|option| matches.value_source(option.name) == Some(ValueSource::CommandLine));
    given
        .map(|option| {
            let values = matches.get_many::<String>(option.name).into_iter().flatten().cloned().collect();
            (option.name, values)
        })
        .collect()
}

/// What a configuration file holds.
///
/// # Errors
/// For anything but an object, unknown keys and values of another shape.
pub(crate) fn from_json(text: &str) -> Result<Values, String> {
    let root: serde_json::Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let object = root.as_object().ok_or("it is not a JSON object")?;
    let known: BTreeSet<&str> = OPTIONS.iter().map(OptionSpec::file_key).collect();
    let unknown: Vec<&str> = object.keys().map(String::as_str).filter(|key| !known.contains(key)).collect();
    if !unknown.is_empty() {
        return Err(format!("the following directives don't match any configuration option: {}", unknown.join(", ")));
    }
    let mut values = Values::new();
    for option in OPTIONS {
        if let Some(value) = object.get(option.file_key()) {
            let texts =
                texts(value, option.shape).ok_or_else(|| format!("{}: wrong kind of value", option.file_key()))?;
            values.insert(option.name, texts);
        }
    }
    Ok(values)
}

fn texts(value: &serde_json::Value, shape: Shape) -> Option<Vec<String>> {
    use serde_json::Value;
    let scalar = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    match (shape, value) {
        (Shape::Flag, Value::Bool(flag)) => Some(vec![flag.to_string()]),
        (Shape::Flag, _) => None,
        (Shape::Text, value) => scalar(value).map(|text| vec![text]),
        // Lists of objects and maps belong to options without an effect here.
        (Shape::List, Value::Array(items)) => {
            Some(items.iter().map(|item| scalar(item).unwrap_or_else(|| item.to_string())).collect())
        }
        (Shape::List, Value::Object(map)) => Some(map.iter().map(|(key, value)| format!("{key}={value}")).collect()),
        (Shape::List, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_short_forms_are_unique() {
        command().debug_assert();
    }

    #[test]
    fn dockerd_command_lines_are_understood() {
        let line = "-H unix:///a.sock --host=tcp://127.0.0.1:1 --debug --icc=false -l warn --iptables \
                    --data-root /x --data-root /y";
        let values = from_matches(&command().try_get_matches_from(line.split_whitespace()).unwrap());
        assert_eq!(values["host"], ["unix:///a.sock", "tcp://127.0.0.1:1"]);
        assert_eq!((values["debug"][0].as_str(), values["icc"][0].as_str()), ("true", "false"));
        assert_eq!((values["log-level"][0].as_str(), values["data-root"][0].as_str()), ("warn", "/y"));
        assert!(command().try_get_matches_from(["--no-such-option"]).is_err());
    }

    #[test]
    fn files_use_dockerds_keys() {
        let text = r#"{"hosts": ["unix:///a"], "debug": true, "shutdown-timeout": 7,
                       "default-address-pools": [{"base": "10.0.0.0/8", "size": 24}], "log-opts": {"max-size": "1m"}}"#;
        let values = from_json(text).unwrap();
        assert_eq!((values["host"][0].as_str(), values["shutdown-timeout"][0].as_str()), ("unix:///a", "7"));
        assert_eq!(values["log-opt"], ["max-size=\"1m\""]);
        let unknown = from_json(r#"{"hots": [], "x": 1}"#).unwrap_err();
        assert_eq!(unknown, "the following directives don't match any configuration option: hots, x");
        for bad in ["[]", "{", r#"{"debug": "yes"}"#, r#"{"hosts": "unix:///a"}"#, r#"{"data-root": []}"#] {
            assert!(from_json(bad).is_err(), "{bad}");
        }
    }
}
