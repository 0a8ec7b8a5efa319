//! Log lines on standard error. Our own crates log at the chosen level, libraries at warn.

use crate::config::{Config, LogFormat};
use std::io::IsTerminal;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// Every crate of ours starts so.
const OURS: &str = "skep";

/// Sets logging up for this process.
pub(crate) fn start(config: &Config) {
    start_at(config.log_level, config.log_format);
}

/// As [`start`], for the roles that have no configuration of their own.
pub(crate) fn start_at(level: Level, format: LogFormat) {
    let filter = Targets::new().with_default(Level::WARN.min(level)).with_target(OURS, level);
    let layer = match format {
        LogFormat::Json => fmt::layer().json().with_writer(std::io::stderr).boxed(),
        LogFormat::Text => fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).boxed(),
    };
    // A second call in one process would fail; the first setting then stays.
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
}
