//! The calls over a mock kernel: real files in a temporary directory,
//! simulated host objects, memory made of pages that may be absent or
//! read-only.

mod bad_pointers;
mod descriptors;
mod directories;
mod fuzz;
mod layouts;
mod memory;
mod mock;
mod polling;
mod pseudo;
mod table;
mod threads;
mod transfers;
