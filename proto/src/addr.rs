//! Addresses of the program's virtual address space.

use crate::id::VRegionId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The unit of protection and of page state: 4 KiB.
pub const PAGE_SIZE: u64 = 4096;
/// The unit in which a memory component commits memory: 2 MiB.
pub const EXTENT_SIZE: u64 = 2 << 20;
/// The unit in which memory is placed on memory components: 1 GiB.
pub const VREGION_SIZE: u64 = 1 << 30;
/// Pages in an extent.
pub const PAGES_PER_EXTENT: usize = (EXTENT_SIZE / PAGE_SIZE) as usize;

/// Lowest address that a program may map (`vm.mmap_min_addr`'s usual value).
pub const USER_MIN: UserAddr = UserAddr(0x1_0000);
/// One past the highest address that a program may map. The personality lives
/// above, so that a program's addresses are the same on every processor
/// component.
pub const USER_MAX: UserAddr = UserAddr(0x5000_0000_0000);

/// An address in the program's virtual address space. Any 64-bit value: what
/// a program hands us is an allegation until a [`UserRange`] was made of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct UserAddr(pub u64);

impl UserAddr {
    /// The address `n` bytes on; `None` where that wraps.
    #[must_use]
    pub fn checked_add(self, n: u64) -> Option<UserAddr> {
        self.0.checked_add(n).map(UserAddr)
    }
    /// Rounded down to a multiple of `align`, a power of two.
    #[must_use]
    pub fn align_down(self, align: u64) -> UserAddr {
        UserAddr(self.0 & !(align - 1))
    }
    /// Rounded up to a multiple of `align`, a power of two; `None` where that wraps.
    #[must_use]
    pub fn align_up(self, align: u64) -> Option<UserAddr> {
        self.0
            .checked_add(align - 1)
            .map(|a| UserAddr(a & !(align - 1)))
    }
    /// Whether it is a multiple of `align`, a power of two.
    #[must_use]
    pub fn is_aligned(self, align: u64) -> bool {
        self.0 & (align - 1) == 0
    }
    /// The page number.
    #[must_use]
    pub fn page(self) -> u64 {
        self.0 / PAGE_SIZE
    }
    /// The extent number.
    #[must_use]
    pub fn extent(self) -> u64 {
        self.0 / EXTENT_SIZE
    }
    /// The vRegion that holds the address; meaningful below [`USER_MAX`].
    #[must_use]
    pub fn vregion(self) -> VRegionId {
        VRegionId(u32::try_from(self.0 / VREGION_SIZE).unwrap_or(u32::MAX))
    }
}

impl fmt::Debug for UserAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}
impl fmt::Display for UserAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A non-empty, page-aligned range inside `[USER_MIN, USER_MAX)`. Once made it
/// can't be wrong; it may still be unmapped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(u64, u64)", into = "(u64, u64)")]
pub struct UserRange {
    start: u64,
    end: u64,
}

impl UserRange {
    /// The range of `len` bytes at `start`, `len` rounded up to pages. `None`
    /// if it is empty, unaligned, wraps, or leaves the program's window.
    #[must_use]
    pub fn new(start: UserAddr, len: u64) -> Option<UserRange> {
        let end = start.0.checked_add(len)?.checked_add(PAGE_SIZE - 1)? & !(PAGE_SIZE - 1);
        let fits = start.is_aligned(PAGE_SIZE)
            && len > 0
            && start >= USER_MIN
            && end <= USER_MAX.0
            && start.0 < end;
        fits.then_some(UserRange {
            start: start.0,
            end,
        })
    }
    /// The range `[start, end)`; `None` as for [`UserRange::new`].
    #[must_use]
    pub fn between(start: UserAddr, end: UserAddr) -> Option<UserRange> {
        end.is_aligned(PAGE_SIZE)
            .then(|| UserRange::new(start, end.0.checked_sub(start.0)?))
            .flatten()
    }
    /// First address.
    #[must_use]
    pub fn start(self) -> UserAddr {
        UserAddr(self.start)
    }
    /// One past the last address.
    #[must_use]
    pub fn end(self) -> UserAddr {
        UserAddr(self.end)
    }
    /// Length in bytes, a positive multiple of [`PAGE_SIZE`].
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(self) -> u64 {
        self.end - self.start
    }
    /// Number of pages.
    #[must_use]
    pub fn pages(self) -> u64 {
        self.len() / PAGE_SIZE
    }
    /// Whether `a` lies inside.
    #[must_use]
    pub fn contains(self, a: UserAddr) -> bool {
        self.start <= a.0 && a.0 < self.end
    }
    /// Whether `other` lies wholly inside.
    #[must_use]
    pub fn contains_range(self, other: UserRange) -> bool {
        self.start <= other.start && other.end <= self.end
    }
    /// Whether the two share an address.
    #[must_use]
    pub fn overlaps(self, other: UserRange) -> bool {
        self.start < other.end && other.start < self.end
    }
    /// The shared part.
    #[must_use]
    pub fn intersect(self, other: UserRange) -> Option<UserRange> {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start < end).then_some(UserRange { start, end })
    }
    /// The numbers of the extents it touches.
    #[must_use]
    pub fn extents(self) -> std::ops::Range<u64> {
        self.start / EXTENT_SIZE..self.end.div_ceil(EXTENT_SIZE)
    }
    /// The numbers of the pages it holds.
    #[must_use]
    pub fn page_numbers(self) -> std::ops::Range<u64> {
        self.start / PAGE_SIZE..self.end / PAGE_SIZE
    }
}

impl fmt::Debug for UserRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end)
    }
}
impl fmt::Display for UserRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end)
    }
}
impl From<UserRange> for (u64, u64) {
    fn from(r: UserRange) -> (u64, u64) {
        (r.start, r.end - r.start)
    }
}
impl TryFrom<(u64, u64)> for UserRange {
    type Error = &'static str;
    fn try_from((start, len): (u64, u64)) -> Result<UserRange, Self::Error> {
        UserRange::new(UserAddr(start), len)
            .filter(|r| r.len() == len)
            .ok_or("not a page-aligned range of the program's window")
    }
}

/// Names memory that a component has granted: valid for the identity it was
/// granted to, until revoked. Opaque to all but the granting `fabric`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RemoteKey {
    /// The registered region.
    pub region: u32,
    /// The slot in the granting component's key table.
    pub slot: u32,
    /// How often the slot has been granted, so that a revoked key stays dead.
    pub nonce: u64,
}

/// A place in granted memory: bytes from the start of the key's range.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RemoteAddr {
    /// What was granted.
    pub key: RemoteKey,
    /// Bytes from the start of the granted range.
    pub offset: u64,
}

impl RemoteAddr {
    /// The address `n` bytes on.
    #[must_use]
    pub fn plus(self, n: u64) -> RemoteAddr {
        RemoteAddr {
            key: self.key,
            offset: self.offset.saturating_add(n),
        }
    }
}
