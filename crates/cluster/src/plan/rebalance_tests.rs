//! Moves that even things out, and the words for what a service waits for.

use super::{Rebalance, rebalance, why};
use crate::testing::{World, spec};
use skep_model::id::ServiceId;
use skep_model::node::Availability;
use skep_model::service::{RestartCondition, ServiceMode, ServiceSpec};
use skep_model::task::TaskState;
use std::collections::BTreeMap;

fn used(world: &World, service: &ServiceId) -> BTreeMap<String, usize> {
    let mut used = BTreeMap::new();
    for task in world.running(service) {
        *used.entry(task.node_id.0.clone()).or_default() += 1;
    }
    used
}

fn even_out(world: &mut World, only: Option<&ServiceId>) -> Rebalance {
    let found = rebalance(&world.store, only, world.now, &mut world.ids);
    if !found.writes.is_empty() {
        world.apply(found.writes.clone()).unwrap();
    }
    found
}

/// All on the first node, since the other was away when they were made.
fn lopsided(spec: ServiceSpec) -> (World, ServiceId) {
    let mut world = World::with_nodes(2);
    world.availability("n2", Availability::Drain);
    let id = world.create(spec);
    world.work();
    world.availability("n2", Availability::Active);
    world.work();
    (world, id)
}

#[test]
fn half_of_the_tasks_move_and_each_starts_before_it_stops() {
    let (mut world, id) = lopsided(spec("web", 5));
    let found = even_out(&mut world, Some(&id));
    assert_eq!(found.moves.len(), 2);
    assert!(found.moves.iter().all(|one| one.from.as_str() == "n1" && one.to.as_str() == "n2"));
    world.settle();
    assert_eq!(world.running(&id).len(), 5, "nothing stops before its successor runs");
    let again = rebalance(&world.store, Some(&id), world.now, &mut world.ids);
    assert_eq!((again.moves.len(), again.skipped.len()), (0, 1), "one after the other");
    world.work();
    assert_eq!(used(&world, &id), BTreeMap::from([("n1".to_owned(), 3), ("n2".to_owned(), 2)]));
    assert_eq!(rebalance(&world.store, Some(&id), world.now, &mut world.ids), Rebalance::default());
}

#[test]
fn constraints_limits_and_updates_are_respected() {
    let mut pinned = spec("web", 4);
    pinned.task.placement.constraints.push("node.id == n1".into());
    let (mut world, id) = lopsided(pinned);
    assert_eq!(even_out(&mut world, Some(&id)).moves, []);
    let mut heavy = spec("heavy", 4);
    heavy.task.resources.reserve_memory_bytes = 1 << 30;
    let (mut world, id) = lopsided(heavy);
    world.update(&id, |spec| spec.task.force_update = 1);
    world.settle();
    let found = even_out(&mut world, Some(&id));
    assert_eq!(
        (found.moves.len(), found.skipped.as_slice()),
        (0, &["service heavy: it is being updated".to_owned()][..])
    );
}

#[test]
fn a_move_that_fails_leaves_the_old_task_where_it_is() {
    let (mut world, id) = lopsided(spec("web", 2));
    let found = even_out(&mut world, Some(&id));
    assert_eq!(found.moves.len(), 1);
    world.settle();
    let new = world.tasks(&id).into_iter().find(|task| task.beside.is_some()).unwrap();
    assert_eq!(new.node_id.as_str(), "n2");
    world.report(&new, TaskState::Rejected);
    world.work();
    assert_eq!(used(&world, &id), BTreeMap::from([("n1".to_owned(), 2)]));
    even_out(&mut world, Some(&id));
    world.availability("n2", Availability::Drain);
    world.work();
    assert_eq!(used(&world, &id), BTreeMap::from([("n1".to_owned(), 2)]), "a move to a drained node is given up");
}

#[test]
fn an_old_task_that_ends_during_its_move_is_not_made_twice() {
    let (mut world, id) = lopsided(spec("web", 2));
    let moved = even_out(&mut world, Some(&id)).moves[0].clone();
    world.settle();
    let old = world.store.task(moved.task.as_str()).unwrap().clone();
    world.report(&old, TaskState::Failed);
    world.work();
    assert_eq!(used(&world, &id), BTreeMap::from([("n1".to_owned(), 1), ("n2".to_owned(), 1)]));
    world.pass(60);
    world.work();
    assert_eq!(world.running(&id).len(), 2);
}

