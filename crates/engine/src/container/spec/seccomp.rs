//! The default system-call filter: what ordinary programs need is allowed, what
//! reaches into the kernel needs the capability that stands for it, the rest fails
//! with EPERM.

use serde_json::{Value, json};
use std::collections::BTreeSet;

const EPERM: u32 = 1;
/// New or unknown calls look unimplemented, so that C libraries take their fallback.
const ENOSYS: u32 = 38;

/// Flags of `clone` that make namespaces.
const CLONE_NAMESPACES: u64 = 0x7E02_0000;
const AF_VSOCK: u64 = 40;
/// Execution domains programs may choose: Linux, 32-bit Linux, no randomisation, query.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

#[rustfmt::skip]
const ALWAYS: &[&str] = &[
    "accept", "accept4", "access", "adjtimex", "alarm", "bind", "brk", "cachestat", "capget", "capset", "chdir",
    "chmod", "chown", "chown32", "clock_adjtime", "clock_adjtime64", "clock_getres", "clock_getres_time64",
    "clock_gettime", "clock_gettime64", "clock_nanosleep", "clock_nanosleep_time64", "close", "close_range",
    "connect", "copy_file_range", "creat", "dup", "dup2", "dup3", "epoll_create", "epoll_create1", "epoll_ctl",
    "epoll_ctl_old", "epoll_pwait", "epoll_pwait2", "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2", "execve",
    "execveat", "exit", "exit_group", "faccessat", "faccessat2", "fadvise64", "fadvise64_64", "fallocate",
    "fanotify_mark", "fchdir", "fchmod", "fchmodat", "fchmodat2", "fchown", "fchown32", "fchownat", "fcntl",
    "fcntl64", "fdatasync", "fgetxattr", "flistxattr", "flock", "fork", "fremovexattr", "fsetxattr", "fstat",
    "fstat64", "fstatat64", "fstatfs", "fstatfs64", "fsync", "ftruncate", "ftruncate64", "futex", "futex_requeue",
    "futex_time64", "futex_wait", "futex_waitv", "futex_wake", "futimesat", "getcpu", "getcwd", "getdents",
    "getdents64", "getegid", "getegid32", "geteuid", "geteuid32", "getgid", "getgid32", "getgroups", "getgroups32",
    "getitimer", "getpeername", "getpgid", "getpgrp", "getpid", "getppid", "getpriority", "getrandom", "getresgid",
    "getresgid32", "getresuid", "getresuid32", "getrlimit", "get_robust_list", "getrusage", "getsid", "getsockname",
    "getsockopt", "get_thread_area", "gettid", "gettimeofday", "getuid", "getuid32", "getxattr", "getxattrat",
    "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch", "io_cancel", "ioctl", "io_destroy",
    "io_getevents", "io_pgetevents", "io_pgetevents_time64", "ioprio_get", "ioprio_set", "io_setup", "io_submit",
    "ipc", "kill", "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "lchown", "lchown32",
    "lgetxattr", "link", "linkat", "listen", "listmount", "listxattr", "listxattrat", "llistxattr", "_llseek",
    "lremovexattr", "lseek", "lsetxattr", "lstat", "lstat64", "madvise", "map_shadow_stack", "membarrier",
    "memfd_create", "memfd_secret", "mincore", "mkdir", "mkdirat", "mknod", "mknodat", "mlock", "mlock2", "mlockall",
    "mmap", "mmap2", "mprotect", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive",
    "mq_timedreceive_time64", "mq_timedsend", "mq_timedsend_time64", "mq_unlink", "mremap", "mseal", "msgctl",
    "msgget", "msgrcv", "msgsnd", "msync", "munlock", "munlockall", "munmap", "name_to_handle_at", "nanosleep",
    "newfstatat", "_newselect", "open", "openat", "openat2", "pause", "pidfd_getfd", "pidfd_open",
    "pidfd_send_signal", "pipe", "pipe2", "pkey_alloc", "pkey_free", "pkey_mprotect", "poll", "ppoll",
    "ppoll_time64", "prctl", "pread64", "preadv", "preadv2", "prlimit64", "process_mrelease", "process_vm_readv",
    "process_vm_writev", "pselect6", "pselect6_time64", "ptrace", "pwrite64", "pwritev", "pwritev2", "read",
    "readahead", "readlink", "readlinkat", "readv", "recv", "recvfrom", "recvmmsg", "recvmmsg_time64", "recvmsg",
    "remap_file_pages", "removexattr", "removexattrat", "rename", "renameat", "renameat2", "restart_syscall",
    "rmdir", "rseq", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn",
    "rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64", "rt_tgsigqueueinfo", "sched_getaffinity",
    "sched_getattr", "sched_getparam", "sched_get_priority_max", "sched_get_priority_min", "sched_getscheduler",
    "sched_rr_get_interval", "sched_rr_get_interval_time64", "sched_setaffinity", "sched_setattr",
    "sched_setparam", "sched_setscheduler", "sched_yield", "seccomp", "select", "semctl", "semget", "semop",
    "semtimedop", "semtimedop_time64", "send", "sendfile", "sendfile64", "sendmmsg", "sendmsg", "sendto", "setfsgid",
    "setfsgid32", "setfsuid", "setfsuid32", "setgid", "setgid32", "setgroups", "setgroups32", "setitimer",
    "setpgid", "setpriority", "setregid", "setregid32", "setresgid", "setresgid32", "setresuid", "setresuid32",
    "setreuid", "setreuid32", "setrlimit", "set_robust_list", "setsid", "setsockopt", "set_thread_area",
    "set_tid_address", "setuid", "setuid32", "setxattr", "setxattrat", "shmat", "shmctl", "shmdt", "shmget",
    "shutdown", "sigaltstack", "signalfd", "signalfd4", "sigprocmask", "sigreturn", "socketcall", "socketpair",
    "splice", "stat", "stat64", "statfs", "statfs64", "statmount", "statx", "symlink", "symlinkat", "sync",
    "sync_file_range", "syncfs", "sysinfo", "tee", "tgkill", "time", "timer_create", "timer_delete",
    "timer_getoverrun", "timer_gettime", "timer_gettime64", "timer_settime", "timer_settime64", "timerfd_create",
    "timerfd_gettime", "timerfd_gettime64", "timerfd_settime", "timerfd_settime64", "times", "tkill", "truncate",
    "truncate64", "ugetrlimit", "umask", "uname", "unlink", "unlinkat", "uretprobe", "utime", "utimensat",
    "utimensat_time64", "utimes", "vfork", "vmsplice", "wait4", "waitid", "waitpid", "write", "writev",
    // This architecture's own.
    "arch_prctl", "modify_ldt",
];

