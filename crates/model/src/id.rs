//! Identifiers. Swarm objects carry 25 base-36 characters made of 128 random
//! bits; containers, local networks and layers carry 64 hexadecimal characters.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id_types {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Whether no id was given.
            pub fn is_empty(&self) -> bool {
                self.0.is_empty()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )*};
}

id_types! {
    /// A cluster (one per swarm).
    ClusterId,
    /// A member of the swarm.
    NodeId,
    /// A service.
    ServiceId,
    /// One placement attempt of a service's slot.
    TaskId,
    /// A network, local (hex) or of the swarm (base 36).
    NetworkId,
    /// A secret.
    SecretId,
    /// A config.
    ConfigId,
    /// A container on this machine.
    ContainerId,
    /// One container's leg on one network.
    EndpointId,
}

const SWARM_ID_LENGTH: usize = 25;

/// The 25-character base-36 form of 128 random bits, zero padded.
pub fn swarm_id(random: u128) -> String {
    base36(random, SWARM_ID_LENGTH)
}

/// `value` in base 36, zero padded to `width`.
pub fn base36(mut value: u128, width: usize) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    // Twelve digits at a time fit into what a processor divides at once.
    const CHUNK_DIGITS: usize = 12;
    const CHUNK: u128 = 36_u128.pow(CHUNK_DIGITS as u32);
    let mut digits = Vec::with_capacity(width);
    while value > 0 {
        let mut chunk = (value % CHUNK) as u64;
        value /= CHUNK;
        for _ in 0..CHUNK_DIGITS {
            if chunk == 0 && value == 0 {
                break;
            }
            digits.push(DIGITS[(chunk % 36) as usize]);
            chunk /= 36;
        }
    }
    digits.resize(digits.len().max(width), b'0');
    digits.reverse();
    digits.into_iter().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swarm_ids_are_25_lower_case_characters() {
        assert_eq!(swarm_id(0), "0".repeat(25));
        assert_eq!(swarm_id(u128::MAX).len(), 25);
        assert_eq!(base36(35, 2), "0z");
        assert_eq!(base36(36_u128.pow(12), 0), "1000000000000");
        assert_eq!(base36(36_u128.pow(24) + 36, 0), "1000000000000000000000010");
        assert_eq!(swarm_id(u128::MAX), "f5lxx1zz5pnorynqglhzmsp33");
    }
}
