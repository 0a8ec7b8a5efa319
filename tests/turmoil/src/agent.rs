//! A host with an agent that runs nothing: it keeps a session, takes assignments, lets
//! [`SmallAgent`] pretend and reports what came of it. Its disk and its tasks outlive it.

use crate::manager::certificate;
use crate::shared::{MANAGERS, Shared, agent_name};
use skep_cluster::assign::Assignments;
use skep_identity::Identity;
use skep_model::Timestamp;
use skep_model::node::{NodeDescription, Platform};
use skep_model::secret::{Config, Secret};
use skep_model::task::Task;
use skep_proto::LEADER_METADATA;
use skep_proto::codec::{DecodeError, decode, encode};
use skep_proto::dispatcher::assignment_change::{Action, Item};
use skep_proto::dispatcher::assignments_message::Kind;
use skep_proto::dispatcher::dispatcher_client::DispatcherClient;
use skep_proto::dispatcher::{
    AssignmentChange, AssignmentsMessage, AssignmentsRequest, HeartbeatRequest, ReportNetworkRequest, SessionRequest,
    TaskStatusUpdate, UpdateTaskStatusRequest,
};
use skep_sim::agent::{Agent, Conditions};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{interval, timeout};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

const CALL_TIMEOUT: Duration = Duration::from_secs(2);
const STEP_INTERVAL: Duration = Duration::from_millis(50);
const REPORT_INTERVAL: Duration = Duration::from_millis(120);
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(700);
const BACKOFF_MS_MAX: u64 = 400;

/// The software of the host.
pub(crate) async fn run(shared: Rc<Shared>, number: usize) -> turmoil::Result {
    let known = shared.nodes.borrow()[number].identity.clone();
    let identity = match known {
        Some(identity) => identity,
        None => {
            let identity = Identity::new(&certificate(&shared, false).await)?;
            shared.nodes.borrow_mut()[number].identity = Some(identity.clone());
            identity
        }
    };
    tokio::task::spawn_local(live(shared.clone(), number));
    let mut leader = None;
    loop {
        let chosen = leader.take().unwrap_or_else(|| shared.addresses[rand::random_range(0..MANAGERS)].clone());
        let session = Session { shared: &shared, number, identity: &identity };
        let ended = session.hold(&chosen).await;
        tracing::debug!(agent = number, manager = chosen, status = %ended, "session ended");
        leader = ended.metadata().get(LEADER_METADATA).and_then(|leader| leader.to_str().ok()).map(str::to_owned);
        tokio::time::sleep(Duration::from_millis(rand::random_range(10..BACKOFF_MS_MAX))).await;
    }
}

/// The node's tasks, which need no manager.
async fn live(shared: Rc<Shared>, number: usize) {
    loop {
        tokio::time::sleep(STEP_INTERVAL).await;
        let failing = u32::from(shared.failing.get());
        let conditions = Conditions {
            pull_max_ms: 400,
            start_failures_per_mille: 20 * failing,
            exits_per_mille: failing,
            ..Conditions::default()
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let timestamp = Timestamp(i64::try_from(now.as_nanos()).unwrap_or(i64::MAX));
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        shared.nodes.borrow_mut()[number].agent.step(now_ms, timestamp, &conditions);
    }
}

struct Session<'a> {
    shared: &'a Shared,
    number: usize,
    identity: &'a Identity,
}

