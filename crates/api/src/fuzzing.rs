//! What fuzzers feed: the parts of requests.

use crate::detach::DetachKeys;
use crate::filters::Filters;
use crate::json::feed::feed_all;
use crate::request::{Query, parse_time};

/// A body, or whatever else stands in a request, from the same bytes.
pub fn request(bytes: &[u8]) {
    if let Ok(value) = serde_json::from_slice(bytes) {
        feed_all(&value);
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = Query::parse(text).get("filters");
    let _ = Filters::parse(text);
    let _ = parse_time(text);
    let _ = DetachKeys::parse(text);
}
