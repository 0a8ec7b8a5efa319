//! When a certificate is renewed. Pure: the clock and the dice are the caller's.

use crate::peer::Validity;
use skep_model::Timestamp;
use std::time::Duration;

/// The point to renew at: between 50 % and 80 % of the certificate's life, so that the
/// nodes of a swarm do not all come at once and an outage of days is survived.
/// `random` is any random number.
pub fn renew_at(validity: Validity, random: u64) -> Timestamp {
    let life_ns = validity.not_after.since(validity.not_before).as_nanos();
    // 50 % plus a random share of 30 %, in units of 2^-64 to stay in whole numbers.
    let half = life_ns / 2;
    let span = life_ns * 3 / 10;
    let offset = half + (span * u128::from(random >> 32)) / u128::from(u32::MAX);
    validity.not_before.plus(Duration::from_nanos(u64::try_from(offset).unwrap_or(u64::MAX)))
}

/// How long from `now` until renewal; zero when it is due or overdue.
pub fn renew_in(validity: Validity, now: Timestamp, random: u64) -> Duration {
    renew_at(validity, random).since(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_NS: i64 = 24 * 3600 * 1_000_000_000;

    fn validity() -> Validity {
        Validity { not_before: Timestamp(10 * DAY_NS), not_after: Timestamp(110 * DAY_NS) }
    }

    #[test]
    fn renewal_falls_between_half_and_four_fifths_of_the_life() {
        assert_eq!(renew_at(validity(), 0), Timestamp(60 * DAY_NS));
        assert_eq!(renew_at(validity(), u64::MAX), Timestamp(90 * DAY_NS));
        let middle = renew_at(validity(), u64::MAX / 2);
        assert!(middle > Timestamp(74 * DAY_NS) && middle < Timestamp(76 * DAY_NS));
    }

    #[test]
    fn overdue_means_now() {
        assert_eq!(renew_in(validity(), Timestamp(60 * DAY_NS), 0), Duration::ZERO);
        assert_eq!(renew_in(validity(), Timestamp(200 * DAY_NS), u64::MAX), Duration::ZERO);
        assert_eq!(renew_in(validity(), Timestamp(59 * DAY_NS), 0), Duration::from_secs(24 * 3600));
    }
}
