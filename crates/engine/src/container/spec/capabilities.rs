//! Which capabilities a container gets.

use skep_model::container::HostConfig;
use skep_model::{Error, Result};
use std::collections::BTreeSet;

/// What every container gets unless told otherwise.
const DEFAULT: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

const ALL: &str = "ALL";

/// The set, at most `available`.
///
/// # Errors
/// A name that is no capability, in Docker's words.
pub(crate) fn wanted(host: &HostConfig, available: &BTreeSet<String>) -> Result<BTreeSet<String>> {
    let added = normalise(&host.cap_add, "CapAdd")?;
    let dropped = normalise(&host.cap_drop, "CapDrop")?;
    if host.privileged {
        return Ok(available.clone());
    }
    let mut set: BTreeSet<String> = match (added.contains(ALL), dropped.contains(ALL)) {
        (true, _) => available.clone(),
        (false, true) => BTreeSet::new(),
        (false, false) => DEFAULT.iter().map(|&name| name.to_owned()).collect(),
    };
    set.retain(|name| !dropped.contains(name));
    set.extend(added.into_iter().filter(|name| name != ALL));
    Ok(set.intersection(available).cloned().collect())
}

fn normalise(names: &[String], field: &str) -> Result<BTreeSet<String>> {
    names
        .iter()
        .map(|name| {
            let upper = name.to_ascii_uppercase();
            if upper == ALL {
                return Ok(upper);
            }
            let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
            match full.parse::<caps::Capability>() {
                Ok(_) => Ok(full),
                Err(_) => Err(Error::invalid(format!("invalid {field}: unknown capability: \"{name}\""))),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(add: &[&str], drop: &[&str], expect: &[&str]) {
        let available: BTreeSet<String> =
            DEFAULT.iter().chain(&["CAP_NET_ADMIN"]).map(|&name| name.to_owned()).collect();
        let text = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect();
        let host = HostConfig { cap_add: text(add), cap_drop: text(drop), ..Default::default() };
        let set = wanted(&host, &available).unwrap();
        assert_eq!(set, expect.iter().map(|&name| name.to_owned()).collect());
    }

    #[test]
    fn all_can_be_dropped_and_single_ones_kept() {
        check(&["net_admin"], &["ALL"], &["CAP_NET_ADMIN"]);
        check(&["CAP_CHOWN"], &["all"], &["CAP_CHOWN"]);
        check(&[], &["ALL"], &[]);
    }

    #[test]
    fn what_the_machine_lacks_is_not_given() {
        check(&["SYS_ADMIN", "CHOWN"], &["ALL"], &["CAP_CHOWN"]);
    }

    #[test]
    fn unknown_names_are_refused() {
        let host = HostConfig { cap_add: vec!["NET_ADMINS".into()], ..Default::default() };
        let error = wanted(&host, &BTreeSet::new()).unwrap_err();
        assert_eq!(error.message, "invalid CapAdd: unknown capability: \"NET_ADMINS\"");
    }
}
