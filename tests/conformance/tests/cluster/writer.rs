//! Clients that write without a pause, keep account of every answer, and compare in the end.
//!
//! Each client works on services of its own, so it knows what every one of its writes must
//! do. Names are never used twice: a name that is taken at its first use, a version that is
//! out of sequence although nobody else writes, or a service that is gone before it was
//! removed shows that a write was applied twice.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use skep_conformance::{Cli, Lab, wait};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Beyond this a client gives a manager up and asks the next.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two tries when no manager takes a write.
const RETRY: Duration = Duration::from_millis(5);
/// Each write of a service carries the next number in this label.
const NUMBER_LABEL: &str = "number";
/// Replicas follow the number, below this; none is ever placed.
const REPLICAS_END: u64 = 5;
/// What a write at an old version is told, with status 500.
const OUT_OF_SEQUENCE: &str = "update out of sequence";
/// Beginning of the names of the clients' services.
pub(crate) const PREFIX: &str = "writer";
/// Services a client keeps at once.
const KEPT: usize = 5;

/// What is known of one service of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    /// The write of this number was acknowledged, and no later one is in doubt.
    Is(u64),
    /// One of these: a write got no answer. `None` is "not there".
    OneOf(Vec<Option<u64>>),
}

/// A write that was acknowledged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accepted {
    begun: Instant,
    ended: Instant,
}

/// The clients and what they learned.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicU64>,
    times: Arc<Mutex<Vec<Accepted>>>,
    /// What the first client that gave up found.
    failed: Arc<Mutex<Option<String>>>,
    threads: Vec<std::thread::JoinHandle<Result<BTreeMap<String, Known>>>>,
}

impl Writers {
    /// Starts `count` clients; each begins at another manager.
    pub(crate) fn start(managers: &[Cli], count: usize) -> Self {
        let (stop, accepted, times) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::default());
        let failed = Arc::<Mutex<Option<String>>>::default();
        let threads = (0..count)
            .map(|number| {
                let mut client = OneWriter {
                    number,
                    managers: managers.to_vec(),
                    at: number % managers.len(),
                    stop: Arc::clone(&stop),
                    accepted: Arc::clone(&accepted),
                    times: Arc::clone(&times),
                    services: BTreeMap::new(),
                    next: 0,
                };
                let failed = Arc::clone(&failed);
                std::thread::spawn(move || {
                    let outcome = client.run();
                    if let Err(error) = &outcome {
                        failed.lock().unwrap().get_or_insert_with(|| format!("{error:#}"));
                    }
                    outcome.map(|()| client.services)
                })
            })
            .collect();
        Self { stop, accepted, times, failed, threads }
    }

    /// Writes acknowledged so far.
    pub(crate) fn count(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Waits for `more` further acknowledged writes.
    pub(crate) fn wait_for(&self, more: u64) -> Result<()> {
        let goal = self.count() + more;
        let failed = wait::until("further writes", || {
            if let Some(reason) = self.failed.lock().unwrap().clone() {
                return Ok(Some(reason));
            }
            ensure!(self.count() >= goal, "{} of {goal}", self.count());
            Ok(None)
        })?;
        failed.map_or(Ok(()), |reason| bail!("a client found: {reason}"))
    }

    /// How long after `moment` the first write that was begun after it was acknowledged.
    pub(crate) fn accepted_after(&self, moment: Instant) -> Result<Duration> {
        wait::until("a write to be accepted", || {
            let times = self.times.lock().unwrap();
            let next = times.iter().filter(|write| write.begun >= moment).map(|write| write.ended).min();
            next.map(|ended| ended - moment).context("none yet")
        })
    }

    /// Ends the clients and compares what they know with what each manager says.
    pub(crate) fn finish(self, managers: &[Cli]) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut expected = BTreeMap::new();
        for thread in self.threads {
            expected.extend(thread.join().unwrap()?);
        }
        for manager in managers {
            wait::until("the services that were acknowledged", || compare(&expected, &services(manager)?))?;
        }
        Ok(self.accepted.load(Ordering::Relaxed))
    }
}

