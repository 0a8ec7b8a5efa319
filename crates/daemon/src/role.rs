//! This node's part in a swarm: founding, joining and leaving one, and taking up again
//! after a restart what it was before. The API's `swarm` calls end here.

mod unlock;

use crate::address::{self, Interface};
use crate::facts;
use crate::manager_keeper::{Kept, ManagerKeeper, ManagerState};
use crate::membership::{Membership, MembershipStore};
use crate::netd_attach::NetdAttach;
use crate::role_rules::{
    ALREADY_MEMBER, JOIN_TIMEOUT, LEAVING_LOCKED, NO_MEMBER, check_init, check_leave, not_ready, own_listener,
    source_address_towards,
};
use ipnet::IpNet;
use skep_agent::{Agent, AgentConfig, EngineExecutor, Executor, NodeFacts, SwarmView};
use skep_api::backend::{InitRequest, JoinRequest, SystemInfo};
use skep_engine::Engine;
use skep_identity::{CertStore, Identity, IdentityError, Vault};
use skep_manager::{Control, Manager, ManagerConfig, SwarmInit};
use skep_model::id::NodeId;
use skep_model::node::Role;
use skep_model::{Error, Result};
use skep_netd::client::NetdClient;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Mutex, watch};

/// A join that takes longer goes on in the background.
const JOIN_MAX: Duration = Duration::from_secs(20);
/// How long founding waits for the node's own session.
const FIRST_SESSION_MAX: Duration = Duration::from_secs(5);

/// How long the others may take to let a manager go.
const RETIRE_MAX: Duration = Duration::from_secs(10);

/// Everything the roles of a node need around them.
pub(crate) struct Surroundings {
    pub(crate) engine: Engine,
    pub(crate) netd: NetdClient,
    pub(crate) system: Arc<SystemInfo>,
    pub(crate) store: MembershipStore,
    /// Address or interface to advertise when none is named.
    pub(crate) default_advertise_addr: String,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Roles {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) around: Surroundings,
    /// Keeps the key of this node's manager, and the unlock key it was told.
    pub(crate) vault: Vault,
    /// Held while the membership changes.
    pub(crate) changing: Mutex<()>,
    state: RwLock<State>,
}

#[derive(Clone)]
pub(crate) enum State {
    Outside,
    /// Starting up, joining or leaving.
    Pending,
    Member(Arc<Member>),
    /// A manager whose keys wait for the unlock key.
    Locked(Arc<Membership>),
    Broken(String),
}

/// A node that is in a swarm, with the roles it runs.
pub(crate) struct Member {
    pub(crate) membership: Membership,
    pub(crate) node_id: NodeId,
    pub(crate) view: watch::Receiver<SwarmView>,
    pub(crate) manager: watch::Receiver<ManagerState>,
    /// Taken when the roles end.
    parts: Mutex<Option<Parts>>,
}

impl Member {
    /// The manager of this node, while it is up.
    pub(crate) fn control(&self) -> Option<Control> {
        self.manager.borrow().control.clone()
    }

    pub(crate) fn is_manager(&self) -> bool {
        self.manager.borrow().wanted
    }
}

struct Parts {
    agent: Agent,
    keeper: ManagerKeeper,
}

impl Roles {
    pub(crate) fn new(around: Surroundings) -> Self {
        let vault = ManagerConfig::vault_of(around.store.directory());
        let shared = Shared { around, vault, changing: Mutex::new(()), state: RwLock::new(State::Outside) };
        Self { shared: Arc::new(shared) }
    }

    /// Takes up the membership that is on disk, in the background: the API answers meanwhile.
    pub(crate) fn resume(&self) -> Result<()> {
        let Some(membership) = self.shared.around.store.load()? else { return Ok(()) };
        self.shared.set(State::Pending);
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let _changing = shared.changing.lock().await;
            let resumed = if membership.leaving {
                shared.finish_leaving().await.map(|()| State::Outside)
            } else {
                shared.take_up(membership).await
            };
            shared.set(resumed.unwrap_or_else(|error| {
                tracing::error!(%error, "cannot take up this node's part in the swarm");
                State::Broken(error.message)
            }));
        });
        Ok(())
    }

    /// Ends the roles; the membership stays, and so do the containers.
    pub(crate) async fn shutdown(&self) {
        let _changing = self.shared.changing.lock().await;
        if let State::Member(member) = self.shared.state()
            && let Some(parts) = member.parts.lock().await.take()
        {
            parts.agent.shutdown().await;
            parts.keeper.shutdown().await;
        }
    }

    pub(crate) fn is_member(&self) -> bool {
        !matches!(self.shared.state(), State::Outside)
    }

    /// Runs a change to its end even when the client that asked for it goes away.
    pub(crate) async fn detached<T, F>(&self, change: impl FnOnce(Arc<Shared>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let task = tokio::spawn(change(self.shared.clone()));
        task.await.map_err(|e| Error::internal(format!("the change died: {e}")))?
    }
}

