//! What the processor component knows of each page beyond the cache: whether
//! it was ever touched, whether the memory component holds its bytes, and the
//! lease of its extent. A page the memory component does not hold starts as
//! its mapping says: zeros, or a file's bytes.
//!
//! A page's flags are changed by the owner of its busy line, or under the
//! exclusive lock on the address space; see `fault`.

use crate::sparse::Sparse;
use host::sys::Errno;
use proto::NodeId;
use proto::addr::{EXTENT_SIZE, PAGE_SIZE, PAGES_PER_EXTENT, USER_MAX, UserAddr, UserRange};
use proto::mem::Lease;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::sync::{PoisonError, RwLock};

/// The page was installed at least once since it was mapped.
const TOUCHED: u8 = 1;
/// The memory component holds the page's bytes.
const REMOTE: u8 = 2;

/// The page came with another that was missed: whether the program wanted it is
/// not known.
const AHEAD: u8 = 4;

/// A store to a clean line counts so much in [`Extent::stores`], which is
/// believed from so much on, and counts no further than so much: what a program
/// did before is forgotten within a few lines.
const STORE_WEIGHT: u8 = 64;
const STORES_EXPECTED: u8 = 64;
const STORES_MOST: u8 = 128;

/// Where an extent's frames are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Held {
    /// The memory component.
    pub node: NodeId,
    /// The right to use them.
    pub lease: Lease,
}

/// 2 MiB of the address space.
pub(crate) struct Extent {
    lease: RwLock<Option<Held>>,
    /// How likely a line that is loaded is to be stored to as well, of those
    /// whose bytes come from elsewhere (a file), and of those that were written
    /// back once: see [`Extent::expects_stores`].
    stores: [AtomicU8; 2],
    pages: [AtomicU8; PAGES_PER_EXTENT],
}

impl Extent {
    /// With what was seen of `like`.
    fn new(like: Option<&Extent>) -> Extent {
        let stores = |n: usize| like.map_or(0, |e| e.stores[n].load(Ordering::Relaxed));
        Extent {
            lease: RwLock::new(None),
            stores: [0, 1].map(|n| AtomicU8::new(stores(n))),
            pages: std::array::from_fn(|_| AtomicU8::new(0)),
        }
    }

    /// Whether lines of the extent that are brought by a load had better be
    /// installed as by a store: of those that were not, enough were stored to
    /// later, each by a fault of its own. `remote`: the memory component holds
    /// them. (A program may go through a file and change it, and only look at
    /// what it made of it from then on.)
    pub(super) fn expects_stores(&self, remote: bool) -> bool {
        self.stores[usize::from(remote)].load(Ordering::Relaxed) >= STORES_EXPECTED
    }

    // Estimates: two threads may lose a step of each other's.

    /// A clean line was stored to.
    pub(super) fn note_store(&self, remote: bool) {
        let stores = &self.stores[usize::from(remote)];
        let more = stores.load(Ordering::Relaxed).saturating_add(STORE_WEIGHT);
        stores.store(more.min(STORES_MOST), Ordering::Relaxed);
    }

    /// A clean line is evicted: it was loaded only. `weight`: what it counts.
    pub(super) fn note_no_store(&self, remote: bool, weight: u8) {
        let stores = &self.stores[usize::from(remote)];
        let now = stores.load(Ordering::Relaxed);
        if now > 0 {
            stores.store(now.saturating_sub(weight), Ordering::Relaxed);
        }
    }

    /// The extent's lease, if it has been committed.
    pub(crate) fn lease(&self) -> Option<Held> {
        *self.lease.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a lease, or that there is none any more.
    pub(crate) fn set_lease(&self, held: Option<Held>) {
        *self.lease.write().unwrap_or_else(PoisonError::into_inner) = held;
    }
}

/// All extents of the program's window.
pub(super) struct PageTable {
    extents: Sparse<Extent>,
    footprint: AtomicI64,
    peak: AtomicI64,
}

fn index(at: UserAddr) -> usize {
    (at.0 % EXTENT_SIZE / PAGE_SIZE) as usize
}

impl PageTable {
    /// An empty table.
    ///
    /// # Errors
    /// `ENOMEM`: not so much address space.
    pub(super) fn new() -> Result<PageTable, Errno> {
        Ok(PageTable {
            extents: Sparse::new((USER_MAX.0 / EXTENT_SIZE) as usize)?,
            footprint: AtomicI64::new(0),
            peak: AtomicI64::new(0),
        })
    }

    /// The extent with this number, if it has been used.
    pub(super) fn extent(&self, number: u64) -> Option<&Extent> {
        self.extents.get(number)
    }

    /// The extent with this number, made if need be. `None` outside the window.
    pub(super) fn extent_or_new(&self, number: u64) -> Option<&Extent> {
        self.extents.get_or_make(number, || {
            // What goes for an extent most likely goes for the next one.
            let below = number.checked_sub(1).and_then(|n| self.extent(n));
            Extent::new(below)
        })
    }

    fn flags(&self, at: UserAddr) -> u8 {
        self.extent(at.extent())
            .map_or(0, |e| e.pages[index(at)].load(Ordering::Acquire))
    }

