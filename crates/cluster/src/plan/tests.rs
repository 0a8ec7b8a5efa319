//! The planners together, through the eyes of a user and a node.

use crate::command::Write;
use crate::testing::{World, spec};
use skep_model::network::{IpamConfig, NetworkSpec, Protocol};
use skep_model::node::{Availability, NodeState};
use skep_model::service::{
    FailureAction, NetworkAttachmentConfig, PortConfig, PublishMode, RestartCondition, ServiceMode, UpdateConfig,
    UpdateOrder, UpdateState,
};
use skep_model::task::TaskState;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

fn nodes_used(world: &World, service: &skep_model::id::ServiceId) -> BTreeMap<String, usize> {
    let mut used = BTreeMap::new();
    for task in world.tasks(service).iter().filter(|task| task.is_wanted()) {
        *used.entry(task.node_id.0.clone()).or_default() += 1;
    }
    used
}

fn port(published: u16, mode: PublishMode) -> PortConfig {
    PortConfig {
        name: String::new(),
        protocol: Protocol::Tcp,
        target_port: 80,
        published_port: published,
        publish_mode: mode,
    }
}

fn status(world: &World, service: &skep_model::id::ServiceId) -> (UpdateState, String) {
    let status = world.store.service(service.as_str()).unwrap().update_status.clone().unwrap();
    (status.state, status.message)
}

#[test]
fn three_replicas_are_one_batch_spread_over_the_nodes() {
    let mut world = World::with_nodes(3);
    let mut web = spec("web", 3);
    web.endpoint.ports.push(port(8080, PublishMode::Ingress));
    let id = world.create(web);
    let plan = world.plan();
    let assigned = |write: &&Write| matches!(write, Write::Put { object: crate::Object::Task(task), .. } if task.status.state == TaskState::Assigned);
    assert_eq!(plan.writes.iter().filter(assigned).count(), 3);
    assert_eq!(nodes_used(&world, &id).into_values().collect::<Vec<_>>(), [1, 1, 1]);
    assert!(world.plan().writes.is_empty(), "the first plan is the fixed point");
    assert_eq!(world.store.port_holder(Protocol::Tcp, 8080), Some(id.as_str()));
}

#[test]
fn scaling_down_empties_the_fullest_node_first() {
    let mut world = World::with_nodes(2);
    let id = world.create(spec("web", 4));
    world.work();
    world.update(&id, |spec| spec.mode = ServiceMode::Replicated { replicas: 2 });
    world.work();
    assert_eq!(nodes_used(&world, &id).into_values().collect::<Vec<_>>(), [1, 1]);
    assert_eq!(world.tasks(&id).len(), 2, "removed tasks leave no history");
}

#[test]
fn a_failed_task_is_replaced_after_the_delay() {
    let mut world = World::with_nodes(1);
    let id = world.create(spec("web", 1));
    world.work();
    let task = world.running(&id)[0].clone();
    world.report(&task, TaskState::Failed);
    let plan = world.settle();
    assert_eq!(plan.wake_at, Some(world.now.plus(Duration::from_secs(5))));
    world.work();
    let next = world.tasks(&id)[1].clone();
    assert_eq!((next.status.state, next.desired_state), (TaskState::Ready, TaskState::Ready));
    world.pass(5);
    world.work();
    assert_eq!(world.running(&id)[0].id, next.id);
    assert_eq!(world.store.task(task.id.as_str()).unwrap().desired_state, TaskState::Shutdown);
}

#[test]
fn history_is_limited_per_slot() {
    let mut world = World::with_nodes(1);
    let id = world.create(spec("web", 1));
    for _ in 0..9 {
        world.work();
        let task = world.running(&id)[0].clone();
        world.report(&task, TaskState::Failed);
        world.settle();
        world.pass(5);
    }
    world.work();
    assert_eq!(world.tasks(&id).len(), 6);
}

#[test]
fn attempts_are_limited_and_age_with_the_window() {
    let mut world = World::with_nodes(1);
    let mut web = spec("web", 1);
    web.task.restart.max_attempts = 2;
    web.task.restart.window = Duration::from_secs(100);
    web.task.restart.delay = Duration::ZERO;
    let id = world.create(web);
    for _ in 0..3 {
        world.work();
        let task = world.running(&id)[0].clone();
        world.report(&task, TaskState::Failed);
    }
    let plan = world.settle();
    assert!(world.running(&id).is_empty());
    assert_eq!(plan.wake_at, Some(world.now.plus(Duration::from_secs(100))));
    world.pass(100);
    world.work();
    assert_eq!(world.running(&id).len(), 1);
}

