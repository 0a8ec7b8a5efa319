//! What registries and archives say of images: manifests, indexes, configurations, names.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| skep_engine::fuzzing::image_documents(bytes));
