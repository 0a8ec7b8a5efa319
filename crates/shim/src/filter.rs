//! System-call filters, compiled once for all containers that have the same profile.
//!
//! libseccomp takes 10 ms to compile Docker's profile, the kernel 1 ms to check it.

use crate::sys;
use libcontainer::oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use skep_model::shim::SeccompProfile;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

/// Before the instructions in a compiled file: the flags to load them with.
const FLAGS_LENGTH: usize = size_of::<u32>();
/// `struct sock_filter` of linux/filter.h: code, two jump offsets, operand.
const INSTRUCTION_LENGTH: usize = 8;
/// BPF_MAXINSNS of linux/bpf_common.h.
const INSTRUCTIONS_MAX: usize = 4096;

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilterError {
    #[error("seccomp profile {path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("seccomp profile: {0}")]
    Json(#[from] serde_json::Error),
    #[error("seccomp profile: {0}")]
    Compile(#[from] libseccomp::error::SeccompError),
    #[error("seccomp profile: SCMP_ACT_NOTIFY needs a listener, which is not supported")]
    Notify,
    #[error("seccomp profile: errno {0} does not fit")]
    Errno(u32),
}

/// Ready to be given to the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    flags: u32,
    instructions: Vec<libc::sock_filter>,
}

impl Filter {
    /// The compiled profile, from its file or, for the first, from its source.
    pub(crate) fn of_profile(profile: &SeccompProfile) -> Result<Self, FilterError> {
        if let Some(filter) = std::fs::read(&profile.compiled).ok().and_then(|bytes| Self::decode(&bytes)) {
            return Ok(filter);
        }
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| FilterError::File { path, source }
        };
        let source = std::fs::read(&profile.source).map_err(file(&profile.source))?;
        let filter = Self::compile(&serde_json::from_slice(&source)?)?;
        // Renamed, so that nobody reads half of it; several shims may do this at once.
        let temporary = profile.compiled.with_extension(format!("{}.tmp", std::process::id()));
        std::fs::write(&temporary, filter.encode())
            .and_then(|()| std::fs::rename(&temporary, &profile.compiled))
            .map_err(file(&profile.compiled))?;
        Ok(filter)
    }

    /// From now on for this process and its children.
    pub(crate) fn install(&self) -> std::io::Result<()> {
        sys::install_filter(self.flags, &self.instructions)
    }

    fn compile(profile: &LinuxSeccomp) -> Result<Self, FilterError> {
        let default = action(profile.default_action(), profile.default_errno_ret())?;
        let mut context = ScmpFilterContext::new(default)?;
        for &arch in profile.architectures().iter().flatten() {
            context.add_arch(architecture(arch))?;
        }
        for rule in profile.syscalls().iter().flatten() {
            let action = action(rule.action(), rule.errno_ret())?;
            // libseccomp refuses rules that say what holds anyway.
            if action != default {
                add_rule(&mut context, rule, action)?;
            }
        }
        let flags = profile.flags().iter().flatten().map(|&flag| flag_bit(flag)).fold(0, |bits, bit| bits | bit);
        Ok(Self { flags, instructions: instructions(&export(&context)?) })
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.flags.to_ne_bytes().to_vec();
        for instruction in &self.instructions {
            bytes.extend(instruction.code.to_ne_bytes());
            bytes.extend([instruction.jt, instruction.jf]);
            bytes.extend(instruction.k.to_ne_bytes());
        }
        bytes
    }

    /// `None` for what was not written by [`Self::encode`].
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (flags, code) = bytes.split_first_chunk::<FLAGS_LENGTH>()?;
        let count = code.len() / INSTRUCTION_LENGTH;
        let whole = code.len().is_multiple_of(INSTRUCTION_LENGTH) && (1..=INSTRUCTIONS_MAX).contains(&count);
        whole.then(|| Self { flags: u32::from_ne_bytes(*flags), instructions: instructions(code) })
    }
}

/// libseccomp writes a filter only to a descriptor.
fn export(context: &ScmpFilterContext) -> Result<Vec<u8>, FilterError> {
    let memory = |source| FilterError::File { path: "in memory".into(), source };
    let file = rustix::fs::memfd_create("seccomp", rustix::fs::MemfdFlags::CLOEXEC);
    let mut file = File::from(file.map_err(|errno| memory(errno.into()))?);
    context.export_bpf(&file)?;
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).map_err(memory)?;
    Ok(bytes)
}

fn instructions(bytes: &[u8]) -> Vec<libc::sock_filter> {
    let (whole, _) = bytes.as_chunks::<INSTRUCTION_LENGTH>();
    let instruction = |&[c0, c1, jt, jf, k0, k1, k2, k3]: &[u8; INSTRUCTION_LENGTH]| libc::sock_filter {
        code: u16::from_ne_bytes([c0, c1]),
        jt,
        jf,
        k: u32::from_ne_bytes([k0, k1, k2, k3]),
    };
    whole.iter().map(instruction).collect()
}

