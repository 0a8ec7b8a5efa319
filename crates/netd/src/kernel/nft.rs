//! nftables over netlink: applies a list of changes as one transaction and reads a
//! table back.

use crate::kernel::netlink::{APPEND, Answer, Attrs, CREATE, Request, Socket, attribute_list, attributes, be32, text};
use crate::nft::expression::{Rule, Verdict};
use crate::nft::table::{Chain, Change, DataType, Hook, Set, SetKind, Table, TableFamily, Value};
use std::io;

/// The name of the tables that are ours, in every namespace.
pub const TABLE: &str = "skep";

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const GET_SET: u16 = 10;
const DELETE_SET: u16 = 11;
const NEW_ELEMENT: u16 = 12;
const GET_ELEMENT: u16 = 13;
const DELETE_ELEMENT: u16 = 14;
const GET_TABLE: u16 = 1;

/// nft's own notes: type 0 (byte order of the key) or 1 (of the data), length 4, value 1 (host).
const USER_DATA_KEY_HOST_ORDER: [u8; 6] = [0, 4, 1, 0, 0, 0];
const USER_DATA_VALUE_HOST_ORDER: [u8; 6] = [1, 4, 1, 0, 0, 0];
const FAMILY_INET: u8 = 1;
const FAMILY_BRIDGE: u8 = 7;
const SET_FLAG_MAP: u32 = 8;
const TYPE_VERDICT: u32 = 0xffff_ff00;
const HEADER: usize = 4;
/// An attribute holds at most 64 KiB; larger element lists go in several messages.
const ELEMENTS_PER_MESSAGE: usize = 500;

const VERDICT_DROP: u32 = 0;
const VERDICT_ACCEPT: u32 = 1;
const VERDICT_JUMP: u32 = 0xffff_fffd;
const VERDICT_GOTO: u32 = 0xffff_fffc;

/// Applies all changes or none.
///
/// # Errors
/// The kernel's first refusal.
pub fn apply(socket: &mut Socket, family: TableFamily, changes: &[Change]) -> io::Result<()> {
    let requests: Vec<_> =
        changes.iter().enumerate().flat_map(|(index, change)| encode(family, index, change)).collect();
    socket.transact(&batch_mark(BATCH_BEGIN), &requests, &batch_mark(BATCH_END))
}

