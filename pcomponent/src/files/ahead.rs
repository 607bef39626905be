//! Read-ahead of one open file: a pure buffer in front of reads that arrive
//! in sequence, so that a read(2) of 4 KiB is not a message.

/// First and largest amount fetched at once, bytes.
const FIRST: usize = 128 << 10;
const MOST: usize = proto::wire::MAX_BULK;

/// See the module. The version is the file's count of changes made by this
/// process: data of another version is never served.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    start: u64,
    data: Vec<u8>,
    /// The file ended after `data` when it was fetched.
    ends: bool,
    version: u64,
    /// Where a sequential reader reads next.
    next: u64,
    window: usize,
}

/// What the buffer had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Served {
    /// Bytes copied.
    pub(super) len: usize,
    /// The file ends there.
    pub(super) ends: bool,
}

impl Ahead {
    /// Copies what is buffered from `at` on. `None`: nothing, ask.
    pub(super) fn serve(&mut self, version: u64, at: u64, dst: &mut [u8]) -> Option<Served> {
        if self.version != version {
            self.data.clear();
            return None;
        }
        let skip = usize::try_from(at.checked_sub(self.start)?).ok()?;
        let rest = self.data.get(skip..).filter(|rest| !rest.is_empty())?;
        let len = rest.len().min(dst.len());
        dst[..len].copy_from_slice(&rest[..len]);
        self.next = at + len as u64;
        Some(Served {
            len,
            ends: self.ends && len == rest.len(),
        })
    }

    /// All of `len` bytes from `at` on, if they are buffered. Whoever uses them
    /// says so with [`Ahead::used`].
    pub(super) fn buffered(&self, version: u64, at: u64, len: usize) -> Option<&[u8]> {
        if self.version != version {
            return None;
        }
        let skip = usize::try_from(at.checked_sub(self.start)?).ok()?;
        self.data.get(skip..skip.checked_add(len)?)
    }

    /// The reader got everything up to `next`.
    pub(super) fn used(&mut self, next: u64) {
        self.next = next;
    }

    /// How much to fetch for a read of `want` bytes at `at`: more than `want`
    /// if it goes on where the last one ended.
    pub(super) fn plan(&mut self, at: u64, want: usize) -> usize {
        self.window = match (at == self.next, self.window) {
            (false, _) => 0,
            (true, 0) => FIRST,
            (true, window) => (window * 2).min(MOST),
        };
        self.window.max(want).min(MOST)
    }

    /// Keeps what was fetched at `at`; the reader got the first `used` bytes.
    pub(super) fn keep(&mut self, version: u64, at: u64, data: Vec<u8>, asked: usize, used: usize) {
        self.next = at + used as u64;
        self.version = version;
        self.start = at;
        self.ends = data.len() < asked;
        self.data = data;
        if self.data.len() <= used {
            self.data.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads through the buffer, from `file`; counts the fetches.
    fn read(a: &mut Ahead, version: u64, file: &[u8], at: u64, len: usize) -> (Vec<u8>, usize) {
        let mut out = vec![0; len];
        let (mut done, mut fetches) = (0, 0);
        while done < len {
            let here = at + done as u64;
            if let Some(served) = a.serve(version, here, &mut out[done..]) {
                done += served.len;
                if served.ends {
                    break;
                }
                continue;
            }
            let asked = a.plan(here, len - done);
            fetches += 1;
            let start = (here as usize).min(file.len());
            let data = file[start..(start + asked).min(file.len())].to_vec();
            let used = data.len().min(len - done);
            out[done..done + used].copy_from_slice(&data[..used]);
            let short = data.len() < asked;
            a.keep(version, here, data, asked, used);
            done += used;
            if short {
                break;
            }
        }
        out.truncate(done);
        (out, fetches)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Any sequence of reads and changes shows the file as it is.
        #[test]
        fn is_transparent(
            size in 0usize..600_000,
            steps in prop::collection::vec((0u64..700_000, 0usize..300_000, any::<bool>()), 1..12),
        ) {
            let mut file: Vec<u8> = (0..size).map(|n| ((n * 31) >> 3) as u8).collect();
            let (mut ahead, mut version) = (Ahead::default(), 0);
            let mut last = 0;
            for (at, len, change) in steps {
                if change && size > 0 {
                    let n = at as usize % size;
                    file[n] ^= 0xff;
                    version += 1;
                }
                let at = if at % 3 == 0 { last } else { at };
                let (got, _) = read(&mut ahead, version, &file, at, len);
                let start = (at as usize).min(size);
                prop_assert_eq!(&got[..], &file[start..(start + len).min(size)]);
                last = at + got.len() as u64;
            }
        }
    }

    #[test]
    fn small_sequential_reads_are_few_fetches() {
        let file = vec![7; 4 << 20];
        let mut ahead = Ahead::default();
        let mut fetches = 0;
        for n in 0..1024 {
            fetches += read(&mut ahead, 0, &file, n * 4096, 4096).1;
        }
        assert!(fetches <= 8, "{fetches} fetches for 4 MiB");
    }

    #[test]
    fn random_reads_fetch_what_they_need() {
        let mut ahead = Ahead::default();
        assert_eq!(ahead.plan(1 << 20, 512), 512);
    }
}
