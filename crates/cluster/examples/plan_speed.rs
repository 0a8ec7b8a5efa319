//! How fast tasks are placed, and what they cost in the store: one line a size.
//!
//! `cargo run --release -p skep-cluster --example plan_speed [--json] [TASKS ...]`

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a measurement, for people")]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "it reads the clock to measure")]

use skep_cluster::command::{Key, Kind, WRITES_PER_COMMAND_MAX};
use skep_cluster::ids::IdSource;
use skep_cluster::{Command, Store, Write, edit, plan};
use skep_model::Timestamp;
use skep_model::cluster::Cluster;
use skep_model::node::{Node, NodeDescription, Role};
use skep_model::service::{ServiceMode, ServiceSpec};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const SIZES: [usize; 3] = [10_000, 100_000, 1_000_000];
const TASKS_PER_NODE: usize = 10;
const SERVICES: usize = 10;
/// With what a plan and its store take together.
const BYTES_PER_TASK: u64 = 6_000;
const NOW: Timestamp = Timestamp(1_800_000_000_000_000_000);

struct Scatter(u128);

impl IdSource for Scatter {
    fn next(&mut self) -> u128 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
        self.0.wrapping_mul(0xD6E8_FEB8_6659_FD93_D6E8_FEB8_6659_FD93)
    }
}

fn main() {
    let as_json = std::env::args().any(|word| word == "--json");
    let given: Vec<usize> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let sizes = if given.is_empty() { SIZES.to_vec() } else { given };
    let mut before: Option<(usize, Duration)> = None;
    for tasks in sizes {
        if available_bytes() < tasks as u64 * BYTES_PER_TASK {
            eprintln!("{tasks} tasks: not measured, this machine has too little memory free");
            continue;
        }
        let measured = measure(tasks);
        if as_json {
            measured.print_json();
        } else {
            measured.print(before);
        }
        before = Some((tasks, measured.planned));
    }
}

struct Measured {
    tasks: usize,
    nodes: usize,
    planned: Duration,
    applied: Duration,
    again: Duration,
    snapshot_bytes_per_task: usize,
    memory_bytes_per_task: u64,
}

impl Measured {
    /// `before`: size and time of the last measurement.
    fn print(&self, before: Option<(usize, Duration)>) {
        let Self { tasks, nodes, planned, applied, again, .. } = self;
        let rate = *tasks as f64 / planned.as_secs_f64();
        let growth = before.map_or_else(String::new, |(size, time)| {
            let exponent = (planned.as_secs_f64() / time.as_secs_f64()).ln() / (*tasks as f64 / size as f64).ln();
            format!(", growth exponent {exponent:.2}")
        });
        println!(
            "{tasks} tasks on {nodes} nodes: planned in {planned:.2?} ({rate:.0} placements/s){growth}; applied in \
             {applied:.2?}; planned again in {again:.2?}; {} bytes in a snapshot and {} in memory per task",
            self.snapshot_bytes_per_task, self.memory_bytes_per_task
        );
    }

    fn print_json(&self) {
        println!(
            "{{\"tasks\":{},\"nodes\":{},\"planned_secs\":{},\"applied_secs\":{},\"again_secs\":{},\
             \"snapshot_bytes_per_task\":{},\"memory_bytes_per_task\":{}}}",
            self.tasks,
            self.nodes,
            self.planned.as_secs_f64(),
            self.applied.as_secs_f64(),
            self.again.as_secs_f64(),
            self.snapshot_bytes_per_task,
            self.memory_bytes_per_task
        );
    }
}