#[test]
fn a_finished_task_is_not_restarted_on_failure_only() {
    let mut world = World::with_nodes(1);
    let mut once = spec("once", 1);
    once.task.restart.condition = RestartCondition::OnFailure;
    let id = world.create(once);
    world.work();
    let task = world.running(&id)[0].clone();
    world.report(&task, TaskState::Complete);
    world.work();
    assert_eq!(world.tasks(&id).len(), 1);
    world.update(&id, |spec| spec.task.force_update = 1);
    world.work();
    assert_eq!(world.running(&id).len(), 1, "an update runs it again");
}

#[test]
fn a_drained_node_is_emptied_and_waited_for() {
    let mut world = World::with_nodes(2);
    let id = world.create(spec("web", 2));
    world.work();
    let old = world.running(&id).into_iter().find(|task| task.node_id.as_str() == "n2").unwrap();
    world.availability("n2", Availability::Drain);
    world.settle();
    let new = world.tasks(&id).into_iter().find(|task| task.replaces.as_ref() == Some(&old.id)).unwrap();
    assert_eq!((new.node_id.as_str(), new.desired_state), ("n1", TaskState::Ready));
    world.report(&old, TaskState::Shutdown);
    world.work();
    assert_eq!(nodes_used(&world, &id), BTreeMap::from([("n1".to_owned(), 2)]));
}

#[test]
fn tasks_of_a_node_that_is_down_run_elsewhere_at_once() {
    let mut world = World::with_nodes(2);
    let id = world.create(spec("web", 2));
    world.work();
    world.node_state("n2", NodeState::Down);
    world.work();
    assert_eq!(nodes_used(&world, &id), BTreeMap::from([("n1".to_owned(), 2)]));
    let lost = world.tasks(&id).into_iter().find(|task| task.node_id.as_str() == "n2").unwrap();
    assert_eq!((lost.status.state, lost.desired_state), (TaskState::Running, TaskState::Shutdown));
    world.pass(24 * 3600);
    world.work();
    assert_eq!(world.store.task(lost.id.as_str()).unwrap().status.state, TaskState::Orphaned);
}

#[test]
fn a_global_service_has_one_task_per_matching_node() {
    let mut world = World::with_nodes(3);
    let mut agent = spec("agent", 0);
    agent.mode = ServiceMode::Global;
    agent.task.placement.constraints.push("node.id != n2".into());
    let id = world.create(agent);
    world.work();
    assert_eq!(nodes_used(&world, &id).into_keys().collect::<Vec<_>>(), ["n1", "n3"]);
    world.availability("n3", Availability::Drain);
    world.work();
    assert_eq!(nodes_used(&world, &id).into_keys().collect::<Vec<_>>(), ["n1"]);
    world.availability("n3", Availability::Active);
    world.work();
    assert_eq!(nodes_used(&world, &id).into_keys().collect::<Vec<_>>(), ["n1", "n3"]);
}

#[test]
fn pending_tasks_say_why() {
    let mut world = World::with_nodes(2);
    let mut huge = spec("huge", 1);
    huge.task.resources.reserve_memory_bytes = 1 << 40;
    let id = world.create(huge);
    world.settle();
    assert_eq!(world.tasks(&id)[0].status.err, "no suitable node (insufficient resources on 2 nodes)");
    world.availability("n2", Availability::Drain);
    world.settle();
    let expect = "no suitable node (1 node not available for new tasks; insufficient resources on 1 node)";
    assert_eq!(world.tasks(&id)[0].status.err, expect);
}

#[test]
fn host_ports_and_replica_limits_spread_tasks() {
    let mut world = World::with_nodes(2);
    let mut web = spec("web", 3);
    web.endpoint.ports.push(port(80, PublishMode::Host));
    let id = world.create(web);
    world.work();
    assert_eq!(world.running(&id).len(), 2);
    assert_eq!(world.tasks(&id)[2].status.err, "no suitable node (host-mode port already in use on 2 nodes)");
}