/// Calls that come with a capability.
#[rustfmt::skip]
const WITH_CAPABILITY: &[(&str, &[&str])] = &[
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("CAP_SYS_ADMIN", &[
        "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie", "mount",
        "mount_setattr", "move_mount", "open_tree", "perf_event_open", "quotactl", "quotactl_fd", "setdomainname",
        "sethostname", "setns", "syslog", "umount", "umount2", "unshare",
    ]),
    ("CAP_SYS_BOOT", &["reboot"]),
    ("CAP_SYS_CHROOT", &["chroot"]),
    ("CAP_SYS_MODULE", &["delete_module", "init_module", "finit_module"]),
    ("CAP_SYS_PACCT", &["acct"]),
    ("CAP_SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace"]),
    ("CAP_SYS_RAWIO", &["iopl", "ioperm"]),
    ("CAP_SYS_TIME", &["settimeofday", "stime", "clock_settime", "clock_settime64"]),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
    ("CAP_SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("CAP_SYSLOG", &["syslog"]),
    ("CAP_BPF", &["bpf"]),
    ("CAP_PERFMON", &["perf_event_open"]),
];

/// The profile for a container with these capabilities, in OCI form.
pub(crate) fn default_profile(capabilities: &BTreeSet<String>) -> Value {
    let mut rules = vec![allow(ALWAYS)];
    for (capability, calls) in WITH_CAPABILITY {
        if capabilities.contains(*capability) {
            rules.push(allow(calls));
        }
    }
    for personality in PERSONALITIES {
        rules.push(allow_if("personality", &[(0, personality, 0, "SCMP_CMP_EQ")]));
    }
    rules.push(allow_if("socket", &[(0, AF_VSOCK, 0, "SCMP_CMP_NE")]));
    if !capabilities.contains("CAP_SYS_ADMIN") {
        rules.push(allow_if("clone", &[(0, CLONE_NAMESPACES, 0, "SCMP_CMP_MASKED_EQ")]));
        // Its flags are behind a pointer no filter can follow.
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": architectures(),
        "syscalls": rules,
    })
}

