//! The storage component: files and directories under a root that cannot be
//! left, for clients it keeps no state for that it can't lose. What an fsync
//! acknowledged is there after any crash.
//!
//! [`core`] decides without touching anything, [`fs`] makes the host's system
//! calls, [`service`] answers the fabric.
#![forbid(unsafe_code)]

pub mod cli;
pub mod core;
pub mod fs;
pub mod metrics;
pub mod pool;
pub mod service;
