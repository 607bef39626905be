//! What a storage component knows and decides, without touching a file: no
//! I/O, no clock.

pub mod descriptors;
pub mod handle;
pub mod newborn;
pub mod opens;
pub mod path;
