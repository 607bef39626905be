//! Changing the program's code where it lies in the ExCache, for rewritten
//! system calls (`task::rewrite`).
//!
//! The change is made to the page that is here and to nothing else: a clean line
//! stays clean, so the change goes when the line is evicted, and the file's own
//! bytes come back with the next miss. Nothing needs to be promised or written
//! back for it. (A dirty line, of code that the program could write once, is
//! written back with the change, which so stays.)
//!
//! The page is replaced as a whole: dropped, and installed again with the
//! change. A thread that runs there meanwhile executes the old bytes, or
//! faults, waits for the set's lock and executes the new ones; it never sees a
//! part of either, wherever the change lies in the page, and no processor
//! executes from a page that is being stored to.

use super::{Access, FaultEnd, Memory, Scratch};
use crate::fatal;
use crate::stats::Counters;
use aspace::{Vma, VmaBacking};
use host::mapping::Span;
use host::trap;
use proto::addr::{PAGE_SIZE, UserAddr};
use proto::mem::{MapFlags, Prot};

const PAGE: usize = PAGE_SIZE as usize;
/// Looks at a page that others keep evicting.
const TRIES: u32 = 4;

impl Memory {
    /// Replaces `old` by `new` at `at`, if it is still there, lies in one page,
    /// and the page is code that the program can't store to: private, of a
    /// file, executable, not writable. Whether that was done.
    pub(crate) fn rewrite<const N: usize>(
        &self,
        at: UserAddr,
        old: &[u8; N],
        new: &[u8; N],
        me: &mut Scratch,
        counters: &Counters,
    ) -> bool {
        let (page, inside) = (at.align_down(PAGE_SIZE), (at.0 % PAGE_SIZE) as usize);
        if inside + N > PAGE {
            return false;
        }
        for _ in 0..TRIES {
            if self.fault(at, Access::Execute, me, counters) != FaultEnd::Done {
                return false;
            }
            // Held to the end: the mapping stays as it is found here.
            let space = self.space();
            if !space.find(at).is_some_and(is_code) {
                return false;
            }
            let done = self.cache.while_resident(self.line_of(at), |dirty| {
                self.replace(page, dirty, |bytes| {
                    let part = &mut bytes[inside..inside + N];
                    (part == old).then(|| part.copy_from_slice(new)).is_some()
                })
            });
            if let Some(done) = done {
                return done;
            }
        }
        false
    }

    /// Replaces a resident page by what `change` makes of it; false if it makes
    /// nothing. The line is held by its set's lock.
    fn replace(&self, page: UserAddr, dirty: bool, change: impl Fn(&mut [u8]) -> bool) -> bool {
        let mut bytes = [0; PAGE];
        let to = bytes.as_mut_ptr() as u64;
        // SAFETY: `bytes` is ours; the program's page is present, and if it
        // should not be, the copy ends short.
        if unsafe { trap::copy(to, page.0, PAGE_SIZE) } != 0 || !change(&mut bytes) {
            return false;
        }
        let span = [Span {
            start: page.0,
            len: PAGE_SIZE,
        }];
        // SAFETY: the page is the program's, and its bytes are saved.
        if let Err(e) = unsafe { self.dropper.drop_pages(&span) } {
            fatal::host("madvise", e);
        }
        // A clean page is one whose next store faults.
        if let Err(e) = self.uffd.copy(page.0, &bytes, !dirty) {
            fatal::host("UFFDIO_COPY", e);
        }
        true
    }
}

fn is_code(vma: &Vma) -> bool {
    vma.prot.has(Prot::EXEC)
        && !vma.prot.has(Prot::WRITE)
        && !vma.flags.has(MapFlags::SHARED)
        && matches!(vma.backing, VmaBacking::File { .. })
}
