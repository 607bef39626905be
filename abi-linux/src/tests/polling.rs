//! poll(2) and select(2) over files and host objects.

use super::mock::{Mock, RW};
use crate::consts::nr::*;
use crate::consts::{O_RDWR, POLLIN, POLLNVAL, POLLOUT, POLLPRI};

fn pollfds(k: &Mock, fds: &[(i32, u16)]) -> u64 {
    let bytes: Vec<u8> = fds
        .iter()
        .flat_map(|(fd, events)| {
            [&fd.to_le_bytes()[..], &events.to_le_bytes(), &[0xee, 0xee]].concat()
        })
        .collect();
    k.put_at(RW, &bytes)
}

fn revents(k: &Mock, n: u64) -> u16 {
    u16::from_le_bytes(k.bytes(RW + n * 8 + 6, 2).try_into().unwrap())
}

fn ready() -> Mock {
    let k = Mock::new();
    k.write_file("f", b"x");
    assert_eq!(k.open("/f", O_RDWR), 3);
    assert_eq!(k.call(__NR_pipe, &[RW]), 0);
    k
}

#[test]
fn files_are_ready_and_pipes_when_they_are() {
    let k = ready();
    let at = pollfds(
        &k,
        &[
            (3, POLLIN | POLLPRI),
            (4, POLLIN),
            (5, POLLOUT),
            (-1, POLLIN),
        ],
    );
    assert_eq!(k.call(__NR_poll, &[at, 4, u64::MAX]), 2);
    assert_eq!(
        [0, 1, 2, 3].map(|n| revents(&k, n)),
        [POLLIN, 0, POLLOUT, 0]
    );
    k.call(__NR_write, &[5, RW, 1]);
    let at = pollfds(&k, &[(4, POLLIN), (30, POLLIN), (1000, POLLIN)]);
    assert_eq!(k.call(__NR_poll, &[at, 3, 0]), 3);
    assert_eq!(
        [0, 1, 2].map(|n| revents(&k, n)),
        [POLLIN, POLLNVAL, POLLNVAL]
    );
}

#[test]
fn too_many_or_a_bad_limit_are_refused() {
    let k = ready();
    assert_eq!(k.call(__NR_poll, &[RW, 65, 0]), -22);
    k.put_at(
        RW + 4096,
        &[&0u64.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat(),
    );
    assert_eq!(k.call(__NR_ppoll, &[RW, 0, RW + 4096, 0, 8]), -22);
}

#[test]
fn a_mask_holds_for_the_call() {
    let k = ready();
    k.put_at(RW + 64, &0xabcu64.to_le_bytes());
    assert_eq!(k.call(__NR_ppoll, &[RW, 0, 0, RW + 64, 8]), 0);
    assert_eq!(k.call_mask.get(), Some(0xabc));
    assert_eq!(k.call(__NR_ppoll, &[RW, 0, 0, RW + 64, 4]), -22);
}

#[test]
fn select_sets_bits() {
    let k = ready();
    k.call(__NR_write, &[5, RW, 1]);
    let (r, w) = (RW + 512, RW + 520);
    k.put_at(r, &0b01_1000u64.to_le_bytes());
    k.put_at(w, &0b11_0000u64.to_le_bytes());
    assert_eq!(k.call(__NR_select, &[6, r, w, 0, 0]), 3);
    assert_eq!((k.u64_at(r), k.u64_at(w)), (0b01_1000, 0b10_0000));
    k.put_at(r, &(1u64 << 40).to_le_bytes());
    assert_eq!(k.call(__NR_select, &[41, r, 0, 0, 0]), -9);
    assert_eq!(k.call(__NR_select, &[u64::MAX, 0, 0, 0, 0]), -22);
}

#[test]
fn files_are_not_watched_by_epoll() {
    let k = ready();
    let epfd = k.call(__NR_epoll_create1, &[0]) as u64;
    assert_eq!(k.call(__NR_epoll_ctl, &[epfd, 1, 3, RW]), -1);
    assert_eq!(k.call(__NR_epoll_ctl, &[epfd, 1, 4, RW]), 0);
    assert_eq!(k.call(__NR_epoll_ctl, &[3, 1, 4, RW]), -22);
    assert_eq!(k.call(__NR_epoll_wait, &[epfd, RW, 0, 0]), -22);
}
