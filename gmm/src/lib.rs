//! The global managers: who is in the testbed, which component gets what, and
//! what happens when one dies. Nothing on the path of a page waits for them.
//!
//! [`core`] decides and never acts; [`manager`] makes every decision durable
//! in [`store`] before it is answered and takes effect; [`service`] gives it a
//! thread and the fabric.
#![forbid(unsafe_code)]

pub mod cli;
pub mod core;
pub mod manager;
pub mod metrics;
pub mod service;
pub mod store;
