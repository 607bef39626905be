//! The calls over a mock kernel: real files in a temporary directory,
//! simulated host objects, memory made of pages that may be absent or
//! read-only.

#[cfg(test)]
mod bad_pointers;
#[cfg(test)]
mod claims;
#[cfg(test)]
mod descriptors;
#[cfg(test)]
mod directories;
pub mod fuzz;
#[cfg(test)]
mod layouts;
#[cfg(test)]
mod memory;
mod mock;
#[cfg(test)]
mod polling;
#[cfg(test)]
mod pseudo;
#[cfg(test)]
mod table;
#[cfg(test)]
mod threads;
#[cfg(test)]
mod transfers;
