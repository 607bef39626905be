//! Command line.

mod misses;

pub(crate) use misses::{BenchCacheArgs, TraceArgs};

use crate::plan::Fabric;
use crate::shape::{CacheSize, parse_cache, parse_line, parse_switch};
use clap::{Args, Parser, Subcommand, ValueEnum};
use fabric::Emulation;
use proto::process::Policy;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Runs unmodified static Linux programs on a disaggregated machine: processor,
/// memory and storage components that share nothing but a network.
///
/// Begin with `testbed doctor`, which says what this host offers, and
/// `testbed demo`. Then: testbed run --cache 64M -- PROGRAM ARGS...
#[derive(Parser, Debug)]
#[command(version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Runs a program on a testbed made for it, or on one that is up.
    ///
    /// Standard input, output, error, signals and the exit status pass through
    /// unchanged; nothing of the testbed is left afterwards. Other statuses:
    /// 125 the system failed (the message says which component and how) or an
    /// option is wrong, 126 the program can't be executed, 127 it was not found.
    Run(Box<RunArgs>),
    /// Brings a testbed up that stays, as a file describes it.
    Up(UpArgs),
    /// Takes a testbed down: ends what runs on it and removes all of it.
    Down {
        /// Which.
        name: String,
    },
    /// Shows a testbed's components and processes.
    Status {
        /// Which; may be left out when one is up.
        name: Option<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows what a testbed does now: programs with their misses, memory
    /// components, links. q or Ctrl-C ends it.
    Top(TopArgs),
    /// Lists the testbeds that are up.
    List,
    /// Runs a command of a testbed's host itself, such as `ibv_devinfo`, and
    /// shows its output when it has ended.
    Exec {
        /// Which testbed.
        name: String,
        /// Which host.
        host: String,
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Shows what a testbed's components log, wherever they run.
    Logs {
        /// Which.
        name: String,
        /// One component, or `supervisor`; all if left out.
        component: Option<String>,
    },
    /// Checks what this host offers: for each thing, whether it is there, what
    /// is lost without it, and how to get it. Status 1 if something that every
    /// program needs is missing.
    Doctor {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Counts the words of a real text, natively and on a testbed whose cache
    /// holds a share of what the program needs; compares the output and shows
    /// where the time went.
    Demo(DemoArgs),
    /// Reads a trace that `testbed run --trace` wrote: a summary, or every
    /// record for other programs.
    Trace(TraceArgs),
    /// Runs a program with caches of several sizes, and natively, several times
    /// in turn; writes what came out as JSON, CSV and a page with charts.
    ///
    /// Every list is combined with every other. Outputs are compared with the
    /// native run's. Status 1 if one was wrong, which is named.
    Sweep(Box<crate::sweep::SweepArgs>),
    /// Measures the testbed itself.
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
    /// A testbed of virtual machines on this computer, joined by soft-RoCE.
    #[command(subcommand)]
    Vm(crate::vm::Vm),
    /// Owns virtual machines; started by `testbed vm up`.
    #[command(hide = true)]
    VmSupervise {
        /// Which.
        name: String,
    },
    /// Cleans up behind a testbed that was killed; started by testbed.
    #[command(hide = true)]
    Janitor {
        /// The run directory.
        directory: PathBuf,
    },
    /// Serves a testbed on another host; started by `testbed up` over ssh, or by
    /// a virtual machine's init.
    #[command(hide = true)]
    Agent {
        /// Over standard input and output.
        #[arg(long, required_unless_present = "device", conflicts_with = "device")]
        stdio: bool,
        /// Over a device, such as a virtio serial port, again and again.
        #[arg(long, value_name = "PATH")]
        device: Option<PathBuf>,
        /// Directory of the component binaries.
        #[arg(long, value_name = "DIR")]
        binaries: Option<PathBuf>,
    },
    /// Owns the components of a testbed that stays; started by `testbed up`.
    #[command(hide = true)]
    Supervise {
        /// Which.
        name: String,
    },
}

/// See [`Command::Bench`].
#[derive(Subcommand, Debug)]
pub(crate) enum Bench {
    /// Compares the emulated network with what was asked, per backend.
    Calibrate {
        /// One network to measure instead of the usual ones, e.g.
        /// latency=3us,bandwidth=40Gbit.
        #[arg(long, value_name = "SPEC")]
        emulate: Option<EmulationSpec>,
    },
    /// Latency and bandwidth of one-sided reads and writes and of calls, by
    /// size, in perftest's terms.
    ///
    /// Alone, both ends are on this machine, in two processes; beside tcp, a bare
    /// ping-pong of 64 bytes and 4 KiB over a socket is measured. Between two machines, one waits:
    /// testbed bench fabric --listen tcp:0.0.0.0:7471 --key FILE, and the
    /// other asks: testbed bench fabric --to tcp:HOST:7471 --key FILE, with the
    /// same key file.
    Fabric(BenchFabricArgs),
    /// What an access to memory and a miss of the cache cost, by pattern, mix
    /// and threads: a C program, compiled here, fills memory and walks it.
    ///
    /// `--cache` is 100M where nothing else is said, or a share of the
    /// footprint.
    Cache(Box<BenchCacheArgs>),
    /// What system calls cost natively and on a testbed: a C program, compiled
    /// here, makes them in turn on both. Figures are medians.
    Calls(BenchCallsArgs),
    /// What this host charges for the parts of a miss: system calls, faults,
    /// filling, protecting and dropping pages, copies, wake-ups. A C program,
    /// compiled here, makes them without a testbed.
    ///
    /// It runs on the first CPU that it may use, and what takes another one on
    /// the next: `taskset -c 0,2` in front of the command chooses them. What
    /// this host lacks is said; the rest is measured.
    Host(BenchHostArgs),
    /// The answering end of `bench fabric` on one machine; started by it.
    #[command(hide = true)]
    Answer {
        /// An address.
        listen: String,
        /// The key of both ends.
        key: PathBuf,
    },
}

/// See [`Bench::Calls`].
#[derive(Args, Clone, Debug)]
pub(crate) struct BenchCallsArgs {
    /// Runs of each, alternating.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) rounds: u16,
    /// What carries messages and pages between components.
    #[arg(long, value_enum, default_value_t = Fabric::Auto)]
    pub(crate) fabric: Fabric,
    /// Leaves the program's code as it is, as for `testbed run`.
    #[arg(long)]
    pub(crate) no_rewrite: bool,
    /// Ends a run that takes longer, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = parse_seconds)]
    pub(crate) timeout: Duration,
    /// Prints JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// See [`Bench::Host`].
#[derive(Args, Clone, Debug)]
pub(crate) struct BenchHostArgs {
    /// Runs of the program, each of which makes everything many times.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) rounds: u16,
    /// Prints JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// See [`Bench::Fabric`].
#[derive(Args, Clone, Debug)]
pub(crate) struct BenchFabricArgs {
    /// Which backend, with both ends on this machine; auto is each in turn.
    #[arg(long, value_enum, default_value_t = Fabric::Auto, conflicts_with_all = ["listen", "to"])]
    pub(crate) fabric: Fabric,
    /// Waits at this address until it is ended.
    #[arg(long, value_name = "ADDRESS", requires = "key", conflicts_with = "to")]
    pub(crate) listen: Option<String>,
    /// Asks the one that waits at this address.
    #[arg(long, value_name = "ADDRESS", requires = "key")]
    pub(crate) to: Option<String>,
    /// The links of this testbed that is up, from its processor components.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["listen", "to", "key", "fabric", "emulate"])]
    pub(crate) on: Option<String>,
    /// The key of both ends; made by the one that waits if it isn't there.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Sizes, e.g. 64,4K,1M.
    #[arg(long, value_name = "SIZES", value_delimiter = ',', default_values = ["8", "64", "1K", "4K", "16K", "64K", "256K", "1M"], value_parser = member::parse_size)]
    pub(crate) sizes: Vec<u64>,
    /// Which operations.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["read", "write", "rpc"])]
    pub(crate) operations: Vec<Operation>,
    /// Seconds for each latency and each bandwidth.
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = parse_seconds)]
    pub(crate) time: std::time::Duration,
    /// A network to be emulated on top, e.g. latency=3us,bandwidth=40Gbit.
    #[arg(long, value_name = "SPEC")]
    pub(crate) emulate: Option<EmulationSpec>,
    /// Runs perftest's own programs between the same two machines as well.
    #[arg(long, conflicts_with = "listen")]
    pub(crate) perftest: bool,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What is measured over a link.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Operation {
    /// A one-sided read.
    Read,
    /// A one-sided write.
    Write,
    /// A call and its answer.
    Rpc,
}

impl Operation {
    /// As tables have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Rpc => "rpc",
        }
    }
}

fn parse_seconds(text: &str) -> Result<std::time::Duration, String> {
    let seconds = text
        .parse::<f64>()
        .ok()
        .filter(|s| (0.001..=3600.0).contains(s));
    seconds
        .map(std::time::Duration::from_secs_f64)
        .ok_or_else(|| format!("{text:?}: give seconds from 0.001 to 3600"))
}

/// An emulated network, understood, and as it was written: so it is handed on.
#[derive(Clone, Debug)]
pub(crate) struct EmulationSpec {
    pub(crate) text: String,
    pub(crate) network: Emulation,
}

impl FromStr for EmulationSpec {
    type Err = <Emulation as FromStr>::Err;

    fn from_str(text: &str) -> Result<EmulationSpec, Self::Err> {
        let (text, network) = (text.to_owned(), text.parse()?);
        Ok(EmulationSpec { text, network })
    }
}

/// See [`Command::Run`].
#[derive(Args, Clone, Debug)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    /// Memory of each memory component.
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = parse_memory, conflicts_with = "on")]
    pub(crate) memory: u64,
    /// How many memory components.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64), conflicts_with = "on")]
    pub(crate) memory_components: u16,
    /// Which memory component gets a program's next GiB of address space.
    #[arg(long, value_enum, default_value_t = Placement::RoundRobin, conflicts_with = "on")]
    pub(crate) placement: Placement,
    /// What carries messages and pages between components.
    #[arg(long, value_enum, default_value_t = Fabric::Auto, conflicts_with = "on")]
    pub(crate) fabric: Fabric,
    /// The directory that the program sees as `/`. The current directory is
    /// kept where it lies inside, else the program starts in `/`.
    #[arg(long, value_name = "DIR", default_value = "/", conflicts_with = "on")]
    pub(crate) root: PathBuf,
    /// A network to emulate: added latency per operation (one round trip) and
    /// bandwidth, e.g. latency=3us,bandwidth=40Gbit.
    #[arg(long, value_name = "SPEC", conflicts_with = "on")]
    pub(crate) emulate: Option<EmulationSpec>,
    /// File that gets the counters of the program and the components, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) stats: Option<PathBuf>,
    /// Says on standard error where the time went.
    #[arg(long)]
    pub(crate) report: bool,
    /// File that gets a record of every miss and every eviction; `testbed
    /// trace` reads it.
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    /// Leaves the program's code as it is. Otherwise system calls that it makes
    /// often and that can be answered at once (getpid, getppid, gettid, lseek,
    /// pread of cached data) are changed where they lie into jumps.
    #[arg(long)]
    pub(crate) no_rewrite: bool,
    /// Run on this testbed, which `testbed up` brought up, instead of a new one.
    #[arg(long, value_name = "NAME")]
    pub(crate) on: Option<String>,
    /// What the components log to standard error: error, warn, info, debug, or
    /// directives as in the environment variable RUST_LOG [default: warn].
    #[arg(long, value_name = "LEVEL", conflicts_with = "on")]
    pub(crate) log: Option<String>,
    /// The program, a static x86-64 binary, and its arguments.
    #[arg(
        required = true,
        trailing_var_arg = true,
        value_name = "PROGRAM [ARGS]"
    )]
    pub(crate) program: Vec<OsString>,
}

