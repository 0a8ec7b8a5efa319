//! `GET /events`: this engine's events, and on a manager the swarm's.

use crate::backend::Backend;
use crate::error::Reply;
use crate::filters::Filters;
use crate::json::event::{FILTERS, Line, Scope, Sight, matches, see_node, see_plain, see_service, swarm_events};
use crate::json::now;
use crate::request::Query;
use crate::stream::streamed;
use axum::extract::State;
use bytes::Bytes;
use skep_engine::events::Event;
use skep_manager::Control;
use skep_model::Timestamp;
use std::collections::BTreeMap;
use std::future::pending;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

/// Lines that may wait for a slow reader; the bus behind it drops the oldest events.
const LINES_MAX: usize = 64;

pub(crate) async fn events(State(backend): State<Backend>, query: Query) -> Reply {
    let filters = query.filters(&FILTERS)?;
    let (since, until) = (query.time("since")?, query.time("until")?);
    // `until=0` is in the past, not "never".
    let until = until.or_else(|| query.nonempty("until").map(|_| Timestamp(1)));
    let (history, live) = backend.engine.events().subscribe(since);
    let control = backend.swarm.control().ok();
    let (lines, body) = mpsc::channel(LINES_MAX);
    tokio::spawn(async move {
        let feed = Feed { lines, filters, until };
        // Fails when the client has gone, which ends the task.
        let _ = feed.run(history, live, control).await;
    });
    Ok(streamed("application/json", ReceiverStream::new(body)))
}

struct Feed {
    lines: mpsc::Sender<Bytes>,
    filters: Filters,
    until: Option<Timestamp>,
}

type Gone = mpsc::error::SendError<Bytes>;

impl Feed {
    async fn run(
        &self,
        history: Vec<Event>,
        mut live: broadcast::Receiver<Event>,
        control: Option<Control>,
    ) -> Result<(), Gone> {
        for event in history.iter().filter(|event| self.until.is_none_or(|until| event.at <= until)) {
            self.send(event, Scope::Local).await?;
        }
        let end = deadline(self.until);
        let mut end = std::pin::pin!(end);
        let mut swarm = control.map(Watch::new);
        loop {
            tokio::select! {
                () = end.as_mut() => return Ok(()),
                () = self.lines.closed() => return Ok(()),
                event = live.recv() => match event {
                    Ok(event) => self.send(&event, Scope::Local).await?,
                    Err(broadcast::error::RecvError::Lagged(count)) => {
                        tracing::warn!(count, "a slow reader of events lost some");
                    }
                    Err(broadcast::error::RecvError::Closed) => return Ok(()),
                },
                events = next_of(&mut swarm) => match events {
                    Some(events) => for event in events { self.send(&event, Scope::Swarm).await? },
                    None => swarm = None,
                },
            }
        }
    }

    async fn send(&self, event: &Event, scope: Scope) -> Result<(), Gone> {
        if !matches(event, scope, &self.filters) {
            return Ok(());
        }
        let mut line = serde_json::to_vec(&Line::of(event, scope)).expect("an event is strings and numbers");
        line.push(b'\n');
        self.lines.send(line.into()).await
    }
}

async fn deadline(until: Option<Timestamp>) {
    match until {
        Some(until) => tokio::time::sleep(until.since(now())).await,
        None => pending().await,
    }
}

async fn next_of(watch: &mut Option<Watch>) -> Option<Vec<Event>> {
    match watch {
        Some(watch) => watch.next().await,
        None => pending().await,
    }
}

/// Looks at the manager's store whenever it changes.
struct Watch {
    control: Control,
    version: watch::Receiver<u64>,
    last: Sight,
}

impl Watch {
    fn new(control: Control) -> Self {
        let mut version = control.version();
        version.mark_unchanged();
        let last = look(&control);
        Self { control, version, last }
    }

    /// `None` when this node is no manager any more.
    async fn next(&mut self) -> Option<Vec<Event>> {
        self.version.changed().await.ok()?;
        let present = look(&self.control);
        let events = swarm_events(&self.last, &present, now());
        self.last = present;
        Some(events)
    }
}

fn look(control: &Control) -> Sight {
    let mut sight = BTreeMap::new();
    for service in control.services() {
        sight.insert(("service", service.id.to_string()), see_service(&service));
    }
    for node in control.nodes() {
        sight.insert(("node", node.id.to_string()), see_node(&node));
    }
    for network in control.networks() {
        sight.insert(("network", network.id.to_string()), see_plain(network.meta.version, &network.spec.name));
    }
    for secret in control.secrets() {
        sight.insert(("secret", secret.id.to_string()), see_plain(secret.meta.version, &secret.spec.name));
    }
    for config in control.configs() {
        sight.insert(("config", config.id.to_string()), see_plain(config.meta.version, &config.spec.name));
    }
    sight
}
