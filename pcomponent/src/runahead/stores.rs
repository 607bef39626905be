//! What the run ahead has stored: kept beside memory, and forgotten with it.

use super::flags::mask;

const WORDS: usize = 64;

#[derive(Clone, Copy, Default)]
struct Word {
    /// Address / 8, plus one; 0: free.
    key: u64,
    data: u64,
    /// Masks of its bytes: those that were stored, and of them those whose value
    /// is not known.
    stored: u64,
    unknown: u64,
}

/// A hash table of words, linear probing.
pub(super) struct Stores {
    words: [Word; WORDS],
    used: Vec<u8>,
    /// A bit for each value of the last bits of the words that are in it.
    filter: u64,
}

/// An access cut where words end: word, bits into it, bits into the value, bytes.
fn parts(at: u64, size: u64) -> [(u64, u64, u64, u64); 2] {
    let first = size.min(8 - at % 8);
    [
        (at / 8, at % 8 * 8, 0, first),
        (at.wrapping_add(first) / 8, 0, first * 8, size - first),
    ]
}

impl Stores {
    pub(super) fn new() -> Stores {
        Stores {
            words: [Word::default(); WORDS],
            used: Vec::with_capacity(WORDS),
            filter: 0,
        }
    }

    pub(super) fn clear(&mut self) {
        self.filter = 0;
        for n in self.used.drain(..) {
            self.words[usize::from(n)] = Word::default();
        }
    }

    fn slot(&self, word: u64) -> usize {
        let key = word + 1;
        let mut n = (word ^ (word >> 6)) as usize % WORDS;
        while self.words[n].key != 0 && self.words[n].key != key {
            n = (n + 1) % WORDS;
        }
        n
    }

    /// Stores the low `size` bytes (1 to 8) of a value, which may not be known,
    /// at `at`. False: there is no room for more.
    pub(super) fn put(&mut self, at: u64, size: u64, value: Option<u64>) -> bool {
        for (number, into, from, len) in parts(at, size) {
            if len == 0 {
                break;
            }
            let slot = self.slot(number);
            let word = &mut self.words[slot];
            if word.key == 0 {
                // One stays free: probing ends there.
                if self.used.len() == WORDS - 1 {
                    return false;
                }
                word.key = number + 1;
                self.filter |= 1 << (number % 64);
                self.used.push(slot as u8);
            }
            let mask = mask(len as u8) << into;
            word.stored |= mask;
            match value {
                Some(value) => {
                    word.data = word.data & !mask | (value >> from) << into & mask;
                    word.unknown &= !mask;
                }
                None => word.unknown |= mask,
            }
        }
        true
    }

    /// Whether none of the `size` bytes (1 to 8) at `at` was stored.
    #[inline]
    pub(super) fn lacks(&self, at: u64, size: u64) -> bool {
        let last = at.wrapping_add(size - 1);
        let words = 1 << (at / 8 % 64) | 1 << (last / 8 % 64);
        self.filter & words == 0
    }

    /// The `size` bytes (1 to 8) at `at`, which are `memory` where they were not
    /// stored; `None` if one of them is not known.
    pub(super) fn get(&self, at: u64, size: u64, memory: Option<u64>) -> Option<u64> {
        let (mut value, mut have) = (0, 0);
        for (number, from, into, len) in parts(at, size) {
            if len == 0 {
                break;
            }
            let word = self.words[self.slot(number)];
            let mask = mask(len as u8);
            if (word.unknown >> from) & mask != 0 {
                return None;
            }
            let stored = (word.stored >> from) & mask;
            value |= ((word.data >> from) & stored) << into;
            have |= stored << into;
        }
        let whole = mask(size as u8);
        if have == whole {
            return Some(value);
        }
        Some(memory? & whole & !have | value)
    }
}
