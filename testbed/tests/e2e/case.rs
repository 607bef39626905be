//! One program with its arguments, input and files, run natively and on
//! testbeds of different shapes, which must make no difference.

use crate::leftovers::Home;
use crate::process::{Ended, Output, run};
use crate::scratch::{Entry, tree};
use crate::{binaries, programs, scratch};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The usual line, in bytes.
const LINE: u64 = 4096;
/// Few ways make sets that overflow also in a small cache.
const WAYS: u64 = 16;
/// The least cache tried, in bytes.
const LEAST: u64 = 256 << 10;
/// More than any program here touches, in bytes.
const FULL: u64 = 1 << 30;

/// A shape of testbed: its cache as a percentage of the program's footprint,
/// its fabric, and other options of `testbed run`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    percent: u64,
    fabric: &'static str,
    line: u64,
    /// Lines in a set; 0: as is usual.
    ways: u64,
    options: &'static [&'static str],
}

impl Cell {
    pub(crate) const fn new(percent: u64, fabric: &'static str) -> Cell {
        Cell {
            percent,
            fabric,
            line: LINE,
            ways: WAYS,
            options: &[],
        }
    }

    /// With lines of this many bytes.
    pub(crate) const fn lines_of(self, line: u64) -> Cell {
        Cell { line, ..self }
    }

    /// With sets as they are where nothing is said.
    pub(crate) const fn usual_sets(self) -> Cell {
        Cell { ways: 0, ..self }
    }

    pub(crate) const fn with(self, options: &'static [&'static str]) -> Cell {
        Cell { options, ..self }
    }
}

/// A few shapes that differ in everything: for programs that take long.
pub(crate) const FEW: &[Cell] = &[
    Cell::new(25, "tcp").usual_sets(),
    Cell::new(10, "shm").with(&["--policy", "reuse", "--memory-components", "2"]),
];

/// The usual shapes.
pub(crate) const USUAL: &[Cell] = &[
    Cell::new(50, "tcp").with(&["--policy", "random"]),
    Cell::new(25, "shm").with(&["--prefetch", "0"]),
    Cell::new(10, "shm").with(&["--policy", "reuse", "--memory-components", "3"]),
    Cell::new(2, "shm"),
    Cell::new(30, "shm").usual_sets(),
    Cell::new(2, "tcp").with(&["--policy", "random", "--prefetch", "0"]),
];

/// What is to be run.
pub(crate) struct Case {
    program: PathBuf,
    arguments: Vec<String>,
    input: Vec<u8>,
    prepare: fn(&Path),
    sorted: bool,
    home: Home,
    place: tempfile::TempDir,
}

/// What a run gave.
#[derive(PartialEq, Eq, Debug)]
struct Result {
    ended: Ended,
    stdout: String,
    files: BTreeMap<PathBuf, Entry>,
}

impl Case {
    /// One of our C programs, with arguments separated by spaces.
    pub(crate) fn new(name: &str, arguments: &str) -> Case {
        let split = arguments.split_whitespace().map(str::to_owned).collect();
        Case::of(programs::program(name), split)
    }

    /// Any program.
    pub(crate) fn of(program: PathBuf, arguments: Vec<String>) -> Case {
        Case {
            program,
            arguments,
            input: Vec::new(),
            prepare: |_| (),
            sorted: false,
            home: Home::new(),
            place: scratch::directory("case-"),
        }
    }

    /// Its standard input; empty otherwise.
    pub(crate) fn input(self, input: Vec<u8>) -> Case {
        Case { input, ..self }
    }

    /// Puts files into the working directory of each run.
    pub(crate) fn files(self, prepare: fn(&Path)) -> Case {
        Case { prepare, ..self }
    }

    /// The order of its lines is the file system's affair.
    pub(crate) fn in_any_order(self) -> Case {
        Case {
            sorted: true,
            ..self
        }
    }

    /// Runs natively, with a cache that holds everything, and in each cell.
    pub(crate) fn check(&self, cells: &[Cell]) {
        let (native, said) = self.result(&mut Command::new(&self.program));
        let footprint = self.compare(Cell::new(100, "shm").usual_sets(), FULL, &native, &said);
        for cell in cells {
            let wanted = (footprint * cell.percent / 100).max(LEAST);
            let cache = wanted.next_multiple_of(cell.line * cell.ways.max(1));
            self.compare(*cell, cache, &native, &said);
        }
        self.home.expect_empty();
    }

    /// Compares one run on a testbed; gives the program's footprint in bytes, 0
    /// where it was killed.
    fn compare(&self, cell: Cell, cache: u64, native: &Result, native_said: &Output) -> u64 {
        let stats = self.place.path().join("stats.json");
        let mut command = Command::new(binaries::testbed());
        command
            .args(["run", "--cache", &cache.to_string()])
            .args(["--line", &cell.line.to_string()])
            .args(["--memory", "1G", "--fabric", cell.fabric])
            .args(cell.options);
        if cell.ways > 0 {
            command.arg("--ways").arg(cell.ways.to_string());
        }
        command
            .arg("--stats")
            .arg(&stats)
            .arg("--")
            .arg(&self.program);
        let _ = fs::remove_file(&stats); // of the run before
        let (ours, said) = self.result(&mut command);
        let place = format!("{cell:?}, cache of {cache} bytes: {command:?}\n{said:?}");
        assert!(
            ours == *native,
            "not as natively: {native:?}\nbut {ours:?}\nin {place}"
        );
        assert!(
            said.stderr_text().contains(&native_said.stderr_text()),
            "standard error lacks {:?} in {place}",
            native_said.stderr_text()
        );
        if let Ended::Signal(_) = said.ended {
            return 0; // nobody was left to write statistics
        }
        let resident = read_stat(&stats, "peak_resident_lines");
        assert!(
            resident * cell.line <= cache,
            "{resident} lines resident in {place}"
        );
        read_stat(&stats, "peak_footprint_bytes")
    }

    /// Each run finds the same working directory at the same path, as its path
    /// can be part of the output.
    fn result(&self, command: &mut Command) -> (Result, Output) {
        let work = self.place.path().join("work");
        fs::create_dir(&work).unwrap();
        (self.prepare)(&work);
        command.args(&self.arguments).current_dir(&work);
        let output = run(self.home.mark(command), &self.input);
        let mut stdout = output.stdout_text();
        if self.sorted {
            let mut lines: Vec<_> = stdout.lines().collect();
            lines.sort_unstable();
            stdout = lines.join("\n");
        }
        let result = Result {
            ended: output.ended,
            stdout,
            files: tree(&work),
        };
        fs::remove_dir_all(&work).unwrap();
        (result, output)
    }
}

/// A number from the program's part of a statistics file.
fn read_stat(path: &Path, key: &str) -> u64 {
    let text = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let stats: serde_json::Value = serde_json::from_slice(&text).unwrap();
    stats["process"][key]
        .as_u64()
        .unwrap_or_else(|| panic!("no process.{key} in {stats}"))
}
