//! Programs that lean on the system: threads, signals, time, pipes, the start
//! of a process and its end.

use crate::case::{Case, Cell, FEW, USUAL};
use crate::programs::{Libc, program_with};
use std::fs;
use std::path::Path;

const ONE: &[Cell] = &[Cell::new(10, "shm")];

fn put_output(work: &Path) {
    fs::create_dir(work.join("made")).unwrap();
}

/// The same program, linked with each libc.
fn each_libc(name: &str, arguments: &[&str], cells: &[Cell]) {
    for libc in [Libc::Glibc, Libc::GlibcPie, Libc::Musl] {
        let arguments = arguments.iter().map(|&a| a.to_owned()).collect();
        Case::of(program_with(name, libc), arguments).check(cells);
    }
}

#[test]
fn threads_and_locks() {
    Case::new("threads", "1000 4").check(FEW);
    Case::of(
        program_with("threads", Libc::Musl),
        vec!["400".into(), "8".into()],
    )
    .check(ONE);
}

#[test]
fn producers_and_consumers() {
    Case::new("producers", "1600 2").check(ONE);
    Case::new("producers", "1600 8").check(FEW);
}

#[test]
fn thread_local_storage() {
    each_libc("tls", &["8"], ONE);
}

#[test]
fn signals() {
    each_libc("signals", &[], ONE);
}

#[test]
fn signals_during_misses() {
    Case::new("storm", "1000 20 1").check(FEW);
    Case::new("storm", "1000 20 4").check(FEW);
}

/// Registers, flags, vector state, masks and stacks across misses; signals
/// during them.
#[test]
fn misses_change_nothing() {
    Case::new("misses", "600 200").check(USUAL);
    let cells = [Cell::new(50, "shm").lines_of(16 << 10)];
    Case::of(program_with("misses", Libc::Musl), vec![]).check(&cells);
}

#[test]
fn timers() {
    Case::new("timers", "").check(ONE);
}

#[test]
fn pipes_and_polling() {
    Case::new("pipes", "").check(ONE);
}

#[test]
fn stacks() {
    each_libc("stack", &["3", "2"], ONE);
}

#[test]
fn jumps() {
    each_libc("jumps", &[], ONE);
}

#[test]
fn what_a_program_starts_with() {
    each_libc("environment", &["one", "", "two words", "ünïcode"], ONE);
}

#[test]
fn bad_pointers() {
    Case::new("badpointer", "made").files(put_output).check(FEW);
}
