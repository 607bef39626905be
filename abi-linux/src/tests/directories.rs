//! Names, directories, attributes.

use super::mock::{Mock, PID, RW};
use crate::consts::nr::*;
use crate::consts::{
    O_CREAT, O_DIRECTORY, O_PATH, O_RDONLY, O_RDWR, O_TMPFILE, O_WRONLY, S_IFLNK, S_IFMT, S_IFREG,
};
use crate::layout::{Layout, Stat, Statx};

const CWD: u64 = -100i64 as u64;

fn path(k: &Mock, text: &str) -> u64 {
    k.string(RW + 8192, text)
}

/// The names that getdents64(2) gives, `room` bytes a call.
fn list(k: &Mock, fd: u64, room: u64) -> Vec<String> {
    let mut names = Vec::new();
    loop {
        let n = k.call(__NR_getdents64, &[fd, RW, room]);
        assert!(n >= 0, "getdents64: {n}");
        if n == 0 {
            return names;
        }
        let bytes = k.bytes(RW, n as usize);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let len = usize::from(u16::from_le_bytes([rest[16], rest[17]]));
            let name = &rest[19..len];
            let end = name.iter().position(|b| *b == 0).unwrap();
            names.push(String::from_utf8(name[..end].to_vec()).unwrap());
            rest = &rest[len..];
        }
    }
}

#[test]
fn a_directory_is_listed_once_whatever_the_buffer() {
    let k = Mock::new();
    let mut expected = vec![".".to_string(), "..".to_string()];
    for n in 0..50 {
        let name = format!("file-{n:02}{}", "x".repeat(n));
        k.write_file(&name, b"");
        expected.push(name);
    }
    for room in [100, 256, 4096, 32768] {
        let fd = k.open("/", O_RDONLY | O_DIRECTORY) as u64;
        assert_eq!(list(&k, fd, room), expected, "with {room} bytes");
        assert_eq!(k.call(__NR_lseek, &[fd, 0, 0]), 0);
        assert_eq!(list(&k, fd, 32768).len(), expected.len(), "after a rewind");
    }
    let fd = k.open("/", O_RDONLY) as u64;
    assert_eq!(
        k.call(__NR_getdents64, &[fd, RW, 10]),
        -22,
        "no room for one"
    );
    let fd = k.open("/file-00", 0) as u64;
    assert_eq!(k.call(__NR_getdents64, &[fd, RW, 1000]), -20);
}

#[test]
fn the_working_directory_moves() {
    let k = Mock::new();
    assert_eq!(k.call(__NR_mkdir, &[path(&k, "/d"), 0o755]), 0);
    assert_eq!(k.call(__NR_chdir, &[path(&k, "d")]), 0);
    assert_eq!(k.call(__NR_getcwd, &[RW, 100]), 3);
    assert_eq!(k.bytes(RW, 3), b"/d\0");
    assert_eq!(k.call(__NR_getcwd, &[RW, 2]), -34);
    assert!(k.open("here", O_CREAT | O_WRONLY) >= 0);
    assert!(k.root.path().join("d/here").exists());
    let root = k.open("/", O_RDONLY) as u64;
    assert_eq!(k.call(__NR_fchdir, &[root]), 0);
    assert_eq!(k.call(__NR_access, &[path(&k, "d/here"), 0]), 0);
    assert_eq!(k.call(__NR_chdir, &[path(&k, "d/here")]), -20);
    assert_eq!(k.call(__NR_chdir, &[path(&k, "/proc")]), 0);
    assert_eq!(k.call(__NR_access, &[path(&k, "self/maps"), 0]), 0);
    assert_eq!(k.call(__NR_access, &[path(&k, "../d/here"), 0]), 0);
}

#[test]
fn relative_to_a_descriptor() {
    let k = Mock::new();
    k.call(__NR_mkdir, &[path(&k, "/d"), 0o755]);
    k.write_file("d/f", b"x");
    let dir = k.open("/d", O_PATH | O_DIRECTORY) as u64;
    assert_eq!(k.call(__NR_newfstatat, &[dir, path(&k, "f"), RW, 0]), 0);
    assert_eq!(Stat::decode(&k.bytes(RW, 144)).size, 1);
    assert_eq!(
        k.call(__NR_newfstatat, &[99, path(&k, "/d/f"), RW, 0]),
        0,
        "absolute"
    );
    assert_eq!(k.call(__NR_newfstatat, &[50, path(&k, "f"), RW, 0]), -9);
    let file = k.open("/d/f", 0) as u64;
    assert_eq!(
        k.call(__NR_newfstatat, &[1, path(&k, "f"), RW, 0]),
        -20,
        "a terminal"
    );
    assert_eq!(k.call(__NR_newfstatat, &[file, path(&k, ""), RW, 0]), -2);
    assert_eq!(
        k.call(__NR_newfstatat, &[file, path(&k, ""), RW, 0x1000]),
        0
    );
    assert_eq!(
        k.call(__NR_statx, &[file, path(&k, ""), 0x1000, 0xfff, RW]),
        0
    );
    assert_eq!(Statx::decode(&k.bytes(RW, 256)).size, 1);
    assert_eq!(
        k.call(__NR_newfstatat, &[file, path(&k, "f"), RW, 0x10]),
        -22
    );
}