#[test]
fn preferences_even_out_the_zones() {
    let mut world = World::with_nodes(3);
    for (node, zone) in [("n1", "a"), ("n2", "a"), ("n3", "b")] {
        let present = world.store.node(node).unwrap().clone();
        let mut spec = present.spec.clone();
        spec.labels.insert("zone".into(), zone.into());
        let writes = crate::edit::update_node(&world.store, &present.id, present.meta.version, spec).unwrap();
        world.apply(writes).unwrap();
    }
    let mut web = spec("web", 4);
    web.task.placement.spread.push("node.labels.zone".into());
    let id = world.create(web);
    world.work();
    assert_eq!(nodes_used(&world, &id)["n3"], 2);
}

#[test]
fn stop_first_updates_a_few_slots_at_a_time() {
    let mut world = World::with_nodes(2);
    let mut web = spec("web", 4);
    web.update = Some(UpdateConfig { parallelism: 2, delay: Duration::from_secs(10), ..UpdateConfig::default() });
    let id = world.create(web);
    world.work();
    world.update(&id, |spec| spec.task.container.image = "busybox:2".into());
    world.work();
    let new = |world: &World| world.running(&id).iter().filter(|t| t.spec.container.image == "busybox:2").count();
    assert_eq!(new(&world), 2);
    assert_eq!(status(&world, &id), (UpdateState::Updating, "update in progress".into()));
    world.pass(10);
    world.work();
    assert_eq!(new(&world), 4);
    world.pass(10);
    world.work();
    assert_eq!(status(&world, &id), (UpdateState::Completed, "update completed".into()));
}

#[test]
fn start_first_keeps_the_old_task_until_the_new_one_runs() {
    let mut world = World::with_nodes(1);
    let mut web = spec("web", 1);
    web.update = Some(UpdateConfig { order: UpdateOrder::StartFirst, ..UpdateConfig::default() });
    let id = world.create(web);
    world.work();
    let old = world.running(&id)[0].clone();
    world.update(&id, |spec| spec.task.force_update = 1);
    world.settle();
    let tasks = world.tasks(&id);
    assert!(tasks.len() == 2 && tasks.iter().all(|task| task.desired_state == TaskState::Running));
    world.work();
    let running = world.running(&id);
    assert!(running.len() == 1 && running[0].id != old.id);
}

#[test]
fn a_failing_update_pauses_or_rolls_back() {
    for action in [FailureAction::Pause, FailureAction::Rollback] {
        let mut world = World::with_nodes(1);
        let mut web = spec("web", 2);
        web.update = Some(UpdateConfig { failure_action: action, ..UpdateConfig::default() });
        let id = world.create(web);
        world.work();
        world.update(&id, |spec| spec.task.container.image = "bad".into());
        world.settle();
        let new = world.tasks(&id).into_iter().find(|t| t.spec.container.image == "bad").unwrap();
        world.report(&new, TaskState::Rejected);
        world.settle();
        let cause = format!("due to failure or early termination of task {}", new.id);
        if action == FailureAction::Pause {
            assert_eq!(status(&world, &id), (UpdateState::Paused, format!("update paused {cause}")));
            continue;
        }
        assert_eq!(status(&world, &id), (UpdateState::RollbackStarted, format!("update rolled back {cause}")));
        for _ in 0..4 {
            world.pass(6);
            world.work();
        }
        assert_eq!(status(&world, &id), (UpdateState::RollbackCompleted, "rollback completed".into()));
        assert_eq!(world.running(&id).iter().filter(|t| t.spec.container.image == "busybox").count(), 2);
    }
}

#[test]
fn a_removed_service_frees_its_port_when_its_tasks_are_down() {
    let mut world = World::with_nodes(1);
    let mut web = spec("web", 1);
    web.endpoint.ports.push(port(8080, PublishMode::Ingress));
    let old = world.create(web.clone());
    world.work();
    world.remove(&old);
    let new = world.create(web);
    world.settle();
    assert_eq!(world.tasks(&new)[0].status.err, format!("port 8080 is still used by service {old}"));
    world.work();
    assert!(world.store.service(old.as_str()).is_none());
    assert_eq!(world.running(&new).len(), 1);
}

#[test]
fn a_changed_task_that_has_no_node_is_left_in_peace() {
    let mut world = World::with_nodes(1);
    let mut huge = spec("huge", 2);
    huge.task.resources.reserve_memory_bytes = 1 << 40;
    let id = world.create(huge);
    world.settle();
    let key = |task: &std::sync::Arc<skep_model::task::Task>| {
        crate::command::Key::new(crate::command::Kind::Task, task.id.as_str())
    };
    let dirty = world.tasks(&id).iter().map(key).collect();
    assert_eq!(super::plan(&world.store, &dirty, world.now, &mut world.ids).writes, []);
}

