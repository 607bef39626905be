//! Reading a file's data where the memory component has it, without a message.
//!
//! The storage buffer cache keeps files in extents, and leases of extents are
//! what mappings of files are read under. On shared memory without an emulated
//! network the frames behind a lease are mapped here: a read(2) under one is a
//! copy. The lease is what makes it right: whoever cuts the file, or finds
//! another version of it at storage, revokes it first, and what other processes
//! write goes to the same frames.
//!
//! Leases are asked for when a file has been read by message a few times, or much
//! of it is read at once, for extents that are read; those behind them come with
//! the answer where the memory component has them. What lies past the end of the
//! file as the lease knows it is read by message.
//!
//! A large read goes from the frames to the program's pages, and absent lines of
//! these are installed from there ([`Memory::copy_out_raw`]).
//!
//! [`Memory::copy_out_raw`]: crate::memory::Memory::copy_out_raw

use super::RemoteFile;
use super::ahead::Ahead;
use crate::kernel::Kernel;
use crate::memory::HeldFile;
use abi_linux::kernel::UserMemory;
use host::trap;
use proto::UserAddr;
use proto::addr::{EXTENT_SIZE, RemoteAddr, USER_MAX, USER_MIN};
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// So many messages come before a lease, and between two that are asked for
/// again: a file that grows is read past its lease all the time.
const FETCHES: u32 = 4;
/// One read in so many goes by message: the memory component learns by messages
/// what is in use, and keeps that.
const BY_MESSAGE: u32 = 1024;
/// What a large read counts among them.
const LARGE: u32 = 64;
/// So many bytes take longer to come by message than a lease does.
const WORTH_A_LEASE: u64 = 256 << 10;

/// What is known of a file's windows.
#[derive(Debug, Default)]
pub(super) struct Window {
    fetches: AtomicU32,
    reads: AtomicU32,
    /// Its frames are mapped here.
    open: AtomicBool,
    /// They can't be.
    none: AtomicBool,
}

impl Window {
    /// Data came by message.
    pub(super) fn fetched(&self) {
        self.fetches.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a message's turn has come with a read that counts `weight`.
    fn is_turn(&self, weight: u32) -> bool {
        let before = self.reads.fetch_add(weight, Ordering::Relaxed);
        before / BY_MESSAGE != before.wrapping_add(weight) / BY_MESSAGE
    }

    fn is_wanted(&self) -> bool {
        let fetches = self.fetches.load(Ordering::Relaxed);
        !self.none.load(Ordering::Relaxed) && fetches >= FETCHES && fetches.is_multiple_of(FETCHES)
    }
}

/// Bytes of zeros, for what was copied under a lease that is void.
static ZEROS: [u8; 4096] = [0; 4096];

impl RemoteFile {
    /// Whether its data may be looked at without telling anybody.
    fn is_plain(&self) -> bool {
        self.told.load(Ordering::Acquire) && !self.state.is_mapped_shared()
    }

    fn try_ahead(&self) -> Option<MutexGuard<'_, Ahead>> {
        self.ahead.try_lock().ok()
    }
}

