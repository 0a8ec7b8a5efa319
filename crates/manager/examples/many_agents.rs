//! Very many agents in one process, to load a leader with: real sessions over mutual TLS,
//! heartbeats, assignments, and a status for every step of every task. They run nothing.
//!
//! `many_agents HOST:PORT JOIN_TOKEN`; each line of the input is a number of agents to grow
//! to, answered by a line of JSON once all of them have a session. It ends with its input.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a measurement, for people")]

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use skep_identity::{CertificateRequest, Identity, JoinToken, StoredIdentity, connect_for_join};
use skep_model::Timestamp;
use skep_model::node::{NodeDescription, Platform};
use skep_model::task::{Task, TaskContainerStatus, TaskState, TaskStatus};
use skep_proto::ca::IssueNodeCertificateRequest;
use skep_proto::ca::node_ca_client::NodeCaClient;
use skep_proto::codec::{decode, encode};
use skep_proto::dispatcher::assignment_change::{Action, Item};
use skep_proto::dispatcher::dispatcher_client::DispatcherClient;
use skep_proto::dispatcher::{
    AssignmentsMessage, AssignmentsRequest, HeartbeatRequest, ReportNetworkRequest, SessionMessage, SessionRequest,
    TaskStatusUpdate, TunnelRequest, TunnelRequestsRequest, UpdateTaskStatusRequest,
};
use std::collections::BTreeMap;
use std::error::Error;
use std::io::BufRead;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::Streaming;
use tonic::transport::Channel;

/// Nodes that come at once. A manager takes no more than 256 handshakes of one address.
const COMING_MAX: usize = 64;
/// As real agents do: a little early.
const HEARTBEAT_SHARE: std::ops::Range<f64> = 0.8..0.95;
const TRIES_MAX: usize = 5;
const RETRY: Duration = Duration::from_millis(500);
const MESSAGE_BYTES_MAX: usize = 128 * 1024 * 1024;
/// What a node tells of a task on its way.
const STEPS: [TaskState; 3] = [TaskState::Preparing, TaskState::Starting, TaskState::Running];

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, token] = args.as_slice() else { return Err("usage: many_agents HOST:PORT JOIN_TOKEN".into()) };
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let swarm = Arc::new(Swarm {
        address: address.clone(),
        token: token.parse()?,
        coming: Semaphore::new(COMING_MAX),
        lost: AtomicUsize::new(0),
    });
    let mut count = 0;
    for line in std::io::stdin().lock().lines() {
        let wanted: usize = line?.trim().parse()?;
        let begin = Instant::now();
        runtime.block_on(grow(&swarm, count, wanted))?;
        count = count.max(wanted);
        let (secs, lost) = (begin.elapsed().as_secs_f64(), swarm.lost.load(Ordering::Relaxed));
        println!("{{\"agents\":{count},\"secs\":{secs:.3},\"lost\":{lost}}}");
    }
    Ok(())
}

struct Swarm {
    address: String,
    token: JoinToken,
    coming: Semaphore,
    /// Sessions that ended though nobody asked for it.
    lost: AtomicUsize,
}

async fn grow(swarm: &Arc<Swarm>, from: usize, to: usize) -> Result<(), Failure> {
    let mut coming = JoinSet::new();
    for number in from..to {
        let swarm = swarm.clone();
        coming.spawn(async move {
            let permit = swarm.coming.acquire().await?;
            let agent = Agent::start(&swarm, number).await?;
            drop(permit);
            let swarm = swarm.clone();
            tokio::spawn(async move {
                if let Err(reason) = agent.serve().await {
                    swarm.lost.fetch_add(1, Ordering::Relaxed);
                    eprintln!("agent {number}: {reason}");
                }
            });
            Ok::<_, Failure>(())
        });
    }
    while let Some(ended) = coming.join_next().await {
        ended??;
    }
    Ok(())
}

