//! Steps of a build as JSON lines: `skep build` asks for them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use skep_engine::build::BuildEvent;

/// Tells these lines from others of the stream.
const ID: &str = "skep.build.step";

/// The line of one event.
pub(crate) fn line(event: &BuildEvent) -> Value {
    let aux = match event {
        BuildEvent::Started { step, name, at } => json!({"Step": step, "Name": name, "Started": at.to_rfc3339()}),
        BuildEvent::Log { step, is_error, data, at } => {
            json!({"Step": step, "Log": STANDARD.encode(data), "Stderr": is_error, "At": at.to_rfc3339()})
        }
        BuildEvent::Transfer { step, id, what, current, total, .. } => {
            json!({"Step": step, "Transfer": id, "What": what, "Current": current, "Total": total})
        }
        BuildEvent::Finished { step, cached, error, at } => {
            json!({"Step": step, "Finished": at.to_rfc3339(), "Cached": cached, "Error": error})
        }
    };
    json!({"id": ID, "aux": aux})
}
