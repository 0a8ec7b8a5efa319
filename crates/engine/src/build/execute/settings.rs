//! Instructions that change only the image's config.

use super::describe::{quoted, quoted_list};
use super::stage::StageBuilder;
use super::{State, expand_error};
use crate::build::error::{BuildError, BuildResult};
use crate::build::expand;
use crate::build::parse::{Command, Health, Instruction};
use nix::sys::signal::Signal;
use skep_model::container::{ContainerConfig, HealthConfig};
use skep_model::network::PortKey;
use std::str::FromStr;

/// Ports one `EXPOSE first-last` may name.
const PORT_RANGE_MAX: u32 = 65_536;
const SIGNAL_NUMBER_MAX: i32 = 64;

impl StageBuilder<'_> {
    /// Changes the config; returns the instruction as the history shows it.
    pub(super) fn settings(&mut self, state: &mut State, instruction: &Instruction) -> BuildResult<String> {
        Ok(match instruction {
            Instruction::Arg(pairs) => self.arg(state, pairs)?,
            Instruction::Env(pairs) => {
                let pairs = self.expand_pairs(state, pairs)?;
                pairs.iter().for_each(|(name, value)| set_env(&mut state.config, name, value));
                described("ENV", &pairs)
            }
            Instruction::Label(pairs) => {
                let pairs = self.expand_pairs(state, pairs)?;
                state.config.labels.extend(pairs.iter().cloned());
                described("LABEL", &pairs)
            }
            Instruction::Cmd(command) => {
                let words = words(state, command);
                let text = format!("CMD {}", quoted_list(&words));
                state.has_own_cmd = true;
                state.config.cmd = Some(words);
                text
            }
            Instruction::Entrypoint(command) => entrypoint(state, command),
            Instruction::Shell(shell) => {
                state.config.shell = Some(shell.clone());
                format!("SHELL [{}]", shell.join(" "))
            }
            Instruction::User(user) => {
                state.config.user = self.expand(state, user)?;
                format!("USER {}", state.config.user)
            }
            Instruction::Expose(ports) => self.expose(state, ports)?,
            Instruction::Volume(paths) => {
                let paths = paths.iter().map(|path| self.expand(state, path)).collect::<BuildResult<Vec<_>>>()?;
                if paths.iter().any(String::is_empty) {
                    return Err(BuildError::Instruction("VOLUME specified can not be an empty string".to_owned()));
                }
                state.config.volumes.extend(paths.iter().cloned());
                format!("VOLUME [{}]", paths.join(" "))
            }
            Instruction::StopSignal(signal) => {
                let signal = self.expand(state, signal)?;
                check_signal(&signal)?;
                state.config.stop_signal.clone_from(&signal);
                format!("STOPSIGNAL {signal}")
            }
            Instruction::Maintainer(name) => {
                state.author.clone_from(name);
                format!("MAINTAINER {name}")
            }
            Instruction::Healthcheck(health) => healthcheck(&mut state.config, health),
            Instruction::Onbuild(trigger) => {
                state.config.on_build.push(trigger.clone());
                format!("ONBUILD {trigger}")
            }
            Instruction::From { .. } | Instruction::Run(_) | Instruction::Transfer(_) | Instruction::Workdir(_) => {
                return Err(BuildError::Instruction("FROM isn't allowed here".to_owned()));
            }
        })
    }

    fn arg(&mut self, state: &State, pairs: &[(String, Option<String>)]) -> BuildResult<String> {
        let mut text = "ARG".to_owned();
        for (name, default) in pairs {
            let default = default.as_deref().map(|word| self.expand(state, word)).transpose()?;
            text.push(' ');
            text.push_str(name);
            if let Some(default) = &default {
                text.push('=');
                text.push_str(default);
            }
            self.args.declare(name, default);
        }
        Ok(text)
    }

    /// All pairs see the variables from before the instruction.
    fn expand_pairs(&self, state: &State, pairs: &[(String, String)]) -> BuildResult<Vec<(String, String)>> {
        pairs
            .iter()
            .map(|(name, value)| {
                let name = self.expand(state, name)?;
                if name.is_empty() {
                    return Err(BuildError::Instruction("ENV and LABEL names can not be blank".to_owned()));
                }
                Ok((name, self.expand(state, value)?))
            })
            .collect()
    }

    fn expose(&self, state: &mut State, ports: &[String]) -> BuildResult<String> {
        let mut texts = Vec::new();
        for port in ports {
            let lookup = self.lookup(state);
            texts.extend(expand::words(port, self.build.escape, &lookup).map_err(expand_error(port))?);
        }
        texts.sort();
        for text in &texts {
            state.config.exposed_ports.extend(parse_ports(text)?);
        }
        Ok(format!("EXPOSE {}", texts.join(" ")))
    }
}

