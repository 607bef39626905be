//! Numbers and descriptions.

use super::mock::{FLOOR, Mock, RW};
use crate::consts::nr::*;
use crate::consts::{
    F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_GETFL, F_GETLK, F_SETFD, F_SETFL, F_SETLK, O_ACCMODE,
    O_APPEND, O_CLOEXEC, O_CREAT, O_PATH, O_RDONLY, O_RDWR, O_WRONLY, RLIMIT_NOFILE,
};

const EBADF: i64 = -9;
const EINVAL: i64 = -22;

fn with_file() -> (Mock, u64) {
    let k = Mock::new();
    k.write_file("f", b"0123456789");
    let fd = k.open("/f", O_RDWR);
    assert_eq!(fd, 3, "the lowest free number");
    (k, fd as u64)
}

fn read(k: &Mock, fd: u64, len: u64) -> Vec<u8> {
    let n = k.call(__NR_read, &[fd, RW, len]);
    k.bytes(RW, usize::try_from(n).unwrap())
}

#[test]
fn a_duplicate_shares_offset_and_status() {
    let (k, fd) = with_file();
    let copy = k.call(__NR_dup, &[fd]) as u64;
    assert_eq!(read(&k, fd, 4), b"0123");
    assert_eq!(read(&k, copy, 4), b"4567");
    k.call(__NR_fcntl, &[fd, F_SETFL.into(), O_APPEND.into()]);
    let flags = k.call(__NR_fcntl, &[copy, F_GETFL.into()]) as u32;
    assert_eq!(flags & (O_APPEND | O_ACCMODE), O_APPEND | O_RDWR);
    assert_eq!(k.call(__NR_close, &[fd]), 0);
    assert_eq!(read(&k, copy, 4), b"89");
}

#[test]
fn an_open_of_its_own_has_an_offset_of_its_own() {
    let (k, fd) = with_file();
    let other = k.open("/f", O_RDONLY) as u64;
    assert_eq!(read(&k, fd, 4), b"0123");
    assert_eq!(read(&k, other, 4), b"0123");
}

#[test]
fn a_closed_number_is_bad_and_free() {
    let (k, fd) = with_file();
    assert_eq!(k.call(__NR_close, &[fd]), 0);
    assert_eq!(k.call(__NR_close, &[fd]), EBADF);
    assert_eq!(k.call(__NR_read, &[fd, RW, 1]), EBADF);
    assert_eq!(k.open("/f", 0) as u64, fd);
}

#[test]
fn dup2_replaces_both_kinds() {
    let (k, fd) = with_file();
    k.call(__NR_pipe, &[RW]);
    let (reader, writer) = (4, 5);
    assert_eq!(
        k.call(__NR_dup2, &[writer, fd]),
        fd as i64,
        "a pipe over a file"
    );
    k.string(RW, "xy");
    assert_eq!(k.call(__NR_write, &[fd, RW, 2]), 2);
    assert_eq!(read(&k, reader, 9), b"xy");
    let file = k.open("/f", O_RDONLY) as u64;
    assert_eq!(
        k.call(__NR_dup2, &[file, writer]),
        writer as i64,
        "a file over a pipe"
    );
    assert_eq!(read(&k, writer, 3), b"012");
    assert_eq!(k.call(__NR_dup2, &[file, file]), file as i64);
    assert_eq!(k.call(__NR_dup2, &[40, 40]), EBADF);
    assert_eq!(k.call(__NR_dup3, &[file, file, 0]), EINVAL);
}

#[test]
fn close_on_exec_belongs_to_the_number() {
    let (k, fd) = with_file();
    let getfd = |fd| k.call(__NR_fcntl, &[fd, F_GETFD.into()]);
    assert_eq!(getfd(fd), 0);
    let copy = k.call(__NR_fcntl, &[fd, F_DUPFD_CLOEXEC.into(), 20]) as u64;
    assert_eq!(copy, 20);
    assert_eq!((getfd(fd), getfd(copy)), (0, 1));
    assert_eq!(k.call(__NR_fcntl, &[copy, F_SETFD.into(), 0]), 0);
    assert_eq!(getfd(copy), 0);
    let opened = k.open("/f", O_CLOEXEC) as u64;
    assert_eq!(getfd(opened), 1);
}

