//! A stand-in for Raft: one agreed log, a leader with an unagreed tail, followers that lag,
//! elections, and leaders that do not know yet that they are none.

use crate::dice::Dice;
use skep_cluster::Command;
use skep_cluster::store::{Applied, Rejection, Store};
use skep_model::task::TaskStatus;
use std::sync::Arc;

/// Who waits for an answer.
#[derive(Debug, Clone)]
pub enum Origin {
    Plan,
    /// A node's reports; the node's number and how often this was tried.
    Status {
        node: usize,
        updates: Vec<(String, TaskStatus)>,
        attempts: u32,
    },
    /// A fact the dispatcher found out.
    Fact,
    /// A user's request by its number.
    User(usize),
}

pub struct Proposal {
    pub command: Arc<Command>,
    pub origin: Origin,
    pub manager: usize,
    proposed_at_ms: u64,
    commit_at_ms: u64,
    /// Some other manager that may be the next leader has it.
    replicated: bool,
}

pub struct Committed {
    pub manager: usize,
    pub command: Arc<Command>,
    pub origin: Origin,
    pub result: Result<Applied, Rejection>,
}

pub struct Raft {
    /// What is agreed; the entry at position p has index p + 1.
    pub log: Vec<Arc<Command>>,
    /// What the log says, without any fault in between.
    pub truth: Store,
    pub leader: Option<usize>,
    pub term: u64,
    tail: Vec<Proposal>,
    quorum_lost_at_ms: Option<u64>,
    election_at_ms: u64,
    dice: Dice,
    /// Entries are agreed on after so long at most.
    pub commit_max_ms: u64,
}

const ELECTION_MIN_MS: u64 = 1_000;
const ELECTION_MAX_MS: u64 = 4_000;

impl Raft {
    pub fn new(seed: u64) -> Self {
        Self {
            log: Vec::new(),
            truth: Store::default(),
            leader: None,
            term: 0,
            tail: Vec::new(),
            quorum_lost_at_ms: None,
            election_at_ms: 0,
            dice: Dice::new(seed, "raft"),
            commit_max_ms: 500,
        }
    }

    /// A manager that thinks it leads proposes. One that is wrong talks to itself.
    pub fn propose(&mut self, now_ms: u64, manager: usize, command: Command, origin: Origin) {
        if self.leader != Some(manager) {
            return;
        }
        let commit_at_ms = now_ms + self.dice.between(1, self.commit_max_ms);
        let command = Arc::new(command);
        self.tail.push(Proposal { command, origin, manager, proposed_at_ms: now_ms, commit_at_ms, replicated: false });
    }

    /// Whether entries that the log had before then are still to be applied: a new leader plans
    /// nothing until it knows what they do.
    pub fn is_catching_up(&self, led_since_ms: u64) -> bool {
        self.tail.iter().any(|proposal| proposal.proposed_at_ms < led_since_ms)
    }

    /// `reaches[m]`: manager m is up and can talk with a majority.
    pub fn tick(&mut self, now_ms: u64, reaches: &[bool]) -> Vec<Committed> {
        match self.leader {
            Some(leader) if reaches[leader] => {
                self.quorum_lost_at_ms = None;
                self.commit(now_ms)
            }
            Some(_) => {
                let since = *self.quorum_lost_at_ms.get_or_insert(now_ms);
                if now_ms - since >= ELECTION_MIN_MS { self.depose(now_ms) } else { Vec::new() }
            }
            None => {
                self.elect(now_ms, reaches);
                Vec::new()
            }
        }
    }

    fn commit(&mut self, now_ms: u64) -> Vec<Committed> {
        self.tail.iter_mut().for_each(|proposal| proposal.replicated = true);
        let ready = self.tail.iter().take_while(|proposal| proposal.commit_at_ms <= now_ms).count();
        let proposals: Vec<Proposal> = self.tail.drain(..ready).collect();
        proposals.into_iter().map(|proposal| self.append(proposal)).collect()
    }

    fn append(&mut self, proposal: Proposal) -> Committed {
        let Proposal { command, origin, manager, .. } = proposal;
        self.log.push(Arc::clone(&command));
        let result = self.truth.apply(self.log.len() as u64, &command);
        Committed { manager, command, origin, result }
    }

    /// The leader is gone. Of its tail, a prefix may have reached the next one.
    fn depose(&mut self, now_ms: u64) -> Vec<Committed> {
        self.leader = None;
        self.quorum_lost_at_ms = None;
        self.election_at_ms = now_ms + self.dice.between(ELECTION_MIN_MS, ELECTION_MAX_MS);
        let tail = std::mem::take(&mut self.tail);
        let replicated = tail.iter().take_while(|proposal| proposal.replicated).count();
        let kept = self.dice.below(replicated + 1);
        let survivors: Vec<Proposal> = tail.into_iter().take(kept).collect();
        survivors.into_iter().map(|proposal| self.append(proposal)).collect()
    }

    fn elect(&mut self, now_ms: u64, reaches: &[bool]) {
        if now_ms < self.election_at_ms {
            return;
        }
        let able: Vec<usize> = (0..reaches.len()).filter(|manager| reaches[*manager]).collect();
        if let Some(winner) = self.dice.pick(&able) {
            self.leader = Some(*winner);
            self.term += 1;
        }
    }

    /// Gives up the leader as if it had crashed.
    pub fn shake(&mut self, now_ms: u64) -> Vec<Committed> {
        if self.leader.is_some() { self.depose(now_ms) } else { Vec::new() }
    }
}