/// Plans `tasks` tasks of a few services from nothing to ASSIGNED.
fn measure(tasks: usize) -> Measured {
    let mut ids = Scatter(7);
    let nodes = tasks / TASKS_PER_NODE;
    let mut store = swarm(nodes, &mut ids);
    let keys: BTreeSet<Key> = (0..SERVICES).map(|n| create(&mut store, n, tasks / SERVICES, &mut ids)).collect();
    let memory_before = resident_bytes();

    let started = Clock::now();
    let plan = plan::plan(&store, &keys, NOW, &mut ids);
    let planned = started.elapsed();

    let placed = plan.writes.iter().filter(|write| write.key().kind == Kind::Task).count();
    assert_eq!(placed, tasks);
    let started = Clock::now();
    apply_in_parts(&mut store, plan.writes);
    let applied = started.elapsed();
    let memory_bytes_per_task = resident_bytes().saturating_sub(memory_before) / tasks as u64;
    let started = Clock::now();
    assert_eq!(plan::plan(&store, &keys, NOW, &mut ids).writes, []);
    let again = started.elapsed();
    let snapshot_bytes_per_task = store.to_bytes().len() / tasks;
    Measured { tasks, nodes, planned, applied, again, snapshot_bytes_per_task, memory_bytes_per_task }
}

fn swarm(nodes: usize, ids: &mut Scatter) -> Store {
    let mut store = Store::default();
    let mut manager = Node { id: "node0".into(), role: Role::Manager, ..Node::default() };
    manager.spec.role = Role::Manager;
    // A mesh with room for every node's address.
    let cluster = Cluster { subnet_size: 12, ..Cluster::default() };
    apply(&mut store, edit::bootstrap(edit::Bootstrap { cluster, node: manager }, NOW, ids));
    for number in 0..nodes {
        let id = format!("node{number}");
        if number > 0 {
            let writes = edit::join_node(&store, Node { id: id.as_str().into(), ..Node::default() }).unwrap();
            apply(&mut store, writes);
        }
        let description = NodeDescription { nano_cpus: 8_000_000_000, memory_bytes: 1 << 34, ..Default::default() };
        let writes = edit::node_ready(&store, &id.as_str().into(), description, "192.0.2.1", "192.0.2.1").unwrap();
        apply(&mut store, writes);
    }
    let planned = plan::plan(&store, &BTreeSet::new(), NOW, ids);
    apply(&mut store, planned.writes);
    store
}

fn create(store: &mut Store, number: usize, replicas: usize, ids: &mut Scatter) -> Key {
    let mode = ServiceMode::Replicated { replicas: replicas as u64 };
    let mut spec = ServiceSpec { name: format!("service{number}"), mode, ..ServiceSpec::default() };
    spec.task.container.image = "registry.example.com/shop/front:1.2.3".into();
    spec.task.container.env = vec!["MODE=production".into(), "LOG=info".into()];
    spec.task.resources.reserve_memory_bytes = 64 << 20;
    spec.labels.insert("team".into(), "shop".into());
    let (id, writes) = edit::create_service(store, spec, NOW, ids).unwrap();
    apply(store, writes);
    Key::new(Kind::Service, id.as_str())
}

fn apply(store: &mut Store, writes: Vec<Write>) {
    let command = Command { id: String::new(), at: NOW, writes, independent: true };
    let applied = store.apply(store.index() + 1, &command).unwrap();
    assert!(applied.dropped.is_empty());
}

/// As the leader proposes it: many small commands. What is applied is given back at once.
fn apply_in_parts(store: &mut Store, writes: Vec<Write>) {
    let mut writes = writes.into_iter();
    loop {
        let part: Vec<Write> = writes.by_ref().take(WRITES_PER_COMMAND_MAX).collect();
        if part.is_empty() {
            return;
        }
        apply(store, part);
    }
}

/// Time that this thread has run on a core, so that a busy machine does not count.
struct Clock(Instant, Option<Duration>);

impl Clock {
    fn now() -> Self {
        Self(Instant::now(), on_core())
    }

    fn elapsed(&self) -> Duration {
        self.1.and_then(|before| on_core()?.checked_sub(before)).unwrap_or_else(|| self.0.elapsed())
    }
}

/// The kernel's account in nanoseconds, where it keeps one.
fn on_core() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// Memory that could be used without harm, all where the system does not say.
fn available_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.map_or(u64::MAX, |kib| kib * 1024)
}

/// Memory of this process that is in use, 0 where the system does not say.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}
