//! Changes of the address space: asked of the memory component at home, then
//! applied here, to the replica, the cache and the host's mappings. What home
//! can't refuse is applied here at once, and home hears of it later, in order.

use super::{Memory, Scratch};
use crate::fatal;
use crate::stats::Counters;
use aspace::AddressSpace;
use host::mapping::{self, Span};
use proto::addr::{PAGE_SIZE, UserAddr, UserRange};
use proto::mem::{Backing, MapFlags, MemRequest, Prot, SpaceDone, SpaceOp};
use proto::{Errno, ProcessId};
use std::sync::atomic::Ordering;

/// An mmap(2) whose arguments have been checked.
#[derive(Clone, Debug)]
pub(crate) struct MapRequest {
    /// Where, exactly or as a hint.
    pub addr: UserAddr,
    /// Bytes.
    pub len: u64,
    /// Access.
    pub prot: Prot,
    /// How.
    pub flags: MapFlags,
    /// What.
    pub backing: Backing,
}

impl Memory {
    /// mmap(2).
    ///
    /// # Errors
    /// As mmap(2): `ENOMEM` (memory components full, too many mappings),
    /// `EEXIST`, `EINVAL`.
    pub(crate) fn map(
        &self,
        request: &MapRequest,
        me: &mut Scratch,
        counters: &Counters,
    ) -> Result<UserRange, Errno> {
        let mut changes = self.begin_change();
        let op = SpaceOp::Map {
            addr: request.addr,
            len: request.len,
            prot: request.prot,
            flags: request.flags,
            backing: request.backing.clone(),
        };
        let SpaceDone::Mapped { range, .. } = self.ask_home(&mut changes, op)? else {
            return Err(Errno::EPROTO);
        };
        let mut space = self.space_mut();
        if request.flags.has(MapFlags::FIXED) {
            self.teardown(&mut space, range, me, counters);
        }
        self.settle_edges(&space, range, me, counters);
        let kept = request
            .flags
            .without(MapFlags::NOREPLACE)
            .with(MapFlags::FIXED);
        let applied = space.map(
            range.start(),
            range.len(),
            request.prot,
            kept,
            (&request.backing).into(),
        );
        if applied != Ok(range) {
            fatal::end(&format!(
                "the replica of the address space differs at {range}"
            ));
        }
        if let (Backing::File { .. }, true) =
            (&request.backing, request.flags.has(MapFlags::SHARED))
        {
            self.shares_files.store(true, Ordering::Relaxed);
        }
        if let Err(e) = self.map_host(range, request.prot) {
            space.unmap(range);
            drop(space);
            let _ = self.ask_home(&mut changes, SpaceOp::Unmap { range });
            return Err(e);
        }
        Ok(range)
    }

    pub(super) fn map_host(&self, range: UserRange, prot: Prot) -> Result<(), Errno> {
        let (start, len) = (range.start().0, range.len());
        mapping::map_private(start, len, i32::from(prot.0)).map_err(|e| Errno(e.0))?;
        if let Err(e) = self.uffd.register(start, len, true) {
            // SAFETY: mapped a moment ago, seen by nobody.
            let _ = unsafe { mapping::unmap(start, len) };
            return Err(Errno(e.0));
        }
        Ok(())
    }

    /// Evicts lines that `range` shares with its neighbours, so that a
    /// resident line always has all of its mapped pages.
    pub(super) fn settle_edges(
        &self,
        space: &AddressSpace,
        range: UserRange,
        me: &mut Scratch,
        counters: &Counters,
    ) {
        let size = self.cache.shape().line_size();
        if size == PAGE_SIZE {
            return;
        }
        me.victims.clear();
        for edge in [range.start(), range.end()] {
            if !edge.is_aligned(size) {
                me.victims.extend(self.cache.take(self.line_of(edge)));
            }
        }
        self.evict_victims(space, me, counters);
    }

    /// Takes everything out of `range`: lines, pages, leases, host mappings
    /// and replica. Shared file pages go home first. Whether home holds memory
    /// of it that others might have.
    fn teardown(
        &self,
        space: &mut AddressSpace,
        range: UserRange,
        me: &mut Scratch,
        counters: &Counters,
    ) -> bool {
        self.flush_shared(space, range, me, counters);
        self.settle_edges(space, range, me, counters);
        self.forget_lines(range, me);
        // SAFETY: the range is the program's.
        if let Err(e) = unsafe { mapping::unmap(range.start().0, range.len()) } {
            fatal::host("munmap", e);
        }
        self.pages.forget(range);
        space.unmap(range);
        self.release_leases(space, range)
    }

