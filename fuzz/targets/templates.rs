//! Templates of `--format`; those of secrets and task specs are evaluated by the same library.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| skep_cli::fuzzing::format(text));
