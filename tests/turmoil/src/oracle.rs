//! What clients want, what they were told, and what therefore must be in every store.

use skep_manager::Control;
use skep_model::service::{ServiceMode, ServiceSpec};
use skep_model::{Error, ErrorKind};
use skep_sim::dice::Dice;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

pub(crate) const WRITERS: usize = 6;
/// The label that counts a service's updates.
const COUNT_LABEL: &str = "count";
const REPLICAS_MAX: u64 = 3;
/// Configs of one writer; then it removes as many as it makes.
const CONFIGS_MAX: usize = 6;

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    CreateConfig {
        name: String,
    },
    RemoveConfig {
        name: String,
    },
    /// Makes the writer's service, or changes it and counts one further.
    Service {
        name: String,
        replicas: u64,
    },
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateConfig { name } => write!(f, "create {name}"),
            Self::RemoveConfig { name } => write!(f, "remove {name}"),
            Self::Service { name, replicas } => write!(f, "{name} x {replicas}"),
        }
    }
}

/// What is known of a config. Where a client was told nothing, anything may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Config {
    MayBe,
    Is,
    MayBeGone,
    IsGone,
}

struct Writer {
    dice: Dice,
    serial: u64,
    configs: BTreeMap<String, Config>,
    /// The last count that was acknowledged.
    count: u64,
}

pub(crate) struct Oracle {
    writers: Vec<Writer>,
    pub(crate) acknowledged: u64,
    pub(crate) refused: u64,
}

impl Oracle {
    pub(crate) fn new(seed: u64) -> Self {
        let writer = |number| Writer {
            dice: Dice::new(seed, &format!("writer {number}")),
            serial: 0,
            configs: BTreeMap::new(),
            count: 0,
        };
        Self { writers: (0..WRITERS).map(writer).collect(), acknowledged: 0, refused: 0 }
    }

    pub(crate) fn pause(&mut self, writer: usize) -> Duration {
        Duration::from_millis(self.writers[writer].dice.between(20, 250))
    }

    /// The next wish of a writer. From here on it may have come true.
    pub(crate) fn wish(&mut self, writer: usize) -> Wish {
        let state = &mut self.writers[writer];
        if state.dice.chance(300) {
            let replicas = state.dice.between(1, REPLICAS_MAX);
            return Wish::Service { name: service_name(writer), replicas };
        }
        let there: Vec<String> =
            state.configs.iter().filter(|(_, config)| **config == Config::Is).map(|(name, _)| name.clone()).collect();
        let full = there.len() >= CONFIGS_MAX;
        if let Some(name) = state.dice.pick(&there).filter(|_| full).cloned() {
            state.configs.insert(name.clone(), Config::MayBeGone);
            return Wish::RemoveConfig { name };
        }
        state.serial += 1;
        let name = format!("config-{writer}-{}", state.serial);
        state.configs.insert(name.clone(), Config::MayBe);
        Wish::CreateConfig { name }
    }

    /// The client got an answer: the count where it counted. The rule that is broken, if one is.
    pub(crate) fn answered(&mut self, writer: usize, wish: &Wish, answer: &Result<u64, Error>) -> Option<String> {
        let state = &mut self.writers[writer];
        match answer {
            Ok(_) => self.acknowledged += 1,
            Err(_) => self.refused += 1,
        }
        match (wish, answer) {
            (Wish::CreateConfig { name }, Ok(_)) => drop(state.configs.insert(name.clone(), Config::Is)),
            (Wish::CreateConfig { name }, Err(error)) if error.kind == ErrorKind::Conflict => {
                return Some(format!("{name} was made twice: {}", error.message));
            }
            (Wish::RemoveConfig { name }, Ok(_)) => drop(state.configs.insert(name.clone(), Config::IsGone)),
            (Wish::Service { name, .. }, Ok(count)) => {
                if *count <= state.count {
                    return Some(format!("{name} counted to {count} after {} was acknowledged", state.count));
                }
                state.count = *count;
            }
            (_, Err(_)) => {}
        }
        None
    }

    /// What a store does not hold that it must hold, or holds though it must not.
    pub(crate) fn contradiction(&self, control: &Control) -> Option<String> {
        let there: Vec<String> = control.configs().iter().map(|config| config.spec.name.clone()).collect();
        for (number, writer) in self.writers.iter().enumerate() {
            for (name, config) in &writer.configs {
                match (config, there.iter().filter(|known| *known == name).count()) {
                    (_, 2..) => return Some(format!("{name} is there twice")),
                    (Config::Is, 0) => return Some(format!("{name} was acknowledged and is gone")),
                    (Config::IsGone, 1) => return Some(format!("{name} was removed and is there")),
                    _ => {}
                }
            }
            let name = service_name(number);
            let count = control.service(&name).map_or(0, |service| count_of(&service.spec));
            if count < writer.count {
                return Some(format!("{name} is at {count}, {} was acknowledged", writer.count));
            }
        }
        None
    }
}

fn service_name(writer: usize) -> String {
    format!("service-{writer}")
}

/// How often a service was changed.
pub(crate) fn count_of(spec: &ServiceSpec) -> u64 {
    spec.labels.get(COUNT_LABEL).and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// `spec`, one count further.
pub(crate) fn counted(mut spec: ServiceSpec, replicas: u64) -> ServiceSpec {
    let count = count_of(&spec) + 1;
    spec.labels.insert(COUNT_LABEL.into(), count.to_string());
    spec.mode = ServiceMode::Replicated { replicas };
    spec
}
