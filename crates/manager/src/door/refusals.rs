//! Who was turned away and why, in the log once a minute and address at most: an attacker
//! must not be able to fill the disk.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(60);
/// Addresses remembered; the one logged longest ago makes room.
const ADDRESSES_MAX: usize = 1024;

/// Remembers what was logged.
#[derive(Default)]
pub(crate) struct Refusals {
    table: Mutex<BTreeMap<IpAddr, Logged>>,
}

struct Logged {
    at: Instant,
    /// Refused since without a line in the log.
    silent: u64,
}

impl Refusals {
    /// Logs that a peer was refused, unless that was done a moment ago.
    pub(crate) fn note(&self, peer: IpAddr, reason: impl Display) {
        match self.admit(peer, Instant::now()) {
            Some(0) => tracing::warn!(%peer, %reason, "refused a peer on the cluster port"),
            Some(silent) => {
                tracing::warn!(%peer, %reason, not_logged = silent, "refused a peer on the cluster port again and again");
            }
            None => tracing::debug!(%peer, %reason, "refused a peer on the cluster port"),
        }
    }

    /// Whether to log now, and how many were not logged before.
    fn admit(&self, peer: IpAddr, now: Instant) -> Option<u64> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(logged) = table.get_mut(&peer) {
            if now.saturating_duration_since(logged.at) < INTERVAL {
                logged.silent += 1;
                return None;
            }
            let silent = logged.silent;
            *logged = Logged { at: now, silent: 0 };
            return Some(silent);
        }
        if table.len() >= ADDRESSES_MAX {
            let oldest = table.iter().min_by_key(|(_, logged)| logged.at).map(|(peer, _)| *peer);
            oldest.map(|oldest| table.remove(&oldest));
        }
        table.insert(peer, Logged { at: now, silent: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_logged_once_a_minute_with_the_number_left_out() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        let check = |last: u8, second: u64, expect: Option<u64>| {
            let got = refusals.admit([10, 0, 0, last].into(), start + Duration::from_secs(second));
            assert_eq!(got, expect, "address {last} at {second}");
        };
        check(1, 0, Some(0));
        check(1, 1, None);
        check(2, 2, Some(0));
        check(1, 59, None);
        check(1, 60, Some(2));
        check(1, 61, None);
    }

    #[test]
    fn any_number_of_addresses_takes_bounded_room() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        for number in 0..10_000u32 {
            refusals.admit(IpAddr::from(number.to_be_bytes()), start + Duration::from_millis(u64::from(number)));
        }
        assert_eq!(refusals.table.lock().unwrap().len(), ADDRESSES_MAX);
    }
}