fn described(keyword: &str, pairs: &[(String, String)]) -> String {
    pairs.iter().fold(keyword.to_owned(), |text, (name, value)| format!("{text} {name}={value}"))
}

pub(super) fn set_env(config: &mut ContainerConfig, name: &str, value: &str) {
    let entry = format!("{name}={value}");
    match config.env.iter_mut().find(|old| old.split_once('=').is_some_and(|(key, _)| key == name)) {
        Some(old) => *old = entry,
        None => config.env.push(entry),
    }
}

/// The words to execute: shell form goes through the shell.
pub(super) fn words(state: &State, command: &Command) -> Vec<String> {
    match command {
        Command::Exec(words) => words.clone(),
        Command::Shell(text) if text.is_empty() => Vec::new(),
        Command::Shell(text) => {
            let mut words = state.shell();
            words.push(text.clone());
            words
        }
    }
}

fn entrypoint(state: &mut State, command: &Command) -> String {
    let words = words(state, command);
    let text = format!("ENTRYPOINT {}", quoted_list(&words));
    state.config.entrypoint = (!words.is_empty()).then_some(words);
    if !state.has_own_cmd {
        // The base's command was meant for the base's entrypoint.
        state.config.cmd = None;
    }
    text
}

fn healthcheck(config: &mut ContainerConfig, health: &Health) -> String {
    let health = match health {
        Health::None => HealthConfig { test: vec!["NONE".to_owned()], ..HealthConfig::default() },
        Health::Check { command, interval, timeout, start_period, start_interval, retries } => {
            let test = match command {
                Command::Shell(text) => vec!["CMD-SHELL".to_owned(), text.clone()],
                Command::Exec(words) => std::iter::once("CMD".to_owned()).chain(words.iter().cloned()).collect(),
            };
            HealthConfig {
                test,
                interval: interval.unwrap_or_default(),
                timeout: timeout.unwrap_or_default(),
                start_period: start_period.unwrap_or_default(),
                start_interval: start_interval.unwrap_or_default(),
                retries: retries.unwrap_or_default(),
            }
        }
    };
    let duration = |value: std::time::Duration| quoted(&format!("{value:?}"));
    let text = format!(
        "HEALTHCHECK &{{{} {} {} {} '\\x{:02x}'}}",
        quoted_list(&health.test),
        duration(health.interval),
        duration(health.timeout),
        duration(health.start_period),
        health.retries
    );
    config.healthcheck = Some(health);
    text
}

/// `80`, `80/udp`, `8000-8010/tcp`
fn parse_ports(text: &str) -> BuildResult<Vec<PortKey>> {
    let invalid = || BuildError::Instruction(format!("Invalid containerPort: {text}"));
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.parse().map_err(|_| BuildError::Instruction(format!("Invalid proto: {protocol}")))?;
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last): (u16, u16) = (first.parse().map_err(|_| invalid())?, last.parse().map_err(|_| invalid())?);
    if first > last || u32::from(last - first) >= PORT_RANGE_MAX {
        return Err(invalid());
    }
    Ok((first..=last).map(|port| PortKey { port, protocol }).collect())
}

fn check_signal(text: &str) -> BuildResult<()> {
    let invalid = || BuildError::Instruction(format!("Invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=SIGNAL_NUMBER_MAX).contains(&number) { Ok(()) } else { Err(invalid()) };
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let is_real_time = name.strip_prefix("RTMIN").or_else(|| name.strip_prefix("RTMAX")).is_some_and(|offset| {
        offset.is_empty() || offset.get(1..).is_some_and(|n| n.parse::<u8>().is_ok()) && offset.starts_with(['+', '-'])
    });
    if is_real_time || Signal::from_str(&format!("SIG{name}")).is_ok() { Ok(()) } else { Err(invalid()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_may_be_ranges() {
        let texts = |text: &str| parse_ports(text).unwrap().iter().map(PortKey::to_string).collect::<Vec<_>>();
        assert_eq!(texts("80"), ["80/tcp"]);
        assert_eq!(texts("5-6/udp"), ["5/udp", "6/udp"]);
        for bad in ["x", "6-5", "99999", "1/icmp", ""] {
            assert!(parse_ports(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for good in ["SIGQUIT", "quit", "9", "RTMIN+3", "SIGRTMAX"] {
            assert!(check_signal(good).is_ok(), "{good}");
        }
        for bad in ["", "SIGNOPE", "0", "65", "RTMINx", "RTMIN+"] {
            assert!(check_signal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_bases_command_goes_with_its_entrypoint() {
        let mut state = State::default();
        state.config.cmd = Some(vec!["base".to_owned()]);
        assert_eq!(entrypoint(&mut state, &Command::Exec(vec!["/x".to_owned()])), r#"ENTRYPOINT ["/x"]"#);
        assert_eq!((state.config.cmd, state.config.entrypoint), (None, Some(vec!["/x".to_owned()])));
    }
}
