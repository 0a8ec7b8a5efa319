use super::*;
use crate::testing::{World, spec};
use skep_model::id::ServiceId;

fn running_world() -> (World, ServiceId) {
    let mut world = World::with_nodes(3);
    let id = world.create(spec("web", 3));
    world.work();
    (world, id)
}

fn put_task(world: &mut World, change: impl FnOnce(&mut Task)) -> Result<Applied, Rejection> {
    let mut task = (**world.store.tasks().next().unwrap()).clone();
    change(&mut task);
    world.apply(vec![Write::put(Object::Task(Box::new(task)))])
}

fn refused(result: Result<Applied, Rejection>, text: &str) {
    let error = result.expect_err(text).to_string();
    assert!(error.contains(text), "{error}");
}

#[test]
fn snapshots_restore_the_same_store() {
    let (world, _) = running_world();
    let copy = Store::from_bytes(&world.store.to_bytes()).unwrap();
    assert_eq!(copy, world.store);
    assert_eq!(copy.hash(), world.store.hash());
    assert!(Store::from_bytes(b"nonsense").is_err());
}

#[test]
fn a_repeated_command_is_answered_and_not_repeated() {
    let (mut world, id) = running_world();
    let service = world.store.service(id.as_str()).unwrap().clone();
    let write = Write::put(Object::Service(Box::new((*service).clone())));
    let command = Command { id: "x".into(), at: world.now, writes: vec![write], independent: false };
    let index = world.store.index();
    assert_eq!(world.store.apply(index + 1, &command).unwrap().changed.len(), 1);
    let before = world.store.service(id.as_str()).unwrap().meta.version;
    assert!(world.store.apply(index + 2, &command).unwrap().duplicate);
    assert_eq!(world.store.service(id.as_str()).unwrap().meta.version, before);
    let stale = Command { id: "y".into(), ..command };
    let refused = world.store.apply(index + 3, &stale).unwrap_err();
    assert_eq!(refused.to_string(), "update out of sequence");
    assert_eq!(world.store.apply(index + 4, &stale), Err(refused));
}

#[test]
fn a_dependent_command_changes_all_or_nothing() {
    let (mut world, id) = running_world();
    let mut service = (**world.store.service(id.as_str()).unwrap()).clone();
    service.spec.labels.insert("a".into(), "b".into());
    let good = Write::put(Object::Service(Box::new(service)));
    let bad = Write::Remove { key: Key::new(Kind::Node, "nobody"), expected: 1 };
    let before = world.store.clone();
    assert!(world.apply(vec![good.clone(), bad.clone()]).is_err());
    assert_eq!(world.store.service(id.as_str()), before.service(id.as_str()));
    let command = Command { id: "i".into(), at: world.now, writes: vec![bad, good], independent: true };
    let applied = world.store.apply(world.store.index() + 1, &command).unwrap();
    assert_eq!((applied.changed.len(), applied.dropped.len()), (1, 1));
}

#[test]
fn a_task_never_goes_back_or_becomes_another() {
    let (mut world, _) = running_world();
    refused(put_task(&mut world, |task| task.node_id = "n9".into()), "must not change its node");
    refused(put_task(&mut world, |task| Arc::make_mut(&mut task.spec).force_update = 7), "must not change its spec");
    refused(put_task(&mut world, |task| task.status.state = TaskState::Ready), "go back in state");
    refused(put_task(&mut world, |task| task.desired_state = TaskState::Ready), "go back in desired state");
}

#[test]
fn a_task_that_may_run_cannot_be_forgotten() {
    let (mut world, _) = running_world();
    let task = world.store.tasks().next().unwrap().clone();
    let key = Key::new(Kind::Task, task.id.as_str());
    let write = Write::Remove { key, expected: task.meta.version };
    refused(world.apply(vec![write]), "may still run");
}

#[test]
fn an_address_has_one_holder_until_it_is_down() {
    let (mut world, _) = running_world();
    let mesh = world.store.ingress_network().unwrap().id.clone();
    let taken = world.store.node("n1").unwrap().attachments[&mesh];
    let leg = skep_model::task::TaskAttachment { network: mesh, addresses: vec![taken], ..Default::default() };
    refused(put_task(&mut world, |task| task.attachments.push(leg)), "is held by node n1");
}

#[test]
fn names_ports_and_identifiers_are_unique() {
    let (mut world, id) = running_world();
    let mut twin = (**world.store.service(id.as_str()).unwrap()).clone();
    twin.id = "twin".into();
    let write = Write::Put { object: Object::Service(Box::new(twin)), expected: 0 };
    refused(world.apply(vec![write]), "service web already exists");
    let mut mesh = (**world.store.ingress_network().unwrap()).clone();
    (mesh.id, mesh.spec.name) = ("other".into(), "other".into());
    refused(world.apply(vec![Write::Put { object: Object::Network(mesh), expected: 0 }]), "VNI 4096 is taken");
}

#[test]
fn indices_follow_every_change() {
    let (mut world, id) = running_world();
    assert_eq!(world.store.tasks_of_service(id.as_str()).count(), 3);
    assert_eq!(world.store.tasks_of_node("n1").count(), 1);
    assert!(world.store.service_by_name("web").is_some());
    world.remove(&id);
    assert!(world.store.service_by_name("web").is_none(), "the name is free while tasks stop");
    world.work();
    assert_eq!(world.store.task_count(), 0);
    assert_eq!(world.store.tasks_of_node("n1").count(), 0);
    assert_eq!(world.store, Store::from_bytes(&world.store.to_bytes()).unwrap(), "no stale index is left");
}
