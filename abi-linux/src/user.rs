//! Reading and writing the program's memory, as the calls need it.

use crate::consts::{IOV_MAX, MAX_RW_COUNT, PATH_MAX};
use crate::kernel::{Kernel, UserMemory};
use crate::layout::{Iovec, Layout};
use proto::addr::{PAGE_SIZE, USER_MAX, UserAddr};
use proto::{Errno, mem};

/// The largest structure that travels through a stack buffer.
const MAX_STRUCT: usize = 512;
/// Data moves through the bounce buffer in pieces of at most this many bytes.
pub const BOUNCE: usize = 64 << 10;
/// One transfer to a host object moves at most this much: larger ones come
/// out short, as they may for anything but a regular file.
pub const HOST_TRANSFER: usize = 1 << 20;

/// Helpers on top of [`UserMemory`].
pub trait UserExt: UserMemory {
    /// Fills `dst`, or `EFAULT`.
    ///
    /// # Errors
    /// `EFAULT`.
    fn read(&self, at: UserAddr, dst: &mut [u8]) -> Result<(), Errno> {
        if self.copy_in(at, dst) == dst.len() {
            Ok(())
        } else {
            Err(Errno::EFAULT)
        }
    }

    /// Writes all of `src`, or `EFAULT` (a part may have been written).
    ///
    /// # Errors
    /// `EFAULT`.
    fn write(&self, at: UserAddr, src: &[u8]) -> Result<(), Errno> {
        if self.copy_out(at, src) == src.len() {
            Ok(())
        } else {
            Err(Errno::EFAULT)
        }
    }

    /// Writes as much of `src` as can be written: `EFAULT` only where that is
    /// nothing.
    ///
    /// # Errors
    /// `EFAULT`.
    fn write_partial(&self, at: UserAddr, src: &[u8]) -> Result<usize, Errno> {
        match self.copy_out(at, src) {
            0 if !src.is_empty() => Err(Errno::EFAULT),
            n => Ok(n),
        }
    }

    /// Reads a structure.
    ///
    /// # Errors
    /// `EFAULT`.
    fn get<T: Layout>(&self, at: UserAddr) -> Result<T, Errno> {
        const { assert!(T::SIZE <= MAX_STRUCT) };
        let mut bytes = [0; MAX_STRUCT];
        self.read(at, &mut bytes[..T::SIZE])?;
        Ok(T::decode(&bytes))
    }

    /// Writes a structure.
    ///
    /// # Errors
    /// `EFAULT`.
    fn put<T: Layout>(&self, at: UserAddr, value: &T) -> Result<(), Errno> {
        const { assert!(T::SIZE <= MAX_STRUCT) };
        let mut bytes = [0; MAX_STRUCT];
        value.encode(&mut bytes[..T::SIZE]);
        self.write(at, &bytes[..T::SIZE])
    }

    /// Writes a structure where the program asked for it.
    ///
    /// # Errors
    /// `EFAULT`.
    fn put_opt<T: Layout>(&self, at: Option<UserAddr>, value: &T) -> Result<(), Errno> {
        at.map_or(Ok(()), |at| self.put(at, value))
    }

    /// Reads a string of at most `max` bytes, its NUL included and left off.
    ///
    /// # Errors
    /// `EFAULT`; `ENAMETOOLONG` where no NUL comes.
    fn cstr(&self, at: UserAddr, max: usize) -> Result<Vec<u8>, Errno> {
        let mut string = Vec::new();
        let mut chunk = [0; 256];
        while string.len() < max {
            let here = at.checked_add(string.len() as u64).ok_or(Errno::EFAULT)?;
            let to_page_end = (PAGE_SIZE - here.0 % PAGE_SIZE) as usize;
            let want = to_page_end.min(chunk.len()).min(max - string.len());
            let got = self.copy_in(here, &mut chunk[..want]);
            if let Some(end) = chunk[..got].iter().position(|b| *b == 0) {
                string.extend_from_slice(&chunk[..end]);
                return Ok(string);
            }
            if got < want {
                return Err(Errno::EFAULT);
            }
            string.extend_from_slice(&chunk[..got]);
        }
        Err(Errno::ENAMETOOLONG)
    }

    /// Reads a path.
    ///
    /// # Errors
    /// `EFAULT`, `ENAMETOOLONG`.
    fn path(&self, at: UserAddr) -> Result<Vec<u8>, Errno> {
        self.cstr(at, PATH_MAX)
    }

