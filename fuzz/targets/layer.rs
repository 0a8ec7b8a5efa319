//! Layers: compressed or not, unpacked into a folder of memory.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| skep_engine::fuzzing::layer(bytes));
