#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mesh_core::fuzzing::forwarded(input));
