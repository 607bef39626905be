//! The path of a miss, from the fault to the installed line; what happens in
//! its middle is in `fill`.

use super::fill::{Leases, Piece, Plan, Source};
use super::{BUSY_LIMIT, Memory, Scratch, stuck};
use crate::excache::{Begin, LineNo, Slot};
use crate::fatal;
use crate::runahead::Registers;
use crate::stats::{Cause, Counters, Split};
use aspace::{AddressSpace, Vma, VmaBacking};
use host::clock;
use proto::addr::{PAGE_SIZE, UserAddr, UserRange};
use proto::mem::{MapFlags, Prot};

/// A stream that brings more lines than these at once has shown what it does.
const KNOWN_STREAM: usize = 8;

/// One in so many lines that are expected to be stored to is watched.
const WATCHED: u32 = 32;

/// What the program tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

impl Access {
    fn traced(self) -> proto::trace::Access {
        match self {
            Access::Read => proto::trace::Access::Read,
            Access::Write => proto::trace::Access::Write,
            Access::Execute => proto::trace::Access::Execute,
        }
    }
}

/// What came of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FaultEnd {
    /// The line is here; the access goes on.
    Done,
    /// Nothing is mapped there (`SEGV_MAPERR`).
    NotMapped,
    /// The mapping does not permit it (`SEGV_ACCERR`).
    Denied,
    /// Past the end of a mapped file, or memory without reservation that no
    /// component has room for (`BUS_ADRERR`).
    NoBacking,
}

impl Memory {
    /// Answers a fault at `at`. Whoever calls holds none of this module's locks.
    pub(crate) fn fault(
        &self,
        at: UserAddr,
        access: Access,
        me: &mut Scratch,
        counters: &Counters,
    ) -> FaultEnd {
        self.program_fault(at, access, None, me, counters)
    }

    /// The same for a fault of the program, which had these registers.
    pub(crate) fn program_fault(
        &self,
        at: UserAddr,
        access: Access,
        registers: Option<&Registers>,
        me: &mut Scratch,
        counters: &Counters,
    ) -> FaultEnd {
        let begun = clock::now();
        let space = self.space();
        let Some(vma) = space.find(at) else {
            return FaultEnd::NotMapped;
        };
        if !permits(vma, access) {
            return FaultEnd::Denied;
        }
        let line = self.line_of(at);
        let mut leaving = false;
        let mut split = Split::default();
        loop {
            match self.cache.begin_fetch(line) {
                Begin::Fetch(slot) => {
                    let looked_up = clock::now().since(begun);
                    split.lookup = looked_up.saturating_sub(split.evict);
                    let end = self.fetch(
                        &space,
                        vma,
                        (at, access),
                        (line, slot),
                        me,
                        &mut split,
                        counters,
                    );
                    if let (FaultEnd::Done, Some(registers)) = (end, registers) {
                        let missed = (at, begun);
                        self.run_ahead(&space, registers, missed, me, &mut split, counters);
                    }
                    let took = clock::now().since(begun);
                    counters.miss(took, &split);
                    if end == FaultEnd::Done {
                        trace(counters, (at, access), me.brought, took);
                    }
                    return end;
                }
                Begin::Resident { .. } if !self.pages.is_touched(at.align_down(PAGE_SIZE)) => {
                    // The line was brought without this page, which lay past
                    // the end of its file.
                    self.evict_line(&space, line, me, counters);
                }
                Begin::Resident { dirty } if access == Access::Write => {
                    if self.let_writes_through(&space, line) {
                        // A dirty line is either protected with a victim near
                        // it, or was brought by another thread meanwhile: it
                        // takes a system call to know, or to lift.
                        if dirty {
                            self.check_progress(at, me);
                        } else {
                            me.streams.stored(line);
                            self.note_store(at);
                        }
                        counters.count(Cause::WriteProtect);
                        let took = clock::now().since(begun);
                        counters.miss(took, &Split::default());
                        trace(counters, (at, access), (Cause::WriteProtect, 0), took);
                        return FaultEnd::Done;
                    }
                }
                Begin::Resident { .. } => {
                    counters.count(Cause::Joined);
                    if counters.lane().is_some() {
                        let took = clock::now().since(begun);
                        trace(counters, (at, access), (Cause::Joined, 0), took);
                    }
                    self.check_progress(at, me);
                    return FaultEnd::Done;
                }
                Begin::Busy { evicting } => {
                    if evicting && !std::mem::replace(&mut leaving, true) {
                        counters.caught_leaving();
                    }
                    if !self.cache.wait(line, BUSY_LIMIT) {
                        stuck("a cache line stayed busy");
                    }
                }
                Begin::Full => {
                    let full = clock::now();
                    self.make_room_or_wait(&space, line, me, counters);
                    split.evict += clock::now().since(full);
                }
            }
        }
    }

