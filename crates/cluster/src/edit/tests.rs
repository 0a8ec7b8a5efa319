use super::*;
use crate::testing::{World, spec};
use skep_model::ErrorKind;
use skep_model::network::{NetworkSpec, Protocol};
use skep_model::secret::SecretSpec;
use skep_model::service::{
    EndpointMode, FileTarget, NetworkAttachmentConfig, PortConfig, PublishMode, SecretReference, ServiceSpec,
};
use skep_model::task::{TaskState, TaskStatus};

fn port(published_port: u16) -> PortConfig {
    PortConfig { protocol: Protocol::Tcp, target_port: 80, published_port, ..PortConfig::default() }
}

fn refused(world: &mut World, change: impl FnOnce(&mut ServiceSpec), kind: ErrorKind, text: &str) {
    let mut spec = spec("other", 1);
    change(&mut spec);
    let error = world.try_create(spec).expect_err(text);
    assert_eq!((error.kind, error.message.as_str()), (kind, text));
}

#[test]
fn bad_services_are_refused_in_the_references_words() {
    let mut world = World::with_nodes(1);
    let mut web = spec("web", 1);
    web.endpoint.ports.push(port(8080));
    let id = world.create(web);
    let invalid = ErrorKind::InvalidArgument;
    let check = &mut |change: fn(&mut ServiceSpec), kind, text: &str| refused(&mut world, change, kind, text);
    check(
        |spec| spec.name = "web".into(),
        ErrorKind::Conflict,
        "rpc error: code = AlreadyExists desc = name conflicts with an existing object: service web already exists",
    );
    let taken = format!(
        "rpc error: code = InvalidArgument desc = port '8080' is already in use by service 'web' ({id}) as an ingress port"
    );
    check(|spec| spec.endpoint.ports.push(port(8080)), invalid, &taken);
    check(
        |spec| spec.endpoint.ports.extend([port(1), port(1)]),
        invalid,
        "rpc error: code = InvalidArgument desc = EndpointSpec: duplicate published ports provided",
    );
    check(
        |spec| {
            spec.endpoint.mode = EndpointMode::DnsRr;
            spec.endpoint.ports.push(port(1));
        },
        invalid,
        "rpc error: code = InvalidArgument desc = EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
    );
    check(
        |spec| spec.task.container.image.clear(),
        invalid,
        "rpc error: code = InvalidArgument desc = ContainerSpec: image reference must be provided",
    );
    check(
        |spec| spec.task.resources.limit_memory_bytes = 1,
        invalid,
        "rpc error: code = InvalidArgument desc = invalid memory value 1: Must be at least 4MiB",
    );
    check(
        |spec| spec.task.placement.constraints.push("node.role".into()),
        invalid,
        "rpc error: code = InvalidArgument desc = constraint expected one operator from ==, !=",
    );
    let network = |target: &str| NetworkAttachmentConfig { target: target.into(), ..Default::default() };
    check(
        |spec| spec.task.networks.push(NetworkAttachmentConfig { target: "x".into(), ..Default::default() }),
        ErrorKind::NotFound,
        "network x not found",
    );
    refused(
        &mut world,
        |spec| spec.task.networks.push(network("ingress")),
        invalid,
        "rpc error: code = InvalidArgument desc = Service cannot be explicitly attached to the ingress network \"ingress\"",
    );
}

#[test]
fn a_change_must_be_made_from_the_present_version() {
    let mut world = World::with_nodes(1);
    let id = world.create(spec("web", 1));
    let version = world.store.service(id.as_str()).unwrap().meta.version;
    let error = update_service(&world.store, &id, version + 1, spec("web", 1), false, world.now).unwrap_err();
    assert_eq!(error.message, "rpc error: code = Unknown desc = update out of sequence");
    let error = update_service(&world.store, &id, version, spec("web", 1), true, world.now).unwrap_err();
    assert!(error.message.ends_with("does not have a previous spec"));
    let error = update_service(&world.store, &id, version, spec("new", 1), false, world.now).unwrap_err();
    assert!(error.message.ends_with("renaming services is not supported"));
}

#[test]
fn rolling_back_twice_returns_to_the_start() {
    let mut world = World::with_nodes(1);
    let id = world.create(spec("web", 1));
    world.update(&id, |spec| spec.labels.insert("a".into(), "b".into()).map_or((), drop));
    for labels in [0, 1] {
        let version = world.store.service(id.as_str()).unwrap().meta.version;
        let writes = update_service(&world.store, &id, version, spec("web", 1), true, world.now).unwrap();
        world.apply(writes).unwrap();
        assert_eq!(world.store.service(id.as_str()).unwrap().spec.labels.len(), labels);
    }
}

