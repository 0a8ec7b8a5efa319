//! The steps of a build, told as they happen: line by line, or live on a terminal.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, FixedOffset};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Lines of a failed step that are shown again at the end.
const LAST_LINES_MAX: usize = 20;
const TICK: Duration = Duration::from_millis(120);

type Time = DateTime<FixedOffset>;

/// What is known of one step.
#[derive(Debug, Default)]
struct Step {
    name: String,
    started: Option<Time>,
    last_lines: VecDeque<String>,
    error: String,
}

impl Step {
    fn since(&self, now: &Value) -> f64 {
        let (Some(started), Some(now)) = (self.started, time(now)) else { return 0.0 };
        (now - started).as_seconds_f64().max(0.0)
    }

    fn remember(&mut self, text: &str) {
        for line in text.lines() {
            if self.last_lines.len() == LAST_LINES_MAX {
                self.last_lines.pop_front();
            }
            self.last_lines.push_back(line.to_owned());
        }
    }

    /// What to say of a failure after all; empty if there was none.
    fn report(&self) -> String {
        if self.error.is_empty() {
            return String::new();
        }
        let rule = "------";
        let lines: String = self.last_lines.iter().map(|line| format!("{line}\n")).collect();
        format!("{rule}\n > {}:\n{lines}{rule}\n", self.name)
    }
}

/// One line an event, each with the number of its step.
#[derive(Debug, Default)]
pub(crate) struct Plain {
    steps: BTreeMap<u64, Step>,
    /// Numbers as shown, in order of beginning.
    numbers: BTreeMap<u64, usize>,
}

impl Plain {
    /// The text of one event; empty for what is none. Pure.
    pub(crate) fn show(&mut self, event: &Value) -> String {
        let Some(id) = event["Step"].as_u64() else { return String::new() };
        let next = self.numbers.len() + 1;
        let number = *self.numbers.entry(id).or_insert(next);
        let step = self.steps.entry(id).or_default();
        if let Some(name) = event["Name"].as_str() {
            name.clone_into(&mut step.name);
            step.started = time(&event["Started"]);
            return format!("#{number} {name}\n");
        }
        if let Some(text) = log_text(event) {
            step.remember(&text);
            let at = step.since(&event["At"]);
            return text.lines().map(|line| format!("#{number} {at:.3} {line}\n")).collect();
        }
        if event["Finished"].is_string() {
            let took = step.since(&event["Finished"]);
            return match event["Error"].as_str().unwrap_or_default() {
                "" if event["Cached"] == true => format!("#{number} CACHED\n\n"),
                "" => format!("#{number} DONE {took:.1}s\n\n"),
                error => {
                    error.clone_into(&mut step.error);
                    format!("#{number} ERROR: {error}\n\n")
                }
            };
        }
        match (event["Transfer"].as_str(), event["Total"].as_u64(), event["Current"].as_u64()) {
            // Progress of a layer is for those who watch; its turning points are for all.
            (Some(layer), Some(0), _) => {
                format!("#{number} {layer} {}\n", event["What"].as_str().unwrap_or_default())
            }
            _ => String::new(),
        }
    }
}

/// What to say of the failed step after all.
pub(crate) fn plain_error(plain: &Plain) -> Option<String> {
    plain.steps.values().map(Step::report).find(|text| !text.is_empty())
}

/// A line a step, rewritten while it runs.
#[derive(Debug)]
pub(crate) struct Live {
    bars: MultiProgress,
    steps: BTreeMap<u64, (Step, ProgressBar)>,
}

impl Default for Live {
    fn default() -> Self {
        Self { bars: MultiProgress::new(), steps: BTreeMap::new() }
    }
}

impl Live {
    pub(crate) fn show(&mut self, event: &Value) {
        let Some(id) = event["Step"].as_u64() else { return };
        let bars = &self.bars;
        let (step, bar) = self.steps.entry(id).or_insert_with(|| {
            let bar = bars.add(ProgressBar::new_spinner());
            bar.set_style(style("{spinner} {msg} {elapsed}"));
            bar.enable_steady_tick(TICK);
            (Step::default(), bar)
        });
        if let Some(name) = event["Name"].as_str() {
            name.clone_into(&mut step.name);
            step.started = time(&event["Started"]);
            bar.set_message(step.name.clone());
        } else if let Some(text) = log_text(event) {
            step.remember(&text);
            let last = step.last_lines.back().map(|line| line.trim().to_owned()).unwrap_or_default();
            bar.set_message(format!("{} | {last}", step.name));
        } else if event["Finished"].is_string() {
            let took = step.since(&event["Finished"]);
            let error = event["Error"].as_str().unwrap_or_default();
            error.clone_into(&mut step.error);
            bar.set_style(style("{msg}"));
            bar.finish_with_message(match (error.is_empty(), event["Cached"] == true) {
                (false, _) => format!("x {} failed after {took:.1}s", step.name),
                (true, true) => format!("= {} CACHED", step.name),
                (true, false) => format!("= {} {took:.1}s", step.name),
            });
        } else if let Some(layer) = event["Transfer"].as_str() {
            let (current, total) = (event["Current"].as_f64().unwrap_or(0.0), event["Total"].as_f64().unwrap_or(0.0));
            let share = if total > 0.0 { format!(" {:.0}%", current * 100.0 / total) } else { String::new() };
            let what = event["What"].as_str().unwrap_or_default();
            bar.set_message(format!("{} | {layer} {what}{share}", step.name));
        }
    }

    /// Leaves the last state on the screen; what to say of the failed step.
    pub(crate) fn end(&self) -> Option<String> {
        for (_, bar) in self.steps.values().filter(|(_, bar)| !bar.is_finished()) {
            bar.abandon();
        }
        self.steps.values().map(|(step, _)| step.report()).find(|text| !text.is_empty())
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn time(value: &Value) -> Option<Time> {
    DateTime::parse_from_rfc3339(value.as_str()?).ok()
}

fn log_text(event: &Value) -> Option<String> {
    let bytes = STANDARD.decode(event["Log"].as_str()?).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn steps_are_told_with_their_numbers_and_times() {
        let mut plain = Plain::default();
        let at = |second: u32| format!("2026-01-01T00:00:{second:02}Z");
        let mut show = |event: Value| plain.show(&event);
        assert_eq!(show(json!({"Step": 7, "Name": "[1/2] FROM a", "Started": at(0)})), "#1 [1/2] FROM a\n");
        assert_eq!(show(json!({"Step": 7, "Finished": at(1), "Cached": true, "Error": ""})), "#1 CACHED\n\n");
        assert_eq!(show(json!({"Step": 8, "Name": "[2/2] RUN x", "Started": at(1)})), "#2 [2/2] RUN x\n");
        let log = STANDARD.encode("one\ntwo\n");
        assert_eq!(show(json!({"Step": 8, "Log": log, "At": at(3)})), "#2 2.000 one\n#2 2.000 two\n");
        assert_eq!(show(json!({"Step": 8, "Finished": at(4), "Error": "no"})), "#2 ERROR: no\n\n");
        assert_eq!(show(json!({"ID": "sha256:1"})), "");
        assert_eq!(plain_error(&plain).unwrap(), "------\n > [2/2] RUN x:\none\ntwo\n------\n");
    }
}
