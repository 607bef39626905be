//! Command line.

use clap::Parser;
use std::path::PathBuf;

/// A memory component: holds the memory of programs that run on processor
/// components, and caches files for them. It runs until SIGTERM or SIGINT.
///
/// Example:
///   mcomponent --key t.key --gmm shm:/run/t/gmm.sock
///     --listen shm:/run/t/m0.sock --name m0 --memory 4G
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
    #[arg(long, default_value = "m0")]
    pub name: String,
    /// Memory to offer, e.g. 512M or 4G: programs' memory and cached files
    /// together never take more.
    #[arg(long, default_value = "4G", value_name = "SIZE", value_parser = size)]
    pub memory: u64,
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

fn size(text: &str) -> Result<u64, String> {
    let bytes = member::parse_size(text).map_err(|e| e.to_string())?;
    if bytes < 16 << 20 {
        return Err(format!("{text} is too little: give 16M or more"));
    }
    Ok(bytes)
}
