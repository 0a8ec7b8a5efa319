//! One run: a swarm is founded, harmed while clients write, healed, and looked at.

use crate::check::{Checks, unrest};
use crate::faults::{Faults, Power};
use crate::logs::{Logs, check_equal};
use crate::shared::{AGENTS, MANAGERS, PORT, Shared, agent_name, manager_name};
use crate::{agent, disk, manager, os};
use anyhow::{Context, anyhow};
use skep_sim::trace::Trace;
use std::rc::Rc;
use std::time::{Duration, UNIX_EPOCH};
use turmoil::{Builder, Sim};

/// Simulated runs begin on 1 January 2026.
const BEGIN: Duration = Duration::from_secs(1_767_225_600);
const TICK: Duration = Duration::from_millis(1);
const LATENCY_MAX: Duration = Duration::from_millis(8);
/// Segments that wait at a socket; a real one would slow the sender down, here it is an error.
const TCP_CAPACITY: usize = 1 << 16;
/// Chance that a message mends a broken link.
const REPAIR_RATE: f64 = 0.1;

const FOUNDING_MS_MAX: u64 = 60_000;
const QUIET_START_MS: u64 = 1_000;
const HARM_MS: u64 = 20_000;
/// From the end of all faults until the swarm must be at rest.
const RECOVERY_MS_MAX: u64 = 60_000;
/// It must stay so: nothing is planned any more.
const REST_MS: u64 = 1_500;
const SHUTDOWN_MS_MAX: u64 = 20_000;

/// What a run was like.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) events: u64,
    pub(crate) hash: u64,
    pub(crate) simulated_ms: u64,
    pub(crate) acknowledged: u64,
    pub(crate) refused: u64,
    pub(crate) terms: usize,
    pub(crate) power_cuts: u64,
    pub(crate) snapshots: u64,
    pub(crate) entries: u64,
}

struct World<'a> {
    sim: Sim<'a>,
    shared: Rc<Shared>,
    checks: Checks,
    logs: Logs,
    trace: Trace,
    power_cuts: u64,
}

/// Runs a seed.
///
/// # Errors
/// The rule that was broken, or what the swarm did not get done.
pub(crate) fn run(seed: u64, show: bool) -> anyhow::Result<Summary> {
    os::seed(seed);
    os::set_time(BEGIN);
    let dir = tempfile::Builder::new().prefix("skep-turmoil-").tempdir_in(scratch())?;
    let mut world = World::new(seed, dir.path().to_owned(), show);
    let ended = world.live(seed);
    let summary = world.summary();
    ended.map(|()| summary)
}

/// In memory where that is possible: what is tested is what we ask of the disk.
fn scratch() -> std::path::PathBuf {
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}

