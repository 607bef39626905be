//! A bounded cache of open descriptors, by inode and access. It saves opening
//! a file at every request, and it keeps files reachable that lost their name:
//! those are pinned.

use crate::core::handle::FileKey;
use std::collections::{BTreeMap, HashMap};

/// What a descriptor is good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Naming the file only (`O_PATH`), or not caring.
    Name,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Both.
    Both,
}

const ALL: [Access; 4] = [Access::Both, Access::Read, Access::Write, Access::Name];

impl Access {
    /// Whether a descriptor with this access serves where `need` is asked.
    #[must_use]
    pub fn serves(self, need: Access) -> bool {
        need == Access::Name || self == need || self == Access::Both
    }
    fn slot(self) -> usize {
        self as usize
    }
}

struct Entry<T> {
    slots: [Option<T>; 4],
    /// Position in the order of use.
    stamp: u64,
    /// Used since the last sweep.
    fresh: bool,
    pinned: bool,
}

impl<T> Entry<T> {
    fn len(&self) -> usize {
        self.slots.iter().flatten().count()
    }
}

/// The cache. `T` is a shared descriptor; what falls out is handed to the
/// caller, to be closed where closing may take its time.
pub struct Descriptors<T> {
    entries: HashMap<FileKey, Entry<T>>,
    /// Unpinned entries by last use.
    order: BTreeMap<u64, FileKey>,
    capacity: usize,
    open: usize,
    clock: u64,
}

impl<T: Clone> Descriptors<T> {
    /// For at most `capacity` descriptors, pinned ones not counted out.
    #[must_use]
    pub fn new(capacity: usize) -> Descriptors<T> {
        Descriptors {
            entries: HashMap::new(),
            order: BTreeMap::new(),
            capacity: capacity.max(1),
            open: 0,
            clock: 0,
        }
    }

    /// A descriptor of `key` that is good for `need`.
    pub fn get(&mut self, key: FileKey, need: Access) -> Option<T> {
        self.touch(key);
        let entry = self.entries.get(&key)?;
        ALL.iter()
            .filter(|access| access.serves(need))
            .find_map(|access| entry.slots[access.slot()].clone())
    }

    /// Adds a descriptor; returns what fell out: the one it replaces, and the
    /// least recently used ones beyond the capacity.
    #[must_use]
    pub fn insert(&mut self, key: FileKey, access: Access, fd: T) -> Vec<T> {
        self.touch(key);
        let clock = self.next();
        let entry = self.entries.entry(key).or_insert_with(|| Entry {
            slots: [None, None, None, None],
            stamp: clock,
            fresh: true,
            pinned: false,
        });
        if !entry.pinned {
            self.order.insert(entry.stamp, key);
        }
        let mut out: Vec<T> = entry.slots[access.slot()].replace(fd).into_iter().collect();
        self.open += 1 - out.len();
        while self.open > self.capacity {
            let Some(oldest) = self.order.values().find(|k| **k != key).copied() else {
                break;
            };
            out.extend(self.remove(oldest));
        }
        out
    }

    /// Keeps `key`'s descriptors until [`Descriptors::remove`]. False where
    /// none is open, or the pinned ones would fill the cache.
    #[must_use]
    pub fn pin(&mut self, key: FileKey) -> bool {
        if self.pinned() >= self.capacity / 2 && !self.is_pinned(key) {
            return false;
        }
        let Some(entry) = self.entries.get_mut(&key) else {
            return false;
        };
        entry.pinned = true;
        self.order.remove(&entry.stamp);
        true
    }

    /// Whether `key` is pinned.
    #[must_use]
    pub fn is_pinned(&self, key: FileKey) -> bool {
        self.entries.get(&key).is_some_and(|entry| entry.pinned)
    }

    /// How many files are pinned.
    #[must_use]
    pub fn pinned(&self) -> usize {
        self.entries.len() - self.order.len()
    }

    /// Forgets `key`.
    #[must_use]
    pub fn remove(&mut self, key: FileKey) -> Vec<T> {
        let Some(entry) = self.entries.remove(&key) else {
            return Vec::new();
        };
        self.order.remove(&entry.stamp);
        self.open -= entry.len();
        entry.slots.into_iter().flatten().collect()
    }

    /// Forgets what was not used since the last sweep, pinned files excepted.
    #[must_use]
    pub fn sweep(&mut self) -> Vec<T> {
        let mut idle = Vec::new();
        for (key, entry) in &mut self.entries {
            if !std::mem::take(&mut entry.fresh) && !entry.pinned {
                idle.push(*key);
            }
        }
        idle.into_iter().flat_map(|key| self.remove(key)).collect()
    }

