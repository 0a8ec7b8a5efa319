//! Where the next task of a service goes: a tree with one level per spread label, its
//! leaves filled with nodes. At each level the branch with the fewest tasks of the service
//! is next, in a leaf the node with the fewest failures, then tasks of the service, then
//! tasks at all. What is full is dropped and the rest goes on without it.

use super::load::Loads;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// Smallest first: failures, tasks of the service, all tasks, position.
type RankedNode = Reverse<(u32, u32, u32, usize)>;
/// Smallest first: tasks of the service, tasks per 1,024 nodes, position.
type RankedBranch = Reverse<(u32, u64, usize)>;

#[derive(Default)]
struct Branch {
    branches: BinaryHeap<RankedBranch>,
    nodes: BinaryHeap<RankedNode>,
    of_service: u32,
    active: u64,
    node_count: u64,
}

pub(super) struct Tree {
    /// The root comes first.
    branches: Vec<Branch>,
}

impl Tree {
    /// `counts` and `failures` are per node; only nodes that `suit` are ever taken, but
    /// tasks on the others count for their branch.
    pub(super) fn of(
        loads: &Loads,
        counts: &[u32],
        failures: &[u32],
        spread: &[String],
        suit: impl Fn(usize) -> bool,
    ) -> Self {
        let mut tree = Self { branches: vec![Branch::default()] };
        let mut known: BTreeMap<(usize, String), usize> = BTreeMap::new();
        for (at, load) in loads.0.iter().enumerate() {
            let mut branch = 0;
            tree.branches[0].add(counts[at], load.active);
            for key in spread {
                let fresh = tree.branches.len();
                let next = *known.entry((branch, load.label(key).to_owned())).or_insert(fresh);
                if next == fresh {
                    tree.branches.push(Branch::default());
                }
                branch = next;
                tree.branches[branch].add(counts[at], load.active);
            }
            if suit(at) {
                tree.branches[branch].nodes.push(Reverse((failures[at], counts[at], load.active, at)));
            }
        }
        for ((parent, _), child) in known {
            let rank = tree.branches[child].rank(child);
            tree.branches[parent].branches.push(rank);
        }
        tree
    }

    /// The node for the next task; `fits` says whether one has room for it now.
    pub(super) fn take(&mut self, fits: &dyn Fn(usize) -> bool) -> Option<usize> {
        self.take_from(0, fits)
    }

    fn take_from(&mut self, at: usize, fits: &dyn Fn(usize) -> bool) -> Option<usize> {
        let node = self.best_node(at, fits).or_else(|| self.best_in_branches(at, fits))?;
        self.branches[at].of_service += 1;
        self.branches[at].active += 1;
        Some(node)
    }

    fn best_node(&mut self, at: usize, fits: &dyn Fn(usize) -> bool) -> Option<usize> {
        let nodes = &mut self.branches[at].nodes;
        while let Some(Reverse((failures, of_service, active, node))) = nodes.pop() {
            if fits(node) {
                nodes.push(Reverse((failures, of_service + 1, active + 1, node)));
                return Some(node);
            }
        }
        None
    }

    fn best_in_branches(&mut self, at: usize, fits: &dyn Fn(usize) -> bool) -> Option<usize> {
        while let Some(Reverse((_, _, child))) = self.branches[at].branches.pop() {
            if let Some(node) = self.take_from(child, fits) {
                let rank = self.branches[child].rank(child);
                self.branches[at].branches.push(rank);
                return Some(node);
            }
        }
        None
    }
}

impl Branch {
    fn add(&mut self, of_service: u32, active: u32) {
        self.of_service += of_service;
        self.active += u64::from(active);
        self.node_count += 1;
    }

    fn rank(&self, at: usize) -> RankedBranch {
        Reverse((self.of_service, self.active * 1024 / self.node_count.max(1), at))
    }
}
