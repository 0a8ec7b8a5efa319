//! A manager on loopback and a fake agent that speaks the real protocol.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use skep_identity::{CertStore, CertificateRequest, Identity, JoinToken, StoredIdentity};
use skep_manager::{Control, Manager, ManagerConfig, SwarmInit};
use skep_model::Timestamp;
use skep_model::node::{NodeDescription, Platform};
use skep_model::service::{ServiceMode, ServiceSpec};
use skep_model::task::{Task, TaskContainerStatus, TaskState, TaskStatus};
use skep_proto::ca::IssueNodeCertificateRequest;
use skep_proto::ca::node_ca_client::NodeCaClient;
use skep_proto::codec::{decode, encode};
use skep_proto::dispatcher::assignment_change::{Action, Item};
use skep_proto::dispatcher::dispatcher_client::DispatcherClient;
use skep_proto::dispatcher::{
    AssignmentsMessage, AssignmentsRequest, AwaitNetworkRequest, HeartbeatRequest, ReportNetworkRequest,
    SessionMessage, SessionRequest, TaskStatusUpdate, UpdateTaskStatusRequest,
};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Nothing here should take longer, not even on a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

const LOOK_INTERVAL: Duration = Duration::from_millis(50);

pub fn config(dir: &Path) -> ManagerConfig {
    ManagerConfig {
        state_dir: dir.to_owned(),
        listen_addr: "127.0.0.1:0".parse().unwrap(),
        advertise_addr: String::new(),
        vault: ManagerConfig::vault_of(dir),
    }
}

/// A configuration with an address that no other test and no other process has, also after
/// a restart.
pub fn settled_config(dir: &Path) -> ManagerConfig {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, high.max(1), low, NEXT.fetch_add(1, Ordering::Relaxed));
    ManagerConfig { listen_addr: (ip, 2377).into(), ..config(dir) }
}

pub async fn bootstrap(dir: &Path) -> Manager {
    Manager::bootstrap(config(dir), SwarmInit::default()).await.unwrap()
}

/// Opens the manager again from its files.
pub async fn reopen(dir: &Path) -> Manager {
    let stored = skep_identity::CertStore::new(config(dir).certificates_dir()).load().unwrap().unwrap();
    Manager::open(config(dir), Identity::new(&stored).unwrap()).await.unwrap()
}

/// A replicated service without networks that restarts its tasks at once.
pub fn service(name: &str, replicas: u64) -> ServiceSpec {
    let mut spec = ServiceSpec { name: name.into(), ..ServiceSpec::default() };
    spec.mode = ServiceMode::Replicated { replicas };
    spec.task.container.image = "example/app:1".into();
    spec.task.restart.delay = Duration::from_millis(10);
    spec
}

/// Waits until `check` holds, looking again at each change of the store and now and then.
pub async fn wait_for(control: &Control, what: &str, check: impl Fn(&Control) -> bool) {
    let mut version = control.version();
    let waiting = async {
        loop {
            version.borrow_and_update();
            if check(control) {
                return;
            }
            // Who leads may change without the store.
            if let Ok(changed) = tokio::time::timeout(LOOK_INTERVAL, version.changed()).await {
                changed.unwrap();
            }
        }
    };
    if tokio::time::timeout(DEADLINE, waiting).await.is_err() {
        panic!("never: {what}; tasks: {:#?}", states(control));
    }
}

/// (slot, desired, observed) of every task.
pub fn states(control: &Control) -> Vec<(u64, TaskState, TaskState, String)> {
    let tasks = control.tasks();
    tasks.iter().map(|t| (t.slot, t.desired_state, t.status.state, t.status.err.clone())).collect()
}

pub fn running(control: &Control) -> usize {
    let runs = |task: &&std::sync::Arc<Task>| {
        task.status.state == TaskState::Running && task.desired_state == TaskState::Running
    };
    control.tasks().iter().filter(runs).count()
}

/// Joins with a token, as a new node would.
pub async fn join(address: &str, token: &str) -> Result<Identity, Status> {
    let token: JoinToken = token.parse().unwrap();
    let channel = skep_identity::connect_for_join(address, &token).await.unwrap();
    issue(channel, &token.to_text()).await
}

/// Joins with a token and keeps the certificate in `store`.
pub async fn join_and_keep(address: &str, token: &str, store: &CertStore) -> Identity {
    let token: JoinToken = token.parse().unwrap();
    let channel = skep_identity::connect_for_join(address, &token).await.unwrap();
    let stored = ask(channel, &token.to_text()).await.unwrap();
    store.save(&stored).unwrap();
    Identity::new(&stored).unwrap()
}

/// Asks for a certificate over a channel.
pub async fn issue(channel: Channel, token: &str) -> Result<Identity, Status> {
    Ok(Identity::new(&ask(channel, token).await?).unwrap())
}

async fn ask(channel: Channel, token: &str) -> Result<StoredIdentity, Status> {
    let request = CertificateRequest::create().unwrap();
    let message = IssueNodeCertificateRequest {
        csr_pem: request.pem().to_owned(),
        token: token.to_owned(),
        availability: String::new(),
    };
    let answer = NodeCaClient::new(channel).issue_node_certificate(message).await?.into_inner();
    Ok(StoredIdentity {
        root_pem: answer.root_ca_pem,
        chain_pem: answer.certificate_chain_pem,
        key_pem: request.key_pem().to_owned().into(),
    })
}

