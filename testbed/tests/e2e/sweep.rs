//! `testbed sweep`.

use crate::binaries::testbed;
use crate::leftovers::Home;
use crate::process::{DEADLINE, Ended, Output, Running, run};
use crate::programs::program;
use crate::scratch::{directory, text};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const FILES: [&str; 3] = ["sweep.json", "sweep.csv", "sweep.html"];

/// A directory for results, and a sweep that writes there.
struct Lab {
    home: Home,
    place: tempfile::TempDir,
}

impl Lab {
    fn new() -> Lab {
        Lab {
            home: Home::new(),
            place: directory("sweep-"),
        }
    }

    fn out(&self) -> PathBuf {
        self.place.path().join("out")
    }

    fn command(&self, options: &[&str], program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(testbed());
        self.home.mark(&mut command).args(["sweep", "--out"]);
        command
            .arg(self.out())
            .args(["--memory", "1G"])
            .args(options);
        command.arg("--").arg(program).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    fn sweep(&self, options: &[&str], name: &str, arguments: &[&str]) -> Output {
        let output = run(&mut self.command(options, &program(name), arguments), b"");
        self.home.expect_empty();
        output
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.out().join(name)).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.file("sweep.json")).unwrap()
    }

    /// The rows of the table of runs, by heading. No cell here has a comma but
    /// the quoted ones of labels.
    fn rows(&self) -> Vec<Vec<(String, String)>> {
        let text = self.file("sweep.csv");
        let mut lines = text.lines().map(cells);
        let heading = lines.next().unwrap();
        let named = |row: Vec<String>| {
            assert_eq!(row.len(), heading.len(), "{row:?}");
            heading.iter().cloned().zip(row).collect()
        };
        lines.map(named).collect()
    }
}

/// The cells of a line of CSV.
fn cells(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            c => cells.last_mut().unwrap().push(c),
        }
    }
    cells
}

fn cell<'a>(row: &'a [(String, String)], name: &str) -> &'a str {
    let found = row.iter().find(|(heading, _)| heading == name);
    &found.unwrap_or_else(|| panic!("no {name} in {row:?}")).1
}

