//! Users: they create, scale, update, roll back, drain and remove, ask again when they
//! get no answer, and remember what was promised to them.

use crate::dice::Dice;
use crate::raft::Origin;
use crate::sabotage::Sabotage;
use crate::world::World;
use skep_cluster::store::{Applied, Rejection, Store};
use skep_cluster::{Command, Write, edit, plan};
use skep_model::network::{IpamConfig, NetworkSpec, Protocol};
use skep_model::node::{Availability, NodeSpec, NodeState};
use skep_model::secret::SecretSpec;
use skep_model::service::{
    FailureAction, FileTarget, NetworkAttachmentConfig, PortConfig, PublishMode, RestartCondition, SecretReference,
    Service, ServiceMode, ServiceSpec, UpdateConfig, UpdateOrder,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Chance per tick that a user wants something.
const REQUEST_PER_MILLE: u32 = 120;
const SERVICES_MAX: usize = 6;
const ANSWER_TIMEOUT_MS: u64 = 6_000;
const ATTEMPTS_MAX: u32 = 6;

struct Request {
    command: Command,
    asked_at_ms: u64,
    attempts: u32,
    open: bool,
    /// How often it took effect.
    applied: u32,
}

pub struct Load {
    dice: Dice,
    requests: Vec<Request>,
    /// Commands a user was told are done.
    pub acked: BTreeSet<String>,
    healed: bool,
    names: u64,
}

impl Load {
    pub fn new(seed: u64) -> Self {
        Self { dice: Dice::new(seed, "load"), requests: Vec::new(), acked: BTreeSet::new(), healed: false, names: 0 }
    }

    pub fn heal(&mut self) {
        self.healed = true;
    }

    pub fn tick(&mut self, world: &mut World) {
        let Some(leader) = (0..world.managers.len()).find(|m| world.managers[*m].up && world.managers[*m].leading)
        else {
            return;
        };
        self.ask_again(world, leader);
        if self.healed {
            self.repair(world, leader);
        } else if self.dice.chance(REQUEST_PER_MILLE) {
            self.want(world, leader);
        }
    }

    fn ask_again(&mut self, world: &mut World, leader: usize) {
        for (number, request) in self.requests.iter_mut().enumerate() {
            if !request.open || world.now_ms - request.asked_at_ms < ANSWER_TIMEOUT_MS {
                continue;
            }
            request.asked_at_ms = world.now_ms;
            request.attempts += 1;
            request.open = request.attempts < ATTEMPTS_MAX;
            world.raft.propose(world.now_ms, leader, request.command.clone(), Origin::User(number));
        }
    }

    /// Bad images are replaced by good ones, so that everything can come to rest.
    fn repair(&mut self, world: &mut World, leader: usize) {
        if self.requests.iter().any(|request| request.open) {
            return;
        }
        let store = world.managers[leader].store.clone();
        let bad = |service: &&Arc<Service>| !service.pending_delete && is_bad(&service.spec);
        if let Some(service) = store.services().find(bad) {
            let mut spec = service.spec.clone();
            spec.task.container.image = "good".into();
            let now = world.clock(leader);
            let update = |spec| edit::update_service(&store, &service.id, service.meta.version, spec, false, now);
            // A port that two users asked for at once is given up.
            let plain = ServiceSpec { endpoint: Default::default(), ..spec.clone() };
            let writes = update(spec).or_else(|_| update(plain));
            self.submit(world, leader, "repairs a service", writes);
        }
    }

    fn want(&mut self, world: &mut World, leader: usize) {
        let store = world.managers[leader].store.clone();
        match self.dice.below(22) {
            0..=4 => self.create(world, leader, &store),
            5..=7 => self.change(world, leader, &store, scale),
            8..=11 => self.change(world, leader, &store, change_image),
            12 => self.change(world, leader, &store, change_placement),
            13 => self.roll_back(world, leader, &store),
            14 => self.remove(world, leader, &store),
            15 | 16 => self.change_node(world, leader, &store),
            17 => self.create_network(world, leader, &store),
            18 => self.create_secret(world, leader, &store),
            20 => self.rebalance(world, leader, &store),
            21 => self.renew_secret(world, leader, &store),
            _ => self.remove_something(world, leader, &store),
        }
    }

    fn submit(&mut self, world: &mut World, leader: usize, what: &str, writes: skep_model::Result<Vec<Write>>) {
        let writes = match writes {
            Ok(writes) if !writes.is_empty() => writes,
            Ok(_) => return,
            Err(error) => return world.note(format_args!("user: {what} is refused: {error}")),
        };
        let number = self.requests.len();
        let at = world.clock(leader);
        let command = Command { id: format!("u{number}"), at, writes, independent: false };
        world.note(format_args!("user: u{number} {what}"));
        if world.sabotage == Some(Sabotage::AnswerEarly) {
            self.acked.insert(command.id.clone());
        }
        world.raft.propose(world.now_ms, leader, command.clone(), Origin::User(number));
        // Who was answered does not ask again.
        let open = !self.acked.contains(&command.id);
        self.requests.push(Request { command, asked_at_ms: world.now_ms, attempts: 0, open, applied: 0 });
    }

    fn create(&mut self, world: &mut World, leader: usize, store: &Store) {
        if store.services().count() >= SERVICES_MAX {
            return;
        }
        self.names += 1;
        let spec = self.any_service(store);
        let now = world.clock(leader);
        let created = edit::create_service(store, spec, now, &mut world.ids).map(|(_, writes)| writes);
        self.submit(world, leader, "creates a service", created);
    }

    fn any_service(&mut self, store: &Store) -> ServiceSpec {
        let dice = &mut self.dice;
        let mut spec = ServiceSpec { name: format!("s{}", self.names), ..ServiceSpec::default() };
        spec.mode = match dice.below(20) {
            0..=4 => ServiceMode::Global,
            5 | 6 => {
                ServiceMode::ReplicatedJob { max_concurrent: dice.between(1, 3), total_completions: dice.between(1, 5) }
            }
            7 => ServiceMode::GlobalJob,
            _ => ServiceMode::Replicated { replicas: dice.between(1, 6) },
        };
        spec.task.container.image = any_image(dice);
        spec.task.restart.delay = Duration::from_millis(*dice.pick(&[0, 1_000, 5_000]).unwrap_or(&0));
        if dice.chance(150) {
            spec.task.restart.condition =
                *dice.pick(&[RestartCondition::None, RestartCondition::OnFailure]).unwrap_or(&RestartCondition::Any);
        }
        if dice.chance(150) {
            spec.task.restart.max_attempts = dice.between(1, 3);
            spec.task.restart.window = Duration::from_secs(dice.between(0, 1) * 20);
        }
        if dice.chance(200) {
            spec.task.resources.reserve_memory_bytes = 1 << 30;
        }
        if dice.chance(150) {
            let kind = *dice.pick(&["card", "disk"]).unwrap_or(&"disk");
            spec.task.resources.reserve_generic.insert(kind.into(), 1);
        }
        if dice.chance(200) {
            spec.task.placement.spread.push("node.labels.zone".into());
        }
        spec.update = (dice.chance(700) && !spec.mode.is_job()).then(|| any_update(dice));
        spec.rollback =
            dice.chance(300).then(|| UpdateConfig { failure_action: FailureAction::Pause, ..any_update(dice) });
        let networks: Vec<_> = store.networks().filter(|n| !n.spec.ingress && !n.pending_delete).collect();
        if dice.chance(500)
            && let Some(network) = dice.pick(&networks)
        {
            spec.task.networks.push(NetworkAttachmentConfig { target: network.id.0.clone(), ..Default::default() });
        }
        let secrets: Vec<_> = store.secrets().collect();
        if dice.chance(400)
            && let Some(secret) = dice.pick(&secrets)
        {
            let file = FileTarget { name: secret.spec.name.clone(), ..FileTarget::default() };
            let reference =
                SecretReference { secret_id: secret.id.clone(), secret_name: secret.spec.name.clone(), file };
            spec.task.container.secrets.push(reference);
        }
        if dice.chance(400) {
            spec.endpoint.ports.push(PortConfig {
                name: String::new(),
                protocol: Protocol::Tcp,
                target_port: 80,
                published_port: [0, 8080, 8081, 8082][dice.below(4)],
                publish_mode: if dice.chance(300) { PublishMode::Host } else { PublishMode::Ingress },
            });
        }
        spec
    }

    fn change(&mut self, world: &mut World, leader: usize, store: &Store, change: fn(&mut Dice, &mut ServiceSpec)) {
        let Some(service) = self.any_of(store) else { return };
        let mut spec = service.spec.clone();
        change(&mut self.dice, &mut spec);
        let now = world.clock(leader);
        let writes = edit::update_service(store, &service.id, service.meta.version, spec, false, now);
        self.submit(world, leader, &format!("changes {}", service.spec.name), writes);
    }

    fn roll_back(&mut self, world: &mut World, leader: usize, store: &Store) {
        let Some(service) = self.any_of(store) else { return };
        let (spec, now) = (service.spec.clone(), world.clock(leader));
        let writes = edit::update_service(store, &service.id, service.meta.version, spec, true, now);
        self.submit(world, leader, &format!("rolls {} back", service.spec.name), writes);
    }

    fn remove(&mut self, world: &mut World, leader: usize, store: &Store) {
        let Some(service) = self.any_of(store) else { return };
        let writes = edit::remove_service(store, &service.id, world.clock(leader));
        self.submit(world, leader, &format!("removes {}", service.spec.name), writes);
    }

    fn any_of(&mut self, store: &Store) -> Option<Arc<Service>> {
        let services: Vec<&Arc<Service>> = store.services().filter(|service| !service.pending_delete).collect();
        self.dice.pick(&services).map(|service| Arc::clone(service))
    }

    fn change_node(&mut self, world: &mut World, leader: usize, store: &Store) {
        let nodes: Vec<_> = store.nodes().collect();
        let Some(node) = self.dice.pick(&nodes) else { return };
        let mut spec: NodeSpec = node.spec.clone();
        if self.dice.chance(300) {
            spec.labels.insert("zone".into(), (*self.dice.pick(&["a", "b"]).unwrap_or(&"a")).to_owned());
        } else {
            let choices = [Availability::Active, Availability::Active, Availability::Drain, Availability::Pause];
            spec.availability = *self.dice.pick(&choices).unwrap_or(&Availability::Active);
        }
        let what = format!("makes node {} {:?} {:?}", node.id, spec.availability, spec.labels);
        let writes = edit::update_node(store, &node.id, node.meta.version, spec);
        self.submit(world, leader, &what, writes);
    }

    fn create_network(&mut self, world: &mut World, leader: usize, store: &Store) {
        self.names += 1;
        let mut spec = NetworkSpec { name: format!("n{}", self.names), ..NetworkSpec::default() };
        spec.enable_ipv6 = self.names.is_multiple_of(3);
        if self.dice.chance(600) {
            // Small, so that addresses are reused soon and run out.
            let subnet = format!("10.77.{}.0/28", self.names % 200).parse().ok();
            spec.ipam.push(IpamConfig { subnet, ip_range: None, gateway: None, aux_addresses: Default::default() });
        }
        let now = world.clock(leader);
        let created = edit::create_network(store, spec, now, &mut world.ids).map(|(_, writes)| writes);
        self.submit(world, leader, "creates a network", created);
    }

    fn create_secret(&mut self, world: &mut World, leader: usize, store: &Store) {
        self.names += 1;
        let spec = SecretSpec { name: format!("x{}", self.names), data: b"hush".to_vec(), ..SecretSpec::default() };
        let created = edit::create_secret(store, spec, &mut world.ids).map(|(_, writes)| writes);
        self.submit(world, leader, "creates a secret", created);
    }

    fn rebalance(&mut self, world: &mut World, leader: usize, store: &Store) {
        let only = if self.dice.chance(300) { None } else { self.any_of(store).map(|service| service.id.clone()) };
        let now = world.clock(leader);
        let found = plan::rebalance(store, only.as_ref(), now, &mut world.ids);
        self.submit(world, leader, &format!("moves {} tasks", found.moves.len()), Ok(found.writes));
    }

    fn renew_secret(&mut self, world: &mut World, leader: usize, store: &Store) {
        let secrets: Vec<_> = store.secrets().collect();
        let Some(secret) = self.dice.pick(&secrets) else { return };
        self.names += 1;
        let spec = SecretSpec { data: format!("hush {}", self.names).into_bytes(), ..secret.spec.clone() };
        let writes = edit::update_secret(store, &secret.id, secret.meta.version, spec);
        self.submit(world, leader, &format!("renews secret {}", secret.spec.name), writes);
    }

    fn remove_something(&mut self, world: &mut World, leader: usize, store: &Store) {
        let networks: Vec<_> = store.networks().filter(|network| !network.spec.ingress).collect();
        let away = |node: &&Arc<skep_model::node::Node>| node.status.state == NodeState::Down;
        let nodes: Vec<_> = store.nodes().filter(away).collect();
        let secrets: Vec<_> = store.secrets().collect();
        if let Some(node) = self.dice.pick(&nodes)
            && let Ok(writes) = edit::remove_node(store, &node.id, true)
        {
            self.submit(world, leader, &format!("removes node {}", node.id), Ok(writes));
        } else if self.dice.chance(500)
            && let Some(network) = self.dice.pick(&networks)
        {
            self.submit(world, leader, "removes a network", edit::remove_network(store, &network.id));
        } else if let Some(secret) = self.dice.pick(&secrets) {
            self.submit(world, leader, "removes a secret", edit::remove_secret(store, &secret.id));
        }
    }
}

impl World {
    /// A user's command was committed; `heard` says whether the answer got back.
    pub fn users_answer(&mut self, number: usize, heard: bool, result: &Result<Applied, Rejection>) {
        let Some(load) = &mut self.load else { return };
        let Some(request) = load.requests.get_mut(number) else { return };
        if result.as_ref().is_ok_and(|applied| !applied.duplicate) {
            request.applied += 1;
        }
        let (id, applied) = (request.command.id.clone(), request.applied);
        if heard {
            request.open = false;
            if result.is_ok() {
                load.acked.insert(id.clone());
            }
        }
        if applied > 1 {
            self.fail(format!("command {id} took effect {applied} times"));
        }
    }
}

pub fn is_bad(spec: &ServiceSpec) -> bool {
    spec.task.container.image != "good" && !spec.task.container.image.starts_with("good:")
}

fn any_image(dice: &mut Dice) -> String {
    match dice.below(12) {
        0 => "missing".into(),
        1 => "broken".into(),
        number => format!("good:{number}"),
    }
}

fn any_update(dice: &mut Dice) -> UpdateConfig {
    let actions = [FailureAction::Pause, FailureAction::Continue, FailureAction::Rollback];
    UpdateConfig {
        parallelism: dice.between(0, 3),
        delay: Duration::from_secs(dice.between(0, 3)),
        failure_action: *dice.pick(&actions).unwrap_or(&FailureAction::Pause),
        monitor: Duration::from_secs(dice.between(0, 5)),
        max_failure_ratio: [0.0, 0.0, 0.5][dice.below(3)],
        order: if dice.chance(400) { UpdateOrder::StartFirst } else { UpdateOrder::StopFirst },
    }
}

fn scale(dice: &mut Dice, spec: &mut ServiceSpec) {
    match &mut spec.mode {
        ServiceMode::Replicated { replicas } => *replicas = dice.between(0, 7),
        ServiceMode::ReplicatedJob { total_completions, .. } => *total_completions = dice.between(0, 6),
        ServiceMode::Global | ServiceMode::GlobalJob => {}
    }
}

fn change_image(dice: &mut Dice, spec: &mut ServiceSpec) {
    if dice.chance(200) {
        spec.task.force_update += 1;
    } else {
        spec.task.container.image = any_image(dice);
    }
}

fn change_placement(dice: &mut Dice, spec: &mut ServiceSpec) {
    let choices = ["node.labels.zone == a", "node.labels.zone != a", "node.role == manager", "node.role == worker"];
    spec.task.placement.constraints.clear();
    if dice.chance(600)
        && let Some(constraint) = dice.pick(&choices)
    {
        spec.task.placement.constraints.push((*constraint).to_owned());
    }
    spec.task.placement.max_replicas_per_node = dice.between(0, 2);
}
