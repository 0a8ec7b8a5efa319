//! Output of several containers at once, each line behind its container's name.

use super::seen::Seen;
use super::{Context, make, states};
use crate::client::query;
use crate::cmd::system::point_in_time;
use crate::flags::compose::Logs;
use crate::format::text;
use crate::stream::{self, Frames};
use crate::{Client, Failure, Outcome};
use chrono::Utc;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use serde_json::Value;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};

/// How often it is asked whether a container that stopped starts again.
const POLL: Duration = Duration::from_millis(100);
const CHUNK_BYTES: usize = 32 * 1024;
/// Longer lines are shown in parts.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Colours of the names, one container after the other.
const COLORS: [u8; 6] = [36, 33, 32, 35, 34, 31];
/// Exit code after Ctrl-C, as shells count it.
const INTERRUPTED: i32 = 130;

/// Output of `up`.
pub(super) struct Watch {
    /// Point in time, seconds since the epoch.
    pub(super) since: String,
    pub(super) timestamps: bool,
    pub(super) prefix: bool,
    pub(super) color: bool,
    /// Ids of the containers whose output is shown.
    pub(super) shown: Vec<String>,
    /// The first container that stops stops all.
    pub(super) first_end: bool,
    pub(super) exit_code_from: Option<String>,
    pub(super) timeout: Option<i64>,
}

pub(super) async fn logs(context: &Context<'_>, flags: &Logs) -> Outcome {
    let mut containers = context.chosen(&flags.services).await?;
    if flags.index > 0 {
        containers.retain(|one| one.number == flags.index);
    }
    let now = Utc::now();
    let options = Options {
        since: point_in_time(&flags.since, now)?,
        until: point_in_time(&flags.until, now)?,
        tail: flags.tail.clone(),
        timestamps: flags.timestamps,
        follow: flags.follow,
    };
    let prefixes = prefixes(context.name(), &containers, !flags.no_log_prefix, !flags.no_color);
    if !flags.follow {
        for (one, prefix) in containers.iter().zip(&prefixes) {
            output(context.client, one, prefix, &options).await?;
        }
        return Ok(());
    }
    let all = containers.iter().zip(&prefixes).map(|(one, prefix)| follow(context.client, one, prefix, &options));
    for result in join_all(all).await {
        result?;
    }
    Ok(())
}

/// Shows the output of containers until all have stopped, or Ctrl-C stops them.
///
/// # Errors
/// Exit code 130 after Ctrl-C, or the code that was asked for.
pub(super) async fn watch(context: &Context<'_>, containers: &[Seen], watch: &Watch) -> Outcome {
    let prefixes = prefixes(context.name(), containers, watch.prefix, watch.color);
    let names: Vec<String> =
        containers.iter().filter(|one| watch.shown.contains(&one.id)).map(|one| short(context.name(), one)).collect();
    println!("Attaching to {}", names.join(", "));
    let options = Options {
        since: watch.since.clone(),
        until: String::new(),
        tail: "all".into(),
        timestamps: watch.timestamps,
        follow: true,
    };
    let options = &options;
    let mut running: FuturesUnordered<_> = containers
        .iter()
        .zip(&prefixes)
        .map(|(one, prefix)| async move {
            let quiet = !watch.shown.contains(&one.id);
            let code =
                if quiet { end(context.client, one).await } else { follow(context.client, one, prefix, options).await };
            (one, code)
        })
        .collect();
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let mut exit_code = None;
    loop {
        let (one, code) = tokio::select! {
            ended = running.next() => match ended {
                Some((one, code)) => (one, code?),
                None => break,
            },
            _ = interrupts.recv() => return stop_gracefully(context, containers, watch, &mut interrupts).await,
            _ = terminations.recv() => return stop_gracefully(context, containers, watch, &mut interrupts).await,
        };
        println!("{} exited with code {code}", short(context.name(), one));
        if watch.exit_code_from.as_ref().is_none_or(|key| *key == one.service) {
            exit_code.get_or_insert(code);
        }
        if watch.first_end {
            println!("Aborting on container exit...");
            drop(running);
            states::stop_all(context, &context.seen().await?, watch.timeout).await?;
            if exit_code.is_none() {
                exit_code = code_of(context, watch).await?;
            }
            break;
        }
    }
    match exit_code {
        Some(code) if code != 0 && watch.first_end => Err(Failure::Code(i32::try_from(code).unwrap_or(1))),
        _ => Ok(()),
    }
}

/// The code of the service that was asked for, once all are stopped.
async fn code_of(context: &Context<'_>, watch: &Watch) -> Outcome<Option<i64>> {
    let Some(key) = &watch.exit_code_from else { return Ok(None) };
    let Some(one) = context.seen().await?.into_iter().find(|one| one.service == *key && !one.one_off) else {
        return Ok(None);
    };
    let state = context.client.get(&format!("/containers/{}/json", one.id)).await?;
    Ok(state["State"]["ExitCode"].as_i64())
}

async fn stop_gracefully(
    context: &Context<'_>,
    containers: &[Seen],
    watch: &Watch,
    interrupts: &mut tokio::signal::unix::Signal,
) -> Outcome {
    eprintln!("Gracefully stopping... (press Ctrl+C again to force)");
    let present = context.seen().await?;
    let ours: Vec<Seen> = present.into_iter().filter(|one| containers.iter().any(|known| known.id == one.id)).collect();
    tokio::select! {
        stopped = states::stop_all(context, &ours, watch.timeout) => stopped?,
        _ = interrupts.recv() => {
            for one in ours.iter().filter(|one| one.runs()) {
                make::stop(context.client, &one.id, &one.name, Some(0)).await?;
            }
        }
    }
    Err(Failure::Code(INTERRUPTED))
}

