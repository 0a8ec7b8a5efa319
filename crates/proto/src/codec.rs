//! Model values as bytes, on the wire and in the Raft log: MessagePack with field
//! names. A field that a reader does not know is skipped, one that a writer did not
//! know takes its default, so neighbouring versions of skep understand each other.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes that are not what they should be.
#[derive(Debug, thiserror::Error)]
#[error("malformed {what}")]
pub struct DecodeError {
    what: &'static str,
    #[source]
    source: rmp_serde::decode::Error,
}

/// Encodes a model value.
///
/// # Panics
/// Never for model types: they hold no map with non-string keys that MessagePack
/// could refuse and writing to memory cannot fail.
#[expect(clippy::expect_used, reason = "serialising plain data into memory has no failure case")]
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(value).expect("plain data always serialises")
}

/// Decodes what [`encode`] wrote.
///
/// # Errors
/// When the bytes are malformed or of another type.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    rmp_serde::from_slice(bytes).map_err(|source| DecodeError { what: std::any::type_name::<T>(), source })
}

impl From<DecodeError> for tonic::Status {
    fn from(error: DecodeError) -> Self {
        Self::invalid_argument(format!("{error}: {}", error.source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::task::Task;

    #[test]
    fn round_trips_and_survives_foreign_bytes() {
        let task = Task { slot: 3, service_name: "web".into(), ..Task::default() };
        assert_eq!(decode::<Task>(&encode(&task)).unwrap(), task);
        assert!(decode::<Task>(b"\xff\x00garbage").is_err());
        assert!(decode::<Task>(b"").is_err());
    }
}
