//! Strict accounting: memory that was promised is always there.
//!
//! Processes are promised extents, up to the capacity but for a small part
//! that is kept for cached files, so that programs can be read whatever
//! processes reserve. Cached files use what is not promised and give way.

use proto::addr::EXTENT_SIZE;
use proto::{Errno, ProcessId};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a process has of an extent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hold {
    Promised,
    Committed,
}

/// What [`Ledger::commit`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Committed {
    /// It had been promised and is committed from now on.
    Promised,
    /// Nobody had asked for it: promised and committed in one.
    Unpromised,
    /// It was committed before.
    Already,
}

/// Who is promised what, and what cached files take. Sizes are bytes.
#[derive(Debug)]
pub struct Ledger {
    capacity: u64,
    /// Kept for files.
    kept: u64,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    holds: HashMap<ProcessId, BTreeMap<u64, Hold>>,
    promised: u64,
    committed: u64,
    files: u64,
}

/// Sums of a [`Ledger`], bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sums {
    /// Promised to processes.
    pub promised: u64,
    /// Of that, committed.
    pub committed: u64,
    /// Taken by cached files.
    pub files: u64,
}

/// What is kept for cached files: a sixteenth, between two extents (which any
/// single request can do with) and 32 MiB, and never more than a quarter.
fn kept_for_files(capacity: u64) -> u64 {
    (capacity / 16)
        .clamp(2 * EXTENT_SIZE, 32 << 20)
        .min(capacity / 4)
}

