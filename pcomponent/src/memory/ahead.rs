//! What a run ahead of the program ([`crate::runahead`]) sees of its memory, and
//! how the lines that it finds are brought.

use super::fault::{Access, may_count_as_stored, permits};
use super::fill::{Leases, Piece, Plan};
use super::{Memory, Scratch};
use crate::excache::{Begin, LineNo, Slot, Victim};
use crate::runahead::{Outcome, Registers, RunAhead, Touch, World};
use crate::stats::{Counters, Split};
use aspace::AddressSpace;
use host::clock::{self, Ticks};
use host::trap;
use proto::addr::{PAGE_SIZE, USER_MAX, USER_MIN, UserAddr};
use std::sync::atomic::Ordering;

/// Lines that are known to be here, by the last bits of their numbers.
const KNOWN: usize = 64;

struct Ahead<'a> {
    memory: &'a Memory,
    space: &'a AddressSpace,
    me: &'a mut Scratch,
    split: &'a mut Split,
    counters: &'a Counters,
    /// Twice the number of a line, and one more where stores are let through.
    here: [u64; KNOWN],
    line_shift: u32,
    most: u32,
    /// Lines that were brought.
    brought: Vec<LineNo>,
    /// Lines that were here, and to which stores are let through now.
    lifted: u32,
    /// The line that would have been one too many.
    next: Option<u64>,
    /// Lines that are to come over the wire, together, and their pieces with the
    /// number of the line.
    awaited: Vec<Awaited>,
    pieces: Vec<(Piece, usize)>,
    /// Ticks that went into bringing lines, and into letting stores through.
    bringing: u64,
}

struct Awaited {
    line: LineNo,
    slot: Slot,
    /// Whether stores are to be let through.
    write: bool,
}

/// What became of a line that was to be brought.
enum Brought {
    Here { dirty: bool },
    Awaited,
    No,
}

impl Memory {
    /// After `at` was missed, at that time, and its line has come, but no others as
    /// well: looks for what the thread, whose registers these are, will miss next, and
    /// brings it.
    pub(super) fn run_ahead(
        &self,
        space: &AddressSpace,
        registers: &Registers,
        (at, missed): (UserAddr, Ticks),
        me: &mut Scratch,
        split: &mut Split,
        counters: &Counters,
    ) {
        let Some(mut runner) = me.runner.take() else {
            return;
        };
        if me.brought.1 > 1 {
            // Streams have.
            let lines = me.brought.1.into();
            (runner.sites).streamed(registers.rip, missed.count(), lines);
            runner.sites.brought(split.evict + split.install);
            me.runner = Some(runner);
            return;
        }
        let line = self.line_of(at);
        // What a line on its own costs: a trap, and what this one took on the wire.
        let saves = self.trap.load(Ordering::Relaxed) + split.wire;
        let begun = clock::now();
        let most = (runner.sites).missed(registers.rip, line.0, saves, missed.count());
        if most > 0 {
            let mut world = Ahead {
                memory: self,
                space,
                me,
                split,
                counters,
                here: [u64::MAX; KNOWN],
                line_shift: self.cache.shape().line_shift,
                most,
                brought: Vec::new(),
                lifted: 0,
                next: None,
                awaited: Vec::new(),
                pieces: Vec::new(),
                bringing: 0,
            };
            runner.run(registers, saves, &mut world);
            let followed = clock::now().since(begun);
            world.fetch_awaited();
            let (brought, next) = (world.brought.len() as u32, world.next);
            let took = followed.saturating_sub(world.bringing);
            let outcome = Outcome {
                took,
                lines: brought,
                next,
                in_vain: !self.cache.holds(line),
            };
            split.follow += took;
            runner.sites.ran(registers.rip, &outcome);
            me.run.clear();
            me.brought.1 += brought;
        }
        runner.sites.brought(split.evict + split.install);
        me.runner = Some(runner);
    }
}

