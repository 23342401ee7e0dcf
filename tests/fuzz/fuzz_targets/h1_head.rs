#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pomd::feed("h1_head", bytes));