impl Shared {
    pub(crate) fn state(&self) -> State {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, state: State) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Starts the roles again that this node had.
    async fn take_up(&self, membership: Membership) -> Result<State> {
        let locked = |membership| {
            tracing::info!("this manager is locked: it waits for the unlock key");
            Ok(State::Locked(Arc::new(membership)))
        };
        let stored = match self.certificates().load() {
            Err(IdentityError::Locked) => return locked(membership),
            stored => stored?,
        };
        let Some(parts) = stored else {
            // Founding or joining was interrupted before there was an identity.
            self.around.store.clear()?;
            return Ok(State::Outside);
        };
        let identity = Identity::new(&parts)?;
        // What a manager that became a worker left may still be locked.
        if identity.role() == Role::Manager && self.vault.needs_unlocking()? {
            return locked(membership);
        }
        self.member(membership, identity, None).await.map(State::Member)
    }

    pub(crate) async fn found(&self, request: InitRequest) -> Result<NodeId> {
        match self.state() {
            State::Outside => {}
            State::Member(member) if request.force_new_cluster => return found_anew(&member).await,
            State::Member(_) | State::Pending | State::Locked(_) | State::Broken(_) => {
                return Err(Error::unavailable(ALREADY_MEMBER));
            }
        }
        check_init(&request)?;
        let membership = self.founding(&request)?;
        self.set(State::Pending);
        let founded = self.try_found(request, membership).await;
        self.settle(&founded)?;
        let member = founded?;
        // The first look at the swarm should find its node ready; the swarm is there in any case.
        let mut view = member.view.clone();
        let _ = tokio::time::timeout(FIRST_SESSION_MAX, view.wait_for(|view| view.connected)).await;
        Ok(member.node_id.clone())
    }

    async fn try_found(&self, request: InitRequest, membership: Membership) -> Result<Arc<Member>> {
        self.around.store.save(&membership)?;
        let init = SwarmInit {
            spec: request.spec,
            default_address_pools: request.default_addr_pool,
            subnet_size: request.subnet_size,
            data_path_port: request.data_path_port,
            data_path_address: membership.data_path_addr.clone(),
            availability: request.availability,
            description: facts::node_description(&self.around.system),
        };
        let config = self.manager_config(&membership);
        let manager = match request.restore {
            Some(backup) => Manager::restore(config, init, backup.file, backup.secret).await?,
            None => Manager::bootstrap(config, init).await?,
        };
        let identity = manager.identity().clone();
        self.member(membership, identity, Some(manager)).await
    }

    /// The addresses of a swarm's first manager.
    fn founding(&self, request: &InitRequest) -> Result<Membership> {
        let interfaces = address::interfaces();
        let ours = self.own_subnets();
        let default = &self.around.default_advertise_addr;
        let listen = address::listen(&request.listen_addr, &interfaces)?;
        let advertise = address::advertise(&request.advertise_addr, default, listen, &interfaces, &ours)?;
        address::check_local(listen, advertise, &interfaces, &ours)?;
        let data_path = address::data_path(&request.data_path_addr, &interfaces)?.unwrap_or(advertise.ip);
        Ok(Membership {
            listen_addr: SocketAddr::new(listen.ip, listen.port),
            advertise_addr: advertise.to_string(),
            data_path_addr: data_path.to_string(),
            managers: Vec::new(),
            leaving: false,
        })
    }