/// A profile as the client sent it (`--security-opt seccomp=<file>`), in OCI form.
///
/// # Errors
/// It is not JSON or has no default action.
pub(crate) fn custom_profile(text: &str, capabilities: &BTreeSet<String>) -> skep_model::Result<Value> {
    let bad = |why: &str| skep_model::Error::invalid(format!("Decoding seccomp profile failed: {why}"));
    let profile: Value = serde_json::from_str(text).map_err(|error| bad(&error.to_string()))?;
    let default_action = profile["defaultAction"].as_str().ok_or_else(|| bad("no default action"))?;
    let rules = profile["syscalls"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rules: Vec<Value> = rules.iter().filter_map(|rule| convert_rule(rule, capabilities)).collect();
    let mut converted = json!({
        "defaultAction": default_action,
        "architectures": architectures(),
        "syscalls": rules,
    });
    if let Some(number) = profile["defaultErrnoRet"].as_u64() {
        converted["defaultErrnoRet"] = number.into();
    }
    Ok(converted)
}

/// Docker's conditions (`includes`, `excludes`) are decided here; OCI knows none.
fn convert_rule(rule: &Value, capabilities: &BTreeSet<String>) -> Option<Value> {
    let lists = |condition: &str, field: &str| -> Vec<String> {
        let list = rule[condition][field].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let arches = lists("includes", "arches");
    let applies = lists("includes", "caps").iter().all(|name| capabilities.contains(name))
        && !lists("excludes", "caps").iter().any(|name| capabilities.contains(name))
        && (arches.is_empty() || arches.iter().any(|name| name == architecture))
        && !lists("excludes", "arches").iter().any(|name| name == architecture);
    if !applies {
        return None;
    }
    let names = match rule["name"].as_str() {
        Some(name) if !name.is_empty() => json!([name]),
        _ => rule["names"].clone(),
    };
    let mut converted = json!({"names": names, "action": rule["action"]});
    if let Some(number) = rule["errnoRet"].as_u64() {
        converted["errnoRet"] = number.into();
    }
    let args = rule["args"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !args.is_empty() {
        converted["args"] = args.into();
    }
    Some(converted)
}

fn architectures() -> &'static [&'static str] {
    if cfg!(target_arch = "x86_64") {
        &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    } else if cfg!(target_arch = "aarch64") {
        &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    } else {
        &[]
    }
}

fn allow(names: &[&str]) -> Value {
    json!({"names": names, "action": "SCMP_ACT_ALLOW"})
}

/// Allows `name` when every (index, value, second value, operator) holds.
fn allow_if(name: &str, arguments: &[(u32, u64, u64, &str)]) -> Value {
    let args: Vec<Value> = arguments
        .iter()
        .map(|(index, value, second, operator)| {
            json!({"index": index, "value": value, "valueTwo": second, "op": operator})
        })
        .collect();
    json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": args})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(profile: &Value, name: &str) -> bool {
        profile["syscalls"].as_array().unwrap().iter().any(|rule| {
            rule["action"] == "SCMP_ACT_ALLOW" && rule["names"].as_array().unwrap().iter().any(|known| known == name)
        })
    }

    #[test]
    fn mounting_needs_its_capability() {
        let plain = default_profile(&BTreeSet::new());
        let strong = default_profile(&BTreeSet::from(["CAP_SYS_ADMIN".to_owned()]));
        assert!(allows(&plain, "read") && !allows(&plain, "mount") && !allows(&plain, "unshare"));
        assert!(allows(&strong, "mount") && allows(&strong, "clone3"));
        assert!(!allows(&plain, "clone3") && allows(&plain, "clone"));
        assert!(!allows(&plain, "keyctl") && !allows(&strong, "kexec_load"));
    }
}
