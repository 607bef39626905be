//! Sizes and offsets against the kernel's own headers.

use crate::layout::*;
use linux_raw_sys::general as k;
use proptest::prelude::*;
use std::mem::{offset_of, size_of};

#[test]
fn sizes_are_the_kernels() {
    assert_eq!(Stat::SIZE, size_of::<k::stat>());
    assert_eq!(Statx::SIZE, size_of::<k::statx>());
    assert_eq!(Statfs::SIZE, size_of::<k::statfs>());
    assert_eq!(RawTimespec::SIZE, size_of::<k::__kernel_timespec>());
    assert_eq!(Itimerspec::SIZE, size_of::<k::__kernel_itimerspec>());
    assert_eq!(Timeval::SIZE, size_of::<k::timeval>());
    assert_eq!(Itimerval::SIZE, size_of::<k::itimerval>());
    assert_eq!(Iovec::SIZE, size_of::<k::iovec>());
    assert_eq!(SigAction::SIZE, size_of::<k::kernel_sigaction>());
    assert_eq!(StackT::SIZE, size_of::<k::stack_t>());
    assert_eq!(SigInfo::SIZE, size_of::<k::siginfo_t>());
    assert_eq!(Sigevent::SIZE, size_of::<k::sigevent_t>());
    assert_eq!(Rlimit::SIZE, size_of::<k::rlimit64>());
    assert_eq!(Rusage::SIZE, size_of::<k::rusage>());
    assert_eq!(Pollfd::SIZE, size_of::<k::pollfd>());
    assert_eq!(EpollEvent::SIZE, size_of::<k::epoll_event>());
    assert_eq!(RawCloneArgs::SIZE, size_of::<k::clone_args>());
    assert_eq!(Flock::SIZE, size_of::<k::flock>());
    assert_eq!(Termios::SIZE, size_of::<k::termios>());
    assert_eq!(Winsize::SIZE, size_of::<k::winsize>());
    assert_eq!(OpenHow::SIZE, size_of::<k::open_how>());
}

/// Encodes a value in which one field is all ones: where its bytes are.
fn place<T: Layout + Default>(set: impl Fn(&mut T)) -> usize {
    let mut value = T::default();
    set(&mut value);
    value.to_vec().iter().position(|b| *b != 0).unwrap()
}

#[test]
fn fields_are_where_the_kernel_has_them() {
    assert_eq!(place::<Stat>(|s| s.mode = !0), offset_of!(k::stat, st_mode));
    assert_eq!(place::<Stat>(|s| s.rdev = !0), offset_of!(k::stat, st_rdev));
    assert_eq!(place::<Stat>(|s| s.size = !0), offset_of!(k::stat, st_size));
    assert_eq!(
        place::<Stat>(|s| s.mtime.sec = !0),
        offset_of!(k::stat, st_mtime)
    );
    assert_eq!(
        place::<Statx>(|s| s.mode = !0),
        offset_of!(k::statx, stx_mode)
    );
    assert_eq!(
        place::<Statx>(|s| s.ino = !0),
        offset_of!(k::statx, stx_ino)
    );
    assert_eq!(
        place::<Statx>(|s| s.mtime.sec = !0),
        offset_of!(k::statx, stx_mtime)
    );
    assert_eq!(
        place::<Statx>(|s| s.dev_major = !0),
        offset_of!(k::statx, stx_dev_major)
    );
    assert_eq!(
        place::<Statfs>(|s| s.namelen = !0),
        offset_of!(k::statfs, f_namelen)
    );
    assert_eq!(
        place::<SigAction>(|s| s.mask = !0),
        offset_of!(k::kernel_sigaction, sa_mask)
    );
    assert_eq!(
        place::<RawCloneArgs>(|s| s.tls = !0),
        offset_of!(k::clone_args, tls)
    );
    assert_eq!(
        place::<RawCloneArgs>(|s| s.stack = !0),
        offset_of!(k::clone_args, stack)
    );
    assert_eq!(
        place::<Flock>(|s| s.start = !0),
        offset_of!(k::flock, l_start)
    );
    assert_eq!(
        place::<Rusage>(|s| s.maxrss = !0),
        offset_of!(k::rusage, ru_maxrss)
    );
}

#[test]
fn devices_split_and_join() {
    let dev = make_dev(0xabc, 0x12345);
    assert_eq!(split_dev(dev), (0xabc, 0x12345));
    assert_eq!(make_dev(1, 3), 0x103);
}

proptest! {
    #[test]
    fn what_is_decoded_encodes_to_the_same(bytes in prop::collection::vec(any::<u8>(), 256)) {
        prop_assert_eq!(&Statx::decode(&bytes).to_vec()[..], &bytes[..256]);
        prop_assert_eq!(&Stat::decode(&bytes).to_vec()[..], &bytes[..144]);
        prop_assert_eq!(&Msghdr::decode(&bytes).to_vec()[..], &bytes[..56]);
        prop_assert_eq!(&EpollEvent::decode(&bytes).to_vec()[..], &bytes[..12]);
    }

    #[test]
    fn short_input_counts_as_zeros(bytes in prop::collection::vec(any::<u8>(), 0..144)) {
        let whole = Stat::decode(&bytes).to_vec();
        prop_assert_eq!(&whole[..bytes.len()], &bytes[..]);
        prop_assert!(whole[bytes.len()..].iter().all(|b| *b == 0));
    }
}
