//! What fuzzers feed: the parsers of foreign bytes that no other crate sees.

use crate::{build, image};

/// A Dockerfile, a `.dockerignore`, patterns and words with variables, all from one text.
pub fn dockerfile(text: &str) {
    build::fuzz(text);
}

/// Documents of registries and archives.
pub fn image_documents(bytes: &[u8]) {
    image::fuzz_documents(bytes);
}

/// A layer as it comes from a registry.
///
/// # Panics
/// When it leaves its folder, and when there is no folder to unpack to.
pub fn layer(bytes: &[u8]) {
    image::fuzz_layer(bytes);
}
