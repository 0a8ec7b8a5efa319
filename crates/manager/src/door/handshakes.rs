//! How many TLS handshakes run at once.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// In all: each costs a socket, a task and, in the end, a signature.
const HANDSHAKES_MAX: usize = 512;
/// Of one address, so that it cannot take every place by doing nothing. Nodes that lost their
/// manager together and come from behind one address try again.
const HANDSHAKES_PER_ADDRESS_MAX: usize = 256;

/// Counts handshakes.
#[derive(Clone, Default)]
pub(super) struct Handshakes {
    counts: Arc<Mutex<Counts>>,
}

#[derive(Default)]
struct Counts {
    all: usize,
    by_address: BTreeMap<IpAddr, usize>,
}

/// A handshake that is going on until this is dropped.
pub(super) struct Trying {
    counts: Arc<Mutex<Counts>>,
    address: IpAddr,
}

impl Handshakes {
    /// `None`: there are too many already.
    pub(super) fn begin(&self, address: IpAddr) -> Option<Trying> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = counts.by_address.get(&address).copied().unwrap_or(0);
        if counts.all >= HANDSHAKES_MAX || of_address >= HANDSHAKES_PER_ADDRESS_MAX {
            return None;
        }
        counts.all += 1;
        counts.by_address.insert(address, of_address + 1);
        Some(Trying { counts: self.counts.clone(), address })
    }
}

impl Drop for Trying {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all -= 1;
        if let Some(count) = counts.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn no_address_gets_every_place() {
        let handshakes = Handshakes::default();
        let mut of_one: Vec<_> =
            (0..HANDSHAKES_PER_ADDRESS_MAX).map(|_| handshakes.begin(address(1)).unwrap()).collect();
        assert!(handshakes.begin(address(1)).is_none());
        let of_another = handshakes.begin(address(2));
        assert!(of_another.is_some());
        of_one.pop();
        assert!(handshakes.begin(address(1)).is_some());
    }

    #[test]
    fn all_together_have_a_limit_and_leave_no_trace() {
        let handshakes = Handshakes::default();
        let many: Vec<_> = (0..HANDSHAKES_MAX).map(|n| handshakes.begin(address((n % 200) as u8)).unwrap()).collect();
        assert!(handshakes.begin(address(250)).is_none());
        drop(many);
        let counts = handshakes.counts.lock().unwrap();
        assert!(counts.all == 0 && counts.by_address.is_empty());
    }
}
