//! `Privileges` of a service, which are `--security-opt` of its containers.

use super::refuse;
use super::service::{PrivilegeMode, Privileges};
use super::swarm::base64;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use skep_model::{Error, Result};

const NO_NEW_PRIVILEGES: &str = "no-new-privileges";
const SECCOMP: &str = "seccomp=";
const SECCOMP_UNCONFINED: &str = "seccomp=unconfined";
const APPARMOR_UNCONFINED: &str = "apparmor=unconfined";

impl Privileges {
    /// # Errors
    /// What only other systems have, and modes that are none.
    pub(crate) fn into_options(self) -> Result<Vec<String>> {
        refuse(&[
            ("Privileges.CredentialSpec", self.credential_spec.is_some()),
            ("Privileges.SELinuxContext", self.selinux_context.is_some()),
        ])?;
        let mut options = Vec::new();
        if self.no_new_privileges {
            options.push(NO_NEW_PRIVILEGES.to_owned());
        }
        let seccomp = self.seccomp.unwrap_or_default();
        match (seccomp.mode.as_str(), seccomp.profile) {
            ("" | "default", _) => {}
            ("unconfined", _) => options.push(SECCOMP_UNCONFINED.to_owned()),
            ("custom", Some(Value::String(profile))) => options.push(format!("{SECCOMP}{}", decode(&profile)?)),
            (mode, _) => return Err(Error::invalid(format!("invalid seccomp mode {mode:?}"))),
        }
        match self.app_armor.unwrap_or_default().mode.as_str() {
            "" | "default" => {}
            "disabled" => options.push(APPARMOR_UNCONFINED.to_owned()),
            mode => return Err(Error::invalid(format!("invalid AppArmor mode {mode:?}"))),
        }
        Ok(options)
    }

    pub(crate) fn of(options: &[String]) -> Option<Self> {
        let mut privileges = Self::default();
        let mode = |mode: &str| Some(PrivilegeMode { mode: mode.to_owned(), profile: None });
        for option in options {
            match option.as_str() {
                NO_NEW_PRIVILEGES => privileges.no_new_privileges = true,
                SECCOMP_UNCONFINED => privileges.seccomp = mode("unconfined"),
                APPARMOR_UNCONFINED => privileges.app_armor = mode("disabled"),
                other => {
                    let profile = other.strip_prefix(SECCOMP).map(|profile| base64(profile.as_bytes()).into());
                    privileges.seccomp = Some(PrivilegeMode { mode: "custom".to_owned(), profile });
                }
            }
        }
        (!options.is_empty()).then_some(privileges)
    }
}

fn decode(profile: &str) -> Result<String> {
    let bytes = STANDARD.decode(profile).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    bytes.ok_or_else(|| Error::invalid("the seccomp profile is not base64 of a text"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_honoured_round_trips() {
        for wire in [
            json!({"Seccomp": {"Mode": "unconfined"}, "AppArmor": {"Mode": "disabled"}, "NoNewPrivileges": true}),
            json!({"Seccomp": {"Mode": "custom", "Profile": "e30="}, "NoNewPrivileges": false}),
        ] {
            let options = serde_json::from_value::<Privileges>(wire.clone()).unwrap().into_options().unwrap();
            let mut back = serde_json::to_value(Privileges::of(&options).unwrap()).unwrap();
            if back.get("NoNewPrivileges").is_none() && wire["NoNewPrivileges"] == false {
                back["NoNewPrivileges"] = false.into();
            }
            assert_eq!(back, wire);
        }
        assert_eq!(Privileges::of(&[]), None);
    }

    #[test]
    fn the_rest_is_refused() {
        for bad in [
            json!({"CredentialSpec": {"File": "x"}}),
            json!({"SELinuxContext": {"Disable": true}}),
            json!({"Seccomp": {"Mode": "what"}}),
            json!({"Seccomp": {"Mode": "custom"}}),
            json!({"Seccomp": {"Mode": "custom", "Profile": "!"}}),
            json!({"AppArmor": {"Mode": "what"}}),
        ] {
            assert!(serde_json::from_value::<Privileges>(bad.clone()).unwrap().into_options().is_err(), "{bad}");
        }
    }
}
