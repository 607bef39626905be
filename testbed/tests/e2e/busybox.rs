//! Debian's static busybox, a binary that nobody here compiled.

use crate::case::{Case, Cell};
use crate::scratch::{Random, text};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

const CELLS: &[Cell] = &[Cell::new(25, "shm"), Cell::new(10, "tcp")];

/// Where busybox is; `None` where its absence was said to be accepted.
fn busybox() -> Option<PathBuf> {
    let found = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from);
    let path = found.into_iter().find(|path| is_static(path));
    if path.is_none() {
        let accepted = std::env::var_os("SPLITKERNEL_NO_BUSYBOX").is_some_and(|v| v == "1");
        assert!(
            accepted,
            "no static busybox in /bin: install it (Debian: apt-get install busybox-static), \
             or set SPLITKERNEL_NO_BUSYBOX=1 to go without these tests"
        );
    }
    path
}

/// No program header asks for an interpreter (PT_INTERP, elf(5)).
fn is_static(path: &Path) -> bool {
    const INTERPRETER: [u8; 4] = 3u32.to_le_bytes();
    let Ok(image) = fs::read(path) else {
        return false;
    };
    let headers = usize::from(image[54]);
    let table = usize::from(image[32]);
    let count = usize::from(image[56]);
    (0..count).all(|i| image[table + i * headers..][..4] != INTERPRETER)
}

/// A tree with files of many sizes, links, and names that need care.
fn put_tree(work: &Path) {
    let mut random = Random(9);
    for directory in [
        "tree",
        "tree/one",
        "tree/one/two",
        "tree/empty",
        "tree/with space",
    ] {
        fs::create_dir(work.join(directory)).unwrap();
    }
    for (i, size) in [0, 1, 100, 4095, 4096, 4097, 30_000, 300_000]
        .into_iter()
        .enumerate()
    {
        for directory in ["tree", "tree/one", "tree/one/two", "tree/with space"] {
            let path = work.join(directory).join(format!("file-{i}"));
            fs::write(&path, text(random.next(), size)).unwrap();
            let mode = [0o644, 0o600, 0o755, 0o444][random.below(4)];
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
    fs::write(work.join("tree/bytes"), random.bytes(200_000)).unwrap();
    symlink("one/file-3", work.join("tree/link")).unwrap();
    symlink("nowhere", work.join("tree/dangling")).unwrap();
    fs::hard_link(work.join("tree/bytes"), work.join("tree/one/same-bytes")).unwrap();
    age(work);
}

/// `ls -l` and `tar` show times; all are set to one that does not change.
fn age(work: &Path) {
    let status = Command::new("find")
        .args([
            ".",
            "-exec",
            "touch",
            "-h",
            "-d",
            "2020-02-02T02:02:02Z",
            "{}",
            "+",
        ])
        .current_dir(work)
        .status()
        .unwrap();
    assert!(status.success());
}

fn put_archive(work: &Path) {
    put_tree(work);
    let status = Command::new("tar")
        .args(["--sort=name", "-cf", "archive.tar", "tree"])
        .current_dir(work)
        .status()
        .unwrap();
    assert!(status.success());
    fs::rename(work.join("tree"), work.join("original")).unwrap();
}

fn case(arguments: &[&str]) -> Option<Case> {
    let arguments = arguments.iter().map(|&a| a.to_owned()).collect();
    Some(Case::of(busybox()?, arguments).files(put_tree))
}

fn check(arguments: &[&str]) {
    if let Some(case) = case(arguments) {
        case.check(CELLS);
    }
}

#[test]
fn ls() {
    check(&["ls", "-lR", "tree"]);
    check(&["ls", "-a", "tree/with space"]);
}

#[test]
fn cat() {
    check(&[
        "cat",
        "tree/file-7",
        "tree/bytes",
        "tree/link",
        "tree/file-0",
    ]);
    check(&["cat", "tree/absent", "tree/file-1"]);
}

#[test]
fn grep() {
    check(&["grep", "-c", "a", "tree/file-7", "tree/one/file-6"]);
    check(&["grep", "-n", "-i", "bcd", "tree/one/two/file-7"]);
}

#[test]
fn sort() {
    check(&["sort", "tree/file-7"]);
    check(&["sort", "-r", "-u", "tree/file-7", "tree/one/file-7"]);
}

#[test]
fn checksums() {
    check(&[
        "sha256sum",
        "tree/bytes",
        "tree/file-7",
        "tree/with space/file-6",
        "tree/file-0",
    ]);
    check(&["md5sum", "tree/bytes"]);
}

#[test]
fn find() {
    if let Some(case) = case(&["find", "tree", "-type", "f", "-size", "+8"]) {
        case.in_any_order().check(CELLS);
    }
}

#[test]
fn awk() {
    let program = "{ for (i = 1; i <= NF; i++) n[length($i)]++ } \
                   END { for (i = 0; i < 20; i++) print i, n[i] + 0 }";
    check(&["awk", program, "tree/file-7", "tree/one/file-7"]);
}

#[test]
fn dd() {
    check(&[
        "dd",
        "if=tree/bytes",
        "of=copy",
        "bs=777",
        "count=200",
        "skip=3",
        "status=none",
    ]);
    check(&[
        "dd",
        "if=/dev/zero",
        "of=tree/bytes",
        "bs=4096",
        "count=3",
        "seek=7",
        "conv=notrunc",
        "status=none",
    ]);
}

#[test]
fn tar_creates() {
    // Names in order, as what readdir gives need not be.
    let names = [
        "tree/bytes",
        "tree/one/file-7",
        "tree/with space/file-5",
        "tree/link",
    ];
    check(&[&["tar", "-cf", "made.tar"], &names[..]].concat());
}

#[test]
fn tar_extracts() {
    if let Some(case) = case(&["tar", "-xf", "archive.tar"]) {
        case.files(put_archive).check(CELLS);
    }
}

#[test]
fn copies_and_moves() {
    check(&["cp", "-r", "tree", "other"]);
    check(&["mv", "tree/one", "tree/moved"]);
    check(&["rm", "-r", "tree/with space", "tree/link"]);
    check(&["ln", "-s", "tree", "again"]);
}
