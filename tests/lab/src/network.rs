//! The switch, the cables, and cutting them.
//!
//! The switch is a bridge in a network namespace of its own, so the machine that runs the
//! lab sees none of it. Its own address doubles as the outside machine.

use crate::client::success;
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Address of the outside machine, which is everybody's gateway too.
pub const OUTSIDE_ADDRESS: &str = "10.99.0.254";
/// The same of IPv6.
pub const OUTSIDE_ADDRESS_IPV6: &str = "fd99::254";
/// Ending of the name of the switch's network namespace.
pub const SWITCH_SUFFIX: &str = "sw";

/// Address of machine `number`, counted from 1.
#[must_use]
pub fn address(number: usize) -> String {
    format!("10.99.0.{number}")
}

/// The same of IPv6.
#[must_use]
pub fn address_ipv6(number: usize) -> String {
    format!("fd99::{number}")
}

/// Names the network objects of one lab.
#[derive(Debug, Clone)]
pub(crate) struct Switch {
    pub(crate) namespace: String,
}

impl Switch {
    pub(crate) fn new(lab: &str) -> Self {
        Self { namespace: format!("{lab}{SWITCH_SUFFIX}") }
    }

    /// Makes the switch.
    pub(crate) fn create(&self) -> Result<()> {
        let name = &self.namespace;
        ip(&[
            format!("netns add {name}"),
            format!("-n {name} link set lo up"),
            format!("-n {name} link add br0 type bridge stp_state 0 forward_delay 0"),
            format!("-n {name} link set br0 up"),
            format!("-n {name} addr add {OUTSIDE_ADDRESS}/24 dev br0"),
            format!("-n {name} addr add {OUTSIDE_ADDRESS_IPV6}/64 dev br0 nodad"),
        ])?;
        self.nft(
            "table bridge lab {\n set cut { type ifname . ifname; }\n chain forward {\n \
             type filter hook forward priority 0;\n iifname . oifname @cut drop\n }\n}\n",
        )
    }

    /// Gives machine `number` a network namespace with a cable to the switch.
    pub(crate) fn plug_in(&self, number: usize, namespace: &str) -> Result<()> {
        let (switch, address, address_ipv6) = (&self.namespace, address(number), address_ipv6(number));
        ip(&[
            format!("netns add {namespace}"),
            format!("-n {switch} link add p{number} type veth peer name eth0 netns {namespace}"),
            format!("-n {switch} link set p{number} master br0 up"),
            format!("-n {namespace} link set lo up"),
            format!("-n {namespace} addr add {address}/24 dev eth0"),
            format!("-n {namespace} addr add {address_ipv6}/64 dev eth0 nodad"),
            format!("-n {namespace} link set eth0 up"),
            format!("-n {namespace} route add default via {OUTSIDE_ADDRESS}"),
            format!("-n {namespace} -6 route add default via {OUTSIDE_ADDRESS_IPV6}"),
        ])
    }

    /// Takes the cable and the namespace away, with all that was made in it.
    pub(crate) fn unplug(&self, number: usize, namespace: &str) -> Result<()> {
        // The kernel removes a namespace's links some time later; the cable's name is needed at once.
        ip(&[format!("-n {} link del p{number}", self.namespace), format!("netns del {namespace}")])
    }

    /// Pulls or plugs the cable of machine `number`.
    pub(crate) fn set_cable(&self, number: usize, plugged: bool) -> Result<()> {
        let state = if plugged { "up" } else { "down" };
        ip(&[format!("-n {} link set p{number} {state}", self.namespace)])
    }

    /// Drops or passes what the first machine of each pair sends to the second.
    pub(crate) fn set_ways(&self, pairs: &[(usize, usize)], cut: bool) -> Result<()> {
        let verb = if cut { "add" } else { "delete" };
        let mut script = String::new();
        for (from, to) in pairs {
            // Writing to a string cannot fail.
            let _ = writeln!(script, "{verb} element bridge lab cut {{ \"p{from}\" . \"p{to}\" }}");
        }
        self.nft(&script)
    }

    /// Passes everything again.
    pub(crate) fn clear_ways(&self) -> Result<()> {
        self.nft("flush set bridge lab cut\n")
    }

    fn nft(&self, script: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, "nft", "-f", "-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("a piped input")?.write_all(script.as_bytes())?;
        success(&child.wait_with_output()?).map(drop).with_context(|| format!("nft: {script}"))
    }
}

fn ip(lines: &[String]) -> Result<()> {
    for line in lines {
        let output = Command::new("ip").args(line.split(' ')).stdin(Stdio::null()).output()?;
        success(&output).with_context(|| format!("ip {line}"))?;
    }
    Ok(())
}