#[test]
fn the_personalitys_numbers_are_bad() {
    let (k, fd) = with_file();
    for bad in [FLOOR as u64, 1000, u64::from(u32::MAX), i32::MAX as u64] {
        assert_eq!(k.call(__NR_read, &[bad, RW, 1]), EBADF);
        assert_eq!(k.call(__NR_close, &[bad]), EBADF);
        assert_eq!(k.call(__NR_dup2, &[fd, bad]), EBADF);
    }
    assert_eq!(
        k.call(__NR_fcntl, &[fd, F_DUPFD.into(), FLOOR as u64]),
        EINVAL
    );
    assert_eq!(k.call(__NR_prlimit64, &[0, RLIMIT_NOFILE.into(), 0, RW]), 0);
    assert_eq!(k.u64_at(RW), FLOOR as u64);
}

#[test]
fn numbers_run_out_cleanly() {
    let (k, _) = with_file();
    while k.open("/f", 0) >= 0 {}
    assert_eq!(k.open("/f", 0), -24);
    assert_eq!(k.open("/new", O_CREAT | O_WRONLY), -24);
    assert!(
        !k.root.path().join("new").exists(),
        "a failed open has made a file"
    );
}

#[test]
fn a_failed_open_gives_its_number_back() {
    let (k, fd) = with_file();
    assert_eq!(k.open("/absent", 0), -2);
    assert_eq!(k.open("/f", 0) as u64, fd + 1);
}

#[test]
fn close_range_closes_all_kinds() {
    let (k, _) = with_file();
    k.call(__NR_pipe, &[RW]);
    assert_eq!(k.call(__NR_close_range, &[3, u64::from(u32::MAX), 0]), 0);
    assert_eq!(
        k.fds.borrow().keys().copied().collect::<Vec<_>>(),
        [0, 1, 2]
    );
    assert_eq!(k.call(__NR_close_range, &[5, 4, 0]), EINVAL);
    let fd = k.open("/f", 0) as u64;
    assert_eq!(k.call(__NR_close_range, &[3, 9, 4]), 0);
    assert_eq!(k.call(__NR_fcntl, &[fd, F_GETFD.into()]), 1);
}

#[test]
fn a_path_descriptor_names_and_does_no_more() {
    let (k, _) = with_file();
    let fd = k.open("/f", O_PATH) as u64;
    assert_eq!(k.call(__NR_read, &[fd, RW, 1]), EBADF);
    assert_eq!(k.call(__NR_write, &[fd, RW, 1]), EBADF);
    assert_eq!(k.call(__NR_lseek, &[fd, 0, 0]), EBADF);
    assert_eq!(k.call(__NR_fchmod, &[fd, 0o600]), EBADF);
    assert_eq!(k.call(__NR_mmap, &[0, 4096, 1, 2, fd, 0]), EBADF);
    assert_eq!(k.call(__NR_fstat, &[fd, RW]), 0);
    assert!(k.call(__NR_dup, &[fd]) > 0);
}

#[test]
fn locks_are_granted() {
    let (k, fd) = with_file();
    k.put_at(RW, &[0; 32]);
    assert_eq!(k.call(__NR_fcntl, &[fd, F_SETLK.into(), RW]), 0);
    assert_eq!(k.call(__NR_fcntl, &[fd, F_GETLK.into(), RW]), 0);
    assert_eq!(k.bytes(RW, 2), [2, 0], "F_UNLCK: nobody holds it");
    k.put_at(RW, &[9]);
    assert_eq!(k.call(__NR_fcntl, &[fd, F_SETLK.into(), RW]), EINVAL);
    assert_eq!(k.call(__NR_flock, &[fd, 2]), 0);
    assert_eq!(k.call(__NR_flock, &[fd, 3]), EINVAL);
    assert_eq!(k.call(__NR_flock, &[44, 2]), EBADF);
}