    /// Whether a line that a load brings is better installed as by a store. To be
    /// wrong costs a write-back; a first store to a clean line costs a fault, and
    /// an interruption of each CPU that runs another thread of the program. Some
    /// ([`WATCHED`]) are installed clean all the same, to see whether it still holds.
    pub(super) fn will_be_stored(
        &self,
        vma: &Vma,
        range: UserRange,
        at: UserAddr,
        me: &mut Scratch,
    ) -> bool {
        if !may_count_as_stored(vma, range) {
            return false;
        }
        let file = matches!(vma.backing, VmaBacking::File { .. });
        let extent = self.pages.extent(at.extent());
        let expected = extent.is_some_and(|e| e.expects_stores(self.pages.is_remote(at)));
        // Long streams know for themselves. They pass: what was true of their
        // lines the last time is long ago.
        if me.run.len() > KNOWN_STREAM && !(file && expected) {
            return me.run_stores;
        }
        if !expected {
            return false;
        }
        me.expected = me.expected.wrapping_add(1);
        !me.expected.is_multiple_of(WATCHED)
    }

    pub(super) fn note_store(&self, at: UserAddr) {
        if let Some(extent) = self.pages.extent(at.extent()) {
            extent.note_store(self.pages.is_remote(at));
        }
    }

    /// A thread that faults on a page that is here, over and over, would spin
    /// for ever if the directory and the page table disagreed. A hot page among
    /// others that are evicted faults often as well, and is here.
    fn check_progress(&self, at: UserAddr, me: &mut Scratch) {
        if me.again.0 != at.0 {
            me.again = (at.0, 0);
        }
        me.again.1 += 1;
        if me.again.1 > 1000 {
            me.again.1 = 0;
            let page = at.align_down(PAGE_SIZE).0;
            let present = || host::mapping::is_present(page);
            // Under the set's lock: it can't be evicted meanwhile.
            let found = self.cache.while_resident(self.line_of(at), |_| present());
            if found == Some(Ok(false)) {
                fatal::end(&format!("the page at {at} is cached but not accessible"));
            }
        }
    }