impl Session<'_> {
    /// Holds a session with a manager for as long as that goes; answers why it ended.
    async fn hold(&self, manager: &str) -> Status {
        match self.try_hold(manager).await {
            Ok(never) => match never {},
            Err(status) => status,
        }
    }

    async fn try_hold(&self, manager: &str) -> Result<std::convert::Infallible, Status> {
        let channel = self.identity.connect_lazy(manager).map_err(|error| Status::unavailable(error.to_string()))?;
        let mut client = DispatcherClient::new(channel);
        let request = SessionRequest {
            description: encode(&self.description()),
            session_id: self.shared.nodes.borrow()[self.number].session_id.clone(),
            data_path_address: String::new(),
        };
        let mut messages = in_time(client.session(request)).await?;
        let first = timeout(CALL_TIMEOUT, messages.message()).await.map_err(late)??;
        let session_id = first.ok_or_else(|| Status::unavailable("the session ended at once"))?.session_id;
        self.shared.nodes.borrow_mut()[self.number].session_id.clone_from(&session_id);
        self.shared.note(format_args!("agent{} has a session with {manager}", self.number));
        let request = AssignmentsRequest { session_id: session_id.clone() };
        let mut assignments = in_time(client.assignments(request)).await?;
        let (mut report, mut heartbeat) = (interval(REPORT_INTERVAL), interval(HEARTBEAT_INTERVAL));
        let mut applied = None;
        loop {
            tokio::select! {
                message = messages.message() => drop(message?.ok_or_else(ended)?),
                message = assignments.message() => {
                    let generation = self.accept(message?.ok_or_else(ended)?, applied)?;
                    applied = Some(generation);
                    let request = ReportNetworkRequest { session_id: session_id.clone(), generation };
                    in_time(client.report_network(request)).await?;
                }
                _ = report.tick() => self.report(&mut client, &session_id).await?,
                _ = heartbeat.tick() => {
                    let request = HeartbeatRequest { session_id: session_id.clone() };
                    in_time(client.heartbeat(request)).await?;
                }
            }
        }
    }

    fn description(&self) -> NodeDescription {
        NodeDescription {
            hostname: agent_name(self.number),
            platform: Platform { architecture: "x86_64".into(), os: "linux".into() },
            nano_cpus: 8_000_000_000,
            memory_bytes: 16 << 30,
            ..NodeDescription::default()
        }
    }

    /// Takes a message, the first of its stream or one that must join up with the one before.
    fn accept(&self, message: AssignmentsMessage, applied: Option<u64>) -> Result<u64, Status> {
        let mut nodes = self.shared.nodes.borrow_mut();
        let node = &mut nodes[self.number];
        let generation = message.results_in;
        if message.kind == i32::from(Kind::Complete) {
            node.set = Assignments::default();
        } else if applied != Some(message.applies_to) {
            let rule = format!("agent{}: a difference to {} after {applied:?}", self.number, message.applies_to);
            self.shared.broken(rule.clone());
            return Err(Status::internal(rule));
        }
        for change in &message.changes {
            change_set(&mut node.set, change)?;
        }
        if !node.agent.accept(generation, &node.set) {
            return Err(Status::failed_precondition(format!("generation {generation} is older than ours")));
        }
        Ok(generation)
    }

    async fn report(&self, client: &mut DispatcherClient<Channel>, session_id: &str) -> Result<(), Status> {
        let reports = self.shared.nodes.borrow_mut()[self.number].agent.reports();
        if reports.is_empty() {
            return Ok(());
        }
        let update = |(id, status): &(String, _)| TaskStatusUpdate {
            task_id: id.clone(),
            status: encode::<skep_model::task::TaskStatus>(status),
        };
        let updates = reports.iter().map(update).collect();
        let request = UpdateTaskStatusRequest { session_id: session_id.to_owned(), updates };
        in_time(client.update_task_status(request)).await?;
        let stored: Vec<_> = reports.into_iter().map(|(id, status)| (id, status.state)).collect();
        self.shared.nodes.borrow_mut()[self.number].agent.stored(&stored);
        Ok(())
    }
}

async fn in_time<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    timeout(CALL_TIMEOUT, call).await.map_err(late)?.map(Response::into_inner)
}

fn late(_: tokio::time::error::Elapsed) -> Status {
    Status::deadline_exceeded("no answer in time")
}

fn ended() -> Status {
    Status::new(Code::Unavailable, "the stream ended")
}

fn change_set(set: &mut Assignments, change: &AssignmentChange) -> Result<(), DecodeError> {
    let update = change.action == i32::from(Action::Update);
    match &change.item {
        Some(Item::Task(bytes)) => {
            let task: Task = decode(bytes)?;
            let id = task.id.0.clone();
            if update { drop(set.tasks.insert(id, Arc::new(task))) } else { drop(set.tasks.remove(&id)) }
        }
        Some(Item::Secret(bytes)) => {
            let secret: Secret = decode(bytes)?;
            let id = secret.id.0.clone();
            if update { drop(set.secrets.insert(id, Arc::new(secret))) } else { drop(set.secrets.remove(&id)) }
        }
        Some(Item::Config(bytes)) => {
            let config: Config = decode(bytes)?;
            let id = config.id.0.clone();
            if update { drop(set.configs.insert(id, Arc::new(config))) } else { drop(set.configs.remove(&id)) }
        }
        Some(Item::NetworkState(bytes)) => set.network = decode(bytes)?,
        None => {}
    }
    Ok(())
}
