//! Eviction: from a full set to free ways, in batches.
//!
//! A victim is busy (`Evicting`) from the moment it is chosen, so its owner
//! alone ends it; nobody can fetch it meanwhile. What other threads of the
//! program can still do is load from and store to it, as long as its pages
//! are mapped. Loads are harmless. Stores: a clean victim is write-protected
//! since it was installed, and the fault of a store finds the line busy and
//! waits. A dirty victim is write-protected first, unless the process has one
//! thread, which is here and not storing. From then on its bytes stand still:
//! they are copied, written to the memory component, and only when that has
//! them are the pages dropped and the ways freed. No update is lost: it came
//! either before the protection, and is in the copy, or waits until after.
//!
//! To write-protect a page interrupts every CPU that runs the process. So where
//! it is needed, a batch has dirty victims of one neighbourhood alone, and one
//! call protects the stretch from the first to the last of them. Lines between
//! that are no victims (they are young, or busy) are protected with them: the
//! next store to one faults and has that lifted
//! ([`Memory::let_writes_through`]), whether the line is clean or dirty.

use super::mappings::Mappings;
use super::remote::{Links, within};
use super::{BUSY_LIMIT, Memory, Scratch, stuck};
use crate::excache::{Batch, Dirty, LineNo, Victim};
use crate::fatal;
use crate::stats::Counters;
use aspace::{AddressSpace, Vma, VmaBacking};
use fabric::{FabricError, Segment};
use host::clock;
use host::mapping::Span;
use proto::NodeId;
use proto::addr::{EXTENT_SIZE, PAGE_SIZE, RemoteAddr, UserAddr};
use proto::mem::{FileRef, MapFlags};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const PAGE: usize = PAGE_SIZE as usize;

/// Dirty victims with less between them are write-protected by one call.
const NEAR: u64 = 1 << 20;
/// Lines of a neighbourhood for a batch of so many: about one in eight or more
/// of a program's lines are here.
const fn around(batch: usize) -> u64 {
    8 * batch.next_power_of_two() as u64
}

/// Where a page belongs.
type Target = (NodeId, RemoteAddr);

/// A page to be written back.
struct Page<'a> {
    at: UserAddr,
    vma: &'a Vma,
}

impl Memory {
    /// Evicts a batch so that the set of `line` has a free way; if all of its
    /// ways are busy, waits for one of them.
    pub(super) fn make_room_or_wait(
        &self,
        space: &AddressSpace,
        line: LineNo,
        me: &mut Scratch,
        counters: &Counters,
    ) {
        if !self.make_room(space, line, me, counters) && !self.cache.wait_room(line, BUSY_LIMIT) {
            stuck("all lines of a cache set stayed busy");
        }
    }

    /// Evicts a batch of lines around `line`; false if none could be chosen.
    pub(super) fn make_room(
        &self,
        space: &AddressSpace,
        line: LineNo,
        me: &mut Scratch,
        counters: &Counters,
    ) -> bool {
        me.victims.clear();
        let most = self.cache.shape().batch();
        let near = |line| self.neighbourhood(space, line, most);
        let dirty = if self.others_store() {
            Dirty::Near(&near)
        } else {
            Dirty::Anywhere
        };
        let batch = Batch { most, dirty };
        self.cache.pick_victims(line, &batch, &mut me.victims);
        self.evict_victims(space, me, counters);
        !me.victims.is_empty()
    }

    /// Whether a thread beside the calling one, which is the program's, may
    /// store to the program's memory.
    fn others_store(&self) -> bool {
        self.threads.load(Ordering::SeqCst) > 1
    }

    /// The lines that may be write-protected with `line` in a batch: around it
    /// and in the same mapping.
    fn neighbourhood(&self, space: &AddressSpace, line: LineNo, batch: usize) -> (LineNo, LineNo) {
        let shift = self.cache.shape().line_shift;
        let lines = around(batch);
        let first = line.0 / lines * lines;
        let alone = (line, LineNo(line.0 + 1));
        let vma = self
            .range_of(line, 1)
            .and_then(|range| space.overlapping(range).next());
        let Some(vma) = vma else { return alone };
        // Whole lines of the mapping.
        let from = first.max(vma.range.start().0.div_ceil(1 << shift));
        let to = (first + lines).min(vma.range.end().0 >> shift);
        if (from..to).contains(&line.0) {
            (LineNo(from), LineNo(to))
        } else {
            alone
        }
    }

