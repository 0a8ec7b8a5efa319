//! Where tasks go, and what they say when they cannot go anywhere.

use crate::testing::{World, spec};
use skep_model::container::{Mount, MountKind};
use skep_model::id::ServiceId;
use skep_model::node::{Availability, NodeDescription, NodeState, Platform};
use skep_model::service::{NetworkAttachmentConfig, ServiceMode, ServiceSpec, UpdateConfig, UpdateOrder};
use skep_model::task::{AssignedResource, TaskState};
use std::collections::{BTreeMap, BTreeSet};

fn nodes_used(world: &World, service: &ServiceId) -> BTreeMap<String, usize> {
    let mut used = BTreeMap::new();
    for task in world.tasks(service).iter().filter(|task| task.is_wanted()) {
        *used.entry(task.node_id.0.clone()).or_default() += 1;
    }
    used
}

fn describe(world: &mut World, node: &str, change: impl FnOnce(&mut NodeDescription)) {
    let mut description = world.store.node(node).unwrap().description.clone();
    change(&mut description);
    let writes = crate::edit::node_ready(&world.store, &node.into(), description, "192.0.2.1", "192.0.2.1").unwrap();
    world.apply(writes).unwrap();
}

fn label(world: &mut World, node: &str, labels: &[(&str, &str)]) {
    let present = world.store.node(node).unwrap().clone();
    let mut spec = present.spec.clone();
    spec.labels.extend(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    let writes = crate::edit::update_node(&world.store, &present.id, present.meta.version, spec).unwrap();
    world.apply(writes).unwrap();
}

/// Why the first task of a service has no node.
fn why(world: &mut World, spec: ServiceSpec) -> String {
    let id = world.create(spec);
    world.settle();
    world.tasks(&id)[0].status.err.clone()
}

#[test]
fn preferences_are_met_level_by_level() {
    let mut world = World::with_nodes(5);
    for (node, zone, rack) in [("n1", "a", "1"), ("n2", "a", "1"), ("n3", "a", "2"), ("n4", "b", "1"), ("n5", "b", "1")]
    {
        label(&mut world, node, &[("zone", zone), ("rack", rack)]);
    }
    let mut web = spec("web", 8);
    web.task.placement.spread = vec!["node.labels.zone".into(), "node.labels.rack".into()];
    let id = world.create(web);
    world.work();
    let used = nodes_used(&world, &id);
    assert_eq!(used["n4"] + used["n5"], 4, "both zones get the same");
    assert_eq!((used["n3"], used["n1"] + used["n2"]), (2, 2), "within a zone both racks do");
    assert_eq!((used["n1"], used["n4"]), (1, 2), "within a rack the nodes do");
}

#[test]
fn a_full_branch_gives_its_share_to_the_others() {
    let mut world = World::with_nodes(3);
    label(&mut world, "n1", &[("zone", "a")]);
    label(&mut world, "n2", &[("zone", "b")]);
    let mut web = spec("web", 6);
    web.task.placement.spread = vec!["node.labels.zone".into()];
    web.task.placement.max_replicas_per_node = 3;
    world.availability("n3", Availability::Drain);
    let id = world.create(web);
    world.work();
    assert_eq!(nodes_used(&world, &id), BTreeMap::from([("n1".to_owned(), 3), ("n2".to_owned(), 3)]));
    world.update(&id, |spec| spec.mode = ServiceMode::Replicated { replicas: 7 });
    world.work();
    let waiting = world.tasks(&id).into_iter().find(|task| task.status.state == TaskState::Pending).unwrap();
    let expect = "no suitable node (max replicas per node limit exceed; 1 node not available for new tasks)";
    assert_eq!(waiting.status.err, expect);
}

#[test]
fn single_replicas_do_not_all_go_to_the_first_zone() {
    let mut world = World::with_nodes(2);
    label(&mut world, "n1", &[("zone", "a")]);
    label(&mut world, "n2", &[("zone", "b")]);
    let mut used = BTreeSet::new();
    for name in ["one", "two"] {
        let mut single = spec(name, 1);
        single.task.placement.spread = vec!["node.labels.zone".into()];
        let id = world.create(single);
        world.work();
        used.extend(nodes_used(&world, &id).into_keys());
    }
    assert_eq!(used.len(), 2);
}

#[test]
fn counted_and_named_resources_are_given_out_once() {
    let mut world = World::with_nodes(3);
    describe(&mut world, "n1", |node| {
        node.generic_resources.insert("ssd".into(), 3);
    });
    describe(&mut world, "n2", |node| {
        node.named_resources.insert("gpu".into(), ["u1", "u2", "u3"].map(str::to_owned).into());
    });
    let mut disks = spec("disks", 2);
    disks.task.resources.reserve_generic.insert("ssd".into(), 2);
    let disks = world.create(disks);
    let mut cards = spec("cards", 4);
    cards.task.resources.reserve_generic.insert("gpu".into(), 1);
    let cards = world.create(cards);
    world.work();
    let disk = &world.running(&disks)[0];
    assert_eq!((disk.node_id.as_str(), &disk.resources["ssd"]), ("n1", &AssignedResource::Count(2)));
    assert_eq!(world.running(&disks).len(), 1, "one of three is left");
    let given: BTreeSet<String> = world.running(&cards).iter().flat_map(|task| names(task)).collect();
    assert_eq!(given.into_iter().collect::<Vec<_>>(), ["u1", "u2", "u3"]);
    let waiting = world.tasks(&cards).into_iter().find(|task| task.status.state == TaskState::Pending).unwrap();
    assert_eq!(waiting.status.err, "no suitable node (insufficient resources on 3 nodes)");
    let freed = world.running(&cards)[1].clone();
    world.report(&freed, TaskState::Failed);
    world.work();
    world.pass(5);
    world.work();
    let holders: Vec<String> = world.running(&cards).iter().flat_map(|task| names(task)).collect();
    assert_eq!((holders.len(), BTreeSet::from_iter(holders).len()), (3, 3), "a name is free again when its task ended");
    describe(&mut world, "n2", |node| {
        node.named_resources.get_mut("gpu").unwrap().remove("u1");
    });
    world.work();
    assert_eq!(world.running(&cards).len(), 2, "what the node lost takes its task along");
}

fn names(task: &skep_model::task::Task) -> Vec<String> {
    match &task.resources["gpu"] {
        AssignedResource::Named(names) => names.iter().cloned().collect(),
        AssignedResource::Count(count) => panic!("{count} without names"),
    }
}

#[test]
fn drivers_and_platforms_are_looked_for() {
    let mut world = World::with_nodes(2);
    let plugin = |kind: &str, name: &str| (kind.to_owned(), name.to_owned());
    describe(&mut world, "n1", |node| {
        node.plugins = vec![plugin("Volume", "local"), plugin("Log", "json-file"), plugin("Network", "bridge")];
    });
    describe(&mut world, "n2", |node| {
        node.plugins = vec![plugin("Volume", "local"), plugin("Volume", "nfs"), plugin("Network", "overlay")];
    });
    let mut volumes = spec("volumes", 1);
    let mount = Mount { kind: MountKind::Volume, target: "/x".into(), volume_driver: "nfs".into(), ..Mount::default() };
    volumes.task.container.mounts.push(mount);
    let id = world.create(volumes.clone());
    world.work();
    assert_eq!(world.running(&id)[0].node_id.as_str(), "n2");
    volumes.name = "missing".into();
    volumes.task.container.mounts[0].volume_driver = "cephfs".into();
    assert_eq!(why(&mut world, volumes), "no suitable node (missing plugin on 2 nodes)");
    let mut logs = spec("logs", 1);
    logs.task.log_driver = Some(("syslog".into(), BTreeMap::new()));
    let id = world.create(logs);
    world.work();
    assert_eq!(world.running(&id)[0].node_id.as_str(), "n2", "a node that lists no log drivers may have it");
    let net = skep_model::network::NetworkSpec { name: "net".into(), ..Default::default() };
    let (_, writes) = crate::edit::create_network(&world.store, net, world.now, &mut world.ids).unwrap();
    world.apply(writes).unwrap();
    let mut attached = spec("attached", 1);
    attached.task.networks.push(NetworkAttachmentConfig { target: "net".into(), ..Default::default() });
    let id = world.create(attached);
    world.work();
    assert_eq!(world.running(&id)[0].node_id.as_str(), "n2");
    let mut arm = spec("arm", 1);
    arm.task.placement.platforms.push(Platform { architecture: "aarch64".into(), os: "linux".into() });
    assert_eq!(why(&mut world, arm), "no suitable node (unsupported platform on 2 nodes)");
}

#[test]
fn reasons_are_listed_by_how_many_nodes_they_keep_out() {
    let mut world = World::with_nodes(3);
    label(&mut world, "n1", &[("disk", "ssd")]);
    let mut web = spec("web", 1);
    web.task.placement.constraints.push("node.labels.disk == ssd".into());
    web.task.resources.reserve_memory_bytes = 1 << 40;
    assert_eq!(why(&mut world, web), "no suitable node (insufficient resources on 3 nodes)");
    describe(&mut world, "n2", |node| node.memory_bytes = 1 << 41);
    describe(&mut world, "n3", |node| node.memory_bytes = 1 << 41);
    let task = world.store.tasks().next().unwrap().clone();
    world.settle();
    let expect = "no suitable node (scheduling constraints not satisfied on 2 nodes; insufficient resources on 1 node)";
    assert_eq!(world.store.task(task.id.as_str()).unwrap().status.err, expect);
}

fn start_first(name: &str, replicas: u64) -> ServiceSpec {
    let mut web = spec(name, replicas);
    web.update = Some(UpdateConfig { order: UpdateOrder::StartFirst, ..UpdateConfig::default() });
    web
}

#[test]
fn a_drain_starts_first_where_the_service_says_so() {
    let mut world = World::with_nodes(2);
    let id = world.create(start_first("web", 2));
    world.work();
    let old = world.running(&id).into_iter().find(|task| task.node_id.as_str() == "n2").unwrap();
    world.availability("n2", Availability::Drain);
    let plan = world.settle();
    assert!(plan.report.iter().any(|line| line.contains("until its successor runs")), "{:?}", plan.report);
    let new = world.tasks(&id).into_iter().find(|task| task.beside.as_ref() == Some(&old.id)).unwrap();
    assert_eq!((new.node_id.as_str(), new.desired_state), ("n1", TaskState::Running));
    assert!(world.store.task(old.id.as_str()).unwrap().is_wanted(), "the old one runs on");
    world.report(&new, TaskState::Failed);
    world.settle();
    let next = world.tasks(&id).into_iter().find(|task| task.beside.is_some() && task.is_wanted()).unwrap();
    assert_eq!(next.desired_state, TaskState::Ready, "another attempt waits for the delay");
    assert!(world.store.task(old.id.as_str()).unwrap().is_wanted());
    world.pass(5);
    world.work();
    assert_eq!(nodes_used(&world, &id), BTreeMap::from([("n1".to_owned(), 2)]));
    assert_eq!(world.running(&id).len(), 2);
}

#[test]
fn a_drained_node_keeps_what_can_go_nowhere_until_it_is_down() {
    let mut world = World::with_nodes(2);
    let mut web = start_first("web", 2);
    web.task.placement.max_replicas_per_node = 1;
    let id = world.create(web);
    world.work();
    world.availability("n2", Availability::Drain);
    world.work();
    assert_eq!(world.running(&id).len(), 2);
    world.node_state("n2", NodeState::Down);
    world.work();
    let running = world.running(&id);
    assert_eq!(running.iter().filter(|task| task.node_id.as_str() == "n1").count(), 1);
    assert!(world.tasks(&id).iter().all(|task| !task.is_wanted() || task.node_id.as_str() != "n2"));
}

#[test]
fn a_paused_node_keeps_its_tasks_and_gets_no_new_ones() {
    let mut world = World::with_nodes(2);
    let id = world.create(spec("web", 2));
    world.work();
    world.availability("n2", Availability::Pause);
    world.work();
    assert_eq!(nodes_used(&world, &id).len(), 2);
    world.update(&id, |spec| spec.mode = ServiceMode::Replicated { replicas: 4 });
    world.work();
    assert_eq!(nodes_used(&world, &id), BTreeMap::from([("n1".to_owned(), 3), ("n2".to_owned(), 1)]));
    let there = world.running(&id).into_iter().find(|task| task.node_id.as_str() == "n2").unwrap();
    world.report(&there, TaskState::Failed);
    world.work();
    world.pass(5);
    world.work();
    assert_eq!(nodes_used(&world, &id), BTreeMap::from([("n1".to_owned(), 4)]), "what ends there runs elsewhere");
}

#[test]
fn tasks_of_a_removed_node_are_given_up_at_once() {
    let mut world = World::with_nodes(2);
    let id = world.create(spec("web", 2));
    world.work();
    world.node_state("n2", NodeState::Down);
    let writes = crate::edit::remove_node(&world.store, &"n2".into(), false).unwrap();
    world.apply(writes).unwrap();
    world.work();
    assert_eq!(world.running(&id).iter().filter(|task| task.node_id.as_str() == "n1").count(), 2);
    let states: Vec<_> = world.store.tasks_of_node("n2").map(|task| task.status.state).collect();
    assert_eq!(states, [TaskState::Orphaned]);
}
