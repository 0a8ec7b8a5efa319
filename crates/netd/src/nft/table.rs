//! A whole nftables table as a value, and the pure difference between the wanted
//! table and the one at hand, in an order the kernel accepts as one transaction.

use crate::nft::expression::{Family, INTERFACE_NAME_LENGTH, Rule, Verdict, covers};
use std::collections::BTreeMap;

/// nftables' own numbers for data types, which make listings readable.
pub const TYPE_INTEGER: u32 = 4;
pub const TYPE_IPV4: u32 = 7;
pub const TYPE_IPV6: u32 = 8;
pub const TYPE_STATION: u32 = 9;
pub const TYPE_PROTOCOL: u32 = 12;
pub const TYPE_PORT: u32 = 13;
pub const TYPE_MARK: u32 = 19;
pub const TYPE_INTERFACE: u32 = 41;
const TYPE_BITS: u32 = 6;

/// Types and byte lengths of a set's key or a map's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataType {
    pub number: u32,
    pub length: u32,
}

impl DataType {
    pub const fn single(number: u32, length: u32) -> Self {
        Self { number, length }
    }

    pub const fn and(self, next: Self) -> Self {
        Self { number: (self.number << TYPE_BITS) | next.number, length: self.length + next.length }
    }

    /// Whether nftables prints a key of this type from the machine's byte order.
    pub const fn is_host_order(self) -> bool {
        self.number == TYPE_INTERFACE || self.number == TYPE_MARK
    }

    pub const PROTOCOL: Self = Self::single(TYPE_PROTOCOL, 4);
    pub const PORT: Self = Self::single(TYPE_PORT, 4);
    pub const INTERFACE: Self = Self::single(TYPE_INTERFACE, INTERFACE_NAME_LENGTH as u32);
    /// A MAC address.
    pub const STATION: Self = Self::single(TYPE_STATION, 6);
    /// The same as a part of a key.
    pub const PADDED_STATION: Self = Self::single(TYPE_STATION, 8);
    pub const MARK: Self = Self::single(TYPE_MARK, 4);
    /// Tells connections apart that are equal otherwise.
    pub const ZONE: Self = Self::single(TYPE_INTEGER, 2);
    /// A number from `numgen`.
    pub const INDEX: Self = Self::single(TYPE_MARK, 4);

    pub const fn address(family: Family) -> Self {
        match family {
            Family::V4 => Self::single(TYPE_IPV4, 4),
            Family::V6 => Self::single(TYPE_IPV6, 16),
        }
    }
}

/// What a set maps its keys to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetKind {
    Set,
    Map(DataType),
    VerdictMap,
}

/// One element's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    None,
    Data(Vec<u8>),
    Verdict(Verdict),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    pub key: DataType,
    pub kind: SetKind,
    pub elements: BTreeMap<Vec<u8>, Value>,
}

impl Set {
    pub fn new(key: DataType, kind: SetKind) -> Self {
        Self { key, kind, elements: BTreeMap::new() }
    }
}

/// A chain's place in the packet's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    pub chain_type: String,
    pub hook: u32,
    pub priority: i32,
}

pub const HOOK_PREROUTING: u32 = 0;
pub const HOOK_INPUT: u32 = 1;
pub const HOOK_FORWARD: u32 = 2;
pub const HOOK_OUTPUT: u32 = 3;
pub const HOOK_POSTROUTING: u32 = 4;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    pub hook: Option<Hook>,
    pub rules: Vec<Rule>,
}

impl Chain {
    pub fn plain(rules: Vec<Rule>) -> Self {
        Self { hook: None, rules }
    }

    pub fn at(chain_type: &str, hook: u32, priority: i32, rules: Vec<Rule>) -> Self {
        Self { hook: Some(Hook { chain_type: chain_type.into(), hook, priority }), rules }
    }
}

/// Which packets a table of ours sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TableFamily {
    /// Those of both internet protocols, where they are routed.
    Inet,
    /// Frames, where they are bridged.
    Bridge,
}

/// What is in a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    pub sets: BTreeMap<String, Set>,
    pub chains: BTreeMap<String, Chain>,
}

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    DeleteTable,
    AddTable,
    AddSet { name: String, key: DataType, kind: SetKind },
    AddChain { name: String, hook: Option<Hook> },
    FlushChain { name: String },
    DeleteElements { set: String, elements: Vec<(Vec<u8>, Value)> },
    AddElements { set: String, elements: Vec<(Vec<u8>, Value)> },
    AddRule { chain: String, rule: Rule },
    DeleteChain { name: String },
    DeleteSet { name: String },
}

/// The transaction that turns `have` into `want`; empty when nothing differs.
pub fn difference(want: Option<&Table>, have: Option<&Table>) -> Vec<Change> {
    match (want, have) {
        (None, None) => Vec::new(),
        (None, Some(_)) => vec![Change::DeleteTable],
        (Some(want), None) => create(want),
        (Some(want), Some(have)) if incompatible(want, have) => {
            let mut changes = vec![Change::DeleteTable];
            changes.extend(create(want));
            changes
        }
        (Some(want), Some(have)) => update(want, have),
    }
}

