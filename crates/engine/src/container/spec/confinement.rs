//! What a container's processes may do: capabilities and system calls.

use super::{capabilities, seccomp};
use crate::sys::kernel::Kernel;
use serde_json::Value;
use sha2::{Digest, Sha256};
use skep_model::container::HostConfig;
use skep_model::shim::SeccompProfile;
use skep_model::{Error, Result};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

/// What the shim must do to the process before it runs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Confinement {
    pub(crate) capabilities: BTreeSet<String>,
    /// An OCI profile; `None` allows every system call.
    pub(crate) seccomp: Option<Value>,
}

/// Of a container's own process.
///
/// # Errors
/// Options that make no sense, or a profile that cannot be read.
pub(crate) fn of_container(host: &HostConfig, kernel: &Kernel) -> Result<Confinement> {
    let capabilities = capabilities::wanted(host, &kernel.capabilities)?;
    let security = security_options(&host.security_opt)?;
    let seccomp = match &security.seccomp_profile {
        _ if host.privileged || security.seccomp_unconfined => None,
        Some(text) => Some(seccomp::custom_profile(text, &capabilities)?),
        None => Some(seccomp::default_profile(&capabilities)),
    };
    Ok(Confinement { capabilities, seccomp })
}

/// Of an exec, which has the system calls of its container even when it is privileged.
///
/// # Errors
/// As [`of_container`].
pub(crate) fn of_exec(host: &HostConfig, privileged: bool, kernel: &Kernel) -> Result<Confinement> {
    let of_container = of_container(host, kernel)?;
    let capabilities = if privileged { kernel.capabilities.clone() } else { of_container.capabilities };
    Ok(Confinement { capabilities, ..of_container })
}

/// Puts the profile into `directory` unless it is there, under a name made from its content and
/// from the version of this program, whose table of system calls it is compiled with.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn store_profile(directory: &Path, profile: &Value) -> Result<SeccompProfile> {
    let text = profile.to_string();
    let digest = Sha256::new().chain_update(env!("CARGO_PKG_VERSION")).chain_update(&text).finalize();
    let name = hex::encode(digest);
    let source = directory.join(format!("{name}.json"));
    if !source.exists() {
        std::fs::create_dir_all(directory)?;
        // Two starts may do this at once: each writes a file of its own.
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(text.as_bytes())?;
        file.persist(&source).map_err(|failed| failed.error)?;
    }
    Ok(SeccompProfile { compiled: source.with_extension("bpf"), source })
}

/// What `--security-opt` says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct SecurityOptions {
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp_unconfined: bool,
    /// A profile's text.
    pub(crate) seccomp_profile: Option<String>,
    pub(crate) warnings: Vec<String>,
}

/// Parses security options.
///
/// # Errors
/// An option Docker does not know either.
pub(crate) fn security_options(options: &[String]) -> Result<SecurityOptions> {
    let mut out = SecurityOptions::default();
    for option in options {
        let (key, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
        match (key, value) {
            ("no-new-privileges", "" | "true") => out.no_new_privileges = true,
            ("no-new-privileges", "false") => out.no_new_privileges = false,
            ("seccomp", "unconfined") => out.seccomp_unconfined = true,
            ("seccomp", "builtin" | "") => {}
            ("seccomp", profile) => out.seccomp_profile = Some(profile.to_owned()),
            ("apparmor", "unconfined" | "docker-default") | ("label", _) | ("systempaths", "unconfined") => {}
            ("apparmor", profile) => {
                out.warnings.push(format!("AppArmor is not supported: profile {profile} is not applied"));
            }
            _ => return Err(Error::invalid(format!("invalid --security-opt 2: {option:?}"))),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::spec::resources::tests::kernel;

    #[test]
    fn unknown_security_options_are_refused() {
        assert!(security_options(&["nonsense=1".into()]).is_err());
        assert!(security_options(&["no-new-privileges".into()]).unwrap().no_new_privileges);
    }

    #[test]
    fn a_privileged_container_has_no_filter_and_a_privileged_exec_keeps_its_own() {
        let privileged = HostConfig { privileged: true, ..HostConfig::default() };
        assert_eq!(of_container(&privileged, &kernel()).unwrap().seccomp, None);
        let plain = HostConfig::default();
        let exec = of_exec(&plain, true, &kernel()).unwrap();
        assert_eq!(exec.capabilities, kernel().capabilities);
        assert_eq!(exec.seccomp, of_container(&plain, &kernel()).unwrap().seccomp);
        assert!(exec.seccomp.is_some());
    }

    #[test]
    fn equal_profiles_share_a_file_and_others_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let store = |text: &str| store_profile(directory.path(), &serde_json::from_str(text).unwrap()).unwrap();
        let first = store(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#);
        assert_eq!(store(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#), first);
        assert_ne!(store(r#"{"defaultAction": "SCMP_ACT_ERRNO"}"#), first);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}
