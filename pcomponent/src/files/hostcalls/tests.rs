//! Host calls, made for real.

use super::*;
use abi_linux::hostcall::{IoctlArg, Received};
use proto::store::Timespec;

const FLOOR: i32 = 900;

fn number(n: u64) -> i32 {
    i32::try_from(n).unwrap()
}

#[test]
fn a_pipe_carries_bytes() {
    let mut fds = [0; 2];
    run(
        HostCall::Pipe2 {
            fds: &mut fds,
            flags: 0,
        },
        FLOOR,
    )
    .unwrap();
    assert_eq!(
        run(
            HostCall::Write {
                fd: fds[1],
                src: b"abc"
            },
            FLOOR
        ),
        Ok(3)
    );
    let mut ask = [PollFd {
        fd: fds[0],
        events: 1,
        revents: 0,
    }];
    let timeout = Some(Timespec::default());
    assert_eq!(
        run(
            HostCall::Poll {
                fds: &mut ask,
                timeout
            },
            FLOOR
        ),
        Ok(1)
    );
    assert_eq!(ask[0].revents, 1);
    let mut dst = [0; 8];
    assert_eq!(
        run(
            HostCall::Read {
                fd: fds[0],
                dst: &mut dst
            },
            FLOOR
        ),
        Ok(3)
    );
    assert_eq!(&dst[..3], b"abc");
    assert!(descriptors(FLOOR).contains(&fds[0]));
    for fd in fds {
        run(HostCall::Close { fd }, FLOOR).unwrap();
        assert_eq!(run(HostCall::Close { fd }, FLOOR), Err(Errno::EBADF));
    }
}

#[test]
fn a_reserved_number_is_neither_read_nor_written() {
    let fd = reserve(true, FLOOR).unwrap();
    let cloexec = HostCall::Fcntl {
        fd,
        command: libc::F_GETFD as u32,
        arg: 0,
    };
    assert_eq!(run(cloexec, FLOOR), Ok(1));
    assert_eq!(
        run(HostCall::Read { fd, dst: &mut [0] }, FLOOR),
        Err(Errno::EBADF)
    );
    assert_eq!(
        run(HostCall::Write { fd, src: b"x" }, FLOOR),
        Err(Errno::EBADF)
    );
    let copy = number(
        run(
            HostCall::DupFrom {
                fd,
                least: 0,
                cloexec: false,
            },
            FLOOR,
        )
        .unwrap(),
    );
    assert_ne!(copy, fd);
    for fd in [fd, copy] {
        assert_eq!(run(HostCall::Close { fd }, FLOOR), Ok(0));
    }
}

#[test]
fn numbers_from_the_floor_on_are_not_handed_out() {
    assert_eq!(
        run(
            HostCall::Eventfd2 {
                initial: 0,
                flags: 0
            },
            0
        ),
        Err(Errno::EMFILE)
    );
    let mut fds = [0; 2];
    assert_eq!(
        run(
            HostCall::Pipe2 {
                fds: &mut fds,
                flags: 0
            },
            0
        ),
        Err(Errno::EMFILE)
    );
}

#[test]
fn messages_travel_with_names_and_lengths() {
    let mut fds = [0; 2];
    let (domain, kind) = (libc::AF_UNIX, libc::SOCK_DGRAM);
    run(
        HostCall::Socketpair {
            domain,
            kind,
            protocol: 0,
            fds: &mut fds,
        },
        FLOOR,
    )
    .unwrap();
    let [fd, other] = fds;
    let sent = HostCall::Sendmsg {
        fd,
        data: b"hello",
        name: &[],
        control: &[],
        flags: 0,
    };
    assert_eq!(run(sent, FLOOR), Ok(5));
    let (mut data, mut name, mut told) = ([0; 3], [0; 128], Received::default());
    let received = HostCall::Recvmsg {
        fd: other,
        data: &mut data,
        name: &mut name,
        control: &mut [],
        flags: libc::MSG_TRUNC as u32,
        out: &mut told,
    };
    assert_eq!(run(received, FLOOR), Ok(5));
    assert_eq!(&data, b"hel");
    assert_ne!(told.flags & libc::MSG_TRUNC as u32, 0);
    for fd in fds {
        run(HostCall::Close { fd }, FLOOR).unwrap();
    }
}

#[test]
fn what_could_hold_a_pointer_is_refused() {
    let filter = HostCall::Setsockopt {
        fd: 0,
        level: 1,
        name: 26,
        value: &[0; 16],
    };
    assert_eq!(run(filter, FLOOR), Err(Errno::EINVAL));
    let lock = HostCall::Fcntl {
        fd: 0,
        command: 5,
        arg: 0,
    };
    assert_eq!(run(lock, FLOOR), Err(Errno::EINVAL));
    let mut short = [0; 8];
    let arg = IoctlArg::Buffer(&mut short);
    assert_eq!(
        run(
            HostCall::Ioctl {
                fd: 0,
                request: 0x5401,
                arg
            },
            FLOOR
        ),
        Err(Errno::EINVAL)
    );
    let arg = IoctlArg::Value(0);
    assert_eq!(
        run(
            HostCall::Ioctl {
                fd: 0,
                request: 0x5401,
                arg
            },
            FLOOR
        ),
        Err(Errno::EINVAL)
    );
}

#[test]
fn waiting_ends_with_its_limit() {
    let timeout = Some(Timespec { sec: 0, nsec: 1000 });
    assert_eq!(
        run(
            HostCall::Poll {
                fds: &mut [],
                timeout
            },
            FLOOR
        ),
        Ok(0)
    );
    let epfd = number(run(HostCall::EpollCreate1 { flags: 0 }, FLOOR).unwrap());
    let call = HostCall::EpollWait {
        epfd,
        events: &mut [0; 24],
        timeout,
    };
    assert_eq!(run(call, FLOOR), Ok(0));
    run(HostCall::Close { fd: epfd }, FLOOR).unwrap();
    let call = HostCall::Sigtimedwait {
        set: 1 << 9,
        info: &mut [0; 128],
        timeout,
    };
    assert_eq!(run(call, FLOOR), Err(Errno::EAGAIN));
}