    /// Drops the leases of extents that nothing is mapped in any more: home
    /// takes them back. Whether there are any.
    fn release_leases(&self, space: &AddressSpace, range: UserRange) -> bool {
        let mut released = false;
        for number in range.extents() {
            let Some(extent) = self.pages.extent(number) else {
                continue;
            };
            let start = UserAddr(number * proto::addr::EXTENT_SIZE);
            let whole = UserRange::new(start, proto::addr::EXTENT_SIZE);
            if whole.is_some_and(|w| space.overlapping(w).next().is_none()) {
                released |= extent.lease().is_some();
                extent.set_lease(None);
            }
        }
        released
    }

    /// Frees the ways of every line in `range` without saving anything.
    fn forget_lines(&self, range: UserRange, me: &mut Scratch) {
        let shift = self.cache.shape().line_shift;
        let from = self.line_of(range.start());
        let to = crate::excache::LineNo(((range.end().0 - 1) >> shift) + 1);
        me.victims.clear();
        self.cache.take_range(from, to, &mut me.victims);
        for victim in me.victims.drain(..) {
            self.cache.finish_evict(victim.slot);
        }
    }

    /// munmap(2).
    ///
    /// # Errors
    /// `EINVAL`, `ENOMEM` (too many mappings after a split).
    pub(crate) fn unmap(
        &self,
        range: UserRange,
        me: &mut Scratch,
        counters: &Counters,
    ) -> Result<(), Errno> {
        let mut changes = self.begin_change();
        // Storage must have shared pages before home forgets the mapping.
        let released = {
            let mut space = self.space_mut();
            if space.overlapping(range).next().is_none() {
                return Ok(());
            }
            self.teardown(&mut space, range, me, counters)
        };
        self.defer(&mut changes, SpaceOp::Unmap { range });
        if released {
            self.flush_deferred(&mut changes);
        }
        Ok(())
    }

    /// mprotect(2).
    ///
    /// # Errors
    /// `ENOMEM`: a hole, or no room for memory that becomes writable.
    pub(crate) fn protect(
        &self,
        range: UserRange,
        prot: Prot,
        me: &mut Scratch,
        counters: &Counters,
    ) -> Result<(), Errno> {
        self.change_protection(range, prot)?;
        if prot.has(Prot::WRITE) {
            self.touch_ahead(range, me, counters);
        }
        Ok(())
    }

    pub(super) fn change_protection(&self, range: UserRange, prot: Prot) -> Result<(), Errno> {
        let mut changes = self.begin_change();
        let op = SpaceOp::Protect { range, prot };
        // Home must promise memory that becomes writable, and says what becomes
        // of a range with holes; of the rest it is told.
        if !self.is_certain(&changes, &op) {
            if !self.space().is_mapped(range) {
                changes.met_hole();
            }
            let answer = self.ask_home(&mut changes, op).map(|_| ());
            if answer == Err(Errno::ENOMEM) && self.space().is_mapped(range) {
                return answer;
            }
            let (applied, host) = self.apply_protect(range, prot);
            return applied.and(host).and(answer);
        }
        // What the replica can't do home can't either, and does not hear of.
        let (applied, host) = self.apply_protect(range, prot);
        if applied.is_ok() {
            self.defer(&mut changes, op);
        }
        applied.and(host)
    }

    /// What the replica answered, and the host.
    fn apply_protect(
        &self,
        range: UserRange,
        prot: Prot,
    ) -> (Result<(), Errno>, Result<(), Errno>) {
        let mut space = self.space_mut();
        let applied = space.protect(range, prot);
        for vma in space.overlapping(range) {
            let Some(part) = vma.range.intersect(range) else {
                continue;
            };
            if vma.prot != prot {
                continue;
            }
            // SAFETY: the range is the program's.
            let done = unsafe { mapping::protect(part.start().0, part.len(), i32::from(prot.0)) };
            if let Err(e) = done {
                return (applied, Err(Errno(e.0)));
            }
        }
        (applied, Ok(()))
    }

