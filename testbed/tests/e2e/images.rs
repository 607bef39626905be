//! Files that are no program, or not one for this system.

use crate::binaries::testbed;
use crate::leftovers::Home;
use crate::process::{Ended, Output, run};
use crate::programs::{Libc, program, program_with};
use crate::scratch::{Random, directory};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Statuses as shells give them (and env(1)): found but not executable, and
/// not found.
const NOT_EXECUTABLE: Ended = Ended::Exit(126);
const NOT_FOUND: Ended = Ended::Exit(127);

fn attempt(program: &Path) -> Output {
    let home = Home::new();
    let mut command = Command::new(testbed());
    home.mark(&mut command);
    command
        .args(["run", "--cache", "4M", "--memory", "64M", "--"])
        .arg(program);
    let output = run(&mut command, b"a line\n");
    home.expect_empty();
    output
}

/// Refused with this status and a message that has these words.
fn expect_refusal(program: &Path, status: Ended, words: &[&str]) {
    let output = attempt(program);
    let said = output.stderr_text();
    assert_eq!(output.ended, status, "{}: {output:?}", program.display());
    for word in words {
        assert!(
            said.contains(word),
            "{} lacks {word:?}: {said}",
            program.display()
        );
    }
    assert!(output.stdout.is_empty(), "{output:?}");
    assert!(!said.contains("panicked"), "{said}");
}

fn write_image(path: &Path, image: &[u8]) {
    fs::write(path, image).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// An image with some of its bytes replaced.
fn changed(image: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut image = image.to_vec();
    image[at..at + bytes.len()].copy_from_slice(bytes);
    image
}

#[test]
fn absent_program() {
    expect_refusal(
        Path::new("/nowhere/at/all"),
        NOT_FOUND,
        &["/nowhere/at/all"],
    );
    expect_refusal(
        Path::new("no-such-program-in-path"),
        NOT_FOUND,
        &["no-such-program-in-path"],
    );
}

#[test]
fn not_executable() {
    let place = directory("image-");
    let path = place.path().join("plain");
    fs::copy(program("echo"), &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    expect_refusal(&path, NOT_EXECUTABLE, &["plain"]);
    expect_refusal(place.path(), NOT_EXECUTABLE, &[]);
}

#[test]
fn no_elf() {
    let place = directory("image-");
    let path = place.path().join("text");
    for content in [&b""[..], b"x", b"\x7fEL", b"just some text\n"] {
        write_image(&path, content);
        expect_refusal(&path, NOT_EXECUTABLE, &["text"]);
    }
}

#[test]
fn dynamic_binary() {
    expect_refusal(
        &program_with("echo", Libc::Dynamic),
        NOT_EXECUTABLE,
        &["dynamic", "static"],
    );
}

/// Offsets in the header: elf(5), `Elf64_Ehdr`.
#[test]
fn wrong_machine_or_class() {
    let place = directory("image-");
    let path = place.path().join("foreign");
    let image = fs::read(program("echo")).unwrap();
    for (at, bytes) in [
        (18, &183u16.to_le_bytes()[..]), // e_machine: AArch64
        (18, &3u16.to_le_bytes()[..]),   // i386
        (4, &[1][..]),                   // EI_CLASS: 32 bit
        (5, &[2][..]),                   // EI_DATA: big-endian
        (16, &1u16.to_le_bytes()[..]),   // e_type: relocatable
        (16, &4u16.to_le_bytes()[..]),   // core dump
    ] {
        write_image(&path, &changed(&image, at, bytes));
        expect_refusal(&path, NOT_EXECUTABLE, &["foreign"]);
    }
}

/// Tables and segments that lead out of the file or out of user space.
#[test]
fn malformed_headers() {
    let place = directory("image-");
    let path = place.path().join("malformed");
    let image = fs::read(program("echo")).unwrap();
    let table = usize::try_from(u64::from_le_bytes(image[32..40].try_into().unwrap())).unwrap();
    let first_load = (0..8)
        .map(|i| table + i * 56)
        .find(|&at| image[at..at + 4] == 1u32.to_le_bytes())
        .unwrap();
    for (what, at, value) in [
        ("e_phoff past the end", 32, u64::MAX - 100),
        ("e_phoff at the end", 32, image.len() as u64 - 8),
        ("p_offset past the end", first_load + 8, 1 << 40),
        (
            "p_vaddr in the kernel",
            first_load + 16,
            0xffff_8000_0000_0000,
        ),
        ("p_vaddr at the top", first_load + 16, u64::MAX - 4095),
        ("p_filesz over p_memsz", first_load + 32, 1 << 30),
        ("p_memsz without end", first_load + 40, u64::MAX - 4096),
    ] {
        write_image(&path, &changed(&image, at, &value.to_le_bytes()));
        let output = attempt(&path);
        assert_eq!(output.ended, NOT_EXECUTABLE, "{what}: {output:?}");
        assert!(
            output.stderr_text().contains("malformed"),
            "{what}: {output:?}"
        );
    }
}

#[test]
fn truncated_images() {
    let place = directory("image-");
    let path = place.path().join("truncated");
    let image = fs::read(program("echo")).unwrap();
    for length in [4, 63, 64, 100, 300, 4096, 5000, image.len() / 2] {
        write_image(&path, &image[..length]);
        let output = attempt(&path);
        // Cut where all that it needs to begin is there, it may run and crash.
        let crashed = matches!(output.ended, Ended::Signal(7 | 11));
        assert!(
            output.ended == NOT_EXECUTABLE || (length >= 4096 && crashed),
            "{length} bytes: {output:?}"
        );
    }
}

/// Whatever the headers say, only the program may suffer.
#[test]
fn random_damage_to_headers() {
    let place = directory("image-");
    let path = place.path().join("damaged");
    let image = fs::read(program("echo")).unwrap();
    let mut random = Random(77);
    for round in 0..40 {
        let mut damaged = image.clone();
        for _ in 0..=random.below(4) {
            let at = 4 + random.below(600);
            damaged[at] = [0, 1, 0x7f, 0x80, 0xff, damaged[at] ^ 4][random.below(6)];
        }
        write_image(&path, &damaged);
        let output = attempt(&path);
        let said = output.stderr_text();
        assert_ne!(output.ended, Ended::Exit(125), "round {round}: {output:?}");
        assert!(!said.contains("panicked"), "round {round}: {said}");
    }
}
