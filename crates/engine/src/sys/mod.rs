//! System calls of the engine that have no safe wrapper, and what is asked of the
//! machine once at start.
#![allow(unsafe_code)]

pub mod kernel;
pub(crate) mod mounts;
mod old_overlay;
pub(crate) mod process;
pub(crate) mod resolve;