/// The program's cache; what is not given is as the testbed's description has
/// it, or the default.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct CacheArgs {
    /// Memory at the processor component: a size such as 64M, or a share such
    /// as 25% of the program's peak footprint. For a share the program is run
    /// twice: first with a cache that holds everything, to learn its
    /// footprint, its output discarded and its input kept for the second run
    /// (a terminal's is not: the first run finds no input). Files that it
    /// writes are written twice [default: 256MiB].
    #[arg(long, value_name = "SIZE|PERCENT", value_parser = parse_cache)]
    pub(crate) cache: Option<CacheSize>,
    /// Bytes in a cache line: a power of two, 4KiB to 2MiB [default: 4KiB].
    #[arg(long, value_name = "SIZE", value_parser = parse_line)]
    pub(crate) line: Option<u64>,
    /// Lines in a set, 8 or more [default: about 512].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(8..=1 << 20))]
    pub(crate) ways: Option<u32>,
    /// Which line goes when a set is full [default: adaptive].
    #[arg(long, value_enum)]
    pub(crate) policy: Option<Replacement>,
    /// Most lines fetched ahead by one miss; 0 turns prefetch off
    /// [default: 16].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1024))]
    pub(crate) prefetch: Option<u32>,
    /// Whether a miss follows the program's code a little way, to fetch what it
    /// will miss next; never without prefetch [default: on].
    #[arg(long, value_name = "on|off", value_parser = parse_switch)]
    pub(crate) run_ahead: Option<bool>,
}

