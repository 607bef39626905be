//! Whole lines that a system call writes: installed from its bytes where they
//! are absent. To touch them would bring zeros, or what the memory component has
//! of them, to be overwritten.

use super::{Memory, Scratch};
use crate::excache::{Begin, LineNo};
use crate::fatal;
use crate::stats::Counters;
use aspace::{AddressSpace, Vma, VmaBacking};
use host::mapping::Span;
use proto::addr::{PAGE_SIZE, UserAddr};
use proto::mem::{MapFlags, Prot};

impl Memory {
    /// Bytes of a line: what [`Memory::put_lines`] may be worth trying for.
    pub(super) fn line_size(&self) -> u64 {
        self.cache.shape().line_size()
    }

    /// Installs the first lines of the `len` bytes at `at` from `src`, as long as
    /// they are whole, absent and can be had; the number of their bytes. 0 says
    /// nothing about what is there: go on as if this did not exist.
    ///
    /// The lines are *fetching* meanwhile, so that a miss of another thread waits
    /// for them, and dirty from then on. What the memory component has of them is
    /// written over with the next eviction.
    ///
    /// # Safety
    /// `src` must be mapped for `len` bytes (what it holds may change: the
    /// kernel copies).
    pub(super) unsafe fn put_lines(
        &self,
        at: UserAddr,
        src: *const u8,
        len: usize,
        me: &mut Scratch,
        counters: &Counters,
    ) -> usize {
        if !at.0.is_multiple_of(self.line_size()) || (len as u64) < self.line_size() {
            return 0;
        }
        let space = self.space();
        let Some(vma) = space.find(at).filter(|vma| takes_all(vma)) else {
            return 0;
        };
        self.reserve_lines(&space, vma, (at, len), me, counters);
        let put = me.run.len() as u64 * self.line_size();
        if put == 0 {
            return 0;
        }
        // SAFETY: `put` is `len` at most, for which the caller answers.
        let installed = unsafe { self.uffd.copy_raw(at.0, src, put, false) };
        if installed != Ok(put) {
            return self.take_back(
                Span {
                    start: at.0,
                    len: put,
                },
                me,
            );
        }
        for page in (at.0..at.0 + put).step_by(PAGE_SIZE as usize) {
            self.pages.touch(UserAddr(page), false);
        }
        counters.put_straight(me.run.len() as u64);
        for (_, slot) in me.run.drain(..) {
            self.cache.finish_fetch(slot, true);
        }
        put as usize
    }

    /// Reserves the absent lines that `len` bytes at `at`, the start of a line,
    /// fill: in `me.run`. Room is made for them once.
    fn reserve_lines(
        &self,
        space: &AddressSpace,
        vma: &Vma,
        (at, len): (UserAddr, usize),
        me: &mut Scratch,
        counters: &Counters,
    ) {
        me.run.clear();
        let size = self.line_size();
        let most = (self.cache.shape().batch() as u64).min(len as u64 / size);
        let first = self.line_of(at);
        let mut made_room = false;
        while (me.run.len() as u64) < most {
            let line = LineNo(first.0 + me.run.len() as u64);
            let inside = |r: &_| vma.range.contains_range(*r);
            if self.range_of(line, 1).filter(inside).is_none() {
                return;
            }
            match self.cache.begin_fetch(line) {
                Begin::Fetch(slot) => me.run.push((line, slot)),
                Begin::Full if !made_room => {
                    made_room = true;
                    if !self.make_room(space, line, me, counters) {
                        return;
                    }
                }
                _ => return,
            }
        }
    }

    /// Nothing was put: the lines of the run are absent again. Some of the bytes
    /// may have been seen, as of any copy that is under way; the caller goes on to
    /// write them.
    fn take_back(&self, span: Span, me: &mut Scratch) -> usize {
        // SAFETY: the pages are the program's, the lines are ours (busy).
        if let Err(e) = unsafe { self.dropper.drop_pages(&[span]) } {
            fatal::host("madvise", e);
        }
        for (_, slot) in me.run.drain(..) {
            self.cache.abandon(slot);
        }
        0
    }
}

/// Whether each page of the mapping may be what a system call writes: it is the
/// process's own, and there is no file that may end before it.
fn takes_all(vma: &Vma) -> bool {
    vma.backing == VmaBacking::Anonymous
        && vma.prot.has(Prot::WRITE)
        && !vma.flags.has(MapFlags::SHARED)
}