impl Ahead<'_> {
    /// Whether the line is known to be here for it.
    #[inline]
    fn is_here(&self, line: LineNo, store: bool) -> bool {
        self.here[line.0 as usize % KNOWN] | u64::from(!store) == 2 * line.0 + 1
    }

    fn touch_line(&mut self, line: LineNo, at: UserAddr, store: bool) -> Touch {
        if self.is_here(line, store) {
            return Touch::Here;
        }
        let dirty = match self.memory.cache.look(line) {
            Some(dirty) => dirty || (store && self.lift(line, at)),
            None => {
                if let Some(n) = self.awaited.iter().position(|a| a.line == line) {
                    self.awaited[n].write |= store && self.may_store(line, at);
                    return Touch::Away;
                }
                if self.found() >= self.most {
                    self.next = Some(line.0);
                    return Touch::Stop;
                }
                // Streams fetch better, and must see it missed.
                if self.me.streams.expects(line) {
                    return Touch::Away;
                }
                let before = clock::now();
                let brought = self.bring(line, at, store);
                self.bringing += clock::now().since(before);
                match brought {
                    Brought::Here { dirty } => dirty,
                    Brought::Awaited => return Touch::Away,
                    Brought::No => return Touch::Stop,
                }
            }
        };
        self.here[line.0 as usize % KNOWN] = 2 * line.0 + u64::from(dirty);
        Touch::Here
    }

    /// Lets stores through to a line that is here and clean, where one that may
    /// never come does no harm.
    fn lift(&mut self, line: LineNo, at: UserAddr) -> bool {
        if self.found() >= self.most || !self.may_store(line, at) {
            return false;
        }
        let before = clock::now();
        let lifted = self.memory.let_writes_through(self.space, line);
        self.bringing += clock::now().since(before);
        if lifted {
            self.memory.note_store(at);
            self.me.streams.stored(line);
            self.lifted += u32::from(!self.brought.contains(&line));
        }
        lifted
    }

    /// Whether a store that may never come does no harm.
    fn may_store(&self, line: LineNo, at: UserAddr) -> bool {
        let vma = self.space.find(at);
        vma.zip(self.memory.range_of(line, 1))
            .is_some_and(|(vma, range)| may_count_as_stored(vma, range))
    }

    /// Brings an absent line if it can be had at once; one that comes over the
    /// wire is awaited.
    fn bring(&mut self, line: LineNo, at: UserAddr, store: bool) -> Brought {
        let (memory, space) = (self.memory, self.space);
        let wanted = if store { Access::Write } else { Access::Read };
        let Some(vma) = space.find(at).filter(|vma| permits(vma, wanted)) else {
            return Brought::No;
        };
        let store = store && self.may_store(line, at);
        let access = if store { Access::Write } else { Access::Read };
        let Some(slot) = self.reserve(line) else {
            return Brought::No;
        };
        self.me.run.clear();
        self.me.run.push((line, slot));
        let range = match (
            memory.plan(space, at, access, Leases::Held, self.me),
            memory.range_of(line, 1),
        ) {
            (Plan::Ready, Some(range)) => range,
            _ => {
                memory.cache.abandon(slot);
                return Brought::No;
            }
        };
        let write = store || memory.will_be_stored(vma, range, at, self.me);
        if memory.crosses_the_wire(self.me) {
            let number = self.awaited.len();
            self.awaited.push(Awaited { line, slot, write });
            let pieces = self.me.pieces.drain(..);
            self.pieces.extend(pieces.map(|piece| (piece, number)));
            return Brought::Awaited;
        }
        match memory.fill((access, write), self.me, self.split, self.counters) {
            Some(dirty) => {
                self.counters.followed(1);
                self.brought.push(line);
                memory.finish(dirty, Some(line), self.me);
                Brought::Here { dirty }
            }
            None => {
                // A lease was revoked. Some pages of the line may have come.
                let dirty = false;
                memory.drop_lines(space, &[Victim { slot, line, dirty }], self.me);
                memory.cache.abandon(slot);
                Brought::No
            }
        }
    }

    /// A way for a line; nobody is waited for.
    fn reserve(&mut self, line: LineNo) -> Option<Slot> {
        for made_room in [false, true] {
            match self.memory.cache.begin_fetch(line) {
                Begin::Fetch(slot) => return Some(slot),
                Begin::Full if !made_room => {
                    let before = clock::now();
                    let (space, counters) = (self.space, self.counters);
                    self.memory.make_room(space, line, self.me, counters);
                    self.split.evict += clock::now().since(before);
                }
                _ => return None,
            }
        }
        None
    }

    /// Fetches the awaited lines in one operation for each memory component.
    fn fetch_awaited(&mut self) {
        if self.awaited.is_empty() {
            return;
        }
        let (memory, awaited) = (self.memory, std::mem::take(&mut self.awaited));
        let pieces = self.pieces.iter().map(|(piece, _)| *piece);
        self.me.pieces.clear();
        self.me.pieces.extend(pieces);
        let before = clock::now();
        let fetched = memory.gather(self.me, self.counters);
        let arrived = clock::now();
        self.split.wire += arrived.since(before);
        let Some(fetched) = fetched else {
            // A lease was revoked.
            for line in awaited {
                if let Some(range) = memory.range_of(line.line, 1) {
                    memory.drop_leases(self.space, range);
                }
                memory.cache.abandon(line.slot);
            }
            return;
        };
        self.counters.fetched(fetched);
        memory.install_gathered(self.me, |n| !awaited[self.pieces[n].1].write);
        memory.touch_pieces(self.me, |_| false);
        self.counters.followed(awaited.len() as u64);
        for line in &awaited {
            self.brought.push(line.line);
            memory.cache.finish_fetch(line.slot, line.write);
        }
        self.split.install += clock::now().since(arrived);
    }
}