fn small_network(world: &mut World) -> skep_model::id::NetworkId {
    let ipam = IpamConfig {
        subnet: Some("10.9.0.0/29".parse().unwrap()),
        ip_range: None,
        gateway: None,
        aux_addresses: BTreeMap::new(),
    };
    let spec = NetworkSpec { name: "small".into(), ipam: vec![ipam], ..NetworkSpec::default() };
    let (id, writes) = crate::edit::create_network(&world.store, spec, world.now, &mut world.ids).unwrap();
    world.apply(writes).unwrap();
    id
}

#[test]
fn an_exhausted_network_makes_tasks_wait_with_the_reason() {
    let mut world = World::with_nodes(1);
    let network = small_network(&mut world);
    let mut web = spec("web", 5);
    web.task.networks.push(NetworkAttachmentConfig { target: "small".into(), ..Default::default() });
    let id = world.create(web);
    world.settle();
    // Six hosts: the gateway, the VIP and four tasks; then none is left for the balancer.
    let waiting: Vec<_> = world.tasks(&id).into_iter().filter(|t| t.status.state == TaskState::New).collect();
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].status.err, "network small has no free address (6 of 6)");
    world.update(&id, |spec| spec.mode = ServiceMode::Replicated { replicas: 2 });
    world.work();
    let used: BTreeSet<_> = world.store.addresses(network.as_str()).unwrap().keys().copied().collect();
    assert_eq!(used.len(), 4, "VIP, two tasks, one balancer");
    assert!(!used.contains(&"10.9.0.1".parse().unwrap()), "the gateway is nobody's");
}

#[test]
fn an_exhausted_ipv6_subnet_is_named_and_the_pools_are_the_swarms_own() {
    let mut world = World::with_nodes(1);
    let ipam = |subnet: &str| IpamConfig {
        subnet: subnet.parse().ok(),
        ip_range: None,
        gateway: None,
        aux_addresses: BTreeMap::new(),
    };
    let create = |world: &mut World, name: &str, ipam: Vec<IpamConfig>| {
        let spec = NetworkSpec { name: name.into(), enable_ipv6: true, ipam, ..NetworkSpec::default() };
        let (id, writes) = crate::edit::create_network(&world.store, spec, world.now, &mut world.ids).unwrap();
        world.apply(writes).unwrap();
        id
    };
    create(&mut world, "small", vec![ipam("fd00:7::/125")]);
    let [one, two] = ["one", "two"].map(|name| create(&mut world, name, Vec::new()));
    let mut web = spec("web", 7);
    web.task.networks.push(NetworkAttachmentConfig { target: "small".into(), ..Default::default() });
    let id = world.create(web);
    world.settle();
    // Seven hosts: the gateway, the VIP and five tasks.
    let waiting: Vec<_> = world.tasks(&id).into_iter().filter(|t| t.status.state == TaskState::New).collect();
    assert_eq!(waiting.len(), 2);
    assert_eq!(waiting[0].status.err, "network small has no free IPv6 address in fd00:7::/125 (7 of 7)");
    let subnet =
        |id: &skep_model::id::NetworkId| world.store.network(id.as_str()).unwrap().spec.ipam[1].subnet.unwrap();
    let (one, two) = (subnet(&one), subnet(&two));
    assert_eq!((one.prefix_len(), two.prefix_len()), (64, 64));
    assert!(one != two && one.supernet().unwrap() == two.supernet().unwrap(), "{one} {two}");
}

#[test]
fn a_task_waits_at_most_a_minute_for_the_one_it_replaces() {
    let mut world = World::with_nodes(2);
    let id = world.create(spec("web", 1));
    world.work();
    let old = world.running(&id)[0].clone();
    world.availability(old.node_id.as_str(), Availability::Drain);
    world.settle();
    let new = world.tasks(&id).into_iter().find(|task| task.id != old.id).unwrap();
    world.pass(59);
    world.settle();
    assert_eq!(world.store.task(new.id.as_str()).unwrap().desired_state, TaskState::Ready);
    world.pass(1);
    world.settle();
    assert_eq!(world.store.task(new.id.as_str()).unwrap().desired_state, TaskState::Running);
}