    /// madvise(2), `MADV_DONTNEED` and `MADV_FREE`.
    ///
    /// # Errors
    /// `ENOMEM`: part of it is not mapped (the rest is done).
    pub(crate) fn discard(
        &self,
        range: UserRange,
        me: &mut Scratch,
        counters: &Counters,
    ) -> Result<(), Errno> {
        let mut changes = self.begin_change();
        let space = self.space_mut();
        let mapped: Vec<UserRange> = space
            .overlapping(range)
            .filter_map(|v| v.range.intersect(range))
            .collect();
        self.flush_shared(&space, range, me, counters);
        for part in &mapped {
            self.settle_edges(&space, *part, me, counters);
            self.forget_lines(*part, me);
            let span = [Span {
                start: part.start().0,
                len: part.len(),
            }];
            // SAFETY: the program wants the contents gone.
            if let Err(e) = unsafe { self.dropper.drop_pages(&span) } {
                fatal::host("madvise(MADV_DONTNEED)", e);
            }
            self.pages.forget(*part);
        }
        let covered: u64 = mapped.iter().map(|r| r.len()).sum();
        drop(space);
        if self.drop_whole_leases(range) {
            // At once: an extent that is committed anew must not lose its
            // frames to a change that was put off.
            self.ask_home(&mut changes, SpaceOp::Discard { range })?;
        }
        if covered == range.len() {
            Ok(())
        } else {
            Err(Errno::ENOMEM)
        }
    }

    /// Home frees the frames of extents that are discarded whole and revokes
    /// their keys. Whether there are any.
    fn drop_whole_leases(&self, range: UserRange) -> bool {
        let mut dropped = false;
        for number in range.extents() {
            let start = UserAddr(number * proto::addr::EXTENT_SIZE);
            let whole = UserRange::new(start, proto::addr::EXTENT_SIZE);
            let Some(extent) = self.pages.extent(number) else {
                continue;
            };
            if whole.is_some_and(|w| range.contains_range(w)) && extent.lease().is_some() {
                extent.set_lease(None);
                dropped = true;
            }
        }
        dropped
    }

    /// brk(2): the break after it.
    pub(crate) fn brk(&self, addr: UserAddr, me: &mut Scratch, counters: &Counters) -> UserAddr {
        let mut changes = self.begin_change();
        let op = SpaceOp::Brk { addr };
        let (before, possible) = {
            let space = self.space();
            (space.break_now(), space.plan_brk(addr).is_some())
        };
        if !possible {
            return before;
        }
        let certain = self.is_certain(&changes, &op);
        let now = if certain {
            addr
        } else {
            match self.ask_home(&mut changes, op.clone()) {
                Ok(SpaceDone::Brk { addr: now, .. }) => now,
                _ => return before,
            }
        };
        let mut space = self.space_mut();
        let page = |a: UserAddr| a.align_up(PAGE_SIZE).unwrap_or(a);
        let mut released = false;
        if let Some(gone) = UserRange::between(page(now), page(before)) {
            released = self.teardown(&mut space, gone, me, counters);
        }
        if let Some(grown) = UserRange::between(page(before), page(now)) {
            self.settle_edges(&space, grown, me, counters);
            if let Err(e) = self.map_host(grown, Prot::READ_WRITE) {
                drop(space);
                if !certain {
                    self.defer(&mut changes, SpaceOp::Brk { addr: before });
                }
                tracing::warn!("the host cannot grow the heap: {e}");
                return before;
            }
        }
        space.brk(now);
        drop(space);
        if certain {
            self.defer(&mut changes, op);
        }
        if released {
            self.flush_deferred(&mut changes);
        }
        drop(changes);
        if let Some(grown) = UserRange::between(page(before), page(now)) {
            self.touch_ahead(grown, me, counters);
        }
        now
    }

    /// Where the heap starts, once, after the image is mapped.
    ///
    /// # Errors
    /// What the memory component answered.
    pub(crate) fn set_brk(&self, addr: UserAddr) -> Result<(), Errno> {
        let mut changes = self.begin_change();
        self.ask_home(&mut changes, SpaceOp::SetBrk { addr })?;
        self.space_mut().set_brk(addr);
        Ok(())
    }

    /// Ends the address space at home. From here on no thread of the program
    /// gets another line: those that still run wait for the end of the process.
    pub(crate) fn end(&self, process: ProcessId) {
        std::mem::forget(self.begin_change());
        std::mem::forget(self.space_mut());
        let _ = self
            .remote
            .home()
            .peer
            .ask::<_, proto::mem::MemReply>(&MemRequest::EndSpace { process });
    }

    /// Whether each page of `range` is resident, as mincore(2) has it.
    pub(crate) fn residency(&self, range: UserRange) -> Vec<bool> {
        let is_here = |n: u64| self.cache.holds(self.line_of(UserAddr(n * PAGE_SIZE)));
        range.page_numbers().map(is_here).collect()
    }
}
