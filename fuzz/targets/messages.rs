//! Every message that a worker can send, and the values inside them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use skep_model::node::NodeDescription;
use skep_model::task::TaskStatus;
use skep_proto::{ca, codec, dispatcher};

fn message<T: Message + Default>(bytes: &[u8]) {
    if let Ok(message) = T::decode(bytes) {
        let _ = message.encode_to_vec();
    }
}

fuzz_target!(|bytes: &[u8]| {
    message::<dispatcher::SessionRequest>(bytes);
    message::<dispatcher::HeartbeatRequest>(bytes);
    message::<dispatcher::AssignmentsRequest>(bytes);
    message::<dispatcher::UpdateTaskStatusRequest>(bytes);
    message::<ca::IssueNodeCertificateRequest>(bytes);
    let _ = codec::decode::<NodeDescription>(bytes);
    if let Ok(status) = codec::decode::<TaskStatus>(bytes) {
        let again = codec::decode::<TaskStatus>(&codec::encode(&status));
        assert_eq!(again.expect("what we write we read"), status);
    }
});
