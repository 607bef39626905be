//! Copying to and from the program's memory, for system calls. Addresses come
//! from the program and may be anything: a bad one is an error, an absent
//! line is fetched. No lock is held while program memory is touched, but for
//! lines that are installed from what is written to them (`straight`).

use super::{Access, FaultEnd, Memory, Scratch};
use crate::stats::Counters;
use host::trap;
use proto::Errno;
use proto::addr::{PAGE_SIZE, USER_MAX, USER_MIN, UserAddr};

/// Most bytes that are copied before absent lines are looked for again.
const LONGEST: u64 = 64 << 10;

impl Memory {
    /// Copies from the program; returns how many bytes could be copied.
    pub(crate) fn copy_in(
        &self,
        at: UserAddr,
        dst: &mut [u8],
        me: &mut Scratch,
        counters: &Counters,
    ) -> usize {
        let len = clip(at, dst.len());
        let host = dst.as_mut_ptr() as u64;
        self.copy(at, len, Access::Read, me, counters, |done| {
            let left = (len - done) as u64;
            // SAFETY: `dst` is ours for `len` bytes; the other side is inside
            // the program's window, where a fault gives a short count.
            unsafe { trap::copy(host + done as u64, at.0 + done as u64, left) }
        })
    }

    /// Copies to the program; returns how many bytes could be copied.
    pub(crate) fn copy_out(
        &self,
        at: UserAddr,
        src: &[u8],
        me: &mut Scratch,
        counters: &Counters,
    ) -> usize {
        // SAFETY: a slice is mapped for its length.
        unsafe { self.copy_out_raw(at, src.as_ptr(), src.len(), me, counters) }
    }

    /// As [`Memory::copy_out`], from memory of this process given by address.
    /// Lines that are written whole and are absent are installed from there.
    ///
    /// # Safety
    /// `src` must be mapped for `len` bytes (what it holds may change).
    pub(crate) unsafe fn copy_out_raw(
        &self,
        at: UserAddr,
        src: *const u8,
        len: usize,
        me: &mut Scratch,
        counters: &Counters,
    ) -> usize {
        let len = clip(at, len);
        let line = self.line_size();
        let (mut done, mut stretch) = (0, line);
        while done < len {
            let (here, from) = (UserAddr(at.0 + done as u64), src.wrapping_add(done));
            // SAFETY: the caller's; `done` is inside.
            let put = unsafe { self.put_lines(here, from, len - done, me, counters) };
            if put > 0 {
                (done, stretch) = (done + put, line);
                continue;
            }
            // To where a line begins: the next one, then, as what is here has
            // others that are here behind it, further and further.
            let to_next = stretch - here.0 % line;
            stretch = (2 * stretch).min(LONGEST.max(line));
            let part = (len - done).min(to_next as usize);
            let copied = self.copy(here, part, Access::Write, me, counters, |done| {
                let left = (part - done) as u64;
                // SAFETY: the source is mapped; the other side is inside the
                // program's window, where a fault gives a short count.
                unsafe { trap::copy(here.0 + done as u64, from as u64 + done as u64, left) }
            });
            done += copied;
            if copied < part {
                break;
            }
        }
        done
    }

    fn copy(
        &self,
        at: UserAddr,
        len: usize,
        access: Access,
        me: &mut Scratch,
        counters: &Counters,
        attempt: impl Fn(usize) -> u64,
    ) -> usize {
        let mut done = 0;
        while done < len {
            let left = attempt(done) as usize;
            done = len - left;
            if left > 0 {
                let stopped = UserAddr(at.0 + done as u64);
                if self.fault(stopped, access, me, counters) != FaultEnd::Done {
                    return done;
                }
            }
        }
        len
    }

    /// Writes to the program before it runs, page by page: no trap can be taken
    /// yet, so each page is fetched first. Returns how many bytes were written.
    pub(crate) fn poke(
        &self,
        at: UserAddr,
        src: &[u8],
        me: &mut Scratch,
        counters: &Counters,
    ) -> usize {
        let mut done = 0;
        while done < clip(at, src.len()) {
            let to = UserAddr(at.0 + done as u64);
            let room = (PAGE_SIZE - to.0 % PAGE_SIZE) as usize;
            let part = &src[done..src.len().min(done + room)];
            if self.fault(to, Access::Write, me, counters) != FaultEnd::Done {
                break;
            }
            // SAFETY: `part` is ours, the page at `to` is present and writable.
            if unsafe { trap::copy(to.0, part.as_ptr() as u64, part.len() as u64) } != 0 {
                break;
            }
            done += part.len();
        }
        done
    }

    /// Stores a 32-bit word in one access.
    ///
    /// # Errors
    /// `EFAULT`.
    pub(crate) fn store32(
        &self,
        at: UserAddr,
        value: u32,
        me: &mut Scratch,
        counters: &Counters,
    ) -> Result<(), Errno> {
        if clip(at, 4) != 4 {
            return Err(Errno::EFAULT);
        }
        loop {
            // SAFETY: inside the program's window a fault is reported.
            if unsafe { trap::store32(at.0, value) } {
                return Ok(());
            }
            if self.fault(at, Access::Write, me, counters) != FaultEnd::Done {
                return Err(Errno::EFAULT);
            }
        }
    }
}

/// As much of `len` bytes at `at` as lies in the program's window.
fn clip(at: UserAddr, len: usize) -> usize {
    if at < USER_MIN || at >= USER_MAX {
        return 0;
    }
    len.min((USER_MAX.0 - at.0) as usize)
}