/// Reads our table; `None` when there is none.
///
/// # Errors
/// What the kernel says.
pub fn read_table(socket: &mut Socket, family: TableFamily) -> io::Result<Option<Table>> {
    let mut name = Attrs::new();
    name.text(1, TABLE);
    match socket.ask(&request(family, GET_TABLE, 0, &name)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut table = Table::default();
    for answer in socket.dump(&request(family, GET_CHAIN, 0, &name))? {
        if let Some((name, chain)) = chain_of(&answer) {
            table.chains.insert(name, chain);
        }
    }
    for answer in socket.dump(&request(family, GET_RULE, 0, &name))? {
        let found = attributes(&answer.body, HEADER);
        if let (Some(TABLE), Some(chain), Some(rule)) =
            (found.get(&1).map(|t| text(t)).as_deref(), found.get(&2), found.get(&4))
            && let Some(chain) = table.chains.get_mut(&text(chain))
        {
            chain.rules.push(Rule(rule.to_vec()));
        }
    }
    for answer in socket.dump(&request(family, GET_SET, 0, &name))? {
        let Some((set_name, mut set)) = set_of(&answer) else { continue };
        let mut which = Attrs::new();
        which.text(1, TABLE).text(2, &set_name);
        for answer in socket.dump(&request(family, GET_ELEMENT, 0, &which))? {
            read_elements(&answer, &mut set);
        }
        table.sets.insert(set_name, set);
    }
    Ok(Some(table))
}

fn request(family: TableFamily, kind: u16, flags: u16, attrs: &Attrs) -> Request {
    let family = match family {
        TableFamily::Inet => FAMILY_INET,
        TableFamily::Bridge => FAMILY_BRIDGE,
    };
    Request::new(SUBSYSTEM | kind, flags, &[family, 0, 0, 0], attrs)
}

fn batch_mark(kind: u16) -> Request {
    Request::new(kind, 0, &[0, 0, 0, 10], &Attrs::new())
}

fn encode(family: TableFamily, index: usize, change: &Change) -> Vec<Request> {
    let mut a = Attrs::new();
    a.text(1, TABLE);
    match change {
        Change::DeleteTable => vec![request(family, DELETE_TABLE, 0, &a)],
        Change::AddTable => vec![request(family, NEW_TABLE, CREATE, &a)],
        Change::AddSet { name, key, kind } => {
            a.text(2, name).be32(4, key.number).be32(5, key.length);
            match kind {
                SetKind::Set => a.be32(3, 0),
                SetKind::Map(data) => a.be32(3, SET_FLAG_MAP).be32(6, data.number).be32(7, data.length),
                SetKind::VerdictMap => a.be32(3, SET_FLAG_MAP).be32(6, TYPE_VERDICT),
            };
            let notes = order_notes(*key, *kind);
            if !notes.is_empty() {
                a.bytes(13, &notes);
            }
            // The id is only looked at by rules of the same batch, and ours go by name.
            a.be32(10, u32::try_from(index).unwrap_or_default() + 1);
            vec![request(family, NEW_SET, CREATE, &a)]
        }
        Change::AddChain { name, hook } => {
            a.text(3, name);
            if let Some(hook) = hook {
                a.nest(4, |h| {
                    h.be32(1, hook.hook).bytes(2, &hook.priority.to_be_bytes());
                });
                a.be32(5, VERDICT_ACCEPT).text(7, &hook.chain_type);
            }
            vec![request(family, NEW_CHAIN, CREATE, &a)]
        }
        Change::FlushChain { name } => {
            a.text(2, name);
            vec![request(family, DELETE_RULE, 0, &a)]
        }
        Change::AddRule { chain, rule } => {
            a.text(2, chain).nest(4, |list| list.0.extend_from_slice(&rule.0));
            vec![request(family, NEW_RULE, CREATE | APPEND, &a)]
        }
        Change::DeleteElements { set, elements } => encode_elements((family, DELETE_ELEMENT, 0), set, elements),
        Change::AddElements { set, elements } => encode_elements((family, NEW_ELEMENT, CREATE), set, elements),
        Change::DeleteChain { name } => {
            a.text(3, name);
            vec![request(family, DELETE_CHAIN, 0, &a)]
        }
        Change::DeleteSet { name } => {
            a.text(2, name);
            vec![request(family, DELETE_SET, 0, &a)]
        }
    }
}

/// Only listings look at it; without it names and numbers read backwards.
fn order_notes(key: DataType, kind: SetKind) -> Vec<u8> {
    let mut notes = Vec::new();
    if key.is_host_order() {
        notes.extend_from_slice(&USER_DATA_KEY_HOST_ORDER);
    }
    if matches!(kind, SetKind::Map(data) if data.is_host_order()) {
        notes.extend_from_slice(&USER_DATA_VALUE_HOST_ORDER);
    }
    notes
}

fn encode_elements(
    (family, kind, flags): (TableFamily, u16, u16),
    set: &str,
    elements: &[(Vec<u8>, Value)],
) -> Vec<Request> {
    let encode_chunk = |chunk: &[(Vec<u8>, Value)]| {
        let mut a = Attrs::new();
        a.text(1, TABLE).text(2, set).nest(3, |list| {
            for (key, value) in chunk {
                list.nest(1, |element| {
                    element.nest(1, |k| {
                        k.bytes(1, key);
                    });
                    match value {
                        Value::None => {}
                        Value::Data(data) => {
                            element.nest(2, |d| {
                                d.bytes(1, data);
                            });
                        }
                        Value::Verdict(verdict) => {
                            element.nest(2, |d| verdict.write(d));
                        }
                    }
                });
            }
        });
        request(family, kind, flags, &a)
    };
    elements.chunks(ELEMENTS_PER_MESSAGE).map(encode_chunk).collect()
}

fn chain_of(answer: &Answer) -> Option<(String, Chain)> {
    let found = attributes(&answer.body, HEADER);
    if text(found.get(&1)?) != TABLE {
        return None;
    }
    let hook = found.get(&4).and_then(|hook| {
        let hook = attributes(hook, 0);
        let priority = i32::from_be_bytes(hook.get(&2)?.get(..4)?.try_into().ok()?);
        Some(Hook { chain_type: text(found.get(&7)?), hook: be32(hook.get(&1)?)?, priority })
    });
    Some((text(found.get(&3)?), Chain { hook, rules: Vec::new() }))
}

fn set_of(answer: &Answer) -> Option<(String, Set)> {
    let found = attributes(&answer.body, HEADER);
    if text(found.get(&1)?) != TABLE {
        return None;
    }
    let key = DataType { number: be32(found.get(&4)?)?, length: be32(found.get(&5)?)? };
    let kind = match found.get(&6).and_then(|number| be32(number)) {
        None => SetKind::Set,
        Some(TYPE_VERDICT) => SetKind::VerdictMap,
        Some(number) => SetKind::Map(DataType { number, length: be32(found.get(&7)?)? }),
    };
    Some((text(found.get(&2)?), Set::new(key, kind)))
}

fn read_elements(answer: &Answer, set: &mut Set) {
    let found = attributes(&answer.body, HEADER);
    for (_, element) in attribute_list(found.get(&3).copied().unwrap_or_default()) {
        let element = attributes(element, 0);
        let Some(key) = element.get(&1).and_then(|key| attributes(key, 0).get(&1).copied()) else { continue };
        let value = element.get(&2).map_or(Some(Value::None), |data| value_of(data));
        if let Some(value) = value {
            set.elements.insert(key.to_vec(), value);
        }
    }
}

fn value_of(data: &[u8]) -> Option<Value> {
    let data = attributes(data, 0);
    if let Some(bytes) = data.get(&1) {
        return Some(Value::Data(bytes.to_vec()));
    }
    let verdict = attributes(data.get(&2)?, 0);
    let chain = verdict.get(&2).map(|chain| text(chain));
    let verdict = match (be32(verdict.get(&1)?)?, chain) {
        (VERDICT_ACCEPT, _) => Verdict::Accept,
        (VERDICT_DROP, _) => Verdict::Drop,
        (VERDICT_JUMP, Some(chain)) => Verdict::Jump(chain),
        (VERDICT_GOTO, Some(chain)) => Verdict::Goto(chain),
        _ => return None,
    };
    Some(Value::Verdict(verdict))
}
