//! `testbed demo`: a word count over a real text, natively and on a testbed.

mod corpus;

use crate::cli::DemoArgs;
use crate::compile::compile;
use crate::ending::Ending;
use crate::out::{show, show_error};
use crate::places::cache_home;
use crate::shape::CacheSize;
use crate::table::{bytes, nanoseconds};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

/// The program: plain C, compiled here.
const SOURCE: &str = include_str!("../../programs/wordcount.c");

/// Most frequent words shown.
const TOP: &str = "10";

/// Runs it.
pub(crate) fn run(args: &DemoArgs) -> Result<Ending> {
    crate::doctor::refuse_unless_able()?;
    let text = corpus::text(&cache_home(), args.size)?;
    let place = tempfile::tempdir().context("a directory for the demo")?;
    step("compiling the word count: a static C program");
    let sources = [("wordcount.c", SOURCE)];
    let program = compile(place.path(), "wordcount", &sources)?;
    let threads = args.threads.to_string();
    let arguments = [text.as_os_str(), threads.as_ref(), TOP.as_ref()];
    step("running it natively");
    let begun = Instant::now();
    let native = Command::new(&program)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let native_ns = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let native = checked(native.context("the word count")?, "natively")?;
    let (ours, stats) = on_testbed(args, place.path(), &program, &arguments)?;
    let same = ours.stdout == native.stdout;
    let said = String::from_utf8_lossy(&ours.stdout);
    let compared = compare(same, native_ns, &stats);
    show(&format!(
        "{said}\n{compared}{}",
        crate::report::text(&stats)
    ))?;
    Ok(Ending::Exit(if same { 0 } else { 1 }))
}

fn step(what: &str) {
    show_error(&format!("demo: {what}\n"));
}

fn compare(same: bool, native_ns: u64, stats: &Value) -> String {
    let ours_ns = stats["process"]["wall_ns"].as_u64().unwrap_or(0);
    format!(
        "output                 {}\n\
         natively               {}\n\
         on the testbed         {} ({:.1} times as long)\n",
        if same {
            "as natively"
        } else {
            "NOT AS NATIVELY"
        },
        nanoseconds(native_ns),
        nanoseconds(ours_ns),
        ours_ns as f64 / native_ns.max(1) as f64
    )
}

fn checked(output: Output, how: &str) -> Result<Output> {
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    bail!(
        "the word count failed {how} ({}): {}",
        output.status,
        said.trim()
    )
}

/// The same as a person would do it: `testbed run --cache .. --stats ..`.
fn on_testbed(
    args: &DemoArgs,
    place: &Path,
    program: &Path,
    arguments: &[&std::ffi::OsStr],
) -> Result<(Output, Value)> {
    let cache = match args.cache {
        CacheSize::Bytes(size) => {
            step(&format!(
                "running it on a testbed, with a cache of {}",
                bytes(size)
            ));
            size.to_string()
        }
        CacheSize::Percent(percent) => {
            step(&format!(
                "running it on a testbed twice: to learn its footprint, then with a cache of \
                 {percent}% of that"
            ));
            format!("{percent}%")
        }
    };
    let stats = place.join("stats.json");
    let mut command = Command::new("/proc/self/exe");
    command.args([
        "run",
        "--cache",
        &cache,
        "--fabric",
        args.fabric.name(),
        "--stats",
    ]);
    command.arg(&stats).arg("--").arg(program).args(arguments);
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = checked(command.output().context("testbed run")?, "on the testbed")?;
    let text = std::fs::read(&stats).context("the statistics of the run")?;
    Ok((
        output,
        serde_json::from_slice(&text).context("the statistics of the run")?,
    ))
}
