//! One thin handler per path: read, convert, call, convert, write.

pub(crate) mod containers;
pub(crate) mod exec;
pub(crate) mod streams;
pub(crate) mod system;
