//! A bad pointer is `EFAULT`, whatever the call, and nothing else happens.

use super::mock::{HOLE, Mock, PID, RO, RO_BYTE, RW};
use crate::consts::nr::*;

const EFAULT: i64 = -14;
/// Addresses that can't be read.
const UNREADABLE: [u64; 5] = [0, 8, HOLE, 0x7fff_ffff_f000, u64::MAX - 4];
/// Addresses that can't be written.
const UNWRITABLE: [u64; 3] = [RO, HOLE, 1 << 63];

/// A mock with descriptor 3 a file of 4 KiB, 4 and 5 a pipe with bytes in it,
/// 6 a directory; a path at `RW`, zeros at `RW + 4096`.
fn ready() -> Mock {
    let k = Mock::new();
    k.write_file("f", &[7; 4096]);
    assert_eq!(k.open("/f", 2), 3);
    assert_eq!(k.call(__NR_pipe, &[RW]), 0);
    k.string(RW + 64, "some bytes");
    assert_eq!(k.call(__NR_write, &[5, RW + 64, 10]), 10);
    assert_eq!(k.open("/", 0), 6);
    k.string(RW, "/f");
    k
}

/// Calls that read at `B`, all else being right.
#[test]
fn reading_it() {
    const B: u64 = u64::MAX / 3;
    const Z: u64 = RW + 4096;
    let cwd = -100i64 as u64;
    let calls: &[(u32, &[u64])] = &[
        (__NR_write, &[3, B, 8]),
        (__NR_write, &[5, B, 8]),
        (__NR_pwrite64, &[3, B, 8, 0]),
        (__NR_writev, &[3, B, 1]),
        (__NR_readv, &[3, B, 1]),
        (__NR_preadv, &[3, B, 1, 0]),
        (__NR_pwritev2, &[3, B, 1, 0, 0, 0]),
        (__NR_open, &[B, 0, 0]),
        (__NR_openat, &[cwd, B, 0, 0]),
        (__NR_openat2, &[cwd, RW, B, 24]),
        (__NR_creat, &[B, 0]),
        (__NR_stat, &[B, Z]),
        (__NR_lstat, &[B, Z]),
        (__NR_newfstatat, &[cwd, B, Z, 0]),
        (__NR_statx, &[cwd, B, 0, 0, Z]),
        (__NR_access, &[B, 0]),
        (__NR_faccessat2, &[cwd, B, 0, 0]),
        (__NR_statfs, &[B, Z]),
        (__NR_chdir, &[B]),
        (__NR_mkdir, &[B, 0]),
        (__NR_rmdir, &[B]),
        (__NR_unlink, &[B]),
        (__NR_unlinkat, &[cwd, B, 0]),
        (__NR_rename, &[B, RW]),
        (__NR_rename, &[RW, B]),
        (__NR_link, &[B, RW]),
        (__NR_link, &[RW, B]),
        (__NR_symlink, &[B, RW]),
        (__NR_symlink, &[RW, B]),
        (__NR_readlink, &[B, Z, 8]),
        (__NR_mknod, &[B, 0, 0]),
        (__NR_chmod, &[B, 0]),
        (__NR_chown, &[B, 0, 0]),
        (__NR_truncate, &[B, 0]),
        (__NR_utimensat, &[cwd, RW, B | 1, 0]),
        (__NR_setxattr, &[B, RW, RW, 0, 0]),
        (__NR_poll, &[B, 1, 0]),
        (__NR_select, &[8, B, 0, 0, 0]),
        (__NR_epoll_ctl, &[0, 1, 1, B]),
        (__NR_bind, &[0, B, 16]),
        (__NR_connect, &[0, B, 16]),
        (__NR_sendto, &[0, B, 8, 0, 0, 0]),
        (__NR_sendmsg, &[0, B, 0]),
        (__NR_setsockopt, &[0, 1, 2, B, 4]),
        (__NR_nanosleep, &[B, 0]),
        (__NR_clock_nanosleep, &[1, 0, B, 0]),
        (__NR_clock_settime, &[0, B]),
        (__NR_timer_settime, &[0, 0, B, 0]),
        (__NR_timerfd_settime, &[0, 0, B, 0]),
        (__NR_setrlimit, &[3, B]),
        (__NR_sched_setaffinity, &[0, 8, B]),
        (__NR_sched_setparam, &[0, B]),
        (__NR_prctl, &[15, B]),
        (__NR_rt_sigsuspend, &[B, 8]),
        (__NR_rt_sigtimedwait, &[B, 0, 0, 8]),
        (__NR_rt_sigqueueinfo, &[PID as u64, 10, B]),
        (__NR_signalfd4, &[u64::MAX, B, 8, 0]),
        (__NR_clone3, &[B, 88]),
        (__NR_capget, &[B, Z]),
    ];
    for (number, args) in calls {
        for bad in UNREADABLE {
            // Null means something else for some of them.
            let null_is_fine = [__NR_select, __NR_utimensat].contains(number);
            if bad == 0 && null_is_fine {
                continue;
            }
            let k = ready();
            let args: Vec<u64> = args
                .iter()
                .map(|a| if *a | 1 == B | 1 { bad } else { *a })
                .collect();
            let name = crate::table::name((*number).into());
            assert_eq!(k.call(*number, &args), EFAULT, "{name} at {bad:#x}");
        }
    }
}