#[test]
fn secrets_in_use_stay() {
    let mut world = World::with_nodes(1);
    let pass = SecretSpec { name: "pass".into(), data: b"x".to_vec(), ..SecretSpec::default() };
    let (id, writes) = create_secret(&world.store, pass.clone(), &mut world.ids).unwrap();
    world.apply(writes).unwrap();
    let error = create_secret(&world.store, pass, &mut world.ids).unwrap_err();
    assert_eq!(error.message, "rpc error: code = AlreadyExists desc = secret pass already exists");
    let mut db = spec("db", 1);
    let file = FileTarget { name: "pass".into(), ..FileTarget::default() };
    db.task.container.secrets.push(SecretReference { secret_id: id.clone(), secret_name: "pass".into(), file });
    let service = world.create(db);
    let error = remove_secret(&world.store, &id).unwrap_err();
    let text = "rpc error: code = InvalidArgument desc = secret 'pass' is in use by the following service: db";
    assert_eq!(error.message, text);
    world.work();
    let node = world.running(&service)[0].node_id.clone();
    assert_eq!(crate::assign::assignments(&world.store, &node).secrets.len(), 1);
    world.remove(&service);
    remove_secret(&world.store, &id).unwrap();
}

#[test]
fn networks_in_use_stay_and_names_are_free_at_once() {
    let mut world = World::with_nodes(1);
    let net = NetworkSpec { name: "net".into(), ..NetworkSpec::default() };
    let (id, writes) = create_network(&world.store, net.clone(), world.now, &mut world.ids).unwrap();
    world.apply(writes).unwrap();
    let error = create_network(&world.store, net.clone(), world.now, &mut world.ids).unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Conflict, "network with name net already exists"));
    let mut web = spec("web", 1);
    web.task.networks.push(NetworkAttachmentConfig { target: "net".into(), ..Default::default() });
    let service = world.create(web);
    world.work();
    let error = remove_network(&world.store, &id).unwrap_err();
    let text = format!("rpc error: code = FailedPrecondition desc = network {id} is in use by service {service}");
    assert_eq!(error.message, text);
    world.remove(&service);
    // At once, as `stack rm` asks.
    let writes = remove_network(&world.store, &id).unwrap();
    world.apply(writes).unwrap();
    assert!(world.store.network(id.as_str()).unwrap().pending_delete, "a task still has an address on it");
    create_network(&world.store, net, world.now, &mut world.ids).unwrap();
    world.work();
    assert!(world.store.network(id.as_str()).is_none());
}

#[test]
fn nodes_report_their_own_tasks_forward_only() {
    let mut world = World::with_nodes(2);
    let id = world.create(spec("web", 1));
    world.work();
    let task = world.running(&id)[0].clone();
    let other = if task.node_id.as_str() == "n1" { "n2" } else { "n1" };
    let report = |state| [(task.id.0.clone(), TaskStatus { state, ..TaskStatus::default() })];
    assert_eq!(task_status(&world.store, &task.node_id, &report(TaskState::Ready)).unwrap(), []);
    assert_eq!(task_status(&world.store, &task.node_id, &report(TaskState::Failed)).unwrap().len(), 1);
    let error = task_status(&world.store, &other.into(), &report(TaskState::Failed)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Forbidden);
}

#[test]
fn the_last_manager_and_live_nodes_stay() {
    let world = World::with_nodes(2);
    let manager = world.store.node("n1").unwrap();
    let mut demoted = manager.spec.clone();
    demoted.role = skep_model::node::Role::Worker;
    let error = update_node(&world.store, &manager.id, manager.meta.version, demoted).unwrap_err();
    assert!(error.message.ends_with("attempting to demote the last manager of the swarm"));
    let error = remove_node(&world.store, &"n2".into(), false).unwrap_err();
    assert_eq!(error.message, "rpc error: code = FailedPrecondition desc = node n2 is not down and can't be removed");
    assert!(remove_node(&world.store, &"n2".into(), true).is_ok());
    assert!(remove_node(&world.store, &"n1".into(), true).is_err());
    assert_eq!(PublishMode::default(), PublishMode::Ingress);
}

