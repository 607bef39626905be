//! The descriptors that are not the host's own, and what they refer to.
//!
//! The table maps numbers to *open file descriptions* (open(2), NOTES): what
//! dup(2) shares, with one offset and one set of status flags. A number's
//! close-on-exec flag is the host's, on the descriptor that reserves it.
//!
//! Lock order: the table's lock, then nothing. A description's offset lock is
//! held across the transfer that moves it, as Linux holds its own, and never
//! together with the table's.

use crate::consts::{O_ACCMODE, O_APPEND, O_PATH, O_RDONLY, O_WRONLY, S_IFDIR, S_IFMT};
use crate::pseudo::Device;
use proto::Errno;
use proto::store::Attr;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// What a description refers to.
#[derive(Debug)]
pub enum Object<F> {
    /// A file, directory or other object at the storage component.
    Remote(F),
    /// A character device of ours.
    Device(Device),
    /// A file of `/proc` or `/sys`: its content at the time of open(2).
    Text {
        /// The content.
        content: Vec<u8>,
        /// What fstat(2) tells.
        attr: Attr,
    },
    /// A directory of `/proc`, `/sys` or `/dev`.
    PseudoDir {
        /// Names and `DT_*`, as they were at the time of open(2).
        entries: Vec<(Vec<u8>, u8)>,
        /// What fstat(2) tells.
        attr: Attr,
    },
}

/// An open file description.
#[derive(Debug)]
pub struct OpenFile<F> {
    /// What it refers to.
    pub object: Object<F>,
    /// Its absolute path when it was opened.
    pub path: Vec<u8>,
    flags: AtomicU32,
    offset: Mutex<u64>,
}

impl<F> OpenFile<F> {
    /// A new description at offset 0; `flags` are open(2)'s.
    pub fn new(object: Object<F>, path: Vec<u8>, flags: u32) -> OpenFile<F> {
        OpenFile {
            object,
            path,
            flags: AtomicU32::new(flags),
            offset: Mutex::new(0),
        }
    }

    /// Access mode and status flags.
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// `F_SETFL`: the bits of `mask` become those of `flags`.
    pub fn set_flags(&self, flags: u32, mask: u32) {
        let _ = self
            .flags
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| {
                Some((old & !mask) | (flags & mask))
            });
    }

    /// The offset, locked.
    pub fn offset(&self) -> MutexGuard<'_, u64> {
        self.offset.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, unless another thread has it.
    pub fn try_offset(&self) -> Option<MutexGuard<'_, u64>> {
        self.offset.try_lock().ok()
    }

    /// Whether read(2) is permitted.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn check_readable(&self) -> Result<(), Errno> {
        let denied = self.is_path_only() || self.flags() & O_ACCMODE == O_WRONLY;
        if denied { Err(Errno::EBADF) } else { Ok(()) }
    }

    /// Whether write(2) is permitted.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn check_writable(&self) -> Result<(), Errno> {
        let denied = self.is_path_only() || self.flags() & O_ACCMODE == O_RDONLY;
        if denied { Err(Errno::EBADF) } else { Ok(()) }
    }

    /// Whether it was opened with `O_PATH`.
    pub fn is_path_only(&self) -> bool {
        self.flags() & O_PATH != 0
    }

    /// Whether writes go to the end.
    pub fn appends(&self) -> bool {
        self.flags() & O_APPEND != 0
    }

    /// Whether it is a directory of ours.
    pub fn is_pseudo_dir(&self) -> bool {
        matches!(self.object, Object::PseudoDir { .. })
    }
}

/// Whether `mode` (`st_mode`) is a directory's.
#[must_use]
pub fn is_dir(mode: u32) -> bool {
    mode & S_IFMT == S_IFDIR
}

type Map<F> = HashMap<i32, Arc<OpenFile<F>>>;

/// See the module.
#[derive(Debug)]
pub struct FdTable<F> {
    map: RwLock<Map<F>>,
}

impl<F> Default for FdTable<F> {
    fn default() -> Self {
        FdTable {
            map: RwLock::new(HashMap::new()),
        }
    }
}

impl<F> FdTable<F> {
    /// The description that `fd` refers to; `None`: the host's.
    pub fn get(&self, fd: i32) -> Option<Arc<OpenFile<F>>> {
        self.map
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&fd)
            .cloned()
    }

    /// Lets `fd`, which is reserved at the host, refer to `file`.
    pub fn insert(&self, fd: i32, file: Arc<OpenFile<F>>) {
        let replaced = self.change(|map| map.insert(fd, file));
        drop(replaced);
    }

    /// Forgets `fd`, and has `host` give up its number before any other
    /// thread can be handed the same one and enter it here.
    pub fn remove<R>(&self, fd: i32, host: impl FnOnce() -> R) -> (Option<Arc<OpenFile<F>>>, R) {
        self.change(|map| (map.remove(&fd), host()))
    }

    /// dup2(2) and its like: `host` makes `new` at the host; where that
    /// succeeds, it refers to what `old` refers to. Returns what it referred
    /// to before, for the caller to close outside the lock.
    ///
    /// # Errors
    /// What `host` answered.
    pub fn replace(
        &self,
        old: i32,
        new: i32,
        host: impl FnOnce() -> Result<u64, Errno>,
    ) -> Result<Option<Arc<OpenFile<F>>>, Errno> {
        self.change(|map| {
            host()?;
            let file = map.get(&old).cloned();
            Ok(match file {
                Some(file) => map.insert(new, file),
                None => map.remove(&new),
            })
        })
    }

    /// The numbers, in order.
    pub fn numbers(&self) -> Vec<i32> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let mut numbers: Vec<i32> = map.keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    fn change<R>(&self, f: impl FnOnce(&mut Map<F>) -> R) -> R {
        f(&mut self.map.write().unwrap_or_else(PoisonError::into_inner))
    }
}