    /// Evicts `line` if it is here and nobody is at it.
    pub(super) fn evict_line(
        &self,
        space: &AddressSpace,
        line: LineNo,
        me: &mut Scratch,
        counters: &Counters,
    ) {
        me.victims.clear();
        me.victims.extend(self.cache.take(line));
        self.evict_victims(space, me, counters);
    }

    /// Writes the dirty ones of `me.victims` back and frees all of them.
    pub(super) fn evict_victims(
        &self,
        space: &AddressSpace,
        me: &mut Scratch,
        counters: &Counters,
    ) {
        me.victims.sort_unstable_by_key(|v| v.line);
        let victims = std::mem::take(&mut me.victims);
        for chunk in victims.chunks(self.cache.shape().batch()) {
            let begun = counters.lane().map(|_| clock::now());
            let dirty = chunk.iter().filter(|v| v.dirty).count() as u64;
            if dirty > 0 {
                if self.others_store() {
                    self.protect_dirty(space, chunk);
                }
                self.write_back(space, chunk, me, counters);
            }
            self.drop_lines(space, chunk, me);
            self.note_clean(chunk);
            for victim in chunk {
                self.cache.finish_evict(victim.slot);
            }
            let clean = chunk.len() as u64 - dirty;
            counters.evicted(clean, dirty);
            if let (Some(lane), Some(begun)) = (counters.lane(), begun) {
                let lowest = chunk.iter().map(|v| v.line.0).min().unwrap_or(0);
                let took = clock::to_ns(clock::now().since(begun));
                let address = lowest << self.cache.shape().line_shift;
                lane.eviction(address, (clean, dirty), took);
            }
        }
        me.victims = victims;
    }

    /// Clean victims that were missed were loaded and not stored to. What that
    /// counts: where other threads run a store to a clean line costs as much as
    /// writing twenty lines back, and is worth avoiding if one line in thirty
    /// sees one; else, if one in four does.
    fn note_clean(&self, victims: &[Victim]) {
        let weight = if self.others_store() { 2 } else { 20 };
        let shift = self.cache.shape().line_shift;
        for victim in victims.iter().filter(|v| !v.dirty) {
            let at = UserAddr(victim.line.0 << shift);
            if let Some(extent) = self.pages.extent(at.extent())
                && !self.pages.came_ahead(at)
            {
                extent.note_no_store(self.pages.is_remote(at), weight);
            }
        }
    }

    /// From here on a store to a dirty victim faults.
    fn protect_dirty(&self, space: &AddressSpace, victims: &[Victim]) {
        self.spans(space, victims.iter().filter(|v| v.dirty), NEAR, |span| {
            if let Err(e) = self.uffd.write_protect(span.start, span.len, true) {
                fatal::host("UFFDIO_WRITEPROTECT", e);
            }
        });
    }

