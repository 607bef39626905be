//! Reading, writing, seeking.

use super::mock::{Mock, RO, RW, RW_LEN};
use crate::consts::nr::*;
use crate::consts::{O_APPEND, O_CREAT, O_DSYNC, O_RDONLY, O_RDWR, O_SYNC, O_WRONLY};
use proptest::prelude::*;

const EBADF: i64 = -9;
const EINVAL: i64 = -22;

fn iovecs(k: &Mock, at: u64, pieces: &[(u64, u64)]) {
    let bytes: Vec<u8> = pieces
        .iter()
        .flat_map(|(a, n)| [a.to_le_bytes(), n.to_le_bytes()].concat())
        .collect();
    k.put_at(at, &bytes);
}

#[test]
fn modes_are_enforced() {
    let k = Mock::new();
    k.write_file("f", b"abc");
    let (r, w) = (k.open("/f", O_RDONLY) as u64, k.open("/f", O_WRONLY) as u64);
    assert_eq!(k.call(__NR_write, &[r, RW, 1]), EBADF);
    assert_eq!(k.call(__NR_read, &[w, RW, 1]), EBADF);
    assert_eq!(k.call(__NR_ftruncate, &[r, 0]), EINVAL);
    let dir = k.open("/", O_RDONLY) as u64;
    assert_eq!(k.call(__NR_read, &[dir, RW, 1]), -21);
    assert_eq!(k.open("/", O_RDWR), -21);
}

#[test]
fn reads_end_where_the_file_does() {
    let k = Mock::new();
    k.write_file("f", b"abc");
    let fd = k.open("/f", O_RDONLY) as u64;
    assert_eq!(k.call(__NR_read, &[fd, RW, 100]), 3);
    assert_eq!(k.call(__NR_read, &[fd, RW, 100]), 0);
    assert_eq!(k.call(__NR_pread64, &[fd, RW, 100, 1]), 2);
    assert_eq!(k.call(__NR_pread64, &[fd, RW, 100, u64::MAX]), EINVAL);
    assert_eq!(
        k.call(__NR_lseek, &[fd, 0, 1]),
        3,
        "pread leaves the offset alone"
    );
}

#[test]
fn a_buffer_that_is_half_bad_is_half_filled() {
    let k = Mock::new();
    k.write_file("f", &[9; 8192]);
    let fd = k.open("/f", O_RDWR) as u64;
    let near_end = RW + RW_LEN - 100;
    assert_eq!(k.call(__NR_read, &[fd, near_end, 5000]), 100);
    assert_eq!(k.call(__NR_lseek, &[fd, 0, 1]), 100);
    assert_eq!(k.call(__NR_write, &[fd, near_end, 5000]), 100);
    // A pipe is not emptied of more than fits.
    k.call(__NR_pipe, &[RW]);
    assert_eq!(k.call(__NR_write, &[5, RW, 300]), 300);
    assert_eq!(k.call(__NR_read, &[4, near_end, 300]), 100);
    assert_eq!(k.call(__NR_read, &[4, RW, 300]), 200);
}

#[test]
fn vectors_gather_and_scatter() {
    let k = Mock::new();
    let fd = k.open("/f", O_RDWR | O_CREAT) as u64;
    k.string(RW, "hello, world");
    iovecs(&k, RW + 1024, &[(RW + 7, 5), (0, 0), (RW, 5)]);
    assert_eq!(k.call(__NR_writev, &[fd, RW + 1024, 3]), 10);
    assert_eq!(
        std::fs::read(k.root.path().join("f")).unwrap(),
        b"worldhello"
    );
    iovecs(&k, RW + 1024, &[(RW + 100, 3), (RW + 200, 100)]);
    assert_eq!(k.call(__NR_preadv, &[fd, RW + 1024, 2, 1]), 9);
    assert_eq!(
        (k.bytes(RW + 100, 3), k.bytes(RW + 200, 6)),
        (b"orl".to_vec(), b"dhello".to_vec())
    );
    // The second piece is bad: the first counts.
    iovecs(&k, RW + 1024, &[(RW + 100, 3), (RO, 100)]);
    assert_eq!(k.call(__NR_preadv, &[fd, RW + 1024, 2, 0]), 3);
    iovecs(&k, RW + 1024, &[(RW, u64::MAX)]);
    assert_eq!(k.call(__NR_readv, &[fd, RW + 1024, 1]), EINVAL);
    assert_eq!(k.call(__NR_readv, &[fd, RW + 1024, 1025]), EINVAL);
    assert_eq!(k.call(__NR_readv, &[fd, RW + 1024, 0]), 0);
}