#[test]
fn zones_are_evened_out_before_nodes() {
    let mut world = World::with_nodes(3);
    for (node, zone) in [("n1", "a"), ("n2", "a"), ("n3", "b")] {
        let present = world.store.node(node).unwrap().clone();
        let mut spec = present.spec.clone();
        spec.labels.insert("zone".into(), zone.into());
        let writes = crate::edit::update_node(&world.store, &present.id, present.meta.version, spec).unwrap();
        world.apply(writes).unwrap();
    }
    world.availability("n3", Availability::Drain);
    let mut web = spec("web", 4);
    web.task.placement.spread.push("node.labels.zone".into());
    let id = world.create(web);
    world.work();
    world.availability("n3", Availability::Active);
    assert_eq!(even_out(&mut world, Some(&id)).moves.len(), 2);
    world.work();
    assert_eq!(used(&world, &id)["n3"], 2);
}

#[test]
fn all_services_together_even_out_the_nodes() {
    let mut world = World::with_nodes(2);
    world.availability("n2", Availability::Drain);
    let ids: Vec<ServiceId> = (0..4).map(|n| world.create(spec(&format!("s{n}"), 1))).collect();
    world.work();
    world.availability("n2", Availability::Active);
    assert_eq!(even_out(&mut world, Some(&ids[0])).moves, [], "one task alone is even");
    assert_eq!(even_out(&mut world, None).moves.len(), 2);
    world.work();
    let there = ids.iter().flat_map(|id| world.running(id)).filter(|task| task.node_id.as_str() == "n2").count();
    assert_eq!(there, 2);
    assert_eq!(rebalance(&world.store, None, world.now, &mut world.ids).moves, []);
}

#[test]
fn why_names_what_is_waited_for() {
    let mut world = World::with_nodes(2);
    let mut huge = spec("huge", 1);
    huge.task.resources.reserve_memory_bytes = 1 << 40;
    let id = world.create(huge);
    world.settle();
    let service = world.store.service(id.as_str()).unwrap();
    let told = why(&world.store, service, world.now);
    assert_eq!(told.summary, "0 of 1 tasks run");
    assert_eq!(told.tasks[0].reason, "no suitable node (insufficient resources on 2 nodes)");
    assert!(told.waiting[0].contains("no suitable node"), "{told:?}");
    let other = world.create(spec("web", 2));
    world.work();
    let service = world.store.service(other.as_str()).unwrap();
    let told = why(&world.store, service, world.now);
    assert_eq!((told.summary.as_str(), told.waiting, told.tasks), ("2 of 2 tasks run", vec![], vec![]));
}

#[test]
fn why_tells_delays_jobs_and_what_is_given_up() {
    let mut world = World::with_nodes(1);
    let mut once = spec("once", 2);
    once.task.restart.condition = RestartCondition::None;
    let id = world.create(once);
    world.work();
    let task = world.running(&id)[0].clone();
    world.report(&task, TaskState::Failed);
    world.work();
    let told = why(&world.store, world.store.service(id.as_str()).unwrap(), world.now);
    assert_eq!(told.waiting, ["once.1: failed and not started again: its restart condition is none"]);
    let web = world.create(spec("web", 1));
    world.work();
    let task = world.running(&web)[0].clone();
    world.report(&task, TaskState::Failed);
    world.work();
    let told = why(&world.store, world.store.service(web.as_str()).unwrap(), world.now);
    assert!(told.tasks[0].reason.starts_with("is ready; its restart delay ends at "), "{told:?}");
    let mut job = spec("job", 0);
    job.mode = ServiceMode::ReplicatedJob { max_concurrent: 1, total_completions: 3 };
    let job = world.create(job);
    world.work();
    let told = why(&world.store, world.store.service(job.as_str()).unwrap(), world.now);
    assert_eq!(told.summary, "0 of 3 tasks are completed, 1 run");
    assert_eq!(told.waiting, ["service job: job: 0 of 3 completed"]);
}
