//! Decoded instructions, kept in blocks.

use super::decode::{LONGEST, decode};
use super::op::{Op, find_flags};
use iced_x86::InstructionInfoFactory;

const BLOCKS: usize = 2048;
/// Operations of all blocks; of one, which has no more instructions either, and as
/// many more as an instruction has.
const OPS: usize = 8192;
const LONGEST_BLOCK: usize = 64;
const MOST_OPS: usize = 8;

/// Instructions that are carried out one after the other.
#[derive(Clone, Copy)]
struct Place {
    at: u64,
    next: u64,
    first: u32,
    count: u32,
}

/// What was found at an address.
pub(super) struct Block<'a> {
    pub(super) ops: &'a [Op],
    /// Where it goes on if no branch is taken: at the same place, where what is
    /// there can't be followed.
    pub(super) next: u64,
}

/// Decoded instructions, in blocks by the address of the first. What is here may
/// be out of date where code changes: the run ahead gives hints, no more.
pub(super) struct Decoded {
    ops: Vec<Op>,
    /// Two-way associative.
    places: Vec<Place>,
    info: InstructionInfoFactory,
}

impl Decoded {
    pub(super) fn new() -> Decoded {
        Decoded {
            ops: Vec::new(),
            places: Vec::new(),
            info: InstructionInfoFactory::new(),
        }
    }

    /// The block at `at`, of which `code` reads bytes where it must: how many are
    /// there.
    #[inline]
    pub(super) fn block(
        &mut self,
        at: u64,
        code: impl FnMut(u64, &mut [u8; LONGEST]) -> usize,
    ) -> Block<'_> {
        let at_ways = |n: &usize| self.places.get(*n).is_some_and(|place| place.at == at);
        let place = match ways(at).iter().find(|n| at_ways(n)) {
            Some(n) => self.places[*n],
            None => self.decode(at, code),
        };
        let first = place.first as usize;
        let ops = self.ops.get(first..first + place.count as usize);
        Block {
            ops: ops.unwrap_or_default(),
            next: place.next,
        }
    }

    #[cold]
    fn decode(&mut self, at: u64, mut code: impl FnMut(u64, &mut [u8; LONGEST]) -> usize) -> Place {
        let nothing_at = |at| Place {
            at,
            next: at,
            first: 0,
            count: 0,
        };
        if self.ops.len() + LONGEST_BLOCK + MOST_OPS > OPS || self.places.is_empty() {
            self.ops.clear();
            self.places.clear();
            // No address of the program's.
            self.places.resize(BLOCKS, nothing_at(u64::MAX));
        }
        let (first, mut next) = (self.ops.len(), at);
        // Some have no operations.
        for _ in 0..LONGEST_BLOCK {
            if self.ops.len() >= first + LONGEST_BLOCK {
                break;
            }
            let mut bytes = [0; LONGEST];
            let len = code(next, &mut bytes);
            let Some(then) = decode(next, &bytes[..len], &mut self.info, &mut self.ops) else {
                break;
            };
            next = then.next;
            if then.branches {
                break;
            }
        }
        find_flags(&mut self.ops[first..]);
        if next == at {
            return nothing_at(at);
        }
        let place = Place {
            at,
            next,
            first: first as u32,
            count: (self.ops.len() - first) as u32,
        };
        // Of two, the one that was decoded first goes.
        let [a, b] = ways(at);
        let older = if self.places[a].first <= self.places[b].first {
            a
        } else {
            b
        };
        self.places[older] = place;
        place
    }
}

/// Where the block at `at` may be.
#[inline]
fn ways(at: u64) -> [usize; 2] {
    let n = (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % BLOCKS;
    [n, n ^ 1]
}
