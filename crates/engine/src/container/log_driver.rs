//! Log drivers: what their options mean. All but `none` keep a file, which `logs` reads; syslog
//! and journald get each line too.

use skep_model::container::{ContainerInfo, LogConfig};
use skep_model::shim::{LogAddress, LogForward, SyslogFormat};
use skep_model::{Error, Result};
use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// Names of all log drivers.
pub const LOG_DRIVERS: [&str; 5] = ["journald", "json-file", "local", "none", "syslog"];
const FILES_DEFAULT: u32 = 1;
/// What `local`, and the file beside a log service, may take.
const ROTATED_BYTES: u64 = 20 * 1024 * 1024;
const ROTATED_FILES: u32 = 5;
const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";
/// Where syslog listens on this machine, the first that is there.
const SYSLOG_SOCKETS: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];
const SYSLOG_PORT: u16 = 514;
/// Names of syslog's facilities by number.
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "", "", "",
    "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];
const FACILITY_DEFAULT: u8 = 3;
/// Letters of an id that people see.
const SHORT_ID_LETTERS: usize = 12;

/// # Errors
/// A driver that is not there, or options that it does not know.
pub(crate) fn check(config: &LogConfig) -> Result<()> {
    if !LOG_DRIVERS.contains(&config.driver.as_str()) {
        return Err(Error::invalid(format!("logger: no log driver named '{}' is registered", config.driver)));
    }
    limits(config)?;
    if config.driver == "syslog" {
        facility(option(config, "syslog-facility"))?;
        format_of(option(config, "syslog-format"), &LogAddress::Unix(PathBuf::new()))?;
        split_address(option(config, "syslog-address"))?;
    }
    tag(option(config, "tag"), &ContainerInfo::default()).map(drop)
}

/// Size at which the log is rotated (0 for never), and how many files are kept.
///
/// # Errors
/// Options the driver does not know, or that do not parse.
pub(crate) fn limits(config: &LogConfig) -> Result<(u64, u32)> {
    let (mut size, mut files) =
        if config.driver == "json-file" { (0, FILES_DEFAULT) } else { (ROTATED_BYTES, ROTATED_FILES) };
    let is_file = matches!(config.driver.as_str(), "json-file" | "local");
    for (key, value) in &config.options {
        match key.as_str() {
            "max-size" | "cache-max-size" if value == "-1" => size = 0,
            "max-size" if is_file => size = parse_size(value)?,
            "max-file" if is_file => files = parse_files(value)?,
            "cache-max-size" if !is_file => size = parse_size(value)?,
            "cache-max-file" if !is_file => files = parse_files(value)?,
            "compress" | "cache-compress" | "cache-disabled" => {}
            "labels" | "labels-regex" | "env" | "env-regex" | "tag" | "mode" | "max-buffer-size" => {}
            "syslog-address" | "syslog-facility" | "syslog-format" if config.driver == "syslog" => {}
            other if other.starts_with("syslog-tls-") && config.driver == "syslog" => {
                return Err(Error::not_implemented(
                    "syslog over TLS is not supported yet: use udp:// or a local syslog",
                ));
            }
            other => {
                return Err(Error::invalid(format!("unknown log opt '{other}' for {} log driver", config.driver)));
            }
        }
    }
    Ok((size, files))
}

/// The log service of a container, if its driver is one, and that it is there.
///
/// # Errors
/// It is not, with Docker's words.
pub(crate) async fn forward(info: &ContainerInfo) -> Result<Option<LogForward>> {
    let config = &info.host.log_config;
    let failed = |why: String| {
        Error::internal(format!("failed to create task for container: failed to initialize logging driver: {why}"))
    };
    let tag = tag(option(config, "tag"), info)?;
    match config.driver.as_str() {
        "syslog" => {
            let to = syslog_address(option(config, "syslog-address")).await.map_err(|error| failed(error.message))?;
            if let LogAddress::Unix(path) = &to {
                reach(path).map_err(|_| failed("Unix syslog delivery error".into()))?;
            }
            let format = format_of(option(config, "syslog-format"), &to)?;
            let facility = facility(option(config, "syslog-facility"))?;
            let hostname =
                nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            Ok(Some(LogForward::Syslog { to, format, facility, hostname, tag }))
        }
        "journald" => {
            let socket = PathBuf::from(JOURNAL_SOCKET);
            reach(&socket).map_err(|_| failed("journald is not enabled on this host".into()))?;
            Ok(Some(LogForward::Journal { socket, fields: journal_fields(info, tag) }))
        }
        _ => Ok(None),
    }
}

