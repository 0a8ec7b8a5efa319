//! Which devices a container may use, on cgroup v2: there the kernel asks a small BPF
//! program of the group at each open and mknod. Version 1 has files for it, which
//! libcontainer writes.

use crate::sys;
use libcontainer::oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, Spec};
use std::fs::File;
use std::path::Path;

/// The kernel's numbers in the request and in our rules.
const ACCESS_MAKE: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;
const ACCESS_ALL: i32 = ACCESS_MAKE | ACCESS_READ | ACCESS_WRITE;
const KIND_BLOCK: i32 = 1;
const KIND_CHARACTER: i32 = 2;

/// Opcodes of BPF.
const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbc;
const MOVE: u8 = 0xb4;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP_IF_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

/// Registers: the answer, the request, and its parts.
const ANSWER: u8 = 0;
const REQUEST: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// Restricts the group `dir` to the devices of the specification.
///
/// # Errors
/// A rule that cannot be expressed, or what the kernel says.
pub(crate) fn restrict(dir: &Path, spec: &Spec) -> std::io::Result<()> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let rules = resources.and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
    let Some(program) = program(rules)? else { return Ok(()) };
    let bytes: Vec<u8> = program.into_iter().flat_map(Instruction::bytes).collect();
    sys::attach_device_program(&File::open(dir)?, &bytes)
}

/// One instruction as the kernel takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    target: u8,
    source: u8,
    offset: i16,
    value: i32,
}

impl Instruction {
    fn new(code: u8, target: u8, source: u8, offset: i16, value: i32) -> Self {
        Self { code, target, source, offset, value }
    }

    fn bytes(self) -> [u8; 8] {
        let [offset_0, offset_1] = self.offset.to_ne_bytes();
        let [value_0, value_1, value_2, value_3] = self.value.to_ne_bytes();
        // The lower half of a byte is the first bit field on little-endian machines.
        let registers = if cfg!(target_endian = "little") {
            self.source << 4 | self.target
        } else {
            self.target << 4 | self.source
        };
        [self.code, registers, offset_0, offset_1, value_0, value_1, value_2, value_3]
    }
}

/// The last rule that fits decides, so they are asked from the last to the first; `None`
/// when everything is allowed anyway.
fn program(rules: &[LinuxDeviceCgroup]) -> std::io::Result<Option<Vec<Instruction>>> {
    let mut program = vec![
        Instruction::new(LOAD_WORD, KIND, REQUEST, 0, 0),
        Instruction::new(MOVE_REGISTER, ACCESS, KIND, 0, 0),
        Instruction::new(AND, KIND, 0, 0, 0xffff),
        Instruction::new(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        Instruction::new(LOAD_WORD, MAJOR, REQUEST, 4, 0),
        Instruction::new(LOAD_WORD, MINOR, REQUEST, 8, 0),
    ];
    for (index, rule) in rules.iter().rev().enumerate() {
        let conditions = conditions(rule)?;
        let is_last = conditions.is_empty();
        if is_last && rule.allow() && index == 0 {
            return Ok(None);
        }
        program.extend(block(conditions, rule.allow()));
        if is_last {
            // The kernel refuses programs with a part that is never reached.
            return Ok(Some(program));
        }
    }
    let nothing_said = rules.is_empty();
    program.extend(answer(nothing_said));
    Ok((!nothing_said).then_some(program))
}

/// Gives the answer unless a condition jumps over it.
fn block(conditions: Vec<Condition>, allow: bool) -> Vec<Instruction> {
    let answer = answer(allow);
    let mut rest: usize = conditions.iter().map(Condition::length).sum::<usize>() + answer.len();
    let mut block = Vec::with_capacity(rest);
    for condition in conditions {
        rest -= condition.length();
        // A rule has at most six instructions.
        let over = i16::try_from(rest).unwrap_or(i16::MAX);
        block.extend(condition.instructions(over));
    }
    block.extend(answer);
    block
}

fn answer(allow: bool) -> [Instruction; 2] {
    [Instruction::new(MOVE, ANSWER, 0, 0, i32::from(allow)), Instruction::new(EXIT, 0, 0, 0, 0)]
}

/// What must be so for a rule to fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Equals {
        register: u8,
        value: i32,
    },
    /// None of these ways of access is asked for.
    NoneOf(i32),
}

impl Condition {
    fn length(&self) -> usize {
        match self {
            Self::Equals { .. } => 1,
            Self::NoneOf(_) => 3,
        }
    }

    fn instructions(self, over: i16) -> Vec<Instruction> {
        match self {
            Self::Equals { register, value } => {
                vec![Instruction::new(JUMP_IF_NOT_EQUAL, register, 0, over, value)]
            }
            Self::NoneOf(mask) => vec![
                Instruction::new(MOVE_REGISTER, SCRATCH, ACCESS, 0, 0),
                Instruction::new(AND, SCRATCH, 0, 0, mask),
                Instruction::new(JUMP_IF_NOT_EQUAL, SCRATCH, 0, over, 0),
            ],
        }
    }
}