/// See [`Policy`].
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Replacement {
    /// The oldest.
    Fifo,
    /// Any.
    Random,
    /// The oldest, but not one that was missed again soon after it had gone.
    Reuse,
    /// The oldest, but a young one where the oldest are always needed again.
    Adaptive,
}

impl From<Replacement> for Policy {
    fn from(policy: Replacement) -> Policy {
        match policy {
            Replacement::Fifo => Policy::Fifo,
            Replacement::Random => Policy::Random,
            Replacement::Reuse => Policy::Reuse,
            Replacement::Adaptive => Policy::Adaptive,
        }
    }
}

/// Placement policies of gmm.
#[derive(
    ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Placement {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// The one with most room.
    MostFree,
    /// The one that serves least.
    LeastLoaded,
}

impl Placement {
    /// As gmm's command line has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Placement::RoundRobin => "round-robin",
            Placement::MostFree => "most-free",
            Placement::LeastLoaded => "least-loaded",
        }
    }
}

/// See [`Command::Top`].
#[derive(Args, Debug)]
pub(crate) struct TopArgs {
    /// Which; may be left out when one is up.
    pub(crate) name: Option<String>,
    /// Between two looks, and what rates are over: 500ms, 1s.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_interval)]
    pub(crate) interval: Duration,
    /// One report after one interval, as where standard output is no terminal.
    #[arg(long)]
    pub(crate) once: bool,
    /// As JSON, a line for each interval.
    #[arg(long)]
    pub(crate) json: bool,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    match number.parse::<f64>().map(|n| n * unit) {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!(
            "{text} is no interval from 100ms to 3600s: give one such as 500ms or 2s"
        )),
    }
}