impl World for Ahead<'_> {
    fn code(&mut self, at: u64, bytes: &mut [u8; 15]) -> usize {
        let page_ends = (PAGE_SIZE - at % PAGE_SIZE).min(bytes.len() as u64);
        let holds = |at| (self.memory.cache).holds(self.memory.line_of(UserAddr(at)));
        if !self.is_code(at) || !holds(at) {
            return 0;
        }
        let len = if page_ends < bytes.len() as u64 && holds(at + page_ends) {
            bytes.len() as u64
        } else {
            page_ends
        };
        // SAFETY: `bytes` is ours; the program's side may be anything.
        let left = unsafe { trap::copy(bytes.as_mut_ptr() as u64, at, len) };
        (len - left) as usize
    }

    #[inline]
    fn touch(&mut self, at: u64, size: u64, store: bool) -> Touch {
        let last = at.saturating_add(size.max(1) - 1);
        let line_of = |at| LineNo(at >> (self.line_shift & 63));
        let (from, to) = (line_of(at), line_of(last));
        if from == to && at >= USER_MIN.0 && self.is_here(from, store) {
            return Touch::Here;
        }
        if at < USER_MIN.0 || last >= USER_MAX.0 {
            return Touch::Away;
        }
        let touched = self.touch_line(from, UserAddr(at), store);
        if touched == Touch::Here && from != to {
            return self.touch_line(to, UserAddr(last), store);
        }
        touched
    }

    #[inline]
    fn load(&mut self, at: u64, size: u64) -> Option<u64> {
        if at % PAGE_SIZE <= PAGE_SIZE - 8 {
            // SAFETY: whoever calls has touched it: it is in the program's window.
            return unsafe { trap::load64(at) };
        }
        let mut bytes = [0; 8];
        // SAFETY: as above; the bytes are ours.
        let left = unsafe { trap::copy(bytes.as_mut_ptr() as u64, at, size.min(8)) };
        (left == 0).then(|| u64::from_le_bytes(bytes))
    }

    fn found(&self) -> u32 {
        (self.brought.len() + self.awaited.len()) as u32 + self.lifted
    }

    fn is_code(&self, rip: u64) -> bool {
        (USER_MIN.0..USER_MAX.0).contains(&rip)
    }
}

/// See [`Scratch::runner`].
pub(super) fn runner(most: u32, wanted: bool) -> Option<Box<RunAhead>> {
    (wanted && most > 0).then(|| Box::new(RunAhead::new(most)))
}
