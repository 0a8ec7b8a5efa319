//! Compose files from text to objects, with files that exist only in memory.

mod any_text;
mod common;
mod objects;
mod several_files;