fn add_rule(context: &mut ScmpFilterContext, rule: &LinuxSyscall, action: ScmpAction) -> Result<(), FilterError> {
    let arguments: Vec<ScmpArgCompare> = rule
        .args()
        .iter()
        .flatten()
        .map(|argument| {
            let index = u32::try_from(argument.index()).unwrap_or(u32::MAX);
            let (operator, operand) = comparison(argument.op(), argument.value(), argument.value_two().unwrap_or(0));
            ScmpArgCompare::new(index, operator, operand)
        })
        .collect();
    let indexes: BTreeSet<_> = rule.args().iter().flatten().map(|argument| argument.index()).collect();
    for name in rule.names() {
        // A call that libseccomp does not know is one that this machine does not have.
        let Ok(call) = ScmpSyscall::from_name(name) else { continue };
        if arguments.is_empty() {
            context.add_rule(action, call)?;
        } else if indexes.len() == arguments.len() {
            context.add_rule_conditional(action, call, &arguments)?;
        } else {
            // Within one rule an argument may be compared once, so each is a rule: "or", as runc does.
            for argument in &arguments {
                context.add_rule_conditional(action, call, std::slice::from_ref(argument))?;
            }
        }
    }
    Ok(())
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, FilterError> {
    let errno = errno.unwrap_or(libc::EPERM.unsigned_abs());
    let errno = u16::try_from(errno).map_err(|_| FilterError::Errno(errno))?;
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(errno.into()),
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(errno),
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActNotify => return Err(FilterError::Notify),
    })
}

/// With what the argument is compared. OCI gives the mask first and the value second.
fn comparison(operator: LinuxSeccompOperator, first: u64, second: u64) -> (ScmpCompareOp, u64) {
    let operator = match operator {
        LinuxSeccompOperator::ScmpCmpNe => ScmpCompareOp::NotEqual,
        LinuxSeccompOperator::ScmpCmpLt => ScmpCompareOp::Less,
        LinuxSeccompOperator::ScmpCmpLe => ScmpCompareOp::LessOrEqual,
        LinuxSeccompOperator::ScmpCmpEq => ScmpCompareOp::Equal,
        LinuxSeccompOperator::ScmpCmpGe => ScmpCompareOp::GreaterEqual,
        LinuxSeccompOperator::ScmpCmpGt => ScmpCompareOp::Greater,
        LinuxSeccompOperator::ScmpCmpMaskedEq => return (ScmpCompareOp::MaskedEqual(first), second),
    };
    (operator, first)
}

/// SECCOMP_FILTER_FLAG_* of linux/seccomp.h.
fn flag_bit(flag: LinuxSeccompFilterFlag) -> u32 {
    match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 1,
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => 1 << 1,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 1 << 2,
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 1 << 5,
    }
}

fn architecture(arch: Arch) -> ScmpArch {
    match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        Arch::ScmpArchM68k => ScmpArch::M68k,
        Arch::ScmpArchSh => ScmpArch::Sh,
        Arch::ScmpArchSheb => ScmpArch::Sheb,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(text: &str) -> LinuxSeccomp {
        serde_json::from_str(text).unwrap()
    }

    const SOME: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [{"names": ["getcwd", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7}]}"#;

    #[test]
    fn what_is_written_is_read_again_and_nothing_else_is() {
        let filter = Filter::compile(&profile(SOME)).unwrap();
        assert_eq!(filter.flags, 2);
        let bytes = filter.encode();
        assert_eq!(Filter::decode(&bytes), Some(filter));
        for length in 0..bytes.len() {
            if (length - length.min(FLAGS_LENGTH)) % INSTRUCTION_LENGTH != 0 || length <= FLAGS_LENGTH {
                assert_eq!(Filter::decode(&bytes[..length]), None, "{length} bytes");
            }
        }
    }

    #[test]
    fn a_profile_is_compiled_once() {
        let directory = tempfile::tempdir().unwrap();
        let (source, compiled) = (directory.path().join("a.json"), directory.path().join("a.bpf"));
        std::fs::write(&source, SOME).unwrap();
        let profile = SeccompProfile { source: source.clone(), compiled };
        let first = Filter::of_profile(&profile).unwrap();
        std::fs::remove_file(source).unwrap();
        assert_eq!(Filter::of_profile(&profile).unwrap(), first);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_installed_filter_decides() {
        let filter = Filter::compile(&profile(SOME)).unwrap();
        // A filter is for one thread and what comes after it.
        let refused = std::thread::spawn(move || {
            filter.install().unwrap();
            nix::unistd::getcwd()
        });
        assert_eq!(refused.join().unwrap(), Err(nix::Error::E2BIG));
    }

    #[test]
    fn a_listener_is_refused() {
        let listening = r#"{"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["getcwd"], "action": "SCMP_ACT_NOTIFY"}]}"#;
        assert!(matches!(Filter::compile(&profile(listening)), Err(FilterError::Notify)));
    }
}
