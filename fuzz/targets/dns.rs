//! What containers send to the name server, and what servers beyond it answer.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skep_netd::desired::Desired;
use skep_netd::dns::message::{Transport, answer, server_failure};
use std::path::Path;

fuzz_target!(|query: &[u8]| {
    for transport in [Transport::Udp, Transport::Tcp] {
        let _ = answer(&Desired::default(), Path::new("/n"), query, transport);
    }
    let _ = server_failure(query);
});
