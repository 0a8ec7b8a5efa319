//! Jobs, through the eyes of a user and a node.

use crate::testing::{World, spec};
use skep_model::id::ServiceId;
use skep_model::node::Availability;
use skep_model::service::{RestartCondition, ServiceMode, ServiceSpec, UpdateConfig};
use skep_model::task::{Task, TaskState};
use std::sync::Arc;
use std::time::Duration;

fn job(max_concurrent: u64, total_completions: u64) -> ServiceSpec {
    let mut spec = spec("job", 0);
    spec.mode = ServiceMode::ReplicatedJob { max_concurrent, total_completions };
    spec
}

fn in_state(world: &World, id: &ServiceId, state: TaskState) -> Vec<Arc<Task>> {
    world.tasks(id).into_iter().filter(|task| task.status.state == state).collect()
}

fn finish(world: &mut World, id: &ServiceId, count: usize, state: TaskState) {
    for task in world.running(id).iter().take(count) {
        world.report(task, state);
    }
    world.work();
}

#[test]
fn a_job_runs_so_many_at_a_time_until_so_many_are_completed() {
    let mut world = World::with_nodes(2);
    let id = world.create(job(2, 5));
    world.work();
    let running = world.running(&id);
    assert_eq!(running.len(), 2);
    assert!(running.iter().all(|task| task.desired_state == TaskState::Complete && task.job_iteration == Some(0)));
    finish(&mut world, &id, 1, TaskState::Complete);
    assert_eq!((world.running(&id).len(), in_state(&world, &id, TaskState::Complete).len()), (2, 1));
    for _ in 0..2 {
        finish(&mut world, &id, 2, TaskState::Complete);
    }
    assert_eq!((world.running(&id).len(), in_state(&world, &id, TaskState::Complete).len()), (0, 5));
    world.pass(3600);
    world.work();
    assert_eq!(world.tasks(&id).len(), 5, "a job that is done stays done, with one result a slot");
}

#[test]
fn a_failed_attempt_is_repeated_in_its_slot_after_the_delay() {
    let mut world = World::with_nodes(1);
    let id = world.create(job(1, 2));
    world.work();
    let slot = world.running(&id)[0].slot;
    finish(&mut world, &id, 1, TaskState::Failed);
    assert_eq!(world.running(&id).len(), 0);
    world.pass(5);
    world.work();
    assert_eq!(world.running(&id)[0].slot, slot);
    finish(&mut world, &id, 1, TaskState::Complete);
    finish(&mut world, &id, 1, TaskState::Complete);
    assert_eq!(in_state(&world, &id, TaskState::Complete).len(), 2);
}

#[test]
fn attempts_are_limited_and_others_go_on() {
    let mut world = World::with_nodes(1);
    let mut spec = job(1, 2);
    spec.task.restart.max_attempts = 1;
    spec.task.restart.delay = Duration::ZERO;
    let id = world.create(spec);
    world.work();
    for _ in 0..2 {
        finish(&mut world, &id, 1, TaskState::Failed);
    }
    assert_eq!(world.running(&id)[0].slot, 2, "the first slot is given up");
    finish(&mut world, &id, 1, TaskState::Complete);
    assert_eq!((world.running(&id).len(), in_state(&world, &id, TaskState::Complete).len()), (0, 1));
}

#[test]
fn without_restarts_a_failure_is_final() {
    let mut world = World::with_nodes(1);
    let mut spec = job(3, 3);
    spec.task.restart.condition = RestartCondition::None;
    let id = world.create(spec);
    world.work();
    finish(&mut world, &id, 3, TaskState::Failed);
    assert_eq!(world.tasks(&id).len(), 3);
    assert!(world.running(&id).is_empty());
}

#[test]
fn an_update_runs_the_job_again() {
    let mut world = World::with_nodes(1);
    let id = world.create(job(2, 2));
    world.work();
    finish(&mut world, &id, 1, TaskState::Complete);
    world.update(&id, |spec| spec.task.force_update = 1);
    world.work();
    let running = world.running(&id);
    assert_eq!(running.len(), 2);
    assert!(running.iter().all(|task| task.job_iteration == Some(1)), "what ran before was told to go");
    finish(&mut world, &id, 2, TaskState::Complete);
    let service = world.store.service(id.as_str()).unwrap();
    assert_eq!((service.job_status.unwrap().iteration, &service.update_status), (1, &None));
    let results = in_state(&world, &id, TaskState::Complete);
    assert_eq!(results.iter().filter(|task| task.job_iteration == Some(1)).count(), 2);
    world.update(&id, |_| {});
    world.work();
    assert_eq!(world.running(&id).len(), 2, "even an update that changes nothing");
}

#[test]
fn a_drained_nodes_share_of_a_job_runs_elsewhere_within_the_limit() {
    let mut world = World::with_nodes(2);
    let id = world.create(job(2, 4));
    world.work();
    world.availability("n2", Availability::Drain);
    world.settle();
    let wanted = |world: &World| world.tasks(&id).iter().filter(|task| task.is_wanted()).count();
    assert_eq!(wanted(&world), 2);
    world.work();
    assert!(world.running(&id).iter().all(|task| task.node_id.as_str() == "n1"));
    assert_eq!(wanted(&world), 2);
}

#[test]
fn a_result_counts_even_when_its_task_was_told_to_stop() {
    let mut world = World::with_nodes(2);
    let id = world.create(job(1, 1));
    world.work();
    let task = world.running(&id)[0].clone();
    world.availability(task.node_id.as_str(), Availability::Drain);
    world.settle();
    assert_eq!(world.tasks(&id).len(), 2, "a successor is made");
    world.report(&task, TaskState::Complete);
    world.work();
    assert!(world.running(&id).is_empty());
    assert_eq!(in_state(&world, &id, TaskState::Complete).len(), 1);
}

#[test]
fn a_global_job_runs_once_on_every_node_also_a_later_one() {
    let mut world = World::with_nodes(3);
    let mut spec = spec("each", 0);
    spec.mode = ServiceMode::GlobalJob;
    world.availability("n3", Availability::Drain);
    let id = world.create(spec);
    world.work();
    finish(&mut world, &id, 2, TaskState::Complete);
    assert!(world.running(&id).is_empty());
    world.availability("n3", Availability::Active);
    world.work();
    assert_eq!(world.running(&id)[0].node_id.as_str(), "n3");
    finish(&mut world, &id, 1, TaskState::Complete);
    assert_eq!(in_state(&world, &id, TaskState::Complete).len(), 3);
}

#[test]
fn a_removed_job_leaves_nothing() {
    let mut world = World::with_nodes(1);
    let id = world.create(job(2, 3));
    world.work();
    finish(&mut world, &id, 1, TaskState::Complete);
    world.remove(&id);
    world.work();
    assert_eq!((world.store.task_count(), world.store.services().count()), (0, 0));
}

#[test]
fn jobs_are_not_rolled_out() {
    let mut world = World::with_nodes(1);
    let mut spec = job(1, 1);
    spec.update = Some(UpdateConfig::default());
    let error = world.try_create(spec).unwrap_err();
    assert_eq!(error.message, "rpc error: code = InvalidArgument desc = Jobs may not have an update config");
    let error = world.try_create(job(u64::MAX, 1)).unwrap_err();
    assert!(error.message.ends_with("Maximum concurrent jobs must not be negative"), "{error}");
}
