//! What a run ahead of the program ([`crate::runahead`]) sees of its memory, and
//! how the lines that it finds are brought.

use super::fault::{Access, may_count_as_stored, permits};
use super::fill::{Piece, Plan};
use super::{Memory, Scratch};
use crate::excache::{Begin, LineNo, Slot, Victim};
use crate::runahead::{Outcome, Registers, RunAhead, Touch, World};
use crate::stats::{Counters, Split};
use aspace::AddressSpace;
use host::{clock, trap};
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
    /// Lines that were brought, or stores to them let through.
    found: u32,
    brought: u32,
    most: u32,
    /// The line that would have been one too many.
    next: Option<u64>,
    /// Lines that are to come over the wire, together.
    awaited: Vec<Awaited>,
    pieces: Vec<(Piece, bool)>,
    /// Ticks that went into bringing lines.
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
    /// After `at` was missed and its line has come: looks for what the thread,
    /// whose registers these are, will miss next, and brings it.
    pub(super) fn run_ahead(
        &self,
        space: &AddressSpace,
        registers: &Registers,
        at: UserAddr,
        me: &mut Scratch,
        split: &mut Split,
        counters: &Counters,
    ) {
        let Some(mut runner) = me.runner.take() else {
            return;
        };
        let most = runner.sites.missed(registers.rip, self.line_of(at).0);
        if most > 0 {
            let (begun, wire) = (clock::now(), split.wire);
            // A line on its own would cost a trap, and what this one took on the
            // wire.
            let saves = self.trap.load(Ordering::Relaxed) + wire;
            let mut world = Ahead {
                memory: self,
                space,
                me,
                split,
                counters,
                here: [0; KNOWN],
                found: 0,
                brought: 0,
                most,
                next: None,
                awaited: Vec::new(),
                pieces: Vec::new(),
                bringing: 0,
            };
            runner.run(registers, saves, &mut world);
            let followed = clock::now().since(begun);
            world.fetch_awaited();
            let (found, brought, next) = (world.found, world.brought, world.next);
            let follow = followed.saturating_sub(world.bringing);
            let wire = split.wire - wire;
            split.follow += follow;
            let outcome = Outcome {
                found,
                next,
                took: follow + wire,
                saves,
            };
            runner.sites.ran(registers.rip, &outcome);
            me.run.clear();
            me.brought.1 += brought;
        }
        me.runner = Some(runner);
    }
}

impl Ahead<'_> {
    fn touch_line(&mut self, line: LineNo, at: UserAddr, store: bool) -> Touch {
        let known = (line.0 % KNOWN as u64) as usize;
        if self.here[known] | u64::from(!store) == 2 * line.0 + 1 {
            return Touch::Here;
        }
        let state = self.memory.cache.look(line);
        if state.is_none() && self.awaited.iter().any(|a| a.line == line) {
            return Touch::Away;
        }
        let dirty = match state {
            Some(dirty) if dirty || !store => dirty,
            _ if self.found == self.most => {
                self.next = Some(line.0);
                return Touch::Stop;
            }
            Some(_) if !self.may_store(line, at) => false,
            Some(_) => {
                if !self.memory.let_writes_through(self.space, line) {
                    return Touch::Stop;
                }
                self.memory.note_store(at);
                self.found += 1;
                true
            }
            None => {
                let before = clock::now();
                let brought = self.bring(line, at, store);
                self.bringing += clock::now().since(before);
                self.found += 1;
                match brought {
                    Brought::Here { dirty } => dirty,
                    Brought::Awaited => return Touch::Away,
                    Brought::No => {
                        self.found -= 1;
                        return Touch::Stop;
                    }
                }
            }
        };
        self.here[known] = 2 * line.0 + u64::from(dirty);
        Touch::Here
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
            memory.plan(space, at, access, self.me),
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
            self.awaited.push(Awaited { line, slot, write });
            let pieces = self.me.pieces.drain(..);
            self.pieces.extend(pieces.map(|piece| (piece, write)));
            return Brought::Awaited;
        }
        match memory.fill((access, write), self.me, self.split, self.counters) {
            Some(dirty) => {
                self.counters.followed(1);
                self.brought += 1;
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
        let before = clock::now();
        self.me.pieces.clear();
        self.me
            .pieces
            .extend(self.pieces.iter().map(|(piece, _)| *piece));
        let fetched = self.memory.gather(self.me, self.counters);
        let arrived = clock::now();
        self.split.wire += arrived.since(before);
        let Some(fetched) = fetched else {
            // A lease was revoked: who misses them will see to it.
            for line in self.awaited.drain(..) {
                self.memory.cache.abandon(line.slot);
            }
            return;
        };
        self.counters.fetched(fetched);
        let mut rest = &self.me.buffer[..];
        for (piece, write) in &self.pieces {
            let (bytes, behind) = rest.split_at(piece.len as usize);
            self.memory.install(piece.start, bytes, !write);
            rest = behind;
        }
        for (piece, _) in &self.pieces {
            let lines = piece.start..piece.start + piece.len;
            for page in lines.step_by(PAGE_SIZE as usize) {
                self.memory.pages.touch(UserAddr(page), false);
            }
        }
        for line in self.awaited.drain(..) {
            self.counters.followed(1);
            self.brought += 1;
            self.memory.cache.finish_fetch(line.slot, line.write);
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

    fn touch(&mut self, at: u64, size: u64, store: bool) -> Touch {
        let last = at.saturating_add(size.max(1) - 1);
        if at < USER_MIN.0 || last >= USER_MAX.0 {
            return Touch::Away;
        }
        let (from, to) = (
            self.memory.line_of(UserAddr(at)),
            self.memory.line_of(UserAddr(last)),
        );
        let mut touched = self.touch_line(from, UserAddr(at), store);
        if touched == Touch::Here && from != to {
            touched = self.touch_line(to, UserAddr(last), store);
        }
        touched
    }

    fn load(&mut self, at: u64, size: u64) -> Option<u64> {
        if at % PAGE_SIZE <= PAGE_SIZE - 8 {
            // SAFETY: it was touched, so it is in the program's window.
            return unsafe { trap::load64(at) };
        }
        let mut bytes = [0; 8];
        // SAFETY: as above; the bytes are ours.
        let left = unsafe { trap::copy(bytes.as_mut_ptr() as u64, at, size.min(8)) };
        (left == 0).then(|| u64::from_le_bytes(bytes))
    }

    fn found(&self) -> u32 {
        self.found
    }

    fn is_code(&self, rip: u64) -> bool {
        (USER_MIN.0..USER_MAX.0).contains(&rip)
    }
}

/// See [`Scratch::runner`].
pub(super) fn runner(most: u32, wanted: bool) -> Option<Box<RunAhead>> {
    (wanted && most > 0).then(|| Box::new(RunAhead::new(most)))
}