impl Ledger {
    /// For `capacity` bytes.
    #[must_use]
    pub fn new(capacity: u64) -> Ledger {
        let (kept, books) = (kept_for_files(capacity), Mutex::default());
        Ledger {
            capacity,
            kept,
            books,
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes offered.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// What is taken now.
    #[must_use]
    pub fn sums(&self) -> Sums {
        let books = self.books();
        Sums {
            promised: books.promised,
            committed: books.committed,
            files: books.files,
        }
    }

    /// Processes that are promised anything.
    #[must_use]
    pub fn processes(&self) -> Vec<ProcessId> {
        self.books().holds.keys().copied().collect()
    }

    /// Whether `process` is promised anything.
    #[must_use]
    pub fn holds_any(&self, process: ProcessId) -> bool {
        self.books().holds.contains_key(&process)
    }

    /// Promises `extents` to `process`, all or none; those that it has count
    /// as promised. Gives the bytes that cached files must now give up.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn promise(&self, process: ProcessId, extents: &[u64]) -> Result<u64, Errno> {
        self.promise_in(&mut self.books(), process, extents)
    }

    fn promise_in(
        &self,
        books: &mut Books,
        process: ProcessId,
        extents: &[u64],
    ) -> Result<u64, Errno> {
        let held = books.holds.get(&process);
        let is_new = |n: &&u64| !held.is_some_and(|h| h.contains_key(n));
        let new: BTreeMap<u64, Hold> = extents
            .iter()
            .filter(is_new)
            .map(|n| (*n, Hold::Promised))
            .collect();
        let bytes = (new.len() as u64)
            .checked_mul(EXTENT_SIZE)
            .ok_or(Errno::ENOMEM)?;
        if bytes > (self.capacity - self.kept).saturating_sub(books.promised) {
            return Err(Errno::ENOMEM);
        }
        if !new.is_empty() {
            books.promised += bytes;
            books.holds.entry(process).or_default().extend(new);
        }
        Ok((books.promised + books.files).saturating_sub(self.capacity))
    }

    /// Takes promises back; gives those of `extents` that were committed.
    pub fn release(&self, process: ProcessId, extents: &[u64]) -> Vec<u64> {
        let mut books = self.books();
        let Some(holds) = books.holds.get_mut(&process) else {
            return Vec::new();
        };
        let gone: Vec<(u64, Hold)> = extents
            .iter()
            .filter_map(|n| Some((*n, holds.remove(n)?)))
            .collect();
        if holds.is_empty() {
            books.holds.remove(&process);
        }
        books.forget(&gone)
    }

    /// Takes back all that `process` has; gives what was committed.
    pub fn end(&self, process: ProcessId) -> Vec<u64> {
        let mut books = self.books();
        let gone: Vec<(u64, Hold)> = books.holds.remove(&process).into_iter().flatten().collect();
        books.forget(&gone)
    }

    /// Commits an extent, which is promised now if it was not before. Gives
    /// what it found and the bytes that cached files must now give up.
    ///
    /// # Errors
    /// `ENOMEM`, never for what was promised.
    pub fn commit(&self, process: ProcessId, extent: u64) -> Result<(Committed, u64), Errno> {
        let mut books = self.books();
        let before = books
            .holds
            .get(&process)
            .and_then(|h| h.get(&extent))
            .copied();
        let found = match before {
            Some(Hold::Committed) => return Ok((Committed::Already, 0)),
            Some(Hold::Promised) => (Committed::Promised, 0),
            None => {
                let over = self.promise_in(&mut books, process, &[extent])?;
                (Committed::Unpromised, over)
            }
        };
        books
            .holds
            .entry(process)
            .or_default()
            .insert(extent, Hold::Committed);
        books.committed += EXTENT_SIZE;
        Ok(found)
    }

    /// Makes a committed extent a promise again; whether it was committed.
    pub fn decommit(&self, process: ProcessId, extent: u64) -> bool {
        let mut books = self.books();
        let hold = books
            .holds
            .get_mut(&process)
            .and_then(|h| h.get_mut(&extent));
        let Some(hold) = hold.filter(|h| **h == Hold::Committed) else {
            return false;
        };
        *hold = Hold::Promised;
        books.committed -= EXTENT_SIZE;
        true
    }

    /// Whether `process` is promised `extent`.
    #[must_use]
    pub fn is_promised(&self, process: ProcessId, extent: u64) -> bool {
        self.books()
            .holds
            .get(&process)
            .is_some_and(|h| h.contains_key(&extent))
    }

    /// Takes `bytes` for cached files, all or nothing, of what is not promised.
    #[must_use]
    pub fn take(&self, bytes: u64) -> bool {
        let mut books = self.books();
        let free = self
            .capacity
            .saturating_sub(books.promised)
            .saturating_sub(books.files);
        if bytes > free {
            return false;
        }
        books.files += bytes;
        true
    }

    /// Gives back `bytes` of cached files.
    pub fn give(&self, bytes: u64) {
        let mut books = self.books();
        books.files = books.files.saturating_sub(bytes);
    }
}

impl Books {
    fn forget(&mut self, gone: &[(u64, Hold)]) -> Vec<u64> {
        let committed: Vec<u64> = gone
            .iter()
            .filter(|(_, h)| *h == Hold::Committed)
            .map(|(n, _)| *n)
            .collect();
        self.promised -= gone.len() as u64 * EXTENT_SIZE;
        self.committed -= committed.len() as u64 * EXTENT_SIZE;
        committed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[derive(Clone, Debug)]
    enum Op {
        Promise(u64, Vec<u64>),
        Release(u64, Vec<u64>),
        Commit(u64, u64),
        Decommit(u64, u64),
        End(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        let some = || proptest::collection::vec(0..20_u64, 0..8);
        prop_oneof![
            (0..3_u64, some()).prop_map(|(p, e)| Op::Promise(p, e)),
            (0..3_u64, some()).prop_map(|(p, e)| Op::Release(p, e)),
            (0..3_u64, 0..20_u64).prop_map(|(p, e)| Op::Commit(p, e)),
            (0..3_u64, 0..20_u64).prop_map(|(p, e)| Op::Decommit(p, e)),
            (0..3_u64).prop_map(Op::End),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, ..ProptestConfig::default()
        })]

        #[test]
        fn never_promises_more_than_there_is(ops in proptest::collection::vec(op(), 1..60)) {
            let most = 24 - 2;
            let ledger = Ledger::new(24 * EXTENT_SIZE);
            let mut promised: BTreeSet<(u64, u64)> = BTreeSet::new();
            let mut committed: BTreeMap<(u64, u64), ()> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Promise(p, extents) => {
                        let mut after = promised.clone();
                        after.extend(extents.iter().map(|e| (p, *e)));
                        let fits = after.len() <= most;
                        prop_assert_eq!(ledger.promise(ProcessId(p), &extents).is_ok(), fits);
                        if fits {
                            promised = after;
                        }
                    }
                    Op::Release(p, extents) => {
                        let mut expected = Vec::new();
                        for e in &extents {
                            promised.remove(&(p, *e));
                            expected.extend(committed.remove(&(p, *e)).map(|()| *e));
                        }
                        prop_assert_eq!(ledger.release(ProcessId(p), &extents), expected);
                    }
                    Op::Commit(p, e) => {
                        let had = promised.contains(&(p, e));
                        let result = ledger.commit(ProcessId(p), e);
                        prop_assert_eq!(result.is_ok(), had || promised.len() < most);
                        if result.is_ok() {
                            promised.insert((p, e));
                            let already = committed.insert((p, e), ()).is_some();
                            let found = result.map(|(found, _)| found);
                            prop_assert_eq!(found == Ok(Committed::Already), already);
                        }
                    }
                    Op::Decommit(p, e) => {
                        let was = committed.remove(&(p, e)).is_some();
                        prop_assert_eq!(ledger.decommit(ProcessId(p), e), was);
                    }
                    Op::End(p) => {
                        let of = |key: &(u64, u64)| key.0 == p;
                        let expected: Vec<u64> =
                            committed.keys().filter(|k| of(k)).map(|k| k.1).collect();
                        promised.retain(|k| !of(k));
                        committed.retain(|k, ()| !of(k));
                        prop_assert_eq!(ledger.end(ProcessId(p)), expected);
                    }
                }
                let sums = ledger.sums();
                prop_assert_eq!(sums.promised, promised.len() as u64 * EXTENT_SIZE);
                prop_assert_eq!(sums.committed, committed.len() as u64 * EXTENT_SIZE);
            }
        }
    }

    #[test]
    fn files_take_what_is_not_promised_and_give_way() {
        let ledger = Ledger::new(64 * EXTENT_SIZE);
        assert!(ledger.take(60 * EXTENT_SIZE) && !ledger.take(5 * EXTENT_SIZE));
        let extents: Vec<u64> = (0..10).collect();
        assert_eq!(ledger.promise(ProcessId(1), &extents), Ok(6 * EXTENT_SIZE));
        assert!(!ledger.take(1));
        ledger.give(6 * EXTENT_SIZE);
        assert_eq!(
            ledger.promise(ProcessId(1), &extents),
            Ok(0),
            "they are its own already"
        );
        let all: Vec<u64> = (0..64).collect();
        assert_eq!(
            ledger.promise(ProcessId(1), &all),
            Err(Errno::ENOMEM),
            "some is kept"
        );
        assert!(ledger.promise(ProcessId(1), &all[..60]).is_ok());
    }
}
