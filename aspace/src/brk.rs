//! brk(2).

use crate::space::{AddressSpace, Heap};
use crate::vma::{Vma, VmaBacking};
use proto::addr::{PAGE_SIZE, USER_MIN, UserAddr, UserRange};
use proto::mem::{MapFlags, Prot};

impl AddressSpace {
    /// Where the heap starts: once, rounded up to a page, after the image is
    /// mapped. Later calls, and addresses outside the window, change nothing.
    pub fn set_brk(&mut self, addr: UserAddr) {
        let start = addr
            .align_up(PAGE_SIZE)
            .filter(|a| UserRange::new(*a, PAGE_SIZE).is_some());
        if let (None, Some(start)) = (self.heap, start) {
            self.heap = Some(Heap { start, end: start });
        }
    }

    /// Whether [`AddressSpace::set_brk`] has been called.
    #[must_use]
    pub fn has_heap(&self) -> bool {
        self.heap.is_some()
    }

    /// The break; 0 before there is one.
    #[must_use]
    pub fn break_now(&self) -> UserAddr {
        self.heap.map_or(UserAddr(0), |heap| heap.end)
    }

    /// brk(2): moves the break to `addr` and gives the break afterwards, which
    /// is the old one where it can't move: `addr` lies below the heap's start,
    /// something is in the way, or there are too many mappings.
    pub fn brk(&mut self, addr: UserAddr) -> UserAddr {
        let Some(heap) = self.heap else {
            return UserAddr(0);
        };
        let Some(grown) = self.plan_brk(addr) else {
            return heap.end;
        };
        if let Some(range) = grown {
            let flags = MapFlags::HEAP;
            self.insert(Vma::new(
                range,
                Prot::READ_WRITE,
                flags,
                VmaBacking::Anonymous,
            ));
        } else if let Some(gone) = between_pages(addr, heap.end) {
            self.unmap(gone);
        }
        self.heap = Some(Heap { end: addr, ..heap });
        addr
    }

    /// What [`AddressSpace::brk`] would map: `None` if it can't move,
    /// `Some(None)` if it maps nothing new.
    #[must_use]
    pub fn plan_brk(&self, addr: UserAddr) -> Option<Option<UserRange>> {
        let heap = self.heap?;
        if addr < heap.start || addr.align_up(PAGE_SIZE)? > proto::addr::USER_MAX {
            return None;
        }
        let Some(range) = between_pages(heap.end, addr) else {
            return Some(None);
        };
        // A page of distance to what follows, as Linux keeps it.
        let wide = UserRange::new(range.start(), range.len() + PAGE_SIZE).unwrap_or(range);
        let room = self.vmas.len() < self.limit;
        (room && self.is_clear(range, MapFlags::HEAP) && self.is_free(wide)).then_some(Some(range))
    }
}

/// The whole pages between two byte addresses, both rounded up.
fn between_pages(low: UserAddr, high: UserAddr) -> Option<UserRange> {
    let (low, high) = (low.align_up(PAGE_SIZE)?, high.align_up(PAGE_SIZE)?);
    UserRange::between(low.max(USER_MIN), high)
}