impl Kernel<'_> {
    /// See [`abi_linux::kernel::FileOps::read_now`].
    pub(super) fn read_at_once(
        &self,
        file: &RemoteFile,
        offset: u64,
        to: UserAddr,
        len: usize,
    ) -> bool {
        let inside = to >= USER_MIN
            && to
                .0
                .checked_add(len as u64)
                .is_some_and(|e| e <= USER_MAX.0);
        if !inside || self.process.memory.shares_files() || !file.is_plain() {
            return false;
        }
        if self.copy_window(file, offset, to.0, len) {
            return true;
        }
        let version = file.state.version();
        let Some(mut ahead) = file.try_ahead() else {
            return false;
        };
        let Some(bytes) = ahead.buffered(version, offset, len) else {
            return false;
        };
        // SAFETY: the bytes are ours; the other side is in the program's window,
        // where a fault gives a short count.
        let left = unsafe { trap::copy(to.0, bytes.as_ptr() as u64, len as u64) };
        if left == 0 {
            ahead.used(offset + len as u64);
        }
        left == 0
    }

    /// Reads all of `dst` from the frames, or nothing.
    pub(super) fn read_window(&self, file: &RemoteFile, at: u64, dst: &mut [u8]) -> Option<usize> {
        let len = dst.len();
        let to = dst.as_mut_ptr() as u64;
        (len > 0 && file.is_plain() && self.copy_window(file, at, to, len)).then_some(len)
    }

    /// Copies to `to`, memory of ours or in the program's window. False: not all
    /// of it could be.
    fn copy_window(&self, file: &RemoteFile, at: u64, to: u64, len: usize) -> bool {
        let (inside, size) = (at % EXTENT_SIZE, len as u64);
        if !file.window.open.load(Ordering::Relaxed) {
            return false;
        }
        let remote = self.process.memory.remote();
        let Some(held) = remote.held_file(&file.file, at / EXTENT_SIZE) else {
            return false;
        };
        if inside + size > held.lease.valid {
            return false;
        }
        if file.window.is_turn(1) {
            return false;
        }
        let from = place(&held, inside);
        let (mut left, mut valid) = (size, false);
        let sound = remote.transfer(held.node, |connection| {
            if let Some(src) = connection.mapped(from, len) {
                // SAFETY: the fabric keeps the frames mapped; the other side is
                // ours or in the program's window, where a fault gives a short
                // count.
                left = unsafe { trap::copy(to, src as u64, size) };
                valid = connection.still_valid(from);
            }
            Ok(())
        });
        if !sound || !valid {
            clear(to, size - left);
            // The next read by message asks for another lease.
            remote.forget_file(file.storage(), file.id());
        }
        if sound && valid {
            self.task.counters.read_from(held.node, size - left);
        }
        sound && valid && left == 0
    }

    /// Reads what one extent has of `len` bytes at `at` from its frames to the
    /// program's memory, absent lines included; how much that was. Where there is
    /// much to read a lease is asked for at once.
    pub(super) fn read_frames(
        &self,
        file: &RemoteFile,
        at: u64,
        to: UserAddr,
        len: usize,
    ) -> usize {
        if file.window.none.load(Ordering::Relaxed) || !file.is_plain() {
            return 0;
        }
        let remote = self.process.memory.remote();
        let Some(held) = self.lease_to_read(file, at, len) else {
            return 0;
        };
        let inside = at % EXTENT_SIZE;
        let here = held.lease.valid.saturating_sub(inside);
        let len = len.min(usize::try_from(here).unwrap_or(usize::MAX));
        if len == 0 {
            return 0;
        }
        let from = place(&held, inside);
        let (mut done, mut maps, mut valid) = (0, true, false);
        let sound = remote.transfer(held.node, |connection| {
            maps = connection.maps();
            if let Some(src) = connection.mapped(from, len) {
                // SAFETY: the fabric keeps the frames mapped as long as the
                // connection, which is ours until this returns.
                done = unsafe { self.copy_out_raw(to, src, len) };
                valid = connection.still_valid(from);
            }
            Ok(())
        });
        if sound && valid {
            self.task.counters.read_from(held.node, done as u64);
            return done;
        }
        if sound && !maps {
            file.window.none.store(true, Ordering::Relaxed);
            return 0;
        }
        // Not to be seen, and not to be gone: it may have been evicted.
        for at in (0..done).step_by(ZEROS.len()) {
            let part = (done - at).min(ZEROS.len());
            self.copy_out(UserAddr(to.0 + at as u64), &ZEROS[..part]);
        }
        remote.forget_file(file.storage(), file.id());
        0
    }

    /// The lease for a large read. One that is held is asked for again now and
    /// then; one that is not, where the file goes on far enough for it.
    fn lease_to_read(&self, file: &RemoteFile, at: u64, len: usize) -> Option<HeldFile> {
        let remote = self.process.memory.remote();
        let index = at / EXTENT_SIZE;
        let lease = match remote.held_file(&file.file, index) {
            Some(held) if !file.window.is_turn(LARGE) => return Some(held),
            Some(_) => remote.renew_file_lease(&file.file, index, false),
            None => {
                let size = file.attr_at_open().size;
                let here = size.saturating_sub(at).min(len as u64);
                if here < WORTH_A_LEASE {
                    return None;
                }
                remote.file_lease(&file.file, index, false)
            }
        };
        lease.ok()
    }

    /// After a read of `done` bytes by message: makes the next one there need none.
    pub(super) fn open_window(&self, file: &RemoteFile, at: u64, done: usize) {
        if done == 0 || !file.window.is_wanted() || !file.is_plain() {
            return;
        }
        let remote = self.process.memory.remote();
        let index = at / EXTENT_SIZE;
        let end = at % EXTENT_SIZE + done as u64;
        let lease = match remote.held_file(&file.file, index) {
            Some(held) if end.min(EXTENT_SIZE) <= held.lease.valid => return,
            // It has grown.
            Some(_) => remote.renew_file_lease(&file.file, index, false),
            None => remote.file_lease(&file.file, index, false),
        };
        let Ok(held) = lease else {
            // Not for this file: it is not asked for at every read.
            file.window.none.store(true, Ordering::Relaxed);
            return;
        };
        let (mut mapped, mut maps) = (false, true);
        let sound = remote.transfer(held.node, |connection| {
            maps = connection.maps();
            mapped = connection.mapped(place(&held, 0), 1).is_some();
            Ok(())
        });
        if sound && mapped {
            file.window.open.store(true, Ordering::Relaxed);
        } else if sound && !maps {
            file.window.none.store(true, Ordering::Relaxed);
        }
    }
}

fn place(held: &HeldFile, inside: u64) -> RemoteAddr {
    RemoteAddr {
        key: held.lease.lease.key,
        offset: inside,
    }
}

/// What was copied is not to be seen: it may be another file's by now.
fn clear(to: u64, len: u64) {
    let mut at = to;
    while at < to + len {
        let part = (to + len - at).min(ZEROS.len() as u64);
        // SAFETY: as for the copy that is undone.
        let _ = unsafe { trap::copy(at, ZEROS.as_ptr() as u64, part) };
        at += part;
    }
}
