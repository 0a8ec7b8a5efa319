//! What links have carried.

use crate::kernel::netlink::{Answer, attributes, text};
use skep_model::net_trace::LinkCounters;
use std::collections::BTreeMap;

const HEADER: usize = 16;
const LINK_NAME: u16 = 3;
const LINK_STATISTICS: u16 = 23;

/// By the links' names, from the answers to a dump of links.
pub fn read(answers: &[Answer]) -> BTreeMap<String, LinkCounters> {
    answers.iter().filter_map(read_one).collect()
}

fn read_one(answer: &Answer) -> Option<(String, LinkCounters)> {
    let found = attributes(&answer.body, HEADER);
    let statistics = found.get(&LINK_STATISTICS)?;
    let number = |at: usize| {
        let bytes = statistics.get(at * 8..at * 8 + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_ne_bytes)
    };
    // `struct rtnl_link_stats64`: packets, bytes, errors, dropped, received before sent.
    let counters = LinkCounters {
        received_packets: number(0),
        sent_packets: number(1),
        received_bytes: number(2),
        sent_bytes: number(3),
        dropped_packets: (4..8).map(number).sum(),
    };
    Some((text(found.get(&LINK_NAME)?), counters))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink::Attrs;

    #[test]
    fn counters_are_taken_by_their_place() {
        let numbers: Vec<u8> = (1_u64..=24).flat_map(u64::to_ne_bytes).collect();
        let mut attrs = Attrs::new();
        attrs.text(LINK_NAME, "vxlan0").bytes(LINK_STATISTICS, &numbers);
        let body = [vec![0; HEADER], attrs.0].concat();
        let counters = LinkCounters {
            received_packets: 1,
            sent_packets: 2,
            received_bytes: 3,
            sent_bytes: 4,
            dropped_packets: 5 + 6 + 7 + 8,
        };
        assert_eq!(read(&[Answer { message_type: 16, body }]), BTreeMap::from([("vxlan0".to_owned(), counters)]));
        assert!(read(&[Answer { message_type: 16, body: vec![0; 5] }]).is_empty());
    }
}