/// Calls that write at `B`, all else being right.
#[test]
fn writing_it() {
    const B: u64 = u64::MAX / 3;
    let cwd = -100i64 as u64;
    let calls: &[(u32, &[u64])] = &[
        (__NR_read, &[3, B, 8]),
        (__NR_read, &[4, B, 8]),
        (__NR_pread64, &[3, B, 8, 0]),
        (__NR_stat, &[RW, B]),
        (__NR_fstat, &[3, B]),
        (__NR_fstat, &[4, B]),
        (__NR_newfstatat, &[cwd, RW, B, 0]),
        (__NR_statx, &[cwd, RW, 0, 0, B]),
        (__NR_statfs, &[RW, B]),
        (__NR_fstatfs, &[3, B]),
        (__NR_getdents64, &[6, B, 1000]),
        (__NR_getdents, &[6, B, 1000]),
        (__NR_getcwd, &[B, 100]),
        (__NR_pipe, &[B]),
        (__NR_pipe2, &[B, 0]),
        (__NR_socketpair, &[1, 1, 0, B]),
        (__NR_getrandom, &[B, 8, 0]),
        (__NR_uname, &[B]),
        (__NR_sysinfo, &[B]),
        (__NR_getrusage, &[0, B]),
        (__NR_getrlimit, &[3, B]),
        (__NR_prlimit64, &[0, 3, 0, B]),
        (__NR_times, &[B]),
        (__NR_gettimeofday, &[B, 0]),
        (__NR_time, &[B]),
        (__NR_clock_gettime, &[0, B]),
        (__NR_clock_getres, &[0, B]),
        (__NR_getitimer, &[0, B]),
        (__NR_timer_gettime, &[0, B]),
        (__NR_timer_create, &[0, 0, B]),
        (__NR_timerfd_gettime, &[0, B]),
        (__NR_getresuid, &[B, B, B]),
        (__NR_rt_sigaction, &[10, 0, B, 8]),
        (__NR_rt_sigprocmask, &[0, 0, B, 8]),
        (__NR_rt_sigpending, &[B, 8]),
        (__NR_sigaltstack, &[0, B]),
        (__NR_sched_getparam, &[0, B]),
        (__NR_getcpu, &[B, 0, 0]),
        (__NR_prctl, &[16, B]),
        (__NR_arch_prctl, &[0x1003, B]),
        (__NR_get_robust_list, &[0, B, B]),
        (__NR_mincore, &[RW, 4096, B]),
        (__NR_epoll_wait, &[0, B, 1, 0]),
        (__NR_recvfrom, &[0, B, 8, 0, 0, 0]),
        (__NR_getsockname, &[0, B, RW + 4096]),
    ];
    for (number, args) in calls {
        for bad in UNWRITABLE {
            let k = ready();
            k.put_at(RW + 4096, &8u32.to_le_bytes());
            let args: Vec<u64> = args
                .iter()
                .map(|a| if *a == B { bad } else { *a })
                .collect();
            let name = crate::table::name((*number).into());
            let before = k.fds.borrow().len();
            let answer = k.call(*number, &args);
            // getsockname of an empty address writes nothing there.
            if *number != __NR_getsockname || answer != 0 {
                assert_eq!(answer, EFAULT, "{name} at {bad:#x}");
            }
            assert_eq!(
                k.bytes(RO, 4096),
                [RO_BYTE; 4096],
                "{name} wrote to read-only memory"
            );
            assert_eq!(
                k.fds.borrow().len(),
                before,
                "{name} left a descriptor behind"
            );
        }
    }
}

#[test]
fn data_is_not_taken_from_a_pipe_for_nothing() {
    let k = ready();
    assert_eq!(k.call(__NR_read, &[4, HOLE, 8]), EFAULT);
    assert_eq!(k.call(__NR_read, &[4, RW + 64, 100]), 10);
    assert_eq!(k.bytes(RW + 64, 10), b"some bytes");
}

#[test]
fn a_path_may_end_at_the_end_of_memory() {
    let k = ready();
    let end = RO + 4096;
    let last = RW + super::mock::RW_LEN - 3;
    k.string(last, "/f");
    assert_eq!(k.call(__NR_access, &[last, 0]), 0);
    k.put_at(last, b"/ff");
    assert_eq!(k.call(__NR_access, &[last, 0]), EFAULT);
    assert_eq!(k.call(__NR_access, &[end - 1, 0]), EFAULT);
}

#[test]
fn a_path_without_end_is_too_long() {
    let k = ready();
    k.put_at(RW, &[b'x'; 5000]);
    assert_eq!(k.call(__NR_access, &[RW, 0]), -36);
}