#[test]
fn names_come_and_go() {
    let k = Mock::new();
    k.write_file("f", b"x");
    let (from, to) = (k.string(RW, "/f"), k.string(RW + 64, "/g"));
    assert_eq!(k.call(__NR_link, &[from, to]), 0);
    assert_eq!(k.call(__NR_unlink, &[from]), 0);
    assert_eq!(k.call(__NR_rename, &[to, from]), 0);
    assert_eq!(k.call(__NR_symlink, &[k.string(RW + 128, "f"), to]), 0);
    assert_eq!(k.call(__NR_readlink, &[to, RW + 256, 100]), 1);
    assert_eq!(k.call(__NR_readlink, &[to, RW + 256, 0]), -22);
    assert_eq!(k.call(__NR_lstat, &[to, RW + 512]), 0);
    assert_eq!(Stat::decode(&k.bytes(RW + 512, 144)).mode & S_IFMT, S_IFLNK);
    assert_eq!(k.call(__NR_stat, &[to, RW + 512]), 0);
    assert_eq!(Stat::decode(&k.bytes(RW + 512, 144)).mode & S_IFMT, S_IFREG);
    assert_eq!(k.call(__NR_unlinkat, &[CWD, to, 1]), -22);
    assert_eq!(k.call(__NR_renameat2, &[CWD, from, CWD, to, 3]), -22);
}

#[test]
fn a_link_into_proc_shows_the_process_and_not_the_host() {
    let k = Mock::new();
    std::os::unix::fs::symlink("/proc/self/maps", k.root.path().join("maps")).unwrap();
    let maps = k.slurp("/maps").unwrap();
    assert!(maps.contains("/bin/prog"), "{maps}");
    assert_eq!(k.call(__NR_stat, &[path(&k, "/maps"), RW]), 0);
    assert_eq!(Stat::decode(&k.bytes(RW, 144)).dev, 0x15);
    std::os::unix::fs::symlink("/proc/self", k.root.path().join("me")).unwrap();
    assert_eq!(k.call(__NR_chdir, &[path(&k, "/me")]), 0);
    let len = k.call(__NR_getcwd, &[RW, 100]) as usize;
    assert_eq!(k.bytes(RW, len - 1), format!("/proc/{PID}").as_bytes());
}

#[test]
fn nothing_is_changed_in_proc() {
    let k = Mock::new();
    k.write_file("f", b"");
    let file = k.string(RW, "/f");
    for (number, there, errno) in [
        (__NR_unlink, "/proc/self/maps", -1),
        (__NR_rmdir, "/proc/self", -1),
        (__NR_mkdir, "/proc/new", -13),
        (__NR_mkdir, "/dev/null", -17),
        (__NR_unlink, "/dev/absent", -2),
        (__NR_chmod, "/dev/null", -1),
    ] {
        assert_eq!(k.call(number, &[path(&k, there), 0]), errno, "{there}");
    }
    assert_eq!(
        k.call(__NR_rename, &[file, path(&k, "/proc/self/maps")]),
        -18
    );
    assert_eq!(k.open("/dev/new", O_CREAT | O_WRONLY), -13);
    assert_eq!(k.open("/proc/self/maps", O_WRONLY), -13);
}

#[test]
fn the_mask_applies() {
    let k = Mock::new();
    assert_eq!(k.call(__NR_umask, &[0o077]), 0o022);
    let fd = k.open("/f", O_CREAT | O_WRONLY) as u64;
    assert_eq!(k.call(__NR_fstat, &[fd, RW]), 0);
    assert_eq!(Stat::decode(&k.bytes(RW, 144)).mode & 0o777, 0o600);
}

#[test]
fn odd_opens_are_refused() {
    let k = Mock::new();
    assert_eq!(k.open("/", O_TMPFILE | O_RDWR), -95);
    assert_eq!(k.open("/x", O_CREAT | O_DIRECTORY), -22);
    assert_eq!(k.open("", 0), -2);
    k.write_file("f", b"");
    assert_eq!(k.open("/f", O_DIRECTORY), -20);
    assert_eq!(
        k.call(
            __NR_openat2,
            &[CWD, path(&k, "/f"), k.put_at(RW, &[0; 24]), 23]
        ),
        -22
    );
    k.put_at(RW, &(1u64 << 40).to_le_bytes());
    assert_eq!(k.call(__NR_openat2, &[CWD, path(&k, "/f"), RW, 24]), -22);
}