    pub(crate) async fn join(&self, request: JoinRequest) -> Result<()> {
        if !matches!(self.state(), State::Outside) {
            return Err(Error::unavailable(ALREADY_MEMBER));
        }
        if request.remote_addrs.is_empty() {
            return Err(Error::invalid("at least 1 RemoteAddr is required to join"));
        }
        let membership = self.joining(&request)?;
        self.set(State::Pending);
        let joined = self.try_join(request, membership).await;
        self.settle(&joined)?;
        let mut view = joined?.view.clone();
        let connected = tokio::time::timeout(JOIN_MAX, view.wait_for(|view| view.connected));
        match connected.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Error::unavailable(JOIN_TIMEOUT)),
        }
    }

    async fn try_join(&self, request: JoinRequest, membership: Membership) -> Result<Arc<Member>> {
        self.around.store.save(&membership)?;
        let certificates = self.certificates();
        let (token, availability) = (&request.join_token, request.availability);
        let identity = skep_agent::join(&certificates, &membership.managers, token, availability).await?;
        let manager = match identity.role() {
            Role::Worker => None,
            Role::Manager => {
                let config = self.manager_config(&membership);
                Some(Manager::join_through(config, identity.clone(), &membership.managers).await?)
            }
        };
        self.member(membership, identity, manager).await
    }

    fn joining(&self, request: &JoinRequest) -> Result<Membership> {
        let interfaces = address::interfaces();
        let managers: Vec<String> =
            request.remote_addrs.iter().map(|text| address::remote(text)).collect::<Result<_>>()?;
        let listen = address::listen(&request.listen_addr, &interfaces)?;
        let advertise = self.advertise_to(&request.advertise_addr, &managers, listen, &interfaces)?;
        let data_path = address::data_path(&request.data_path_addr, &interfaces)?;
        let data_path = data_path.or_else(|| advertise.map(|endpoint| endpoint.ip));
        Ok(Membership {
            listen_addr: SocketAddr::new(listen.ip, listen.port),
            advertise_addr: advertise.map(|endpoint| endpoint.to_string()).unwrap_or_default(),
            data_path_addr: data_path.map(|ip| ip.to_string()).unwrap_or_default(),
            managers,
            leaving: false,
        })
    }

    /// What the user named, else the address that packets to the managers leave from.
    fn advertise_to(
        &self,
        wanted: &str,
        managers: &[String],
        listen: address::Endpoint,
        interfaces: &[Interface],
    ) -> Result<Option<address::Endpoint>> {
        let default = &self.around.default_advertise_addr;
        if !wanted.is_empty() || !default.is_empty() {
            return address::advertise(wanted, default, listen, interfaces, &self.own_subnets()).map(Some);
        }
        let towards = managers.iter().find_map(|manager| source_address_towards(manager));
        Ok(towards.map(|ip| address::Endpoint { ip, port: listen.port }))
    }

    /// After founding or joining: what failed leaves no trace.
    fn settle(&self, outcome: &Result<Arc<Member>>) -> Result<()> {
        match outcome {
            Ok(member) => self.set(State::Member(member.clone())),
            Err(_) => {
                self.set(State::Outside);
                self.around.store.clear()?;
            }
        }
        Ok(())
    }

    pub(crate) async fn leave(&self, force: bool) -> Result<()> {
        let member = match self.state() {
            State::Outside => return Err(Error::unavailable(NO_MEMBER)),
            State::Locked(_) if !force => return Err(Error::unavailable(LEAVING_LOCKED)),
            State::Member(member) => Some(member),
            State::Locked(_) | State::Pending | State::Broken(_) => None,
        };
        if let Some(member) = member.as_ref().filter(|member| member.is_manager()) {
            if !force {
                check_leave(member.control())?;
            }
            retire(member).await;
        }
        if let Some(mut membership) = self.around.store.load()? {
            membership.leaving = true;
            self.around.store.save(&membership)?;
        }
        self.set(State::Pending);
        let parts = match &member {
            Some(member) => member.parts.lock().await.take(),
            None => None,
        };
        if let Some(parts) = parts {
            if let Err(error) = parts.agent.leave().await {
                tracing::warn!(%error, "not everything of the swarm could be removed; trying once more");
            }
            parts.keeper.shutdown().await;
        }
        let left = self.finish_leaving().await;
        self.set(match &left {
            Ok(()) => State::Outside,
            Err(error) => State::Broken(error.message.clone()),
        });
        left
    }

    /// Removes what the swarm left on this node; may be repeated.
    async fn finish_leaving(&self) -> Result<()> {
        let executor = self.executor(NodeId::default());
        for task in executor.tasks().await? {
            executor.remove(&task).await?;
        }
        executor.clear_network().await?;
        self.around.store.clear()
    }

    /// Starts the agent, and beside it the manager when the certificate is a manager's.
    /// `manager` runs already.
    async fn member(
        &self,
        membership: Membership,
        identity: Identity,
        manager: Option<Manager>,
    ) -> Result<Arc<Member>> {
        let config = self.manager_config(&membership);
        // Its own manager, where there is one, knows the way to the others.
        let is_manager = manager.is_some() || Manager::exists(&config);
        let own = is_manager.then(|| own_listener(membership.listen_addr).to_string());
        let managers = own.into_iter().chain(membership.managers.clone()).collect();
        if let Err(error) = self.around.engine.gateway_network().await {
            // Tasks that need it ask again.
            tracing::warn!(%error, "cannot make the gateway network");
        }
        let description = facts::node_description(&self.around.system);
        let started = Agent::start(AgentConfig {
            state_dir: self.around.store.directory().join("worker"),
            identity: identity.clone(),
            certificates: self.certificates(),
            managers,
            description,
            data_path_address: membership.data_path_addr.clone(),
            executor: self.executor(identity.node_id()),
            task_api: Arc::new(TunnelEnd(self.task_service())),
        })
        .await;
        let agent = match started {
            Ok(agent) => agent,
            Err(error) => {
                if let Some(manager) = manager {
                    manager.shutdown().await;
                }
                return Err(error);
            }
        };
        let node_id = identity.node_id();
        let kept = Kept { config, identity, view: agent.watch(), managers: membership.managers.clone() };
        let keeper = ManagerKeeper::start(kept, manager);
        Ok(Arc::new(Member {
            node_id,
            view: agent.watch(),
            manager: keeper.state(),
            parts: Mutex::new(Some(Parts { agent, keeper })),
            membership,
        }))
    }

    /// What this node answers to managers.
    fn task_service(&self) -> skep_api::TaskService {
        skep_api::TaskService::new(self.around.engine.clone(), Arc::new(NetdAttach(self.around.netd.clone())))
    }

    fn executor(&self, node_id: NodeId) -> Arc<dyn Executor> {
        let node =
            NodeFacts { id: node_id, hostname: self.around.system.hostname.clone(), platform: facts::platform() };
        Arc::new(EngineExecutor::new(self.around.engine.clone(), self.around.netd.clone(), node))
    }

    fn certificates(&self) -> CertStore {
        CertStore::with_vault(self.around.store.directory().join("certificates"), self.vault.clone())
    }

    fn manager_config(&self, membership: &Membership) -> ManagerConfig {
        ManagerConfig {
            state_dir: self.around.store.directory().to_owned(),
            listen_addr: membership.listen_addr,
            advertise_addr: membership.advertise_addr.clone(),
            vault: self.vault.clone(),
        }
    }

    /// Subnets of this engine's own networks, where no peer could reach this node.
    fn own_subnets(&self) -> Vec<IpNet> {
        let networks = self.around.engine.network_list();
        networks.iter().flat_map(|network| network.spec.ipam.iter().filter_map(|ipam| ipam.subnet)).collect()
    }
}

