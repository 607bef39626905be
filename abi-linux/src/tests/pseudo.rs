//! `/proc`, `/sys` and `/dev`.

use super::mock::{HOLE, Mock, PID, RO, RW};
use crate::consts::nr::*;
use crate::consts::{
    DT_CHR, DT_DIR, DT_LNK, O_CREAT, O_DIRECTORY, O_NOFOLLOW, O_RDONLY, O_RDWR, O_TRUNC, S_IFCHR,
    S_IFDIR, S_IFLNK, S_IFMT, S_IFREG,
};
use crate::layout::{Layout, Stat};
use proptest::prelude::*;

fn path(k: &Mock, text: &str) -> u64 {
    k.string(RW + 8192, text)
}

fn mode(k: &Mock, at: &str, follow: bool) -> u32 {
    let number = if follow { __NR_stat } else { __NR_lstat };
    assert_eq!(k.call(number, &[path(k, at), RW]), 0, "{at}");
    Stat::decode(&k.bytes(RW, 144)).mode
}

fn link(k: &Mock, at: &str) -> String {
    let n = k.call(__NR_readlink, &[path(k, at), RW, 200]);
    String::from_utf8(k.bytes(RW, usize::try_from(n).unwrap())).unwrap()
}

#[test]
fn maps_parse() {
    let maps = Mock::new().slurp("/proc/self/maps").unwrap();
    let lines: Vec<&str> = maps.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].starts_with("400000-402000 r-xp 00000000 "));
    assert!(lines[0].ends_with("/bin/prog"));
    assert!(lines[1].ends_with("[heap]"));
    assert!(lines[2].starts_with("70000000-70001000 ---p"));
}

#[test]
fn stat_has_its_fields() {
    let k = Mock::new();
    let stat = k.slurp("/proc/self/stat").unwrap();
    let (name, rest) = stat.trim_end().rsplit_once(") ").unwrap();
    assert_eq!(name, format!("{PID} (mock"));
    assert_eq!(2 + rest.split(' ').count(), 52);
    assert_eq!(
        k.slurp("/proc/self/statm")
            .unwrap()
            .split_whitespace()
            .count(),
        7
    );
    let status = k.slurp("/proc/thread-self/status").unwrap();
    assert!(status.contains("VmRSS:\t    1024 kB"), "{status}");
    assert!(status.contains("Cpus_allowed_list:\t0-2,5"), "{status}");
}

#[test]
fn the_machine_is_the_disaggregated_one() {
    let k = Mock::new();
    let meminfo = k.slurp("/proc/meminfo").unwrap();
    assert!(meminfo.contains("MemTotal:        8388608 kB"), "{meminfo}");
    assert_eq!(
        k.slurp("/sys/devices/system/cpu/online").unwrap(),
        "0-2,5\n"
    );
    assert_eq!(
        k.slurp("/sys/devices/system/cpu/cpu5/topology/core_id")
            .unwrap(),
        "5\n"
    );
    assert_eq!(
        k.slurp("/sys/devices/system/cpu/cpu3/topology/core_id"),
        Err(-2)
    );
    assert_eq!(k.slurp("/proc/sys/vm/overcommit_memory").unwrap(), "0\n");
    assert!(k.slurp("/proc/stat").unwrap().starts_with("cpu  "));
    assert!(k.slurp("/proc/cpuinfo").unwrap().contains("processor\t: 5"));
}

#[test]
fn strings_of_the_start() {
    let k = Mock::new();
    assert_eq!(k.slurp("/proc/self/cmdline").unwrap(), "prog\0an arg\0");
    assert_eq!(k.slurp("/proc/self/environ").unwrap(), "A=1\0B=2\0");
    assert_eq!(k.slurp("/proc/self/comm").unwrap(), "mock\n");
}