    /// Whether the memory component holds the page at `at`.
    pub(super) fn is_remote(&self, at: UserAddr) -> bool {
        self.flags(at) & REMOTE != 0
    }

    /// Whether the page was installed since it was mapped.
    pub(super) fn is_touched(&self, at: UserAddr) -> bool {
        self.flags(at) & TOUCHED != 0
    }

    /// The page is being installed; `ahead`: with one that was missed.
    pub(super) fn touch(&self, at: UserAddr, ahead: bool) {
        let Some(extent) = self.extent_or_new(at.extent()) else {
            return;
        };
        let page = &extent.pages[index(at)];
        let before = if ahead {
            page.fetch_or(TOUCHED | AHEAD, Ordering::AcqRel)
        } else {
            let before = page.fetch_or(TOUCHED, Ordering::AcqRel);
            if before & AHEAD != 0 {
                page.fetch_and(!AHEAD, Ordering::AcqRel);
            }
            before
        };
        if before & TOUCHED == 0 {
            let now = self.footprint.fetch_add(1, Ordering::Relaxed) + 1;
            self.peak.fetch_max(now, Ordering::Relaxed);
        }
    }

    /// Whether the page came with another that was missed, the last time.
    pub(super) fn came_ahead(&self, at: UserAddr) -> bool {
        self.flags(at) & AHEAD != 0
    }

    /// The memory component holds the page's bytes now.
    pub(super) fn set_remote(&self, at: UserAddr) {
        if let Some(extent) = self.extent_or_new(at.extent()) {
            extent.pages[index(at)].fetch_or(REMOTE | TOUCHED, Ordering::AcqRel);
        }
    }

    /// The page was never written and is gone again: it was fetched ahead.
    pub(super) fn untouch(&self, at: UserAddr) {
        if let Some(extent) = self.extent(at.extent())
            && extent.pages[index(at)].fetch_and(!TOUCHED, Ordering::AcqRel) & TOUCHED != 0
        {
            self.footprint.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Forgets the pages of `range`: they start anew.
    pub(super) fn forget(&self, range: UserRange) {
        for number in range.extents() {
            let Some(extent) = self.extent(number) else {
                continue;
            };
            let start = UserAddr(number * EXTENT_SIZE);
            let Some(whole) = UserRange::new(start, EXTENT_SIZE) else {
                continue;
            };
            let Some(part) = whole.intersect(range) else {
                continue;
            };
            let first = index(part.start());
            let gone = extent.pages[first..first + part.pages() as usize]
                .iter()
                .filter(|page| page.swap(0, Ordering::AcqRel) & TOUCHED != 0)
                .count();
            self.footprint.fetch_sub(gone as i64, Ordering::Relaxed);
        }
    }

    /// Pages in existence: now and at most.
    pub(super) fn footprint(&self) -> (u64, u64) {
        let get = |a: &AtomicI64| a.load(Ordering::Relaxed).max(0).cast_unsigned();
        (get(&self.footprint), get(&self.peak))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_footprint() {
        let table = PageTable::new().unwrap();
        let at = UserAddr(0x4000_0000);
        assert!(!table.is_remote(at));
        table.touch(at, true);
        assert!(table.came_ahead(at));
        table.touch(at, false);
        assert!(!table.came_ahead(at));
        table.touch(UserAddr(at.0 + PAGE_SIZE), false);
        table.set_remote(at);
        assert!(table.is_remote(at) && !table.is_remote(UserAddr(at.0 + PAGE_SIZE)));
        assert_eq!(table.footprint(), (2, 2));
        table.untouch(UserAddr(at.0 + PAGE_SIZE));
        assert_eq!(table.footprint(), (1, 2));
        let range = UserRange::new(UserAddr(at.0 - EXTENT_SIZE), 3 * EXTENT_SIZE).unwrap();
        table.forget(range);
        assert!(!table.is_remote(at));
        assert_eq!(table.footprint(), (0, 2));
    }

    #[test]
    fn stores_are_expected_where_there_were_some() {
        let extent = Extent::new(None);
        assert!(!extent.expects_stores(true));
        (0..3).for_each(|_| extent.note_store(true));
        assert!(extent.expects_stores(true) && !extent.expects_stores(false));
        assert!(Extent::new(Some(&extent)).expects_stores(true));
        (0..40).for_each(|_| extent.note_no_store(true, 2));
        assert!(!extent.expects_stores(true));
        // One in seven is enough for a weight of 2, and not for one of 20.
        for (weight, expected) in [(2, true), (20, false)] {
            (0..100).for_each(|_| {
                extent.note_store(false);
                (0..6).for_each(|_| extent.note_no_store(false, weight));
            });
            assert_eq!(extent.expects_stores(false), expected, "weight {weight}");
        }
    }

    #[test]
    fn outside_the_window_there_is_nothing() {
        let table = PageTable::new().unwrap();
        assert!(table.extent_or_new(USER_MAX.extent()).is_none());
        assert!(table.extent(u64::MAX).is_none());
        table.touch(UserAddr(u64::MAX), false);
        assert_eq!(table.footprint(), (0, 0));
    }
}
