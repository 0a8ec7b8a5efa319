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

/// Links that learn their routers by advertisements would stop to, once they are a router's.
///
/// # Errors
/// What the kernel says of one of them.
pub fn keep_learning_routers() -> std::io::Result<()> {
    const LEARN: &str = "1";
    const LEARN_ALWAYS: &str = "2";
    let links = match std::fs::read_dir("/proc/sys/net/ipv6/conf") {
        Ok(links) => links,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for link in links {
        let key = format!("net/ipv6/conf/{}/accept_ra", link?.file_name().to_string_lossy());
        let forwards = read(&key.replace("accept_ra", "forwarding")).as_deref() == Some("1");
        if !forwards && read(&key).as_deref() == Some(LEARN) {
            write(&key, LEARN_ALWAYS)?;
        }
    }
    Ok(())
}