    /// Gives `each` the mapped parts of the victims' lines, in ascending order;
    /// those with less than `near` bytes between them are merged within one
    /// mapping (1: neighbours).
    fn spans<'v>(
        &self,
        space: &AddressSpace,
        victims: impl Iterator<Item = &'v Victim>,
        near: u64,
        mut each: impl FnMut(Span),
    ) {
        let mut last: Option<(Span, u64)> = None;
        let mut mappings = Mappings::of(space);
        for victim in victims {
            let Some(range) = self.range_of(victim.line, 1) else {
                continue;
            };
            for (vma, part) in mappings.parts(range) {
                let (start, len) = (part.start().0, part.len());
                let owner = vma.range.start().0;
                match &mut last {
                    Some((span, o)) if *o == owner && start - (span.start + span.len) < near => {
                        span.len = start + len - span.start;
                    }
                    _ => {
                        if let Some((span, _)) = last.take() {
                            each(span);
                        }
                        last = Some((Span { start, len }, owner));
                    }
                }
            }
        }
        if let Some((span, _)) = last {
            each(span);
        }
    }

    pub(super) fn drop_lines(&self, space: &AddressSpace, victims: &[Victim], me: &mut Scratch) {
        me.spans.clear();
        let spans = &mut me.spans;
        self.spans(space, victims.iter(), 1, |span| spans.push(span));
        // SAFETY: the lines are busy and ours; their bytes are safe.
        if let Err(e) = unsafe { self.dropper.drop_pages(&me.spans) } {
            fatal::host("madvise(MADV_DONTNEED)", e);
        }
    }

    /// Writes the dirty victims' pages to where they belong.
    fn write_back(
        &self,
        space: &AddressSpace,
        victims: &[Victim],
        me: &mut Scratch,
        counters: &Counters,
    ) {
        let mut pages: Vec<Page<'_>> = Vec::with_capacity(victims.len());
        for victim in victims.iter().filter(|v| v.dirty) {
            let Some(range) = self.range_of(victim.line, 1) else {
                continue;
            };
            for vma in space.overlapping(range) {
                let Some(part) = vma.range.intersect(range) else {
                    continue;
                };
                let all = part.page_numbers().map(|n| UserAddr(n * PAGE_SIZE));
                // The others lie past the end of their file: they never came.
                let here = all.filter(|at| self.pages.is_touched(*at));
                pages.extend(here.map(|at| Page { at, vma }));
            }
        }
        pages.retain(|page| {
            let untouched = self.is_untouched_zero(page);
            if untouched {
                self.pages.untouch(page.at);
            }
            !untouched
        });
        counters.written_back(pages.len() as u64 * PAGE_SIZE);
        self.send(&pages, me, counters);
    }

    /// A page of zeros that no component has heard of need not be sent.
    fn is_untouched_zero(&self, page: &Page<'_>) -> bool {
        if !matches!(page.vma.backing, VmaBacking::Anonymous) || self.pages.is_remote(page.at) {
            return false;
        }
        // Most pages differ from zero in their first line already.
        let mut bytes = [0; PAGE];
        [64, PAGE].into_iter().all(|len| {
            self.read_resident(page.at, &mut bytes[..len]);
            bytes[..len].iter().all(|b| *b == 0)
        })
    }

    /// Copies the start of a resident page, also of one that the program may
    /// not read.
    pub(super) fn read_resident(&self, at: UserAddr, bytes: &mut [u8]) {
        let len = bytes.len() as u64;
        // SAFETY: `bytes` is ours; a page that can't be read gives a short count.
        if unsafe { host::trap::copy(bytes.as_mut_ptr() as u64, at.0, len) } == 0 {
            return;
        }
        // The kernel reads pages regardless of their protection here.
        let read = std::fs::File::open("/proc/self/mem").and_then(|mem| {
            use std::os::unix::fs::FileExt;
            mem.read_exact_at(bytes, at.0)
        });
        if let Err(e) = read {
            fatal::end(&format!("cannot read the resident page at {at}: {e}"));
        }
    }

    /// Brings pages to where they belong.
    fn send(&self, pages: &[Page<'_>], me: &mut Scratch, counters: &Counters) {
        for _ in 0..8 {
            let mut written: Vec<(Arc<FileRef>, u64)> = Vec::new();
            let targets: Vec<Target> = pages.iter().map(|p| self.target(p, &mut written)).collect();
            let placed = match self.place(pages, &targets, &mut me.links, counters) {
                Some(placed) => placed,
                None => self.transmit(pages, &targets, me, counters),
            };
            if placed {
                self.sent(pages, written);
                return;
            }
            for page in pages {
                self.drop_lease(page);
            }
        }
        fatal::end("leases are revoked as fast as they are granted while writing back");
    }

    /// Copies pages straight into the memory components' frames. `None` where
    /// those are not mapped here; `Some(false)`: a lease is void.
    fn place(
        &self,
        pages: &[Page<'_>],
        targets: &[Target],
        links: &mut Links,
        counters: &Counters,
    ) -> Option<bool> {
        let mut from = 0;
        while let Some(&(node, _)) = targets.get(from) {
            let run = targets[from..].iter().take_while(|t| t.0 == node).count();
            let mut mapped = true;
            let sound = self.remote.transfer_over(links, node, |connection| {
                for (page, (_, at)) in pages[from..].iter().zip(&targets[from..from + run]) {
                    let Some(frame) = connection.mapped_mut(*at, PAGE) else {
                        mapped = false;
                        return Ok(());
                    };
                    // SAFETY: the frame is mapped for as long as the process
                    // lives and has a page's length; the page may be anything.
                    if unsafe { host::trap::copy(frame as u64, page.at.0, PAGE_SIZE) } != 0 {
                        mapped = false;
                        return Ok(());
                    }
                    if !connection.still_valid(*at) {
                        return Err(FabricError::BadKey);
                    }
                }
                Ok(())
            });
            if !mapped {
                return None;
            }
            if !sound {
                return Some(false);
            }
            counters.wrote_to(node, run as u64 * PAGE_SIZE);
            from += run;
        }
        Some(true)
    }

    /// Sends pages over the fabric, through the thread's buffer. False: a
    /// lease is void.
    fn transmit(
        &self,
        pages: &[Page<'_>],
        targets: &[Target],
        me: &mut Scratch,
        counters: &Counters,
    ) -> bool {
        let len = pages.len() * PAGE;
        if me.buffer.len() < len {
            me.buffer.resize(len, 0);
        }
        me.segments.clear();
        for (n, (page, &(node, remote))) in pages.iter().zip(targets).enumerate() {
            self.read_resident(page.at, &mut me.buffer[n * PAGE..][..PAGE]);
            let local = (n * PAGE) as u32;
            match me.segments.last_mut() {
                Some((last, s))
                    if *last == node
                        && s.local + s.len == local
                        && s.remote.plus(u64::from(s.len)) == remote =>
                {
                    s.len += PAGE as u32;
                }
                _ => me.segments.push((
                    node,
                    Segment {
                        local,
                        len: PAGE as u32,
                        remote,
                    },
                )),
            }
        }
        self.post_writes(me, len, counters)
    }

    fn target(&self, page: &Page<'_>, written: &mut Vec<(Arc<FileRef>, u64)>) -> Target {
        if let (VmaBacking::File { file, offset }, true) =
            (&page.vma.backing, page.vma.flags.has(MapFlags::SHARED))
        {
            let at = offset + (page.at.0 - page.vma.range.start().0);
            match self.remote.file_lease(file, at / EXTENT_SIZE, true) {
                Ok(held) => {
                    written.push((file.clone(), at / PAGE_SIZE));
                    let offset = at % EXTENT_SIZE;
                    return (
                        held.node,
                        RemoteAddr {
                            key: held.lease.lease.key,
                            offset,
                        },
                    );
                }
                Err(e) => fatal::end(&format!(
                    "cannot write a shared file mapping back at {}: {e}",
                    page.at
                )),
            }
        }
        let number = page.at.extent();
        let Some(extent) = self.pages.extent_or_new(number) else {
            fatal::end(&format!("{} is outside the program's window", page.at))
        };
        match self.remote.lease(extent, number) {
            Ok(held) => (held.node, within(&held, page.at)),
            Err(e) => fatal::end(&format!(
                "no memory component can hold the page at {}: {e} (memory mapped with \
                 MAP_NORESERVE is not promised; give the testbed more --memory)",
                page.at
            )),
        }
    }

    fn post_writes(&self, me: &mut Scratch, len: usize, counters: &Counters) -> bool {
        while let Some(node) = me.next_node() {
            let src = &me.buffer[..len];
            if !self.remote.write(&mut me.links, node, &me.posted, src) {
                return false;
            }
            counters.wrote_to(node, Segment::total(&me.posted) as u64);
        }
        true
    }

    fn sent(&self, pages: &[Page<'_>], mut written: Vec<(Arc<FileRef>, u64)>) {
        for page in pages {
            let shared = page.vma.flags.has(MapFlags::SHARED);
            if !(shared && matches!(page.vma.backing, VmaBacking::File { .. })) {
                self.pages.set_remote(page.at);
            }
        }
        while let Some((file, _)) = written.first().cloned() {
            let mut runs: Vec<(u64, u32)> = Vec::new();
            written.retain(|(f, page)| {
                let ours = f.id == file.id && f.storage == file.storage;
                if ours {
                    match runs.last_mut() {
                        Some((first, n)) if *first + u64::from(*n) == *page => *n += 1,
                        _ => runs.push((*page, 1)),
                    }
                }
                !ours
            });
            if let Err(e) = self.remote.file_dirty(&file, runs) {
                fatal::end(&format!("cannot write a shared file mapping back: {e}"));
            }
        }
    }

    fn drop_lease(&self, page: &Page<'_>) {
        if let Some(extent) = self.pages.extent(page.at.extent()) {
            extent.set_lease(None);
        }
        if let VmaBacking::File { file, .. } = &page.vma.backing {
            self.remote.forget_file(file.storage, file.id);
        }
    }
}