/// A node's agent that runs nothing but says what it is told to say.
pub struct Agent {
    pub client: DispatcherClient<Channel>,
    pub session_id: String,
    pub session: Streaming<SessionMessage>,
    pub first: SessionMessage,
    pub assignments: Streaming<AssignmentsMessage>,
    pub tasks: BTreeMap<String, Task>,
    pub generation: u64,
}

impl Agent {
    pub async fn start(identity: &Identity, address: &str, hostname: &str) -> Self {
        let mut client = DispatcherClient::new(identity.connect(address).await.unwrap());
        let description = NodeDescription {
            hostname: hostname.into(),
            platform: Platform { architecture: "x86_64".into(), os: "linux".into() },
            nano_cpus: 4_000_000_000,
            memory_bytes: 8 << 30,
            ..NodeDescription::default()
        };
        let request = SessionRequest {
            description: encode(&description),
            session_id: String::new(),
            data_path_address: "127.0.0.1".into(),
        };
        let mut session = client.session(request).await.unwrap().into_inner();
        let first = session.message().await.unwrap().unwrap();
        let session_id = first.session_id.clone();
        let request = AssignmentsRequest { session_id: session_id.clone() };
        let assignments = client.assignments(request).await.unwrap().into_inner();
        let mut agent = Self { client, session_id, session, first, assignments, tasks: BTreeMap::new(), generation: 0 };
        agent.next().await;
        agent
    }

    /// Takes the next assignments message.
    pub async fn next(&mut self) {
        tokio::time::timeout(DEADLINE, self.next_whenever()).await.expect("no assignments came");
    }

    async fn next_whenever(&mut self) {
        let message = self.assignments.message().await;
        let message = message.unwrap().expect("the assignments ended");
        assert!(message.results_in >= self.generation, "the generation went back");
        if message.kind == 1 {
            assert_eq!(message.applies_to, self.generation);
        } else {
            self.tasks.clear();
        }
        self.generation = message.results_in;
        for change in message.changes {
            let Some(Item::Task(bytes)) = change.item else { continue };
            let task: Task = decode(&bytes).unwrap();
            if change.action == i32::from(Action::Update) {
                self.tasks.insert(task.id.0.clone(), task);
            } else {
                self.tasks.remove(task.id.as_str());
            }
        }
    }

    /// Takes messages until the set of tasks is as wanted.
    pub async fn until(&mut self, check: impl Fn(&BTreeMap<String, Task>) -> bool) {
        while !check(&self.tasks) {
            self.next().await;
        }
    }

    pub async fn heartbeat(&mut self) -> Result<(), Status> {
        let request = HeartbeatRequest { session_id: self.session_id.clone() };
        self.client.heartbeat(request).await.map(|_| ())
    }

    pub async fn report(&mut self, reports: &[(&str, TaskState)]) -> Result<(), Status> {
        let update = |(id, state): &(&str, TaskState)| {
            let timestamp = Timestamp::from_chrono(chrono::Utc::now());
            let container = Some(TaskContainerStatus { container_id: (*id).into(), ..Default::default() });
            let status = TaskStatus { state: *state, timestamp, container, ..TaskStatus::default() };
            TaskStatusUpdate { task_id: (*id).to_owned(), status: encode(&status) }
        };
        let updates = reports.iter().map(update).collect();
        let request = UpdateTaskStatusRequest { session_id: self.session_id.clone(), updates };
        self.client.update_task_status(request).await.map(|_| ())
    }

    /// Says that the kernel is as was last said.
    pub async fn report_network(&mut self) {
        let request = ReportNetworkRequest { session_id: self.session_id.clone(), generation: self.generation };
        self.client.report_network(request).await.unwrap();
    }

    /// Takes and acknowledges every message.
    pub async fn follow(&mut self) -> std::convert::Infallible {
        loop {
            self.report_network().await;
            self.next_whenever().await;
        }
    }

    /// Whether all nodes have followed to this agent's generation, asked on its own.
    pub fn ask_network(&self) -> tokio::task::JoinHandle<bool> {
        let request = AwaitNetworkRequest { session_id: self.session_id.clone(), generation: self.generation };
        let mut client = self.client.clone();
        tokio::spawn(async move { client.await_network(request).await.unwrap().into_inner().reached })
    }

    /// Says of every task that it is as far as it is wanted to be.
    pub async fn obey(&mut self) {
        let wanted: Vec<(String, TaskState)> = self
            .tasks
            .values()
            .map(|task| {
                let state = match task.desired_state {
                    wanted if wanted <= TaskState::Running => wanted,
                    _ => TaskState::Shutdown,
                };
                (task.id.0.clone(), state)
            })
            .collect();
        let reports: Vec<(&str, TaskState)> = wanted.iter().map(|(id, state)| (id.as_str(), *state)).collect();
        self.report(&reports).await.unwrap();
    }
}