impl World<'_> {
    fn new(seed: u64, dir: std::path::PathBuf, show: bool) -> Self {
        let mut sim = Builder::new()
            .epoch(UNIX_EPOCH + BEGIN)
            .rng_seed(seed)
            .simulation_duration(Duration::MAX)
            .tick_duration(TICK)
            .min_message_latency(Duration::ZERO)
            .max_message_latency(LATENCY_MAX)
            .repair_rate(REPAIR_RATE)
            .tcp_capacity(TCP_CAPACITY)
            .enable_random_order()
            .build();
        let address = |number| format!("{}:{PORT}", sim.lookup(manager_name(number)));
        let shared = Rc::new(Shared::new(seed, (0..MANAGERS).map(address).collect(), dir));
        for number in 0..MANAGERS {
            let shared = shared.clone();
            sim.host(manager_name(number), move || manager::run(shared.clone(), number));
        }
        for number in 0..AGENTS {
            let shared = shared.clone();
            sim.host(agent_name(number), move || agent::run(shared.clone(), number));
        }
        Self { sim, shared, checks: Checks::default(), logs: Logs::default(), trace: Trace::new(show), power_cuts: 0 }
    }

    fn live(&mut self, seed: u64) -> anyhow::Result<()> {
        self.settle(FOUNDING_MS_MAX).context("founding the swarm")?;
        self.shared.writing.set(true);
        self.pass(QUIET_START_MS)?;
        self.harm(Faults::new(seed))?;
        self.shared.failing.set(false);
        self.pass(REST_MS)?;
        self.shared.writing.set(false);
        self.settle(RECOVERY_MS_MAX).context("after all was healed")?;
        self.check_acknowledged()?;
        self.shut_down()
    }

    /// Everything moves by one tick.
    fn step(&mut self) -> anyhow::Result<()> {
        os::set_time(BEGIN + self.sim.elapsed());
        self.sim.step().map_err(|error| anyhow!("a host failed: {error}"))?;
        let now_ms = self.now_ms();
        for event in self.shared.take_events() {
            self.trace.note(now_ms, format_args!("{event}"));
        }
        self.checks.look(&self.shared, &mut self.trace, now_ms).map_err(|rule| anyhow!(rule))?;
        self.shared.take_broken().map_or(Ok(()), |rule| Err(anyhow!(rule)))
    }

    fn pass(&mut self, ms: u64) -> anyhow::Result<()> {
        let end_ms = self.now_ms() + ms;
        while self.now_ms() < end_ms {
            self.step()?;
        }
        Ok(())
    }

    fn harm(&mut self, mut faults: Faults) -> anyhow::Result<()> {
        let end_ms = self.now_ms() + HARM_MS;
        while self.now_ms() < end_ms {
            self.step()?;
            let (now_ms, leader, trace) = (self.now_ms(), self.leader(), &mut self.trace);
            let mut note = |text: String| trace.note(now_ms, format_args!("fault: {text}"));
            let power = faults.step(&mut self.sim, now_ms, leader, &mut note);
            self.apply(power)?;
        }
        let (now_ms, trace) = (self.now_ms(), &mut self.trace);
        let mut note = |text: String| trace.note(now_ms, format_args!("healed: {text}"));
        let power = faults.heal(&mut self.sim, &mut note);
        self.apply(power)
    }

    /// Who leads as far as Raft says, in the newest term.
    fn leader(&self) -> Option<usize> {
        let states = (0..MANAGERS).filter_map(|number| Some((number, self.shared.control(number)?.raft_state())));
        states.filter(|(_, state)| state.leads).max_by_key(|(_, state)| state.term).map(|(number, _)| number)
    }

    fn apply(&mut self, power: Vec<Power>) -> anyhow::Result<()> {
        let now_ms = self.now_ms();
        for change in power {
            match change {
                Power::Cut(host) => {
                    self.trace.note(now_ms, format_args!("fault: {host} loses power"));
                    self.cut_power(&host)?;
                }
                Power::Back(host) => {
                    self.trace.note(now_ms, format_args!("{host} starts"));
                    self.sim.bounce(host.as_str());
                }
            }
        }
        Ok(())
    }

    /// The host's software ends where it is; of its files only what was written remains.
    fn cut_power(&mut self, host: &str) -> anyhow::Result<()> {
        self.power_cuts += 1;
        let Some(manager) = (0..MANAGERS).find(|number| manager_name(*number) == host) else {
            self.sim.crash(host);
            return Ok(());
        };
        self.shared.set_control(manager, None);
        let (dir, left) = (self.shared.state_dir(manager), self.shared.dir.join("left"));
        disk::copy(&dir, &left).context("copying the files of a host")?;
        self.sim.crash(host);
        disk::replace(&left, &dir).context("a host's files after a power cut")?;
        self.logs.learn(&self.shared.config(manager), host).map_err(|rule| anyhow!(rule))
    }

    /// Waits until the swarm is at rest and stays so.
    fn settle(&mut self, ms_max: u64) -> anyhow::Result<()> {
        let end_ms = self.now_ms() + ms_max;
        let mut rests_since = None;
        loop {
            self.step()?;
            let index = |world: &Self| world.shared.control(0).map(|control| control.raft_state().applied_index);
            match (unrest(&self.shared), rests_since) {
                (None, Some((since_ms, since_index))) if index(self) == since_index => {
                    if self.now_ms() - since_ms >= REST_MS {
                        return Ok(());
                    }
                }
                (None, _) => rests_since = Some((self.now_ms(), index(self))),
                (Some(reason), _) if self.now_ms() >= end_ms => return Err(anyhow!("no rest: {reason}")),
                (Some(_), _) => rests_since = None,
            }
            if self.now_ms() >= end_ms + REST_MS {
                return Err(anyhow!("no rest: something is always changed"));
            }
        }
    }

    fn check_acknowledged(&self) -> anyhow::Result<()> {
        for number in 0..MANAGERS {
            let control = self.shared.control(number).context("a manager is gone")?;
            if let Some(contradiction) = self.shared.oracle.borrow().contradiction(&control) {
                return Err(anyhow!("{}: {contradiction}", manager_name(number)));
            }
        }
        Ok(())
    }

    /// All managers stop in order; what they leave must agree.
    fn shut_down(&mut self) -> anyhow::Result<()> {
        self.shared.over.send_replace(true);
        let end_ms = self.now_ms() + SHUTDOWN_MS_MAX;
        while (0..MANAGERS).any(|number| self.sim.is_host_running(manager_name(number).as_str())) {
            if self.now_ms() > end_ms {
                return Err(anyhow!("the managers do not stop"));
            }
            self.step()?;
        }
        (0..MANAGERS).for_each(|number| self.sim.crash(manager_name(number).as_str()));
        let configs: Vec<_> = (0..MANAGERS).map(|number| self.shared.config(number)).collect();
        for (number, config) in configs.iter().enumerate() {
            self.logs.learn(config, &manager_name(number)).map_err(|rule| anyhow!(rule))?;
        }
        check_equal(&configs).map_err(|rule| anyhow!(rule))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.sim.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn summary(&self) -> Summary {
        let oracle = self.shared.oracle.borrow();
        Summary {
            events: self.trace.events,
            hash: self.trace.hash(),
            simulated_ms: self.now_ms(),
            acknowledged: oracle.acknowledged,
            refused: oracle.refused,
            terms: self.checks.terms(),
            power_cuts: self.power_cuts,
            snapshots: self.checks.snapshots,
            entries: self.logs.read,
        }
    }
}
