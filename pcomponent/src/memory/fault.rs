//! The path of a miss, from the fault to the installed line.

use super::remote::within;
use super::{BUSY_LIMIT, Memory, Scratch, stuck};
use crate::excache::{Begin, LineNo, Slot};
use crate::fatal;
use crate::stats::{Cause, Counters, Split};
use aspace::{AddressSpace, Vma, VmaBacking};
use fabric::Segment;
use host::clock;
use proto::NodeId;
use proto::addr::{EXTENT_SIZE, PAGE_SIZE, RemoteAddr, UserAddr, UserRange};
use proto::mem::{MapFlags, Prot};

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

/// Where some bytes of a line come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    Zero,
    Remote { node: NodeId, at: RemoteAddr },
}

/// A run of pages with one source and one host mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    start: u64,
    len: u64,
    source: Source,
    /// Of a file (for the count of misses by cause).
    file: bool,
    vma_end: u64,
}

enum Plan {
    Ready,
    /// The page at the address has no bytes to show.
    NoBacking,
}

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl Memory {
    /// Answers a fault at `at`. Whoever calls holds none of this module's locks.
    pub(crate) fn fault(
        &self,
        at: UserAddr,
        access: Access,
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
                Begin::Resident { dirty } if access == Access::Write && !dirty => {
                    if self.let_writes_through(&space, line) {
                        counters.count(Cause::WriteProtect);
                        me.streams.stored(line);
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

    /// A thread that faults on a line that is there, over and over, would spin
    /// for ever if the directory and the page table disagreed.
    fn check_progress(&self, at: UserAddr, me: &mut Scratch) {
        if me.again.0 != at.0 {
            me.again = (at.0, 0);
        }
        me.again.1 += 1;
        if me.again.1 > 100_000 {
            fatal::end(&format!("the page at {at} is cached but not accessible"));
        }
    }

    fn let_writes_through(&self, space: &AddressSpace, line: LineNo) -> bool {
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
        me.run.push(slot);
        self.reserve_ahead(space, vma, line, me, split, counters);
        let mut renewals = 0;
        loop {
            let lines = me.run.len() as u64;
            let Some(range) = self.range_of(line, lines) else {
                return FaultEnd::NotMapped;
            };
            match self.plan(space, range, at, access, me) {
                Plan::NoBacking if me.run.len() > 1 => self.shorten(line, me),
                Plan::NoBacking => {
                    self.cache.abandon(slot);
                    return FaultEnd::NoBacking;
                }
                Plan::Ready => {
                    if let Some(dirty) = self.fill(range, access, me, split, counters) {
                        self.installed(range, dirty, at, me, counters);
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
    /// same mapping. What can't be had is not waited for.
    fn reserve_ahead(
        &self,
        space: &AddressSpace,
        vma: &Vma,
        line: LineNo,
        me: &mut Scratch,
        split: &mut Split,
        counters: &Counters,
    ) {
        let advised = me.streams.miss(line);
        let mut made_room = false;
        let mut next = 1;
        while next <= u64::from(advised) {
            let ahead = LineNo(line.0 + next);
            if !self
                .range_of(ahead, 1)
                .is_some_and(|r| vma.range.contains_range(r))
            {
                break;
            }
            match self.cache.begin_fetch(ahead) {
                Begin::Fetch(slot) => me.run.push(slot),
                Begin::Full if !made_room => {
                    made_room = true;
                    let before = clock::now();
                    let gone = self.make_room(space, ahead, me, counters);
                    split.evict += clock::now().since(before);
                    if !gone {
                        break;
                    }
                    continue;
                }
                _ => break,
            }
            next += 1;
        }
        let got = me.run.len() as u32 - 1;
        if got < advised {
            let after = (got + 1..=advised).map(|n| LineNo(line.0 + u64::from(n)));
            let here = after.take_while(|&ahead| self.cache.holds(ahead)).count();
            me.streams.fell_short(line, got, here as u32);
        }
        let known = me.streams.take_known();
        counters.prefetch_known(known.useful, known.wasted);
    }

    /// Gives up what was reserved ahead of `line`.
    fn shorten(&self, line: LineNo, me: &mut Scratch) {
        me.streams.fell_short(line, 0, 0);
        for slot in me.run.drain(1..) {
            self.cache.abandon(slot);
        }
    }

    /// Finds out where each page of `range` comes from.
    fn plan(
        &self,
        space: &AddressSpace,
        range: UserRange,
        at: UserAddr,
        access: Access,
        me: &mut Scratch,
    ) -> Plan {
        me.pieces.clear();
        for vma in space.overlapping(range) {
            let Some(part) = vma.range.intersect(range) else {
                continue;
            };
            for page in part.page_numbers() {
                let page = UserAddr(page * PAGE_SIZE);
                let wanted = page == at.align_down(PAGE_SIZE);
                match self.source(vma, page, access, wanted) {
                    Some(source) => push_page(&mut me.pieces, vma, page, source),
                    None if wanted || me.run.len() > 1 => return Plan::NoBacking,
                    // A hole behind the page that was asked for does no harm.
                    None => self.pages.untouch(page),
                }
            }
        }
        Plan::Ready
    }

    /// Where `page` comes from; `wanted`: it is the one that was touched.
    fn source(&self, vma: &Vma, page: UserAddr, access: Access, wanted: bool) -> Option<Source> {
        if self.pages.is_remote(page) {
            let number = page.extent();
            let extent = self.pages.extent_or_new(number)?;
            let held = self.remote.lease(extent, number).ok()?;
            return Some(Source::Remote {
                node: held.node,
                at: within(&held, page),
            });
        }
        match &vma.backing {
            VmaBacking::Anonymous => Some(Source::Zero),
            VmaBacking::File { file, offset } => {
                let at = offset + (page.0 - vma.range.start().0);
                let writable = vma.flags.has(MapFlags::SHARED) && access == Access::Write;
                let (index, inside) = (at / EXTENT_SIZE, at % EXTENT_SIZE);
                let mut held = self.remote.file_lease(file, index, writable).ok()?;
                // The file may have grown since. Lines fetched ahead do not
                // ask: streams run into the ends of files all the time.
                if wanted && inside >= held.lease.valid {
                    held = self.remote.renew_file_lease(file, index, writable).ok()?;
                }
                (inside < held.lease.valid).then_some(Source::Remote {
                    node: held.node,
                    at: RemoteAddr {
                        key: held.lease.lease.key,
                        offset: inside,
                    },
                })
            }
        }
    }

    /// Brings the bytes and installs the pages. `None`: a lease was revoked.
    /// Otherwise whether writes are let through.
    fn fill(
        &self,
        range: UserRange,
        access: Access,
        me: &mut Scratch,
        split: &mut Split,
        counters: &Counters,
    ) -> Option<bool> {
        let before = clock::now();
        if me.pieces.iter().all(|p| p.source == Source::Zero) {
            self.install_zeros(access, me);
            split.install += clock::now().since(before);
            return Some(true);
        }
        let write = access == Access::Write;
        if let [piece] = me.pieces[..]
            && let Some(valid) = self.fill_mapped(piece, !write, split, counters)
        {
            return valid.then_some(write);
        }
        let fetched = self.gather(range, me, counters)?;
        counters.fetched(fetched);
        let arrived = clock::now();
        split.wire += arrived.since(before);
        for piece in &me.pieces {
            let offset = (piece.start - range.start().0) as usize;
            let bytes = &me.buffer[offset..offset + piece.len as usize];
            self.install(piece.start, bytes, !write);
        }
        split.install += clock::now().since(arrived);
        Some(write)
    }

    /// Installs straight from the memory component's frames where they are
    /// mapped here. `None`: they are not; `Some(false)`: the lease is void.
    fn fill_mapped(
        &self,
        piece: Piece,
        protect: bool,
        split: &mut Split,
        counters: &Counters,
    ) -> Option<bool> {
        let Source::Remote { node, at } = piece.source else {
            return None;
        };
        let before = clock::now();
        let mut done = None;
        let len = piece.len;
        let sound = self.remote.transfer(node, |connection| {
            let Some(src) = connection.mapped(at, len as usize) else {
                return Ok(());
            };
            // SAFETY: the fabric keeps the mapping for as long as the process
            // lives, and a revoked key reads as anything but never faults.
            let result = unsafe { self.uffd.copy_raw(piece.start, src, len, protect) };
            match result {
                Ok(n) if n == len => {}
                // Part was present: page by page settles it.
                Ok(_) | Err(_) => return Ok(()),
            }
            done = Some(connection.still_valid(at));
            Ok(())
        });
        if !sound {
            return Some(false);
        }
        match done {
            Some(true) => {
                self.remote.count_mapped_read();
                counters.fetched(len);
                counters.read_from(node, len);
                split.install += clock::now().since(before);
                Some(true)
            }
            Some(false) => {
                // What was installed is not to be seen.
                let span = [host::mapping::Span {
                    start: piece.start,
                    len,
                }];
                // SAFETY: the pages are the program's, the line is ours (busy).
                if let Err(e) = unsafe { self.dropper.drop_pages(&span) } {
                    fatal::host("madvise", e);
                }
                Some(false)
            }
            None => None,
        }
    }

    /// Brings the bytes of all pieces into the thread's buffer.
    fn gather(&self, range: UserRange, me: &mut Scratch, counters: &Counters) -> Option<u64> {
        let len = range.len() as usize;
        if me.buffer.len() < len {
            me.buffer.resize(len, 0);
        }
        me.segments.clear();
        let mut fetched = 0;
        for piece in &me.pieces {
            let local = (piece.start - range.start().0) as u32;
            match piece.source {
                Source::Zero => {
                    me.buffer[local as usize..local as usize + piece.len as usize].fill(0);
                }
                Source::Remote { node, at } => {
                    fetched += piece.len;
                    let segment = Segment {
                        local,
                        len: piece.len as u32,
                        remote: at,
                    };
                    me.segments.push((node, segment));
                }
            }
        }
        while let Some(&(node, _)) = me.segments.first() {
            me.posted.clear();
            let posted = &mut me.posted;
            me.segments.retain(|(n, s)| {
                if *n == node {
                    posted.push(*s);
                }
                *n != node
            });
            if !self.remote.read(node, &me.posted, &mut me.buffer[..len]) {
                return None;
            }
            counters.read_from(node, Segment::total(&me.posted) as u64);
        }
        Some(fetched)
    }

    /// Installs bytes page by page where some of them are present already.
    fn install(&self, start: u64, bytes: &[u8], protect: bool) {
        match self.uffd.copy(start, bytes, protect) {
            Ok(n) if n == bytes.len() as u64 => return,
            Err(e) if e.0 != libc::EEXIST && e.0 != libc::ENOENT => fatal::host("UFFDIO_COPY", e),
            _ => {}
        }
        for (n, page) in bytes.chunks(PAGE_SIZE as usize).enumerate() {
            match self.uffd.copy(start + n as u64 * PAGE_SIZE, page, protect) {
                Err(e) if e.0 != libc::EEXIST => fatal::host("UFFDIO_COPY", e),
                _ => {}
            }
        }
    }

    /// First touches: zeros from nowhere, no message. A load maps the host's
    /// shared page of zeros, a store needs a page of its own.
    fn install_zeros(&self, access: Access, me: &Scratch) {
        for piece in &me.pieces {
            if access == Access::Write {
                let mut at = piece.start;
                while at < piece.start + piece.len {
                    let n = (piece.start + piece.len - at).min(ZEROS.len() as u64);
                    self.install(at, &ZEROS[..n as usize], false);
                    at += n;
                }
                continue;
            }
            match self.uffd.zeropage(piece.start, piece.len) {
                Ok(n) if n == piece.len => {}
                Err(e) if e.0 != libc::EEXIST && e.0 != libc::ENOENT => {
                    fatal::host("UFFDIO_ZEROPAGE", e)
                }
                _ => {
                    for page in (0..piece.len).step_by(PAGE_SIZE as usize) {
                        match self.uffd.zeropage(piece.start + page, PAGE_SIZE) {
                            Err(e) if e.0 != libc::EEXIST => fatal::host("UFFDIO_ZEROPAGE", e),
                            _ => {}
                        }
                    }
                }
            }
        }
    }

    fn installed(
        &self,
        range: UserRange,
        dirty: bool,
        at: UserAddr,
        me: &mut Scratch,
        counters: &Counters,
    ) {
        let mut cause = Cause::ZeroFill;
        for piece in &me.pieces {
            for page in (piece.start..piece.start + piece.len).step_by(PAGE_SIZE as usize) {
                self.pages.touch(UserAddr(page));
            }
            if (piece.start..piece.start + piece.len).contains(&at.0) {
                cause = match (piece.source, piece.file) {
                    (Source::Zero, _) => Cause::ZeroFill,
                    (_, true) => Cause::File,
                    (_, false) => Cause::Remote,
                };
            }
        }
        debug_assert!(range.len() > 0);
        counters.count(cause);
        counters.prefetched(me.run.len() as u64 - 1);
        me.brought = (cause, me.run.len() as u32);
        for slot in me.run.drain(..) {
            self.cache.finish_fetch(slot, dirty);
        }
    }

    /// Forgets the leases that `range` is read under, so that the next plan
    /// asks for new ones.
    fn drop_leases(&self, space: &AddressSpace, range: UserRange) {
        for number in range.extents() {
            if let Some(extent) = self.pages.extent(number) {
                extent.set_lease(None);
            }
        }
        for vma in space.overlapping(range) {
            if let VmaBacking::File { file, .. } = &vma.backing {
                self.remote.forget_file(file.storage, file.id);
            }
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

fn permits(vma: &Vma, access: Access) -> bool {
    match access {
        // x86 pages that can be written or executed can be read.
        Access::Read => vma.prot != Prot::NONE,
        Access::Write => vma.prot.has(Prot::WRITE),
        Access::Execute => vma.prot.has(Prot::EXEC),
    }
}

/// Adds a page to the last piece where it continues it.
fn push_page(pieces: &mut Vec<Piece>, vma: &Vma, page: UserAddr, source: Source) {
    let vma_end = vma.range.end().0;
    let file = matches!(vma.backing, VmaBacking::File { .. });
    if let Some(last) = pieces.last_mut() {
        let adjoins = last.start + last.len == page.0 && last.vma_end == vma_end;
        let same = match (last.source, source) {
            (Source::Zero, Source::Zero) => true,
            (Source::Remote { node, at }, Source::Remote { node: n, at: a }) => {
                node == n && at.plus(last.len) == a
            }
            _ => false,
        };
        if adjoins && same {
            last.len += PAGE_SIZE;
            return;
        }
    }
    pieces.push(Piece {
        start: page.0,
        len: PAGE_SIZE,
        source,
        file,
        vma_end,
    });
}