fn create(want: &Table) -> Vec<Change> {
    let mut changes = vec![Change::AddTable];
    changes.extend(update(want, &Table::default()));
    changes
}

/// A set's types and a base chain's hook cannot be changed in place.
fn incompatible(want: &Table, have: &Table) -> bool {
    let set_differs = want
        .sets
        .iter()
        .any(|(name, set)| have.sets.get(name).is_some_and(|other| other.key != set.key || other.kind != set.kind));
    let chain_differs =
        want.chains.iter().any(|(name, chain)| have.chains.get(name).is_some_and(|other| other.hook != chain.hook));
    set_differs || chain_differs
}

fn update(want: &Table, have: &Table) -> Vec<Change> {
    let mut changes = Vec::new();
    for (name, set) in want.sets.iter().filter(|(name, _)| !have.sets.contains_key(*name)) {
        changes.push(Change::AddSet { name: name.clone(), key: set.key, kind: set.kind });
    }
    for (name, chain) in want.chains.iter().filter(|(name, _)| !have.chains.contains_key(*name)) {
        changes.push(Change::AddChain { name: name.clone(), hook: chain.hook.clone() });
    }
    let changed: Vec<_> =
        want.chains.iter().filter(|(name, chain)| !same_rules(chain, have.chains.get(*name))).collect();
    let extra_chains: Vec<_> = have.chains.keys().filter(|name| !want.chains.contains_key(*name)).collect();
    let to_flush = changed.iter().map(|(name, _)| *name).filter(|name| have.chains.contains_key(*name));
    for name in to_flush.chain(extra_chains.iter().copied()) {
        changes.push(Change::FlushChain { name: name.clone() });
    }
    let empty = BTreeMap::new();
    for (name, set) in &have.sets {
        let wanted = want.sets.get(name).map_or(&empty, |set| &set.elements);
        let gone = elements_missing_in(wanted, &set.elements);
        if !gone.is_empty() {
            changes.push(Change::DeleteElements { set: name.clone(), elements: gone });
        }
    }
    for (name, set) in &want.sets {
        let present = have.sets.get(name).map_or(&empty, |set| &set.elements);
        let new = elements_missing_in(present, &set.elements);
        if !new.is_empty() {
            changes.push(Change::AddElements { set: name.clone(), elements: new });
        }
    }
    for (name, chain) in changed {
        changes.extend(chain.rules.iter().map(|rule| Change::AddRule { chain: name.clone(), rule: rule.clone() }));
    }
    changes.extend(extra_chains.into_iter().map(|name| Change::DeleteChain { name: name.clone() }));
    let extra_sets = have.sets.keys().filter(|name| !want.sets.contains_key(*name));
    changes.extend(extra_sets.map(|name| Change::DeleteSet { name: name.clone() }));
    changes
}

fn same_rules(chain: &Chain, other: Option<&Chain>) -> bool {
    other.is_some_and(|other| {
        chain.rules.len() == other.rules.len()
            && chain.rules.iter().zip(&other.rules).all(|(ours, theirs)| covers(&ours.0, &theirs.0))
    }) || (other.is_none() && chain.rules.is_empty())
}

fn elements_missing_in(base: &BTreeMap<Vec<u8>, Value>, elements: &BTreeMap<Vec<u8>, Value>) -> Vec<(Vec<u8>, Value)> {
    elements
        .iter()
        .filter(|(key, value)| base.get(*key) != Some(value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(ports: &[u16], chains: &[&str]) -> Table {
        let mut set = Set::new(DataType::PORT, SetKind::Set);
        set.elements = ports.iter().map(|port| (port.to_be_bytes().to_vec(), Value::None)).collect();
        let chain = |name: &&str| ((*name).to_owned(), Chain::plain(vec![Rule::new().oif_is(name).masquerade()]));
        Table { sets: [("ports".to_owned(), set)].into(), chains: chains.iter().map(chain).collect() }
    }

    fn check(want: Option<&Table>, have: Option<&Table>, expect: &str) {
        let names: Vec<_> = difference(want, have)
            .iter()
            .map(|change| format!("{change:?}").split([' ', '{']).next().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(names.join(" "), expect);
    }

    #[test]
    fn equal_tables_need_nothing_and_changes_are_minimal() {
        let base = table(&[80], &["a"]);
        check(Some(&base), Some(&base), "");
        check(None, Some(&base), "DeleteTable");
        check(Some(&base), None, "AddTable AddSet AddChain AddElements AddRule");
        check(Some(&table(&[80, 81], &["a"])), Some(&base), "AddElements");
        check(Some(&table(&[81], &["a"])), Some(&base), "DeleteElements AddElements");
        check(Some(&table(&[80], &["a", "b"])), Some(&base), "AddChain AddRule");
        check(Some(&table(&[80], &[])), Some(&base), "FlushChain DeleteChain");
    }

    #[test]
    fn a_set_of_another_type_replaces_the_table() {
        let mut other = table(&[80], &["a"]);
        if let Some(set) = other.sets.get_mut("ports") {
            set.key = DataType::INDEX;
        }
        check(Some(&table(&[80], &["a"])), Some(&other), "DeleteTable AddTable AddSet AddChain AddElements AddRule");
    }
}
