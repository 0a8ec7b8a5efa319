//! A Dockerfile, its `.dockerignore`, patterns and variables.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| skep_engine::fuzzing::dockerfile(text));
