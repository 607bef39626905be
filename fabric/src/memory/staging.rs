//! Data on its way from a disk: read into registered memory without a copy in
//! between, and fetched by a peer into its own.

use super::{COSTS, Region};
use crate::mapping::store_from;
use crate::{Connection, FabricError, Segment};
use proto::addr::RemoteAddr;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use std::ops::Range;

impl Region {
    /// Reads a file from offset `from` on into `range`, as a device's controller
    /// does; how many bytes there were, fewer only at the end of the file.
    ///
    /// # Errors
    /// As of preadv2(2); `EAGAIN` where that would have to wait and `wait` is
    /// false; `EFAULT` for a range outside.
    pub fn read_file(
        &self,
        range: Range<u64>,
        file: impl AsFd,
        from: u64,
        wait: bool,
    ) -> Result<usize, Errno> {
        self.check(&range).map_err(|_| Errno::FAULT)?;
        let len = (range.end - range.start) as usize;
        let mut done = 0;
        while done < len {
            let (offset, at) = (range.start + done as u64, from.checked_add(done as u64));
            let at = at.ok_or(Errno::INVAL)?;
            match self.read_some(offset, len - done, file.as_fd(), at, wait) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn read_some(
        &self,
        offset: u64,
        len: usize,
        file: BorrowedFd<'_>,
        from: u64,
        wait: bool,
    ) -> Result<usize, Errno> {
        let flags = if wait { 0 } else { libc::RWF_NOWAIT };
        match self.0.map.read_file(offset, len, file, from, flags) {
            Err(Errno::OPNOTSUPP) if !wait => Err(Errno::AGAIN),
            other => other,
        }
    }

    /// Copies in as [`Region::write`] or, where that is not `committed` yet, as
    /// [`Region::store`].
    ///
    /// # Errors
    /// As of those.
    pub fn put(&self, offset: u64, src: &[u8], committed: bool) -> Result<(), FabricError> {
        if committed {
            self.write(offset, src)
        } else {
            self.store(offset, src)
        }
    }

    /// Fetches `len` bytes that a peer granted, at `at`, to `offset`, as
    /// [`Region::put`] would put them there. Without a copy in between where the
    /// peer's memory is mapped here.
    ///
    /// # Errors
    /// As for [`Connection::read`], [`Region::write`] and [`Region::store`].
    pub fn fetch(
        &self,
        offset: u64,
        connection: &mut Connection,
        at: RemoteAddr,
        len: u32,
        committed: bool,
    ) -> Result<(), FabricError> {
        let size = len as usize;
        self.check(&(offset..offset.saturating_add(len.into())))?;
        let Some(src) = connection.mapped(at, size) else {
            let mut data = vec![0; size];
            let all = Segment {
                local: 0,
                len,
                remote: at,
            };
            connection.read(&[all], &mut data)?;
            return self.put(offset, &data, committed);
        };
        if committed {
            // SAFETY: `mapped` gave the address of `size` bytes that stay mapped
            // as long as the connection, and that are another process's: they
            // lie in a mapping of its own.
            let inside = unsafe { self.0.map.copy(offset, src, size) };
            inside.then_some(()).ok_or(FabricError::OutOfBounds)?;
        } else {
            COSTS
                .small(u64::from(len), || {
                    // SAFETY: as above.
                    unsafe { store_from(&self.0.fd, offset, src, size) }
                })
                .map_err(|e| FabricError::local("committing registered memory", e))?;
        }
        if connection.still_valid(at) {
            Ok(())
        } else {
            Err(FabricError::BadKey)
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::Memory;
    use rustix::io::Errno;
    use std::io::Write;

    #[test]
    fn a_file_is_read_to_its_end_and_into_its_place() {
        let bytes: Vec<u8> = (0..300_000u32).map(|n| (n * 5 / 3) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let region = Memory::new().unwrap().register(1 << 20, "test").unwrap();
        for (from, len, get) in [(0, 4096, 4096), (7, 400_000, 299_993), (300_000, 10, 0)] {
            let range = 1000..1000 + len;
            let got = region.read_file(range, &file, from, true).unwrap();
            assert_eq!(got, get);
            let mut there = vec![1; get + 2];
            region.read(999, &mut there).unwrap();
            assert_eq!(there[1..=get], bytes[from as usize..][..get]);
            assert_eq!((there[0], there[get + 1]), (0, 0));
            region.zero(0..1 << 20).unwrap();
        }
        // From the page cache, where the file system has such a thing.
        match region.read_file(0..4096, &file, 0, false) {
            Ok(4096) | Err(Errno::AGAIN) => {}
            other => panic!("{other:?}"),
        }
        let outside = region.read_file(1 << 20..(1 << 20) + 1, &file, 0, true);
        assert_eq!(outside, Err(Errno::FAULT));
        let far = region.read_file(0..1, &file, u64::MAX, true);
        assert_eq!(far, Err(Errno::INVAL));
    }
}
