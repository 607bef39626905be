//! Any system calls with any arguments, over a mock kernel: answers, no panic,
//! and nothing that the program could not have done itself.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| abi_linux::tests::fuzz::calls(data));
