//! Command line.

use clap::Parser;
use std::path::PathBuf;

/// A storage component: serves the files and directories under --root to the
/// programs of a testbed. It keeps nothing that a restart loses, and what
/// fsync(2) acknowledged survives any crash. It runs until SIGTERM or SIGINT.
///
/// Example:
///   scomponent --key t.key --gmm shm:/run/t/gmm.sock
///     --listen shm:/run/t/s0.sock --name s0 --root /srv/files
#[derive(Parser, Clone, Debug)]
#[command(version, about, verbatim_doc_comment)]
pub struct Cli {
    /// Where to listen: shm:PATH (a Unix socket, this host only),
    /// tcp:HOST:PORT or verbs:HOST:PORT (port 0: any); may be repeated, best first.
    #[arg(long, required = true, value_name = "ADDR")]
    pub listen: Vec<String>,
    /// Where gmm listens; may be repeated, best first.
    #[arg(long, required = true, value_name = "ADDR")]
    pub gmm: Vec<String>,
    /// The testbed's cluster key: a file of mode 0600, the same for all
    /// components.
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// This component's name, unique in the testbed.
    #[arg(long, default_value = "s0")]
    pub name: String,
    /// The directory that programs see as `/`. They can't leave it, whatever
    /// links lie in it.
    #[arg(long, default_value = "/", value_name = "DIR")]
    pub root: PathBuf,
    /// Threads for requests that wait for a disk.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,
    /// Descriptor that gets one line of JSON, {"node":N,"addrs":[...]}, when
    /// the component is registered with gmm and serves.
    #[arg(long, value_name = "N")]
    pub ready_fd: Option<i32>,
    /// File that gets the component's counters as JSON when it ends.
    #[arg(long, value_name = "FILE")]
    pub stats: Option<PathBuf>,
    /// Shows metrics for Prometheus at http://ADDR:PORT/metrics (port 0: any,
    /// told in the log).
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics: Option<std::net::SocketAddr>,
    /// What to log to standard error: error, warn, info, debug, or directives
    /// as in the environment variable RUST_LOG.
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
}