    /// Reads an array of `struct iovec` and checks it as readv(2) says.
    ///
    /// # Errors
    /// `EINVAL` (too many, or a length that is negative), `EFAULT`.
    fn iovecs(&self, at: UserAddr, count: usize) -> Result<Vec<Piece>, Errno> {
        if count > IOV_MAX {
            return Err(Errno::EINVAL);
        }
        let mut raw = vec![0; count * Iovec::SIZE];
        self.read(at, &mut raw)?;
        let mut room = MAX_RW_COUNT;
        let mut pieces = Vec::with_capacity(count);
        for bytes in raw.chunks_exact(Iovec::SIZE) {
            let iovec = Iovec::decode(bytes);
            let len = usize::try_from(iovec.len.cast_signed()).map_err(|_| Errno::EINVAL)?;
            if len > 0 && outside_window(UserAddr(iovec.base), len) {
                return Err(Errno::EFAULT);
            }
            let len = len.min(room);
            room -= len;
            pieces.push(Piece {
                at: UserAddr(iovec.base),
                len,
            });
        }
        Ok(pieces)
    }
}

impl<K: UserMemory + ?Sized> UserExt for K {}

/// A part of the program's memory that a transfer fills or empties.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Where.
    pub at: UserAddr,
    /// Bytes.
    pub len: usize,
}

/// Whether no program could own these bytes (the kernel's access_ok).
#[must_use]
pub fn outside_window(at: UserAddr, len: usize) -> bool {
    at.checked_add(len as u64).is_none_or(|end| end > USER_MAX)
}

/// Bytes of all pieces.
#[must_use]
pub fn total(pieces: &[Piece]) -> usize {
    pieces.iter().map(|p| p.len).sum()
}

/// The pieces without their first `done` bytes.
pub fn advance(pieces: &mut Vec<Piece>, mut done: usize) {
    pieces.retain_mut(|piece| {
        let skip = done.min(piece.len);
        done -= skip;
        piece.at = UserAddr(piece.at.0.wrapping_add(skip as u64));
        piece.len -= skip;
        piece.len > 0
    });
}

/// Gathers from the pieces into `dst`; returns how many bytes came before the
/// first that could not be read.
pub fn gather<K: UserMemory + ?Sized>(k: &K, pieces: &[Piece], dst: &mut [u8]) -> usize {
    let mut done = 0;
    for piece in pieces {
        let want = piece.len.min(dst.len() - done);
        let got = k.copy_in(piece.at, &mut dst[done..done + want]);
        done += got;
        if got < want || done == dst.len() {
            break;
        }
    }
    done
}

/// Scatters `src` over the pieces; returns how many bytes could be written.
pub fn scatter<K: UserMemory + ?Sized>(k: &K, pieces: &[Piece], src: &[u8]) -> usize {
    let mut done = 0;
    for piece in pieces {
        let want = piece.len.min(src.len() - done);
        let put = k.copy_out(piece.at, &src[done..done + want]);
        done += put;
        if put < want || done == src.len() {
            break;
        }
    }
    done
}

/// How many bytes of the pieces could be written, up to the first that can't.
pub fn writable<K: UserMemory + ?Sized>(k: &K, pieces: &[Piece]) -> usize {
    let mut sum = 0;
    for piece in pieces {
        let n = k.writable(piece.at, piece.len);
        sum += n;
        if n < piece.len {
            break;
        }
    }
    sum
}

/// Runs `f` with `len` bytes of the thread's bounce buffer.
pub fn with_bounce<K: Kernel, R>(k: &K, len: usize, f: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut buffer = k.bounce().take();
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    let result = f(&mut buffer[..len]);
    // A rare large transfer does not keep its memory.
    buffer.truncate(HOST_TRANSFER);
    k.bounce().replace(buffer);
    result
}

/// `PROT_*` as mmap(2) and mprotect(2) take them; bits that mean nothing on
/// x86-64 are `EINVAL`, as mprotect(2) has it.
///
/// # Errors
/// `EINVAL`.
pub fn prot(raw: u64) -> Result<mem::Prot, Errno> {
    match u8::try_from(raw) {
        Ok(bits) if bits & !7 == 0 => Ok(mem::Prot(bits)),
        _ => Err(Errno::EINVAL),
    }
}
