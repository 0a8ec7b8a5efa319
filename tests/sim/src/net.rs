//! Messages between nodes and managers: delayed, lost, doubled, overtaken, cut off.

use crate::dice::Dice;
use skep_cluster::assign::Assignments;
use skep_model::task::{TaskState, TaskStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Manager(usize),
    Node(usize),
}

#[derive(Debug, Clone)]
pub enum Body {
    /// A node opens a session.
    Register,
    /// It lives, and has the set of this generation.
    Heartbeat {
        generation: u64,
    },
    Status {
        updates: Vec<(String, TaskStatus)>,
    },
    /// The session is open.
    Registered,
    /// The manager has no session with the node.
    Unknown,
    NotLeader {
        hint: Option<usize>,
    },
    Assign {
        generation: u64,
        set: Arc<Assignments>,
    },
    /// These reports are stored.
    Stored {
        reports: Vec<(String, TaskState)>,
    },
}

#[derive(Debug, Clone)]
pub struct Envelope {
    pub from: Place,
    pub to: Place,
    pub body: Body,
}

pub struct Net {
    /// By time of arrival, then by order of sending.
    queue: BTreeMap<(u64, u64), Envelope>,
    sent: u64,
    dice: Dice,
    /// One-way cuts.
    blocked: BTreeSet<(Place, Place)>,
    pub loss_per_mille: u32,
    pub duplicate_per_mille: u32,
    pub delay_max_ms: u64,
}

impl Net {
    pub fn new(seed: u64) -> Self {
        Self {
            queue: BTreeMap::new(),
            sent: 0,
            dice: Dice::new(seed, "net"),
            blocked: BTreeSet::new(),
            loss_per_mille: 0,
            duplicate_per_mille: 0,
            delay_max_ms: 0,
        }
    }

    pub fn send(&mut self, now_ms: u64, from: Place, to: Place, body: Body) {
        if self.dice.chance(self.duplicate_per_mille) {
            self.queue_one(now_ms, from, to, body.clone());
        }
        if !self.dice.chance(self.loss_per_mille) {
            self.queue_one(now_ms, from, to, body);
        }
    }

    fn queue_one(&mut self, now_ms: u64, from: Place, to: Place, body: Body) {
        let delay = 1 + self.dice.between(0, self.delay_max_ms);
        self.sent += 1;
        self.queue.insert((now_ms + delay, self.sent), Envelope { from, to, body });
    }

    /// What has arrived by now; what a cut is in the way of is gone.
    pub fn due(&mut self, now_ms: u64) -> Vec<Envelope> {
        let later = self.queue.split_off(&(now_ms + 1, 0));
        let arrived = std::mem::replace(&mut self.queue, later);
        arrived.into_values().filter(|envelope| !self.blocked.contains(&(envelope.from, envelope.to))).collect()
    }

    pub fn block(&mut self, from: Place, to: Place) {
        self.blocked.insert((from, to));
    }

    /// Removes every cut that touches a place.
    pub fn unblock(&mut self, place: Place) {
        self.blocked.retain(|(from, to)| *from != place && *to != place);
    }

    pub fn heal(&mut self) {
        self.blocked.clear();
        (self.loss_per_mille, self.duplicate_per_mille) = (0, 0);
    }

    /// Both ways are open.
    pub fn connected(&self, a: Place, b: Place) -> bool {
        a == b || !(self.blocked.contains(&(a, b)) || self.blocked.contains(&(b, a)))
    }
}
