//! The layout of a process's address space: its VMA tree.
//!
//! Pure and deterministic: the memory component at a process's home holds the
//! authoritative tree, the processor component an exact replica that follows
//! with the addresses that home answered ([`AddressSpace::follow`]). Both
//! decide which memory is accounted by the same rule, [`Vma::accounted`].
//!
//! The tree is canonical: neighbours that are alike are one VMA, so two trees
//! that show the program the same are equal.
#![forbid(unsafe_code)]

mod account;
mod brk;
mod choose;
mod map;
mod protect;
mod remap;
mod replica;
mod space;
mod vma;

pub use choose::{GUARD_GAP, TOP};
pub use remap::Remapped;
pub use space::{AddressSpace, MAX_VMAS};
pub use vma::{Vma, VmaBacking};