#[test]
fn json_csv_and_page_agree() {
    let lab = Lab::new();
    let input = lab.place.path().join("text");
    fs::write(&input, text(5, 300_000)).unwrap();
    let options = ["--cache", "30,100%", "--fabric", "shm,tcp", "--runs", "2"];
    let output = lab.sweep(&options, "wordcount", &[input.to_str().unwrap(), "1", "5"]);
    assert_eq!(output.ended, Ended::Exit(0), "{output:?}");
    assert!(output.stderr_text().contains("left"), "{output:?}");

    let sweep = lab.json();
    assert_eq!(sweep["complete"], true);
    let footprint = sweep["footprint_bytes"].as_u64().unwrap();
    assert!(footprint >= 300_000, "{footprint}");
    let points = sweep["points"].as_array().unwrap();
    let runs = sweep["runs"].as_array().unwrap();
    assert_eq!((points.len(), runs.len()), (1 + 4, 2 * (1 + 4)));
    // In turn: each point once before any comes again.
    let order: Vec<u64> = runs
        .iter()
        .map(|run| run["point"].as_u64().unwrap())
        .collect();
    assert_eq!(order, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
    for (point, summary) in points.iter().zip(sweep["summaries"].as_array().unwrap()) {
        assert_eq!(
            (&summary["right"], &summary["wrong"]),
            (&2.into(), &0.into())
        );
        let of = |key: &str| summary["wall_ns"][key].as_f64().unwrap();
        assert!(0.0 < of("min") && of("min") <= of("median") && of("median") <= of("max"));
        if point["kind"] == "testbed" {
            let share = point["share_percent"].as_f64().unwrap();
            assert!((0.0..=100.0).contains(&share), "{point}");
            assert!(
                summary["counters"]["faults"].as_f64().unwrap() > 0.0,
                "{summary}"
            );
        }
    }

    let rows = lab.rows();
    assert_eq!(rows.len(), runs.len());
    for (row, run) in rows.iter().zip(runs) {
        let point = &points[usize::try_from(run["point"].as_u64().unwrap()).unwrap()];
        assert_eq!(cell(row, "label"), point["label"]);
        assert_eq!(cell(row, "wall_ns"), run["wall_ns"].to_string());
        assert_eq!(cell(row, "round"), run["round"].to_string());
        let fetched = &run["process"]["bytes"]["fetched"];
        let fetched = fetched.as_u64().map(|n| n.to_string()).unwrap_or_default();
        assert_eq!(cell(row, "fetched_bytes"), fetched);
    }

    let page = lab.file("sweep.html");
    assert!(page.trim_end().ends_with("</html>"));
    let whiskers = page.matches("<path class=\"whisker").count();
    assert_eq!(whiskers, 4, "one for each point of a testbed");
    for point in points {
        let label = point["label"].as_str().unwrap();
        assert!(page.contains(&format!("<td>{label}</td>")), "{label}");
    }

    let again = lab.sweep(&options, "wordcount", &[]);
    assert_eq!(again.ended, Ended::Exit(125), "{again:?}");
    assert!(again.stderr_text().contains("exists"), "{again:?}");
}

/// pagewalk prints the nanoseconds that it measured.
#[test]
fn output_that_differs_is_wrong_unless_masked() {
    let options = ["--cache", "100%", "--runs", "1"];
    let lab = Lab::new();
    let output = lab.sweep(&options, "pagewalk", &["2"]);
    assert_eq!(output.ended, Ended::Exit(1), "{output:?}");
    assert!(
        output
            .stderr_text()
            .contains("wrong: testbed, 100%, round 1"),
        "{output:?}"
    );
    let sweep = lab.json();
    assert_eq!(sweep["summaries"][1]["right"], 0);
    assert!(
        sweep["runs"][1]["wrong"]
            .as_str()
            .unwrap()
            .contains("differs")
    );
    assert!(cell(&lab.rows()[1], "wrong").contains("differs"));
    assert!(lab.file("sweep.html").contains("output differs"));

    let lab = Lab::new();
    let masked = [&options[..], &["--mask", "[0-9.]+", "--mask", " +"]].concat();
    let output = lab.sweep(&masked, "pagewalk", &["2"]);
    assert_eq!(output.ended, Ended::Exit(0), "{output:?}");
    assert_eq!(lab.json()["summaries"][1]["right"], 1);
}

#[test]
fn an_interrupt_writes_what_there_is() {
    let lab = Lab::new();
    let options = ["--cache", "100%", "--runs", "1000"];
    let mut running = Running::start(&mut lab.command(&options, &program("echo"), &[]));
    let until = Instant::now() + DEADLINE;
    while !String::from_utf8_lossy(&running.stderr()).contains("round 2 of 1000, native") {
        assert!(Instant::now() < until, "no second round");
        std::thread::sleep(Duration::from_millis(5));
    }
    running.signal(Signal::INT);
    assert_eq!(running.wait(), Ended::Signal(2));
    lab.home.expect_empty();
    let sweep = lab.json();
    assert_eq!(sweep["complete"], false);
    let runs = sweep["runs"].as_array().unwrap().len();
    assert!((3..1000).contains(&runs), "{runs}");
    assert_eq!(lab.rows().len(), runs);
    assert!(lab.file("sweep.html").contains("Stopped before its end"));
}

/// Run directories that are there, by what they are for.
fn directories(lab: &Lab, of: &str) -> Vec<PathBuf> {
    let prefix = format!("splitkernel-{of}-");
    let entries = fs::read_dir(lab.home.path()).unwrap().flatten();
    let wanted = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    wanted.map(|entry| entry.path()).collect()
}

/// Waits until a sweep has said so, and watches its directories meanwhile.
fn watch(lab: &Lab, running: &Running, text: &str, mut see: impl FnMut(&Lab)) {
    let until = Instant::now() + DEADLINE;
    while !String::from_utf8_lossy(&running.stderr()).contains(text) {
        assert!(Instant::now() < until, "it never said {text:?}");
        see(lab);
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The run directories for `of` that a sweep has until it says `text`; it makes
/// none for `others`.
fn testbeds(options: &[&str], text: &str, of: &str, others: &str) -> usize {
    let lab = Lab::new();
    let mut seen = std::collections::BTreeSet::new();
    let mut running = Running::start(&mut lab.command(options, &program("echo"), &[]));
    watch(&lab, &running, text, |lab| {
        seen.extend(directories(lab, of));
        assert!(directories(lab, others).is_empty());
    });
    assert_eq!(running.wait(), Ended::Exit(0));
    lab.home.expect_empty();
    seen.len()
}

#[test]
fn one_testbed_for_each_network_serves_all_runs() {
    let options = ["--cache", "50,100%", "--fabric", "shm,tcp", "--runs", "2"];
    let kept = testbeds(&options, "round 2 of 2, tcp, 100%", "sweep", "run");
    assert_eq!(kept, 2);
    let options = ["--cache", "100%", "--fresh", "--runs", "2"];
    let fresh = testbeds(&options, "round 2 of 2, testbed", "run", "sweep");
    // The footprint's and one a round, if the looks were not too far apart.
    assert!((2..=3).contains(&fresh), "{fresh}");
}

#[test]
fn a_component_that_dies_costs_one_run() {
    let lab = Lab::new();
    let options = ["--cache", "100%", "--runs", "2"];
    let busy = program("busy");
    let mut running = Running::start(&mut lab.command(&options, &busy, &["2", "200000"]));
    watch(&lab, &running, "round 1 of 2, native", |_| {});
    let memory = lab.home.component("mcomponent", running.pid());
    // The component and a program: it can't do without its memory.
    let until = Instant::now() + DEADLINE;
    let processors = |lab: &Lab| {
        let processes = lab.home.processes().into_iter();
        processes.filter(|p| p.binary == "pcomponent").count()
    };
    while processors(&lab) < 2 {
        assert!(Instant::now() < until, "no program");
    }
    rustix::process::kill_process(memory, Signal::KILL).unwrap();
    let ended = running.wait();
    let said = String::from_utf8_lossy(&running.stderr()).into_owned();
    assert!(said.contains("mcomponent m0"), "{said}");
    assert!(said.contains("gets a new testbed"), "{said}");
    lab.home.expect_empty();
    let sweep = lab.json();
    assert_eq!(sweep["summaries"][1]["wrong"], 1, "{said}");
    assert_eq!(sweep["summaries"][1]["right"], 1, "{said}");
    let wrong = sweep["runs"][1]["wrong"].as_str().unwrap();
    assert!(wrong.contains("mcomponent m0"), "{wrong}");
    assert_eq!(ended, Ended::Exit(1), "{said}");
}

#[test]
fn a_testbed_that_is_up_can_be_swept() {
    let lab = Lab::new();
    let file = lab.place.path().join("lab.toml");
    let text = "name = \"lab\"\nfabric = \"tcp\"\nemulate = \"latency=50us\"\n[[memory]]\nname = \"m0\"\nsize = \"512MiB\"\n\
                [[storage]]\nname = \"s0\"\nroot = \"/\"\n[[processor]]\nname = \"p0\"\n\
                [cache]\nline = \"16KiB\"\n";
    fs::write(&file, text).unwrap();
    let testbed_of = |arguments: &[&str]| {
        let mut command = Command::new(testbed());
        run(lab.home.mark(&mut command).args(arguments), b"")
    };
    let up = testbed_of(&["up", file.to_str().unwrap()]);
    assert_eq!(up.ended, Ended::Exit(0), "{up:?}");
    let out = lab.out();
    let mut sweep = Command::new(testbed());
    lab.home
        .mark(&mut sweep)
        .args(["sweep", "--on", "lab", "--runs", "1", "--out"]);
    sweep
        .arg(&out)
        .args(["--cache", "100%", "--"])
        .arg(program("echo"));
    let output = run(&mut sweep, b"");
    assert_eq!(output.ended, Ended::Exit(0), "{output:?}");
    let json = lab.json();
    assert_eq!(json["series"][0]["fabric"], "tcp");
    assert_eq!(json["memory_bytes"], 512 << 20);
    let row = &lab.rows()[1];
    assert_eq!(cell(row, "emulate"), "latency=50us");
    assert_eq!(cell(row, "line_bytes"), "16384");
    assert_eq!(json["summaries"][1]["right"], 1);
    let missing = [
        "sweep",
        "--on",
        "lab",
        "--out",
        "/dev/null/x",
        "--",
        "/no/such",
    ];
    let missing = testbed_of(&missing);
    assert_eq!(missing.ended, Ended::Exit(127), "{missing:?}");
    let said = missing.stderr_text();
    assert!(
        said.contains("/no/such") && said.contains("this machine"),
        "{said}"
    );
    let down = testbed_of(&["down", "lab"]);
    assert_eq!(down.ended, Ended::Exit(0), "{down:?}");
    let gone = testbed_of(&["sweep", "--on", "lab", "--out", "/dev/null/x", "--", "true"]);
    assert_eq!(gone.ended, Ended::Exit(125), "{gone:?}");
    assert!(gone.stderr_text().contains("\"lab\""), "{gone:?}");
    assert!(lab.home.processes().is_empty());
}

#[test]
fn what_cannot_be_swept_is_said() {
    for (arguments, status, words) in [
        (&["--cache", "ten%"][..], 125, "--cache"),
        (&["--cache", "4K"], 125, "--cache 131072"),
        (&["--cache", "1000000", "--ways", "64"], 125, "--ways"),
        (
            &["--latency", "3us", "--emulate", "latency=1us"],
            125,
            "--latency",
        ),
        (&["--swap", "zram"], 125, "--baseline"),
        (&["--runs", "0"], 125, "--runs"),
        (&["--on", "lab", "--fabric", "tcp"], 125, "--on"),
        (&["--on", "lab", "--fresh"], 125, "--on"),
        (&["--on", "no-such"], 125, "no testbed \"no-such\" is up"),
        (&["--on", "/dev"], 125, "no testbed \"/dev\" is up"),
        (&["--out", "/dev/null/x"], 125, "--out"),
    ] {
        let output = run(
            Command::new(testbed())
                .arg("sweep")
                .args(arguments)
                .args(["--", "true"]),
            b"",
        );
        assert_eq!(
            output.ended,
            Ended::Exit(status),
            "{arguments:?} {output:?}"
        );
        assert!(
            output.stderr_text().contains(words),
            "{arguments:?} {output:?}"
        );
    }
    let lab = Lab::new();
    let output = run(&mut lab.command(&[], Path::new("/no/such"), &[]), b"");
    assert_eq!(output.ended, Ended::Exit(127), "{output:?}");
    assert!(FILES.iter().all(|name| !lab.out().join(name).exists()));
    // A program that is not static can't be measured: said before any round.
    let output = run(
        &mut lab.command(&["--runs", "1"], Path::new("/bin/sh"), &["-c", ":"]),
        b"",
    );
    assert_eq!(output.ended, Ended::Exit(125), "{output:?}");
    assert!(output.stderr_text().contains("static"), "{output:?}");
}

/// What `--baseline swap` needs.
pub(crate) fn can_swap() -> bool {
    rustix::process::geteuid().is_root()
        && Path::new("/sys/class/zram-control").exists()
        && (Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists()
            || fs::read_to_string("/sys/fs/cgroup/cgroup.subtree_control")
                .is_ok_and(|given| given.contains("memory")))
}

/// Held by tests that swap: each looks at what is left of it on all the machine.
pub(crate) fn swapping() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn swaps() -> Vec<String> {
    let text = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let names = text
        .lines()
        .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()));
    names.collect()
}

pub(crate) fn groups(of: u32) -> usize {
    let name = format!("splitkernel-sweep-{of}-");
    ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"]
        .iter()
        .flat_map(|path| fs::read_dir(path).into_iter().flatten().flatten())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&name))
        .count()
}

