//! A swarm in one file: all that is replicated, its CA's key and its secrets among it, sealed
//! with a passphrase or the swarm's unlock key; and a new swarm made of such a file.

use serde::{Deserialize, Serialize};
use skep_cluster::Store;
use skep_identity::{UnlockKey, key_of_passphrase, open_sealed, seal};
use skep_model::id::ClusterId;
use skep_model::{Error, Result, Timestamp};
use zeroize::Zeroizing;

/// First bytes of the file; the digit is the format's version.
const MAGIC: &[u8; 8] = b"SKEPBAK1";
const HEADER_BYTES_MAX: usize = 4096;
/// Shorter ones are guessed.
const PASSPHRASE_CHARS_MIN: usize = 8;
const SALT_BYTES: usize = 16;

/// What a backup is sealed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SealedWith {
    Passphrase,
    UnlockKey,
}

/// Readable by everybody, changed by nobody: the seal covers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    sealed_with: SealedWith,
    /// Hex.
    salt: String,
    cluster_id: ClusterId,
    created_at: String,
}

/// Seals the store: with the passphrase, or without one with the swarm's unlock key.
///
/// # Errors
/// The passphrase is too short, or there is neither.
pub(crate) fn write(store: &Store, passphrase: Option<&str>, now: Timestamp) -> Result<Vec<u8>> {
    let cluster = store.cluster().ok_or_else(|| Error::unavailable("the swarm's state is not here yet"))?;
    let salt: [u8; SALT_BYTES] = rand::random();
    let (sealed_with, key) = match passphrase {
        Some(text) if text.chars().count() < PASSPHRASE_CHARS_MIN => {
            return Err(Error::invalid(format!("the passphrase must have at least {PASSPHRASE_CHARS_MIN} characters")));
        }
        Some(text) => (SealedWith::Passphrase, key_of_passphrase(text, &salt)),
        None => match crate::lock::unlock_key_of(cluster)? {
            Some(key) => (SealedWith::UnlockKey, Zeroizing::new(*key.as_bytes())),
            None => return Err(Error::invalid("the swarm has no unlock key: a passphrase is needed")),
        },
    };
    let (salt, created_at) = (hex::encode(salt), now.to_rfc3339());
    let header = Header { sealed_with, salt, cluster_id: cluster.id.clone(), created_at };
    let header = serde_json::to_vec(&header).map_err(|e| Error::internal(e.to_string()))?;
    let mut file = MAGIC.to_vec();
    file.extend_from_slice(&u32::try_from(header.len()).map_err(|e| Error::internal(e.to_string()))?.to_be_bytes());
    file.extend_from_slice(&header);
    let sealed = seal(&key, &file, &Zeroizing::new(store.to_bytes()))?;
    file.extend_from_slice(&sealed);
    Ok(file)
}

/// Opens a backup with its passphrase or unlock key.
///
/// # Errors
/// It is none, damaged, or `secret` is not what it was sealed with.
pub(crate) fn read(file: &[u8], secret: &str) -> Result<Store> {
    let (prefix, header, sealed) = split(file).ok_or_else(|| Error::invalid("this is not a backup of a swarm"))?;
    let key = match header.sealed_with {
        SealedWith::Passphrase => {
            let salt = hex::decode(&header.salt).ok().and_then(|salt| salt.try_into().ok());
            key_of_passphrase(secret, &salt.ok_or_else(|| Error::invalid("the backup is damaged"))?)
        }
        SealedWith::UnlockKey => Zeroizing::new(*secret.parse::<UnlockKey>()?.as_bytes()),
    };
    let plain = open_sealed(&key, prefix, sealed).map_err(|_| {
        let what = if header.sealed_with == SealedWith::Passphrase { "passphrase" } else { "unlock key" };
        Error::unauthenticated(format!("the {what} is not the one of this backup, or the backup is damaged"))
    })?;
    let plain = Zeroizing::new(plain);
    Store::from_bytes(&plain).map_err(|e| Error::invalid(format!("the backup is of another version: {e}")))
}

/// What is sealed with, what says how, and what is sealed.
fn split(file: &[u8]) -> Option<(&[u8], Header, &[u8])> {
    let rest = file.strip_prefix(MAGIC)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_be_bytes(*length) as usize;
    let (header, sealed) = rest.split_at_checked(length).filter(|_| length <= HEADER_BYTES_MAX)?;
    let prefix = &file[..file.len() - sealed.len()];
    Some((prefix, serde_json::from_slice(header).ok()?, sealed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_cluster::command::{Command, Object, Write};
    use skep_model::cluster::{Cluster, SecretBytes};

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000_000);

    fn store(unlock_key: Option<&UnlockKey>) -> Store {
        let mut cluster = Cluster { id: "c".into(), ..Cluster::default() };
        cluster.root_ca.key_pem = "the key of the CA".into();
        cluster.unlock_key = SecretBytes(unlock_key.map(|key| key.as_bytes().to_vec()).unwrap_or_default());
        let writes = vec![Write::put(Object::Cluster(cluster))];
        let mut store = Store::default();
        store.apply(7, &Command { id: "1".into(), at: NOW, writes, independent: false }).unwrap();
        store
    }

    #[test]
    fn only_the_secret_opens_what_was_written() {
        let store = store(None);
        let file = write(&store, Some("correct horse"), NOW).unwrap();
        assert!(!file.windows(10).any(|part| part == b"key of the"));
        assert_eq!(read(&file, "correct horse").unwrap(), store);
        let error = read(&file, "wrong horse!").unwrap_err();
        assert!(error.message.starts_with("the passphrase is not the one of this backup"), "{error}");
        // Every part is covered: a changed header as well as a changed body.
        for position in [30, file.len() - 1] {
            let mut damaged = file.clone();
            damaged[position] ^= 1;
            assert!(read(&damaged, "correct horse").is_err(), "{position}");
        }
        assert!(write(&store, Some("short"), NOW).unwrap_err().message.contains("at least 8"));
        assert!(write(&store, None, NOW).unwrap_err().message.contains("a passphrase is needed"));
    }

    #[test]
    fn a_locked_swarm_may_use_its_unlock_key() {
        let key = UnlockKey::create().unwrap();
        let store = store(Some(&key));
        let file = write(&store, None, NOW).unwrap();
        assert_eq!(read(&file, &key.to_text()).unwrap(), store);
        let other = UnlockKey::create().unwrap().to_text();
        assert!(read(&file, &other).unwrap_err().message.starts_with("the unlock key is not"));
        assert!(read(&file, "a passphrase").unwrap_err().message.contains("invalid key string"));
    }

    #[test]
    fn foreign_bytes_are_refused() {
        let huge = [MAGIC.as_slice(), &u32::MAX.to_be_bytes(), b"{}"].concat();
        for file in [&b""[..], b"garbage", MAGIC, &huge, &[MAGIC.as_slice(), &[0; 4]].concat()] {
            assert!(read(file, "correct horse").is_err(), "{file:?}");
        }
    }
}
