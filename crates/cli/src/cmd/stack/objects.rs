//! The objects that carry a stack's label.

use crate::client::{filters, query};
use crate::{Client, Outcome};
use serde_json::Value;
use skep_compose::NAMESPACE_LABEL;

/// Objects of one kind (`services`, `tasks`, `networks`, `secrets`, `configs`), services
/// with their counts.
///
/// # Errors
/// The daemon's, or a malformed filter.
pub(super) async fn list(client: &Client, kind: &str, stack: &str, given: &[String]) -> Outcome<Vec<Value>> {
    let mut wanted = given.to_vec();
    wanted.push(format!("label={NAMESPACE_LABEL}={stack}"));
    let status = if kind == "services" { "true" } else { "" };
    let answer =
        client.get(&format!("/{kind}{}", query(&[("status", status), ("filters", &filters(&wanted)?)]))).await?;
    match answer {
        Value::Array(list) => Ok(list),
        _ => Ok(Vec::new()),
    }
}