    pub(super) fn let_writes_through(&self, space: &AddressSpace, line: LineNo) -> bool {
        let lift = || {
            let Some(range) = self.range_of(line, 1) else {
                return Ok(());
            };
            for vma in space.overlapping(range) {
                if let Some(part) = vma.range.intersect(range) {
                    self.uffd.write_protect(part.start().0, part.len(), false)?;
                }
            }
            Ok(())
        };
        match self.cache.make_dirty(line, lift) {
            Ok(resident) => resident,
            Err(e) => fatal::host("UFFDIO_WRITEPROTECT", e),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn fetch(
        &self,
        space: &AddressSpace,
        vma: &Vma,
        (at, access): (UserAddr, Access),
        (line, slot): (LineNo, Slot),
        me: &mut Scratch,
        split: &mut Split,
        counters: &Counters,
    ) -> FaultEnd {
        me.run.clear();
        me.run.push((line, slot));
        self.reserve_ahead(space, vma, line, me, split, counters);
        let mut renewals = 0;
        // Decided once: a second attempt may find pages that the first installed.
        let mut write = (access == Access::Write).then_some(true);
        loop {
            let Some(range) = self.span_of_run(me) else {
                fatal::end(&format!("a line of {at} lies outside the program's window"));
            };
            match self.plan(space, at, access, Leases::Ask, me) {
                Plan::NoBacking if me.run.len() > 1 => self.shorten(line, me),
                Plan::NoBacking => {
                    self.cache.abandon(slot);
                    return FaultEnd::NoBacking;
                }
                Plan::Ready => {
                    let write =
                        *write.get_or_insert_with(|| self.will_be_stored(vma, range, at, me));
                    if let Some(dirty) = self.fill((access, write), me, split, counters) {
                        self.installed(dirty, at, me, counters);
                        return FaultEnd::Done;
                    }
                    renewals += 1;
                    if renewals > 8 {
                        fatal::end(&format!(
                            "leases around {at} are revoked as fast as granted"
                        ));
                    }
                    self.drop_leases(space, range);
                }
            }
        }
    }

    /// Reserves the lines that the thread's stream says come next, inside the
    /// same mapping. Those that are here are passed over; what can't be had is
    /// not waited for.
    fn reserve_ahead(
        &self,
        space: &AddressSpace,
        vma: &Vma,
        line: LineNo,
        me: &mut Scratch,
        split: &mut Split,
        counters: &Counters,
    ) {
        let advice = me.streams.miss(line, |near| self.cache.holds(near));
        me.run_stores = advice.stores;
        let known = me.streams.take_known();
        counters.prefetch_known(known.useful, known.wasted);
        if advice.ahead == 0 {
            return;
        }
        let mut made_room = false;
        let mut last = line;
        let mut looked_at = 0;
        while me.run.len() as u32 <= advice.ahead && looked_at < 2 * advice.ahead {
            let Some(next) = last.0.checked_add_signed(advice.step).map(LineNo) else {
                break;
            };
            let mapped = self.range_of(next, 1);
            if !mapped.is_some_and(|r| vma.range.contains_range(r)) {
                break;
            }
            match self.cache.begin_fetch(next) {
                Begin::Fetch(slot) => me.run.push((next, slot)),
                Begin::Full if !made_room => {
                    made_room = true;
                    let before = clock::now();
                    let gone = self.make_room(space, next, me, counters);
                    split.evict += clock::now().since(before);
                    if !gone {
                        break;
                    }
                    continue;
                }
                Begin::Full => break,
                Begin::Resident { .. } | Begin::Busy { .. } => {}
            }
            (last, looked_at) = (next, looked_at + 1);
        }
        me.streams.comes(line, last, me.run.len() as u32 - 1);
    }

    /// From the first byte of the run to the last one.
    fn span_of_run(&self, me: &Scratch) -> Option<UserRange> {
        let (first, last) = (me.run.first()?.0, me.run.last()?.0);
        let (low, high) = (first.min(last), first.max(last));
        self.range_of(low, high.0 - low.0 + 1)
    }

    /// Gives up what was reserved ahead of `line`.
    fn shorten(&self, line: LineNo, me: &mut Scratch) {
        me.streams.comes(line, line, 0);
        for (_, slot) in me.run.drain(1..) {
            self.cache.abandon(slot);
        }
    }

    fn installed(&self, dirty: bool, at: UserAddr, me: &mut Scratch, counters: &Counters) {
        let holds = |p: &&Piece| (p.start..p.start + p.len).contains(&at.0);
        let cause = match me.pieces.iter().find(holds).map(|p| (p.source, p.file)) {
            None | Some((Source::Zero, _)) => Cause::ZeroFill,
            Some((_, true)) => Cause::File,
            Some((_, false)) => Cause::Remote,
        };
        counters.count(cause);
        counters.prefetched(me.run.len() as u64 - 1);
        me.brought = (cause, me.run.len() as u32);
        self.finish(dirty, Some(self.line_of(at)), me);
    }

    /// Brings zeros to `range`, which became writable behind memory that the
    /// program has written: an allocator that grows its heap, and writes there
    /// next. That saves the trap, which is most of what a first touch costs.
    /// Nothing is evicted for it.
    pub(super) fn touch_ahead(&self, range: UserRange, me: &mut Scratch, counters: &Counters) {
        let last = UserAddr(range.start().0.saturating_sub(PAGE_SIZE));
        let shift = self.cache.shape().line_shift;
        let first = range.start().0.div_ceil(1 << shift);
        let most = u64::from(self.ahead).min((range.end().0 >> shift).saturating_sub(first));
        let space = self.space();
        let grows = |vma: &&Vma| {
            vma.backing == VmaBacking::Anonymous
                && vma.prot.has(Prot::WRITE)
                && vma.range.contains(last)
        };
        let Some(vma) = space.find(range.start()).filter(grows) else {
            return;
        };
        if !self.pages.is_touched(last) {
            return;
        }
        me.run.clear();
        for line in (first..first + most).map(LineNo) {
            let new = |r: &UserRange| {
                let mut pages = r.page_numbers().map(|n| UserAddr(n * PAGE_SIZE));
                vma.range.contains_range(*r) && !pages.any(|page| self.pages.is_remote(page))
            };
            if self.range_of(line, 1).filter(new).is_none() {
                break;
            }
            match self.cache.begin_fetch(line) {
                Begin::Fetch(slot) => me.run.push((line, slot)),
                _ => break,
            }
        }
        if me.run.is_empty() {
            return;
        }
        // Zeros need no lease: this can't fail.
        let _ = self.plan(&space, range.start(), Access::Write, Leases::Ask, me);
        self.install_zeros(Access::Write, me);
        counters.grown(me.run.len() as u64);
        self.finish(true, None, me);
    }

    /// The pages of the pieces are in existence; `ahead`: whether those of a line
    /// have come without being missed.
    pub(super) fn touch_pieces(&self, me: &Scratch, ahead: impl Fn(LineNo) -> bool) {
        for piece in &me.pieces {
            let pages = piece.start..piece.start + piece.len;
            for page in pages.step_by(PAGE_SIZE as usize).map(UserAddr) {
                self.pages.touch(page, ahead(self.line_of(page)));
            }
        }
    }

    /// The lines of the run are here, from now on for everyone; `missed` is the
    /// one that the program wanted.
    pub(super) fn finish(&self, dirty: bool, missed: Option<LineNo>, me: &mut Scratch) {
        self.touch_pieces(me, |line| Some(line) != missed);
        for (_, slot) in me.run.drain(..) {
            self.cache.finish_fetch(slot, dirty);
        }
    }
}

/// Traces an answered fault that took `ticks`, where that is asked for.
fn trace(
    counters: &Counters,
    (at, access): (UserAddr, Access),
    (cause, lines): (Cause, u32),
    ticks: u64,
) {
    if let Some(lane) = counters.lane() {
        let kind = (cause.traced(), access.traced());
        lane.miss(at.0, kind, lines, clock::to_ns(ticks));
    }
}

/// Whether lines may be written back that nobody has stored to: where that reaches
/// no file, and takes no room that was not promised.
pub(super) fn may_count_as_stored(vma: &Vma, range: UserRange) -> bool {
    let file = matches!(vma.backing, VmaBacking::File { .. });
    vma.prot.has(Prot::WRITE)
        && vma.range.contains_range(range)
        && !vma.flags.has(MapFlags::SHARED)
        && !(file && vma.flags.has(MapFlags::NORESERVE))
}

pub(super) fn permits(vma: &Vma, access: Access) -> bool {
    match access {
        // x86 pages that can be written or executed can be read.
        Access::Read => vma.prot != Prot::NONE,
        Access::Write => vma.prot.has(Prot::WRITE),
        Access::Execute => vma.prot.has(Prot::EXEC),
    }
}