/// `--force-new-cluster`: keeps this manager and what it knows, and drops the others.
async fn found_anew(member: &Member) -> Result<NodeId> {
    if !member.is_manager() {
        return Err(Error::unavailable(ALREADY_MEMBER));
    }
    let parts = member.parts.lock().await;
    let Some(parts) = parts.as_ref() else { return Err(not_ready()) };
    parts.keeper.force_new_cluster().await?;
    Ok(member.node_id.clone())
}

/// The others go on better without a member that is gone for good, so it says goodbye; where
/// that is not possible, they see it as unreachable.
async fn retire(member: &Member) {
    let Some(control) = member.control() else { return };
    let retired = tokio::time::timeout(RETIRE_MAX, control.retire()).await;
    match retired.unwrap_or_else(|_| Err(Error::unavailable("no answer in time"))) {
        Ok(()) => {}
        Err(error) => tracing::warn!(%error, "this manager leaves without the others' consent"),
    }
}

/// Serves what managers ask of this node's tasks with the API's own handlers.
struct TunnelEnd(skep_api::TaskService);

#[async_trait::async_trait]
impl skep_agent::TaskApi for TunnelEnd {
    async fn serve(&self, connection: tokio::io::DuplexStream) {
        self.0.serve(connection).await;
    }
}
