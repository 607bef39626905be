//! Arguments of the address-space calls.

use super::mock::{Mock, RW};
use crate::consts::nr::*;
use crate::consts::{
    MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_HUGETLB, MAP_NORESERVE, MAP_PRIVATE,
    MAP_SHARED, MAP_STACK, O_RDONLY, O_RDWR, O_WRONLY,
};
use proto::addr::USER_MAX;

const EINVAL: i64 = -22;
const ANON: u64 = MAP_PRIVATE | MAP_ANONYMOUS;

#[test]
fn mmap_checks_its_arguments() {
    let k = Mock::new();
    k.write_file("f", b"x");
    let (r, w) = (k.open("/f", O_RDONLY) as u64, k.open("/f", O_WRONLY) as u64);
    let page = 4096;
    for (args, errno) in [
        ([0, 0, 3, ANON, 0, 0], EINVAL),
        ([0, page, 3, ANON, 0, 1], EINVAL),
        ([0, page, 3, MAP_ANONYMOUS, 0, 0], EINVAL),
        ([0, u64::MAX, 3, ANON, 0, 0], -12),
        ([0x5001, page, 3, ANON | MAP_FIXED, 0, 0], EINVAL),
        ([0, page, 3, ANON | MAP_FIXED, 0, 0], -1),
        ([USER_MAX.0, page, 3, ANON | MAP_FIXED, 0, 0], -12),
        ([0, page, 3, ANON | MAP_HUGETLB, 0, 0], -12),
        ([0, page, 3, MAP_SHARED, r, 0], -13),
        ([0, page, 1, MAP_PRIVATE, w, 0], -13),
        ([0, page, 1, MAP_PRIVATE, 50, 0], -9),
        ([0, page, 1, MAP_PRIVATE, 1, 0], -19),
    ] {
        assert_eq!(k.call(__NR_mmap, &args), errno, "{args:x?}");
    }
    assert!(k.space.borrow().is_empty(), "a refused call has no effect");
}

#[test]
fn mmap_says_what_it_was_told() {
    let k = Mock::new();
    k.write_file("f", b"x");
    let fd = k.open("/f", O_RDWR) as u64;
    k.call(
        __NR_mmap,
        &[
            0x7fff_1234_5678,
            5000,
            0xff,
            ANON | MAP_NORESERVE | MAP_STACK,
            9,
            0,
        ],
    );
    k.call(
        __NR_mmap,
        &[
            0x1_0000,
            4096,
            3,
            MAP_SHARED | MAP_FIXED_NOREPLACE,
            fd,
            8192,
        ],
    );
    let space = k.space.borrow();
    assert_eq!(
        space[0], "map 0x0 5000 7 MapFlags(8) Anonymous",
        "a hint out of reach"
    );
    assert!(
        space[1].starts_with("map 0x10000 4096 3 MapFlags(6) File"),
        "{}",
        space[1]
    );
    assert!(space[1].ends_with("offset: 8192 }"), "{}", space[1]);
}

#[test]
fn the_others_check_too() {
    let k = Mock::new();
    for (number, args, answer) in [
        (__NR_munmap, [1, 4096, 0, 0, 0], EINVAL),
        (__NR_munmap, [0, 4096, 0, 0, 0], 0),
        (__NR_munmap, [RW, 0, 0, 0, 0], EINVAL),
        (__NR_munmap, [RW, u64::MAX, 0, 0, 0], EINVAL),
        (__NR_mprotect, [1, 4096, 1, 0, 0], EINVAL),
        (__NR_mprotect, [RW, 0, 1, 0, 0], 0),
        (__NR_mprotect, [RW, 4096, 0x1000, 0, 0], EINVAL),
        (__NR_mprotect, [USER_MAX.0, 4096, 1, 0, 0], -12),
        (__NR_mremap, [RW, 4096, 0, 0, 0], EINVAL),
        (__NR_mremap, [RW, 4096, 8192, 2, 0x40_0000], EINVAL),
        (__NR_mremap, [RW, 8192, 8192, 3, RW + 4096], EINVAL),
        (__NR_mremap, [RW, 0, 8192, 1, 0], EINVAL),
        (__NR_madvise, [RW, 4096, 77, 0, 0], EINVAL),
        (__NR_madvise, [RW, 0, 4, 0, 0], 0),
        (__NR_madvise, [0x30_0000, 4096, 1, 0, 0], -12),
        (__NR_msync, [RW, 4096, 5, 0, 0], EINVAL),
        (__NR_mlock, [0x30_0000, 1, 0, 0, 0], -12),
        (__NR_mlock, [RW + 5, 1, 0, 0, 0], 0),
        (__NR_mlockall, [0, 0, 0, 0, 0], EINVAL),
        (__NR_brk, [0, 0, 0, 0, 0], 0x60_0000),
    ] {
        assert_eq!(
            k.call(number, &args),
            answer,
            "{} {args:x?}",
            crate::table::name(number.into())
        );
    }
    assert!(k.space.borrow().is_empty(), "{:?}", k.space.borrow());
    assert_eq!(k.call(__NR_madvise, &[RW, 100, 4]), 0);
    assert_eq!(k.call(__NR_munmap, &[0, RW]), 0, "from below the window");
    let done = ["discard 0x100000..0x101000", "unmap 0x10000..0x100000"];
    assert_eq!(*k.space.borrow(), done);
}