/// Makes and removes swap, where that can be done; elsewhere the refusal says
/// what is missing.
#[test]
fn a_baseline_leaves_nothing_behind() {
    let able = can_swap();
    let lab = Lab::new();
    let _alone = swapping();
    let before = swaps();
    let options = ["--cache", "60%", "--runs", "1", "--baseline", "swap"];
    let masked = [&options[..], &["--mask", "[0-9.]+", "--mask", " +"]].concat();
    let mut running =
        Running::start(&mut lab.command(&masked, &program("pagewalk"), &["48", "20000"]));
    let number = running.child().id();
    let ended = running.wait();
    let said = String::from_utf8_lossy(&running.stderr()).into_owned();
    lab.home.expect_empty();
    assert_eq!(swaps(), before, "{said}");
    assert_eq!(groups(number), 0, "{said}");
    if !able {
        eprintln!("SKIPPED: no root, zram or memory cgroups here, so no baseline is tested");
        assert_eq!(ended, Ended::Exit(125), "{said}");
        assert!(said.contains("--baseline swap"), "{said}");
        return;
    }
    assert_eq!(ended, Ended::Exit(0), "{said}");
    let sweep = lab.json();
    let runs = sweep["runs"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|run| run["point"] == 2);
    // A killed run is no baseline, and shown as such; a right one has swapped.
    for run in runs {
        match run["wrong"].as_str() {
            Some(why) => assert!(why.contains("memory"), "{run}"),
            None => assert!(run["swap_peak_bytes"].as_u64().unwrap() > 1 << 20, "{run}"),
        }
    }
    assert!(
        lab.file("sweep.html")
            .contains("natively with as much memory")
    );
}