/// `web-1`
fn short(project: &str, one: &Seen) -> String {
    let rest = one.name.strip_prefix(project).and_then(|rest| rest.strip_prefix(['-', '_']));
    rest.unwrap_or(&one.name).to_owned()
}

/// What stands before the lines of each container.
fn prefixes(project: &str, containers: &[Seen], wanted: bool, color: bool) -> Vec<String> {
    let names: Vec<String> = containers.iter().map(|one| short(project, one)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let color = color && crate::terminal::output_is_terminal();
    let one = |(number, name): (usize, &String)| match (wanted, color) {
        (false, _) => String::new(),
        (true, false) => format!("{name:width$}  | "),
        (true, true) => format!("\u{1b}[{}m{name:width$}  | \u{1b}[0m", COLORS[number % COLORS.len()]),
    };
    names.iter().enumerate().map(one).collect()
}

struct Options {
    since: String,
    until: String,
    tail: String,
    timestamps: bool,
    follow: bool,
}

/// Follows a container through its restarts; its exit code.
async fn follow(client: &Client, one: &Seen, prefix: &str, options: &Options) -> Outcome<i64> {
    output(client, one, prefix, options).await?;
    loop {
        let Some(state) = state(client, one).await? else { return Ok(0) };
        match (state["Restarting"] == true, state["Running"] == true) {
            (true, _) => tokio::time::sleep(POLL).await,
            (false, true) => {
                let again = Options {
                    since: point_in_time(&text(&state["StartedAt"]), Utc::now())?,
                    until: String::new(),
                    tail: "all".into(),
                    timestamps: options.timestamps,
                    follow: true,
                };
                output(client, one, prefix, &again).await?;
            }
            (false, false) => return Ok(state["ExitCode"].as_i64().unwrap_or(0)),
        }
    }
}

/// Waits until a container has stopped for good; its exit code.
async fn end(client: &Client, one: &Seen) -> Outcome<i64> {
    loop {
        let Some(state) = state(client, one).await? else { return Ok(0) };
        if state["Restarting"] != true && state["Running"] != true {
            return Ok(state["ExitCode"].as_i64().unwrap_or(0));
        }
        if state["Restarting"] == true {
            tokio::time::sleep(POLL).await;
        } else {
            client.post(&format!("/containers/{}/wait", one.id), Value::Null).await?;
        }
    }
}

/// `None` when it was removed meanwhile.
async fn state(client: &Client, one: &Seen) -> Outcome<Option<Value>> {
    match client.get(&format!("/containers/{}/json", one.id)).await {
        Ok(seen) => Ok(Some(seen["State"].clone())),
        Err(Failure::Api(error)) if error.status == 404 => Ok(None),
        Err(failure) => Err(failure),
    }
}

async fn output(client: &Client, one: &Seen, prefix: &str, options: &Options) -> Outcome {
    let seen = client.get(&format!("/containers/{}/json", one.id)).await?;
    let flag = |on: bool| if on { "1" } else { "" };
    let path = query(&[
        ("stdout", "1"),
        ("stderr", "1"),
        ("follow", flag(options.follow)),
        ("timestamps", flag(options.timestamps)),
        ("tail", &options.tail),
        ("since", &options.since),
        ("until", &options.until),
    ]);
    let answer = match stream::get_stream(client, &format!("/containers/{}/logs{path}", one.id)).await {
        // A driver that keeps nothing is no reason to hide what the others wrote.
        Err(Failure::Api(error)) if error.message.contains("does not support reading") => {
            eprintln!("WARNING: {}: {}", one.name, error.message);
            return Ok(());
        }
        other => other?,
    };
    let mut reader = stream::body_reader(answer);
    let mut lines = Lines { prefix, pending: [Vec::new(), Vec::new()] };
    if seen["Config"]["Tty"] == true {
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            lines.add(1, &buffer[..count])?;
        }
    } else {
        let mut frames = Frames::new(reader);
        while let Some((number, data)) = frames.next().await? {
            lines.add(number, &data)?;
        }
    }
    lines.end()
}

/// Whole lines of two streams.
struct Lines<'a> {
    prefix: &'a str,
    pending: [Vec<u8>; 2],
}

impl Lines<'_> {
    fn add(&mut self, number: u8, data: &[u8]) -> Outcome {
        let pending = &mut self.pending[usize::from(number == 2)];
        pending.extend_from_slice(data);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            stream::emit(number, &[self.prefix.as_bytes(), &line].concat())?;
        }
        if pending.len() > LINE_BYTES_MAX {
            let part = std::mem::take(pending);
            stream::emit(number, &[self.prefix.as_bytes(), &part, b"\n"].concat())?;
        }
        Ok(())
    }

    fn end(self) -> Outcome {
        for (number, rest) in (1..).zip(self.pending) {
            if !rest.is_empty() {
                stream::emit(number, &[self.prefix.as_bytes(), &rest, b"\n"].concat())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_the_project_and_are_padded() {
        let one = |name: &str| Seen { name: name.into(), ..Seen::default() };
        let all = [one("shop-web-1"), one("shop_database_1"), one("front")];
        assert_eq!(prefixes("shop", &all, true, false), ["web-1       | ", "database_1  | ", "front       | "]);
        assert_eq!(prefixes("shop", &all, false, true), ["", "", ""]);
    }
}