/// The number of the write that a service shows.
fn number_of(service: &Value) -> Result<u64> {
    let number = service["Spec"]["Labels"][NUMBER_LABEL].as_str().and_then(|text| text.parse().ok());
    let number: u64 = number.context("no number")?;
    let replicas = &service["Spec"]["Mode"]["Replicated"]["Replicas"];
    ensure!(replicas.as_u64() == Some(number % REPLICAS_END), "half a write: number {number}, replicas {replicas}");
    Ok(number)
}

/// Names and numbers of all services of the clients, as one manager says.
fn services(manager: &Cli) -> Result<BTreeMap<String, u64>> {
    let list = manager.get("/services")?;
    let mut found = BTreeMap::new();
    for service in list.as_array().context("a list")? {
        let name = service["Spec"]["Name"].as_str().context("a name")?.to_owned();
        if name.starts_with(PREFIX) {
            ensure!(found.insert(name.clone(), number_of(service)?).is_none(), "two services {name}");
        }
    }
    Ok(found)
}

fn compare(expected: &BTreeMap<String, Known>, found: &BTreeMap<String, u64>) -> Result<()> {
    let mut wrong = Vec::new();
    for (name, known) in expected {
        let seen = found.get(name).copied();
        let fits = match known {
            Known::Is(number) => seen == Some(*number),
            Known::OneOf(choices) => choices.contains(&seen),
        };
        if !fits {
            wrong.push(format!("{name}: expected {known:?}, found {seen:?}"));
        }
    }
    for name in found.keys().filter(|name| !expected.contains_key(*name)) {
        wrong.push(format!("{name}: removed, but found"));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// What a write came to.
enum Answer {
    Done,
    /// Refused for certain; nothing was written.
    Refused(u16, String),
    /// It may have been applied or not.
    Unknown,
}

struct OneWriter {
    number: usize,
    managers: Vec<Cli>,
    /// The manager that is asked now.
    at: usize,
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicU64>,
    times: Arc<Mutex<Vec<Accepted>>>,
    services: BTreeMap<String, Known>,
    next: u64,
}

impl OneWriter {
    fn run(&mut self) -> Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            let certain: Vec<(String, u64)> = self
                .services
                .iter()
                .filter_map(|(name, known)| match known {
                    Known::Is(number) => Some((name.clone(), *number)),
                    Known::OneOf(_) => None,
                })
                .collect();
            self.next += 1;
            match certain.first() {
                Some((name, _)) if certain.len() > KEPT => self.remove(name)?,
                Some((name, number)) if self.next.is_multiple_of(3) => self.scale(name, *number)?,
                _ => self.create()?,
            }
        }
        Ok(())
    }

    fn create(&mut self) -> Result<()> {
        let name = format!("{PREFIX}{}-{}", self.number, self.next);
        let spec = spec(&name, 0);
        match self.write("POST", "/services/create", Some(&spec))? {
            Answer::Done => self.services.insert(name, Known::Is(0)),
            Answer::Unknown => self.services.insert(name, Known::OneOf(vec![None, Some(0)])),
            Answer::Refused(status, text) => bail!("create {name}, a fresh name: {status} {text}"),
        };
        Ok(())
    }

    fn scale(&mut self, name: &str, before: u64) -> Result<()> {
        let after = before + 1;
        let mut refusals = Vec::new();
        loop {
            let found = self.version(name, before, after).with_context(|| format!("refused before: {refusals:?}"))?;
            let Some(version) = found else { return Ok(()) };
            let asked = self.at;
            let path = format!("/services/{name}/update?version={version}");
            let known = match self.write("POST", &path, Some(&spec(name, after)))? {
                Answer::Done => Known::Is(after),
                Answer::Unknown => Known::OneOf(vec![Some(before), Some(after)]),
                // The manager that was read from lags behind; read again.
                Answer::Refused(_, text) if text.contains(OUT_OF_SEQUENCE) => {
                    refusals.push(format!("{version} at manager {asked}, then {}", self.at));
                    continue;
                }
                Answer::Refused(status, text) => bail!("scale {name} at {version}: {status} {text}"),
            };
            self.services.insert(name.to_owned(), known);
            return Ok(());
        }
    }

    fn remove(&mut self, name: &str) -> Result<()> {
        match self.write("DELETE", &format!("/services/{name}"), None)? {
            Answer::Done => {
                self.services.remove(name);
            }
            Answer::Unknown => {
                let Some(Known::Is(before)) = self.services.get(name).cloned() else { bail!("{name} is certain") };
                self.services.insert(name.to_owned(), Known::OneOf(vec![None, Some(before)]));
            }
            Answer::Refused(status, text) => bail!("remove {name}, acknowledged before: {status} {text}"),
        }
        Ok(())
    }

    /// The version at which the service shows `before`, which was acknowledged; a
    /// manager that lags behind is given time. `None` when the client is to end.
    fn version(&mut self, name: &str, before: u64, after: u64) -> Result<Option<u64>> {
        let begin = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            let answer = self.managers[self.at].request("GET", &format!("/services/{name}"), None, ANSWER_TIMEOUT);
            let said = match answer {
                Ok((200, body)) => {
                    let service: Value = serde_json::from_str(&body)?;
                    let number = number_of(&service)?;
                    let version = service["Version"]["Index"].as_u64().context("a version")?;
                    if number == before {
                        return Ok(Some(version));
                    }
                    let at = self.at;
                    ensure!(
                        number < before,
                        "{name}: {after} was refused, {number} is applied at {version}, says {at}"
                    );
                    format!("{number} and not yet {before}")
                }
                Ok((404, body)) => body,
                Ok(_) | Err(_) => {
                    self.another_manager();
                    continue;
                }
            };
            ensure!(begin.elapsed() < wait::DEADLINE, "{name} was acknowledged: {said}");
            std::thread::sleep(RETRY);
        }
        Ok(None)
    }

    /// Sends one write until it is taken or its outcome is open.
    fn write(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        loop {
            let begun = Instant::now();
            match self.managers[self.at].request(method, path, body, ANSWER_TIMEOUT) {
                Ok((200..=299, _)) => {
                    self.accepted.fetch_add(1, Ordering::Relaxed);
                    self.times.lock().unwrap().push(Accepted { begun, ended: Instant::now() });
                    return Ok(Answer::Done);
                }
                // No leader, or lost on the way: it may have been applied all the same.
                Ok((500..=599, text)) if !text.contains(OUT_OF_SEQUENCE) => {
                    self.another_manager();
                    return Ok(Answer::Unknown);
                }
                Ok((status, text)) => return Ok(Answer::Refused(status, text)),
                Err(error) => {
                    self.another_manager();
                    // Nobody listened, so nobody heard it.
                    let unheard = error.downcast_ref::<std::io::Error>().is_some_and(|error| {
                        matches!(error.kind(), std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound)
                    });
                    if !unheard {
                        return Ok(Answer::Unknown);
                    }
                }
            }
        }
    }

    fn another_manager(&mut self) {
        self.at = (self.at + 1) % self.managers.len();
        std::thread::sleep(RETRY);
    }
}