#[test]
fn links_lead_where_they_say() {
    let k = Mock::new();
    assert_eq!(link(&k, "/proc/self"), PID.to_string());
    assert_eq!(link(&k, "/proc/self/exe"), "/bin/prog");
    assert_eq!(link(&k, "/proc/self/cwd"), "/");
    k.write_file("f", b"content");
    let fd = k.open("/f", 0);
    assert_eq!(link(&k, &format!("/proc/self/fd/{fd}")), "/f");
    assert_eq!(link(&k, &format!("/dev/fd/{fd}")), "/f");
    assert_eq!(k.slurp(&format!("/dev/fd/{fd}")).unwrap(), "content");
    assert_eq!(k.slurp("/proc/self/cwd/f").unwrap(), "content");
    assert_eq!(k.slurp(&format!("/proc/{PID}/root/f")).unwrap(), "content");
    assert_eq!(k.slurp("/proc/self/exe"), Err(-2), "the image is storage's");
    assert_eq!(k.slurp("/proc/self/fd/60"), Err(-2));
    assert_eq!(k.open("/proc/self/exe", O_NOFOLLOW), -40);
    assert!(k.open("/dev/stdin", 0) > 0);
}

#[test]
fn what_is_not_known_does_not_exist() {
    let k = Mock::new();
    for absent in [
        "/proc/1/maps",
        "/proc/version_signature",
        "/proc/self/mem",
        "/proc/kcore",
        "/sys/fs/cgroup",
        "/sys/class/net",
        "/dev/mem",
        "/dev/sda",
        "/proc/self/task/1",
        "/proc/self/../1",
    ] {
        assert_eq!(k.open(absent, 0), -2, "{absent}");
        assert_eq!(k.call(__NR_access, &[path(&k, absent), 0]), -2, "{absent}");
    }
    assert_eq!(k.open("/proc/self/maps/x", 0), -20);
}

#[test]
fn modes_are_right() {
    let k = Mock::new();
    assert_eq!(mode(&k, "/dev/null", true), S_IFCHR | 0o666);
    assert_eq!(mode(&k, "/proc", true), S_IFDIR | 0o555);
    assert_eq!(mode(&k, "/proc/self", false), S_IFLNK | 0o777);
    assert_eq!(mode(&k, "/proc/self", true), S_IFDIR | 0o555);
    assert_eq!(mode(&k, "/proc/self/maps", true), S_IFREG | 0o444);
    assert_eq!(mode(&k, "/dev/tty", true) & S_IFMT, S_IFCHR);
    assert_eq!(k.call(__NR_stat, &[path(&k, "/dev/null"), RW]), 0);
    assert_eq!(Stat::decode(&k.bytes(RW, 144)).rdev, 0x103);
}

#[test]
fn devices_act_as_devices() {
    let k = Mock::new();
    let null = k.open("/dev/null", O_RDWR | O_CREAT | O_TRUNC) as u64;
    let zero = k.open("/dev/zero", O_RDWR) as u64;
    let full = k.open("/dev/full", O_RDWR) as u64;
    let random = k.open("/dev/urandom", O_RDONLY) as u64;
    k.put_at(RW, &[9; 16]);
    assert_eq!(k.call(__NR_read, &[null, RW, 16]), 0);
    assert_eq!(
        k.call(__NR_write, &[null, HOLE, 16]),
        16,
        "null(4) reads nothing"
    );
    assert_eq!(k.call(__NR_read, &[zero, RW, 8]), 8);
    assert_eq!(k.bytes(RW, 9), [0, 0, 0, 0, 0, 0, 0, 0, 9]);
    assert_eq!(k.call(__NR_write, &[full, RW, 1]), -28);
    assert_eq!(k.call(__NR_read, &[full, RW, 4]), 4);
    assert_eq!(k.call(__NR_read, &[random, RW, 200_000]), 200_000);
    assert_eq!(k.bytes(RW + 199_999, 1), [4]);
    assert_eq!(k.call(__NR_read, &[zero, RO, 4]), -14);
    assert_eq!(k.call(__NR_lseek, &[null, 100, 0]), 0);
    assert_eq!(k.call(__NR_mmap, &[0, 4096, 3, 2, zero, 0]), 0x7000_0000);
    assert!(k.space.borrow()[0].contains("Anonymous"));
    assert_eq!(k.call(__NR_mmap, &[0, 4096, 3, 2, null, 0]), -19);
    assert_eq!(k.open("/dev/zero", O_DIRECTORY), -20);
}

