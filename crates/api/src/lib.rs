//! The Docker Engine HTTP API: routes, JSON types, stream framing, error bodies. The
//! only crate that knows the outside protocol; it decides nothing.

pub mod backend;
