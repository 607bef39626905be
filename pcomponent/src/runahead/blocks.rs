//! Decoded instructions, kept in blocks.

use super::decode::{LONGEST, Op, decode};
use iced_x86::InstructionInfoFactory;

const BLOCKS: usize = 2048;
/// Instructions of all blocks, and of one.
const OPS: usize = 4096;
const LONGEST_BLOCK: usize = 64;

/// Instructions that are carried out one after the other.
#[derive(Clone, Copy)]
struct Block {
    at: u64,
    first: u32,
    count: u32,
}

/// Decoded instructions, in blocks by the address of the first. What is here may
/// be out of date where code changes: the run ahead gives hints, no more.
pub(super) struct Decoded {
    ops: Vec<Op>,
    /// Two-way associative.
    blocks: Vec<Block>,
    info: InstructionInfoFactory,
}

impl Decoded {
    pub(super) fn new() -> Decoded {
        Decoded {
            ops: Vec::new(),
            blocks: Vec::new(),
            info: InstructionInfoFactory::new(),
        }
    }

    /// The block at `at`, of which `code` reads bytes where it must: how many are
    /// there. Empty: what is there can't be followed.
    #[inline]
    pub(super) fn block(
        &mut self,
        at: u64,
        code: impl FnMut(u64, &mut [u8; LONGEST]) -> usize,
    ) -> &[Op] {
        let at_ways = |n: &usize| self.blocks.get(*n).is_some_and(|block| block.at == at);
        let block = match ways(at).iter().find(|n| at_ways(n)) {
            Some(n) => self.blocks[*n],
            None => self.decode(at, code),
        };
        let first = block.first as usize;
        self.ops
            .get(first..first + block.count as usize)
            .unwrap_or_default()
    }

    #[cold]
    fn decode(&mut self, at: u64, mut code: impl FnMut(u64, &mut [u8; LONGEST]) -> usize) -> Block {
        let none = Block {
            at: 0,
            first: 0,
            count: 0,
        };
        if self.ops.len() + LONGEST_BLOCK > OPS || self.blocks.is_empty() {
            self.ops.clear();
            self.blocks.clear();
            self.blocks.resize(BLOCKS, none);
        }
        let first = self.ops.len();
        let mut next = at;
        while self.ops.len() < first + LONGEST_BLOCK {
            let mut bytes = [0; LONGEST];
            let len = code(next, &mut bytes);
            let Some(op) = decode(next, &bytes[..len], &mut self.info) else {
                break;
            };
            let ends = op.kind.branches();
            next = op.next();
            self.ops.push(op);
            if ends {
                break;
            }
        }
        if self.ops.len() == first {
            return none;
        }
        let block = Block {
            at,
            first: first as u32,
            count: (self.ops.len() - first) as u32,
        };
        // Of two, the one that was decoded first goes.
        let [a, b] = ways(at);
        let older = if self.blocks[a].first <= self.blocks[b].first {
            a
        } else {
            b
        };
        self.blocks[older] = block;
        block
    }
}

/// Where the block at `at` may be.
#[inline]
fn ways(at: u64) -> [usize; 2] {
    let n = (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % BLOCKS;
    [n, n ^ 1]
}