#[test]
fn appends_go_to_the_end() {
    let k = Mock::new();
    k.write_file("f", b"abc");
    let fd = k.open("/f", O_WRONLY | O_APPEND) as u64;
    k.string(RW, "de");
    assert_eq!(k.call(__NR_write, &[fd, RW, 1]), 1);
    assert_eq!(k.call(__NR_lseek, &[fd, 0, 0]), 0);
    assert_eq!(k.call(__NR_write, &[fd, RW + 1, 1]), 1);
    assert_eq!(k.call(__NR_lseek, &[fd, 0, 1]), 5);
    assert_eq!(std::fs::read(k.root.path().join("f")).unwrap(), b"abcde");
}

#[test]
fn synchronous_writes_are_synchronised() {
    let k = Mock::new();
    let synced = || std::mem::take(&mut *k.synced.borrow_mut());
    let whole = k.open("/f", O_WRONLY | O_CREAT | O_SYNC) as u64;
    assert_eq!(k.call(__NR_write, &[whole, RW, 4]), 4);
    assert_eq!(synced(), [false]);
    assert_eq!(k.call(__NR_write, &[whole, RW, 0]), 0);
    assert_eq!(synced(), []);
    let data = k.open("/f", O_WRONLY | O_DSYNC) as u64;
    assert_eq!(k.call(__NR_pwrite64, &[data, RW, 4, 0]), 4);
    assert_eq!(synced(), [true]);
}

#[test]
fn a_single_write_is_synchronised_on_demand() {
    const RWF_DSYNC: u64 = 2;
    const RWF_SYNC: u64 = 4;
    let k = Mock::new();
    let fd = k.open("/f", O_RDWR | O_CREAT) as u64;
    iovecs(&k, RW + 1024, &[(RW, 4)]);
    let write = |flags: u64| k.call(__NR_pwritev2, &[fd, RW + 1024, 1, 0, 0, flags]);
    assert_eq!([0, RWF_DSYNC, RWF_SYNC].map(write), [4; 3]);
    assert_eq!(*k.synced.borrow(), [true, false]);
}

#[test]
fn copies_to_a_synchronous_file_are_synchronised_once() {
    let k = Mock::new();
    k.write_file("f", &[1; 100]);
    let from = k.open("/f", O_RDONLY) as u64;
    let to = k.open("/g", O_WRONLY | O_CREAT | O_DSYNC) as u64;
    assert_eq!(k.call(__NR_sendfile, &[to, from, 0, 50]), 50);
    assert_eq!(*k.synced.borrow(), [true]);
    assert_eq!(k.call(__NR_copy_file_range, &[from, 0, to, 0, 50, 0]), 50);
    assert_eq!(*k.synced.borrow(), [true, true]);
    assert_eq!(k.call(__NR_sendfile, &[to, from, 0, 50]), 0, "at its end");
    assert_eq!(k.synced.borrow().len(), 2);
}

#[test]
fn seeking() {
    let k = Mock::new();
    k.write_file("f", &[1; 100]);
    let fd = k.open("/f", O_RDWR) as u64;
    let seek = |offset: i64, whence: u64| k.call(__NR_lseek, &[fd, offset as u64, whence]);
    assert_eq!(seek(-10, 2), 90);
    assert_eq!(seek(-100, 1), EINVAL);
    assert_eq!(seek(0, 1), 90, "a failed seek moves nothing");
    assert_eq!(seek(1000, 0), 1000);
    assert_eq!(seek(5, 3), 5);
    assert_eq!(seek(5, 4), 100);
    assert_eq!(seek(100, 3), -6);
    assert_eq!(seek(0, 5), EINVAL);
    assert_eq!(seek(i64::MAX, 2), EINVAL);
    k.call(__NR_pipe, &[RW]);
    assert_eq!(k.call(__NR_lseek, &[4, 0, 0]), -29);
}