/// Whether somebody listens.
fn reach(path: &Path) -> std::io::Result<()> {
    UnixDatagram::unbound()?.connect(path)
}

fn journal_fields(info: &ContainerInfo, tag: String) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::from([
        ("CONTAINER_ID".to_owned(), short_id(info)),
        ("CONTAINER_ID_FULL".to_owned(), info.id.0.clone()),
        ("CONTAINER_NAME".to_owned(), info.name.clone()),
        ("CONTAINER_TAG".to_owned(), tag.clone()),
        ("IMAGE_NAME".to_owned(), info.config.image.clone()),
        ("SYSLOG_IDENTIFIER".to_owned(), tag),
    ]);
    let options = &info.host.log_config;
    let listed = |key: &str| option(options, key).split(',').map(str::trim).map(str::to_owned).collect::<Vec<_>>();
    for name in listed("labels") {
        if let Some(value) = info.config.labels.get(&name) {
            fields.insert(field_name(&name), value.clone());
        }
    }
    for name in listed("env") {
        let value = info.config.env.iter().find_map(|line| line.strip_prefix(&name)?.strip_prefix('='));
        if let Some(value) = value {
            fields.insert(field_name(&name), value.to_owned());
        }
    }
    fields
}

/// The journal takes capital letters, digits and underscores, and no underscore in front.
fn field_name(name: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    name.chars().map(letter).collect::<String>().trim_start_matches('_').to_owned()
}

fn option<'c>(config: &'c LogConfig, key: &str) -> &'c str {
    config.options.get(key).map(String::as_str).unwrap_or_default()
}

fn short_id(info: &ContainerInfo) -> String {
    info.id.0.chars().take(SHORT_ID_LETTERS).collect()
}

/// `{{.Name}}/{{.ID}}`; the short id where there is none.
fn tag(template: &str, info: &ContainerInfo) -> Result<String> {
    if template.is_empty() {
        return Ok(short_id(info));
    }
    let image_id = info.image_id.trim_start_matches("sha256:");
    let mut tag = template.to_owned();
    for (name, value) in [
        ("ID", short_id(info)),
        ("FullID", info.id.0.clone()),
        ("Name", info.name.trim_start_matches('/').to_owned()),
        ("ImageID", image_id.chars().take(SHORT_ID_LETTERS).collect()),
        ("ImageFullID", image_id.to_owned()),
        ("ImageName", info.config.image.clone()),
        ("DaemonName", "skep".to_owned()),
    ] {
        tag = tag.replace(&format!("{{{{.{name}}}}}"), &value);
    }
    if tag.contains("{{") {
        return Err(Error::invalid(format!(
            "log opt tag \"{template}\": only the fields ID, FullID, Name, ImageID, ImageFullID, ImageName and DaemonName are known"
        )));
    }
    Ok(tag)
}

fn facility(name: &str) -> Result<u8> {
    if name.is_empty() {
        return Ok(FACILITY_DEFAULT);
    }
    let by_name = FACILITIES.iter().position(|known| *known == name).and_then(|number| u8::try_from(number).ok());
    let number = by_name.or_else(|| name.parse().ok().filter(|number| usize::from(*number) < FACILITIES.len()));
    number.ok_or_else(|| Error::invalid("invalid syslog facility"))
}

fn format_of(name: &str, to: &LogAddress) -> Result<SyslogFormat> {
    match (name, to) {
        ("", LogAddress::Unix(_)) => Ok(SyslogFormat::Local),
        ("" | "rfc3164", _) => Ok(SyslogFormat::Rfc3164),
        ("rfc5424" | "rfc5424micro", _) => Ok(SyslogFormat::Rfc5424),
        _ => Err(Error::invalid("Invalid syslog format")),
    }
}

/// The kind of an address, and the rest of it.
fn split_address(given: &str) -> Result<(&str, &str)> {
    match given.split_once("://") {
        None if given.is_empty() => Ok(("unix", "")),
        Some((kind @ ("udp" | "unixgram" | "unix"), rest)) => Ok((kind, rest)),
        Some(("tcp" | "tcp+tls", _)) => {
            Err(Error::not_implemented("syslog over TCP is not supported yet: use udp:// or a local syslog"))
        }
        _ => Err(Error::invalid(format!("syslog-address should be in form proto://address, got {given}"))),
    }
}

