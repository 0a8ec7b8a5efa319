//! What the kernel answers over netlink.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skep_netd::balance::ipvs::message;
use skep_netd::kernel::netlink::{Answer, attribute_list, attributes};
use skep_netd::kernel::{neighbour, route};
use skep_netd::nft::expression;
use std::collections::BTreeMap;

fuzz_target!(|input: (u16, &[u8], &[u8])| {
    let (message_type, body, other) = input;
    let _ = (attribute_list(body), attributes(body, 4));
    let answers = [Answer { message_type, body: body.to_vec() }, Answer { message_type, body: other.to_vec() }];
    let _ = (route::link_index(&answers[0]), route::read_links(&answers));
    let _ = (route::read_addresses(&answers), route::read_default_routes(&answers));
    let name = "eth0".to_owned();
    let _ = neighbour::read(&answers, &BTreeMap::from([(2, &name)]));
    if let Some((service, _)) = message::decode_service(body) {
        let _ = message::decode_destination(other, service);
    }
    let _ = message::decode_timeouts(body);
    let _ = expression::covers(body, other);
});
