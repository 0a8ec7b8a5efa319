//! `net.*` sysctls by `/proc/sys`; the calling thread's namespace is meant.

use std::io;

/// The path of a sysctl: dots separate, except inside an interface name, where the
/// slash form must be used (`net/ipv4/conf/eth0.1/rp_filter`).
fn path(key: &str) -> String {
    if key.contains('/') { format!("/proc/sys/{key}") } else { format!("/proc/sys/{}", key.replace('.', "/")) }
}

/// The value without surrounding white space; `None` when the kernel has no such key.
pub fn read(key: &str) -> Option<String> {
    std::fs::read_to_string(path(key)).ok().map(|value| value.trim().to_owned())
}

/// # Errors
/// What the kernel says, with the key.
pub fn write(key: &str, value: &str) -> io::Result<()> {
    std::fs::write(path(key), value)
        .map_err(|error| io::Error::new(error.kind(), format!("sysctl {key}={value}: {error}")))
}