async fn syslog_address(given: &str) -> Result<LogAddress> {
    let (kind, rest) = split_address(given)?;
    if kind != "udp" {
        let there = || SYSLOG_SOCKETS.into_iter().find(|path| Path::new(path).exists()).unwrap_or(SYSLOG_SOCKETS[0]);
        return Ok(LogAddress::Unix(if rest.is_empty() { there() } else { rest }.into()));
    }
    let with_port = if rest.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok()) {
        rest.to_owned()
    } else {
        format!("{rest}:{SYSLOG_PORT}")
    };
    let found = tokio::net::lookup_host(with_port).await.ok().and_then(|mut all| all.next());
    found.map(LogAddress::Udp).ok_or_else(|| Error::invalid(format!("syslog-address {given} leads nowhere")))
}

fn parse_files(text: &str) -> Result<u32> {
    let files = text.parse().ok().filter(|files| *files > 0);
    files.ok_or_else(|| Error::invalid("max-file cannot be less than 1"))
}

/// `10m`, `1g`, `512k`, `100`.
fn parse_size(text: &str) -> Result<u64> {
    let lower = text.to_ascii_lowercase();
    let number = lower.trim_end_matches('b').trim_end_matches(['k', 'm', 'g']);
    let unit = match lower.trim_end_matches('b').chars().last() {
        Some('k') => 1024,
        Some('m') => 1024 * 1024,
        Some('g') => 1024 * 1024 * 1024,
        _ => 1,
    };
    let number: u64 = number.parse().map_err(|_| Error::invalid(format!("invalid size: '{text}'")))?;
    Ok(number.saturating_mul(unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(driver: &str, pairs: &[(&str, &str)]) -> LogConfig {
        LogConfig {
            driver: driver.into(),
            options: pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        }
    }

    #[test]
    fn options_parse_or_are_refused() {
        assert_eq!(limits(&config("json-file", &[("max-size", "10m"), ("max-file", "3")])).unwrap(), (10 << 20, 3));
        assert_eq!(limits(&config("json-file", &[])).unwrap(), (0, 1));
        assert_eq!(limits(&config("syslog", &[("cache-max-file", "2")])).unwrap(), (20 << 20, 2));
        for (driver, key, value) in [
            ("json-file", "max-size", "ten"),
            ("json-file", "nonsense", "1"),
            ("json-file", "syslog-address", "udp://x"),
            ("journald", "max-size", "1m"),
            ("syslog", "syslog-facility", "kitchen"),
            ("syslog", "syslog-format", "rfc1"),
            ("syslog", "syslog-address", "tcp://10.0.0.1:514"),
            ("syslog", "syslog-address", "nonsense"),
            ("syslog", "syslog-tls-ca-cert", "/x"),
            ("syslog", "tag", "{{.Nonsense}}"),
            ("fluentd", "tag", "x"),
        ] {
            assert!(check(&config(driver, &[(key, value)])).is_err(), "{driver} {key}={value}");
        }
        check(&config("syslog", &[("syslog-facility", "local7"), ("syslog-address", "udp://127.0.0.1:5140")])).unwrap();
    }

    #[tokio::test]
    async fn addresses_and_tags() {
        assert_eq!(syslog_address("udp://127.0.0.1").await.unwrap(), LogAddress::Udp("127.0.0.1:514".parse().unwrap()));
        assert_eq!(syslog_address("unixgram:///x").await.unwrap(), LogAddress::Unix("/x".into()));
        let mut info = ContainerInfo { name: "web".into(), ..ContainerInfo::default() };
        info.id.0 = "0123456789abcdef".into();
        assert_eq!(tag("", &info).unwrap(), "0123456789ab");
        assert_eq!(tag("{{.Name}}/{{.FullID}}", &info).unwrap(), "web/0123456789abcdef");
        assert_eq!((facility("").unwrap(), facility("local0").unwrap(), facility("4").unwrap()), (3, 16, 4));
        assert_eq!(field_name("_com.x-y"), "COM_X_Y");
    }
}
