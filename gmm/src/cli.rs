//! Command line.

use crate::core::PathRule;
use crate::core::policy::Policy;
use clap::Parser;
use std::path::PathBuf;

/// The global managers of a testbed: who is in it, which component holds what,
/// what happens when one dies. Programs that run do without it; new ones can't
/// be started while it is away. It runs until SIGTERM or SIGINT.
///
/// Example:
///   gmm --key t.key --listen shm:/run/t/gmm.sock --state /run/t/gmm.redb
#[derive(Parser, Clone, Debug)]
#[command(version, about, verbatim_doc_comment)]
pub struct Cli {
    /// Where to listen: shm:PATH (a Unix socket, this host only),
    /// tcp:HOST:PORT or verbs:HOST:PORT (port 0: any); may be repeated, best first.
    #[arg(long, required = true, value_name = "ADDR")]
    pub listen: Vec<String>,
    /// The testbed's cluster key: a file of mode 0600, the same for all
    /// components.
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// File that keeps the state over restarts; made if it is not there.
    /// Without it a restart forgets components and processes.
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// How components are chosen: round-robin, most-free or least-loaded.
    #[arg(long, default_value = "round-robin")]
    pub policy: Policy,
    /// A component that is silent for longer is given up for dead,
    /// milliseconds.
    #[arg(long, default_value_t = 2000, value_name = "MS",
          value_parser = clap::value_parser!(u64).range(50..=3_600_000))]
    pub lease: u64,
    /// The storage component NAME serves the paths below PREFIX; may be
    /// repeated, the longest prefix counts. Without a rule the first storage
    /// component that lives serves everything.
    #[arg(long, value_name = "PREFIX=NAME")]
    pub path: Vec<PathRule>,
    /// Descriptor that gets one line of JSON, {"node":0,"addrs":[...]}, when
    /// gmm serves.
    #[arg(long, value_name = "N")]
    pub ready_fd: Option<i32>,
    /// Shows metrics for Prometheus at http://ADDR:PORT/metrics (port 0: any,
    /// told in the log).
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics: Option<std::net::SocketAddr>,
    /// What to log to standard error: error, warn, info, debug, or directives
    /// as in the environment variable RUST_LOG.
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
}
