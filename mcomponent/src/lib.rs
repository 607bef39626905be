//! The memory component: address spaces of processes whose home it is, the
//! frames of the vRegions placed here, and the storage buffer cache.
//!
//! [`core`] decides without touching anything: what a change of an address
//! space promises and frees, who is promised what, what is here of a file.
//! [`spaces`] carries that out with registered memory, [`files`] keeps the
//! buffer cache, [`service`] answers the fabric. A request runs on the thread
//! of its connection, from beginning to end: nothing is handed over.
//!
//! # Locks
//!
//! A space's lock is held while a change is made, questions to gmm and to
//! other memory components included; it delays that process alone. A process's
//! frames have a lock of their own, held for memory work only. A file's lock is
//! never held while storage is asked: an extent being filled, or a file being
//! written back or cut, is marked and waited for with a deadline. The order is
//! space, frames, file, ledger; the tables of processes and files are locked
//! for look-ups only, and while one is, only an entry that nobody else holds
//! is locked. Where room is needed, files that are locked are passed over.
#![forbid(unsafe_code)]

pub mod cli;
pub mod core;
pub mod files;
pub mod metrics;
pub mod peers;
pub mod service;
pub mod spaces;