#[test]
fn new_content_restarts_its_users_in_one_command() {
    let mut world = World::with_nodes(1);
    let pass = SecretSpec { name: "pass".into(), data: b"old".to_vec(), ..SecretSpec::default() };
    let (id, writes) = create_secret(&world.store, pass.clone(), &mut world.ids).unwrap();
    world.apply(writes).unwrap();
    let file = FileTarget { name: "pass".into(), ..FileTarget::default() };
    let reference = SecretReference { secret_id: id.clone(), secret_name: "pass".into(), file };
    let mut db = spec("db", 1);
    db.task.container.secrets.push(reference.clone());
    let service = world.create(db);
    let other = world.create(spec("other", 1));
    world.work();
    let before = (world.running(&service)[0].id.clone(), world.running(&other)[0].id.clone());
    let version = |world: &World| world.store.secret(id.as_str()).unwrap().meta.version;
    let labelled = SecretSpec { labels: [("a".to_owned(), "b".to_owned())].into(), data: Vec::new(), ..pass.clone() };
    let writes = update_secret(&world.store, &id, version(&world), labelled).unwrap();
    assert_eq!(writes.len(), 1, "labels alone restart nothing");
    world.apply(writes).unwrap();
    let renewed = SecretSpec { data: b"new".to_vec(), ..pass.clone() };
    let error = update_secret(&world.store, &id, version(&world) + 1, renewed.clone()).unwrap_err();
    assert_eq!(error.message, "rpc error: code = Unknown desc = update out of sequence");
    let writes = update_secret(&world.store, &id, version(&world), renewed).unwrap();
    assert_eq!(writes.len(), 2);
    world.apply(writes).unwrap();
    world.work();
    assert_eq!(world.store.secret(id.as_str()).unwrap().spec.data, b"new");
    assert_ne!(world.running(&service)[0].id, before.0);
    assert_eq!(world.running(&other)[0].id, before.1);
    let renamed = SecretSpec { name: "other".into(), ..pass.clone() };
    let error = update_secret(&world.store, &id, version(&world), renamed).unwrap_err();
    assert_eq!(error.message, "rpc error: code = InvalidArgument desc = only updates to Labels are allowed");
    let large = SecretSpec { data: vec![0; 512_001], ..pass };
    let error = update_secret(&world.store, &id, version(&world), large).unwrap_err();
    assert!(error.message.ends_with("secret data must be larger than 0 and less than 512000 bytes"), "{error}");
}

#[test]
fn values_out_of_range_are_refused_in_the_references_words() {
    let mut world = World::with_nodes(1);
    let mut check = |change: &dyn Fn(&mut ServiceSpec), text: &str| {
        let text = format!("rpc error: code = InvalidArgument desc = {text}");
        refused(&mut world, change, ErrorKind::InvalidArgument, &text);
    };
    use skep_model::service::{ServiceMode, UpdateConfig};
    let count = u64::MAX;
    check(&|spec| spec.mode = ServiceMode::Replicated { replicas: count }, "Number of replicas must be non-negative");
    let job = |max_concurrent, total_completions| ServiceMode::ReplicatedJob { max_concurrent, total_completions };
    check(&|spec| spec.mode = job(1, count), "Total completed jobs must not be negative");
    check(
        &|spec| spec.task.resources.limit_nano_cpus = 999_999,
        "invalid cpu value 0.000999999: Must be at least 0.001",
    );
    check(&|spec| spec.task.resources.reserve_nano_cpus = -1, "invalid cpu value -0.000000001: Must be at least 0.001");
    check(
        &|spec| spec.task.container.image = "Not A Reference".into(),
        "ContainerSpec: \"Not A Reference\" is not a valid repository/tag",
    );
    check(&|spec| spec.task.container.secrets.push(SecretReference::default()), "malformed secret reference");
    let nameless = || SecretReference { secret_id: "s".into(), secret_name: "s".into(), ..Default::default() };
    check(
        &|spec| spec.task.container.secrets.push(nameless()),
        "malformed file secret reference, invalid target file name provided",
    );
    let at = |name: &str| SecretReference {
        secret_name: name.into(),
        file: FileTarget { name: "x".into(), ..Default::default() },
        ..nameless()
    };
    check(
        &|spec| spec.task.container.secrets.extend([at("a"), at("b")]),
        "secret references 'a' and 'b' have a conflicting target: 'x'",
    );
    check(&|spec| spec.task.container.secrets.push(at("a")), "secret not found: a");
    let ratio = |max_failure_ratio| Some(UpdateConfig { max_failure_ratio, ..Default::default() });
    for bad in [-0.1, 1.1, f32::NAN] {
        check(
            &|spec| spec.update = ratio(bad),
            "TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1",
        );
    }
}
