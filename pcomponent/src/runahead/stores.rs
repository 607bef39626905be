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

    #[inline]
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
    #[inline]
    pub(super) fn put(&mut self, at: u64, size: u64, value: Option<u64>) -> bool {
        let (into, mask) = (at % 8 * 8, mask(size as u8));
        let (data, unknown) = value.map_or((0, mask), |value| (value & mask, 0));
        if !self.put_word(at / 8, [data << into, mask << into, unknown << into]) {
            return false;
        }
        let first = 64 - into;
        at % 8 + size <= 8
            || self.put_word(
                at.wrapping_add(8) / 8,
                [data >> first, mask >> first, unknown >> first],
            )
    }

    /// Of one word: its data, which bits of it are stored, and which of them are not
    /// known.
    #[inline]
    fn put_word(&mut self, number: u64, [data, stored, unknown]: [u64; 3]) -> bool {
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
        word.data = word.data & !stored | data;
        word.stored |= stored;
        word.unknown = word.unknown & !stored | unknown;
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
    #[inline]
    pub(super) fn get(&self, at: u64, size: u64, memory: Option<u64>) -> Option<u64> {
        let (from, whole) = (at % 8 * 8, mask(size as u8));
        let [mut data, mut stored, mut unknown] = self.word(at / 8).map(|bits| bits >> from);
        if at % 8 + size > 8 {
            let last = self.word(at.wrapping_add(8) / 8);
            let first = 64 - from;
            data |= last[0] << first;
            stored |= last[1] << first;
            unknown |= last[2] << first;
        }
        if unknown & whole != 0 {
            None
        } else if stored & whole == whole {
            Some(data & whole)
        } else {
            Some((memory? & !stored | data & stored) & whole)
        }
    }

    /// As [`Stores::put_word`] has it.
    #[inline]
    fn word(&self, number: u64) -> [u64; 3] {
        let word = &self.words[self.slot(number)];
        [word.data, word.stored, word.unknown]
    }
}
