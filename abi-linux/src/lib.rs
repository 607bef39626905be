//! The Linux x86-64 system-call interface: which calls there are and how well
//! each is supported ([`table`]), the kernel's structures ([`layout`]), and
//! the calls themselves, decoded, validated and written against small traits
//! ([`kernel`]) that the processor component implements.
//!
//! The crate does no I/O, knows no clock, and never touches the program's
//! memory except through [`kernel::UserMemory`]: a bad pointer is `EFAULT`.
//!
//! A program's descriptor numbers are host descriptor numbers. A file of the
//! storage component reserves its number at the host and is found in
//! [`fds::FdTable`]; a number that is not there is a host object: a pipe, a
//! socket, a terminal, a standard stream.
#![forbid(unsafe_code)]

pub mod args;
pub mod calls;
pub mod consts;
pub mod fds;
pub mod hostcall;
pub mod kernel;
pub mod layout;
pub mod outcome;
pub mod path;
pub mod process;
pub mod pseudo;
pub mod table;
pub mod user;

#[cfg(any(test, feature = "fuzz"))]
#[allow(missing_docs, clippy::unwrap_used, clippy::panic)]
#[cfg_attr(not(test), allow(dead_code))]
pub mod tests;

pub use args::Args;
pub use calls::fast::{FAST, dispatch_fast};
pub use hostcall::HostCall;
pub use kernel::Kernel;
pub use outcome::{Answer, CloneArgs, Outcome, RestartKind, Stop};
pub use process::ProcessState;
pub use table::dispatch;