fn conditions(rule: &LinuxDeviceCgroup) -> std::io::Result<Vec<Condition>> {
    let mut conditions = Vec::new();
    match rule.typ() {
        None | Some(LinuxDeviceType::A) => {}
        Some(LinuxDeviceType::B) => conditions.push(Condition::Equals { register: KIND, value: KIND_BLOCK }),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => {
            conditions.push(Condition::Equals { register: KIND, value: KIND_CHARACTER });
        }
        Some(LinuxDeviceType::P) => return Err(refused("a FIFO is no device")),
    }
    let access = access(rule.access().as_deref())?;
    if access != ACCESS_ALL {
        if !rule.allow() {
            return Err(refused("a device can only be denied altogether"));
        }
        conditions.push(Condition::NoneOf(ACCESS_ALL & !access));
    }
    for (register, number) in [(MAJOR, rule.major()), (MINOR, rule.minor())] {
        // As in OCI, a negative number is any.
        if let Some(number) = number.filter(|number| *number >= 0) {
            let value = i32::try_from(number).map_err(|_| refused("a device's number is too large"))?;
            conditions.push(Condition::Equals { register, value });
        }
    }
    Ok(conditions)
}

/// Missing means all.
fn access(text: Option<&str>) -> std::io::Result<i32> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(ACCESS_ALL) };
    text.chars().try_fold(0, |access, letter| match letter {
        'm' => Ok(access | ACCESS_MAKE),
        'r' => Ok(access | ACCESS_READ),
        'w' => Ok(access | ACCESS_WRITE),
        _ => Err(refused("an unknown way of access")),
    })
}

fn refused(why: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidInput, why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn rules(list: Value) -> Vec<LinuxDeviceCgroup> {
        serde_json::from_value(list).unwrap()
    }

    /// Runs the program as the kernel would.
    fn allows(rules: &[LinuxDeviceCgroup], kind: i32, access: i32, major: i64, minor: i64) -> bool {
        let Some(program) = program(rules).unwrap() else { return true };
        let mut registers = [0_i64; 7];
        let mut at = 0_usize;
        loop {
            let i = program[at];
            at += 1;
            let (target, value) = (usize::from(i.target), i64::from(i.value));
            match i.code {
                LOAD_WORD => registers[target] = [i64::from(access << 16 | kind), major, minor][i.offset as usize / 4],
                MOVE_REGISTER => registers[target] = registers[usize::from(i.source)],
                MOVE => registers[target] = value,
                AND => registers[target] &= value,
                SHIFT_RIGHT => registers[target] >>= value,
                JUMP_IF_NOT_EQUAL if registers[target] != value => at += usize::try_from(i.offset).unwrap(),
                JUMP_IF_NOT_EQUAL => {}
                EXIT => return registers[0] != 0,
                other => panic!("opcode {other:x}"),
            }
        }
    }

    #[test]
    fn the_last_rule_that_fits_decides() {
        let rules = rules(json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "access": "m"},
            {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
            {"allow": true, "type": "c", "major": 136, "access": "rw"},
            {"allow": false, "type": "c", "major": 136, "minor": 9, "access": "rwm"},
        ]));
        let check = |kind, access, major, minor, expect| {
            assert_eq!(allows(&rules, kind, access, major, minor), expect, "{kind} {access} {major}:{minor}");
        };
        check(KIND_CHARACTER, ACCESS_READ | ACCESS_WRITE, 1, 3, true);
        check(KIND_CHARACTER, ACCESS_READ, 1, 4, false);
        check(KIND_CHARACTER, ACCESS_MAKE, 1, 4, true);
        check(KIND_CHARACTER, ACCESS_MAKE | ACCESS_READ, 1, 4, false);
        check(KIND_BLOCK, ACCESS_MAKE, 8, 0, false);
        check(KIND_BLOCK, ACCESS_READ, 1, 3, false);
        check(KIND_CHARACTER, ACCESS_WRITE, 136, 5, true);
        check(KIND_CHARACTER, ACCESS_WRITE, 136, 9, false);
    }

    #[test]
    fn everything_allowed_needs_no_program_and_everything_denied_a_short_one() {
        assert_eq!(program(&rules(json!([]))).unwrap(), None);
        assert_eq!(program(&rules(json!([{"allow": true, "access": "rwm"}]))).unwrap(), None);
        let denied = rules(json!([{"allow": true, "type": "c"}, {"allow": false}]));
        assert!(!allows(&denied, KIND_CHARACTER, ACCESS_READ, 1, 3));
        assert_eq!(program(&denied).unwrap().unwrap().len(), 8);
        let only = rules(json!([{"allow": true, "type": "c", "major": 1}]));
        assert!(!allows(&only, KIND_BLOCK, ACCESS_READ, 1, 0));
    }

    #[test]
    fn what_cannot_be_expressed_is_refused() {
        for bad in [
            json!([{"allow": true, "access": "x"}]),
            json!([{"allow": false, "access": "r"}]),
            json!([{"allow": true, "major": 1_i64 << 40}]),
        ] {
            assert!(program(&rules(bad)).is_err());
        }
    }
}
