//! Compose files from text to objects, with files that exist only in memory.

#![allow(clippy::unwrap_used, reason = "a test's unwrap is its assertion")]

mod any_text;
mod common;
mod local;
mod objects;
mod several_files;
