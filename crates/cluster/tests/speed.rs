//! How long planning and applying take. Limits hold for optimised builds only; the
//! numbers are printed in any case (`--nocapture`).

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of a test that prints its measurements")]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "it reads the clock to measure")]

use skep_cluster::ids::IdSource;
use skep_cluster::{Command, Store, Write, edit, plan};
use skep_model::Timestamp;
use skep_model::node::{Node, NodeDescription, NodeState, Role};
use skep_model::service::{ServiceMode, ServiceSpec};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

struct Scatter(u128);

impl IdSource for Scatter {
    fn next(&mut self) -> u128 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
        self.0.wrapping_mul(0xD6E8_FEB8_6659_FD93_D6E8_FEB8_6659_FD93)
    }
}

const NOW: Timestamp = Timestamp(1_800_000_000_000_000_000);

fn swarm(nodes: usize) -> Store {
    let mut store = Store::default();
    let mut manager = Node { id: "node0".into(), role: Role::Manager, ..Node::default() };
    manager.spec.role = Role::Manager;
    let facts = edit::Bootstrap { cluster: Default::default(), node: manager };
    apply(&mut store, edit::bootstrap(facts, NOW, &mut Scatter(1)));
    for number in 0..nodes {
        let id = format!("node{number}");
        if number > 0 {
            let node = Node { id: id.as_str().into(), ..Node::default() };
            let writes = edit::join_node(&store, node).unwrap();
            apply(&mut store, writes);
        }
        let description = NodeDescription { nano_cpus: 8_000_000_000, memory_bytes: 1 << 34, ..Default::default() };
        let writes = edit::node_ready(&store, &id.as_str().into(), description, "192.0.2.1", "192.0.2.1").unwrap();
        apply(&mut store, writes);
    }
    assert!(store.nodes().all(|node| node.status.state == NodeState::Ready));
    store
}

fn apply(store: &mut Store, writes: Vec<Write>) {
    let command = Command { id: String::new(), at: NOW, writes, independent: true };
    let applied = store.apply(store.index() + 1, &command).unwrap();
    assert!(applied.dropped.is_empty());
}

fn create(store: &mut Store, name: &str, replicas: u64, ids: &mut Scatter) -> skep_cluster::command::Key {
    let mut spec = ServiceSpec { name: name.into(), mode: ServiceMode::Replicated { replicas }, ..Default::default() };
    spec.task.container.image = "busybox".into();
    let (id, writes) = edit::create_service(store, spec, NOW, ids).unwrap();
    apply(store, writes);
    skep_cluster::command::Key::new(skep_cluster::command::Kind::Service, id.as_str())
}

fn within(what: &str, took: Duration, limit_ms: u64) {
    println!("{what}: {took:?}");
    assert!(cfg!(debug_assertions) || took < Duration::from_millis(limit_ms), "{what} took {took:?}");
}

#[test]
fn a_hundred_replicas_are_planned_and_applied_quickly_among_ten_thousand() {
    let mut ids = Scatter(7);
    let mut store = swarm(100);
    for (name, replicas) in [("web", 100), ("crowd", 9900), ("more", 100)] {
        let key = create(&mut store, name, replicas, &mut ids);
        let started = Instant::now();
        let planned = plan::plan(&store, &BTreeSet::from([key.clone()]), NOW, &mut ids);
        let took = started.elapsed();
        assert_eq!(
            planned.writes.iter().filter(|write| write.key().kind == skep_cluster::command::Kind::Task).count() as u64,
            replicas
        );
        within(
            &format!("plan {replicas} replicas beside {} tasks", store.task_count()),
            took,
            if replicas == 100 { 20 } else { 2000 },
        );
        let snapshot = store.clone();
        let started = Instant::now();
        apply(&mut store, planned.writes);
        within(
            &format!("apply {replicas} tasks under a snapshot of {}", snapshot.task_count()),
            started.elapsed(),
            if replicas == 100 { 10 } else { 1000 },
        );
        let started = Instant::now();
        let next = plan::plan(&store, &BTreeSet::from([key]), NOW, &mut ids);
        within("plan nothing for it", started.elapsed(), 200);
        assert_eq!(next.writes, []);
    }
    let started = Instant::now();
    let everything = plan::plan(&store, &BTreeSet::new(), NOW, &mut ids);
    within("plan everything, a new leader's first round", started.elapsed(), 500);
    assert_eq!(everything.writes, []);
    let started = Instant::now();
    let bytes = store.to_bytes();
    within(&format!("snapshot of {} bytes", bytes.len()), started.elapsed(), 500);
}