/// Joins by token; tries again what a busy manager refused.
async fn join(swarm: &Swarm) -> Result<Identity, Failure> {
    let request = CertificateRequest::create()?;
    let mut tries = 1;
    loop {
        let message = IssueNodeCertificateRequest {
            csr_pem: request.pem().to_owned(),
            token: swarm.token.to_text(),
            availability: String::new(),
        };
        let asked = async {
            let channel = connect_for_join(&swarm.address, &swarm.token).await?;
            Ok::<_, Failure>(NodeCaClient::new(channel).issue_node_certificate(message).await?.into_inner())
        };
        match asked.await {
            Ok(answer) => {
                return Ok(Identity::new(&StoredIdentity {
                    root_pem: answer.root_ca_pem,
                    chain_pem: answer.certificate_chain_pem,
                    key_pem: request.key_pem().to_owned().into(),
                })?);
            }
            Err(_) if tries < TRIES_MAX => tries += 1,
            Err(reason) => return Err(reason),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// One node's conversation with its manager.
struct Agent {
    client: DispatcherClient<Channel>,
    session_id: String,
    period: Duration,
    session: Streaming<SessionMessage>,
    assignments: Streaming<AssignmentsMessage>,
    tunnels: Streaming<TunnelRequest>,
}

impl Agent {
    async fn start(swarm: &Swarm, number: usize) -> Result<Self, Failure> {
        let identity = join(swarm).await?;
        let channel = identity.connect(&swarm.address).await?;
        let mut client = DispatcherClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let description = NodeDescription {
            hostname: format!("agent{number}"),
            platform: Platform { architecture: "x86_64".into(), os: "linux".into() },
            nano_cpus: 4_000_000_000,
            memory_bytes: 8 << 30,
            trust_root_pem: identity.root_pem().to_string(),
            ..NodeDescription::default()
        };
        let data_path_address = format!("10.{}.{}.{}", 200 + number / 65_536, number / 256 % 256, number % 256);
        let request =
            SessionRequest { description: encode(&description), session_id: String::new(), data_path_address };
        let mut session = client.session(request).await?.into_inner();
        let first = session.message().await?.ok_or("the session has ended")?;
        let session_id = first.session_id;
        let request = AssignmentsRequest { session_id: session_id.clone() };
        let assignments = client.assignments(request).await?.into_inner();
        let request = TunnelRequestsRequest { session_id: session_id.clone() };
        let tunnels = client.tunnel_requests(request).await?.into_inner();
        let period = Duration::from_millis(first.heartbeat_period_ms);
        Ok(Self { client, session_id, period, session, assignments, tunnels })
    }

    /// Until the manager ends it.
    async fn serve(self) -> Result<(), Failure> {
        let Self { client, session_id, period, mut session, assignments, mut tunnels } = self;
        let ended = || Failure::from("a stream has ended");
        tokio::select! {
            ended = heartbeats(client.clone(), &session_id, period) => ended,
            ended = obey(client.clone(), &session_id, assignments) => ended,
            reason = async { while session.message().await?.is_some() {} Ok::<_, Failure>(()) } => reason.and(Err(ended())),
            reason = async { while tunnels.message().await?.is_some() {} Ok::<_, Failure>(()) } => reason.and(Err(ended())),
        }
    }
}

async fn heartbeats(mut client: DispatcherClient<Channel>, session_id: &str, period: Duration) -> Result<(), Failure> {
    loop {
        let share = rand::Rng::random_range(&mut rand::rng(), HEARTBEAT_SHARE);
        tokio::time::sleep(period.mul_f64(share)).await;
        client.heartbeat(HeartbeatRequest { session_id: session_id.to_owned() }).await?;
    }
}

/// Takes assignments and says of every task what a node would.
async fn obey(
    mut client: DispatcherClient<Channel>,
    session_id: &str,
    mut assignments: Streaming<AssignmentsMessage>,
) -> Result<(), Failure> {
    let mut states: BTreeMap<String, TaskState> = BTreeMap::new();
    while let Some(message) = assignments.message().await? {
        let mut network = false;
        let mut wanted: BTreeMap<String, TaskState> = BTreeMap::new();
        for change in message.changes {
            match change.item {
                Some(Item::Task(bytes)) => {
                    let task: Task = decode(&bytes)?;
                    if change.action == i32::from(Action::Update) {
                        wanted.insert(task.id.0, task.desired_state);
                    } else {
                        states.remove(task.id.as_str());
                    }
                }
                Some(Item::NetworkState(_)) => network = true,
                Some(Item::Secret(_) | Item::Config(_)) | None => {}
            }
        }
        if network {
            let request = ReportNetworkRequest { session_id: session_id.to_owned(), generation: message.results_in };
            client.report_network(request).await?;
        }
        for (id, desired) in wanted {
            let ends = [TaskState::Shutdown];
            let steps: &[TaskState] = if desired > TaskState::Running { &ends } else { &STEPS };
            for step in steps {
                if states.get(&id).is_none_or(|state| state < step) {
                    report(&mut client, session_id, &id, *step).await?;
                    states.insert(id.clone(), *step);
                }
            }
        }
    }
    Err("the assignments have ended".into())
}

async fn report(
    client: &mut DispatcherClient<Channel>,
    session_id: &str,
    id: &str,
    state: TaskState,
) -> Result<(), Failure> {
    let timestamp = Timestamp::from_chrono(chrono::Utc::now());
    let container = Some(TaskContainerStatus { container_id: id.into(), ..TaskContainerStatus::default() });
    let status = TaskStatus { state, timestamp, container, ..TaskStatus::default() };
    let updates = vec![TaskStatusUpdate { task_id: id.to_owned(), status: encode(&status) }];
    client.update_task_status(UpdateTaskStatusRequest { session_id: session_id.to_owned(), updates }).await?;
    Ok(())
}