    fn next(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn touch(&mut self, key: FileKey) {
        let clock = self.next();
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        entry.fresh = true;
        if !entry.pinned {
            self.order.remove(&entry.stamp);
            entry.stamp = clock;
            self.order.insert(clock, key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::store::FileId;
    use std::rc::Rc;

    fn key(ino: u64) -> FileKey {
        FileKey {
            id: FileId { dev: 1, ino },
            born: (0, 0),
        }
    }

    #[test]
    fn a_descriptor_serves_what_it_is_good_for() {
        let mut cache = Descriptors::new(8);
        assert!(cache.insert(key(1), Access::Read, 'r').is_empty());
        assert_eq!(cache.get(key(1), Access::Name), Some('r'));
        assert_eq!(cache.get(key(1), Access::Read), Some('r'));
        assert_eq!(cache.get(key(1), Access::Write), None);
        assert!(cache.insert(key(1), Access::Both, 'b').is_empty());
        assert_eq!(cache.get(key(1), Access::Write), Some('b'));
        assert_eq!(cache.insert(key(1), Access::Both, 'c'), ['b']);
        assert_eq!(cache.remove(key(1)).len(), 2);
        assert_eq!(cache.get(key(1), Access::Name), None);
    }

    #[test]
    fn the_least_recently_used_goes_and_the_pinned_stays() {
        let mut cache = Descriptors::new(4);
        for ino in 1..=4 {
            assert!(cache.insert(key(ino), Access::Read, ino).is_empty());
        }
        assert!(cache.pin(key(1)));
        assert!(cache.get(key(2), Access::Read).is_some());
        assert_eq!(cache.insert(key(5), Access::Read, 5), [3]);
        assert_eq!(cache.insert(key(6), Access::Read, 6), [4]);
        assert_eq!(cache.insert(key(7), Access::Read, 7), [2]);
        assert_eq!(cache.get(key(1), Access::Read), Some(1));
    }

    #[test]
    fn pins_are_bounded() {
        let mut cache = Descriptors::new(4);
        for ino in 1..=3 {
            assert!(cache.insert(key(ino), Access::Read, ino).is_empty());
        }
        assert!(cache.pin(key(1)) && cache.pin(key(2)) && cache.pin(key(2)));
        assert!(!cache.pin(key(3)));
        assert!(!cache.pin(key(9)));
        assert_eq!(cache.remove(key(1)), [1]);
        assert!(cache.pin(key(3)));
    }

    #[test]
    fn a_sweep_takes_what_was_idle_since_the_last() {
        let mut cache = Descriptors::new(4);
        for ino in 1..=3 {
            assert!(cache.insert(key(ino), Access::Read, ino).is_empty());
        }
        assert!(cache.pin(key(3)));
        assert!(cache.sweep().is_empty());
        assert!(cache.get(key(1), Access::Read).is_some());
        assert_eq!(cache.sweep(), [2]);
        assert_eq!(cache.sweep(), [1]);
        assert!(cache.sweep().is_empty());
    }

    #[derive(Clone, Debug)]
    enum Op {
        Get(u64, usize),
        Insert(u64, usize),
        Pin(u64),
        Remove(u64),
        Sweep,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0..8_u64, 0..4_usize).prop_map(|(k, a)| Op::Get(k, a)),
            (0..8_u64, 0..4_usize).prop_map(|(k, a)| Op::Insert(k, a)),
            (0..8_u64).prop_map(Op::Pin),
            (0..8_u64).prop_map(Op::Remove),
            Just(Op::Sweep),
        ]
    }

    proptest! {
        /// Whatever happens: the bound holds, nothing leaks, the pinned stay.
        #[test]
        fn keeps_its_bound(ops in proptest::collection::vec(op(), 1..80)) {
            let mut cache = Descriptors::new(6);
            let live = Rc::new(());
            let mut pinned = std::collections::HashSet::new();
            for op in ops {
                match op {
                    Op::Get(k, a) => drop(cache.get(key(k), ALL[a])),
                    Op::Insert(k, a) => {
                        drop(cache.insert(key(k), ALL[a], live.clone()));
                        prop_assert!(cache.get(key(k), ALL[a]).is_some());
                    }
                    Op::Pin(k) => {
                        if cache.pin(key(k)) { pinned.insert(k); }
                    }
                    Op::Remove(k) => {
                        drop(cache.remove(key(k)));
                        pinned.remove(&k);
                    }
                    Op::Sweep => drop(cache.sweep()),
                }
                prop_assert_eq!(Rc::strong_count(&live) - 1, cache.open);
                prop_assert!(cache.open <= 6 + 4 * pinned.len());
                prop_assert_eq!(cache.pinned(), pinned.len());
                for k in &pinned {
                    prop_assert!(cache.get(key(*k), Access::Name).is_some());
                }
            }
        }
    }
}
