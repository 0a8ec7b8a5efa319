//! A build's events as BuildKit tells of them. Pure.

use crate::proto::control::{StatusResponse, Timestamp as WireTimestamp, Vertex, VertexLog, VertexStatus};
use prost::Message;
use sha2::{Digest, Sha256};
use skep_engine::build::BuildEvent;
use skep_model::Timestamp;
use std::collections::BTreeMap;

const NANOSECONDS: i64 = 1_000_000_000;
/// What ends a layer's transfer.
const LAYER_ENDS: [&str; 2] = ["Pull complete", "Already exists"];

/// Remembers what was told, since each message about a step repeats its beginning.
#[derive(Debug)]
pub struct Tracer {
    /// Makes the names of steps different from build to build.
    build: String,
    steps: BTreeMap<u32, Vertex>,
    transfers: BTreeMap<(u32, String), WireTimestamp>,
}

impl Tracer {
    /// For a build of that name.
    #[must_use]
    pub fn new(build: &str) -> Self {
        Self { build: build.to_owned(), steps: BTreeMap::new(), transfers: BTreeMap::new() }
    }

    /// The message about an event.
    pub fn message(&mut self, event: &BuildEvent) -> StatusResponse {
        let mut message = StatusResponse::default();
        match event {
            BuildEvent::Started { step, name, at } => {
                let vertex = Vertex {
                    digest: self.digest(*step),
                    name: name.clone(),
                    started: Some(wire(*at)),
                    ..Vertex::default()
                };
                self.steps.insert(*step, vertex.clone());
                message.vertexes.push(vertex);
            }
            BuildEvent::Log { step, is_error, data, at } => message.logs.push(VertexLog {
                vertex: self.digest(*step),
                timestamp: Some(wire(*at)),
                stream: if *is_error { 2 } else { 1 },
                msg: data.clone(),
            }),
            BuildEvent::Transfer { step, id, what, current, total, at } => {
                let at = wire(*at);
                let started = *self.transfers.entry((*step, id.clone())).or_insert(at);
                let count = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
                message.statuses.push(VertexStatus {
                    id: format!("{} {id}", what.to_lowercase()),
                    vertex: self.digest(*step),
                    name: String::new(),
                    current: count(*current),
                    total: count(*total),
                    timestamp: Some(at),
                    started: Some(started),
                    completed: LAYER_ENDS.contains(&what.as_str()).then_some(at),
                });
            }
            BuildEvent::Finished { step, cached, error, at } => {
                let mut vertex = self.steps.remove(step).unwrap_or_default();
                vertex.cached = *cached;
                vertex.completed = Some(wire(*at));
                vertex.error.clone_from(error);
                message.vertexes.push(vertex);
            }
        }
        message
    }

    /// The message in bytes.
    pub fn bytes(&mut self, event: &BuildEvent) -> Vec<u8> {
        self.message(event).encode_to_vec()
    }

    fn digest(&self, step: u32) -> String {
        format!("sha256:{}", hex::encode(Sha256::digest(format!("{} {step}", self.build))))
    }
}

/// A point in time on the wire.
pub(crate) fn wire(at: Timestamp) -> WireTimestamp {
    let nanos = i32::try_from(at.0.rem_euclid(NANOSECONDS)).unwrap_or_default();
    WireTimestamp { seconds: at.0.div_euclid(NANOSECONDS), nanos }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finished_step_repeats_how_it_began() {
        let mut tracer = Tracer::new("b");
        let started = BuildEvent::Started { step: 1, name: "[1/1] FROM x".into(), at: Timestamp(1_500_000_000) };
        let first = tracer.message(&started).vertexes.remove(0);
        assert_eq!(first.started, Some(WireTimestamp { seconds: 1, nanos: 500_000_000 }));
        let ended = BuildEvent::Finished { step: 1, cached: true, error: "no".into(), at: Timestamp(2) };
        let last = tracer.message(&ended).vertexes.remove(0);
        assert_eq!((last.digest, last.name, last.started), (first.digest, first.name, first.started));
        assert!(last.cached && last.error == "no" && last.completed.is_some());
    }

    #[test]
    fn steps_of_two_builds_have_different_names() {
        let log = BuildEvent::Log { step: 1, is_error: true, data: b"x".to_vec(), at: Timestamp(1) };
        let (one, two) = (Tracer::new("a").message(&log), Tracer::new("b").message(&log));
        assert_ne!(one.logs[0].vertex, two.logs[0].vertex);
        assert_eq!(one.logs[0].stream, 2);
    }
}
