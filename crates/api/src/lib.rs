//! The Docker Engine HTTP API: routes, JSON types, stream framing, error bodies. The
//! only crate that knows the outside protocol; it decides nothing.
//!
//! [`serve`] owns the listeners and one task per connection, all of which end with it.
//! A request is a path through `version` (prefix and headers), `router` (table),
//! `route::*` (one thin handler each) and `json::*` (pure conversions); `reach` sends what
//! is about containers of other nodes' tasks there.

pub mod backend;
mod changes;
mod detach;
mod error;
mod filters;
mod folded;
#[cfg(fuzzing)]
pub mod fuzzing;
mod json;
mod reach;
mod request;
mod route;
mod router;
mod server;
mod stream;
mod upload;
mod version;

pub use backend::Backend;
pub use reach::TaskService;
pub use router::router;
pub use server::{Listener, serve};
pub use version::{API_VERSION, API_VERSION_MIN, SERVER_VERSION};
