//! What another component claims of a file and no file can be is EIO: found by
//! the fuzzer.

use super::mock::{Mock, RW};
use crate::consts::nr::*;
use crate::consts::{O_APPEND, O_RDWR, O_WRONLY};

const EIO: i64 = -5;
/// One past the largest size, and what is an errno as a result.
const SIZES: [u64; 3] = [1 << 63, u64::MAX, -22i64 as u64];

fn world(lie: u64) -> Mock {
    let k = Mock::new();
    k.write_file("f", b"some content");
    k.lie.set(Some(lie));
    k
}

#[test]
fn an_append_lands_in_the_file() {
    for lie in [i64::MAX as u64 - 3, u64::MAX - 3, u64::MAX] {
        let k = world(lie);
        let fd = k.open("/f", O_WRONLY | O_APPEND) as u64;
        assert_eq!(k.call(__NR_write, &[fd, RW, 4]), EIO, "{lie:#x}");
        let from = k.open("/f", O_RDWR) as u64;
        assert_eq!(k.call(__NR_sendfile, &[fd, from, 0, 4]), EIO, "{lie:#x}");
    }
}

#[test]
fn a_size_is_no_errno() {
    const SEEK_END: u64 = 2;
    const SEEK_HOLE: u64 = 4;
    for lie in SIZES {
        let k = world(lie);
        let fd = k.open("/f", O_RDWR) as u64;
        for whence in [SEEK_END, SEEK_HOLE] {
            assert_eq!(k.call(__NR_lseek, &[fd, 0, whence]), EIO, "{lie:#x}");
        }
    }
}

/// `d_reclen` is a 16-bit number: a longer record would not say where the next
/// one starts.
#[test]
fn a_name_is_no_longer_than_names_are() {
    for (lie, expected) in [
        (4095, None),
        (4096, Some(EIO)),
        (0x1_fff0, Some(EIO)),
        (0, Some(EIO)),
    ] {
        let k = world(lie);
        let fd = k.open("/", 0) as u64;
        for call in [__NR_getdents, __NR_getdents64] {
            let got = k.call(call, &[fd, RW, 0x3_0000]);
            assert!(expected.map_or(got > 0, |e| got == e), "{lie:#x}: {got}");
            k.call(__NR_lseek, &[fd, 0, 0]);
        }
    }
}