/// A service that no node may run, so that only the control plane works.
fn spec(name: &str, number: u64) -> Value {
    json!({
        "Name": name,
        "Labels": { NUMBER_LABEL: number.to_string() },
        "TaskTemplate": {
            "ContainerSpec": { "Image": "busybox" },
            "Placement": { "Constraints": ["node.labels.none==here"] },
        },
        "Mode": { "Replicated": { "Replicas": number % REPLICAS_END } },
    })
}

/// Waits until all managers hold the same: nodes, services, tasks, word for word.
pub(crate) fn same_state(lab: &Lab, managers: &[usize]) -> Result<()> {
    wait::until("the same state on all managers", || {
        let mut seen: Option<(String, Value)> = None;
        for number in managers {
            let node = lab.node(*number);
            let state = json!([by_id(node.get("/services")?), by_id(node.get("/tasks")?), by_id(node.get("/nodes")?)]);
            match &seen {
                None => seen = Some((node.name().to_owned(), state)),
                Some((name, other)) => ensure!(*other == state, "{name} and {} differ", node.name()),
            }
        }
        Ok(())
    })
}

fn by_id(list: Value) -> Value {
    let mut items = list.as_array().cloned().unwrap_or_default();
    items.sort_by_key(|item| item["ID"].as_str().unwrap_or_default().to_owned());
    Value::Array(items)
}