#[test]
fn files_are_copied_in_the_kernel() {
    let k = Mock::new();
    k.write_file("f", &(0..200u8).collect::<Vec<_>>());
    let (from, to) = (
        k.open("/f", 0) as u64,
        k.open("/g", O_RDWR | O_CREAT) as u64,
    );
    k.put_at(RW, &50u64.to_le_bytes());
    assert_eq!(k.call(__NR_sendfile, &[to, from, RW, 20]), 20);
    assert_eq!(k.u64_at(RW), 70);
    assert_eq!(k.call(__NR_lseek, &[from, 0, 1]), 0);
    assert_eq!(k.call(__NR_sendfile, &[to, from, 0, 1000]), 200);
    assert_eq!(k.call(__NR_lseek, &[from, 0, 1]), 200);
    k.call(__NR_lseek, &[from, 100, 0]);
    assert_eq!(
        k.call(__NR_copy_file_range, &[from, 0, to, 0, 1000, 0]),
        100
    );
    let copied = std::fs::read(k.root.path().join("g")).unwrap();
    let expected: Vec<u8> = (50..70).chain(0..200).chain(100..200).collect();
    assert_eq!(copied, expected);
    // A file onto itself does not hang.
    assert!(k.call(__NR_sendfile, &[to, to, 0, 10]) >= 0);
    assert_eq!(k.call(__NR_copy_file_range, &[from, 0, 1, 0, 10, 0]), -18);
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize, u8),
    Read(usize),
    Seek(i64, u64),
    Pwrite(u64, usize, u8),
    Pread(u64, usize),
    Truncate(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0usize..100_000, any::<u8>()).prop_map(|(n, b)| Step::Write(n, b)),
        (0usize..100_000).prop_map(Step::Read),
        (-1000i64..200_000, 0u64..3).prop_map(|(o, w)| Step::Seek(o, w)),
        (0u64..200_000, 0usize..70_000, any::<u8>()).prop_map(|(o, n, b)| Step::Pwrite(o, n, b)),
        (0u64..300_000, 0usize..70_000).prop_map(|(o, n)| Step::Pread(o, n)),
        (0u64..200_000).prop_map(Step::Truncate),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Any sequence of calls against a vector and an offset.
    #[test]
    fn a_file_is_bytes_and_an_offset(steps in prop::collection::vec(step(), 1..20)) {
        let k = Mock::new();
        let fd = k.open("/f", O_RDWR | O_CREAT) as u64;
        let (mut content, mut cursor) = (Vec::<u8>::new(), 0u64);
        let write = |content: &mut Vec<u8>, at: usize, n: usize, b: u8| {
            if n > 0 {
                content.resize(content.len().max(at + n), 0);
                content[at..at + n].fill(b);
            }
        };
        let part = |content: &[u8], at: u64, n: usize| {
            let start = (at as usize).min(content.len());
            content[start..(start + n).min(content.len())].to_vec()
        };
        for step in steps {
            match step {
                Step::Write(n, b) => {
                    k.put_at(RW, &vec![b; n]);
                    prop_assert_eq!(k.call(__NR_write, &[fd, RW, n as u64]), n as i64);
                    write(&mut content, cursor as usize, n, b);
                    cursor += n as u64;
                }
                Step::Pwrite(at, n, b) => {
                    k.put_at(RW, &vec![b; n]);
                    prop_assert_eq!(k.call(__NR_pwrite64, &[fd, RW, n as u64, at]), n as i64);
                    write(&mut content, at as usize, n, b);
                }
                Step::Read(n) => {
                    let expected = part(&content, cursor, n);
                    let got = k.call(__NR_read, &[fd, RW, n as u64]) as usize;
                    prop_assert!(k.bytes(RW, got) == expected);
                    cursor += got as u64;
                }
                Step::Pread(at, n) => {
                    let got = k.call(__NR_pread64, &[fd, RW, n as u64, at]) as usize;
                    prop_assert!(k.bytes(RW, got) == part(&content, at, n));
                }
                Step::Seek(offset, whence) => {
                    let base = [0, cursor, content.len() as u64][whence as usize];
                    let expected = base.checked_add_signed(offset);
                    let got = k.call(__NR_lseek, &[fd, offset as u64, whence]);
                    prop_assert_eq!(got, expected.map_or(EINVAL, |n| n as i64));
                    cursor = expected.unwrap_or(cursor);
                }
                Step::Truncate(len) => {
                    prop_assert_eq!(k.call(__NR_ftruncate, &[fd, len]), 0);
                    content.resize(len as usize, 0);
                }
            }
        }
        prop_assert!(std::fs::read(k.root.path().join("f")).unwrap() == content);
    }
}
