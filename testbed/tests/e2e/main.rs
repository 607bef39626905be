//! Whole programs on a whole testbed: each is run natively and under
//! `testbed run`, and what comes out must be the same byte for byte.
//!
//! The programs are the C sources in `testbed/programs`, compiled static here,
//! and Debian's static busybox. The binaries under test are those that cargo
//! built; `SPLITKERNEL_BIN_DIR` names a directory with others, such as a
//! release build.
#![cfg(test)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod bench;
mod binaries;
mod busybox;
mod cachebench;
mod calls;
mod case;
mod components;
mod endings;
mod hostile;
mod images;
mod leftovers;
mod passing;
mod process;
mod programs;
mod scratch;
mod standing;
mod statistics;
mod sweep;
mod system;
mod tracing;
mod watching;
mod workloads;
