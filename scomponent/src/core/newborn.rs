//! Names that were made and not yet made durable. fsync(2) of a file promises
//! its data, not the entry in its directory; here a file that was created and
//! synced is there after a crash, so the directories are synced with it.

use crate::core::handle::FileKey;
use std::collections::HashMap;

/// Most names remembered; beyond, the oldest knowledge is replaced by "every
/// parent must be synced".
const MAX: usize = 1 << 16;

/// Which directory must be synced for a file or directory to have a name.
#[derive(Default)]
pub struct Newborn {
    parents: HashMap<FileKey, Vec<u8>>,
    /// Too many to remember: nothing can be said of those not in `parents`.
    overflown: bool,
}

/// What to sync beside a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Parent {
    /// Nothing: the name is as durable as it was.
    Durable,
    /// The directory at this path, relative to the root.
    At(Vec<u8>),
    /// The directory that holds it, wherever that is.
    Unknown,
}

impl Newborn {
    /// A name of `key` was made in the directory at `parent`.
    pub fn handle_made(&mut self, key: FileKey, parent: &[u8]) {
        if self.parents.len() >= MAX {
            self.parents.clear();
            self.overflown = true;
        }
        self.parents.insert(key, parent.to_vec());
    }

    /// What must be synced so that `key` has a durable name.
    #[must_use]
    pub fn parent(&self, key: FileKey) -> Parent {
        match self.parents.get(&key) {
            Some(path) => Parent::At(path.clone()),
            None if self.overflown => Parent::Unknown,
            None => Parent::Durable,
        }
    }

    /// The directory at `parent` was synced with `key`'s name in it. A name
    /// made elsewhere meanwhile still waits.
    pub fn handle_synced(&mut self, key: FileKey, parent: &[u8]) {
        if self.parents.get(&key).is_some_and(|p| p == parent) {
            self.parents.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::store::FileId;

    fn key(ino: u64) -> FileKey {
        FileKey {
            id: FileId { dev: 1, ino },
            born: (0, 0),
        }
    }

    #[test]
    fn a_name_waits_until_its_directory_is_synced() {
        let mut newborn = Newborn::default();
        assert_eq!(newborn.parent(key(1)), Parent::Durable);
        newborn.handle_made(key(1), b"d");
        assert_eq!(newborn.parent(key(1)), Parent::At(b"d".to_vec()));
        newborn.handle_made(key(1), b"e");
        newborn.handle_synced(key(1), b"d");
        assert_eq!(newborn.parent(key(1)), Parent::At(b"e".to_vec()));
        newborn.handle_synced(key(1), b"e");
        assert_eq!(newborn.parent(key(1)), Parent::Durable);
    }

    #[test]
    fn too_many_names_are_never_taken_for_durable() {
        let mut newborn = Newborn::default();
        for ino in 0..=MAX as u64 {
            newborn.handle_made(key(ino), b"d");
        }
        assert!(newborn.parents.len() <= MAX);
        assert_eq!(newborn.parent(key(0)), Parent::Unknown);
        assert_eq!(newborn.parent(key(MAX as u64)), Parent::At(b"d".to_vec()));
    }
}