#[test]
fn directories_are_listed() {
    let k = Mock::new();
    for (dir, some) in [
        ("/proc", &["self", "cpuinfo", "sys", "."][..]),
        ("/proc/self", &["maps", "fd", "exe"]),
        ("/proc/self/fd", &["0", "1", "2"]),
        ("/proc/self/task", &["4242", "4243"]),
        ("/dev", &["null", "tty", "stdin"]),
        ("/sys/devices/system/cpu", &["cpu0", "cpu5", "online"]),
    ] {
        let fd = k.open(dir, O_RDONLY | O_DIRECTORY) as u64;
        let n = k.call(__NR_getdents64, &[fd, RW, 8000]) as usize;
        let text = String::from_utf8_lossy(&k.bytes(RW, n)).into_owned();
        for name in some {
            assert!(text.contains(&format!("{name}\0")), "{name} in {dir}");
        }
        assert_eq!(k.call(__NR_getdents64, &[fd, RW, 8000]), 0);
    }
}

#[test]
fn content_can_be_sought() {
    let k = Mock::new();
    let fd = k.open("/proc/self/cmdline", 0) as u64;
    assert_eq!(k.call(__NR_lseek, &[fd, 5, 0]), 5);
    assert_eq!(k.call(__NR_read, &[fd, RW, 100]), 7);
    assert_eq!(k.bytes(RW, 7), b"an arg\0");
    assert_eq!(k.call(__NR_pread64, &[fd, RW, 4, 0]), 4);
    assert_eq!(k.bytes(RW, 4), b"prog");
}

#[test]
fn every_listed_name_exists() {
    fn walk(k: &Mock, dir: &str, depth: u32) -> u32 {
        let crate::pseudo::Found::Node(crate::pseudo::Node::Dir(names)) =
            crate::pseudo::find(k, dir.as_bytes(), true).unwrap().0
        else {
            panic!("{dir} is no directory")
        };
        let mut count = 0;
        for (name, kind) in names {
            let path = format!("{dir}/{}", String::from_utf8(name).unwrap());
            if path == "/dev/shm" {
                continue;
            }
            let expected = match kind {
                DT_DIR => S_IFDIR,
                DT_LNK => S_IFLNK,
                DT_CHR => S_IFCHR,
                _ => S_IFREG,
            };
            assert_eq!(mode(k, &path, false) & S_IFMT, expected, "{path}");
            count += 1;
            if kind == DT_DIR && depth > 0 {
                count += walk(k, &path, depth - 1);
            }
        }
        count
    }
    let k = Mock::new();
    let count: u32 = ["/proc", "/sys", "/dev"]
        .iter()
        .map(|d| walk(&k, d, 6))
        .sum();
    assert!(count > 80, "{count}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn any_path_is_answered(parts in prop::collection::vec(
        prop_oneof![
            Just("proc"), Just("self"), Just("sys"), Just("dev"), Just(".."), Just("."), Just("fd"),
            Just("0"), Just("task"), Just("4242"), Just("cwd"), Just("root"), Just("exe"),
            Just("devices"), Just("system"), Just("cpu"), Just("null"), Just("shm"), Just(""),
            Just("kernel"), Just("maps"), Just("thread-self"),
        ], 0..9), follow: bool) {
        let k = Mock::new();
        let text = format!("/{}", parts.join("/"));
        let flags = if follow { 0 } else { O_NOFOLLOW };
        let fd = k.open(&text, flags);
        prop_assert!(fd >= 3 || [-2, -20, -40, -6].contains(&fd), "{}: {}", text, fd);
    }
}
