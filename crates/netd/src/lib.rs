//! The network daemon: makes the kernel equal to the desired network state, balances,
//! publishes ports and answers DNS, in a process of its own.
//!
//! One worker thread owns the desired state and the kernel ([`worker`]); the async
//! side only receives requests ([`server`]) and answers name queries ([`dns`]).
//! Deciding is pure: [`wanted`] says what must be, [`kernel::observe`] what is,
//! [`diff`] what to do. netd has no opinion: the same desired state always leads to
//! the same kernel state, and stopping netd changes nothing in the kernel.

pub mod balance;
pub mod client;
pub mod command;
pub mod desired;
pub mod diff;
pub mod dns;
mod failing;
pub mod kernel;
pub mod names;
pub mod nft;
pub mod plan;
pub mod ports;
pub mod rules;
pub mod server;
pub mod sockets;
pub mod trace;
pub mod wanted;
pub mod worker;

use skep_model::error::{Error, Result};
use std::path::PathBuf;
use std::str::FromStr;

/// Which load balancer the kernel side uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BalancerChoice {
    /// IPVS where the kernel has it and netd can use it, else nftables.
    #[default]
    Auto,
    Ipvs,
    Nftables,
}

impl BalancerChoice {
    /// As an option has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Ipvs => "ipvs",
            Self::Nftables => "nftables",
        }
    }

    /// Whether a netd that runs this balancer is what was asked for.
    pub fn is_met_by(self, balancer: &str) -> bool {
        self == Self::Auto || self.as_str() == balancer
    }
}

impl FromStr for BalancerChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "ipvs" => Ok(Self::Ipvs),
            "nftables" => Ok(Self::Nftables),
            _ => Err(Error::invalid(format!("unknown balancer \"{text}\": use auto, ipvs or nftables"))),
        }
    }
}

/// Where netd lives.
#[derive(Debug, Clone)]
pub struct NetdConfig {
    /// The unix socket to answer on, made with mode 0600.
    pub socket: PathBuf,
    /// The file that keeps the desired state; namespaces of overlays are mounted in a
    /// directory beside it. Belongs on a file system that a reboot empties.
    pub state: PathBuf,
    pub balancer: BalancerChoice,
}

impl NetdConfig {
    /// Where people find the namespaces by name.
    pub fn names_directory(&self) -> PathBuf {
        self.state.with_file_name("netns")
    }

    /// Where the namespaces of overlays are mounted.
    pub fn overlay_directory(&self) -> PathBuf {
        self.state.with_file_name("overlays")
    }
}

/// Runs until SIGTERM or SIGINT; leaves the kernel as it is.
///
/// # Errors
/// When the socket, the state file or netlink cannot be opened, or the worker died.
pub async fn serve(config: NetdConfig) -> Result<()> {
    server::serve(config).await
}

/// The whole process: `skep netd --socket PATH --state PATH [--balancer auto|ipvs|nftables]`.
/// The caller has parsed the arguments and set up logging.
///
/// # Errors
/// As [`serve`].
pub fn main(config: NetdConfig) -> Result<()> {
    // One thread is enough for requests and names, and keeps the memory small.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(config))
}
