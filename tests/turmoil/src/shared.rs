//! What hosts and the world tell each other, and what outlives a host's software.

use crate::oracle::Oracle;
use skep_cluster::assign::Assignments;
use skep_identity::Identity;
use skep_manager::{Control, ManagerConfig};
use skep_sim::agent::SmallAgent;
use std::cell::{Cell, RefCell};
use std::fmt::Arguments;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use tokio::sync::watch;

pub(crate) const MANAGERS: usize = 3;
pub(crate) const AGENTS: usize = 3;
pub(crate) const PORT: u16 = 2377;

/// A node without managers: what is on its disk and what runs on it.
pub(crate) struct AgentNode {
    pub(crate) identity: Option<Identity>,
    pub(crate) session_id: String,
    pub(crate) set: Assignments,
    pub(crate) agent: SmallAgent,
}

/// One a run; hosts have it behind an `Rc`.
pub(crate) struct Shared {
    /// `host:port` of each manager.
    pub(crate) addresses: Vec<String>,
    pub(crate) dir: PathBuf,
    /// The managers that are up.
    pub(crate) controls: RefCell<[Option<Control>; MANAGERS]>,
    pub(crate) nodes: RefCell<Vec<AgentNode>>,
    pub(crate) oracle: RefCell<Oracle>,
    /// Clients write.
    pub(crate) writing: Cell<bool>,
    /// Tasks fail by themselves now and then.
    pub(crate) failing: Cell<bool>,
    /// Managers are to shut down.
    pub(crate) over: watch::Sender<bool>,
    events: RefCell<Vec<String>>,
    broken: RefCell<Option<String>>,
}

impl Shared {
    pub(crate) fn new(seed: u64, addresses: Vec<String>, dir: PathBuf) -> Self {
        let node = |number| AgentNode {
            identity: None,
            session_id: String::new(),
            set: Assignments::default(),
            agent: SmallAgent::new(seed, number),
        };
        Self {
            addresses,
            dir,
            controls: RefCell::default(),
            nodes: RefCell::new((0..AGENTS).map(node).collect()),
            oracle: RefCell::new(Oracle::new(seed)),
            writing: Cell::new(false),
            failing: Cell::new(true),
            over: watch::Sender::new(false),
            events: RefCell::default(),
            broken: RefCell::default(),
        }
    }

    /// For the trace, in the order of events.
    pub(crate) fn note(&self, event: Arguments<'_>) {
        self.events.borrow_mut().push(event.to_string());
    }

    pub(crate) fn take_events(&self) -> Vec<String> {
        std::mem::take(&mut *self.events.borrow_mut())
    }

    /// A rule is broken: the run ends. The first one counts.
    pub(crate) fn broken(&self, rule: String) {
        self.broken.borrow_mut().get_or_insert(rule);
    }

    pub(crate) fn take_broken(&self) -> Option<String> {
        self.broken.borrow_mut().take()
    }

    pub(crate) fn control(&self, manager: usize) -> Option<Control> {
        self.controls.borrow()[manager].clone()
    }

    pub(crate) fn set_control(&self, manager: usize, control: Option<Control>) {
        self.controls.borrow_mut()[manager] = control;
    }

    pub(crate) fn state_dir(&self, manager: usize) -> PathBuf {
        self.dir.join(manager_name(manager))
    }

    pub(crate) fn config(&self, manager: usize) -> ManagerConfig {
        let state_dir = self.state_dir(manager);
        ManagerConfig {
            vault: ManagerConfig::vault_of(&state_dir),
            state_dir,
            listen_addr: (Ipv4Addr::UNSPECIFIED, PORT).into(),
            advertise_addr: self.addresses[manager].clone(),
        }
    }
}

pub(crate) fn manager_name(manager: usize) -> String {
    format!("manager{}", manager + 1)
}

pub(crate) fn agent_name(agent: usize) -> String {
    format!("agent{}", agent + 1)
}
