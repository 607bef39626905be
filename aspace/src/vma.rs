//! One mapping.

use proto::addr::{UserAddr, UserRange};
use proto::mem::{Backing, FileRef, MapFlags, Prot};
use std::sync::Arc;

/// What a mapping shows before it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VmaBacking {
    /// Zeros.
    Anonymous,
    /// A file.
    File {
        /// Which.
        file: Arc<FileRef>,
        /// Offset in the file of the VMA's first byte.
        offset: u64,
    },
}

impl VmaBacking {
    /// The backing of what starts `distance` bytes further on.
    #[must_use]
    pub fn advanced(&self, distance: u64) -> VmaBacking {
        match self {
            VmaBacking::Anonymous => VmaBacking::Anonymous,
            VmaBacking::File { file, offset } => VmaBacking::File {
                file: file.clone(),
                // Checked when the mapping was made: offset + length fits.
                offset: offset.wrapping_add(distance),
            },
        }
    }
}

impl From<&Backing> for VmaBacking {
    fn from(backing: &Backing) -> VmaBacking {
        match backing {
            Backing::Anonymous => VmaBacking::Anonymous,
            Backing::File { file, offset } => VmaBacking::File {
                file: Arc::new(file.clone()),
                offset: *offset,
            },
        }
    }
}

/// The flags that a VMA keeps; the others say where it goes.
pub(crate) const KEPT: MapFlags =
    MapFlags(MapFlags::SHARED.0 | MapFlags::NORESERVE.0 | MapFlags::STACK.0 | MapFlags::HEAP.0);

/// A range of addresses that are alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vma {
    /// Where.
    pub range: UserRange,
    /// Access.
    pub prot: Prot,
    /// `SHARED`, `NORESERVE`, `STACK`, `HEAP`.
    pub flags: MapFlags,
    /// What.
    pub backing: VmaBacking,
    /// Whether the extents it touches are promised to the process: it is, or
    /// once was, memory of its own that it may write (Linux's `VM_ACCOUNT`).
    /// Stays set when the mapping becomes read-only, for its pages live on.
    pub accounted: bool,
}

impl Vma {
    pub(crate) fn new(range: UserRange, prot: Prot, flags: MapFlags, backing: VmaBacking) -> Vma {
        let mut vma = Vma {
            range,
            prot,
            flags: MapFlags(flags.0 & KEPT.0),
            backing,
            accounted: false,
        };
        vma.accounted = vma.is_own_writable();
        vma
    }

    /// Whether pages of it are the process's own (not the file's) when written.
    #[must_use]
    pub fn is_own(&self) -> bool {
        !self.flags.has(MapFlags::SHARED) || self.backing == VmaBacking::Anonymous
    }

    /// Whether pages of it may live at the memory component: accounted, or
    /// mapped without reservation.
    #[must_use]
    pub fn may_hold_pages(&self) -> bool {
        self.accounted || (self.is_own() && self.flags.has(MapFlags::NORESERVE))
    }

    fn is_own_writable(&self) -> bool {
        self.is_own() && self.prot.has(Prot::WRITE) && !self.flags.has(MapFlags::NORESERVE)
    }

    /// Whether [`Vma::accounted`] would be set once it has protection `prot`.
    pub(crate) fn accounted_with(&self, prot: Prot) -> bool {
        let writable = prot.has(Prot::WRITE) && !self.flags.has(MapFlags::NORESERVE);
        self.accounted || (self.is_own() && writable)
    }

    pub(crate) fn set_prot(&mut self, prot: Prot) {
        self.accounted = self.accounted_with(prot);
        self.prot = prot;
    }

    /// The part of it inside `range`, if any.
    #[must_use]
    pub fn clipped(&self, range: UserRange) -> Option<Vma> {
        let part = self.range.intersect(range)?;
        let distance = part.start().0 - self.range.start().0;
        Some(Vma {
            range: part,
            backing: self.backing.advanced(distance),
            ..self.clone()
        })
    }

    /// The same attributes at another place, showing the same from its start.
    pub(crate) fn moved(&self, range: UserRange) -> Vma {
        let flags = self.flags.without(MapFlags::HEAP);
        Vma {
            range,
            flags,
            ..self.clone()
        }
    }

    /// Whether `next` starts where this one ends and goes on like it.
    pub(crate) fn continues_in(&self, next: &Vma) -> bool {
        self.range.end() == next.range.start()
            && self.prot == next.prot
            && self.flags == next.flags
            && self.accounted == next.accounted
            && self.backing.advanced(self.range.len()) == next.backing
    }

    /// Splits at `at`, which lies strictly inside.
    pub(crate) fn split(&self, at: UserAddr) -> Option<(Vma, Vma)> {
        let low = UserRange::between(self.range.start(), at)?;
        let high = UserRange::between(at, self.range.end())?;
        Some((self.clipped(low)?, self.clipped(high)?))
    }
}
