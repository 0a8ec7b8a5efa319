//! Rules for names and limits, with the texts users know.

use crate::error::{Error, Result};

const SERVICE_NAME_LENGTH_MAX: usize = 63;
const CONTAINER_NAME_LENGTH_MAX: usize = 255;

/// Names of services and swarm networks: a DNS label.
///
/// # Errors
/// The text says which rule is broken.
pub fn service_name(name: &str) -> Result<()> {
    let alphanumeric = |c: char| c.is_ascii_alphanumeric();
    let legal = |c: char| alphanumeric(c) || c == '-' || c == '_';
    let fits = name.starts_with(alphanumeric) && name.ends_with(alphanumeric) && name.chars().all(legal);
    if name.is_empty() {
        return Err(Error::invalid("rpc error: code = InvalidArgument desc = meta: name must be provided"));
    }
    if name.len() > SERVICE_NAME_LENGTH_MAX {
        return Err(Error::invalid("rpc error: code = InvalidArgument desc = name must be 63 characters or fewer"));
    }
    if !fits {
        return Err(Error::invalid(
            "rpc error: code = InvalidArgument desc = name must be valid as a DNS name component",
        ));
    }
    Ok(())
}

/// Names of containers, volumes and local networks: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
///
/// # Errors
/// Docker's text, with the kind of object (`container`, `volume`, ...).
pub fn object_name(kind: &str, name: &str) -> Result<()> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let shaped = name.len() > 1 && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(legal);
    if !shaped {
        return Err(Error::invalid(format!(
            "Invalid {kind} name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )));
    }
    if name.len() > CONTAINER_NAME_LENGTH_MAX {
        return Err(Error::invalid(format!(
            "Invalid {kind} name: {} characters, at most {CONTAINER_NAME_LENGTH_MAX} are allowed",
            name.len()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(service_name("web-1").is_ok());
        for bad in ["", "-a", "a.b", "héllo", &"x".repeat(64)] {
            assert!(service_name(bad).is_err(), "{bad}");
        }
        assert!(object_name("container", "web_1.x").is_ok());
        for bad in ["", "a", "/a", "ünï", &"x".repeat(10_000)] {
            assert!(object_name("container", bad).is_err());
        }
    }
}