/// See [`Command::Up`].
#[derive(Args, Debug)]
pub(crate) struct UpArgs {
    /// The description (TOML; see --example).
    #[arg(required_unless_present = "example")]
    pub(crate) file: Option<PathBuf>,
    /// A name other than the description's.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Prints a description with comments, to begin with: of one machine, or
    /// of several (`hosts`).
    #[arg(long, value_enum, value_name = "WHAT", num_args = 0..=1, default_missing_value = "one")]
    pub(crate) example: Option<Example>,
}

/// See [`UpArgs::example`].
#[derive(ValueEnum, Clone, Copy, Debug)]
pub(crate) enum Example {
    /// One machine.
    One,
    /// Several, reached by ssh.
    Hosts,
}

/// See [`Command::Demo`].
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// How much text.
    #[arg(long, value_name = "SIZE", default_value = "100M", value_parser = member::parse_size)]
    pub(crate) size: u64,
    /// The cache, as for `testbed run`.
    #[arg(long, value_name = "SIZE|PERCENT", default_value = "25%", value_parser = parse_cache)]
    pub(crate) cache: CacheSize,
    /// What carries messages and pages between components.
    #[arg(long, value_enum, default_value_t = Fabric::Auto)]
    pub(crate) fabric: Fabric,
    /// Threads of the word count.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) threads: u16,
}

/// Memory of a component: at least one extent.
pub(crate) fn parse_memory(text: &str) -> Result<u64, String> {
    let size = member::parse_size(text).map_err(|e| e.to_string())?;
    if size < proto::EXTENT_SIZE {
        return Err(format!(
            "{text} is less than a memory component can use: give 2MiB or more"
        ));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn refused(arguments: &[&str]) -> String {
        let all = [&["testbed", "run"], arguments, &["--", "true"]].concat();
        Cli::try_parse_from(all).expect_err("accepted").to_string()
    }

    #[test]
    fn is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn bad_values_are_refused_with_option_and_cure() {
        for (arguments, words) in [
            (&["--cache", "0"][..], &["--cache", "64M"][..]),
            (&["--cache", "101%"], &["--cache", "at most 100"]),
            (&["--cache", "0%"], &["--cache", "25%"]),
            (&["--cache", "lots"], &["--cache", "64M"]),
            (&["--line", "5000"], &["--line", "power of two"]),
            (&["--line", "4M"], &["--line", "2 MiB"]),
            (&["--ways", "2"], &["--ways", "8"]),
            (&["--memory", "1M"], &["--memory", "2MiB"]),
            (
                &["--memory-components", "0"],
                &["--memory-components", "1..=64"],
            ),
            (
                &["--policy", "lru"],
                &["--policy", "fifo", "random", "reuse", "adaptive"],
            ),
            (&["--fabric", "rdma"], &["--fabric", "auto", "shm", "tcp"]),
            (&["--on", "x", "--root", "/tmp"], &["--root", "--on"]),
        ] {
            let said = refused(arguments);
            for word in words {
                assert!(said.contains(word), "{arguments:?} lacks {word:?}: {said}");
            }
        }
    }

    #[test]
    fn intervals_have_units_and_bounds() {
        let ms = |text| parse_interval(text).map(|d| d.as_millis());
        assert_eq!(
            (ms("1s"), ms("250ms"), ms("0.5")),
            (Ok(1000), Ok(250), Ok(500))
        );
        for text in ["0", "-1s", "1m", "99ms", "2h", "NaN", "inf", "s", ""] {
            assert!(
                parse_interval(text).is_err_and(|why| why.contains("500ms")),
                "{text}"
            );
        }
    }

    #[test]
    fn the_programs_own_options_are_its_own() {
        let cli = Cli::parse_from(["testbed", "run", "--report", "ls", "--cache", "-l"]);
        let Command::Run(run) = cli.command else {
            panic!("not run")
        };
        assert_eq!(run.program, ["ls", "--cache", "-l"]);
        assert!(run.report);
    }
}
