//! `testbed doctor`: what this host offers; and the same checks at start-up.

use crate::ending::Ending;
use crate::out::show;
use crate::places::{self, BINARIES, Binaries};
use crate::table::{bytes, number};
use anyhow::{Result, bail};
use host::probe::{self, Finding, Level};
use rustix::process::{Resource, getrlimit};
use serde_json::json;
use std::fs::read_to_string;
use std::os::unix::net::UnixListener;
use std::path::Path;

/// A heading and what was found below it.
type Chapter = (&'static str, Vec<Finding>);

/// Fails, in the words of `testbed doctor`, where no program could run.
pub(crate) fn refuse_unless_able() -> Result<()> {
    let Err(missing) = probe::required() else {
        return Ok(());
    };
    let lines: Vec<String> = missing
        .iter()
        .map(|finding| format!("  {finding}"))
        .collect();
    bail!(
        "this host lacks what every program needs (see `testbed doctor`):\n{}",
        lines.join("\n")
    )
}

/// What `testbed doctor --json` says.
pub(crate) fn json() -> Result<String> {
    Ok(serde_json::to_string(&to_json(&look()))?)
}

fn look() -> [Chapter; 4] {
    [
        ("kernel", kernel()),
        ("limits", limits()),
        ("network", network()),
        ("testbed", own()),
    ]
}

/// Looks at everything and shows it.
pub(crate) fn run(as_json: bool) -> Result<Ending> {
    let chapters = look();
    if as_json {
        show(&format!("{:#}\n", to_json(&chapters)))?;
    } else {
        show(&to_text(&chapters))?;
    }
    let missing = |finding: &Finding| finding.level == Level::Missing;
    let able = !chapters
        .iter()
        .flat_map(|(_, findings)| findings)
        .any(missing);
    Ok(Ending::Exit(if able { 0 } else { 1 }))
}

fn to_json(chapters: &[Chapter]) -> serde_json::Value {
    let show = |chapter: &str, finding: &Finding| {
        json!({
            "chapter": chapter,
            "name": finding.name,
            "level": finding.level.to_string(),
            "seen": finding.seen,
            "lost": finding.lost,
            "cure": finding.cure,
        })
    };
    let all = chapters
        .iter()
        .flat_map(|(chapter, findings)| findings.iter().map(move |finding| show(chapter, finding)));
    json!({ "findings": all.collect::<Vec<_>>() })
}

fn to_text(chapters: &[Chapter]) -> String {
    let mut out = String::new();
    for (chapter, findings) in chapters {
        out += &format!("{chapter}\n");
        for Finding {
            name,
            level,
            seen,
            lost,
            cure,
        } in findings
        {
            out += &format!("  {:8}  {name}: {seen}\n", level.to_string());
            if *level != Level::Ok {
                out += &format!("            lost without it: {lost}\n");
                out += &format!("            to get it: {cure}\n");
            }
        }
    }
    let all = || chapters.iter().flat_map(|(_, findings)| findings);
    let count = |level: Level| all().filter(|finding| finding.level == level).count();
    let verdict = match (count(Level::Missing), count(Level::Degraded)) {
        (0, 0) => "everything is there".to_owned(),
        (0, degraded) => format!("programs run; {degraded} thing(s) could be better"),
        (missing, _) => format!("programs can't run: {missing} thing(s) are missing"),
    };
    out + &format!("\n{verdict}\n")
}

fn kernel() -> Vec<Finding> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let machine = uname.machine().to_string_lossy().into_owned();
    let mut all = vec![Finding::ok("Linux", format!("{release}, {machine}"))];
    all.extend(probe::userfaultfd());
    all.push(userfaultfd_permission());
    all.extend([
        probe::dispatch(),
        probe::segment_bases(),
        probe::memory_files(),
        probe::pagemap_scan(),
        probe::process_madvise(),
    ]);
    all
}

/// For people who wonder: user-mode faults, all that is used, need no
/// permission (userfaultfd(2), UFFD_USER_MODE_ONLY).
fn userfaultfd_permission() -> Finding {
    let setting = number_in("/proc/sys/vm/unprivileged_userfaultfd");
    let setting = setting.map_or("absent".to_owned(), |value| value.to_string());
    let device = if Path::new("/dev/userfaultfd").exists() {
        "present"
    } else {
        "absent"
    };
    Finding::ok(
        "userfaultfd: permission",
        format!(
            "none needed (vm.unprivileged_userfaultfd is {setting}, /dev/userfaultfd {device})"
        ),
    )
}

fn limits() -> Vec<Finding> {
    vec![
        descriptors(),
        mappings(),
        locked_memory(),
        overcommit(),
        free_memory(),
        processors(),
    ]
}

fn descriptors() -> Finding {
    const NAME: &str = "open files (RLIMIT_NOFILE)";
    let limit = getrlimit(Resource::Nofile);
    let shown = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), number);
    let seen = format!("{}, at most {}", shown(limit.current), shown(limit.maximum));
    if limit.current.is_none_or(|soft| soft >= 1024) {
        return Finding::ok(NAME, seen);
    }
    let (lost, cure) = (
        "programs with many threads, each with connections of its own, run out of descriptors",
        "ulimit -n 4096",
    );
    Finding::lacking(NAME, Level::Degraded, seen, lost, cure)
}

