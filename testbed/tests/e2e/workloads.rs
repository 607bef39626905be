//! Programs that compute: memory, files and threads.

use crate::case::{Case, Cell, FEW, USUAL};
use crate::programs::{Libc, program_with};
use crate::scratch::text;
use std::fs;
use std::path::Path;

fn put_text(work: &Path) {
    fs::write(work.join("text"), text(1, 3_000_001)).unwrap();
}

/// For the cells whose cache is so small that most of it comes over TCP,
/// thousands of times.
fn put_short_text(work: &Path) {
    fs::write(work.join("text"), text(3, 800_001)).unwrap();
}

fn put_text_and_output(work: &Path) {
    fs::write(work.join("text"), text(2, 700_001)).unwrap();
    fs::create_dir(work.join("made")).unwrap();
}

fn put_empty(work: &Path) {
    fs::create_dir(work.join("empty")).unwrap();
}

#[test]
fn word_count() {
    Case::new("wordcount", "text 1 50")
        .files(put_text)
        .check(FEW);
    Case::new("wordcount", "text 8 50")
        .files(put_short_text)
        .check(USUAL);
}

#[test]
fn word_count_with_large_lines() {
    let cells = [
        Cell::new(25, "shm").lines_of(16 << 10),
        Cell::new(50, "tcp").lines_of(8 << 10),
    ];
    Case::new("wordcount", "text 2 50")
        .files(put_text)
        .check(&cells);
}

#[test]
fn word_count_over_an_emulated_network() {
    let cells = [Cell::new(25, "shm").with(&["--emulate", "latency=20us,bandwidth=10Gbit"])];
    Case::new("wordcount", "text 2 50")
        .files(put_text)
        .check(&cells);
}

#[test]
fn word_count_of_each_libc() {
    for libc in [Libc::Musl, Libc::GlibcPie] {
        let arguments = ["text", "4", "50"].map(str::to_owned).to_vec();
        Case::of(program_with("wordcount", libc), arguments)
            .files(put_text)
            .check(FEW);
    }
}

#[test]
fn sort() {
    Case::new("sort", "150000 1").check(FEW);
    Case::new("sort", "150000 7").check(USUAL);
}

#[test]
fn matrix_multiply() {
    Case::new("matrix", "160 1").check(FEW);
    Case::new("matrix", "160 4").check(&[Cell::new(50, "shm"), Cell::new(25, "tcp")]);
}

#[test]
fn hash_table() {
    Case::new("hashtable", "60000 1").check(FEW);
    Case::new("hashtable", "60000 8").check(USUAL);
}

#[test]
fn pointer_chasing() {
    Case::new("chase", "4194304 20000 1").check(USUAL);
    Case::new("chase", "4194304 5000 4").check(FEW);
}

#[test]
fn mapped_files() {
    Case::new("filescan", "text made")
        .files(put_text_and_output)
        .check(USUAL);
}

#[test]
fn one_file_mapped_and_called() {
    Case::new("samefile", "made")
        .files(put_text_and_output)
        .check(USUAL);
    let large = [Cell::new(50, "shm").lines_of(16 << 10)];
    Case::new("samefile", "made")
        .files(put_text_and_output)
        .check(&large);
}

#[test]
fn file_copies() {
    Case::new("filecopy", "text made")
        .files(put_text_and_output)
        .check(FEW);
}

#[test]
fn directories() {
    Case::new("directories", "empty")
        .files(put_empty)
        .check(FEW);
}

#[test]
fn mmap_against_a_model() {
    Case::new("mmaptorture", "1 1500 300").check(USUAL);
    Case::new("mmaptorture", "2 1500 2000").check(FEW);
    Case::new("mmaptorture", "3 600 300 6").check(FEW);
}

#[test]
fn memory_calls() {
    Case::new("memorycalls", "").check(FEW);
}

#[test]
fn malloc_against_a_model() {
    Case::new("malloctorture", "8000 1").check(FEW);
    Case::new("malloctorture", "12000 8").check(USUAL);
}

#[test]
fn large_reads() {
    Case::new("reads", "text 1").files(put_text).check(FEW);
    let cells = [
        Cell::new(100, "tcp"),
        Cell::new(25, "shm").lines_of(64 << 10),
        Cell::new(50, "shm").with(&["--emulate", "latency=20us,bandwidth=10Gbit"]),
    ];
    Case::new("reads", "text 3").files(put_text).check(&cells);
    Case::new("reads", "text 2")
        .files(put_short_text)
        .check(USUAL);
}

#[test]
fn streams_of_all_kinds() {
    let large = [
        Cell::new(25, "shm").lines_of(16 << 10),
        Cell::new(50, "tcp").lines_of(8 << 10),
    ];
    Case::new("streams", "3000 2 1").check(FEW);
    Case::new("streams", "3000 2 3").check(USUAL);
    Case::new("streams", "3000 1 2").check(&large);
}

#[test]
fn no_update_is_lost() {
    for threads in [1, 2, 8] {
        Case::new("lines", &format!("400 4000 {threads}")).check(USUAL);
    }
}
