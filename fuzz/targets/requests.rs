//! Query strings, filters, times, detach keys and JSON bodies of the HTTP API.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| skep_api::fuzzing::request(bytes));
