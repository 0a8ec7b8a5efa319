//! Every body of a request from one JSON value, for tests and fuzzers.

use super::{container, exec, network, node, secret, service, swarm, volume};
use serde::de::DeserializeOwned;
use serde_json::Value;

fn feed<T: DeserializeOwned>(value: &Value, convert: impl FnOnce(T)) {
    if let Ok(wire) = serde_json::from_value::<T>(value.clone()) {
        convert(wire);
    }
}

pub(crate) fn feed_all(value: &Value) {
    feed(value, |wire: container::CreateBody| {
        if let Ok((spec, _)) = wire.into_spec("name") {
            // What was accepted can be shown.
            let info = skep_model::container::ContainerInfo {
                config: spec.config,
                host: spec.host,
                ..skep_model::container::ContainerInfo::default()
            };
            let shown = container::Inspect::of(&info, None, crate::version::API_VERSION);
            serde_json::to_string(&shown).expect("what was accepted is shown");
        }
    });
    feed(value, |wire: container::UpdateBody| drop(wire.into_model()));
    feed(value, |wire: exec::ExecCreate| drop(wire.into_model()));
    feed(value, |wire: network::CreateBody| drop(wire.into_model()));
    feed(value, |wire: network::ConnectBody| drop(wire.endpoint_config.into_model()));
    feed(value, |wire: volume::CreateBody| drop(wire.check()));
    feed(value, |wire: node::NodeSpec| drop(wire.into_model()));
    feed(value, |wire: secret::Body| drop(wire.into_secret()));
    feed(value, |wire: swarm::InitBody| drop(wire.into_model()));
    feed(value, |wire: swarm::JoinBody| drop(wire.into_model()));
    feed(value, |wire: service::ServiceSpec| {
        if let Ok(spec) = wire.into_model() {
            let back = service::ServiceSpec::of(&spec).into_model().expect("what was accepted is accepted again");
            assert_eq!(back, spec);
        }
    });
}