fn mappings() -> Finding {
    const NAME: &str = "mappings of a process (vm.max_map_count)";
    let count = number_in("/proc/sys/vm/max_map_count").unwrap_or(0);
    if count >= 65_530 {
        return Finding::ok(NAME, number(count));
    }
    Finding::lacking(
        NAME,
        Level::Degraded,
        number(count),
        "programs with many mappings get ENOMEM earlier than on other hosts",
        "sysctl vm.max_map_count=65530",
    )
}

fn locked_memory() -> Finding {
    let limit = getrlimit(Resource::Memlock).current;
    let seen = limit.map_or("unlimited".to_owned(), bytes);
    Finding::ok(
        "locked memory (RLIMIT_MEMLOCK)",
        format!("{seen}; shm and tcp lock none, verbs locks granted memory"),
    )
}

fn overcommit() -> Finding {
    const NAME: &str = "overcommit (vm.overcommit_memory)";
    match number_in("/proc/sys/vm/overcommit_memory") {
        Some(2) => Finding::lacking(
            NAME,
            Level::Degraded,
            "2, strict",
            "large sparse mappings of programs may be refused",
            "sysctl vm.overcommit_memory=0",
        ),
        Some(mode) => Finding::ok(NAME, mode.to_string()),
        None => Finding::ok(NAME, "unknown"),
    }
}

fn free_memory() -> Finding {
    const NAME: &str = "free memory";
    const LITTLE: u64 = 1 << 30;
    let text = read_to_string("/proc/meminfo").unwrap_or_default();
    let available = available_memory(&text).unwrap_or(0);
    if available >= LITTLE {
        return Finding::ok(NAME, bytes(available));
    }
    Finding::lacking(
        NAME,
        Level::Degraded,
        bytes(available),
        "memory components may offer more than there is, and the host begins to swap",
        "end other programs, or offer less with --memory",
    )
}

/// Bytes of `MemAvailable` (proc(5)).
fn available_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn processors() -> Finding {
    const NAME: &str = "processors";
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if count > 1 {
        return Finding::ok(NAME, count.to_string());
    }
    Finding::lacking(
        NAME,
        Level::Degraded,
        "1",
        "components take the program's only processor: messages are slow",
        "a machine with two or more",
    )
}

fn network() -> Vec<Finding> {
    let mut all = vec![sockets()];
    all.extend(fabric::verbs::probe());
    all
}

/// Makes a run directory as `testbed run` does, with a socket in it.
fn sockets() -> Finding {
    const NAME: &str = "run directory with Unix sockets";
    let probed = places::run_directory("doctor").and_then(|directory| {
        places::make_private(&directory)?;
        let bound = UnixListener::bind(directory.join("socket"));
        let removed = std::fs::remove_dir_all(&directory);
        bound?;
        removed?;
        Ok(directory)
    });
    match probed {
        Ok(directory) => {
            let parent = directory.parent().unwrap_or(Path::new("/"));
            Finding::ok(NAME, parent.display().to_string())
        }
        Err(why) => Finding::lacking(
            NAME,
            Level::Missing,
            format!("{why:#}"),
            "components can't meet, nothing starts",
            "set XDG_RUNTIME_DIR to a directory of yours, or make /tmp writable",
        ),
    }
}

fn own() -> Vec<Finding> {
    const NAME: &str = "component binaries";
    vec![match Binaries::find() {
        Ok(_) => {
            let place = Binaries::directory().unwrap_or_default();
            Finding::ok(
                NAME,
                format!("{} in {}", BINARIES.join(", "), place.display()),
            )
        }
        Err(why) => Finding::lacking(
            NAME,
            Level::Missing,
            format!("{why:#}"),
            "nothing starts",
            "cargo build --release, or set SPLITKERNEL_BIN_DIR",
        ),
    }]
}

fn number_in(path: &str) -> Option<u64> {
    read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chapters() -> Vec<Chapter> {
        let lacking = Finding::lacking("RDMA", Level::Degraded, "none", "speed", "buy some");
        vec![
            ("kernel", vec![Finding::ok("Linux", "6.1")]),
            ("network", vec![lacking]),
        ]
    }

    #[test]
    fn what_is_lost_and_how_to_get_it_is_said() {
        let text = to_text(&chapters());
        for words in [
            "ok        Linux: 6.1",
            "degraded  RDMA: none",
            "lost without it: speed",
            "buy some",
        ] {
            assert!(text.contains(words), "lacks {words:?}: {text}");
        }
        assert!(
            text.ends_with("programs run; 1 thing(s) could be better\n"),
            "{text}"
        );
    }

    #[test]
    fn json_has_every_finding() {
        let json = to_json(&chapters());
        assert_eq!(json["findings"][1]["cure"], "buy some");
        assert_eq!(json["findings"][0]["level"], "ok");
    }

    #[test]
    fn available_memory_is_read() {
        let text = "MemTotal:       100 kB\nMemAvailable:       12 kB\n";
        assert_eq!(available_memory(text), Some(12 << 10));
        assert_eq!(available_memory("MemTotal: 100 kB\n"), None);
    }
}
